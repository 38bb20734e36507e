"""The whole way as a user goes it: train on drawn faces, try the checkpoint live, measure it."""

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import pytest

import evaluate_emotion_classifier
import real_time_emotion_recognition
import train_emotion_classifier
from drawn_faces import DrawnFaceCapture, draw_dataset
from load_and_process import EMOTIONS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("compile_here")  # test_checkpoint.py compiles as users do


def run(folder, script, *arguments):
    """What a script prints, started from some other folder."""
    command = [sys.executable, ROOT / script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(script, *arguments):
    """What a script prints, run in this process and folder: nothing is imported a second time."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert script.main(arguments) == 0
    return told.getvalue()


def test_train_on_drawn_faces_then_name_them_live_and_measure_them(tmp_path, monkeypatch):
    told = run(tmp_path, "train_emotion_classifier.py", "--dataset", "drawn", "--epochs", "10", "--batch-size", "64",
               "--output-dir", "here")  # fmt: skip
    checkpoint = re.search(r"real_time_emotion_recognition.py --model (\S+)$", told, re.MULTILINE)[1]

    monkeypatch.chdir(tmp_path)
    run_here(real_time_emotion_recognition, "--model", checkpoint, "--source", "drawn", "--headless",
             "--csv", "live.csv")  # fmt: skip
    truth, named = DrawnFaceCapture(frames=455), {}
    with open(tmp_path / "live.csv", newline="") as file:
        for row in csv.DictReader(file):
            truth.read()
            if truth.expected and float(row["time_s"]) % 2.6 > 1:  # the smoothing has forgotten the one before
                named.setdefault(truth.expected, []).append(row["emotion"])
    right = {emotion: names.count(emotion) / len(names) for emotion, names in named.items()}
    assert set(right) == set(EMOTIONS)
    assert sum(share > 0.9 for share in right.values()) >= 6, right

    run_here(evaluate_emotion_classifier, checkpoint, "--dataset", "drawn", "--output-dir", "pictures",
             "--json", "figures.json")  # fmt: skip
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["models"]
    assert figures["accuracy"] > 0.9 and figures["network"] == "mini_XCEPTION"
    assert f"{figures['accuracy']:.4f}" in Path(checkpoint).name


def test_own_faces_with_emotions_of_their_own(tmp_path, monkeypatch):
    """Folders of any names are the classes, from training to the labels and columns of the live script."""
    names = {"neutral": "Calm", "happy": "joy", "surprise": "startled"}
    faces, emotions = draw_dataset((48, 48), 5, {"Training": 20, "PublicTest": 6})["Training"]
    for number, (face, emotion) in enumerate(zip(faces, emotions, strict=True)):
        if EMOTIONS[emotion] in names:
            split = "test" if number % 5 == 0 else "train"
            folder = tmp_path / "mine" / split / names[EMOTIONS[emotion]]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), face)
    monkeypatch.chdir(tmp_path)
    told = run_here(train_emotion_classifier, "--dataset", "mine", "--epochs", "15", "--batch-size", "8",
                    "--network", "tiny_XCEPTION", "--output-dir", "here")  # fmt: skip
    assert "3 emotions: happy, Calm, startled" in told  # FER2013's first, in its order
    checkpoint = re.search(r"real_time_emotion_recognition.py --model (\S+)$", told, re.MULTILINE)[1]
    with h5py.File(tmp_path / checkpoint) as file:
        assert json.loads(file.attrs["emotions"]) == ["happy", "Calm", "startled"]

    run_here(real_time_emotion_recognition, "--model", checkpoint, "--source", "drawn", "--headless",
             "--csv", "live.csv")  # fmt: skip
    with open(tmp_path / "live.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-3:] == ["happy", "Calm", "startled"]
    assert {row["emotion"] for row in rows} <= {"happy", "Calm", "startled"}

    run_here(evaluate_emotion_classifier, checkpoint, "--dataset", "mine", "--split", "test",
             "--output-dir", "pictures", "--json", "figures.json")  # fmt: skip
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["models"]
    assert list(figures["per_emotion"]) == ["happy", "Calm", "startled"] and figures["images"] == 12
    assert figures["accuracy"] > 0.6
