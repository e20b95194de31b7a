"""Lip-sync real videos as the paper's ReSyncED benchmark does.

    python evaluation/real_videos_inference.py --mode random --filelist random_pairs.txt --data_root VIDEOS \
        --results_dir OUT --checkpoint_path wav2lip_gan

random: the voice of another video; dubbed: a dubbed film's own sound; tts: a synthetic voice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
from evaluation import flags, pairs
from evaluation.sizes import Sizes


def get_parser() -> cli.Parser:
    parser = cli.Parser("Lip-sync real videos: pairs of a list, video first, or every video with its own sound.")
    add = parser.add_argument
    add(
        "--mode",
        required=True,
        choices=pairs.MODES,
        help="Which of the paper's three: random voices, dubbed films (needs no list), or synthetic speech.",
    )
    add("--filelist", type=Path, help="The list of pairs, for random and tts.")
    flags.add_generator_arguments(parser, pads=(0, 10, 0, 0))
    add(
        "--face_res",
        type=cli.positive(int),
        default=Sizes.face,
        help="Shrink the video by whole numbers until the longer side of the face is about this many pixels.",
    )
    add(
        "--min_frame_res",
        type=cli.positive(int),
        default=Sizes.least,
        help="Do not shrink the video's shorter side below this.",
    )
    add(
        "--max_frame_res",
        type=cli.positive(int),
        default=Sizes.most,
        help="First shrink the video until its shorter side is no longer than this.",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    options = flags.generator_options(args)
    wanted = pairs.resynced(args.mode, args.data_root, args.filelist, args.results_dir)
    sizes = Sizes(args.face_res, args.min_frame_res, args.max_frame_res)
    if made := pairs.generate(wanted, args.results_dir, flags.open_generator(args), sizes, **options):
        print(made)
        made.check()


if __name__ == "__main__":
    sys.exit(main())
