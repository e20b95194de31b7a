"""Keep what a face looks like, shot by shot: unoccluded, and with reference mouths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mouths.occlusion import UnoccludedFace
from mouths.references import SAME_SHOT, References, pose_of

MAX_APPEARANCES = 16  # appearances, some megabytes each
ENOUGH_FACES = 12  # faces; with so many, another shot of the same person would add nothing


@dataclass(frozen=True, eq=False)
class Appearance:
    """What a face looks like in one shot, from several of its frames."""

    poses: np.ndarray  # (N, 12, 24) float32, N > 0, see ``references.pose_of``
    references: References | None = None  # faces whose mouths the network is shown
    unoccluded: UnoccludedFace | None = None  # if given, what is in front of the face stays there

    def distance(self, pose: np.ndarray) -> float:
        """Return how far a ``pose`` (12, 24) is from the nearest of these, in grey levels."""
        return float(np.abs(self.poses - pose).mean((1, 2)).min())


@dataclass(frozen=True)
class Shots:
    """Access to further shots of a video."""

    start_of: Callable[[int], int]  # first frame of the shot that a frame is in
    analyse: Callable[[int], Appearance | None]  # examine the shot that starts there; None: it shows no face


class Appearances:
    """The appearances of a face during one pass through its video: at first those ``known``, by first frame of shot.

    A shot that begins like a remembered one counts as that one again, as in a dialogue, and is not examined. If the
    remembered one has few faces, it is, since it may show more.
    """

    def __init__(self, known: dict[int, Appearance], shots: Shots | None = None) -> None:
        self.known, self.shots = known, shots
        self.remembered = list(known.values())  # most recently used last
        self._analysed: dict[int, Appearance | None] = dict(known)  # by first frame of the shot that was examined
        self._shot: int | None = None

    def restarted(self) -> Appearances:
        """Return a copy in its initial state, for another pass through the video."""
        return Appearances(self.known, self.shots)

    def of(self, face: np.ndarray, index: int) -> Appearance:
        """Return the appearance nearest to a face (96, 96, 3), that of frame ``index``; frames come in order."""
        pose = pose_of(face)
        if self.shots and (shot := self.shots.start_of(index)) != self._shot:
            self._shot = shot
            self._analyse_shot(self.shots, shot, pose)
        nearest = self._nearest(pose)
        self.remembered.remove(nearest)
        self.remembered = [*self.remembered, nearest][-MAX_APPEARANCES:]
        return nearest

    def _analyse_shot(self, shots: Shots, shot: int, pose: np.ndarray) -> None:
        """Examine a shot whose face has this ``pose``, if that may add something."""
        near = self._nearest(pose)
        alike, known = near.distance(pose) <= SAME_SHOT, len(near.poses)
        if alike and known >= ENOUGH_FACES or self._is_remembered(shot):
            return
        self._analysed = {start: one for start, one in self._analysed.items() if one is None or one in self.remembered}
        seen = self._analysed[shot] = shots.analyse(shot)
        if seen and alike and len(seen.poses) < known:
            self._analysed[shot] = near  # which stands for this shot, too
            return
        if seen is None:
            return
        if alike:
            self.remembered.remove(near)  # otherwise it might be nearer, though it has fewer faces
        self.remembered.append(seen)

    def _is_remembered(self, shot: int) -> bool:
        return shot in self._analysed and (self._analysed[shot] is None or self._analysed[shot] in self.remembered)

    def _nearest(self, pose: np.ndarray) -> Appearance:
        return min(self.remembered, key=lambda one: one.distance(pose))
