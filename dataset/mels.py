"""Mels of clip folders, computed once and kept, and where in them the sound of a frame starts."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import numpy as np

import audio
import files
from errors import MissingFile, UserError
from hparams import HParams
from hparams import hparams as hp

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def make_mel(folder: str | Path) -> np.ndarray:
    """Compute the mel of ``folder``/audio.wav, keep it as mel.npy if the folder can be written to, and return it.

    Returns (mel frames, num_mels) float32. Raises MissingFile or UserError if there is no readable audio.wav.
    """
    path = Path(folder, "audio.wav")
    if not path.is_file():
        raise MissingFile("neither mel.npy nor audio.wav")
    try:
        wav = audio.load_wav(path)
    except Exception as error:  # librosa's fallback reader has an exception type of its own
        raise UserError(f"audio.wav cannot be read ({str(error) or type(error).__name__})") from error
    mel = np.ascontiguousarray(audio.melspectrogram(wav).T)
    save_mel(folder, mel)
    return mel


def save_mel(folder: str | Path, mel: np.ndarray) -> None:
    """Write ``mel`` (mel frames, num_mels) as ``folder``/mel.npy, whole or not at all, if the folder allows it."""
    if not Path(folder).stat().st_mode & WRITABLE:  # root could still write, but the permissions say not to
        return
    with contextlib.suppress(OSError), files.atomic_write(Path(folder, "mel.npy")) as partial:  # read-only, or full
        np.save(partial, np.ascontiguousarray(mel, np.float32))


def open_mel(folder: str) -> tuple[np.ndarray, int | None]:
    """Return the clip's mel and its offset in mel.npy in bytes, None if that file cannot be written."""
    path = Path(folder, "mel.npy")
    if not _is_current(path):
        mel = make_mel(folder)
        if not _is_current(path):
            return mel, None
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise UserError(f"mel.npy cannot be read ({error}); delete it to have it computed again") from error
    in_rows = mapped.ndim == 2 and mapped.shape[1] == hp.num_mels and mapped.flags.c_contiguous
    if not in_rows or mapped.dtype != np.float32:
        raise UserError(f"mel.npy is {mapped.dtype} {mapped.shape}, not float32 (mel frames, {hp.num_mels}) in C order")
    return mapped, mapped.offset


def _is_current(path: Path) -> bool:
    """Whether there is a mel.npy that is not older than the sound it was made of, which may have been replaced."""
    sound = path.with_name("audio.wav")
    return path.is_file() and not (sound.is_file() and sound.stat().st_mtime > path.stat().st_mtime)


def mel_starts(frames: np.ndarray, settings: HParams) -> np.ndarray:
    """Return the mel frame at which the sound of each video frame starts."""
    return (settings.mel_frames_per_second * frames / settings.fps).astype(np.int64)
