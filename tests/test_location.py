"""Tests of face_files.location: where a data set may lie, and what is said where there is none."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from data_files import FORMS, SIZE, assert_expected, assert_refused, grey, write_csv, write_image

from command_line import UserError
from face_files import location
from face_files.location import find_source
from load_and_process import load_fer2013_data


def test_says_how_to_get_a_missing_data_set(tmp_path):
    with pytest.raises(UserError) as caught:
        load_fer2013_data(tmp_path / "fer2013.csv")
    for part in (str(tmp_path), "msambare/fer2013", "icml_face_data.csv", "login", "--dataset drawn"):
        assert part in f"{caught.value}\n{caught.value.hint}"


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


@pytest.mark.parametrize("name", ["fer2013.csv.gz", "icml_face_data.csv", "fer2013/fer2013.csv", "faces/train"])
def test_a_missing_default_stands_for_its_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr(location, "FER2013_CSV", tmp_path / "fer2013.csv")
    (tmp_path / "README.md").write_text("How to get it.")
    found = tmp_path / name
    found.parent.mkdir(exist_ok=True)
    if name == "faces/train":
        found.mkdir()
        found = found.parent
    else:
        found.write_bytes(FORMS[Path(name).name])
    assert find_source(location.FER2013_CSV) == found
    assert find_source(tmp_path) == found


@pytest.mark.parametrize("name", ["fer2013.tar.gz", "archive.zip"])
@pytest.mark.parametrize("missing", ["fer2013.csv", "."])
def test_an_archive_in_place_of_the_data_is_named(tmp_path, monkeypatch, name, missing):
    monkeypatch.setattr(location, "FER2013_CSV", tmp_path / "fer2013.csv")
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"must be unpacked; found {name} in its folder: (tar xf|unpack)") as caught:
        find_source(tmp_path / missing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("fer2013.tgz", "tar xf '{folder}/fer2013.tgz' -C '{folder}'"), ("my.training.zip", "unpack it there")],
)
def test_the_remedy_for_an_archive_can_be_typed(tmp_path, name, remedy):
    folder = tmp_path / "my data"
    folder.mkdir()
    (folder / name).write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        find_source(folder)
    assert str(caught.value).endswith(f"in its folder: {remedy.format(folder=folder)}")


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
        find_source(tmp_path / "other.csv")


def test_a_folder_without_or_with_several_data_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be or hold one data set, .*; found none: name the one"):
        find_source(tmp_path)
    for name in ("a/train", "b/train"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UserError, match="found 2: name the one"):
        find_source(tmp_path)
