"""Which frames of a video become a clip: those of one shot, divided if it is too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from errors import UserError
from face_detection.geometry import is_same_place
from face_detection.tracking import gap_of
from hparams import hparams as hp

MAX_SECONDS = 30.0  # of a clip, unless asked otherwise; those of LRS2, GRID and VoxCeleb are shorter
MIN_PIECE_SECONDS = 2.0  # half of it, as a slightly longer shot gives, is enough to train on


def divide(shots: Sequence[tuple[int, int]], seconds: float | None = None) -> list[range]:
    """Return the frames of every clip, ascending, for shots given as first frame and frame after the last.

    After a cut there is another head, often of somebody else: as a reference, or as a mismatched face, it teaches
    nothing about lips. A shot that is too long is divided evenly.
    """
    most = (seconds or MAX_SECONDS) * hp.fps
    pieces = []
    for first, stop in shots:
        count = max(1, math.ceil((stop - first) / most))
        edges = [first + (stop - first) * n // count for n in range(count + 1)]
        pieces += [range(*pair) for pair in zip(edges, edges[1:])]
    return pieces


def join_interrupted(shots: Sequence[tuple[int, int]], boxes: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Join shots that are only briefly interrupted, by a flash or a few lost frames; return shots and boxes.

    ``boxes`` (frames, 4) are those of the face, NaN where there is none. The face must be in the same place before,
    after and, if detected, during the interruption. There, the boxes become NaN, as it might be somebody else.
    """
    joined, waiting, boxes = [shots[0]], None, boxes.copy()
    for first, stop in shots[1:]:
        begin, end = joined[-1]
        brief = stop - first <= gap_of(hp.fps)
        if waiting is None and brief and _nobody_elsewhere(boxes[first:stop], boxes[end - 1]):
            waiting = first, stop
            continue
        if waiting and is_same_place(boxes[end - 1], boxes[first]):
            joined[-1] = begin, stop
            boxes[slice(*waiting)] = np.nan
        else:
            joined += [waiting, (first, stop)] if waiting else [(first, stop)]
        waiting = None
    return joined + ([waiting] if waiting else []), boxes


def _nobody_elsewhere(boxes: np.ndarray, place: np.ndarray) -> bool:
    return all(is_same_place(box, place) for box in boxes if not np.isnan(box[0]))


def check_seconds(seconds: float | None) -> None:
    if seconds is not None and not MIN_PIECE_SECONDS <= seconds < math.inf:
        raise UserError(
            f"--seconds {seconds:g} cannot be the length of a clip; give a number, {MIN_PIECE_SECONDS:g} or more"
        )
