"""Select mouths to show to the generator instead of each frame's own: shut, or as far open as the sound will open them.

The generator partly copies the mouth that it is shown: what was said when it was filmed, and the person's own teeth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mouths import masks
from mouths.alignment import EYES_AND_NOSE, MOUTH, grey, moved, movement

# Grey levels between poses: up to the first it is the same person in the same shot, from the second on it is not.
# Of 96 frames of twelve people, all came within 10 of a face of their own shot, once that was aligned with them; none
# came within 12.5 of anybody else.
SAME_SHOT, OTHER_SHOT = 8.0, 12.0
ALIGNED = 4.0  # grey levels between poses up to which faces need no alignment
OPENING_COST = 5.0  # of a mouth that is shut instead of wide open; each ``ALIGNED`` of pose costs 1
TEMPERATURE, MAX_MIXED = 0.25, 6  # of the softmax of costs that gives the faces' shares; most faces in a mixture
LEAST_SHARE = 0.02  # of a mixture; faces with no more are left out of it
OPEN_ALIKE = 0.2, 0.4  # difference in opening: up to the first a mouth looks as wanted, from the second on not
# Grey levels, and the share of pixels around the lips that differ by more: up to the first share it is the same skin,
# from the second on one of the two has a caption, a collar or another cheek there. In five clips of people it is 0.03
# at most in 98 of 100 faces; in three with captions it is 0.045 or more in half to three quarters of them.
FOREIGN, FOREIGN_SHARE = 60.0, (0.04, 0.065)
ABOVE, BELOW = slice(0, 80), slice(80, None)  # rows of a face of 96 pixels: down to where lips end, and from there on
JAW = 6  # most rows by which a jaw moves
# Natural logarithm of the ratio of two faces' brightness: below SAME_LIGHT it counts as the same light. Up to the first
# of OTHER_LIGHT a mouth is used, made as bright; from the second on, as in a fade from black or a flash, none is.
SAME_LIGHT, OTHER_LIGHT = 0.1, (0.7, 1.4)
EVEN = 0.6  # of the usual brightness of a person's faces: darker ones are left out, and those as much brighter
POSE_SIZE = (24, 12)  # pixels, width and height, to which the upper half of a face is shrunk to compare it


class ReferenceMouth(NamedTuple):
    """What a mouth as far open as wanted looks like, in more detail than the network is shown."""

    picture: np.ndarray  # (192, 192, 3) uint8 BGR: the face that has it
    share: float  # in (0, 1]: how well it matches what is wanted
    light: np.ndarray  # (3,) grey levels to add, so that it is in the light of the frame


class Reference(NamedTuple):
    """The face that the network is shown instead of a frame's own: with the mouth of one or more other frames."""

    face: np.ndarray  # (96, 96, 3) uint8 BGR
    mouth: ReferenceMouth | None = None  # of the face with the largest share, if it is much as wanted


class _Target(NamedTuple):
    """A face for which a reference is selected."""

    grey: np.ndarray  # (96, 96) uint8
    soft: np.ndarray  # (96, 96, 3) uint8, slightly blurred
    pose: np.ndarray  # see ``pose_of``
    wanted: float  # how far open its mouth should be
    around: np.ndarray  # (96, 96) bool: the skin around its lips that nothing hides

    def foreign(self, other: np.ndarray) -> float:
        """Return from 0 to 1 how much around the lips of another face does not belong to this one.

        If the jaw is elsewhere, so is its edge, which is nothing foreign. So below the lips, the other face is compared
        with this one moved up or down to where they are most alike.
        """
        size, other = np.count_nonzero(self.around), _soft(other)
        if not size:
            return 0.0
        above, below = (self._apart(other[part], part, 0) for part in (ABOVE, BELOW))
        if (above + below) / size > FOREIGN_SHARE[0]:  # rarely; otherwise the jaw need not be searched for
            below = min(self._apart(other[BELOW], BELOW, rows) for rows in range(-JAW, JAW + 1))
        return float(np.interp((above + below) / size, FOREIGN_SHARE, (0, 1)))

    def _apart(self, other: np.ndarray, part: slice, down: int) -> int:
        """Return how many pixels around the lips differ between rows of this face, moved ``down``, and another's."""
        rows = np.clip(np.arange(len(self.soft)) - down, 0, len(self.soft) - 1)
        here = self.soft[rows[part]]
        return int(np.count_nonzero((cv2.absdiff(here, other).max(-1) > FOREIGN) & self.around[part]))


class _Candidate(NamedTuple):
    """A face whose mouth may be shown, aligned with the target."""

    face: np.ndarray  # (96, 96, 3) uint8
    distance: float  # between their poses
    moved_by: np.ndarray  # x, y
    number: int
    gain: float  # factor by which it was made brighter
    share: float = 0.0  # of the mixture


class References:
    """Faces of one person (N, 96, 96, 3) uint8 BGR, N > 0; the mouth of the one in the nearest pose is shown.

    ``openings`` (N,): how far open each mouth is, 0 shut, 1 wide. With it, the mouth is also as far open as wanted, or
    a mixture of several that fit about as well, so that little changes from frame to frame. ``larger`` (N, 192, 192, 3)
    are the same faces. They show what such a mouth looks like; if all ``openings`` are 0, what any mouth of this person
    looks like: a person who smiles in a photo shows teeth.

    Faces in another pose are first aligned with the frame's face. Only the mouth is replaced: a jaw or an earring of
    another frame would be drawn beside the frame's own. If no face is in a similar pose, nothing is replaced: it is
    another shot, or another person. With ``whole_face``, a face is shown as a whole, whatever the frame.
    """

    def __init__(
        self,
        faces: np.ndarray,
        whole_face: bool = False,
        openings: np.ndarray | None = None,
        larger: np.ndarray | None = None,
    ) -> None:
        self.faces, self.whole_face, self.openings, self.larger = faces, whole_face, openings, larger
        self._poses = poses_of(faces)
        self._greys = [grey(one) for one in faces]
        self._lights = brightness(faces)

    def select(
        self, face: np.ndarray, share: float, wanted: float = 0.0, hidden: np.ndarray | float = 0.0
    ) -> Reference:
        """Return ``face`` (96, 96, 3) with the mouth of the nearest of these, blended by ``share``, 0 to 1.

        ``wanted`` is how far open the mouth should be. What is ``hidden`` (96, 96) behind something is replaced, too.
        """
        pose, brighter = pose_of(face), np.log((float(_light(face).mean()) + 1) / (self._lights + 1))
        gains = np.exp(np.sign(brighter) * np.maximum(np.abs(brighter) - SAME_LIGHT, 0))
        distances = np.abs(gains[:, None, None] * self._poses - pose).mean((1, 2))
        if self.whole_face:
            return Reference(cv2.addWeighted(face, 1 - share, self.faces[distances.argmin()], share, 0))
        around = masks.around_lips() & (np.asarray(hidden) < 0.5)
        target = _Target(grey(face), _soft(face), pose, wanted, around)
        candidates = self._candidates(target, distances, gains)
        share *= float(np.interp(abs(brighter[candidates[0].number]), OTHER_LIGHT, (1, 0)))
        distance = sum(one.share * one.distance for one in candidates)
        share *= float(np.interp(distance, (SAME_SHOT, OTHER_SHOT), (1, 0)))
        mixed = _mixed(_align_mouths(candidates))
        share *= 1 - target.foreign(mixed)
        mask = share * np.maximum(masks.mouth(), hidden)
        shown = cv2.blendLinear(mixed, face, mask, 1 - mask)
        if self.openings is None or self.larger is None:
            return Reference(shown)
        first = candidates[0]
        otherwise = abs(float(self.openings[first.number]) - wanted) if self.openings.any() else 0.0
        telling = share * float(np.interp(otherwise, OPEN_ALIKE, (1, 0)))
        if telling == 0:
            return Reference(shown)
        picture = moved(_exposed(self.larger[first.number], first.gain), first.moved_by)
        return Reference(shown, ReferenceMouth(picture, telling, _light(face) - _light(mixed)))

    def _candidates(self, target: _Target, distances: np.ndarray, gains: np.ndarray) -> list[_Candidate]:
        """Return the faces whose mouths fit, the best first; those in other poses are aligned with the target.

        ``distances`` (N,) are those between poses, once faces are made ``gains`` (N,) times as bright.
        """
        best = self._costs(np.arange(len(self.faces)), distances, target.wanted).argsort()[:MAX_MIXED]
        aligned = [self._aligned(target, int(i), float(distances[i]), float(gains[i])) for i in best]
        costs = self._costs(best, np.array([one.distance for one in aligned]), target.wanted)
        costs = costs + OPENING_COST * np.array([target.foreign(one.face) for one in aligned])
        shares = np.exp((costs.min() - costs) / TEMPERATURE)
        if self.openings is None:  # shut mouths: only the best one
            shares = np.eye(len(best))[costs.argmin()]
        shares /= shares.sum()
        return [aligned[i]._replace(share=float(shares[i])) for i in costs.argsort()]

    def _costs(self, which: np.ndarray, distances: np.ndarray, wanted: float) -> np.ndarray:
        """Return how far some of these faces, at these ``distances`` of pose, are from what is wanted."""
        if self.openings is None:
            return distances / ALIGNED
        # in another pose, a mouth does not fit, however open it is
        misfit = np.maximum(distances - SAME_SHOT, 0) / (OTHER_SHOT - SAME_SHOT)
        return np.maximum(distances / ALIGNED, 1) + OPENING_COST * (np.abs(self.openings[which] - wanted) + misfit)

    def _aligned(self, target: _Target, i: int, distance: float, gain: float) -> _Candidate:
        """Return a face in the target's light; if its pose differs, aligned with the target."""
        face = _exposed(self.faces[i], gain)
        as_it_is = _Candidate(face, distance, np.zeros(2), i, gain)
        otherwise = min(1.0, (distance - ALIGNED) / (SAME_SHOT - ALIGNED))
        if otherwise <= 0:
            return as_it_is
        moved_by = otherwise * movement(_exposed(self._greys[i], gain), target.grey, EYES_AND_NOSE)
        closer = moved(face, moved_by)
        left = float(np.abs(pose_of(closer) - target.pose).mean())
        return _Candidate(closer, left, moved_by, i, gain) if left < distance else as_it_is


def _align_mouths(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Align the mouths that are to be mixed: otherwise the mixture has double lips and rows of teeth.

    They are moved to their mean position: that of the best one changes from frame to frame, and the mouth would jump.
    """
    best, *others = some = [one for one in candidates if one.share > LEAST_SHARE]
    here = grey(best.face)
    apart = [np.zeros(2), *(movement(grey(one.face), here, MOUTH) for one in others)]
    middle = np.average(apart, 0, [one.share for one in some])
    return [one._replace(face=moved(one.face, by - middle)) for one, by in zip(some, apart)]


def _mixed(candidates: Sequence[_Candidate]) -> np.ndarray:
    """Return the mixture of several faces (96, 96, 3), weighted by their shares."""
    whole = sum(one.share for one in candidates)
    return np.rint(sum(one.share / whole * one.face.astype(np.float32) for one in candidates)).astype(np.uint8)


def _soft(face: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(face, (0, 0), 0.8)


def _exposed(face: np.ndarray, gain: float) -> np.ndarray:
    return face if gain == 1 else cv2.convertScaleAbs(face, alpha=gain)


def brightness(faces: np.ndarray) -> np.ndarray:
    """Return how bright the upper halves of faces (N, height, width, 3) are, (N,) in grey levels."""
    return np.array([_light(face).mean() for face in faces])


def evenly_lit(faces: np.ndarray) -> np.ndarray:
    """Return which of a person's faces are about as bright as most, (N,) bool: not in the middle of a fade or flash."""
    light = brightness(faces)
    usual = np.percentile(light, 50, method="nearest")  # that of one of the faces, so that at least this one is even
    return (light >= EVEN * usual) & (EVEN * light <= usual)


def _light(face: np.ndarray) -> np.ndarray:
    """Return the mean colour of a face's upper half, (3,), which measures the light that it is in."""
    return np.array(cv2.mean(face[: len(face) // 2])[:3], np.float32)


def pose_of(face: np.ndarray) -> np.ndarray:
    """Return the pose of a head, (12, 24) float32: the upper half of the face, which the jaw does not move."""
    upper = cv2.cvtColor(face[: len(face) // 2], cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(cv2.GaussianBlur(upper, (0, 0), 2), POSE_SIZE, interpolation=cv2.INTER_AREA)
    return small - small.mean()  # changes of light do not count


def poses_of(faces: Iterable[np.ndarray]) -> np.ndarray:
    """Return the poses of one face or more, (N, 12, 24)."""
    return np.stack([pose_of(face) for face in faces])
