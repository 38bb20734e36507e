"""Train again the networks that come trained: 28 steps, each one run of train_emotion_classifier.py.

    python training/reproduce.py --list                   # the steps, and which are done
    python training/reproduce.py                          # all steps, about 15 hours on one core of an AMD EPYC
    python training/reproduce.py --only simple_CNN-7      # this step, and the steps that it needs
    python training/reproduce.py --only simpler_CNN-2 --dataset drawn --epochs 1    # a first try without data

Many steps start from the checkpoint of an earlier step.  Many steps learn from teachers: the checkpoints of earlier
steps.  Each step writes to a folder of its own, OUTPUT_DIR/STEP/.  A step that is done is skipped.  A step that broke
off goes on from its last finished epoch: give the same command again.

The steps need FER2013, and five steps need FER+'s votes: see fer2013/README.md.
"""

import os
import sys

if not __package__:  # started as `python training/reproduce.py`
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from command_line import Parser, UserError, exit_status, number_in_range, replacing  # first: it makes Ctrl-C quiet

# isort: split
import argparse
import json
import shlex
import signal
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

only = []                      # names of steps to run, together with the steps that they need; []: all steps
dataset = None                 # path of FER2013, or drawn; None: where the training script looks for FER2013
votes = ROOT / "fer2013" / "fer2013new.csv"    # path of FER+'s votes
output_dir = ROOT / "output" / "reproduced"    # gets one folder per step
epochs = "auto"                # passes over Training in each step, for a first try; auto: those of the table
# fmt: on
# ----------------------------------------------------------------------------------------------------------

TRAINER = ROOT / "train_emotion_classifier.py"
SECONDS_TO_END = 10  # after Ctrl-C, for a program that did not get it
RECORD = "reproduced.json"  # in a step's folder: the step is done


class Step(NamedTuple):
    """One run of the training script.

    Args:
        name: The network's name and the step's number among the steps of that network.
        epochs: Passes over Training.
        flags: The other flags of the training script.
        start_from: The step whose checkpoint gives the first weights; None: random weights.
        teachers: The steps whose checkpoints are the teachers.
        minutes: How long the step took beside other work: on one core of an AMD EPYC, the last four steps on two slow
            cores.
        epoch: The epoch whose checkpoint was kept.
        accuracy: The accuracy of that checkpoint on PublicTest, in percent; of a step with PEOPLE, against what most
            people saw.
        votes: Whether the step also learns from FER+'s votes.
        shipped: Whether the checkpoint is the one that comes with the project.
    """

    name: str
    epochs: int
    flags: str
    start_from: str | None
    teachers: tuple[str, ...]
    minutes: int
    epoch: int
    accuracy: float
    votes: bool = False
    shipped: bool = False

    @property
    def network(self) -> str:
        return self.name.rpartition("-")[0]

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the steps that must be done before this one."""
        return (*filter(None, [self.start_from]), *self.teachers)


LAST = "--learning-rate 0.003 --augmentation 1.2"  # a short last training on one-hot labels
PEOPLE = "--votes-as people --learning-rate 0.002 --warmup-epochs 0.5 --ema-epochs 1 --monitor epoch"
# fmt: off
STEPS = (
    Step("simple_CNN-1", 90, "", None, (), 76, 68, 69.2),
    Step("simpler_CNN-1", 80, "", None, (), 36, 80, 68.0),
    Step("big_XCEPTION-1", 64, "", None, (), 42, 54, 67.0, votes=True),
    Step("mini_XCEPTION-1", 80, "", None, (), 32, 60, 65.8),
    Step("simple_CNN-2", 72, "--augmentation 1.8", "simple_CNN-1", (), 58, 42, 68.2),
    Step("simpler_CNN-2", 80, "--augmentation 1.8", "simpler_CNN-1", (), 36, 80, 68.0),
    Step("big_XCEPTION-2", 8, "--learning-rate 0.0015", "big_XCEPTION-1", (), 5, 5, 68.0),
    Step("big_XCEPTION-3", 60, "--augmentation 1.8 --monitor val_accuracy", "big_XCEPTION-1", (), 37, 57, 69.4),
    Step("simple_CNN-3", 60, "--augmentation 1.8", "simple_CNN-1",
         ("simple_CNN-1", "big_XCEPTION-2", "simpler_CNN-1"), 53, 60, 69.3),
    Step("simple_CNN-4", 60, "--augmentation 1.8", "simple_CNN-2", ("simple_CNN-1", "simple_CNN-2"), 62, 60, 69.2),
    Step("simpler_CNN-3", 60, "--augmentation 1.8", "simpler_CNN-2",
         ("simple_CNN-3", "simpler_CNN-2", "big_XCEPTION-2"), 31, 55, 67.9),
    Step("simple_CNN-5", 12, f"{LAST} --monitor val_accuracy", "simple_CNN-4", (), 10, 5, 70.3),
    Step("simpler_CNN-4", 20, f"{LAST} --monitor epoch", "simpler_CNN-3", (), 10, 20, 67.9),
    Step("mini_XCEPTION-2", 50, "--mixup 0", "mini_XCEPTION-1", ("simple_CNN-2", "big_XCEPTION-3"), 24, 49, 67.2),
    Step("tiny_XCEPTION-1", 75, "--mixup 0", None, ("simple_CNN-2", "big_XCEPTION-3"), 29, 74, 63.0),
    Step("big_XCEPTION-4", 60, "--augmentation 1.8", "big_XCEPTION-3",
         ("big_XCEPTION-2", "big_XCEPTION-3"), 49, 55, 69.7),
    Step("big_XCEPTION-5", 12, f"{LAST} --monitor val_accuracy", "big_XCEPTION-4", (), 8, 4, 70.0, shipped=True),
    Step("mini_XCEPTION-3", 50, "--mixup 0", "mini_XCEPTION-2",
         ("simple_CNN-5", "big_XCEPTION-5"), 25, 39, 67.5, shipped=True),
    Step("tiny_XCEPTION-2", 60, "--mixup 0", "tiny_XCEPTION-1", ("simple_CNN-5", "big_XCEPTION-5"), 26, 56, 63.8),
    Step("tiny_XCEPTION-3", 70, "--mixup 0 --seed 1", "tiny_XCEPTION-2",
         ("simple_CNN-5", "big_XCEPTION-5", "simpler_CNN-4"), 31, 70, 64.3, shipped=True),
    Step("simple_CNN-6", 60, "--augmentation 1.8 --seed 1", "simple_CNN-5",
         ("simple_CNN-4", "simple_CNN-5"), 54, 60, 70.1),
    Step("simple_CNN-7", 12, f"{LAST} --seed 1 --monitor epoch", "simple_CNN-6", (), 10, 12, 70.3, shipped=True),
    Step("simpler_CNN-5", 60, "--augmentation 1.8 --seed 1", "simpler_CNN-4",
         ("simple_CNN-5", "simpler_CNN-4"), 30, 60, 68.4),
    Step("simpler_CNN-6", 20, f"{LAST} --seed 1 --monitor epoch", "simpler_CNN-5", (), 9, 20, 68.7, shipped=True),
    Step("mini_XCEPTION-4", 8, f"{PEOPLE} --votes-share 0.6 --logit-adjustment 0.5 --disturbances 0.3",
         "mini_XCEPTION-3", (), 21, 8, 78.0, votes=True, shipped=True),
    Step("big_XCEPTION-6", 6, f"{PEOPLE} --votes-share 0.5 --logit-adjustment 0.5 --disturbances 0.3",
         "big_XCEPTION-5", (), 10, 6, 76.2, votes=True, shipped=True),
    Step("simple_CNN-8", 5, f"{PEOPLE} --votes-share 0.5 --logit-adjustment 0.6 --disturbances 0.5",
         "simple_CNN-7", (), 14, 5, 74.5, votes=True),
    Step("simple_CNN-9", 6, f"{PEOPLE} --votes-share 0.6 --logit-adjustment 0.5 --disturbances 0.4 --augmentation 1.2",
         "simple_CNN-8", (), 46, 6, 76.8, votes=True, shipped=True),
)
# fmt: on


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the settings above are the defaults."""
    names = [step.name for step in STEPS]
    parser = Parser(description="Train again the networks that come trained, step by step.")
    add = parser.add_argument
    add("--list", action="store_true", help="print the steps, and which are done; train nothing")
    add("--only", nargs="+", choices=names, default=only, metavar="STEP", help="these steps and what they need")
    add("--dataset", default=dataset, metavar="PATH", help="FER2013, or drawn (default: as the training script)")
    add("--votes", type=Path, default=votes, metavar="FILE", help="FER+'s fer2013new.csv (default: %(default)s)")
    add("--output-dir", type=Path, default=output_dir, metavar="DIR", help="one folder per step (default: %(default)s)")
    add(
        "--epochs",
        type=number_in_range(int, 1, auto=True),
        default=epochs,
        metavar="N",
        help="of each step; auto: varies",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; the exit status is that of the first training that fails, else 0."""
    args = parse_args(argv)
    args.output_dir, args.votes = (Path(os.path.realpath(path)) for path in (args.output_dir, args.votes))
    if args.dataset and os.path.exists(args.dataset):  # the record of a step holds for any working folder
        args.dataset = os.path.realpath(args.dataset)
    steps = with_needed(args.only)
    if args.list:
        print(format_steps(steps, args.output_dir))
        return 0
    fixed_epochs = None if args.epochs == "auto" else args.epochs
    return run_steps(steps, args.output_dir, args.dataset, args.votes, fixed_epochs)


def with_needed(names: Collection[str]) -> list[Step]:
    """Return the steps of these names and all steps that they need, in the order of the table; all steps for none."""
    wanted = set(names) or {step.name for step in STEPS}
    for step in reversed(STEPS):  # a step needs earlier steps only
        if step.name in wanted:
            wanted.update(step.needs)
    return [step for step in STEPS if step.name in wanted]


def format_steps(steps: Sequence[Step], folder: Path) -> str:
    """Return the steps as a table of text."""
    rows = [("step", "starts from", "taught by", "minutes", "accuracy", "state")]
    for step in steps:
        state = "done" if read_record(folder, step) else "begun" if has_begun(folder, step) else ""
        name = step.name + " (shipped)" * step.shipped
        accuracy = f"{step.accuracy:.1f} %"
        rows.append((name, step.start_from or "", ", ".join(step.teachers), str(step.minutes), accuracy, state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    minutes = sum(step.minutes for step in steps)
    return "\n".join([*lines, f"{len(steps)} steps, {minutes // 60} hours {minutes % 60} minutes"])


# ----------------------------------------------------------------------------------------------------------
# Running the steps


def run_steps(
    steps: Sequence[Step],
    folder: Path,
    dataset: str | None = None,
    votes: Path | None = None,
    epochs: int | None = None,
    trainer: Path = TRAINER,
) -> int:
    """Run all steps that are not done.

    Args:
        steps: In an order in which each step comes after the steps that it needs.
        folder: Absolute; gets one folder per step.
        dataset: The training script's `--dataset`; None: its default.
        votes: The absolute path of FER+'s votes.
        epochs: Passes over Training in each step; None: those of the step.
        trainer: The training script.

    Returns:
        0, or the exit status of the first training that fails.

    Raises:
        UserError: The file of votes is missing, or a step was done with other flags.
    """
    if any(step.votes and not read_record(folder, step) for step in steps) and not (votes and os.path.isfile(votes)):
        raise UserError(
            f"a step needs FER+'s votes; found no {votes}: pass --votes fer2013new.csv (see fer2013/README.md)"
        )
    checkpoints = {}
    for number, step in enumerate(steps, 1):
        arguments = arguments_of(step, checkpoints, dataset, votes, epochs)
        record = read_record(folder, step)
        if record:
            if record["arguments"] != arguments:
                raise UserError(
                    f"a finished step must have been trained with the flags of now; found {folder / step.name}, "
                    f"trained with {shlex.join(record['arguments'])}: delete that folder, or pass another --output-dir"
                )
            print(f"{step.name}: done already, {record['checkpoint']}")
        else:
            command = [sys.executable, str(trainer), *arguments, "--output-dir", str(folder / step.name)]
            command += ["--resume"] if has_begun(folder, step) else []
            print(f"\nstep {number} of {len(steps)}, {step.name}, about {step.minutes} minutes")
            print(shlex.join(command), flush=True)
            status = run(command)
            if status:
                print(f"{step.name} broke off; the same command goes on with it", file=sys.stderr)
                return status
            record = {"arguments": arguments, "checkpoint": find_checkpoint(folder / step.name, step.network)}
            with replacing(folder / step.name / RECORD) as partial:
                partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            print(f"{step.name}: {record['checkpoint']} (the model card: epoch {step.epoch}, {step.accuracy:.1f} %)")
        checkpoints[step.name] = folder / step.name / record["checkpoint"]
    for step in steps:
        if step.shipped:
            print(f"trained again: {checkpoints[step.name]}")
    return 0


def arguments_of(
    step: Step, checkpoints: dict[str, Path], dataset: str | None, votes: Path | None, epochs: int | None
) -> list[str]:
    """Return the training script's arguments for a step, without `--output-dir` and `--resume`.

    Args:
        step: The step.
        checkpoints: The files that earlier steps left, by the steps' names.
        dataset: As `run_steps` takes it.
        votes: As `run_steps` takes it.
        epochs: As `run_steps` takes it.
    """
    arguments = ["--network", step.network, "--epochs", str(epochs or step.epochs), *step.flags.split()]
    if step.votes:
        arguments += ["--votes", str(votes)]
    if step.start_from:
        arguments += ["--start-from", str(checkpoints[step.start_from])]
    if step.teachers:
        arguments += ["--teacher", *(str(checkpoints[name]) for name in step.teachers)]
    if dataset:
        arguments += ["--dataset", str(dataset)]
    return arguments


def run(command: Sequence[str]) -> int:
    """Run a program to its end and return its exit status; Ctrl-C and SIGTERM end the program, too."""
    interrupted = threading.Event()
    with subprocess.Popen(command) as program:

        def end_program(number, frame):
            """Ctrl-C: the terminal sends it to the program, too; SIGTERM comes to this process alone."""
            interrupted.set()
            waiting = threading.Timer(SECONDS_TO_END if number == signal.SIGINT else 0, program.terminate)
            waiting.daemon = True
            waiting.start()

        # No KeyboardInterrupt while Popen waits: between the end of the program and the note of its exit status, a
        # KeyboardInterrupt would lose the status, and Popen then says 0.
        previous_handlers = {number: signal.signal(number, end_program) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return program.wait() or (130 if interrupted.is_set() else 0)
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)


# ----------------------------------------------------------------------------------------------------------
# What a step leaves


def read_record(folder: Path, step: Step) -> dict | None:
    """Return what `run_steps` wrote of a step that is done; None where the step is not done."""
    path = folder / step.name / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        checkpoint = folder / step.name / record["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and the step is run again") from error
    return record if checkpoint.is_file() else None


def has_begun(folder: Path, step: Step) -> bool:
    """Return whether a step has finished an epoch, so that `--resume` can go on with it."""
    return (folder / step.name / f"{step.network}.resume.npz").is_file()


def find_checkpoint(folder: Path, network: str) -> str:
    """Return the name of the best checkpoint of a run, as the training script recorded it."""
    import numpy as np

    with np.load(folder / f"{network}.resume.npz") as state:
        return json.loads(str(state["description"]))["best_name"]


if __name__ == "__main__":
    sys.exit(exit_status(main))
