"""Draw faces with any of the seven expressions: frames where there is no camera, and a small data set.

    python drawn_faces.py                       # a contact sheet: output/drawn_faces.png
    python drawn_faces.py --output sheet.png

A drawn face is made with NumPy and OpenCV and is not a photograph. Drawn faces show that the programs work. They are no
evidence of how accurately the programs read people. The Haar cascade finds the drawn face, and networks that are
trained on photographs recognise the expressions of the default identity; `SHAPES` was tuned for both.
"""

import os
import sys

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command_line import Parser, UserError, exit_status, replacing  # first: it makes Ctrl-C quiet

# isort: split
import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

# ----------------------------------------------------------------------------------------------------------
# Settings.  Edit here, or pass the flag of the same name (see --help).

output = Path(__file__).resolve().parent / "output" / "drawn_faces.png"  # the contact sheet
# ----------------------------------------------------------------------------------------------------------

# Face units: the origin is the bridge of the nose, x to the right, y downwards; the head is 2.6 wide.
BOX_SIDE = 3.18  # side of the Haar cascade's box around a neutral face
BOX_DOWN = 0.08  # centre of the box, below the bridge of the nose
CANVAS_LEFT, CANVAS_TOP, CANVAS_BOTTOM = 3.0, 2.6, 3.2  # how far a portrait reaches from the nose's bridge
MAX_UNIT = 80  # pixels per face unit of the largest portrait; larger faces are enlarged from this portrait
NOISE_LEVEL = 8  # grey levels that are added with the camera's noise, and then subtracted
IMAGES_PER_EMOTION = {"Training": 100, "PublicTest": 20, "PrivateTest": 20}  # of the data set

Colour = tuple[float, float, float]  # BGR, 0 to 255
DARK, TEETH, TOOTH_GAP, TONGUE = (22, 20, 40), (226, 236, 242), (120, 130, 140), (84, 80, 150)
EYE_WHITE, PUPIL, GLINT, LASHES = (214, 218, 224), (10, 10, 12), (250, 250, 250), (24, 26, 36)


class Shape(NamedTuple):
    """What the muscles do to a face. The defaults are the neutral face; lengths are in face units."""

    brow_in: float = 0.0  # inner end of the brow, + up
    brow_mid: float = 0.0
    brow_out: float = 0.0
    brow_pinch: float = 0.0  # inner ends drawn together
    eye_up: float = 0.13  # upper lid above the eye line
    eye_low: float = 0.09  # lower lid below the eye line
    gaze: float = 0.0  # + looks down
    mouth_w: float = 0.50  # half the width
    mouth_y: float = 0.0  # + down
    corner: float = 0.0  # corners of the mouth, + up
    open_up: float = 0.0  # upper lip away from the mouth line
    open_low: float = 0.0  # lower lip away from the mouth line
    square: float = 2.0  # exponent of the lip curve: 2 a parabola, 5 a box
    lip: float = 1.0  # thickness, relative
    teeth_up: float = 0.0  # share of the opening
    teeth_low: float = 0.0
    jaw: float = 0.0  # chin drops
    # From here on, strengths from 0 to 1.
    fold: float = 0.15  # from the nose to the corners of the mouth
    frown: float = 0.0  # vertical lines between the brows
    forehead: float = 0.0  # horizontal lines
    nose_wrinkle: float = 0.0
    nose_up: float = 0.0
    cheek: float = 0.0
    bags: float = 0.25
    chin: float = 0.0
    socket: float = 0.35


# fmt: off
SHAPES = {
    "angry": Shape(
        brow_in=-0.24, brow_mid=-0.16, brow_out=0.12, brow_pinch=0.11, eye_up=0.17, gaze=0.05,
        mouth_w=0.41, corner=-0.18, open_up=0.07, square=3.71, lip=1.05, teeth_up=0.25,
        teeth_low=0.37, fold=0.46, frown=0.17, forehead=0.02, nose_wrinkle=0.34, bags=0.75,
        chin=0.1, socket=0.74),
    "disgust": Shape(
        brow_in=-0.2, brow_mid=-0.15, brow_out=-0.11, brow_pinch=0.13, eye_up=0.03, eye_low=0.05,
        mouth_w=0.39, mouth_y=0.06, corner=-0.24, open_up=0.18, open_low=0.14, square=6.29, lip=1.07,
        teeth_up=0.5, teeth_low=0.25, jaw=0.15, fold=1.0, frown=0.63, nose_wrinkle=0.67, nose_up=0.01,
        cheek=1.0, bags=0.13, socket=0.01),
    "fear": Shape(
        brow_in=0.33, brow_mid=0.09, brow_out=-0.01, eye_up=0.26, eye_low=0.17, gaze=0.02, mouth_w=0.52,
        mouth_y=0.08, corner=-0.06, open_up=0.1, open_low=0.15, square=3.25, lip=1.1, teeth_up=0.76,
        teeth_low=0.33, jaw=0.06, fold=0.12, frown=0.92, forehead=0.19, nose_wrinkle=0.15, cheek=0.03,
        bags=0.0, chin=0.01, socket=0.97),
    "happy": Shape(
        brow_mid=0.03, eye_up=0.1, eye_low=0.05, mouth_w=0.72, mouth_y=-0.03, corner=0.22,
        open_up=0.02, open_low=0.24, lip=0.8, teeth_up=0.75, fold=0.8, cheek=0.9, bags=0.6),
    "sad": Shape(
        brow_in=0.13, brow_mid=-0.06, brow_pinch=0.07, eye_up=0.03, eye_low=0.06, mouth_w=0.53,
        mouth_y=-0.07, corner=-0.13, square=1.8, lip=0.89, jaw=0.03, fold=0.6, frown=0.28,
        forehead=0.09, cheek=0.12, bags=1.0, chin=0.48, socket=0.8),
    "surprise": Shape(
        brow_in=0.2, brow_mid=0.28, brow_out=0.2, eye_up=0.23, eye_low=0.14, mouth_w=0.33,
        mouth_y=0.08, open_up=0.12, open_low=0.38, jaw=0.25, fold=0.1, forehead=0.7),
    "neutral": Shape(),
}
# fmt: on
EXPRESSIONS = tuple(SHAPES)  # FER2013's emotions in the order of its labels, as in `load_and_process.EMOTIONS`

SKIN_TONES_AT = (0.0, 0.2, 0.45, 0.7, 1.0)  # for each tone, the share of the random people with darker skin
SKIN_TONES = ((46, 60, 90), (62, 88, 132), (98, 134, 184), (150, 182, 224), (188, 208, 236))
HAIR_COLOURS = ((24, 24, 28), (38, 46, 62), (52, 78, 112), (84, 138, 180), (44, 72, 140), (150, 152, 156))
IRIS_COLOURS = ((30, 44, 66), (52, 66, 84), (122, 104, 78), (84, 112, 96), (150, 124, 96))


@dataclass(frozen=True)
class Identity:
    """The person who is drawn. Colours are BGR from 0 to 255; proportions are relative to the default face."""

    skin: Colour = (150, 182, 224)
    hair: Colour = (38, 46, 62)
    iris: Colour = (52, 66, 84)
    shirt: Colour = (96, 80, 70)
    face_width: float = 1.0
    face_length: float = 1.0
    chin_taper: float = 0.10  # 0 a square chin, 0.2 a pointed one
    hair_volume: float = 1.0  # 0 is bald
    hair_length: float = 0.0  # 1 reaches the shoulders
    beard: float = 0.0  # 0 to 1
    brow_thickness: float = 1.0
    eye_spacing: float = 1.0
    eye_size: float = 1.0
    nose_width: float = 1.0
    nose_length: float = 0.0  # face units added
    mouth_width: float = 1.0
    lip_fullness: float = 1.0
    light: tuple[float, float] = (0.0, 0.0)  # where the light comes from: -1 left to 1 right, -1 above to 1 below

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Identity":
        """Return a random person: any skin from very dark to very light, any hair, proportions and light.

        Args:
            rng: The source of the random choices; the same state gives the same person.

        Returns:
            A person.
        """
        tone = rng.uniform()
        skin = np.array([np.interp(tone, SKIN_TONES_AT, channel) for channel in np.transpose(SKIN_TONES)])
        is_dark = tone < 0.55  # then hair and eyes are dark: the first two colours of their tables
        bald, long_hair, bearded = rng.uniform(size=3) < (0.12, 0.35, 0.2)

        def around(middle: float, spread: float) -> float:
            return float(rng.uniform(middle - spread, middle + spread))

        return cls(
            skin=_colour(skin * rng.uniform(0.95, 1.05, 3)),
            hair=_colour(np.array(HAIR_COLOURS[rng.integers(2 if is_dark else len(HAIR_COLOURS))]) * around(1.0, 0.15)),
            iris=IRIS_COLOURS[rng.integers(2 if is_dark else len(IRIS_COLOURS))],
            shirt=_colour(rng.uniform(30, 210, 3)),
            face_width=around(1.0, 0.06),
            face_length=around(1.0, 0.05),
            chin_taper=around(0.10, 0.07),
            hair_volume=0.0 if bald else around(1.0, 0.2),
            hair_length=around(0.75, 0.25) if long_hair and not bald else 0.0,
            beard=around(0.5, 0.3) if bearded and not long_hair else 0.0,
            brow_thickness=around(1.05, 0.35),
            eye_spacing=around(1.0, 0.07),
            eye_size=around(1.0, 0.12),
            nose_width=around(1.05, 0.25),
            nose_length=around(0.0, 0.06),
            mouth_width=around(1.0, 0.12),
            lip_fullness=around(1.1, 0.35),
            light=(around(0.0, 0.8), around(-0.2, 0.4)),
        )


DEFAULT_IDENTITY = Identity()


def _colour(values: np.ndarray) -> Colour:
    """Return three numbers as a hashable BGR colour."""
    return tuple(float(v) for v in np.clip(values, 0, 255))


class _Palette:
    """The colours that follow from an identity's skin and hair."""

    def __init__(self, identity: Identity):
        skin, hair = np.float32(identity.skin), np.float32(identity.hair)
        self.skin = skin
        self.edge = skin * np.float32((0.653, 0.703, 0.786))
        self.shade = skin * np.float32((0.56, 0.615, 0.714))
        self.light = np.minimum(np.minimum(skin * 1.7, skin + np.float32((46, 36, 22))), 255)
        self.lip = skin * np.float32((0.693, 0.593, 0.8125))
        self.lip_light = skin * np.float32((1.0, 0.835, 0.955))
        # The cascade expects eyes and mouths that are no brighter than the cheeks: on dark skin, whites are shaded.
        whites = min(1.0, (float(skin.mean()) + 70) / 215)
        self.eye_white, self.teeth = np.float32(EYE_WHITE) * whites, np.float32(TEETH) * whites
        self.hair = hair
        self.strand = np.minimum(hair * np.float32((1.84, 1.83, 1.74)), hair + 46)
        # Brows show much of an expression: light brows, too, must be darker than the skin.
        self.brow = np.minimum(hair * np.float32((1.05, 1.09, 1.13)), skin * np.float32(0.38))


# ----------------------------------------------------------------------------------------------------------
# Canvas: soft shapes in face units


class _Canvas:
    """Four float32 planes (4, h, w): premultiplied BGR, and alpha, from 0 to 255.

    The person on the canvas is upright. So the mirror image of a shape is the flipped mask, which saves half the work.
    """

    def __init__(self, unit: int, identity: Identity):
        self.unit = unit
        self.scale = np.array((unit * identity.face_width, unit * identity.face_length))
        self.origin = np.array((CANVAS_LEFT, CANVAS_TOP)) * unit - 0.5
        height, width = int((CANVAS_TOP + CANVAS_BOTTOM) * unit), int(2 * CANVAS_LEFT * unit)
        self.planes = np.zeros((4, height, width), np.float32)

    def mask(self, points, blur, width, clip):
        """Return (y, x, float32 mask, 0 to 1) of an outline, or of a line of the given width; None if outside."""
        points = points * self.scale + self.origin
        sigma = max(blur * self.unit, 0.4)
        step = max(1, int(sigma / 2))  # wide blurs are made on a coarse grid
        pad = 3 * sigma + (width or 0) * self.unit + 2
        height_limit, width_limit = self.planes.shape[1:]
        (left, top), (right, bottom) = points.min(axis=0) - pad, points.max(axis=0) + pad
        x0, y0 = max(int(left), 0), max(int(top), 0)
        x1, y1 = min(int(right) + 1, width_limit), min(int(bottom) + 1, height_limit)
        if x1 <= x0 or y1 <= y0:
            return None
        sixteenths = np.rint((points - (x0, y0) + 0.5) * (16 / step) - 8).astype(np.int32)
        mask = np.zeros((-(-(y1 - y0) // step), -(-(x1 - x0) // step)), np.uint8)
        if width is None:
            cv2.fillPoly(mask, [sixteenths], 255, cv2.LINE_AA, 4)
        else:
            thickness = width * self.unit / step
            grey = 255 * min(1.0, thickness)  # OpenCV's thinnest line is one pixel: a thinner line is drawn paler
            cv2.polylines(mask, [sixteenths], False, grey, max(1, round(thickness)), cv2.LINE_AA, 4)
        mask = cv2.GaussianBlur(mask * np.float32(1 / 255), (0, 0), sigma / step)  # faster than in uint8
        if step > 1:
            mask = cv2.resize(mask, None, fx=step, fy=step)[: y1 - y0, : x1 - x0]
        return (y0, x0, mask) if clip is None else _overlap((y0, x0, mask), clip)

    def fill(self, points, colour, alpha=1.0, blur=0.01, width=None, clip=None):
        """Paint one shape and return its mask."""
        if alpha <= 0.01:
            return None
        mask = self.mask(points, blur, width, clip)
        self._paint(mask, colour, alpha)
        return mask

    def both(self, points, colour, alpha=1.0, blur=0.01, width=None, clip=None):
        """Paint a shape on the right and its mirror image on the left; return the mask on the right."""
        mask = self.fill(points, colour, alpha, blur, width, clip)
        if mask is not None:
            self._paint(self.mirrored(mask), colour, alpha)
        return mask

    def mirrored(self, mask):
        y, x, m = mask
        return y, self.planes.shape[2] - x - m.shape[1], m[:, ::-1]

    def _paint(self, mask, colour, alpha):
        if mask is None:
            return
        y, x, m = mask
        m = m * np.float32(alpha)
        roi = self.planes[:, y : y + m.shape[0], x : x + m.shape[1]]
        roi += m * (np.array((*colour, 255), np.float32)[:, None, None] - roi)

    def shine(self, light):
        """Brighten the side that the light comes from and darken the other."""
        height, width = self.planes.shape[1:]
        x = (np.arange(width, dtype=np.float32) - self.origin[0]) / self.scale[0]
        y = (np.arange(height, dtype=np.float32) - self.origin[1])[:, None] / self.scale[1]
        self.planes[:3] *= (1 + 0.28 * (light[0] * np.tanh(x) + light[1] * np.tanh(y))).astype(np.float32)

    def image(self):
        """Return the picture: uint8 (h, w, 4), premultiplied BGR and alpha."""
        np.minimum(self.planes[:3], self.planes[3], out=self.planes[:3])
        return cv2.merge([cv2.convertScaleAbs(plane) for plane in self.planes])


def _overlap(first, second):
    """Return the product of two masks where they overlap, or None."""
    (ay, ax, a), (by, bx, b) = first, second
    top, left = max(ay, by), max(ax, bx)
    bottom, right = min(ay + a.shape[0], by + b.shape[0]), min(ax + a.shape[1], bx + b.shape[1])
    if bottom <= top or right <= left:
        return None
    a = a[top - ay : bottom - ay, left - ax : right - ax]
    return top, left, a * b[top - by : bottom - by, left - bx : right - bx]


_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def _oval(x, y, radius_x, radius_y):
    return _CIRCLE * (radius_x, radius_y) + (x, y)


@lru_cache
def _interpolation(count):
    """Return the weights (24, count) of the polynomial through `count` evenly spaced points."""
    at = np.vander(np.linspace(0, count - 1, 24), count)
    return at @ np.linalg.inv(np.vander(np.arange(count), count))


def _curve(*points):
    """Return a smooth line (24, 2) through three or four points."""
    return _interpolation(len(points)) @ np.array(points)


def _band(upper, lower):
    """Return the outline between two lines that run in the same direction."""
    return np.concatenate([upper, lower[::-1]])


# ----------------------------------------------------------------------------------------------------------
# Parts of a person, from back to front


def _draw_bust(canvas, identity, colours):
    volume = 0.2 * (identity.hair_volume - 1)
    if identity.hair_volume:
        canvas.fill(_oval(0, -0.42, 1.50 + volume, 1.66 + volume), colours.hair, blur=0.05)
    if identity.hair_length:
        fall = 0.4 + 2.0 * identity.hair_length
        side = _curve((1.42 + volume, -0.6), (1.55 + volume, 0.3), (1.6 + volume, fall - 0.5), (1.3 + volume, fall))
        canvas.fill(_band(side, side * (-1, 1)), colours.hair, blur=0.08)
    shoulder = np.array([(0.7, 2.15), (2.2, 2.5), (2.6, 2.75), (2.75, 3.9)])
    canvas.fill(_band(shoulder, shoulder * (-1, 1)), identity.shirt, blur=0.06)
    neck = [(-0.72, 1.0), (0.72, 1.0), (0.8, 2.3), (0, 2.6), (-0.8, 2.3)]
    canvas.fill(np.array(neck), colours.shade, blur=0.05)
    canvas.both(_oval(1.33, 0.10, 0.13, 0.30), colours.edge, blur=0.03)
    canvas.both(_oval(1.36, 0.10, 0.05, 0.18), colours.shade, 0.6, blur=0.03)


def _draw_head(canvas, shape, identity, colours):
    jaw, cheek = shape.jaw, shape.cheek
    across, down = _CIRCLE.T
    low = np.clip(down, 0, 1)
    width = 1.30 * across * (1 - identity.chin_taper * low**2) * (1 + 0.03 * cheek * low)
    head = np.stack([width, -0.10 + np.where(down > 0, 1.78 + jaw, 1.62) * down], axis=1)
    whole = canvas.fill(head, colours.edge, blur=0.025)
    canvas.fill(head * (0.86, 0.90), colours.skin, blur=0.16, clip=whole)
    canvas.fill(_oval(0, -0.95, 0.62, 0.30), colours.light, 0.55, blur=0.16)
    canvas.both(_oval(0.66, 0.38 - 0.08 * cheek, 0.26, 0.2), colours.light, 0.45 + 0.3 * cheek, blur=0.12)
    canvas.fill(_oval(0, 1.46 + jaw, 0.22, 0.10), colours.light, 0.45, blur=0.07)
    hollow = np.array([(1.2, 0.2), (0.95, 0.75), (0.72, 1.25 + jaw * 0.6), (1.1, 1.1)])
    canvas.both(hollow, colours.shade, 0.25, blur=0.12, clip=whole)
    if identity.beard:
        cheek_line = np.array([(1.1, 0.45), (0.75, 0.75), (0.4, 0.66), (0.0, 0.62)])
        cheek_line = np.concatenate([cheek_line, cheek_line[-2::-1] * (-1, 1)])
        beard = _band(head[down > 0.15], cheek_line)
        canvas.fill(beard, colours.brow, 0.75 * identity.beard, blur=0.08, clip=whole)


def _draw_hair(canvas, identity, colours):
    if not identity.hair_volume:
        return
    volume = 0.2 * (identity.hair_volume - 1)
    a = np.linspace(0, np.pi, 40)
    inner = np.stack([1.27 * np.cos(a), -0.25 - 1.08 * np.sin(a) ** 0.8 - 0.06 * np.cos(3 * a + 0.6)], axis=1)
    outer = np.stack([(1.47 + volume) * np.cos(a), -0.35 - (1.72 + volume) * np.sin(a) ** 0.9], axis=1)
    canvas.fill(_band(inner, outer), colours.hair, blur=0.04)
    for a in 0.45 + 0.28 * np.arange(9):
        root = (1.28 * np.cos(a), -0.35 - 1.2 * np.sin(a))
        tip = (1.36 * np.cos(a + 0.1), -0.35 - 1.55 * np.sin(a + 0.1))
        canvas.fill(np.array([root, tip]), colours.strand, 0.35, blur=0.03, width=0.04)


def _draw_nose(canvas, shape, identity, colours):
    wide, up = identity.nose_width, shape.nose_up - identity.nose_length
    canvas.both(_oval(0.20, -0.22, 0.09, 0.20), colours.shade, 0.5, blur=0.06)
    side = _curve((0.17, -0.05), (0.15 * wide, 0.2), (0.2 * wide, 0.42 - up))
    canvas.both(side, colours.shade, 0.45, blur=0.05, width=0.08)
    canvas.fill(np.array([(0, -0.3), (0, 0.38 - up)]), colours.light, 0.75, blur=0.05, width=0.11)
    canvas.fill(_oval(0, 0.42 - up, 0.12 * wide, 0.09), colours.light, 0.5, blur=0.04)
    canvas.fill(_oval(0, 0.60 - up, 0.30 * wide, 0.06), colours.shade, 0.7, blur=0.05)
    wing = _curve((0.25, 0.36 - up), (0.32, 0.46 - up), (0.26, 0.56 - up)) * (wide, 1)
    canvas.both(wing, colours.shade, 0.8, blur=0.02, width=0.045)
    canvas.both(_oval(0.135 * wide, 0.555 - up, 0.075 * wide, 0.032), DARK, 0.8, blur=0.018)


def _draw_wrinkles(canvas, shape, identity, colours):
    eye_x = 0.53 * identity.eye_spacing
    up = shape.nose_up - identity.nose_length
    mouth_end = (shape.mouth_w * identity.mouth_width + 0.16, 0.98 + shape.mouth_y)
    fold = _curve((0.31 * identity.nose_width, 0.42 - up), (0.52, 0.62), mouth_end)
    canvas.both(fold, colours.shade, shape.fold, blur=0.03, width=0.05)
    frown = _curve((0.10, -0.62), (0.085, -0.48), (0.10, -0.32))
    canvas.both(frown, colours.shade, shape.frown, blur=0.02, width=0.04)
    for y in (-0.78, -0.92, -1.06):
        line = _curve((-0.55, y + 0.03), (-0.2, y - 0.03), (0.2, y - 0.03), (0.55, y + 0.03))
        canvas.fill(line, colours.shade, shape.forehead * 0.7, blur=0.02, width=0.03)
    for y in (-0.22, -0.12, -0.02):
        line = _curve((0.02, y - 0.02), (0.10, y), (0.19, y + 0.05))
        canvas.both(line, colours.shade, shape.nose_wrinkle, blur=0.015, width=0.03)
    bag = _curve((eye_x - 0.25, -0.04), (eye_x - 0.03, 0.09), (eye_x + 0.27, 0.0))
    canvas.both(bag, colours.shade, shape.bags * 0.8, blur=0.025, width=0.045)
    canvas.fill(_oval(0, 1.30 + shape.jaw, 0.2, 0.07), colours.shade, shape.chin * 0.6, blur=0.05)


_ALONG = np.linspace(0, 1, 24)
_LID = np.sin(np.pi * _ALONG) ** 0.75


def _draw_eyes(canvas, shape, identity, colours):
    size, eye_x, eye_y = identity.eye_size, 0.53 * identity.eye_spacing, -0.20
    x, y = eye_x + (_ALONG - 0.5) * 0.50 * size, eye_y + 0.03 * (0.5 - _ALONG)
    upper = np.stack([x, y - shape.eye_up * size * _LID], axis=1)
    lower = np.stack([x, y + shape.eye_low * size * _LID], axis=1)
    hole = canvas.both(_band(upper, lower), colours.eye_white)
    look = eye_y + shape.gaze
    canvas.both(_oval(eye_x, look, 0.125 * size, 0.125 * size), identity.iris, blur=0.012, clip=hole)
    canvas.both(_oval(eye_x, look, 0.06 * size, 0.06 * size), PUPIL, blur=0.008, clip=hole)
    # The one thing that is not mirrored: the light glints on the same side of both eyes.
    for side, opening in ((1, hole), (-1, canvas.mirrored(hole))):
        canvas.fill(_oval(side * eye_x - 0.04, look - 0.045, 0.026, 0.026), GLINT, 0.9, blur=0.006, clip=opening)
    canvas.both(upper + (0, 0.015), DARK, 0.45, blur=0.02, width=0.06, clip=hole)
    canvas.both(upper, LASHES, 0.95, width=0.045)
    canvas.both(lower, colours.shade, 0.8, width=0.022)
    canvas.both(upper - (0, 0.075), colours.shade, 0.7, blur=0.015, width=0.03)


def _draw_sockets(canvas, shape, identity, colours):
    socket = _oval(0.53 * identity.eye_spacing - 0.02, -0.26, 0.34, 0.20)
    canvas.both(socket, colours.shade, shape.socket + 0.1, blur=0.09)


def _draw_brows(canvas, shape, identity, colours):
    shift = 0.53 * (identity.eye_spacing - 1)
    inner, middle = (0.20 - shape.brow_pinch, -0.50 - shape.brow_in), (0.50, -0.60 - shape.brow_mid)
    line = _curve(inner, middle, (0.88, -0.48 - shape.brow_out)) + (shift, 0)
    half = np.interp(_ALONG, (0, 0.35, 1), (0.055, 0.06, 0.012))[:, None] * (0, identity.brow_thickness)
    canvas.both(_band(line - half, line + half), colours.brow, 0.9, blur=0.02)


_ACROSS = np.linspace(-1, 1, 41)
_FULLNESS = 1 - np.abs(_ACROSS) ** 2.4
_CUPID = 1 - 0.25 * np.exp(-((_ACROSS / 0.12) ** 2)) + 0.15 * np.exp(-(((np.abs(_ACROSS) - 0.25) / 0.15) ** 2))


def _draw_mouth(canvas, shape, identity, colours):
    middle = 0.95 + shape.mouth_y + shape.jaw * 0.35
    corner = middle - shape.corner
    half_width, lip = shape.mouth_w * identity.mouth_width, shape.lip * identity.lip_fullness
    x, arc = _ACROSS * half_width, np.abs(_ACROSS) ** shape.square
    upper = middle - shape.open_up + (corner - middle + shape.open_up) * arc
    lower = middle + shape.open_low + (corner - middle - shape.open_low) * arc
    upper_edge, lower_edge = upper - 0.10 * lip * _FULLNESS * _CUPID, lower + 0.13 * lip * _FULLNESS

    def line(y, stretch=1.0):
        return np.stack([x * stretch, y], axis=1)

    canvas.fill(line(lower_edge + 0.07, 0.7), colours.shade, 0.55, blur=0.04, width=0.06)
    canvas.fill(_band(line(upper_edge), line(lower_edge)), colours.lip, 0.9, blur=0.015)
    canvas.fill(line(lower + 0.06 * lip, 0.5), colours.lip_light, 0.6, blur=0.02, width=0.03)
    gap = lower - upper
    is_open = gap.max() > 0.02
    if is_open:
        opening = canvas.fill(_band(line(upper), line(lower)), DARK)
        tongue = _oval(0, middle + shape.open_low + 0.02, half_width * 0.55, shape.open_low * 0.5 + 0.01)
        canvas.fill(tongue, TONGUE, 0.6, blur=0.03, clip=opening)
        for share, edge, towards in ((shape.teeth_up, upper, 1), (shape.teeth_low, lower, -1)):
            if share > 0.02:
                row = _band(line(edge), line(edge + towards * share * gap))
                teeth = canvas.fill(row, colours.teeth, 0.95, clip=opening)
                _draw_tooth_gaps(canvas, middle, teeth)
    canvas.fill(line(upper if is_open else (upper + lower) / 2), DARK, 0.8, blur=0.012, width=0.03)
    canvas.both(_oval(half_width + 0.02, corner, 0.05, 0.04), colours.shade, 0.6, blur=0.025)


def _draw_tooth_gaps(canvas, middle, teeth):
    for x in 0.0525 + 0.105 * np.arange(5):
        gap = np.array([(x, middle - 0.5), (x, middle + 0.6)])
        canvas.both(gap, TOOTH_GAP, 0.35, blur=0.006, width=0.01, clip=teeth)


@lru_cache(maxsize=8)
def _bust(identity, unit):
    """Return the planes of the parts that no expression moves: hair behind, shoulders, neck and ears."""
    canvas = _Canvas(unit, identity)
    _draw_bust(canvas, identity, _Palette(identity))
    return canvas.planes


@lru_cache(maxsize=16)  # while an expression is held, every frame shows the same portrait
def _portrait(shape, identity, unit):
    """Return an upright person: uint8 (h, w, 4), premultiplied BGR and alpha."""
    canvas, colours = _Canvas(unit, identity), _Palette(identity)
    canvas.planes = _bust(identity, unit).copy()
    _draw_head(canvas, shape, identity, colours)
    _draw_hair(canvas, identity, colours)
    for draw in (_draw_sockets, _draw_nose, _draw_wrinkles, _draw_eyes, _draw_brows, _draw_mouth):
        draw(canvas, shape, identity, colours)
    if any(identity.light):
        canvas.shine(identity.light)
    return canvas.image()


# ----------------------------------------------------------------------------------------------------------
# One person in a frame


def expression_shape(expression: str | Mapping[str, float]) -> Shape:
    """Return the shape of an expression or of a mixture of expressions.

    Args:
        expression: One of EXPRESSIONS, or weights such as {"happy": 0.4, "sad": 0.2}; neutral has the rest, here 0.4.

    Returns:
        The shape, all numbers mixed by weight.

    Raises:
        ValueError: A name is not one of EXPRESSIONS.
    """
    weights = expression if isinstance(expression, Mapping) else {expression: 1.0}
    unknown = [name for name in weights if name not in SHAPES]
    if unknown:
        raise ValueError(f"an expression must be one of {', '.join(EXPRESSIONS)}; got {unknown[0]!r}")
    rest = np.array(Shape())
    mixed = rest + sum(weight * (np.array(SHAPES[name]) - rest) for name, weight in weights.items())
    return Shape(*mixed.tolist())


def face_box(centre: tuple[float, float], size: float) -> tuple[int, int, int, int]:
    """Return the box of a face that `draw_face` draws at this centre and size.

    OpenCV's haarcascade_frontalface_default finds nearly the same box. On neutral faces, the mean overlap of the two
    boxes (intersection over union) is 0.97 for the default identity and 0.92 for random people. With other
    expressions, mainly angry and disgust, the cascade's box is 5 to 10 % smaller.

    Args:
        centre: The x and y of the box's centre in pixels.
        size: Side of the box in pixels.

    Returns:
        x, y, width, height in pixels.
    """
    side = round(size)
    return round(centre[0] - size / 2), round(centre[1] - size / 2), side, side


def draw_face(
    expression: str | Mapping[str, float],
    identity: Identity = DEFAULT_IDENTITY,
    frame: np.ndarray | None = None,
    centre: tuple[float, float] | None = None,
    size: float | None = None,
    tilt: float = 0.0,
) -> np.ndarray:
    """Draw a person with an expression on a copy of a frame; for a second person, draw on the result.

    Args:
        expression: One of EXPRESSIONS, or weights such as {"happy": 0.4, "neutral": 0.6}.
        identity: The person.
        frame: The picture to draw on, uint8 (h, w, 3), BGR; by default a plain 640x480 backdrop.
        centre: The x and y of the middle of the face's box in pixels; by default the middle of the frame.
        size: Side of the face's box in pixels (see `face_box`); by default 0.63 of the frame's height.
        tilt: Radians, clockwise.

    Returns:
        uint8 (h, w, 3), BGR.

    Raises:
        ValueError: An unknown expression, a frame of another kind, or a size that is not positive.
    """
    shape = expression_shape(expression)
    frame = backdrop((640, 480)) if frame is None else frame
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 (h, w, 3); got {frame.dtype} {frame.shape}")
    height, width = frame.shape[:2]
    centre = (width / 2, height / 2) if centre is None else centre
    size = 0.63 * height if size is None else size
    if not size > 0:
        raise ValueError(f"the size of a face must be more than 0 pixels; got {size}")
    frame = frame.copy()
    _paste(frame, shape, identity, centre, size / BOX_SIDE, tilt)
    return frame


def _paste(frame, shape, identity, centre, unit, tilt):
    """Turn, scale and blend a portrait into a frame, in place."""
    # In steps of 16, so that a face that slowly comes nearer is not drawn again for every frame.
    portrait_unit = min(16 * -(-unit // 16), MAX_UNIT)
    portrait = _portrait(shape, identity, int(portrait_unit))
    scale = unit / portrait_unit
    cos, sin = scale * np.cos(tilt), scale * np.sin(tilt)
    turn = np.array([(cos, -sin), (sin, cos)])
    anchor = np.array((CANVAS_LEFT, CANVAS_TOP + BOX_DOWN * identity.face_length)) * portrait_unit - 0.5
    offset = np.array(centre) - 0.5 - turn @ anchor

    height, width = portrait.shape[:2]
    floor = height + frame.shape[0] / scale  # below the frame, because the shirt continues
    corners = np.array([(0, 0), (width, 0), (0, floor), (width, floor)]) @ turn.T + offset
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    x1 = min(int(np.ceil(corners[:, 0].max())), frame.shape[1])
    if x1 <= x0 or y0 >= frame.shape[0]:
        return
    roi = frame[y0:, x0:x1]  # down to the frame's edge: the portrait's last row is repeated, and continues the shirt
    turned = cv2.warpAffine(
        portrait,
        np.column_stack([turn, offset - (x0, y0)]),
        (roi.shape[1], roi.shape[0]),
        borderMode=cv2.BORDER_REPLICATE,
    )
    uncovered = cv2.cvtColor(cv2.bitwise_not(turned[..., 3]), cv2.COLOR_GRAY2BGR)
    behind = cv2.multiply(roi, uncovered, scale=1 / 255)
    cv2.add(behind, cv2.cvtColor(turned, cv2.COLOR_BGRA2BGR), dst=roi)


@lru_cache(maxsize=4)
def _backdrop(width, height):
    x = np.arange(width, dtype=np.float32) / width - 0.4
    y = np.arange(height, dtype=np.float32)[:, None] / height - 0.4
    grey = 150 - 90 * (x**2 + y**2)
    return np.clip(grey[..., None] * np.float32((1.0, 0.98, 0.92)), 0, 255).astype(np.uint8)


def backdrop(size: tuple[int, int]) -> np.ndarray:
    """Return a grey wall.

    Args:
        size: Width, height in pixels.

    Returns:
        uint8 (height, width, 3), BGR.
    """
    return _backdrop(*size).copy()


# ----------------------------------------------------------------------------------------------------------
# A camera


class DrawnFaceCapture:
    """A camera of drawn people, who move slowly and change their expression; the same frames in every run.

    It has the methods of cv2.VideoCapture. `read` does not wait: the caller shows each frame at the right time.

    Args:
        fps: Frames per second of the time that passes in the picture.
        size: Width, height in pixels.
        hold: Seconds that an expression is held.
        blend: Seconds that it takes to change to the next.
        order: Expressions, shown one after the other, again and again.
        frames: How many frames there are; None for no end.
        identities: The people, from left to right; all show the same expression.

    Attributes:
        expected: The expression in the frame read last; None while it changes, and before the first frame.
        boxes: The x, y, width and height of the faces in the frame read last, one per identity.

    Raises:
        ValueError: An unknown expression, no expression, nobody, or a number out of range.
    """

    def __init__(
        self,
        fps: float = 25.0,
        size: tuple[int, int] = (640, 480),
        hold: float = 2.0,
        blend: float = 0.6,
        order: Sequence[str] = ("neutral", "happy", "surprise", "fear", "sad", "angry", "disgust"),
        frames: int | None = None,
        identities: Sequence[Identity] = (DEFAULT_IDENTITY,),
    ):
        if not (fps > 0 and min(size) > 0 and hold > 0 and blend >= 0):
            raise ValueError(
                "fps, size and hold must be more than 0, and blend at least 0;"
                f" got fps={fps}, size={size}, hold={hold}, blend={blend}"
            )
        if not order or not identities:
            raise ValueError(
                f"order and identities must not be empty; got {len(order)} expressions and {len(identities)} identities"
            )
        for expression in order:
            expression_shape(expression)
        self.fps, self.size, self.hold, self.blend = fps, tuple(size), hold, blend
        self.order, self.frames, self.identities = tuple(order), frames, tuple(identities)
        self.expected: str | None = None
        self.boxes: list[tuple[int, int, int, int]] = []
        self._position, self._open = 0, True
        # One sheet of noise, larger than the frame and shifted for every frame, is cheaper than new noise.
        self._rng = np.random.default_rng(0)
        width, height = self.size
        noise = self._rng.normal(NOISE_LEVEL, 2.0, (height + 64, width + 64, 1))
        self._noise = cv2.cvtColor(np.clip(noise, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)

    def read(self) -> tuple[bool, np.ndarray | None]:
        """Return the next frame.

        Returns:
            True and the frame, uint8 (height, width, 3), BGR; or False and None after the last frame.
        """
        if not self._open or self._position == self.frames:
            return False, None
        time = self._position / self.fps
        self._position += 1
        self.expected, weights = self._expression(time)
        self.boxes = []
        frame = backdrop(self.size)
        for index, identity in enumerate(self.identities):
            centre, face_size, tilt = self._pose(index, time)
            frame = draw_face(weights, identity, frame, centre, face_size, tilt)
            self.boxes.append(face_box(centre, face_size))
        return True, self._add_noise(frame)

    def _expression(self, time):
        """Return (the expression that is held, or None; the weights to draw)."""
        step, since = divmod(time, self.hold + self.blend)
        now, then = (self.order[(int(step) + i) % len(self.order)] for i in (0, 1))
        if since <= self.hold or now == then:
            return now, {now: 1.0}
        x = (since - self.hold) / self.blend
        x = x * x * (3 - 2 * x)
        return None, {now: 1 - x, then: x}

    def _pose(self, index, time):
        """Return (centre, size, tilt) of one person's face; neighbours move at different times."""
        width, height = self.size
        slot, time = width / len(self.identities), time + 2.0 * index
        size = min(0.55 * height, 0.63 * slot)  # leaves room for text beside the face
        x = (index + 0.5) * slot + 0.13 * size * np.sin(0.9 * time)
        y = 0.49 * height + 0.04 * size * np.sin(1.3 * time)
        return (x, y), size * (1 + 0.09 * np.sin(0.5 * time)), 0.05 * np.sin(0.7 * time)

    def _add_noise(self, frame):
        x, y = self._rng.integers(64, size=2)
        noise = self._noise[y : y + frame.shape[0], x : x + frame.shape[1]]
        return cv2.subtract(cv2.add(frame, noise), (NOISE_LEVEL,) * 3)

    def get(self, prop: int) -> float:
        """Return CAP_PROP_FPS, FRAME_WIDTH, FRAME_HEIGHT, FRAME_COUNT or POS_FRAMES; 0 for others and for no end."""
        return float(
            {
                cv2.CAP_PROP_FPS: self.fps,
                cv2.CAP_PROP_FRAME_WIDTH: self.size[0],
                cv2.CAP_PROP_FRAME_HEIGHT: self.size[1],
                cv2.CAP_PROP_FRAME_COUNT: self.frames or 0,
                cv2.CAP_PROP_POS_FRAMES: self._position,
            }.get(prop, 0)
        )

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Return whether frames can be read: True until `release`."""
        return self._open

    def release(self) -> None:
        """Close the camera: from then on, `read` returns False and None."""
        self._open = False


# ----------------------------------------------------------------------------------------------------------
# A data set


def draw_dataset(
    image_size: tuple[int, int] = (48, 48), seed: int = 0, per_emotion: Mapping[str, int] | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draw a small data set that looks like FER2013: another person, light and pose in every image.

    Args:
        image_size: Height, width in pixels.
        seed: The same seed gives the same images.
        per_emotion: Images per emotion in each split that is to be drawn; None: Training 100, PublicTest 20,
            PrivateTest 20.

    Returns:
        The splits, each with faces, uint8 (n, height, width, 1), and emotions, int64 (n,), the positions in
        EXPRESSIONS, in random order.

    Raises:
        ValueError: An unknown split.
    """
    per_emotion = IMAGES_PER_EMOTION if per_emotion is None else per_emotion
    unknown = [split for split in per_emotion if split not in IMAGES_PER_EMOTION]
    if unknown:
        raise ValueError(f"a split must be one of {', '.join(IMAGES_PER_EMOTION)}; got {unknown[0]!r}")
    return {
        split: _draw_split(image_size, per_emotion[split], np.random.default_rng((seed, index)))
        for index, split in enumerate(IMAGES_PER_EMOTION)
        if split in per_emotion
    }


def _draw_split(image_size, per_emotion, rng):
    emotions = rng.permutation(np.repeat(np.arange(len(EXPRESSIONS), dtype=np.int64), per_emotion))
    faces = np.empty((len(emotions), *image_size, 1), np.uint8)
    # Each face has a random generator to itself, so that the people are the same whatever the image size.
    for face, emotion, face_rng in zip(faces, emotions, rng.spawn(len(faces)), strict=True):
        face[..., 0] = _draw_sample(EXPRESSIONS[emotion], image_size, face_rng)
    return faces, emotions


def _draw_sample(emotion, image_size, rng):
    """Return uint8 (h, w): a random person's face as a detector would crop it, drawn twice as large and shrunk."""
    side = 2 * max(image_size)
    blotches = rng.uniform(20, 235) + rng.normal(0, 30, (4, 4, 3))
    scene = cv2.resize(np.clip(blotches, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    scene = draw_face(
        {emotion: rng.uniform(0.75, 1.0)},
        Identity.random(rng),
        scene,
        centre=tuple(side * (0.5 + rng.uniform(-0.05, 0.05, 2))),
        size=side * rng.uniform(0.92, 1.08),
        tilt=rng.uniform(-0.15, 0.15),
    )
    grey = cv2.cvtColor(scene, cv2.COLOR_BGR2GRAY)
    grey = cv2.resize(grey, image_size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.1, 0.8))
    grey = (grey - grey.mean()) * rng.uniform(0.75, 1.25) + grey.mean() + rng.uniform(-20, 20)
    grey += rng.normal(0, rng.uniform(1, 6), grey.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------
# The contact sheet


def draw_contact_sheet(identities: Sequence[Identity]) -> np.ndarray:
    """Draw the seven expressions of several people.

    Args:
        identities: One per row.

    Returns:
        uint8 (h, w, 3), BGR.
    """
    tile = backdrop((200, 200))
    rows = [
        np.hstack([draw_face(emotion, identity, tile, centre=(100, 108), size=140) for emotion in EXPRESSIONS])
        for identity in identities
    ]
    heading = np.full((34, rows[0].shape[1], 3), 40, np.uint8)
    for column, emotion in enumerate(EXPRESSIONS):
        _write(heading, emotion, (200 * column + 10, 23))
    footing = np.full_like(heading, 40)
    _write(footing, "Drawings, not people: no evidence of accuracy on real faces.", (10, 23))
    return np.vstack([heading, *rows, footing])


def _write(picture, text, position):
    cv2.putText(picture, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (240, 240, 240), 1, cv2.LINE_AA)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the default is the setting at the top."""
    parser = Parser(description="Write a contact sheet of drawn faces (drawings, not people).")
    parser.add_argument("--output", type=Path, default=output, help="the picture's file (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the contact sheet; return the exit status."""
    path = parse_args(argv).output
    if not cv2.haveImageWriter(str(path)):
        raise UserError(f"--output must be a picture's name, such as faces.png; found {path}: choose another name")
    rng = np.random.default_rng(5)
    sheet = draw_contact_sheet([DEFAULT_IDENTITY, *(Identity.random(rng) for _ in range(5))])
    with replacing(path) as partial:
        partial.write_bytes(cv2.imencode(path.suffix, sheet)[1])
    print(f"wrote {path}: drawings of the seven expressions, no evidence of accuracy on people")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
