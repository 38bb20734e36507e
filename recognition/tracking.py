"""Where the faces are: a Haar cascade finds them, and each is followed from one frame to the next.

    track, smooth = FaceTracker(FaceDetector(...)), Smoother(0.25)
    tracked = track(image, time_s)
    faces = smooth(tracked, classify(image, [face.box for face in tracked]), time_s)

Importing this module imports neither TensorFlow nor Keras.
"""

import math
from typing import NamedTuple

import numpy as np

NEAR_STAY = 0.1  # face sides: less than this moves no search, since every other grid finds a slightly other box

# The search in the whole frame, for new faces and lost ones. Seconds from one to the next; where nobody is known: none.
SEARCH_EVERY, SEARCH_EVERY_LOST = 0.25, 0.1

FORGET_AFTER = 1.0  # seconds out of sight after which nobody is known again
BRIDGE = 0.25  # seconds for which a face that is trusted is shown without being found
TRUST_TIME = 1.0  # seconds over which is averaged how often the whole-frame search finds a face
TRUSTED = 0.4  # share of these searches that must find it; lower: more true faces that flicker, and more false ones

# Steadiness, see `_Track`; found by trying: greater cutoffs follow faster, lower ones tremble less
CUTOFF = 1.0  # Hz, of a face that stands still
CUTOFF_PER_SPEED = 4.0  # Hz more for each face side per second
SPEED_CUTOFF = 1.0  # Hz, of the speed itself
DEAD_ZONE = 0.01  # face sides by which a box must change to be changed


class TrackedFace(NamedTuple):
    """Where a face is in a frame."""

    identity: int  # the same for as long as the face stays in sight, and never another's
    box: tuple[int, int, int, int]  # x, y, width, height in pixels


class FaceTracker:
    """Follows faces through a video: a call per frame gives each face's identity and a box that does not tremble.

    Most frames are searched near the known faces only, which takes about a tenth of the time per face. A whole-frame
    search now and then finds new faces and lost ones; what it seldom finds again is not shown, since it may be no face.

    Args:
        detect: a `FaceDetector`.
    """

    def __init__(self, detect):
        self.detect, self.count = detect, 0
        self.forget()

    def forget(self):
        """Start anew: what comes next has nothing to do with what was."""
        self.tracks, self.searched_s, self.time_s, self.shape = [], -math.inf, -math.inf, None

    def __call__(self, image, time_s):
        """The faces in the next frame.

        Args:
            image: uint8 (h, w, 3), BGR; another size starts anew.
            time_s: when it was taken, in seconds from anywhere; going back, as a looped clip does, starts anew.

        Returns:
            A list of `TrackedFace`, in the order in which they appeared.
        """
        if time_s < self.time_s or image.shape != self.shape:
            self.forget()
        self.time_s, self.shape = time_s, image.shape
        self.tracks = [track for track in self.tracks if time_s - track.seen_s <= FORGET_AFTER]
        recent = [track for track in self.tracks if time_s - track.seen_s <= BRIDGE]
        near = [box for track in recent for box in self.detect.near(image, track.place(time_s))]
        lost, taken = self._match(self.tracks, near, [])
        pause = (SEARCH_EVERY_LOST if lost else SEARCH_EVERY) if self.tracks else 0
        if time_s - self.searched_s >= pause:
            self.searched_s = time_s
            whole = self.detect(image)
            lost, taken = self._match(lost, whole, taken)
            for track in self.tracks:
                track.check(any(_same(track.at(time_s), box) for box in whole), time_s)
            for box in whole:
                if not any(_same(box, other) for other in taken):
                    self.tracks.append(_Track(self.count, box, time_s))
                    self.count += 1
                    taken.append(box)
        shown = [
            track
            for track in self.tracks
            if track.trust >= TRUSTED and (track not in lost or self._bridged(track, taken))
        ]
        return [TrackedFace(track.identity, track.box(time_s, image.shape)) for track in shown]

    def _match(self, tracks, boxes, taken):
        """Give boxes to tracks, nearest pairs first: (tracks left without, taken boxes)."""
        lost, taken = list(tracks), list(taken)
        # those seen last come first, so that who hides behind another does not take the other's box
        pairs = sorted(
            (-track.seen_s, _distance(track.at(self.time_s), box), track.identity, index)
            for track in tracks
            for index, box in enumerate(boxes)
        )
        by_identity = {track.identity: track for track in tracks}
        for _, distance, identity, index in pairs:
            track = by_identity[identity]
            if distance < 1 and track in lost and not any(_same(boxes[index], box) for box in taken):
                track.see(boxes[index], self.time_s)
                lost.remove(track)
                taken.append(boxes[index])
        return lost, taken

    def _bridged(self, track, taken):
        """Whether a face that was not found is shown where it should be: not for long, at the edge or on another."""
        x, y, w, h = box = track.at(self.time_s)
        height, width = self.shape[:2]
        inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
        long = self.time_s - track.seen_s > BRIDGE * min(1, 2 * (track.trust - TRUSTED))
        return inside and not long and not any(_same(box, other) for other in taken)


class _Track:
    """A face over time: where it is, how fast it moves, how sure it is.

    Source of the smoothing: Casiez, Roussel and Vogel, "1 Euro Filter" (2012): a low-pass whose cutoff rises with
    speed, so that what stands still is steady and what moves does not lag.
    """

    def __init__(self, identity, box, time_s):
        self.identity, self.seen_s, self.checked_s, self.trust = identity, time_s, time_s, TRUSTED
        self.found = self.steady = self.shown = _centred(box)  # float (4,): centre x, y, width, height
        self.speed = np.zeros(4)  # pixels per second
        self.searched = box  # where it was looked for last

    def at(self, time_s):
        """The box expected at a time: float x, y, width, height."""
        return self._moved(self.steady, time_s)

    def place(self, time_s):
        """The box near which to look for it."""
        expected = self.at(time_s)
        if _distance(expected, self.searched) > NEAR_STAY:
            self.searched = expected
        return self.searched

    def see(self, box, time_s):
        """It was found."""
        elapsed = max(time_s - self.seen_s, 1e-3)  # two frames of the same time happen
        before, self.found, self.seen_s = self.found, _centred(box), time_s
        self.speed = self.speed + _gain(SPEED_CUTOFF, elapsed) * ((self.found - before) / elapsed - self.speed)
        side = self.steady[2]
        cutoff = CUTOFF + CUTOFF_PER_SPEED * np.abs(self.speed) / side
        self.steady = self.steady + _gain(cutoff, elapsed) * (self.found - self.steady)
        self.shown = np.where(np.abs(self.steady - self.shown) > DEAD_ZONE * side, self.steady, self.shown)

    def check(self, found, time_s):
        """The whole frame was searched, and it was found there or not."""
        self.trust += (1 - math.exp(-(time_s - self.checked_s) / TRUST_TIME)) * (found - self.trust)
        self.checked_s = time_s

    def box(self, time_s, shape):
        """What is shown: int x, y, width, height, inside a frame of this shape."""
        x, y, w, h = (max(0, round(float(side))) for side in self._moved(self.shown, time_s))
        return x, y, min(w, shape[1] - x), min(h, shape[0] - y)

    def _moved(self, state, time_s):
        """A centred box as a box, moved on at the face's speed; what hides for long may have stopped."""
        x, y, w, h = state
        dx, dy = self.speed[:2] * min(time_s - self.seen_s, FORGET_AFTER / 2)
        return x + dx - w / 2, y + dy - h / 2, w, h


def still_faces(detect):
    """What stands for a `FaceTracker` with unconnected images: every face found, numbered from 0, left to right."""

    def track(image, time_s):
        boxes = sorted(tuple(int(side) for side in box) for box in detect(image))
        return [TrackedFace(number, box) for number, box in enumerate(boxes)]

    return track


class Face(NamedTuple):
    """A face in a frame, and what it shows."""

    identity: int  # see `TrackedFace`
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    probabilities: np.ndarray  # float (emotions,), averaged over time

    @property
    def best(self):
        """Number of the most probable emotion."""
        return int(np.argmax(self.probabilities))


class Smoother:
    """Averages each face's probabilities over time, by its identity.

    Args:
        time_constant: seconds after which an old expression has 1/e of its weight; 0 for no averaging.
    """

    def __init__(self, time_constant):
        self.time_constant, self.known = time_constant, {}

    def __call__(self, tracked, probabilities, time_s):
        """List of k `TrackedFace`, probabilities (k, emotions) and the frame's time in seconds -> list of k `Face`."""
        self.known = {i: known for i, known in self.known.items() if 0 <= time_s - known[1] <= FORGET_AFTER}
        faces = []
        for (identity, box), now in zip(tracked, probabilities, strict=True):
            if identity in self.known and self.time_constant > 0:
                before, seen_s = self.known[identity]
                weight = math.exp(-(time_s - seen_s) / self.time_constant)
                now = weight * before + (1 - weight) * now
            self.known[identity] = (now, time_s)
            faces.append(Face(identity, box, now))
        return faces


def _gain(cutoff, elapsed):
    """Share of the new in a low-pass with a cutoff in Hz, after some seconds."""
    return 1 - np.exp(-2 * np.pi * cutoff * elapsed)


def _centred(box):
    """x, y, width, height -> float (4,) with the centre's x, y."""
    x, y, w, h = box
    return np.array((x + w / 2, y + h / 2, w, h), float)


def _same(box, other):
    """Whether two boxes are around one face: they share more than half of the smaller."""
    return shared_area(box, other) > 0.5 * min(box[2] * box[3], other[2] * other[3])


def shared_area(box, other):
    """Area that two boxes share, in pixels."""
    (x, y, w, h), (u, v, s, t) = box, other
    return max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))


def _distance(box, other):
    """Between the centres of two boxes, in widths of the larger, plus how unlike their sizes are."""
    (x, y, w, h), (u, v, s, t) = box, other
    return math.hypot(x + w / 2 - u - s / 2, y + h / 2 - v - t / 2) / max(w, s) + abs(math.log(w / s))
