"""Images: which files they are, the folders of a data set, and the pixels that a file holds."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from command_line import MAX_PIXELS, UserError, reading
from face_files.labels import EMOTION_FOLDERS, EMOTIONS, SPLIT_FOLDERS, SPLITS, canonical_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # read, and written
READ_SUFFIXES = (".jpe", ".jfif", ".avif", ".gif", ".dib", ".jp2", ".pbm", ".pgm", ".ppm", ".pnm")  # read as well
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read where pillow-heif is installed
UNREADABLE_SUFFIXES = (".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg")

IMAGES_PER_BATCH = 512  # images that are decoded side by side
MAX_UNREADABLE = 0.01  # share of a folder's images; the unreadable images are named and left out
MAX_NAMED = 20  # unreadable images in a message

# The images of a source: indices of SPLITS (n,), emotions (n,), faces (n, height, width, 1).
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
# Turns an image, uint8 (h, w, 3) in BGR or (h, w, 1), into a face, uint8 (height, width, 1).
ToFace = Callable[[np.ndarray], np.ndarray]


# ----------------------------------------------------------------------------------------------------------
# Folders


def list_images(folder: str | Path) -> tuple[list[tuple[int, int, Path]], tuple[str, ...]]:
    """List the images of a data set's folder.

    Args:
        folder: The folder that has train/EMOTION/* and so on.

    Returns:
        A tuple (index of SPLITS, emotion, path) for every image, split by split; and the labels of the emotions, which
        the numbers index.

    Raises:
        UserError: There is no image, an emotion's folder is empty, or two emotions differ in capitals only.
    """
    found: list[tuple[int, str, Path]] = []
    unsupported: list[Path] = []
    other_emotions: dict[str, Path] = {}  # the emotions that FER2013 does not have
    for split_folder in subfolders(Path(folder)):
        split = canonical_name(split_folder.name, SPLIT_FOLDERS)
        names: dict[str, Path] = {}
        for emotion_folder in subfolders(split_folder) if split else ():
            name = emotion_folder.name.casefold()
            if not name.isprintable():  # also bytes that are no UTF-8
                raise UserError(f"{split_folder}: emotions must be names to print; found {name!r}: rename the folder")
            emotion = canonical_name(name, EMOTION_FOLDERS)
            for known in (names, *([] if emotion else [other_emotions])):
                other = known.setdefault(name, emotion_folder)
                if other != emotion_folder and (known is names or other.name != emotion_folder.name):
                    raise UserError(
                        f"{emotion_folder}: emotions must differ by more than capitals; found {other} as well: "
                        "rename one of them"
                    )
            with reading(emotion_folder):
                files = sorted(os.listdir(emotion_folder))
            paths, not_read = pick_images(emotion_folder / file for file in files)
            unsupported += not_read
            if not paths:
                raise UserError(
                    f"{emotion_folder}: an emotion's folder must hold images ({', '.join(IMAGE_SUFFIXES)}); found none"
                    + (f", but {describe_unsupported(not_read)}" if not_read else ": fill the folder or remove it")
                )
            found += [(SPLITS.index(split), emotion or emotion_folder.name, path) for path in paths]
    if not found:
        raise UserError(f"{folder}: a data set's folder must hold train/EMOTION/*; found no image: fill the folder")
    if unsupported:
        print(f"notice: {describe_unsupported(unsupported)}", file=sys.stderr)
    emotions = (*EMOTIONS, *sorted({emotion for _, emotion, _ in found} - set(EMOTIONS), key=str.casefold))
    numbers = {emotion: number for number, emotion in enumerate(emotions)}
    if numbered := [emotion for emotion in emotions if emotion.isdecimal()]:
        print(
            f"notice: emotions named by numbers ({', '.join(numbered)}) keep these as their names; data sets differ in "
            "what they mean, so rename the folders to angry, disgust and so on",
            file=sys.stderr,
        )
    found.sort(key=lambda image: image[0])
    return [(split, numbers[emotion], path) for split, emotion, path in found], emotions


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, by name, without those that tools make (.ipynb_checkpoints, __MACOSX).

    Raises:
        UserError: `folder` can't be read.
    """
    with reading(folder):
        folders = (path for path in sorted(folder.iterdir()) if path.is_dir())
        return [path for path in folders if not path.name.startswith((".", "__"))]


def read_images(images: list[tuple[int, int, Path]], to_face: ToFace) -> Iterator[Arrays]:
    """Yield the images in the order of the list, some hundreds at a time, without the images that can't be read.

    Args:
        images: As `list_images` lists them.
        to_face: Is called by several threads at once.

    Raises:
        UserError: Too many images can't be read; the message names the first.
    """
    from tqdm import tqdm

    unreadable: list[Path] = []
    bar = tqdm(total=len(images), desc="images", leave=False, disable=None)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(images), IMAGES_PER_BATCH):
            batch = images[start : start + IMAGES_PER_BATCH]
            faces = list(pool.map(lambda image: _read_image(image[2], to_face), batch))
            unreadable += [path for (_, _, path), face in zip(batch, faces, strict=True) if face is None]
            done = start + len(batch)
            can_stop = len(unreadable) > MAX_NAMED or done == len(images)  # else read on, to name more images
            if can_stop and len(unreadable) > MAX_UNREADABLE * len(images):
                raise UserError(
                    f"images must be readable; found {len(unreadable)} of the first {done:,} that are not: "
                    f"{_named(unreadable)}; replace or remove them (of many images, "
                    f"{MAX_UNREADABLE:.0%} may be unreadable)"
                )
            read = [(*image[:2], face) for image, face in zip(batch, faces, strict=True) if face is not None]
            if read:
                splits, emotions, faces = zip(*read, strict=True)
                yield np.array(splits, np.int64), np.array(emotions, np.int64), np.array(faces, np.uint8)
            bar.update(len(batch))
    if unreadable:
        print(
            f"notice: {len(unreadable)} of {len(images):,} images can't be read and are left out: {_named(unreadable)}",
            file=sys.stderr,
        )


def _read_image(path: Path, to_face: ToFace) -> np.ndarray | None:
    """Return an image file as a face, or None where it can't be read."""
    image = decode_image(path)
    return None if image is None else to_face(image)


def _named(unreadable: Sequence[Path]) -> str:
    """Return the names of the first of these images, and why they can't be read where that is not plain."""
    names = [f"{path} ({why})" if (why := why_unreadable(path)) else str(path) for path in unreadable[:MAX_NAMED]]
    return ", ".join(names) + (", ..." if len(unreadable) > MAX_NAMED else "")


# ----------------------------------------------------------------------------------------------------------
# Files


def pick_images(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Pick the images among files, by their suffixes; hidden files are no images.

    Args:
        files: In any order.

    Returns:
        The images that `decode_image` reads, and the images of other formats, such as HEIC without the package for it;
        both in the order of `files`.
    """
    read = (*IMAGE_SUFFIXES, *READ_SUFFIXES, *(HEIF_SUFFIXES if find_spec("pillow_heif") else ()))
    visible = [file for file in files if not file.name.startswith(".")]
    unsupported = (*HEIF_SUFFIXES, *UNREADABLE_SUFFIXES)
    images = [file for file in visible if file.suffix.lower() in read]
    return images, [file for file in visible if file.suffix.lower() in unsupported and file.suffix.lower() not in read]


def describe_unsupported(images: Sequence[Path]) -> str:
    """Return a line on images that can't be read here: how many, which, and what to do.

    Args:
        images: Of the formats that `pick_images` sets apart; one or more.
    """
    suffixes = sorted({image.suffix.lower() for image in images})
    remedy = "pip install pillow-heif, or " if set(suffixes) & set(HEIF_SUFFIXES) else ""
    named = ", ".join(map(str, images[:MAX_NAMED])) + (", ..." if len(images) > MAX_NAMED else "")
    which = f"{len(images)} images of formats" if len(images) > 1 else "one image of a format"
    return f"{which} not read here ({', '.join(suffixes)}): {named}; {remedy}turn them into .jpg"


def decode_image(path: str | Path) -> np.ndarray | None:
    """Read an image file.

    Returns:
        uint8 (h, w, 3), BGR, upright as the camera was held; or None where the file can't be read: see
        `why_unreadable`.
    """
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return None
    try:
        if Path(path).suffix.lower() in HEIF_SUFFIXES and find_spec("pillow_heif"):
            return _decode_heif(path)
        return decode_bytes(np.fromfile(path, np.uint8))
    except OSError:  # no permission to read it
        return None


def decode_bytes(content: bytes | np.ndarray) -> np.ndarray | None:
    """Return an image from the bytes of its file, as `decode_image` does.

    Args:
        content: The bytes, or uint8 (n,).
    """
    try:
        # Any kind of file gives 8 bits of colour, which turn grey in the same way as a camera's frame.
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or a file that claims to be huge
        return None


def _decode_heif(path: str | Path) -> np.ndarray | None:
    """Return an image of a .heic file, as `decode_image` does."""
    import pillow_heif

    try:
        file = pillow_heif.open_heif(path, bgr_mode=True)  # upright, and not decoded yet
        return np.array(np.asarray(file)[:, :, :3]) if math.prod(file.size) <= MAX_PIXELS else None
    except (ValueError, RuntimeError, EOFError, SyntaxError):  # what the errors of libheif become
        return None


def why_unreadable(path: str | Path) -> str:
    """Return why `decode_image` can't read a file; "" where the file is damaged or of an unknown kind."""
    if not os.path.lexists(path):
        return "gone"
    if not os.path.isfile(path):
        return "no regular file"
    try:
        cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except OSError as error:
        return f"{error.strerror}"
    except cv2.error as error:
        return f"more than {MAX_PIXELS // 10**6} million pixels" if "CV_IO_MAX_IMAGE_PIXELS" in str(error) else ""
    return ""
