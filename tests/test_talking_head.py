"""The procedural talking heads: picture and sound come from one articulation."""

from __future__ import annotations

import json

import numpy as np
import pytest

import audio
import video
from conftest import changes_of
from demo import talking_head
from demo.articulation import CONSONANTS, RATE, VOWELS, _move, silence, speak
from demo.head import OPENING, Head, Identity, Pose, lip_lines
from demo.scene import Actor, Shot, film
from demo.talking_head import Recipe, write_clip
from demo.voice import SAMPLE_RATE, Voice, synthesize
from face_detection.cuts import find_cuts
from face_detection.detectors import create_detector

SMALL = Recipe(seconds=0.4, size=(96, 96))


def loudness(wav: np.ndarray, seconds: float) -> float:
    """Return the RMS of the 10 ms around a moment."""
    middle, reach = round(seconds * SAMPLE_RATE), SAMPLE_RATE // 200
    return float(np.sqrt((wav[middle - reach : middle + reach] ** 2).mean()))


def speaker(seed: int = 1) -> Voice:
    return Voice.random(np.random.default_rng(seed))


def test_closed_lips_are_silent_then_burst():
    phones = [(VOWELS["a"], 0.2, 1.0), (CONSONANTS["p"], 0.12, 1.0), (VOWELS["a"], 0.2, 1.0)]
    movements = _move(phones, 0.52, 0.52)
    wav = synthesize(movements, speaker(), np.random.default_rng(0))
    held, released = 0.25, 0.312  # s; the burst is the closure's last 20 ms
    assert movements.aperture[round(held * RATE)] < 0.01
    assert loudness(wav, held) < 0.03 * loudness(wav, 0.1)
    assert loudness(wav, released) > 5 * loudness(wav, held)
    assert movements.aperture[round(0.1 * RATE)] > 0.8


def test_fricatives_hiss_with_a_nearly_closed_mouth():
    movements = _move([(CONSONANTS["s"], 0.3, 1.0)], 0.3, 0.3)
    wav = synthesize(movements, speaker(), np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(wav[1600:3200])) ** 2
    hertz = np.fft.rfftfreq(1600, 1 / SAMPLE_RATE)
    assert spectrum[hertz > 4000].sum() > 10 * spectrum[hertz < 2000].sum()
    assert movements.aperture[round(0.15 * RATE)] < 0.15


def test_open_jaw_raises_the_first_formant():
    """The formant is where the spectrum of a whispered vowel (noise, so without harmonics) peaks."""

    def formant(vowel: str) -> float:
        voice = Voice(pitch=100, liveliness=0, tract=1, breath=3.0, tilt=0, loudness=0.5, room=0)
        wav = synthesize(_move([(VOWELS[vowel], 1.0, 1.0)], 1.0, 1.0), voice, np.random.default_rng(0))
        power = (np.abs(np.fft.rfft(wav[: SAMPLE_RATE // 800 * 800].reshape(-1, 800) * np.hanning(800))) ** 2).mean(0)
        smooth = np.convolve(power, np.ones(5), "same")
        hertz = np.fft.rfftfreq(800, 1 / SAMPLE_RATE)
        return float(hertz[np.argmax(np.where(hertz < 1000, smooth, 0))])

    assert formant("i") + 150 < formant("e") < formant("a") - 100


def test_silence_is_silent_and_shut():
    movements = silence(1.0)
    wav = synthesize(movements, speaker(), np.random.default_rng(0))
    assert movements.aperture.max() == 0
    assert np.sqrt((wav**2).mean()) < 0.002  # the room's noise


@pytest.mark.parametrize("aperture", [0.0, 0.4, 1.0])
def test_lips_open_by_the_true_aperture(aperture):
    identity = Identity.random(np.random.default_rng(3))
    upper, lower = lip_lines(identity, Pose(aperture=aperture, closure=0.0))
    assert (lower.inner[:, 1] - upper.inner[:, 1]).max() == pytest.approx(OPENING * aperture, abs=1e-9)
    assert (lower.outer[:, 1] >= lower.inner[:, 1]).all() and (upper.outer[:, 1] <= upper.inner[:, 1]).all()


def test_mouth_width_is_drawn():
    identity = Identity.random(np.random.default_rng(3))
    widths = [np.ptp(lip_lines(identity, Pose(width=w))[0].inner[:, 0]) for w in (0.0, 0.5, 1.0)]
    assert widths == sorted(widths) and widths[2] > 1.5 * widths[0]


def test_only_the_lower_face_moves_with_the_mouth():
    head = Head(Identity.random(np.random.default_rng(4)), 0.5)
    shut, wide = (head.draw(pose).astype(int) for pose in (Pose(), Pose(jaw=1, aperture=1, closure=0)))
    changed = np.abs(shut - wide).max(axis=2) > 8
    assert changed.sum() > 500
    assert np.flatnonzero(changed.any(1))[0] > changed.shape[0] * 0.4


def test_haar_finds_the_faces():
    detector = create_detector("haar")
    found = []
    for seed in range(14):
        rng = np.random.default_rng(seed)
        size = ((192, 192), (240, 180))[seed % 2]
        actor = Actor(Identity.random(rng), speak(1.0, rng), 0.5, rng.uniform(0.56, 0.8), seed)
        frames = [frame for frame, _ in film(Shot((actor,), seed), size, 4, 0, 2)]
        found += [len(boxes) > 0 for boxes in detector.detect(frames)]
    assert np.mean(found) >= 0.95


def test_clips_are_reproducible_and_differ_by_number(tmp_path):
    truths = [write_clip(tmp_path / f"{i}.mp4", SMALL, n) for i, n in enumerate((0, 0, 2))]
    frames = [np.stack(list(video.read_frames(video.probe(tmp_path / f"{i}.mp4")))) for i in range(3)]
    assert truths[0] == truths[1] and (frames[0] == frames[1]).all()
    assert truths[0]["aperture"] != truths[2]["aperture"]
    assert np.abs(frames[0].astype(int) - frames[2]).mean() > 10


@pytest.mark.parametrize("offset", [0, 6, -6])
def test_sound_is_late_by_the_offset(tmp_path, offset):
    """The voice is loud where the mouth is open: their correlation peaks at the offset."""
    truth = write_clip(tmp_path / "c.mp4", Recipe(seed=5, seconds=4.0, size=(64, 64), offset=offset))
    wav = video.read_audio(tmp_path / "c.mp4", SAMPLE_RATE)
    loud = audio.melspectrogram(wav)[:40].mean(0)[: len(wav) // 200]
    loud = np.interp(np.arange(100) / 25 + 0.02, np.arange(len(loud)) / 80, loud)
    aperture, lags = np.array(truth["aperture"]), range(-12, 13)
    fit = [np.corrcoef(aperture[12:-12], loud[12 + lag : len(loud) - 12 + lag])[0, 1] for lag in lags]
    assert abs(lags[int(np.argmax(fit))] - offset) <= 1


def test_variants_show_what_their_names_say(tmp_path):
    truths = {
        name: write_clip(tmp_path / f"{name}.mp4", Recipe(seconds=1.2, size=(128, 72), variant=name))
        for name in talking_head.VARIANTS
    }
    assert max(truths["silent"]["aperture"]) == 0
    assert all(len(boxes) == 2 for boxes in truths["two"]["boxes"])
    assert (tmp_path / "two_voice1.wav").is_file()
    (cut,) = truths["cut"]["cuts"]
    assert find_cuts(changes_of(video.read_frames(video.probe(tmp_path / "cut.mp4")))) == [cut]
    first, stop = truths["away"]["away"]
    shown = [boxes[0] is not None for boxes in truths["away"]["boxes"]]
    assert not any(shown[first + 3 : stop - 3]) and all(shown[: first - 5])


def test_command_writes_the_dataset_layout_and_resumes(tmp_path, capsys):
    command = ["--out", str(tmp_path / "v"), "--seconds", "0.4", "--size", "64x64", "--workers", "1"]
    assert talking_head.main([*command, "--clips", "1"]) == 0
    first = (tmp_path / "v/head00000/clip00000.mp4").stat().st_mtime_ns
    assert talking_head.main([*command, "--clips", "3"]) == 0
    assert (tmp_path / "v/head00000/clip00000.mp4").stat().st_mtime_ns == first
    truth = json.loads((tmp_path / "v/head00001/clip00002.json").read_text())
    assert len(truth["aperture"]) == len(truth["width"]) == len(truth["boxes"]) == 10
    assert talking_head.main([*command, "--clips", "3", "--offset", "2"]) == 2  # these clips would differ
    assert "made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--size", "big"), ("--size", "32x32"), ("--clips", "0"), ("--variant", "three")])
def test_bad_arguments_are_one_line(tmp_path, capsys, flags):
    assert talking_head.main(["--out", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_stop_consonant_after_the_end_silences_nothing():
    """It is never spoken; its closure used to mute the noise before it."""
    s, p = CONSONANTS["s"], CONSONANTS["p"]
    spoken = [_move(phones, 0.3, 0.15) for phones in ([(s, 0.15, 1.0)], [(s, 0.15, 1.0), (p, 0.1, 1.0)])]
    assert np.allclose(spoken[0].noise, spoken[1].noise, atol=1e-6) and spoken[0].noise.max() > 0
