"""Tests of training/faces.py: held-out parts, labels, the pixels of augmentation, batches, and teachers."""

import hashlib
import json

import keras
import numpy as np
import pytest

from command_line import UserError
from face_files.labels import SPLITS
from face_files.votes import VOTE_COLUMNS, VOTE_LABELS
from load_and_process import EMOTIONS, Dataset, Split, preprocess_images
from models.checkpoint import save_checkpoint
from models.cnn import EMOTION_MAPS, NETWORKS
from training import disturbances
from training.disturbances import KINDS
from training.faces import (
    Augmentation,
    AugmentedFaces,
    augment,
    blend_teacher_labels,
    check_teachers,
    describe_data,
    hold_out,
    make_labels,
)

HOLD_OUT = {
    "validation_fraction": 0.1,
    "calibration_fraction": 0.03,
    "largest_held_out": 10_000,
    "smallest_calibration": 200,
}
BATCHES = {"batch_size": 8, "seed": 0, "augmentation": Augmentation()}
STILL = Augmentation(False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def numbered(emotions):
    """A split whose every face is another."""
    faces = np.zeros((len(emotions), 4, 4, 1), np.uint8)
    faces[:, 0, 0, 0] = np.arange(len(emotions))
    return Split(faces, np.array(emotions))


def random_faces(n=64, height=9, width=9):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 1), np.uint8)


def test_validates_on_public_test_where_there_is_one():
    data = Dataset({split: numbered([0, 0, 1, 1]) for split in SPLITS}).drop_unused_labels()
    train_indices, validation, name, calibration = hold_out(data, **HOLD_OUT)
    assert (train_indices.tolist(), validation, name) == ([0, 1, 2, 3], data["PublicTest"], "PublicTest")
    assert len(calibration.faces) == 0  # too few to fit anything to


def test_else_validates_on_a_stratified_tenth_of_training():
    data = Dataset({"Training": numbered([0, 3] * 3), "PublicTest": numbered([0])}, titles={"PublicTest": "val"})
    assert hold_out(data.drop_unused_labels(), **HOLD_OUT)[2] == "val"  # as its folder is called
    data = Dataset({"Training": numbered([0] * 100 + [3] * 30), "PrivateTest": numbered([0])}).drop_unused_labels()
    train_indices, validation, name, calibration = hold_out(data, **HOLD_OUT)
    assert name == "10% of Training"
    assert np.bincount(validation.emotions).tolist() == [10, 3]
    assert np.bincount(data["Training"].emotions[train_indices]).tolist() == [90, 27]
    assert sorted([*train_indices, *validation.faces[:, 0, 0, 0]]) == list(range(130))
    assert len(calibration.faces) == 0  # 13 faces are too few to fit anything to
    assert len(hold_out(data, **HOLD_OUT | {"smallest_calibration": 13})[3].faces) == 13
    without = {"smallest_calibration": 13, "calibration_fraction": 0}
    assert len(hold_out(data, **HOLD_OUT | without)[3].faces) == 0
    assert hold_out(data, **HOLD_OUT | {"validation_fraction": 0.025})[2] == "2.5% of Training"


def test_holds_out_faces_to_calibrate_on():
    settings = HOLD_OUT | {"smallest_calibration": 6, "calibration_fraction": 0.1}
    data = Dataset({"Training": numbered([0] * 40 + [3] * 20), "PublicTest": numbered([3])}).drop_unused_labels()
    train_indices, _, _, calibration = hold_out(data, **settings)
    assert len(train_indices) == 54
    data["Training"].faces[train_indices[:2]] = calibration.faces[0]  # copies of a held-out face are not learnt from
    train_indices, _, _, calibration = hold_out(data, **settings)
    assert np.bincount(calibration.emotions).tolist() == [4, 2]
    apart = {face.tobytes() for face in calibration.faces} & {
        data["Training"].faces[i].tobytes() for i in train_indices
    }
    assert not apart and len(train_indices) == 52
    assert len(hold_out(data, **settings | {"calibration_fraction": 0})[0]) == 60
    assert len(hold_out(data, **settings | {"smallest_calibration": 7})[0]) == 60
    assert len(hold_out(data, **settings | {"largest_held_out": 6, "calibration_fraction": 0.5})[3].faces) == 6


TOO_LITTLE = {
    "nothing": ({}, "needs a Training split"),
    "no Training": ({"PublicTest": numbered([1])}, "needs a Training split"),
    "one emotion": ({"Training": numbered([3, 3, 3, 3])}, "two emotions to tell apart; found only happy"),
    "a single image": ({"Training": numbered([0, 0, 0, 1])}, "two Training images at least; disgust has 1: add"),
    "none": (
        {"Training": numbered([0, 0]), "PrivateTest": numbered([6])},
        "two Training images at least; neutral has 0",
    ),
    "too few to hold any out": ({"Training": numbered([0, 0, 1, 1])}, "4 Training images are too few to hold any out"),
}


@pytest.mark.parametrize("case", TOO_LITTLE)
def test_too_little_to_train_on(case):
    data, message = TOO_LITTLE[case]
    with pytest.raises(UserError, match=message) as caught:
        hold_out(Dataset(data).drop_unused_labels() if data else data, **HOLD_OUT)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------
# Labels


def some_votes(emotions):
    """Six votes in ten for the emotion, four for the next one."""
    votes = np.zeros((len(emotions), len(VOTE_COLUMNS)), np.float32)
    for row, emotion in zip(votes, emotions, strict=True):
        row[VOTE_LABELS.index(EMOTIONS[emotion])], row[VOTE_LABELS.index(EMOTIONS[(emotion + 1) % 7])] = 0.6, 0.4
    return votes


def test_votes_are_part_of_the_labels():
    emotions = np.arange(70) % 7
    data = Dataset({"Training": Split(random_faces(70), emotions)})
    votes = some_votes(emotions)
    np.testing.assert_array_equal(make_labels(data, None, "share", 0.25), np.eye(7)[emotions])
    np.testing.assert_array_equal(make_labels(data, votes, "hard", 0.25), np.eye(7)[emotions])
    changed = emotions.copy()
    changed[:7] = 3  # an annotator whose votes say otherwise
    data["Training"] = Split(random_faces(70), changed)
    labels = make_labels(data, votes, "share", 0.25)
    assert (labels.dtype, labels.shape) == (np.float32, (70, 7))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert 0.75 < labels[0, 3] < 0.95 and 0.02 < labels[0, 0] < 0.25  # one's label, then all the others'
    assert (labels[7:].argmax(axis=1) == emotions[7:]).all()


def test_votes_are_the_labels():
    data = Dataset(
        {"Training": Split(random_faces(3), np.array([0, 6, 7]))}, (*EMOTIONS, "contempt")
    ).drop_unused_labels()
    votes = np.zeros((3, len(VOTE_COLUMNS)), np.float32)
    votes[0, [VOTE_COLUMNS.index("anger"), VOTE_COLUMNS.index("unknown")]] = 0.7, 0.3
    votes[1, [VOTE_COLUMNS.index("neutral"), VOTE_COLUMNS.index("contempt")]] = 0.6, 0.4
    votes[2, [VOTE_COLUMNS.index("contempt"), VOTE_COLUMNS.index("anger"), VOTE_COLUMNS.index("NF")]] = 0.5, 0.25, 0.25
    labels = make_labels(data, votes, "soft", 0.25)
    np.testing.assert_allclose(labels, [[1, 0, 0], [0, 0.6, 0.4], [1 / 3, 0, 2 / 3]], rtol=1e-6)


def test_labels_are_blended_with_what_people_saw():
    votes = np.zeros((3, len(VOTE_COLUMNS)), np.float32)
    votes[0, [VOTE_COLUMNS.index("anger"), VOTE_COLUMNS.index("neutral"), VOTE_COLUMNS.index("unknown")]] = (
        0.6,
        0.2,
        0.2,
    )
    votes[1, VOTE_COLUMNS.index("NF")] = 1
    votes[2, [VOTE_COLUMNS.index("sadness"), VOTE_COLUMNS.index("contempt")]] = 0.5, 0.5
    data = Dataset({"Training": Split(random_faces(3), np.array([6, 1, 2]))})
    expected = np.zeros((3, 7))
    expected[0, [0, 6]], expected[1, 1], expected[2, [2, 4]] = (0.6, 0.4), 1, (0.2, 0.8)
    np.testing.assert_allclose(make_labels(data, votes, "people", 0.8), expected, atol=1e-6)
    np.testing.assert_array_equal(make_labels(data, votes, "people", 0), np.eye(7)[[6, 1, 2]])


def test_held_out_parts_are_measured_against_people():
    """Only where most people saw one emotion; which faces are learnt from stays as it was."""
    emotions = np.arange(60) % 2
    data = Dataset({name: numbered(emotions) for name in ("Training", "PublicTest")}).drop_unused_labels()
    votes = some_votes(1 - emotions)  # people see the other emotion
    votes[3:20] = 0
    votes[3:20, VOTE_COLUMNS.index("unknown")] = 1
    settings = HOLD_OUT | {"smallest_calibration": 6, "calibration_fraction": 0.2}
    kept, _, _, before = hold_out(data, **settings)
    people = {"Training": votes, "PublicTest": votes}
    train_indices, validation, _, calibration = hold_out(data, **settings, votes=people)
    np.testing.assert_array_equal(train_indices, kept)
    numbers = validation.faces[:, 0, 0, 0]
    assert numbers.tolist() == [0, 1, 2, *range(20, 60)]
    np.testing.assert_array_equal(validation.emotions.argmax(axis=1), 1 - emotions[numbers])
    numbers = calibration.faces[:, 0, 0, 0]
    assert set(numbers) == set(before.faces[:, 0, 0, 0]) - set(range(3, 20)) and 0 < len(numbers) < 12
    np.testing.assert_array_equal(calibration.emotions.argmax(axis=1), 1 - emotions[numbers])


# ----------------------------------------------------------------------------------------------------------
# Augmentation


class Highest:
    """A random generator whose every draw is the upper end, and whose chances never come."""

    def uniform(self, low, high, size=None):
        return np.full(size, high)

    def random(self, size):
        return np.ones(size)


@pytest.mark.parametrize("shape", [(48, 48), (32, 40)])
def test_augment_shape_and_range(shape):
    faces = random_faces(40, *shape)
    images = augment(faces, np.random.default_rng(1), Augmentation())
    assert (images.shape, images.dtype) == ((40, *shape, 1), np.float32)
    assert images.min() >= -1 and images.max() <= 1
    np.testing.assert_array_equal(images, augment(faces, np.random.default_rng(1), Augmentation()))
    assert (images != augment(faces, np.random.default_rng(2), Augmentation())).any()
    np.testing.assert_array_equal(faces, random_faces(40, *shape))


def test_augment_by_nothing():
    faces = random_faces()
    np.testing.assert_array_equal(augment(faces, np.random.default_rng(0), STILL), preprocess_images(faces))


def test_flip_mirrors_half_of_the_faces():
    flips = STILL._replace(flip=True)
    faces = random_faces(200, 8, 10)
    images, plain = augment(faces, np.random.default_rng(0), flips), preprocess_images(faces)
    same = (images == plain).all(axis=(1, 2, 3))
    mirrored = (images == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and 70 < mirrored.sum() < 130


MOVES = {
    "a quarter turn": ({"rotation": 90.0}, (1, 1), (1, 7)),
    "a half turn": ({"rotation": 180.0}, (1, 2), (7, 6)),
    "half the size": ({"zoom": 1.0}, (2, 6), (0, 8)),
    "two pixels": ({"shift": 2 / 9}, (3, 2), (5, 4)),
    "a turn, then a shift": ({"rotation": 90.0, "shift": 1 / 9}, (4, 4), (5, 5)),
}


@pytest.mark.parametrize("case", MOVES)
def test_augment_moves_pixels(case):
    bounds, to, source = MOVES[case]
    face = np.zeros((1, 9, 9, 1), np.uint8)
    face[0, *source] = 255
    image = augment(face, Highest(), STILL._replace(**bounds))[0, :, :, 0]
    assert np.argwhere(image == 1).tolist() == [list(to)]
    assert (image == -1).sum() == 80


def test_strength_multiplies_the_bounds():
    bounds = STILL._replace(rotation=45.0, contrast=0.1, brightness=0.1, erasing=0.1)
    face = np.zeros((1, 9, 9, 1), np.uint8)
    face[0, 1, 7] = 255
    np.testing.assert_array_equal(augment(face, Highest(), bounds._replace(strength=0)), preprocess_images(face))
    assert augment(face, Highest(), bounds._replace(strength=2))[0, 1, 1, 0] == 1  # a quarter turn


def test_contrast_and_brightness_by_hand():
    bounds = STILL._replace(contrast=0.5, brightness=0.25)
    face = np.array([0, 51, 102, 204], np.uint8).reshape(1, 2, 2, 1)  # -1, -0.6, -0.2, 0.6
    expected = [-1, -0.65, -0.05, 1]  # times 1.5, plus 0.25, cut off at both ends
    np.testing.assert_allclose(augment(face, Highest(), bounds).ravel(), expected, atol=1e-6)


def test_erasing_fills_one_rectangle():
    always = STILL._replace(erasing=1.0)
    faces = random_faces(20, 40, 40)
    images, before = augment(faces, np.random.default_rng(0), always), preprocess_images(faces)
    for image, original in zip(images[..., 0], before[..., 0], strict=True):
        rows, columns = np.nonzero(image != original)
        box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(box)) == 1
        assert all(0.15 * 40 - 2 <= side <= 0.4 * 40 for side in box.shape)


# ----------------------------------------------------------------------------------------------------------
# What cameras do


def smooth_face():
    """A face-like picture without fine detail, uint8 (48, 48)."""
    y, x = np.mgrid[:48, :48]
    return (128 + 60 * np.sin(x / 6) * np.cos(y / 7)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.function.__name__)
@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
def test_every_kind_disturbs_and_follows_from_the_generator(kind, shape):
    face = random_faces(1, *shape)[0, ..., 0]
    before = face.copy()
    first, second = (kind.function(face, kind.high, np.random.default_rng(3)) for _ in range(2))
    assert (first.shape, first.dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(face, before)
    assert (first != face).any()


@pytest.mark.parametrize("function", [disturbances.noise, disturbances.correlated_noise])
@pytest.mark.parametrize("deviation", [10, 20])
def test_noise_has_its_deviation(function, deviation):
    face = np.full((48, 48), 128, np.uint8)
    added = function(face, deviation, np.random.default_rng(0)).astype(float) - 128
    assert added.std() == pytest.approx(deviation, rel=0.05) and abs(added.mean()) < 2
    neighbours = np.corrcoef(added[:, 1:].ravel(), added[:, :-1].ravel())[0, 1]
    assert (neighbours > 0.3) == (function is disturbances.correlated_noise)


def test_blur_and_motion_blur_spread_a_point():
    face = np.zeros((49, 49), np.uint8)
    face[24, 24] = 255
    y, x = np.mgrid[:49, :49] - 24
    blurred = disturbances.blur(face, 2, np.random.default_rng(0)).astype(float)
    assert np.sqrt((blurred * x**2).sum() / blurred.sum()) == pytest.approx(2, rel=0.15)
    for seed in range(5):
        moved = disturbances.motion_blur(face, 6, np.random.default_rng(seed)).astype(float)
        spread = np.linalg.eigvalsh([[(moved * a * b).sum() / moved.sum() for a in (x, y)] for b in (x, y)])
        assert spread[0] < 0.4 and spread[1] == pytest.approx(6**2 / 12, rel=0.3)  # a line, 6 pixels long
        assert moved.sum() == pytest.approx(255, rel=0.1)


def test_light_and_resolution_by_hand():
    face, rng = np.array([[0, 51, 102, 255]], np.uint8).repeat(4, 0), np.random.default_rng(0)
    assert disturbances.gamma(face, 2, rng)[0].tolist() == [0, 10, 41, 255]  # 255 * 0.2**2, 255 * 0.4**2
    for seed in range(20):
        gain = disturbances.uneven_light(np.full((48, 48), 100, np.uint8), 0.6, np.random.default_rng(seed))
        assert 40 <= gain.min() < 80 and 120 < gain.max() <= 160
    stripes = np.tile(np.array([0, 255], np.uint8), (48, 24))
    assert np.ptp(disturbances.low_resolution(stripes, 24, rng)) <= 1  # finer than 24 pixels can show
    assert np.abs(disturbances.low_resolution(smooth_face(), 24, rng).astype(int) - smooth_face()).max() < 12
    errors = [np.abs(disturbances.jpeg(smooth_face(), q, rng).astype(int) - smooth_face()).mean() for q in (15, 60)]
    assert 0 < errors[1] < errors[0] < 12


def test_a_share_of_the_faces_is_disturbed():
    faces = smooth_face()[None, :, :, None].repeat(400, 0)
    images = augment(faces, np.random.default_rng(0), STILL._replace(disturbances=0.3))
    changed = (images != preprocess_images(faces)).any(axis=(1, 2, 3))
    assert 90 < changed.sum() < 150
    assert len({image.tobytes() for image in images[changed]}) > 0.8 * changed.sum()  # each in its own way


def test_no_disturbances_leave_the_batches_as_they_were():
    """Bit for bit: the hash is of a version that knew none."""
    faces, digest = random_faces(64, 48, 48), hashlib.sha256()
    how = {"batch_size": 16, "seed": 1, "augmentation": Augmentation(disturbances=0.0)}
    sequence = AugmentedFaces(faces, np.eye(7, dtype=np.float32)[np.arange(64) % 7], np.arange(64), **how)
    for sequence.epoch in range(2):
        for batch in range(4):
            digest.update(np.rint(127.5 * sequence[batch][0]).astype(np.int16).tobytes())
    assert digest.hexdigest() == "5e41dd0bf94338e5b8f2057109aea46ec1444fb3d74218049b87d9449e13c0dd"


@pytest.mark.parametrize("name", disturbances.MEASURED)
def test_measured_disturbances_are_the_same_every_time(name):
    faces = random_faces(3, 48, 48)
    first = disturbances.disturb_all(faces, name)
    assert first.shape == faces.shape and (first != faces).any()
    np.testing.assert_array_equal(first[:2], disturbances.disturb_all(faces[:2], name))
    assert disturbances.disturb_all(faces[:0], name).shape == (0, 48, 48, 1)


# ----------------------------------------------------------------------------------------------------------
# Batches


def test_batches_follow_from_seed_epoch_and_batch():
    faces, emotions = random_faces(30), np.arange(30) % 7
    batches = {}
    for seed, epoch, batch in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]:
        for _ in range(2):
            labels = np.eye(7, dtype=np.float32)[emotions]
            sequence = AugmentedFaces(faces, labels, np.arange(30), **BATCHES | {"seed": seed})
            sequence.epoch = epoch
            images, labels = sequence[batch]
            assert images.shape == (8, 9, 9, 1) and labels.shape == (8, 7) and (labels.sum(axis=1) == 1).all()
            if (seed, epoch, batch) in batches:
                np.testing.assert_array_equal(batches[seed, epoch, batch], images)
            batches[seed, epoch, batch] = images
    assert len({images.tobytes() for images in batches.values()}) == 4


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("shards", [2, 4])
def test_shards_of_a_batch_are_transformed_as_in_the_whole(shards, mixup):
    faces, labels = random_faces(30, 32, 32), np.eye(7, dtype=np.float32)[np.arange(30) % 7]
    given = [faces, labels, np.arange(30)]
    how = BATCHES | {
        "seed": 3,
        "augmentation": Augmentation(erasing=0.5, strength=1.5, disturbances=0.5),
        "mixup": mixup,
    }
    whole = AugmentedFaces(*given, **how)
    pieces_of = [AugmentedFaces(*given, **how, shard=(index, shards)) for index in range(shards)]
    for epoch, batch in [(0, 0), (0, 2), (5, 1)]:
        for sequence in (whole, *pieces_of):
            sequence.epoch = epoch
        for expected, *pieces in zip(whole[batch], *(piece[batch] for piece in pieces_of), strict=True):
            assert all(len(piece) == 8 // shards for piece in pieces)
            np.testing.assert_array_equal(np.concatenate(pieces), expected)


def test_mixup_blends_faces_and_labels_alike():
    """Every face has one brightness and a label of its own, so that labels say what a pixel must be."""
    faces = np.broadcast_to(8 * np.arange(32, dtype=np.uint8)[:, None, None, None], (32, 4, 4, 1))
    sequence = AugmentedFaces(
        faces, np.eye(32, dtype=np.float32), np.arange(32), batch_size=32, seed=0, augmentation=STILL, mixup=0.3
    )
    images, labels = sequence[0]
    shares, brightness = np.sort(labels, axis=1), preprocess_images(faces)[:, 0, 0, 0]
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(shares[:, :-2], 0)
    np.testing.assert_array_equal(np.sort(labels.argmax(axis=1)), np.arange(32))  # the larger share is its own
    np.testing.assert_allclose(
        images, np.broadcast_to((labels @ brightness)[:, None, None, None], images.shape), atol=1e-5
    )
    assert 0.02 < shares[:, -2].mean() < 0.25 and shares[:, -2].max() > 0.1


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_batches_that_were_looked_at_come_again(backend, monkeypatch):
    """What `fit` looks at before the first epoch of a resumed run is not learnt from in place of other batches."""
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    given = random_faces(30), np.eye(7)[[0] * 30], np.arange(30)
    sequence, fresh = AugmentedFaces(*given, **BATCHES), AugmentedFaces(*given, **BATCHES)
    assert len(sequence[0][0]) == 8
    sequence.epoch = fresh.epoch = 4
    for batch in (0, 1, 2, 0):
        np.testing.assert_array_equal(sequence[batch][0], fresh[batch][0])


def test_every_face_at_most_once_an_epoch():
    given = numbered([0] * 32).faces, np.eye(7)[np.arange(32) % 7], np.arange(2, 32)
    sequence = AugmentedFaces(*given, **BATCHES | {"augmentation": STILL})
    assert len(sequence) == 3
    orders = set()
    for epoch in range(3):
        sequence.epoch = epoch
        drawn = [(sequence[batch][0][:, 0, 0, 0], sequence[batch][1].argmax(axis=1)) for batch in range(3)]
        numbers = np.rint((np.concatenate([faces for faces, _ in drawn]) + 1) * 127.5).astype(int)
        assert len(set(numbers)) == 24
        orders.add(tuple(numbers))
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in drawn]), numbers % 7)
    assert len(orders) == 3


def test_fewer_faces_than_a_batch():
    given = random_faces(9), np.eye(7)[[0] * 9], np.arange(4, 9)
    sequence = AugmentedFaces(*given, **BATCHES | {"batch_size": 128})
    assert len(sequence) == 1 and len(sequence[0][0]) == 5


# ----------------------------------------------------------------------------------------------------------
# Teachers


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """(path, network) of a checkpoint that predicts something else for every face."""
    keras.utils.set_random_seed(3)
    model, path = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7), tmp_path_factory.mktemp("teacher") / "teacher.hdf5"
    last = model.get_layer(EMOTION_MAPS)
    last.set_weights([20 * weight for weight in last.get_weights()])
    save_checkpoint(model, path, EMOTIONS)
    return path, model


def test_a_teachers_predictions_are_part_of_the_labels(teacher, monkeypatch):
    monkeypatch.setattr("training.faces.PREDICTED_AT_ONCE", 2)  # several groups
    path, network = teacher
    faces, labels, train_indices = random_faces(5, 32, 32), np.eye(7, dtype=np.float32)[[2] * 5], np.array([0, 1, 3])
    check_teachers([path], EMOTIONS, (32, 32))
    for strength in (0.0, 1.0):  # mirrored only, or transformed
        augmentation, expected = Augmentation(strength=strength), labels.copy()
        for indices in ([0, 1], [3]):
            rng = np.random.default_rng((5, indices[0]))
            views = [augment(faces[indices], rng, augmentation) for _ in range(2)]
            predicted = np.mean([network.predict(view, verbose=0) for view in views], axis=0)
            expected[indices] = 0.75 * labels[indices] + 0.25 * predicted
        how = {"paths": [path], "share": 0.25, "views": 2, "augmentation": augmentation, "seed": 5}
        blended = blend_teacher_labels(labels, faces, train_indices, **how)
        np.testing.assert_allclose(blended, expected, atol=1e-5)
        np.testing.assert_array_equal(blended[[2, 4]], labels[[2, 4]])
    np.testing.assert_array_equal(labels, np.eye(7)[[2] * 5])


@pytest.mark.parametrize(("emotions", "size"), [(EMOTIONS[::-1], (32, 32)), (EMOTIONS, (48, 48))])
def test_a_teacher_for_other_faces_is_refused(teacher, emotions, size):
    with pytest.raises(UserError, match=f"a teacher must name {', '.join(emotions)} .*{size[0]}.*; found .*32"):
        check_teachers([teacher[0]], emotions, size)


# ----------------------------------------------------------------------------------------------------------
# What describes a data set


def test_data_that_differ_are_told_apart():
    faces, emotions = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 1), np.uint8), np.arange(600) % 3
    data = Dataset({"Training": Split(faces, emotions)}, ("a", "b", "c"))
    labels, train_indices = np.eye(3, dtype=np.float32)[emotions], np.arange(600)
    facts = describe_data(data, labels, train_indices)
    assert facts["emotions"] == ["a", "b", "c"] and facts["number of b faces in Training"] == 200
    assert json.loads(json.dumps(facts)) == facts == describe_data(data, labels, train_indices)
    others = faces.copy()
    others[317, 2, 3] += 1  # one pixel of one face
    changed = describe_data(Dataset({"Training": Split(others, emotions)}, data.emotions), labels, train_indices)
    assert [name for name in facts if facts[name] != changed[name]] == ["every face in Training"]
    assert describe_data(data, labels[::-1], train_indices)["labels"] != facts["labels"]


def test_faces_in_a_file_are_compared_like_those_in_memory(tmp_path):
    """Every one of them, a few megabytes at a time, and where the faces are a part of the file."""
    faces = np.random.default_rng(0).integers(0, 256, (60, 400, 400, 1), np.uint8)
    assert faces[:52].nbytes < 2**23 < faces[:53].nbytes
    np.save(tmp_path / "faces.npy", faces)
    mapped = np.load(tmp_path / "faces.npy", mmap_mode="r")
    labels, train_indices = np.eye(7, dtype=np.float32)[np.arange(57) % 7], np.arange(3)

    def facts_of(some_faces):
        data = Dataset({"Training": Split(some_faces, np.arange(57) % 7)})
        return describe_data(data, labels, train_indices)

    facts = facts_of(faces[3:])
    assert facts_of(mapped[3:]) == facts
    faces[-1, -1, -1] ^= 1
    changed = facts_of(faces[3:])
    assert [name for name in facts if facts[name] != changed[name]] == ["every face in Training"]
