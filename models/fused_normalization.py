"""Batch normalisation in one kernel, for training on Keras's TensorFlow backend.

Keras normalises in a dozen passes over the maps, and maps of bfloat16 in float32: up to half of a training step.
TensorFlow has a kernel that does all of it at once.  Importing this module imports TensorFlow.
"""

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, trained by TensorFlow's fused kernel; with training=False it is Keras's own."""

    def call(self, inputs, training=None, mask=None):
        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=tf.zeros([0]),  # none are given: those of the batch are taken
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))
        return outputs


def fuse_batch_normalization(model):
    """Let every batch normalisation of a network be trained by the fused kernel.

    Results and gradients are the same up to rounding; the variance that is kept for later is that of n - 1 values.

    Args:
        model: `keras.Model`, changed in place; not for saving.
    """
    for layer in model.layers:
        if type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = FusedBatchNormalization
