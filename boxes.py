"""Where the face is in every frame: one box each, in whole pixels, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from errors import UserError
from face_detection.detections import Detections
from face_detection.tracking import GAP_SECONDS, follow_face, most_together
from video import VideoInfo

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels

NO_FACE = (
    "no face was found in any frame; try another --face_detector, --rotate if the picture lies on its side, "
    "--crop to the face if it is tiny, or give --box yourself"
)


@dataclass(frozen=True)
class FacePath:
    """One face, frame by frame."""

    boxes: list[Box | None]  # padded and smooth, to draw in; None where there is no face
    seen: np.ndarray  # (frames, 4) float: where it was seen, NaN where not; neither padded, smoothed nor filled in

    def part(self, first: int, count: int) -> FacePath:
        """Return it in some of the frames; raise UserError if it is in none of them."""
        some = slice(first, first + count)
        if not any(self.boxes[some]):
            raise UserError(NO_FACE)
        return FacePath(self.boxes[some], self.seen[some])


def follow(
    found: Detections, picture: VideoInfo, pads: Sequence[int], face_index: int | None = None, smooth: bool = True
) -> FacePath:
    """Follow one face through what a detector saw: the largest, or the one that is ``face_index``-th from the left.

    ``pads`` are pixels added to the box: top, bottom, left, right. Raises UserError if there is no such face.
    """
    gap = round(GAP_SECONDS * picture.fps)
    followed = follow_face(found, gap, face_index, smooth)
    if face_index is not None and np.isnan(followed).all():
        check_face_index(face_index, most_together(found, gap))
    return FacePath(
        padded_boxes(followed, pads, picture), follow_face(found, gap, face_index, smooth=False, fill=False)
    )


def fixed_box(box: Sequence[int], picture: VideoInfo) -> Box:
    """Turn top, bottom, left, right into a box; raise UserError if it does not lie inside the frame."""
    top, bottom, left, right = box
    if not (0 <= top < bottom <= picture.height and 0 <= left < right <= picture.width):
        raise UserError(
            f"--box {top} {bottom} {left} {right} (top bottom left right) does not lie inside the "
            f"{picture.width}x{picture.height} frame"
        )
    return left, top, right, bottom


def check_face_index(index: int, count: int) -> None:
    """Raise ValueError if there are faces, but not so many."""
    if 0 < count <= index:
        on_view = f"{count} faces are" if count > 1 else "one face is"
        raise UserError(f"--face_index {index}, but {on_view} on view at most, counted from 0 at the left")


def padded_boxes(boxes: np.ndarray, pads: Sequence[int], picture: VideoInfo) -> list[Box | None]:
    """(frames, 4) float boxes, NaN where missing -> whole pixels inside the picture, None where nothing is left.

    Raises UserError when no frame has a face, or the pads leave none.
    """
    if np.isnan(boxes).all():
        raise UserError(NO_FACE)
    top, bottom, left, right = pads
    padded = boxes + np.array([-left, -top, right, bottom])
    limits = np.array([picture.width, picture.height] * 2)
    padded = np.clip(np.round(padded), 0, limits)
    usable = (padded[:, 2] > padded[:, 0]) & (padded[:, 3] > padded[:, 1])  # False for NaN
    if not usable.any():
        raise UserError(f"--pads {top} {bottom} {left} {right} leave nothing of the face; use smaller numbers")
    whole = np.nan_to_num(padded).astype(int).tolist()
    return [(x1, y1, x2, y2) if ok else None for (x1, y1, x2, y2), ok in zip(whole, usable)]


def describe_missing(boxes: Sequence[Box | None], fps: float, first: int = 0) -> str:
    """Say which frames, counted from ``first``, have no face; "" if all have one."""
    missing = np.array([box is None for box in boxes])
    if not missing.any():
        return ""
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False)) + first
    runs = [f"{start}-{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in zip(edges[::2], edges[1::2])]
    where = ", ".join(runs[:8]) + (", …" if len(runs) > 8 else "")
    count = missing.sum()
    return f"{count} of {len(boxes)} frames ({count / fps:.1f} s) have no face: {where}"
