"""The sizes to which the paper's ReSyncED benchmark shrinks real videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import video
from face_detection.tracking import follow_face
from lipsync import LipSync

MEASURED = 25  # frames in which the size of the face is measured


@dataclass(frozen=True)
class Sizes:
    """How large faces and pictures should be, in pixels."""

    face: int = 180  # longer side
    least: int = 480  # the picture's shorter side
    most: int = 720  # of the picture's shorter side

    def shrink_factor(self, lips: LipSync, path: Path) -> float:
        """Return the factor to shrink a video by: to ``most``, then by a whole number to be closest to ``face``."""
        source = video.probe(path)
        short = min(source.width, source.height)
        first = max(1.0, short / self.most)
        boxes = follow_face(lips.search.find(source, MEASURED), MEASURED)
        sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])[~np.isnan(boxes[:, 0])]
        face = float(np.median(sides)) / first if len(sides) else float(self.face)
        allowed = range(1, max(1, int(short / first) // self.least) + 1)
        return first * min(allowed, key=lambda whole: abs(face / whole - self.face))
