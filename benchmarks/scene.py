"""A long moving scene at any size, made from a short clip of a face."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np

import video
from demo.talking_head import Recipe, write_clip, write_speech

HEAD = Recipe(seed=7, seconds=4.0, size=(512, 384))


def write_scene(path: Path, seconds: float, size: tuple[int, int], face: Path | None = None) -> None:
    """Write a video of ``size`` (width, height) that shows ``face``, 4/5 as high, swaying before a drifting background.

    ``face`` runs forwards and backwards as often as it takes; else a talking head is filmed. The sound is speech.
    """
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder, "voice.wav")
        write_speech(voice, Recipe(seconds=seconds))
        if face is None:
            face = Path(folder, "head.mp4")
            write_clip(face, HEAD)
        _sway(path, video.probe(face), voice, seconds, size)


def _sway(path: Path, source: video.VideoInfo, voice: Path, seconds: float, size: tuple[int, int]) -> None:
    width, height = size
    scale = 0.8 * height / source.height
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
