"""Speech synthesis from mouth movements: glottal pulses and noise through the resonances of a vocal tract.

Source-filter model after Fant (1960); cascaded resonators after Klatt (1980).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import signal

from demo.articulation import RATE, Movements

SAMPLE_RATE = 16000  # Hz
STEP = 2  # control values per update of the filters
BLOCK = STEP * SAMPLE_RATE // RATE  # the same in samples
TINY = 1e-9


@dataclass(frozen=True)
class Voice:
    """The parameters of a speaker's voice."""

    pitch: float  # Hz
    liveliness: float  # relative variation of the pitch
    tract: float  # scale of all resonances: about 1 for men, 1.2 for children
    breath: float  # noise in the voice
    tilt: float  # 0 bright … 0.9 dull
    loudness: float  # of full scale
    room: float  # level of background noise

    @classmethod
    def random(cls, rng: np.random.Generator) -> Voice:
        low = rng.random() < 0.5
        return cls(
            pitch=rng.uniform(85, 150) if low else rng.uniform(160, 260),
            liveliness=rng.uniform(0.05, 0.2),
            tract=rng.uniform(0.92, 1.05) if low else rng.uniform(1.03, 1.2),
            breath=rng.uniform(0.01, 0.08),
            tilt=rng.uniform(0.0, 0.6),
            loudness=rng.uniform(0.15, 0.8),
            room=10 ** rng.uniform(-4.5, -3),
        )


def synthesize(movements: Movements, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Return the sound of ``movements`` as float32 mono at ``SAMPLE_RATE``, within [-1, 1]."""
    count = len(movements) * SAMPLE_RATE // RATE
    control = np.minimum(np.arange(count) * RATE // SAMPLE_RATE, len(movements) - 1)
    open_lips = 1 - movements.closure * (1 - movements.nasal)  # a nasal sounds through closed lips
    level = (movements.voice * open_lips * (0.35 + 0.65 * movements.jaw) ** (1 - movements.nasal))[control]
    voiced = _resonate(_glottis(movements, voice, control, rng) * level, _resonances(movements, voice))
    hiss = movements.noise[:, 2][control]
    noise = _resonate(rng.standard_normal(count) * hiss, movements.noise[::STEP, None, :2], zero_at_ends=True)
    speech = voiced / (np.percentile(np.abs(voiced), 99) + TINY) + 0.5 * noise
    speech *= voice.loudness / (np.abs(speech).max() + TINY)
    return np.clip(speech + voice.room * rng.standard_normal(count), -1, 1).astype(np.float32)


def _glottis(movements: Movements, voice: Voice, control: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the airflow through the vocal folds: Rosenberg pulses at a varying pitch, and breath."""
    count = len(control)
    seconds = np.arange(len(movements)) / RATE
    melody = sum(
        np.sin(2 * np.pi * (rng.uniform(0.3, 2.5) * seconds + rng.random())) * rng.uniform(0.2, 0.6) for _ in range(3)
    )
    jitter = signal.lfilter([0.02], [1, -0.98], rng.standard_normal(len(movements))) * 0.1
    pitch = voice.pitch * (1 + voice.liveliness * melody + jitter)
    phase = np.cumsum(np.maximum(pitch, 50.0)[control]) / SAMPLE_RATE % 1.0
    opening, closing = 0.4, 0.16  # fractions of a period
    flow = np.where(
        phase < opening,
        0.5 * (1 - np.cos(np.pi * phase / opening)),
        np.where(phase < opening + closing, np.cos(np.pi / 2 * (phase - opening) / closing), 0.0),
    )
    source = np.diff(flow, prepend=0.0)  # lips radiate the derivative of the flow
    source = signal.lfilter([1 - voice.tilt], [1, -voice.tilt], source)
    return source + voice.breath * 0.3 * rng.standard_normal(count) * flow


def _resonances(movements: Movements, voice: Voice) -> np.ndarray:
    """Return formants (blocks, 4, 2) as frequency, bandwidth in Hz: jaw moves the first, tongue and lips the rest."""
    jaw, spread, tongue = movements.jaw, movements.spread, movements.tongue
    rounded = np.clip(-spread, 0, 1)
    first = (260 + 540 * jaw) * (1 - movements.nasal) + 260 * movements.nasal
    second = 1450 + 500 * tongue + np.where(spread > 0, 350, 300) * spread
    third = 2500 + 300 * tongue - 250 * rounded
    fourth = 3500 - 150 * rounded
    frequency = np.stack((first, second, third, fourth), 1) * voice.tract
    bandwidth = 50 + 0.04 * frequency + 150 * movements.nasal[:, None] * np.array([0.3, 1, 1, 1])
    return np.stack((frequency, bandwidth), 2)[::STEP]


def _resonate(source: np.ndarray, resonances: np.ndarray, zero_at_ends: bool = False) -> np.ndarray:
    """Filter ``source`` with cascaded resonators, (blocks, resonators, 2) frequency and bandwidth in Hz.

    ``zero_at_ends`` removes the lowest and the highest frequencies, which turns a resonance into a band pass.
    """
    radius = np.exp(-np.pi * resonances[..., 1] / SAMPLE_RATE)
    angle = 2 * np.pi * np.minimum(resonances[..., 0], 0.47 * SAMPLE_RATE) / SAMPLE_RATE
    sections = np.zeros((*radius.shape, 6))
    sections[..., 3] = 1
    sections[..., 4] = -2 * radius * np.cos(angle)
    sections[..., 5] = radius**2
    if zero_at_ends:
        sections[..., 0] = (1 - radius**2) / 2
        sections[..., 2] = -sections[..., 0]
    else:
        sections[..., 0] = sections[..., 3:].sum(-1)  # unit gain at 0 Hz: the formants set each other's levels
    state = np.zeros((resonances.shape[1], 2))
    out = np.empty_like(source)
    for block, section in enumerate(sections):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        out[part], state = signal.sosfilt(section, source[part], zi=state)
    return out
