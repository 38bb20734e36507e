"""The figures of a network: accuracy and its interval, calibration, and the worth of heat maps."""

import math
from statistics import NormalDist

import cv2
import numpy as np

from evaluation.predictions import Predictions
from load_and_process import EMOTIONS
from models.checkpoint import RANGE, Header, read_header

FOLLOWED_FACES = 500  # at most: faces that a network names correctly, which are followed through the disturbances


def measure(predictions: Predictions, calibration_bins: int) -> dict:
    """Compute everything that `--json` writes about a network, except its heat maps.

    Args:
        predictions: Of the network or the ensemble.
        calibration_bins: Number of bins for the calibration error.

    Returns:
        Numbers, strings, lists and dicts.  Rows of `confusion_matrix` are the true emotions, columns the predicted
        ones, both in the order of `per_emotion`.  `log_loss` is the mean of -ln of the true emotions' probabilities.
        A figure is None where it can't be computed: the scores of an emotion that no face shows (`macro_f1` leaves
        that emotion out), and the accuracy without duplicates where there is no Training split or no other face.
        Figures whose names end in `_with_flip` are there with --flip, `labels` and `people_calibration_error` with
        --labels people, `disturbances` (see `measure_disturbances`) with --disturbances.
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
        correct: bool (n,), or float (n,): the share of people who agree with each prediction.
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
        correct: bool (n,), or float (n,): the share of people who agree with each prediction.
        bins: Number of bins.

    Returns:
        A number from 0 to 1; 0 where the accuracy in every bin equals the mean confidence.
    """
    _, correct_counts, confidence_sums = bin_by_confidence(confidence, correct, bins)
    return float(np.abs(correct_counts - confidence_sums).sum() / len(correct))


def title_of(result: dict) -> str:
    """Return what tables and pictures call a network.

    Args:
        result: As `measure` returns it.
    """
    return result["path"] if isinstance(result["path"], str) else f"ensemble of {len(result['path'])}"


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
