"""Annotation: boxes, labels, heat maps, and a panel with the probabilities of one face, drawn over a frame.

Importing this module imports neither TensorFlow nor Keras.
"""

import itertools
import math
import unicodedata
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from load_and_process import EMOTIONS
from recognition.detection import shared_area
from recognition.tracking import Box, Face

Colour = tuple[int, int, int]  # BGR

FRENCH = {
    "angry": "colère",
    "disgust": "dégoût",
    "fear": "peur",
    "happy": "joie",
    "sad": "tristesse",
    "surprise": "surprise",
    "neutral": "neutre",
    "uncertain": "incertain",
}
LANGUAGES = {"en": {}, "fr": FRENCH}  # emotions without a translation keep their name
HISTORY = 10.0  # seconds of the small graph
# Okabe and Ito's colour-blind-safe palette, BGR; more than seven emotions get the same colours, darker, then lighter
PALETTE = [(0, 94, 213), (115, 158, 0), (167, 121, 204), (66, 228, 240), (178, 114, 0), (0, 159, 230), (233, 180, 86)]
PALETTE += [
    tuple(round(ground + share * (value - ground)) for value in colour)
    for ground, share in ((0, 0.55), (255, 0.5))
    for colour in PALETTE
]
WHITE, GREY, BLACK, RED = (255, 255, 255), (190, 190, 190), (0, 0, 0), (60, 60, 230)
GROUND = (40, 40, 40)  # of the margin that a picture gets for the panel
BARS_LEFT_OUT = "no room for bars"  # the note where the panel would hide a face
SMALLEST_WITH_PANEL = 160  # pixels, the shorter side of the smallest picture with a panel

# Scales of text; at 1, letters are as large as suits a picture of 640x480.
SMALLEST_TEXT = 0.5  # of the panel and of the help
PANEL_SIZES = (1, 0.8, 0.65, 0.5)  # of the panel and of the help, as shares of the usual size
BAR_LENGTHS = (112, 50)  # pixels; a panel becomes narrow before it becomes small
SMALLEST_LABEL = 0.65  # of a small face's label
SMALLEST_LABEL_SHARE = 0.45  # the same, as a share of the picture's scale; the larger of the two limits counts
TIGHT_LABEL = 0.8  # share of the smallest label's scale where there is little room
UNIT_STEP = 0.05  # so that the text of a moving face does not tremble

# Where a label can be, best first: (from top to bottom, from left to right).
OUTSIDE = [(row, column) for column in ("left", "right", "middle") for row in ("above", "below")]
BESIDE = [(row, column) for column in ("after", "before") for row in ("bottom", "top")]
INSIDE = [(row, column) for row in ("bottom", "top") for column in ("left", "right", "middle")]
PLACES = OUTSIDE, BESIDE, INSIDE
FIRST = "first"  # of `_steady_spot`: nothing was placed before
# OpenCV's fonts have no accents, and Pillow's built-in font has no accented letters.  So accents are drawn as strokes,
# over a letter, or under a letter for the cedilla.  A stroke is two points (x, y), measured from the middle of the
# letter's top, x in widths of the letter and y in heights of the letter x.
ACCENTS = {
    "\N{COMBINING ACUTE ACCENT}": [((-0.15, -0.2), (0.25, -0.55))],
    "\N{COMBINING GRAVE ACCENT}": [((-0.25, -0.55), (0.15, -0.2))],
    "\N{COMBINING CIRCUMFLEX ACCENT}": [((-0.3, -0.2), (0, -0.5)), ((0, -0.5), (0.3, -0.2))],
    "\N{COMBINING TILDE}": [((-0.3, -0.25), (-0.1, -0.4)), ((-0.1, -0.4), (0.1, -0.25)), ((0.1, -0.25), (0.3, -0.4))],
    "\N{COMBINING DIAERESIS}": [((-0.22, -0.35), (-0.22, -0.35)), ((0.22, -0.35), (0.22, -0.35))],
    "\N{COMBINING RING ABOVE}": [
        ((-0.15, -0.35), (0, -0.55)),
        ((0, -0.55), (0.15, -0.35)),
        ((0.15, -0.35), (-0.15, -0.35)),
    ],
    "\N{COMBINING CEDILLA}": [((0.05, 1.05), (0.1, 1.25)), ((0.1, 1.25), (-0.15, 1.35))],
}


class Label(NamedTuple):
    """A line of text on a filled box."""

    text: str
    colour: Colour  # of the ground
    box: Box
    unit: float  # scale of the text


class Panel(NamedTuple):
    """Where the bars of one face are, and how large."""

    box: Box
    unit: float  # scale of the text
    bar: int  # length of a bar whose probability is 1, in pixels at scale 1
    history: int  # height in pixels of the small graph; 0: no graph


class Layout(NamedTuple):
    """Where everything is drawn in a picture; positions are those of the picture as it is shown."""

    size: tuple[int, int]  # width and height of the picture, with the margin that was added for the panel
    regions: list[Box]  # the upright boxes around the outlines of the faces
    panel: Panel | None
    labels: list[Label]  # one per face
    note: Label | None


class Annotator:
    """Draws boxes, labels and probabilities over a frame; remembers the chosen face and each face's last seconds.

    The panel with the bars never hides a face.  It takes a free corner, or becomes narrow and takes a free corner.
    Where no corner is free, a picture that may grow gets a margin for the panel, at the right or below.  In other
    pictures the panel becomes smaller, and where a small panel has no free corner either, it is left out and the note
    says so.  A panel stays where it is as long as it hides no face and no better one has ample room.

    A label hides neither another face nor another label nor the panel where one of these places is free: above, below
    or beside its face, or inside the face's own box.  Where there is little room, the label's text becomes smaller, or
    loses its percentage, or is the face's number alone.

    `heat_map`, `mirror` and `help` (lines of text, or none) may be changed at any time.

    Args:
        emotions: In the order of the probabilities.
        language: Of the labels, one of LANGUAGES.
        heat_map: Whether to blend heat maps over the faces.
        mirror: Whether to show the picture as in a mirror.
    """

    def __init__(self, emotions: Sequence[str], language: str = "en", heat_map: bool = False, mirror: bool = False):
        self.labels = [LANGUAGES[language].get(emotion, emotion) for emotion in emotions]
        self.colours = emotion_colours(emotions)
        self.uncertain = LANGUAGES[language].get("uncertain", "uncertain")
        self.heat_map, self.mirror, self.help = heat_map, mirror, ()
        self.forget()

    def forget(self) -> None:
        """Start anew: the next faces have nothing to do with the faces before."""
        self._chosen, self._history = None, {}
        self._spots = {}  # where the panel, the note, the help and the label of each face were drawn last

    def label(self, face: Face) -> tuple[str, Colour]:
        """Return the text and the colour of a face's label, without the face's number."""
        if face.uncertain:
            return self.uncertain, GREY
        return f"{self.labels[face.best]} {face.probabilities[face.best]:.0%}", self.colours[face.best]

    def remember(self, faces: Sequence[Face], time_s: float) -> None:
        """Add a frame's faces and its time in seconds to the history."""
        for face in faces:
            self._history.setdefault(face.identity, deque()).append((time_s, face.probabilities))
        for identity, past in list(self._history.items()):
            while past and not 0 <= time_s - past[0][0] <= HISTORY:
                past.popleft()
            if not past:
                del self._history[identity]
                self._spots.pop(identity, None)

    def chosen(self, faces: Sequence[Face]) -> Face | None:
        """Return the face whose probabilities are shown: the chosen face while it is in sight, else the largest."""
        largest = max(faces, key=lambda face: face.box[2] * face.box[3], default=None)
        return next((face for face in faces if face.identity == self._chosen), largest)

    def choose(self, faces: Sequence[Face], point: tuple[int, int], width: int) -> None:
        """Choose the face under a point; without a face there, the largest.

        Args:
            faces: The faces of the frame.
            point: x, y in the picture that `draw` returned.
            width: Of the frame that was handed to `draw`, in pixels; the picture may be wider.
        """
        x, y = (width - 1 - point[0] if self.mirror else point[0]), point[1]
        hit = [face for face in faces if shared_area(_bounds(face.box, face.roll), (x, y, 1, 1))]
        self._chosen = min(hit, key=lambda face: face.box[2] * face.box[3]).identity if hit else None

    def choose_next(self, faces: Sequence[Face]) -> None:
        """Choose the next face to the right; after the last face, the first."""
        ordered = sorted(faces, key=lambda face: face.box[0] * (-1 if self.mirror else 1))
        if ordered:
            self._chosen = ordered[(ordered.index(self.chosen(faces)) + 1) % len(ordered)].identity

    def draw(
        self,
        image: np.ndarray,
        faces: Sequence[Face],
        note: str = "",
        heat_maps: Sequence[np.ndarray] | None = None,
        recording: bool = False,
        may_grow: bool = False,
    ) -> np.ndarray:
        """Draw everything over a copy of a frame.

        Args:
            image: uint8 (h, w, 3), BGR.
            faces: The k faces in it.
            note: Text for the lower left corner, or another corner without a face.
            heat_maps: k arrays, float (n, m) from 0 to 1, one per face, of any sizes; None to draw no map.
            recording: Whether to show that the picture is being recorded.
            may_grow: Whether the picture may get a margin for the panel.

        Returns:
            A new picture: of the same size, or larger at the right and below if it may grow.
        """
        image = image.copy()
        for face, heat in zip(faces, () if heat_maps is None else heat_maps, strict=heat_maps is not None):
            blend_heat_map(image, face.box, heat, face.roll)
        if self.mirror:
            image = cv2.flip(image, 1)
        height, width = image.shape[:2]
        unit = _unit(width, height)
        layout = self.lay_out((width, height), faces, note, may_grow)
        if layout.size != (width, height):
            right, below = layout.size[0] - width, layout.size[1] - height
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=GROUND)
        shown = self.chosen(faces)
        for face, label in zip(faces, layout.labels, strict=True):
            self._draw_outline(image, face, width, label.colour, unit, marked=face is shown and len(faces) > 1)
        if layout.panel:
            self._draw_panel(image, shown, layout.panel, titled=len(faces) > 1)
        for label in (*layout.labels, layout.note):
            if label:
                draw_tag(image, label)
        if recording:
            radius = max(3, round(7 * unit))
            cv2.circle(image, (width - 2 * radius, 2 * radius), radius, RED, -1, cv2.LINE_AA)
        if self.help:
            self._draw_help(image, layout, unit)
        return image

    def lay_out(self, size: tuple[int, int], faces: Sequence[Face], note: str = "", may_grow: bool = False) -> Layout:
        """Say where `draw` draws everything; remembers the places, so that they stay from frame to frame.

        Args:
            size: Width and height of the frame in pixels.
            faces: The faces in it.
            note: As for `draw`.
            may_grow: As for `draw`.
        """
        frame_size, unit, occupied = size, _unit(*size), []
        regions = [self._region(face, size) for face in faces]
        panel = None
        if faces and min(size) >= SMALLEST_WITH_PANEL:
            panel, size = self._place_panel(size, regions, faces, unit, may_grow)
            note = note if panel else "   ".join(filter(None, (note, BARS_LEFT_OUT)))
            occupied += [panel.box] if panel else []
        note = self._place_note(frame_size, note, regions + occupied, unit)
        occupied += [note.box] if note else []
        return Layout(size, regions, panel, self._place_labels(frame_size, faces, regions, occupied, unit), note)

    def _region(self, face, size):
        """Return the upright box around a face's outline, as it is shown, without what is outside the picture."""
        x, y, w, h = _bounds(*self._outline(face, size[0]))
        left, top = max(0, x), max(0, y)
        return left, top, max(1, min(x + w, size[0]) - left), max(1, min(y + h, size[1]) - top)

    def _outline(self, face, width):
        """Return a face's box and roll as they are shown in a picture of this width."""
        x, y, w, h = face.box
        return ((width - x - w, y, w, h), -face.roll) if self.mirror else (face.box, face.roll)

    def _place_panel(self, size, regions, faces, unit, may_grow):
        """Return the panel, or None where it would hide a face, and width and height of the picture with it."""
        shown = self.chosen(faces)
        history = not may_grow and bool(self._history.get(shown.identity))
        panels, spots = _panels(tuple(self.labels), size, len(faces) > 1, history)
        outlines = [(x - 2, y - 2, w + 4, h + 4) for x, y, w, h in regions]
        above = text_size("", unit)[1]  # the label
        # "Ample room" is a part of the face's size around it, and the line of its label above
        ample = [(x - 0.15 * w, y - 0.15 * h - above, 1.3 * w, 1.3 * h + above) for x, y, w, h in regions]
        if may_grow:  # a margin is better than small text
            spots = [boxes for panel, boxes in zip(panels, spots, strict=True) if panel.unit == panels[0].unit]
        spot = self._spots["panel"] = _steady_spot(spots, outlines, ample, self._spots.get("panel", FIRST))
        if spot:
            return panels[spot[0]]._replace(box=spots[spot[0]][spot[1]]), size
        if not may_grow:
            return None, size
        (width, height), panel, margin = size, panels[0], round(8 * unit)
        *_, w, h = panel.box
        beside = width + w + 2 * margin, max(height, h + 2 * margin)
        below = max(width, w + 2 * margin), height + h + 2 * margin
        if beside[0] * beside[1] <= below[0] * below[1]:
            return panel._replace(box=(width + margin, margin, w, h)), beside
        return panel._replace(box=(margin, height + margin, w, h)), below

    def _place_note(self, size, text, regions, unit):
        """Return the note as a label in a corner without a face; in the lower left one where there is none."""
        if not text:
            return None
        width, height = size
        unit = 0.8 * unit
        unit *= min(1, width / text_size(text, unit)[0])
        w, h = text_size(text, unit)
        spots = [(0, height - h, w, h), (width - w, height - h, w, h), (0, 0, w, h), (width - w, 0, w, h)]
        spot = self._spots["note"] = _steady_spot([spots], regions, regions, self._spots.get("note") or FIRST)
        return Label(text, BLACK, spots[spot[1] if spot else 0], unit)

    def _place_labels(self, size, faces, regions, occupied, unit):
        """Return the label of each face.

        Args:
            size: Width and height of the frame.
            faces: The k faces.
            regions: The boxes around them.
            occupied: Boxes that the labels should leave alone, as they do with the faces and each other.
            unit: Scale of the largest text.
        """
        least, labels = max(SMALLEST_LABEL, SMALLEST_LABEL_SHARE * unit), []
        for i, (face, region) in enumerate(zip(faces, regions, strict=True)):
            text, colour = self.label(face)
            texts = [text, text.rpartition(" ")[0]] if text[-1] == "%" else [text]
            if len(faces) > 1:
                texts = [*(f"{face.identity} {text}" for text in texts), str(face.identity)]
            usual = min(unit, max(least, math.floor(region[2] / 100 / UNIT_STEP) * UNIT_STEP))
            if len(faces) > 1 and text_size(texts[0], usual)[0] > 2 * region[2]:
                usual = TIGHT_LABEL * least
            w, h = text_size(texts[0], usual)
            reach = region[0] - w, region[1] - h, region[2] + 2 * w, region[3] + 2 * h
            others = regions[:i] + regions[i + 1 :] + occupied + [label.box for label in labels]
            taken = [box for box in others if shared_area(box, reach)]
            units = usual, TIGHT_LABEL * least
            spot, text, box, scale = _place_label(texts, units, region, size, taken, self._spots.get(face.identity))
            self._spots[face.identity] = spot
            labels.append(Label(text, colour, box, scale))
        return labels

    def _draw_outline(self, image, face, width, colour, unit, marked):
        """Draw a face's box, in place; the box of the face whose bars are shown is thick, on white."""
        corners = _turned_corners(*self._outline(face, width))
        thickness = max(1, round((3 if marked else 2) * min(unit, face.box[2] / 80)))
        if marked:
            edge = max(1, round(0.5 * thickness))
            cv2.polylines(image, [corners], True, WHITE, thickness + 2 * edge, cv2.LINE_AA)
        cv2.polylines(image, [corners], True, colour, thickness, cv2.LINE_AA)

    def _draw_panel(self, image, face, panel, titled):
        """Draw the bars and the recent history of a face, in place; with a title, under the face's number."""
        (left, top, w, h), unit = panel.box, panel.unit
        padding, line = round(10 * unit), text_size("", unit)[1]
        ground = image[top : top + h, left : left + w]
        cv2.convertScaleAbs(ground, ground, 1 / 3)
        text, colour = self.label(face)
        if titled:
            cv2.rectangle(image, (left, top), (left + w - 1, top + line - 1), colour, -1)
            write(image, f"{face.identity} {text}", (left + padding // 2, top), _ink(colour), unit)
        cv2.rectangle(image, (left, top), (left + w - 1, top + h - 1), colour, max(1, round(unit)), cv2.LINE_AA)
        corner = left + padding // 2, top + padding // 2 + line * titled
        draw_bars(image, face.probabilities, self.labels, self.colours, corner, unit, panel.bar)
        if panel.history:
            below = corner[1] + line * len(self.labels) + padding // 2
            strip = image[below : below + panel.history, left + padding // 2 : left + w - padding // 2]
            _draw_history(strip, self._history[face.identity], self.colours)

    def _draw_help(self, image, layout, unit):
        """Draw lines of text on a dark ground, in place: in the middle, or where they hide no face."""
        height, width = image.shape[:2]
        widest, line = np.max([text_size(text, unit) for text in self.help], axis=0)
        unit *= min(1, width / widest, height / (line * len(self.help)))  # so that all of the text fits
        spots, units = [], [unit * share for share in PANEL_SIZES if share == 1 or unit * share >= SMALLEST_TEXT]
        for small in units:
            w = min(width, max(text_size(text, small)[0] for text in self.help))
            h = min(height, text_size("", small)[1] * len(self.help))
            lefts, tops = ((width - w) // 2, 0, width - w), ((height - h) // 2, 0, height - h)
            spots.append([(left, top, w, h) for top in tops for left in lefts])
        labels = [label.box for label in layout.labels]
        last = self._spots.get("help") or FIRST
        spot = self._spots["help"] = _steady_spot(spots, layout.regions, layout.regions + labels, last)
        row, column = spot or (0, min(range(9), key=lambda column: _covered(spots[0][column], layout.regions)))
        left, top, w, h = spots[row][column]
        ground = image[top : top + h, left : left + w]
        ground[:] = ground // 5
        for i, text in enumerate(self.help):
            write(image, text, (left, top + i * text_size("", units[row])[1]), WHITE, units[row])


# ----------------------------------------------------------------------------------------------------------
# Free places


@lru_cache(maxsize=16)
def _panels(labels, size, titled, with_history):
    """Return panels, from the largest to the smallest that can be read, and for each the corners where it fits.

    A corner is None where the panel does not fit.
    """
    (width, height), unit = size, _unit(*size)
    margin, above = round(8 * unit), text_size("", unit)[1]
    rows, text, panels, spots = len(labels) + titled, 0.8 * unit, [], []
    while text > 0.2 and text_size("", text)[1] * rows + 3 * margin > height:
        text *= 0.95  # until all bars fit
    for share, bar, with_graph in itertools.product(PANEL_SIZES, BAR_LENGTHS, (with_history, False)):
        if panels and share * text < SMALLEST_TEXT:
            break
        small, padding = share * text, round(10 * share * text)
        line = text_size("", small)[1]
        w, h = bars_width(labels, small, bar) + padding, line * rows + padding
        space = height // 2 - h - padding // 2
        graph = min(2 * line, space) if with_graph and space >= line else 0
        h += graph and graph + padding // 2
        panels.append(Panel((0, 0, w, h), small, bar, graph))
        right, bottom = width - margin - w, height - margin - h
        starts = (margin, margin), (right, margin), (right, bottom), (margin, bottom - above)  # above the note
        spots.append([(*start, w, h) if min(start) >= 0 else None for start in starts])
    return panels, spots


def _steady_spot(spots, taken, near, last):
    """Choose one of several spots in several sizes, and stay there as long as that hides nothing.

    Args:
        spots: A list of boxes for each size, the sizes from the best to the worst; None where nothing fits.
        taken: Boxes that must not be hidden.
        near: Boxes to keep away from.  Of the spots of a size, the one that hides least of these is taken.  A better
            size than the last is taken only where none of these is hidden.
        last: The last answer; FIRST if there was none.

    Returns:
        (size, spot), or None where every spot hides something.
    """
    if last not in (None, FIRST) and last[0] >= len(spots):  # of a picture of another size
        last = FIRST
    first, kept = last == FIRST, last not in (None, FIRST)
    for size, boxes in enumerate(spots):
        avoided = near if not first and (last is None or size < last[0]) else taken
        if kept and size >= last[0] and (box := boxes[last[1]]) and not _hides(box, avoided):
            return size, last[1]
        free = [i for i, box in enumerate(boxes) if box and not _hides(box, avoided)]
        if free:
            return size, min(free, key=lambda i: _covered(boxes[i], near))
    return None


def _hides(box, others):
    """Return whether a box hides a part of one of the others."""
    return any(shared_area(box, other) for other in others)


def _covered(box, others):
    """Return the area of the others that a box hides, in pixels."""
    return sum(shared_area(box, other) for other in others)


def _place_label(texts, units, region, size, taken, last):
    """Choose text, place and size of a face's label: the first that hides nothing, else the one that hides least.

    Args:
        texts: From the longest to the shortest.
        units: The usual scale of the text, and the smallest.
        region: The box around the face.
        size: Width and height of the picture.
        taken: Boxes that should not be hidden.
        last: Where this face's label was in the frame before; of places that are equally good, it stays there.

    Returns:
        The spot (for `last`), the text, its box, and its scale.
    """
    *longer, number = texts if len(texts) > 1 else (*texts, texts[0])
    ways = itertools.chain(*(itertools.product(PLACES, group, units) for group in (longer, [number])))
    tried = []
    for spots, text, unit in ways:
        boxes = _around(region, *text_size(text, unit), size, spots)
        if not boxes:
            continue
        for spot in sorted(boxes, key=lambda spot: spot != last):
            hidden = _covered(boxes[spot], taken)
            if not hidden:
                return spot, text, boxes[spot], unit
            tried.append((hidden, len(tried), spot, text, boxes[spot], unit))
    if tried:
        return min(tried)[2:]
    unit, text = units[-1], number  # the picture is smaller than the text
    while unit > 0.1 and any(side > room for side, room in zip(text_size(text, unit), size, strict=True)):
        unit *= 0.9
    w, h = text_size(text, unit)
    return None, text, (min(region[0], max(0, size[0] - w)), min(region[1], max(0, size[1] - h)), w, h), unit


def _turned_corners(box, roll):
    """Return the corners of a box that is turned about its centre, clockwise by radians: int32 (4, 2)."""
    x, y, w, h = box
    if not roll:
        return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], np.int32)
    across, down = _turn(w, h, roll)
    centre = np.array((x + w / 2, y + h / 2))
    corners = [centre + i * across + j * down for i, j in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    return np.rint(corners).astype(np.int32)


def _turn(w, h, roll):
    """Return the sides of a turned box as vectors: x, y of the upper side and of the left side."""
    cos, sin = math.cos(roll), math.sin(roll)
    return np.array((cos, sin)) * w, np.array((-sin, cos)) * h


def _bounds(box, roll):
    """Return the upright box around a turned box."""
    return cv2.boundingRect(_turned_corners(box, roll)) if roll else box


def _around(region, w, h, size, spots):
    """Return {spot: box} for a label of width w and height h: the spots around a face, or inside its box, that fit."""
    (x, y, across, down), (width, height) = region, size
    if w > width or h > height:
        return {}
    lefts = {
        "left": max(0, min(x, width - w)),
        "right": max(0, min(x + across - w, width - w)),
        "middle": max(0, min(x + (across - w) // 2, width - w)),
        "before": x - w,
        "after": x + across,
    }
    tops = {
        "above": y - h,
        "below": y + down,
        "bottom": max(0, min(y + down - h, height - h)),
        "top": min(y, height - h),
    }
    boxes = {(top, left): (lefts[left], tops[top], w, h) for top, left in spots}
    return {spot: box for spot, box in boxes.items() if 0 <= box[0] <= width - w and 0 <= box[1] <= height - h}


# ----------------------------------------------------------------------------------------------------------
# Heat maps, explanations, bars


def blend_heat_map(image: np.ndarray, box: Box, heat: np.ndarray, roll: float = 0.0) -> None:
    """Blend a heat map over a face, in place; cold parts stay as they are.

    Args:
        image: uint8 (h, w, 3), BGR.
        box: x, y, width, height in pixels; may lie partly outside.
        heat: float (n, m) from 0 to 1, of what `crop_box` of models/classifier.py cuts out: of an upright box, the part
            that lies inside the image.
        roll: Radians by which box and map are turned about the box's centre, clockwise.
    """
    if not roll:
        (x, y, w, h), (height, width) = box, image.shape[:2]
        left, top = max(0, x), max(0, y)
        box = left, top, min(x + w, width) - left, min(y + h, height) - top
    if min(box[2:]) < 1:
        return
    heat = cv2.resize(np.asarray(heat, np.float32), box[2:], interpolation=cv2.INTER_CUBIC)
    if roll:
        across, down = _turn(1, 1, roll)
        x, y, w, h = _bounds(box, roll)
        start = np.array((box[0] - x, box[1] - y)) + 0.5 * (np.array(box[2:]) - across * box[2] - down * box[3])
        heat = cv2.warpAffine(heat, np.column_stack([across, down, start]), (w, h))
        box = x, y, w, h
    x, y, w, h = box
    left, top = max(0, -x), max(0, -y)
    face = image[max(0, y) : y + h, max(0, x) : x + w]
    if not face.size:
        return
    heat = np.clip(heat, 0, 1)
    heat = np.ascontiguousarray(heat[top : top + face.shape[0], left : left + face.shape[1]])
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = (0.65 * heat)[..., None]
    face[:] = np.rint(face * (1 - weight) + colours * weight).astype(np.uint8)


def draw_explanation(
    face: np.ndarray,
    heat: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[Colour] | None = None,
) -> np.ndarray:
    """Draw a face, the face under its heat map, and its probabilities, side by side.

    Args:
        face: uint8 (h, w, 3), BGR; the part of a frame inside the face's box.
        heat: float (n, m) from 0 to 1.
        probabilities: float (emotions,).
        labels: Of the probabilities.
        colours: Of the bars; None if the labels are the emotions' own names.

    Returns:
        uint8 (256, W, 3), BGR.
    """
    side, unit = 256, 1.1
    while text_size("", unit)[1] * len(labels) > side:
        unit *= 0.9  # until all bars fit
    plain = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA if face.shape[0] > side else cv2.INTER_CUBIC)
    hot = plain.copy()
    blend_heat_map(hot, (0, 0, side, side), heat)
    line = text_size("", unit)[1]
    bars = np.full((side, bars_width(labels, unit) + line, 3), 40, np.uint8)
    draw_bars(
        bars,
        probabilities,
        labels,
        colours or emotion_colours(labels),
        (line // 2, (side - line * len(labels)) // 2),
        unit,
    )
    return np.hstack([plain, hot, bars])


def stack_explanations(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put explanations one beneath the other; narrow ones are widened."""
    width = max(row.shape[1] for row in rows)
    rows = [cv2.copyMakeBorder(row, 0, 4, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows]
    return np.vstack(rows)[:-4]


def bars_width(labels: Sequence[str], unit: float, bar: int = BAR_LENGTHS[0]) -> int:
    """Return the width in pixels of the bars that `draw_bars` draws, with their labels."""
    return max(text_size(label, unit)[0] for label in labels) + round(bar * unit) + text_size("100%", unit)[0]


def draw_bars(
    image: np.ndarray,
    probabilities: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[Colour],
    corner: tuple[int, int],
    unit: float,
    bar: int = BAR_LENGTHS[0],
) -> None:
    """Draw a bar per emotion, in place, below and right of a corner.

    Args:
        image: uint8 (h, w, 3), BGR.
        probabilities: float (emotions,).
        labels: Of the probabilities.
        colours: Of the bars.
        corner: x, y in pixels.
        unit: Scale of text and bars.
        bar: Length of a bar whose probability is 1, in pixels at scale 1.
    """
    (left, top), line = corner, text_size("", unit)[1]
    start, bar = left + max(text_size(label, unit)[0] for label in labels), round(bar * unit)
    for i, (label, probability, colour) in enumerate(zip(labels, probabilities, colours, strict=True)):
        y = top + i * line
        write(image, label, (left, y), WHITE, unit)
        cv2.rectangle(image, (start, y + line // 4), (start + bar, y + line - line // 4), (90, 90, 90), -1)
        end = start + round(bar * float(probability))
        cv2.rectangle(image, (start, y + line // 4), (end, y + line - line // 4), colour, -1)
        write(image, f"{probability:.0%}", (start + bar, y), WHITE, unit)


def _draw_history(strip, past, colours):
    """Draw the probabilities of the last seconds, in place, one above the other, the newest at the right."""
    height, width = strip.shape[:2]
    times = np.array([time_s for time_s, _ in past])
    shares = np.array([probabilities for _, probabilities in past])
    x = (width - 1) * (1 - (times[-1] - times) / HISTORY)
    edges = (height - 1) * (1 - np.column_stack([np.zeros(len(times)), np.cumsum(shares, axis=1)]))
    for i in range(shares.shape[1]):
        lower, upper = np.column_stack([x, edges[:, i]]), np.column_stack([x, edges[:, i + 1]])[::-1]
        cv2.fillPoly(strip, [np.rint(np.concatenate([lower, upper])).astype(np.int32)], colours[i])


def emotion_colours(emotions: Sequence[str]) -> list[Colour]:
    """Return the colour of each emotion, BGR.

    FER2013's seven emotions always have the same colours.  Other emotions get the further colours of PALETTE, in order,
    and then the colours of those of the seven that are not among the emotions.
    """
    named = dict(zip(EMOTIONS, PALETTE, strict=False))
    free = PALETTE[len(named) :] + [colour for name, colour in named.items() if name not in emotions]
    further = itertools.cycle(free or PALETTE)
    return [named[emotion] if emotion in named else next(further) for emotion in emotions]


# ----------------------------------------------------------------------------------------------------------
# Text


@lru_cache(maxsize=4096)
def text_size(text: str, unit: float) -> tuple[int, int]:
    """Return width and height in pixels of a line of text with its margins."""
    plain = "".join(letter for letter in unicodedata.normalize("NFD", text) if letter not in ACCENTS)
    (w, h), baseline = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.55 * unit, _stroke(unit))
    return round(w + 8 * unit), round(h + baseline + 6 * unit)


def write(image: np.ndarray, text: str, corner: tuple[int, int], colour: Colour | int, unit: float) -> None:
    """Write a line of text with its margins below and right of a corner, in place.

    Accents are drawn as strokes.  Letters beyond ASCII and the accents of ACCENTS are drawn as question marks.
    """
    font, size, stroke = cv2.FONT_HERSHEY_SIMPLEX, 0.55 * unit, _stroke(unit)
    x, y = round(corner[0] + 4 * unit), round(corner[1] + 0.72 * text_size(text, unit)[1])
    plain, strokes = ("", []) if not text.isascii() else (text, [])
    for letter in "" if plain else unicodedata.normalize("NFD", text):
        if letter not in ACCENTS:
            plain += letter
            continue
        x_height = cv2.getTextSize("x", font, size, stroke)[0][1] * 0.68  # OpenCV gives the height of capitals
        before, through = (cv2.getTextSize(part, font, size, stroke)[0][0] for part in (plain[:-1], plain))
        across = through - before
        middle, top = x + (before + through) / 2, y - (x_height if plain[-1:].islower() else x_height / 0.68)
        strokes += [
            [(round(middle + across * u), round(top + x_height * v)) for u, v in ends] for ends in ACCENTS[letter]
        ]
    cv2.putText(image, plain, (x, y), font, size, colour, stroke, cv2.LINE_AA)
    for start, end in strokes:
        cv2.line(image, start, end, colour, stroke, cv2.LINE_AA)


def draw_tag(image: np.ndarray, label: Label) -> None:
    """Write a label on its filled box, in place."""
    x, y, w, h = label.box
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), label.colour, -1)
    write(image, label.text, (x, y), _ink(label.colour), label.unit)


def _ink(ground):
    """Return the colour of letters on a ground of some colour: black or white."""
    return BLACK if 0.114 * ground[0] + 0.587 * ground[1] + 0.299 * ground[2] > 120 else WHITE


def _unit(width, height):
    """Return the scale of a picture's text: 1 at 640x480, and legible below."""
    return max(0.65, min(height / 480, width / 640))


def _stroke(unit):
    """Return the thickness of the letters in pixels."""
    return max(1, math.floor(1.1 * unit + 0.5))
