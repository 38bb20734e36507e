"""What a network learns from: faces, labels, held-out parts, teachers, and augmented batches."""

import math
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import keras
import numpy as np

from command_line import UserError
from face_files.votes import VOTE_LABELS, people_shares
from load_and_process import (
    Dataset,
    Split,
    find_duplicates,
    join_votes,
    load_fer2013_data,
    preprocess_images,
    stratified_split,
)
from models.classifier import EmotionClassifier
from training.disturbances import disturb
from training.hosts import short_hash

PREDICTED_AT_ONCE = 256  # faces
BATCHES_AHEAD = 10  # batches that are prepared before their step


class TrainingData(NamedTuple):
    """A data set, divided into what a network learns from and what is held out."""

    emotions: tuple[str, ...]
    faces: np.ndarray  # uint8 (n, height, width, 1), of the Training split
    labels: np.ndarray  # float32 (n, emotions), rows summing to 1
    train_indices: np.ndarray  # int (m,), the faces to learn from, without held-out faces and without their copies
    # With votes "people", the emotions of these three splits are people's shares, float32 (k, emotions).  Only faces
    # are kept in which one of the emotions has more votes than any other answer.
    validation: Split  # chooses the best epoch
    validation_name: str  # in print
    calibration: Split  # the temperature is fitted on it; empty for small data
    test: Split | None  # PrivateTest
    test_name: str  # in print
    facts: dict  # see `describe_data`


def load_training_data(
    dataset: str | Path,
    image_size: tuple[int, int],
    *,
    votes: Path | None,
    votes_as: str,
    votes_share: float,
    drop_no_face: bool,
    validation_fraction: float,
    calibration_fraction: float,
    largest_held_out: int,
    smallest_calibration: int,
) -> TrainingData:
    """Load a data set, label its faces, and hold parts out.

    Args:
        dataset, image_size: As `load_fer2013_data` takes them.
        votes: FER+'s fer2013new.csv, or None.
        votes_as, votes_share: As `make_labels` takes them.
        drop_no_face: Leave out the images in which "no face" has the most votes.
        validation_fraction, calibration_fraction, largest_held_out, smallest_calibration: As `hold_out` takes them.

    Raises:
        UserError: The data can't be read, or there is too little to train on.
    """
    data, votes_by_split = load_fer2013_data(dataset, image_size), {}
    if votes:
        data, votes_by_split = join_votes(data, votes, votes_as in ("hard", "soft"), drop_no_face)
    data = data.drop_unused_labels()
    shown_votes = votes_by_split if votes_as == "people" else {}
    train_indices, validation, validation_name, calibration = hold_out(
        data, validation_fraction, calibration_fraction, largest_held_out, smallest_calibration, shown_votes
    )
    labels = make_labels(data, votes_by_split.get("Training"), votes_as, votes_share)
    return TrainingData(
        data.emotions,
        data["Training"].faces,
        labels,
        train_indices,
        validation,
        validation_name,
        calibration,
        _as_people_see(data, "PrivateTest", shown_votes) if "PrivateTest" in data else None,
        data.titles.get("PrivateTest", "PrivateTest"),
        describe_data(data, labels, train_indices),
    )


def hold_out(
    data: Dataset,
    validation_fraction: float,
    calibration_fraction: float,
    largest_held_out: int,
    smallest_calibration: int,
    votes: dict[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, Split, str, Split]:
    """Divide a data set into faces to learn from, to validate on, and to fit the temperature on.

    Validation is PublicTest, or else a stratified part of Training.  The temperature is fitted on a stratified part of
    Training too.  All seeds hold out the same part: otherwise a run could --start-from weights that have learnt from
    the faces that it holds out.

    Args:
        data: With a Training split.
        validation_fraction: Part of Training that is held out where there is no PublicTest.
        calibration_fraction: Part of Training that is held out to fit the temperature on.  Without a PublicTest, the
            temperature is fitted on the validation part.  0: no calibration.
        largest_held_out: Faces in either part, at most.
        smallest_calibration: Faces; a smaller part is not worth fitting a temperature on.
        votes: FER+'s votes on each split.  With votes, the held-out parts have people's shares as their emotions, see
            `TrainingData`.

    Returns:
        (indices of Training to learn from, validation split, its name, calibration split, which may be empty).

    Raises:
        UserError: There is no Training split, not enough of an emotion in it, or nothing to validate on.
    """
    if "Training" not in data:
        raise UserError(f"training needs a Training split; the data set has {', '.join(data) or 'no images'}")
    train, has_public_test = data["Training"], "PublicTest" in data
    if len(data.emotions) < 2:
        raise UserError(f"training needs two emotions to tell apart; found only {data.emotions[0]}: add another")
    for emotion, count in zip(data.emotions, np.bincount(train.emotions, minlength=len(data.emotions)), strict=True):
        if count < 2:
            raise UserError(
                f"every emotion needs two Training images at least; {emotion} has {count}: add images of it, or take "
                "it out of all splits"
            )
    fraction = calibration_fraction if has_public_test else validation_fraction
    fraction = min(fraction, largest_held_out / len(train.faces))
    everything, nothing = np.arange(len(train.faces)), np.arange(0)
    kept, held_out = stratified_split(train.emotions, fraction, seed=0) if fraction else (everything, nothing)
    if has_public_test and len(held_out) < smallest_calibration:
        kept, held_out = everything, nothing
    part = _as_people_see(data, "Training", votes, held_out)
    kept = kept[~find_duplicates(train.faces, part.faces)[kept]]  # FER2013 repeats some of its images
    if has_public_test:
        return kept, _as_people_see(data, "PublicTest", votes), data.titles["PublicTest"], part
    if not len(held_out):
        raise UserError(f"{len(train.faces)} Training images are too few to hold any out for validation; add more")
    calibrates = calibration_fraction > 0 and len(held_out) >= smallest_calibration
    calibration = part if calibrates else Split(part.faces[:0], part.emotions[:0])
    return kept, part, f"{100 * fraction:.3g}% of Training", calibration


def _as_people_see(data, name, votes, indices=None):
    """Return (some faces of) a split, and, given the votes of each split, people's shares in place of its emotions."""
    faces, emotions = data[name]
    if not votes and indices is None:
        return data[name]
    indices = np.arange(len(faces)) if indices is None else indices
    if votes:
        shares, clear = people_shares(votes[name], data.emotions)
        indices, emotions = indices[clear[indices]], shares
    return Split(np.array(faces[indices]), emotions[indices])


def make_labels(data: Dataset, votes: np.ndarray | None, votes_as: str, votes_share: float) -> np.ndarray:
    """Make the labels of the Training split.

    Args:
        data: With a Training split.
        votes: Of FER+ on its faces, float32 (n, 10), as `load_votes` gives them; None: labels are one-hot.
        votes_as: "hard": one-hot labels.  "soft": each face's shares of votes.  "share": FER2013's one-hot label, mixed
            with the label that a FER2013 annotator would probably have given.  FER2013's labels are those of single
            annotators; a logistic regression, fitted to all of Training, predicts such a label from ten people's votes.
            "people": FER2013's one-hot label, mixed with the shares of people who saw each of the data's emotions; a
            face in which nobody saw any of them keeps its label.
        votes_share: Share of the predicted label with "share", of people's with "people", from 0 to 1.

    Returns:
        float32 (n, emotions), rows summing to 1.
    """
    train = data["Training"]
    labels = np.eye(len(data.emotions), dtype=np.float32)[train.emotions]
    if votes is None or votes_as == "hard":
        return labels
    if votes_as == "soft":
        shares = votes[:, [VOTE_LABELS.index(emotion) for emotion in data.emotions]]
        return shares / shares.sum(axis=1, keepdims=True)
    if votes_as == "people":
        shares, _ = people_shares(votes, data.emotions)
        return labels + np.float32(votes_share) * np.where(shares.any(axis=1, keepdims=True), shares - labels, 0)
    from sklearn.linear_model import LogisticRegression  # here: it takes a second to import

    annotator = LogisticRegression(max_iter=1000).fit(votes, train.emotions)
    predicted = np.zeros_like(labels)
    predicted[:, annotator.classes_] = annotator.predict_proba(votes)
    return labels + np.float32(votes_share) * (predicted - labels)


def describe_data(data: Dataset, labels: np.ndarray, train_indices: np.ndarray) -> dict:
    """Describe a data set, so that hosts and a resumed run can compare theirs.

    Args:
        data: With a Training split.
        labels: float32 (n, emotions), of Training.
        train_indices: int (m,), the faces of Training to learn from.

    Returns:
        dict for JSON: the emotions; of each split the faces per emotion, and a hash of all its faces and emotions; a
        hash of `labels` and `train_indices`.
    """
    facts = {"emotions": list(data.emotions), "splits": list(data)}
    for name, (faces, emotions) in data.items():
        for number, emotion in enumerate(data.emotions):
            facts[f"number of {emotion} faces in {name}"] = int((emotions == number).sum())
        facts[f"every face in {name}"] = short_hash(emotions.tobytes(), _checksum(faces))
    return facts | {"labels": short_hash(labels.tobytes(), train_indices.tobytes())}


def _checksum(faces):
    """Return a CRC of all faces, 4 bytes; a few megabytes at a time are in memory."""
    checksum, step = 0, max(1, 2**23 // max(1, faces[:1].nbytes))
    for start in range(0, len(faces), step):
        checksum = zlib.crc32(np.ascontiguousarray(faces[start : start + step]), checksum)
    return checksum.to_bytes(4, "big")


# ----------------------------------------------------------------------------------------------------------
# Augmentation


class Augmentation(NamedTuple):
    """Bounds of the random transforms, which are sampled anew for each face in each epoch."""

    flip: bool = True  # mirror half of the faces
    rotation: float = 10.0  # up to +- degrees
    zoom: float = 0.10  # up to +- share of the size
    shift: float = 0.06  # up to +- share of the width and height
    contrast: float = 0.20  # up to +- share
    brightness: float = 0.10  # up to +- of the [-1, 1] range
    erasing: float = 0.10  # share of faces that lose one random rectangle
    strength: float = 1.0  # multiplies all of these but `flip`
    disturbances: float = 0.0  # share of faces that get one of `training.disturbances.KINDS`


def augment(faces: np.ndarray, rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    """Flip, rotate, zoom and shift faces, disturb some, change contrast and brightness, erase rectangles.

    Args:
        faces: uint8 (n, h, w, c).
        rng: Random generator.
        augmentation: Bounds of the transforms.

    Returns:
        float32 (n, h, w, c) in [-1, 1].
    """
    return apply_transforms(faces, sample_transforms(len(faces), faces.shape[1:3], rng, augmentation))


def sample_transforms(
    n: int, size: tuple[int, int], rng: np.random.Generator, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """Sample what is to happen to each of n faces.

    Args:
        n: Number of faces.
        size: Their height and width in pixels.
        rng, augmentation: As `augment` takes them.

    Returns:
        Arrays with one row per face, so that `apply_transforms` can be given some of the faces and their rows:
        "matrix" (n, 2, 3), the inverse affine matrix for `cv2.warpAffine`; "contrast" and "brightness" (n, 1, 1, 1);
        "erased" bool (n,); "rectangle" int (n, 4), top, left, bottom, right; "filling" (n,) in [-1, 1]; with
        disturbances also "disturbed" bool (n,) and "disturbance_seed" int (n,).
    """
    (height, width), bounds, strength = size, augmentation, augmentation.strength
    angle = strength * np.deg2rad(rng.uniform(-bounds.rotation, bounds.rotation, n))
    scale = 1 + strength * rng.uniform(-bounds.zoom, bounds.zoom, n)
    mirror = np.where(rng.random(n) < 0.5 * bounds.flip, -1, 1)
    moved = strength * rng.uniform(-bounds.shift, bounds.shift, (n, 2)) * (width, height)
    # (n, 2, 3): where in the source each pixel of the result comes from, about the centre of the face
    matrix = np.empty((n, 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = np.cos(angle) * scale * mirror, -np.sin(angle) * scale
    matrix[:, 1, 0], matrix[:, 1, 1] = np.sin(angle) * scale * mirror, np.cos(angle) * scale
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix[:, :, 2] = centre + moved - matrix[:, :, :2] @ centre
    transforms = {
        "matrix": matrix,
        "contrast": 1 + strength * rng.uniform(-bounds.contrast, bounds.contrast, (n, 1, 1, 1)).astype(np.float32),
        "brightness": strength * rng.uniform(-bounds.brightness, bounds.brightness, (n, 1, 1, 1)).astype(np.float32),
        "erased": rng.random(n) < strength * bounds.erasing,
    }
    sides = (rng.uniform(0.15, 0.4, (n, 2)) * size).astype(int)
    corner = (rng.random((n, 2)) * (size - sides + 1)).astype(int)
    # (n, 4): top, left, bottom, right
    transforms |= {"rectangle": np.hstack([corner, corner + sides]), "filling": rng.uniform(-1, 1, n)}
    if bounds.disturbances:
        transforms["disturbed"] = rng.random(n) < bounds.disturbances
        transforms["disturbance_seed"] = rng.integers(2**63, size=n)
    return transforms


def apply_transforms(faces: np.ndarray, transforms: dict[str, np.ndarray]) -> np.ndarray:
    """Transform faces, uint8 (n, h, w, c), as `sample_transforms` says; float32 (n, h, w, c) in [-1, 1]."""
    _, height, width, channels = faces.shape
    warped = np.empty_like(faces)
    for face, matrix, result in zip(faces, transforms["matrix"], warped, strict=True):
        result[:] = cv2.warpAffine(
            face,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(height, width, channels)
    for i in np.flatnonzero(transforms.get("disturbed", ())):
        warped[i] = disturb(warped[i], transforms["disturbance_seed"][i])
    images = preprocess_images(warped)
    images *= transforms["contrast"]
    images += transforms["brightness"]
    np.clip(images, -1, 1, out=images)

    for i in np.flatnonzero(transforms["erased"]):
        top, left, bottom, right = transforms["rectangle"][i]
        images[i, top:bottom, left:right] = transforms["filling"][i]
    return images


# ----------------------------------------------------------------------------------------------------------
# Batches


class AugmentedFaces(keras.utils.PyDataset):
    """Batches of augmented faces, float32 (b, h, w, c) in [-1, 1], with labels float32 (b, emotions).

    Order and augmentation follow from (seed, epoch, batch), so a resumed run sees what an unbroken run would have seen.
    The last faces of an epoch's order, too few for a batch, are left out of that epoch.

    Args:
        faces: uint8 (n, h, w, c), in memory or mapped from a file.
        labels: float32 (n, emotions).
        train_indices: int (m,), the faces to learn from.
        batch_size: Faces in a batch; all m where they are fewer.
        seed: Of order and augmentation.
        augmentation: Bounds of the random transforms.
        mixup: Alpha of mixup: each face and its label are blended with another face of the batch and its label.  The
            shares are drawn from Beta(alpha, alpha), and a face's own share is the larger one.  0: no blending.
            Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
        shard: (i, n): give the i-th of n equal parts of each batch, transformed as in the whole batch.

    Attributes:
        epoch: The epoch, from 0, whose batches are given.
    """

    def __init__(
        self,
        faces: np.ndarray,
        labels: np.ndarray,
        train_indices: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        mixup: float = 0.0,
        shard: tuple[int, int] = (0, 1),
    ):
        super().__init__()
        # On TensorFlow its pipeline prepares batches early.  Elsewhere threads of our own do so: Keras's workers would
        # give the first batches, at which `fit` has looked to build the network, once more in place of the next ones.
        self._threads, self._ahead = None, {}
        if keras.backend.backend() != "tensorflow":
            self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.faces, self.labels, self.train_indices, self.seed = faces, labels, train_indices, seed
        self.augmentation, self.mixup = augmentation, mixup
        self.batch_size, self.shard = min(batch_size, len(train_indices)), shard
        self.epoch, self._order = 0, (None, None)

    def __len__(self) -> int:
        return len(self.train_indices) // self.batch_size

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        if not self._threads:
            return self._make(self.epoch, batch)
        self._ahead = {key: ahead for key, ahead in self._ahead.items() if key[0] == self.epoch and key[1] >= batch}
        for number in range(batch, min(batch + BATCHES_AHEAD, len(self))):
            if (self.epoch, number) not in self._ahead:
                self._ahead[self.epoch, number] = self._threads.submit(self._make, self.epoch, number)
        return self._ahead.pop((self.epoch, batch)).result()

    def _make(self, epoch, batch):
        ordered_epoch, order = self._order
        if ordered_epoch != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.train_indices)
            self._order = epoch, order
        indices = np.sort(order[batch * self.batch_size : (batch + 1) * self.batch_size])  # as they lie in a file
        rng = np.random.default_rng((self.seed, epoch, batch))
        images, labels = self._augmented(indices, rng)
        if not self.mixup:
            return images, labels
        partners = rng.permutation(indices)
        share = rng.beta(self.mixup, self.mixup, len(indices)).astype(np.float32)
        share = np.maximum(share, 1 - share)[self._shard_of(indices), None]
        partner_images, partner_labels = self._augmented(partners, rng)
        image_share = share[..., None, None]
        return (
            image_share * images + (1 - image_share) * partner_images,
            share * labels + (1 - share) * partner_labels,
        )

    def _shard_of(self, indices):
        number, count = self.shard
        return slice(number * len(indices) // count, (number + 1) * len(indices) // count)

    def _augmented(self, indices, rng):
        """Return this shard's part of the faces, transformed, and their labels."""
        transforms = sample_transforms(len(indices), self.faces.shape[1:3], rng, self.augmentation)
        part = self._shard_of(indices)
        images = apply_transforms(self.faces[indices[part]], {name: rows[part] for name, rows in transforms.items()})
        return images, self.labels[indices[part]]


class PlainFaces(keras.utils.PyDataset):
    """Batches of the faces and emotions, or labels, of a `Split`: networks are validated on them, not augmented."""

    def __init__(self, split: Split):
        super().__init__()
        self.split = split

    def __len__(self) -> int:
        return math.ceil(len(self.split.faces) / PREDICTED_AT_ONCE)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(batch * PREDICTED_AT_ONCE, (batch + 1) * PREDICTED_AT_ONCE)
        return preprocess_images(self.split.faces[part]), self.split.emotions[part]


# ----------------------------------------------------------------------------------------------------------
# Teachers


def check_teachers(paths: Sequence[Path], emotions: tuple[str, ...], image_size: tuple[int, int]) -> None:
    """See that checkpoints can teach a network.

    Raises:
        UserError: A checkpoint is missing, can't be run, or takes other faces or names other emotions.
    """
    teacher = EmotionClassifier(paths)
    if teacher.emotions != emotions or teacher.sizes != (image_size,):
        raise UserError(
            f"a teacher must name {', '.join(emotions)} in faces of the size trained on, {image_size}; found "
            f"{', '.join(teacher.emotions)} in {' and '.join(map(str, teacher.sizes))}: take another --teacher"
        )


def blend_teacher_labels(
    labels: np.ndarray,
    faces: np.ndarray,
    train_indices: np.ndarray,
    *,
    paths: Sequence[Path],
    share: float,
    views: int,
    augmentation: Augmentation,
    seed: int,
) -> np.ndarray:
    """Blend what teachers predict into the labels, so that a network learns to predict like them (distillation).

    A prediction is the mean over all teachers and over some augmented views of a face: on such views a teacher is less
    certain of a label that it has learnt by heart.  The views are not disturbed: what a teacher sees in a clear face is
    the label of the disturbed one, too.  Each face is predicted once: predicting again in every epoch took
    longer than training a small network.
    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), arXiv:1503.02531.

    Args:
        labels: float32 (n, emotions).
        faces: uint8 (n, h, w, 1).
        train_indices: int (m,), the faces whose labels change.
        paths: Checkpoints that `check_teachers` accepts.
        share: Of each new label that is the prediction, from 0 to 1; the rest is the old label.
        views: Of each face.
        augmentation: Bounds of the transforms of the views.
        seed: Of the transforms.

    Returns:
        float32 (n, emotions); `labels` itself is unchanged.
    """
    of_thread = threading.local()  # LiteRT serves one thread at a time
    augmentation = augmentation._replace(disturbances=0.0)

    def predict(indices):
        if not hasattr(of_thread, "teacher"):
            of_thread.teacher = EmotionClassifier(paths)
        some_faces, rng = faces[indices], np.random.default_rng((seed, indices[0]))
        return np.mean(
            [of_thread.teacher.predict(augment(some_faces, rng, augmentation)) for _ in range(views)], axis=0
        )

    labels = labels.copy()
    groups = np.split(train_indices, range(PREDICTED_AT_ONCE, len(train_indices), PREDICTED_AT_ONCE))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for indices, predicted in zip(groups, threads.map(predict, groups), strict=True):
            labels[indices] += np.float32(share) * (predicted - labels[indices])
    return labels
