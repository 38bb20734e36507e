"""Train one of the five networks on FER2013, on your own faces, or on drawn ones.

    python train_emotion_classifier.py                                    # mini_XCEPTION on fer2013/fer2013.csv
    python train_emotion_classifier.py --dataset drawn                    # a first try without data, about a minute
    python train_emotion_classifier.py --network big_XCEPTION --epochs 60
    python train_emotion_classifier.py --teacher models/simple_CNN.hdf5   # learn from a larger network, too
    python train_emotion_classifier.py --resume                           # go on after Ctrl-C or a power cut
    KERAS_BACKEND=jax python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 0    # see hosts.py

Writes to --output-dir, each file whole or not at all:
    NETWORK.EPOCH-VALACC.hdf5   the best checkpoint so far, labels and input size inside
    NETWORK.settings.json       the settings of the run
    NETWORK.log.csv  NETWORK.curve.png   loss, accuracy and learning rate per epoch
    NETWORK.resume.npz          everything --resume needs to go on from the last finished epoch

Runs on Keras's TensorFlow backend, or on JAX with KERAS_BACKEND=jax, there on all accelerators of one or several hosts.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from command_line import Parser, UserError, exit_status, number_in_range, quiet_start, replacing
from load_and_process import (
    VOTED,
    Split,
    dataset,
    find_duplicates,
    image_size,
    load_fer2013_data,
    preprocess_images,
    read_faces,
    stratified_split,
    with_votes,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported
with quiet_start():
    import keras
    import pandas as pd

    if keras.backend.backend() == "tensorflow":  # it tells of its devices; JAX mustn't look at them before its hosts
        keras.distribution.list_devices()
    elif importlib.util.find_spec("tensorflow"):  # Keras imports it later, whatever the backend
        importlib.import_module("tensorflow")

from models.checkpoint import load_checkpoint, save_checkpoint
from models.cnn import EMOTION_MAPS, NETWORKS
from training import hosts

# ------------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

# data: `dataset` (path) and `image_size` (height, width in pixels) are set in load_and_process.py
validation_fraction = 0.1      # part of Training held out where the data has no PublicTest
calibration_fraction = 0.03    # part of Training held out to fit the temperature on; 0: none
largest_part = 10_000          # faces of either, which stay in memory
smallest_calibration = 200     # faces; with fewer there is nothing to fit, and Training keeps them
# network
network = "mini_XCEPTION"      # simple_CNN, simpler_CNN, tiny_XCEPTION, mini_XCEPTION, big_XCEPTION
l2_regularization = 0.0        # penalty on convolution kernels; weight_decay does this work
# optimisation
epochs = 80                    # passes over Training
epochs_drawn = 40              # the same for --dataset drawn
batch_size = 128               # faces per step
learning_rate = 6e-3           # at its peak
schedule = "cosine"            # cosine: to zero over all epochs; plateau: a tenth whenever val_loss stops falling
warmup_epochs = 2              # linear rise to the peak
plateau_patience = 8           # epochs without a lower val_loss before schedule "plateau" reduces
monitor = "val_loss"           # by which the best checkpoint is chosen; or val_accuracy; epoch: the last, unchosen
early_stopping_patience = 20   # epochs without a better `monitor` before the run ends; cosine: of its second half
optimizer = "muon"             # AdamW with orthogonal steps for convolutions, or plain adamw
muon_momentum = 0.95           # share of the sum of gradients that stays for the next step
weight_decay = 0.02            # decoupled, on kernels only
label_smoothing = 0.0          # share of each label that is spread over all emotions
votes = None                   # FER+'s fer2013new.csv: ten people's votes on each face become part of its label
votes_as = "share"             # share: the votes are part of FER2013's labels; or they are the labels, with contempt as
                               # an eighth emotion, hard: what most people saw, or soft: the shares of votes
votes_share = 0.6              # of each label with "share"; the rest is the data's
drop_no_face = False           # leave out what most people saw no face in
start_from = None              # checkpoint of the same network whose weights to start from; None: random ones
teacher = []                   # checkpoints; the mean of their probabilities becomes part of each label
teacher_share = "auto"         # of each label; the rest is the data's and the votes'; auto: see `choose_teacher_share`
teacher_views = 6              # of each face, augmented as training does, over which a teacher's answer is averaged
average_epochs = 2.0           # horizon of the moving average of weights that is validated and saved; 0: none
plain_faces = 2560             # of Training, from which what is saved has normalisation's statistics; 0: as trained
# augmentation, drawn anew for each face in each epoch
flip = True                    # mirror half of the faces
augmentation = "auto"          # multiplies the six below; auto: what suits the network, see `choose_augmentation`
rotation = 10.0                # up to +- degrees
zoom = 0.10                    # up to +- share of the size
shift = 0.06                   # up to +- share of the width and height
contrast = 0.20                # up to +- share
brightness = 0.10              # up to +- of the [-1, 1] range
erasing = 0.10                 # share of faces that lose one random rectangle
mixup = 0.2                    # blend each face, and its label, with another's: a of Beta(a, a); 0: none
# machine
precision = "auto"             # float32, mixed_bfloat16, or auto: see `choose_precision`
seed = 0                       # of initial weights, order and augmentation
output_dir = Path(__file__).resolve().parent / "models"
tensorboard = False            # also write TensorBoard event files (needs: pip install tensorboard)
# fmt: on
# ------------------------------------------------------------------------------------------------------------

VOTES_AS = ("share", "hard", "soft")
SCHEDULES = ("cosine", "plateau")
MONITORS = {"val_accuracy": "max", "val_loss": "min", "epoch": "max"}  # columns of the log
VALIDATED_AT_ONCE = 256  # faces
BATCHES_AHEAD = 10  # of the step
THIN = ("tiny_XCEPTION", "mini_XCEPTION")
PRECISIONS = ("auto", "float32", "mixed_bfloat16")
WITHOUT_FLAG = {  # settings
    "validation_fraction": number_in_range(float, 0.001, below=1),
    "calibration_fraction": number_in_range(float, 0, below=1),
    "largest_part": number_in_range(int, 1),
    "smallest_calibration": number_in_range(int, 1),
    "l2_regularization": number_in_range(float, 0),
    "warmup_epochs": number_in_range(float, 0),
    "plateau_patience": number_in_range(int, 1),
    "muon_momentum": number_in_range(float, 0, below=1),
    "votes_share": number_in_range(float, 0, most=1),
    "teacher_views": number_in_range(int, 1),
    "average_epochs": number_in_range(float, 0),
    "plain_faces": number_in_range(int, 0),
    "rotation": number_in_range(float, 0),
    "zoom": number_in_range(float, 0, below=1),
    "shift": number_in_range(float, 0),
    "contrast": number_in_range(float, 0),
    "brightness": number_in_range(float, 0),
    "erasing": number_in_range(float, 0, most=1),
}


def parse_args(argv=None):
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Train an emotion network.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--network", default=network, choices=NETWORKS, help="which network")
    add("--dataset", default=dataset, help="fer2013.csv (or .gz, .zip, .xz), a folder train/EMOTION/*, or: drawn")
    add("--image-size", type=int, nargs=2, default=image_size, metavar=("H", "W"), help="pixels")
    add(
        "--epochs",
        type=number_in_range(int, 1),
        default=argparse.SUPPRESS,
        help=f"passes over Training (default: {epochs}; drawn faces: {epochs_drawn})",
    )
    add("--batch-size", type=number_in_range(int, 1), default=batch_size, help="faces per step")
    add("--learning-rate", type=number_in_range(float, 1e-8, 100), default=learning_rate, help="at its peak")
    add("--schedule", default=schedule, choices=SCHEDULES, help="of the learning rate")
    add("--optimizer", default=optimizer, choices=OPTIMIZERS, help="muon: AdamW, orthogonal in convolutions")
    add("--weight-decay", type=number_in_range(float, 0), default=weight_decay, help="decoupled, on kernels only")
    add(
        "--label-smoothing",
        type=number_in_range(float, 0, 1),
        default=label_smoothing,
        help="share spread over all emotions",
    )
    add("--votes", type=Path, default=votes, metavar="FILE", help="FER+'s fer2013new.csv, to learn from, too")
    add("--votes-as", default=votes_as, choices=VOTES_AS, help="part of FER2013's labels, or FER+'s eight instead")
    add("--drop-no-face", action="store_true", default=drop_no_face, help="leave out what --votes call no face")
    add("--start-from", type=Path, default=start_from, metavar="MODEL.hdf5", help="go on from a checkpoint's weights")
    add("--teacher", type=Path, nargs="+", default=teacher, metavar="MODEL.hdf5", help="checkpoints to learn from, too")
    add(
        "--teacher-share",
        type=number_in_range(float, 0, 1, auto=True),
        default=teacher_share,
        help="part of each label that they give, from 0 to below 1, auto: by network",
    )
    add(
        "--augmentation",
        type=number_in_range(float, 0, auto=True),
        default=augmentation,
        help="strength, 0: flips only, auto: by network",
    )
    add(
        "--mixup",
        type=number_in_range(float, 0),
        default=mixup,
        help="blend faces two by two, 0.2: mostly a little, 0: never",
    )
    add("--monitor", default=monitor, choices=MONITORS, help="chooses the checkpoint that stays, and stops early")
    add(
        "--early-stopping-patience",
        type=number_in_range(int, 1),
        default=early_stopping_patience,
        help="epochs, with cosine those of its second half",
    )
    add("--precision", default=precision, choices=PRECISIONS, help="of the arithmetic; checkpoints are float32")
    add(
        "--seed",
        type=number_in_range(int, 0, below=2**32),
        default=seed,
        help="of initial weights, order and augmentation",
    )
    add("--output-dir", type=Path, default=output_dir, help="where everything is written")
    add("--resume", action="store_true", help="go on from the last finished epoch in --output-dir")
    add("--tensorboard", action="store_true", default=tensorboard, help="also write TensorBoard event files")
    add("--hosts", metavar="HOST:PORT,HOST,...", help="train on several, this list given to each (or EMOTION_HOSTS)")
    add("--host-index", type=number_in_range(int, 0), metavar="I", help="which of --hosts this is")
    args = parser.parse_args(argv)
    if "epochs" not in args:  # which setting counts, only the data say
        parser.set_defaults(epochs=epochs_drawn if str(args.dataset) == "drawn" else epochs)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if not args.votes and (args.drop_no_face or args.votes_as != "share"):
        raise UserError("--votes-as and --drop-no-face are about FER+'s votes; found no --votes: pass fer2013new.csv")
    if not args.teacher and args.teacher_share != teacher_share:
        raise UserError("--teacher-share is about teachers' part of each label; found no --teacher: pass checkpoints")
    place = hosts.find_place(args.hosts, args.host_index)
    args.hosts = len(place.names)
    backend = keras.backend.backend()
    if args.hosts > 1 and backend != "jax":
        raise UserError(f"several hosts train on Keras's JAX backend; found {backend}: set KERAS_BACKEND=jax")
    args.precision = choose_precision(args.precision, args.network)
    args.augmentation = choose_augmentation(args.augmentation, args.network)
    args.teacher_share = choose_teacher_share(args.teacher_share, args.network)
    with hosts.Job(place) as job:
        job.agree("run the same code", hosts.code_of(Path(__file__).resolve().parent), "copy it")
        job.agree("have the same packages", versions(), "install the same")
        own = ("dataset", "output_dir", "resume", "tensorboard")  # data are compared below, wherever they lie
        settings = {name: value for name, value in resolved_settings(args).items() if name not in own}
        job.agree("be given the same settings", settings, "correct it")
        job.start_jax()
        with distributed(job):
            return train(args, job)


def train(args, job):
    """Train as the command line says, on this host's part of the faces."""
    run_file = {
        name: args.output_dir / f"{args.network}.{name}"
        for name in ("settings.json", "log.csv", "curve.png", "resume.npz")
    }
    backend, parts = keras.backend.backend(), job.count * local_devices()
    check_divisible("--batch-size", args.batch_size, parts)
    saved = shared_run(args, job, run_file["resume.npz"])
    boards = []
    if args.tensorboard and job.first:
        boards = [tensorboard_callback(args.output_dir / f"{args.network}.tensorboard")]
    input_shape = (*args.image_size, 1)
    with alone():
        NETWORKS[args.network](input_shape, 2)  # a size that it can't take is refused before the data are read
    data, votes = load_fer2013_data(args.dataset, tuple(args.image_size)), {}
    if args.votes:
        data, votes = with_votes(data, args.votes, args.votes_as != "share", args.drop_no_face)
    data = data.drop_unused_labels()
    chosen, validation, validated_on, calibration = divide(data)
    faces, labels = data["Training"].faces, labels_of(data, votes.get("Training"), args.votes_as)
    others = [*args.teacher, *filter(None, [args.start_from])]
    checkpoints = {f"checkpoint {path.name}": hosts.short_hash(path.read_bytes()) for path in others if path.is_file()}
    facts = hosts.data_of(data, labels, chosen)
    job.agree("train on the same data", facts | checkpoints, "copy them from one host")
    if saved:
        check_same_data(saved["settings"], facts, args)
    with_teacher = None
    if args.teacher and args.teacher_share:
        with_teacher = load_teacher(args.teacher, args.teacher_share, data.emotions, tuple(args.image_size))
    keras.utils.set_random_seed(args.seed)
    model = build_network(args.network, input_shape, len(data.emotions), args.precision)
    if backend == "tensorflow":
        from training.on_tensorflow import fuse_batch_normalization, read_ahead

        fuse_batch_normalization(model)
    if args.start_from and not saved:
        start_with_weights_of(args.start_from, model, data.emotions)
    settings = resolved_settings(args) | {"data": facts}
    complete = saved and len(saved["rows"]) >= args.epochs
    if job.first:
        if not args.resume and run_file["resume.npz"].exists():
            print(
                f"note: {args.output_dir} holds an earlier run of {args.network}; the first finished epoch replaces it "
                "(its .hdf5 stays). To go on with it instead: Ctrl-C, and --resume"
            )
        if not complete:  # what a complete run was made with stays as it is
            with replacing(run_file["settings.json"]) as partial:
                partial.write_text(json.dumps(settings, indent=2) + "\n")
            print(json.dumps(resolved_settings(args), indent=2))
        print(f"{len(data.emotions)} emotions: {', '.join(data.emotions)}")
        others = f" (of {len(faces)}; the others are held out, or equal to these)" if len(chosen) < len(faces) else ""
        to_validate = f"{len(validation.faces)} to validate on ({validated_on})"
        print(f"{len(chosen)} faces to train on{others}, {to_validate}", flush=True)

    if with_teacher and not complete:  # last of what comes before the first step, since it takes minutes
        if job.first:
            looks = "the teacher looks" if len(args.teacher) == 1 else "the teachers look"
            print(f"{looks} at {len(chosen)} faces, {teacher_views} times at each ...", flush=True)
        labels = with_teacher(labels, faces, chosen, args.seed, args.augmentation)
    place = job.index, job.count
    batches = AugmentedFaces(faces, labels, chosen, args.batch_size, args.seed, args.augmentation, args.mixup, place)
    check_divisible(
        f"the {batches.batch_size} faces there are to train on, less than --batch-size,", batches.batch_size, parts
    )
    for layer in model.layers:  # statistics of the last epoch at most: small data sets have few steps in one
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, math.exp(-1 / len(batches)))
    model.compile(
        optimizer=make_optimizer(args, steps_per_epoch=len(batches)),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=args.label_smoothing),
        metrics=["accuracy"],
    )
    with alone():
        validated = build_network(args.network, input_shape, len(data.emotions), "float32")
        plain = np.random.default_rng(args.seed).permutation(chosen)[:plain_faces]
        plain = read_faces(faces, np.sort(plain))
        best = BestCheckpoint(validated, validation, calibration, plain, data.emotions, args, job)
    counting = []
    if args.schedule == "plateau":
        counting += [keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=plateau_patience)]
    if args.monitor != "epoch":  # which always gets better
        counting += [
            keras.callbacks.EarlyStopping(
                monitor=args.monitor,
                mode=MONITORS[args.monitor],
                patience=args.early_stopping_patience,
                start_from_epoch=first_watched_epoch(args),
            )
        ]
    record = RunRecord(batches, best, counting, settings, run_file["resume.npz"], run_file["log.csv"], saved, job)
    say = print if job.first else lambda *text, **how: None
    if saved and record.epochs_done >= args.epochs:
        say(f"the run is complete, {record.epochs_done} epochs; more --epochs go on with it", flush=True)
    elif saved:
        say(f"going on after epoch {record.epochs_done} of {args.epochs}; best so far: {best.path}", flush=True)
    try:
        if record.epochs_done < args.epochs and not record.stopped_early(args):
            # Ours come first: they put the validation figures into the logs that the others read.
            model.fit(
                read_ahead(batches, BATCHES_AHEAD) if backend == "tensorflow" else batches,
                initial_epoch=record.epochs_done,
                epochs=args.epochs,
                shuffle=False,  # `batches` has an order of its own, which --resume can go on with
                verbose=0 if not job.first else 1 if sys.stdout.isatty() else 2,
                callbacks=[best, *counting, *boards, record],
            )
        if record.stopped_early(args):
            say(f"no better {args.monitor} for {args.early_stopping_patience} epochs: the run ends")
    except KeyboardInterrupt:
        done = record.epochs_done
        print(f"stopped; epochs finished: {done}" + (", and --resume goes on from there" if done else ""))
        raise
    finally:
        if job.first and record.rows and not isinstance(sys.exception(), OSError):  # a full disk has had its say
            title = f"{args.network}, validated on {validated_on}"
            draw_learning_curve(record.rows, run_file["curve.png"], title, args.label_smoothing, args.mixup)

    if job.first:
        print(f"{'last' if args.monitor == 'epoch' else 'best'} checkpoint: {best.path}")
        report = {validated_on: validation}
        if "PrivateTest" in data:
            report["PrivateTest"] = data["PrivateTest"]
        with alone():
            trained, _ = load_checkpoint(best.path)
            for split, of_split in report.items():
                right = probabilities_of(trained, of_split).argmax(axis=1) == of_split.emotions
                print(f"{split}: {right.mean():.2%} of {len(right)} faces named right")
        print(f"try it live: python real_time_emotion_recognition.py --model {best.path}")
    return 0


def local_devices():
    """How many devices of this host share a batch: one where the backend is not JAX."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.local_device_count()


@contextlib.contextmanager
def distributed(job):
    """Let every network built here be trained by all devices of all hosts, each on its part of a batch."""
    devices = local_devices()
    job.agree("have as many devices", {"the number of devices": devices}, "hide the others (CUDA_VISIBLE_DEVICES)")
    if job.count * devices == 1:
        yield
        return
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():  # `AugmentedFaces` gives the parts
        yield


@contextlib.contextmanager
def alone():
    """Let networks be built and run on this host alone, as validation is."""
    everywhere = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(everywhere)


def check_divisible(what, size, parts):
    """ValueError where a batch of that many faces can't be divided among all devices."""
    if size % parts:
        below, above = size // parts * parts, -(-size // parts) * parts
        fitting = f"{below} or {above}" if below else above
        raise hosts.Disagreement(
            f"{what} must be divisible by {parts}, all devices of all hosts; found {size}: pass --batch-size {fitting}"
        )


def choose_precision(wanted, name=network):
    """Resolve "auto": mixed_bfloat16 where TensorFlow runs on a processor that multiplies bfloat16, else float32.

    Such a processor lists `avx512_bf16` or `amx_bf16` among its flags in Linux's /proc/cpuinfo.  Accelerators, other
    systems and the JAX backend stay at float32 unless asked, and so do tiny_XCEPTION and mini_XCEPTION: float32
    was the faster for them where it was measured (docs/scaling.md).
    """
    if wanted != "auto":
        return wanted
    if name in THIN or keras.backend.backend() != "tensorflow" or keras.distribution.list_devices("gpu"):
        return "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "mixed_bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def choose_augmentation(wanted, name=network):
    """Resolve "auto": thin networks underfit and get faces changed less.  Strengths tried: docs/experiments.md."""
    if wanted != "auto":
        return wanted
    return {"tiny_XCEPTION": 0.7, "mini_XCEPTION": 1.0}.get(name, 1.4)


def choose_teacher_share(wanted, name=network):
    """Resolve "auto": 0.9 for thin networks; larger ones lose accuracy with so much, and get 0.5."""
    if wanted != "auto":
        return wanted
    return 0.9 if name in THIN else 0.5


def divide(data):
    """Say what to learn from, what to validate on, and what to fit the temperature on.

    Validation is PublicTest, or else a stratified part of Training; the temperature is fitted on such a part too.
    All seeds hold out the same part: else a run could --start-from weights that have learnt from what it holds out.

    Returns:
        (indices of Training, validation `Split`, its name, calibration `Split`, which is empty for small data).

    Raises:
        ValueError: there is no Training split, or not enough of an emotion in it, or nothing to validate on.
    """
    if "Training" not in data:
        raise UserError(f"training needs a Training split; the data set has {', '.join(data) or 'no images'}")
    train, public = data["Training"], "PublicTest" in data
    if len(data.emotions) < 2:
        raise UserError(f"training needs two emotions to tell apart; found only {data.emotions[0]}: add another")
    counts = np.bincount(train.emotions, minlength=len(data.emotions))
    for emotion, count in enumerate(counts):
        if count < 2:
            raise UserError(
                f"every emotion needs two Training images at least; {data.emotions[emotion]} has {count}: add images "
                "of it, or take it out of all splits"
            )
    fraction = min(calibration_fraction if public else validation_fraction, largest_part / len(train.faces))
    kept, held_out = np.arange(len(train.faces)), []
    if fraction:
        kept, held_out = stratified_split(train.emotions, fraction, seed=0)
    if public and len(held_out) < smallest_calibration:
        kept, held_out = np.arange(len(train.faces)), []
    part = Split(read_faces(train.faces, held_out), train.emotions[held_out])
    kept = kept[~find_duplicates(train.faces, part.faces)[kept]]  # FER2013 repeats some of its images
    if public:
        return kept, data["PublicTest"], "PublicTest", part
    if not len(held_out):
        raise UserError(f"{len(train.faces)} Training images are too few to hold any out for validation; add more")
    return kept, part, f"{fraction:.0%} of Training", part


def labels_of(data, votes, use):
    """Labels, float32 (n, emotions), of the Training split.

    Args:
        data: `Dataset` with a Training split.
        votes: FER+'s on its faces, float32 (n, 10), or None: labels are one-hot.
        use: "hard", one-hot too; "soft", each face's shares of votes; "share", partly what the votes make likely.
            FER2013's own labels are those of single annotators.  What such a one would have said, given ten people's
            votes on the same face, is fitted by logistic regression to all of Training.
    """
    train = data["Training"]
    labels = np.eye(len(data.emotions), dtype=np.float32)[train.emotions]
    if votes is None or use == "hard":
        return labels
    if use == "soft":
        shares = votes[:, [VOTED.index(emotion) for emotion in data.emotions]]
        return shares / shares.sum(axis=1, keepdims=True)
    from sklearn.linear_model import LogisticRegression

    annotator = LogisticRegression(max_iter=1000).fit(votes, train.emotions)
    likely = np.zeros_like(labels)
    likely[:, annotator.classes_] = annotator.predict_proba(votes)
    return labels + np.float32(votes_share) * (likely - labels)


def build_network(name, input_shape, num_classes, dtype_policy):
    """One of the five, its layers computing under the given precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        return NETWORKS[name](input_shape, num_classes, l2_regularization)
    finally:
        keras.config.set_dtype_policy(before)


def start_with_weights_of(path, model, emotions):
    """Give a network the weights of a checkpoint, all but the last layer's where that names other emotions.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or it is of another network.
    """
    other, named = load_checkpoint(path)
    before = [layer for layer in other.layers if layer.weights]
    layers = [layer for layer in model.layers if layer.weights]
    if named != emotions:
        before, layers = before[:-1], layers[:-1]
    shapes = [[[tuple(weight.shape) for weight in layer.weights] for layer in kept] for kept in (before, layers)]
    if shapes[0] != shapes[1]:
        raise UserError(f"--start-from takes a checkpoint of {model.name}; {path} is one of {other.name}")
    for layer, source in zip(layers, before, strict=True):
        layer.set_weights(source.get_weights())


class Muon(keras.optimizers.AdamW):
    """AdamW, but the kernels of convolutions take steps that are orthogonal matrices, of the same size as Adam's.

    Such a step changes what a layer answers by as much in rare directions as in frequent ones.  The last layer, the
    depthwise kernels, which mix no channels, biases and normalisations stay with AdamW.
    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; for the size of the steps, Liu et al. 2025,
    "Muon is Scalable for LLM Training", arXiv:2502.16982.
    """

    def build(self, var_list):
        super().build(var_list)
        kernels = [v for v in var_list if len(v.shape) == 4 and v.shape[-1] > 1 and EMOTION_MAPS not in v.path]
        self._orthogonal = {self._get_variable_index(kernel) for kernel in kernels}

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if index not in self._orthogonal:
            return super().update_step(gradient, variable, learning_rate)
        gradient = keras.ops.cast(gradient, variable.dtype)
        momentum = self._momentums[index]
        self.assign(momentum, muon_momentum * momentum + gradient)
        step = keras.ops.reshape(gradient + muon_momentum * momentum, (-1, variable.shape[-1]))
        size = 0.2 * math.sqrt(max(step.shape)) * keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, size * keras.ops.reshape(orthogonalised(step), variable.shape))


def orthogonalised(matrix):
    """About the nearest matrix whose singular values are all 1, by five Newton-Schulz iterations of Jordan et al."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = keras.ops.transpose(matrix) if tall else matrix
    x = x / (keras.ops.norm(x) + 1e-7)
    for _ in range(5):
        square = x @ keras.ops.transpose(x)
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return keras.ops.transpose(x) if tall else x


OPTIMIZERS = {"muon": Muon, "adamw": keras.optimizers.AdamW}


def make_optimizer(args, steps_per_epoch):
    """The chosen optimizer and schedule, with a moving average of the weights."""
    rate = args.learning_rate
    if args.schedule == "cosine":
        warmup = min(warmup_epochs, args.epochs // 5) * steps_per_epoch
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=rate / 100 if warmup else rate,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
            decay_steps=max(1, args.epochs * steps_per_epoch - warmup),
        )
    horizon = min(average_epochs, args.epochs / 5)  # else a short run's average is still near the first weights
    optimizer = OPTIMIZERS[args.optimizer](
        rate,
        weight_decay=args.weight_decay,
        use_ema=horizon > 0,
        ema_momentum=math.exp(-1 / (horizon * steps_per_epoch)) if horizon > 0 else 0.0,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class AugmentedFaces(keras.utils.PyDataset):
    """Batches of augmented faces, float32 (b, h, w, c) in [-1, 1], with labels (b, emotions).

    Args:
        faces: uint8 (n, h, w, c), in memory or in a file.
        labels: float32 (n, emotions).
        chosen: int (m,), those to learn from.
        batch_size, seed: order and augmentation follow from (seed, epoch, batch), so a resumed run sees what an
            unbroken one would have; the last of an epoch that fill no batch wait for another epoch's order.
        strength: as `augment` takes it.
        mixup: a; every face is blended with another of its batch, and so are their labels, in shares that Beta(a, a)
            draws, the larger one its own; 0: none is.
            Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
        part: (i, n), give the i-th of n equal parts of each batch, changed as in the whole batch.
    """

    def __init__(self, faces, labels, chosen, batch_size, seed, strength=1.0, mixup=0.0, part=(0, 1)):
        super().__init__()
        # On TensorFlow its pipeline prepares batches early.  Elsewhere we do: with workers of Keras's, what `fit` has
        # looked at to build the network would be learnt from again, in place of other batches.
        self._threads, self._ahead = None, {}
        if keras.backend.backend() != "tensorflow":
            self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self.faces, self.labels, self.chosen, self.seed = faces, labels, chosen, seed
        self.strength, self.mixup = strength, mixup
        self.batch_size, self.part = min(batch_size, len(chosen)), part
        self.epoch, self._order = 0, (None, None)

    def __len__(self):
        return len(self.chosen) // self.batch_size

    def __getitem__(self, batch):
        if not self._threads:
            return self._make(self.epoch, batch)
        self._ahead = {key: ahead for key, ahead in self._ahead.items() if key[0] == self.epoch and key[1] >= batch}
        for number in range(batch, min(batch + BATCHES_AHEAD, len(self))):
            if (self.epoch, number) not in self._ahead:
                self._ahead[self.epoch, number] = self._threads.submit(self._make, self.epoch, number)
        return self._ahead.pop((self.epoch, batch)).result()

    def _make(self, epoch, batch):
        drawn_for, order = self._order
        if drawn_for != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.chosen)
            self._order = epoch, order
        chosen = np.sort(order[batch * self.batch_size : (batch + 1) * self.batch_size])  # as they lie in a file
        rng = np.random.default_rng((self.seed, epoch, batch))
        images, labels = self._changed(chosen, rng)
        if not self.mixup:
            return images, labels
        others = rng.permutation(chosen)
        share = rng.beta(self.mixup, self.mixup, len(chosen)).astype(np.float32)
        share = np.maximum(share, 1 - share)[self._own(chosen), None]
        others, their_labels = self._changed(others, rng)
        of_images = share[..., None, None]
        return of_images * images + (1 - of_images) * others, share * labels + (1 - share) * their_labels

    def _own(self, chosen):
        index, count = self.part
        return slice(index * len(chosen) // count, (index + 1) * len(chosen) // count)

    def _changed(self, chosen, rng):
        """Our part of the chosen faces, changed, and their labels."""
        changes, own = draw_changes(len(chosen), self.faces.shape[1:3], rng, self.strength), self._own(chosen)
        faces = read_faces(self.faces, chosen[own])
        return apply_changes(faces, {name: drawn[own] for name, drawn in changes.items()}), self.labels[chosen[own]]


def load_teacher(paths, share, emotions, image_size):
    """A function that puts the answers of checkpoints into labels, for a network that learns to answer like them.

    An answer is the mean of all checkpoints over some augmented views of a face: a teacher that has seen the face in
    training is less certain of its label there.  It is found once; asking again in every epoch took longer than
    training a small network.
    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), arXiv:1503.02531.

    Raises:
        FileNotFoundError, ValueError: a checkpoint is not there, or names other emotions, or takes another image size.
    """
    from models.classifier import EmotionClassifier

    classify = EmotionClassifier(paths)
    if classify.emotions != emotions or classify.sizes != (image_size,):
        raise UserError(
            f"a teacher names {', '.join(emotions)} in faces of the size trained on, {image_size}; found "
            f"{', '.join(classify.emotions)} in {' and '.join(map(str, classify.sizes))}"
        )

    def with_teacher(labels, faces, chosen, seed, strength):
        """Labels (n, emotions), that share of the chosen faces' being the answers; the rest as `augment`."""
        own = threading.local()  # LiteRT serves one thread at a time

        def answers(some):
            if not hasattr(own, "classify"):
                own.classify = EmotionClassifier(paths)
            seen, rng = read_faces(faces, some), np.random.default_rng((seed, some[0]))
            views = (augment(seen, rng, strength) for _ in range(teacher_views))
            return np.mean([own.classify.predict(view) for view in views], axis=0)

        labels = labels.copy()
        groups = np.split(chosen, range(VALIDATED_AT_ONCE, len(chosen), VALIDATED_AT_ONCE))
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for some, answer in zip(groups, threads.map(answers, groups), strict=True):
                labels[some] += np.float32(share) * (answer - labels[some])
        return labels

    return with_teacher


def augment(faces, rng, strength=1.0):
    """Flip, rotate, zoom, shift, change contrast and brightness, erase, by the settings above.

    Args:
        faces: uint8 (n, h, w, c).
        rng: `numpy.random.Generator`.
        strength: what the settings are multiplied by, flips apart.

    Returns:
        float32 (n, h, w, c) in [-1, 1].
    """
    return apply_changes(faces, draw_changes(len(faces), faces.shape[1:3], rng, strength))


def draw_changes(n, size, rng, strength=1.0):
    """What is to happen to each of n faces.

    Args:
        n: number of faces.
        size: their height and width in pixels.
        rng, strength: as `augment` takes them.

    Returns:
        dict of arrays with a row per face, so that `apply_changes` may be given some of the faces and their rows.
    """
    height, width = size
    angle = strength * np.deg2rad(rng.uniform(-rotation, rotation, n))
    scale = 1 + strength * rng.uniform(-zoom, zoom, n)
    mirror = np.where(rng.random(n) < 0.5 * flip, -1, 1)
    moved = strength * rng.uniform(-shift, shift, (n, 2)) * (width, height)
    # (n, 2, 3): where in the source each pixel of the result comes from, about the centre of the face
    source = np.empty((n, 2, 3))
    source[:, 0, 0], source[:, 0, 1] = np.cos(angle) * scale * mirror, -np.sin(angle) * scale
    source[:, 1, 0], source[:, 1, 1] = np.sin(angle) * scale * mirror, np.cos(angle) * scale
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    source[:, :, 2] = centre + moved - source[:, :, :2] @ centre
    changes = {
        "source": source,
        "contrast": 1 + strength * rng.uniform(-contrast, contrast, (n, 1, 1, 1)).astype(np.float32),
        "brightness": strength * rng.uniform(-brightness, brightness, (n, 1, 1, 1)).astype(np.float32),
        "erased": rng.random(n) < strength * erasing,
    }
    sides = (rng.uniform(0.15, 0.4, (n, 2)) * size).astype(int)
    corner = (rng.random((n, 2)) * (size - sides + 1)).astype(int)
    # (n, 4): top, left, bottom, right
    return changes | {"rectangle": np.hstack([corner, corner + sides]), "filling": rng.uniform(-1, 1, n)}


def apply_changes(faces, changes):
    """Change faces, uint8 (n, h, w, c), as `draw_changes` says; float32 (n, h, w, c) in [-1, 1]."""
    _, height, width, channels = faces.shape
    warped = np.empty_like(faces)
    for face, matrix, result in zip(faces, changes["source"], warped, strict=True):
        result[:] = cv2.warpAffine(
            face,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(height, width, channels)
    images = preprocess_images(warped)
    images *= changes["contrast"]
    images += changes["brightness"]
    np.clip(images, -1, 1, out=images)

    for i in np.flatnonzero(changes["erased"]):
        top, left, bottom, right = changes["rectangle"][i]
        images[i, top:bottom, left:right] = changes["filling"][i]
    return images


class PlainFaces(keras.utils.PyDataset):
    """Batches of the faces and emotions of a `Split` as they are: what networks are validated on."""

    def __init__(self, split):
        super().__init__()
        self.split = split

    def __len__(self):
        return math.ceil(len(self.split.faces) / VALIDATED_AT_ONCE)

    def __getitem__(self, batch):
        part = slice(batch * VALIDATED_AT_ONCE, (batch + 1) * VALIDATED_AT_ONCE)
        return preprocess_images(read_faces(self.split.faces, part)), self.split.emotions[part]


def probabilities_of(model, split):
    """A network's answers on all faces of a `Split`, float32 (n, emotions)."""
    return model.predict(PlainFaces(split), verbose=0)


class BestCheckpoint(keras.callbacks.Callback):
    """Validate each epoch's averaged weights, calibrated and in float32, and keep the best as `.hdf5`.

    What is validated is what is saved.
    Puts val_loss and val_accuracy into the logs, so it stands before the callbacks that read them.  Of several hosts
    the first does all this, and the others get its figures, so that all come to the same decisions.
    """

    def __init__(self, validated, validation, calibration, plain, emotions, args, job):
        super().__init__()
        self.job, self.monitor, self.output_dir = job, args.monitor, args.output_dir
        self.validated, self.emotions = validated, emotions
        self.validation, self.calibration, self.plain = PlainFaces(validation), calibration, plain
        self.path, self.score, self.superseded = None, (-math.inf, 0.0), None
        self.others = sorted(path.name for path in self.output_dir.glob(f"{validated.name}.*.hdf5"))  # of earlier runs
        validated.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    def on_epoch_end(self, epoch, logs):
        averaged, result, temperature = averaged_weights(self.model), None, None
        if self.job.first:
            with alone():
                self.validated.set_weights(averaged)
                if len(self.plain):
                    renew_statistics(self.validated, self.plain)
                temperature = calibrate(self.validated, self.calibration)
                result = self.validated.evaluate(self.validation, verbose=0, return_dict=True)
        result = self.job.share(result)
        logs["val_loss"], logs["val_accuracy"] = result["loss"], result["accuracy"]
        if not math.isfinite(logs["loss"] + result["loss"]):
            raise hosts.Disagreement(
                f"the loss of epoch {epoch + 1} is no number any more: lower --learning-rate, and --resume"
            )
        score = {
            "val_accuracy": (result["accuracy"], -result["loss"]),  # of two as accurate, the surer one
            "val_loss": (-result["loss"], result["accuracy"]),
            "epoch": (epoch + 1, 0.0),
        }[self.monitor]
        if score > self.score:
            self.superseded, self.score = self.path, score
            self.path = self._free_path(f"{self.model.name}.{epoch + 1:03d}-{result['accuracy']:.4f}")
            if self.job.first:
                with alone(), self.job.writing():
                    save_checkpoint(self.validated, self.path, self.emotions, temperature)

    def _free_path(self, name):
        """That name's path, or with a number after it, if an earlier run has left one of that name."""
        numbered = (f"{name}.{number}.hdf5" for number in itertools.count(2))
        return self.output_dir / next(
            file for file in itertools.chain([f"{name}.hdf5"], numbered) if file not in self.others
        )

    def forget_superseded(self):
        """Delete the checkpoint that a better one has replaced, once nothing refers to it any more."""
        if self.superseded and self.superseded != self.path:
            self.superseded.unlink(missing_ok=True)
        self.superseded = None


def renew_statistics(model, faces):
    """Give batch normalisations the statistics of faces as they are, without augmentation or dropout.

    Those of training are of other weights, the last steps' instead of the average's, and of other faces.
    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576.

    Args:
        model: changed in place.
        faces: uint8 (n, h, w, c), n > 0.
    """
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    before = [layer.momentum for layer in normalisations], [layer.rate for layer in dropouts]
    for dropout in dropouts:
        dropout.rate = 0.0
    for number, batch in enumerate(np.array_split(faces, math.ceil(len(faces) / VALIDATED_AT_ONCE))):
        for normalisation in normalisations:
            normalisation.momentum = number / (number + 1)  # the mean of all batches
        model(preprocess_images(batch), training=True)
    for normalisation, momentum in zip(normalisations, before[0], strict=True):
        normalisation.momentum = momentum
    for dropout, rate in zip(dropouts, before[1], strict=True):
        dropout.rate = rate


def calibrate(model, held_out):
    """Divide a network's logits by the temperature that makes the emotions of held-out faces likeliest.

    Names stay.  The logits are means of the last convolution's maps, so dividing its weights does it, and no reader has
    to know.  A temperature with which confidence, on average, is accuracy, hangs more on the few faces held out.
    Source: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    Args:
        model: one of the five; changed in place.
        held_out: `Split` that it has not learnt from; with fewer than `smallest_calibration` faces nothing happens.

    Returns:
        The temperature, float.
    """
    if len(held_out.faces) < smallest_calibration:
        return 1.0
    logits = np.log(np.maximum(probabilities_of(model, held_out).astype(np.float64), 1e-12))
    logits -= np.take_along_axis(logits, held_out.emotions[:, None].astype(int), axis=1)  # over the true one's

    def loss(temperature):
        return np.log(np.exp(logits / temperature).sum(axis=1)).mean()

    temperature = float(min(np.geomspace(0.25, 4, 401), key=loss))
    last = model.get_layer(EMOTION_MAPS)
    last.set_weights([weight / temperature for weight in last.get_weights()])
    return temperature


def averaged_weights(model):
    """The model's weights with their moving average in place of the last step's, where the optimizer keeps one."""
    if not model.optimizer.use_ema:
        return model.get_weights()
    kept = [keras.ops.copy(variable) for variable in model.weights]  # on the devices: several hosts compare NumPy's
    model.optimizer.finalize_variable_values(model.trainable_variables)
    averaged = model.get_weights()
    for variable, value in zip(model.weights, kept, strict=True):
        variable.assign(value)
    return averaged


def first_watched_epoch(args):
    """The first epoch, from 0, that counts for early stopping.

    At a cosine's high rates networks get worse than the weights that they start from, or no better for long, and then
    much better.
    """
    return args.epochs // 2 if args.schedule == "cosine" else 0


class RunRecord(keras.callbacks.Callback):
    """The log of a run, and all it takes to go on with it; stands last among the callbacks.

    Restoring replays the logged epochs to the callbacks that count them, then puts back weights, optimizer and
    random states, so that a resumed run continues as an unbroken one.
    """

    def __init__(self, batches, best, counting, settings, state_path, log_path, saved, job):
        super().__init__()
        self.job = job
        self.batches, self.best, self.counting, self.settings = batches, best, counting, settings
        self.state_path, self.log_path, self.saved = state_path, log_path, saved
        self.rows = []
        if saved:
            self.rows = saved["rows"]
            best.path, best.score = state_path.with_name(saved["best_name"]), tuple(saved["best_score"])
            best.others = saved.get("others", [])
        job.epochs_done = len(self.rows)

    @property
    def epochs_done(self):
        return len(self.rows)

    def stopped_early(self, args):
        """Whether the logged epochs already end the run."""
        figures = [row[args.monitor] for row in self.rows[first_watched_epoch(args) :]]
        best = {"max": np.argmax, "min": np.argmin}[MONITORS[args.monitor]]
        return bool(figures) and len(figures) - 1 - int(best(figures)) >= args.early_stopping_patience

    def _variables(self):
        seeds = [v for v in self.model.non_trainable_variables if v.path.endswith("seed_generator_state")]
        return [*self.model.weights, *seeds, *self.model.optimizer.variables]

    def on_train_begin(self, logs=None):
        if self.saved:
            for callback in self.counting:
                for epoch, row in enumerate(self.rows):
                    callback.on_epoch_end(epoch, dict(row))
            self.model.stop_training = False
            self.model.optimizer.build(self.model.trainable_variables)
            for variable, value in zip(self._variables(), self.saved["variables"], strict=True):
                variable.assign(value)
            self.saved = None

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch
        self._started = time.monotonic()
        self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs):
        self.rows.append(
            {
                "epoch": epoch + 1,
                **{name: float(value) for name, value in logs.items()},
                "learning_rate": self._rate,  # as the epoch began
                "seconds": round(time.monotonic() - self._started, 2),
            }
        )
        if self.job.first:
            with self.job.writing():
                self._write()
        self.job.share()  # no host goes on before the epoch is saved
        self.job.epochs_done = len(self.rows)

    def _write(self):
        description = json.dumps(
            {
                "settings": self.settings,
                "rows": self.rows,
                "best_name": self.best.path.name,
                "best_score": self.best.score,
                "others": self.best.others,
            }
        )
        values = {f"variable_{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self._variables())}
        with replacing(self.state_path) as partial, open(partial, "wb") as file:
            np.savez(file, description=np.array(description), **values)
        with replacing(self.log_path) as partial:
            pd.DataFrame(self.rows).to_csv(partial, index=False)
        self.best.forget_superseded()


def shared_run(args, job, path):
    """The run to resume, or None; host 0 reads it, and the others get it from there."""
    content = b""
    if args.resume and job.first and read_saved_run(args, path):
        content = path.read_bytes()
    content = job.share_bytes(content)
    return parse_saved_run(io.BytesIO(content)) if content else None


def parse_saved_run(file):
    """What `RunRecord` wrote to a file, with its arrays as a list."""
    with np.load(file) as arrays:
        saved = json.loads(str(arrays["description"]))
        saved["variables"] = [arrays[f"variable_{i}"] for i in range(len(arrays.files) - 1)]
    return saved


def read_saved_run(args, path):
    """What `RunRecord` wrote, or None where the folder holds no run at all; ValueError where it is another's."""
    if not path.is_file():
        others = sorted(other.name.removesuffix(".resume.npz") for other in args.output_dir.glob("*.resume.npz"))
        if others:
            raise UserError(
                f"--resume goes on with a run of {args.network}; {args.output_dir} holds one of {', '.join(others)}: "
                f"pass --network {others[0]}, another --output-dir, or leave --resume out"
            )
        print(f"no finished epoch of {args.network} in {args.output_dir} to go on from: starting at the first")
        return None
    try:
        saved = parse_saved_run(path)
        best = args.output_dir / saved["best_name"]
    except Exception as error:  # a damaged archive fails in many ways: zip, NumPy's header, JSON
        raise UserError(f"{path} is damaged ({error}); leave --resume out to start at the first epoch") from error
    if not best.is_file():
        raise UserError(f"--resume needs the best checkpoint so far, {best}: put it back, or leave --resume out")
    earlier = {"optimizer": "adamw", "monitor": "val_accuracy"}  # once there was no other
    before, now = earlier | saved["settings"], resolved_settings(args)
    kept = ("network", "image_size", "batch_size", "optimizer", "schedule", "monitor", "seed")
    kept += ("votes", "votes_as", "drop_no_face", "teacher", *(["teacher_share"] if args.teacher else []))
    for name in kept:
        if before.get(name) != now[name]:
            had, found = (value if value not in (None, []) else "none" for value in (before.get(name), now[name]))
            raise UserError(
                f"--resume keeps {name}: the run in {args.output_dir} has {had}, found {found}; "
                "pass the same, or leave --resume out"
            )
    for name in before.keys() & now.keys():
        if before[name] != now[name] and len(saved["rows"]) < args.epochs:
            print(f"note: {name} was {before[name]}, goes on with {now[name]}")
    return saved


def check_same_data(settings, now, args):
    """Raise hosts.Disagreement, naming the first difference, where a run to resume has learnt from other data."""
    before = settings.get("data", {})  # earlier versions kept none, or other facts
    for name in now:
        if name in before and before[name] != now[name]:
            raise hosts.Disagreement(
                f"--resume keeps the data, wherever they lie; found that {args.dataset} is not what the run in "
                f"{args.output_dir} learns from, in {name}: {now[name]} against {before[name]}; pass what it learnt "
                f"from, --dataset {settings['dataset']}, or leave --resume out"
            )


def resolved_settings(args):
    """Every setting of a run as JSON-ready values: the flags, then what only the block above sets."""
    flags = {name: value for name, value in vars(args).items() if name not in ("resume", "host_index")}
    data = "drawn" if str(args.dataset) == "drawn" else str(Path(args.dataset).expanduser().resolve())
    flags |= {"image_size": list(args.image_size), "dataset": data, "output_dir": str(args.output_dir)}
    flags |= {"votes": args.votes and args.votes.name, "teacher": [path.name for path in args.teacher]}
    flags |= {"start_from": args.start_from and args.start_from.name}
    packages = {"keras": keras.__version__, "backend": keras.backend.backend()}
    return flags | {name: globals()[name] for name in WITHOUT_FLAG} | packages


def versions():
    """Versions of what all hosts must compute with, by package."""
    packages = ("keras", "jax", "jaxlib", "numpy", "opencv-python")
    found = {name: [d.version for d in importlib.metadata.distributions(name=name)] for name in packages}
    return {name: version[0] if version else "none" for name, version in found.items()}


def tensorboard_callback(folder):
    """Keras's TensorBoard callback, or one line on what it lacks."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError("--tensorboard needs the tensorboard package: pip install tensorboard") from error
    return keras.callbacks.TensorBoard(folder)


def draw_learning_curve(rows, path, title, smoothed, blended):
    """Accuracy and loss per epoch, of Training (faces and labels as they are learnt from) and validation, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    epoch = [row["epoch"] for row in rows]
    for axes, name in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        augmented = "training, augmented" + (" and blended" if blended else "")
        augmented += ", labels smoothed" if smoothed and name == "loss" else ""
        axes.plot(epoch, [row[name] for row in rows], ".-", color="#0072B2", label=augmented)
        axes.plot(epoch, [row[f"val_{name}"] for row in rows], ".-", color="#D55E00", label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


if __name__ == "__main__":
    sys.exit(exit_status(main))
