"""Tests of models/classifier.py: probabilities as in training, and heat maps that show what the networks look at."""

import shutil
import subprocess
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from test_checkpoint import make_keras_2

from command_line import UserError
from drawn_faces import DrawnFaceCapture, Identity, draw_face, face_box
from evaluation.figures import hottest_fifth, moved_elsewhere
from load_and_process import EMOTIONS, load_fer2013_data, preprocess_images, resize_face
from models import checkpoint
from models import classifier as module
from models.checkpoint import compile_checkpoint, load_checkpoint, save_checkpoint
from models.classifier import GRID, PATTERNS, EmotionClassifier, crop_box, crop_faces
from models.cnn import NETWORKS

pytestmark = pytest.mark.usefixtures("compile_here")  # test_checkpoint.py compiles as users do
MODEL = Path(module.__file__).with_name("mini_XCEPTION.hdf5")
CELL = (8, 6)  # pixels; of the networks below, whose input is one such cell per part of the heat map


@pytest.fixture(scope="module")
def mini():
    return EmotionClassifier([MODEL])


@pytest.fixture(scope="module")
def lookers(tmp_path_factory):
    """Checkpoints of two networks that look at one part of a face each; they differ in input size."""
    folder = tmp_path_factory.mktemp("lookers")
    return [
        save_looker(folder / "upper_right.hdf5", CELL, (1, 3)),
        save_looker(folder / "lower_left.hdf5", (10, 10), (3, 0)),
    ]


def save_looker(path, cell, part):
    """Save a network: the brighter the part (row, column), the likelier "happy", the less likely the other six."""
    inputs = keras.Input((GRID * cell[0], GRID * cell[1], 1))
    x = keras.layers.AveragePooling2D(cell, name="squares")(inputs)
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(7, activation="softmax", use_bias=False, name="answer")
    model = keras.Model(inputs, outputs(x), name="looker")
    weights = np.zeros((GRID, GRID, 7), np.float32)
    weights[(*part, EMOTIONS.index("happy"))] = 3
    outputs.set_weights([weights.reshape(-1, 7)])
    save_checkpoint(model, path, EMOTIONS)
    return path


def spots(*parts):
    """A dark frame of 400x300 pixels (height, width), bright in the middle of some of its 5x5 parts (row, column)."""
    image = np.zeros((400, 300, 3), np.uint8)
    for row, column in parts:
        cv2.circle(image, (60 * column + 30, 80 * row + 40), 30, (255, 255, 255), -1)
    return image, np.array([[0, 0, 300, 400]])


def mean_of_parts(heat):
    """The mean of a map in each of its 5x5 parts."""
    height, width = (side // GRID for side in heat.shape)
    return heat.reshape(GRID, height, GRID, width).mean(axis=(1, 3))


def hottest(heat):
    """(row, column) of the hottest part."""
    return np.unravel_index(mean_of_parts(heat).argmax(), (GRID, GRID))


# ----------------------------------------------------------------------------------------------------------
# Probabilities


def test_live_and_training_see_the_same_pixels_and_the_same_probabilities(mini, drawn_frame, tmp_path):
    """From a box in a frame to probabilities: the live path against the data loader and Keras."""
    frame, boxes = drawn_frame
    for i, (x, y, w, h) in enumerate(boxes):
        folder = tmp_path / "train" / EMOTIONS[i]
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "face.png"), frame[y : y + h, x : x + w])
    faces, emotions = load_fer2013_data(tmp_path)["Training"]
    assert emotions.tolist() == [0, 1]
    np.testing.assert_array_equal(crop_faces(frame, boxes, (48, 48)), faces)

    network, _ = load_checkpoint(MODEL)
    wanted = network.predict(preprocess_images(faces), verbose=0)
    np.testing.assert_allclose(mini(frame, boxes), wanted, atol=1e-4)


def test_the_mirror_image_is_averaged_in(lookers):
    """A network that looks at the upper right alone sees what is in the upper left, too."""
    image, boxes = spots((1, 1))
    blind, both = EmotionClassifier(lookers[:1]), EmotionClassifier(lookers[:1], flip=True)
    mirrored = blind(np.ascontiguousarray(image[:, ::-1]), boxes)
    assert mirrored[0, 3] > 2 * blind(image, boxes)[0, 3]
    np.testing.assert_allclose(both(image, boxes), (blind(image, boxes) + mirrored) / 2, atol=1e-5)
    image, boxes = spots((1, 3), (1, 1))
    twice = np.concatenate([boxes, boxes // 2])
    assert both(image, twice).shape == (2, 7)
    np.testing.assert_allclose(both(image, twice)[:1], both(image, boxes), atol=1e-6)


def test_a_box_that_leaves_the_frame_is_cut_off():
    frame = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)
    faces = crop_faces(frame, np.array([[-10, -10, 40, 40], [80, 80, 40, 40]]), (48, 48))
    np.testing.assert_array_equal(faces[0], resize_face(frame[:30, :30]))
    np.testing.assert_array_equal(faces[1], resize_face(frame[80:, 80:]))


def test_a_turned_box_that_leaves_the_frame_keeps_its_centre():
    frame = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)
    turned = crop_box(frame, (-10, -10, 40, 40), np.pi)  # upside down
    np.testing.assert_array_equal(turned[:30, :30], frame[29::-1, 29::-1])
    assert (turned[30:, 30:] == frame[0, 0]).all()  # outside the frame


def test_any_number_of_faces_at_once(mini, drawn_frame):
    frame, truth = drawn_frame
    one = [mini(frame, np.array([box])) for box in truth]
    np.testing.assert_allclose(mini(frame, np.array(truth)), np.concatenate(one), atol=1e-6)
    assert mini(frame, np.empty((0, 4), int)).shape == (0, 7)
    np.testing.assert_allclose(mini(frame, np.array(truth * 3)).sum(axis=1), 1, atol=1e-5)


def test_several_models_are_averaged(mini, drawn_frame, tmp_path):
    frame, truth = drawn_frame
    network, emotions = load_checkpoint(MODEL)
    network.set_weights([weight * 0.9 for weight in network.get_weights()])
    save_checkpoint(network, tmp_path / "other.hdf5", emotions)
    other = EmotionClassifier([tmp_path / "other.hdf5"])(frame, truth)
    both = EmotionClassifier([MODEL, tmp_path / "other.hdf5"])(frame, truth)
    assert np.abs(other - mini(frame, truth)).max() > 0.01
    np.testing.assert_allclose(both, (other + mini(frame, truth)) / 2, atol=1e-6)


def test_a_file_of_keras_2_answers_as_in_keras(drawn_frame, tmp_path):
    """64x64, labels unnamed, as oarriaga/face_classification has them; with the trained weights."""
    path, (frame, boxes) = tmp_path / "fer2013_mini_XCEPTION.102-0.66.hdf5", drawn_frame
    network, (trained, _) = NETWORKS["mini_XCEPTION"]((64, 64, 1), 7), load_checkpoint(MODEL)
    network.set_weights(trained.get_weights())  # which do not depend on the input's size
    save_checkpoint(network, path, EMOTIONS)
    make_keras_2(path, "Model")
    classify = EmotionClassifier([path])
    wanted = network.predict(preprocess_images(crop_faces(frame, boxes, (64, 64))), verbose=0)
    assert classify.emotions == EMOTIONS and wanted.max() > 0.3
    np.testing.assert_allclose(classify(frame, boxes), wanted, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (48, 48), (96, 64)])
def test_small_faces_are_enlarged_as_networks_of_that_size_expect(size):
    """Linearly, as in the programs that networks of other sizes come from; to 48x48 with cubic, as before."""
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    way = cv2.INTER_CUBIC if size == (48, 48) else cv2.INTER_LINEAR
    wanted = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), size[::-1], interpolation=way)
    np.testing.assert_array_equal(crop_faces(image, [[0, 0, 40, 40]], size)[0, ..., 0], wanted)


def test_outputs_that_are_no_numbers_end_the_run_with_one_line(drawn_frame, monkeypatch):
    classify = EmotionClassifier([MODEL])
    ((_, network),) = classify.networks
    rows = np.full((2, 7), np.nan, np.float32)
    monkeypatch.setattr(type(network._interpreter), "get_tensor", lambda *_: rows)
    with pytest.raises(UserError, match=r"mini_XCEPTION.hdf5 must give probabilities, .* found NaN or infinite"):
        classify(*drawn_frame)


def test_a_network_from_elsewhere_sees_colour_in_its_own_range(tmp_path, drawn_frame):
    """Its file says nothing: the emotions and the range are the user's."""
    inputs = keras.Input((60, 52, 3))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(inputs))
    network, path = keras.Model(inputs, keras.layers.Dense(3)(x)), tmp_path / "mine.keras"
    network.save(path)
    classify = EmotionClassifier([path], emotions=("sad", "happy", "bored"), input_range=(0.0, 1.0))
    assert classify.emotions == ("sad", "happy", "bored")
    frame, boxes = drawn_frame
    faces = crop_faces(frame, boxes, (60, 52)).repeat(3, axis=-1) / np.float32(255)
    wanted = keras.ops.convert_to_numpy(keras.ops.softmax(network(faces)))
    np.testing.assert_allclose(classify(frame, boxes), wanted, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------
# Compiled form


@pytest.fixture
def compiled_files(tmp_path, monkeypatch):
    """(checkpoint, {"beside" or "cached": where its compiled form may lie, "whole": one}); compiling only copies it."""
    path, whole = Path(shutil.copy(MODEL, tmp_path)), compile_checkpoint(MODEL)
    monkeypatch.setattr(checkpoint, "COMPILED_FOLDER", tmp_path)
    monkeypatch.setenv("EMOTION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()

    def copy(command, **_):
        shutil.copy(whole, command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(checkpoint.subprocess, "run", copy)
    return path, {"beside": tmp_path / whole.name, "cached": tmp_path / "cache" / whole.name, "whole": whole}


DAMAGES = {
    "junk": lambda content: np.random.default_rng(0).bytes(5000),
    "empty": lambda content: b"",
    "cut": lambda content: content[:-100],
}


@pytest.mark.parametrize("damaged", [["beside"], ["cached"], ["beside", "cached"]], ids=" and ".join)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_compiled_form_is_made_anew_in_the_cache(mini, drawn_frame, compiled_files, capsys, damage, damaged):
    path, files = compiled_files
    spoilt = DAMAGES[damage](files["whole"].read_bytes())
    for name in damaged:
        files[name].write_bytes(spoilt)
    np.testing.assert_array_equal(EmotionClassifier([path])(*drawn_frame), mini(*drawn_frame))
    *notices, compiling = capsys.readouterr().err.splitlines()
    assert notices == [f"notice: {files[name]} is damaged and ignored" for name in damaged]
    assert compiling.startswith(f"compiling {path.name} once")
    assert files["cached"].read_bytes() == files["whole"].read_bytes()
    assert not files["beside"].exists() or files["beside"].read_bytes() == spoilt
    EmotionClassifier([path])
    assert "compiling" not in capsys.readouterr().err


def test_without_tensorflow_a_damaged_compiled_form_is_one_line(compiled_files, monkeypatch):
    path, files = compiled_files
    files["beside"].write_bytes(b"junk")
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="must be compiled first, which takes TensorFlow: pip install"):
        EmotionClassifier([path])


def test_what_litert_does_not_run_is_one_line(compiled_files, monkeypatch):
    path, _ = compiled_files

    def junk(command, **_):
        Path(command[-1]).write_bytes(b"junk")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(checkpoint.subprocess, "run", junk)
    with pytest.raises(UserError, match="a network must run in LiteRT; found .*mini_XCEPTION.hdf5"):
        EmotionClassifier([path])


# ----------------------------------------------------------------------------------------------------------
# Heat maps


def test_patterns_tell_the_parts_apart():
    signs = PATTERNS.reshape(len(PATTERNS), -1)
    np.testing.assert_array_equal(np.abs(signs), 1)
    np.testing.assert_array_equal(signs.sum(axis=0), 0)
    np.testing.assert_array_equal(signs.T @ signs, len(signs) * np.eye(GRID**2))
    first, second = np.triu_indices(GRID**2, 1)
    np.testing.assert_array_equal(signs.T @ (signs[:, first] * signs[:, second]), 0)


def test_heat_is_where_the_network_looks(lookers):
    classify = EmotionClassifier(lookers[:1])
    image, boxes = spots((1, 3), (3, 0), (4, 4))
    happy, sad = classify.heat_maps(np.hstack([image, image]), boxes.repeat(2, 0) + [[0] * 4, [300, 0, 0, 0]], [3, 4])
    assert happy.shape == (40, 30) and happy.dtype == np.float32
    assert hottest(happy) == (1, 3) and (happy.min(), happy.max()) == (0, 1)
    far = np.abs(np.argwhere(np.ones((GRID, GRID))) - (1, 3)).max(axis=1) > 1
    assert mean_of_parts(happy).ravel()[far].max() < 0.05
    assert sad.max() < 0.3 and mean_of_parts(sad)[1, 3] == 0  # what makes it happy speaks against sad


def test_a_network_that_sees_nothing_gives_no_heat(lookers):
    image, boxes = spots()
    assert not EmotionClassifier(lookers[:1]).heat_maps(image, boxes, [3]).any()


def test_several_networks_are_shown_together(lookers):
    image, boxes = spots((1, 3), (3, 0))
    (heat,) = EmotionClassifier(lookers).heat_maps(image, boxes, [3])
    assert heat.shape == (40, 30)
    first, second = sorted(zip(mean_of_parts(heat).ravel(), np.ndindex(GRID, GRID), strict=True))[:-3:-1]
    assert {first[1], second[1]} == {(1, 3), (3, 0)} and second[0] > 0.7 * first[0]


def share_lost(classify, pick):
    """Mean share of the label's probability lost with a fifth of a drawn face hidden, over the seven expressions.

    `pick` takes a heat map and gives several bool masks of the same shape.
    """
    lost = []
    centre, size = (160, 120), 144
    boxes = np.array([face_box(centre, size)])
    x, y, w, h = boxes[0]
    for emotion in EMOTIONS:
        image = draw_face(emotion, frame=np.full((240, 320, 3), 150, np.uint8), centre=centre, size=size)
        (before,) = classify(image, boxes)
        label = before.argmax()
        (heat,) = classify.heat_maps(image, boxes, [label])
        for mask in pick(heat):
            hidden = image.copy()
            face = hidden[y : y + h, x : x + w]
            face[cv2.resize(mask.astype(np.uint8), (w, h)) > 0] = face.mean(axis=(0, 1))
            lost.append(1 - classify(hidden, boxes)[0, label] / before[label])
    return np.mean(lost)


def test_hiding_the_hot_part_of_a_face_costs_more_than_hiding_as_much_elsewhere(mini):
    hot = share_lost(mini, lambda heat: [hottest_fifth(heat)])
    assert hot > share_lost(mini, lambda heat: moved_elsewhere(hottest_fifth(heat))) + 0.2


def test_each_face_has_its_map_and_its_label(mini):
    """Other faces in the frame change nothing, and a heat map does not change the next probabilities."""
    capture = DrawnFaceCapture(identities=(Identity(), Identity(), Identity()))
    frame, boxes = capture.read()[1], np.array(capture.boxes)
    labels = [4, 6, 0]  # the faces are neutral, 6; for a label that is not predicted the heat may be low
    maps, wanted = mini.heat_maps(frame, boxes, labels), mini(frame, boxes)
    assert maps.shape == (3, 48, 48) and maps.dtype == np.float32
    assert maps.min() == 0 and maps.max() == maps[1].max() == 1 and (maps.max(axis=(1, 2)) > 0.2).all()
    for some in ([2], [0, 1], [1, 2, 0], [0]):
        np.testing.assert_allclose(mini(frame, boxes[some]), wanted[some], atol=1e-6)
        np.testing.assert_allclose(mini.heat_maps(frame, boxes[some], np.take(labels, some)), maps[some], atol=1e-4)
    assert mini.heat_maps(frame, boxes[:0], []).shape == (0, 48, 48)
    assert np.abs(mini.heat_maps(frame, boxes[:1], [0]) - maps[0]).max() > 0.1
    with pytest.raises(ValueError) as raised:  # a bug of the caller's
        mini.heat_maps(frame, boxes, [3])
    assert not isinstance(raised.value, UserError)


def test_networks_of_one_input_size_share_their_crops(monkeypatch):
    sizes = []

    def record(image, boxes, size, rolls):
        sizes.append(size)
        return crop_faces(image, boxes, size, rolls)

    monkeypatch.setattr(module, "crop_faces", record)
    classify = EmotionClassifier([MODEL, MODEL.with_stem("tiny_XCEPTION")])
    classify(np.zeros((60, 60, 3), np.uint8), np.array([[0, 0, 60, 60]]))
    assert len(classify.networks) == 2 and sizes == [(48, 48)]


def test_turned_faces_are_cut_out_upright_and_upright_faces_as_before(drawn_frame):
    frame, boxes = drawn_frame
    upright = crop_faces(frame, np.array(boxes), (48, 48))
    np.testing.assert_array_equal(crop_faces(frame, np.array(boxes), (48, 48), [0.0, 0.0]), upright)
    x, y, w, h = boxes[0]
    for quarter, turned in ((1, cv2.ROTATE_90_CLOCKWISE), (2, cv2.ROTATE_180), (3, cv2.ROTATE_90_COUNTERCLOCKWISE)):
        part = frame.copy()
        part[y : y + h, x : x + w] = cv2.rotate(part[y : y + h, x : x + w], turned)
        seen = crop_faces(part, [boxes[0]], (48, 48), [quarter * np.pi / 2])[0]
        assert np.abs(seen.astype(int) - upright[0]).max() <= 1


def test_probabilities_and_heat_maps_see_turned_faces_upright(drawn_frame, lookers):
    frame, boxes = drawn_frame
    x, y, w, h = boxes[0]
    part = frame.copy()
    part[y : y + h, x : x + w] = cv2.rotate(part[y : y + h, x : x + w], cv2.ROTATE_90_CLOCKWISE)
    classify = EmotionClassifier(lookers)
    np.testing.assert_allclose(classify(part, boxes[:1], [np.pi / 2]), classify(frame, boxes[:1]), atol=0.01)
    maps = classify.heat_maps(part, boxes[:1], [3], [np.pi / 2]), classify.heat_maps(frame, boxes[:1], [3])
    np.testing.assert_allclose(*maps, atol=0.1)


def test_a_checkpoint_that_is_named_twice_counts_twice_and_runs_once():
    first, second = (MODEL.with_stem(name) for name in ("tiny_XCEPTION", "mini_XCEPTION"))
    faces = np.random.default_rng(0).uniform(-1, 1, (3, 48, 48, 1)).astype(np.float32)
    alone = [EmotionClassifier([path]).predict(faces) for path in (first, second)]
    both = EmotionClassifier([first, second, first])
    np.testing.assert_allclose(both.predict(faces), (2 * alone[0] + alone[1]) / 3, atol=1e-6)
    assert len(both.networks) == 2
