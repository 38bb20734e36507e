"""The benchmark: what it counts and prints, that both ways do the same work, and that it leaves nothing behind."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import load_and_process
import train_emotion_classifier as trainer
from benchmarks import speed
from command_line import exit_status
from load_and_process import load_fer2013_data
from training.hosts import find_hosts


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which temporary ones are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_multiply_adds_of_a_small_network():
    layers = keras.layers
    image = keras.Input((8, 6, 1))
    x = layers.Conv2D(3, 3, padding="same")(image)  # 8 x 6 pixels, 3 x 3 x 1 -> 3
    x = layers.BatchNormalization()(x)  # folds into the convolution
    x = layers.SeparableConv2D(5, 3, strides=2, padding="same")(x)  # 4 x 3 pixels, 3 x 3 on each of 3, then 3 -> 5
    x = layers.Conv2D(4, 2)(x)  # 3 x 2 pixels, 2 x 2 x 5 -> 4
    x = layers.Dense(7)(layers.Flatten()(x))  # 3 x 2 x 4 -> 7
    expected = 48 * 27 + 12 * (27 + 15) + 6 * 80 + 24 * 7
    assert speed.count_multiply_adds(keras.Model(image, x)) == expected == 2448


def test_the_report_is_markdown_and_a_ratio_says_how_many_times_better_ours_is():
    results = {
        "start": ("of a clip", [("first face", "s", 4.25, 0.5, "1.0 s"), ("memory", "MB", 1787.4, 2 * 1787.4, "")]),
        "video": ("read", [("video", "frames/s", 20, 120, "ratio 6"), ("training", "faces/s", 100, 90, "")]),
        "delay": ("shown", [("delay", "ms", None, 0.01234, "50 ms")]),
    }
    assert speed.format_report(results).split("\n") == [
        "| figure | plain | ours | ratio | bar |",
        "|---|---:|---:|---:|---|",
        "| first face | 4.25 s | 0.5 s | 8.5 | 1.0 s |",
        "| memory | 1,787 MB | 3,575 MB | 0.5 |  |",
        "| video | 20 frames/s | 120 frames/s | 6 | ratio 6 |",
        "| training | 100 faces/s | 90 faces/s | 0.9 |  |",
        "| delay | – | 0.0123 ms | – | 50 ms |",
        "",
        "- start: of a clip",
        "- video: read",
        "- delay: shown",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "csv", "speed"], "invalid choice: 'speed'"),
        (["--dataset", "{folder}/none.csv"], "none.csv does not exist"),
        (["--dataset", "{folder}/images"], "--dataset names FER2013's CSV"),
        (["--only", "delay", "start"], "the plain ways need TensorFlow; found none: pip install -r requirements.txt"),
        (["--only", "hosts"], 'several hosts train on JAX; found none: pip install "jax'),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(arguments, message, tmp_path, temporary, monkeypatch, capsys):
    (tmp_path / "images" / "train").mkdir(parents=True)
    missing = "jax" if "hosts" in arguments else "tensorflow" if "delay" in arguments else ""
    monkeypatch.setattr(speed, "run", None)
    monkeypatch.setattr(speed.util, "find_spec", lambda name: name != missing)
    try:
        status = exit_status(speed.main, [argument.format(folder=tmp_path) for argument in arguments])
    except SystemExit as ended:  # argparse's
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and len(error.splitlines()) == 1
    assert not list(temporary.iterdir())


def test_without_tensorflow_what_needs_none_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(speed.util, "find_spec", lambda name: None)
    monkeypatch.setitem(speed.SECTIONS, "delay", lambda folder, args: ("shown", [("it", "ms", None, 5.0, "")]))
    assert exit_status(speed.main, ["--only", "delay"]) == 0
    assert "| it | – | 5 ms | – |  |" in capsys.readouterr().out


def test_time_and_memory_are_those_of_the_process_alone_and_a_failure_is_told(tmp_path):
    here = np.ones(40_000_000)  # 320 MB in this process
    small = speed.run(tmp_path, sys.executable, "-c", "import time; time.sleep(0.3)")
    large = speed.run(tmp_path, sys.executable, "-c", "len(bytearray(b'1') * 100_000_000)")
    assert here.any() and small.seconds > 0.3
    if sys.platform != "win32":
        assert 1 < small.peak_mb < 60 and 100 < large.peak_mb < 160
    with pytest.raises(RuntimeError, match="no such clip|clip.mp4"):
        speed.run(tmp_path, sys.executable, "real_time_emotion_recognition.py", "--source", "clip.mp4")


def test_both_ways_read_the_same_faces(tmp_path):
    path = speed.write_csv(tmp_path / "faces.csv", 31)
    faces, emotions = speed.read_plain_csv(path)
    splits = load_fer2013_data(path)
    assert faces.shape == (31, 48, 48, 1) and [len(split.faces) for split in splits.values()] == [11, 10, 10]
    for start, split in enumerate(splits.values()):  # the rows take turns
        np.testing.assert_array_equal(faces[start::3], split.faces)
        np.testing.assert_array_equal(emotions[start::3].argmax(axis=1), split.emotions)


def test_the_camera_stamps_its_frames_and_keeps_their_times():
    camera = speed.StampingCamera()
    numbers = [camera.number_of(camera.read()[1]) for _ in range(3)]
    assert numbers == sorted(set(numbers)) == list(camera.captured_at)
    for number, time in camera.captured_at.items():  # never before its time
        assert time - camera.started >= number / speed.CAMERA_FPS - 1e-3
    camera.started -= 30  # seconds ago: the frames since then are lost, as a camera's are
    assert camera.number_of(camera.read()[1]) == camera.number > 30 * speed.CAMERA_FPS


def test_the_csv_section_leaves_the_users_files_as_they_are(tmp_path, temporary, capsys):
    path = speed.write_csv(tmp_path / "mine.csv", 20)
    load_fer2013_data(path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file != temporary}
    assert exit_status(speed.main, ["--only", "csv", "--quick", "--dataset", str(path)]) == 0
    table, progress = capsys.readouterr()
    assert re.search(r" cores, .*\nsoftware: Python .*, numpy ", table) and progress == "csv ...\n"
    for line in ("reading a CSV of FER2013's mine.csv, first time", r"the same, again \(from our cache\)"):
        plain, ours, ratio = map(float, re.search(rf"\| {line} \| (.+) s \| (.+) s \| (.+) \|  \|", table).groups())
        assert ratio == pytest.approx(plain / ours, rel=0.02)
    assert before == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file != temporary}
    assert not list(temporary.iterdir())


def test_sections_run_as_a_user_runs_them(tmp_path):
    command = [sys.executable, speed.__file__, "--only", "delay", "memory", "--quick"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "memory ...\ndelay ...\n"  # in the table's order
    numbers = {
        line[2:8]: [float(n) for n in re.findall(r"([\d.]+) M?[mBs]+ ", line)] for line in done.stdout.split("\n")
    }
    plain_mb, our_mb = numbers["reside"][:2]
    assert 50 < our_mb < plain_mb
    assert 0 < numbers["from c"][0] <= numbers["the sa"][0]
    assert not list(tmp_path.iterdir())


def test_a_clip_without_a_face_is_refused(tmp_path, monkeypatch):
    """Frames without a face are cheap: a figure from them would flatter."""
    table = "frame,time_s\n"
    monkeypatch.setattr(speed, "run", lambda *_: (tmp_path / "ours.csv").write_text(table) and speed.Run(1, 1, ""))
    with pytest.raises(RuntimeError, match="ours: no face was found in 2 frames"):
        speed.run_live("ours", tmp_path, 2)
    table += "0,0\n1,0\n1,0\n"
    assert speed.run_live("ours", tmp_path, 2).value == 1.5


def one_layer(input_shape, num_classes, l2_regularization=0.0):
    """A network that trains in a second."""
    inputs = keras.Input(input_shape)
    outputs = keras.layers.Dense(num_classes, activation="softmax")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs, name="tiny_XCEPTION")


def test_training_from_memory_and_from_the_disk(tmp_path, monkeypatch):
    images = speed.write_images(tmp_path / "images", 30)
    split = load_fer2013_data(images)["Training"]
    assert split.faces.shape == (30, 48, 48, 1) and len(np.unique(split.emotions)) == 3
    run = speed.train_briefly(tmp_path, images, "tiny_XCEPTION", mapped=True)  # in a process of its own
    rate, were_mapped = run.value  # what training was given, and not what it was meant to be given
    assert were_mapped is True and rate > 1 and run.peak_mb > 100

    for module, name in ((load_and_process, "IN_MEMORY"), (trainer, "AugmentedFaces")):
        monkeypatch.setattr(module, name, getattr(module, name))  # which `train` replaces
    monkeypatch.setitem(trainer.NETWORKS, "tiny_XCEPTION", one_layer)
    monkeypatch.setattr(speed, "call", lambda folder, function, *arguments: speed.Run(1, 1, function(*arguments)))
    assert speed.train_briefly(tmp_path, images, "tiny_XCEPTION").value[1] is False


def test_training_on_two_hosts(tmp_path, monkeypatch):
    """One process, then two that find each other.  That two train is tested in test_hosts.py."""
    started = []

    def call(folder, function, argv, mapped, **environment):
        args = trainer.parse_args(argv)
        started.append((find_hosts(args.hosts, args.host_index, {}), args.network, args.dataset, args.epochs))
        assert environment == {"KERAS_BACKEND": "jax", "PJRT_NPROC": "1"} and Path(args.dataset).is_dir()
        assert function is speed.train and not mapped
        return speed.Run(1, 1, (100.0 if args.hosts is None else 150.0 + args.host_index, False))

    monkeypatch.setattr(speed, "call", call)
    _, figures = speed.measure_hosts(tmp_path, SimpleNamespace(training_images=100))
    assert figures == [(f"training {network}", "faces/s", 100.0, 150.0, "") for network in speed.NETWORKS]
    for one, *two in zip(started[::3], started[1::3], started[2::3], strict=True):
        (names, first), (same_names, second) = (hosts for hosts, *_ in two)
        assert one[0] == ((), None) and names == same_names and len(names) == 2 and {first, second} == {0, 1}
        assert one[1:] == two[0][1:] == two[1][1:] and one[3] == 2


def test_the_tables_of_scaling_md_follow_from_its_code():
    text = (speed.ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    code = {}
    exec(text.split("```python\n")[1].split("```")[0], code)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    tables = [row for row in rows if row[0] in ("2", "8", "64")]
    assert len(tables) == 2 * 9
    for table, options in ((tables[:9], {}), (tables[9:], {"faces": 4096, "faster": 100})):
        for hosts, gbit_per_s, *speed_ups in table:
            for network, speed_up in zip(code["NETWORKS"], speed_ups, strict=True):
                one, many = (code["step_s"](network, n, float(gbit_per_s), **options) for n in (1, int(hosts)))
                assert float(speed_up) == pytest.approx(one / many, rel=0.06), (network, hosts, gbit_per_s)
