"""Tests of benchmarks/steadiness.py: its films, what it counts in made-up probabilities, and a short run."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import steadiness
from command_line import UserError
from drawn_faces import draw_dataset
from load_and_process import EMOTIONS
from recognition.tracking import Smoother

ROOT = Path(__file__).resolve().parents[1]


def test_a_film_trembles_and_then_shows_the_other_face():
    faces = draw_dataset((48, 48), 0, {"PublicTest": 1})["PublicTest"][0]
    frames = steadiness.film(faces[3], faces[5], np.random.default_rng(0)).astype(float)
    assert frames.shape == (13 * 25, 48, 48, 1)
    assert all(abs(frames[i] - faces[3]).mean() < abs(frames[i] - faces[5]).mean() for i in (0, 100, 249))
    assert all(abs(frames[i] - faces[5]).mean() < abs(frames[i] - faces[3]).mean() for i in (260, 324))
    assert 1 < abs(frames[100] - frames[110]).mean() < 60


@pytest.mark.parametrize(("lead", "changes", "delay"), [(0.0, 5.0, 80), (0.3, 0.0, 240)])
def test_changes_and_delays_are_counted(lead, changes, delay, monkeypatch):
    films = np.full((2, 325, 2), 0.5)
    films[:, :250, 0] += 0.01 + 0.03 * np.resize([1] * 5 + [-1] * 5, 250)  # five changes a second
    films[:, 250:, 0] = np.maximum(0.1, 0.58 - 0.04 * np.arange(75))
    films[..., 1] = 1 - films[..., 0]
    monkeypatch.setattr(steadiness, "SURE", 0.0)
    seen, unsure, delays = steadiness.measure(films, Smoother(0, lead))
    assert seen == pytest.approx(changes, abs=0.1) and unsure == 0
    assert delays == pytest.approx([delay] * 2, abs=1)


def test_data_without_a_public_test_are_refused(tmp_path):
    for number in range(2):
        path = tmp_path / "train" / EMOTIONS[number] / "a.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((48, 48), number, np.uint8))
    with pytest.raises(UserError, match="must have a PublicTest .validation.; found Training: take other data"):
        steadiness.main(["--dataset", str(tmp_path)])


def test_a_short_run_prints_a_row_for_each_setting(monkeypatch, capsys):
    monkeypatch.setattr(steadiness, "CALM_S", 1)
    assert steadiness.main(["--faces", "2", "--model", str(ROOT / "models" / "mini_XCEPTION.hdf5")]) == 0
    told = capsys.readouterr()
    first, _, *rows = told.out.splitlines()
    assert first.startswith("2 faces, 1 s each") and len(rows) == len(steadiness.SETTINGS)
    assert "nan" not in told.out and told.err.count("notice: no delay measured") == rows[-1].endswith("-")
