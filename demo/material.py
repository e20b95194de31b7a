"""A face clip and a voice made on the spot, so that the demo and the benchmarks need no footage."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy import signal

import audio
import video

# formants of a, e, i, o, u in Hz (Peterson and Barney, 1952, men's averages, rounded)
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
SYLLABLE = 0.25  # seconds
FACE = np.array([222.0, 150.0])  # x, y in the photo, a little below the nose
VIEW_HEIGHT = 280  # pixels of the photo that fill the height of the video


def write_speech(path: Path, seconds: float, seed: int = 0, sample_rate: int = 16000) -> None:
    """Write babble: vowels in random order, a pulse train through formant filters, with pauses between words."""
    rng = np.random.default_rng(seed)
    length = int(SYLLABLE * sample_rate)
    syllables = []
    while len(syllables) * SYLLABLE < seconds:
        pitch = 110 + 30 * rng.random() + np.linspace(8, -8, length)  # Hz, falling
        pulses = np.diff(np.floor(np.cumsum(pitch) / sample_rate), prepend=0.0)
        voice = pulses + 0.01 * rng.standard_normal(length)
        for formant in VOWELS[rng.integers(len(VOWELS))]:
            voice = signal.lfilter(*signal.iirpeak(formant, formant / 90, sample_rate), voice) + 0.1 * voice
        envelope = signal.windows.tukey(length, 0.6) * (rng.random() > 0.15)
        syllables.append(voice / (np.abs(voice).max() + 1e-9) * envelope)
    audio.save_wav(np.concatenate(syllables)[: int(seconds * sample_rate)].astype(np.float32), path, sample_rate)


def write_face_clip(path: Path, seconds: float, size: tuple[int, int], fps: int = 25) -> None:
    """Write a video of ``size`` (width, height) in which a photo (NASA, public domain) sways, with its hum as sound."""
    from skimage.data import astronaut

    photo = cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR)
    width, height = size
    info = video.VideoInfo(path, width, height, video.Fraction(fps))
    count = round(seconds * fps)
    voice = path.with_suffix(".wav")
    write_speech(voice, seconds, seed=1)
    scale = height / VIEW_HEIGHT
    with video.VideoWriter(path, info, voice, count) as writer:
        for i in range(count):
            sway = np.sin(2 * np.pi * i / fps / np.array([4.0, 2.5]))
            middle = FACE + sway * 6
            matrix = np.array([[scale, 0, width / 2 - scale * middle[0]], [0, scale, height / 2 - scale * middle[1]]])
            writer.write(cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    voice.unlink()


def paste_into_scene(path: Path, face: Path, seconds: float, size: tuple[int, int]) -> None:
    """Write a video of ``size`` (width, height) that shows ``face``, 4/5 as high, swaying before a drifting scene.

    The clip runs forwards and backwards as often as it takes; its sound is babble.
    """
    source = video.probe(face)
    width, height = size
    scale = 0.8 * height / source.height
    count = round(seconds * float(source.fps))
    rng = np.random.default_rng(0)
    scene = cv2.resize(
        rng.integers(40, 216, (9, 16, 3), np.uint8), (width + 200, height + 200), interpolation=cv2.INTER_CUBIC
    )
    voice = path.with_suffix(".wav")
    write_speech(voice, seconds, seed=1)
    with video.VideoWriter(path, video.VideoInfo(path, width, height, source.fps), voice, count) as writer:
        for i, frame in enumerate(video.repeat_frames(source, count, pingpong=True)):
            left, top = (100 + 80 * np.array([np.sin(i / 25), np.cos(i / 31)])).astype(int)
            picture = scene[top : top + height, left : left + width].copy()
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            x = int((width - frame.shape[1]) / 2 + height / 40 * np.sin(i / 20))
            picture[-frame.shape[0] :, x : x + frame.shape[1]] = frame
            writer.write(picture)
    voice.unlink()
