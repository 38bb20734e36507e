"""What all scripts share: flags, one line for a user's mistake, files written whole or not at all, quiet starts.

A script ends with

    if __name__ == "__main__":
        sys.exit(exit_status(main))

and `main` raises `UserError` where its input breaks a rule.  Importing this module imports neither NumPy nor OpenCV.
Scripts import it first: an older Python and a missing package get one line, and Ctrl-C ends them quietly while the
libraries load.
"""

from __future__ import annotations  # an older Python reads this file, too, and is told which one is needed

import _signal  # what `signal` is made of: the module `signal` takes much longer to import
import os
import sys


def stop_quietly() -> None:
    """End the process at once, with status 130 and without a word, on Ctrl-C, SIGTERM or SIGHUP.

    This holds while the libraries load; `exit_status` takes over later.  What Python itself says on Ctrl-C before the
    first line of a script can't be helped.
    """
    _handle_stops(lambda number, frame: os._exit(130))


def _handle_stops(handler):
    """Set the handler of the signals that stop a program; return {number: the handler before}.

    A signal that is ignored stays so: `nohup` ignores SIGHUP, and the shell ignores Ctrl-C for background jobs.
    """
    numbers = [getattr(_signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(_signal, name)]
    return {n: _signal.signal(n, handler) for n in numbers if _signal.getsignal(n) != _signal.SIG_IGN}


def _is_our_script(path: str | None) -> bool:
    """Return whether a program is in the folder of this project, or in one of its packages."""
    root = os.path.dirname(os.path.realpath(__file__))
    folder = os.path.dirname(os.path.realpath(path)) if path is not None else ""
    return root in (folder, os.path.dirname(folder))


_OURS = _is_our_script(getattr(sys.modules["__main__"], "__file__", None))  # not so in a user's own program
if _OURS:
    stop_quietly()

# isort: split
import _thread
import argparse
import contextlib
import errno
import functools
import math
import platform
import re
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

if sys.version_info < (3, 11):  # noqa: UP036
    found = ".".join(map(str, sys.version_info[:2]))
    print(f"error: Python must be 3.11 or newer; found {found}: python3.11 -m venv .venv", file=sys.stderr)
    sys.exit(2)

MAX_PIXELS = 2**28  # of an image; telephones have up to 200 million
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV reads it while it is imported


class UserError(ValueError):
    """A mistake that the user can mend: the message says the rule, what was found, and what to do, in one line.

    Raise it where input is checked, or in place of the error that opening a file of the user's gave.  Every other
    exception is a bug and keeps its traceback.

    Args:
        message: The line, without "error: ".
        exit_status: 2 for bad arguments and bad input; 1 where the machine failed, such as a full disk.
        hint: More lines to print below, such as commands to type; nothing in them comes from the user.
    """

    def __init__(self, message: str, exit_status: int = 2, hint: str = ""):
        super().__init__(message)
        self.exit_status, self.hint = exit_status, hint


class WriteError(UserError):
    """A file or a folder can't be written; a script that can go on without it catches this error alone."""


def exit_status(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a script's `main`: a `UserError` becomes one line on standard error, a bug keeps its traceback.

    Args:
        main: Takes the arguments and returns an exit status.
        argv: The arguments; None for those of the command line.

    Returns:
        What `main` returns. After a `UserError`, the exit status of the error; where a package is missing, 2. After
        Ctrl-C, 130, and the same after SIGTERM, the signal with which clusters stop a job, and after SIGHUP, which
        comes when the terminal is closed.  Where the reader of standard output has gone, 1.
    """
    _open_closed_ends()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows ASCII alone, or a name that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    interrupt, raise_again = _interrupt_once_a_second()
    previous_handlers, previous_hook = _handle_stops(interrupt), sys.unraisablehook
    sys.unraisablehook = raise_again
    try:
        status = main(argv)
        _flush_output()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` goes after ten lines
        return 1
    except ModuleNotFoundError as error:
        print(not_installed(error), file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {printable(str(error))}", *filter(None, [error.hint]), sep="\n", file=sys.stderr)
        return error.exit_status
    finally:
        with contextlib.suppress(BrokenPipeError, UserError):
            _flush_output()
        sys.unraisablehook = previous_hook
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _flush_output():
    """Write what is left in the buffer of the standard output; a full disk is the user's to mend."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end
        if isinstance(error, BrokenPipeError):
            raise
        raise WriteError(f"the standard output can't be written: {error.strerror}", exit_status=1) from error


def printable(text: str) -> str:
    """Return a text as one line for the terminal: control characters, escape sequences and the like are escaped.

    Args:
        text: A message; it may hold names of files, layers and emotions that others chose.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


# ----------------------------------------------------------------------------------------------------------
# Flags


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` for scripts whose defaults are settings that users edit.

    A mistake gets one line, without the usage. A setting is converted and checked as its flag is; argparse itself does
    so for text alone.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)  # --epoch is a mistake, and not short for --epochs
        self._negative_number_matcher = re.compile(r"^-[\d.]")  # argparse takes -1 for a value, and -1,1 for a flag

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """Read the command line, and check the settings that no flag has replaced.

        Args:
            args: The arguments; None for those of the command line.
            namespace: Where the values go; None for a new one.

        Returns:
            An `argparse.Namespace`.

        Raises:
            SystemExit: A flag or a setting is wrong (status 2), or `--help` was asked for (status 0).
        """
        values = super().parse_args(args, namespace)
        for action in self._actions:
            if action.dest in values:
                try:
                    setattr(values, action.dest, self._convert_setting(action, getattr(values, action.dest)))
                except argparse.ArgumentError as error:
                    self.error(str(error))
        return values

    def _convert_setting(self, action, value):
        """Return a setting's value as the flag would have given it; a value that a flag gave comes back unchanged."""
        if action.nargs == 0:  # a flag without a value
            if value not in (True, False):
                raise argparse.ArgumentError(action, f"is True or False; found {value!r}")
            return value
        values = list(value) if isinstance(value, list | tuple) else [value]
        if value is None and not action.choices and getattr(action.type, "allows_none", True):
            return [] if action.nargs == "+" else None
        wanted = {None: 1, "?": 1, "+": len(values)}.get(action.nargs, action.nargs)
        if len(values) != wanted:
            raise argparse.ArgumentError(action, f"takes {wanted} value{'s' * (wanted != 1)}; found {value!r}")
        if action.type or action.choices:
            values = [self._get_value(action, str(value)) for value in values]
            for value in values:
                self._check_value(action, value)
        return values[0] if action.nargs in (None, "?") else values

    def error(self, message: str):
        """End the script with one line and status 2; argparse calls this method."""
        proposal = self._did_you_mean(message)
        end = f"; did you mean {proposal}?" if proposal else ";"
        self.exit(2, f"error: {printable(message)}{end} --help lists the flags\n")

    def _did_you_mean(self, message):
        """Return the flag or the choice that the first mistyped word of a message nearly is, else ""."""
        import difflib  # here, as some below: most starts do without it, and are faster

        choices = [str(choice) for action in self._actions for choice in action.choices or ()]
        known = {name.lower(): name for name in [*choices, *self._option_string_actions]}
        for word in re.findall(r"(?<!\S)--[\w-]+|(?<=')[^']+(?=' \(choose)", message):
            if word not in known.values() and (close := difflib.get_close_matches(word.lower(), known, 1, 0.7)):
                return known[close[0]]
        return ""


def number_in_range(
    kind: type, least: float, below: float = math.inf, most: float = math.inf, auto: bool = False, none: bool = False
) -> Callable[[str], float | str]:
    """Return a `type` for `add_argument` that takes the numbers of a range, and refuses all others in one line.

    Args:
        kind: int or float.
        least: The smallest number that is allowed.
        below: Every number must be smaller than `below`.
        most: The largest number that is allowed.
        auto: Whether the word auto is allowed as well.
        none: Whether a flag that was not given may be None.

    Returns:
        A function from the text of a flag to a number, or to "auto".
    """

    def convert(text):
        if auto and text == "auto":
            return text
        value = kind(text)
        if not (least <= value <= most and value < below):
            limits = f"from {least} to below {below}" if below < math.inf else f"from {least} to {most}"
            limits = f"at least {least}" if below == most == math.inf else limits
            raise argparse.ArgumentTypeError(f"must be {limits}{' or auto' * auto}; found {text}")
        return value

    convert.allows_none = none
    convert.__name__ = kind.__name__ + " or auto" * auto  # argparse names the type where the text is no number
    return convert


# ----------------------------------------------------------------------------------------------------------
# Files


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Translate the error of reading a file or a folder of the user's; the block must do nothing else.

    Args:
        path: What the message names.

    Raises:
        UserError: The system refused to open or to read `path`, or a file in it.
    """
    try:
        yield
    except OSError as error:
        if not error.errno:  # a library's own error, not the system's
            raise
        raise UserError(f"{path} can't be read ({error.strerror}): correct the path or its permissions") from error


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Translate Matplotlib's errors that are the machine's; put the import of Matplotlib into the block, too.

    Raises:
        WriteError: Matplotlib has no font that can be read, or no folder for its cache.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None):  # about a file of ours
            raise
        remedy = "set MPLCONFIGDIR to an empty folder that can be written"
        raise WriteError(f"Matplotlib can't draw ({error}): {remedy}") from error


def new_figure(**options) -> Figure:
    """Return an empty figure of Matplotlib, on which a $ in a name is a $, and begins no formula.

    For that, the setting `text.parse_math` of Matplotlib is changed for the whole process.

    Args:
        options: Of `matplotlib.figure.Figure`.
    """
    import matplotlib  # here: it takes time
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    matplotlib.rcParams["text.parse_math"] = False
    return Figure(**options)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; the file gets its final name if the block ends well, else it is removed.

    Missing folders on the way to `path` are made. Where `path` is a link, the file that it leads to is replaced. A
    device or a pipe is never replaced: the content is written to it at the end.

    Args:
        path: The final name.

    Yields:
        The path to write to. It has the suffix of `path`.

    Raises:
        WriteError: At once where `path` can't be written (exit status 2); later where the disk is full (exit status 1).
    """
    path = Path(path)
    if not path.name:
        raise WriteError(f"{path} can't be written (it is a folder): choose another path")
    if is_device(path):
        with _writing_to_device(path) as partial:
            yield partial
        return
    with opening_to_write(path):
        if path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # a link may lead to where no file is yet
                path.stat()  # tells of links that lead to each other
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        partial = target.with_name(f".{target.stem}.{_process_name()}{path.suffix}")
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(os.path.realpath(target.parent))
        partial.touch()
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        if is_about_writing(error, partial):
            raise WriteError(f"{path} can't be written: {error.strerror}", exit_status=1) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def opening_to_write(path: Path) -> Iterator[None]:
    """Translate the system's refusal to open one of the user's files for writing into a `WriteError` (status 2)."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} can't be written ({error.strerror}): choose another path") from error


def is_device(path: Path) -> bool:
    """Return whether there is something at a path that is neither a file nor a folder: a device, a pipe, a socket."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _writing_to_device(path):
    """Give a path in a folder of its own; its content goes to the device or pipe at `path` if the block ends well."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder, path.name)
        partial.touch()
        yield partial
        try:
            with open(partial, "rb") as content, open(path, "wb") as device:
                shutil.copyfileobj(content, device)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WriteError(f"{path} can't be written: {error.strerror}", exit_status=1) from error


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to fill; it gets its final name if the block ends well, else it is removed.

    Args:
        path: The final name; nothing, or an empty folder.

    Yields:
        The folder to fill.

    Raises:
        WriteError: At once where `path` can't be written (exit status 2); later where the disk is full (exit status 1).
    """
    partial = path.with_name(f".{path.name}.{_process_name()}")
    with opening_to_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(os.path.realpath(path.parent))
        partial.mkdir()
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        partial.rename(path)
    except OSError as error:
        if is_about_writing(error, partial):
            raise WriteError(f"{path} can't be written: {error.strerror}", exit_status=1) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_about_writing(error: OSError, partial: Path) -> bool:
    """Return whether an error came from writing to `partial`, or into it.  On a full disk, the error names no file."""
    if not error.errno or isinstance(error, ConnectionError):  # a library's own error, or a reader has gone
        return False
    return error.filename is None or Path(str(error.filename)).is_relative_to(partial)


def _process_name() -> str:
    """Return a name that no other process has, neither on this host nor on another host that shares the folder."""
    return f"{platform.node()}.{os.getpid()}"


def mark_as_unfinished(path: Path, suffix: str) -> Path:
    """Return the name under which a file grows that may be used before it is whole: NAME.unfinished.HOST.PID.SUFFIX."""
    return path.with_name(f"{path.name}.unfinished.{_process_name()}{suffix}")


def left_behind(folder: str | Path) -> list[Path]:
    """Return the hidden and the unfinished files in a folder whose process, on this host, is gone.

    Call it before this process makes such files: it can have the number of a former process, whose files these are.
    """
    if os.name == "nt":  # no process can be asked for there without a package
        return []
    name = re.compile(rf"(\..+|.+\.unfinished)\.{re.escape(platform.node())}\.(\d+)(\.[^.]+)?")
    with contextlib.suppress(OSError):
        found = ((path, name.fullmatch(path.name)) for path in Path(folder).iterdir())
        return [path for path, match in found if match and not _is_another_process(int(match[2]))]
    return []


def _is_another_process(number):
    """Return whether a process of this number runs, other than this one."""
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True


@functools.lru_cache  # once in a run
def _remove_leftovers(folder):
    """Remove the half-written files and folders in a folder whose processes were killed."""
    for path in left_behind(folder):
        if path.name.startswith("."):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def cache_folder() -> Path:
    """Return the user's folder for compiled checkpoints and decoded faces.

    The environment variable EMOTION_CACHE names it. Without the variable, the folder is ~/.cache/facial-emotion on
    Linux, ~/Library/Caches/facial-emotion on macOS, and facial-emotion in %LOCALAPPDATA% on Windows.

    Raises:
        UserError: The user has no home folder, as in some containers.
    """
    if os.environ.get("EMOTION_CACHE"):
        return Path(os.environ["EMOTION_CACHE"])
    from platformdirs import user_cache_path  # here: many starts need no cache folder, and are faster without it

    try:
        folder = user_cache_path("facial-emotion", appauthor=False, opinion=False)
    except RuntimeError:  # older versions of platformdirs return "~/.cache/facial-emotion" instead
        folder = Path("~")
    if not folder.is_absolute():
        raise UserError("the cache must have a folder; found no home folder of the user: set EMOTION_CACHE to a folder")
    return folder


# ----------------------------------------------------------------------------------------------------------
# Starting and stopping


def _interrupt_once_a_second():
    """Return a handler that raises `KeyboardInterrupt`, and a `sys.unraisablehook` that lets none get lost.

    After a signal, others are ignored for one second.

    So a key that was pressed twice, or a signal that the shell and the terminal both send, does not disturb the saving
    of files that the first one has begun.
    """
    last_s, last_number, usual_hook = -math.inf, signal.SIGINT, sys.unraisablehook

    def interrupt(number, frame):
        nonlocal last_s, last_number
        last_number = number
        if number == getattr(signal, "SIGHUP", None):
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, AttributeError):  # of another kind
                    if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # the terminal is gone: writing is an error
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if time.monotonic() - last_s > 1:
            last_s = time.monotonic()
            raise KeyboardInterrupt

    def raise_again(unraisable):
        """Raise once more what Python ignores in finalizers and in callbacks of the garbage collector (JAX has one)."""
        nonlocal last_s
        if unraisable.exc_type is not KeyboardInterrupt:
            usual_hook(unraisable)
            return
        last_s = -math.inf
        again = threading.Timer(0.05, _thread.interrupt_main, [last_number])  # by then the finalizer has ended
        again.daemon = True
        again.start()

    return interrupt, raise_again


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a block run to its end: Ctrl-C, SIGTERM and SIGHUP have no effect in it."""
    previous = {}
    if threading.current_thread() is threading.main_thread():  # the only one that signals interrupt
        previous = _handle_stops(lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _open_closed_ends():
    """Open the standard input, output and error where the shell has closed them (`>&-`); what is written goes nowhere.

    Otherwise the first file that the program opens would take their place, and get what libraries print.
    """
    for end, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(end)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if end == 0 else "w"))  # noqa: SIM115


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Silence what compiled libraries write to standard error while they load; Python's own errors still appear.

    TensorFlow writes about oneDNN and about missing CUDA, LiteRT about its delegate; no switch turns these lines off.

    Raises:
        SystemExit: A package is not installed; the message is one line. Or the user pressed Ctrl-C (status 130); as
            another exception, each of the many layers of these libraries would add a line to it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name in ("tensorflow", "jax", "torch"):
            raise SystemExit(
                f"error: Keras needs the package of its backend, {error.name}; found none: install it, or "
                "set KERAS_BACKEND to tensorflow or jax"
            ) from None
        raise SystemExit(not_installed(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what compiled libraries write to standard error; all that Python writes there still appears.

    libpng, libjpeg, FFmpeg and Qt tell of damaged files and missing fonts in many lines, which name neither the file
    nor a remedy; scripts tell these faults in one line.  Where the environment variable OPENCV_LOG_LEVEL is set, the
    libraries write as they like.
    """
    shown, kept = sys.stderr, None
    if "OPENCV_LOG_LEVEL" not in os.environ:
        with contextlib.suppress(OSError):  # there is no standard error
            kept = os.dup(2)
    if kept is None:
        yield
        return
    with contextlib.suppress(OSError, AttributeError):  # a stream of another kind, which is not silenced
        shown.flush()
        if shown.fileno() == 2:
            sys.stderr = open(kept, "w", 1, shown.encoding, shown.errors, closefd=False)  # noqa: SIM115
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        if sys.stderr is not shown:
            sys.stderr.flush()
            sys.stderr = shown
        os.dup2(kept, 2)
        os.close(kept)


def not_installed(error: ModuleNotFoundError) -> str:
    """Return the line that names a missing package.

    Args:
        error: What the import raised.

    Raises:
        ModuleNotFoundError: `error` itself, if the package is installed and a part of it is missing: a bug.
    """
    if find_spec(f"{error.name}".partition(".")[0]):
        raise error
    here = Path(__file__).resolve().parent
    for name in (".venv", "venv") if sys.prefix == sys.base_prefix else ():  # else one is in use
        if (here / name / "pyvenv.cfg").is_file():
            command = f"{here / name}\\Scripts\\activate" if os.name == "nt" else f"source {here / name}/bin/activate"
            return f"error: {error.name} is not installed in this Python; found a virtual environment: {command}"
    return f"error: {error.name} is not installed: pip install -r requirements.txt"


def _excepthook(kind, error, traceback):
    """Print one line where a script of this project can't import a package; all other errors keep their traceback."""
    if kind is ModuleNotFoundError and error.name and not find_spec(error.name.partition(".")[0]):
        print(not_installed(error), file=sys.stderr)
        sys.exit(2)
    sys.__excepthook__(kind, error, traceback)


if _OURS:
    sys.excepthook = _excepthook
    _open_closed_ends()
