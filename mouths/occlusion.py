"""Detect what is in front of a face: a hand, a microphone, a caption.

It is not marked in the video. But a few seconds of a person show what the face below the eyes looks like in a given
pose. What is unlike all of that, reaches beyond the lips, and is larger than noise, is in front of the face.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from mouths import masks
from mouths.references import pose_of, poses_of

TOP = 36  # first row of a face of 96 pixels that is compared
SIZE = (32, 20)  # pixels, width and height, to which the rows below are shrunk
REACH = 2  # of these pixels: largest shift in a comparison
NEIGHBOURS = 10  # faces with which one is compared: those nearest in pose
PATCH = 3  # pixels: the side of the patches that are compared
CONTRAST = 36.0  # grey levels: of an ordinary face; in paler ones differences count for more
NEAR_POSE, FAR_POSE = 12.0, 16.0  # grey levels between poses: nearer can be compared, farther cannot
POSE_SCALE = 8.0  # grey levels between poses at which twice the difference is normal
POSSIBLE, CERTAIN = 7.0, 12.0  # grey levels from every known face, from which on it may be an object, and is one
SKIN = 16.0  # grey levels by which a pixel is nearer to skin than it was before
CHEEKS = slice(3, 7), slice(10, 22)  # of these pixels: nose and cheeks
MIN_PIXELS = 8  # pixels outside the lips that an object has at least
GROUP = (16.0, 0.04)  # grey levels, share of pixels: faces are alike if fewer pixels differ by more
HIDDEN = (0.5, 0.7)  # share of the lips: from the first to the second, less and less of the mouth is redrawn


class UnoccludedFace:
    """Faces of one person (N, 96, 96, 3) uint8 BGR, N > 0; those with something in front of them are left out.

    With ``chosen``, they have been left out already.
    """

    def __init__(self, faces: np.ndarray, chosen: bool = False) -> None:
        self._poses = poses_of(faces)
        lowers = [_lower(face) for face in faces]
        self._moved = np.stack([_moved(lower) for lower in lowers])  # (N, 3, shifts, 20, 32)
        contrast = float(np.median([cv2.cvtColor(face, cv2.COLOR_BGR2GRAY).std() for face in faces]))
        self._contrast = max(contrast, CONTRAST / 2) / CONTRAST
        self.chosen = np.ones(len(faces), bool) if chosen else self._unoccluded(lowers)
        self.faces = faces[self.chosen]
        self._poses, self._moved = self._poses[self.chosen], self._moved[self.chosen]

    def hidden(self, face: np.ndarray) -> np.ndarray:
        """Return where something is in front of a face (96, 96, 3): (96, 96) float32 in [0, 1]."""
        mask, lower = np.zeros(face.shape[:2], np.float32), _lower(face)
        pose_distances = np.abs(self._poses - pose_of(face)).mean((1, 2))
        nearest = pose_distances.argsort()[:NEIGHBOURS]
        least = float(pose_distances[nearest[0]])
        distances = self._distances(lower, nearest).min(0)
        known = self._moved[nearest[0], :, self._moved.shape[2] // 2].transpose(1, 2, 0)
        uncovered = _uncovered_skin(lower, known, SKIN * self._contrast)
        objects = _objects(distances / self._contrast / (1 + least / POSE_SCALE), uncovered)
        if least >= FAR_POSE or not objects.any():  # unknown, or nothing is there
            return mask
        mask[TOP:] = cv2.resize(objects, (face.shape[1], face.shape[0] - TOP), interpolation=cv2.INTER_LINEAR)
        mask = np.clip(1.5 * cv2.GaussianBlur(cv2.dilate(mask, np.ones((5, 5))), (0, 0), 1.5), 0, 1)
        covered = (mask * masks.lips()).sum() / masks.lips().sum()
        mask = np.maximum(mask, 1 - masks.falling(covered, *HIDDEN))
        return mask * np.float32(np.interp(least, (NEAR_POSE, FAR_POSE), (1, 0)))

    def _distances(self, lower: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Return how much patches differ from the nearest ones of each of these faces, (n, 20, 32), in grey levels."""
        others, here = self._moved[which], lower.transpose(2, 0, 1)[:, None]
        apart = (np.maximum(others, here) - np.minimum(others, here)).max(1)  # uint8 has no signs
        # as one tall picture; rows where two faces meet are outside the masks
        return cv2.blur(apart.reshape(-1, SIZE[0]), (PATCH, PATCH)).reshape(apart.shape).min(1)

    def _unoccluded(self, lowers: list[np.ndarray]) -> np.ndarray:
        """Return which faces have nothing in front of them, (N,) bool.

        Lips aside, such faces are alike, directly or through others that are like both. If a larger group of faces in
        a similar pose is alike, but unlike this face, there is something in front of this one.
        """
        outside, everybody = _outside(), np.arange(len(lowers))
        far = [(self._distances(one, everybody)[:, outside] > GROUP[0] * self._contrast).mean(1) for one in lowers]
        alike = np.maximum(far, np.transpose(far)) < GROUP[1]
        sizes = np.array([_reached(alike, i).sum() for i in range(len(lowers))])
        pose_distances = np.stack([np.abs(self._poses - one).mean((1, 2)) for one in self._poses])
        beside = (pose_distances < FAR_POSE) & (sizes > sizes[:, None])
        return np.logical_not(beside.any(1))


def _reached(alike: np.ndarray, start: int) -> np.ndarray:
    """Return which nodes of a graph (N, N) bool can be reached from ``start``: (N,) bool."""
    found = alike[start]
    while (more := alike[found].any(0)).sum() > found.sum():
        found = more
    return found


def _lower(face: np.ndarray) -> np.ndarray:
    """Return the lower part of a face, shrunk, and corrected for the light on its upper half: (20, 32, 3) uint8."""
    soft = cv2.GaussianBlur(face, (0, 0), 1.5)
    light = np.array(cv2.mean(soft[: len(soft) // 2])[:3], np.float32)
    small = cv2.resize(soft[TOP:], SIZE, interpolation=cv2.INTER_AREA)
    return np.clip(small - light + 128, 0, 255).astype(np.uint8)


def _moved(lower: np.ndarray) -> np.ndarray:
    """Return ``lower`` moved by up to ``REACH`` pixels each way: (3, shifts, 20, 32)."""
    wide = cv2.copyMakeBorder(lower, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE)
    views = np.lib.stride_tricks.sliding_window_view(wide, lower.shape[:2], (0, 1))  # (shifts, shifts, 3, 20, 32)
    return views.reshape(-1, 3, *lower.shape[:2]).swapaxes(0, 1)


def _uncovered_skin(lower: np.ndarray, known: np.ndarray, margin: float) -> np.ndarray:
    """Return where skin shows because what was in front of the ``known`` face is gone: (20, 32) bool."""
    skin = np.median(lower[CHEEKS].reshape(-1, 3), axis=0)
    here, before = (np.abs(one - skin).max(-1) for one in (lower, known))
    return (here < before - margin) & _mouth()  # beside the mouth are hair, collar and wall


def _objects(distances: np.ndarray, uncovered: np.ndarray) -> np.ndarray:
    """Return where the distances (20, 32) form an object, in [0, 1]; pixels in ``uncovered`` vote against it."""
    strange = ((distances > POSSIBLE) & _inside()).astype(np.uint8)
    count, labels = cv2.connectedComponents(strange)
    votes = ((distances > CERTAIN) & _outside()) * np.where(uncovered, -1, 1)
    sizes = np.bincount(labels.ravel(), votes.ravel(), count)
    sizes[0] = 0  # the background
    objects = masks.smooth_step(sizes.astype(np.float32) / MIN_PIXELS - 1)[labels]
    return cv2.morphologyEx(objects, cv2.MORPH_CLOSE, np.ones((3, 3)))


@functools.lru_cache(maxsize=1)  # every frame needs each of them
def _mouth() -> np.ndarray:
    return _small(masks.mouth()) > 0.3


@functools.lru_cache(maxsize=1)
def _inside() -> np.ndarray:
    return _small(masks.lower_face()) > 0.5


@functools.lru_cache(maxsize=1)
def _outside() -> np.ndarray:
    """Return where the lower face is that lips do not reach: (20, 32) bool."""
    return _inside() & (_small(masks.lips()) < 0.3)


def _small(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask[TOP:], SIZE, interpolation=cv2.INTER_AREA)
