"""Tests of models/safety.py: what a model file may contain, and that nothing else reaches Keras."""

import copy
import json
import shutil
import zipfile
from functools import reduce
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from command_line import UserError
from load_and_process import EMOTIONS
from models import safety
from models.checkpoint import load_checkpoint, read_header, save_checkpoint
from models.cnn import NETWORKS
from models.safety import LAYERS, MODELS, check_nesting, copy_description

FILE = Path("bad\x1b[31m.hdf5")
FUNCTION = {"module": "keras.utils", "class_name": "function", "config": "plot_model", "registered_name": "function"}
IN = {"class_name": "InputLayer", "config": {"batch_shape": [None, 8, 8, 1], "name": "faces"}, "name": "faces"}


def sequential(*layers):
    """The description of a model of these layers: (class, arguments)."""
    given = [{"class_name": name, "config": arguments} for name, arguments in layers]
    return {"class_name": "Sequential", "config": {"name": "net", "layers": [IN, *given]}}


def functional(call):
    """The description of a model of one Dense, which is called so."""
    dense = {"class_name": "Dense", "config": {"units": 2}, "name": "dense", "inbound_nodes": call}
    ends = {"input_layers": ["faces", 0, 0], "output_layers": ["dense", 0, 0]}
    return {"class_name": "Functional", "config": {"layers": [IN | {"inbound_nodes": []}, dense], **ends}}


def tensor(name="faces"):
    return {"class_name": "__keras_tensor__", "config": {"shape": [None, 8], "keras_history": [name, 0, 0]}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safety")
    model = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7)
    save_checkpoint(model, folder / "tiny.hdf5", EMOTIONS)
    model.save(folder / "tiny.keras")
    return folder


@pytest.fixture
def path(saved, tmp_path):
    return Path(shutil.copy(saved / "tiny.hdf5", tmp_path))


# ----------------------------------------------------------------------------------------------------------
# Descriptions


def test_what_keras_writes_is_allowed_and_copied_unchanged(saved):
    with zipfile.ZipFile(saved / "tiny.keras") as archive:
        given = json.loads(archive.read("config.json"))
    copied = copy_description(copy.deepcopy(given), FILE)
    assert set(given) - set(copied) == {"build_config", "compile_config"} - (set(copied) - set(given))
    for layer, before in zip(copied["config"]["layers"], given["config"]["layers"], strict=True):
        assert layer["config"] | {"dtype": 0} == before["config"] | {"dtype": 0}
        assert layer["config"]["dtype"] == "float32" and "build_config" not in layer
        assert layer["class_name"] == before["class_name"] and layer["name"] == before["name"]


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_each_allowed_layer_is_a_plain_layer_of_keras_with_these_arguments(name):
    """What the installed Keras writes of a layer is in the table."""
    needed = {
        "InputLayer": {"shape": (8, 8, 1)},
        "Activation": {"activation": "relu"},
        "Dense": {"units": 2},
        "DepthwiseConv2D": {"kernel_size": 3},
        "Reshape": {"target_shape": (2, 2)},
        "Permute": {"dims": (2, 1)},
        "GaussianNoise": {"stddev": 0.1},
        "ActivityRegularization": {"l1": 0.1},
        "Rescaling": {"scale": 0.5},
        "AveragePooling2D": {"pool_size": 2},
        "RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1},
        "RandomZoom": {"height_factor": 0.1},
        **dict.fromkeys(("Resizing", "CenterCrop", "RandomCrop"), {"height": 8, "width": 8}),
        **dict.fromkeys(("RandomRotation", "RandomContrast", "RandomBrightness"), {"factor": 0.1}),
        **dict.fromkeys(("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout"), {"rate": 0.1}),
        **dict.fromkeys(("Conv2D", "Conv2DTranspose", "SeparableConv2D"), {"filters": 2, "kernel_size": 3}),
    }
    layer = getattr(keras.layers, name)(**needed.get(name, {}))
    described = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    copied = copy_description({"class_name": "Sequential", "config": {"layers": [described]}}, FILE)
    assert type(keras.layers.deserialize(copied["config"]["layers"][0])) is type(layer)


PLAIN = {
    "an activation that is a layer": ("Dense", {"units": 2, "activation": {"class_name": "ReLU", "config": {}}}),
    "words of Keras 2": ("Dense", {"units": 2, "kernel_initializer": "glorot_uniform", "bias_regularizer": "l2"}),
    "an axis in a list": ("BatchNormalization", {"axis": [3]}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_other_plain_files_are_allowed(case):
    given = sequential(PLAIN[case])
    assert copy_description(given, FILE)["config"]["layers"][1]["config"] == PLAIN[case][1]


HOSTILE = {
    "a SavedModel": (sequential(("TFSMLayer", {"filepath": "/tmp/x"})), "layer TFSMLayer"),
    "a vocabulary of any file": (sequential(("StringLookup", {"vocabulary": "/dev/zero"})), "layer StringLookup"),
    "a layer in a layer": (sequential(("TimeDistributed", {"layer": FUNCTION})), "layer TimeDistributed"),
    "a class that is none": (sequential((["Dense"], {})), "layer"),
    "arguments that are none": (sequential(("Dense", [1])), "layer Dense"),
    "a model of another class": ({"class_name": "Mine", "config": {}}, "class Mine"),
    "a function as activation": (sequential(("Activation", {"activation": FUNCTION})), "activation"),
    "a dotted activation": (sequential(("Activation", {"activation": "os.system"})), "activation os.system"),
    "a function as initializer": (sequential(("Dense", {"units": 2, "kernel_initializer": FUNCTION})), "initializer"),
    "a function in a regularizer": (
        sequential(("Dense", {"units": 2, "kernel_regularizer": {"class_name": "L2", "config": {"l2": FUNCTION}}})),
        "value",
    ),
    "a path in a constraint": (
        sequential(("Dense", {"bias_constraint": {"class_name": "MaxNorm", "config": {"path": 1}}})),
        "argument path of MaxNorm",
    ),
    "a function as an argument": (sequential(("Dropout", {"rate": FUNCTION})), "value"),
    "a path as an argument": (sequential(("Normalization", {"mean": "/etc/passwd"})), "value /etc/passwd"),
    "an argument of another layer": (sequential(("Flatten", {"vocabulary": None})), "argument vocabulary"),
    "another module": (sequential(("Dense", {})) | {"module": "os"}, "module os"),
    "a class of the user's": (sequential(("Dense", {})) | {"registered_name": "a>Dense"}, "a>Dense"),
    "a function in a call": (functional([{"args": [tensor()], "kwargs": {"x": FUNCTION}}]), "of a call"),
    "a path in a call": (functional([{"args": [tensor(), "/etc/passwd"], "kwargs": {}}]), "/etc/passwd of a call"),
    "a tensor from nowhere": (functional([{"args": [tensor(FUNCTION)]}]), "tensor"),
    "a function in a call of Keras 2": (functional([[["faces", 0, 0, {"fn": FUNCTION}]]]), "of a call"),
    "an escape sequence in a name": (sequential(("Dense", {"name": "\x1b[31m"})), r"name '\\x1b\[31m'"),
    "a path in a name": (sequential(("Dense", {"name": "../x"})), "name ../x"),
    "a huge number": (sequential(("Dense", {"units": 10**12})), "value 1000000000000"),
    "infinity": (sequential(("ReLU", {"max_value": float("inf")})), "value inf"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_other_descriptions_are_one_line(case):
    described, found = HOSTILE[case]
    with pytest.raises(UserError, match=f"found .*{found}") as caught:
        copy_description(described, FILE)
    assert "\n" not in str(caught.value) and str(FILE) in str(caught.value)


def test_what_training_alone_needs_is_left_out():
    """Optimizers, losses and metrics are classes and functions that Keras would rebuild."""
    given = sequential(("Dense", {"units": 2, "dtype": FUNCTION}))
    for part in (given, given["config"]["layers"][1]):
        part |= {"compile_config": {"optimizer": FUNCTION}, "build_config": {"input_shape": FUNCTION}}
    assert "plot_model" not in json.dumps(copy_description(given, FILE))


def test_deep_descriptions_are_one_line():
    for deep in (reduce(lambda inner, _: [inner], range(5000), []), reduce(lambda x, _: {"a": x}, range(5000), {})):
        with pytest.raises(UserError, match="nested more than"):
            check_nesting(deep, FILE)
    check_nesting(reduce(lambda inner, _: [inner], range(30), []), FILE)


ODD = (None, True, -1, 1e300, float("nan"), "x", "\x1b", [], {}, [[]], ["a", 0, 0], ["a", 0, 0, {}], {"class_name": []})


def test_a_change_anywhere_is_allowed_or_one_line(saved):
    """It never gives another error, whichever part is replaced by whatever."""
    with zipfile.ZipFile(saved / "tiny.keras") as archive:
        text, rng = archive.read("config.json"), np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        part = described = json.loads(text)
        while True:
            key = list(part)[rng.integers(len(part))] if isinstance(part, dict) else int(rng.integers(len(part)))
            if not isinstance(part[key], dict | list) or not part[key] or rng.random() < 0.1:
                break
            part = part[key]
        part[key] = ODD[rng.integers(len(ODD))]
        try:
            copy_description(described, FILE)
            outcomes.add("allowed")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"allowed", "refused"}


def test_models_and_layers_have_different_names():
    assert not set(LAYERS) & set(MODELS)


# ----------------------------------------------------------------------------------------------------------
# Files


def change_first_weight(value):
    """A way to spoil a file: one number of its first weights."""

    def spoil(file):
        found = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        numbers = found[0][()]
        numbers.flat[0] = value
        found[0][...] = numbers

    return spoil


def add_virtual(file):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (10,))
    file.create_virtual_dataset("x", layout)


def describe(change):
    """A way to spoil a file: change the arguments of its first convolution."""

    def spoil(file):
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"] |= change
        file.attrs["model_config"] = json.dumps(config)

    return spoil


SPOILT = {
    "external link": (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "link to another"),
    "soft link": (lambda file: file.__setitem__("x", h5py.SoftLink("/model_weights")), "link to another place, x"),
    "external data": (lambda file: file.create_dataset("x", (9,), "u1", external="/etc/passwd"), "lie in another file"),
    "virtual data": (add_virtual, "lie in another file"),
    "a terabyte": (lambda file: file.create_dataset("x", (2**40,), "f4", chunks=(1024,)), "1,099,511,"),
    "more than it holds": (describe({"filters": 60_000}), "layer conv2d.* of more weights than the file has numbers"),
    "NaN": (change_first_weight(np.nan), "found nan among the weights of its layer batch_normalization"),
    "infinite": (change_first_weight(-np.inf), "found -inf among the weights"),
    "huge": (change_first_weight(1e38), r"found 1e\+38 among the weights"),
    "control characters in an emotion": (
        lambda file: file.attrs.__setitem__("emotions", json.dumps(["\x1b[31m", *EMOTIONS[1:]])),
        r"'\\x1b\[31m', which is not a name",
    ),
    "an emotion twice": (lambda file: file.attrs.__setitem__("emotions", '["a", "a"]'), "found a twice"),
    "one emotion": (lambda file: file.attrs.__setitem__("emotions", '["a"]'), "2 to 20 are allowed"),
    "too many emotions": (
        lambda file: file.attrs.__setitem__("emotions", json.dumps([f"e{n}" for n in range(21)])),
        "found 21 of them",
    ),
    "no range": (lambda file: file.attrs.__setitem__("input_range", "[NaN, 1]"), "input_range is two numbers"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_other_files_are_one_line(path, case):
    spoil, message = SPOILT[case]
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_group_that_holds_itself_is_read_once(path):
    with h5py.File(path, "r+") as file:
        file["model_weights/again"] = file["model_weights"]
    assert load_checkpoint(path)[1] == EMOTIONS


def test_a_map_that_would_take_gigabytes_is_one_line(path):
    inputs = keras.Input((32, 32, 1))
    x = keras.layers.ZeroPadding2D(9000)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(7)(x)).save(path)
    with pytest.raises(UserError, match="zero_padding2d.* gives a map of the size"):
        load_checkpoint(path)


def test_keras_builds_layers_as_before_afterwards(path):
    before = keras.layers.Layer.add_weight
    load_checkpoint(path)
    with pytest.raises(UserError), safety.limited_weights(3, path):
        keras.layers.Dense(2).build((None, 2))
    assert keras.layers.Layer.add_weight is before


# ----------------------------------------------------------------------------------------------------------
# .keras


def rewrite(path, **members):
    """Write a `.keras` again with some of its members changed; None: left out."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in content.items():
            new = members.get(name.partition(".")[0], old)
            if new is not None:
                archive.writestr(name, new)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config": None}, "not a whole .keras file"),
        ({"model": b"junk"}, "not a whole .keras file"),
        ({"config": b"{"}, "damaged"),
        ({"metadata": b"[]"}, "damaged: its metadata.json"),
        ({"metadata": b'{"emotions": ["a"]}'}, "2 to 20 are allowed"),
        ({"config": b"[" * 5000 + b"]" * 5000}, None),
        ({"config": b" " * (safety.LARGEST_JSON + 1)}, "16,777,217 bytes of config.json"),
        ({"config": json.dumps(sequential(("TFSMLayer", {}))).encode()}, "layer TFSMLayer"),
    ],
)
def test_damaged_and_hostile_keras_files_are_one_line(saved, tmp_path, members, message):
    path = Path(shutil.copy(saved / "tiny.keras", tmp_path))
    rewrite(path, **members)
    with pytest.raises(UserError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damage_anywhere_in_a_keras_file_is_one_line(saved, tmp_path):
    path, rng = Path(shutil.copy(saved / "tiny.keras", tmp_path)), np.random.default_rng(0)
    content = path.read_bytes()
    for _ in range(100):
        damaged, start = bytearray(content), int(rng.integers(len(content)))
        damaged[start : start + 16] = rng.bytes(16)
        path.write_bytes(damaged[: None if rng.random() < 0.7 else start])
        try:
            read_header(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
