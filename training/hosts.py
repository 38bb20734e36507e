"""Several hosts that train one network: how they find each other, agree, share values, and end together.

    python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 0    # on node0
    python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 1    # on node1

Keras and JAX exchange the gradients.  Beside them every host keeps a TCP connection to host 0, over which they
compare what they are about to train on, get what host 0 decides (validation, the run to resume), and learn within
seconds that one of them has failed, was stopped, or is gone.  JAX's own service can't tell them: where a host is gone
it ends the process with a C++ stack trace, and it knows nothing of Python's errors.

The connections are neither encrypted nor authenticated, as JAX's are not: they belong into a network of your own.
Importing this module imports neither Keras nor JAX.
"""

import atexit
import contextlib
import hashlib
import json
import os
import queue
import re
import select
import socket
import struct
import sys
import threading
import time
import zlib
from typing import NamedTuple

from command_line import UserError
from load_and_process import read_faces

# ------------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here.

start_timeout = 45.0    # seconds in which all hosts must have reached host 0, counted from the first that started
jax_timeout = 15.0      # seconds after these in which JAX must have started on all of them
silence_timeout = 20.0  # seconds without a sign of life after which a host counts as gone
heartbeat = 2.0         # seconds between two signs of life
# fmt: on
# ------------------------------------------------------------------------------------------------------------

VALUE, BEAT, END, BYE = b"v", b"h", b"e", b"b"  # kinds of messages
MESSAGE = struct.Struct(">cQ")  # kind, bytes that follow
JOB = "facial emotion"  # what hosts introduce themselves with
LARGEST = 2**32  # bytes of a message; whoever announces more is not one of us


class Place(NamedTuple):
    """What this process is in a job: the names of all hosts, the port of host 0, and which of them this is."""

    names: tuple[str, ...] = ("this host",)
    port: int = 0
    index: int = 0


class Disagreement(ValueError):
    """An error that every host finds by itself, in the same words."""


# ------------------------------------------------------------------------------------------------------------
# Where this process stands


def find_place(hosts=None, index=None, environment=os.environ):
    """Say which host of which job this process is.

    Args:
        hosts: "host0:port,host1,...", one entry per process; else EMOTION_HOSTS, else what Slurm says.
        index: which of them this is; else JOB_COMPLETION_INDEX (Kubernetes), else SLURM_PROCID.
        environment: a mapping, as `os.environ`.

    Returns:
        `Place`; of one host where nothing of this is set.

    Raises:
        ValueError: the list or the index is not as it must be.
    """
    hosts = hosts or environment.get("EMOTION_HOSTS")
    if hosts:
        names, port = parse_hosts(hosts)
    else:
        in_step = "SLURM_STEP_ID" in environment  # a batch script has all the rest as well, but is one process
        tasks = _whole(environment, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS")
        if not in_step or (tasks or 1) < 2:
            if index is not None:
                raise UserError(f"--host-index says which of --hosts this is; found {index} without --hosts: pass both")
            return Place()
        names, port = _slurm_hosts(environment, tasks)
    if len(names) == 1 and not index:
        return Place()
    for name in ("JOB_COMPLETION_INDEX", "SLURM_PROCID"):
        index = _whole(environment, name) if index is None else index
    if index is None:
        raise UserError(
            f"with --hosts, --host-index must say which of them this is, 0 to {len(names) - 1}; found none: pass it"
        )
    if not 0 <= index < len(names):
        raise UserError(
            f"--host-index must be 0 to {len(names) - 1}, a place in the list of {len(names)} hosts; found {index}: "
            "correct it, or the list"
        )
    return Place(names, port, index)


def parse_hosts(text):
    """Split "host0:port,host1,...": the hosts' names, and the port of the first.

    Raises:
        ValueError: an entry is empty, a port is none, or the first entry has none.
    """
    names, ports = [], []
    for entry in (entry.strip() for entry in text.split(",")):
        found = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:\[\]]+)(?::(\d{1,5}))?", entry)
        if not found or (found[2] and not 1 <= int(found[2]) <= 65535):
            raise UserError(f"hosts are host0:port,host1,... with ports from 1 to 65535; found {entry!r}: correct it")
        names.append(found[1].strip("[]"))
        ports.append(int(found[2] or 0))
    if not ports[0]:
        raise UserError(
            f"the first of the hosts needs a port for the others to reach it at; found {names[0]!r}: write "
            f"{names[0]}:12345"
        )
    return tuple(names), ports[0]


def expand_nodes(text):
    """The names in Slurm's short form of a list of nodes: "node[01-03,07],gpu3" has five.

    Raises:
        ValueError: it is no such list.
    """
    names = []
    for entry in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        parts = re.split(r"\[([^\[\]]*)\]", entry)
        expanded = [parts[0]]
        for ranges, after in zip(parts[1::2], parts[2::2], strict=True):
            numbers = []
            for span in ranges.split(","):
                found = re.fullmatch(r"(\d+)(?:-(\d+))?", span)
                if not found:
                    raise UserError(
                        f"a list of Slurm's nodes is like node[01-04,07],gpu3; found {text!r}: pass --hosts"
                    )
                first, last = found[1], found[2] or found[1]
                numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
            expanded = [name + number + after for name in expanded for number in numbers]
        names += expanded
    if not names or text.count("[") != text.count("]") or any(re.search(r"[\[\]\s]", name) for name in names):
        raise UserError(f"a list of Slurm's nodes is like node[01-04,07],gpu3; found {text!r}: pass --hosts")
    return names


def _slurm_hosts(environment, tasks):
    """The hosts of a Slurm step, and a port that its job has for itself on most clusters."""
    listed = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    job = _whole(environment, "SLURM_JOB_ID")
    if not listed or job is None:
        raise UserError(
            "a Slurm step names its nodes and its job (SLURM_STEP_NODELIST, SLURM_JOB_ID); found neither or one: pass "
            "--hosts"
        )
    nodes = expand_nodes(listed)
    names = nodes if len(nodes) == tasks else [nodes[0], *(f"task {number}" for number in range(1, tasks))]
    return tuple(names), 15000 + job % 15000  # below the ports that systems hand out


def _whole(environment, name):
    """A whole number of the environment, or None where it is not set."""
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"{name} must be a whole number; found {text!r}: correct it, or unset it")
    return int(text)


# ------------------------------------------------------------------------------------------------------------
# A job


class Job:
    """The hosts that train together, as one of them sees it; a job of one host does nothing.

    Used as a context: entering waits until all hosts are there; an error that leaves it reaches every host, and ends
    each with one line.

    Attributes:
        count: how many hosts.
        index: which of them this is.
        first: whether this is host 0, which writes, prints and decides.
        epochs_done: how many finished epochs host 0 has saved, for the messages.

    Raises:
        OSError: on entering, where host 0 can't be reached, or not all have reached it, in `start_timeout`; on
            `start_jax`, where JAX has not started on all `jax_timeout` later.
    """

    def __init__(self, place=None):
        self.names, self.port, self.index = place or Place()
        self.count, self.first, self.epochs_done = len(self.names), self.index == 0, 0
        self._links, self._files, self._ends = {}, threading.RLock(), threading.Lock()
        self._relay, self._leaving, self._status = None, False, None

    def __enter__(self):
        self._deadline = time.monotonic() + start_timeout
        if self.count == 1:
            return self
        atexit.register(self._leave)
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            if self.first:
                self._gather_hosts()
            else:
                self._reach_host_0()
            self._joined = self.gather(self.index)
        except BaseException as error:
            self._tell(error)
            raise
        return self

    def __exit__(self, kind, error, trace):
        if self.count == 1:
            return
        if error is None:
            self.gather(None)  # host 0 may still measure its best checkpoint
            if "jax" in sys.modules:
                sys.modules["jax"].distributed.shutdown()
            self._leaving = True
            for link in self._links.values():
                link.send(BYE)
            for link in self._links.values():
                link.thread.join(silence_timeout)
                link.socket.close()
        elif _by_another(error):
            # The exchange broke since a host is gone or failed: who, and why, comes over the connections.
            time.sleep(silence_timeout + 2 * heartbeat)
            lost = ConnectionError(f"{self._who(self.index)}: the exchange with the others broke ({_line(error)})")
            self._tell(lost)
            raise lost from error
        else:
            self._tell(error)

    def start_jax(self):
        """Start JAX on all hosts as one machine; nothing may have used JAX before."""
        if self.count == 1:
            return
        import jax

        if self.first:
            with socket.socket() as free:
                free.bind(("", 0))
                port = free.getsockname()[1]
        port, left = self.share([port, self._deadline + jax_timeout - time.monotonic()] if self.first else None)
        address = f"127.0.0.1:{port}"
        if not self.first:
            self._relay = Relay((self.names[0], port))
            address = f"127.0.0.1:{self._relay.port}"
        os.environ["no_grpc_proxy"] = "127.0.0.1"  # noqa: SIM112 - gRPC's own name; else it asks proxies for our address
        jax.config.update("jax_check_proxy_envs", False)
        jax.config.update("jax_enable_preemption_service", False)  # which would swallow SIGTERM
        everywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
        blocked = (
            "all hosts must reach each other at any port; found that JAX could not start on {who} ({why}): see that no "
            "firewall lies between them"
        )
        who = self._who(self.index)
        # JAX's own limit would end the process with a stack trace.
        why = f"no answer within {start_timeout + jax_timeout:.0f} s of the start"
        limit = threading.Timer(left, self._end, [f"error: {blocked.format(who=who, why=why)}", 1])
        limit.daemon = True
        limit.start()
        try:
            jax.distributed.initialize(
                address,
                self.count,
                self.index,
                cluster_detection_method="deactivate",  # all devices of a host are this process's
                coordinator_bind_address=f"{everywhere}:{port}",
                initialization_timeout=int(10 * start_timeout),
                heartbeat_timeout_seconds=int(10 * silence_timeout),  # ours comes first, and says more
                shutdown_timeout_seconds=int(silence_timeout),
            )
            jax.devices()
        except RuntimeError as error:  # JAX's are
            raise ConnectionError(blocked.format(who=who, why=_line(error))) from error
        limit.cancel()
        atexit.unregister(self._leave)
        atexit.register(self._leave)  # before JAX's, which waits for hosts that are gone

    def gather(self, value):
        """What each host gives, a list in the hosts' order, on every host; values of JSON."""
        if self.count == 1:
            return [value]
        if self.first:
            values = [value, *(json.loads(self._links[index].values.get()) for index in range(1, self.count))]
            self._to_all(json.dumps(values).encode())
            return values
        self._links[0].send(VALUE, json.dumps(value).encode())
        return json.loads(self._links[0].values.get())

    def share(self, value=None):
        """What host 0 gives, on every host; a value of JSON."""
        return json.loads(self.share_bytes(json.dumps(value).encode() if self.first else b""))

    def share_bytes(self, content=b""):
        """The bytes that host 0 gives, on every host."""
        if self.count == 1:
            return content
        if not self.first:
            return self._links[0].values.get()
        self._to_all(content)
        return content

    def agree(self, rule, facts, remedy):
        """See that hosts don't differ.

        Args:
            rule: what all hosts must do, as the message begins.
            facts: dict of what must be equal, name -> value of JSON; the first difference is named.
            remedy: what to do where they do.

        Raises:
            Disagreement: on every host, naming the first that differs from host 0 and how.
        """
        ours, *theirs = self.gather(json.loads(json.dumps(facts)))
        for index, other in enumerate(theirs, 1):
            for name in [*ours, *(other.keys() - ours.keys())]:
                if ours.get(name) != other.get(name):
                    raise Disagreement(
                        f"all hosts must {rule}; found that {self._who(index)} differs from host 0 in {name}: "
                        f"{_shown(other.get(name))} against {_shown(ours.get(name))}: {remedy}"
                    )

    @contextlib.contextmanager
    def writing(self):
        """A block in which files are written: if another host ends the job meanwhile, this one ends after it."""
        with self._files:
            yield

    # The start of the connections

    def _gather_hosts(self):
        """Host 0: wait for all others, as long as the first of all hosts may."""
        try:
            server = _listen_at(self.names[0], self.port)
        except OSError as error:
            raise ConnectionError(
                f"host 0 must be able to listen at {self.names[0]}:{self.port} ({_reason(error)}): see that this is "
                "host 0, or choose another port in --hosts"
            ) from error
        with server:
            while len(self._links) < self.count - 1:
                if not select.select([server], [], [], max(0, self._deadline - time.monotonic()))[0]:
                    missing = [self._who(index) for index in range(1, self.count) if index not in self._links]
                    raise ConnectionError(
                        f"all {self.count} hosts must start within {start_timeout:.0f} s of each other; found no sign "
                        f"of {', '.join(missing)}: start it with the same --hosts, and see that it can reach "
                        f"{self.names[0]}:{self.port}"
                    )
                connection, address = server.accept()
                hello = _hello(connection)
                if hello is None:  # a port scanner, a health check
                    connection.close()
                    continue
                index, names, left = hello
                if names != list(self.names):
                    self._add(-index or -self.count, connection)  # to be told why, like the others
                    raise ConnectionError(
                        f"all hosts must be given the same --hosts; found {','.join(names)} at {address[0]}, and here "
                        f"{','.join(self.names)}: correct one of them"
                    )
                if index in self._links or index == 0:
                    self._add(-self.count, connection)
                    raise ConnectionError(
                        f"every host must have a --host-index of its own; found {index} twice, the second time at "
                        f"{address[0]}: correct it"
                    )
                self._add(index, connection)
                self._deadline = min(self._deadline, time.monotonic() + left)

    def _reach_host_0(self):
        """Every other host: connect to host 0, which may not be up yet."""
        while True:
            try:
                left = max(0.1, self._deadline - time.monotonic())
                connection = socket.create_connection((self.names[0], self.port), timeout=left)
                break
            except OSError as error:
                if time.monotonic() + heartbeat > self._deadline:
                    raise ConnectionError(
                        f"{self._who(self.index)} must reach host 0 at {self.names[0]}:{self.port} within "
                        f"{start_timeout:.0f} s; found {_reason(error)}: see that host 0 runs, and correct --hosts"
                    ) from error
                time.sleep(min(heartbeat, 0.5))
        left = self._deadline - time.monotonic()
        hello = {"job": JOB, "index": self.index, "hosts": self.names, "left": left}
        connection.sendall(_packed(VALUE, json.dumps(hello).encode()))
        self._add(0, connection)

    def _add(self, index, connection):
        """Keep a connection, and hear what comes over it."""
        connection.settimeout(silence_timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = self._links[index] = Link(connection)
        link.thread = threading.Thread(target=self._hear, args=(index, link), daemon=True)
        link.thread.start()

    # What goes on beside the training

    def _beat(self):
        """Give signs of life."""
        while not self._leaving:
            for link in list(self._links.values()):
                link.send(BEAT)
            time.sleep(heartbeat)

    def _hear(self, index, link):
        """Keep what a host sends; end where it says so, or is silent."""
        try:
            while True:
                kind, content = _receive(link.socket)
                if kind == VALUE:
                    link.values.put(content)
                elif kind == END:
                    said = json.loads(content)
                    return self._end(said["line"], said["status"])
                elif kind == BYE:
                    return None
        except (OSError, ValueError) as error:
            self._gone(index, error)

    def _gone(self, index, error):
        """End, since a host is there no more."""
        if self._leaving or index < 0:
            return
        how = f"{silence_timeout:.0f} s of silence" if isinstance(error, TimeoutError) else _reason(error)
        if not hasattr(self, "_joined") and not self.first:
            line = (
                f"host 0 must answer at {self.names[0]}:{self.port}; found another program, or a host 0 that ended "
                f"({how}): correct --hosts, and start all of them again"
            )
        else:
            line = (
                f"all hosts must run until the end; found that {self._who(index)} is gone ({how}): start all of them "
                f"again{self._resume()}"
            )
        self._end(f"error: {line}", 1)

    def _end(self, line, status):
        """End this process with one line, and the others with the same."""
        self._files.acquire(timeout=silence_timeout)  # what is being written gets whole
        if not self._ends.acquire(blocking=False):
            self._files.release()
            return
        self._send_end(line, status)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            print(line, file=sys.stderr, flush=True)
        os._exit(status)  # the main thread may wait, in C++, for a host that is gone

    def _tell(self, error):
        """Tell the others of an error that ends this host."""
        if not self._ends.acquire(blocking=False):  # another's came first; its line is about to be printed
            time.sleep(2 * silence_timeout)
        who = self._who(self.index)
        if isinstance(error, KeyboardInterrupt):
            line, self._status = f"stopped at {who}; start all of them again{self._resume()}", 130
        else:
            self._status = 2 if isinstance(error, UserError) else 1
            own = isinstance(error, (ValueError, OSError))
            text = _line(error) if own else f"{type(error).__name__}: {_line(error)}"
            line = (
                f"error: {text}" if isinstance(error, Disagreement) or text.startswith(who) else f"error: {who}: {text}"
            )
        self._leaving = True
        self._send_end(line, self._status)

    def _send_end(self, line, status):
        """Send how it ended, and see it received."""
        for link in self._links.values():
            link.send(END, json.dumps({"line": line, "status": status}).encode())
        deadline = time.monotonic() + 2
        for link in self._links.values():
            if link.thread is not threading.current_thread():
                link.thread.join(max(0, deadline - time.monotonic()))

    def _leave(self):
        """As Python exits after an error: without waiting for the others, as JAX would."""
        if self._status is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(self._status)

    def _to_all(self, content):
        for link in self._links.values():
            link.send(VALUE, content)

    def _who(self, index):
        return f"host {index} ({self.names[index]})"

    def _resume(self):
        return f" with --resume, which goes on after epoch {self.epochs_done}" if self.epochs_done else ""


class Link:
    """A connection to another host: what came over it waits in `values`."""

    def __init__(self, connection):
        self.socket, self.values, self.thread = connection, queue.SimpleQueue(), None
        self._sending = threading.Lock()

    def send(self, kind, content=b""):
        """Send a message; that the other is gone is noticed where it is heard."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(_packed(kind, content))


class Relay:
    """Hands JAX's connection on to host 0, and keeps JAX's end open when the other is gone.

    JAX ends the process some ten milliseconds after it loses host 0, before anything could be said.
    """

    def __init__(self, target):
        self.target, self.server = target, socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self.server.accept()
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near):
        deadline = time.monotonic() + start_timeout
        while time.monotonic() < deadline:
            try:
                far = socket.create_connection(self.target, timeout=heartbeat)
            except OSError:  # JAX's service on host 0 may start a little later
                time.sleep(0.1)
                continue
            far.settimeout(None)
            threading.Thread(target=self._pump, args=(far, near), daemon=True).start()
            return self._pump(near, far)
        return near.close()

    @staticmethod
    def _pump(source, target):
        with contextlib.suppress(OSError):
            while content := source.recv(2**16):
                target.sendall(content)


# ------------------------------------------------------------------------------------------------------------
# What hosts compare


def code_of(folder):
    """Short hashes of a project's Python files, by name."""
    files = sorted([*folder.glob("*.py"), *folder.glob("models/*.py")])
    return {file.relative_to(folder).as_posix(): short_hash(file.read_bytes()) for file in files}


def data_of(data, labels, chosen):
    """What describes a data set.

    Args:
        data: `Dataset`.
        labels: float32 (n, emotions), of Training.
        chosen: int (m,), the faces of Training that are learnt from.

    Returns:
        dict of JSON: the emotions; of each split the faces per emotion, and a hash of every face and its emotion; a
        hash of all labels and of `chosen`.
    """
    facts = {"emotions": list(data.emotions), "splits": list(data)}
    for name, (faces, emotions) in data.items():
        for number, emotion in enumerate(data.emotions):
            facts[f"number of {emotion} faces in {name}"] = int((emotions == number).sum())
        facts[f"every face in {name}"] = short_hash(emotions.tobytes(), _checksum(faces))
    return facts | {"labels": short_hash(labels.tobytes(), chosen.tobytes())}


def _checksum(faces):
    """A CRC of every face, 4 bytes; what lies in a file is read in parts of some megabytes."""
    checksum, step = 0, max(1, 2**23 // max(1, faces[:1].nbytes))
    for start in range(0, len(faces), step):
        checksum = zlib.crc32(read_faces(faces, slice(start, start + step)), checksum)
    return checksum.to_bytes(4, "big")


def short_hash(*contents):
    """A hash of bytes, as 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------------
# Parts


def _packed(kind, content):
    return MESSAGE.pack(kind, len(content)) + content


def _receive(connection, largest=LARGEST):
    """(kind, content) of the next message; ConnectionError where there is none."""
    kind, size = MESSAGE.unpack(_exactly(connection, MESSAGE.size))
    if kind not in (VALUE, BEAT, END, BYE) or size > largest:
        raise ConnectionError("found something else than messages of ours")
    return kind, _exactly(connection, size)


def _exactly(connection, size):
    content = bytearray()
    while len(content) < size:
        part = connection.recv(min(size - len(content), 2**20))
        if not part:
            raise ConnectionError("its connection closed")
        content += part
    return bytes(content)


def _hello(connection):
    """(index, names, seconds that it waits for the others) of a host that introduces itself; None of what is none."""
    connection.settimeout(min(5.0, silence_timeout))
    try:
        said = json.loads(_receive(connection, 2**20)[1])
        index, names, left = int(said["index"]), list(said["hosts"]), float(said["left"])
        return (index, names, left) if said["job"] == JOB and 0 <= index < len(names) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _listen_at(name, port):
    """A server at all addresses of this machine, or at its inner one alone where that is what the list says."""
    if name in ("localhost", "127.0.0.1", "::1"):
        family = socket.AF_INET6 if name == "::1" else socket.AF_INET
        return socket.create_server((name, port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _by_another(error):
    """Whether an error is what an exchange of gradients ends with when another host is gone."""
    if isinstance(error, (KeyboardInterrupt, OSError, Disagreement)):
        return False
    jax = sys.modules.get("jax")
    broken = re.search("gloo|nccl|coordination service|UNAVAILABLE", str(error), re.IGNORECASE)
    return jax is not None and (isinstance(error, jax.errors.JaxRuntimeError) or bool(broken))


def _line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _reason(error):
    return getattr(error, "strerror", None) or _line(error)


def _shown(value):
    """A value as it stands in a message."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "nothing" if value is None else str(value)
