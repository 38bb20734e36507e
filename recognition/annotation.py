"""Annotation: boxes, labels, heat maps, and a panel with the probabilities of one face, drawn over a frame.

Importing this module imports neither TensorFlow nor Keras.
"""

import math
import unicodedata
from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np

from recognition.tracking import Box, Face, shared_area

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


class Annotator:
    """Draws boxes, labels and probabilities over a frame; remembers the chosen face and each face's last seconds.

    `heat_map`, `mirror` and `help` (lines of text, or none) may be changed at any time.

    Args:
        emotions: In the order of the probabilities.
        language: Of the labels, one of LANGUAGES.
        heat_map: Whether to blend heat maps over the faces.
        mirror: Whether to show the picture as in a mirror.
        uncertain_below: Probability under which a face's label reads "uncertain".
    """

    def __init__(
        self,
        emotions: Sequence[str],
        language: str = "en",
        heat_map: bool = False,
        mirror: bool = False,
        uncertain_below: float = 0.0,
    ):
        self.labels = [LANGUAGES[language].get(emotion, emotion) for emotion in emotions]
        self.uncertain, self.uncertain_below = LANGUAGES[language].get("uncertain", "uncertain"), uncertain_below
        self.heat_map, self.mirror, self.help = heat_map, mirror, ()
        self.forget()

    def forget(self) -> None:
        """Start anew: the next faces have nothing to do with the faces before."""
        self._chosen, self._corner, self._history = None, 0, {}

    def label(self, face: Face) -> tuple[str, Colour]:
        """Return the text and the colour of a face's label."""
        probability = face.probabilities[face.best]
        if probability < self.uncertain_below:
            return self.uncertain, GREY
        return f"{self.labels[face.best]} {probability:.0%}", _colour(face.best)

    def remember(self, faces: Sequence[Face], time_s: float) -> None:
        """Add a frame's faces and its time in seconds to the history."""
        for face in faces:
            self._history.setdefault(face.identity, deque()).append((time_s, face.probabilities))
        for identity, past in list(self._history.items()):
            while past and not 0 <= time_s - past[0][0] <= HISTORY:
                past.popleft()
            if not past:
                del self._history[identity]

    def chosen(self, faces: Sequence[Face]) -> Face | None:
        """Return the face whose probabilities are shown: the chosen face while it is in sight, else the largest."""
        largest = max(faces, key=lambda face: face.box[2] * face.box[3], default=None)
        return next((face for face in faces if face.identity == self._chosen), largest)

    def choose(self, faces: Sequence[Face], point: tuple[int, int], width: int) -> None:
        """Choose the face under a point (x, y) of a picture `width` pixels wide; without a face there, the largest."""
        x, y = (width - 1 - point[0] if self.mirror else point[0]), point[1]
        hit = [face for face in faces if shared_area(face.box, (x, y, 1, 1))]
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
        heat_maps: np.ndarray | None = None,
        recording: bool = False,
    ) -> np.ndarray:
        """Draw everything over a copy of a frame.

        Args:
            image: uint8 (h, w, 3), BGR.
            faces: The k faces in it.
            note: Text for the lower left corner.
            heat_maps: float (k, n, m) from 0 to 1, one map per face; None to draw no map.
            recording: Whether to show that the picture is being recorded.

        Returns:
            A new picture of the same size.
        """
        image = image.copy()
        height, width = image.shape[:2]
        for face, heat in zip(faces, () if heat_maps is None else heat_maps, strict=heat_maps is not None):
            blend_heat_map(image, face.box, heat)
        shown = self.chosen(faces)
        boxes = [face.box for face in faces]
        if self.mirror:
            image = cv2.flip(image, 1)
            boxes = [(width - x - w, y, w, h) for x, y, w, h in boxes]
        unit = max(0.65, min(height / 480, width / 640))  # 1 at 640x480, and legible below
        line = text_size("", unit)[1]
        labels = [self.label(face) for face in faces]
        for face, (_, colour), (x, y, w, h) in zip(faces, labels, boxes, strict=True):
            thickness = max(1, round((3 if face is shown and len(faces) > 1 else 2) * unit))
            cv2.rectangle(image, (x, y), (x + w, y + h), colour, thickness, cv2.LINE_AA)
        occupied = []  # boxes of the panel and of the labels, which must stay legible
        if faces and min(height, width) >= 160:
            labelled = [(x, y - line, w, h + line) for x, y, w, h in boxes]
            occupied.append(self._draw_panel(image, shown, labelled, unit))
        for (text, colour), (x, y, _, h) in zip(labels, boxes, strict=True):
            tags = [tag_box(image, text, (x, top), unit) for top in (y - line, y + h) if 0 <= top <= height - line]
            tags = tags or [tag_box(image, text, (x, y + h), unit)]  # over the face's box, or under it
            tag = min(tags, key=lambda tag: sum(shared_area(tag, other) for other in occupied))
            occupied.append(tag)
            draw_tag(image, text, tag[:2], colour, unit)
        if note:
            draw_tag(image, note, (0, height), BLACK, 0.8 * unit)
        if recording:
            radius = max(3, round(7 * unit))
            cv2.circle(image, (width - 2 * radius, 2 * radius), radius, RED, -1, cv2.LINE_AA)
        if self.help:
            _draw_help(image, self.help, unit)
        return image

    def _draw_panel(self, image, face, boxes, unit):
        """Draw bars and recent history of a face, and return their box.

        The panel changes its corner only if it hides at least twice as much of the faces there as in another corner.
        """
        height, width = image.shape[:2]
        text, margin = 0.8 * unit, round(8 * unit)
        while text > 0.2 and text_size("", text)[1] * len(self.labels) + 3 * margin > height:
            text *= 0.95  # until all bars fit
        line = text_size("", text)[1]
        w, rows = bars_width(self.labels, text) + margin, line * len(self.labels) + margin
        past, space = self._history.get(face.identity, ()), height // 2 - rows - margin // 2
        graph = min(2 * line, space) if past and space >= line else 0
        h = rows + (graph and graph + margin // 2)
        right, bottom = width - w - margin, height - h - margin
        corners = [(margin, margin), (right, margin), (right, bottom)]  # the fourth has the note
        hidden = [sum(shared_area((*corner, w, h), box) for box in boxes) for corner in corners]
        if hidden[self._corner] > 2 * min(hidden):
            self._corner = int(np.argmin(hidden))
        left, top = (max(0, side) for side in corners[self._corner])
        panel = image[top : top + h, left : left + w]
        panel[:] = panel // 3
        colour = self.label(face)[1]  # as the face's box, to show whose panel it is
        cv2.rectangle(image, (left, top), (left + w, top + h), colour, max(1, round(unit)), cv2.LINE_AA)
        draw_bars(image, face.probabilities, self.labels, (left + margin // 2, top + margin // 2), text)
        if graph:
            strip = image[top + rows : top + rows + graph, left + margin // 2 : left + w - margin // 2]
            _draw_history(strip, past)
        return left, top, w, h


# ----------------------------------------------------------------------------------------------------------
# Heat maps, explanations, bars


def blend_heat_map(image: np.ndarray, box: Box, heat: np.ndarray) -> None:
    """Blend a heat map over a face, in place; cold parts stay as they are.

    Args:
        image: uint8 (h, w, 3), BGR.
        box: x, y, width, height in pixels; may lie partly outside.
        heat: float (n, m) from 0 to 1.
    """
    x, y, w, h = box
    left, top = max(0, -x), max(0, -y)
    face = image[max(0, y) : y + h, max(0, x) : x + w]
    if not face.size:
        return
    heat = np.clip(cv2.resize(np.asarray(heat, np.float32), (w, h), interpolation=cv2.INTER_CUBIC), 0, 1)
    heat = np.ascontiguousarray(heat[top : top + face.shape[0], left : left + face.shape[1]])
    colours = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = (0.65 * heat)[..., None]
    face[:] = np.rint(face * (1 - weight) + colours * weight).astype(np.uint8)


def draw_explanation(
    face: np.ndarray, heat: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]
) -> np.ndarray:
    """Draw a face, the face under its heat map, and its probabilities, side by side.

    Args:
        face: uint8 (h, w, 3), BGR; the part of a frame inside the face's box.
        heat: float (n, m) from 0 to 1.
        probabilities: float (emotions,).
        labels: Of the probabilities.

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
    draw_bars(bars, probabilities, labels, (line // 2, (side - line * len(labels)) // 2), unit)
    return np.hstack([plain, hot, bars])


def stack_explanations(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put explanations one beneath the other; narrow ones are widened."""
    width = max(row.shape[1] for row in rows)
    rows = [cv2.copyMakeBorder(row, 0, 4, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows]
    return np.vstack(rows)[:-4]


def bars_width(labels: Sequence[str], unit: float) -> int:
    """Return the width in pixels of the bars that `draw_bars` draws."""
    return max(text_size(label, unit)[0] for label in labels) + round(112 * unit) + text_size("100%", unit)[0]


def draw_bars(
    image: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], corner: tuple[int, int], unit: float
) -> None:
    """Draw a bar per emotion, in place, below and right of a corner; `unit` scales the bars."""
    (left, top), line = corner, text_size("", unit)[1]
    start, bar = left + max(text_size(label, unit)[0] for label in labels), round(112 * unit)
    for i, (label, probability) in enumerate(zip(labels, probabilities, strict=True)):
        y = top + i * line
        write(image, label, (left, y), WHITE, unit)
        cv2.rectangle(image, (start, y + line // 4), (start + bar, y + line - line // 4), (90, 90, 90), -1)
        end = start + round(bar * float(probability))
        cv2.rectangle(image, (start, y + line // 4), (end, y + line - line // 4), _colour(i), -1)
        write(image, f"{probability:.0%}", (start + bar, y), WHITE, unit)


def _draw_history(strip, past):
    """Draw the probabilities of the last seconds, in place, one above the other, the newest at the right."""
    height, width = strip.shape[:2]
    times = np.array([time_s for time_s, _ in past])
    shares = np.array([probabilities for _, probabilities in past])
    x = (width - 1) * (1 - (times[-1] - times) / HISTORY)
    edges = (height - 1) * (1 - np.column_stack([np.zeros(len(times)), np.cumsum(shares, axis=1)]))
    for i in range(shares.shape[1]):
        lower, upper = np.column_stack([x, edges[:, i]]), np.column_stack([x, edges[:, i + 1]])[::-1]
        cv2.fillPoly(strip, [np.rint(np.concatenate([lower, upper])).astype(np.int32)], _colour(i))


def _draw_help(image, lines, unit):
    """Draw lines of text on a dark ground in the middle of the picture, in place."""
    height, width = image.shape[:2]
    widest, line = np.max([text_size(text, unit) for text in lines], axis=0)
    unit *= min(1, width / widest, height / (line * len(lines)))  # so that all of the text fits
    widest, line = np.max([text_size(text, unit) for text in lines], axis=0)
    left, top = max(0, (width - widest) // 2), max(0, (height - line * len(lines)) // 2)
    ground = image[top : top + line * len(lines), left : left + widest]
    ground[:] = ground // 5
    for i, text in enumerate(lines):
        write(image, text, (left, top + i * line), WHITE, unit)


def _colour(emotion):
    """Return the colour of an emotion by its number; it is the same everywhere."""
    return PALETTE[emotion % len(PALETTE)]


# ----------------------------------------------------------------------------------------------------------
# Text


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
    plain, strokes = "", []
    x_height = cv2.getTextSize("x", font, size, stroke)[0][1] * 0.68  # OpenCV gives the height of capitals
    for letter in unicodedata.normalize("NFD", text):
        if letter not in ACCENTS:
            plain += letter
            continue
        before, through = (cv2.getTextSize(part, font, size, stroke)[0][0] for part in (plain[:-1], plain))
        across = through - before
        middle, top = x + (before + through) / 2, y - (x_height if plain[-1:].islower() else x_height / 0.68)
        strokes += [
            [(round(middle + across * u), round(top + x_height * v)) for u, v in ends] for ends in ACCENTS[letter]
        ]
    cv2.putText(image, plain, (x, y), font, size, colour, stroke, cv2.LINE_AA)
    for start, end in strokes:
        cv2.line(image, start, end, colour, stroke, cv2.LINE_AA)


def draw_tag(image: np.ndarray, text: str, corner: tuple[int, int], colour: Colour, unit: float) -> None:
    """Write a line of text on a filled box, kept inside the picture, in place."""
    x, y, w, h = tag_box(image, text, corner, unit)
    cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 120
    write(image, text, (x, y), BLACK if bright else WHITE, unit)


def tag_box(image: np.ndarray, text: str, corner: tuple[int, int], unit: float) -> Box:
    """Return where `draw_tag` writes: x, y, width, height in pixels."""
    w, h = text_size(text, unit)
    return max(0, min(corner[0], image.shape[1] - w)), max(0, min(corner[1], image.shape[0] - h)), w, h


def _stroke(unit):
    """Return the thickness of the letters in pixels."""
    return max(1, math.floor(1.1 * unit + 0.5))
