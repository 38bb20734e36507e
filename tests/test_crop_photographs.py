"""Tests of crop_photographs, by its own command line and by the flag --crop-faces of load_and_process.py."""

import errno
import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import crop_photographs
import load_and_process
import real_time_emotion_recognition as live
from command_line import UserError, WriteError, exit_status
from drawn_faces import draw_face
from load_and_process import load_fer2013_data, preprocess_images
from recognition.detection import open_detector

ROOT = Path(crop_photographs.__file__).parent
WAYS = {
    "crop_photographs.py": lambda source, target: [ROOT / "crop_photographs.py", source, target],
    "--crop-faces": lambda source, target: [ROOT / "load_and_process.py", "--dataset", source, "--crop-faces", target],
}


@pytest.fixture(params=WAYS)
def crop(request):
    """A function that runs a command line; it returns the finished process."""

    def run(source, target):
        command = [sys.executable, *map(str, WAYS[request.param](source, target))]
        return subprocess.run(command, capture_output=True, text=True)

    run.counts = request.param == "--crop-faces"
    return run


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def photographs(tmp_path, photograph):
    """Photographs: faces in the middle of larger pictures, drawn and real, two at once, none, and no image."""

    def draw(*expressions):
        picture = np.full((300, 420, 3), 200, np.uint8)
        for number, expression in enumerate(expressions):
            picture = draw_face(expression, frame=picture, centre=(110 + 200 * number, 150), size=150 - 40 * number)
        return picture

    folder = tmp_path / "photos"
    write_image(folder / "train" / "happy" / "a.jpg", draw("happy"))
    write_image(folder / "train" / "bored" / "b.png", draw("neutral", "sad"))
    write_image(folder / "train" / "bored" / "nobody.png", np.full((200, 200, 3), 90, np.uint8))
    (folder / "train" / "bored" / "c.png").write_bytes(b"no image")
    write_image(folder / "test" / "happy" / "astronaut.png", cv2.imread(str(photograph)))
    return folder


def test_crops_the_faces_of_photographs(photographs, tmp_path, crop):
    target = tmp_path / "new" / "faces"
    done = crop(photographs, target)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout
    assert "3 faces of 5 photographs" in told and "1 showed several" in told and "2 without a face" in told
    assert told.count("happy") == crop.counts  # then the table of what came out
    missed = (target / "not_found.txt").read_text().splitlines()
    assert [line.split(": ")[1] for line in missed] == ["it is no image", "no face found"]
    assert "c.png" in missed[0] and "nobody.png" in missed[1]
    faces = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.png") if path.name != "overview.png")
    assert faces == ["test/happy/astronaut.png.png", "train/bored/b.png.png", "train/happy/a.jpg.png"]
    assert os.listdir(tmp_path / "new") == ["faces"]


def test_the_faces_are_those_that_the_live_script_sees(photographs, tmp_path):
    assert exit_status(crop_photographs.main, [str(photographs), str(tmp_path / "faces")]) == 0
    recognizer = live.build_recognizer(live.parse_args([]))
    frame = cv2.imread(str(photographs / "test" / "happy" / "astronaut.png"))
    (seen,) = recognizer.follow(still=True)(frame, 0.0)
    face = preprocess_images(load_fer2013_data(tmp_path / "faces")["PrivateTest"].faces)
    np.testing.assert_array_equal(recognizer.classify.predict(face), [seen.probabilities])


def test_the_settings_are_those_of_the_live_script_for_images():
    ours, theirs = crop_photographs.parse_args(["photographs", "faces"]), live.parse_args([])
    for name in ("detector", "cascade", "min_neighbors"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("detection_side", "scale_factor", "smallest_face"):
        assert getattr(ours, name) == getattr(theirs, f"still_{name}")
    defaults = inspect.signature(open_detector).parameters
    names = {"side": "detection_side", **{name: name for name in ("scale_factor", "min_neighbors", "smallest_face")}}
    assert all(defaults[name].default == getattr(ours, setting) for name, setting in names.items())


def test_flags_act(photographs, tmp_path, capsys):
    arguments = [str(photographs), str(tmp_path / "faces"), "--smallest-face", "0.45"]
    assert exit_status(crop_photographs.main, arguments) == 0
    assert "2 faces of 5 photographs" in capsys.readouterr().out  # the astronaut's is smaller
    for flag, value, message in (
        ("--cascade", "none.xml", "none.xml"),
        ("--scale-factor", "1", "must be at least 1.01; found 1"),
        ("--smallest-face", "1.5", "must be from 0 to 1; found 1.5"),
        ("--detection-side", "ten", "invalid int value: 'ten'"),
        ("--min-neighbors", "-1", "must be at least 0; found -1"),
    ):
        with pytest.raises((UserError, SystemExit)) as caught:
            crop_photographs.main([str(photographs), str(tmp_path / "others"), flag, value])
        told = str(caught.value) if isinstance(caught.value, UserError) else capsys.readouterr().err
        assert message in told and told.strip().count("\n") == 0
    assert sorted(os.listdir(tmp_path)) == ["faces", "photos"]


@pytest.mark.parametrize(
    ("dataset", "target", "message"),
    [
        ("fer2013.csv", "faces", "out of a folder's photographs; found"),
        ("photos", "photos", "must go to a new folder; found something"),
        ("photos", "file", "must go to a new folder; found something"),
        ("photos", "file/faces", "can't be written"),
        ("photos", "x" * 300, "can't be read (File name too long)"),
        ("empty", "faces", "must show a face; found none in any of 1"),
        ("drawn", "faces", "out of a folder's photographs; found drawn"),
        ("nowhere", "faces", "nowhere does not exist: correct the path"),
    ],
)
def test_what_it_refuses(photographs, tmp_path, crop, dataset, target, message):
    write_image(tmp_path / "empty" / "train" / "sad" / "a.png", np.full((50, 50), 9, np.uint8))
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n0,1 2 3 4,Training\n")
    (tmp_path / "file").write_text("mine")
    done = crop(dataset if dataset == "drawn" else tmp_path / dataset, tmp_path / target)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["empty", "fer2013.csv", "file", "photos"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_line_and_leaves_nothing(photographs, tmp_path, monkeypatch, capsys):
    def refuse(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(WriteError, match="faces can't be written: No space left on device") as caught:
        crop_photographs.main([str(photographs), str(tmp_path / "faces")])
    assert caught.value.exit_status == 1 and os.listdir(tmp_path) == ["photos"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no groups of processes to send a signal to")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_what_stops_it_leaves_nothing(tmp_path, way, how):
    photograph = write_image(tmp_path / "photos" / "train" / "sad" / "0.png", np.zeros((1500, 1500, 3), np.uint8))
    for number in range(1, 400):
        photograph.with_name(f"{number}.png").symlink_to(photograph)
    command = [sys.executable, *map(str, WAYS[way](tmp_path / "photos", tmp_path / "faces"))]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(os.listdir(tmp_path)) == 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    if how == "Ctrl-C":
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: all its processes get the signal
    else:
        child.terminate()  # one process gets the signal
    _, told = child.communicate(timeout=120)
    assert (child.returncode, told) == (130, b"")
    assert os.listdir(tmp_path) == ["photos"]


def test_load_and_process_prints_what_came_out(photographs, tmp_path, capsys):
    arguments = ["--dataset", str(photographs), "--crop-faces", str(tmp_path / "faces")]
    assert exit_status(load_and_process.main, arguments) == 0
    assert "absent: PublicTest" in capsys.readouterr().out
    assert (tmp_path / "faces" / "overview.png").is_file()
