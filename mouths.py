"""New mouths: face crops and mels through the generator, and back into the frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch

from boxes import Box
from concurrency import in_parallel
from hparams import hparams as hp

CPU_BATCH = 16  # faces; larger network calls are no faster on a CPU
BLENDS = ("box", "feather")


def redraw_mouths(
    frames: Iterable[np.ndarray],
    boxes: Iterable[Box | None],
    mels: Iterable[np.ndarray],
    model: torch.nn.Module,
    batch_size: int = CPU_BATCH,
    blend: str = "box",
    workers: int = 1,
    in_place: bool = False,
) -> Iterator[np.ndarray]:
    """Yield every frame with its mouth moved; frames whose box is None come back as they went in.

    ``frames`` (height, width, 3) uint8 BGR are changed only if ``in_place``; ``boxes`` (x1, y1, x2, y2) in whole pixels
    inside the frame; ``mels`` (80, 16) windows, see ``audio.MelWindows``; ``model`` a ``Wav2Lip``, plain or from
    ``optimize_for_inference``, which decides the device and precision. ``blend``: "box" or "feather". ``workers`` is
    how many batches the model works on at a time; more than one read ahead, see ``devices.cpu_workers``.
    """
    rows = zip(frames, boxes, mels)
    batches = iter(lambda: list(itertools.islice(rows, batch_size)), [])

    def with_mouths(batch: list) -> tuple[list, Iterator[np.ndarray]]:
        with_face = [row for row in batch if row[1] is not None]
        return batch, iter(generate(model, *network_inputs(with_face)) if with_face else ())

    for batch, mouths in in_parallel(with_mouths, batches, workers):
        for frame, box, _ in batch:
            yield frame if box is None else paste(frame, next(mouths), box, blend, in_place)


def network_inputs(rows: Sequence[tuple[np.ndarray, Box, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Frames with box and mel -> mels (N, 80, 16) float32 and faces (N, 96, 96, 6) uint8: lower half blank ‖ whole."""
    size = hp.img_size
    faces = np.empty((len(rows), size, size, 6), np.uint8)
    for face, (frame, (x1, y1, x2, y2), _) in zip(faces, rows):
        face[..., 3:] = cv2.resize(frame[y1:y2, x1:x2], (size, size))
        face[..., :3] = face[..., 3:]
        face[size // 2 :, :, :3] = 0
    return np.stack([mel for _, _, mel in rows]), faces


def generate(model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Run the generator on the output of ``network_inputs`` -> faces (N, 96, 96, 3) uint8 BGR.

    What does not fit in the device's memory is done in halves.
    """
    try:
        return _generate(model, mels, faces)
    except torch.OutOfMemoryError:
        if len(faces) == 1:
            raise
    # only here: inside the block, the error would keep alive whatever filled the memory
    half = len(faces) // 2
    return np.concatenate((generate(model, mels[:half], faces[:half]), generate(model, mels[half:], faces[half:])))


@torch.inference_mode()
def _generate(model: torch.nn.Module, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
    parameter = next(model.parameters())
    x, m = torch.from_numpy(faces), torch.from_numpy(mels)
    if parameter.is_cuda:
        x, m = (t.pin_memory().to(parameter.device, non_blocking=True) for t in (x, m))
    x = x.to(parameter.device).permute(0, 3, 1, 2)  # (N, 6, 96, 96), channels last in memory
    m = m.to(parameter.device, parameter.dtype)[:, None]  # (N, 1, 80, 16)
    out = model(m, (x.float() / 255).to(parameter.dtype))
    return (out.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def paste(frame: np.ndarray, face: np.ndarray, box: Box, blend: str, in_place: bool = False) -> np.ndarray:
    """Return ``frame``, or a copy of it unless ``in_place``, with ``face`` (96, 96, 3) stretched over ``box``."""
    x1, y1, x2, y2 = box
    frame = frame if in_place else frame.copy()
    target = frame[y1:y2, x1:x2]
    face = cv2.resize(face, (x2 - x1, y2 - y1))
    if blend == "box":  # kept quirk: the whole box is replaced, its unmasked upper half included
        target[:] = face
    else:
        mask = cv2.resize(feather_mask(), (x2 - x1, y2 - y1))[..., None]
        target[:] = (target + mask * (face.astype(np.float32) - target)).round()
    return frame


@lru_cache(maxsize=1)  # every frame needs it
def feather_mask() -> np.ndarray:
    """(96, 96) float32 in [0, 1]: 1 on the mouth, falling smoothly to 0 at the cheeks, the nose and the box's edge."""
    x, y = np.meshgrid(*[np.linspace(0, 1, hp.img_size, dtype=np.float32)] * 2)
    sides = np.minimum(x, 1 - x) / 0.15
    top = (y - 0.4) / 0.15  # the generator redraws the lower half; the fade starts just above it
    bottom = (1 - y) / 0.08
    ramp = np.clip(np.minimum(np.minimum(sides, top), bottom), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)
