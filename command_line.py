"""What all scripts share: flags, one line for a user's mistake, files written whole or not at all, quiet starts.

A script ends with

    if __name__ == "__main__":
        sys.exit(exit_status(main))

and `main` raises `UserError` where its input breaks a rule.  Importing this module imports neither NumPy nor OpenCV.
"""

import argparse
import contextlib
import errno
import math
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path


class UserError(ValueError):
    """A mistake that the user can mend: the message says the rule, what was found, and what to do, in one line.

    Raise it where input is checked, or in place of the error that opening a file of the user's gave.  Every other
    exception is a bug and keeps its traceback.

    Args:
        message: The line, without "error: ".
        exit_status: 2 for bad arguments and bad input; 1 where the machine failed, such as a full disk.
    """

    def __init__(self, message: str, exit_status: int = 2):
        super().__init__(message)
        self.exit_status = exit_status


def exit_status(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a script's `main`; a `UserError` becomes one line on standard error, a bug keeps its traceback.

    Args:
        main: Takes the arguments and returns an exit status.
        argv: The arguments; None for those of the command line.

    Returns:
        What `main` returns; after a `UserError` its exit status; 130 after Ctrl-C, and after SIGTERM, with which
        clusters stop a job.
    """
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = main(argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does: there is nothing more to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        print(not_installed(error), file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


# ------------------------------------------------------------------------------------------------------------
# Flags


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` for scripts whose defaults are settings that users edit.

    A mistake is told in one line, without the usage.  A setting is converted and checked as its flag would be, which
    argparse itself does for strings alone.
    """

    def parse_args(self, args=None, namespace=None):
        values = super().parse_args(args, namespace)
        for action in self._actions:
            if action.dest in values:
                try:
                    setattr(values, action.dest, self._as_from_a_flag(action, getattr(values, action.dest)))
                except argparse.ArgumentError as error:
                    self.error(str(error))
        return values

    def _as_from_a_flag(self, action, value):
        """Return what the flag would have given for a setting's value."""
        if action.nargs == 0:  # a flag without a value
            if value not in (True, False):
                raise argparse.ArgumentError(action, f"is True or False; found {value!r}")
            return value
        values = list(value) if isinstance(value, list | tuple) else [value]
        if value is None and not action.choices:
            return [] if action.nargs == "+" else None
        wanted = {None: 1, "?": 1, "+": len(values)}.get(action.nargs, action.nargs)
        if len(values) != wanted:
            raise argparse.ArgumentError(action, f"takes {wanted} value{'s' * (wanted != 1)}; found {value!r}")
        if action.type or action.choices:
            values = [self._get_value(action, str(value)) for value in values]
            for value in values:
                self._check_value(action, value)
        return values[0] if action.nargs in (None, "?") else values

    def error(self, message):
        self.exit(2, f"error: {message}; --help lists the flags\n")


def number_in_range(
    kind: type, least: float, below: float = math.inf, most: float = math.inf, auto: bool = False
) -> Callable[[str], float | str]:
    """Return an argparse type: a number from `least` to `most`, or to below `below`.

    Args:
        kind: int or float.
        least: The smallest number allowed.
        below: All numbers are smaller than this one.
        most: The largest number allowed.
        auto: Whether the word auto is allowed too.
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

    convert.__name__ = kind.__name__ + " or auto" * auto  # argparse names the type where the text is no number
    return convert


# ------------------------------------------------------------------------------------------------------------
# Files


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it takes the final name if the block ends well, else it is removed.

    Folders on the way are made.

    Raises:
        UserError: At once where `path` can't be written; later where the disk is full.
    """
    path = Path(path)
    if not path.name:
        raise UserError(f"{path} can't be written (it is a folder): choose another place")
    partial = path.with_name(f".{path.stem}.{_process()}{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}): choose another place") from error
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(partial)):
            raise UserError(f"{path} can't be written: {error.strerror}", exit_status=1) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`, which must be missing or empty; it takes its place if the block ends well."""
    partial = path.with_name(f".{path.name}.{_process()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}): choose another place") from error
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _process() -> str:
    """Return a name for this process that no other process has, on this host or another that shares the folder."""
    return f"{platform.node()}.{os.getpid()}"


def cache_folder() -> Path:
    """Return the user's folder for compiled checkpoints and decoded faces: EMOTION_CACHE, else the system's.

    Raises:
        RuntimeError: The user has no home.
    """
    if os.environ.get("EMOTION_CACHE"):
        return Path(os.environ["EMOTION_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "facial-emotion"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "facial-emotion"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facial-emotion"


# ------------------------------------------------------------------------------------------------------------
# Starting


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Silence what compiled libraries write to standard error while they load; Python's own errors still appear.

    TensorFlow tells of oneDNN and of missing CUDA, LiteRT of its delegate; neither has a switch for that.

    Raises:
        SystemExit: A package is not installed, with a line that says so; or the user pressed Ctrl-C, to which many
            layers of these libraries would each add a line.
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


def not_installed(error: ModuleNotFoundError) -> str:
    """Return the line on a missing package.

    Raises:
        ModuleNotFoundError: `error` itself, where the package is there and a part of it is missing: that is a bug.
    """
    if find_spec(f"{error.name}".partition(".")[0]):
        raise error
    return f"error: {error.name} is not installed: pip install -r requirements.txt"
