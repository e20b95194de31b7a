"""One face through a video, found as far as somebody has asked for it."""

from __future__ import annotations

import bisect
import contextlib
import copy
import threading
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; where the edge of the frame cuts a face, beyond it


class Piece(NamedTuple):
    """What is certain by now of the next frames. Boxes may come a little later than where they were seen."""

    boxes: list[Box | None]  # to draw in, padded and smooth; None where there is no face
    seen: np.ndarray  # where the face was seen, (n, 4) float, NaN where not; neither padded, smoothed nor filled in
    shot_ends: bool = False  # with these


class Reading:
    """Somebody who follows a face, and may stop waiting for what is not known yet."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()


class FacePath:
    """One face, frame by frame, as far as somebody has asked for it: then the search goes on.

    ``search`` begins one that yields piece after piece. Threads may share a path.
    """

    def __init__(self, search: Callable[[], Generator[Piece, None, None]]) -> None:
        self._search, self._lock = search, threading.Lock()
        self._counting = threading.Lock()
        self._readings: list[Reading] = []  # under way
        self._begin()

    @classmethod
    def of(cls, boxes: list[Box | None], seen: np.ndarray) -> FacePath:
        """Return a path that is known."""
        return cls(lambda: (piece for piece in [Piece(boxes, seen)]))

    @property
    def boxes(self) -> list[Box | None]:
        """The box in every frame, once the search is over."""
        return self.known(None)

    @property
    def seen(self) -> np.ndarray:
        """Where the face was seen, (frames, 4), once the search is over."""
        self.known(None)
        return np.concatenate(self._seen)

    def known(self, count: int | None, reading: Reading | None = None) -> list[Box | None]:
        """Return the boxes of ``count`` frames or more (None: all); fewer if there are no more, or it is stopped.

        Raises RuntimeError for whoever waits beside readings that are all stopped: what they wait for is not wanted.
        """
        boxes = self._boxes
        while (count is None or len(boxes) < count) and not (reading and reading.stopped) and self._go_on():
            boxes = self._boxes  # another list, where somebody has closed the path and the search began anew
            if not reading and self._is_given_up():
                raise RuntimeError("whoever followed this face has stopped; ask again")
        return boxes

    def _is_given_up(self) -> bool:
        with self._counting:
            return bool(self._readings) and all(reading.stopped for reading in self._readings)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """Whoever follows the face to its end does so inside; when the last of them leaves, the search ends."""
        with self._counting:
            reading = Reading()
            self._readings.append(reading)
        try:
            yield reading
        finally:
            with self._counting:
                self._readings.remove(reading)
                nobody_else = not self._readings
            if nobody_else:
                self.close()

    def shot(self, index: int) -> int:
        """Return with which frame the shot begins that a known frame lies in."""
        return self._starts[bisect.bisect_right(self._starts, index) - 1]

    def begin(self) -> int:
        """Search until there is a face, or raise for want of one; return the first frame that shows it."""
        while not any(self._boxes) and self._go_on():
            pass
        return next(i for i, box in enumerate(self._boxes) if box is not None)

    def shot_end(self, shot: int) -> int | None:
        """Return with which frame the shot is over that starts there, if that is known."""
        return next(iter(self._starts[bisect.bisect_right(self._starts, shot) :]), None)

    def first_face(self, shot: int) -> int | None:
        """Return the first frame with a face in the shot that starts there, as far as it is known."""
        known = enumerate(self._boxes[shot : self.shot_end(shot)], shot)
        return next((i for i, box in known if box is not None), None)

    def far_from_gap(self, index: int, most: int) -> int:
        """Return how far the nearest frame of its shot without a face is from a known frame, or ``most``."""
        boxes, shot = self._boxes, self.shot(index)
        end = self.shot_end(shot) or len(boxes)
        for far in range(1, most):
            if any(shot <= i < min(end, len(boxes)) and boxes[i] is None for i in (index - far, index + far)):
                return far
        return most

    @property
    def shots(self) -> list[int]:
        """The frames with which shots begin, once the search is over."""
        count = len(self.known(None))
        return [start for start in self._starts if start < count]

    def close(self) -> None:
        """End a search that is not over; whoever asks for more has it begin again."""
        with self._lock:
            if not self._over:
                self._pieces.close()
                self._begin()

    def _begin(self) -> None:
        self._pieces, self._over = self._search(), False
        self._failed: Exception | None = None
        self._boxes: list[Box | None] = []
        self._seen: list[np.ndarray] = []
        self._starts = [0]  # of shots

    def _go_on(self) -> bool:
        """Wait for the next piece; return False if there is none."""
        with self._lock:
            if self._failed:
                raise _bare(self._failed)
            try:
                boxes, seen, shot_ends = next(self._pieces)
            except StopIteration:
                self._over = True
                return False
            except Exception as error:  # for whoever asks, until ``close``: another search would fail as well
                self._failed = _bare(error)  # without the traceback, which holds the search
                raise
            except BaseException:  # somebody wanted it to stop
                self._begin()
                raise
            self._boxes += boxes
            self._seen.append(seen)
            if shot_ends and len(self._boxes) > self._starts[-1]:
                self._starts.append(len(self._boxes))
            return True


def _bare(error: Exception) -> Exception:
    """Return a copy of an error without its traceback; of one that cannot be copied, itself."""
    try:
        return copy.copy(error)
    except Exception:  # whatever its own constructor makes of that
        return error.with_traceback(None)
