"""What the tests share: faces to look at, cameras, and a cache folder, so that a run leaves the user's folder alone."""

import contextlib
import io
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import cv2
import pytest

from drawn_faces import DrawnFaceCapture, Identity
from models import checkpoint
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
    *("hosts", "end_to_end", "speed", "train_emotion_classifier", "cnn", "checkpoint", "recognizer", "tracking"),
    *("real_time_emotion_recognition", "evaluate_emotion_classifier", "run", "drawn_faces", "reproduce", "window"),
)


ONE_THREAD = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENCV_FOR_THREADS_NUM")  # for what tests start


def pytest_configure(config):
    config.option.loadscopereorder = False  # else pytest-xdist starts the files that have most tests first
    if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a worker of its own: more threads would wait for each other
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        cv2.setNumThreads(1)


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


@pytest.fixture(scope="session", autouse=True)
def quick_jax(tmp_path_factory):
    """JAX, where a test starts a process with it, compiles the same step once, and quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("jax")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


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


@pytest.fixture(scope="module")
def compile_here():
    """Compile checkpoints in this process, which has TensorFlow already: seconds less than in a process of its own."""

    def compile_in_this_process(command, **_):
        with contextlib.redirect_stdout(io.StringIO()):
            checkpoint.main(command[3:])
        return subprocess.CompletedProcess(command, 0, "", "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "subprocess", SimpleNamespace(run=compile_in_this_process))
        yield


@pytest.fixture
def limit_file_size():
    """A function: from now on no file grows beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
