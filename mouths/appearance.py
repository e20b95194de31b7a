"""What a face looks like, shot by shot: with nothing in front of it, and with other mouths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mouths.occlusion import UnoccludedFace
from mouths.references import SAME_SHOT, References, posture

REMEMBERED = 16  # appearances, some megabytes each
ENOUGH = 12  # faces, from which on another look at the same person would tell nothing more


@dataclass(frozen=True, eq=False)
class Appearance:
    """Somebody in one shot: what other moments of it show."""

    postures: np.ndarray  # (N, 12, 24) float32, N > 0: how they are held, see ``references.posture``
    references: References | None = None  # faces whose mouths the network is shown
    unoccluded: UnoccludedFace | None = None  # then what is in front of it stays there

    def distance(self, held: np.ndarray) -> float:
        """Return how far a ``posture`` (12, 24) is from the nearest of these, in grey levels."""
        return float(np.abs(self.postures - held).mean((1, 2)).min())


@dataclass(frozen=True)
class Shots:
    """A video in which more can be seen than is known by now."""

    start_of: Callable[[int], int]  # the shot that a frame lies in
    look_at: Callable[[int], Appearance | None]  # the shot that starts there


class Appearances:
    """The appearances of a face during one pass through its video: at first those ``known`` by first frame of shot.

    A shot that begins like one that is remembered is not looked at: it is that one again, as in a dialogue; unless so
    little is known of that one that this may tell more.
    """

    def __init__(self, known: dict[int, Appearance], shots: Shots | None = None) -> None:
        self.known, self.shots = known, shots
        self.remembered = list(known.values())  # the one that was of use last is the last
        self._seen: dict[int, Appearance | None] = dict(known)  # by the start of the shot that was looked at
        self._shot: int | None = None

    def anew(self) -> Appearances:
        """Return the same as it was at first, for another way through the video."""
        return Appearances(self.known, self.shots)

    def of(self, face: np.ndarray, index: int) -> Appearance:
        """Return the one that is most like a face (96, 96, 3), that of frame ``index``; frames come in order."""
        held = posture(face)
        if self.shots and (shot := self.shots.start_of(index)) != self._shot:
            self._shot = shot
            self._enter(self.shots, shot, held)
        nearest = self._nearest(held)
        self.remembered.remove(nearest)
        self.remembered = [*self.remembered, nearest][-REMEMBERED:]
        return nearest

    def _enter(self, shots: Shots, shot: int, held: np.ndarray) -> None:
        """Look at a shot whose face is ``held`` like this, if that may tell something."""
        near = self._nearest(held)
        alike, known = near.distance(held) <= SAME_SHOT, len(near.postures)
        if alike and known >= ENOUGH or self._is_remembered(shot):
            return
        self._seen = {start: one for start, one in self._seen.items() if one is None or one in self.remembered}
        seen = self._seen[shot] = shots.look_at(shot)
        if seen is None or alike and len(seen.postures) < known:
            return
        if alike:
            self.remembered.remove(near)  # else it might be nearer, and tells less
        self.remembered.append(seen)

    def _is_remembered(self, shot: int) -> bool:
        return shot in self._seen and (self._seen[shot] is None or self._seen[shot] in self.remembered)

    def _nearest(self, held: np.ndarray) -> Appearance:
        return min(self.remembered, key=lambda one: one.distance(held))
