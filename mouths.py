"""New mouths: face crops and mels through the generator, and back into the frames (``pasting``)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch

from appearance import Appearance, Appearances
from boxes import Box
from concurrency import in_parallel
from hparams import hparams as hp
from pasting import paste
from references import References
from restoring import Restore

CPU_BATCH = 16  # faces; larger network calls are no faster on a CPU
SHUT = 0.2  # of the way from the least open mouth to an open one, up to which mouths pass for shut
WIDE = 95  # percentile of mouths, or of what opens them, that passes for wide open
MOST_OPEN, RIDGE = 1.5, 10.0  # of what openings are learned from: the most, and the ridge


@dataclass(frozen=True)
class MouthSettings:
    """How mouths move and are put in, beyond what the network does by itself. Arrays have a value for each frame."""

    blend: str = "box"  # or "feather", see ``pasting.paste``
    gains: np.ndarray | None = None  # of the movement: 0 as in silence, 1 (if None) as the network has it, 2 twice that
    appearances: Appearances | None = None  # what is known of the face: unoccluded, and with other mouths
    opening: Sequence[float] | None = None  # tells how far open the mouths should be that are shown, see ``Wav2Lip``
    stillness: np.ndarray | None = None  # so much is shown of them: 0 the frame's own, 1 one of those
    restore: Restore | None = None  # what is done to each mouth when it is in its frame

    def of_frames(self) -> Iterator[tuple[float | None, float]]:
        """Yield the gain (None: leave the voice as it is) and the stillness of each frame, without end."""
        gains = itertools.repeat(None) if self.gains is None else map(float, self.gains)
        return zip(gains, itertools.repeat(0.0) if self.stillness is None else map(float, self.stillness))


class Row(NamedTuple):
    """A frame on its way through the network."""

    frame: np.ndarray  # (height, width, 3) uint8 BGR
    box: Box | None
    mel: np.ndarray  # (80, 16)
    gain: float | None  # of the movement; None: as the network has it
    stillness: float  # how much is shown of another mouth
    filmed: np.ndarray  # the face in the box, (96, 96, 3) uint8 BGR; empty without box
    appearance: Appearance | None  # what is known of it

    def hidden(self) -> np.ndarray | float:
        """Return what is in front of the face, see ``UnoccludedFace.hidden``; 0 for nothing."""
        unoccluded = self.appearance and self.appearance.unoccluded
        return unoccluded.hidden(self.filmed) if unoccluded else 0.0

    @property
    def lender(self) -> References | None:
        """The faces of which one is shown instead of this one."""
        return self.appearance.references if self.appearance and self.stillness > 0 else None


class LipGenerator(Protocol):
    """What is needed of a ``Wav2Lip``, or of what stands in for one; its parameters say where it computes, and how."""

    @property
    def audio_encoder(self) -> torch.nn.Module: ...

    @property
    def mask_top(self) -> float: ...

    def __call__(self, mels: torch.Tensor, faces: torch.Tensor) -> torch.Tensor: ...

    def draw(self, voices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


def redraw_mouths(
    frames: Iterable[np.ndarray],
    boxes: Iterable[Box | None],
    mels: Iterable[np.ndarray],
    model: LipGenerator,
    batch_size: int = CPU_BATCH,
    settings: MouthSettings = MouthSettings(),
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
    rows = rows_of(frames, boxes, mels, settings)
    sizes = itertools.chain([first or batch_size], itertools.repeat(batch_size))
    batches = itertools.takewhile(len, (list(itertools.islice(rows, size)) for size in sizes))

    def with_mouths(batch: list[Row]) -> tuple[list[Row], Iterator[tuple[np.ndarray, np.ndarray | float]]]:
        with_face = [row for row in batch if row.box]
        hidden = [row.hidden() for row in with_face]
        return batch, zip(draw_mouths(model, with_face, hidden, settings.opening), hidden)

    waited_for = map(with_mouths, itertools.islice(batches, 1 if first else 0))  # before others are read or worked on
    for batch, mouths in itertools.chain(waited_for, in_parallel(with_mouths, batches, workers)):
        for row in batch:
            frame = row.frame
            if row.box:
                mouth, hidden = next(mouths)
                frame = paste(frame, mouth, row.filmed, row.box, settings.blend, in_place, hidden)
                if settings.restore:
                    settings.restore(frame, row.box, hidden)
            yield frame


def rows_of(
    frames: Iterable[np.ndarray], boxes: Iterable[Box | None], mels: Iterable[np.ndarray], settings: MouthSettings
) -> Iterator[Row]:
    """Yield what the network needs of each frame."""
    appearances = settings.appearances.anew() if settings.appearances else None
    for index, (frame, box, mel, how) in enumerate(zip(frames, boxes, mels, settings.of_frames())):
        filmed = crop(frame, box) if box else frame[:0]
        appearance = appearances.of(filmed, index) if box and appearances else None
        yield Row(frame, box, mel, *how, filmed, appearance)


def draw_mouths(
    model: LipGenerator,
    rows: Sequence[Row],
    hidden: Sequence[np.ndarray | float],
    opening: Sequence[float] | None = None,
) -> np.ndarray:
    """Return the faces of rows that have one with their mouths moved, (N, 96, 96, 3) uint8 BGR.

    ``hidden`` is what is in front of each; ``opening`` see ``MouthSettings``.
    """
    if not rows:
        return np.empty((0, hp.img_size, hp.img_size, 3), np.uint8)
    mels, faces = np.stack([row.mel for row in rows]), masked_and_whole([row.filmed for row in rows], model.mask_top)
    gains = None if rows[0].gain is None else np.array([row.gain for row in rows])
    lend_mouths(rows, hidden, openings_for(model, rows, mels, gains, opening), faces)
    return generate(model, mels, faces, gains)


def openings_for(
    model: LipGenerator,
    rows: Sequence[Row],
    mels: np.ndarray,
    gains: np.ndarray | None,
    opening: Sequence[float] | None,
) -> np.ndarray:
    """Return how far open the mouths should be that are shown, (N,); 0 where that makes no difference."""
    if opening is None or all(row.lender is None or row.lender.apart is None for row in rows):
        return np.zeros(len(rows))
    return openings(model, mels, gains, opening)


def lend_mouths(
    rows: Sequence[Row], hidden: Sequence[np.ndarray | float], wanted: np.ndarray, faces: np.ndarray
) -> None:
    """Put what the network is to see instead of each face's own mouth, as far open as is ``wanted``, into ``faces``.

    They are those of ``masked_and_whole``.
    """
    for row, face, *how in zip(rows, faces, wanted, hidden):
        if row.lender:
            face[..., 3:] = row.lender.instead_of(row.filmed, row.stillness, *how)


def masked_and_whole(filmed: Sequence[np.ndarray] | np.ndarray, mask_top: float) -> np.ndarray:
    """Faces (96, 96, 3) uint8 as a network takes them, (N, 96, 96, 6): black below ``Wav2Lip.mask_top`` ‖ whole."""
    faces = np.concatenate((filmed, filmed), axis=-1)
    faces[:, round(mask_top * hp.img_size) :, :, :3] = 0
    return faces


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
    top, left = hp.img_size * 7 // 12, hp.img_size * 7 // 24  # around the mouth
    changes = np.abs(generate(model, mels, masked_and_whole(faces, model.mask_top), gains).astype(np.float32) - faces)
    return changes[:, top : hp.img_size - 6, left : hp.img_size - left].mean((1, 2, 3))


def generate(model: LipGenerator, mels: np.ndarray, faces: np.ndarray, gains: np.ndarray | None = None) -> np.ndarray:
    """Run the generator on mels (N, 80, 16) and the faces of ``masked_and_whole`` -> faces (N, 96, 96, 3) uint8 BGR.

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
