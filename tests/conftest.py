"""What the tests share: faces to look at, cameras, and a cache folder, so that a run leaves the user's folder alone."""

import signal
import time
from types import SimpleNamespace

import cv2
import pytest

from drawn_faces import DrawnFaceCapture, Identity
from recognition import sources

pytest.register_assert_rewrite("data_files")  # for failures that show their values, as in a test's own file

# A script's background job ignores Ctrl-C, and nohup ignores a closed terminal.  So would the programs that tests start
# and stop with these signals.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Files that take longest, in this order.  They start first, so that at the end no core waits for a long file.
SLOWEST = (
    *("hosts", "end_to_end", "train_emotion_classifier", "checkpoint", "cnn", "real_time_emotion_recognition"),
    *("speed", "tracking", "recognizer", "evaluate_emotion_classifier", "run", "drawn_faces", "reproduce", "window"),
)


def pytest_configure(config):
    config.option.loadscopereorder = False  # else pytest-xdist starts the files that have most tests first


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}.py": index for index, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))  # within a file, the order stays


@pytest.fixture(scope="session", autouse=True)
def emotion_cache(tmp_path_factory):
    """The folder that compiled checkpoints go to."""
    folder = tmp_path_factory.mktemp("emotion_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOTION_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def drawn_frame():
    """(frame, true boxes) of two people side by side."""
    capture = DrawnFaceCapture(identities=(Identity(), Identity()))
    return capture.read()[1], capture.boxes


@pytest.fixture(scope="session")
def photograph(tmp_path_factory):
    """A photograph of a smiling woman, Eileen Collins, from scikit-image."""
    data = pytest.importorskip("skimage.data", reason="the photograph comes with scikit-image")
    path = tmp_path_factory.mktemp("photograph") / "astronaut.png"
    cv2.imwrite(str(path), data.astronaut()[..., ::-1])
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A video of 30 frames at 15 per second: a neutral drawn face, then a happy one."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    capture = DrawnFaceCapture(fps=15, hold=1.0, blend=0.2, order=("neutral", "happy"), frames=30)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 15, (640, 480))
    for _ in range(30):
        writer.write(capture.read()[1])
    writer.release()
    return path


@pytest.fixture
def connect_camera(monkeypatch):
    """Connects a camera in place of the real ones: takes its pictures, None for none, and its patience in seconds."""
    open_live = sources.Live

    def connect(pictures, patience):
        left = [*pictures]

        def read():
            time.sleep(0.01)
            picture = left.pop(0) if left else None
            return picture is not None, picture

        camera = SimpleNamespace(isOpened=lambda: True, get=lambda name: 0, read=read, release=int)
        monkeypatch.setattr(sources, "Live", lambda source: open_live(source, lambda source: camera, patience))

    return connect
