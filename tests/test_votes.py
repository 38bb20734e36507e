"""Tests of face_files.votes: FER+."""

import gzip
import lzma
import zipfile

import numpy as np
import pytest
from data_files import VOTES_HEADER

from command_line import UserError
from face_files.votes import VOTE_COLUMNS, load_votes, people_shares


def test_votes_by_split(tmp_path):
    path = tmp_path / "fer2013new.csv"
    rows = [
        "Training,fer0.png,4,0,0,1,3,2,0,0,0,0",
        "Training,fer1.png,0,9,0,0,0,0,0,0,0,0",
        "PublicTest,,0,0,0,0,0,0,0,0,0,5",
    ]
    path.write_text("\n".join([VOTES_HEADER, *rows]))
    votes = load_votes(path)
    assert {split: votes[split].shape for split in votes} == {
        "Training": (2, 10),
        "PublicTest": (1, 10),
        "PrivateTest": (0, 10),
    }
    np.testing.assert_allclose(votes["Training"][0], np.array([4, 0, 0, 1, 3, 2, 0, 0, 0, 0]) / 10, rtol=1e-6)
    assert votes["Training"][1].argmax() == VOTE_COLUMNS.index("happiness") and votes["PublicTest"][0, -1] == 1
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
    shares, clear = people_shares(np.array(list(rows), np.float32) / 10, ("angry", "neutral", "sad"))
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
    "nothing": ("", ["must have a header", "found an empty file"]),
    "an empty line": ("\n", ["must be a CSV", "No columns"]),
    "a web page": ("<!DOCTYPE html><html>", ["must be a CSV", "found a web page"]),
    "a Git LFS pointer": ("version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
    "a row too long": (VOTES_HEADER + "\nTraining" + ",1" * 11 + "\nTraining" + ",1" * 15, ["must be a CSV"]),
}


@pytest.mark.parametrize("case", BAD_VOTES)
def test_bad_votes(tmp_path, case):
    text, named = BAD_VOTES[case]
    path = tmp_path / "fer2013new.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="fer2013new.csv") as caught:
        load_votes(path)
    assert all(word in str(caught.value) for word in named) and "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize("suffix", ["gz", "xz", "zip"])
def test_compressed_votes(tmp_path, suffix):
    table = f"{VOTES_HEADER}\nTraining,a,1,0,0,0,0,0,0,0,0,0\n".encode()
    path = tmp_path / f"fer2013new.csv.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("fer2013new.csv", table)
    else:
        path.write_bytes({"gz": gzip, "xz": lzma}[suffix].compress(table))
    assert load_votes(path)["Training"].tolist() == [[1.0] + [0.0] * 9]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{path.name}.* must be (whole|of the usual kind)") as caught:
        load_votes(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(table)  # the first bytes count, not the name
    assert load_votes(path)["Training"].shape == (1, 10)


def test_no_votes(tmp_path):
    with pytest.raises(UserError, match="github.com/microsoft/FERPlus"):
        load_votes(tmp_path / "fer2013new.csv")
