"""Tests of detection: faces are found in the whole frame and near a known face, by a cascade that is found, too."""

import inspect
from pathlib import Path

import cv2
import numpy as np
import pytest

import real_time_emotion_recognition as live
from command_line import UserError
from drawn_faces import backdrop, draw_face, face_box
from recognition import detection
from recognition.detection import FaceDetector, find_cascade

CASCADE = "haarcascade_frontalface_default.xml"
SIZE = (640, 480)


@pytest.fixture(scope="module")
def detect():
    return FaceDetector(find_cascade(CASCADE), 240, 1.2, 5, 0.1)


def overlap(first, second):
    """Intersection over union of two boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    both = max(width, 0) * max(height, 0)
    return both / (aw * ah + bw * bh - both)


def test_detector_finds_the_drawn_faces(detect, drawn_frame):
    frame, truth = drawn_frame
    found = detect(frame)
    assert found.shape == (2, 4) and found.dtype == int
    assert all(max(overlap(box, face) for box in found) > 0.7 for face in truth)


@pytest.mark.parametrize("shape", [(480, 640, 3), (48, 48, 3), (2000, 300, 3)])
def test_detector_gives_two_dimensions_where_there_is_no_face(detect, shape):
    assert detect(np.full(shape, 127, np.uint8)).shape == (0, 4)


def test_boxes_are_in_pixels_of_the_frame_whatever_its_size(detect, drawn_frame):
    frame, truth = drawn_frame
    found = detect(cv2.resize(frame, None, fx=2, fy=2))
    assert all(max(overlap(box, 2 * np.array(face)) for box in found) > 0.7 for face in truth)


def test_own_cascade_in_its_folder_comes_first(monkeypatch, tmp_path):
    own = tmp_path / "haarcascade_files" / CASCADE
    own.parent.mkdir()
    monkeypatch.setattr(detection, "CASCADES", tmp_path / "haarcascade_files")
    assert find_cascade(CASCADE) == Path(cv2.data.haarcascades) / CASCADE
    own.write_text("mine")
    assert find_cascade(CASCADE) == own


@pytest.mark.parametrize("name", ["nowhere.xml", "folder/nowhere.xml", "n" * 300])
def test_a_cascade_that_is_not_there_is_a_mistake(name):
    with pytest.raises(UserError, match=name[:40]):
        find_cascade(name)


def test_defaults_are_the_settings_for_images():
    args, defaults = live.parse_args([]), inspect.signature(FaceDetector).parameters
    settings = {"side": "still_detection_side"} | {n: n for n in ("scale_factor", "min_neighbors", "smallest_face")}
    for name, setting in settings.items():
        assert defaults[name].default == getattr(args, setting)


# ----------------------------------------------------------------------------------------------------------
# Near a known face


def test_the_search_near_a_face_finds_it_alone(detect):
    frame = draw_face("neutral", frame=backdrop(SIZE), centre=(160, 240), size=140)
    frame = draw_face("neutral", frame=frame, centre=(460, 240), size=140)
    (found,) = detect.near(frame, (80, 180, 130, 130))  # somewhat off
    assert overlap(found, face_box((160, 240), 140)) > 0.85
    for box in ((280, 10, 60, 60), (-200, 100, 90, 90), (630, 470, 90, 90), (800, 900, 50, 50)):
        assert detect.near(frame, box).shape == (0, 4)


def test_the_search_near_a_face_keeps_to_the_smallest_face(detect):
    coarse = FaceDetector(find_cascade("haarcascade_frontalface_default.xml"), 320, 1.2, 5, 0.4)
    frame = draw_face("neutral", frame=backdrop(SIZE), centre=(320, 240), size=130)
    box = face_box((320, 240), 130)
    assert len(detect.near(frame, box)) == 1
    assert len(coarse.near(frame, box)) == 0  # 130 is less than 0.4 of 480
