"""Checkpoints: one file per trained network, and the compiled form that the live script runs.

A checkpoint is a Keras `.hdf5` or `.h5` (architecture and float32 weights, no optimizer state) with attributes of this
project at its root: `network`, the builder's name; `emotions`, the labels in the order of the outputs, as JSON;
`input_range`, the values of black and white, as JSON; `temperature`, the number by which the logits were divided to
calibrate the probabilities (the last layer's weights include this division); `trained_on`, where faces were drawn.  A
`.keras` file has the same in its `metadata.json`.  The input size comes from the file, too.

Files of others say less.  What a file does not say, the user says (`--emotions`, `--input-range`), or it is assumed and
a notice says so.  Whatever the file, `load_checkpoint` and the compiled form take grey faces in [-1, 1] and give
probabilities: where the network itself takes another range or three channels, or gives logits, layers are put around
it.  `models/safety.py` says what a file may contain.

The live script runs the checkpoint compiled to LiteRT.  LiteRT needs neither TensorFlow nor Keras, and answers about a
hundred times faster than `model.predict`.  `compile_checkpoint` compiles a checkpoint once.  The name of the result
contains the hash of the checkpoint's bytes, so a changed checkpoint is compiled again.  This has nothing to do with
Keras's `model.compile()`.

    python -m models.checkpoint MODEL                          compile a checkpoint: beside it, and in the user's cache
    python -m models.checkpoint MODEL --emotions a,b,c --input-range 0,1      write what a file does not say into it
    python -m models.checkpoint MODEL MODEL.keras              write it in Keras's own format
    python -m models.checkpoint MODEL --onnx                   put an ONNX file beside it

Importing this module imports neither TensorFlow nor Keras.
"""

from command_line import (  # first: it makes Ctrl-C quiet
    Parser,
    UserError,
    cache_folder,
    exit_status,
    printable,
    quiet_start,
    reading,
    replacing,
)

# isort: split
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np

from load_and_process import EMOTIONS
from models.safety import (
    LARGEST_JSON,
    LARGEST_SIDE,
    LAYERS,
    MOST_EMOTIONS,
    MOST_NUMBERS,
    check_hdf5,
    check_nesting,
    check_network,
    check_weight_names,
    copy_description,
    limited_weights,
)

if TYPE_CHECKING:
    import keras

SUFFIXES = (".hdf5", ".h5", ".keras")
WEIGHTS = "model.weights.h5"  # member of a .keras file
DRAWN = "drawn faces"  # what a network has learnt that knows no person
# of a .hdf5, at its root
ATTRIBUTES = ("model_config", "network", "emotions", "input_range", "temperature", "trained_on")
RANGE = (-1.0, 1.0)  # of the pixels that networks of this project take, black to white
COMPILED_FOLDER = Path(__file__).parent  # of the compiled forms that come with the project
COMPILED_HERE = (
    "big_XCEPTION.c51790a48e1d2f31.tflite",
    "big_XCEPTION.people.54c61eff61bde371.tflite",
    "mini_XCEPTION.5a3c45787f4f9a54.tflite",
    "mini_XCEPTION.people.f7e50ef26c3be101.tflite",
    "simple_CNN.67a6db56033625a0.tflite",
    "simple_CNN.people.6fde715750e65b6f.tflite",
    "simpler_CNN.4d79226158eb62ef.tflite",
    "tiny_XCEPTION.0a0527073bb948c4.tflite",
)
KERAS_2_ARGUMENTS = ("groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint")


class Header(NamedTuple):
    """What a checkpoint's file says about its network."""

    network: str  # the builder's name; of other files, the Keras model's name, or the file's
    emotions: tuple[str, ...] | None  # labels in the order of the outputs; None where the file has no labels
    input_shape: tuple[int, int, int]  # height, width, channels
    input_range: tuple[float, float] | None  # what the network takes for black and for white; None: not said
    trained_on: str = ""  # DRAWN; else nothing


# ----------------------------------------------------------------------------------------------------------
# Writing


def save_checkpoint(
    model: "keras.Model", path: str | Path, emotions: Sequence[str], temperature: float = 1.0, trained_on: str = ""
) -> None:
    """Write a checkpoint; the file gets its final name only when it is complete.

    Args:
        model: A float32 network, from faces (n, height, width, channels) to probabilities (n, len(emotions)).
        path: The `.hdf5` or `.keras` to write; an older file of that name is replaced.
        emotions: Labels in the order of the outputs.
        temperature: The number by which the logits were divided to calibrate them; it is written down only.
        trained_on: DRAWN, if the network knows drawn faces only.

    Raises:
        UserError: The file can't be written, or the disk is full; an older file of that name is intact.
        ValueError: The model is not float32, or does not have one output per emotion.
    """
    dtypes = {layer.dtype_policy.compute_dtype for layer in model.layers}
    if dtypes != {"float32"}:
        raise ValueError(f"a checkpoint is written in float32; {model.name} computes in {sorted(dtypes)}")
    if model.output_shape[-1] != len(emotions):
        raise ValueError(f"one emotion per output: {model.name} has {model.output_shape[-1]}, given {len(emotions)}")
    said = {"network": model.name, "emotions": list(emotions), "input_range": list(RANGE), "temperature": temperature}
    said |= {"trained_on": trained_on} if trained_on else {}
    if Path(path).suffix == ".keras":
        import keras

        with replacing(path) as partial:
            keras.Model(model.inputs, model.outputs, name=model.name).save(partial)  # without optimizer
            _write_attributes(partial, said)
        return
    # model.save() calls this function, too, but with a file on the disk: HDF5 ends the whole process on a full disk.
    from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        save_model_to_hdf5(model, file, include_optimizer=False)
        for name, value in said.items():
            file.attrs[name] = json.dumps(value) if isinstance(value, list) else value
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


def write_header(path: Path, header: Header) -> None:
    """Write a header's labels, input range and `trained_on` into a model's file; its network stays as it is.

    Args:
        path: A `.hdf5`, `.h5` or `.keras`.
        header: With the labels in the order of the outputs; what is None is not written.

    Raises:
        UserError: The file can't be written; it is intact.
    """
    said = {"emotions": header.emotions, "input_range": header.input_range}
    said = {name: list(value) for name, value in said.items() if value}
    _write_attributes(path, said | ({"trained_on": header.trained_on} if header.trained_on else {}))


def _write_attributes(path, said):
    """Write values by name into a model's file."""
    content = io.BytesIO(path.read_bytes())
    if path.suffix == ".keras":
        with zipfile.ZipFile(content) as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist()}
        members["metadata.json"] = json.dumps(json.loads(members["metadata.json"]) | said).encode()
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member)
    else:
        with h5py.File(content, "r+") as file:
            for name, value in said.items():
                file.attrs[name] = json.dumps(value) if isinstance(value, list) else value
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


# ----------------------------------------------------------------------------------------------------------
# Reading


def read_header(path: str | Path) -> Header:
    """Read what a checkpoint says about its network, without building the network.

    Args:
        path: A Keras `.hdf5`, `.h5` or `.keras`.

    Returns:
        What the file says.

    Raises:
        UserError: There is no such file, or it is not a face network that may be loaded.
    """
    header, *_ = _read_description(Path(path))
    return header


def complete_headers(
    paths: Sequence[Path],
    headers: Sequence[Header],
    emotions: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
) -> list[Header]:
    """Add what the user says to the headers that do not say it; one notice says what is still assumed.

    Args:
        paths: The checkpoints.
        headers: What `read_header` returned of each.
        emotions: Labels in the order of the outputs, for the checkpoints that name none.
        input_range: What the network takes for black and for white, for the checkpoints that do not say it.

    Returns:
        The headers.  Labels and range are None where they must be assumed.

    Raises:
        UserError: A value is given, but every file says its own value, and another one.
    """
    for name, given in (("emotions", emotions), ("input_range", input_range)):
        said = [getattr(header, name) for header in headers]
        if given and None not in said and tuple(given) not in said:
            flag = f"--{name.replace('_', '-')}"
            text = ",".join(f"{each:g}" if name == "input_range" else each for each in said[0])
            raise UserError(
                f"{flag} is for models whose file does not say it; {paths[0]} says {text}: leave {flag} out, or "
                f"change the file with python -m models.checkpoint {paths[0]} {flag} ..."
            )
    headers = [
        header._replace(
            emotions=header.emotions or (tuple(emotions) if emotions else None),
            input_range=header.input_range or (tuple(input_range) if input_range else None),
        )
        for header in headers
    ]
    unnamed = [str(path) for path, header in zip(paths, headers, strict=True) if not header.emotions]
    unscaled = [str(path) for path, header in zip(paths, headers, strict=True) if not header.input_range]
    assumed = []
    if unnamed:
        names = f"FER2013's order of the emotions ({', '.join(EMOTIONS)})"
        assumed.append(f"{names} for {', '.join(unnamed)}, else pass --emotions a,b,c")
    if unscaled:
        assumed.append(f"pixels from -1 to 1 for {', '.join(unscaled)}, else pass --input-range 0,1 (or 0,255)")
    if assumed:
        _notice(f"notice: assumed, since the file does not say it: {'; '.join(assumed)}")
    return headers


def warn_if_trained_on_drawings(paths: Sequence[str | Path], headers: Sequence[Header]) -> None:
    """Print a notice, once, that names the checkpoints that learnt from drawn faces only."""
    if drawn := [str(path) for path, header in zip(paths, headers, strict=True) if header.trained_on == DRAWN]:
        _notice(f"notice: {', '.join(drawn)} learnt from drawn faces only: what it says of people means nothing")


@lru_cache
def _notice(text):
    """Print a notice once, however many parts of a program read the same file."""
    print(printable(text), file=sys.stderr)


def parse_emotions(text: str | None) -> tuple[str, ...] | None:
    """Return the labels of `--emotions a,b,c`; None where the flag was not given.

    Raises:
        UserError: They are not 2 to 20 different names.
    """
    if text is None:
        return None
    emotions = tuple(emotion.strip() for emotion in text.split(","))
    if fault := _fault_of(emotions):
        raise UserError(f"--emotions are names with commas between them, in the order of the outputs; found {fault}")
    return emotions


def parse_input_range(text: str | None) -> tuple[float, float] | None:
    """Return the numbers of `--input-range 0,1`; None where the flag was not given.

    Raises:
        UserError: They are not two numbers, the smaller first.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -1e6 <= low < high <= 1e6:
        raise UserError(f"--input-range is two numbers, for black and for white, such as 0,1 or 0,255; found {text}")
    return low, high


def _fault_of(emotions):
    """Return what is wrong with labels, or nothing."""
    if not 2 <= len(emotions) <= MOST_EMOTIONS:
        return f"{len(emotions)} of them, where 2 to {MOST_EMOTIONS} are allowed"
    for emotion in emotions:
        if not (isinstance(emotion, str) and emotion.strip() and len(emotion) <= 40 and emotion.isprintable()):
            return f"{emotion!a}, which is not a name of 1 to 40 printable characters"
        if emotions.count(emotion) > 1:
            return f"{emotion} twice"
    return None


def load_checkpoint(path: str | Path, header: Header | None = None) -> tuple["keras.Model", tuple[str, ...]]:
    """Build the network of a checkpoint, in float32, without Keras's `model.compile()`.

    Args:
        path: A Keras `.hdf5`, `.h5` or `.keras`.
        header: What `complete_headers` returned; None: what the file says.

    Returns:
        A network from faces, float32 (n, height, width, 1) in [-1, 1], to probabilities (n, emotions); and its labels
        in the order of its outputs.

    Raises:
        UserError: There is no such file, or it is not a face network that can be loaded safely.
    """
    path = Path(path)
    said, config, numbers = _read_description(path)
    header = header or said
    import keras

    for layer in _layers(config):
        if layer["class_name"] in ("SeparableConv2D", "DepthwiseConv2D"):
            for argument in KERAS_2_ARGUMENTS:  # Keras 2 wrote them without a use for them; Keras 3 refuses them
                layer["config"].pop(argument, None)
        axis = layer["config"].get("axis")
        if layer["class_name"] == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:
            layer["config"]["axis"] = axis[0]  # Keras 2 wrote a list
        shape = layer["config"].get("batch_shape", layer["config"].get("batch_input_shape"))
        if isinstance(shape, list) and shape:
            shape[0] = None  # any number of faces
    model_class = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    with _calling_keras(path), limited_weights(numbers, path), warnings.catch_warnings():
        warnings.filterwarnings("error", "Skipping")  # a layer whose weights are not in the file
        model = model_class.from_config(config["config"])
        if path.suffix != ".keras":
            with h5py.File(path, "r") as file:
                check_weight_names(file, path)
        model.load_weights(path)
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise UserError(f"a face network gives one row of probabilities per face; {path} gives {model.output_shape}")
    check_network(model, path)
    emotions = emotions_of(header, model.output_shape[-1], path)
    with _calling_keras(path):
        return _adapt(model, header), emotions


@contextlib.contextmanager
def _calling_keras(path):
    """Translate what Keras raises: with a foreign file any call inside Keras can fail."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from keras import __version__

        raise UserError(f"{path} can't be loaded by Keras {__version__}: {_first_line(error)}") from error


def _adapt(model, header):
    """Put layers around a network so that it takes grey faces in [-1, 1] and gives probabilities."""
    from keras import Input, Model, layers

    (low, high), channels, logits = header.input_range or RANGE, header.input_shape[2], _gives_logits(model)
    augments = any(type(layer).__name__.startswith("Random") for layer in model._flatten_layers())
    if (low, high) == RANGE and channels == 1 and not logits and not augments:
        return model
    faces = x = Input((*header.input_shape[:2], 1), name="faces")
    if (low, high) != RANGE:
        x = layers.Rescaling((high - low) / 2, (high + low) / 2)(x)
    if channels == 3:
        x = layers.Concatenate()([x, x, x])
    x = model(x, training=False)  # layers that augment do so unless they are told not to
    return Model(faces, layers.Softmax()(x) if logits else x, name=model.name)


def _gives_logits(model):
    """Return whether a network ends without an activation; layers that keep probabilities as they are don't count."""
    layer = model
    while True:
        if hasattr(layer, "layers"):
            layer = layer.outputs[0]._keras_history.operation
        elif type(layer).__name__ in ("Dropout", "Flatten", "Reshape", "GlobalAveragePooling2D", "AveragePooling2D"):
            layer = layer.input._keras_history.operation
        else:
            activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
            return activation == "linear" and type(layer).__name__ not in ("Softmax", "ReLU", "PReLU", "LeakyReLU")


def emotions_of(header: Header, outputs: int, path: str | Path) -> tuple[str, ...]:
    """Return the labels of a network; FER2013's seven where nobody has named them.

    Args:
        header: What `read_header` or `complete_headers` returned.
        outputs: How many probabilities the network gives per face.
        path: The checkpoint, for the message.

    Raises:
        UserError: The number of labels is not the number of outputs.
    """
    emotions = header.emotions or EMOTIONS
    if len(emotions) != outputs:
        whose = f"has the names of {len(emotions)}: {', '.join(emotions)}"
        if not header.emotions:
            whose = f"names no emotions, and FER2013 has {len(EMOTIONS)}: name them in order, --emotions a,b,c"
        raise UserError(f"a network has one output per emotion; {path} has {outputs}, and {whose}")
    return emotions


def check_probabilities(probabilities: np.ndarray, path: str | Path) -> None:
    """Check that what a network gave are probabilities.

    Args:
        probabilities: float (k, emotions).
        path: The checkpoint, for the message.

    Raises:
        UserError: A value is NaN, infinite or negative, or a row does not sum to 1.
    """
    faults = ~((np.abs(probabilities.sum(axis=1) - 1) < 1e-3) & (probabilities >= 0).all(axis=1))  # NaN is a fault
    if faults.any():
        row = probabilities[faults.argmax()]
        text = ", ".join(f"{value:.3g}" for value in row[:8])
        what = "other numbers" if np.isfinite(row).all() else "NaN or infinite numbers"
        raise UserError(
            f"{path} must give probabilities, which sum to 1, or logits; found {what} ({text}): "
            "train it again, or take another model"
        )


def _read_description(path):
    """Return a checkpoint's `Header`, its network's checked architecture, and how many numbers the file holds."""
    if path.suffix not in SUFFIXES:
        wanted = "a Keras checkpoint, .keras, .hdf5 or .h5"
        if os.path.isfile(path / "saved_model.pb"):
            way = "; a SavedModel holds code: load it in the program that made it, and model.save('NAME.keras')"
            raise UserError(f"a model is {wanted}; found the folder {path}{way}")
        raise UserError(f"a model is {wanted}; found {path}{_did_you_mean(path)}")
    with reading(path):  # a folder on the way may be closed to the user
        is_file = path.is_file()
    if not is_file:
        advice = "; take one of models/*.hdf5, or train one with: python train_emotion_classifier.py"
        raise UserError(f"no checkpoint at {path}{_did_you_mean(path) or advice}")
    attributes, config, numbers = (_read_keras if path.suffix == ".keras" else _read_hdf5)(path)
    check_nesting(config, path)
    config = _with_input_layer(config)
    if not _is_layer(config):
        raise UserError(f"{path} is damaged: its model_config describes no network; copy or train it again")
    code = [layer["class_name"] for layer in _layers(config) if layer["class_name"] in ("Lambda", "TFOpLambda")]
    if code:
        raise UserError(f"{path} carries code in a {code[0]} layer, which would run here; only plain layers are loaded")
    shape = _input_shape(config)
    sides_fit = len(shape) == 3 and all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape)
    if not sides_fit or shape[2] not in (1, 3):
        raise UserError(
            f"a face network takes grey images (height, width, 1), or colour images (height, width, 3), of a fixed "
            f"size up to {LARGEST_SIDE}; {path} takes {shape}"
        )
    config = copy_description(config, path)
    emotions = attributes.get("emotions")
    fault = None if emotions is None else _fault_of(emotions) if isinstance(emotions, list) else f"{emotions!a:.60}"
    if fault:
        raise UserError(f"{path} is damaged: emotions are a list of names; found {fault}; copy or train it again")
    names = (attributes.get("network"), config["config"].get("name"))
    name = next((name for name in names if isinstance(name, str) and name and name.isprintable()), path.stem)
    drawn = DRAWN if attributes.get("trained_on") == DRAWN else ""
    header = Header(name, emotions and tuple(emotions), shape, _input_range(attributes, config, path), drawn)
    return header, config, numbers


def _read_hdf5(path):
    """Return the attributes, the architecture as Keras's nested dict, and the count of numbers of a `.hdf5`."""
    try:
        with h5py.File(path, "r") as file:
            names = sorted(file.attrs)
            attributes = {name: file.attrs[name] for name in ATTRIBUTES if name in names}
            has_weights = "model_weights" in file
            numbers = check_hdf5(file, path)
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # what h5py raises for damaged files
        raise UserError(f"{path} is not a whole HDF5 file ({_first_line(error)}); copy or train it again") from error
    if path.name.endswith(".weights.h5"):
        raise UserError(
            f"{path} holds weights alone: build the network in Keras, network.load_weights('{path.name}'), and "
            "model.save('NAME.keras')"
        )
    if "model_config" not in attributes or not has_weights:
        raise UserError(
            f"{path} holds no Keras network: a checkpoint has its architecture (model_config) and its weights "
            f"(model_weights) inside; found {', '.join(names) or 'neither'}; save it with model.save()"
        )
    for name in ("network", "trained_on"):
        if not isinstance(attributes.get(name), str):
            attributes.pop(name, None)
    for name in ("model_config", "emotions", "input_range"):
        if name in attributes:
            attributes[name] = _parse_json(path, attributes[name])
    return attributes, attributes.pop("model_config"), numbers


def _read_keras(path):
    """Return the same of a `.keras`: a zip of two JSON files and an HDF5 file."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            limits = {"config.json": LARGEST_JSON, "metadata.json": LARGEST_JSON, WEIGHTS: 4 * MOST_NUMBERS}
            for name, most in limits.items():
                if sizes.get(name, 0) > most:
                    raise UserError(f"{path} must be of a network; found {sizes[name]:,} bytes of {name} in it")
            config, metadata = archive.read("config.json"), archive.read("metadata.json")
            with h5py.File(io.BytesIO(archive.read(WEIGHTS)), "r") as file:
                numbers = check_hdf5(file, path)
    except UserError:
        raise
    except (zipfile.BadZipFile, OSError, RuntimeError, KeyError, ValueError, EOFError, zlib.error) as error:
        # what zipfile and h5py raise for damaged files
        raise UserError(f"{path} is not a whole .keras file ({_first_line(error)}); copy or train it again") from error
    attributes = _parse_json(path, metadata)
    if not isinstance(attributes, dict):
        raise UserError(f"{path} is damaged: its metadata.json is no object; copy or train it again")
    return attributes, _parse_json(path, config), numbers


def _input_range(attributes, config, path):
    """Return what a network takes for black and for white, or None where its file does not say it."""
    said = attributes.get("input_range")
    if said is not None:
        numbers = isinstance(said, list) and len(said) == 2 and all(type(end) in (int, float) for end in said)
        if not (numbers and -1e6 <= said[0] < said[1] <= 1e6):
            raise UserError(f"{path} is damaged: input_range is two numbers; found {said!a}; copy or train it again")
        return tuple(map(float, said))
    for layer in _layers(config):
        name, arguments = layer["class_name"], layer["config"]
        if name == "Normalization" or (name == "Rescaling" and arguments.get("scale") in (1 / 255, 1 / 127.5)):
            return 0.0, 255.0  # the network scales pixels itself
        if name in LAYERS and name not in ("InputLayer", "Resizing", "CenterCrop") and not name.startswith("Random"):
            break
    return RANGE if "temperature" in attributes else None  # the first checkpoints of this project did not say it


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
        given = layer["config"]
        shape = given.get("batch_shape", given.get("batch_input_shape", given.get("build_input_shape")))
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
        path: A Keras `.hdf5`, `.h5` or `.keras`.

    Returns:
        A `.tflite`: float32 faces (n, height, width, 1) in [-1, 1] -> probabilities (n, classes), any n.

    Raises:
        UserError: As `read_header` and `compile_to_cache`.
    """
    header = read_header(path)
    return next(find_compiled(path, header), None) or compile_to_cache(path, header)


def find_compiled(path: str | Path, header: Header) -> Iterator[Path]:
    """Yield the compiled forms of a checkpoint that exist: the project's own, then the one in the user's cache folder.

    What lies beside a checkpoint from elsewhere is not run: nothing shows that it was made from the checkpoint.

    Args:
        path: An existing checkpoint.
        header: What `read_header` or `complete_headers` returned.
    """
    name = _compiled_beside(Path(path), header).name
    if name in COMPILED_HERE and (COMPILED_FOLDER / name).is_file():
        yield COMPILED_FOLDER / name
    cached = cache_folder() / name
    if cached.is_file():
        yield cached


def compile_to_cache(path: str | Path, header: Header) -> Path:
    """Compile a checkpoint in a few seconds, and put the result into the user's cache folder.

    A process of its own does the work, so that the memory of TensorFlow is free again afterwards.

    Args:
        path: An existing checkpoint.
        header: What `read_header` or `complete_headers` returned.

    Returns:
        The `.tflite`.

    Raises:
        UserError: TensorFlow is missing, the network can't be compiled, or the cache folder can't be written.
        RuntimeError: The process failed in another way; the message is all that it wrote.
    """
    path = Path(path)
    if not importlib.util.find_spec("tensorflow"):
        beside = _compiled_beside(path, header)
        way = f"; or, if you compiled {beside} yourself, move it to {cache_folder()}" if beside.is_file() else ""
        raise UserError(f"{path} must be compiled first, which takes TensorFlow: pip install -r requirements.txt{way}")
    print(printable(f"compiling {path.name} once (a few seconds) ..."), file=sys.stderr, flush=True)
    cached = cache_folder() / _compiled_beside(path, header).name
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "models.checkpoint"]
    in_file = read_header(path)
    if header.emotions and not in_file.emotions:
        command.append(f"--emotions={','.join(header.emotions)}")
    if header.input_range and not in_file.input_range:
        command.append("--input-range={!r},{!r}".format(*header.input_range))
    command += [str(path.resolve()), str(cached.absolute())]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        last_line = next(reversed(done.stderr.strip().splitlines()), "")
        if last_line.startswith("error: "):
            raise UserError(last_line.removeprefix("error: "), exit_status=done.returncode)
        if done.returncode < 0:  # a signal: too little memory, or a processor that TensorFlow does not support
            raise UserError(f"{path} can't be compiled: TensorFlow ended by signal {-done.returncode}", exit_status=1)
        raise RuntimeError(f"compiling {path} failed:\n{done.stderr}")
    return cached


def _compiled_beside(path, header):
    """Return the path of the compiled form beside its checkpoint; its name contains the hash of the checkpoint."""
    content = path.read_bytes()
    if header.input_range != RANGE:  # the compiled form takes [-1, 1], and what it makes of that is not in the file
        content += repr(header.input_range).encode()
    return path.with_name(f"{path.stem}.{hashlib.sha256(content).hexdigest()[:16]}.tflite")


def _compile(path, compiled, header=None):
    """Compile a checkpoint with TensorFlow in this process, and write the result to `compiled`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
    with replacing(compiled) as partial:  # checks that the file can be written, before the long work
        with quiet_start():
            import tensorflow as tf

            model, _ = load_checkpoint(path, header)
        with contextlib.redirect_stdout(io.StringIO()), quiet_start():  # TensorFlow prints a list of the operations
            try:
                content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
            except Exception as error:  # with a foreign network any call inside TensorFlow can fail
                raise UserError(f"{path} can't be compiled by TensorFlow: {_first_line(error)}") from error
        partial.write_bytes(content)


def _write_keras(path, written, header):
    """Write a checkpoint as `.keras`, with labels and range inside."""
    with replacing(written) as partial:
        with quiet_start():
            model, emotions = load_checkpoint(path, header)
        model.save(partial)
        write_header(partial, header._replace(emotions=emotions, input_range=RANGE))


def _export_onnx(path, exported, header):
    """Write a checkpoint as ONNX, through Keras."""
    missing = [name for name in ("tf2onnx", "onnx") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"--onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    with replacing(exported) as partial:
        with quiet_start():
            model, _ = load_checkpoint(path, header)
        with contextlib.redirect_stdout(io.StringIO()), quiet_start():
            try:
                model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports what was called
                model.export(str(partial), format="onnx", verbose=False)
            except Exception as error:  # with a foreign network any call inside these packages can fail
                raise UserError(f"{path} can't be exported as ONNX: {_first_line(error)}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Compile or export one checkpoint, or write its labels into it, as the command line says."""
    parser = Parser(prog="python -m models.checkpoint", description="Compile a checkpoint for the live script.")
    parser.add_argument("path", metavar="MODEL.hdf5", type=Path, help="a .keras, .hdf5 or .h5 of Keras")
    text = (
        "what is made, a .tflite or a .keras (default: a .tflite beside it); the model's own file then stays as it is"
    )
    parser.add_argument("made", nargs="?", metavar="MODEL.tflite", type=Path, help=text)
    text = "labels in the order of the outputs; without MODEL.tflite or --onnx, they are written into the checkpoint"
    parser.add_argument("--emotions", metavar="A,B,C", help=text)
    text = "what the network takes for black and white, 0,1 or 0,255; written into the checkpoint like --emotions"
    parser.add_argument("--input-range", metavar="LOW,HIGH", help=text)
    text = "write ONNX in place of a .tflite (needs tf2onnx and onnx)"
    parser.add_argument("--onnx", nargs="?", const=Path(), type=Path, metavar="MODEL.onnx", help=text)
    args = parser.parse_args(argv)
    if args.made and args.made.suffix not in (".tflite", ".keras"):
        raise UserError(f"what is made is a .tflite or a .keras; found {args.made}: compile one model at a time")
    if args.made and args.onnx:
        raise UserError(f"one file is made at a time; found {args.made} and --onnx: leave one of them out")
    emotions, input_range = parse_emotions(args.emotions), parse_input_range(args.input_range)
    header = read_header(args.path)
    header = header._replace(emotions=emotions or header.emotions, input_range=input_range or header.input_range)
    if args.onnx:
        exported = args.path.with_suffix(".onnx") if args.onnx == Path() else args.onnx
        _export_onnx(args.path, exported, header)
        print(printable(f"exported: {exported}"))
        return 0
    if (emotions or input_range) and not args.made:
        with quiet_start():
            load_checkpoint(args.path, header)  # checks that there is one emotion per output
        write_header(args.path, header)
        print(
            f"written into {args.path}: "
            + " and ".join(name for name, given in (("emotions", emotions), ("input range", input_range)) if given)
        )
    beside = _compiled_beside(args.path, header)
    made = args.made or beside
    (_write_keras if made.suffix == ".keras" else _compile)(args.path, made, header)
    if made == beside:  # the live script runs what is in the cache
        with contextlib.suppress(UserError), replacing(cache_folder() / made.name) as kept:
            shutil.copy(made, kept)
    print(printable(f"{'written' if made.suffix == '.keras' else 'compiled'}: {made}"))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
