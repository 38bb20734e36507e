"""Tests of annotation: what is drawn over a frame, where, and in which language."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from load_and_process import EMOTIONS
from recognition.annotation import (
    ACCENTS,
    BARS_LEFT_OUT,
    FRENCH,
    GREY,
    PALETTE,
    Annotator,
    blend_heat_map,
    draw_explanation,
    emotion_colours,
    stack_explanations,
    text_size,
    write,
)
from recognition.detection import shared_area
from recognition.tracking import Face

BLACK_FRAME = np.zeros((480, 640, 3), np.uint8)


def face(identity=0, box=(500, 300, 99, 99), emotion=3, probability=1.0):
    probabilities = np.full(7, (1 - probability) / 6)
    probabilities[emotion] = probability
    return Face(identity, box, probabilities)


def painted(picture, colour):
    """Pixels (n, 2), x and y, of exactly that colour."""
    return np.argwhere((picture == colour).all(axis=2))[:, ::-1]


@pytest.mark.parametrize("width, height", [(48, 48), (320, 240), (640, 480), (480, 640), (3840, 2160)])
def test_drawing_leaves_the_frame_alone_and_keeps_its_size(width, height):
    frame, side = np.full((height, width, 3), 100, np.uint8), min(width, height) // 3
    annotate = Annotator(EMOTIONS)
    annotate.help = ("?  help", "q  end")
    seen = face(box=(width - side, height - side // 2, side, side))
    annotate.remember([seen], 0.0)
    picture = annotate.draw(frame, [seen], "30 fps", np.ones((1, 5, 5)), recording=True)
    assert picture.shape == frame.shape and (frame == 100).all() and (picture != 100).any()


def test_a_frame_without_a_face_is_shown_as_it_is():
    frame = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Annotator(EMOTIONS).draw(frame, []), frame)
    np.testing.assert_array_equal(Annotator(EMOTIONS, mirror=True).draw(frame, []), frame[:, ::-1])


def test_bars_are_as_long_as_the_probabilities():
    seen = Face(0, (500, 300, 99, 99), np.array([0.5, 0.25, 0.25, 0, 0, 0, 0]))
    panel = Annotator(EMOTIONS).draw(BLACK_FRAME, [seen])[:240, :320]
    lengths = [(panel == colour).all(axis=2).sum(axis=1).max() for colour in PALETTE]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=2) and lengths[1] == lengths[2] > 10


@pytest.mark.parametrize("width, height", [(320, 240), (3840, 2160)])
def test_labels_bars_and_history_can_be_read_at_any_size(width, height):
    frame, annotate = np.zeros((height, width, 3), np.uint8), Annotator(EMOTIONS)
    seen = face(box=(width // 2, height // 2, height // 4, height // 4))
    annotate.remember([seen], 0.0)
    annotate.remember([face(emotion=4)], 10.0)
    picture = annotate.draw(frame, [seen])
    unit = max(0.65, height / 480)
    line = text_size("", unit)[1]
    tag = picture[height // 2 - line : height // 2, width // 2 : width // 2 + text_size("happy 100%", unit)[0]]
    grounds = (tag == PALETTE[3]).all(axis=2).mean()
    assert grounds > 0.4 and (tag.sum(axis=2) < 60).mean() > 0.015  # black letters on the box's colour
    panel = picture[: height // 2, : width // 2]
    assert (panel > 200).all(axis=2).mean() > 0.01  # white letters
    assert len(painted(panel, PALETTE[4])) > 0.001 * width * height  # of the history


@pytest.mark.parametrize("width, height", [(320, 240), (640, 480), (3840, 2160)])
def test_bars_of_twenty_emotions_are_all_shown(width, height):
    emotions = [f"emotion {number}" for number in range(20)]
    annotate = Annotator(emotions)
    seen = Face(0, (width - 80, height - 60, 40, 40), np.full(20, 0.05))
    panel = annotate.draw(np.zeros((height, width, 3), np.uint8), [seen])[:, : width // 2]
    rows = [set(painted(panel, colour)[:, 1]) for colour in emotion_colours(emotions)]
    assert all(len(row) >= 3 for row in rows) and max(rows[-1]) < height - 8
    assert [min(row) for row in rows[1:]] == sorted(min(row) for row in rows[1:])
    middles = [np.mean([*row]) for row in rows[1:]]  # the first one's colour is the frame's, too
    assert np.diff(middles) == pytest.approx(np.diff(middles).mean(), abs=1)


def test_colours_of_twenty_emotions_differ():
    lab = cv2.cvtColor(np.uint8([PALETTE]), cv2.COLOR_BGR2LAB)[0].astype(float)
    apart = np.linalg.norm(lab[:, None] - lab, axis=2) + 999 * np.eye(len(PALETTE))
    assert len(PALETTE) >= 20 and apart.min() > 10
    assert len(set(emotion_colours([f"emotion {number}" for number in range(20)]))) == 20


def test_colours_belong_to_emotions():
    """Whatever the order and the number of a network's emotions: its own names change no colour of FER2013's."""
    own = dict(zip(EMOTIONS, PALETTE, strict=False))
    assert emotion_colours(EMOTIONS) == PALETTE[:7]
    assert emotion_colours(("happy", "sad", "angry")) == [own["happy"], own["sad"], own["angry"]]
    assert emotion_colours(("bored", "sad", "contempt")) == [PALETTE[7], own["sad"], PALETTE[8]]
    assert emotion_colours((*EMOTIONS, "contempt")) == PALETTE[:8]
    seen = Face(0, (500, 300, 99, 99), np.array([0.1, 0.9]))
    for language in ("en", "fr"):
        annotate = Annotator(("contempt", "happy"), language)
        annotate.remember([seen], 0.0)
        annotate.remember([seen], 5.0)
        picture = annotate.draw(BLACK_FRAME, [seen])
        assert annotate.label(seen)[1] == own["happy"]
        assert len(painted(picture[:240, :320], own["happy"])) > 900 < len(painted(picture[:240, :320], PALETTE[7])) * 9
        assert not len(painted(picture, PALETTE[0]))
    picture = draw_explanation(np.zeros((9, 9, 3), np.uint8), np.zeros((3, 3)), seen.probabilities, ("calm", "happy"))
    assert len(painted(picture, own["happy"])) > 500 and not len(painted(picture, PALETTE[1]))


def test_the_bars_belong_to_the_largest_face_or_the_chosen_one():
    small, large = face(3, (400, 300, 50, 50), 3), face(8, (500, 300, 99, 99), 4)
    annotate = Annotator(EMOTIONS)
    assert annotate.chosen([small, large]) is large and annotate.chosen([]) is None
    annotate.choose([small, large], (420, 320), 640)
    assert annotate.chosen([small, large]) is small and annotate.chosen([large]) is large
    annotate.choose([small, large], (10, 10), 640)
    assert annotate.chosen([small, large]) is large
    for expected in (small, large, small):  # from left to right, and around
        annotate.choose_next([small, large])
        assert annotate.chosen([small, large]) is expected
    annotate.choose_next([])
    longest = {}
    for seen in (small, large):
        annotate.choose([small, large], (seen.box[0] + 5, 320), 640)
        panel = annotate.draw(BLACK_FRAME, [small, large])[:240, :320]
        longest[seen.identity] = [(panel == PALETTE[i]).all(axis=2).sum(axis=1).max() for i in (3, 4)]
    assert longest[3][0] > longest[3][1] and longest[8][1] > longest[8][0]


def test_mirrored_boxes_and_clicks_are_those_of_the_picture():
    seen = face(5, (500, 300, 100, 50), emotion=2)
    annotate = Annotator(EMOTIONS, mirror=True)
    outline = painted(annotate.draw(BLACK_FRAME, [seen]), PALETTE[2])
    outline = outline[outline[:, 1] > 310]
    assert abs(outline[:, 0].min() - 40) <= 2 and abs(outline[:, 0].max() - 140) <= 2
    other = face(6, (0, 0, 200, 200))
    annotate.choose([seen, other], (90, 320), 640)
    assert annotate.chosen([seen, other]) is seen


def test_the_panel_stays_in_its_corner_rather_than_gain_a_little():
    annotate = Annotator(EMOTIONS)

    def side(box):
        picture = annotate.draw(np.full((480, 640, 3), 255, np.uint8), [face(box=box)])
        return "left" if (picture[20, 20] < 255).any() else "right"

    assert side((250, 200, 100, 100)) == "left"
    assert side((100, 100, 100, 100)) == "right"  # it would have hidden the face
    assert side((250, 200, 100, 100)) == "right"


def test_labels_leave_the_bars_and_each_other_alone():
    """Of two places, over a face's box and under it, each label takes the one where it hides less."""
    annotate, height = Annotator(EMOTIONS), text_size("", 1)[1]
    seen = [face(1, (20, 150, 150, 150), 1), face(2, (450, 150, 150, 150), 2), face(3, (450, 330, 140, 140), 3)]
    picture = annotate.draw(BLACK_FRAME, seen)  # in every corner, the bars would hide as much or more
    assert len(painted(picture[300 : 300 + height, 20:170], PALETTE[1])) > 1000  # under: the bars are above
    assert len(painted(picture[150 - height : 150, 450:600], PALETTE[2])) > 1000  # over
    side = face(1, (100, 200, 100, 100), 1), face(2, (140, 205, 100, 100), 2)
    picture = Annotator(EMOTIONS).draw(BLACK_FRAME, side)
    assert len(painted(picture[200 - height : 200, 100:200], PALETTE[1])) > 1000
    assert len(painted(picture[305 : 305 + height, 140:240], PALETTE[2])) > 1000


# ----------------------------------------------------------------------------------------------------------
# Groups: nothing hides a face

SIZES = [(320, 240), (640, 480), (1920, 1080), (3840, 2160), (2048, 1536), (480, 640)]


def group(count, size, share=0.5, seed=0):
    """Faces in rows, not quite regular; `share` is a face's part of its cell."""
    rng, (width, height) = np.random.default_rng((seed, count)), size
    columns = max(1, round((count * width / height) ** 0.5))
    rows = -(-count // columns)
    cell, faces = (width / columns, height / rows), []
    for number in range(count):
        side = int(min(cell) * share * rng.uniform(0.8, 1))
        row, column = divmod(number, columns)
        x = cell[0] * column + (cell[0] - side) * rng.uniform(0.2, 0.8)
        y = cell[1] * row + (cell[1] - side) * rng.uniform(0.2, 0.8)
        faces.append(face(number, (int(x), int(y), side, side), number % 7, rng.uniform(0.3, 1)))
    return faces


def shares(box, boxes):
    return sum(shared_area(box, other) for other in boxes)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 6, 12, 29])
@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.95])
def test_no_face_is_hidden_in_a_group(size, count, still, share):
    """Neither by the panel nor by a label nor by the label of another face: their boxes don't overlap here."""
    width, height = size
    for seed, mirror in ((0, False), (1, True)):
        annotate, faces = Annotator(EMOTIONS, mirror=mirror), group(count, size, share, seed)
        if not still:
            annotate.remember(faces, 0.0)
        layout = annotate.lay_out(size, faces, may_grow=still)
        boxes = [(width - x - w if mirror else x, y, w, h) for x, y, w, h in (seen.box for seen in faces)]
        labels = [label.box for label in layout.labels]
        assert layout.panel or not still
        if layout.panel:
            x, y, w, h = layout.panel.box
            assert x >= 0 and y >= 0 and x + w <= layout.size[0] and y + h <= layout.size[1]
            assert not shares(layout.panel.box, boxes) and not shares(layout.panel.box, labels)
        assert (layout.panel is None) == (layout.note is not None and BARS_LEFT_OUT in layout.note.text)
        inside = layout.panel and shared_area(layout.panel.box, (0, 0, *size)) > 0
        assert layout.size == size if inside or not layout.panel else layout.size != size
        for i, (x, y, w, h) in enumerate(labels):
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
            assert not shares(labels[i], boxes[:i] + boxes[i + 1 :])
            assert not shares(labels[i], labels[:i] + labels[i + 1 :])
            if layout.note:
                assert not shared_area(labels[i], layout.note.box)


@pytest.mark.parametrize(("count", "size"), [(29, (2048, 1536)), (12, (640, 480)), (6, (320, 240))])
def test_labels_of_a_group_can_be_read(count, size):
    """Each label has number, emotion and percentage, in letters that are legible on a screen of 1280x800."""
    faces = group(count, size, 0.45)
    shown_at = min(1, 1280 / size[0], 800 / size[1])
    for seen, label in zip(faces, Annotator(EMOTIONS).lay_out(size, faces).labels, strict=True):
        assert label.text.split() == [str(seen.identity), EMOTIONS[seen.best], f"{seen.probabilities.max():.0%}"]
        assert label.box[3] * shown_at >= 10 and label.unit * shown_at >= 0.5


def test_small_faces_get_small_labels_and_one_face_no_number():
    near, far = face(0, (20, 20, 600, 600)), face(1, (1200, 800, 60, 60))
    large, small = Annotator(EMOTIONS).lay_out((1920, 1080), [near, far]).labels
    assert small.unit < 0.6 * large.unit and (large.text, small.text) == ("0 happy 100%", "1 happy 100%")
    assert Annotator(EMOTIONS).lay_out((1920, 1080), [near]).labels[0].text == "happy 100%"
    alone = [face(box=(900, 400, side, side)) for side in (60, 120, 150, 180, 600)]
    units = [Annotator(EMOTIONS).lay_out((1920, 1080), [seen]).labels[0].unit for seen in alone]
    assert units == sorted(set(units))
    unsure = [face(number, (100 * number, 100, 60, 60))._replace(uncertain=True) for number in range(2)]
    labels = Annotator(EMOTIONS).lay_out((640, 480), unsure).labels
    assert [(label.text, label.colour) for label in labels] == [("0 uncertain", GREY), ("1 uncertain", GREY)]


def test_panel_of_a_still_image_lies_beside_or_under_it():
    for width, height in ((640, 480), (480, 640), (320, 960)):
        frame, annotate = np.full((height, width, 3), 200, np.uint8), Annotator(EMOTIONS)
        faces = group(12, (width, height), 0.8)
        picture = annotate.draw(frame, faces, may_grow=True)
        layout = annotate.lay_out((width, height), faces, may_grow=True)
        assert picture.shape[1::-1] == layout.size != (width, height)
        assert picture.shape[0] * picture.shape[1] < 1.7 * width * height  # where it takes least room
        margin = picture.copy()
        margin[:height, :width] = 0
        shown = annotate.chosen(faces)
        assert len(painted(margin, annotate.label(shown)[1])) > 500 and (margin > 200).all(axis=2).sum() > 100
        live = annotate.draw(frame, faces)
        assert live.shape == frame.shape
    roomy = [face(0, (280, 200, 60, 60))]
    assert Annotator(EMOTIONS).draw(BLACK_FRAME, roomy, may_grow=True).shape == BLACK_FRAME.shape


def test_clicks_hit_the_right_face_of_a_picture_that_has_grown():
    for mirror in (False, True):
        annotate, faces = Annotator(EMOTIONS, mirror=mirror), group(12, (640, 480), 0.8)
        assert annotate.draw(BLACK_FRAME, faces, may_grow=True).shape != BLACK_FRAME.shape
        regions = annotate.lay_out((640, 480), faces, may_grow=True).regions
        for seen, (x, y, w, h) in zip(faces, regions, strict=True):
            annotate.choose(faces, (x + w // 2, y + h // 2), 640)
            assert annotate.chosen(faces) is seen


def test_panel_becomes_smaller_and_then_is_left_out_and_comes_back():
    """A face comes nearer and goes away again; near a limit the panel does not change to and fro."""
    annotate, panels = Annotator(EMOTIONS), []
    sides = [*range(60, 470, 5), *range(465, 55, -5)]
    for number, side in enumerate(sides):
        seen = face(0, (320 - side // 2, 240 - side // 2, side, side))
        annotate.remember([seen], number / 10)
        layout = annotate.lay_out((640, 480), [seen], "30 fps")
        panels.append(layout.panel)
        assert (BARS_LEFT_OUT in layout.note.text) == (layout.panel is None) and "30 fps" in layout.note.text
        assert not layout.panel or not shared_area(layout.panel.box, seen.box)
    units = [panel.unit if panel else 0 for panel in panels[1:]]
    nearest = units.index(0)
    assert units[0] == units[-1] == max(units) and units[:nearest] == sorted(units[:nearest], reverse=True)
    back = units[nearest:]
    assert back == sorted(back) and 3 <= len(set(units)) <= 6
    for limit in range(1, len(sides) // 2):  # to and fro by a step: at most one change
        if panels[limit] != panels[limit + 1]:
            shown = []
            for side in (sides[limit], sides[limit + 1]) * 4:
                seen = face(0, (320 - side // 2, 240 - side // 2, side, side))
                shown.append(annotate.lay_out((640, 480), [seen], "30 fps").panel)
            assert sum(a != b for a, b in pairwise(shown)) <= 1


def test_the_panel_stays_where_it_is_while_faces_tremble():
    for count in (1, 6, 12):
        annotate, faces, rng = Annotator(EMOTIONS), group(count, (640, 480), 0.6), np.random.default_rng(0)
        changes, last = 0, None
        for number in range(60):
            moved = [
                seen._replace(box=tuple(int(side) for side in np.array(seen.box) + rng.integers(-1, 2, 4)))
                for seen in faces
            ]
            annotate.remember(moved, number / 30)
            layout = annotate.lay_out((640, 480), moved)
            now = layout.panel and layout.panel.box
            changes, last = changes + (now != last), now
        assert changes <= 3


def test_the_face_whose_bars_are_shown_is_marked():
    faces = [face(3, (60, 300, 100, 100), 3), face(8, (300, 300, 100, 100), 4)]
    annotate = Annotator(EMOTIONS)
    annotate.choose(faces, (110, 350), 640)
    for first, second in ((0, 1), (1, 0)):
        picture = annotate.draw(BLACK_FRAME, faces)
        white = []
        for seen in faces:
            x, y, w, h = seen.box
            part = picture[y + h - 8 : y + h + 8, x - 8 : x + w + 8]
            white.append((part.min(axis=2) > 120).sum())
        assert white[first] > 100 > white[second] == 0
        panel = annotate.lay_out((640, 480), faces).panel
        x, y, w, h = panel.box
        assert len(painted(picture[y : y + 12, x : x + w], PALETTE[3 + first])) > 5 * w  # its title
        annotate.choose_next(faces)
    alone = annotate.draw(BLACK_FRAME, faces[:1])[390:410, 50:170]
    assert not (alone.min(axis=2) > 120).any()


def test_box_and_heat_map_of_a_turned_face_are_turned():
    quarter = Face(0, (250, 200, 200, 100), np.eye(7)[3], np.pi / 2)
    annotate = Annotator(EMOTIONS)
    assert annotate.lay_out((640, 480), [quarter]).regions == [pytest.approx((300, 150, 101, 201), abs=2)]
    turned = Face(0, (250, 150, 200, 200), np.eye(7)[3], 0.5)
    heat = np.zeros((1, 8, 8))
    heat[0, 0, 0] = 1  # at the left of the forehead
    for mirror in (False, True):
        annotate = Annotator(EMOTIONS, mirror=mirror)
        picture = annotate.draw(BLACK_FRAME, [turned])
        corner = np.array((350, 250)) + 100 * np.array((-np.cos(0.5) + np.sin(0.5), -np.cos(0.5) - np.sin(0.5)))
        outline = painted(picture, PALETTE[3])
        x, y, w, h = annotate.lay_out((640, 480), [turned]).regions[0]
        outline = outline[(outline > (x - 3, y + 3)).all(axis=1) & (outline < (x + w + 3, y + h + 3)).all(axis=1)]
        leftmost = outline[outline[:, 0].argmax() if mirror else outline[:, 0].argmin()]  # the lower left corner
        expected = np.array((350, 250)) + 100 * np.array((-np.cos(0.5) - np.sin(0.5), np.cos(0.5) - np.sin(0.5)))
        expected[0] = 639 - expected[0] if mirror else expected[0]
        assert np.abs(leftmost - expected).max() <= 4
        hot = annotate.draw(BLACK_FRAME, [turned], heat_maps=heat).astype(int) - picture
        rows, columns = np.nonzero(np.abs(hot).sum(axis=2) > 150)
        corner[0] = 639 - corner[0] if mirror else corner[0]
        assert len(rows) > 30 and np.hypot(columns.mean() - corner[0], rows.mean() - corner[1]) < 30
        annotate.choose([face(1, (0, 0, 9, 9)), turned], tuple(np.rint(corner).astype(int)), 640)
        assert annotate.chosen([face(1, (0, 0, 500, 500)), turned]) is turned


def test_help_lies_on_no_face_where_it_can_avoid_it():
    for mirror in (False, True):
        for box in ((220, 140, 200, 200), (40, 140, 300, 300), (330, 40, 250, 250)):
            annotate, seen = Annotator(EMOTIONS, mirror=mirror), face(box=box)
            frame = np.full((480, 640, 3), 200, np.uint8)
            plain = annotate.draw(frame, [seen])
            annotate.help = ("?  these keys", "q, Esc  end", "Tab, click  choose a face")
            x, y, w, h = annotate.lay_out((640, 480), [seen]).regions[0]
            helped = annotate.draw(frame, [seen])
            changed = (helped != plain).any(axis=2)
            assert changed.sum() > 5000 and not changed[y : y + h, x : x + w].any()
    everywhere = face(box=(0, 0, 640, 480))
    assert (annotate.draw(frame, [everywhere])[200:280, 300:340] < 100).any()  # in the middle all the same


def test_note_avoids_a_face_in_its_corner():
    note = Annotator(EMOTIONS).lay_out((640, 480), [face(box=(0, 380, 100, 100))], "30 fps").note
    assert note.box[0] + note.box[2] == 640 and note.box[1] + note.box[3] == 480
    note = Annotator(EMOTIONS).lay_out((320, 240), [], "a note that is much too long for such a small picture").note
    assert note.box[0] == 0 and note.box[2] <= 320


def test_label_of_a_picture_that_is_smaller_than_the_text():
    (label,) = Annotator(EMOTIONS).lay_out((24, 24), [face(box=(4, 4, 16, 16))]).labels
    x, y, w, h = label.box
    assert x >= 0 and y >= 0 and x + w <= 24 and y + h <= 24


# ----------------------------------------------------------------------------------------------------------
# History, certainty


def test_history_is_of_the_last_seconds_of_each_face():
    annotate, one, two = Annotator(EMOTIONS), face(1), face(2)
    for second in range(30):
        annotate.remember([one] if second > 12 else [one, two], float(second))
    assert [time_s for time_s, _ in annotate._history[1]] == list(range(19, 30)) and 2 not in annotate._history
    annotate.remember([one], 0.0)  # a looped video
    assert [time_s for time_s, _ in annotate._history[1]] == [0.0]
    annotate.forget()  # another one
    assert not annotate._history


def test_history_is_drawn_under_the_bars():
    annotate = Annotator(EMOTIONS)
    plain = annotate.draw(BLACK_FRAME, [face()])
    for step in range(100):
        annotate.remember([face(emotion=3 if step < 50 else 4)], step / 10)
    strip = annotate.draw(BLACK_FRAME, [face()])[150:240, :320]
    before, after = painted(strip, PALETTE[3]), painted(strip, PALETTE[4])
    assert len(before) > 500 and len(after) > 500 and before[:, 0].mean() < after[:, 0].mean()
    assert not len(painted(plain[150:240, :320], PALETTE[4]))


def test_a_guess_that_is_hardly_one_reads_uncertain():
    unsure = face(probability=0.39)._replace(uncertain=True)
    assert Annotator(EMOTIONS).label(unsure)[0] == "uncertain"
    assert Annotator(EMOTIONS, "fr").label(unsure)[0] == "incertain"
    assert Annotator(EMOTIONS).label(face(probability=0.4)) == ("happy 40%", PALETTE[3])
    assert Annotator(EMOTIONS).label(face(probability=0.2))[0] == "happy 20%"


# ----------------------------------------------------------------------------------------------------------
# Heat maps


def test_heat_is_blended_where_it_is_hot():
    image, heat = np.full((200, 200, 3), 90, np.uint8), np.zeros((10, 10))
    heat[2, 7] = 1  # of ten: 7.5 across, 2.5 down
    blend_heat_map(image, (50, 50, 100, 100), heat)
    changed = np.abs(image.astype(int) - 90).sum(axis=2)
    y, x = np.unravel_index(changed.argmax(), changed.shape)
    assert abs(x - 125) <= 3 and abs(y - 75) <= 3
    assert not changed[:50].any() and not changed[:, :50].any() and not changed[120:].any()


@pytest.mark.parametrize("box", [(-30, -30, 60, 60), (80, 80, 60, 60), (-20, 10, 140, 40), (200, 200, 10, 10)])
def test_heat_of_a_face_that_leaves_the_frame(box):
    image = np.full((100, 100, 3), 90, np.uint8)
    blend_heat_map(image, box, np.ones((4, 4)))
    x, y, w, h = box
    inside = np.zeros((100, 100), bool)
    inside[max(0, y) : y + h, max(0, x) : x + w] = True
    np.testing.assert_array_equal((image != 90).any(axis=2), inside)


@pytest.mark.parametrize(("box", "hottest"), [((-50, -50, 100, 100), (12, 12)), ((150, 150, 100, 100), (162, 162))])
def test_the_heat_of_a_face_that_leaves_the_frame_is_of_the_part_inside(box, hottest):
    image, heat = np.full((200, 200, 3), 90, np.uint8), np.zeros((10, 10))
    heat[2, 2] = 1  # of 50 pixels inside: 12.5
    blend_heat_map(image, box, heat)
    changed = np.abs(image.astype(int) - 90).sum(axis=2)
    assert np.unravel_index(changed.argmax(), changed.shape) == pytest.approx(hottest, abs=2)


def test_each_face_has_its_own_heat_map():
    faces = [face(0, (50, 250, 100, 100)), face(1, (400, 250, 100, 100))]
    maps = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
    changed = (Annotator(EMOTIONS).draw(BLACK_FRAME, faces, heat_maps=maps)[270:330] != 0).any(axis=2)
    assert not changed[:, 60:140].any() and changed[:, 410:490].all()


def test_an_explanation_is_face_map_and_bars():
    crop = np.full((80, 70, 3), 90, np.uint8)
    heat = np.zeros((8, 8))
    heat[:4] = 1
    picture = draw_explanation(crop, heat, face().probabilities, EMOTIONS)
    assert picture.shape[0] == 256 and (picture[:, :256] == 90).all()
    assert (picture[:100, 256:512] != 90).any(axis=2).all() and (picture[160:, 256:512] == 90).all()
    assert len(painted(picture[:, 512:], PALETTE[3])) > 500
    longer = draw_explanation(crop, heat, face().probabilities, [f"{emotion} indeed" for emotion in EMOTIONS])
    assert stack_explanations([picture, longer]).shape == (516, longer.shape[1], 3)


# ----------------------------------------------------------------------------------------------------------
# Text


def test_labels_in_french():
    annotate = Annotator(EMOTIONS, "fr")
    assert annotate.labels == ["colère", "dégoût", "peur", "joie", "tristesse", "surprise", "neutre"]
    assert Annotator(("happy", "bored"), "fr").labels == ["joie", "bored"]


@pytest.mark.parametrize(
    ("accented", "plain"), [("è", "e"), ("é", "e"), ("û", "u"), ("É", "E"), ("ñ", "n"), ("ë", "e")]
)
def test_accents_stand_over_their_letter(accented, plain):
    pictures = []
    for letter in (accented, plain):
        pictures.append(np.zeros((60, 120), np.uint8))
        write(pictures[-1], f"x{letter}x", (10, 5), 255, 1.5)
    added = np.argwhere((pictures[0] > 100) & (pictures[1] < 50))
    letter = np.zeros((60, 120), np.uint8)
    write(letter, plain, (10 + text_size("xx", 1.5)[0] - text_size("x", 1.5)[0], 5), 255, 1.5)
    rows, columns = np.nonzero(letter > 100)
    assert len(added) >= 3 and added[:, 0].max() <= rows.min() + 1
    assert columns.min() - 2 <= added[:, 1].mean() <= columns.max() + 2
    assert text_size(accented, 1.5) == text_size(plain, 1.5)


def test_every_accent_of_the_labels_is_known():
    import unicodedata

    marks = {mark for label in FRENCH.values() for mark in unicodedata.normalize("NFD", label) if ord(mark) > 127}
    assert marks and marks <= set(ACCENTS)


def test_text_is_as_wide_as_it_says():
    picture = np.zeros((80, 400), np.uint8)
    write(picture, "surprise 97%", (0, 0), 255, 2)
    width, height = text_size("surprise 97%", 2)
    rows, columns = np.nonzero(picture)
    assert columns.max() < width <= columns.max() + 16 and rows.max() < height
    assert cv2.countNonZero(picture[:, :4]) == 0


def test_an_explanation_of_many_emotions_shows_them_all():
    labels = [f"emotion {number}" for number in range(20)]
    probabilities = np.full(20, 0.05)
    picture = draw_explanation(np.full((90, 90, 3), 120, np.uint8), np.zeros((3, 3)), probabilities, labels)
    assert picture.shape[0] == 256
    bars = picture[:, 512:].max(axis=(1, 2))
    assert (bars[:3] == 40).all() and (bars[-3:] == 40).all()  # nothing is cut off above or below
