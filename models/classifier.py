"""Naming emotions, and showing where in a face they were seen: compiled checkpoints, run on the faces of a frame.

Importing this module imports neither TensorFlow nor Keras.
"""

import sys
from functools import lru_cache

import cv2
import numpy as np

from command_line import UserError, quiet_start
from load_and_process import preprocess_images, resize_face
from models.checkpoint import compiled_forms, emotions_of, read_header

GRID = 5  # a heat map is made from GRID x GRID parts of a face; at most 5


def crop_faces(image, boxes, image_size):
    """The boxes of a frame as training sees faces.

    Args:
        image: uint8 (h, w, 3), BGR.
        boxes: int (k, 4): x, y, width, height in pixels; what lies outside the frame is left away.
        image_size: (height, width) of the result.

    Returns:
        uint8 (k, height, width, 1).
    """
    faces = np.empty((len(boxes), *image_size, 1), np.uint8)
    for face, box in zip(faces, boxes, strict=True):
        face[:] = resize_face(crop_box(image, box), image_size)
    return faces


def crop_box(image, box):
    """The part of an image (h, w, ...) in a box x, y, width, height; what lies outside the image is left away."""
    x, y, w, h = np.maximum(box, 0)
    return image[y : y + h, x : x + w]


class EmotionClassifier:
    """One or several checkpoints in their compiled form, averaged.

    Args:
        paths: `.hdf5` files that name the same emotions in the same order; their input sizes may differ.
        flip: average in each face's mirror image when it is called.  It takes twice the time.

    Raises:
        FileNotFoundError, ValueError: as `compile_checkpoint`, the emotions differ, or LiteRT can't run a network.
    """

    def __init__(self, paths, flip=False):
        self.networks, self.emotions, self.flip = [], None, flip
        for path in paths:
            header, network = read_header(path), _start(path)
            emotions = emotions_of(header, int(network.get_output_details()[0]["shape_signature"][-1]), path)
            if self.emotions not in (None, emotions):
                raise UserError(
                    f"models that are averaged name the same emotions in the same order; {paths[0]} names "
                    f"{', '.join(self.emotions)}; {path} {', '.join(emotions)}"
                )
            self.emotions = emotions
            self.networks.append((header.input_shape[:2], network))
        self.sizes = tuple(dict.fromkeys(size for size, _ in self.networks))

    def __call__(self, image, boxes):
        """Probabilities of the faces in the boxes of a BGR frame: float32 (k, emotions), each row summing to 1."""
        if not len(boxes):
            return np.empty((0, len(self.emotions)), np.float32)
        faces = self._faces(image, boxes)
        if not self.flip:
            return self._probabilities(faces)
        both = {size: np.concatenate([same, same[:, :, ::-1]]) for size, same in faces.items()}
        return self._probabilities(both).reshape(2, len(boxes), -1).mean(axis=0)

    def predict(self, faces):
        """Probabilities of faces, float32 (k, h, w, 1) in [-1, 1] at the networks' one input size, k > 0."""
        return self._probabilities(dict.fromkeys(self.sizes, faces))

    def heat_maps(self, image, boxes, labels):
        """Where in each face a label was seen: which parts, when they are hidden, lower its probability.

        Each face is classified 64 times with half of its 25 parts blurred.  A part's heat is the mean log-probability
        of the label where the part is seen, less that where it is hidden.  That is RISE (Petsiuk, Das and Saenko
        2018, arXiv:1806.07421) with balanced patterns in place of random ones.  It works with any network.

        Args:
            image: uint8 (h, w, 3), BGR.
            boxes: int (k, 4): x, y, width, height in pixels.
            labels: int (k,): the emotion asked for in each face, as its position in `emotions`.

        Returns:
            float32 (k, height, width) in [0, 1], as large as the first network's input and to be stretched over the
            boxes.  1 is the place that matters most in that face, however much that is; 0 a place that does not speak
            for the label, or speaks against it.  Where one place speaks against it more than any speaks for it, as is
            likely of a label that the network does not give, there is no 1.

        Raises:
            ValueError: not one label per box.
        """
        faces = self._faces(image, boxes)
        maps = np.empty((len(boxes), *self.sizes[0]), np.float32)
        for number, label in zip(range(len(boxes)), labels, strict=True):  # one at a time, to bound the memory
            hidden = {size: _hide_parts(same[number]) for size, same in faces.items()}
            log_probabilities = np.log(np.maximum(self._probabilities(hidden)[:, label], 1e-12))
            heat = _enlarge(np.tensordot(log_probabilities, PATTERNS, 1), self.sizes[0])
            maps[number] = heat / (np.abs(heat).max() or 1)
        return np.maximum(maps, 0)

    def _faces(self, image, boxes):
        """What the networks see of the boxes, by input size: float32 (k, h, w, 1)."""
        return {size: preprocess_images(crop_faces(image, boxes, size)) for size in self.sizes}

    def _probabilities(self, faces):
        """The networks' mean, float32 (k, emotions), for faces by input size; k > 0."""
        return np.mean([_run(network, faces[size]) for size, network in self.networks], axis=0)


def _start(path):
    """A checkpoint's network, ready to run; a compiled form that is damaged is passed over."""
    from ai_edge_litert.interpreter import Interpreter

    for compiled in compiled_forms(path):
        try:
            with quiet_start():
                network = Interpreter(str(compiled), num_threads=1)
                network.allocate_tensors()
            return network
        except (ValueError, RuntimeError):  # of LiteRT, which checks the file
            print(f"notice: {compiled} is damaged and passed over", file=sys.stderr)
    raise UserError(f"a network must run in LiteRT; found {path}, whose compiled form does not: use another")


def _run(network, faces):
    """One network's probabilities."""
    (given,) = network.get_input_details()
    if given["shape"][0] != len(faces):
        network.resize_tensor_input(given["index"], faces.shape)  # microseconds
        network.allocate_tensors()
    network.set_tensor(given["index"], faces)
    network.invoke()
    return network.get_tensor(network.get_output_details()[0]["index"])


def _patterns():
    """float32 (64, GRID, GRID): 1 seen, -1 hidden; each part in half of the patterns, any two in a quarter of them."""
    signs = np.ones((1, 1), np.float32)
    for _ in range(5):  # Hadamard matrix: its columns, all but the first, are balanced and orthogonal
        signs = np.kron(np.float32([[1, 1], [1, -1]]), signs)
    half = signs[:, -(GRID**2) :].reshape(-1, GRID, GRID)
    return np.concatenate([half, -half])  # the opposites cancel what two parts do together


PATTERNS = _patterns()


def _enlarge(grid, size):
    """(GRID, GRID) -> (height, width), smoothly."""
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)


@lru_cache
def _visibility(size):
    """The patterns as float32 (64, height, width) in [0, 1], 1 where the face is seen."""
    return np.clip([_enlarge((pattern + 1) / 2, size) for pattern in PATTERNS], 0, 1)


def _hide_parts(face):
    """One face (h, w, 1) under every pattern: (64, h, w, 1).  What is hidden is blurred by a sixth of the height."""
    height, width, _ = face.shape
    blurred = cv2.GaussianBlur(face, (0, 0), height / 6)
    return (blurred + _visibility((height, width)) * (face[..., 0] - blurred))[..., None]
