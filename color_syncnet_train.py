"""Train the expert, which judges whether lips and voice are in sync.

    python color_syncnet_train.py --data_root PREPROCESSED --checkpoint_dir CHECKPOINTS

On several GPUs or machines: torchrun --nproc_per_node=N color_syncnet_train.py … (the global batch stays the same).
"""

from __future__ import annotations

import argparse
import sys

import arguments
import cli
import recipes
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Train the lip-sync expert (SyncNet).")
    arguments.add_training_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    recipes.train_expert(args.data_root, args.checkpoint_dir, arguments.training_options(args), TERMINAL)


if __name__ == "__main__":
    sys.exit(main())
