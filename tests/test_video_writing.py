"""Tests of video files: they can be played while they grow, what is left of killed runs is finished, sound is kept."""

import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import real_time_emotion_recognition as live
from command_line import WriteError
from recognition import video_writing
from recognition.recording import video_recorder
from recognition.sources import Frame
from recognition.video_writing import VideoFile, has_ffmpeg

SCRIPT = Path(live.__file__)
needs_ffmpeg = pytest.mark.skipif(not has_ffmpeg(), reason="needs the program ffmpeg, with libx264")


@pytest.fixture(params=["ffmpeg", "opencv"])
def writer(request, monkeypatch):
    """Who writes the videos."""
    if request.param == "ffmpeg" and not has_ffmpeg():
        pytest.skip("needs the program ffmpeg, with libx264")
    monkeypatch.setattr(video_writing, "has_ffmpeg", lambda: request.param == "ffmpeg")
    return request.param


@pytest.fixture(scope="module")
def pictures():
    """Pictures that differ, of an odd size."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 119, 159, 3), dtype=np.uint8)
    return [cv2.GaussianBlur(picture, (0, 0), 3) for picture in noise]


def count(path):
    """Return how many pictures of a video can be decoded."""
    video, pictures = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        pictures += 1
    return pictures


def number_of_a_dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi", ".MP4"])
def test_a_video_has_an_unfinished_name_until_it_is_whole(writer, pictures, ending, tmp_path, capfd):
    video = VideoFile(tmp_path / f"a{ending}", 15.0)
    for picture in pictures:
        video.write(picture)
    (growing,) = tmp_path.iterdir()
    assert growing.name.startswith(f"a{ending}.unfinished.") and not growing.name.startswith(".")
    video.finish()
    assert [path.name for path in tmp_path.iterdir()] == [f"a{ending}"]
    read = cv2.VideoCapture(str(tmp_path / f"a{ending}"))
    assert (read.get(cv2.CAP_PROP_FPS), count(tmp_path / f"a{ending}")) == (15, 12)
    codec = int(read.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert codec == ("MJPG" if ending == ".avi" else "h264" if writer == "ffmpeg" else "FMP4")
    assert ("install" in capfd.readouterr().out) == (codec == "FMP4")  # which browsers do not play


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_what_a_killed_run_left_is_finished_by_the_next(writer, pictures, ending, tmp_path, capfd):
    video = VideoFile(tmp_path / f"a{ending}", 15.0)
    for picture in pictures * 20:
        video.write(picture)
    left = f"a{ending}.unfinished.{platform.node()}.{number_of_a_dead_process()}{video.unfinished.suffix}"
    if writer == "ffmpeg" and ending != ".avi":
        video._process.stdin.close()  # so does the system for a process that was killed
        video._process.wait()
    shutil.copy(video.unfinished, tmp_path / left)  # without what is in the writer's memory
    assert count(tmp_path / left) > 60
    video.discard()
    others = tmp_path / f"b{ending}.unfinished.another-host.4711{ending}", tmp_path / f"c.unfinished.me{ending}"
    for other in others:
        shutil.copy(tmp_path / left, other)

    video_writing._left_behind_once.cache_clear()
    next_one = VideoFile(tmp_path / f"a{ending}", 15.0)  # the same name
    next_one.discard()
    assert {path.name for path in tmp_path.iterdir()} == {f"a-2{ending}", *(other.name for other in others)}
    finished = cv2.VideoCapture(str(tmp_path / f"a-2{ending}"))
    assert finished.get(cv2.CAP_PROP_FRAME_COUNT) == count(tmp_path / f"a-2{ending}") > 60
    assert f"a-2{ending} holds what a run that was stopped had recorded" in capfd.readouterr().err


def test_what_a_killed_run_has_not_begun_is_removed(tmp_path):
    left = tmp_path / f"a.mp4.unfinished.{platform.node()}.{number_of_a_dead_process()}.mkv"
    left.write_bytes(bytes(99))
    VideoFile(tmp_path / "b.mp4", 15.0).discard()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_as_such(writer, pictures, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    video = VideoFile(tmp_path / "a.mp4", 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(WriteError, match=r"a.mp4 can't be written: No space left on device$") as caught:
            video.write(pictures[0])
    assert caught.value.exit_status == 1
    video.discard()
    assert not list(tmp_path.iterdir())


@needs_ffmpeg
def test_an_ffmpeg_that_ends_is_told_and_what_it_wrote_stays(pictures, tmp_path):
    video = VideoFile(tmp_path / "a.mp4", 5.0)
    for picture in pictures * 9:
        video.write(picture)
    video._process.kill()
    with pytest.raises(WriteError, match="a.mp4 can't be written: .*; what was recorded is in a.mp4.unfinished"):
        for picture in pictures * 90:
            video.write(picture)
    with pytest.raises(WriteError, match="a.mp4 can't be written: ffmpeg has ended; what was recorded is in"):
        video.finish()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("a.mp4.unfinished") and count(left) > 10


@pytest.mark.parametrize("name", ["a\udcff.mp4", "b" * 5000 + ".mp4", "folder.mp4"])
def test_names_that_no_video_can_have(writer, name, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(WriteError, match="must be UTF-8|can't be written"):
        VideoFile(tmp_path / name, 15.0)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]


@pytest.mark.parametrize("name", ["-i.mp4", "a:é'%d\\c.mkv"])
def test_names_that_ffmpeg_could_misunderstand(writer, pictures, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = VideoFile(Path(name), 15.0)
    for picture in pictures:
        video.write(picture)
    video.finish()
    assert os.listdir() == [name] and count(tmp_path / name) == 12


def test_a_link_is_followed(writer, pictures, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "there" / "b.mp4")
    video = VideoFile(tmp_path / "a.mp4", 15.0)
    video.write(pictures[0])
    assert [path.parent.name for path in tmp_path.glob("**/*unfinished*")] == ["there"]
    video.finish()
    assert (tmp_path / "a.mp4").is_symlink() and os.listdir(tmp_path / "there") == ["b.mp4"]
    assert count(tmp_path / "a.mp4") == 1


@needs_ffmpeg
@pytest.mark.parametrize(("first_s", "seconds"), [(0.0, 2.0), (0.2, 1.0)])
def test_the_sound_stays_with_the_pictures(pictures, tmp_path, first_s, seconds):
    """In the source, the pictures begin half a second after the sound; a tone is in it from second 1 to 1.2."""
    tone = ["-f", "lavfi", "-i", r"aevalsrc=0.8*sin(2*PI*880*t)*between(t\,1\,1.2):d=3:s=8000"]
    shown = ["-itsoffset", "0.5", "-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2"]
    subprocess.run(["ffmpeg", "-v", "error", *tone, *shown, tmp_path / "source.mkv"], check=True)
    with video_recorder(tmp_path / "a.mp4", 10.0, tmp_path / "source.mkv") as record:
        for number in range(round(seconds * 10)):
            record(Frame(number, first_s + number / 10, pictures[0], "x", 0.1), pictures[number % 12], [])
    assert count(tmp_path / "a.mp4") == seconds * 10
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.mp4", "-f", "s16le", "-ac", "1", "-ar", "8000", "-"]
    sound = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)
    loud = np.flatnonzero(np.abs(sound) > 8000) / 8000
    assert loud.min() == pytest.approx(0.5 - first_s, abs=0.05) and loud.max() == pytest.approx(0.7 - first_s, abs=0.05)
    assert len(sound) / 8000 == pytest.approx(seconds, abs=0.15)


@needs_ffmpeg
def test_a_source_without_sound(pictures, tmp_path):
    for name in ("silent.mkv", "a.mp4"):
        video = VideoFile(tmp_path / name, 10.0)
        for picture in pictures:
            video.write(picture)
        video.finish(tmp_path / "silent.mkv" if name == "a.mp4" else None)
        assert count(tmp_path / name) == 12


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL and no SIGHUP")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGHUP])
def test_a_run_that_is_ended_leaves_its_table_and_a_video_that_plays(ended_by, tmp_path):
    flags = ["--source", "drawn", "--headless", "--csv", tmp_path / "a.csv", "--output", tmp_path / "a.mp4"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *flags, "--timeline", tmp_path / "a.png"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not ((tmp_path / "a.csv").exists() and (tmp_path / "a.csv").read_text().count("\n") > 20):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(ended_by)
    process.send_signal(ended_by)  # a second one changes nothing
    _, told = process.communicate(timeout=120)
    assert "Traceback" not in told and (tmp_path / "a.csv").read_text().count("\n") > 20
    if ended_by == signal.SIGHUP:
        assert process.returncode == 130
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.mp4", "a.png"]
        assert count(tmp_path / "a.mp4") > 20
    elif has_ffmpeg():  # what OpenCV writes reaches the file some seconds later
        (left,) = tmp_path.glob("a.mp4.unfinished.*")
        while count(left) <= 20:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@needs_ffmpeg
@pytest.mark.skipif(not shutil.which("Xvfb"), reason="Xvfb is not installed: apt-get install xvfb")
def test_a_screen_that_goes_away_leaves_the_recording(tmp_path):
    """The window's library ends the process at once."""
    read, write = os.pipe()
    screen = subprocess.Popen(["Xvfb", "-displayfd", str(write)], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with open(read) as pipe:
        environment = os.environ | {"DISPLAY": f":{pipe.readline().strip()}"}
    flags = ["--source", "drawn", "--csv", tmp_path / "a.csv", "--output", tmp_path / "a.mp4"]
    environment.pop("WAYLAND_DISPLAY", None)
    with subprocess.Popen([sys.executable, SCRIPT, *flags], env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not ((tmp_path / "a.csv").exists() and (tmp_path / "a.csv").read_text().count("\n") > 5):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        screen.terminate()
        screen.wait()
        process.wait(timeout=120)
    (left,) = tmp_path.glob("a.mp4*")
    while not count(left):  # ffmpeg ends a moment later
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert (tmp_path / "a.csv").read_text().count("\n") > 5
