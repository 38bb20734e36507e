"""Naming emotions: checkpoints in their compiled form, run on the faces of a frame.

Importing this module imports neither TensorFlow nor Keras.
"""

import numpy as np

from load_and_process import preprocess_images, quiet_start, resize_face
from models.checkpoint import compile_checkpoint, emotions_of, read_header


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
    for face, (x, y, w, h) in zip(faces, np.maximum(boxes, 0), strict=True):
        face[:] = resize_face(image[y : y + h, x : x + w], image_size)
    return faces


class EmotionClassifier:
    """One or several checkpoints in their compiled form, averaged.

    Args:
        paths: `.hdf5` files that name the same emotions in the same order; their input sizes may differ.

    Raises:
        FileNotFoundError, ValueError: as `compile_checkpoint`, or the emotions differ.
    """

    def __init__(self, paths):
        from ai_edge_litert.interpreter import Interpreter

        self.networks, self.emotions = [], None
        for path in paths:
            header, compiled = read_header(path), compile_checkpoint(path)
            with quiet_start():
                network = Interpreter(str(compiled), num_threads=1)
                network.allocate_tensors()
            emotions = emotions_of(header, int(network.get_output_details()[0]["shape_signature"][-1]), path)
            if self.emotions not in (None, emotions):
                raise ValueError(
                    f"models that are averaged name the same emotions in the same order; {paths[0]} names "
                    f"{', '.join(self.emotions)}; {path} {', '.join(emotions)}"
                )
            self.emotions = emotions
            self.networks.append((header.input_shape[:2], network))

    def __call__(self, image, boxes):
        """Probabilities of the faces in the boxes of a BGR frame: float32 (k, emotions), each row summing to 1."""
        if not len(boxes):
            return np.empty((0, len(self.emotions)), np.float32)
        return np.mean(
            [self._probabilities(network, crop_faces(image, boxes, size)) for size, network in self.networks], axis=0
        )

    @staticmethod
    def _probabilities(network, faces):
        """Of faces uint8 (k, h, w, 1), k > 0, by one network."""
        (given,) = network.get_input_details()
        if given["shape"][0] != len(faces):
            network.resize_tensor_input(given["index"], faces.shape)
            network.allocate_tensors()
        network.set_tensor(given["index"], preprocess_images(faces))
        network.invoke()
        return network.get_tensor(network.get_output_details()[0]["index"])
