"""How well lips follow a mouth whose movement is known, because the talking head or portrait was made from it.

``known`` and ``seen`` are mouth openings, (frames,). ``known`` is the ground truth of the speaker whose voice is used;
``seen`` is measured in generated frames, by landmarks or by ``opening_reader``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

import video
from rates import resample

REACH = 3  # frames searched each way
CLOSED, OPEN = 0.1, 0.5  # of the widest opening: lips are closed up to the first and open from the second
PHASES = ("closed", "opening", "open", "closing")
CROP_SIZE = (32, 24)  # pixels, width and height, of the crops from which openings are estimated
COMPONENTS = 12  # principal components of those crops

Reader = Callable[[np.ndarray], np.ndarray]  # crops (frames, pixels) -> openings (frames,)


@dataclass(frozen=True)
class Phase:
    """Known and seen openings in one phase of the speaker's lips: closed, opening, open or closing."""

    frames: int
    known: float  # mean
    seen: float  # mean
    error: float  # root mean square of their difference


@dataclass(frozen=True)
class ApertureFit:
    """How well lips follow. ``lag`` is the delay in frames at which they fit best, negative if they are early."""

    r: float  # Pearson's, at ``lag``
    lag: int
    by_lag: dict[int, float]  # Pearson's r
    phases: dict[str, Phase]  # at ``lag``; only phases that occur


def compare_apertures(seen: np.ndarray, known: np.ndarray) -> ApertureFit | None:
    """Compare over all lags; return None if there are too few frames, or if either mouth does not move."""
    count = min(len(seen), len(known))
    if count < 2 * REACH + 3:
        return None
    middle = known[REACH : count - REACH]
    moved = {lag: seen[REACH + lag : count - REACH + lag] for lag in range(-REACH, REACH + 1)}
    if not np.ptp(middle) or not all(map(np.ptp, moved.values())):
        return None
    by_lag = {lag: float(np.corrcoef(some, middle)[0, 1]) for lag, some in moved.items()}
    best = max(by_lag, key=by_lag.__getitem__)
    phase = phases_of(known)[REACH : count - REACH]
    return ApertureFit(by_lag[best], best, by_lag, _by_phase(moved[best], middle, phase))


def phases_of(known: np.ndarray) -> np.ndarray:
    """Return the name of the phase of each frame, (frames,); between closed and open, the slope decides."""
    between = np.where(np.gradient(known) >= 0, "opening", "closing")
    widest = known.max()
    return np.where(known <= CLOSED * widest, "closed", np.where(known >= OPEN * widest, "open", between))


def _by_phase(seen: np.ndarray, known: np.ndarray, phase: np.ndarray) -> dict[str, Phase]:
    chosen = {name: phase == name for name in PHASES}
    return {
        name: Phase(
            int(some.sum()),
            float(known[some].mean()),
            float(seen[some].mean()),
            float(np.sqrt(np.square(seen[some] - known[some]).mean())),
        )
        for name, some in chosen.items()
        if some.any()
    }


# --------------------------------------------------------------------------------------------------------------------
# Drawn heads, whose openings are estimated from pictures


def truth_of(path: Path) -> dict | None:
    """Return the ground truth of a video of one head by demo.talking_head, from the JSON file beside it, or None."""
    try:
        truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(truth, dict) or not {"aperture", "boxes"} <= truth.keys():
        return None
    return truth if all(len(found) == 1 and found[0] for found in truth["boxes"]) else None


def compare_head(made: Path, filmed: Path, speaker: Path) -> ApertureFit | None:
    """Compare a lip-synced drawn head with the apertures of the ``speaker`` whose sound it has; None if not known.

    How an open mouth of this head looks is learned from its ``filmed`` frames, whose apertures are known.
    """
    truth, said = truth_of(filmed), truth_of(speaker)
    if not truth or not said:
        return None
    rate = video.probe(filmed).fps
    read = opening_reader(mouths(filmed, truth["boxes"], rate), np.array(truth["aperture"]))
    known = np.array([*resample(said["aperture"], Fraction(said.get("fps", rate)), rate)])
    return compare_apertures(read(mouths(made, truth["boxes"], rate)), known)


def mouths(path: Path, boxes: list, rate: Fraction) -> np.ndarray:
    """Return crops of the mouth, (frames, pixels) float64, located by the face ``boxes`` of the ground truth.

    ``rate`` is how many of these there are a second; the video may have been made at another.
    """
    rows, source = [], video.probe(path)
    frames = resample(video.read_frames(source), source.fps, rate)
    for frame, ((x1, y1, x2, y2),) in zip(frames, boxes):
        top, side = y1 + 0.6 * (y2 - y1), 0.22 * (x2 - x1)
        crop = frame[max(0, int(top)) : int(y2), max(0, int(x1 + side)) : int(x2 - side)]
        rows.append(cv2.resize(crop, CROP_SIZE, interpolation=cv2.INTER_AREA).ravel())
    return np.array(rows, float)


def opening_reader(pictures: np.ndarray, known: np.ndarray) -> Reader:
    """Return a function from mouth crops to openings: least squares on the principal components of ``pictures``."""
    middle = pictures.mean(0)
    components = np.linalg.svd(pictures - middle, full_matrices=False)[2][:COMPONENTS].T

    def features(crops: np.ndarray) -> np.ndarray:
        return np.column_stack(((crops - middle) @ components, np.ones(len(crops))))

    weights_of, *_ = np.linalg.lstsq(features(pictures), known[: len(pictures)], rcond=None)
    return lambda crops: features(crops) @ weights_of
