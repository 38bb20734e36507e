"""Tests of the evaluation: what the script measures and writes, and everything that goes wrong."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from test_figures import BINS, KEYS_OF_FLIP, predictions_of

import drawn_faces
import evaluate_emotion_classifier as script
import load_and_process
from command_line import UserError, exit_status
from drawn_faces import draw_dataset
from evaluation.figures import expected_calibration_error
from evaluation.predictions import EvaluationSplit, load_split, predict_split
from face_files.votes import VOTE_COLUMNS
from load_and_process import EMOTIONS, load_fer2013_data, resize_face
from models.checkpoint import Header, read_header, save_checkpoint
from training.disturbances import MEASURED, disturb_all

SCRIPT = Path(script.__file__)
SHUFFLED = ("neutral", "happy", "fear", "disgust", "surprise", "sad", "angry")
KEYS = {
    "path",
    "network",
    "parameters",
    "split",
    "images",
    "accuracy",
    "accuracy_ci95",
    "accuracy_without_training_duplicates",
    "macro_f1",
    "per_emotion",
    "confusion_matrix",
    "expected_calibration_error",
    "log_loss",
}


def linear_network(path, size=(48, 48), emotions=EMOTIONS, seed=0, activation="softmax", gain=1.0):
    """Save a network of one dense layer; its probabilities are `linear_probabilities` of the same arguments."""
    import keras

    weights = _weights(size, emotions, seed, gain)
    inputs = keras.Input((*size, 1))
    outputs = keras.layers.Dense(len(emotions), activation, use_bias=False)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs, name=path.stem)
    model.set_weights([weights.astype(np.float32)])
    save_checkpoint(model, path, emotions)
    return path


def _weights(size, emotions, seed, gain=1.0):
    """float (pixels, emotions); what an emotion weighs does not depend on its place among the outputs."""
    columns = {
        emotion: np.random.default_rng((seed, place)).normal(0, 0.03, size[0] * size[1])
        for place, emotion in enumerate((*EMOTIONS, "contempt"))
    }
    return gain * np.stack([columns[emotion] for emotion in emotions], axis=1)


def linear_probabilities(faces, size=(48, 48), seed=0, emotions=EMOTIONS):
    """What `linear_network` gives for faces uint8 (n, h, w, 1), without Keras."""
    logits = (faces.reshape(len(faces), -1) / 127.5 - 1) @ _weights(size, emotions, seed)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def write_folder(folder, splits):
    """A data set's folder of PNGs from {"train": {emotion: faces}}."""
    for split, emotions in splits.items():
        for emotion, faces in emotions.items():
            target = folder / split / emotion
            target.mkdir(parents=True)
            for number, face in enumerate(faces):
                cv2.imwrite(str(target / f"{number}.png"), face)
    return folder


def run(*arguments):
    """The exit status of the script with these arguments."""
    return exit_status(script.main, [str(argument) for argument in arguments])


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def drawn():
    """Drawn faces of both splits, 96x96: (faces, emotions) each."""
    return draw_dataset((96, 96), seed=3, per_emotion={"Training": 2, "PublicTest": 4})


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    """A data set of all emotions, 28 PublicTest faces and two more that are in Training too; no PrivateTest."""
    by_emotion = {
        split: {emotion: faces[emotions == number] for number, emotion in enumerate(EMOTIONS)}
        for split, (faces, emotions) in drawn.items()
    }
    train, validation = by_emotion["Training"], by_emotion["PublicTest"]
    for emotion in ("fear", "sad"):
        validation[emotion] = np.concatenate([validation[emotion], train[emotion][:1]])
    return write_folder(tmp_path_factory.mktemp("faces"), {"train": train, "validation": validation})


@pytest.fixture(scope="module")
def few(drawn, tmp_path_factory):
    """A data set of three emotions, without Training."""
    faces, emotions = drawn["PublicTest"]
    chosen = {emotion: faces[emotions == EMOTIONS.index(emotion)] for emotion in ("happy", "sad", "neutral")}
    return write_folder(tmp_path_factory.mktemp("few"), {"test": chosen})


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Checkpoints: `first` at 48x48, `second` at 64x64 with the same emotions in another order, and odd ones."""
    root = tmp_path_factory.mktemp("networks")
    paths = {
        "first": linear_network(root / "first.hdf5"),
        "second": linear_network(root / "second.hdf5", (64, 64), SHUFFLED, seed=1),
        "three": linear_network(root / "three.hdf5", emotions=("sad", "contempt", "neutral", "happy"), seed=2),
        "logits": linear_network(root / "logits.hdf5", activation="linear"),
        "sigmoid": linear_network(root / "sigmoid.hdf5", activation="sigmoid"),
        "nan": linear_network(root / "nan.hdf5", gain=np.nan),
        "copy": root / "copy.hdf5",
        "half": root / "half.hdf5",
        "text": root / "text.hdf5",
    }
    shutil.copy(paths["first"], paths["copy"])
    paths["half"].write_bytes(paths["first"].read_bytes()[:4000])
    paths["text"].write_text("no network")
    return paths


@pytest.fixture(scope="module")
def report(networks, folder, tmp_path_factory):
    """(JSON, folder of pictures) of two networks of different input sizes, with flip."""
    output = tmp_path_factory.mktemp("report")
    arguments = [networks["first"], networks["second"], "--dataset", folder, "--flip", "--output-dir", output / "new"]
    assert run(*arguments, "--json", output / "deep" / "figures.json", "--csv", output / "deep" / "answers.csv") == 0
    return json.loads((output / "deep" / "figures.json").read_text()), output / "new"


@pytest.fixture(scope="module")
def expected(folder):
    """(y_true, probabilities of first, of second, the same of mirrored faces) without the script."""
    by_size = {size: load_fer2013_data(folder, (size, size))["PublicTest"] for size in (48, 64)}
    direct, mirrored = (
        [
            linear_probabilities(by_size[48].faces[:, :, ::step]),
            linear_probabilities(by_size[64].faces[:, :, ::step], (64, 64), seed=1),
        ]
        for step in (1, -1)
    )
    return by_size[48].emotions, direct, mirrored


# ----------------------------------------------------------------------------------------------------------
# The whole script


def test_json_has_the_keys_and_plain_types(report, networks):
    figures, _ = report
    assert figures.keys() == {"models", "ensemble"}
    assert [figures["models"][i]["network"] for i in (0, 1)] == ["first", "second"]
    assert [figures["models"][i]["path"] for i in (0, 1)] == [str(networks["first"]), str(networks["second"])]
    assert figures["ensemble"]["path"] == [str(networks["first"]), str(networks["second"])]
    sizes = [figures["models"][0]["parameters"], figures["models"][1]["parameters"], figures["ensemble"]["parameters"]]
    assert sizes == [48 * 48 * 7, 64 * 64 * 7, 48 * 48 * 7 + 64 * 64 * 7]
    for result in (*figures["models"], figures["ensemble"]):
        assert result.keys() == KEYS | KEYS_OF_FLIP
        assert (result["split"], result["images"]) == ("PublicTest", 30)
        for key in KEYS - {"path", "network", "parameters", "split", "images"} | KEYS_OF_FLIP:
            assert isinstance(result[key], float | list | dict), key
        assert list(result["per_emotion"]) == list(EMOTIONS)  # whatever the order of the outputs
        for emotion, scores in result["per_emotion"].items():
            assert list(scores) == ["precision", "recall", "f1", "support"]
            assert all(isinstance(scores[key], float) for key in ("precision", "recall", "f1"))
            assert scores["support"] == 4 + (emotion in ("fear", "sad"))
        assert [sum(row) for row in result["confusion_matrix"]] == [4, 4, 5, 4, 5, 4, 4]


def test_each_network_sees_the_faces_at_its_own_size_and_emotions_are_matched_by_name(report, expected):
    figures, _ = report
    y_true, direct, mirrored = expected
    for result, straight, mirror in zip(figures["models"], direct, mirrored, strict=True):
        y_pred = straight.argmax(axis=1)
        matrix = np.zeros((7, 7), int)
        np.add.at(matrix, (y_true, y_pred), 1)
        assert result["confusion_matrix"] == matrix.tolist()
        assert result["accuracy"] == pytest.approx(np.mean(y_pred == y_true))
        assert result["accuracy_with_flip"] == pytest.approx(np.mean((straight + mirror).argmax(axis=1) == y_true))
    assert figures["models"][0]["confusion_matrix"] != figures["models"][1]["confusion_matrix"]


def read_answers(path):
    """The rows of --csv as dicts."""
    with open(path, newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def test_each_images_answer_is_listed(report, networks, folder, expected):
    figures, pictures = report
    rows, (y_true, direct, _) = read_answers(pictures.parent / "deep" / "answers.csv"), expected
    models = [str(networks["first"]), str(networks["second"]), "ensemble"]
    assert [row["model"] for row in rows] == np.repeat(models, len(y_true)).tolist()
    for start, probabilities in zip(range(0, len(rows), len(y_true)), [*direct, np.mean(direct, axis=0)], strict=True):
        for row, label, expected_row in zip(rows[start:], y_true, probabilities, strict=False):
            assert Path(row["image"]).is_file() and row["label"] == EMOTIONS[label] == Path(row["image"]).parent.name
            assert row["prediction"] == EMOTIONS[expected_row.argmax()]
            assert float(row["confidence"]) == pytest.approx(expected_row.max(), abs=1e-4)
            assert [float(row[emotion]) for emotion in EMOTIONS] == pytest.approx(expected_row, abs=1e-4)
    assert len({row["image"] for row in rows}) == len(y_true)
    correct = np.mean([row["label"] == row["prediction"] for row in rows[-len(y_true) :]])
    assert correct == pytest.approx(figures["ensemble"]["accuracy"])


def test_the_paths_of_a_folder_with_damaged_images_are_those_of_the_faces(drawn, tmp_path):
    faces = np.concatenate([drawn["PublicTest"][0]] * 4)
    folder = write_folder(tmp_path / "faces", {"validation": {"happy": faces}})
    damaged = folder / "validation" / "happy" / "50.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    split = load_split(folder, "PublicTest", (96, 96))
    assert len(split.images) == len(split.faces) == len(faces) - 1 and str(damaged) not in split.images
    for path, face in zip(split.images, split.faces, strict=True):
        np.testing.assert_array_equal(cv2.imread(path, cv2.IMREAD_GRAYSCALE), face[..., 0])


def test_ensemble_is_the_mean_of_the_probabilities(report, expected):
    figures, _ = report
    y_true, direct, mirrored = expected
    mean = np.mean(direct, axis=0)
    correct = mean.argmax(axis=1) == y_true
    assert figures["ensemble"]["accuracy"] == pytest.approx(correct.mean())
    error = expected_calibration_error(mean.max(axis=1), correct, BINS)
    assert figures["ensemble"]["expected_calibration_error"] == pytest.approx(error, abs=1e-4)
    flipped = np.mean([*direct, *mirrored], axis=0).argmax(axis=1)
    assert figures["ensemble"]["accuracy_with_flip"] == pytest.approx(np.mean(flipped == y_true))


def test_faces_of_training_are_left_out(report, expected, drawn):
    figures, _ = report
    y_true, (first, _), _ = expected
    faces, emotions = drawn["Training"]
    repeated = [
        resize_face(faces[emotions == EMOTIONS.index(emotion)][0], (48, 48)).tobytes() for emotion in ("fear", "sad")
    ]
    correct = first.argmax(axis=1) == y_true
    again = linear_probabilities(np.stack([np.frombuffer(face, np.uint8) for face in repeated])).argmax(axis=1)
    correct_repeated = int((again == [EMOTIONS.index("fear"), EMOTIONS.index("sad")]).sum())
    wanted = (correct.sum() - correct_repeated) / 28
    assert figures["models"][0]["accuracy_without_training_duplicates"] == pytest.approx(wanted)


def test_faces_are_read_and_predicted_a_batch_at_a_time(networks, folder, expected, tmp_path, monkeypatch):
    batches = []

    def record(images):
        batches.append(images.shape[0])
        assert isinstance(images, np.memmap)  # faces that are still in the file
        return load_and_process.preprocess_images(images)

    monkeypatch.setattr("evaluation.predictions.preprocess_images", record)
    split = load_split(folder, "PublicTest", (48, 48))
    np.save(tmp_path / "faces.npy", split.faces)
    split = split._replace(faces=np.load(tmp_path / "faces.npy", mmap_mode="r"))
    header = read_header(networks["first"])
    predictions = predict_split(networks["first"], header, EMOTIONS, split, flip=True, batch_size=8)
    assert batches == 2 * [8, 8, 8, 6]
    _, (direct, _), (mirrored, _) = expected
    np.testing.assert_allclose(predictions.probabilities, direct, atol=1e-5)
    np.testing.assert_allclose(predictions.with_flip, (direct + mirrored) / 2, atol=1e-5)


def test_pictures_of_every_network_and_the_ensemble(report):
    _, pictures = report
    names = [
        f"{name}.PublicTest.{kind}.png" for name in ("ensemble", "first", "second") for kind in sorted(script.PICTURES)
    ]
    assert files_in(pictures) == names
    for name in names:
        image = cv2.imread(str(pictures / name))
        assert min(image.shape[:2]) > 300 and image.std() > 10, name


def test_printed_tables_and_summaries(networks, few, tmp_path, capsys):
    assert run(networks["first"], "--dataset", few, "--split", "PrivateTest", "--output-dir", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "test: 12 faces, no Training to look for duplicates in"  # the folder's name
    assert lines[2] == f"{networks['first']}: 16,128 parameters"
    table = {line.split()[0]: line.split()[1:] for line in lines[4:11]}
    assert list(table) == list(EMOTIONS)
    assert table["angry"] == ["absent", "absent", "absent", "0"] and table["sad"][-1] == "4"
    (summary,) = [line for line in lines if "(95% interval" in line]
    assert summary.startswith(f"{networks['first']}: accuracy ") and "macro-F1" in summary and "flip" not in summary
    assert lines[-1] == f"pictures: {tmp_path}"
    assert run(networks["first"], "--dataset", few, "--split", "test", "--output-dir", tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == lines  # the folder's name for it


def test_without_fonts_the_figures_are_written_and_a_notice_stands_for_the_pictures(
    networks, few, tmp_path, monkeypatch, capsys
):
    import matplotlib.figure

    def fail(*_, **__):
        raise RuntimeError("FT_Open_Face failed")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    arguments = ("--dataset", few, "--split", "test", "--output-dir", tmp_path / "out", "--json", tmp_path / "a.json")
    assert run(networks["first"], *arguments) == 0
    assert "\nno pictures drawn (Matplotlib can't draw (FT_Open_Face failed)" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["models"][0]["split"] == "PrivateTest"
    assert files_in(tmp_path / "out") == []


def test_fewer_labels_in_the_data(networks, few, tmp_path):
    """Absent emotions are null, and a network that names just these and one more will do."""
    arguments = ("--dataset", few, "--split", "PrivateTest", "--output-dir", tmp_path)
    for name, emotions in (("first", EMOTIONS), ("three", ("happy", "sad", "neutral", "contempt"))):
        assert run(networks[name], *arguments, "--json", tmp_path / "figures.json") == 0
        text = (tmp_path / "figures.json").read_text()
        figures = json.loads(text)
        (result,) = figures["models"]
        assert "NaN" not in text and "ensemble" not in figures
        assert tuple(result["per_emotion"]) == emotions
        present = [scores["f1"] for scores in result["per_emotion"].values() if scores["support"]]
        assert len(present) == 3 and result["macro_f1"] == pytest.approx(np.mean(present))
        assert all(scores["f1"] is None for scores in result["per_emotion"].values() if not scores["support"])
    split = load_fer2013_data(few)["PrivateTest"]
    y_pred = linear_probabilities(split.faces, seed=2, emotions=emotions).argmax(axis=1)
    y_true = np.array([emotions.index(EMOTIONS[number]) for number in split.emotions])
    assert result["accuracy"] == pytest.approx(np.mean(y_pred == y_true))


def test_fer_plus_labels(networks, tmp_path):
    """With --votes a face counts as what most people saw in it; what has no such emotion does not count."""
    rng = np.random.default_rng(0)
    cast = {"neutral": "neutral", "happy": "happiness", "sad": "sadness"}
    rows = ["happy", "sad", "neutral", "NF", "neutral", "contempt"]
    pixels = [" ".join(map(str, rng.integers(0, 256, 48 * 48))) for _ in rows]
    numbers = [EMOTIONS.index(row) if row in EMOTIONS else 3 for row in rows]
    text = [f"{number},{line},PublicTest" for number, line in zip(numbers, pixels, strict=True)]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *text]))
    votes = [[9 if name == cast.get(row, row) else 0 for name in VOTE_COLUMNS] for row in rows]
    lines = [",".join(["PublicTest", "", *map(str, row)]) for row in votes]
    (tmp_path / "new.csv").write_text("\n".join([f"Usage,Image name,{','.join(VOTE_COLUMNS)}", *lines]))
    arguments = ("--dataset", tmp_path / "fer2013.csv", "--votes", tmp_path / "new.csv", "--output-dir", tmp_path)
    assert run(networks["three"], *arguments, "--json", tmp_path / "figures.json", "--csv", tmp_path / "rows.csv") == 0
    (result,) = json.loads((tmp_path / "figures.json").read_text())["models"]
    assert result["images"] == 5
    supports = {emotion: scores["support"] for emotion, scores in result["per_emotion"].items()}
    assert supports == {"happy": 1, "sad": 1, "neutral": 2, "contempt": 1}
    assert [row["image"] for row in read_answers(tmp_path / "rows.csv")] == ["0", "1", "2", "4", "5"]


class NoPicture:
    """In place of a picture, which takes longer than all else."""

    def savefig(self, path, dpi):
        path.write_bytes(b"")


@pytest.fixture(scope="module")
def with_votes(tmp_path_factory):
    """A folder with fer2013.csv and, beside it, fer2013new.csv; (the folder, faces, what people saw, or None)."""
    root, rng = tmp_path_factory.mktemp("votes"), np.random.default_rng(0)
    cast = {  # label of FER2013: votes by column; the emotion that most people saw
        "happy": [({"happiness": 7, "neutral": 3}, "happy"), ({"happiness": 6, "NF": 4}, "happy")],
        "sad": [({"sadness": 6, "fear": 4}, "sad"), ({"neutral": 6, "sadness": 4}, "neutral")],
        "fear": [({"contempt": 4, "fear": 3, "unknown": 2, "anger": 1}, "fear"), ({"fear": 5, "NF": 5}, None)],
        "angry": [({"anger": 4, "unknown": 6}, None), ({"anger": 3, "NF": 7}, None)],
    }
    rows = [(label, *row) for label, rows in cast.items() for row in rows]
    faces = rng.integers(0, 256, (len(rows), 48, 48, 1), np.uint8)
    text = [
        f"{EMOTIONS.index(label)},{' '.join(map(str, face.ravel()))},PublicTest"
        for (label, _, _), face in zip(rows, faces, strict=True)
    ]
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *text]))
    lines = [",".join(["PublicTest", "", *(str(votes.get(name, 0)) for name in VOTE_COLUMNS)]) for _, votes, _ in rows]
    (root / "fer2013new.csv").write_text("\n".join([f"Usage,Image name,{','.join(VOTE_COLUMNS)}", *lines]))
    return root, faces, [seen for *_, seen in rows]


def test_what_most_people_saw(networks, with_votes, tmp_path, capsys, monkeypatch):
    for picture in ("draw_confusion_matrix", "draw_reliability", "draw_mistakes"):
        monkeypatch.setattr(script, picture, lambda *given: NoPicture())
    root, faces, seen = with_votes
    arguments = ["--dataset", root, "--labels", "people", "--output-dir", tmp_path / "out", "--json", tmp_path / "json"]
    assert run(networks["first"], *arguments) == 0
    (result,) = json.loads((tmp_path / "json").read_text())["models"]
    assert set(result) == KEYS | {"labels", "people_calibration_error"} and result["labels"] == "people"
    supports = {emotion: scores["support"] for emotion, scores in result["per_emotion"].items() if scores["support"]}
    assert supports == {"happy": 2, "sad": 1, "neutral": 1, "fear": 1} and result["images"] == 5
    clear = [number for number, emotion in enumerate(seen) if emotion]
    predicted = linear_probabilities(faces[clear])
    correct = predicted.argmax(axis=1) == [EMOTIONS.index(seen[number]) for number in clear]
    assert result["accuracy"] == pytest.approx(correct.mean())
    shares = np.zeros((5, 7))
    shares[0, [3, 6]], shares[1, 3], shares[2, [4, 2]] = (0.7, 0.3), 1, (0.6, 0.4)
    shares[3, [6, 4]], shares[4, [2, 0]] = (0.6, 0.4), (0.75, 0.25)
    share_seen = shares[np.arange(5), predicted.argmax(axis=1)]
    error = expected_calibration_error(predicted.max(axis=1), share_seen, BINS)
    assert result["people_calibration_error"] == pytest.approx(error, abs=1e-6)
    printed = capsys.readouterr().out
    assert "PublicTest: 5 faces, labelled as most people saw them" in printed
    assert f"calibration error against people's shares {error:.1%}" in printed
    (tmp_path / "elsewhere.csv").write_bytes((root / "fer2013new.csv").read_bytes())
    named = load_split(root / "fer2013.csv", "PublicTest", (48, 48), tmp_path / "elsewhere.csv", "people")
    np.testing.assert_allclose(named.shares, shares, atol=1e-6)
    assert named.images.tolist() == clear


def test_no_votes_beside_the_data(folder, monkeypatch):
    monkeypatch.setattr("evaluation.predictions.load_fer2013_data", lambda *given: None)
    for dataset in (folder, "drawn"):
        with pytest.raises(UserError, match="fer2013new.csv does not exist"):
            load_split(dataset, "PublicTest", (48, 48), None, "people")


def test_disturbances(networks, folder, tmp_path, capsys, monkeypatch):
    for picture in ("draw_confusion_matrix", "draw_reliability", "draw_mistakes"):
        monkeypatch.setattr(script, picture, lambda *given: NoPicture())
    arguments = ["--dataset", folder, "--output-dir", tmp_path / "out", "--json", tmp_path / "json", "--disturbances"]
    assert run(networks["first"], networks["second"], *arguments) == 0
    report = json.loads((tmp_path / "json").read_text())
    faces, emotions = load_fer2013_data(folder, (48, 48))["PublicTest"]
    right = linear_probabilities(faces).argmax(axis=1) == emotions
    figures = report["models"][0]["disturbances"]
    assert list(figures) == list(MEASURED) and set(report["models"][0]) == KEYS | {"disturbances"}
    for name, figure in figures.items():
        correct = linear_probabilities(disturb_all(faces, name)).argmax(axis=1) == emotions
        assert figure == {
            "accuracy": pytest.approx(correct.mean()),
            "kept": pytest.approx(correct[right].mean()),
            "kept_of": right.sum(),
        }
    second = linear_probabilities(
        disturb_all(load_fer2013_data(folder, (64, 64))["PublicTest"].faces, "noise 20"), (64, 64), seed=1
    )
    mean = (linear_probabilities(disturb_all(faces, "noise 20")) + second) / 2
    expected_accuracy = (mean.argmax(axis=1) == emotions).mean()
    assert report["ensemble"]["disturbances"]["noise 20"]["accuracy"] == pytest.approx(expected_accuracy)
    printed = capsys.readouterr().out
    assert f"of {right.sum()} correct ones" in printed
    assert f"{'noise 20':<18}{figures['noise 20']['accuracy']:>14.1%}{figures['noise 20']['kept']:>22.1%}" in printed


def test_a_checkpoint_that_names_no_emotions_has_fer2013s(networks, folder, tmp_path, report):
    old = Path(shutil.copy(networks["first"], tmp_path / "old.hdf5"))
    with h5py.File(old, "r+") as file:
        del file.attrs["emotions"], file.attrs["network"]
    assert run(old, "--dataset", folder, "--output-dir", tmp_path, "--json", tmp_path / "old.json") == 0
    (result,) = json.loads((tmp_path / "old.json").read_text())["models"]
    assert result["confusion_matrix"] == report[0]["models"][0]["confusion_matrix"]
    assert result["network"] == "first"  # the name that Keras keeps


@pytest.mark.usefixtures("compile_here")
def test_heat_maps_are_worth_what_hiding_their_hottest_part_costs(networks, few, tmp_path, capsys):
    mini = SCRIPT.with_name("models") / "mini_XCEPTION.hdf5"
    arguments = ["--dataset", few, "--split", "PrivateTest", "--output-dir", tmp_path, "--heat-maps"]
    assert run(mini, *arguments, 100, "--json", tmp_path / "figures.json") == 0
    (result,) = json.loads((tmp_path / "figures.json").read_text())["models"]
    maps = result["heat_maps"]
    assert set(maps) == {"faces", "probability", "lost_hottest", "lost_elsewhere", "lost_middle"}
    assert maps["faces"] == result["images"] == 12 and maps["lost_hottest"] > maps["lost_elsewhere"] + 0.1
    printed = capsys.readouterr().out
    assert f"the probability of the predicted emotion is {maps['probability']:.2f}; it falls by" in printed
    assert f"by {maps['lost_hottest']:.2f} with the hottest fifth of the face hidden" in printed
    assert run(networks["first"], networks["second"], *arguments, 3, "--json", tmp_path / "figures.json") == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [each["heat_maps"]["faces"] for each in report["models"]] == [3, 3] and "heat_maps" not in report["ensemble"]


def test_networks_of_the_same_file_name_keep_their_pictures_apart(networks, few, tmp_path):
    other = linear_network(tmp_path / "first.hdf5", seed=5)
    arguments = ("--dataset", few, "--split", "PrivateTest", "--output-dir", tmp_path / "out")
    assert run(networks["first"], other, *arguments) == 0
    names = {name.split(".")[0] for name in files_in(tmp_path / "out")}
    assert names == {"1-first", "2-first", "3-ensemble"} and len(files_in(tmp_path / "out")) == 9


def test_drawn_faces_will_do(networks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(drawn_faces, "IMAGES_PER_EMOTION", {"Training": 1, "PublicTest": 1, "PrivateTest": 1})
    assert run(networks["first"], "--dataset", "drawn", "--output-dir", tmp_path) == 0
    assert "PublicTest: 7 faces, 0 of them" in capsys.readouterr().out


def test_as_a_user_runs_it(networks, few, tmp_path):
    """From another folder, with nothing on standard error, and no Keras for --help."""
    command = [sys.executable, str(SCRIPT), str(networks["first"]), "--dataset", str(few), "--split", "PrivateTest"]
    done = subprocess.run(
        [*command, "--output-dir", "here"], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(files_in(tmp_path / "here")) == 3
    code = "import sys, evaluate_emotion_classifier; print({'keras', 'sklearn', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# ----------------------------------------------------------------------------------------------------------
# Networks from elsewhere


def test_logits_become_probabilities(networks):
    faces = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 1), np.uint8)
    split = EvaluationSplit("PublicTest", faces, np.arange(8) % 7, EMOTIONS, None)
    path = networks["logits"]
    predictions = predict_split(path, read_header(path), EMOTIONS, split, flip=False, batch_size=8)
    np.testing.assert_allclose(predictions.probabilities, linear_probabilities(split.faces), atol=1e-5)


@pytest.mark.parametrize("named", [False, True])
def test_a_network_whose_outputs_are_in_alphabetic_order_is_found_out(named):
    """As `flow_from_directory` makes them: neutral is then read as sad, sad as surprise, surprise as neutral."""
    in_order = tuple(sorted(EMOTIONS))
    outputs = [in_order.index(emotion) for emotion in EMOTIONS]  # what it gives for a face of each emotion
    predictions = predictions_of(EMOTIONS, np.eye(7)[outputs], EMOTIONS)
    header = Header("net", EMOTIONS if named else None, (48, 48, 1), (-1, 1))
    hint = script.hint_of_order(predictions, header)
    assert "correct for 100% of the faces, in place of 57%" in hint and ",".join(in_order) in hint
    assert not script.hint_of_order(predictions_of(EMOTIONS, np.eye(7), EMOTIONS), header)


def test_two_emotions_that_are_never_right_show_alphabetic_order_however_few_faces_they_have():
    in_order = tuple(sorted(EMOTIONS))
    outputs = [in_order.index(emotion) for emotion in EMOTIONS]  # sad, surprise and neutral are the last three
    faces = [0] * 60 + [4, 5]
    predictions = predictions_of([EMOTIONS[face] for face in faces], np.eye(7)[outputs][faces], EMOTIONS)
    header = Header("net", None, (48, 48, 1), (-1, 1))
    assert "100% of the faces, in place of 97%" in script.hint_of_order(predictions, header)
    one = predictions_of([EMOTIONS[face] for face in faces[:-1]], np.eye(7)[outputs][faces[:-1]], EMOTIONS)
    assert not script.hint_of_order(one, header)  # one emotion alone may simply be difficult


# ----------------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("models", "arguments", "messages"),
    [
        (["missing"], [], ["no checkpoint at", "missing.hdf5"]),
        (["text"], [], ["text.hdf5", "not a whole HDF5 file"]),
        (["half"], [], ["half.hdf5"]),
        (["first", "first"], [], ["measured once", "the same"]),
        (["first", "copy"], [], ["first.hdf5", "copy.hdf5", "the same"]),
        (["first", "three"], [], ["must name the same emotions", "three.hdf5 with sad, contempt"]),
        (["three"], [], ["must know every emotion", "three.hdf5", "angry, disgust, fear, surprise"]),
        (["first"], ["--split", "PrivateTest"], ["Training (train) or PublicTest (validation)", "found PrivateTest"]),
        (["first"], ["--split", "test"], ["found PrivateTest (test)"]),
        (["first"], ["--split", "Exam"], ["Training (train) or PublicTest (validation)", "found Exam"]),
        (["first"], ["--output-dir", "{file}"], ["can't be written"]),
        (["first"], ["--json", "{file}/figures.json"], ["can't be written"]),
        (["first"], ["--json", "{folder}"], ["--json must name a file"]),
        (["first"], ["--json", "{first}"], ["--json must name a file", "first.hdf5"]),
        (["first"], ["--json", "{loop}"], ["can't be written"]),
        (["first"], ["--dataset", "{loop}"], ["can't be read"]),
        (["first"], ["--csv", "{first}"], ["--csv must name a file", "first.hdf5"]),
        (["first"], ["--csv", "{file}", "--json", "{file}"], ["--csv must name a file", "another output"]),
        (["sigmoid"], [], ["sigmoid.hdf5 must give probabilities"]),
        (["nan"], [], ["nan.hdf5 must give probabilities", "found nan among the weights of its layer dense"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(models, arguments, messages, networks, folder, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("not a folder")
    (loop := tmp_path / "loop").symlink_to(loop)
    places = {"file": file, "folder": tmp_path, "first": networks["first"], "loop": loop}
    content = networks["first"].read_bytes()
    paths = [networks.get(name, tmp_path / f"{name}.hdf5") for name in models]
    defaults = ["--dataset", folder, "--output-dir", tmp_path / "out", "--json", tmp_path / "figures.json"]
    defaults += ["--csv", tmp_path / "answers.csv"]
    given = [argument.format(**places) for argument in arguments]
    assert run(*paths, *defaults, *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(message in error for message in messages), error
    assert files_in(tmp_path) == ["file"] and networks["first"].read_bytes() == content


LIMITS = {
    "heat_maps": (-1, "must be at least 0; found -1"),
    "batch_size": (0, "must be at least 1; found 0"),
    "calibration_bins": (0, "must be at least 1; found 0"),
    "mistakes_shown": (-1, "must be at least 0; found -1"),
}


@pytest.mark.parametrize("setting", LIMITS)
@pytest.mark.parametrize("where", ["flag", "setting"])
def test_bad_settings_get_one_line(setting, where, monkeypatch, capsys):
    value, message = LIMITS[setting]
    flag = f"--{setting.replace('_', '-')}"
    if where == "setting":
        monkeypatch.setattr(script, setting, value)
    with pytest.raises(SystemExit) as ended:
        run("model.hdf5", *([flag, value] if where == "flag" else []))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and flag in error and message in error and error.count("\n") == 1


def test_every_setting_is_a_flag_of_the_same_name():
    block = SCRIPT.read_text().split("# fmt: off")[1].split("# fmt: on")[0]
    settings = {line.split(" = ")[0] for line in block.splitlines() if " = " in line and not line.startswith("#")}
    args = vars(script.parse_args(["model.hdf5"]))
    assert settings and args.keys() == settings | {"models", "dataset"}
    assert all(args[setting] == getattr(script, setting) for setting in settings)


def test_settings_reach_what_they_are_for(networks, few, tmp_path, monkeypatch):
    handed = {}

    def record(name):
        function = getattr(script, name)

        def recorded(*arguments):
            handed[name] = arguments
            return function(*arguments)

        monkeypatch.setattr(script, name, recorded)

    for name in ("predict_split", "measure", "draw_reliability", "draw_mistakes"):
        record(name)
    flags = ["--batch-size", 5, "--calibration-bins", 4, "--mistakes-shown", 1, "--no-flip"]
    arguments = ["--dataset", few, "--split", "test", "--output-dir", tmp_path]
    assert run(networks["first"], *arguments, *flags) == 0
    assert handed["predict_split"][-2:] == (False, 5)
    assert (handed["measure"][-1], handed["draw_reliability"][-1], handed["draw_mistakes"][-1]) == (4, 4, 1)


def test_missing_data_set(networks, tmp_path, capsys):
    assert run(networks["first"], "--dataset", tmp_path / "none.csv", "--output-dir", tmp_path) == 2
    assert "none.csv does not exist" in capsys.readouterr().err


def test_ctrl_c_leaves_what_was_there(networks, folder, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    figures = tmp_path / "figures.json"
    figures.write_text("of an earlier run")
    monkeypatch.setattr(script, "predict_split", interrupted)
    assert run(networks["first"], "--dataset", folder, "--output-dir", tmp_path, "--json", figures) == 130
    assert files_in(tmp_path) == ["figures.json"] and figures.read_text() == "of an earlier run"


# ----------------------------------------------------------------------------------------------------------
# Bugs

BUGS = {
    "zip": (lambda *_: list(zip([1], [], strict=True)), ValueError),
    "concatenate": (lambda *_: np.concatenate([]), ValueError),
    "unpacking": (lambda *_: next(a + b for a, b in [(1, 2, 3)]), ValueError),
    "index": (lambda *_: EMOTIONS.index("bored"), ValueError),
    "file": (lambda *_: SCRIPT.with_name("of_ours.json").read_text(), FileNotFoundError),
}


@pytest.mark.parametrize("part", ["read_headers", "load_split", "predict_split", "measure", "draw_mistakes"])
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_not_told_as_a_mistake(bug, part, networks, few, tmp_path, monkeypatch, capsys):
    """Wherever it is: it keeps its traceback, and no half-finished file stays."""
    fault, kind = BUGS[bug]
    monkeypatch.setattr(script, part, fault)
    stand_in = predictions_of(["happy", "sad"], np.eye(7)[[3, 3]], EMOTIONS)
    if part in ("measure", "draw_mistakes"):  # what comes before it is not what is tested
        monkeypatch.setattr(script, "predict_split", lambda *_: stand_in)
    with pytest.raises(kind) as raised:
        run(networks["first"], "--dataset", few, "--split", "test", "--output-dir", tmp_path)
    assert not isinstance(raised.value, UserError)
    assert files_in(tmp_path) == [] and "error: " not in capsys.readouterr().err


def test_a_bug_ends_the_script_with_its_traceback(networks, few, tmp_path):
    code = (
        "import sys, evaluate_emotion_classifier as script\n"
        "script.predict_split = lambda *_: script.EMOTIONS.index('bored')\n"
        "sys.exit(script.exit_status(script.main))\n"
    )
    arguments = [networks["first"], "--dataset", few, "--split", "test", "--output-dir", tmp_path]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True)
    assert done.returncode == 1 and files_in(tmp_path) == []
    assert "Traceback" in done.stderr and "ValueError: tuple.index(x): x not in tuple" in done.stderr
