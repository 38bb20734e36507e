"""Several hosts that train one network: how they find each other, compare what they have, and end together.

    KERAS_BACKEND=jax python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 0    # on node0
    KERAS_BACKEND=jax python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 1    # on node1
    KERAS_BACKEND=jax srun python train_emotion_classifier.py                    # Slurm, one task per node

JAX connects the hosts, and exchanges the gradients and the values that the functions below compare or broadcast.  What
comes from another host is read as JSON or as plain bytes.  Nothing is encrypted or authenticated: the hosts belong in a
network of their own.

JAX notices a host that is gone, but it knows nothing of Python's errors, and it ends a process with a C++ stack trace.
A thread on each host therefore looks for a failure of the others, and ends its host with one line that says why.

For one host, all functions work without JAX.
"""

import atexit
import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from command_line import UserError

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here.

start_timeout = 45.0    # seconds in which all hosts must have started
silence_timeout = 20.0  # seconds without a sign of life after which a host counts as gone
heartbeat = 2.0         # seconds between two signs of life
grace = 10.0            # seconds in which a host that must end may clean up
# fmt: on
# ----------------------------------------------------------------------------------------------------------

PACKAGES = ("keras", "jax", "jaxlib", "numpy", "opencv-python")  # all hosts compute with the same versions
CODE = ("*.py", "models/*.py", "training/*.py", "recognition/*.py")
START_AGAIN = "start all of them again"


class _Job:
    """What this process knows about the job; it is one host until `joined` finds more."""

    index, count, names = 0, 1, ("this host",)
    store = None  # of JAX's coordination service: keys and values that all hosts see; None before the start
    started = False  # all hosts have come
    epochs_saved = 0
    last_line, status = "", 1  # how this process ends where it must
    leaving = False  # the block of `joined` is over
    ending = threading.Lock()  # held by the thread that ends this process: the main one or the watching one
    told = threading.Event()  # another host has ended the job
    exiting = threading.Lock()  # for good
    broken = False  # an exchange has failed: a host is gone
    gone = 0  # how many are


_job = _Job()


class _SameError(UserError):
    """A mistake that every host finds by itself, in the same words."""


# ----------------------------------------------------------------------------------------------------------
# Finding the job


def find_hosts(
    hosts: str | None, index: int | None, environment: Mapping[str, str]
) -> tuple[tuple[str, ...], str | None, int | None]:
    """Read the list of hosts, and which of them this is.

    Args:
        hosts: The flag --hosts, "host0:port,host1,..."; where it is None, EMOTION_HOSTS counts.
        index: The flag --host-index; where it is None, JOB_COMPLETION_INDEX (Kubernetes) or SLURM_PROCID counts.
        environment: As `os.environ`.

    Returns:
        The hosts' names, the address of the first host, and the index of this one; ((), None, None) without a list.

    Raises:
        UserError: The list or the index is not as it must be.
    """
    hosts = hosts or environment.get("EMOTION_HOSTS")
    if not hosts:
        if index is not None:
            raise UserError(f"--host-index says which of --hosts this is; found {index} without --hosts: pass both")
        return (), None, None
    names, ports = [], []
    for entry in map(str.strip, hosts.split(",")):
        found = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:\[\]]+)(?::(\d{1,5}))?", entry)
        if not found or (found[2] and not 1 <= int(found[2]) <= 65535):
            raise UserError(f"hosts are host0:port,host1,... with ports from 1 to 65535; found {entry!r}: correct it")
        names.append(found[1])
        ports.append(found[2])
    if not ports[0]:
        raise UserError(
            f"the first of the hosts needs a port, at which the others reach it; found {names[0]!r}: write "
            f"{names[0]}:12345"
        )
    if len(names) == 1:
        index = index or 0
    for name in ("JOB_COMPLETION_INDEX", "SLURM_PROCID"):
        index = _whole_number(environment, name) if index is None else index
    if index is None or not 0 <= index < len(names):
        raise UserError(
            f"--host-index must say which of the {len(names)} --hosts this is, 0 to {len(names) - 1}; found "
            f"{'none' if index is None else index}: correct it, or the list"
        )
    return tuple(names), f"{names[0]}:{ports[0]}", index


def started_together(environment: Mapping[str, str]) -> int | None:
    """Return how many processes Open MPI or Slurm has started; None where only JAX can find out; 1 else.

    A Slurm batch script, and a shell that srun has opened, have Slurm's variables too, but each is one process.
    """
    for name in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if (count := _whole_number(environment, name)) is not None:
            return count
    in_kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
    return None if (in_kubernetes and find_spec("kubernetes")) or find_spec("libtpu") else 1


def _whole_number(environment, name):
    text = environment.get(name)
    if text is not None and not text.isdecimal():
        raise UserError(f"{name} must be a whole number; found {text!r}: correct it, or unset it")
    return None if text is None else int(text)


# ----------------------------------------------------------------------------------------------------------
# The job


@contextlib.contextmanager
def joined(hosts: str | None = None, host_index: int | None = None) -> Iterator[None]:
    """Join the other hosts for the length of a block; where there is one host, do nothing.

    An error that leaves the block on one host ends all hosts, each with one last line.

    Args:
        hosts: "host0:port,host1,...", one entry per process; where it is None, EMOTION_HOSTS counts, else what JAX
            finds of a cluster (Slurm, Kubernetes, Open MPI, Google's TPUs).
        host_index: Which entry this process is.

    Raises:
        UserError: The list or the index is not as it must be, the backend is not JAX, or not all hosts have the same
            list and as many devices each.
    """
    names, address, index = find_hosts(hosts, host_index, os.environ)
    count = len(names) or started_together(os.environ)
    if count != 1 and (backend := _backend()) != "jax":
        if count:
            raise UserError(f"several hosts train on Keras's JAX backend; found {backend}: set KERAS_BACKEND=jax")
        count = 1
    if count == 1 or not _start_jax(names, address, index, count):
        yield
        return
    try:
        _check_job(names)
        yield
        wait_for_all("the end")  # the first host may still measure its best checkpoint
    except BaseException as error:
        _end_all(error)
        raise
    _job.leaving = True
    _tell(None, 0)
    _job.watcher.join()  # a thread in C++ makes Python's end crash
    sys.modules["jax"].distributed.shutdown()
    ctypes.CDLL(None).signal(signal.SIGABRT, None)  # the system's default


def note_epochs_saved(count: int) -> None:
    """Note how many finished epochs are saved; the last line tells after which one --resume goes on."""
    _job.epochs_saved = count


def host_count() -> int:
    """Return how many hosts train together."""
    return _job.count


def host_index() -> int:
    """Return which host this is, from 0."""
    return _job.index


def is_first_host() -> bool:
    """Return whether this is the host that writes, prints and decides."""
    return _job.index == 0


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
                raise _SameError(
                    f"all hosts must {rule}; found that {_who(index)} differs from host 0 in {name}: "
                    f"{_shown(other.get(name))} against {_shown(first.get(name))}: {remedy}"
                )


def check_divisible(what: str, size: int) -> None:
    """See that a batch can be divided among all devices of all hosts.

    Args:
        what: What the size is of; the message begins with it.
        size: Faces of a batch.

    Raises:
        UserError: On every host.
    """
    parts = host_count() * local_device_count()
    if size % parts:
        below, above = size // parts * parts, -(-size // parts) * parts
        fitting = f"{below} or {above}" if below else above
        raise _SameError(
            f"{what} must be divisible by {parts}, all devices of all hosts; found {size}: pass --batch-size {fitting}"
        )


def broadcast(value=None):
    """Return the first host's value on every host; a value for JSON."""
    return json.loads(broadcast_bytes(json.dumps(value).encode()))


def broadcast_bytes(content: bytes = b"") -> bytes:
    """Return the first host's bytes on every host."""
    if _job.count == 1:
        return content
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    array = np.frombuffer(content, np.uint8) if is_first_host() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(array)).tobytes()


def wait_for_all(name: str) -> None:
    """Wait until all hosts are at the same point.

    Args:
        name: Of the point; the same on all hosts.
    """
    if _job.count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _gather(value):
    """Return each host's value, a list in the hosts' order; values for JSON."""
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    if _job.count == 1:
        return [json.loads(content.tobytes())]
    from jax.experimental import multihost_utils

    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, int(sizes.max()) - len(content)))
    rows = multihost_utils.process_allgather(padded)  # (hosts, bytes of the longest)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


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


def short_hash(*contents: bytes) -> str:
    """Return a hash of bytes, as 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]


# ----------------------------------------------------------------------------------------------------------
# Devices


def local_device_count() -> int:
    """Return how many devices of this host share a batch: one where the backend is not JAX."""
    if _backend() != "jax":
        return 1
    import jax

    return jax.local_device_count()


@contextlib.contextmanager
def data_parallel() -> Iterator[None]:
    """Let all devices of all hosts train each network that the block builds, every device on its part of a batch."""
    import keras

    if host_count() * local_device_count() == 1:
        yield
        return
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():  # each host hands in its part of a batch
        yield


@contextlib.contextmanager
def single_host() -> Iterator[None]:
    """Let networks be built and run on this host alone, as validation is."""
    import keras

    everywhere = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(everywhere)


def _backend():
    import keras

    return keras.backend.backend()


# ----------------------------------------------------------------------------------------------------------
# The start


def _start_jax(names, address, index, count):
    """Start JAX on all hosts as one machine, and the thread that watches them; False where JAX finds one host alone."""
    import jax

    bind_address = _check_port(address) if index == 0 else None
    _job.index, _job.count, _job.names = index or 0, count or 1, names or ("this host",)
    _job.last_line = (
        f"error: {_who(index or 0)} could not join the others (JAX's reason is above): give all the same --hosts, and "
        "every host a --host-index of its own"
    )
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
    signals, to_signals = os.pipe()
    os.set_blocking(signals, False), os.set_blocking(to_signals, False)
    signal.set_wakeup_fd(to_signals)
    _job.watcher = threading.Thread(target=_watch, args=(signals, address), daemon=True)
    _job.watcher.start()
    os.environ["grpc_proxy"] = ""  # noqa: SIM112 - gRPC's own name; else JAX asks the proxy of http_proxy for hosts
    jax.config.update("jax_check_proxy_envs", False)
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from Python
    try:
        # Where no address is given, `initialize` looks for a cluster.  `started_together` has seen before that this
        # process is not alone, so that a batch script or a shell does not wait for others.
        jax.distributed.initialize(
            address,
            count,
            index,
            local_device_ids=[],  # all devices of this host; JAX gives a task of Slurm only one
            coordinator_bind_address=bind_address,
            initialization_timeout=int(10 * start_timeout),  # `_watch` is earlier; JAX would abort this process
            heartbeat_timeout_seconds=int(2 * silence_timeout),  # the same
            shutdown_timeout_seconds=int(silence_timeout),
        )
        _job.index, _job.count = jax.process_index(), jax.process_count()
        _job.names = names or tuple(f"process {number}" for number in range(_job.count))
    except (ValueError, RuntimeError) as error:
        _job.leaving, _job.count = True, 1
        if count is None and isinstance(error, ValueError):  # JAX finds no cluster
            return False
        raise UserError(f"JAX must be able to start on all hosts; found {_line(error)}: pass --hosts", 1) from error
    _job.last_line, _job.leaving = "", _job.count == 1
    _job.store = jax._src.distributed.global_state.client  # JAX has no public name for it
    return _job.count > 1


def _check_port(address):
    """See that the first host can listen at its port, without which JAX crashes; return the address to listen at."""
    name, _, port = address.rpartition(":")
    if name not in ("localhost", "127.0.0.1", "[::1]"):  # with these, nobody else is to reach it
        name = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
    try:
        family = socket.AF_INET6 if ":" in name else socket.AF_INET
        socket.create_server((name.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise UserError(
            f"host 0 must be able to listen at {address} ({_reason(error)}): see that this is host 0, or choose "
            "another port in --hosts",
            1,
        ) from error
    return f"{name}:{port}"


def _check_job(names):
    """See that all hosts have the same list and as many devices, and can exchange values; UserError on every host."""
    import jax

    devices = Counter(device.process_index for device in jax.devices())
    for index in range(_job.count):
        if devices[index] != devices[0]:
            raise _SameError(
                f"all hosts must have as many devices; found that {_who(index)} has {devices[index]}, and host 0 "
                f"{devices[0]}: hide the others (CUDA_VISIBLE_DEVICES)"
            )
    wait_for_all("the start")  # the first exchange: it shows that no firewall lies between the hosts
    _job.started = True
    check_same_on_all_hosts("be given the same --hosts", {"the list": list(names)}, "correct one of them")


def _late_line(address):
    """Return what to say where not all hosts have come in time."""
    found = f"that not all of {', '.join(map(_who, range(1, _job.count))) or 'them'} have come"
    if address and _job.index:
        try:
            name, _, port = address.rpartition(":")
            socket.create_connection((name.strip("[]"), int(port)), timeout=heartbeat).close()
            found = f"that host 0, or another program, answers at {address}, but that not all have come"
        except OSError as error:
            found = f"that {_who(_job.index)} can't reach host 0 at {address} ({_reason(error)})"
    return (
        f"error: all {_job.count} hosts must start within {start_timeout:.0f} s of each other; found {found}: "
        "start all with the same --hosts, and see that no firewall lies between them"
    )


# ----------------------------------------------------------------------------------------------------------
# The end


def _watch(signals, address):
    """Give signs of life; end this host where another host has ended the job, is gone, or does not come.

    Each host counts up in the store.  The first host sees which one stops counting, and tells all.

    Args:
        signals: File descriptor from which the numbers of arrived signals are read.
        address: Of the first host, for the message.
    """
    started, interrupted, seen, end = time.monotonic(), None, {}, None
    while not end:
        with contextlib.suppress(BlockingIOError):
            interrupted = os.read(signals, 4096) and (interrupted or time.monotonic())
        try:
            if _job.leaving:
                return
            if interrupted and time.monotonic() - interrupted > grace * _job.started:  # Python waits in C++
                end = json.dumps(_stopped())
            elif not _job.started and time.monotonic() - started > start_timeout:
                _end(_late_line(address), 1)
            elif _job.store:
                _job.store.key_value_set(f"alive/{_job.index}", str(time.monotonic()), allow_overwrite=True)
                _tell_who_is_gone(seen)
                end = _job.store.blocking_key_value_get("end", int(1000 * heartbeat))
            else:
                time.sleep(0.1)
        except RuntimeError as error:  # of JAX: nobody has ended the job; or host 0 is gone, and JAX aborts
            time.sleep(0 if "DEADLINE_EXCEEDED" in str(error) else heartbeat)
    line, status = json.loads(end)
    if not line or not _job.ending.acquire(blocking=False):
        return
    _job.last_line, _job.status = line, status
    _tell(_job.last_line, _job.status)
    _job.told.set()
    if is_first_host():  # it writes files, which get whole or are removed; `_end_all` prints the line
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(grace)
    _end(_job.last_line, _job.status)


def _tell_who_is_gone(seen):
    """On the first host: end the job where another host has been silent for too long."""
    limit = 3 * heartbeat if _job.broken else silence_timeout
    for key, sign in _job.store.key_value_dir_get("alive/") if is_first_host() else ():
        if seen.get(key, (None,))[0] != sign:
            seen[key] = sign, time.monotonic()
        elif time.monotonic() - seen[key][1] > limit and not _job.gone:
            _job.gone = 1
            _tell(_gone_line(int(key.rpartition("/")[2])), 1)


def _tell(line, status):
    """Let all hosts know how the job ends, without a line where all is well; what the first one tells counts."""
    with contextlib.suppress(RuntimeError, AttributeError):  # of JAX, whose store may be gone; or is not there yet
        _job.store.key_value_set("end", json.dumps([line, status]))


def _end_all(error):
    """Tell the others of an error that ends this host; where it only follows from another host's end, end with that."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _job.broken = _is_broken_exchange(error)
    if _job.broken:  # a host is gone or has failed; which one, and why, is known soon
        _job.told.wait(silence_timeout + 5 * heartbeat)
    if not _job.ending.acquire(blocking=False):
        _job.told.wait(grace)
        _end(_job.last_line, _job.status)
    if isinstance(error, KeyboardInterrupt):
        _job.last_line, _job.status = _stopped()
    else:
        text = _line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {_line(error)}"
        text = f"the exchange with the others broke ({_line(error)})" if _job.broken else text
        _job.last_line = f"error: {text}" if isinstance(error, _SameError) else f"error: {_who(_job.index)}: {text}"
        _job.status = getattr(error, "exit_status", 1)
    _tell(_job.last_line, _job.status)
    atexit.register(_end, "", _job.status)  # JAX's own end would wait for the others


def _end(line, status):
    """End this process at once, with one last line; the first host, and with it the store, ends last."""
    _job.exiting.acquire()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os.write(2, f"{line}\n".encode() if line else b"")
    deadline = time.monotonic() + 2 * heartbeat
    with contextlib.suppress(RuntimeError, AttributeError):
        _job.store.key_value_set(f"ended/{_job.index}", "")
        while is_first_host() and len(_job.store.key_value_dir_get("ended/")) < _job.count - _job.gone:
            time.sleep(0.1)
            if time.monotonic() > deadline:
                break
    os._exit(status)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_):
    """Print a last line where JAX aborts this process, as it does within a second after host 0 is gone."""
    if _job.store:
        _job.last_line = _job.last_line or _gone_line(0 if _job.index else None)
    os.write(2, f"{_job.last_line}\n".encode())
    os._exit(_job.status)


def _is_broken_exchange(error):
    """Whether an exchange of values ends with such an error when another host is gone."""
    if isinstance(error, KeyboardInterrupt | OSError | UserError):
        return False
    broken = re.search("gloo|nccl|coordination service|UNAVAILABLE", str(error), re.IGNORECASE)
    return isinstance(error, sys.modules["jax"].errors.JaxRuntimeError) or bool(broken)


def _stopped():
    return f"stopped at {_who(_job.index)}; {START_AGAIN}{_resume()}", 130


def _gone_line(index):
    who = "another host" if index is None else _who(index)
    return f"error: all hosts must run until the end; found that {who} is gone: {START_AGAIN}{_resume()}"


def _resume():
    return f" with --resume, which goes on after epoch {_job.epochs_saved}" if _job.epochs_saved else ""


def _who(index):
    return f"host {index} ({_job.names[index]})"


def _line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _reason(error):
    return (error.strerror or str(error)).partition(" (")[0]


def _shown(value):
    """A value as a message shows it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "nothing" if value is None else str(value)
