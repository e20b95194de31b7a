"""Sound as the networks hear it: load, save, mel spectrogram, and the mel window that belongs to a video frame.

Arrays are float32 mono in [-1, 1] at ``hparams.sample_rate``; mels are (num_mels, frames), 80 frames a second,
scaled to [-4, 4]. To read the sound of a video or of any other format than wav and flac, see ``video.stream_audio``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from hparams import hparams as hp

SILENCE = -hp.max_abs_value  # what digital silence becomes in a mel
# Where nobody speaks: LEVEL dB below the loudest, or no louder than the noise between the words, for PAUSE seconds
LEVEL, LOUD, NOISE, ABOVE_NOISE, PAUSE = 30.0, 95, 10, 6.0, 0.3  # dB, percentile, percentile, dB, seconds
CLOSING = 0.16  # seconds that lips take to close or to open
BLOCK_FRAMES = 2000  # mel frames computed at a time (25 s): an hour of sound needs no hour-sized spectrogram


def load_wav(path: str | Path, sr: int = hp.sample_rate) -> np.ndarray:
    """Read a sound file as float32 mono at ``sr`` Hz."""
    import librosa  # here, not above: machines that only train on prepared mels need not have it

    wav = librosa.load(path, sr=sr)[0]
    return wav if len(wav) else librosa.load(_measured(path), sr=sr)[0]


def _measured(path: str | Path) -> str | Path | io.BytesIO:
    """Return ``path``, or if it is a wav its content, with a header that promises more than nothing.

    Whoever wrote it into a pipe could not go back to say how much it had become.
    """
    content = bytearray(Path(path).read_bytes())
    size = content.find(b"data", 12, 1 << 12) + 4
    if content[:4] != b"RIFF" or size < 12:
        return path
    content[4:8] = content[size : size + 4] = b"\xff" * 4  # to the end of the file
    return io.BytesIO(content)


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
    return spectrogram_of([wav])[0]


def spectrogram_of(sound: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the ``melspectrogram`` of sound that comes in blocks (samples,), and the number of samples in all."""
    samples, held, mels = 0, np.empty(0, np.float32), []

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in sound:
            samples += len(block)
            yield block

    for piece in _mirrored(_emphasized(_pieces(counted()))):
        mel, held = _mel_block(np.concatenate((held, piece)))
        mels.append(mel)
    return np.concatenate(mels, axis=1), samples


def _pieces(sound: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    size = BLOCK_FRAMES * hp.hop_size
    for block in sound:
        for start in range(0, len(block), size):
            yield np.asarray(block[start : start + size], np.float32)


def _emphasized(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    last = np.zeros(1, np.float32)
    for piece in pieces:
        yield piece - np.float32(hp.preemphasis) * np.concatenate((last, piece[:-1]))
        last = piece[-1:]


def _mirrored(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the pieces, and before and after them half a window of their mirror image: frames are centred.

    So did librosa 0.7.0, which the reference pinned; later ones put zeros there unless they are told.
    """
    half, pieces, start = hp.n_fft // 2, iter(pieces), np.empty(0, np.float32)
    while len(start) <= half and (piece := next(pieces, None)) is not None:
        start = np.concatenate((start, piece))
    if len(start) <= half:  # that was all: it is mirrored more than once
        yield np.pad(start, half, mode="reflect" if len(start) else "constant")
        return
    yield start[half:0:-1]
    yield start
    end = start[-half - 1 :]
    for piece in pieces:
        yield piece
        end = np.concatenate((end, piece))[-half - 1 :]
    yield end[-2::-1]


def _mel_block(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mel frames (num_mels, frames) that lie within ``samples``, and what the next ones still need of it."""
    import librosa

    count = max(0, 1 + (len(samples) - hp.n_fft) // hp.hop_size)
    rest = samples[count * hp.hop_size :]
    if not count:
        return np.empty((hp.num_mels, 0), np.float32), rest
    spectrum = librosa.stft(samples, n_fft=hp.n_fft, hop_length=hp.hop_size, win_length=hp.win_size, center=False)
    amplitude = _mel_basis() @ np.abs(spectrum)
    decibels = 20 * np.log10(np.maximum(10 ** (hp.min_level_db / 20), amplitude)) - hp.ref_level_db
    unit = (decibels - hp.min_level_db) / -hp.min_level_db  # [min_level_db, 0] -> [0, 1]
    mel = np.clip((2 * unit - 1) * hp.max_abs_value, -hp.max_abs_value, hp.max_abs_value)
    return mel.astype(np.float32), rest


@lru_cache(maxsize=1)
def _mel_basis() -> np.ndarray:
    import librosa

    return librosa.filters.mel(sr=hp.sample_rate, n_fft=hp.n_fft, n_mels=hp.num_mels, fmin=hp.fmin, fmax=hp.fmax)


def frame_count(samples: int, fps: float) -> int:
    """Return how many video frames at ``fps`` last as long as ``samples`` of sound; at least one."""
    return max(1, round(samples / hp.sample_rate * fps))


def silence_of(mel: np.ndarray) -> np.ndarray:
    """Return how silent each frame of a mel (num_mels, frames) is, from 0 in speech to 1 in pauses, by and by.

    Quieter than speech by ``LEVEL`` dB is silence, and so is noise, where what is louder stands out from it.
    """
    from scipy import ndimage

    decibels = (mel / hp.max_abs_value - 1) / 2 * -hp.min_level_db
    level = 10 * np.log10(np.mean(10 ** (decibels / 10), axis=0))
    loud, noise = np.percentile(level, [LOUD, NOISE])
    if noise < loud - LEVEL / 2:
        quiet = level < max(loud - LEVEL, noise + ABOVE_NOISE)
    else:  # there is speech, or there is none, from end to end
        quiet = np.full(level.shape, loud <= hp.min_level_db + LEVEL)
    pause, closing = (round(seconds * hp.mel_frames_per_second) for seconds in (PAUSE, CLOSING))
    # lips wait a little before they close, and open a little before there is sound: the ramps lie within the pause
    lasting = ndimage.binary_opening(np.pad(quiet, pause, mode="edge"), np.ones(pause, bool))
    closed = ndimage.binary_erosion(lasting, np.ones(closing, bool), border_value=1)
    ramps = ndimage.uniform_filter1d(ndimage.uniform_filter1d(closed.astype(float), closing // 2), closing // 2)
    return np.clip(ramps[pause:-pause], 0, 1)  # less what the sums were rounded by


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

    def first(self, count: int) -> MelWindows:
        """Return the windows of the first ``count`` frames."""
        return MelWindows(self.mel, self.fps, min(count, self.count), self.lag / self.fps)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        start = int(min(self._moment(index), self.mel.shape[1] - hp.mel_step_size))  # whole last: it may be infinite
        return self.mel[:, start : start + hp.mel_step_size]

    def _moment(self, index: int) -> float:
        """The mel frame of the moment that a video frame shows."""
        return max(0.0, (index - self.lag) * hp.mel_frames_per_second / self.fps)

    def silence(self) -> np.ndarray:
        """Return how silent each video frame is, (frames,): 0 in speech, 1 where the lips have had time to close."""
        silent = silence_of(self.mel)
        moments = [int(min(self._moment(index), len(silent) - 1)) for index in range(self.count)]
        return silent[moments]
