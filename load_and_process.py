"""What a face image is: the seven emotions, FER2013 and other data sets, and the range networks take.

    python load_and_process.py                        counts, duplicates and a picture of what fer2013/ holds
    python load_and_process.py --dataset my_faces     the same of my_faces/train/EMOTION/*, .../test/EMOTION/*
    python load_and_process.py --dataset drawn        the same of drawn faces, where there is no data set
    python load_and_process.py --dataset photographs --crop-faces my_faces    cut the faces out first

FER2013 is from Goodfellow et al. 2013, "Challenges in Representation Learning: A report on three machine
learning contests", https://arxiv.org/abs/1307.0414. fer2013/README.md says how to get it.
"""

import argparse
import contextlib
import gzip
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from command_line import Parser, UserError, cache_folder, exit_status, replacing

try:
    import lzma
except ImportError:  # some Pythons are built without it: they read everything but .xz
    lzma = None

# ------------------------------------------------------------------------------------------------------------
# Settings.  Edit here, or pass the flag of the same name (see --help).

dataset = Path(__file__).resolve().parent / "fer2013" / "fer2013.csv"  # or compressed, a folder, "drawn"
image_size = (48, 48)  # height, width of a face in pixels
# ------------------------------------------------------------------------------------------------------------

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # FER2013's labels 0 to 6
SPLITS = ("Training", "PublicTest", "PrivateTest")
VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
VOTE_LABELS = (
    "neutral",
    "happy",
    "surprise",
    "sad",
    "angry",
    "disgust",
    "fear",
    "contempt",
)  # the first eight, as labels

EMOTION_FOLDERS = {
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid", "scared"),
    "happy": ("happy", "happiness", "joy"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
    "neutral": ("neutral",),
}
SPLIT_FOLDERS = {
    "Training": ("train", "training"),
    "PublicTest": ("validation", "valid", "val", "publictest"),  # training watches it
    "PrivateTest": ("test", "privatetest"),  # used once, at the end
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.xz", ".zip")
CSV_NAMES = [f"{name}.csv{end}" for name in ("fer2013", "icml_face_data") for end in ("", ".gz", ".zip", ".xz")]
HOW_TO_GET_FER2013 = """\
FER2013 comes from Kaggle, which asks for a login; either form will do (see fer2013/README.md):
  images  kaggle datasets download msambare/fer2013 -p fer2013 --unzip
  CSV     kaggle competitions download -p fer2013 -f icml_face_data.csv \
challenges-in-representation-learning-facial-expression-recognition-challenge
Without it, `--dataset drawn` works at once, on drawn faces."""

CACHE_VERSION = 2  # raise it when the same source is to give other arrays
ROWS_PER_BATCH = 64  # half a megabyte of CSV, which the processor's cache holds
IMAGES_PER_BATCH = 512  # decoded side by side
IN_MEMORY = 2**28  # bytes of faces; more stay in the cache's file, and the system brings in what is looked at
UNREADABLE = 0.01  # share of the images of a folder that may be unreadable; they are named and left out
NAMED = 20  # of the unreadable, at most
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) + ((lzma.LZMAError,) if lzma else ())


class Split(NamedTuple):
    """Faces uint8 (n, height, width, 1) and their emotions int64 (n,), numbers that index `Dataset.emotions`."""

    faces: np.ndarray
    emotions: np.ndarray


class Dataset(dict[str, Split]):
    """The splits that a data set has, by their names and in the order of SPLITS.

    Attributes:
        emotions: The labels that the numbers in the splits index: EMOTIONS, then the others that a folder has, by the
            alphabet, whatever their capitals.
    """

    def __init__(self, splits: dict[str, Split], emotions: Sequence[str] = EMOTIONS):
        super().__init__(splits)
        self.emotions = tuple(emotions)

    def drop_unused_labels(self) -> "Dataset":
        """Return the same without the emotions that no split shows, the others numbered anew in the same order."""
        shown = np.unique(np.concatenate([split.emotions for split in self.values()]))
        splits = {name: Split(faces, np.searchsorted(shown, emotions)) for name, (faces, emotions) in self.items()}
        return Dataset(splits, [self.emotions[number] for number in shown])


# Of images of a source: indices of SPLITS (n,), emotions (n,), faces (n, height, width, 1).
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def load_fer2013_data(dataset_path: str | Path = dataset, image_size: tuple[int, int] = image_size) -> Dataset:
    """Load a data set: from its source the first time, then from a cache written beside it.

    Where the source's folder can't be written, the cache is in the user's (`cache_folder`).  Many faces (`IN_MEMORY`)
    stay in the cache's file, read-only, so they may be more than the memory holds.

    Args:
        dataset_path: FER2013's CSV (columns emotion, pixels, Usage), as it is or compressed (.gz, .zip, .xz);
            a folder with train/EMOTION/*, validation/EMOTION/*, test/EMOTION/*, which become Training,
            PublicTest and PrivateTest; a folder that holds either; or "drawn".
        image_size: Height and width of the faces in pixels; images of another size are resized.

    Returns:
        `Dataset`: a dict of the splits that it has, with the labels of its emotions.

    Raises:
        FileNotFoundError: There is nothing at `dataset_path`.
        ValueError: The data are not as described; the message names the file, and the line or the image.
    """
    sides = np.asarray(image_size)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise UserError(f"image_size must be height and width, 1 pixel or more each; found {image_size!r}: correct it")
    if str(dataset_path) == "drawn":
        from drawn_faces import draw_dataset  # here: a start without drawn faces is faster

        return Dataset({split: Split(*draw) for split, draw in draw_dataset(image_size=image_size, seed=0).items()})

    source = find_source(dataset_path)
    images, emotions = list_images(source) if source.is_dir() else ([], EMOTIONS)
    caches, key = _cache_places(source), _cache_key(source, images, image_size)
    cache, arrays = next(((cache, found) for cache in caches if (found := _read_cache(cache, key))), (None, None))
    if arrays is not None and (missing := len(images) - len(arrays[0])) > 0:
        left_out = f"notice: {missing} of {len(images):,} images are left out; they could not be read"
        print(f"{left_out} (delete {cache} to see which)", file=sys.stderr)
    if arrays is None:
        arrays = _read_and_cache(caches, key, source, images, image_size)
    which, numbers, faces = arrays
    ends = np.cumsum([(which == number).sum() for number in range(len(SPLITS))])
    places = {split: slice(start, end) for split, start, end in zip(SPLITS, (0, *ends), ends, strict=False)}
    return Dataset(
        {split: Split(faces[at], numbers[at]) for split, at in places.items() if at.start < at.stop}, emotions
    )


def find_source(dataset_path: str | Path) -> Path:
    """Find the CSV, or the folder with train/ in it, that `dataset_path` stands for.

    Args:
        dataset_path: A CSV; a folder that is the data set, holds its CSV, or has one subfolder that does.
            The default path, where it is missing, stands for its folder.

    Returns:
        An existing file or folder.

    Raises:
        FileNotFoundError: There is nothing at `dataset_path`; where FER2013 was to be, the message says how to get it.
        ValueError: The file is of another kind, or the folder holds no data set, or several.
    """
    path = Path(dataset_path).expanduser()
    if path.is_file():
        if not path.name.lower().endswith(CSV_SUFFIXES):
            raise UserError(
                f"{path}: a data set must be a folder or end in {', '.join(CSV_SUFFIXES)}; found "
                f"{path.suffix or 'no suffix'}: unpack it, and name what was inside"
            )
        return path
    folder = path.parent if path.resolve() == Path(dataset).resolve() and not path.exists() else path
    if folder.is_dir():
        inside = (data for child in _subfolders(folder) if (data := _data_in(child)))
        found = [data] if (data := _data_in(folder)) else list(inside)
        if len(found) == 1:
            return found[0]
        if found or folder == path:
            raise UserError(
                f"{path}: a folder must be or hold one data set, fer2013.csv or train/EMOTION/*; found "
                f"{len(found) or 'none'}: name the one to read"
            )
    if path.name in CSV_NAMES:
        raise UserError(f"{path} does not exist.\n{HOW_TO_GET_FER2013}")
    raise UserError(f"{path} does not exist: correct the path, or take `drawn` for drawn faces")


def _data_in(folder: Path) -> Path | None:
    """Return the CSV in `folder`, or `folder` itself when it has a split's subfolder."""
    for name in CSV_NAMES:
        if (folder / name).is_file():
            return folder / name
    return folder if any(canonical_name(child.name, SPLIT_FOLDERS) for child in _subfolders(folder)) else None


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, without what tools leave behind (.ipynb_checkpoints, __MACOSX)."""
    folders = (path for path in sorted(folder.iterdir()) if path.is_dir())
    return [path for path in folders if not path.name.startswith((".", "__"))]


def canonical_name(name: str, spellings: dict[str, tuple[str, ...]]) -> str | None:
    """Return the key of `spellings` (EMOTION_FOLDERS or SPLIT_FOLDERS) that `name` is a spelling of, or None."""
    return next((key for key, names in spellings.items() if name.lower() in names), None)


# ------------------------------------------------------------------------------------------------------------
# CSV


def _read_csv(path: Path, image_size: tuple[int, int]) -> Arrays:
    """Return the images by their splits, in the order of the rows."""
    from tqdm import tqdm

    splits, emotions, faces, side = [], [], [], 0
    size = path.stat().st_size
    bar = tqdm(total=size, desc=path.name, unit="B", unit_scale=True, leave=False, disable=None)
    with path.open("rb") as file, bar:
        try:
            rows = _csv_rows(path, _decompressed(path, file))
            while batch := list(islice(rows, ROWS_PER_BATCH)):
                lines, batch_splits, batch_emotions, pixels = zip(*batch, strict=True)
                side = side or math.isqrt(len(pixels[0].split()))  # the first row says it for all
                batch_faces = _parse_pixels(pixels, side)
                if batch_faces is None:
                    raise _pixel_fault(path, lines, pixels, side)
                if tuple(image_size) != (side, side):
                    batch_faces = np.stack([resize_face(face, image_size) for face in batch_faces])
                splits += batch_splits
                emotions += batch_emotions
                faces.append(batch_faces)
                bar.update(file.tell() - bar.n)
        except DAMAGED as error:
            raise UserError(f"{path} must be whole; found damage ({error}): download it again") from error
    if not faces:
        raise UserError(f"{path}: a CSV must have a row per image; found only its header: download it again")
    order = np.argsort(splits, kind="stable")
    faces = np.concatenate(faces)
    if (np.diff(order) != 1).any():  # most files have their splits one after the other
        faces = faces[order]
    return np.array(splits)[order], np.array(emotions, np.int64)[order], faces


def _decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    """Return the CSV that `file` holds; its first bytes say how it is compressed, whatever its name."""
    start = file.read(256)
    file.seek(0)
    if not start:
        raise UserError(f"{path}: a CSV must have a header; found an empty file: download it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: the data must be here; found a Git LFS pointer: run `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path}: the data must be a CSV; found a web page: log in, and download it again")
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"\xfd7zXZ"):
        if lzma is None:
            raise UserError(f"{path}: .xz needs Python's lzma; found a Python without it: unpack the file")
        return lzma.LZMAFile(file)
    if start.startswith(b"PK"):
        archive = zipfile.ZipFile(file)
        inside = [name for name in archive.namelist() if name.endswith(".csv") and "__MACOSX" not in name]
        named = [name for name in inside if Path(name).name in CSV_NAMES] or inside
        if len(named) != 1:
            raise UserError(
                f"{path}: a zip must hold fer2013.csv, icml_face_data.csv or one other CSV; found "
                f"{len(named) or 'none'}: unpack it, and name what was inside"
            )
        return archive.open(named[0])
    return file


def _csv_rows(path: Path, stream: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (line, index of SPLITS, emotion, pixels) of every row."""
    header = stream.readline()
    columns = [_field(name).lower() for name in header.removeprefix(b"\xef\xbb\xbf").split(b",")]
    if not {b"usage", b"emotion", b"pixels"} <= set(columns):
        raise _row_error(path, 1, "the columns must be emotion, pixels, Usage", _quoted(header, 60))
    places = [columns.index(name) for name in (b"usage", b"emotion", b"pixels")]
    split_of = {split.encode(): number for number, split in enumerate(SPLITS)}
    emotion_of = {b"%d" % number: number for number in range(len(EMOTIONS))}
    for line, text in enumerate(stream, 2):
        if text.isspace():
            continue
        fields = text.split(b",")
        if len(fields) != len(columns):
            raise _row_error(path, line, f"a row must have {len(columns)} columns", len(fields))
        usage, emotion, pixels = (_field(fields[place]) for place in places)
        if usage not in split_of:
            raise _row_error(path, line, f"Usage must be one of {', '.join(SPLITS)}", _quoted(usage))
        if emotion not in emotion_of:
            raise _row_error(path, line, f"emotion must be 0 to {len(EMOTIONS) - 1}", _quoted(emotion))
        yield line, split_of[usage], emotion_of[emotion], pixels


def _row_error(path: Path, line: int, rule: str, found: object) -> ValueError:
    """Return the error for a line that breaks a rule."""
    return ValueError(f"{path}, line {line}: {rule}; found {found}: correct it, or download the file again")


def _field(text: bytes) -> bytes:
    """Return a CSV field without what may stand around it."""
    return text.strip(b' "\r\n\t')


def _quoted(text: bytes, length: int = 20) -> str:
    """Return the beginning of `text` as one printable line."""
    return repr(text[:length].decode("latin-1"))


def _parse_pixels(rows: Sequence[bytes], side: int) -> np.ndarray | None:
    """Return faces (n, side, side, 1) from rows of numbers, or None when a row is at fault.

    All bytes are handled at once: where a number ends, its value is that digit, plus ten times the digit
    before, plus a hundred times the one before that.
    """
    text = np.frombuffer(b"\n\n" + b"\n".join(rows) + b"\n", np.uint8)
    digits = text - 48  # other bytes wrap around, far above 9
    is_digit = digits < 10
    digits *= is_digit
    values = digits[2:].astype(np.uint16)
    values += digits[1:-1] * np.uint8(10)
    values += digits[:-2] * is_digit[1:-1] * np.uint16(100)
    ends = np.flatnonzero(is_digit[2:-1] & ~is_digit[3:])
    values = values[ends]
    counts = np.diff(np.searchsorted(ends, np.flatnonzero(text[2:] == 10)), prepend=0)
    too_long = is_digit[3:] & is_digit[2:-1] & is_digit[1:-2] & is_digit[:-3]
    is_space = text <= 32
    if (counts != side**2).any() or (values > 255).any() or too_long.any() or (is_digit == is_space).any():
        return None
    return values.astype(np.uint8).reshape(len(rows), side, side, 1)


def _pixel_fault(path: Path, lines: Sequence[int], rows: Sequence[bytes], side: int) -> ValueError:
    """Return the error for the first of the rows that _parse_pixels does not take."""
    for line, row in zip(lines, rows, strict=True):
        pixels = row.split()
        for place, pixel in enumerate(pixels, 1):
            if not (pixel.isdigit() and len(pixel) <= 3 and int(pixel) <= 255):
                rule = "pixels must be whole numbers from 0 to 255"
                return _row_error(path, line, rule, f"{_quoted(pixel)} as number {place}")
        if not pixels or len(pixels) != side**2:
            rule = "all rows must have the pixels of one square, 48 x 48 = 2304 in FER2013"
            return _row_error(path, line, rule, len(pixels))
    raise AssertionError("_parse_pixels refused rows that are right")


# ------------------------------------------------------------------------------------------------------------
# Folders of images


def list_images(folder: Path) -> tuple[list[tuple[int, int, Path]], tuple[str, ...]]:
    """Return (index of SPLITS, emotion, path) of every image in `folder`, by split, and the emotions."""
    found: list[tuple[int, str, Path]] = []
    own: dict[str, Path] = {}  # emotions that FER2013 does not know
    for split_folder in _subfolders(folder):
        split = canonical_name(split_folder.name, SPLIT_FOLDERS)
        names: dict[str, Path] = {}
        for emotion_folder in _subfolders(split_folder) if split else ():
            name = emotion_folder.name.casefold()
            emotion = canonical_name(name, EMOTION_FOLDERS)
            for known in (names, *([] if emotion else [own])):
                other = known.setdefault(name, emotion_folder)
                if other != emotion_folder and (known is names or other.name != emotion_folder.name):
                    raise UserError(
                        f"{emotion_folder}: emotions must differ by more than capitals; found {other} as well: "
                        "rename one of them"
                    )
            files = [file for file in sorted(os.listdir(emotion_folder)) if not file.startswith(".")]
            paths = [emotion_folder / file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
            if not paths:
                raise UserError(
                    f"{emotion_folder}: an emotion's folder must hold images ({', '.join(IMAGE_SUFFIXES)}); "
                    "found none: fill it or remove it"
                )
            found += [(SPLITS.index(split), emotion or emotion_folder.name, path) for path in paths]
    if not found:
        raise UserError(f"{folder}: a data set's folder must hold train/EMOTION/*; found no image: fill it")
    emotions = (*EMOTIONS, *sorted({emotion for _, emotion, _ in found} - set(EMOTIONS), key=str.casefold))
    number = {emotion: place for place, emotion in enumerate(emotions)}
    found.sort(key=lambda image: image[0])
    return [(split, number[emotion], path) for split, emotion, path in found], emotions


def _read_images(images: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> Iterator[Arrays]:
    """Yield the images in the order of the list, without those that can't be read, some hundreds at a time."""
    from tqdm import tqdm

    unreadable: list[Path] = []
    bar = tqdm(total=len(images), desc="images", leave=False, disable=None)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(images), IMAGES_PER_BATCH):
            batch = images[start : start + IMAGES_PER_BATCH]
            faces = list(pool.map(lambda image: _read_image(image[2], image_size), batch))
            unreadable += [path for (_, _, path), face in zip(batch, faces, strict=True) if face is None]
            done = start + len(batch)
            named = ", ".join(map(str, unreadable[:NAMED])) + (", ..." if len(unreadable) > NAMED else "")
            enough = len(unreadable) > NAMED or done == len(images)  # to name
            if enough and len(unreadable) > UNREADABLE * len(images):
                raise UserError(
                    f"images must be readable; found {len(unreadable)} of the first {done:,} that are not: {named}; "
                    f"replace or remove them (of many images, {UNREADABLE:.0%} may be unreadable)"
                )
            read = [(*image[:2], face) for image, face in zip(batch, faces, strict=True) if face is not None]
            splits, emotions, faces = zip(*read, strict=True) if read else ((), (), np.empty((0, *image_size, 1)))
            yield np.array(splits, np.int64), np.array(emotions, np.int64), np.array(faces, np.uint8)
            bar.update(len(batch))
    if unreadable:
        print(
            f"notice: {len(unreadable)} of {len(images):,} images can't be read and are left out: {named}",
            file=sys.stderr,
        )


def _read_image(path: Path, image_size: tuple[int, int]) -> np.ndarray | None:
    """Return an image file as a face, or None where it can't be read."""
    image = decode_image(path)
    return None if image is None else resize_face(image, image_size)


def decode_image(path: Path) -> np.ndarray | None:
    """Return an image file as uint8 (h, w, 3), BGR, or None where it can't be read."""
    try:
        # Colour is 8 bits and upright whatever the file has, and then turns grey as a camera's frame does.
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, OSError):  # an empty file, or one that claims to be huge; one that may not be read
        return None


# ------------------------------------------------------------------------------------------------------------
# Cache


def _cache_places(source: Path) -> list[Path]:
    """Return where the cache of a source may be: beside it, or, where that can't be written, in the user's folder."""
    places = [source / "faces.cache.npz" if source.is_dir() else source.with_name(f"{source.name}.cache.npz")]
    with contextlib.suppress(RuntimeError):  # in some containers the user has no home
        whose = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
        places.append(cache_folder() / f"{source.resolve().name}.{whose}.cache.npz")
    return places


def _cache_key(source: Path, images: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> str:
    """Return what a cache must carry to be used; it changes with the source and with the image size."""
    listing = hashlib.sha256()
    for split, emotion, path in images or [("", "", source)]:
        status = path.stat()
        listing.update(f"{split} {emotion} {path.name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return json.dumps([CACHE_VERSION, *image_size, listing.hexdigest()])


def _read_and_cache(
    caches: list[Path], key: str, source: Path, images: list[tuple[int, int, Path]], image_size: tuple[int, int]
) -> Arrays:
    """Read a source and write its cache to the first place that can be written, else say so and keep all in memory."""
    table = None if images else _read_csv(source, image_size)
    count = len(images) if images else len(table[0])
    failures = []
    for cache in caches:
        try:
            _write_cache(cache, key, (count, *image_size, 1), _read_images(images, image_size) if images else [table])
        except OSError as error:
            failures.append(error)
            continue
        if failures:
            print(f"notice: the cache is {cache} ({failures[0]})", file=sys.stderr)
        if (arrays := _read_cache(cache, key)) is not None:
            return arrays
    if failures:
        print(f"notice: no cache written, so the next start reads the data again ({failures[0]})", file=sys.stderr)
    parts = _read_images(images, image_size) if images else [table]
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _read_cache(cache: Path, key: str) -> Arrays | None:
    """Return what _write_cache was given, or None when the cache is missing, outdated or damaged."""
    try:
        with np.load(cache) as arrays:  # reading an array checks its CRC
            if arrays["key"].item() != key:
                return None
            splits, emotions = arrays["splits"], arrays["emotions"]
        with zipfile.ZipFile(cache) as archive:
            member = archive.getinfo("faces.npy")
            with archive.open(member) as stream:
                np.lib.format.read_magic(stream)
                shape, _, _ = np.lib.format.read_array_header_1_0(stream)
                header = stream.tell()
                while stream.read(1 << 20):  # to the end, where the CRC is checked
                    pass
        file = cache.open("rb")
        file.seek(member.header_offset + 26)
        start = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + header
        faces = np.memmap(file, np.uint8, "r", start, shape)
        if faces.size <= IN_MEMORY:
            with file:
                return splits, emotions, np.array(faces)
        file.close()
        return splits, emotions, faces
    except Exception:  # a damaged file can fail in any way, and the source still has everything
        return None


def _write_cache(cache: Path, key: str, shape: tuple[int, ...], parts: Iterable[Arrays]) -> None:
    """Write the arrays of a source, a part after the other, whole or not at all; `shape` has room for all faces."""
    splits, emotions, count = [], [], 0
    with replacing(cache) as partial, zipfile.ZipFile(partial, "w") as archive:
        with archive.open("faces.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for part_splits, part_emotions, faces in parts:
                splits.append(part_splits)
                emotions.append(part_emotions)
                file.write(faces.data if faces.size else b"")
                count += len(faces)
            for _ in range(count, shape[0]):  # in place of those that could not be read
                file.write(bytes(math.prod(shape[1:])))
        for name, array in (
            ("key", np.array(key)),
            ("splits", np.concatenate(splits)),
            ("emotions", np.concatenate(emotions)),
        ):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)


# ------------------------------------------------------------------------------------------------------------
# Pixels


def resize_face(image: np.ndarray, image_size: tuple[int, int] = image_size) -> np.ndarray:
    """Turn an image into the grey face that networks see; data sets and live frames both come through here.

    Args:
        image: uint8, grey (h, w) or (h, w, 1), BGR (h, w, 3) or BGRA (h, w, 4).
        image_size: Height and width of the result in pixels.

    Returns:
        uint8 (height, width, 1).

    Raises:
        ValueError: `image` is not 8-bit, is empty or has another shape.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise UserError(
            "a face must be uint8 of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); found "
            f"{image.dtype} {image.shape}: convert it to 8 bits, and crop inside the image"
        )
    if channels > 1:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if channels == 3 else cv2.COLOR_BGRA2GRAY)
    height, width = image_size
    if image.shape[:2] != (height, width):
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        # FER2013 halved and enlarged again: an RMSE of 11.7 grey levels with cubic, 13.7 with linear.
        way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=way)
    return image.reshape(height, width, 1)


def preprocess_images(images: np.ndarray) -> np.ndarray:
    """Scale pixels from [0, 255] to [-1, 1], the range that every network here is trained on.

    Args:
        images: Any numeric dtype and any shape, values in [0, 255].

    Returns:
        float32 of the same shape, `images / 127.5 - 1`.

    Raises:
        ValueError: A value is outside [0, 255] or not a number, or floats are in [0, 1], normalised already.
    """
    images = np.asarray(images)
    if images.dtype.kind not in "uif":
        raise UserError(f"pixels must be numbers in [0, 255]; found {images.dtype}: convert them to uint8")
    if images.dtype != np.uint8 and images.size:
        low, high = images.min(), images.max()
        normalised = images.dtype.kind == "f" and 0 < high <= 1
        if normalised or not (low >= 0 and high <= 255):  # not (...): NaN compares false
            raise UserError(
                f"pixels must be in [0, 255]; found {images.dtype} in [{low:g}, {high:g}]: "
                "pass pixels as they were read, not yet normalised"
            )
    scaled = np.divide(images, 127.5, dtype=np.float32)
    scaled -= 1
    return scaled


# ------------------------------------------------------------------------------------------------------------
# Votes, splits and duplicates


def load_votes(path: str | Path) -> dict[str, np.ndarray]:
    """Load FER+'s votes: what ten people each said of FER2013's images, row for row as in fer2013.csv.

    Args:
        path: fer2013new.csv: a column Usage, and one for each of VOTE_COLUMNS.

    Returns:
        For each split of FER2013, votes float32 (n, 10): a share for each of VOTE_COLUMNS ("NF": no face).

    Raises:
        FileNotFoundError: There is no such file; the message says where it comes from.
        ValueError: The file is not as described; the message names the file, and the line.

    Source: Barsoum, Zhang, Canton Ferrer and Zhang 2016, "Training Deep Networks for Facial Expression Recognition
    with Crowd-Sourced Label Distribution", https://arxiv.org/abs/1608.01041.
    """
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: fer2013new.csv comes from https://github.com/microsoft/FERPlus")
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own, of text in a wrong encoding too
        raise UserError(f"{path}: votes must be a CSV; found {str(error).splitlines()[0]}: get it again") from error
    if missing := [name for name in ("Usage", *VOTE_COLUMNS) if name not in table]:
        raise UserError(
            f"{path}: the columns must be Usage, {', '.join(VOTE_COLUMNS)}; found none for {', '.join(missing)}"
        )
    counts = table[list(VOTE_COLUMNS)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    total = counts.sum(axis=1, keepdims=True)
    wrong = ~table["Usage"].isin(SPLITS).to_numpy() | ~((counts >= 0).all(axis=1) & (total[:, 0] > 0))
    if wrong.any():
        row = int(wrong.argmax())
        found = ",".join(str(table[name][row]) for name in ("Usage", *VOTE_COLUMNS))
        raise _row_error(path, row + 2, f"a row must name a split ({', '.join(SPLITS)}) and count votes", found)
    return {split: (counts / total)[(table["Usage"] == split).to_numpy()] for split in SPLITS}


def join_votes(
    data: Dataset, path: str | Path, relabel: bool = False, drop_no_face: bool = False
) -> tuple[Dataset, dict[str, np.ndarray]]:
    """Put FER2013 and FER+'s votes together, row for row.

    Args:
        data: FER2013 as its CSV has it.
        path: As load_votes takes it.
        relabel: Give each face the emotion that most people saw, one of FER2013's seven or contempt.  Faces whose
            emotion most people did not know, or that they saw no face in, have none and are left out.
        drop_no_face: Leave out what most people saw no face in.

    Returns:
        The data set, and of each of its splits the votes, float32 (n, 10), as load_votes returns them.

    Raises:
        FileNotFoundError, ValueError: As load_votes, or the votes are not on these images, row for row.
    """
    votes = load_votes(path)
    emotions = (*EMOTIONS, "contempt") if relabel else data.emotions
    number = np.array([(*EMOTIONS, "contempt").index(label) for label in VOTE_LABELS] + [-1, -1])
    splits = {}
    for name, (faces, labels) in data.items():
        cast = votes[name]
        if len(cast) != len(faces):
            raise UserError(
                f"{path}: the votes must be on FER2013's images, row for row; found {len(cast)} rows for {len(faces)} "
                f"images of {name}: use FER2013's CSV, or leave --votes out"
            )
        most = cast.argmax(axis=1)
        agreed = np.mean(number[most] == labels)
        if agreed < 0.4:  # 0.63 where the rows belong together, 0.2 where they do not
            raise UserError(
                f"{path}: the votes must be on the same images, row for row; found that {agreed:.0%} of {name}'s "
                "labels are the most voted: use FER2013's CSV in its official order, or leave --votes out"
            )
        kept = (
            most < len(VOTE_LABELS)
            if relabel
            else most != VOTE_COLUMNS.index("NF")
            if drop_no_face
            else np.full(len(most), True)
        )
        if not kept.all():
            faces, labels, most, votes[name] = faces[kept], labels[kept], most[kept], cast[kept]
        splits[name] = Split(faces, number[most] if relabel else labels)
    return Dataset(splits, emotions), votes


def stratified_split(emotions: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the same fraction of every emotion.

    Args:
        emotions: int (n,).
        fraction: Of each emotion, rounded, between 0 and 1; at least one image of it is kept.
        seed: The same seed gives the same split.

    Returns:
        Indices kept and indices held out, each int64 and ascending.

    Raises:
        ValueError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction to hold out must be between 0 and 1; found {fraction}: correct it")
    emotions = np.asarray(emotions)
    held_out = np.zeros(len(emotions), bool)
    rng = np.random.default_rng(seed)
    for emotion in np.unique(emotions):
        indices = rng.permutation(np.flatnonzero(emotions == emotion))
        held_out[indices[: min(round(fraction * len(indices)), len(indices) - 1)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def find_duplicates(faces: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Find faces that are, byte for byte, in `others`; without `others`, those that repeat an earlier face.

    Args:
        faces: uint8 (n, height, width, 1).
        others: uint8 (m, height, width, 1).

    Returns:
        bool (n,).
    """
    seen = set(_digests(others)) if others is not None else set()
    found = np.zeros(len(faces), bool)
    for index, digest in enumerate(_digests(faces)):
        found[index] = digest in seen
        if others is None:
            seen.add(digest)
    return found


def _digests(faces: np.ndarray) -> Iterator[bytes]:
    """Yield what stands for each face's bytes in 16 of them."""
    for start in range(0, len(faces), 1024):
        for face in np.ascontiguousarray(faces[start : start + 1024]):
            yield hashlib.blake2b(face, digest_size=16).digest()


def count_duplicates(splits: dict[str, Split]) -> dict[tuple[str, str], int]:
    """Count duplicates within and between splits.

    Args:
        splits: As load_fer2013_data returns them.

    Returns:
        For (first, second), in the order of `splits`, the faces of the second that are also in the first; for
        (split, split), the faces that repeat an earlier face of that split.
    """
    counts = {}
    for first, second in combinations_with_replacement(splits, 2):
        others = splits[first].faces if first != second else None
        counts[first, second] = int(find_duplicates(splits[second].faces, others).sum())
    return counts


# ------------------------------------------------------------------------------------------------------------
# Script


def format_table(splits: Dataset) -> str:
    """Return a table of images per emotion and split, and of duplicates."""

    def line(label, *cells):
        return f"{label:<20}" + "".join(f"{cell:>13}" for cell in cells)

    names, duplicates = list(splits), count_duplicates(splits)
    counts = np.stack([np.bincount(split.emotions, minlength=len(splits.emotions)) for split in splits.values()])
    lines = [line("", *names, "all")]
    lines += [line(emotion, *row, row.sum()) for emotion, row in zip(splits.emotions, counts.T, strict=True)]
    lines += [line("all", *counts.sum(axis=1), counts.sum()), ""]
    lines += [line("repeated within", *(duplicates[name, name] for name in names))]
    for place, first in enumerate(names[:-1], 1):
        blanks = [""] * place
        lines += [line(f"also in {first}", *blanks, *(duplicates[first, second] for second in names[place:]))]
    if absent := [split for split in SPLITS if split not in splits]:
        lines += [f"absent: {', '.join(absent)}"]
    return "\n".join(lines)


def draw_overview(splits: Dataset, path: Path) -> None:
    """Write a picture of some faces of every emotion, drawn by chance, and of the balance of the classes."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    height, width = next(iter(splits.values())).faces.shape[1:3]
    emotions = np.concatenate([split.emotions for split in splits.values()])
    origin = [(split.faces, index) for split in splits.values() for index in range(len(split.faces))]
    rows, columns, gap, rng = len(splits.emotions), 12, 2, np.random.default_rng(0)
    sheet = np.full((rows, height + gap, columns, width + gap), 255, np.uint8)
    for emotion, row in enumerate(sheet):
        chosen = rng.permutation(np.flatnonzero(emotions == emotion))[:columns]
        for column, (faces, index) in enumerate(origin[place] for place in chosen):
            row[:height, column, :width] = faces[index, :, :, 0]
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap))

    figure = Figure(figsize=(12, 1.2 + rows / 2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    left.imshow(sheet, "gray", vmin=0, vmax=255, aspect="auto", extent=(0, columns, rows - 0.5, -0.5))
    left.set(xticks=[], yticks=range(rows), yticklabels=splits.emotions)
    total = np.zeros(rows, int)
    for (name, split), colour in zip(splits.items(), ("#0072B2", "#E69F00", "#009E73"), strict=False):
        counts = np.bincount(split.emotions, minlength=rows)
        right.barh(range(rows), counts, 0.6, total, color=colour, label=f"{name}  {len(split.emotions):,}")
        total += counts
    for emotion, count in enumerate(total):
        right.text(count, emotion, f"  {count:,}  {count / total.sum():.1%}", va="center")
    right.set(xticks=[], xlim=(0, total.max() * 1.35))
    right.tick_params(labelleft=False)
    for axes in (left, right):
        axes.tick_params(length=0, labelsize=12)
        axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper right", ncols=len(splits), frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; defaults are the settings at the top."""
    parser = Parser(description="Count a data set's images and duplicates, and draw them.")
    parser.add_argument("--dataset", metavar="PATH", default=dataset, help="a CSV, a folder, or drawn")
    parser.add_argument(
        "--crop-faces", metavar="FOLDER", type=Path, help="cut the faces out of the data set's photographs into it"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print and draw what a data set holds."""
    args = parse_args(argv)
    if args.crop_faces:
        script = Path(__file__).resolve().with_name("crop_photographs.py")
        if status := subprocess.call([sys.executable, script, str(args.dataset), str(args.crop_faces)]):
            return status
        args.dataset = args.crop_faces
    splits = load_fer2013_data(args.dataset)
    if splits.emotions != EMOTIONS:  # else the absent ones of the seven are worth a line
        splits = splits.drop_unused_labels()
    print(format_table(splits))
    picture = Path(__file__).resolve().parent / "fer2013" / "overview_drawn.png"
    if str(args.dataset) != "drawn":
        source = find_source(args.dataset)
        picture = (source if source.is_dir() else source.parent) / "overview.png"
    try:
        draw_overview(splits, picture)
        print(f"\npicture: {picture}")
    except OSError as error:  # the counts are there
        print(f"notice: no picture drawn ({error})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
