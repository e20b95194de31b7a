"""Sound as the networks hear it: load, save, mel spectrogram, and the mel window that belongs to a video frame.

Arrays are float32 mono in [-1, 1] at ``hparams.sample_rate``; mels are (num_mels, frames), 80 frames a second,
scaled to [-4, 4]. To read the sound of a video or of any other format than wav and flac, see ``video.read_audio``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from hparams import hparams as hp

SILENCE = -hp.max_abs_value  # what digital silence becomes in a mel
BLOCK_FRAMES = 8000  # mel frames computed at a time (100 s): an hour of sound needs no hour-sized spectrogram


def load_wav(path: str | Path, sr: int = hp.sample_rate) -> np.ndarray:
    """Read a sound file as float32 mono at ``sr`` Hz."""
    import librosa  # here, not above: machines that only train on prepared mels need not have it

    return librosa.load(path, sr=sr)[0]


def save_wav(wav: np.ndarray, path: str | Path, sr: int = hp.sample_rate) -> None:
    """Write 16-bit wav, scaled so that the loudest sample reaches full scale (near-silence is left quiet)."""
    from scipy.io import wavfile

    peak = max(0.01, float(np.abs(wav).max(initial=0.0)))
    wavfile.write(path, sr, (wav * (32767 / peak)).astype(np.int16))


def melspectrogram(wav: np.ndarray) -> np.ndarray:
    """Return the scaled mel spectrogram of ``wav`` (samples,) as (num_mels, 1 + samples // hop_size) float32.

    The recipe of the official checkpoints: pre-emphasis, magnitude STFT, Slaney mel filters, decibels floored at
    ``min_level_db``, minus ``ref_level_db``, scaled to [-max_abs_value, max_abs_value]. Silence gives -4, never NaN.
    """
    wav = np.asarray(wav, np.float32)
    padded = np.pad(wav, hp.n_fft // 2)  # frames are centred on multiples of hop_size
    emphasized = padded[hp.n_fft // 2 :][: len(wav)]
    emphasized[1:] -= np.float32(hp.preemphasis) * wav[:-1]
    frames = 1 + len(wav) // hp.hop_size
    blocks = [_mel_block(padded, start, min(start + BLOCK_FRAMES, frames)) for start in range(0, frames, BLOCK_FRAMES)]
    return np.concatenate(blocks, axis=1)


def _mel_block(padded: np.ndarray, start: int, stop: int) -> np.ndarray:
    import librosa

    samples = padded[start * hp.hop_size : (stop - 1) * hp.hop_size + hp.n_fft]
    spectrum = librosa.stft(samples, n_fft=hp.n_fft, hop_length=hp.hop_size, win_length=hp.win_size, center=False)
    amplitude = _mel_basis() @ np.abs(spectrum)
    decibels = 20 * np.log10(np.maximum(10 ** (hp.min_level_db / 20), amplitude)) - hp.ref_level_db
    unit = (decibels - hp.min_level_db) / -hp.min_level_db  # [min_level_db, 0] -> [0, 1]
    return np.clip((2 * unit - 1) * hp.max_abs_value, -hp.max_abs_value, hp.max_abs_value).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_basis() -> np.ndarray:
    import librosa

    return librosa.filters.mel(sr=hp.sample_rate, n_fft=hp.n_fft, n_mels=hp.num_mels, fmin=hp.fmin, fmax=hp.fmax)


def frame_count(samples: int, fps: float) -> int:
    """Return how many video frames at ``fps`` last as long as ``samples`` of sound; at least one."""
    return max(1, round(samples / hp.sample_rate * fps))


class MelWindows:
    """The mel window of each video frame: ``windows[i]`` is (num_mels, mel_step_size), starting at frame i's time.

    Frame i starts at mel frame int(i * 80 / fps). Windows that would reach past the end of the sound end with it,
    as the reference's last one does, so the final 0.2 s get windows that still contain their own moment. ``delay``
    seconds make each window start so much earlier (at the earliest with the sound), and what is seen come later.
    """

    def __init__(self, mel: np.ndarray, fps: float, count: int, delay: float = 0.0) -> None:
        missing = max(0, hp.mel_step_size - mel.shape[1])  # sound shorter than one window is followed by silence
        self.mel = np.pad(mel, ((0, 0), (0, missing)), constant_values=SILENCE)
        self.fps = fps
        self.count = count
        self.lag = delay * fps  # video frames

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        start = max(0, int((index - self.lag) * hp.mel_frames_per_second / self.fps))
        start = min(start, self.mel.shape[1] - hp.mel_step_size)
        return self.mel[:, start : start + hp.mel_step_size]
