"""Run the live script for a long time, and print whether memory, open files and threads stay as they are.

    python benchmarks/soak.py 20                      # minutes
    python benchmarks/soak.py 20 --detector blazeface
    python benchmarks/soak.py 20 --fps 5 --model models/tiny_XCEPTION.hdf5      # with little of the processor

The script shows a clip again and again, as a camera would, with heat maps, and records the annotated video and a CSV
into a folder that is removed at the end.  Where there is a display, the window is open, too.  The exit status is 1
where something grew after the first fifth of the time.  It needs Linux, whose /proc it reads.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # started as `python benchmarks/soak.py`
    sys.path[0] = str(ROOT)

from command_line import Parser, UserError, exit_status, number_in_range  # noqa: E402  first: it names a missing package

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

import real_time_emotion_recognition as live  # noqa: E402
from drawn_faces import DrawnFaceCapture, Identity  # noqa: E402
from recognition.sources import Video  # noqa: E402
from recognition.window import has_display  # noqa: E402

ALLOWED = (0.1, 0, 0)  # growth after the first fifth: share of the memory, open files, threads
SAMPLES = 20
CLIP = 250  # frames


class Sample(NamedTuple):
    """What the process holds at a moment."""

    minutes: float
    megabytes: float  # resident
    files: int
    threads: int

    def __str__(self) -> str:
        return f"{self.minutes:6.1f} min {self.megabytes:7.0f} MB {self.files:4d} files {self.threads:4d} threads"


class LoopedClip:
    """Like `cv2.VideoCapture`: a video file that begins again at its end, until the time is over.

    Args:
        path: The file.
        seconds: The time.
        pace: Frames per second, as a camera gives them, however fast the reader is.
    """

    def __init__(self, path: Path, seconds: float, pace: float):
        self._path, self._ends = str(path), time.monotonic() + seconds
        self._pace, self._due = pace, time.monotonic()
        self._capture = cv2.VideoCapture(self._path)
        self.isOpened, self.release = self._capture.isOpened, lambda: self._capture.release()

    def read(self) -> tuple[bool, np.ndarray | None]:
        if time.monotonic() > self._ends:
            return False, None
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = max(self._due, time.monotonic()) + 1 / self._pace
        read = self._capture.read()
        if not read[0]:
            self._capture.release()
            self._capture = cv2.VideoCapture(self._path)
            read = self._capture.read()
        return read

    def get(self, name: int) -> float:
        return self._capture.get(name) if name == cv2.CAP_PROP_FPS else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the live script and the measurement; return 1 where something grew."""
    parser = Parser(description="Run the live script for a long time, and print what it holds.")
    parser.add_argument("minutes", type=number_in_range(float, 0.01))
    parser.add_argument("--detector", default=live.detector, help="as for the live script (default: %(default)s)")
    parser.add_argument("--model", nargs="+", default=live.model, help="as for the live script")
    text = "frames per second of the clip (default: %(default)s)"
    parser.add_argument("--fps", type=number_in_range(float, 0.1), default=10.0, help=text)
    args = parser.parse_args(argv)
    if not Path("/proc/self/statm").exists():
        raise UserError("the soak needs Linux; found no /proc to read: use another machine")
    samples, ended, seconds = [], threading.Event(), 60 * args.minutes
    with tempfile.TemporaryDirectory() as name:
        write_clip(clip := Path(name, "clip.avi"), args.fps)
        opened, live.open_source = live.open_source, lambda *_, **__: Video(LoopedClip(clip, seconds, args.fps), "soak")
        measuring = threading.Thread(target=measure, args=(seconds / SAMPLES, samples.append, ended.wait))
        measuring.start()
        try:
            flags = ["--heatmap", "--detector", args.detector, "--model", *map(str, args.model)]
            flags += [] if has_display() else ["--headless"]
            status = live.main([*flags, "--csv", f"{name}/a.csv", "--output", f"{name}/a.mp4"])
        finally:
            ended.set()
            measuring.join()
            live.open_source = opened
    return max(status, int(has_grown(samples)))


def has_grown(samples: Sequence[Sample]) -> bool:
    """Return, and print, whether more was held at the end than after the first fifth of the time."""
    if not samples:
        raise UserError(
            f"the soak measures {SAMPLES} times; found that it was ended before the first: let it run on", exit_status=1
        )
    first, last = samples[len(samples) // 5], samples[-1]
    growth = last.megabytes / first.megabytes - 1, last.files - first.files, last.threads - first.threads
    grew = any(by > most for by, most in zip(growth, ALLOWED, strict=True))
    print(f"{'grew' if grew else 'flat'}: memory by {growth[0]:.1%}, files by {growth[1]}, threads by {growth[2]}")
    return grew


def write_clip(path: Path, fps: float) -> None:
    """Write some seconds of two drawn faces."""
    capture = DrawnFaceCapture(identities=(Identity(), Identity()))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (640, 480))
    for _ in range(CLIP):
        writer.write(capture.read()[1])
    writer.release()


def measure(every_s: float, take: Callable[[Sample], None], wait: Callable[[float], bool]) -> None:
    """Take and print a sample every few seconds, until `wait` says that it is over."""
    began = time.monotonic()
    while not wait(every_s):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))
        sample = Sample((time.monotonic() - began) / 60, *held, len(os.listdir("/proc/self/task")))
        take(sample)
        print(sample, flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
