"""Window: the picture on the screen, the keys and the mouse.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from command_line import UserError, printable, uninterrupted
from models.classifier import EmotionClassifier
from recognition.annotation import Annotator
from recognition.recording import Records, Summary, heat_maps, video_recorder, write_image
from recognition.sources import Frame, Source
from recognition.tracking import Face
from recognition.video_writing import has_ffmpeg

TITLE = "Emotions (? shows the keys)"
HELP = (
    "?  these keys",
    "q, Esc  end",
    "Space  pause (arrows: photographs)",
    "Tab, click  choose a face",
    "h  heat map: where the network looked",
    "m  mirror",
    "s  save the picture",
    "r  record, and stop recording",
)
# what `cv2.waitKeyEx` gives for the arrow keys: the lower 16 bits on X11 and macOS, and on Windows
STEPS = {0xFF51: -1, 0xF702: -1, 0x250000: -1, 0xFF53: 1, 0xF703: 1, 0x270000: 1}
MESSAGE_FOR = 3.0  # seconds


def open_window(annotate: Annotator, folder: Path) -> contextlib.AbstractContextManager["Window | None"]:
    """Return a context manager that gives the window, or None where there is no display.

    Args:
        annotate: The annotator that keys and clicks change.
        folder: Where the keys s and r write files.
    """
    return Window(annotate, folder) if has_display() else contextlib.nullcontext()


def has_display() -> bool:
    """Return whether a window can be opened; OpenCV itself ends the process when there is no display."""
    if re.search(r"GUI:\s*NONE", cv2.getBuildInformation()):  # opencv-python-headless
        return False
    if not sys.platform.startswith("linux"):
        return True
    plugins = Path(cv2.__file__).parent / "qt" / "plugins" / "platforms"  # of the wheel; it has one for X11 alone
    if os.environ.get("WAYLAND_DISPLAY") and (not plugins.is_dir() or any(plugins.glob("*wayland*"))):
        return True
    if plugins.is_dir():  # Qt ends the process where a variable names a plugin that is not there
        os.environ["QT_QPA_PLATFORM"] = "xcb"
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


class View:
    """The newest frame of a source with its faces, and the picture that is drawn of them.

    Until the first frame comes, the frame is dark grey.

    Args:
        frames: The source.
        classify: Makes heat maps, if `annotate` is to draw them.
        annotate: Draws the picture.
        summary: Knows the frames per second.
        window: Its message is part of the picture; None without a window.
    """

    def __init__(
        self,
        frames: Source,
        classify: EmotionClassifier,
        annotate: Annotator,
        summary: Summary,
        window: "Window | None" = None,
    ):
        self.frames, self.classify, self.annotate = frames, classify, annotate
        self.summary, self.window = summary, window
        self.frame, self.faces = Frame(0, 0.0, np.full((480, 640, 3), 40, np.uint8), ""), []
        self.picture, self._heat = self.frame.image, None  # heat maps of the frame, once they were asked for
        self._background = None  # makes heat maps of videos, once they were asked for

    def update(self, frame: Frame, faces: Sequence[Face]) -> np.ndarray:
        """Take the next frame and its faces, and return the new picture: uint8 (h, w, 3), BGR."""
        self.frame, self.faces, self._heat = frame, faces, None
        if self.frames.still:
            self.annotate.forget()  # each image stands alone
        else:
            self.annotate.remember(faces, frame.time_s)
        return self.draw()

    def draw(self) -> np.ndarray:
        """Draw the picture again, as keys, clicks and time have changed it, and return it: uint8 (h, w, 3), BGR."""
        notes = [self.frames.note]
        if self.window:
            rate = "" if self.frames.still or not self.summary.rate else f"{self.summary.rate:.0f} fps"
            notes += [rate, "paused" if self.frames.clock.paused else "", self.window.message]
        heat = self._find_heat() if self.annotate.heat_map else None
        recording = self.window is not None and self.window.recording
        note = "   ".join(filter(None, notes))
        self.picture = self.annotate.draw(self.frame.image, self.faces, note, heat, recording, self.frames.still)
        return self.picture

    def _find_heat(self):
        """Return heat maps: of a video that the window shows, the newest ones of each face, for which nobody waits."""
        if self.window and not (self.frames.still or self.frames.clock.paused):
            self._background = self._background or BackgroundHeatMaps(self.classify)
            return self._background(self.frame.image, self.faces)
        if self._heat is None:
            self._heat = heat_maps(self.classify, self.frame.image, self.faces)
        return self._heat


class BackgroundHeatMaps:
    """Makes heat maps in a thread of its own.  A call returns the newest finished maps, and requests new ones.

    Args:
        classify: A clone of it makes the heat maps.
    """

    def __init__(self, classify: EmotionClassifier):
        self._pool = ThreadPoolExecutor(1)
        self._clone = self._pool.submit(classify.clone)
        self._making, self._made = None, {}  # {identity of a face: its heat map}

    def __call__(self, image: np.ndarray, faces: Sequence[Face]) -> list[np.ndarray]:
        """Return a heat map for each face, float (h, w) from 0 to 1; zeros, (1, 1), until its first map is finished."""
        if self._making is None or self._making.done():
            self._made = self._making.result() if self._making else {}
            self._making = self._pool.submit(self._make, image, faces)
        return [self._made.get(face.identity, np.zeros((1, 1), np.float32)) for face in faces]

    def _make(self, image, faces):
        """Run in the thread."""
        maps = heat_maps(self._clone.result(), image, faces)
        return {face.identity: heat for face, heat in zip(faces, maps, strict=True)}


class Window:
    """The window on the screen, its keys and its mouse; HELP lists the keys.

    Args:
        annotate: The annotator that keys and clicks change.
        folder: Where the keys s and r write files.

    Attributes:
        ended: Whether the user has ended the program.
    """

    def __init__(self, annotate: Annotator, folder: Path):
        self.annotate, self.folder, self.ended = annotate, folder, False
        self._shape, self._clicks = None, []  # height and width of the picture that the window was fitted to
        self._message, self._message_until = "", 0.0
        self._saving = []  # threads that end recordings
        self._newest = self._records = None  # what `Records` takes: frame, picture, faces

    def __enter__(self) -> Self:
        threading.Thread(target=has_ffmpeg, daemon=True).start()  # asks now, so that the key r works at once
        return self

    def __exit__(self, *error):
        self.stop_recording()
        with uninterrupted():
            for thread in self._saving:
                thread.join()
        with contextlib.suppress(cv2.error):
            cv2.destroyAllWindows()

    @property
    def recording(self) -> bool:
        """Whether the pictures are being recorded."""
        return self._records is not None

    @property
    def message(self) -> str:
        """The message of the moment, or ""."""
        return self._message if time.monotonic() < self._message_until else ""

    def show(self, view: View, frame: Frame | None) -> bool:
        """Show a frame until the next one is due, and longer while the user pauses; do what keys and clicks ask for.

        Args:
            view: The picture to show.
            frame: The frame in `view`; None if it is not a new frame.

        Returns:
            False once the user has ended the program.
        """
        clock = view.frames.clock
        if frame is None:
            view.draw()  # because the source's note may have changed
        self._present(view.picture)
        if frame is None:
            due = clock.now() + 0.05
        else:
            self._newest = frame, view.picture, view.faces
            if self.recording:
                self._try(lambda: self._records(*self._newest))
            due = view.frames.due(frame)
        while True:
            wait_s, message = 0.05 if clock.paused else min(0.05, due - clock.now()), self.message
            code = cv2.waitKeyEx(max(1, round(wait_s * 1000)))
            key, step = chr(code & 0xFF), STEPS.get(code, STEPS.get(code & 0xFFFF)) if code >= 0 else None
            if step and view.frames.multiple:
                clock.pause()  # whoever goes through the images by hand wants them to stay
                view.frames.go(step)
                return True
            if key in ("q", "\x1b") or self._closed():
                self.ended = True
                return False
            if key != "\xff" or self._clicks or message != self.message:
                self._press(key, view)
                self._present(view.draw())
            if clock.now() >= due and not clock.paused:
                return True

    def _present(self, picture):
        """Put a picture on the screen."""
        if self._shape is None:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.setMouseCallback(TITLE, self._mouse)
        if picture.shape[:2] != self._shape:  # the next photograph, or the first frame after the grey picture
            self._fit(picture)
            self._shape = picture.shape[:2]
        cv2.imshow(TITLE, picture)

    def _fit(self, picture):
        """Make the window as large as a picture, within bounds."""
        height, width = picture.shape[:2]
        scale = min(max(1.0, 640 / width), 1280 / width, 800 / height)
        cv2.resizeWindow(TITLE, round(width * scale), round(height * scale))

    def _closed(self):
        """Return whether the window's close button was pressed."""
        try:
            return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:  # the answer of some window systems for a closed window
            return True

    def _mouse(self, event, x, y, flags, parameter):
        if event == cv2.EVENT_LBUTTONDOWN:
            self._clicks.append((x, y))

    def _press(self, key, view):
        """Do what a key and the clicks before it ask for."""
        while self._clicks:
            self.annotate.choose(view.faces, self._clicks.pop(0), view.frame.image.shape[1])
        if key == "?":
            self.annotate.help = () if self.annotate.help else HELP
        elif key == " ":
            (view.frames.clock.resume if view.frames.clock.paused else view.frames.clock.pause)()
        elif key == "\t":
            self.annotate.choose_next(view.faces)
        elif key == "h":
            self.annotate.heat_map = not self.annotate.heat_map
        elif key == "m":
            self.annotate.mirror = not self.annotate.mirror
        elif key in ("s", "r") and self._newest is None:
            self._show_message("no picture yet")
        elif key == "s":
            path = self._new_file("snapshot", ".png")
            if self._try(lambda: write_image(path, view.picture)):
                self._tell(f"saved {path.name}")
        elif key == "r" and self.recording:
            self.stop_recording()
        elif key == "r":
            self._try(lambda: self._start_recording(self._new_file("recording", ".mp4"), view.frames))

    def _new_file(self, kind, ending):
        """Return a path in the folder that no file has yet."""
        name = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (f"{name}{more}{ending}" for more in ("", *(f"-{number}" for number in range(2, 1000))))
        return next(path for path in (self.folder / name for name in names) if not path.exists())

    def _start_recording(self, path, frames):
        self._records = Records(
            [video_recorder(path, 10.0 if frames.still else frames.fps, getattr(frames, "path", None))]
        )
        self._records(*self._newest)
        self._tell(f"recording {path.name}")

    def stop_recording(self):
        """End a recording in the background: while the video gets its name, the window stays alive."""
        records, self._records = self._records, None
        if records:
            self._saving.append(threading.Thread(target=self._save, args=(records,)))
            self._saving[-1].start()

    def _save(self, records):
        if self._try(lambda: records.__exit__(None, None, None)):
            self._tell("recording saved")

    def _show_message(self, message):
        """Show a message for a moment."""
        self._message, self._message_until = message, time.monotonic() + MESSAGE_FOR

    def _tell(self, message):
        """Show a message for a moment, and print it in the terminal."""
        self._show_message(message)
        print(printable(f"{message} ({self.folder})"), file=sys.stderr)

    def _try(self, write: Callable[[], None]) -> bool:
        """Write, and return whether that worked; a file that can't be written is told, and the program goes on."""
        try:
            write()
        except UserError as error:
            if self._records is not None and not self._records:  # all of its files are given up
                self._records = None
            self._show_message("can't be written, see the terminal")
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return False
        return True
