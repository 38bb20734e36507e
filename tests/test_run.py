"""Tests of training/run.py: what is validated and saved, when a run ends, and its first weights."""

import keras
import numpy as np
import pytest

from command_line import UserError
from load_and_process import EMOTIONS, Split, preprocess_images
from models.checkpoint import save_checkpoint
from models.cnn import EMOTION_MAPS, NETWORKS
from training import run
from training.run import (
    build_network,
    calibrate,
    first_watched_epoch,
    recalibrate_batch_norm,
    start_from_checkpoint,
    stopped_early,
)


def random_faces(n, height, width):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 1), np.uint8)


@pytest.mark.parametrize("batch", [60, 20])
def test_recalibration_gives_the_statistics_of_the_faces(monkeypatch, batch):
    monkeypatch.setattr(run, "PREDICTED_AT_ONCE", batch)
    keras.utils.set_random_seed(0)
    model, faces = NETWORKS["simple_CNN"]((32, 32, 1), 7), random_faces(60, 32, 32)
    batch_norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in batch_norms:
        layer.moving_mean.assign(layer.moving_mean + 5.0)  # what was there before is gone
    recalibrate_batch_norm(model, faces)
    for layer in (batch_norms[0], batch_norms[-1]):  # before all dropout, and after it
        below = keras.Model(model.inputs, layer.input).predict(preprocess_images(faces), verbose=0)
        mean, variance = below.mean(axis=(0, 1, 2)), below.var(axis=(0, 1, 2))
        close = {"atol": 0.02 * variance.max() ** 0.5} if batch == 60 else {"atol": 0.1 * variance.max() ** 0.5}
        np.testing.assert_allclose(layer.moving_mean.numpy(), mean, **close)
        np.testing.assert_allclose(layer.moving_variance.numpy() ** 0.5, variance**0.5, **close)
        assert layer.momentum == 0.99
    assert {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)} == {0.1}


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_calibration_finds_the_temperature():
    """Labels drawn at three times its logits: the network's confidence is its accuracy at a third of temperature 1."""
    keras.utils.set_random_seed(0)
    model = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7)
    last = model.get_layer(EMOTION_MAPS)
    last.set_weights([20 * weight for weight in last.get_weights()])
    faces = random_faces(4000, 32, 32)
    faces[::2] //= 4
    before = model.predict(preprocess_images(faces), verbose=0)
    sharper = softmax(3 * np.log(before))
    drawn = (np.random.default_rng(0).random((4000, 1)) < sharper.cumsum(axis=1)).argmax(axis=1)
    temperature = calibrate(model, Split(faces, drawn))
    assert temperature == pytest.approx(1 / 3, rel=0.1)
    after = model.predict(preprocess_images(faces), verbose=0)
    np.testing.assert_allclose(after, softmax(np.log(before) / temperature), atol=1e-4)
    assert calibrate(model, Split(faces, drawn)) == pytest.approx(1, rel=0.05)  # once is enough
    assert calibrate(model, Split(faces[:0], drawn[:0])) == 1


def test_calibration_to_peoples_shares():
    keras.utils.set_random_seed(0)
    model, faces = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7), random_faces(300, 32, 32)
    last = model.get_layer(EMOTION_MAPS)
    last.set_weights([20 * weight for weight in last.get_weights()])
    shares = softmax(2 * np.log(model.predict(preprocess_images(faces), verbose=0)))
    assert calibrate(model, Split(faces, shares)) == pytest.approx(0.5, rel=0.02)


def test_recalibration_without_faces_changes_nothing():
    model = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7)
    before = model.get_weights()
    recalibrate_batch_norm(model, random_faces(0, 32, 32))
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


# ----------------------------------------------------------------------------------------------------------
# When a run ends


@pytest.mark.parametrize(
    ("losses", "schedule", "stops"),
    [
        ([2.0, 1.0, 1.0, 1.1], "plateau", True),  # two epochs without a lower loss
        ([2.0, 1.0, 1.5], "plateau", False),
        ([], "plateau", False),
        ([1.0, 2.0, 2.5, 2.4, 2.4], "cosine", False),  # of six epochs, the first three don't count
        ([1.0, 2.0, 2.5, 2.4, 2.4, 2.4], "cosine", True),
    ],
)
def test_stopped_early(losses, schedule, stops):
    rows = [{"val_loss": loss} for loss in losses]
    how = {"schedule": schedule, "monitor": "val_loss", "epochs": 6, "patience": 2}
    assert stopped_early(rows, **how) is stops
    assert first_watched_epoch(schedule, 6) == (3 if schedule == "cosine" else 0)


# ----------------------------------------------------------------------------------------------------------
# First weights


def test_starting_from_a_checkpoint(tmp_path):
    keras.utils.set_random_seed(3)
    source = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7)
    save_checkpoint(source, tmp_path / "source.hdf5", EMOTIONS)
    same, other = (build_network(NETWORKS["tiny_XCEPTION"], (32, 32, 1), classes, 0.0, "float32") for classes in (7, 3))
    fresh = other.get_weights()
    start_from_checkpoint(tmp_path / "source.hdf5", same, EMOTIONS)
    start_from_checkpoint(tmp_path / "source.hdf5", other, ("bored", "happy", "sad"))
    for weight, expected in zip(same.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    *kept, kernel, bias = other.get_weights()
    for weight, expected in zip(kept, source.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(weight, expected)
    np.testing.assert_array_equal(kernel, fresh[-2])

    another = build_network(NETWORKS["mini_XCEPTION"], (32, 32, 1), 7, 0.0, "float32")
    with pytest.raises(UserError, match="takes a checkpoint of mini_XCEPTION; .*source.hdf5 is one of tiny_XCEPTION"):
        start_from_checkpoint(tmp_path / "source.hdf5", another, EMOTIONS)


def test_a_folder_that_disappears_while_the_run_writes_into_it_is_an_error(tmp_path):
    record = run.RunRecord.__new__(run.RunRecord)
    record.files, record.rows = run.RunFiles.of(tmp_path / "gone", "mini_XCEPTION"), [{"epoch": 1}]
    with pytest.raises(UserError, match="mini_XCEPTION.settings.json has disappeared.*: start it again") as caught:
        record._write()
    assert caught.value.exit_status == 1 and not (tmp_path / "gone").exists()
