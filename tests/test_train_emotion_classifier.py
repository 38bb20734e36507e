"""Tests of train_emotion_classifier: short runs on drawn faces, broken off and resumed, and bad flags and settings."""

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
from command_line import exit_status
from face_files.votes import VOTE_COLUMNS, VOTE_LABELS
from load_and_process import EMOTIONS, load_fer2013_data, preprocess_images
from models.checkpoint import DRAWN, load_checkpoint, read_header
from models.cnn import EMOTION_MAPS, NETWORKS
from training import automatic, run

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


def small(name):
    """A network of a few variables, with dropout and batch normalisation: a step takes a fifth of tiny_XCEPTION's."""

    def build(input_shape, num_classes, l2_regularization=0.0):
        layers, l2 = keras.layers, keras.regularizers.L2(l2_regularization) if l2_regularization else None
        x = inputs = keras.Input(input_shape)
        x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=3, use_bias=False, kernel_regularizer=l2)(x))
        x = layers.Dropout(0.25)(layers.ReLU()(x))
        maps = layers.Conv2D(num_classes, 3, name=EMOTION_MAPS, kernel_regularizer=l2)(x)
        x = layers.GlobalAveragePooling2D()(maps)
        return keras.Model(inputs, layers.Softmax(dtype="float32")(x), name=name)

    return build


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    """Small networks in place of two: the story of a run is the same for all."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (NETWORK, "simple_CNN"):
            patch.setitem(train.NETWORKS, name, small(name))
        yield


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


# ----------------------------------------------------------------------------------------------------------
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


def test_a_checkpoint_says_that_it_learnt_drawings(trained, tmp_path, faces_csv):
    (best,) = checkpoints(trained[0])
    assert read_header(trained[0] / best).trained_on == DRAWN
    assert run_csv(tmp_path, faces_csv, "--epochs", 1) == 0
    assert read_header(tmp_path / checkpoints(tmp_path)[0]).trained_on == ""


def test_checkpoints_in_kerass_own_format(tmp_path, faces_csv, capsys):
    settings = ["--checkpoint-format", "keras", "--monitor", "epoch"]
    assert run_csv(tmp_path, faces_csv, *settings, "--epochs", 1) == 0
    (first,) = tmp_path.glob("*.keras")
    assert run_csv(tmp_path, faces_csv, *settings, "--epochs", 2, "--resume") == 0
    (best,) = tmp_path.glob("*.keras")  # in place of the first
    assert first.name.startswith(f"{NETWORK}.001-") and best.name.startswith(f"{NETWORK}.002-")
    assert not checkpoints(tmp_path) and f"--model {best}" in capsys.readouterr().out
    assert read_header(best) == (NETWORK, EMOTIONS, (32, 32, 1), (-1, 1), "")
    faces, labels = load_fer2013_data(faces_csv, (32, 32))["PublicTest"]
    for model in (load_checkpoint(best)[0], keras.models.load_model(best)):
        answers = keras.ops.convert_to_numpy(model(preprocess_images(faces))).argmax(axis=1)
        assert f"{NETWORK}.002-{np.mean(answers == labels):.4f}.keras" == best.name


def test_nothing_to_resume_is_said_before_the_data_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "check_network", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main([*SMALL, "--dataset", "drawn", "--output-dir", str(tmp_path), "--resume"])
    assert f"no finished epoch of {NETWORK} in {tmp_path} to go on from" in capsys.readouterr().out


def test_settings_are_kept(trained):
    folder, printed = trained
    settings = json.loads((folder / f"{NETWORK}.settings.json").read_text())
    expected = {"network": NETWORK, "dataset": "drawn", "epochs": 3, "image_size": [32, 32], "batch_size": 14}
    assert expected.items() <= settings.items()
    assert {"seed", "learning_rate", "rotation", "ema_epochs", "keras", "backend"} <= set(settings)
    assert f'"network": "{NETWORK}"' in printed


def test_private_test_is_evaluated_once_at_the_end(trained):
    lines = [line for line in trained[1].splitlines() if "PrivateTest" in line]
    assert len(lines) == 1 and "of 14 faces" in lines[0]


# ----------------------------------------------------------------------------------------------------------
# Breaking off and going on


def run_csv(folder, faces_csv, *arguments, network=NETWORK, stop_in=None):
    """A run on the CSV; `stop_in`: the epoch, counted from 0, that Ctrl-C ends before anything of it is kept."""
    keep = run.BestCheckpoint.on_epoch_end

    def interrupt(self, epoch, logs):
        if epoch == stop_in:
            raise KeyboardInterrupt
        keep(self, epoch, logs)
        if "plateau" in arguments:
            logs["val_loss"] = float(epoch)  # one from the first epoch on, wherever this runs

    arguments = [*SMALL, "--network", network, "--dataset", faces_csv, "--output-dir", folder, *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.BestCheckpoint, "on_epoch_end", interrupt)
        patch.setattr(train, "draw_learning_curve", lambda rows, path, *_, **__: path.touch())  # half a second each
        return exit_status(train.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("schedule", "network"), [("cosine", "simple_CNN"), ("plateau", "tiny_XCEPTION")])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, faces_csv, schedule, network):
    patience = ["--plateau-patience", 2]  # an epoch before the break counts, and one after it
    settings = ["--epochs", 4, "--schedule", schedule, *patience]
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


# A process as this one is: with a small network, and eager.
RUN = """
import sys
sys.modules["sklearn"] = None  # Keras goes without it, and its import takes seconds
import train_emotion_classifier as train
sys.path.append("tests")
from test_train_emotion_classifier import NETWORK, small
import tensorflow
tensorflow.config.run_functions_eagerly(True)
del sys.modules["sklearn"]
train.NETWORKS[NETWORK] = small(NETWORK)
sys.exit(train.exit_status(train.main))
"""


def start(folder, faces_csv, *arguments):
    command = [sys.executable, "-c", RUN, *SMALL, "--dataset", faces_csv, "--output-dir", folder]
    command = [str(part) for part in (*command, "--epochs", 500, "--schedule", "plateau", *arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(process, folder, epoch):
    deadline = time.monotonic() + 300
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
    assert process.wait(120) == 130
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
    keep = run.BestCheckpoint.on_epoch_end

    def get_no_better(self, epoch, logs):  # in what is monitored: as good, then worse; the other always gets better
        told = {"accuracy": [0.5, 0.5, 0.4][epoch], "loss": [2.0, 1.5, 1.0][epoch]}
        if monitor == "val_loss":
            told = {"accuracy": [0.4, 0.5, 0.6][epoch], "loss": [2.0, 2.0, 2.5][epoch]}
        self.eval_model.evaluate = lambda *_, **__: told
        keep(self, epoch, logs)

    monkeypatch.setattr(run.BestCheckpoint, "on_epoch_end", get_no_better)
    still = ["--epochs", 9, "--early-stopping-patience", 2, "--monitor", monitor, "--schedule", "plateau"]
    assert run_csv(tmp_path, faces_csv, *still) == 0
    assert epochs_of(tmp_path) == [1, 2, 3]
    assert run_csv(tmp_path, faces_csv, *still, "--resume") == 0
    assert epochs_of(tmp_path) == [1, 2, 3]
    assert checkpoints(tmp_path) == [f"{NETWORK}.002-0.5000.hdf5"]


def test_early_stopping_waits_for_the_second_half_of_a_cosine(tmp_path, faces_csv, monkeypatch):
    """A run from good weights, which its high rates make worse."""
    keep = run.BestCheckpoint.on_epoch_end

    def rise_then_fall(self, epoch, logs):
        self.eval_model.evaluate = lambda *_, **__: {"accuracy": 0.5, "loss": [1.0, 2.0, 2.5, 2.4, 2.4, 2.4][epoch]}
        keep(self, epoch, logs)

    monkeypatch.setattr(run.BestCheckpoint, "on_epoch_end", rise_then_fall)
    assert run_csv(tmp_path, faces_csv, "--epochs", 6, "--early-stopping-patience", 2) == 0
    assert epochs_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    again = ["--epochs", 7, "--early-stopping-patience", 2, "--resume"]
    assert run_csv(tmp_path, faces_csv, *again) == 0  # already two since the 4th
    assert epochs_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_monitoring_the_epoch_keeps_the_last_whatever_the_figures(tmp_path, faces_csv, monkeypatch):
    keep = run.BestCheckpoint.on_epoch_end

    def get_worse(self, epoch, logs):
        self.eval_model.evaluate = lambda *_, **__: {"accuracy": 0.5 - epoch / 10, "loss": 1.0 + epoch}
        keep(self, epoch, logs)

    monkeypatch.setattr(run.BestCheckpoint, "on_epoch_end", get_worse)
    flags = ["--monitor", "epoch", "--early-stopping-patience", 1, "--schedule", "plateau"]
    assert run_csv(tmp_path, faces_csv, *flags, "--epochs", 3) == 0
    assert checkpoints(tmp_path) == [f"{NETWORK}.003-0.3000.hdf5"]
    assert run_csv(tmp_path, faces_csv, *flags, "--epochs", 4, "--resume") == 0
    assert checkpoints(tmp_path) == [f"{NETWORK}.004-0.2000.hdf5"] and epochs_of(tmp_path) == [1, 2, 3, 4]


def test_a_full_disk_leaves_what_was_saved(tmp_path, faces_csv, trained, limit_file_size, capsys):
    folder = Path(shutil.copytree(trained[0], tmp_path / "run"))
    before = contents(folder)
    limit_file_size(10_000)
    assert run_csv(folder, faces_csv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}") and "can't be written" in line
    after = contents(folder)
    settings = f"{NETWORK}.settings.json"
    assert after.pop(settings) != before.pop(settings)  # small enough to be written still
    assert after == before


# ----------------------------------------------------------------------------------------------------------
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
        ("epochs", 0, ["--epochs", "at least 1", "found 0"]),
        ("warmup_epochs", -1, ["--warmup-epochs", "at least 0", "found -1"]),
        ("votes_share", 1.5, ["--votes-share", "from 0 to 1", "found 1.5"]),
        ("zoom", 1, ["--zoom", "from 0 to below 1", "found 1"]),
        ("teacher_views", 2.5, ["--teacher-views", "int", "2.5"]),
        ("rotation", "ten", ["--rotation", "float", "'ten'"]),
        ("erasing", None, ["--erasing", "float", "None"]),
        ("flip", "no", ["--flip", "True or False", "found 'no'"]),
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


def test_a_network_of_ones_own_trains_through_calibration(tmp_path, faces_csv, monkeypatch, capsys):
    """The README's example: plain convolutions and a dense layer, on a CSV with a held-out part for calibration."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = {"keras": keras, "layers": keras.layers}
    exec(readme[readme.index("def plain_CNN(") :].split("```")[0], example)
    monkeypatch.setitem(train.NETWORKS, "plain_CNN", example["plain_CNN"])
    monkeypatch.setattr(train, "network_names", lambda: [*NETWORKS, "plain_CNN"])
    held_out = ("--calibration-fraction", 0.3, "--smallest-calibration", 5)
    assert run_csv(tmp_path, faces_csv, "--epochs", 2, *held_out, network="plain_CNN") == 0
    (best,) = checkpoints(tmp_path)
    with h5py.File(tmp_path / best) as file:
        assert best.startswith("plain_CNN.") and file.attrs["temperature"] != 1
    _, emotions = load_checkpoint(tmp_path / best)
    assert emotions == EMOTIONS
    assert "left for the last epoch" in capsys.readouterr().out


def test_names_of_networks_and_choices_are_those_of_the_libraries():
    assert train.network_names() == list(NETWORKS)
    assert set(train.MONITORS) == set(run.MONITORS)


def test_drawn_networks_do_not_lie_beside_those_that_come_trained():
    assert train.parse_args(["--dataset", "drawn"]).output_dir == ROOT / "models" / "drawn"
    assert train.parse_args([]).output_dir == ROOT / "models"
    assert train.parse_args(["--dataset", "drawn", "--output-dir", "models"]).output_dir == Path("models")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--network", "mini_xception"], "did you mean mini_XCEPTION?"),
        (["--teacher-share", "0.3"], "--teacher-share is about teachers' part"),
    ],
)
def test_a_mistake_is_told_before_the_libraries_load(arguments, line):
    """Under a Python that has no Keras."""
    code = "import runpy, sys; sys.modules['keras'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.argv = {['train_emotion_classifier.py', *arguments]}; " + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1


def test_each_network_gets_the_augmentation_that_suits_it():
    suited = {"tiny_XCEPTION": 0.7, "mini_XCEPTION": 1.0, "big_XCEPTION": 1.4, "simpler_CNN": 1.4, "simple_CNN": 1.4}
    assert {name: automatic.choose_augmentation("auto", name) for name in NETWORKS} == suited
    assert automatic.choose_augmentation(0.25, "simple_CNN") == 0.25


def test_thin_networks_see_fewer_disturbances():
    assert [automatic.choose_disturbances("auto", name) for name in ("mini_XCEPTION", "simple_CNN")] == [0.15, 0.3]
    assert automatic.choose_disturbances(0.05, "simple_CNN") == 0.05


def test_thin_networks_are_taught_more():
    suited = {"tiny_XCEPTION": 0.9, "mini_XCEPTION": 0.9, "big_XCEPTION": 0.5, "simpler_CNN": 0.5, "simple_CNN": 0.5}
    assert {name: automatic.choose_teacher_share("auto", name) for name in NETWORKS} == suited
    assert automatic.choose_teacher_share(0.25, "tiny_XCEPTION") == 0.25


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
    assert (args.epochs, train.parse_args(["--dataset", "drawn"]).epochs) == (80, 40)
    assert (args.start_from, args.teacher) == (Path("a.hdf5"), [Path("b.hdf5"), Path("c.hdf5")])
    assert (args.learning_rate, args.image_size, args.augmentation) == (1.0, (64, 48), 1.0)
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
    folder = tmp_path / "run"
    assert run_csv(folder, faces_csv, "--epochs", 1) == 0
    moved = tmp_path / "moved.csv"
    lines = faces_csv.read_text().splitlines(keepends=True)
    moved.write_text("".join(lines))
    assert run_csv(folder, moved, "--epochs", 2, "--resume") == 0
    assert f"note: dataset was {faces_csv}, goes on with {moved}" in capsys.readouterr().out
    assert epochs_of(folder) == [1, 2]

    moved.write_text("".join(lines[:-1]))
    before = contents(folder)
    status, (line,) = refused(capsys, *SMALL, "--dataset", moved, "--output-dir", folder, "--resume", "--epochs", 3)
    assert status == 2 and f"{moved} is not what the run in {folder} learns from, in number of " in line
    assert f"pass the data that it learnt from, --dataset {moved}, or" in line
    assert contents(folder) == before


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 999])
def test_resuming_from_a_damaged_file(tmp_path, trained, capsys, damage):
    state = tmp_path / f"{NETWORK}.resume.npz"
    state.write_bytes(damage((trained[0] / state.name).read_bytes()))
    status, lines = refused(capsys, *SMALL, "--dataset", "drawn", "--output-dir", tmp_path, "--resume")
    assert (status, len(lines)) == (2, 1) and f"{state} is damaged" in lines[0] and "--resume" in lines[0]


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
    assert automatic.choose_precision(wanted, "big_XCEPTION") == expected
    assert automatic.choose_precision(wanted, "mini_XCEPTION") == ("float32" if wanted == "auto" else expected)


# ----------------------------------------------------------------------------------------------------------
# Votes, a teacher, calibration


def votes_csv(path, emotions, split="Training"):
    """FER+'s votes as its annotators might have cast them: six in ten for the emotion, four for the neighbour."""
    columns = [
        VOTE_COLUMNS.index(name) for name in ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    ]
    lines = [",".join(("Usage", "Image name", *VOTE_COLUMNS))]
    for emotion in emotions:
        counts = [0] * len(VOTE_COLUMNS)
        counts[columns[emotion]], counts[columns[(emotion + 1) % 7]] = 6, 4
        lines.append(",".join((split, "fer.png", *map(str, counts))))
    path.write_text("\n".join(lines) + "\n")
    return path


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
def test_learning_from_votes(tmp_path, faces_csv, capsys, votes_as):
    with faces_csv.open() as file:
        rows = [(int(row["emotion"]), row["Usage"]) for row in csv.DictReader(file)]
    votes, contempt = tmp_path / "fer2013new.csv", {}
    lines = [",".join(("Usage", "Image name", *VOTE_COLUMNS))]
    for emotion, split in rows:
        cast = dict.fromkeys(VOTE_COLUMNS, 0) | {VOTE_COLUMNS[VOTE_LABELS.index(EMOTIONS[emotion])]: 6, "contempt": 4}
        if EMOTIONS[emotion] == "neutral" and contempt.setdefault(split, 0) < 2:
            contempt[split] += 1
            cast |= {"neutral": 1, "contempt": 9}
        lines.append(",".join((split, "", *map(str, cast.values()))))
    votes.write_text("\n".join(lines))
    arguments = ["--epochs", 1, "--votes", votes, "--votes-as", votes_as, "--logit-adjustment", 1]
    assert run_csv(tmp_path / "models", faces_csv, *arguments) == 0
    assert ("faces named as most people do, macro-F1" in capsys.readouterr().out) == (votes_as == "people")
    settings = json.loads((tmp_path / "models" / f"{NETWORK}.settings.json").read_text())
    assert (settings["votes"], settings["votes_as"]) == ("fer2013new.csv", votes_as)
    (checkpoint,) = checkpoints(tmp_path / "models")
    expected = EMOTIONS if votes_as in ("share", "people") else (*EMOTIONS, "contempt")
    assert read_header(tmp_path / "models" / checkpoint).emotions == expected


@pytest.mark.parametrize("faces", [0, 10])
def test_batch_norm_is_recalibrated_for_what_is_saved(tmp_path, faces_csv, monkeypatch, faces):
    given = []
    monkeypatch.setattr(run, "recalibrate_batch_norm", lambda model, faces: given.append(len(faces)))
    assert run_csv(tmp_path, faces_csv, "--epochs", 1, "--recalibration-faces", faces) == 0
    assert given == [faces]


def test_checkpoints_are_calibrated(tmp_path, faces_csv, monkeypatch):
    held_out, validated, calibrate, evaluate = [], [], run.calibrate, keras.Model.evaluate
    monkeypatch.setattr(run, "calibrate", lambda model, part: held_out.append(part) or calibrate(model, part))

    def recorded(model, *args, **how):
        validated.append(evaluate(model, *args, **how))
        return validated[-1]

    monkeypatch.setattr(keras.Model, "evaluate", recorded)
    flags = ["--epochs", 1, "--smallest-calibration", 5, "--calibration-fraction", 0.15]
    assert run_csv(tmp_path, faces_csv, *flags) == 0
    path = tmp_path / checkpoints(tmp_path)[0]
    with h5py.File(path) as file:
        temperature = file.attrs["temperature"]
    assert len(held_out[0].faces) == 7 and temperature != 1
    model, _ = load_checkpoint(path)
    faces, emotions = load_fer2013_data(faces_csv, (32, 32))["PublicTest"]
    of_the_true = model.predict(preprocess_images(faces), verbose=0)[np.arange(len(faces)), emotions]
    assert validated[0]["loss"] == pytest.approx(-np.log(of_the_true).mean(), rel=1e-4)  # what is validated is saved


@pytest.mark.usefixtures("compile_here")
def test_learning_from_a_teacher(trained, tmp_path, faces_csv, monkeypatch, capsys):
    learnt = []
    batches = train.AugmentedFaces
    monkeypatch.setattr(
        train,
        "AugmentedFaces",
        lambda faces, labels, *rest, **how: learnt.append(labels) or batches(faces, labels, *rest, **how),
    )
    teacher = trained[0] / checkpoints(trained[0])[0]
    flags = "--epochs", 1, "--teacher", teacher, "--teacher-share", 0.9
    assert run_csv(tmp_path, faces_csv, *flags, network="simple_CNN") == 0
    settings = json.loads((tmp_path / "simple_CNN.settings.json").read_text())
    assert settings["teacher"] == [teacher.name] and settings["teacher_share"] == 0.9
    assert (learnt[0].max(axis=1) < 0.9).any() and learnt[0].sum(axis=1) == pytest.approx(1, abs=1e-5)
    capsys.readouterr()
    assert run_csv(tmp_path, faces_csv, *flags[:-1], 0.5, "--resume", network="simple_CNN") == 2
    assert "--resume keeps teacher_share" in capsys.readouterr().err

    monkeypatch.setattr(train, "check_teachers", None)  # of no share of the labels: not even loaded
    monkeypatch.setattr(train, "blend_teacher_labels", None)
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


# ----------------------------------------------------------------------------------------------------------
# First weights


def test_starting_from_a_checkpoint(trained, tmp_path, faces_csv):
    checkpoint = trained[0] / checkpoints(trained[0])[0]
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


@pytest.mark.parametrize(
    "bug",
    [lambda: list(zip([1], [1, 2], strict=True)), lambda: Path("no such internal file").read_text()],
    ids=["zip", "missing file"],
)
def test_a_bug_keeps_its_traceback(tmp_path, faces_csv, monkeypatch, bug):
    monkeypatch.setattr(train, "make_optimizer", lambda *_, **__: bug())
    with pytest.raises((ValueError, FileNotFoundError), match="zip|internal file"):
        run_csv(tmp_path, faces_csv, "--epochs", 1)


def test_every_setting_is_a_flag_and_is_kept(tmp_path, faces_csv):
    """The settings block, the flags and the settings file have the same names."""
    source = Path(train.__file__).read_text()
    block = source.split("# fmt: off")[1].split("# fmt: on")[0]
    settings = {line.split(" = ")[0] for line in block.splitlines() if " = " in line and line[0].isalpha()}
    not_settings = {"resume", "hosts", "host_index"}
    assert set(vars(train.parse_args([]))) == settings | {"dataset", "image_size"} | not_settings
    kept = set(train.resolved_settings(train.parse_args([])))
    assert kept == settings | {"dataset", "image_size", "hosts", "keras", "backend"}


@pytest.mark.parametrize("path", ["loop", "~nobody_of_this_name/data"])
def test_settings_tell_of_paths_that_can_not_be_followed(path, tmp_path, monkeypatch):
    """The data set's own check gives their error in one line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert train.resolved_settings(train.parse_args(["--dataset", path]))["dataset"] == str(tmp_path / path)


@pytest.mark.parametrize(("flag", "value"), [("--flip", True), ("--no-flip", False)])
def test_switches_go_both_ways(flag, value):
    assert train.parse_args([flag]).flip is value
