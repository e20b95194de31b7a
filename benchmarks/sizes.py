"""What is left of the network's 96 pixels in faces of three sizes: strips to look at.

    python -m benchmarks.sizes --folder results/sizes

NASA's portrait of Eileen Collins and a drawn head, filmed with faces 96, 256 and 512 pixels high, say a sentence that
they never said. Writes sizes.jpg: a row for each, at two moments as filmed, with ``--blend box`` and with ``feather``.
All pictures are shown at one size, the lower face of each.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

import cli
import files
import video
from demo.run_demo import HEAD, SEARCH, film_portrait
from demo.talking_head import write_clip, write_speech
from face_detection.detections import cut_square
from face_detection.tracking import follow_face
from lipsync import LipSync
from mouths import BLENDS
from terminal import TERMINAL

HEIGHTS = (96, 256, 512)  # pixels of a face
MOMENTS = (0.3, 0.62)  # shares of the video
SHOWN = 160  # pixels of a picture


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(description="Show faces of three sizes, as filmed and lip-synced.")
    parser.add_argument("--folder", type=Path, default=Path("results/sizes"), help="where to put videos and the sheet")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    files.check_folder(args.folder)
    lips, speech = LipSync(search=SEARCH, report=TERMINAL), args.folder / "speech.wav"
    write_speech(speech, HEAD, number=1)

    def film_head(path: Path, scale: float) -> None:
        width, height = (round(scale * side / 2) * 2 for side in HEAD.size)
        write_clip(path, replace(HEAD, size=(width, height)))

    rows = []
    for name, film in (("portrait", lambda path, scale: film_portrait(path, speech, scale)), ("head", film_head)):
        usual = args.folder / f"{name}.mp4"
        film(usual, 1.0)
        for height in HEIGHTS:
            path = args.folder / f"{name}_{height}.mp4"
            film(path, height / height_of(usual))
            rows.append(strip(lips, path, speech, height))
    files.save(args.folder / "sizes.jpg", cv2.imencode(".jpg", np.vstack(rows))[1].tobytes())


def height_of(path: Path) -> float:
    """How high the face is in a video, pixels."""
    boxes = follow_face(SEARCH.find(video.probe(path)), 12)
    return float(np.nanmedian(boxes[:, 3] - boxes[:, 1]))


def strip(lips: LipSync, path: Path, speech: Path, height: int) -> np.ndarray:
    """Lip-sync a video in each way; return its lower faces, at each moment as filmed and in each way."""
    made = [path]
    for blend in BLENDS:
        made.append(path.with_stem(f"{path.stem}_{blend}"))
        lips.run(path, speech, made[-1], blend=blend)
    boxes = follow_face(SEARCH.find(video.probe(path)), 12)
    pictures: list[np.ndarray] = []
    for moment in MOMENTS:
        index = int(moment * len(boxes))
        pictures += [lower_face(frame_of(one, index), boxes[index], height) for one in made]
    row = np.hstack(pictures)
    cv2.putText(row, str(height), (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return row


def frame_of(path: Path, index: int) -> np.ndarray:
    return next(video.read_frames(video.probe(path), index, 1))


def lower_face(frame: np.ndarray, box: np.ndarray, height: int) -> np.ndarray:
    """Return the part of a face from the nose down to below the box, wider than it, so that its edges would show."""
    x1, y1, x2, y2 = box
    side = round(0.7 * height)
    return cut_square(frame, round((x1 + x2 - side) / 2), round(y2 + 0.1 * height - side), side, SHOWN)


if __name__ == "__main__":
    sys.exit(main())
