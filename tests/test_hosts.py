"""Tests of hosts: what the environment says, processes that compare, fail and end together, and training on two."""

import contextlib
import csv
import functools
import importlib.util
import os
import random
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
from fork_server import ForkServer

import drawn_faces
from command_line import UserError
from load_and_process import EMOTIONS
from training import hosts

ROOT = Path(__file__).parents[1]
NETWORK = "tiny_XCEPTION"
PER_EMOTION = {"Training": 4, "PublicTest": 2, "PrivateTest": 1}
GONE = "error: all hosts must run until the end; found that another one ended, or is out of reach"

with_jax = pytest.mark.skipif(
    not importlib.util.find_spec("jax") or not hasattr(os, "fork"),
    reason="several hosts train on JAX: pip install jax; the test starts them with os.fork, which Windows lacks",
)
with_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")


# ----------------------------------------------------------------------------------------------------------
# Which host of which job a process is

HOSTS = {
    "nothing": (None, None, {}, ((), None)),
    "flags": ("a:1234,b", 1, {}, (("a:1234", "b"), 1)),
    "ports of the others": (" a.b-c:1234 , 10.0.0.2:99 ", 0, {}, (("a.b-c:1234", "10.0.0.2:99"), 0)),
    "IPv6": ("[fd00::1]:1234,[fd00::2]", 1, {}, (("[fd00::1]:1234", "[fd00::2]"), 1)),
    "one host": ("a:1234", None, {}, (("a:1234",), 0)),
    "one host, an index of Kubernetes": ("a:1234", None, {"JOB_COMPLETION_INDEX": "1"}, (("a:1234",), 0)),
    "the environment": (None, 1, {"EMOTION_HOSTS": "a:1,b"}, (("a:1", "b"), 1)),
    "flags over the environment": ("c:2,d", 0, {"EMOTION_HOSTS": "a:1,b"}, (("c:2", "d"), 0)),
    "Kubernetes": ("a:1,b", None, {"JOB_COMPLETION_INDEX": "1", "SLURM_PROCID": "0"}, (("a:1", "b"), 1)),
    "an index of Kubernetes alone": (None, None, {"JOB_COMPLETION_INDEX": "1"}, ((), None)),
    "Slurm's index": ("a:1,b", None, {"SLURM_PROCID": "1"}, (("a:1", "b"), 1)),
}


@pytest.mark.parametrize("case", HOSTS)
def test_find_hosts(case):
    text, index, environment, expected = HOSTS[case]
    assert hosts.find_hosts(text, index, environment) == expected


BAD_HOSTS = {
    "no port": ("a,b", 0, {}, ["'a'", "a:12345"]),
    "an empty entry": ("a:1,,b", 0, {}, ["''", "host0:port,host1"]),
    "no such port": ("a:0,b", 0, {}, ["'a:0'", "1 to 65535"]),
    "a larger port": ("a:1,b:65536", 0, {}, ["'b:65536'"]),
    "letters": ("a:x,b", 0, {}, ["'a:x'"]),
    "spaces": ("a:1 b", 0, {}, ["'a:1 b'"]),
    "no index": ("a:1,b", None, {}, ["--host-index", "0 to 1", "found none"]),
    "too high": ("a:1,b", 2, {}, ["0 to 1", "found 2"]),
    "too high for one": ("a:1", 1, {}, ["0 to 0", "found 1"]),
    "an index alone": (None, 0, {}, ["found 0 without --hosts"]),
    "no number": ("a:1,b", None, {"JOB_COMPLETION_INDEX": "x"}, ["JOB_COMPLETION_INDEX", "'x'"]),
}


@pytest.mark.parametrize("case", BAD_HOSTS)
def test_bad_hosts(case):
    text, index, environment, named = BAD_HOSTS[case]
    with pytest.raises(UserError) as caught:
        hosts.find_hosts(text, index, environment)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in named), caught.value


@pytest.mark.parametrize(
    ("size", "most", "remedy"),
    [
        (13, 280, "pass --batch-size 12 or 14"),
        (1, 280, "pass --batch-size 2"),
        (97, 97, "pass --batch-size 96"),
        (1, 1, "use fewer devices, or add faces"),
    ],
)
def test_a_batch_that_can_not_be_divided_is_told_with_a_size_that_can(size, most, remedy, monkeypatch):
    monkeypatch.setattr(hosts, "host_count", lambda: 2)
    monkeypatch.setattr(hosts, "local_device_count", lambda: 1)
    hosts.check_divisible("--batch-size", 14)
    with pytest.raises(UserError) as caught:
        hosts.check_divisible("--batch-size", size, most)
    assert str(caught.value).endswith(f"must be divisible by 2, all devices of all hosts; found {size}: {remedy}")


@with_jax
def test_an_error_of_jax_says_that_a_host_is_gone_but_not_when_memory_is_full():
    from jax.errors import JaxRuntimeError

    assert hosts._is_broken_exchange(JaxRuntimeError("UNAVAILABLE: Connection reset by peer"))
    assert hosts._is_broken_exchange(ValueError("Gloo all-reduce failed"))
    assert not hosts._is_broken_exchange(JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"))
    assert not hosts._is_broken_exchange(ValueError("shapes differ"))


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
IN_KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (SLURM, False),  # a batch script, which is one process
        (SLURM | {"SLURM_STEP_NUM_TASKS": "3"}, True),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # a shell, opened by srun
        ({"OMPI_COMM_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "1"}, True),
        ({"JOB_COMPLETION_INDEX": "1"}, False),
        (IN_KUBERNETES, False),  # without the kubernetes package JAX can't ask
    ],
)
def test_started_by_cluster(environment, several, monkeypatch):
    monkeypatch.setattr(hosts, "find_spec", lambda name: None)
    assert hosts.started_by_cluster(environment) is several


def test_jax_asks_kubernetes_where_its_package_is(monkeypatch):
    monkeypatch.setattr(hosts, "find_spec", lambda name: name == "kubernetes")
    assert hosts.started_by_cluster(IN_KUBERNETES) is True and hosts.started_by_cluster({}) is False


def test_a_number_of_slurm_that_is_none():
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS must be a whole number; found '3x'"):
        hosts.started_by_cluster({"SLURM_STEP_NUM_TASKS": "3x"})


ALONE = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
sys.modules["jax"] = None  # an import of JAX fails
from training import hosts
with hosts.joined(), hosts.data_parallel(), hosts.single_host():
    assert (hosts.host_count(), hosts.host_index(), hosts.is_first_host()) == (1, 0, True)
    assert (hosts.broadcast([1]), hosts.broadcast_bytes(b"x"), hosts.local_device_count()) == ([1], b"x", 1)
    hosts.check_same_on_all_hosts("agree", {"a": 1}, "do so")
    hosts.check_divisible("--batch-size", 7)
    hosts.wait_for_all("here")
"""


def test_one_host_does_nothing_and_needs_no_jax():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("case", [("--hosts", "a:1,b", {}), ("", "", {"SLURM_STEP_NUM_TASKS": "2"})])
def test_another_backend(monkeypatch, case):
    monkeypatch.setattr(hosts.keras.backend, "backend", lambda: "tensorflow")
    _, text, environment = case
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match="found tensorflow: set KERAS_BACKEND=jax"),
        hosts.joined(text or None, 0 if text else None),
    ):
        pass


def test_hash_and_code_and_versions():
    assert hosts.short_hash(b"a", b"b") == hosts.short_hash(b"ab") != hosts.short_hash(b"a")
    assert len(hosts.short_hash()) == 12
    code = hosts.code_hashes(ROOT)
    assert {"command_line.py", "models/cnn.py", "training/hosts.py", "recognition/tracking.py"} <= code.keys()
    assert not any(name.startswith(("tests", "benchmarks")) for name in code)
    assert hosts.package_versions()["numpy"] == np.__version__


# ----------------------------------------------------------------------------------------------------------
# Processes that do nothing but talk

TALK = """
import os, sys, time
from training import hosts
from command_line import UserError, exit_status
hosts.SILENCE_TIMEOUT, hosts.START_TIMEOUT = 10, 30
{}
def main(argv):
    with hosts.joined(*eval(sys.argv[1])):
        {}
        print("done", flush=True)
    return 0

sys.exit(exit_status(main))
"""
# What all hosts import beside the project's own modules.
IMPORTS = """
import sys
sys.modules["tensorflow"] = sys.modules["sklearn"] = None  # Keras on JAX works without; their import takes seconds
import cv2, h5py, keras, pandas
from jax.experimental import multihost_utils
del sys.modules["sklearn"]  # the best checkpoint is measured with it
import sklearn.metrics
"""


@functools.cache
def server(number):
    """The servers that start the hosts: two, since the processes of one have the same hashes of strings."""
    return ForkServer(IMPORTS, {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"})


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command, environment=None, folder=ROOT, from_server=0):
    return server(from_server).start([*map(str, command)], os.environ | (environment or {}), str(folder))


def talk(what, index, port, count=2, given=30, first="127.0.0.1", before="", environment=None):
    names = [first, "localhost", "127.0.0.1"][:count]
    names[0] += f":{port}"
    before = f"hosts.START_TIMEOUT = {given}\n{before}"
    command = ["-c", TALK.format(before, what), repr((",".join(names), index))]
    return start(command, environment)


def ended(*processes, within=120):
    """(exit status, lines on standard output, on standard error) of each, without what JAX's C++ prints."""
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=within)
            out = [line for line in out.splitlines() if "[Gloo]" not in line]
            results.append((process.returncode, out, err.splitlines()))
    finally:
        for process in processes:
            process.kill()
    return results


@with_jax
def test_values_reach_every_host():
    what = (
        "print(hosts.host_count(), hosts.host_index(), hosts.broadcast({'a': [hosts.host_index()]}), "
        "len(hosts.broadcast_bytes(bytes(10**7) if hosts.is_first_host() else b'')), "
        "hosts._gather('é' * hosts.host_index()))"
    )
    port = free_port()
    for index, result in zip((2, 0, 1), ended(*[talk(what, index, port, 3) for index in (2, 0, 1)]), strict=True):
        assert result == (0, [f"3 {index} {{'a': [0]}} 10000000 ['', 'é', 'éé']", "done"], [])


@with_jax
def test_nothing_goes_through_a_proxy():
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    port = free_port()
    assert ended(*[talk("", i, port, environment=proxies) for i in range(2)]) == [(0, ["done"], [])] * 2


CLUSTERS = {
    "Slurm": {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"},
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "2"},
}


@with_jax
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_jax_finds_a_cluster(cluster):
    job = str(random.randrange(4096))  # both take a port from the job's number
    mine = {"SLURM_JOB_ID": job, "OMPI_MCA_orte_hnp_uri": f"{int(job) * 4096}.0;tcp://127.0.0.1:1"}
    mine = {name: value for name, value in mine.items() if name.startswith(next(iter(CLUSTERS[cluster]))[:4])}
    what = "print(hosts.host_count(), hosts.host_index(), hosts.broadcast(hosts.host_index()))"
    processes = []
    for index in map(str, range(2)):
        each = {
            "Slurm": {"SLURM_PROCID": index, "SLURM_LOCALID": index},
            "Open MPI": {"OMPI_COMM_WORLD_RANK": index, "OMPI_COMM_WORLD_LOCAL_RANK": index},
        }
        environment = CLUSTERS[cluster] | mine | each[cluster]
        processes.append(start(["-c", TALK.format("", what), "()"], environment))
    assert ended(*processes) == [(0, [f"2 {index} 0", "done"], []) for index in range(2)]


@with_jax
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("error", "last_line", "ends_with"),
    [("UserError('no data')", "error: no data", 2), ("KeyError('x')", "KeyError: 'x'", 1)],
)
def test_an_error_ends_every_host(failing, error, last_line, ends_with):
    what = f"if hosts.host_index() == {failing}: raise {error}\n        hosts.wait_for_all('x')"
    port = free_port()
    for index, (status, out, err) in enumerate(ended(*[talk(what, index, port, 3) for index in range(3)])):
        if index == failing:
            assert (status, out, err[-1]) == (ends_with, [], last_line)
            assert len(err) == 1 or err[0] == "Traceback (most recent call last):"
        else:
            assert status not in (0, 2) and out == [] and err[-1].startswith(GONE)


@with_jax
def test_what_differs_is_named_by_every_host():
    what = "hosts.check_same_on_all_hosts('run the same code', {'a.py': 1, 'b.py': hosts.host_index() // 2}, 'copy it')"
    port = free_port()
    line = "error: all hosts must run the same code; found that host 2 differs from host 0 in b.py: "
    for result in ended(*[talk(what, index, port, 3) for index in range(3)]):
        assert result == (2, [], [f"{line}1 against 0: copy it"])


@with_jax
def test_hosts_with_different_numbers_of_devices():
    port = free_port()
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    for status, _, (line,) in ended(talk("", 0, port), talk("", 1, port, environment=two)):
        assert status == 2 and "found that host 1 has 2, and host 0 1: hide the others" in line


@with_jax
@with_signals
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP", "SIGINT"])
def test_a_host_that_ends_ends_all(victim, how):
    """The others wait for it; their last line says why they end, whatever JAX prints before."""
    port = free_port()
    waits = f"time.sleep(60) if hosts.host_index() == {victim} else hosts.wait_for_all('x')"
    processes = [talk(f"print('here', flush=True)\n        {waits}", index, port) for index in range(2)]
    for process in processes:
        wait_for(process, "here")
    processes[victim].send_signal(getattr(signal, how))
    began = time.monotonic()
    ((status, _, lines),) = ended(processes[1 - victim])
    assert time.monotonic() - began < 60
    assert status not in (0, 2) and lines[-1].startswith(GONE) and "--resume" in lines[-1]
    if how != "SIGINT":
        processes[victim].kill()
    ((status, out, err),) = ended(processes[victim])
    assert (status, out, err) == ((130, [], []) if how == "SIGINT" else (-signal.SIGKILL, [], err))


# ----------------------------------------------------------------------------------------------------------
# Hosts that do not find each other


@with_jax
@with_signals
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("waits", ["for the start", "for another host"])
def test_stopping_a_host_that_waits_in_c(waits, how):
    port = free_port()
    what = "print('here', flush=True)\n        time.sleep(60 * hosts.host_index()); hosts.wait_for_all('x')"
    # The first word comes when all that takes long is imported, and signals are watched.
    before = "hosts.GRACE, start_jax = 1, hosts._start_jax\n"
    before += "hosts._start_jax = lambda *of: print('here', flush=True) or start_jax(*of)"
    processes = [talk(what, index, port, before=before) for index in range(1 if waits == "for the start" else 2)]
    for process in processes:
        for _ in range(len(processes)):
            wait_for(process, "here")
    time.sleep(3)
    processes[0].send_signal(getattr(signal, how))
    began = time.monotonic()
    ((status, _, lines),) = ended(processes[0])
    assert time.monotonic() - began < 10
    assert (status, lines) == (130, ["stopped while it waited for the other hosts"])
    for status, _, lines in ended(*processes[1:]):
        assert status not in (0, 2) and lines[-1].startswith(GONE)


NOT_ALL_CAME = {
    "nobody comes": [(0, 3)],
    "nobody is there": [(1, 2)],
    "one of three does not come": [(0, 3), (1, 3)],
    "the same index twice": [(0, 3), (1, 3), (1, 3)],
}


@with_jax
@pytest.mark.parametrize("case", NOT_ALL_CAME)
def test_not_all_hosts_come(case):
    port, began = free_port(), time.monotonic()
    for status, _, err in ended(*[talk("", index, port, count, given=2) for index, count in NOT_ALL_CAME[case]]):
        assert status not in (0, 2)
        assert "all hosts must start within 2 s of each other" in err[-1] and "--hosts" in err[-1]
    assert time.monotonic() - began < 60


@with_jax
def test_another_program_is_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ((status, _, err),) = ended(talk("", 1, server.getsockname()[1], given=2))
    assert status not in (0, 2) and "could not join them" in err[-1] and "--hosts" in err[-1]


@with_jax
def test_the_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ((status, _, (line,)),) = ended(talk("", 0, server.getsockname()[1]))
    assert status == 1 and "must be able to listen" in line and "in use" in line


@with_jax
@pytest.mark.parametrize("others", [(3, "127.0.0.1"), (2, "localhost")])
def test_another_list(others):
    port, (count, first) = free_port(), others
    line = "all hosts must be given the same --hosts; found that host 1 differs from host 0 in the list"
    for status, _, err in ended(talk("", 0, port), talk("", 1, port, count, first=first)):
        assert status == 2 and line in err[-1]


@with_jax
def test_strangers_at_the_port_do_no_harm():
    port = free_port()
    first = talk("", 0, port)
    deadline = time.monotonic() + 60
    while True:
        try:
            stranger = socket.create_connection(("127.0.0.1", port), timeout=1)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with stranger, contextlib.suppress(OSError):
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n")
        stranger.recv(100)
    assert ended(first, talk("", 1, port)) == [(0, ["done"], [])] * 2


# ----------------------------------------------------------------------------------------------------------
# Training on two of them

# A network that is compiled in seconds, with dropout and batch normalisation, whose figures are those of a whole batch.
# It computes in float64: the optimizer's first steps make more of float32's rounding.  Each epoch says a hash of all
# there is to go on with, and its losses; from epoch SLOW on, batches come slowly.
TRAIN = """
import os, sys, time
import jax, keras
from training import hosts
jax.config.update("jax_enable_x64", True)
keras.config.set_floatx("float64")
import train_emotion_classifier as train
from command_line import exit_status
from models.cnn import EMOTION_MAPS
from training import automatic
hosts.START_TIMEOUT = 60
automatic.choose_precision = lambda wanted, name: "float64"

def small(input_shape, classes, l2=0.0):
    layers = keras.layers
    x = inputs = keras.Input(input_shape)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, strides=3, use_bias=False)(x))
    x = layers.Dropout(0.25)(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(classes, 3, name=EMOTION_MAPS)(x))
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


def training(folder, faces_csv, *arguments, environment=None, script=("-c", TRAIN), where=ROOT, from_server=0):
    small = ["--network", NETWORK, "--image-size", 32, 32, "--batch-size", 14, "--epochs", 3]
    command = [*script, *small, "--dataset", faces_csv, "--output-dir", folder, *arguments]
    return start(command, environment, where, from_server)


def on_two(folder, faces_csv, *arguments, environment=None):
    """Two processes of two servers; host 0 writes to the folder 0."""
    named = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    return [
        training(folder / str(i), faces_csv, *arguments, *named, i, environment=environment, from_server=i)
        for i in range(2)
    ]


def log(folder):
    with (folder / f"{NETWORK}.log.csv").open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def said(word, lines):
    return [line for line in lines if line.startswith(word)]


def wait_for(process, word):
    """Read what a process says until a line has that word."""
    with process.limit(120):
        while word not in (line := process.stdout.readline()):
            assert line or process.poll() is None, process.stderr_so_far()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, faces_csv):
    """A run of three epochs on two hosts: (folder, its results)."""
    folder = tmp_path_factory.mktemp("two")
    results = ended(*on_two(folder, faces_csv))
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
def test_two_hosts_train_as_one(unbroken, tmp_path, faces_csv):
    folder, (first, second) = unbroken
    for word in ("weights", "losses"):
        assert said(word, first[1]) == said(word, second[1]) and len(said(word, first[1])) == 3
    for line, row in zip(said("losses", second[1]), log(folder / "0"), strict=True):
        assert [*map(float, line.split()[2:])] == pytest.approx([row["loss"], row["val_loss"]], rel=1e-5)
    assert first[2] == second[2] == []
    others = [line for line in second[1] if not line.startswith(("weights", "losses"))]
    assert others == [] and "PrivateTest" in " ".join(first[1])
    assert os.listdir(folder) == ["0"] and len(os.listdir(folder / "0")) == 5

    ((status, _, err),) = ended(training(tmp_path / "one", faces_csv))
    assert (status, err) == (0, [])
    same_run(folder / "0", tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(folder / "0"))


@with_jax
def test_devices_of_one_host_share_a_batch(unbroken, tmp_path, faces_csv):
    """Two devices in one process compute what two processes do."""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    ((status, out, err),) = ended(training(tmp_path, faces_csv, environment=environment))
    assert (status, err) == (0, []), err
    same_run(tmp_path, unbroken[0] / "0")


@with_jax
@with_signals
@pytest.mark.parametrize(("victim", "how"), [(1, "SIGINT"), (1, "SIGTERM"), (1, "SIGKILL"), (0, "SIGKILL")])
def test_a_host_that_ends_in_mid_epoch(tmp_path, faces_csv, unbroken, victim, how):
    """The other ends with a line; both go on as if nothing had been, though one of them has none of the files."""
    processes = on_two(tmp_path, faces_csv, environment={"SLOW": "2"})
    for process in processes:
        wait_for(process, "slow")
    processes[victim].send_signal(getattr(signal, how))
    began = time.monotonic()
    ((status, _, lines),) = ended(processes[1 - victim])
    assert time.monotonic() - began < 60
    assert status not in (0, 2) and lines[-1].startswith(GONE), lines
    ((status, _, err),) = ended(processes[victim])
    assert (status, err) == ((130, []) if how in ("SIGINT", "SIGTERM") else (-signal.SIGKILL, err))
    assert len(log(tmp_path / "0")) == 2 and not list((tmp_path / "0").glob(".*"))

    if how != "SIGTERM":
        results = ended(*on_two(tmp_path, faces_csv, "--resume"))
        assert [(status, err) for status, _, err in results] == [(0, [])] * 2
        for word in ("weights", "losses"):
            assert said(word, results[0][1]) == said(word, results[1][1]) != []
        same_run(tmp_path / "0", unbroken[0] / "0")


@with_jax
def test_batches_that_can_not_be_divided(tmp_path, faces_csv):
    results = ended(*on_two(tmp_path, faces_csv, "--batch-size", 13))
    for status, _, (line,) in results:
        assert (
            status == 2
            and "--batch-size must be divisible by 2" in line
            and "found 13: pass --batch-size 12 or 14" in line
        )


def other_settings(tmp_path, faces_csv):
    return ["--learning-rate", 0.1], faces_csv, ROOT, ["the same settings", "in learning_rate: 0.1 against 0.006"]


def other_code(tmp_path, faces_csv):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in hosts.code_hashes(ROOT):  # Python looks for modules beside the script first
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
def test_what_a_host_has_of_its_own(tmp_path, faces_csv, case):
    flags, data, where, named = case(tmp_path, faces_csv)
    at = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    script = ["train_emotion_classifier.py"] if case is other_code else ["-c", TRAIN]
    processes = [
        training(tmp_path / "0", faces_csv, *at, 0, script=script),
        training(tmp_path / "1", data, *at, 1, *flags, script=script, where=where),
    ]
    for index, (status, _, err) in enumerate(ended(*processes)):
        if case is no_data and index == 0:
            assert status not in (0, 2) and err[-1].startswith(GONE)
        else:
            assert (status, len(err)) == (2, 1) and all(word in err[0] for word in named), err
            assert "host 1" in err[0] or case is no_data
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
def test_a_host_lacks_a_folder(tmp_path, splits, named):
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_folder(whole), write_folder(part, without=[(split, "happy") for split in splits])
    at = ["--hosts", f"127.0.0.1:{free_port()},localhost", "--host-index"]
    processes = [training(tmp_path / str(i), data, *at, i) for i, data in enumerate((whole, part))]
    for index, (status, out, err) in enumerate(ended(*processes)):
        assert status != 0 and said("losses", out) == []
        assert named in err[-1] or (index == 0 and err[-1].startswith(GONE)), err
    assert not (tmp_path / "0").exists() and not (tmp_path / "1").exists()
