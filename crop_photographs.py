"""Cut the faces out of photographs, for a folder to train on: see crop_dataset."""

import sys
from pathlib import Path

import cv2

from command_line import Parser, UserError, exit_status, replacing_folder
from load_and_process import decode_image, find_source, list_images
from models.classifier import crop_box
from recognition.detection import FaceDetector, find_cascade

cascade = "haarcascade_frontalface_default.xml"


def crop_dataset(folder: Path, target: Path) -> str:
    """Cut the largest face out of every photograph of a data set's folder, as the live script finds and cuts it.

    Args:
        folder: train/EMOTION/* and so on, photographs of any size.
        target: A folder that is made: the same layout, faces as PNG, and not_found.txt, which lists the rest.

    Returns:
        What was found, as text.

    Raises:
        ValueError: There is no such folder of images, or `target` has something in it already.
        OSError: `target` can't be written; nothing is left of it.
    """
    from tqdm import tqdm

    drawn = str(folder) == "drawn"
    source = Path(folder) if drawn else find_source(folder)
    if drawn or not source.is_dir():
        raise UserError(f"--crop-faces cuts faces out of a folder's photographs; found {source}, whose are cut already")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"--crop-faces must name a new folder; found something at {target}: name another")
    images, _ = list_images(source)
    detect = FaceDetector(find_cascade(cascade), 960, 1.2, 5, 0.1)
    several, missed = 0, []
    with replacing_folder(target) as partial:
        for _, _, path in tqdm(images, desc="photographs", leave=False, disable=None):
            photograph = decode_image(path)
            boxes = [] if photograph is None else detect(photograph)
            if not len(boxes):
                missed.append(f"{path}: {'it is no image' if photograph is None else 'no face found'}")
                continue
            several += len(boxes) > 1
            place = partial / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_name(f"{path.name}.png").write_bytes(cv2.imencode(".png", crop_box(photograph, boxes[0]))[1])
        if len(missed) == len(images):
            raise UserError(f"{source}: photographs must show a face; found none in any of {len(images):,}")
        (partial / "not_found.txt").write_text("".join(f"{line}\n" for line in missed), encoding="utf-8")
    return (
        f"{len(images) - len(missed):,} faces of {len(images):,} photographs: {target}\n"
        f"{several:,} showed several faces; the largest was taken\n"
        f"{len(missed):,} without a face: {target / 'not_found.txt'}"
    )


def main(argv=None):
    parser = Parser(description="Cut the faces out of photographs.")
    parser.add_argument("photographs")
    parser.add_argument("faces", type=Path)
    args = parser.parse_args(argv)
    print(crop_dataset(args.photographs, args.faces))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
