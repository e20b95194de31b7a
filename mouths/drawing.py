"""Draw new mouths frame by frame: crop faces, run the generator, and paste the results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from concurrency import in_parallel
from devices import limit_threads
from face_path import Box
from mouths.appearance import Appearance, Appearances
from mouths.generating import CPU_BATCH, LipGenerator, crop, generate, masked_and_whole
from mouths.openings import openings
from mouths.pasting import DrawnFace, paste
from mouths.references import Reference, References
from mouths.restoring import Restore


@dataclass(frozen=True)
class MouthSettings:
    """How mouths move and are blended in, beyond the network's own behaviour. Arrays have one value per frame."""

    blend: str = "box"  # or "feather", see ``pasting.paste``
    gains: np.ndarray | None = None  # of the movement: 0 as in silence, 1 (or None) the network's own, 2 twice that
    appearances: Appearances | None = None  # what the face looks like: unoccluded, and with reference mouths
    reference_share: np.ndarray | None = None  # what the network is shown: 0 the frame's own mouth, 1 a reference
    restore: Restore | None = None  # applied to each mouth after pasting
    # with "feather", the opacity of the mouth in a frame whose box is known: 0 nothing; 1, or if None, all of it
    strength: Callable[[int], float] | None = None

    def of_frames(self) -> Iterator[tuple[float | None, float]]:
        """Yield the gain (None: the network's own movement) and the reference share of each frame."""
        gains = itertools.repeat(None) if self.gains is None else map(float, self.gains)
        return zip(gains, itertools.repeat(0.0) if self.reference_share is None else map(float, self.reference_share))


class CutFace(NamedTuple):
    """A face cropped from its frame, and what the network needs for it."""

    filmed: np.ndarray  # (96, 96, 3) uint8 BGR
    box: Box  # that it was cut from
    mel: np.ndarray  # (80, 16)
    gain: float | None  # factor of the movement; None: the network's own
    reference_share: float  # how much of a reference mouth the network is shown
    strength: float  # opacity of the drawn mouth
    appearance: Appearance | None  # what is known of it

    def hidden(self) -> np.ndarray | float:
        """Return what is in front of the face, see ``UnoccludedFace.hidden``; 0 for nothing."""
        unoccluded = self.appearance and self.appearance.unoccluded
        return unoccluded.hidden(self.filmed) if unoccluded else 0.0

    @property
    def references(self) -> References | None:
        """Faces whose mouths the network may be shown instead of this one's."""
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
    """Yield every frame with its mouth moved; frames whose box is None are returned unchanged.

    ``frames`` (height, width, 3) uint8 BGR are changed only if ``in_place``, and never if they are read-only; ``boxes``
    (x1, y1, x2, y2) in whole pixels, which may reach beyond the frame; ``mels`` (80, 16) windows, see
    ``audio.MelWindows``; ``model`` a ``Wav2Lip``, plain or from ``optimize_for_inference``, which decides the device
    and precision. ``workers`` is how many batches the model processes at a time (more than one read ahead), see
    ``devices.calls_at_a_time``. ``first`` is the size of the first batch, if it is needed soon.
    """
    rows = cut_faces(frames, boxes, mels, settings)
    sizes = itertools.chain([first or batch_size], itertools.repeat(batch_size))
    batches = itertools.takewhile(len, (list(itertools.islice(rows, size)) for size in sizes))

    def draw(batch: list[tuple[np.ndarray, CutFace | None]]) -> list[tuple[np.ndarray, DrawnFace | None]]:
        drawn = iter(draw_faces(model, [cut for _, cut in batch if cut]))
        return [(frame, next(drawn) if cut else None) for frame, cut in batch]

    waited_for = map(draw, itertools.islice(batches, 1 if first else 0))  # before other batches are read or processed
    others = in_parallel(draw, batches, workers, limit_threads)
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
    appearances = settings.appearances.restarted() if settings.appearances else None
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
    """Return how far open the reference mouths should be, (N,); 0 where that makes no difference."""
    if model.opening is None or all(cut.references is None or cut.references.openings is None for cut in cuts):
        return np.zeros(len(cuts))
    return openings(model, mels, gains, model.opening)


def select_references(
    cuts: Sequence[CutFace], hidden: Sequence[np.ndarray | float], wanted: np.ndarray, faces: np.ndarray
) -> list[Reference | None]:
    """Select a reference for each face, with its mouth as far open as ``wanted``; put them into ``faces``.

    These are ``masked_and_whole``, (N, 96, 96, 6), whose last three planes are changed. Return the references.
    """
    references = [
        cut.references.select(cut.filmed, cut.reference_share, *how) if cut.references else None
        for cut, *how in zip(cuts, wanted, hidden)
    ]
    for face, reference in zip(faces, references):
        if reference:
            face[..., 3:] = reference.face
    return references
