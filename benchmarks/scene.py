"""A long moving scene of any size, made from a short clip of a face, and a detector that counts its work."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

import video
from demo.talking_head import Recipe, write_clip, write_speech
from face_detection.detector import Detector

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
HEAD = Recipe(seed=7, seconds=4.0, size=(512, 384))


def write_scene(
    path: Path, seconds: float, size: tuple[int, int], face: Path | None = None, enlarged: bool = True
) -> None:
    """Write a video of ``size`` (width, height) that shows ``face`` swaying in front of a drifting background.

    ``face`` is scaled to 4/5 of the height if ``enlarged``, and plays forwards and backwards until the end; without it,
    a talking head is drawn. The sound is synthetic speech.
    """
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder, "voice.wav")
        write_speech(voice, Recipe(seconds=seconds))
        if face is None:
            face = Path(folder, "head.mp4")
            write_clip(face, HEAD)
        source = video.probe(face)
        _sway(path, source, voice, seconds, size, 0.8 * size[1] / source.height if enlarged else 1.0)


def _sway(
    path: Path, source: video.VideoInfo, voice: Path, seconds: float, size: tuple[int, int], scale: float
) -> None:
    width, height = size
    count = round(seconds * float(source.fps))
    coarse = np.random.default_rng(0).integers(40, 216, (9, 16, 3), np.uint8)
    scene = cv2.resize(coarse, (width + 200, height + 200), interpolation=cv2.INTER_CUBIC)
    with video.VideoWriter(path, video.VideoInfo(path, width, height, source.fps), voice, count) as writer:
        for i, frame in enumerate(video.repeat_frames(source, count, pingpong=True)):
            left, top = (100 + 80 * np.array([np.sin(i / 25), np.cos(i / 31)])).astype(int)
            picture = scene[top : top + height, left : left + width].copy()
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            x = int((width - frame.shape[1]) / 2 + height / 40 * np.sin(i / 20))
            picture[-frame.shape[0] :, x : x + frame.shape[1]] = frame
            writer.write(picture)


class CountingDetector:
    """A detector that counts the pictures and pixels it processes, and its seconds."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.pixels, self.pictures, self.seconds = detector, 0, 0, 0.0
        self.FACE_SIDE, self.KEY_SECONDS, self.CERTAIN = detector.FACE_SIDE, detector.KEY_SECONDS, detector.CERTAIN

    def detect(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        self.pictures += len(frames)
        self.pixels += sum(frame.shape[0] * frame.shape[1] for frame in frames)
        start = time.perf_counter()
        found = self.detector.detect(frames)
        self.seconds += time.perf_counter() - start
        return found
