"""Recognizer: from images, folders and videos to faces with the emotions that they show, for use from Python.

    from recognition import EmotionRecognizer

    recognizer = EmotionRecognizer()
    for face in recognizer("photo.jpg"):
        print(face.box, face.emotion, face.confidence)

The live script is built on the same object.  Importing this module imports neither TensorFlow nor Keras.
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import cv2
import numpy as np

from command_line import UserError, printable
from models.classifier import Crops, EmotionClassifier
from recognition.annotation import Annotator
from recognition.detection import DEFAULT_CASCADE, FaceDetector, find_detector, open_detector
from recognition.sources import VIDEO_SUFFIXES, Frame, Live, Source, Stills, expand_sources, open_source
from recognition.tracking import (
    Box,
    Face,
    FaceTracker,
    Smoother,
    Track,
    TrackedFace,
    detect_in_stills,
    take_whole_images,
)

if TYPE_CHECKING:
    import pandas
    from PIL import Image

MODELS = Path(__file__).resolve().parents[1] / "models"
# The average of three networks; the first two count twice.  models/README.md says why.
DEFAULT_MODELS = (
    *[MODELS / "simple_CNN.people.hdf5", MODELS / "mini_XCEPTION.people.hdf5"] * 2,
    MODELS / "big_XCEPTION.hdf5",
)
COLUMNS = ("source", "frame", "time_s", "face", "x", "y", "width", "height", "emotion", "confidence", "uncertain")
TO_BGR = {  # by the order of the channels and their number
    ("BGR", 4): cv2.COLOR_BGRA2BGR,
    ("RGB", 3): cv2.COLOR_RGB2BGR,
    ("RGB", 4): cv2.COLOR_RGBA2BGR,
}

LARGE_CROP = 128  # pixels, the shorter side: an image may be larger than that by mistake, where it is taken for a face
SMALL_FACE = 0.4  # of the shorter side: crops hold a larger face

Picture = Union[str, Path, np.ndarray, "Image.Image"]
Recognize = Callable[[np.ndarray, float], list[Face]]  # what `EmotionRecognizer.follow` does with a frame


# ----------------------------------------------------------------------------------------------------------
# What is found


@dataclass(frozen=True, eq=False)
class RecognizedFace:
    """A face in an image, and the emotion that it shows.

    Attributes:
        number: Of the face in its image, from 0.
        box: x, y, width, height in pixels.
        roll: Radians by which the face is turned around the box's centre, clockwise positive.
        emotion: The most probable emotion.
        confidence: Its probability.
        uncertain: Whether the confidence is below the recognizer's `uncertain_below`.
        probabilities: Of all emotions, by name.
    """

    number: int
    box: Box
    roll: float
    emotion: str
    confidence: float
    uncertain: bool
    probabilities: dict[str, float]
    _classify: EmotionClassifier = field(repr=False)
    _crops: Crops = field(repr=False)  # what the networks saw

    def heat_map(self, emotion: str | None = None) -> np.ndarray:
        """Show which parts of the face raise the probability of an emotion.

        Args:
            emotion: Its name; None for the face's own.

        Returns:
            float32 (h, w) from 0 to 1, as large as the network's input; to be stretched over the box.  See
            `EmotionClassifier.heat_maps`.

        Raises:
            ValueError: The recognizer does not name this emotion.
        """
        label = self._classify.emotions.index(emotion or self.emotion)
        return self._classify.explain_crops(self._crops, [label])[0]


# ----------------------------------------------------------------------------------------------------------
# The recognizer


class EmotionRecognizer:
    """Finds the faces in images and names the emotion that each face shows.

    Every argument is a flag of the live script, and has the same default.  One object serves one thread at a time.

    Args:
        model: A checkpoint; the probabilities of several checkpoints are averaged.
        emotions: Labels in the order of the outputs, for a checkpoint whose file names none.
        input_range: What the network takes for black and for white, for a checkpoint whose file does not say it.
        flip: Whether to average in each face's mirror image: a little more accurate, for twice the time.
        smoothing: Of videos: time constant in seconds of each face's average over time; 0: no average.
        label_lead: Of videos: probability by which another emotion must lead to take the label at once.
        uncertain_below: Probability under which a face is uncertain.
        detector: "haar", "blazeface", or the path of YuNet's .onnx file.
        smallest_face: Of videos: side of the smallest face, as a share of the frame's shorter side.
        still_smallest_face: The same for images.
        cascade: Of "haar": a path, or the name of a file in haarcascade_files/ or in OpenCV.
        detection_side: Of "haar", of videos: pixels to which the shorter side of larger frames is reduced.
        still_detection_side: The same for images.
        scale_factor: Of "haar", of videos: step between the face sizes looked for.
        still_scale_factor: The same for images.
        min_neighbors: Of "haar": overlapping finds that make a face.

    Attributes:
        classify: The networks: an `EmotionClassifier`.
        emotions: The labels, in the order of the probabilities.
        detector_path: The detector's file.

    Raises:
        UserError: A checkpoint or a detector is missing, or can't be read.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path] = DEFAULT_MODELS,
        *,
        emotions: Sequence[str] | None = None,
        input_range: tuple[float, float] | None = None,
        flip: bool = False,
        smoothing: float = 0.15,
        label_lead: float = 0.2,
        uncertain_below: float = 0.4,
        detector: str | Path = "haar",
        smallest_face: float = 0.067,
        still_smallest_face: float = 0.03,
        cascade: str | Path = DEFAULT_CASCADE,
        detection_side: int = 360,
        still_detection_side: int = 960,
        scale_factor: float = 1.2,
        still_scale_factor: float = 1.1,
        min_neighbors: int = 5,
    ):
        models = [model] if isinstance(model, str | os.PathLike) else model
        self.classify = EmotionClassifier(models, flip, emotions, input_range)
        self.emotions = self.classify.emotions
        self.smoothing, self.label_lead, self.uncertain_below = smoothing, label_lead, uncertain_below
        self.detector_path = find_detector(detector, cascade)
        self._detector_settings = {  # by whether the pictures are images
            False: (detection_side, scale_factor, min_neighbors, smallest_face),
            True: (still_detection_side, still_scale_factor, min_neighbors, still_smallest_face),
        }
        self._detectors: dict[bool, FaceDetector] = {}

    def __call__(
        self,
        images: Picture | Iterable[Picture],
        *,
        boxes: Any = None,
        cropped: bool = False,
        channels: str | None = None,
    ) -> list[RecognizedFace] | list[list[RecognizedFace]]:
        """Find the faces in one image or in several, and name their emotions.

        The faces of all images go through the networks together, which is faster than one after the other.

        Args:
            images: The path of an image, an array, a PIL image, or a list of these.  An array is uint8 (h, w),
                (h, w, 1), (h, w, 3) or (h, w, 4); of shape (n, h, w, c), it is n images.  A PIL image is turned
                upright as its EXIF tag says; so are files.
            boxes: Where the faces are, in place of looking for them: (k, 4) x, y, width, height in pixels; of several
                images, one such array per image.
            cropped: Whether every image is one face, as it is.
            channels: "BGR" or "RGB": the order of the channels in arrays of colour.  OpenCV gives BGR; PIL, imageio and
                scikit-image give RGB.

        Returns:
            The faces of the image, from left to right, or in the order of `boxes`.  Of several images, one such list
            per image.

        Raises:
            UserError: An image file is missing, or can't be read.
            TypeError, ValueError: An array is no image, `channels` is missing, or `boxes` do not fit.
        """
        if not _are_several(images):
            return self([images], boxes=None if boxes is None else [boxes], cropped=cropped, channels=channels)[0]
        if boxes is not None and cropped:
            raise ValueError("an image is cropped, or has boxes; found both")
        images = [*images]
        if not images:
            return []
        if boxes is not None and len(boxes) != len(images):
            raise ValueError(f"each image has its array of boxes; found {len(images)} images and {len(boxes)} arrays")
        track, found, crops = self._track(still=True, cropped=cropped), [], []
        for image, its_boxes in zip(images, itertools.repeat(None) if boxes is None else boxes, strict=False):
            image = read_image(image, channels)
            tracked = track(image, 0.0) if boxes is None else _check_boxes(its_boxes, image)
            found.append(tracked)
            crops.append(self.classify.crop(image, *_poses(tracked)))
        crops = {size: np.concatenate([each[size] for each in crops]) for size in self.classify.sizes}
        all_found, probabilities = [*itertools.chain(*found)], self.classify.classify_crops(crops)
        faces = self._smoother(still=True)(all_found, probabilities, 0.0)
        named = (self._name(face, crops, index) for index, face in enumerate(faces))
        return [list(itertools.islice(named, len(each))) for each in found]

    def follow(self, still: bool = False, cropped: bool = False) -> Recognize:
        """Return a function that names the emotions in the frames of one source, called once per frame.

        The function takes a frame, uint8 (h, w, 3), BGR, and its time in seconds.  It follows each face from frame to
        frame, averages its probabilities over time, and keeps its label steady.  A face's `best` is an index of
        `emotions`.

        Args:
            still: Whether the frames are images that have nothing to do with each other.
            cropped: Whether every frame is one face, as it is.
        """
        track, smooth = self._track(still, cropped), self._smoother(still)

        def recognize(image, time_s):
            tracked = track(image, time_s)
            return smooth(tracked, self.classify(image, *_poses(tracked)), time_s)

        return recognize

    def table(
        self,
        sources: Picture | Iterable[Picture],
        *,
        cropped: bool = False,
        channels: str | None = None,
        progress: bool = True,
    ) -> "pandas.DataFrame":
        """Return a table of all faces in images, folders and videos: a row per face per frame.

        The faces of a video are followed, and their probabilities are averaged over time, as in the live script.  Files
        that can't be read are named on standard error and left out; if there is only one, its error is raised.

        Args:
            sources: What a call takes, or a folder, or a video, or a list of all these.
            cropped: Whether every frame is one face, as it is.
            channels: Of arrays, as in a call.
            progress: Whether to show a progress bar.

        Returns:
            The columns source, frame, time_s (of images, NaN), face (the face's number), x, y, width, height, emotion,
            confidence, uncertain, and the probability of each emotion.

        Raises:
            UserError: A path does not exist, the only source can't be read or is a camera, or pandas is not installed.
                Of several sources, one that can't be read gets a line on standard error, and no rows.
            TypeError, ValueError: An array or a PIL image is not as a call takes it.
        """
        try:
            import pandas  # here: it takes time to import, and the rest does not need it
        except ModuleNotFoundError as error:
            raise UserError("a table needs pandas: pip install pandas") from error
        opened = _sources(sources, channels)
        rows = []
        for source in opened:
            try:
                rows += self._rows(source, cropped, progress)
            except UserError as error:
                if len(opened) == 1:
                    raise
                print(f"error: {printable(str(error))}", file=sys.stderr)
        return pandas.DataFrame(rows, columns=[*COLUMNS, *self.emotions])

    def draw(
        self,
        image: Picture,
        faces: Sequence[RecognizedFace],
        *,
        heat_maps: bool = False,
        language: str = "en",
        channels: str | None = None,
    ) -> "np.ndarray | Image.Image":
        """Draw the faces' boxes, labels and probabilities over a copy of an image.

        Args:
            image: As in a call.
            faces: What a call gave for the image.
            heat_maps: Whether to show where the network looked.
            language: Of the labels: "en" or "fr".
            channels: Of an array, as in a call; the picture has the same order.

        Returns:
            A PIL image for a PIL image, else uint8 (h, w, 3), of a file BGR.  The picture may be larger than the image
            at the right or below, where the bars would hide a face.
        """
        drawn = [
            Face(face.number, face.box, np.array([*face.probabilities.values()]), face.roll, uncertain=face.uncertain)
            for face in faces
        ]
        maps = [face.heat_map() for face in faces] if heat_maps else None
        annotate = Annotator(self.emotions, language)
        picture = annotate.draw(read_image(image, channels), drawn, heat_maps=maps, may_grow=True)
        if _is_pil(image):
            return sys.modules["PIL.Image"].fromarray(np.ascontiguousarray(picture[..., ::-1]))
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if channels == "RGB" else picture

    def _track(self, still: bool, cropped: bool) -> Track:
        """Return what finds the faces in the frames of a source."""
        if cropped:
            return self._take_whole_images(still)
        if not still:
            return FaceTracker(self._open_detector(still))
        return detect_in_stills(self._open_detector(still))

    def _take_whole_images(self, still):
        """Return `take_whole_images` with a notice where the first large image is no face, but holds a small one."""
        looked = False

        def track(image, time_s):
            nonlocal looked
            side = min(image.shape[:2])
            if not looked and side > LARGE_CROP:
                looked, found = True, detect_in_stills(self._open_detector(still))(image, time_s)
                if found and (largest := max(face.box[2] for face in found)) < SMALL_FACE * side:
                    print(
                        f"notice: cropped images are taken for faces as a whole; found one of {image.shape[1]}x"
                        f"{image.shape[0]} pixels with a face of {largest}: a photograph is no crop",
                        file=sys.stderr,
                    )
            return take_whole_images(image, time_s)

        return track

    def _open_detector(self, still):
        """Return the detector for images, or the one for videos; it remembers nothing between two pictures."""
        if still not in self._detectors:
            self._detectors[still] = open_detector(self.detector_path, still, *self._detector_settings[still])
        return self._detectors[still]

    def _smoother(self, still):
        """Return what averages over time; images have no time between them."""
        return Smoother(*((0, 0) if still else (self.smoothing, self.label_lead)), self.uncertain_below)

    def _name(self, face: Face, crops: Mapping, index: int) -> RecognizedFace:
        """Return a face with names in place of numbers, and what the networks saw of it: a row of the crops."""
        probabilities = dict(zip(self.emotions, face.probabilities.tolist(), strict=True))
        emotion = self.emotions[face.best]
        seen = {size: each[index : index + 1] for size, each in crops.items()}
        return RecognizedFace(
            face.identity,
            face.box,
            face.roll,
            emotion,
            probabilities[emotion],
            face.uncertain,
            probabilities,
            self.classify,
            seen,
        )

    def _rows(self, source, cropped, progress):
        """Give the rows of one source's faces."""
        with source if isinstance(source, Source) else open_source(source, endless=False) as frames:
            if isinstance(frames, Live):
                raise UserError(f"a table is made of images and videos; found {frames.label}, which has no end")
            recognize = self.follow(frames.still, cropped)
            for frame in show_progress(frames, disable=not progress):
                name, time_s = str(frame.path or frame.name), np.nan if frames.still else frame.time_s
                for face in recognize(frame.image, frame.time_s):
                    probabilities = face.probabilities.tolist()
                    shown = self.emotions[face.best], probabilities[face.best], face.uncertain
                    yield name, frame.number, time_s, face.identity, *face.box, *shown, *probabilities


def show_progress(frames: Source, disable: bool | None = None) -> Iterable[Frame | None]:
    """Return the frames, with a progress bar on standard error.

    Args:
        frames: The source.
        disable: Whether to show no bar; None: a bar only in a terminal.
    """
    if disable or (disable is None and not sys.stderr.isatty()):
        return frames
    from tqdm import tqdm  # here: takes time to import

    unit = " images" if frames.still else " frames"
    return tqdm(frames, printable(frames.name), frames.count or None, unit=unit, leave=False, disable=disable)


# ----------------------------------------------------------------------------------------------------------
# From what the caller has to BGR


def read_image(image: Picture, channels: str | None = None) -> np.ndarray:
    """Return an image as uint8 (h, w, 3), BGR; see `EmotionRecognizer.__call__` for arguments and errors."""
    if isinstance(image, str | os.PathLike):
        return _read_file(Path(image))
    if _is_pil(image):
        if image.mode.startswith(("I", "F")):
            raise TypeError(f"a PIL image must have 8 bits; found mode {image.mode}: scale it, and convert it to L")
        from PIL import ImageOps  # here: the image's own package

        image, channels = np.asarray(ImageOps.exif_transpose(image).convert("RGB")), "RGB"
    if not isinstance(image, np.ndarray):
        hint = ": cv2.imread gives None for a file that it can't read" * (image is None)
        raise TypeError(f"an image is a path, a NumPy array or a PIL image; found {type(image).__name__}{hint}")
    depth = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or depth not in (1, 3, 4) or not image.size:
        raise ValueError(f"an image has the shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); found {image.shape}")
    if image.dtype != np.uint8:
        raise TypeError(f"an image is uint8, from 0 to 255; found {image.dtype}: scale and convert it")
    image = np.ascontiguousarray(image)
    if depth == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if channels not in ("BGR", "RGB"):
        raise ValueError(
            f'channels must be "BGR" (from OpenCV) or "RGB" (from PIL, imageio, scikit-image); found {channels!r}'
        )
    return cv2.cvtColor(image, TO_BGR[channels, depth]) if (channels, depth) in TO_BGR else image


def _read_file(path):
    """Return the image in a file, uint8 (h, w, 3), BGR."""
    if path.is_dir() or (path.suffix.lower() in VIDEO_SUFFIXES and path.exists()):
        raise UserError(f"an image is one file; found {path}: table() takes folders and videos")
    if not path.exists():
        raise UserError(f"an image is a file here; nothing at {path}: check its name and the current folder")
    with Stills([path]) as frames:
        return next(iter(frames)).image


def _is_pil(image):
    """Return whether an object is a PIL image; if PIL was not imported, there is none."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def _are_several(images):
    """Return whether an argument holds several images: an array of four dimensions, or a list and the like."""
    if isinstance(images, np.ndarray):
        return images.ndim == 4
    return not isinstance(images, str | os.PathLike) and not _is_pil(images) and isinstance(images, Iterable)


class _Pictures(Source):
    """Images in memory."""

    still = True

    def __init__(self, images: Sequence, channels: str | None):
        super().__init__()
        self.images, self.channels, self.name, self.count = images, channels, "images", len(images)

    def __iter__(self) -> Iterator[Frame]:
        for number, image in enumerate(self.images):
            yield Frame(number, float(number), read_image(image, self.channels), "")


def _sources(names, channels):
    """Return the sources that an argument of `table` names, in their order: what `open_source` takes, or a `Source`."""

    def is_named(source):
        return isinstance(source, str | os.PathLike | int)

    sources = []
    for named, group in itertools.groupby(names if _are_several(names) else [names], is_named):
        together = [*group]
        sources += expand_sources(together) if named else [_Pictures(together, channels)]
    return sources


# ----------------------------------------------------------------------------------------------------------
# Boxes


def _poses(tracked):
    """Return boxes and rolls, as the classifier takes them."""
    return [face.box for face in tracked], [face.roll for face in tracked]


def _check_boxes(boxes, image):
    """Return the caller's boxes as faces, numbered in their order."""
    table = np.asarray(boxes, float).reshape(-1, 4) if np.size(boxes) in (0, 4) else np.asarray(boxes, float)
    if table.ndim != 2 or table.shape[1] != 4 or not np.isfinite(table).all():
        raise ValueError(f"boxes are numbers (k, 4): x, y, width, height; found {boxes!r}")
    table, (height, width) = np.rint(table).astype(int).tolist(), image.shape[:2]
    for x, y, w, h in table:
        if min(w, h) < 1 or x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise ValueError(f"a box must hold a part of the image, {width}x{height} pixels; found {[x, y, w, h]}")
    return [TrackedFace(number, tuple(box)) for number, box in enumerate(table)]
