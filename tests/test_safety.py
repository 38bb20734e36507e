"""Tests of models/safety.py: what a model file may contain, and that nothing else reaches Keras."""

import contextlib
import copy
import json
import os
import shutil
import sys
import zipfile
from collections import Counter
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


def within_models(depth, calls):
    """A layer in models that are each called some times by the model around them."""
    described = {"class_name": "ReLU", "config": {}}
    for _ in range(depth):
        described = {"class_name": "Sequential", "config": {"layers": [described]}, "inbound_nodes": [[]] * calls}
    return {"class_name": "Sequential", "config": {"layers": [described]}}


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
    "models in models": (within_models(6, calls=10), "1,000,000 calls of layers"),
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


def name_twice(file):
    name = next(name for name in file["model_weights"].attrs["layer_names"] if b"conv2d" in np.bytes_(name))
    group = file["model_weights"][name]
    group.attrs["weight_names"] = [*group.attrs["weight_names"]] * 2


SPOILT = {
    "external link": (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "link to another"),
    "soft link": (lambda file: file.__setitem__("x", h5py.SoftLink("/model_weights")), "link to another place, x"),
    "external data": (lambda file: file.create_dataset("x", (9,), "u1", external="/etc/passwd"), "lie in another file"),
    "virtual data": (add_virtual, "lie in another file"),
    "a terabyte": (lambda file: file.create_dataset("x", (2**40,), "f4", chunks=(1024,)), "1,099,511,"),
    "a gigabyte that is not there": (lambda file: file.create_dataset("x", (2**28,), "f4"), "268,435,456 numbers that"),
    "a text": (lambda file: file.create_dataset("x", data="text"), "what is no number, in x"),
    "a compound": (lambda file: file.create_dataset("x", (2,), [("a", "f4"), ("b", "f4")]), "what is no number, in x"),
    "a name that comes twice": (name_twice, "a name that comes twice among the weight_names of model_weights/.*conv2d"),
    "a shape that is a number": (describe({"batch_shape": 5}), "can't be loaded by Keras"),
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
    "a description that is a number": (
        lambda file: file.attrs.__setitem__("model_config", "5"),
        "describes no network",
    ),
    "a description that is no text": (lambda file: file.attrs.__setitem__("model_config", [1, 2]), "can't be read"),
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


@pytest.mark.parametrize("value", [5, [], [1, 2], [b"a", b"b"], b"\xff", h5py.Empty("f"), "", "\x1b[31m"])
def test_a_name_that_is_none_is_left_out(path, value):
    with h5py.File(path, "r+") as file:
        file.attrs["network"] = value
    assert read_header(path).network == "tiny_XCEPTION"  # its architecture has this name, too


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


# ----------------------------------------------------------------------------------------------------------
# Whatever a file says


FORBIDDEN = ("Lambda", "TFSMLayer", "StringLookup", "TimeDistributed", "RNN", "function", "__lambda__", "Mine")
PARTS = [
    *ODD, 0, 7, 10**12, float("inf"), "relu", "L2", "plot_model", "os.system", "/etc/passwd", "../x", "\udcff",
    FUNCTION, [None, 8, 8, 1], [None, 8, 8, 3], [None, 0, 8, 1], [9, 8, 8, 1], ["faces", 0, 0], ["faces", 9, 9],
    tensor(), IN,
    {"class_name": "L2", "config": {"l2": 0.1}}, {"class_name": "ReLU", "config": {}}, {"class_name": "Dense"},
    *LAYERS, *MODELS, *FORBIDDEN,
]  # fmt: skip
KEYS = sorted(
    {"class_name", "config", "module", "registered_name", "inbound_nodes", "layers", "name", "dtype", "batch_shape"}
    | {"kernel_initializer", "activation", "emotions", "input_range", "network", "temperature"}
    | {argument for arguments in LAYERS.values() for argument in arguments.split()}
)
EXAMPLES, LOADED = 120, 12  # how many descriptions are read, and how many networks at most are built
WAYS = ("replace", "remove", "repeat", "move", "add")


def places(value):
    """Yield every place in a description: (what holds it, key)."""
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(part, dict | list):
            yield from places(part)


def change(described, changes):
    """Change a description in place: each change is (way, place, another place, part, key)."""
    for way, place, other, part, key in changes:
        found = list(places(described))
        (holder, old), (source, name) = found[place % len(found)], found[other % len(found)]
        if way == "add" and isinstance(holder, dict):
            holder[key] = copy.deepcopy(part)
        elif way == "remove" and len(described) > 1:
            del holder[old]
        elif way == "repeat" and isinstance(holder, list):
            holder.insert(old, copy.deepcopy(holder[old]))
        else:
            holder[old] = copy.deepcopy(source[name] if way == "move" else part)


WATCHED, watching = [], []  # what a program did that a file alone must not make it do; whether this is watched


def watch(event, arguments):
    if watching and (
        event.startswith(("subprocess", "os.exec", "os.system", "os.posix_spawn", "os.remove", "os.rename", "socket"))
        or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    ):
        WATCHED.append((event, arguments))


@contextlib.contextmanager
def nothing_done():
    """Check that a block starts no program, opens no file to write, and speaks to nobody."""
    watching.append(True)
    try:
        yield
    finally:
        watching.pop()
    assert not WATCHED


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """{ending: the bytes of a small network}."""
    folder, layers = tmp_path_factory.mktemp("small"), keras.layers
    x = inputs = keras.Input((8, 8, 1), name="faces")
    x = layers.Conv2D(3, 3, padding="same", kernel_regularizer="l2", activation="relu")(layers.Rescaling(0.5)(x))
    x = layers.Add()([x, layers.SeparableConv2D(3, 3, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(layers.BatchNormalization()(x)))
    model = keras.Model(inputs, layers.Dense(7, "softmax")(x), name="small")
    save_checkpoint(model, folder / "small.hdf5", EMOTIONS)
    model.save(folder / "small.keras")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def write_changed(path, content, changes, attributes):
    """Write a model's file with changes in its description, and other attributes."""
    path.write_bytes(content)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            described, metadata = (json.loads(archive.read(f"{name}.json")) for name in ("config", "metadata"))
        change(described, changes)
        rewrite(path, config=json.dumps(described), metadata=json.dumps(metadata | attributes))
    else:
        with h5py.File(path, "r+") as file:
            described = json.loads(file.attrs["model_config"])
            change(described, changes)
            file.attrs["model_config"] = json.dumps(described)
            for name, value in attributes.items():
                file.attrs[name] = value if isinstance(value, float) else json.dumps(value)


def test_whatever_a_file_says_it_is_a_plain_network_or_one_line(small, tmp_path):
    """It never makes another error, nor a file, nor a program that runs."""
    strategies = pytest.importorskip("hypothesis.strategies")
    from hypothesis import given, settings

    place, part = strategies.integers(0, 9999), strategies.sampled_from(PARTS)
    one = strategies.tuples(strategies.sampled_from(WAYS), place, place, part, strategies.sampled_from(KEYS))
    said = strategies.dictionaries(strategies.sampled_from(["emotions", "input_range", "network"]), part, max_size=1)
    sys.addaudithook(watch)
    outcomes = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(strategies.sampled_from(sorted(small)), strategies.lists(one, min_size=1, max_size=4), said)
    def check(ending, changes, attributes):
        write_changed(path := tmp_path / f"given{ending}", small[ending], changes, attributes)
        try:
            with nothing_done():
                header = read_header(path)
                if outcomes["loaded"] == LOADED:
                    return
                network, emotions = load_checkpoint(path, header)
            layers = [layer for layer in network._flatten_layers() if not hasattr(layer, "layers")]
            assert {type(layer).__name__ for layer in layers} <= set(LAYERS)
            assert {type(layer).__module__.partition(".")[0] for layer in layers} == {"keras"}
            assert network.output_shape == (None, len(emotions))
            outcomes["loaded"] += 1
        except UserError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1

    check()
    assert outcomes["loaded"] == LOADED and outcomes["refused"]
    assert {path.name for path in tmp_path.iterdir()} == {"given.hdf5", "given.keras"}
