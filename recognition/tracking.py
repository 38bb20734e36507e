"""Tracking: each face is followed from one frame to the next, and its emotions are averaged over time.

    track, smooth = FaceTracker(open_detector(...)), Smoother(0.25)
    tracked = track(image, time_s)
    probabilities = classify(image, [face.box for face in tracked], [face.roll for face in tracked])
    faces = smooth(tracked, probabilities, time_s)

Importing this module imports neither TensorFlow nor Keras.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from recognition.detection import MOST_TURNED, TURN, FaceDetector, same_face

Box = tuple[int, int, int, int]  # x, y, width, height in pixels

# The search in the whole frame finds new faces and lost faces.  Seconds from one search to the next: while every known
# face is found, and while a face is lost or no face is known.
SEARCH_EVERY, SEARCH_EVERY_LOST = 0.25, 0.1
# Share of the frame's shorter side.  While every known face is found and is this large, every second search looks for
# large faces alone, which takes half of the time.
LARGE_FACE = 0.1
SEARCH_WHOLE_EVERY = 0.06  # seconds between the searches of a detector that searches whole frames only
SEARCH_TURNED_EVERY = 0.2  # seconds between the searches for turned faces while no face is known

FORGET_AFTER = 1.0  # seconds out of sight after which a face that comes back is a new face
SLOWEST = 5.0  # seconds between two frames, of a slow video or a still screen; faces are not out of sight in between
BRIDGE = 0.25  # seconds for which a trusted face is shown without being found
TRUST_TIME = 1.0  # seconds; `_Track.trust` is an average over this time
TRUSTED = 0.4  # share of the whole-frame searches that must find a face; lower: more true faces that flicker, and more
# false faces

# Steadiness, see `_Track`.  The values were found by trying: a higher cutoff follows faster, a lower one trembles less.
CUTOFF = 1.0  # Hz, of a face that stands still
CUTOFF_PER_SPEED = 4.0  # Hz more for each face side per second
SPEED_CUTOFF = 1.0  # Hz, of the speed itself
DEAD_ZONE = 0.01  # face sides; a smaller change leaves the box as it is
ROLL_TIME = 0.15  # seconds; time constant of a face's angle
ROLL_DEAD_ZONE = math.radians(2)  # a smaller change leaves the angle as it is
NEAR_STAY = 0.1  # face sides; a smaller movement leaves the search near the face where it is, because a search on
# another grid of pixels finds a slightly different box

# Steadiness of labels, see `Smoother`
LEAD_TIME = 1.0  # seconds
CERTAIN_AGAIN = 0.05  # probability


# ----------------------------------------------------------------------------------------------------------
# Where the faces are


class TrackedFace(NamedTuple):
    """Where a face is in a frame."""

    identity: int  # a number that the face keeps while it is in sight, and that no other face gets
    box: Box
    roll: float = 0.0  # radians by which the face is turned around the box's centre, clockwise positive


Track = Callable[[np.ndarray, float], list[TrackedFace]]  # what `FaceTracker` and `detect_in_stills` do with a frame


def detect_in_stills(detect: FaceDetector) -> Track:
    """Return a function to use in place of a `FaceTracker` for images that have nothing to do with each other.

    The function gives every face that is found in an image, numbered from 0, from left to right.
    """

    def track(image, time_s):
        boxes, rolls, _ = detect(image)
        found = sorted(zip(map(tuple, boxes.tolist()), rolls.tolist(), strict=True))
        return [TrackedFace(number, box, roll) for number, (box, roll) in enumerate(found)]

    return track


def take_whole_images(image: np.ndarray, time_s: float) -> list[TrackedFace]:
    """Return the one face of an image that is a face already, cut out as in a data set; for use as `detect_in_stills`.

    Args:
        image: uint8 (h, w, 3), BGR.
        time_s: Of the frame.
    """
    return [TrackedFace(0, (0, 0, image.shape[1], image.shape[0]))]


class FaceTracker:
    """Follows faces through a video: a call per frame gives each face's identity and a box that does not tremble.

    With a detector that can look near a face, most frames are searched near the known faces only.  That takes about a
    tenth of the time per face.  From time to time the whole frame is searched, for new faces and for lost faces.  With
    another detector, about every second frame is searched.  A face that the searches in the whole frame seldom find is
    not shown, because it may not be a face.

    Args:
        detect: Finds the faces in a frame.
    """

    def __init__(self, detect: FaceDetector):
        self.detect, self.count = detect, 0
        self.forget()

    def forget(self) -> None:
        """Start anew: the next frame has nothing to do with the frames before."""
        self.tracks, self.searched_s, self.time_s, self.shape = [], -math.inf, -math.inf, None
        self.gap_s = math.inf  # between the last two frames
        self.searches = 0
        self.turned_s, self.turned_searches = -math.inf, 0  # the search for turned faces in the whole frame

    def __call__(self, image: np.ndarray, time_s: float) -> list[TrackedFace]:
        """Find the faces in the next frame.

        Args:
            image: uint8 (h, w, 3), BGR.  A frame of another size starts anew.
            time_s: When the frame was taken, in seconds; the zero is free.  A time before that of the last frame, as
                in a video that is repeated, starts anew.

        Returns:
            The faces, in the order in which they first appeared.
        """
        if time_s < self.time_s or image.shape != self.shape:
            self.forget()
        before_s, self.gap_s = self.gap_s, time_s - self.time_s
        forget_after = max(FORGET_AFTER, min(self.gap_s, 1.5 * before_s, SLOWEST))
        keep_for = max(forget_after, min(self.gap_s, SLOWEST) + BRIDGE)  # a screen without motion has no frames
        self.time_s, self.shape = time_s, image.shape
        self.tracks = [
            track for track in self.tracks if time_s - track.seen_s <= (keep_for if track.followed else forget_after)
        ]
        near = self.detect.can_search_near
        lost, matched = self._search_near(image) if near else ([], [])
        wait_s = SEARCH_EVERY if self.tracks and not lost else SEARCH_EVERY_LOST
        since = time_s - self.turned_s
        if not near:
            steady = self.tracks and all(self._is_inside(track) for track in self.tracks)
            wait_s = SEARCH_WHOLE_EVERY if steady else 0
            lost = self.tracks if time_s - self.searched_s >= wait_s else []
        if time_s - self.searched_s >= wait_s:
            lost, matched = self._search_frame(image, lost, matched)
            since -= SEARCH_TURNED_EVERY  # one search a frame, unless frames come seldom
        if near and not self.tracks and since >= SEARCH_TURNED_EVERY:
            matched = self._search_turned(image)
        shown = [
            track
            for track in self.tracks
            if track.trust >= TRUSTED and (track not in lost or self._bridged(track, matched))
        ]
        return [TrackedFace(track.identity, *track.shown_pose(time_s, image.shape)) for track in shown]

    def _search_near(self, image):
        """Search near the known faces; return the tracks without a find and all boxes found."""
        recent = [track for track in self.tracks if self.time_s - track.seen_s <= BRIDGE]
        found = [
            each
            for track in recent
            for each in _rows(self.detect.near(image, track.search_box(self.time_s), track.roll))
        ]
        lost, matched = self._match(self.tracks, found, [])
        for track in [track for track in recent if track in lost]:
            # The head may have tilted: one other angle a frame.
            found = _rows(self.detect.near(image, track.search_box(self.time_s), track.next_turn()))
            still_lost, matched = self._match([track], found, matched)
            if not still_lost:
                lost.remove(track)
        return lost, matched

    def _search_frame(self, image, lost, matched):
        """Search the whole frame, begin new tracks, and update the trust; return as `_search_near`."""
        self.searched_s, self.searches, near = self.time_s, self.searches + 1, self.detect.can_search_near
        side = 1.1 * LARGE_FACE * min(image.shape[:2])
        large = self.tracks and not lost and all(track.steady[2] > side for track in self.tracks)
        smallest = LARGE_FACE if large and self.searches % 2 == 0 else 0.0
        whole = _rows(self.detect.search(image, 0.0, smallest) if near else self.detect(image))
        lost, matched = self._match(lost, whole, matched)
        for track in self.tracks:
            seen = any(same_face(track.expected_box(self.time_s), box) for box, *_ in whole)
            if near and track.roll and track not in lost:
                seen = self._check_turned(image, track) or seen
            track.update_trust(seen, self.time_s)
        return lost, self._begin(whole, matched)

    def _search_turned(self, image):
        """Search the whole frame for faces that are turned by one angle, begin their tracks, and return the boxes."""
        sign, size = (1, -1)[self.turned_searches % 2], (TURN, MOST_TURNED)[self.turned_searches // 2 % 2]
        self.searches = 0
        self.turned_s, self.turned_searches = self.time_s, self.turned_searches + 1
        return self._begin(_rows(self.detect.search(image, sign * size)), [])

    def _check_turned(self, image, track):
        """Return whether a turned face is surely a face; where it is less turned by now, follow it back."""
        box = track.expected_box(self.time_s)
        less = math.copysign(max(0, abs(track.roll) - TURN), track.roll)
        best = [
            max((row[2] for row in _rows(self.detect.near(image, box, roll, confirm=True))), default=0)
            for roll in (track.roll, less)
        ]
        if best[1] >= best[0] and best[1]:
            track.roll = less
        return any(best)

    def _begin(self, found, matched):
        """Begin a track for each find that is around no matched face; return all boxes matched so far."""
        for box, roll, _ in found:
            if not any(same_face(box, other) for other in matched):
                self.tracks.append(_Track(self.count, box, roll, self.time_s))
                self.count += 1
                matched.append(box)
        return matched

    def _match(self, tracks, found, matched):
        """Give finds to tracks, nearest pairs first; return the tracks without a find and all boxes matched so far."""
        lost, matched = list(tracks), list(matched)
        # The tracks seen last come first, so that a face hidden behind another does not take the other's box.
        pairs = sorted(
            (-track.seen_s, _distance(track.expected_box(self.time_s), box), track.identity, index)
            for track in tracks
            for index, (box, *_) in enumerate(found)
        )
        by_identity = {track.identity: track for track in tracks}
        for _, distance, identity, index in pairs:
            track, (box, roll, _) = by_identity[identity], found[index]
            if distance < 1 and track in lost and not any(same_face(box, other) for other in matched):
                track.update(box, roll, self.time_s)
                lost.remove(track)
                matched.append(box)
        return lost, matched

    def _bridged(self, track, matched):
        """Return whether a face that was not found is still shown: for a short time, inside the frame, alone there."""
        box = track.expected_box(self.time_s)
        long = self.time_s - track.seen_s > BRIDGE * min(1, 2 * (track.trust - TRUSTED))
        return self._is_inside(track) and not long and not any(same_face(box, other) for other in matched)

    def _is_inside(self, track):
        """Return whether a face should be inside the frame as a whole."""
        x, y, w, h = track.expected_box(self.time_s)
        height, width = self.shape[:2]
        return x >= 0 and y >= 0 and x + w <= width and y + h <= height


class _Track:
    """A face over time: where it is, how fast it moves, and how much it is trusted to be a face.

    Source of the smoothing: Casiez, Roussel and Vogel, "1 Euro Filter" (2012): a low-pass filter whose cutoff rises
    with the speed, so that the box of a still face is steady and the box of a moving face does not lag.
    """

    def __init__(self, identity, box, roll, time_s):
        self.identity, self.seen_s, self.checked_s, self.trust = identity, time_s, time_s, TRUSTED
        self.roll = self.steady_roll = self.shown_roll = roll  # radians
        self.followed = False  # whether the face was found twice within BRIDGE before it was lost
        self.turns = 0  # angles at which the face was looked for since it was lost
        self.found = self.steady = self.shown = _centred(box)  # float (4,): centre x, y, width, height
        self.speed = np.zeros(4)  # pixels per second
        self.searched = box  # where the last search near the face was

    def expected_box(self, time_s):
        """Return where the face should be at a time: float x, y, width, height."""
        return self._moved(self.steady, time_s)

    def search_box(self, time_s):
        """Return the box near which to search: the expected one, if it has moved enough."""
        expected = self.expected_box(time_s)
        if _distance(expected, self.searched) > NEAR_STAY:
            self.searched = expected
        return self.searched

    def next_turn(self):
        """Return the next angle at which to look for a face that is lost: first the neighbouring angles."""
        turn = (TURN, -TURN, 2 * TURN, -2 * TURN)[self.turns % 4]
        self.turns += 1
        return min(max(self.roll + turn, -MOST_TURNED), MOST_TURNED)

    def update(self, box, roll, time_s):
        """Take in that the face was found in a box, turned by an angle."""
        elapsed = max(time_s - self.seen_s, 1e-3)  # two frames may have the same time
        self.roll, self.turns, self.followed = roll, 0, elapsed <= BRIDGE
        self.steady_roll += (1 - math.exp(-elapsed / ROLL_TIME)) * (roll - self.steady_roll)
        if not roll and abs(self.steady_roll) < ROLL_DEAD_ZONE:
            self.steady_roll = self.shown_roll = 0.0
        elif abs(self.steady_roll - self.shown_roll) > ROLL_DEAD_ZONE:
            self.shown_roll = self.steady_roll
        before, self.found, self.seen_s = self.found, _centred(box), time_s
        self.speed = self.speed + _gain(SPEED_CUTOFF, elapsed) * ((self.found - before) / elapsed - self.speed)
        side = self.steady[2]
        cutoff = CUTOFF + CUTOFF_PER_SPEED * np.abs(self.speed) / side
        self.steady = self.steady + _gain(cutoff, elapsed) * (self.found - self.steady)
        self.shown = np.where(np.abs(self.steady - self.shown) > DEAD_ZONE * side, self.steady, self.shown)

    def update_trust(self, found, time_s):
        """Take in whether a search in the whole frame found the face."""
        self.trust += (1 - math.exp(-(time_s - self.checked_s) / TRUST_TIME)) * (found - self.trust)
        self.checked_s = time_s

    def shown_pose(self, time_s, shape):
        """Return the part of the box inside a frame of this shape, int x, y, width, height, and the angle."""
        x, y, w, h = (round(float(side)) for side in self._moved(self.shown, time_s))
        left, top, right, bottom = max(0, x), max(0, y), min(x + w, shape[1]), min(y + h, shape[0])
        return (left, top, right - left, bottom - top), self.shown_roll

    def _moved(self, state, time_s):
        """Return a centred box as a box, moved on at the face's speed; a face hidden for long may have stopped."""
        x, y, w, h = state
        dx, dy = self.speed[:2] * min(time_s - self.seen_s, FORGET_AFTER / 2)
        return x + dx - w / 2, y + dy - h / 2, w, h


# ----------------------------------------------------------------------------------------------------------
# What the faces show


class Face(NamedTuple):
    """A face in a frame, and the emotions it shows."""

    identity: int  # see `TrackedFace`
    box: Box
    probabilities: np.ndarray  # float (emotions,), averaged over time
    roll: float = 0.0  # see `TrackedFace`
    shown: int | None = None  # the emotion that the label names, see `Smoother`; None: the most probable
    uncertain: bool = False  # whether its probability is too low for the label to name it

    @property
    def best(self) -> int:
        """Index of the emotion that the label names; in videos it may differ from the argmax, see `Smoother`."""
        return int(np.argmax(self.probabilities)) if self.shown is None else self.shown


class Smoother:
    """Averages each face's probabilities over time, by its identity, and keeps its label steady.

    Another emotion takes the label when it leads by enough, or when it has led for `LEAD_TIME`.  A face that has become
    uncertain stays so until its probability is `CERTAIN_AGAIN` higher.

    Args:
        time_constant: Seconds after which an old expression has 1/e of its weight; 0 for no averaging.
        lead: Probability by which another emotion must lead; 0: the most probable emotion always takes the label, and
            a face becomes uncertain and certain at the same probability.
        uncertain_below: Probability of the emotion under which a face is uncertain.
    """

    def __init__(self, time_constant: float, lead: float = 0.0, uncertain_below: float = 0.0):
        self.time_constant, self.lead, self.uncertain_below = time_constant, lead, uncertain_below
        self.known: dict[int, _Known] = {}  # by identity

    def __call__(self, tracked: Sequence[TrackedFace], probabilities: np.ndarray, time_s: float) -> list[Face]:
        """Average the next frame's probabilities with those of the frames before.

        Args:
            tracked: The k faces of the frame.
            probabilities: float (k, emotions).
            time_s: The frame's time in seconds.

        Returns:
            The k faces with their averaged probabilities and steady labels.
        """
        self.known = {i: known for i, known in self.known.items() if 0 <= time_s - known.seen_s <= FORGET_AFTER}
        faces = []
        for (identity, box, roll), now in zip(tracked, probabilities, strict=True):
            before = self.known.get(identity)
            if before and self.time_constant > 0:
                weight = math.exp(-(time_s - before.seen_s) / self.time_constant)
                now = weight * before.probabilities + (1 - weight) * now
            known = self.known[identity] = self._labelled(now, before, time_s)
            faces.append(Face(identity, box, now, roll, known.shown, known.uncertain))
        return faces

    def _labelled(self, probabilities, before, time_s):
        """Return what is known of a face, with its label, after a frame."""
        best, limit = int(np.argmax(probabilities)), self.uncertain_below
        shown, best_since_s = best, time_s
        if before and self.lead:
            best_since_s = before.best_since_s if best == before.best else time_s
            if probabilities[best] - probabilities[before.shown] < self.lead and time_s - best_since_s < LEAD_TIME:
                shown = before.shown
            limit += CERTAIN_AGAIN * before.uncertain
        uncertain = bool(probabilities[shown] < limit)
        return _Known(probabilities, time_s, best, best_since_s, shown, uncertain)


class _Known(NamedTuple):
    """What a `Smoother` knows of a face."""

    probabilities: np.ndarray
    seen_s: float
    best: int
    best_since_s: float
    shown: int
    uncertain: bool


# ----------------------------------------------------------------------------------------------------------
# Geometry


def _rows(detections):
    """Return detections as a list of box, roll, confidence."""
    boxes, rolls, confidences = (column.tolist() for column in detections)
    return list(zip(map(tuple, boxes), rolls, confidences, strict=True))


def _distance(box, other):
    """Return how far apart two boxes are: between their centres, in widths of the larger, plus a measure of size."""
    (x, y, w, h), (u, v, s, t) = box, other
    return math.hypot(x + w / 2 - u - s / 2, y + h / 2 - v - t / 2) / max(w, s) + abs(math.log(w / s))


def _centred(box):
    """Return a box x, y, width, height as float (4,) with the centre's x, y."""
    x, y, w, h = box
    return np.array((x + w / 2, y + h / 2, w, h), float)


def _gain(cutoff, elapsed):
    """Return the share of the new value in a low-pass filter with a cutoff in Hz, after some seconds."""
    return 1 - np.exp(-2 * np.pi * cutoff * elapsed)
