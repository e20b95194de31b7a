"""Conversion from one frame rate to another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")
HALF = Fraction(1, 2)


def resampled_indices(count: int, source: Fraction, target: Fraction) -> np.ndarray:
    """Return which of ``count`` items ``resample`` yields; none for one frame at 60 fps."""
    return np.array([*resample(range(count), source, target)], int)


def resample(items: Iterable[Item], source: Fraction, target: Fraction) -> Iterator[Item]:
    """Resample items (frames, boxes, …) from ``source`` to ``target`` items a second.

    As in ffmpeg, each item moves to the nearest position of the new grid. If several fall on one position, the last is
    used; an empty position repeats the item before it.
    """
    held: Item | None = None
    given = count = 0
    for count, item in enumerate(items, 1):
        place = math.floor((count - 1) * target / source + HALF)
        yield from itertools.repeat(held, place - given)
        given, held = place, item
    yield from itertools.repeat(held, math.floor(count * target / source + HALF) - given)
