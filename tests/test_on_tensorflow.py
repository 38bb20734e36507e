"""Tests of training/on_tensorflow.py: what is faster learns the same, from the same batches."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("KERAS_BACKEND is another, and this module is for TensorFlow alone", allow_module_level=True)

from training.on_tensorflow import FusedBatchNormalization, fuse_batch_normalization, read_ahead


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_learns_what_the_plain_layer_does(precision):
    rng = np.random.default_rng(0)
    maps, wanted = (rng.normal(1, 2, (64, 6, 6, 4)).astype(np.float32) for _ in range(2))
    plain, fused = [], []
    for weights, change in ((plain, lambda model: None), (fused, fuse_batch_normalization)):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(5, 1), keras.layers.BatchNormalization(), keras.layers.Conv2D(4, 1)]
        for layer in layers:
            layer.dtype_policy = precision
        model = keras.Sequential(layers)
        model.build(maps.shape)
        change(model)
        assert isinstance(model.layers[1], FusedBatchNormalization) == (weights is fused)
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        model.fit(maps, wanted, batch_size=32, epochs=2, shuffle=False, verbose=0)
        weights += [*model.get_weights(), model.predict(maps, verbose=0)]
    close = 1e-3 if precision == "float32" else 3e-2  # the kept variance is that of n - 1
    for one, other in zip(plain, fused, strict=True):
        np.testing.assert_allclose(other, one, rtol=close, atol=close)


class NumberedBatches(keras.utils.PyDataset):
    first = 0

    def __len__(self):
        return 5

    def __getitem__(self, batch):
        return np.full((3, 2, 2, 1), self.first + batch, np.float32), np.full((3, 7), batch, np.float32)


def test_reads_each_epoch_batch_by_batch():
    batches = NumberedBatches()
    ahead = read_ahead(batches, 2)
    assert len(ahead) == 5 and ahead.options().autotune.enabled is False
    for batches.first in (3, 0):
        assert [(images[0, 0, 0, 0], labels[0, 0]) for images, labels in ahead] == [
            (batches.first + batch, batch) for batch in range(5)
        ]
