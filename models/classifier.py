"""From the faces of a frame to probabilities of emotions, and to heat maps that show what the networks looked at.

Importing this module imports neither TensorFlow nor Keras: it runs compiled checkpoints.
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from command_line import UserError, printable, quiet_start
from load_and_process import preprocess_images, resize_face
from models.checkpoint import (
    check_probabilities,
    compile_to_cache,
    complete_headers,
    emotions_of,
    find_compiled,
    read_header,
)

GRID = 5  # a heat map is made from GRID x GRID parts of a face; at most 5
BATCH_SIZE = 64  # faces that go through the networks together; more would take more memory, and no less time

Crops = dict[tuple[int, int], np.ndarray]  # k faces at each of the input sizes: uint8 (k, height, width, 1)

# ----------------------------------------------------------------------------------------------------------
# Faces


def crop_faces(
    image: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int], rolls: Sequence[float] | None = None
) -> np.ndarray:
    """Cut the faces out of a frame, as networks see faces.

    Args:
        image: uint8 (h, w, 3), BGR.
        boxes: int (k, 4): x, y, width, height in pixels; what lies outside the frame is left out.
        image_size: Height and width of the result in pixels.
        rolls: Radians (k,), clockwise: how far each face is turned around its box's centre; None: all are upright.

    Returns:
        uint8 (k, height, width, 1), the faces upright.
    """
    faces = np.empty((len(boxes), *image_size, 1), np.uint8)
    rolls = np.zeros(len(boxes)) if rolls is None else rolls
    for face, box, roll in zip(faces, boxes, rolls, strict=True):
        face[:] = resize_face(crop_box(image, box, roll), image_size)
    return faces


def crop_box(image: np.ndarray, box: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """Return the part of an image that is in a box.

    Args:
        image: (h, w, ...).
        box: int (4,): x, y, width, height in pixels; what lies outside the image is left out, and in a turned box it is
            filled with the nearest pixels.
        roll: Radians, clockwise: how far the box is turned around its centre.

    Returns:
        (height, width, ...): a view of the image; of a turned box, a new image, in which the box is upright.
    """
    x, y, w, h = box
    if not roll:
        return image[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]
    cos, sin = np.cos(roll), np.sin(roll)
    back = np.array([(cos, -sin, 0), (sin, cos, 0)])  # from the upright box to the image
    back[:, 2] = (x + (w - 1) / 2, y + (h - 1) / 2) - back[:, :2] @ ((w - 1) / 2, (h - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, back, (int(w), int(h)), flags=flags, borderMode=cv2.BORDER_REPLICATE)


# ----------------------------------------------------------------------------------------------------------
# Classifier


class EmotionClassifier:
    """One or several checkpoints in their compiled form; the result is the mean of their probabilities.

    Args:
        paths: Checkpoints with the same emotions in the same order; their input sizes may differ.  A checkpoint that is
            named twice counts twice, and runs once.
        flip: Whether a call averages in each face's mirror image, which takes twice the time.
        emotions: Labels in the order of the outputs, for the checkpoints whose file names none.
        input_range: What a network takes for black and for white, for the checkpoints whose file does not say it.

    Attributes:
        emotions: The labels, in the order of the probabilities.
        sizes: The networks' input sizes (height, width), each once.
        headers: {path: what the checkpoint says of its network}.

    Raises:
        UserError: A checkpoint can't be read or compiled, its emotions differ, or LiteRT can't run it.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        flip: bool = False,
        emotions: Sequence[str] | None = None,
        input_range: tuple[float, float] | None = None,
    ):
        self._arguments = paths, flip, emotions, input_range
        self.networks, self.emotions, self.flip = [], None, flip
        different = list(dict.fromkeys(paths))  # one that is named twice runs once, and counts twice
        self._network_index = [different.index(path) for path in paths]
        headers = complete_headers(different, [read_header(path) for path in different], emotions, input_range)
        self.headers = dict(zip(different, headers, strict=True))
        for path, header in self.headers.items():
            network = _load_compiled(path, header)
            emotions = emotions_of(header, network.output_count, path)
            if self.emotions not in (None, emotions):
                raise UserError(
                    f"models that are averaged name the same emotions in the same order; {paths[0]} names "
                    f"{', '.join(self.emotions)}; found {path} with {', '.join(emotions)}: use one of them"
                )
            self.emotions = emotions
            self.networks.append((header.input_shape[:2], network))
        self.sizes = tuple(dict.fromkeys(size for size, _ in self.networks))

    def __call__(self, image: np.ndarray, boxes: np.ndarray, rolls: Sequence[float] | None = None) -> np.ndarray:
        """Compute the probabilities of the faces in a frame.

        Args:
            image: uint8 (h, w, 3), BGR.
            boxes: int (k, 4): x, y, width, height in pixels.
            rolls: See `crop_faces`.

        Returns:
            float32 (k, emotions), each row summing to 1.
        """
        return self.classify_crops(self.crop(image, boxes, rolls))

    def clone(self) -> "EmotionClassifier":
        """Return the same classifier once more, for another thread: LiteRT runs a network in one thread at a time."""
        return EmotionClassifier(*self._arguments)

    def crop(self, image: np.ndarray, boxes: np.ndarray, rolls: Sequence[float] | None = None) -> Crops:
        """Cut the faces out of a frame, for `classify_crops` and `explain_crops`; the arguments are those of a call."""
        return {size: crop_faces(image, boxes, size, rolls) for size in self.sizes}

    def classify_crops(self, crops: Crops) -> np.ndarray:
        """Compute the probabilities of faces from one frame or from many, BATCH_SIZE at a time.

        Args:
            crops: Of k faces.

        Returns:
            float32 (k, emotions), each row summing to 1.
        """
        count = len(crops[self.sizes[0]])
        probabilities = np.empty((count, len(self.emotions)), np.float32)
        for start in range(0, count, BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            faces = {size: preprocess_images(each[batch]) for size, each in crops.items()}
            probabilities[batch] = self._mean_probabilities(faces)
            if self.flip:
                mirrored = {size: each[:, :, ::-1] for size, each in faces.items()}
                probabilities[batch] = (probabilities[batch] + self._mean_probabilities(mirrored)) / 2
        return probabilities

    def predict(self, faces: np.ndarray) -> np.ndarray:
        """Compute the probabilities of faces that are already cropped; `flip` has no effect here.

        Args:
            faces: float32 (k, height, width, 1) in [-1, 1], k > 0, at the only input size of the networks.

        Returns:
            float32 (k, emotions), each row summing to 1.
        """
        return self._mean_probabilities(dict.fromkeys(self.sizes, faces))

    def heat_maps(
        self, image: np.ndarray, boxes: np.ndarray, labels: Sequence[int], rolls: Sequence[float] | None = None
    ) -> np.ndarray:
        """Show which parts of each face raise the probability of a label.

        Each face is classified 64 times.  Each of its 25 parts is blurred, which hides it, in half of these times.  The
        heat of a part is the mean log-probability of the label while the part is visible, minus the mean while the part
        is hidden.  This is RISE (Petsiuk, Das and Saenko 2018, arXiv:1806.07421) with balanced patterns in place of
        random ones.  It works with any network.

        Args:
            image: uint8 (h, w, 3), BGR.
            boxes: int (k, 4): x, y, width, height in pixels.
            labels: int (k,): The emotion asked about in each face, as an index of `emotions`.
            rolls: See `crop_faces`.

        Returns:
            float32 (k, height, width) in [0, 1], as large as the first network's input; stretch each map over its box.
            Each map is divided by its largest absolute heat.  1 is the part that raises the probability most, however
            little that is.  0 is a part that does not raise the probability.  A map has no 1 where the part with the
            largest absolute heat lowers the probability, which is likely for a label that the network does not predict.

        Raises:
            ValueError: There is not one label per box.
        """
        return self.explain_crops(self.crop(image, boxes, rolls), labels)

    def explain_crops(self, crops: Crops, labels: Sequence[int]) -> np.ndarray:
        """Make the heat maps of faces from one frame or from many, see `heat_maps`.

        Args:
            crops: Of k faces.
            labels: int (k,): The emotion asked about in each face, as an index of `emotions`.
        """
        count = len(crops[self.sizes[0]])
        maps = np.empty((count, *self.sizes[0]), np.float32)
        for index, label in zip(range(count), labels, strict=True):  # one face at a time, to bound the memory
            hidden = {size: _hide_parts(preprocess_images(each[index])) for size, each in crops.items()}
            log_probabilities = np.log(np.maximum(self._mean_probabilities(hidden)[:, label], 1e-12))
            heat = _enlarge(np.tensordot(log_probabilities, PATTERNS, 1), self.sizes[0])
            maps[index] = heat / (np.abs(heat).max() or 1)
        return np.maximum(maps, 0)

    def _mean_probabilities(self, faces):
        """Return the mean over the networks, float32 (k, emotions); `faces` has one array per input size, k > 0."""
        outputs = [network(faces[size]) for size, network in self.networks]
        if len(self._network_index) == 1:
            return outputs[0]
        return np.mean([outputs[index] for index in self._network_index], axis=0)


class _CompiledNetwork:
    """A compiled checkpoint, ready to run: called with faces float32 (k, h, w, 1), it returns float32 (k, emotions)."""

    def __init__(self, compiled, path):
        from ai_edge_litert.interpreter import Interpreter

        with quiet_start():
            self._interpreter = Interpreter(str(compiled), num_threads=1)
            self._interpreter.allocate_tensors()
        (inputs,), (outputs, *_) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output, self._batch_size = inputs["index"], outputs["index"], inputs["shape"][0]
        self.output_count, self._path = int(outputs["shape_signature"][-1]), path

    def __call__(self, faces):
        if self._batch_size != len(faces):
            self._interpreter.resize_tensor_input(self._input, faces.shape)  # microseconds
            self._interpreter.allocate_tensors()
            self._batch_size = len(faces)
        self._interpreter.set_tensor(self._input, faces)
        self._interpreter.invoke()
        probabilities = self._interpreter.get_tensor(self._output)
        check_probabilities(probabilities, self._path)
        return probabilities


def _load_compiled(path, header):
    """Return a checkpoint's compiled network; a damaged compiled form is made again."""
    for compiled in find_compiled(path, header):
        try:
            return _CompiledNetwork(compiled, path)
        except (ValueError, RuntimeError):  # LiteRT raises them while it checks the file
            print(printable(f"notice: {compiled} is damaged and ignored"), file=sys.stderr)
    compiled = compile_to_cache(path, header)
    try:
        return _CompiledNetwork(compiled, path)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"a network must run in LiteRT; found {path}, which does not: use another") from error


# ----------------------------------------------------------------------------------------------------------
# Hiding parts of faces, for heat maps


def _patterns():
    """Return float32 (64, GRID, GRID), 1 visible, -1 hidden: each part is hidden in half of the patterns.

    Any two parts are hidden together in a quarter of the patterns, so their effects can be told apart.
    """
    signs = np.ones((1, 1), np.float32)
    for _ in range(5):  # Hadamard matrix: its columns, except the first, are balanced and orthogonal
        signs = np.kron(np.float32([[1, 1], [1, -1]]), signs)
    half = signs[:, -(GRID**2) :].reshape(-1, GRID, GRID)
    return np.concatenate([half, -half])  # with the opposites, the joint effects of two parts cancel


PATTERNS = _patterns()


def _enlarge(grid, size):
    """Return a grid (GRID, GRID) enlarged smoothly to (height, width)."""
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)


@lru_cache
def _visibility(size):
    """Return the patterns as float32 (64, height, width) in [0, 1], 1 where the face is visible."""
    return np.clip([_enlarge((pattern + 1) / 2, size) for pattern in PATTERNS], 0, 1)


def _hide_parts(face):
    """Return one face (h, w, 1) under every pattern, (64, h, w, 1); a blur of a sixth of the height hides parts."""
    height, width, _ = face.shape
    blurred = cv2.GaussianBlur(face, (0, 0), height / 6)
    return (blurred + _visibility((height, width)) * (face[..., 0] - blurred))[..., None]
