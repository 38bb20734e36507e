"""What a model file may contain: allowed layers with allowed arguments, plain numbers as weights, and limits of size.

Keras rebuilds whatever a model file describes.  Some of what it can rebuild runs code, or reads and writes files.  So
Keras sees a description only after this module has copied it: the copy holds nothing but layers of the table `LAYERS`,
with arguments of that table, whose values are numbers and known words.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from command_line import UserError

if TYPE_CHECKING:
    import keras

MOST_EMOTIONS = 20
LARGEST_SIDE = 1024  # pixels, of a network's input
LARGEST_JSON = 2**24  # bytes
MOST_NUMBERS = 2**28  # weights of a network, 1 GiB
LARGEST_MAP = 2**26  # values that one layer gives for one face
LARGEST_WEIGHT = 1e18  # squares of larger ones have no room in float32
LARGEST_INTEGER, LARGEST_SEED = 2**16, 2**63  # among a layer's arguments
DEEPEST = 64  # nesting of a description
MOST_CALLS = 10_000  # of layers, in one call of the network
MOST_COMPRESSED = 100  # times that numbers may be smaller in the file
NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM, h5py.h5t.BITFIELD)  # HDF5 keeps bool as ENUM

# ----------------------------------------------------------------------------------------------------------
# What is allowed


def _words(text):
    """Return the words of a text."""
    return frozenset(text.split())


_CONV = "filters kernel_size strides padding dilation_rate groups activation use_bias"
_POOL = "pool_size strides padding"
_NOISE = "rate noise_shape seed"
_ZOOM = "height_factor width_factor fill_mode fill_value interpolation seed"
_SIZE = "height width interpolation crop_to_aspect_ratio pad_to_aspect_ratio fill_mode fill_value antialias seed"

MODELS = {  # arguments of models, beside `layers`
    "Functional": "input_layers output_layers",
    "Model": "input_layers output_layers",
    "Sequential": "build_input_shape",
}
LAYERS = {  # arguments, beside those of `_EVERY` and `_OBJECTS`
    "InputLayer": "sparse ragged optional",
    "Conv2D": _CONV,
    "Conv2DTranspose": f"{_CONV} output_padding",
    "SeparableConv2D": f"{_CONV} depth_multiplier",
    "DepthwiseConv2D": f"{_CONV} depth_multiplier",
    "Dense": "units activation use_bias quantization_config",
    "BatchNormalization": "axis momentum epsilon center scale mode fused renorm renorm_clipping renorm_momentum "
    "synchronized virtual_batch_size adjustment",
    "LayerNormalization": "axis epsilon center scale rms_scaling",
    "GroupNormalization": "groups axis epsilon center scale",
    "Activation": "activation",
    "ReLU": "max_value negative_slope threshold",
    "LeakyReLU": "alpha negative_slope",
    "PReLU": "shared_axes",
    "ELU": "alpha",
    "Softmax": "axis",
    "MaxPooling2D": _POOL,
    "AveragePooling2D": _POOL,
    "GlobalMaxPooling2D": "keepdims",
    "GlobalAveragePooling2D": "keepdims",
    "ZeroPadding2D": "padding",
    "Cropping2D": "cropping",
    "UpSampling2D": "size interpolation",
    "Flatten": "",
    "Reshape": "target_shape",
    "Permute": "dims",
    "Dropout": _NOISE,
    "SpatialDropout2D": _NOISE,
    "GaussianDropout": _NOISE,
    "AlphaDropout": _NOISE,
    "GaussianNoise": "stddev seed",
    "ActivityRegularization": "l1 l2",
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), ""),
    "Concatenate": "axis",
    "Rescaling": "scale offset",
    "Normalization": "axis invert mean variance",
    "Resizing": _SIZE,
    "CenterCrop": _SIZE,
    "RandomCrop": _SIZE,
    "RandomFlip": "mode seed",
    "RandomRotation": "factor fill_mode fill_value interpolation seed",
    "RandomZoom": _ZOOM,
    "RandomTranslation": _ZOOM,
    "RandomContrast": "factor value_range seed",
    "RandomBrightness": "factor value_range seed",
}
_EVERY = "name trainable dtype data_format batch_shape batch_input_shape"
_OBJECTS = ("_initializer", "_regularizer", "_constraint")  # ends of arguments whose values are such objects
_OBJECT_CLASSES = _words(
    "Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling GlorotUniform GlorotNormal "
    "HeNormal HeUniform LecunNormal LecunUniform Orthogonal Identity L1 L2 L1L2 MaxNorm MinMaxNorm NonNeg "
    "UnitNorm"
)
_OBJECT_WORDS = _words(
    "zeros ones constant random_normal random_uniform truncated_normal variance_scaling glorot_uniform glorot_normal "
    "he_normal he_uniform lecun_normal lecun_uniform orthogonal identity l1 l2 l1_l2 max_norm min_max_norm non_neg "
    "unit_norm normal uniform zero one"
) | {f"{name[0].lower()}{name[1:]}" for name in _OBJECT_CLASSES}
_OBJECT_ARGUMENTS = _words(
    "seed mean stddev minval maxval scale mode distribution value gain l1 l2 max_value min_value rate axis input_axes "
    "output_axes dtype"
)
_ACTIVATIONS = _words(
    "linear relu relu6 leaky_relu elu selu celu gelu silu swish mish softmax log_softmax softplus softsign sigmoid "
    "hard_sigmoid hard_silu hard_swish tanh hard_tanh exponential"
)
_ACTIVATION_LAYERS = ("ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
_WORDS = _words(
    "valid same channels_last channels_first nearest bilinear bicubic lanczos3 lanczos5 area constant reflect wrap "
    "horizontal vertical horizontal_and_vertical fan_in fan_out fan_avg normal uniform truncated_normal "
    "untruncated_normal float16 bfloat16 float32 float64"
)
_MODULES = _words(
    "keras keras.layers keras.models keras.initializers keras.regularizers keras.constraints keras.src.models.model "
    "keras.src.models.functional keras.src.models.sequential keras.src.engine.functional "
    "keras.src.engine.sequential keras.engine.functional keras.engine.sequential"
)

# ----------------------------------------------------------------------------------------------------------
# Descriptions


def copy_description(description: Any, path: Path) -> dict:
    """Copy a model's description; the copy holds allowed layers and arguments alone.

    Args:
        description: What the JSON of a model file says: of a model, `class_name` and `config`.
        path: The file, for the message.

    Returns:
        The description, without what training needs alone: optimizer, loss, metrics.

    Raises:
        UserError: A layer, an argument or a value is not allowed.
    """
    if _class_name(description) not in MODELS:
        raise _refusal(path, f"the class {_shown(_part(description, 'class_name'))}")
    copy = _copy_layer(description, path)
    if (calls := _count_calls(copy)) > MOST_CALLS:
        raise _refusal(path, f"{calls:,} calls of layers, more than {MOST_CALLS:,},")
    return copy


def _count_calls(description):
    """Return how many layers are called where a layer or a model is called as often as its description says."""
    inside = sum(map(_count_calls, description["config"].get("layers", ())))
    nodes = description.get("inbound_nodes")
    return max(1, inside) * max(1, len(nodes) if isinstance(nodes, list) else 1)


def check_nesting(value: Any, path: Path) -> None:
    """Refuse a JSON value that is nested so deeply that the functions which read it would fail.

    Args:
        value: Dicts, lists, and what these hold.
        path: The file, for the message.

    Raises:
        UserError: It is nested too deeply.
    """
    level = [[value]]  # the value itself may be no dict and no list
    for _ in range(DEEPEST + 1):
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return
    raise _refusal(path, f"a description nested more than {DEEPEST} deep")


def _copy_layer(description, path):
    """Return a copy of a layer's or a model's description, of which every part was checked."""
    class_name, config = _class_name(description), _part(description, "config")
    if class_name not in LAYERS | MODELS or not isinstance(config, dict):
        raise _refusal(path, f"the layer {_shown(_part(description, 'class_name'))}")
    copy = {"class_name": class_name, "config": _copy_config(class_name, config, path)} | _copy_origin(
        description, path
    )
    if "name" in description:
        copy["name"] = _name(description["name"], path)
    if "inbound_nodes" in description:
        copy["inbound_nodes"] = _copy_call(description["inbound_nodes"], path)
    return copy


def _copy_config(class_name, config, path):
    """Return a copy of the arguments of a layer or a model."""
    allowed = {*_EVERY.split(), *(LAYERS | MODELS)[class_name].split()}
    copy = {}
    for argument, value in config.items():
        if argument == "layers" and class_name in MODELS and isinstance(value, list):
            copy[argument] = [_copy_layer(layer, path) for layer in value]
        elif argument in ("input_layers", "output_layers") and argument in allowed:
            copy[argument] = _copy_call(value, path)
        elif argument == "name":
            copy[argument] = _name(value, path)
        elif argument == "dtype":
            copy[argument] = "float32"  # the network may have been trained in another precision
        elif argument.endswith(_OBJECTS):
            copy[argument] = _copy_object(value, path)
        elif argument == "activation" and argument in allowed:
            copy[argument] = _copy_activation(value, path)
        elif argument in allowed:
            copy[argument] = _copy_plain(value, path, LARGEST_SEED if argument == "seed" else LARGEST_INTEGER)
        else:
            raise _refusal(path, f"the argument {_shown(argument)} of a layer {class_name}")
    return copy


def _copy_origin(description, path):
    """Return where a class comes from, as Keras 3 writes it."""
    module, registered = description.get("module"), description.get("registered_name")
    if not (module is None or (isinstance(module, str) and module in _MODULES)):
        raise _refusal(path, f"a part of the module {_shown(module)}")
    if registered not in (None, description["class_name"]):
        raise _refusal(path, f"a class of its own, {_shown(registered)}")
    return {key: description[key] for key in ("module", "registered_name") if key in description}


def _copy_activation(value, path):
    """Return a copy of a layer's activation: a known name, or a layer such as LeakyReLU."""
    if value is None or (isinstance(value, str) and value in _ACTIVATIONS):
        return value
    if _class_name(value) in _ACTIVATION_LAYERS:
        return _copy_layer(value, path)
    raise _refusal(path, f"the activation {_shown(value)}")


def _copy_object(value, path):
    """Return a copy of an initializer, a regularizer or a constraint: a known name, or a known class with numbers."""
    if value is None or (isinstance(value, str) and value in _OBJECT_WORDS | _OBJECT_CLASSES):
        return value
    config = _part(value, "config")
    if _class_name(value) not in _OBJECT_CLASSES or not isinstance(config, dict):
        raise _refusal(path, f"the initializer, regularizer or constraint {_shown(value)}")
    if unknown := set(config) - _OBJECT_ARGUMENTS:
        raise _refusal(path, f"the argument {_shown(min(unknown))} of {value['class_name']}")
    copy = {argument: _copy_plain(part, path, LARGEST_SEED) for argument, part in config.items()}
    return {"class_name": value["class_name"], "config": copy} | _copy_origin(value, path)


def _copy_call(value, path):
    """Return a copy of what a layer is called with: tensors by the names of their layers, and switches."""
    if isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str):  # layer, call, output; Keras 2 adds arguments
            return [_name(value[0], path), *(_copy_call(part, path) for part in value[1:])]
        return [_copy_call(part, path) for part in value]
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        source = _part(value["config"], "keras_history") if isinstance(value.get("config"), dict) else None
        if not (isinstance(source, list) and len(source) == 3 and isinstance(source[0], str)):
            raise _refusal(path, f"the tensor {_shown(value)}")
        shape = _copy_plain(value["config"].get("shape"), path, LARGEST_MAP)
        config = {"shape": shape, "dtype": "float32", "keras_history": _copy_call(source, path)}
        return {"class_name": "__keras_tensor__", "config": config}
    if isinstance(value, dict) and set(value) <= {"args", "kwargs", "mask", "training"}:
        return {key: _copy_call(part, path) for key, part in value.items()}
    if isinstance(value, str | dict):
        raise _refusal(path, f"the argument {_shown(value)} of a call")
    return _copy_plain(value, path)


def _copy_plain(value, path, largest=LARGEST_INTEGER):
    """Return a copy of a number, a known word, None, or a list of these; whole numbers are `largest` at most."""
    if isinstance(value, list):
        return [_copy_plain(part, path, largest) for part in value]
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value in _WORDS):
        return value
    if isinstance(value, int) and abs(value) <= largest:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise _refusal(path, f"the value {_shown(value)}")


def _name(value, path):
    """Return the name of a layer."""
    if value is None or (isinstance(value, str) and len(value) <= 200 and value.isprintable() and ".." not in value):
        return value
    raise _refusal(path, f"the name {_shown(value)}")


def _part(value, key):
    """Return a part of a dict; None of any other value."""
    return value.get(key) if isinstance(value, dict) else None


def _class_name(description):
    """Return the name of the class that a description is of; None where it is of none."""
    name = _part(description, "class_name")
    return name if isinstance(name, str) else None


def _shown(value):
    """Return a value as a message shows it, in printable characters."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refusal(path, found):
    """Return the error of a file that holds what no plain network of faces needs."""
    return UserError(
        f"a model file may hold plain layers with plain arguments alone, since others can run code or read files; "
        f"found {found} in {path}: take a model without it, or see docs/security.md"
    )


# ----------------------------------------------------------------------------------------------------------
# Weights


def check_hdf5(file: h5py.File, path: Path) -> int:
    """Check that an HDF5 file holds numbers of its own alone, and count them.

    Args:
        file: Open for reading.
        path: The file, for the message.

    Returns:
        How many numbers it holds.

    Raises:
        UserError: A link, numbers of another file, objects that are no numbers, or too many numbers.
    """
    links, count = [], 0
    file.id.links.visit(lambda name, info: links.append((name, info.type)), info=True)
    for name, kind in links:
        place = _shown(name.decode("utf-8", "replace"))
        if kind != h5py.h5l.TYPE_HARD:
            raise _refusal(path, f"a link to another place, {place},")
        item = h5py.h5o.open(file.id, name)  # and not file[name], which takes three times as long
        if isinstance(item, h5py.h5d.DatasetID):
            plist, held, dtype = item.get_create_plist(), item.get_space().get_simple_extent_npoints(), item.get_type()
            if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
                raise _refusal(path, f"weights that lie in another file, {place},")
            if dtype.get_class() not in NUMBERS:
                raise _refusal(path, f"what is no number, in {place},")
            if held * dtype.get_size() > MOST_COMPRESSED * item.get_storage_size():  # a fill value takes no room
                raise _refusal(path, f"{held:,} numbers that it does not hold, in {place},")
            count += held
    if count > 4 * MOST_NUMBERS:  # optimizers keep up to three numbers for each weight
        raise _refusal(path, f"{count:,} numbers, more than {4 * MOST_NUMBERS:,},")
    return count


def check_weight_names(file: h5py.File, path: Path) -> None:
    """Refuse weights that are named twice, and that Keras would read again and again.

    Args:
        file: Open for reading.
        path: The file, for the message.

    Raises:
        UserError: A name comes twice.
    """

    def check(place, group):
        for kind in ("layer_names", "weight_names"):
            attributes = [group.attrs[name] for name in group.attrs if name.startswith(kind)]  # or in numbered parts
            names = [name for attribute in attributes for name in np.atleast_1d(attribute).tolist()]
            if len(set(names)) < len(names):
                raise _refusal(path, f"a name that comes twice among the {kind} of {_shown(place)}")

    file.visititems(lambda place, item: check(place, item) if isinstance(item, h5py.Group) else None)


@contextlib.contextmanager
def limited_weights(most: int, path: Path) -> Iterator[None]:
    """Let Keras build no more weights than a file holds: a short description could ask for terabytes.

    Args:
        most: How many numbers the file holds.
        path: The file, for the message.

    Raises:
        UserError: A layer asks for more; nothing was allocated for it.
    """
    import keras

    add_weight, left = keras.layers.Layer.add_weight, min(most, MOST_NUMBERS)

    def counted(layer, shape=None, *args, **kwargs):
        nonlocal left
        left -= math.prod(shape or ())
        if left < 0:
            raise _refusal(path, f"a layer {_shown(layer.name)} of more weights than the file has numbers, {most:,},")
        return add_weight(layer, shape, *args, **kwargs)

    keras.layers.Layer.add_weight = counted
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = add_weight


def check_network(model: "keras.Model", path: Path) -> None:
    """Check the weights and the maps of a network that was loaded.

    Args:
        model: With its weights.
        path: The file, for the message.

    Raises:
        UserError: A weight is NaN, infinite or huge, or a layer's map is huge.
    """
    for layer in model.layers:
        for output in (tensor for node in layer._inbound_nodes for tensor in node.outputs):
            if math.prod(side or 1 for side in output.shape) > LARGEST_MAP:
                raise _refusal(path, f"a layer {_shown(layer.name)} that gives a map of the size {output.shape}")
        if hasattr(layer, "layers"):
            check_network(layer, path)
            continue
        for weight in layer.weights:
            numbers = np.asarray(weight)
            if numbers.dtype.kind == "f" and not (np.abs(numbers) < LARGEST_WEIGHT).all():  # not (...): NaN
                worst = numbers.ravel()[np.argmax(~(np.abs(numbers) < LARGEST_WEIGHT))]
                raise UserError(
                    f"{path} must give probabilities; found {worst:g} among the weights of its layer "
                    f"{_shown(layer.name)}: train it again, or take another model"
                )
