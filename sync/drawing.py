"""Similarities as pictures: curves over time and offsets, and boxes on the video."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import files
import video
from errors import needs
from hparams import hparams as hp
from reporting import SILENT, Reporter

from .embedding import MAX_OFFSET
from .matching import Result
from .matrix import Measurement, SimilarityMatrix

ENVELOPE_RATE = 50  # values a second of a drawn waveform
SHOWN_SECONDS = 1.0  # single windows vary a lot, so their mean over this time is drawn
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


def smoothed(result: Result, frames: int) -> np.ndarray:
    """Return the similarity around each of ``frames`` frames, (frames,), NaN where no window is near."""
    middle = result.windows + hp.syncnet_T // 2
    inside = middle < frames
    total = np.bincount(middle[inside], result.similarity[inside], minlength=frames)
    count = np.bincount(middle[inside], minlength=frames).astype(float)
    box = np.ones(min(frames, round(SHOWN_SECONDS * hp.fps) | 1))
    near = np.convolve(count, box, "same")
    return np.divide(np.convolve(total, box, "same"), near, out=np.full(frames, np.nan), where=near > 0.5)


def draw(path: Path, matrix: SimilarityMatrix, sounds: Sequence[Path]) -> None:
    """Draw the waveform of every voice (``sounds``), the similarity of each face, and the offset curves."""
    with needs("eval"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    many = len(matrix.faces) * len(matrix.voices) > 1
    figure = Figure(figsize=(12, 3.2 * (len(sounds) + many)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(sounds) + many, 1, squeeze=False)[:, 0]
    if many:
        _draw_matrix(parts[0], matrix)
    for voice, (part, sound) in enumerate(zip(parts[many:], sounds)):
        _draw_voice(part, matrix, voice, sound)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format=path.suffix[1:].lower())
    files.save(path, drawn.getvalue())


def envelope(sound: Path) -> np.ndarray:
    """Return the largest amplitude in every 1 / ``ENVELOPE_RATE`` seconds of a file."""
    step = hp.sample_rate // ENVELOPE_RATE
    blocks = video.Sound(sound, hp.sample_rate)
    return np.concatenate([np.maximum.reduceat(np.abs(block), range(0, len(block), step)) for block in blocks])


def _draw_matrix(part: Any, matrix: SimilarityMatrix) -> None:
    """Draw thumbnails of the faces and how well each matches each voice."""
    axes = part.subplots(1, len(matrix.faces), squeeze=False)[0]
    for face, (axis, shown) in enumerate(zip(axes, matrix.faces)):
        if shown.thumbnail is not None:
            axis.imshow(shown.thumbnail[..., ::-1])
        for spine in axis.spines.values():
            spine.set(color=COLOURS[face % len(COLOURS)], linewidth=4)
        lines = [f"voice {v + 1}: {value:.2f}" for v, value in enumerate(matrix.means[face])]
        best = [str(v + 1) for v in range(len(matrix.voices)) if matrix.best_face(v) == face]
        title = f"face {face + 1}" + (f", best for voice {', '.join(best)}" if best else "")
        axis.set(title=title, xlabel="\n".join(lines), xticks=[], yticks=[])


def _draw_voice(part: Any, matrix: SimilarityMatrix, voice: int, sound: Path) -> None:
    time, curve = part.subplots(1, 2, width_ratios=(3, 1))
    loud = envelope(sound)
    loud /= max(1e-9, float(loud.max()))
    seconds = (np.arange(len(loud)) + 0.5) / ENVELOPE_RATE
    time.fill_between(seconds, 0.5 - loud / 2, 0.5 + loud / 2, color="0.88", linewidth=0, label="waveform")
    for face, row in enumerate(matrix.results):
        result, colour = row[voice], COLOURS[face % len(COLOURS)]
        time.plot(result.windows / result.fps, result.similarity, ".", color=colour, markersize=2, alpha=0.4)
        values = smoothed(result, result.frames)
        time.plot(np.arange(len(values)) / result.fps, values, color=colour, label=f"face {face + 1}")
        curve.plot(range(-MAX_OFFSET, MAX_OFFSET + 1), result.curve, color=colour)
    best = matrix.best(voice)
    curve.axvline(best.offset_frames, color="0.6", linestyle=":")
    time.set(ylim=(0, 1), xlabel="seconds", ylabel="cosine similarity")
    time.set_title(f"{Path(matrix.names[voice]).name.replace('$', chr(92) + '$')}: {best.verdict}", fontsize=10)
    time.legend(loc="lower right", fontsize=8)
    curve.set(ylim=(0, 1), xlabel="sound late by … frames", title=f"confidence {best.confidence:.2f}")


def write_overlay(path: Path, measured: Measurement, sound: Path, report: Reporter = SILENT) -> None:
    """Write the video with a box around every face, from red (similarity 0) to green (1) with its best voice."""
    source, tracks, matrix = measured.source, measured.tracks, measured.matrix
    voices = [matrix.best_voice(face) for face in range(len(matrix.faces))]
    values = [smoothed(matrix.results[face][voice], len(matrix.faces[face].boxes)) for face, voice in enumerate(voices)]
    frames = video.read_frames(source, 0, len(tracks[0]))
    with video.VideoWriter(path, source, sound, len(tracks[0])) as writer:
        for i, frame in enumerate(report.track(frames, "Drawing boxes", len(tracks[0]))):
            at_rate = min(math.floor(i * hp.fps / source.fps + 0.5), len(values[0]) - 1)
            for boxes, similarity, voice in zip(tracks, values, voices):
                if not np.isnan(boxes[i, 0]):
                    label = f"{similarity[at_rate]:.2f}" + (f" voice {voice + 1}" if len(matrix.voices) > 1 else "")
                    _draw_box(frame, boxes[i], similarity[at_rate], label)
            writer.write(frame)


def _draw_box(frame: np.ndarray, box: np.ndarray, similarity: float, label: str) -> None:
    """Draw a box in place, grey if the similarity is not known."""
    known = not math.isnan(similarity)
    share = min(1.0, max(0.0, similarity)) if known else 0.0
    colour = (0, round(255 * min(1, 2 * share)), round(255 * min(1, 2 - 2 * share))) if known else (160, 160, 160)
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    thick = max(1, min(frame.shape[:2]) // 180)
    cv2.rectangle(frame, (x1, y1), (x2, y2), colour, thick)
    size = max(0.4, min(frame.shape[:2]) / 720)
    cv2.putText(frame, label if known else "?", (x1, max(12, y1 - 6)), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thick)
