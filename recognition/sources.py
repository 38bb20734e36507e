"""Sources: cameras, streams, videos, images, folders of images, and the drawn face.

Every source is a context manager.  Iterating over a source gives a `Frame`, or None while no new frame comes:

    with open_source("clip.mp4") as frames:
        for frame in frames: ...

Importing this module imports neither TensorFlow nor Keras.
"""

import functools
import math
import re
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np

from command_line import UserError, reading
from face_files.images import IMAGE_SUFFIXES, decode_image, describe_unsupported, pick_images, why_unreadable

# fmt: off
VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".flv", ".gif", ".m2ts", ".mts",
    ".ogv", ".ts",
)
# fmt: on
PATIENCE = 30.0  # seconds for which a camera that gives no picture is opened again and again
RETRY = 1.0  # seconds without a picture before each attempt to open the camera again
SILENCE = 0.5  # seconds without a picture after which a notice is shown
LONE_IMAGE = 3.0  # seconds for which a single image is shown between other sources
LATE = 0.25  # seconds by which a video may be late and still catch up; after more, it goes on at its pace
LONGEST_GAP = 600.0  # seconds between two frames of a video; a longer gap is a fault in the file's times
DRAWN_FRAMES = 455  # the drawn face's seven expressions once, 2.6 s each at 25 frames per second


class Frame(NamedTuple):
    """A picture and its position in its source."""

    number: int
    time_s: float  # since the first frame
    image: np.ndarray  # uint8 (h, w, 3), BGR
    name: str  # of the file or camera
    lasts_s: float | None = None  # until the next frame; None where nobody knows: cameras, streams and images
    path: Path | None = None  # of the file; None for what is not read from a file
    again: bool = False  # whether the user went back to an image that was shown before


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
        if not str(name) or not _is_path(str(name)):
            expanded.append(name)
        elif path.is_dir():
            expanded += _split_folder(path)
        elif _names_image(path):
            if not images:
                expanded.append(images)  # at the position of the first image
            images.append(path)
        else:
            expanded.append(name)
    return [source[0] if source is images and len(images) == 1 else source for source in expanded]


def _split_folder(folder):
    """Return the sources in a folder: each video, and the images together; tell of pictures that can't be read."""
    files = [path for path in _list_folder(folder) if path.is_file() and not path.name.startswith(".")]
    images, unsupported = _pick_images(files)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if unsupported:
        print(f"notice: {folder}: {describe_unsupported(unsupported)}", file=sys.stderr)
    if not images + videos:
        endings = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise UserError(f"a folder as source holds images or videos ({endings}); {folder} has none")
    if not images:
        return videos
    return [*videos, images[0] if len(images) == 1 and videos else folder]


def _pick_images(files):
    """Return the images among files, and the pictures that can't be read; an animated .gif is a video."""
    files = [path for path in files if path.is_file()]  # opening a pipe would wait for its writer
    images, unsupported = pick_images(files)
    return [path for path in images if path.suffix.lower() not in VIDEO_SUFFIXES], unsupported


def _names_image(path):
    """Return whether a path ends like a picture, whether it can be read here or not; an animated .gif is a video."""
    return any(pick_images([path])) and path.suffix.lower() not in VIDEO_SUFFIXES


def _is_path(name):
    """Return whether a source is not a camera's number, a stream or the drawn face, and so must be a path."""
    return not (name.isdecimal() or "://" in name or name == "drawn")


def _check_exists(name):
    """Raise a `UserError` where a name must be a path, and there is no such path, or OpenCV can't take its name."""
    if not _is_path(name):
        return
    with reading(name):
        if not Path(name).exists():
            shown = without_password(name)
            raise UserError(f"a source is a camera number, a file, a folder, a URL or drawn; nothing at {shown}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"a source's name must be UTF-8; found {ascii(name)}: rename it") from error


def without_password(address: str) -> str:
    """Return a stream's address as it may be shown: without its user and password, and without a query."""
    address = re.sub(r"(:(?://)?).*@", r"\1***@", address)
    secret = r"\?|pass|pwd|token|key|auth"  # some cameras take the password in the path
    return re.sub(rf"(://[^/?]*)(?=.*(?:{secret})).*", r"\1/***", address, flags=re.IGNORECASE)


def _list_folder(folder):
    """Return the sorted paths in a folder."""
    with reading(folder):
        return sorted(folder.iterdir())


def read_files(source: int | str | Path | list[Path] | None) -> set[Path]:
    """Return the files and folders that one of the expanded sources reads."""
    if isinstance(source, list):
        return {*source, *(path.parent for path in source)}
    path = Path(str(source))
    if not _is_path(str(source)) or not path.exists():
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
        return Stills(source, multiple=True, name="images")
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
        frames.note, frames.drawn = "a drawing, no person", True
        return frames
    if name.isdecimal():
        number = name.lstrip("0") or "0"
        if len(number) > 4:  # OpenCV takes 32 bits, and thousands stand for its ways of reaching a camera
            raise UserError(f"a camera has a number from 0 to 9999; found {number[:20]}{'...' * (len(number) > 20)}")
        return Live(int(number))
    if "://" in name:
        return open_stream(name)
    _check_exists(name)
    path = Path(name)
    if path.is_dir():
        return Stills(_pick_images(_list_folder(path))[0], multiple=True, name=path.resolve().name)
    status = path.stat()
    if stat.S_ISCHR(status.st_mode):  # /dev/video2, or the name that udev gave a camera
        return Live(name, functools.partial(cv2.VideoCapture, apiPreference=cv2.CAP_V4L2))
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"a source is a camera, a file or a folder; found a pipe, a socket or a disk at {path}")
    if not status.st_size:
        raise UserError(f"{path} is empty: copy or download it again")
    if _names_image(path):
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
        multiple: Whether there may be several images.
        fps: Frames per second of a recording.
        count: How many frames there are; 0 if nobody knows.
        note: To be shown in the picture.
        drawn: Whether the frames are drawings, and show no person.
        broken: How many files could not be read.
        clock: Tells when a frame is due; the window stops it while the user pauses.
    """

    name, paths = "", ()
    still, multiple, drawn, broken, fps, count, note = False, False, False, 0, 30.0, 0, ""

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
        source: Camera number, a camera's path in /dev, or URL.
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
        stream = isinstance(source, str) and "://" in source
        self.label = without_password(source) if stream else f"camera {source}"
        self.name = "stream" if stream else f"camera{source}" if isinstance(source, int) else Path(source).name
        self.capture = open_capture(source)
        if not self.capture.isOpened():
            self.capture.release()
            advice = (
                "check the address and the network"
                if stream
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

    The time of a frame is the time in the file, since many files have frames at an uneven rate.

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
        self._began, self._first_s = None, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        said = capture.get(cv2.CAP_PROP_FPS)
        self._next_s = 0.0
        self._last_s = 1 / (said if 0.1 <= said <= 240 else self.fps)  # how long the last frame lasts

    def __iter__(self) -> Iterator[Frame]:
        self._began = self.clock.now()
        number, time_s, image = 0, 0.0, self._first
        while image is not None:
            following = self.capture.read()[1]  # one ahead, because a frame is shown until the next one's time
            self._next_s = self._time(number + 1, time_s) if following is not None else time_s + self._last_s
            yield Frame(number, time_s, as_bgr(image), self.name, self._next_s - time_s, self.path)
            number, time_s, image = number + 1, self._next_s, following
        if number < 0.9 * self.count and time_s < 0.9 * self._duration():
            name = self.path or self.name
            if self.path and _counts_no_frames(self.path):  # OpenCV's count is the duration, which sound may have
                print(
                    f"notice: {name}: the picture ends after {time_s:.1f} of {self.count / self.fps:.1f} s; the sound "
                    "is longer, or the file is cut short",
                    file=sys.stderr,
                )
                return
            self.broken += 1
            print(f"{name} ends after {number} of {self.count} frames: it is damaged", file=sys.stderr)

    def _time(self, number, before):
        """Return the time of the frame that was read last, in seconds since the first frame.

        The file's time counts if it advances.  In most files, times are rounded.  So, where the time is that of the
        frame's number at an even rate, up to rounding, the latter counts.

        Args:
            number: Of the frame.
            before: Time of the frame before.
        """
        even, said = number / self.fps, self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 - self._first_s
        times = (even if abs(said - even) <= 0.001 else said, even, before + 1 / self.fps)
        return next(time_s for time_s in times if before < time_s <= before + LONGEST_GAP)

    def _duration(self):
        """Return the seconds that the video should last; a part that was cut out of an MP4 has frames not to show."""
        seconds = self.count / self.fps
        return min(seconds, _movie_seconds(self.path) or seconds) if self.path else seconds

    def due(self, frame: Frame) -> float:
        late = self.clock.now() - (self._began + self._next_s)
        if late > LATE:  # the computer was too slow for a while: people should not see the video run
            self._began += late
        return self._began + self._next_s

    def close(self) -> None:
        self.capture.release()


class Stills(Source):
    """Images, one after the other; of several images, those that can't be read are named and left out.

    Args:
        paths: Of the images.
        multiple: Whether there may be several images.
        name: For the names of the files that are written; by default that of the first image.
        shown_s: Seconds for which each image is shown.
    """

    still, fps = True, 1.0

    def __init__(self, paths: Sequence[Path], multiple: bool = False, name: str | None = None, shown_s: float = 1.0):
        super().__init__()
        self.paths, self.name, self.multiple, self.shown_s = paths, name or paths[0].stem, multiple, shown_s
        self.count = len(paths)
        self._at, self._step = 0, 1  # of `paths`

    def go(self, step: int) -> None:
        """Let the next frame be the image before this one (-1) or after it (1); at the ends, this image again."""
        self._step = step if 0 <= self._at + step < self.count else 0

    def __iter__(self) -> Iterator[Frame]:
        numbers, told = {}, set()  # of the images that were read, by their place in `paths`; places of the others
        self._at, self._step = 0, 1
        while self._at < self.count:
            path, image = self.paths[self._at], decode_image(self.paths[self._at])
            if image is None and self._at not in told:
                why = why_unreadable(path) or "it is missing, damaged, or of an unknown kind"
                fault = f"{path} is not an image that can be read: {why}"
                if unsupported := pick_images([path])[1]:
                    fault = describe_unsupported(unsupported)
                if not self.multiple:
                    raise UserError(fault)
                self.broken += 1
                told.add(self._at)
                print(fault, file=sys.stderr)
            if image is not None:
                again = self._at in numbers
                number = numbers.setdefault(self._at, len(numbers))
                self._step = 1
                yield Frame(number, float(number), image, path.name, path=path, again=again)
            self._at += self._step
            if self._at < 0:  # the first images can't be read
                self._at, self._step = 0, 1
        if not numbers:
            raise UserError(f"none of the {len(self.paths)} images, {self.paths[0]} and so on, can be read")

    def due(self, frame: Frame) -> float:
        return self.clock.now() + self.shown_s


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Return a frame as cameras and videos give it as BGR, uint8 (h, w, 3).

    Args:
        image: Grey (h, w) or (h, w, 1), YUYV (h, w, 2), BGR (h, w, 3) or BGRA (h, w, 4).  With more than 8 bits, white
            is the largest value of the bits that the brightest pixel needs: cameras of 10, 12 and 14 bits use a part of
            16.
    """
    if image.dtype != np.uint8:
        full = 2.0 ** math.ceil(math.log2(max(0.0, float(image.max())) + 1)) - 1
        image = np.clip(image * (255 / max(1.0, full)), 0, 255).astype(np.uint8)
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 3:
        return image
    conversions = {1: cv2.COLOR_GRAY2BGR, 2: cv2.COLOR_YUV2BGR_YUY2, 4: cv2.COLOR_BGRA2BGR}
    return cv2.cvtColor(image, conversions[channels])


def _frame_rate(capture, unknown):
    """Return the capture's frames per second, or `unknown` where the capture says 0 or 90,000, as some do."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 240 else unknown


def _counts_no_frames(path):
    """Return whether a video is of a kind that says how long it lasts, and not how many frames it has."""
    kinds = (b"\x1a\x45\xdf\xa3", b"OggS", b"FLV", b"\0\0\1\xba", b"0&\xb2u", b"G")  # Matroska, ..., ASF, MPEG-TS
    with open(path, "rb") as file:
        return file.read(4).startswith(kinds)


def _movie_seconds(path):
    """Return the duration that the header of an MP4 or a QuickTime file states, in seconds; None for other files.

    Source: ISO/IEC 14496-12, the boxes moov and mvhd.
    """
    with open(path, "rb") as file:
        while len(head := file.read(8)) == 8:
            (size, kind), header = struct.unpack(">I4s", head), 8
            if size == 1:
                size, header = int.from_bytes(file.read(8)), 16
            if kind == b"moov":
                box = file.read(40)  # mvhd comes first: its size, its name, version and flags
                wide = len(box) == 40 and box[8] == 1
                if box[4:8] != b"mvhd" or len(box) < 40:
                    return None
                rate, ticks = struct.unpack(">IQ" if wide else ">II", box[28:40] if wide else box[20:28])
                return ticks / rate if rate and ticks else None
            if not kind.isalnum() or not header <= size < 2**62:  # another kind of file
                return None
            file.seek(size - header, 1)
    return None
