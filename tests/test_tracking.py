"""Tests of tracking: tracked faces are those that detection finds, with fewer searches, steadier, and numbered."""

import functools

import cv2
import numpy as np
import pytest

from drawn_faces import Identity, backdrop, draw_face, face_box
from recognition.detection import TURN, Detections, find_detector, open_detector
from recognition.tracking import FaceTracker, Smoother, TrackedFace, detect_in_stills

SIZE, FPS = (640, 480), 25
NEAR, AWAY = (300, 200, 100, 100), (20, 20, 80, 80)


@pytest.fixture(scope="module", params=["haar", "blazeface"])
def detect(request):
    return open_detector(find_detector(request.param), False, 360, 1.2, 5, 0.067)


def overlap(first, second):
    """Intersection over union of two boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    both = max(width, 0) * max(height, 0)
    return both / (aw * ah + bw * bh - both)


# ----------------------------------------------------------------------------------------------------------
# On drawn faces


def between(start, end):
    """A path for `clip`: from one (x, y, size) to another, as the share of the clip goes from 0 to 1."""
    return lambda share: np.add(start, np.multiply(share, np.subtract(end, start)))


CLIPS = {  # name: paths of the people, those in front last
    "to and fro": [lambda share: (320 + 180 * np.sin(6.3 * share), 240 + 40 * np.sin(4 * share), 150)],
    "comes nearer": [between((220, 240, 80), (400, 240, 300))],
    "goes away": [between((400, 240, 300), (220, 240, 80))],
    "comes in and leaves": [lambda share: (-150 + 940 * share, 240, 150)],
    "appears later": [lambda share: (180, 240, 150), lambda share: (460, 240, 150) if share > 0.5 else None],
    "pass each other": [between((120, 160, 120), (520, 170, 120)), between((520, 285, 125), (120, 275, 125))],
    "pass, one behind": [between((100, 120, 80), (540, 130, 80)), between((520, 300, 170), (120, 300, 170))],
}


def clip(name, seconds=3):
    """Yields frames with a camera's noise, and the boxes of the people in them."""
    rng = np.random.default_rng(list(CLIPS).index(name))
    people = [Identity.random(rng) for _ in CLIPS[name]]
    for number in range(seconds * FPS):
        frame, boxes = backdrop(SIZE), {}
        for person, path in enumerate(CLIPS[name]):
            at = path(number / (seconds * FPS))
            if at is not None:
                frame = draw_face("neutral", people[person], frame, at[:2], at[2])
                boxes[person] = face_box(at[:2], at[2])
        yield add_noise(frame, rng), boxes


@functools.cache
def sheet_of_noise():
    """int16, larger than a frame."""
    noise = np.random.default_rng(0).normal(0, 3, (SIZE[1] + 64, SIZE[0] + 64, 1))
    return np.repeat(np.rint(noise).astype(np.int16), 3, axis=2)


def add_noise(frame, rng):
    """A frame with a camera's noise: a part of one sheet, each time another, which takes less time than new noise."""
    x, y = rng.integers(64, size=2)
    noisy = frame + sheet_of_noise()[y : y + SIZE[1], x : x + SIZE[0]]
    return cv2.convertScaleAbs(np.maximum(noisy, 0))  # at most 255


@pytest.fixture(scope="module")
def runs(detect):
    """Clip -> (true boxes, what plain detection finds, what is tracked), a list of each per frame."""

    def run(name):
        track = FaceTracker(detect)
        frames = [
            (boxes, detect_in_stills(detect)(image, None), track(image, number / FPS))
            for number, (image, boxes) in enumerate(clip(name))
        ]
        return list(zip(*frames, strict=True))

    return {name: run(name) for name in CLIPS}


def compare(truth, found):
    """(overlaps of the true boxes found, number of boxes that are no face's); faces cut by the edge don't count."""
    overlaps, false = [], 0
    for known, faces in zip(truth, found, strict=True):
        whole = [(x, y, w, h) for x, y, w, h in known.values() if min(x, y) >= 0 and x + w <= SIZE[0]]
        best = [max((overlap(box, face.box) for face in faces), default=0) for box in whole]
        overlaps += [share for share in best if share >= 0.5]
        false += sum(
            all(overlap(box, face.box) < (0.5 if box in whole else 0.1) for box in known.values()) for face in faces
        )
    return overlaps, false


@pytest.mark.parametrize("name", CLIPS)
def test_no_fewer_true_boxes_and_no_more_false_ones_than_plain_detection(runs, name):
    truth, plain, tracked = runs[name]
    (plain_overlaps, plain_false), (overlaps, false) = compare(truth, plain), compare(truth, tracked)
    late = 7 if name == "appears later" else 0  # frames at most until the next whole-frame search
    assert len(overlaps) >= len(plain_overlaps) - late
    assert false <= plain_false


def test_boxes_are_as_exact_as_those_of_plain_detection(runs, detect):
    plain, tracked = (
        np.mean([share for run in runs.values() for share in compare(run[0], run[column])[0]]) for column in (1, 2)
    )
    assert tracked > plain - 0.005
    truth, still, moving = runs["to and fro"]  # no lag
    assert np.mean(compare(truth, moving)[0]) > np.mean(compare(truth, still)[0]) - 0.02
    if detect.can_search_near:  # the drawn faces' boxes are Haar's
        assert np.mean(compare(truth, moving)[0]) > 0.8


@pytest.mark.parametrize("name", CLIPS)
def test_everybody_has_one_identity(runs, name):
    truth, _, tracked = runs[name]
    seen = {
        (person, face.identity)
        for known, faces in zip(truth, tracked, strict=True)
        for person, box in known.items()
        for face in faces
        if overlap(box, face.box) >= 0.5
    }
    assert sorted(person for person, _ in seen) == list(range(len(CLIPS[name])))
    assert len({identity for _, identity in seen}) == len(CLIPS[name])


def test_a_still_face_has_a_still_box(detect):
    rng, jitter = np.random.default_rng(0), []
    for size in (110, 140, 170, 240, 290):
        person, track, boxes = Identity.random(rng), FaceTracker(detect), []
        still = draw_face("neutral", person, backdrop(SIZE), (320, 250), size)
        for number in range(50):
            image = add_noise(still, rng)
            boxes.append((detect(image).boxes[0], track(image, number / FPS)[0].box))
        jitter.append(np.std(boxes[20:], axis=0).mean(axis=1) / size)
    plain, tracked = np.mean(jitter, axis=0)
    assert tracked < 0.6 * plain


# ----------------------------------------------------------------------------------------------------------
# On a made-up detector


class Scripted:
    """A detector that finds what it is told; `searches` counts those of the whole frame, upright ones alone.

    It finds faces that are turned by `roll`, give or take 15 degrees.
    """

    can_search_near = True

    def __init__(self):
        self.boxes, self.roll, self.searches, self.turned_searches = [], 0.0, 0, 0

    def __call__(self, image):
        return self.search(image, 0.0)

    def search(self, image, roll, smallest=0.0):
        self.searches += not roll
        self.turned_searches += bool(roll)
        return self._found(self.boxes, roll)

    def near(self, image, box, roll=0.0, confirm=False):
        x, y, w, h = box
        return self._found([b for b in self.boxes if abs(b[0] - x) < w / 2 and abs(b[1] - y) < h / 2], roll)

    def _found(self, boxes, roll):
        off = abs(roll - self.roll)
        return Detections.of([(*box, roll, 1 - off) for box in boxes] if off < np.deg2rad(15) else [])


class Whole(Scripted):
    """A detector that searches the whole frame only, and finds faces however they are turned."""

    can_search_near = False

    def __call__(self, image):
        self.searches += 1
        return Detections.of([(*box, self.roll, 0.9) for box in self.boxes])


class Scene:
    """A tracker on a made-up detector: `show` gives it a frame."""

    def __init__(self):
        self.detect, self.image = Scripted(), np.zeros((480, 640, 3), np.uint8)
        self.track = FaceTracker(self.detect)

    def show(self, time_s, *boxes):
        """{identity: box} of a frame with these boxes in it."""
        self.detect.boxes = list(boxes)
        return {face.identity: face.box for face in self.track(self.image, time_s)}


@pytest.mark.parametrize("fps", [10, 25, 60])
def test_the_whole_frame_is_searched_now_and_then(fps):
    scene = Scene()
    for number in range(10 * fps):
        assert scene.show(number / fps, NEAR) == {0: NEAR}
    assert 30 <= scene.detect.searches <= 41


def test_a_detector_of_whole_frames_searches_every_second_frame():
    scene = Scene()
    scene.track = FaceTracker(scene.detect)
    scene.track.detect = scene.detect = Whole()
    for number in range(FPS):
        scene.detect.roll = np.deg2rad(number)
        assert scene.show(number / FPS, NEAR) == {0: NEAR}
    assert FPS / 2 <= scene.detect.searches <= FPS / 2 + 1
    assert 0.6 * scene.detect.roll < scene.track(scene.image, 1.0)[0].roll <= scene.detect.roll


@pytest.mark.parametrize("fps", [10, 25, 60])
def test_a_new_face_appears_within_three_tenths_of_a_second(fps):
    for start in range(fps):  # whenever it comes
        scene = Scene()
        for number in range(fps + start):
            scene.show(number / fps, NEAR)
        late = next(n for n in range(fps) if len(scene.show((fps + start + n) / fps, NEAR, AWAY)) == 2)
        assert late / fps <= 0.3


@pytest.mark.parametrize("fps", [10, 25, 60])
def test_the_first_face_appears_within_a_tenth_of_a_second(fps):
    assert Scene().show(0, NEAR) == {0: NEAR}
    for start in range(1, fps):  # whenever it comes
        scene = Scene()
        for number in range(start):
            assert scene.show(number / fps) == {}
        late = next(n for n in range(fps) if scene.show((start + n) / fps, NEAR))
        assert late / fps <= 0.1
    assert scene.detect.searches <= 11  # a second with nobody in sight; the pause pays for the larger search


@pytest.mark.parametrize("degrees", [-40, -20, 20, 40])
def test_the_first_face_may_be_turned(degrees):
    scene = Scene()
    scene.detect.roll = np.deg2rad(degrees)
    late = next(n for n in range(2 * FPS) if scene.show(n / FPS, NEAR))
    assert late / FPS <= 0.8
    assert scene.track(scene.image, (late + 1) / FPS) == [TrackedFace(0, NEAR, scene.detect.roll)]


def test_a_head_that_tilts_and_comes_back_is_followed():
    scene, rolls = Scene(), []
    for number in range(8 * FPS):
        true = np.deg2rad(45) * np.sin(2 * np.pi * number / (8 * FPS)) * (-1 if number > 4 * FPS else 1)
        scene.detect.roll, scene.detect.boxes = true, [NEAR]
        (face,) = scene.track(scene.image, number / FPS)
        assert (face.identity, face.box) == (0, NEAR)
        rolls.append(face.roll - true)
    assert np.abs(rolls).max() < 1.6 * TURN and np.abs(rolls).mean() < TURN / 2
    for number in range(8 * FPS, 9 * FPS):
        scene.detect.roll = 0.0
        (face,) = scene.track(scene.image, number / FPS)
    assert face.roll == 0  # upright again: the crop is the plain one


def test_a_face_that_jumps_is_found_in_the_same_frame():
    scene = Scene()
    for number in range(FPS + 1):
        scene.show(number / FPS, NEAR)
    jumped = (375, 200, 100, 100)
    assert overlap(scene.show(1.04, jumped)[0], jumped) > 0.9


def test_a_face_not_found_is_shown_for_a_moment_and_known_again_for_a_second():
    scene = Scene()
    for number in range(4 * FPS):
        scene.show(number / FPS, NEAR)
    last = (4 * FPS - 1) / FPS
    assert scene.show(last + 0.1) == {0: NEAR}
    assert scene.show(last + 0.3) == {}
    assert list(scene.show(last + 0.9, NEAR)) == [0]
    assert list(scene.show(last + 2.0, NEAR)) == [1]


def test_a_face_at_the_edge_is_gone_when_it_is_not_found():
    scene = Scene()
    for number in range(4 * FPS):
        shown = scene.show(number / FPS, (-5, 200, 100, 100))
    assert list(shown) == [0] and scene.show(4) == {}


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((-15, 200, 100, 100), (0, 200, 85, 100)),
        ((300, -15, 100, 100), (300, 0, 100, 85)),
        ((560, 200, 100, 100), (560, 200, 80, 100)),
        ((300, 400, 100, 100), (300, 400, 100, 80)),
    ],
)
def test_of_a_face_that_the_edge_cuts_the_part_in_the_frame_is_shown(box, shown):
    scene = Scene()
    for number in range(FPS):
        (seen,) = scene.show(number / FPS, box).values()
    assert seen == shown


def test_what_the_whole_frame_search_seldom_finds_is_seldom_shown():
    scene, rng, shown = Scene(), np.random.default_rng(0), 0
    scene.detect.near = lambda image, box, roll, **_: Detections.of(
        [(*NEAR, roll, 1.0)]
    )  # however often it is found near its place
    for number in range(40 * FPS):
        shown += len(scene.show(number / FPS, *([NEAR] if rng.random() < 0.2 else [])))
    assert shown < 0.3 * 40 * FPS


@pytest.mark.parametrize("offset", [60, 90])  # of the boxes' 100 pixels
def test_people_who_pass_each_other_keep_their_identities(offset):
    scene, seen = Scene(), set()
    for step in range(41):
        left, right = (20 + 12 * step, 100, 100, 100), (500 - 12 * step, 100 + offset, 100, 100)
        faces = scene.show(step / FPS, *((left, right) if step % 2 else (right, left)))  # in whatever order
        identities = [max(faces, key=lambda identity, box=box: overlap(faces[identity], box)) for box in (left, right)]
        assert identities in ([0, 1], [1, 0])
        seen.add(tuple(identities))
    assert len(seen) == 1


def test_who_hides_behind_another_does_not_take_their_box():
    scene, owners = Scene(), set()
    for step in range(61):
        front, behind = (300, 200, 100, 100), (60 + 8 * step, 190, 90, 90)
        hidden = abs(behind[0] - front[0]) < 70
        found = [behind] if step == 30 else [front] if hidden else [behind, front]  # once just where the other must be
        faces = scene.show(step / FPS, *found)
        owners.add(max(faces, key=lambda identity, faces=faces: overlap(faces[identity], front)))
    assert len(owners) == 1
    assert sorted(faces) == [0, 1]  # known again on the other side


def test_two_boxes_around_one_face_are_one_face():
    scene = Scene()
    for number in range(FPS):
        faces = scene.show(number / FPS, NEAR, (310, 205, 80, 80), (330, 260, 40, 40))
        assert list(faces) == [0] and overlap(faces[0], NEAR) > 0.9


@pytest.mark.parametrize("restart", ["clock", "size", "forget"])
def test_starting_anew_never_reuses_an_identity(restart):
    scene = Scene()
    assert list(scene.show(5.0, NEAR)) == [0]
    if restart == "size":
        scene.image = np.zeros((240, 320, 3), np.uint8)
    if restart == "forget":
        scene.track.forget()
    assert list(scene.show(0.0 if restart == "clock" else 5.04, NEAR)) == [1]


@pytest.mark.parametrize(("seconds", "identities"), [(2.0, {0}), (20.0, {0, 1, 2, 3})])
def test_a_face_keeps_its_identity_between_the_frames_of_a_slow_video(seconds, identities):
    scene = Scene()  # after 20 seconds without a frame, a camera may show somebody else
    assert {identity for step in range(4) for identity in scene.show(step * seconds, NEAR)} == identities


@pytest.mark.parametrize(("gap_s", "box", "identity"), [(1.5, NEAR, 0), (1.5, AWAY, 1), (9.0, NEAR, 1)])
def test_a_gap_in_a_fast_video_leaves_a_face_its_identity_where_it_stays(gap_s, box, identity):
    scene = Scene()  # as a recording of a screen on which nothing moves for a while
    for step in range(FPS):
        scene.show(step / FPS, NEAR)
    assert list(scene.show(1 + gap_s, box)) == [identity]


def test_frames_of_the_same_time_are_no_trouble():
    scene = Scene()
    for _ in range(5):
        assert list(scene.show(1.0, NEAR)) == [0]


def test_a_moving_box_follows_and_a_trembling_one_rests():
    scene, rng = Scene(), np.random.default_rng(0)
    for number in range(3 * FPS):
        x = 40 + 6 * number  # 1.5 face sides per second
        (box,) = scene.show(number / FPS, (x, 200, 100, 100)).values()
    assert abs(box[0] - x) <= 5
    scene, boxes = Scene(), []
    for number in range(3 * FPS):
        boxes += scene.show(number / FPS, tuple(NEAR + rng.integers(-2, 3, 4))).values()
    assert np.std(boxes[FPS:], axis=0).max() < 0.8  # that of the found boxes is 1.4


def test_still_images_are_numbered_one_by_one_from_left_to_right():
    detect, image = Scripted(), np.zeros((9, 9, 3), np.uint8)
    track, left, right = detect_in_stills(detect), *sorted([NEAR, AWAY])
    for detect.boxes in ([left, right], [right, left]):
        assert track(image, 0.0) == [TrackedFace(0, left), TrackedFace(1, right)]


# ----------------------------------------------------------------------------------------------------------
# Smoothing


def face(identity):
    return TrackedFace(identity, NEAR)


def test_smoothing_is_an_average_over_time_for_each_face():
    smooth = Smoother(time_constant=0.5)
    smooth([face(3), face(4)], np.array([[1.0, 0.0], [0.5, 0.5]]), 0.0)
    other, same = smooth([face(4), face(3)], np.array([[0.5, 0.5], [0.0, 1.0]]), 0.5)
    assert (same.identity, same.box) == (3, NEAR)
    np.testing.assert_allclose(same.probabilities, [np.exp(-1), 1 - np.exp(-1)])
    np.testing.assert_allclose(other.probabilities, [0.5, 0.5])


@pytest.mark.parametrize("steps", [1, 6, 30])
def test_smoothing_does_not_depend_on_the_frame_rate(steps):
    smooth = Smoother(time_constant=0.25)
    smooth([face(0)], np.array([[1.0, 0.0]]), 0.0)
    for step in range(steps):
        (seen,) = smooth([face(0)], np.array([[0.0, 1.0]]), 0.6 * (step + 1) / steps)
    np.testing.assert_allclose(seen.probabilities[0], np.exp(-0.6 / 0.25))


@pytest.mark.parametrize("later", [1.5, -1.0])  # out of sight for long, and a clip that starts again
def test_smoothing_forgets(later):
    smooth = Smoother(time_constant=0.5)
    smooth([face(0)], np.array([[1.0, 0.0]]), 0.0)
    assert smooth([], np.empty((0, 2)), 0.1) == []
    (seen,) = smooth([face(0)], np.array([[0.0, 1.0]]), later)
    np.testing.assert_allclose(seen.probabilities, [0.0, 1.0])


def test_no_smoothing():
    smooth = Smoother(0)
    for now in ([1.0, 0.0], [0.2, 0.8]):
        (seen,) = smooth([face(0)], np.array([now]), 1.0)
        np.testing.assert_allclose(seen.probabilities, now)


def shown_over_time(smooth, frames, step_s=0.1):
    """The emotion and the uncertainty that a face's label shows, frame by frame."""
    seen = [smooth([face(0)], np.array([now]), number * step_s)[0] for number, now in enumerate(frames)]
    return [each.best for each in seen], [each.uncertain for each in seen]


def test_a_label_changes_when_another_emotion_leads_by_enough():
    frames = [[0.6, 0.4], [0.48, 0.52], [0.52, 0.48], [0.46, 0.54], [0.44, 0.56], [0.48, 0.52], [0.56, 0.44]]
    assert shown_over_time(Smoother(0), frames)[0] == [0, 1, 0, 1, 1, 1, 0]
    assert shown_over_time(Smoother(0, lead=0.1), frames)[0] == [0, 0, 0, 0, 1, 1, 0]


def test_a_label_changes_when_another_emotion_leads_for_a_moment():
    frames = [[0.6, 0.4], *[[0.49, 0.51]] * 5, [0.51, 0.49], *[[0.49, 0.51]] * 12]  # the lead must not be broken
    labels, _ = shown_over_time(Smoother(0, lead=0.1), frames)
    assert labels == [0] * 17 + [1] * 2


def test_uncertain_does_not_flicker():
    frames = [
        [0.41, 0.3, 0.29],
        [0.39, 0.31, 0.3],
        [0.41, 0.3, 0.29],
        [0.44, 0.28, 0.28],
        [0.46, 0.27, 0.27],
        [0.41, 0.3, 0.29],
    ]
    assert shown_over_time(Smoother(0, 0, 0.4), frames)[1] == [False, True, False, False, False, False]
    assert shown_over_time(Smoother(0, 0.1, 0.4), frames)[1] == [False, True, True, True, False, False]
