"""Sources: cameras, streams, videos, images, folders of images, and the drawn face.

Every source is a context manager.  Iterating over a source gives a `Frame`, or None while no new frame comes:

    with open_source("clip.mp4") as frames:
        for frame in frames: ...

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np

from command_line import UserError
from load_and_process import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
PATIENCE = 30.0  # seconds for which a camera that gives no picture is opened again and again
RETRY = 1.0  # seconds without a picture before each attempt to open the camera again
SILENCE = 0.5  # seconds without a picture after which a notice is shown
LONE_IMAGE = 3.0  # seconds for which a single image is shown between other sources
DRAWN_FRAMES = 455  # the drawn face's seven expressions once, 2.6 s each at 25 frames per second


class Frame(NamedTuple):
    """A picture and its position in its source."""

    number: int
    time_s: float  # since the first frame
    image: np.ndarray  # uint8 (h, w, 3), BGR
    name: str  # of the file or camera


class SourceLost(UserError):
    """A camera or stream gave frames and then stopped."""


class Clock:
    """Tells the seconds that passed while the user had not paused.

    Everything that has a pace follows this clock: when the next frame of a video is due, and how many frames were shown
    per second.  So the window only has to stop the clock.

    Args:
        read: Gives the time in seconds.
    """

    def __init__(self, read: Callable[[], float] = time.perf_counter):
        self._read, self._paused_at, self._paused_s = read, None, 0.0

    @property
    def paused(self) -> bool:
        """Whether the clock stands still."""
        return self._paused_at is not None

    def now(self) -> float:
        """Return the time in seconds; only differences have a meaning."""
        return (self._paused_at if self.paused else self._read()) - self._paused_s

    def pause(self) -> None:
        """Stop the clock."""
        if not self.paused:
            self._paused_at = self._read()

    def resume(self) -> None:
        """Let the clock go on from where it stopped."""
        if self.paused:
            self._paused_s += self._read() - self._paused_at
            self._paused_at = None


# ----------------------------------------------------------------------------------------------------------
# From what the user named to a source


def expand_sources(names: Sequence[int | str | Path]) -> list[int | str | Path | list[Path] | None]:
    """Split folders into images and videos, and put all single images together.

    Args:
        names: Camera numbers, paths, URLs, "drawn"; [] for the default source.

    Returns:
        What `open_source` takes, one after the other.  A folder becomes its images and each of its videos; several
        images become one list.

    Raises:
        UserError: There is nothing at a path, or a folder holds neither images nor videos.
    """
    if not names:
        return [None]
    for name in names:  # all of them, before the first one is processed
        _check_exists(str(name))
    expanded, images = [], []
    for name in names:
        path = Path(str(name))
        if path.suffix.lower() in IMAGE_SUFFIXES and "://" not in str(name) and not path.is_dir():
            if not images:
                expanded.append(images)  # at the position of the first image
            images.append(path)
        elif str(name) and path.is_dir():
            expanded += _split_folder(path)
        else:
            expanded.append(name)
    return [source[0] if source is images and len(images) == 1 else source for source in expanded]


def _split_folder(folder):
    """Return the sources in a folder: each video, and the images together."""
    files = [path for path in _list_folder(folder) if path.is_file() and not path.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not images + videos:
        endings = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise UserError(f"a folder as source holds images or videos ({endings}); {folder} has none")
    if not images:
        return videos
    return [*videos, images[0] if len(images) == 1 and videos else folder]


def _check_exists(name):
    """Raise a `UserError` where a name is not a camera, a stream or the drawn face, and there is no such path."""
    if name.isdecimal() or "://" in name or name == "drawn":
        return
    with _readable(name):
        if not Path(name).exists():
            raise UserError(f"a source is a camera number, a file, a folder, a URL or drawn; nothing at {name}")


def _list_folder(folder):
    """Return the sorted paths in a folder."""
    with _readable(folder):
        return sorted(folder.iterdir())


@contextlib.contextmanager
def _readable(path):
    """Turn the system's error on opening one of the user's paths into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): check its name and who may read it") from error


def read_files(source: int | str | Path | list[Path] | None) -> set[Path]:
    """Return the files and folders that one of the expanded sources reads."""
    if isinstance(source, list):
        return {*source, *(path.parent for path in source)}
    path = Path(str(source))
    if not path.exists():
        return set()  # a camera, a stream, the drawn face
    return {path, *_list_folder(path)} if path.is_dir() else {path}


def open_source(source: int | str | Path | list[Path] | None, endless: bool = True) -> "Source":
    """Open a camera, video, image, list or folder of images, stream, or the drawn face.

    Args:
        source: Camera number, path, list of image paths, URL, or "drawn"; None for camera 0, and for the drawn face
            where there is no camera.
        endless: Whether the drawn face and a single image stay until the user ends the program.

    Raises:
        UserError: There is no such source, or it can't be read.
    """
    if isinstance(source, list):
        return Stills(source, folder=True, name="images")
    if source is None:
        try:
            return Live(0)
        except UserError:
            print(
                "no camera found: showing a drawn face (a drawing, no person) instead; --source takes a video, an "
                "image, a folder or a URL",
                file=sys.stderr,
            )
            source = "drawn"
    name = str(source)
    if not name:
        raise UserError("a source is a camera number, a file, a folder, a URL or drawn; found an empty name")
    if name == "drawn":
        from drawn_faces import DrawnFaceCapture  # takes time to import, and is seldom needed

        frames = Video(DrawnFaceCapture(frames=None if endless else DRAWN_FRAMES), "drawn")
        frames.note = "a drawing, no person"
        return frames
    if name.isdecimal():
        return Live(int(name))
    if "://" in name:
        return open_stream(name)
    _check_exists(name)
    path = Path(name)
    if path.is_dir():
        images = [child for child in _list_folder(path) if child.suffix.lower() in IMAGE_SUFFIXES]
        return Stills(images, folder=True, name=path.resolve().name)
    if not path.stat().st_size:
        raise UserError(f"{path} is empty: copy or download it again")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Stills([path], shown_s=math.inf if endless else LONE_IMAGE)
    return Video(cv2.VideoCapture(name), path.stem, path)


def open_stream(url: str, open_capture: Callable[[str], Any] = cv2.VideoCapture) -> "Source":
    """Open a URL: as a video where its length is known, else as a live stream.

    Raises:
        UserError: The URL can't be opened.
    """
    frames = Live(url, open_capture)
    if frames.capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return Video(frames.capture, "stream")
    return frames


# ----------------------------------------------------------------------------------------------------------
# The sources


class Source:
    """What all sources share.

    Attributes:
        name: Fit for a file name.
        paths: Of images that are read.
        still: Whether the frames are images without a time between them.
        folder: Whether there may be several images.
        fps: Frames per second of a recording.
        count: How many frames there are; 0 if nobody knows.
        note: To be shown in the picture.
        broken: How many files could not be read.
        clock: Tells when a frame is due; the window stops it while the user pauses.
    """

    name, paths = "", ()
    still, folder, broken, fps, count, note = False, False, 0, 30.0, 0, ""

    def __init__(self):
        self.clock = Clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self) -> Iterator[Frame | None]:
        raise NotImplementedError  # every kind of source below gives its own frames

    def close(self) -> None:
        """Give the camera or file back."""

    def due(self, frame: Frame) -> float:
        """Return the time on `clock` until which a frame should be shown; a live picture is always late."""
        return 0.0


class Live(Source):
    """A camera or stream, read by a thread of its own: iterating gives the newest frame and never an old one.

    A camera that gives no picture is opened again and again.  Meanwhile, iterating gives None, and `note` says so.
    When the patience has come to an end, iterating raises `SourceLost`.

    Args:
        source: Camera number or URL.
        open_capture: Called with `source`, gives an object like `cv2.VideoCapture`.
        patience: Seconds without a picture after which the camera counts as lost.

    Raises:
        UserError: The camera or stream can't be opened.
    """

    def __init__(
        self, source: int | str, open_capture: Callable[[int | str], Any] = cv2.VideoCapture, patience: float = PATIENCE
    ):
        super().__init__()
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
        """Run in the thread: keep the newest frame, and open a source that stays silent again."""
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

    def __iter__(self) -> Iterator[Frame | None]:
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

    def close(self) -> None:
        self._running = False
        if self._thread:
            self._thread.join(timeout=2)
        self.capture.release()


class Video(Source):
    """A video file, or an object like `cv2.VideoCapture`: gives every frame, to be shown at the video's own pace.

    Args:
        capture: An object like `cv2.VideoCapture`, already opened.
        name: For the names of the files that are written.
        path: Of the video file, if there is one.

    Raises:
        UserError: No frame can be read.
    """

    def __init__(self, capture: Any, name: str, path: Path | None = None):
        super().__init__()
        self.capture, self.name, self.path = capture, name, path
        opened, self._first = capture.read() if capture.isOpened() else (False, None)
        if not opened:
            capture.release()
            raise UserError(f"{path or name} is not a video that can be read: it is damaged, or of an unknown kind")
        self.fps = _frame_rate(capture, 25.0)
        self.count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._started = None

    def __iter__(self) -> Iterator[Frame]:
        self._started = self.clock.now()
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

    def due(self, frame: Frame) -> float:
        return self._started + (frame.number + 1) / self.fps

    def close(self) -> None:
        self.capture.release()


class Stills(Source):
    """Images, one after the other; of several images, those that can't be read are named and left out.

    Args:
        paths: Of the images.
        folder: Whether there may be several images.
        name: For the names of the files that are written; by default that of the first image.
        shown_s: Seconds for which each image is shown.
    """

    still, fps = True, 1.0

    def __init__(self, paths: Sequence[Path], folder: bool = False, name: str | None = None, shown_s: float = 1.0):
        super().__init__()
        self.paths, self.name, self.folder, self.shown_s = paths, name or paths[0].stem, folder, shown_s
        self.count = len(paths)

    def __iter__(self) -> Iterator[Frame]:
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

    def due(self, frame: Frame) -> float:
        return self.clock.now() + self.shown_s


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Return a frame as BGR, uint8 (h, w, 3); the frames of grey cameras are (h, w) or (h, w, 1)."""
    return image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


def _frame_rate(capture, unknown):
    """Return the capture's frames per second, or `unknown` where the capture says 0 or 90,000, as some do."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 240 else unknown
