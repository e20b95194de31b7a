"""Prepare the generator's input, and run it on faces and mels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch

import pictures
from boxes import crop_with_border
from devices import split_on_oom
from face_path import Box
from hparams import hparams as hp

CPU_BATCH = 16  # faces; larger network calls are no faster on a CPU


class LipGenerator(Protocol):
    """The interface of ``Wav2Lip`` and its substitutes; the parameters determine device and precision."""

    @property
    def audio_encoder(self) -> torch.nn.Module: ...

    @property
    def mask_top(self) -> float: ...

    @property
    def opening(self) -> Sequence[float] | None: ...

    def __call__(self, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor: ...

    def draw(self, voices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


def masked_and_whole(filmed: Sequence[np.ndarray] | np.ndarray, mask_top: float) -> np.ndarray:
    """Return faces (96, 96, 3) uint8 as a network takes them, (N, 96, 96, 6): black below ``mask_top`` ‖ whole."""
    faces = np.concatenate((filmed, filmed), axis=-1)
    faces[:, round(mask_top * hp.img_size) :, :, :3] = 0
    return faces


def crop(frame: np.ndarray, box: Box, size: int = hp.img_size) -> np.ndarray:
    """Return the face in a box as the network sees it, (96, 96, 3) uint8 BGR, or in another ``size``."""
    return pictures.fitted(crop_with_border(frame, box), size)


def generate(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Run the generator on mels (N, 80, 16) and the faces of ``masked_and_whole`` -> faces (N, 96, 96, 3) uint8 BGR.

    ``gains`` (N,) scale how far the mouths are from those of silence. Batches that do not fit in the device's memory
    are split in half.
    """
    return np.concatenate(split_on_oom(partial(_generate, model), mels, faces, gains))


@torch.inference_mode()
def _generate(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None) -> np.ndarray:
    parameter = next(model.parameters())
    x, m = torch.from_numpy(faces), torch.from_numpy(mels)
    if parameter.is_cuda:
        x, m = (t.pin_memory().to(parameter.device, non_blocking=True) for t in (x, m))
    x = x.to(parameter.device).permute(0, 3, 1, 2)  # (N, 6, 96, 96), channels last in memory
    m = m.to(parameter.device, parameter.dtype)[:, None]  # (N, 1, 80, 16)
    x = (x.float() / 255).to(parameter.dtype)
    out = (model(m, x) if gains is None else model.draw(amplified(model, m, gains), x)).float()
    if not out.isfinite().all():  # rounded to whole levels, these would be black mouths
        raise RuntimeError("the network's faces are not numbers, as fp16 gives on some GPUs; use --precision fp32")
    return (out * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def amplified(model: LipGenerator, mels: torch.Tensor, gains: np.ndarray) -> torch.Tensor:
    """Embed the mels, each moved to ``gains`` times its distance from silence, on a straight line through both."""
    silence, voices = embedded(model, mels)
    scale = torch.from_numpy(gains).to(voices)[:, None, None, None]
    return (silence + scale * (voices - silence)).clamp(min=0)  # embeddings are not negative


def embedded(model: LipGenerator, mels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the audio encoder's embedding of silence, (1, 512·width, 1, 1), and of the mels."""
    voices = model.audio_encoder(torch.cat((torch.full_like(mels[:1], -hp.max_abs_value), mels)))
    return voices[:1], voices[1:]
