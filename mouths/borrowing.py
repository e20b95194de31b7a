"""What a drawn mouth gets of the filmed one that it was made from: its colours, and the detail that 96 pixels lack."""

from __future__ import annotations

import cv2
import numpy as np

from mouths import masks
from mouths.references import Loan

ROWS, COLUMNS = slice(54, 92), slice(24, 72)  # of a face of 96 pixels: around the lips, with room for their movements
MIDDLE, WINDOW = np.array([[[48, 73]]], np.float32), (40, 26)  # x and y of the mouth; width and height
FARTHEST = 4.0  # pixels by which a mouth is moved at most
AKIN, STRANGE = 15.0, 40.0  # levels of luma: what is nearer gets all of the colours, what is farther none
ALIKE, UNLIKE = 12.0, 28.0  # grey levels: what is nearer gets all of the detail, what is farther none


def borrow(face: np.ndarray, loan: Loan) -> tuple[np.ndarray, np.ndarray]:
    """Return a drawn face (96, 96, 3), float32, in the colours of the mouth it was lent, and finer detail.

    The colours only: how bright a pixel is, is the network's, as that is where the sound is. The detail is that of
    ``ROWS`` and ``COLUMNS``, (76, 96, 3) float32 in grey levels, around 0. Both only where the two are much alike.
    """
    assert loan.mouth is not None  # the caller asks
    drawn = _in_colours_of(_laid_upon(face, loan.shown), face[ROWS, COLUMNS], loan.share)
    mouth = _laid_upon(face, loan.mouth)
    small = cv2.resize(mouth, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
    apart = cv2.GaussianBlur(masks.apart(drawn, small), (0, 0), 1)
    alike = loan.share * masks.lips()[ROWS, COLUMNS] * (1 - masks.smooth_step((apart - ALIKE) / (UNLIKE - ALIKE)))
    size = mouth.shape[1::-1]
    finer = cv2.resize(alike, size)[..., None] * (mouth - cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))
    face = face.copy()
    face[ROWS, COLUMNS] = drawn
    return face, finer


def _laid_upon(face: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return ``ROWS`` and ``COLUMNS`` of another face, moved so that its mouth lies where that of ``face`` does.

    Float32, as large as in ``other``, which has 96 pixels or a multiple.
    """
    scale = len(other) // len(face)
    small = cv2.resize(other, face.shape[1::-1], interpolation=cv2.INTER_AREA) if scale > 1 else other
    x, y = _movement(small.astype(np.float32), face)
    movement = np.array([[1, 0, scale * (x - COLUMNS.start)], [0, 1, scale * (y - ROWS.start)]], np.float32)
    size = scale * (COLUMNS.stop - COLUMNS.start), scale * (ROWS.stop - ROWS.start)
    return cv2.warpAffine(other, movement, size, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _movement(there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return by how many pixels a mouth is to be moved to lie upon another, x and y (Lucas and Kanade, 1981)."""
    one, other = (cv2.cvtColor(face, cv2.COLOR_BGR2GRAY) for face in (there, here))
    one, other = (np.clip(grey - grey[ROWS, COLUMNS].mean() + 128, 0, 255).astype(np.uint8) for grey in (one, other))
    found, known, _ = cv2.calcOpticalFlowPyrLK(one, other, MIDDLE, MIDDLE.copy(), winSize=WINDOW, maxLevel=1)
    movement = (found - MIDDLE)[0, 0]
    return movement if known.all() and np.abs(movement).max() <= FARTHEST else np.zeros(2)


def _in_colours_of(filmed: np.ndarray, drawn: np.ndarray, share: float) -> np.ndarray:
    """Return a drawn mouth, as bright as it was; by ``share``, with the colours of the filmed one."""
    ours, theirs = (cv2.cvtColor(one / 255, cv2.COLOR_BGR2YCrCb) for one in (drawn, filmed))
    apart = 255 * np.abs(cv2.GaussianBlur(ours[..., 0] - theirs[..., 0], (0, 0), 2))
    alike = masks.lips()[ROWS, COLUMNS] * (1 - masks.smooth_step((apart - AKIN) / (STRANGE - AKIN)))
    alike = share * cv2.GaussianBlur(alike, (0, 0), 1.5)
    ours[..., 1:] += alike[..., None] * cv2.GaussianBlur(theirs[..., 1:] - ours[..., 1:], (0, 0), 1)
    return np.clip(255 * cv2.cvtColor(ours, cv2.COLOR_YCrCb2BGR), 0, 255)
