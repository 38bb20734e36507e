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
    new_figure,
    number_in_range,
    quiet_start,
    replacing,
)

# isort: split
import argparse
import contextlib
import hashlib
import math
from collections.abc import Sequence
from csv import writer as csv_writer
from json import dumps
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from face_files.images import decode_image
from face_files.labels import SPLIT_FOLDERS, canonical_name
from face_files.location import find_source
from face_files.votes import people_shares
from load_and_process import (
    EMOTIONS,
    Dataset,
    Split,
    dataset,
    find_duplicates,
    join_votes,
    load_fer2013_data,
    preprocess_images,
)
from models.checkpoint import (
    RANGE,
    Header,
    check_probabilities,
    complete_headers,
    load_checkpoint,
    parse_emotions,
    parse_input_range,
    read_header,
    tell_of_drawings,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
votes = None                   # path of FER+'s fer2013new.csv; for "people", None: the one beside the data set; else a
                               # path makes the most voted of eight emotions a face's true one
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
FOLLOWED_FACES = 500  # at most: faces that a network names correctly, which are followed through the disturbances
PICTURES = ("confusion", "reliability", "mistakes")
BLUE, SKY, VERMILLION = "#0072B2", "#56B4E9", "#D55E00"  # Okabe and Ito's, safe for colour-blind readers


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
        help="FER+'s fer2013new.csv, for --labels people; without: a face's true emotion is the most voted of eight",
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
        tell_of_drawings(args.models, headers)
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
            predictions = [
                predict_disturbed(each, header, args.batch_size)
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
# What is measured: checkpoints, and the faces of a split


class EvaluationSplit(NamedTuple):
    """The faces of one split, at the input size of a network."""

    name: str  # PublicTest, PrivateTest or Training
    faces: np.ndarray  # uint8 (n, height, width, 1)
    emotions: np.ndarray  # int (n,), numbers that index `labels`
    labels: tuple[str, ...]
    in_training: np.ndarray | None  # bool (n,), whether Training has the same bytes; None where there is no Training
    shares: np.ndarray | None = None  # float (n, labels): of people who saw each emotion; None: not asked for
    title: str = ""  # what the split is called in print, for example "test"; "": as `name`
    images: Sequence[str | int] = ()  # where each face comes from: a file's path, or the number in the split, from 0


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


def load_split(
    dataset: str | Path, split: str, size: tuple[int, int], votes: str | Path | None = None, labels: str = "dataset"
) -> EvaluationSplit:
    """Load a split at a network's input size.

    Args:
        dataset: A data set, as `load_fer2013_data` takes it.
        split: The name of a split that the data set has.
        size: Height and width of the faces in pixels.
        votes: FER+'s fer2013new.csv.  With labels "dataset", a face's true emotion is the one with the most votes; None
            for the data set's own.  With labels "people", None for the file beside the data set.
        labels: "people": a face's true emotion is the one of EMOTIONS that most people saw.  A face is left out where
            none has more votes than each of the others, than "unknown", and than "no face".

    Returns:
        The faces, their emotions, and which faces are also in Training.

    Raises:
        UserError: The data set or the votes can't be read, or the data set does not have the split.
    """
    loaded, shares = load_fer2013_data(dataset, size), None
    data = loaded
    if labels == "people":
        beside = Path() if str(dataset) == "drawn" else find_source(dataset).parent
        data, votes_by_split = join_votes(data, votes or beside / "fer2013new.csv")
    elif votes:
        data, _ = join_votes(data, votes, relabel=True)
    if split not in data:
        has = " or ".join(f"{name} ({SPLIT_FOLDERS[name][0]})" for name in data)
        found = f"{split} ({SPLIT_FOLDERS[split][0]})" if split in SPLIT_FOLDERS else split
        raise UserError(f"--split must be one that {dataset} has, {has}; found {found}: choose another")
    images = np.array(name_images(loaded, split), object)
    if len(images) > len(data[split].faces):  # the same join says which have been left out
        numbered = Dataset({split: Split(np.arange(len(images)), loaded[split].emotions)})
        images = images[join_votes(numbered, votes, relabel=True)[0][split].faces]
    faces, true_emotions = data[split]
    emotions = data.emotions
    if labels == "people":
        shares, clear = people_shares(votes_by_split[split], EMOTIONS)
        faces, shares, images = faces[clear], shares[clear], images[clear]
        true_emotions, emotions = shares.argmax(axis=1), EMOTIONS
    in_training = find_duplicates(faces, data["Training"].faces) if "Training" in data else None
    return EvaluationSplit(split, faces, true_emotions, emotions, in_training, shares, data.titles[split], images)


def name_images(data: Dataset, split: str) -> list[str | int]:
    """Return where the faces of a split come from: of a folder, the paths of the files; else their numbers from 0."""
    count, paths = len(data[split].faces), data.paths.get(split, [])
    if len(paths) > count:  # some can't be read, and have no face
        paths = [path for path in paths if decode_image(path) is not None]
    return [str(path) for path in paths] if len(paths) == count else [*range(count)]


def shared_emotions(paths: Sequence[Path], headers: Sequence[Header], split: EvaluationSplit) -> tuple[str, ...]:
    """Find the emotions that the networks share, in the order of reports: as in EMOTIONS, then any others.

    Args:
        paths: The checkpoints.
        headers: One per checkpoint.
        split: The faces to measure on.

    Returns:
        The labels.

    Raises:
        UserError: The networks have different labels, or no label for an emotion of the split.
    """
    labels = [header.emotions or EMOTIONS for header in headers]
    for path, emotions in zip(paths, labels, strict=True):
        if set(emotions) != set(labels[0]):
            raise UserError(
                f"networks measured together must name the same emotions; {paths[0]} names {', '.join(labels[0])}; "
                f"found {path} with {', '.join(emotions)}: measure them one by one"
            )
    in_split = [split.labels[number] for number in np.unique(split.emotions)]
    if unknown := [emotion for emotion in in_split if emotion not in labels[0]]:
        raise UserError(
            f"a network must know every emotion of the split; {paths[0]} names {', '.join(labels[0])}; found faces "
            f"that are {', '.join(unknown)}: use data without them, or another network"
        )
    others = tuple(emotion for emotion in labels[0] if emotion not in EMOTIONS)
    return tuple(emotion for emotion in EMOTIONS if emotion in labels[0]) + others


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
# Predictions


class Predictions(NamedTuple):
    """What one network, or an ensemble, predicted for every face of a split."""

    path: str | list[str]  # of the checkpoint, or of the ensemble's checkpoints
    network: str  # name of the network, or "ensemble"
    parameters: int
    emotions: tuple[str, ...]  # of the columns of the probabilities
    split: EvaluationSplit
    probabilities: np.ndarray  # float (n, emotions), each row summing to 1
    with_flip: np.ndarray | None  # the same, with each face's mirror image averaged in; None where not measured
    disturbed: dict[str, np.ndarray] | None = None  # the same of the faces in each disturbance, by its name

    @property
    def y_true(self) -> np.ndarray:
        """The true emotions, int (n,), as columns of the probabilities."""
        column_of = {emotion: column for column, emotion in enumerate(self.emotions)}
        return np.array([column_of[self.split.labels[number]] for number in self.split.emotions])

    @property
    def y_pred(self) -> np.ndarray:
        """The predicted emotions, int (n,): the columns with the highest probability."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """The probabilities of the predicted emotions, float (n,)."""
        return self.probabilities.max(axis=1)


def predict_split(
    path: Path, header: Header, emotions: tuple[str, ...], split: EvaluationSplit, flip: bool, batch_size: int
) -> Predictions:
    """Predict the emotion of every face of a split with one checkpoint.

    Args:
        path: The checkpoint.
        header: What the checkpoint and the user say of the network.
        emotions: The labels of the checkpoint, in the order wanted.
        split: The faces, at the network's input size.
        flip: Whether to predict with the mirror images averaged in, too.
        batch_size: Faces per step.

    Returns:
        The predictions.

    Raises:
        UserError: The checkpoint can't be loaded, or its outputs are not probabilities.
    """
    predict_proba, parameters = _load_predictor(path, header, emotions, batch_size)
    probabilities = predict_proba(split.faces)
    with_flip = (probabilities + predict_proba(split.faces[:, :, ::-1])) / 2 if flip else None
    return Predictions(str(path), header.network, parameters, emotions, split, probabilities, with_flip)


def predict_disturbed(predictions: Predictions, header: Header, batch_size: int) -> Predictions:
    """Predict the same faces with noise, blur and so on: each disturbance of `training.disturbances.MEASURED`.

    Args:
        predictions: Of one network.
        header: What the checkpoint and the user say of the network.
        batch_size: Faces per step.

    Returns:
        The predictions, with `disturbed`.
    """
    from training.disturbances import MEASURED, disturb_all  # here: it imports Keras

    predict_proba, _ = _load_predictor(Path(predictions.path), header, predictions.emotions, batch_size)
    faces = predictions.split.faces
    return predictions._replace(disturbed={name: predict_proba(disturb_all(faces, name)) for name in MEASURED})


def _load_predictor(path, header, emotions, batch_size):
    """Return (a function from faces to probabilities in the order of `emotions`, the number of parameters)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
    with quiet_start():
        model, labels = load_checkpoint(path, header)
    columns = [labels.index(emotion) for emotion in emotions]

    def predict_proba(faces):
        batches = [
            model.predict_on_batch(preprocess_images(faces[start : start + batch_size]))
            for start in range(0, len(faces), batch_size)
        ]
        probabilities = np.concatenate(batches)[:, columns]
        check_probabilities(probabilities, path)
        return probabilities.astype(np.float64)

    return predict_proba, model.count_params()


def average_predictions(predictions: Sequence[Predictions]) -> Predictions:
    """Average the probabilities of several networks; the pictures of the ensemble show the largest of their faces.

    Args:
        predictions: One per network, of the same faces.

    Returns:
        The predictions of the ensemble.
    """
    flipped, disturbed = [each.with_flip for each in predictions], [each.disturbed for each in predictions]
    return Predictions(
        path=[each.path for each in predictions],
        network="ensemble",
        parameters=sum(each.parameters for each in predictions),
        emotions=predictions[0].emotions,
        split=max((each.split for each in predictions), key=lambda split: split.faces[0].size),
        probabilities=np.mean([each.probabilities for each in predictions], axis=0),
        with_flip=None if flipped[0] is None else np.mean(flipped, axis=0),
        disturbed=disturbed[0] and {name: np.mean([each[name] for each in disturbed], axis=0) for name in disturbed[0]},
    )


# ----------------------------------------------------------------------------------------------------------
# Figures


def measure(predictions: Predictions, calibration_bins: int) -> dict:
    """Compute everything that `--json` writes about a network, except its heat maps.

    Args:
        predictions: Of the network or the ensemble.
        calibration_bins: Number of bins for the calibration error.

    Returns:
        Plain numbers, strings and lists.  Rows of `confusion_matrix` are the true emotions, columns the predicted
        ones, both in the order of `per_emotion`.  `log_loss` is the mean of -ln of the true emotions' probabilities.
        A figure is None where it can't be computed: the scores of an emotion that no face shows (`macro_f1` leaves
        that emotion out), and the accuracy without duplicates where no other face is left.
    """
    from sklearn.metrics import confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

    y_true, y_pred, emotions = predictions.y_true, predictions.y_pred, predictions.emotions
    correct = y_pred == y_true
    columns = precision_recall_fscore_support(y_true, y_pred, labels=range(len(emotions)), zero_division=0)
    per_emotion = {}
    for emotion, *scores, support in zip(emotions, *columns, strict=True):
        scores = [float(score) if support else None for score in scores]
        per_emotion[emotion] = dict(zip(("precision", "recall", "f1"), scores, strict=True)) | {"support": int(support)}
    in_training = predictions.split.in_training
    correct_on_new_faces = correct[:0] if in_training is None else correct[~in_training]
    row_sums = predictions.probabilities.sum(axis=1, keepdims=True)  # float32 outputs sum to 1 only approximately
    result = {
        "path": predictions.path,
        "network": predictions.network,
        "parameters": int(predictions.parameters),
        "split": predictions.split.name,
        "images": len(correct),
        "accuracy": float(correct.mean()),
        "accuracy_ci95": list(wilson_interval(int(correct.sum()), len(correct))),
        "accuracy_without_training_duplicates": (
            float(correct_on_new_faces.mean()) if len(correct_on_new_faces) else None
        ),
        "macro_f1": float(np.mean([scores["f1"] for scores in per_emotion.values() if scores["support"]])),
        "per_emotion": per_emotion,
        "confusion_matrix": confusion_matrix(y_true, y_pred, labels=range(len(emotions))).tolist(),
        "expected_calibration_error": expected_calibration_error(predictions.confidence, correct, calibration_bins),
        "log_loss": float(log_loss(y_true, predictions.probabilities / row_sums, labels=range(len(emotions)))),
    }
    if predictions.with_flip is not None:
        y_pred, confidence = predictions.with_flip.argmax(axis=1), predictions.with_flip.max(axis=1)
        correct, shown = y_pred == y_true, np.unique(y_true)
        result["accuracy_with_flip"] = float(correct.mean())
        result["macro_f1_with_flip"] = float(f1_score(y_true, y_pred, labels=shown, average="macro", zero_division=0))
        result["expected_calibration_error_with_flip"] = expected_calibration_error(
            confidence, correct, calibration_bins
        )
    if (shares := predictions.split.shares) is not None:
        column_of = {emotion: column for column, emotion in enumerate(predictions.split.labels)}
        columns = np.array([column_of.get(emotion, -1) for emotion in emotions])[predictions.y_pred]
        seen = np.where(columns >= 0, shares[np.arange(len(shares)), columns], 0)  # by what share of people
        result["labels"] = "people"
        result["people_calibration_error"] = expected_calibration_error(predictions.confidence, seen, calibration_bins)
    if predictions.disturbed:
        result["disturbances"] = measure_disturbances(predictions)
    return result


def measure_disturbances(predictions: Predictions) -> dict[str, dict]:
    """Count what disturbances cost.

    Args:
        predictions: With `disturbed`.

    Returns:
        Of each disturbance, by its name: `accuracy`, the share of all faces that are named correctly; `kept`, the same
        of up to FOLLOWED_FACES faces that are named correctly without the disturbance (the same random choice every
        time); `kept_of`, their number.  `kept` is None where there are none.
    """
    y_true = predictions.y_true
    followed = np.flatnonzero(predictions.y_pred == y_true)
    followed = followed[np.random.default_rng(0).permutation(len(followed))[:FOLLOWED_FACES]]
    figures = {}
    for name, probabilities in predictions.disturbed.items():
        correct = probabilities.argmax(axis=1) == y_true
        kept = float(correct[followed].mean()) if len(followed) else None
        figures[name] = {"accuracy": float(correct.mean()), "kept": kept, "kept_of": len(followed)}
    return figures


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion (1927, J. Am. Stat. Assoc. 22).

    scipy.stats has the same interval, but importing it takes a second.

    Args:
        successes: From 0 to `trials`.
        trials: At least 1.
        confidence: The probability with which the interval contains the true proportion, between 0 and 1.

    Returns:
        The lower and the upper end, each from 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    proportion, shrink = successes / trials, 1 + z**2 / trials
    centre = (proportion + z**2 / (2 * trials)) / shrink
    half_width = z * math.sqrt(proportion * (1 - proportion) / trials + z**2 / (4 * trials**2)) / shrink
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def bin_by_confidence(
    confidence: np.ndarray, correct: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put predictions into bins of equal width; each bin includes its upper edge.

    Args:
        confidence: float (n,), from 0 to 1.
        correct: bool (n,).
        bins: Number of bins.

    Returns:
        Of each bin, each array (bins,): the number of predictions, the number of correct predictions, the sum of the
        confidences.
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    return tuple(np.bincount(bin_of, weights, bins) for weights in (None, correct, confidence))


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Average the distance of confidence from accuracy over the bins (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Args:
        confidence: float (n,), from 0 to 1.
        correct: bool (n,).
        bins: Number of bins.

    Returns:
        A number from 0 to 1; 0 where the accuracy in every bin equals the mean confidence.
    """
    _, correct_counts, confidence_sums = bin_by_confidence(confidence, correct, bins)
    return float(np.abs(correct_counts - confidence_sums).sum() / len(correct))


# ----------------------------------------------------------------------------------------------------------
# Figures of heat maps


def measure_heat_maps(predictions: Predictions, header: Header, count: int) -> dict:
    """Measure the live script's heat maps: hide the hottest fifth of each face, and see how much probability is lost.

    The heat map is useful if hiding the hottest fifth costs more than hiding another fifth of the face.  A part is
    hidden by inpainting: it is filled in from its surroundings (Telea 2004, as in OpenCV).

    Args:
        predictions: Of one network.
        header: What the checkpoint and the user say of the network.
        count: Number of faces; the same random choice every time.

    Returns:
        `faces`: the number of faces.  `probability`: the mean probability of the predicted emotions.  And the mean
        loss of that probability with a fifth of the face hidden: `lost_hottest`, the hottest fifth; `lost_elsewhere`,
        the same shape mirrored and moved to five other positions; `lost_middle`, a rectangle in the middle.
    """
    from models.classifier import EmotionClassifier

    said = read_header(predictions.path)
    given = None if said.emotions else header.emotions or EMOTIONS, header.input_range or RANGE
    classify = EmotionClassifier([predictions.path], False, *given)
    faces = predictions.split.faces
    indices = np.sort(np.random.default_rng(0).permutation(len(faces))[:count])
    full_probabilities, losses = [], {"hottest": [], "elsewhere": [], "middle": []}
    for face in faces[indices]:
        image = cv2.cvtColor(face, cv2.COLOR_GRAY2BGR)
        height, width = face.shape[:2]
        box = np.array([[0, 0, width, height]])
        (probabilities,) = classify(image, box)
        label = probabilities.argmax()
        (heat,) = classify.heat_maps(image, box, [label])
        hottest = hottest_fifth(cv2.resize(heat, (width, height)))
        masks = {"hottest": [hottest], "elsewhere": moved_elsewhere(hottest), "middle": [middle_fifth(hottest.shape)]}
        for part, part_masks in masks.items():
            images = [cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA) for mask in part_masks]
            hidden_probability = np.mean([classify(hidden, box)[0, label] for hidden in images])
            losses[part].append(probabilities[label] - hidden_probability)
        full_probabilities.append(probabilities[label])
    means = {f"lost_{part}": float(np.mean(part_losses)) for part, part_losses in losses.items()}
    return {"faces": len(indices), "probability": float(np.mean(full_probabilities))} | means


def hottest_fifth(heat: np.ndarray) -> np.ndarray:
    """Return bool (h, w), true in the hottest fifth of a heat map (h, w)."""
    mask = np.zeros(heat.shape, bool)
    mask.ravel()[np.argsort(-heat, axis=None, kind="stable")[: heat.size // 5]] = True
    return mask


def moved_elsewhere(mask: np.ndarray) -> list[np.ndarray]:
    """Return five versions of a mask (h, w): mirrored, and moved by thirds and halves of its size, round the edges."""
    height, width = mask.shape
    shifts = ((1 / 3, 1 / 3), (2 / 3, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 2 / 3), (1 / 2, 0))
    return [np.roll(mask, (int(y * height), int(x * width)), (0, 1))[:, ::-1] for y, x in shifts]


def middle_fifth(size: tuple[int, int]) -> np.ndarray:
    """Return bool (h, w) of a size (h, w), true in a rectangle in the middle that covers a fifth of it."""
    mask = np.zeros(size, bool)
    top, left = (round(side * (1 - math.sqrt(0.2)) / 2) for side in size)
    mask[top : size[0] - top, left : size[1] - left] = True
    return mask


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
        f"{_title(result)}: {result['parameters']:,} parameters",
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
    parts = [f"{_title(result)}: accuracy {result['accuracy']:.2%} (95% interval {low:.1%} to {high:.1%})"]
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


def write_predictions(path: Path, predictions: Sequence[Predictions]) -> None:
    """Write a CSV: a row for each image, and of several networks a row for each of them and for their ensemble.

    Args:
        path: The file.
        predictions: Of each network and, where there are several, of the ensemble, without the mirror images.
    """
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # as the system names files
        table = csv_writer(file)
        table.writerow(["model", "image", "label", "prediction", "confidence", *predictions[0].emotions])
        for each in predictions:
            model, names = each.path if isinstance(each.path, str) else each.network, each.emotions
            columns = each.split.images, each.y_true, each.y_pred, each.confidence, each.probabilities
            for image, label, prediction, confidence, row in zip(*columns, strict=True):
                shares = (f"{probability:.4f}" for probability in (confidence, *row))
                table.writerow([model, image, names[label], names[prediction], *shares])


def _title(result):
    """Return what tables and pictures call a network."""
    return result["path"] if isinstance(result["path"], str) else f"ensemble of {len(result['path'])}"


def hint_of_order(predictions: Predictions, header: Header) -> str:
    """Return a line where the data show that a network's outputs are in alphabetic order.

    Many programs that read images from folders number the emotions alphabetically.  The line comes in two cases.  In
    alphabetic order, the network would name a tenth more of the faces correctly.  Or it would name most faces of two
    emotions correctly, of which it now names 5 % or less.

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


# ----------------------------------------------------------------------------------------------------------
# Pictures


def draw_confusion_matrix(predictions: Predictions, result: dict) -> "Figure":
    """Draw how often each emotion was predicted for each true emotion: as a percentage, and as a number of faces.

    Args:
        predictions: Of the network or the ensemble.
        result: What `measure` returned for them.

    Returns:
        A figure of matplotlib.
    """
    counts = np.array(result["confusion_matrix"])
    totals = counts.sum(axis=1)
    side = max(5, 2 + 0.8 * len(counts))  # inches; the title contains a file's name
    title = f"accuracy {result['accuracy']:.1%} on {result['images']:,} faces"
    figure = _new_figure(predictions, result, (side, side), title)
    axes = figure.subplots()
    fractions = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(np.where(totals[:, None], fractions, np.nan), "cividis", vmin=0, vmax=1)
    for (row, column), fraction in np.ndenumerate(fractions):
        if totals[row]:
            text = f"{fraction:.0%}\n{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color="black" if fraction > 0.5 else "white")
    ticks = range(len(counts))
    axes.set(xticks=ticks, xticklabels=predictions.emotions, yticks=ticks, xlabel="predicted", ylabel="true")
    axes.set_yticklabels(
        f"{emotion}\n{total:,}" if total else f"{emotion}\nabsent"
        for emotion, total in zip(predictions.emotions, totals, strict=True)
    )
    axes.tick_params(length=0)
    return figure


def draw_reliability(predictions: Predictions, result: dict, calibration_bins: int) -> "Figure":
    """Draw the accuracy of predictions by their confidence, and how many predictions have which confidence.

    Such a picture is called a reliability diagram (Guo et al. 2017, arXiv:1706.04599).

    Args:
        predictions: Of the network or the ensemble.
        result: What `measure` returned for them.
        calibration_bins: Number of bins.

    Returns:
        A figure of matplotlib.
    """
    confidence, correct = predictions.confidence, predictions.y_pred == predictions.y_true
    counts, correct_counts, _ = bin_by_confidence(confidence, correct, calibration_bins)
    width, filled = 1 / calibration_bins, counts > 0
    middle = (np.arange(calibration_bins) + 0.5) * width
    pairs = zip(correct_counts[filled], counts[filled], strict=True)
    intervals = np.array([wilson_interval(*pair) for pair in pairs])

    title = f"expected calibration error {result['expected_calibration_error']:.1%}"
    figure = _new_figure(predictions, result, (6, 7.5), title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.bar(middle, correct_counts / np.maximum(counts, 1), width, color=SKY, edgecolor="white", label="accuracy")
    top.vlines(middle[filled], *intervals.T, color="black", label="95% interval")
    top.plot((0, 1), (0, 1), "--", color=VERMILLION, label="perfect calibration")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.legend(loc="upper left", frameon=False)
    bottom.bar(middle, counts / len(correct), width, color=SKY, edgecolor="white")
    bottom.axvline(correct.mean(), color="black", label=f"accuracy {correct.mean():.1%}")
    bottom.axvline(
        confidence.mean(), linestyle="--", color=VERMILLION, label=f"mean confidence {confidence.mean():.1%}"
    )
    bottom.set(xlabel="confidence (probability of the predicted emotion)", ylabel="percentage of faces")
    bottom.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0)
    for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
        axis.set_major_formatter("{x:.0%}")
    return figure


def draw_mistakes(predictions: Predictions, result: dict, mistakes_shown: int) -> "Figure":
    """Draw the faces of the most confident wrong predictions: the prediction above each face, the label below.

    Args:
        predictions: Of the network or the ensemble.
        result: What `measure` returned for them.
        mistakes_shown: Number of faces, at most.

    Returns:
        A figure of matplotlib.
    """
    y_true, y_pred, confidence = predictions.y_true, predictions.y_pred, predictions.confidence
    wrong = np.flatnonzero(y_pred != y_true)
    most_confident = wrong[np.argsort(-confidence[wrong], kind="stable")][:mistakes_shown]
    columns = 6
    rows = max(1, math.ceil(len(most_confident) / columns))
    title = "no wrong predictions"
    if len(wrong):
        title = f"{len(most_confident)} most confident of {len(wrong):,} wrong predictions"
    figure = _new_figure(predictions, result, (1.7 * columns, 0.8 + 2.1 * rows), title)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells[len(most_confident) :]:
        cell.axis("off")
    for cell, index in zip(cells, most_confident, strict=False):
        cell.imshow(predictions.split.faces[index, ..., 0], "gray", vmin=0, vmax=255)
        cell.set(xticks=[], yticks=[])
        predicted, label = predictions.emotions[y_pred[index]], predictions.emotions[y_true[index]]
        cell.set_title(f"{predicted} {confidence[index]:.1%}", color=VERMILLION, fontsize=11)
        cell.set_xlabel(f"labelled {label}", color=BLUE, fontsize=11)
    return figure


def _new_figure(predictions, result, size, text):
    """Return an empty figure, width and height in inches, under a title that says what was measured."""
    figure = new_figure(figsize=size, layout="constrained")
    name = Path(result["path"]).name if isinstance(result["path"], str) else _title(result)
    split = predictions.split.title or predictions.split.name
    figure.suptitle(f"{name}, {split}\n{text}", fontsize=12)
    return figure


if __name__ == "__main__":
    sys.exit(exit_status(main))
