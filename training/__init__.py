"""What a training run is made of.  Importing this package imports Keras, in silence.

automatic      what "auto" stands for in the settings
faces          the data set's faces and labels, held-out parts, teachers, augmented batches
disturbances   what cameras do to faces: noise, blur, bad light
optimizer      Muon, the learning-rate schedule, the moving average of the weights, the loss
run            validation, calibration, the best checkpoint, the log, and going on after a break
on_tensorflow  what makes training faster on TensorFlow
hosts          several machines that train one network
reproduce      the steps that led to the networks that come trained
"""

import importlib
import importlib.util
import os

from command_line import quiet_start

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
with quiet_start():
    import keras

    if keras.backend.backend() == "tensorflow":
        keras.distribution.list_devices()  # TensorFlow writes about its devices now; JAX joins its hosts first
    elif importlib.util.find_spec("tensorflow"):
        importlib.import_module("tensorflow")  # Keras imports it later, whatever the backend
