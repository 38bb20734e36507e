"""The pictures of a network: its confusion matrix, its calibration, and its worst mistakes."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from command_line import new_figure
from evaluation.figures import bin_by_confidence, title_of, wilson_interval
from evaluation.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, SKY, VERMILLION = "#0072B2", "#56B4E9", "#D55E00"  # Okabe and Ito's, safe for colour-blind readers


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
    name = Path(result["path"]).name if isinstance(result["path"], str) else title_of(result)
    split = predictions.split.title or predictions.split.name
    figure.suptitle(f"{name}, {split}\n{text}", fontsize=12)
    return figure
