"""Comparison of a lip-synced video with its source, frame by frame.

Lip-synced to its own sound, it should equal the source (psnr, ssim, lpips, lmd). Lip-synced to silence, its mouth
should not move (motion, leak). With any speech, it should be as sharp as the source and show the same person (csim).
Nothing should change outside the mouth (flicker, upper_flicker) or show where the mouth was blended in (seam, jitter).
Figures that need a network are measured only if ``Judges`` has it. docs/measuring.md gives the origin of each figure.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

import pictures
import video
from boxes import follow, within
from errors import UserError, needs
from evaluation import lips
from evaluation.judges import Judges, face_of_fan
from face_detection.tracking import follow_face, gap_of, shots
from face_path import Box
from faces import FaceSearch
from identities import cosine_similarity, face_of_sface
from reporting import SILENT, Reporter

SIDE = 96  # pixels of a face when it is compared: the size that the networks generate
MIN_FRAMES = 2
PATCH = 0.06  # of the box's height: side of the patches inside and outside its border whose step is the seam
CHANGES = ("motion_made", "motion_real", "flicker", "upper_flicker")  # figures that need the frame before


@dataclass(frozen=True)
class Quality:
    """One lip-synced video against its source; means over the frames that show the face. None: there was no judge."""

    file: str
    source: str
    frames: int
    psnr: float  # dB, of the face; inf if it is the same
    ssim: float  # of the face, structural similarity (Wang et al., 2004)
    sharpness: float  # of the lower face: variance of the Laplacian, relative to the source
    motion: float  # of the lower face: mean square of the difference of neighbouring frames, relative to the source
    flicker: float  # outside the face: grey levels by which changes between frames differ from those in the source
    upper_flicker: float  # the same, in the upper half of the face
    seam: float  # grey levels of the step across the border of the drawn box that the source does not have
    jitter: float  # grey levels by which that step changes from one frame to the next
    lmd: float | None = None  # distance between the mouth's landmarks and the source's, in eye distances
    leak: float | None = None  # share of frames with open lips, see ``lips.leak``; for videos lip-synced to silence
    lip_motion: float | None = None  # movement of the lips' landmarks, relative to the source
    lpips: float | None = None  # perceptual distance of the faces
    csim: float | None = None  # cosine between the identity embeddings of the faces


def score_file(
    generated: str | Path,
    source: str | Path,
    search: FaceSearch = FaceSearch(),
    report: Reporter = SILENT,
    judges: Judges = Judges(),
    pads: Sequence[int] = (0, 0, 0, 0),
    drawn: Sequence[Box | None] | None = None,
    face_index: int | None = None,
) -> Quality:
    """Compare a video with its source, up to the end of the shorter; ``pads`` are those it was made with.

    The face is the one of ``face_index`` (see ``lipsync.Options``) in the part of the source that was used.
    ``drawn``, one box per frame, is where the mouths were drawn, if that is not the face with these pads. Seam and
    jitter are measured there; all other figures stay comparable. Raises UserError for files that cannot be compared:
    of different sizes, without a face, or too short.
    """
    made = video.probe(generated)
    if made.is_image:
        raise UserError(f"{generated} is a picture; give the video that was made")
    real = replace(video.probe(source), fps=made.fps)  # as ``lipsync.open_face`` reads it at another frame rate
    if (made.width, made.height) != (_even(real.width), _even(real.height)):
        sizes = [f"{info.width}x{info.height}" for info in (made, real)]
        raise UserError(f"{generated} is {sizes[0]} and {source} is {sizes[1]}; compare videos of the same size")
    # in later frames, another face might be the largest
    used = len(drawn) if drawn else sum(1 for _ in video.read_frames(made))
    found, gap = search.find(real, used, report), gap_of(real.fps)  # for a photo, a single frame
    pieces = follow([found], real, pads, face_index)
    faces = [box and within(box, real.width, real.height) for piece in pieces for box in piece.boxes]
    seen, originals = follow_face(found, gap, face_index), video.read_frames(real)
    if real.is_image:
        seen, faces, originals = seen.repeat(used, 0), faces * used, itertools.cycle(originals)
    frames = (frame[: real.height, : real.width] for frame in video.read_frames(made))
    cuts = {first for first, _ in shots(found)}
    compared = _compare(frames, originals, faces, drawn or faces, seen, judges, cuts, real.pixel_aspect)
    rows = [figures for figures in report.track(compared, made.path.name, len(faces)) if figures]
    if len(rows) < MIN_FRAMES:
        raise UserError(f"{source} shows a face in too few frames to compare: {len(rows)} of at least {MIN_FRAMES}")
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Quality(str(generated), str(source), len(rows), **_of_pixels(table), **_of_judges(table))


def _even(side: int) -> int:
    """Return a side as video files store it: odd sides are padded by a pixel."""
    return side + side % 2


def _of_pixels(table: dict[str, np.ndarray]) -> dict[str, float]:
    error = float(table["error"].mean())
    means = {name: finite_mean(table[name]) for name in ("ssim", "flicker", "upper_flicker", "seam", "jitter")}
    shares = {name: _share(table[f"{name}_made"], table[f"{name}_real"]) for name in ("sharpness", "motion")}
    return {"psnr": float(10 * np.log10(255**2 / error)) if error else float("inf"), **shares, **means}


def _of_judges(table: dict[str, np.ndarray]) -> dict[str, float]:
    figures: dict[str, float] = {name: float(table[name].mean()) for name in ("lpips", "csim") if name in table}
    if "landmarks_made" in table:
        made, real = table["landmarks_made"], table["landmarks_real"]
        known = ~np.isnan(made + real).any((1, 2))  # landmarks may be NaN where none are found
        if not known.any():
            raise UserError("no landmarks were found in any frame")
        made, real = made[known], real[known]
        apart = lips.aspect(made), lips.aspect(real)
        figures |= {
            "lmd": lips.landmark_distance(made, real),
            "leak": lips.leak(*apart),
            "lip_motion": lips.movement(*apart),
        }
    return figures


def _share(made: np.ndarray, real: np.ndarray) -> float:
    """Return the mean of ``made`` over the mean of ``real``; NaN if the latter is 0."""
    whole = finite_mean(real)
    return finite_mean(made) / whole if whole else float("nan")


def mean_figures(found: Sequence[Quality], names: Iterable[str]) -> dict[str, float]:
    """Return the mean of each of the figures in ``names`` that was measured, over the videos with a finite value."""
    measured = {name: [getattr(one, name) for one in found] for name in names}
    return {name: finite_mean(values) for name, values in measured.items() if values and None not in values}


def finite_mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _compare(
    made: Iterator[np.ndarray],
    real: Iterator[np.ndarray],
    faces: Sequence[Box | None],
    drawn: Sequence[Box | None],
    seen: np.ndarray,
    judges: Judges,
    cuts: Collection[int] = (),
    pixel_aspect: float = 1.0,
) -> Iterator[dict]:
    """Yield the figures of each frame, an empty dict without a face.

    Figures that need the frame before are NaN if there is none, also at ``cuts``, the first frames of shots. ``faces``
    are the boxes to compare, ``drawn`` those where mouths were drawn, ``seen`` (frames, 4) the unpadded faces.
    """
    before: list[np.ndarray] | None = None
    for number, (new, old, face, box, unpadded) in enumerate(zip(made, real, faces, drawn, seen)):
        if number in cuts:
            before = None
        greys = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.float32) for frame in (new, old)]
        if face is None or box is None:
            yield {}
        else:
            place, border = _place(face), _place(box)
            steps = _steps(greys, before, border)
            changes = _changes(greys, before, place) if before else dict.fromkeys(CHANGES, np.nan)
            judged = _judge(judges, (new, old), unpadded, place, pixel_aspect)
            yield {**_likeness(greys, place), **changes, **steps, **judged}
        before = greys


def _place(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a box, which may extend beyond the picture."""
    x1, y1, x2, y2 = box
    return slice(max(0, y1), y2), slice(max(0, x1), x2)


def _likeness(greys: Sequence[np.ndarray], place: tuple[slice, slice]) -> dict[str, float]:
    faces = [_face(grey, place) for grey in greys]
    sharp = [float(cv2.Laplacian(face[SIDE // 2 :], cv2.CV_32F).var()) for face in faces]
    error = float(np.square(faces[0] - faces[1]).mean())
    return {"error": error, "ssim": _ssim(*faces), "sharpness_made": sharp[0], "sharpness_real": sharp[1]}


def _steps(
    now: Sequence[np.ndarray], before: Sequence[np.ndarray] | None, border: tuple[slice, slice]
) -> dict[str, float]:
    """Return how visible the border of the drawn box is, and how that changes."""
    new = now[0] - now[1]
    return {"seam": _step(new, border), "jitter": _step(new - (before[0] - before[1]), border) if before else np.nan}


def _changes(now: Sequence[np.ndarray], before: Sequence[np.ndarray], place: tuple[slice, slice]) -> dict[str, float]:
    """Return the changes since the frame before, within one fixed box so that the box's movement does not count."""
    lower = [_face(new, place)[SIDE // 2 :] - _face(old, place)[SIDE // 2 :] for new, old in zip(now, before)]
    motion = [float(np.square(change).mean()) for change in lower]  # energy: grain counts little against lips
    unlike = (now[0] - before[0]) - (now[1] - before[1])  # change that the source does not have
    rows, columns = place
    outside = np.ones(unlike.shape, bool)
    outside[place] = False
    flicker = np.abs(unlike[outside]).mean() if outside.any() else np.nan
    upper = np.abs(unlike[rows.start : (rows.start + rows.stop + 1) // 2, columns]).mean()
    return dict(zip(CHANGES, (*motion, float(flicker), float(upper))))


def _judge(
    judges: Judges, frames: Sequence[np.ndarray], face: np.ndarray, place: tuple[slice, slice], aspect: float
) -> dict:
    figures: dict[str, float | np.ndarray] = {}
    if judges.landmarks:
        made, real = (judges.landmarks(face_of_fan(frame, face)) for frame in frames)
        figures |= {"landmarks_made": made, "landmarks_real": real}
    if judges.lpips:
        figures["lpips"] = judges.lpips(*(frame[place] for frame in frames))
    if judges.identity:
        crops = (face_of_sface(frame, face, aspect) for frame in frames)
        figures["csim"] = cosine_similarity(*map(judges.identity, crops))
    return figures


def _face(grey: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    return pictures.resized(grey[place], SIDE)


def _step(difference: np.ndarray, place: tuple[slice, slice]) -> float:
    """Return the mean step across the border of a box, between patches just inside and outside, which average grain.

    Sides at the edge of the picture have no outside and do not count; NaN if there are no others.
    """
    rows, columns = place
    half = max(1, round(PATCH * (rows.stop - rows.start) / 2))
    patches = cv2.blur(difference, (2 * half + 1, 2 * half + 1))
    steps = [np.empty(0)]
    for grid, across, along in ((patches, rows, columns), (patches.T, columns, rows)):
        for inside, outside in (
            (across.start + half, across.start - half - 1),
            (across.stop - half - 1, across.stop + half),
        ):
            if 0 <= outside < len(grid):
                steps.append(np.abs(grid[inside] - grid[outside])[along.start + half : along.stop - half])
    found = np.concatenate(steps)
    return float(found.mean()) if found.size else float("nan")


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    with needs("eval"):
        from skimage.metrics import structural_similarity  # imported here because it takes a second

    return float(structural_similarity(a, b, data_range=255.0))
