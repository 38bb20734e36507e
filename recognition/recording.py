"""Recording: CSV tables, annotated videos and images, explanations, timelines, and the summary of a source.

A recorder is a context manager.  It gives a function that is called with every frame, its annotated picture and its
faces.  Pictures get their names when they are whole.  Tables and videos grow: what was recorded stays, even if the
program is killed.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import errno
import importlib.util
import itertools
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from csv import writer as csv_writer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import cv2
import numpy as np

from command_line import (
    UserError,
    WriteError,
    is_about_writing,
    is_device,
    new_figure,
    opening_to_write,
    printable,
    replacing,
    uninterrupted,
)
from face_files.images import IMAGE_SUFFIXES
from models.classifier import EmotionClassifier, crop_box
from recognition.annotation import draw_explanation, emotion_colours, stack_explanations
from recognition.sources import Clock, Frame, Source, Video
from recognition.tracking import Face
from recognition.video_writing import VIDEO_CODECS, VideoFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLUSH_EVERY = 1.0  # seconds, of a table
SYNC_EVERY = 5.0  # seconds: what a power cut takes of a table or a video, at most, beside what is not flushed yet
FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
OUT_OF_SIGHT = 1.0  # seconds; a face's curves before and after a longer gap are not joined
PORTRAIT = 64  # pixels, the longer side of a face beside its row of a timeline
PORTRAITS_KEPT = 100  # faces at most, in memory
FACES_DRAWN = 5  # at most, in a timeline and in the summary: those seen longest

Record = Callable[[Frame, np.ndarray | None, Sequence[Face]], None]  # a frame, its annotated picture, its faces
Recorder = contextlib.AbstractContextManager[Record]

# ----------------------------------------------------------------------------------------------------------
# The names of the files


class OutputFiles(NamedTuple):
    """The files that are written of a source; None for a file that is not written."""

    output: Path | None
    csv: Path | None
    timeline: Path | None
    explain: Path | None


class ReservedPaths:
    """The files that must not be written: all that are read, and those that are being written already.

    Args:
        inputs: Paths of all files that are read.
    """

    def __init__(self, inputs: Iterable[str | Path]):
        self._why = {self._key(path): "which is read here" for path in inputs}

    def __contains__(self, path: Path) -> bool:
        return self._key(path) in self._why

    def reserve(self, files: OutputFiles) -> None:
        """Reserve the files of a source.

        Raises:
            UserError: One of the files is reserved already.
        """
        for flag, path in files._asdict().items():
            if path and path in self:
                raise UserError(f"--{flag} would overwrite {path}, {self._why[self._key(path)]}; give another name")
            if path:
                self._why[self._key(path)] = f"which --{flag} writes"

    @staticmethod
    def _key(path):
        return os.path.realpath(path).lower()  # on some systems, Clip.mp4 and clip.mp4 are the same file


def check_folders(wanted: OutputFiles) -> None:
    """Raise a `UserError` where one of the paths is not fit to be a folder for the files of several sources."""
    for flag, path in wanted._asdict().items():
        if path and names_a_file(path) and not os.path.isdir(path):
            raise UserError(f"of several sources, --{flag} names a folder, without an ending; found {path}")


def name_in_folders(wanted: OutputFiles, frames: Source, reserved: ReservedPaths) -> OutputFiles:
    """Name the files of a source after the source.

    Args:
        wanted: The folder for each kind of file.
        frames: The source.
        reserved: Names that are not to be used; a second clip is called clip-2.

    Returns:
        Paths in the folders, without the kinds of files that don't fit the source.
    """
    wanted = wanted._replace(timeline=None) if frames.still else wanted._replace(explain=None)
    image = "" if frames.multiple or not frames.still else Path(name_to_write(frames.paths[0].name)).suffix
    endings = OutputFiles(image if frames.still else ".mp4", ".csv", ".timeline.png", f".explained{image}")
    for number in itertools.count(1):
        name = frames.name if number == 1 else f"{frames.name}-{number}"
        named = OutputFiles(
            *(folder and folder / f"{name}{ending}" for folder, ending in zip(wanted, endings, strict=True))
        )
        if not any(path in reserved for path in named if path):
            return named


def name_to_write(name: str) -> str:
    """Return the name under which an annotated image is written: .heic and the like become .png."""
    return name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"


def names_a_file(path: Path) -> bool:
    """Return whether a path ends like a file that is written here."""
    return path.suffix.lower() in (*VIDEO_CODECS, *IMAGE_SUFFIXES, *FIGURE_SUFFIXES, ".csv")


# ----------------------------------------------------------------------------------------------------------
# All recorders of a source


class Records:
    """All recorders of a source: a call with a frame, its picture and its faces goes to each of them.

    A file that can't be written any more is told and given up, and the others go on; `faults` counts such files.  If no
    other file is left, the error is raised.

    Args:
        recorders: They are opened here.  If one of them can't be opened, no file is left behind.
    """

    def __init__(self, recorders: Iterable[Recorder]):
        self.faults, self._open = 0, []
        try:
            for recorder in recorders:
                self._open.append((recorder, recorder.__enter__()))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __bool__(self) -> bool:
        return bool(self._open)

    def __call__(self, frame: Frame, picture: np.ndarray | None, faces: Sequence[Face]) -> None:
        for recorder, record in list(self._open):
            try:
                record(frame, picture, faces)
            except (UserError, OSError) as error:
                self._give_up(recorder, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, error, traceback):
        with uninterrupted():  # a second Ctrl-C does not stop the saving
            self._close_all(kind, error, traceback)

    def _close_all(self, kind, error, traceback):
        kept = False
        while self._open:
            recorder, _ = self._open.pop(0)
            try:
                recorder.__exit__(kind, error, traceback)
                kept = True
            except UserError as fault:
                if error is None or fault.__cause__ is not error:
                    self._tell(fault, last=error is None and not (self._open or kept))
            except BaseException as bug:
                self._close_all(type(bug), bug, bug.__traceback__)
                raise

    def discard(self) -> None:
        """Close all recorders without leaving a file behind."""
        self.__exit__(_Discarded, _Discarded(), None)

    def _give_up(self, recorder, error):
        """Close a recorder after an error; raise the error again, unless closing makes a `UserError` of it."""
        self._open = [pair for pair in self._open if pair[0] is not recorder]
        try:
            recorder.__exit__(type(error), error, error.__traceback__)
            raise error
        except UserError as fault:
            self._tell(fault, last=not self._open)

    def _tell(self, fault, last):
        self.faults += 1
        if last:
            raise fault
        print(f"error: {printable(str(fault))}", file=sys.stderr)


class _Discarded(Exception):
    """Nothing was recorded."""


def open_recorders(
    files: OutputFiles, frames: Source, classify: EmotionClassifier, labels: Sequence[str]
) -> Iterator[Recorder]:
    """Give the recorder of each of the files.

    Args:
        files: Their endings say what is written.
        frames: The source.
        classify: Makes the heat maps of explanations.
        labels: Of the emotions, in the user's language.

    Raises:
        UserError: A file's ending, or the kind of file, does not fit the source.
    """
    if files.explain and not frames.still:
        raise UserError(f"--explain is for images, --heatmap for videos and cameras; found {frames.name}")
    if files.timeline and frames.still:
        raise UserError(f"--timeline needs a video or a camera; found {frames.name}, without a time between images")
    if files.csv:
        yield csv_recorder(files.csv, classify.emotions)
    if files.output:
        yield output_recorder(files.output, frames)
    if files.timeline:
        path = _checked_ending(files.timeline, FIGURE_SUFFIXES, "timeline", "a timeline")
        yield timeline_recorder(path, classify.emotions, labels)
    if files.explain and frames.multiple:
        yield explanation_recorder(_checked_folder(files.explain, frames, "explain"), classify, labels, folder=True)
    elif files.explain:
        path = _checked_ending(files.explain, IMAGE_SUFFIXES, "explain", "an explanation")
        yield explanation_recorder(path, classify, labels)


def output_recorder(path: Path, frames: Source) -> Recorder:
    """Return the recorder of the annotated frames: for a video, an image, or a folder of images.

    Raises:
        UserError: The ending does not fit the source.
    """
    if frames.multiple:
        return image_recorder(_checked_folder(path, frames, "output"), folder=True)
    if frames.still:
        return image_recorder(_checked_ending(path, IMAGE_SUFFIXES, "output", "an image"))
    sound = frames.path if isinstance(frames, Video) else None
    return video_recorder(_checked_ending(path, VIDEO_CODECS, "output", "a video"), frames.fps, sound)


def _checked_ending(path, endings, flag, kind):
    """Return the path if it has one of the endings."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{kind} is written as {', '.join(endings)}; found --{flag} {path}")
    return path


def _checked_folder(path, frames, flag):
    """Return the path if it can be the folder for images that keep their names."""
    if names_a_file(path):
        raise UserError(f"a folder of images is written to a folder, a name without an ending; found --{flag} {path}")
    twice = [name for name, count in Counter(path.name for path in frames.paths).items() if count > 1]
    if twice:
        raise UserError(f"images that are written keep their names, and two are called {twice[0]}: rename one")
    return path


# ----------------------------------------------------------------------------------------------------------
# The recorders


@contextlib.contextmanager
def reaching_the_disk(path: Path) -> Iterator[None]:
    """Have the system put what is written to a file on the disk every few seconds, in a thread of its own.

    Left alone, Linux may wait for half a minute, and a power cut takes what was written in this time.
    """
    over = threading.Event()

    def sync():
        while not over.wait(SYNC_EVERY):
            with contextlib.suppress(OSError):  # the writer tells of a full disk
                file = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    if not is_device(path):
        threading.Thread(target=sync, name=f"sync {path.name}", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def csv_recorder(path: Path, emotions: Sequence[str]) -> Iterator[Record]:
    """Write a row per face of a frame; what was written stays, and is in the file after a second."""
    with opening_to_write(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        existed = path.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115
    table = csv_writer(file)
    frames, rows, flushed_s = 0, 0, time.monotonic()

    def record(frame, picture, faces):
        nonlocal frames, rows, flushed_s
        if not frames:
            if not is_device(path):
                file.truncate(0)  # an older table stays until there is something new
            table.writerow(["frame", "time_s", "face", "x", "y", "width", "height", "emotion", *emotions])
        frames, rows = frames + 1, rows + len(faces)
        for face in faces:
            emotion = emotions[face.best]
            shares = (f"{probability:.4f}" for probability in face.probabilities)
            table.writerow([frame.number, f"{frame.time_s:.3f}", face.identity, *face.box, emotion, *shares])
        if time.monotonic() - flushed_s > FLUSH_EVERY:
            file.flush()
            flushed_s = time.monotonic()

    try:
        with reaching_the_disk(path):
            yield record
        file.close()
    except BaseException as error:
        with contextlib.suppress(OSError):
            file.close()
        if not existed and (not rows or isinstance(error, _Discarded)):
            target.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_about_writing(error, path):
            raise WriteError(f"{path} can't be written: {error.strerror}", exit_status=1) from error
        raise


@contextlib.contextmanager
def video_recorder(path: Path, fps: float, sound: Path | None = None) -> Iterator[Record]:
    """Write the annotated frames as a video at a fixed rate: a frame of a video is repeated for the time that it lasts.

    How long a camera's frame lasts is not known; a late one is repeated for the time that it took.  Where no frame came
    for more than a second, one second of the video remains.  A picture of another size than the first one is scaled to
    fit, on black.  If the program ends early, the video has what was recorded.

    Args:
        path: The video; its ending is one of VIDEO_CODECS.
        fps: Frames per second.
        sound: The video file that the frames come from; its sound is kept where ffmpeg is installed.
    """
    video = VideoFile(path, fps)
    # (width, height) and time of the first frame; this time, plus the gaps that were left out
    size, first_s, started = None, 0.0, 0.0

    def record(frame, picture, faces):
        nonlocal size, first_s, started
        if size is None:
            size, first_s, started = picture.shape[1::-1], frame.time_s, frame.time_s
        if picture.shape[1::-1] != size:
            picture = _fit(picture, size)
        lasts_s = 1 / fps if frame.lasts_s is None else frame.lasts_s
        due = round((frame.time_s - started + lasts_s) * fps) - video.frames
        if due > fps and frame.lasts_s is None:  # the time that is left out moves all later frames
            started += (due - round(fps)) / fps
            due = round(fps)
        for _ in range(due):
            video.write(picture)

    try:
        with reaching_the_disk(video.unfinished):
            yield record
    except BaseException as error:
        if isinstance(error, _Discarded) or not video.frames:
            video.discard()
        else:
            with contextlib.suppress(UserError):  # the first error is the one to tell
                video.finish(sound, first_s)
        raise
    if video.frames:
        video.finish(sound, first_s)
    else:
        video.discard()


def _fit(picture, size):
    """Return a picture scaled to fit into a size, width and height, on black; its shape stays."""
    (width, height), (h, w) = size, picture.shape[:2]
    scale = min(width / w, height / h)
    w, h = max(1, round(scale * w)), max(1, round(scale * h))
    picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (width - w) // 2, (height - h) // 2
    return cv2.copyMakeBorder(picture, top, height - h - top, left, width - w - left, cv2.BORDER_CONSTANT)


@contextlib.contextmanager
def image_recorder(path: Path, folder: bool = False) -> Iterator[Record]:
    """Write each annotated image: to the path, or into a folder under the image's own name."""
    yield lambda frame, picture, faces: write_image(path / name_to_write(frame.name) if folder else path, picture)


@contextlib.contextmanager
def explanation_recorder(
    path: Path, classify: EmotionClassifier, labels: Sequence[str], folder: bool = False
) -> Iterator[Record]:
    """Write, of each image, a row per face: the face, where the network looked, and the probabilities."""
    colours = emotion_colours(classify.emotions)

    def record(frame, picture, faces):
        if faces:
            rows = [
                draw_explanation(crop_box(frame.image, face.box, face.roll), heat, face.probabilities, labels, colours)
                for face, heat in zip(faces, heat_maps(classify, frame.image, faces), strict=True)
            ]
            write_image(path / name_to_write(frame.name) if folder else path, stack_explanations(rows))
        else:
            print(f"notice: no face in {printable(frame.name)}, so nothing to explain", file=sys.stderr)

    yield record


def heat_maps(classify: EmotionClassifier, image: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """Return where the network looked for the emotion that each face's label names: float (k, h, w) from 0 to 1."""
    if not faces:
        return np.empty((0, 1, 1), np.float32)
    boxes, labels, rolls = zip(*((face.box, face.best, face.roll) for face in faces), strict=True)
    return classify.heat_maps(image, boxes, labels, rolls)


@contextlib.contextmanager
def timeline_recorder(path: Path, emotions: Sequence[str], labels: Sequence[str] | None = None) -> Iterator[Record]:
    """Draw the probabilities over time of the FACES_DRAWN faces that were seen longest.

    Args:
        path: The file that is written.
        emotions: As for `draw_timeline`.
        labels: As for `draw_timeline`.

    Raises:
        UserError: matplotlib, which draws the timeline, is not installed.
    """
    if not importlib.util.find_spec("matplotlib"):
        raise UserError("--timeline needs matplotlib: pip install matplotlib")
    with replacing(path) as partial:
        past, portraits = defaultdict(list), {}  # {identity: (area in pixels, picture)}

        def record(frame, picture, faces):
            for face in faces:
                area = int(face.box[2]) * int(face.box[3])
                if area > portraits.get(face.identity, (0, None))[0]:
                    crop = crop_box(frame.image, face.box, face.roll)
                    portraits[face.identity] = area, _portrait(crop) if crop.size else crop
                    if len(portraits) > PORTRAITS_KEPT:
                        others = portraits.keys() - {face.identity}
                        del portraits[min(others, key=lambda identity: len(past[identity]))]
                times = [frame.time_s]
                if frame.lasts_s and frame.lasts_s > OUT_OF_SIGHT:  # the face stays in sight until the next frame
                    times.append(frame.time_s + frame.lasts_s)
                past[face.identity] += ((time_s, *face.probabilities) for time_s in times)

        yield record
        pictures = {identity: picture for identity, (_, picture) in portraits.items() if picture.size}
        draw_timeline(past, emotions, labels, pictures).savefig(partial, dpi=120)


def _portrait(crop):
    """Return a small copy of the crop of a face, which keeps its shape; a face that is small already is only copied."""
    scale = min(1, PORTRAIT / max(crop.shape[:2]))
    height, width = (max(1, round(scale * side)) for side in crop.shape[:2])
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)


def draw_timeline(
    past: Mapping[int, Sequence[Sequence[float]]],
    emotions: Sequence[str],
    labels: Sequence[str] | None = None,
    portraits: Mapping[int, np.ndarray] | None = None,
) -> "Figure":
    """Draw probabilities over time, stacked, with a row for each of the faces seen longest.

    Args:
        past: {identity: [(time_s, probability, ...), ...]}.
        emotions: Of the probabilities; an emotion's colour is that of its bar in the pictures.
        labels: What the emotions are called in the figure; None for their own names.
        portraits: {identity: uint8 (h, w, 3), BGR}, to be drawn beside the row of the face.
    """
    longest = sorted(sorted(past, key=lambda identity: -len(past[identity]))[:FACES_DRAWN])
    colours = [tuple(value / 255 for value in colour[::-1]) for colour in emotion_colours(emotions)]
    figure = new_figure(figsize=(12, 1.6 + 1.6 * max(1, len(longest))), layout="constrained")
    rows = figure.subplots(max(1, len(longest)), 1, sharex=True, squeeze=False).ravel()
    rows[-1].set_xlabel("seconds")
    bands = []
    for axes, identity in zip(rows, longest, strict=False):
        times, *shares = np.array(past[identity]).T
        out_of_sight = np.flatnonzero(np.diff(times) > OUT_OF_SIGHT) + 1  # the parts before and after are not joined
        for part in np.split(np.arange(len(times)), out_of_sight):
            kept = [share[part] for share in shares]
            bands = axes.stackplot(times[part], kept, colors=colours)
        axes.set(ylim=(0, 1), yticks=(0, 0.5, 1), ylabel=f"face {identity}")
        axes.margins(x=0)
        if portraits and identity in portraits:
            beside = axes.inset_axes((1.01, 0, 0.1, 1))  # in shares of the row; imshow keeps the picture's shape
            beside.imshow(portraits[identity][:, :, ::-1])
            beside.axis("off")
    if bands:
        figure.legend(
            bands, labels or emotions, loc="outside upper center", ncols=min(len(emotions), 10), frameon=False
        )
    else:
        rows[0].set(yticks=[], title="no face")
    return figure


def write_image(path: Path, picture: np.ndarray) -> None:
    """Write an image whole, of the kind that its ending says.

    Raises:
        UserError: The image can't be written.
    """
    encoded, content = cv2.imencode(path.suffix, picture)
    if not encoded:
        height, width = picture.shape[:2]
        raise UserError(f"{path} can't be written as an image of {width}x{height} pixels; try .png", 1)
    with replacing(path) as partial:
        partial.write_bytes(content.tobytes())


# ----------------------------------------------------------------------------------------------------------
# The summary


class Summary:
    """What was seen: the number of frames, their rate, and for how long each face showed each emotion.

    Args:
        emotions: Labels of the probabilities.
        clock: The source's; the summary begins now.
        fps: Of the source; the first frame counts for one frame's time.
        still: Whether frames are images, without a time between them.
    """

    def __init__(self, emotions: Sequence[str], clock: Clock, fps: float = 25.0, still: bool = False):
        self.emotions, self.clock, self.still, self.rate, self.count = emotions, clock, still, None, 0
        self.seen = defaultdict(Counter)  # {identity: {emotion: seconds}}, of images {None: {emotion: faces}}
        self._frame_s, self._last_s = 1 / fps, None
        self._began = self._since = clock.now()
        self._recent = 0  # frames since `_since`

    def add(self, faces: Sequence[Face], time_s: float, lasts_s: float | None = None) -> None:
        """Count a frame and its faces; `rate`, in frames per second, is renewed every second.

        Args:
            faces: In the frame.
            time_s: Of the frame, in seconds.
            lasts_s: Seconds until the next frame; None where nobody knows: the time since the frame before counts.
        """
        passed = self._frame_s if self._last_s is None else min(1.0, max(0.0, time_s - self._last_s))
        passed = passed if lasts_s is None else lasts_s
        self._last_s = time_s
        for face in faces:
            self.seen[None if self.still else face.identity][self.emotions[face.best]] += 1 if self.still else passed
        self.count, self._recent = self.count + 1, self._recent + 1
        recent_s = self.clock.now() - self._since
        if recent_s >= 1:
            self.rate, self._since, self._recent = self._recent / recent_s, self.clock.now(), 0

    def __str__(self) -> str:
        if not self.count:
            return "no frames"
        seconds = max(1e-3, self.clock.now() - self._began)  # on some systems the clock ticks slowly
        all_faces = sum(self.seen.values(), Counter())
        looked_at = counted(self.count, "image" if self.still else "frame")
        faces = counted(all_faces.total() if self.still else len(self.seen), "face")
        of = "shares of " if self.still else "shares of the time of "  # a label in a picture has the confidence
        of = of if self.seen else ""
        line = f"{looked_at} in {seconds:.1f} s ({self.count / seconds:.0f} per second), {of}{faces}"
        lines = [f"{line}: {_shares(all_faces)}" if self.seen else line]
        if len(self.seen) > 1:
            longest = sorted(self.seen, key=lambda identity: -self.seen[identity].total())
            lines += [
                f"  face {identity}, {self.seen[identity].total():.1f} s: {_shares(self.seen[identity])}"
                for identity in sorted(longest[:FACES_DRAWN])
            ]
            lines += [f"  and {len(longest) - FACES_DRAWN} seen for less"] if len(longest) > FACES_DRAWN else []
        return "\n".join(lines)


def _shares(seen):
    """Return the shares of a `Counter` as text, the largest first, without those that round to nothing."""
    total = seen.total() or 1
    shares = [(emotion, amount / total) for emotion, amount in seen.most_common() if amount >= 0.005 * total]
    return ", ".join(f"{emotion} {share:.0%}" for emotion, share in shares)


def counted(count: int, noun: str) -> str:
    """Return the number and its noun, in the plural unless the number is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
