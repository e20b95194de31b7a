"""How a lip-synced video looks beside the video that it was made from, without a network and without landmarks.

Lip-synced to its own sound, it should be that video again (psnr, ssim). Lip-synced to silence, its mouth should not
move (motion: what KeySync, Bigata et al., 2025, call leakage, in pixels instead of landmarks). Whatever it says, it
should be as sharp as it was, and nothing outside the face should change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import video
from errors import UserError, needs
from face_detection.tracking import GAP_SECONDS, follow_face
from faces import FaceSearch
from reporting import SILENT, Reporter

SIDE = 96  # pixels of a face when it is compared: what the networks draw
LEAST_FRAMES = 2
RING = 0.06  # of the box's sides: how far in from its border a seam is looked for


@dataclass(frozen=True)
class Quality:
    """One lip-synced video against its source; means over the frames that show the face."""

    file: str
    frames: int
    psnr: float  # dB, of the face; inf where it is the same
    ssim: float  # of the face, structural similarity (Wang et al., 2004)
    sharpness: float  # of the lower face: variance of the Laplacian, of the source's
    motion: float  # of the lower face: mean difference of neighbouring frames, of the source's
    flicker: float  # outside the face: by how many grey levels neighbours differ from how they differ in the source
    seam: float  # grey levels by which the border of the face's box differs from the source's


def score_file(generated: Path, source: Path, search: FaceSearch = FaceSearch(), report: Reporter = SILENT) -> Quality:
    """Compare a video with the one that it was made from, as far as both last.

    Raises UserError for files that cannot be compared: of other sizes, without a face, too short.
    """
    made, real = video.probe(generated), video.probe(source)
    if (made.width, made.height) != (real.width, real.height):
        sizes = [f"{info.width}x{info.height}" for info in (made, real)]
        raise UserError(f"{generated} is {sizes[0]} and {source} is {sizes[1]}; compare videos of one size")
    boxes = follow_face(search.find(real, report=report), round(GAP_SECONDS * real.fps))
    rows = list(_compare(video.read_frames(made), video.read_frames(real), boxes))
    if len(rows) < LEAST_FRAMES:
        raise UserError(f"{source} shows a face in {len(rows)} frames; it takes {LEAST_FRAMES}")
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    error = float(table["error"].mean())
    return Quality(
        str(generated),
        len(rows),
        psnr=float(10 * np.log10(255**2 / error)) if error else float("inf"),
        ssim=float(table["ssim"].mean()),
        sharpness=_share(table["sharp_made"], table["sharp_real"]),
        motion=_share(table["motion_made"], table["motion_real"]),
        flicker=float(np.nanmean(table["flicker"])),
        seam=float(table["seam"].mean()),
    )


def _share(made: np.ndarray, real: np.ndarray) -> float:
    """The mean of one over the mean of the other; NaN where there is nothing to compare with."""
    whole = float(np.nanmean(real))
    return float(np.nanmean(made)) / whole if whole else float("nan")


def _compare(made: Iterator[np.ndarray], real: Iterator[np.ndarray], boxes: np.ndarray) -> Iterator[dict[str, float]]:
    """Yield the figures of each frame with a face; those about neighbours are NaN where there is none before."""
    before: list[np.ndarray] | None = None
    for new, old, box in zip(made, real, boxes):
        x1, y1, x2, y2 = (0, 0, 0, 0) if np.isnan(box[0]) else np.clip(np.round(box), 0, None).astype(int)
        greys = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.float32) for frame in (new, old)]
        if greys[0][y1:y2, x1:x2].size:
            place = slice(y1, y2), slice(x1, x2)
            yield {**_likeness(greys, place), **_changes(greys, before or greys, place, before is not None)}
        before = greys


def _likeness(greys: Sequence[np.ndarray], place: tuple[slice, slice]) -> dict[str, float]:
    faces = [_face(grey, place) for grey in greys]
    sharp = [float(cv2.Laplacian(face[SIDE // 2 :], cv2.CV_32F).var()) for face in faces]
    error = float(np.square(faces[0] - faces[1]).mean())
    likeness = {"error": error, "ssim": _ssim(*faces), "sharp_made": sharp[0], "sharp_real": sharp[1]}
    return {**likeness, "seam": _seam(*(grey[place] for grey in greys))}


def _changes(
    now: Sequence[np.ndarray], before: Sequence[np.ndarray], place: tuple[slice, slice], known: bool
) -> dict[str, float]:
    """What has changed since the frame before: within one box, so that its own movement does not count."""
    if not known:
        return {"motion_made": np.nan, "motion_real": np.nan, "flicker": np.nan}
    lower = [_face(new, place)[SIDE // 2 :] - _face(old, place)[SIDE // 2 :] for new, old in zip(now, before)]
    changes = [new - old for new, old in zip(now, before)]
    outside = np.ones(now[0].shape, bool)
    outside[place] = False
    flicker = float(np.abs(changes[0] - changes[1])[outside].mean()) if outside.any() else np.nan
    made, real = (float(np.abs(change).mean()) for change in lower)
    return {"motion_made": made, "motion_real": real, "flicker": flicker}


def _face(grey: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    return cv2.resize(grey[place], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _seam(made: np.ndarray, real: np.ndarray) -> float:
    """Mean difference along the border of the box, in grey levels."""
    height, width = made.shape
    inner = np.ones((height, width), bool)
    y, x = max(1, round(RING * height)), max(1, round(RING * width))
    inner[y : height - y, x : width - x] = False
    return float(np.abs(made - real)[inner].mean())


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    with needs("eval"):
        from skimage.metrics import structural_similarity  # here: it takes a second to import

    return float(structural_similarity(a, b, data_range=255.0))
