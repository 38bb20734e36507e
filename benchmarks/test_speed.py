"""The benchmark: what it counts and prints, that both ways do the same work, and that it leaves nothing behind."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import benchmark
import numpy as np
import pytest
from benchmark import Figure

from load_and_process import exit_status, load_fer2013_data

ROOT = Path(__file__).parents[1]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which temporary ones are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# ---------------------------------------------------------------------------------------------------- arithmetic
def test_multiply_adds_of_a_small_network():
    import keras
    from keras import layers

    image = keras.Input((8, 6, 1))
    x = layers.Conv2D(3, 3, padding="same")(image)  # 8 x 6 places, 3 x 3 x 1 -> 3
    x = layers.BatchNormalization()(x)  # folds into the convolution
    x = layers.SeparableConv2D(5, 3, strides=2, padding="same")(x)  # 4 x 3 places, 3 x 3 on each of 3, then 3 -> 5
    x = layers.Conv2D(4, 2)(x)  # 3 x 2 places, 2 x 2 x 5 -> 4
    x = layers.Dense(7)(layers.Flatten()(x))  # 3 x 2 x 4 -> 7
    model = keras.Model(image, x)
    expected = 48 * 27 + 12 * (27 + 15) + 6 * 80 + 24 * 7
    assert benchmark.count_multiply_adds(model) == expected == 2448


@pytest.mark.parametrize(
    ("unit", "plain", "ours", "ratio"),
    [
        ("s", 16, 4, 4),
        ("MB", 100, 200, 0.5),
        ("frames/s", 20, 120, 6),
        ("faces/s", 100, 90, 0.9),
        ("ms", None, 5, None),
        ("MB", 5, None, None),
    ],
)
def test_a_ratio_says_how_many_times_better_ours_is(unit, plain, ours, ratio):
    assert Figure("", "", unit, plain, ours).ratio == ratio


# ---------------------------------------------------------------------------------------------------- the table
def test_the_report_is_markdown():
    figures = [
        Figure("start", "first face", "s", 4.25, 0.5, "1.0 s", "of a clip"),
        Figure("memory", "memory", "MB", 1787.4, 116.2),
        Figure("delay", "delay", "ms", None, 0.01234, "50 ms", "shown"),
    ]
    assert benchmark.format_report({"machine": "a computer", "software": "Python 3"}, figures).split("\n") == [
        "machine: a computer  ",
        "software: Python 3  ",
        "",
        "| figure | plain | ours | ratio | bar |",
        "|---|---:|---:|---:|---|",
        "| first face | 4.25 s | 0.5 s | 8.5 | 1.0 s |",
        "| memory | 1,787 MB | 116 MB | 15.4 |  |",
        "| delay | – | 0.0123 ms | – | 50 ms |",
        "",
        "- start: of a clip",
        "- delay: shown",
    ]


# ---------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "csv", "speed"], "invalid choice: 'speed'"),
        (["--dataset", "{folder}/none.csv"], "none.csv does not exist"),
        (["--dataset", "{folder}/images"], "--dataset names FER2013's CSV"),
        (["--json", "{folder}/images"], "images can't be written"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(arguments, told, tmp_path, temporary, monkeypatch, capsys):
    (tmp_path / "images" / "train").mkdir(parents=True)
    monkeypatch.setattr(benchmark, "_run", None)
    try:
        status = exit_status(benchmark.main, [argument.format(folder=tmp_path) for argument in arguments])
    except SystemExit as ended:  # argparse's
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and told in error
    assert len(error.splitlines()) == 1
    assert not list(temporary.iterdir())


def test_without_tensorflow_what_needs_none_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(benchmark.util, "find_spec", lambda name: None)
    monkeypatch.setitem(benchmark.SECTIONS, "delay", lambda folder, args: [Figure("delay", "it", "ms", None, 5.0)])
    assert exit_status(benchmark.main, ["--only", "delay"]) == 0
    assert "| it | – | 5 ms | – |  |" in capsys.readouterr().out
    assert exit_status(benchmark.main, ["--only", "delay", "start"]) == 2
    assert capsys.readouterr().err == (
        "error: the plain ways need TensorFlow; found none: pip install -r requirements.txt\n"
    )


def test_a_process_that_fails_is_told_of(tmp_path):
    with pytest.raises(RuntimeError, match="no such clip|clip.mp4"):
        benchmark.measure([sys.executable, ROOT / "real_time_emotion_recognition.py", "--source", "clip.mp4"], tmp_path)


# ---------------------------------------------------------------------------------------------------- measuring
def test_time_and_memory_are_those_of_the_process_alone(tmp_path):
    here = np.ones(40_000_000)  # 320 MB in this process
    small = benchmark.measure([sys.executable, "-c", "import time; time.sleep(0.3)"], tmp_path)
    large = benchmark.measure([sys.executable, "-c", "len(bytearray(b'1') * 100_000_000)"], tmp_path)
    assert here.any() and small.seconds > 0.3
    if sys.platform != "win32":
        assert 1 < small.peak_mb < 60
        assert 100 < large.peak_mb < 160


def test_both_ways_read_the_same_faces(tmp_path):
    path = benchmark.write_csv(tmp_path / "faces.csv", 31)
    faces, emotions = benchmark.read_plain_csv(path)
    splits = load_fer2013_data(path)
    assert faces.shape == (31, 48, 48, 1) and [len(split.faces) for split in splits.values()] == [11, 10, 10]
    for start, split in enumerate(splits.values()):  # the rows take turns
        np.testing.assert_array_equal(faces[start::3], split.faces)
        np.testing.assert_array_equal(emotions[start::3].argmax(axis=1), split.emotions)


def test_the_camera_stamps_its_frames_and_keeps_their_times():
    camera = benchmark.StampingCamera(1.0)
    images = [camera.read()[1] for _ in range(3)]
    numbers = [camera.number_of(image) for image in images]
    assert numbers == sorted(set(numbers)) == list(camera.captured_at)
    times = list(camera.captured_at.values())
    for number, time in zip(numbers, times, strict=True):  # never before its time
        assert time - camera.started >= number / benchmark.CAMERA_FPS - 1e-3
    camera.started -= 30  # seconds ago: those it was late for are lost, as a camera's are
    assert camera.number_of(camera.read()[1]) == camera.number > 30 * benchmark.CAMERA_FPS


# ---------------------------------------------------------------------------------------------------- end to end
def test_the_csv_section_leaves_the_users_files_as_they_are(tmp_path, temporary, capsys):
    path = benchmark.write_csv(tmp_path / "mine.csv", 20)
    load_fer2013_data(path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    figures = tmp_path / "new" / "figures.json"
    arguments = ["--only", "csv", "--quick", "--dataset", str(path), "--json", str(figures)]
    assert exit_status(benchmark.main, arguments) == 0

    table, told = capsys.readouterr()
    assert "| reading a CSV of FER2013's mine.csv, first time |" in table and told == "csv ...\n"
    content = json.loads(figures.read_text())
    assert "cores" in content["machine"]["machine"] and "numpy" in content["machine"]["software"]
    assert len(content["figures"]) == 2
    for figure in content["figures"]:
        assert figure["section"] == "csv" and figure["unit"] == "s"
        assert figure["ratio"] == pytest.approx(figure["plain"] / figure["ours"])
    names = before.keys() | {"new"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items() if name != "temporary")
    assert not list(temporary.iterdir())


def test_sections_run_as_a_user_runs_them(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmark.py", "--only", "delay", "memory", "--quick", "--json", "figures.json"],
        cwd=tmp_path,
        env=benchmark.os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "memory ...\ndelay ...\n"  # in the table's order
    memory, delay, slow = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert 50 < memory["ours"] < memory["plain"]
    assert 0 < delay["ours"] <= slow["ours"] and delay["plain"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]


def test_a_clip_without_a_face_is_refused(tmp_path):
    """Frames without a face are cheap: a figure from them would flatter."""
    loops = SimpleNamespace(faces_per_frame={})
    (tmp_path / "ours.csv").write_text("frame,time_s\n")
    with pytest.raises(RuntimeError, match="ours: no face was found in 7 frames"):
        benchmark.Loops._checked(loops, "ours", tmp_path / "ours.csv", 7, None)
    (tmp_path / "ours.csv").write_text("frame,time_s\n0,0\n1,0\n1,0\n")
    benchmark.Loops._checked(loops, "ours", tmp_path / "ours.csv", 2, None)
    assert loops.faces_per_frame == {"ours": 1.5}


# ---------------------------------------------------------------------------------------------------- training
def test_training_from_memory_and_from_the_disk(tmp_path):
    images = benchmark.write_images(tmp_path / "images", 30)
    split = load_fer2013_data(images)["Training"]
    assert split.faces.shape == (30, 48, 48, 1) and len(np.unique(split.emotions)) == 3
    runs = [
        benchmark.call(benchmark.time_training, images, tmp_path, mapped, folder=tmp_path) for mapped in (False, True)
    ]
    assert all(loaded < 10 and rate > 1 and peak_mb > 100 for loaded, rate, peak_mb in runs)


def test_training_on_two_hosts(tmp_path, monkeypatch):
    pytest.importorskip("jax", reason="several hosts train on JAX")
    import models.cnn

    monkeypatch.setattr(models.cnn, "NETWORKS", {"tiny_XCEPTION": None})
    (figure,) = benchmark.measure_hosts(tmp_path, SimpleNamespace(quick=True))
    assert figure.figure == "training tiny_XCEPTION" and figure.plain > 1 and figure.ours > 1 and figure.ratio < 3
    log = (tmp_path / "trained" / "tiny_XCEPTION.log.csv").read_text()
    assert log.count("\n") == 3


def test_two_hosts_need_jax(monkeypatch):
    monkeypatch.setattr(benchmark.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'several hosts train on JAX; found none: pip install "jax'):
        benchmark.measure_hosts(Path("unused"), SimpleNamespace(quick=True))


def test_the_tables_of_scaling_md_follow_from_its_code():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
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
