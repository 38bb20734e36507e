"""Checkpoints: one `.hdf5` file per trained network, and the compiled form that the live script runs.

A checkpoint is a Keras `.hdf5` (architecture and float32 weights, no optimizer state) with three attributes of this
project at its root: `network`, the builder's name; `emotions`, the labels in the order of the outputs, as JSON;
`temperature`, the number by which the logits were divided to calibrate the probabilities (the last layer's weights
include this division).  Files without `emotions`, such as those of oarriaga/face_classification, get FER2013's seven
labels.  The input size comes from the file, too.

The live script runs the checkpoint compiled to LiteRT.  LiteRT needs neither TensorFlow nor Keras, and answers about a
hundred times faster than `model.predict`.  `compile_checkpoint` compiles a checkpoint once.  The name of the result
contains the hash of the checkpoint's bytes, so a changed checkpoint is compiled again.

    python -m models.checkpoint MODEL.hdf5        compile a checkpoint, and put the result beside it

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py

from command_line import Parser, UserError, cache_folder, exit_status, quiet_start, reading, replacing
from load_and_process import EMOTIONS

if TYPE_CHECKING:
    import keras

SUFFIXES = (".hdf5", ".h5")
KERAS_2_ARGUMENTS = ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint")


class Header(NamedTuple):
    """What a checkpoint's file says about its network."""

    network: str  # name of the builder
    emotions: tuple[str, ...] | None  # labels in the order of the outputs; None where the file has no labels
    input_shape: tuple[int, int, int]  # height, width, channels


# ----------------------------------------------------------------------------------------------------------
# Writing


def save_checkpoint(model: "keras.Model", path: str | Path, emotions: Sequence[str], temperature: float = 1.0) -> None:
    """Write a checkpoint; the file gets its final name only when it is complete.

    Args:
        model: A float32 network, from faces (n, height, width, channels) to probabilities (n, len(emotions)).
        path: The `.hdf5` to write; an older file of that name is replaced.
        emotions: Labels in the order of the outputs.
        temperature: The number by which the logits were divided to calibrate them; it is written down only.

    Raises:
        UserError: The file can't be written, or the disk is full; an older file of that name is intact.
        ValueError: The model is not float32, or does not have one output per emotion.
    """
    dtypes = {layer.dtype_policy.compute_dtype for layer in model.layers}
    if dtypes != {"float32"}:
        raise ValueError(f"a checkpoint is written in float32; {model.name} computes in {sorted(dtypes)}")
    if model.output_shape[-1] != len(emotions):
        raise ValueError(f"one emotion per output: {model.name} has {model.output_shape[-1]}, given {len(emotions)}")
    # model.save() calls this function, too, but with a file on the disk: HDF5 ends the whole process on a full disk.
    from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        save_model_to_hdf5(model, file, include_optimizer=False)
        file.attrs["network"] = model.name
        file.attrs["emotions"] = json.dumps(list(emotions))
        file.attrs["temperature"] = temperature
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


# ----------------------------------------------------------------------------------------------------------
# Reading


def read_header(path: str | Path) -> Header:
    """Read what a checkpoint says about its network, without building the network.

    Args:
        path: A Keras `.hdf5` or `.h5`.

    Returns:
        The network's name, its labels and its input shape.

    Raises:
        UserError: There is no such file, or it is not a Keras checkpoint of a face network.
    """
    header, _ = _read_description(Path(path))
    return header


def load_checkpoint(path: str | Path) -> tuple["keras.Model", tuple[str, ...]]:
    """Build the network of a checkpoint, in float32, uncompiled.

    Args:
        path: A Keras `.hdf5` or `.h5`.

    Returns:
        The network, and its labels in the order of its outputs.

    Raises:
        UserError: There is no such file, or it is not a face network that can be loaded safely.
    """
    path = Path(path)
    header, config = _read_description(path)
    import keras

    for layer in _layers(config):
        if "dtype" in layer["config"]:  # the network may have been trained in another precision
            layer["config"]["dtype"] = "float32"
        if layer["class_name"] in ("SeparableConv2D", "DepthwiseConv2D"):
            for argument in KERAS_2_ARGUMENTS:  # Keras 2 wrote them without a use for them; Keras 3 refuses them
                layer["config"].pop(argument, None)
    model_class = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    try:
        model = model_class.from_config(config["config"])
        model.load_weights(path)
    except Exception as error:  # with a foreign file any call inside Keras can fail
        raise UserError(f"{path} can't be loaded by Keras {keras.__version__}: {_first_line(error)}") from error
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise UserError(f"a face network gives one row of probabilities per face; {path} gives {model.output_shape}")
    return model, emotions_of(header, model.output_shape[-1], path)


def emotions_of(header: Header, outputs: int, path: str | Path) -> tuple[str, ...]:
    """Return the labels of a network; FER2013's seven where the file has no labels.

    Args:
        header: What `read_header` returned.
        outputs: How many probabilities the network gives per face.
        path: The checkpoint, for the message.

    Raises:
        UserError: The number of labels is not the number of outputs.
    """
    emotions = header.emotions or EMOTIONS
    if len(emotions) != outputs:
        whose = "names" if header.emotions else "names no emotions, and FER2013 has"
        raise UserError(f"a network has one output per emotion; {path} has {outputs}, and {whose} {len(emotions)}")
    return emotions


def _read_description(path):
    """Return a checkpoint's `Header`, and its network's architecture as Keras's nested dict."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"a model is a Keras checkpoint, {' or '.join(SUFFIXES)}; found {path}{_did_you_mean(path)}")
    with reading(path):  # a folder on the way may be closed to the user
        is_file = path.is_file()
    if not is_file:
        advice = "; take one of models/*.hdf5, or train one with: python train_emotion_classifier.py"
        raise UserError(f"no checkpoint at {path}{_did_you_mean(path) or advice}")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            has_weights = "model_weights" in file
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py raises for damaged files
        raise UserError(f"{path} is not a whole HDF5 file ({_first_line(error)}); copy or train it again") from error
    if "model_config" not in attributes or not has_weights:
        raise UserError(
            f"{path} holds no Keras network: a checkpoint has its architecture (model_config) and its weights "
            f"(model_weights) inside; found {', '.join(sorted(attributes)) or 'neither'}; save it with model.save()"
        )
    config = _with_input_layer(_parse_json(path, attributes["model_config"]))
    if not _is_layer(config):
        raise UserError(f"{path} is damaged: its model_config describes no network; copy or train it again")
    emotions = _parse_json(path, attributes.get("emotions", "null"))
    if emotions is not None and not (
        isinstance(emotions, list) and all(isinstance(emotion, str) and emotion for emotion in emotions)
    ):
        raise UserError(f"{path} is damaged: emotions are a list of names; found {emotions!r}; copy or train it again")
    code = [layer["class_name"] for layer in _layers(config) if layer["class_name"] in ("Lambda", "TFOpLambda")]
    if code:
        raise UserError(f"{path} carries code in a {code[0]} layer, which would run here; only plain layers are loaded")
    shape = _input_shape(config)
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape) or shape[2] != 1:
        raise UserError(f"a face network takes grey images (height, width, 1) of a fixed size; {path} takes {shape}")
    name = attributes.get("network") or config["config"].get("name") or path.stem
    return Header(str(name), None if emotions is None else tuple(emotions), shape), config


def _did_you_mean(path):
    """Return the end of a message: the checkpoint that a path without its suffix or folder stands for, or nothing."""
    shipped = Path(__file__).parent
    for name in (path.name, f"{path.name}.hdf5"):
        for candidate in (path.parent / name, shipped / name):
            if candidate.suffix in SUFFIXES and os.path.isfile(candidate):  # isfile: False where access is denied
                return f"; did you mean {candidate}?"
    return ""


def _parse_json(path, text):
    """Return the value of a checkpoint's JSON attribute."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: the attribute is not text
        raise UserError(
            f"{path} is damaged: its description can't be read ({error}); copy or train it again"
        ) from error


def _with_input_layer(config):
    """Bring a `Sequential` of Keras before 2.2.3, a plain list of layers, into today's form; leave others alone."""
    layers = config.get("config") if isinstance(config, dict) else None
    if isinstance(layers, list) and layers and _is_layer(layers[0]):
        shape = layers[0]["config"].pop("batch_input_shape", None)
        input_layer = {"class_name": "InputLayer", "config": {"name": "faces", "batch_input_shape": shape}}
        config["config"] = {"name": "sequential", "layers": [input_layer, *layers]}
    return config


def _is_layer(value):
    """Return whether a part of a configuration describes a layer or a model."""
    return isinstance(value, dict) and "class_name" in value and isinstance(value.get("config"), dict)


def _layers(config):
    """Yield the description of every layer in a model's configuration, nested models included."""
    if _is_layer(config):
        yield config
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from _layers(value)


def _input_shape(config):
    """Return (height, width, channels) of the first layer that has a shape, () where there is none."""
    for layer in _layers(config):
        shape = layer["config"].get("batch_shape", layer["config"].get("batch_input_shape"))
        if isinstance(shape, list) and shape:
            return tuple(shape[1:])
    return ()


def _first_line(error):
    """Return the first line of an error's message, or the error's type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# ----------------------------------------------------------------------------------------------------------
# The compiled form


def compile_checkpoint(path: str | Path) -> Path:
    """Return the LiteRT form of a checkpoint; compile the checkpoint where no compiled form is found.

    Args:
        path: A Keras `.hdf5` or `.h5`.

    Returns:
        A `.tflite`: float32 faces (n, height, width, 1) in [-1, 1] -> probabilities (n, classes), any n.

    Raises:
        UserError: As `read_header` and `compile_to_cache`.
    """
    read_header(path)
    return next(find_compiled(path), None) or compile_to_cache(path)


def find_compiled(path: str | Path) -> Iterator[Path]:
    """Yield the compiled forms of a checkpoint that exist: first beside it, then in the user's cache folder.

    Args:
        path: An existing checkpoint.
    """
    beside = _compiled_beside(Path(path))
    if beside.is_file():
        yield beside
    cached = cache_folder() / beside.name
    if cached.is_file():
        yield cached


def compile_to_cache(path: str | Path) -> Path:
    """Compile a checkpoint in a few seconds, and put the result into the user's cache folder.

    A process of its own does the work, so that the memory of TensorFlow is free again afterwards.

    Args:
        path: An existing checkpoint.

    Returns:
        The `.tflite`.

    Raises:
        UserError: TensorFlow is missing, the network can't be compiled, or the cache folder can't be written.
        RuntimeError: The process failed in another way; the message is all that it wrote.
    """
    path = Path(path)
    if not importlib.util.find_spec("tensorflow"):
        raise UserError(f"{path} must be compiled first, which takes TensorFlow: pip install -r requirements.txt")
    print(f"compiling {path.name} once (a few seconds) ...", file=sys.stderr, flush=True)
    cached = cache_folder() / _compiled_beside(path).name
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "models.checkpoint", str(path.resolve()), str(cached.absolute())]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        last_line = next(reversed(done.stderr.strip().splitlines()), "")
        if last_line.startswith("error: "):
            raise UserError(last_line.removeprefix("error: "), exit_status=done.returncode)
        if done.returncode < 0:  # a signal: too little memory, or a processor that TensorFlow does not support
            raise UserError(f"{path} can't be compiled: TensorFlow ended by signal {-done.returncode}", exit_status=1)
        raise RuntimeError(f"compiling {path} failed:\n{done.stderr}")
    return cached


def _compiled_beside(path):
    """Return the path of the compiled form beside its checkpoint; its name contains the hash of the checkpoint."""
    return path.with_name(f"{path.stem}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.tflite")


def _compile(path, compiled):
    """Compile a checkpoint with TensorFlow in this process, and write the result to `compiled`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
    with replacing(compiled) as partial:  # checks that the file can be written, before the long work
        with quiet_start():
            import tensorflow as tf

            model, _ = load_checkpoint(path)
        with contextlib.redirect_stdout(io.StringIO()), quiet_start():  # TensorFlow prints a list of the operations
            try:
                content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
            except Exception as error:  # with a foreign network any call inside TensorFlow can fail
                raise UserError(f"{path} can't be compiled by TensorFlow: {_first_line(error)}") from error
        partial.write_bytes(content)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one checkpoint, as the command line says."""
    parser = Parser(prog="python -m models.checkpoint", description="Compile a checkpoint for the live script.")
    parser.add_argument("path", metavar="MODEL.hdf5", type=Path)
    parser.add_argument("compiled", nargs="?", metavar="MODEL.tflite", type=Path, help="default: beside the checkpoint")
    args = parser.parse_args(argv)
    read_header(args.path)
    compiled = args.compiled or _compiled_beside(args.path)
    _compile(args.path, compiled)
    print(f"compiled: {compiled}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
