"""Tests of training/optimizer.py: the schedule's shape, and what Muon changes."""

import keras
import numpy as np
import pytest

from models.cnn import EMOTION_MAPS, NETWORKS
from training.optimizer import AdjustedCrossentropy, make_loss, make_optimizer, orthogonalize

SETTINGS = {
    "learning_rate": 0.01,
    "schedule": "cosine",
    "epochs": 1,
    "steps_per_epoch": 10,
    "warmup_epochs": 2.0,
    "weight_decay": 0.0,
    "ema_epochs": 2.0,
    "muon_momentum": 0.95,
}


@pytest.mark.parametrize(("epochs", "peak"), [(10, 20), (2, 0)])
def test_cosine_rises_to_its_peak_and_falls_to_zero(epochs, peak):
    """Two epochs of warm-up out of ten, none in a run too short for it; ten steps each.  The average is as short."""
    optimizer = make_optimizer("muon", **SETTINGS | {"learning_rate": 0.5, "epochs": epochs})
    rates = []
    for step in range(10 * epochs + 1):
        optimizer.iterations.assign(step)
        rates.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    assert int(np.argmax(rates)) == peak and max(rates) == pytest.approx(0.5)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-7)
    assert optimizer.ema_momentum == pytest.approx(np.exp(-1 / (20 if epochs == 10 else 4)))


@pytest.mark.parametrize("shape", [(40, 8), (8, 40), (16, 16)])
def test_orthogonalize(shape):
    """Singular vectors stay, singular values come close to 1, whatever they were."""
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    matrix = left * np.geomspace(1000, 30, min(shape)) @ right
    result = keras.ops.convert_to_numpy(orthogonalize(keras.ops.convert_to_tensor(matrix, "float32")))
    values = left.T @ result @ right.T
    assert np.diag(values).min() > 0.6 and np.diag(values).max() < 1.25
    assert values - np.diag(np.diag(values)) == pytest.approx(0, abs=1e-4)


def test_muon_is_adamw_but_for_the_kernels_that_mix_channels():
    kernels = set()
    steps = {}
    for name in ("muon", "adamw"):
        keras.utils.set_random_seed(0)
        model = NETWORKS["tiny_XCEPTION"]((48, 48, 1), 7)
        optimizer = make_optimizer(name, **SETTINGS | {"schedule": "plateau"})
        before = [keras.ops.convert_to_numpy(variable).copy() for variable in model.trainable_variables]
        rng = np.random.default_rng(0)
        gradients = [keras.ops.convert_to_tensor(rng.normal(size=v.shape), "float32") for v in before]
        optimizer.apply(gradients, model.trainable_variables)
        after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        steps[name] = [new - old for new, old in zip(after, before, strict=True)]
    for variable, muon, adamw in zip(model.trainable_variables, steps["muon"], steps["adamw"], strict=True):
        if np.array_equal(muon, adamw):
            continue
        kernels.add(variable.path.rpartition("/")[2])
        assert EMOTION_MAPS not in variable.path
        matrix = muon.reshape(-1, muon.shape[-1])
        sizes = np.linalg.svd(matrix, compute_uv=False) / (0.01 * 0.2 * np.sqrt(max(matrix.shape)))
        assert np.median(sizes) > 0.6 and sizes.max() < 1.25  # five iterations don't bring up the very smallest
    assert kernels == {"kernel", "pointwise_kernel"}


def test_muon_takes_its_momentum():
    """With momentum 0 the second step is that of the second gradient alone."""
    steps = {}
    for momentum in (0.0, 0.95):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3, use_bias=False)])
        settings = SETTINGS | {"schedule": "plateau", "muon_momentum": momentum}
        optimizer, (kernel,) = make_optimizer("muon", **settings), model.trainable_variables
        rng = np.random.default_rng(0)
        for gradient in rng.normal(size=(2, *kernel.shape)):
            before = keras.ops.convert_to_numpy(kernel).copy()
            optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [kernel])
            step = (before - keras.ops.convert_to_numpy(kernel)).reshape(-1, 6)
        matrix = keras.ops.convert_to_tensor(gradient.reshape(-1, 6), "float32")
        alone = keras.ops.convert_to_numpy(orthogonalize(matrix)) * 0.01 * 0.2 * np.sqrt(27)
        steps[momentum] = np.abs(step - alone).max()
    assert steps[0.0] < 1e-6 < 1e-4 < steps[0.95]


def test_without_a_horizon_there_is_no_moving_average():
    assert make_optimizer("muon", **SETTINGS | {"ema_epochs": 0.0}).use_ema is False
    assert make_optimizer("adamw", **SETTINGS).use_ema is True


def test_logit_adjustment_by_hand():
    probabilities, label = np.array([[0.5, 0.3, 0.2]], np.float32), np.array([[0, 0, 1]], np.float32)
    frequencies = np.array([0.6, 0.3, 0.1])
    for tau in (1, 0.5):
        adjusted = probabilities * frequencies**tau
        expected = -np.log(adjusted[0, 2] / adjusted.sum())
        assert float(AdjustedCrossentropy(frequencies, tau)(label, probabilities)) == pytest.approx(expected, rel=1e-5)
        labels = np.repeat(np.eye(3, dtype=np.float32), [6, 3, 1], axis=0)
        assert float(make_loss(0.0, tau, labels)(label, probabilities)) == pytest.approx(expected, rel=1e-5)
    assert type(make_loss(0.1, 0.0, labels)) is keras.losses.CategoricalCrossentropy


@pytest.mark.parametrize(("tau", "expected"), [(0, [0.9, 0.1]), (1, [0.5, 0.5])])
def test_logit_adjustment_balances_what_is_predicted(tau, expected):
    """Nine in ten labels are of one emotion, and the faces say nothing."""
    labels = np.repeat(np.eye(2, dtype=np.float32), [9, 1], axis=0)
    loss = make_loss(0.0, tau, labels)
    here, lower, higher = (np.float32([[expected[0] + step, expected[1] - step]]) for step in (0, -0.05, 0.05))
    losses = [float(loss(labels, np.repeat(probabilities, 10, axis=0))) for probabilities in (here, lower, higher)]
    assert losses[0] < min(losses[1:])
