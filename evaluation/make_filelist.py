"""Draw random pairs of a sound and a video from a dataset, for the paper's evaluation.

python evaluation/make_filelist.py --data_root VIDEOS --filelist pairs.txt --seed 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
import files
from evaluation import pairs


def get_parser() -> cli.Parser:
    parser = cli.Parser("Write a list of random pairs: every video once, with the sound of another.")
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="The folder with the videos, at any depth.")
    add("--filelist", required=True, type=Path, help="The list to write.")
    add(
        "--format",
        choices=("lrs", "resynced"),
        default="lrs",
        help="Put the sound first and leave .mp4 out (lrs), or the video first (resynced).",
    )
    add("--sounds", action="store_true", help="Pair with the sound files in --data_root, not with other videos.")
    add("--count", type=cli.positive(int), help="Number of pairs to draw; without it, one for every video.")
    add("--seed", type=cli.seed, default=0, help="Random seed; another gives other pairs.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    files.check_outputs({"--filelist": args.filelist}, ())
    drawn = pairs.draw(args.data_root, args.count, args.seed, args.sounds)
    if drawn.note:
        print(drawn.note)
    pairs.write_filelist(args.filelist, drawn.pairs, args.format == "lrs")
    print(
        f"{args.filelist}: {len(drawn.pairs)} pairs of {drawn.videos} videos, {drawn.sounds} sounds, seed {args.seed}"
    )


if __name__ == "__main__":
    sys.exit(main())
