"""Choose a face in each shot: the one whose lips move with the sound, or the one that looks like a given picture.

Pipeline: detections -> shots and the faces in them -> a score for each face -> the best one, if it is good enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

import video
from boxes import no_face, place
from errors import UserError
from face_detection.detections import Detections
from face_detection.tracking import MIN_TRACK_SHARE, follow_face, follow_faces, gap_of, shots, shows_profiles
from face_path import Piece
from faces import FaceSearch
from hparams import hparams as hp
from identities import Identity, cosine_similarity, face_of_sface
from reporting import SILENT, Reporter
from sync import Expert, Face, Result, Voice, compare, embed_faces
from sync.embedding import MAX_OFFSET, embed_sound
from sync.matching import MIN_CONFIDENCE

# Minimum ``Result.contrast`` (similarity without offset, less its median over all offsets) of a speaker's lips. Half
# the difference between similarity to the own voice, 0.615, and to another sentence, 0.336, for the included expert and
# people it was not trained on (benchmarks/RESULTS.md, "Real people").
MIN_CONTRAST = 0.14
SAME_PERSON = 0.363  # cosine of two identities: OpenCV's threshold for SFace
SAMPLES_PER_FACE = 5  # frames in which a face's identity is computed in each shot


@dataclass(frozen=True)
class FacesByShot:
    """All faces in a video, shot by shot."""

    shots: list[tuple[int, int]]  # first frame, and the one after the last
    faces: list[np.ndarray]  # by position, the n-th from the left in every shot: detected boxes (frames, 4), or NaN

    def seen(self) -> np.ndarray:
        """Return the number of frames of each shot in which each face is detected, (shots, faces)."""
        return np.array([[(~np.isnan(face[a:b, 0])).sum() for face in self.faces] for a, b in self.shots])


class FaceCriterion(Protocol):
    """Scores how well faces match what is wanted."""

    DESCRIPTION: str  # the wanted person, in words
    THRESHOLD: float  # minimum score of a match

    def scores(self, everybody: FacesByShot) -> np.ndarray:
        """Return a score for each face in each shot, (shots, faces)."""

    def no_match_message(self, best: float) -> str:
        """Return the error message for when no face matches; ``best`` is the highest score."""


def follow(
    seen: Iterable[Detections], source: video.VideoInfo, pads: Sequence[int], smooth: bool, criterion: FaceCriterion
) -> Generator[Piece, None, None]:
    """Track the best-scoring face of every shot; shots in which no face scores enough have no boxes.

    ``seen`` yields the detections so far, each time that there are more; only the complete ones are used. Raises
    UserError if no face scores enough in any shot.
    """
    *_, found = seen
    return place(chosen_faces(found, source, criterion), source, pads, smooth)


def chosen_faces(
    found: Detections, source: video.VideoInfo, criterion: FaceCriterion
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield the detected boxes of the best-scoring face, (frames, 4), shot by shot; NaN where there is none."""
    everybody = FacesByShot(shots(found), follow_faces(found, gap_of(source.fps)))
    scores = np.full((len(everybody.shots), 1), -np.inf)
    if everybody.faces:
        scores = without_brief_faces(criterion.scores(everybody), everybody.seen())
        if scores.max() < criterion.THRESHOLD:
            raise UserError(criterion.no_match_message(float(scores.max())))
    elif shows_profiles(found):
        raise no_face(source, 0, len(found), in_profile=True)
    for (first, stop), row in zip(everybody.shots, scores):
        good = row.max() >= criterion.THRESHOLD
        yield everybody.faces[int(row.argmax())][first:stop] if good else np.full((stop - first, 4), np.nan), True


def without_brief_faces(scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Set ``scores`` (shots, faces) to -inf for faces ``seen`` much shorter than others, which may score by chance."""
    brief = seen < np.maximum(1, MIN_TRACK_SHARE * seen.max(1, keepdims=True))
    return np.where(brief | np.isnan(scores), -np.inf, scores)


# --------------------------------------------------------------------------------------------------------------------
# By the voice


class Speaker:
    """Criterion for the face whose lips move with the video's own sound.

    Raises UserError for a picture or a video without sound. Only the first ``frames`` of the video count.
    """

    DESCRIPTION, THRESHOLD = "who speaks", MIN_CONTRAST

    def __init__(self, source: video.VideoInfo, frames: int, expert: Expert, report: Reporter = SILENT) -> None:
        if source.is_image:
            raise UserError(f"--speaker auto needs moving lips, and {source.path} is a picture; try --face_index")
        self.source, self.expert, self.report = source, expert, report
        start, seconds = float(source.start / source.fps), float(frames / source.fps) + MAX_OFFSET / hp.fps
        self.voice = embed_own_sound(source.path, start, seconds, expert)

    def scores(self, everybody: FacesByShot) -> np.ndarray:
        faces = embed_faces(self.source, everybody.faces, self.expert, self.report)
        rate = hp.fps / float(self.source.fps)
        spans = [(math.ceil(first * rate), math.floor(stop * rate)) for first, stop in everybody.shots]
        results = [[compare(part_of(face, *span), self.voice) for face in faces] for span in spans]
        curves = np.array([[result.contrasts for result in row] for row in results])
        return curves[..., MAX_OFFSET + usual_offset(curves, everybody.seen())]

    def no_match_message(self, best: float) -> str:
        return (
            f"--speaker auto: nobody's lips move with the sound of {self.source.path} (the best match is "
            f"{max(best, 0):.2f}, below {MIN_CONTRAST}); choose with --face_index or --face_like"
        )


def embed_own_sound(path: Path, start: float, seconds: float, expert: Expert) -> Voice:
    """Embed ``seconds`` of a video's own sound."""
    try:
        return embed_sound(between(video.Sound(path, hp.sample_rate), start, seconds), expert, str(path))
    except UserError as problem:
        reason = str(problem).partition(";")[0]  # the rest is advice that does not apply here
        raise UserError(f"--speaker auto needs the video's own sound: {reason}; choose with --face_index") from None


def between(sound: Iterable[np.ndarray], start: float, seconds: float) -> Iterator[np.ndarray]:
    """Yield the blocks of sound from ``start`` on, for at most ``seconds``."""
    before, left = round(start * hp.sample_rate), math.ceil(seconds * hp.sample_rate)
    for block in sound:
        part = block[before:][:left]
        before = max(0, before - len(block))
        left -= len(part)
        if len(part):
            yield part
        if left <= 0:
            return


def part_of(face: Face, first: int, stop: int) -> Face:
    """Return a face with only the windows between two frames, at ``hparams.fps``."""
    kept = (face.starts >= first) & (face.starts + hp.syncnet_T <= stop)
    return replace(face, starts=face.starts[kept], vectors=face.vectors[kept])


def usual_offset(curves: np.ndarray, seen: np.ndarray) -> int:
    """Return by how many frames the sound is late overall, from the best faces of all shots; 0 unless it is certain.

    ``curves`` is (shots, faces, 2·MAX_OFFSET + 1), ``seen`` (shots, faces) numbers of frames.
    """
    weights = seen.max(1)[:, None]
    best = np.where(np.isnan(curves), -np.inf, curves).max(1)
    known = np.isfinite(best)
    pooled = np.where(known, best, 0) * weights
    with np.errstate(invalid="ignore", divide="ignore"):
        curve = pooled.sum(0) / (known * weights).sum(0)
    together = Result(hp.fps, 0, np.empty(0, int), np.empty(0), curve, 0)
    return together.offset_frames if together.confidence >= MIN_CONFIDENCE else 0


# --------------------------------------------------------------------------------------------------------------------
# By a picture


class Lookalike:
    """Criterion for the face that looks like the largest one in a picture.

    Raises UserError if the picture shows no face.
    """

    DESCRIPTION, THRESHOLD = "who is in the picture", SAME_PERSON

    def __init__(
        self,
        source: video.VideoInfo,
        picture: Path,
        identity: Identity,
        search: FaceSearch,
        report: Reporter = SILENT,
    ) -> None:
        self.source, self.picture, self.identity, self.report = source, picture, identity, report
        example = video.probe(picture)
        (box,) = follow_face(search.find(example, 1, report), 0)[:1]
        if np.isnan(box).any():
            raise UserError(f"--face_like {picture} shows no face; give a picture that shows it from the front")
        self.wanted = identity(face_of_sface(next(video.read_frames(example, 0, 1)), box, example.pixel_aspect))

    def scores(self, everybody: FacesByShot) -> np.ndarray:
        found: list[list[list[float]]] = [[[] for _ in everybody.faces] for _ in everybody.shots]
        sampled = sampled_frames(everybody)
        frames = video.read_frames(self.source, 0, max(sampled) + 1)
        for i, frame in enumerate(self.report.track(frames, "Comparing faces", max(sampled) + 1)):
            for shot, face in sampled.get(i, ()):
                crop = face_of_sface(frame, everybody.faces[face][i], self.source.pixel_aspect)
                found[shot][face].append(cosine_similarity(self.wanted, self.identity(crop)))
        return np.array([[np.mean(values) if values else np.nan for values in row] for row in found])

    def no_match_message(self, best: float) -> str:
        return (
            f"--face_like {self.picture}: nobody in {self.source.path} looks like that (the best similarity is "
            f"{max(best, -1):.2f}, below {SAME_PERSON}); give another picture, or choose with --face_index"
        )


def sampled_frames(everybody: FacesByShot) -> dict[int, list[tuple[int, int]]]:
    """Return, by frame, the (shot, face) pairs to embed: ``SAMPLES_PER_FACE`` evenly spaced frames of each, at most."""
    sampled: dict[int, list[tuple[int, int]]] = {}
    pairs = itertools.product(enumerate(everybody.shots), enumerate(everybody.faces))
    for (shot, (first, stop)), (face, boxes) in pairs:
        seen = first + np.flatnonzero(~np.isnan(boxes[first:stop, 0]))
        for i in np.unique(np.linspace(0, len(seen) - 1, SAMPLES_PER_FACE).round().astype(int)) if len(seen) else ():
            sampled.setdefault(int(seen[i]), []).append((shot, face))
    return sampled
