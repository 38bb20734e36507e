"""What is measured: the faces of a split, what networks predict for them, and the table of the predictions."""

import os
from collections.abc import Callable, Mapping, Sequence
from csv import writer as csv_writer
from pathlib import Path
from typing import NamedTuple

import numpy as np

from command_line import UserError, quiet_start
from face_files.images import decode_image
from face_files.labels import SPLIT_FOLDERS
from face_files.location import find_source
from face_files.votes import people_shares
from load_and_process import EMOTIONS, Dataset, Split, find_duplicates, join_votes, load_fer2013_data, preprocess_images
from models.checkpoint import Header, check_probabilities, load_checkpoint

# ----------------------------------------------------------------------------------------------------------
# The faces of a split


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
    # `join_votes` has left out some faces.  It joins once more, with numbers in place of faces: the numbers that stay
    # are those of the images that stay.
    if len(images) > len(data[split].faces):
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


def predict_disturbed(
    predictions: Predictions,
    header: Header,
    disturbances: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    batch_size: int,
) -> Predictions:
    """Predict the same faces with noise, blur and so on.

    Args:
        predictions: Of one network.
        header: What the checkpoint and the user say of the network.
        disturbances: By name, functions from faces, uint8 (n, h, w, 1), to disturbed faces of the same shape.
        batch_size: Faces per step.

    Returns:
        The predictions, with `disturbed`.
    """
    predict_proba, _ = _load_predictor(Path(predictions.path), header, predictions.emotions, batch_size)
    faces = predictions.split.faces
    disturbed = {name: predict_proba(disturb(faces)) for name, disturb in disturbances.items()}
    return predictions._replace(disturbed=disturbed)


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
                numbers = (f"{probability:.4f}" for probability in (confidence, *row))
                table.writerow([model, image, names[label], names[prediction], *numbers])
