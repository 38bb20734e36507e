"""Tests of recording: what videos, timelines and summaries say of the frames they were given."""

import sys

import cv2
import numpy as np
import pytest

import recording
from face_tracking import Face
from load_and_process import EMOTIONS
from recording import Summary, draw_timeline, refuse_overwriting, timeline_recorder, video_recorder
from video_sources import Frame


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
    assert first.startswith("5 frames in ") and first.endswith(" 5 faces: sad 70%, happy 30%")
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


def test_nothing_that_is_read_or_written_is_overwritten(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    refuse_overwriting({"output": a, "csv": b, "timeline": None}, [tmp_path / "c"])
    with pytest.raises(ValueError, match="--csv would overwrite .*b, which is read here; give another name"):
        refuse_overwriting({"output": a, "csv": b}, [b])
    with pytest.raises(ValueError, match="--csv would overwrite .*a, which --output writes"):
        refuse_overwriting({"output": a, "csv": tmp_path / "x" / ".." / "a"}, [])
