"""Training again the networks that come trained: the table, the commands, and what is run, resumed and skipped."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from command_line import UserError, exit_status
from drawn_faces import draw_dataset
from load_and_process import EMOTIONS
from training import reproduce
from training.reproduce import STEPS, Step, arguments_of, run_steps, with_needed

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "training" / "reproduce.py"
NETWORKS = ("tiny_XCEPTION", "mini_XCEPTION", "big_XCEPTION", "simpler_CNN", "simple_CNN")

# The checkpoints from which the networks that come trained were made, each with the command that left it.
COMMANDS = """\
simple_CNN.068-0.6916 --network simple_CNN --epochs 90
simpler_CNN.080-0.6799 --network simpler_CNN
big_XCEPTION.054-0.6695 --network big_XCEPTION --epochs 64 --votes fer2013new.csv
mini_XCEPTION.060-0.6581
simple_CNN.042-0.6818 --network simple_CNN --epochs 72 --augmentation 1.8 --start-from simple_CNN.068-0.6916
simpler_CNN.080-0.6796 --network simpler_CNN --epochs 80 --augmentation 1.8 --start-from simpler_CNN.080-0.6799
big_XCEPTION.005-0.6801 --network big_XCEPTION --epochs 8 --learning-rate 0.0015 --start-from big_XCEPTION.054-0.6695
big_XCEPTION.057-0.6935 --network big_XCEPTION --epochs 60 --augmentation 1.8 --monitor val_accuracy \
--start-from big_XCEPTION.054-0.6695
simple_CNN.060-0.6927 --network simple_CNN --epochs 60 --augmentation 1.8 --start-from simple_CNN.068-0.6916 \
--teacher simple_CNN.068-0.6916 big_XCEPTION.005-0.6801 simpler_CNN.080-0.6799
simple_CNN.060-0.6921 --network simple_CNN --epochs 60 --augmentation 1.8 --start-from simple_CNN.042-0.6818 \
--teacher simple_CNN.068-0.6916 simple_CNN.042-0.6818
simpler_CNN.055-0.6787 --network simpler_CNN --epochs 60 --augmentation 1.8 --start-from simpler_CNN.080-0.6796 \
--teacher simple_CNN.060-0.6927 simpler_CNN.080-0.6796 big_XCEPTION.005-0.6801
simple_CNN.005-0.7030 --network simple_CNN --epochs 12 --learning-rate 0.003 --augmentation 1.2 \
--monitor val_accuracy --start-from simple_CNN.060-0.6921
simpler_CNN.020-0.6785 --network simpler_CNN --epochs 20 --learning-rate 0.003 --augmentation 1.2 \
--monitor epoch --start-from simpler_CNN.055-0.6787
mini_XCEPTION.049-0.6718 --network mini_XCEPTION --epochs 50 --mixup 0 --start-from mini_XCEPTION.060-0.6581 \
--teacher simple_CNN.042-0.6818 big_XCEPTION.057-0.6935
tiny_XCEPTION.074-0.6297 --network tiny_XCEPTION --epochs 75 --mixup 0 \
--teacher simple_CNN.042-0.6818 big_XCEPTION.057-0.6935
big_XCEPTION.055-0.6974 --network big_XCEPTION --epochs 60 --augmentation 1.8 --start-from big_XCEPTION.057-0.6935 \
--teacher big_XCEPTION.005-0.6801 big_XCEPTION.057-0.6935
big_XCEPTION.004-0.7002 --network big_XCEPTION --epochs 12 --learning-rate 0.003 --augmentation 1.2 \
--monitor val_accuracy --start-from big_XCEPTION.055-0.6974
mini_XCEPTION.039 --network mini_XCEPTION --epochs 50 --mixup 0 --start-from mini_XCEPTION.049-0.6718 \
--teacher simple_CNN.005-0.7030 big_XCEPTION.004-0.7002
tiny_XCEPTION.056-0.6383 --network tiny_XCEPTION --epochs 60 --mixup 0 --start-from tiny_XCEPTION.074-0.6297 \
--teacher simple_CNN.005-0.7030 big_XCEPTION.004-0.7002
tiny_XCEPTION.070 --network tiny_XCEPTION --epochs 70 --mixup 0 --seed 1 --start-from tiny_XCEPTION.056-0.6383 \
--teacher simple_CNN.005-0.7030 big_XCEPTION.004-0.7002 simpler_CNN.020-0.6785
simple_CNN.060-0.7005 --network simple_CNN --epochs 60 --augmentation 1.8 --seed 1 --start-from simple_CNN.005-0.7030 \
--teacher simple_CNN.060-0.6921 simple_CNN.005-0.7030
simple_CNN.012 --network simple_CNN --epochs 12 --learning-rate 0.003 --augmentation 1.2 --seed 1 \
--monitor epoch --start-from simple_CNN.060-0.7005
simpler_CNN.060-0.6843 --network simpler_CNN --epochs 60 --augmentation 1.8 --seed 1 \
--start-from simpler_CNN.020-0.6785 --teacher simple_CNN.005-0.7030 simpler_CNN.020-0.6785
simpler_CNN.020 --network simpler_CNN --epochs 20 --learning-rate 0.003 --augmentation 1.2 --seed 1 \
--monitor epoch --start-from simpler_CNN.060-0.6843
mini_XCEPTION.008-0.7798 --network mini_XCEPTION --epochs 8 --votes fer2013new.csv --votes-as people \
--votes-share 0.6 --logit-adjustment 0.5 --disturbances 0.3 --start-from mini_XCEPTION.039 --learning-rate 0.002 \
--warmup-epochs 0.5 --ema-epochs 1 --monitor epoch
big_XCEPTION.006-0.7624 --network big_XCEPTION --epochs 6 --votes fer2013new.csv --votes-as people \
--votes-share 0.5 --logit-adjustment 0.5 --disturbances 0.3 --start-from big_XCEPTION.004-0.7002 \
--learning-rate 0.002 --warmup-epochs 0.5 --ema-epochs 1 --monitor epoch
simple_CNN.005-0.7453 --network simple_CNN --epochs 5 --votes fer2013new.csv --votes-as people --votes-share 0.5 \
--logit-adjustment 0.6 --disturbances 0.5 --start-from simple_CNN.012 --learning-rate 0.002 --warmup-epochs 0.5 \
--ema-epochs 1 --monitor epoch
simple_CNN.006 --network simple_CNN --epochs 6 --votes fer2013new.csv --votes-as people --votes-share 0.6 \
--logit-adjustment 0.5 --disturbances 0.4 --augmentation 1.2 --start-from simple_CNN.005-0.7453 \
--learning-rate 0.002 --warmup-epochs 0.5 --ema-epochs 1 --monitor epoch
""".splitlines()

# Stands for the training script: writes what it is called with, and leaves what that script leaves.
TRAINER = """\
import json, shutil, sys
from pathlib import Path
arguments = sys.argv[1:]
network, folder = (arguments[arguments.index(flag) + 1] for flag in ("--network", "--output-dir"))
folder = Path(folder)
folder.mkdir(parents=True, exist_ok=True)
with open(Path(__file__).with_name("calls.txt"), "a") as calls:
    print(json.dumps(arguments), file=calls)
for name in (f"{network}.001-0.2000.hdf5", f"{network}.002-0.3000.hdf5"):  # the first is not deleted yet
    (folder / name).touch()
shutil.copy(Path(__file__).with_name(f"{network}.resume.npz"), folder)
breaks_off = Path(__file__).with_name("breaks_off.txt")
if breaks_off.exists() and breaks_off.read_text() == folder.name:
    print("error: the disk is full", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def trainer(tmp_path):
    path = tmp_path / "trainer.py"
    path.write_text(TRAINER)
    for network in NETWORKS:
        description = json.dumps({"best_name": f"{network}.002-0.3000.hdf5"})
        np.savez(tmp_path / f"{network}.resume.npz", description=np.array(description))
    return path


@pytest.fixture
def votes(tmp_path):
    path = tmp_path / "fer2013new.csv"
    path.touch()
    return path


def calls_of(trainer):
    """Return the arguments of each call of the trainer, and forget the calls."""
    path = trainer.with_name("calls.txt")
    calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return calls


def parsed(arguments):
    """Return flags and their values; what the training script takes by default is filled in."""
    flags = {"--network": ["mini_XCEPTION"], "--epochs": ["80"]}
    for argument in arguments:
        if argument.startswith("--"):
            values = flags[argument] = []
        else:
            values.append(argument)
    return flags


# ----------------------------------------------------------------------------------------------------------
# The table


def test_a_step_needs_earlier_steps_only():
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names) == 28
    for number, step in enumerate(STEPS):
        assert set(step.needs) <= set(names[:number])
        if step.start_from:
            assert step.start_from.startswith(f"{step.network}-")


def test_steps_of_a_network_are_numbered_in_order_and_the_last_one_is_shipped():
    for network in NETWORKS:
        own = [step for step in STEPS if step.network == network]
        assert [step.name for step in own] == [f"{network}-{number}" for number in range(1, len(own) + 1)]
        people = ["--votes-as people" in step.flags for step in own]
        for which, name in ((False, f"{network}.hdf5"), (True, f"{network}.people.hdf5")):
            shipped = [step.shipped for step, for_people in zip(own, people, strict=True) if for_people is which]
            assert shipped == [False] * (len(shipped) - 1) + [True] * bool(shipped)
            assert (ROOT / "models" / name).is_file() is bool(shipped)


def test_the_commands_are_those_of_the_networks_that_come_trained():
    lines = [shlex.split(line) for line in COMMANDS]
    checkpoints = {step.name: Path(left) for step, (left, *_) in zip(STEPS, lines, strict=True)}
    for step, (left, *command) in zip(STEPS, lines, strict=True):
        arguments = arguments_of(step, checkpoints, None, Path("fer2013new.csv"), None)
        assert parsed(arguments) == parsed(command), step.name
        network, _, rest = left.partition(".")
        epoch, _, accuracy = rest.partition("-")
        assert (step.network, step.epoch) == (network, int(epoch))
        if accuracy:
            assert step.accuracy == pytest.approx(100 * float(accuracy), abs=0.06)


def test_the_training_script_knows_all_flags():
    import train_emotion_classifier

    checkpoints = {step.name: Path(f"{step.name}.hdf5") for step in STEPS}
    for step in STEPS:
        arguments = arguments_of(step, checkpoints, "drawn", Path("votes.csv"), None)
        args = train_emotion_classifier.parse_args([*arguments, "--output-dir", "folder", "--resume"])
        assert args.network == step.network and args.epochs == step.epochs
        assert [str(path) for path in args.teacher] == [f"{name}.hdf5" for name in step.teachers]


def test_the_card_tells_of_the_same_steps():
    """Of each step: its name, what it starts from, its teachers, minutes, epoch and accuracy."""
    text = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" *`") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    rows = {row[0]: row for row in rows if row[0] in {step.name for step in STEPS}}
    assert list(rows) == [step.name for step in STEPS]
    for step in STEPS:
        name, start_from, teachers, epochs, flags, minutes, epoch, accuracy, *_ = rows[step.name]
        assert start_from == (step.start_from or "") and teachers == ", ".join(step.teachers)
        assert flags.replace("`", "") == " ".join(filter(None, ["--votes" * step.votes, step.flags]))
        assert (int(epochs), int(minutes), int(epoch)) == (step.epochs, step.minutes, step.epoch)
        assert accuracy == f"{step.accuracy:.1f} %"


# ----------------------------------------------------------------------------------------------------------
# What is run


def test_all_steps_run_in_order_and_only_once(tmp_path, trainer, votes, capsys):
    folder = tmp_path / "reproduced"
    assert run_steps(STEPS, folder, votes=votes, trainer=trainer) == 0
    calls = calls_of(trainer)
    assert [Path(call[call.index("--output-dir") + 1]).name for call in calls] == [step.name for step in STEPS]
    assert not any("--resume" in call for call in calls)
    taught = parsed(calls[8])  # simple_CNN-3
    assert taught["--start-from"] == [str(folder / "simple_CNN-1" / "simple_CNN.002-0.3000.hdf5")]
    assert taught["--teacher"] == [
        str(folder / "simple_CNN-1" / "simple_CNN.002-0.3000.hdf5"),
        str(folder / "big_XCEPTION-2" / "big_XCEPTION.002-0.3000.hdf5"),
        str(folder / "simpler_CNN-1" / "simpler_CNN.002-0.3000.hdf5"),
    ]
    told = capsys.readouterr().out
    assert told.count("trained again: ") == 8 and "step 28 of 28, simple_CNN-9" in told

    votes.unlink()  # the step that learns from votes is done
    assert run_steps(STEPS, folder, votes=votes, trainer=trainer) == 0
    assert calls_of(trainer) == []
    assert capsys.readouterr().out.count("done already") == 28


def test_a_step_that_broke_off_is_resumed(tmp_path, trainer, capsys):
    steps, folder = with_needed(["simple_CNN-5"]), tmp_path / "reproduced"
    assert [step.name for step in steps] == ["simple_CNN-1", "simple_CNN-2", "simple_CNN-4", "simple_CNN-5"]
    trainer.with_name("breaks_off.txt").write_text("simple_CNN-2")
    assert run_steps(steps, folder, trainer=trainer) == 1
    assert len(calls_of(trainer)) == 2 and "simple_CNN-2 broke off" in capsys.readouterr().err

    trainer.with_name("breaks_off.txt").unlink()
    assert run_steps(steps, folder, trainer=trainer) == 0
    calls = calls_of(trainer)
    assert ["--resume" in call for call in calls] == [True, False, False]
    assert calls[0][calls[0].index("--output-dir") + 1] == str(folder / "simple_CNN-2")


def test_a_step_whose_checkpoint_is_gone_is_run_again(tmp_path, trainer):
    steps = with_needed(["simpler_CNN-2"])
    assert run_steps(steps, tmp_path / "out", trainer=trainer) == 0
    (tmp_path / "out" / "simpler_CNN-2" / "simpler_CNN.002-0.3000.hdf5").unlink()
    calls_of(trainer)
    assert run_steps(steps, tmp_path / "out", trainer=trainer) == 0
    assert [parsed(call)["--output-dir"] for call in calls_of(trainer)] == [[str(tmp_path / "out" / "simpler_CNN-2")]]


def test_data_set_and_epochs_are_passed_on(tmp_path, trainer):
    assert run_steps(STEPS[:1], tmp_path, "drawn", epochs=1, trainer=trainer) == 0
    (call,) = calls_of(trainer)
    assert parsed(call) == {
        "--network": ["simple_CNN"],
        "--epochs": ["1"],
        "--dataset": ["drawn"],
        "--output-dir": [str(tmp_path / "simple_CNN-1")],
    }


def test_mistakes(tmp_path, trainer, votes):
    for name in ("none.csv", "x" * 300):
        with pytest.raises(UserError, match=rf"needs FER\+'s votes; found no .*{name}"):
            run_steps(STEPS, tmp_path / "out", votes=tmp_path / name, trainer=trainer)
    assert not (tmp_path / "out").exists()  # told before the first step
    assert run_steps(STEPS[:1], tmp_path / "out", trainer=trainer) == 0
    with pytest.raises(UserError, match="simple_CNN-1, trained with --network simple_CNN --epochs 90: delete"):
        run_steps(STEPS[:1], tmp_path / "out", "drawn", trainer=trainer)
    (tmp_path / "out" / "simple_CNN-1" / reproduce.RECORD).write_text("[]")
    with pytest.raises(UserError, match="reproduced.json is damaged"):
        run_steps(STEPS[:1], tmp_path / "out", trainer=trainer)


def test_list_says_what_is_done(tmp_path, trainer, capsys):
    run_steps(STEPS[:1], tmp_path, trainer=trainer)
    (tmp_path / "simpler_CNN-1").mkdir()
    np.savez(tmp_path / "simpler_CNN-1" / "simpler_CNN.resume.npz")
    capsys.readouterr()
    assert exit_status(reproduce.main, ["--list", "--output-dir", str(tmp_path)]) == 0
    header, first, second, third, *_, total = capsys.readouterr().out.splitlines()
    assert first.split() == ["simple_CNN-1", "76", "69.2", "%", "done"]
    assert second.split() == ["simpler_CNN-1", "36", "68.0", "%", "begun"]
    assert third.split() == ["big_XCEPTION-1", "42", "67.0", "%"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")  # tells nobody before it is read
    assert exit_status(reproduce.main, ["--list", "--votes", str(tmp_path / "loop")]) == 0
    assert header.split()[-1] == "state" and total == "28 steps, 14 hours 34 minutes"


# ----------------------------------------------------------------------------------------------------------
# As a user runs it


def test_the_script_starts_anywhere_without_keras(tmp_path):
    code = f"import runpy, sys; sys.argv = ['reproduce.py', '--list']; runpy.run_path({str(SCRIPT)!r})['main']()"
    code += "; assert not {'keras', 'tensorflow', 'numpy'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, SCRIPT, "--only", "simple_CNN-10"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "invalid choice: 'simple_CNN-10'" in done.stderr
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_too(number, tmp_path):
    program = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
    program += "try: print('begun', flush=True); time.sleep(300)\n"
    program += "except KeyboardInterrupt: print('ended', flush=True); sys.exit(130)"
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"sys.path.insert(0, {str(SCRIPT.parent)!r})\nfrom reproduce import run\n"
    code += f"sys.exit(run([sys.executable, '-c', {program!r}]))"
    started = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stdout.readline() == "begun\n"
    time.sleep(0.2)
    if number == signal.SIGTERM:  # to one process
        started.terminate()
    else:  # Ctrl-C, to both
        os.killpg(started.pid, number)
    assert started.communicate(timeout=120)[0] == "ended\n" and started.returncode == 130


def test_a_step_with_the_training_script(tmp_path):
    """The first step is done, with weights that come with the project; the second step starts from them."""
    for split, (faces, emotions) in draw_dataset(per_emotion={"Training": 4, "PublicTest": 1}).items():
        for number, (face, emotion) in enumerate(zip(faces, emotions, strict=True)):
            folder = tmp_path / "faces" / {"Training": "train", "PublicTest": "validation"}[split] / EMOTIONS[emotion]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), face)
    first, second = tmp_path / "out" / "tiny_XCEPTION-1", tmp_path / "out" / "tiny_XCEPTION-2"
    steps = [Step(f"tiny_XCEPTION-{number}", 1, "", None, (), 1, 1, 50.0) for number in (1, 2)]
    steps[1] = steps[1]._replace(start_from=steps[0].name)
    first.mkdir(parents=True)
    shutil.copy(ROOT / "models" / "tiny_XCEPTION.hdf5", first)
    arguments = arguments_of(steps[0], {}, str(tmp_path / "faces"), None, None)
    (first / reproduce.RECORD).write_text(json.dumps({"arguments": arguments, "checkpoint": "tiny_XCEPTION.hdf5"}))

    assert run_steps(steps, tmp_path / "out", str(tmp_path / "faces")) == 0
    settings = json.loads((second / "tiny_XCEPTION.settings.json").read_text())
    assert settings["start_from"] == "tiny_XCEPTION.hdf5" and settings["epochs"] == 1
    (checkpoint,) = second.glob("*.hdf5")
    assert json.loads((second / reproduce.RECORD).read_text())["checkpoint"] == checkpoint.name
    assert run_steps(steps, tmp_path / "out", str(tmp_path / "faces"), trainer=tmp_path / "none.py") == 0  # all done
