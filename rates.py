"""From one frame rate to another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

Item = TypeVar("Item")
HALF = Fraction(1, 2)


def resample(items: Iterable[Item], source: Fraction, target: Fraction) -> Iterator[Item]:
    """Give a sequence of ``source`` items a second (frames, their boxes, …) the rate ``target``.

    Each item moves to the nearest place of the new grid, as ffmpeg puts frames there: of several that meet, the last
    stays, and an empty place repeats the item before it.
    """
    held: Item | None = None
    given = count = 0
    for count, item in enumerate(items, 1):
        place = math.floor((count - 1) * target / source + HALF)
        yield from itertools.repeat(held, place - given)
        given, held = place, item
    yield from itertools.repeat(held, math.floor(count * target / source + HALF) - given)
