"""Measure trained networks: how often they are correct, on which emotions, and whether their confidence can be trusted.

    python evaluate_emotion_classifier.py models/mini_XCEPTION.hdf5                       # on PublicTest
    python evaluate_emotion_classifier.py models/mini_XCEPTION.hdf5 --split PrivateTest   # once, at the very end
    python evaluate_emotion_classifier.py models/*_CNN.hdf5 models/*_XCEPTION.hdf5 --flip --json output/figures.json
    python evaluate_emotion_classifier.py models/mini_XCEPTION.hdf5 --labels people --disturbances

Several checkpoints are measured one by one and together: their ensemble is the mean of their probabilities.

Writes to --output-dir, for each network and for the ensemble, all files or none:
    NAME.SPLIT.confusion.png    which emotion was predicted for which true emotion
    NAME.SPLIT.reliability.png  how often predictions are correct, by their confidence
    NAME.SPLIT.mistakes.png     the wrong predictions with the highest confidence

Runs on Keras's TensorFlow backend, or on JAX with KERAS_BACKEND=jax.
"""

import os
import sys

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command_line import (  # first: it makes Ctrl-C quiet, and names a missing package
    Parser,
    UserError,
    WriteError,
    drawing,
    exit_status,
    number_in_range,
    replacing,
)

# isort: split
import argparse
import contextlib
import functools
import hashlib
from collections.abc import Sequence
from json import dumps
from pathlib import Path

import numpy as np

from evaluation.figures import measure, measure_heat_maps, title_of
from evaluation.pictures import draw_confusion_matrix, draw_mistakes, draw_reliability
from evaluation.predictions import (
    EvaluationSplit,
    Predictions,
    average_predictions,
    load_split,
    predict_disturbed,
    predict_split,
    shared_emotions,
    write_predictions,
)
from face_files.labels import SPLIT_FOLDERS, canonical_name
from load_and_process import EMOTIONS, dataset
from models.checkpoint import (
    Header,
    complete_headers,
    parse_emotions,
    parse_input_range,
    read_header,
    warn_if_trained_on_drawings,
)

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

# what is measured.  `dataset` (path) is set in load_and_process.py; the size of the faces comes from the checkpoints
split = "PublicTest"           # PublicTest, PrivateTest
emotions = None                # of a model whose file names none, in the order of its outputs: "angry,disgust,..."
input_range = None             # of a model whose file does not say it: what it takes for black and white, "0,1"
flip = False                   # also measure with each face's mirror image averaged in
heat_maps = 0                  # number of faces on which to measure the heat maps; 0: none
disturbances = False           # also measure with noise, blur, low resolution, JPEG, gamma and uneven light
labels = "dataset"             # dataset: a face's true emotion is the data set's; people: what most people saw in it,
                               # one of the seven emotions, by FER+'s votes
votes = None                   # path of FER+'s fer2013new.csv; with "people", None takes the file beside the data set;
                               # with "dataset", the true emotion is then the one of eight that has the most votes
batch_size = 256               # faces per step

# what is written
output_dir = Path(__file__).resolve().parent / "output" / "evaluation"  # folder for the pictures
json = None                    # path of a file for the figures
csv = None                     # path of a table with the prediction for each image
calibration_bins = 15          # number of bins of equal width, confidence 0 to 1
mistakes_shown = 24            # faces, at most
# fmt: on
# ----------------------------------------------------------------------------------------------------------

LABELS = ("dataset", "people")
PICTURES = ("confusion", "reliability", "mistakes")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Measure emotion networks on faces that they were not trained on.")
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="MODEL.hdf5", help="checkpoint; several are also measured together"
    )

    add = parser.add_argument_group("what is measured").add_argument
    add("--dataset", default=dataset, help="fer2013.csv (or .gz, .zip, .xz), a folder, or drawn (default: %(default)s)")
    add(
        "--split",
        type=lambda name: canonical_name(name, SPLIT_FOLDERS) or name,
        default=split,
        help="PublicTest or validation, PrivateTest or test (default: %(default)s)",
    )
    text = "names in the order of the outputs, for a model whose file names none"
    add("--emotions", default=emotions, metavar="A,B,C", help=text)
    text = "what the network takes for black and white, for a model whose file does not say it: 0,1 or 0,255"
    add("--input-range", default=input_range, metavar="LOW,HIGH", help=text)
    add(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=flip,
        help="also measure with each face's mirror image averaged in",
    )
    add(
        "--heat-maps",
        type=number_in_range(int, 0),
        default=heat_maps,
        metavar="N",
        help="also measure the heat maps, on N faces",
    )
    add(
        "--disturbances",
        action=argparse.BooleanOptionalAction,
        default=disturbances,
        help="also measure with noise, blur, low resolution, JPEG, gamma and uneven light",
    )
    add(
        "--labels",
        choices=LABELS,
        default=labels,
        help="true emotions: the data set's, or what most people saw (default: %(default)s)",
    )
    add(
        "--votes",
        type=Path,
        default=votes,
        metavar="FILE",
        help="FER+'s fer2013new.csv; with --labels dataset, the true emotion is then the most voted of eight",
    )
    add(
        "--batch-size",
        type=number_in_range(int, 1),
        default=batch_size,
        metavar="N",
        help="faces per step (default: %(default)s)",
    )

    add = parser.add_argument_group("what is written").add_argument
    add(
        "--output-dir",
        type=Path,
        default=output_dir,
        metavar="FOLDER",
        help="where the pictures go (default: %(default)s)",
    )
    add("--json", type=Path, default=json, metavar="FILE", help="write the figures to a file")
    add("--csv", type=Path, default=csv, metavar="FILE", help="write each image's prediction to a table")
    add(
        "--calibration-bins",
        type=number_in_range(int, 1),
        default=calibration_bins,
        metavar="N",
        help="bins of confidence (default: %(default)s)",
    )
    add(
        "--mistakes-shown",
        type=number_in_range(int, 0),
        default=mistakes_shown,
        metavar="N",
        help="wrong predictions in a picture, at most (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the checkpoints that the command line names."""
    args = parse_args(argv)
    given = parse_emotions(args.emotions), parse_input_range(args.input_range)
    headers = complete_headers(args.models, read_headers(args.models), *given)
    check_output_paths({"--json": args.json, "--csv": args.csv}, [*args.models, args.dataset])
    sizes = [header.input_shape[:2] for header in headers]
    # The largest size comes first: the cache beside the data keeps the size that was read last, and training needs the
    # smallest.
    splits = {
        size: load_split(args.dataset, args.split, size, args.votes, args.labels)
        for size in sorted(set(sizes), reverse=True)
    }
    emotions = shared_emotions(args.models, headers, splits[sizes[0]])
    if str(args.dataset) != "drawn":
        warn_if_trained_on_drawings(args.models, headers)
    print(describe_split(splits[max(sizes)]), flush=True)

    names = output_names(args.models)
    with contextlib.ExitStack() as files:  # opens every file before the long work; at the end all are there or none
        picture_files = files.enter_context(contextlib.ExitStack())
        pictures = {
            (name, kind): picture_files.enter_context(replacing(args.output_dir / f"{name}.{args.split}.{kind}.png"))
            for name in names
            for kind in PICTURES
        }
        json_file = files.enter_context(replacing(args.json)) if args.json else None
        csv_file = files.enter_context(replacing(args.csv)) if args.csv else None

        predictions = [
            predict_split(path, header, emotions, splits[size], args.flip, args.batch_size)
            for path, header, size in zip(args.models, headers, sizes, strict=True)
        ]
        if args.disturbances:
            from training.disturbances import MEASURED, disturb_all  # here: it imports Keras

            disturbances = {name: functools.partial(disturb_all, name=name) for name in MEASURED}
            predictions = [
                predict_disturbed(each, header, disturbances, args.batch_size)
                for each, header in zip(predictions, headers, strict=True)
            ]
        heat_map_figures = [
            measure_heat_maps(each, header, args.heat_maps)
            for each, header in zip(predictions, headers, strict=True)
            if args.heat_maps
        ]
        hints = [hint for hint in map(hint_of_order, predictions, headers) if hint]
        if len(predictions) > 1:
            predictions.append(average_predictions(predictions))
        results = [measure(each, args.calibration_bins) for each in predictions]
        for result, figures in zip(results, heat_map_figures, strict=False):  # the ensemble has none
            result["heat_maps"] = figures

        for result in results:
            print(f"\n{format_table(result)}")
            if "disturbances" in result:
                print(f"\n{format_disturbances(result)}")
        try:
            with drawing():
                for name, each, result in zip(names, predictions, results, strict=True):
                    draw_confusion_matrix(each, result).savefig(pictures[name, "confusion"], dpi=120)
                    reliability = draw_reliability(each, result, args.calibration_bins)
                    reliability.savefig(pictures[name, "reliability"], dpi=120)
                    draw_mistakes(each, result, args.mistakes_shown).savefig(pictures[name, "mistakes"], dpi=120)
            drawn = f"pictures: {args.output_dir}"
        except WriteError as error:  # of Matplotlib; the figures are printed, which is what matters
            picture_files.__exit__(*sys.exc_info())
            drawn = f"no pictures drawn ({error})"
        if json_file:
            json_file.write_text(format_json(results), encoding="utf-8")
        if csv_file:
            write_predictions(csv_file, predictions)

    print("", *(summary(result) for result in results), *hints, sep="\n")
    written = {drawn: "", "figures: ": args.json, "predictions: ": args.csv}
    print("", *(f"{what}{path}" for what, path in written.items() if path is not None), sep="\n")
    return 0


# ----------------------------------------------------------------------------------------------------------
# Checkpoints, and paths to write to


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """Read the headers of checkpoints that can be measured together.

    Args:
        paths: The checkpoints.

    Returns:
        One header per path.

    Raises:
        UserError: A file is not a checkpoint, or two files are the same.
    """
    headers, path_of = [], {}
    for path in paths:
        headers.append(read_header(path))
        content = hashlib.sha256(path.read_bytes()).digest()
        if content in path_of:
            raise UserError(f"each model is measured once; {path_of[content]} and {path} are the same: leave one out")
        path_of[content] = path
    return headers


def check_output_paths(paths: dict[str, Path | None], inputs: Sequence[str | Path]) -> None:
    """Check that files can be written to the paths that flags name.

    Args:
        paths: By flag; None for a file that is not written.
        inputs: The files that are read.

    Raises:
        UserError: A path is a folder, one of the inputs, or a path that another flag names.
    """
    taken = {os.path.realpath(each) for each in inputs}
    for flag, path in paths.items():
        if path and (os.path.isdir(path) or os.path.realpath(path) in taken):
            raise UserError(
                f"{flag} must name a file to write; found {path}, a folder, an input or another output: name another"
            )
        taken |= {os.path.realpath(path)} if path else set()


def output_names(paths: Sequence[Path]) -> list[str]:
    """Name the pictures of each checkpoint and, where there are several checkpoints, of the ensemble.

    Args:
        paths: The checkpoints.

    Returns:
        Different names: the files' own, with a number in front where two are equal (a/mini.hdf5 and b/mini.hdf5).
    """
    names = [path.stem for path in paths] + ["ensemble"] * (len(paths) > 1)
    if len({name.lower() for name in names}) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
    return names


# ----------------------------------------------------------------------------------------------------------
# Words


def describe_split(split: EvaluationSplit) -> str:
    """Return one line: the split, its size, and how many of its faces are also in Training."""
    duplicates = "no Training to look for duplicates in"
    if split.in_training is not None:
        duplicates = f"{split.in_training.sum():,} of them, byte for byte, in Training too"
    labelled = ", labelled as most people saw them" if split.shares is not None else ""
    return f"{split.title or split.name}: {len(split.faces):,} faces{labelled}, {duplicates}"


def format_table(result: dict) -> str:
    """Return a table of precision, recall, F1 and number of faces of every emotion.

    Args:
        result: As `measure` returns it.
    """
    lines = [
        f"{title_of(result)}: {result['parameters']:,} parameters",
        f"{'':<12}{'precision':>10}{'recall':>10}{'F1':>10}{'faces':>8}",
    ]
    for emotion, scores in result["per_emotion"].items():
        *fractions, support = scores.values()
        cells = "".join(f"{'absent' if value is None else format(value, '.1%'):>10}" for value in fractions)
        lines.append(f"{emotion:<12}{cells}{support:>8,}")
    return "\n".join([*lines, f"{'macro mean':<12}{'':>20}{result['macro_f1']:>10.1%}{result['images']:>8,}"])


def format_disturbances(result: dict) -> str:
    """Return a table of what disturbances cost.

    Args:
        result: As `measure` returns it, with `disturbances`.
    """
    figures = result["disturbances"]
    (kept_of,) = {figure["kept_of"] for figure in figures.values()}
    followed = f"of {kept_of} correct ones"
    lines = [f"{'named correctly':<18}{'of all faces':>14}{followed:>22}"]
    lines += [f"{'undisturbed':<18}{result['accuracy']:>14.1%}{'100.0%':>22}"]
    for name, figure in figures.items():
        kept = "none" if figure["kept"] is None else f"{figure['kept']:.1%}"
        lines += [f"{name:<18}{figure['accuracy']:>14.1%}{kept:>22}"]
    return "\n".join(lines)


def summary(result: dict) -> str:
    """Return a network's figures as one line.

    Args:
        result: As `measure` returns it, with or without `heat_maps`.
    """
    low, high = result["accuracy_ci95"]
    on_new_faces = result["accuracy_without_training_duplicates"]
    parts = [f"{title_of(result)}: accuracy {result['accuracy']:.2%} (95% interval {low:.1%} to {high:.1%})"]
    parts += [f"{on_new_faces:.2%} without Training's duplicates"] if on_new_faces is not None else []
    parts += [f"macro-F1 {result['macro_f1']:.1%}", f"calibration error {result['expected_calibration_error']:.1%}"]
    parts += [f"log loss {result['log_loss']:.3f}"]
    if "people_calibration_error" in result:
        parts += [f"calibration error against people's shares {result['people_calibration_error']:.1%}"]
    if "accuracy_with_flip" in result:
        flipped = (result[f"{name}_with_flip"] for name in ("accuracy", "macro_f1", "expected_calibration_error"))
        parts += ["with flip {:.2%}, macro-F1 {:.1%}, calibration error {:.1%}".format(*flipped)]
    line = ", ".join(parts)
    if maps := result.get("heat_maps"):
        text = (
            "; heat maps, on {faces:,} faces: the probability of the predicted emotion is {probability:.2f}; it falls "
        )
        text += "by {lost_hottest:.2f} with the hottest fifth of the face hidden, by {lost_elsewhere:.2f} with another "
        text += "fifth hidden, by {lost_middle:.2f} with the middle fifth hidden"
        line += text.format(**maps)
    return line


def format_json(results: Sequence[dict]) -> str:
    """Return the text of the `--json` file.

    Args:
        results: As `measure` returns them, of each network and, where there are several, of their ensemble.
    """
    networks = [result for result in results if isinstance(result["path"], str)]
    report = {"models": networks}
    if len(networks) < len(results):
        report["ensemble"] = results[-1]
    return dumps(report, indent=2, allow_nan=False) + "\n"


def hint_of_order(predictions: Predictions, header: Header) -> str:
    """Return a line where the data show that a network's outputs are in alphabetic order.

    Many programs that read images from folders number the emotions alphabetically.  The line comes if alphabetic order
    raises the accuracy by 10 percentage points or more.  It also comes if alphabetic order raises the accuracy at all,
    and the recall of two or more emotions from 5 % or less to more than 50 %.

    Args:
        predictions: Of one network.
        header: What the checkpoint and the user say of the network.

    Returns:
        The line, or nothing.
    """
    in_order = header.emotions or EMOTIONS
    alphabetic = sorted(in_order)
    as_output = [alphabetic[in_order.index(emotion)] for emotion in predictions.emotions]
    y_true = predictions.y_true
    y_pred = np.array([predictions.emotions.index(emotion) for emotion in as_output])[predictions.y_pred]
    correct, correct_otherwise = predictions.y_pred == y_true, y_pred == y_true
    accuracy, otherwise = correct.mean(), correct_otherwise.mean()
    mended = [
        number
        for number in np.unique(y_true)
        if correct[y_true == number].mean() <= 0.05 and correct_otherwise[y_true == number].mean() > 0.5
    ]
    if otherwise < accuracy + 0.1 and not (len(mended) >= 2 and otherwise > accuracy):
        return ""
    return (
        f"notice: {predictions.path} would be correct for {otherwise:.0%} of the faces, in place of {accuracy:.0%}, if "
        f"its outputs were in alphabetic order: --emotions {','.join(alphabetic)}"
    )


if __name__ == "__main__":
    sys.exit(exit_status(main))
