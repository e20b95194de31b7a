"""From many detections to one steady box per frame: find cuts, link tracks, choose a person, fill gaps, smooth."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .detections import Detections

CUT_CHANGE = 12.0  # grey levels between thumbnails; less is never a cut
CUT_RATIO = 4.0  # a cut stands out from the frames around it by this factor
CUT_NEIGHBOURS = 8  # frames looked at on each side
MIN_OVERLAP = 0.2  # intersection over union that links a box to a track
MAX_SEARCH = 0.7  # after a gap: distance of centres in box sizes that still links
MIN_DETECTIONS = 3  # fewer are taken for a false alarm
LASTING = 0.25  # of the longest track: shorter ones are not chosen, however large
BRIEF = 0.1  # of the longest track: what lasts longer is no false alarm, however short
GAP_SECONDS = 0.5  # of video: a face unseen for longer may be somebody else
SMOOTHING = 5  # frames in the moving average, as in the reference


@dataclass
class Track:
    """One face through one shot."""

    frames: list[int]
    boxes: list[np.ndarray]  # x1, y1, x2, y2

    @property
    def area(self) -> float:
        """Square pixels, median over time."""
        return float(np.median([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in self.boxes]))


def follow_face(
    found: Detections, max_gap: int, face_index: int | None = None, smooth: bool = True, fill: bool = True
) -> np.ndarray:
    """Return (frames, 4) float64 x1, y1, x2, y2 of one person, NaN where there is no face.

    In every shot the largest face is followed, or with ``face_index`` the one that stands at this place from left to
    right when the faces of the shot are first seen. Frames that were not searched are interpolated, however many;
    ``fill`` also fills gaps in which a face was looked for and missed, up to ``max_gap`` frames. ``smooth`` averages
    over ``SMOOTHING`` frames, centred, never across cuts or gaps.
    """
    boxes = np.full((len(found), 4), np.nan)
    for first, stop in shots(found):
        for track in choose_person(link_tracks(found.boxes[first:stop], max_gap), face_index):
            boxes[first + np.array(track.frames)] = track.boxes
    return steady(boxes, shots(found), max_gap if fill else 0, smooth)


def steady(boxes: np.ndarray, shots: list[tuple[int, int]], max_gap: int, smooth: bool = True) -> np.ndarray:
    """Return boxes (frames, 4) of one person with gaps up to ``max_gap`` filled and the rest averaged, shot by shot."""
    boxes = boxes.copy()
    for first, stop in shots:
        fill_gaps(boxes[first:stop], max_gap)
        if smooth:
            smooth_boxes(boxes[first:stop])
    return boxes


def follow_faces(found: Detections, max_gap: int) -> list[np.ndarray]:
    """Return every face as the detector saw it: (frames, 4) x1, y1, x2, y2 each, NaN where it is not seen.

    They stand in order from left to right at first sight. Nothing is filled in or smoothed. Who is who after a cut
    cannot be known: the n-th face of a shot continues the n-th of the shot before. Tracks shorter than ``max_gap``
    frames are left out as false alarms, unless the longest is hardly longer.
    """
    per_shot = [(first, link_tracks(found.boxes[first:stop], max_gap)) for first, stop in shots(found)]
    longest = max((len(track.frames) for _, tracks in per_shot for track in tracks), default=0)
    faces: list[np.ndarray] = []
    for first, tracks in per_shot:
        tracks = [track for track in tracks if len(track.frames) >= min(max_gap, BRIEF * longest)]
        for n in itertools.count():
            if not tracks:
                break
            if n == len(faces):
                faces.append(np.full((len(found), 4), np.nan))
            person = choose_person(tracks, 0)
            for track in person:
                faces[n][first + np.array(track.frames)] = track.boxes
            tracks = [track for track in tracks if all(track is not chosen for chosen in person)]
    return faces


def most_together(found: Detections, max_gap: int) -> int:
    """Return how many faces are on view at a time, at most: every ``face_index`` below finds one."""
    return max((len(_at_first_sight(link_tracks(found.boxes[a:b], max_gap))) for a, b in shots(found)), default=0)


def shots(found: Detections) -> list[tuple[int, int]]:
    """Return the first frame and the frame after the last of every shot."""
    starts = [0, *find_cuts(np.array(found.change)), len(found)]
    return list(zip(starts, starts[1:]))


def find_cuts(change: np.ndarray) -> list[int]:
    """Return the frames that start a new shot: those that differ from the one before far more than their neighbours."""
    cuts = []
    for i in np.flatnonzero(change > CUT_CHANGE):
        around = np.concatenate((change[max(1, i - CUT_NEIGHBOURS) : i], change[i + 1 : i + 1 + CUT_NEIGHBOURS]))
        if i > 0 and (around.size == 0 or change[i] > CUT_RATIO * np.median(around)):
            cuts.append(int(i))
    return cuts


def link_tracks(boxes: list[np.ndarray | None], max_gap: int) -> list[Track]:
    """Link the detections of one shot, nearest first, into tracks in order of appearance; drop false alarms.

    A detection continues a track that it overlaps; one that was out of sight for a while may have moved. Where nobody
    looked in between (None), the track is interpolated.
    """
    tracks: list[Track] = []
    looked = -1  # the last frame before this one that was searched
    for frame, detections in enumerate(boxes):
        if detections is None:
            continue
        candidates = []
        for d, box in enumerate(detections[:, :4].astype(np.float64)):
            for track in tracks:
                gap = frame - track.frames[-1]
                if track.frames[-1] == looked or gap <= max(max_gap, 1) * 2:
                    candidates.append((match_score(track.boxes[-1], box, gap), d, box, track))
        taken: set[int] = set()
        for score, d, box, track in sorted(candidates, key=lambda c: -c[0]):
            if score > 0 and d not in taken and track.frames[-1] < frame:
                _continue_track(track, frame, box, track.frames[-1] == looked)
                taken.add(d)
        new = (box for d, box in enumerate(detections[:, :4].astype(np.float64)) if d not in taken)
        tracks += [Track([frame], [box]) for box in new]
        looked = frame
    return [track for track in tracks if len(track.frames) >= min(MIN_DETECTIONS, len(boxes))]


def _continue_track(track: Track, frame: int, box: np.ndarray, unbroken: bool) -> None:
    """Append a box; if ``unbroken``, also the frames before it, interpolated."""
    old_frame, old_box = track.frames[-1], track.boxes[-1]
    for between in range(old_frame + 1, frame) if unbroken else ():
        share = (between - old_frame) / (frame - old_frame)
        track.frames.append(between)
        track.boxes.append((1 - share) * old_box + share * box)
    track.frames.append(frame)
    track.boxes.append(box)


def match_score(old: np.ndarray, new: np.ndarray, gap: int) -> float:
    """How well box ``new`` continues ``old`` after ``gap`` frames; 0 or less means not at all."""
    overlap = intersection_over_union(old, new)
    if overlap >= MIN_OVERLAP or gap == 1:
        return overlap if overlap >= MIN_OVERLAP else 0.0
    size = np.sqrt((old[2] - old[0]) * (old[3] - old[1]))
    distance = np.linalg.norm((old[:2] + old[2:] - new[:2] - new[2:]) / 2) / size
    return MIN_OVERLAP * (1 - distance / MAX_SEARCH)


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes x1, y1, x2, y2."""
    width, height = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    both = width * height
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def choose_person(tracks: list[Track], face_index: int | None) -> list[Track]:
    """Return the tracks of one person in a shot: the chosen one, and later or earlier ones that never coexist with it.

    Whoever is seen together with the chosen face is somebody else, and stays so.
    """
    if not tracks:
        return []
    if face_index is None:
        lasting = max(len(track.frames) for track in tracks) * LASTING
        chosen = max((track for track in tracks if len(track.frames) >= lasting), key=lambda track: track.area)
    else:
        seen_first = _at_first_sight(tracks)
        if face_index >= len(seen_first):
            return []  # this shot does not show the person; better nobody than the wrong one
        chosen = seen_first[face_index]
    person = [chosen]
    others = [track for track in tracks if track is not chosen and _coexist(track, chosen)]
    for track in sorted(tracks, key=lambda track: -len(track.frames)):
        if not any(_coexist(track, t) for t in person) and not any(_same_place(track, o) for o in others):
            person.append(track)
    return person


def _at_first_sight(tracks: list[Track]) -> list[Track]:
    """The faces on view together soonest, in the largest number that the shot ever shows, from left to right."""
    most: list[Track] = []
    for track in tracks:
        together = [t for t in tracks if t.frames[0] <= track.frames[0] <= t.frames[-1]]
        if len(together) > len(most):
            most = together
    return sorted(most, key=lambda t: t.boxes[0][0] + t.boxes[0][2])


def _coexist(a: Track, b: Track) -> bool:
    return a.frames[0] <= b.frames[-1] and b.frames[0] <= a.frames[-1]


def _same_place(a: Track, b: Track) -> bool:
    return max(intersection_over_union(a.boxes[0], b.boxes[-1]), intersection_over_union(a.boxes[-1], b.boxes[0])) > 0.3


def fill_gaps(boxes: np.ndarray, max_gap: int) -> None:
    """Interpolate, in place, runs of at most ``max_gap`` NaN rows that have a box on both sides."""
    known = np.flatnonzero(~np.isnan(boxes[:, 0]))
    for before, after in zip(known, known[1:]):
        if 1 < after - before <= max_gap + 1:
            share = np.linspace(0, 1, after - before + 1)[1:-1, None]
            boxes[before + 1 : after] = (1 - share) * boxes[before] + share * boxes[after]


def smooth_boxes(boxes: np.ndarray) -> None:
    """Average, in place, over a centred window that shrinks at the ends of each run of boxes: motion is not delayed."""
    known = ~np.isnan(boxes[:, 0])
    edges = np.flatnonzero(np.diff(np.concatenate(([0], known, [0]))))
    for start, stop in zip(edges[::2], edges[1::2]):
        run = boxes[start:stop].copy()
        for i in range(len(run)):
            reach = min(SMOOTHING // 2, i, len(run) - 1 - i)
            boxes[start + i] = run[i - reach : i + reach + 1].mean(axis=0)
