"""New mouths: face crops and mels through the generator, and back into the frames (``pasting``)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch

from boxes import Box
from concurrency import in_parallel
from hparams import hparams as hp
from occlusion import Bare
from pasting import paste
from references import References
from restoring import Restore

CPU_BATCH = 16  # faces; larger network calls are no faster on a CPU
SHUT = 0.2  # of the way from the least open mouth to an open one, up to which mouths pass for shut
WIDE = 95  # percentile of mouths, or of what opens them, that passes for wide open
MOST_OPEN, RIDGE = 1.5, 10.0  # of what openings are learned from: the most, and the ridge


@dataclass(frozen=True)
class Manner:
    """How mouths move and are put in, beyond what the network does by itself. Arrays have a value for each frame."""

    blend: str = "box"  # or "feather", see ``pasting.paste``
    gains: np.ndarray | None = None  # of the movement: 0 as in silence, 1 (if None) as the network has it, 2 twice that
    references: References | None = None  # faces that the network is shown instead of the frame's own, by
    opening: Sequence[float] | None = None  # tells how far open those should be, see ``Wav2Lip``
    stillness: np.ndarray | None = None  # so much: 0 the frame's own, 1 one of these
    bare: Bare | None = None  # what the face is like with nothing in front of it; what is in front then stays there
    restore: Restore | None = None  # what is done to each mouth when it is in its frame

    def hidden(self, filmed: Iterable[np.ndarray]) -> list[np.ndarray | float]:
        """Return what is in front of each of these faces as they were filmed, see ``Bare.hidden``; 0 for nothing."""
        return [self.bare.hidden(face) if self.bare else 0.0 for face in filmed]

    def of_frames(self) -> Iterator[tuple[float | None, float]]:
        """Yield the gain (None: leave the voice as it is) and the stillness of each frame, without end."""
        gains = itertools.repeat(None) if self.gains is None else map(float, self.gains)
        return zip(gains, itertools.repeat(0.0) if self.stillness is None else map(float, self.stillness))


class LipGenerator(Protocol):
    """What is needed of a ``Wav2Lip``, or of what stands in for one; its parameters say where it computes, and how."""

    @property
    def audio_encoder(self) -> torch.nn.Module: ...

    def __call__(self, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor: ...

    def draw(self, voices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


def redraw_mouths(
    frames: Iterable[np.ndarray],
    boxes: Iterable[Box | None],
    mels: Iterable[np.ndarray],
    model: LipGenerator,
    batch_size: int = CPU_BATCH,
    manner: Manner = Manner(),
    workers: int = 1,
    in_place: bool = False,
    first: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield every frame with its mouth moved; frames whose box is None come back as they went in.

    ``frames`` (height, width, 3) uint8 BGR are changed only if ``in_place``, and never if they are read-only; ``boxes``
    (x1, y1, x2, y2) in whole pixels inside the frame; ``mels`` (80, 16) windows, see ``audio.MelWindows``; ``model`` a
    ``Wav2Lip``, plain or from ``optimize_for_inference``, which decides the device and precision. ``workers`` is how
    many batches the model works on at a time; more than one read ahead, see ``devices.cpu_workers``. ``first`` is the
    size of the first batch, if somebody waits for it.
    """
    rows = zip(frames, boxes, mels, manner.of_frames())
    sizes = itertools.chain([first or batch_size], itertools.repeat(batch_size))
    batches = itertools.takewhile(len, (list(itertools.islice(rows, size)) for size in sizes))

    def with_mouths(batch: list) -> tuple[list, Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | float]]]:
        with_face = [row for row in batch if row[1] is not None]
        if not with_face:
            return batch, iter(())
        mels, faces = network_inputs([row[:3] for row in with_face])
        filmed = faces[..., 3:].copy()  # another reference may take its place
        hidden = manner.hidden(filmed)
        gains, stillness = zip(*(row[3] for row in with_face))
        gains = None if manner.gains is None else np.array(gains)
        lend_mouths(model, mels, faces, gains, manner, stillness, hidden)
        drawn = generate(model, mels, faces, gains)
        return batch, zip(drawn, filmed, hidden)

    waited_for = map(with_mouths, itertools.islice(batches, 1 if first else 0))  # before others are read or worked on
    for batch, mouths in itertools.chain(waited_for, in_parallel(with_mouths, batches, workers)):
        for frame, box, *_ in batch:
            if box is not None:
                face, filmed, hidden = next(mouths)
                frame = paste(frame, face, filmed, box, manner.blend, in_place, hidden)
                if manner.restore:
                    manner.restore(frame, box, hidden)
            yield frame


def lend_mouths(
    model: LipGenerator,
    mels: np.ndarray,
    faces: np.ndarray,
    gains: np.ndarray | None,
    manner: Manner,
    stillness: Sequence[float],
    hidden: Sequence[np.ndarray | float],
) -> None:
    """Put, in place, what the network is to see instead of each face's own mouth into the output of ``network_inputs``.

    ``stillness`` and ``hidden``, what is in front of it, have a value for each face.
    """
    if not manner.references:
        return
    opening = manner.opening if manner.references.apart is not None else None  # else it makes no difference
    wanted = openings(model, mels, gains, opening) if opening else np.zeros(len(faces))
    for face, share, *how in zip(faces, stillness, wanted, hidden):
        if share > 0:
            face[..., 3:] = manner.references.instead_of(face[..., 3:], share, *how)


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


def shut_mouths(model: LipGenerator, faces: np.ndarray) -> References:
    """Return those of somebody's faces (N, 96, 96, 3) whose mouths are shut, as far as any are."""
    apart = open_lips(model, faces)
    return References(faces[apart <= apart.min() + SHUT * (np.percentile(apart, 90) - apart.min())])


def all_mouths(model: LipGenerator, faces: np.ndarray) -> References:
    """Return somebody's faces (N, 96, 96, 3), and how far open their mouths are."""
    apart = open_lips(model, faces)
    return References(faces, apart=(apart - apart.min()) / max(np.percentile(apart, WIDE) - apart.min(), 1e-6))


def open_lips(model: LipGenerator, faces: np.ndarray) -> np.ndarray:
    """Return by how much the lips of faces (N, 96, 96, 3) are apart, (N,): least for the one that is shut.

    It is what the generator changes when it hears silence, in grey levels. On 19 GRID clips of ten speakers its
    correlation with the distance of the lips that landmarks give is 0.95 in the median.
    """
    silence = np.full((hp.num_mels, hp.mel_step_size), -hp.max_abs_value, np.float32)
    batches = np.split(faces, range(CPU_BATCH, len(faces), CPU_BATCH))
    return np.concatenate([_changes(model, batch, np.stack([silence] * len(batch))) for batch in batches])


def _changes(model: LipGenerator, faces: np.ndarray, mels: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Return by how many grey levels the generator changes the mouths of these faces, (N,)."""
    rows = np.concatenate((faces, faces), axis=-1)
    rows[:, hp.img_size // 2 :, :, :3] = 0
    top, left = hp.img_size * 7 // 12, hp.img_size * 7 // 24  # around the mouth
    changes = np.abs(generate(model, mels, rows, gains).astype(np.float32) - faces)
    return changes[:, top : hp.img_size - 6, left : hp.img_size - left].mean((1, 2, 3))


def generate(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
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
def _generate(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None) -> np.ndarray:
    parameter = next(model.parameters())
    x, m = torch.from_numpy(faces), torch.from_numpy(mels)
    if parameter.is_cuda:
        x, m = (t.pin_memory().to(parameter.device, non_blocking=True) for t in (x, m))
    x = x.to(parameter.device).permute(0, 3, 1, 2)  # (N, 6, 96, 96), channels last in memory
    m = m.to(parameter.device, parameter.dtype)[:, None]  # (N, 1, 80, 16)
    x = (x.float() / 255).to(parameter.dtype)
    out = model(m, x) if gains is None else model.draw(amplified(model, m, gains), x)
    return (out.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def openings(model: LipGenerator, mels: np.ndarray, gains: np.ndarray | None, opening: Sequence[float]) -> np.ndarray:
    """Return how far these mels (N, 80, 16) will open a mouth, (N,) in [0, 1]: see ``Wav2Lip.opening``."""
    voices = _beyond_silence(model, mels) @ np.array(opening, np.float32)
    return np.clip(voices if gains is None else gains * voices, 0, 1)


@torch.inference_mode()
def fit_opening(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gain: float) -> list[float]:
    """Return ``Wav2Lip.opening``, by what the network does to shut mouths (N, 96, 96, 3) at speech (M, 80, 16).

    1 is what it does at the loudest 5 % of it, with the ``gain`` that it wants. Linear, by ridge regression.
    """
    batches, targets = np.split(mels, range(64, len(mels), 64)), []
    voices = np.concatenate([_beyond_silence(model, batch) for batch in batches])
    for face in faces:
        shown = [(np.stack([face] * len(batch)), batch, np.full(len(batch), gain)) for batch in batches]
        changes, still = np.concatenate([_changes(model, *batch) for batch in shown]), open_lips(model, face[None])[0]
        targets.append((changes - still) / (np.percentile(changes, WIDE) - still))
    target = np.clip(np.mean(targets, 0), 0, MOST_OPEN) / gain
    ridge = voices.T @ voices + RIDGE * np.eye(voices.shape[1])
    return np.linalg.solve(ridge, voices.T @ target).astype(np.float32).tolist()


def _beyond_silence(model: LipGenerator, mels: np.ndarray) -> np.ndarray:
    """Embed mels (N, 80, 16) and return by what they differ from silence, (N, 512·width) float32."""
    parameter = next(model.parameters())
    silence, voices = _embedded(model, torch.from_numpy(mels).to(parameter.device, parameter.dtype)[:, None])
    return (voices.float() - silence.float()).flatten(1).cpu().numpy()


def amplified(model: LipGenerator, mels: torch.Tensor, gains: np.ndarray) -> torch.Tensor:
    """Embed the mels, each ``gains`` times as far from silence as it is: a straight line that leads through both."""
    silence, voices = _embedded(model, mels)
    scale = torch.from_numpy(gains).to(voices)[:, None, None, None]
    return (silence + scale * (voices - silence)).clamp(min=0)  # as all embeddings are


def _embedded(model: LipGenerator, mels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the audio encoder's embedding of silence, (1, 512·width, 1, 1), and of the mels."""
    return model.audio_encoder(torch.full_like(mels[:1], -hp.max_abs_value)), model.audio_encoder(mels)
