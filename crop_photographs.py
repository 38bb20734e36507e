"""Cut the faces out of photographs: the result is a folder of faces to train on.

    python crop_photographs.py photographs my_faces           # reads photographs/train/EMOTION/* and so on
    python load_and_process.py --dataset my_faces             # counts what came out
    python train_emotion_classifier.py --dataset my_faces

The live script finds faces in the same way, and cuts them out at the same box; so a network sees faces of one kind in
training and in use.
"""

import os
import sys

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command_line import (  # first: it makes Ctrl-C quiet, and names a missing package
    Parser,
    UserError,
    exit_status,
    number_in_range,
    quiet_libraries,
    reading,
    replacing_folder,
)

# isort: split
import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2

from face_files.images import decode_image, list_images, why_unreadable
from face_files.location import find_source
from models.classifier import crop_box
from recognition.detection import DEFAULT_CASCADE, FaceDetector, find_detector, open_detector

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

detector = "haar"              # haar, blazeface, or the path of YuNet's .onnx file
smallest_face = 0.03           # side of the smallest face, share of the photograph's shorter side
# haar alone
cascade = DEFAULT_CASCADE      # a path, or the name of a file in haarcascade_files/ or in OpenCV
detection_side = 960           # pixels; the shorter side of larger photographs is reduced to this to look for faces
scale_factor = 1.1             # step between the face sizes looked for
min_neighbors = 5              # overlapping finds that make a face; more: fewer false faces, and fewer true ones
# fmt: on
# ----------------------------------------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the defaults are the settings at the top."""
    parser = Parser(description="Cut the largest face out of every photograph.")
    add = parser.add_argument
    add("photographs", metavar="PHOTOGRAPHS", help="a folder with train/EMOTION/* and so on")
    add("faces", metavar="FACES", type=Path, help="a new folder, for the faces")
    add = parser.add_argument_group("finding faces").add_argument
    text = "haar, blazeface, or YuNet's .onnx file (default: %(default)s)"
    add("--detector", metavar="NAME", default=detector, help=text)
    text = "side of the smallest face, share of the photograph's shorter side (default: %(default)s)"
    add("--smallest-face", metavar="N", type=number_in_range(float, 0, most=1), default=smallest_face, help=text)
    add = parser.add_argument_group("the detector haar").add_argument
    add("--cascade", metavar="XML", default=cascade, help="Haar cascade (default: %(default)s)")
    text = "pixels to which the shorter side of larger photographs is reduced (default: %(default)s)"
    add("--detection-side", metavar="N", type=number_in_range(int, 24), default=detection_side, help=text)
    text = "step between the face sizes looked for (default: %(default)s)"
    add("--scale-factor", metavar="N", type=number_in_range(float, 1.01), default=scale_factor, help=text)
    text = "overlapping finds that make a face (default: %(default)s)"
    add("--min-neighbors", metavar="N", type=number_in_range(int, 0), default=min_neighbors, help=text)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Cut the faces out, and print how many there were; return the exit status."""
    args = parse_args(argv)
    path = find_detector(args.detector, args.cascade)
    sizes = args.detection_side, args.scale_factor, args.min_neighbors, args.smallest_face
    detect = open_detector(path, True, *sizes)
    with quiet_libraries():
        print(crop_dataset(args.photographs, args.faces, detect))
    return 0


def crop_dataset(photographs: str | Path, faces: str | Path, detect: FaceDetector) -> str:
    """Cut the largest face out of every photograph of a data set's folder.

    Args:
        photographs: A folder with train/EMOTION/* and so on; photographs of any size.
        faces: The folder to make: the same layout, faces as PNG, and not_found.txt, which lists the photographs without
            a face and the files that can't be read.
        detect: Finds the faces.

    Returns:
        Three lines to print: how many faces were found, how many photographs showed several faces, and how many none.

    Raises:
        UserError: There is no such folder of images, no photograph shows a face, `faces` is not empty, or `faces` can't
            be written.  `faces` then stays as it was.
    """
    from tqdm import tqdm

    source, target = Path(photographs), Path(faces)
    is_drawn = str(photographs) == "drawn"
    if not is_drawn:
        source = find_source(photographs)
    if is_drawn or not source.is_dir():
        raise UserError(f"faces are cut out of a folder's photographs; found {source}: use it as it is")
    with reading(target):
        is_new = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not is_new:
        raise UserError(f"the faces must go to a new folder; found something at {target}: name another folder")
    images, _ = list_images(source)
    several, not_found = 0, []
    with replacing_folder(target) as partial:
        for _, _, path in tqdm(images, desc="photographs", leave=False, disable=None):
            photograph = decode_image(path)
            found = None if photograph is None else detect(photograph)
            if found is None or not len(found.boxes):
                why = (why_unreadable(path) or "it is no image") if photograph is None else "no face found"
                not_found.append(f"{path}: {why}")
                continue
            several += len(found.boxes) > 1
            folder = (partial / path.relative_to(source)).parent
            folder.mkdir(parents=True, exist_ok=True)
            face = crop_box(photograph, found.boxes[0], found.rolls[0])  # the first face is the largest
            png = cv2.imencode(".png", face)[1]
            (folder / f"{path.name}.png").write_bytes(png)
        if len(not_found) == len(images):
            raise UserError(f"{source}: photographs must show a face; found none in any of {len(images):,}")
        (partial / "not_found.txt").write_text("".join(f"{line}\n" for line in not_found), encoding="utf-8")
    return (
        f"{len(images) - len(not_found):,} faces of {len(images):,} photographs: {target}\n"
        f"{several:,} showed several faces; the largest was taken\n"
        f"{len(not_found):,} without a face: {target / 'not_found.txt'}"
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))
