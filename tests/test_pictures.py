"""Tests of evaluation/pictures.py: what the pictures show."""

import numpy as np
import pytest
from test_figures import BINS, predictions_of

from evaluation.figures import measure
from evaluation.pictures import draw_confusion_matrix, draw_mistakes, draw_reliability


def test_confusion_matrix_shows_shares_of_the_true_emotion_and_counts():
    rows = np.eye(3)[[1, 1, 1, 2, 2]]
    predictions = predictions_of(["happy", "happy", "happy", "happy", "sad"], rows)
    (axes,) = draw_confusion_matrix(predictions, measure(predictions, BINS)).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 1): "0%\n0",
        (1, 1): "75%\n3",
        (2, 1): "25%\n1",
        (0, 2): "0%\n0",
        (1, 2): "0%\n0",
        (2, 2): "100%\n1",
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["angry\nabsent", "happy\n4", "sad\n1"]


def test_reliability_diagram_shows_accuracy_by_confidence():
    rows = [[0, 0.95, 0.05], [0, 0.95, 0.05], [0, 0.55, 0.45]]
    predictions = predictions_of(["happy", "sad", "happy"], rows)
    top, bottom = draw_reliability(predictions, measure(predictions, BINS), BINS).axes
    heights = [bar.get_height() for bar in top.patches]
    assert len(heights) == 15 and np.flatnonzero(heights).tolist() == [8, 14]
    assert (heights[8], heights[14]) == (1, 0.5)
    assert [bar.get_height() for bar in bottom.patches][14] == pytest.approx(2 / 3)


def test_mistakes_are_shown_most_confident_first():
    rows = [[0, 0.6, 0.4], [0, 0.9, 0.1], [0.3, 0, 0.7], [0, 0.2, 0.8]]
    predictions = predictions_of(["sad", "sad", "happy", "sad"], rows)
    figure = draw_mistakes(predictions, measure(predictions, BINS), 24)
    shown = [axes for axes in figure.axes if axes.images]
    assert [(axes.get_title(), axes.get_xlabel()) for axes in shown] == [
        ("happy 90.0%", "labelled sad"),
        ("sad 70.0%", "labelled happy"),
        ("happy 60.0%", "labelled sad"),
    ]
    assert [int(axes.images[0].get_array()[0, 0]) for axes in shown] == [1, 2, 0]  # the faces themselves
    assert "3 most confident of 3 wrong predictions" in figure.get_suptitle()


def test_no_mistakes_still_make_a_picture(tmp_path):
    predictions = predictions_of(["happy", "sad"], np.eye(3)[[1, 2]])
    figure = draw_mistakes(predictions, measure(predictions, BINS), 24)
    assert "no wrong predictions" in figure.get_suptitle()
    figure.savefig(tmp_path / "none.png")


def test_dollars_in_names_are_drawn_as_they_are(tmp_path):
    names = ("$angry", "$happy$", "sa$$d")
    predictions = predictions_of(["angry", "happy", "sad"], np.eye(3)[[1, 0, 2]])._replace(emotions=names)
    predictions = predictions._replace(split=predictions.split._replace(labels=names, emotions=np.arange(3)))
    predictions = predictions._replace(path="a$\\b$.hdf5")
    result = measure(predictions, BINS)
    for figure in (
        draw_confusion_matrix(predictions, result),
        draw_reliability(predictions, result, BINS),
        draw_mistakes(predictions, result, 24),
    ):
        figure.savefig(tmp_path / "figure.png")
