"""Train one of the five networks on FER2013, on your own faces, or on drawn ones.

    python train_emotion_classifier.py                                    # mini_XCEPTION on fer2013/fer2013.csv
    python train_emotion_classifier.py --dataset drawn                    # a first try without data, about a minute
    python train_emotion_classifier.py --network big_XCEPTION --epochs 60
    python train_emotion_classifier.py --teacher models/simple_CNN.hdf5   # learn from a larger network, too
    python train_emotion_classifier.py --resume                           # go on after Ctrl-C or a power cut
    KERAS_BACKEND=jax python train_emotion_classifier.py --hosts node0:12345,node1 --host-index 0    # docs/scaling.md

Writes to --output-dir, each file whole or not at all:
    NETWORK.EPOCH-VALACC.hdf5   the best checkpoint so far, labels and input size inside; or .keras
    NETWORK.settings.json       the settings of the run
    NETWORK.log.csv  NETWORK.curve.png   loss, accuracy and learning rate per epoch
    NETWORK.resume.npz          everything --resume needs to go on from the last finished epoch
Of drawn faces, these lie in models/drawn/: they are for trying things out.

Runs on Keras's TensorFlow backend, or on JAX with KERAS_BACKEND=jax, there on all accelerators of one or several hosts.
The parts are in training/: faces (faces, labels, augmented batches), optimizer, run (validation, checkpoints, the log,
--resume), hosts, and automatic (what "auto" stands for).
"""

import os
import sys

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command_line import Parser, UserError, exit_status, number_in_range, replacing

# isort: split
import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from load_and_process import dataset, image_size
from models import network_names

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

# data: `dataset` (path) and `image_size` (height, width in pixels) are set in load_and_process.py
validation_fraction = 0.1      # part of Training held out where the data has no PublicTest
calibration_fraction = 0.03    # part of Training held out to fit the temperature on; 0: no calibration
largest_held_out = 10_000      # faces in either held-out part, at most; these faces stay in memory
smallest_calibration = 200     # faces; with fewer, nothing is held out to calibrate on, and nothing is calibrated
# network
network = "mini_XCEPTION"      # simple_CNN, simpler_CNN, tiny_XCEPTION, mini_XCEPTION, big_XCEPTION
l2_regularization = 0.0        # penalty on convolution kernels; 0: weight_decay alone keeps them small
start_from = None              # checkpoint of the same network whose weights to start from; None: random weights
# optimisation
epochs = "auto"                # passes over Training; auto: 80, of drawn faces 40
batch_size = 128               # faces per step
learning_rate = 6e-3           # at its peak
schedule = "cosine"            # cosine: to zero over all epochs; plateau: a tenth whenever val_loss stops falling
warmup_epochs = 2.0            # linear rise to the peak, with cosine; at most a fifth of the epochs
plateau_patience = 8           # epochs without a lower val_loss before schedule "plateau" reduces
monitor = "val_loss"           # val_loss or val_accuracy: keeps the checkpoint with the best; epoch: keeps the last
early_stopping_patience = 20   # epochs without a better `monitor` before the run ends; cosine: those of its second half
optimizer = "muon"             # muon: AdamW with orthogonal steps for convolutions; adamw
muon_momentum = 0.95           # Nesterov momentum of muon: share of the sum of gradients that stays for the next step
weight_decay = 0.02            # decoupled, on kernels only
ema_epochs = 2.0               # horizon of the moving average of weights that is validated and saved; 0: none
recalibration_faces = 2560     # faces of Training that give the saved batch-norm statistics; 0: the moving averages
# labels
label_smoothing = 0.0          # share of each label that is spread over all emotions
votes = None                   # FER+'s fer2013new.csv: ten people's votes on each face become part of its label
votes_as = "share"             # share: FER2013's label, blended with what its annotators would say, given the votes
                               # people: FER2013's label, blended with the shares of votes
                               # hard: what most people saw, one of eight emotions: contempt is the eighth
                               # soft: the shares of votes for the eight emotions
votes_share = 0.6              # the part of each label that comes from votes, with "share" and "people"
drop_no_face = False           # leave out the images in which "no face" has the most votes
logit_adjustment = 0.0         # tau: how far rare emotions are balanced, see `AdjustedCrossentropy`; 1: fully; 0: not
teacher = []                   # checkpoints; the mean of their probabilities becomes part of each label
teacher_share = "auto"         # of each label; the rest is the data's and the votes'; auto: training/automatic.py
teacher_views = 6              # augmented views of each face, over which a teacher's prediction is averaged
mixup = 0.2                    # blend each face, and its label, with another's: alpha of Beta(alpha, alpha); 0: none
# augmentation, sampled anew for each face in each epoch
augmentation = "auto"          # multiplies the bounds from `rotation` to `erasing`; auto: training/automatic.py
flip = True                    # mirror half of the faces
rotation = 10.0                # up to +- degrees
zoom = 0.10                    # up to +- share of the size
shift = 0.06                   # up to +- share of the width and height
contrast = 0.20                # up to +- share
brightness = 0.10              # up to +- of the [-1, 1] range
erasing = 0.10                 # share of faces that lose one random rectangle
disturbances = 0.0             # share of faces with noise, blur, low resolution, JPEG, gamma or uneven light; auto:
                               # training/automatic.py
# machine
precision = "auto"             # float32, mixed_bfloat16, or auto: training/automatic.py
seed = 0                       # of initial weights, order and augmentation
checkpoint_format = "hdf5"     # hdf5, keras
output_dir = "auto"            # folder for everything that is written; auto: models/, of drawn faces models/drawn/
tensorboard = False            # also write TensorBoard event files (needs: pip install tensorboard)
# fmt: on
# ----------------------------------------------------------------------------------------------------------

VOTES_AS = ("share", "people", "hard", "soft")
OPTIMIZERS = ("muon", "adamw")
SCHEDULES = ("cosine", "plateau")
MONITORS = ("val_accuracy", "val_loss", "epoch")
CHECKPOINT_FORMATS = ("hdf5", "keras")
PRECISIONS = ("auto", "float32", "mixed_bfloat16")


def read_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the settings above are the defaults.  Takes no time: no library is needed."""
    parser = Parser(description="Train an emotion network.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    switch, number = argparse.BooleanOptionalAction, number_in_range

    add = parser.add_argument_group("the common dozen").add_argument
    add("--dataset", default=dataset, help="fer2013.csv (or .gz, .zip, .xz), a folder train/EMOTION/*, or: drawn")
    add("--network", default=network, choices=network_names(), help="which network")
    add("--epochs", type=number(int, 1, auto=True), default=epochs, help="auto: 80, of drawn 40")
    add("--batch-size", type=number(int, 1), default=batch_size, help="faces per step")
    add("--learning-rate", type=number(float, 1e-8, 100), default=learning_rate, help="at its peak")
    add("--augmentation", type=number(float, 0, auto=True), default=augmentation, help="strength; 0: flips only")
    add("--start-from", type=Path, default=start_from, metavar="MODEL.hdf5", help="go on from a checkpoint's weights")
    add("--teacher", type=Path, nargs="+", default=teacher, metavar="MODEL.hdf5", help="checkpoints to learn from, too")
    add("--votes", type=Path, default=votes, metavar="FILE", help="FER+'s fer2013new.csv, to learn from, too")
    add("--output-dir", type=Path, default=output_dir, help="where everything is written")
    add("--resume", action="store_true", help="go on from the last finished epoch in --output-dir")
    add("--seed", type=number(int, 0, below=2**32), default=seed, help="of initial weights, order and augmentation")

    add = parser.add_argument_group("data").add_argument
    add("--image-size", type=int, nargs=2, default=image_size, metavar=("H", "W"), help="pixels")
    add("--validation-fraction", type=number(float, 0.001, below=1), default=validation_fraction, help="of Training")
    add("--calibration-fraction", type=number(float, 0, below=1), default=calibration_fraction, help="0: none")
    add("--largest-held-out", type=number(int, 1), default=largest_held_out, help="most faces in each held-out part")
    add("--smallest-calibration", type=number(int, 1), default=smallest_calibration, help="with fewer faces: none")

    add = parser.add_argument_group("labels").add_argument
    add("--label-smoothing", type=number(float, 0, 1), default=label_smoothing, help="share spread over all emotions")
    add("--votes-as", default=votes_as, choices=VOTES_AS, help="part of the labels, or FER+'s eight instead")
    add("--votes-share", type=number(float, 0, most=1), default=votes_share, help="of each label, with share or people")
    add("--logit-adjustment", type=number(float, 0), default=logit_adjustment, help="tau: how far to balance emotions")
    add("--drop-no-face", action=switch, default=drop_no_face, help="leave out what --votes call no face")
    add("--teacher-share", type=number(float, 0, 1, auto=True), default=teacher_share, help="of each label")
    add("--teacher-views", type=number(int, 1), default=teacher_views, help="augmented views of each face")
    add("--mixup", type=number(float, 0), default=mixup, help="blend faces two by two; 0.2: mostly a little; 0: never")

    add = parser.add_argument_group("optimisation").add_argument
    add("--optimizer", default=optimizer, choices=OPTIMIZERS, help="muon: AdamW, orthogonal in convolutions")
    add("--muon-momentum", type=number(float, 0, below=1), default=muon_momentum, help="Nesterov momentum of muon")
    add("--weight-decay", type=number(float, 0), default=weight_decay, help="decoupled, on kernels only")
    add("--l2-regularization", type=number(float, 0), default=l2_regularization, help="on kernels")
    add("--schedule", default=schedule, choices=SCHEDULES, help="of the learning rate")
    add("--warmup-epochs", type=number(float, 0), default=warmup_epochs, help="with cosine")
    add("--plateau-patience", type=number(int, 1), default=plateau_patience, help="epochs, with plateau")
    add("--monitor", default=monitor, choices=MONITORS, help="chooses the checkpoint that stays, and stops early")
    add("--early-stopping-patience", type=number(int, 1), default=early_stopping_patience, help="epochs")
    add("--ema-epochs", type=number(float, 0), default=ema_epochs, help="horizon of the weights' moving average")
    add("--recalibration-faces", type=number(int, 0), default=recalibration_faces, help="for batch normalisation")

    add = parser.add_argument_group("augmentation: bounds of the random transforms").add_argument
    add("--flip", action=switch, default=flip, help="mirror half of the faces")
    add("--rotation", type=number(float, 0), default=rotation, help="degrees")
    add("--zoom", type=number(float, 0, below=1), default=zoom, help="share of the size")
    add("--shift", type=number(float, 0), default=shift, help="share of the width and height")
    add("--contrast", type=number(float, 0), default=contrast, help="share")
    add("--brightness", type=number(float, 0), default=brightness, help="of the [-1, 1] range")
    add("--erasing", type=number(float, 0, most=1), default=erasing, help="share of faces that lose a rectangle")
    disturbed = "share of faces with noise, blur, low resolution, JPEG, gamma or uneven light"
    add("--disturbances", type=number(float, 0, most=1, auto=True), default=disturbances, help=disturbed)

    add = parser.add_argument_group("machine").add_argument
    add("--precision", default=precision, choices=PRECISIONS, help="of the arithmetic; checkpoints are float32")
    add("--checkpoint-format", default=checkpoint_format, choices=CHECKPOINT_FORMATS, help="keras: Keras's own")
    add("--tensorboard", action=switch, default=tensorboard, help="also write TensorBoard event files")
    add("--hosts", metavar="HOST:PORT,HOST,...", help="train on several, this list given to each (or EMOTION_HOSTS)")
    add("--host-index", type=number(int, 0, none=True), metavar="I", help="which of --hosts this is")

    args = parser.parse_args(argv)
    if not args.votes and (args.drop_no_face or args.votes_as != "share"):
        raise UserError("--votes-as and --drop-no-face are about FER+'s votes; found no --votes: pass fer2013new.csv")
    if not args.teacher and args.teacher_share != teacher_share:
        raise UserError("--teacher-share is about teachers' part of each label; found no --teacher: pass checkpoints")
    args.image_size = tuple(args.image_size)
    return args


def _check_flags(argv):
    read_flags(argv)
    return 0


if __name__ == "__main__" and (status := exit_status(_check_flags)):
    sys.exit(status)  # a mistyped flag does not wait for the libraries, which take seconds

# ----------------------------------------------------------------------------------------------------------
# The run

from training import hosts  # first: the package imports Keras in silence

# isort: split
import keras
import numpy as np

from models.checkpoint import DRAWN, load_checkpoint
from models.cnn import NETWORKS
from training.automatic import resolve_auto
from training.faces import (
    BATCHES_AHEAD,
    Augmentation,
    AugmentedFaces,
    blend_teacher_labels,
    check_teachers,
    load_training_data,
)
from training.optimizer import make_loss, make_optimizer
from training.run import (
    BestCheckpoint,
    RunFiles,
    RunRecord,
    build_network,
    check_network,
    check_same_data,
    create_variables,
    describe_accuracy,
    draw_learning_curve,
    limit_batch_norm_momentum,
    load_saved_run,
    predict,
    start_from_checkpoint,
    stopped_early,
    stopping_callbacks,
    tensorboard_callbacks,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and resolve every "auto"."""
    return resolve_auto(read_flags(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """See that all hosts are about to do the same, and train; one host has nobody to compare with."""
    args = parse_args(argv)
    with hosts.joined(args.hosts, args.host_index):
        hosts.check_same_on_all_hosts(
            "run the same code", hosts.code_hashes(Path(__file__).resolve().parent), "copy it"
        )
        hosts.check_same_on_all_hosts("have the same packages", hosts.package_versions(), "install the same")
        settings = resolved_settings(args)
        may_differ = ("dataset", "output_dir", "tensorboard")  # the data are compared face by face, wherever they lie
        shared = {name: value for name, value in settings.items() if name not in may_differ}
        hosts.check_same_on_all_hosts("be given the same settings", shared, "correct it")
        with hosts.data_parallel():
            return train(args, settings)


def resolved_settings(args: argparse.Namespace) -> dict:
    """Return all settings of a run, and what it runs on, as values for JSON."""
    settings = {name: value for name, value in vars(args).items() if name not in ("resume", "host_index")}
    data = "drawn" if str(args.dataset) == "drawn" else os.path.realpath(os.path.expanduser(args.dataset))
    return settings | {
        "dataset": data,
        "image_size": list(args.image_size),
        "output_dir": str(args.output_dir),
        "votes": args.votes and args.votes.name,
        "teacher": [path.name for path in args.teacher],
        "start_from": args.start_from and args.start_from.name,
        "hosts": hosts.host_count(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def train(args: argparse.Namespace, settings: dict) -> int:
    """Train one network: the story of a run, from the data to the best checkpoint.

    Args:
        args: As `parse_args` returns them.
        settings: The same for JSON, as `resolved_settings` returns them.

    Returns:
        The exit status.
    """
    say = print if hosts.is_first_host() else lambda *text, **how: None
    is_drawn = str(args.dataset) == "drawn"
    files = RunFiles.of(args.output_dir, args.network)
    build, input_shape = NETWORKS[args.network], (*args.image_size, 1)

    # What can be refused is refused before the data are read.
    hosts.check_divisible("--batch-size", args.batch_size)
    saved = load_saved_run(files, settings, args.resume)
    boards = tensorboard_callbacks(files.boards) if args.tensorboard and hosts.is_first_host() else []
    with hosts.single_host():
        check_network(args.network, build, input_shape, calibrates=args.calibration_fraction > 0)

    # Faces and labels
    if is_drawn:
        say("drawing the faces, which takes some seconds ...", flush=True)
    data = load_training_data(
        args.dataset,
        args.image_size,
        votes=args.votes,
        votes_as=args.votes_as,
        votes_share=args.votes_share,
        drop_no_face=args.drop_no_face,
        validation_fraction=args.validation_fraction,
        calibration_fraction=args.calibration_fraction,
        largest_held_out=args.largest_held_out,
        smallest_calibration=args.smallest_calibration,
    )
    facts = data.facts | hosts.checkpoint_hashes([*args.teacher, *filter(None, [args.start_from])])
    hosts.check_same_on_all_hosts("train on the same data", facts, "copy them from one host")
    if saved:
        check_same_data(saved["settings"], data.facts, args.dataset, args.output_dir)
    settings = settings | {"data": data.facts}
    learns_from_teacher = bool(args.teacher and args.teacher_share)
    if learns_from_teacher:
        check_teachers(args.teacher, data.emotions, args.image_size)

    # Network
    keras.utils.set_random_seed(args.seed)
    model = build_network(build, input_shape, len(data.emotions), args.l2_regularization, args.precision)
    if keras.backend.backend() == "tensorflow":
        from training.on_tensorflow import fuse_batch_normalization, read_ahead  # here: it imports TensorFlow

        fuse_batch_normalization(model)
    if args.start_from and not saved:
        start_from_checkpoint(args.start_from, model, data.emotions)

    # What the run is, for the user and for --resume
    complete = bool(saved) and len(saved["rows"]) >= args.epochs
    if hosts.is_first_host() and not complete:  # the settings of a complete run stay as they are
        if not args.resume and os.path.exists(files.state):
            say(
                f"note: {args.output_dir} holds an earlier run of {args.network}; the first finished epoch replaces it "
                "(its checkpoint stays). To go on with it instead: Ctrl-C, and --resume"
            )
        with replacing(files.settings) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n")
        say(json.dumps({name: value for name, value in settings.items() if name != "data"}, indent=2))
    say(f"{len(data.emotions)} emotions: {', '.join(data.emotions)}")
    learnt, total = len(data.train_indices), len(data.faces)
    others = f" (of {total}; the others are held out, or copies of held-out faces)" if learnt < total else ""
    to_validate = f"{len(data.validation.faces)} to validate on ({data.validation_name})"
    say(f"{learnt} faces to train on{others}, {to_validate}", flush=True)

    # Batches; the teachers' part of the labels comes last, since it takes minutes
    augmentation = Augmentation(
        flip=args.flip,
        rotation=args.rotation,
        zoom=args.zoom,
        shift=args.shift,
        contrast=args.contrast,
        brightness=args.brightness,
        erasing=args.erasing,
        strength=args.augmentation,
        disturbances=args.disturbances,
    )
    labels = data.labels
    if learns_from_teacher and not complete:
        look = "the teacher looks" if len(args.teacher) == 1 else "the teachers look"
        say(f"{look} at {learnt} faces, {args.teacher_views} times at each ...", flush=True)
        labels = blend_teacher_labels(
            labels,
            data.faces,
            data.train_indices,
            paths=args.teacher,
            share=args.teacher_share,
            views=args.teacher_views,
            augmentation=augmentation,
            seed=args.seed,
        )
    batches = AugmentedFaces(
        data.faces,
        labels,
        data.train_indices,
        batch_size=args.batch_size,
        seed=args.seed,
        augmentation=augmentation,
        mixup=args.mixup,
        shard=(hosts.host_index(), hosts.host_count()),
    )
    hosts.check_divisible("a batch of all faces that there are to train on", batches.batch_size, most=learnt)

    # Optimizer and callbacks
    limit_batch_norm_momentum(model, steps_per_epoch=len(batches))
    model.compile(
        optimizer=make_optimizer(
            args.optimizer,
            learning_rate=args.learning_rate,
            schedule=args.schedule,
            epochs=args.epochs,
            steps_per_epoch=len(batches),
            warmup_epochs=args.warmup_epochs,
            weight_decay=args.weight_decay,
            ema_epochs=args.ema_epochs,
            muon_momentum=args.muon_momentum,
        ),
        loss=make_loss(args.label_smoothing, args.logit_adjustment, labels[data.train_indices]),
        metrics=["accuracy"],
    )
    create_variables(model, labels[:1], train=True)
    recalibration = np.random.default_rng(args.seed).permutation(data.train_indices)[: args.recalibration_faces]
    with hosts.single_host():
        best = BestCheckpoint(
            build_network(build, input_shape, len(data.emotions), args.l2_regularization, "float32"),
            data.emotions,
            validation=data.validation,
            calibration=data.calibration,
            recalibration_faces=np.array(data.faces[np.sort(recalibration)]),
            monitor=args.monitor,
            output_dir=args.output_dir,
            suffix=f".{args.checkpoint_format}",
            trained_on=DRAWN if is_drawn else "",
        )
    stopping = {"schedule": args.schedule, "monitor": args.monitor, "epochs": args.epochs}
    patience = args.early_stopping_patience
    counting = stopping_callbacks(**stopping, plateau_patience=args.plateau_patience, early_stopping_patience=patience)
    record = RunRecord(batches, best, counting, settings, files, saved)

    # Epochs
    if complete:
        say(f"the run is complete, {len(record.rows)} epochs; more --epochs go on with it", flush=True)
    elif saved:
        say(f"going on after epoch {len(record.rows)} of {args.epochs}; best so far: {best.path}", flush=True)
    try:
        if not complete and not stopped_early(record.rows, **stopping, patience=patience):
            model.fit(
                read_ahead(batches, BATCHES_AHEAD) if keras.backend.backend() == "tensorflow" else batches,
                initial_epoch=len(record.rows),
                epochs=args.epochs,
                shuffle=False,  # `batches` has an order of its own, which --resume can go on with
                verbose=0 if not hosts.is_first_host() else 1 if sys.stdout.isatty() else 2,
                callbacks=[best, *counting, *boards, record],  # `best` puts the figures into the logs that others read
            )
        if stopped_early(record.rows, **stopping, patience=patience):
            say(f"no better {args.monitor} for {patience} epochs: the run ends")
    except KeyboardInterrupt:
        done = len(record.rows)
        print(f"stopped; epochs finished: {done}" + (", and --resume goes on from there" if done else ""))
        raise
    finally:
        machine_failed = getattr(sys.exception(), "exit_status", None) == 1  # such as a full disk: draw nothing
        if hosts.is_first_host() and record.rows and not machine_failed:
            title = f"{args.network}, validated on {data.validation_name}"
            smoothed = {"label_smoothing": args.label_smoothing, "mixup": args.mixup}
            draw_learning_curve(record.rows, files.curve, title, **smoothed)

    # The result
    if hosts.is_first_host():
        print(f"{'last' if args.monitor == 'epoch' else 'best'} checkpoint: {best.path}")
        splits = {data.validation_name: data.validation} | ({data.test_name: data.test} if data.test else {})
        with hosts.single_host():
            trained, _ = load_checkpoint(best.path)
            for name, split in splits.items():
                print(f"{name}: {describe_accuracy(predict(trained, split), split.emotions)}")
        if is_drawn:
            print("drawings only: this network knows no person's face; train on photographs for that")
        print(f"try it live: python real_time_emotion_recognition.py --model {best.path}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
