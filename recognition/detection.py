"""Detection: a Haar cascade finds the faces in a picture.

    detect = FaceDetector(find_cascade("haarcascade_frontalface_default.xml"))
    boxes = detect(image)  # int (k, 4): x, y, width, height

Importing this module imports neither TensorFlow nor Keras.
"""

from pathlib import Path

import cv2
import imutils
import numpy as np

from command_line import UserError

CASCADES = Path(__file__).resolve().parents[1] / "haarcascade_files"

# The search near a known face.  The part of the frame around the face is scaled, so that every face takes the same
# time.  It is scaled to a small size, because OpenCV tests only every other pixel for windows below 48 pixels, which is
# four times faster.
NEAR_SIDE = 32  # pixels to which the face is scaled
NEAR_SIZES = (0.75, 1.5)  # smallest and largest size looked for, in sizes of the known face
NEAR_MARGIN = 0.25  # searched on each side of the face, in face sides
NEAR_SCALE_FACTOR = 1.15  # step between the sizes looked for
NEAR_NEIGHBORS = 2  # fewer than in the whole frame: the search is coarser, and a face is expected here


def find_cascade(name: str | Path) -> Path:
    """Return the path of a Haar cascade.

    Args:
        name: A path, or the name of a file in haarcascade_files/ or among the cascades that OpenCV brings.

    Raises:
        UserError: There is no such file, or the installed OpenCV has no Haar cascades.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            f"faces are found with Haar cascades, which OpenCV {cv2.__version__} no longer has; install OpenCV 4: "
            'pip install "opencv-python>=4.12,<5"'
        )
    bundled = Path(cv2.data.haarcascades)
    candidates = [Path(name), CASCADES / name, bundled / name]
    for path in candidates if candidates[0].parent == Path() else candidates[:1]:
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise UserError(f"cascade {name} can't be read ({error.strerror}): check its path") from error
    names = sorted(path.name for path in bundled.glob("*frontalface*.xml"))
    raise UserError(
        f"no cascade {name}, neither here, nor in haarcascade_files/, nor in OpenCV; it has {', '.join(names)}"
    )


class FaceDetector:
    """Finds faces with a Haar cascade on a reduced grey frame.

    Source: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features" (2001).

    Args:
        cascade_path: An XML file of OpenCV's kind.
        side: Pixels to which the shorter side of a larger frame is reduced first.
        scale_factor: Step between the face sizes looked for, above 1.
        min_neighbors: Number of overlapping finds that make a face.
        smallest_face: Side of the smallest face, as a share of the frame's shorter side.

    Raises:
        UserError: The file is not a Haar cascade.
    """

    def __init__(
        self,
        cascade_path: str | Path,
        side: int = 960,
        scale_factor: float = 1.2,
        min_neighbors: int = 5,
        smallest_face: float = 0.1,
    ):
        self.side, self.scale_factor, self.min_neighbors = side, scale_factor, min_neighbors
        self.smallest_face = smallest_face
        try:
            self.cascade = cv2.CascadeClassifier(str(cascade_path))
            loaded = not self.cascade.empty()
        except (cv2.error, SystemError):
            loaded = False
        if not loaded:
            raise UserError(f"{cascade_path} is not a Haar cascade that OpenCV can read: copy or download it again")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Find the faces in a whole frame.

        Args:
            image: uint8 (h, w, 3), BGR.

        Returns:
            int (k, 4): x, y, width, height in the frame's pixels, the largest face first.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        ratio = max(1, min(grey.shape) / self.side)
        if ratio > 1:
            grey = imutils.resize(grey, width=round(grey.shape[1] / ratio), inter=cv2.INTER_AREA)
            ratio = image.shape[1] / grey.shape[1]
        side = max(24, round(self.smallest_face * min(grey.shape)))
        found = self.cascade.detectMultiScale(grey, self.scale_factor, self.min_neighbors, minSize=(side, side))
        boxes = np.rint(np.asarray(found, float).reshape(-1, 4) * ratio).astype(int)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]

    def near(self, image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        """Find the faces near a known face; this takes about a tenth of the time of a search in the whole frame.

        Args:
            image: uint8 (h, w, 3), BGR.
            box: The known face: x, y, width, height in pixels.  The box may reach out of the frame.

        Returns:
            float (k, 4): x, y, width, height in the frame's pixels.
        """
        x, y, w, h = box
        left, right = (max(0, int(edge)) for edge in (x - NEAR_MARGIN * w, x + (1 + NEAR_MARGIN) * w))
        top, bottom = (max(0, int(edge)) for edge in (y - NEAR_MARGIN * h, y + (1 + NEAR_MARGIN) * h))
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
