"""Tests of face_files.images: folders of images, and the kinds of files that hold one."""

import os
import struct
import subprocess
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
from data_files import SIZE, assert_refused, grey, write_image

import load_and_process as lp
from command_line import UserError
from face_files import images
from face_files.labels import EMOTIONS, SPLITS
from load_and_process import load_fer2013_data, resize_face


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
    assert splits.titles == {"Training": "train", "PublicTest": "Validation", "PrivateTest": "test"}
    found = dict(zip(splits["Training"].faces[:, 0, 0, 0].tolist(), splits["Training"].emotions, strict=True))
    assert [found[value] for value in range(len(names))] == [0, 1, 2, 3, 4, 5, 6, 2, 3]
    assert splits["PublicTest"].faces[:, 0, 0, 0].tolist() == [100]
    assert splits["PrivateTest"].faces[:, 0, 0, 0].tolist() == [200]


@pytest.mark.parametrize("suffix", images.IMAGE_SUFFIXES + images.READ_SUFFIXES)
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
    monkeypatch.setattr(images, "find_spec", lambda name: None)
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

    monkeypatch.setattr(images, "find_spec", lambda name: name == "pillow_heif")
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
    assert images.decode_image(path) is None and images.why_unreadable(path) == reason
    if name == "pipe":
        assert_refused(tmp_path, r"images must be readable; .*pipe.jpg \(no regular file\); replace")


def test_an_image_of_too_many_pixels_is_told_so_and_not_decoded(tmp_path):
    """OpenCV reads the limit while it is imported, so in a process of its own; 30,000 x 30,000 would take minutes."""
    path = tmp_path / "train" / "happy" / "huge.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png_that_claims(30000, 30000))
    done = subprocess.run([sys.executable, lp.__file__, "--dataset", tmp_path], capture_output=True, text=True)
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
    monkeypatch.setattr(images, "IMAGES_PER_BATCH", 30)
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
    monkeypatch.setattr(images, "IMAGES_PER_BATCH", 10)
    for value in range(60):
        path = write_image(tmp_path / "train" / "happy" / f"{value:02}.png", grey(value))
        if value < unreadable:
            path.write_bytes(b"no image")
    with pytest.raises(UserError, match="images must be readable") as caught:
        load_fer2013_data(tmp_path, SIZE)
    names = [f"{value:02}.png" in str(caught.value) for value in range(60)]
    assert names == [True] * 20 + [False] * 40 and (", ...;" in str(caught.value)) == (unreadable > 20)


def test_refuses_a_folder_without_images(tmp_path):
    (tmp_path / "train").mkdir()
    assert_refused(tmp_path, "must hold train/EMOTION/.*; found no image")
