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
# frames within which the picture becomes another one. Of a longer dissolve the last ones count; it is missed if they
# change little, as those of 60 frames between pictures 36 grey levels apart
DISSOLVE_FRAMES = 32
DISSOLVE_CHANGE = 1.5 * CUT_CHANGE  # grey levels between the pictures before and after it
MAX_STEP = 0.2  # of that change, from one frame to the next; more is left to be a cut
MAX_DEVIATION = 0.2  # of that change, from a mixture of both pictures; more is motion
SAME_PICTURE = 0.9  # correlation of both above which only the light has changed
SETTLING, SETTLED = 3, 1 / 3  # frames in which a mixture may change by this share of what it did before, at its end
OVER = 0.95  # share of the last picture from which on a dissolve is over
RECENT = DISSOLVE_FRAMES + SETTLING  # number of thumbnails that are compared with the next
LOOKAHEAD = CUT_NEIGHBOURS + FLASH_FRAMES  # frames after which it is certain whether a shot begins


def shrink(frame: np.ndarray) -> np.ndarray:
    """Return the thumbnail by which frames are compared. Large pictures are subsampled first, which is as reliable."""
    step = max(1, min(frame.shape[:2]) // 180)
    return cv2.resize(np.ascontiguousarray(frame[::step, ::step]), THUMBNAIL, interpolation=cv2.INTER_AREA)


def add_change(change: list[float], thumbnails: list[np.ndarray], frame: np.ndarray) -> None:
    """Append to ``change`` by how many grey levels ``frame`` differs from the one before (0 if there is none).

    ``thumbnails`` are those of the frames before, of which ``RECENT`` are needed, and gets that of ``frame``. Where
    the picture returns to what it was, the frames in between were a flash: their changes, as far as ``change`` has
    them, are lowered to that of the picture. Where one picture has dissolved into another, or become black, the last
    frame's change is that of the pictures, as at a cut.
    """
    thumbnail = shrink(frame)
    before = thumbnails[: -FLASH_FRAMES - 2 : -1]  # the last one first
    changes = [float(cv2.absdiff(thumbnail, other).mean()) for other in before] or [0.0]
    change.append(changes[0])
    flash = next((frames for frames, value in enumerate(changes) if value <= CUT_CHANGE), 0)  # its length
    for n in range(1, min(flash + 1, len(change)) + 1):
        change[-n] = min(change[-n], changes[flash])
    thumbnails.append(thumbnail)
    if dissolved := dissolve_change(thumbnails):
        earlier = (dissolve_change(thumbnails[:-n]) for n in range(1, SETTLING + 1))
        change[-1] = change[-1] if any(earlier) else dissolved  # only the first frame after it


def dissolve_change(thumbnails: list[np.ndarray]) -> float:
    """Return how many grey levels are between the pictures if one has dissolved into the last; 0 if none has.

    In a dissolve, or a fade, every picture is a mixture of the same two. Moving pictures are not, and where only the
    light changes, both are alike.
    """
    thumbnails = thumbnails[-DISSOLVE_FRAMES - 1 :]
    apart = float(cv2.absdiff(thumbnails[0], thumbnails[-1]).mean())
    if len(thumbnails) <= DISSOLVE_FRAMES or apart <= DISSOLVE_CHANGE:
        return 0.0
    pictures = np.stack(thumbnails).reshape(len(thumbnails), -1).astype(np.float32)
    first, last = pictures[0], pictures[-1]
    along = (last - first) / np.square(last - first).sum()
    share = (pictures - first) @ along  # of the last picture in each
    settling = share[SETTLING:] - share[:-SETTLING]
    goes_on, was_over = settling[-1] > SETTLED * settling.max(), share[:-CUT_NEIGHBOURS].max() > OVER
    if goes_on or was_over or np.diff(share).max() > MAX_STEP:
        return 0.0
    mixtures = first + share[:, None] * (last - first)
    deviation = np.abs(pictures - mixtures).mean(1).max()
    both = np.stack((first, last)) - np.stack((first, last)).mean(1, keepdims=True)
    lengths = np.maximum(np.linalg.norm(both, axis=1), 1)  # a black picture has none
    alike = both[0] @ both[1] / lengths.prod() > SAME_PICTURE
    return 0.0 if alike or deviation > MAX_DEVIATION * apart else apart


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
