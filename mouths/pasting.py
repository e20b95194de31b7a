"""Paste a face that the generator drew into the frame that it was cropped from."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from boxes import crop_with_border, write_crop
from face_path import Box
from hparams import hparams as hp
from mouths import masks
from mouths.references import Reference
from mouths.transfer import COLUMNS, ROWS, transfer_appearance

# Pairs of thresholds are grey levels by which the network's face differs from what was filmed: see ``masks.falling``.
KEPT = 4.0, 12.0  # up to the first what was filmed is kept, from the second on it is replaced
SAME_DETAIL = 6.0, 16.0  # up to the first all of the filmed fine detail is added, from the second on none
COLOUR_GRID, COLOUR_SIGMA = (24, 24), 3.0  # pixels to which colours are shrunk; standard deviation of the blur of these
COLOUR_PRIOR = 0.05  # weight of the whole face's mean colour, in pixels of the grid that are alike
MAX_COLOUR = 24.0  # largest correction of colours, in grey levels
TEETH_CHROMA = 0.3  # least chroma of teeth, as a share of that of skin, in any light
OUTLIERS = 2.0  # per cent of a face's pixels that are ignored when the extremes of its colours are taken
# Standard deviation of the filmed colours of one brightness, as a share of the mean brightness: up to the first a face
# has no colours of its own, from the second on it has all. Measured: black and white 0.011, sepia 0.002 to 0.018, clips
# in colour 0.027 to 0.107.
TINTED, COLOURED = 0.014, 0.024
STEEPEST = 0.25  # largest change of a tint with brightness; two unrelated colours differ by more
LUMA = (0.114, 0.587, 0.299)  # share of blue, green and red in a pixel's brightness (ITU-R BT.601)
RED_OF_GREEN = LUMA[1] / (LUMA[1] + LUMA[2])  # share of red in a change between the two that keeps the brightness


class DrawnFace(NamedTuple):
    """A face that the network drew, and what is needed to paste it."""

    face: np.ndarray  # (96, 96, 3) uint8 BGR
    filmed: np.ndarray  # what the frame shows there, likewise
    box: Box
    hidden: np.ndarray | float = 0.0  # (96, 96) in [0, 1]: what is in front of the face
    reference: Reference | None = None  # what it was drawn from instead of what was filmed


def paste(frame: np.ndarray, drawn: DrawnFace, blend: str, in_place: bool = False) -> np.ndarray:
    """Return ``frame``, or a copy of it unless ``in_place``, with a face resized to its box.

    A read-only frame is copied in any case. ``blend`` "box" replaces all of the box, as the reference does; "feather"
    the lips, and what else the network drew differently from what was filmed, with soft edges. The rest keeps the
    sharpness and grain of the frame. Where what is replaced was nearly the same, it gets the detail of the frame that a
    face of 96 pixels is too small to show. "feather" leaves what is hidden as it was filmed, whatever the network drew
    there, and gives the mouth the colours and detail of the reference that it was drawn from.
    """
    x1, y1, x2, y2 = drawn.box
    size = x2 - x1, y2 - y1
    whole = frame if in_place and frame.flags.writeable else frame.copy()
    target = crop_with_border(whole, drawn.box)
    if blend == "box":  # kept quirk: the whole box is replaced, its unmasked upper half included
        target[:] = cv2.resize(drawn.face, size)
        write_crop(whole, drawn.box, target)
        return whole
    *parts, finer = _mixed(drawn)
    how = cv2.INTER_AREA if max(size) < hp.img_size else cv2.INTER_CUBIC  # area makes blocks where a side grows
    # one kernel for both: what is subtracted of the frame must match what is kept of it to the pixel
    kept, added = (cv2.resize(part, size, interpolation=how) for part in parts)
    if finer is not None and max(size) > hp.img_size:  # smaller ones have no pixels for it
        place, detail = _placed(finer, size)
        added[place] += detail
    cv2.add(cv2.multiply(target, kept, kept, dtype=cv2.CV_32F), added, target, dtype=cv2.CV_8U)
    write_crop(whole, drawn.box, target)
    return whole


def _placed(finer: np.ndarray, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return which pixels of a face of ``size`` (width, height) the detail in ``finer`` reaches, and what they get.

    Detail must not move by a fraction of a pixel whenever a moving face changes its size.
    """
    scales = [side / hp.img_size for side in size]
    reached = [
        slice(math.floor(part.start * scale), math.ceil(part.stop * scale))
        for part, scale in zip((COLUMNS, ROWS), scales)
    ]
    where = np.zeros((2, 3))  # in ``finer``, of each pixel; both have their centres at n + 0.5
    for axis, (part, scale, pixels) in enumerate(zip((COLUMNS, ROWS), scales, reached)):
        finest = finer.shape[1 - axis] / (part.stop - part.start)
        where[axis, axis] = finest / scale
        where[axis, 2] = ((pixels.start + 0.5) / scale - part.start) * finest - 0.5
    width, height = (pixels.stop - pixels.start for pixels in reached)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return (reached[1], reached[0]), cv2.warpAffine(finer, where, (width, height), flags=how)


def _mixed(drawn: DrawnFace) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return how much of the frame is kept, (96, 96, 3) in [0, 1], and what is added to that, in grey levels.

    With a mask m, and a share a of detail: (1 - m) frame + m (face + a (frame - filmed)). The difference is what was
    lost to the network when the frame was shrunk to 96 pixels: hair, pores, grain, edges. The detail of
    ``transfer_appearance`` is returned as well, weighted by the rest, m (1 - a).
    """
    face, mask, finer = _changed(drawn)
    mask *= 1 - drawn.hidden
    shrunk = drawn.filmed.astype(np.float32)
    detail = mask * masks.alike(face, shrunk, *SAME_DETAIL)
    if finer is not None:
        finer *= cv2.resize((mask - detail)[ROWS, COLUMNS], finer.shape[1::-1])[..., None]
    return cv2.merge([1 - mask + detail] * 3), mask[..., None] * face - detail[..., None] * shrunk, finer


def _changed(drawn: DrawnFace) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the face in the colours that were filmed, a mask of where they differ, and the reference's detail.

    The mouth has the colours of the reference. The mask is (96, 96) in [0, 1].
    """
    face, filmed, reference = drawn.face.astype(np.float32), drawn.filmed.astype(np.float32), drawn.reference
    shown = filmed[_sample_mask()]
    face = _match_tint(face, filmed)
    apart = filmed - face
    even = np.median(apart[_beside_lips()], axis=0)  # otherwise a face in other light would differ everywhere
    alike = masks.lower_face() * (1 - _difference(face + even, filmed)) + 1e-3  # if nowhere, all of it counts
    face, finer = np.clip(face + np.clip(_colour_correction(apart, alike), -MAX_COLOUR, MAX_COLOUR), 0, 255), None
    if reference and reference.mouth:
        face, finer = transfer_appearance(face, reference.face, reference.mouth)
    face = _limit_mouth_tint(face, shown)
    # lips are always replaced: what is new about them may be less than the difference up to which skin is kept
    return face, masks.lower_face() * np.maximum(_difference(face, filmed), masks.lips()), finer


@functools.lru_cache(maxsize=1)
def _beside_lips() -> np.ndarray:
    """Return the lower face without the lips, (96, 96) bool."""
    return (masks.lower_face() > 0.5) & (masks.lips() == 0)


def _colour_correction(apart: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Return the correction of a face's colours, (96, 96, 3), that matches them to those that were filmed.

    Where the two are ``alike`` (96, 96), it is their difference ``apart``; elsewhere that of the surroundings, near and
    far.
    """
    weights = cv2.resize(alike, COLOUR_GRID, interpolation=cv2.INTER_AREA)[..., None]
    sums = cv2.resize(apart * alike[..., None], COLOUR_GRID, interpolation=cv2.INTER_AREA)
    mean = sums.sum((0, 1)) / weights.sum()
    near, total = (cv2.GaussianBlur(part, (0, 0), COLOUR_SIGMA) for part in (sums - weights * mean, weights))
    return mean + cv2.resize(near / (total[..., None] + COLOUR_PRIOR), alike.shape, interpolation=cv2.INTER_LINEAR)


def _match_tint(face: np.ndarray, filmed: np.ndarray) -> np.ndarray:
    """Return a face with a single colour per brightness if what was filmed has no others.

    This is none in black and white, and brown in sepia; networks always draw lips red. Both are (96, 96, 3) float32.
    """
    seen = cv2.cvtColor(cv2.GaussianBlur(filmed, (0, 0), 1.5)[::2, ::2] / 255, cv2.COLOR_BGR2YCrCb).reshape(-1, 3)
    mean = seen.mean(0)
    luma, chroma = seen[:, 0] - mean[0], seen[:, 1:] - mean[1:]
    slope = np.clip(luma @ chroma / (luma @ luma + 1e-3), -STEEPEST, STEEPEST)
    spread = (chroma - np.outer(luma, slope)).std(0).max() / (filmed.mean() / 255 + 1e-2)
    if not (share := float(masks.falling(spread, TINTED, COLOURED))):
        return face
    ours = cv2.cvtColor(face / 255, cv2.COLOR_BGR2YCrCb)
    ours[..., 1:] += share * (mean[1:] + (ours[..., :1] - mean[0]) * slope - ours[..., 1:])
    return np.clip(255 * cv2.cvtColor(ours, cv2.COLOR_YCrCb2BGR), 0, 255)


def _limit_mouth_tint(face: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return a face, float32, whose mouth is no greener or bluer than teeth in this light, or than what was filmed.

    ``shown`` (n, 3) are some of the filmed pixels. Networks know little of teeth, and draw them as the expert prefers
    them: greenish, then cyan.
    """
    redness = min(_percentiles(shown[:, 2] - shown[:, 1], OUTLIERS))
    blueness = max(_percentiles(shown[:, 0] - shown[:, 1], 100 - OUTLIERS))
    blue, green, red = cv2.split(face)
    lacking = masks.lips() * np.maximum(redness - (red - green), 0)
    red, green = red + RED_OF_GREEN * lacking, green - (1 - RED_OF_GREEN) * lacking
    excess = masks.lips() * np.maximum(blue - green - blueness, 0)
    lost = LUMA[0] * excess
    return cv2.merge([blue - excess + lost, green + lost, red + lost])


def _percentiles(values: np.ndarray, percent: float) -> tuple[float, float]:
    """Return ``TEETH_CHROMA`` times the median, and a percentile."""
    values = np.sort(values)
    return TEETH_CHROMA * float(values[len(values) // 2]), float(values[round((len(values) - 1) * percent / 100)])


@functools.lru_cache(maxsize=1)
def _sample_mask() -> np.ndarray:
    """Return some pixels that are surely of the lower face, (96, 96) bool: a quarter is enough for its colours."""
    some = masks.lower_face() > 0.9
    some[1::2] = some[:, 1::2] = False
    return some


def _difference(face: np.ndarray, filmed: np.ndarray) -> np.ndarray:
    """Return from 0 to 1 where two faces differ in more than sharpness, with some margin."""
    grey_levels = cv2.GaussianBlur(cv2.dilate(masks.difference(face, filmed), np.ones((5, 5))), (0, 0), 2)
    return 1 - masks.falling(grey_levels, *KEPT)
