"""Tests of models/fused_normalization.py: it learns what Keras's own batch normalisation learns."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the fused kernel is TensorFlow's", allow_module_level=True)

from models.fused_normalization import FusedBatchNormalization, fuse_batch_normalization


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
