"""Overlap of boxes, scaling of pictures and boxes, and cutting boxes out of pictures."""

from __future__ import annotations

import cv2
import numpy as np

SAME_PLACE = 0.3  # intersection over union
PADDING_GREY = 110  # outside the picture


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes x1, y1, x2, y2."""
    return float(overlaps(a, b[None])[0])


def is_same_place(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two boxes overlap as much as those of a face that has hardly moved."""
    return intersection_over_union(a, b) > SAME_PLACE


def scaled(picture: np.ndarray, scale: float) -> np.ndarray:
    """Return a picture resized by ``scale``, at most 1; contiguous."""
    if scale == 1:
        return np.ascontiguousarray(picture)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def unscaled(boxes: np.ndarray, scale: float | tuple[float, float]) -> np.ndarray:
    """Map boxes (n, 4 or more) in a picture scaled by ``scale``, one factor or (across, down), to the original."""
    factors = np.ones(boxes.shape[1], np.float32)
    factors[:4] = np.tile(np.broadcast_to(scale, 2), 2)
    return boxes / factors


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of a box with each of ``others`` (n, 4 or more); 0 if neither has an area.

    Or of n boxes with one of the others each.
    """
    ends, starts = np.minimum(box[..., 2:4], others[:, 2:4]), np.maximum(box[..., :2], others[:, :2])
    width, height = np.maximum(0, ends - starts).T
    area, areas = (np.prod(b[..., 2:4] - b[..., :2], axis=-1) for b in (box, others))
    both = width * height
    return both / np.maximum(area + areas - both, 1e-9)


def cut_square(frame: np.ndarray, left: int, top: int, side: int, size: int) -> np.ndarray:
    """Cut a square out of a frame, grey where it extends beyond it, and resize it to (size, size, 3)."""
    height, width = frame.shape[:2]
    margins = (max(0, -top), max(0, top + side - height), max(0, -left), max(0, left + side - width))
    inside = frame[max(0, top) : top + side, max(0, left) : left + side]
    grey = (PADDING_GREY,) * 3
    return cv2.resize(cv2.copyMakeBorder(inside, *margins, cv2.BORDER_CONSTANT, value=grey), (size, size))
