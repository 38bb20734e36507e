"""Tests of recognition/recognizer.py, of the README's lines of Python, and of the notebook."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import real_time_emotion_recognition as live
from command_line import UserError
from drawn_faces import draw_face
from load_and_process import EMOTIONS
from recognition import EmotionRecognizer, recognizer
from recognition.annotation import Annotator
from recognition.tracking import Face

ROOT = Path(recognizer.__file__).resolve().parents[1]
SMILE = (176, 66, 97, 97)  # the face in the photograph


@pytest.fixture(scope="module")
def recognize():
    return EmotionRecognizer()


@pytest.fixture(scope="module")
def crops():
    """Seven drawn faces, grey, each of another size, with one more of colour."""
    sizes = (48, 60, 72, 90, 100, 48, 64)
    grey = [
        cv2.cvtColor(draw_face(emotion, frame=np.full((side, side, 3), 150, np.uint8)), cv2.COLOR_BGR2GRAY)
        for emotion, side in zip(EMOTIONS, sizes, strict=True)
    ]
    return [*grey, cv2.cvtColor(grey[3], cv2.COLOR_GRAY2BGR)]


def values(faces):
    """What faces say: box, emotion and probabilities of each."""
    return [(face.box, face.emotion, face.probabilities) for face in faces]


# ----------------------------------------------------------------------------------------------------------
# Images


FORMS = {
    "str": lambda path, bgr: (str(path), None),
    "path": lambda path, bgr: (path, None),
    "BGR": lambda path, bgr: (bgr, "BGR"),
    "RGB, seen backwards": lambda path, bgr: (bgr[..., ::-1], "RGB"),
    "BGRA": lambda path, bgr: (cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA), "BGR"),
    "RGBA": lambda path, bgr: (cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA), "RGB"),
    "grey": lambda path, bgr: (cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), None),
    "grey (h, w, 1)": lambda path, bgr: (cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)[..., None], None),
    "PIL": lambda path, bgr: (Image.open(path), None),
    "PIL with alpha": lambda path, bgr: (Image.open(path).convert("RGBA"), None),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_gives_the_same_faces_in_every_form(recognize, photograph, form):
    bgr = cv2.imread(str(photograph))
    image, channels = FORMS[form](photograph, bgr)
    (face,) = recognize(image, boxes=[SMILE], channels=channels)
    expected = recognize.classify(bgr, [SMILE])[0]
    assert (face.box, face.emotion, face.uncertain, face.number) == (SMILE, "happy", False, 0)
    np.testing.assert_allclose([*face.probabilities.values()], expected, atol=1e-6)
    assert tuple(face.probabilities) == EMOTIONS and face.confidence == face.probabilities["happy"] > 0.6


def test_faces_are_found_in_a_photograph_and_not_where_there_is_none(recognize, photograph):
    (face,) = recognize(photograph)
    assert face.emotion == "happy" and np.abs(np.subtract(face.box, SMILE)).max() < 15
    assert recognize(np.full((99, 99), 128, np.uint8)) == []
    assert "emotion='happy'" in repr(face) and "classify" not in repr(face)


def test_images_together_give_what_each_gives_alone(recognize, photograph, drawn_frame):
    frame, boxes = drawn_frame
    images = [photograph, frame, np.zeros((60, 60), np.uint8), Image.open(photograph)]
    together = recognize(iter(images), channels="BGR")
    assert [len(faces) for faces in together] == [1, len(boxes), 0, 1]
    alone = [recognize(image, channels="BGR") for image in images]
    for faces, expected in zip(together, alone, strict=True):
        assert [face.box for face in faces] == [face.box for face in expected]
        for face, other in zip(faces, expected, strict=True):
            assert face.emotion == other.emotion and face.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert recognize([]) == []


def test_a_photograph_of_a_phone_that_was_held_sideways(recognize, photograph, tmp_path):
    upright, exif = Image.open(photograph).convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    (expected,), (face,) = recognize(upright), recognize(Image.open(tmp_path / "a.png"))
    assert (face.box, face.emotion) == (expected.box, expected.emotion)
    assert recognize.draw(Image.open(tmp_path / "a.png"), [face]).size == recognize.draw(upright, [expected]).size


def test_a_whole_photograph_is_no_crop(recognize, photograph, capsys):
    recognize([photograph, photograph], cropped=True)
    assert capsys.readouterr().err.count("found one of 512x512 pixels with a face of ") == 1
    image = cv2.imread(str(photograph))
    x, y, w, h = recognize(photograph)[0].box
    recognize([image[y : y + h, x : x + w], np.zeros((48, 48), np.uint8)], cropped=True, channels="BGR")
    assert not capsys.readouterr().err


def test_uncertain_is_what_the_live_script_calls_so(photograph):
    recognize, bgr = EmotionRecognizer(uncertain_below=0.999), cv2.imread(str(photograph))
    (face,) = recognize(photograph, boxes=[SMILE])
    assert face.uncertain and face.emotion == "happy"
    drawn = Face(0, SMILE, np.array([*face.probabilities.values()]), uncertain=True)
    expected = Annotator(EMOTIONS).draw(bgr, [drawn], may_grow=True)
    np.testing.assert_array_equal(recognize.draw(bgr, [face], channels="BGR"), expected)
    (seen,) = recognize.follow(still=True)(bgr, 0.0)
    assert seen.uncertain


# ----------------------------------------------------------------------------------------------------------
# Faces that the caller has already


def test_boxes_of_the_caller(recognize, drawn_frame, photograph):
    frame, boxes = drawn_frame
    wanted = np.array([boxes[1], boxes[0], (-20, -20, 100, 100)], np.int32)
    faces = recognize(frame, boxes=wanted + 0.3, channels="BGR")
    assert [face.box for face in faces] == [tuple(box) for box in wanted.tolist()]
    assert [face.number for face in faces] == [0, 1, 2]
    probabilities = [[*face.probabilities.values()] for face in faces]
    np.testing.assert_allclose(probabilities, recognize.classify(frame, wanted), atol=1e-6)
    several = recognize([frame, photograph, frame], boxes=[boxes, [SMILE], []], channels="BGR")
    assert [len(faces) for faces in several] == [2, 1, 0] and several[1][0].emotion == "happy"
    assert recognize(frame, boxes=SMILE, channels="BGR")[0].box == SMILE  # one box


def test_crops_are_faces_as_they_are(recognize, crops, monkeypatch):
    monkeypatch.setattr(recognizer, "open_detector", None)  # nobody looks for faces
    named = EmotionRecognizer()(crops, cropped=True, channels="BGR")
    assert [face.box for (face,) in named] == [(0, 0, *crop.shape[1::-1]) for crop in crops]
    for (face,), crop in zip(named, crops, strict=True):
        (expected,) = recognize.classify(crop if crop.ndim == 3 else crop[..., None], [(0, 0, *crop.shape[1::-1])])
        np.testing.assert_allclose([*face.probabilities.values()], expected, atol=1e-5)
    (grey,), (colour,) = named[3], named[7]
    assert grey.probabilities == colour.probabilities


def test_an_array_of_faces_is_as_many_faces(recognize, monkeypatch):
    """As data sets hold them: more than a batch."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (150, 48, 48, 1), dtype=np.uint8)
    sizes, run = [], recognize.classify._mean_probabilities
    monkeypatch.setattr(
        recognize.classify, "_mean_probabilities", lambda batch: sizes.append(len(batch[48, 48])) or run(batch)
    )
    named = recognize(faces, cropped=True)
    assert sizes == [64, 64, 22]
    (last,) = named[-1]
    expected = recognize.classify(faces[-1], [(0, 0, 48, 48)])[0]
    np.testing.assert_allclose([*last.probabilities.values()], expected, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------
# Heat maps and pictures


def test_heat_map_is_that_of_the_classifier(recognize, drawn_frame):
    frame, boxes = drawn_frame
    first, second = recognize(frame, boxes=boxes, channels="BGR")
    index = EMOTIONS.index(second.emotion)
    expected = recognize.classify.heat_maps(frame, boxes, [3, index])
    np.testing.assert_array_equal(second.heat_map(), expected[1])
    np.testing.assert_array_equal(first.heat_map("happy"), expected[0])
    with pytest.raises(ValueError):
        first.heat_map("hungry")


def test_a_picture_comes_back_as_the_image_came(recognize, photograph):
    bgr, pil = cv2.imread(str(photograph)), Image.open(photograph).convert("RGB")
    before = bgr.copy()
    faces = recognize(bgr, boxes=[SMILE], channels="BGR")
    picture = recognize.draw(bgr, faces, channels="BGR")
    np.testing.assert_array_equal(bgr, before)
    annotate = Annotator(recognize.emotions)
    expected = annotate.draw(bgr, [Face(0, SMILE, recognize.classify(bgr, [SMILE])[0])], may_grow=True)
    np.testing.assert_array_equal(picture, expected)
    np.testing.assert_array_equal(recognize.draw(photograph, faces), picture)
    np.testing.assert_array_equal(recognize.draw(bgr[..., ::-1], faces, channels="RGB"), picture[..., ::-1])
    drawn = recognize.draw(pil, faces)
    assert isinstance(drawn, Image.Image)
    np.testing.assert_array_equal(np.asarray(drawn), picture[..., ::-1])
    x, y, w, h = SMILE
    face = Face(0, SMILE, recognize.classify(bgr, [SMILE])[0])
    expected = Annotator(EMOTIONS, "fr").draw(bgr, [face], may_grow=True)
    np.testing.assert_array_equal(recognize.draw(bgr, faces, channels="BGR", language="fr"), expected)
    hot = recognize.draw(bgr, faces, channels="BGR", heat_maps=True).astype(int)
    assert np.abs(hot - picture)[y : y + h, x : x + w].max() > 50


# ----------------------------------------------------------------------------------------------------------
# Tables


def test_the_table_of_a_video_is_the_csv_of_the_live_script(recognize, clip, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    table = recognize.table(str(clip))
    assert f"{clip.stem}: " in capsys.readouterr().err  # the progress bar
    assert live.main(["--source", str(clip), "--headless", "--csv", str(tmp_path / "a.csv")]) == 0
    expected = pandas.read_csv(tmp_path / "a.csv")
    assert set(table["source"]) == {str(clip)} and len(table) == 30
    shared = [name for name in expected.columns if expected[name].dtype.kind in "if"]
    np.testing.assert_allclose(table[shared], expected[shared], atol=6e-4)
    assert table["emotion"].tolist() == expected["emotion"].tolist()
    row = table.iloc[-1]
    assert row["emotion"] == "happy" and row["confidence"] == row["happy"] and not row["uncertain"]
    unsure = table["uncertain"].astype(bool)
    assert (table["confidence"][~unsure] >= 0.4).all() and (table["confidence"][unsure] < 0.45).all()


def test_the_table_of_a_folder_leaves_out_what_cannot_be_read(recognize, photograph, clip, tmp_path, capsys):
    pytest.importorskip("pandas")
    shutil.copy(photograph, tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    shutil.copy(clip, tmp_path / "c.avi")
    (tmp_path / "d.mp4").write_bytes(b"no video")
    table = recognize.table(tmp_path, progress=False)
    told = capsys.readouterr().err
    assert "b.png is not an image" in told and "error: " in told and "d.mp4 is not a video" in told
    assert table.groupby("source").size().to_dict() == {str(tmp_path / "a.png"): 1, str(tmp_path / "c.avi"): 30}
    assert table["time_s"].isna().sum() == 1


def test_the_table_of_images_in_memory_and_in_files(recognize, photograph, crops):
    pytest.importorskip("pandas")
    table = recognize.table([photograph, *crops[:2], Image.open(photograph)], cropped=True, progress=False)
    assert table["source"].tolist() == [str(photograph), "", "", ""]
    assert table["frame"].tolist() == [0, 0, 1, 2] and table["width"].tolist() == [512, 48, 60, 512]
    assert recognize.table([], progress=False).columns.tolist() == table.columns.tolist()
    assert list(table.columns[:11]) == [*recognizer.COLUMNS] and tuple(table.columns[11:]) == EMOTIONS


def test_a_table_has_an_end(recognize, connect_camera):
    connect_camera([np.zeros((9, 9, 3), np.uint8)], patience=0.2)
    with pytest.raises(UserError, match="made of images and videos; found camera 0"):
        recognize.table(0)


def test_a_table_names_the_package_that_is_missing(recognize, monkeypatch, photograph):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        recognize.table(photograph)


# ----------------------------------------------------------------------------------------------------------
# Mistakes


COLOUR = np.zeros((60, 80, 3), np.uint8)
GREY = COLOUR[..., 0]
MISTAKES = {
    "missing file": ("nowhere.jpg", {}, UserError, "nothing at nowhere.jpg"),
    "a folder": (ROOT, {}, UserError, r"table\(\) takes folders and videos"),
    "not an image": (__file__, {}, UserError, "is not an image that can be read"),
    "failed cv2.imread": (None, {}, TypeError, "found NoneType: cv2.imread gives None"),
    "a number": (3, {}, TypeError, "found int"),
    "a number in a list": ([GREY, 3], {}, TypeError, "found int"),
    "colour": (COLOUR, {}, ValueError, 'channels must be "BGR" .* or "RGB" .*; found None'),
    "other colours": (COLOUR, {"channels": "HSV"}, ValueError, "found 'HSV'"),
    "floats": (GREY / 255, {}, TypeError, "uint8, from 0 to 255; found float64"),
    "16 bits": (GREY.astype(np.uint16), {}, TypeError, "found uint16"),
    "PIL, 32 bits": (Image.new("I", (8, 8)), {}, TypeError, "8 bits; found mode I"),
    "channels first": (COLOUR.transpose(2, 0, 1), {}, ValueError, r"found \(3, 60, 80\)"),
    "nothing": (GREY[:0], {}, ValueError, r"found \(0, 80\)"),
    "five dimensions": (COLOUR[None, None], {}, ValueError, "found"),
    "boxes and cropped": (GREY, {"boxes": [SMILE], "cropped": True}, ValueError, "found both"),
    "box outside": (GREY, {"boxes": [(80, 0, 9, 9)]}, ValueError, r"80x60 pixels; found \[80, 0, 9, 9\]"),
    "box without area": (GREY, {"boxes": [(0, 0, 0, 9)]}, ValueError, "must hold a part of the image"),
    "three numbers": (GREY, {"boxes": [(0, 0, 9)]}, ValueError, r"numbers \(k, 4\)"),
    "no number": (GREY, {"boxes": [(0, 0, 9, np.nan)]}, ValueError, r"numbers \(k, 4\)"),
    "boxes of another list": ([GREY, GREY], {"boxes": [SMILE]}, ValueError, "2 images and 1 arrays"),
}


@pytest.mark.parametrize("images, arguments, kind, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_line(recognize, images, arguments, kind, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message) as raised:
        recognize(images, **arguments)
    assert raised.type is kind and "\n" not in str(raised.value)


def test_a_missing_model_or_detector_is_one_line():
    with pytest.raises(UserError, match="no checkpoint at nowhere.hdf5"):
        EmotionRecognizer("nowhere.hdf5")
    with pytest.raises(UserError, match="the detector must be"):
        EmotionRecognizer(detector="nobody")


# ----------------------------------------------------------------------------------------------------------
# The live script, the README, the notebook


def test_every_argument_is_a_flag_of_the_live_script_with_the_same_default():
    arguments = inspect.signature(EmotionRecognizer).parameters
    defaults = {name: argument.default for name, argument in arguments.items()}
    defaults["model"] = [*defaults["model"]]
    flags = vars(live.parse_args([]))
    assert len(defaults) > 10 and defaults == {name: flags[name] for name in defaults}


def python_of_readme():
    """The README's blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)


@pytest.fixture
def beside_the_models(photograph, clip, monkeypatch, tmp_path):
    """A folder to work in, with the user's photograph and video, and the project's models."""
    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.imread(str(photograph)))
    shutil.copy(clip, tmp_path / "clip.mp4")
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "simple_CNN.hdf5", tmp_path / "models")
    monkeypatch.chdir(tmp_path)


def test_the_first_lines_of_the_readme_in_a_fresh_python(beside_the_models):
    pytest.importorskip("pandas")
    code = (
        "import sys, recognition.sources\n"
        "assert 'recognition.recognizer' not in sys.modules\n"  # a part does not import the others
        f"{python_of_readme()[0]}\n"
        "print(table.groupby('source').size().to_dict(), picture.shape[2], heat.shape)\n"
        "print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    face, rest, heavy = done.stdout.splitlines()
    assert re.match(r"\(\d+, \d+, \d+, \d+\) happy 0\.\d+ 0\.\d+ False$", face)
    assert rest == "{'clip.mp4': 30, 'photo.jpg': 1} 3 (48, 48)" and heavy == "set()"


def test_the_lines_of_the_readme_for_keras(beside_the_models, capsys):
    blocks = python_of_readme()
    assert len(blocks) == 3  # the third is a network, which the tests of training train
    exec(blocks[1], {})
    assert capsys.readouterr().out.splitlines()[-1] == "happy"
    from keras.models import load_model

    assert load_model("models/simple_CNN.hdf5").input_shape == (None, 48, 48, 1)  # as plain as can be


@pytest.fixture
def project(tmp_path):
    """The project's files in another folder, in which a notebook may write."""
    for path in ROOT.iterdir():
        if path.name not in ("notebooks", "output"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def test_the_notebook_runs_and_its_outputs_are_kept(project, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    path = ROOT / "notebooks" / "emotions.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    kept = json.dumps([cell.outputs for cell in cells])
    assert kept.count("image/jpeg") > 3 and path.stat().st_size < 1_000_000
    assert not re.search(r"/(home|tmp|root)/|Traceback|stderr", kept) and str(ROOT) not in kept

    # Most of the time would go into making the few training steps fast.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter, about itself
        folder = {"metadata": {"path": str(project / "notebooks")}}
        nbclient.NotebookClient(notebook, timeout=600, resources=folder).execute()
    assert (project / "output" / "notebook" / "evaluation.json").exists()
