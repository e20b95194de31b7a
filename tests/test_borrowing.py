"""mouths/borrowing.py: a drawn mouth gets the colours and the detail of the filmed one that it was made from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipsync import LipSync
from mouths import References, crop, masks
from mouths.borrowing import COLUMNS, ROWS, borrow
from mouths.pasting import paste
from mouths.references import Loan, posture

LIPS = masks.lips() == 1
BOX = (150, 20, 342, 212)  # of the astronaut, whose lips are apart and whose teeth show


@pytest.fixture(scope="module")
def larger(astronaut):
    return crop(astronaut, BOX, 192)


@pytest.fixture(scope="module")
def face(larger):
    return cv2.resize(larger, (96, 96), interpolation=cv2.INTER_AREA)


def grey(picture):
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def luma(picture):
    return cv2.cvtColor(np.rint(picture).astype(np.uint8), cv2.COLOR_BGR2YCrCb)[..., 0].astype(float)


def test_a_mouth_without_colours_gets_those_it_was_filmed_in(face, larger):
    drawn = grey(face).astype(np.float32)
    coloured, _ = borrow(drawn, Loan(face, larger, 1.0))
    before, after = (np.abs(one - face)[LIPS].mean() for one in (drawn, coloured))
    assert after < 0.2 * before
    assert np.abs(luma(coloured) - luma(drawn)).max() <= 1  # as bright as it was drawn
    assert (coloured[masks.lips() == 0] - drawn[masks.lips() == 0]).std() < 1  # all around stays
    half, _ = borrow(drawn, Loan(face, larger, 0.5))
    assert np.abs(half - (drawn + coloured) / 2)[LIPS].mean() < 1


def test_a_mouth_unlike_the_one_that_was_filmed_keeps_what_it_has(face, larger):
    drawn = np.clip(grey(face).astype(np.float32) + 60, 0, 255)
    coloured, finer = borrow(drawn, Loan(face, larger, 1.0))
    assert np.abs(coloured - drawn).max() < 0.5 and (finer == 0).all()


@pytest.mark.parametrize("moved", [(2, 1), (-3, 2), (0, 0)])
def test_a_mouth_elsewhere_is_laid_upon_the_drawn_one(face, larger, moved):
    there = np.float32([[1, 0, moved[0]], [0, 1, moved[1]]])
    drawn = cv2.warpAffine(face, there, (96, 96), borderMode=cv2.BORDER_REPLICATE)
    coloured, finer = borrow(grey(drawn).astype(np.float32), Loan(face, larger, 1.0))
    assert np.abs(coloured - drawn)[LIPS].mean() < 0.3 * np.abs(grey(drawn).astype(float) - drawn)[LIPS].mean()
    exact = cv2.warpAffine(larger, there * [1, 1, 2], (192, 192), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    lost = exact - cv2.resize(drawn, (192, 192), interpolation=cv2.INTER_CUBIC)
    sure = cv2.resize(masks.lips(), (192, 192)) > 0.99
    part = slice(2 * ROWS.start, 2 * ROWS.stop), slice(2 * COLUMNS.start, 2 * COLUMNS.stop)
    assert np.corrcoef(finer[sure[part]].ravel(), lost[part][sure[part]].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("side", [96, 131, 400])
def test_detail_that_96_pixels_lack_is_back_in_the_frame(face, larger, side):
    """Of another moment: in the frame itself, the mouth is as blurred as the network draws it."""
    blurred = cv2.GaussianBlur(face, (0, 0), 1.5)
    frame = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_CUBIC)
    filmed = cv2.flip(face, 0)  # nothing of it is like what is drawn
    without, lent = (
        paste(frame, face, filmed, (0, 0, side, side), "feather", loan=loan) for loan in (None, Loan(face, larger, 1.0))
    )
    sharp = cv2.resize(larger, (side, side), interpolation=cv2.INTER_AREA if side < 192 else cv2.INTER_CUBIC)
    lips = cv2.resize(masks.lips(), (side, side)) > 0.99
    before, after = (np.abs(one.astype(float) - sharp)[lips].mean() for one in (without, lent))
    assert after < before if side > 96 else after < before + 0.5
    assert (without[: side // 2] == lent[: side // 2]).all()
    boxed = [paste(frame, face, filmed, (0, 0, side, side), "box", loan=loan) for loan in (None, Loan(face, larger, 1))]
    assert (boxed[0] == boxed[1]).all()  # all of it is the network's


def test_a_mouth_tells_only_of_mouths_as_far_open_and_held_alike(face, larger):
    faces = np.stack([face, cv2.convertScaleAbs(face, alpha=0.9)])
    told = References(faces, apart=np.array([0.0, 1.0]), larger=np.stack([larger, larger // 2]))
    assert told.lend(face, 1.0, 1.0).mouth.mean() == (larger // 2).mean()
    assert told.lend(face, 1.0, 0.1).share == pytest.approx(1.0) and told.lend(face, 0.5, 0.1).share == 0.5
    assert told.lend(face, 1.0, 0.3).share == pytest.approx(0.5)
    assert told.lend(face, 1.0, 0.5).mouth is None
    other = cv2.flip(face, 0)
    assert np.abs(posture(other) - posture(face)).mean() > 12 and told.lend(other, 1.0, 0.0).mouth is None
    assert References(faces, apart=np.array([0.0, 1.0])).lend(face, 1.0, 0.0).mouth is None
    assert References(faces, larger=np.stack([larger, larger])).lend(face, 1.0, 0.0).mouth is None  # how far open?


def test_whoever_matches_mouths_borrows(talking_clip, speech):
    how = {"box": (20, 200, 80, 250)}
    known = {
        reference: LipSync().prepare(talking_clip, speech, reference=reference, **how).mouth_settings.appearances
        for reference in ("matching", "still")
    }
    references = {name: next(iter(one.known.values())).references for name, one in known.items()}
    larger = references["matching"].larger
    assert larger.shape == (len(references["matching"].faces), 192, 192, 3)
    assert np.abs(larger[:, ::2, ::2].astype(float) - references["matching"].faces).mean() < 8
    assert references["still"].larger is None
