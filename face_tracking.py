"""Where the faces are: a Haar cascade finds them, and each is known again from one frame to the next.

Importing this module imports neither TensorFlow nor Keras.
"""

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import imutils
import numpy as np

CASCADES = Path(__file__).resolve().parent / "haarcascade_files"


def find_cascade(name):
    """The path of a Haar cascade: as given, in haarcascade_files/, or among those that OpenCV brings.

    Raises:
        FileNotFoundError: it is in none of the three.
        ValueError: this OpenCV has no Haar cascades.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        raise ValueError(
            f"faces are found with Haar cascades, which OpenCV {cv2.__version__} no longer has; install OpenCV 4: "
            'pip install "opencv-python>=4.12,<5"'
        )
    places = [Path(name), CASCADES / name, Path(cv2.data.haarcascades) / name]
    for path in places[:1] if places[0].parent != Path() else places:
        if path.is_file():
            return path
    bundled = sorted(path.name for path in places[2].parent.glob("*frontalface*.xml"))
    raise FileNotFoundError(
        f"no cascade {name}, neither here, nor in haarcascade_files/, nor in OpenCV; it has {', '.join(bundled)}"
    )


class FaceDetector:
    """Finds faces with a Haar cascade on a reduced grey frame.

    Args:
        cascade_path: OpenCV's XML.
        width: pixels to which wider frames are reduced first.
        scale_factor: step between the sizes looked for.
        min_neighbors: overlapping finds that make a face.
        smallest_face: side of the smallest face, share of the frame's shorter side.

    Raises:
        ValueError: the file is no cascade.

    Source: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features" (2001).
    """

    def __init__(self, cascade_path, width, scale_factor, min_neighbors, smallest_face):
        self.width, self.scale_factor, self.min_neighbors = width, scale_factor, min_neighbors
        self.smallest_face = smallest_face
        try:
            self.cascade = cv2.CascadeClassifier(str(cascade_path))
            loaded = not self.cascade.empty()
        except (cv2.error, SystemError):
            loaded = False
        if not loaded:
            raise ValueError(f"{cascade_path} is not a Haar cascade that OpenCV can read: copy or download it again")

    def __call__(self, image):
        """Boxes of the faces in a BGR frame: int (k, 4) of x, y, width, height in its pixels, the largest first."""
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if grey.shape[1] > self.width:
            grey = imutils.resize(grey, width=self.width, inter=cv2.INTER_AREA)
        ratio = image.shape[1] / grey.shape[1]
        side = max(24, round(self.smallest_face * min(grey.shape)))
        found = self.cascade.detectMultiScale(grey, self.scale_factor, self.min_neighbors, minSize=(side, side))
        boxes = np.rint(np.asarray(found, float).reshape(-1, 4) * ratio).astype(int)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]


class Face(NamedTuple):
    """A face in a frame."""

    identity: int  # the same for as long as the face stays in sight
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    probabilities: np.ndarray  # float (emotions,), averaged over time


class Smoother:
    """Knows faces again from one frame to the next and averages their probabilities over time; all else has no memory.

    Args:
        time_constant: seconds after which an old expression has 1/e of its weight; 0 for no averaging.
    """

    FORGET_AFTER = 1.0  # seconds out of sight

    def __init__(self, time_constant):
        self.time_constant, self.known, self.count = time_constant, {}, 0

    def forget(self):
        """Start anew: what comes next has nothing to do with what was."""
        self.known, self.count = {}, 0

    def __call__(self, boxes, probabilities, time_s):
        """Boxes (k, 4), probabilities (k, emotions) and the frame's time in seconds -> list of k `Face`."""
        self.known = {i: known for i, known in self.known.items() if time_s - known[2] <= self.FORGET_AFTER}
        # pairs of an old and a new box, nearest first, at most one box width apart
        pairs = sorted(
            (_distance(box, known[0]), identity, index)
            for index, box in enumerate(boxes)
            for identity, known in self.known.items()
        )
        identities = {}
        for distance, identity, index in pairs:
            if distance < 1 and index not in identities and identity not in identities.values():
                identities[index] = identity
        faces = []
        for index, (box, now) in enumerate(zip(boxes, probabilities, strict=True)):
            if index in identities:
                identity = identities[index]
                _, before, seen_s = self.known[identity]
                if self.time_constant > 0:
                    weight = math.exp(-(time_s - seen_s) / self.time_constant)
                    now = weight * before + (1 - weight) * now
            else:
                identity, self.count = self.count, self.count + 1
            self.known[identity] = (box, now, time_s)
            faces.append(Face(identity, tuple(int(side) for side in box), now))
        return faces


def _distance(box, other):
    """Between the centres of two boxes, in widths of the larger, plus how unlike their sizes are."""
    (x, y, w, h), (u, v, s, t) = box, other
    return math.hypot(x + w / 2 - u - s / 2, y + h / 2 - v - t / 2) / max(w, s) + abs(math.log(w / s))
