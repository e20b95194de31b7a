"""Align one face with another of the same person, by its eyes and nose, or by its mouth."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from hparams import hparams as hp

ALL = slice(0, hp.img_size)


class Region(NamedTuple):
    """The region by which two faces of 96 pixels are aligned."""

    middle: tuple[int, int]  # x, y
    size: tuple[int, int]  # width, height
    farthest: float  # most pixels that it moves


EYES_AND_NOSE, MOUTH = Region((48, 30), (60, 36), 8.0), Region((48, 73), (40, 26), 4.0)


def movement(there: np.ndarray, here: np.ndarray, region: Region) -> np.ndarray:
    """Return how many pixels, x and y, a region moves from face ``there`` to face ``here``, both (96, 96) grey, uint8.

    Zeros if that cannot be determined, or is more than the region can move. By optical flow (Lucas, Kanade 1981).
    """
    there, here = (_normalise_brightness(face, region) for face in (there, here))
    middle = np.array([[region.middle]], np.float32)  # one more level, if the window is less than half the picture
    found, known, _ = cv2.calcOpticalFlowPyrLK(there, here, middle, middle.copy(), winSize=region.size, maxLevel=1)
    moves = (found - middle)[0, 0]
    return moves if known.all() and np.abs(moves).max() <= region.farthest else np.zeros(2)


def _normalise_brightness(face: np.ndarray, region: Region) -> np.ndarray:
    (x, y), (width, height) = region.middle, region.size
    part = face[y - height // 2 : y + height // 2, x - width // 2 : x + width // 2]
    return cv2.addWeighted(face, 1, face, 0, 128 - float(part.mean()))


def moved(face: np.ndarray, by: np.ndarray, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
    """Return ``rows`` and ``columns`` of a face moved ``by`` x, y: pixels of 96, of which it may have a multiple."""
    scale = len(face) // hp.img_size
    if not by.any():  # most faces need not be moved
        rows, columns = (slice(scale * part.start, scale * part.stop) for part in (rows, columns))
        return face[rows, columns]
    x, y = scale * (by - (columns.start, rows.start))
    size = scale * (columns.stop - columns.start), scale * (rows.stop - rows.start)
    return cv2.warpAffine(
        face, np.array([[1, 0, x], [0, 1, y]]), size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def grey(face: np.ndarray) -> np.ndarray:
    """Return a face (96, 96, 3) in grey, (96, 96) uint8, for ``movement``."""
    whole = face if face.dtype == np.uint8 else np.clip(np.rint(face), 0, 255).astype(np.uint8)
    return cv2.cvtColor(whole, cv2.COLOR_BGR2GRAY)
