"""Turn a training checkpoint into one to ship: half the precision, no optimizer. Part of ``make demo-checkpoints``.

python -m demo.export generator GENERATOR/checkpoint_step000003000.pth demo/checkpoints/generator.pth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cli
from models import SyncNet_color, Wav2Lip, weights

NETWORKS = {"expert": SyncNet_color, "generator": Wav2Lip}


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Write a small checkpoint: float16, without the optimizer.")
    parser.add_argument("network", choices=NETWORKS, help="what the checkpoint holds")
    parser.add_argument("source", type=Path, help="checkpoint of a training run")
    parser.add_argument("target", type=Path, help="file to write")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    checkpoint = weights.read_checkpoint(args.source, NETWORKS[args.network])
    weights.export(checkpoint, args.target)
    print(f"{args.target}: width {checkpoint.width:g}, {args.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
