"""Tests of the detection benchmark: it counts rightly, and a short run prints both tables."""

import cv2
import numpy as np
import pytest

pytest.importorskip("skimage.data")

from benchmarks import detection as benchmark
from command_line import UserError
from drawn_faces import draw_face, face_box
from recognition.detection import Detections


def test_faces_and_false_boxes_are_counted():
    def detect(image):
        return Detections.of([(0, 0, 10, 10, 0, 1), (1, 1, 10, 10, 0, 1), (50, 50, 9, 9, 0, 1)])

    image = np.zeros((99, 99, 3), np.uint8)
    pictures = iter([(image, [(0, 0, 10, 10), (80, 80, 10, 10)]), (image, [])])
    assert benchmark.measure(detect, pictures)[:3] == (1, 2, 5)  # the second box on one face is false


def test_a_short_run(capsys):
    assert benchmark.main(["--quick"]) == 0
    out = capsys.readouterr().out
    assert out.count("| pictures | haar | blazeface |") == 2 and "tilted by 30 degrees" in out


def test_own_photographs(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), draw_face("neutral"))
    x, y, w, h = face_box((320, 240), 0.63 * 480)
    table = tmp_path / "boxes.csv"
    flags = ["--photographs", str(tmp_path / "photos"), "--boxes", str(table), "--detectors", "haar"]
    table.write_text(f"image,x,y,width,height\na.png,{x},{y},{w},{h}\n")
    assert benchmark.main(flags) == 0
    assert "1 of 1 found (100%), 0 false" in capsys.readouterr().out
    for text, message in (
        ("image,x\na.png,1\n", "must be a CSV"),
        (f"image,x,y,width,height\nb.png,{x},1,1,1\n", "b.png"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            benchmark.main(flags)
    with pytest.raises(UserError, match="go together"):
        benchmark.main(flags[:2])
