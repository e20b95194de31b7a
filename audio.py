"""Sound for the networks: loading, saving, mel spectrograms, and the mel window of each video frame.

Sound arrays are float32 mono in [-1, 1] at ``hparams.sample_rate``; mels are (num_mels, frames), 80 frames a second,
scaled to [-4, 4]. To read the sound of a video, or of formats other than wav and flac, use ``video.Sound``.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hparams import hparams as hp

if TYPE_CHECKING:
    from scipy import sparse

SILENCE = -hp.max_abs_value  # digital silence in a mel
# A pause: sound that for PAUSE seconds stays LEVEL dB below the loud parts of what stands out from the noise, or within
# ABOVE_NOISE dB of the noise. LOUD and NOISE are percentiles of the levels.
LEVEL, LOUD, NOISE, ABOVE_NOISE, PAUSE = 30.0, 95, 10, 6.0, 0.3  # dB, percentile, percentile, dB, seconds
MIN_LOUD_FRAMES = 20  # mel frames (0.25 s) that must stand out from the noise; fewer may be a click
MAX_LIFT = 20.0  # dB by which quiet speech is raised at most
CLOSING = 0.16  # seconds that lips take to close or to open
# Malcolm Slaney, Auditory Toolbox (1998): mels are linear up to 1000 Hz, 15 of them, then 27 to a factor of 6.4
LINEAR_HERTZ, LINEAR_MELS, LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27
BLOCK_FRAMES = 2000  # mel frames computed at a time (25 s), which bounds the memory for long sound


def load_wav(path: str | Path, sr: int = hp.sample_rate) -> np.ndarray:
    """Read a sound file as float32 mono at ``sr`` Hz."""
    wav = _read_mono(path, sr)
    return wav if len(wav) else _read_mono(_fix_wav_header(path), sr)


def _read_mono(source: str | Path | io.BytesIO, sr: int) -> np.ndarray:
    """Read as ``librosa.load`` does, without its import of 3 s if nothing must be resampled."""
    import soundfile  # imported here because machines that only train on prepared mels do not need it

    with contextlib.suppress(soundfile.LibsndfileError), soundfile.SoundFile(source) as file:
        if file.samplerate == sr:
            return file.read(dtype="float32", always_2d=True).mean(axis=1)
    if isinstance(source, io.BytesIO):
        source.seek(0)
    import librosa  # which reads more formats, by other programs

    return librosa.load(source, sr=sr)[0]


def _fix_wav_header(path: str | Path) -> str | Path | io.BytesIO:
    """Return ``path``, or for a wav its content with the lengths in the header set to the maximum.

    A wav that was written to a pipe has no length in its header.
    """
    content = bytearray(Path(path).read_bytes())
    size = content.find(b"data", 12, 1 << 12) + 4
    if content[:4] != b"RIFF" or size < 12:
        return path
    content[4:8] = content[size : size + 4] = b"\xff" * 4  # read as "to the end of the file"
    return io.BytesIO(content)


def save_wav(wav: np.ndarray, path: str | Path, sr: int = hp.sample_rate) -> None:
    """Write 16-bit wav, scaled so that the loudest sample reaches full scale (near-silence is left quiet)."""
    from scipy.io import wavfile

    peak = max(0.01, float(np.abs(wav).max(initial=0.0)))
    wavfile.write(path, sr, (wav * (32767 / peak)).astype(np.int16))


def melspectrogram(wav: np.ndarray) -> np.ndarray:
    """Return the scaled mel spectrogram of ``wav`` (samples,) as (num_mels, 1 + samples // hop_size) float32.

    Computed as for the official checkpoints: pre-emphasis, magnitude STFT, Slaney mel filters, decibels floored at
    ``min_level_db``, minus ``ref_level_db``, scaled to [-max_abs_value, max_abs_value]. Silence gives -4, never NaN.
    """
    return spectrogram_of([wav])[0]


def spectrogram_of(sound: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the ``melspectrogram`` of sound given in blocks (samples,), and the total number of samples."""
    stream = MelStream()
    mels = [stream.push(piece) for piece in _pieces(sound)]
    return np.concatenate((*mels, stream.end()), axis=1), stream.samples


def _pieces(sound: Iterable[np.ndarray]) -> Generator[np.ndarray, None, None]:
    size = BLOCK_FRAMES * hp.hop_size
    for block in sound:
        for start in range(0, len(block), size):
            yield np.asarray(block[start : start + size], np.float32)


class MelStream:
    """The ``melspectrogram`` of sound that arrives in pieces, identical to the last bit whatever their sizes.

    Frames are centred: both ends of the sound are padded with half a window of its mirror image. librosa 0.7.0, which
    the reference pinned, did the same; later versions pad with zeros by default.
    """

    def __init__(self) -> None:
        self.samples = 0  # received so far
        self._last = np.zeros(1, np.float32)
        self._held = np.empty(0, np.float32)  # pre-emphasized samples that the next frames need

    def push(self, sound: np.ndarray) -> np.ndarray:
        """Add ``sound`` (samples,) float32; return the mel frames (num_mels, frames) that it completes."""
        half, began = hp.n_fft // 2, self._began
        before = np.concatenate((self._last, sound))
        emphasized = sound - np.float32(hp.preemphasis) * before[:-1]
        self._last, self.samples = before[-1:], self.samples + len(sound)
        self._held = np.concatenate((self._held, emphasized))
        if not self._began:
            return np.empty((hp.num_mels, 0), np.float32)
        if not began:
            self._held = np.concatenate((self._held[half:0:-1], self._held))
        mel, self._held = _mel_block(self._held)
        return mel

    def end(self) -> np.ndarray:
        """Return the remaining mel frames."""
        half, held = hp.n_fft // 2, self._held
        if self._began:
            held = np.concatenate((held, held[-2 : -half - 2 : -1]))
        else:  # too short to be mirrored just once
            held = np.pad(held, half, mode="reflect" if len(held) else "constant")
        return _mel_block(held)[0]

    @property
    def _began(self) -> bool:
        """Whether there is enough sound to mirror before its start."""
        return self.samples > hp.n_fft // 2


def _mel_block(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mel frames (num_mels, frames) within ``samples``, and the samples that the next frames need."""
    count = max(0, 1 + (len(samples) - hp.n_fft) // hp.hop_size)
    rest = samples[count * hp.hop_size :]
    if not count:
        return np.empty((hp.num_mels, 0), np.float32), rest
    wave, hann = torch.from_numpy(samples), torch.hann_window(hp.win_size)
    # librosa.stft does the same, but takes a second to import
    spectrum = torch.stft(wave, hp.n_fft, hp.hop_size, hp.win_size, hann, center=False, return_complex=True)
    amplitude = _mel_basis() @ spectrum.abs().numpy()
    decibels = 20 * np.log10(np.maximum(10 ** (hp.min_level_db / 20), amplitude)) - hp.ref_level_db
    unit = (decibels - hp.min_level_db) / -hp.min_level_db  # [min_level_db, 0] -> [0, 1]
    mel = np.clip((2 * unit - 1) * hp.max_abs_value, -hp.max_abs_value, hp.max_abs_value)
    return mel.astype(np.float32), rest


@lru_cache(maxsize=1)
def _mel_basis() -> sparse.csr_matrix:
    """Return the mel filters as a sparse matrix, with which a frame's sums do not depend on the number of frames."""
    from scipy import sparse

    return sparse.csr_matrix(mel_filters())


def mel_filters() -> np.ndarray:
    """Return Slaney's mel filters (num_mels, 1 + n_fft // 2) float32: triangles of equal area.

    Identical to librosa's to the last bit. Importing librosa takes most of a second, which would delay the first frame.
    """
    lowest, highest = (_hertz_to_mel(hertz) for hertz in (hp.fmin, hp.fmax))
    corners = _mel_to_hertz(np.linspace(lowest, highest, hp.num_mels + 2))
    frequencies = np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate)
    widths = np.diff(corners)[:, None]
    rising = (frequencies - corners[:-2, None]) / widths[:-1]
    falling = (corners[2:, None] - frequencies) / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return (triangles * (2 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


def _hertz_to_mel(hertz: float) -> float:
    if hertz < LINEAR_HERTZ:
        return hertz * LINEAR_MELS / LINEAR_HERTZ
    return LINEAR_MELS + np.log(hertz / LINEAR_HERTZ) / LOG_STEP


def _mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    above = LINEAR_HERTZ * np.exp(LOG_STEP * (mels - LINEAR_MELS))
    return np.where(mels < LINEAR_MELS, mels * LINEAR_HERTZ / LINEAR_MELS, above)


def frame_count(samples: int, fps: float) -> int:
    """Return the number of video frames at ``fps`` that last as long as ``samples`` of sound, at least one."""
    return max(1, round(samples / hp.sample_rate * fps))


def first_sample(index: int, fps: float) -> int:
    """Return the index of the sound sample at which a video frame begins."""
    return round(index * hp.sample_rate / fps)


def levels_of(mel: np.ndarray) -> np.ndarray:
    """Return the level of each frame of a mel (num_mels, frames), in dB; in blocks, as hours are hundreds of MB."""
    blocks = (mel[:, first : first + BLOCK_FRAMES] for first in range(0, max(1, mel.shape[1]), BLOCK_FRAMES))
    decibels = ((block / hp.max_abs_value - 1) / 2 * -hp.min_level_db for block in blocks)
    return 10 * np.log10(np.concatenate([np.mean(10 ** (block / 10), axis=0) for block in decibels]))


def quiet_of(levels: np.ndarray) -> np.ndarray:
    """Return a mask of the frames in which nobody speaks, given their ``levels_of``.

    Frames ``LEVEL`` dB quieter than speech are silent, and so is noise from which speech stands out.
    """
    noise = np.percentile(levels, NOISE)
    # else, for a short speech in a long pause, the pause would count as loud
    above_noise = levels[levels > noise + ABOVE_NOISE]
    above_noise = above_noise if len(above_noise) >= MIN_LOUD_FRAMES else levels
    loud = min(np.percentile(above_noise, LOUD), np.median(above_noise) + LEVEL / 2)  # the median guards against knocks
    if noise < loud - LEVEL / 2:
        return levels < max(loud - LEVEL, noise + ABOVE_NOISE)
    return np.full(levels.shape, loud <= hp.min_level_db + LEVEL)  # uniform sound: all speech, or all silence


def loudness_of(mel: np.ndarray) -> float | None:
    """Return the level of the loud parts of speech in a mel, in dB; None if nobody speaks."""
    levels = levels_of(mel)
    spoken = levels[~quiet_of(levels)]
    return float(np.percentile(spoken, LOUD)) if len(spoken) >= MIN_LOUD_FRAMES else None


def lift_for(spectrogram: Spectrogram, loudness: float) -> float:
    """Return by how many dB speech is raised for a network that was trained with speech of this ``loudness_of``.

    0 if it is as loud, or nobody speaks. All of it is computed: somebody else may be heard softly at the beginning.
    """
    heard = loudness_of(spectrogram.up_to(len(spectrogram)))
    return 0.0 if heard is None else min(MAX_LIFT, max(0.0, loudness - heard))


def raised(mel: np.ndarray, decibels: float) -> np.ndarray:
    """Return the mel of sound that is louder by ``decibels``; digital silence stays."""
    louder = mel + np.float32(decibels * 2 * hp.max_abs_value / -hp.min_level_db)
    return np.where(mel > SILENCE, np.minimum(louder, hp.max_abs_value), SILENCE).astype(np.float32)


def silence_of(mel: np.ndarray) -> np.ndarray:
    """Return how silent each frame of a mel (num_mels, frames) is: 0 in speech, 1 in pauses, with ramps between."""
    from scipy import ndimage

    quiet = quiet_of(levels_of(mel))
    pause, closing = (round(seconds * hp.mel_frames_per_second) for seconds in (PAUSE, CLOSING))
    # the ramps lie within the pause: lips close a little after the sound ends, and open a little before it starts
    lasting = ndimage.binary_opening(np.pad(quiet, pause, mode="edge"), np.ones(pause, bool))
    closed = ndimage.binary_erosion(lasting, np.ones(closing, bool), border_value=1)
    ramps = ndimage.uniform_filter1d(ndimage.uniform_filter1d(closed.astype(float), closing // 2), closing // 2)
    return np.clip(ramps[pause:-pause], 0, 1)  # the filters' rounding may go beyond


def mel_moment(index: int, fps: float, lag: float) -> float:
    """Return the mel frame at the time of video frame ``index``, less ``lag`` video frames, as a float."""
    return max(0.0, (index - lag) * hp.mel_frames_per_second / fps)


def window_start(moment: float, frames: int, fps: float) -> int:
    """Return the first mel frame of the window that begins at ``moment``, in a mel of ``frames`` frames.

    Of the windows that reach past the end, the first ends there, as the reference's last one does. Those after it,
    which the reference leaves out, continue with silence: where speech is cut off, this is nearer to what would follow
    than the same window again, in which the mouth would freeze.
    """
    latest, start = frames - hp.mel_step_size, int(min(moment, frames))
    before = moment - hp.mel_frames_per_second / fps  # of the window of the previous video frame
    return latest if start > latest and before < latest + 1 else start


class Spectrogram:
    """The ``melspectrogram`` of sound with a known number of ``samples``, computed only as far as needed.

    Sound shorter than one window is padded with silence. Thread-safe.
    """

    def __init__(self, sound: Iterable[np.ndarray], samples: int) -> None:
        self._sound, self._lock, self._reading = sound, threading.RLock(), False
        self._mel = np.empty((hp.num_mels, max(1 + samples // hp.hop_size, hp.mel_step_size)), np.float32)
        self._begin()

    @classmethod
    def of(cls, mel: np.ndarray) -> Spectrogram:
        """Wrap a mel that is already computed, (num_mels, frames)."""
        known = cls((), 0)
        missing = max(0, hp.mel_step_size - mel.shape[1])
        known._mel = np.pad(mel, ((0, 0), (0, missing)), constant_values=SILENCE)
        known._known = len(known)
        return known

    def __len__(self) -> int:
        return self._mel.shape[1]

    def _begin(self) -> None:
        self._stream, self._pieces, self._known = MelStream(), _pieces(self._sound), 0

    def close(self) -> None:
        """Close sound that is not read to its end; if more is needed later, it is read from its beginning."""
        with self._lock:
            if self._reading:  # in this thread, where the garbage collector closes somebody else's stream of it
                return
            self._pieces.close()
            if self._known < len(self):
                self._begin()

    def up_to(self, stop: int) -> np.ndarray:
        """Return the whole mel (num_mels, frames), of which at least the frames before ``stop`` are computed."""
        with self._lock:
            self._reading = True
            try:
                while self._known < min(stop, len(self)):
                    piece = next(self._pieces, None)
                    self._add(self._stream.end() if piece is None else self._stream.push(piece))
                    if piece is None:
                        self._add(np.full((hp.num_mels, len(self) - self._known), SILENCE, np.float32))
            except BaseException:  # or the sound would seem to be over for whoever asks next
                self._begin()
                raise
            finally:
                self._reading = False
        return self._mel

    def _add(self, mel: np.ndarray) -> None:
        mel = mel[:, : len(self) - self._known]
        self._mel[:, self._known : self._known + mel.shape[1]] = mel
        self._known += mel.shape[1]


class MelWindows:
    """The mel window of each video frame: ``windows[i]`` is (num_mels, mel_step_size), starting at frame i's time.

    Frame i starts at mel frame int(i * 80 / fps), at the end of the sound see ``window_start``. ``delay`` starts each
    window that many seconds earlier (but not before the sound), so that the lips move later. The sound in the windows
    is raised by ``lift`` dB.
    """

    def __init__(
        self, mel: np.ndarray | Spectrogram, fps: float, count: int, delay: float = 0.0, lift: float = 0.0
    ) -> None:
        self.spectrogram = mel if isinstance(mel, Spectrogram) else Spectrogram.of(mel)
        self.fps = fps
        self.count = count
        self.lag = delay * fps  # video frames
        self.lift = lift

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        start = self._start(index)
        stop = start + hp.mel_step_size
        window = self.spectrogram.up_to(stop)[:, start:stop]
        window = raised(window, self.lift) if self.lift else window
        missing = hp.mel_step_size - window.shape[1]
        return np.pad(window, ((0, 0), (0, missing)), constant_values=SILENCE) if missing else window

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(self.count))

    def _start(self, index: int) -> int:
        """Return the first mel frame of a window."""
        return window_start(mel_moment(index, self.fps, self.lag), len(self.spectrogram), self.fps)

    def speech_mask(self) -> np.ndarray:
        """Return a mask of the windows that contain speech, (frames,) bool; see ``quiet_of``."""
        quiet = quiet_of(levels_of(self.spectrogram.up_to(len(self.spectrogram))))
        starts = map(self._start, range(self.count))
        return np.array([not quiet[start : start + hp.mel_step_size].all() for start in starts], bool)

    def silence(self, lead: float = 0.0) -> np.ndarray:
        """Return how silent each video frame is, (frames,): 0 in speech, 1 where the lips have had time to close.

        ``lead`` is by how many seconds the network's lips are early: as much of the delay only makes up for it.
        """
        silent, lag = silence_of(self.spectrogram.up_to(len(self.spectrogram))), self.lag - lead * self.fps
        moments = (mel_moment(index, self.fps, lag) for index in range(self.count))
        return silent[[int(min(moment, len(silent) - 1)) for moment in moments]]


class Buffer:
    """A queue of arrays along their last axis; appended pieces are concatenated only when they are read."""

    def __init__(self, nothing: np.ndarray) -> None:
        self._whole, self._pieces, self._count = nothing, list[np.ndarray](), nothing.shape[-1]

    def __len__(self) -> int:
        return self._count

    def append(self, piece: np.ndarray) -> None:
        self._pieces.append(piece)
        self._count += piece.shape[-1]

    def first(self, count: int) -> np.ndarray:
        """Return the first ``count`` items, or as many as there are; do not modify the result."""
        if self._pieces:
            self._whole, self._pieces = np.concatenate((self._whole, *self._pieces), axis=-1), []
        return self._whole[..., :count]

    def drop(self, count: int) -> None:
        """Remove the first ``count`` items."""
        self.first(0)
        self._whole = self._whole[..., count:]
        self._count = self._whole.shape[-1]


class WindowStream:
    """The ``MelWindows`` of sound that arrives in pieces; sound that is no longer needed is discarded."""

    def __init__(self, fps: float, delay: float = 0.0) -> None:
        self.fps, self.lag = fps, delay * fps
        self.index = 0  # of the next window
        self.ended = False
        self._mels = MelStream()
        self.start = 0  # mel frame at which the last yielded window starts
        self._mel = Buffer(np.empty((hp.num_mels, 0), np.float32))  # from ``start``

    @property
    def samples(self) -> int:
        """Number of samples received so far."""
        return self._mels.samples

    def push(self, sound: np.ndarray) -> None:
        """Add sound (samples,)."""
        for piece in _pieces([sound]):
            self._mel.append(self._mels.push(piece))

    def end(self) -> None:
        """Mark the end of the sound, which makes the last windows available."""
        self._mel.append(self._mels.end())
        missing = max(0, hp.mel_step_size - self._known)  # of ``Spectrogram``; the rest is that of ``MelWindows``
        self._mel.append(np.full((hp.num_mels, missing + hp.mel_step_size), SILENCE, np.float32))
        self.ended = True

    @property
    def _known(self) -> int:
        return self.start + len(self._mel)

    def ready(self) -> Iterator[np.ndarray]:
        """Yield the next windows (num_mels, mel_step_size), up to the first that needs more sound."""
        while self.index < frame_count(self.samples, self.fps):
            moment, last = mel_moment(self.index, self.fps, self.lag), self._known - hp.mel_step_size
            heard = self.samples >= first_sample(self.index + 1, self.fps)  # all sound during this frame has arrived
            if not (self.ended or (heard and moment < last + 1)):
                return
            start = window_start(moment, last, self.fps) if self.ended else int(moment)
            self._mel.drop(start - self.start)  # later windows do not start before this one
            self.start, self.index = start, self.index + 1
            yield self._mel.first(hp.mel_step_size).copy()
