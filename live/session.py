"""Sound in, finished frames out, for as long as anybody listens."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

import audio
from concurrency import prefetch
from devices import cpu_workers
from errors import UserError
from hparams import hparams as hp
from lipsync import LipSync
from live.face import Face
from mouths import Manner, generate, redraw_mouths

AT_ONCE = 4  # frames made together at most: more are hardly faster, and each waits for the last
AHEAD, AHEAD_BYTES = 16, 64 << 20  # source frames decoded ahead, and their most bytes
PATIENCE = 0.3  # seconds that a mouth waits, as it is, for sound that is late
WAITING = 600.0  # seconds of sound that may wait to be shown
HUSH = np.full((hp.num_mels, hp.mel_step_size), audio.SILENCE, np.float32)


@dataclass(frozen=True)
class Frame:
    """A finished frame and its place in time."""

    picture: np.ndarray  # (height, width, 3) uint8 BGR; yours
    number: int  # of the session, from 0
    time: float  # seconds from its start, at which the frame is to be shown
    sound: np.ndarray  # (samples,) float32 at 16 kHz: what is to be heard while it is shown; zeros where nobody speaks
    speaking: bool


class Utterance:
    """Sound from the first push to the end, as mel windows and as the samples that are heard with each."""

    def __init__(self, fps: float, delay: float, rate: int) -> None:
        import soxr

        self.windows = audio.WindowStream(fps, delay)
        self._resampler = None if rate == hp.sample_rate else soxr.ResampleStream(rate, hp.sample_rate, 1)
        self._samples = np.empty(0, np.float32)  # from that on which the next frame starts with

    @property
    def waiting(self) -> float:
        """Seconds of sound that no frame has shown yet."""
        return len(self._samples) / hp.sample_rate

    def push(self, samples: np.ndarray, last: bool = False) -> None:
        if self._resampler:
            samples = self._resampler.resample_chunk(samples, last)
        self._samples = np.concatenate((self._samples, samples))
        self.windows.push(samples)

    def end(self) -> None:
        self.push(np.empty(0, np.float32), last=True)
        self.windows.end()

    def ready(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the mel window and the sound of each frame that can be made."""
        for window in self.windows.ready():
            size = samples_of(self.windows.index - 1, self.windows.fps)
            sound, self._samples = self._samples[:size], self._samples[size:]
            yield window, np.pad(sound, (0, size - len(sound)))  # the last frame may outlast it


@dataclass
class State:
    """All that a session remembers."""

    shown: int = 0  # frames
    utterances: deque[Utterance] = field(default_factory=deque)  # the first is being spoken
    window: np.ndarray = field(default_factory=HUSH.copy)  # the last that was seen
    voice: float = 0.0  # how much of it still moves the mouth, from 1 to 0
    rest: float = 1.0  # how much the network sees of the face with the shut mouth, from 0 to 1
    late: int = 0  # frames without sound since some came last


class Session:
    """One face, live: ``push`` sound as it comes, and take ``frames`` as they are due; ``play`` keeps the time.

    Pushing, ``end`` and ``interrupt`` may be called in other threads than the one that takes the frames. Each
    utterance's frames are those that ``LipSync.stream`` makes of its whole sound. Close a session, or use it as a
    context manager. ``rate`` is that of the sound, in Hz. Of somebody who speaks live, what is older than ``behind``
    seconds is passed over, so that frames that were late once are not for ever.
    """

    def __init__(self, lips: LipSync, face: Face, rate: int = hp.sample_rate, behind: float = math.inf) -> None:
        self.fps = float(face.source.fps)
        self._lips, self._face, self._rate, self._behind = lips, face, rate, behind
        self._hearing, self._making = threading.RLock(), threading.RLock()  # the state; source, network and state
        self._warm_up()
        self._start()

    def _start(self) -> None:
        size = self._face.source.width * self._face.source.height * 3
        self._state = State()
        self._source: Generator | None = prefetch(self._face.frames(), max(1, min(AHEAD, AHEAD_BYTES // size)))

    def _warm_up(self) -> None:
        """Let libraries load, and the network compile for every number of faces, before anybody waits."""
        audio.melspectrogram(np.zeros(hp.sample_rate, np.float32))
        for count in range(1, AT_ONCE + 1):
            mels, faces = np.stack([HUSH] * count), np.zeros((count, hp.img_size, hp.img_size, 6), np.uint8)
            for gains in (None, np.zeros(count)):
                generate(self._lips.model, mels, faces, gains)

    # ----------------------------------------------------------------------------------------------------------------
    # Sound in

    def push(self, samples: np.ndarray) -> None:
        """Hear more of an utterance, or the start of a new one: (samples,) float in [-1, 1], any number of them."""
        samples = checked(samples)
        with self._hearing:
            if self.waiting + len(samples) / self._rate > WAITING:
                raise UserError(f"{WAITING:g} seconds of sound wait to be shown; take frames before more is pushed")
            utterances = self._state.utterances
            if not utterances or utterances[-1].windows.ended:
                utterances.append(Utterance(self.fps, self._face.options.lip_delay / 1000, self._rate))
            utterances[-1].push(samples)
            self._state.late = 0

    def end(self) -> None:
        """Hear that the utterance is over: its last 0.2 seconds can be shown. More sound is a new one, after it."""
        with self._hearing:
            utterances = self._state.utterances
            if utterances and not utterances[-1].windows.ended:
                utterances[-1].end()

    def interrupt(self) -> None:
        """Drop all sound that is not in a frame yet; the mouth closes."""
        with self._hearing:
            self._state.utterances.clear()

    @property
    def waiting(self) -> float:
        """Seconds of sound that are not in a frame yet; up to 0.22 of them cannot be before more sound or the end."""
        with self._hearing:
            return sum(utterance.waiting for utterance in self._state.utterances)

    # ----------------------------------------------------------------------------------------------------------------
    # Frames out

    def frames(self, most: int = AT_ONCE) -> list[Frame]:
        """Return the next frames in which somebody speaks, at most ``most``; none if there is not sound enough."""
        with self._making:
            with self._hearing:
                heard = list(itertools.islice(self._heard(), min(most, AT_ONCE)))
            gains, rest = np.ones(len(heard)), np.zeros(len(heard))
            return self._draw([window for window, _ in heard], [sound for _, sound in heard], gains, rest, True)

    def idle(self, count: int = 1) -> list[Frame]:
        """Return the next ``count`` frames, in which nobody speaks: the video goes on, and the mouth closes."""
        with self._making:
            with self._hearing:
                windows, gains, rest = zip(*(self._rested() for _ in range(count)))
                shown = self._state.shown
            sounds = [np.zeros(samples_of(shown + i, self.fps), np.float32) for i in range(count)]
            return self._draw(windows, sounds, np.array(gains), np.array(rest), False)

    def play(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> Iterator[Frame]:
        """Yield frames when they are due, as many a second as the video has, until the session is closed.

        On a machine that is too slow, time itself goes slower.
        """
        start, given = clock(), 0
        while self._source:
            due = math.floor((clock() - start) * self.fps) + 1 - given
            if due > AT_ONCE:
                start, due = start + (due - AT_ONCE) / self.fps, AT_ONCE
            if due <= 0:
                sleep(max(0.0, start + given / self.fps - clock()))
                continue
            made = self.frames(due) or self.idle(1)
            given += len(made)
            yield from made

    def reset(self) -> None:
        """Begin again: with the first frame, at time 0, without sound."""
        with self._making, self._hearing:
            self.close()
            self._start()

    def close(self) -> None:
        """Stop reading the video; there are no more frames."""
        with self._making:
            if self._source:
                self._source.close()
            self._source = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------------------------------------------------

    def _heard(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the window and the sound of each frame in which somebody speaks, as far as there is sound."""
        state = self._state
        while state.utterances:
            speaker = state.utterances[0]
            for window, sound in speaker.ready():
                if speaker.waiting > self._behind:
                    continue
                state.window, state.voice, state.rest = window, 1.0, 0.0
                yield window, sound
            if not speaker.windows.ended:
                return
            state.utterances.popleft()

    def _rested(self) -> tuple[np.ndarray, float, float]:
        """Return the window, the gain and the stillness of the next frame in which nobody speaks.

        The mouth closes by and by; where sound is about to come it gets ready, where it is late it waits.
        """
        state = self._state
        state.late += 1
        hoped = bool(state.utterances) and state.late <= PATIENCE * self.fps
        if not (hoped and state.utterances[0].windows.index):
            step = 1 / (audio.CLOSING * self.fps)
            state.voice = max(0.0, state.voice - step)
            state.rest = max(0.0, state.rest - step) if hoped else min(1.0, state.rest + step)
        return state.window, state.voice, state.rest

    def _draw(
        self,
        windows: Sequence[np.ndarray],
        sounds: Sequence[np.ndarray],
        gains: np.ndarray,
        rest: np.ndarray,
        speaking: bool,
    ) -> list[Frame]:
        rows = list(itertools.islice(self._source or (), len(windows)))
        if not rows:
            return []
        frames, boxes = [frame.copy() for frame, _ in rows], [box for _, box in rows]
        manner = self._manner(gains, rest)
        with cpu_workers(self._lips.device) as workers:
            size, workers = -(-len(rows) // workers), min(workers, len(rows))
            drawn = redraw_mouths(frames, boxes, windows, self._lips.model, size, manner, workers, in_place=True)
            pictures = list(drawn)
        numbers = itertools.count(self._state.shown)
        self._state.shown += len(rows)
        fps = self._face.source.fps
        return [
            Frame(picture, n, float(n / fps), sound, speaking) for picture, n, sound in zip(pictures, numbers, sounds)
        ]

    def _manner(self, gains: np.ndarray, rest: np.ndarray) -> Manner:
        options = self._face.options
        gains = options.mouth_gain * gains
        stillness = rest if options.reference == "same" else np.ones(len(rest))
        return Manner(options.blend, None if (gains == 1).all() else gains, self._face.still, stillness)


def checked(samples: np.ndarray) -> np.ndarray:
    """Return sound as the networks take it; raise UserError for what is none."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise UserError(
            f"sound is (samples,) float in [-1, 1], one channel; this is {samples.dtype} of shape {samples.shape}"
        )
    return np.clip(np.nan_to_num(samples.astype(np.float32)), -1.0, 1.0)


def samples_of(index: int, fps: float) -> int:
    """Return how many samples of sound frame ``index`` lasts: not always as many, but on the whole."""
    start, stop = (round(i * hp.sample_rate / fps) for i in (index, index + 1))
    return stop - start
