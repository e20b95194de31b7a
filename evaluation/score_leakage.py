"""Lip-sync videos to silence, and measure how much their mouths still move: what leaks from the source.

python evaluation/score_leakage.py --face TALK.mp4 --results_dir OUT [--checkpoint_path wav2lip_gan]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import arguments
import cli
import files
from evaluation import flags
from evaluation.comparisons import compare_silent, folders_below
from footage import find_videos
from lipsync import LipSync
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser("Lip-sync videos to silence, and measure how much their mouths still move.")
    add = parser.add_argument
    add("--face", required=True, nargs="+", type=Path, help="Videos of people who speak, or folders with them.")
    add("--results_dir", required=True, type=Path, help="The folder for the silent videos.")
    add("--checkpoint_path", type=cli.file_or_name, help=arguments.GENERATOR)
    arguments.add_mouth_arguments(parser.add_argument_group("the mouth"))
    flags.add_judge_arguments(parser)
    flags.add_table_arguments(parser)
    arguments.add_search_arguments(parser)
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    videos = find_videos(args.face, without=args.results_dir)
    folders_below(videos)  # videos of the same name are reported before anything is loaded
    flags.check_tables(args, videos)
    files.check_folder(args.results_dir)
    judges, search = flags.judges_of(args), arguments.face_search(args)
    lips = LipSync(args.checkpoint_path, search=search, device=args.device, precision=args.precision, report=TERMINAL)
    found = compare_silent(videos, args.results_dir, lips, judges, **arguments.mouth_options(args)).check_some()
    print(found)
    found.save(args.json, args.csv)
    found.check()


if __name__ == "__main__":
    sys.exit(main())
