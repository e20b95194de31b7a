"""Compare lip-synced videos with the videos that they were made from: likeness, sharpness, motion, flicker, seam.

python evaluation/score_quality.py --generated OUT.mp4 --source TALK.mp4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
import files
from errors import UserError
from evaluation.quality import Quality, score_file
from evaluation.scores import to_csv

FIGURES = [field.name for field in fields(Quality) if field.name not in ("file", "frames")]


def get_parser() -> cli.Parser:
    parser = cli.Parser("Compare lip-synced videos with the videos that they were made from.")
    add = parser.add_argument
    add("--generated", required=True, nargs="+", type=Path, help="The lip-synced videos.")
    add("--source", required=True, nargs="+", type=Path, help="The video that each was made from, in the same order.")
    add("--json", type=Path, help="Write all figures to this file.")
    add("--csv", type=Path, help="Write all figures to this file, one line a video.")
    cli.add_search_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if len(args.generated) != len(args.source):
        raise UserError(f"{len(args.generated)} --generated and {len(args.source)} --source; give one for each")
    files.check_outputs({"--json": args.json, "--csv": args.csv}, (*args.generated, *args.source))
    pairs = cli.TERMINAL.track(list(zip(args.generated, args.source)), "Comparing", len(args.source), "file")
    scores = [score_file(made, real, cli.face_search(args)) for made, real in pairs]
    print(table(scores))
    if args.json:
        files.save(args.json, json.dumps([asdict(score) for score in scores], indent=1))
    if args.csv:
        files.save(args.csv, to_csv(Quality, scores))


def table(scores: Sequence[Quality]) -> str:
    lines = ["".join(f"{name:>10}" for name in (*FIGURES, "frames")) + "  file"]
    for score in scores:
        values = "".join(f"{getattr(score, name):10.3f}" for name in FIGURES)
        lines.append(f"{values}{score.frames:10d}  {score.file}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
