"""Face recognition with SFace: it embeds faces as vectors, and those of one person have similar directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import downloads
from errors import UserError
from face_detection.geometry import cut_square
from reporting import SILENT, Reporter

Identity = Callable[[np.ndarray], np.ndarray]  # a face (112, 112, 3) uint8 BGR -> a vector

# SFace expects the eyes 46 % and the mouth 82 % below the upper edge. In our boxes, the eyes are 37 % and the chin 97 %
# below it (demo.portrait.face_box), so its crop is a square of the box's height, moved up by a tenth. Heads are not
# rotated upright.
SFACE_SIDE, SFACE_SCALE, SFACE_SHIFT = 112, 1.0, 0.1


def open_sface(path_or_name: str | Path, report: Reporter = SILENT) -> Identity:
    """Return SFace (Zhong et al., 2021), run by OpenCV, from a file, or downloaded for ``sface``."""
    path = downloads.find(path_or_name, report, ("sface",))
    try:
        network = cv2.FaceRecognizerSF.create("onnx", np.fromfile(path, np.uint8), np.empty(0, np.uint8))
        network.feature(np.zeros((SFACE_SIDE, SFACE_SIDE, 3), np.uint8))
    except (cv2.error, IsADirectoryError) as error:
        raise UserError(f"{path} does not hold OpenCV's SFace, face_recognition_sface_2021dec.onnx") from error
    return lambda face: network.feature(face)[0].copy()


def face_of_sface(frame: np.ndarray, box: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """Return the face in a box, cropped for SFace, (112, 112, 3), in square pixels."""
    if pixel_aspect != 1:
        frame = cv2.resize(frame, None, fx=pixel_aspect, fy=1)
    x1, y1, x2, y2 = np.asarray(box) * (pixel_aspect, 1, pixel_aspect, 1)
    side = SFACE_SCALE * (y2 - y1)
    return cut_square(frame, int((x1 + x2 - side) / 2), int(y1 - SFACE_SHIFT * side), max(1, int(side)), SFACE_SIDE)


def cosine_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return CSIM, the cosine similarity of two identities, 1 for equal ones."""
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
