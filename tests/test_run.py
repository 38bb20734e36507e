"""Tests of training/run.py: what is validated and saved, when a run ends, and its first weights."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from command_line import UserError
from load_and_process import EMOTIONS, Split, preprocess_images
from models.checkpoint import Header, save_checkpoint, write_header
from models.cnn import EMOTION_MAPS, NETWORKS
from training import run
from training.run import (
    build_network,
    calibrate,
    check_network,
    describe_seconds,
    draw_learning_curve,
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


def plain(ending):
    """A builder as users write them: convolution, pooling, flattening, and an ending; without a name."""

    def plain_CNN(input_shape, num_classes, l2_regularization=0.0):
        layers = keras.layers
        body = [keras.Input(input_shape), layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(8)]
        return keras.Sequential([*body, layers.Flatten(), *ending(layers, num_classes)])

    return plain_CNN


ENDINGS = {
    "dense softmax": (lambda layers, n: [layers.Dense(n, activation="softmax")], None),
    "softmax of its own": (lambda layers, n: [layers.Dense(n), layers.Softmax()], None),
    "convolution": (
        lambda layers, n: [layers.Reshape((1, 1, -1)), layers.Conv2D(n, 1), layers.Flatten(), layers.Softmax()],
        None,
    ),
    "batch normalization": (lambda layers, n: [layers.Dense(n), layers.BatchNormalization(), layers.Softmax()], None),
    "logits": (lambda layers, n: [layers.Dense(n)], "must end in a softmax over the emotions; found that plain gives"),
    "sigmoid": (lambda layers, n: [layers.Dense(n, activation="sigmoid")], "must end in a softmax over the emotions"),
    "seven outputs": (lambda layers, n: [layers.Dense(7, activation="softmax")], "gives .7,. for 2 emotions"),
    "bounded logits": (
        lambda layers, n: [layers.Dense(n), layers.Activation("tanh"), layers.Softmax()],
        "logits must be its last layer with weights, .* or pass --calibration-fraction 0",
    ),
}


@pytest.mark.parametrize(("ending", "message"), ENDINGS.values(), ids=ENDINGS)
def test_any_softmax_network_is_calibrated_or_refused_at_the_start(ending, message):
    keras.utils.set_random_seed(0)
    builder, shape = plain(ending), (32, 32, 1)
    if message:
        with pytest.raises(UserError, match=message) as caught:
            check_network("plain", builder, shape, calibrates=True)
        assert "\n" not in str(caught.value)
        return
    check_network("plain", builder, shape, calibrates=True)
    model = build_network(builder, shape, 7, 0.0, "float32")
    assert model.name == "plain_CNN"
    faces = random_faces(300, 32, 32)
    before = model.predict(preprocess_images(faces), verbose=0)
    temperature = calibrate(model, Split(faces, np.arange(300) % 7))
    after = model.predict(preprocess_images(faces), verbose=0)
    assert temperature != 1
    np.testing.assert_allclose(after, softmax(np.log(before) / temperature), atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_five_networks_pass_the_check(name):
    check_network(name, NETWORKS[name], (32, 32, 1), calibrates=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min")]
)
def test_describe_seconds(seconds, text):
    assert describe_seconds(seconds) == text


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


def test_starting_from_another_programs_file_says_what_is_different(tmp_path):
    inside = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7)
    save_checkpoint(inside, tmp_path / "others.hdf5", EMOTIONS)
    write_header(tmp_path / "others.hdf5", Header("tiny_XCEPTION", EMOTIONS, (32, 32, 1), (0, 255)))
    model = build_network(NETWORKS["tiny_XCEPTION"], (32, 32, 1), 7, 0.0, "float32")
    with pytest.raises(UserError, match="others.hdf5 takes pixels from 0 to 255, and not from -1 to 1: it can be a"):
        start_from_checkpoint(tmp_path / "others.hdf5", model, EMOTIONS)


class Batches(list):
    """Batches without faces."""


@pytest.mark.parametrize(("compiling_s", "epoch_s", "left"), [(60.0, 5.0, 10), (0.0, 5.0, 10)])
def test_the_time_left_does_not_count_the_first_steps_compiling(monkeypatch, capsys, compiling_s, epoch_s, left):
    clock = iter([0.0, compiling_s + 0.5, compiling_s + epoch_s, 100.0, 105.0, 200.0])
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    record = run.RunRecord(Batches([0] * 10), None, [], {}, None, None)
    record.set_params({"epochs": 3})
    record.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.1)))
    monkeypatch.setattr(record, "_write", lambda: None)
    for epoch in range(3):
        record.on_epoch_begin(epoch)
        for batch in range(10) if epoch < 2 else ():
            record.on_train_batch_end(batch)
        if epoch < 2:
            record.on_epoch_end(epoch, {"loss": 1.0})
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"about {left} s left for 2 epochs", "about 5 s left for the last epoch"]


def test_a_folder_that_disappears_while_the_run_writes_into_it_is_an_error(tmp_path):
    record = run.RunRecord.__new__(run.RunRecord)
    record.files, record.rows = run.RunFiles.of(tmp_path / "gone", "mini_XCEPTION"), [{"epoch": 1}]
    with pytest.raises(UserError, match="found no .*mini_XCEPTION.settings.json any more: start") as caught:
        record._write()
    assert caught.value.exit_status == 1 and not (tmp_path / "gone").exists()


def test_without_fonts_a_notice_stands_for_the_learning_curve(tmp_path, monkeypatch, capsys):
    import matplotlib.figure

    def fail(*_, **__):
        raise RuntimeError("FT_Open_Face failed")

    rows = [{"epoch": 1, "accuracy": 0.5, "loss": 1.0, "val_accuracy": 0.4, "val_loss": 1.1}]
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    draw_learning_curve(rows, tmp_path / "a.png", "a network", label_smoothing=0.0, mixup=0.2)
    assert capsys.readouterr().err.startswith("notice: no learning curve drawn (Matplotlib can't draw (FT_Open_Face")
    assert not list(tmp_path.iterdir())
