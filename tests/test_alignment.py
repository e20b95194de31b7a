"""mouths/alignment.py: faces aligned with each other, and mouths of faces that lie elsewhere in their box."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mouths import References, crop, masks
from mouths.alignment import EYES_AND_NOSE, MOUTH, grey, moved, movement
from mouths.references import ALIGNED, SAME_SHOT, _Target, pose_of

SIDE = 192  # of the astronaut's face; a pixel of 96 is two of these
CORNER = (150, 20)


def face_at(photo, x=0, y=0):
    """The face when its box is so many pixels of 96 elsewhere."""
    left, top = CORNER[0] - 2 * x, CORNER[1] - 2 * y
    return crop(photo, (left, top, left + SIDE, top + SIDE))


@pytest.mark.parametrize("region, places", [(EYES_AND_NOSE, [(3, -2), (-6, 4), (0, 7)]), (MOUTH, [(2, 1), (-3, 3)])])
def test_a_movement_is_found_in_any_light(astronaut, region, places):
    there = grey(face_at(astronaut))
    for place in places:
        for alpha, beta in ((1, 0), (0.9, 30), (1.1, -20)):
            here = grey(cv2.convertScaleAbs(face_at(astronaut, *place), alpha=alpha, beta=beta))
            assert movement(there, here, region) == pytest.approx(place, abs=0.3)


def test_what_cannot_be_told_or_is_too_far_stays_where_it_is(astronaut):
    flat = np.full((96, 96), 120, np.uint8)
    assert (movement(flat, flat, MOUTH) == 0).all()
    face = grey(face_at(astronaut))
    assert (movement(face, grey(face_at(astronaut, 0, 7)), MOUTH) == 0).all()
    assert (movement(face, face, EYES_AND_NOSE) == 0).all()


def test_a_part_of_a_larger_face_is_moved_by_pixels_of_96(astronaut):
    larger = crop(astronaut, (*CORNER, CORNER[0] + SIDE, CORNER[1] + SIDE), SIDE)
    rows, columns = slice(40, 80), slice(20, 70)
    part = moved(larger, np.array([3.0, -2.0]), rows, columns)
    assert (part == larger[2 * 42 : 2 * 82, 2 * 17 : 2 * 67]).all()


def test_a_head_that_moves_in_its_box_is_lent_mouths_where_its_own_is(astronaut):
    """The box stands still, as with ``--box``. The mouth of the reference is of another colour."""
    painted, lips = astronaut.copy(), cv2.resize(masks.lips(), (SIDE, SIDE)) > 0.5
    area = painted[CORNER[1] :, CORNER[0] :][:SIDE, :SIDE]
    area[lips] = 255 - area[lips]
    references = References(face_at(painted)[None])
    for place in ((0, 0), (4, -3), (-5, 2)):
        face, wanted = face_at(astronaut, *place), face_at(painted, *place)
        distance = np.abs(pose_of(face) - pose_of(references.faces[0])).mean()
        assert distance == 0 if place == (0, 0) else distance > SAME_SHOT > ALIGNED
        shown = references.select(face, 1.0).face.astype(float)
        mouth = masks.mouth() == 1
        assert np.abs(shown - wanted)[mouth].mean() < 0.15 * np.abs(shown - face)[mouth].mean()


def test_who_is_held_nearly_alike_is_moved_by_a_part_of_the_way(astronaut):
    """Else mouths would jump where a head comes to be held otherwise than ``ALIGNED``."""
    references, seen = References(face_at(astronaut)[None]), []
    for left in range(13):  # half a pixel each
        x1, y1 = CORNER[0] - left, CORNER[1]
        face = crop(astronaut, (x1, y1, x1 + SIDE, y1 + SIDE))
        distance = float(np.abs(references._poses - pose_of(face)).mean())
        target = _Target(grey(face), face, pose_of(face), 0.0, masks.around_lips())
        candidates = references._candidates(target, np.array([distance]), np.ones(1))
        seen.append((left / 2, distance, candidates[0].moved_by[0]))
    partly = [(place, by) for place, distance, by in seen if ALIGNED < distance < SAME_SHOT]
    assert partly and all(0 < by < 0.95 * place for place, by in partly)
    assert all(by == 0 for _, distance, by in seen if distance <= ALIGNED)
    assert all(by == pytest.approx(place, abs=0.2) for place, distance, by in seen if distance >= SAME_SHOT)
