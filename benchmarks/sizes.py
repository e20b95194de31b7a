"""Show how the network's 96 pixels look in faces of three sizes.

    python -m benchmarks.sizes --folder results/sizes

NASA's portrait of Eileen Collins and a drawn head, with faces 96, 256 and 512 pixels high, are lip-synced to a new
sentence. Writes sizes.jpg, a row for each: the lower face at two moments, as filmed, with ``--blend box`` and with
``--blend feather``, all at the same size.
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
from benchmarks.flags import around_mouth
from demo.run_demo import HEAD, SEARCH, film_portrait
from demo.talking_head import write_clip, write_speech
from face_detection.tracking import follow_face, gap_of
from lipsync import LipSync
from models.weights import BLENDS
from terminal import TERMINAL

HEIGHTS = (96, 256, 512)  # pixels of a face
MOMENTS = (0.3, 0.62)  # shares of the video


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(description="Show faces of three sizes, as filmed and lip-synced.")
    parser.add_argument(
        "--folder", type=Path, default=Path("results/sizes"), help="Put videos and the sheet into this folder."
    )
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
        boxes = boxes_of(usual)
        usual_height = float(np.nanmedian(boxes[:, 3] - boxes[:, 1]))
        for height in HEIGHTS:
            path = args.folder / f"{name}_{height}.mp4"
            film(path, height / usual_height)
            rows.append(strip(lips, path, speech, height))
    files.save(args.folder / "sizes.jpg", cv2.imencode(".jpg", np.vstack(rows))[1].tobytes())


def boxes_of(path: Path) -> np.ndarray:
    """Return the face box in each frame of a video, (frames, 4)."""
    return follow_face(SEARCH.find(video.probe(path)), gap_of(HEAD.fps))


def strip(lips: LipSync, path: Path, speech: Path, height: int) -> np.ndarray:
    """Lip-sync a video with each blend; return its lower faces, at each moment as filmed and with each blend."""
    made = [path]
    for blend in BLENDS:
        made.append(path.with_stem(f"{path.stem}_{blend}"))
        lips.run(path, speech, made[-1], blend=blend)
    boxes = boxes_of(path)
    pictures: list[np.ndarray] = []
    for moment in MOMENTS:
        index = int(moment * len(boxes))
        pictures += [around_mouth(frame_of(one, index), boxes[index]) for one in made]
    row = np.hstack(pictures)
    cv2.putText(row, str(height), (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return row


def frame_of(path: Path, index: int) -> np.ndarray:
    return next(video.read_frames(video.probe(path), index, 1))


if __name__ == "__main__":
    sys.exit(main())
