"""A run: validate each epoch, calibrate, keep the best checkpoint, log, and go on after a break.

After each epoch `BestCheckpoint` validates what it would save, and `RunRecord` writes the log and all that --resume
needs.  `load_saved_run` reads that back.
"""

import io
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from command_line import UserError, WriteError, drawing, new_figure, replacing
from load_and_process import Split, preprocess_images
from models.checkpoint import RANGE, complete_headers, load_checkpoint, read_header, save_checkpoint
from models.safety import copy_description
from training import hosts
from training.faces import PREDICTED_AT_ONCE, AugmentedFaces, PlainFaces

MONITORS = {"val_accuracy": "max", "val_loss": "min", "epoch": "max"}  # columns of the log


class RunFiles(NamedTuple):
    """What a run writes beside its checkpoints."""

    settings: Path
    log: Path
    curve: Path
    state: Path  # for --resume
    boards: Path  # TensorBoard's folder

    @classmethod
    def of(cls, folder: Path, network: str) -> "RunFiles":
        """Name the files of a network's run in a folder."""
        endings = ("settings.json", "log.csv", "curve.png", "resume.npz", "tensorboard")
        return cls(*(folder / f"{network}.{ending}" for ending in endings))


# ----------------------------------------------------------------------------------------------------------
# Networks


def build_network(
    builder: Callable[..., keras.Model],
    input_shape: tuple[int, int, int],
    num_classes: int,
    l2_regularization: float,
    precision: str,
) -> keras.Model:
    """Build a network whose layers compute in a precision, "float32" or "mixed_bfloat16"."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = builder(input_shape, num_classes, l2_regularization)
    finally:
        keras.config.set_dtype_policy(policy)
    if re.fullmatch(r"(functional|sequential)(_\d+)?", model.name):  # Keras numbers networks without a name
        model.name = builder.__name__  # of the checkpoints
    return model


def check_network(
    name: str, builder: Callable[..., keras.Model], input_shape: tuple[int, int, int], calibrates: bool
) -> None:
    """Build a network for two emotions, and refuse one that would fail after the first epoch.

    Args:
        name: In `models.cnn.NETWORKS`.
        builder: The function of that name.
        input_shape: Height, width and channels.
        calibrates: Whether its logits must be such that `divide_logits` divides them.

    Raises:
        UserError: Its outputs are no probabilities, its logits can't be divided, or a checkpoint may not hold a layer.
    """
    model = builder(input_shape, 2)
    copy_description(json.loads(model.to_json()), Path(name))  # a layer that could not be loaded again
    faces = np.random.default_rng(0).uniform(-1, 1, (4, *input_shape)).astype(np.float32)
    before = keras.ops.convert_to_numpy(model(faces)).astype(np.float64)
    if before.shape != (4, 2) or not np.allclose(before.sum(axis=1), 1, atol=1e-3) or before.min() < 0:
        raise UserError(
            f"a network must end in a softmax over the emotions; found that {name} gives {before.shape[1:]} for 2 "
            f"emotions, with the sum {before[:1].sum():.3g}: end with Dense(num_classes, activation='softmax')"
        )
    if not calibrates:
        return
    logits = np.log(np.maximum(before, 1e-12))
    temperature = max(np.abs(logits[:, 1] - logits[:, 0]).max(), 1e-3)
    divide_logits(model, temperature)
    expected = np.exp(logits / temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    if not np.allclose(keras.ops.convert_to_numpy(model(faces)), expected, atol=0.02):
        raise UserError(
            f"a network's logits must be its last layer with weights, pooled at most, for calibration; found {name} to "
            "be of another kind: put a Dense or convolution before the softmax, or pass --calibration-fraction 0"
        )


def start_from_checkpoint(path: Path, model: keras.Model, emotions: tuple[str, ...]) -> None:
    """Give a network the weights of a checkpoint; the last layer keeps its own where the checkpoint has other emotions.

    Raises:
        UserError: There is no such checkpoint, or it is one of another network.
    """
    (header,) = complete_headers([path], [read_header(path)])
    source, source_emotions = load_checkpoint(path, header)
    source_layers = [layer for layer in source.layers if layer.weights]
    layers = [layer for layer in model.layers if layer.weights]
    if source_emotions != emotions:
        source_layers, layers = source_layers[:-1], layers[:-1]
    shapes = [[[tuple(weight.shape) for weight in layer.weights] for layer in each] for each in (source_layers, layers)]
    if shapes[0] != shapes[1]:
        reason = f"is one of {source.name}"
        if any(hasattr(layer, "layers") for layer in source.layers):  # it had to be adapted
            (low, high), colour = header.input_range or RANGE, header.input_shape[2] == 3
            reason = "takes colour images" if colour else f"takes pixels from {low:g} to {high:g}, and not from -1 to 1"
            reason = reason if colour or (low, high) != RANGE else "gives logits, or augments its input"
        raise UserError(f"--start-from takes a checkpoint of {model.name}; {path} {reason}: it can be a --teacher")
    for layer, source_layer in zip(layers, source_layers, strict=True):
        layer.set_weights(source_layer.get_weights())


def limit_batch_norm_momentum(model: keras.Model, steps_per_epoch: int) -> None:
    """Lower the momentum of batch normalisation, so that its moving averages span one epoch at most."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, math.exp(-1 / steps_per_epoch))


def create_variables(model: keras.Model, labels: np.ndarray, train: bool) -> None:
    """Create the variables of a compiled model's metrics and optimizer, which Keras would create in the first step.

    A graph that creates variables runs only once.  So TensorFlow would make the graph of a step twice, which takes
    seconds.  On other backends than TensorFlow, nothing happens.

    Args:
        model: Changed in place.
        labels: Of some faces, as the model gets labels.
        train: Whether the model is to be trained, and so needs its optimizer's variables.
    """
    if keras.backend.backend() != "tensorflow":
        return
    if train:
        model.optimizer.build(model.trainable_variables)
    predicted = keras.ops.ones((len(labels), model.output_shape[-1]))
    model.compute_metrics(None, keras.ops.convert_to_tensor(labels), predicted)
    model.reset_metrics()


def predict(model: keras.Model, split: Split) -> np.ndarray:
    """Return a network's probabilities for all faces of a `Split`, float32 (n, emotions)."""
    return model.predict(PlainFaces(split), verbose=0)


def describe_accuracy(probabilities: np.ndarray, emotions: np.ndarray) -> str:
    """Say how many faces are named correctly, and macro-F1.

    Args:
        probabilities: float (n, emotions), as predicted.
        emotions: The true ones, int (n,), or people's shares, float (n, emotions).
    """
    from sklearn.metrics import f1_score  # here: it takes a second to import

    correctly = "correctly" if emotions.ndim == 1 else "as most people do"
    y_true = emotions if emotions.ndim == 1 else emotions.argmax(axis=1)
    y_pred = probabilities.argmax(axis=1)
    macro_f1 = f1_score(y_true, y_pred, labels=np.unique(y_true), average="macro", zero_division=0)
    return f"{np.mean(y_true == y_pred):.2%} of {len(y_true)} faces named {correctly}, macro-F1 {macro_f1:.1%}"


# ----------------------------------------------------------------------------------------------------------
# What is validated and saved


class BestCheckpoint(keras.callbacks.Callback):
    """Validate each epoch's averaged weights, calibrated and in float32, and keep the best as a checkpoint.

    The network that is validated is the network that is saved.  The callback puts val_loss and val_accuracy into the
    logs, so it stands before the callbacks that read them.  Of several hosts, the first validates and saves; all get
    its figures, so that all come to the same decisions.

    Args:
        eval_model: A float32 network of the same architecture as the trained one.
        emotions: Labels in the order of the outputs.
        validation: Split that chooses the best epoch; its emotions are numbers, or labels (n, emotions).
        calibration: The same, that the temperature is fitted on; may be empty.
        recalibration_faces: uint8 (n, h, w, c), for `recalibrate_batch_norm`; may be empty.
        monitor: One of MONITORS.
        output_dir: Where checkpoints go.
        suffix: Of the checkpoints: ".hdf5" or ".keras".
        trained_on: As `save_checkpoint` takes it.

    Attributes:
        path: Of the best checkpoint; None before the first.
        score: Of the best checkpoint; higher is better.
    """

    def __init__(
        self,
        eval_model: keras.Model,
        emotions: tuple[str, ...],
        *,
        validation: Split,
        calibration: Split,
        recalibration_faces: np.ndarray,
        monitor: str,
        output_dir: Path,
        suffix: str = ".hdf5",
        trained_on: str = "",
    ):
        super().__init__()
        self.eval_model, self.emotions = eval_model, emotions
        self.validation, self.calibration = PlainFaces(validation), calibration
        self.recalibration_faces, self.monitor, self.output_dir = recalibration_faces, monitor, output_dir
        self.suffix, self.trained_on = suffix, trained_on
        self.path, self.score, self.superseded = None, (-math.inf, 0.0), None
        others = output_dir.glob(f"{eval_model.name}.*{suffix}")  # of earlier runs
        self.earlier_files = sorted(path.name for path in others)
        kind = "categorical" if validation.emotions.ndim == 2 else "sparse_categorical"  # people's shares, or numbers
        eval_model.compile(loss=f"{kind}_crossentropy", metrics=["accuracy"])
        create_variables(eval_model, validation.emotions[:1], train=False)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        averaged, result, temperature = averaged_weights(self.model), None, None
        if hosts.is_first_host():
            with hosts.single_host():
                self.eval_model.set_weights(averaged)
                recalibrate_batch_norm(self.eval_model, self.recalibration_faces)
                temperature = calibrate(self.eval_model, self.calibration)
                result = self.eval_model.evaluate(self.validation, verbose=0, return_dict=True)
        result = hosts.broadcast(result)
        logs["val_loss"], logs["val_accuracy"] = result["loss"], result["accuracy"]
        if not math.isfinite(logs["loss"] + result["loss"]):
            raise UserError(
                f"the loss must be finite; found NaN or infinity in epoch {epoch + 1}: lower --learning-rate, and "
                "--resume"
            )
        score = {
            "val_accuracy": (result["accuracy"], -result["loss"]),  # of two as accurate, the one with the lower loss
            "val_loss": (-result["loss"], result["accuracy"]),
            "epoch": (epoch + 1, 0.0),
        }[self.monitor]
        if score > self.score:
            self.superseded, self.score = self.path, score
            self.path = self._free_path(f"{self.model.name}.{epoch + 1:03d}-{result['accuracy']:.4f}")
            if hosts.is_first_host():
                with hosts.single_host():
                    save_checkpoint(self.eval_model, self.path, self.emotions, temperature, self.trained_on)

    def _free_path(self, name):
        """Return the path of that name, with a number added where an earlier run has left a file of that name."""
        numbered = (f"{name}.{number}{self.suffix}" for number in itertools.count(2))
        files = itertools.chain([f"{name}{self.suffix}"], numbered)
        return self.output_dir / next(file for file in files if file not in self.earlier_files)

    def delete_superseded(self) -> None:
        """Delete the checkpoint that a better one has replaced, once the saved run no longer names it."""
        if self.superseded and self.superseded != self.path:
            self.superseded.unlink(missing_ok=True)
        self.superseded = None


def averaged_weights(model: keras.Model) -> list[np.ndarray]:
    """Return a network's weights, trainable ones as their moving average where the optimizer keeps one."""
    if not model.optimizer.use_ema:
        return model.get_weights()
    # Copies on the devices: of NumPy arrays, JAX would see that all hosts have the same.
    kept = [keras.ops.copy(variable) for variable in model.weights]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    averaged = model.get_weights()
    for variable, value in zip(model.weights, kept, strict=True):
        variable.assign(value)
    return averaged


def recalibrate_batch_norm(model: keras.Model, faces: np.ndarray) -> None:
    """Give batch normalisation the statistics of faces without augmentation, and of a network without dropout.

    The statistics of training belong to other weights (the last steps', not their average) and to augmented faces.
    Source: "precise BatchNorm" in Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576.

    Args:
        model: Changed in place.
        faces: uint8 (n, h, w, c); with n = 0 nothing happens.
    """
    if not len(faces):
        return
    batch_norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    momenta, rates = [layer.momentum for layer in batch_norms], [layer.rate for layer in dropouts]
    for dropout in dropouts:
        dropout.rate = 0.0
    for number, batch in enumerate(np.array_split(faces, math.ceil(len(faces) / PREDICTED_AT_ONCE))):
        for batch_norm in batch_norms:
            batch_norm.momentum = number / (number + 1)  # so that the result is the mean of all batches
        model(preprocess_images(batch), training=True)
    for batch_norm, momentum in zip(batch_norms, momenta, strict=True):
        batch_norm.momentum = momentum
    for dropout, rate in zip(dropouts, rates, strict=True):
        dropout.rate = rate


def calibrate(model: keras.Model, held_out: Split) -> float:
    """Calibrate a network by temperature scaling: divide its logits by the temperature with the lowest log loss.

    Predicted emotions stay the same.  The readers of the checkpoint need not know the temperature: see `divide_logits`.
    Source: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    Args:
        model: A network that `check_network` lets pass; changed in place.
        held_out: Split that the network has not learnt from; its emotions are numbers, or labels (n, emotions).  Where
            it is empty, nothing happens.

    Returns:
        The temperature, from 0.25 to 4; 1 where nothing happened.
    """
    if not len(held_out.faces):
        return 1.0
    logits = np.log(np.maximum(predict(model, held_out).astype(np.float64), 1e-12))
    if held_out.emotions.ndim == 2:  # labels: relative to their mean logit
        logits -= (held_out.emotions * logits).sum(axis=1, keepdims=True)
    else:  # numbers: relative to the true emotion's logit
        logits -= np.take_along_axis(logits, held_out.emotions[:, None].astype(int), axis=1)

    def log_loss(temperature):
        return np.log(np.exp(logits / temperature).sum(axis=1)).mean()

    temperature = float(min(np.geomspace(0.25, 4, 401), key=log_loss))
    divide_logits(model, temperature)
    return temperature


def divide_logits(model: keras.Model, temperature: float) -> None:
    """Divide a network's logits, by dividing the weights of its last layer that has any.

    The logits are proportional to these weights where only pooling, reshaping and the softmax come after that layer.
    """
    last = [layer for layer in model.layers if layer.trainable_weights][-1]
    for weight in last.trainable_weights:
        weight.assign(weight / temperature)


def tensorboard_callbacks(folder: Path) -> list[keras.callbacks.Callback]:
    """Return Keras's TensorBoard callback in a list; `UserError` where its package is missing."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError("--tensorboard needs the tensorboard package: pip install tensorboard") from error
    return [keras.callbacks.TensorBoard(folder)]


# ----------------------------------------------------------------------------------------------------------
# When a run ends


def stopping_callbacks(
    *, schedule: str, monitor: str, epochs: int, plateau_patience: int, early_stopping_patience: int
) -> list[keras.callbacks.Callback]:
    """Return the callbacks that count epochs without progress: they reduce the learning rate, or end the run."""
    callbacks = []
    if schedule == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=plateau_patience))
    if monitor != "epoch":  # the number of the epoch always rises
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor=monitor,
                mode=MONITORS[monitor],
                patience=early_stopping_patience,
                start_from_epoch=first_watched_epoch(schedule, epochs),
            )
        )
    return callbacks


def first_watched_epoch(schedule: str, epochs: int) -> int:
    """Return the first epoch, from 0, that counts for early stopping.

    At the high rates of a cosine's first half, a network may get worse than the weights that it started from, or stay
    as it is for long, and get much better later.
    """
    return epochs // 2 if schedule == "cosine" else 0


def stopped_early(rows: Sequence[dict], *, schedule: str, monitor: str, epochs: int, patience: int) -> bool:
    """Whether the logged epochs, a dict for each, end a run: `monitor` is no better for `patience` epochs."""
    figures = [row[monitor] for row in rows[first_watched_epoch(schedule, epochs) :]]
    best = {"max": np.argmax, "min": np.argmin}[MONITORS[monitor]]
    return bool(figures) and len(figures) - 1 - int(best(figures)) >= patience


# ----------------------------------------------------------------------------------------------------------
# The record of a run, and going on with it


class RunRecord(keras.callbacks.Callback):
    """The log of a run, and all that --resume needs; stands last among the callbacks.

    To go on, it replays the logged epochs to the callbacks that count them, then puts back weights, optimizer and
    random states, so that a resumed run continues as an unbroken one.

    Args:
        batches: The faces that the run learns from.
        best: The best checkpoint so far.
        counting: Callbacks of `stopping_callbacks`.
        settings: Of the run, values for JSON.
        files: Where to write.
        saved: What `load_saved_run` returned.

    Attributes:
        rows: A dict per finished epoch, by the columns of the log.
    """

    async_safe = True  # so that Keras does not wait for each step to tell of its end

    def __init__(
        self,
        batches: AugmentedFaces,
        best: BestCheckpoint,
        counting: list[keras.callbacks.Callback],
        settings: dict,
        files: RunFiles,
        saved: dict | None,
    ):
        super().__init__()
        self.batches, self.best, self.counting, self.settings = batches, best, counting, settings
        self.files, self.saved = files, saved
        self.rows, self._seconds = [], []  # seconds: of the epochs of this process, without compiling
        if saved:
            self.rows = saved["rows"]
            best.path, best.score = files.state.with_name(saved["best_name"]), tuple(saved["best_score"])
            best.earlier_files = saved.get("others", [])

    def _variables(self):
        seeds = [v for v in self.model.non_trainable_variables if v.path.endswith("seed_generator_state")]
        return [*self.model.weights, *seeds, *self.model.optimizer.variables]

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self.saved:
            for callback in self.counting:
                for epoch, row in enumerate(self.rows):
                    callback.on_epoch_end(epoch, dict(row))
            self.model.stop_training = False
            self.model.optimizer.build(self.model.trainable_variables)
            for variable, value in zip(self._variables(), self.saved["variables"], strict=True):
                variable.assign(value)
            self.saved = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.batches.epoch = epoch
        if self._seconds and hosts.is_first_host():
            epochs = self.params["epochs"] - epoch
            what = f"{epochs} epochs" if epochs > 1 else "the last epoch"
            print(f"about {describe_seconds(epochs * min(self._seconds[-5:]))} left for {what}", flush=True)
        self._started, self._compiled = time.monotonic(), 0.0
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if batch == 0 and not self._seconds:  # the first step of a process compiles; the others say what a step takes
            self._compiled = time.monotonic() - self._started

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        self.rows.append(
            {
                "epoch": epoch + 1,
                **{name: float(value) for name, value in logs.items()},
                "learning_rate": self._rate,  # as the epoch began
                "seconds": round(time.monotonic() - self._started, 2),
            }
        )
        steps, seconds = len(self.batches), self.rows[-1]["seconds"]
        self._seconds.append((seconds - self._compiled) * (steps / (steps - 1) if self._compiled and steps > 1 else 1))
        if hosts.is_first_host():
            self._write()
        hosts.wait_for_all("the epoch is saved")

    def _write(self):
        if not self.files.settings.is_file():  # written before the first epoch; only a user can have removed it
            raise UserError(
                f"the files of a run must stay until its end; found no {self.files.settings} any more: start the run "
                "again",
                exit_status=1,
            )
        description = {
            "settings": self.settings,
            "rows": self.rows,
            "best_name": self.best.path.name,
            "best_score": self.best.score,
            "others": self.best.earlier_files,
        }
        values = {f"variable_{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self._variables())}
        with replacing(self.files.state) as partial, open(partial, "wb") as file:
            np.savez(file, description=np.array(json.dumps(description)), **values)
        with replacing(self.files.log) as partial:
            pd.DataFrame(self.rows).to_csv(partial, index=False)
        self.best.delete_superseded()


def describe_seconds(seconds: float) -> str:
    """Return a duration to read, such as "3 h 05 min", "12 min" or "40 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def load_saved_run(files: RunFiles, settings: dict, resume: bool) -> dict | None:
    """Return the run to go on with, or None where there is none; the first host reads it, all get it from there.

    Args:
        files: Of the run.
        settings: Of the new run.  Some of them must equal the saved ones: those that decide what the saved weights and
            figures mean.  A change of any other setting prints a note.
        resume: Whether to look for a run; the first host's word counts.

    Returns:
        dict: "settings", "rows" (a dict per finished epoch), "best_name", "best_score", "others" (checkpoints of
        earlier runs), "variables" (list of arrays).

    Raises:
        UserError: The folder holds only another network's run, the file is damaged, the best checkpoint is missing, or
            a setting must stay as it was.
    """
    content = b""
    if resume and hosts.is_first_host() and check_saved_run(files, settings):
        content = files.state.read_bytes()
    content = hosts.broadcast_bytes(content)
    return parse_saved_run(io.BytesIO(content)) if content else None


def parse_saved_run(file) -> dict:
    """Parse what `RunRecord` wrote: a path or a binary file -> a dict as `load_saved_run` returns it."""
    with np.load(file) as arrays:
        saved = json.loads(str(arrays["description"]))
        saved["variables"] = [arrays[f"variable_{i}"] for i in range(len(arrays.files) - 1)]
    return saved


def check_saved_run(files: RunFiles, settings: dict) -> bool:
    """Return whether there is a run to go on with; arguments and errors as in `load_saved_run`."""
    folder, network = files.state.parent, settings["network"]
    if not files.state.is_file():
        others = sorted(other.name.removesuffix(".resume.npz") for other in folder.glob("*.resume.npz"))
        if others:
            raise UserError(
                f"--resume goes on with a run of {network}; {folder} holds one of {', '.join(others)}: pass --network "
                f"{others[0]}, another --output-dir, or leave --resume out"
            )
        print(f"no finished epoch of {network} in {folder} to go on from: starting at the first", flush=True)
        return False
    try:
        saved = parse_saved_run(files.state)
        best = folder / saved["best_name"]
    except Exception as error:  # a damaged archive fails in many ways: zip, NumPy's header, JSON
        raise UserError(
            f"{files.state} is damaged ({error}); leave --resume out to start at the first epoch"
        ) from error
    if not best.is_file():
        raise UserError(f"--resume needs the best checkpoint so far, {best}: put it back, or leave --resume out")
    earlier_defaults = {"optimizer": "adamw", "monitor": "val_accuracy"}  # of a version without these settings
    before = earlier_defaults | saved["settings"]
    kept = ("network", "image_size", "batch_size", "optimizer", "schedule", "monitor", "seed")
    kept += ("votes", "votes_as", "drop_no_face", "teacher", *(["teacher_share"] if settings["teacher"] else []))
    for name in kept:
        if before.get(name) != settings[name]:
            was, now = (value if value not in (None, []) else "none" for value in (before.get(name), settings[name]))
            raise UserError(
                f"--resume keeps {name}: the run in {folder} has {was}, found {now}; pass the same, or leave --resume "
                "out"
            )
    for name in before.keys() & settings.keys():
        if before[name] != settings[name] and len(saved["rows"]) < settings["epochs"]:
            print(f"note: {name} was {before[name]}, goes on with {settings[name]}")
    return True


def check_same_data(saved_settings: dict, facts: dict, dataset: str, folder: Path) -> None:
    """Raise `UserError`, naming the first difference, where a run to go on with has learnt from other data."""
    before = saved_settings.get("data", {})  # earlier versions kept none, or other facts
    for name in facts:
        if name in before and before[name] != facts[name]:
            raise UserError(
                f"--resume keeps the data, wherever they lie; found that {dataset} is not what the run in {folder} "
                f"learns from, in {name}: {facts[name]} against {before[name]}; pass the data that it learnt from, "
                f"--dataset {saved_settings['dataset']}, or leave --resume out"
            )


def draw_learning_curve(rows: Sequence[dict], path: Path, title: str, *, label_smoothing: float, mixup: float) -> None:
    """Draw accuracy and loss per epoch as a PNG: of training, on augmented faces and blended labels, and validation."""
    try:
        with drawing():
            figure = new_figure(figsize=(10, 4), layout="constrained")
            figure.suptitle(title)
            epoch = [row["epoch"] for row in rows]
            for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
                training = "training, augmented" + (" and blended" if mixup else "")
                training += ", labels smoothed" if label_smoothing and name == "loss" else ""
                axes.plot(epoch, [row[name] for row in rows], ".-", color="#0072B2", label=training)
                axes.plot(epoch, [row[f"val_{name}"] for row in rows], ".-", color="#D55E00", label="validation")
                axes.set(xlabel="epoch", ylabel=name)
                axes.grid(alpha=0.3)
                axes.legend()
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=120)
    except WriteError as error:  # of Matplotlib; the figures are in the log
        print(f"notice: no learning curve drawn ({error})", file=sys.stderr)
        return
    with replacing(path) as partial:
        partial.write_bytes(picture.getvalue())
