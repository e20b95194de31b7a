"""Variation of clips: camera, head movement, light, colour, degradation, occlusion of the mouth; and of the voice.

Everything about a clip is drawn once, from its seed, so that two clips with the same seed differ only in what is said:
frames of each can be reference pictures for the other.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import cv2
import ffmpeg
import numpy as np
from scipy import signal

from demo.scene import wander
from hparams import hparams as hp
from video.process import QUIET, command_line

EXACT = "scale=flags=accurate_rnd+full_chroma_int"  # otherwise colours come back two levels darker
LARGEST_TURN = np.array([0.36, 0.16])  # of a head to the side and up, in radians; further, photographs tear
GREY = np.array([0.114, 0.587, 0.299], np.float32)  # BGR


class Camera:
    """The position of a face in its crop, and the movement of the head, over ``count`` frames."""

    def __init__(self, rng: np.random.Generator, count: int, fps: float) -> None:
        self.zoom = np.exp(rng.normal(0, 0.045)) * (1 + wander(rng, count, fps) * rng.uniform(0, 0.02))
        self.stretch = np.exp(rng.normal(0, 0.03))
        posed = rng.uniform(0.5, 2.5)  # how far this head turns and tilts, from that of a speaker at a desk to lively
        offset = np.clip(rng.normal(0, 0.03, 2), -0.08, 0.08)
        self.shift = offset + np.stack([wander(rng, count, fps) for _ in range(2)], 1) * rng.uniform(0, 0.02)
        self.roll = np.radians(posed * (rng.normal(0, 4) + wander(rng, count, fps) * rng.uniform(0.5, 4)))
        sway = [wander(rng, count, fps) * rng.uniform(0.02, limit) for limit in (0.13, 0.06)]
        turn = posed * (np.stack(sway, 1) + rng.normal(0, [0.05, 0.02]))
        self.turn = np.clip(turn, -LARGEST_TURN, LARGEST_TURN)
        self.mirror = rng.random() < 0.5

    def matrix(self, box: np.ndarray, size: int, i: int) -> np.ndarray:
        """Return the (2, 3) map from pixels of the picture to those of the crop (size, size) at frame ``i``."""
        middle = (box[:2] + box[2:]) / 2
        scale = size / (box[2:] - box[:2]) * self.zoom[i] * [self.stretch, 1 / self.stretch]
        cosine, sine = np.cos(self.roll[i]), np.sin(self.roll[i])
        turn = scale[:, None] * np.array([[cosine, -sine], [sine, cosine]])
        if self.mirror:
            turn[0] = -turn[0]
        return np.column_stack((turn, size * (0.5 + self.shift[i]) - turn @ middle))


class Degradation:
    """Light, colour, lens, sensor and codec of a clip."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = np.random.default_rng(rng.integers(1 << 31))  # of the grain, frame after frame
        self.levels = _levels(rng)
        self.grey = rng.random() < 0.04
        self.shade = _shade(rng, size)
        self.blur = abs(rng.normal(0, 0.35))  # in pixels of a face of 96
        self.scale = rng.uniform(0.6, 1) if rng.random() < 0.25 else 1.0  # below 1, as if filmed at a lower resolution
        self.noise = abs(rng.normal(0, 2.0))
        self.quality = int(rng.uniform(35, 96)) if rng.random() < 0.6 else 96
        self.occluder = Occluder(rng, size) if rng.random() < 0.06 else None
        self.crf = int(rng.uniform(22, 37)) if rng.random() < 0.4 else None  # of H.264

    def apply(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return consecutive crops (size, size, 3) uint8 with all effects applied."""
        degraded = [self.apply_to(picture, i) for i, picture in enumerate(pictures)]
        return degraded if self.crf is None else through_h264(degraded, self.crf)

    def apply_to(self, picture: np.ndarray, i: int) -> np.ndarray:
        """Return a crop (size, size, 3) uint8 with all effects but H.264 applied."""
        size = picture.shape[0]
        if self.occluder:
            picture = self.occluder.cover(picture, i)
        if self.grey:
            picture = np.repeat((picture @ GREY).astype(np.uint8)[..., None], 3, 2)
        if self.scale < 1:
            small = max(24, round(size * self.scale))
            picture = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
            picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
        if self.blur > 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), self.blur * size / 96)
        picture = cv2.LUT(picture, self.levels).astype(np.float32) * self.shade
        picture += self.rng.standard_normal((size, size, 1), np.float32) * np.float32(self.noise)
        picture = np.clip(picture, 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def through_h264(pictures: Sequence[np.ndarray], crf: int) -> list[np.ndarray]:
    """Return pictures (height, width, 3) uint8 BGR, both sides even, after H.264 encoding and decoding."""
    height, width, _ = pictures[0].shape
    raw = {"format": "rawvideo", "pix_fmt": "bgr24"}
    written = ffmpeg.input("pipe:", s=f"{width}x{height}", r=hp.fps, **raw).output(
        "pipe:", format="h264", vcodec="libx264", pix_fmt="yuv420p", crf=crf, preset="veryfast", threads=1, vf=EXACT
    )
    read = ffmpeg.input("pipe:", format="h264", threads=1).output("pipe:", vf=EXACT, **raw)
    data = np.stack(pictures).tobytes()
    for step in (written, read):
        data = subprocess.run(command_line(step, *QUIET), input=data, stdout=subprocess.PIPE, check=True).stdout
    return list(np.frombuffer(data, np.uint8).reshape(-1, height, width, 3))


def _levels(rng: np.random.Generator) -> np.ndarray:
    """Return a random lookup table of levels for each channel, (1, 256, 3) uint8."""
    gamma, gains = np.exp(rng.normal(0, 0.18)), np.exp(rng.normal(0, 0.07, 3))
    contrast, brightness = np.exp(rng.normal(0, 0.12)), rng.normal(-4, 12)
    values = 255 * (np.arange(256) / 255) ** gamma
    values = ((values - 120) * contrast + 120 + brightness)[:, None] * gains
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)[None]


def _shade(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a gain for light that falls off to one side, (size, size, 1) float32."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    slope = rng.normal(0, 0.12, 2)
    return np.clip(1 + slope[0] * x + slope[1] * y, 0.3, 1.6).astype(np.float32)[..., None]


class Occluder:
    """A microphone, or something skin-coloured, that covers a part of the mouth."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        self.place = np.array([rng.uniform(0.2, 0.8), rng.uniform(0.72, 1.0)]) * size
        self.axes = (rng.uniform(0.08, 0.2, 2) * size).round().astype(int)
        self.angle = rng.uniform(0, 180)
        dark = rng.random() < 0.6
        self.colour = rng.uniform(10, 70) * np.ones(3) if dark else rng.uniform(0.5, 1.2) * np.array([110, 135, 185.0])
        self.speed, self.phase = rng.uniform(0, 0.12), rng.uniform(0, 6)

    def cover(self, picture: np.ndarray, i: int) -> np.ndarray:
        middle = self.place + 0.03 * self.size * np.array([np.sin(self.speed * i + self.phase), 0])
        mask = np.zeros(picture.shape[:2], np.uint8)
        cv2.ellipse(mask, (tuple(middle.tolist()), tuple((2 * self.axes).tolist()), self.angle), 255, -1, cv2.LINE_AA)
        cv2.rectangle(mask, (int(middle[0]) - 4, int(middle[1])), (int(middle[0]) + 4, self.size), 255, -1)
        share = cv2.GaussianBlur(mask, (0, 0), 1)[..., None].astype(np.float32) / 255
        slope = np.linspace(1.15, 0.8, picture.shape[1], dtype=np.float32)[None, :, None]
        return np.clip(picture * (1 - share) + share * slope * self.colour.astype(np.float32), 0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------------
# The voice


def vary_voice(wav: np.ndarray, speed: float, rng: np.random.Generator) -> np.ndarray:
    """Return the sound ``speed`` times as fast, with pitch and formants raised alike, and with another room and line.

    ``wav`` is (samples,) float32 at ``hparams.sample_rate``; ``speed`` has two decimals. The result has 1 / ``speed``
    times as many samples.
    """
    wav = signal.resample_poly(wav, 100, round(100 * speed)).astype(np.float32)
    if rng.random() < 0.5:
        wav = _equalized(wav, rng)
    if rng.random() < 0.3:
        wav = _in_a_room(wav, rng)
    wav = wav * np.float32(np.exp(rng.normal(-1.6, 0.5)) / (np.abs(wav).max() + 1e-3))
    if rng.random() < 0.5:
        wav = wav + _noise(len(wav), rng) * np.float32(np.sqrt((wav**2).mean()) * 10 ** (-rng.uniform(12, 45) / 20))
    return np.clip(wav, -1, 1).astype(np.float32)


def _equalized(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply three peaks or dips (Bristow-Johnson's peaking filter), and sometimes a telephone's band."""
    for _ in range(3):
        frequency, gain, width = np.exp(rng.uniform(np.log(120), np.log(6500))), rng.normal(0, 5), rng.uniform(0.5, 2)
        w, a = 2 * np.pi * frequency / hp.sample_rate, 10 ** (gain / 40)
        alpha = np.sin(w) / (2 * width)
        wav = signal.lfilter(
            [1 + alpha * a, -2 * np.cos(w), 1 - alpha * a], [1 + alpha / a, -2 * np.cos(w), 1 - alpha / a], wav
        )
    if rng.random() < 0.15:
        wav = signal.sosfilt(signal.butter(2, [250, 3600], "band", fs=hp.sample_rate, output="sos"), wav)
    return wav.astype(np.float32)


def _in_a_room(wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    seconds = rng.uniform(0.08, 0.35)
    t = np.arange(int(seconds * hp.sample_rate))
    tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / len(t)) * rng.uniform(0.01, 0.06)
    tail[: int(0.004 * hp.sample_rate)] = 0
    tail[0] = 1
    return signal.fftconvolve(wav, tail)[: len(wav)].astype(np.float32)


def _noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return hiss or hum of power 1."""
    noise = rng.standard_normal(count)
    noise = signal.lfilter([1], [1, -rng.uniform(0, 0.97)], noise)
    return (noise / (noise.std() + 1e-9)).astype(np.float32)
