"""Score how real generated pictures look: FID between them and real ones, smaller is better.

python evaluation/score_fid.py --real VIDEOS_OR_PICTURES --generated VIDEOS_OR_PICTURES
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
import files
from devices import pick_device
from errors import MissingFile
from evaluation import fid
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser("Measure the Fréchet inception distance (FID) between real and generated pictures.")
    add = parser.add_argument
    add(
        "--real",
        required=True,
        nargs="+",
        type=Path,
        help="Real videos, pictures, or folders with either at any depth.",
    )
    add("--generated", required=True, nargs="+", type=Path, help="Generated ones, likewise.")
    add(
        "--weights",
        default="fid_inception",
        help="The Inception of pytorch-fid: a file, or fid_inception to download it.",
    )
    add("--every", type=cli.positive(int), default=1, help="Use every n-th frame of a video.")
    add("--json", type=Path, help="Write the figures to this file.")
    add("--device", default="auto", help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    for path in (*args.real, *args.generated):
        if not path.exists():
            raise MissingFile(f"{path} does not exist")
    files.check_outputs({"--json": args.json}, (*args.real, *args.generated))
    embed = fid.open_inception(args.weights, pick_device(args.device), TERMINAL)
    found = fid.compare(args.real, args.generated, embed, args.every)
    print(found)
    if args.json:
        files.save_json(args.json, asdict(found))
    found.check()


if __name__ == "__main__":
    sys.exit(main())
