"""Measure which faces each detector finds, and what it takes for a face by mistake, and print Markdown tables.

    python benchmarks/detection.py                                              # on pictures of installed packages
    python benchmarks/detection.py --photographs photos --boxes boxes.csv       # on your own photographs
    python benchmarks/detection.py --detectors haar blazeface face_detection_yunet_2023mar.onnx

The pictures are drawn faces, and the face of scikit-image's astronaut, pasted at many sizes, tilts and lights onto
face-free photographs of scikit-image and scikit-learn.  One face is no evidence for all faces: measure on photographs
of your own.  The CSV has a row per face, with the columns image,x,y,width,height; images without a row have no face.
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, but the modules lie in the folder above

from command_line import Parser, UserError, exit_status  # noqa: E402
from drawn_faces import Identity, backdrop, draw_face, face_box  # noqa: E402
from face_files.images import IMAGE_SUFFIXES, decode_image  # noqa: E402
from recognition.detection import FaceDetector, find_detector, open_detector  # noqa: E402

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

detectors = ["haar", "blazeface"]  # haar, blazeface, or the path of YuNet's .onnx file
photographs = None             # a folder of photographs; None: pictures of installed packages
boxes = None                   # CSV with the columns image,x,y,width,height
quick = False                  # few pictures, to see that everything works
# fmt: on
# ----------------------------------------------------------------------------------------------------------

OVERLAP = 0.4  # intersection over union of a find with a true box
LIVE = {"side": 360, "scale_factor": 1.2, "smallest_face": 0.067}  # as the live script's settings for cameras
ASTRONAUT, FACE_FREE = (177, 66, 93, 93), ("coffee", "rocket", "chelsea", "coins", "grass", "gravel", "brick", "moon")
Picture = tuple[np.ndarray, list[tuple[float, float, float, float]]]  # BGR, and its true boxes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Measure which faces each detector finds.")
    add = parser.add_argument
    add("--detectors", nargs="+", default=detectors, metavar="NAME", help="haar, blazeface, or YuNet's .onnx file")
    add("--photographs", type=Path, default=photographs, metavar="DIR", help="your own photographs, with --boxes")
    add("--boxes", type=Path, default=boxes, metavar="CSV", help="their faces: image,x,y,width,height")
    add("--quick", action=argparse.BooleanOptionalAction, default=quick, help="to see that everything works")
    args = parser.parse_args(argv)
    if (args.photographs is None) != (args.boxes is None):
        raise UserError("--photographs and --boxes go together; found one of them: name the other")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    args = parse_args(argv)
    paths = {str(name): find_detector(name) for name in args.detectors}
    still = {name: open_detector(path) for name, path in paths.items()}
    live = {name: open_detector(path, still=False, **LIVE) for name, path in paths.items()}
    if args.photographs:
        rows = {"photographs": lambda: read_photographs(args.photographs, args.boxes)}
        print_table("Photographs", still, rows)
        return 0
    print_table("Images", still, dict(still_rows(args.quick)))
    print_table("A camera's frames, 640x480, one frame by itself", live, dict(live_rows(args.quick)))
    return 0


def print_table(title: str, named: dict[str, FaceDetector], rows: dict[str, Callable[[], Iterator[Picture]]]) -> None:
    """Print a row per kind of picture: faces found, false boxes and the time per picture of each detector."""
    print(f"\n## {title}\n\n| pictures | {' | '.join(named)} |\n|---|{'---|' * len(named)}")
    for label, pictures in rows.items():
        cells = []
        for detect in named.values():
            found, faces, false, seconds, count = measure(detect, pictures())
            recall = f"{found} of {faces} found ({found / faces:.0%}), " if faces else ""
            cells.append(f"{recall}{false} false, {1e3 * seconds / max(count, 1):.0f} ms")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def measure(detect: FaceDetector, pictures: Iterator[Picture]) -> tuple[int, int, int, float, int]:
    """Return the faces found, all faces, false boxes, seconds and the number of pictures."""
    found = faces = false = count = 0
    seconds = 0.0
    for image, truth in pictures:
        began = time.perf_counter()
        boxes = detect(image).boxes.tolist()
        seconds += time.perf_counter() - began
        count, faces = count + 1, faces + len(truth)
        for true in truth:
            best = max(boxes, key=lambda box, true=true: overlap(box, true), default=None)
            if best is not None and overlap(best, true) >= OVERLAP:
                boxes.remove(best)
                found += 1
        false += len(boxes)
    return found, faces, false, seconds, count


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes."""
    (x, y, w, h), (u, v, s, t) = box, other
    both = max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))
    return both / (w * h + s * t - both)


# ----------------------------------------------------------------------------------------------------------
# Pictures


def still_rows(quick: bool) -> Iterator[tuple[str, Callable[[], Iterator[Picture]]]]:
    """Yield the label of a row, and a function that makes its pictures."""
    count, size = (1 if quick else 4), (640, 480) if quick else (1280, 960)
    for share in (0.15,) if quick else (0.15, 0.08, 0.05, 0.035):
        yield f"faces of {share:.1%} of the shorter side", lambda s=share: scenes(size, s, count)
    for degrees in (30,) if quick else (15, 30, 45):
        yield f"tilted by {degrees} degrees", lambda d=degrees: scenes(size, 0.12, count, d)
    for light in (0.1,) if quick else (0.2, 0.1, 0.05):
        yield f"light x{light}", lambda g=light: scenes(size, 0.12, count, gain=g)
    yield "nobody", lambda: nobody(quick)


def live_rows(quick: bool) -> Iterator[tuple[str, Callable[[], Iterator[Picture]]]]:
    """Yield the rows for a camera's frames."""
    for share in (0.2,) if quick else (0.3, 0.12, 0.08):
        yield f"faces of {share:.0%} of the height", lambda s=share: scenes((640, 480), s, 1 if quick else 4)


def scenes(size: tuple[int, int], share: float, count: int, degrees: float = 0, gain: float = 1) -> Iterator[Picture]:
    """Yield pictures with six faces, drawn and photographed in turn, or with one where six would not fit."""
    data = skimage_data()
    astronaut, rng = data.astronaut()[..., ::-1], np.random.default_rng(0)
    grounds = [data.coffee()[..., ::-1], data.rocket()[..., ::-1], backdrop(size)]
    side, turn = share * size[1], np.deg2rad(degrees)
    columns, lines = (3, 2) if share < 0.2 else (1, 1)
    for number in range(count):
        image, truth = cv2.resize(grounds[number % 3], size, interpolation=cv2.INTER_CUBIC), []
        for place in range(columns * lines):
            centre = np.array(((place % columns + 0.5) / columns, (place // columns + 0.5) / lines)) * size
            centre = centre + rng.uniform(-0.1, 0.1, 2) * side
            tilt = turn * (1, -1)[(place + number) % 2]
            if (place + number) % 2:
                image = draw_face("neutral", Identity.random(rng), image, tuple(centre), side, tilt)
            else:
                image = paste(astronaut, image, centre, side, tilt)
            truth.append(face_box(tuple(centre), side))
        yield (image * gain).astype(np.uint8), truth


def paste(astronaut: np.ndarray, image: np.ndarray, centre: np.ndarray, side: float, tilt: float) -> np.ndarray:
    """Return a picture with the astronaut's head blended in."""
    x, y, w, h = ASTRONAUT
    scale = side / w
    if scale < 0.8:  # so that small faces are smooth
        astronaut = cv2.GaussianBlur(astronaut, (0, 0), 0.35 / scale)
    cos, sin = scale * np.cos(tilt), scale * np.sin(tilt)
    way = np.array([(cos, -sin, 0), (sin, cos, 0)])
    way[:, 2] = centre - way[:, :2] @ (x + w / 2, y + h / 2)
    cover = np.zeros(astronaut.shape[:2], np.float32)
    cv2.ellipse(cover, ((x + w / 2, y + h / 2), (1.35 * w, 1.75 * h), 0), 1, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), 0.06 * w)
    head, cover = (cv2.warpAffine(each, way, image.shape[1::-1]) for each in (astronaut, cover))
    return (image * (1 - cover[..., None]) + head * cover[..., None]).astype(np.uint8)


def nobody(quick: bool) -> Iterator[Picture]:
    """Yield pictures without a face, each also mirrored, upside down and on its side."""
    from sklearn.datasets import load_sample_images

    data = skimage_data()
    images = [getattr(data, name)() for name in FACE_FREE] + load_sample_images().images
    for image in images[:2] if quick else images:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
        turned = (image[:, ::-1], image[::-1], cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE))
        for each in (image,) if quick else (image, *turned):
            yield np.ascontiguousarray(each), []


def skimage_data():
    """Return scikit-image's pictures.

    Raises:
        UserError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UserError("the pictures come with scikit-image; found none: pip install scikit-image") from error
    return data


def read_photographs(folder: Path, table: Path) -> Iterator[Picture]:
    """Yield the photographs of a folder and the boxes of their faces.

    Raises:
        UserError: The CSV can't be read or has other columns, or there is no photograph.
    """
    truth = defaultdict(list)
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                truth[row["image"]].append(tuple(float(row[side]) for side in ("x", "y", "width", "height")))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{table} must be a CSV with image,x,y,width,height; found {error!r}") from error
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    missing = sorted(set(truth) - {path.relative_to(folder).as_posix() for path in paths})
    if not paths or missing:
        raise UserError(f"{folder} must hold the CSV's photographs; found no {', '.join(missing[:3]) or 'photograph'}")
    for path in paths:
        image = decode_image(path)
        if image is not None:
            yield image, truth[path.relative_to(folder).as_posix()]


if __name__ == "__main__":
    sys.exit(exit_status(main))
