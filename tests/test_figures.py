"""Tests of evaluation/figures.py: figures worked out by hand."""

import numpy as np
import pytest

from evaluate_emotion_classifier import format_disturbances, summary
from evaluation.figures import (
    expected_calibration_error,
    hottest_fifth,
    measure,
    measure_disturbances,
    middle_fifth,
    moved_elsewhere,
    wilson_interval,
)
from evaluation.predictions import EvaluationSplit, Predictions
from load_and_process import EMOTIONS

KEYS_OF_FLIP = {"accuracy_with_flip", "macro_f1_with_flip", "expected_calibration_error_with_flip"}
BINS = 15  # of confidence


def predictions_of(y_true, probabilities, emotions=("angry", "happy", "sad"), in_training=None, with_flip=None):
    """Predictions by hand: emotions by name, probabilities as rows; the pixels of a face are its number."""
    numbers = np.array([EMOTIONS.index(emotion) for emotion in y_true])
    faces = np.arange(len(numbers), dtype=np.uint8)[:, None, None, None] * np.ones((48, 48, 1), np.uint8)
    in_training = None if in_training is None else np.array(in_training)
    split = EvaluationSplit("PublicTest", faces, numbers, EMOTIONS, in_training)
    with_flip = None if with_flip is None else np.array(with_flip, float)
    return Predictions("some/net.hdf5", "net", 10, tuple(emotions), split, np.array(probabilities, float), with_flip)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_interval(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("confidence", "correct", "error"),
    [
        ([0.95, 0.95, 0.55, 0.55], [1, 0, 1, 1], (0.9 + 0.9) / 4),
        ([0.15, 0.2], [0, 1], 0.65 / 2),  # one bin: 0.2 is the upper edge of the third
        ([0.15, 0.201], [0, 1], (0.15 + 0.799) / 2),  # two bins
        ([0.0, 1.0], [0, 1], 0),
        ([1.0, 1.0], [0, 0], 1),
    ],
)
def test_expected_calibration_error(confidence, correct, error):
    found = expected_calibration_error(np.array(confidence), np.array(correct, bool), BINS)
    assert found == pytest.approx(error)


def test_figures_of_a_small_example():
    rows = [[0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7], [0.1, 0.3, 0.6]]  # happy, happy, sad, sad
    predictions = predictions_of(["happy", "happy", "happy", "sad"], rows, in_training=[True, False, False, False])
    result = measure(predictions, BINS)
    assert result["accuracy"] == 0.75 and result["images"] == 4
    assert result["accuracy_ci95"] == pytest.approx(wilson_interval(3, 4))
    assert result["accuracy_without_training_duplicates"] == pytest.approx(2 / 3)
    assert result["confusion_matrix"] == [[0, 0, 0], [0, 2, 1], [0, 0, 1]]
    assert result["per_emotion"] == {
        "angry": {"precision": None, "recall": None, "f1": None, "support": 0},
        "happy": {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3},
        "sad": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
    }
    assert result["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)  # angry never occurs, and is no part of it
    # 0.8, and 0.7 alone in their bins; 0.6 is the upper edge of the ninth bin
    assert result["expected_calibration_error"] == pytest.approx((0.2 + 0.7 + 0.8) / 4)
    assert result["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.2, 0.6]).mean())
    assert "log loss 0.714" in summary(result)


def test_emotions_that_are_never_predicted_and_those_that_never_occur():
    rows = [[0.9, 0.1, 0], [0, 1, 0], [0.8, 0.2, 0]]  # angry, happy, angry
    result = measure(predictions_of(["happy", "happy", "sad"], rows), BINS)
    assert result["per_emotion"]["sad"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert result["per_emotion"]["angry"]["precision"] is None  # predicted, but wrong
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert 10 < result["log_loss"] < np.inf  # sad was given no probability at all


@pytest.mark.parametrize("in_training", [None, [True, True]])
def test_accuracy_without_duplicates_is_null_where_nothing_is_left(in_training):
    result = measure(predictions_of(["happy", "sad"], np.eye(3)[[1, 2]], in_training=in_training), BINS)
    assert result["accuracy_without_training_duplicates"] is None
    assert "duplicates" not in summary(result)


def test_flip_is_reported_apart():
    rows, flipped = [[0, 0.6, 0.4], [0, 0.6, 0.4]], [[0, 0.6, 0.4], [0, 0.4, 0.6]]
    result = measure(predictions_of(["happy", "sad"], rows, with_flip=flipped), BINS)
    assert (result["accuracy"], result["accuracy_with_flip"]) == (0.5, 1.0)
    assert (result["macro_f1"], result["macro_f1_with_flip"]) == (pytest.approx(1 / 3), 1.0)  # angry never occurs
    assert result["expected_calibration_error"] == pytest.approx(0.1)
    assert result["expected_calibration_error_with_flip"] == pytest.approx(0.4)
    assert summary(result).endswith("with flip 100.00%, macro-F1 100.0%, calibration error 40.0%")
    assert not KEYS_OF_FLIP & measure(predictions_of(["happy", "sad"], rows), BINS).keys()


def test_at_most_500_right_faces_are_followed(monkeypatch):
    predictions = predictions_of(["happy"] * 6, [[0, 1, 0]] * 4 + [[1, 0, 0]] * 2)
    wrong, unchanged = np.tile([1.0, 0, 0], (6, 1)), predictions.probabilities
    for limit, kept_of in ((500, 4), (3, 3)):
        monkeypatch.setattr("evaluation.figures.FOLLOWED_FACES", limit)
        figures = measure_disturbances(predictions._replace(disturbed={"a": wrong, "b": unchanged}))
        assert figures["a"] == {"accuracy": 0, "kept": 0, "kept_of": kept_of}
        assert figures["b"] == {"accuracy": pytest.approx(4 / 6), "kept": 1, "kept_of": kept_of}
    none_right = predictions_of(["sad"], [[0, 1, 0]])
    none_right = none_right._replace(disturbed={"a": none_right.probabilities})
    result = measure(none_right, BINS)
    assert result["disturbances"] == {"a": {"accuracy": 0, "kept": None, "kept_of": 0}}
    assert format_disturbances(result).splitlines()[-1].endswith(" none")


def test_masks_of_a_fifth():
    heat = np.arange(40.0).reshape(5, 8)
    hottest = hottest_fifth(heat)
    np.testing.assert_array_equal(hottest, heat >= 32)
    assert hottest_fifth(np.zeros((48, 48))).sum() == 460  # a face without heat has no larger part
    for mask in moved_elsewhere(hottest):
        assert mask.sum() == 8 and not np.array_equal(mask, hottest)
    middle = middle_fifth((48, 64))
    assert middle.mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(middle, middle[::-1, ::-1])
