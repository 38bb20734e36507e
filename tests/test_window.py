"""Tests of the window: its keys and its mouse, on a made-up screen and on a real one."""

import contextlib
import csv
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import Xlib.display
from Xlib.protocol.event import ClientMessage

import real_time_emotion_recognition as live
from command_line import exit_status
from drawn_faces import DrawnFaceCapture, Identity
from load_and_process import EMOTIONS
from recognition import sources, window
from recognition.annotation import Annotator
from recognition.recording import Summary
from recognition.sources import Frame, Stills
from recognition.tracking import Face
from recognition.window import View

SCRIPT = Path(live.__file__)


def run(*arguments):
    """Return the exit status of the script with these arguments."""
    return exit_status(live.main, [str(argument) for argument in arguments])


KEYS = {"left": 0xFF51, "right": 0x10FF53}  # with a bit for num lock


# ----------------------------------------------------------------------------------------------------------
# Is there a display?


@pytest.mark.parametrize("address", ["", ":4711", "nonsense", "127.0.0.1:4711"])
def test_a_display_that_is_not_there_is_found_out(monkeypatch, address):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", address)
    assert not window.has_display()


@pytest.mark.parametrize(("plugins", "found"), [(["libqxcb.so"], False), (["libqwayland.so"], True), (None, True)])
def test_wayland_needs_an_opencv_that_knows_it(monkeypatch, tmp_path, plugins, found):
    """OpenCV's wheel ends the process where there is Wayland alone."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.setenv("QT_QPA_PLATFORM", "wayland")
    monkeypatch.setattr(cv2, "__file__", str(tmp_path / "__init__.py"))
    for name in plugins or ():
        (tmp_path / "qt" / "plugins" / "platforms").mkdir(parents=True)
        (tmp_path / "qt" / "plugins" / "platforms" / name).touch()
    assert window.has_display() is found
    assert os.environ["QT_QPA_PLATFORM"] == ("wayland" if found else "xcb")


# ----------------------------------------------------------------------------------------------------------
# On a made-up screen


@pytest.fixture
def screen(monkeypatch):
    """A window without a display: `pictures` that it showed, its `sizes`, and `keys` to be pressed, one a picture."""
    screen = SimpleNamespace(pictures=[], sizes=[], keys=[])
    monkeypatch.setattr(window, "has_display", lambda: True)
    for name in ("namedWindow", "setMouseCallback", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *arguments: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *arguments: 1.0)
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, *size: screen.sizes.append(size))
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: screen.pictures.append(picture))

    def wait_key(milliseconds):
        time.sleep(milliseconds / 1000)
        return KEYS.get(key := screen.keys.pop(0)) or ord(key) if screen.keys else -1

    monkeypatch.setattr(cv2, "waitKeyEx", wait_key)
    return screen


def test_camera_that_is_silent_from_the_start_has_keys(monkeypatch, connect_camera, capfd, tmp_path, screen):
    monkeypatch.setattr(sources, "SILENCE", 0.05)
    monkeypatch.setattr(live, "ROOT", tmp_path)
    connect_camera([], patience=30)
    screen.keys[:] = ["h", "s", "r", "?", "q"]
    assert run("--source", 0, "--output", tmp_path / "a.mp4", "--csv", tmp_path / "a.csv") == 0
    told = capfd.readouterr()
    assert told.out == "no frames\n" and "error" not in told.err
    first, last = screen.pictures[0], screen.pictures[-1]
    assert first.shape == (480, 640, 3) and (first[:400] == 40).all() and (first[440:, :300] > 200).any()  # the note
    assert (last[100:300] > 200).any()  # the keys
    assert not list(tmp_path.iterdir())


def test_window_fits_the_first_picture_of_a_camera_that_was_silent(monkeypatch, connect_camera, screen):
    monkeypatch.setattr(sources, "SILENCE", 0.05)
    connect_camera([None] * 20 + [np.full((720, 1280, 3), 99, np.uint8)] * 500, patience=30)
    screen.keys[:] = ["\xff"] * 60 + ["q"]
    assert run("--source", 0) == 0
    assert [picture.shape[1] for picture in screen.pictures][:: len(screen.pictures) - 1] == [640, 1280]
    assert screen.sizes == [(640, 480), (1280, 720)]


def test_window_takes_the_shape_of_each_photograph(screen, tmp_path):
    shown = window.Window(Annotator(EMOTIONS), tmp_path)
    for height, width in ((480, 640), (480, 640), (800, 640), (400, 1280)):
        shown._present(np.zeros((height, width, 3), np.uint8))
    assert screen.sizes == [(640, 480), (640, 800), (1280, 400)]


def test_arrow_keys_go_through_photographs_and_record_each_once(screen, tmp_path, capfd):
    for number in range(4):
        image = np.full((240, 320, 3), 60 * number, np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), image)
    (tmp_path / "in" / "2.png").write_bytes(b"damaged")
    screen.keys[:] = ["left", "right", "right", "right", "left", "left", "left", *["\xff"] * 3, "q"]
    assert run("--source", tmp_path / "in", "--output", tmp_path / "out") == 1
    told = capfd.readouterr()
    assert [line[:7] for line in told.out.splitlines()[:3]] == ["0 0.png", "1 1.png", "2 3.png"]
    assert re.search(r"\n3 images in", told.out) and told.err.count("2.png is not an image") == 1
    shown = [round(picture[5, 5, 0] / 60) for picture in screen.pictures]
    assert [a for a, b in zip(shown, [None, *shown], strict=False) if a != b] == [0, 1, 3, 1, 0]
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("mirror", [False, True])
def test_a_click_in_a_photograph_with_a_margin_for_the_panel(screen, tmp_path, mirror):
    annotate = Annotator(EMOTIONS, mirror=mirror)
    boxes = [(160 * column + 10, 160 * row + 10, 140, 140) for row in range(3) for column in range(4)]
    faces = [Face(number, box, np.eye(7)[3]) for number, box in enumerate(boxes)]
    frames, shown = Stills([Path("a.png")]), window.Window(annotate, tmp_path)
    view = View(frames, None, annotate, Summary(EMOTIONS, frames.clock), shown)
    assert view.update(Frame(0, 0.0, np.zeros((480, 640, 3), np.uint8), "a.png"), faces).shape[1] > 640
    for seen in faces:
        x, y, w, h = seen.box
        shown._mouse(cv2.EVENT_LBUTTONDOWN, 639 - x - w // 2 if mirror else x + w // 2, y + h // 2, 0, None)
        shown._press("\xff", view)
        assert annotate.chosen(faces) is seen


def test_heat_maps_are_made_once_a_frame_however_often_it_is_drawn(drawn_frame):
    image, boxes = drawn_frame
    asked, annotate = [], Annotator(EMOTIONS, heat_map=True)

    class Classifier:
        def heat_maps(self, image, boxes, labels, rolls):
            asked.append(list(labels))
            return np.ones((len(boxes), 4, 4))

    faces = [Face(0, tuple(int(side) for side in boxes[0]), np.eye(7)[3])]
    frames = Stills([Path("a.png")])
    view = View(frames, Classifier(), annotate, Summary(EMOTIONS, frames.clock))
    hot = view.update(Frame(0, 0.0, image, "a.png"), faces)
    assert (view.draw() == hot).all() and asked == [[3]]
    annotate.heat_map = False
    assert (view.draw() != hot).any() and asked == [[3]]
    annotate.heat_map = True
    view.update(Frame(1, 1.0, image, "b.png"), [faces[0]._replace(probabilities=np.eye(7)[4])])
    assert asked == [[3], [4]]


def test_nobody_waits_for_the_heat_maps_of_a_video(drawn_frame):
    image, boxes = drawn_frame
    go, faces = (
        threading.Event(),
        [Face(number, tuple(map(int, box)), np.eye(7)[3]) for number, box in enumerate(boxes)],
    )

    class Classifier:
        def clone(self):
            return self

        def heat_maps(self, image, boxes, labels, rolls):
            assert go.wait(120)
            return np.ones((len(boxes), 4, 4))

    find = window.BackgroundHeatMaps(Classifier())
    assert not np.any(find(image, faces)) and not np.any(find(image, faces))  # cold until they are made
    go.set()
    deadline = time.monotonic() + 120
    while not np.any(find(image, faces[:1])):
        assert time.monotonic() < deadline
    hot = find(image, [*faces, faces[0]._replace(identity=9)])
    assert [heat.max() for heat in hot] in ([1, 1, 0], [1, 0, 0])


def test_a_recording_ends_with_its_source(monkeypatch, clip, tmp_path, screen):
    monkeypatch.setattr(live, "ROOT", tmp_path)
    screen.keys[:] = ["\xff", "\xff", "r"]
    stop, ended = window.Window.stop_recording, []
    monkeypatch.setattr(window.Window, "stop_recording", lambda self: ended.append(self.recording) or stop(self))
    assert run("--source", clip, clip) == 0
    assert ended == [True, False, False]  # the first source, the second, the window
    (path,) = (tmp_path / "output").glob("recording-*.mp4")
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    assert 20 < count <= 30  # of the first clip's 30


def test_a_pause_counts_nowhere(monkeypatch, clip, capfd, screen):
    """The rest of a paused video keeps its pace, and the rate leaves the pause out."""
    now, shown_at = [0.0], []
    clock = sources.Clock.__init__
    monkeypatch.setattr(sources.Clock, "__init__", lambda self: clock(self, lambda: now[0]))

    def wait_key(milliseconds):
        now[0] += milliseconds / 1000
        if not shown_at or len(screen.pictures) > shown_at[-1][0]:
            shown_at.append((len(screen.pictures), now[0]))
        if len(screen.pictures) == 10 and not screen.keys:
            screen.keys[:] = [" ", *["\xff"] * 100, " "]
        return KEYS.get(key := screen.keys.pop(0)) or ord(key) if screen.keys else -1

    monkeypatch.setattr(cv2, "waitKeyEx", wait_key)
    assert run("--source", clip) == 0
    assert now[0] == pytest.approx(2.0 + 100 * 0.05, abs=0.3)  # 30 frames at 15 per second, and the pause
    assert re.match(r"30 frames in 2\.\d s \(1\d per second\)", capfd.readouterr().out)
    steps = np.diff([at for _, at in shown_at])
    assert sum(steps > 0.2) == 1  # one picture stayed, the others keep their pace


# ----------------------------------------------------------------------------------------------------------
# On a real screen


@pytest.fixture(scope="module")
def display():
    """A virtual screen of its own."""
    missing = [name for name in ("Xvfb", "xdotool") if not shutil.which(name)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{' and '.join(missing)} not installed: apt-get install xvfb xdotool")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-r", "-displayfd", str(write), "-screen", "0", "1280x900x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,  # -r: no key repeats itself
    )
    os.close(write)
    with open(read) as pipe:
        yield ":" + pipe.readline().strip()
    server.terminate()
    server.wait()


def ask_to_close(display, number):
    """What a window manager sends when its close button is pressed."""
    connection = Xlib.display.Display(display)
    names = [connection.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW")]
    target = connection.create_resource_object("window", number)
    target.send_event(ClientMessage(window=target, client_type=names[0], data=(32, [names[1], 0, 0, 0, 0])))
    connection.sync()
    connection.close()


@contextlib.contextmanager
def opened_window(display, folder, *arguments, before=""):
    """The running script, writing to a folder, after some code; what xdotool does with its window; its number."""
    environment = os.environ | {"DISPLAY": display}
    environment.pop("WAYLAND_DISPLAY", None)
    code = (
        "import sys; from pathlib import Path; import real_time_emotion_recognition as live; "
        f"live.ROOT = Path({str(folder)!r})\n{before}\nsys.exit(live.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": SCRIPT.parent}
    process = subprocess.Popen(command, env=environment, **pipes)

    def xdotool(*arguments):
        command = ["timeout", "120", "xdotool", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()

    try:
        number = xdotool("search", "--sync", "--onlyvisible", "--name", re.escape(window.TITLE)).splitlines()[0]
        time.sleep(1)
        assert process.poll() is None
        yield process, lambda action, *more: xdotool(action, "--window", number, *more), int(number)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("ending", ["q", "Escape", "close"])
def test_a_real_window_shows_the_faces_until_the_user_ends_it(display, ending, tmp_path):
    with opened_window(display, tmp_path, "--source", "drawn", "--csv", tmp_path / "a.csv") as (process, do, number):
        if ending == "close":
            ask_to_close(display, number)
        else:
            do("key", ending)
        out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert re.match(r"\d+ frames", out)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        named = [row["emotion"] for row in csv.DictReader(file) if float(row["time_s"]) < 2]
    assert max(set(named), key=named.count) == "neutral"  # the first of the seven


def test_a_real_window_of_a_silent_camera_can_be_closed(display, tmp_path):
    silent = (
        "from recognition import sources; from types import SimpleNamespace; "
        "sources.Live.__init__.__defaults__ = (lambda source: SimpleNamespace(isOpened=lambda: True, "
        "get=lambda name: 0, read=lambda: (False, None), release=int), 300.0)"
    )
    files = ["--output", tmp_path / "a.mp4", "--csv", tmp_path / "a.csv"]
    with opened_window(display, tmp_path, "--source", 0, *files, before=silent) as (process, do, _):
        do("key", "q")
        out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "no frames\n"), told
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """A video of two drawn faces, the same expression on both."""
    path = tmp_path_factory.mktemp("two") / "two.avi"
    capture = DrawnFaceCapture(frames=500, hold=20.0, identities=(Identity(), Identity()))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (640, 480))
    for _ in range(500):
        writer.write(capture.read()[1])
    writer.release()
    return path


def test_keys_and_mouse(display, two_people, tmp_path):
    with opened_window(display, tmp_path, "--source", two_people) as (process, do, _):

        def snapshot():
            count = len(list(tmp_path.glob("output/snapshot*.png"))) + 1
            do("key", "s")
            deadline = time.monotonic() + 120
            while len(found := sorted(tmp_path.glob("output/snapshot*.png"), key=os.path.getmtime)) < count:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            time.sleep(0.1)
            return cv2.imread(str(found[-1]))[:430].astype(int)  # without the note

        def press(*keys):  # OpenCV keeps one key at a time
            for key in keys:
                do("key", key)
                time.sleep(0.4)

        def toggle(key):
            """Press a key that changes the paused picture; once more if OpenCV lost it. The picture then."""
            before = snapshot()
            for _ in range(5):
                press(key)
                if ((after := snapshot()) != before).any():
                    return after
            raise AssertionError(f"{key} changed nothing")

        def assert_same(picture, other):  # the bars may have changed their corner
            np.testing.assert_array_equal(picture[:, 215:425], other[:, 215:425])

        def click(x, y):
            do("mousemove", x, y)
            do("click", 1)
            time.sleep(0.3)

        def record(starts):
            """Press r, and wait until a recording has begun or ended."""
            do("key", "r")
            deadline = time.monotonic() + 120
            while any(tmp_path.glob("output/*.unfinished.*")) != starts:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)

        press("space")
        paused, again = snapshot(), snapshot()
        np.testing.assert_array_equal(paused, again)
        click(480, 300)
        right = snapshot()
        click(160, 300)
        left = snapshot()
        assert (left != right).any()  # another face's bars
        assert_same(toggle("Tab"), right)
        assert_same(toggle("Tab"), left)
        assert (toggle("h") != left).any(axis=2)[200:350, 60:580].mean() > 0.2
        assert_same(toggle("h"), left)
        mirrored = toggle("m")
        assert np.abs(mirrored[20:60, ::-1] - left[20:60])[:, 290:350].mean() < 3 < np.abs(mirrored - left).mean()
        assert_same(toggle("m"), left)
        helped = (toggle("question") != left).any(axis=2)
        assert helped.mean() > 0.05  # a part of the text is below
        assert not helped[250:320, 120:200].any() and not helped[250:320, 440:520].any()  # it lies on no face
        assert_same(toggle("question"), left)
        record(True)
        record(False)  # while it is paused: a video of one frame
        press("space")
        record(True)
        time.sleep(1.5)
        record(False)
        assert (snapshot() != left).any()
        do("key", "q")
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in told and told.count("recording saved") == 2, told
    recordings = sorted(tmp_path.glob("output/recording*.mp4"), key=os.path.getmtime)
    counts = [cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) for path in recordings]
    assert len(counts) == 2 and counts[0] == 1 and counts[1] > 3
    assert not list(tmp_path.glob("output/.*"))
