"""What a face image is: the seven emotions, the pixels that a network sees, and the data sets that are read here.

    python load_and_process.py                        counts, duplicates and a picture of the data set in fer2013/
    python load_and_process.py --dataset my_faces     the same for my_faces/train/EMOTION/*, my_faces/test/EMOTION/*
    python load_and_process.py --dataset drawn        the same for drawn faces: no data set is needed
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
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import combinations_with_replacement, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from command_line import (  # first: it names a missing package
    MAX_PIXELS,
    Parser,
    UserError,
    WriteError,
    cache_folder,
    drawing,
    exit_status,
    new_figure,
    number_in_range,
    reading,
    replacing,
)

# isort: split
import cv2
import numpy as np

try:
    import lzma
except ImportError:  # some Pythons are built without lzma; they read everything except .xz
    lzma = None

# ----------------------------------------------------------------------------------------------------------
# Settings.  Edit here, or pass the flag of the same name (see --help).

dataset = Path(__file__).resolve().parent / "fer2013" / "fer2013.csv"  # or compressed, a folder, "drawn"
image_size = (48, 48)  # height, width of a face in pixels
crop_faces = None  # a new folder for the faces that are cut out of the data set's photographs
# ----------------------------------------------------------------------------------------------------------

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # FER2013's labels 0 to 6
WITH_CONTEMPT = (*EMOTIONS, "contempt")  # label 7 of FER+ and CK+
SPLITS = ("Training", "PublicTest", "PrivateTest")
VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
VOTE_LABELS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")  # of the first eight

EMOTION_FOLDERS = {  # the spellings in use
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
    "PublicTest": ("validation", "valid", "val", "publictest"),  # training watches this split
    "PrivateTest": ("test", "testing", "privatetest"),  # used once, at the end
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # read, and written
READ_SUFFIXES = (".jpe", ".jfif", ".avif", ".gif", ".dib", ".jp2", ".pbm", ".pgm", ".ppm", ".pnm")  # read as well
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read where pillow-heif is installed
FOREIGN_SUFFIXES = (".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg")  # not read
CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.xz", ".zip")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip", ".rar", ".7z")  # named where they lie in place of the data
CSV_NAMES = [f"{name}.csv{end}" for name in ("fer2013", "icml_face_data") for end in ("", ".gz", ".zip", ".xz")]
FER2013_CSV = Path(__file__).resolve().parent / "fer2013" / "fer2013.csv"
HOW_TO_GET_FER2013 = """\
FER2013 comes from Kaggle, which asks for a login; either form will do (see fer2013/README.md):
  images  kaggle datasets download msambare/fer2013 -p fer2013 --unzip
  CSV     kaggle competitions download -p fer2013 -f icml_face_data.csv \
challenges-in-representation-learning-facial-expression-recognition-challenge
Without it, `--dataset drawn` works at once, on drawn faces."""

CACHE_VERSION = 4  # raise the number when the same source gives other arrays, or the cache has another form
IN_MEMORY = 2**28  # bytes of faces; more faces stay in the cache's file, and the system reads the parts in use
ROWS_PER_BATCH = 64  # half a megabyte of CSV, which the processor's cache holds
IMAGES_PER_BATCH = 512  # images that are decoded side by side
PARQUET_COLUMNS = (("image", "img", "image_bytes", "img_bytes"), ("label", "labels", "emotion"))
MAX_UNREADABLE = 0.01  # share of a folder's images; the unreadable images are named and left out
MAX_NAMED = 20  # unreadable images in a message
DAMAGED = (EOFError, zlib.error, OSError, zipfile.BadZipFile, *((lzma.LZMAError,) if lzma else ()))


class Split(NamedTuple):
    """Faces uint8 (n, height, width, 1) and their emotions int64 (n,), numbers that index `Dataset.emotions`."""

    faces: np.ndarray
    emotions: np.ndarray


class Dataset(dict[str, Split]):
    """The splits of a data set, by name, in the order of SPLITS.

    Attributes:
        emotions: The labels that the numbers in the splits index: first EMOTIONS, then the other labels of a folder, in
            alphabetical order, whether capital or small.
    """

    def __init__(self, splits: dict[str, Split], emotions: Sequence[str] = EMOTIONS):
        super().__init__(splits)
        self.emotions = tuple(emotions)

    def drop_unused_labels(self) -> "Dataset":
        """Return the same faces, without the emotions that no face shows; the other emotions get new numbers."""
        used = np.unique(np.concatenate([split.emotions for split in self.values()]))
        splits = {name: Split(faces, np.searchsorted(used, emotions)) for name, (faces, emotions) in self.items()}
        return Dataset(splits, [self.emotions[number] for number in used])


# The images of a source: indices of SPLITS (n,), emotions (n,), faces (n, height, width, 1).
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


# ----------------------------------------------------------------------------------------------------------
# Pixels


def resize_face(image: np.ndarray, image_size: tuple[int, int] = (48, 48)) -> np.ndarray:
    """Turn an image into the grey face that networks see: data sets and live frames use this one function.

    Args:
        image: uint8, grey (h, w) or (h, w, 1), BGR (h, w, 3) or BGRA (h, w, 4).
        image_size: Height and width of the result in pixels.

    Returns:
        uint8 (height, width, 1).

    Raises:
        ValueError: `image` is not uint8, is empty, or has another shape.
    """
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise ValueError(
            "a face must be uint8 of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); found "
            f"{image.dtype} {image.shape}: convert it to 8 bits, and crop inside the image"
        )
    if channels > 1:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if channels == 3 else cv2.COLOR_BGRA2GRAY)
    height, width = image_size
    if image.shape[:2] != (height, width):
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        # FER2013 at half its size, enlarged again: the error (RMSE) is 11.7 grey levels with cubic, 13.7 with linear.
        # Networks of another size come from programs that enlarge faces linearly: cubic costs them up to 1.2 points.
        enlarge = cv2.INTER_CUBIC if (height, width) == (48, 48) else cv2.INTER_LINEAR
        interpolation = cv2.INTER_AREA if shrinks else enlarge
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    return image.reshape(height, width, 1)


def preprocess_images(images: np.ndarray) -> np.ndarray:
    """Scale pixels from [0, 255] to [-1, 1], the range that every network here is trained on.

    Args:
        images: Any numeric dtype and any shape, values in [0, 255].

    Returns:
        float32 of the same shape, `images / 127.5 - 1`.

    Raises:
        ValueError: A value is not a number in [0, 255], or all values are floats in [0, 1]: normalised already.
    """
    images = np.asarray(images)
    if images.dtype.kind not in "uif":
        raise ValueError(f"pixels must be numbers in [0, 255]; found {images.dtype}: convert them to uint8")
    if images.dtype != np.uint8 and images.size:
        low, high = images.min(), images.max()
        normalised = images.dtype.kind == "f" and 0 < high <= 1
        if normalised or not (low >= 0 and high <= 255):  # not (...), because NaN compares false
            raise ValueError(
                f"pixels must be in [0, 255]; found {images.dtype} in [{low:g}, {high:g}]: "
                "pass pixels as they were read, not yet normalised"
            )
    scaled = np.divide(images, 127.5, dtype=np.float32)
    scaled -= 1
    return scaled


# ----------------------------------------------------------------------------------------------------------
# Loading a data set


def load_fer2013_data(dataset_path: str | Path = FER2013_CSV, image_size: tuple[int, int] = (48, 48)) -> Dataset:
    """Load a data set: the first time from its source, later from a cache.

    The cache is written beside the source, or, where that folder can't be written, in the user's `cache_folder()`.

    Faces of up to IN_MEMORY bytes are in memory. More faces stay in the cache's file, as a read-only `np.memmap`:
    `faces[indices]` works as for any array, and the faces may need more space than the memory has. The system counts
    the parts of the file that were read as memory of this process (RSS), and drops these parts when memory is short.

    Args:
        dataset_path: FER2013's CSV (columns emotion, pixels, Usage), as it is or compressed (.gz, .zip, .xz); without
            Usage, all its faces are Training. A folder with train/EMOTION/*, validation/EMOTION/*, test/EMOTION/*,
            which become Training, PublicTest and PrivateTest. A parquet file of images and labels, or a folder of
            train*.parquet and so on. A folder that holds one of these. Or "drawn".
        image_size: Height and width of the faces in pixels. Images of another size are resized.

    Returns:
        The splits that the data set has, and the labels of its emotions.

    Raises:
        UserError: Nothing is at `dataset_path`, or the data are not as described; the message names the file, and the
            line or the image.
        ValueError: `image_size` is not two whole numbers of 1 or more.
    """
    sides = np.asarray(image_size)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise ValueError(f"image_size must be height and width, 1 pixel or more each; found {image_size!r}: correct it")
    if str(dataset_path) == "drawn":
        from drawn_faces import draw_dataset  # here: a start without drawn faces is faster

        drawn = draw_dataset(image_size=image_size, seed=0)
        return Dataset({name: Split(faces, emotions) for name, (faces, emotions) in drawn.items()})

    source = find_source(dataset_path)
    images, emotion_names = _list_parquet(source), EMOTIONS
    if source.is_dir() and not images:
        images, emotion_names = list_images(source)
    arrays = _read_with_cache(source, images, image_size)
    if len(EMOTIONS) in arrays[1] and emotion_names == EMOTIONS:
        emotion_names = WITH_CONTEMPT
    starts = np.searchsorted(arrays[0], range(len(SPLITS) + 1))  # the splits lie one after the other
    splits = {}
    for name, start, end in zip(SPLITS, starts[:-1], starts[1:], strict=True):
        if start < end:
            splits[name] = Split(arrays[2][start:end], arrays[1][start:end])
    return Dataset(splits, emotion_names)


def find_source(dataset_path: str | Path) -> Path:
    """Find the CSV, or the folder with train/ in it, that `dataset_path` stands for.

    Args:
        dataset_path: A CSV; a folder that is the data set, holds its CSV, or has one subfolder that is or holds it.
            FER2013_CSV, where it is missing, stands for its folder.

    Returns:
        An existing file or folder.

    Raises:
        UserError: Nothing is at `dataset_path` (where FER2013 is missing, the message says how to get it); the file
            is of another kind; or the folder holds no data set, or several.
    """
    path = Path(os.path.expanduser(dataset_path))
    with reading(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()
    if path.is_file():
        suffixes = (*CSV_SUFFIXES, ".parquet")
        if not path.name.lower().endswith(suffixes):
            raise UserError(
                f"{path}: a data set must be a folder or end in {', '.join(suffixes)}; found "
                f"{path.suffix or 'no suffix'}: unpack it, and name what was inside"
            )
        return path
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: a data set must be a file or a folder; found a pipe or a device: name a file")
    is_default = os.path.realpath(path) == os.path.realpath(FER2013_CSV) and not path.exists()
    folder = path.parent if is_default else path
    if folder.is_dir():
        in_folder = _data_in(folder)
        found = [in_folder] if in_folder else [data for child in _subfolders(folder) if (data := _data_in(child))]
        if len(found) == 1:
            return found[0]
        if packed := [] if found else [file for file in _files(folder) if file.name.lower().endswith(ARCHIVE_SUFFIXES)]:
            command = f"tar xf {packed[0]} -C {folder}" if ".t" in packed[0].name else "unpack it there"
            raise UserError(f"{path}: the data must be unpacked; found {packed[0].name} in its folder: {command}")
        if found or folder == path:
            raise UserError(
                f"{path}: a folder must be or hold one data set, fer2013.csv or train/EMOTION/*; found "
                f"{len(found) or 'none'}: name the one to read"
            )
    if path.name in CSV_NAMES:
        raise UserError(f"{path} does not exist.\n{HOW_TO_GET_FER2013}")
    raise UserError(f"{path} does not exist: correct the path, or use `drawn` for drawn faces")


def _data_in(folder: Path) -> Path | None:
    """Return the CSV in `folder`, or `folder` itself if it has a split's subfolder or parquet files."""
    for name in CSV_NAMES:
        if (folder / name).is_file():
            return folder / name
    splits = [child for child in _subfolders(folder) if canonical_name(child.name, SPLIT_FOLDERS)]
    return folder if splits or _list_parquet(folder) else None


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, without those that tools make (.ipynb_checkpoints, __MACOSX)."""
    with reading(folder):
        folders = (path for path in sorted(folder.iterdir()) if path.is_dir())
        return [path for path in folders if not path.name.startswith((".", "__"))]


def _files(folder: Path) -> list[Path]:
    """Return the files in `folder`, without hidden ones."""
    with reading(folder):
        return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def canonical_name(name: str, spellings: dict[str, tuple[str, ...]]) -> str | None:
    """Return the emotion or the split that a folder's name means.

    Args:
        name: In any spelling of `spellings`, capital or small.
        spellings: EMOTION_FOLDERS or SPLIT_FOLDERS.

    Returns:
        A key of `spellings`, or None.
    """
    return next((key for key, names in spellings.items() if name.lower() in names), None)


# ----------------------------------------------------------------------------------------------------------
# The CSV


def _read_csv(path: Path, image_size: tuple[int, int]) -> Arrays:
    """Return the images of a CSV: split by split, and in each split in the order of the rows."""
    from tqdm import tqdm

    splits, emotions, faces, side = [], [], [], 0
    bar = tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, leave=False, disable=None)
    with _whole(path), path.open("rb") as file, bar:
        rows = _csv_rows(path, _decompressed(path, file))
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            lines, batch_splits, batch_emotions, pixels = zip(*batch, strict=True)
            side = side or math.isqrt(len(pixels[0].split()))  # the first row sets the size of all rows
            batch_faces = _parse_pixels(pixels, side)
            if batch_faces is None:
                raise _pixel_error(path, lines, pixels, side)
            if tuple(image_size) != (side, side):
                batch_faces = np.stack([resize_face(face, image_size) for face in batch_faces])
            splits += batch_splits
            emotions += batch_emotions
            faces.append(batch_faces)
            bar.update(file.tell() - bar.n)
    if not faces:
        raise UserError(f"{path}: a CSV must have a row for each image; found only its header: download it again")
    return _by_split(splits, emotions, np.concatenate(faces))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Translate the errors of reading a data set's file, and those of finding it damaged."""
    try:
        with reading(path):
            yield
    except DAMAGED as error:
        found = " ".join(str(error).split())
        raise UserError(f"{path} must be whole; found damage ({found}): download it again") from error


def _by_split(splits: Sequence[int], emotions: Sequence[int], faces: np.ndarray) -> Arrays:
    """Return the images of a table split by split; most tables have them so."""
    order = np.argsort(splits, kind="stable")
    if (np.diff(order) != 1).any():
        faces = faces[order]
    return np.array(splits)[order], np.array(emotions, np.int64)[order], faces


def _decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    """Return the CSV that `file` holds; the first bytes, not the name, say how the file is compressed."""
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
        try:
            archive = zipfile.ZipFile(file)
            inside = [name for name in archive.namelist() if name.lower().endswith(".csv") and "__MACOSX" not in name]
            named = [name for name in inside if Path(name).name in CSV_NAMES] or inside
            if len(named) == 1:
                return archive.open(named[0])
        except (RuntimeError, UnicodeDecodeError) as error:  # a password; a compression or a version of other programs
            raise UserError(f"{path}: a zip must be of the usual kind; found that {error}: unpack it") from error
        raise UserError(
            f"{path}: a zip must hold fer2013.csv, icml_face_data.csv or one other CSV; found "
            f"{len(named) or 'none'}: unpack it, and name what was inside"
        )
    return file


def _csv_rows(path: Path, stream: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (line, index of SPLITS, emotion, pixels) of every row."""
    header = stream.readline()
    columns = [_field(name).lower() for name in header.removeprefix(b"\xef\xbb\xbf").split(b",")]
    if b"pixels" in columns and b"emotion" not in columns:
        raise UserError(
            f"{path}: images must have labels; found pixels without emotions, as in the competition's test.csv: use "
            "train.csv, or icml_face_data.csv"
        )
    if not {b"emotion", b"pixels"} <= set(columns):
        raise _row_error(path, 1, "the columns must be emotion, pixels, Usage", _quoted(header, 60))
    emotion_at, pixels_at = columns.index(b"emotion"), columns.index(b"pixels")
    usage_at = columns.index(b"usage") if b"usage" in columns else None  # the competition's train.csv has none
    split_numbers = {split.encode(): number for number, split in enumerate(SPLITS)}
    emotion_numbers = {b"%d" % number: number for number in range(len(WITH_CONTEMPT))}
    for line, text in enumerate(stream, 2):
        if text.isspace():
            continue
        fields = text.split(b",")
        if len(fields) != len(columns):
            raise _row_error(path, line, f"a row must have {len(columns)} columns", len(fields))
        usage = b"Training" if usage_at is None else _field(fields[usage_at])
        emotion, pixels = _field(fields[emotion_at]), _field(fields[pixels_at])
        if usage not in split_numbers:
            raise _row_error(path, line, f"Usage must be one of {', '.join(SPLITS)}", _quoted(usage))
        if emotion not in emotion_numbers:
            raise _row_error(path, line, "emotion must be 0 to 6, or 7 for contempt", _quoted(emotion))
        yield line, split_numbers[usage], emotion_numbers[emotion], pixels


def _row_error(path: Path, line: int, rule: str, found: object) -> UserError:
    """Return the error for a line that breaks a rule."""
    return UserError(f"{path}, line {line}: {rule}; found {found}: correct the line, or download the file again")


def _parse_pixels(rows: Sequence[bytes], side: int) -> np.ndarray | None:
    """Return faces (n, side, side, 1) from rows of numbers, or None where a row is at fault.

    All bytes are handled at once.  A number's value, at its last digit, is that digit, plus ten times the digit
    before, plus a hundred times the digit before that.  This is twice as fast as `np.fromstring` for each row.
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


def _pixel_error(path: Path, lines: Sequence[int], rows: Sequence[bytes], side: int) -> UserError:
    """Return the error for the first of the rows that `_parse_pixels` refuses."""
    for line, row in zip(lines, rows, strict=True):
        pixels = row.split()
        for number, pixel in enumerate(pixels, 1):
            if not (pixel.isdigit() and len(pixel) <= 3 and int(pixel) <= 255):
                rule = "pixels must be whole numbers from 0 to 255"
                return _row_error(path, line, rule, f"{_quoted(pixel)} as number {number}")
        if not pixels or len(pixels) != side**2:
            rule = "all rows must have the pixels of one square, 48 x 48 = 2304 in FER2013"
            return _row_error(path, line, rule, len(pixels))
    raise AssertionError("_parse_pixels refused rows that are right")


def _field(text: bytes) -> bytes:
    """Return a CSV field without the quotes and the spaces around it."""
    return text.strip(b' "\r\n\t')


def _quoted(text: bytes, length: int = 20) -> str:
    """Return the beginning of `text` as one printable line."""
    return repr(text[:length].decode("latin-1"))


# ----------------------------------------------------------------------------------------------------------
# Parquet


def _list_parquet(source: Path) -> list[tuple[int, int, Path]]:
    """Return (index of SPLITS, -1, path) for a parquet file, or for those in a folder; [] for another source."""
    files = [source] if source.suffix == ".parquet" else []
    if source.is_dir():
        files = sorted([*source.glob("*.parquet"), *source.glob("*/*.parquet")])
    found = []
    for path in files:  # train-00000-of-00001.parquet, test/0000.parquet
        words = [path.stem.replace("-", "_").split("_")[0], path.parent.name if path.parent != source else ""]
        split = next((split for word in words if (split := canonical_name(word, SPLIT_FOLDERS))), "Training")
        found.append((SPLITS.index(split), -1, path))
    return found


def _read_parquet(files: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> Arrays:
    """Return the images of parquet files as Hugging Face serves them: the bytes of image files, and labels."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{files[0][2]}: parquet needs the package pyarrow; found none: pip install pyarrow") from error
    splits, emotions, faces = [], [], []
    for split, _, path in files:
        try:
            with _whole(path):
                table = pyarrow.parquet.read_table(path)
                names = table.column_names
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            found = " ".join(str(error).split())[:200]
            raise UserError(f"{path} must be whole; found damage ({found}): download it again") from error
        columns = [[name for name in wanted if name in names] for wanted in PARQUET_COLUMNS]
        if not all(columns):
            wanted = " and ".join(" or ".join(names) for names in PARQUET_COLUMNS)
            raise UserError(f"{path}: the columns must be {wanted}; found {', '.join(names)}: rename them")
        images, labels = (table[names[0]].to_pylist() for names in columns)
        label_names = _label_names(table.schema.metadata, columns[1][0])
        for row, (image, label) in enumerate(zip(images, labels, strict=True), 1):
            content = image.get("bytes") if isinstance(image, dict) else image
            pixels = _decode(content) if isinstance(content, bytes) else None
            if pixels is None:
                raise UserError(f"{path}, row {row}: images must be readable; found one that is not: correct the row")
            if isinstance(label, int) and 0 <= label < len(label_names):
                label = label_names[label]
            label = str(label).casefold()
            label = canonical_name(label, EMOTION_FOLDERS) or label
            if label not in WITH_CONTEMPT:
                rule = f"labels must be names or numbers of {', '.join(WITH_CONTEMPT)}"
                raise UserError(f"{path}, row {row}: {rule}; found {label[:20]!r}: correct the row")
            emotions.append(WITH_CONTEMPT.index(label))
            faces.append(resize_face(pixels, image_size))
        splits += [split] * len(images)
    if not faces:
        raise UserError(f"{files[0][2]}: a parquet file must have a row for each image; found none: download it again")
    return _by_split(splits, emotions, np.stack(faces))


def _label_names(metadata: dict[bytes, bytes] | None, column: str) -> Sequence[str]:
    """Return the names of the labels 0, 1, ...: those in the file, else FER2013's."""
    with contextlib.suppress(KeyError, TypeError, ValueError):  # a file of another origin
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
        return [str(name) for name in names]
    return WITH_CONTEMPT


# ----------------------------------------------------------------------------------------------------------
# Folders of images


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
    foreign: list[Path] = []
    other_emotions: dict[str, Path] = {}  # the emotions that FER2013 does not have
    for split_folder in _subfolders(Path(folder)):
        split = canonical_name(split_folder.name, SPLIT_FOLDERS)
        names: dict[str, Path] = {}
        for emotion_folder in _subfolders(split_folder) if split else ():
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
            foreign += not_read
            if not paths:
                raise UserError(
                    f"{emotion_folder}: an emotion's folder must hold images ({', '.join(IMAGE_SUFFIXES)}); found none"
                    + (f", but {describe_foreign(not_read)}" if not_read else ": fill the folder or remove it")
                )
            found += [(SPLITS.index(split), emotion or emotion_folder.name, path) for path in paths]
    if not found:
        raise UserError(f"{folder}: a data set's folder must hold train/EMOTION/*; found no image: fill the folder")
    if foreign:
        print(f"notice: {describe_foreign(foreign)}", file=sys.stderr)
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


def _read_images(images: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> Iterator[Arrays]:
    """Yield the images in the order of the list, some hundreds at a time, without the images that can't be read."""
    from tqdm import tqdm

    unreadable: list[Path] = []
    bar = tqdm(total=len(images), desc="images", leave=False, disable=None)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(images), IMAGES_PER_BATCH):
            batch = images[start : start + IMAGES_PER_BATCH]
            faces = list(pool.map(lambda image: _read_image(image[2], image_size), batch))
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
            splits, emotions, faces = zip(*read, strict=True) if read else ((), (), np.empty((0, *image_size, 1)))
            yield np.array(splits, np.int64), np.array(emotions, np.int64), np.array(faces, np.uint8)
            bar.update(len(batch))
    if unreadable:
        print(
            f"notice: {len(unreadable)} of {len(images):,} images can't be read and are left out: {_named(unreadable)}",
            file=sys.stderr,
        )


def _named(unreadable: Sequence[Path]) -> str:
    """Return the names of the first of these images, and why they can't be read where that is not plain."""
    names = [f"{path} ({why})" if (why := why_unreadable(path)) else str(path) for path in unreadable[:MAX_NAMED]]
    return ", ".join(names) + (", ..." if len(unreadable) > MAX_NAMED else "")


def _read_image(path: Path, image_size: tuple[int, int]) -> np.ndarray | None:
    """Return an image file as a face, or None where it can't be read."""
    image = decode_image(path)
    return None if image is None else resize_face(image, image_size)


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
    foreign = (*HEIF_SUFFIXES, *FOREIGN_SUFFIXES)
    images = [file for file in visible if file.suffix.lower() in read]
    return images, [file for file in visible if file.suffix.lower() in foreign and file.suffix.lower() not in read]


def describe_foreign(images: Sequence[Path]) -> str:
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
        return _decode(np.fromfile(path, np.uint8))
    except OSError:  # no permission to read it
        return None


def _decode(content: bytes | np.ndarray) -> np.ndarray | None:
    """Return an image from the bytes of its file, as `decode_image` does."""
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


# ----------------------------------------------------------------------------------------------------------
# The cache: PATH.cache.npy holds the faces, PATH.cache.npz what belongs to them


def _read_with_cache(source: Path, images: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> Arrays:
    """Return the images of a source, from the cache, or else from the source; then write the cache."""
    key, caches = _cache_key(source, images, image_size), _cache_paths(source)
    is_table = not images or images[0][2].suffix == ".parquet"
    for cache in caches:
        if (arrays := _read_cache(cache, key)) is not None:
            if left_out := len(images) - len(arrays[0]) if not is_table else 0:
                print(
                    f"notice: {left_out} of {len(images):,} images are left out; they could not be read "
                    f"(delete {cache} to see which)",
                    file=sys.stderr,
                )
            return arrays

    table = None
    if is_table:
        table = _read_parquet(images, image_size) if images else _read_csv(source, image_size)
    failure = None
    for cache in caches:
        parts = [table] if is_table else _read_images(images, image_size)
        try:
            _write_cache(cache, key, (len(table[0] if is_table else images), *image_size, 1), parts)
        except WriteError as error:
            failure = failure or error
            continue
        if failure:
            print(f"notice: the cache is {cache} ({failure})", file=sys.stderr)
        if (arrays := _read_cache(cache, key)) is not None:
            return arrays
    if failure:
        print(f"notice: no cache written, so the next start reads the data again ({failure})", file=sys.stderr)
    if is_table:
        return table
    splits, emotions, faces = zip(*_read_images(images, image_size), strict=True)
    return np.concatenate(splits), np.concatenate(emotions), np.concatenate(faces)


def _cache_paths(source: Path) -> list[Path]:
    """Return where the cache of a source may be: beside the source, and in the user's folder."""
    paths = [source / "faces.cache.npz" if source.is_dir() else source.with_name(f"{source.name}.cache.npz")]
    with contextlib.suppress(UserError):  # in some containers the user has no home folder
        path_hash = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
        paths.append(cache_folder() / f"{source.resolve().name}.{path_hash}.cache.npz")
    return paths


def _cache_key(source: Path, images: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> str:
    """Return a text that changes with the source and with the image size; a cache with another key is not used."""
    listing = hashlib.sha256()
    for split, emotion, path in images or [("", "", source)]:
        with reading(path):
            status = path.stat()
        listing.update(f"{split} {emotion} {path.name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return json.dumps([CACHE_VERSION, *map(int, image_size), listing.hexdigest()])


def _read_cache(cache: Path, key: str) -> Arrays | None:
    """Return the arrays that `_write_cache` has written, or None if the cache is missing, outdated or damaged."""
    if not cache.is_file():
        return None
    try:
        with np.load(cache) as arrays:  # a zip, so that the CRC of each of these arrays is checked
            found_key, crc, splits, emotions = (arrays[name] for name in ("key", "crc", "splits", "emotions"))
        faces = np.load(cache.with_suffix(".npy"), mmap_mode="r")[: len(splits)]
    except Exception:  # NumPy and zipfile raise nearly anything for a damaged file, and the source has everything
        return None
    if found_key.tolist() != key or faces.dtype != np.uint8:
        return None
    if faces.size <= IN_MEMORY:
        faces = np.array(faces)
    return (splits, emotions, faces) if zlib.crc32(faces) == crc.item() else None


def _write_cache(cache: Path, key: str, shape: tuple[int, ...], parts: Iterable[Arrays]) -> None:
    """Write the images of a source, part after part, in little memory; `shape` has room for all faces."""
    splits, emotions, crc = [], [], 0
    with replacing(cache) as table, replacing(cache.with_suffix(".npy")) as partial:
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            end = file.tell() + math.prod(shape)
            for part_splits, part_emotions, faces in parts:
                splits.append(part_splits)
                emotions.append(part_emotions)
                pixels = memoryview(faces.reshape(-1))
                file.write(pixels)
                crc = zlib.crc32(pixels, crc)
            file.truncate(end)  # in place of images that could not be read
        np.savez(table, key=key, crc=crc, splits=np.concatenate(splits), emotions=np.concatenate(emotions))


# ----------------------------------------------------------------------------------------------------------
# Splits, duplicates, and the votes of FER+


def stratified_split(emotions: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the same fraction of every emotion.

    Args:
        emotions: int (n,).
        fraction: The part of each emotion's images to hold out, between 0 and 1. The number of images is rounded, and
            at least one image of each emotion is kept.
        seed: The same seed gives the same split.

    Returns:
        The indices that are kept and the indices that are held out, both int64 and ascending.

    Raises:
        ValueError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to hold out must be between 0 and 1; found {fraction}: correct it")
    emotions = np.asarray(emotions)
    held_out = np.zeros(len(emotions), bool)
    rng = np.random.default_rng(seed)
    for emotion in np.unique(emotions):
        indices = rng.permutation(np.flatnonzero(emotions == emotion))
        held_out[indices[: min(round(fraction * len(indices)), len(indices) - 1)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def find_duplicates(faces: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Find the faces that have a twin in `others`, byte for byte; without `others`, an earlier twin in `faces`.

    Args:
        faces: uint8 (n, height, width, 1).
        others: uint8 (m, height, width, 1), or None.

    Returns:
        bool (n,), True for each face with a twin.
    """
    seen = set(_digests(others)) if others is not None else set()
    found = np.zeros(len(faces), bool)
    for index, digest in enumerate(_digests(faces)):
        found[index] = digest in seen
        if others is None:
            seen.add(digest)
    return found


def _digests(faces: np.ndarray) -> Iterator[bytes]:
    """Yield a hash of 16 bytes for each face."""
    for face in faces:
        yield hashlib.blake2b(np.ascontiguousarray(face), digest_size=16).digest()


def count_duplicates(splits: dict[str, Split]) -> dict[tuple[str, str], int]:
    """Count the duplicates within and between splits.

    Args:
        splits: The splits, as `load_fer2013_data` returns them.

    Returns:
        For (first, second), two names in the order of `splits`: how many faces of the second are also in the first.
        For (name, name): how many faces repeat an earlier face of the same split.
    """
    counts = {}
    for first, second in combinations_with_replacement(splits, 2):
        others = splits[first].faces if first != second else None
        counts[first, second] = int(find_duplicates(splits[second].faces, others).sum())
    return counts


def load_votes(path: str | Path) -> dict[str, np.ndarray]:
    """Load FER+: for each image of FER2013, the votes of ten people, in the order of the rows of fer2013.csv.

    Args:
        path: fer2013new.csv, with the columns Usage and VOTE_COLUMNS.

    Returns:
        For each split of FER2013, float32 (n, 10): the share of the votes for each of VOTE_COLUMNS ("NF": no face).

    Raises:
        UserError: There is no such file (the message says where to get it), or the file is not as described (the
            message names the line).

    Source: Barsoum, Zhang, Canton Ferrer and Zhang 2016, "Training Deep Networks for Facial Expression Recognition
    with Crowd-Sourced Label Distribution", https://arxiv.org/abs/1608.01041.
    """
    import pandas as pd

    with reading(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        Path(path).stat()
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: fer2013new.csv comes from https://github.com/microsoft/FERPlus")
    try:
        with reading(path):
            table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
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
    """Join FER2013 and the votes of FER+, row by row.

    Args:
        data: FER2013, in the order of its CSV.
        path: FER+'s file, as `load_votes` takes it.
        relabel: Give each face the emotion with the most votes: one of FER2013's seven, or contempt. A face with the
            most votes for "unknown" or "no face" has no emotion and is left out.
        drop_no_face: Leave out the images with the most votes for "no face".

    Returns:
        The data set; and for each of its splits the votes, float32 (n, 10), as `load_votes` returns them.

    Raises:
        UserError: `load_votes` raised it, or the votes are not about these images, row by row.
    """
    votes = load_votes(path)
    emotions = WITH_CONTEMPT if relabel else data.emotions
    label_of_column = np.array([WITH_CONTEMPT.index(label) for label in VOTE_LABELS] + [-1, -1])
    splits = {}
    for name, (faces, labels) in data.items():
        if len(votes[name]) != len(faces):
            raise UserError(
                f"{path}: the votes must be on FER2013's images, row for row; found {len(votes[name])} rows for "
                f"{len(faces)} images of {name}: use FER2013's CSV, or leave --votes out"
            )
        most_voted = votes[name].argmax(axis=1)
        agreed = np.mean(label_of_column[most_voted] == labels)
        if agreed < 0.4:  # 0.63 if the rows belong together, 0.2 if not
            raise UserError(
                f"{path}: the votes must be on the same images, row for row; found that {agreed:.0%} of {name}'s "
                "labels are the most voted: use FER2013's CSV in its official order, or leave --votes out"
            )
        kept = np.full(len(faces), True)
        if relabel:
            kept = most_voted < len(VOTE_LABELS)
        elif drop_no_face:
            kept = most_voted != VOTE_COLUMNS.index("NF")
        if not kept.all():
            faces, labels, most_voted, votes[name] = faces[kept], labels[kept], most_voted[kept], votes[name][kept]
        splits[name] = Split(faces, label_of_column[most_voted] if relabel else labels)
    return Dataset(splits, emotions), votes


def people_shares(votes: np.ndarray, emotions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Say what share of people saw which emotion; votes for other emotions, "unknown" and "no face" do not count.

    Args:
        votes: float32 (n, 10), as `load_votes` gives them.
        emotions: Among VOTE_LABELS.

    Returns:
        float32 (n, emotions), rows summing to 1, or zeros where nobody saw any of the emotions; and bool (n,), whether
        one emotion has more votes than each of the others, than "unknown", and than "no face".
    """
    shares = votes[:, [VOTE_LABELS.index(emotion) for emotion in emotions]]
    no_emotion = votes[:, len(VOTE_LABELS) :].max(axis=1)
    second, first = np.sort(shares, axis=1)[:, -2:].T
    total = shares.sum(axis=1, keepdims=True)
    return shares / np.where(total > 0, total, 1), first > np.maximum(second, no_emotion)


# ----------------------------------------------------------------------------------------------------------
# Script


def format_table(splits: Dataset) -> str:
    """Return a table of the images of each emotion in each split, and of the duplicates.

    Args:
        splits: The data set.
    """

    def line(label, *cells):
        return f"{label:<20}" + "".join(f"{cell:>13}" for cell in cells)

    names, duplicates = list(splits), count_duplicates(splits)
    counts = np.stack([np.bincount(split.emotions, minlength=len(splits.emotions)) for split in splits.values()])
    lines = [line("", *names, "all")]
    lines += [line(emotion, *row, row.sum()) for emotion, row in zip(splits.emotions, counts.T, strict=True)]
    lines += [line("all", *counts.sum(axis=1), counts.sum()), ""]
    lines += [line("repeated within", *(duplicates[name, name] for name in names))]
    for column, first in enumerate(names[:-1], 1):
        blanks = [""] * column
        lines += [line(f"also in {first}", *blanks, *(duplicates[first, second] for second in names[column:]))]
    if absent := [split for split in SPLITS if split not in splits]:
        lines += [f"absent: {', '.join(absent)}"]
    return "\n".join(lines)


def draw_overview(splits: Dataset, path: Path) -> None:
    """Write a picture: some random faces of each emotion, and how many images each emotion has.

    Args:
        splits: The data set.
        path: The picture's file.

    Raises:
        WriteError: `path` can't be written, or Matplotlib can't draw.
    """
    height, width = next(iter(splits.values())).faces.shape[1:3]
    emotions = np.concatenate([split.emotions for split in splits.values()])
    all_faces = [(split.faces, index) for split in splits.values() for index in range(len(split.faces))]
    rows, columns, gap, rng = len(splits.emotions), 12, 2, np.random.default_rng(0)
    sheet = np.full((rows, height + gap, columns, width + gap), 255, np.uint8)
    for emotion, row in enumerate(sheet):
        random_few = rng.permutation(np.flatnonzero(emotions == emotion))[:columns]
        for column, (faces, index) in enumerate(all_faces[number] for number in random_few):
            row[:height, column, :width] = faces[index, :, :, 0]
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap))

    with drawing():
        figure = new_figure(figsize=(12, 1.2 + rows / 2), layout="constrained", dpi=150)
        left, right = figure.subplots(1, 2, width_ratios=(2, 1), sharey=True)
        left.imshow(sheet, "gray", vmin=0, vmax=255, aspect="auto", extent=(0, columns, rows - 0.5, -0.5))
        left.set(xticks=[], yticks=range(rows))
        left.set_yticklabels(splits.emotions, parse_math=False)
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
    """Read the command line; the defaults are the settings at the top."""
    parser = Parser(description="Count a data set's images and duplicates, and draw some of the images.")
    add = parser.add_argument
    add("--dataset", metavar="PATH", default=dataset, help="a CSV, a folder, or drawn (default: %(default)s)")
    add(
        "--image-size",
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        type=number_in_range(int, 1),
        default=image_size,
        help="of the faces in pixels (default: %(default)s)",
    )
    add(
        "--crop-faces",
        metavar="FOLDER",
        type=Path,
        default=crop_faces,
        help="first cut the faces out of the data set's photographs, into this new folder",
    )
    return parser.parse_args(argv)


def _crop_photographs(photographs: str | Path, faces: Path) -> int:
    """Run crop_photographs.py, which imports this module and so has a process of its own; return its exit status."""
    script = Path(__file__).resolve().with_name("crop_photographs.py")
    child = subprocess.Popen([sys.executable, script, str(photographs), str(faces)])
    try:
        return child.wait()
    except KeyboardInterrupt:  # Ctrl-C reaches the child as well, but SIGTERM may reach this process alone
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(2)
        child.terminate()
        child.wait()
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Print and draw what a data set holds; return the exit status."""
    args = parse_args(argv)
    if args.crop_faces:
        if status := _crop_photographs(args.dataset, args.crop_faces):
            return status
        args.dataset = args.crop_faces
    splits = load_fer2013_data(args.dataset, tuple(args.image_size))
    if splits.emotions != EMOTIONS:  # with FER2013's seven emotions, those without an image are worth a line
        splits = splits.drop_unused_labels()
    print(format_table(splits))
    picture = Path(__file__).resolve().parent / "fer2013" / "overview_drawn.png"
    if str(args.dataset) != "drawn":
        source = find_source(args.dataset)
        picture = (source if source.is_dir() else source.parent) / "overview.png"
    try:
        draw_overview(splits, picture)
        print(f"\npicture: {picture}")
    except WriteError as error:  # the counts are printed, which is what matters
        print(f"notice: no picture drawn ({error})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
