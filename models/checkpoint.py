"""Checkpoints: one `.hdf5` per trained network, and the compiled form it runs in.

A checkpoint is a Keras `.hdf5` (architecture and float32 weights, no optimizer state) with three attributes of ours at
its root: `network`, the builder's name; `emotions`, the labels in the order of the outputs, as JSON; `temperature`, by
which the weights of its last layer have been divided, so that its probabilities are calibrated as they come out.  Files
without them, such as those of oarriaga/face_classification, are read as FER2013's seven.  Readers take the labels and
the input size from the file.

The live script runs the checkpoint compiled to LiteRT, which needs neither TensorFlow nor Keras and answers some
hundred times faster than `model.predict`.  `compile_checkpoint` makes that form once and keeps it under the hash of
the checkpoint's bytes, so a changed checkpoint is compiled anew.

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
from pathlib import Path
from typing import NamedTuple

import h5py

from command_line import Parser, UserError, cache_folder, exit_status, quiet_start, replacing
from load_and_process import EMOTIONS

SUFFIXES = (".hdf5", ".h5")


class Header(NamedTuple):
    """What a checkpoint says of itself.  `emotions` is None where the file names none."""

    network: str
    emotions: tuple[str, ...] | None
    input_shape: tuple[int, int, int]


def save_checkpoint(model, path, emotions, temperature=1.0):
    """Write a checkpoint; the final name appears only when the file is whole.

    Args:
        model: a float32 `keras.Model`, faces (n, height, width, channels) -> probabilities (n, len(emotions)).
        path: the `.hdf5` to write; an older file of that name is replaced.
        emotions: labels in the order of the outputs.
        temperature: what the logits have been divided by to calibrate them, for the record.

    Raises:
        OSError: the disk is full or can't be written; an older file of that name is intact.
        ValueError: the model is not float32, or its outputs are not as many as the emotions.
    """
    policies = {layer.dtype_policy.compute_dtype for layer in model.layers}
    if policies != {"float32"}:
        raise UserError(f"a checkpoint is written in float32; {model.name} computes in {sorted(policies)}")
    if model.output_shape[-1] != len(emotions):
        raise UserError(f"one emotion per output: {model.name} has {model.output_shape[-1]}, given {len(emotions)}")
    # What model.save() calls, on a file in memory: HDF5 takes the whole process down when it meets a full disk.
    from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        save_model_to_hdf5(model, file, include_optimizer=False)
        file.attrs["network"] = model.name
        file.attrs["emotions"] = json.dumps(list(emotions))
        file.attrs["temperature"] = temperature
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


def _meant(path):
    """The end of a message that names the checkpoint meant by a path without its ending or folder, if there is one."""
    shipped = Path(__file__).parent
    for name in (path.name, f"{path.name}.hdf5"):
        for meant in (path.parent / name, shipped / name):
            if meant.suffix in SUFFIXES and meant.is_file():
                return f"; did you mean {meant}?"
    return ""


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
        raise UserError(f"a model is a Keras checkpoint, {' or '.join(SUFFIXES)}; found {path}{_meant(path)}")
    if not path.is_file():
        how = _meant(path) or "; take one of models/*.hdf5, or train one with: python train_emotion_classifier.py"
        raise UserError(f"no checkpoint at {path}{how}")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            weights = "model_weights" in file
    except OSError as error:
        raise UserError(f"{path} is not a whole HDF5 file ({_first_line(error)}); copy or train it again") from error
    if "model_config" not in attributes or not weights:
        raise UserError(
            f"{path} holds no Keras network: a checkpoint has its architecture (model_config) and its weights "
            f"(model_weights) inside; found {', '.join(sorted(attributes)) or 'neither'}; save it with model.save()"
        )
    try:
        config = _config(attributes["model_config"])
        emotions = json.loads(attributes.get("emotions", "null"))
        shapes = [
            node["config"].get("batch_shape", node["config"].get("batch_input_shape")) for node in _layers(config)
        ]
        shape = next((tuple(shape) for shape in shapes if shape), ())[1:]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged: its description can't be read ({error}); copy or train it again"
        ) from error
    if emotions is not None and not (
        isinstance(emotions, list) and all(isinstance(emotion, str) and emotion for emotion in emotions)
    ):
        raise UserError(f"{path} is damaged: emotions are a list of names; found {emotions!r}")
    code = [node["class_name"] for node in _layers(config) if node["class_name"] in ("Lambda", "TFOpLambda")]
    if code:
        raise UserError(f"{path} carries code in a {code[0]} layer, which would run here; only plain layers are loaded")
    if len(shape) != 3 or not all(isinstance(side, int) for side in shape) or shape[2] != 1:
        raise UserError(f"a face network takes grey images (height, width, 1) of a fixed size; {path} takes {shape}")
    name = attributes.get("network") or config.get("config", {}).get("name") or path.stem
    return Header(str(name), None if emotions is None else tuple(emotions), shape)


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
            config = _config(file.attrs["model_config"])
        for node in _layers(config):
            if "dtype" in node["config"]:  # whatever precision it was trained in
                node["config"]["dtype"] = "float32"
            if node["class_name"] in ("SeparableConv2D", "DepthwiseConv2D"):
                for name in ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"):
                    node["config"].pop(name, None)  # Keras 2 wrote them, without a meaning; Keras 3 refuses them
        kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
        model = kind.from_config(config["config"])
        model.load_weights(path)
    except Exception as error:  # a foreign file can fail anywhere inside Keras and h5py
        raise UserError(f"{path} can't be loaded by Keras {keras.__version__}: {_first_line(error)}") from error
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise UserError(f"a face network gives one row of probabilities per face; {path} gives {model.output_shape}")
    return model, emotions_of(header, model.output_shape[-1], path)


def emotions_of(header, outputs, path):
    """The labels of a network with that many outputs; FER2013's seven where the file names none."""
    emotions = header.emotions or EMOTIONS
    if len(emotions) != outputs:
        whose = "names" if header.emotions else "names no emotions, and FER2013 has"
        raise UserError(f"a network has one output per emotion; {path} has {outputs}, and {whose} {len(emotions)}")
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
        FileNotFoundError, ValueError: as `load_checkpoint`, or it must be compiled, and TensorFlow is missing or the
            cache folder can't be written.
    """
    return next(compiled_forms(path))


def compiled_forms(path):
    """Where `compile_checkpoint` finds the LiteRT form, one after the other; take the next where one is damaged.

    Args, Raises: as `compile_checkpoint`.

    Yields:
        Path of a `.tflite`: the one beside the checkpoint and the one in the cache folder, as far as they are there,
        then the latter as it is made anew.
    """
    path = Path(path)
    read_header(path)
    beside = _compiled_beside(path)
    if beside.is_file():
        yield beside
    cached = cache_folder() / beside.name
    if cached.is_file():
        yield cached
    if not importlib.util.find_spec("tensorflow"):
        raise UserError(f"{path} must be compiled first, which takes TensorFlow: pip install -r requirements.txt")
    print(f"compiling {path.name} once (a few seconds) ...", file=sys.stderr, flush=True)
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "models.checkpoint", str(path.resolve()), str(cached.absolute())]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise UserError(_last_line(done.stderr).removeprefix("error: ") or f"{path} can't be compiled")
    yield cached


def _compiled_beside(path):
    """The name of the compiled form beside its checkpoint: it changes with the checkpoint's bytes."""
    return path.with_name(f"{path.stem}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.tflite")


def _compile(path, compiled=None):
    """Convert a checkpoint with TensorFlow, in this process; `python -m models.checkpoint PATH` does so beside it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
    read_header(path)
    compiled = Path(compiled or _compiled_beside(Path(path)))
    with replacing(compiled) as partial:  # asks for the file before the long work
        with quiet_start():
            import tensorflow as tf

            model, _ = load_checkpoint(path)
        with contextlib.redirect_stdout(io.StringIO()), quiet_start():  # TensorFlow lists all it has converted
            partial.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    print(f"compiled: {compiled}")
    return 0


def _config(text):
    """A model's configuration from its JSON, a `Sequential` of Keras before 2.2.3 in today's form."""
    config = json.loads(text)
    if isinstance(config["config"], list):
        shape = config["config"][0]["config"].pop("batch_input_shape", None)
        given = {"class_name": "InputLayer", "config": {"name": "faces", "batch_input_shape": shape}}
        config["config"] = {"name": "sequential", "layers": [given, *config["config"]]}
    return config


def _layers(config):
    """Every layer description in a model's configuration, nested models included."""
    if isinstance(config, dict):
        if "class_name" in config and isinstance(config.get("config"), dict):
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _layers(value)


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(text):
    return next(reversed(text.strip().splitlines()), "")


if __name__ == "__main__":

    def main(argv):
        parser = Parser(prog="python -m models.checkpoint", description="Compile a checkpoint for the live script.")
        parser.add_argument("path", metavar="MODEL.hdf5")
        parser.add_argument("compiled", nargs="?", metavar="MODEL.tflite", help="where to; default: beside it")
        return _compile(**vars(parser.parse_args(argv)))

    sys.exit(exit_status(main))
