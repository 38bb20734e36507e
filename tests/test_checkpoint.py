"""Tests of models/checkpoint.py: complete files or none, labels, files of other projects, the compiled form."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from command_line import UserError
from drawn_faces import draw_dataset
from load_and_process import EMOTIONS, preprocess_images
from models import checkpoint
from models.checkpoint import DRAWN, compile_checkpoint, load_checkpoint, read_header, save_checkpoint
from models.cnn import NETWORKS

ROOT = Path(__file__).parents[1]
SHIPPED = [path for path in sorted((ROOT / "models").glob("*.hdf5")) if path.stem in NETWORKS]
LABELS = ("neutral", "happy", "sad")


def network(name="tiny_XCEPTION", shape=(32, 32, 1), classes=7, seed=0):
    """A network whose every weight, batch statistics too, is away from its initial value."""
    model = NETWORKS[name](shape, classes)
    rng = np.random.default_rng(seed)
    model.set_weights([w + rng.uniform(0.015, 0.06, w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def probabilities(model, n=16):
    faces = np.random.default_rng(1).uniform(-1, 1, (n, *model.input_shape[1:])).astype(np.float32)
    return keras.ops.convert_to_numpy(model(faces))


def run(program, *arguments):
    """A Python program run in the project's folder, in a process of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(path, model) of a checkpoint; tests change copies of it."""
    path, model = tmp_path_factory.mktemp("saved") / "tiny.hdf5", network()
    save_checkpoint(model, path, EMOTIONS)
    return path, model


@pytest.fixture
def path(saved, tmp_path):
    return Path(shutil.copy(saved[0], tmp_path / "tiny.hdf5"))


# ----------------------------------------------------------------------------------------------------------
# Writing


@pytest.mark.parametrize("trained_on", ["", DRAWN])
@pytest.mark.parametrize("name", ["my.hdf5", "my.keras"])
def test_round_trip(tmp_path, name, trained_on):
    path, model = tmp_path / name, network(shape=(40, 36, 1), classes=3)
    save_checkpoint(model, path, LABELS, trained_on=trained_on)
    assert read_header(path) == ("tiny_XCEPTION", LABELS, (40, 36, 1), (-1, 1), trained_on)
    assert os.listdir(tmp_path) == [name]
    loaded, emotions = load_checkpoint(path)
    assert emotions == LABELS
    assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}
    np.testing.assert_array_equal(probabilities(loaded), probabilities(model))


def test_networks_of_drawings_are_told_once(capsys):
    headers = [checkpoint.Header("net", LABELS, (48, 48, 1), (-1, 1), trained_on) for trained_on in (DRAWN, "")]
    for _ in range(2):
        checkpoint.warn_if_trained_on_drawings(["drawn.hdf5", "people.hdf5"], headers)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "drawn.hdf5 learnt from drawn faces only" in told and "people.hdf5" not in told


def test_keeps_no_optimizer_state(tmp_path):
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(np.zeros((2, 32, 32, 1), np.float32), np.array([0, 1]))
    save_checkpoint(model, tmp_path / "trained.hdf5", EMOTIONS)
    with h5py.File(tmp_path / "trained.hdf5") as file:
        assert list(file) == ["model_weights"]
        kinds = set()
        file.visititems(lambda _, item: kinds.add(item.dtype.str) if isinstance(item, h5py.Dataset) else None)
        assert kinds == {"<f4"}


def test_refuses_to_write_another_precision(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7)
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match=r"float32; tiny_XCEPTION computes in .*bfloat16"):
        save_checkpoint(model, tmp_path / "half.hdf5", EMOTIONS)
    assert not os.listdir(tmp_path)


def test_refuses_to_write_other_labels(tmp_path):
    with pytest.raises(ValueError, match="one emotion per output: tiny_XCEPTION has 7, given 3"):
        save_checkpoint(network(), tmp_path / "three.hdf5", LABELS)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_older_file(path, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UserError, match=f"{path}.*No space left") as caught:
        save_checkpoint(network(seed=1), path, EMOTIONS)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("size", [2_000, 60_000, 150_000, 220_000])
def test_a_full_disk_is_one_line_and_leaves_the_older_file(path, limit_file_size, size, capfd):
    before, model = path.read_bytes(), network(shape=(48, 48, 1))
    limit_file_size(size)
    with pytest.raises(UserError, match=f"{path} can't be written") as caught:
        save_checkpoint(model, path, EMOTIONS)
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    assert capfd.readouterr().err == ""


# ----------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize("module", ["models.checkpoint", "models.classifier"])
def test_reads_headers_without_tensorflow_and_keras(module, path):
    """Neither importing the modules nor reading a header loads them, by whatever way of importing."""
    program = f"""
import sys
import {module}
from models.checkpoint import compile_checkpoint, read_header
print(read_header(sys.argv[1]).network, compile_checkpoint(sys.argv[2]).suffix)
print(*{{"keras", "tensorflow", "jax", "torch"}} & {{name.partition(".")[0] for name in sys.modules}})
"""
    done = run(program, path, SHIPPED[0])
    assert done.stdout.split() == ["tiny_XCEPTION", ".tflite"], done.stderr


def without_labels(path):
    with h5py.File(path, "r+") as file:
        for name in ("emotions", "network", "input_range", "temperature"):
            del file.attrs[name]


def test_labels_default_to_those_of_fer2013(path):
    without_labels(path)
    assert read_header(path) == ("tiny_XCEPTION", None, (32, 32, 1), None, "")
    assert load_checkpoint(path)[1] == EMOTIONS


KERAS_3_ONLY = ("dtype", "batch_shape", "renorm", "synchronized", "keepdims", "groups", "ragged", "optional", "seed")


def as_keras_2(node):
    """A layer's description as Keras 2.0.5 wrote it."""
    given = node["config"]
    config = {name: as_keras_2_object(value) for name, value in given.items() if name not in KERAS_3_ONLY}
    if node["class_name"] == "InputLayer":
        config |= {"batch_input_shape": given["batch_shape"], "dtype": "float32", "sparse": False}
    if node["class_name"] == "SeparableConv2D":
        uniform = {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None}
        config["kernel_initializer"] = {"class_name": "VarianceScaling", "config": uniform}
        config |= {"kernel_regularizer": None, "kernel_constraint": None, "groups": 1}
    described = {"class_name": node["class_name"], "config": config}
    if "inbound_nodes" in node:
        calls = [[[*source, {}] for source in sources_of(call["args"])] for call in node["inbound_nodes"]]
        described |= {"name": given["name"], "inbound_nodes": calls}
    return described


def as_keras_2_object(value):
    """Initializers and regularizers, which carried no module."""
    if isinstance(value, dict) and "class_name" in value:
        return {"class_name": value["class_name"], "config": value["config"]}
    return value


def sources_of(value):
    """The [layer, node, tensor] of every tensor among a layer's arguments."""
    if isinstance(value, dict):
        return [value["config"]["keras_history"]] if value.get("class_name") == "__keras_tensor__" else []
    return [source for part in value for source in sources_of(part)] if isinstance(value, (list, tuple)) else []


def make_keras_2(path, class_name):
    """Turn one of our files into one of oarriaga's: Keras 2.0.5, no labels, optimizer inside."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = [as_keras_2(node) for node in config["config"]["layers"]]
        if class_name == "Sequential":
            first = layers.pop(0)["config"]["batch_input_shape"]
            layers[0]["config"]["batch_input_shape"] = first
            config = {"class_name": "Sequential", "config": layers}  # in those days a plain list
        else:
            ends = {"input_layers": [[layers[0]["name"], 0, 0]], "output_layers": [[layers[-1]["name"], 0, 0]]}
            config = {"class_name": class_name, "config": {"name": "model_1", "layers": layers, **ends}}
        for name in set(file.attrs):
            del file.attrs[name]
        adam = {"class_name": "Adam", "config": {"lr": 1e-3, "decay": 0.0}}
        training = {"optimizer_config": adam, "loss": "categorical_crossentropy", "metrics": ["accuracy"]}
        file.attrs["model_config"] = np.bytes_(json.dumps(config))
        file.attrs["training_config"] = np.bytes_(json.dumps(training))
        file.attrs["keras_version"], file.attrs["backend"] = np.bytes_(b"2.0.5"), np.bytes_(b"tensorflow")
        file["optimizer_weights/Adam/iterations:0"] = np.int64(3)


@pytest.mark.parametrize("class_name", ["Model", "Functional"])
@pytest.mark.parametrize("name", NETWORKS)
def test_loads_files_of_keras_2(tmp_path, name, class_name):
    path, model = tmp_path / "fer2013_model.102-0.66.hdf5", network(name, (64, 64, 1))
    save_checkpoint(model, path, EMOTIONS)
    make_keras_2(path, class_name)
    assert read_header(path) == ("model_1", None, (64, 64, 1), None, "")
    loaded, emotions = load_checkpoint(path)
    assert emotions == EMOTIONS
    np.testing.assert_allclose(probabilities(loaded), probabilities(model), atol=1e-6)


def test_loads_a_sequential_file_of_keras_2(tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((48, 48, 1)),
            layers.SeparableConv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(7, activation="softmax"),
        ]
    )
    path = tmp_path / "simple_CNN.985-0.66.hdf5"
    save_checkpoint(model, path, EMOTIONS)
    make_keras_2(path, "Sequential")
    assert read_header(path).input_shape == (48, 48, 1)
    np.testing.assert_allclose(probabilities(load_checkpoint(path)[0]), probabilities(model), atol=1e-6)


def test_loads_a_network_of_another_precision_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        NETWORKS["tiny_XCEPTION"]((32, 32, 1), 7).save(tmp_path / "foreign.hdf5")
    finally:
        keras.config.set_dtype_policy("float32")
    loaded, _ = load_checkpoint(tmp_path / "foreign.hdf5")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}


# ----------------------------------------------------------------------------------------------------------
# Networks from elsewhere


def foreign(path, *layers, shape=(32, 32, 1), activation="softmax", outputs=7):
    """Save a network as tutorials have it; return it."""
    given = [keras.Input(shape), *layers, keras.layers.Conv2D(2, 3, strides=4, activation="relu")]
    model = keras.Sequential([*given, keras.layers.Flatten(), keras.layers.Dense(outputs, activation)])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.save(path)
    return model


def answers(model, faces):
    return keras.ops.convert_to_numpy(model(faces, training=False))


ELSEWHERE = {  # layers and shape, what the user says, what the network takes for pixels from 0 to 1
    "a leading Rescaling": ({"layers": [(keras.layers.Rescaling, 1 / 255)]}, {}, (0, 255)),
    "augmentation": ({"layers": [(keras.layers.RandomRotation, 0.5)]}, {"input_range": (-1.0, 1.0)}, (-1, 1)),
    "the range as said": ({}, {"input_range": (0.0, 1.0)}, (0, 1)),
    "colour": ({"shape": (32, 40, 3)}, {"input_range": (0.0, 255.0)}, (0, 255)),
    "five emotions": ({"outputs": 5}, {"emotions": tuple("abcde")}, (-1, 1)),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("case", ELSEWHERE)
def test_networks_from_elsewhere_answer_as_in_their_own_program(tmp_path, case, suffix):
    given, said, (low, high) = ELSEWHERE[case]
    path = tmp_path / f"net{suffix}"
    layers = [layer(argument) for layer, argument in given.get("layers", ())]
    model = foreign(path, *layers, **{name: value for name, value in given.items() if name != "layers"})
    loaded, emotions = load_checkpoint(path, read_header(path)._replace(**said))
    assert emotions == said.get("emotions", EMOTIONS)
    height, width, channels = model.input_shape[1:]
    grey = np.random.default_rng(0).random((8, height, width, 1), np.float32)
    wanted = answers(model, (low + grey * (high - low)).repeat(channels, axis=-1))
    np.testing.assert_allclose(answers(loaded, grey * 2 - 1), wanted, atol=1e-4)  # float32, pixels to 255


@pytest.mark.parametrize("last", ["dense", "pooled", "sigmoid"])
def test_logits_become_probabilities(tmp_path, last):
    inputs = keras.Input((32, 32, 1))
    x = keras.layers.Conv2D(7, 3, strides=8)(inputs)
    layer = keras.layers.GlobalAveragePooling2D() if last == "pooled" else keras.layers.Flatten()
    x = layer(x) if last == "pooled" else keras.layers.Dense(7, "sigmoid" if last == "sigmoid" else None)(layer(x))
    model = keras.Model(inputs, x)
    model.save(tmp_path / "net.keras")
    faces = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 1)).astype(np.float32)
    given, wanted = answers(load_checkpoint(tmp_path / "net.keras")[0], faces), answers(model, faces)
    if last == "sigmoid":
        np.testing.assert_array_equal(given, wanted)
        with pytest.raises(UserError, match="net.keras must give probabilities, .* or logits; found other numbers"):
            checkpoint.check_probabilities(given, "net.keras")
    else:
        np.testing.assert_allclose(given, np.exp(wanted) / np.exp(wanted).sum(axis=1, keepdims=True), rtol=1e-4)
        checkpoint.check_probabilities(given, "net.keras")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_one_line(value):
    rows = np.full((3, 7), 1 / 7)
    rows[1, 2] = value
    with pytest.raises(UserError, match="^net must give probabilities, .* found NaN or infinite numbers"):
        checkpoint.check_probabilities(rows, "net")


def unnamed(**said):
    return checkpoint.Header("net", said.get("emotions"), (48, 48, 1), said.get("input_range"))


def test_what_is_assumed_is_said_once(capsys):
    ours = unnamed(emotions=EMOTIONS, input_range=(-1.0, 1.0))
    for _ in range(2):
        headers = checkpoint.complete_headers(["a", "b.h5"], [ours, unnamed()])
    assert headers == [ours, unnamed()]
    (notice,) = capsys.readouterr().err.splitlines()
    assert notice.startswith("notice: assumed") and "b.h5" in notice and " a" not in notice.partition("b.h5")[2][:3]
    assert "angry, disgust" in notice and "--emotions" in notice and "--input-range" in notice
    said = {"emotions": LABELS, "input_range": (0.0, 1.0)}
    assert checkpoint.complete_headers(["a", "b"], [ours, unnamed()], **said) == [ours, unnamed(**said)]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("said", [{"emotions": LABELS}, {"input_range": (0.0, 1.0)}])
def test_what_the_file_says_is_not_said_otherwise(said):
    ours = unnamed(emotions=EMOTIONS, input_range=(-1.0, 1.0))
    with pytest.raises(UserError, match="is for models whose file does not say it; a says .*python -m models"):
        checkpoint.complete_headers(["a"], [ours], **said)
    assert checkpoint.complete_headers(["a"], [ours], EMOTIONS, (-1.0, 1.0)) == [ours]


@pytest.mark.parametrize("text", ["happy", "a,a", "a,", "a,\x1b[31m", ",".join("abcdefghijklmnopqrstu")])
def test_emotions_that_are_no_names_are_one_line(text):
    with pytest.raises(UserError, match="--emotions are names"):
        checkpoint.parse_emotions(text)


@pytest.mark.parametrize("text", ["1", "1,0", "0,nan", "0,1,2", "a,b", "-inf,inf", ""])
def test_ranges_that_are_none_are_one_line(text):
    with pytest.raises(UserError, match="--input-range is two numbers"):
        checkpoint.parse_input_range(text)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_labels_and_range_are_written_into_the_file(tmp_path, monkeypatch, capsys, suffix):
    path = tmp_path / f"net{suffix}"
    model = foreign(path, outputs=3)
    monkeypatch.setattr(checkpoint, "_compile", lambda path, made, header: made.touch())
    assert checkpoint.main([str(path), "--emotions", " sad,happy,  neutral", "--input-range", "-1,3"]) == 0
    assert f"written into {path}: emotions and input range" in capsys.readouterr().out
    header = read_header(path)
    assert (header.emotions, header.input_range) == (("sad", "happy", "neutral"), (-1.0, 3.0))
    assert {*os.listdir(tmp_path)} == {path.name, checkpoint._compiled_beside(path, header).name}
    again = keras.models.load_model(path)  # plain Keras still reads it
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])
    before = path.read_bytes()
    with pytest.raises(UserError, match="one output per emotion.* 3, .* 2"):
        checkpoint.main([str(path), "--emotions", "sad,happy"])
    assert path.read_bytes() == before


def test_a_range_given_for_once_has_a_compiled_form_of_its_own(path):
    header = read_header(path)
    assert checkpoint._compiled_beside(path, header) == checkpoint._compiled_beside(path, header)
    others = [header._replace(input_range=given) for given in ((0.0, 1.0), (0.0, 255.0), None)]
    assert len({checkpoint._compiled_beside(path, each) for each in (header, *others)}) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: (path.mkdir(), (path / "saved_model.pb").touch()), "SavedModel .*model.save"),
        (lambda path: network().save_weights(path.with_suffix(".weights.h5")), "weights alone.*model.save"),
    ],
)
def test_other_formats_of_keras_get_the_way(tmp_path, make, message):
    make(tmp_path / "net")
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_becomes_a_keras_file(path, saved):
    made = path.with_suffix(".keras")
    assert checkpoint.main([str(path), str(made)]) == 0
    assert sorted(os.listdir(path.parent)) == sorted([path.name, made.name])
    assert read_header(made) == read_header(path)
    np.testing.assert_array_equal(probabilities(load_checkpoint(made)[0]), probabilities(saved[1]))
    assert keras.models.load_model(made).count_params() == saved[1].count_params()


def test_onnx_answers_as_keras(path):
    pytest.importorskip("tf2onnx", reason="installed on request only")
    runtime = pytest.importorskip("onnxruntime", reason="installed on request only")
    assert checkpoint.main([str(path), "--onnx"]) == 0
    session = runtime.InferenceSession(path.with_suffix(".onnx"))
    faces = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 1)).astype(np.float32)
    (given,) = session.run(None, {session.get_inputs()[0].name: faces})
    np.testing.assert_allclose(given, answers(load_checkpoint(path)[0], faces), atol=1e-4)


def test_onnx_without_its_packages_is_one_line(path, monkeypatch):
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="--onnx needs tf2onnx and onnx: pip install tf2onnx onnx$"):
        checkpoint.main([str(path), "--onnx"])
    assert os.listdir(path.parent) == [path.name]


# ----------------------------------------------------------------------------------------------------------
# Bad files: each a line that names the file


def attribute(name, value):
    """A way to spoil a checkpoint: set one of its attributes."""

    def spoil(path):
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return spoil


def plain_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def weights_only(path):
    network().save_weights(path.with_name("x.weights.h5"))
    path.with_name("x.weights.h5").rename(path)


def keras_file(input_shape, *layers, outputs=7):
    """A way to spoil a checkpoint: put another network in its place."""

    def spoil(path):
        inputs = x = keras.Input(input_shape)
        for layer in (*layers, keras.layers.Flatten(), keras.layers.Dense(outputs)):
            x = layer(x)
        keras.Model(inputs, x).save(path)

    return spoil


def several_outputs(path):
    inputs = keras.Input((32, 32, 1))
    x = keras.layers.Flatten()(inputs)
    keras.Model(inputs, [keras.layers.Dense(7)(x), keras.layers.Dense(7)(x)]).save(path)


def damaged_inside(path):
    content = bytearray(path.read_bytes())
    content[60_000:120_000] = np.random.default_rng(0).bytes(60_000)
    path.write_bytes(content)


@pytest.mark.parametrize("given", ["mini_XCEPTION", "models/mini_XCEPTION", "nowhere/mini_XCEPTION.hdf5"])
def test_names_the_checkpoint_that_was_meant(given):
    shipped = Path(checkpoint.__file__).with_name("mini_XCEPTION.hdf5")
    with pytest.raises(UserError, match=f"; did you mean .*{shipped.name}.$"):
        read_header(given)


@pytest.mark.parametrize("given", [".", "/", "..", "models", "models/" + "s" * 300])
def test_a_folder_or_a_name_that_is_too_long_is_no_checkpoint(given):
    with pytest.raises(UserError, match="a model is a Keras checkpoint.*; found [./models]+$"):
        read_header(given)


LAMBDA = keras.layers.Lambda(lambda x: x)
BAD = {
    "missing": (Path.unlink, "no checkpoint at"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), None),
    "empty": (lambda path: path.write_bytes(b""), "not a whole HDF5 file"),
    "random bytes": (lambda path: path.write_bytes(os.urandom(5000)), "not a whole HDF5 file"),
    "truncated": (cut, "not a whole HDF5 file"),
    "damaged inside": (damaged_inside, None),
    "not Keras": (plain_hdf5, "no Keras network"),
    "weights only": (weights_only, "no Keras network"),
    "broken description": (attribute("model_config", "{"), "damaged"),
    "a number for a description": (attribute("model_config", 5), None),
    "an empty description": (attribute("model_config", "[]"), "describes no network"),
    "layers that are none": (attribute("model_config", '{"class_name": "Sequential", "config": [1, "x"]}'), "damaged"),
    "an empty list of layers": (attribute("model_config", '{"class_name": "Sequential", "config": []}'), "damaged"),
    "a model without a class": (attribute("model_config", '{"config": {"layers": []}}'), "damaged"),
    "a shape that is none": (attribute("model_config", '{"class_name": "M", "config": {"batch_shape": 5}}'), "takes"),
    "a description without end": (attribute("model_config", "[" * 30_000), "damaged"),
    "broken labels": (attribute("emotions", "["), "damaged"),
    "a number for labels": (attribute("emotions", "5"), None),
    "text for labels": (attribute("emotions", '"abcdefg"'), None),
    "numbers as labels": (attribute("emotions", "[1, 2, 3, 4, 5, 6, 7]"), None),
    "too few labels": (attribute("emotions", json.dumps(LABELS)), "one output per emotion.* 7.* 3"),
    "five outputs": (keras_file((32, 32, 1), outputs=5), "one output per emotion.* 5.* 7: .*--emotions"),
    "two rows of outputs": (several_outputs, "one row of probabilities"),
    "four channels": (keras_file((48, 48, 4)), r"grey images .*\(48, 48, 4\)"),
    "code": (keras_file((48, 48, 1), LAMBDA), "code in a Lambda layer"),
    "code inside a layer": (keras_file((32, 32, 1), keras.layers.TimeDistributed(LAMBDA)), "code in a Lambda layer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(path, case):
    spoil, message = BAD[case]
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.weights", "model", "model.tflite"])
def test_other_suffixes_are_refused(path, name):
    path = path.rename(path.with_name(name))
    with pytest.raises(UserError, match=rf"\.hdf5 or \.h5; found .*{name}"):
        read_header(path)


def test_damage_anywhere_is_one_line(path):
    """HDF5 fails in many ways: it never ends in another error than a `UserError`."""
    content, rng, causes = path.read_bytes(), np.random.default_rng(0), set()
    for _ in range(150):
        damaged, start = bytearray(content), int(rng.integers(4096))
        damaged[start : start + 16] = rng.bytes(16)
        path.write_bytes(damaged)
        try:
            read_header(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            causes.add(type(error.__cause__))
    assert {OSError, RuntimeError} <= causes


def test_a_bug_of_ours_is_no_damaged_file(path, monkeypatch):
    """Only what Keras and h5py do with the file is told as a mistake in the file."""
    for function in ("_layers", "_input_shape", "emotions_of"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, function, lambda *_: EMOTIONS.index("bored"))
            with pytest.raises(ValueError, match="not in tuple") as raised:
                load_checkpoint(path)
            assert not isinstance(raised.value, UserError), function


def test_code_is_not_run(path, tmp_path, monkeypatch):
    """Neither a layer's function nor a class named by its module is reached."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        touch = {"command": f"touch {tmp_path / 'ran'}"}
        config["config"]["layers"][-1] |= {"module": "os", "class_name": "system", "config": touch}
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UserError, match=str(path)) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


# ----------------------------------------------------------------------------------------------------------
# The compiled form


def refuse_to_run(*_, **__):
    raise AssertionError("compiled again")


@pytest.fixture(scope="module")
def thousand():
    """A hundred drawn faces in ten lights each, as 48x48 networks take them."""
    faces = preprocess_images(draw_dataset(per_emotion={"Training": 15})["Training"][0][:100])
    return np.concatenate([faces * light for light in np.linspace(0.1, 1, 10, dtype=np.float32)])


def assert_answers_as(model, compiled, faces):
    """The compiled form's probabilities are those of Keras."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT comes for some systems only")
    lite = interpreter.Interpreter(str(compiled))
    lite.resize_tensor_input(lite.get_input_details()[0]["index"], faces.shape)
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], faces)
    lite.invoke()
    answers = lite.get_tensor(lite.get_output_details()[0]["index"])
    np.testing.assert_allclose(answers, model.predict(faces, verbose=0), atol=1e-4)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_weights_that_come_with_the_project_come_compiled_and_answer_as_in_keras(path, thousand):
    compiled = compile_checkpoint(path)
    assert compiled.parent == path.parent, f"python -m models.checkpoint {path}, and COMPILED_HERE"
    assert_answers_as(load_checkpoint(path)[0], compiled, thousand)


def test_compiled_form_answers_as_keras_and_is_made_once(tmp_path, monkeypatch, emotion_cache, thousand):
    path, model = tmp_path / "mini.hdf5", network("mini_XCEPTION", (48, 48, 1))
    save_checkpoint(model, path, EMOTIONS)
    compiled = compile_checkpoint(path)
    content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    assert compiled == emotion_cache / f"mini.{content_hash[:16]}.tflite"
    assert_answers_as(model, compiled, thousand)

    monkeypatch.setattr(checkpoint.subprocess, "run", refuse_to_run)
    assert compile_checkpoint(path) == compiled
    (tmp_path / compiled.name).write_bytes(b"a network that came with the file")
    assert compile_checkpoint(path) == compiled
    save_checkpoint(network("mini_XCEPTION", (48, 48, 1), seed=1), path, EMOTIONS)
    with pytest.raises(AssertionError, match="compiled again"):
        compile_checkpoint(path)


def test_a_cache_named_relatively_is_in_the_users_folder(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("EMOTION_CACHE", "cache")
    commands = []

    def record(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(checkpoint.subprocess, "run", record)
    compile_checkpoint(path)
    assert Path(commands[0][-1]).parent == path.parent / "cache"


def test_a_cache_that_can_not_be_written_is_one_line(path, monkeypatch):
    (path.parent / "file").write_text("no folder")
    monkeypatch.setenv("EMOTION_CACHE", str(path.parent / "file" / "cache"))
    with pytest.raises(UserError, match=r"cache/tiny\..*\.tflite can't be written .*: choose another path") as caught:
        compile_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_compiling_by_hand(path, tmp_path, monkeypatch):
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-m", "models.checkpoint"]
    done = subprocess.run([*command, path], cwd=ROOT, capture_output=True, text=True)
    (compiled,) = path.parent.glob("tiny.*.tflite")
    assert compile_checkpoint(path) == tmp_path / "cache" / compiled.name  # for the live script
    assert compile_checkpoint(path).read_bytes() == compiled.read_bytes()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"compiled: {compiled}\n", "")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "MODEL.hdf5" in done.stderr and done.stderr.count("\n") == 1


def test_a_second_model_is_not_overwritten(path, tmp_path):
    second = Path(shutil.copy(path, tmp_path / "second.hdf5"))
    before = second.read_bytes()
    with pytest.raises(UserError, match="is a .tflite or a .keras; found .*second.hdf5: compile one model at a time"):
        checkpoint.main([str(path), str(second)])
    assert second.read_bytes() == before


def test_one_file_is_made_at_a_time(path, tmp_path):
    made = tmp_path / "made.keras"
    with pytest.raises(UserError, match="one file is made at a time; found .*made.keras and --onnx: leave one"):
        checkpoint.main([str(path), str(made), "--onnx"])
    assert not made.exists()


def test_without_tensorflow_what_must_be_compiled_is_one_line(path, monkeypatch):
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(checkpoint.subprocess, "run", refuse_to_run)
    with pytest.raises(UserError, match="tiny.hdf5 must be compiled first, .* pip install -r requirements.txt$"):
        compile_checkpoint(path)
    for shipped in SHIPPED:
        assert compile_checkpoint(shipped).is_file()


def test_without_tensorflow_a_form_that_lies_beside_a_checkpoint_is_run_once_the_user_has_moved_it(
    path, monkeypatch, emotion_cache
):
    path.write_bytes(path.read_bytes() + b"other than in other tests")
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda _: None)
    beside = checkpoint._compiled_beside(path, read_header(path))
    beside.write_bytes(b"made elsewhere")
    with pytest.raises(UserError, match=f"if you compiled {beside} yourself, move it to {emotion_cache}$"):
        compile_checkpoint(path)
    moved = Path(shutil.move(beside, emotion_cache))
    assert compile_checkpoint(path) == moved


def test_bad_files_do_not_reach_the_compiler(path, monkeypatch):
    monkeypatch.setattr(checkpoint.subprocess, "run", refuse_to_run)
    cut(path)
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        compile_checkpoint(path)


@pytest.mark.parametrize(
    ("status", "stderr", "kind", "message"),
    [
        (2, "error: a rule was broken\n", UserError, "^a rule was broken$"),
        (1, "noise\nerror: cache can't be written: No space left\n", UserError, "^cache can't be written: No space"),
        (-9, "", UserError, "tiny.hdf5 can't be compiled: TensorFlow ended by signal 9"),
        (1, "Traceback (most recent call last):\nValueError: a bug\n", RuntimeError, "Traceback(.|\n)*a bug"),
    ],
)
def test_what_the_compiling_process_says_is_told_again(path, monkeypatch, status, stderr, kind, message):
    """Its mistakes as mistakes with its exit status, its bugs as bugs."""

    def fail(command, **_):
        return subprocess.CompletedProcess(command, status, "", stderr)

    monkeypatch.setattr(checkpoint.subprocess, "run", fail)
    with pytest.raises(kind, match=message) as raised:
        compile_checkpoint(path)
    assert kind is RuntimeError or raised.value.exit_status == max(status, 1)


def test_a_network_that_can_not_be_compiled_is_one_line(path, emotion_cache):
    before = set(emotion_cache.iterdir())
    attribute("emotions", json.dumps(LABELS))(path)
    with pytest.raises(UserError, match="one output per emotion.* 7.* 3") as caught:
        compile_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert set(emotion_cache.iterdir()) == before
