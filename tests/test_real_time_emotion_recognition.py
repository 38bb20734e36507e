"""Tests of the live script as it is run: its files, its flags, and all that goes wrong; its window: see test_window."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import real_time_emotion_recognition as live
from command_line import UserError, exit_status
from drawn_faces import DrawnFaceCapture, draw_dataset
from load_and_process import EMOTIONS, preprocess_images
from recognition import recognizer, sources
from recognition.tracking import Smoother

SCRIPT = Path(live.__file__)
MODEL = str(SCRIPT.parent / "models" / "mini_XCEPTION.hdf5")
COLUMNS = ["frame", "time_s", "face", "x", "y", "width", "height", "emotion", *EMOTIONS]


def run(*arguments):
    """The exit status of the script with these arguments."""
    return exit_status(live.main, [str(argument) for argument in arguments])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def overlap(box, other):
    """Intersection over union."""
    (x, y, w, h), (u, v, s, t) = box, other
    both = max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))
    return both / (box[2] * box[3] + other[2] * other[3] - both)


# ----------------------------------------------------------------------------------------------------------
# Importing


def test_neither_importing_nor_running_imports_tensorflow_or_keras(photograph, tmp_path):
    parts = [f"recognition.{path.stem}" for path in SCRIPT.parent.glob("recognition/*.py")]
    modules = ["real_time_emotion_recognition", *parts]
    code = (
        "import importlib, sys\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch', 'pandas', 'matplotlib', 'sklearn'}\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print(heavy & set(sys.modules))\n"
        "import real_time_emotion_recognition as live\n"
        f"status = live.main(['--source', {str(photograph)!r}, '--headless', '--csv', {str(tmp_path / 'a.csv')!r}])\n"
        "print(status, heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(modules) > 6 and (lines[0], lines[-1]) == ("set()", "0 set()"), done.stderr


# ----------------------------------------------------------------------------------------------------------
# Whole runs


def test_without_camera_and_display_the_drawn_face_is_recorded_and_named(monkeypatch, tmp_path, capfd):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "Live", no_camera)
    assert run() == 0
    told = capfd.readouterr()
    assert "no camera found: showing a drawn face (a drawing, no person)" in told.err and "no display" in told.err
    assert re.search(r"455 frames in .* 1 face: ", told.out) and "drawn.mp4" in told.out

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
    raise UserError(f"camera {source} can't be opened")


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
    assert re.search(r"^0 a.png: happy \d\d%\n1 c.jpg: no face found\n2 images in .* 1 face: happy", told.out)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.jpg"]
    assert [row["frame"] for row in rows(tmp_path / "a.csv")] == ["0"]


def test_pictures_of_kinds_that_are_only_read_are_written_as_png(photograph, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.imread(str(photograph)))
    (tmp_path / "in").mkdir()
    (tmp_path / "a.jpg").rename(tmp_path / "in" / "a.JFIF")
    flags = ["--headless", "--output", tmp_path / "out", "--explain", tmp_path / "why"]
    assert run("--source", tmp_path / "in", *flags) == 0
    for folder in ("out", "why"):
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["a.JFIF.png"]


def test_several_sources_are_worked_through_and_a_broken_one_is_told(photograph, clip, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    shutil.copy(clip, tmp_path / "in" / "clip.avi")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    sources = [clip, photograph, tmp_path / "in"]
    flags = ["--headless", "--output", out, "--csv", out]
    assert run("--source", *sources, *flags) == 1
    told = capfd.readouterr()
    faults = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(faults) == 1 and "bad.mp4 is not a video" in faults[0]
    names = ["astronaut.csv", "astronaut.png", "clip-2.csv", "clip-2.mp4", "clip.csv", "clip.mp4"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert rows(out / "clip.csv") == rows(out / "clip-2.csv") and len(rows(out / "clip.csv")) == 30
    assert "clip: 30 frames" in told.out and "astronaut: 1 image" in told.out

    assert run("--source", clip, photograph, "--headless", "--csv", tmp_path / "a.csv") == 2
    assert capfd.readouterr().err.count("of several sources, --csv names a folder") == 1


@pytest.mark.parametrize("missing", ["nowhere.mp4", "nobody.png"])
def test_a_missing_source_is_told_before_the_others_are_worked_through(clip, photograph, tmp_path, capfd, missing):
    assert run("--source", clip, photograph, missing, "--headless", "--output", tmp_path / "out") == 2
    assert capfd.readouterr().err.splitlines()[-1].endswith(f"nothing at {missing}")
    assert not (tmp_path / "out").exists()


def test_no_source_is_overwritten_by_what_is_made_of_another(clip, photograph, tmp_path, capfd):
    for name in ("one.avi", "One.mp4"):
        shutil.copy(clip, tmp_path / name)
    before = (tmp_path / "One.mp4").read_bytes()
    flags = ["--timeline", tmp_path, "--explain", tmp_path]
    assert run("--source", tmp_path, photograph, "--headless", "--output", tmp_path, *flags) == 0
    assert (tmp_path / "One.mp4").read_bytes() == before
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"One.mp4", "One-2.mp4", "one.avi", "astronaut.png", "astronaut.explained.png"} and len(made) == 8


def test_several_images_are_one_source(photograph, tmp_path, capfd):
    for name in ("a.png", "b.png"):
        shutil.copy(photograph, tmp_path / name)
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    flags = ["--headless", "--output", tmp_path / "out", "--csv", tmp_path / "a.csv"]
    assert run("--source", *images, *flags) == 0
    assert [row["frame"] for row in rows(tmp_path / "a.csv")] == ["0", "1"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    (tmp_path / "more").mkdir()
    shutil.copy(photograph, tmp_path / "more" / "a.png")
    assert run("--source", *images, tmp_path / "more" / "a.png", *flags) == 2
    assert "two are called a.png" in capfd.readouterr().err


def test_nothing_to_explain_is_told(tmp_path, capfd):
    cv2.imwrite(str(tmp_path / "nobody.png"), np.full((200, 200), 99, np.uint8))
    assert run("--source", tmp_path / "nobody.png", "--headless", "--explain", tmp_path / "a.png") == 0
    assert capfd.readouterr().err == "notice: no face in nobody.png, so nothing to explain\n"
    assert not (tmp_path / "a.png").exists()
    (tmp_path / "a.png").write_text("of an earlier run")
    assert run("--source", tmp_path / "nobody.png", "--headless", "--explain", tmp_path / "a.png") == 0
    assert "written" not in capfd.readouterr().out and (tmp_path / "a.png").read_text() == "of an earlier run"


def test_explanation_of_a_photograph(photograph, tmp_path, capfd):
    assert run("--source", photograph, "--headless", "--explain", tmp_path / "a.png", "--language", "fr") == 0
    assert "astronaut.png: joie" in capfd.readouterr().out
    picture = cv2.imread(str(tmp_path / "a.png"))
    face, hot = picture[:256, :256].astype(int), picture[:256, 256:512].astype(int)
    assert picture.shape[0] == 256 and np.abs(face - hot).mean() > 5 and picture.shape[1] > 700


def test_timeline_and_heat_maps_of_a_video(clip, tmp_path):
    flags = ["--headless", "--timeline", tmp_path / "t.png", "--output"]
    assert run("--source", clip, *flags, tmp_path / "plain.avi") == 0
    assert run("--source", clip, *flags, tmp_path / "hot.avi", "--heatmap") == 0
    assert cv2.imread(str(tmp_path / "t.png")).shape[1] == 1440
    plain, hot = (cv2.VideoCapture(str(tmp_path / f"{name}.avi")).read()[1].astype(int) for name in ("plain", "hot"))
    assert np.abs(plain - hot).max() > 50


def test_mirror_turns_the_picture_and_not_the_csv(clip, tmp_path):
    for name, flags in (("plain", []), ("mirror", ["--mirror"])):
        files = ["--output", tmp_path / f"{name}.avi", "--csv", tmp_path / f"{name}.csv"]
        assert run("--source", clip, "--headless", *files, *flags) == 0
    assert rows(tmp_path / "plain.csv") == rows(tmp_path / "mirror.csv")
    frames = [cv2.VideoCapture(str(tmp_path / f"{name}.avi")).read()[1] for name in ("plain", "mirror")]
    above = [frame[:60, :, 0].astype(int) for frame in frames]  # above the label and the panel
    assert np.abs(above[0][:, ::-1] - above[1]).mean() < 3 < np.abs(above[0] - above[1]).mean()


def test_ctrl_c_ends_quietly_and_keeps_what_was_recorded(tmp_path):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--source", "drawn", "--headless", "--output", tmp_path / "a.avi"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and sum(path.stat().st_size for path in tmp_path.glob("a.avi.*")) < 100_000:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in told, told
    assert 0 < cv2.VideoCapture(str(tmp_path / "a.avi")).get(cv2.CAP_PROP_FRAME_COUNT) < 455
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]


# ----------------------------------------------------------------------------------------------------------
# Camera


def test_camera_that_delivers_nothing_is_one_line(connect_camera, capfd, tmp_path):
    connect_camera([], patience=0.2)
    assert run("--source", 0, "--headless", "--csv", tmp_path / "a.csv", "--output", tmp_path / "a.mp4") == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "camera 0 stopped delivering after 0 frames" in told
    assert not list(tmp_path.iterdir())


def test_camera_that_falls_silent_is_one_line_and_keeps_what_came(connect_camera, capfd, tmp_path):
    connect_camera([DrawnFaceCapture().read()[1]] * 30, patience=0.3)
    assert run("--source", 0, "--headless", "--csv", tmp_path / "a.csv", "--output", tmp_path / "a.mp4") == 2
    told = capfd.readouterr()
    (line,) = [line for line in told.err.splitlines() if not line.startswith("INFO: ")]
    assert re.match(r"error: camera 0 stopped delivering after \d+ frames: no other came for 0.3 seconds", line)
    assert "a.csv" in told.out and "a.mp4" in told.out and "1 face: neutral" in told.out
    assert {row["face"] for row in rows(tmp_path / "a.csv")} == {"0"}
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[0]
    assert len(list(tmp_path.iterdir())) == 2


# ----------------------------------------------------------------------------------------------------------
# Flags


@pytest.mark.parametrize("flags, flip", [([], False), (["--flip"], True)])
def test_flip_reaches_the_classifier(flags, flip, monkeypatch, photograph, tmp_path):
    built, build = [], recognizer.EmotionClassifier
    monkeypatch.setattr(recognizer, "EmotionClassifier", lambda *arguments: built.append(build(*arguments)) or built[0])
    assert run("--source", photograph, "--headless", "--csv", tmp_path / "a.csv", *flags) == 0
    assert [classify.flip for classify in built] == [flip]
    (row,) = rows(tmp_path / "a.csv")
    box = [int(row[name]) for name in ("x", "y", "width", "height")]
    image = cv2.imread(str(photograph))
    expected = build(live.parse_args([]).model, flip)(image, [box])[0]
    other = build(live.parse_args([]).model, not flip)(image, [box])[0]
    named = [float(row[emotion]) for emotion in EMOTIONS]
    assert named == pytest.approx(expected, abs=1e-3) and named != pytest.approx(other, abs=1e-3)


def test_images_that_are_faces_already(tmp_path, capfd):
    """Small faces without surroundings, of which a detector finds few, are named as in the evaluation."""
    faces, emotions = draw_dataset(seed=1, per_emotion={"PrivateTest": 1})["PrivateTest"]
    for number, face in enumerate(faces):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), face)
    assert run("--source", tmp_path, "--headless", "--cropped", "--csv", tmp_path / "a.csv") == 0
    table = rows(tmp_path / "a.csv")
    assert [(row["frame"], row["face"], row["width"], row["x"]) for row in table] == [
        (str(number), "0", "48", "0") for number in range(len(faces))
    ]
    expected = recognizer.EmotionClassifier(live.model).predict(preprocess_images(faces))
    for row, probabilities in zip(table, expected, strict=True):
        assert [float(row[emotion]) for emotion in EMOTIONS] == pytest.approx(probabilities, abs=1e-3)
    assert "no face found" not in capfd.readouterr().out


def test_libraries_do_not_write_around_our_lines(photograph, clip, tmp_path):
    """In a process of its own, because compiled libraries write to its standard error."""
    png, avi = photograph.read_bytes(), clip.read_bytes()
    (tmp_path / "a.png").write_bytes(png[: len(png) // 2])  # libpng tells
    cv2.imwrite(str(tmp_path / "b.jpg"), cv2.imread(str(photograph)))
    jpg = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(jpg[:9000] + bytes(99) + jpg[9999:])  # libjpeg tells
    (tmp_path / "c.avi").write_bytes(avi[: len(avi) // 2])
    command = [sys.executable, SCRIPT, "--source", tmp_path, "--headless"]
    done = subprocess.run(command, capture_output=True, text=True)
    ours = re.compile(r"error: |notice: |c ends after|.*is not an image|.*c.avi ends after")
    assert done.returncode == 1 and done.stderr
    assert all(ours.match(line) for line in done.stderr.splitlines()), done.stderr


def test_uncertain_below_reaches_the_label(photograph, tmp_path, capfd):
    flags = ["--source", photograph, "--headless", "--output", tmp_path / "a.png"]
    assert run(*flags) == 0 and "astronaut.png: happy" in capfd.readouterr().out
    assert run(*flags, "--uncertain-below", 1.01) == 0 and "astronaut.png: uncertain" in capfd.readouterr().out


SETTINGS_OF_DETECTION = {
    "--detection-side": 99, "--scale-factor": 1.5, "--min-neighbors": 3, "--smallest-face": 0.2,
    "--still-detection-side": 555, "--still-scale-factor": 1.4, "--still-smallest-face": 0.15,
}  # fmt: skip


@pytest.mark.parametrize("still", [False, True])
def test_the_settings_of_detection_reach_the_detector(monkeypatch, clip, photograph, tmp_path, still):
    built, build = [], recognizer.open_detector
    monkeypatch.setattr(
        recognizer, "open_detector", lambda *arguments: built.append(arguments[1:]) or build(*arguments)
    )
    flags = [text for pair in SETTINGS_OF_DETECTION.items() for text in pair]
    assert run("--source", photograph if still else clip, "--headless", "--csv", tmp_path / "a.csv", *flags) == 0
    assert built == [(True, 555, 1.4, 3, 0.15) if still else (False, 99, 1.5, 3, 0.2)]


def test_smoothing_reaches_the_smoother(monkeypatch, clip, photograph, tmp_path):
    built = []
    monkeypatch.setattr(recognizer, "Smoother", lambda *settings: built.append(settings) or Smoother(*settings))
    flags = ["--smoothing", 0.5, "--label-lead", 0.2, "--uncertain-below", 0.3]
    for source in (clip, photograph):  # images have no time between them
        assert run("--source", source, "--headless", "--csv", tmp_path / "a.csv", *flags) == 0
    assert built == [(0.5, 0.2, 0.3), (0, 0, 0.3)]


def test_every_setting_is_a_flag_of_the_same_name():
    text = SCRIPT.read_text(encoding="utf-8")
    block = text[text.index("# fmt: off") : text.index("# fmt: on")]
    settings = re.findall(r"^(\w+) = ", block, re.MULTILINE)
    args = live.parse_args([])
    assert len(settings) == 26 and set(vars(args)) == set(settings)
    assert all(getattr(args, name) == getattr(live, name) for name in settings)


# ----------------------------------------------------------------------------------------------------------
# Bad input


def damaged(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def without_network(folder):
    """An HDF5 file of something else."""
    with h5py.File(folder / "m.hdf5", "w") as file:
        file["faces"] = np.zeros(3)
        file.attrs["author"] = "somebody"
    return folder / "m.hdf5"


def redescribed(change):
    """A checkpoint after `change`, which takes its open file."""

    def make(folder):
        shutil.copy(MODEL, folder / "m.hdf5")
        with h5py.File(folder / "m.hdf5", "r+") as file:
            change(file)
        return folder / "m.hdf5"

    return make


def with_eight_emotions(file):
    file.attrs["emotions"] = json.dumps([*EMOTIONS, "contempt"])


def with_code(file):
    config = json.loads(file.attrs["model_config"])
    config["config"]["layers"].append({"class_name": "Lambda", "config": {"name": "mine", "function": ["4wEA"]}})
    file.attrs["model_config"] = json.dumps(config)


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
    "model without a network": (["--model", without_network], "m.hdf5 holds no Keras network"),
    "model of other emotions": (["--model", redescribed(with_eight_emotions)], "m.hdf5 has 7, and has the names of 8"),
    "model with code": (["--model", redescribed(with_code)], "m.hdf5 carries code in a Lambda layer"),
    "foreign model": (["--model", damaged("m.onnx", b"?")], "a model is a Keras checkpoint, .keras, .hdf5 or .h5"),
    "output for a picture": (["--output", "a.png"], "a video is written as .mp4, .mkv, .avi"),
    "unknown extension": (["--output", "a.docx"], "a video is written as .mp4, .mkv, .avi"),
    "unwritable output": (["--output", "/dev/null/a.mp4"], "/dev/null"),
    "unwritable csv": (["--csv", "/dev/null/a.csv"], "/dev/null"),
    "csv without a name": (["--csv", ""], ". can't be written (it is a folder)"),
    "video explained": (["--explain", "a.png"], "--explain is for images, --heatmap for videos"),
    "timeline of another kind": (["--timeline", "t.txt"], "a timeline is written as .png, .jpg, .pdf, .svg; found"),
    "unwritable timeline": (["--timeline", "/dev/null/a.png"], "/dev/null"),
    "unknown language": (["--language", "de"], "invalid choice: 'de'"),
    "smoothing": (["--smoothing", "-1"], "--smoothing: must be at least 0; found -1"),
    "smallest face": (["--smallest-face", "2"], "--smallest-face: must be from 0 to 1; found 2"),
    "name that is too long": (["--source", "n" * 300], "n can't be read (File name too long)"),
    "cascade's name that is too long": (["--cascade", "n" * 300], "n can't be read (File name too long)"),
}


@pytest.mark.usefixtures("compile_here")
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


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model", [], "argument --model: needs a checkpoint; found none"),
        ("language", None, "argument --language: invalid choice: 'None'"),
        ("smoothing", [0.25, 1], "argument --smoothing: takes 1 value; found [0.25, 1]"),
        ("headless", "no", "--headless/--no-headless: is True or False; found 'no'"),
        ("scale_factor", 1, "argument --scale-factor: must be at least 1.01; found 1"),
        ("min_neighbors", 2.5, "argument --min-neighbors: invalid int value: '2.5'"),
        ("uncertain_below", -0.1, "argument --uncertain-below: must be at least 0; found -0.1"),
        ("smallest_face", 10, "argument --smallest-face: must be from 0 to 1; found 10"),
        ("detection_side", 23, "argument --detection-side: must be at least 24; found 23"),
        ("still_detection_side", 23, "argument --still-detection-side: must be at least 24; found 23"),
    ],
)
def test_bad_settings_get_one_line(setting, value, message, monkeypatch, capsys):
    monkeypatch.setattr(live, setting, value)
    with pytest.raises(SystemExit):
        live.parse_args([])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_opencv_5_gets_one_line(monkeypatch, capfd):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    assert run("--source", "drawn", "--headless") == 2
    assert 'install OpenCV 4: pip install "opencv-python>=4.12,<5"' in capfd.readouterr().err


def test_what_is_read_is_never_overwritten(clip, photograph, tmp_path, capfd):
    folder, model = photograph.parent, tmp_path / Path(MODEL).name  # which comes compiled
    shutil.copy(MODEL, model)
    before = {path: path.read_bytes() for path in (clip, photograph, model)}
    for flag in ("--output", "--csv"):
        for source, target in ((clip, clip), (photograph, photograph), (folder, folder), (folder, photograph)):
            assert run("--source", source, "--headless", flag, target) == 2
            assert f"{flag} would overwrite {target}" in capfd.readouterr().err
        assert run("--source", clip, "--headless", "--model", model, flag, model) == 2
        assert f"{flag} would overwrite {model}" in capfd.readouterr().err
    assert run("--source", clip, "--headless", "--output", tmp_path / "a.mp4", "--csv", tmp_path / "a.mp4") == 2
    assert "a.mp4, which --output writes" in capfd.readouterr().err and not (tmp_path / "a.mp4").exists()
    assert {path: path.read_bytes() for path in before} == before


# ----------------------------------------------------------------------------------------------------------
# Bugs


def mismatch(*arguments):
    return list(zip([1], [], strict=True))


def missing_file_of_ours(*arguments):
    return open("a_file_that_the_program_should_have").read()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("bug", "kind"), [(mismatch, ValueError), (missing_file_of_ours, FileNotFoundError)])
@pytest.mark.parametrize("broken", ["recognition.tracking.Smoother.__call__", "recognition.recording.write_image"])
def test_a_bug_is_not_told_as_a_mistake(monkeypatch, photograph, clip, tmp_path, capfd, bug, kind, several, broken):
    monkeypatch.setattr(broken, bug)
    output = tmp_path / "out" if several else tmp_path / "a.png"
    with pytest.raises(kind):
        run("--source", photograph, *[clip] * several, "--headless", "--output", output)
    assert "error" not in capfd.readouterr().err and not list(tmp_path.glob("**/*.*"))


def test_a_bug_has_a_traceback_and_exit_status_1(photograph, clip, tmp_path):
    code = (
        "import sys, real_time_emotion_recognition as live; from command_line import exit_status\n"
        "from recognition.tracking import Smoother\n"
        "Smoother.__call__ = lambda *arguments: list(zip([1], [], strict=True))\n"
        "sys.exit(exit_status(live.main))"
    )
    flags = ["--source", photograph, clip, "--headless", "--csv", tmp_path]
    command = [sys.executable, "-c", code, *map(str, flags)]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "zip()" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to try")
def test_a_full_disk_is_one_line_and_exit_status_1(clip, tmp_path, capfd):
    (tmp_path / "a.csv").symlink_to("/dev/full")
    assert run("--source", clip, "--headless", "--csv", tmp_path / "a.csv") == 1
    told = capfd.readouterr().err
    assert re.fullmatch(r"error: .*a.csv can't be written: No space left on device\n", told), told
    assert (tmp_path / "a.csv").is_symlink() and [path.name for path in tmp_path.iterdir()] == ["a.csv"]
