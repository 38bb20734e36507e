"""Tests of models/cnn.py: the sizes of the five networks, what they take and refuse, their maps, one training step."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from command_line import UserError
from models.cnn import EMOTION_MAPS, NETWORKS

ROOT = Path(__file__).parents[1]
PARAMETERS = {
    "simple_CNN": 642_935,
    "simpler_CNN": 559_671,
    "tiny_XCEPTION": 18_314,
    "mini_XCEPTION": 58_423,
    "big_XCEPTION": 208_871,
}


def faces(n, shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, *shape)).astype(np.float32)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    model = NETWORKS[name]((48, 48, 1), 7)
    assert model.count_params() == PARAMETERS[name]
    assert model.name == name


def test_there_are_five():
    assert list(NETWORKS) == list(PARAMETERS)


@pytest.mark.parametrize("shape", [(32, 32, 1), (96, 96, 3), (33, 95, 1)])
@pytest.mark.parametrize("name", NETWORKS)
def test_gives_probabilities_at_every_size(name, shape):
    model = NETWORKS[name](shape, 5)
    assert model.input_shape == (None, *shape)
    probabilities = numpy(model(faces(2, shape)))
    assert probabilities.shape == (2, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


REFUSED = {
    "too small": ((31, 48, 1), 7, 0, UserError, r"sides from 32 to 96 pixels and 1 or 3 channels; found \(31, 48, 1\)"),
    "too large": ((48, 97, 1), 7, 0, UserError, r"sides from 32 to 96.*found \(48, 97, 1\)"),
    "two channels": ((48, 48, 2), 7, 0, UserError, r"1 or 3 channels; found \(48, 48, 2\)"),
    "no channels": ((48, 48), 7, 0, UserError, r"\(height, width, channels\).*found \(48, 48\)"),
    "any size": ((None, None, 1), 7, 0, UserError, r"found \(None, None, 1\)"),
    "a fraction": ((48.0, 48, 1), 7, 0, UserError, r"found \(48.0, 48, 1\)"),
    "one emotion": ((48, 48, 1), 1, 0, UserError, "at least 2 emotions; found 1"),
    "half an emotion": ((48, 48, 1), 2.5, 0, ValueError, "whole number.*found 2.5"),
    "no number": ((48, 48, 1), True, 0, ValueError, "whole number.*found True"),
    "negative penalty": ((48, 48, 1), 7, -0.1, ValueError, "0 or more; found -0.1"),
    "no penalty": ((48, 48, 1), 7, float("nan"), ValueError, "0 or more; found nan"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("case", REFUSED)
def test_refuses(name, case):
    """A `UserError` is what a user's flags or data can cause; a `ValueError` is a caller's misuse."""
    *arguments, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message) as raised:
        NETWORKS[name](*arguments)
    assert type(raised.value) is kind


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_of_an_emotions_map_is_its_logit(name):
    model = NETWORKS[name]((48, 48, 1), 7)
    layer = model.get_layer(EMOTION_MAPS)
    assert [other for other in model.layers if isinstance(other, keras.layers.Conv2D)][-1] is layer
    maps, probabilities = map(numpy, keras.Model(model.inputs, [layer.output, model.output])(faces(3, (48, 48, 1))))
    assert maps.shape[1] >= 3 and maps.shape[2] >= 3 and maps.shape[3] == 7
    odds = np.exp(maps.mean(axis=(1, 2)))
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_l2_penalises_every_convolution_kernel(name):
    model = NETWORKS[name]((32, 32, 1), 7, l2_regularization=0.01)
    kernels = [weight for weight in model.trainable_weights if "kernel" in weight.name]
    expected = 0.01 * sum(np.square(numpy(kernel)).sum() for kernel in kernels)
    assert sum(float(loss) for loss in model.losses) == pytest.approx(expected, rel=1e-4)
    assert not NETWORKS[name]((32, 32, 1), 7).losses


# One step on so many faces.  Plain gradient descent: what the step does beside it is not compiled.
STEP = """
import sys, keras, numpy as np
from models.cnn import NETWORKS
print(keras.backend.backend())
faces, run_eagerly, *names = sys.argv[1:]
rng = np.random.default_rng(0)
x, y = rng.uniform(-1, 1, (int(faces), 32, 32, 1)).astype("float32"), rng.integers(0, 7, int(faces))
for name in names:
    model = NETWORKS[name]((32, 32, 1), 7)
    before = model.get_weights()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.run_eagerly = run_eagerly == "eager"
    assert np.isfinite(model.train_on_batch(x, y)), name
    assert all((new != old).any() for new, old in zip(model.get_weights(), before)), name
    print(name)
assert keras.backend.backend() == "tensorflow" or "tensorflow" not in sys.modules
"""


def take_a_step(backend, faces, mode, names):
    """In a new process."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "0"}
    command = [sys.executable, "-c", STEP, str(faces), mode, *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, [backend, *names]), done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_trains_on_either_backend(backend, monkeypatch, capsys):
    # TensorFlow takes far longer to compile a step than to take one, and JAX the other way round
    if backend == keras.backend.backend() == "tensorflow":
        monkeypatch.setattr(sys, "argv", ["-c", "8", "eager", *NETWORKS])
        exec(STEP, {})
        assert capsys.readouterr().out.split() == [backend, *NETWORKS]
    elif not importlib.util.find_spec(backend):
        pytest.skip("JAX is not installed; it comes with requirements-dev.txt, which .ci/run installs")
    else:
        take_a_step(backend, 8, "compiled", NETWORKS)


def test_trains_on_an_odd_number_of_faces():
    # TensorFlow 2.21 crashed here (a segmentation fault), compiled and with strided shortcuts.
    take_a_step("tensorflow", 7, "compiled", ["mini_XCEPTION"])


USES_TENSORFLOW = {"training/__init__.py", "training/on_tensorflow.py", "models/checkpoint.py"}
FREE_OF_TENSORFLOW = [
    ROOT / "train_emotion_classifier.py",
    *(
        path
        for folder in ("models", "training")
        for path in sorted((ROOT / folder).glob("*.py"))
        if path.relative_to(ROOT).as_posix() not in USES_TENSORFLOW
    ),
]


@pytest.mark.parametrize("path", FREE_OF_TENSORFLOW, ids=lambda path: path.name)
def test_does_not_use_tensorflow(path):
    source = path.read_text()
    assert "tf." not in source and "import tensorflow" not in source and "from tensorflow" not in source


BUILD = """
import sys
from models.cnn import NETWORKS
for name in NETWORKS:
    NETWORKS[name]((48, 48, 1), 7)
print("tensorflow" in sys.modules)
"""


def test_is_free_of_tensorflow():
    """In a process of its own, on Keras's NumPy backend, no way of importing TensorFlow stays unseen."""
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
