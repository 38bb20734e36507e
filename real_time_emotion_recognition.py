"""Find the faces a camera sees and name the emotion each one shows, live.

    python real_time_emotion_recognition.py                      # the camera; a drawn face if there is none
    python real_time_emotion_recognition.py --source clip.mp4 --output annotated.mp4 --csv clip.csv
    python real_time_emotion_recognition.py --source photo.jpg --headless --output annotated.png
    python real_time_emotion_recognition.py --source photos/ one.mp4 two.mp4 --headless --output annotated/
    python real_time_emotion_recognition.py --model mine.hdf5 models/simple_CNN.hdf5        # averaged

In the window, ? shows the keys; q, Esc or closing it ends the program.  Images never leave the machine.  Nothing is
stored unless asked for (--output, --csv, --timeline, --explain, or the keys s and r), or, where there is neither a
display nor --headless, in output/, which it says.
"""

import argparse
import contextlib
import itertools
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from annotation import LANGUAGES, Annotator
from face_tracking import FaceDetector, FaceTracker, Smoother, find_cascade, still_faces
from load_and_process import IMAGE_SUFFIXES, Parser, exit_status, within
from models.classifier import EmotionClassifier
from recording import (
    FIGURE_SUFFIXES,
    Records,
    Summary,
    Taken,
    checked_ending,
    csv_recorder,
    explanation_recorder,
    folder_for,
    heat_maps,
    names_a_file,
    open_recorder,
    timeline_recorder,
    video_recorder,
    write_image,
)
from video_sources import Frame, SourceLost, expand_sources, open_source, read_files

# ------------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

source = []                    # camera numbers, videos, images, folders, stream URLs or "drawn"; none: camera 0
model = [Path(__file__).resolve().parent / "models" / "simple_CNN.hdf5"]  # one checkpoint, or several to average
cascade = "haarcascade_frontalface_default.xml"  # a path, or the name of a file in haarcascade_files/ or in OpenCV
# what is written; with several sources, folders
output = None                  # annotated .mp4, .avi or .mkv (image: .png or .jpg; folder of images: a folder)
csv = None                     # a row per face per frame
timeline = None                # .png, .jpg, .pdf or .svg: the emotions of each face over time
explain = None                 # of images, .png: each face, where the network looked, and its probabilities
# the window
headless = False               # open none
language = "en"                # of the labels in pictures: en, fr
heatmap = False                # show where the network looked
mirror = False                 # show the picture as a mirror does
# finding faces
detection_side = 240           # pixels; the shorter side of larger frames is reduced to this to look for faces
still_detection_side = 960     # the same for images, where there is time to look for small faces
scale_factor = 1.2             # step between the sizes looked for
min_neighbors = 5              # overlapping finds that make a face; more: fewer false faces, and fewer true ones
smallest_face = 0.1            # side of the smallest face, share of the frame's shorter side
# naming emotions
flip = False                   # average in each face's mirror image: a little surer, for twice the time
smoothing = 0.25               # time constant in seconds of each face's average over time; 0: none
uncertain_below = 0.4          # probability under which a label reads "uncertain"; 0: never; over 1: always
# fmt: on
# ------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent
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


def parse_args(argv=None):
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Name the emotion of every face, live.")
    add = parser.add_argument
    kinds = "camera number, video, image, folder, stream URL or drawn; several are worked through (default: camera 0)"
    add("--source", nargs="+", default=source, metavar="SOURCE", help=kinds)
    add("--model", type=Path, nargs="+", default=model, metavar="MODEL.hdf5", help="checkpoint; several are averaged")
    add("--cascade", default=cascade, metavar="XML", help="Haar cascade (default: %(default)s)")
    add("--output", type=Path, default=output, metavar="FILE", help="write the annotated video, image or folder")
    add("--csv", type=Path, default=csv, metavar="FILE", help="write a row per face per frame")
    add("--timeline", type=Path, default=timeline, metavar="FILE", help="draw emotions over time (.png, .svg ...)")
    add("--explain", type=Path, default=explain, metavar="PNG", help="of images: faces, heat maps and bars")
    add("--headless", action="store_true", default=headless, help="open no window")
    add("--heatmap", action="store_true", default=heatmap, help="show where the network looked")
    add("--flip", action="store_true", default=flip, help="average in each face's mirror image")
    add("--mirror", action="store_true", default=mirror, help="show the picture as a mirror does")
    add("--language", choices=LANGUAGES, default=language, help="of the labels in pictures (default: %(default)s)")
    add(
        "--smoothing",
        type=within(float, 0),
        default=smoothing,
        metavar="SECONDS",
        help="time constant of each face's average over time, 0: none (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not args.model:
        parser.error("argument --model: needs a checkpoint; found none")
    parser.check_settings(
        globals(),
        detection_side=within(int, 24),
        still_detection_side=within(int, 24),
        scale_factor=within(float, 1.01),
        min_neighbors=within(int, 0),
        smallest_face=within(float, 0, most=1),
        uncertain_below=within(float, 0),
    )
    return args


def main(argv=None):
    args = parse_args(argv)
    # OpenCV and FFmpeg narrate every failed attempt; ours is the one line that counts
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    classify = EmotionClassifier(args.model, args.flip)
    cascade_path = find_cascade(args.cascade)
    sources = expand_sources(args.source)
    check_flags(args, several=len(sources) > 1)
    taken = Taken([*args.model, cascade_path, *(path for source in sources for path in read_files(source))])
    annotate = Annotator(classify.emotions, args.language, args.heatmap, args.mirror, uncertain_below)
    faults, display = 0, not args.headless and has_display()
    with Window(annotate, ROOT / "output") if display else contextlib.nullcontext() as window:
        setup = Setup(args, classify, cascade_path, annotate, window, len(sources) > 1, taken)
        for source in sources:
            try:
                faults += work_through(source, setup)
            except (ValueError, OSError) as error:
                if not setup.several:
                    raise
                faults += 1
                print(f"error: {error}", file=sys.stderr)
            if window and window.ended:
                break
    return 1 if faults else 0


class NothingSeen(Exception):
    """The user ended it before the first picture came."""


class Setup(NamedTuple):
    """What serves all sources."""

    args: argparse.Namespace
    classify: EmotionClassifier
    cascade_path: Path
    annotate: Annotator
    window: "Window | None"
    several: bool  # sources
    taken: Taken  # files


def work_through(source, setup):
    """Show and record all of a source, as `open_source` takes it, and tell what was seen; how many faults it had."""
    args, classify, annotate, window = setup.args, setup.classify, setup.annotate, setup.window
    with contextlib.suppress(NothingSeen), contextlib.ExitStack() as stack:
        frames = stack.enter_context(open_source(source, endless=window is not None and not setup.several))
        files = name_files(setup, frames)
        setup.taken.take(files._asdict())
        records = stack.enter_context(Records(recorders(files, frames, classify, annotate.labels)))
        detect = build_detector(setup.cascade_path, frames.still)
        track = still_faces(detect) if frames.still else FaceTracker(detect)
        smooth = Smoother(0 if frames.still else args.smoothing)
        summary, ended_by = Summary(classify.emotions, frames.fps, frames.still), None
        annotate.forget()
        try:
            run(frames, track, classify, smooth, annotate, records, window, summary)
        except (KeyboardInterrupt, SourceLost) as error:
            if not summary.count:
                raise
            ended_by = error  # what was recorded until then is whole, and kept
        if not summary.count:
            raise NothingSeen  # so that no empty files are written
    print(f"{frames.name}: {summary}" if setup.several else summary)
    for path in filter(None, files):
        if path.exists():
            print(f"written: {path}")
    if ended_by:
        raise ended_by
    return frames.broken + records.faults


def build_detector(cascade_path, still):
    """The `FaceDetector` of the settings above, for images (`still`) or for the frames of a video."""
    side = still_detection_side if still else detection_side
    return FaceDetector(cascade_path, side, scale_factor, min_neighbors, smallest_face)


def run(frames, track, classify, smooth, annotate, records, window, summary):
    """The loop: every frame is shown and recorded, with or without a face in it."""
    shown, faces = Frame(0, 0.0, np.full((480, 640, 3), 40, np.uint8), ""), []  # dark grey until the first one comes

    def draw():
        notes = [frames.note]
        if window:
            notes += [f"{summary.rate:.0f} fps" if summary.rate and not frames.still else "", window.note]
        heat = heat_maps(classify, shown, faces) if annotate.heat_map else None
        recording = window is not None and window.recording
        return annotate.draw(shown.image, faces, "   ".join(filter(None, notes)), heat, recording)

    for frame in progress(frames, window):
        if frame is not None:
            tracked = track(frame.image, frame.time_s)
            faces = smooth(tracked, classify(frame.image, [face.box for face in tracked]), frame.time_s)
            shown = frame
            if frames.still:
                annotate.forget()
            else:
                annotate.remember(faces, frame.time_s)
            picture = draw() if records or window else None
            records(frame, picture, faces)
            summary.add(faces, frame.time_s)
            if frames.still:
                named = ", ".join(annotate.label(face)[0] for face in faces) or "no face found"
                print(f"{frame.number} {frame.name}: {named}", flush=True)
        elif window:
            picture = draw()  # with a notice that there is nothing new
        if window:
            before = window.paused_s
            if not window.show(picture, draw, frames, frame, faces):
                break
            summary.pause(window.paused_s - before)


def progress(frames, window):
    """The frames; a bar in the terminal where their number is known and no window shows them."""
    if window or frames.still or not frames.count:
        return frames
    from tqdm import tqdm

    return tqdm(frames, frames.name, frames.count, unit=" frames", leave=False, disable=None)


# ---------------------------------------------------------------------------------------------------------- files
class Files(NamedTuple):
    """What is written of a source; None for what is not."""

    output: Path | None
    csv: Path | None
    timeline: Path | None
    explain: Path | None


def check_flags(args, several):
    """ValueError where a flag names a file and should name a folder, for there are several sources."""
    for flag in Files._fields:
        path = getattr(args, flag)
        if several and path and names_a_file(path) and not path.is_dir():
            raise ValueError(f"of several sources, --{flag} names a folder, without an ending; found {path}")


def name_files(setup, frames):
    """The `Files` of a source: as the flags say, or, of several sources, by its name in the folders that they say."""
    args, several = setup.args, setup.several
    files = Files(*(getattr(args, flag) for flag in Files._fields))
    image = "" if frames.folder else frames.paths[0].suffix if frames.still else ""
    endings = Files(image if frames.still else ".mp4", ".csv", ".timeline.png", f".explained{image}")
    if not (setup.window or args.headless or any(files)):
        folder = ROOT / "output"
        files = Files(folder, folder, None, None)
        if not several:
            files = Files(folder / f"{frames.name}{endings.output}", folder / f"{frames.name}.csv", None, None)
        print(f"no display: writing {files.output} and {files.csv}", file=sys.stderr)
    if not several:
        return files
    files = files._replace(timeline=None) if frames.still else files._replace(explain=None)  # what does not fit it
    for number in itertools.count(1):  # a/clip.mp4 and b/clip.mp4
        name = frames.name if number == 1 else f"{frames.name}-{number}"
        named = Files(*(path and path / f"{name}{end}" for path, end in zip(files, endings, strict=True)))
        if not any(path in setup.taken for path in named if path):
            return named


def recorders(files, frames, classify, labels):
    """The recorder of each of the files."""
    if files.explain and not frames.still:
        raise ValueError(f"--explain is for images, --heatmap for videos and cameras; found {frames.name}")
    if files.timeline and frames.still:
        raise ValueError(f"--timeline needs a video or a camera; found {frames.name}, without a time between images")
    if files.csv:
        yield csv_recorder(files.csv, classify.emotions)
    if files.output:
        yield open_recorder(files.output, frames)
    if files.timeline:
        path = checked_ending(files.timeline, FIGURE_SUFFIXES, "timeline", "a timeline")
        yield timeline_recorder(path, labels)
    if files.explain and frames.folder:
        yield explanation_recorder(folder_for(files.explain, frames, "explain"), classify, labels, folder=True)
    elif files.explain:
        path = checked_ending(files.explain, IMAGE_SUFFIXES, "explain", "an explanation")
        yield explanation_recorder(path, classify, labels)


# --------------------------------------------------------------------------------------------------------- window
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


if __name__ == "__main__":
    sys.exit(exit_status(main))
