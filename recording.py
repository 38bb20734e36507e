"""What the live script leaves behind: CSV, annotated video and images, explanations, a timeline, and its summary.

A recorder is a context manager that gives a function to call with every frame, its annotated picture and its faces.
What it writes gets its name only when it is whole.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import importlib.util
from collections import Counter, defaultdict
from csv import writer as csv_writer
from pathlib import Path

import cv2
import numpy as np
from imutils.video import FPS

from annotation import PALETTE, draw_explanation, stack_explanations
from load_and_process import replacing
from models.classifier import cut_out
from video_sources import IMAGE_SUFFIXES

VIDEO_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
FACES_DRAWN = 5  # at most, in a timeline and in the summary: those seen longest


def open_recorder(path, frames):
    """The recorder for what --output names: a video, an image, or a folder for a folder of images.

    Raises:
        ValueError: the ending fits no such file.
    """
    if frames.folder:
        return image_recorder(folder_for(path, frames, "--output"), folder=True)
    endings = IMAGE_SUFFIXES if frames.still else VIDEO_CODECS
    if path.suffix.lower() not in endings:
        kind = "an image" if frames.still else "a video"
        raise ValueError(f"{kind} is written as {', '.join(endings)}; found --output {path}")
    return image_recorder(path) if frames.still else video_recorder(path, frames.fps)


def folder_for(path, frames, flag):
    """The path, if it can be the folder for a folder of images."""
    if path.suffix.lower() in (*VIDEO_CODECS, *IMAGE_SUFFIXES):
        raise ValueError(f"a folder of images is written to a folder, a name without an ending; found {flag} {path}")
    twice = [name for name, count in Counter(path.name for path in frames.paths).items() if count > 1]
    if twice:
        raise ValueError(f"images that are written keep their names, and two are called {twice[0]}: rename one")
    return path


@contextlib.contextmanager
def csv_recorder(path, emotions):
    """A row per face of a frame."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv_writer(file)
        table.writerow(["frame", "time_s", "face", "x", "y", "width", "height", "emotion", *emotions])

        def record(frame, picture, faces):
            for face in faces:
                emotion = emotions[int(np.argmax(face.probabilities))]
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
            boxes = [face.box for face in faces]
            heat = classify.heat_maps(frame.image, boxes, [int(np.argmax(face.probabilities)) for face in faces])
            rows = [
                draw_explanation(cut_out(frame.image, face.box), each, face.probabilities, labels)
                for face, each in zip(faces, heat, strict=True)
            ]
            write_image(path / frame.name if folder else path, stack_explanations(rows))

    yield record


@contextlib.contextmanager
def timeline_recorder(path, emotions):
    """A picture of the probabilities of each face over time.

    Raises:
        ValueError: matplotlib, which draws it, is not installed.
    """
    if not importlib.util.find_spec("matplotlib"):
        raise ValueError("--timeline needs matplotlib: pip install matplotlib")
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
        figure.legend(bands, emotions, loc="outside upper center", ncols=len(emotions), frameon=False)
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


def refuse_overwriting(targets, inputs):
    """ValueError where a file to be written, {flag without --: path or None}, is read here, or two are the same."""
    taken = {Path(path).resolve(): "which is read here" for path in inputs}
    for flag, path in targets.items():
        if path and path.resolve() in taken:
            raise ValueError(f"--{flag} would overwrite {path}, {taken[path.resolve()]}; give another name")
        if path:
            taken[path.resolve()] = f"which --{flag} writes"


class Summary:
    """What was seen: frames, their rate, and for how long each face showed each emotion.

    Args:
        emotions: labels of the probabilities.
        fps: of the source; the first frame counts for one.
        still: whether frames are images, without a time between them.
    """

    def __init__(self, emotions, fps=25.0, still=False):
        self.emotions, self.still, self.rate, self.count, self.faces = emotions, still, None, 0, 0
        self.seen = defaultdict(Counter)  # {identity: {emotion: seconds, or images}}
        self._frame_s, self._last_s = 1 / fps, None
        self.frames, self.recent = FPS().start(), FPS().start()

    def add(self, faces, time_s):
        """Count a frame, at a time in seconds, and its faces; `rate`, in frames per second, is renewed every second."""
        passed = self._frame_s if self._last_s is None else min(1.0, max(0.0, time_s - self._last_s))
        self._last_s = time_s
        for face in faces:
            emotion = self.emotions[int(np.argmax(face.probabilities))]
            self.seen[None if self.still else face.identity][emotion] += 1 if self.still else passed
        self.count += 1
        self.faces += len(faces)
        for counter in (self.frames, self.recent):
            counter.update()
            counter.stop()
        if self.recent.elapsed() >= 1:
            self.rate, self.recent = self.recent.fps(), FPS().start()

    def __str__(self):
        if not self.count:
            return "no frames"
        line = (
            f"{counted(self.count, 'frame')} in {self.frames.elapsed():.1f} s ({self.frames.fps():.0f} per second), "
            f"{counted(self.faces, 'face')}"
        )
        lines = [f"{line}: {_shares(sum(self.seen.values(), Counter()))}" if self.faces else line]
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
