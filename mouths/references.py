"""Mouths that the generator is shown instead of each frame's own: shut, or as far open as the sound will open them.

What the generator sees of a mouth it partly copies: what was said when it was filmed, and the person's own teeth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from mouths import masks

NEAR, FAR = 8.0, 12.0  # grey levels between postures: nearer is the same person in the same shot, farther is not
ALIKE = 4.0  # grey levels: what is held that much alike is held alike enough
OPENING = 5.0  # how much it counts that a mouth is open otherwise than wanted, against one more ``ALIKE`` of posture
SOFT, MIXED = 0.25, 6  # of such costs: by which a face may be dearer to have a third as large a share; most faces in it
WANTED, UNWANTED = (
    0.2,
    0.4,
)  # by which a mouth is open otherwise than wanted: nearer tells what it looks like, farther no more
POSTURE = (24, 12)  # pixels, width and height, to which the upper half of a face is shrunk to compare it


class Loan(NamedTuple):
    """What a face gets from another moment of its video, or from some."""

    shown: np.ndarray  # (96, 96, 3) uint8 BGR: what the network is shown in its place
    mouth: np.ndarray | None = (
        None  # the face that most of it is of, (192, 192, 3), if it tells what a mouth looks like
    )
    share: float = 0.0  # by how much it does


class References:
    """Faces of one person (N, 96, 96, 3) uint8 BGR, N > 0, of which the one that is held most alike lends its mouth.

    With ``apart`` (N,), by how much their lips are: 0 shut, 1 wide, it is one that is also as far open as is wanted; or
    some that are nearly alike, mixed, so that from frame to frame little changes. ``larger`` (N, 192, 192, 3) are the
    same; they tell what such a mouth looks like.

    The rest stays the frame's own: a jaw or an earring of another moment would be drawn beside that of the frame. Where
    no face is held alike, all of it stays: it is another shot, or somebody else. On eleven clips, frames were 0 to 8
    grey levels from the nearest of ten faces of their own shot (medians; 95 % within 14), and 13 to 65 from those of
    other people. A face that is for ``everywhere`` is shown as a whole, whatever the frame.
    """

    def __init__(
        self,
        faces: np.ndarray,
        everywhere: bool = False,
        apart: np.ndarray | None = None,
        larger: np.ndarray | None = None,
    ) -> None:
        self.faces, self.everywhere, self.apart, self.larger = faces, everywhere, apart, larger
        self._postures = postures_of(faces)

    def lend(self, face: np.ndarray, share: float, wanted: float = 0.0, hidden: np.ndarray | float = 0.0) -> Loan:
        """Return what ``face`` (96, 96, 3) gets of the nearest of these: by ``share``, 0 to 1.

        ``wanted`` is how far open the mouth should be. What is ``hidden`` (96, 96) behind something is lent, too.
        """
        distances = np.abs(self._postures - posture(face)).mean((1, 2))
        if self.everywhere:
            return Loan(cv2.addWeighted(face, 1 - share, self.faces[distances.argmin()], share, 0))
        nearest, shares = self._nearest(distances, wanted)
        share *= float(np.clip((FAR - shares @ distances[nearest]) / (FAR - NEAR), 0, 1))
        mask = share * np.maximum(masks.mouth(), hidden)
        shown = cv2.blendLinear(self._mixed(nearest, shares), face, mask, 1 - mask)
        if self.apart is None or self.larger is None:
            return Loan(shown)
        otherwise = abs(float(self.apart[nearest[0]]) - wanted)
        share *= float(np.clip((UNWANTED - otherwise) / (UNWANTED - WANTED), 0, 1))
        return Loan(shown, self.larger[nearest[0]], share) if share > 0 else Loan(shown)

    def _nearest(self, distances: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the faces to borrow from, the nearest first, and the share of each."""
        if self.apart is None:
            return np.array([distances.argmin()]), np.ones(1)
        costs = np.maximum(distances / ALIKE, 1) + OPENING * np.abs(self.apart - wanted)
        best = costs.argsort()[:MIXED]
        shares = np.exp((costs[best[0]] - costs[best]) / SOFT)
        return best, shares / shares.sum()

    def _mixed(self, which: np.ndarray, shares: np.ndarray) -> np.ndarray:
        if len(which) == 1:
            return self.faces[which[0]]
        mixed = sum(share * self.faces[i].astype(np.float32) for share, i in zip(shares, which))
        return np.rint(mixed).astype(np.uint8)


def posture(face: np.ndarray) -> np.ndarray:
    """Return how a head is held, (12, 24) float32: the upper half of a face, which the jaw does not move."""
    upper = cv2.cvtColor(face[: len(face) // 2], cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(cv2.GaussianBlur(upper, (0, 0), 2), POSTURE, interpolation=cv2.INTER_AREA)
    return small - small.mean()  # light that comes and goes does not count


def postures_of(faces: Iterable[np.ndarray]) -> np.ndarray:
    """Return those of one face or more, (N, 12, 24)."""
    return np.stack([posture(face) for face in faces])
