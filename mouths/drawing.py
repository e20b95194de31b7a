"""New mouths, frame by frame: cut, shown to the generator, and put back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from concurrency import in_parallel
from devices import take_share
from face_path import Box
from mouths.appearance import Appearance, Appearances
from mouths.generating import CPU_BATCH, LipGenerator, crop, generate, masked_and_whole
from mouths.openings import openings
from mouths.pasting import DrawnFace, paste
from mouths.references import Reference, References
from mouths.restoring import Restore


@dataclass(frozen=True)
class MouthSettings:
    """How mouths move and are put in, beyond what the network does by itself. Arrays have a value for each frame."""

    blend: str = "box"  # or "feather", see ``pasting.paste``
    gains: np.ndarray | None = None  # of the movement: 0 as in silence, 1 (if None) as the network has it, 2 twice that
    appearances: Appearances | None = None  # what is known of the face: unoccluded, and with other mouths
    reference_share: np.ndarray | None = None  # so much is shown of them: 0 the frame's own mouth, 1 one of those
    restore: Restore | None = None  # what is done to each mouth when it is in its frame
    # with "feather", so much of the mouth is put into a frame whose box is known: 0 nothing, 1, or if None, all of it
    strength: Callable[[int], float] | None = None

    def of_frames(self) -> Iterator[tuple[float | None, float]]:
        """Yield the gain (None: leave the voice as it is) and the share of the reference of each frame, without end."""
        gains = itertools.repeat(None) if self.gains is None else map(float, self.gains)
        return zip(gains, itertools.repeat(0.0) if self.reference_share is None else map(float, self.reference_share))


class CutFace(NamedTuple):
    """A face on its way from its frame through the network."""

    filmed: np.ndarray  # (96, 96, 3) uint8 BGR
    box: Box  # that it was cut from
    mel: np.ndarray  # (80, 16)
    gain: float | None  # of the movement; None: as the network has it
    reference_share: float  # how much is shown of another mouth
    strength: float  # how much of what is drawn is put in
    appearance: Appearance | None  # what is known of it

    def hidden(self) -> np.ndarray | float:
        """Return what is in front of the face, see ``UnoccludedFace.hidden``; 0 for nothing."""
        unoccluded = self.appearance and self.appearance.unoccluded
        return unoccluded.hidden(self.filmed) if unoccluded else 0.0

    @property
    def references(self) -> References | None:
        """Faces whose mouths may be shown instead of this one's."""
        return self.appearance.references if self.appearance and self.reference_share > 0 else None


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
    (x1, y1, x2, y2) in whole pixels, which may reach beyond the frame; ``mels`` (80, 16) windows, see
    ``audio.MelWindows``; ``model`` a ``Wav2Lip``, plain or from ``optimize_for_inference``, which decides the device
    and precision. ``workers`` is how many batches the model works on at a time; more than one read ahead, see
    ``devices.calls_at_a_time``. ``first`` is the size of the first batch, if somebody waits for it.
    """
    rows = cut_faces(frames, boxes, mels, settings)
    sizes = itertools.chain([first or batch_size], itertools.repeat(batch_size))
    batches = itertools.takewhile(len, (list(itertools.islice(rows, size)) for size in sizes))

    def draw(batch: list[tuple[np.ndarray, CutFace | None]]) -> list[tuple[np.ndarray, DrawnFace | None]]:
        drawn = iter(draw_faces(model, [cut for _, cut in batch if cut]))
        return [(frame, next(drawn) if cut else None) for frame, cut in batch]

    waited_for = map(draw, itertools.islice(batches, 1 if first else 0))  # before others are read or worked on
    others = in_parallel(draw, batches, workers, take_share)
    for frame, drawn in itertools.chain.from_iterable(itertools.chain(waited_for, others)):
        if drawn:
            frame = paste(frame, drawn, settings.blend, in_place)
            if settings.restore:
                settings.restore(frame, drawn.box, drawn.hidden)
        yield frame


def cut_faces(
    frames: Iterable[np.ndarray], boxes: Iterable[Box | None], mels: Iterable[np.ndarray], settings: MouthSettings
) -> Iterator[tuple[np.ndarray, CutFace | None]]:
    """Yield each frame and what the network needs of the face in it, if there is one."""
    appearances = settings.appearances.anew() if settings.appearances else None
    for index, (frame, box, mel, how) in enumerate(zip(frames, boxes, mels, settings.of_frames())):
        if box:
            filmed = crop(frame, box)
            strength = settings.strength(index) if settings.strength else 1.0
            appearance = appearances.of(filmed, index) if appearances else None
            yield frame, CutFace(filmed, box, mel, *how, strength, appearance)
        else:
            yield frame, None


def draw_faces(model: LipGenerator, cuts: Sequence[CutFace]) -> list[DrawnFace]:
    """Return the faces with their mouths moved."""
    if not cuts:
        return []
    hidden = [cut.hidden() for cut in cuts]
    mels, faces = np.stack([cut.mel for cut in cuts]), masked_and_whole([cut.filmed for cut in cuts], model.mask_top)
    gains = None if cuts[0].gain is None else np.array([cut.gain for cut in cuts])
    references = select_references(cuts, hidden, openings_for(model, cuts, mels, gains), faces)
    drawn = generate(model, mels, faces, gains)
    return [
        DrawnFace(face, cut.filmed, cut.box, np.maximum(front, 1 - cut.strength), reference)
        for face, cut, front, reference in zip(drawn, cuts, hidden, references)
    ]


def openings_for(
    model: LipGenerator,
    cuts: Sequence[CutFace],
    mels: np.ndarray,
    gains: np.ndarray | None,
) -> np.ndarray:
    """Return how far open the mouths should be that are shown, (N,); 0 where that makes no difference."""
    if model.opening is None or all(cut.references is None or cut.references.apart is None for cut in cuts):
        return np.zeros(len(cuts))
    return openings(model, mels, gains, model.opening)


def select_references(
    cuts: Sequence[CutFace], hidden: Sequence[np.ndarray | float], wanted: np.ndarray, faces: np.ndarray
) -> list[Reference | None]:
    """Put what the network is to see instead of each face's own mouth, as far open as is ``wanted``, into ``faces``.

    These are ``masked_and_whole``, (N, 96, 96, 6), whose last three planes are changed. Return what was selected.
    """
    references = [
        cut.references.select(cut.filmed, cut.reference_share, *how) if cut.references else None
        for cut, *how in zip(cuts, wanted, hidden)
    ]
    for face, reference in zip(faces, references):
        if reference:
            face[..., 3:] = reference.face
    return references
