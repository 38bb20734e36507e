"""Video files that can be played at any moment, even if the program is killed while it writes them.

While a video grows, its name is NAME.unfinished.HOST.PID.ENDING.  At its end, the video gets its own name.  What a
killed program left is finished by the next one that writes a video into the same folder.

Where the program `ffmpeg` is on the PATH, videos are H.264, which browsers and telephones play, and they can have the
sound of a video file.  Elsewhere OpenCV alone writes them.

Importing this module imports neither TensorFlow nor Keras.
"""

import contextlib
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from command_line import UserError, WriteError, left_behind, mark_as_unfinished, opening_to_write, printable, replacing

VIDEO_CODECS = {".mp4": ("avc1", "mp4v"), ".mkv": ("avc1", "mp4v"), ".avi": ("MJPG",)}  # OpenCV takes the first it can
FFMPEG = ("ffmpeg", "-nostdin", "-v", "error", "-y")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p")
PLAYABLE_WHILE_IT_GROWS = {
    ".mp4": ("-f", "mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof"),
    ".mkv": ("-f", "matroska", "-cluster_time_limit", "1000"),
}
NO_H264 = (
    "note: {} is MPEG-4 video without sound, which browsers do not play; where the program ffmpeg is installed, videos "
    "are H.264 and keep the sound of their source"
)


class VideoFile:
    """A video that is being written.

    Args:
        path: The name that the video gets at its end; .mp4, .mkv or .avi.
        fps: Frames per second.

    Raises:
        WriteError: The path can't be written.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.fps, self.frames = path, fps, 0
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise WriteError(f"the name of a video must be UTF-8; found {path}: choose another") from None
        ending = path.suffix.lower()
        self._ffmpeg = ending in PLAYABLE_WHILE_IT_GROWS and has_ffmpeg()
        self._process = self._errors = self._writer = None
        with opening_to_write(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            place = Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()
            self.unfinished = mark_as_unfinished(place, ".mkv" if ending == ".mp4" and not self._ffmpeg else ending)
            place.parent.mkdir(parents=True, exist_ok=True)
            _finish_left_behind(os.path.realpath(place.parent), path)
            self.unfinished.touch()

    def write(self, picture: np.ndarray) -> None:
        """Append a picture, uint8 (h, w, 3), BGR; all have the size of the first one.

        Raises:
            WriteError: The disk is full (exit status 1).
        """
        if not (self._process or self._writer):
            self._open(picture.shape[1::-1])
        if self._process:
            try:
                self._process.stdin.write(np.ascontiguousarray(picture).data)
            except BrokenPipeError:  # ffmpeg has ended, and has said why
                raise self._fault(self._ffmpegs_word()) from None
        else:
            self._writer.write(picture)
        self.frames += 1

    def _open(self, size):
        """Begin to write pictures of a size, width and height."""
        try:
            self.unfinished.write_bytes(bytes(2**16))  # the writers do not tell what the system says
        except OSError as error:
            raise self._fault(error.strerror) from error
        if self._ffmpeg:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            raw = ("-f", "rawvideo", "-pixel_format", "bgr24", "-video_size", f"{size[0]}x{size[1]}")
            even = ("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-g", str(max(1, round(self.fps))))
            container = PLAYABLE_WHILE_IT_GROWS[self.unfinished.suffix]
            command = [*FFMPEG, *raw, "-framerate", str(self.fps), "-i", "pipe:0", *even, *H264, *container]
            self._process = subprocess.Popen(
                [*command, "-flush_packets", "1", _url(self.unfinished)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is for this program alone, which then ends ffmpeg
            )
            return
        self._writer = cv2.VideoWriter()
        for codec in VIDEO_CODECS[self.path.suffix.lower()]:
            if self._writer.open(str(self.unfinished), cv2.VideoWriter_fourcc(*codec), self.fps, size):
                self._plays_in_browsers = codec != "mp4v"
                return
        message = f"{self.path} can't be written as a video of {size[0]}x{size[1]} pixels"
        raise WriteError(message if self.path.suffix.lower() == ".avi" else f"{message}; try .avi", 1)

    def finish(self, sound: Path | None = None, starts_s: float = 0.0) -> None:
        """End the video, and give it its name.

        Args:
            sound: A video file whose sound the video gets, where ffmpeg is there.
            starts_s: The time in that file, in seconds after its first picture, of the first picture here.

        Raises:
            WriteError: The disk is full (exit status 1); what was recorded keeps its unfinished name.
        """
        told = self._close()
        if told:
            raise self._fault(told)
        seconds = self.frames / self.fps
        written = _finish(self.unfinished, self.path, sound and (sound, starts_s, seconds))
        if self._writer:  # which does not tell of a full disk
            if written < 0.99 * self.frames:
                raise WriteError(f"{self.path} holds {written} of {self.frames} pictures: is the disk full?", 1)
            if not self._plays_in_browsers:
                print(NO_H264.format(printable(str(self.path))))

    def discard(self) -> None:
        """End the video without leaving a file behind."""
        self._close()
        self.unfinished.unlink(missing_ok=True)

    def _close(self):
        """End the writer; return what ffmpeg says against that, or ""."""
        if self._writer:
            self._writer.release()
        if not self._process:
            return ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return self._ffmpegs_word() if self._process.wait() else ""

    def _ffmpegs_word(self):
        """Return why ffmpeg has ended."""
        self._process.wait()
        self._errors.seek(0)
        return _reason(self._errors.read())

    def _fault(self, reason):
        """Return the error to raise; where some of the video can be seen, it says where."""
        kept = f"; what was recorded is in {self.unfinished.name}" if self.frames > self.fps else ""
        return WriteError(f"{self.path} can't be written: {reason}{kept}", exit_status=1)


# ----------------------------------------------------------------------------------------------------------
# From the unfinished to the finished file


def _finish(unfinished, path, sound=None, whole=True):
    """Give an unfinished video its name, in the form of its ending, and return how many pictures it has.

    Args:
        unfinished: The file that has grown.
        path: Its name to be.
        sound: None, or a video file, the time in it where the sound begins, and for how many seconds it goes on.
        whole: Whether the writer of the file has ended it.

    Raises:
        WriteError: The disk is full.
    """
    same_form = unfinished.suffix == path.suffix.lower()
    with replacing(path) as partial:
        if sound and has_ffmpeg() and _remux(unfinished, partial, sound):
            pass
        elif same_form and whole and path.suffix.lower() != ".mp4":
            shutil.move(unfinished, partial)
        elif has_ffmpeg() and _remux(unfinished, partial):
            pass
        elif same_form and path.suffix.lower() == ".mp4":  # in fragments, which is a form of .mp4
            shutil.move(unfinished, partial)
        else:
            _copy_packets(unfinished, partial)
        video = cv2.VideoCapture(str(partial.absolute()))
        pictures = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), int(video.read()[0]))
        video.release()
        if not pictures:
            raise WriteError(f"{path} can't be written: is the disk full?", exit_status=1)
    unfinished.unlink(missing_ok=True)
    return pictures


def _remux(unfinished, partial, sound=None):
    """Copy the pictures with ffmpeg, and the sound of another file if there is one; return whether that worked."""
    pictures, more = ("-i", _url(unfinished)), ()
    if sound:
        source, starts_s, seconds = sound
        pictures += ("-ss", str(starts_s + _delay_of_pictures(source)), "-i", _url(source))
        more = ("-map", "0:v", "-map", "1:a:0?", "-t", str(seconds))
    command = [*FFMPEG, *pictures, *more, "-c:v", "copy", "-movflags", "+faststart", _url(partial)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
    return done.returncode == 0


def _delay_of_pictures(source):
    """Return how many seconds after the beginning of a video file its first picture comes."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", "v:0"]
    command += ["-show_entries", "format=start_time:stream=start_time", _url(source)]
    try:
        told = json.loads(subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).stdout)
        return max(0.0, float(told["streams"][0]["start_time"]) - float(told["format"]["start_time"]))
    except (OSError, ValueError, LookupError):  # without ffprobe, or of a file that does not say it
        return 0.0


def _copy_packets(unfinished, partial):
    """Copy the compressed pictures of a video that OpenCV has written into a file of another form, with OpenCV."""
    reader = cv2.VideoCapture(str(unfinished), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    size = int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))
    codec = int(reader.get(cv2.CAP_PROP_FOURCC))
    codec = {"MJPG": "MJPG", "h264": "avc1"}.get(codec.to_bytes(4, "little").decode("latin-1"), "mp4v")
    fps, code = reader.get(cv2.CAP_PROP_FPS), cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(
        str(partial.absolute()), cv2.CAP_FFMPEG, code, fps, size, [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    )
    has_header, header = reader.retrieve(None, int(reader.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX)))
    header = header.ravel() if has_header and codec == "mp4v" else np.empty(0, np.uint8)
    while (read := reader.read())[0]:
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, reader.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        writer.write(np.concatenate([header, read[1].ravel()])[None])
        header = header[:0]  # with the first picture alone
    writer.release()
    reader.release()


_left_behind_once = functools.lru_cache(left_behind)  # before the first video of this process in a folder; then empty


def _finish_left_behind(folder, taken):
    """Finish the videos in a folder whose programs were killed; none of them gets the name `taken`."""
    found = _left_behind_once(folder)
    while found:
        unfinished = found.pop()
        path = unfinished.with_name(unfinished.name.rpartition(".unfinished.")[0] or "-")
        if unfinished.name.startswith(".") or path.suffix.lower() not in VIDEO_CODECS:
            continue
        names = (path.with_stem(f"{path.stem}{more}") for more in ("", *(f"-{n}" for n in range(2, 1000))))
        path = next(name for name in names if not name.exists() and name.name != taken.name)
        video = cv2.VideoCapture(str(unfinished))
        empty = not video.read()[0]
        video.release()
        if empty:
            unfinished.unlink(missing_ok=True)
            continue
        try:
            _finish(unfinished, path, whole=False)
            print(f"notice: {printable(str(path))} holds what a run that was stopped had recorded", file=sys.stderr)
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)


# ----------------------------------------------------------------------------------------------------------
# ffmpeg


@functools.lru_cache
def has_ffmpeg() -> bool:
    """Return whether there is a program `ffmpeg` that writes H.264."""
    if not shutil.which("ffmpeg"):
        return False
    command = ["ffmpeg", "-hide_banner", "-encoders"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True)
    return b" libx264 " in done.stdout


def _url(path):
    """Return a path as ffmpeg takes it, whatever its first letters are."""
    return f"file:{path}"


def _reason(errors):
    """Return what ffmpeg wrote on standard error as one reason."""
    told = errors.decode(errors="replace").strip()
    full = os.strerror(errno.ENOSPC)
    return full if full in told else (told.splitlines() or ["ffmpeg has ended"])[-1]
