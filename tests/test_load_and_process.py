"""Tests of load_and_process: the cache, the pixels, splits and duplicates, the votes on faces, the script."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_files import ROWS, SIZE, VOTES_HEADER, assert_expected, assert_same, grey, write_csv, write_image

import load_and_process as lp
from command_line import UserError, exit_status
from face_files.labels import EMOTIONS, SPLITS
from face_files.votes import VOTE_COLUMNS
from load_and_process import Split, load_fer2013_data, preprocess_images, resize_face

# ----------------------------------------------------------------------------------------------------------
# Loading a data set


@pytest.mark.parametrize("size", [(0, 48), (48, -1), 48, (48.0, 48)])
def test_refuses_an_impossible_image_size(tmp_path, size):
    with pytest.raises(ValueError, match="image_size must be height and width, 1 pixel or more"):
        load_fer2013_data(write_csv(tmp_path), size)


def test_drawn_faces_come_from_drawn_faces(monkeypatch):
    def draw_dataset(image_size, seed):
        assert (image_size, seed) == ((24, 32), 0)
        return {"Training": (np.zeros((1, 24, 32, 1), np.uint8), np.array([5]))}

    monkeypatch.setitem(sys.modules, "drawn_faces", types.SimpleNamespace(draw_dataset=draw_dataset))
    splits = load_fer2013_data("drawn", (24, 32))
    assert list(splits) == ["Training"]
    assert splits["Training"].faces.shape == (1, 24, 32, 1)
    assert splits["Training"].emotions.tolist() == [5]


# ----------------------------------------------------------------------------------------------------------
# Cache


@pytest.fixture(params=["csv", "folder"])
def source(request, tmp_path):
    if request.param == "csv":
        return write_csv(tmp_path)
    for name in ("train/angry/a.png", "train/sad/a.png", "test/sad/a.png"):
        write_image(tmp_path / name, grey(len(name)))
    return tmp_path


def count_reads(monkeypatch) -> list:
    """Return a list that grows with every reading of a source."""
    reads = []
    for name in ("read_csv", "read_images"):
        reader = getattr(lp, name)
        monkeypatch.setattr(lp, name, lambda *args, reader=reader: reads.append(args) or reader(*args))
    return reads


def cache_of(source: Path) -> Path:
    (cache,) = (source if source.is_dir() else source.parent).glob("*.cache.npz")
    return cache


def test_the_second_load_takes_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    first = load_fer2013_data(source, SIZE)
    assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == 1


def test_another_image_size_rebuilds_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    for size in ((2, 2), (4, 2), (2, 4)):
        assert load_fer2013_data(source, size)["Training"].faces.shape[1:] == (*size, 1)
    assert len(reads) == 3


def test_a_changed_source_rebuilds_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    load_fer2013_data(source, SIZE)
    if source.is_dir():
        write_image(source / "train/angry/b.png", grey(77))
    else:
        write_csv(source.parent, [*ROWS, "2,77 77 77 77,Training"])
    assert 77 in load_fer2013_data(source, SIZE)["Training"].faces
    file = source / "train/angry/b.png" if source.is_dir() else source
    times = file.stat()
    file.write_bytes(file.read_bytes() + b"\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # another size, the same time
    load_fer2013_data(source, SIZE)
    os.utime(file, ns=(0, 1))  # the same size, another time
    load_fer2013_data(source, SIZE)
    assert len(reads) == 4


def test_a_newer_version_rebuilds_the_cache(source, monkeypatch):
    reads = count_reads(monkeypatch)
    load_fer2013_data(source, SIZE)
    monkeypatch.setattr(lp, "CACHE_VERSION", lp.CACHE_VERSION + 1)
    load_fer2013_data(source, SIZE)
    assert len(reads) == 2


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_cache_is_rebuilt_in_silence(source, monkeypatch, capsys, suffix):
    first = load_fer2013_data(source, SIZE)
    cache = cache_of(source).with_suffix(suffix)
    content = cache.read_bytes()
    place = content.index(first["Training"].faces[0].tobytes() if suffix == ".npy" else b"NUMPY")
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    reads = count_reads(monkeypatch)
    damages = [flipped, content[: len(content) // 2], b"", b"something else", b"PK\x03\x04" + bytes(100)]
    for damaged in damages:
        cache.write_bytes(damaged)
        assert_same(load_fer2013_data(source, SIZE), first)
        assert cache.read_bytes() != damaged
    cache.unlink()
    assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == len(damages) + 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("suffix", "in_memory"), [(".npy", 0), (".npy", lp.IN_MEMORY), (".npz", lp.IN_MEMORY)])
def test_every_flipped_byte_of_a_cache_is_noticed_or_harmless(tmp_path, monkeypatch, suffix, in_memory):
    monkeypatch.setattr(lp, "IN_MEMORY", in_memory)
    path = write_csv(tmp_path)
    first = load_fer2013_data(path, SIZE)
    cache = cache_of(path).with_suffix(suffix)
    content = cache.read_bytes()
    for place in range(0, len(content), 1 if suffix == ".npy" else 7):
        cache.unlink()  # the faces of `first` may be mapped
        cache.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        assert_same(load_fer2013_data(path, SIZE), first)


def test_the_faces_of_another_cache_are_noticed(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, rows in ((first, ROWS), (second, ROWS[::-1])):
        folder.mkdir()
        load_fer2013_data(write_csv(folder, rows), SIZE)
    faces, other_faces = (cache_of(folder / "fer2013.csv").with_suffix(".npy") for folder in (first, second))
    shutil.copy(other_faces, faces)
    assert_expected(load_fer2013_data(first, SIZE))


def test_a_foreign_or_pickled_cache_is_rebuilt(source, monkeypatch):
    first = load_fer2013_data(source, SIZE)
    reads = count_reads(monkeypatch)
    cache = cache_of(source)
    with np.load(cache) as arrays:
        kept = dict(arrays)
    pickled = np.array([kept["key"].item()], object)
    for arrays in ({"other": np.zeros(1)}, {**kept, "key": pickled}, {**kept, "key": "other"}):
        np.savez(cache, **arrays)
        assert_same(load_fer2013_data(source, SIZE), first)
    for faces in (np.array([{}], object), np.zeros(3), np.array(7, np.uint8)):
        np.save(cache.with_suffix(".npy"), faces, allow_pickle=True)
        assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == 6


def test_the_cache_of_an_older_version_is_replaced(tmp_path, monkeypatch):
    """It was one file of the name that the table has now."""
    path = write_csv(tmp_path)
    table = tmp_path / "fer2013.csv.cache.npz"
    np.savez(table, key="[2, 2, 2]", splits=np.zeros(4, int), emotions=np.zeros(4, int), faces=np.zeros((4, 2, 2, 1)))
    assert_expected(load_fer2013_data(path, SIZE))
    reads = count_reads(monkeypatch)
    assert_expected(load_fer2013_data(path, SIZE))
    assert not reads and sorted(os.listdir(tmp_path)) == ["fer2013.csv", table.with_suffix(".npy").name, table.name]


def test_many_faces_stay_in_the_cache(source, monkeypatch):
    inside = load_fer2013_data(source, SIZE)
    monkeypatch.setattr(lp, "IN_MEMORY", 0)
    mapped = load_fer2013_data(source, SIZE)
    assert_same(mapped, inside)
    for split in mapped:
        assert isinstance(mapped[split].faces, np.memmap) and not isinstance(inside[split].faces, np.memmap)
        rows = np.arange(len(mapped[split].faces))
        for chosen in (rows[::-2], slice(1, None), slice(None, None, 2), rows[:0]):
            np.testing.assert_array_equal(mapped[split].faces[chosen], inside[split].faces[chosen])
        with pytest.raises(ValueError, match="read-only"):
            mapped[split].faces[:] = 7
    assert_same(mapped, inside)


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc, which only Linux has")
def test_reading_many_faces_takes_little_memory_of_its_own(tmp_path):
    """The parts of the cache's file that were read count as resident, too; the system may drop them."""
    code = """
        import sys
        import numpy as np
        import load_and_process as lp
        lp.IN_MEMORY, count = 0, 60_000
        arrays = (np.repeat(0, count), np.arange(count) % 7, np.zeros((count, 48, 48, 1), np.uint8))
        lp._write_cache(lp.Path(sys.argv[1]), "key", arrays[2].shape, [arrays])
        del arrays
        def memory(kind):
            lines = open("/proc/self/status").read().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])
        own, mapped = memory("RssAnon"), memory("RssFile")
        _, _, faces = lp._read_cache(lp.Path(sys.argv[1]), "key")
        order = np.random.default_rng(0).permutation(count)
        for start in range(0, 20_000, 100):
            faces[order[start : start + 100]]
        assert not lp.find_duplicates(faces, np.ones((1, 48, 48, 1), np.uint8)).any()
        assert memory("RssAnon") - own < 10e6, memory("RssAnon") - own
        assert memory("RssFile") - mapped < faces.nbytes + 10e6  # once, not again with each reading
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "a.npz"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def refuse_replace(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse_write(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    ("owner", "name", "refuse"),
    [
        (os, "replace", refuse_replace),
        (np.lib.format, "write_array_header_1_0", refuse_write),
        (np, "savez", refuse_write),
    ],
)
def test_a_cache_that_cannot_be_written_is_one_notice(source, monkeypatch, capsys, owner, name, refuse):
    monkeypatch.setattr(owner, name, refuse)
    assert "Training" in load_fer2013_data(source, SIZE)
    notice = capsys.readouterr().err
    assert notice.startswith("notice: no cache written") and notice.count("\n") == 1
    assert not list((source if source.is_dir() else source.parent).glob("*.np[yz]"))


def test_a_bug_while_the_cache_is_written_is_shown(source, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *args, **arrays: np.concatenate([]))
    with pytest.raises(ValueError, match="need at least one array") as caught:
        load_fer2013_data(source, SIZE)
    assert not isinstance(caught.value, UserError)
    assert not list((source if source.is_dir() else source.parent).glob("*.np[yz]"))


def read_only(folder, monkeypatch):
    """Let nothing new come into a folder, as an administrator may write anywhere."""
    touch = Path.touch

    def refuse(path, *args, **kwargs):
        if path.is_relative_to(folder):
            refuse_write()
        touch(path, *args, **kwargs)

    monkeypatch.setattr(Path, "touch", refuse)


def test_beside_data_that_are_read_only_the_cache_is_the_users(source, tmp_path, tmp_path_factory, monkeypatch, capsys):
    folder = tmp_path_factory.mktemp("caches") / "new"
    monkeypatch.setenv("EMOTION_CACHE", str(folder))
    monkeypatch.setattr(lp, "IN_MEMORY", 0)
    read_only(tmp_path, monkeypatch)
    reads = count_reads(monkeypatch)
    first = load_fer2013_data(source, SIZE)
    notice = capsys.readouterr().err
    faces, cache = sorted(folder.iterdir())
    assert faces == cache.with_suffix(".npy")
    assert notice.startswith(f"notice: the cache is {cache}") and notice.count("\n") == 1
    assert not list(tmp_path.glob("*.np[yz]")) and all(isinstance(split.faces, np.memmap) for split in first.values())
    before = len(reads)
    assert_same(load_fer2013_data(source, SIZE), first)
    assert len(reads) == before and capsys.readouterr().err == ""

    other = tmp_path / "other"  # the same names, sizes and times elsewhere are other data
    other.mkdir()
    if source.is_dir():
        shutil.copytree(source / "train", other / "train")
    else:
        other = Path(shutil.copy2(source, other))
    load_fer2013_data(other, SIZE)
    assert len(reads) > before and len(list(folder.iterdir())) == 4


def test_without_a_home_the_cache_is_beside_the_data(source, monkeypatch):
    for name in ("EMOTION_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where no home is known
    load_fer2013_data(source, SIZE)
    assert cache_of(source).is_file()


# ----------------------------------------------------------------------------------------------------------
# Pixels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", "float16", "float32", "float64"])
def test_preprocess_images_by_hand(dtype):
    scaled = preprocess_images(np.array([[0, 51], [204, 255]], dtype))
    assert (scaled.dtype, scaled.shape) == (np.float32, (2, 2))
    np.testing.assert_array_equal(scaled, np.float32([[-1, -0.6], [0.6, 1]]).round(7))


def test_preprocess_images_gives_an_image_the_same_whatever_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (37, 48, 48, 1), np.uint8)
    batch = preprocess_images(images)
    for image, scaled in zip(images, batch, strict=True):
        assert preprocess_images(image[np.newaxis]).tobytes() == scaled.tobytes()
        assert preprocess_images(image.astype(np.float64)).tobytes() == scaled.tobytes()


def test_preprocess_images_leaves_its_input_alone():
    images = np.full((1, 2, 2, 1), 255, np.float32)
    preprocess_images(images)
    assert (images == 255).all()


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 2, 2, 1), np.float32), np.ones((2, 2), np.uint8), np.empty((0, 48, 48, 1), np.float32), [[0, 255]]],
    ids=["all black", "almost black", "none", "a list"],
)
def test_preprocess_images_takes(images):
    assert preprocess_images(images).shape == np.shape(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.array([0, 256]), r"in \[0, 255\]; found int64 in \[0, 256\]: pass pixels as they were read"),
        (np.array([-1, 5]), r"found int64 in \[-1, 5\]"),
        (np.array([-1.0, 1.0]), r"found float64 in \[-1, 1\].*not yet normalised"),
        (np.array([0.0, 1.0], np.float32), r"found float32 in \[0, 1\].*not yet normalised"),
        (np.array([0.25, 0.5]), r"found float64 in \[0.25, 0.5\].*not yet normalised"),
        (np.array([np.nan, 5]), r"found float64 in \[nan, nan\]"),
        (np.array([np.inf, 5]), r"found float64 in \[5, inf\]"),
        (np.array([True, False]), "found bool: convert them to uint8"),
        (np.array([None, 3]), "found object: convert them to uint8"),
        (np.array(["3"]), "found <U1: convert them to uint8"),
        (np.array([3 + 0j]), "found complex128: convert them to uint8"),
    ],
)
def test_preprocess_images_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        preprocess_images(images)


def test_resize_face_by_hand():
    image = np.array([[0, 10, 100, 100], [20, 30, 100, 100], [1, 1, 7, 9], [1, 1, 9, 7]], np.uint8)
    assert resize_face(image, (2, 2))[..., 0].tolist() == [[15, 100], [1, 8]]  # means of 2 x 2 pixels
    assert resize_face(image, (2, 4))[..., 0].tolist()[1] == [1, 1, 8, 8]  # height comes first
    np.testing.assert_array_equal(resize_face(image, (4, 4))[..., 0], image)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [((255, 0, 0), 29), ((0, 255, 0), 150), ((0, 0, 255), 76), ((7, 7, 7), 7), ((0, 0, 255, 9), 76), ((7,), 7)],
)
def test_resize_face_turns_bgr_into_grey(colour, expected):
    image = np.full((3, 3, len(colour)), colour, np.uint8)  # 0.114 blue + 0.587 green + 0.299 red
    assert (resize_face(image, (3, 3)) == expected).all()


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (48, 20), (20, 90), (300, 200, 3)])
def test_resize_face_gives_the_size_asked_for(shape):
    face = resize_face(np.full(shape, 90, np.uint8), (48, 40))
    assert (face.dtype, face.shape) == (np.uint8, (48, 40, 1))
    assert (face == 90).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_resize_face_refuses(image):
    with pytest.raises(ValueError, match="a face must be uint8 of shape .*; found .*: convert it to 8 bits"):
        resize_face(image)


# ----------------------------------------------------------------------------------------------------------
# Splits, duplicates, and the votes of FER+


def fer_with_votes(tmp_path, rows):
    """(data set, votes file) of (emotion, votes by name) rows, all Training, the pixels counting them."""
    faces = np.arange(len(rows), dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8)
    data = lp.Dataset({"Training": Split(faces, np.array([EMOTIONS.index(emotion) for emotion, _ in rows]))})
    lines = [",".join(["Training", "", *(str(cast.get(name, 0)) for name in VOTE_COLUMNS)]) for _, cast in rows]
    path = tmp_path / "fer2013new.csv"
    path.write_text("\n".join([VOTES_HEADER, *lines]))
    return data, path


def test_fer2013_with_votes(tmp_path):
    rows = [
        ("angry", {"anger": 6, "sadness": 4}),
        ("sad", {"neutral": 5, "sadness": 4, "NF": 1}),
        ("happy", {"happiness": 10}),
        ("neutral", {"contempt": 5, "neutral": 4}),
        ("fear", {"NF": 6, "fear": 4}),
        ("fear", {"unknown": 5, "fear": 4}),
        ("disgust", {"disgust": 10}),
        ("surprise", {"surprise": 10}),
    ]
    data, path = fer_with_votes(tmp_path, rows)
    same, votes = lp.join_votes(data, path)
    assert_same(same, data)
    assert same.emotions == EMOTIONS and votes["Training"].shape == (8, 10)
    dropped, votes = lp.join_votes(data, path, drop_no_face=True)
    assert dropped["Training"].faces[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7] and len(votes["Training"]) == 7
    assert dropped["Training"].emotions.tolist() == np.delete(data["Training"].emotions, 4).tolist()
    eight, votes = lp.join_votes(data, path, relabel=True)
    named = [eight.emotions[number] for number in eight["Training"].emotions]
    assert named == ["angry", "neutral", "happy", "contempt", "disgust", "surprise"]
    assert eight["Training"].faces[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 6, 7]
    np.testing.assert_allclose(votes["Training"][3, [0, 7]], [4 / 9, 5 / 9], rtol=1e-6)


def test_votes_that_belong_to_other_images(tmp_path):
    data, path = fer_with_votes(tmp_path, [("angry", {"fear": 9}), ("sad", {"happiness": 9}), ("fear", {"fear": 9})])
    with pytest.raises(UserError, match="found that 33% of Training's labels are the most voted: use FER2013's CSV"):
        lp.join_votes(data, path)
    data["PublicTest"] = data["Training"]
    data["Training"] = Split(data["Training"].faces, np.array([2, 3, 2]))
    with pytest.raises(UserError, match="found 0 rows for 3 images of PublicTest: use"):
        lp.join_votes(data, path)


def test_stratified_split_holds_out_the_fraction_of_every_emotion():
    emotions = np.repeat([0, 1, 3, 6], [100, 50, 10, 1])
    kept, held_out = lp.stratified_split(emotions, 0.2, seed=3)
    assert sorted([*kept, *held_out]) == list(range(len(emotions)))
    assert np.bincount(emotions[held_out], minlength=7).tolist() == [20, 10, 0, 2, 0, 0, 0]
    assert (np.diff(kept) > 0).all() and (np.diff(held_out) > 0).all()


def test_stratified_split_follows_its_seed():
    emotions = np.arange(700) % 7
    splits = [lp.stratified_split(emotions, 0.1, seed)[1].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_stratified_split_keeps_one_of_each():
    kept, _ = lp.stratified_split(np.array([2, 2, 5]), 0.99, seed=0)
    assert np.array([2, 2, 5])[kept].tolist() == [2, 5]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_stratified_split_refuses(fraction):
    with pytest.raises(ValueError, match="must be between 0 and 1; found"):
        lp.stratified_split(np.zeros(5, int), fraction, seed=0)


def test_duplicates():
    def split(*values):
        return Split(np.stack([grey(value)[..., np.newaxis] for value in values]), np.zeros(len(values), int))

    splits = {"Training": split(1, 2, 1, 1, 3), "PublicTest": split(4, 3, 3, 4), "PrivateTest": split(3, 5, 1)}
    first, second, third = (split.faces for split in splits.values())
    assert lp.find_duplicates(first).tolist() == [False, False, True, True, False]
    assert lp.find_duplicates(second, first).tolist() == [False, True, True, False]
    assert lp.find_duplicates(third, second).tolist() == [True, False, False]
    assert lp.count_duplicates(splits) == {
        ("Training", "Training"): 2,
        ("Training", "PublicTest"): 2,
        ("Training", "PrivateTest"): 2,
        ("PublicTest", "PublicTest"): 2,
        ("PublicTest", "PrivateTest"): 1,
        ("PrivateTest", "PrivateTest"): 0,
    }


# ----------------------------------------------------------------------------------------------------------
# Script


SCRIPT = Path(lp.__file__)


def run(*args: str | Path, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, **kwargs)


def test_main_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    rows = [*ROWS, "1,200 30 4 0,Training", "2,9 10 99 100,PublicTest"]
    assert exit_status(lp.main, ["--dataset", str(write_csv(tmp_path, rows))]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed]
    assert lines[0] == [*SPLITS, "all"]
    assert lines[1:8] == [
        ["angry", "1", "0", "0", "1"],
        ["disgust", "2", "0", "0", "2"],
        ["fear", "0", "1", "0", "1"],
        ["happy", "0", "0", "1", "1"],
        ["sad", "0", "0", "0", "0"],
        ["surprise", "0", "0", "0", "0"],
        ["neutral", "0", "1", "0", "1"],
    ]
    assert ["all", "3", "2", "1", "6"] in lines
    assert ["repeated", "within", "1", "0", "0"] in lines
    assert ["also", "in", "Training", "1", "0"] in lines
    assert ["also", "in", "PublicTest", "0"] in lines
    assert len({len(line) for line in printed[9:13]} - {0}) == 1  # numbers stand below their splits
    picture = cv2.imread(str(tmp_path / "overview.png"))
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_main_takes_a_folder_and_names_absent_splits(tmp_path):
    write_image(tmp_path / "train" / "happy" / "a.png", grey(5))
    done = run(SCRIPT, "--dataset", tmp_path.name, cwd=tmp_path.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert "absent: PublicTest, PrivateTest" in done.stdout
    assert (tmp_path / "overview.png").is_file()


def test_a_picture_that_can_not_be_written_is_one_notice(tmp_path, monkeypatch, capsys):
    read_only(tmp_path, monkeypatch)
    assert exit_status(lp.main, ["--dataset", str(write_csv(tmp_path))]) == 0
    told = capsys.readouterr()
    notice = told.err.splitlines()[-1]
    assert notice.startswith("notice: no picture drawn") and "overview.png can't be written" in notice
    assert "angry" in told.out and "picture" not in told.out


@pytest.mark.parametrize(
    "error",
    [
        OSError("Matplotlib requires access to a writable cache directory"),
        RuntimeError("FT_Open_Face failed with error 0x02: unknown file format"),
    ],
)
def test_without_fonts_or_their_cache_there_is_one_notice(tmp_path, monkeypatch, capsys, error):
    import matplotlib.figure

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    assert exit_status(lp.main, ["--dataset", str(write_csv(tmp_path))]) == 0
    printed = capsys.readouterr()
    assert "repeated within" in printed.out and printed.err.count("\n") == 1
    assert printed.err.startswith(f"notice: no picture drawn (Matplotlib can't draw ({error}): set MPLCONFIGDIR")
    assert not (tmp_path / "overview.png").exists()


def test_a_dollar_in_an_emotion_is_drawn_as_it_is(tmp_path):
    for name in ("$x^$", "a$b$_"):
        write_image(tmp_path / "train" / name / "a.png", grey(1))
    lp.draw_overview(load_fer2013_data(tmp_path, SIZE).drop_unused_labels(), tmp_path / "overview.png")
    assert (tmp_path / "overview.png").is_file()


def test_importing_is_light():
    code = "import sys, load_and_process; print(*sys.modules)"
    modules = set(run("-c", code, cwd=SCRIPT.parent).stdout.split())
    assert "numpy" in modules
    assert not modules & {"tensorflow", "keras", "pandas", "pyarrow", "matplotlib", "tqdm", "drawn_faces"}


def test_a_mistyped_setting_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(lp, "image_size", (48, 0))
    with pytest.raises(SystemExit) as stopped:
        lp.parse_args([])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told == "error: argument --image-size: must be from 1 to 1024; found 0; --help lists the flags\n"


def test_the_default_data_set_lies_beside_the_script():
    assert lp.parse_args([]).dataset == lp.FER2013_CSV
    assert lp.parse_args([]).dataset == SCRIPT.resolve().parent / "fer2013" / "fer2013.csv"
