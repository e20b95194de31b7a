"""The track of one face through a video, searched only as far as needed."""

from __future__ import annotations

import bisect
import contextlib
import copy
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; reaches beyond the frame if its edge cuts the face


class Piece(NamedTuple):
    """Final results for the next frames. ``boxes`` may lag a little behind ``seen``."""

    boxes: list[Box | None]  # to draw in, padded and smoothed; None where there is no face
    seen: np.ndarray  # detected boxes, (n, 4) float, NaN where none; not padded, smoothed or interpolated
    shot_ends: bool = False  # whether a shot ends with these frames


Reader = threading.Event  # of a face path: once it is set, it waits for no further results


class FacePath:
    """The boxes of one face, frame by frame; the search advances only when more are needed.

    ``search`` starts a new search, which yields pieces. Thread-safe.
    """

    def __init__(self, search: Callable[[], Generator[Piece, None, None]]) -> None:
        self._search, self._lock, self._going_on = search, threading.RLock(), False
        self._readers_lock = threading.Lock()
        self._readers: list[Reader] = []  # the active ones
        self._begin()

    @classmethod
    def of(cls, boxes: list[Box | None], seen: np.ndarray, shots: Sequence[int] = (0,)) -> FacePath:
        """Return a path whose boxes are already known, with the first frames of its shots."""
        parts = [slice(*ends) for ends in zip(shots, (*shots[1:], None))]
        # the last shot is left open: one box may be that of all frames
        return cls(lambda: (Piece(boxes[part], seen[part], part.stop is not None) for part in parts))

    @property
    def boxes(self) -> list[Box | None]:
        """The box in every frame; waits for the end of the search."""
        return self.known(None)

    @property
    def seen(self) -> np.ndarray:
        """The detected box in every frame, (frames, 4); waits for the end of the search."""
        self.known(None)
        return np.concatenate(self._seen)

    def known(self, count: int | None, reader: Reader | None = None) -> list[Box | None]:
        """Return the boxes of ``count`` frames or more (None: all); fewer if the video ends or ``reader`` is stopped.

        Raises RuntimeError if called without a ``reader`` while all active readers are stopped.
        """
        boxes = self._boxes
        while (count is None or len(boxes) < count) and not (reader and reader.is_set()) and self._go_on():
            boxes = self._boxes  # a new list if the path was closed and the search restarted
            if not reader and self._is_given_up():
                raise RuntimeError("the search for this face was stopped; try again")
        return boxes

    def _is_given_up(self) -> bool:
        with self._readers_lock:
            return bool(self._readers) and all(reader.is_set() for reader in self._readers)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """Register a reader for the duration of the block; when the last one leaves, the search is closed."""
        with self._readers_lock:
            reader = Reader()
            self._readers.append(reader)
        try:
            yield reader
        finally:
            with self._readers_lock:
                self._readers.remove(reader)
                nobody_else = not self._readers
            if nobody_else:
                self.close()

    def shot(self, index: int) -> int:
        """Return the first frame of the shot that contains a known frame."""
        return self._starts[bisect.bisect_right(self._starts, index) - 1]

    def begin(self) -> int:
        """Search until a face is found, and return its first frame; the search raises if there is none."""
        while not any(self._boxes) and self._go_on():
            pass
        return next(i for i, box in enumerate(self._boxes) if box is not None)

    def shot_end(self, shot: int) -> int | None:
        """Return the frame after the last of the shot that starts at ``shot``, or None if not yet known."""
        return next(iter(self._starts[bisect.bisect_right(self._starts, shot) :]), None)

    def first_face(self, shot: int) -> int | None:
        """Return the first frame with a face in the shot that starts at ``shot``, among the known frames."""
        known = enumerate(self._boxes[shot : self.shot_end(shot)], shot)
        return next((i for i, box in known if box is not None), None)

    def distance_to_gap(self, index: int, most: int) -> int:
        """Return the distance from a known frame to the nearest frame of its shot without a face, at most ``most``."""
        boxes, shot = self._boxes, self.shot(index)
        end = self.shot_end(shot) or len(boxes)
        for far in range(1, most):
            if any(shot <= i < min(end, len(boxes)) and boxes[i] is None for i in (index - far, index + far)):
                return far
        return most

    @property
    def shots(self) -> list[int]:
        """The first frames of all shots; waits for the end of the search."""
        count = len(self.known(None))
        return [start for start in self._starts if start < count]

    def close(self) -> None:
        """Close an unfinished search; if more is needed later, it starts again."""
        with self._lock:
            if not (self._over or self._going_on):  # in this thread, where the garbage collector may close a reader
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
                raise _without_traceback(self._failed)
            self._going_on = True
            try:
                boxes, seen, shot_ends = next(self._pieces)
            except StopIteration:
                self._over = True
                return False
            except Exception as error:  # raised again until ``close``, since another search would fail as well
                self._failed = _without_traceback(error)  # the traceback would keep the search alive
                raise
            except BaseException:  # an interrupt
                self._begin()
                raise
            finally:
                self._going_on = False
            self._boxes += boxes
            self._seen.append(seen)
            if shot_ends and len(self._boxes) > self._starts[-1]:
                self._starts.append(len(self._boxes))
            return True


def _without_traceback(error: Exception) -> Exception:
    """Return a copy of an error without its traceback, or the error itself if it cannot be copied."""
    try:
        return copy.copy(error)
    except Exception:  # its constructor may raise anything
        return error.with_traceback(None)
