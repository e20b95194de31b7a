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
    pixel_aspect: float = 1.0  # width of the frame's pixels over their height, for ``restore``
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


Cut = tuple[MouthSettings, CutFace]
Drawn = tuple[MouthSettings, DrawnFace]


class SpeakingTrack(NamedTuple):
    """A face throughout a video: one value for each frame."""

    boxes: Iterable[Box | None]  # (x1, y1, x2, y2) in whole pixels, which may reach beyond the frame; None: no mouth
    mels: Iterable[np.ndarray]  # (80, 16) windows, see ``audio.MelWindows``
    settings: MouthSettings = MouthSettings()


def redraw_mouths(
    frames: Iterable[np.ndarray],
    faces: Sequence[SpeakingTrack],
    model: LipGenerator,
    batch_size: int = CPU_BATCH,
    workers: int = 1,
    in_place: bool = False,
    first: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield every frame with the mouths of these faces moved; frames without a face are returned unchanged.

    ``frames`` (height, width, 3) uint8 BGR are changed only if ``in_place``, and never if they are read-only; ``model``
    is a ``Wav2Lip``, plain or from ``optimize_for_inference``, which decides the device and precision. A batch is
    ``batch_size`` frames with all their faces, the ``first`` one smaller if it is needed soon; ``workers`` is how many
    of them are drawn and pasted at a time (more than one read ahead), see ``devices.calls_at_a_time``. Where boxes
    overlap, faces are pasted one over the other, the last on top.
    """
    rows = cut_faces(frames, faces)
    sizes = itertools.chain([first or batch_size], itertools.repeat(batch_size))
    batches = itertools.takewhile(len, (list(itertools.islice(rows, size)) for size in sizes))

    def draw(batch: list[tuple[np.ndarray, list[Cut]]]) -> list[tuple[np.ndarray, list[Drawn]]]:
        made = iter(draw_faces(model, [cut for _, cuts in batch for _, cut in cuts]))
        return [put(frame, [(how, next(made)) for how, _ in cuts]) for frame, cuts in batch]

    def put(frame: np.ndarray, drawn: list[Drawn]) -> tuple[np.ndarray, list[Drawn]]:
        for how, face in drawn:
            frame = paste(frame, face, how.blend, in_place)
        return frame, drawn

    waited_for = map(draw, itertools.islice(batches, 1 if first else 0))  # before other batches are read or processed
    others = in_parallel(draw, batches, workers, limit_threads)
    for frame, drawn in itertools.chain.from_iterable(itertools.chain(waited_for, others)):
        for how, face in drawn:
            if how.restore:  # one at a time, as restorers need much memory
                how.restore(frame, face.box, face.hidden, how.pixel_aspect)
        yield frame


def cut_faces(frames: Iterable[np.ndarray], faces: Sequence[SpeakingTrack]) -> Iterator[tuple[np.ndarray, list[Cut]]]:
    """Yield each frame and what the network needs of each face that is in it."""
    appearances = [face.settings.appearances and face.settings.appearances.restarted() for face in faces]
    tracks = [zip(face.boxes, face.mels, face.settings.of_frames()) for face in faces]
    for index, (frame, *known) in enumerate(zip(frames, *tracks)):
        cuts: list[Cut] = []
        for face, seen, (box, mel, (gain, reference_share)) in zip(faces, appearances, known):
            if box:
                filmed, strength = crop(frame, box), face.settings.strength
                appearance = seen.of(filmed, index) if seen else None
                opacity = strength(index) if strength else 1.0
                cut = CutFace(filmed, box, mel, gain, reference_share, opacity, appearance)
                cuts.append((face.settings, cut))
        yield frame, cuts


def draw_faces(model: LipGenerator, cuts: Sequence[CutFace]) -> list[DrawnFace]:
    """Return the faces with their mouths moved."""
    if not cuts:
        return []
    hidden = [cut.hidden() for cut in cuts]
    mels, faces = np.stack([cut.mel for cut in cuts]), masked_and_whole([cut.filmed for cut in cuts], model.mask_top)
    given = [1.0 if cut.gain is None else cut.gain for cut in cuts]  # of several faces, one may have none
    gains = None if all(cut.gain is None for cut in cuts) else np.array(given)
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
