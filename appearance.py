"""What a face looks like, shot by shot: with nothing in front of it, and with other mouths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from occlusion import Bare
from references import NEAR, References, posture

REMEMBERED = 16  # appearances, some megabytes each


@dataclass(frozen=True, eq=False)
class Appearance:
    """Somebody in one shot: what other moments of it show."""

    postures: np.ndarray  # (N, 12, 24) float32, N > 0: how they are held, see ``references.posture``
    references: References | None = None  # faces, one of which lends its mouth to what the network is shown
    bare: Bare | None = None  # what the face is like with nothing in front of it; what is in front then stays there

    def distance(self, held: np.ndarray) -> float:
        """Return how far a posture is from the nearest of these, in grey levels."""
        return float(np.abs(self.postures - held).mean((1, 2)).min())


@dataclass(frozen=True)
class Shots:
    """A video in which more can be seen than is known by now."""

    start: Callable[[int], int]  # of the shot that a frame lies in
    look: Callable[[int], Appearance | None]  # at the shot that starts there


class Appearances:
    """Those of a video, on one way through it: ``known`` are one or more to begin with, others come shot by shot.

    A shot that begins like one that is remembered is not looked at: it is that one again, as in a dialogue.
    """

    def __init__(self, known: list[Appearance], shots: Shots | None = None) -> None:
        self.known, self.shots = known, shots
        self._remembered = list(known)  # the one that was of use last is the last
        self._shot: int | None = None

    def anew(self) -> Appearances:
        """Return the same as it was at first, for another way through the video."""
        return Appearances(self.known, self.shots)

    def of(self, face: np.ndarray, index: int) -> Appearance:
        """Return the one that is most like a face (96, 96, 3), that of frame ``index``; frames come in order."""
        held = posture(face)
        if self.shots and (shot := self.shots.start(index)) != self._shot:
            self._shot = shot
            if self._nearest(held).distance(held) > NEAR and (seen := self.shots.look(shot)):
                self._remembered.append(seen)
        nearest = self._nearest(held)
        self._remembered.remove(nearest)
        self._remembered = [*self._remembered, nearest][-REMEMBERED:]
        return nearest

    def _nearest(self, held: np.ndarray) -> Appearance:
        return min(self._remembered, key=lambda one: one.distance(held))
