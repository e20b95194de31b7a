"""From many detections to one steady box per frame: link tracks, choose a person, fill gaps, smooth.

All of this keeps pace with the search: a box is returned as soon as no later detection can change it.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from .cuts import LOOKAHEAD, cuts_between, find_cuts
from .detections import Detections
from .geometry import is_same_place, overlaps

MIN_OVERLAP = 0.2  # intersection over union that links a box to a track
MAX_SEARCH = 0.7  # after a gap: largest distance of centres, in box sizes, that links
MIN_DETECTIONS = 3  # tracks with fewer are false alarms
MIN_TRACK_SHARE = 0.25  # of the longest track: shorter ones are not chosen, however large
MIN_FACE_SHARE = 0.1  # of the longest track: longer tracks are not false alarms, however short
GAP_SECONDS = 0.5  # of video
DECISION_GAPS = 6  # such gaps, 3 s: a person visible this long, without a rival, is the one to follow in the shot
# Distances of the eyes, see ``Detector``, at which a face turns to profile, and turns back again. In profile only
# half the mouth is visible, and a whole mouth would be drawn on the cheek. Measured: facing the camera 0.39 to 0.5,
# three-quarter 0.2 to 0.4, near profile 0.11 to 0.19 (highest in small faces), profile up to 0.05; detections of the
# same face differ by 0.03.
PROFILE, TURNED_BACK = 0.18, 0.21
MAX_GROWTH = 1.8  # ratio of widths: no face grows or shrinks by so much within a gap
SMOOTHING = 5  # frames in the moving average, as in the reference


def gap_of(fps: Fraction | float) -> int:
    """Return how many frames a person may be out of sight; a face seen after a longer gap may be somebody else."""
    return round(GAP_SECONDS * fps)


@dataclass
class Track:
    """One face through one shot."""

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)  # x1, y1, x2, y2
    facing: list[bool] = field(default_factory=list)  # not in profile, as far as is known
    eyes: float = math.nan  # last known distance of the eyes, see ``Detector``

    def add(self, frame: int, box: np.ndarray, eyes: float) -> None:
        """Add the next frame that shows the face; if ``eyes`` is NaN (unknown), the last known value is kept."""
        self.eyes = self.eyes if math.isnan(eyes) else eyes
        faced = not self.facing or self.facing[-1]
        turned = self.eyes < PROFILE if faced else not self.eyes > TURNED_BACK
        self.frames.append(frame)
        self.boxes.append(box)
        self.facing.append(not turned)

    @property
    def area(self) -> float:
        """Square pixels, median over time."""
        return float(np.median([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in self.boxes]))

    def shown(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the frames in ``start`` to ``stop`` (exclusive) that show the face, not in profile, and its boxes."""
        part = slice(*(bisect_left(self.frames, frame) for frame in (start, stop)))
        facing = np.array(self.facing[part], bool)
        return np.array(self.frames[part], int)[facing], np.reshape(self.boxes[part], (-1, 4))[facing]


def follow_face(
    found: Detections, max_gap: int, face_index: int | None = None, smooth: bool = True, fill: bool = True
) -> np.ndarray:
    """Return (frames, 4) float64 x1, y1, x2, y2 of one person, NaN where there is no face, or one in profile.

    In every shot the largest face is followed, or with ``face_index`` the one at this place from left to right when
    the faces of the shot first appear. Without ``face_index``, a person visible for ``DECISION_GAPS`` times ``max_gap``
    frames without a rival is followed to the end of the shot, even if a larger face comes later. Frames that were not
    searched are interpolated, however many; ``fill`` also fills gaps of up to ``max_gap`` searched frames in which
    the face was missed. ``smooth`` averages over ``SMOOTHING`` frames, centred, never across cuts or gaps.
    """
    steady = BoxSmoother(max_gap, smooth, fill)
    pieces = (steady.add(*piece) for piece in settle([found], max_gap, face_index))
    return np.concatenate([np.empty((0, 4)), *pieces])


def settle(
    seen: Iterable[Detections], max_gap: int, face_index: int | None = None
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the boxes (n, 4) of the person of ``follow_face`` in the next n frames as soon as they are certain.

    Each comes with whether a shot ends there. ``seen`` yields the detections so far each time there are more; the
    result does not depend on how many pieces they come in.
    """
    shot, start = Shot(max_gap, face_index), 0
    for found, stop in _up_to_where_cuts_are_known(seen):
        for cut in cuts_between(found.change, start, stop):
            shot.add(found.boxes[start:cut])
            yield shot.rest(), True
            shot, start = Shot(max_gap, face_index), cut
        shot.add(found.boxes[start:stop])
        start = stop
        yield shot.settled(), False
    yield shot.rest(), True


def _up_to_where_cuts_are_known(seen: Iterable[Detections]) -> Iterator[tuple[Detections, int]]:
    """Yield the detections, and the number of frames in which the cuts are final, whatever frames follow."""
    found = Detections()
    for found in seen:
        yield found, max(0, len(found) - LOOKAHEAD)
    yield found, len(found)


@dataclass
class BoxSmoother:
    """Fills gaps and smooths boxes that arrive in pieces, holding back those that later ones may change."""

    max_gap: int
    smooth: bool = True
    fill: bool = True
    buffer: np.ndarray = field(default_factory=lambda: np.empty((0, 4)), init=False)  # as detected, of one shot
    returned: int = field(default=0, init=False)  # rows of ``buffer`` already returned, kept as context for later ones

    def add(self, rows: np.ndarray, shot_ends: bool) -> np.ndarray:
        """Add boxes (n, 4), NaN where there is no face; return those that are final, (m, 4)."""
        self.buffer = np.concatenate((self.buffer, rows))
        boxes = self.buffer.copy()
        if self.fill:
            fill_gaps(boxes, self.max_gap)
        if self.smooth:
            smooth_boxes(boxes)
        stop = len(boxes) if shot_ends else max(self.returned, self._certain())
        ready = boxes[self.returned : stop]
        first = len(boxes) if shot_ends else max(0, stop - self.max_gap - SMOOTHING)
        self.buffer, self.returned = self.buffer[first:], stop - first
        return ready

    def _certain(self) -> int:
        """Return how many rows of ``buffer`` stay as they are, whatever follows in this shot."""
        known = np.flatnonzero(~np.isnan(self.buffer[:, 0]))
        if not len(known) or len(self.buffer) - known[-1] - 1 > self.max_gap:
            return len(self.buffer)
        return int(known[-1]) + 1 - SMOOTHING // 2


def follow_faces(found: Detections, max_gap: int) -> list[np.ndarray]:
    """Return the detected boxes of every face, each (frames, 4) x1, y1, x2, y2, NaN where it is absent or in profile.

    Faces are ordered from left to right as they first appear; faces in profile throughout are left out. Nothing is
    filled in or smoothed. Faces are not recognised across cuts: the n-th face of a shot continues the n-th of the shot
    before. Tracks shorter than ``max_gap`` frames and ``MIN_FACE_SHARE`` of the longest are left out as false alarms.
    """
    per_shot = [(first, link_tracks(found.boxes[first:stop], max_gap)) for first, stop in shots(found)]
    longest = max((len(track.frames) for _, tracks in per_shot for track in tracks), default=0)
    faces: list[np.ndarray] = []
    for first, tracks in per_shot:
        tracks = _lasting(tracks, max_gap, longest)
        for n in itertools.count():
            if not tracks:
                break
            if n == len(faces):
                faces.append(np.full((len(found), 4), np.nan))
            person = choose_person(tracks, max_gap, 0)
            for track in person:
                frames, boxes = track.shown(0, len(found))
                faces[n][first + frames] = boxes
            tracks = [track for track in tracks if all(track is not chosen for chosen in person)]
    return [face for face in faces if not np.isnan(face).all()]


def max_simultaneous_faces(found: Detections, max_gap: int) -> int:
    """Return the largest number of faces visible at a time; every ``face_index`` below it selects one."""
    per_shot = (link_tracks(found.boxes[a:b], max_gap) for a, b in shots(found))
    return max((len(_largest_group(tracks, max_gap)) for tracks in per_shot), default=0)


def shows_profiles(found: Detections) -> bool:
    """Whether any face was detected in profile."""
    return any((boxes[:, 5:] < PROFILE).any() for boxes in found.boxes if boxes is not None)


def shots(found: Detections) -> list[tuple[int, int]]:
    """Return the first frame and the frame after the last of every shot."""
    starts = [0, *find_cuts(np.array(found.change)), len(found)]
    return list(zip(starts, starts[1:]))


def link_tracks(boxes: list[np.ndarray | None], max_gap: int) -> list[Track]:
    """Link the detections of one shot into tracks in order of appearance; drop false alarms. See ``Linking``."""
    linking = Linking(max_gap)
    for detections in boxes:
        linking.add(detections)
    return linking.faces()


@dataclass
class Linking:
    """Links the detections of one shot, frame by frame, nearest first, into tracks in order of appearance.

    A detection continues a track that it overlaps; after a gap the face may have moved. Frames in between that were
    not searched (None) are interpolated.
    """

    max_gap: int
    tracks: list[Track] = field(default_factory=list, init=False)
    frames: int = field(default=0, init=False)  # number of frames added
    last_searched: int = field(default=-1, init=False)  # the last of them that was searched
    _alive: list[Track] = field(default_factory=list, init=False)  # tracks that may go on; the others never will

    def add(self, detections: np.ndarray | None) -> None:
        """Add the detections (k, 5 or 6) in the next frame."""
        frame = self.frames
        self.frames += 1
        if detections is None:
            return
        boxes = detections[:, :4].astype(np.float64)
        eyes = detections[:, 5] if detections.shape[1] > 5 else np.full(len(boxes), np.nan)
        going_on = self._alive = [track for track in self._alive if self._goes_on(track, frame)]
        last = np.reshape([track.boxes[-1] for track in going_on], (-1, 4))
        scores = match_scores(boxes, last, np.array([frame - track.frames[-1] for track in going_on], int))
        before = dict(best_pairs(scores))  # the track of each detection
        for d, box in enumerate(boxes):
            if d in before:
                track = going_on[before[d]]
                _continue_track(track, frame, box, float(eyes[d]), track.frames[-1] == self.last_searched)
            else:
                track = Track()
                track.add(frame, box, float(eyes[d]))
                self.tracks.append(track)
                self._alive.append(track)
        self.last_searched = frame

    def _goes_on(self, track: Track, frame: int) -> bool:
        gap = frame - track.frames[-1]
        return track.frames[-1] == self.last_searched or gap <= max(self.max_gap, 1) * 2

    def may_go_on(self, track: Track) -> bool:
        """Whether a detection in the next frame could continue the track."""
        return self._goes_on(track, self.frames)

    def going_on(self) -> list[Track]:
        """Return the tracks that ``may_go_on``."""
        return [track for track in self._alive if self.may_go_on(track)]

    def faces(self) -> list[Track]:
        """Return the tracks that are not false alarms."""
        return [track for track in self.tracks if len(track.frames) >= min(MIN_DETECTIONS, self.frames)]


def _continue_track(track: Track, frame: int, box: np.ndarray, eyes: float, unbroken: bool) -> None:
    """Append a box; if ``unbroken``, also the frames skipped before it, interpolated."""
    old_frame, old_box, old_eyes = track.frames[-1], track.boxes[-1], track.eyes
    for between in range(old_frame + 1, frame) if unbroken else ():
        share = (between - old_frame) / (frame - old_frame)
        track.add(between, (1 - share) * old_box + share * box, (1 - share) * old_eyes + share * eyes)
    track.add(frame, box, eyes)


def match_scores(new: np.ndarray, old: np.ndarray, gaps: np.ndarray | int) -> np.ndarray:
    """Return how well each of the boxes ``new`` (n, 4) continues each of the ``old`` ones (m, 4), (n, m).

    ``gaps``, (m,) or one for all, is how many frames lie between. 0 or less means not at all.
    """
    overlap = np.array([overlaps(box, old) for box in new]).reshape(len(new), len(old))
    size = np.sqrt((old[:, 2] - old[:, 0]) * (old[:, 3] - old[:, 1]))
    apart = (old[:, :2] + old[:, 2:4])[None] - (new[:, :2] + new[:, 2:4])[:, None]
    distance = np.linalg.norm(apart / 2, axis=-1) / size
    moved = np.where(np.asarray(gaps) == 1, 0.0, MIN_OVERLAP * (1 - distance / MAX_SEARCH))
    return np.where(overlap >= MIN_OVERLAP, overlap, moved)


def best_pairs(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pair rows with columns by their positive scores, the highest first, each with one at most."""
    order = np.argsort(-scores, axis=None, kind="stable")
    places = np.unravel_index(order[scores.ravel()[order] > 0], scores.shape)
    rows, columns = set[int](), set[int]()
    pairs = []
    for row, column in zip(*(each.tolist() for each in places)):
        if row not in rows and column not in columns:
            pairs.append((row, column))
            rows.add(row)
            columns.add(column)
    return pairs


def choose_person(tracks: list[Track], max_gap: int, face_index: int | None) -> list[Track]:
    """Return the tracks of one person in a shot: the chosen one, and later or earlier ones that never coexist with it.

    A face that was visible together with the chosen one is always treated as somebody else, and a track belongs to one
    ``face_index`` at most, the lowest.
    """
    if not tracks:
        return []
    if face_index is None:
        lasting = max(len(track.frames) for track in tracks) * MIN_TRACK_SHARE
        return _join_tracks(max((t for t in tracks if len(t.frames) >= lasting), key=lambda t: t.area), tracks, tracks)
    free = tracks
    for n, chosen in enumerate(_largest_group(tracks, max_gap)):
        person = _join_tracks(chosen, free, tracks)
        if n == face_index:
            return person
        free = [track for track in free if all(track is not taken for taken in person)]
    return []  # this shot does not show the person; better no face than the wrong one


def _join_tracks(chosen: Track, free: list[Track], everybody: list[Track]) -> list[Track]:
    """Return the chosen track and those of the ``free`` ones that may be of the same person."""
    person = [chosen]
    others = [track for track in everybody if track is not chosen and _coexist(track, chosen)]
    for track in sorted(free, key=lambda track: -len(track.frames)):
        if not any(_coexist(track, t) for t in person) and not any(_same_place(track, o) for o in others):
            person.append(track)
    return person


class Shot:
    """The faces in one shot, as far as it has been searched, and which of them is followed.

    Tracks are added to the person one by one, the longest first, as ``choose_person`` would at the end of the shot. A
    track is added once it has ended or lasts ``DECISION_GAPS``, and every track that could take its place is certain to
    be shorter.
    """

    def __init__(self, max_gap: int, face_index: int | None) -> None:
        self._linking, self._index = Linking(max_gap), face_index
        self._decision_frames = DECISION_GAPS * max(max_gap, 1)  # frames
        self._person: list[Track] = []  # the chosen one first
        self._others: list[Track] = []  # tracks that coexist with the chosen one
        self._pending: list[Track] = []  # tracks that may still be added to the person
        self._returned = 0  # frames returned so far

    def add(self, boxes: list[np.ndarray | None]) -> None:
        """Add the detections in the next frames."""
        for detections in boxes:
            known = len(self._linking.tracks)
            self._linking.add(detections)
            self._pending += self._linking.tracks[known:]
            if detections is not None and self._index is None:
                self._decide()

    def settled(self) -> np.ndarray:
        """Return the person's boxes (n, 4) in the next frames, as far as they are certain."""
        starts = [track.frames[0] for track in self._pending]
        ends = [track.frames[-1] + 1 for track in self._person if self._linking.may_go_on(track)]
        return self._rows(min([self._linking.frames, *starts, *ends]))

    def rest(self) -> np.ndarray:
        """Return the person's boxes in all remaining frames; the shot is over."""
        if self._person:
            self._join(over=True)
        else:
            self._person = choose_person(self._linking.faces(), self._linking.max_gap, self._index)
        return self._rows(self._linking.frames)

    def _rows(self, stop: int) -> np.ndarray:
        rows = np.full((stop - self._returned, 4), np.nan)
        for track in self._person:
            frames, boxes = track.shown(self._returned, stop)
            rows[frames - self._returned] = boxes
        self._returned = stop
        return rows

    def _decide(self) -> None:
        if not self._person:
            if len(self._linking.going_on()) > 1:
                return  # either may become the larger one; what has ended need not be looked at
            # drop false alarms that have ended; otherwise this would get slower with every one of them
            self._pending = [
                track
                for track in self._pending
                if len(track.frames) >= MIN_DETECTIONS or self._linking.may_go_on(track)
            ]
        if not self._person and self._pending:
            longest = max(self._pending, key=lambda track: len(track.frames))
            if len(longest.frames) >= self._decision_frames and not self._has_rivals(longest):
                self._person = [longest]
                self._pending = [track for track in self._pending if track is not longest]
        if self._person:
            self._join(over=False)

    def _has_rivals(self, longest: Track) -> bool:
        """Whether two lasting faces coexist, or may yet, so that the larger one would have to be chosen."""
        lasting = len(longest.frames) * MIN_TRACK_SHARE
        asked = [track for track in self._pending if self._linking.may_go_on(track) or len(track.frames) >= lasting]
        return any(self._may_meet(a, b) for a, b in itertools.combinations(asked, 2))

    def _may_meet(self, a: Track, b: Track) -> bool:
        return _coexist(a, b) or (self._linking.may_go_on(a) and self._linking.may_go_on(b))

    def _join(self, over: bool) -> None:
        """Decide about the pending tracks, the longest first; if the shot is not ``over``, only where it is certain."""
        self._others += [track for track in self._pending if _coexist(track, self._person[0])]
        for track in sorted(self._pending, key=lambda track: -len(track.frames)):
            is_free = not any(_coexist(track, other) for other in self._person)
            if is_free and not over and self._undecided(track):
                continue
            if is_free and len(track.frames) >= MIN_DETECTIONS and not self._is_another(track):
                self._person.append(track)
            self._pending = [other for other in self._pending if other is not track]

    def _undecided(self, track: Track) -> bool:
        going_on = self._linking.may_go_on
        if going_on(track) and (len(track.frames) < self._decision_frames or any(map(going_on, self._person))):
            return True
        rivals = [other for other in self._pending if other is not track and self._may_meet(track, other)]
        return any(going_on(other) or len(other.frames) > len(track.frames) for other in rivals)

    def _is_another(self, track: Track) -> bool:
        return any(_same_place(track, other) for other in self._others if len(other.frames) >= MIN_DETECTIONS)


def _lasting(tracks: list[Track], max_gap: int, longest: int) -> list[Track]:
    """Return the tracks that are not false alarms, compared with the ``longest`` (frames)."""
    return [track for track in tracks if len(track.frames) >= min(max_gap, MIN_FACE_SHARE * longest)]


def _largest_group(tracks: list[Track], max_gap: int) -> list[Track]:
    """Return the largest set of faces visible together, the earliest if there are several, from left to right."""
    tracks = _lasting(tracks, max_gap, max((len(track.frames) for track in tracks), default=0))
    most: list[Track] = []
    for track in tracks:
        together = [t for t in tracks if t.frames[0] <= track.frames[0] <= t.frames[-1]]
        if len(together) > len(most):
            most = together
    return sorted(most, key=lambda t: t.boxes[0][0] + t.boxes[0][2])


def _coexist(a: Track, b: Track) -> bool:
    return a.frames[0] <= b.frames[-1] and b.frames[0] <= a.frames[-1]


def _same_place(a: Track, b: Track) -> bool:
    return is_same_place(a.boxes[0], b.boxes[-1]) or is_same_place(a.boxes[-1], b.boxes[0])


def fill_gaps(boxes: np.ndarray, max_gap: int) -> None:
    """Interpolate, in place, runs of at most ``max_gap`` NaN rows that have a box of the same face on both sides."""
    known = np.flatnonzero(~np.isnan(boxes[:, 0]))
    for before, after in zip(known, known[1:]):
        if 1 < after - before <= max_gap + 1 and _continues(boxes[before], boxes[after], int(after - before)):
            share = np.linspace(0, 1, after - before + 1)[1:-1, None]
            boxes[before + 1 : after] = (1 - share) * boxes[before] + share * boxes[after]


def _continues(before: np.ndarray, after: np.ndarray, gap: int) -> bool:
    """Whether a box after a gap may be of the same face; gaps between two people are not filled."""
    widths = before[2] - before[0], after[2] - after[0]
    return max(widths) < MAX_GROWTH * min(widths) and bool(match_scores(after[None], before[None], gap) > 0)


def smooth_boxes(boxes: np.ndarray) -> None:
    """Average, in place, over a centred window that shrinks at the ends of each run of boxes: motion is not delayed.

    A run also ends where the next box is elsewhere: a person seen there is another, after a cut that was not noticed.
    """
    goes_on = overlaps(boxes[:-1], boxes[1:]) >= MIN_OVERLAP  # where either is NaN, it does not
    ends = np.flatnonzero(np.append(~goes_on, True)) + 1
    for start, stop in zip([0, *ends], ends):
        run = boxes[start:stop].copy()
        for i in range(len(run)):
            reach = min(SMOOTHING // 2, i, len(run) - 1 - i)
            boxes[start + i] = run[i - reach : i + reach + 1].mean(axis=0)
