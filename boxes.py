"""Where the face is in every frame: one box each, in whole pixels, or none."""

from __future__ import annotations

import bisect
import contextlib
import copy
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from errors import UserError
from face_detection.detections import Detections
from face_detection.tracking import Steadying, gap_of, most_together, settle, shows_profiles
from video import VideoInfo

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; where the edge of the frame cuts a face, beyond it
MOUTH = np.array([0.5, 0.76])  # where the middle of the mouth is in a box, in shares of its width and height


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
        while (count is None or len(self._boxes) < count) and not (reading and reading.stopped) and self._go_on():
            if not reading and self._is_given_up():
                raise RuntimeError("whoever followed this face has stopped; ask again")
        return self._boxes

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


def follow(
    seen: Iterable[Detections],
    picture: VideoInfo,
    pads: Sequence[int],
    face_index: int | None = None,
    smooth: bool = True,
) -> Generator[Piece, None, None]:
    """Follow one face through what a detector saw: the largest, or the one that is ``face_index``-th from the left.

    ``seen`` is that, each time that there is more of it. ``pads`` are pixels added to the box: top, bottom, left,
    right. Raises UserError, at the end, if there is no such face.
    """
    return place(_checked(seen, picture, face_index), picture, pads, smooth)


def _checked(
    seen: Iterable[Detections], picture: VideoInfo, face_index: int | None
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield what ``settle`` does; raise UserError, at the end, if that is nobody and the reason is known."""
    found, faces, gap = Detections(), False, gap_of(picture.fps)

    def noted() -> Iterator[Detections]:
        nonlocal found
        for more in seen:
            found = more
            yield more

    for rows, shot_ends in settle(noted(), gap, face_index):
        faces = faces or not np.isnan(rows).all()
        yield rows, shot_ends
    if face_index is not None and not faces:
        check_face_index(face_index, most_together(found, gap))
    if not faces and shows_profiles(found):
        raise UserError(
            f"{picture.path} shows faces only in profile, or on their side, where no mouth can be drawn; use a part in "
            "which somebody faces the camera, --rotate a picture that lies on its side, or give --box yourself"
        )


def place(
    rows: Iterable[tuple[np.ndarray, bool]], picture: VideoInfo, pads: Sequence[int], smooth: bool
) -> Generator[Piece, None, None]:
    """Make boxes to draw in of where one person was seen, (n, 4), NaN where not, each with whether a shot ends there.

    Raises UserError, at the end, if that was nowhere, or the pads leave nothing of it.
    """
    steady, faces, drawn, count = Steadying(gap_of(picture.fps), smooth), False, False, 0
    for seen, shot_ends in rows:
        count += len(seen)
        followed = steady.add(seen, shot_ends)
        boxes = _placed(followed, pads, picture)
        faces, drawn = faces or not np.isnan(followed).all(), drawn or any(boxes)
        yield Piece(boxes, seen, shot_ends)
    _check_any(faces, drawn, pads, picture, count)


def only(pieces: Iterable[Piece], part: slice, picture: VideoInfo) -> Generator[Piece, None, None]:
    """Yield only what lies in a ``part`` of the frames; raise UserError, at the end, if the face is in none of them."""
    passed, looked_at, drawn = 0, 0, False
    for boxes, seen, shot_ends in pieces:
        boxes_inside, seen_inside = (slice(max(0, part.start - n), max(0, part.stop - n)) for n in (passed, looked_at))
        passed, looked_at = passed + len(boxes), looked_at + len(seen)
        drawn = drawn or any(boxes[boxes_inside])
        yield Piece(boxes[boxes_inside], seen[seen_inside], shot_ends)
    if not drawn:
        raise no_face(picture, part.start, part.stop - part.start)


def fixed_box(box: Sequence[int], picture: VideoInfo) -> Box:
    """Turn top, bottom, left, right into a box; raise UserError if it does not lie inside the frame.

    They count in pixels of the frame as it was given, also where a large photo is shrunk.
    """
    top, bottom, left, right = box
    width, height = picture.unshrunk
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UserError(
            f"--box {top} {bottom} {left} {right} (top bottom left right) does not lie inside the "
            f"{width}x{height} frame"
        )
    across, down = picture.width / width, picture.height / height
    x1, y1 = math.floor(left * across), math.floor(top * down)
    return x1, y1, max(x1 + 1, round(right * across)), max(y1 + 1, round(bottom * down))


def check_face_index(index: int, count: int) -> None:
    """Raise UserError if there are faces, but not so many."""
    if 0 < count <= index:
        on_view = f"{count} faces are" if count > 1 else "one face is"
        raise UserError(f"--face_index {index}, but {on_view} on view at most, counted from 0 at the left")


def padded_boxes(boxes: np.ndarray, pads: Sequence[int], picture: VideoInfo) -> list[Box | None]:
    """(frames, 4) float boxes, NaN where missing -> whole pixels inside the picture, None where nothing is left.

    Raises UserError when no frame has a face, or the pads leave none.
    """
    placed = _placed(boxes, pads, picture)
    _check_any(not np.isnan(boxes).all(), any(placed), pads, picture, len(boxes))
    return [box and within(box, picture.width, picture.height) for box in placed]


def _placed(boxes: np.ndarray, pads: Sequence[int], picture: VideoInfo) -> list[Box | None]:
    """(frames, 4) float boxes, NaN where missing -> whole pixels, None where there is no mouth in the picture.

    A face that the picture's edge cuts keeps its whole box, as far as it was seen: else all of it would be taken for
    more of a face than it is, and its mouth for elsewhere.
    """
    share = picture.width / picture.unshrunk[0]
    top, bottom, left, right = (round(share * pad) for pad in pads)  # which count in the photo as it is
    limits = np.array([picture.width, picture.height])
    lowest, highest = np.minimum(boxes[:, :2], 0), np.maximum(boxes[:, 2:], limits)
    padded = boxes + np.array([-left, -top, right, bottom])
    padded = np.round(np.clip(padded, np.tile(lowest, 2), np.tile(highest, 2)))  # pads end with the picture
    corner, size = padded[:, :2], padded[:, 2:] - padded[:, :2]
    mouth = corner + MOUTH * size
    usable = ((size > 0) & (mouth >= 0) & (mouth < limits)).all(1)  # False for NaN
    whole = np.nan_to_num(padded).astype(int).tolist()
    return [(x1, y1, x2, y2) if ok else None for (x1, y1, x2, y2), ok in zip(whole, usable)]


def within(box: Box, width: int, height: int) -> Box:
    """Return the part of a box that lies in a picture."""
    x1, y1, x2, y2 = box
    return max(0, x1), max(0, y1), min(width, x2), min(height, y2)


def shown_in(frame: np.ndarray, box: Box) -> np.ndarray:
    """Return what a frame shows in a box, a view of it; if that reaches beyond it, a copy in which its edge goes on."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = within(box, width, height)
    inside = frame[y1:y2, x1:x2]
    beyond = (y1 - box[1], box[3] - y2, x1 - box[0], box[2] - x2)
    return cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE) if any(beyond) else inside


def put_back(frame: np.ndarray, box: Box, shown: np.ndarray) -> None:
    """Write into a frame what ``shown_in`` has given, and somebody has changed; nothing if it is a view."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = inside = within(box, width, height)
    if inside != box:
        frame[y1:y2, x1:x2] = shown[y1 - box[1] : y2 - box[1], x1 - box[0] : x2 - box[0]]


def _check_any(faces: bool, drawn: bool, pads: Sequence[int], picture: VideoInfo, count: int) -> None:
    """Raise UserError if ``count`` frames had no ``faces``, or nothing of them is left to be ``drawn``."""
    if not faces:
        raise no_face(picture, 0, count)
    if not drawn and not any(pads):
        raise UserError(f"the edge of {picture.path} cuts the face off at its mouth; show more of it")
    if not drawn:
        raise UserError("--pads {} {} {} {} leave nothing of the face; use smaller numbers".format(*pads))


def no_face(picture: VideoInfo, first: int, count: int) -> UserError:
    """Return what to say where none of ``count`` frames, from ``first`` on, has a face; others may have one."""
    start = picture.start + first
    seconds = (float(frame / picture.fps) for frame in (start, start + count))
    where = " from {:.2f} to {:.2f} s, where it was looked for".format(*seconds)
    if picture.is_image:
        where = ""
    elif count == 1:
        where = " in its first frame, which alone is used"
    return UserError(
        f"no face was found in {picture.path}{where}; try another --face_detector, --rotate if the picture lies on "
        "its side, --crop to the face if it is tiny, or give --box yourself"
    )


def describe_missing(boxes: Sequence[Box | None], fps: float, what: str = "", first: int = 0) -> str:
    """Say which frames have no face, or which seconds do not show ``what``; "" if all do.

    ``first`` is the number of the first box's frame.
    """
    missing = np.array([box is None for box in boxes])
    if not missing.any():
        return ""
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False)) + first
    spans = list(zip(edges[::2], edges[1::2]))
    if what:
        runs = [f"{start / fps:.1f}-{stop / fps:.1f}" for start, stop in spans]
    else:
        runs = [f"{start}-{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in spans]
    where = ", ".join(runs[:8]) + (", …" if len(runs) > 8 else "")
    count = missing.sum()
    lack = f"do not show {what}: seconds" if what else "have no face, or one in profile:"
    return f"{count} of {len(boxes)} frames ({count / fps:.1f} s) {lack} {where}"
