"""Where the faces of a picture are: a Haar cascade finds them.

    detect = FaceDetector(find_cascade("haarcascade_frontalface_default.xml"), 240, 1.2, 5, 0.1)
    boxes = detect(image)

Importing this module imports neither TensorFlow nor Keras.
"""

from pathlib import Path

import cv2
import imutils
import numpy as np

from command_line import UserError

CASCADES = Path(__file__).resolve().parents[1] / "haarcascade_files"

# The search near a known face. The part of the frame around it is scaled, so that every face costs the same; to a small
# size, since OpenCV tests windows below 48 pixels at every other pixel only, which is four times faster.
NEAR_SIDE = 32  # pixels to which the face is scaled
NEAR_SIZES = (0.75, 1.5)  # sizes looked for, in those of the face: all that a cascade gives for one and the same face
NEAR_MARGIN = 0.25  # of the face's side, on each side
NEAR_SCALE_FACTOR = 1.15  # step between these sizes
NEAR_NEIGHBORS = 2  # fewer than in the whole frame, since the search is coarser, and since a face is expected here


def find_cascade(name):
    """The path of a Haar cascade: as given, in haarcascade_files/, or among those that OpenCV brings.

    Raises:
        FileNotFoundError: it is in none of the three.
        ValueError: this OpenCV has no Haar cascades.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            f"faces are found with Haar cascades, which OpenCV {cv2.__version__} no longer has; install OpenCV 4: "
            'pip install "opencv-python>=4.12,<5"'
        )
    places = [Path(name), CASCADES / name, Path(cv2.data.haarcascades) / name]
    for path in places[:1] if places[0].parent != Path() else places:
        if path.is_file():
            return path
    bundled = sorted(path.name for path in places[2].parent.glob("*frontalface*.xml"))
    raise UserError(
        f"no cascade {name}, neither here, nor in haarcascade_files/, nor in OpenCV; it has {', '.join(bundled)}"
    )


class FaceDetector:
    """Finds faces with a Haar cascade on a reduced grey frame.

    Args:
        cascade_path: OpenCV's XML.
        side: pixels to which the shorter side of larger frames is reduced first.
        scale_factor: step between the sizes looked for.
        min_neighbors: overlapping finds that make a face.
        smallest_face: side of the smallest face, share of the frame's shorter side.

    Raises:
        ValueError: the file is no cascade.

    Source: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features" (2001).
    """

    def __init__(self, cascade_path, side, scale_factor, min_neighbors, smallest_face):
        self.side, self.scale_factor, self.min_neighbors = side, scale_factor, min_neighbors
        self.smallest_face = smallest_face
        try:
            self.cascade = cv2.CascadeClassifier(str(cascade_path))
            loaded = not self.cascade.empty()
        except (cv2.error, SystemError):
            loaded = False
        if not loaded:
            raise UserError(f"{cascade_path} is not a Haar cascade that OpenCV can read: copy or download it again")

    def __call__(self, image):
        """Boxes of the faces in a BGR frame: int (k, 4) of x, y, width, height in its pixels, the largest first."""
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        ratio = max(1, min(grey.shape) / self.side)
        if ratio > 1:
            grey = imutils.resize(grey, width=round(grey.shape[1] / ratio), inter=cv2.INTER_AREA)
            ratio = image.shape[1] / grey.shape[1]
        side = max(24, round(self.smallest_face * min(grey.shape)))
        found = self.cascade.detectMultiScale(grey, self.scale_factor, self.min_neighbors, minSize=(side, side))
        boxes = np.rint(np.asarray(found, float).reshape(-1, 4) * ratio).astype(int)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]

    def near(self, image, box):
        """Boxes of the faces near a known one: float (k, 4) of x, y, width, height in the frame's pixels.

        Args:
            image: uint8 (h, w, 3), BGR.
            box: x, y, width, height in pixels; may reach out of the frame.
        """
        x, y, w, h = box
        left, right = (max(0, int(at)) for at in (x - NEAR_MARGIN * w, x + (1 + NEAR_MARGIN) * w))
        top, bottom = (max(0, int(at)) for at in (y - NEAR_MARGIN * h, y + (1 + NEAR_MARGIN) * h))
        part = image[top:bottom, left:right]
        scale = NEAR_SIDE / w
        size = tuple(round(side * scale) for side in part.shape[1::-1])
        smallest = max(NEAR_SIZES[0], self.smallest_face * min(image.shape[:2]) / w)
        if min(size) < smallest * NEAR_SIDE:
            return np.empty((0, 4))
        grey = cv2.resize(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        least, most = ((round(share * w * scale), round(share * h * scale)) for share in (smallest, NEAR_SIZES[1]))
        found = self.cascade.detectMultiScale(grey, NEAR_SCALE_FACTOR, NEAR_NEIGHBORS, minSize=least, maxSize=most)
        return np.asarray(found, float).reshape(-1, 4) * (part.shape[1] / size[0]) + (left, top, 0, 0)
