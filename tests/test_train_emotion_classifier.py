"""Tests of train_emotion_classifier: short runs on drawn faces, broken off and resumed, and the pixels of augment."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import h5py
import keras
import numpy as np
import pytest

import drawn_faces
import train_emotion_classifier as train
from load_and_process import (
    EMOTIONS,
    SPLITS,
    VOTED,
    VOTES,
    Dataset,
    Split,
    exit_status,
    load_fer2013_data,
    preprocess_images,
)
from models.checkpoint import load_checkpoint, read_header
from models.cnn import EMOTION_MAPS, NETWORKS

ROOT = Path(__file__).parents[1]
NETWORK = "tiny_XCEPTION"
SMALL = ["--network", NETWORK, "--image-size", "32", "32", "--batch-size", "14", "--precision", "float32"]
PER_EMOTION = {"Training": 8, "PublicTest": 3, "PrivateTest": 2}


@pytest.fixture(scope="module", autouse=True)
def eager():
    """Run TensorFlow step by step: compiling a step takes longer than all the steps of these short runs."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def faces_csv(tmp_path_factory):
    """A few drawn faces in FER2013's form, for runs in a process of their own."""
    path = tmp_path_factory.mktemp("data") / "fer2013.csv"
    with path.open("w") as file:
        file.write("emotion,pixels,Usage\n")
        for split, (faces, emotions) in drawn_faces.draw_dataset((32, 32), 0, PER_EMOTION).items():
            for face, emotion in zip(faces, emotions, strict=True):
                file.write(f"{emotion},{' '.join(map(str, face.ravel()))},{split}\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces_csv):
    """A run of three epochs on drawn faces: (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("trained") / "made" / "on the way"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn_faces, "IMAGES_PER_EMOTION", PER_EMOTION)
        printed = []
        patch.setattr(train, "print", lambda *text, **_: printed.append(" ".join(map(str, text))), raising=False)
        arguments = ["--dataset", "drawn", "--epochs", "3", "--output-dir", str(folder)]
        assert train.main([*SMALL, *arguments]) == 0
    return folder, "\n".join(printed)


def log(folder, name=NETWORK):
    with (folder / f"{name}.log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def epochs_of(folder):
    return [int(row["epoch"]) for row in log(folder)]


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("*.hdf5"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(capsys, *arguments):
    """(exit status, lines on standard error) of a run."""
    capsys.readouterr()
    try:
        status = exit_status(train.main, [str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's
        status = stop.code
    return status, capsys.readouterr().err.splitlines()


# ------------------------------------------------------------------------------------------------------------
# A run from end to end


def test_leaves_the_files_it_promises(trained):
    folder, _ = trained
    (best,) = checkpoints(folder)
    others = [f"{NETWORK}.{name}" for name in ("curve.png", "log.csv", "resume.npz", "settings.json")]
    assert sorted(os.listdir(folder)) == sorted([best, *others])
    assert cv2.imread(str(folder / f"{NETWORK}.curve.png")).shape[1] > 600


def test_log_has_a_row_per_epoch(trained):
    rows = log(trained[0])
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    columns = {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"}
    assert set(rows[0]) == columns
    # As each epoch begins: half a cosine from 0.006 to 0 over three epochs.
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.006, 0.0045, 0.0015])


def test_the_best_checkpoint_is_what_its_name_says(trained):
    folder, _ = trained
    (best,) = checkpoints(folder)
    rows = [float(row["val_accuracy"]) for row in log(folder)]
    losses = [float(row["val_loss"]) for row in log(folder)]
    epoch = 1 + min(range(3), key=lambda i: (losses[i], -rows[i]))  # the higher accuracy where the loss is the same
    assert best == f"{NETWORK}.{epoch:03d}-{rows[epoch - 1]:.4f}.hdf5"
    model, emotions = load_checkpoint(folder / best)
    faces, labels = drawn_faces.draw_dataset((32, 32), 0, PER_EMOTION)["PublicTest"]
    assert emotions == EMOTIONS
    answers = keras.ops.convert_to_numpy(model(preprocess_images(faces))).argmax(axis=1)
    assert np.mean(answers == labels) == pytest.approx(rows[epoch - 1], abs=1e-6)


def test_settings_are_kept(trained):
    folder, printed = trained
    settings = json.loads((folder / f"{NETWORK}.settings.json").read_text())
    expected = {"network": NETWORK, "dataset": "drawn", "epochs": 3, "image_size": [32, 32], "batch_size": 14}
    assert expected.items() <= settings.items()
    assert {"seed", "learning_rate", "rotation", "average_epochs", "keras", "backend"} <= set(settings)
    assert f'"network": "{NETWORK}"' in printed


def test_private_test_is_evaluated_once_at_the_end(trained):
    lines = [line for line in trained[1].splitlines() if "PrivateTest" in line]
    assert len(lines) == 1 and "of 14 faces" in lines[0]


# ------------------------------------------------------------------------------------------------------------
# Breaking off and going on


def run_csv(folder, faces_csv, *arguments, network=NETWORK, stop_in=None):
    """A run on the CSV; `stop_in`: the epoch, counted from 0, that Ctrl-C ends before anything of it is kept."""
    keep = train.BestCheckpoint.on_epoch_end

    def interrupt(self, epoch, logs):
        if epoch == stop_in:
            raise KeyboardInterrupt
        keep(self, epoch, logs)
        if "plateau" in arguments:
            logs["val_loss"] = float(epoch)  # one from the first epoch on, wherever this runs

    arguments = [*SMALL, "--network", network, "--dataset", faces_csv, "--output-dir", folder, *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.BestCheckpoint, "on_epoch_end", interrupt)
        return exit_status(train.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("schedule", "network"), [("cosine", "simple_CNN"), ("plateau", "tiny_XCEPTION")])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, monkeypatch, faces_csv, schedule, network):
    monkeypatch.setattr(train, "plateau_patience", 2)  # an epoch before the break counts, and one after it
    settings = ["--epochs", 4, "--schedule", schedule]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert run_csv(unbroken, faces_csv, *settings, network=network) == 0
    assert run_csv(broken, faces_csv, *settings, network=network, stop_in=2) == 130
    assert len(log(broken, network)) == 2
    assert run_csv(broken, faces_csv, *settings, "--resume", network=network) == 0

    assert checkpoints(broken) == checkpoints(unbroken)
    for row, expected in zip(log(broken, network), log(unbroken, network), strict=True):
        del row["seconds"], expected["seconds"]
        assert {k: float(v) for k, v in row.items()} == pytest.approx({k: float(v) for k, v in expected.items()}, 1e-4)
    with np.load(broken / f"{network}.resume.npz") as ours, np.load(unbroken / f"{network}.resume.npz") as theirs:
        assert ours.files == theirs.files
        for name in set(ours.files) - {"description"}:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
    rates = [float(row["learning_rate"]) for row in log(broken, network)]
    assert rates[-1] < rates[0]


@pytest.mark.parametrize(
    ("stop_in", "said"), [(0, "stopped; epochs finished: 0"), (1, "and --resume goes on from there")]
)
def test_ctrl_c_offers_to_resume_what_was_kept(tmp_path, faces_csv, capsys, stop_in, said):
    assert run_csv(tmp_path, faces_csv, "--epochs", 2, stop_in=stop_in) == 130
    assert capsys.readouterr().out.splitlines()[-1].endswith(said)


def start(folder, faces_csv, *arguments):
    command = [sys.executable, "train_emotion_classifier.py", *SMALL, "--dataset", faces_csv, "--output-dir", folder]
    command = [str(part) for part in (*command, "--epochs", 500, "--schedule", "plateau", *arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(process, folder, epoch):
    deadline = time.monotonic() + 120
    while not (folder / f"{NETWORK}.log.csv").exists() or epochs_of(folder)[-1] < epoch:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
def test_goes_on_after_ctrl_c_and_after_a_kill(tmp_path, faces_csv):
    folder = tmp_path / "run"
    process = start(folder, faces_csv)
    wait_for_epoch(process, folder, 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()
    done = epochs_of(folder)
    assert done == list(range(1, len(done) + 1))
    assert (folder / f"{NETWORK}.curve.png").exists()

    process = start(folder, faces_csv, "--resume")
    wait_for_epoch(process, folder, done[-1] + 2)
    process.kill()
    process.wait()
    process.stderr.close()
    killed = epochs_of(folder)
    assert killed == list(range(1, len(killed) + 1)) and len(killed) >= len(done) + 2

    assert run_csv(folder, faces_csv, "--schedule", "plateau", "--epochs", len(killed) + 2, "--resume") == 0
    assert epochs_of(folder) == list(range(1, len(killed) + 3))
    with np.load(folder / f"{NETWORK}.resume.npz") as state:
        best = json.loads(str(state["description"]))["best_name"]
    assert best in checkpoints(folder) and load_checkpoint(folder / best)


def test_resuming_a_finished_run_trains_no_further(tmp_path, trained, monkeypatch, capsys):
    folder = Path(shutil.copytree(trained[0], tmp_path / "copy"))
    monkeypatch.setattr(drawn_faces, "IMAGES_PER_EMOTION", PER_EMOTION)
    before = contents(folder)
    arguments = ["--dataset", "drawn", "--epochs", "3", "--output-dir", str(folder), "--resume"]
    assert train.main([*SMALL, *arguments, "--learning-rate", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "the run is complete, 3 epochs" in printed and "goes on with" not in printed
    picture = f"{NETWORK}.curve.png"
    assert contents(folder) | {picture: before[picture]} == before


def test_says_that_it_replaces_an_earlier_run(tmp_path, trained, capsys, faces_csv):
    folder = Path(shutil.copytree(trained[0], tmp_path / "copy"))
    assert run_csv(folder, faces_csv, "--epochs", 1) == 0
    assert f"{folder} holds an earlier run of {NETWORK}" in capsys.readouterr().out
    assert epochs_of(folder) == [1] and checkpoints(trained[0])[0] in checkpoints(folder)


def test_checkpoints_of_an_earlier_run_stay(tmp_path, faces_csv):
    """The same run again, whose first checkpoint would have the same name."""
    assert run_csv(tmp_path, faces_csv, "--epochs", 1) == 0
    (first,), before = checkpoints(tmp_path), contents(tmp_path)
    assert run_csv(tmp_path, faces_csv, "--epochs", 1) == 0
    assert set(checkpoints(tmp_path)) == {first, first.replace(".hdf5", ".2.hdf5")}
    assert run_csv(tmp_path, faces_csv, "--epochs", 3, "--resume") == 0
    assert len(checkpoints(tmp_path)) == 2 and (tmp_path / first).read_bytes() == before[first]


def test_a_run_can_be_moved(tmp_path, faces_csv, monkeypatch):
    """The folder is named relatively, moved, and named from elsewhere; nothing better comes after."""
    monkeypatch.chdir(tmp_path)
    assert run_csv("here", faces_csv, "--epochs", 1, "--learning-rate", 1e-8) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(ROOT)
    arguments = ["--epochs", 2, "--learning-rate", 1e-8, "--resume"]
    assert run_csv(tmp_path / "there", faces_csv, *arguments) == 0
    assert len(checkpoints(tmp_path / "there")) == 1


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_loss"])
def test_early_stopping_ends_a_run_for_good(tmp_path, faces_csv, monkeypatch, monitor):
    keep = train.BestCheckpoint.on_epoch_end

    def get_no_better(self, epoch, logs):  # in what is monitored: as good, then worse; the other always gets better
        told = {"accuracy": [0.5, 0.5, 0.4][epoch], "loss": [2.0, 1.5, 1.0][epoch]}
        if monitor == "val_loss":
            told = {"accuracy": [0.4, 0.5, 0.6][epoch], "loss": [2.0, 2.0, 2.5][epoch]}
        self.validated.evaluate = lambda *_, **__: told
        keep(self, epoch, logs)

    monkeypatch.setattr(train.BestCheckpoint, "on_epoch_end", get_no_better)
    still = ["--epochs", 9, "--early-stopping-patience", 2, "--monitor", monitor, "--schedule", "plateau"]
    assert run_csv(tmp_path, faces_csv, *still) == 0
    assert epochs_of(tmp_path) == [1, 2, 3]
    assert run_csv(tmp_path, faces_csv, *still, "--resume") == 0
    assert epochs_of(tmp_path) == [1, 2, 3]
    assert checkpoints(tmp_path) == [f"{NETWORK}.002-0.5000.hdf5"]


def test_early_stopping_waits_for_the_second_half_of_a_cosine(tmp_path, faces_csv, monkeypatch):
    """A run from good weights, which its high rates make worse."""
    keep = train.BestCheckpoint.on_epoch_end

    def rise_then_fall(self, epoch, logs):
        self.validated.evaluate = lambda *_, **__: {"accuracy": 0.5, "loss": [1.0, 2.0, 2.5, 2.4, 2.4, 2.4][epoch]}
        keep(self, epoch, logs)

    monkeypatch.setattr(train.BestCheckpoint, "on_epoch_end", rise_then_fall)
    assert run_csv(tmp_path, faces_csv, "--epochs", 6, "--early-stopping-patience", 2) == 0
    assert epochs_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    again = ["--epochs", 7, "--early-stopping-patience", 2, "--resume"]
    assert run_csv(tmp_path, faces_csv, *again) == 0  # already two since the 4th
    assert epochs_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_monitoring_the_epoch_keeps_the_last_whatever_the_figures(tmp_path, faces_csv, monkeypatch):
    keep = train.BestCheckpoint.on_epoch_end

    def get_worse(self, epoch, logs):
        self.validated.evaluate = lambda *_, **__: {"accuracy": 0.5 - epoch / 10, "loss": 1.0 + epoch}
        keep(self, epoch, logs)

    monkeypatch.setattr(train.BestCheckpoint, "on_epoch_end", get_worse)
    flags = ["--monitor", "epoch", "--early-stopping-patience", 1, "--schedule", "plateau"]
    assert run_csv(tmp_path, faces_csv, *flags, "--epochs", 3) == 0
    assert checkpoints(tmp_path) == [f"{NETWORK}.003-0.3000.hdf5"]
    assert run_csv(tmp_path, faces_csv, *flags, "--epochs", 4, "--resume") == 0
    assert checkpoints(tmp_path) == [f"{NETWORK}.004-0.2000.hdf5"] and epochs_of(tmp_path) == [1, 2, 3, 4]


FULL_DISK = """
import resource, sys
import train_emotion_classifier as train
import tensorflow as tf
from load_and_process import exit_status
tf.config.run_functions_eagerly(True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
sys.exit(exit_status(train.main))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_what_was_saved(tmp_path, faces_csv, trained):
    pytest.importorskip("tensorflow", reason="the run of its own is made fast by TensorFlow's eager mode")
    folder = Path(shutil.copytree(trained[0], tmp_path / "run"))
    before = contents(folder)
    command = [sys.executable, "-W", "ignore", "-c", FULL_DISK, *SMALL, "--dataset", faces_csv, "--output-dir", folder]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-500:]
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {folder}") and "can't be written" in line
    after = contents(folder)
    settings = f"{NETWORK}.settings.json"
    assert after.pop(settings) != before.pop(settings)  # small enough to be written still
    assert after == before


# ------------------------------------------------------------------------------------------------------------
# Bad input: one line and exit status 2


BAD_FLAGS = {
    "unknown network": (["--network", "huge_CNN"], ["huge_CNN", *NETWORKS]),
    "no epochs": (["--epochs", "0"], ["--epochs", "at least 1", "found 0"]),
    "half an epoch": (["--epochs", "1.5"], ["--epochs", "1.5"]),
    "no faces per step": (["--batch-size", "0"], ["--batch-size", "at least 1"]),
    "negative rate": (["--learning-rate", "-1"], ["--learning-rate", "found -1"]),
    "endless rate": (["--learning-rate", "inf"], ["--learning-rate", "below 100", "found inf"]),
    "no rate": (["--learning-rate", "nan"], ["--learning-rate", "found nan"]),
    "automatic rate": (["--learning-rate", "auto"], ["--learning-rate", "auto"]),
    "negative augmentation": (["--augmentation", "-1"], ["--augmentation", "or auto", "found -1"]),
    "unknown augmentation": (["--augmentation", "much"], ["--augmentation", "or auto", "much"]),
    "negative decay": (["--weight-decay", "-0.1"], ["--weight-decay", "found -0.1"]),
    "all smoothed": (["--label-smoothing", "1"], ["--label-smoothing", "below 1"]),
    "no patience": (["--early-stopping-patience", "0"], ["--early-stopping-patience", "at least 1"]),
    "negative seed": (["--seed", "-1"], ["--seed", "found -1"]),
    "no seed": (["--seed", "x"], ["--seed", "'x'"]),
    "unknown schedule": (["--schedule", "linear"], ["linear", "cosine", "plateau"]),
    "votes that are not given": (["--votes-as", "hard"], ["--votes", "fer2013new.csv"]),
    "a share of no teachers": (["--teacher-share", "0.5"], ["--teacher", "pass checkpoints"]),
    "all from teachers": (["--teacher-share", "1"], ["--teacher-share", "below 1 or auto"]),
    "no faces dropped": (["--drop-no-face"], ["--votes", "fer2013new.csv"]),
    "unknown precision": (["--precision", "float8"], ["float8", "mixed_bfloat16"]),
    "too small": (["--image-size", "31", "48"], ["32 to 96", "31"]),
    "too large": (["--image-size", "48", "200"], ["32 to 96", "200"]),
    "no size": (["--image-size", "0", "-3"], ["32 to 96", "-3"]),
    "no data": (["--dataset", "nowhere.csv"], ["nowhere.csv"]),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags(tmp_path, capsys, case):
    flags, named = BAD_FLAGS[case]
    status, lines = refused(capsys, "--dataset", tmp_path, "--output-dir", tmp_path / "models", *flags)
    assert status == 2
    assert "error: " in lines[-1 if lines[0].startswith("usage") else 0]
    assert all(any(word in line for line in lines) for word in named)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("network", "mini_XEPTION", ["--network", "mini_XEPTION", "mini_XCEPTION"]),
        ("epochs", 0, ["setting epochs:", "at least 1", "found 0"]),
        ("epochs_drawn", 0, ["setting epochs_drawn:", "at least 1", "found 0"]),
        ("warmup_epochs", -1, ["setting warmup_epochs:", "at least 0", "found -1"]),
        ("votes_share", 1.5, ["setting votes_share:", "from 0 to 1", "found 1.5"]),
        ("zoom", 1, ["setting zoom:", "from 0 to below 1", "found 1"]),
        ("teacher_views", 2.5, ["setting teacher_views:", "must be int", "found 2.5"]),
        ("rotation", "ten", ["setting rotation:", "must be float", "found 'ten'"]),
        ("erasing", None, ["setting erasing:", "must be float", "found None"]),
        ("flip", "no", ["setting flip:", "True or False", "found 'no'"]),
        ("schedule", "cosin", ["--schedule", "cosin", "plateau"]),
        ("monitor", "accuracy", ["--monitor", "val_accuracy"]),
        ("learning_rate", -0.1, ["--learning-rate", "found -0.1"]),
        ("batch_size", 0.5, ["--batch-size", "0.5"]),
        ("image_size", 48, ["--image-size", "takes 2 values", "found 48"]),
        ("network", ["tiny_XCEPTION", "mini_XCEPTION"], ["--network", "takes 1 value", "tiny_XCEPTION"]),
        ("network", None, ["--network", "None", "mini_XCEPTION"]),
        ("votes", [], ["--votes", "takes 1 value", "found []"]),
        ("tensorboard", "no", ["--tensorboard", "True or False", "'no'"]),
    ],
)
def test_bad_settings_are_refused_like_bad_flags(tmp_path, capsys, monkeypatch, setting, value, named):
    monkeypatch.setattr(train, setting, value)
    status, lines = refused(capsys, "--dataset", "drawn", "--output-dir", tmp_path / "models")
    assert (status, len(lines)) == (2, 1) and all(word in lines[0] for word in named)
    assert not (tmp_path / "models").exists()


def test_each_network_gets_the_augmentation_that_suits_it():
    suited = {"tiny_XCEPTION": 0.7, "mini_XCEPTION": 1.0, "big_XCEPTION": 1.4, "simpler_CNN": 1.4, "simple_CNN": 1.4}
    assert {name: train.choose_augmentation("auto", name) for name in NETWORKS} == suited
    assert train.choose_augmentation(0.25, "simple_CNN") == 0.25


def test_thin_networks_are_taught_more():
    suited = {"tiny_XCEPTION": 0.9, "mini_XCEPTION": 0.9, "big_XCEPTION": 0.5, "simpler_CNN": 0.5, "simple_CNN": 0.5}
    assert {name: train.choose_teacher_share("auto", name) for name in NETWORKS} == suited
    assert train.choose_teacher_share(0.25, "tiny_XCEPTION") == 0.25


@pytest.mark.parametrize(("given", "strength"), [([], 0.7), (["--augmentation", "0.25"], 0.25)])
def test_the_augmentation_is_kept_as_a_number(tmp_path, faces_csv, given, strength):
    assert run_csv(tmp_path, faces_csv, "--epochs", 1, *given, network="tiny_XCEPTION") == 0
    assert json.loads((tmp_path / "tiny_XCEPTION.settings.json").read_text())["augmentation"] == strength


def test_settings_may_be_written_as_plainly_as_flags(monkeypatch):
    plain = {"start_from": "a.hdf5", "teacher": ["b.hdf5", "c.hdf5"], "learning_rate": 1, "image_size": (64, 48)}
    plain["augmentation"] = 1
    for setting, value in plain.items():
        monkeypatch.setattr(train, setting, value)
    args = train.parse_args([])
    assert args.epochs == train.epochs
    assert (args.start_from, args.teacher) == (Path("a.hdf5"), [Path("b.hdf5"), Path("c.hdf5")])
    assert (args.learning_rate, args.image_size, args.augmentation) == (1.0, [64, 48], 1.0)
    monkeypatch.setattr(train, "teacher", "b.hdf5")
    assert train.parse_args([]).teacher == [Path("b.hdf5")]
    monkeypatch.setattr(train, "teacher", None)
    assert train.parse_args([]).teacher == []


def test_a_folder_without_images(tmp_path, capsys):
    (tmp_path / "train" / "happy").mkdir(parents=True)
    status, lines = refused(capsys, *SMALL, "--dataset", tmp_path, "--output-dir", tmp_path / "models")
    assert (status, len(lines)) == (2, 1) and str(tmp_path) in lines[0]


def test_a_folder_that_can_not_be_written(tmp_path, capsys, faces_csv):
    (tmp_path / "file").write_text("in the way")
    status, lines = refused(capsys, *SMALL, "--dataset", faces_csv, "--output-dir", tmp_path / "file" / "models")
    assert (status, len(lines)) == (2, 1) and str(tmp_path / "file") in lines[0]


def test_tensorboard_missing(tmp_path, capsys, monkeypatch, faces_csv):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    output = ["--output-dir", tmp_path / "models"]
    status, lines = refused(capsys, *SMALL, "--dataset", faces_csv, *output, "--tensorboard")
    assert (status, len(lines)) == (2, 1) and "pip install tensorboard" in lines[0]


OTHER_RUNS = {
    "another network": (["--network", "big_XCEPTION"], ["big_XCEPTION", NETWORK]),
    "another size": (["--image-size", "48", "48"], ["image_size", "[32, 32]", "[48, 48]"]),
    "another batch": (["--batch-size", "7"], ["batch_size", "14", "7"]),
    "another seed": (["--seed", "5"], ["seed", "0", "5"]),
    "another optimizer": (["--optimizer", "adamw"], ["optimizer", "muon", "adamw"]),
    "another schedule": (["--schedule", "plateau"], ["schedule", "cosine", "plateau"]),
    "another monitor": (["--monitor", "val_accuracy"], ["monitor", "val_loss", "val_accuracy"]),
}


@pytest.mark.parametrize("case", OTHER_RUNS)
def test_resuming_another_run(trained, capsys, case):
    flags, named = OTHER_RUNS[case]
    before = contents(trained[0])
    status, lines = refused(capsys, *SMALL, "--dataset", "drawn", "--output-dir", trained[0], "--resume", *flags)
    assert (status, len(lines)) == (2, 1) and all(word in lines[0] for word in named)
    assert contents(trained[0]) == before


def test_resuming_with_moved_and_with_other_data(tmp_path, faces_csv, capsys):
    run = tmp_path / "run"
    assert run_csv(run, faces_csv, "--epochs", 1) == 0
    moved = tmp_path / "moved.csv"
    lines = faces_csv.read_text().splitlines(keepends=True)
    moved.write_text("".join(lines))
    assert run_csv(run, moved, "--epochs", 2, "--resume") == 0
    assert f"note: dataset was {faces_csv}, goes on with {moved}" in capsys.readouterr().out
    assert epochs_of(run) == [1, 2]

    moved.write_text("".join(lines[:-1]))
    before = contents(run)
    status, (line,) = refused(capsys, *SMALL, "--dataset", moved, "--output-dir", run, "--resume", "--epochs", 3)
    assert status == 2 and f"{moved} is not what the run in {run} learns from, in number of " in line
    assert f"pass what it learnt from, --dataset {moved}, or" in line
    assert contents(run) == before


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 999])
def test_resuming_from_a_damaged_file(tmp_path, trained, capsys, damage):
    state = tmp_path / f"{NETWORK}.resume.npz"
    state.write_bytes(damage((trained[0] / state.name).read_bytes()))
    status, lines = refused(capsys, *SMALL, "--dataset", "drawn", "--output-dir", tmp_path, "--resume")
    assert (status, len(lines)) == (2, 1) and f"{state} is damaged" in lines[0] and "--resume" in lines[0]


# ------------------------------------------------------------------------------------------------------------
# Parts


def numbered(emotions):
    """A split whose every face is another."""
    faces = np.zeros((len(emotions), 4, 4, 1), np.uint8)
    faces[:, 0, 0, 0] = np.arange(len(emotions))
    return Split(faces, np.array(emotions))


def test_validates_on_public_test_where_there_is_one():
    data = Dataset({split: numbered([0, 0, 1, 1]) for split in SPLITS}).compact()
    chosen, validation, name, calibration = train.divide(data)
    assert (chosen.tolist(), validation, name) == ([0, 1, 2, 3], data["PublicTest"], "PublicTest")
    assert len(calibration.faces) == 0  # too few to fit anything to


def test_else_validates_on_a_stratified_tenth_of_training():
    data = Dataset({"Training": numbered([0] * 100 + [3] * 30), "PrivateTest": numbered([0])}).compact()
    chosen, validation, _, calibration = train.divide(data)
    assert np.bincount(validation.emotions).tolist() == [10, 3]
    assert np.bincount(data["Training"].emotions[chosen]).tolist() == [90, 27]
    assert sorted([*chosen, *validation.faces[:, 0, 0, 0]]) == list(range(130))
    assert calibration is validation


def test_holds_out_faces_to_calibrate_on(monkeypatch):
    monkeypatch.setattr(train, "smallest_calibration", 6)
    monkeypatch.setattr(train, "calibration_fraction", 0.1)
    data = Dataset({"Training": numbered([0] * 40 + [3] * 20), "PublicTest": numbered([3])}).compact()
    chosen, _, _, calibration = train.divide(data)
    assert len(chosen) == 54
    data["Training"].faces[chosen[:2]] = calibration.faces[0]  # what repeats a face held out is not learnt from, either
    chosen, _, _, calibration = train.divide(data)
    assert np.bincount(calibration.emotions).tolist() == [4, 2]
    apart = {face.tobytes() for face in calibration.faces} & {data["Training"].faces[i].tobytes() for i in chosen}
    assert not apart and len(chosen) == 52
    monkeypatch.setattr(train, "calibration_fraction", 0)
    assert len(train.divide(data)[0]) == 60


TOO_LITTLE = {
    "nothing": ({}, "needs a Training split"),
    "no Training": ({"PublicTest": numbered([1])}, "needs a Training split"),
    "one emotion": ({"Training": numbered([3, 3, 3, 3])}, "two emotions to tell apart; found only happy"),
    "a single image": ({"Training": numbered([0, 0, 0, 1])}, "two Training images at least; disgust has 1: add"),
    "none": (
        {"Training": numbered([0, 0]), "PrivateTest": numbered([6])},
        "two Training images at least; neutral has 0",
    ),
    "too few to hold any out": ({"Training": numbered([0, 0, 1, 1])}, "4 Training images are too few to hold any out"),
}


@pytest.mark.parametrize("case", TOO_LITTLE)
def test_too_little_to_train_on(case):
    data, message = TOO_LITTLE[case]
    with pytest.raises(ValueError, match=message) as caught:
        train.divide(Dataset(data).compact() if data else data)
    assert "\n" not in str(caught.value)


PRECISIONS = {
    "asked for": ("mixed_bfloat16", "jax", ["gpu:0"], "", "mixed_bfloat16"),
    "asked for float32": ("float32", "tensorflow", [], "amx_bf16", "float32"),
    "a processor with AVX512": ("auto", "tensorflow", [], "flags : sse avx512_bf16", "mixed_bfloat16"),
    "a processor with AMX": ("auto", "tensorflow", [], "flags : amx_bf16 amx_tile", "mixed_bfloat16"),
    "an older processor": ("auto", "tensorflow", [], "flags : sse avx2 avx512f", "float32"),
    "an accelerator": ("auto", "tensorflow", ["gpu:0"], "flags : amx_bf16", "float32"),
    "JAX": ("auto", "jax", [], "flags : amx_bf16", "float32"),
    "not Linux": ("auto", "tensorflow", [], None, "float32"),
}


@pytest.mark.parametrize("case", PRECISIONS)
def test_choose_precision(monkeypatch, case):
    wanted, backend, devices, flags, expected = PRECISIONS[case]

    def read_text(path, *_, **__):
        if flags is None:
            raise FileNotFoundError(path)
        return flags

    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda *_: devices)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert train.choose_precision(wanted, "big_XCEPTION") == expected
    assert train.choose_precision(wanted, "mini_XCEPTION") == ("float32" if wanted == "auto" else expected)


@pytest.mark.parametrize(("epochs", "peak"), [(10, 20), (2, 0)])
def test_cosine_rises_to_its_peak_and_falls_to_zero(epochs, peak):
    """Two epochs of warm-up out of ten, none in a run too short for it; ten steps each.  The average is as short."""
    args = ["--schedule", "cosine", "--learning-rate", "0.5", "--epochs", str(epochs)]
    optimizer = train.make_optimizer(train.parse_args(args), steps_per_epoch=10)
    rates = []
    for step in range(10 * epochs + 1):
        optimizer.iterations.assign(step)
        rates.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    assert int(np.argmax(rates)) == peak and max(rates) == pytest.approx(0.5)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-7)
    assert optimizer.ema_momentum == pytest.approx(np.exp(-1 / (20 if epochs == 10 else 4)))


@pytest.mark.parametrize("shape", [(40, 8), (8, 40), (16, 16)])
def test_orthogonalised(shape):
    """Singular vectors stay, singular values come close to 1, whatever they were."""
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    matrix = left * np.geomspace(1000, 30, min(shape)) @ right
    result = keras.ops.convert_to_numpy(train.orthogonalised(keras.ops.convert_to_tensor(matrix, "float32")))
    values = left.T @ result @ right.T
    assert np.diag(values).min() > 0.6 and np.diag(values).max() < 1.25
    assert values - np.diag(np.diag(values)) == pytest.approx(0, abs=1e-4)


def test_muon_is_adamw_but_for_the_kernels_that_mix_channels():
    kernels = set()
    steps = {}
    for name in ("muon", "adamw"):
        keras.utils.set_random_seed(0)
        model = NETWORKS["tiny_XCEPTION"]((48, 48, 1), 7)
        args = [
            "--optimizer",
            name,
            "--schedule",
            "plateau",
            "--learning-rate",
            "0.01",
            "--weight-decay",
            "0",
            "--epochs",
            "1",
        ]
        optimizer = train.make_optimizer(train.parse_args(args), steps_per_epoch=10)
        before = [keras.ops.convert_to_numpy(variable).copy() for variable in model.trainable_variables]
        rng = np.random.default_rng(0)
        gradients = [keras.ops.convert_to_tensor(rng.normal(size=v.shape), "float32") for v in before]
        optimizer.apply(gradients, model.trainable_variables)
        after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        steps[name] = [new - old for new, old in zip(after, before, strict=True)]
    for variable, muon, adamw in zip(model.trainable_variables, steps["muon"], steps["adamw"], strict=True):
        if np.array_equal(muon, adamw):
            continue
        kernels.add(variable.path.rpartition("/")[2])
        assert train.EMOTION_MAPS not in variable.path
        matrix = muon.reshape(-1, muon.shape[-1])
        sizes = np.linalg.svd(matrix, compute_uv=False) / (0.01 * 0.2 * np.sqrt(max(matrix.shape)))
        assert np.median(sizes) > 0.6 and sizes.max() < 1.25  # five iterations don't bring up the very smallest
    assert kernels == {"kernel", "pointwise_kernel"}


# ------------------------------------------------------------------------------------------------------------
# Augmentation

RANGES = ("rotation", "zoom", "shift", "contrast", "brightness", "erasing")


class Highest:
    """A random generator whose every draw is the upper end, and whose chances never come."""

    def uniform(self, low, high, size=None):
        return np.full(size, high)

    def random(self, size):
        return np.ones(size)


@pytest.fixture
def only(monkeypatch):
    """Set the augmentations given, and switch off all others."""

    def set_them(**settings):
        for name in RANGES:
            monkeypatch.setattr(train, name, settings.get(name, 0.0))
        monkeypatch.setattr(train, "flip", settings.get("flip", False))

    return set_them


def random_faces(n=64, height=9, width=9):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 1), np.uint8)


@pytest.mark.parametrize("shape", [(48, 48), (32, 40)])
def test_augment_shape_and_range(shape):
    faces = random_faces(40, *shape)
    images = train.augment(faces, np.random.default_rng(1))
    assert (images.shape, images.dtype) == ((40, *shape, 1), np.float32)
    assert images.min() >= -1 and images.max() <= 1
    np.testing.assert_array_equal(images, train.augment(faces, np.random.default_rng(1)))
    assert (images != train.augment(faces, np.random.default_rng(2))).any()
    np.testing.assert_array_equal(faces, random_faces(40, *shape))


def test_augment_by_nothing(only):
    only()
    faces = random_faces()
    np.testing.assert_array_equal(train.augment(faces, np.random.default_rng(0)), preprocess_images(faces))


def test_flip_mirrors_half_of_the_faces(only):
    only(flip=True)
    faces = random_faces(200, 8, 10)
    images, as_they_are = train.augment(faces, np.random.default_rng(0)), preprocess_images(faces)
    same = (images == as_they_are).all(axis=(1, 2, 3))
    mirrored = (images == as_they_are[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and 70 < mirrored.sum() < 130


# Where (row, column) of the result comes from in a face of 9 x 9, whose centre is (4, 4); the border mirrors none of
# these pixels into view again.
MOVES = {
    "a quarter turn": ({"rotation": 90.0}, (1, 1), (1, 7)),
    "a half turn": ({"rotation": 180.0}, (1, 2), (7, 6)),
    "half the size": ({"zoom": 1.0}, (2, 6), (0, 8)),
    "two pixels": ({"shift": 2 / 9}, (3, 2), (5, 4)),
    "a turn, then a shift": ({"rotation": 90.0, "shift": 1 / 9}, (4, 4), (5, 5)),
}


@pytest.mark.parametrize("case", MOVES)
def test_augment_moves_pixels(only, case):
    settings, to, source = MOVES[case]
    only(**settings)
    face = np.zeros((1, 9, 9, 1), np.uint8)
    face[0, *source] = 255
    image = train.augment(face, Highest())[0, :, :, 0]
    assert np.argwhere(image == 1).tolist() == [list(to)]
    assert (image == -1).sum() == 80


def test_strength_multiplies_the_settings(only):
    only(rotation=45.0, contrast=0.1, brightness=0.1, erasing=0.1)
    face = np.zeros((1, 9, 9, 1), np.uint8)
    face[0, 1, 7] = 255
    np.testing.assert_array_equal(train.augment(face, Highest(), 0), preprocess_images(face))
    assert train.augment(face, Highest(), 2)[0, 1, 1, 0] == 1  # a quarter turn


def test_contrast_and_brightness_by_hand(only):
    only(contrast=0.5, brightness=0.25)
    face = np.array([0, 51, 102, 204], np.uint8).reshape(1, 2, 2, 1)  # -1, -0.6, -0.2, 0.6
    expected = [-1, -0.65, -0.05, 1]  # times 1.5, plus 0.25, cut off at both ends
    np.testing.assert_allclose(train.augment(face, Highest()).ravel(), expected, atol=1e-6)


def test_erasing_fills_one_rectangle(only):
    only(erasing=1.0)
    faces = random_faces(20, 40, 40)
    images, before = train.augment(faces, np.random.default_rng(0)), preprocess_images(faces)
    for image, original in zip(images[..., 0], before[..., 0], strict=True):
        rows, columns = np.nonzero(image != original)
        box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(box)) == 1
        assert all(0.15 * 40 - 2 <= side <= 0.4 * 40 for side in box.shape)


def test_batches_follow_from_seed_epoch_and_batch():
    faces, emotions = random_faces(30), np.arange(30) % 7
    batches = {}
    for seed, epoch, batch in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]:
        for _ in range(2):
            sequence = train.AugmentedFaces(faces, np.eye(7, dtype=np.float32)[emotions], np.arange(30), 8, seed)
            sequence.epoch = epoch
            images, labels = sequence[batch]
            assert images.shape == (8, 9, 9, 1) and labels.shape == (8, 7) and (labels.sum(axis=1) == 1).all()
            if (seed, epoch, batch) in batches:
                np.testing.assert_array_equal(batches[seed, epoch, batch], images)
            batches[seed, epoch, batch] = images
    assert len({images.tobytes() for images in batches.values()}) == 4


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_are_changed_as_in_the_whole(monkeypatch, parts, mixup):
    monkeypatch.setattr(train, "erasing", 0.5)
    faces, labels = random_faces(30, 32, 32), np.eye(7, dtype=np.float32)[np.arange(30) % 7]
    given = [faces, labels, np.arange(30), 8, 3, 1.5, mixup]
    whole = train.AugmentedFaces(*given)
    shares = [train.AugmentedFaces(*given, part=(index, parts)) for index in range(parts)]
    for epoch, batch in [(0, 0), (0, 2), (5, 1)]:
        for sequence in (whole, *shares):
            sequence.epoch = epoch
        for expected, *pieces in zip(whole[batch], *(share[batch] for share in shares), strict=True):
            assert all(len(piece) == 8 // parts for piece in pieces)
            np.testing.assert_array_equal(np.concatenate(pieces), expected)


def test_mixup_blends_faces_and_labels_alike(only):
    """Every face has one brightness and a label of its own, so that labels say what a pixel must be."""
    only()
    faces = np.broadcast_to(8 * np.arange(32, dtype=np.uint8)[:, None, None, None], (32, 4, 4, 1))
    sequence = train.AugmentedFaces(faces, np.eye(32, dtype=np.float32), np.arange(32), 32, seed=0, mixup=0.3)
    images, labels = sequence[0]
    shares, brightness = np.sort(labels, axis=1), preprocess_images(faces)[:, 0, 0, 0]
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(shares[:, :-2], 0)
    np.testing.assert_array_equal(np.sort(labels.argmax(axis=1)), np.arange(32))  # the larger share is its own
    np.testing.assert_allclose(
        images, np.broadcast_to((labels @ brightness)[:, None, None, None], images.shape), atol=1e-5
    )
    assert 0.02 < shares[:, -2].mean() < 0.25 and shares[:, -2].max() > 0.1


def test_batches_that_were_looked_at_come_again():
    """What `fit` looks at before the first epoch of a resumed run is not learnt from in place of other batches."""
    sequence, fresh = (train.AugmentedFaces(random_faces(30), np.eye(7)[[0] * 30], np.arange(30), 8, 0) for _ in "ab")
    assert len(sequence[0][0]) == 8
    sequence.epoch = fresh.epoch = 4
    for batch in (0, 1, 2, 0):
        np.testing.assert_array_equal(sequence[batch][0], fresh[batch][0])


def test_every_face_at_most_once_an_epoch(only):
    only()
    sequence = train.AugmentedFaces(numbered([0] * 32).faces, np.eye(7)[np.arange(32) % 7], np.arange(2, 32), 8, seed=0)
    assert len(sequence) == 3
    orders = set()
    for epoch in range(3):
        sequence.epoch = epoch
        drawn = [(sequence[batch][0][:, 0, 0, 0], sequence[batch][1].argmax(axis=1)) for batch in range(3)]
        numbers = np.rint((np.concatenate([faces for faces, _ in drawn]) + 1) * 127.5).astype(int)
        assert len(set(numbers)) == 24
        orders.add(tuple(numbers))
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in drawn]), numbers % 7)
    assert len(orders) == 3


def test_fewer_faces_than_a_batch():
    sequence = train.AugmentedFaces(random_faces(9), np.eye(7)[[0] * 9], np.arange(4, 9), 128, seed=0)
    assert len(sequence) == 1 and len(sequence[0][0]) == 5


# ------------------------------------------------------------------------------------------------------------
# Votes, a teacher, calibration


def votes_csv(path, emotions, split="Training"):
    """FER+'s votes as its annotators might have cast them: six in ten for the emotion, four for the neighbour."""
    columns = [
        VOTES.index(name) for name in ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    ]
    lines = [",".join(("Usage", "Image name", *VOTES))]
    for emotion in emotions:
        counts = [0] * len(VOTES)
        counts[columns[emotion]], counts[columns[(emotion + 1) % 7]] = 6, 4
        lines.append(",".join((split, "fer.png", *map(str, counts))))
    path.write_text("\n".join(lines) + "\n")
    return path


def some_votes(emotions):
    """The votes of `votes_csv`, as they are loaded."""
    votes = np.zeros((len(emotions), len(VOTES)), np.float32)
    for row, emotion in zip(votes, emotions, strict=True):
        row[VOTED.index(EMOTIONS[emotion])], row[VOTED.index(EMOTIONS[(emotion + 1) % 7])] = 0.6, 0.4
    return votes


def test_votes_are_part_of_the_labels(monkeypatch):
    monkeypatch.setattr(train, "votes_share", 0.25)
    emotions = np.arange(70) % 7
    data = Dataset({"Training": Split(random_faces(70), emotions)})
    votes = some_votes(emotions)
    np.testing.assert_array_equal(train.labels_of(data, None, "share"), np.eye(7)[emotions])
    np.testing.assert_array_equal(train.labels_of(data, votes, "hard"), np.eye(7)[emotions])
    changed = emotions.copy()
    changed[:7] = 3  # an annotator whose votes say otherwise
    data["Training"] = Split(random_faces(70), changed)
    labels = train.labels_of(data, votes, "share")
    assert (labels.dtype, labels.shape) == (np.float32, (70, 7))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert 0.75 < labels[0, 3] < 0.95 and 0.02 < labels[0, 0] < 0.25  # one's label, then all the others'
    assert (labels[7:].argmax(axis=1) == emotions[7:]).all()


def test_votes_are_the_labels():
    data = Dataset({"Training": Split(random_faces(3), np.array([0, 6, 7]))}, (*EMOTIONS, "contempt")).compact()
    votes = np.zeros((3, len(VOTES)), np.float32)
    votes[0, [VOTES.index("anger"), VOTES.index("unknown")]] = 0.7, 0.3
    votes[1, [VOTES.index("neutral"), VOTES.index("contempt")]] = 0.6, 0.4
    votes[2, [VOTES.index("contempt"), VOTES.index("anger"), VOTES.index("NF")]] = 0.5, 0.25, 0.25
    labels = train.labels_of(data, votes, "soft")
    np.testing.assert_allclose(labels, [[1, 0, 0], [0, 0.6, 0.4], [1 / 3, 0, 2 / 3]], rtol=1e-6)


def test_votes_on_other_faces(tmp_path, capsys, faces_csv):
    emotions = np.repeat(np.arange(7), PER_EMOTION["Training"])
    arguments = ["--dataset", faces_csv, "--output-dir", tmp_path / "models", "--votes"]
    cases = (
        (votes_csv(tmp_path / "short.csv", emotions[1:]), ["row for row", "found 55 rows for 56"]),
        (votes_csv(tmp_path / "shuffled.csv", emotions), ["same images", "labels are the most voted"]),
        (tmp_path / "nobody.csv", ["does not exist", "FERPlus"]),
    )
    for votes, named in cases:
        status, lines = refused(capsys, *SMALL, *arguments, votes)
        assert (status, len(lines)) == (2, 1) and all(word in lines[0] for word in named), lines
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("votes_as", train.VOTES_AS)
def test_learning_from_votes(tmp_path, faces_csv, votes_as):
    with faces_csv.open() as file:
        rows = [(int(row["emotion"]), row["Usage"]) for row in csv.DictReader(file)]
    votes, contempt = tmp_path / "fer2013new.csv", {}
    lines = [",".join(("Usage", "Image name", *VOTES))]
    for emotion, split in rows:
        cast = dict.fromkeys(VOTES, 0) | {VOTES[VOTED.index(EMOTIONS[emotion])]: 6, "contempt": 4}
        if EMOTIONS[emotion] == "neutral" and contempt.setdefault(split, 0) < 2:
            contempt[split] += 1
            cast |= {"neutral": 1, "contempt": 9}
        lines.append(",".join((split, "", *map(str, cast.values()))))
    votes.write_text("\n".join(lines))
    arguments = ["--epochs", 1, "--votes", votes, "--votes-as", votes_as]
    assert run_csv(tmp_path / "models", faces_csv, *arguments) == 0
    settings = json.loads((tmp_path / "models" / f"{NETWORK}.settings.json").read_text())
    assert (settings["votes"], settings["votes_as"]) == ("fer2013new.csv", votes_as)
    (checkpoint,) = checkpoints(tmp_path / "models")
    expected = EMOTIONS if votes_as == "share" else (*EMOTIONS, "contempt")
    assert read_header(tmp_path / "models" / checkpoint).emotions == expected


@pytest.mark.parametrize("batch", [60, 20])
def test_statistics_are_those_of_the_faces(monkeypatch, batch):
    monkeypatch.setattr(train, "VALIDATED_AT_ONCE", batch)
    keras.utils.set_random_seed(0)
    model, faces = NETWORKS["simple_CNN"]((32, 32, 1), 7), random_faces(60, 32, 32)
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalisations:
        layer.moving_mean.assign(layer.moving_mean + 5.0)  # what was there before is gone
    train.renew_statistics(model, faces)
    for layer in (normalisations[0], normalisations[-1]):  # before all dropout, and after it
        below = keras.Model(model.inputs, layer.input).predict(preprocess_images(faces), verbose=0)
        mean, variance = below.mean(axis=(0, 1, 2)), below.var(axis=(0, 1, 2))
        close = {"atol": 0.02 * variance.max() ** 0.5} if batch == 60 else {"atol": 0.1 * variance.max() ** 0.5}
        np.testing.assert_allclose(layer.moving_mean.numpy(), mean, **close)
        np.testing.assert_allclose(layer.moving_variance.numpy() ** 0.5, variance**0.5, **close)
        assert layer.momentum == 0.99
    assert {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)} == {0.1}


@pytest.mark.parametrize("plain_faces", [0, 10])
def test_statistics_are_renewed_for_what_is_saved(tmp_path, faces_csv, monkeypatch, plain_faces):
    """On faces of Training; with none of them, those of training stay."""
    given = []
    monkeypatch.setattr(train, "plain_faces", plain_faces)
    monkeypatch.setattr(train, "renew_statistics", lambda model, faces: given.append(len(faces)))
    assert run_csv(tmp_path, faces_csv, "--epochs", 1) == 0
    assert given == [10] * bool(plain_faces)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_calibration_finds_the_temperature(monkeypatch):
    """With labels drawn at three times its logits, a network is as sure as right at a third of temperature 1."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[NETWORK]((32, 32, 1), 7)
    last = model.get_layer(EMOTION_MAPS)
    last.set_weights([20 * weight for weight in last.get_weights()])
    faces = random_faces(4000, 32, 32)
    faces[::2] //= 4
    before = model.predict(preprocess_images(faces), verbose=0)
    surer = softmax(3 * np.log(before))
    drawn = (np.random.default_rng(0).random((4000, 1)) < surer.cumsum(axis=1)).argmax(axis=1)
    temperature = train.calibrate(model, Split(faces, drawn))
    assert temperature == pytest.approx(1 / 3, rel=0.1)
    after = model.predict(preprocess_images(faces), verbose=0)
    np.testing.assert_allclose(after, softmax(np.log(before) / temperature), atol=1e-4)
    assert train.calibrate(model, Split(faces, drawn)) == pytest.approx(1, rel=0.05)  # once is enough
    assert train.calibrate(model, Split(faces[:100], drawn[:100])) == 1


def test_checkpoints_are_calibrated(tmp_path, faces_csv, monkeypatch):
    monkeypatch.setattr(train, "smallest_calibration", 5)
    monkeypatch.setattr(train, "calibration_fraction", 0.15)
    held_out, validated, calibrate, evaluate = [], [], train.calibrate, keras.Model.evaluate
    monkeypatch.setattr(train, "calibrate", lambda model, part: held_out.append(part) or calibrate(model, part))

    def recorded(model, *args, **how):
        validated.append(evaluate(model, *args, **how))
        return validated[-1]

    monkeypatch.setattr(keras.Model, "evaluate", recorded)
    assert run_csv(tmp_path, faces_csv, "--epochs", 1) == 0
    path = tmp_path / checkpoints(tmp_path)[0]
    with h5py.File(path) as file:
        temperature = file.attrs["temperature"]
    assert len(held_out[0].faces) == 7 and temperature != 1
    model, _ = load_checkpoint(path)
    faces, emotions = load_fer2013_data(faces_csv, (32, 32))["PublicTest"]
    of_the_true = model.predict(preprocess_images(faces), verbose=0)[np.arange(len(faces)), emotions]
    assert validated[0]["loss"] == pytest.approx(-np.log(of_the_true).mean(), rel=1e-4)  # what is validated is saved


def test_a_teachers_answers_are_part_of_the_labels(trained, monkeypatch):
    monkeypatch.setattr(train, "teacher_views", 2)
    monkeypatch.setattr(train, "VALIDATED_AT_ONCE", 2)  # several groups
    teacher = trained[0] / checkpoints(trained[0])[0]
    network = load_checkpoint(teacher)[0]
    faces, labels, chosen = random_faces(5, 32, 32), np.eye(7, dtype=np.float32)[[2] * 5], np.array([0, 1, 3])
    with_teacher = train.load_teacher([teacher], 0.25, EMOTIONS, (32, 32))
    for strength in (0.0, 1.0):  # mirrored, changed
        wanted = labels.copy()
        for some in ([0, 1], [3]):
            rng = np.random.default_rng((5, some[0]))
            views = [train.augment(faces[some], rng, strength) for _ in range(2)]
            answers = np.mean([network.predict(view, verbose=0) for view in views], axis=0)
            wanted[some] = 0.75 * labels[some] + 0.25 * answers
        taught = with_teacher(labels, faces, chosen, 5, strength)
        np.testing.assert_allclose(taught, wanted, atol=1e-5)
        np.testing.assert_array_equal(taught[[2, 4]], labels[[2, 4]])
    np.testing.assert_array_equal(labels, np.eye(7)[[2] * 5])


def test_learning_from_a_teacher(trained, tmp_path, faces_csv, monkeypatch, capsys):
    learnt = []
    batches = train.AugmentedFaces
    monkeypatch.setattr(
        train, "AugmentedFaces", lambda faces, labels, *rest: learnt.append(labels) or batches(faces, labels, *rest)
    )
    teacher = trained[0] / checkpoints(trained[0])[0]
    flags = "--epochs", 1, "--teacher", teacher, "--teacher-share", 0.9
    assert run_csv(tmp_path, faces_csv, *flags, network="big_XCEPTION") == 0
    settings = json.loads((tmp_path / "big_XCEPTION.settings.json").read_text())
    assert settings["teacher"] == [teacher.name] and settings["teacher_share"] == 0.9
    assert (learnt[0].max(axis=1) < 0.9).any() and learnt[0].sum(axis=1) == pytest.approx(1, abs=1e-5)
    capsys.readouterr()
    assert run_csv(tmp_path, faces_csv, *flags[:-1], 0.5, "--resume", network="big_XCEPTION") == 2
    assert "--resume keeps teacher_share" in capsys.readouterr().err

    monkeypatch.setattr(train, "load_teacher", None)  # of no share of the labels: not even asked
    flags = *flags[:-1], 0, "--label-smoothing", 0
    assert run_csv(tmp_path / "alone", faces_csv, *flags, network="tiny_XCEPTION") == 0
    assert (learnt[-1].max(axis=1) == 1).all()


def test_a_teacher_for_other_faces(trained, tmp_path, capsys, faces_csv):
    teacher = trained[0] / checkpoints(trained[0])[0]
    arguments = ["--dataset", faces_csv, "--output-dir", tmp_path / "models", "--teacher"]
    for given, flags, named in (
        (teacher, ["--image-size", "48", "48"], ["(48, 48)", "(32, 32)"]),
        (tmp_path / "nobody.hdf5", [], ["no checkpoint at", "nobody.hdf5"]),
    ):
        status, lines = refused(capsys, *SMALL, *arguments, given, *flags)
        lines = [line for line in lines if not line.startswith("compiling")]
        assert (status, len(lines)) == (2, 1) and all(word in lines[0] for word in named), lines
    assert not (tmp_path / "models").exists()


# ------------------------------------------------------------------------------------------------------- first weights
def test_starting_from_a_checkpoint(trained, tmp_path, faces_csv):
    checkpoint = trained[0] / checkpoints(trained[0])[0]
    weights = load_checkpoint(checkpoint)[0].get_weights()
    same, other = (train.build_network(NETWORK, (32, 32, 1), classes, "float32") for classes in (7, 3))
    fresh = other.get_weights()
    train.start_with_weights_of(checkpoint, same, EMOTIONS)
    train.start_with_weights_of(checkpoint, other, ("bored", "happy", "sad"))
    for got, wanted in zip(same.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, wanted)
    *kept, kernel, bias = other.get_weights()
    for got, wanted in zip(kept, weights[:-2], strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(kernel, fresh[-2])
    assert run_csv(tmp_path, faces_csv, "--epochs", 1, "--start-from", checkpoint) == 0
    assert json.loads((tmp_path / f"{NETWORK}.settings.json").read_text())["start_from"] == checkpoint.name


def test_starting_from_another_network(trained, tmp_path, capsys, faces_csv):
    checkpoint = trained[0] / checkpoints(trained[0])[0]
    arguments = ["--image-size", "32", "32", "--dataset", faces_csv, "--output-dir", tmp_path / "models"]
    for given, named in (
        (checkpoint, ["--start-from", "mini_XCEPTION", checkpoint.name, NETWORK]),
        (tmp_path / "nobody.hdf5", ["no checkpoint at", "nobody.hdf5"]),
    ):
        status, lines = refused(capsys, "--network", "mini_XCEPTION", *arguments, "--start-from", given)
        assert (status, len(lines)) == (2, 1) and all(word in lines[0] for word in named), lines
    assert not (tmp_path / "models").exists()
