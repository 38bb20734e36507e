"""The five networks.  Each maps faces, float32 (n, height, width, channels) in [-1, 1], to probabilities (n, classes).

simple_CNN, simpler_CNN and the XCEPTIONs come from Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional
Neural Networks for Emotion and Gender Classification" (2017), arXiv:1710.07557.  Widths, kernels and parameter counts
are the paper's.  All five networks end in the same way: a 3x3 convolution (the layer `EMOTION_MAPS`) makes one map per
emotion, and the mean of that map is the emotion's logit.  The maps are coarse, 3x3 in most networks.  They do not show
well which parts of a face a network needs: use `EmotionClassifier.heat_maps` for that.

To add a network, write one more short function from the blocks below, or from Keras's layers, and add it to `NETWORKS`.
It must end in a softmax over the emotions.  Train it with --network NAME.

    python models/cnn.py        prints the networks, and how many parameters they have
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from command_line import quiet_start

    with quiet_start():  # TensorFlow writes about itself and its devices
        import keras

        keras.distribution.list_devices()

import keras
from keras import layers

from command_line import UserError
from load_and_process import EMOTIONS
from models.safety import MOST_EMOTIONS

EMOTION_MAPS = "emotion_maps"  # name of the last convolution, the same in every network
SMALLEST, LARGEST = 32, 96  # pixels, height and width; at 32, the emotion maps have 2x2 points, or 4x4 in big_XCEPTION

# ----------------------------------------------------------------------------------------------------------
# Networks


def simple_CNN(input_shape: Sequence[int], num_classes: int, l2_regularization: float = 0.0) -> keras.Model:
    """A plain CNN: four stages of two convolutions and average pooling.  642,935 parameters for 7 classes.

    Args:
        input_shape: Height, width and channels; height and width from 32 to 96 pixels, 1 or 3 channels.
        num_classes: Number of emotions, at least 2.
        l2_regularization: L2 penalty on every convolution kernel (the paper's XCEPTIONs used 0.01).

    Returns:
        An uncompiled model from faces (n, height, width, channels) to softmax probabilities (n, num_classes).

    Raises:
        UserError: The input shape or the number of classes is outside these limits.
        ValueError: `num_classes` is not a whole number, or `l2_regularization` is negative.
    """
    inputs, l2 = _input_and_l2(input_shape, num_classes, l2_regularization)
    x = inputs
    for filters, kernel in ((16, 7), (32, 5), (64, 3), (128, 3)):
        x = _conv_bn_relu(x, filters, kernel, l2=l2)
        x = _conv_bn_relu(x, filters, kernel, l2=l2)
        x = layers.AveragePooling2D(2, padding="same")(x)
        x = layers.Dropout(0.1)(x)
    x = _conv_bn_relu(x, 256, 3, l2=l2)
    return _head(inputs, x, num_classes, l2, "simple_CNN")


def simpler_CNN(input_shape: Sequence[int], num_classes: int, l2_regularization: float = 0.0) -> keras.Model:
    """A CNN with strided convolutions in place of pooling, and 1x1 convolutions.  559,671 parameters for 7 classes.

    The paper's authors halve the resolution six times, down to one point at 48x48.  Here the last two stages keep their
    resolution, so that the emotion maps still have positions (3x3 at 48x48).

    Args, Returns, Raises: As `simple_CNN`.
    """
    inputs, l2 = _input_and_l2(input_shape, num_classes, l2_regularization)
    x = inputs
    for filters, kernel in ((16, 5), (32, 5), (64, 3)):
        x = _conv_bn_relu(x, filters, kernel, l2=l2)
        x = _conv_bn_relu(x, filters, kernel, strides=2, l2=l2)
        x = layers.Dropout(0.1)(x)
    x = _conv_bn_relu(x, 64, 1, l2=l2)
    x = _conv_bn_relu(x, 128, 3, strides=2, l2=l2)
    x = layers.Dropout(0.1)(x)
    x = _conv_bn_relu(x, 256, 1, l2=l2)
    x = layers.Conv2D(128, 3, padding="same", activation="relu", kernel_regularizer=l2)(x)
    x = layers.Dropout(0.1)(x)
    x = _conv_bn_relu(x, 256, 1, l2=l2)
    return _head(inputs, x, num_classes, l2, "simpler_CNN")


def tiny_XCEPTION(input_shape: Sequence[int], num_classes: int, l2_regularization: float = 0.0) -> keras.Model:
    """The smallest network: mini_XCEPTION at half the width.  18,314 parameters for 7 classes.

    Args, Returns, Raises: As `simple_CNN`.
    """
    return _small_xception(input_shape, num_classes, l2_regularization, 5, (8, 16, 32, 64), "tiny_XCEPTION")


def mini_XCEPTION(input_shape: Sequence[int], num_classes: int, l2_regularization: float = 0.0) -> keras.Model:
    """The paper's real-time network, and the trainer's default.  58,423 parameters for 7 classes.

    Args, Returns, Raises: As `simple_CNN`.
    """
    return _small_xception(input_shape, num_classes, l2_regularization, 8, (16, 32, 64, 128), "mini_XCEPTION")


def big_XCEPTION(input_shape: Sequence[int], num_classes: int, l2_regularization: float = 0.0) -> keras.Model:
    """Two wide modules after a strided stem, as in Xception's entry flow.  208,871 parameters for 7 classes.

    Args, Returns, Raises: As `simple_CNN`.
    """
    inputs, l2 = _input_and_l2(input_shape, num_classes, l2_regularization)
    x = _conv_bn_relu(inputs, 32, 3, strides=2, padding="valid", use_bias=False, l2=l2)
    x = _conv_bn_relu(x, 64, 3, padding="valid", use_bias=False, l2=l2)
    x = _xception_module(x, 128, l2)
    x = layers.Activation("relu")(x)
    x = _xception_module(x, 256, l2)
    return _head(inputs, x, num_classes, l2, "big_XCEPTION")


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    network.__name__: network for network in (simple_CNN, simpler_CNN, tiny_XCEPTION, mini_XCEPTION, big_XCEPTION)
}

# ----------------------------------------------------------------------------------------------------------
# Blocks


def _input_and_l2(input_shape, num_classes, l2_regularization):
    """Check a network's arguments; return its input layer and its L2 regularizer (or None)."""
    shape = tuple(input_shape)
    sides_fit = len(shape) == 3 and all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in shape[:2])
    if not sides_fit or shape[2] not in (1, 3):
        raise UserError(
            f"a network's input must be (height, width, channels), sides from {SMALLEST} to {LARGEST} pixels and "
            f"1 or 3 channels; found {input_shape}: choose another image size"
        )
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise ValueError(f"num_classes must be a whole number; found {num_classes!r}")
    if num_classes < 2:
        raise UserError(f"a network must have at least 2 emotions; found {num_classes}: use data that show more")
    if num_classes > MOST_EMOTIONS:
        raise UserError(f"a network may have {MOST_EMOTIONS} emotions at most; found {num_classes}: use fewer folders")
    if not l2_regularization >= 0:  # not (...): NaN compares false
        raise ValueError(f"l2_regularization must be 0 or more; found {l2_regularization!r}")
    return keras.Input(shape, name="faces"), keras.regularizers.L2(l2_regularization) if l2_regularization else None


def _small_xception(input_shape, num_classes, l2_regularization, stem, widths, name):
    """tiny_XCEPTION and mini_XCEPTION: two convolutions of `stem` filters, then one module for each width."""
    inputs, l2 = _input_and_l2(input_shape, num_classes, l2_regularization)
    x = _conv_bn_relu(inputs, stem, 3, padding="valid", use_bias=False, l2=l2)
    x = _conv_bn_relu(x, stem, 3, padding="valid", use_bias=False, l2=l2)
    for filters in widths:
        x = _xception_module(x, filters, l2)
    return _head(inputs, x, num_classes, l2, name)


def _conv_bn_relu(x, filters, kernel, strides=1, padding="same", use_bias=True, l2=None):
    """Convolution, batch normalization, ReLU."""
    x = layers.Conv2D(filters, kernel, strides, padding, use_bias=use_bias, kernel_regularizer=l2)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation("relu")(x)


def _xception_module(x, filters, l2):
    """Two separable convolutions and max pooling, plus a 1x1 shortcut: (n, h, w, c) -> (n, h/2, w/2, filters)."""
    # Pooling keeps every other pixel; a 1x1 convolution after it equals the strided one.  The strided convolution's
    # gradient crashes TensorFlow 2.21's oneDNN on some processors at odd batch sizes.
    shortcut = layers.MaxPooling2D(1, strides=2, padding="same")(x)
    shortcut = layers.Conv2D(filters, 1, use_bias=False, kernel_regularizer=l2)(shortcut)
    shortcut = layers.BatchNormalization()(shortcut)
    x = _separable_bn(x, filters, l2)
    x = layers.Activation("relu")(x)
    x = _separable_bn(x, filters, l2)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    return layers.Add()([x, shortcut])


def _separable_bn(x, filters, l2):
    """Depthwise 3x3 convolution, pointwise 1x1 convolution, batch normalization."""
    x = layers.SeparableConv2D(
        filters, 3, padding="same", use_bias=False, depthwise_regularizer=l2, pointwise_regularizer=l2
    )(x)
    return layers.BatchNormalization()(x)


def _head(inputs, x, num_classes, l2, name):
    """One map per emotion, the map's mean as the logit, softmax in float32 (also under a mixed precision policy)."""
    x = layers.Conv2D(num_classes, 3, padding="same", kernel_regularizer=l2, name=EMOTION_MAPS)(x)
    x = layers.GlobalAveragePooling2D(name="logits")(x)
    x = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x, name=name)


if __name__ == "__main__":
    for name, network in NETWORKS.items():
        purpose = (network.__doc__ or "").partition(".")[0].partition(":")[0]
        print(f"{name:<16}{network((48, 48, 1), len(EMOTIONS)).count_params():>9,} parameters   {purpose}")
