"""Measures on lip landmarks: distance from where they should be, and how far the lips are open.

Landmarks are the 68 points of 300-W (Sagonas et al., 2013), pixels, (frames, 68, 2).
"""

from __future__ import annotations

import numpy as np

POINTS = 68
OUTER_EYES = (36, 45)  # their corners, the unit of distances
MOUTH_POINTS = slice(48, 68)
CORNERS = (60, 64)  # of the inner lips
UPPER, LOWER = (61, 62, 63), (67, 66, 65)  # of the inner lips, opposite each other
SHUT, OPEN = 5, 95  # percentiles of a speaker's mouth openings
# Of the mouth's width, above the opening of the speaker's shut mouth. On 400 GRID clips of a speaker whose lips rest
# together, they are further apart in 51 % of the frames in mid-sentence, and in 8 % of the first six, silent frames.
OPEN_MARGIN = 0.1

# 300-W points -> MediaPipe's points at the same places: corners of the eyes, outer and inner lips
MESH = {36: 33, 45: 263} | dict(
    enumerate((61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91, 78, 81, 13, 311, 308, 402, 14, 178), 48)
)


def of_mesh(points: np.ndarray) -> np.ndarray:
    """Convert MediaPipe's mesh (frames, 478, 2) to 300-W landmarks (frames, 68, 2): eyes and lips, the others 0."""
    found = np.zeros((len(points), POINTS, 2))
    found[:, list(MESH)] = points[:, list(MESH.values())]
    return found


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Return the distance between the outer corners of the eyes, (frames,)."""
    left, right = OUTER_EYES
    return np.linalg.norm(points[..., left, :] - points[..., right, :], axis=-1)


def aspect(points: np.ndarray) -> np.ndarray:
    """Return the mouth aspect ratio, (frames,): mean distance of the inner lips over the distance of their corners."""
    apart = np.linalg.norm(points[..., UPPER, :] - points[..., LOWER, :], axis=-1).mean(-1)
    left, right = CORNERS
    return apart / np.maximum(np.linalg.norm(points[..., left, :] - points[..., right, :], axis=-1), 1)


def landmark_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Return LMD, the mean distance of mouth landmarks (Chen et al., "Lip movements generation at a glance", 2018).

    As there, the mean points of the two videos are aligned first. The unit is the eye distance instead of pixels, so
    that LMD does not depend on the size of the picture.
    """
    mouths = [points[:, MOUTH_POINTS] - points[:, MOUTH_POINTS].mean((0, 1)) for points in (made, real)]
    return float((np.linalg.norm(mouths[0] - mouths[1], axis=-1) / eye_distance(real)[:, None]).mean())


def leak(quiet: np.ndarray, filmed: np.ndarray) -> float:
    """Return the share of frames with open lips in a video lip-synced to silence.

    LipLeak of KeySync (Bigata et al., 2025). ``quiet`` and ``filmed`` are aspects, (frames,). Many speakers' lips rest
    apart, so lips count as open if they are ``OPEN_MARGIN`` wider than the speaker's own shut mouth.
    """
    return float((quiet > np.percentile(filmed, SHUT) + OPEN_MARGIN).mean())


def movement(made: np.ndarray, filmed: np.ndarray) -> float:
    """Return the lips' movement, the standard deviation of aspects, over the speaker's; NaN if the speaker's is 0."""
    spread = float(filmed.std()) if np.ptp(filmed) else 0.0  # the deviation of equal values is not always exactly 0
    return float(made.std()) / spread if spread else float("nan")


def opening_share(quiet: np.ndarray, filmed: np.ndarray) -> np.ndarray:
    """Return the median and the widest opening, (2,), as shares of the speaker's range from shut to open."""
    shut, wide = np.percentile(filmed, [SHUT, OPEN])
    return (np.percentile(quiet, [50, OPEN]) - shut) / (wide - shut)
