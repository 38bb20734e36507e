"""The optimizer: AdamW, or Muon, under a learning-rate schedule, with a moving average of the weights; and the loss."""

import math

import keras
import numpy as np

from models.cnn import EMOTION_MAPS


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    schedule: str,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float,
    weight_decay: float,
    ema_epochs: float,
    muon_momentum: float,
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a run.

    Args:
        name: "muon" or "adamw".
        learning_rate: At its peak.
        schedule: "cosine": a linear rise, then half a cosine to zero over all epochs; "plateau": constant, for
            `keras.callbacks.ReduceLROnPlateau` to reduce.
        epochs: Of the whole run.
        steps_per_epoch: Batches in an epoch.
        warmup_epochs: Length of the linear rise from a hundredth of the peak; at most a fifth of the epochs, rounded
            down.
        weight_decay: Decoupled, on kernels only.
        ema_epochs: Horizon of the exponential moving average of the weights, at most a fifth of the run; 0: none.
        muon_momentum: Nesterov momentum of Muon's steps, from 0 to below 1.
    """
    rate = learning_rate
    if schedule == "cosine":
        warmup_steps = min(warmup_epochs, epochs // 5) * steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=learning_rate / 100 if warmup_steps else learning_rate,
            warmup_target=learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
            decay_steps=max(1, epochs * steps_per_epoch - warmup_steps),
        )
    horizon = min(ema_epochs, epochs / 5)  # a longer one would keep a short run's average near its first weights
    average = {"use_ema": False}
    if horizon > 0:
        average = {"use_ema": True, "ema_momentum": math.exp(-1 / (horizon * steps_per_epoch))}
    if name == "muon":
        optimizer = Muon(rate, momentum=muon_momentum, weight_decay=weight_decay, **average)
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=weight_decay, **average)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def make_loss(label_smoothing: float, logit_adjustment: float, labels: np.ndarray) -> keras.losses.Loss:
    """Build the loss of a run.

    Args:
        label_smoothing: Share of each label that is spread over all emotions.
        logit_adjustment: 0, or tau of `AdjustedCrossentropy`.
        labels: float32 (n, emotions), whose mean is how frequent each emotion is.
    """
    if logit_adjustment:
        return AdjustedCrossentropy(labels.mean(axis=0), logit_adjustment, label_smoothing)
    return keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)


class AdjustedCrossentropy(keras.losses.CategoricalCrossentropy):
    """Cross-entropy of a softmax whose logits are tau * ln(frequency) higher than the network's.

    The addition tells how frequent an emotion is, so the network's own logits need not: what it predicts without the
    addition is balanced.  With tau = 1, it predicts as if all emotions were equally frequent.
    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", arXiv:2007.07314.

    Args:
        frequencies: float (emotions,), positive.
        tau: How far to balance; 0: not at all.
        label_smoothing: As Keras has it.
    """

    def __init__(self, frequencies: np.ndarray, tau: float, label_smoothing: float = 0.0):
        super().__init__(from_logits=True, label_smoothing=label_smoothing)
        self.added = tau * np.log(np.maximum(frequencies, 1e-6)).astype("float32")

    def call(self, y_true, y_pred):
        """Return the loss of each face, given labels and probabilities (b, emotions)."""
        return super().call(y_true, keras.ops.log(keras.ops.maximum(y_pred, 1e-30)) + self.added)


class Muon(keras.optimizers.AdamW):
    """AdamW, but the kernels of convolutions take steps that are orthogonal matrices, of the size of Adam's steps.

    An orthogonal step changes a layer's output as much in rare directions as in frequent ones.  AdamW still updates all
    else: the layer `models.cnn.EMOTION_MAPS`, Dense kernels, depthwise kernels (which mix no channels), biases and
    batch normalisation.  Keras's own Muon takes two-dimensional variables only.
    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; for the size of the steps, Liu et al. 2025,
    "Muon is Scalable for LLM Training", arXiv:2502.16982.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Nesterov momentum, from 0 to below 1: the share of the sum of gradients that stays for the next step.
        **adamw: As `keras.optimizers.AdamW` takes them.
    """

    def __init__(self, learning_rate, momentum: float = 0.95, **adamw):
        super().__init__(learning_rate, **adamw)
        self.muon_momentum = momentum

    def build(self, var_list: list) -> None:
        super().build(var_list)
        kernels = [v for v in var_list if len(v.shape) == 4 and v.shape[-1] > 1 and EMOTION_MAPS not in v.path]
        self._orthogonal = {self._get_variable_index(kernel) for kernel in kernels}

    def update_step(self, gradient, variable, learning_rate) -> None:
        index = self._get_variable_index(variable)
        if index not in self._orthogonal:
            return super().update_step(gradient, variable, learning_rate)
        gradient = keras.ops.cast(gradient, variable.dtype)
        momentum = self._momentums[index]
        self.assign(momentum, self.muon_momentum * momentum + gradient)
        step = keras.ops.reshape(gradient + self.muon_momentum * momentum, (-1, variable.shape[-1]))
        size = 0.2 * math.sqrt(max(step.shape)) * keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, size * keras.ops.reshape(orthogonalize(step), variable.shape))


def orthogonalize(matrix):
    """Return about the nearest matrix whose singular values are all 1.

    Five Newton-Schulz iterations, with the coefficients of Jordan et al. 2024.

    Args:
        matrix: Tensor (rows, columns).

    Returns:
        Tensor (rows, columns).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = keras.ops.transpose(matrix) if tall else matrix
    x = x / (keras.ops.norm(x) + 1e-7)
    for _ in range(5):
        square = x @ keras.ops.transpose(x)
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return keras.ops.transpose(x) if tall else x
