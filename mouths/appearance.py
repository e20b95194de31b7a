"""Keep what a face looks like, shot by shot: unoccluded, and with reference mouths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mouths.occlusion import UnoccludedFace
from mouths.references import SAME_SHOT, References, posture

REMEMBERED = 16  # appearances, some megabytes each
ENOUGH = 12  # faces; with so many, another shot of the same person would add nothing


@dataclass(frozen=True, eq=False)
class Appearance:
    """What a face looks like in one shot, from several of its frames."""

    postures: np.ndarray  # (N, 12, 24) float32, N > 0, see ``references.posture``
    references: References | None = None  # faces whose mouths the network is shown
    unoccluded: UnoccludedFace | None = None  # if given, what is in front of the face stays there

    def distance(self, held: np.ndarray) -> float:
        """Return how far a ``posture`` (12, 24) is from the nearest of these, in grey levels."""
        return float(np.abs(self.postures - held).mean((1, 2)).min())


@dataclass(frozen=True)
class Shots:
    """Access to further shots of a video."""

    start_of: Callable[[int], int]  # first frame of the shot that a frame is in
    look_at: Callable[[int], Appearance | None]  # examine the shot that starts there; None: it shows no face


class Appearances:
    """The appearances of a face during one pass through its video: at first those ``known``, by first frame of shot.

    A shot that begins like a remembered one counts as that one again, as in a dialogue, and is not examined. If the
    remembered one has few faces, it is, since it may show more.
    """

    def __init__(self, known: dict[int, Appearance], shots: Shots | None = None) -> None:
        self.known, self.shots = known, shots
        self.remembered = list(known.values())  # most recently used last
        self._seen: dict[int, Appearance | None] = dict(known)  # by first frame of the shot that was examined
        self._shot: int | None = None

    def anew(self) -> Appearances:
        """Return a copy in its initial state, for another pass through the video."""
        return Appearances(self.known, self.shots)

    def of(self, face: np.ndarray, index: int) -> Appearance:
        """Return the appearance nearest to a face (96, 96, 3), that of frame ``index``; frames come in order."""
        held = posture(face)
        if self.shots and (shot := self.shots.start_of(index)) != self._shot:
            self._shot = shot
            self._enter(self.shots, shot, held)
        nearest = self._nearest(held)
        self.remembered.remove(nearest)
        self.remembered = [*self.remembered, nearest][-REMEMBERED:]
        return nearest

    def _enter(self, shots: Shots, shot: int, held: np.ndarray) -> None:
        """Examine a shot whose face has the posture ``held``, if that may add something."""
        near = self._nearest(held)
        alike, known = near.distance(held) <= SAME_SHOT, len(near.postures)
        if alike and known >= ENOUGH or self._is_remembered(shot):
            return
        self._seen = {start: one for start, one in self._seen.items() if one is None or one in self.remembered}
        seen = self._seen[shot] = shots.look_at(shot)
        if seen is None or alike and len(seen.postures) < known:
            return
        if alike:
            self.remembered.remove(near)  # otherwise it might be nearer, though it has fewer faces
        self.remembered.append(seen)

    def _is_remembered(self, shot: int) -> bool:
        return shot in self._seen and (self._seen[shot] is None or self._seen[shot] in self.remembered)

    def _nearest(self, held: np.ndarray) -> Appearance:
        return min(self.remembered, key=lambda one: one.distance(held))
