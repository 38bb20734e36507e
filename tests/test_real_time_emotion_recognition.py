"""Tests of the live script: faces, pixels, memory, pictures, records, sources and all that goes wrong with them."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import Xlib.display
from Xlib.protocol.event import ClientMessage

import face_tracking
import real_time_emotion_recognition as live
from drawn_faces import DrawnFaceCapture, Identity
from face_tracking import Face, FaceDetector, Smoother, find_cascade
from load_and_process import EMOTIONS, exit_status, load_fer2013_data, preprocess_images
from models.checkpoint import compile_checkpoint, load_checkpoint, save_checkpoint
from models.classifier import EmotionClassifier, crop_faces

SCRIPT = Path(live.__file__)
MODEL = str(SCRIPT.parent / "models" / "mini_XCEPTION.hdf5")
COLUMNS = ["frame", "time_s", "face", "x", "y", "width", "height", "emotion", *EMOTIONS]


@pytest.fixture(scope="module")
def classifier():
    return EmotionClassifier([MODEL])


@pytest.fixture(scope="module")
def detector():
    return make_detector()


def make_detector():
    sizes = (live.detection_width, live.scale_factor, live.min_neighbors, live.smallest_face)
    return FaceDetector(find_cascade(live.cascade), *sizes)


@pytest.fixture(scope="module")
def drawn_frame():
    """(frame, true boxes) of two people side by side."""
    capture = DrawnFaceCapture(identities=(Identity(), Identity()))
    return capture.read()[1], capture.boxes


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A photograph of a smiling woman, Eileen Collins, from scikit-image."""
    data = pytest.importorskip("skimage.data", reason="the photograph comes with scikit-image")
    path = tmp_path_factory.mktemp("photograph") / "astronaut.png"
    cv2.imwrite(str(path), data.astronaut()[..., ::-1])
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video of 30 frames at 15 per second: a neutral drawn face, then a happy one."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    capture = DrawnFaceCapture(fps=15, hold=1.0, blend=0.2, order=("neutral", "happy"), frames=30)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 15, (640, 480))
    for _ in range(30):
        writer.write(capture.read()[1])
    writer.release()
    return path


def run(*arguments):
    """The exit status of the script with these arguments."""
    return exit_status(live.main, [str(argument) for argument in arguments])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def overlap(box, other):
    """Intersection over union."""
    both = live._overlap(box, other)
    return both / (box[2] * box[3] + other[2] * other[3] - both)


# ---------------------------------------------------------------------------------------------- faces and emotions
def test_importing_the_script_imports_neither_tensorflow_nor_keras():
    code = "import sys, real_time_emotion_recognition; print({'keras', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_detector_finds_the_drawn_faces(detector, drawn_frame):
    frame, truth = drawn_frame
    found = detector(frame)
    assert found.shape == (2, 4) and found.dtype == int
    assert all(max(overlap(box, face) for box in found) > 0.7 for face in truth)


@pytest.mark.parametrize("shape", [(480, 640, 3), (48, 48, 3), (2000, 300, 3)])
def test_detector_gives_two_dimensions_where_there_is_no_face(detector, shape):
    assert detector(np.full(shape, 127, np.uint8)).shape == (0, 4)


def test_boxes_are_in_pixels_of_the_frame_whatever_its_size(drawn_frame):
    frame, truth = drawn_frame
    found = make_detector()(cv2.resize(frame, None, fx=2, fy=2))
    assert all(max(overlap(box, 2 * np.array(face)) for box in found) > 0.7 for face in truth)


def test_own_cascade_in_its_folder_comes_first(monkeypatch, tmp_path):
    own = tmp_path / "haarcascade_files" / live.cascade
    own.parent.mkdir()
    monkeypatch.setattr(face_tracking, "CASCADES", tmp_path / "haarcascade_files")
    assert find_cascade(live.cascade) == Path(cv2.data.haarcascades) / live.cascade
    own.write_text("mine")
    assert find_cascade(live.cascade) == own


def test_live_and_training_see_the_same_pixels_and_the_same_probabilities(classifier, detector, drawn_frame, tmp_path):
    """From a box in a frame to probabilities: the live path against the data loader and Keras."""
    frame, _ = drawn_frame
    boxes = detector(frame)
    for i, (x, y, w, h) in enumerate(boxes):
        folder = tmp_path / "train" / EMOTIONS[i]
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "face.png"), frame[y : y + h, x : x + w])
    faces, emotions = load_fer2013_data(tmp_path)["Training"]
    assert emotions.tolist() == [0, 1]
    np.testing.assert_array_equal(crop_faces(frame, boxes, (48, 48)), faces)

    network, _ = load_checkpoint(MODEL)
    wanted = network.predict(preprocess_images(faces), verbose=0)
    np.testing.assert_allclose(classifier(frame, boxes), wanted, atol=1e-4)


def test_a_box_that_leaves_the_frame_is_cut_off(classifier):
    frame = np.zeros((100, 100, 3), np.uint8)
    assert crop_faces(frame, np.array([[-10, -10, 40, 40], [80, 80, 40, 40]]), (48, 48)).shape == (2, 48, 48, 1)


def test_any_number_of_faces_at_once(classifier, drawn_frame):
    frame, truth = drawn_frame
    one = [classifier(frame, np.array([box])) for box in truth]
    np.testing.assert_allclose(classifier(frame, np.array(truth)), np.concatenate(one), atol=1e-6)
    assert classifier(frame, np.empty((0, 4), int)).shape == (0, 7)
    np.testing.assert_allclose(classifier(frame, np.array(truth * 3)).sum(axis=1), 1, atol=1e-5)


def test_several_models_are_averaged(classifier, drawn_frame, tmp_path):
    frame, truth = drawn_frame
    network, emotions = load_checkpoint(MODEL)
    network.set_weights([weight * 0.9 for weight in network.get_weights()])
    save_checkpoint(network, tmp_path / "other.hdf5", emotions)
    other = EmotionClassifier([tmp_path / "other.hdf5"])(frame, truth)
    both = EmotionClassifier([MODEL, tmp_path / "other.hdf5"])(frame, truth)
    assert np.abs(other - classifier(frame, truth)).max() > 0.01
    np.testing.assert_allclose(both, (other + classifier(frame, truth)) / 2, atol=1e-6)


def test_the_weights_that_come_with_the_project_come_compiled():
    compiled = compile_checkpoint(MODEL)
    assert compiled.parent == Path(MODEL).parent, "run: python -m models.checkpoint models/mini_XCEPTION.hdf5"


# ------------------------------------------------------------------------------------------------------------ memory
def test_smoothing_is_an_average_over_time():
    smooth = Smoother(time_constant=0.5)
    box = np.array([[10, 10, 50, 50]])
    smooth(box, np.array([[1.0, 0.0]]), 0.0)
    (face,) = smooth(box, np.array([[0.0, 1.0]]), 0.5)
    np.testing.assert_allclose(face.probabilities, [np.exp(-1), 1 - np.exp(-1)])
    (face,) = Smoother(0)(box, np.array([[0.2, 0.8]]), 1.0)
    np.testing.assert_allclose(face.probabilities, [0.2, 0.8])


def test_faces_keep_their_identity_while_they_pass_each_other():
    smooth, identities = Smoother(0), []
    for step in range(11):  # two people change sides, one further up
        left, right = [step * 40, 0, 100, 100], [400 - step * 40, 120, 100, 100]
        boxes = np.array([left, right] if step % 2 else [right, left])  # in whatever order they are found
        faces = {face.box: face.identity for face in smooth(boxes, np.ones((2, 7)) / 7, step / 10)}
        identities.append((faces[tuple(left)], faces[tuple(right)]))
    assert set(identities) == {identities[0]}


def test_a_face_out_of_sight_is_remembered_for_a_moment():
    smooth, nobody = Smoother(0.25), (np.empty((0, 4), int), np.empty((0, 2)))
    box, probabilities = np.array([[0, 0, 50, 50]]), np.array([[0.5, 0.5]])
    assert smooth(box, probabilities, 0.0)[0].identity == 0
    assert smooth(*nobody, 0.5) == []
    assert smooth(box, probabilities, 0.9)[0].identity == 0
    assert smooth(box, probabilities, 2.0)[0].identity == 1


# ----------------------------------------------------------------------------------------------------------- picture
@pytest.mark.parametrize("width, height", [(48, 48), (320, 240), (640, 480), (480, 640), (3840, 2160)])
def test_drawing_leaves_the_frame_alone_and_keeps_its_size(width, height):
    frame = np.full((height, width, 3), 100, np.uint8)
    side = min(width, height) // 3
    face = Face(0, (width - side, height - side // 2, side, side), np.eye(7)[3])
    picture = live.draw(frame, [face], EMOTIONS, note="30 fps")
    assert picture.shape == frame.shape and (frame == 100).all() and (picture != 100).any()


def test_a_frame_without_a_face_is_shown_as_it_is():
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    np.testing.assert_array_equal(live.draw(frame, [], EMOTIONS), frame)


def test_bars_are_as_long_as_the_probabilities():
    probabilities = np.array([0.5, 0.25, 0.25, 0, 0, 0, 0])
    picture = live.draw(np.zeros((480, 640, 3), np.uint8), [Face(0, (500, 300, 99, 99), probabilities)], EMOTIONS)
    panel = picture[:240, :320]
    lengths = [(panel == colour).all(axis=2).sum(axis=1).max() for colour in live.PALETTE]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=2) and lengths[1] == lengths[2] > 10


# ------------------------------------------------------------------------------------------------------- whole runs
def test_without_camera_and_display_the_drawn_face_is_recorded_and_named(monkeypatch, tmp_path, capfd):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setattr(live, "Live", no_camera)
    assert run() == 0
    told = capfd.readouterr()
    assert "no camera found: showing a drawn face (a drawing, no person)" in told.err and "no display" in told.err
    assert re.search(r"455 frames in .* 455 faces: ", told.out) and "drawn.mp4" in told.out

    table = rows(tmp_path / "output" / "drawn.csv")
    assert list(table[0]) == COLUMNS and {row["face"] for row in table} == {"0"}
    truth, named = DrawnFaceCapture(frames=455), {}
    for row in table:
        truth.read()
        assert sum(float(row[emotion]) for emotion in EMOTIONS) == pytest.approx(1, abs=1e-3)
        if truth.expected and float(row["time_s"]) % 2.6 > 1:  # the smoothing has forgotten the one before
            named.setdefault(truth.expected, set()).add(row["emotion"])
    right = {emotion for emotion, names in named.items() if names == {emotion}}
    assert right >= {"happy", "surprise", "neutral", "sad", "fear", "angry"}, named

    video = cv2.VideoCapture(str(tmp_path / "output" / "drawn.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (455, 25)


def no_camera(source):
    raise ValueError(f"camera {source} can't be opened")


def test_photograph(photograph, tmp_path):
    assert run("--source", photograph, "--headless", "--output", tmp_path / "a.png", "--csv", tmp_path / "a.csv") == 0
    (row,) = rows(tmp_path / "a.csv")
    assert row["emotion"] == "happy" and float(row["happy"]) > 0.6
    face = [int(row[name]) for name in ("x", "y", "width", "height")]
    assert overlap(face, (176, 66, 97, 97)) > 0.6
    assert cv2.imread(str(tmp_path / "a.png")).shape == (512, 512, 3)


def test_video_in_video_out(clip, tmp_path):
    assert run("--source", clip, "--headless", "--output", tmp_path / "a.mp4", "--csv", tmp_path / "a.csv") == 0
    table = rows(tmp_path / "a.csv")
    assert [int(row["frame"]) for row in table] == list(range(30))
    assert float(table[15]["time_s"]) == 1.0
    assert (table[10]["emotion"], table[-1]["emotion"]) == ("neutral", "happy")
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (30, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.mp4"]


def test_folder_of_images_goes_on_after_a_broken_one(photograph, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    shutil.copy(photograph, tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "in" / "c.jpg"), np.zeros((64, 64, 3), np.uint8))
    status = run("--source", tmp_path / "in", "--headless", "--output", tmp_path / "out", "--csv", tmp_path / "a.csv")
    assert status == 1
    told = capfd.readouterr()
    assert "b.png is not an image that can be read" in told.err
    assert re.search(r"^0 a.png: happy \d\d%\n1 c.jpg: no face found\n2 frames in .* 1 face: happy", told.out)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.jpg"]
    assert [row["frame"] for row in rows(tmp_path / "a.csv")] == ["0"]


def test_ctrl_c_ends_quietly_and_keeps_what_was_recorded(tmp_path):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--source", "drawn", "--headless", "--output", tmp_path / "a.avi"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and sum(path.stat().st_size for path in tmp_path.glob(".a.*")) < 100_000:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in told, told
    assert 0 < cv2.VideoCapture(str(tmp_path / "a.avi")).get(cv2.CAP_PROP_FRAME_COUNT) < 455
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]


# ------------------------------------------------------------------------------------------------------------ camera
class FakeCamera:
    """Gives numbered frames like `cv2.VideoCapture`, then nothing more."""

    def __init__(self, frames, opened=True):
        self.left, self.opened, self.released = list(range(frames)), opened, False

    def isOpened(self):  # noqa: N802
        return self.opened

    def read(self):
        time.sleep(0.01)
        return (True, np.full((48, 64, 3), self.left.pop(0), np.uint8)) if self.left else (False, None)

    def release(self):
        self.released = True


def test_camera_gives_its_newest_frame_then_says_that_it_stopped():
    camera, seen = FakeCamera(20), []
    with (
        pytest.raises(live.SourceLost, match=r"camera 3 stopped delivering after \d+ frames"),
        live.Live(3, lambda source: camera, patience=0.3) as frames,
    ):
        for frame in frames:
            seen.append(int(frame.image[0, 0, 0]))
            time.sleep(0.03)  # slower than the camera
    assert seen == sorted(set(seen)) and seen[-1] == 19 and len(seen) < 20 and camera.released


def test_camera_that_delivers_nothing_is_one_line(monkeypatch, capfd, tmp_path):
    opened = live.Live
    monkeypatch.setattr(live, "Live", lambda source: opened(source, lambda source: FakeCamera(0), patience=0.2))
    assert run("--source", 0, "--headless", "--csv", tmp_path / "a.csv", "--output", tmp_path / "a.mp4") == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "camera 0 stopped delivering after 0 frames" in told
    assert not list(tmp_path.iterdir())


def test_grey_camera():
    assert (
        live._as_bgr(np.zeros((4, 4), np.uint8)).shape == live._as_bgr(np.zeros((4, 4, 1), np.uint8)).shape == (4, 4, 3)
    )


# --------------------------------------------------------------------------------------------------------- bad input
def damaged(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


BAD_INPUT = {
    "camera out of range": (["--source", "99"], "camera 99 can't be opened"),
    "empty name": (["--source", ""], "found an empty name"),
    "missing file": (["--source", "nowhere.mp4"], "nothing at nowhere.mp4"),
    "empty video": (["--source", damaged("a.mp4", b"")], "a.mp4 is empty"),
    "damaged video": (
        ["--source", damaged("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(999))],
        "not a video that can be read",
    ),
    "not a video": (["--source", damaged("a.txt", b"hello")], "not a video that can be read"),
    "empty image": (["--source", damaged("a.png", b"")], "a.png is empty"),
    "damaged image": (["--source", damaged("a.jpg", b"\xff\xd8\xff\xe0" + bytes(99))], "not an image that can be read"),
    "no such stream": (["--source", "rtsp://127.0.0.1:9/none"], "can't be opened: check the address"),
    "missing cascade": (["--cascade", "nowhere.xml"], "no cascade nowhere.xml"),
    "broken cascade": (["--cascade", damaged("c.xml", b"<opencv_storage><a/></opencv_storage>")], "not a Haar cascade"),
    "no xml": (["--cascade", damaged("c.xml", b"hello")], "not a Haar cascade"),
    "missing model": (["--model", "nowhere.hdf5"], "no checkpoint at nowhere.hdf5"),
    "truncated model": (["--model", damaged("m.hdf5", Path(MODEL).read_bytes()[:9999])], "not a whole HDF5 file"),
    "foreign model": (["--model", damaged("m.onnx", b"?")], "a model is a Keras checkpoint, .hdf5 or .h5"),
    "output for a picture": (["--output", "a.png"], "a video is written as .mp4, .mkv, .avi"),
    "unknown extension": (["--output", "a.docx"], "a video is written as .mp4, .mkv, .avi"),
    "unwritable output": (["--output", "/dev/null/a.mp4"], "/dev/null"),
    "unwritable csv": (["--csv", "/dev/null/a.csv"], "/dev/null"),
    "smoothing": (["--smoothing", "-1"], "must be 0 or more seconds; found -1"),
}


@pytest.mark.parametrize("arguments, message", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(arguments, message, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = [argument(tmp_path) if callable(argument) else argument for argument in arguments]
    before = set(tmp_path.iterdir())
    defaults = {"--source": "drawn", "--csv": tmp_path / "x.csv"}
    for name, value in defaults.items():
        arguments += [] if name in arguments else [name, value]
    try:
        status = run("--headless", *arguments)
    except SystemExit as ended:  # argparse
        status = ended.code
    told = capfd.readouterr().err.replace("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n", "")
    assert status == 2, told
    errors = [line for line in told.splitlines() if "error:" in line]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in told, told
    assert not told.startswith("error:") or told.count("\n") == 1, told
    assert set(tmp_path.iterdir()) == before


def test_opencv_5_gets_one_line(monkeypatch, capfd):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    assert run("--source", "drawn", "--headless") == 2
    assert 'install OpenCV 4: pip install "opencv-python>=4.12,<5"' in capfd.readouterr().err


def test_what_is_read_is_never_overwritten(clip, photograph, tmp_path, capfd):
    folder, model = photograph.parent, tmp_path / "mine.hdf5"
    shutil.copy(MODEL, model)
    before = {path: path.read_bytes() for path in (clip, photograph, model)}
    for flag in ("--output", "--csv"):
        for source, target in ((clip, clip), (photograph, photograph), (folder, folder), (folder, photograph)):
            assert run("--source", source, "--headless", flag, target) == 2
            assert f"{flag} would overwrite {target}" in capfd.readouterr().err
        assert run("--source", clip, "--headless", "--model", model, flag, model) == 2
        assert f"{flag} would overwrite {model}" in capfd.readouterr().err
    assert run("--source", clip, "--headless", "--output", tmp_path / "a.mp4", "--csv", tmp_path / "a.mp4") == 2
    assert "--output and --csv are two files" in capfd.readouterr().err and not (tmp_path / "a.mp4").exists()
    assert {path: path.read_bytes() for path in before} == before


# ------------------------------------------------------------------------------------------------------------ window
@pytest.fixture(scope="module")
def display():
    """A virtual screen of its own."""
    missing = [name for name in ("Xvfb", "xdotool") if not shutil.which(name)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install xvfb xdotool")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24"], pass_fds=[write], stderr=subprocess.DEVNULL
    )
    os.close(write)
    with open(read) as pipe:
        yield ":" + pipe.readline().strip()
    server.terminate()
    server.wait()


def ask_to_close(display, window):
    """What a window manager sends when its close button is pressed."""
    connection = Xlib.display.Display(display)
    names = [connection.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW")]
    target = connection.create_resource_object("window", window)
    target.send_event(ClientMessage(window=target, client_type=names[0], data=(32, [names[1], 0, 0, 0, 0])))
    connection.sync()
    connection.close()


@pytest.mark.parametrize("ending", ["q", "Escape", "close"])
def test_a_real_window_shows_the_faces_until_the_user_ends_it(display, ending, tmp_path):
    environment = os.environ | {"DISPLAY": display}
    environment.pop("WAYLAND_DISPLAY", None)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--source", "drawn", "--csv", tmp_path / "a.csv"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def xdotool(*arguments):
        return subprocess.run(["xdotool", *arguments], env=environment, capture_output=True, text=True).stdout.strip()

    window = xdotool("search", "--sync", "--onlyvisible", "--name", re.escape(live.TITLE)).splitlines()[0]
    time.sleep(1)
    assert process.poll() is None
    if ending == "close":
        ask_to_close(display, int(window))
    else:
        xdotool("key", "--window", window, ending)
    out, told = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert re.match(r"\d+ frames", out)
    named = [row["emotion"] for row in rows(tmp_path / "a.csv")]
    assert max(set(named), key=named.count) == "neutral"  # the first of the seven


@pytest.mark.parametrize("address", ["", ":4711", "nonsense", "127.0.0.1:4711"])
def test_a_display_that_is_not_there_is_found_out(monkeypatch, address):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", address)
    assert not live.has_display()
