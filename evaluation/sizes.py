"""How large faces and pictures are, where the paper's ReSyncED benchmark shrinks real videos."""

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

    face: int = 180  # height
    shortest: int = 480  # the picture's shorter side, at least
    longest: int = 720  # and at most

    def shrink_factor(self, lips: LipSync, path: Path) -> int:
        """Return the whole number by which to shrink a video: towards this face, within these pictures."""
        source = video.probe(path)
        short = min(source.width, source.height)
        least, most = -(-short // self.longest), max(1, short // self.shortest)
        boxes = follow_face(lips.search.find(source, MEASURED, lips.device), MEASURED)
        heights = (boxes[:, 3] - boxes[:, 1])[~np.isnan(boxes[:, 0])]
        wanted = round(float(np.median(heights)) / self.face) if len(heights) else 1
        return max(least, min(most, wanted), 1)
