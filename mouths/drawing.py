"""New mouths, frame by frame: cut, shown to the generator, and put back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from boxes import Box
from concurrency import in_parallel
from hparams import hparams as hp
from mouths.appearance import Appearance, Appearances
from mouths.generating import CPU_BATCH, LipGenerator, crop, generate, masked_and_whole
from mouths.openings import openings
from mouths.pasting import paste
from mouths.references import Loan, References
from mouths.restoring import Restore


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

    def with_mouths(batch: list[Row]) -> tuple[list[Row], Iterator[tuple[np.ndarray, Loan | None, np.ndarray | float]]]:
        with_face = [row for row in batch if row.box]
        hidden = [row.hidden() for row in with_face]
        return batch, zip(*draw_mouths(model, with_face, hidden, settings.opening), hidden)

    waited_for = map(with_mouths, itertools.islice(batches, 1 if first else 0))  # before others are read or worked on
    for batch, mouths in itertools.chain(waited_for, in_parallel(with_mouths, batches, workers)):
        for row in batch:
            frame = row.frame
            if row.box:
                mouth, loan, hidden = next(mouths)
                frame = paste(frame, mouth, row.filmed, row.box, settings.blend, in_place, hidden, loan)
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
) -> tuple[np.ndarray, list[Loan | None]]:
    """Return the faces of rows that have one with their mouths moved, (N, 96, 96, 3) uint8 BGR, and their loans.

    ``hidden`` is what is in front of each; ``opening`` see ``MouthSettings``.
    """
    if not rows:
        return np.empty((0, hp.img_size, hp.img_size, 3), np.uint8), []
    mels, faces = np.stack([row.mel for row in rows]), masked_and_whole([row.filmed for row in rows], model.mask_top)
    gains = None if rows[0].gain is None else np.array([row.gain for row in rows])
    loans = lend_mouths(rows, hidden, openings_for(model, rows, mels, gains, opening), faces)
    return generate(model, mels, faces, gains), loans


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
) -> list[Loan | None]:
    """Put what the network is to see instead of each face's own mouth, as far open as is ``wanted``, into ``faces``.

    They are those of ``masked_and_whole``.
    """
    loans = [
        row.lender.lend(row.filmed, row.stillness, *how) if row.lender else None
        for row, *how in zip(rows, wanted, hidden)
    ]
    for face, loan in zip(faces, loans):
        if loan:
            face[..., 3:] = loan.shown
    return loans
