"""Measure the plain way of doing each thing beside this project's way, on this machine, and print a Markdown table.

    python benchmarks/speed.py                                           # everything, about five minutes
    python benchmarks/speed.py --only start memory                       # some sections
    python benchmarks/speed.py --only csv --dataset fer2013/fer2013.csv  # on FER2013 itself
    python benchmarks/speed.py --only training stream hosts              # a quarter of an hour more; hosts: with JAX

The plain way is that of most small programs of this kind: pandas and `int()` for every pixel; Keras inside the live
program, faces sought at full detail in frames 300 pixels wide, and a `model.predict` for every face.  Both ways read
the same clips of drawn faces, each in a process of its own.  The figures are medians; memory, training and hosts are
measured once.  A ratio says how many times better our way is.  A bar is what we hold ourselves to.  Nothing else should
run on the machine.
"""

import argparse
import csv
import json
import math
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata, util
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from timeit import repeat
from typing import Any, NamedTuple

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, but the modules lie in the folder above

from command_line import Parser, UserError, exit_status  # noqa: E402
from drawn_faces import DEFAULT_IDENTITY, DrawnFaceCapture, Identity  # noqa: E402
from face_files.labels import EMOTIONS, SPLITS  # noqa: E402
from face_files.location import find_source  # noqa: E402
from face_files.tables import CSV_SUFFIXES  # noqa: E402
from load_and_process import load_fer2013_data  # noqa: E402
from models import network_names  # noqa: E402

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

only = ("csv", "start", "face", "video", "ensemble", "memory", "delay")  # sections; on request training, stream, hosts
dataset = None  # FER2013's CSV, also compressed; None: a generated CSV
quick = False   # short clips and no repetition, to see that everything works
# fmt: on
# ----------------------------------------------------------------------------------------------------------

CSV_ROWS = 2000
NETWORKS = network_names()
MODEL = ROOT / "models" / "mini_XCEPTION.hdf5"
CLIP_FPS, CAMERA_FPS = 25, 30
PACKAGES = ("numpy", "opencv-python", "tensorflow", "keras", "ai-edge-litert", "pandas")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")} | {"VECLIB_MAXIMUM_THREADS": "1"}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Measure the plain way of doing each thing beside this project's way.")
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=only, metavar="SECTION", help=f"of {' '.join(SECTIONS)}")
    add("--dataset", default=dataset, metavar="PATH", help="FER2013's CSV (default: a generated one)")
    add("--quick", action=argparse.BooleanOptionalAction, default=quick, help="to see that everything works")
    args = parser.parse_args(argv)
    if args.dataset and not find_source(args.dataset).name.lower().endswith(CSV_SUFFIXES):
        raise UserError(f"--dataset names FER2013's CSV here; found {args.dataset}: name the file")
    if set(args.only) - {"csv", "delay"} and not util.find_spec("tensorflow"):
        raise UserError("the plain ways need TensorFlow; found none: pip install -r requirements.txt")
    if "hosts" in args.only and not util.find_spec("jax"):
        raise UserError('several hosts train on JAX; found none: pip install "jax>=0.8,<1"')
    args.repetitions, args.clip_s, args.training_images = (1, 1, 2000) if args.quick else (3, 10, 5000)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the sections, and print the table."""
    args, results = parse_args(argv), {}
    with TemporaryDirectory(prefix="speed-") as folder:
        for section, measure in SECTIONS.items():
            if section in args.only:
                print(f"{section} ...", file=sys.stderr, flush=True)
                results[section] = measure(Path(folder).resolve(), args)
    print(f"{describe_machine()}\n\n{format_report(results)}")
    return 0


# ----------------------------------------------------------------------------------------------------------
# The table

# What a line says, the unit, the plain way's figure or None, our figure, and the bar or "".
Figure = tuple[str, str, float | None, float, str]
Result = tuple[str, list[Figure]]  # of a section; first how it was measured


def format_report(results: dict[str, Result]) -> str:
    """Return the figures of the sections as a Markdown table, with the notes below it."""
    lines = ["| figure | plain | ours | ratio | bar |", "|---|---:|---:|---:|---|"]
    for what, unit, plain, ours, bar in (figure for _, figures in results.values() for figure in figures):
        # how many times better our way is
        ratio = None if plain is None else ours / plain if unit.endswith("/s") else plain / ours
        numbers = [
            "–" if number is None else f"{number:,.0f}{unit}" if number >= 100 else f"{number:.3g}{unit}"
            for number, unit in ((plain, f" {unit}"), (ours, f" {unit}"), (ratio, ""))
        ]
        lines.append(f"| {' | '.join((what, *numbers, bar))} |")
    return "\n".join([*lines, "", *(f"- {section}: {note}" for section, (note, _) in results.items())])


def describe_machine() -> str:
    """Return processor, cores, system and versions."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cpu[1] if cpu else platform.processor()}, {cores} cores, {platform.platform(terse=True)}"
    installed = {package.name: package.version for package in metadata.distributions()}
    versions = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
    return f"machine: {machine}  \nsoftware: Python {platform.python_version()}, {', '.join(versions)}  "


# ----------------------------------------------------------------------------------------------------------
# Processes

# A small process between us and what is measured: Linux counts the memory of who starts a program as the program's.
METER = """\
import subprocess, sys, time
started = time.perf_counter()
status = subprocess.call(sys.argv[1:])
seconds, peak_mb = time.perf_counter() - started, "NaN"
if sys.platform != "win32":
    from resource import RUSAGE_CHILDREN, getrusage
    peak_mb = getrusage(RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
print(f"[{seconds}, {peak_mb}]")
sys.exit(status)
"""
CALL = "import json, sys; from benchmarks import speed; "
CALL += "print(json.dumps(getattr(speed, sys.argv[1])(*json.loads(sys.argv[2]))))"


class Run(NamedTuple):
    """What a process took from its start to its end, and what it gave."""

    seconds: float
    peak_mb: float  # resident memory, 1e6 bytes; NaN on Windows
    value: Any  # what the function returned, or the last line of what the command printed


def run(folder: Path, *command: str | Path, **environment: str) -> Run:
    """Run a command, whose compiled networks go to `folder`; a RuntimeError has what it printed before it failed."""
    words = [str(word) for word in (sys.executable, "-I", "-S", "-c", METER, *command)]
    ours = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "EMOTION_CACHE": str(folder / "cache")}
    environment = os.environ | ours | environment
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[-3:])} failed:\n{done.stdout}{done.stderr}")
    *printed, measured = done.stdout.splitlines()
    return Run(*json.loads(measured), value="".join(printed[-1:]))


def call(folder: Path, function: Callable, *arguments: Any, **environment: str) -> Run:
    """Let a new process call a function of this file; its arguments and its value must fit into JSON."""
    words = sys.executable, "-c", CALL, function.__name__, json.dumps(arguments, default=str)
    done = run(folder, *words, **environment)
    return done._replace(value=json.loads(done.value))


# ----------------------------------------------------------------------------------------------------------
# Sections


def measure_csv(folder: Path, args: argparse.Namespace) -> Result:
    """Reading FER2013's CSV."""
    if args.dataset:  # a copy: our cache is written beside it, and the user's own cache stays as it is
        path = Path(shutil.copy(find_source(args.dataset), folder))
    else:
        path = write_csv(folder / "generated.csv", CSV_ROWS)
    what = f"FER2013's {path.name}" if args.dataset else f"{CSV_ROWS:,} generated faces"
    runs = [
        call(folder, time_our_csv, path).value + call(folder, time_plain_csv, path).value
        for _ in range(args.repetitions)
    ]
    first, again, plain = map(median, zip(*runs, strict=True))
    return "plain is `pandas.read_csv` and `int()` for every pixel; imports are not counted", [
        (f"reading a CSV of {what}, first time", "s", plain, first, ""),
        ("the same, again (from our cache)", "s", plain, again, ""),
    ]


def write_csv(path: Path, rows: int) -> Path:
    """Write a CSV like FER2013's, of random pixels."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        for number, face in enumerate(rng.integers(256, size=(rows, 48 * 48)).tolist()):
            table.writerow([rng.integers(7), " ".join(map(str, face)), SPLITS[number % 3]])
    return path


def read_plain_csv(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return, the plain way, faces float32 (n, 48, 48, 1) and one-hot emotions (n, 7), in the order of the rows."""
    import pandas as pd

    table, faces = pd.read_csv(path, skipinitialspace=True), []
    for row in table["pixels"]:
        face = np.array([int(pixel) for pixel in row.split(" ")]).reshape(48, 48)
        faces.append(cv2.resize(face.astype("uint8"), (48, 48)).astype("float32"))
    return np.expand_dims(np.asarray(faces), -1), pd.get_dummies(table["emotion"]).to_numpy()


def time_plain_csv(path: str) -> list[float]:
    """Return the seconds of the plain way."""
    return repeat(lambda: read_plain_csv(path), "import pandas", number=1, repeat=1)  # its import does not count


def time_our_csv(path: str) -> list[float]:
    """Return the seconds of our way, without and with the cache."""
    Path(f"{path}.cache.npz").unlink(missing_ok=True)
    return repeat(lambda: load_fer2013_data(path), number=1, repeat=2)


def measure_training(folder: Path, args: argparse.Namespace) -> Result:
    """Training each network: in float32, and in the precision that the script chooses."""
    images, figures = write_images(folder / "images", args.training_images), []
    for network in NETWORKS:
        rates = [train_briefly(folder, images, network, "--precision", p).value[0] for p in ("float32", "auto")]
        figures.append((f"training {network}", "faces/s", *rates, ""))
    return "plain: in float32, ours: as the script chooses; the second epoch", figures


def measure_stream(folder: Path, args: argparse.Namespace) -> Result:
    """Training on a folder of images: from memory, and from the cache's file."""
    images, runs = write_images(folder / "streamed", 4 * args.training_images), {False: [], True: []}
    (decoding_s,) = repeat(lambda: load_fer2013_data(images), number=1, repeat=1)
    for mapped in (False, True) * args.repetitions:
        runs[mapped].append(train_briefly(folder, images, "tiny_XCEPTION", mapped=mapped))
    rates = [median(run.value[0] for run in each) for each in runs.values()]
    peaks_mb = [median(run.peak_mb for run in each) for each in runs.values()]  # with the parts of the file in use
    note = f"plain: from memory, ours: from the cache's file; decoding the images once took {decoding_s:.0f} s before"
    return note, [
        (f"training tiny_XCEPTION on {4 * args.training_images:,} images", "faces/s", *rates, "ratio 0.9"),
        ("resident memory meanwhile", "MB", *peaks_mb, ""),
    ]


def measure_hosts(folder: Path, args: argparse.Namespace, networks: Sequence[str] = NETWORKS) -> Result:
    """Training on two hosts: two processes of this machine, over its loopback."""
    images, figures = write_images(folder / "images_of_hosts", args.training_images // 4), []
    for network in networks:
        # One thread that computes.  Tied to one core, it would wait for what the exchange does on that core.
        train_on_jax = partial(train_briefly, folder, images, network, KERAS_BACKEND="jax", PJRT_NPROC="1")
        one = train_on_jax()
        with socket.create_server(("127.0.0.1", 0)) as free:
            hosts = f"127.0.0.1:{free.getsockname()[1]},127.0.0.1"
        with ThreadPoolExecutor() as threads:
            two = [threads.submit(train_on_jax, "--hosts", hosts, "--host-index", index) for index in range(2)]
        figures.append((f"training {network}", "faces/s", one.value[0], two[0].result().value[0], ""))
    return "plain: one process, ours: two, half of each batch in each; a thread each, JAX, the second epoch", figures


def write_images(folder: Path, count: int) -> Path:
    """Write a data set's folder of PNGs, 48x48, of blurred noise, which compresses as faces do."""
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(256, size=(12, 12), dtype=np.uint8)
        path = folder / "train" / ("happy", "sad", "neutral")[number % 3] / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", cv2.resize(noise, (48, 48)), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
    return folder


def train_briefly(folder: Path, images: Path, network: str, *flags: Any, mapped=False, **environment: str) -> Run:
    """Let a new process train for two epochs; the value of the run is what `train` returns."""
    argv = ["--dataset", images, "--network", network, "--output-dir", folder / "trained", "--epochs", 2, *flags]
    return call(folder, train, [str(word) for word in argv], mapped, **environment)


def train(argv: Sequence[str], mapped: bool) -> tuple[float, bool]:
    """Train; return the faces/s of the last epoch, and whether the faces were mapped from the cache's file.

    Args:
        argv: Flags of the trainer.
        mapped: Whether the faces are to be mapped from the cache's file; else they are to be in memory.
    """
    import load_and_process
    import train_emotion_classifier as trainer

    load_and_process.IN_MEMORY = 0 if mapped else math.inf
    make_batches, made = trainer.AugmentedFaces, []
    trainer.AugmentedFaces = lambda *args, **options: made.append(make_batches(*args, **options)) or made[0]
    if status := trainer.main(argv):
        raise RuntimeError(f"training ended with status {status}")
    (batches,), args = made, trainer.parse_args(argv)
    with open(args.output_dir / f"{args.network}.log.csv", newline="") as file:
        *_, last = csv.DictReader(file)
    return len(batches.train_indices) / float(last["seconds"]), isinstance(batches.faces, np.memmap)


def measure_start(folder: Path, args: argparse.Namespace) -> Result:
    """From the start of the process to the first labelled frame."""
    runs = [[run_live(way, folder, 1).seconds for way in ("plain", "ours")] for _ in range(1 + args.repetitions)]
    plain, ours = map(median, zip(*runs[1:], strict=True))  # the first runs bring files into the system's memory
    return "a whole process, start to end, on a clip of one frame; programs, networks and clip were read before", [
        ("from start to first labelled frame", "s", plain, ours, "1.0 s; ratio 6")
    ]


def measure_memory(folder: Path, args: argparse.Namespace) -> Result:
    """The most resident memory on the way."""
    frames = args.clip_s * CLIP_FPS
    peaks_mb = [run_live(way, folder, n).peak_mb for way, n in (("plain", min(frames, 100)), ("ours", frames))]
    return "at its peak, on the clip of `video`", [("resident memory, live", "MB", *peaks_mb, "250 MB")]


def measure_video(
    folder: Path,
    args: argparse.Namespace,
    what: str = "640x480, one face, mini_XCEPTION",
    bar: str = "ratio 6",
    plain_frames: int = 100,
    **clip: Any,
) -> Result:
    """Frames per second without the start, which is what the frames beyond the first one take."""
    run_live("ours", folder, 1, **clip)  # compiles the networks, where nobody did so before
    frames, rates, found = args.clip_s * CLIP_FPS, [], []
    for way, n in (("plain", min(frames, plain_frames)), ("ours", frames)):
        first, all_ = ([run_live(way, folder, m, **clip) for _ in range(args.repetitions)] for m in (1, n))
        rates.append((n - 1) / (median(run.seconds for run in all_) - median(run.seconds for run in first)))
        found.append(f"{all_[0].value:.3g} {way}")
    note = "read from mp4, faces found, named, drawn and written to a CSV, no window; faces found per frame: "
    return note + ", ".join(found), [(what, "frames/s", *rates, bar)]


def run_live(way: str, folder: Path, frames: int, models=(MODEL,), size=(640, 480), people=1) -> Run:
    """Run the "plain" program, or "ours", on so many frames of a clip; the value of the run is the faces per frame."""
    clip, table = folder / f"{size[1]}-{people}-{frames}.mp4", folder / f"{way}.csv"
    if not clip.exists():
        draw_clip(clip, frames, size, people)
    if way == "plain":
        done = call(folder, plain_live, clip, table, models)
    else:
        script = sys.executable, ROOT / "real_time_emotion_recognition.py", "--headless", "--source", clip
        done = run(folder, *script, "--csv", table, "--model", *models)
    faces = len(table.read_text().splitlines()) - 1
    if not faces:  # frames without a face are cheap: their figure would flatter
        raise RuntimeError(f"{way}: no face was found in {frames} frames, so there is nothing to measure")
    return done._replace(value=faces / frames)


def draw_clip(path: Path, frames: int, size: tuple[int, int], people: int) -> None:
    """Write a video of moving drawn faces."""
    rng = np.random.default_rng(0)
    identities = [DEFAULT_IDENTITY] if people == 1 else [Identity.random(rng) for _ in range(people)]
    capture = DrawnFaceCapture(CLIP_FPS, size, frames=frames, identities=identities)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), CLIP_FPS, size)
    if not video.isOpened():
        raise OSError(f"no video can be written to {path}: OpenCV lacks the mp4v codec")
    while (frame := capture.read()[1]) is not None:
        video.write(frame)
    video.release()


def plain_live(clip: str, table: str, models: Sequence[str]) -> None:
    """The plain live program: every face of every frame, by every model, drawn and written to a CSV."""
    import imutils
    import keras

    networks = [keras.models.load_model(model, compile=False) for model in models]
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    white, red, font = (255, 255, 255), (0, 0, 255), (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
    video, number = cv2.VideoCapture(clip), 0
    with open(table, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["frame", "x", "y", "width", "height", "emotion", *EMOTIONS])
        while (frame := video.read()[1]) is not None:
            frame = imutils.resize(frame, width=300)
            grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            bars = np.zeros((250, 300, 3), np.uint8)
            for x, y, w, h in cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(30, 30)):
                face = cv2.resize(grey[y : y + h, x : x + w], (48, 48)).astype("float32") / 127.5 - 1
                face = face[None, :, :, None]
                probabilities = np.mean([network.predict(face, verbose=0)[0] for network in networks], axis=0)
                label = EMOTIONS[probabilities.argmax()]
                for i, (emotion, probability) in enumerate(zip(EMOTIONS, probabilities, strict=True)):
                    cv2.rectangle(bars, (7, i * 35 + 5), (int(probability * 300), i * 35 + 35), red, -1)
                    cv2.putText(bars, f"{emotion}: {probability:.2%}", (10, i * 35 + 23), *font, white, 2)
                cv2.putText(frame, label, (x, y - 10), *font, red, 2)
                cv2.rectangle(frame, (x, y), (x + w, y + h), red, 2)
                rows.writerow([number, x, y, w, h, label, *probabilities])
            number += 1


def measure_face(folder: Path, args: argparse.Namespace) -> Result:
    """One face through mini_XCEPTION."""
    share = 0.1 if args.quick else 1.0
    predict, multiply_adds = call(folder, time_predict, MODEL, share).value
    ours, alone, peak = call(folder, time_our_face, MODEL, share, **ONE_THREAD).value
    floor = 2 * multiply_adds / peak
    note = (
        "plain is `model.predict` of a face that is ready, (1, 48, 48, 1); ours begins with the frame and the box: "
        f"crop, resize, scale; the floor is {floor * 1000:.2g} ms, for {multiply_adds / 1e6:.1f} million multiply-adds "
        f"at the {peak / 1e9:.0f} GFLOP/s that one core reaches in a float32 matrix product"
    )
    return note, [
        ("one face, mini_XCEPTION", "ms", predict * 1000, ours * 1000, "ratio 80"),
        ("the network alone", "ms", predict * 1000, alone * 1000, ""),
        ("the same, as a multiple of its arithmetic's floor", "x", predict / floor, alone / floor, "3 x"),
    ]


def count_multiply_adds(model: Any) -> int:
    """Count the multiply-adds of a built `keras.Model` for one image, in Conv2D, SeparableConv2D and Dense layers."""
    total = 0
    for layer in model.layers:
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            if (kernel := getattr(layer, name, None)) is not None:  # each number is used once per pixel of the output
                total += math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
    return total


def time_predict(model: str, share: float) -> tuple[float, int]:
    """Return the median seconds of a `model.predict` of one face, and the network's multiply-adds."""
    import keras

    network = keras.models.load_model(model, compile=False)
    face = np.random.default_rng(0).uniform(-1, 1, (1, 48, 48, 1)).astype("float32")
    seconds = repeat(lambda: network.predict(face, verbose=0), number=1, repeat=round(100 * share))
    return median(seconds), count_multiply_adds(network)


def time_our_face(model: str, share: float) -> tuple[float, float, float]:
    """Return the median seconds from frame and box to probabilities, those of the network alone, and a core's FLOP/s.

    FLOP/s are the most floating-point operations per second in a float32 matrix product; with ONE_THREAD, of one core.
    """
    from ai_edge_litert.interpreter import Interpreter

    from models.checkpoint import compile_checkpoint
    from models.classifier import EmotionClassifier

    capture = DrawnFaceCapture()
    frame, boxes = capture.read()[1], np.array(capture.boxes)
    classify = EmotionClassifier([model])
    network = Interpreter(str(compile_checkpoint(model)), num_threads=1)
    network.allocate_tensors()
    left, right = np.random.default_rng(0).random((2, 1024, 1024), np.float32)
    whole = repeat(lambda: classify(frame, boxes), number=1, repeat=round(10_000 * share))
    alone = repeat(network.invoke, number=1, repeat=round(20_000 * share))
    product = repeat(lambda: left @ right, number=1, repeat=round(100 * share))
    return median(whole), median(alone), 2 * 1024**3 / min(product)


def measure_delay(folder: Path, args: argparse.Namespace) -> Result:
    """From a frame's arrival at the program to its handing over to the window."""
    middle, slow, shown, captured = call(folder, watch_live, MODEL, args.clip_s).value
    note = (
        f"a stand-in camera of 640x480 at {CAMERA_FPS} frames/s and a stand-in window; from the camera's `read` to "
        f"`cv2.imshow`; {shown:,} of {captured:,} frames shown"
    )
    return note, [
        ("from captured to shown, median", "ms", None, middle * 1000, "50 ms"),
        ("the same, 95th percentile", "ms", None, slow * 1000, ""),
    ]


class StampingCamera(DrawnFaceCapture):
    """A camera of 640x480: frames come at their times, each with its number in the lowest rows."""

    def __init__(self):
        super().__init__(CAMERA_FPS)
        frames = [DrawnFaceCapture.read(self)[1] for _ in range(2 * CAMERA_FPS)]
        self.images = frames + frames[::-1]  # back and forth: no face jumps
        self.started, self.number, self.captured_at = None, 0, {}

    def read(self) -> tuple[bool, np.ndarray]:
        """Wait for the next frame, as a camera does; frames whose time has passed are lost."""
        self.started = self.started or time.perf_counter()
        self.number = max(self.number + 1, int((time.perf_counter() - self.started) * CAMERA_FPS))
        image = self.images[self.number % len(self.images)].copy()
        image[-2:, 312:328] = (self.number & 255, self.number >> 8, 0)
        time.sleep(max(0.0, self.started + self.number / CAMERA_FPS - time.perf_counter()))
        self.captured_at[self.number] = time.perf_counter()
        return True, image

    @staticmethod
    def number_of(image: np.ndarray) -> int:
        """Return the number in a frame, also after the frame was drawn on."""
        low, high, _ = image[-1, 320].tolist()
        return low + 256 * high


def watch_live(model: str, seconds: float) -> tuple[float, float, int, int]:
    """Run the live script's `main` on a stand-in camera, between stand-ins for OpenCV's window functions.

    Returns:
        Median delay in seconds, 95th percentile, frames shown, frames captured; all without the first half second.
    """
    camera, shown_at = StampingCamera(), {}

    def wait(milliseconds=0):
        time.sleep(milliseconds / 1000)
        return ord("q") if camera.number >= seconds * CAMERA_FPS else -1

    for name in ("namedWindow", "resizeWindow", "setMouseCallback", "destroyAllWindows"):
        setattr(cv2, name, lambda *_: None)
    cv2.VideoCapture, cv2.waitKeyEx, cv2.getWindowProperty = lambda *_: camera, wait, lambda *_: 1.0
    cv2.imshow = lambda _, image: shown_at.setdefault(camera.number_of(image), time.perf_counter())
    import real_time_emotion_recognition as live  # after the stand-ins: a default of `Live` is cv2.VideoCapture
    from recognition import window

    window.has_display = lambda: True
    if status := live.main(["--source", "0", "--model", model]):
        raise RuntimeError(f"the live script ended with status {status}")
    captured = {number: at for number, at in camera.captured_at.items() if number >= CAMERA_FPS // 2}
    delays = [shown_at[number] - at for number, at in captured.items() if number in shown_at]
    return *np.percentile(delays, (50, 95)).tolist(), len(delays), len(captured)


SECTIONS = {
    "csv": measure_csv,
    "training": measure_training,
    "stream": measure_stream,
    "hosts": measure_hosts,
    "start": measure_start,
    "face": measure_face,
    "video": measure_video,
    "ensemble": partial(
        measure_video,
        what="1280x720, five faces, five networks",
        bar="30 frames/s",
        plain_frames=10,
        models=[MODEL.with_stem(network) for network in NETWORKS],
        size=(1280, 720),
        people=5,
    ),
    "memory": measure_memory,
    "delay": measure_delay,
}

if __name__ == "__main__":
    sys.exit(exit_status(main))
