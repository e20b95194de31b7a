"""Lip-sync real videos as the paper's ReSyncED benchmark does.

    python evaluation/real_videos_inference.py --mode random --filelist random_pairs.txt --data_root VIDEOS \
        --results_dir OUT --checkpoint_path wav2lip_gan

random: the voice of another video; dubbed: a dubbed film's own sound; tts: a synthetic voice.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import cli
import video
from errors import UserError
from evaluation import pairs
from evaluation.gen_videos_from_filelist import add_generator_arguments, open_generator
from face_detection.tracking import follow_face
from footage import find_videos
from lipsync import LipSync

MEASURED = 25  # frames in which the size of the face is measured


def get_parser() -> cli.Parser:
    parser = cli.Parser("Lip-sync real videos: pairs of a list, video first, or every video with its own sound.")
    add = parser.add_argument
    add(
        "--mode",
        required=True,
        choices=("random", "dubbed", "tts"),
        help="Which of the paper's three: random voices, dubbed films (needs no list), or synthetic speech.",
    )
    add("--filelist", type=Path, help="The list of pairs, for random and tts.")
    add_generator_arguments(parser)
    add(
        "--face_res",
        type=cli.positive(int),
        default=180,
        help="Shrink the video until the face has about this height, in pixels,",
    )
    add("--min_frame_res", type=cli.positive(int), default=480, help="but its shorter side not below this,")
    add("--max_frame_res", type=cli.positive(int), default=720, help="and at least until that is no longer than this.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if (args.filelist is None) != (args.mode == "dubbed"):
        raise UserError("--mode random and tts need a --filelist, and dubbed takes none")
    if args.mode == "dubbed":
        wanted = [pairs.Pair(path, path) for path in find_videos([args.data_root])]
    else:
        wanted = pairs.read_filelist(args.filelist, args.data_root, audio_first=False)
    lips = open_generator(args)
    resize = partial(shrink_factor, args, lips)
    if pairs.generate(wanted, args.results_dir, lips, resize, pads=args.pads):
        print(pairs.report(wanted, args.results_dir))
        pairs.check_complete(wanted, args.results_dir)


def shrink_factor(args: argparse.Namespace, lips: LipSync, path: Path) -> int:
    """Return the whole number by which to shrink a video: towards ``--face_res``, within the frame sizes allowed."""
    source = video.probe(path)
    short = min(source.width, source.height)
    least, most = -(-short // args.max_frame_res), max(1, short // args.min_frame_res)
    boxes = follow_face(lips.search.find(source, MEASURED, lips.device), MEASURED)
    heights = (boxes[:, 3] - boxes[:, 1])[~np.isnan(boxes[:, 0])]
    wanted = round(float(np.median(heights)) / args.face_res) if len(heights) else 1
    return max(least, min(most, wanted), 1)


if __name__ == "__main__":
    sys.exit(main())
