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
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from command_line import Parser, UserError, exit_status, number_in_range
from load_and_process import IMAGE_SUFFIXES
from models.classifier import EmotionClassifier
from recognition.annotation import LANGUAGES, Annotator
from recognition.detection import FaceDetector, find_cascade
from recognition.recording import (
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
)
from recognition.sources import Frame, SourceLost, expand_sources, open_source, read_files
from recognition.tracking import FaceTracker, Smoother, still_faces
from recognition.window import Window, has_display

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
        type=number_in_range(float, 0),
        default=smoothing,
        metavar="SECONDS",
        help="time constant of each face's average over time, 0: none (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if not args.model:
        parser.error("argument --model: needs a checkpoint; found none")
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
            raise UserError(f"of several sources, --{flag} names a folder, without an ending; found {path}")


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
        raise UserError(f"--explain is for images, --heatmap for videos and cameras; found {frames.name}")
    if files.timeline and frames.still:
        raise UserError(f"--timeline needs a video or a camera; found {frames.name}, without a time between images")
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


if __name__ == "__main__":
    sys.exit(exit_status(main))
