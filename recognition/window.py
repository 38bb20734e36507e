"""The window on the screen, its keys and its mouse.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import os
import re
import socket
import sys
import time

import cv2

from recognition.recording import Records, video_recorder, write_image

TITLE = "Emotions (? shows the keys)"
HELP = (
    "?  these keys",
    "q, Esc  end",
    "Space  pause",
    "Tab, click  choose a face",
    "h  heat map: where the network looked",
    "m  mirror",
    "s  save the picture",
    "r  record, and stop recording",
)
MESSAGE_FOR = 3.0  # seconds


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
    """The window on the screen, its keys and its mouse; see HELP.

    Args:
        annotate: the `Annotator` that keys and clicks change.
        folder: where the keys s and r write to.

    `ended` once the user has ended it, `recording` while it records, `note` is to be shown in the picture, `paused_s`
    counts the seconds of all pauses.
    """

    def __init__(self, annotate, folder):
        self.annotate, self.folder = annotate, folder
        self.ended, self.paused_s = False, 0.0
        self._opened, self._paused, self._clicks = False, False, []
        self._message, self._message_until = "", 0.0
        self._shown = self._records = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stop_recording()
        with contextlib.suppress(cv2.error):
            cv2.destroyAllWindows()

    @property
    def recording(self):
        return self._records is not None

    @property
    def note(self):
        """What the window has to say."""
        message = self._message if time.monotonic() < self._message_until else ""
        return "   ".join(filter(None, ("paused" if self._paused else "", message)))

    def show(self, picture, draw, frames, frame, faces):
        """Show a frame for as long as it is due, and longer while paused; do what keys and clicks ask for.

        Args:
            picture: uint8 (h, w, 3), BGR.
            draw: gives it anew, as keys, clicks and time have changed it.
            frames: the source.
            frame: the `Frame`; None if there is no new one.
            faces: list of `Face` in it.

        Returns:
            False once the user has ended it.
        """
        self._present(picture)
        if frame is not None:
            if self._shown is None:
                self._fit(picture)  # until then, a grey one may have stood for it
            self._shown = frame, picture, faces
            if self.recording:
                self._try(lambda: self._records(*self._shown))
        due = time.monotonic() + 0.05 if frame is None else frames.due(frame)
        while True:
            since, note = time.monotonic(), self.note
            wait_s = 0.05 if self._paused else min(0.05, due - since)
            key = chr(cv2.waitKey(max(1, round(wait_s * 1000))) & 0xFF)
            if key in ("q", "\x1b") or self._closed():
                self.ended = True
                return False
            if key != "\xff" or self._clicks or note != self.note:
                self._press(key, picture, frames, faces)
                picture = draw()
                self._present(picture)
            if self._paused:
                passed = time.monotonic() - since
                self.paused_s += passed
                frames.pause(passed)
                due += passed
            elif time.monotonic() >= due:
                return True

    def _present(self, picture):
        """Put a picture on the screen."""
        if not self._opened:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.setMouseCallback(TITLE, self._mouse)
            self._fit(picture)
            self._opened = True
        cv2.imshow(TITLE, picture)

    def _fit(self, picture):
        """Make the window as large as a picture, within bounds."""
        height, width = picture.shape[:2]
        scale = min(max(1.0, 640 / width), 1280 / width, 800 / height)
        cv2.resizeWindow(TITLE, round(width * scale), round(height * scale))

    def _closed(self):
        """Whether its close button was pressed."""
        try:
            return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:  # what some window systems answer for a closed one
            return True

    def _mouse(self, event, x, y, flags, parameter):
        if event == cv2.EVENT_LBUTTONDOWN:
            self._clicks.append((x, y))

    def _press(self, key, picture, frames, faces):
        """Do what a key asks for, and what clicks do."""
        while self._clicks:
            self.annotate.choose(faces, self._clicks.pop(0), picture.shape[1])
        if key == "?":
            self.annotate.help = () if self.annotate.help else HELP
        elif key == " ":
            self._paused = not self._paused
        elif key == "\t":
            self.annotate.choose_next(faces)
        elif key == "h":
            self.annotate.heat_map = not self.annotate.heat_map
        elif key == "m":
            self.annotate.mirror = not self.annotate.mirror
        elif key in ("s", "r") and self._shown is None:
            self._message, self._message_until = "no picture yet", time.monotonic() + MESSAGE_FOR
        elif key == "s":
            path = self._new_file("snapshot", ".png")
            if self._try(lambda: write_image(path, picture)):
                self._say(f"saved {path.name}")
        elif key == "r" and self.recording:
            self._stop_recording()
        elif key == "r":
            self._try(lambda: self._start_recording(self._new_file("recording", ".mp4"), frames))

    def _new_file(self, kind, ending):
        name = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        names = (f"{name}{more}{ending}" for more in ("", *(f"-{number}" for number in range(2, 1000))))
        return next(path for path in (self.folder / name for name in names) if not path.exists())

    def _start_recording(self, path, frames):
        self._records = Records([video_recorder(path, 10.0 if frames.still else frames.fps)])
        self._records(*self._shown)
        self._say(f"recording {path.name}")

    def _stop_recording(self):
        records, self._records = self._records, None
        if records and self._try(lambda: records.__exit__(None, None, None)):
            self._say("recording saved")

    def _say(self, message):
        """Show a message for a moment, and in the terminal."""
        self._message, self._message_until = message, time.monotonic() + MESSAGE_FOR
        print(f"{message} ({self.folder})", file=sys.stderr)

    def _try(self, write):
        """Write, and whether that worked; what can't be written is told, and the picture goes on."""
        try:
            write()
        except OSError as error:
            if self._records is not None and not self._records:  # it has given up
                self._records = None
            self._message, self._message_until = "can't be written, see the terminal", time.monotonic() + MESSAGE_FOR
            print(f"error: {error}", file=sys.stderr)
            return False
        return True
