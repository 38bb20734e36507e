"""Tests of drawn_faces: what is drawn is found, differs, mixes, moves and can be learnt."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

import drawn_faces
from command_line import UserError, exit_status
from drawn_faces import (
    SHAPES,
    DrawnFaceCapture,
    Identity,
    backdrop,
    draw_dataset,
    draw_face,
    expression_shape,
    face_box,
    main,
)
from load_and_process import EMOTIONS

CASCADE = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
FEW = {"Training": 3, "PublicTest": 1, "PrivateTest": 2}


def detect(frame, scale_factor=1.1):
    """Boxes (x, y, width, height) that the Haar cascade finds, from left to right."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return sorted(tuple(map(int, box)) for box in CASCADE.detectMultiScale(grey, scale_factor, 5))


def overlap(first, second):
    """Intersection over union of two boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width = min(ax + aw, bx + bw) - max(ax, bx)
    height = min(ay + ah, by + bh) - max(ay, by)
    both = max(width, 0) * max(height, 0)
    return both / (aw * ah + bw * bh - both)


def people(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Identity.random(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def dataset():
    return draw_dataset()


# ----------------------------------------------------------------------------------------------------------
# draw_face, face_box, Identity


def test_the_expressions_are_the_emotions_of_fer2013_in_its_order():
    assert tuple(SHAPES) == drawn_faces.EXPRESSIONS == EMOTIONS


@pytest.mark.parametrize("expression", EMOTIONS)
@pytest.mark.parametrize("scale_factor", [1.1, 1.2])
def test_cascade_finds_each_expression_where_face_box_says(expression, scale_factor):
    centre, size = (330, 235), 300
    boxes = detect(draw_face(expression, centre=centre, size=size), scale_factor)
    assert len(boxes) == 1
    assert overlap(boxes[0], face_box(centre, size)) > 0.78


def test_face_box_is_the_cascades_box_of_a_neutral_face():
    poses = [((300 + 20 * i, 225 + 8 * i), 260 + 20 * i) for i in range(4)]
    overlaps = [
        overlap(detect(draw_face("neutral", centre=centre, size=size))[0], face_box(centre, size))
        for centre, size in poses
    ]
    assert np.mean(overlaps) > 0.93


def test_cascade_finds_most_random_people():
    found = [len(detect(draw_face(EMOTIONS[i % 7], who, size=260))) == 1 for i, who in enumerate(people(42))]
    assert np.mean(found) > 0.9


def test_cascade_finds_frightened_people_with_dark_skin():
    """White eyes and teeth are what hides a dark face from the cascade."""
    dark = [who for who in people(160, seed=11) if np.mean(who.skin) < 90]
    assert len(dark) >= 10
    assert np.mean([len(detect(draw_face("fear", who, size=260))) == 1 for who in dark]) > 0.9


@pytest.mark.parametrize("skin", [(46, 60, 90), (188, 208, 236)])
def test_every_expression_is_found_on_the_darkest_and_the_lightest_skin(skin):
    who = Identity(skin=skin, hair=(24, 24, 28))
    assert [len(detect(draw_face(emotion, who, size=260))) for emotion in EMOTIONS] == [1] * len(EMOTIONS)


def test_the_seven_expressions_differ():
    x, y, width, height = face_box((320, 240), 300)
    crops = [draw_face(e, centre=(320, 240), size=300)[y : y + height, x : x + width].astype(int) for e in EMOTIONS]
    assert min(np.abs(a - b).mean() for a, b in combinations(crops, 2)) > 3


def test_a_mixture_lies_between_its_expressions():
    half = expression_shape({"happy": 0.4, "neutral": 0.6})
    happy, neutral = SHAPES["happy"], SHAPES["neutral"]
    assert half.corner == pytest.approx(0.4 * happy.corner + 0.6 * neutral.corner)
    assert half.eye_up == pytest.approx(0.4 * 0.10 + 0.6 * 0.13)
    assert half == pytest.approx(expression_shape({"happy": 0.4}))
    assert expression_shape({"sad": 1.0}) == pytest.approx(SHAPES["sad"])
    steps = [draw_face({"happy": x, "neutral": 1 - x}).astype(int) for x in (0, 0.5, 1)]
    distance = [np.abs(a - b).sum() for a, b in combinations(steps, 2)]  # 0 to 0.5, 0 to 1, 0.5 to 1
    assert 0 < distance[0] < distance[1] > distance[2] > 0
    assert np.array_equal(steps[2], draw_face("happy"))


@pytest.mark.parametrize("expression", ["joy", {"happy": 0.5, "joy": 0.5}])
def test_unknown_expression_names_the_rule_the_value_and_the_choices(expression):
    with pytest.raises(ValueError, match="an expression must be one of .*'joy'") as error:
        draw_face(expression)
    assert not isinstance(error.value, UserError)  # a bug of the caller
    assert all(emotion in str(error.value) for emotion in EMOTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": np.zeros((48, 48), np.uint8)}, r"uint8 \(h, w, 3\); got uint8 \(48, 48\)"),
        ({"frame": np.zeros((48, 48, 3), np.float32)}, "got float32"),
        ({"size": 0}, "more than 0 pixels; got 0"),
        ({"size": float("nan")}, "more than 0 pixels; got nan"),
    ],
)
def test_a_wrong_frame_or_size_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        draw_face("happy", **changes)


def test_the_given_frame_is_left_alone_and_kept_around_the_person():
    frame = np.full((240, 320, 3), (10, 200, 30), np.uint8)
    drawn = draw_face("neutral", frame=frame, centre=(80, 120), size=100)
    assert (frame == (10, 200, 30)).all()
    assert (drawn[:, 200:] == (10, 200, 30)).all()
    assert not (drawn[120, 80] == (10, 200, 30)).all()


def test_tilt_is_clockwise_and_turns_about_the_centre():
    upright, tilted = (draw_face("neutral", size=200, tilt=tilt).astype(int) for tilt in (0.0, 0.4))
    turned = cv2.warpAffine(
        draw_face("neutral", size=200), cv2.getRotationMatrix2D((320, 240), -np.degrees(0.4), 1), (640, 480)
    )
    face = np.s_[170:310, 250:390]
    assert np.abs(tilted[face] - turned[face]).mean() < 3 < np.abs(tilted[face] - upright[face]).mean()


@pytest.mark.parametrize(("centre", "size"), [((0, 0), 100), ((319, 239), 400), ((900, 900), 80), ((160, 120), 2)])
def test_a_face_partly_or_wholly_outside_is_cut_off(centre, size):
    frame = backdrop((320, 240))
    drawn = draw_face("fear", frame=frame, centre=centre, size=size, tilt=0.3)
    assert drawn.shape == frame.shape and drawn.dtype == np.uint8
    assert np.array_equal(drawn, frame) == (centre == (900, 900))


def test_several_people_fit_into_one_frame():
    frame = backdrop((640, 480))
    places = [((160, 200), 180), ((470, 220), 160)]
    for who, (centre, size) in zip([Identity(), *people(1)], places, strict=True):
        frame = draw_face("happy", who, frame, centre, size)
    boxes = detect(frame)
    assert len(boxes) == 2
    assert all(overlap(box, face_box(*place)) > 0.7 for box, place in zip(boxes, places, strict=True))


def test_random_people_vary_and_repeat_with_the_seed():
    crowd = people(60)
    assert crowd == people(60) and len(set(crowd)) == 60
    brightness = [np.mean(who.skin) for who in crowd]
    assert min(brightness) < 85 and max(brightness) > 190
    assert any(who.hair_volume == 0 for who in crowd) and any(who.hair_length > 0 for who in crowd)


# ----------------------------------------------------------------------------------------------------------
# DrawnFaceCapture


def test_capture_ends_after_its_frames_and_on_release():
    capture = DrawnFaceCapture(frames=2)
    assert capture.isOpened() and capture.expected is None and capture.boxes == []
    for _ in range(2):
        ok, frame = capture.read()
        assert ok and frame.shape == (480, 640, 3) and frame.dtype == np.uint8
    assert capture.read() == (False, None) and capture.isOpened()
    endless = DrawnFaceCapture()
    endless.release()
    assert not endless.isOpened() and endless.read() == (False, None)


def test_capture_answers_opencvs_properties():
    capture = DrawnFaceCapture(fps=12.5, size=(320, 240), frames=7)
    capture.read()
    names = ("FPS", "FRAME_WIDTH", "FRAME_HEIGHT", "FRAME_COUNT", "POS_FRAMES", "BRIGHTNESS")
    assert [capture.get(getattr(cv2, f"CAP_PROP_{name}")) for name in names] == [12.5, 320, 240, 7, 1, 0]
    assert DrawnFaceCapture().get(cv2.CAP_PROP_FRAME_COUNT) == 0


def test_capture_says_what_it_shows():
    capture = DrawnFaceCapture(fps=10, size=(64, 48), hold=0.35, blend=0.25, order=("sad", "happy"))
    shown = []
    for _ in range(13):
        capture.read()
        shown.append(capture.expected)
    assert shown == ["sad"] * 4 + [None] * 2 + ["happy"] * 4 + [None] * 2 + ["sad"]


def test_capture_shows_what_it_says():
    capture = DrawnFaceCapture(fps=10, hold=0.35, blend=0.25, order=("surprise", "neutral"))
    for _ in range(8):
        _, frame = capture.read()
        if capture.expected is None:
            continue
        x, y, width, height = capture.boxes[0]
        distance = {}
        for emotion in EMOTIONS:
            still = draw_face(emotion, centre=(x + width / 2, y + height / 2), size=width)
            difference = still[y : y + height, x : x + width].astype(int) - frame[y : y + height, x : x + width]
            distance[emotion] = np.abs(difference).mean()
        assert min(distance, key=distance.get) == capture.expected


def test_cascade_finds_the_moving_face_in_every_frame_and_nothing_else():
    capture = DrawnFaceCapture(fps=3, frames=80)
    while (frame := capture.read()[1]) is not None:
        boxes = detect(frame, 1.2)
        assert len(boxes) == 1
        assert overlap(boxes[0], capture.boxes[0]) > 0.75


def test_capture_moves_and_is_the_same_in_every_run():
    first, second = DrawnFaceCapture(), DrawnFaceCapture()
    frames = [first.read()[1] for _ in range(60)]
    assert all(np.array_equal(frame, second.read()[1]) for frame in frames)
    assert not any(np.array_equal(a, b) for a, b in zip(frames, frames[1:], strict=False))
    assert first.boxes == second.boxes != DrawnFaceCapture(frames=1).boxes


def test_capture_shows_several_people():
    capture = DrawnFaceCapture(size=(800, 480), identities=[Identity(), *people(2, seed=5)])
    _, frame = capture.read()
    assert len(capture.boxes) == 3
    found = detect(frame)
    assert len(found) == 3
    assert all(overlap(box, truth) > 0.7 for box, truth in zip(found, capture.boxes, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": ("happy", "joy")}, "must be one of .*'joy'"),
        ({"order": ()}, "must not be empty; got 0 expressions"),
        ({"identities": ()}, "got 7 expressions and 0 identities"),
        ({"fps": 0}, "must be more than 0.*fps=0"),
        ({"hold": 0}, "must be more than 0.*hold=0"),
        ({"blend": -1}, "blend at least 0.*blend=-1"),
        ({"size": (0, 480)}, r"must be more than 0.*size=\(0, 480\)"),
    ],
)
def test_capture_refuses_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        DrawnFaceCapture(**changes)


# ----------------------------------------------------------------------------------------------------------
# draw_dataset, main


def test_dataset_has_fer2013s_form_and_is_balanced(dataset):
    assert list(dataset) == ["Training", "PublicTest", "PrivateTest"]
    for (faces, emotions), each in zip(dataset.values(), (100, 20, 20), strict=True):
        assert faces.shape == (7 * each, 48, 48, 1) and faces.dtype == np.uint8
        assert emotions.shape == (7 * each,) and emotions.dtype == np.int64
        assert np.bincount(emotions).tolist() == [each] * 7
        assert not np.array_equal(emotions, np.sort(emotions))


def test_dataset_repeats_with_the_seed_and_only_then():
    first, again, other = (draw_dataset(seed=seed, per_emotion=FEW) for seed in (4, 4, 5))
    for split, count in FEW.items():
        assert len(first[split][0]) == 7 * count
        assert all(np.array_equal(a, b) for a, b in zip(first[split], again[split], strict=True))
        assert not np.array_equal(first[split][0], other[split][0])


def test_no_image_appears_twice(dataset):
    images = np.concatenate([faces for faces, _ in dataset.values()])
    assert len({image.tobytes() for image in images}) == len(images)


def test_dataset_takes_another_image_size_and_refuses_an_unknown_split():
    faces, _ = draw_dataset(image_size=(32, 24), per_emotion={"PublicTest": 1})["PublicTest"]
    assert faces.shape == (7, 32, 24, 1)
    with pytest.raises(ValueError, match="must be one of Training, PublicTest, PrivateTest; got 'Test'"):
        draw_dataset(per_emotion={"Test": 1})


def test_dataset_varies_in_brightness_and_contrast(dataset):
    faces = dataset["Training"][0][..., 0].astype(float)
    assert faces.mean(axis=(1, 2)).std() > 20
    assert faces.std(axis=(1, 2)).std() > 8


def test_dataset_can_be_learnt(dataset):
    """A linear least-squares classifier on pixels, far above the 1/7 of guessing."""

    def pixels(faces):
        small = np.stack([cv2.resize(face, (24, 24), interpolation=cv2.INTER_AREA) for face in faces])
        flat = small.reshape(len(small), -1).astype(float)
        return (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)

    (train, train_emotions), (test, test_emotions) = dataset["Training"], dataset["PublicTest"]
    x = pixels(train)
    weights = np.linalg.solve(x.T @ x + 300 * np.eye(x.shape[1]), x.T @ np.eye(7)[train_emotions])
    accuracy = ((pixels(test) @ weights).argmax(axis=1) == test_emotions).mean()
    assert accuracy > 0.6


def test_main_writes_a_contact_sheet(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["--output", str(sheet)]) == 0
    assert str(sheet) in capsys.readouterr().out
    height, width = cv2.imread(str(sheet)).shape[:2]
    assert width == 7 * 200 and height > 3 * 200


@pytest.mark.parametrize("name", ["sheet.txt", "sheet"])
def test_main_refuses_what_is_no_picture(tmp_path, capsys, name):
    told = rf"--output must be a picture's name, such as faces.png; found .*{name}: choose another name"
    with pytest.raises(UserError, match=told):
        main(["--output", str(tmp_path / name)])
    assert exit_status(main, ["--output", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_main_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="sheet.png can't be written"):
        main(["--output", str(tmp_path / "file" / "sheet.png")])


def test_importing_needs_no_network_library():
    check = "import drawn_faces, sys; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    folder = Path(drawn_faces.__file__).parent
    assert subprocess.run([sys.executable, "-c", check], cwd=folder, check=False).returncode == 0
