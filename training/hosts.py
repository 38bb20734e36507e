"""Several hosts that train one network: how they join, compare what they have, and end together.

    KERAS_BACKEND=jax python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 0    # on node0
    KERAS_BACKEND=jax python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 1    # on node1
    KERAS_BACKEND=jax srun python train_emotion_classifier.py                    # Slurm, one task per node

JAX connects the hosts and exchanges gradients and values.  What comes from another host is read as JSON or as plain
bytes.  Nothing is encrypted or authenticated: the hosts belong in a network of their own.  For one host, all functions
work without JAX.
"""

import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np

from command_line import UserError

START_TIMEOUT = 45  # seconds in which all hosts must have started
SILENCE_TIMEOUT = 20  # seconds without a heartbeat after which a host counts as gone
GRACE = 10  # seconds that Ctrl-C and SIGTERM leave Python to end this process
PACKAGES = ("keras", "jax", "jaxlib", "numpy", "opencv-python")  # all hosts compute with the same versions
CODE = ("*.py", "face_files/*.py", "models/*.py", "training/*.py", "recognition/*.py", "evaluation/*.py")
GONE = (
    "error: all hosts must run until the end; found that another one ended, or is out of reach (its own last line may "
    "say why): start all of them again with --resume"
)
# Where JAX loses another host, or can't start, it ends this process from C++, and Python can say nothing any more.  So
# a small process waits for the end of this one, and prints the last line that it was given, unless that line is empty.
LAST_LINE = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
line = sys.stdin.read().split("\\n")[-2]
if line:
    print(line, file=sys.stderr)
"""


class _OnAllHosts(UserError):
    """A mistake that every host finds, so that none need end before the others know it."""


@contextlib.contextmanager
def joined(hosts: str | None = None, host_index: int | None = None) -> Iterator[None]:
    """Join the other hosts for the length of a block; where there is one host, do nothing.

    An error that leaves the block on one host ends all hosts, each with a last line.

    Args:
        hosts: "host0:port,host1,...", one entry per process; where it is None, EMOTION_HOSTS counts, else what JAX
            finds of a cluster (Slurm, Open MPI, Kubernetes).
        host_index: Which entry this process is; where it is None, JOB_COMPLETION_INDEX or SLURM_PROCID counts.

    Raises:
        UserError: The list or the index is not as it must be, the backend is not JAX, or another host is gone.
    """
    names, index = find_hosts(hosts, host_index, os.environ)
    if len(names) == 1 or not (names or started_by_cluster(os.environ)):
        yield
        return
    if keras.backend.backend() != "jax":
        backend = keras.backend.backend()
        raise UserError(f"several hosts train on Keras's JAX backend; found {backend}: set KERAS_BACKEND=jax")
    import jax

    last_line = subprocess.Popen([sys.executable, "-c", LAST_LINE], stdin=subprocess.PIPE, text=True, bufsize=1)

    def set_last_line(line):
        print(line, file=last_line.stdin, flush=True)

    def stop():
        set_last_line("stopped while it waited for the other hosts")
        _end_at_once(130)

    try:
        who = "this host" if index is None else f"host {index} ({names[index]})"
        set_last_line(
            f"error: all hosts must start within {START_TIMEOUT} s of each other; found that {who} could not join them "
            "(JAX's reason is above): give all the same --hosts, and see that no firewall lies between them"
        )
        with _interruptible(0, stop):
            _start_jax(names, index)
        set_last_line(GONE)
        _check_devices()  # before the first exchange, which needs the same number of devices on all hosts
        check_same_on_all_hosts("be given the same --hosts", {"the list": list(names)}, "correct one of them")
        with _interruptible(GRACE, stop):
            yield
            wait_for_all("the end")  # the first host may still measure its best checkpoint
    except BaseException as error:
        set_last_line("")
        if isinstance(error, _OnAllHosts):
            jax.distributed.shutdown()  # waits for the others; a host that ends first breaks what they still exchange
        # Skip JAX's shutdown.  It would wait for the other hosts, and they stop only when this process is gone.
        atexit.register(_end_at_once, 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 1))
        if _is_broken_exchange(error):
            raise UserError(GONE.removeprefix("error: "), exit_status=1) from error
        raise
    jax.distributed.shutdown()
    set_last_line("")
    last_line.stdin.close()
    last_line.wait()


@contextlib.contextmanager
def _interruptible(grace, stop):
    """Call `stop` in a thread some seconds after Ctrl-C or SIGTERM; Python can't react while it waits in C++."""
    arrived, to_arrived = os.pipe()
    os.set_blocking(to_arrived, False)
    block_over = threading.Event()

    def watch():
        if os.read(arrived, 1) and not block_over.wait(grace):
            stop()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    signal.set_wakeup_fd(to_arrived)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        block_over.set()
        os.close(to_arrived)
        thread.join()
        os.close(arrived)


def _start_jax(names, index):
    """Start JAX on all hosts as one machine; nothing may have used JAX before."""
    import jax

    os.environ["grpc_proxy"] = ""  # noqa: SIM112 - gRPC's own name; else JAX asks the proxy of http_proxy for hosts
    jax.config.update("jax_check_proxy_envs", False)
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from Python
    jax.distributed.initialize(  # looks for a cluster where no address is given
        names[0] if names else None,
        len(names) or None,
        index,
        local_device_ids=[],  # none is chosen: all devices of this host; JAX gives a task of Slurm only one
        coordinator_bind_address=_check_port(names[0]) if index == 0 else None,
        initialization_timeout=START_TIMEOUT,
        heartbeat_timeout_seconds=SILENCE_TIMEOUT,
        shutdown_timeout_seconds=SILENCE_TIMEOUT,
    )


def _check_port(address):
    """See that the first host can listen at its port, without which JAX crashes; return the address to listen at."""
    name, _, port = address.rpartition(":")
    if name not in ("localhost", "127.0.0.1", "[::1]"):  # with these, no other machine is to reach the port
        name = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        socket.create_server((name.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise UserError(
            f"host 0 must be able to listen at {address}; found: {error.strerror}: see that this is host 0, or choose "
            "another port in --hosts",
            exit_status=1,
        ) from error
    return f"{name}:{port}"


def _check_devices():
    """Check that all hosts have the same number of devices; `UserError` on every host."""
    import jax

    devices = Counter(device.process_index for device in jax.devices())
    for index, count in sorted(devices.items()):
        if count != devices[0]:
            raise _OnAllHosts(
                f"all hosts must have the same number of devices; found that host {index} has {count}, and host 0 "
                f"{devices[0]}: hide the others (CUDA_VISIBLE_DEVICES)"
            )


def _is_broken_exchange(error):
    """Return whether JAX can raise this error because another host is gone."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, OSError, UserError)):
        return False
    import jax

    if "RESOURCE_EXHAUSTED" in str(error):  # the memory of this host
        return False
    words = re.search("gloo|nccl|coordination service|UNAVAILABLE", str(error), re.IGNORECASE)
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(words)


def _end_at_once(status):
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


# ----------------------------------------------------------------------------------------------------------
# Finding the hosts


def find_hosts(
    hosts: str | None, host_index: int | None, environment: Mapping[str, str]
) -> tuple[tuple[str, ...], int | None]:
    """Read the list of hosts, and which of them this is.

    Args:
        hosts, host_index: As `joined` takes them.
        environment: As `os.environ`.

    Returns:
        The entries of the list, the first with its port, and the index of this process; ((), None) without a list.

    Raises:
        UserError: The list or the index is not as it must be.
    """
    hosts = hosts or environment.get("EMOTION_HOSTS")
    if not hosts:
        if host_index is not None:
            raise UserError(
                f"--host-index says which of --hosts this is; found {host_index} without --hosts: pass both"
            )
        return (), None
    entries = tuple(entry.strip() for entry in hosts.split(","))
    for entry in entries:
        found = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:\[\]]+)(?::(\d{1,5}))?", entry)
        if not found or (found[2] and not 1 <= int(found[2]) <= 65535):
            raise UserError(f"hosts are host0:port,host1,... with ports from 1 to 65535; found {entry!r}: correct it")
        if entry is entries[0] and not found[2]:
            raise UserError(
                f"the first of the hosts needs a port, at which the others reach it; found {entry!r}: write "
                f"{entry}:12345"
            )
    if len(entries) == 1:
        host_index = host_index or 0
    for name in ("JOB_COMPLETION_INDEX", "SLURM_PROCID"):
        host_index = _whole_number(environment, name) if host_index is None else host_index
    if host_index is None or not 0 <= host_index < len(entries):
        raise UserError(
            f"--host-index must say which of the {len(entries)} --hosts this is, 0 to {len(entries) - 1}; found "
            f"{'none' if host_index is None else host_index}: correct it, or the list"
        )
    return entries, host_index


def started_by_cluster(environment: Mapping[str, str]) -> bool:
    """Whether Slurm, Open MPI or Kubernetes has started several processes that JAX can put together.

    A Slurm batch script, and a shell that srun has opened, have Slurm's variables too, but each is one process.
    """
    counts = [_whole_number(environment, name) for name in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")]
    in_kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
    return max(count or 0 for count in counts) > 1 or (in_kubernetes and find_spec("kubernetes") is not None)


def _whole_number(environment, name):
    text = environment.get(name)
    if text is not None and not text.isdecimal():
        raise UserError(f"{name} must be a whole number; found {text!r}: correct it, or unset it")
    return None if text is None else int(text)


# ----------------------------------------------------------------------------------------------------------
# Which host this is, and its devices


def host_count() -> int:
    """Return how many hosts train together."""
    return _jax().process_count() if keras.backend.backend() == "jax" else 1


def host_index() -> int:
    """Return which host this is, from 0."""
    return _jax().process_index() if keras.backend.backend() == "jax" else 0


def is_first_host() -> bool:
    """Return whether this is the host that writes, prints and decides."""
    return host_index() == 0


def local_device_count() -> int:
    """Return how many devices of this host share a batch: one where the backend is not JAX."""
    return _jax().local_device_count() if keras.backend.backend() == "jax" else 1


def _jax():
    import jax  # here: the TensorFlow backend needs no JAX

    return jax


@contextlib.contextmanager
def data_parallel() -> Iterator[None]:
    """Let all devices of all hosts train each network that the block builds, every device on its part of a batch."""
    if host_count() * local_device_count() == 1:
        yield
        return
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():  # each host hands in its part of a batch
        yield


@contextlib.contextmanager
def single_host() -> Iterator[None]:
    """Let networks be built and run on this host alone, as validation is."""
    everywhere = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(everywhere)


# ----------------------------------------------------------------------------------------------------------
# Comparing and sharing


def check_same_on_all_hosts(rule: str, facts: dict, remedy: str) -> None:
    """See that hosts do not differ.

    Args:
        rule: What all hosts must do; the message begins with it.
        facts: What must be equal, name -> value for JSON.
        remedy: What to do where hosts differ.

    Raises:
        UserError: On every host; the message names the first difference: which host, which fact, both values.
    """
    first, *others = _gather(facts)
    for index, other in enumerate(others, 1):
        for name in [*first, *(other.keys() - first.keys())]:
            if first.get(name) != other.get(name):
                raise _OnAllHosts(
                    f"all hosts must {rule}; found that host {index} differs from host 0 in {name}: "
                    f"{_shown(other.get(name))} against {_shown(first.get(name))}: {remedy}"
                )


def check_divisible(what: str, size: int, most: float = math.inf) -> None:
    """Check that a batch can be divided among all devices of all hosts.

    Args:
        what: What the size is of; the message begins with it.
        size: Faces of a batch.
        most: Faces that there are to train on.

    Raises:
        UserError: On every host.
    """
    parts = host_count() * local_device_count()
    if size % parts:
        fitting = [str(n) for n in (size // parts * parts, -(-size // parts) * parts) if 0 < n <= most]
        remedy = f"pass --batch-size {' or '.join(fitting)}" if fitting else "use fewer devices, or add faces"
        raise _OnAllHosts(f"{what} must be divisible by {parts}, all devices of all hosts; found {size}: {remedy}")


def broadcast(value=None):
    """Return the first host's value on every host; a value for JSON."""
    return json.loads(broadcast_bytes(json.dumps(value).encode()))


def broadcast_bytes(content: bytes = b"") -> bytes:
    """Return the first host's bytes on every host."""
    if host_count() == 1:
        return content
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    array = np.frombuffer(content, np.uint8) if is_first_host() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(array)).tobytes()


def wait_for_all(name: str) -> None:
    """Wait until all hosts are at the point of that name."""
    if host_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _gather(value):
    """Return each host's value, a list in the hosts' order; values for JSON."""
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    if host_count() == 1:
        return [json.loads(content.tobytes())]
    from jax.experimental import multihost_utils

    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, int(sizes.max()) - len(content)))
    rows = multihost_utils.process_allgather(padded)  # (hosts, bytes of the longest)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _shown(value):
    """Return a value as a message shows it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "nothing" if value is None else str(value)


# ----------------------------------------------------------------------------------------------------------
# What hosts compare


def code_hashes(folder: Path) -> dict[str, str]:
    """Return a short hash of each Python file of the project in `folder`, by name."""
    files = sorted(file for pattern in CODE for file in folder.glob(pattern))
    return {file.relative_to(folder).as_posix(): short_hash(file.read_bytes()) for file in files}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that training computes with, by name."""
    found = {name: [d.version for d in importlib.metadata.distributions(name=name)] for name in PACKAGES}
    return {name: versions[0] if versions else "none" for name, versions in found.items()}


def checkpoint_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Return a short hash of each checkpoint that is there, by name."""
    return {f"checkpoint {path.name}": short_hash(path.read_bytes()) for path in paths if os.path.isfile(path)}


def short_hash(*contents: bytes) -> str:
    """Return a hash of bytes, as 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]
