"""New mouths: face crops and mels through the generator, and back into the frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch

from boxes import Box
from concurrency import in_parallel
from hparams import hparams as hp

CPU_BATCH = 16  # faces; larger network calls are no faster on a CPU
BLENDS = ("box", "feather")
ALIKE, OTHER = 4.0, 12.0  # grey levels: what is nearer is kept as it was filmed, what is farther is the network's


@dataclass(frozen=True)
class Manner:
    """How mouths move and are put in, beyond what the network does by itself. Arrays have a value for each frame."""

    blend: str = "box"  # or "feather", see ``paste``
    gains: np.ndarray | None = None  # of the movement: 0 as in silence, 1 (if None) as the network has it, 2 twice that
    still: np.ndarray | None = None  # (96, 96, 3) uint8 BGR: a face to take for the reference, by
    stillness: np.ndarray | None = None  # so much: 0 the frame's own, 1 ``still``

    def of_frames(self) -> Iterator[tuple[float | None, float]]:
        """Yield the gain (None: leave the voice as it is) and the stillness of each frame, without end."""
        gains = itertools.repeat(None) if self.gains is None else map(float, self.gains)
        return zip(gains, itertools.repeat(0.0) if self.stillness is None else map(float, self.stillness))


def redraw_mouths(
    frames: Iterable[np.ndarray],
    boxes: Iterable[Box | None],
    mels: Iterable[np.ndarray],
    model: torch.nn.Module,
    batch_size: int = CPU_BATCH,
    manner: Manner = Manner(),
    workers: int = 1,
    in_place: bool = False,
) -> Iterator[np.ndarray]:
    """Yield every frame with its mouth moved; frames whose box is None come back as they went in.

    ``frames`` (height, width, 3) uint8 BGR are changed only if ``in_place``; ``boxes`` (x1, y1, x2, y2) in whole pixels
    inside the frame; ``mels`` (80, 16) windows, see ``audio.MelWindows``; ``model`` a ``Wav2Lip``, plain or from
    ``optimize_for_inference``, which decides the device and precision. ``workers`` is how many batches the model works
    on at a time; more than one read ahead, see ``devices.cpu_workers``.
    """
    rows = zip(frames, boxes, mels, manner.of_frames())
    batches = iter(lambda: list(itertools.islice(rows, batch_size)), [])

    def with_mouths(batch: list) -> tuple[list, Iterator[np.ndarray]]:
        with_face = [row for row in batch if row[1] is not None]
        if not with_face:
            return batch, iter(())
        mels, faces = network_inputs([row[:3] for row in with_face])
        gains, stillness = zip(*(row[3] for row in with_face))
        if manner.still is not None:
            take_reference(faces, manner.still, stillness)
        return batch, iter(generate(model, mels, faces, None if manner.gains is None else np.array(gains)))

    for batch, mouths in in_parallel(with_mouths, batches, workers):
        for frame, box, *_ in batch:
            yield frame if box is None else paste(frame, next(mouths), box, manner.blend, in_place)


def network_inputs(rows: Sequence[tuple[np.ndarray, Box, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Frames with box and mel -> mels (N, 80, 16) float32 and faces (N, 96, 96, 6) uint8: lower half blank ‖ whole."""
    size = hp.img_size
    faces = np.empty((len(rows), size, size, 6), np.uint8)
    for face, (frame, box, _) in zip(faces, rows):
        face[..., 3:] = face[..., :3] = crop(frame, box)
        face[size // 2 :, :, :3] = 0
    return np.stack([mel for _, _, mel in rows]), faces


def crop(frame: np.ndarray, box: Box) -> np.ndarray:
    """Return the face in a box as the network sees it, (96, 96, 3) uint8 BGR."""
    x1, y1, x2, y2 = box
    return cv2.resize(frame[y1:y2, x1:x2], (hp.img_size, hp.img_size))


def take_reference(faces: np.ndarray, still: np.ndarray, stillness: Sequence[float]) -> None:
    """Put ``still`` (96, 96, 3), by ``stillness`` each, in the place of the whole faces of ``network_inputs``."""
    for face, share in zip(faces, stillness):
        if share > 0:
            face[..., 3:] = cv2.addWeighted(face[..., 3:], 1 - share, still, share, 0)


def open_lips(model: torch.nn.Module, faces: np.ndarray) -> np.ndarray:
    """Return by how much the lips of faces (N, 96, 96, 3) are apart, (N,): least for the one that is shut.

    It is what the generator changes when it hears silence, in grey levels. On 19 GRID clips of ten speakers its
    correlation with the distance of the lips that landmarks give is 0.95 in the median.
    """
    rows = np.concatenate((faces, faces), axis=-1)
    rows[:, hp.img_size // 2 :, :, :3] = 0
    silence = np.full((len(faces), hp.num_mels, hp.mel_step_size), -hp.max_abs_value, np.float32)
    top, left = hp.img_size * 7 // 12, hp.img_size * 7 // 24  # around the mouth
    changes = np.abs(generate(model, silence, rows).astype(np.float32) - faces)
    return changes[:, top : hp.img_size - 6, left : hp.img_size - left].mean((1, 2, 3))


def generate(
    model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None = None
) -> np.ndarray:
    """Run the generator on the output of ``network_inputs`` -> faces (N, 96, 96, 3) uint8 BGR.

    ``gains`` (N,) scale how far the mouths are from those of silence. What does not fit in the device's memory is done
    in halves.
    """
    try:
        return _generate(model, mels, faces, gains)
    except torch.OutOfMemoryError:
        if len(faces) == 1:
            raise
    # only here: inside the block, the error would keep alive whatever filled the memory
    parts = [slice(None, len(faces) // 2), slice(len(faces) // 2, None)]
    return np.concatenate([generate(model, mels[p], faces[p], None if gains is None else gains[p]) for p in parts])


@torch.inference_mode()
def _generate(model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None) -> np.ndarray:
    parameter = next(model.parameters())
    x, m = torch.from_numpy(faces), torch.from_numpy(mels)
    if parameter.is_cuda:
        x, m = (t.pin_memory().to(parameter.device, non_blocking=True) for t in (x, m))
    x = x.to(parameter.device).permute(0, 3, 1, 2)  # (N, 6, 96, 96), channels last in memory
    m = m.to(parameter.device, parameter.dtype)[:, None]  # (N, 1, 80, 16)
    x = (x.float() / 255).to(parameter.dtype)
    out = model(m, x) if gains is None else model.draw(amplified(model, m, gains), x)
    return (out.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def amplified(model: torch.nn.Module, mels: torch.Tensor, gains: np.ndarray) -> torch.Tensor:
    """Embed the mels, each ``gains`` times as far from silence as it is: a straight line that leads through both."""
    silence = model.audio_encoder(torch.full_like(mels[:1], -hp.max_abs_value))
    voices = model.audio_encoder(mels)
    scale = torch.from_numpy(gains).to(voices)[:, None, None, None]
    return (silence + scale * (voices - silence)).clamp(min=0)  # as all embeddings are


def paste(frame: np.ndarray, face: np.ndarray, box: Box, blend: str, in_place: bool = False) -> np.ndarray:
    """Return ``frame``, or a copy of it unless ``in_place``, with ``face`` (96, 96, 3) stretched over ``box``.

    "box" replaces all of it, as the reference does; "feather" the lips and what else the network made otherwise than it
    was, with soft edges: the rest keeps the sharpness and the grain of the frame.
    """
    x1, y1, x2, y2 = box
    size = x2 - x1, y2 - y1
    whole = frame if in_place else frame.copy()
    target = whole[y1:y2, x1:x2]
    if blend == "box":  # kept quirk: the whole box is replaced, its unmasked upper half included
        target[:] = cv2.resize(face, size)
        return whole
    face, mask = _changed(face, crop(frame, box))
    mask = cv2.resize(mask, size)
    target[:] = cv2.blendLinear(cv2.resize(face, size), target, mask, 1 - mask)
    return whole


def _changed(face: np.ndarray, filmed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``face`` in the colours of ``filmed``, both (96, 96, 3), and where they differ: (96, 96) in [0, 1]."""
    face, filmed = face.astype(np.float32), filmed.astype(np.float32)
    alike = feather_mask() * (1 - _difference(face, filmed)) + 1e-3  # if they are alike nowhere, all of it counts
    shift = ((filmed - face) * alike[..., None]).sum((0, 1)) / alike.sum()
    face = np.clip(face + np.clip(shift, -OTHER, OTHER), 0, 255)
    # lips are small: what is new about them may be less than what is left of others for the sake of their skin
    mask = feather_mask() * np.maximum(_difference(face, filmed), lips_mask())
    return face.round().astype(np.uint8), mask


def _difference(face: np.ndarray, filmed: np.ndarray) -> np.ndarray:
    """Tell from 0 to 1 where two faces differ in more than sharpness, with some room around it."""
    grey_levels = np.abs(cv2.GaussianBlur(face - filmed, (0, 0), 1.5)).max(2)
    grey_levels = cv2.GaussianBlur(cv2.dilate(grey_levels, np.ones((5, 5))), (0, 0), 2)
    return _smooth_step((grey_levels - ALIKE) / (OTHER - ALIKE))


def _smooth_step(ramp: np.ndarray) -> np.ndarray:
    ramp = np.clip(ramp, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


@lru_cache(maxsize=1)  # every frame needs it
def lips_mask() -> np.ndarray:
    """(96, 96) float32 in [0, 1]: 1 where lips are in a face that looks ahead, falling smoothly to 0 around them."""
    x, y = np.meshgrid(*[np.linspace(0, 1, hp.img_size, dtype=np.float32)] * 2)
    distance = np.hypot((x - 0.5) / 0.24, (y - 0.76) / 0.15)
    return _smooth_step((1 - distance) / 0.5)


@lru_cache(maxsize=1)
def feather_mask() -> np.ndarray:
    """(96, 96) float32 in [0, 1]: 1 on the mouth, falling smoothly to 0 at the cheeks, the nose and the box's edge."""
    x, y = np.meshgrid(*[np.linspace(0, 1, hp.img_size, dtype=np.float32)] * 2)
    sides = np.minimum(x, 1 - x) / 0.15
    top = (y - 0.4) / 0.15  # the generator redraws the lower half; the fade starts just above it
    bottom = (1 - y) / 0.08
    return _smooth_step(np.minimum(np.minimum(sides, top), bottom))
