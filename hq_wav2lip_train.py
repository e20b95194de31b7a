"""Train the generator with the visual-quality discriminator: like wav2lip_train.py, plus an adversarial loss.

python hq_wav2lip_train.py --data_root PREPROCESSED --checkpoint_dir CHECKPOINTS --syncnet_checkpoint_path EXPERT
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cli
import wav2lip_train


def get_parser() -> cli.Parser:
    parser = wav2lip_train.get_parser("Train the lip-sync generator (Wav2Lip) with the visual-quality discriminator.")
    parser.add_argument("--disc_checkpoint_path", type=Path, help="Start from this discriminator checkpoint.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    wav2lip_train.run(args, discriminator=True)


if __name__ == "__main__":
    sys.exit(main())
