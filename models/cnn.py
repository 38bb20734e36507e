"""The five networks.  Each maps faces, float32 (n, height, width, channels) in [-1, 1], to probabilities (n, classes).

simple_CNN, simpler_CNN and the XCEPTIONs come from Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional
Neural Networks for Emotion and Gender Classification" (2017), arXiv:1710.07557.  Widths, kernels and parameter counts
are theirs.  All five end alike: one 3x3 convolution makes a map per emotion (layer `EMOTION_MAPS`), the mean of each
map is that emotion's logit.  The maps are coarse, 3x3 in most, and what they show is not what the network needs most:
`EmotionClassifier.heat_maps` shows that.

A new network is one more short function: compose the blocks below and add it to `NETWORKS`.
"""

import keras
from keras import layers

EMOTION_MAPS = "emotion_maps"  # layer name of the last convolution, the same in every network
SMALLEST, LARGEST = 32, 96  # pixels, both sides; below 32 the last maps shrink to a point


def simple_CNN(input_shape, num_classes, l2_regularization=0.0):
    """A plain CNN: four stages of two convolutions, halved by average pooling.  642,935 parameters for 7 classes.

    Args:
        input_shape: (height, width, channels); sides from 32 to 96 pixels, 1 or 3 channels.
        num_classes: emotions to tell apart, at least 2.
        l2_regularization: L2 penalty on every convolution kernel (the paper's XCEPTIONs used 0.01).

    Returns:
        An uncompiled `keras.Model` from (n, height, width, channels) to softmax probabilities (n, num_classes).

    Raises:
        ValueError: the shape or the number of classes is one the network can't take.
    """
    inputs, l2 = _checked_input(input_shape, num_classes, l2_regularization)
    x = inputs
    for filters, kernel in ((16, 7), (32, 5), (64, 3), (128, 3)):
        x = _conv_bn_relu(x, filters, kernel, l2=l2)
        x = _conv_bn_relu(x, filters, kernel, l2=l2)
        x = layers.AveragePooling2D(2, padding="same")(x)
        x = layers.Dropout(0.1)(x)
    x = _conv_bn_relu(x, 256, 3, l2=l2)
    return _head(inputs, x, num_classes, l2, "simple_CNN")


def simpler_CNN(input_shape, num_classes, l2_regularization=0.0):
    """Strided convolutions in place of pooling, 1x1 ones between the wide stages.  559,671 parameters for 7 classes.

    The paper's authors halve six times, down to a single point at 48x48; here the last two stages keep their size, so
    that the emotion maps still show where (3x3 at 48x48).

    Args, Returns, Raises: as `simple_CNN`.
    """
    inputs, l2 = _checked_input(input_shape, num_classes, l2_regularization)
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


def tiny_XCEPTION(input_shape, num_classes, l2_regularization=0.0):
    """The smallest: mini_XCEPTION at half the width.  18,314 parameters for 7 classes.

    Args, Returns, Raises: as `simple_CNN`.
    """
    return _small_xception(input_shape, num_classes, l2_regularization, 5, (8, 16, 32, 64), "tiny_XCEPTION")


def mini_XCEPTION(input_shape, num_classes, l2_regularization=0.0):
    """The paper's real-time network, and this project's default.  58,423 parameters for 7 classes.

    Args, Returns, Raises: as `simple_CNN`.
    """
    return _small_xception(input_shape, num_classes, l2_regularization, 8, (16, 32, 64, 128), "mini_XCEPTION")


def big_XCEPTION(input_shape, num_classes, l2_regularization=0.0):
    """Fewer, wider modules on a strided stem, after Xception's entry flow.  208,871 parameters for 7 classes.

    Args, Returns, Raises: as `simple_CNN`.
    """
    inputs, l2 = _checked_input(input_shape, num_classes, l2_regularization)
    x = _conv_bn_relu(inputs, 32, 3, strides=2, padding="valid", use_bias=False, l2=l2)
    x = _conv_bn_relu(x, 64, 3, padding="valid", use_bias=False, l2=l2)
    x = _xception_module(x, 128, l2)
    x = layers.Activation("relu")(x)
    x = _xception_module(x, 256, l2)
    return _head(inputs, x, num_classes, l2, "big_XCEPTION")


NETWORKS = {
    network.__name__: network for network in (simple_CNN, simpler_CNN, tiny_XCEPTION, mini_XCEPTION, big_XCEPTION)
}


def _small_xception(input_shape, num_classes, l2_regularization, stem, widths, name):
    """tiny and mini: a stem of two convolutions of `stem` filters, then a module per width."""
    inputs, l2 = _checked_input(input_shape, num_classes, l2_regularization)
    x = _conv_bn_relu(inputs, stem, 3, padding="valid", use_bias=False, l2=l2)
    x = _conv_bn_relu(x, stem, 3, padding="valid", use_bias=False, l2=l2)
    for filters in widths:
        x = _xception_module(x, filters, l2)
    return _head(inputs, x, num_classes, l2, name)


def _conv_bn_relu(x, filters, kernel, strides=1, padding="same", use_bias=True, l2=None):
    """Convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(filters, kernel, strides, padding, use_bias=use_bias, kernel_regularizer=l2)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation("relu")(x)


def _xception_module(x, filters, l2):
    """Two separable convolutions, halved, beside a strided 1x1 shortcut: (n, h, w, c) -> (n, h/2, w/2, filters)."""
    # Every other pixel, then 1x1, is the strided convolution; its gradient crashes TensorFlow 2.21's oneDNN on some
    # processors at odd batch sizes.
    shortcut = layers.MaxPooling2D(1, strides=2, padding="same")(x)
    shortcut = layers.Conv2D(filters, 1, use_bias=False, kernel_regularizer=l2)(shortcut)
    shortcut = layers.BatchNormalization()(shortcut)
    x = _separable_bn(x, filters, l2)
    x = layers.Activation("relu")(x)
    x = _separable_bn(x, filters, l2)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    return layers.Add()([x, shortcut])


def _separable_bn(x, filters, l2):
    """Depthwise 3x3 and pointwise 1x1 convolution, batch normalisation."""
    x = layers.SeparableConv2D(
        filters, 3, padding="same", use_bias=False, depthwise_regularizer=l2, pointwise_regularizer=l2
    )(x)
    return layers.BatchNormalization()(x)


def _head(inputs, x, num_classes, l2, name):
    """A map per emotion, its mean as the logit, softmax in float32 whatever precision came before."""
    x = layers.Conv2D(num_classes, 3, padding="same", kernel_regularizer=l2, name=EMOTION_MAPS)(x)
    x = layers.GlobalAveragePooling2D(name="logits")(x)
    x = layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x, name=name)


def _checked_input(input_shape, num_classes, l2_regularization):
    """The input layer and the L2 regulariser (or None) of arguments that a network can take."""
    shape = tuple(input_shape)
    fits = len(shape) == 3 and all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in shape[:2])
    if not fits or shape[2] not in (1, 3):
        raise ValueError(
            f"input_shape must be (height, width, channels), sides from {SMALLEST} to {LARGEST} pixels and 1 or 3 "
            f"channels; found {input_shape}"
        )
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes must be a whole number of at least 2; found {num_classes!r}")
    if not l2_regularization >= 0:
        raise ValueError(f"l2_regularization must be 0 or more; found {l2_regularization!r}")
    return keras.Input(shape, name="faces"), keras.regularizers.L2(l2_regularization) if l2_regularization else None
