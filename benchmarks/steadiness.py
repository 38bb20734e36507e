"""How often the label of a calm face changes, and how late it follows a new expression.

    python benchmarks/steadiness.py --dataset fer2013/fer2013.csv
    python benchmarks/steadiness.py                                  # drawn faces, which are easier to name

Each face of PublicTest is filmed by a camera that trembles: the crop is shifted, enlarged and turned a little, the
light changes, and each frame has noise of its own.  After ten seconds another face takes its place, within 0.2 seconds.
All settings see the same frames.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from command_line import Parser, UserError, exit_status, number_in_range  # noqa: E402
from load_and_process import load_fer2013_data, preprocess_images  # noqa: E402
from models.classifier import EmotionClassifier  # noqa: E402
from recognition.recognizer import DEFAULT_MODELS  # noqa: E402
from recognition.tracking import Smoother, TrackedFace  # noqa: E402

FPS, CALM_S, AFTER_S, FADE_S = 25, 10, 3, 0.2
TREMBLE_S = 0.3  # seconds; how fast the crop wanders
SHIFT, ZOOM, TURN, LIGHT, NOISE = 0.02, 0.02, 2.0, 6.0, 5.0  # of the side, of the size, degrees, grey levels twice
SURE = 0.5  # probability; the delay is measured where a network is more confident than this of both faces' emotions
SETTINGS = [(0.0, 0.0), (0.25, 0.0), (0.25, 0.1), (0.25, 0.2), (0.2, 0.1), (0.2, 0.2), (0.15, 0.2), (0.3, 0.0)]
UNCERTAIN_BELOW = 0.4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Measure how steady labels are.")
    parser.add_argument("--dataset", default="drawn", help="as for evaluation (default: %(default)s)")
    parser.add_argument("--model", type=Path, nargs="+", default=[*DEFAULT_MODELS])
    parser.add_argument(
        "--faces", type=number_in_range(int, 2), default=150, help="faces to film (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Film the faces, and print a row for each of SETTINGS."""
    args = parse_args(argv)
    data = load_fer2013_data(args.dataset)
    if "PublicTest" not in data:
        raise UserError(f"{args.dataset} must have a PublicTest (validation); found {', '.join(data)}: take other data")
    classify, split = EmotionClassifier(args.model), data["PublicTest"]
    rng = np.random.default_rng(0)
    some = rng.choice(len(split.faces), min(args.faces, len(split.faces)), replace=False)
    faces = split.faces[np.sort(some)][rng.permutation(len(some))]
    films = np.array(
        [
            classify.predict(preprocess_images(film(*pair, rng)))
            for pair in zip(faces, np.roll(faces, 1, 0), strict=True)
        ]
    )
    print(
        f"{len(films)} faces, {CALM_S} s each at {FPS} frames a second; {', '.join(path.stem for path in args.model)}"
    )
    print("smoothing s  lead   changes of the label /s   of uncertain /s   delay ms (median)   late (90 %)")
    for smoothing, lead in SETTINGS:
        changes, unsure, delays = measure(films, Smoother(smoothing, lead, UNCERTAIN_BELOW))
        late = [f"{ms:.0f}" for ms in np.percentile(delays, (50, 90))] if delays else ["-", "-"]
        print(f"{smoothing:11.2f} {lead:5.2f} {changes:25.2f} {unsure:17.2f} {late[0]:>19} {late[1]:>13}")
    if not delays:
        print(
            f"notice: no delay measured: of {len(films)} faces, no two in a row are named surely and differently; pass "
            "more --faces, or other data",
            file=sys.stderr,
        )
    return 0


def film(face: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the frames of a face, and then of another, before a camera that trembles.

    Args:
        face, other: uint8 (h, w, 1).
        rng: Of the trembling and the noise.

    Returns:
        uint8 (frames, h, w, 1).
    """
    count, side = (CALM_S + AFTER_S) * FPS, len(face)
    keep = np.exp(-1 / (FPS * TREMBLE_S))
    wander = rng.normal(size=(count, 5)) * np.sqrt(1 - keep**2)
    wander[0] = rng.normal(size=5)
    for step in range(1, count):
        wander[step] += keep * wander[step - 1]
    frames = np.empty((count, side, side, 1), np.uint8)
    for number, (right, down, larger, turned, lighter) in enumerate(wander):
        new = np.clip((number / FPS - CALM_S) / FADE_S, 0, 1)
        picture = cv2.addWeighted(face, 1 - new, other, new, 0)
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), TURN * turned, 1 + ZOOM * larger)
        matrix[:, 2] += SHIFT * side * right, SHIFT * side * down
        picture = cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
        picture += LIGHT * lighter + rng.normal(scale=NOISE, size=picture.shape)
        frames[number, ..., 0] = np.clip(picture, 0, 255)
    return frames


def measure(films: np.ndarray, smooth: Smoother) -> tuple[float, float, list[float]]:
    """Return what a viewer sees of some films.

    Args:
        films: float (n, frames, emotions), the probabilities of each frame.
        smooth: Averages them, and chooses the labels.

    Returns:
        Changes of the label per second while a face is calm, changes to or from "uncertain" per second, and the
        milliseconds after which the labels of faces that were named surely show the new face's emotion.  A face whose
        label never shows it has no delay.
    """
    calm, tracked = CALM_S * FPS, [TrackedFace(number, (0, 0, 48, 48)) for number in range(len(films))]
    seen = [smooth(tracked, films[:, frame], frame / FPS) for frame in range(films.shape[1])]
    shown = np.array([[face.best for face in faces] for faces in seen])
    unsure = np.array([[face.uncertain for face in faces] for faces in seen])
    per_second = len(films) * (calm - 1) / FPS
    before, after = films[:, :calm].mean(axis=1), films[:, -FPS:].mean(axis=1)
    sure = (np.minimum(before.max(axis=1), after.max(axis=1)) > SURE) & (before.argmax(axis=1) != after.argmax(axis=1))
    reached = shown[calm:] == after.argmax(axis=1)
    delays = [1000 * float(np.argmax(reached[:, face])) / FPS for face in np.flatnonzero(sure & reached.any(axis=0))]
    changes, flips = ((np.diff(table[:calm].astype(int), axis=0) != 0).sum() for table in (shown, unsure))
    return changes / per_second, flips / per_second, delays


if __name__ == "__main__":
    sys.exit(exit_status(main))
