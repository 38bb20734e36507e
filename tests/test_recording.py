"""Tests of recording: what videos, timelines and summaries say of the frames they were given."""

import contextlib
import sys

import cv2
import numpy as np
import pytest

from load_and_process import EMOTIONS
from recognition import recording
from recognition.recording import Records, Summary, Taken, draw_timeline, timeline_recorder, video_recorder
from recognition.sources import Frame
from recognition.tracking import Face


def frame(number, time_s):
    return Frame(number, time_s, np.zeros((48, 64, 3), np.uint8), "x")


def face(emotion, identity=0):
    return Face(identity, (0, 0, 9, 9), np.eye(7)[EMOTIONS.index(emotion)])


# ------------------------------------------------------------------------------------------------------------- video
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


def test_pictures_of_another_size_are_fitted(tmp_path):
    with video_recorder(tmp_path / "a.avi", 10.0) as record:
        for number, size in enumerate([(48, 64), (96, 128)]):
            record(frame(number, number / 10), np.zeros((*size, 3), np.uint8), [])
    assert cv2.VideoCapture(str(tmp_path / "a.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


# ---------------------------------------------------------------------------------------------------------- timeline
def test_timeline_shows_the_faces_seen_longest():
    past = {i: [(t / 10, *np.eye(7)[3]) for t in range(10 + i)] for i in range(7)}
    past[6] += [(9.0, *np.eye(7)[4]), (9.1, *np.eye(7)[4])]  # back after a while: not joined
    figure = draw_timeline(past, EMOTIONS)
    assert [axes.get_ylabel() for axes in figure.axes] == [f"face {i}" for i in range(2, 7)]
    assert len(figure.axes[-1].collections) == 14 and len(figure.axes[0].collections) == 7
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(EMOTIONS)


@pytest.mark.parametrize("faces", [[], [face("happy")]])
def test_timeline_is_written_whole(tmp_path, faces):
    with timeline_recorder(tmp_path / "a.png", EMOTIONS) as record:
        for number in range(3):
            record(frame(number, number / 10), None, faces)
        assert not (tmp_path / "a.png").exists()
    assert cv2.imread(str(tmp_path / "a.png")).std() > 5


def test_timeline_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(recording.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install matplotlib"), timeline_recorder(tmp_path / "a.png", EMOTIONS):
        pass
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- summary
def test_summary_weighs_faces_by_time():
    summary = Summary(EMOTIONS, fps=10.0)
    summary.add([face("happy", 0), face("sad", 1)], 0.0)  # 0.1 s each, the first frame's
    summary.add([face("happy", 0)], 0.5)
    summary.add([face("sad", 0)], 0.8)
    summary.add([], 0.9)
    summary.add([face("sad", 0)], 60.0)  # after a long silence: one second
    first, *others = str(summary).splitlines()
    assert first.startswith("5 frames in ") and first.endswith(" 2 faces: sad 70%, happy 30%")
    assert others == ["  face 0, 1.9 s: sad 68%, happy 32%", "  face 1, 0.1 s: sad 100%"]


def test_summary_names_the_faces_seen_longest():
    summary = Summary(EMOTIONS, fps=1.0)
    for second in range(8):
        summary.add([face("fear", identity) for identity in range(second, 8)], float(second))
    lines = str(summary).splitlines()
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"  face {i}" for i in range(3, 8)]
    assert lines[-1] == "  and 3 seen for less"


def test_summary_of_images_counts_them():
    summary = Summary(EMOTIONS, still=True)
    for number in range(3):
        summary.add([face("happy")] if number else [], float(number))
    assert str(summary).endswith(" 2 faces: happy 100%") and "\n" not in str(summary)
    assert str(Summary(EMOTIONS)) == "no frames"


def test_the_summary_leaves_pauses_out(monkeypatch):
    clock = iter([0.0, 10.5, 11.0, 11.0, 21.0])
    monkeypatch.setattr(recording.time, "perf_counter", lambda: next(clock))
    summary = Summary(EMOTIONS)
    summary.add([], 0.0)  # at 10.5 s: one frame in 10.5 s
    assert summary.rate == pytest.approx(1 / 10.5)
    summary.pause(10.0)
    summary.add([], 0.1)
    assert str(summary).startswith("2 frames in 11.0 s")


def test_a_clock_that_stands_still(monkeypatch):
    monkeypatch.setattr(recording.time, "perf_counter", lambda: 5.0)
    summary = Summary(EMOTIONS)
    summary.add([], 0.0)
    assert str(summary).startswith("1 frame in 0.0 s")


# ------------------------------------------------------------------------------------------------------------- files
def test_nothing_that_is_read_or_written_is_overwritten(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    Taken([tmp_path / "c"]).take({"output": a, "csv": b, "timeline": None})
    with pytest.raises(ValueError, match="--csv would overwrite .*b, which is read here; give another name"):
        Taken([b]).take({"output": a, "csv": b})
    with pytest.raises(ValueError, match="--csv would overwrite .*A, which --output writes"):
        Taken([]).take({"output": a, "csv": tmp_path / "x" / ".." / "A"})


@contextlib.contextmanager
def fake_recorder(name, told, fails_at=None, fails_to=None):
    told.append(f"{name} opened")
    if fails_to == "open":
        raise OSError(f"{name} is broken")

    def record(frame, picture, faces):
        if frame == fails_at:
            raise OSError(f"{name} is full")
        told.append(f"{name} {frame}")

    try:
        yield record
    except BaseException as error:
        told.append(f"{name} removed: {type(error).__name__}")
        raise
    if fails_to == "close":
        raise OSError(f"{name} is full at last")
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
    with pytest.raises(OSError, match="a is full"), Records([fake_recorder("a", told, fails_at=1)]) as records:
        records(1, None, [])
    assert told == ["a opened", "a removed: OSError"] and not capsys.readouterr().err


def test_files_that_can_not_be_opened_or_closed(capsys):
    told = []
    with pytest.raises(OSError, match="b is broken"):
        Records([fake_recorder("a", told), fake_recorder("b", told, fails_to="open")])
    assert told == ["a opened", "b opened", "a removed: OSError"]
    for names in ("ab", "ba"):
        with Records(fake_recorder(name, told, fails_to="close" if name == "a" else None) for name in names) as records:
            records(1, None, [])
        assert records.faults == 1 and "b kept" in told[-2:]
        assert capsys.readouterr().err == "error: a is full at last\n"
    with pytest.raises(OSError, match="a is full at last"), Records([fake_recorder("a", told, fails_to="close")]):
        pass


def test_what_went_wrong_elsewhere_leaves_no_file():
    told = []
    with pytest.raises(KeyboardInterrupt), Records([fake_recorder("a", told), fake_recorder("b", told)]):
        raise KeyboardInterrupt
    assert told[2:] == ["a removed: KeyboardInterrupt", "b removed: KeyboardInterrupt"]
