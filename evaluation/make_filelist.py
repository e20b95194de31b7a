"""Draw random pairs of a sound and a video from a dataset, for the paper's evaluation.

python evaluation/make_filelist.py --data_root VIDEOS --filelist pairs.txt --seed 0
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path, PurePosixPath

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
import files
import preprocess
from errors import MissingFile
from evaluation import pairs


def get_parser() -> cli.Parser:
    parser = cli.Parser("Write a list of random pairs: every video once, with the sound of another.")
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="folder with videos, at any depth")
    add("--filelist", required=True, type=Path, help="list to write")
    add("--format", choices=("lrs", "resynced"), default="lrs", help="lrs: sound first, no .mp4; resynced: video first")
    add("--sounds", action="store_true", help="pair with the sound files in --data_root, not with other videos")
    add("--count", type=cli.positive(int), help="how many pairs; default: one for every video")
    add("--seed", type=int, default=0, help="another seed, other pairs")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if not args.data_root.is_dir():
        raise MissingFile(f"--data_root {args.data_root} is not a folder")
    videos, spaced = pairs.list_names(args.data_root, preprocess.is_video)
    sounds, more = pairs.list_names(args.data_root, pairs.is_sound) if args.sounds else (videos, [])
    if spaced + more:
        print(f"left out, since a list cannot hold names with spaces: {', '.join(map(repr, spaced + more))}")
    drawn = pairs.random_pairs(sounds, videos, args.count, args.seed)
    if args.format == "lrs":
        lines = [f"{without_mp4(sound)} {without_mp4(name)}" for sound, name in drawn]
    else:
        lines = [f"{name} {sound}" for sound, name in drawn]
    files.save(args.filelist, "".join(f"{line}\n" for line in lines))
    print(f"{args.filelist}: {len(lines)} pairs of {len(videos)} videos and {len(sounds)} sounds, seed {args.seed}")


def without_mp4(name: str) -> str:
    """The names in lists of LRS2, LRS3 and LRW have no suffix; other kinds of files keep theirs."""
    return str(PurePosixPath(name).with_suffix("")) if name.endswith(".mp4") else name


if __name__ == "__main__":
    sys.exit(main())
