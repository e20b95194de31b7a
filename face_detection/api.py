"""``FaceAlignment`` with the reference's interface. This project's own scripts use the detectors directly."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import numpy as np

import downloads
from errors import UserError

from .detectors import SFD_WEIGHTS, create_detector


class LandmarksType(Enum):
    _2D = 1
    _2halfD = 2
    _3D = 3


class NetworkSize(Enum):
    LARGE = 4


class FaceAlignment:
    """Finds the best face of each frame. It computes no landmarks; ``landmarks_type`` only keeps old calls working.

    S3FD's weights are downloaded unless they are given or are where releases of the reference kept them.
    """

    def __init__(
        self,
        landmarks_type: LandmarksType = LandmarksType._2D,
        network_size: NetworkSize = NetworkSize.LARGE,
        device: object = "cuda",
        flip_input: bool = False,
        face_detector: str = "sfd",
        verbose: bool = False,
        path_to_detector: str | Path | None = None,
    ) -> None:
        if flip_input:
            raise UserError("flip_input=True averages landmarks, which this program does not compute")
        if face_detector == "sfd" and not (path_to_detector or SFD_WEIGHTS.exists()):
            path_to_detector = downloads.find("s3fd")
        self.face_detector = create_detector(face_detector, str(device), path_to_detector)

    def get_detections_for_batch(self, images: np.ndarray) -> list[tuple[int, int, int, int] | None]:
        """Frames (N, height, width, 3) BGR -> the best-scoring box (x1, y1, x2, y2) of each, or None."""
        best = (boxes[0, :4] if len(boxes) else None for boxes in self.face_detector.detect(list(images)))
        return [None if box is None else _whole_pixels(box) for box in best]


def _whole_pixels(box: np.ndarray) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (int(v) for v in np.clip(box, 0, None))
    return x1, y1, x2, y2
