"""The face's box in every frame, in whole pixels, or None."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence

import cv2
import numpy as np

from errors import UserError
from face_detection.detections import Detections
from face_detection.tracking import BoxSmoother, gap_of, max_simultaneous_faces, settle, shows_profiles
from face_path import Box, Piece
from video import VideoInfo

MOUTH_CENTRE = np.array([0.5, 0.76])  # centre of the mouth in a box, as fractions of its width and height


def follow(
    seen: Iterable[Detections],
    picture: VideoInfo,
    pads: Sequence[int],
    face_index: int | None = None,
    smooth: bool = True,
) -> Generator[Piece, None, None]:
    """Track one face through a detector's results: the largest, or number ``face_index`` from the left.

    ``seen`` yields the detections so far, each time that there are more. ``pads`` are pixels added to the box: top,
    bottom, left, right. Raises UserError, at the end, if there is no such face.
    """
    return place(_checked(seen, picture, face_index), picture, pads, smooth)


def _checked(
    seen: Iterable[Detections], picture: VideoInfo, face_index: int | None
) -> Iterator[tuple[np.ndarray, bool]]:
    """Yield what ``settle`` yields; at the end, raise UserError if that is no face and the reason is known."""
    found, faces, gap = Detections(), False, gap_of(picture.fps)

    def noted() -> Iterator[Detections]:
        nonlocal found
        for more in seen:
            found = more
            yield more

    for rows, shot_ends in settle(noted(), gap, face_index):
        faces = faces or not np.isnan(rows).all()
        yield rows, shot_ends
    if face_index is not None and not faces:
        check_face_index(face_index, max_simultaneous_faces(found, gap))
    if not faces and shows_profiles(found):
        raise no_face(picture, 0, len(found), in_profile=True)


def place(
    rows: Iterable[tuple[np.ndarray, bool]], picture: VideoInfo, pads: Sequence[int], smooth: bool
) -> Generator[Piece, None, None]:
    """Turn one person's detections into boxes to draw in.

    ``rows`` are pieces of them, (n, 4), NaN where there are none, each with whether a shot ends there. Raises
    UserError, at the end, if there are none at all, or the pads leave nothing of the face.
    """
    steady, faces, drawn, seen_whole, count = BoxSmoother(gap_of(picture.fps), smooth), False, False, False, 0
    for seen, shot_ends in rows:
        count += len(seen)
        followed = steady.add(seen, shot_ends)
        boxes = _placed(followed, pads, picture)
        faces, drawn = faces or not np.isnan(followed).all(), drawn or any(boxes)
        seen_whole = seen_whole or drawn or any(_placed(followed, (0, 0, 0, 0), picture))
        yield Piece(boxes, seen, shot_ends)
    if not faces:
        raise no_face(picture, 0, count)
    if not seen_whole:
        raise UserError(f"the edge of {picture.path} cuts the face off at its mouth; show more of the face")
    if not drawn:
        raise UserError("--pads {} {} {} {} leave nothing of the face; use smaller numbers".format(*pads))


def restrict(pieces: Iterable[Piece], part: slice, picture: VideoInfo) -> Generator[Piece, None, None]:
    """Yield only the boxes in ``part`` of the frames; raise UserError, at the end, if the face is in none of them."""
    passed, looked_at, drawn = 0, 0, False
    for boxes, seen, shot_ends in pieces:
        boxes_inside, seen_inside = (slice(max(0, part.start - n), max(0, part.stop - n)) for n in (passed, looked_at))
        passed, looked_at = passed + len(boxes), looked_at + len(seen)
        drawn = drawn or any(boxes[boxes_inside])
        yield Piece(boxes[boxes_inside], seen[seen_inside], shot_ends)
    if not drawn:
        raise no_face(picture, part.start, part.stop - part.start)


def fixed_box(box: Sequence[int], picture: VideoInfo) -> Box:
    """Turn top, bottom, left, right into a box; raise UserError if it is not inside the frame.

    They are pixels of the original picture, even if a large photo is shrunk.
    """
    top, bottom, left, right = box
    width, height = picture.unshrunk
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UserError(
            f"--box {top} {bottom} {left} {right} (top bottom left right) does not lie inside the "
            f"{width}x{height} frame"
        )
    across, down = picture.width / width, picture.height / height
    x1, y1 = math.floor(left * across), math.floor(top * down)
    return x1, y1, max(x1 + 1, round(right * across)), max(y1 + 1, round(bottom * down))


def check_face_index(index: int, count: int) -> None:
    """Raise UserError if there are faces, but none with this index."""
    if 0 < count <= index:
        on_view = f"{count} faces are" if count > 1 else "one face is"
        raise UserError(f"--face_index {index}, but at most {on_view} visible at a time; count from 0 at the left")


def _placed(boxes: np.ndarray, pads: Sequence[int], picture: VideoInfo) -> list[Box | None]:
    """Convert float boxes (frames, 4), NaN where missing, to whole pixels, None where the mouth is outside the picture.

    A face cut off by the picture's edge keeps its whole detected box. Clipped to the picture, the box would be taken
    for a whole face, with the mouth in the wrong place.
    """
    share = picture.width / picture.unshrunk[0]
    top, bottom, left, right = (round(share * pad) for pad in pads)  # pads are pixels of the original photo
    limits = np.array([picture.width, picture.height])
    lowest, highest = np.minimum(boxes[:, :2], 0), np.maximum(boxes[:, 2:], limits)
    padded = boxes + np.array([-left, -top, right, bottom])
    padded = np.round(np.clip(padded, np.tile(lowest, 2), np.tile(highest, 2)))  # pads do not reach beyond the picture
    usable = _show_mouths(padded, limits)
    whole = np.nan_to_num(padded).astype(int).tolist()
    return [(x1, y1, x2, y2) if ok else None for (x1, y1, x2, y2), ok in zip(whole, usable)]


def _show_mouths(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return whether the mouth in each box (n, 4) is inside a picture of these ``limits`` (width, height)."""
    corner, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    mouth = corner + MOUTH_CENTRE * size
    return ((size > 0) & (mouth >= 0) & (mouth < limits)).all(1)  # False for NaN


def cut_face(frame: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """Return the face in a box as it was detected (4,), for training and measuring; None if it shows no mouth.

    What is beyond the frame repeats its edge, as in inference: cut off there, a mouth would be in the wrong place. Kept
    quirk: neither padded nor smoothed, unlike in inference; the official weights were trained on such crops.
    """
    whole = np.floor(box)
    if not _show_mouths(whole[None], np.array(frame.shape[1::-1]))[0]:
        return None
    x1, y1, x2, y2 = whole.astype(int).tolist()
    return crop_with_border(frame, (x1, y1, x2, y2))


def within(box: Box, width: int, height: int) -> Box:
    """Return the part of a box that is inside a picture."""
    x1, y1, x2, y2 = box
    return max(0, x1), max(0, y1), min(width, x2), min(height, y2)


def crop_with_border(frame: np.ndarray, box: Box) -> np.ndarray:
    """Return a view of a frame's pixels in a box; if that reaches beyond the frame, a copy with the edge repeated."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = within(box, width, height)
    inside = frame[y1:y2, x1:x2]
    beyond = (y1 - box[1], box[3] - y2, x1 - box[0], box[2] - x2)
    return cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE) if any(beyond) else inside


def write_crop(frame: np.ndarray, box: Box, shown: np.ndarray) -> None:
    """Write a modified crop from ``crop_with_border`` back into the frame; does nothing for a view."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = inside = within(box, width, height)
    if inside != box:
        frame[y1:y2, x1:x2] = shown[y1 - box[1] : y2 - box[1], x1 - box[0] : x2 - box[0]]


def no_face(picture: VideoInfo, first: int, count: int, in_profile: bool = False) -> UserError:
    """Return the error for ``count`` frames from ``first`` on, none of which has a face that can be drawn in.

    Frames outside this range may have one.
    """
    turn = "" if picture.geometry.rotate else "--rotate if the picture lies on its side, "
    start = picture.start + first
    seconds = (float(frame / picture.fps) for frame in (start, start + count))
    where = " from {:.2f} to {:.2f} s, the part that was searched".format(*seconds)
    if picture.is_image:
        where = ""
    elif count == 1 and not start:
        where = " in its first frame, the only one used"
    if in_profile:
        return UserError(
            f"{picture.path} shows the face only in profile, or lying on its side{where}: no mouth can be drawn there; "
            f"use a part in which it faces the camera, --face_index for another face, {turn}or give --box yourself"
        )
    return UserError(
        f"no face was found in {picture.path}{where}; try another --face_detector, {turn}--crop to the face if it is "
        "tiny, or give --box yourself"
    )


def describe_missing(boxes: Sequence[Box | None], fps: float, what: str, first: int) -> str:
    """Describe which frames have no face or, unless it is "", which seconds do not show ``what``; "" if all do.

    ``first`` is the number of the first box's frame.
    """
    missing = np.array([box is None for box in boxes])
    if not missing.any():
        return ""
    edges = np.flatnonzero(np.diff(missing, prepend=False, append=False)) + first
    spans = list(zip(edges[::2], edges[1::2]))
    if what:
        runs = [f"{start / fps:.1f}-{stop / fps:.1f}" for start, stop in spans]
    else:
        runs = [f"{start}-{stop - 1}" if stop - start > 1 else f"{start}" for start, stop in spans]
    where = ", ".join(runs[:8]) + (", …" if len(runs) > 8 else "")
    count = missing.sum()
    lack = f"do not show {what}: seconds" if what else "have no face, or one in profile:"
    return f"{count} of {len(boxes)} frames ({count / fps:.1f} s) {lack} {where}"
