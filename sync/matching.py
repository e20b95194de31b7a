"""How well one face and one voice match: cosines over time and over offsets, and what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from concurrency import without_warnings
from hparams import hparams as hp

from .embedding import REACH, Face, Voice

MIN_SHARE = 0.5  # of the windows with speech: an offset at which fewer are seen is not considered
PEAK = 3  # frames: offsets nearer to the best one are no rivals, they are part of its peak
RELATED = 0.2  # confidence from which on face and voice belong together: see benchmarks/sync.py
IN_SYNC = 1  # frames off that nobody notices
# windows with speech from which on there is a verdict, 1.2 s: the included expert finds a stranger's voice related to a
# face in 47 % of 5 to 9 windows, 22 % of 10 to 14, 11 % of 20 to 24, 4 % from 35 on (80 clips of people it never saw)
MIN_WINDOWS = 25
RELATED_IN_PLACE = 0.1  # the same where there is no offset: of 31, chance hits those by 3, and less proof is enough
BLOCK = 4096  # windows compared at a time
UNRELATED, OFF = "unrelated", "off by"  # verdicts, or how they begin


@dataclass(frozen=True, eq=False)
class Result:
    """How well one face and one voice match."""

    fps: float  # that frames are counted in
    frames: int  # as long as there are both picture and sound
    windows: np.ndarray  # (nobs,) first frame of every window that is both seen and heard
    similarity: np.ndarray  # (nobs,) cosine of each, without any offset
    # (2·REACH + 1,) mean cosine of what is heard with what is seen when the sound is taken -REACH … REACH frames later;
    # NaN: too few. Pauses do not count: a mouth at rest fits to silence at any offset, and would level the curve.
    curve: np.ndarray
    spoken: int  # windows that count in it, without any offset
    silent: bool = False  # nothing is heard

    @property
    def missing(self) -> int:
        """Windows that are left out because a frame does not show the face."""
        return max(0, self.frames - hp.syncnet_T + 1) - len(self.similarity)

    @property
    def mean(self) -> float:
        return float(self.similarity.mean()) if len(self.similarity) else math.nan

    @property
    def _peak(self) -> int | None:
        """Where the curve is highest; None if it has no value."""
        return None if np.isnan(self.curve).all() else int(np.nanargmax(self.curve))

    @property
    def offset_frames(self) -> int:
        """How many frames the sound comes late (below 0: early)."""
        return 0 if self._peak is None else self._peak - REACH

    @property
    def confidence(self) -> float:
        """How far the best offset stands above the best that is no part of its peak; 0 if there is none to compare.

        Any pair is more similar at some offset than at most: it takes a peak without a rival to tell that they belong
        together. On this scale experts of any level, and clips of any length, share one threshold.
        """
        rivals = self._rivals
        return float(self.curve[self._peak] - rivals.max()) if len(rivals) else 0.0

    @property
    def _rivals(self) -> np.ndarray:
        """The values of the curve that are no part of its highest peak."""
        known = ~np.isnan(self.curve)
        return self.curve[known & (np.abs(np.arange(len(self.curve)) - (self._peak or 0)) > PEAK)]

    @property
    def contrast(self) -> float:
        """How far the curve stands, without any offset, above its median; -inf where they never meet.

        Faces that the expert does not know well are more, or less, similar to any voice; this level cancels here.
        """
        now = self.curve[REACH]
        return -math.inf if np.isnan(now) else float(now - np.nanmedian(self.curve))

    @property
    def evidence(self) -> float:
        """The confidence, as a share of what it takes to say that face and voice belong together; 0 if too short."""
        return self.confidence / (RELATED_IN_PLACE if self._in_place else RELATED) if self._tells else 0.0

    @property
    def _tells(self) -> bool:
        return self.spoken >= MIN_WINDOWS and len(self._rivals) > 0

    @property
    def _in_place(self) -> bool:
        return abs(self.offset_frames) <= IN_SYNC

    @property
    def related(self) -> bool:
        """Whether face and voice belong together, early or late."""
        return not self.silent and self.evidence >= 1

    @property
    def verdict(self) -> str:
        if self.silent:
            return "silent"
        if not self._tells:
            return "too short to tell"
        if not self.related:
            return UNRELATED
        return "in sync" if self._in_place else f"{OFF} {self.offset_frames} frames"

    def describe(self) -> Any:
        """Return ``scipy.stats.describe`` of the similarity, in plain numbers; NaN what so few windows cannot tell."""
        from scipy import stats  # here: it takes as long to import as everything else

        with without_warnings():  # on few or equal values
            found = stats.describe(self.similarity.astype(np.float64) if len(self.similarity) else [math.nan])
        return type(found)(len(self.similarity), tuple(map(float, found.minmax)), *map(float, found[2:]))

    def __str__(self) -> str:
        milliseconds = abs(self.offset_frames) / self.fps * 1000
        meaning = {
            "silent": "nothing is heard that a face could match",
            "too short to tell": f"it takes {(MIN_WINDOWS + hp.syncnet_T - 1) / hp.fps:.1f} s of a face and speech",
            UNRELATED: f"no offset within {REACH} frames makes face and voice match",
            "in sync": f"best offset {self.offset_frames:+d} frames",
        }.get(self.verdict, f"the sound comes {milliseconds:.0f} ms {'late' if self.offset_frames > 0 else 'early'}")
        lines = [str(self.describe()), f"{self.verdict}: {meaning}; confidence {self.confidence:.2f}"]
        if self.missing:
            lines.append(
                f"{self.missing} of {self.missing + len(self.similarity)} windows lack the face and do not count"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        found = self.describe()
        figures = dict(zip(("min", "max"), found.minmax), **{name: getattr(found, name) for name in found._fields[2:]})
        return {
            "nobs": found.nobs,
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
            "offset_frames": self.offset_frames,
            "offset_ms": 1000 * self.offset_frames / self.fps,
            "confidence": self.confidence,
            "verdict": self.verdict,
            "windows_without_face": self.missing,
            "windows_with_speech": self.spoken,
            "offset_curve": [None if math.isnan(value) else float(value) for value in self.curve],
            "similarity": [float(value) for value in self.similarity],
            "fps": self.fps,
        }


def says_out_of_sync(verdict: str) -> bool:
    """Whether ``Result.verdict`` says that face and voice do not match, or not when they should."""
    return verdict == UNRELATED or verdict.startswith(OFF)


def cosines(face: Face, voice: Voice) -> np.ndarray:
    """Return (windows of the face, 2·REACH + 1): its cosine with the voice -REACH … REACH frames later, else NaN."""
    table = np.full((len(face.starts), 2 * REACH + 1), np.nan, np.float32)
    for column in range(2 * REACH + 1):
        partners = face.starts + column - REACH
        heard = np.flatnonzero((partners >= 0) & (partners < len(voice.vectors)))
        for first in range(0, len(heard), BLOCK):
            rows = heard[first : first + BLOCK]
            pairs = face.vectors[rows], voice.vectors[partners[rows]]
            table[rows, column] = np.einsum("nd,nd->n", *pairs, dtype=np.float32)
    return table


def compare(face: Face, voice: Voice) -> Result:
    """Return how well ``face`` and ``voice`` match; its ``similarity`` is empty where they never meet."""
    table = cosines(face, voice)
    now = ~np.isnan(table[:, REACH])
    spoken = ~np.isnan(table) & _heard(face, voice)
    counts = spoken.sum(0)
    enough = counts >= max(1, MIN_SHARE * counts[REACH])
    curve = np.where(enough, np.where(spoken, table, 0).sum(0) / np.maximum(counts, 1), np.nan).astype(np.float32)
    seen = min(len(face.boxes), voice.frames)
    return Result(hp.fps, seen, face.starts[now], table[now, REACH], curve, int(counts[REACH]), voice.silent)


def _heard(face: Face, voice: Voice) -> np.ndarray:
    """Return (windows of the face, 2·REACH + 1): whether the voice is heard -REACH … REACH frames later."""
    if voice.heard is None or not voice.heard.any():
        return np.ones((len(face.starts), 2 * REACH + 1), bool)
    around = np.pad(voice.heard, REACH)  # of a window that is longer than the sound, nothing is asked
    partners = face.starts[:, None] + np.arange(2 * REACH + 1)
    return around[np.minimum(partners, len(around) - 1)]
