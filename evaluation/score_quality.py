"""Compare lip-synced videos with the videos that they were made from: likeness, sharpness, motion, flicker, seam.

python evaluation/score_quality.py --generated OUT.mp4 --source TALK.mp4

With --landmarks also the mouth's landmarks (LMD, leakage), with --lpips and --identity likeness as people see it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import cli
import files
from devices import own_device, pick_device
from errors import MissingFile, UserError
from evaluation import judges
from evaluation.judges import Judges
from evaluation.quality import Quality, score_file
from evaluation.scores import attempt, to_csv
from identities import open_sface

FIGURES = [field.name for field in fields(Quality) if field.name not in ("file", "frames")]
OPTIONAL = {  # what takes a network: by its flag the figures and how to have them
    "landmarks": (("lmd", "leak", "lip_motion"), "2D-FAN: 2dfan4 to download it, or a file", judges.open_fan),
    "lpips": (("lpips",), "AlexNet: alexnet to download it, or a file; takes pip install lpips", judges.open_lpips),
    "identity": (("csim",), "SFace: sface to download it, or a file", lambda path, _: open_sface(path)),
}


def get_parser() -> cli.Parser:
    parser = cli.Parser("Compare lip-synced videos with the videos that they were made from.")
    add = parser.add_argument
    add("--generated", required=True, nargs="+", type=Path, help="The lip-synced videos.")
    add("--source", required=True, nargs="+", type=Path, help="The video that each was made from, in the same order.")
    add("--pads", nargs=4, type=int, default=[0, 0, 0, 0], help="The pads that they were made with.")
    add_judge_arguments(parser)
    add("--json", type=Path, help="Write all figures to this file.")
    add("--csv", type=Path, help="Write all figures to this file, one line a video.")
    cli.add_search_arguments(parser)
    add("--device", default="auto", help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")
    return parser


def add_judge_arguments(parser: cli.Parser) -> None:
    for flag, (figures, how, _) in OPTIONAL.items():
        parser.add_argument(f"--{flag}", metavar="WEIGHTS", help=f"Measure {', '.join(figures)} with {how}.")


def open_judges(args: argparse.Namespace) -> Judges:
    """Return those that the command line asks for; raise MissingFile, UserError or RuntimeError that names the flag."""
    return Judges(*(_open(flag, getattr(args, flag), pick_device(own_device(args.device))) for flag in OPTIONAL))


def _open(flag: str, path_or_name: str | None, device: torch.device) -> Any:
    try:
        return OPTIONAL[flag][-1](path_or_name, device) if path_or_name else None
    except MissingFile as error:
        raise MissingFile(f"--{flag}: {error}") from None
    except (UserError, RuntimeError) as error:
        raise type(error)(f"--{flag}: {error}") from error


def describe_missing(args: argparse.Namespace) -> str:
    """Say which figures were not asked for, and how to have them, a line each."""
    missing = [(flag, *OPTIONAL[flag][:2]) for flag in OPTIONAL if not getattr(args, flag)]
    return "\n".join(f"not measured: {', '.join(figures)}; --{flag} {how}" for flag, figures, how in missing)


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if len(args.generated) != len(args.source):
        raise UserError(f"{len(args.generated)} --generated and {len(args.source)} --source; give one for each")
    files.check_outputs({"--json": args.json, "--csv": args.csv}, (*args.generated, *args.source))
    pairs = list(zip(args.generated, args.source))
    asked = open_judges(args)
    bar = cli.TERMINAL.track(pairs, "Comparing", len(pairs), "file")
    search = cli.face_search(args)
    scores: list[Quality] = []
    failed: dict[str, str] = {}
    for made, real in bar:
        work = partial(score_file, made, real, search, cli.TERMINAL, asked, args.pads)
        if one := attempt(work, made, failed):
            scores.append(one)
    publish(args, scores, failed)


def publish(args: argparse.Namespace, scores: Sequence[Quality], failed: dict[str, str]) -> None:
    """Print and write the figures, and what is missing; raise UserError if there are none, RuntimeError if some are."""
    reasons = [f"{path}: {reason}" for path, reason in failed.items()]
    if not scores:
        raise UserError("; ".join(reasons))
    print(table(scores))
    print(describe_missing(args))
    if args.json:
        files.save(args.json, json.dumps({"scores": [asdict(score) for score in scores], "failed": failed}, indent=1))
    if args.csv:
        files.save(args.csv, to_csv(Quality, scores))
    for reason in reasons:
        print(f"skipped: {reason}")
    if failed:
        raise RuntimeError(f"{len(failed)} videos could not be compared; they are named above")


def table(scores: Sequence[Quality]) -> str:
    """One line a video, with the figures that were measured."""
    widths = {name: max(8, len(name) + 2) for name in FIGURES if getattr(scores[0], name) is not None}
    lines = ["".join(f"{name:>{width}}" for name, width in widths.items()) + "  frames  file"]
    for score in scores:
        values = "".join(f"{getattr(score, name):{width}.3f}" for name, width in widths.items())
        lines.append(f"{values}{score.frames:8d}  {score.file}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
