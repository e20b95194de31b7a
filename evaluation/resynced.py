"""Real videos as the paper's ReSyncED benchmark takes them: which pairs, and how large the faces are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import video
from errors import UserError
from evaluation.pairs import Pair, read_filelist
from face_detection.tracking import follow_face
from footage import find_videos
from lipsync import LipSync

MODES = ("random", "dubbed", "tts")
MEASURED = 25  # frames in which the size of the face is measured


def list_pairs(mode: str, data_root: Path, filelist: Path | None = None) -> list[Pair]:
    """Return the pairs of a list, or of ``dubbed`` films every video with its own sound."""
    if (filelist is None) != (mode == "dubbed"):
        raise UserError("--mode random and tts need a --filelist, and dubbed takes none")
    if filelist is None:
        return [Pair(path, path) for path in find_videos([data_root])]
    return read_filelist(filelist, data_root, audio_first=False)


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
