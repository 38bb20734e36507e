"""Python programs that start at once: each is forked from a server that has imported what takes seconds.

A program sees arguments, a folder and an environment of its own, as if Python had been started for it.  But what Python
and the imported packages do when they start is the server's: PYTHONPATH is read there, and strings have its hashes.
"""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator


class ForkServer:
    """A server for programs; it ends with this process.

    Args:
        imports: The Python code that it runs first.
        environment: Variables that it gets beside those of this process.
    """

    def __init__(self, imports: str, environment: dict[str, str]):
        self._requests, theirs = socket.socketpair()
        command = [sys.executable, __file__, imports, str(theirs.fileno())]
        with theirs:
            self._server = subprocess.Popen(command, env=os.environ | environment, pass_fds=[theirs.fileno()])

    def start(self, arguments: list[str], environment: dict[str, str], folder: str) -> "ForkedProcess":
        """Start a program: `arguments` are a script's path or "-c" and code, and then the program's own."""
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - the process closes it
        (status, status_end), (stdout, stdout_end) = os.pipe(), os.pipe()
        with tempfile.TemporaryFile("w+") as request:
            json.dump({"arguments": arguments, "environment": environment, "folder": folder}, request)
            request.flush()
            files = [request.fileno(), status_end, stdout_end, stderr.fileno()]
            socket.send_fds(self._requests, [b"."], files)
        os.close(status_end), os.close(stdout_end)
        return ForkedProcess(os.fdopen(status, buffering=1), os.fdopen(stdout), stderr)


class ForkedProcess:
    """A program that a server has started: what tests use of subprocess.Popen."""

    def __init__(self, status, stdout, stderr):
        self.returncode, self.stdout, self._stderr, self._status = None, stdout, stderr, status
        self.pid = int(status.readline())

    def poll(self) -> int | None:
        """Return the exit status of a program that has ended."""
        return self.wait() if self.returncode is not None or select.select([self._status], [], [], 0)[0] else None

    def wait(self) -> int:
        """Return the exit status when the program has ended."""
        if self.returncode is None:
            self.returncode = int(self._status.readline())
        return self.returncode

    def stderr_so_far(self) -> str:
        """Return what the program has written to its standard error."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Return what the program writes until it ends; raise `TimeoutError` if that takes longer, and kill it."""
        with self.limit(timeout):
            told = self.stdout.read()
            self.wait()
        with self._status, self.stdout, self._stderr:
            return told, self.stderr_so_far()

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Kill the program, and raise `TimeoutError`, where a block takes longer."""
        late = threading.Event()

        def end():
            late.set()
            self.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if late.is_set():
                raise TimeoutError(f"killed after {seconds} s; its standard error: {self.stderr_so_far()}")

    def send_signal(self, number: int) -> None:
        """Send a signal to a program that has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its status is on the way
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program at once."""
        self.send_signal(signal.SIGKILL)


def _serve(requests):
    """Fork for each request; return, in the new process alone, the request for the program that it is to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the parents of the programs
    while True:
        sign, files, _, _ = socket.recv_fds(requests, 1, 4)
        if not sign:
            os._exit(0)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request, *others = files
            with open(request) as file:
                file.seek(0)
                program = json.load(file)
            _fork_program(*others)
            requests.close()
            return program
        for file in files:
            os.close(file)


def _fork_program(status, stdout, stderr):
    """Fork once more; return in the program's process, with its files, and stay in its parent, who tells its end."""
    pid = os.fork()
    if not pid:
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(stdout, 1), os.dup2(stderr, 2)
    os.close(stdout), os.close(stderr)
    if pid:
        os.write(status, f"{pid}\n".encode())
        os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    os.close(status)


if __name__ == "__main__":
    exec(sys.argv[1])
    program = _serve(socket.socket(fileno=int(sys.argv[2])))
    sys.stdout = open(1, "w")  # noqa: SIM115 - as Python opens them
    sys.stderr = open(2, "w", 1, errors="backslashreplace")  # noqa: SIM115
    os.chdir(program["folder"])
    os.environ.clear()
    os.environ.update(program["environment"])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else all programs draw the same numbers
    name, *rest = program["arguments"]
    if name == "-c":
        sys.path[0], sys.argv = "", [name, *rest[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(rest[0], vars(sys.modules["__main__"]))
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.abspath(name)), [name, *rest]
        runpy.run_path(name, run_name="__main__")
