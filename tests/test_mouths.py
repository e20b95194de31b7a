"""How mouths move: gains, pauses and references, by their effect on the pictures."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from datetime import date
from fractions import Fraction
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from scipy.io import wavfile

import audio
import concurrency
import inference
import models
import mouths
import video
from conftest import run_ffmpeg
from demo.talking_head import Recipe, write_clip
from errors import UserError
from face_path import FacePath, Piece
from lipsync import FilmedFace, LipSync, Options, engine, read_speech
from lipsync.looking import faces_of
from mouths import (
    Appearance,
    Appearances,
    MouthSettings,
    References,
    SpeakingTrack,
    crop,
    evenly_lit,
    fit_opening,
    generate,
    masks,
    open_lips,
    poses_of,
    redraw_mouths,
    shut_mouths,
)
from mouths.openings import openings
from mouths.pasting import DrawnFace, _match_tint, paste
from mouths.references import OTHER_SHOT, pose_of

BOX = [40, 178, 46, 143]  # of the drawn head: top, bottom, left, right
MEL = np.random.default_rng(0).uniform(-4, 4, (6, 80, 16)).astype(np.float32)
SILENT = np.full_like(MEL, -4)
LOWER = slice(48, None)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A drawn head that speaks for two seconds: (video, how far its lips are apart in each frame)."""
    folder = tmp_path_factory.mktemp("head")
    truth = write_clip(folder / "head.mp4", Recipe(seconds=2.0, size=(192, 192)), 3)
    (x1, y1, x2, y2), *_ = np.median(truth["boxes"], axis=0).round().astype(int).tolist()
    assert [y1, y2, x1, x2] == BOX
    return folder / "head.mp4", np.array(truth["aperture"])


@pytest.fixture(scope="module")
def filmed(head):
    """The faces in its 50 frames."""
    return crops_of(video.read_frames(video.probe(head[0])))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """0.6 s of silence."""
    path = tmp_path_factory.mktemp("quiet") / "quiet.wav"
    wavfile.write(path, 16000, np.zeros(9600, np.int16))
    return path


@pytest.fixture(scope="module")
def lips():
    """With the included network."""
    return LipSync()


@pytest.fixture(scope="module")
def shipped(lips):
    return lips.model


def command(face, speech, folder) -> list[str]:
    return [f"--face={face}", f"--audio={speech}", f"--outfile={folder / 'out.mp4'}", "--box", *map(str, BOX)]


def crops_of(frames) -> np.ndarray:
    """The faces, cropped as for the network."""
    top, bottom, left, right = BOX
    return np.stack([crop(frame, (left, top, right, bottom)) for frame in frames])


def output_faces(lips, face, speech, **options) -> np.ndarray:
    """The faces in the frames that would be encoded."""
    return crops_of(lips.stream(lips.prepare(face, speech, box=BOX, **options)))


def movement(faces: np.ndarray) -> float:
    """Mean change of the lower half of the face from frame to frame, in grey levels."""
    return float(np.abs(np.diff(faces[:, LOWER, 16:80].astype(float), axis=0)).mean())


@pytest.fixture(scope="module")
def network(filled):
    return filled(models.Wav2Lip, 0.125)


def faces(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 96, 96, 3), np.uint8)


def inputs(whole: np.ndarray) -> np.ndarray:
    rows = np.concatenate((whole, whole), axis=-1)
    rows[:, LOWER, :, :3] = 0
    return rows


def redrawn(network, whole: np.ndarray, mels: np.ndarray, settings: MouthSettings) -> np.ndarray:
    """Redraw frames that show nothing but a face."""
    track = SpeakingTrack([(0, 0, 96, 96)] * len(whole), mels, settings)
    return np.stack(list(redraw_mouths(whole, [track], network, 4)))


# --------------------------------------------------------------------------------------------------------------------
# Gains


def test_gain_1_changes_nothing_and_gain_0_is_silence(network):
    rows = inputs(faces())
    assert np.abs(generate(network, MEL, rows, np.ones(6)).astype(int) - generate(network, MEL, rows)).max() <= 1
    still = generate(network, MEL, rows, np.zeros(6)).astype(int)
    assert np.abs(still - generate(network, SILENT, rows)).max() <= 1


def test_each_frame_has_its_own_gain(network):
    rows, gains = inputs(faces()), np.array([0, 1, 0, 1, 0, 1.0])
    mixed = generate(network, MEL, rows, gains)
    for gain in (0.0, 1.0):
        alike = generate(network, MEL, rows, np.full(6, gain))
        assert (mixed[gains == gain] == alike[gains == gain]).all()


def test_a_larger_gain_moves_a_mouth_farther(head, lips, tmp_path):
    """Measured in the frames that would be encoded."""
    run_ffmpeg("-i", head[0], "-t", 1, tmp_path / "speech.wav")
    moved = []
    for gain in (0.5, 1.0, 2.0):
        moved.append(movement(output_faces(lips, head[0], tmp_path / "speech.wav", mouth_gain=gain)))
    assert moved[0] < 0.85 * moved[1] and moved[2] > 1.1 * moved[1]  # the head's own movement is in all three


@pytest.mark.parametrize("side", [60, 110, 130, 180, 250])
def test_a_face_drawn_as_filmed_changes_nothing(astronaut, side):
    """At 96 to 192 pixels, detail used to be added to a face that already had some of it: 15 % too sharp."""
    frame = cv2.resize(astronaut[40:240, 140:320], (side + 40, side + 40), interpolation=cv2.INTER_AREA)
    box = (20, 20, 20 + side, 20 + side)
    face = mouths.crop(frame, box)
    pasted = paste(frame, DrawnFace(face, face, box), "feather")
    assert np.abs(pasted.astype(int) - frame).max() <= 2 and np.abs(pasted.astype(int) - frame).mean() < 0.1


# --------------------------------------------------------------------------------------------------------------------
# Silence and references


def test_pauses_are_distinguished_from_speech():
    rng, rate = np.random.default_rng(0), 16000
    sound = 0.3 * rng.standard_normal(3 * rate).astype(np.float32)
    sound[rate : 2 * rate] *= 0.001  # a second 60 dB quieter
    sound[2 * rate + 8000 : 2 * rate + 10400] *= 0.001  # 0.15 s as quiet: a stop consonant, not a pause
    windows = audio.MelWindows(audio.melspectrogram(sound), 25, 75)
    silent = windows.silence()
    assert (silent[:24] == 0).all() and (silent[51:] == 0).all() and (silent[31:44] == 1).all()
    assert (np.diff(silent[24:38]) >= 0).all() and (np.diff(silent[38:52]) <= 0).all()
    assert 0 < np.abs(np.diff(silent)).max() < 0.5  # gradually


@pytest.mark.parametrize("noise, expected", [(0.02, 1.0), (0.15, 0.0)])
def test_a_pause_may_be_noisy(noise, expected):
    """Noise 20 dB below the voice is a pause; at 3 dB below, the two cannot be told apart."""
    rng = np.random.default_rng(0)
    sound = 0.2 * rng.standard_normal(48000).astype(np.float32)
    sound[16000:32000] = noise * rng.standard_normal(16000)
    assert audio.MelWindows(audio.melspectrogram(sound), 25, 75).silence()[37] == expected


@pytest.mark.parametrize("hiss", [0.0, 3e-4])
def test_a_short_speech_in_a_long_pause_is_heard(hiss):
    """If it was less than a twentieth of the sound, the pause used to pass for the loud part: lips stayed shut."""
    rng, rate = np.random.default_rng(0), 16000
    sound = hiss * rng.standard_normal(60 * rate).astype(np.float32)
    sound[30 * rate : 32 * rate] += 0.1 * rng.standard_normal(2 * rate).astype(np.float32)
    windows = audio.MelWindows(audio.melspectrogram(sound), 25, 60 * 25)
    silent, heard = windows.silence(), windows.speech_mask()
    assert (silent[30 * 25 : 32 * 25] == 0).all() and (silent[: 29 * 25] == 1).all() and (silent[33 * 25 :] == 1).all()
    assert heard[30 * 25 : 32 * 25].all() and not heard[: 30 * 25 - 7].any() and not heard[32 * 25 + 2 :].any()


def test_a_knock_does_not_pass_for_the_speech():
    """Soft speech after a knock used to pass for a pause."""
    rng, rate = np.random.default_rng(0), 16000
    sound = 1e-4 * rng.standard_normal(8 * rate).astype(np.float32)
    sound[2 * rate : 2 * rate + 5600] += 0.3 * rng.standard_normal(5600)
    speech = sound[4 * rate : 7 * rate]
    speech += 0.005 * rng.standard_normal(len(speech))
    assert (audio.MelWindows(audio.melspectrogram(sound), 25, 200).silence()[4 * 25 : 7 * 25] == 0).all()


def test_sound_without_speech_is_one_pause():
    assert (audio.MelWindows(audio.melspectrogram(np.zeros(16000, np.float32)), 25, 25).silence() == 1).all()


def test_a_still_reference_replaces_the_filmed_mouth(network):
    """With it, frames that differ only in their lower halves give the same; without it, they do not."""
    whole = faces()
    other = whole.copy()
    other[:, LOWER] = 255 - other[:, LOWER]
    for reference_share, same in ((np.ones(6), True), (np.zeros(6), False)):
        references = References(faces(2)[:1], whole_face=True)
        appearances = Appearances({0: Appearance(poses_of(faces(2)[:1]), references)})
        settings = MouthSettings(appearances=appearances, reference_share=reference_share)
        assert (redrawn(network, whole, MEL, settings) == redrawn(network, other, MEL, settings)).all() == same


@pytest.fixture(scope="module")
def lip_distances(filmed, shipped):
    """How far the head's lips are apart, as the network estimates it."""
    return open_lips(shipped, filmed)


def test_the_network_estimates_how_far_lips_are_apart(head, lip_distances):
    known, measured = head[1], lip_distances
    assert np.corrcoef(measured, known[: len(measured)])[0, 1] > 0.7
    assert known[np.argmin(measured)] < 0.1


def test_only_shut_mouths_are_selected(head, filmed, shipped):
    """From a talking head whose lips are known in every frame."""
    shown, known = filmed[::2], head[1][:50:2]
    selected = shut_mouths(shipped, shown).faces
    numbers = [next(i for i, face in enumerate(shown) if (face == one).all()) for one in selected]
    assert len(numbers) >= 2 and known[numbers].max() < 0.25 < 0.6 < known.max()


def test_the_mouth_of_the_face_nearest_in_pose_is_shown(astronaut):
    """A slightly turned face gets the lips of one turned likewise, whatever the mouth and the light."""
    views = np.stack([crop(astronaut, (150 + 12 * i, 20, 300 + 12 * i, 200)) for i in range(5)])
    references = References(views[::2])
    lips = masks.mouth() == 1
    assert (lips >= (masks.lips() > 0.9)).all()  # the mouth includes the lips
    for nearest, view in ((0, views[0]), (1, views[2]), (2, views[4])):
        brighter = cv2.convertScaleAbs(view, alpha=1, beta=12)
        brighter[masks.lips() > 0.1] = 0
        shown = references.select(brighter, 1.0).face
        assert (shown[lips] == references.faces[nearest][lips]).all()
        assert (shown[masks.mouth() == 0] == brighter[masks.mouth() == 0]).all()  # jaw, nose and ears are its own
        assert (references.select(view, 0.0).face == view).all()


@pytest.mark.parametrize("width, height", [(300, 300), (401, 401), (150, 401)])
def test_a_fine_pattern_does_not_become_a_coarse_one(width, height):
    """Lips of GIFs used to have stripes, since the network was shown only some of their pixels."""
    frame = np.indices((height, width)).sum(0) % 3 == 0
    face = crop(np.repeat(255 * frame[..., None], 3, 2).astype(np.uint8), (0, 0, width, height))
    assert np.abs(face.astype(int) - 85).mean() < 12


def test_smaller_faces_are_resized_as_by_the_reference(astronaut):
    for side in (60, 96, 150, 192):
        assert np.array_equal(crop(astronaut, (150, 20, 150 + side, 20 + side)),
                              cv2.resize(astronaut[20 : 20 + side, 150 : 150 + side], (96, 96)))  # fmt: skip


def test_a_mouth_as_far_open_as_wanted_is_selected(astronaut):
    """The faces differ only in their lips, which are darker the farther open they are said to be."""
    view = crop(astronaut, (150, 20, 300, 200))
    levels = np.linspace(0, 1, 5)
    views = np.stack([np.where(masks.lips()[..., None] >= 0.05, round(200 - 100 * level), view) for level in levels])
    references, lips = References(views.astype(np.uint8), openings=levels), masks.lips() == 1
    shown = [references.select(view, 1.0, wanted).face[lips].mean() for wanted in np.linspace(0, 1, 9)]
    assert np.allclose(shown[::2], 200 - 100 * levels, atol=1)
    assert (np.diff(shown) < 0).all()  # in between, mixtures
    assert (references.select(view, 0.0, 1.0).face == view).all()


def test_openings_are_predicted_from_the_speech(lips, shipped, filmed, lip_distances, speech):
    """For a face and speech other than those of the fit, compared with what the network changes in the face."""
    mels = read_speech(speech, Fraction(25))
    windows = np.stack([mels[i] for i in range(0, len(mels), 2)])
    face = filmed[lip_distances.argmin()]
    gains = np.full(len(windows), 1.2)
    predicted = openings(shipped, windows, gains, lips.generator.opening)
    changes = np.abs(generate(shipped, windows, inputs(np.stack([face] * len(windows))), gains).astype(float) - face)
    assert np.corrcoef(predicted, changes[:, 56:90, 28:68].mean((1, 2, 3)))[0, 1] > 0.8
    assert (openings(shipped, SILENT, None, lips.generator.opening) == 0).all()
    assert (openings(shipped, windows, np.zeros(len(windows)), lips.generator.opening) == 0).all()


def test_an_opening_can_be_fitted_and_is_zero_in_silence(network):
    """An embedding has so many numbers that, but for the ridge, a few mels would be learned by heart."""
    opening = fit_opening(network, MEL, faces()[:2], 1.0)
    assert len(opening) == 64 and np.isfinite(opening).all()
    assert (openings(network, SILENT, None, opening) == 0).all()


def test_matching_needs_a_network_that_predicts_openings(small_checkpoint, head):
    with pytest.raises(UserError, match="cannot tell how far mouths open; use --reference still"):
        LipSync(small_checkpoint).prepare(head[0], head[0], reference="matching", box=BOX)


def test_no_mouth_of_another_person_is_shown(astronaut, other_person):
    """A face of another person or shot stays as it is, unless the reference frame was named."""
    face = crop(astronaut, (150, 20, 300, 200))
    assert (References(face[None]).select(other_person, 1.0).face == other_person).all()
    assert (References(face[None], whole_face=True).select(other_person, 1.0).face == face).all()


def test_mixed_mouths_are_aligned_with_each_other(astronaut):
    """The mean of mouths as they were had double lips and two rows of teeth."""
    face = crop(astronaut, (150, 20, 300, 200))
    higher, lower = face.copy(), face.copy()
    higher[58:90], lower[58:90] = face[60:92], face[56:88]
    shown = References(np.stack([higher, lower]), openings=np.full(2, 0.5)).select(face, 1.0, 0.5).face

    def detail(picture: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(picture[62:86, 30:66].astype(np.float32), cv2.CV_32F)).mean())

    mean = (higher.astype(np.float32) + lower) / 2
    assert detail(shown) - detail(mean) > 0.6 * (detail(face) - detail(mean)) > 2


@pytest.fixture
def other_person(filmed):
    return filmed[0]


@pytest.fixture(scope="module")
def filmed_movement(head, lips, quiet):
    """How much the lips of a head filmed speaking move in silence, if each frame is its own reference."""
    return movement(output_faces(lips, head[0], quiet, reference="same"))


@pytest.mark.parametrize(
    "options", [{"reference": "same", "silence": "closed"}, {"reference": "still"}, {"reference": "matching"}]
)
def test_lips_rest_in_silence(head, lips, quiet, filmed_movement, options):
    moved = movement(output_faces(lips, head[0], quiet, **options))
    assert moved < 0.8 * filmed_movement  # the rest is grain and rounding, a little more in bf16 on some CPUs


def test_a_named_reference_is_that_frame(head, filmed, lips):
    take = lips.prepare(head[0], head[0], reference=7, box=BOX)
    assert (take.faces[0].mouth_settings.appearances.known[0].references.faces == filmed[7]).all()
    assert (take.faces[0].mouth_settings.reference_share == 1).all() and (
        take.faces[0].mouth_settings.gains == 1.2
    ).all()


def test_references_are_collected_where_there_is_a_face(head, filmed):
    """The first seconds may show no face."""
    source = video.probe(head[0])
    box = (BOX[2], BOX[0], BOX[3], BOX[1])
    path, one_box = (FacePath.of(boxes, np.empty((len(boxes), 4))) for boxes in ([None] * 30 + [box] * 20, [box]))
    assert path.begin() == path.first_face(0) == 30 and one_box.begin() == 0
    assert (faces_of(FilmedFace(source, path, 50), 0)[0] == filmed[30:50:5]).all()
    assert (faces_of(FilmedFace(source, one_box, None), 0)[0] == filmed[::5]).all()
    assert (faces_of(FilmedFace(source, one_box, 1), 0)[0] == filmed[:1]).all()


def test_collecting_faces_stops_reading_when_it_fails(head, monkeypatch):
    path, before = FacePath.of([(BOX[2], BOX[0], BOX[3], BOX[1])], np.empty((1, 4))), set(concurrency._working)
    assert path.begin() == 0
    monkeypatch.setattr(FacePath, "known", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as failed:  # its traceback keeps what was open alive
        faces_of(FilmedFace(video.probe(head[0]), path, None), 0)
    assert concurrency._working <= before, failed


def test_collecting_faces_ends_with_the_shot(head, filmed):
    box, nowhere = (BOX[2], BOX[0], BOX[3], BOX[1]), np.empty((10, 4))
    pieces = [([None] * 10, True), ([box] * 10, False), ([box] * 10, True), ([None] * 10, True), ([box] * 10, True)]
    path = FacePath(lambda: (Piece(boxes, nowhere, ends) for boxes, ends in pieces))
    assert path.begin() == 10 and path.shots == [0, 10, 30, 40]
    assert [path.first_face(start) for start in path.shots] == [None, 10, None, 40]
    assert [path.shot(frame) for frame in (0, 9, 10, 29, 30, 49)] == [0, 0, 10, 10, 30, 40]
    assert (faces_of(FilmedFace(video.probe(head[0]), path, 50), 10)[0] == filmed[10:30:5]).all()


def test_distance_to_a_gap_does_not_reach_into_other_shots():
    box, nowhere = (BOX[2], BOX[0], BOX[3], BOX[1]), np.empty((10, 4))
    pieces = [([box] * 10, True), ([None] * 5 + [box] * 5, False), ([box] * 10, True), ([None] * 10, True)]
    path = FacePath(lambda: (Piece(boxes, nowhere, ends) for boxes, ends in [*pieces, *pieces]))
    assert len(path.boxes) == 80
    assert [path.distance_to_gap(frame, 4) for frame in (9, 15, 17, 18, 29, 40)] == [4, 1, 3, 4, 4, 4]


@pytest.mark.parametrize("options, words", [
    ({"mouth_gain": -1.0}, "--mouth_gain -1 is not between 0 and 4"),
    ({"mouth_gain": 5.0}, "--mouth_gain 5 is not between 0 and 4"),
    ({"reference": "sane"}, "--reference sane is not one of same, still, matching or a frame number"),
    ({"silence": "close"}, "--silence close is not known; give one of free, closed"),
    ({"blend": "soft"}, "--blend soft is not known; give one of box, feather"),
    ({"loop": "bounce"}, "--loop bounce is not known"),
    ({"on_missing_face": "skip"}, "--on_missing_face skip is not known"),
    ({"speaker": "left"}, "--speaker left is not known; give one of auto"),
    ({"preset": "warp"}, "--preset warp is not known; give one of ultrafast, "),
    ({"crf": 99}, "--crf 99 is not a whole number from 0 to 51"),
    ({"resize_factor": 0}, "--resize_factor 0 is not 1 or more"),
    ({"start": "0:01"}, "--start 0:01 is not a number"),
    ({"end": float("inf")}, "--end inf is not a number"),
    ({"fps": 10**400}, "--fps 1000.* is not a number"),
    ({"lip_delay": float("nan")}, "--lip_delay nan is not a number"),
    ({"lip_delay": -1e12}, r"--lip_delay takes milliseconds, 10000 at most, not -1e\+12"),
    ({"mouth_gain": "1.5"}, "--mouth_gain 1.5 is not a number"),
    ({"crop": (0, 300.5, 0, -1)}, r"--crop takes four whole numbers \(top bottom left right\), not \(0, 300.5, 0, -1"),
    ({"crop": None}, "--crop takes four whole numbers"),
    ({"pads": 5}, "--pads takes four whole numbers"),
    ({"box": (1, 2, 3)}, "--box takes four numbers .*, not 3"),
    ({"box": (1, 2, 3, float("inf"))}, "--box takes four whole numbers"),
    ({"mix": 123}, "--mix 123 is not a file name"),
    ({"face_index": "1"}, "--face_index 1 is not a whole number"),
    ({"face_index": 0.5}, "--face_index 0.5 is not a whole number"),
    ({"face_index": float("nan")}, "--face_index nan is not a whole number"),
    ({"face_index": float("inf")}, "--face_index inf is not a whole number"),
    ({"rotate": [90]}, r"--rotate \[90\] is not a turn"),
    ({"identity": 3}, "--identity 3 is not a file name"),
    ({"identity": None}, "--identity None is not a file name"),
    ({"reference": True}, "--reference True is not one of same, still, matching or a frame number"),
    ({"reference": ["still"]}, r"--reference \['still'\] is not one of"),
    ({"blend": ["box"]}, r"--blend \['box'\] is not known"),
    ({"crf": 18.5}, "--crf 18.5 is not a whole number"),
    ({"crf": 10**400}, "is not a whole number from 0 to 51"),
    ({"rotate": 10**400}, "is not a turn"),
    ({"crf": None}, "--crf None is not a whole number"),
    ({"static": "no"}, "static must be True or False, not 'no'"),
])  # fmt: skip
def test_invalid_options_are_refused(options, words):
    """In Python too, where no parser has checked them."""
    with pytest.raises(UserError, match=words):
        Options(**options)


def test_options_may_be_numbers_of_other_types():
    chosen = Options(reference=np.int64(3), fps=Fraction(30000, 1001), mouth_gain=np.float32(1.5), crf=np.int64(20))
    assert type(chosen.reference) is int and chosen == replace(chosen)
    chosen = Options(box=np.array([30, 250, 60, 260]), mouth_gain=2, lip_delay=np.float32(40), mix="all.wav")
    assert chosen.box == (30, 250, 60, 260) and chosen.mix == Path("all.wav")
    assert [type(value) for value in (chosen.mouth_gain, chosen.lip_delay, chosen.box[0])] == [float, float, int]
    assert Options(face_index=1.0).face_index == 1


def test_a_reference_frame_that_does_not_exist_is_refused(head, tmp_path, capsys):
    assert inference.main([*command(head[0], head[0], tmp_path), "--reference", "900"]) == 2
    assert "has no such frame; name another" in capsys.readouterr().err and not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------------
# The output file


def tone(path, hertz, seconds=0.6):
    wave = 0.4 * np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000)
    wavfile.write(path, 16000, wave.astype(np.float32))
    return path


def test_a_mix_is_heard_and_moves_no_lips(head, small_checkpoint, tmp_path):
    """The frames are those of the voice alone; the sound is the mix, whose pitch is known."""
    speech, mix = tone(tmp_path / "speech.wav", 440), tone(tmp_path / "mix.wav", 880)
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    small = f"--checkpoint_path={small_checkpoint}"
    assert inference.main([*command(head[0], speech, alone), small]) == 0
    assert inference.main([*command(head[0], speech, mixed), small, f"--mix={mix}"]) == 0
    pairs = zip(*(video.read_frames(video.probe(folder / "out.mp4")) for folder in (alone, mixed)), strict=True)
    assert all((a == b).all() for a, b in pairs)
    heard = video.read_audio(mixed / "out.mp4", 16000)[1600:8000]  # 0.4 s
    assert np.abs(np.fft.rfft(heard)).argmax() == 880 * 0.4


def test_a_mix_without_sound_is_refused(head, talking_clip, tmp_path, capsys):
    assert inference.main([*command(head[0], head[0], tmp_path), f"--mix={talking_clip}"]) == 2
    assert "has no sound track" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_file_says_that_its_lips_are_synthetic(head, small_checkpoint, tmp_path, suffix, monkeypatch):
    lips, speech = LipSync(small_checkpoint), tone(tmp_path / "speech.wav", 440, seconds=0.2)
    monkeypatch.setattr(engine, "date", Mock(today=lambda: date(2026, 2, 3)))  # whatever the time of day
    comments = []
    for mark in (True, False):
        lips.run(head[0], speech, tmp_path / f"out{suffix}", box=BOX, mark=mark)
        comments.append(comment_of(tmp_path / f"out{suffix}"))
    assert comments[0] == "The lips in this video are synthetic: made by Wav2Lip (small generator.pth) on 2026-02-03"
    assert comments[1] is None


def comment_of(path) -> str | None:
    output = subprocess.run([video.ffmpeg_path(), "-i", path], capture_output=True, text=True).stderr
    match = re.search(r"^ +comment +: (.*)$", output, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else None


# --------------------------------------------------------------------------------------------------------------------
# Pasting into the frame


def test_captions_stay_and_are_not_borrowed(astronaut):
    """Captions of other frames used to come with their mouths; the frame's own were torn or lost."""
    face = crop(astronaut, (166, 35, 296, 180))
    smile, words = cv2.convertScaleAbs(face, beta=2), face.copy()
    cv2.putText(words, "THIS IS IT", (10, 86), cv2.FONT_HERSHEY_PLAIN, 0.9, (255, 255, 255), 2)
    assert np.abs(References(words[None]).select(face, 1.0).face.astype(int) - face).max() == 0
    assert np.abs(References(smile[None]).select(words, 1.0).face.astype(int) - words).max() == 0
    both = References(np.stack([words, smile]), openings=np.zeros(2))
    shown = both.select(face, 1.0).face.astype(int)  # that of the face without words
    assert np.abs(shown - face).max() <= 3 and np.abs(shown - face)[72, 48].min() >= 1


@pytest.mark.parametrize("narrower", [0.85, 0.8, 0.75])
def test_no_mouth_in_another_pose_is_borrowed_however_open(astronaut, narrower):
    """When a head turned, its mouths from before used to be mixed in: two mouths, smeared."""
    face = crop(astronaut, (166, 35, 296, 180))
    matrix = np.array([[narrower, 0, 48 * (1 - narrower)], [0, 1, 0]])
    turned = cv2.warpAffine(face, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(pose_of(turned) - pose_of(face)).mean() > OTHER_SHOT
    references = References(np.stack([cv2.convertScaleAbs(face, beta=1), turned]), openings=np.array([0.0, 1.0]))
    for wanted in np.linspace(0, 1, 11):
        assert np.abs(references.select(face, 1.0, wanted).face.astype(int) - face).max() <= 1


@pytest.mark.parametrize("dark, bright", [(0.6, 1.0), (1.0, 0.6), (0.2, 0.45)])
def test_a_mouth_borrowed_within_a_fade_gets_the_light_of_the_frame(astronaut, dark, bright):
    """In a fade from black, faces had holes from earlier frames, then glowing mouths from later ones."""
    face = crop(astronaut, (166, 35, 296, 180))
    there, here = (cv2.convertScaleAbs(face, alpha=share) for share in (bright, dark))
    shown = References(there[None]).select(here, 1.0).face.astype(float)
    mouth = masks.mouth() == 1
    assert abs(np.log(shown[mouth].mean() / here[mouth].mean())) < 0.12


def test_nothing_is_borrowed_between_dark_and_bright_faces(astronaut):
    face = crop(astronaut, (166, 35, 296, 180))
    for here, there in ((face, face // 8), (face // 8, face)):
        assert (References(there[None]).select(here, 1.0).face == here).all()


def test_faces_in_a_fade_are_not_used(astronaut):
    """Black faces used to pass for those with shut mouths."""
    face = crop(astronaut, (166, 35, 296, 180)).astype(float)
    fading = np.stack([share * face for share in (0.02, 0.3, 0.5, 0.8, 0.9, 1, 1, 1, 1)]).astype(np.uint8)
    assert evenly_lit(fading).tolist() == [False] * 3 + [True] * 6
    assert evenly_lit(fading[[0, -1]]).any()  # of two, one


@pytest.mark.parametrize("tint", [0, 40])
def test_a_face_without_colours_gets_none(tint):
    """In black and white photos, lips had a brown stain."""
    frame = np.full((288, 288, 3), (130, 130, 130 + tint), np.uint8)
    frame[:100] = 140  # about as bright
    filmed = cv2.resize(frame, (96, 96))
    face = filmed.copy()
    cv2.ellipse(face, (48, 73), (14, 8), 0, 0, 360, (40, 40, 110), -1)
    pasted = paste(frame, DrawnFace(face, filmed, (0, 0, 288, 288)), "feather")[219, 144].astype(int)
    assert np.ptp(pasted) <= 1 if tint == 0 else np.ptp(pasted) > 50


def test_lips_are_brown_in_sepia(astronaut):
    """They were green and olive. In sepia, all pixels of one brightness have the same colour."""
    brown = np.array([[0.131, 0.534, 0.272], [0.168, 0.686, 0.349], [0.189, 0.769, 0.393]])
    face = crop(astronaut, (166, 35, 296, 180))
    filmed = cv2.transform(face // 2 + 40, brown)  # nowhere so bright that a colour saturates
    drawn = filmed.copy()
    cv2.ellipse(drawn, (48, 73), (14, 8), 0, 0, 360, (40, 40, 110), -1)
    coloured = _match_tint(drawn.astype(np.float32), filmed.astype(np.float32))[73, 48]
    as_bright = filmed.reshape(-1, 3)[np.abs(filmed.mean(-1).ravel() - coloured.mean()) < 3].astype(float)
    assert np.abs(coloured - as_bright.mean(0)).max() < 6
    kept = _match_tint(drawn.astype(np.float32), face.astype(np.float32))
    np.testing.assert_array_equal(kept, drawn)  # in a film in colour it keeps its own


def test_nothing_is_drawn_beside_the_jaw():
    """A drawn jaw wider than the filmed one left a halo on neck, hair and wall."""
    mask = masks.lower_face()
    assert mask[84:, :14].max() < 0.05 and mask[84:, -14:].max() < 0.05 and mask[masks.lips() > 0.1].min() > 0.9


@pytest.mark.parametrize("blend", ["box", "feather"])
@pytest.mark.parametrize("rows, columns", [((0, 200), (0, 512)), ((60, 512), (0, 512)), ((0, 512), (170, 512))])
def test_a_face_cut_by_the_edge_is_pasted_as_a_whole_one(astronaut, blend, rows, columns):
    """The part inside used to pass for a whole face, and its nose for the mouth."""
    x1, y1, x2, y2 = box = (150, 20, 310, 215)
    face = crop(astronaut, box)
    other = face.copy()
    cv2.ellipse(other, (48, 70), (22, 14), 0, 0, 360, (20, 20, 120), -1)
    part, cut = slice(*rows), slice(*columns)
    left, top = columns[0], rows[0]
    moved = (x1 - left, y1 - top, x2 - left, y2 - top)
    whole = paste(astronaut, DrawnFace(other, face, box), blend)[part, cut]
    alone = paste(np.ascontiguousarray(astronaut[part, cut]), DrawnFace(other, face, moved), blend)
    difference = np.abs(whole.astype(int) - alone)
    assert difference.max() <= (0 if blend == "box" else 12) and difference.mean() < 0.05
    inside = crop(astronaut[part, cut], moved).astype(int)
    seen = slice(round(96 * max(0, -moved[1]) / (y2 - y1)) + 1, round(96 * (min(rows[1], y2) - y1) / (y2 - y1)) - 1)
    assert np.abs(inside - face)[seen, 48:].max() <= 2


@pytest.fixture
def place(astronaut):
    """A face of 200 x 220 pixels in a photo: (frame, box, face)."""
    box = (130, 30, 330, 250)
    return astronaut, box, crop(astronaut, box)


def test_paste_replaces_the_box_in_a_copy_of_the_frame(place):
    frame, box, face = place
    before = frame.copy()
    pasted = paste(frame, DrawnFace(np.zeros_like(face), face, box), "box")
    assert (pasted[30:250, 130:330] == 0).all() and (frame == before).all()
    pasted[30:250, 130:330] = frame[30:250, 130:330]
    assert (pasted == frame).all()
    own = frame.copy()
    assert paste(own, DrawnFace(face, face, box), "feather", in_place=True) is own


def test_what_the_network_leaves_alone_keeps_its_detail(place):
    """From a face that comes back smaller, softer and a little darker, only the lips are taken."""
    frame, box, face = place
    dull = cv2.GaussianBlur(face, (0, 0), 1).astype(int) - 5
    dull = dull.clip(0, 255).astype(np.uint8)
    soft, boxed = (
        np.abs(paste(frame, DrawnFace(dull, face, box), blend).astype(int) - frame) for blend in ("feather", "box")
    )
    beside = np.zeros(frame.shape[:2], bool)
    beside[140:250, 130:330] = True  # the lower half
    beside[160:234, 178:282] = False  # without the lips
    assert soft[beside].mean() < 0.25 * boxed[beside].mean() and (soft[:100] == 0).all()


def test_what_the_network_changes_is_pasted_without_an_edge(place):
    frame, box, face = place
    other = face.copy()
    cv2.ellipse(other, (48, 70), (22, 14), 0, 0, 360, (20, 20, 120), -1)
    pasted = paste(frame, DrawnFace(other, face, box), "feather")
    assert np.abs(pasted[190, 230].astype(int) - (20, 20, 120)).max() < 15
    assert (pasted[:100] == frame[:100]).all() and (pasted[:, [130, 329]] == frame[:, [130, 329]]).all()


def test_faces_that_shrink_one_way_only_stay_sharp():
    """OpenCV's averaging makes blocks where a side grows, as in narrow boxes."""
    wave = (120 + 60 * np.sin(np.arange(96) / 5)).round()[:, None, None].repeat(96, 1).repeat(3, 2).astype(np.uint8)
    frame = np.full((160, 140, 3), 120, np.uint8)
    pasted = paste(frame, DrawnFace(wave, np.full_like(wave, 120), (20, 20, 110, 140)), "feather")
    smooth = cv2.resize(wave, (90, 120), interpolation=cv2.INTER_CUBIC)
    assert np.abs(pasted[100:125, 50:80].astype(int) - smooth[80:105, 30:60]).mean() < 1.5


def test_small_faces_are_averaged_not_sampled():
    """Cubic interpolation skips pixels where it shrinks: fine patterns of the drawn face became coarse ones."""
    frame = np.full((80, 80, 3), 120, np.uint8)
    drawn = np.full((96, 96, 3), 120, np.uint8)
    drawn[::2] += 40
    drawn[1::2] -= 40
    pasted = paste(frame, DrawnFace(drawn, np.full_like(drawn, 120), (20, 20, 60, 60)), "feather")
    assert pasted[46:56, 32:48].std() < 10


def test_a_face_unlike_the_frame_is_pasted_only_within_the_mask():
    grey = np.full((240, 240, 3), 200, np.uint8)
    filmed = np.full((96, 96, 3), 200, np.uint8)
    pasted = paste(grey, DrawnFace(np.zeros_like(filmed), filmed, (20, 20, 220, 240)), "feather")
    assert (pasted[:100] == 200).all() and (pasted[20:, [20, 219]] == 200).all() and pasted[180, 120].max() < 30
    assert np.abs(np.diff(pasted[:, 120, 0].astype(int))).max() < 30  # no edge anywhere


ACROSS, DOWN = (2 * place / 95 - 1 for place in np.mgrid[0:96, 0:96][::-1])


@pytest.mark.parametrize(
    "tint", [20 + 0 * ACROSS, -20 + 0 * ACROSS, 15 * ACROSS, 12 * DOWN], ids=("light", "dark", "across", "down")
)
def test_a_mouth_gets_the_colours_of_the_face_around_it(tint):
    """If the network draws a face in other light, only the mouth itself changes."""
    frame = np.full((288, 288, 3), (140, 150, 180), np.uint8)
    filmed = cv2.resize(frame, (96, 96))
    drawn = (filmed + tint[..., None]).round().astype(np.uint8)
    cv2.ellipse(drawn, (48, 73), (14, 8), 0, 0, 360, (30, 30, 90), -1)
    changed = np.abs(paste(frame, DrawnFace(drawn, filmed, (0, 0, 288, 288)), "feather").astype(int) - frame).max(-1)
    beside = np.ones(changed.shape, np.uint8)
    cv2.ellipse(beside, (144, 219), (60, 42), 0, 0, 360, 0, -1)  # the lips
    assert changed[219, 144] > 80 and changed[beside == 1].max() <= 4


@pytest.mark.parametrize(
    ("skin", "drawn", "redness", "blueness"),
    [
        (
            (140, 150, 180),
            (190, 205, 160),
            9,
            -3,
        ),  # cyan teeth get three tenths of the skin's colour, the least possible
        ((140, 150, 180), (140, 160, 190), 30, -20),  # these are plausible
        ((150, 180, 140), (190, 210, 170), -40, -20),  # in green light everything is green
    ],
)
def test_teeth_have_a_colour_possible_in_the_light(skin, drawn, redness, blueness):
    frame = np.full((288, 288, 3), skin, np.uint8)
    frame[:60] = 155  # eyes, about as bright; without them it would pass for a film of one colour
    filmed = cv2.resize(frame, (96, 96))
    face = filmed.copy()
    cv2.ellipse(face, (48, 73), (14, 8), 0, 0, 360, drawn, -1)
    blue, green, red = paste(frame, DrawnFace(face, filmed, (0, 0, 288, 288)), "feather")[219, 144].astype(int)
    assert abs(red - green - redness) <= 2 and abs(blue - green - blueness) <= 2
    luma = (0.114, 0.587, 0.299)
    assert abs(np.dot(luma, (blue, green, red)) - np.dot(luma, drawn)) <= 3


@pytest.mark.parametrize("drawn, grain, level", [(130, 20, 128), (188, 0, 188)])
def test_a_mouth_coarsely_as_filmed_keeps_its_filmed_detail(drawn, grain, level):
    """A pattern of single pixels, too fine for 96 pixels, survives in a mouth drawn as filmed, and in no other."""
    pattern = np.indices((384, 384)).sum(0) % 2 * 40 - 20
    frame = np.repeat((128 + pattern)[..., None], 3, axis=2).astype(np.uint8)
    filmed = np.full((96, 96, 3), 128, np.uint8)
    face = filmed.copy()
    cv2.ellipse(face, (48, 73), (24, 15), 0, 0, 360, (drawn,) * 3, -1)
    mouth = paste(frame, DrawnFace(face, filmed, (0, 0, 384, 384)), "feather")[282:302, 182:202].astype(float)
    assert abs(mouth.std() - grain) < 0.5 and abs(mouth.mean() - level) < 3


@pytest.fixture
def batch_sizes(monkeypatch):
    """The sizes of the batches that the network draws."""
    seen = []

    def generate(model, mels, faces, gains):
        seen.append(len(faces))
        return faces[..., :3]

    monkeypatch.setattr(mouths.drawing, "generate", generate)
    return seen


@pytest.mark.parametrize(("first", "expected"), [(4, [4, 16, 16, 4]), (None, [16, 16, 8])])
def test_the_first_batch_may_be_smaller(batch_sizes, first, expected):
    frames, windows = [np.zeros((96, 96, 3), np.uint8)] * 40, [np.zeros((80, 16), np.float32)] * 40
    face = SpeakingTrack([(0, 0, 96, 96)] * 40, windows)
    assert len(list(redraw_mouths(frames, [face], models.Wav2Lip, 16, first=first))) == 40
    assert batch_sizes == expected


@pytest.mark.parametrize(("first", "expected"), [(4, 4), (None, 48)])
def test_the_first_batch_does_not_wait_for_others(batch_sizes, first, expected):
    """Without ``first``, two workers have a batch each, and one more is read ahead."""
    read, windows = [], [np.zeros((80, 16), np.float32)] * 80
    frames = (read.append(i) or np.zeros((96, 96, 3), np.uint8) for i in range(80))
    face = SpeakingTrack([(0, 0, 96, 96)] * 80, windows)
    drawn = redraw_mouths(frames, [face], models.Wav2Lip, 16, workers=2, first=first)
    next(drawn)
    assert len(read) == expected
    assert len(list(drawn)) == 79


def test_the_first_frame_does_not_wait_for_a_whole_batch(batch_sizes, small_checkpoint, talking_clip, speech):
    lips = LipSync(small_checkpoint, batch_size=8)
    take = lips.prepare(talking_clip, speech, box=(60, 200, 100, 210), reference="same", occlusion="ignore")
    assert len(list(lips.stream(take))) == 30
    assert sorted(batch_sizes) == [2, 4, 8, 8, 8]


def test_a_moving_chin_does_not_pass_for_a_caption(astronaut):
    """It moves the edge of a collar: a frame whose jaw had dropped used to keep its own, open mouth."""
    face = cv2.resize(crop(astronaut, (166, 35, 296, 180), 192), (96, 96), interpolation=cv2.INTER_AREA)
    skin = np.median(face[78:84, 36:60], axis=(0, 1))
    dropped = face.copy()
    for one, collar in ((face, 84), (dropped, 90)):
        one[76:collar, 20:76], one[collar:] = skin, (40, 20, 20)
    dropped[66:80, 36:60] = (30, 30, 60)  # an open mouth
    shown = References(face[None]).select(dropped, 1.0).face.astype(int)
    assert np.abs(shown - face)[masks.mouth() == 1].mean() < 1


@pytest.mark.parametrize("name", ["face_index", "crf", "rotate"])
def test_numbers_too_large_to_be_floats_are_refused(name):
    with pytest.raises(UserError, match=f"--{name} 1000"):
        Options(**{name: Fraction(10**400, 3)})


def test_faces_in_a_fade_are_not_collected(astronaut, monkeypatch):
    """Black ones would count as shut mouths."""
    fading = [cv2.convertScaleAbs(astronaut[20:200, 150:310], alpha=light) for light in (0, 0.5, 1, 1, 1)]
    monkeypatch.setattr(video, "read_frames", lambda *_: iter(fading))
    path = FacePath.of([(0, 0, 160, 180)], np.empty((1, 4)))
    assert path.begin() == 0
    source = video.VideoInfo(Path("x.mp4"), 160, 180, Fraction(25))
    found, larger = faces_of(FilmedFace(source, path, None), 0)
    assert len(found) == len(larger) == 3
