"""A detector's results, frame by frame, and how they are saved so that a video is searched only once."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Of the file, and of what a search finds: raise it when either changes. Format 1 could not mark frames as not searched,
# 2 did not record when a whole frame was last searched, 3 did not store the distance of the eyes; with 4 people who
# came early in a shot or overlapped others were missed, and flashes were cuts; format 5 had no cuts at dissolves.
FORMAT = 6


@dataclass
class Detections:
    """All detections in the first ``len(self)`` frames of a video."""

    # per frame (k, 5 or 6), see ``Detector``; empty: nothing was found; None: the frame was not searched
    boxes: list[np.ndarray | None] = field(default_factory=list)
    change: list[float] = field(default_factory=list)  # grey levels between a frame and the one before, see ``cuts``
    complete: bool = False  # the video has no more frames
    thumbnails: list[np.ndarray] = field(default_factory=list)  # of the last frames
    since_search: tuple[float, float] = 0.0, math.inf  # frames since a whole one was searched, reduced and at full size

    def __len__(self) -> int:
        return len(self.boxes)

    def first(self, count: int) -> Detections:
        """Return the detections in the first ``count`` frames, and on to the next frame that was searched."""
        while count < len(self) and self.boxes[count - 1] is None:
            count += 1
        return Detections(self.boxes[:count], self.change[:count])

    def save(self, path: Path) -> None:
        """Write to ``path`` (npz)."""
        seen = [boxes for boxes in self.boxes if boxes is not None and len(boxes)]
        np.savez(
            path,
            format=FORMAT,
            counts=[-1 if boxes is None else len(boxes) for boxes in self.boxes],
            boxes=np.concatenate(seen) if seen else np.empty((0, 6), np.float32),
            change=np.array(self.change, float),
            complete=self.complete,
            thumbnails=self.thumbnails,
            clocks=self.since_search,
        )

    @classmethod
    def load(cls, path: Path) -> Detections:
        """Read what ``save`` wrote; return empty detections if it is missing, unreadable or of an older format."""
        try:
            with np.load(path) as file:
                if file["format"] != FORMAT:
                    return cls()
                counts, file_boxes = file["counts"], file["boxes"]
                ends = np.cumsum(np.maximum(counts, 0))
                boxes = [None if n < 0 else file_boxes[end - n : end] for n, end in zip(counts, ends)]
                thumbnails = list(file["thumbnails"])
                reduced, native = map(float, file["clocks"])
                return cls(boxes, file["change"].tolist(), bool(file["complete"]), thumbnails, (reduced, native))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return cls()
