"""Train the generator without the visual-quality discriminator, on L1 and the sync loss of a frozen expert.

    python wav2lip_train.py --data_root PREPROCESSED --checkpoint_dir CHECKPOINTS --syncnet_checkpoint_path EXPERT

On several GPUs or machines: torchrun --nproc_per_node=N wav2lip_train.py … (the global batch stays the same).
"""

from __future__ import annotations

import argparse
import sys

import arguments
import cli
import recipes
from terminal import TERMINAL


def get_parser(description: str = "Train the lip-sync generator (Wav2Lip) without the discriminator.") -> cli.Parser:
    parser = cli.Parser(description=description)
    arguments.add_training_arguments(parser)
    add = parser.add_argument
    add(
        "--syncnet_checkpoint_path",
        required=True,
        type=cli.file_or_name,
        help="The expert to learn from: a file, demo, or lipsync_expert for the official one.",
    )
    add(
        "--judge_checkpoint_path",
        type=cli.file_or_name,
        help="A second expert that only scores the evaluations and takes no part in the training.",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace, discriminator: bool = False) -> None:
    recipes.train_generator(
        args.data_root,
        args.checkpoint_dir,
        args.syncnet_checkpoint_path,
        args.judge_checkpoint_path,
        arguments.training_options(args),
        TERMINAL,
        discriminator,
    )


if __name__ == "__main__":
    sys.exit(main())
