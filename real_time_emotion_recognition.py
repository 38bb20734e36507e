"""Find the faces a camera sees and name the emotion each one shows, live.

    python real_time_emotion_recognition.py                      # the camera; a drawn face if there is none
    python real_time_emotion_recognition.py --source clip.mp4 --output annotated.mp4 --csv clip.csv
    python real_time_emotion_recognition.py --source photo.jpg --headless --output annotated.png
    python real_time_emotion_recognition.py --model mine.hdf5 models/mini_XCEPTION.hdf5     # averaged

q, Esc or closing the window ends it.  Images never leave the machine.  Nothing is stored unless asked for with --output
or --csv, or, where there is neither a display nor --headless, in output/, which it says.
"""

import contextlib
import math
import os
import re
import socket
import sys
import threading
import time
from collections import Counter
from csv import writer as csv_writer
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from imutils.video import FPS

from face_tracking import FaceDetector, Smoother, find_cascade
from load_and_process import Parser, exit_status, replacing
from models.classifier import EmotionClassifier

# ------------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

source = None                  # camera number, video, image, folder of images, stream URL or "drawn"; None: camera 0
model = [Path(__file__).resolve().parent / "models" / "mini_XCEPTION.hdf5"]  # one checkpoint, or several to average
cascade = "haarcascade_frontalface_default.xml"  # a path, or the name of a file in haarcascade_files/ or in OpenCV
output = None                  # annotated .mp4, .avi or .mkv (image: .png or .jpg; folder of images: a folder)
csv = None                     # a row per face per frame
headless = False               # open no window
# finding faces
detection_width = 320          # pixels; wider frames are reduced to this before looking for faces
still_detection_width = 1280   # the same for images, where there is time to look for small faces
scale_factor = 1.2             # step between the sizes looked for
min_neighbors = 5              # overlapping finds that make a face; more: fewer false faces, and fewer true ones
smallest_face = 0.1            # side of the smallest face, share of the frame's shorter side
# naming emotions
smoothing = 0.25               # time constant in seconds of each face's average over time; 0: none
# fmt: on
# ------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
PATIENCE = 5.0  # seconds without a new frame after which a camera counts as gone
# Okabe and Ito's colour-blind-safe palette, BGR
PALETTE = [(0, 94, 213), (115, 158, 0), (167, 121, 204), (66, 228, 240), (178, 114, 0), (0, 159, 230), (233, 180, 86)]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
TITLE = "Emotions (q ends)"


def parse_args(argv=None):
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Name the emotion of every face, live.")
    add = parser.add_argument
    add("--source", default=source, help="camera number, video, image, folder, stream URL or drawn (default: camera 0)")
    add("--model", type=Path, nargs="+", default=model, metavar="MODEL.hdf5", help="checkpoint; several are averaged")
    add("--cascade", default=cascade, metavar="XML", help="Haar cascade (default: %(default)s)")
    add(
        "--output",
        type=Path,
        default=output,
        metavar="FILE",
        help="write the annotated video or image, or folder of images",
    )
    add("--csv", type=Path, default=csv, metavar="FILE", help="write a row per face per frame")
    add("--headless", action="store_true", default=headless, help="open no window")
    add(
        "--smoothing",
        type=float,
        default=smoothing,
        metavar="SECONDS",
        help="time constant of each face's average over time, 0: none (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not 0 <= args.smoothing < math.inf:
        parser.error(f"argument --smoothing: must be 0 or more seconds; found {args.smoothing}")
    return args


def main(argv=None):
    args = parse_args(argv)
    # OpenCV and FFmpeg narrate every failed attempt; ours is the one line that counts
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    classify = EmotionClassifier(args.model)
    cascade_path = find_cascade(args.cascade)
    display = not args.headless and has_display()
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(open_source(args.source, endless=display))
        width = still_detection_width if frames.still else detection_width
        detect = FaceDetector(cascade_path, width, scale_factor, min_neighbors, smallest_face)
        if not (display or args.headless or args.output or args.csv):
            args.output, args.csv = default_outputs(frames)
            print(f"no display: writing {args.output} and {args.csv}", file=sys.stderr)
        refuse_overwriting(args.output, args.csv, [*frames.inputs, *args.model, cascade_path])
        records = []
        if args.csv:
            records.append(stack.enter_context(csv_recorder(args.csv, classify.emotions)))
        if args.output:
            records.append(stack.enter_context(recorder(args.output, frames)))
        window = stack.enter_context(Window()) if display else None
        summary, ended_by = Summary(classify.emotions), None
        try:
            run(frames, detect, classify, Smoother(args.smoothing), records, window, summary)
        except (KeyboardInterrupt, SourceLost) as error:
            if not summary.count:
                raise
            ended_by = error  # what was recorded until then is whole, and kept
    print(summary)
    for path in filter(None, (args.output, args.csv)):
        print(f"written: {path}")
    if ended_by:
        raise ended_by
    return 1 if frames.broken else 0


def run(frames, detect, classify, smooth, records, window, summary):
    """The loop: every frame is shown and recorded, with or without a face in it."""
    for frame in frames:
        boxes = detect(frame.image)
        probabilities = classify(frame.image, boxes)
        if frames.still:
            smooth.forget()
        faces = smooth(boxes, probabilities, frame.time_s)
        summary.add(faces)
        rate = f"{summary.rate:.0f} fps" if summary.rate and not frames.still else ""
        annotated = draw(frame.image, faces, classify.emotions, "  ".join(filter(None, (frames.note, rate))))
        for record in records:
            record(frame, annotated, faces)
        if frames.still:
            print(f"{frame.number} {frame.name}: {describe(faces, classify.emotions)}")
        if window and not window.show(annotated, frames.due(frame)):
            break


# ---------------------------------------------------------------------------------------------------- sources
class Frame(NamedTuple):
    """A picture and where it stands in its source."""

    number: int
    time_s: float
    image: np.ndarray  # uint8 (h, w, 3), BGR
    name: str  # of the file or camera it comes from


def open_source(source, endless=True):
    """Open a camera, video, image, folder of images, stream or the drawn face.

    Args:
        source: camera number, path, URL, "drawn", or None for camera 0 and the drawn face where there is none.
        endless: whether the drawn face goes on until it is closed, or ends after each expression was shown once.

    Returns:
        `Live`, `Video` or `Stills`: a context manager that iterates over `Frame`.  Its `name` is fit for a file name,
        `fps` is that of a recording, `note` is shown in the picture, `still` tells images without a time between
        them, `folder` a folder of them, `inputs` are the files it reads, `broken` counts what could not be read, and
        `due(frame)` is the monotonic time until which a frame should be shown.

    Raises:
        FileNotFoundError, ValueError: there is no such source, or it can't be read; one line.
    """
    if source is None:
        try:
            return Live(0)
        except ValueError:
            print(
                "no camera found: showing a drawn face (a drawing, no person) instead; --source takes a video, an "
                "image, a folder or a URL",
                file=sys.stderr,
            )
            source = "drawn"
    text = str(source)
    if not text:
        raise ValueError("a source is a camera number, a file, a folder, a URL or drawn; found an empty name")
    if text == "drawn":
        from drawn_faces import DrawnFaceCapture

        frames = Video(DrawnFaceCapture(frames=None if endless else 455), "drawn")  # 7 times 2.6 s at 25 frames/s
        frames.note = "a drawing, no person"
        return frames
    if text.isdecimal():
        return Live(int(text))
    if "://" in text:
        return Live(text)
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(f"a source is a camera number, a file, a folder, a URL or drawn; nothing at {text}")
    if path.is_dir():
        paths = sorted(child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise ValueError(f"a folder as source holds images ({' '.join(IMAGE_SUFFIXES)}); {path} has none")
        return Stills(paths, path, folder=True)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty: copy or download it again")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Stills([path], path)
    return Video(cv2.VideoCapture(text), path.stem, path)


class SourceLost(ValueError):
    """A camera or stream gave frames and then stopped."""


class _Source:
    """What all sources share; see `open_source`."""

    still, folder, broken, fps, inputs, note = False, False, 0, 30.0, (), ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Give the camera or file back."""

    def due(self, frame):
        """Monotonic time until which the frame should be shown; a live picture is always late."""
        return 0.0


class Live(_Source):
    """A camera or stream, read by a thread of its own: iterating gives the newest frame and never an old one."""

    def __init__(self, source, open_capture=cv2.VideoCapture, patience=PATIENCE):
        self.source, self.patience = source, patience
        self.label = f"camera {source}" if isinstance(source, int) else str(source)
        self.name = f"camera{source}" if isinstance(source, int) else "stream"
        self.capture = open_capture(source)
        if not self.capture.isOpened():
            self.capture.release()
            advice = (
                "check the address and the network"
                if isinstance(source, str)
                else "check that it is connected, that no other program uses it and that this one may (system "
                "settings, privacy, camera); other cameras have other numbers"
            )
            raise ValueError(f"{self.label} can't be opened: {advice}")
        self._fresh, self._frame, self._running = threading.Condition(), None, True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while self._running:
            grabbed, image = self.capture.read()
            if grabbed and image is not None:
                with self._fresh:
                    self._frame = image
                    self._fresh.notify()
            else:
                time.sleep(0.01)

    def __iter__(self):
        started, number = time.monotonic(), 0
        while True:
            with self._fresh:
                if not self._fresh.wait_for(lambda: self._frame is not None, self.patience):
                    raise SourceLost(
                        f"{self.label} stopped delivering after {number} frames: no other came for {self.patience:g} "
                        "seconds; check its cable or network and start again"
                    )
                image, self._frame = self._frame, None
            yield Frame(number, time.monotonic() - started, _as_bgr(image), self.label)
            number += 1

    def close(self):
        self._running = False
        self._thread.join(timeout=2)
        self.capture.release()


class Video(_Source):
    """A video file, or anything that reads like `cv2.VideoCapture`; every frame in turn, shown at its own pace."""

    def __init__(self, capture, name, path=None):
        self.capture, self.name, self.path = capture, name, path
        self.inputs = () if path is None else (path,)
        opened, self._first = capture.read() if capture.isOpened() else (False, None)
        if not opened:
            capture.release()
            raise ValueError(f"{path or name} is not a video that can be read: it is damaged, or of an unknown kind")
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 240 else 25.0  # some containers say 0, or 90,000
        self.frame_count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._started = None

    def __iter__(self):
        self._started = time.monotonic()
        number, image = 0, self._first
        while image is not None:
            yield Frame(number, number / self.fps, _as_bgr(image), self.name)
            number += 1
            image = self.capture.read()[1]
        if number < 0.9 * self.frame_count:  # the count in a file is an estimate
            self.broken += 1
            print(f"{self.path} ends after {number} of {self.frame_count} frames: it is damaged", file=sys.stderr)

    def due(self, frame):
        return self._started + (frame.number + 1) / self.fps

    def close(self):
        self.capture.release()


class Stills(_Source):
    """Images, one after the other; the unreadable ones of a folder are named and passed over."""

    still, fps = True, 1.0

    def __init__(self, paths, path, folder=False):
        self.paths, self.path, self.name, self.folder = paths, path, path.resolve().stem, folder
        self.inputs = (path, *paths)

    def __iter__(self):
        number = 0
        for path in self.paths:
            # imdecode, since imread can't open every path on Windows
            data = np.fromfile(path, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
            if image is None:
                fault = f"{path} is not an image that can be read: it is damaged, or of an unknown kind"
                if not self.folder:
                    raise ValueError(fault)
                self.broken += 1
                print(fault, file=sys.stderr)
                continue
            yield Frame(number, float(number), image, path.name)
            number += 1
        if not number:
            raise ValueError(f"none of the {len(self.paths)} images in {self.path} can be read")

    def due(self, frame):
        return math.inf if not self.folder else time.monotonic() + 1.0


def _as_bgr(image):
    """Frames of grey cameras as BGR."""
    return image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


# ---------------------------------------------------------------------------------------------------- picture
def draw(image, faces, emotions, note=""):
    """Boxes, labels and, for the largest face, a bar per emotion.

    Args:
        image: uint8 (h, w, 3), BGR.
        faces: list of `Face`.
        emotions: labels in the order of their probabilities.
        note: what to write into the lower left corner.

    Returns:
        A new picture of the same size.
    """
    image = image.copy()
    height, width = image.shape[:2]
    unit = max(0.4, min(height / 480, width / 640))  # 1 at 640x480
    line = _text_size("", unit)[1]
    if faces and min(height, width) >= 160:
        largest = max(faces, key=lambda face: face.box[2] * face.box[3])
        labelled = [(x, y - line, w, h + line) for x, y, w, h in (face.box for face in faces)]
        _bars(image, largest, labelled, emotions, unit)
    for face in faces:
        x, y, w, h = face.box
        best = int(np.argmax(face.probabilities))
        colour = PALETTE[best % len(PALETTE)]
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, max(1, round(2 * unit)), cv2.LINE_AA)
        label = f"{emotions[best]} {face.probabilities[best]:.0%}"
        _tag(image, label, (x, y - line if y >= line else y + h), colour, unit)
    if note:
        _tag(image, note, (0, height), BLACK, 0.8 * unit)
    return image


def _bars(image, face, boxes, emotions, unit):
    """A panel with the probabilities of a face, in the corner that hides least of the faces."""
    height, width = image.shape[:2]
    text = 0.8 * unit
    widest, line = np.max([_text_size(emotion, text) for emotion in emotions], axis=0)
    bar, margin = round(90 * unit), round(8 * unit)
    w, h = widest + bar + _text_size("100%", text)[0] + 2 * margin, line * len(emotions) + margin
    right, bottom = width - w - margin, height - h - margin
    corners = [(margin, margin), (right, margin), (right, bottom)]  # the fourth has the note
    left, top = min(corners, key=lambda corner: sum(_overlap((*corner, w, h), box) for box in boxes))
    left, top = max(0, left), max(0, top)
    panel = image[top : top + h, left : left + w]
    panel[:] = panel // 3
    colour = PALETTE[int(np.argmax(face.probabilities)) % len(PALETTE)]  # whose it is: that of the face's box
    cv2.rectangle(image, (left, top), (left + w, top + h), colour, max(1, round(unit)), cv2.LINE_AA)
    for i, (emotion, probability) in enumerate(zip(emotions, face.probabilities, strict=True)):
        y = top + margin // 2 + i * line
        x = left + margin + widest
        _write(image, emotion, (left + margin // 2, y), WHITE, text)
        cv2.rectangle(image, (x, y + line // 4), (x + bar, y + line - line // 4), (90, 90, 90), -1)
        end = x + round(bar * float(probability))
        cv2.rectangle(image, (x, y + line // 4), (end, y + line - line // 4), PALETTE[i % len(PALETTE)], -1)
        _write(image, f"{probability:.0%}", (x + bar + margin // 2, y), WHITE, text)


def _overlap(box, other):
    """Area that two boxes share, in pixels."""
    (x, y, w, h), (u, v, s, t) = box, other
    return max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))


def _text_size(text, unit):
    """(width, height) in pixels of a line of text with its margins."""
    (w, h), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55 * unit, max(1, round(1.1 * unit)))
    return round(w + 8 * unit), round(h + baseline + 6 * unit)


def _write(image, text, corner, colour, unit):
    """A line of text with its margins below and right of a corner."""
    w, h = _text_size(text, unit)
    at = (round(corner[0] + 4 * unit), round(corner[1] + 0.72 * h))
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55 * unit, colour, max(1, round(1.1 * unit)), cv2.LINE_AA)


def _tag(image, text, corner, colour, unit):
    """A line of text on a filled box, kept inside the picture."""
    w, h = _text_size(text, unit)
    x = max(0, min(corner[0], image.shape[1] - w))
    y = max(0, min(corner[1], image.shape[0] - h))
    cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 120
    _write(image, text, (x, y), BLACK if bright else WHITE, unit)


def has_display():
    """Whether a window can be opened; asked first, since OpenCV ends the process when it can't reach a display."""
    if re.search(r"GUI:\s*NONE", cv2.getBuildInformation()):  # opencv-python-headless
        return False
    if not sys.platform.startswith("linux") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    host, _, number = os.environ.get("DISPLAY", "").rpartition(":")
    number = number.split(".")[0]
    if not number.isdecimal():
        return False
    if host in ("", "unix"):
        addresses = [(socket.AF_UNIX, f"{prefix}/tmp/.X11-unix/X{number}") for prefix in ("", "\0")]
    else:
        addresses = [(socket.AF_INET, (host, 6000 + int(number)))]
    for family, address in addresses:
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            probe.connect(address)
            return True
    return False


class Window:
    """The window on the screen; q, Esc or its close button end it."""

    def __enter__(self):
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self.sized = False
        return self

    def __exit__(self, *error):
        with contextlib.suppress(cv2.error):
            cv2.destroyAllWindows()

    def show(self, image, due):
        """Show a picture until the monotonic time `due`, at least for a moment; False once the user has ended it."""
        if not self.sized:
            scale = min(1.0, 1280 / image.shape[1], 800 / image.shape[0])
            cv2.resizeWindow(TITLE, round(image.shape[1] * scale), round(image.shape[0] * scale))
            self.sized = True
        cv2.imshow(TITLE, image)
        while True:
            wait_s = min(0.05, due - time.monotonic())
            if cv2.waitKey(max(1, round(wait_s * 1000))) & 0xFF in (ord("q"), 27):
                return False
            try:
                if cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                    return False
            except cv2.error:  # what some window systems answer for a closed one
                return False
            if time.monotonic() >= due:
                return True


# ---------------------------------------------------------------------------------------------------- records
def describe(faces, emotions):
    """What the faces of a picture show, as a line."""
    best = [int(np.argmax(face.probabilities)) for face in faces]
    named = (f"{emotions[i]} {face.probabilities[i]:.0%}" for i, face in zip(best, faces, strict=True))
    return ", ".join(named) or "no face found"


def default_outputs(frames):
    """Where picture and CSV go when nobody said: output/NAME.mp4, .png or a folder, and output/NAME.csv."""
    folder = ROOT / "output"
    kind = ("" if frames.folder else ".png") if frames.still else ".mp4"
    return folder / f"{frames.name}{kind}", folder / f"{frames.name}.csv"


def refuse_overwriting(output, csv, inputs):
    """ValueError where --output or --csv names a file that is read, or both name the same."""
    read = {Path(path).resolve() for path in inputs}
    for flag, path in (("--output", output), ("--csv", csv)):
        if path and path.resolve() in read:
            raise ValueError(f"{flag} would overwrite {path}, which is read here; give another name")
    if output and csv and output.resolve() == csv.resolve():
        raise ValueError(f"--output and --csv are two files; found {output} for both: give one another name")


@contextlib.contextmanager
def csv_recorder(path, emotions):
    """Gives a function that writes a row per face of a frame."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv_writer(file)
        table.writerow(["frame", "time_s", "face", "x", "y", "width", "height", "emotion", *emotions])

        def record(frame, annotated, faces):
            for face in faces:
                emotion = emotions[int(np.argmax(face.probabilities))]
                shares = (f"{probability:.4f}" for probability in face.probabilities)
                table.writerow([frame.number, f"{frame.time_s:.3f}", face.identity, *face.box, emotion, *shares])

        yield record


@contextlib.contextmanager
def video_recorder(path, fps):
    """Gives a function that appends the annotated frame to a video."""
    with replacing(path) as partial:
        writer = cv2.VideoWriter()
        size = None  # (width, height) of the first frame

        def record(frame, annotated, faces):
            nonlocal size
            if size is None:
                size = annotated.shape[1::-1]
                codec = cv2.VideoWriter_fourcc(*VIDEO_CODECS[path.suffix.lower()])
                if not writer.open(str(partial), codec, fps, size):
                    raise OSError(f"{path} can't be written as a video of {size[0]}x{size[1]} pixels; try .avi")
            writer.write(annotated if annotated.shape[1::-1] == size else cv2.resize(annotated, size))

        try:
            yield record
        finally:
            writer.release()
        written = cv2.VideoCapture(str(partial))  # the writer itself keeps quiet about a full disk
        readable = written.read()[0]
        written.release()
        if not readable:
            raise OSError(f"{path} can't be written: is the disk full?")


@contextlib.contextmanager
def image_recorder(path, folder=False):
    """Gives a function that writes each annotated image: to the path, or under its own name into a folder."""

    def record(frame, annotated, faces):
        target = path / frame.name if folder else path
        content = cv2.imencode(target.suffix, annotated)[1]
        with replacing(target) as partial:
            partial.write_bytes(content.tobytes())

    yield record


def recorder(path, frames):
    """The recorder for what --output names: a video, an image, or a folder for a folder of images.

    Raises:
        ValueError: the ending fits no such file.
    """
    suffix = path.suffix.lower()
    if frames.folder:
        if suffix in VIDEO_CODECS or suffix in IMAGE_SUFFIXES:
            raise ValueError(
                f"a folder of images is written to a folder, a name without an ending; found --output {path}"
            )
        return image_recorder(path, folder=True)
    endings = IMAGE_SUFFIXES if frames.still else VIDEO_CODECS
    if suffix not in endings:
        kind = "an image" if frames.still else "a video"
        raise ValueError(f"{kind} is written as {', '.join(endings)}; found --output {path}")
    return image_recorder(path) if frames.still else video_recorder(path, frames.fps)


class Summary:
    """What was seen: frames, their rate, and the share of each emotion."""

    def __init__(self, emotions):
        self.emotions, self.seen, self.rate, self.count = emotions, Counter(), None, 0
        self.frames, self.recent = FPS().start(), FPS().start()

    def add(self, faces):
        """Count a frame and its faces; `rate`, in frames per second, is renewed every second."""
        self.seen.update(self.emotions[int(np.argmax(face.probabilities))] for face in faces)
        self.count += 1
        for counter in (self.frames, self.recent):
            counter.update()
            counter.stop()
        if self.recent.elapsed() >= 1:
            self.rate, self.recent = self.recent.fps(), FPS().start()

    def __str__(self):
        if not self.count:
            return "no frames"
        faces = self.seen.total()
        shares = ", ".join(f"{emotion} {count / faces:.0%}" for emotion, count in self.seen.most_common())
        return (
            f"{_counted(self.count, 'frame')} in {self.frames.elapsed():.1f} s ({self.frames.fps():.0f} per second), "
            f"{_counted(faces, 'face')}{': ' if shares else ''}{shares}"
        )


def _counted(count, noun):
    """The number and its noun, in the plural unless it is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(exit_status(main))
