"""What cameras do to faces: noise, blur, low resolution, JPEG, gamma and uneven light.

Networks learn from disturbed faces (`training.faces`), and the evaluation measures what a disturbance costs.
All lengths are in pixels of a face 48 pixels wide, such as FER2013's; on larger faces they grow with the face.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from load_and_process import resize_face

# ----------------------------------------------------------------------------------------------------------
# One function for each kind: face uint8 (h, w), strength, random generator -> disturbed face uint8 (h, w)


def noise(face: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of a standard deviation in grey levels; every pixel has its own."""
    return _add(face, deviation * rng.standard_normal(face.shape, np.float32))


def correlated_noise(face: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise that was blurred, as denoisers leave it: spots of one to three pixels instead of single pixels."""
    sigma = rng.uniform(0.5, 1.2) * _pixel(face)
    blurred = cv2.GaussianBlur(rng.standard_normal(face.shape, np.float32), (0, 0), sigma)
    return _add(face, deviation / blurred.std() * blurred)


def blur(face: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian, as a lens out of focus does."""
    return cv2.GaussianBlur(face, (0, 0), sigma * _pixel(face))


def motion_blur(face: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Average along a line of any direction, as a long exposure does."""
    reach = length * _pixel(face) / 2
    side = 2 * int(np.ceil(reach)) + 1
    x, y = np.mgrid[:side, :side] - side // 2
    angle = rng.uniform(0, np.pi)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    kernel = np.clip(1 - np.abs(across), 0, 1) * np.clip(reach + 0.5 - np.abs(along), 0, 1)
    return cv2.filter2D(face, -1, kernel / kernel.sum())


def low_resolution(face: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Reduce to a number of pixels per 48, and enlarge again: a face far from the camera."""
    small = tuple(max(1, round(length * side / 48)) for length in face.shape)
    return resize_face(resize_face(face, small), face.shape)[..., 0]


def jpeg(face: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Compress as JPEG of a quality from 0 to 100."""
    _, compressed = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    return cv2.imdecode(compressed, cv2.IMREAD_GRAYSCALE)


def gamma(face: np.ndarray, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Raise brightness from 0 to 1 to a power: more than 1 darkens, less brightens."""
    return cv2.LUT(face, np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8))


def uneven_light(face: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply by a gain between 1 - strength and 1 + strength: rising across the face, or falling from a point."""
    height, width = face.shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    if rng.random() < 0.5:
        field = (cosine * x + sine * y) / (abs(cosine) + abs(sine))
    else:
        field = 1 - np.hypot(x - cosine, y - sine) * 2 / np.hypot(1 + abs(cosine), 1 + abs(sine))
    return np.clip(np.rint(face * (1 + strength * field)), 0, 255).astype(np.uint8)


def _pixel(face):
    """The side of one pixel of a face 48 pixels wide, in pixels of this face."""
    return min(face.shape) / 48


def _add(face, difference):
    return np.clip(np.rint(face + difference), 0, 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------
# Random disturbances to learn from, and fixed ones to measure


class Kind(NamedTuple):
    """A kind of disturbance, and the strengths, from low to high, that networks learn from."""

    function: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    low: float
    high: float


KINDS = (
    Kind(noise, 0, 20),
    Kind(correlated_noise, 0, 20),
    Kind(blur, 0.3, 2),
    Kind(motion_blur, 2, 8),
    Kind(low_resolution, 14, 32),
    Kind(jpeg, 15, 60),
    Kind(gamma, 0.4, 3),
    Kind(uneven_light, 0, 0.8),
)

MEASURED = {  # name: (function, strength)
    "noise 10": (noise, 10),
    "noise 20": (noise, 20),
    "blur 1 px": (blur, 1),
    "blur 2 px": (blur, 2),
    "motion blur 6 px": (motion_blur, 6),
    "16x16 enlarged": (low_resolution, 16),
    "24x24 enlarged": (low_resolution, 24),
    "gamma 3": (gamma, 3),
    "JPEG 20": (jpeg, 20),
    "uneven light": (uneven_light, 0.6),
}


def disturb(face: np.ndarray, seed: int) -> np.ndarray:
    """Disturb a face in one of KINDS, at a random strength; all follow from the seed.

    Args:
        face: uint8 (h, w, c).
        seed: Not negative.

    Returns:
        uint8 (h, w, c).
    """
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    strength = rng.uniform(kind.low, kind.high)
    return np.dstack([kind.function(face[..., channel], strength, rng) for channel in range(face.shape[2])])


def disturb_all(faces: np.ndarray, name: str) -> np.ndarray:
    """Disturb all faces as one of MEASURED says; the same faces come out every time.

    Args:
        faces: uint8 (n, h, w, 1).
        name: Of the disturbance.

    Returns:
        uint8 (n, h, w, 1).
    """
    function, strength = MEASURED[name]
    disturbed = [function(face[..., 0], strength, np.random.default_rng(number)) for number, face in enumerate(faces)]
    return np.stack(disturbed)[..., None] if disturbed else faces
