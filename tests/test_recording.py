"""Tests of recording: what videos, timelines and summaries say of the frames they were given."""

import contextlib
import errno
import os
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError
from load_and_process import EMOTIONS
from recognition import recording
from recognition.annotation import PALETTE
from recognition.recording import (
    OutputFiles,
    Records,
    ReservedPaths,
    Summary,
    csv_recorder,
    draw_timeline,
    name_in_folders,
    reaching_the_disk,
    timeline_recorder,
    video_recorder,
    write_image,
)
from recognition.sources import Clock, Frame, Stills
from recognition.tracking import Face


def frame(number, time_s):
    return Frame(number, time_s, np.zeros((48, 64, 3), np.uint8), "x")


def face(emotion, identity=0):
    return Face(identity, (0, 0, 9, 9), np.eye(7)[EMOTIONS.index(emotion)])


# ----------------------------------------------------------------------------------------------------------
# Video


@pytest.mark.parametrize(
    ("times", "shades"),
    [
        ([0, 0.1, 0.2, 0.3], [0, 1, 2, 3]),
        ([5, 5.1, 5.4, 5.5], [0, 1, 2, 2, 2, 3]),  # late frames fill their time
        ([0, 0.01, 0.02, 0.1, 0.11, 0.2], [0, 3, 5]),  # more than the rate has room for
        ([0, 0.1, 60.1, 60.2], [0, 1] + 10 * [2] + [3]),  # of a minute's silence a second remains
    ],
)
def test_a_video_keeps_the_pace_of_its_frames(tmp_path, times, shades):
    with video_recorder(tmp_path / "a.avi", 10.0) as record:
        for number, time_s in enumerate(times):
            record(frame(number, time_s), np.full((48, 64, 3), 40 * number, np.uint8), [])
    video, found = cv2.VideoCapture(str(tmp_path / "a.avi")), []
    while (read := video.read())[0]:
        found.append(round(read[1].mean() / 40))
    assert found == shades and video.get(cv2.CAP_PROP_FPS) == 10


@pytest.mark.parametrize(
    ("times", "shades"),
    [
        ([0, 0.1, 0.2], [0, 1, 2]),
        ([5, 5.1, 5.4], [0, 1, 1, 1, 2]),
        ([0, 2.0, 2.05, 2.1], 20 * [0] + [2, 3]),  # a screen on which nothing changed; more than the rate has room for
    ],
)
def test_an_annotated_video_lasts_as_long_as_its_source(tmp_path, times, shades):
    with video_recorder(tmp_path / "a.avi", 10.0) as record:
        for number, (time_s, until) in enumerate(zip(times, [*times[1:], times[-1] + 0.1], strict=True)):
            lasting = frame(number, time_s)._replace(lasts_s=until - time_s)
            record(lasting, np.full((48, 64, 3), 40 * number, np.uint8), [])
    video, found = cv2.VideoCapture(str(tmp_path / "a.avi")), []
    while (read := video.read())[0]:
        found.append(round(read[1].mean() / 40))
    assert found == shades


def test_pictures_of_another_size_are_fitted(tmp_path):
    with video_recorder(tmp_path / "a.avi", 10.0) as record:
        for number, size in enumerate([(48, 64), (96, 128)]):
            record(frame(number, number / 10), np.zeros((*size, 3), np.uint8), [])
    assert cv2.VideoCapture(str(tmp_path / "a.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_a_picture_of_another_shape_keeps_it_on_black(tmp_path):
    with video_recorder(tmp_path / "a.avi", 10.0) as record:
        for number, size in enumerate([(48, 64), (48, 128), (96, 64)]):
            record(frame(number, number / 10), np.full((*size, 3), 200, np.uint8), [])
    video = cv2.VideoCapture(str(tmp_path / "a.avi"))
    first, wide, high = (video.read()[1].mean(axis=2) > 100 for _ in range(3))
    assert first.all() and not (wide[:9].any() or wide[-9:].any()) and wide[16:32].all()
    assert not (high[:, :12].any() or high[:, -12:].any()) and high[:, 24:40].all()


# ----------------------------------------------------------------------------------------------------------
# Timeline


def test_timeline_shows_the_faces_seen_longest():
    past = {i: [(t / 10, *np.eye(7)[3]) for t in range(10 + i)] for i in range(7)}
    past[6] += [(9.0, *np.eye(7)[4]), (9.1, *np.eye(7)[4])]  # back after a while: not joined
    figure = draw_timeline(past, EMOTIONS)
    assert [axes.get_ylabel() for axes in figure.axes] == [f"face {i}" for i in range(2, 7)]
    assert len(figure.axes[-1].collections) == 14 and len(figure.axes[0].collections) == 7
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(EMOTIONS)


def test_colours_of_a_timeline_are_those_of_the_emotions():
    past = {0: [(t / 10, 0.5, 0.2, 0.3) for t in range(10)]}
    figure = draw_timeline(past, ("bored", "happy", "angry"), ("ennui", "joie", "colère"))
    bands = [band.get_facecolor()[0] for band in figure.axes[0].collections]
    colours = [tuple(round(255 * value) for value in colour[2::-1]) for colour in bands]
    assert colours == [PALETTE[7], PALETTE[EMOTIONS.index("happy")], PALETTE[EMOTIONS.index("angry")]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ennui", "joie", "colère"]


@pytest.mark.parametrize("faces", [[], [face("happy")]])
def test_timeline_is_written_whole(tmp_path, faces):
    with timeline_recorder(tmp_path / "a.png", EMOTIONS) as record:
        for number in range(3):
            record(frame(number, number / 10), None, faces)
        assert not (tmp_path / "a.png").exists()
    assert cv2.imread(str(tmp_path / "a.png")).std() > 5


def test_timeline_shows_a_small_picture_of_each_face_at_its_largest(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(recording, "PORTRAITS_KEPT", 2)
    with timeline_recorder(tmp_path / "a.png", EMOTIONS) as record:
        monkeypatch.setattr(recording, "draw_timeline", lambda *given: drawn.update(given[3]) or draw_timeline(*given))
        for number, (identity, side) in enumerate([(4, 20), (0, 90), (0, 120), (0, 100), (7, 30), (7, 30)]):
            image = np.full((200, 200, 3), (10 * number, 0, 255), np.uint8)
            box = (150, 10, side, 2 * side)  # also beyond the right edge
            record(Frame(number, number / 10, image, "x"), None, [face("happy", identity)._replace(box=box)])
    assert {identity: (*picture.shape, picture[0, 0, 0]) for identity, picture in drawn.items()} == {
        0: (64, 17, 3, 20),  # 50 of the 120 columns are in the image, and 190 of the 240 rows
        7: (60, 30, 3, 40),  # as it was; face 4, which was seen for the shortest time, has made room
    }
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert ((picture == (20, 0, 255)).all(axis=2)).any() and ((picture == (40, 0, 255)).all(axis=2)).any()


def test_timeline_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(recording.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install matplotlib"), timeline_recorder(tmp_path / "a.png", EMOTIONS):
        pass
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------
# Summary


def test_summary_weighs_faces_by_time():
    summary = Summary(EMOTIONS, Clock(), fps=10.0)
    summary.add([face("happy", 0), face("sad", 1)], 0.0)  # 0.1 s each, the first frame's
    summary.add([face("happy", 0)], 0.5)
    summary.add([face("sad", 0)], 0.8)
    summary.add([], 0.9)
    summary.add([face("sad", 0)], 60.0)  # after a long silence: one second
    first, *others = str(summary).splitlines()
    assert first.startswith("5 frames in ")
    assert first.endswith("), shares of the time of 2 faces: sad 70%, happy 30%")
    assert others == ["  face 0, 1.9 s: sad 68%, happy 32%", "  face 1, 0.1 s: sad 100%"]


def test_summary_weighs_the_faces_of_a_video_by_the_time_that_each_frame_lasts():
    summary = Summary(EMOTIONS, Clock(), fps=10.0)
    summary.add([face("happy", 0)], 0.0, 3.0)
    summary.add([face("sad", 0)], 3.0, 1.0)
    assert str(summary).endswith(" 1 face: happy 75%, sad 25%")


def test_summary_names_the_faces_seen_longest():
    summary = Summary(EMOTIONS, Clock(), fps=1.0)
    for second in range(8):
        summary.add([face("fear", identity) for identity in range(second, 8)], float(second))
    lines = str(summary).splitlines()
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"  face {i}" for i in range(3, 8)]
    assert lines[-1] == "  and 3 seen for less"


def test_summary_of_images_counts_them():
    summary = Summary(EMOTIONS, Clock(), still=True)
    for number in range(3):
        summary.add([face("happy")] if number else [], float(number))
    assert str(summary).endswith("), shares of 2 faces: happy 100%") and "\n" not in str(summary)
    assert str(Summary(EMOTIONS, Clock())) == "no frames"


def test_the_summary_leaves_pauses_out():
    now = [0.0]
    clock = Clock(lambda: now[0])
    summary = Summary(EMOTIONS, clock)
    now[0] = 10.5
    summary.add([], 0.0)  # one frame in 10.5 s
    assert summary.rate == pytest.approx(1 / 10.5)
    clock.pause()
    now[0] += 10
    clock.resume()
    now[0] += 0.5
    summary.add([], 0.1)
    assert summary.rate == pytest.approx(1 / 10.5)  # half a second has passed: too early for a new rate
    assert str(summary).startswith("2 frames in 11.0 s")


def test_a_clock_that_stands_still():
    summary = Summary(EMOTIONS, Clock(lambda: 5.0))
    summary.add([], 0.0)
    assert str(summary).startswith("1 frame in 0.0 s")


# ----------------------------------------------------------------------------------------------------------
# Files


def test_nothing_that_is_read_or_written_is_overwritten(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    ReservedPaths([tmp_path / "c"]).reserve(OutputFiles(a, b, None, None))
    with pytest.raises(UserError, match="--csv would overwrite .*b, which is read here; give another name"):
        ReservedPaths([b]).reserve(OutputFiles(a, b, None, None))
    with pytest.raises(UserError, match="--csv would overwrite .*A, which --output writes"):
        ReservedPaths([]).reserve(OutputFiles(a, tmp_path / "x" / ".." / "A", None, None))


def test_files_in_folders_have_the_name_of_their_source():
    folders, reserved = OutputFiles(*(Path(name) for name in "octe")), ReservedPaths(["c/a.csv"])
    image = Stills([Path("x/a.JPG")])
    expected = OutputFiles(Path("o/a-2.JPG"), Path("c/a-2.csv"), None, Path("e/a-2.explained.JPG"))
    assert name_in_folders(folders, image, reserved) == expected
    images = Stills([Path("x/a.JPG")], multiple=True, name="x")
    expected = OutputFiles(Path("o/x"), Path("c/x.csv"), None, Path("e/x.explained"))
    assert name_in_folders(folders, images, reserved) == expected
    assert name_in_folders(OutputFiles(None, Path("c"), None, None), images, reserved).csv == Path("c/x.csv")


@contextlib.contextmanager
def fake_recorder(name, told, fails_at=None, fails_to=None):
    """A recorder that tells what happens to it; a full disk is for it what it is for `replacing`."""
    told.append(f"{name} opened")
    if fails_to == "open":
        raise UserError(f"{name} is broken")

    def record(frame, picture, faces):
        if frame == fails_at:
            raise OSError(errno.ENOSPC, f"{name} is full")
        told.append(f"{name} {frame}")

    try:
        yield record
    except BaseException as error:
        told.append(f"{name} removed: {type(error).__name__}")
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(error.strerror, exit_status=1) from error
        raise
    if fails_to == "close":
        raise UserError(f"{name} is full at last", exit_status=1)
    told.append(f"{name} kept")


def test_a_file_that_fails_is_given_up_and_the_others_go_on(capsys):
    told = []
    with Records([fake_recorder("a", told, fails_at=2), fake_recorder("b", told)]) as records:
        for number in (1, 2, 3):
            records(number, None, [])
    rest = ["a removed: OSError", "b 2", "b 3", "b kept"]
    assert told == ["a opened", "b opened", "a 1", "b 1", *rest] and records.faults == 1
    assert capsys.readouterr().err == "error: a is full\n"


def test_with_the_last_file_the_error_comes_out(capsys):
    told = []
    recorder = fake_recorder("a", told, fails_at=1)
    with pytest.raises(UserError, match="a is full") as raised, Records([recorder]) as records:
        records(1, None, [])
    assert told == ["a opened", "a removed: OSError"] and not capsys.readouterr().err
    assert raised.value.exit_status == 1


def test_files_that_can_not_be_opened_or_closed(capsys):
    told = []
    with pytest.raises(UserError, match="b is broken"):
        Records([fake_recorder("a", told), fake_recorder("b", told, fails_to="open")])
    assert told == ["a opened", "b opened", "a removed: UserError"]
    for names in ("ab", "ba"):
        with Records(fake_recorder(name, told, fails_to="close" if name == "a" else None) for name in names) as records:
            records(1, None, [])
        assert records.faults == 1 and "b kept" in told[-2:]
        assert capsys.readouterr().err == "error: a is full at last\n"
    with pytest.raises(UserError, match="a is full at last"), Records([fake_recorder("a", told, fails_to="close")]):
        pass


def test_what_went_wrong_elsewhere_leaves_no_file():
    told = []
    with pytest.raises(KeyboardInterrupt), Records([fake_recorder("a", told), fake_recorder("b", told)]):
        raise KeyboardInterrupt
    assert told[2:] == ["a removed: KeyboardInterrupt", "b removed: KeyboardInterrupt"]


class FullDisk(OSError):
    """No space left, as the system tells it on a write."""

    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


def test_a_table_on_a_full_disk_is_told_and_given_up(tmp_path, capsys):
    def fail(frame, picture, faces):
        raise FullDisk

    with Records([csv_recorder(tmp_path / name, EMOTIONS) for name in ("a.csv", "b.csv")]) as records:
        records._open[0] = records._open[0][0], fail
        for number in range(3):
            records(frame(number, number / 10), None, [face("happy")])
    assert capsys.readouterr().err == f"error: {tmp_path / 'a.csv'} can't be written: No space left on device\n"
    assert records.faults == 1 and [path.name for path in tmp_path.iterdir()] == ["b.csv"]
    recorder = csv_recorder(tmp_path / "a.csv", EMOTIONS)
    with pytest.raises(UserError, match="No space left") as raised, Records([recorder]) as records:
        records._open[0] = recorder, fail
        records(frame(0, 0.0), None, [])
    assert raised.value.exit_status == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_recorded_reaches_the_disk_every_few_seconds(tmp_path, monkeypatch):
    """A thread sees to it, and ends with the recording; none sees to a device."""

    def syncing():
        return [thread for thread in threading.enumerate() if thread.name in ("sync a.csv", "sync null")]

    synced = []
    monkeypatch.setattr(recording, "SYNC_EVERY", 0.01)
    monkeypatch.setattr(recording.os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    with csv_recorder(tmp_path / "a.csv", EMOTIONS), video_recorder(tmp_path / "a.avi", 10.0) as record:
        record(frame(0, 0.0), np.zeros((48, 64, 3), np.uint8), [])
        wanted = {str(tmp_path / "a.csv"), *map(str, tmp_path.glob("a.avi.unfinished.*"))}
        ends_s = time.monotonic() + 20
        while set(synced) != wanted and time.monotonic() < ends_s:
            time.sleep(0.01)
        assert set(synced) == wanted and len(wanted) == 2
    with reaching_the_disk(Path(os.devnull)):
        while (left := syncing()) and time.monotonic() < ends_s:
            time.sleep(0.01)
        assert not left


@pytest.mark.parametrize("bug", [FileNotFoundError(2, "nothing there", "a_part_of_ours"), ValueError("too short")])
@pytest.mark.parametrize("files", [["a.csv"], ["a.csv", "b.csv"]])
def test_a_bug_in_a_recorder_is_raised_and_leaves_no_file(tmp_path, capsys, bug, files):
    def fail(frame, picture, faces):
        raise bug

    recorders = [csv_recorder(tmp_path / name, EMOTIONS) for name in files]
    with pytest.raises(type(bug)) as raised, Records(recorders) as records:
        records._open[0] = recorders[0], fail
        records(frame(0, 0.0), None, [])
    assert raised.value is bug and not capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_fault_elsewhere_is_not_told_as_one_of_the_files(tmp_path, capsys):
    with pytest.raises(FullDisk), Records([csv_recorder(tmp_path / "a.csv", EMOTIONS)]) as records:
        raise FullDisk  # for example, of a print to a file
    assert not capsys.readouterr().err and not records.faults and not list(tmp_path.iterdir())


def test_a_bug_while_the_files_are_closed_leaves_no_other_file(tmp_path):
    @contextlib.contextmanager
    def faulty():
        yield print
        raise RuntimeError("a bug")

    recorders = [faulty(), csv_recorder(tmp_path / "a.csv", EMOTIONS)]  # kept, so that only `Records` can close them
    with pytest.raises(RuntimeError), Records(recorders):
        pass
    assert not list(tmp_path.iterdir())


def test_discarded_files_leave_nothing(tmp_path):
    with Records([csv_recorder(tmp_path / "a.csv", EMOTIONS), video_recorder(tmp_path / "a.avi", 10.0)]) as records:
        records.discard()
    assert not list(tmp_path.iterdir()) and not records.faults


def test_an_image_too_wide_for_its_kind_is_told(tmp_path):
    with pytest.raises(UserError, match=r"a.webp can't be written as an image of 20000x4 pixels; try .png"):
        write_image(tmp_path / "a.webp", np.zeros((4, 20000, 3), np.uint8))
    assert not list(tmp_path.iterdir())
