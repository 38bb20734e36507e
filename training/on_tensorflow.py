"""What makes training faster on Keras's TensorFlow backend.  Importing this module imports TensorFlow."""

import ctypes
import sys
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer, but TensorFlow's fused kernel computes it in training.

    Keras itself computes it in a dozen passes over the maps, which takes up to half of a training step.
    """

    def call(self, inputs, training=None, mask=None):
        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self.compute_dtype),
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=tf.zeros([0]),  # empty: the kernel takes the batch's mean and variance
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))
        return outputs


def fuse_batch_normalization(model: keras.Model) -> None:
    """Let TensorFlow's fused kernel train every batch normalisation of a network.

    Results and gradients are the same up to rounding.  The moving variance is the unbiased one, divided by n - 1, as
    TensorFlow's kernel returns it; Keras divides by n.

    Args:
        model: Changed in place; not for saving.
    """
    for layer in model.layers:
        if type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = FusedBatchNormalization


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a step frees, for the next step.

    TensorFlow's generators make glibc give back all free memory above 128 kB.  So each step of mini_XCEPTION had 1,150
    page faults; now it has 3.  Where it was measured, the system's share of the processor's time fell from 5 to 2 %.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):  # glibc alone has it
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX


def read_ahead(batches: keras.utils.PyDataset, ahead: int) -> tf.data.Dataset:
    """Make a data pipeline that prepares batches while the step before runs.

    `fit` would make an autotuned one.  On a single core, its tuning thread can sleep through the end of an epoch, and
    `fit` waits for that thread: epochs of mini_XCEPTION took up to 42 s in place of 25 s.

    Args:
        batches: Tuples of NumPy arrays.
        ahead: Batches that are prepared at most.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    shapes = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])

    def generate() -> Iterator[tuple[np.ndarray, ...]]:
        keep_freed_memory()  # after TensorFlow's own setting, which comes with the generator
        yield from map(batches.__getitem__, range(len(batches)))

    data = tf.data.Dataset.from_generator(generate, output_signature=shapes)
    data = data.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return data.prefetch(ahead).with_options(options)
