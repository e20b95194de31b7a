"""Search a video for faces, looking only where and when it must.

A whole frame is searched at the start of every shot, when a face is lost, while there is none, and every few seconds
for newcomers: at a reduced scale, which shows where to look closer, and at first unreduced as well. In between, the
detector looks at crops around the known faces, on key frames. Every box comes from such a crop, so none jumps when a
whole frame was searched. Between two key frames a face is followed by comparing pictures, which costs next to nothing;
where they cannot tell, the detector looks there and the interval is split. A face that moves evenly is left to
``tracking`` to interpolate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .detections import Detections, change_between, shrink
from .detector import Detector
from .detectors import NO_BOXES
from .geometry import intersection_over_union, scaled, unscaled
from .tracking import CUT_NEIGHBOURS, MIN_OVERLAP, find_cuts, match_score

HELD_BYTES = 240 << 20  # frames between two key frames
WHOLE_SIDE = 360  # pixels, shorter side of a frame searched whole; at 720p a face of 48 pixels still has 24
NEWCOMERS_SECONDS = 8.0  # between searches for faces beside the known ones
FACELESS_SECONDS = 0.5  # between searches while there is no face
CONTEXT = 2.6  # side of a crop, in sides of the face: less, and the border of the crop moves the box
SMALLEST = 4  # pixels, sides of a box that is worth a look
FADED = 0.3  # half octaves of a face's side, around a step of the scale, within which it is looked at before and after
CELL = 32  # pixels: crops lie on the grid of the network's strides, as they would in the whole frame
PATCH, MARGIN = 32, 8  # pixels: size at which pictures of a face are compared, and how far it may have moved
EVENLY = 0.02  # of the face's side: nearer to the interpolated place, the face need not be followed
DISCORD = 0.06  # of the face's side: if two comparisons differ by more, the detector has to look
GROWTH = 1.15  # between key frames; more, and comparing pictures of one size says nothing
LIKENESS = 0.5  # correlation; less, and the comparison says nothing
AGREEMENT = 0.9  # intersection over union of found and interpolated box that needs no further look


@dataclass
class Stretch:
    """Frames that follow each other without a cut."""

    frames: list[np.ndarray]
    change: list[float]
    thumbnail: np.ndarray  # of the last frame
    starts_shot: bool


def search(
    found: Detections, frames: Iterable[np.ndarray], detector: Detector, fps: float, batch_size: int = 16
) -> Iterator[int]:
    """Search ``frames`` (height, width, 3) BGR, the last of those in ``found`` and all after it.

    Yield how many were added each time. Then ``found`` is complete up to there and may be saved: whoever goes on from
    there later finds the same. ``batch_size`` is the largest number of crops in one call of the detector. Memory holds
    ``HELD_BYTES`` of frames, or ten of them, and ten more that tell where the next cut is.
    """
    searcher = Searcher(detector, fps, batch_size, *found.clocks)
    frames = iter(frames)
    last = next(frames, None) if found.boxes else None
    for stretch in stretches(found, frames, round(detector.KEY_SECONDS * fps)):
        if stretch.starts_shot or last is None:
            seen = searcher.search_stretch(stretch.frames, None)
        else:
            seen = searcher.search_stretch([last, *stretch.frames], found.boxes[-1])[1:]
        last = stretch.frames[-1]
        found.boxes += seen
        found.change += stretch.change
        found.thumbnail, found.clocks = stretch.thumbnail, (searcher.since_newcomers, searcher.since_native)
        del stretch  # or its frames would be kept until the next ones are all there
        yield len(seen)


def stretches(found: Detections, frames: Iterable[np.ndarray], longest: int) -> Iterator[Stretch]:
    """Cut ``frames`` into stretches of at most ``longest``, where ``find_cuts`` will cut them when all are known."""
    before = found.change[-CUT_NEIGHBOURS - 1 :]  # one more, because the first value of a video is not a difference
    thumbnail, starts_shot = found.thumbnail, not found.boxes
    held: list[tuple[np.ndarray, np.ndarray, float]] = []
    frames = iter(frames)
    if (first := next(frames, None)) is None:
        return
    longest = max(1, min(longest, max(10, HELD_BYTES // first.nbytes)))
    frames = itertools.chain([first], frames)
    while True:
        for frame in itertools.islice(frames, longest + CUT_NEIGHBOURS + 1 - len(held)):
            previous, thumbnail = thumbnail, shrink(frame)
            held.append((frame, thumbnail, change_between(previous, thumbnail)))
        if not held:
            return
        change = [c for _, _, c in held]
        cuts = [i - len(before) for i in find_cuts(np.array(before + change))]
        stop = min([longest, len(held), *(cut for cut in cuts if cut > 0)])
        yield Stretch([f for f, _, _ in held[:stop]], change[:stop], held[stop - 1][1], starts_shot or 0 in cuts)
        starts_shot = False
        before = (before + change[:stop])[-CUT_NEIGHBOURS - 1 :]
        del held[:stop]


class Look(NamedTuple):
    """A face that is looked for at one scale."""

    number: int  # of the request
    place: int  # of the box in it
    box: np.ndarray  # (5,) where it is expected
    weight: float  # of what is found, beside other scales
    scale: float
    picture: np.ndarray  # at that scale
    corner: np.ndarray  # x, y of the picture in the frame

    def found(self, boxes: np.ndarray) -> np.ndarray | None:
        """Return the best of the boxes (k, 6) in the picture that is about where it was expected, in the frame."""
        boxes = unscaled(boxes, self.scale).astype(float)
        boxes[:, :4] += np.tile(self.corner, 2)
        near = (box for box in boxes if intersection_over_union(box[:4], self.box[:4]) >= MIN_OVERLAP)
        return next(near, None)


@dataclass
class Searcher:
    """Looks at frames of one video with one detector."""

    detector: Detector
    fps: float
    batch_size: int
    since_newcomers: float  # frames since a whole frame was searched
    since_native: float  # frames since one was searched unreduced

    def search_stretch(self, frames: list[np.ndarray], known: np.ndarray | None) -> list[np.ndarray | None]:
        """Return for every frame of one shot the boxes (k, 6), or None where nobody looked.

        ``known`` are the boxes in the first frame, None if it has not been searched; the last one always is.
        """
        if known is None:
            self.since_native = math.inf
            known = self.search_whole(frames[0], NO_BOXES)
        seen = {0: known}
        here, last = 0, len(frames) - 1
        while here < last:
            step = last if len(seen[here]) else max(1, round(FACELESS_SECONDS * self.fps))
            there = min(last, here + step)
            self._pass_time(there - here)
            seen[there] = self._follow(frames[there], seen[here])
            self._refine(frames, seen, here, there)
            here = there
        return [seen.get(number) for number in range(len(frames))]

    def _pass_time(self, frames: int) -> None:
        self.since_newcomers += frames
        self.since_native += frames

    def _follow(self, frame: np.ndarray, known: np.ndarray) -> np.ndarray:
        due = self.since_newcomers >= NEWCOMERS_SECONDS * self.fps
        boxes = NO_BOXES if due else self._detect_in([(frame, known)])[0]
        return self.search_whole(frame, known) if len(boxes) < len(known) or not len(boxes) else boxes

    def search_whole(self, frame: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the boxes (k, 6) in a frame: at ``known`` places, and wherever a search of all of it finds one."""
        self.since_newcomers = 0
        old, new = self._detect_in([(frame, known), (frame, self._detect_whole(frame, self.since_native == math.inf))])
        new = [box for box in new if not any(is_same_face(box, other) for other in old)]
        certain = [box for box in new if box[4] >= self.detector.CERTAIN]
        # a false alarm would cost looks for as long as it comes and goes
        boxes = [*old, *self._seen_again(frame, certain)] or new
        if not boxes and self.since_native >= NEWCOMERS_SECONDS * self.fps:
            boxes = self._detect_in([(frame, self._detect_whole(frame, True))])[0]
        return _distinct(boxes)

    def _seen_again(self, frame: np.ndarray, boxes: list[np.ndarray]) -> list[np.ndarray]:
        """Return boxes that were found in crops by how large faces are in the whole frame, by how large they are there.

        At another scale a box is up to 5 % larger; what follows will look at the same one.
        """
        again = list(self._detect_in([(frame, np.array(boxes))])[0]) if boxes else boxes
        return again if len(again) == len(boxes) else boxes

    def _detect_whole(self, frame: np.ndarray, native: bool) -> np.ndarray:
        """Detect in the whole frame at a reduced scale, and if ``native`` unreduced as well: (k, 6)."""
        reduced = min(1.0, WHOLE_SIDE / min(frame.shape[:2]))
        if native:
            self.since_native = 0
        scales = (reduced, 1.0) if native and reduced < 1 else (reduced,)
        return np.concatenate([self._detect_at(frame, scale) for scale in scales])

    def _detect_at(self, frame: np.ndarray, scale: float) -> np.ndarray:
        boxes = unscaled(self.detector.detect([scaled(frame, scale)])[0], scale)
        middle, sides = (boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]
        inside = (middle >= 0) & (middle < frame.shape[1::-1])
        return boxes[(inside & (sides >= SMALLEST)).all(axis=1)]

    # ----------------------------------------------------------------------------------------------------------------
    # Between two key frames

    def _refine(self, frames: list[np.ndarray], seen: dict[int, np.ndarray], first: int, last: int) -> None:
        """Fill ``seen`` between two key frames where interpolation will not do."""
        intervals = [(first, last, False)]
        while intervals:
            requests = []
            for a, b, sure in intervals:
                boxes, doubt = between(frames[a : b + 1], seen[a], seen[b])
                if doubt is None or (sure and boxes is not None):
                    seen.update(zip(range(a + 1, b), boxes or ()))
                else:
                    guess = boxes[doubt] if boxes else expect(seen[a], seen[b], (doubt + 1) / (b - a))
                    requests.append((a, a + 1 + doubt, b, guess))
            looks = self._detect_in([(frames[frame], guess) for _, frame, _, guess in requests])
            intervals = []
            for (a, frame, b, guess), boxes in zip(requests, looks):
                seen[frame] = boxes
                sure = agree(guess, boxes)
                intervals += [(a, frame, sure), (frame, b, sure)]

    # ----------------------------------------------------------------------------------------------------------------
    # One look

    def _detect_in(self, requests: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """Frames with boxes (k, 6) where faces are expected -> the boxes (m, 6) found there, at most one for each."""
        looks = [
            Look(number, place, box, weight, scale, *self._crop(frame, box, scale))
            for number, (frame, boxes) in enumerate(requests)
            for place, box in enumerate(boxes)
            for scale, weight in self._scales(max(box[2] - box[0], box[3] - box[1]))
        ]
        seen: dict[tuple[int, int], list[tuple[float, np.ndarray]]] = {}
        looks.sort(key=lambda look: look.picture.shape)  # one call takes pictures of one size
        for _, same in itertools.groupby(looks, key=lambda look: look.picture.shape):
            while batch := list(itertools.islice(same, self.batch_size)):
                for look, boxes in zip(batch, self.detector.detect([look.picture for look in batch])):
                    if (box := look.found(boxes)) is not None:
                        seen.setdefault((look.number, look.place), []).append((look.weight, box))
        results: list[list[np.ndarray]] = [[] for _ in requests]
        for (number, _), found in seen.items():
            results[number].append(_mean(*map(np.array, zip(*found))))
        return [_distinct(boxes) for boxes in results]

    def _scales(self, side: float) -> list[tuple[float, float]]:
        """Return at which scales to look at a face of this side, and what each counts: it is ``FACE_SIDE`` or larger.

        In steps, as boxes are steadier so; but at two scales they differ by up to 5 %, so where one step ends, both are
        asked: else the box of a face that comes closer would jump, and that of one which stays there to and fro.
        """
        steps = 2 * math.log2(self.detector.FACE_SIDE / side)  # half octaves
        edge = round(steps)
        if edge >= 0 or abs(steps - edge) >= FADED / 2:
            return [(2 ** (min(0, math.ceil(steps)) / 2), 1.0)]
        larger = (steps - edge) / FADED + 0.5
        return [(2 ** ((edge + 1) / 2), larger), (2 ** (edge / 2), 1 - larger)]

    def _crop(self, frame: np.ndarray, box: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the surroundings of a face at this scale, and their corner in the frame."""
        side = max(box[2] - box[0], box[3] - box[1])
        reach = max(3, np.ceil(CONTEXT * side * scale / CELL)) * CELL / scale
        middle = (box[:2] + box[2:4]) / 2
        corner = np.round((middle - reach / 2) * scale / CELL) * CELL / scale
        limits = np.array(frame.shape[1::-1])
        (x1, y1), (x2, y2) = (np.clip(np.round(v), 0, limits).astype(int) for v in (corner, corner + reach))
        return scaled(frame[y1:y2, x1:x2], scale), np.array([x1, y1])


def _distinct(boxes: Iterable[np.ndarray]) -> np.ndarray:
    """Of boxes of one face, the best; best first."""
    kept: list[np.ndarray] = []
    for box in sorted(boxes, key=lambda box: -box[4]):
        if not any(is_same_face(box, other) for other in kept):
            kept.append(box)
    return _rows(kept)


def is_same_face(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes are of one face: one has its middle in the other, and no face is part of another."""

    def within(inner: np.ndarray, outer: np.ndarray) -> bool:
        middle = (inner[:2] + inner[2:4]) / 2
        return bool(((outer[:2] < middle) & (middle < outer[2:4])).all())

    return within(a, b) or within(b, a)


def pair(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Return which box (row) of ``a`` is which of ``b``, some frames later; best match first."""
    scores = {(i, j): match_score(x[:4], y[:4], 2) for i, x in enumerate(a) for j, y in enumerate(b)}
    pairs: list[tuple[int, int]] = []
    for (i, j), score in sorted(scores.items(), key=lambda item: -item[1]):
        if score > 0 and all(i != p and j != q for p, q in pairs):
            pairs.append((i, j))
    return pairs


def same_faces(a: np.ndarray, b: np.ndarray) -> bool:
    return len(pair(a, b)) == len(a) == len(b)


def expect(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Return the boxes (k, 6) at ``share`` of the way from ``a`` to ``b``; who is in only one of them stands still."""
    pairs = pair(a, b)
    between = [(1 - share) * a[i] + share * b[j] for i, j in pairs]
    alone = [box for n, box in enumerate(a) if n not in dict(pairs)]
    alone += [box for n, box in enumerate(b) if n not in {j for _, j in pairs}]
    return _rows(between + alone)


def _mean(weights: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the weighted mean of looks (n, 5 or 6) at one face; its last column, of those that know it."""
    mean = np.average(boxes, axis=0, weights=weights)
    known = ~np.isnan(boxes[:, -1])
    if known.any():
        mean[-1] = np.average(boxes[known, -1], weights=weights[known])
    return mean.astype(np.float32)


def _rows(boxes: list[np.ndarray]) -> np.ndarray:
    return np.array(boxes, np.float32) if boxes else NO_BOXES


def agree(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether every expected face was found, at its place."""
    best = [max((intersection_over_union(e[:4], f[:4]) for f in found), default=0.0) for e in expected]
    return all(overlap >= AGREEMENT for overlap in best)


def between(
    frames: Sequence[np.ndarray], first: np.ndarray, last: np.ndarray
) -> tuple[list[np.ndarray] | None, int | None]:
    """Follow the faces that are at ``first`` (k, 6) in the first frame and at ``last`` in the last through the others.

    Return the boxes in each of these, None if interpolating does as well or nothing can be said; and which of these
    frames the detector most needs to look at, None if none.
    """
    count = len(frames) - 2
    if count < 1 or not (len(first) or len(last)):
        return None, None
    if not same_faces(first, last):
        return None, count // 2  # somebody came or went
    pairs = [(first[i], last[j]) for i, j in pair(first, last)]
    moves, doubts = zip(*(_compare(frames, a[:4], b[:4]) for a, b in pairs))
    doubt = np.max(doubts, axis=0)
    unsure = int(doubt.argmax()) if doubt.max() > DISCORD else None
    if max(max(np.hypot(*move.T) / max(a[2:4] - a[:2])) for move, (a, _) in zip(moves, pairs)) < EVENLY:
        return None, unsure
    shares = (np.arange(count) + 1)[:, None] / (count + 1)
    tracks = [(1 - shares) * a + shares * b for a, b in pairs]
    for track, move in zip(tracks, moves):
        track[:, :4] += np.tile(move, 2)
    return list(np.stack(tracks, axis=1).astype(np.float32)), unsure


def _compare(frames: Sequence[np.ndarray], first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare a face, in every frame but the outer two, with how it looks in these.

    Return (n, 2) by how many pixels it is off its interpolated place, and (n,) the doubt in that: by how much the two
    comparisons differ, in sides of the face; 1 if the face is like neither.
    """
    ends = _patch(frames[0], first, 0), _patch(frames[-1], last, 0)
    count = len(frames) - 2
    moves, doubts = np.zeros((count, 2)), np.ones(count)
    for n in range(count):
        share = (n + 1) / (count + 1)
        box = (1 - share) * first + share * last
        window = _patch(frames[n + 1], box, MARGIN)
        looked_for = [(weight, _place(window, end)) for weight, end in zip((1 - share, share), ends)]
        found = [(weight, place) for weight, place in looked_for if place is not None]
        if found:
            weights, places = (np.array(part) for part in zip(*found))
            moves[n] = weights @ places / weights.sum() / PATCH * (box[2:] - box[:2])
            doubts[n] = np.hypot(*np.ptp(places, axis=0)) / PATCH
    sides = [max(box[2:] - box[:2]) for box in (first, last)]
    if max(sides) > GROWTH * min(sides):
        doubts[count // 2] = 1.0
    return moves, doubts


def _place(window: np.ndarray, patch: np.ndarray) -> np.ndarray | None:
    """Return how far right and down of the middle of ``window`` a patch is, in its pixels; None if it is not there."""
    correlation = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED)
    _, likeness, _, (x, y) = cv2.minMaxLoc(correlation)
    if likeness < LIKENESS or not (0 < x < 2 * MARGIN and 0 < y < 2 * MARGIN):
        return None
    across, down = correlation[y, x - 1 : x + 2], correlation[y - 1 : y + 2, x]
    return np.array([x + _peak(across), y + _peak(down)]) - MARGIN


def _peak(values: np.ndarray) -> float:
    """Where the parabola through three values, the highest in the middle, has its peak: -0.5 to 0.5."""
    left, middle, right = map(float, values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0


def _patch(frame: np.ndarray, box: np.ndarray, margin: int) -> np.ndarray:
    """Cut out a box and a margin; the box itself becomes ``PATCH`` pixels wide and high. Grey."""
    reach = (box[2:] - box[:2]) * margin / PATCH
    (x1, y1), (x2, y2) = np.round([box[:2] - reach, box[2:] + reach]).astype(int)
    height, width = frame.shape[:2]
    inside = frame[min(max(0, y1), height - 1) : max(1, y2), min(max(0, x1), width - 1) : max(1, x2)]
    outside = max(0, -y1), max(0, y2 - height), max(0, -x1), max(0, x2 - width)
    if any(outside):
        inside = cv2.copyMakeBorder(inside, *outside, cv2.BORDER_REPLICATE)
    size = PATCH + 2 * margin
    return cv2.cvtColor(cv2.resize(inside, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
