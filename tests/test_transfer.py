"""mouths/transfer.py: a drawn mouth gets the colours and detail of the filmed one that it was made from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipsync import LipSync
from models import Wav2Lip
from mouths import (
    Appearance,
    Appearances,
    MouthSettings,
    References,
    SpeakingTrack,
    all_mouths,
    crop,
    drawing,
    masks,
    poses_of,
    redraw_mouths,
)
from mouths.pasting import DrawnFace, _placed, paste
from mouths.references import Reference, ReferenceMouth, pose_of
from mouths.transfer import COLUMNS, ROWS, _in_colours_of, transfer_appearance

LIPS = masks.lips() == 1
BOX = (166, 35, 296, 180)  # of the astronaut, whose teeth show


@pytest.fixture(scope="module")
def larger(astronaut):
    return crop(astronaut, BOX, 192)


@pytest.fixture(scope="module")
def face(larger):
    return cv2.resize(larger, (96, 96), interpolation=cv2.INTER_AREA)


def reference_of(face, larger, share=1.0):
    return Reference(face, ReferenceMouth(larger, share, np.zeros(3, np.float32)))


def grey(picture):
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def luma(picture):
    return cv2.cvtColor(np.rint(picture).astype(np.uint8), cv2.COLOR_BGR2YCrCb)[..., 0].astype(float)


def test_a_mouth_without_colours_gets_the_filmed_ones(face, larger):
    drawn = grey(face).astype(np.float32)
    coloured, _ = transfer_appearance(drawn, *reference_of(face, larger))
    before, after = (np.abs(one - face)[LIPS].mean() for one in (drawn, coloured))
    assert after < 0.2 * before
    assert np.abs(luma(coloured) - luma(drawn)).max() <= 4  # as bright as drawn, unless a colour saturates
    assert (coloured[masks.lips() == 0] - drawn[masks.lips() == 0]).std() < 1  # the surroundings stay
    half, _ = transfer_appearance(drawn, *reference_of(face, larger, 0.5))
    assert np.abs(half - (drawn + coloured) / 2)[LIPS].mean() < 1


def test_a_mouth_unlike_the_filmed_one_stays_as_drawn(face, larger):
    drawn = np.clip(grey(face).astype(np.float32) + 60, 0, 255)
    coloured, finer = transfer_appearance(drawn, *reference_of(face, larger))
    assert np.abs(coloured - drawn).max() < 0.5 and (finer == 0).all()


def test_shut_lips_do_not_get_the_colour_of_the_slit():
    """In silence, lips used to get the colour of the dark slit between the filmed ones: blue."""
    lip, slit = np.array([110.0, 100, 170]), np.array([105.0, 90, 85])
    filmed = np.broadcast_to(lip, (38, 48, 3)).copy()
    filmed[16:20] = slit
    drawn = np.broadcast_to(lip * 0.85, (38, 48, 3)).astype(np.float32)  # shut
    coloured = _in_colours_of(filmed.astype(np.float32), drawn, 1.0)
    assert np.abs(coloured[18, 24] - coloured[8, 24]).max() < 15


@pytest.mark.parametrize("moved", [(2, 1), (-3, 2), (0, 0)])
def test_a_reference_elsewhere_is_aligned_with_the_drawn_mouth(face, larger, moved):
    shift = np.float32([[1, 0, moved[0]], [0, 1, moved[1]]])
    drawn = cv2.warpAffine(face, shift, (96, 96), borderMode=cv2.BORDER_REPLICATE)
    coloured, finer = transfer_appearance(grey(drawn).astype(np.float32), *reference_of(face, larger))
    assert np.abs(coloured - drawn)[LIPS].mean() < 0.3 * np.abs(grey(drawn).astype(float) - drawn)[LIPS].mean()
    exact = cv2.warpAffine(larger, shift * [1, 1, 2], (192, 192), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    lost = exact - cv2.resize(drawn, (192, 192), interpolation=cv2.INTER_CUBIC)
    inside = cv2.resize(masks.lips(), (192, 192)) > 0.99
    part = slice(2 * ROWS.start, 2 * ROWS.stop), slice(2 * COLUMNS.start, 2 * COLUMNS.stop)
    assert np.corrcoef(finer[inside[part]].ravel(), lost[part][inside[part]].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("side", [48, 96, 131, 400])
def test_detail_that_96_pixels_lack_returns_in_the_frame(larger, side):
    """From another frame, here stripes: the frame itself is unlike what is drawn."""
    stripes = np.rint(12 * np.sin(np.arange(192) * 2 * np.pi / 3.4))[None, :, None]
    larger = np.clip(larger + stripes, 0, 255).astype(np.uint8)
    face = cv2.resize(larger, (96, 96), interpolation=cv2.INTER_AREA)
    filmed = cv2.flip(face, 0)
    frame = cv2.resize(filmed, (side, side), interpolation=cv2.INTER_CUBIC)
    without, transferred = (
        paste(frame, DrawnFace(face, filmed, (0, 0, side, side), reference=reference), "feather")
        for reference in (None, reference_of(face, larger))
    )
    sharp = cv2.resize(larger, (side, side), interpolation=cv2.INTER_AREA if side < 192 else cv2.INTER_CUBIC)
    lips = cv2.resize(masks.lips(), (side, side)) > 0.99
    wanted, *got = (
        one - cv2.GaussianBlur(one, (0, 0), side / 96) for one in map(np.float32, (sharp, without, transferred))
    )
    before, after = (np.corrcoef(one[lips].ravel(), wanted[lips].ravel())[0, 1] for one in got)
    assert after > before + (0.1 if side > 192 else 0.01 if side > 96 else -0.02)
    assert (without[: side // 2] == transferred[: side // 2]).all()
    boxed = [
        paste(frame, DrawnFace(face, filmed, (0, 0, side, side), reference=reference), "box")
        for reference in (None, reference_of(face, larger))
    ]
    assert (boxed[0] == boxed[1]).all()  # with box, all of it is the network's


@pytest.mark.parametrize("side", range(100, 140))
def test_detail_stays_where_it_is_at_any_size(side):
    """It moved by up to half a pixel whenever the box of a moving face changed by one."""
    finer = np.zeros((76, 96, 3), np.float32)
    finer[42, 62] = 1
    finer = cv2.GaussianBlur(finer, (0, 0), 3)
    (rows, columns), detail = _placed(finer, (side, side))
    whole = np.zeros((side, side))
    whole[rows, columns] = detail[..., 0]
    centres = np.arange(side) + 0.5
    found = whole.sum(1) @ centres / whole.sum(), whole.sum(0) @ centres / whole.sum()
    wanted = np.add((ROWS.start, COLUMNS.start), (21.25, 31.25)) * side / 96
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_a_box_of_hardly_any_pixels_can_be_pasted(face, larger):
    for width, height in ((150, 1), (1, 150), (2, 2), (7, 96)):
        frame = np.full((height, width, 3), 90, np.uint8)
        assert (
            paste(
                frame, DrawnFace(face, face, (0, 0, width, height), reference=reference_of(face, larger)), "feather"
            ).shape
            == frame.shape
        )


def test_a_mouth_filmed_in_other_light_does_not_bring_that_light(astronaut, face, larger):
    """With a reference that is bluer as a whole, lips drawn as they look now stay so."""
    bluer = np.clip(larger.astype(float) * [1.2, 1.0, 0.85], 0, 255).astype(np.uint8)
    references = References(
        cv2.resize(bluer, (96, 96), interpolation=cv2.INTER_AREA)[None], openings=np.zeros(1), larger=bluer[None]
    )
    shown, mouth = references.select(face, 1.0)
    assert mouth.share == 1 and mouth.light[0] < -5 < 5 < mouth.light[2]
    coloured, _ = transfer_appearance(face.astype(np.float32), shown, mouth)
    uncorrected, _ = transfer_appearance(face.astype(np.float32), shown, mouth._replace(light=np.zeros(3, np.float32)))
    errors = [np.abs(one - face)[LIPS].mean() for one in (coloured, uncorrected)]
    assert errors[0] < 0.4 * errors[1]


def test_a_mouth_for_a_head_elsewhere_is_moved_with_it(astronaut, face, larger):
    references = References(face[None], openings=np.zeros(1), larger=larger[None])
    left, top, right, bottom = BOX
    x, y = 7, 6  # pixels of the photo
    elsewhere = crop(astronaut, (left - x, top - y, right - x, bottom - y), 192)
    reference = references.select(cv2.resize(elsewhere, (96, 96), interpolation=cv2.INTER_AREA), 1.0)
    inside = slice(20, -20), slice(20, -20)
    pictures = larger, reference.mouth.picture
    before, after = (np.abs(one[inside].astype(float) - elsewhere[inside]).mean() for one in pictures)
    assert after < 0.3 * before


def test_detail_of_the_reference_reaches_the_frame(face, larger, monkeypatch):
    """Through ``redraw_mouths``, with a network that draws what it is shown; without larger faces, and with them."""
    monkeypatch.setattr(drawing, "generate", lambda model, mels, faces, gains: faces[..., 3:])
    grain = 12 * (-1) ** np.indices((192, 192)).sum(0)[..., None]
    filmed = cv2.subtract(larger, np.rint(60 * cv2.resize(cv2.merge([masks.lips()] * 3), (192, 192))).astype(np.uint8))
    frames, mels = np.stack([filmed] * 3), np.zeros((3, 80, 16), np.float32)
    results = []
    for more in (None, np.clip(larger + grain, 0, 255).astype(np.uint8)[None]):
        references = References(face[None], openings=np.zeros(1), larger=more)
        appearances = Appearances({0: Appearance(poses_of(face[None]), references)})
        settings = MouthSettings("feather", appearances=appearances, reference_share=np.ones(3))
        track = SpeakingTrack([(0, 0, 192, 192)] * 3, mels, settings)
        results.append(np.stack(list(redraw_mouths(frames, [track], Wav2Lip, 2))))
    without, transferred = (
        cv2.Laplacian(one[1], cv2.CV_64F)[cv2.resize(masks.lips(), (192, 192)) == 1] for one in results
    )
    assert transferred.var() > 2 * without.var()


def test_if_the_mouth_never_opens_any_reference_matches(face, larger):
    """One smile with several grains: by what the network changes, one would be the least open, another the most."""
    network = LipSync().model
    grain = np.random.default_rng(0).normal(0, 4, (12, 96, 96, 3))
    still = np.clip(face + grain, 0, 255).astype(np.uint8)
    references = all_mouths(network, still, np.stack([larger] * 12))
    assert not references.openings.any()
    mouths = [references.select(face, 1.0, wanted).mouth for wanted in (0.0, 0.5, 1.0)]
    assert all((mouth.picture == larger).all() and mouth.share == 1 for mouth in mouths)


def test_a_reference_mouth_matches_in_opening_and_pose(face, larger):
    faces = np.stack([face, cv2.convertScaleAbs(face, alpha=0.95)])
    references = References(faces, openings=np.array([0.0, 1.0]), larger=np.stack([larger, larger // 2]))
    assert references.select(face, 1.0, 1.0).mouth.picture.mean() == (larger // 2).mean()
    assert (
        references.select(face, 1.0, 0.1).mouth.share == pytest.approx(1.0)
        and references.select(face, 0.5, 0.1).mouth.share == 0.5
    )
    assert references.select(face, 1.0, 0.3).mouth.share == pytest.approx(0.5)
    assert references.select(face, 1.0, 0.5).mouth is None
    other = cv2.flip(face, 0)
    assert np.abs(pose_of(other) - pose_of(face)).mean() > 12 and references.select(other, 1.0, 0.0).mouth is None
    assert References(faces, openings=np.array([0.0, 1.0])).select(face, 1.0, 0.0).mouth is None
    assert References(faces, larger=np.stack([larger, larger])).select(face, 1.0, 0.0).mouth is None  # without openings


def test_only_matching_references_have_larger_faces(talking_clip, speech):
    options = {"box": (20, 200, 80, 250)}
    appearances = {
        reference: LipSync()
        .prepare(talking_clip, speech, reference=reference, **options)
        .faces[0]
        .mouth_settings.appearances
        for reference in ("matching", "still")
    }
    references = {name: next(iter(one.known.values())).references for name, one in appearances.items()}
    larger = references["matching"].larger
    assert larger.shape == (len(references["matching"].faces), 192, 192, 3)
    assert np.abs(larger[:, ::2, ::2].astype(float) - references["matching"].faces).mean() < 8
    assert references["still"].larger is None


def test_openings_run_from_shut_to_wide(monkeypatch):
    """Whatever unit the network's features have: 1 is far open in this video."""
    monkeypatch.setattr("mouths.openings.open_lips", lambda *_: np.linspace(3, 23, 41))
    blank = np.zeros((41, 96, 96, 3), np.uint8)
    found = all_mouths(None, blank, blank).openings
    assert found[0] == 0 and np.isclose(np.percentile(found, 95), 1) and np.allclose(np.diff(found, 2), 0)
