"""Where shots begin: how much each frame differs from the one before, and which of these changes are cuts."""

from __future__ import annotations

import cv2
import numpy as np

THUMBNAIL = (48, 27)  # pixels; enough to notice a cut
CUT_CHANGE = 12.0  # grey levels between thumbnails; less is never a cut
CUT_RATIO = 4.0  # a cut stands out from the frames around it by this factor
CUT_NEIGHBOURS = 8  # frames compared on each side
MOVING = 2  # if this many of them differ at all from the frame before, something moves
FLASH_FRAMES = 3  # at most, of a flash of light or a lost frame; the picture is the same before and after
RECENT = FLASH_FRAMES + 1  # number of thumbnails that are compared with the next
LOOKAHEAD = CUT_NEIGHBOURS + FLASH_FRAMES  # frames after which it is certain whether a shot begins


def shrink(frame: np.ndarray) -> np.ndarray:
    """Return the thumbnail by which frames are compared. Large pictures are subsampled first, which is as reliable."""
    step = max(1, min(frame.shape[:2]) // 180)
    return cv2.resize(np.ascontiguousarray(frame[::step, ::step]), THUMBNAIL, interpolation=cv2.INTER_AREA)


def add_change(change: list[float], thumbnails: list[np.ndarray], frame: np.ndarray) -> None:
    """Append to ``change`` by how many grey levels ``frame`` differs from the one before (0 if there is none).

    ``thumbnails`` are those of the frames before, of which ``RECENT`` are needed, and gets that of ``frame``. Where
    the picture returns to what it was, the frames in between were a flash: their changes, as far as ``change`` has
    them, are lowered to that of the picture.
    """
    thumbnail = shrink(frame)
    before = thumbnails[: -RECENT - 1 : -1]  # the last one first
    changes = [float(cv2.absdiff(thumbnail, other).mean()) for other in before] or [0.0]
    change.append(changes[0])
    flash = next((frames for frames, value in enumerate(changes) if value <= CUT_CHANGE), 0)  # its length
    for n in range(1, min(flash + 1, len(change)) + 1):
        change[-n] = min(change[-n], changes[flash])
    thumbnails.append(thumbnail)


def cuts_between(change: list[float], start: int, stop: int) -> list[int]:
    """Return the cuts of ``find_cuts`` from frame ``start`` on and before ``stop``."""
    first = max(0, start - CUT_NEIGHBOURS - 1)  # one more, because the first value is not a difference
    cuts = find_cuts(np.array(change[first : stop + CUT_NEIGHBOURS]))
    return [first + cut for cut in cuts if start <= first + cut < stop]


def find_cuts(change: np.ndarray) -> list[int]:
    """Return the frames that start a new shot: those that differ from the one before far more than their neighbours.

    If frames are repeated, as in a slow video at a higher rate, only the first of each counts.
    """
    cuts = []
    for i in np.flatnonzero(change > CUT_CHANGE):
        around = np.concatenate((change[max(1, i - CUT_NEIGHBOURS) : i], change[i + 1 : i + 1 + CUT_NEIGHBOURS]))
        moving = around[around > 0]
        around = moving if len(moving) >= MOVING else around  # otherwise a slide show, in which each slide is a shot
        if i > 0 and (around.size == 0 or change[i] > CUT_RATIO * np.median(around)):
            cuts.append(int(i))
    return cuts
