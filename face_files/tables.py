"""Data sets in one table: FER2013's CSV, plain or compressed, and parquet files."""

import contextlib
import gzip
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from command_line import UserError, reading
from face_files.images import Arrays, ToFace, decode_bytes
from face_files.labels import EMOTION_FOLDERS, SPLIT_FOLDERS, SPLITS, WITH_CONTEMPT, canonical_name

try:
    import lzma
except ImportError:  # some Pythons are built without lzma; they read everything except .xz
    lzma = None

CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.xz", ".zip")
CSV_NAMES = [f"{name}.csv{end}" for name in ("fer2013", "icml_face_data") for end in ("", ".gz", ".zip", ".xz")]
ROWS_PER_BATCH = 64  # half a megabyte of CSV, which the processor's cache holds
PARQUET_COLUMNS = (("image", "img", "image_bytes", "img_bytes"), ("label", "labels", "emotion"))
DAMAGED = (EOFError, zlib.error, OSError, zipfile.BadZipFile, *((lzma.LZMAError,) if lzma else ()))


# ----------------------------------------------------------------------------------------------------------
# The CSV


def read_csv(path: Path, to_face: ToFace) -> Arrays:
    """Return the images of a CSV: split by split, and in each split in the order of the rows.

    Args:
        path: The CSV, as it is or compressed.
        to_face: Makes faces of the size that the result has.

    Raises:
        UserError: The file is not as described; the message names the line.
    """
    from tqdm import tqdm

    splits, emotions, faces, side = [], [], [], 0
    bar = tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, leave=False, disable=None)
    with reading_whole(path), path.open("rb") as file, bar:
        rows = _csv_rows(path, decompressed(path, file))
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            lines, batch_splits, batch_emotions, pixels = zip(*batch, strict=True)
            side = side or math.isqrt(len(pixels[0].split()))  # the first row sets the size of all rows
            batch_faces = _parse_pixels(pixels, side)
            if batch_faces is None:
                raise _pixel_error(path, lines, pixels, side)
            if to_face(batch_faces[0]).shape != (side, side, 1):
                batch_faces = np.stack([to_face(face) for face in batch_faces])
            splits += batch_splits
            emotions += batch_emotions
            faces.append(batch_faces)
            bar.update(file.tell() - bar.n)
    if not faces:
        raise UserError(f"{path}: a CSV must have a row for each image; found only its header: download it again")
    return _by_split(splits, emotions, np.concatenate(faces))


@contextlib.contextmanager
def reading_whole(path: Path) -> Iterator[None]:
    """Translate the errors of reading a table, and those of finding it damaged.

    Args:
        path: What the message names.

    Raises:
        UserError: The system refused to read the file, or the file is damaged.
    """
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


def decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    """Return the CSV that `file` holds; the first bytes, not the name, say how the file is compressed.

    Args:
        path: What messages name.
        file: The open file, at its beginning.

    Raises:
        UserError: The file is empty, no CSV, or of a compression that can't be read here.
    """
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
        raise row_error(path, 1, "the columns must be emotion, pixels, Usage", _quoted(header, 60))
    emotion_at, pixels_at = columns.index(b"emotion"), columns.index(b"pixels")
    usage_at = columns.index(b"usage") if b"usage" in columns else None  # the competition's train.csv has none
    split_numbers = {split.encode(): number for number, split in enumerate(SPLITS)}
    emotion_numbers = {b"%d" % number: number for number in range(len(WITH_CONTEMPT))}
    for line, text in enumerate(stream, 2):
        if text.isspace():
            continue
        fields = text.split(b",")
        if len(fields) != len(columns):
            raise row_error(path, line, f"a row must have {len(columns)} columns", len(fields))
        usage = b"Training" if usage_at is None else _field(fields[usage_at])
        emotion, pixels = _field(fields[emotion_at]), _field(fields[pixels_at])
        if usage not in split_numbers:
            raise row_error(path, line, f"Usage must be one of {', '.join(SPLITS)}", _quoted(usage))
        if emotion not in emotion_numbers:
            raise row_error(path, line, "emotion must be 0 to 6, or 7 for contempt", _quoted(emotion))
        yield line, split_numbers[usage], emotion_numbers[emotion], pixels


def row_error(path: Path, line: int, rule: str, found: object) -> UserError:
    """Return the error for a line that breaks a rule.

    Args:
        path: The table.
        line: Counted from 1, the header.
        rule: What is right.
        found: What the line has.
    """
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
    if not side or (counts != side**2).any() or (values > 255).any() or too_long.any() or (is_digit == is_space).any():
        return None
    return values.astype(np.uint8).reshape(len(rows), side, side, 1)


def _pixel_error(path: Path, lines: Sequence[int], rows: Sequence[bytes], side: int) -> UserError:
    """Return the error for the first of the rows that `_parse_pixels` refuses."""
    for line, row in zip(lines, rows, strict=True):
        pixels = row.split()
        for number, pixel in enumerate(pixels, 1):
            if not (pixel.isdigit() and len(pixel) <= 3 and int(pixel) <= 255):
                rule = "pixels must be whole numbers from 0 to 255"
                return row_error(path, line, rule, f"{_quoted(pixel)} as number {number}")
        if not pixels or len(pixels) != side**2:
            rule = "all rows must have the pixels of one square, 48 x 48 = 2304 in FER2013"
            return row_error(path, line, rule, len(pixels))
    raise AssertionError("_parse_pixels refused rows that are right")


def _field(text: bytes) -> bytes:
    """Return a CSV field without the quotes and the spaces around it."""
    return text.strip(b' "\r\n\t')


def _quoted(text: bytes, length: int = 20) -> str:
    """Return the beginning of `text` as one printable line."""
    return repr(text[:length].decode("latin-1"))


# ----------------------------------------------------------------------------------------------------------
# Parquet


def list_parquet(source: Path) -> list[tuple[int, int, Path]]:
    """Return (index of SPLITS, -1, path) for a parquet file, or for those in a folder; [] for another source.

    Args:
        source: An existing file or folder.
    """
    files = [source] if source.suffix.lower() == ".parquet" else []
    if source.is_dir():
        files = sorted([*source.glob("*.parquet"), *source.glob("*/*.parquet")])
    found = []
    for path in files:  # train-00000-of-00001.parquet, test/0000.parquet
        words = [path.stem.replace("-", "_").split("_")[0], path.parent.name if path.parent != source else ""]
        split = next((split for word in words if (split := canonical_name(word, SPLIT_FOLDERS))), "Training")
        found.append((SPLITS.index(split), -1, path))
    return found


def read_parquet(files: list[tuple[int, int, Path]], to_face: ToFace) -> Arrays:
    """Return the images of parquet files as Hugging Face serves them: the bytes of image files, and labels.

    Args:
        files: As `list_parquet` lists them.
        to_face: Makes faces of the size that the result has.

    Raises:
        UserError: A file is not as described (the message names the row), or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{files[0][2]}: parquet needs the package pyarrow; found none: pip install pyarrow") from error
    splits, emotions, faces = [], [], []
    for split, _, path in files:
        try:
            with reading_whole(path):
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
            pixels = decode_bytes(content) if isinstance(content, bytes) else None
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
            faces.append(to_face(pixels))
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
