"""Search a video for faces, running the detector only where and when it is needed.

A whole frame is searched at the start of every shot, when a face is lost, while there is none, and every few seconds
for newcomers: at a reduced scale, which shows where to look closer, and in the first frame of a shot at full size as
well. On the key frames in between, the detector is run on crops around the known faces. Every box comes from such a
crop, so none jumps when a whole frame is searched. Between two key frames a face is followed by template matching,
which costs next to nothing; where that is inconclusive, the detector is run and the interval is split. A face that
moves evenly is left to ``tracking`` to interpolate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .cuts import CUT_NEIGHBOURS, LOOKAHEAD, RECENT, add_change, find_cuts
from .detections import Detections
from .detector import Detector
from .detectors import NO_BOXES
from .geometry import intersection_over_union, overlaps, scaled, unscaled
from .tracking import MIN_OVERLAP, best_pairs, match_scores

HELD_BYTES = 240 << 20  # of frames between two key frames
WHOLE_SIDE = 360  # pixels, shorter side of a frame searched whole; at 720p a face of 48 pixels still has 24
FULL_PIXELS = 2_200_000  # of a frame searched at full size; larger ones are reduced, S3FD needs 600 bytes a pixel
NEWCOMERS_SECONDS = 8.0  # between searches for faces beside the known ones
FIRST_NEWCOMERS_SECONDS = 2.5  # after the first face in a shot, before ``tracking.DECISION_GAPS`` are over
FACELESS_SECONDS = 0.5  # between searches while there is no face
CONTEXT = 2.6  # side of a crop, in sides of the face; with less, the border of the crop shifts the box
SMALLEST = 4  # pixels, shorter side of a box; smaller ones are ignored
SCALE_BLEND = 0.3  # half octaves of a face's side around a step of the scale, in which it is searched at both scales
CELL = 32  # pixels: crops are aligned to the grid of the network's strides, as if in the whole frame
PATCH, MARGIN = 32, 8  # pixels: size at which pictures of a face are matched, and how far it may have moved
MAX_DEVIATION = 0.02  # of the face's side: if it is nearer than this to its interpolated place, interpolation will do
MAX_DISAGREEMENT = 0.06  # of the face's side: if two matches differ by more, the detector is run
GROWTH = 1.15  # between key frames; if the face grows or shrinks more, matching at one size is unreliable
MIN_CORRELATION = 0.5  # correlation below which there is no match
AGREEMENT = 0.9  # intersection over union of found and interpolated box above which the interval is not split again


@dataclass
class Stretch:
    """Frames that follow each other without a cut."""

    frames: list[np.ndarray]
    change: list[float]
    thumbnails: list[np.ndarray]  # of the last frames
    starts_shot: bool


def search(
    found: Detections, frames: Iterable[np.ndarray], detector: Detector, fps: float, batch_size: int = 16
) -> Iterator[int]:
    """Search ``frames`` (height, width, 3) BGR: the last frame that ``found`` covers, if any, and all after it.

    Yields the number of frames added each time. At that point ``found`` may be saved; a search resumed from it gives
    the same results. ``batch_size`` is the largest number of crops in one call of the detector. Memory holds
    ``HELD_BYTES`` of frames, or ten frames if those are larger, and a dozen more to know where the next cut is.
    """
    searcher = Searcher(detector, fps, batch_size, *found.since_search)
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
        found.thumbnails, found.since_search = stretch.thumbnails, (searcher.since_newcomers, searcher.since_native)
        del stretch  # or its frames would be kept until the next stretch is complete
        yield len(seen)


def stretches(found: Detections, frames: Iterable[np.ndarray], longest: int) -> Iterator[Stretch]:
    """Split ``frames`` into stretches of at most ``longest`` and at the cuts ``find_cuts`` finds in the whole video."""
    before = found.change[-CUT_NEIGHBOURS - 1 :]  # one more, because the first value of a video is not a difference
    thumbnails, starts_shot = list(found.thumbnails), not found.boxes
    held: list[np.ndarray] = []
    change: list[float] = []  # of the frames held
    frames = iter(frames)
    if (first := next(frames, None)) is None:
        return
    longest = max(1, min(longest, max(10, HELD_BYTES // first.nbytes)))
    frames = itertools.chain([first], frames)
    while True:
        for frame in itertools.islice(frames, longest + LOOKAHEAD + 1 - len(held)):
            held.append(frame)
            add_change(change, thumbnails, frame)
        if not held:
            return
        cuts = [i - len(before) for i in find_cuts(np.array(before + change))]
        stop = min([longest, len(held), *(cut for cut in cuts if cut > 0)])
        known = len(thumbnails) - len(held) + stop
        recent = thumbnails[max(0, known - RECENT) : known]
        yield Stretch(held[:stop], change[:stop], recent, starts_shot or 0 in cuts)
        starts_shot = False
        before = (before + change[:stop])[-CUT_NEIGHBOURS - 1 :]
        del held[:stop], change[:stop], thumbnails[: max(0, known - RECENT)]


class FaceCrop(NamedTuple):
    """A crop, at one scale, in which a face is expected."""

    number: int  # index of the request
    place: int  # index of the box in the request
    box: np.ndarray  # (5 or 6,) where the face is expected
    weight: float  # of the result, against those at other scales
    scale: float
    picture: np.ndarray  # the crop, at that scale
    corner: np.ndarray  # x, y of the crop in the frame

    def best_match(self, boxes: np.ndarray) -> np.ndarray | None:
        """Return the one of the boxes (k, 6) that is at the expected place, in the frame's coordinates, or None.

        Not the best one near it, which would be the same for two faces that overlap.
        """
        boxes = unscaled(boxes, self.scale).astype(float)
        boxes[:, :4] += np.tile(self.corner, 2)
        overlap = overlaps(self.box[:4], boxes)
        return boxes[overlap.argmax()] if overlap.max(initial=0) >= MIN_OVERLAP else None


@dataclass
class Searcher:
    """Searches the frames of one video with one detector."""

    detector: Detector
    fps: float
    batch_size: int
    since_newcomers: float  # frames since a whole frame was searched
    since_native: float  # frames since one was searched at full size

    def search_stretch(self, frames: list[np.ndarray], known: np.ndarray | None) -> list[np.ndarray | None]:
        """Return for every frame of one shot the boxes (k, 6), or None for frames that were not searched.

        ``known`` are the boxes in the first frame, None if it has not been searched. The last frame is always searched.
        """
        if known is None:
            self.since_native = math.inf
            known = self.search_whole(frames[0], NO_BOXES)
        seen = {0: known}
        here, last = 0, len(frames) - 1
        while here < last:
            step = last if len(seen[here]) else max(1, round(FACELESS_SECONDS * self.fps))
            there = min(last, here + step)
            self.since_newcomers += there - here
            self.since_native += there - here
            seen[there] = self._follow(frames[there], seen[here])
            self._refine(frames, seen, here, there)
            here = there
        return [seen.get(number) for number in range(len(frames))]

    def _follow(self, frame: np.ndarray, known: np.ndarray) -> np.ndarray:
        due = self.since_newcomers >= NEWCOMERS_SECONDS * self.fps
        boxes = NO_BOXES if due else self._detect_in([(frame, known)])[0]
        return self.search_whole(frame, known) if len(boxes) < len(known) or not len(boxes) else boxes

    def search_whole(self, frame: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the boxes (k, 6) in a frame: near the ``known`` ones, and those that a search of the whole finds."""
        # who comes soon after the first face is wanted before that is chosen
        wait = NEWCOMERS_SECONDS if len(known) else FIRST_NEWCOMERS_SECONDS
        self.since_newcomers = max(0, NEWCOMERS_SECONDS - wait) * self.fps
        old, new = self._detect_in([(frame, known), (frame, self._detect_whole(frame, self.since_native == math.inf))])
        boxes = self._with_newcomers(frame, old, new)
        if not len(boxes) and self.since_native >= NEWCOMERS_SECONDS * self.fps:
            boxes = self._detect_in([(frame, self._detect_whole(frame, True))])[0]
        return boxes

    def _with_newcomers(self, frame: np.ndarray, known: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Return the boxes (k, 6) of known faces, and of those in ``whole``, found in the whole frame, that are new."""
        new = [box for box in whole if not any(is_same_face(box, other) for other in known)]
        # an uncertain newcomer may be a false alarm, which would cost extra detections whenever it comes and goes
        return _distinct([*known, *self._redetect(frame, [box for box in new if self._is_certain(box)])] or new)

    def _is_certain(self, box: np.ndarray) -> bool:
        return bool(box[4] >= self.detector.CERTAIN)

    def _redetect(self, frame: np.ndarray, boxes: list[np.ndarray]) -> list[np.ndarray]:
        """Detect again in crops sized by ``boxes``, which came from crops sized by a search of the whole frame.

        Boxes differ by up to 5 % between scales, and the next key frames use the scale that follows from these.
        """
        again = list(self._detect_in([(frame, np.array(boxes))])[0]) if boxes else boxes
        return again if len(again) == len(boxes) else boxes

    def _detect_whole(self, frame: np.ndarray, native: bool) -> np.ndarray:
        """Detect in the whole frame at a reduced scale, and if ``native`` at full size as well: (k, 6)."""
        height, width = frame.shape[:2]
        reduced, full = min(1.0, WHOLE_SIDE / min(height, width)), min(1.0, math.sqrt(FULL_PIXELS / (height * width)))
        if native:
            self.since_native = 0
        scales = (reduced, full) if native and reduced < full else (reduced,)
        return np.concatenate([self._detect_at(frame, scale) for scale in scales])

    def _detect_at(self, frame: np.ndarray, scale: float) -> np.ndarray:
        boxes = unscaled(self.detector.detect([scaled(frame, scale)])[0], scale)
        middle, sides = (boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]
        inside = (middle >= 0) & (middle < frame.shape[1::-1])
        return boxes[(inside & (sides >= SMALLEST)).all(axis=1)]

    # ----------------------------------------------------------------------------------------------------------------
    # Between two key frames

    def _refine(self, frames: list[np.ndarray], seen: dict[int, np.ndarray], first: int, last: int) -> None:
        """Fill ``seen`` between two key frames where interpolation is not good enough."""
        intervals = [(first, last, False)]
        while intervals:
            requests = []
            for a, b, sure in intervals:
                boxes, doubt = follow_between(frames[a : b + 1], seen[a], seen[b])
                if doubt is None or (sure and boxes is not None):
                    seen.update(zip(range(a + 1, b), boxes or ()))
                else:
                    guess = boxes[doubt] if boxes else expect(seen[a], seen[b], (doubt + 1) / (b - a))
                    requests.append((a, a + 1 + doubt, b, guess))
            results = self._detect_in([(frames[frame], guess) for _, frame, _, guess in requests])
            intervals = []
            for (a, frame, b, guess), boxes in zip(requests, results):
                if len(boxes) < max(sum(map(self._is_certain, seen[end])) for end in (a, b)):
                    # a face that moves far between the two is at neither of its places there
                    whole = self._detect_in([(frames[frame], self._detect_whole(frames[frame], False))])[0]
                    boxes = self._with_newcomers(frames[frame], boxes, whole)
                seen[frame] = boxes
                sure = agree(guess, boxes)
                intervals += [(a, frame, sure), (frame, b, sure)]

    # ----------------------------------------------------------------------------------------------------------------
    # Detecting in crops

    def _detect_in(self, requests: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """Frames with boxes (k, 6) where faces are expected -> the boxes (m, 6) found there, at most one per face."""
        crops = [
            FaceCrop(number, place, box, weight, scale, *self._crop(frame, box, scale))
            for number, (frame, boxes) in enumerate(requests)
            for place, box in enumerate(boxes)
            for scale, weight in self._scales(max(box[2] - box[0], box[3] - box[1]))
        ]
        seen: dict[tuple[int, int], list[tuple[float, np.ndarray]]] = {}
        crops.sort(key=lambda crop: crop.picture.shape)  # all pictures in one call must have the same size
        for _, same in itertools.groupby(crops, key=lambda crop: crop.picture.shape):
            while batch := list(itertools.islice(same, self.batch_size)):
                for crop, boxes in zip(batch, self.detector.detect([crop.picture for crop in batch])):
                    if (box := crop.best_match(boxes)) is not None:
                        seen.setdefault((crop.number, crop.place), []).append((crop.weight, box))
        results: list[list[np.ndarray]] = [[] for _ in requests]
        for (number, _), found in seen.items():
            results[number].append(_mean(*map(np.array, zip(*found))))
        return [_distinct(boxes) for boxes in results]

    def _scales(self, side: float) -> list[tuple[float, float]]:
        """Return the scales, at most 1, and weights that bring a face of this side to ``FACE_SIDE`` or a bit above.

        Scales are in steps of half an octave, which keeps boxes steady. But boxes differ by up to 5 % between two
        scales, so near a step both are used. Otherwise the box of an approaching face would jump, and that of a face
        whose size stays near the step would jump to and fro.
        """
        steps = 2 * math.log2(self.detector.FACE_SIDE / side)  # half octaves
        edge = round(steps)
        if edge >= 0 or abs(steps - edge) >= SCALE_BLEND / 2:
            return [(2 ** (min(0, math.ceil(steps)) / 2), 1.0)]
        larger = (steps - edge) / SCALE_BLEND + 0.5
        return [(2 ** ((edge + 1) / 2), larger), (2 ** (edge / 2), 1 - larger)]

    def _crop(self, frame: np.ndarray, box: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Return a crop around a face at this scale, and the x, y of its corner in the frame."""
        side = max(box[2] - box[0], box[3] - box[1])
        reach = max(3, np.ceil(CONTEXT * side * scale / CELL)) * CELL / scale
        middle = (box[:2] + box[2:4]) / 2
        corner = np.round((middle - reach / 2) * scale / CELL) * CELL / scale
        limits = np.array(frame.shape[1::-1])
        (x1, y1), (x2, y2) = (np.clip(np.round(v), 0, limits).astype(int) for v in (corner, corner + reach))
        return scaled(frame[y1:y2, x1:x2], scale), np.array([x1, y1])


def _distinct(boxes: Iterable[np.ndarray]) -> np.ndarray:
    """Return the boxes, best first, keeping only the best of each face."""
    kept: list[np.ndarray] = []
    for box in sorted(boxes, key=lambda box: -box[4]):
        if not any(is_same_face(box, other) for other in kept):
            kept.append(box)
    return _rows(kept)


def is_same_face(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes are of one face: the middle of one is inside the other, and faces do not contain faces."""

    def within(inner: np.ndarray, outer: np.ndarray) -> bool:
        middle = (inner[:2] + inner[2:4]) / 2
        return bool(((outer[:2] < middle) & (middle < outer[2:4])).all())

    return within(a, b) or within(b, a)


def pair(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Match the boxes (rows) of ``a`` to those of ``b``, some frames later; return index pairs, best match first."""
    return best_pairs(match_scores(b, a, 2).T)


def expect(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Interpolate boxes (k, 6) at ``share`` of the way from ``a`` to ``b``; a face in only one of them stands still."""
    pairs = pair(a, b)
    between = [(1 - share) * a[i] + share * b[j] for i, j in pairs]
    alone = [box for n, box in enumerate(a) if n not in dict(pairs)]
    alone += [box for n, box in enumerate(b) if n not in {j for _, j in pairs}]
    return _rows(between + alone)


def _mean(weights: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the weighted mean of boxes (n, 5 or 6) of one face; the last column over those where it is not NaN."""
    mean = np.average(boxes, axis=0, weights=weights)
    known = ~np.isnan(boxes[:, -1])
    if known.any():
        mean[-1] = np.average(boxes[known, -1], weights=weights[known])
    return mean.astype(np.float32)


def _rows(boxes: list[np.ndarray]) -> np.ndarray:
    return np.array(boxes, np.float32) if boxes else NO_BOXES


def agree(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether every expected face was found at its place."""
    best = [max((intersection_over_union(e[:4], f[:4]) for f in found), default=0.0) for e in expected]
    return all(overlap >= AGREEMENT for overlap in best)


def follow_between(
    frames: Sequence[np.ndarray], first: np.ndarray, last: np.ndarray
) -> tuple[list[np.ndarray] | None, int | None]:
    """Follow faces from ``first`` (k, 6), in the first frame, to ``last``, in the last, through the frames between.

    Return the boxes in each frame between, or None if interpolation does as well or they cannot be determined; and
    the index of the frame between that the detector most needs to search, or None if it need not search any.
    """
    count = len(frames) - 2
    if count < 1 or not (len(first) or len(last)):
        return None, None
    matched = pair(first, last)
    if not len(matched) == len(first) == len(last):
        return None, count // 2  # somebody came or went
    pairs = [(first[i], last[j]) for i, j in matched]
    moves, doubts = zip(*(_compare(frames, a[:4], b[:4]) for a, b in pairs))
    doubt = np.max(doubts, axis=0)
    unsure = int(doubt.argmax()) if doubt.max() > MAX_DISAGREEMENT else None
    if max(max(np.hypot(*move.T) / max(a[2:4] - a[:2])) for move, (a, _) in zip(moves, pairs)) < MAX_DEVIATION:
        return None, unsure
    shares = (np.arange(count) + 1)[:, None] / (count + 1)
    tracks = [(1 - shares) * a + shares * b for a, b in pairs]
    for track, move in zip(tracks, moves):
        track[:, :4] += np.tile(move, 2)
    return list(np.stack(tracks, axis=1).astype(np.float32)), unsure


def _compare(frames: Sequence[np.ndarray], first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match a face, in every frame but the outer two, with its patches in those two.

    Return (n, 2) its distance from the interpolated place in pixels, and (n,) the doubt in that: by how much the two
    matches differ, in sides of the face; 1 if neither patch matches.
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
    """Return how far right of and below the middle of ``window`` a patch is, in pixels; None if it does not match."""
    correlation = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED)
    _, likeness, _, (x, y) = cv2.minMaxLoc(correlation)
    if likeness < MIN_CORRELATION or not (0 < x < 2 * MARGIN and 0 < y < 2 * MARGIN):
        return None
    across, down = correlation[y, x - 1 : x + 2], correlation[y - 1 : y + 2, x]
    return np.array([x + _peak(across), y + _peak(down)]) - MARGIN


def _peak(values: np.ndarray) -> float:
    """Return where the parabola through three values, the highest in the middle, has its peak: -0.5 to 0.5."""
    left, middle, right = map(float, values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0


def _patch(frame: np.ndarray, box: np.ndarray, margin: int) -> np.ndarray:
    """Crop a box and a margin in grey, resized so that the box itself is ``PATCH`` pixels wide and high."""
    reach = (box[2:] - box[:2]) * margin / PATCH
    (x1, y1), (x2, y2) = np.round([box[:2] - reach, box[2:] + reach]).astype(int)
    height, width = frame.shape[:2]
    inside = frame[min(max(0, y1), height - 1) : max(1, y2), min(max(0, x1), width - 1) : max(1, x2)]
    outside = max(0, -y1), max(0, y2 - height), max(0, -x1), max(0, x2 - width)
    if any(outside):
        inside = cv2.copyMakeBorder(inside, *outside, cv2.BORDER_REPLICATE)
    size = PATCH + 2 * margin
    return cv2.cvtColor(cv2.resize(inside, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
