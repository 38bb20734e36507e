"""What the live script leaves behind: CSV, annotated video and images, explanations, a timeline, and its summary.

A recorder is a context manager that gives a function to call with every frame, its annotated picture and its faces.
What it writes gets its name only when it is whole.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import importlib.util
import sys
import time
from collections import Counter, defaultdict
from csv import writer as csv_writer
from pathlib import Path

import cv2
import numpy as np

from command_line import UserError, replacing
from load_and_process import IMAGE_SUFFIXES
from models.classifier import crop_box
from recognition.annotation import PALETTE, draw_explanation, stack_explanations

VIDEO_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
FIGURE_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")
FACES_DRAWN = 5  # at most, in a timeline and in the summary: those seen longest


class Records:
    """All that is written of a source: called with a frame, its picture and its faces, it hands them to each recorder.

    A file that can't be written on is told and given up, and the others go on; `faults` counts them.  With the last one
    the error comes out.

    Args:
        recorders: opened here; where one can't be opened, none is left behind.
    """

    def __init__(self, recorders):
        self.faults, self._open = 0, []
        try:
            for recorder in recorders:
                self._open.append((recorder, recorder.__enter__()))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __bool__(self):
        return bool(self._open)

    def __call__(self, frame, picture, faces):
        for pair in list(self._open):
            try:
                pair[1](frame, picture, faces)
            except OSError as error:
                self._open.remove(pair)
                with contextlib.suppress(OSError):
                    pair[0].__exit__(type(error), error, error.__traceback__)
                self._tell(error, last=not self._open)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        kept = False
        while self._open:
            recorder, _ = self._open.pop(0)
            try:
                recorder.__exit__(kind, error, traceback)
                kept = True
            except OSError as fault:
                if fault is not error:
                    self._tell(fault, last=not (self._open or kept))

    def _tell(self, error, last):
        self.faults += 1
        if last:
            raise error
        print(f"error: {error}", file=sys.stderr)


def open_recorder(path, frames):
    """The recorder for what --output names: a video, an image, or a folder for a folder of images.

    Raises:
        ValueError: the ending fits no such file.
    """
    if frames.folder:
        return image_recorder(folder_for(path, frames, "output"), folder=True)
    if frames.still:
        return image_recorder(checked_ending(path, IMAGE_SUFFIXES, "output", "an image"))
    return video_recorder(checked_ending(path, VIDEO_CODECS, "output", "a video"), frames.fps)


def checked_ending(path, endings, flag, kind):
    """The path, if it has one of the endings."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{kind} is written as {', '.join(endings)}; found --{flag} {path}")
    return path


def folder_for(path, frames, flag):
    """The path, if it can be the folder for a folder of images."""
    if names_a_file(path):
        raise UserError(f"a folder of images is written to a folder, a name without an ending; found --{flag} {path}")
    twice = [name for name, count in Counter(path.name for path in frames.paths).items() if count > 1]
    if twice:
        raise UserError(f"images that are written keep their names, and two are called {twice[0]}: rename one")
    return path


def names_a_file(path):
    """Whether a path ends as the files that are written here."""
    return path.suffix.lower() in (*VIDEO_CODECS, *IMAGE_SUFFIXES, *FIGURE_SUFFIXES, ".csv")


@contextlib.contextmanager
def csv_recorder(path, emotions):
    """A row per face of a frame."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv_writer(file)
        table.writerow(["frame", "time_s", "face", "x", "y", "width", "height", "emotion", *emotions])

        def record(frame, picture, faces):
            for face in faces:
                emotion = emotions[face.best]
                shares = (f"{probability:.4f}" for probability in face.probabilities)
                table.writerow([frame.number, f"{frame.time_s:.3f}", face.identity, *face.box, emotion, *shares])

        yield record


@contextlib.contextmanager
def video_recorder(path, fps):
    """The annotated frames as a video at a fixed rate: a frame that came late fills the time that it took.

    Of a longer silence than a second, one second remains.
    """
    with replacing(path) as partial:
        writer = cv2.VideoWriter()
        size, started, written = None, 0.0, 0  # (width, height) and time of the first frame

        def record(frame, picture, faces):
            nonlocal size, started, written
            if size is None:
                size, started = picture.shape[1::-1], frame.time_s
                codec = cv2.VideoWriter_fourcc(*VIDEO_CODECS[path.suffix.lower()])
                if not writer.open(str(partial), codec, fps, size):
                    raise OSError(f"{path} can't be written as a video of {size[0]}x{size[1]} pixels; try .avi")
            if picture.shape[1::-1] != size:
                picture = cv2.resize(picture, size)
            due = round((frame.time_s - started) * fps) + 1 - written
            if due > fps:  # what is cut out moves all that follows
                started += (due - round(fps)) / fps
                due = round(fps)
            for _ in range(due):
                writer.write(picture)
            written += max(0, due)

        try:
            yield record
        finally:
            writer.release()
        if written:
            reader = cv2.VideoCapture(str(partial))  # the writer itself keeps quiet about a full disk
            readable = reader.read()[0]
            reader.release()
            if not readable:
                raise OSError(f"{path} can't be written: is the disk full?")


@contextlib.contextmanager
def image_recorder(path, folder=False):
    """Each annotated image: to the path, or under its own name into a folder."""
    yield lambda frame, picture, faces: write_image(path / frame.name if folder else path, picture)


@contextlib.contextmanager
def explanation_recorder(path, classify, labels, folder=False):
    """Of each image, a row per face: the face, where the network looked, and the probabilities."""

    def record(frame, picture, faces):
        if faces:
            heat = heat_maps(classify, frame, faces)
            rows = [
                draw_explanation(crop_box(frame.image, face.box), each, face.probabilities, labels)
                for face, each in zip(faces, heat, strict=True)
            ]
            write_image(path / frame.name if folder else path, stack_explanations(rows))
        else:
            print(f"notice: no face in {frame.name}, so nothing to explain", file=sys.stderr)

    yield record


def heat_maps(classify, frame, faces):
    """Where the network looked for the emotion that it names, for each face: float (k, h, w) from 0 to 1."""
    return classify.heat_maps(frame.image, [face.box for face in faces], [face.best for face in faces]) if faces else []


@contextlib.contextmanager
def timeline_recorder(path, emotions):
    """A picture of the probabilities of each face over time.

    Raises:
        ValueError: matplotlib, which draws it, is not installed.
    """
    if not importlib.util.find_spec("matplotlib"):
        raise UserError("--timeline needs matplotlib: pip install matplotlib")
    with replacing(path) as partial:
        past = defaultdict(list)

        def record(frame, picture, faces):
            for face in faces:
                past[face.identity].append((frame.time_s, *face.probabilities))

        yield record
        draw_timeline(past, emotions).savefig(partial, dpi=120)


def draw_timeline(past, emotions):
    """Draw probabilities over time, stacked, a row for each of the faces seen longest.

    Args:
        past: {identity: [(time_s, probability, ...), ...]}.
        emotions: labels of the probabilities.

    Returns:
        `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    longest = sorted(sorted(past, key=lambda identity: -len(past[identity]))[:FACES_DRAWN])
    colours = [tuple(value / 255 for value in colour[::-1]) for colour in PALETTE]
    figure = Figure(figsize=(12, 1.6 + 1.6 * max(1, len(longest))), layout="constrained")
    rows = figure.subplots(max(1, len(longest)), 1, sharex=True, squeeze=False).ravel()
    rows[-1].set_xlabel("seconds")
    bands = []
    for axes, identity in zip(rows, longest, strict=False):
        times, *shares = np.array(past[identity]).T
        out_of_sight = np.flatnonzero(np.diff(times) > 1.0) + 1  # these parts are not joined
        for part in np.split(np.arange(len(times)), out_of_sight):
            kept = [share[part] for share in shares]
            bands = axes.stackplot(times[part], kept, colors=[colours[i % len(colours)] for i in range(len(kept))])
        axes.set(ylim=(0, 1), yticks=(0, 0.5, 1), ylabel=f"face {identity}")
        axes.margins(x=0)
    if bands:
        figure.legend(bands, emotions, loc="outside upper center", ncols=min(len(emotions), 10), frameon=False)
    else:
        rows[0].set(yticks=[], title="no face")
    return figure


def write_image(path, picture):
    """Write an image whole, of the kind its ending says.

    Raises:
        OSError: it can't be written.
    """
    content = cv2.imencode(path.suffix, picture)[1]
    with replacing(path) as partial:
        partial.write_bytes(content.tobytes())


class Taken:
    """The files that must not be written: those that are read, and those that are written already.

    Args:
        inputs: paths of all that is read.
    """

    def __init__(self, inputs):
        self._why = {self._key(path): "which is read here" for path in inputs}

    def __contains__(self, path):
        return self._key(path) in self._why

    def take(self, targets):
        """Take the paths of {flag without --: path or None}; ValueError where one is taken."""
        for flag, path in targets.items():
            if path and path in self:
                raise UserError(f"--{flag} would overwrite {path}, {self._why[self._key(path)]}; give another name")
            if path:
                self._why[self._key(path)] = f"which --{flag} writes"

    @staticmethod
    def _key(path):
        return str(Path(path).resolve()).lower()  # some systems take Clip.mp4 and clip.mp4 for the same


class Summary:
    """What was seen: frames, their rate, and for how long each face showed each emotion.

    Args:
        emotions: labels of the probabilities.
        fps: of the source; the first frame counts for one.
        still: whether frames are images, without a time between them.
    """

    def __init__(self, emotions, fps=25.0, still=False):
        self.emotions, self.still, self.rate, self.count = emotions, still, None, 0
        self.seen = defaultdict(Counter)  # {identity: {emotion: seconds}}, of images {None: {emotion: faces}}
        self._frame_s, self._last_s = 1 / fps, None
        self._began = self._since = time.perf_counter()
        self._recent = 0  # frames since then

    def pause(self, seconds):
        """Nothing was looked at for so long."""
        self._began += seconds
        self._since += seconds

    def add(self, faces, time_s):
        """Count a frame, at a time in seconds, and its faces; `rate`, in frames per second, is renewed every second."""
        passed = self._frame_s if self._last_s is None else min(1.0, max(0.0, time_s - self._last_s))
        self._last_s = time_s
        for face in faces:
            self.seen[None if self.still else face.identity][self.emotions[face.best]] += 1 if self.still else passed
        self.count, self._recent = self.count + 1, self._recent + 1
        recent_s = time.perf_counter() - self._since
        if recent_s >= 1:
            self.rate, self._since, self._recent = self._recent / recent_s, time.perf_counter(), 0

    def __str__(self):
        if not self.count:
            return "no frames"
        seconds = max(1e-3, time.perf_counter() - self._began)  # some clocks tick slowly
        everybody = sum(self.seen.values(), Counter())
        looked_at = counted(self.count, "image" if self.still else "frame")
        faces = counted(everybody.total() if self.still else len(self.seen), "face")
        line = f"{looked_at} in {seconds:.1f} s ({self.count / seconds:.0f} per second), {faces}"
        lines = [f"{line}: {_shares(everybody)}" if self.seen else line]
        if len(self.seen) > 1:
            longest = sorted(self.seen, key=lambda identity: -self.seen[identity].total())
            lines += [
                f"  face {identity}, {self.seen[identity].total():.1f} s: {_shares(self.seen[identity])}"
                for identity in sorted(longest[:FACES_DRAWN])
            ]
            lines += [f"  and {len(longest) - FACES_DRAWN} seen for less"] if len(longest) > FACES_DRAWN else []
        return "\n".join(lines)


def _shares(seen):
    """Shares of a `Counter`, the largest first; those that round to nothing are left out."""
    total = seen.total() or 1
    shares = [(emotion, amount / total) for emotion, amount in seen.most_common() if amount >= 0.005 * total]
    return ", ".join(f"{emotion} {share:.0%}" for emotion, share in shares)


def counted(count, noun):
    """The number and its noun, in the plural unless it is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
