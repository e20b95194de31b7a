"""Who somebody is: SFace turns a face into a vector, and the vectors of one person point the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import downloads
from errors import UserError
from face_detection.detections import cut_square
from reporting import SILENT, Reporter

Identity = Callable[[np.ndarray], np.ndarray]  # a face (112, 112, 3) uint8 BGR -> a vector

# What SFace sees: eyes 46 % below the upper edge, mouth 82 %. Of the box, eyes 37 % below its upper edge and the chin
# 97 % (demo.portrait.face_box), that is a square of its height, a tenth above it. Heads are not turned upright.
SFACE_SIDE, SFACE_REACH, SFACE_RISE = 112, 1.0, 0.1


def open_sface(path_or_name: str | Path, report: Reporter = SILENT) -> Identity:
    """Return SFace (Zhong et al., 2021) as OpenCV runs it: a file, or ``sface`` to download it."""
    path = downloads.find(path_or_name, report, ("sface",))
    try:
        network = cv2.FaceRecognizerSF.create("onnx", np.fromfile(path, np.uint8), np.empty(0, np.uint8))
        network.feature(np.zeros((SFACE_SIDE, SFACE_SIDE, 3), np.uint8))
    except (cv2.error, IsADirectoryError) as error:
        raise UserError(f"{path} does not hold OpenCV's SFace, face_recognition_sface_2021dec.onnx") from error
    return lambda face: network.feature(face)[0].copy()


def face_of_sface(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the face in a box as SFace sees it, (112, 112, 3)."""
    x1, y1, x2, y2 = box
    side = SFACE_REACH * (y2 - y1)
    return cut_square(frame, int((x1 + x2 - side) / 2), int(y1 - SFACE_RISE * side), max(1, int(side)), SFACE_SIDE)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """CSIM: the cosine of the angle between two identities, 1 for the same."""
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
