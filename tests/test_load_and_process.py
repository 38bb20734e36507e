"""Tests of load_and_process: every form FER2013 comes in, the ways it comes broken, the cache, the pixels."""

import errno
import gzip
import io
import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import types
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

import load_and_process as lp
from command_line import UserError, exit_status
from load_and_process import EMOTIONS, SPLITS, Split, load_fer2013_data, preprocess_images, resize_face

SIZE = (2, 2)
HEADER = "emotion,pixels,Usage"
ROWS = ["3,0 7 42 255,PrivateTest", "0,9 10 99 100,Training", "6,1 2 3 4,PublicTest", "1,200 30 4 0,Training"]
EXPECTED = {
    "Training": ([[9, 10, 99, 100], [200, 30, 4, 0]], [0, 1]),
    "PublicTest": ([[1, 2, 3, 4]], [6]),
    "PrivateTest": ([[0, 7, 42, 255]], [3]),
}
CSV = "\n".join([HEADER, *ROWS, ""])
SWAPPED = "\n".join(["emotion, Usage, pixels", *(",".join(row.split(",")[i] for i in (0, 2, 1)) for row in ROWS)])


def zipped(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def write_csv(folder: Path, rows: list[str] = ROWS, header: str = HEADER) -> Path:
    path = folder / "fer2013.csv"
    path.write_text("\n".join([header, *rows, ""]))
    return path


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


def grey(value: int, side: int = 2) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


def assert_expected(splits: dict[str, Split]) -> None:
    assert list(splits) == list(EXPECTED)
    for name, (pixels, emotions) in EXPECTED.items():
        faces = splits[name].faces
        assert (faces.dtype, splits[name].emotions.dtype) == (np.uint8, np.int64)
        assert faces.shape == (len(emotions), *SIZE, 1)
        assert faces.reshape(len(emotions), -1).tolist() == pixels
        assert splits[name].emotions.tolist() == emotions


def assert_same(splits: dict[str, Split], others: dict[str, Split]) -> None:
    assert list(splits) == list(others)
    for name in splits:
        np.testing.assert_array_equal(splits[name].faces, others[name].faces)
        np.testing.assert_array_equal(splits[name].emotions, others[name].emotions)


# ----------------------------------------------------------------------------------------------------------
# CSV

QUOTED = "\n".join('"' + line.replace(",", '","') + '"' for line in CSV.splitlines())
INDEXED = "\n".join(f"{'' if number < 0 else number},{line}" for number, line in enumerate(CSV.splitlines(), -1))
FORMS = {
    "fer2013.csv": CSV.encode(),
    "crlf.csv": CSV.replace("\n", "\r\n").encode(),
    "bom.csv": b"\xef\xbb\xbf" + CSV.encode(),
    "no_last_newline.csv": CSV.rstrip().encode(),
    "blank_lines.csv": CSV.replace("\n", "\n\n").encode(),
    "quoted.csv": QUOTED.encode(),
    "index_column.csv": INDEXED.encode(),
    "icml_face_data.csv": SWAPPED.encode(),
    "fer2013.csv.gz": gzip.compress(CSV.encode()),
    "fer2013.csv.xz": lzma.compress(CSV.encode()),
    "FER2013.CSV.ZIP": zipped({"faces.csv": CSV, "__MACOSX/._faces.csv": "x"}),
    "archive.zip": zipped({"train.csv": "emotion,pixels", "icml_face_data.csv": SWAPPED, "fer2013.bib": "@"}),
    "gzip_without_its_suffix.csv": gzip.compress(CSV.encode()),
    "unpacked_by_the_browser.csv.gz": CSV.encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_reads_every_form_of_the_csv(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    assert_expected(load_fer2013_data(path, SIZE))
    assert_expected(load_fer2013_data(str(path), SIZE))  # this time from the cache


def test_parses_the_same_pixels_as_int(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3 * 64 - 1, 48 * 48))
    rows = [f"{i % 7},{' '.join(map(str, row))},{SPLITS[i % 2]}" for i, row in enumerate(pixels)]
    splits = load_fer2013_data(write_csv(tmp_path, rows))
    expected = np.array([[int(word) for word in row.split(",")[1].split()] for row in rows]).reshape(-1, 48, 48, 1)
    np.testing.assert_array_equal(splits["Training"].faces, expected[0::2])
    np.testing.assert_array_equal(splits["PublicTest"].faces, expected[1::2])
    assert splits["PublicTest"].emotions.tolist() == [i % 7 for i in range(1, len(rows), 2)]


def test_resizes_faces_of_another_size(tmp_path):
    path = write_csv(tmp_path, [f"4,{' '.join(str(4 * v) for v in range(16))},Training"])
    faces = load_fer2013_data(path, (2, 2))["Training"].faces
    assert faces.reshape(-1).tolist() == [10, 18, 42, 50]  # means of 2 x 2 pixels, (0 + 4 + 16 + 20) / 4 first


def test_without_a_usage_column_all_faces_are_training(tmp_path):
    splits = load_fer2013_data(write_csv(tmp_path, ["3,0 7 42 255", "0,9 10 99 100"], "emotion,pixels"), SIZE)
    assert list(splits) == ["Training"] and splits["Training"].emotions.tolist() == [3, 0]


def test_label_7_is_contempt(tmp_path):
    path = write_csv(tmp_path, [*ROWS, "7,5 5 5 5,Training"])
    for _ in range(2):  # from the CSV, then from the cache
        splits = load_fer2013_data(path, SIZE)
        assert splits.emotions == (*EMOTIONS, "contempt") and splits["Training"].emotions.tolist() == [0, 1, 7]


def test_any_csv_is_read_or_refused_in_one_line(tmp_path_factory):
    """Rows of right and wrong parts in any order: either the faces are those of the rows, or one line says why not."""
    strategies = pytest.importorskip("hypothesis.strategies")
    from hypothesis import given, settings

    folder = tmp_path_factory.mktemp("fuzz")
    part = strategies.one_of(
        strategies.sampled_from(["0", "6", "7", "8", "-1", "", "1 2 3 4", "255 0 0 7", "256 1 1 1", "1 2 3", *SPLITS]),
        strategies.text('0159 ,.\r\n"+x\0\xff', max_size=12),
    )
    good = strategies.builds(
        "{},{} {} {} {},{}".format,
        *[strategies.integers(0, 7), *[strategies.integers(0, 255)] * 4, strategies.sampled_from(SPLITS)],
    )
    row = strategies.one_of(good, good, good, strategies.lists(part, min_size=1, max_size=4).map(",".join))
    header = strategies.sampled_from([HEADER, HEADER, "emotion,pixels", "pixels,Usage,emotion", "", "x"])

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(header, strategies.lists(row, max_size=6))
    def check(header, rows):
        path = folder / "fer2013.csv"
        path.write_bytes("\n".join([header, *rows]).encode("latin-1"))
        try:
            splits, emotions, faces = lp._read_csv(path, SIZE)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
        read = [line.strip() for line in path.read_bytes().decode("latin-1").split("\n")[1:] if line.strip()]
        assert len(read) == len(splits) == len(emotions) == len(faces) and faces.shape[1:] == (*SIZE, 1)
        if header == HEADER and splits.tolist() == sorted(splits.tolist()):
            words = [line.replace('"', "").split(",") for line in read]
            expected = [
                int(text)
                for _, text, _ in sorted(words, key=lambda word: SPLITS.index(word[2].strip()))
                for text in text.split()
            ]
            assert faces.reshape(-1).tolist() == expected

    check()


# ----------------------------------------------------------------------------------------------------------
# Parquet


def write_parquet(
    path: Path, values: list[int], labels: list, names: list[str] | None = None, wrap: bool = True
) -> Path:
    """Write grey images and their labels as Hugging Face does."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pngs = [cv2.imencode(".png", grey(value))[1].tobytes() if value >= 0 else b"no image" for value in values]
    images = [{"bytes": png, "path": None} for png in pngs] if wrap else pngs
    table = pyarrow.table({"image": images, "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("labels", "names", "wrap"),
    [
        ([0, 6, 3], None, True),
        ([1, 0, 2], ["neutral", "anger", "happy"], True),
        (["Angry", "neutral", "happiness"], None, False),
    ],
    ids=["FER2013's numbers", "the file's numbers", "names"],
)
def test_reads_parquet(tmp_path, labels, names, wrap):
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [1, 2, 3], labels, names, wrap)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [4], labels[:1], names, wrap)
    for _ in range(2):  # from the files, then from the cache
        splits = load_fer2013_data(tmp_path, SIZE)
        assert list(splits) == ["Training", "PrivateTest"] and splits.emotions == EMOTIONS
        assert splits["Training"].faces[:, 0, 0, 0].tolist() == [1, 2, 3]
        assert splits["Training"].emotions.tolist() == [0, 6, 3]
        assert splits["PrivateTest"].faces[:, 0, 0, 0].tolist() == [4]


def test_reads_one_parquet_file_and_those_in_folders_of_splits(tmp_path):
    path = write_parquet(tmp_path / "validation" / "0000.parquet", [9], [7])
    assert list(load_fer2013_data(tmp_path, SIZE)) == ["PublicTest"]
    splits = load_fer2013_data(path.rename(tmp_path / "fer2013.parquet"), SIZE)
    assert list(splits) == ["Training"] and splits.emotions[7] == "contempt"


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        ([1, -1], [0, 0], "fer2013.parquet, row 2: images must be readable"),
        ([1], [8], "fer2013.parquet, row 1: labels must be names or numbers of angry, .*; found '8'"),
        ([1], ["bored"], "fer2013.parquet, row 1: labels must be .*; found 'bored'"),
        ([], [], "must have a row for each image; found none"),
    ],
)
def test_refuses_bad_parquet(tmp_path, values, labels, message):
    assert_refused(write_parquet(tmp_path / "fer2013.parquet", values, labels), message)


def test_parquet_without_its_package_or_columns_is_one_line(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [1], [0])
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "b.parquet")
    assert_refused(tmp_path / "b.parquet", "the columns must be image or .* and label or .*; found x: rename")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert_refused(path, "parquet needs the package pyarrow; found none: pip install pyarrow")


# ----------------------------------------------------------------------------------------------------------
# Bad rows and files

BAD_ROWS = {
    "too few pixels": ("0,1 2 3,Training", "line 6: all rows must have the pixels of one square.*found 3:"),
    "too many pixels": ("0,1 2 3 4 5,Training", "line 6: all rows must have the pixels of one square.*found 5:"),
    "no pixels": ("0,,Training", "line 6: all rows must have the pixels of one square.*found 0:"),
    "not a number": ("0,1 2 x 4,Training", "line 6: pixels must be whole numbers.*found 'x' as number 3:"),
    "a fraction": ("0,1 2 3.5 4,Training", "line 6: pixels must be whole numbers.*found '3.5' as number 3:"),
    "negative": ("0,1 2 3 -4,Training", "line 6: pixels must be whole numbers.*found '-4' as number 4:"),
    "256": ("0,256 2 3 4,Training", "line 6: pixels must be whole numbers.*found '256' as number 1:"),
    "300000000000000000000": ("0,1 300000000000000000000 3 4,Training", "line 6: pixels must be whole .* as number 2:"),
    "a plus sign": ("0,1 2 3 +4,Training", "line 6: pixels must be whole numbers.*found '\\+4' as number 4:"),
    "1234": ("0,1 1234 3 4,Training", "line 6: pixels must be whole numbers.*found '1234' as number 2:"),
    "emotion 8": ("8,1 2 3 4,Training", "line 6: emotion must be 0 to 6, or 7 for contempt; found '8':"),
    "emotion by name": ("happy,1 2 3 4,Training", "line 6: emotion must be 0 to 6, or 7 .*; found 'happy':"),
    "unknown Usage": ("0,1 2 3 4,Test", "line 6: Usage must be one of Training.*found 'Test':"),
    "too few columns": ("0,1 2 3", "line 6: a row must have 3 columns; found 2:"),
    "too many columns": ("0,1 2 3 4,Training,", "line 6: a row must have 3 columns; found 4:"),
}


def assert_refused(path: Path, message: str, size: tuple[int, int] = SIZE) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_fer2013_data(path, size)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not list((path if path.is_dir() else path.parent).glob("*.np[yz]"))


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_refuses_a_bad_row(tmp_path, row, message):
    assert_refused(write_csv(tmp_path, [*ROWS, row, ROWS[0]]), message)


def test_refuses_a_first_row_that_is_no_square(tmp_path):
    assert_refused(write_csv(tmp_path, ["0,1 2 3,Training", *ROWS]), "line 2: all rows .* square.*found 3:")


def test_refuses_faces_of_several_sizes(tmp_path):
    rows = ["0,1 2 3 4,Training"] * 64 + ["0,1 2 3 4 5 6 7 8 9,Training"]
    assert_refused(write_csv(tmp_path, rows), f"line {len(rows) + 1}: all rows .* square.*found 9:")


@pytest.mark.parametrize("cut", [0.3, 0.8])
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lambda text: zipped({"fer2013.csv": text.decode()})])
def test_refuses_a_truncated_archive(tmp_path, pack, cut):
    rng = np.random.default_rng(0)
    rows = [f"0,{' '.join(map(str, rng.integers(0, 256, 2304)))},Training" for _ in range(20)]
    content = pack("\n".join([HEADER, *rows]).encode())
    path = tmp_path / "fer2013.csv.gz"
    path.write_bytes(content[: int(len(content) * cut)])
    assert_refused(path, "must be whole; found damage")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 301072766\n"
BAD_FILES = {
    "empty": ("a.csv", b"", "found an empty file"),
    "only a header": ("a.csv", b"emotion,pixels,Usage\n", "found only its header"),
    "Git LFS pointer": ("a.csv", LFS, "Git LFS pointer: run `git lfs pull`"),
    "Git LFS pointer to a gzip": ("a.csv.gz", LFS, "Git LFS pointer: run `git lfs pull`"),
    "log-in page": ("a.csv", b"\n<!DOCTYPE html>\n<html>", "found a web page: log in"),
    "missing column": ("a.csv", b"emotion,Usage\n0,1", "line 1: the columns must be .* found 'emotion,Usage"),
    "no labels": ("test.csv", b"pixels\n0 1 2 3", "must have labels; found pixels .* test.csv: use train.csv"),
    "something else": ("a.csv", bytes(range(128, 256)), "line 1: the columns must be emotion, pixels, Usage"),
    "zip without a CSV": ("a.zip", zipped({"train.txt": "x"}), "a zip must hold .* found none: unpack it"),
    "zip with two CSVs": ("a.zip", zipped({"a.csv": "x", "b.csv": "y"}), "a zip must hold .* found 2: unpack it"),
    "wrong suffix": ("a.tar", b"x", "must be a folder or end in .csv, .* found .tar: unpack it"),
    "no suffix": ("a", b"x", "must be a folder or end in .csv, .* found no suffix: unpack it"),
}


def altered_zip(kind: int = zipfile.ZIP_STORED, **fields: int) -> bytes:
    """Return a zip whose two headers say what they should not: byte pairs by their place in the local header."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as archive:
        archive.writestr("fer2013.csv", CSV)
    content = bytearray(content.getvalue())
    central = content.index(b"PK\x01\x02")
    places = {"version": 4, "flags": 6, "method": 8}
    for name, value in fields.items():
        struct.pack_into("<H", content, places[name], value)
        struct.pack_into("<H", content, central + 2 + places[name], value)
    if not fields:
        content[60:64] = b"????"  # in the member
    return bytes(content)


BAD_FILES |= {
    "zip of an unknown compression": ("a.zip", altered_zip(method=99), "zip must be of the usual kind; .*: unpack it"),
    "zip with a password": ("a.zip", altered_zip(flags=1), "usual kind; found .* encrypted, .*: unpack it"),
    "zip of a later version": ("a.zip", altered_zip(version=99), "usual kind; found that zip file version 9.9: unp"),
    "zip with a damaged member": ("a.zip", altered_zip(), "must be whole; found damage .*CRC"),
    "zip, damaged deflate": ("a.zip", altered_zip(zipfile.ZIP_DEFLATED), "must be whole; found damage .*: download"),
    "zip, damaged bzip2": ("a.zip", altered_zip(zipfile.ZIP_BZIP2), "must be whole; found damage .*: download"),
    "zip, damaged lzma": ("a.zip", altered_zip(zipfile.ZIP_LZMA), "must be whole; found damage .*: download"),
    "an archive in a tar": ("fer2013.tar.gz", b"x", "must be a folder or end in .csv, .*: unpack it"),
    "no parquet": ("a.parquet", b"PAR1 and no more", "must be whole; found damage .*: download it again"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_refuses_what_is_not_the_csv(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, message)


def test_says_how_to_get_a_missing_data_set(tmp_path):
    with pytest.raises(UserError) as caught:
        load_fer2013_data(tmp_path / "fer2013.csv")
    for part in (str(tmp_path), "msambare/fer2013", "icml_face_data.csv", "login", "--dataset drawn"):
        assert part in str(caught.value)


def test_a_mistyped_path_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="my_faecs does not exist: correct the path") as caught:
        load_fer2013_data(tmp_path / "my_faecs")
    assert "\n" not in str(caught.value)


def test_what_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    """A file, a folder and a path that the system refuses; an administrator may read everything."""
    path, opener = write_csv(tmp_path), Path.open

    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with pytest.raises(UserError, match="x can't be read .File name too long.: correct the path"):
        load_fer2013_data(tmp_path / ("x" * 300), SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(
            Path,
            "open",
            lambda path, mode="r", *rest, **kwargs: (refuse if mode == "rb" else opener)(path, mode, *rest, **kwargs),
        )
        assert_refused(path, "can't be read .Permission denied.: correct the path or its permissions")
    write_image(tmp_path / "faces" / "train" / "happy" / "a.png", grey(1))
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(UserError, match="faces.* can't be read .Permission denied.: correct the path"):
        load_fer2013_data(tmp_path / "faces", SIZE)


@pytest.mark.parametrize("size", [(0, 48), (48, -1), 48, (48.0, 48)])
def test_refuses_an_impossible_image_size(tmp_path, size):
    with pytest.raises(ValueError, match="image_size must be height and width, 1 pixel or more"):
        load_fer2013_data(write_csv(tmp_path), size)


# ----------------------------------------------------------------------------------------------------------
# Where the data set lies


@pytest.mark.parametrize("name", ["fer2013.csv.gz", "icml_face_data.csv", "fer2013/fer2013.csv", "faces/train"])
def test_a_missing_default_stands_for_its_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr(lp, "FER2013_CSV", tmp_path / "fer2013.csv")
    (tmp_path / "README.md").write_text("How to get it.")
    found = tmp_path / name
    found.parent.mkdir(exist_ok=True)
    if name == "faces/train":
        found.mkdir()
        found = found.parent
    else:
        found.write_bytes(FORMS[Path(name).name])
    assert lp.find_source(lp.FER2013_CSV) == found
    assert lp.find_source(tmp_path) == found


@pytest.mark.parametrize("name", ["fer2013.tar.gz", "archive.zip"])
@pytest.mark.parametrize("missing", ["fer2013.csv", "."])
def test_an_archive_in_place_of_the_data_is_named(tmp_path, monkeypatch, name, missing):
    monkeypatch.setattr(lp, "FER2013_CSV", tmp_path / "fer2013.csv")
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"must be unpacked; found {name} in its folder: (tar xf|unpack)") as caught:
        lp.find_source(tmp_path / missing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe.csv", "must be a file or a folder; found a pipe or a device"),
        ("loop", "can't be read .Too many levels of symbolic links"),
        ("x" * 5000, "can't be read .File name too long"),
        ("bytes\udcff", "does not exist: correct the path"),
        ("~nobody_of_this_name/data", "does not exist: correct the path"),
        ("pipe.csv/inside", "does not exist: correct the path"),
    ],
    ids=["pipe", "loop of links", "long name", "no UTF-8", "no such user", "in a file"],
)
def test_special_paths_are_one_line(tmp_path, monkeypatch, name, message):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_fer2013_data(name, SIZE)
    assert "\n" not in str(caught.value)


def test_names_that_are_no_utf_8_are_read(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write_csv_in = folder / "data"
    write_csv_in.mkdir(parents=True)
    assert_expected(load_fer2013_data(write_csv(write_csv_in), SIZE))
    image = write_image(tmp_path / "a.png", grey(1))
    for emotion in (b"happy", b"\xff"):
        target = Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/train/" + emotion))
        target.mkdir(parents=True)
        shutil.copy(image, Path(os.fsdecode(os.fsencode(target) + b"/\xfe.png")))
        if emotion == b"happy":
            assert len(load_fer2013_data(tmp_path / "images", SIZE)["Training"].faces) == 1
    with pytest.raises(UserError, match="emotions must be names to print; found .*: rename the folder"):
        load_fer2013_data(tmp_path / "images", SIZE)


def test_another_missing_file_does_not_stand_for_its_folder(tmp_path):
    write_csv(tmp_path)
    with pytest.raises(UserError):
        lp.find_source(tmp_path / "other.csv")


def test_a_folder_without_or_with_several_data_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be or hold one data set, .*; found none: name the one"):
        lp.find_source(tmp_path)
    for name in ("a/train", "b/train"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UserError, match="found 2: name the one"):
        lp.find_source(tmp_path)


def test_drawn_faces_come_from_drawn_faces(monkeypatch):
    def draw_dataset(image_size, seed):
        assert (image_size, seed) == ((24, 32), 0)
        return {"Training": (np.zeros((1, 24, 32, 1), np.uint8), np.array([5]))}

    monkeypatch.setitem(sys.modules, "drawn_faces", types.SimpleNamespace(draw_dataset=draw_dataset))
    splits = load_fer2013_data("drawn", (24, 32))
    assert list(splits) == ["Training"]
    assert splits["Training"].faces.shape == (1, 24, 32, 1)
    assert splits["Training"].emotions.tolist() == [5]


# ----------------------------------------------------------------------------------------------------------
# Folders of images


def test_reads_folders_in_the_spellings_in_use(tmp_path):
    names = ["Anger", "disgusted", "FEARFUL", "joy", "sadness", "surprised", "neutral", "scared", "happiness"]
    for value, name in enumerate(names):
        write_image(tmp_path / "train" / name / "a.png", grey(value))
    write_image(tmp_path / "Validation" / "sad" / "a.PNG", grey(100))
    write_image(tmp_path / "test" / "angry" / "a.png", grey(200))
    write_image(tmp_path / "test" / ".ipynb_checkpoints" / "a.png", grey(201))
    write_image(tmp_path / "samples" / "angry" / "a.png", grey(202))
    for name in ("Thumbs.db", "._a.png"):
        (tmp_path / "test" / "angry" / name).write_bytes(b"x")
    splits = load_fer2013_data(tmp_path, SIZE)
    assert list(splits) == list(SPLITS)
    found = dict(zip(splits["Training"].faces[:, 0, 0, 0].tolist(), splits["Training"].emotions, strict=True))
    assert [found[value] for value in range(len(names))] == [0, 1, 2, 3, 4, 5, 6, 2, 3]
    assert splits["PublicTest"].faces[:, 0, 0, 0].tolist() == [100]
    assert splits["PrivateTest"].faces[:, 0, 0, 0].tolist() == [200]


@pytest.mark.parametrize("suffix", lp.IMAGE_SUFFIXES + lp.READ_SUFFIXES)
@pytest.mark.parametrize("channels", [1, 3])
def test_reads_every_kind_of_image(tmp_path, suffix, channels):
    written_as = {".jfif": ".jpg", ".pbm": ".ppm" if channels == 3 else ".pgm", ".pgm": ".pnm"}.get(suffix, suffix)
    if suffix in (".gif", ".ppm"):
        channels = 3  # OpenCV writes these in colour alone
    path = write_image(tmp_path / "train" / "happy" / f"a{written_as}", np.full((60, 40, channels), 128, np.uint8))
    path.rename(path.with_suffix(suffix))
    faces = load_fer2013_data(tmp_path)["Training"].faces
    assert faces.shape == (1, 48, 48, 1)
    assert np.abs(faces.astype(int) - 128).max() <= (60 if suffix == ".gif" else 1)  # OpenCV dithers when it writes
    assert abs(faces.mean() - 128) <= 1


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((2, 2, 4), (0, 0, 200, 0), np.uint8), 60),  # 0.299 * 200, whatever the alpha
        (np.full((2, 2), 0x8040, np.uint16), 0x80),
    ],
    ids=["alpha", "16 bits"],
)
def test_reads_png_with_alpha_and_16_bits(tmp_path, image, expected):
    write_image(tmp_path / "train" / "happy" / "a.png", image)
    assert (load_fer2013_data(tmp_path, SIZE)["Training"].faces == expected).all()


def test_a_folder_and_a_frame_give_the_same_pixels(tmp_path):
    crop = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    write_image(tmp_path / "train" / "fear" / "a.png", crop)
    faces = load_fer2013_data(tmp_path)["Training"].faces
    np.testing.assert_array_equal(faces[0], resize_face(crop, (48, 48)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("happy/broken.jpg", b"not an image", "images must be readable; found 1 of .* not: .*broken.jpg; replace or"),
        ("happy/empty.png", b"", "images must be readable; found 1 of the first 2 that are not: .*; replace or"),
        ("sad/notes.txt", b"none yet", "an emotion's folder must hold images .*found none: fill the folder"),
    ],
)
def test_refuses_a_bad_folder(tmp_path, name, content, message):
    write_image(tmp_path / "train" / "angry" / "a.png", grey(1))
    path = tmp_path / "train" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_fer2013_data(tmp_path, SIZE)
    assert "\n" not in str(caught.value)
    assert str(path if name.startswith("happy") else path.parent) in str(caught.value)
    assert not list(tmp_path.rglob("*.np[yz]"))


def test_testing_is_the_test_split_and_emotions_may_be_numbers(tmp_path, capsys):
    for name in ("training/0", "training/6", "testing/0"):
        write_image(tmp_path / name / "a.png", grey(1))
    splits = load_fer2013_data(tmp_path, SIZE).drop_unused_labels()
    assert list(splits) == ["Training", "PrivateTest"] and splits.emotions == ("0", "6")
    line = capsys.readouterr().err
    assert line.startswith("notice: emotions named by numbers (0, 6) keep") and line.count("\n") == 1


def test_images_that_can_not_be_read_are_counted_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lp, "find_spec", lambda name: None)
    write_image(tmp_path / "train" / "happy" / "a.png", grey(1))
    for name in ("IMG_1.HEIC", "IMG_2.heic", "x.dng", ".hidden.heic", "notes.txt"):
        (tmp_path / "train" / "happy" / name).write_bytes(b"x")
    for _ in range(2):  # from the folder, then from the cache
        assert len(load_fer2013_data(tmp_path, SIZE)["Training"].faces) == 1
        line = capsys.readouterr().err
        assert line.startswith("notice: 3 images of formats not read here (.dng, .heic): ") and line.count("\n") == 1
        assert "IMG_1.HEIC" in line and "x.dng; pip install pillow-heif, or turn them into .jpg" in line
    (tmp_path / "train" / "sad").mkdir()
    (tmp_path / "train" / "sad" / "b.heif").write_bytes(b"x")
    with pytest.raises(UserError, match="sad: an emotion's folder must .*; found none, but one image of a format not"):
        load_fer2013_data(tmp_path, SIZE)


@pytest.mark.parametrize("broken", [False, True])
def test_heic_is_read_where_its_package_is_installed(tmp_path, monkeypatch, broken):
    def open_heif(path, bgr_mode):
        if broken or not bgr_mode:
            raise ValueError("Invalid input")
        pixels = np.full((2, 2, 4), (0, 0, 200, 9), np.uint8)
        return types.SimpleNamespace(size=(2, 2), __array_interface__=pixels.__array_interface__, kept=pixels)

    monkeypatch.setattr(lp, "find_spec", lambda name: name == "pillow_heif")
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(open_heif=open_heif))
    path = tmp_path / "train" / "happy" / "a.HEIC"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    if broken:
        assert_refused(tmp_path, "images must be readable; .*a.HEIC; replace")
    else:
        assert (load_fer2013_data(tmp_path, SIZE)["Training"].faces == 60).all()


def png_that_claims(width: int, height: int) -> bytes:
    """Return a small PNG whose header gives another size."""
    png = cv2.imencode(".png", grey(1))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.parametrize(
    ("name", "reason"), [("pipe", "no regular file"), ("link", "no regular file"), ("gone", "gone")]
)
def test_special_files_named_as_images_are_named_with_the_reason(tmp_path, name, reason):
    folder = tmp_path / "train" / "happy"
    write_image(folder / "a.png", grey(1))
    path = folder / f"{name}.jpg"
    if name == "pipe":
        os.mkfifo(path)
    if name == "link":
        path.symlink_to(path)
    assert lp.decode_image(path) is None and lp.why_unreadable(path) == reason
    if name == "pipe":
        assert_refused(tmp_path, r"images must be readable; .*pipe.jpg \(no regular file\); replace")


def test_an_image_of_too_many_pixels_is_told_so_and_not_decoded(tmp_path):
    """OpenCV reads the limit while it is imported, so in a process of its own; 30,000 x 30,000 would take minutes."""
    path = tmp_path / "train" / "happy" / "huge.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png_that_claims(30000, 30000))
    done = run(lp.__file__, "--dataset", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "huge.png (more than 268 million pixels); replace" in done.stderr


def test_other_emotions_than_fer2013s(tmp_path):
    names = ["Calm", "sadness", "bored", "joy", "anger", "été"]
    for value, name in enumerate(names):
        write_image(tmp_path / "train" / name / "a.png", grey(value))
    write_image(tmp_path / "test" / "bored" / "a.png", grey(100))
    for _ in range(2):  # from the folder, then from the cache
        splits = load_fer2013_data(tmp_path, SIZE)
        assert splits.emotions == (*EMOTIONS, "bored", "Calm", "été")  # FER2013's, then by the alphabet
        splits = splits.drop_unused_labels()
        assert splits.emotions == ("angry", "happy", "sad", "bored", "Calm", "été")
        train = splits["Training"]
        shown = {int(face[0, 0, 0]): splits.emotions[n] for face, n in zip(train.faces, train.emotions, strict=True)}
        assert shown == dict(enumerate(["Calm", "sad", "bored", "happy", "angry", "été"]))
        assert [splits.emotions[n] for n in splits["PrivateTest"].emotions] == ["bored"]
    table = lp.format_table(splits)
    assert all(any(line.split()[0] == emotion for line in table.splitlines() if line) for emotion in splits.emotions)
    lp.draw_overview(splits, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 1000


@pytest.mark.parametrize(("first", "second"), [("train/angry", "train/Angry"), ("train/Bored", "test/bored")])
def test_refuses_emotions_that_differ_in_capitals_only(tmp_path, first, second):
    for name in (first, second):
        write_image(tmp_path / name / "a.png", grey(1))
    if len(list(tmp_path.glob("*/*"))) < 2:
        pytest.skip("this file system takes both names for one, so that there is nothing to tell apart")
    assert_refused(tmp_path, "must differ by more than capitals; found .* as well: rename one of them")


def test_the_same_emotion_may_be_spelled_otherwise_in_another_split(tmp_path):
    for name in ("train/Angry", "train/anger", "test/ANGRY"):
        write_image(tmp_path / name / "a.png", grey(1))
    splits = load_fer2013_data(tmp_path, SIZE)
    assert splits.emotions == EMOTIONS and splits["PrivateTest"].emotions == [0] and len(splits["Training"].faces) == 2


def test_leaves_out_a_few_unreadable_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lp, "IMAGES_PER_BATCH", 30)
    for value in range(198):
        write_image(tmp_path / ("test" if value < 20 else "train") / "happy" / f"{value:03}.png", grey(value))
    (tmp_path / "train" / "happy" / "050x.png").write_bytes(b"no image")
    write_image(tmp_path / "train" / "sad" / "a.png", grey(250))
    (tmp_path / "train" / "happy" / "197x.png").write_bytes(b"")
    for told in (
        ["notice: 2 of 201 images can't be read", "050x.png", "197x.png"],
        ["notice: 2 of 201 images", "delete"],
    ):
        splits = load_fer2013_data(tmp_path, SIZE)
        err = capsys.readouterr().err
        assert all(word in err for word in told) and err.count("\n") == 1
        assert splits["Training"].faces[:, 0, 0, 0].tolist() == [*range(20, 198), 250]
        assert splits["Training"].emotions.tolist() == [3] * 178 + [4]
        assert splits["PrivateTest"].faces[:, 0, 0, 0].tolist() == list(range(20))
    (tmp_path / "train" / "happy" / "z.png").write_bytes(b"no image")
    for file in tmp_path.glob("faces.cache.np[yz]"):
        file.unlink()
    every = r"050x\.png, .*197x\.png, .*z\.png; replace or remove them .*1% may be unreadable"
    assert_refused(tmp_path, f"images must be readable; found 3 of the first 202 that are not: .*{every}")


@pytest.mark.parametrize("unreadable", [20, 21, 40])
def test_names_the_first_of_many_unreadable_images(tmp_path, monkeypatch, unreadable):
    monkeypatch.setattr(lp, "IMAGES_PER_BATCH", 10)
    for value in range(60):
        path = write_image(tmp_path / "train" / "happy" / f"{value:02}.png", grey(value))
        if value < unreadable:
            path.write_bytes(b"no image")
    with pytest.raises(UserError, match="images must be readable") as caught:
        load_fer2013_data(tmp_path, SIZE)
    names = [f"{value:02}.png" in str(caught.value) for value in range(60)]
    assert names == [True] * 20 + [False] * 40 and (", ...;" in str(caught.value)) == (unreadable > 20)


def test_many_faces_stay_in_the_cache(source, monkeypatch):
    inside = load_fer2013_data(source, SIZE)
    monkeypatch.setattr(lp, "IN_MEMORY", 0)
    mapped = load_fer2013_data(source, SIZE)
    assert_same(mapped, inside)
    for split in mapped:
        assert isinstance(mapped[split].faces, np.memmap) and not isinstance(inside[split].faces, np.memmap)
        rows = np.arange(len(mapped[split].faces))
        for chosen in (rows[::-2], slice(1, None), slice(None, None, 2), rows[:0]):
            np.testing.assert_array_equal(mapped[split].faces[chosen], inside[split].faces[chosen])
        with pytest.raises(ValueError, match="read-only"):
            mapped[split].faces[:] = 7
    assert_same(mapped, inside)


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc, which only Linux has")
def test_reading_many_faces_takes_little_memory_of_its_own(tmp_path):
    """The parts of the cache's file that were read count as resident, too; the system may drop them."""
    code = """
        import sys
        import numpy as np
        import load_and_process as lp
        lp.IN_MEMORY, count = 0, 60_000
        arrays = (np.repeat(0, count), np.arange(count) % 7, np.zeros((count, 48, 48, 1), np.uint8))
        lp._write_cache(lp.Path(sys.argv[1]), "key", arrays[2].shape, [arrays])
        del arrays
        def memory(kind):
            lines = open("/proc/self/status").read().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])
        own, mapped = memory("RssAnon"), memory("RssFile")
        _, _, faces = lp._read_cache(lp.Path(sys.argv[1]), "key")
        order = np.random.default_rng(0).permutation(count)
        for start in range(0, 20_000, 100):
            faces[order[start : start + 100]]
        assert not lp.find_duplicates(faces, np.ones((1, 48, 48, 1), np.uint8)).any()
        assert memory("RssAnon") - own < 10e6, memory("RssAnon") - own
        assert memory("RssFile") - mapped < faces.nbytes + 10e6  # once, not again with each reading
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "a.npz"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_refuses_a_folder_without_images(tmp_path):
    (tmp_path / "train").mkdir()
    assert_refused(tmp_path, "must hold train/EMOTION/.*; found no image")


# ----------------------------------------------------------------------------------------------------------
# Cache


@pytest.fixture(params=["csv", "folder"])
def source(request, tmp_path):
    if request.param == "csv":
        return write_csv(tmp_path)
    for name in ("train/angry/a.png", "train/sad/a.png", "test/sad/a.png"):
        write_image(tmp_path / name, grey(len(name)))
    return tmp_path


def count_reads(monkeypatch) -> list:
    """Return a list that grows with every reading of a source."""
    reads = []
    for name in ("_read_csv", "_read_images"):
        reader = getattr(lp, name)
        monkeypatch.setattr(lp, name, lambda *args, reader=reader: reads.append(args) or reader(*args))
    return reads


def cache_of(source: Path) -> Path:
    (cache,) = (source if source.is_dir() else source.parent).glob("*.cache.npz")
    return cache


def test_the_second_load_takes_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    first = load_fer2013_data(source, SIZE)
    assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == 1


def test_another_image_size_rebuilds_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    for size in ((2, 2), (4, 2), (2, 4)):
        assert load_fer2013_data(source, size)["Training"].faces.shape[1:] == (*size, 1)
    assert len(reads) == 3


def test_a_changed_source_rebuilds_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    load_fer2013_data(source, SIZE)
    if source.is_dir():
        write_image(source / "train/angry/b.png", grey(77))
    else:
        write_csv(source.parent, [*ROWS, "2,77 77 77 77,Training"])
    assert 77 in load_fer2013_data(source, SIZE)["Training"].faces
    file = source / "train/angry/b.png" if source.is_dir() else source
    times = file.stat()
    file.write_bytes(file.read_bytes() + b"\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # another size, the same time
    load_fer2013_data(source, SIZE)
    os.utime(file, ns=(0, 1))  # the same size, another time
    load_fer2013_data(source, SIZE)
    assert len(reads) == 4


def test_a_newer_version_rebuilds_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    load_fer2013_data(source, SIZE)
    monkeypatch.setattr(lp, "CACHE_VERSION", lp.CACHE_VERSION + 1)
    load_fer2013_data(source, SIZE)
    assert len(reads) == 2


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_cache_is_rebuilt_in_silence(source, monkeypatch, capsys, suffix):
    first = load_fer2013_data(source, SIZE)
    cache = cache_of(source).with_suffix(suffix)
    content = cache.read_bytes()
    place = content.index(first["Training"].faces[0].tobytes() if suffix == ".npy" else b"NUMPY")
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    reads = count_reads(monkeypatch)
    damages = [flipped, content[: len(content) // 2], b"", b"something else", b"PK\x03\x04" + bytes(100)]
    for damaged in damages:
        cache.write_bytes(damaged)
        assert_same(load_fer2013_data(source, SIZE), first)
        assert cache.read_bytes() != damaged
    cache.unlink()
    assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == len(damages) + 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("suffix", "in_memory"), [(".npy", 0), (".npy", lp.IN_MEMORY), (".npz", lp.IN_MEMORY)])
def test_every_flipped_byte_of_a_cache_is_noticed_or_harmless(tmp_path, monkeypatch, suffix, in_memory):
    monkeypatch.setattr(lp, "IN_MEMORY", in_memory)
    path = write_csv(tmp_path)
    first = load_fer2013_data(path, SIZE)
    cache = cache_of(path).with_suffix(suffix)
    content = cache.read_bytes()
    for place in range(0, len(content), 1 if suffix == ".npy" else 7):
        cache.unlink()  # the faces of `first` may be mapped
        cache.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        assert_same(load_fer2013_data(path, SIZE), first)


def test_the_faces_of_another_cache_are_noticed(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, rows in ((first, ROWS), (second, ROWS[::-1])):
        folder.mkdir()
        load_fer2013_data(write_csv(folder, rows), SIZE)
    faces, other_faces = (cache_of(folder / "fer2013.csv").with_suffix(".npy") for folder in (first, second))
    shutil.copy(other_faces, faces)
    assert_expected(load_fer2013_data(first, SIZE))


def test_a_foreign_or_pickled_cache_is_rebuilt(source):
    first = load_fer2013_data(source, SIZE)
    cache = cache_of(source)
    with np.load(cache) as arrays:
        kept = dict(arrays)
    pickled = np.array([kept["key"].item()], object)
    for arrays in ({"other": np.zeros(1)}, {**kept, "key": pickled}, {**kept, "key": "other"}):
        np.savez(cache, **arrays)
        assert_same(load_fer2013_data(source, SIZE), first)
    for faces in (np.array([{}], object), np.zeros(3), np.array(7, np.uint8)):
        np.save(cache.with_suffix(".npy"), faces, allow_pickle=True)
        assert_same(load_fer2013_data(source, SIZE), first)


def test_the_cache_of_an_older_version_is_replaced(tmp_path, monkeypatch):
    """It was one file of the name that the table has now."""
    path = write_csv(tmp_path)
    table = tmp_path / "fer2013.csv.cache.npz"
    np.savez(table, key="[2, 2, 2]", splits=np.zeros(4, int), emotions=np.zeros(4, int), faces=np.zeros((4, 2, 2, 1)))
    assert_expected(load_fer2013_data(path, SIZE))
    reads = count_reads(monkeypatch)
    assert_expected(load_fer2013_data(path, SIZE))
    assert not reads and sorted(os.listdir(tmp_path)) == ["fer2013.csv", table.with_suffix(".npy").name, table.name]


def refuse_replace(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse_write(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    ("owner", "name", "refuse"),
    [
        (os, "replace", refuse_replace),
        (np.lib.format, "write_array_header_1_0", refuse_write),
        (np, "savez", refuse_write),
    ],
)
def test_a_cache_that_cannot_be_written_is_one_notice(source, monkeypatch, capsys, owner, name, refuse):
    monkeypatch.setattr(owner, name, refuse)
    assert "Training" in load_fer2013_data(source, SIZE)
    notice = capsys.readouterr().err
    assert notice.startswith("notice: no cache written") and notice.count("\n") == 1
    assert not list((source if source.is_dir() else source.parent).glob("*.np[yz]"))


def test_a_bug_while_the_cache_is_written_is_shown(source, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *args, **arrays: np.concatenate([]))
    with pytest.raises(ValueError, match="need at least one array") as caught:
        load_fer2013_data(source, SIZE)
    assert not isinstance(caught.value, UserError)
    assert not list((source if source.is_dir() else source.parent).glob("*.np[yz]"))


def read_only(folder, monkeypatch):
    """Let nothing new come into a folder, as an administrator may write anywhere."""
    touch = Path.touch

    def refuse(path, *args, **kwargs):
        if path.is_relative_to(folder):
            refuse_write()
        touch(path, *args, **kwargs)

    monkeypatch.setattr(Path, "touch", refuse)


def test_beside_data_that_are_read_only_the_cache_is_the_users(source, tmp_path, tmp_path_factory, monkeypatch, capsys):
    folder = tmp_path_factory.mktemp("caches") / "new"
    monkeypatch.setenv("EMOTION_CACHE", str(folder))
    monkeypatch.setattr(lp, "IN_MEMORY", 0)
    read_only(tmp_path, monkeypatch)
    reads = count_reads(monkeypatch)
    first = load_fer2013_data(source, SIZE)
    notice = capsys.readouterr().err
    faces, cache = sorted(folder.iterdir())
    assert faces == cache.with_suffix(".npy")
    assert notice.startswith(f"notice: the cache is {cache}") and notice.count("\n") == 1
    assert not list(tmp_path.glob("*.np[yz]")) and all(isinstance(split.faces, np.memmap) for split in first.values())
    before = len(reads)
    assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == before and capsys.readouterr().err == ""

    other = tmp_path / "other"  # the same names, sizes and times elsewhere are other data
    other.mkdir()
    if source.is_dir():
        shutil.copytree(source / "train", other / "train")
    else:
        other = Path(shutil.copy2(source, other))
    load_fer2013_data(other, SIZE)
    assert len(reads) > before and len(list(folder.iterdir())) == 4


def test_without_a_home_the_cache_is_beside_the_data(source, monkeypatch):
    for name in ("EMOTION_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where no home is known
    load_fer2013_data(source, SIZE)
    assert cache_of(source).is_file()


# ----------------------------------------------------------------------------------------------------------
# Pixels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", "float16", "float32", "float64"])
def test_preprocess_images_by_hand(dtype):
    scaled = preprocess_images(np.array([[0, 51], [204, 255]], dtype))
    assert (scaled.dtype, scaled.shape) == (np.float32, (2, 2))
    np.testing.assert_array_equal(scaled, np.float32([[-1, -0.6], [0.6, 1]]).round(7))


def test_preprocess_images_gives_an_image_the_same_whatever_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (37, 48, 48, 1), np.uint8)
    batch = preprocess_images(images)
    for image, scaled in zip(images, batch, strict=True):
        assert preprocess_images(image[np.newaxis]).tobytes() == scaled.tobytes()
        assert preprocess_images(image.astype(np.float64)).tobytes() == scaled.tobytes()


def test_preprocess_images_leaves_its_input_alone():
    images = np.full((1, 2, 2, 1), 255, np.float32)
    preprocess_images(images)
    assert (images == 255).all()


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 2, 2, 1), np.float32), np.ones((2, 2), np.uint8), np.empty((0, 48, 48, 1), np.float32), [[0, 255]]],
    ids=["all black", "almost black", "none", "a list"],
)
def test_preprocess_images_takes(images):
    assert preprocess_images(images).shape == np.shape(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.array([0, 256]), r"in \[0, 255\]; found int64 in \[0, 256\]: pass pixels as they were read"),
        (np.array([-1, 5]), r"found int64 in \[-1, 5\]"),
        (np.array([-1.0, 1.0]), r"found float64 in \[-1, 1\].*not yet normalised"),
        (np.array([0.0, 1.0], np.float32), r"found float32 in \[0, 1\].*not yet normalised"),
        (np.array([0.25, 0.5]), r"found float64 in \[0.25, 0.5\].*not yet normalised"),
        (np.array([np.nan, 5]), r"found float64 in \[nan, nan\]"),
        (np.array([np.inf, 5]), r"found float64 in \[5, inf\]"),
        (np.array([True, False]), "found bool: convert them to uint8"),
        (np.array([None, 3]), "found object: convert them to uint8"),
        (np.array(["3"]), "found <U1: convert them to uint8"),
        (np.array([3 + 0j]), "found complex128: convert them to uint8"),
    ],
)
def test_preprocess_images_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        preprocess_images(images)


def test_resize_face_by_hand():
    image = np.array([[0, 10, 100, 100], [20, 30, 100, 100], [1, 1, 7, 9], [1, 1, 9, 7]], np.uint8)
    assert resize_face(image, (2, 2))[..., 0].tolist() == [[15, 100], [1, 8]]  # means of 2 x 2 pixels
    assert resize_face(image, (2, 4))[..., 0].tolist()[1] == [1, 1, 8, 8]  # height comes first
    np.testing.assert_array_equal(resize_face(image, (4, 4))[..., 0], image)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((255, 0, 0), 29), ((0, 255, 0), 150), ((0, 0, 255), 76), ((7, 7, 7), 7), ((0, 0, 255, 9), 76), ((7,), 7)],
)
def test_resize_face_turns_bgr_into_grey(colour, expected):
    image = np.full((3, 3, len(colour)), colour, np.uint8)  # 0.114 blue + 0.587 green + 0.299 red
    assert (resize_face(image, (3, 3)) == expected).all()


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (48, 20), (20, 90), (300, 200, 3)])
def test_resize_face_gives_the_size_asked_for(shape):
    face = resize_face(np.full(shape, 90, np.uint8), (48, 40))
    assert (face.dtype, face.shape) == (np.uint8, (48, 40, 1))
    assert (face == 90).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_resize_face_refuses(image):
    with pytest.raises(ValueError, match="a face must be uint8 of shape .*; found .*: convert it to 8 bits"):
        resize_face(image)


# ----------------------------------------------------------------------------------------------------------
# Splits and duplicates


VOTES_HEADER = "Usage,Image name," + ",".join(lp.VOTE_COLUMNS)


def test_votes_by_split(tmp_path):
    path = tmp_path / "fer2013new.csv"
    rows = [
        "Training,fer0.png,4,0,0,1,3,2,0,0,0,0",
        "Training,fer1.png,0,9,0,0,0,0,0,0,0,0",
        "PublicTest,,0,0,0,0,0,0,0,0,0,5",
    ]
    path.write_text("\n".join([VOTES_HEADER, *rows]))
    votes = lp.load_votes(path)
    assert {split: votes[split].shape for split in votes} == {
        "Training": (2, 10),
        "PublicTest": (1, 10),
        "PrivateTest": (0, 10),
    }
    np.testing.assert_allclose(votes["Training"][0], np.array([4, 0, 0, 1, 3, 2, 0, 0, 0, 0]) / 10, rtol=1e-6)
    assert votes["Training"][1].argmax() == lp.VOTE_COLUMNS.index("happiness") and votes["PublicTest"][0, -1] == 1
    assert votes["Training"].dtype == np.float32


def test_people_shares():
    rows = {  # votes in the order of VOTE_COLUMNS: shares of (angry, neutral, sad), and whether one of them is clear
        (3, 2, 0, 2, 1, 0, 0, 0, 1, 1): ([1 / 6, 3 / 6, 2 / 6], True),
        (3, 0, 0, 3, 0, 0, 0, 4, 0, 0): ([0, 0.5, 0.5], False),  # a tie
        (3, 0, 0, 1, 0, 0, 0, 6, 0, 0): ([0, 0.75, 0.25], True),  # contempt does not count
        (0, 0, 0, 0, 5, 0, 0, 0, 5, 0): ([1, 0, 0], False),  # as many don't know
        (0, 0, 0, 0, 4, 0, 0, 0, 0, 6): ([1, 0, 0], False),  # most saw no face
        (0, 9, 0, 0, 0, 0, 0, 0, 1, 0): ([0, 0, 0], False),  # nobody saw any of these emotions
    }
    shares, clear = lp.people_shares(np.array(list(rows), np.float32) / 10, ("angry", "neutral", "sad"))
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, [expected for expected, _ in rows.values()], rtol=1e-6)
    assert clear.tolist() == [expected for _, expected in rows.values()]


BAD_VOTES = {
    "a column missing": (VOTES_HEADER.replace(",fear", "") + "\n", ["columns must be", "none for fear"]),
    "no votes": (
        VOTES_HEADER + "\nTraining,a,1,0,0,0,0,0,0,0,0,0\nTraining,b,0,0,0,0,0,0,0,0,0,0",
        ["line 3", "count votes"],
    ),
    "no number": (VOTES_HEADER + "\nTraining,a,one,0,0,0,0,0,0,0,0,0", ["line 2", "one"]),
    "a negative number": (VOTES_HEADER + "\nTraining,a,-1,9,0,0,0,0,0,0,0,0", ["line 2", "-1"]),
    "another split": (
        VOTES_HEADER + "\ntest,a,1,0,0,0,0,0,0,0,0,0",
        ["line 2", "Training, PublicTest, PrivateTest", "test"],
    ),
    "nothing": ("", ["must be a CSV", "No columns"]),
    "a row too long": (VOTES_HEADER + "\nTraining" + ",1" * 11 + "\nTraining" + ",1" * 15, ["must be a CSV"]),
}


@pytest.mark.parametrize("case", BAD_VOTES)
def test_bad_votes(tmp_path, case):
    text, named = BAD_VOTES[case]
    path = tmp_path / "fer2013new.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="fer2013new.csv") as caught:
        lp.load_votes(path)
    assert all(word in str(caught.value) for word in named) and "\n" not in str(caught.value), caught.value


def fer_with_votes(tmp_path, rows):
    """(data set, votes file) of (emotion, votes by name) rows, all Training, the pixels counting them."""
    faces = np.arange(len(rows), dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8)
    data = lp.Dataset({"Training": Split(faces, np.array([EMOTIONS.index(emotion) for emotion, _ in rows]))})
    lines = [",".join(["Training", "", *(str(cast.get(name, 0)) for name in lp.VOTE_COLUMNS)]) for _, cast in rows]
    path = tmp_path / "fer2013new.csv"
    path.write_text("\n".join([VOTES_HEADER, *lines]))
    return data, path


def test_fer2013_with_votes(tmp_path):
    rows = [
        ("angry", {"anger": 6, "sadness": 4}),
        ("sad", {"neutral": 5, "sadness": 4, "NF": 1}),
        ("happy", {"happiness": 10}),
        ("neutral", {"contempt": 5, "neutral": 4}),
        ("fear", {"NF": 6, "fear": 4}),
        ("fear", {"unknown": 5, "fear": 4}),
        ("disgust", {"disgust": 10}),
        ("surprise", {"surprise": 10}),
    ]
    data, path = fer_with_votes(tmp_path, rows)
    same, votes = lp.join_votes(data, path)
    assert_same(same, data)
    assert same.emotions == EMOTIONS and votes["Training"].shape == (8, 10)
    dropped, votes = lp.join_votes(data, path, drop_no_face=True)
    assert dropped["Training"].faces[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7] and len(votes["Training"]) == 7
    assert dropped["Training"].emotions.tolist() == np.delete(data["Training"].emotions, 4).tolist()
    eight, votes = lp.join_votes(data, path, relabel=True)
    named = [eight.emotions[number] for number in eight["Training"].emotions]
    assert named == ["angry", "neutral", "happy", "contempt", "disgust", "surprise"]
    assert eight["Training"].faces[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 6, 7]
    np.testing.assert_allclose(votes["Training"][3, [0, 7]], [4 / 9, 5 / 9], rtol=1e-6)


def test_votes_that_belong_to_other_images(tmp_path):
    data, path = fer_with_votes(tmp_path, [("angry", {"fear": 9}), ("sad", {"happiness": 9}), ("fear", {"fear": 9})])
    with pytest.raises(UserError, match="found that 33% of Training's labels are the most voted: use FER2013's CSV"):
        lp.join_votes(data, path)
    data["PublicTest"] = data["Training"]
    data["Training"] = Split(data["Training"].faces, np.array([2, 3, 2]))
    with pytest.raises(UserError, match="found 0 rows for 3 images of PublicTest: use"):
        lp.join_votes(data, path)


def test_no_votes(tmp_path):
    with pytest.raises(UserError, match="github.com/microsoft/FERPlus"):
        lp.load_votes(tmp_path / "fer2013new.csv")


def test_stratified_split_holds_out_the_fraction_of_every_emotion():
    emotions = np.repeat([0, 1, 3, 6], [100, 50, 10, 1])
    kept, held_out = lp.stratified_split(emotions, 0.2, seed=3)
    assert sorted([*kept, *held_out]) == list(range(len(emotions)))
    assert np.bincount(emotions[held_out], minlength=7).tolist() == [20, 10, 0, 2, 0, 0, 0]
    assert (np.diff(kept) > 0).all() and (np.diff(held_out) > 0).all()


def test_stratified_split_follows_its_seed():
    emotions = np.arange(700) % 7
    splits = [lp.stratified_split(emotions, 0.1, seed)[1].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_stratified_split_keeps_one_of_each():
    kept, _ = lp.stratified_split(np.array([2, 2, 5]), 0.99, seed=0)
    assert np.array([2, 2, 5])[kept].tolist() == [2, 5]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_stratified_split_refuses(fraction):
    with pytest.raises(ValueError, match="must be between 0 and 1; found"):
        lp.stratified_split(np.zeros(5, int), fraction, seed=0)


def test_duplicates():
    def split(*values):
        return Split(np.stack([grey(value)[..., np.newaxis] for value in values]), np.zeros(len(values), int))

    splits = {"Training": split(1, 2, 1, 1, 3), "PublicTest": split(4, 3, 3, 4), "PrivateTest": split(3, 5, 1)}
    first, second, third = (split.faces for split in splits.values())
    assert lp.find_duplicates(first).tolist() == [False, False, True, True, False]
    assert lp.find_duplicates(second, first).tolist() == [False, True, True, False]
    assert lp.find_duplicates(third, second).tolist() == [True, False, False]
    assert lp.count_duplicates(splits) == {
        ("Training", "Training"): 2,
        ("Training", "PublicTest"): 2,
        ("Training", "PrivateTest"): 2,
        ("PublicTest", "PublicTest"): 2,
        ("PublicTest", "PrivateTest"): 1,
        ("PrivateTest", "PrivateTest"): 0,
    }


# ----------------------------------------------------------------------------------------------------------
# Script

SCRIPT = Path(lp.__file__)


def run(*args: str | Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, **kwargs)


def test_main_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    rows = [*ROWS, "1,200 30 4 0,Training", "2,9 10 99 100,PublicTest"]
    assert exit_status(lp.main, ["--dataset", str(write_csv(tmp_path, rows))]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed]
    assert lines[0] == [*SPLITS, "all"]
    assert lines[1:8] == [
        ["angry", "1", "0", "0", "1"],
        ["disgust", "2", "0", "0", "2"],
        ["fear", "0", "1", "0", "1"],
        ["happy", "0", "0", "1", "1"],
        ["sad", "0", "0", "0", "0"],
        ["surprise", "0", "0", "0", "0"],
        ["neutral", "0", "1", "0", "1"],
    ]
    assert ["all", "3", "2", "1", "6"] in lines
    assert ["repeated", "within", "1", "0", "0"] in lines
    assert ["also", "in", "Training", "1", "0"] in lines
    assert ["also", "in", "PublicTest", "0"] in lines
    assert len({len(line) for line in printed[9:13]} - {0}) == 1  # numbers stand below their splits
    picture = cv2.imread(str(tmp_path / "overview.png"))
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_main_takes_a_folder_and_names_absent_splits(tmp_path):
    write_image(tmp_path / "train" / "happy" / "a.png", grey(5))
    done = run(SCRIPT, "--dataset", tmp_path.name, cwd=tmp_path.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert "absent: PublicTest, PrivateTest" in done.stdout
    assert (tmp_path / "overview.png").is_file()


def test_a_picture_that_can_not_be_written_is_one_notice(tmp_path, monkeypatch, capsys):
    read_only(tmp_path, monkeypatch)
    assert exit_status(lp.main, ["--dataset", str(write_csv(tmp_path))]) == 0
    told = capsys.readouterr()
    notice = told.err.splitlines()[-1]
    assert notice.startswith("notice: no picture drawn") and "overview.png can't be written" in notice
    assert "angry" in told.out and "picture" not in told.out


@pytest.mark.parametrize(
    "error",
    [
        OSError("Matplotlib requires access to a writable cache directory"),
        RuntimeError("FT_Open_Face failed with error 0x02: unknown file format"),
    ],
)
def test_without_fonts_or_their_cache_there_is_one_notice(tmp_path, monkeypatch, capsys, error):
    import matplotlib.figure

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    assert exit_status(lp.main, ["--dataset", str(write_csv(tmp_path))]) == 0
    printed = capsys.readouterr()
    assert "repeated within" in printed.out and printed.err.count("\n") == 1
    assert printed.err.startswith(f"notice: no picture drawn (Matplotlib can't draw ({error}): set MPLCONFIGDIR")
    assert not (tmp_path / "overview.png").exists()


def test_a_dollar_in_an_emotion_is_drawn_as_it_is(tmp_path):
    for name in ("$x^$", "a$b$_"):
        write_image(tmp_path / "train" / name / "a.png", grey(1))
    lp.draw_overview(load_fer2013_data(tmp_path, SIZE).drop_unused_labels(), tmp_path / "overview.png")
    assert (tmp_path / "overview.png").is_file()


def test_importing_is_light():
    code = "import sys, load_and_process; print(*sys.modules)"
    modules = set(run("-c", code, cwd=SCRIPT.parent).stdout.split())
    assert "numpy" in modules
    assert not modules & {"tensorflow", "keras", "pandas", "matplotlib", "tqdm", "drawn_faces"}


def test_emotions_are_fer2013s_labels_in_order():
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert tuple(lp.EMOTION_FOLDERS) == EMOTIONS
    assert tuple(lp.SPLIT_FOLDERS) == SPLITS


def test_a_mistyped_setting_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(lp, "image_size", (48, 0))
    with pytest.raises(SystemExit) as stopped:
        lp.parse_args([])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told == "error: argument --image-size: must be at least 1; found 0; --help lists the flags\n"


def test_the_default_data_set_lies_beside_the_script():
    assert lp.parse_args([]).dataset == lp.FER2013_CSV
    assert lp.parse_args([]).dataset == SCRIPT.resolve().parent / "fer2013" / "fer2013.csv"
