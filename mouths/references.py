"""Mouths that the generator is shown instead of each frame's own: shut, or as far open as the sound will open them.

What the generator sees of a mouth it partly copies: what was said when it was filmed, and the person's own teeth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mouths import masks
from mouths.alignment import EYES_AND_NOSE, MOUTH, grey, moved, movement

# Grey levels between postures: nearer is the same person in the same shot, farther is not. Of 96 frames of twelve
# people, all came within 10 of a face of their own shot, once that was moved to where they were; none within 12.5 of
# anybody else.
SAME_SHOT, OTHER_SHOT = 8.0, 12.0
ALIGNED = 4.0  # grey levels between postures up to which a face needs not be moved to lie upon another
OPENING_COST = 5.0  # of a mouth that is shut where it should be wide open, against one more ``ALIGNED`` of posture
TEMPERATURE, MAX_MIXED = 0.25, 6  # of the softmax of such costs that gives the faces' shares; most faces in it
LEAST_SHARE = 0.02  # of a mixture, from which on a mouth in it is moved to where the others are
OPEN_ALIKE = 0.2, 0.4  # openings apart: up to the first a mouth looks as the wanted one does, from the second on not
# Share of the pixels around the lips that are more than so many grey levels apart: up to the first the same skin, from
# the second on there is a caption on one of the two, a collar, or another cheek. Of five clips of people it is 0.03 at
# most in 98 of 100 faces, of three with captions 0.045 or more in half to three quarters of them.
FOREIGN, FOREIGN_SHARE = 60.0, (0.04, 0.065)
ABOVE, BELOW = slice(0, 80), slice(80, None)  # rows of a face of 96 pixels: down to where lips end, and from there on
JAW = 6  # rows by which a jaw moves
# Natural logarithm of how many times as bright a face is: less than the first passes for the same light; up to the
# first of the others a mouth is taken, made as bright; from the second on none is: in a fade from black, or a flash
SAME_LIGHT, OTHER_LIGHT = 0.1, (0.7, 1.4)
EVEN = 0.6  # of the usual brightness of somebody's faces: darker ones tell nothing, nor those that are as much brighter
POSTURE = (24, 12)  # pixels, width and height, to which the upper half of a face is shrunk to compare it


class ReferenceMouth(NamedTuple):
    """What a mouth as far open as is wanted looks like, in more detail than the network sees."""

    picture: np.ndarray  # (192, 192, 3) uint8 BGR: the face that has it
    share: float  # in (0, 1]: how far it is as wanted
    light: np.ndarray  # (3,) by how many grey levels it is to be brighter, to be in the light of the frame


class Reference(NamedTuple):
    """The face that the network is shown instead of a frame's own: with the mouth of another moment, or of some."""

    face: np.ndarray  # (96, 96, 3) uint8 BGR
    mouth: ReferenceMouth | None = None  # that of the one of which most is shown, if it tells how such a mouth looks


class _Target(NamedTuple):
    """A face for which a reference is selected."""

    grey: np.ndarray  # (96, 96) uint8
    soft: np.ndarray  # (96, 96, 3) uint8, a little blurred
    held: np.ndarray  # its posture
    wanted: float  # how far open its mouth should be
    around: np.ndarray  # (96, 96) bool: the skin around its lips that nothing hides

    def foreign(self, other: np.ndarray) -> float:
        """Return from 0 to 1 how much there is around the lips of another face that is nothing of this one.

        Where the jaw is elsewhere its edge is, too, and nothing foreign: below the lips, the other is compared with
        this one moved up or down by what makes them most alike.
        """
        size, other = np.count_nonzero(self.around), _soft(other)
        if not size:
            return 0.0
        above, below = (self._apart(other[part], part, 0) for part in (ABOVE, BELOW))
        if (above + below) / size > FOREIGN_SHARE[0]:  # as a rule it is not, and no jaw need be looked for
            below = min(self._apart(other[BELOW], BELOW, rows) for rows in range(-JAW, JAW + 1))
        return float(np.interp((above + below) / size, FOREIGN_SHARE, (0, 1)))

    def _apart(self, other: np.ndarray, part: slice, down: int) -> int:
        """Return how many pixels around the lips differ, in some rows of this face moved ``down`` and another's."""
        rows = np.clip(np.arange(len(self.soft)) - down, 0, len(self.soft) - 1)
        here = self.soft[rows[part]]
        return int(np.count_nonzero((cv2.absdiff(here, other).max(-1) > FOREIGN) & self.around[part]))


class _Candidate(NamedTuple):
    """A face whose mouth may be shown, aligned with the target."""

    face: np.ndarray  # (96, 96, 3) uint8
    distance: float  # of their postures
    moved_by: np.ndarray  # x, y
    which: int = 0
    gain: float = 1.0  # by which it was made brighter
    share: float = 0.0


class References:
    """Faces of one person (N, 96, 96, 3) uint8 BGR, N > 0; the mouth of the one in the nearest posture is shown.

    ``apart`` (N,) is how far open each mouth is, 0 shut to 1 wide: then it is one that is also as far open as is
    wanted, or some that are nearly alike, mixed, so that from frame to frame little changes. ``larger`` (N, 192, 192,
    3) are the same faces. They tell what such a mouth looks like; if all of ``apart`` is 0, what any mouth of this
    person does: who smiles in a photo shows teeth.

    Those that are held otherwise are moved to where the frame's face is first. The rest stays the frame's own: a jaw or
    an earring of another moment would be drawn beside that of the frame. Where no face is held alike, all of it stays:
    it is another shot, or somebody else. A face that is for ``everywhere`` is shown as a whole, whatever the frame.
    """

    def __init__(
        self,
        faces: np.ndarray,
        everywhere: bool = False,
        apart: np.ndarray | None = None,
        larger: np.ndarray | None = None,
    ) -> None:
        self.faces, self.everywhere, self.apart, self.larger = faces, everywhere, apart, larger
        self._postures = postures_of(faces)
        self._greys = [grey(one) for one in faces]
        self._lights = brightness(faces)

    def select(
        self, face: np.ndarray, share: float, wanted: float = 0.0, hidden: np.ndarray | float = 0.0
    ) -> Reference:
        """Return ``face`` (96, 96, 3) with the mouth of the nearest of these: by ``share``, 0 to 1.

        ``wanted`` is how far open the mouth should be. What is ``hidden`` (96, 96) behind something is replaced, too.
        """
        held, brighter = posture(face), np.log((float(_light(face).mean()) + 1) / (self._lights + 1))
        gains = np.exp(np.sign(brighter) * np.maximum(np.abs(brighter) - SAME_LIGHT, 0))
        distances = np.abs(gains[:, None, None] * self._postures - held).mean((1, 2))
        if self.everywhere:
            return Reference(cv2.addWeighted(face, 1 - share, self.faces[distances.argmin()], share, 0))
        around = masks.around_lips() & (np.asarray(hidden) < 0.5)
        target = _Target(grey(face), _soft(face), held, wanted, around)
        candidates = self._candidates(target, distances, gains)
        share *= float(np.interp(abs(brighter[candidates[0].which]), OTHER_LIGHT, (1, 0)))
        distance = sum(one.share * one.distance for one in candidates)
        share *= float(np.interp(distance, (SAME_SHOT, OTHER_SHOT), (1, 0)))
        mixed = _mixed(_upon_each_other(candidates))
        share *= 1 - target.foreign(mixed)
        mask = share * np.maximum(masks.mouth(), hidden)
        shown = cv2.blendLinear(mixed, face, mask, 1 - mask)
        if self.apart is None or self.larger is None:
            return Reference(shown)
        first = candidates[0]
        otherwise = abs(float(self.apart[first.which]) - wanted) if self.apart.any() else 0.0
        telling = share * float(np.interp(otherwise, OPEN_ALIKE, (1, 0)))
        if telling == 0:
            return Reference(shown)
        picture = moved(_exposed(self.larger[first.which], first.gain), first.moved_by)
        return Reference(shown, ReferenceMouth(picture, telling, _light(face) - _light(mixed)))

    def _candidates(self, target: _Target, distances: np.ndarray, gains: np.ndarray) -> list[_Candidate]:
        """Return the faces whose mouths fit, the best first; those in other postures are aligned with the target.

        ``distances`` (N,) are those of the postures, when faces are made ``gains`` (N,) times as bright.
        """
        best = self._costs(np.arange(len(self.faces)), distances, target.wanted).argsort()[:MAX_MIXED]
        aligned = [self._aligned(target, i, float(distances[i]), float(gains[i])) for i in best]
        costs = self._costs(best, np.array([one.distance for one in aligned]), target.wanted)
        costs = costs + OPENING_COST * np.array([target.foreign(one.face) for one in aligned])
        shares = np.exp((costs.min() - costs) / TEMPERATURE)
        if self.apart is None:  # one that rests
            shares = np.eye(len(best))[costs.argmin()]
        shares /= shares.sum()
        return [aligned[i]._replace(which=int(best[i]), share=float(shares[i])) for i in costs.argsort()]

    def _costs(self, which: np.ndarray, distances: np.ndarray, wanted: float) -> np.ndarray:
        """Return how far some of these faces, at such ``distances``, are from what is wanted."""
        if self.apart is None:
            return distances / ALIGNED
        # in another posture, a mouth does not fit, however open it is
        misfit = np.maximum(distances - SAME_SHOT, 0) / (OTHER_SHOT - SAME_SHOT)
        return np.maximum(distances / ALIGNED, 1) + OPENING_COST * (np.abs(self.apart[which] - wanted) + misfit)

    def _aligned(self, target: _Target, i: int, distance: float, gain: float) -> _Candidate:
        """Return a face in the other's light; if it is held otherwise, moved to where the other is."""
        face = _exposed(self.faces[i], gain)
        as_it_is = _Candidate(face, distance, np.zeros(2), gain=gain)
        otherwise = min(1.0, (distance - ALIGNED) / (SAME_SHOT - ALIGNED))
        if otherwise <= 0:
            return as_it_is
        moved_by = otherwise * movement(_exposed(self._greys[i], gain), target.grey, EYES_AND_NOSE)
        closer = moved(face, moved_by)
        left = float(np.abs(posture(closer) - target.held).mean())
        return _Candidate(closer, left, moved_by, gain=gain) if left < distance else as_it_is


def _upon_each_other(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Move the mouths that are to be mixed upon each other: else the mixture has double lips and rows of teeth.

    To where they are in the mean: where the best of them is changes from frame to frame, and the mouth would jump.
    """
    best, *others = some = [one for one in candidates if one.share > LEAST_SHARE]
    here = grey(best.face)
    apart = [np.zeros(2), *(movement(grey(one.face), here, MOUTH) for one in others)]
    middle = np.average(apart, 0, [one.share for one in some])
    return [one._replace(face=moved(one.face, by - middle)) for one, by in zip(some, apart)]


def _mixed(candidates: Sequence[_Candidate]) -> np.ndarray:
    """Return one face of several (96, 96, 3), each by its share."""
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
    """Return which of somebody's faces are about as bright as most, (N,) bool: not in the middle of a fade or flash."""
    light = brightness(faces)
    usual = np.percentile(light, 50, method="nearest")  # that of one of them, which is even whatever the others are
    return (light >= EVEN * usual) & (EVEN * light <= usual)


def _light(face: np.ndarray) -> np.ndarray:
    """Return the colour of the upper half of a face, (3,): the light that it is in, whoever's it is."""
    return np.array(cv2.mean(face[: len(face) // 2])[:3], np.float32)


def posture(face: np.ndarray) -> np.ndarray:
    """Return how a head is held, (12, 24) float32: the upper half of a face, which the jaw does not move."""
    upper = cv2.cvtColor(face[: len(face) // 2], cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(cv2.GaussianBlur(upper, (0, 0), 2), POSTURE, interpolation=cv2.INTER_AREA)
    return small - small.mean()  # light that comes and goes does not count


def postures_of(faces: Iterable[np.ndarray]) -> np.ndarray:
    """Return those of one face or more, (N, 12, 24)."""
    return np.stack([posture(face) for face in faces])
