"""What the tests of data sets share: small data sets, and what is to come out."""

import gzip
import io
import lzma
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from face_files.votes import VOTE_COLUMNS
from load_and_process import Split, load_fer2013_data

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
VOTES_HEADER = "Usage,Image name," + ",".join(VOTE_COLUMNS)


def assert_refused(path: Path, message: str, size: tuple[int, int] = SIZE) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_fer2013_data(path, size)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not list((path if path.is_dir() else path.parent).glob("*.np[yz]"))
