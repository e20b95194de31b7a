"""How well one face and one voice match: cosines over time and over offsets, and what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from concurrency import without_warnings
from hparams import hparams as hp

from .embedding import MAX_OFFSET, Face, Voice

MIN_SHARE = 0.5  # of the windows with speech: offsets with fewer windows are ignored
PEAK = 3  # frames: offsets within this distance of the best one are no rivals, but part of its peak
MIN_CONFIDENCE = 0.2  # at which face and voice belong together: see benchmarks/sync.py
IN_SYNC = 1  # an offset, in frames, that nobody notices
# windows with speech that a verdict needs, 1.2 s: the included expert finds a stranger's voice related to a face in
# 47 % of 5 to 9 windows, 22 % of 10 to 14, 11 % of 20 to 24, 4 % from 35 on (80 clips of people not in its training)
MIN_WINDOWS = 25
MIN_CONFIDENCE_IN_SYNC = 0.1  # the same without an offset: chance hits only 3 of 31 there, so less evidence is enough
BLOCK = 4096  # windows compared at a time
UNRELATED, OFF = "unrelated", "off by"  # verdicts, or their first words


@dataclass(frozen=True, eq=False)
class Result:
    """How well one face and one voice match."""

    fps: float  # at which frames are counted
    frames: int  # that have both a picture and sound
    windows: np.ndarray  # (nobs,) first frame of every window with both face and sound
    similarity: np.ndarray  # (nobs,) cosine of each at offset 0
    # (2·MAX_OFFSET + 1,) mean cosine when the sound is taken -MAX_OFFSET … MAX_OFFSET frames later; NaN: too few
    # windows. Pauses do not count: a mouth at rest matches silence at any offset, which would flatten the curve.
    curve: np.ndarray
    spoken: int  # windows in the curve at offset 0
    silent: bool = False  # nobody speaks in the sound

    @property
    def missing(self) -> int:
        """How many windows are left out because a frame does not show the face."""
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
        """By how many frames the sound is late (below 0: early)."""
        return 0 if self._peak is None else self._peak - MAX_OFFSET

    @property
    def confidence(self) -> float:
        """How far the best offset is above the best one outside its peak; 0 if there is none to compare.

        Any pair is more similar at some offset than at most others: only a peak without a rival tells that they
        belong together. On this scale, experts of any quality and clips of any length share one threshold.
        """
        rivals = self._rivals
        return float(self.curve[self._peak] - rivals.max()) if len(rivals) else 0.0

    @property
    def _rivals(self) -> np.ndarray:
        """The values of the curve outside its highest peak."""
        known = ~np.isnan(self.curve)
        return self.curve[known & (np.abs(np.arange(len(self.curve)) - (self._peak or 0)) > PEAK)]

    @property
    def contrast(self) -> float:
        """How far the curve at offset 0 is above its median; -inf if face and voice never occur together.

        Faces that are unusual for the expert are more, or less, similar to any voice; this level cancels out here.
        """
        now = float(self.contrasts[MAX_OFFSET])
        return -math.inf if math.isnan(now) else now

    @property
    def contrasts(self) -> np.ndarray:
        """The contrast at every offset, (2·MAX_OFFSET + 1,); NaN where there is too little data."""
        return self.curve if self._peak is None else self.curve - np.nanmedian(self.curve)

    @property
    def evidence(self) -> float:
        """The confidence as a share of what a verdict that face and voice belong together needs; 0 if too short."""
        if not self._long_enough:
            return 0.0
        return self.confidence / (MIN_CONFIDENCE_IN_SYNC if self._near_zero_offset else MIN_CONFIDENCE)

    @property
    def _long_enough(self) -> bool:
        return self.spoken >= MIN_WINDOWS and len(self._rivals) > 0

    @property
    def _near_zero_offset(self) -> bool:
        return abs(self.offset_frames) <= IN_SYNC

    @property
    def related(self) -> bool:
        """Whether face and voice belong together, early or late."""
        return not self.silent and self.evidence >= 1

    @property
    def verdict(self) -> str:
        if self.silent:
            return "silent"
        if not self._long_enough:
            return "too short to tell"
        if not self.related:
            return UNRELATED
        return "in sync" if self._near_zero_offset else f"{OFF} {self.offset_frames} frames"

    def describe(self) -> Any:
        """Return ``scipy.stats.describe`` of the similarity, in plain numbers; NaN for what needs more windows."""
        from scipy import stats  # here: it takes as long to import as everything else

        with without_warnings():  # on few or equal values
            found = stats.describe(self.similarity.astype(np.float64) if len(self.similarity) else [math.nan])
        return type(found)(len(self.similarity), tuple(map(float, found.minmax)), *map(float, found[2:]))

    def __str__(self) -> str:
        milliseconds = abs(self.offset_frames) / self.fps * 1000
        meaning = {
            "silent": "there is no speech that a face could match",
            "too short to tell": f"this needs {(MIN_WINDOWS + hp.syncnet_T - 1) / hp.fps:.1f} s of face and speech",
            UNRELATED: f"no offset within {MAX_OFFSET} frames makes face and voice match",
            "in sync": f"best offset {self.offset_frames:+d} frames",
        }.get(self.verdict, f"the sound is {milliseconds:.0f} ms {'late' if self.offset_frames > 0 else 'early'}")
        lines = [str(self.describe()), f"{self.verdict}: {meaning}; confidence {self.confidence:.2f}"]
        if self.missing:
            lines.append(
                f"{self.missing} of {self.missing + len(self.similarity)} windows do not show the face and are left out"
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
    """Whether ``Result.verdict`` says that face and voice do not match, or match only at an offset."""
    return verdict == UNRELATED or verdict.startswith(OFF)


def cosines(face: Face, voice: Voice) -> np.ndarray:
    """Return each face window's cosine with the voice at every offset, (windows, 2·MAX_OFFSET + 1), else NaN."""
    table = np.full((len(face.starts), 2 * MAX_OFFSET + 1), np.nan, np.float32)
    for column in range(2 * MAX_OFFSET + 1):
        partners = face.starts + column - MAX_OFFSET
        inside = np.flatnonzero((partners >= 0) & (partners < len(voice.vectors)))
        for first in range(0, len(inside), BLOCK):
            rows = inside[first : first + BLOCK]
            pairs = face.vectors[rows], voice.vectors[partners[rows]]
            table[rows, column] = np.einsum("nd,nd->n", *pairs, dtype=np.float32)
    return table


def compare(face: Face, voice: Voice) -> Result:
    """Return how well ``face`` and ``voice`` match; ``similarity`` is empty if they never occur together."""
    table = cosines(face, voice)
    now = ~np.isnan(table[:, MAX_OFFSET])
    spoken = ~np.isnan(table) & _speech_at_offsets(face, voice)
    counts = spoken.sum(0)
    enough = counts >= max(1, MIN_SHARE * counts[MAX_OFFSET])
    curve = np.where(enough, np.where(spoken, table, 0).sum(0) / np.maximum(counts, 1), np.nan).astype(np.float32)
    seen = min(len(face.boxes), voice.frames)
    heard = 0 if voice.silent else int(counts[MAX_OFFSET])
    return Result(hp.fps, seen, face.starts[now], table[now, MAX_OFFSET], curve, heard, voice.silent)


def _speech_at_offsets(face: Face, voice: Voice) -> np.ndarray:
    """Return whether each face window has speech -MAX_OFFSET … MAX_OFFSET frames later, (windows, 2·MAX_OFFSET + 1)."""
    if voice.has_speech is None or voice.silent:
        return np.ones((len(face.starts), 2 * MAX_OFFSET + 1), bool)
    around = np.pad(voice.has_speech, MAX_OFFSET)  # past the end of the sound the value does not matter
    partners = face.starts[:, None] + np.arange(2 * MAX_OFFSET + 1)
    return around[np.minimum(partners, len(around) - 1)]
