"""Search a video for faces, looking only where and when it must.

A whole frame is searched at the start of every shot, when a face is lost, while there is none, and every few seconds
for newcomers; first at a reduced scale, which shows where to look closer. In between, the detector looks at crops
around the known faces, on key frames. Every box comes from such a crop, so none jumps when a whole frame was searched.
Between two key frames a cheap comparison of pictures tells whether interpolating would do; where it would not, the
interval is split. What remains is left to ``tracking`` to interpolate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from .detections import Detections, change_between, shrink
from .detectors import NO_BOXES, Detector
from .tracking import CUT_NEIGHBOURS, MIN_OVERLAP, find_cuts, intersection_over_union, match_score

HELD_BYTES = 160 << 20  # frames between two key frames
WHOLE_SIDE = 360  # pixels, shorter side of a frame searched whole; at 720p a face of 48 pixels still has 24
NEWCOMERS_SECONDS = 5.0  # between searches for faces beside the known ones
FACELESS_SECONDS = 0.5  # between searches while there is no face
CONTEXT = 2.6  # side of a crop, in sides of the face: less, and the border of the crop moves the box
SMALLEST = 4  # pixels, sides of a box that is worth a look
CELL = 32  # pixels: crops lie on the grid of the network's strides, as they would in the whole frame
PATCH, MARGIN = 32, 8  # pixels: size at which pictures of a face are compared, and how far it may have moved
DRIFT = 0.06  # of the face's side: farther from the interpolated place, and the detector has to look
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
    """Search ``frames`` (height, width, 3) BGR that follow those in ``found``; yield how many were added each time.

    Whenever this yields, ``found`` is complete up to there and may be saved. ``batch_size`` is the largest number of
    crops in one call of the detector. Memory holds ``HELD_BYTES`` of frames, or ten of them.
    """
    searcher = Searcher(detector, fps, batch_size)
    last: np.ndarray | None = None
    for stretch in stretches(found, frames, round(detector.KEY_SECONDS * fps)):
        if stretch.starts_shot or last is None:
            seen = searcher.search_stretch(stretch.frames, None)
        else:
            seen = searcher.search_stretch([last, *stretch.frames], found.boxes[-1])[1:]
        last = stretch.frames[-1]
        found.boxes += seen
        found.change += stretch.change
        found.thumbnail = stretch.thumbnail
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


@dataclass
class Searcher:
    """Looks at frames of one video with one detector."""

    detector: Detector
    fps: float
    batch_size: int
    since_newcomers: int = field(default=0, init=False)  # frames
    since_native: int | None = field(default=None, init=False)  # frames since a whole frame was searched unreduced

    def search_stretch(self, frames: list[np.ndarray], known: np.ndarray | None) -> list[np.ndarray | None]:
        """Return for every frame of one shot the boxes (k, 5), or None where nobody looked.

        ``known`` are the boxes in the first frame, None if it has not been searched; the last one always is.
        """
        seen: list[np.ndarray | None] = [None] * len(frames)
        if known is None:
            self.since_native = None
            known = self.search_whole(frames[0], NO_BOXES)
        seen[0] = known
        here, last = 0, len(frames) - 1
        while here < last:
            step = last if len(seen[here]) else max(1, round(FACELESS_SECONDS * self.fps))
            there = min(last, here + step)
            self._pass_time(there - here)
            seen[there] = self._follow(frames[there], seen[here])
            self._refine(frames, seen, here, there)
            here = there
        return seen

    def _pass_time(self, frames: int) -> None:
        self.since_newcomers += frames
        if self.since_native is not None:
            self.since_native += frames

    def _follow(self, frame: np.ndarray, known: np.ndarray) -> np.ndarray:
        due = self.since_newcomers >= NEWCOMERS_SECONDS * self.fps
        boxes = NO_BOXES if due else self.look([(frame, known)])[0]
        return self.search_whole(frame, known) if len(boxes) < len(known) or not len(boxes) else boxes

    def search_whole(self, frame: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the boxes (k, 5) in a frame: at ``known`` places, and wherever a search of all of it finds one."""
        self.since_newcomers = 0
        scale = min(1.0, WHOLE_SIDE / min(frame.shape[:2]))
        boxes = self.look([(frame, np.concatenate((known, self._detect_whole(frame, scale))))])[0]
        overdue = self.since_native is None or self.since_native >= NEWCOMERS_SECONDS * self.fps
        if not len(boxes) and scale < 1 and overdue:
            self.since_native = 0
            boxes = self.look([(frame, self._detect_whole(frame, 1.0))])[0]
        return boxes

    def _detect_whole(self, frame: np.ndarray, scale: float) -> np.ndarray:
        boxes = self.detector.detect([_resized(frame, scale)])[0] / np.array([scale] * 4 + [1], np.float32)
        middle, sides = (boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]
        inside = (middle >= 0) & (middle < frame.shape[1::-1])
        return boxes[(inside & (sides >= SMALLEST)).all(axis=1)]

    # ----------------------------------------------------------------------------------------------------------------
    # Between two key frames

    def _refine(self, frames: list[np.ndarray], seen: list[np.ndarray | None], first: int, last: int) -> None:
        """Look at frames between two key frames until interpolation will do for the others."""
        intervals = [(first, last)]
        while intervals:
            doubts = [(a, self._doubt(frames, seen, a, b), b) for a, b in intervals]
            doubts = [(a, frame, b) for a, frame, b in doubts if frame is not None]
            expected = [expect(seen[a], seen[b], (frame - a) / (b - a)) for a, frame, b in doubts]
            looks = self.look([(frames[frame], boxes) for (_, frame, _), boxes in zip(doubts, expected)])
            intervals = []
            for (a, frame, b), boxes, guess in zip(doubts, looks, expected):
                seen[frame] = boxes
                if not (same_faces(seen[a], seen[b]) and agree(guess, boxes)):
                    intervals += [(a, frame), (frame, b)]

    def _doubt(self, frames: list[np.ndarray], seen: list[np.ndarray | None], a: int, b: int) -> int | None:
        """Return the frame between ``a`` and ``b`` that most needs a look, None if none does."""
        if b - a < 2 or not (len(seen[a]) or len(seen[b])):
            return None
        if not same_faces(seen[a], seen[b]):
            return (a + b) // 2  # somebody came or went
        pairs = pair(seen[a], seen[b])
        drift = np.max([_drift(frames[a : b + 1], seen[a][i, :4], seen[b][j, :4]) for i, j in pairs], axis=0)
        return a + 1 + int(drift.argmax()) if drift.max() > DRIFT else None

    # ----------------------------------------------------------------------------------------------------------------
    # One look

    def look(self, requests: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """Frames with boxes (k, 5) where faces are expected -> the boxes (m, 5) found there, at most one for each."""
        crops = [
            (number, box, *self._crop(frame, box)) for number, (frame, boxes) in enumerate(requests) for box in boxes
        ]
        results: list[list[np.ndarray]] = [[] for _ in requests]
        crops.sort(key=lambda crop: crop[2].shape)  # one call takes pictures of one size
        for _, same in itertools.groupby(crops, key=lambda crop: crop[2].shape):
            while batch := list(itertools.islice(same, self.batch_size)):
                detections = self.detector.detect([picture for _, _, picture, _, _ in batch])
                for (number, box, _, corner, scale), boxes in zip(batch, detections):
                    boxes = boxes / np.array([scale] * 4 + [1], np.float32) + np.array(
                        [*corner, *corner, 0], np.float32
                    )
                    results[number] += [b for b in boxes if intersection_over_union(b[:4], box[:4]) >= MIN_OVERLAP][:1]
        return [_distinct(boxes) for boxes in results]

    def _crop(self, frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the surroundings of a face, its own size near ``FACE_SIDE``, their corner in the frame, the scale."""
        side = max(box[2] - box[0], box[3] - box[1])
        scale = float(2 ** min(0, round(2 * np.log2(self.detector.FACE_SIDE / side)) / 2))  # steps: boxes are steadier
        reach = max(3, np.ceil(CONTEXT * side * scale / CELL)) * CELL / scale
        middle = (box[:2] + box[2:4]) / 2
        corner = np.round((middle - reach / 2) * scale / CELL) * CELL / scale
        limits = np.array(frame.shape[1::-1])
        (x1, y1), (x2, y2) = (np.clip(np.round(v), 0, limits).astype(int) for v in (corner, corner + reach))
        return _resized(frame[y1:y2, x1:x2], scale), np.array([x1, y1]), scale


def _resized(picture: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return np.ascontiguousarray(picture)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _distinct(boxes: list[np.ndarray]) -> np.ndarray:
    """Of boxes around the same face, the best; best first."""
    kept: list[np.ndarray] = []
    for box in sorted(boxes, key=lambda box: -box[4]):
        if all(intersection_over_union(box[:4], other[:4]) < 0.5 for other in kept):
            kept.append(box)
    return np.array(kept, np.float32).reshape(-1, 5)


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
    """Return the boxes (k, 5) at ``share`` of the way from ``a`` to ``b``; who is in only one of them stands still."""
    pairs = pair(a, b)
    between = [(1 - share) * a[i] + share * b[j] for i, j in pairs]
    alone = [box for n, box in enumerate(a) if n not in dict(pairs)]
    alone += [box for n, box in enumerate(b) if n not in {j for _, j in pairs}]
    return np.array(between + alone, np.float32).reshape(-1, 5)


def agree(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether every expected face was found, at its place."""
    best = [max((intersection_over_union(e[:4], f[:4]) for f in found), default=0.0) for e in expected]
    return all(overlap >= AGREEMENT for overlap in best)


def _drift(frames: Sequence[np.ndarray], first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Estimate how far a face is from the interpolated box, in sides of it, in every frame but the outer two.

    The face as it looks in the nearer outer frame is searched for around the expected place.
    """
    ends = _patch(frames[0], first, 0), _patch(frames[-1], last, 0)
    span = len(frames) - 1
    drift = np.zeros(span - 1)
    for n in range(1, span):
        share = n / span
        window = _patch(frames[n], (1 - share) * first + share * last, MARGIN)
        correlation = cv2.matchTemplate(window, ends[round(share)], cv2.TM_CCOEFF_NORMED)
        _, likeness, _, place = cv2.minMaxLoc(correlation)
        drift[n - 1] = np.hypot(place[0] - MARGIN, place[1] - MARGIN) / PATCH if likeness > LIKENESS else 1.0
    return drift


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
