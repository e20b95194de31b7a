"""How mouths are asked to move: pauses, references and gains, by what they do to the pictures."""

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

BOX = [40, 178, 46, 143]  # of that head: top, bottom, left, right
MEL = np.random.default_rng(0).uniform(-4, 4, (6, 80, 16)).astype(np.float32)
SILENT = np.full_like(MEL, -4)
LOWER = slice(48, None)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """(video, how far its lips are apart in each frame): a drawn head that speaks for two seconds."""
    folder = tmp_path_factory.mktemp("head")
    truth = write_clip(folder / "head.mp4", Recipe(seconds=2.0, size=(192, 192)), 3)
    (x1, y1, x2, y2), *_ = np.median(truth["boxes"], axis=0).round().astype(int).tolist()
    assert [y1, y2, x1, x2] == BOX
    return folder / "head.mp4", np.array(truth["aperture"])


@pytest.fixture(scope="module")
def lips():
    """With the network that comes along."""
    return LipSync()


@pytest.fixture(scope="module")
def shipped(lips):
    return lips.model


def command(face, speech, folder) -> list[str]:
    return [f"--face={face}", f"--audio={speech}", f"--outfile={folder / 'out.mp4'}", "--box", *map(str, BOX)]


def crops(path) -> np.ndarray:
    """The faces in a video, as they are cut for the network."""
    return cut_out(video.read_frames(video.probe(path)))


def cut_out(frames) -> np.ndarray:
    top, bottom, left, right = BOX
    return np.stack([crop(frame, (left, top, right, bottom)) for frame in frames])


def made(lips, face, speech, **options) -> np.ndarray:
    """The faces in what would be encoded."""
    return cut_out(lips.stream(lips.prepare(face, speech, box=BOX, **options)))


def movement(faces: np.ndarray) -> float:
    """By how many grey levels the lower half of the face changes from frame to frame."""
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


def drawn(network, whole: np.ndarray, mels: np.ndarray, settings: MouthSettings) -> np.ndarray:
    """What is put into frames that are nothing but face."""
    return np.stack(list(redraw_mouths(whole, [(0, 0, 96, 96)] * len(whole), mels, network, 4, settings)))


# --------------------------------------------------------------------------------------------------------------------
# Gains


def test_a_gain_of_one_changes_nothing_and_of_none_is_silence(network):
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
    """In pixels: by how much the lower half of the face changes from frame to frame."""
    run_ffmpeg("-i", head[0], "-t", 1, tmp_path / "speech.wav")
    moved = []
    for gain in (0.5, 1.0, 2.0):
        moved.append(movement(made(lips, head[0], tmp_path / "speech.wav", mouth_gain=gain)))
    assert moved[0] < 0.85 * moved[1] and moved[2] > 1.1 * moved[1]  # what heads move is in all of them


@pytest.mark.parametrize("side", [60, 110, 130, 180, 250])
def test_a_face_that_is_drawn_as_it_was_filmed_changes_nothing(astronaut, side):
    """Between 96 and 192 pixels the detail of the frame was added to a face that had some of it: 15 % too sharp."""
    frame = cv2.resize(astronaut[40:240, 140:320], (side + 40, side + 40), interpolation=cv2.INTER_AREA)
    box = (20, 20, 20 + side, 20 + side)
    face = mouths.crop(frame, box)
    made = paste(frame, DrawnFace(face, face, box), "feather")
    assert np.abs(made.astype(int) - frame).max() <= 2 and np.abs(made.astype(int) - frame).mean() < 0.1


# --------------------------------------------------------------------------------------------------------------------
# Silence and references


def test_pauses_are_told_from_speech():
    rng, rate = np.random.default_rng(0), 16000
    sound = 0.3 * rng.standard_normal(3 * rate).astype(np.float32)
    sound[rate : 2 * rate] *= 0.001  # a second of 60 dB less
    sound[2 * rate + 8000 : 2 * rate + 10400] *= 0.001  # 0.15 s of it: a stop, not a pause
    windows = audio.MelWindows(audio.melspectrogram(sound), 25, 75)
    silent = windows.silence()
    assert (silent[:24] == 0).all() and (silent[51:] == 0).all() and (silent[31:44] == 1).all()
    assert (np.diff(silent[24:38]) >= 0).all() and (np.diff(silent[38:52]) <= 0).all()
    assert 0 < np.abs(np.diff(silent)).max() < 0.5  # by and by


@pytest.mark.parametrize("noise, expected", [(0.02, 1.0), (0.15, 0.0)])
def test_a_pause_may_be_noisy(noise, expected):
    """20 dB of noise below the voice is a pause; 3 dB below, nobody can tell."""
    rng = np.random.default_rng(0)
    sound = 0.2 * rng.standard_normal(48000).astype(np.float32)
    sound[16000:32000] = noise * rng.standard_normal(16000)
    assert audio.MelWindows(audio.melspectrogram(sound), 25, 75).silence()[37] == expected


@pytest.mark.parametrize("hiss", [0.0, 3e-4])
def test_a_short_speech_in_a_long_pause_is_heard(hiss):
    """Where it was less than a twentieth of the sound, the pause was taken for the loud part, and lips stayed shut."""
    rng, rate = np.random.default_rng(0), 16000
    sound = hiss * rng.standard_normal(60 * rate).astype(np.float32)
    sound[30 * rate : 32 * rate] += 0.1 * rng.standard_normal(2 * rate).astype(np.float32)
    windows = audio.MelWindows(audio.melspectrogram(sound), 25, 60 * 25)
    silent, heard = windows.silence(), windows.speech_mask()
    assert (silent[30 * 25 : 32 * 25] == 0).all() and (silent[: 29 * 25] == 1).all() and (silent[33 * 25 :] == 1).all()
    assert heard[30 * 25 : 32 * 25].all() and not heard[: 30 * 25 - 7].any() and not heard[32 * 25 + 2 :].any()


def test_a_knock_is_not_the_speech():
    """What was spoken softly after it was a pause."""
    rng, rate = np.random.default_rng(0), 16000
    sound = 1e-4 * rng.standard_normal(8 * rate).astype(np.float32)
    sound[2 * rate : 2 * rate + 5600] += 0.3 * rng.standard_normal(5600)
    speech = sound[4 * rate : 7 * rate]
    speech += 0.005 * rng.standard_normal(len(speech))
    assert (audio.MelWindows(audio.melspectrogram(sound), 25, 200).silence()[4 * 25 : 7 * 25] == 0).all()


def test_sound_without_speech_is_one_pause():
    assert (audio.MelWindows(audio.melspectrogram(np.zeros(16000, np.float32)), 25, 25).silence() == 1).all()


def test_a_still_reference_is_all_that_is_seen_of_a_mouth(network):
    """Frames that differ only in their lower halves then give the same, and without it do not."""
    whole = faces()
    other = whole.copy()
    other[:, LOWER] = 255 - other[:, LOWER]
    for reference_share, same in ((np.ones(6), True), (np.zeros(6), False)):
        references = References(faces(2)[:1], whole_face=True)
        known = Appearances({0: Appearance(poses_of(faces(2)[:1]), references)})
        settings = MouthSettings(appearances=known, reference_share=reference_share)
        assert (drawn(network, whole, MEL, settings) == drawn(network, other, MEL, settings)).all() == same


@pytest.fixture(scope="module")
def apart(head, shipped):
    """How far the lips of that head are apart, as the network tells it."""
    return open_lips(shipped, crops(head[0]))


def test_an_open_mouth_is_told_from_a_shut_one(head, apart):
    known, measured = head[1], apart
    assert np.corrcoef(measured, known[: len(measured)])[0, 1] > 0.7
    assert known[np.argmin(measured)] < 0.1


def test_mouths_that_are_shut_are_told_from_all_others(head, shipped):
    """Of a talking head, whose every frame is known, those that are taken are shut."""
    path, known = head
    shown = crops(path)
    taken = shut_mouths(shipped, shown).faces
    places = [next(i for i, face in enumerate(shown) if (face == one).all()) for one in taken]
    assert len(places) >= 2 and known[places].max() < 0.25 < 0.6 < known.max()


def test_the_mouth_of_the_face_that_is_held_most_alike_is_shown(astronaut):
    """A face that is turned a little gets the lips of one that is turned alike, whatever mouths and light do."""
    views = np.stack([crop(astronaut, (150 + 12 * i, 20, 300 + 12 * i, 200)) for i in range(5)])
    references = References(views[::2])
    lips = masks.mouth() == 1
    assert (lips >= (masks.lips() > 0.9)).all()  # they lie within
    for nearest, view in ((0, views[0]), (1, views[2]), (2, views[4])):
        brighter = cv2.convertScaleAbs(view, alpha=1, beta=12)
        brighter[masks.lips() > 0.1] = 0
        shown = references.select(brighter, 1.0).face
        assert (shown[lips] == references.faces[nearest][lips]).all()
        assert (shown[masks.mouth() == 0] == brighter[masks.mouth() == 0]).all()  # jaw, nose and ears stay its own
        assert (references.select(view, 0.0).face == view).all()


@pytest.mark.parametrize("side", [300, 401])
def test_a_fine_pattern_becomes_no_coarse_one(side):
    """As GIFs have: lips had stripes, since of four pixels the network was shown every other."""
    frame = np.indices((side, side)).sum(0) % 3 == 0
    face = crop(np.repeat(255 * frame[..., None], 3, 2).astype(np.uint8), (0, 0, side, side))
    assert np.abs(face.astype(int) - 85).mean() < 12


def test_smaller_faces_are_shrunk_as_by_the_reference(astronaut):
    for side in (60, 96, 150, 192):
        assert np.array_equal(crop(astronaut, (150, 20, 150 + side, 20 + side)),
                              cv2.resize(astronaut[20 : 20 + side, 150 : 150 + side], (96, 96)))  # fmt: skip


def test_a_mouth_as_far_open_as_is_wanted_is_lent(astronaut):
    """Of faces held alike that differ only where lips are, each darker the farther open it is said to be."""
    view = crop(astronaut, (150, 20, 300, 200))
    levels = np.linspace(0, 1, 5)
    views = np.stack([np.where(masks.lips()[..., None] >= 0.05, round(200 - 100 * level), view) for level in levels])
    references, lips = References(views.astype(np.uint8), openings=levels), masks.lips() == 1
    shown = [references.select(view, 1.0, wanted).face[lips].mean() for wanted in np.linspace(0, 1, 9)]
    assert np.allclose(shown[::2], 200 - 100 * levels, atol=1)
    assert (np.diff(shown) < 0).all()  # and between them mixtures
    assert (references.select(view, 0.0, 1.0).face == view).all()


def test_what_opens_mouths_is_heard_before_they_are_drawn(lips, shipped, head, apart, speech):
    """For another face and other speech than were learned from: by what the network then does to the face."""
    mels = read_speech(speech, Fraction(25))
    heard = np.stack([mels[i] for i in range(len(mels))])
    face = crops(head[0])[apart.argmin()]
    gains = np.full(len(heard), 1.2)
    opened = openings(shipped, heard, gains, lips.generator.opening)
    changes = np.abs(generate(shipped, heard, inputs(np.stack([face] * len(heard))), gains).astype(float) - face)
    assert np.corrcoef(opened, changes[:, 56:90, 28:68].mean((1, 2, 3)))[0, 1] > 0.8
    assert (openings(shipped, SILENT, None, lips.generator.opening) == 0).all()
    assert (openings(shipped, heard, np.zeros(len(heard)), lips.generator.opening) == 0).all()


def test_openings_are_learned_from_what_is_drawn(network):
    """With as many numbers to learn as an embedding has, a few mels are learned by heart but for the ridge."""
    opening = fit_opening(network, MEL, faces()[:2], 1.0)
    assert len(opening) == 64 and np.isfinite(opening).all()
    assert (openings(network, SILENT, None, opening) == 0).all()


def test_a_network_that_does_not_tell_is_not_asked(small_checkpoint, head):
    with pytest.raises(UserError, match="cannot tell how far mouths open; use --reference still"):
        LipSync(small_checkpoint).prepare(head[0], head[0], reference="matching", box=BOX)


def test_nobody_else_takes_a_place(astronaut, photo_of_another):
    """In another shot, or of somebody else, the frame keeps its own face; unless a frame was named."""
    face = crop(astronaut, (150, 20, 300, 200))
    assert (References(face[None]).select(photo_of_another, 1.0).face == photo_of_another).all()
    assert (References(face[None], whole_face=True).select(photo_of_another, 1.0).face == face).all()


def test_mouths_that_are_mixed_lie_upon_each_other(astronaut):
    """Their mean had double lips, and two rows of teeth."""
    face = crop(astronaut, (150, 20, 300, 200))
    higher, lower = face.copy(), face.copy()
    higher[58:90], lower[58:90] = face[60:92], face[56:88]
    shown = References(np.stack([higher, lower]), openings=np.full(2, 0.5)).select(face, 1.0, 0.5).face

    def detail(picture: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(picture[62:86, 30:66].astype(np.float32), cv2.CV_32F)).mean())

    mean = (higher.astype(np.float32) + lower) / 2
    assert detail(shown) - detail(mean) > 0.6 * (detail(face) - detail(mean)) > 2


@pytest.fixture
def photo_of_another(head):
    return crops(head[0])[0]


@pytest.fixture(scope="module")
def filmed_in_silence(head, lips, silence):
    """By how much lips move where a head that speaks says nothing: as the network likes it, something is left."""
    return movement(made(lips, head[0], silence, reference="same"))


@pytest.mark.parametrize(
    "options", [{"reference": "same", "silence": "closed"}, {"reference": "still"}, {"reference": "matching"}]
)
def test_lips_rest_in_silence(head, lips, silence, filmed_in_silence, options):
    moved = movement(made(lips, head[0], silence, **options))
    assert moved < 0.8 * filmed_in_silence  # what is left is grain and rounding, a little more in bf16 on some CPUs


def test_a_named_reference_is_that_frame(head, lips):
    take = lips.prepare(head[0], head[0], reference=7, box=BOX)
    assert (take.faces[0].mouth_settings.appearances.known[0].references.faces == crops(head[0])[7]).all()
    assert (take.faces[0].mouth_settings.reference_share == 1).all() and (
        take.faces[0].mouth_settings.gains == 1.2
    ).all()


def test_a_shut_mouth_is_looked_for_where_there_is_a_face(head):
    """The first seconds may show none."""
    source = video.probe(head[0])
    box = (BOX[2], BOX[0], BOX[3], BOX[1])
    path, one_box = (FacePath.of(boxes, np.empty((len(boxes), 4))) for boxes in ([None] * 30 + [box] * 20, [box]))
    assert path.begin() == path.first_face(0) == 30 and one_box.begin() == 0
    assert (faces_of(FilmedFace(source, path, 50), 0)[0] == crops(head[0])[30:50:5]).all()
    assert (faces_of(FilmedFace(source, one_box, None), 0)[0] == crops(head[0])[::5]).all()
    assert (faces_of(FilmedFace(source, one_box, 1), 0)[0] == crops(head[0])[:1]).all()


def test_a_look_that_fails_stops_reading(head, monkeypatch):
    path = FacePath.of([(BOX[2], BOX[0], BOX[3], BOX[1])], np.empty((1, 4)))
    assert path.begin() == 0
    monkeypatch.setattr(FacePath, "known", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as failed:  # whose traceback keeps all that was open
        faces_of(FilmedFace(video.probe(head[0]), path, None), 0)
    assert not concurrency._working, failed


def test_a_look_ends_with_its_shot(head):
    box, nowhere = (BOX[2], BOX[0], BOX[3], BOX[1]), np.empty((10, 4))
    pieces = [([None] * 10, True), ([box] * 10, False), ([box] * 10, True), ([None] * 10, True), ([box] * 10, True)]
    path = FacePath(lambda: (Piece(boxes, nowhere, ends) for boxes, ends in pieces))
    assert path.begin() == 10 and path.shots == [0, 10, 30, 40]
    assert [path.first_face(start) for start in path.shots] == [None, 10, None, 40]
    assert [path.shot(frame) for frame in (0, 9, 10, 29, 30, 49)] == [0, 0, 10, 10, 30, 40]
    assert (faces_of(FilmedFace(video.probe(head[0]), path, 50), 10)[0] == crops(head[0])[10:30:5]).all()


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
def test_what_cannot_be_is_refused(options, words):
    """In Python too, where no parser looks at it before."""
    with pytest.raises(UserError, match=words):
        Options(**options)


def test_numbers_may_be_those_of_others():
    chosen = Options(reference=np.int64(3), fps=Fraction(30000, 1001), mouth_gain=np.float32(1.5), crf=np.int64(20))
    assert type(chosen.reference) is int and chosen == replace(chosen)
    chosen = Options(box=np.array([30, 250, 60, 260]), mouth_gain=2, lip_delay=np.float32(40), mix="all.wav")
    assert chosen.box == (30, 250, 60, 260) and chosen.mix == Path("all.wav")
    assert [type(value) for value in (chosen.mouth_gain, chosen.lip_delay, chosen.box[0])] == [float, float, int]
    assert Options(face_index=1.0).face_index == 1


def test_a_reference_without_a_face_is_refused(head, tmp_path, capsys):
    assert inference.main([*command(head[0], head[0], tmp_path), "--reference", "900"]) == 2
    assert "has no such frame; name another" in capsys.readouterr().err and not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------------
# Into the file


def tone(path, hertz, seconds=2.0):
    run_ffmpeg("-f", "lavfi", "-i", f"aevalsrc=0.4*sin(2*PI*{hertz}*t):d={seconds}:s=16000", path)
    return path


def test_a_mix_is_heard_and_moves_no_lips(head, small_checkpoint, tmp_path):
    """The frames are those of the voice alone; the sound is the mix, whose pitch is known."""
    speech, mix = head[0], tone(tmp_path / "mix.wav", 880)
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    small = f"--checkpoint_path={small_checkpoint}"
    assert inference.main([*command(head[0], speech, alone), small]) == 0
    assert inference.main([*command(head[0], speech, mixed), small, f"--mix={mix}"]) == 0
    pairs = zip(*(video.read_frames(video.probe(folder / "out.mp4")) for folder in (alone, mixed)), strict=True)
    assert all((a == b).all() for a, b in pairs)
    heard = video.read_audio(mixed / "out.mp4", 16000)[1600:17600]
    assert np.abs(np.fft.rfft(heard)).argmax() == 880


def test_a_mix_without_sound_is_refused(head, talking_clip, tmp_path, capsys):
    assert inference.main([*command(head[0], head[0], tmp_path), f"--mix={talking_clip}"]) == 2
    assert "has no sound track" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_file_says_that_its_lips_are_synthetic(head, speech, small_checkpoint, tmp_path, suffix, monkeypatch):
    lips = LipSync(small_checkpoint)
    monkeypatch.setattr(engine, "date", Mock(today=lambda: date(2026, 2, 3)))  # so that no midnight comes between
    said = []
    for mark in (True, False):
        lips.run(head[0], speech, tmp_path / f"out{suffix}", box=BOX, mark=mark)
        said.append(comment_of(tmp_path / f"out{suffix}"))
    assert said[0] == "The lips in this video are synthetic: made by Wav2Lip (small generator.pth) on 2026-02-03"
    assert said[1] is None


def comment_of(path) -> str | None:
    asked = subprocess.run([video.ffmpeg_path(), "-i", path], capture_output=True, text=True).stderr
    found = re.search(r"^ +comment +: (.*)$", asked, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else None


# --------------------------------------------------------------------------------------------------------------------
# Into the frame


def test_captions_stay_where_they_are_and_go_nowhere_else(astronaut):
    """Those of other moments came along with their mouths; those of this one were torn, or gone."""
    face = crop(astronaut, (166, 35, 296, 180))
    smile, words = cv2.convertScaleAbs(face, beta=2), face.copy()
    cv2.putText(words, "THIS IS IT", (10, 86), cv2.FONT_HERSHEY_PLAIN, 0.9, (255, 255, 255), 2)
    assert np.abs(References(words[None]).select(face, 1.0).face.astype(int) - face).max() == 0
    assert np.abs(References(smile[None]).select(words, 1.0).face.astype(int) - words).max() == 0
    both = References(np.stack([words, smile]), openings=np.zeros(2))
    shown = both.select(face, 1.0).face.astype(int)  # the one without
    assert np.abs(shown - face).max() <= 3 and np.abs(shown - face)[72, 48].min() >= 1


@pytest.mark.parametrize("narrower", [0.85, 0.8, 0.75])
def test_no_mouth_of_another_posture_is_lent_however_open_it_is(astronaut, narrower):
    """Where a head turned, mouths of it before were mixed into those of the head as it was: two mouths, smeared."""
    face = crop(astronaut, (166, 35, 296, 180))
    matrix = np.array([[narrower, 0, 48 * (1 - narrower)], [0, 1, 0]])
    turned = cv2.warpAffine(face, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(pose_of(turned) - pose_of(face)).mean() > OTHER_SHOT
    references = References(np.stack([cv2.convertScaleAbs(face, beta=1), turned]), openings=np.array([0.0, 1.0]))
    for wanted in np.linspace(0, 1, 11):
        assert np.abs(references.select(face, 1.0, wanted).face.astype(int) - face).max() <= 1


@pytest.mark.parametrize("dark, bright", [(0.6, 1.0), (1.0, 0.6), (0.2, 0.45)])
def test_a_mouth_of_another_moment_of_a_fade_is_lent_in_this_ones_light(astronaut, dark, bright):
    """In a fade from black, faces had holes of earlier frames, then glowing mouths of later ones."""
    face = crop(astronaut, (166, 35, 296, 180))
    there, here = (cv2.convertScaleAbs(face, alpha=share) for share in (bright, dark))
    shown = References(there[None]).select(here, 1.0).face.astype(float)
    mouth = masks.mouth() == 1
    assert abs(np.log(shown[mouth].mean() / here[mouth].mean())) < 0.12


def test_nothing_is_lent_from_black_to_white(astronaut):
    face = crop(astronaut, (166, 35, 296, 180))
    for here, there in ((face, face // 8), (face // 8, face)):
        assert (References(there[None]).select(here, 1.0).face == here).all()


def test_faces_of_a_fade_tell_nothing_of_the_rest(astronaut):
    """The black ones had passed for those whose mouths are shut."""
    face = crop(astronaut, (166, 35, 296, 180)).astype(float)
    fading = np.stack([share * face for share in (0.02, 0.3, 0.5, 0.8, 0.9, 1, 1, 1, 1)]).astype(np.uint8)
    assert evenly_lit(fading).tolist() == [False] * 3 + [True] * 6
    assert evenly_lit(fading[[0, -1]]).any()  # of two, one


@pytest.mark.parametrize("tint", [0, 40])
def test_a_face_without_colours_gets_none(tint):
    """In photos without colours, lips had a brown stain."""
    frame = np.full((288, 288, 3), (130, 130, 130 + tint), np.uint8)
    frame[:100] = 140  # about as bright
    filmed = cv2.resize(frame, (96, 96))
    face = filmed.copy()
    cv2.ellipse(face, (48, 73), (14, 8), 0, 0, 360, (40, 40, 110), -1)
    pasted = paste(frame, DrawnFace(face, filmed, (0, 0, 288, 288)), "feather")[219, 144].astype(int)
    assert np.ptp(pasted) <= 1 if tint == 0 else np.ptp(pasted) > 50


def test_in_sepia_lips_are_brown(astronaut):
    """They were green and olive; the colour of a brightness is the same all over such a film."""
    brown = np.array([[0.131, 0.534, 0.272], [0.168, 0.686, 0.349], [0.189, 0.769, 0.393]])
    face = crop(astronaut, (166, 35, 296, 180))
    filmed = cv2.transform(face // 2 + 40, brown)  # no part of it so bright that a colour is full
    drawn = filmed.copy()
    cv2.ellipse(drawn, (48, 73), (14, 8), 0, 0, 360, (40, 40, 110), -1)
    coloured = _match_tint(drawn.astype(np.float32), filmed.astype(np.float32))[73, 48]
    around = filmed.reshape(-1, 3)[np.abs(filmed.mean(-1).ravel() - coloured.mean()) < 3].astype(float)
    assert np.abs(coloured - around.mean(0)).max() < 6
    kept = _match_tint(drawn.astype(np.float32), face.astype(np.float32))
    np.testing.assert_array_equal(kept, drawn)  # in a film with colours it has its own


def test_beside_the_jaw_nothing_is_drawn():
    """Where neck, hair and wall are, a drawn jaw that is wider was a halo."""
    mask = masks.lower_face()
    assert mask[84:, :14].max() < 0.05 and mask[84:, -14:].max() < 0.05 and mask[masks.lips() > 0.1].min() > 0.9


@pytest.mark.parametrize("blend", ["box", "feather"])
@pytest.mark.parametrize("rows, columns", [((0, 200), (0, 512)), ((60, 512), (0, 512)), ((0, 512), (170, 512))])
def test_a_face_that_the_edge_cuts_is_drawn_as_if_all_of_it_were_there(astronaut, blend, rows, columns):
    """It was taken for all of a face, and its nose for its mouth."""
    x1, y1, x2, y2 = box = (150, 20, 310, 215)
    face = crop(astronaut, box)
    other = face.copy()
    cv2.ellipse(other, (48, 70), (22, 14), 0, 0, 360, (20, 20, 120), -1)
    part, cut = slice(*rows), slice(*columns)
    left, top = columns[0], rows[0]
    moved = (x1 - left, y1 - top, x2 - left, y2 - top)
    whole = paste(astronaut, DrawnFace(other, face, box), blend)[part, cut]
    alone = paste(np.ascontiguousarray(astronaut[part, cut]), DrawnFace(other, face, moved), blend)
    apart = np.abs(whole.astype(int) - alone)
    assert apart.max() <= (0 if blend == "box" else 12) and apart.mean() < 0.05
    inside = crop(astronaut[part, cut], moved).astype(int)
    seen = slice(round(96 * max(0, -moved[1]) / (y2 - y1)) + 1, round(96 * (min(rows[1], y2) - y1) / (y2 - y1)) - 1)
    assert np.abs(inside - face)[seen, 48:].max() <= 2


@pytest.fixture
def place(astronaut):
    """(frame, box, the face in it): 200 x 220 pixels of a photo."""
    box = (130, 30, 330, 250)
    return astronaut, box, crop(astronaut, box)


def test_a_box_is_replaced_and_a_frame_is_not_drawn_on(place):
    frame, box, face = place
    before = frame.copy()
    pasted = paste(frame, DrawnFace(np.zeros_like(face), face, box), "box")
    assert (pasted[30:250, 130:330] == 0).all() and (frame == before).all()
    pasted[30:250, 130:330] = frame[30:250, 130:330]
    assert (pasted == frame).all()
    own = frame.copy()
    assert paste(own, DrawnFace(face, face, box), "feather", in_place=True) is own


def test_what_the_network_leaves_as_it_is_keeps_its_detail(place):
    """Of a face that comes back smaller, softer and a little darker, only the lips are taken."""
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


def test_what_the_network_changes_is_taken_without_an_edge(place):
    frame, box, face = place
    other = face.copy()
    cv2.ellipse(other, (48, 70), (22, 14), 0, 0, 360, (20, 20, 120), -1)
    pasted = paste(frame, DrawnFace(other, face, box), "feather")
    assert np.abs(pasted[190, 230].astype(int) - (20, 20, 120)).max() < 15
    assert (pasted[:100] == frame[:100]).all() and (pasted[:, [130, 329]] == frame[:, [130, 329]]).all()


def test_the_mouths_of_others_are_no_wider_than_the_mask():
    grey = np.full((240, 240, 3), 200, np.uint8)
    filmed = np.full((96, 96, 3), 200, np.uint8)
    pasted = paste(grey, DrawnFace(np.zeros_like(filmed), filmed, (20, 20, 220, 240)), "feather")
    assert (pasted[:100] == 200).all() and (pasted[20:, [20, 219]] == 200).all() and pasted[180, 120].max() < 30
    assert np.abs(np.diff(pasted[:, 120, 0].astype(int))).max() < 30  # no edge anywhere


ACROSS, DOWN = (2 * place / 95 - 1 for place in np.mgrid[0:96, 0:96][::-1])


@pytest.mark.parametrize(
    "tint", [20 + 0 * ACROSS, -20 + 0 * ACROSS, 15 * ACROSS, 12 * DOWN], ids=("light", "dark", "across", "down")
)
def test_a_mouth_is_put_in_in_the_colours_of_the_face_around_it(tint):
    """Where the network draws a face in other light, only the mouth itself is anything new."""
    frame = np.full((288, 288, 3), (140, 150, 180), np.uint8)
    filmed = cv2.resize(frame, (96, 96))
    drawn = (filmed + tint[..., None]).round().astype(np.uint8)
    cv2.ellipse(drawn, (48, 73), (14, 8), 0, 0, 360, (30, 30, 90), -1)
    changed = np.abs(paste(frame, DrawnFace(drawn, filmed, (0, 0, 288, 288)), "feather").astype(int) - frame).max(-1)
    beside = np.ones(changed.shape, np.uint8)
    cv2.ellipse(beside, (144, 219), (60, 42), 0, 0, 360, 0, -1)  # where lips are
    assert changed[219, 144] > 80 and changed[beside == 1].max() <= 4


@pytest.mark.parametrize(
    ("skin", "drawn", "redness", "blueness"),
    [
        ((140, 150, 180), (190, 205, 160), 9, -3),  # cyan teeth: three tenths of the colour of the skin are the least
        ((140, 150, 180), (140, 160, 190), 30, -20),  # these are in order
        ((150, 180, 140), (190, 210, 170), -40, -20),  # in green light everything is green
    ],
)
def test_teeth_are_of_a_colour_that_the_light_allows(skin, drawn, redness, blueness):
    frame = np.full((288, 288, 3), skin, np.uint8)
    frame[:60] = 155  # eyes, about as bright: of a film of one colour all is of that
    filmed = cv2.resize(frame, (96, 96))
    face = filmed.copy()
    cv2.ellipse(face, (48, 73), (14, 8), 0, 0, 360, drawn, -1)
    blue, green, red = paste(frame, DrawnFace(face, filmed, (0, 0, 288, 288)), "feather")[219, 144].astype(int)
    assert abs(red - green - redness) <= 2 and abs(blue - green - blueness) <= 2
    bright = (0.114, 0.587, 0.299)
    assert abs(np.dot(bright, (blue, green, red)) - np.dot(bright, drawn)) <= 3


@pytest.mark.parametrize("drawn, grain, level", [(130, 20, 128), (188, 0, 188)])
def test_what_is_coarsely_the_same_has_the_detail_that_was_filmed(drawn, grain, level):
    """A pattern of single pixels, of which 96 pixels can show nothing, survives a mouth that is as it was, no other."""
    pattern = np.indices((384, 384)).sum(0) % 2 * 40 - 20
    frame = np.repeat((128 + pattern)[..., None], 3, axis=2).astype(np.uint8)
    filmed = np.full((96, 96, 3), 128, np.uint8)
    face = filmed.copy()
    cv2.ellipse(face, (48, 73), (24, 15), 0, 0, 360, (drawn,) * 3, -1)
    mouth = paste(frame, DrawnFace(face, filmed, (0, 0, 384, 384)), "feather")[282:302, 182:202].astype(float)
    assert abs(mouth.std() - grain) < 0.5 and abs(mouth.mean() - level) < 3


@pytest.fixture
def sizes(monkeypatch):
    """Of the batches that the network draws."""
    seen = []

    def generate(model, mels, faces, gains):
        seen.append(len(faces))
        return faces[..., :3]

    monkeypatch.setattr(mouths.drawing, "generate", generate)
    return seen


@pytest.mark.parametrize(("first", "expected"), [(4, [4, 16, 16, 4]), (None, [16, 16, 8])])
def test_the_first_batch_may_be_smaller(sizes, first, expected):
    frames, windows = [np.zeros((96, 96, 3), np.uint8)] * 40, [np.zeros((80, 16), np.float32)] * 40
    assert len(list(redraw_mouths(frames, [(0, 0, 96, 96)] * 40, windows, models.Wav2Lip, 16, first=first))) == 40
    assert sizes == expected


@pytest.mark.parametrize(("first", "expected"), [(4, 4), (None, 48)])
def test_the_first_batch_waits_for_no_other(sizes, first, expected):
    """Else two workers have a batch each, and one more is read ahead."""
    read, windows = [], [np.zeros((80, 16), np.float32)] * 80
    frames = (read.append(i) or np.zeros((96, 96, 3), np.uint8) for i in range(80))
    drawn = redraw_mouths(frames, [(0, 0, 96, 96)] * 80, windows, models.Wav2Lip, 16, workers=2, first=first)
    next(drawn)
    assert len(read) == expected
    assert len(list(drawn)) == 79


def test_nobody_waits_for_a_whole_batch_to_see_the_first_frame(sizes, small_checkpoint, talking_clip, speech):
    lips = LipSync(small_checkpoint, batch_size=8)
    take = lips.prepare(talking_clip, speech, box=(60, 200, 100, 210), reference="same", occlusion="ignore")
    assert len(list(lips.stream(take))) == 30
    assert sorted(sizes) == [2, 4, 8, 8, 8]


def test_a_chin_that_moves_is_no_caption(astronaut):
    """Below it there is a collar: where the jaw had dropped, the frame kept its own, open mouth."""
    face = cv2.resize(crop(astronaut, (166, 35, 296, 180), 192), (96, 96), interpolation=cv2.INTER_AREA)
    skin = np.median(face[78:84, 36:60], axis=(0, 1))
    dropped = face.copy()
    for one, collar in ((face, 84), (dropped, 90)):
        one[76:collar, 20:76], one[collar:] = skin, (40, 20, 20)
    dropped[66:80, 36:60] = (30, 30, 60)  # an open mouth
    shown = References(face[None]).select(dropped, 1.0).face.astype(int)
    assert np.abs(shown - face)[masks.mouth() == 1].mean() < 1
