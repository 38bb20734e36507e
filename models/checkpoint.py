"""Checkpoints: one `.hdf5` per trained network, and the compiled form it runs in.

A checkpoint is a Keras `.hdf5` (architecture and float32 weights, no optimizer state) with two attributes of ours at
its root: `network`, the builder's name, and `emotions`, the labels in the order of the outputs, as JSON.  Files without
them, such as those of oarriaga/face_classification, are read as FER2013's seven.  Readers take the labels and the
input size from the file.

The live script runs the checkpoint compiled to LiteRT, which needs neither TensorFlow nor Keras and answers some
hundred times faster than `model.predict`.  `compile_checkpoint` makes that form once and keeps it under the hash of
the checkpoint's bytes, so a changed checkpoint is compiled anew.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py

from load_and_process import EMOTIONS, replacing

SUFFIXES = (".hdf5", ".h5")


class Header(NamedTuple):
    """What a checkpoint says of itself.  `emotions` is None where the file names none."""

    network: str
    emotions: tuple[str, ...] | None
    input_shape: tuple[int, int, int]


def save_checkpoint(model, path, emotions):
    """Write a checkpoint; the final name appears only when the file is whole.

    Args:
        model: a float32 `keras.Model`, faces (n, height, width, channels) -> probabilities (n, len(emotions)).
        path: the `.hdf5` to write; an older file of that name is replaced.
        emotions: labels in the order of the outputs.

    Raises:
        OSError: the disk is full or can't be written; an older file of that name is intact.
        ValueError: the model is not float32, or its outputs are not as many as the emotions.
    """
    policies = {layer.dtype_policy.compute_dtype for layer in model.layers}
    if policies != {"float32"}:
        raise ValueError(f"a checkpoint is written in float32; {model.name} computes in {sorted(policies)}")
    if model.output_shape[-1] != len(emotions):
        raise ValueError(f"one emotion per output: {model.name} has {model.output_shape[-1]}, given {len(emotions)}")
    with replacing(path) as partial:
        try:
            with _quiet("absl"):  # Keras calls the format legacy at every save
                model.save(partial, include_optimizer=False)
            with h5py.File(partial, "r+") as file:
                file.attrs["network"] = model.name
                file.attrs["emotions"] = json.dumps(list(emotions))
        except RuntimeError as error:  # HDF5 reports a full disk so when it closes the file
            raise OSError(f"{path} can't be written: {_first_line(error)}") from error


def read_header(path):
    """What a checkpoint says of itself, without building the network.

    Args:
        path: a Keras `.hdf5` or `.h5`.

    Returns:
        `Header`.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a Keras checkpoint of a face network; one line.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a model is a Keras checkpoint, {' or '.join(SUFFIXES)}; found {path}")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train one with: python train_emotion_classifier.py")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            weights = "model_weights" in file
    except OSError as error:
        raise ValueError(f"{path} is not a whole HDF5 file ({_first_line(error)}); copy or train it again") from error
    if "model_config" not in attributes or not weights:
        raise ValueError(
            f"{path} holds no Keras network: a checkpoint has its architecture (model_config) and its weights "
            f"(model_weights) inside; found {', '.join(sorted(attributes)) or 'neither'}; save it with model.save()"
        )
    try:
        config = json.loads(attributes["model_config"])
        emotions = tuple(json.loads(attributes["emotions"])) if "emotions" in attributes else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its description is not JSON ({error})") from error
    code = [node["class_name"] for node in _layers(config) if node["class_name"] in ("Lambda", "TFOpLambda")]
    if code:
        raise ValueError(
            f"{path} carries code in a {code[0]} layer, which would run here; only plain layers are loaded"
        )
    shapes = [node["config"].get("batch_shape") or node["config"].get("batch_input_shape") for node in _layers(config)]
    shape = tuple(next((shape for shape in shapes if shape), ()))[1:]
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape) or shape[2] != 1:
        raise ValueError(f"a face network takes grey images (height, width, 1) of a fixed size; {path} takes {shape}")
    name = attributes.get("network") or config.get("config", {}).get("name") or path.stem
    return Header(str(name), emotions, shape)


def load_checkpoint(path):
    """Build the network of a checkpoint, in float32, uncompiled.

    Args:
        path: a Keras `.hdf5` or `.h5`.

    Returns:
        (keras.Model, emotions): the network, and its labels in the order of its outputs.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a face network that can be loaded safely; one line.
    """
    header = read_header(path)
    import keras

    try:
        with h5py.File(path, "r") as file:
            config = json.loads(file.attrs["model_config"])
        # Keras 2 wrote settings into separable layers that Keras 3 no longer knows and that never had a meaning there.
        if sum(_drop_unknown_separable_settings(node) for node in _layers(config)):
            model = keras.models.model_from_json(json.dumps(config))
            model.load_weights(path)
        else:
            model = keras.models.load_model(path, compile=False)
    except Exception as error:  # a foreign file can fail anywhere inside Keras and h5py
        raise ValueError(f"{path} can't be loaded by Keras {keras.__version__}: {_first_line(error)}") from error
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ValueError(f"a face network gives one row of probabilities per face; {path} gives {model.output_shape}")
    return model, emotions_of(header, model.output_shape[-1], path)


def emotions_of(header, outputs, path):
    """The labels of a network with that many outputs; FER2013's seven where the file names none."""
    emotions = header.emotions or EMOTIONS
    if len(emotions) != outputs:
        whose = "names" if header.emotions else "names no emotions, and FER2013 has"
        raise ValueError(f"a network has one output per emotion; {path} has {outputs}, and {whose} {len(emotions)}")
    return emotions


def compile_checkpoint(path):
    """The LiteRT form of a checkpoint: found beside it or in the user's cache folder, else made there.

    It is named by the hash of the checkpoint's bytes.  Making it takes a few seconds and runs in a process of its own,
    so that the memory TensorFlow takes goes back with it.

    Args:
        path: a Keras `.hdf5` or `.h5`.

    Returns:
        Path of a `.tflite`: float32 faces (n, height, width, 1) in [-1, 1] -> probabilities (n, classes), any n.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`.
    """
    path = Path(path)
    read_header(path)
    beside = _compiled_beside(path)
    cached = cache_folder() / beside.name
    for compiled in (beside, cached):
        if compiled.is_file():
            return compiled
    print(f"compiling {path.name} once (a few seconds) ...", file=sys.stderr, flush=True)
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "models.checkpoint", str(path.resolve()), str(cached)]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(_last_line(done.stderr).removeprefix("error: ") or f"{path} can't be compiled")
    return cached


def cache_folder():
    """Where compiled checkpoints are kept: EMOTION_CACHE, else the system's folder for caches."""
    if os.environ.get("EMOTION_CACHE"):
        return Path(os.environ["EMOTION_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "facial-emotion"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "facial-emotion"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "facial-emotion"


def _compiled_beside(path):
    """The name of the compiled form beside its checkpoint: it changes with the checkpoint's bytes."""
    return path.with_name(f"{path.stem}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.tflite")


def _compile(path, compiled=None):
    """Convert a checkpoint with TensorFlow, in this process; `python -m models.checkpoint PATH` does so beside it."""
    import tensorflow as tf

    model, _ = load_checkpoint(path)
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    with replacing(compiled or _compiled_beside(Path(path))) as partial:
        partial.write_bytes(content)
    return 0


@contextlib.contextmanager
def _quiet(name):
    """Silence the warnings of a logger for a while."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _layers(config):
    """Every layer description in a model's configuration, nested models included."""
    if isinstance(config, dict):
        if "class_name" in config and isinstance(config.get("config"), dict):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _layers(value)


def _drop_unknown_separable_settings(node):
    """Remove what Keras 3 refuses in a separable or depthwise layer of Keras 2; how many settings."""
    if node["class_name"] not in ("SeparableConv2D", "DepthwiseConv2D"):
        return 0
    unknown = ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint")
    return sum(node["config"].pop(name, unknown) is not unknown for name in unknown)


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(text):
    return next(reversed(text.strip().splitlines()), "")


if __name__ == "__main__":
    from load_and_process import exit_status

    sys.exit(exit_status(lambda argv: _compile(*argv), sys.argv[1:]))
