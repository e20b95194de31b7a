"""Compare every face of a video with every voice: who is speaking."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import files
from errors import UserError
from faces import FaceSearch
from reporting import SILENT, Reporter
from video import VideoInfo

from .embedding import (
    Expert,
    Face,
    Voice,
    check_moving,
    embed_faces,
    embed_speech,
    find_tracks,
    open_video,
    window_length,
)
from .matching import Result, compare


class SimilarityMatrix:
    """The results of every face with every voice: ``results[face][voice]``. Each face must be visible in some frame.

    Raises UserError if no face and voice ever occur together.
    """

    def __init__(self, names: Sequence[str], faces: Sequence[Face], voices: Sequence[Voice]) -> None:
        self.names, self.faces, self.voices = names, faces, voices
        self.results = [[compare(face, voice) for voice in voices] for face in faces]
        if not any(len(result.similarity) for row in self.results for result in row):
            raise UserError(f"face and voice never occur together; a match needs {window_length()} of both")

    @property
    def means(self) -> np.ndarray:
        """(faces, voices) mean similarity, NaN if they never occur together."""
        return np.array([[result.mean for result in row] for row in self.results])

    def best_face(self, voice: int) -> int:
        """Return the face that ``voice`` matches best, at whatever offset."""
        return _best([row[voice] for row in self.results])

    def best_voice(self, face: int) -> int:
        """Return the voice that ``face`` matches best."""
        return _best(self.results[face])

    def best(self, voice: int) -> Result:
        return self.results[self.best_face(voice)][voice]

    def __str__(self) -> str:
        if len(self.faces) == len(self.voices) == 1:
            return str(self.results[0][0])
        means = self.means
        lines = ["mean similarity      " + "".join(f"{f'voice {v + 1}':>10}" for v in range(len(self.voices)))]
        for face, row in enumerate(means):
            x1, y1, x2, y2 = np.nanmedian(self.faces[face].boxes, axis=0)
            where = f"face {face + 1} at {(x1 + x2) / 2:.0f},{(y1 + y2) / 2:.0f}"
            lines.append(f"{where:21}" + "".join(f"{value:10.3f}" for value in row))
        for voice, name in enumerate(self.names):
            best, its = self.best(voice), f"face {self.best_face(voice) + 1}"
            lines += [f"voice {voice + 1} ({name}): {its if best.related else f'{its} is nearest'}", str(best)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the first voice with its best face, and of every pair if there are several."""
        content = self.best(0).to_json()
        if len(self.faces) == len(self.voices) == 1:
            return content
        visible = [np.flatnonzero(~np.isnan(face.boxes[:, 0])) for face in self.faces]  # frames
        tracks = [
            {"first_frame": int(shown[0]), "last_frame": int(shown[-1]), "frames": len(shown),
             "box": [round(float(v), 1) for v in np.nanmedian(face.boxes, axis=0)]}
            for face, shown in zip(self.faces, visible)
        ]  # fmt: skip
        voices = [
            {"file": name, "best_track": self.best_face(voice), **self.best(voice).to_json()}
            for voice, name in enumerate(self.names)
        ]
        matrix = [[None if math.isnan(value) else float(value) for value in row] for row in self.means]
        return {**content, "tracks": tracks, "voices": voices, "matrix": matrix, "pairs": self._pairs()}

    def _pairs(self) -> list[dict[str, Any]]:
        """Return the figures of every face with every voice, both counted from 1, as in the text and the table."""
        fields = ("mean", "verdict", "confidence", "offset_frames", "offset_ms")
        figures = ((f, v, result.to_json()) for f, row in enumerate(self.results) for v, result in enumerate(row))
        return [{"face": f + 1, "voice": v + 1, **{name: found[name] for name in fields}} for f, v, found in figures]

    def to_csv(self) -> str:
        """Return one line per window of every pair, with the time and box of the window's first frame."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("time", "similarity", "x1", "y1", "x2", "y2", "face", "voice"))
        for (f, face), (v, _) in itertools.product(enumerate(self.faces), enumerate(self.voices)):
            result = self.results[f][v]
            for start, value in zip(result.windows, result.similarity):
                box = (f"{side:.1f}" for side in face.boxes[start])
                writer.writerow((f"{start / result.fps:.3f}", f"{value:.6f}", *box, f + 1, v + 1))
        return text.getvalue()


def _best(results: Sequence[Result]) -> int:
    """Return the index of the result with the most evidence; if none has any, as in short clips, the most contrast.

    Contrast only compares at offset 0: if the sound is late, it tells nothing.
    """
    return max(range(len(results)), key=lambda i: (results[i].evidence, results[i].contrast))


@dataclass(frozen=True)
class Measurement:
    """The results of every face of a video with every voice, and where the faces are.

    Faces that are only visible between the frames of ``hparams.fps`` are left out.
    """

    source: VideoInfo
    tracks: list[np.ndarray]  # the boxes of each face in each frame, (frames, 4), NaN where it is not seen
    matrix: SimilarityMatrix


def measure(
    face: str | Path,
    sounds: str | Path | Sequence[str | Path],
    expert: Expert,
    search: FaceSearch = FaceSearch(),
    report: Reporter = SILENT,
) -> Measurement:
    """Compare every face in the video ``face`` with the voice in each of ``sounds`` (none: with the video's own).

    ``expert`` is from ``open_expert``. Raises UserError, with the reason, for files that cannot be compared.
    """
    if isinstance(expert, (str, Path)):
        raise UserError(f"open the expert first: sync.open_expert({str(expert)!r})")
    source = open_video(files.as_path(face))
    paths = files.as_paths(sounds) or [source.path]
    voices = [embed_speech(path, expert) for path in paths]
    for note in itertools.chain(source.notes, *(voice.notes for voice in voices)):
        report.note(f"note: {note}")
    tracks = find_tracks(source, max(voice.frames for voice in voices), expert, search, report)
    faces = embed_faces(source, tracks, expert, report)
    visible = [number for number, shown in enumerate(faces) if not np.isnan(shown.boxes).all()]
    matrix = SimilarityMatrix([str(path) for path in paths], [faces[number] for number in visible], voices)
    return Measurement(source, [tracks[number] for number in visible], matrix)


def score(
    face: str | Path,
    expert: Expert,
    sound: str | Path | None = None,
    search: FaceSearch = FaceSearch(),
    report: Reporter = SILENT,
) -> Result:
    """Return how well ``sound`` (None: the video's own) matches the face in ``face``, or the best of its faces.

    Arguments and errors are as in ``measure``.
    """
    return measure(face, [] if sound is None else [sound], expert, search, report).matrix.best(0)


def score_boxes(source: VideoInfo, boxes: np.ndarray, sound: Path, expert: Expert, report: Reporter = SILENT) -> Result:
    """Like ``score`` for a face whose boxes in the first frames are known: (frames, 4) x1, y1, x2, y2, NaN if none."""
    seen = embed_faces(check_moving(source), [boxes], expert, report)
    return SimilarityMatrix([str(sound)], seen, [embed_speech(sound, expert)]).best(0)
