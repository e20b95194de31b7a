"""What a detector saw, frame by frame, and how to keep it so that a video is searched only once."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from .detectors import Detector

THUMBNAIL = (48, 27)  # pixels; enough to notice a cut


@dataclass
class Detections:
    """Everything seen in the first ``len(self)`` frames of a video."""

    boxes: list[np.ndarray] = field(default_factory=list)  # per frame (k, 5): x1, y1, x2, y2, score; best first
    change: list[float] = field(default_factory=list)  # mean grey-level difference to the frame before
    complete: bool = False  # the video has no more frames
    thumbnail: np.ndarray | None = None  # of the last frame

    def __len__(self) -> int:
        return len(self.boxes)

    def first(self, count: int) -> Detections:
        """Return what was seen in the first ``count`` frames."""
        return Detections(self.boxes[:count], self.change[:count])

    def extend(self, frames: Iterable[np.ndarray], detector: Detector, batch_size: int = 16) -> None:
        """Search more frames (height, width, 3) BGR, following those already searched."""
        iterator = iter(frames)
        while batch := list(itertools.islice(iterator, batch_size)):
            self.boxes += detector.detect(batch)
            for frame in batch:
                self._compare(frame)

    def _compare(self, frame: np.ndarray) -> None:
        thumbnail = cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA)
        previous = thumbnail if self.thumbnail is None else self.thumbnail
        self.change.append(float(cv2.absdiff(thumbnail, previous).mean()))
        self.thumbnail = thumbnail

    def save(self, path: Path) -> None:
        """Write to ``path`` (npz), which is replaced only by a complete file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{secrets.token_hex(6)}.npz")
        try:
            np.savez(
                partial,
                counts=[len(boxes) for boxes in self.boxes],
                boxes=np.concatenate([np.empty((0, 5), np.float32), *self.boxes]),
                change=np.array(self.change, np.float32),
                complete=self.complete,
                thumbnail=np.empty(0) if self.thumbnail is None else self.thumbnail,
            )
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Detections:
        """Read what ``save`` wrote; anything missing or unreadable counts as nothing seen yet."""
        try:
            with np.load(path) as file:
                boxes = np.split(file["boxes"], np.cumsum(file["counts"])[:-1]) if len(file["counts"]) else []
                thumbnail = file["thumbnail"] if file["thumbnail"].size else None
                return cls(boxes, file["change"].tolist(), bool(file["complete"]), thumbnail)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return cls()


def cut_out(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the part of ``frame`` inside ``box`` (x1, y1, x2, y2), empty if there is none.

    Kept quirk: neither padded nor smoothed, unlike in inference; the official weights were trained on such crops.
    """
    x1, y1, x2, y2 = (int(v) for v in np.clip(box, 0, None))
    return frame[y1:y2, x1:x2]


def cache_name(video: Path, *settings: object) -> str:
    """Return a file name that changes with the content of ``video`` and with every setting."""
    digest = hashlib.sha256(repr(settings).encode())
    with open(video, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return f"{digest.hexdigest()[:32]}.npz"
