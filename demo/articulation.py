"""Articulation: phones in, smooth movements of jaw, lips and tongue out.

Voice and picture are both made from these movements, so they match by construction, and the ground truth of every
frame is known.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.ndimage import gaussian_filter1d

RATE = 400  # control values a second
MOVEMENT_SECONDS = 0.022  # standard deviation of the smoothing that makes neighbouring phones run into each other
CLOSURE_SECONDS = 0.008  # lips close and open faster than the jaw moves


@dataclass(frozen=True)
class Phone:
    """Targets of one phone, as fractions of the largest movement; noise is (centre Hz, bandwidth Hz, level)."""

    jaw: float  # 0 closed … 1 wide open
    spread: float = 0.0  # -1 rounded and narrow … 1 drawn wide
    tongue: float = 0.0  # -1 back … 1 front
    closure: float = 0.0  # 1: lips together
    tuck: float = 0.0  # 1: lower lip under the upper teeth
    voice: float = 0.0  # loudness of the voice
    noise: tuple[float, float, float] = (2000.0, 2000.0, 0.0)
    nasal: bool = False
    seconds: float = 0.08
    burst: bool = False  # a silent hold, released with a burst of ``noise``


VOWELS = {
    "a": Phone(1.0, 0.1, -0.15, voice=1.0, seconds=0.14),
    "ae": Phone(0.85, 0.5, 0.5, voice=1.0, seconds=0.13),
    "e": Phone(0.55, 0.6, 0.7, voice=0.9, seconds=0.12),
    "i": Phone(0.22, 1.0, 1.0, voice=0.8, seconds=0.12),
    "schwa": Phone(0.42, 0.0, 0.0, voice=0.8, seconds=0.09),
    "o": Phone(0.55, -0.7, -0.6, voice=0.9, seconds=0.13),
    "u": Phone(0.22, -1.0, -0.5, voice=0.8, seconds=0.12),
    "y": Phone(0.26, -0.85, 0.8, voice=0.8, seconds=0.12),
}
CONSONANTS = {
    "p": Phone(0.15, closure=1.0, noise=(900.0, 1500.0, 0.6), seconds=0.09, burst=True),
    "b": Phone(0.15, closure=1.0, noise=(600.0, 900.0, 0.4), seconds=0.08, burst=True),
    "m": Phone(0.15, closure=1.0, voice=0.55, nasal=True, seconds=0.09),
    "f": Phone(0.12, 0.25, tuck=1.0, noise=(5500.0, 4500.0, 0.3), seconds=0.10),
    "v": Phone(0.12, 0.2, tuck=1.0, voice=0.35, noise=(5000.0, 4500.0, 0.15), seconds=0.08),
    "s": Phone(0.10, 0.5, 0.6, noise=(6200.0, 1800.0, 0.7), seconds=0.10),
    "z": Phone(0.10, 0.4, 0.6, voice=0.3, noise=(6000.0, 1800.0, 0.4), seconds=0.08),
    "sh": Phone(0.14, -0.65, 0.4, noise=(3000.0, 1400.0, 0.8), seconds=0.11),
    "t": Phone(0.20, 0.2, 0.7, noise=(4500.0, 2500.0, 0.7), seconds=0.07, burst=True),
    "d": Phone(0.22, 0.2, 0.6, noise=(4000.0, 2500.0, 0.4), seconds=0.06, burst=True),
    "k": Phone(0.30, 0.0, -0.4, noise=(1900.0, 900.0, 0.7), seconds=0.07, burst=True),
    "n": Phone(0.25, 0.2, 0.6, voice=0.5, nasal=True, seconds=0.07),
    "l": Phone(0.38, 0.1, 0.3, voice=0.65, seconds=0.07),
    "r": Phone(0.30, -0.4, 0.1, voice=0.6, seconds=0.07),
    "w": Phone(0.14, -1.0, -0.6, voice=0.5, seconds=0.08),
    "j": Phone(0.16, 0.9, 1.0, voice=0.6, seconds=0.06),
    "h": Phone(0.40, 0.0, 0.0, noise=(1500.0, 3000.0, 0.25), seconds=0.06),
}
PAUSE = Phone(0.0, closure=1.0, seconds=0.3)


@dataclass(frozen=True)
class Movements:
    """Movements of one utterance, each an array of ``RATE`` values a second; see ``Phone`` for their meaning."""

    jaw: np.ndarray
    spread: np.ndarray
    tongue: np.ndarray
    closure: np.ndarray
    tuck: np.ndarray
    voice: np.ndarray
    nasal: np.ndarray
    noise: np.ndarray  # (n, 3) centre, bandwidth, level

    def __len__(self) -> int:
        return len(self.jaw)

    @property
    def aperture(self) -> np.ndarray:
        """How far the lips are apart, 0 to about 1: the jaw's opening, reduced by closure and tuck."""
        return self.jaw * (1 - self.closure) * (1 - 0.8 * self.tuck)

    @property
    def width(self) -> np.ndarray:
        """How wide the mouth is, 0 (rounded) to 1 (spread); opening draws the corners in a little."""
        return np.clip(0.5 + 0.5 * self.spread - 0.12 * self.aperture, 0, 1)

    def part(self, start: float, seconds: float) -> Movements:
        """Return ``seconds`` of the utterance, from ``start`` on."""
        first = round(start * RATE)
        chosen = slice(first, first + round(seconds * RATE))
        return Movements(**{item.name: getattr(self, item.name)[chosen] for item in fields(self)})

    def at(self, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is visible at the given times: jaw, tongue, closure, tuck, aperture and width."""
        times = np.arange(len(self)) / RATE
        names = ("jaw", "tongue", "closure", "tuck", "aperture", "width")
        return {name: np.interp(seconds, times, getattr(self, name)) for name in names}


def speak(seconds: float, rng: np.random.Generator) -> Movements:
    """Generate an utterance of ``seconds``: words of one to four syllables with pauses between, silent at both ends."""
    tempo = rng.uniform(0.8, 1.2)
    phones: list[tuple[Phone, float, float]] = [(PAUSE, rng.uniform(0.05, 0.25), 1.0)]  # with seconds and stress
    spoken = phones[0][1]
    closing = rng.uniform(0.08, 0.25)
    while spoken < seconds - closing:
        for phone, stress in _word(rng):
            phones.append((phone, phone.seconds / tempo * rng.uniform(0.8, 1.25) * stress**0.5, stress))
        if rng.random() < 0.25:
            phones.append((PAUSE, rng.uniform(0.1, 0.45), 1.0))
        spoken = sum(duration for _, duration, _ in phones)
    return _move(phones, seconds, seconds - closing)


def silence(seconds: float) -> Movements:
    """Return the movements of a closed mouth that says nothing."""
    return _move([(PAUSE, seconds, 1.0)], seconds, seconds)


def _word(rng: np.random.Generator) -> list[tuple[Phone, float]]:
    """Return a word as (phone, stress): stressed syllables are longer, louder and opened wider."""
    vowels, consonants = list(VOWELS.values()), list(CONSONANTS.values())
    word = []
    count = rng.integers(1, 5)
    stressed = rng.integers(count)
    for syllable in range(count):
        stress = rng.uniform(1.0, 1.25) if syllable == stressed else rng.uniform(0.7, 1.0)
        onset = [consonants[i] for i in rng.integers(len(consonants), size=rng.choice(3, p=(0.1, 0.75, 0.15)))]
        coda = [consonants[i] for i in rng.integers(len(consonants), size=rng.choice(2, p=(0.7, 0.3)))]
        word += [(phone, stress) for phone in (*onset, vowels[rng.integers(len(vowels))], *coda)]
    return word


def _move(phones: list[tuple[Phone, float, float]], seconds: float, speech_end: float) -> Movements:
    """Hold every phone's targets for its duration, then smooth each movement with its own deviation."""
    count = round(seconds * RATE)
    ends = np.minimum(np.cumsum([duration for _, duration, _ in phones]), speech_end)
    index = np.searchsorted(ends, (np.arange(count) + 0.5) / RATE)
    phones = [*phones, (PAUSE, 0.0, 1.0)]
    index = np.minimum(index, len(phones) - 1)

    def held(values: list[float], deviation: float) -> np.ndarray:
        return gaussian_filter1d(np.array(values, float)[index], deviation * RATE, axis=0, mode="nearest")

    chosen = [phone for phone, _, _ in phones]
    jaw = held([min(1.0, phone.jaw * stress) for phone, _, stress in phones], MOVEMENT_SECONDS)
    closure = held([phone.closure for phone in chosen], CLOSURE_SECONDS)
    loudness = held([phone.voice * stress for phone, _, stress in phones], CLOSURE_SECONDS)
    noise = np.array([phone.noise for phone in chosen])[index]
    noise[:, 2] *= _when(phones, ends, count)
    noise[:, 2] = gaussian_filter1d(noise[:, 2], 0.003 * RATE)
    return Movements(
        jaw=jaw,
        spread=held([phone.spread for phone in chosen], MOVEMENT_SECONDS),
        tongue=held([phone.tongue for phone in chosen], MOVEMENT_SECONDS),
        closure=np.clip(closure * 1.25, 0, 1),  # lips press together: contact lasts longer than one instant
        tuck=held([phone.tuck for phone in chosen], MOVEMENT_SECONDS / 2),
        voice=loudness,
        nasal=held([float(phone.nasal) for phone in chosen], CLOSURE_SECONDS),
        noise=noise,
    )


def _when(phones: list[tuple[Phone, float, float]], ends: np.ndarray, count: int) -> np.ndarray:
    """Return (count,) in [0, 1], 1 where a phone's noise sounds; for a stop only at its end, the burst."""
    sounds = np.ones(count)
    for (phone, *_), start, end in zip(phones, np.concatenate(([0.0], ends)), ends):
        if phone.burst:
            hold = min(0.02, 0.4 * (end - start))  # seconds of burst
            sounds[round(start * RATE) : max(0, round((end - hold) * RATE))] = 0
    return sounds
