"""Leakage of the source's lip movement: videos lip-synced to silence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

import files
import video
from errors import UserError
from hparams import hparams as hp
from lipsync import LipSync


def write_silence(clip: Path, path: Path) -> Path:
    """Write silence as long as ``clip`` to ``path``, a wav with the date of ``clip``, unless it is there already."""
    date = clip.stat().st_mtime_ns if clip.exists() else None
    if path.exists() and date in (None, path.stat().st_mtime_ns):
        return path
    source = video.probe(clip)
    if source.is_image:
        raise UserError(f"{clip} is a picture, not a video")
    frames = sum(1 for _ in video.read_frames(source))
    samples = round(frames / source.fps * hp.sample_rate)
    with files.atomic_write(path) as partial:
        wavfile.write(partial, hp.sample_rate, np.zeros(samples, np.int16))
        os.utime(partial, ns=(clip.stat().st_mtime_ns,) * 2)
    return path


def silent_take(lips: LipSync, clip: Path, folder: Path, **options: Any) -> Path:
    """Write ``folder``/<clip>.mp4, the video ``clip`` lip-synced to silence; ``options`` are those of ``LipSync.run``.

    ``quality.score_file`` measures how much its mouth still moves: ``motion``, and with landmarks ``leak``.
    """
    outfile, silence = folder / f"{clip.stem}.mp4", folder / "silence" / f"{clip.stem}.wav"
    if outfile.exists() and not silence.exists():
        raise UserError(f"{outfile} already exists, and was not made by this script; give another --results_dir")
    lips.run(clip, write_silence(clip, silence), outfile, **options)
    return outfile
