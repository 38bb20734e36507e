"""Tests of face_files.tables: every form FER2013 comes in, and the ways it comes broken."""

import gzip
import io
import json
import lzma
import struct
import sys
import zipfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_files import CSV, FORMS, HEADER, ROWS, SIZE, assert_expected, assert_refused, grey, write_csv, zipped

from command_line import UserError
from face_files.labels import EMOTIONS, SPLITS
from face_files.tables import read_csv
from load_and_process import load_fer2013_data, resize_face

# ----------------------------------------------------------------------------------------------------------
# CSV


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
            splits, emotions, faces = read_csv(path, partial(resize_face, image_size=SIZE))
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
    splits = load_fer2013_data(path.rename(tmp_path / "FER2013.PARQUET"), SIZE)
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


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_refuses_a_bad_row(tmp_path, row, message):
    assert_refused(write_csv(tmp_path, [*ROWS, row, ROWS[0]]), message)


@pytest.mark.parametrize(("pixels", "found"), [("1 2 3", 3), ("", 0)])
@pytest.mark.parametrize("others", [ROWS, []], ids=["with others", "alone"])
def test_refuses_a_first_row_that_is_no_square(tmp_path, pixels, found, others):
    rows = [f"0,{pixels},Training", *others]
    assert_refused(write_csv(tmp_path, rows), f"line 2: all rows .* square.*found {found}:")


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
