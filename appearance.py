"""What a face looks like, shot by shot: with nothing in front of it, and with other mouths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from occlusion import Bare, reached
from references import FAR, References, posture, postures_of

MOST = 16  # appearances that are remembered, some megabytes each
FEWEST = 4  # faces that tell what somebody looks like
PAUSE = 2.0  # seconds between two looks: between shots, heads that turn and blur look like nothing else, too


@dataclass(frozen=True, eq=False)
class Appearance:
    """Somebody in one shot, or held in one way: all that the shot shows of other moments."""

    postures: np.ndarray  # (N, 12, 24) float32, N > 0: how they are held, see ``references.posture``
    references: References | None = None  # faces that the network is shown instead of the frame's own
    bare: Bare | None = None  # what the face is like with nothing in front of it; what is in front then stays there

    def distance(self, held: np.ndarray) -> float:
        """Return how far a posture is from the nearest of these, in grey levels."""
        return float(np.abs(self.postures - held).mean((1, 2)).min())


Look = Callable[[int], Sequence[Appearance]]  # what can be seen in the seconds from a frame on


class Appearances:
    """Those that a video has shown so far. Where a face is held like none of them, the video is looked at again.

    ``known`` are some, one or more, to begin with. ``look`` sees more of them; without it there are no more.
    """

    def __init__(self, known: Iterable[Appearance], look: Look | None = None, fps: float = 25) -> None:
        self.known = tuple(known)
        self._look, self._fps = look, fps
        self._remembered = list(self.known)
        self._next = 0.0  # frame from which on there may be a look

    def anew(self) -> Appearances:
        """Return the same, to go through the video once more."""
        return Appearances(self.known, self._look, self._fps)

    def of(self, face: np.ndarray, index: int) -> Appearance:
        """Return the one that is most like a face (96, 96, 3), that of frame ``index``; frames come in order."""
        held = posture(face)
        nearest = min(self._remembered, key=lambda one: one.distance(held))
        if self._look and index >= self._next and nearest.distance(held) > FAR:
            self._next = index + PAUSE * self._fps
            self._remembered += [one for one in self._look(index) if self._is_new(one)]
            nearest = min(self._remembered, key=lambda one: one.distance(held))
        self._remembered.remove(nearest)
        self._remembered = [*self._remembered, nearest][-MOST:]  # the one that was of use least lately is forgotten
        return nearest

    def _is_new(self, appearance: Appearance) -> bool:
        return any(all(one.distance(held) > FAR for one in self._remembered) for held in appearance.postures)


def groups(faces: np.ndarray) -> list[np.ndarray]:
    """Split faces (N, 96, 96, 3) into those that are held alike, directly or by way of others; the largest first.

    Others are left out if they are too few to tell what a mouth can do.
    """
    postures = postures_of(faces)
    alike = np.stack([np.abs(postures - one).mean((1, 2)) for one in postures]) <= FAR
    left, found = np.ones(len(faces), bool), []
    while left.any():
        members = reached(alike, int(left.argmax()))
        left &= ~members
        found.append(faces[members])
    largest, *others = sorted(found, key=len, reverse=True)
    return [largest, *(group for group in others if len(group) >= FEWEST)]
