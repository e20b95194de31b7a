"""Turn sound into finished frames as it arrives, for as long as a session is open."""

from __future__ import annotations

import itertools
import math
import numbers
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

import audio
from concurrency import prefetch
from devices import calls_at_a_time
from errors import UserError
from hparams import hparams as hp
from lipsync import LipSync, ResolvedOptions, settings_for_mouths
from live.face import Face
from mouths import Appearances, MouthSettings, SpeakingTrack, generate, redraw_mouths

MAX_BATCH = 4  # most frames made together: more are hardly faster, and each waits for the last
AHEAD, AHEAD_BYTES = 16, 64 << 20  # source frames decoded ahead, and their size at most
LATE_SOUND_SECONDS = 0.3  # seconds for which a mouth holds still when sound is late
LEVEL_HISTORY_SECONDS = 60.0  # seconds of levels, to tell speech from noise
MAX_WAITING_SECONDS = 600.0  # seconds of sound that may wait for frames
MAX_DELAY_IN_PAUSES = 0.27  # seconds that frames may be late in pauses, where skipping loses nothing; 0.17 is the least
SILENT_MEL = np.full((hp.num_mels, hp.mel_step_size), audio.SILENCE, np.float32)


@dataclass(frozen=True)
class Frame:
    """A finished frame and its time."""

    picture: np.ndarray  # (height, width, 3) uint8 BGR; the caller may modify it
    number: int  # of the session, from 0
    time: float  # seconds from its start, at which the frame is to be shown
    sound: np.ndarray  # (samples,) float32 at 16 kHz: to be played while it is shown; zeros where nobody speaks
    moment: float | None  # seconds from the start of the utterance; None where nobody speaks


@dataclass(frozen=True)
class Part:
    """The inputs that a frame is made from."""

    window: np.ndarray  # (80, 16) mel
    sound: np.ndarray
    gain: float = 1.0  # how much the window moves the mouth, from 0 to 1
    rest: float = 0.0  # how much of the face with the shut mouth the network is shown, from 0 to 1
    moment: float | None = None


class Utterance:
    """Sound from the first push to the end, one part per frame. In pauses lips close if ``silence`` is "closed"."""

    def __init__(self, fps: float, options: ResolvedOptions, rate: int) -> None:
        import soxr

        self.windows = audio.WindowStream(fps, options.lip_delay / 1000)
        self._resampler = None if rate == hp.sample_rate else soxr.ResampleStream(rate, hp.sample_rate, 1)
        self._samples = audio.Buffer(np.empty(0, np.float32))  # from the start of the next frame on
        self._pauses = Pauses(fps) if options.silence == "closed" else None

    @property
    def waiting(self) -> float:
        """Seconds of sound that are in no frame yet."""
        return len(self._samples) / hp.sample_rate

    def push(self, samples: np.ndarray, last: bool = False) -> None:
        if self._resampler:
            # a filter overshoots steep edges, as of loud sound that was clipped
            samples = np.clip(self._resampler.resample_chunk(samples, last), -1, 1)
        self._samples.append(samples)
        self.windows.push(samples)

    def end(self) -> None:
        self.push(np.empty(0, np.float32), last=True)
        self.windows.end()

    def ready(self) -> Iterator[Part]:
        """Yield the parts of all frames that can be made now."""
        fps = self.windows.fps
        for window in self.windows.ready():
            index = self.windows.index - 1
            size = samples_of(index, fps)
            sound = self._samples.first(size)
            self._samples.drop(size)
            closed = self._pauses.closed(window, self.windows.start) if self._pauses else 0.0
            # the last frame may outlast its sound
            yield Part(window, np.pad(sound, (0, size - len(sound))), 1.0 - closed, closed, index / fps)


class Pauses:
    """Detect pauses in speech from the sound up to now, including a mel window ahead.

    Speech is told from noise by the loudest and the quietest levels of the last minute: see ``audio.quiet_of``.
    """

    def __init__(self, fps: float) -> None:
        self._levels: deque[float] = deque(maxlen=round(LEVEL_HISTORY_SECONDS * hp.mel_frames_per_second))
        self._heard = 0  # mel frames
        self._closed, self._step = 0.0, closing_step(fps)

    def closed(self, window: np.ndarray, start: int) -> float:
        """Return how far the lips are shut, from 0 to 1, in the next frame, whose window starts at mel frame ``start``.

        They have closed when a pause has lasted for ``audio.PAUSE``, and open again before its end.
        """
        stop = start + window.shape[1]
        new, self._heard = min(stop - self._heard, window.shape[1]), stop
        self._levels.extend(audio.levels_of(window[:, window.shape[1] - new :]))
        quiet = audio.quiet_of(np.array(self._levels))[-round(audio.PAUSE * hp.mel_frames_per_second) :]
        self._closed = float(np.clip(self._closed + (self._step if quiet.all() else -self._step), 0, 1))
        return self._closed


@dataclass
class State:
    """The changing state of a session."""

    shown: int = 0  # frames
    utterances: deque[Utterance] = field(default_factory=deque)  # the first is being spoken
    last: Part = Part(SILENT_MEL, np.empty(0, np.float32), 0.0, 1.0)  # of the previous frame
    late: int = 0  # frames without sound since the last push


class Session:
    """One face, live: ``push`` sound as it comes, and take ``frames`` as they are due; ``play`` does the timing.

    ``push``, ``end`` and ``interrupt`` may be called from other threads than the one that takes the frames. Each
    utterance's frames are those that ``LipSync.stream`` makes of its whole sound, except in pauses and where sound is
    late. Close a session, or use it as a context manager. ``rate`` is that of the sound, in Hz. For live speakers, set
    ``behind``: sound older than that many seconds is skipped, and in pauses with shut lips all that is late, so that
    frames that were late once do not stay late.
    """

    def __init__(self, lips: LipSync, face: Face, rate: int = hp.sample_rate, behind: float = math.inf) -> None:
        if not (is_number(rate) and is_number(behind) and 0 < rate < math.inf and behind >= 0):
            raise UserError(f"rate must be a number above 0, and behind one of at least 0, not {rate!r} and {behind!r}")
        self.fps = float(face.source.fps)
        self._lips, self._face, self._rate, self._max_delay = lips, face, rate, behind
        self._max_delay_in_pauses = min(behind, MAX_DELAY_IN_PAUSES) if math.isfinite(behind) else behind
        self._state_lock, self._draw_lock = threading.RLock(), threading.RLock()  # the state; source, network and state
        self._warm_up()
        self._start()

    def _start(self) -> None:
        size = self._face.source.width * self._face.source.height * 3
        self._state = State()
        self._source: Generator | None = prefetch(self._face.frames(), max(1, min(AHEAD, AHEAD_BYTES // size)))

    def _warm_up(self) -> None:
        """Load libraries and compile the network for every number of faces, before frames are due."""
        audio.melspectrogram(np.zeros(hp.sample_rate, np.float32))
        for count in range(1, MAX_BATCH + 1):
            mels, faces = np.stack([SILENT_MEL] * count), np.zeros((count, hp.img_size, hp.img_size, 6), np.uint8)
            for gains in (None, np.zeros(count)):
                generate(self._lips.model, mels, faces, gains)

    # ----------------------------------------------------------------------------------------------------------------
    # Sound in

    def push(self, samples: np.ndarray) -> None:
        """Append to the utterance, or begin a new one: (samples,) float in [-1, 1], any number of them.

        Once the session is closed, they are dropped.
        """
        samples = checked(samples)
        with self._state_lock:
            if not (self._source and len(samples)):
                return
            if self.waiting + len(samples) / self._rate > MAX_WAITING_SECONDS:
                raise UserError(
                    f"at most {MAX_WAITING_SECONDS:g} seconds of sound can wait; take frames before pushing more"
                )
            utterances = self._state.utterances
            if not utterances or utterances[-1].windows.ended:
                utterances.append(Utterance(self.fps, self._face.options, self._rate))
            utterances[-1].push(samples)
            self._state.late = 0

    def end(self) -> None:
        """End the utterance, so that its last 0.2 seconds can be shown. More sound begins a new one."""
        with self._state_lock:
            utterances = self._state.utterances
            if utterances and not utterances[-1].windows.ended:
                utterances[-1].end()

    def interrupt(self) -> None:
        """Drop all sound that is not in a frame yet; the mouth closes."""
        with self._state_lock:
            self._state.utterances.clear()

    @property
    def waiting(self) -> float:
        """Seconds of sound that are not in a frame yet; up to 0.22 of them wait for more sound or the end."""
        with self._state_lock:
            return sum(utterance.waiting for utterance in self._state.utterances)

    # ----------------------------------------------------------------------------------------------------------------
    # Frames out

    def frames(self, most: int = MAX_BATCH) -> list[Frame]:
        """Return the next frames in which somebody speaks, at most ``most`` and never more than ``MAX_BATCH``.

        The list is empty if there is not enough sound.
        """
        with self._draw_lock:
            with self._state_lock:
                parts = list(itertools.islice(self._speech_parts(), max(0, min(most, MAX_BATCH))))
            return self._draw(parts)

    def idle(self, count: int = 1) -> list[Frame]:
        """Return the next ``count`` frames, in which nobody speaks: the video goes on, and the mouth closes."""
        with self._draw_lock:
            with self._state_lock:
                parts = [self._idle_part(self._state.shown + i) for i in range(count)]
            return self._draw(parts)

    def play(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> Generator[Frame, None, None]:
        """Yield frames when they are due, at the video's frame rate, until the session is closed.

        On a machine that is too slow, the clock slows down with it.
        """
        start, given = clock(), 0
        while self._source:
            due = math.floor((clock() - start) * self.fps) + 1 - given
            if due > MAX_BATCH:
                start, due = start + (due - MAX_BATCH) / self.fps, MAX_BATCH
            if due <= 0:
                sleep(max(0.0, start + given / self.fps - clock()))
                continue
            made = self.frames(due) or self.idle(1)
            given += len(made)
            yield from made

    def reset(self) -> None:
        """Start again with the first frame, at time 0, without sound."""
        with self._draw_lock, self._state_lock:
            self.close()
            self._start()

    def close(self) -> None:
        """Stop reading the video; there are no more frames."""
        with self._draw_lock:
            if self._source:
                self._source.close()
            self._source = None
            self.interrupt()  # nobody waits any more for what is dropped

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------------------

    def _speech_parts(self) -> Iterator[Part]:
        """Yield the part of each frame in which somebody speaks, as far as there is sound."""
        state = self._state
        while state.utterances:
            speaker = state.utterances[0]
            for part in speaker.ready():
                if speaker.waiting <= (self._max_delay if part.rest < 1 else self._max_delay_in_pauses):
                    state.last = part
                    yield part
            if not speaker.windows.ended:
                return
            state.utterances.popleft()

    def _idle_part(self, number: int) -> Part:
        """Return the part of frame ``number``, in which nobody speaks.

        The mouth closes gradually. Before an utterance's first frame it gets ready to speak; if sound is late it waits.
        """
        state, gain, rest = self._state, self._state.last.gain, self._state.last.rest
        state.late += 1
        expects_sound = bool(state.utterances) and state.late <= LATE_SOUND_SECONDS * self.fps
        if not (expects_sound and state.utterances[0].windows.index):
            step = closing_step(self.fps)
            gain, rest = max(0.0, gain - step), max(0.0, rest - step) if expects_sound else min(1.0, rest + step)
        state.last = Part(state.last.window, np.zeros(samples_of(number, self.fps), np.float32), gain, rest)
        return state.last

    def _draw(self, parts: Sequence[Part]) -> list[Frame]:
        if not (self._source and parts):
            return []
        rows = list(itertools.islice(self._source, len(parts)))
        if len(rows) < len(parts):  # a face's frames are endless, unless an error or Ctrl-C ended them
            self.close()
            raise RuntimeError("the session has broken off; call reset() to start again")
        filmed, boxes, strengths = zip(*rows)
        frames, windows = [frame.copy() for frame in filmed], [part.window for part in parts]
        face = SpeakingTrack(boxes, windows, replace(self._mouth_settings(parts), strength=strengths.__getitem__))
        calls = calls_at_a_time(self._lips.device)
        size, calls = -(-len(rows) // calls), min(calls, len(rows))
        pictures = list(redraw_mouths(frames, [face], self._lips.model, size, calls, in_place=True))
        numbers = itertools.count(self._state.shown)
        self._state.shown += len(rows)
        fps = self._face.source.fps
        return [
            Frame(picture, number, float(number / fps), part.sound, part.moment)
            for picture, number, part in zip(pictures, numbers, parts)
        ]

    def _mouth_settings(self, parts: Sequence[Part]) -> MouthSettings:
        options = self._face.options
        movement, rest = (np.array(values) for values in zip(*((part.gain, part.rest) for part in parts)))
        appearances = Appearances(dict(enumerate(self._face.appearances)))
        return settings_for_mouths(self._lips.generator, options, movement, rest, appearances)


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def closing_step(fps: float) -> float:
    """Return the share of their way that lips move per frame when they close or open."""
    return 1 / (audio.CLOSING * fps)


def checked(samples: np.ndarray) -> np.ndarray:
    """Return sound as the networks take it; raise UserError for anything else."""
    try:
        samples = np.asarray(samples)
    except (ValueError, RuntimeError, TypeError) as error:  # rows of several lengths; a tensor on a GPU
        raise UserError(f"sound is (samples,) float in [-1, 1], one channel; this is not an array ({error})") from None
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise UserError(
            f"sound is (samples,) float in [-1, 1], one channel; this is {samples.dtype} of shape {samples.shape}"
        )
    return np.clip(np.nan_to_num(samples.astype(np.float32)), -1.0, 1.0)


def samples_of(index: int, fps: float) -> int:
    """Return the length of frame ``index`` in samples: it may vary by one, so that the total is right."""
    return audio.first_sample(index + 1, fps) - audio.first_sample(index, fps)
