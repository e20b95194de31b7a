"""The interface of face detectors, and a base class for those that process one picture at a time."""

from __future__ import annotations

import threading
from typing import Protocol

import numpy as np


class Detector(Protocol):
    """Finds faces. Safe to call from several threads; one instance serves any number of videos."""

    FACE_SIDE: int  # pixels, longer side of a box at which the detector is at its best
    CERTAIN: float  # score from which a new detection is surely a face; known faces are followed at lower scores
    KEY_SECONDS: float  # longest time between key frames while faces move evenly: long if detection is slow and exact

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        """BGR frames of one size -> for each frame (k, 5 or 6) float32: x1, y1, x2, y2 in pixels, score; best first.

        A sixth column is the distance from the right eye to the left, as a fraction of the width of CenterFace's box:
        negative if the left eye is left of the right one in the picture, NaN if unknown. Detectors that do not locate
        eyes return five columns.
        """


class FrameByFrame:
    """A detector that processes one picture at a time, under a lock because OpenCV's networks are stateful."""

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
