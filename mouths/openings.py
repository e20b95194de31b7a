"""Estimate how far open mouths are, from what the generator changes, and will be, from the speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hparams import hparams as hp
from mouths.generating import CPU_BATCH, LipGenerator, embedded, generate, masked_and_whole
from mouths.references import References

SHUT = 0.2  # of the way from the least open mouth to an open one, up to which mouths count as shut
WIDE = 95  # percentile of mouths, or of what opens them, that counts as wide open
# Grey levels between shut and wide from which on lips have moved: 2.4 to 12 in clips of ten people who speak,
# 0.2 to 0.6 in one frame of each with much grain, 1.0 in a portrait in which only the head moves
OPENED = 1.5
MAX_OPEN, RIDGE = 1.5, 10.0  # of the fit: the largest opening, and the ridge


def shut_mouths(model: LipGenerator, faces: np.ndarray) -> References:
    """Return those of a person's faces (N, 96, 96, 3) whose mouths are shut, or nearest to it."""
    apart = open_lips(model, faces)
    return References(faces[apart <= apart.min() + SHUT * (np.percentile(apart, 90) - apart.min())])


def all_mouths(model: LipGenerator, faces: np.ndarray, larger: np.ndarray) -> References:
    """Return a person's faces (N, 96, 96, 3), how far open their mouths are, and ``larger`` ones, (N, 192, 192, 3)."""
    apart = open_lips(model, faces)
    least, most = apart.min(), np.percentile(apart, WIDE)
    opened = most - least > OPENED  # otherwise the differences are noise
    return References(
        faces, openings=(apart - least) / (most - least) if opened else np.zeros(len(faces)), larger=larger
    )


def open_lips(model: LipGenerator, faces: np.ndarray) -> np.ndarray:
    """Return how far the lips of faces (N, 96, 96, 3) are apart, (N,): least for shut ones.

    It is what the generator changes when given silence, in grey levels. On 19 GRID clips of ten speakers its
    correlation with the distance of the lips by landmarks is 0.95 in the median.
    """
    silence = np.full((hp.num_mels, hp.mel_step_size), -hp.max_abs_value, np.float32)
    batches = np.split(faces, range(CPU_BATCH, len(faces), CPU_BATCH))
    return np.concatenate([_changes(model, batch, np.stack([silence] * len(batch))) for batch in batches])


def _changes(model: LipGenerator, faces: np.ndarray, mels: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Return by how many grey levels the generator changes the mouths of these faces, (N,)."""
    top, left = hp.img_size * 7 // 12, hp.img_size * 7 // 24  # around the mouth
    changes = np.abs(generate(model, mels, masked_and_whole(faces, model.mask_top), gains).astype(np.float32) - faces)
    return changes[:, top : hp.img_size - 6, left : hp.img_size - left].mean((1, 2, 3))


@torch.inference_mode()
def openings(model: LipGenerator, mels: np.ndarray, gains: np.ndarray | None, opening: Sequence[float]) -> np.ndarray:
    """Return how far these mels (N, 80, 16) will open a mouth, (N,) in [0, 1]: see ``Wav2Lip.opening``."""
    voices = _beyond_silence(model, mels) @ np.array(opening, np.float32)
    return np.nan_to_num(np.clip(voices if gains is None else gains * voices, 0, 1))


@torch.inference_mode()
def fit_opening(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gain: float) -> list[float]:
    """Fit ``Wav2Lip.opening`` to what the network changes in shut mouths (N, 96, 96, 3) at speech (M, 80, 16).

    1 is the 95th percentile of the changes, with the network's own ``gain``. Linear, by ridge regression.
    """
    batches, targets = np.split(mels, range(CPU_BATCH, len(mels), CPU_BATCH)), []
    voices = np.concatenate([_beyond_silence(model, batch) for batch in batches])
    for face in faces:
        shown = [(np.stack([face] * len(batch)), batch, np.full(len(batch), gain)) for batch in batches]
        changes, still = np.concatenate([_changes(model, *batch) for batch in shown]), open_lips(model, face[None])[0]
        targets.append((changes - still) / (np.percentile(changes, WIDE) - still))
    target = np.clip(np.mean(targets, 0), 0, MAX_OPEN) / gain
    ridge = voices.T @ voices + RIDGE * np.eye(voices.shape[1])
    return np.linalg.solve(ridge, voices.T @ target).astype(np.float32).tolist()


def _beyond_silence(model: LipGenerator, mels: np.ndarray) -> np.ndarray:
    """Embed mels (N, 80, 16) and return their difference from silence, (N, 512·width) float32."""
    parameter = next(model.parameters())
    silence, voices = embedded(model, torch.from_numpy(mels).to(parameter.device, parameter.dtype)[:, None])
    return (voices.float() - silence.float()).flatten(1).cpu().numpy()
