"""Tests of sources: what each kind of source gives, and what happens when it stops."""

import os
import struct
import subprocess
import time
from functools import partial
from shutil import which

import cv2
import numpy as np
import pytest

from command_line import UserError
from recognition import sources
from recognition.sources import (
    Clock,
    Live,
    SourceLost,
    Stills,
    Video,
    as_bgr,
    expand_sources,
    open_source,
    open_stream,
    read_files,
    without_password,
)


class FakeCamera:
    """Gives numbered frames like `cv2.VideoCapture`, then nothing more; `times_ms` are what it says of their times."""

    def __init__(self, frames, opened=True, fps=0.0, count=-1.0, times_ms=None):
        self.left, self.opened, self.released = list(range(frames)), opened, False
        self.times_ms = times_ms
        self.properties = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}

    def isOpened(self):  # noqa: N802
        return self.opened

    def get(self, name):
        if name == cv2.CAP_PROP_POS_MSEC and self.times_ms:
            return self.times_ms[len(self.times_ms) - len(self.left) - 1]
        return self.properties.get(name, 0.0)

    def read(self):
        time.sleep(0.01)
        return (True, np.full((48, 64, 3), self.left.pop(0), np.uint8)) if self.left else (False, None)

    def release(self):
        self.released = True


def cameras(*given):
    """What opens one after the other; the last one is not opened."""
    left = [*given]
    return lambda source: left.pop(0) if left else FakeCamera(0, opened=False)


# ----------------------------------------------------------------------------------------------------------
# Camera


def test_camera_gives_its_newest_frame_then_says_that_it_stopped():
    camera, seen = FakeCamera(20), []
    with (
        pytest.raises(SourceLost, match=r"camera 3 stopped delivering after \d+ frames"),
        Live(3, cameras(camera), patience=0.3) as frames,
    ):
        for frame in filter(None, frames):
            seen.append(int(frame.image[0, 0, 0]))
            time.sleep(0.03)  # slower than the camera
    assert seen == sorted(set(seen)) and seen[-1] == 19 and len(seen) < 20 and camera.released


def test_a_camera_that_drops_out_is_opened_again_and_says_so_meanwhile(monkeypatch):
    monkeypatch.setattr(sources, "SILENCE", 0.05)
    monkeypatch.setattr(sources, "RETRY", 0.1)
    first, second, notes, numbers = FakeCamera(3), FakeCamera(3), [], []
    with (
        pytest.raises(SourceLost, match="after [2-6] frames"),
        Live(0, cameras(first, FakeCamera(0, opened=False), second), patience=1) as frames,
    ):
        for frame in frames:
            if frame is None:
                notes.append(frames.note)
            else:
                numbers.append(frame.number)
                assert not frames.note
                if second.left != [0, 1, 2]:
                    frames.patience = 0.5
    assert numbers == list(range(len(numbers))) and not second.left and first.released
    assert "camera 0 gives no picture; trying for 1 more seconds" in notes


@pytest.mark.parametrize(("source", "advice"), [(7, "other cameras have other numbers"), ("rtsp://a/b", "the network")])
def test_a_camera_or_stream_that_can_not_be_opened(source, advice):
    with pytest.raises(UserError, match=f"can't be opened: check .*{advice}"):
        Live(source, cameras())


@pytest.mark.parametrize(("said", "fps"), [(30.0, 30.0), (0.0, 30.0), (90_000.0, 30.0), (12.5, 12.5)])
def test_rate_of_a_recording_is_the_cameras_where_it_is_plausible(said, fps):
    with Live(0, cameras(FakeCamera(1, fps=said))) as frames:
        assert frames.fps == fps


def test_a_stream_of_known_length_is_a_video_and_not_opened_again():
    with open_stream("http://a/b.mp4", cameras(FakeCamera(3, count=3.0, fps=10.0))) as frames:
        assert isinstance(frames, Video) and [frame.time_s for frame in frames] == [0, 0.1, 0.2]
    with open_stream("http://a/live", cameras(FakeCamera(3))) as frames:  # one session is enough
        assert isinstance(frames, Live) and next(iter(frames)).number == 0
    with pytest.raises(UserError, match="can't be opened"):
        open_stream("http://a/none", cameras())


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 2), (4, 4, 3), (4, 4, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_cameras_of_all_kinds_give_bgr(shape, dtype):
    assert as_bgr(np.zeros(shape, dtype)).shape == (4, 4, 3) and as_bgr(np.zeros(shape, dtype)).dtype == np.uint8


@pytest.mark.parametrize(
    ("pixels", "dtype", "expected"),
    [
        ([0, 128, 255], np.uint8, [0, 128, 255]),
        ([0, 0x8000, 0xFFFF], np.uint16, [0, 127, 255]),
        ([0, 2048, 4095], np.uint16, [0, 127, 255]),  # 12 of 16 bits
        ([0, 100, 3000], np.uint16, [0, 6, 186]),
        ([0, 100, 255], np.uint16, [0, 100, 255]),
        ([-5, 0, 511], np.int16, [0, 0, 255]),
        ([0, 0.5, 1], np.float32, [0, 127, 255]),
    ],
)
def test_pixels_of_more_than_8_bits_keep_their_brightness(pixels, dtype, expected):
    assert as_bgr(np.array([pixels], dtype))[0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://host:554/stream", "rtsp://host:554/stream"),
        ("rtsp://user:secret@host/stream", "rtsp://***@host/stream"),
        ("rtsp://user:sec:r@e/t@host/stream", "rtsp://***@host/stream"),
        ("https://secret@host", "https://***@host"),
        ("http://host/video.cgi?user=a&pwd=secret", "http://host/***"),
        ("http://host?secret", "http://host/***"),
        ("rtsp://host:554/user=a_password=secret_channel=1", "rtsp://host:554/***"),
        ("rtsp:/user:secret@host", "rtsp:***@host"),
        ("clip.mp4", "clip.mp4"),
        ("C:/clips/a.mp4", "C:/clips/a.mp4"),
    ],
)
def test_a_password_in_an_address_is_never_shown(address, shown, monkeypatch):
    monkeypatch.setattr(sources, "SILENCE", 0.02)
    notes = []
    assert without_password(address) == shown
    if "secret" in address:
        with pytest.raises(UserError) as refused:
            open_stream(address, cameras()) if "://" in address else expand_sources([address])
        assert "secret" not in str(refused.value)
    if "secret" in address and "://" in address:
        with pytest.raises(SourceLost) as lost, Live(address, cameras(FakeCamera(1)), patience=0.3) as frames:
            for frame in frames:
                notes.append(frames.note)
                assert "secret" not in f"{frames.note} {frames.name} {frame and frame.name}"
        assert any(notes) and "secret" not in str(lost.value)


# ----------------------------------------------------------------------------------------------------------
# Files


def test_video_gives_every_frame_at_its_own_pace(clip):
    with open_source(clip) as frames:
        assert (frames.fps, frames.count, frames.name) == (15, 30, "clip")
        started = frames.clock.now()
        for number, frame in enumerate(frames):
            assert (frame.number, frame.time_s, frame.image.shape) == (number, number / 15, (480, 640, 3))
            assert frames.due(frame) == pytest.approx(started + (number + 1) / 15, abs=0.5)
    assert number == 29


@pytest.mark.parametrize(
    ("times_ms", "fps", "expected"),
    [
        ([0, 100, 200, 300], 10, [0, 0.1, 0.2, 0.3]),
        ([0, 33, 67, 100], 30, [0, 1 / 30, 2 / 30, 0.1]),  # rounded to milliseconds
        ([0, 33, 500, 3000], 18.4, [0, 0.033, 0.5, 3.0]),  # a variable rate
        ([0, 40, 90, 130], 1000, [0, 0.04, 0.09, 0.13]),  # a browser's video of "1000 frames per second"
        ([1400, 1500, 1600, 1700], 10, [0, 0.1, 0.2, 0.3]),  # the file begins later
        ([0, 0, 0, 0], 10, [0, 0.1, 0.2, 0.3]),  # no times at all
        ([0, 50, 0, 50], 10, [0, 0.05, 0.2, 0.3]),  # two files joined
        ([0, 400, 0, 50], 10, [0, 0.4, 0.5, 0.6]),
        ([0, 100, 9e7, 9e7 + 100], 10, [0, 0.1, 0.2, 0.3]),  # a jump of a day
    ],
)
def test_the_time_of_a_frame_is_the_time_in_the_file(times_ms, fps, expected):
    with Video(FakeCamera(4, fps=fps, times_ms=times_ms), "clip") as frames:
        frames.clock = Clock(lambda: 100.0)
        due, times_s = zip(*((frames.due(frame) - 100, frame.time_s) for frame in frames), strict=True)
    assert times_s == pytest.approx(expected)
    assert due[:-1] == pytest.approx(expected[1:]) and due[-1] > due[-2]  # each frame is shown until the next one


@pytest.mark.skipif(not which("ffmpeg"), reason="ffmpeg, which makes the videos, is not installed")
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "cut.mp4"])
def test_times_of_videos_of_a_variable_rate(tmp_path, name, capsys):
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=30:duration=4", "-g", "60"]
    uneven = ["-vf", "select='lt(t,2)+not(mod(n,10))'", "-fps_mode", "vfr"]
    ffmpeg = partial(subprocess.run, check=True, capture_output=True)
    ffmpeg(["ffmpeg", *source, *([] if name == "cut.mp4" else uneven), tmp_path / name])
    expected = [*(n / 30 for n in range(61)), *(n / 30 for n in range(70, 120, 10))]
    if name == "cut.mp4":  # cut without encoding it again: the file keeps 15 frames that are not to be shown
        ffmpeg(["ffmpeg", "-ss", "2.5", "-i", tmp_path / name, "-c", "copy", tmp_path / "b.mp4"])
        (tmp_path / "b.mp4").replace(tmp_path / name)
        expected = [n / 30 for n in range(45)]
    with open_source(tmp_path / name) as frames:
        assert [frame.time_s for frame in frames] == pytest.approx(expected, abs=0.002)
    assert not frames.broken and not capsys.readouterr().err


@pytest.mark.skipif(not which("ffmpeg"), reason="ffmpeg, which makes the videos, is not installed")
@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4", "a.flv", "a.ts"])
def test_a_video_whose_sound_is_longer_is_not_damaged(tmp_path, name, capsys):
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1"]
    sound = ["-f", "lavfi", "-i", "anullsrc=r=44100:d=4"]
    subprocess.run(["ffmpeg", *picture, *sound, tmp_path / name], check=True, capture_output=True)
    with open_source(tmp_path / name) as frames:
        assert len(list(frames)) in (9, 10) and not frames.broken
    told = capsys.readouterr().err
    assert "damaged" not in told and told.count("\n") <= 1


def movie(seconds, wide=False):
    """The beginning of an MP4 that says how long it lasts."""
    times = struct.pack(">QQIQ" if wide else ">IIII", 0, 0, 1000, round(1000 * seconds))
    header = struct.pack(">I4sI", 12 + len(times) + 80, b"mvhd", wide << 24) + times + bytes(80)
    return struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 8 + len(header), b"moov") + header


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        (movie(0.3), 0),
        (movie(0.3, wide=True), 0),
        (movie(3), 1),
        (movie(0), 1),
        (b"\0\0\0\1" + b"\xff" * 99, 1),
        (b"", 1),
        (b"\x1a\x45\xdf\xa3 Matroska says how long picture and sound last", 0),
    ],
)
def test_a_video_is_as_long_as_its_file_says(tmp_path, content, broken):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with Video(FakeCamera(3, fps=10.0, count=30.0), "clip", path) as frames:
        assert len(list(frames)) == 3
    assert frames.broken == broken


def test_a_clock_stands_still_while_it_is_paused():
    now = [100.0]
    clock = Clock(lambda: now[0])
    started = clock.now()
    for passed, act, expected in [
        (1, clock.pause, 1), (10, clock.pause, 1), (10, clock.resume, 1), (2, clock.resume, 3), (4, clock.pause, 7),
    ]:  # fmt: skip
        now[0] += passed
        act()
        assert clock.now() - started == expected and clock.paused is (act == clock.pause)


def test_the_frames_of_a_paused_video_are_due_later():
    now = [0.0]
    with Video(FakeCamera(3, fps=10.0), "clip") as frames:
        frames.clock = Clock(lambda: now[0])
        given = iter(frames)
        first = next(given)
        frames.clock.pause()
        now[0] = 100.0  # a long pause does not make the next frame late
        assert frames.clock.now() < frames.due(first)
        frames.clock.resume()
        now[0] += 0.05
        assert frames.clock.now() < frames.due(first)
        now[0] += 0.06
        assert frames.due(first) < frames.clock.now() < frames.due(next(given))


@pytest.mark.parametrize(("fps", "lasts_s"), [(10, 0.1), (0.5, 2.0), (0, 0.04), (1000, 0.04)])
def test_how_long_the_last_frame_of_a_video_lasts(fps, lasts_s):
    with Video(FakeCamera(2, fps=fps, times_ms=[0, 2000]), "clip") as frames:
        assert [frame.lasts_s for frame in frames] == pytest.approx([2.0, lasts_s])


def test_a_video_that_was_late_goes_on_at_its_pace():
    now = [0.0]
    with Video(FakeCamera(4, fps=10.0), "clip") as frames:
        frames.clock = Clock(lambda: now[0])
        given = iter(frames)
        assert frames.due(next(given)) == 0.1
        now[0] = 0.25
        assert frames.due(next(given)) == 0.2  # a little late: it catches up
        now[0] = 9.0
        assert frames.due(next(given)) == pytest.approx(9.0)
        assert frames.due(next(given)) == pytest.approx(9.1)


def test_a_video_that_ends_early_is_broken(capsys):
    with Video(FakeCamera(3, count=30.0), "clip") as frames:
        assert len(list(frames)) == 3
    assert frames.broken == 1 and "clip ends after 3 of 30 frames" in capsys.readouterr().err


def test_images_that_can_not_be_read_are_passed_over(photograph, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    paths = [tmp_path / "bad.png", photograph, tmp_path / "missing.png"]
    with Stills(paths, multiple=True) as frames:
        assert [(frame.number, frame.name) for frame in frames] == [(0, "astronaut.png")]
    told = capsys.readouterr().err
    assert frames.broken == 2 and "bad.png is not an image" in told and "missing.png is not an image" in told
    with pytest.raises(UserError, match="none of the 1 images"):
        list(Stills(paths[:1], multiple=True))
    with pytest.raises(UserError, match="bad.png is not an image that can be read"):
        list(Stills(paths[:1]))


def test_an_image_between_other_sources_does_not_stay(photograph):
    for endless in (True, False):
        with open_source(photograph, endless) as frames:
            assert (frames.due(next(iter(frames))) - frames.clock.now() < 10) is not endless


def test_files_that_are_read(tmp_path):
    for name in ("a.png", "b.mp4"):
        (tmp_path / name).touch()
    a, b = tmp_path / "a.png", tmp_path / "b.mp4"
    assert read_files(str(b)) == {b} and read_files(tmp_path) == {tmp_path, a, b} and read_files([a]) == {a, tmp_path}
    assert read_files(None) == read_files("0") == read_files("drawn") == read_files("rtsp://a/b") == set()


def test_sources_are_expanded(tmp_path):
    for name in ("b.jpg", "a.png", "one.mp4", "two.MOV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.png").touch()
    only, folder = tmp_path / "only", tmp_path
    videos = [tmp_path / "one.mp4", tmp_path / "two.MOV"]
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.jpg")
    for names, expanded in [
        ([], [None]),
        (["0"], ["0"]),
        (["0", a], ["0", tmp_path / "a.png"]),
        (["1", a, "drawn", b], ["1", [tmp_path / "a.png", tmp_path / "b.jpg"], "drawn"]),
        (["http://a/b.png"], ["http://a/b.png"]),
        ([only], [only]),
        ([folder, "1"], [*videos, folder, "1"]),
        ([""], [""]),
    ]:
        assert expand_sources(names) == expanded, names
    (tmp_path / "only" / "a.png").rename(tmp_path / "only" / "a.txt")
    with pytest.raises(UserError, match="holds images or videos .*only has none"):
        expand_sources([only])


@pytest.mark.parametrize("act", [lambda path: expand_sources([path]), open_source])
def test_a_path_that_the_system_refuses_is_a_mistake(act):
    with pytest.raises(UserError, match="nnn can't be read .*correct the path"):
        act("n" * 300)


def test_a_folder_that_can_not_be_listed_is_a_mistake(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources.Path, "iterdir", refuse)
    for act in (lambda: expand_sources([tmp_path]), lambda: read_files(tmp_path), lambda: open_source(tmp_path)):
        with pytest.raises(UserError, match=r"can't be read \(Permission denied\)"):
            act()


def test_pictures_in_a_folder_that_can_not_be_read_are_counted_and_named(photograph, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.imread(str(photograph)))
    (tmp_path / "a.jpg").rename(tmp_path / "a.jfif")
    for name in ("b.HEIC", "c.dng", "notes.txt"):
        (tmp_path / name).touch()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    (source,) = expand_sources([tmp_path])
    told = capsys.readouterr().err
    assert told.startswith(f"notice: {tmp_path}: ") and told.count("\n") == 1 and "b.HEIC" in told and "c.dng" in told
    with open_source(source) as frames:
        assert [frame.name for frame in frames] == ["a.jfif"] and not frames.broken
    (tmp_path / "b.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match="not read here .*b.HEIC"), open_source(tmp_path / "b.HEIC") as frames:
        list(frames)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("9" * 20, "a camera has a number from 0 to 9999; found 99999999999999999999"),
        ("9" * 5000, "a camera has a number"),
        ("n" * 5000, "can't be read"),
        ("rtsp://" + "n" * 5000, "can't be opened"),
        ("bad\udcff.mp4", r"must be UTF-8; found 'bad.udcff.mp4': rename it"),
        ("loop", "nothing at loop|can't be read"),
        ("/dev/null", "camera /dev/null can't be opened"),
        ("pipe.mp4", "found a pipe"),
        ("pipe.jpg", "found a pipe"),
    ],
    ids=lambda text: text[:12].encode("ascii", "replace").decode(),
)
@pytest.mark.skipif(os.name == "nt", reason="Windows has other special files")
def test_odd_names_are_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    for pipe in ("pipe.mp4", "pipe.jpg"):
        os.mkfifo(pipe)
    (tmp_path / os.fsdecode(b"bad\xff.mp4")).touch()
    with pytest.raises(UserError, match=message) as refused:
        for source in expand_sources([name]):
            read_files(source)
            if "://" in name:
                open_stream(name, cameras())
            open_source(source)
    assert "\n" not in str(refused.value)


def test_a_path_in_dev_is_a_camera():
    camera = FakeCamera(2)
    with Live("/dev/v4l/by-id/usb-cam-index0", cameras(camera), patience=0.2) as frames:
        assert frames.name == "usb-cam-index0" and next(iter(frames)).name == "camera /dev/v4l/by-id/usb-cam-index0"
