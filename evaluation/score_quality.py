"""Compare lip-synced videos with their sources: likeness, sharpness, motion, flicker, seam.

python evaluation/score_quality.py --generated OUT.mp4 --source TALK.mp4

--landmarks adds LMD, leakage and lip motion, --lpips perceptual distance, --identity whether it is the same person.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import arguments
import cli
from devices import pick_device
from errors import UserError
from evaluation import flags
from evaluation.comparisons import compare_files
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser("Compare lip-synced videos with the videos they were made from.")
    add = parser.add_argument
    add("--generated", required=True, nargs="+", type=Path, help="The lip-synced videos.")
    add("--source", required=True, nargs="+", type=Path, help="The video each was made from, in the same order.")
    add("--pads", nargs=4, type=int, default=[0, 0, 0, 0], help="The --pads they were made with.")
    add("--face_index", type=int, help="The --face_index they were made with; without it, the largest face.")
    flags.add_judge_arguments(parser)
    flags.add_table_arguments(parser)
    arguments.add_search_arguments(parser)
    add("--device", default="auto", help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if len(args.generated) != len(args.source):
        raise UserError(f"{len(args.generated)} --generated and {len(args.source)} --source; give one for each")
    flags.check_tables(args, [*args.generated, *args.source])
    judges, search = flags.judges_of(args), arguments.face_search(args).on(pick_device(args.device))
    pairs = list(zip(args.generated, args.source))
    found = compare_files(pairs, search, TERMINAL, judges, args.pads, face_index=args.face_index).check_some()
    print(found)
    found.save(args.json, args.csv)
    found.check()


if __name__ == "__main__":
    sys.exit(main())
