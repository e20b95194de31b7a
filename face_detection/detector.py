"""What a face detector is, and what those have in common that see one picture at a time."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np


class Detector(Protocol):
    """Finds faces, for several threads at a time; one that is open serves every video."""

    FACE_SIDE: int  # pixels, longer side of a box at which the detector is at its best
    CERTAIN: float  # score of what is surely a face; a lower one is enough for a face that is known already
    KEY_SECONDS: float  # longest time between two looks at a face that moves evenly: long if a look is dear and exact

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        """BGR frames of one size -> for each frame (k, 5 or 6) float32: x1, y1, x2, y2 in pixels, score; best first.

        A sixth column tells how far the left eye is from the right one, in shares of the width of CenterFace's box:
        below 0 where it is left of it in the picture, NaN if unknown. Detectors that cannot tell return five columns.
        """


class FrameByFrame:
    """A detector that sees one picture at a time: OpenCV's keep it, and what they found, between their calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        found = []
        for frame in frames:
            with self._lock:
                found.append(self._detect(frame))
        return found

    def _detect(self, frame: np.ndarray) -> np.ndarray:
        """Return the boxes of one frame, as ``Detector.detect`` does."""
        raise NotImplementedError
