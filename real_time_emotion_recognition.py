"""Find the faces a camera sees and name the emotion each one shows, live.

    python real_time_emotion_recognition.py                      # the camera; a drawn face if there is none
    python real_time_emotion_recognition.py --source clip.mp4 --output annotated.mp4 --csv clip.csv
    python real_time_emotion_recognition.py --source photo.jpg --headless --output annotated.png
    python real_time_emotion_recognition.py --source photos/ one.mp4 two.mp4 --headless --output annotated/
    python real_time_emotion_recognition.py --model mine.hdf5 models/simple_CNN.hdf5        # averaged

In the window, ? shows the keys; q, Esc or the close button ends the program.  Images never leave the machine.  Files
are written only where you ask for them: --output, --csv, --timeline, --explain, or the keys s and r.  Without a display
and without --headless, the program writes to output/, and says so.
"""

import os
import sys

if __name__ == "__main__":  # `python -I` does not look for modules beside the script
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from command_line import (  # first: it makes Ctrl-C quiet, and names a missing package
    Parser,
    UserError,
    exit_status,
    is_device,
    number_in_range,
    printable,
    quiet_libraries,
)

# isort: split
import argparse
import contextlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2

from models.checkpoint import parse_emotions, parse_input_range, warn_if_trained_on_drawings
from recognition.annotation import LANGUAGES, Annotator
from recognition.detection import DEFAULT_CASCADE
from recognition.recognizer import DEFAULT_MODELS, EmotionRecognizer, Recognize, show_progress
from recognition.recording import (
    OutputFiles,
    Records,
    ReservedPaths,
    Summary,
    check_folders,
    name_in_folders,
    open_recorders,
)
from recognition.sources import Frame, Source, SourceLost, expand_sources, open_source, read_files
from recognition.window import View, Window, open_window

# ----------------------------------------------------------------------------------------------------------
# fmt: off
# Settings.  Edit here, or pass the flag of the same name (see --help).

source = []                    # camera numbers, videos, images, folders, stream URLs or "drawn"; none: camera 0
model = [*DEFAULT_MODELS]      # one checkpoint, or several to average; the default: three, see models/README.md
emotions = None                # "angry,disgust,...": the labels of the outputs, for a model whose file names none
input_range = None             # "0,1": the values of black and white, for a model whose file does not say them
# the files that are written; with several sources, folders
output = None                  # annotated .mp4, .avi or .mkv (image: .png or .jpg; folder of images: a folder)
csv = None                     # a row per face per frame
timeline = None                # .png, .jpg, .pdf or .svg: the emotions of each face over time
explain = None                 # of images, .png: each face, where the network looked, and its probabilities
# the window and the pictures
headless = False               # open no window
language = "en"                # of the labels in pictures: en, fr
heatmap = False                # show where the network looked
mirror = False                 # show the picture as a mirror does
# naming emotions
flip = False                   # average in each face's mirror image: a little more accurate, for twice the time
smoothing = 0.15               # time constant in seconds of each face's average over time; 0: no average
label_lead = 0.2               # probability by which another emotion must lead to take the label at once; 0: any lead
uncertain_below = 0.4          # probability under which a label reads "uncertain"; 0: never; over 1: always
# finding faces
detector = "haar"              # haar, blazeface, or the path of YuNet's .onnx file
smallest_face = 0.067          # side of the smallest face, share of the frame's shorter side: about 3 m from a webcam
still_smallest_face = 0.03     # the same for images, where there is time to look for small faces
cropped = False                # every image is a face already, cut out as in a data set: look for none
# haar alone
cascade = DEFAULT_CASCADE      # a path, or the name of a file in haarcascade_files/ or in OpenCV
detection_side = 360           # pixels; the shorter side of larger frames is reduced to this to look for faces
still_detection_side = 960     # the same for images
scale_factor = 1.2             # step between the face sizes looked for
still_scale_factor = 1.1       # the same for images
min_neighbors = 5              # overlapping detections that make a face; more: fewer false faces, and fewer true ones
# fmt: on
# ----------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the settings above are the defaults."""
    parser = Parser(description="Name the emotion of every face, live.")

    add = parser.add_argument_group("input").add_argument
    kinds = "camera number, video, image, folder, stream URL or drawn; several, one after the other (default: camera 0)"
    add("--source", nargs="+", default=source, metavar="SOURCE", help=kinds)
    add("--model", type=Path, nargs="+", default=model, metavar="MODEL.hdf5", help="checkpoint; several are averaged")
    text = "names in the order of the outputs, for a model whose file names none"
    add("--emotions", default=emotions, metavar="A,B,C", help=text)
    text = "what the network takes for black and white, for a model whose file does not say it: 0,1 or 0,255"
    add("--input-range", default=input_range, metavar="LOW,HIGH", help=text)

    add = parser.add_argument_group("files to write (of several sources: folders)").add_argument
    add("--output", type=Path, default=output, metavar="FILE", help="the annotated video, image or folder of images")
    add("--csv", type=Path, default=csv, metavar="FILE", help="a row per face per frame")
    add("--timeline", type=Path, default=timeline, metavar="FILE", help="emotions over time (.png, .svg ...)")
    add("--explain", type=Path, default=explain, metavar="PNG", help="of images: faces, heat maps and bars")

    switch = argparse.BooleanOptionalAction
    add = parser.add_argument_group("window and pictures").add_argument
    add("--headless", action=switch, default=headless, help="open no window")
    add("--language", choices=LANGUAGES, default=language, help="of the labels in pictures (default: %(default)s)")
    add("--heatmap", action=switch, default=heatmap, help="show where the network looked")
    add("--mirror", action=switch, default=mirror, help="show the picture as a mirror does")

    def number(kind, least, most=math.inf):
        return {"type": number_in_range(kind, least, most=most), "metavar": "N"}

    add = parser.add_argument_group("naming emotions").add_argument
    add("--flip", action=switch, default=flip, help="average in each face's mirror image")
    text = "seconds, time constant of each face's average over time; 0: no average (default: %(default)s)"
    add("--smoothing", **number(float, 0), default=smoothing, help=text)
    text = "probability by which another emotion must lead to take the label at once (default: %(default)s)"
    add("--label-lead", **number(float, 0, most=1), default=label_lead, help=text)
    text = 'probability under which a label reads "uncertain" (default: %(default)s)'
    add("--uncertain-below", **number(float, 0), default=uncertain_below, help=text)

    add = parser.add_argument_group("finding faces").add_argument
    text = "haar, blazeface, or YuNet's .onnx file (default: %(default)s)"
    add("--detector", default=detector, metavar="NAME", help=text)
    text = "side of the smallest face, share of the frame's shorter side (default: %(default)s)"
    add("--smallest-face", **number(float, 0, most=1), default=smallest_face, help=text)
    text = "the same for images (default: %(default)s)"
    add("--still-smallest-face", **number(float, 0, most=1), default=still_smallest_face, help=text)
    add("--cropped", action=switch, default=cropped, help="every image is a face already, cut out as in a data set")

    add = parser.add_argument_group("the detector haar").add_argument
    add("--cascade", default=cascade, metavar="XML", help="Haar cascade (default: %(default)s)")
    text = "pixels to which the shorter side of larger frames is reduced (default: %(default)s)"
    add("--detection-side", **number(int, 24), default=detection_side, help=text)
    text = "the same for images (default: %(default)s)"
    add("--still-detection-side", **number(int, 24), default=still_detection_side, help=text)
    text = "step between the face sizes looked for (default: %(default)s)"
    add("--scale-factor", **number(float, 1.01), default=scale_factor, help=text)
    text = "the same for images (default: %(default)s)"
    add("--still-scale-factor", **number(float, 1.01), default=still_scale_factor, help=text)
    text = "overlapping detections that make a face (default: %(default)s)"
    add("--min-neighbors", **number(int, 0), default=min_neighbors, help=text)

    args = parser.parse_args(argv)
    if not args.model:
        parser.error("argument --model: needs a checkpoint; found none")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Process all sources; return 0, or 1 where a file or a source failed."""
    args = parse_args(argv)
    # OpenCV and FFmpeg print a line for every failed attempt; the user needs only ours
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    recognizer = build_recognizer(args)
    sources = expand_sources(args.source)
    files = OutputFiles(args.output, args.csv, args.timeline, args.explain)
    several = len(sources) > 1
    if several:
        check_folders(files)
    read = [*args.model, recognizer.detector_path, *(path for each in sources for path in read_files(each))]
    reserved = ReservedPaths(read)
    annotate = Annotator(recognizer.emotions, args.language, args.heatmap, args.mirror)
    faults = 0
    with contextlib.nullcontext() if args.headless else open_window(annotate, ROOT / "output") as window:
        session = Session(args, recognizer, annotate, window, several, files, reserved)
        for each in sources:
            try:
                faults += process_source(each, session)
            except UserError as error:
                if not several:
                    raise
                faults += 1
                print(f"error: {printable(str(error))}", file=sys.stderr)
            if window and window.ended:
                break
    return 1 if faults else 0


def build_recognizer(args: argparse.Namespace) -> EmotionRecognizer:
    """Return the recognizer that the flags describe."""
    return EmotionRecognizer(
        args.model,
        emotions=parse_emotions(args.emotions),
        input_range=parse_input_range(args.input_range),
        flip=args.flip,
        smoothing=args.smoothing,
        label_lead=args.label_lead,
        uncertain_below=args.uncertain_below,
        detector=args.detector,
        smallest_face=args.smallest_face,
        still_smallest_face=args.still_smallest_face,
        cascade=args.cascade,
        detection_side=args.detection_side,
        still_detection_side=args.still_detection_side,
        scale_factor=args.scale_factor,
        still_scale_factor=args.still_scale_factor,
        min_neighbors=args.min_neighbors,
    )


class Session(NamedTuple):
    """What all sources of a run share."""

    args: argparse.Namespace
    recognizer: EmotionRecognizer
    annotate: Annotator
    window: Window | None
    several: bool  # sources
    files: OutputFiles  # as the flags name them
    reserved: ReservedPaths


def process_source(source: int | str | Path | list[Path] | None, session: Session) -> int:
    """Show and record one source, print what was seen, and return how many files could not be read or written.

    Args:
        source: As `open_source` takes it.
        session: The parts that all sources share.

    Raises:
        UserError: The source can't be read any more, or none of its files can be written.
    """
    recognizer, annotate, window = session.recognizer, session.annotate, session.window
    ended_by = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        frames = stack.enter_context(open_source(source, endless=window is not None and not session.several))
        if not frames.drawn:
            warn_if_trained_on_drawings(recognizer.classify.headers, recognizer.classify.headers.values())
        files = name_files(frames, session)
        session.reserved.reserve(files)
        earlier = {path: state_of(path) for path in filter(None, files)}
        records = stack.enter_context(Records(open_recorders(files, frames, recognizer.classify, annotate.labels)))
        if window:
            stack.callback(window.stop_recording)  # times begin anew with the next source
        recognize = recognizer.follow(frames.still, session.args.cropped)
        annotate.forget()
        summary = Summary(recognizer.emotions, frames.clock, frames.fps, frames.still)
        view = View(frames, recognizer.classify, annotate, summary, window)
        try:
            run(frames, recognize, view, records, summary, window)
        except (KeyboardInterrupt, SourceLost) as error:
            if not summary.count:
                raise
            ended_by = error  # the files hold everything until then, and are kept
        if not summary.count:
            records.discard()  # no empty files
    print(f"{printable(frames.name)}: {summary}" if session.several else summary)
    for path, state in earlier.items():
        if path.exists() and (is_device(path) or state_of(path) != state):
            print(f"written: {printable(str(path))}")
    if ended_by:
        raise ended_by
    return frames.broken + records.faults


def state_of(path: Path) -> tuple[int, int] | None:
    """Return a path's modification time in ns and its inode, which change when it is written; None: no such path."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns, path.stat().st_ino


def name_files(frames: Source, session: Session) -> OutputFiles:
    """Return the files to write of a source: as the flags say, or in output/ where nobody would see anything."""
    files = session.files
    if not (session.window or session.args.headless or any(files)):
        files = name_in_folders(OutputFiles(ROOT / "output", ROOT / "output", None, None), frames, session.reserved)
        print(f"no display: writing {files.output} and {files.csv}", file=sys.stderr)
        return files
    return name_in_folders(files, frames, session.reserved) if session.several else files


def run(
    frames: Source, recognize: Recognize, view: View, records: Records, summary: Summary, window: Window | None
) -> None:
    """Show and record every frame, with or without a face in it, until the source or the user ends the loop."""
    for frame in with_progress(frames, window):  # None: no new frame yet
        if frame is not None:
            faces = recognize(frame.image, frame.time_s)  # found, followed and named
            picture = view.update(frame, faces) if records or window else None  # boxes, labels and bars
            if not frame.again:
                records(frame, picture, faces)
                summary.add(faces, frame.time_s, frame.lasts_s)
            if frames.still and not frame.again:
                named = ", ".join(view.annotate.label(face)[0] for face in faces) or "no face found"
                print(printable(f"{frame.number} {frame.name}: {named}"), flush=True)
        if window and not window.show(view, frame):
            break


def with_progress(frames: Source, window: Window | None) -> Iterable[Frame | None]:
    """Return the frames, with a progress bar in the terminal where their number is known and no window shows them."""
    if window or frames.still or not frames.count:
        return frames
    return show_progress(frames)


if __name__ == "__main__":
    sys.exit(exit_status(main))
