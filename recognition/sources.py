"""What the live script looks at: cameras, streams, videos, images, folders of them, and the drawn face.

Every source is a context manager that iterates over `Frame`, and over None where no new one came for a moment:

    with open_source("clip.mp4") as frames:
        for frame in frames: ...

Importing this module imports neither TensorFlow nor Keras.
"""

import math
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from command_line import UserError
from load_and_process import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
PATIENCE = 30.0  # seconds for which a camera that gives no picture is opened again and again
RETRY = 1.0  # seconds without one before each attempt
SILENCE = 0.5  # seconds without a new frame that are worth a notice
LONE_IMAGE = 3.0  # seconds for which a single image is shown between other sources
DRAWN_FRAMES = 455  # the drawn face's seven expressions once, 2.6 s each at 25 frames per second


class Frame(NamedTuple):
    """A picture and where it stands in its source."""

    number: int
    time_s: float  # since the first
    image: np.ndarray  # uint8 (h, w, 3), BGR
    name: str  # of the file or camera it comes from


class SourceLost(ValueError):
    """A camera or stream gave frames and then stopped."""


def expand_sources(sources):
    """Take folders apart and put images together.

    Args:
        sources: list of what the user named: camera numbers, paths, URLs, "drawn"; [] for none.

    Returns:
        list of what `open_source` takes, one after the other: a folder becomes its images and each of its videos;
        several images become one list.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: a folder holds neither images nor videos.
    """
    if not sources:
        return [None]
    expanded, images = [], []
    for source in sources:
        check_exists(str(source))  # of all, before the first is worked through
        path = Path(str(source))
        if path.suffix.lower() in IMAGE_SUFFIXES and "://" not in str(source) and not path.is_dir():
            if not images:
                expanded.append(images)  # where the first of them stood
            images.append(path)
            continue
        if not str(source) or not path.is_dir():
            expanded.append(source)
            continue
        inside = sorted(child for child in path.iterdir() if child.is_file() and not child.name.startswith("."))
        stills = [child for child in inside if child.suffix.lower() in IMAGE_SUFFIXES]
        videos = [child for child in inside if child.suffix.lower() in VIDEO_SUFFIXES]
        if not stills + videos:
            endings = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            raise UserError(f"a folder as source holds images or videos ({endings}); {path} has none")
        expanded += videos
        if stills:
            expanded.append(path if len(stills) > 1 or not videos else stills[0])
    return [each[0] if each is images and len(images) == 1 else each for each in expanded]


def check_exists(text):
    """FileNotFoundError where a source is named that is no camera, stream or drawn face, and no path either."""
    if not (text.isdecimal() or "://" in text or text == "drawn" or Path(text).exists()):
        raise UserError(f"a source is a camera number, a file, a folder, a URL or drawn; nothing at {text}")


def read_files(source):
    """The files and folders that one of the expanded sources reads: set of paths."""
    if isinstance(source, list):
        return {*source, *(path.parent for path in source)}
    path = Path(str(source))
    if not path.exists():
        return set()  # a camera, a stream, the drawn face
    return {path, *path.iterdir()} if path.is_dir() else {path}


def open_source(source, endless=True):
    """Open a camera, video, image, list or folder of images, stream or the drawn face.

    Args:
        source: camera number, path, list of paths of images, URL, "drawn", or None for camera 0 and the drawn face
            where there is none.
        endless: whether the drawn face and a single image stay until the user has seen enough, or end by themselves.

    Returns:
        `Live`, `Video` or `Stills`: a context manager that iterates over `Frame`.  Its `name` is fit for a file name,
        `fps` is that of a recording, `count` how many frames it has or 0, `note` is shown in the picture, `still`
        tells images without a time between them, `folder` several of them, `broken` counts what could not be read,
        `due(frame)` is the monotonic time until which a frame should be shown, and `pause(seconds)` moves what is due.

    Raises:
        FileNotFoundError, ValueError: there is no such source, or it can't be read; one line.
    """
    if isinstance(source, list):
        return Stills(source, folder=True, name="images")
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
        raise UserError("a source is a camera number, a file, a folder, a URL or drawn; found an empty name")
    if text == "drawn":
        from drawn_faces import DrawnFaceCapture

        frames = Video(DrawnFaceCapture(frames=None if endless else DRAWN_FRAMES), "drawn")
        frames.note = "a drawing, no person"
        return frames
    if text.isdecimal():
        return Live(int(text))
    if "://" in text:
        return open_stream(text)
    check_exists(text)
    path = Path(text)
    if path.is_dir():
        stills = sorted(child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES)
        return Stills(stills, folder=True, name=path.resolve().name)
    if not path.stat().st_size:
        raise UserError(f"{path} is empty: copy or download it again")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Stills([path], shown_s=math.inf if endless else LONE_IMAGE)
    return Video(cv2.VideoCapture(text), path.stem, path)


def open_stream(url, open_capture=cv2.VideoCapture):
    """The source at a URL: a video where its length is known, else something live.

    Raises:
        ValueError: it can't be opened.
    """
    frames = Live(url, open_capture)
    if frames.capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return Video(frames.capture, "stream")
    return frames


class _Source:
    """What all sources share; see `open_source`."""

    still, folder, broken, fps, count, note = False, False, 0, 30.0, 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Give the camera or file back."""

    def due(self, frame):
        """Monotonic time until which the frame should be shown; a live picture is always late."""
        return 0.0

    def pause(self, seconds):
        """Nothing was asked of the source for so long."""


class Live(_Source):
    """A camera or stream, read by a thread of its own: iterating gives the newest frame and never an old one.

    One that gives no picture is opened again and again; meanwhile iterating gives None, and `note` says so.

    Args:
        source: camera number or URL.
        open_capture: called with it, gives what `cv2.VideoCapture` does.
        patience: seconds without a picture after which it counts as gone.

    Raises:
        ValueError: it can't be opened.
        SourceLost: while iterating, when patience has come to its end.
    """

    def __init__(self, source, open_capture=cv2.VideoCapture, patience=PATIENCE):
        self.source, self.open_capture, self.patience = source, open_capture, patience
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
            raise UserError(f"{self.label} can't be opened: {advice}")
        self.fps = _frame_rate(self.capture, self.fps)
        self._fresh, self._newest, self._running = threading.Condition(), None, True
        self._thread = None

    def _read(self):
        """The thread: keep the newest frame, and open the source again where it stays silent."""
        last = time.monotonic()
        while self._running:
            grabbed, image = self.capture.read()
            if grabbed and image is not None:
                last = time.monotonic()
                with self._fresh:
                    self._newest = (last, image)
                    self._fresh.notify()
            elif time.monotonic() - last > min(RETRY, self.patience / 2):
                self.capture.release()
                self.capture = self.open_capture(self.source)
                last = time.monotonic()
            else:
                time.sleep(0.01)

    def __iter__(self):
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        number, started, last = 0, None, time.monotonic()
        while True:
            with self._fresh:
                left = self.patience - (time.monotonic() - last)
                self._fresh.wait_for(lambda: self._newest is not None, max(0, min(SILENCE, left)))
                newest, self._newest = self._newest, None
            if newest:
                self.note, (last, image) = "", newest
                started = last if started is None else started
                yield Frame(number, last - started, as_bgr(image), self.label)
                number += 1
            elif left <= SILENCE:
                raise SourceLost(
                    f"{self.label} stopped delivering after {number} frames: no other came for {self.patience:g} "
                    "seconds; check its cable or network and start again"
                )
            else:
                self.note = f"{self.label} gives no picture; trying for {left:.0f} more seconds"
                yield None

    def close(self):
        self._running = False
        if self._thread:
            self._thread.join(timeout=2)
        self.capture.release()


class Video(_Source):
    """A video file, or anything that reads like `cv2.VideoCapture`; every frame in turn, shown at its own pace.

    Args:
        capture: opened here already.
        name: for files that are written.
        path: of the file it reads, if it reads one.

    Raises:
        ValueError: no frame can be read.
    """

    def __init__(self, capture, name, path=None):
        self.capture, self.name, self.path = capture, name, path
        opened, self._first = capture.read() if capture.isOpened() else (False, None)
        if not opened:
            capture.release()
            raise UserError(f"{path or name} is not a video that can be read: it is damaged, or of an unknown kind")
        self.fps = _frame_rate(capture, 25.0)
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._started = None

    def __iter__(self):
        self._started = time.monotonic()
        number, image = 0, self._first
        while image is not None:
            yield Frame(number, number / self.fps, as_bgr(image), self.name)
            number += 1
            image = self.capture.read()[1]
        if number < 0.9 * self.count:  # the count in a file is an estimate
            self.broken += 1
            print(
                f"{self.path or self.name} ends after {number} of {self.count} frames: it is damaged", file=sys.stderr
            )

    def due(self, frame):
        return self._started + (frame.number + 1) / self.fps

    def pause(self, seconds):
        self._started += seconds

    def close(self):
        self.capture.release()


class Stills(_Source):
    """Images, one after the other; of several, the unreadable ones are named and passed over.

    Args:
        paths: of the images.
        folder: whether there may be several.
        name: for files that are written; by default that of the first image.
        shown_s: seconds for which each is shown.
    """

    still, fps = True, 1.0

    def __init__(self, paths, folder=False, name=None, shown_s=1.0):
        self.paths, self.name, self.folder, self.shown_s = paths, name or paths[0].stem, folder, shown_s
        self.count = len(paths)

    def __iter__(self):
        number = 0
        for path in self.paths:
            try:
                # imdecode, since imread can't open every path on Windows
                data = np.fromfile(path, np.uint8)
                image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
            except (OSError, cv2.error):
                image = None
            if image is None:
                fault = f"{path} is not an image that can be read: it is missing, damaged, or of an unknown kind"
                if not self.folder:
                    raise UserError(fault)
                self.broken += 1
                print(fault, file=sys.stderr)
                continue
            yield Frame(number, float(number), image, path.name)
            number += 1
        if not number:
            raise UserError(f"none of the {len(self.paths)} images, {self.paths[0]} and so on, can be read")

    def due(self, frame):
        return time.monotonic() + self.shown_s


def as_bgr(image):
    """Frames of grey cameras, uint8 (h, w) or (h, w, 1), as BGR."""
    return image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def _frame_rate(capture, unknown):
    """Frames per second as the capture says, or `unknown`: some say 0, or 90,000."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 240 else unknown
