"""Lip-sync every pair of a list of LRS2, LRS3 or LRW.

    python evaluation/gen_videos_from_filelist.py --filelist lrs2.txt --data_root LRS2 --results_dir OUT \
        --checkpoint_path wav2lip_gan

Under torchrun every process takes its share. Stopped, it goes on where it was when started again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
from devices import own_device
from errors import MissingFile
from evaluation import pairs
from lipsync import LipSync


def get_parser() -> cli.Parser:
    parser = cli.Parser("Lip-sync every pair of a list: two names a line, sound first, without .mp4.")
    parser.add_argument("--filelist", required=True, type=Path, help="The list of pairs.")
    add_generator_arguments(parser)
    return parser


def add_generator_arguments(parser: cli.Parser) -> None:
    """What every script takes that makes videos, with the defaults of the reference's evaluation."""
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="The folder that the names of the list are relative to.")
    add("--results_dir", required=True, type=Path, help="The folder for the videos; finished ones in it are kept.")
    add("--checkpoint_path", required=True, help="The generator: a file, wav2lip or wav2lip_gan.")
    add("--pads", nargs=4, type=int, default=[0, 0, 0, 0], help="Add so many pixels to the box: top bottom left right.")
    add(
        "--wav2lip_batch_size",
        type=cli.positive(int),
        default=128,
        help="Show the network at most so many faces at a time.",
    )
    cli.add_search_arguments(parser)
    cli.add_compute_arguments(parser)


def open_generator(args: argparse.Namespace) -> LipSync:
    """Return the generator that they ask for, on this process's own device."""
    if not args.data_root.is_dir():
        raise MissingFile(f"--data_root {args.data_root} is not a folder")
    return LipSync(
        args.checkpoint_path,
        search=cli.face_search(args),
        device=own_device(args.device),
        precision=args.precision,
        batch_size=args.wav2lip_batch_size,
        report=cli.TERMINAL,
    )


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    wanted = pairs.read_filelist(args.filelist, args.data_root, audio_first=True)
    if pairs.generate(wanted, args.results_dir, open_generator(args), pads=args.pads):
        print(pairs.report(wanted, args.results_dir))
        pairs.check_complete(wanted, args.results_dir)


if __name__ == "__main__":
    sys.exit(main())
