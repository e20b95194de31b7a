"""Mouths that the generator is shown instead of each frame's own: they are shut, and the faces are held alike.

What the generator sees of a face with an open mouth it partly copies, in silence above all.
"""

from __future__ import annotations

import cv2
import numpy as np

import masks

NEAR, FAR = 8.0, 12.0  # grey levels between postures: nearer is the same person in the same shot, farther is not
POSTURE = (24, 12)  # pixels, width and height, to which the upper half of a face is shrunk to compare it


class References:
    """Faces of one person (N, 96, 96, 3) uint8 BGR, N > 0, of which the one that is held most alike lends its mouth.

    The rest stays the frame's own: a jaw or an earring of another moment would be drawn beside that of the frame. Where
    no face is held alike, all of it stays: it is another shot, or somebody else. On eleven clips, frames were 0 to 8
    grey levels from the nearest of ten faces of their own shot (medians; 95 % within 14), and 13 to 65 from those of
    other people. A face that is for ``everywhere`` is shown as a whole, whatever the frame.
    """

    def __init__(self, faces: np.ndarray, everywhere: bool = False) -> None:
        self.faces, self.everywhere = faces, everywhere
        self._postures = np.stack([posture(face) for face in faces])

    def instead_of(self, face: np.ndarray, share: float, hidden: np.ndarray | float = 0.0) -> np.ndarray:
        """Return what is shown in the place of ``face`` (96, 96, 3): by ``share``, 0 to 1, the nearest of these.

        It also lends what is ``hidden`` (96, 96) behind something in this one.
        """
        distances = np.abs(self._postures - posture(face)).mean((1, 2))
        nearest = int(distances.argmin())
        if self.everywhere:
            return cv2.addWeighted(face, 1 - share, self.faces[nearest], share, 0)
        share *= float(np.clip((FAR - distances[nearest]) / (FAR - NEAR), 0, 1))
        mask = share * np.maximum(masks.mouth(), hidden)
        return cv2.blendLinear(self.faces[nearest], face, mask, 1 - mask)


def posture(face: np.ndarray) -> np.ndarray:
    """Return how a head is held, (12, 24) float32: the upper half of a face, which the jaw does not move."""
    upper = cv2.cvtColor(face[: len(face) // 2], cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(cv2.GaussianBlur(upper, (0, 0), 2), POSTURE, interpolation=cv2.INTER_AREA)
    return small - small.mean()  # light that comes and goes does not count
