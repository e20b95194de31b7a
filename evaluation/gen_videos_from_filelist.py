"""Lip-sync every pair of a list of LRS2, LRS3 or LRW.

    python evaluation/gen_videos_from_filelist.py --filelist lrs2.txt --data_root LRS2 --results_dir OUT \
        --checkpoint_path wav2lip_gan

Under torchrun the processes share the work. If it is stopped, the same command continues where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
from evaluation import flags, pairs


def get_parser() -> cli.Parser:
    parser = cli.Parser("Lip-sync every pair of a list: two names per line, sound first, without .mp4.")
    parser.add_argument("--filelist", required=True, type=Path, help="The list of pairs.")
    flags.add_generator_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    wanted = pairs.read_filelist(args.filelist, args.data_root, audio_first=True)
    options = flags.generator_options(args)
    if made := pairs.generate(wanted, args.results_dir, flags.open_generator(args), **options):
        print(made)
        made.check()


if __name__ == "__main__":
    sys.exit(main())
