"""Python programs that start at once: each is forked from a server that has imported what takes seconds.

A program sees arguments, a folder and an environment of its own, as if Python had been started for it.  Only what
Python and the imported packages read when they start, such as PYTHONPATH, is of the server's environment.
"""

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
        request = json.dumps({"arguments": arguments, "environment": environment, "folder": folder}).encode()
        stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the process closes it
        (status, status_end), (stdout, stdout_end) = os.pipe(), os.pipe()
        socket.send_fds(self._requests, [request], [status_end, stdout_end, stderr.fileno()])
        os.close(status_end), os.close(stdout_end)
        return ForkedProcess(os.fdopen(status, buffering=1), os.fdopen(stdout), stderr)


class ForkedProcess:
    """A program that a server has started: what tests use of subprocess.Popen."""

    def __init__(self, status, stdout, stderr):
        self.returncode, self.stdout, self.stderr, self._status = None, stdout, stderr, status
        self.pid = int(status.readline())

    def poll(self) -> int | None:
        """Return the exit status of a program that has ended."""
        return self.wait() if self.returncode is not None or select.select([self._status], [], [], 0)[0] else None

    def wait(self) -> int:
        """Return the exit status when the program has ended."""
        if self.returncode is None:
            self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Return what the program writes until it ends; it is killed after `timeout` seconds."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        with self._status, self.stdout, self.stderr:
            told = self.stdout.read()
            self.wait()
            timer.cancel()
            self.stderr.seek(0)
            return told, self.stderr.read()

    def send_signal(self, number: int) -> None:
        """Send a signal to a program that has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program at once."""
        self.send_signal(signal.SIGKILL)


def _serve(requests):
    """Fork for each request; return, in the new process alone, the arguments of the program that it is to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the parents of the programs
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not request:
            os._exit(0)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _fork_program(*files)
            requests.close()
            return json.loads(request)
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
    name, *rest = program["arguments"]
    if name == "-c":
        sys.path[0], sys.argv = "", [name, *rest[1:]]
        exec(rest[0])
    else:
        sys.path[0], sys.argv = os.path.dirname(os.path.abspath(name)), [name, *rest]
        runpy.run_path(name, run_name="__main__")
