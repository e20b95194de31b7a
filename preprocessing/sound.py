"""The sound of a clip: whether it can be trained on, and the files that it becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import wavfile

import audio
import video
from hparams import hparams as hp

from .clips import Unusable

MIN_SECONDS = hp.mel_step_size / hp.mel_frames_per_second  # of sound, one training window: 0.2 s


def check_sound(wav: np.ndarray) -> None:
    if len(wav) < MIN_SECONDS * hp.sample_rate:
        raise Unusable("too short", f"{len(wav) / hp.sample_rate:.2f} s of sound; training needs {MIN_SECONDS:g} s")
    if max(wav.max(), -wav.min()) < video.SILENCE:  # without a copy: hours of sound are gigabytes
        raise Unusable("no audio", "its sound track is silent from end to end, so nothing can be in or out of sync")


def write_sound(wav: np.ndarray, folder: Path) -> None:
    """Write ``wav`` (samples,) as audio.wav, 16 kHz mono 16 bit, and its mel as mel.npy, (mel frames, 80) float32."""
    # Not audio.save_wav, which changes the volume: the reference's mels are those of the unchanged sound.
    samples = np.clip(np.round(wav * 32768), -32768, 32767).astype(np.int16)
    wavfile.write(folder / "audio.wav", hp.sample_rate, samples)
    heard = samples.astype(np.float32) / 32768  # what audio.load_wav will read back
    np.save(folder / "mel.npy", np.ascontiguousarray(audio.melspectrogram(heard).T))
