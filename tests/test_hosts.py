"""Tests of hosts: what the environment says, processes that agree and end together, and training on two of them."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import drawn_faces
import load_and_process
from load_and_process import EMOTIONS, Dataset, Split
from training import hosts

ROOT = Path(__file__).parents[1]
NETWORK = "tiny_XCEPTION"
PER_EMOTION = {"Training": 4, "PublicTest": 2, "PrivateTest": 1}
FIRST, SECOND = "host 0 (127.0.0.1)", "host 1 (localhost)"

with_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="several hosts train on JAX: pip install jax")
with_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")


# ------------------------------------------------------------------------------------------------------------
# Where a process stands

SLURM = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "3", "SLURM_JOB_ID": "4711", "SLURM_PROCID": "2"}
PLACES = {
    "nothing": (None, None, {}, ((), 0, 0)),
    "flags": ("a:1234,b", 1, {}, (("a", "b"), 1234, 1)),
    "ports of the others": (" a.b-c:1234 , 10.0.0.2:99 ", 0, {}, (("a.b-c", "10.0.0.2"), 1234, 0)),
    "IPv6": ("[fd00::1]:1234,[fd00::2]", 1, {}, (("fd00::1", "fd00::2"), 1234, 1)),
    "one host": ("a:1234", None, {}, ((), 0, 0)),
    "the environment": (None, 1, {"EMOTION_HOSTS": "a:1,b"}, (("a", "b"), 1, 1)),
    "flags over the environment": ("c:2,d", 0, {"EMOTION_HOSTS": "a:1,b"}, (("c", "d"), 2, 0)),
    "Kubernetes": ("a:1,b", None, {"JOB_COMPLETION_INDEX": "1", "SLURM_PROCID": "0"}, (("a", "b"), 1, 1)),
    "an index of Kubernetes alone": (None, None, {"JOB_COMPLETION_INDEX": "1"}, ((), 0, 0)),
    "Slurm's index": ("a:1,b", None, {"SLURM_PROCID": "1"}, (("a", "b"), 1, 1)),
    "Slurm": (None, None, SLURM | {"SLURM_STEP_NODELIST": "n[08-10]"}, (("n08", "n09", "n10"), 19711, 2)),
    "Slurm's job": (None, None, SLURM | {"SLURM_JOB_NODELIST": "a,b,c"}, (("a", "b", "c"), 19711, 2)),
    "two tasks a node": (None, None, SLURM | {"SLURM_JOB_NODELIST": "a,b"}, (("a", "task 1", "task 2"), 19711, 2)),
    "one task": (None, None, SLURM | {"SLURM_NTASKS": "1"}, ((), 0, 0)),
    "one task of a larger job": (None, None, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, ((), 0, 0)),
    "a batch script": (None, None, {"SLURM_NTASKS": "3", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}, ((), 0, 0)),
}


@pytest.mark.parametrize("case", PLACES)
def test_place(case):
    text, index, environment, (names, port, place) = PLACES[case]
    assert hosts.find_place(text, index, environment) == hosts.Place(names or ("this host",), port, place)


BAD_PLACES = {
    "no port": ("a,b", 0, {}, ["'a'", "a:12345"]),
    "an empty entry": ("a:1,,b", 0, {}, ["''", "host0:port,host1"]),
    "no such port": ("a:0,b", 0, {}, ["'a:0'", "1 to 65535"]),
    "a larger port": ("a:1,b:65536", 0, {}, ["'b:65536'"]),
    "letters": ("a:x,b", 0, {}, ["'a:x'"]),
    "spaces": ("a:1 b", 0, {}, ["'a:1 b'"]),
    "no index": ("a:1,b", None, {}, ["--host-index", "0 to 1"]),
    "too high": ("a:1,b", 2, {}, ["0 to 1", "found 2"]),
    "too high for one": ("a:1", 1, {}, ["0 to 0", "found 1"]),
    "an index alone": (None, 0, {}, ["found 0 without --hosts"]),
    "no number": ("a:1,b", None, {"JOB_COMPLETION_INDEX": "x"}, ["JOB_COMPLETION_INDEX", "'x'"]),
    "no number of Slurm": (None, None, SLURM | {"SLURM_NTASKS": "3x"}, ["SLURM_NTASKS", "'3x'"]),
    "no nodes": (None, None, SLURM, ["SLURM_STEP_NODELIST", "--hosts"]),
    "torn": (None, None, SLURM | {"SLURM_JOB_NODELIST": "n[1-"}, ["'n[1-'", "--hosts"]),
    "no range": (None, None, SLURM | {"SLURM_JOB_NODELIST": "n[a-b]"}, ["'n[a-b]'"]),
}


@pytest.mark.parametrize("case", BAD_PLACES)
def test_bad_place(case):
    text, index, environment, named = BAD_PLACES[case]
    with pytest.raises(ValueError) as caught:
        hosts.find_place(text, index, environment)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in named), caught.value


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node[01-03,07],gpu3", ["node01", "node02", "node03", "node07", "gpu3"]),
        ("a", ["a"]),
        ("a-[9-11]-ib", ["a-9-ib", "a-10-ib", "a-11-ib"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
    ],
)
def test_expand_nodes(text, names):
    assert hosts.expand_nodes(text) == names


def test_a_job_of_one_host_does_nothing():
    with hosts.Job() as job:
        assert (job.count, job.first, job.gather(3), job.share("x"), job.share_bytes(b"y")) == (1, True, [3], "x", b"y")
        job.agree("agree", {"a": 1}, "do so")
        job.start_jax()


def test_data_that_differ_are_told_apart():
    faces, emotions = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 1), np.uint8), np.arange(600) % 3
    data = Dataset({"Training": Split(faces, emotions)}, ("a", "b", "c"))
    labels, chosen = np.eye(3, dtype=np.float32)[emotions], np.arange(600)
    facts = hosts.data_of(data, labels, chosen)
    assert facts["emotions"] == ["a", "b", "c"] and facts["number of b faces in Training"] == 200
    assert json.loads(json.dumps(facts)) == facts == hosts.data_of(data, labels, chosen)
    others = faces.copy()
    others[317, 2, 3] += 1  # one pixel of one face
    changed = Dataset({"Training": Split(others, emotions)}, data.emotions)
    assert {name for name, value in hosts.data_of(changed, labels, chosen).items() if value != facts[name]} == {
        "every face in Training"
    }
    assert hosts.data_of(data, labels[::-1], chosen)["labels"] != facts["labels"]


def test_faces_in_a_file_are_compared_like_those_in_memory(tmp_path, monkeypatch):
    """Every one of them, in parts, and however they are cut."""
    monkeypatch.setattr(load_and_process, "IN_MEMORY", 0)
    source = write_csv(tmp_path / "fer2013.csv")
    load_and_process.load_fer2013_data(source, (400, 400))  # writes the cache
    mapped = load_and_process.load_fer2013_data(source, (400, 400))
    assert isinstance(mapped["Training"].faces.base, np.memmap)
    copied = Dataset({name: Split(np.array(faces), emotions) for name, (faces, emotions) in mapped.items()})
    assert mapped["Training"].faces.nbytes < 2**23 < 3 * mapped["Training"].faces.nbytes
    labels, chosen = np.eye(7, dtype=np.float32)[copied["Training"].emotions], np.arange(3)
    facts = hosts.data_of(copied, labels, chosen)
    assert hosts.data_of(mapped, labels, chosen) == facts
    copied["Training"].faces[-1, -1, -1] ^= 1
    changed = hosts.data_of(copied, labels, chosen)
    assert [name for name in facts if facts[name] != changed[name]] == ["every face in Training"]


# ------------------------------------------------------------------------------------------------------------
# Processes that do nothing but talk

TALK = """
import sys, time
from training import hosts
from command_line import exit_status
hosts.start_timeout, hosts.silence_timeout, hosts.heartbeat = float(sys.argv[3]), 3.0, 0.2

def main(argv):
    with hosts.Job(hosts.find_place(sys.argv[1], int(sys.argv[2]))) as job:
        {}
        print("done", flush=True)
    return 0

sys.exit(exit_status(main))
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command, environment=None, folder=ROOT):
    command = [sys.executable, *map(str, command)]
    environment = os.environ | (environment or {})
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def talk(what, index, port, count=2, given=20.0, first="127.0.0.1"):
    names = [first, "localhost", "127.0.0.1"][:count]
    names[0] += f":{port}"
    return start(["-c", TALK.format(what), ",".join(names), index, given])


def ended(*processes, within=60):
    """(exit status, lines on standard output, on standard error) of each."""
    results = []
    for process in processes:
        out, err = process.communicate(timeout=within)
        results.append((process.returncode, out.splitlines(), err.splitlines()))
    return results


def test_values_reach_every_host():
    what = "print(job.gather(job.index), job.share(job.names[job.index]), len(job.share_bytes(bytes(10**7))))"
    port = free_port()
    for result in ended(*[talk(what, index, port, 3) for index in (2, 0, 1)]):
        assert result == (0, ["[0, 1, 2] 127.0.0.1 10000000", "done"], [])


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_reaches_every_host(failing):
    what = f"if job.index == {failing}: raise FileNotFoundError('no data here\\nmore')\n        job.gather(0)"
    port = free_port()
    results = ended(*[talk(what, index, port, 3) for index in range(3)])
    named = f"error: {(FIRST, SECOND)[failing]}: no data here"
    for index, (status, out, err) in enumerate(results):
        assert (status, out) == (2, [])
        assert err == (["error: no data here", "more"] if index == failing else [named])


def test_a_bug_reaches_every_host():
    what = "if job.index == 1: raise KeyError('x')\n        job.gather(0)"
    port = free_port()
    (status, _, err), (other_status, _, other_err) = ended(*[talk(what, index, port) for index in range(2)])
    assert (status, err) == (1, [f"error: {SECOND}: KeyError: 'x'"])
    assert other_status == 1 and other_err[0].startswith("Traceback")


def test_what_differs_is_named_by_every_host():
    what = "job.agree('run the same code', {'a.py': 1, 'b.py': job.index // 2}, 'copy it')"
    port = free_port()
    line = "error: all hosts must run the same code; found that host 2 (127.0.0.1) differs from host 0 in b.py: "
    for result in ended(*[talk(what, index, port, 3) for index in range(3)]):
        assert result == (2, [], [f"{line}1 against 0: copy it"])


@with_signals
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP", "SIGINT"])
def test_a_host_that_ends_ends_all(victim, how):
    port = free_port()
    processes = [talk("print('here', flush=True); time.sleep(60)", index, port) for index in range(2)]
    for process in processes:
        assert process.stdout.readline() == "here\n"
    processes[victim].send_signal(getattr(signal, how))
    began = time.monotonic()
    ((status, _, (line,)),) = ended(processes[1 - victim])
    assert time.monotonic() - began < 15
    who = (FIRST, SECOND)[victim]
    if how == "SIGINT":
        assert (status, line) == (130, f"stopped at {who}; start all of them again")
        assert ended(processes[victim]) == [(130, [], [])]
        return
    why = {"SIGKILL": "closed|reset", "SIGSTOP": "3 s of silence"}[how]
    assert status == 1 and f"found that {who} is gone" in line and "start all of them again" in line
    assert re.search(why, line), line
    processes[victim].kill()
    ended(processes[victim])


def test_nobody_comes():
    ((status, _, (line,)),) = ended(talk("", 0, free_port(), 3, given=1))
    assert status == 1 and "found no sign of host 1 (localhost), host 2 (127.0.0.1)" in line and "1 s" in line


def test_nobody_is_there():
    port = free_port()
    ((status, _, (line,)),) = ended(talk("", 1, port, given=1))
    assert status == 1 and f"must reach host 0 at 127.0.0.1:{port}" in line and "refused" in line


def test_no_such_name():
    ((status, _, (line,)),) = ended(talk("", 1, free_port(), given=1, first="nowhere.invalid"))
    assert status == 1 and "must reach host 0 at nowhere.invalid" in line and "see that host 0 runs" in line


def test_all_wait_until_the_first_of_them_may_not_any_more():
    """Host 1 starts, some seconds later host 0, and host 2 never: one deadline for all."""
    port, began = free_port(), time.monotonic()
    early = talk("", 1, port, 3, given=8)
    time.sleep(4)
    for status, _, (line,) in ended(early, talk("", 0, port, 3, given=8)):
        assert status == 1 and "within 8 s of each other; found no sign of host 2 (127.0.0.1)" in line
    assert 7 < time.monotonic() - began < 11.5  # and not 12


# A JAX that never comes to an end of its start.
HANGING = """import types
        stuck = types.SimpleNamespace(initialize=lambda *_, **more: time.sleep(60))
        sys.modules["jax"] = types.SimpleNamespace(
            distributed=stuck, config=types.SimpleNamespace(update=lambda *_: None))
        hosts.jax_timeout, began = 2.0, time.monotonic()
        job.start_jax()"""


def test_the_wait_for_hosts_and_for_jax_have_one_deadline():
    port, began = free_port(), time.monotonic()
    first = talk(HANGING, 0, port, given=6)
    time.sleep(3)
    results = ended(first, talk(HANGING, 1, port, given=6))
    assert 7 < time.monotonic() - began < 10.5  # and not 3 + 6 + 2
    for status, _, (line,) in results:
        assert status == 1 and "could not start" in line and "no answer within 8 s of the start" in line


def test_one_of_three_does_not_come():
    port = free_port()
    for status, _, (line,) in ended(*[talk("", index, port, 3, given=2) for index in (0, 1)]):
        assert status == 1 and "found no sign of host 2 (127.0.0.1)" in line


def test_another_program_is_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ((status, _, (line,)),) = ended(talk("", 1, server.getsockname()[1]))
    assert status == 1 and "another program" in line and "--hosts" in line


def test_the_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ((status, _, (line,)),) = ended(talk("", 0, server.getsockname()[1]))
    assert status == 1 and "must be able to listen" in line


def test_the_same_index_twice():
    port = free_port()
    for status, _, (line,) in ended(*[talk("", index, port, 3) for index in (0, 1, 1)]):
        assert status == 1 and "a --host-index of its own; found 1 twice" in line


def test_another_list():
    port = free_port()
    results = ended(talk("", 0, port, 2), talk("", 1, port, 3))
    for status, _, (line,) in results:
        assert status == 1 and f"127.0.0.1:{port}" not in line and "found 127.0.0.1,localhost,127.0.0.1 at" in line


def test_strangers_are_sent_away():
    port = free_port()
    first = talk("", 0, port)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n")
                assert not stranger.recv(100)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
        except ConnectionResetError:
            break
    assert ended(first, talk("", 1, port)) == [(0, ["done"], [])] * 2


def test_another_backend(tmp_path):
    command = ["train_emotion_classifier.py", "--hosts", "a:1,b", "--host-index", 0, "--output-dir", tmp_path]
    ((status, _, (line,)),) = ended(start(command, {"KERAS_BACKEND": "tensorflow"}))
    assert status == 2 and "found tensorflow: set KERAS_BACKEND=jax" in line


# ------------------------------------------------------------------------------------------------------------
# Training on two of them

# A network that is compiled in seconds, with dropout and batch normalisation, whose figures are those of a whole batch.
# It computes in float64: the optimizer's first steps make more of float32's rounding.  Each epoch says a hash of all
# there is to go on with, and its losses; from epoch SLOW on, batches come slowly.
TRAIN = """
import os, sys, time
import keras
keras.config.set_floatx("float64")
from training import hosts
import train_emotion_classifier as train
from command_line import exit_status
hosts.start_timeout = 30.0
train.choose_precision = lambda wanted, name: "float64"

def small(input_shape, classes, l2=0.0):
    layers = keras.layers
    x = inputs = keras.Input(input_shape)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, strides=3, use_bias=False)(x))
    x = layers.Dropout(0.25)(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(classes, 3, name=train.EMOTION_MAPS)(x))
    return keras.Model(inputs, layers.Softmax()(x), name="tiny_XCEPTION")

train.NETWORKS["tiny_XCEPTION"] = small
slow = int(os.environ.get("SLOW", "1000"))
end, read = train.RunRecord.on_epoch_end, train.AugmentedFaces.__getitem__

def on_epoch_end(self, epoch, logs):
    end(self, epoch, logs)
    weights = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
    print("weights", epoch + 1, hosts.short_hash(*[value.tobytes() for value in weights]))
    print("losses", epoch + 1, float(logs["loss"]), float(logs["val_loss"]), flush=True)

def getitem(self, batch):
    if self.epoch >= slow:
        print("slow", flush=True)
        time.sleep(0.5)
    return read(self, batch)

train.RunRecord.on_epoch_end, train.AugmentedFaces.__getitem__ = on_epoch_end, getitem
sys.exit(exit_status(train.main))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The environment of all runs: JAX on the processor, which compiles the same step once."""
    return {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }


def write_csv(path, without=()):
    with path.open("w") as file:
        file.write("emotion,pixels,Usage\n")
        for split, (faces, emotions) in drawn_faces.draw_dataset((32, 32), 0, PER_EMOTION).items():
            for face, emotion in zip(faces, emotions, strict=True):
                if emotion not in without:
                    file.write(f"{emotion},{' '.join(map(str, face.ravel()))},{split}\n")
    return path


def write_folder(path, without=()):
    """A folder of drawn faces, less some (split, emotion)."""
    for name, split in (("train", "Training"), ("validation", "PublicTest")):
        (faces, emotions) = drawn_faces.draw_dataset((32, 32), 0, PER_EMOTION)[split]
        for number, (face, emotion) in enumerate(zip(faces, emotions, strict=True)):
            folder = path / name / EMOTIONS[emotion]
            if (name, EMOTIONS[emotion]) not in without:
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{number}.png"), face)
    return path


@pytest.fixture(scope="module")
def faces_csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("data") / "fer2013.csv")


def training(folder, faces_csv, environment, *arguments, script=("-c", TRAIN), where=ROOT):
    small = ["--network", NETWORK, "--image-size", 32, 32, "--batch-size", 14, "--epochs", 3]
    command = [*script, *small, "--dataset", faces_csv, "--output-dir", folder, *arguments]
    return start(command, environment, where)


def on_two(folder, faces_csv, environment, *arguments):
    """Two processes; host 0 writes to the folder 0."""
    named = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    return [training(folder / str(i), faces_csv, environment, *arguments, *named, i) for i in range(2)]


def log(folder):
    with (folder / f"{NETWORK}.log.csv").open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def said(word, lines):
    return [line for line in lines if line.startswith(word)]


def wait_for(process, word):
    """Read what a process says until a line has that word."""
    while word not in (line := process.stdout.readline()):
        assert line or process.poll() is None, process.stderr.read()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, faces_csv, compiled):
    """A run of three epochs on two hosts: (folder, its results)."""
    folder = tmp_path_factory.mktemp("two")
    results = ended(*on_two(folder, faces_csv, compiled), within=120)
    assert [status for status, _, _ in results] == [0, 0], results
    return folder, results


def same_run(folder, other, tolerance=1e-6):
    """See that two runs have the same log and the same weights."""
    for row, expected in zip(log(folder), log(other), strict=True):
        assert row == pytest.approx(expected, rel=tolerance)
    with np.load(folder / f"{NETWORK}.resume.npz") as ours, np.load(other / f"{NETWORK}.resume.npz") as theirs:
        assert ours.files == theirs.files and len(ours.files) > 20
        for name in set(ours.files) - {"description"}:
            np.testing.assert_allclose(ours[name], theirs[name], atol=tolerance, rtol=tolerance)


@with_jax
def test_two_hosts_train_as_one(unbroken, tmp_path, faces_csv, compiled):
    folder, (first, second) = unbroken
    for word in ("weights", "losses"):
        assert said(word, first[1]) == said(word, second[1]) and len(said(word, first[1])) == 3
    for line, row in zip(said("losses", second[1]), log(folder / "0"), strict=True):
        assert [*map(float, line.split()[2:])] == pytest.approx([row["loss"], row["val_loss"]], rel=1e-5)
    assert first[2] == second[2] == []
    others = [line for line in second[1] if "[Gloo]" not in line and not line.startswith(("weights", "losses"))]
    assert others == [] and "PrivateTest" in " ".join(first[1])
    assert os.listdir(folder) == ["0"] and len(os.listdir(folder / "0")) == 5

    ((status, _, err),) = ended(training(tmp_path / "one", faces_csv, compiled), within=120)
    assert (status, err) == (0, [])
    same_run(folder / "0", tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(folder / "0"))


@with_jax
def test_devices_of_one_host_share_a_batch(unbroken, tmp_path, faces_csv, compiled):
    """Two devices in one process compute what two processes do."""
    environment = compiled | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    ((status, out, err),) = ended(training(tmp_path, faces_csv, environment), within=120)
    assert (status, err) == (0, []), err
    same_run(tmp_path, unbroken[0] / "0")


@with_jax
@with_signals
@pytest.mark.parametrize(("victim", "how"), [(1, "SIGINT"), (1, "SIGTERM"), (1, "SIGKILL"), (0, "SIGKILL")])
def test_a_host_that_ends_in_mid_epoch(tmp_path, faces_csv, compiled, unbroken, victim, how):
    """The other ends with one line; both go on as if nothing had been, though one of them has none of the files."""
    processes = on_two(tmp_path, faces_csv, compiled | {"SLOW": "2"})
    for process in processes:
        wait_for(process, "slow")
    processes[victim].send_signal(getattr(signal, how))
    began = time.monotonic()
    ((status, _, (line,)),) = ended(processes[1 - victim])
    assert time.monotonic() - began < 30
    who, stopped = (FIRST, SECOND)[victim], how in ("SIGINT", "SIGTERM")
    assert (status, who in line) == (130 if stopped else 1, True), line
    assert "start all of them again with --resume, which goes on after epoch 2" in line
    ((status, _, err),) = ended(processes[victim])
    assert (status, err) == ((130, []) if stopped else (-signal.SIGKILL, []))
    assert len(log(tmp_path / "0")) == 2 and not list((tmp_path / "0").glob(".*"))

    if how != "SIGTERM":
        results = ended(*on_two(tmp_path, faces_csv, compiled, "--resume"), within=120)
        assert [(status, err) for status, _, err in results] == [(0, [])] * 2
        for word in ("weights", "losses"):
            assert said(word, results[0][1]) == said(word, results[1][1]) != []
        same_run(tmp_path / "0", unbroken[0] / "0")


@with_jax
def test_batches_that_can_not_be_divided(tmp_path, faces_csv, compiled):
    results = ended(*on_two(tmp_path, faces_csv, compiled, "--batch-size", 13), within=60)
    for status, _, (line,) in results:
        assert (
            status == 2
            and "--batch-size must be divisible by 2" in line
            and "found 13: pass --batch-size 12 or 14" in line
        )


@with_jax
def test_a_firewall_between_the_hosts(tmp_path, faces_csv, compiled):
    blocked = (
        "hosts.Relay._connect = lambda self, near: time.sleep(60)\n"
        "hosts.start_timeout, hosts.jax_timeout = 4.0, 4.0\ntrain.choose"
    )
    script = ("-c", TRAIN.replace("train.choose", blocked, 1))
    at = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    for status, _, (line,) in ended(
        *[training(tmp_path, faces_csv, compiled, *at, i, script=script) for i in range(2)]
    ):
        assert status == 1 and "could not start" in line and "no answer within 8 s" in line and "firewall" in line


def other_settings(tmp_path, faces_csv):
    return ["--learning-rate", 0.1], faces_csv, ROOT, ["the same settings", "in learning_rate: 0.1 against 0.006"]


def other_code(tmp_path, faces_csv):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in hosts.code_of(ROOT):  # Python looks for modules beside the script first
        (copy / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    with (copy / "models" / "cnn.py").open("a") as file:
        file.write("# mine\n")
    return [], faces_csv, copy, ["the same code", "in models/cnn.py", "copy it"]


def other_data(tmp_path, faces_csv):
    named = ["the same data", "in emotions: angry, fear, happy", "against angry, disgust, fear", "copy them"]
    return [], write_csv(tmp_path / "fewer.csv", without=[1]), ROOT, named


def no_data(tmp_path, faces_csv):
    return [], tmp_path / "nowhere.csv", ROOT, ["nowhere.csv does not exist"]


@with_jax
@pytest.mark.parametrize("case", [other_settings, other_code, other_data, no_data])
def test_what_a_host_has_of_its_own(tmp_path, faces_csv, compiled, case):
    flags, data, where, named = case(tmp_path, faces_csv)
    at = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    script = ["train_emotion_classifier.py"] if case is other_code else ["-c", TRAIN]
    processes = [
        training(tmp_path / "0", faces_csv, compiled, *at, 0, script=script),
        training(tmp_path / "1", data, compiled, *at, 1, *flags, script=script, where=where),
    ]
    results = ended(*processes)
    for index, (status, _, err) in enumerate(results):
        assert status == 2 and all(word in err[0] for word in named), err
        assert "host 1 (localhost)" in err[0] or (index == 1 and case is no_data)
        assert len(err) == 1 or case is no_data
    assert not (tmp_path / "0").exists() and not (tmp_path / "1").exists()


@with_jax
@pytest.mark.parametrize(
    ("splits", "named"),
    [
        (["train"], "every emotion needs two Training images at least; happy has 0"),
        (["validation"], "differs from host 0 in number of happy faces in PublicTest: 0 against 2"),
        (
            ["train", "validation"],
            "differs from host 0 in emotions: angry, disgust, fear, sad, surprise, neutral against",
        ),
    ],
)
def test_a_host_lacks_a_folder(tmp_path, compiled, splits, named):
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_folder(whole), write_folder(part, without=[(split, "happy") for split in splits])
    at = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    processes = [training(tmp_path / str(i), data, compiled, *at, i) for i, data in enumerate((whole, part))]
    for index, (status, out, err) in enumerate(ended(*processes, within=120)):
        assert (status, said("losses", out), len(err)) == (2, [], 1), err
        assert named in err[0] and (index == 1 or "host 1 (localhost)" in err[0]), err
    assert not (tmp_path / "0").exists() and not (tmp_path / "1").exists()
