"""Tests of command_line: what is told in one line and what keeps its traceback, flags and settings, files, starts."""

import argparse
import ast
import contextlib
import errno
import importlib
import io
import os
import platform
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import command_line
from command_line import (
    Parser,
    UserError,
    WriteError,
    cache_folder,
    exit_status,
    number_in_range,
    quiet_start,
    reading,
    replacing,
    replacing_folder,
    uninterrupted,
)

ROOT = Path(command_line.__file__).parent


def run(*arguments, **options) -> subprocess.CompletedProcess:
    """Run Python with these arguments to the end."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **options)


# ----------------------------------------------------------------------------------------------------------
# Mistakes and bugs


def zip_of_two_lengths():
    return list(zip([1, 2], [3], strict=True))


def concatenation_of_nothing():
    return np.concatenate([])


def failed_unpacking():
    first, second = [1, 2, 3]
    return first, second


def index_of_a_missing_value():
    return ("angry", "happy").index("bored")


def missing_file_of_the_program():
    return (ROOT / "models" / "no_such_table.json").read_text()


BUGS = {
    zip_of_two_lengths: ValueError,
    concatenation_of_nothing: ValueError,
    failed_unpacking: ValueError,
    index_of_a_missing_value: ValueError,
    missing_file_of_the_program: FileNotFoundError,
    lambda: Path(ROOT).read_text(): IsADirectoryError,
    lambda: [][0]: IndexError,
    lambda: 1 // 0: ZeroDivisionError,
    lambda: os.strerror("x"): TypeError,
}
BUG_SCRIPT = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from command_line import exit_status
import test_command_line

def main(argv):
    return getattr(test_command_line, argv[0])()

if __name__ == "__main__":
    sys.exit(exit_status(main, sys.argv[1:]))
"""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_comes_out_of_exit_status(bug, capsys):
    with pytest.raises(BUGS[bug]) as caught:
        exit_status(lambda argv: bug())
    assert not isinstance(caught.value, UserError) and capsys.readouterr().err == ""


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.__name__ != "<lambda>"], ids=lambda bug: bug.__name__)
def test_a_bug_keeps_its_traceback_and_exits_with_1(bug, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BUG_SCRIPT.format(root=str(ROOT), tests=str(Path(__file__).parent)))
    done = run(script, bug.__name__)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Traceback") and f"in {bug.__name__}" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(BUGS[bug].__name__)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("wrong: correct it"), 2),
        (UserError("wrong: correct it", exit_status=1), 1),
        (WriteError("wrong: correct it"), 2),
        (WriteError("wrong: correct it", exit_status=1), 1),
    ],
)
def test_exit_status_of_a_mistake(capsys, error, status):
    def main(argv):
        raise error

    assert exit_status(main) == status
    assert capsys.readouterr().err == "error: wrong: correct it\n"


def test_exit_status_is_that_of_main():
    assert exit_status(len, ["a", "b", "c"]) == 3


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"")
    done = run(ROOT / "load_and_process.py", "--dataset", tmp_path / "a.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert run(ROOT / "load_and_process.py", "--datasets", "drawn").returncode == 2


def test_a_mistake_is_one_line_whatever_the_path_of_the_script(tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    (tmp_path / "a.csv").write_text("emotion,pixels,Usage\n")
    for folder in (ROOT / "tests" / "..", tmp_path / "link"):
        done = run(folder / "load_and_process.py", "--dataset", tmp_path / "a.csv")
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.mark.parametrize("how", STOPS)
def test_exit_status_of_what_is_stopped(capsys, how):
    def main(argv):
        signal.raise_signal(how)
        raise AssertionError("it went on")

    before = signal.getsignal(signal.SIGTERM)
    assert exit_status(main) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("again", STOPS)
def test_a_second_signal_does_not_disturb_what_the_first_one_began(again):
    saved = []

    def main(argv):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(again)  # a key that was pressed twice
            with uninterrupted():
                time.sleep(1.1)
                signal.raise_signal(again)
            saved.append(1)
            signal.raise_signal(again)  # after a second, one that would be heard

    assert exit_status(main) == 130 and saved == [1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert exit_status(lambda argv: signal.raise_signal(signal.SIGHUP) or 7) == 7
    finally:
        signal.signal(signal.SIGHUP, before)


SCRIPTS = [
    *("real_time_emotion_recognition.py", "train_emotion_classifier.py", "evaluate_emotion_classifier.py"),
    *("load_and_process.py", "crop_photographs.py", "drawn_faces.py"),
]


@pytest.mark.skipif(os.name == "nt", reason="Windows stops processes in another way")
@pytest.mark.parametrize(("script", "how"), [*((script, signal.SIGINT) for script in SCRIPTS), (SCRIPTS[3], STOPS[1])])
def test_what_is_stopped_while_libraries_load_ends_quietly(tmp_path, script, how):
    stop = f"import os, time\nos.kill(os.getpid(), {int(how)})\ntime.sleep(300)\n"
    for name in ("cv2", "keras"):
        (tmp_path / f"{name}.py").write_text(stop)
    done = run(ROOT / script, "--help", env=os.environ | {"PYTHONPATH": str(tmp_path)}, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(os.name == "nt", reason="Windows stops processes in another way")
@pytest.mark.parametrize("script", [*SCRIPTS, "training/reproduce.py", "-m models.checkpoint"])
def test_what_is_stopped_in_its_first_lines_ends_quietly(tmp_path, script):
    """Before, a script imports next to nothing: not even what reads its command line."""
    (tmp_path / "argparse.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(signal.SIGINT)})\ntime.sleep(300)\n"
    )
    done = run(*script.split(), "--help", cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_scripts_start_where_python_is_isolated(tmp_path):
    done = run("-I", ROOT / "drawn_faces.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: drawn_faces.py"), done.stderr


CLOSED_ENDS = r"""
import contextlib, os, sys
sys.path.insert(0, {root!r})
from command_line import UserError, exit_status, quiet_start

def main(argv):
    with open("table.csv", "w") as file, quiet_start():
        with contextlib.suppress(OSError):  # a full disk
            os.write(1, b"printed by a library, ")
        os.write(2, b"told by a library")
        print("caf\u00e9 \udcff")
        file.write("whole")
    raise UserError("found caf\u00e9 \udcff")

sys.exit(exit_status(main))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full"])
def test_closed_and_narrow_ends_do_no_harm(tmp_path, closed):
    """Of a terminal that knows ASCII alone, and where the shell has closed an end, whose number a file would get."""
    (tmp_path / "script.py").write_text(CLOSED_ENDS.format(root=str(ROOT)))
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} script.py {closed}",
        shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (tmp_path / "table.csv").read_text() == "whole" and done.returncode == 2, done.stderr
    nowhere = ">&-" in closed.replace("2>&-", "") or "full" in closed
    assert done.stdout == ("" if nowhere else "printed by a library, caf\\xe9 \\udcff\n")
    if "2>&-" not in closed:
        assert done.stderr == "error: found caf\\xe9 \\udcff\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to try")
def test_a_standard_output_that_is_full_is_one_line():
    code = "import sys, command_line; sys.exit(command_line.exit_status(lambda argv: print('x') or 0))"
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "error: the standard output can't be written: No space left on device\n"


@pytest.mark.parametrize("length", [1, 10**6])
def test_a_reader_that_goes_away_is_no_traceback(length):
    main = f"lambda argv: print('x' * {length}) or 0"
    code = f"import sys, command_line; sys.exit(command_line.exit_status({main}))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=buffered, **pipes) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


# ----------------------------------------------------------------------------------------------------------
# Flags and settings


def parser():
    made = Parser(prog="script", description="Do nothing.")
    made.add_argument("--epochs", type=number_in_range(int, 1), default=10)
    made.add_argument("--rate", type=number_in_range(float, 0, below=1), default=0.5)
    made.add_argument("--size", type=number_in_range(int, 1), nargs=2, default=(48, 48))
    made.add_argument("--share", type=number_in_range(float, 0, most=1, auto=True), default="auto")
    made.add_argument("--network", choices=("tiny", "mini"), default="tiny")
    made.add_argument("--flip", action=argparse.BooleanOptionalAction, default=False)
    made.add_argument("--model", type=Path, nargs="+", default=[Path("a"), "b"])
    made.add_argument("--folder", type=Path, default=None)
    return made


def test_settings_may_be_written_as_plainly_as_flags():
    made = parser()
    made.set_defaults(epochs=7, rate="0.25", size=[10, 20], share=1, model=["a"], folder="here")
    values = vars(made.parse_args([]))
    assert values == {
        "epochs": 7,
        "rate": 0.25,
        "size": [10, 20],
        "share": 1.0,
        "network": "tiny",
        "flip": False,
        "model": [Path("a")],
        "folder": Path("here"),
    }
    assert vars(parser().parse_args([]))["model"] == [Path("a"), Path("b")]
    assert parser().parse_args(["--flip"]).flip is True and parser().parse_args(["--no-flip"]).flip is False


WRONG = {
    "epochs": [(0, "must be at least 1; found 0"), ("ten", "invalid int value: 'ten'"), (1.5, "invalid int value")],
    "rate": [(1, "must be from 0 to below 1; found 1"), ("nan", "must be from 0 to below 1; found nan")],
    "size": [(48, "takes 2 values; found 48"), ((1, 2, 3), "takes 2 values"), ((48, 0), "must be at least 1; found 0")],
    "share": [(2, "must be from 0 to 1 or auto; found 2"), ("all", "invalid float or auto value: 'all'")],
    "network": [("huge", "invalid choice: 'huge'"), (None, "invalid choice")],
    "flip": [("yes", "is True or False; found 'yes'"), (None, "is True or False; found None")],
}


@pytest.mark.parametrize(("setting", "value", "message"), [(s, v, m) for s, rows in WRONG.items() for v, m in rows])
def test_a_wrong_setting_is_refused_as_its_flag_is(setting, value, message, capsys):
    made = parser()
    made.set_defaults(**{setting: value})
    with pytest.raises(SystemExit) as stopped:
        made.parse_args([])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.startswith(f"error: argument --{setting}") and message in told
    assert told.endswith("--help lists the flags\n") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "must be at least 1; found 0"),
        (["--epochs", "ten"], "invalid int value: 'ten'"),
        (["--rate", "1"], "must be from 0 to below 1; found 1"),
        (["--network", "huge"], "invalid choice: 'huge'"),
        (["--size", "48"], "expected 2 arguments"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(arguments)
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.startswith("error: ") and message in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("convert", "right", "wrong"),
    [
        (number_in_range(int, 1), ["1", "999999"], ["0", "-3"]),
        (number_in_range(float, 0, below=1), ["0", "0.999"], ["1", "-0.1", "nan", "inf"]),
        (number_in_range(float, 0, most=1), ["0", "1"], ["1.01", "nan"]),
        (number_in_range(float, 0, most=1, auto=True), ["auto", "0.5"], ["2"]),
    ],
)
def test_number_in_range(convert, right, wrong):
    assert [str(convert(text)).removesuffix(".0") for text in right] == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"found {text}"):
            convert(text)


TRICKY = ["", "-", "--", "nan", "-1", "1e999", "9" * 30, "auto", "None", "\x1b[2J", "\udcff", "a=b", "@x", "-1,1"]


def test_whatever_is_typed_is_understood_or_gets_one_line():
    strategies = pytest.importorskip("hypothesis.strategies")
    from hypothesis import given, settings

    import crop_photographs
    import real_time_emotion_recognition as live

    flags = re.findall(r"--[a-z-]+", live.__doc__ + "".join(f"--{name.replace('_', '-')} " for name in dir(live)))
    words = strategies.one_of(strategies.sampled_from(flags), strategies.sampled_from(TRICKY), strategies.text())

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(strategies.sampled_from([live.parse_args, crop_photographs.parse_args]), strategies.lists(words, max_size=6))
    def check(parse_args, arguments):
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            try:
                parse_args(arguments)
            except SystemExit as ended:
                assert ended.code in (0, 2)
                line = told.getvalue()
                assert ended.code == 0 or (line.startswith("error: ") and line[:-1].isprintable() and line[-1] == "\n")
            else:
                assert not told.getvalue()

    check()


# ----------------------------------------------------------------------------------------------------------
# Files


def test_a_file_of_any_name_is_written_or_refused_in_one_line(tmp_path):
    strategies = pytest.importorskip("hypothesis.strategies")
    from hypothesis import given, settings

    signs = strategies.characters(exclude_characters="\0", categories=None)
    names = strategies.one_of(strategies.text(signs, max_size=8), strategies.text("./~a\\", max_size=9))

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(names, strategies.integers(1, 90))
    def check(name, times):
        path = Path(tmp_path, "in", "here", f"_{name * times}")
        try:
            with replacing(path) as partial:
                partial.write_text("whole")
            assert path.read_text() == "whole"
        except WriteError as error:
            assert "can't be written" in str(error) and error.exit_status == 2

    check()
    assert not [found for found in tmp_path.rglob(".*") if f".{platform.node()}.{os.getpid()}" in found.name]


def test_replacing_gives_the_file_its_name_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as partial:
        assert partial.parent == path.parent and partial.suffix == ".txt" and partial.exists() and not path.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["file.txt"]
    with replacing(path) as partial:
        partial.write_text("again")
    assert path.read_text() == "again" and os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), FileNotFoundError(2, "gone", "other.txt")])
def test_what_stops_the_block_leaves_the_older_file(tmp_path, error):
    (tmp_path / "file.txt").write_text("older")
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "file.txt") as partial:
        partial.write_text("half")
        raise error
    assert caught.value is error and os.listdir(tmp_path) == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "older"
    with pytest.raises(type(error)) as caught, replacing_folder(tmp_path / "folder") as partial:
        (partial / "file.txt").write_text("half")
        raise error
    assert caught.value is error and os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("path", ["a_folder", "file/name.txt", "/", ""])
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path, path):
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "file").write_text("mine")
    path = tmp_path / path if path not in ("/", "") else Path(path)
    with pytest.raises(WriteError, match=r"can't be written \(.*\): choose another path") as caught, replacing(path):
        raise AssertionError("the block has begun")
    assert caught.value.exit_status == 2 and sorted(os.listdir(tmp_path)) == ["a_folder", "file"]


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match="can't be written .*: choose"), replacing_folder(tmp_path / "file" / "new"):
        raise AssertionError("the block has begun")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit for the size of files")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_is_one_line_and_exit_status_1(tmp_path, kind):
    """The system refuses files above a limit as it refuses all files on a full disk."""
    (tmp_path / "file.bin").write_text("older")
    code = """
        import resource, signal, sys
        from pathlib import Path
        from command_line import exit_status, replacing, replacing_folder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        def main(argv):
            if argv[1] == "file":
                with replacing(Path(argv[0], "file.bin")) as partial:
                    partial.write_bytes(bytes(5000))
            else:
                with replacing_folder(Path(argv[0], "folder")) as partial:
                    (partial / "part.bin").write_bytes(bytes(5000))
        sys.exit(exit_status(main, sys.argv[1:]))
    """
    done = run("-c", textwrap.dedent(code), tmp_path, kind, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    name = "file.bin" if kind == "file" else "folder"
    assert done.stderr.startswith(f"error: {tmp_path / name} can't be written: ")
    assert os.listdir(tmp_path) == ["file.bin"] and (tmp_path / "file.bin").read_text() == "older"


def test_a_disk_that_is_full_at_the_end_is_one_line_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, name in ((os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with (
                pytest.raises(WriteError, match="a.txt can't be written: No space") as caught,
                replacing(tmp_path / "a.txt") as partial,
            ):
                partial.write_text("x")
        assert caught.value.exit_status == 1 and not os.listdir(tmp_path)


def test_a_reader_that_goes_away_is_no_full_disk(tmp_path):
    for block in (replacing(tmp_path / "a.txt"), replacing_folder(tmp_path / "a")):
        with pytest.raises(BrokenPipeError), block:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such devices")
def test_devices_and_pipes_are_written_to(tmp_path):
    with replacing("/dev/null") as partial:
        partial.write_text("x")
    assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "pipe.json")
    with open(os.open(tmp_path / "pipe.json", os.O_RDONLY | os.O_NONBLOCK)) as reader:
        with replacing(tmp_path / "pipe.json") as partial:
            assert partial.suffix == ".json" and partial.parent != tmp_path
            partial.write_text("whole")
        assert reader.read() == "whole"
    assert (tmp_path / "pipe.json").is_fifo() and os.listdir(tmp_path) == ["pipe.json"]
    if Path("/dev/full").exists():
        told = "/dev/full can't be written: No space"
        with pytest.raises(WriteError, match=told) as caught, replacing("/dev/full") as partial:
            partial.write_text("x")
        assert caught.value.exit_status == 1 and Path("/dev/full").is_char_device()


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old.txt").write_text("older")
    for link, target in (("a.txt", "there/old.txt"), ("b.txt", "there/new.txt"), ("c.txt", "a.txt")):
        (tmp_path / link).symlink_to(target)
        with replacing(tmp_path / link) as partial:
            partial.write_text(f"by {link}")
            assert partial.parent == tmp_path / "there"
        assert (tmp_path / link).is_symlink() and (tmp_path / link).read_text() == f"by {link}"
    assert sorted(os.listdir(tmp_path / "there")) == ["new.txt", "old.txt"]
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    for name in ("loop", "n" * 5000):
        told = r"can't be written \(.*\): choose another path"
        with pytest.raises(WriteError, match=told), replacing(tmp_path / name):
            raise AssertionError("the block has begun")


@pytest.mark.skipif(os.name == "nt", reason="Windows can't ask whether a process runs without a package")
def test_what_killed_processes_left_is_removed(tmp_path):
    host, dead = platform.node(), subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = [
        f".a.txt.{host}.{os.getppid()}.txt",
        f".a.other-host.{dead.pid}.txt",
        f"b.{host}.{dead.pid}.txt",
        ".c.1.txt",
    ]
    left = [f".a.{host}.{dead.pid}.txt", f".x.{host}.{dead.pid}.hdf5", f".log.{host}.{dead.pid}"]
    for name in (*mine, *left):
        (tmp_path / name).write_text("half")
    (tmp_path / f".faces.{host}.{dead.pid}").mkdir()
    (tmp_path / f".faces.{host}.{dead.pid}" / "a.png").write_text("half")
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "a.txt"])


def test_replacing_a_folder(tmp_path):
    for path in (tmp_path / "new" / "folder", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with replacing_folder(path) as partial:
            (partial / "a.txt").write_text("x")
            assert not (path / "a.txt").exists()
        assert os.listdir(path) == ["a.txt"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "new"]


def test_reading_translates_the_systems_refusal_alone(tmp_path):
    for path, block in ((tmp_path / "none.csv", Path.read_text), (tmp_path, Path.read_bytes)):
        told = r"can't be read \(.*\): correct the path or its permissions"
        with pytest.raises(UserError, match=told) as caught, reading(path):
            block(path)
        assert str(path) in str(caught.value) and caught.value.exit_status == 2
    for error in (ValueError("bug"), OSError("a library's")):
        with pytest.raises(type(error)) as caught, reading(tmp_path):
            raise error
        assert caught.value is error


# ----------------------------------------------------------------------------------------------------------
# The folder for caches


def test_the_cache_folder_is_the_one_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache_folder() == tmp_path / "mine" and not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("system", "class_name", "folder"),
    [
        ("unix", "Unix", ".cache/facial-emotion"),
        ("macos", "MacOS", "Library/Caches/facial-emotion"),
        ("windows", "Windows", "AppData/Local/facial-emotion"),
    ],
)
def test_the_cache_folder_of_each_system(monkeypatch, tmp_path, system, class_name, folder):
    """Where the programs looked before, so that nothing is compiled a second time."""
    import platformdirs

    module = importlib.import_module(f"platformdirs.{system}")
    if system == "windows":  # asks the registry there
        monkeypatch.setattr(module, "get_win_folder", lambda name: str(tmp_path / "AppData" / "Local"))
    monkeypatch.setattr(platformdirs, "PlatformDirs", getattr(module, class_name))
    monkeypatch.delenv("EMOTION_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / folder and not os.listdir(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
def test_the_cache_folder_follows_linuxs_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("EMOTION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "facial-emotion"


@pytest.mark.parametrize("answer", ["~/.cache/facial-emotion", RuntimeError("could not determine the home directory")])
def test_without_a_home_there_is_no_cache_folder(monkeypatch, answer):
    """Older versions of platformdirs return a path with ~, newer versions raise an error."""
    import platformdirs

    def user_cache_path(*_, **__):
        if isinstance(answer, Exception):
            raise answer
        return Path(answer)

    monkeypatch.delenv("EMOTION_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
    with pytest.raises(UserError, match="found no home folder of the user: set EMOTION_CACHE"):
        cache_folder()


# ----------------------------------------------------------------------------------------------------------
# Starting


def test_a_package_that_is_not_installed_is_one_line(capsys):
    def main(argv):
        import no_such_package.part  # noqa: F401

    line = "error: no_such_package is not installed: pip install -r requirements.txt"
    assert exit_status(main) == 2
    assert capsys.readouterr().err == f"{line}\n"
    with pytest.raises(SystemExit, match=line), quiet_start():
        main(None)
    with pytest.raises(ModuleNotFoundError):  # a bug
        exit_status(lambda argv: importlib.import_module("json.no_such_part"))
    with pytest.raises(ModuleNotFoundError), quiet_start():
        importlib.import_module("json.no_such_part")


@pytest.mark.parametrize(
    ("arguments", "proposal"),
    [
        (["--network", "mini_xception"], "; did you mean mini_XCEPTION?"),
        (["--network=minixception"], "; did you mean mini_XCEPTION?"),
        (["--netwrk", "mini_XCEPTION"], "; did you mean --network?"),
        (["--net", "mini_XCEPTION"], "; did you mean --network?"),  # no abbreviation
        (["--start_from", "x"], "; did you mean --start-from?"),
        (["--network", "resnet50"], ";"),
        (["--xyz"], ";"),
    ],
)
def test_a_mistyped_flag_or_choice_gets_a_proposal(capsys, arguments, proposal):
    made = Parser()
    made.add_argument("--network", choices=("tiny_XCEPTION", "mini_XCEPTION"))
    made.add_argument("--start-from")
    with pytest.raises(SystemExit):
        made.parse_args(arguments)
    line = capsys.readouterr().err
    assert line.endswith(f"{proposal} --help lists the flags\n") and line.count("did you mean") == (proposal != ";")


MODULES_OF_THE_ROOT = sorted(path.name for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("script", MODULES_OF_THE_ROOT)
def test_an_older_python_gets_as_far_as_the_line_that_refuses_it(script):
    """Python 3.8 reads the scripts, and imports nothing but its own library before this module."""
    tree = ast.parse((ROOT / script).read_text(), feature_version=(3, 8))
    for node in tree.body:
        modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        modules = [node.module] if isinstance(node, ast.ImportFrom) else modules
        if "command_line" in modules:
            break
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in modules), modules
    else:
        assert script == "command_line.py"


def test_an_older_python_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 12, "final", 0))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(command_line.__file__)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: Python must be 3.11 or newer; found 3.10: python3.11 -m venv .venv\n"


@pytest.mark.parametrize("folder", [None, ".venv"])
def test_a_virtual_environment_that_is_not_active_is_named(monkeypatch, tmp_path, folder):
    monkeypatch.setattr(command_line, "__file__", str(tmp_path / "command_line.py"))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    if folder:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pyvenv.cfg").touch()
    line = command_line.not_installed(ModuleNotFoundError(name="no_such_package"))
    remedy = f"in this Python; found a virtual environment: source {tmp_path}/.venv/bin/activate" if folder else ": pip"
    assert line.startswith("error: no_such_package is not installed") and remedy in line


def test_a_script_without_its_packages_is_one_line():
    """-S: Python without its folder of packages."""
    done = run("-S", "-E", ROOT / "load_and_process.py")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: cv2 is not installed")


def test_control_characters_reach_the_terminal_escaped(capsys):
    def main(argv):
        raise UserError("found \x1b[31mred\x07.hdf5\nerror: \udcff\u202e, Fröhlich")

    assert exit_status(main) == 2
    assert capsys.readouterr().err == "error: found \\x1b[31mred\\x07.hdf5\\nerror: \\udcff\\u202e, Fröhlich\n"


def test_numbers_that_begin_with_a_minus_are_values():
    parser = Parser()
    parser.add_argument("--range")
    assert parser.parse_args(["--range", "-1,1"]).range == "-1,1"


def test_ctrl_c_while_libraries_load_is_no_traceback():
    with pytest.raises(SystemExit) as stopped, quiet_start():
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.code == 130


def test_a_quiet_start_silences_compiled_libraries_alone(capfd):
    with quiet_start():
        os.write(2, b"oneDNN custom operations are on\n")
    os.write(2, b"after it\n")
    with pytest.raises(ValueError, match="wrong"), quiet_start():
        raise ValueError("wrong")
    assert capfd.readouterr().err == "after it\n"


@pytest.mark.parametrize("script", ["train_emotion_classifier.py", "evaluate_emotion_classifier.py"])
def test_a_backend_that_is_not_installed(script, tmp_path):
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError(\"No module named 'jax'\", name='jax')\n")
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(tmp_path)}
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n0,{'9 ' * 48 * 48},PublicTest\n")
    arguments = ["models/mini_XCEPTION.hdf5", "--output-dir", tmp_path] if script.startswith("evaluate") else []
    done = run(script, *arguments, "--dataset", tmp_path / "fer2013.csv", env=environment, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == (
        "error: Keras needs the package of its backend, jax; found none: install it, or set KERAS_BACKEND to "
        "tensorflow or jax\n"
    )


def test_importing_is_light(tmp_path):
    shutil.copy(ROOT / "command_line.py", tmp_path)
    done = run("-c", "import sys, command_line; print(*sys.modules)", cwd=tmp_path)
    assert done.returncode == 0
    assert not set(done.stdout.split()) & {"numpy", "cv2", "pandas", "platformdirs", "tqdm", "load_and_process"}


def test_a_signal_in_a_finalizer_is_not_lost():
    class Finalized:
        def __del__(self):  # Python ignores what is raised in here
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def main(argv):
        Finalized()
        time.sleep(5)
        return 0

    hook = sys.unraisablehook
    assert exit_status(main, []) == 130 and sys.unraisablehook is hook


def test_how_to_get_fer2013_is_told_in_lines_of_its_own(tmp_path, capsys):
    import load_and_process

    assert exit_status(load_and_process.main, ["--dataset", str(tmp_path / "a\x1bb" / "fer2013.csv")]) == 2
    first, *hint = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and r"a\x1bb" in first and first.endswith("get FER2013, or use `drawn`")
    assert len(hint) == 4 and hint[1].startswith("  images  kaggle datasets download")
