"""mouths/alignment.py: aligning faces, and borrowing mouths from faces elsewhere in their box."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mouths import References, crop, masks
from mouths.alignment import EYES_AND_NOSE, MOUTH, grey, moved, movement
from mouths.references import ALIGNED, SAME_SHOT, _Target, pose_of

SIDE = 192  # pixels of the astronaut's face: two for each of 96
CORNER = (150, 20)


def face_at(photo, x=0, y=0):
    """The face, moved in its box by x and y pixels of 96."""
    left, top = CORNER[0] - 2 * x, CORNER[1] - 2 * y
    return crop(photo, (left, top, left + SIDE, top + SIDE))


@pytest.mark.parametrize("region, places", [(EYES_AND_NOSE, [(3, -2), (-6, 4), (0, 7)]), (MOUTH, [(2, 1), (-3, 3)])])
def test_a_movement_is_found_in_any_light(astronaut, region, places):
    there = grey(face_at(astronaut))
    for place in places:
        for alpha, beta in ((1, 0), (0.9, 30), (1.1, -20)):
            here = grey(cv2.convertScaleAbs(face_at(astronaut, *place), alpha=alpha, beta=beta))
            assert movement(there, here, region) == pytest.approx(place, abs=0.3)


def test_unknown_or_too_large_movements_are_zero(astronaut):
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


def test_a_head_that_moves_in_its_box_gets_mouths_in_place(astronaut):
    """The box stands still, as with ``--box``. The mouth of the reference has another colour."""
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


def test_a_face_nearly_in_the_same_pose_is_partly_aligned(astronaut):
    """Otherwise mouths would jump where the distance between poses passes ``ALIGNED``."""
    references, moves = References(face_at(astronaut)[None]), []
    for left in range(13):  # half a pixel each
        x1, y1 = CORNER[0] - left, CORNER[1]
        face = crop(astronaut, (x1, y1, x1 + SIDE, y1 + SIDE))
        distance = float(np.abs(references._poses - pose_of(face)).mean())
        target = _Target(grey(face), face, pose_of(face), 0.0, masks.around_lips())
        candidates = references._candidates(target, np.array([distance]), np.ones(1))
        moves.append((left / 2, distance, candidates[0].moved_by[0]))
    partly = [(place, by) for place, distance, by in moves if ALIGNED < distance < SAME_SHOT]
    assert partly and all(0 < by < 0.95 * place for place, by in partly)
    assert all(by == 0 for _, distance, by in moves if distance <= ALIGNED)
    assert all(by == pytest.approx(place, abs=0.2) for place, distance, by in moves if distance >= SAME_SHOT)
