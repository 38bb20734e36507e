"""Measure trained networks: how often they are right, on which emotions, and how far their confidence can be believed.

    python evaluate_emotion_classifier.py models/mini_XCEPTION.hdf5                       # on PublicTest
    python evaluate_emotion_classifier.py models/mini_XCEPTION.hdf5 --split PrivateTest   # once, at the very end
    python evaluate_emotion_classifier.py models/*_CNN.hdf5 models/*_XCEPTION.hdf5 --flip --json output/figures.json

Several checkpoints are measured one by one and together: their ensemble is the mean of their probabilities.

Writes to --output-dir, for each network and the ensemble, all files or none:
    NAME.SPLIT.confusion.png    which emotions are taken for which
    NAME.SPLIT.reliability.png  how often an answer is right, by how sure it was
    NAME.SPLIT.mistakes.png     the wrong answers that were surest

Runs on Keras's TensorFlow backend, or on JAX with KERAS_BACKEND=jax.
"""

import contextlib
import hashlib
import math
import os
import sys
from json import dumps
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import cv2
import numpy as np

from command_line import Parser, UserError, exit_status, number_in_range, quiet_start, replacing
from load_and_process import (
    EMOTIONS,
    SPLIT_FOLDERS,
    canonical_name,
    dataset,
    find_duplicates,
    join_votes,
    load_fer2013_data,
    preprocess_images,
)
from models.checkpoint import load_checkpoint, read_header

# ------------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

# data: `dataset` (path) is set in load_and_process.py; the size of the faces comes from the checkpoints
split = "PublicTest"           # PublicTest, PrivateTest
flip = False                   # also measure with each face's mirror image averaged in
heat_maps = 0                  # faces on which to measure what heat maps are worth
output_dir = Path(__file__).resolve().parent / "output" / "evaluation"
json = None                    # a file for the figures
votes = None                   # FER+'s fer2013new.csv: FER2013's faces count as what most people saw in them
calibration_bins = 15          # of equal width, confidence 0 to 1
mistakes_shown = 24            # faces
batch_size = 256               # faces per step
# fmt: on
# ------------------------------------------------------------------------------------------------------------

BLUE, SKY, VERMILLION = "#0072B2", "#56B4E9", "#D55E00"  # Okabe and Ito's, colour-blind-safe


class Faces(NamedTuple):
    """A split at the input size of a network."""

    split: str
    images: np.ndarray  # uint8 (n, height, width, 1)
    emotions: np.ndarray  # int (n,), numbers that index `labels`
    labels: tuple[str, ...]
    in_training: np.ndarray | None  # bool (n,), byte for byte; None where the data have no Training


class Answers(NamedTuple):
    """What a network, or several together, said of every face of a split."""

    path: str | list[str]
    network: str
    parameters: int
    emotions: tuple[str, ...]  # of the columns of the probabilities
    faces: Faces
    probabilities: np.ndarray  # float (n, emotions), rows summing to 1
    with_flip: np.ndarray | None  # the same, each face's mirror image averaged in

    @property
    def truth(self):
        """int (n,), the columns of the true emotions."""
        return np.array([self.emotions.index(self.faces.labels[number]) for number in self.faces.emotions])

    @property
    def named(self):
        """int (n,), the columns of the most probable emotions."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self):
        """float (n,), the probabilities of the emotions named."""
        return self.probabilities.max(axis=1)


def parse_args(argv=None):
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Measure emotion networks on faces they were not trained on.")
    add = parser.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL.hdf5", help="checkpoint; several are also measured together")
    add("--dataset", default=dataset, help="fer2013.csv (or .gz, .zip, .xz), a folder, or drawn (default: %(default)s)")
    add(
        "--split",
        type=lambda name: canonical_name(name, SPLIT_FOLDERS) or name,
        default=split,
        help="PublicTest or validation, PrivateTest or test (default: %(default)s)",
    )
    add("--votes", type=Path, default=votes, metavar="FILE", help="FER+'s fer2013new.csv: count what most people saw")
    add("--output-dir", type=Path, default=output_dir, help="where the pictures go (default: %(default)s)")
    add("--json", type=Path, default=json, metavar="FILE", help="write the figures")
    add("--flip", action="store_true", default=flip, help="also measure with each face's mirror image averaged in")
    add(
        "--heat-maps",
        type=number_in_range(int, 0),
        default=heat_maps,
        metavar="N",
        help="also measure heat maps, on N faces",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    headers = read_headers(args.models)
    inputs = {Path(path).resolve() for path in (*args.models, args.dataset)}
    if args.json and (args.json.is_dir() or args.json.resolve() in inputs):
        raise UserError(f"--json must name a file to write; found {args.json}, a folder or an input: name another")
    sizes = [header.input_shape[:2] for header in headers]
    # largest first: the cache beside the data keeps the last size, and training reads the smallest
    data = {size: read_split(args.dataset, args.split, size, args.votes) for size in sorted(set(sizes), reverse=True)}
    emotions = shared_emotions(args.models, headers, data[sizes[0]])
    print(describe_split(data[max(sizes)]), flush=True)

    names = [path.stem for path in args.models] + ["ensemble"] * (len(args.models) > 1)
    if len({name.lower() for name in names}) < len(names):  # a/mini.hdf5 and b/mini.hdf5
        names = [f"{number}-{name}" for number, name in enumerate(names, 1)]
    pictures = {"confusion": draw_confusion_matrix, "reliability": draw_reliability, "mistakes": draw_mistakes}
    with contextlib.ExitStack() as stack:  # asks for every file before the long work, and leaves all of them or none
        files = {
            (name, kind): stack.enter_context(replacing(args.output_dir / f"{name}.{args.split}.{kind}.png"))
            for name in names
            for kind in pictures
        }
        json_file = stack.enter_context(replacing(args.json)) if args.json else None
        answers = [
            ask(path, header.network, emotions, data[size], args.flip)
            for path, header, size in zip(args.models, headers, sizes, strict=True)
        ]
        if len(answers) > 1:
            answers.append(ensemble(answers))
        results = [measure(each) for each in answers]
        if args.heat_maps:
            for each, result in zip(answers[: len(args.models)], results, strict=False):
                result["heat_maps"] = measure_heat_maps(each, args.heat_maps)
        for name, each, result in zip(names, answers, results, strict=True):
            print(f"\n{format_table(result)}")
            for kind, draw in pictures.items():
                draw(each, result).savefig(files[name, kind], dpi=120)
        if json_file:
            report = {"models": results[: len(args.models)]}
            report |= {"ensemble": results[-1]} if len(args.models) > 1 else {}
            json_file.write_text(dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    print("", *(summary(result) for result in results), sep="\n")
    print(f"\npictures: {args.output_dir}" + (f"\nfigures: {args.json}" if args.json else ""))
    return 0


# ------------------------------------------------------------------------------------------------- what is measured
def read_headers(paths):
    """The headers of checkpoints that can be measured together: each is one, and none comes twice."""
    headers, known = [], {}
    for path in paths:
        headers.append(read_header(path))
        content = hashlib.sha256(path.read_bytes()).digest()
        if content in known:
            raise UserError(f"each model is measured once; {known[content]} and {path} are the same: leave one out")
        known[content] = path
    return headers


def read_split(dataset, split, size, votes=None):
    """Load a split at a network's input size.

    Args:
        dataset: as `load_fer2013_data` takes it.
        split: one that the data have.
        size: height and width in pixels.
        votes: FER+'s fer2013new.csv, if its eight labels are to count.

    Returns:
        `Faces`.

    Raises:
        FileNotFoundError, ValueError: as `load_fer2013_data`, and where the data lack the split.
    """
    data = load_fer2013_data(dataset, size)
    if votes:
        data, _ = join_votes(data, votes, relabel=True)
    if split not in data:
        has = " or ".join(f"{name} ({SPLIT_FOLDERS[name][0]})" for name in data)
        raise UserError(f"--split must be one that {dataset} has, {has}; found {split}: choose another")
    in_training = find_duplicates(data[split].faces, data["Training"].faces) if "Training" in data else None
    return Faces(split, *data[split], data.emotions, in_training)


def shared_emotions(paths, headers, faces):
    """Find the emotions that networks name, in the order of reports: as in EMOTIONS, then any others.

    Args:
        paths, headers: of the checkpoints.
        faces: `Faces` that they are measured on.

    Returns:
        tuple of labels.

    Raises:
        ValueError: the networks name different ones, or lack one that the faces show.
    """
    named = [header.emotions or EMOTIONS for header in headers]
    for path, emotions in zip(paths, named, strict=True):
        if set(emotions) != set(named[0]):
            raise UserError(
                f"networks measured together must name the same emotions; {paths[0]} names {', '.join(named[0])}; "
                f"found {path} with {', '.join(emotions)}: measure them one by one"
            )
    shown = [faces.labels[number] for number in np.unique(faces.emotions)]
    if unknown := [emotion for emotion in shown if emotion not in named[0]]:
        raise UserError(
            f"a network must know every emotion of the split; {paths[0]} names {', '.join(named[0])}; found faces that "
            f"are {', '.join(unknown)}: use data without them, or another network"
        )
    others = tuple(emotion for emotion in named[0] if emotion not in EMOTIONS)
    return tuple(emotion for emotion in EMOTIONS if emotion in named[0]) + others


def ask(path, network, emotions, faces, flip=False):
    """Have a checkpoint name every face.

    Args:
        path: a checkpoint.
        network: its name.
        emotions: all that it names, in the order wanted.
        faces: `Faces` of its input size.
        flip: whether to ask for their mirror images too.

    Returns:
        `Answers`.

    Raises:
        ValueError: the checkpoint can't be loaded, or gives no probabilities.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
    with quiet_start():
        model, named = load_checkpoint(path)
    columns = [named.index(emotion) for emotion in emotions]

    def probabilities(step):
        given = [
            model.predict_on_batch(preprocess_images(faces.images[i : i + batch_size, :, ::step]))
            for i in range(0, len(faces.images), batch_size)
        ]
        given = np.concatenate(given)[:, columns]
        if not (np.allclose(given.sum(axis=1), 1, atol=1e-3) and given.min() >= 0):  # not (...): NaN compares false
            raise UserError(f"{path} must give probabilities, which sum to 1; found other numbers: train it again")
        return given.astype(np.float64)

    direct = probabilities(1)
    mirrored = (direct + probabilities(-1)) / 2 if flip else None
    return Answers(str(path), network, model.count_params(), emotions, faces, direct, mirrored)


def ensemble(answers):
    """The `Answers` of several networks together: the mean of their probabilities, on the largest of their faces."""
    return Answers(
        path=[each.path for each in answers],
        network="ensemble",
        parameters=sum(each.parameters for each in answers),
        emotions=answers[0].emotions,
        faces=max((each.faces for each in answers), key=lambda faces: faces.images[0].size),
        probabilities=np.mean([each.probabilities for each in answers], axis=0),
        with_flip=None if answers[0].with_flip is None else np.mean([each.with_flip for each in answers], axis=0),
    )


# ---------------------------------------------------------------------------------------------------------- figures
def measure(answers):
    """Compute everything that `--json` writes of a network.

    Args:
        answers: `Answers`.

    Returns:
        dict of plain numbers, strings and lists.  Rows of `confusion_matrix` are the true emotions, columns the named
        ones, both in the order of `per_emotion`.  `log_loss` is the mean of -ln of the true emotions' probabilities.
        None stands for what the faces can't tell: the figures of an emotion that none of them shows (macro-F1 passes
        over it), accuracy without duplicates where that leaves none.
    """
    from sklearn.metrics import confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

    truth, named, emotions = answers.truth, answers.named, answers.emotions
    right = named == truth
    columns = precision_recall_fscore_support(truth, named, labels=range(len(emotions)), zero_division=0)
    per_emotion = {}
    for emotion, *scores, support in zip(emotions, *columns, strict=True):
        scores = [float(score) if support else None for score in scores]
        per_emotion[emotion] = dict(zip(("precision", "recall", "f1"), scores, strict=True)) | {"support": int(support)}
    repeated = answers.faces.in_training
    unseen = right[:0] if repeated is None else right[~repeated]
    summing_to_one = answers.probabilities / answers.probabilities.sum(axis=1, keepdims=True)  # to more digits
    result = {
        "path": answers.path,
        "network": answers.network,
        "parameters": int(answers.parameters),
        "split": answers.faces.split,
        "images": len(right),
        "accuracy": float(right.mean()),
        "accuracy_ci95": list(wilson_interval(int(right.sum()), len(right))),
        "accuracy_without_training_duplicates": float(unseen.mean()) if len(unseen) else None,
        "macro_f1": float(np.mean([scores["f1"] for scores in per_emotion.values() if scores["support"]])),
        "per_emotion": per_emotion,
        "confusion_matrix": confusion_matrix(truth, named, labels=range(len(emotions))).tolist(),
        "expected_calibration_error": expected_calibration_error(answers.confidence, right),
        "log_loss": float(log_loss(truth, summing_to_one, labels=range(len(emotions)))),
    }
    if answers.with_flip is not None:
        named, confidence = answers.with_flip.argmax(axis=1), answers.with_flip.max(axis=1)
        shown = np.unique(truth)
        result["accuracy_with_flip"] = float(np.mean(named == truth))
        result["macro_f1_with_flip"] = float(f1_score(truth, named, labels=shown, average="macro", zero_division=0))
        result["expected_calibration_error_with_flip"] = expected_calibration_error(confidence, named == truth)
    return result


def wilson_interval(successes, trials, confidence=0.95):
    """Compute Wilson's score interval of a proportion (1927, J. Am. Stat. Assoc. 22).

    Args:
        successes: from 0 to `trials`.
        trials: at least 1.
        confidence: that the interval holds the true proportion.

    Returns:
        (low, high), each from 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def bin_by_confidence(confidence, right, bins=calibration_bins):
    """Put answers into bins of equal width, each with its upper edge.

    Args:
        confidence: float (n,), from 0 to 1.
        right: bool (n,).
        bins: how many.

    Returns:
        (bins,) each: answers, right answers, sum of confidences.
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    return tuple(np.bincount(places, weights, bins) for weights in (None, right, confidence))


def expected_calibration_error(confidence, right, bins=calibration_bins):
    """Average how far confidence is from accuracy in each bin (Guo et al. 2017, arXiv:1706.04599, equation 3).

    Args:
        confidence, right, bins: as `bin_by_confidence`.

    Returns:
        float: 0 where answers of every confidence are right just as often.
    """
    _, hits, confidences = bin_by_confidence(confidence, right, bins)
    return float(np.abs(hits - confidences).sum() / len(right))


def measure_heat_maps(answers, count):
    """Measure what the live script's heat maps are worth: how much a label loses where they say that it was seen.

    Parts of a face are hidden by filling them in from what surrounds them (Telea 2004, as in OpenCV).

    Args:
        answers: `Answers` of one network.
        count: of the faces, drawn at random, always the same.

    Returns:
        dict: `faces`; `probability`, the mean of the labels given; what it loses on average with a fifth of the face
        hidden, `lost_hottest`, the hottest, `lost_elsewhere`, the same shape mirrored and moved to five other places,
        `lost_middle`, a square in the middle.
    """
    from models.classifier import EmotionClassifier

    classify = EmotionClassifier([answers.path])
    chosen = np.sort(np.random.default_rng(0).permutation(len(answers.faces.images))[:count])
    given, lost = [], {"hottest": [], "elsewhere": [], "middle": []}
    for face in answers.faces.images[chosen]:
        image = cv2.cvtColor(face, cv2.COLOR_GRAY2BGR)
        height, width = face.shape[:2]
        box = np.array([[0, 0, width, height]])
        (probabilities,) = classify(image, box)
        label = probabilities.argmax()
        (heat,) = classify.heat_maps(image, box, [label])
        hot = hottest_fifth(cv2.resize(heat, (width, height)))
        hidden = {"hottest": [hot], "elsewhere": moved_elsewhere(hot), "middle": [middle_fifth(hot.shape)]}
        for name, masks in hidden.items():
            filled = [cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA) for mask in masks]
            left = np.mean([classify(each, box)[0, label] for each in filled])
            lost[name].append(probabilities[label] - left)
        given.append(probabilities[label])
    means = {f"lost_{name}": float(np.mean(each)) for name, each in lost.items()}
    return {"faces": len(given), "probability": float(np.mean(given))} | means


def hottest_fifth(heat):
    """bool (h, w), true in the fifth of a heat map that is hottest."""
    mask = np.zeros(heat.shape, bool)
    mask.ravel()[np.argsort(-heat, axis=None, kind="stable")[: heat.size // 5]] = True
    return mask


def moved_elsewhere(mask):
    """A mask (h, w) mirrored and moved, round the edges, by thirds and halves of its size: five such."""
    height, width = mask.shape
    places = ((1 / 3, 1 / 3), (2 / 3, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 2 / 3), (1 / 2, 0))
    return [np.roll(mask, (int(y * height), int(x * width)), (0, 1))[:, ::-1] for y, x in places]


def middle_fifth(size):
    """bool (h, w), true in a rectangle in the middle that covers a fifth."""
    mask = np.zeros(size, bool)
    top, left = (round(side * (1 - math.sqrt(0.2)) / 2) for side in size)
    mask[top : size[0] - top, left : size[1] - left] = True
    return mask


# ------------------------------------------------------------------------------------------------------------- words
def describe_split(faces):
    """The split, its size and what Training has of it, as one line."""
    known = "no Training to look for duplicates in"
    if faces.in_training is not None:
        known = f"{faces.in_training.sum():,} of them, byte for byte, in Training too"
    return f"{faces.split}: {len(faces.images):,} faces, {known}"


def format_table(result):
    """Precision, recall, F1 and number of faces of every emotion."""
    lines = [
        f"{_name(result)}: {result['parameters']:,} parameters",
        f"{'':<12}{'precision':>10}{'recall':>10}{'F1':>10}{'faces':>8}",
    ]
    for emotion, scores in result["per_emotion"].items():
        *shares, support = scores.values()
        cells = "".join(f"{'absent' if share is None else format(share, '.1%'):>10}" for share in shares)
        lines.append(f"{emotion:<12}{cells}{support:>8,}")
    return "\n".join([*lines, f"{'macro mean':<12}{'':>20}{result['macro_f1']:>10.1%}{result['images']:>8,}"])


def summary(result):
    """A network's figures as one line."""
    low, high = result["accuracy_ci95"]
    unseen = result["accuracy_without_training_duplicates"]
    parts = [f"{_name(result)}: {result['accuracy']:.2%} right (95% interval {low:.1%} to {high:.1%})"]
    parts += [f"{unseen:.2%} without Training's duplicates"] if unseen is not None else []
    parts += [f"macro-F1 {result['macro_f1']:.1%}", f"calibration error {result['expected_calibration_error']:.1%}"]
    parts += [f"log loss {result['log_loss']:.3f}"]
    if "accuracy_with_flip" in result:
        flipped = (result[f"{name}_with_flip"] for name in ("accuracy", "macro_f1", "expected_calibration_error"))
        parts += ["with flip {:.2%}, macro-F1 {:.1%}, calibration error {:.1%}".format(*flipped)]
    if maps := result.get("heat_maps"):
        text = "of {probability:.2f}, the label loses {lost_hottest:.2f} with the hottest fifth of a face hidden, "
        text += "{lost_elsewhere:.2f} with as much elsewhere, {lost_middle:.2f} with the middle ({faces:,} faces)"
        parts += [text.format(**maps)]
    return ", ".join(parts)


def _name(result):
    """A network as tables name it."""
    return result["path"] if isinstance(result["path"], str) else f"ensemble of {len(result['path'])}"


# ---------------------------------------------------------------------------------------------------------- pictures
def draw_confusion_matrix(answers, result):
    """Draw which emotions are taken for which: shares of each true emotion, and numbers of faces.

    Args:
        answers: `Answers`.
        result: what `measure` says of them.

    Returns:
        `matplotlib.figure.Figure`.
    """
    counts = np.array(result["confusion_matrix"])
    totals = counts.sum(axis=1)
    side = max(5, 2 + 0.8 * len(counts))  # inches; the title has a file's name in it
    figure = _figure(result, (side, side), f"{result['accuracy']:.1%} of {result['images']:,} faces right")
    axes = figure.subplots()
    shares = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(np.where(totals[:, None], shares, np.nan), "cividis", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if totals[row]:
            text = f"{share:.0%}\n{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color="black" if share > 0.5 else "white")
    ticks = range(len(counts))
    axes.set(xticks=ticks, xticklabels=answers.emotions, yticks=ticks, xlabel="named", ylabel="true")
    axes.set_yticklabels(
        f"{emotion}\n{n:,}" if n else f"{emotion}\nabsent" for emotion, n in zip(answers.emotions, totals, strict=True)
    )
    axes.tick_params(length=0)
    return figure


def draw_reliability(answers, result):
    """Draw how often answers are right, by how sure they were, and how many were how sure (Guo et al. 2017).

    Args, Returns: as `draw_confusion_matrix`.
    """
    confidence, right = answers.confidence, answers.named == answers.truth
    count, hits, _ = bin_by_confidence(confidence, right)
    width, filled = 1 / len(count), count > 0
    middle = (np.arange(len(count)) + 0.5) * width
    intervals = np.array([wilson_interval(*pair) for pair in zip(hits[filled], count[filled], strict=True)])

    figure = _figure(result, (6, 7.5), f"expected calibration error {result['expected_calibration_error']:.1%}")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.bar(middle, hits / np.maximum(count, 1), width, color=SKY, edgecolor="white", label="right answers")
    top.vlines(middle[filled], *intervals.T, color="black", label="95% interval")
    top.plot((0, 1), (0, 1), "--", color=VERMILLION, label="right as often as sure")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of answers that are right")
    top.legend(loc="upper left", frameon=False)
    bottom.bar(middle, count / len(right), width, color=SKY, edgecolor="white")
    bottom.axvline(right.mean(), color="black", label=f"accuracy {right.mean():.1%}")
    bottom.axvline(
        confidence.mean(), linestyle="--", color=VERMILLION, label=f"mean confidence {confidence.mean():.1%}"
    )
    bottom.set(xlabel="confidence, the probability of the emotion named", ylabel="share of faces")
    bottom.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0)
    for axis in (top.yaxis, bottom.yaxis, bottom.xaxis):
        axis.set_major_formatter("{x:.0%}")
    return figure


def draw_mistakes(answers, result):
    """Draw the faces whose wrong answers were surest: what was named above, the label below.

    Args, Returns: as `draw_confusion_matrix`.
    """
    truth, named, confidence = answers.truth, answers.named, answers.confidence
    wrong = np.flatnonzero(named != truth)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:mistakes_shown]
    columns = 6
    rows = max(1, math.ceil(len(surest) / columns))
    text = f"{len(surest)} surest of {len(wrong):,} wrong answers" if len(wrong) else "no wrong answers"
    figure = _figure(result, (1.7 * columns, 0.8 + 2.1 * rows), text)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells[len(surest) :]:
        cell.axis("off")
    for cell, index in zip(cells, surest, strict=False):
        cell.imshow(answers.faces.images[index, ..., 0], "gray", vmin=0, vmax=255)
        cell.set(xticks=[], yticks=[])
        cell.set_title(f"{answers.emotions[named[index]]} {confidence[index]:.1%}", color=VERMILLION, fontsize=11)
        cell.set_xlabel(f"labelled {answers.emotions[truth[index]]}", color=BLUE, fontsize=11)
    return figure


def _figure(result, size, text):
    """An empty figure, width and height in inches, under a title that says what was measured."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=size, layout="constrained")
    name = Path(result["path"]).name if isinstance(result["path"], str) else _name(result)
    figure.suptitle(f"{name}, {result['split']}\n{text}", fontsize=12)
    return figure


if __name__ == "__main__":
    sys.exit(exit_status(main))
