"""Measure the plain way of doing each thing beside this project's way, on this machine, and print a Markdown table.

    python benchmark.py                                           # everything, about five minutes
    python benchmark.py --only start memory                       # some sections
    python benchmark.py --only csv --dataset fer2013/fer2013.csv  # on FER2013 itself
    python benchmark.py --only training stream hosts              # a quarter of an hour more; hosts: with JAX
    python benchmark.py --json output/benchmark.json

The plain way is that of the small programs this field is known by: pandas and `int()` for every pixel; Keras inside the
live program, faces sought at full detail in frames 300 pixels wide, and a `model.predict` for every face.  Both ways
read the same clips, of drawn faces, and each runs in a process of its own.  The figures are medians; a ratio says how
many times better ours is, a bar what we hold ourselves to.  Nothing else should be running.
"""

import contextlib
import math
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from csv import writer as csv_writer
from importlib import metadata, util
from json import dumps, loads
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np

from command_line import Parser, UserError, exit_status, replacing
from load_and_process import CSV_SUFFIXES, SPLITS, find_source, load_fer2013_data

# ------------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

# and, to be asked for: training, stream, hosts
only = ("csv", "start", "face", "video", "ensemble", "memory", "delay")  # sections to measure
dataset = None                 # FER2013's CSV, also compressed; None: a generated one of `csv_rows` faces
json = None                    # a file for the figures
quick = False                  # once, on clips of a second: to see that it works
repetitions = 3                # of which the median counts
clip_s = 10                    # seconds of video, at 25 frames/s
csv_rows = 2000                # faces
training_images = 5_000        # generated ones in a folder; four times as many for "stream", a quarter for "hosts"
# fmt: on
# ------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "mini_XCEPTION.hdf5"
CLIP_FPS, CAMERA_FPS = 25, 30
PACKAGES = ("numpy", "opencv-python", "tensorflow", "keras", "ai-edge-litert", "pandas")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")  # of NumPy
# A small process between us and what is measured: Linux counts the memory of who starts a program as the program's.
METER = """\
import subprocess, sys, time
started = time.perf_counter()
status = subprocess.call(sys.argv[1:])
seconds = time.perf_counter() - started
try:
    from resource import RUSAGE_CHILDREN, getrusage
    peak_mb = getrusage(RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
except ImportError:  # Windows
    peak_mb = float("nan")
print(seconds, peak_mb)
sys.exit(status)
"""
CALL = "import benchmark, json, sys; print(json.dumps(getattr(benchmark, sys.argv[1])(*json.loads(sys.argv[2]))))"


def parse_args(argv: Sequence[str] | None = None):
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Measure the plain way of doing each thing beside this project's way.")
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=only, metavar="SECTION", help=f"of {' '.join(SECTIONS)}")
    add("--dataset", default=dataset, metavar="PATH", help="FER2013's CSV (default: a generated one)")
    add("--json", type=Path, default=json, metavar="FILE", help="write the figures for machines")
    add("--quick", action="store_true", default=quick, help="once, on clips of a second: to see that it works")
    args = parser.parse_args(argv)
    args.repetitions, args.clip_s = (1, 1) if args.quick else (repetitions, clip_s)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    sections = [section for section in SECTIONS if section in args.only]
    if args.dataset is not None:
        args.dataset = find_source(args.dataset).resolve()
        if not args.dataset.name.lower().endswith(CSV_SUFFIXES):
            raise UserError(f"--dataset names FER2013's CSV here; found {args.dataset}: name the file")
    if set(sections) - {"csv", "delay"} and not util.find_spec("tensorflow"):
        raise UserError("the plain ways need TensorFlow; found none: pip install -r requirements.txt")
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(replacing(args.json)) if args.json else None  # now, not after minutes
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="benchmark-"))).resolve()
        figures = []
        for section in sections:
            print(f"{section} ...", file=sys.stderr, flush=True)
            figures += SECTIONS[section](folder, args)
        machine = describe_machine()
        print(format_report(machine, figures))
        if report:
            rows = [figure._asdict() | {"ratio": figure.ratio} for figure in figures]
            report.write_text(dumps({"machine": machine, "figures": rows}, indent=2) + "\n", encoding="utf-8")
    return 0


# ---------------------------------------------------------------------------------------------------- the table
class Figure(NamedTuple):
    """A line of the table."""

    section: str
    figure: str
    unit: str  # of both; "frames/s", "faces/s": more is better, else less is
    plain: float | None  # None: there is no plain way, or it can't be measured here
    ours: float | None
    bar: str = ""
    note: str = ""  # how it was measured

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.plain is None or self.ours is None:
            return None
        return self.ours / self.plain if self.unit.endswith("/s") else self.plain / self.ours


def format_report(machine: dict[str, str], figures: Sequence[Figure]) -> str:
    """The machine, the table and the notes below it, as Markdown."""

    def number(value, unit=""):
        return "–" if value is None else f"{value:,.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"

    lines = [f"{name}: {value}  " for name, value in machine.items()]
    lines += ["", "| figure | plain | ours | ratio | bar |", "|---|---:|---:|---:|---|"]
    for figure in figures:
        unit = f" {figure.unit}"
        values = number(figure.plain, unit), number(figure.ours, unit), number(figure.ratio)
        lines.append(f"| {' | '.join((figure.figure, *values, figure.bar))} |")
    notes = [f"- {figure.section}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, "", *notes])


def describe_machine() -> dict[str, str]:
    """Processor, cores, system and versions."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": f"{processor}, {cores} cores, {platform.platform(terse=True)}",
        "software": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


# ---------------------------------------------------------------------------------------------------- processes
class Run(NamedTuple):
    """What a process took."""

    seconds: float  # from its start to its end
    peak_mb: float | None  # resident memory, in 1e6 bytes; None on Windows


def measure(command: Sequence[str | Path], folder: Path) -> Run:
    """Run a command from the project's folder.

    Raises:
        RuntimeError: it failed; with all that it told.
    """
    told = _run([sys.executable, "-I", "-S", "-c", METER, *command], folder)
    seconds, peak_mb = (float(word) for word in told.splitlines()[-1].split())
    return Run(seconds, None if math.isnan(peak_mb) else peak_mb)


def call(function, *arguments, folder: Path, **environment):
    """What a function of this file returns when a new process calls it; all of it must fit into JSON."""
    return loads(_run(_calling(function, *arguments), folder, **environment).splitlines()[-1])


def _calling(function, *arguments):
    """The command that calls a function of this file."""
    return [sys.executable, "-c", CALL, function.__name__, dumps(arguments, default=str)]


def _run(command, folder, **environment):
    """What a command prints.  It keeps what it compiles in our folder."""
    ours = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "EMOTION_CACHE": str(folder / "cache")}
    environment = os.environ | ours | environment
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command[-3:]))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


# ---------------------------------------------------------------------------------------------------- csv
def measure_csv(folder: Path, args) -> list[Figure]:
    """Reading FER2013's CSV."""
    if args.dataset is None:
        path, what = write_csv(folder / "generated.csv", csv_rows), f"{csv_rows:,} generated faces"
    else:
        path, what = folder / args.dataset.name, f"FER2013's {args.dataset.name}"
        try:  # our cache comes to lie beside the link, and the user's own is neither used nor replaced
            path.symlink_to(args.dataset)
        except OSError:  # Windows asks for a privilege
            shutil.copyfile(args.dataset, path)
    plain = median(call(time_plain_csv, path, folder=folder) for _ in range(args.repetitions))
    first, again = np.median([call(time_our_csv, path, folder=folder) for _ in range(args.repetitions)], axis=0)
    note = "plain is `pandas.read_csv` and `int()` for every pixel; imports are not counted"
    return [
        Figure("csv", f"reading a CSV of {what}, first time", "s", plain, float(first), "", note),
        Figure("csv", "the same, again (from our cache)", "s", plain, float(again)),
    ]


def write_csv(path: Path, rows: int) -> Path:
    """Write a CSV like FER2013's, of random pixels."""
    rng = np.random.default_rng(0)
    faces, emotions = rng.integers(256, size=(rows, 48 * 48)), rng.integers(7, size=rows)
    with path.open("w", newline="") as file:
        table = csv_writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        for index, (face, emotion) in enumerate(zip(faces.tolist(), emotions, strict=True)):
            table.writerow([emotion, " ".join(map(str, face)), SPLITS[index % 3]])
    return path


def measure_training(folder: Path, args) -> list[Figure]:
    """Training each network: in float32, and in the precision that the script chooses."""
    from models.cnn import NETWORKS

    images = write_images(folder / "images", 500 if args.quick else training_images)
    figures = []
    for network in NETWORKS:
        rates = [
            call(time_training, images, folder, False, network, precision, folder=folder)[1]
            for precision in ("float32", "auto")
        ]
        figures.append(Figure("training", f"training {network}", "faces/s", *rates))
    return [figures[0]._replace(note="plain: in float32, ours: as the script chooses; the second epoch"), *figures[1:]]


def measure_stream(folder: Path, args) -> list[Figure]:
    """Training on a folder of images: from memory, and from the disk."""
    count = 500 if args.quick else 4 * training_images
    images = write_images(folder / "streamed", count)
    runs = {mapped: [] for mapped in (False, True)}
    read_s, *_ = call(time_training, images, folder, True, folder=folder)  # which decodes the images into the cache
    for _ in range(args.repetitions):
        for mapped, taken in runs.items():
            taken.append(call(time_training, images, folder, mapped, folder=folder)[1:])
    (inside, inside_mb), (streamed, streamed_mb) = (np.median(taken, axis=0) for taken in runs.values())
    what = f"training tiny_XCEPTION on {count:,} images"
    note = f"plain: from memory, ours: from the cache's file; decoding the images once took {read_s:.0f} s before that"
    return [
        Figure("stream", what, "faces/s", float(inside), float(streamed), "ratio 0.9", note),
        Figure("stream", "resident memory meanwhile", "MB", float(inside_mb), float(streamed_mb)),
    ]


def measure_hosts(folder: Path, args) -> list[Figure]:
    """Training on two hosts: two processes of this machine, over its loopback."""
    if not util.find_spec("jax"):
        raise UserError('several hosts train on JAX; found none: pip install "jax>=0.8,<1"')
    from models.cnn import NETWORKS

    images = write_images(folder / "images_of_hosts", 500 if args.quick else training_images // 4)

    def run(function, network, **environment):
        # One thread that computes.  Tied to one core, it would wait for what the exchange does on that core.
        arguments = (images, folder, network) if function is train_briefly else (images, folder, False, network)
        return call(function, *arguments, folder=folder, KERAS_BACKEND="jax", PJRT_NPROC="1", **environment)

    figures = []
    for network in NETWORKS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            hosts = f"127.0.0.1:{free.getsockname()[1]},127.0.0.1"
        _, one, _ = run(time_training, network)
        places = [{"EMOTION_HOSTS": hosts, "JOB_COMPLETION_INDEX": str(index)} for index in range(2)]
        with ThreadPoolExecutor() as threads:
            first = threads.submit(run, time_training, network, **places[0])
            threads.submit(run, train_briefly, network, **places[1]).result()
        _, two, _ = first.result()
        figures.append(Figure("hosts", f"training {network}", "faces/s", one, two))
    note = "plain: one process, ours: two, half of each batch in each; a thread each, JAX, the second epoch"
    return [figures[0]._replace(note=note), *figures[1:]]


def write_images(folder: Path, count: int) -> Path:
    """Write a data set's folder of PNGs, 48x48, of blurred noise, which compresses as faces do."""
    rng = np.random.default_rng(0)
    for emotion in ("happy", "sad", "neutral"):
        (folder / "train" / emotion).mkdir(parents=True)
    for number in range(count):
        noise = rng.integers(256, size=(12, 12), dtype=np.uint8)
        emotion = ("happy", "sad", "neutral")[number % 3]
        path = folder / "train" / emotion / f"{number:06}.png"
        path.write_bytes(cv2.imencode(".png", cv2.resize(noise, (48, 48)), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
    return folder


def time_training(
    images: str, folder: str, mapped: bool, network: str = "tiny_XCEPTION", precision: str = "auto"
) -> tuple[float, float, float]:
    """Seconds to load a folder of images, faces/s of the second epoch, and the process's peak memory in 1e6 bytes."""
    from csv import DictReader

    import load_and_process

    load_and_process.IN_MEMORY = 0 if mapped else math.inf
    started = time.perf_counter()
    load_fer2013_data(images)
    loaded = time.perf_counter() - started
    train_briefly(images, folder, network, precision)
    with open(Path(folder, "trained", f"{network}.log.csv"), newline="") as file:
        *_, last = DictReader(file)
    count = len(list(Path(images).glob("train/*/*.png")))
    try:
        from resource import RUSAGE_SELF, getrusage

        peak_mb = getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    except ImportError:  # Windows
        peak_mb = float("nan")
    return loaded, 0.9 * count / float(last["seconds"]), peak_mb


def train_briefly(images: str, folder: str, network: str, precision: str = "auto") -> None:
    """Train for two epochs."""
    import train_emotion_classifier

    arguments = ["--dataset", images, "--network", network, "--epochs", "2", "--precision", precision]
    if status := train_emotion_classifier.main([*arguments, "--output-dir", f"{folder}/trained"]):
        raise RuntimeError(f"training ended with status {status}")


def read_plain_csv(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: faces float32 (n, 48, 48, 1) and one-hot emotions (n, 7), in the order of the rows."""
    import pandas as pd

    table = pd.read_csv(path)
    pixels = next(table[name] for name in table if name.strip() == "pixels")
    faces = []
    for row in pixels:
        face = np.array([int(pixel) for pixel in row.split(" ")]).reshape(48, 48)
        faces.append(cv2.resize(face.astype("uint8"), (48, 48)).astype("float32"))
    return np.expand_dims(np.asarray(faces), -1), pd.get_dummies(table["emotion"]).to_numpy()


def time_plain_csv(path: str) -> float:
    """Seconds of `read_plain_csv`."""
    import pandas  # noqa: F401 - its import is not what is measured

    started = time.perf_counter()
    read_plain_csv(path)
    return time.perf_counter() - started


def time_our_csv(path: str) -> tuple[float, float]:
    """Seconds of reading without and with the cache."""
    Path(f"{path}.cache.npz").unlink(missing_ok=True)
    started = time.perf_counter()
    load_fer2013_data(path)
    first = time.perf_counter()
    load_fer2013_data(path)
    return first - started, time.perf_counter() - first


# ---------------------------------------------------------------------------------------------------- live
def plain_live(clip: str, table: str, models: Sequence[str], limit: int) -> None:
    """The plain live program: every face of the first `limit` frames, by every model, drawn and written to a CSV."""
    import imutils
    import keras

    networks = [keras.models.load_model(model, compile=False) for model in models]
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    emotions = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    video = cv2.VideoCapture(clip)
    with open(table, "w", newline="") as file:
        rows = csv_writer(file)
        rows.writerow(["frame", "x", "y", "width", "height", "emotion", *emotions])
        for number in range(limit):
            grabbed, frame = video.read()
            if not grabbed:
                break
            frame = imutils.resize(frame, width=300)
            grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            bars = np.zeros((250, 300, 3), np.uint8)
            for x, y, w, h in cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(30, 30)):
                face = cv2.resize(grey[y : y + h, x : x + w], (48, 48)).astype("float32") / 127.5 - 1
                face = face[None, :, :, None]
                shares = np.mean([network.predict(face, verbose=0)[0] for network in networks], axis=0)
                label = emotions[shares.argmax()]
                for i, (emotion, share) in enumerate(zip(emotions, shares, strict=True)):
                    cv2.rectangle(bars, (7, i * 35 + 5), (int(share * 300), i * 35 + 35), (0, 0, 255), -1)
                    text = f"{emotion}: {share:.2%}"
                    cv2.putText(bars, text, (10, i * 35 + 23), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 2)
                cv2.putText(frame, label, (x, y - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 255), 2)
                cv2.rectangle(frame, (x, y), (x + w, y + h), (0, 0, 255), 2)
                rows.writerow([number, x, y, w, h, label, *shares])
    video.release()


def draw_clip(path: Path, frames: int, size: tuple[int, int] = (640, 480), people: int = 1) -> Path:
    """Write a video of moving drawn faces; one that is there already is kept."""
    from drawn_faces import DEFAULT_IDENTITY, DrawnFaceCapture, Identity

    if path.exists():
        return path
    rng = np.random.default_rng(0)
    identities = [DEFAULT_IDENTITY] if people == 1 else [Identity.random(rng) for _ in range(people)]
    capture = DrawnFaceCapture(CLIP_FPS, size, frames=frames, identities=identities)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), CLIP_FPS, size)
    if not video.isOpened():
        raise OSError(f"no video can be written to {path}: OpenCV lacks the mp4v codec")
    while (frame := capture.read()[1]) is not None:
        video.write(frame)
    video.release()
    return path


class Loops:
    """The plain and our live program on the same clips, with the same networks."""

    def __init__(self, folder: Path, frames: int, models=(MODEL,), size=(640, 480), people=1):
        self.folder, self.frames, self.models = folder, frames, models
        name = f"{size[1]}-{people}"
        self.first = draw_clip(folder / f"{name}-1.mp4", 1, size, people)
        self.clip = draw_clip(folder / f"{name}-{frames}.mp4", frames, size, people)
        self.faces_per_frame = {}  # of the last run of either: a frame without a face is a cheap one
        self.ours(1)  # compiles the networks, where nobody did so before

    def plain(self, frames: int) -> Run:
        """The plain program on so many frames."""
        table, clip = self.folder / "plain.csv", self.first if frames == 1 else self.clip
        run = measure(_calling(plain_live, clip, table, self.models, frames), self.folder)
        return self._checked("plain", table, frames, run)

    def ours(self, frames: int) -> Run:
        """Our script on the first frame or on the whole clip."""
        table, clip = self.folder / "ours.csv", self.first if frames == 1 else self.clip
        script = [sys.executable, ROOT / "real_time_emotion_recognition.py", "--headless", "--source", clip]
        run = measure([*script, "--csv", table, "--model", *self.models], self.folder)
        return self._checked("ours", table, frames, run)

    def _checked(self, way, table, frames, run):
        with table.open() as file:
            faces = sum(1 for _ in file) - 1
        if not faces:
            raise RuntimeError(f"{way}: no face was found in {frames} frames, so there is nothing to measure")
        self.faces_per_frame[way] = faces / frames
        return run

    def rates(self, plain_frames: int, repetitions: int) -> tuple[float, float]:
        """Frames per second of both, without their start: what frames beyond the first one take."""
        rates = []
        for run, frames in ((self.plain, plain_frames), (self.ours, self.frames)):
            first, all_ = ([run(n).seconds for _ in range(repetitions)] for n in (1, frames))
            rates.append((frames - 1) / (median(all_) - median(first)))
        return tuple(rates)


def measure_start(folder: Path, args) -> list[Figure]:
    """From the start of the process to the first labelled frame."""
    loops = Loops(folder, args.clip_s * CLIP_FPS)
    loops.plain(1)  # brings its files into the system's memory; ours are there
    runs = [(loops.plain(1).seconds, loops.ours(1).seconds) for _ in range(args.repetitions)]
    plain, ours = (median(times) for times in zip(*runs, strict=True))
    note = "a whole process, start to end, on a clip of one frame; programs, networks and clip were read before"
    return [Figure("start", "from start to first labelled frame", "s", plain, ours, "1.0 s; ratio 6", note)]


def measure_video(folder: Path, args) -> list[Figure]:
    """Frames per second on an ordinary clip."""
    loops = Loops(folder, args.clip_s * CLIP_FPS)
    plain, ours = loops.rates(min(loops.frames, 100), args.repetitions)
    note = f"read from mp4, faces found, named, drawn and written to a CSV, no window; {_faces(loops)}"
    return [Figure("video", "640x480, one face, mini_XCEPTION", "frames/s", plain, ours, "ratio 6", note)]


def measure_ensemble(folder: Path, args) -> list[Figure]:
    """Frames per second on a large clip with five faces and five networks."""
    networks = call(build_networks, folder, folder=folder)
    loops = Loops(folder, args.clip_s * CLIP_FPS, list(networks.values()), (1280, 720), 5)
    plain, ours = loops.rates(min(loops.frames, 10), args.repetitions)
    random = [name for name, path in networks.items() if Path(path).parent == folder]
    note = f"as video; {_faces(loops)}"
    if random:
        note += f"; random weights in {', '.join(random)}: same arithmetic"
    return [Figure("ensemble", "1280x720, five faces, five networks", "frames/s", plain, ours, "30 frames/s", note)]


def _faces(loops):
    return "faces found per frame: {plain:.3g} plain, {ours:.3g} ours".format(**loops.faces_per_frame)


def build_networks(folder: str) -> dict[str, str]:
    """The checkpoint of each of the five networks; where none is shipped, one of random weights."""
    import keras

    from load_and_process import EMOTIONS
    from models.checkpoint import save_checkpoint
    from models.cnn import NETWORKS

    keras.utils.set_random_seed(0)
    paths = {}
    for name, build in NETWORKS.items():
        path = MODEL.with_stem(name)
        if not path.is_file():
            path = Path(folder) / path.name
            save_checkpoint(build((48, 48, 1), len(EMOTIONS)), path, EMOTIONS)
        paths[name] = str(path)
    return paths


def measure_memory(folder: Path, args) -> list[Figure]:
    """The most resident memory on the way."""
    loops = Loops(folder, args.clip_s * CLIP_FPS)
    plain, ours = loops.plain(min(loops.frames, 100)).peak_mb, loops.ours(loops.frames).peak_mb
    note = "at its peak, on the clip of `video`" if ours else "this system does not tell"
    return [Figure("memory", "resident memory, live", "MB", plain, ours, "250 MB", note)]


# ---------------------------------------------------------------------------------------------------- one face
def measure_face(folder: Path, args) -> list[Figure]:
    """One face through mini_XCEPTION."""
    seconds = 0.3 if args.quick else 3.0
    predict, multiply_adds = call(time_predict, MODEL, seconds, folder=folder)
    ours, alone = call(time_our_face, MODEL, seconds, folder=folder)
    peak = call(measure_core, seconds, folder=folder, **dict.fromkeys(THREADS, "1"))
    floor = 2 * multiply_adds / peak
    note = (
        "plain is `model.predict` of a face that is ready, (1, 48, 48, 1); ours begins with the frame and the box: "
        f"crop, resize, scale; the floor is {floor * 1000:.2g} ms, for {multiply_adds / 1e6:.1f} million multiply-adds "
        f"at the {peak / 1e9:.0f} GFLOP/s that one core reaches in a float32 matrix product"
    )
    return [
        Figure("face", "one face, mini_XCEPTION", "ms", predict * 1000, ours * 1000, "ratio 80", note),
        Figure("face", "the network alone", "ms", predict * 1000, alone * 1000),
        Figure("face", "the same, as a multiple of its arithmetic's floor", "x", predict / floor, alone / floor, "3 x"),
    ]


def count_multiply_adds(model) -> int:
    """Multiply-adds of a network for one image, in Conv2D, SeparableConv2D and Dense layers.

    Each number in such a kernel is used once per place of the output.

    Args:
        model: a built `keras.Model`, channels last.
    """
    total = 0
    for layer in model.layers:
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            if (kernel := getattr(layer, name, None)) is not None:
                total += math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
    return total


def time_predict(model: str, seconds: float) -> tuple[float, int]:
    """(median seconds of a `model.predict` of one face, multiply-adds)."""
    import keras

    network = keras.models.load_model(model, compile=False)
    face = np.random.default_rng(0).uniform(-1, 1, (1, 48, 48, 1)).astype("float32")
    return _median_s(lambda: network.predict(face, verbose=0), seconds), count_multiply_adds(network)


def time_our_face(model: str, seconds: float) -> tuple[float, float]:
    """(median seconds from frame and box to probabilities, those of the network alone)."""
    from ai_edge_litert.interpreter import Interpreter

    from drawn_faces import DrawnFaceCapture
    from models.checkpoint import compile_checkpoint
    from models.classifier import EmotionClassifier

    capture = DrawnFaceCapture()
    frame, boxes = capture.read()[1], np.array(capture.boxes)
    classify = EmotionClassifier([model])
    network = Interpreter(str(compile_checkpoint(model)), num_threads=1)
    network.allocate_tensors()
    return _median_s(lambda: classify(frame, boxes), seconds), _median_s(network.invoke, seconds)


def measure_core(seconds: float) -> float:
    """The most floating-point operations per second in float32 matrix products; of one core, if held to a thread."""
    side = 1024
    left, right = np.random.default_rng(0).random((2, side, side), np.float32)
    return 2 * side**3 / min(_times(lambda: left @ right, seconds))


def _median_s(function, seconds):
    return median(_times(function, seconds))


def _times(function, seconds):
    """Seconds of each call, called again and again for that long after a few calls that don't count."""
    for _ in range(5):
        function()
    times, end = [], time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        function()
        times.append(time.perf_counter() - started)
    return times


# ---------------------------------------------------------------------------------------------------- delay
def measure_delay(folder: Path, args) -> list[Figure]:
    """From a frame's arrival at the program to its handing over to the window."""
    middle, slow, shown, captured = call(watch_live, MODEL, args.clip_s, folder=folder)
    note = (
        f"a stand-in camera of 640x480 at {CAMERA_FPS} frames/s and a stand-in window; from the camera's `read` to "
        f"`cv2.imshow`; {shown:,} of {captured:,} frames shown"
    )
    return [
        Figure("delay", "from captured to shown, median", "ms", None, middle * 1000, "50 ms", note),
        Figure("delay", "the same, 95th percentile", "ms", None, slow * 1000),
    ]


class StampingCamera:
    """Looks like cv2.VideoCapture of a camera: frames at their times, each with its number in the lowest rows."""

    def __init__(self, seconds: float):
        from drawn_faces import DrawnFaceCapture

        capture = DrawnFaceCapture(CAMERA_FPS, frames=2 * CAMERA_FPS)
        frames = [capture.read()[1] for _ in range(capture.frames)]
        self.frames = frames + frames[::-1]  # back and forth: no face jumps
        self.started, self.number, self.captured_at = None, 0, {}
        self.limit = round(seconds * CAMERA_FPS)

    def read(self):
        """Wait for the next frame, as a camera does."""
        self.started = self.started or time.perf_counter()
        late = int((time.perf_counter() - self.started) * CAMERA_FPS)
        self.number = max(self.number + 1, late)
        image = self.frames[self.number % len(self.frames)].copy()
        image[-2:, image.shape[1] // 2 - 8 : image.shape[1] // 2 + 8] = (self.number & 255, self.number >> 8, 0)
        time.sleep(max(0.0, self.started + self.number / CAMERA_FPS - time.perf_counter()))
        self.captured_at[self.number] = time.perf_counter()
        return True, image

    @staticmethod
    def number_of(image) -> int:
        """The number in a frame, also after it was drawn on."""
        low, high, _ = image[-1, image.shape[1] // 2].tolist()
        return low + 256 * high

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return True

    def get(self, prop):
        return 0.0

    def set(self, prop, value):
        return False

    def release(self):
        pass


def watch_live(model: str, seconds: float) -> tuple[float, float, int, int]:
    """Run the live script's `main` on a stand-in camera, between stand-ins for OpenCV's window functions.

    Returns:
        (median delay in seconds, 95th percentile, frames shown, frames captured), without the first half second.
    """
    camera, shown_at = StampingCamera(seconds), {}

    def show(title, image):
        shown_at.setdefault(camera.number_of(image), time.perf_counter())

    def wait(milliseconds=0):
        time.sleep(milliseconds / 1000)
        return ord("q") if camera.number >= camera.limit else -1

    stand_ins = {"imshow": show, "waitKey": wait, "waitKeyEx": wait, "getWindowProperty": lambda *_: 1.0}
    stand_ins |= {
        name: lambda *_: None for name in ("namedWindow", "resizeWindow", "setMouseCallback", "destroyAllWindows")
    }
    stand_ins["VideoCapture"] = lambda *_: camera
    for name, stand_in in stand_ins.items():
        setattr(cv2, name, stand_in)
    import real_time_emotion_recognition as live  # after that, since defaults are evaluated once

    live.has_display = lambda: True
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
    "ensemble": measure_ensemble,
    "memory": measure_memory,
    "delay": measure_delay,
}

if __name__ == "__main__":
    sys.exit(exit_status(main))
