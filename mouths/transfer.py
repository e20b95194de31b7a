"""Give a drawn mouth the colours of its reference, and the detail that 96 pixels lack."""

from __future__ import annotations

import cv2
import numpy as np

from mouths import masks
from mouths.alignment import MOUTH, grey, moved, movement
from mouths.references import ReferenceMouth

ROWS, COLUMNS = slice(54, 92), slice(24, 72)  # of a face of 96 pixels: around the lips, with room for their movements
# Pairs of thresholds of how much the two mouths differ: up to the first all is transferred, from the second on nothing
SAME_COLOURS = 15.0, 40.0  # levels of luma
SAME_DETAIL = 12.0, 28.0  # grey levels
REACH = range(-6, 7, 2)  # rows by which the source of a colour may be lower
CHANNEL_WEIGHTS = np.array([1, 0.4, 0.4], np.float32)  # weights of a level of luma, and of either chroma
ROW_COST = 0.7  # levels that a row of distance costs
TEMPERATURE = 3.0  # levels: a source that differs by so much more has a third of the weight


def transfer_appearance(face: np.ndarray, shown: np.ndarray, mouth: ReferenceMouth) -> tuple[np.ndarray, np.ndarray]:
    """Return a drawn face (96, 96, 3), float32, in the colours of its reference, and detail to add to it.

    ``shown`` and ``mouth`` are those of the ``Reference``. Only colours change: the brightness of a pixel stays the
    network's, since it follows the sound, unless a colour saturates. The detail is that of ``ROWS`` and ``COLUMNS``,
    (76, 96, 3) float32 in grey levels, around 0. Both apply only where the two mouths are much alike.
    """
    here = grey(face)
    seen = _aligned_with(here, shown) + mouth.light
    drawn = _in_colours_of(np.clip(seen, 0, 255), face[ROWS, COLUMNS], mouth.share)
    filmed = _aligned_with(here, mouth.picture) + mouth.light
    small = cv2.resize(filmed, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
    alike = mouth.share * masks.lips()[ROWS, COLUMNS] * masks.alike(drawn, small, *SAME_DETAIL)
    size = filmed.shape[1::-1]
    finer = cv2.resize(alike, size)[..., None] * (filmed - cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))
    face = face.copy()
    face[ROWS, COLUMNS] = drawn
    return face, finer


def _aligned_with(here: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return ``ROWS`` and ``COLUMNS`` of another face, with its mouth moved to where that of the grey face ``here`` is.

    Float32, at the size of ``other``, which is 96 pixels or a multiple.
    """
    small = cv2.resize(other, here.shape[::-1], interpolation=cv2.INTER_AREA)
    return moved(other, movement(grey(small), here, MOUTH), ROWS, COLUMNS).astype(np.float32)


def _in_colours_of(filmed: np.ndarray, drawn: np.ndarray, share: float) -> np.ndarray:
    """Return a drawn mouth, as bright as it was; by ``share``, with the colours of the filmed one.

    Each pixel gets the colour of the filmed pixel most like it, above or below, because lips move. Taken in place, the
    colour of the slit between lips made the lips of silence blue, and that of the chin a lower lip brown.
    """
    ours, theirs = (255 * cv2.cvtColor(one / 255, cv2.COLOR_BGR2YCrCb) for one in (drawn, filmed))
    apart = np.abs(cv2.GaussianBlur(ours[..., 0] - theirs[..., 0], (0, 0), 2))
    alike = masks.lips()[ROWS, COLUMNS] * masks.falling(apart, *SAME_COLOURS)
    alike = share * cv2.GaussianBlur(alike, (0, 0), 1.5)
    change = cv2.GaussianBlur(_colours_like(ours, theirs) - ours[..., 1:], (0, 0), 1)
    ours[..., 1:] += alike[..., None] * change
    return np.clip(255 * cv2.cvtColor(ours / 255, cv2.COLOR_YCrCb2BGR), 0, 255)


def _colours_like(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return Cr and Cb, (height, width, 2), of what in ``theirs``, up or down, is most like each pixel of ``ours``.

    Both are (height, width, 3) float32 Y, Cr and Cb of 0 to 255.
    """
    soft, others = cv2.GaussianBlur(ours, (0, 0), 1), cv2.GaussianBlur(theirs, (0, 0), 1)
    rows = np.arange(len(ours))
    places = [np.clip(rows + down, 0, rows[-1]) for down in REACH]
    unlike = [
        cv2.GaussianBlur(np.abs(soft - others[place]) @ CHANNEL_WEIGHTS, (0, 0), 1.2) + ROW_COST * abs(down)
        for place, down in zip(places, REACH)
    ]
    weights = np.exp((np.min(unlike, axis=0) - unlike) / TEMPERATURE)
    weights /= weights.sum(0)
    return np.einsum("phw,phwc->hwc", weights, np.stack([theirs[place, :, 1:] for place in places]))
