"""Measure whether objects in front of a mouth are kept: hands, fingers, microphones and captions drawn over videos.

    python -m benchmarks.occlusion --videos CLIPS --folder results/occlusion

Each object is drawn over each of the CLIPS, from 0.3 to 0.8 of its length. The clip is encoded, and lip-synced to the
sound of the previous one with --occlusion keep and ignore. Prints as tables and JSON lines:

keep            share of the object's pixels, in the lower half of the face, within 8 grey levels of the filmed ones
ignore          the same with --occlusion ignore
flicker_keep    grey levels by which the object's change from frame to frame differs from the filmed one
flicker_ignore  the same with --occlusion ignore
away            share of pixels of the lower half in which keep differs from ignore while the object is not there; for
                the clip without objects (clean), in all frames: what is wrongly taken for an object

and writes a contact sheet for each object into --folder: filmed, ignore, keep.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

import cli
import files
import video
from benchmarks import print_machine, report, write_video
from benchmarks.demo_networks import SEARCH
from errors import UserError
from face_path import Box
from footage import find_videos
from lipsync import LipSync, open_face
from lipsync import Options as LipSyncOptions
from models import weights

SECONDS = 3.0  # of each clip
FIRST, LAST, TRANSITION = 0.3, 0.8, 0.12  # of its length: an object appears, is gone, and takes to move in or out
KEPT_DIFFERENCE, WRONG_DIFFERENCE = 8, 4  # grey levels
TILE, COLUMNS = (120, 140), 10  # of the contact sheets
# each object's first offset and its final place: shares of the box's height, from the middle (x) and top (y) of the box
PLACES = {
    "hand": ((1.0, 0.1), (0.0, 0.76)),
    "finger": ((0.1, 0.8), (0.0, 0.7)),
    "microphone": ((0.1, 0.75), (0.03, 0.8)),
    "caption": ((0.0, 0.0), (0.0, 0.78)),
}


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure whether objects in front of mouths are kept.")
    parser.add_argument(
        "--videos", required=True, type=Path, nargs="+", help="Videos of people who speak, or folders with them."
    )
    parser.add_argument("--checkpoint_path", default=weights.DEMO, help="The generator to measure.")
    parser.add_argument(
        "--folder", type=Path, default=Path("results/occlusion"), help="Put videos and sheets into this folder."
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    clips = find_videos(args.videos)
    if len(clips) < 2:
        raise UserError(f"{len(clips)} videos; give at least two, as each is lip-synced to the sound of another")
    print_machine(torch.device("cpu"), torch.float32)
    lips = LipSync(args.checkpoint_path, search=SEARCH, device="cpu")
    for kind in (None, *PLACES):
        measured = [measure(lips, clip, clips[i - 1], kind, args.folder) for i, clip in enumerate(clips)]
        figures = [one for one, _ in measured]
        for clip, figure in zip(clips, figures):
            report(f"{clip.stem} {kind or 'clean'}", figure)
        report(kind or "clean", {name: float(np.mean([one[name] for one in figures])) for name in figures[0]})
        sheet = np.concatenate([rows for _, rows in measured])
        files.save(args.folder / f"{kind or 'clean'}.png", cv2.imencode(".png", sheet)[1].tobytes())


def measure(
    lips: LipSync, clip: Path, speech: Path, kind: str | None, folder: Path
) -> tuple[dict[str, float], np.ndarray]:
    """Return the figures of one clip with one object in front of it (None: nothing), and its rows of the sheet."""
    path, shares, boxes = write_occluded(lips, clip, kind, folder)
    made = {}
    for way in ("keep", "ignore"):
        take = lips.prepare(path, speech, occlusion=way)
        with contextlib.closing(lips.stream(take)) as frames:
            made[way] = list(itertools.islice(frames, len(shares)))
    filmed = list(itertools.islice(take.frames(), len(shares)))
    rows = list(zip(filmed, made["ignore"], made["keep"], shares, boxes))
    away = [wrong_share(ignore, keep, box) for _, ignore, keep, share, box in rows if share.max() == 0]
    figures = {"away": float(np.mean(away))}
    if kind:
        figures |= {name: kept(filmed, frames, shares, boxes) for name, frames in made.items()}
        figures |= {f"flicker_{name}": flicker(filmed, frames, shares, boxes) for name, frames in made.items()}
    shown = [rows[i] for i in (np.linspace(0.25, 0.85, COLUMNS) * (len(rows) - 1)).astype(int)]
    return figures, np.concatenate([np.concatenate([tile(row[:3][k], row[4]) for row in shown], 1) for k in range(3)])


# --------------------------------------------------------------------------------------------------------------------
# Figures


def lower(box: Box) -> tuple[slice, slice]:
    x1, y1, x2, y2 = box
    return slice((y1 + y2) // 2, y2), slice(x1, x2)


def kept(filmed: Sequence, made: Sequence, shares: Sequence, boxes: Sequence[Box]) -> float:
    alike, count = 0, 0
    for old, new, share, box in zip(filmed, made, shares, boxes):
        thing = share[lower(box)] > 0.9
        apart = cv2.absdiff(old, new)[lower(box)].max(-1)
        alike, count = alike + int((apart[thing] <= KEPT_DIFFERENCE).sum()), count + int(thing.sum())
    return alike / max(count, 1)


def flicker(filmed: Sequence, made: Sequence, shares: Sequence, boxes: Sequence[Box]) -> float:
    changes = []
    for i in range(1, len(made)):
        place = lower(boxes[i])
        thing = np.minimum(shares[i - 1], shares[i])[place] > 0.9
        now, before = (made[k][place].astype(np.float32) - filmed[k][place] for k in (i, i - 1))
        changes.append(np.abs(now - before)[thing].ravel())
    return float(np.concatenate(changes).mean())


def wrong_share(ignore: np.ndarray, keep: np.ndarray, box: Box) -> float:
    return float((cv2.absdiff(ignore, keep)[lower(box)].max(-1) > WRONG_DIFFERENCE).mean())


# --------------------------------------------------------------------------------------------------------------------
# Objects


def write_occluded(
    lips: LipSync, clip: Path, kind: str | None, folder: Path
) -> tuple[Path, list[np.ndarray], list[Box]]:
    """Write a clip with an object in front of it; return the file, the object's share of each pixel, and the boxes."""
    source = open_face(clip, LipSyncOptions())
    frames = list(video.read_frames(source, 0, round(SECONDS * source.fps)))
    face = lips.find_face(source, len(frames), lips.resolve(LipSyncOptions()))
    boxes = [box for box in face.path.boxes[: len(frames)] if box]
    if len(boxes) < len(frames):
        raise UserError(f"{clip} does not show a face in every frame; leave it out")
    shares = [np.zeros((source.height, source.width), np.float32)] * len(frames)
    if kind:
        x1, y1, x2, y2 = boxes[0]
        skin = np.median(frames[0][y1 + (y2 - y1) // 2 : y1 + (y2 - y1) * 3 // 5, x1:x2].reshape(-1, 3), axis=0)
        for i, (frame, box) in enumerate(zip(frames, boxes)):
            frames[i], shares[i] = cover(frame, box, kind, i / len(frames), skin)
    path = folder / "filmed" / f"{clip.stem}_{kind or 'clean'}.mp4"
    write_video(path, replace(source, path=path), clip, frames)
    return path, shares, boxes


def cover(frame: np.ndarray, box: Box, kind: str, time: float, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame with an object in front of its face at ``time``, 0 to 1, and the object's share of each pixel."""
    share = np.zeros(frame.shape[:2], np.float32)
    if not FIRST < time < LAST:
        return frame, share
    x1, y1, x2, y2 = box
    side, start = y2 - y1, np.array([(x1 + x2) / 2, y1])
    come = min(1.0, (time - FIRST) / TRANSITION, (LAST - time) / TRANSITION)
    (far, near), sway = PLACES[kind], 0.03 * np.sin([40 * time, 30 * time]) * (kind != "caption")
    middle = start + side * (np.array(near) + np.array(far) * (1 - come) ** 2 + sway)
    mask, colour = DRAWN[kind](frame.shape[:2], middle, side, skin)
    share = cv2.GaussianBlur(mask, (0, 0), max(0.5, side / 200)).astype(np.float32) / 255
    return cv2.convertScaleAbs(frame * (1 - share[..., None]) + colour * share[..., None]), share


def draw_lines(size: tuple[int, int], ends: Sequence[tuple[np.ndarray, np.ndarray]], width: float) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for ends_of_one in ends:
        start, end = (np.round(16 * point).astype(int).tolist() for point in ends_of_one)
        cv2.line(mask, start, end, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return mask


def fingers(
    size: tuple[int, int], ends: Sequence[tuple[np.ndarray, np.ndarray]], width: float, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return lines in the colour of skin, darker at their edges."""
    masks = [draw_lines(size, [one], width) for one in ends]
    depth = np.max([cv2.distanceTransform(mask // 128, cv2.DIST_L2, 3) for mask in masks], axis=0) / (width / 2)
    return np.max(masks, axis=0), skin * (0.7 + 0.35 * np.clip(depth, 0, 1))[..., None]


def hand(size: tuple[int, int], middle: np.ndarray, side: float, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw four fingers from the right."""
    rows = [(i - 1.5) * 0.12 for i in range(4)]
    ends = [(middle + side * np.array([-0.28, y]), middle + side * np.array([0.9, y])) for y in rows]
    return fingers(size, ends, 0.125 * side, skin)


def finger(size: tuple[int, int], middle: np.ndarray, side: float, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw an upright finger across the lips."""
    return fingers(size, [(middle, middle + side * np.array([0.08, 1.2]))], 0.12 * side, skin)


def microphone(
    size: tuple[int, int], middle: np.ndarray, side: float, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    mask = draw_lines(size, [(middle, middle + side * np.array([0.1, 1.2]))], 0.1 * side)
    centre, axes = middle.round().astype(int), (side * np.array([0.11, 0.14])).round().astype(int)
    cv2.ellipse(mask, centre.tolist(), axes.tolist(), 0, 0, 360, 255, -1, cv2.LINE_AA)
    return mask, np.array([30.0, 28.0, 28.0])


def caption(size: tuple[int, int], middle: np.ndarray, side: float, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw white letters with black edges."""
    text, font, scale, thick = "what she said", cv2.FONT_HERSHEY_SIMPLEX, side * 0.005, max(1, round(side * 0.02))
    (width, height), _ = cv2.getTextSize(text, font, scale, thick)
    start = (middle + np.array([-width, height]) / 2).round().astype(int).tolist()
    edges, letters = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    cv2.putText(edges, text, start, font, scale, 255, 2 * thick + 1, cv2.LINE_AA)
    cv2.putText(letters, text, start, font, scale, 255, thick, cv2.LINE_AA)
    return edges, letters[..., None].astype(np.float64)


DRAWN = {"hand": hand, "finger": finger, "microphone": microphone, "caption": caption}


def tile(frame: np.ndarray, box: Box) -> np.ndarray:
    x1, y1, x2, y2 = box
    return cv2.resize(frame[y1:y2, x1:x2], TILE, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    sys.exit(main())
