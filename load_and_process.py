"""What a face image is: a data set becomes faces and labels, an image becomes the pixels that a network sees.

    python load_and_process.py                        counts, duplicates and a picture of the data set in fer2013/
    python load_and_process.py --dataset my_faces     the same for my_faces/train/EMOTION/*, my_faces/test/EMOTION/*
    python load_and_process.py --dataset drawn        the same for drawn faces: no data set is needed
    python load_and_process.py --dataset photographs --crop-faces my_faces    cut the faces out first

FER2013 is from Goodfellow et al. 2013, "Challenges in Representation Learning: A report on three machine
learning contests", https://arxiv.org/abs/1307.0414. fer2013/README.md says how to get it.
"""

import os
import sys

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command_line import (  # first: it makes Ctrl-C quiet, and names a missing package
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
import argparse
import contextlib
import hashlib
import json
import math
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from face_files.images import Arrays, list_images, read_images
from face_files.labels import EMOTIONS, SPLITS, WITH_CONTEMPT
from face_files.location import FER2013_CSV, find_source
from face_files.tables import list_parquet, read_csv, read_parquet
from face_files.votes import VOTE_COLUMNS, VOTE_LABELS, load_votes

# ----------------------------------------------------------------------------------------------------------
# Settings.  Edit here, or pass the flag of the same name (see --help).

dataset = FER2013_CSV  # fer2013/fer2013.csv; or another path: a CSV, also compressed, parquet, a folder; or "drawn"
image_size = (48, 48)  # height, width of a face in pixels
crop_faces = None  # a new folder for the faces that are cut out of the data set's photographs
# ----------------------------------------------------------------------------------------------------------

CACHE_VERSION = 4  # raise the number when the same source gives other arrays, or the cache has another form
LARGEST_SIDE = 1024  # pixels of a face, by --image-size
IN_MEMORY = 2**28  # bytes of faces; more faces stay in the cache's file, and the system reads the parts in use


class Split(NamedTuple):
    """Faces, uint8 (n, height, width, 1), and their emotions, int64 (n,), which index `Dataset.emotions`.

    With --votes-as people, training has float32 (n, emotions) in place of the emotions: the shares of people who saw
    each of them.
    """

    faces: np.ndarray
    emotions: np.ndarray


class Dataset(dict[str, Split]):
    """The splits of a data set, by name, in the order of SPLITS.

    Attributes:
        emotions: The labels that the numbers in the splits index: first EMOTIONS, then the other labels of a folder, in
            alphabetical order, whether capital or small.
        titles: {split: what it is called in print}: the name of its folder, or else its own name.
        paths: {split: the paths of its images}, where the data set is a folder. An image that can't be read has a path,
            but no face.
    """

    def __init__(
        self,
        splits: dict[str, Split],
        emotions: Sequence[str] = EMOTIONS,
        titles: dict[str, str] | None = None,
        paths: dict[str, list[Path]] | None = None,
    ):
        super().__init__(splits)
        self.emotions, self.titles = tuple(emotions), {name: name for name in splits} | (titles or {})
        self.paths = paths or {}

    def drop_unused_labels(self) -> "Dataset":
        """Return the same faces, without the emotions that no face shows; the other emotions get new numbers."""
        used = np.unique(np.concatenate([split.emotions for split in self.values()]))
        splits = {name: Split(faces, np.searchsorted(used, emotions)) for name, (faces, emotions) in self.items()}
        return Dataset(splits, [self.emotions[number] for number in used], self.titles)


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
    images, emotion_names, folders, paths = list_parquet(source), EMOTIONS, {}, {}
    if source.is_dir() and not images:
        images, emotion_names = list_images(source)
        for split, _, path in images:  # a dict of names has each name once
            folders.setdefault(SPLITS[split], {})[path.parent.parent.name] = None
            paths.setdefault(SPLITS[split], []).append(path)
    split_numbers, emotions, faces = _read_with_cache(source, images, image_size)
    if len(EMOTIONS) in emotions and emotion_names == EMOTIONS:
        emotion_names = WITH_CONTEMPT
    starts = np.searchsorted(split_numbers, range(len(SPLITS) + 1))  # the splits lie one after the other
    splits = {}
    for name, start, end in zip(SPLITS, starts[:-1], starts[1:], strict=True):
        if start < end:
            splits[name] = Split(faces[start:end], emotions[start:end])
    return Dataset(splits, emotion_names, {split: " and ".join(names) for split, names in folders.items()}, paths)


# ----------------------------------------------------------------------------------------------------------
# The cache: PATH.cache.npy holds the faces, PATH.cache.npz what belongs to them


def _read_with_cache(source: Path, images: list[tuple[int, int, Path]], image_size: tuple[int, int]) -> Arrays:
    """Return the images of a source, from the cache, or else from the source; then write the cache."""
    key, caches = _cache_key(source, images, image_size), _cache_paths(source)
    is_table = not images or images[0][2].suffix.lower() == ".parquet"
    for cache in caches:
        if (arrays := _read_cache(cache, key)) is not None:
            left_out = 0 if is_table else len(images) - len(arrays[0])
            if left_out:
                print(
                    f"notice: {left_out} of {len(images):,} images are left out; they could not be read "
                    f"(delete {cache} to see which)",
                    file=sys.stderr,
                )
            return arrays

    table, to_face = None, partial(resize_face, image_size=image_size)
    if is_table:
        table = read_parquet(images, to_face) if images else read_csv(source, to_face)
    failure = None
    for cache in caches:
        parts = [table] if is_table else read_images(images, to_face)
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
    splits, emotions, faces = zip(*read_images(images, to_face), strict=True)
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
    """Find duplicates, byte for byte: faces that are also in `others`; without `others`, repeated faces in `faces`.

    Args:
        faces: uint8 (n, height, width, 1).
        others: uint8 (m, height, width, 1), or None.

    Returns:
        bool (n,), True for each duplicate; the first of repeated faces does not count as one.
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
    return Dataset(splits, emotions, data.titles), votes


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
        type=number_in_range(int, 1, most=LARGEST_SIDE),
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
