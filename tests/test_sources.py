"""Tests of sources: what each kind of source gives, and what happens when it stops."""

import time

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
)


class FakeCamera:
    """Gives numbered frames like `cv2.VideoCapture`, then nothing more."""

    def __init__(self, frames, opened=True, fps=0.0, count=-1.0):
        self.left, self.opened, self.released = list(range(frames)), opened, False
        self.properties = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}

    def isOpened(self):  # noqa: N802
        return self.opened

    def get(self, name):
        return self.properties[name]

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
        pytest.raises(SourceLost, match="after [3-6] frames"),
        Live(0, cameras(first, FakeCamera(0, opened=False), second), patience=1) as frames,
    ):
        for frame in frames:
            if frame is None:
                notes.append(frames.note)
            else:
                numbers.append(frame.number)
                assert not frames.note
                if second.left != [0, 1, 2]:
                    frames.patience = 0.2
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


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 3)])
def test_grey_cameras_give_bgr(shape):
    assert as_bgr(np.zeros(shape, np.uint8)).shape == (4, 4, 3)


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


def test_a_video_that_ends_early_is_broken(capsys):
    with Video(FakeCamera(3, count=30.0), "clip") as frames:
        assert len(list(frames)) == 3
    assert frames.broken == 1 and "clip ends after 3 of 30 frames" in capsys.readouterr().err


def test_images_that_can_not_be_read_are_passed_over(photograph, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    paths = [tmp_path / "bad.png", photograph, tmp_path / "missing.png"]
    with Stills(paths, folder=True) as frames:
        assert [(frame.number, frame.name) for frame in frames] == [(0, "astronaut.png")]
    told = capsys.readouterr().err
    assert frames.broken == 2 and "bad.png is not an image" in told and "missing.png is not an image" in told
    with pytest.raises(UserError, match="none of the 1 images"):
        list(Stills(paths[:1], folder=True))
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
    with pytest.raises(UserError, match="nnn can't be read .*check its name"):
        act("n" * 300)


def test_a_folder_that_can_not_be_listed_is_a_mistake(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources.Path, "iterdir", refuse)
    for act in (lambda: expand_sources([tmp_path]), lambda: read_files(tmp_path), lambda: open_source(tmp_path)):
        with pytest.raises(UserError, match=r"can't be read \(Permission denied\)"):
            act()
