"""Train the generator without the visual-quality discriminator: L1 and the sync loss of a frozen expert.

    python wav2lip_train.py --data_root PREPROCESSED --checkpoint_dir CHECKPOINTS --syncnet_checkpoint_path EXPERT

Several GPUs, or machines: torchrun --nproc_per_node=N wav2lip_train.py … (the global batch stays the same).
"""

from __future__ import annotations

import argparse
import sys

import cli
import training
from dataset import Wav2LipDataset
from hparams import get_image_list
from hparams import hparams as hp
from models import SyncNet_color, weights
from tasks import GeneratorTask


def get_parser(description: str = "Train the lip-sync generator (Wav2Lip) without the discriminator.") -> cli.Parser:
    parser = cli.Parser(description=description)
    cli.add_training_arguments(parser)
    add = parser.add_argument
    add(
        "--syncnet_checkpoint_path",
        required=True,
        help="The expert to learn from: a file, demo, or lipsync_expert for the official one.",
    )
    add("--judge_checkpoint_path", help="A second expert, never learned from, that scores the evaluations.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    train(args, GeneratorTask, "eval_steps")


def train(args: argparse.Namespace, task_type: type[GeneratorTask], eval_steps: str) -> None:
    """Train with any kind of generator task; ``eval_steps`` names its hparam. hq_wav2lip_train.py differs only here."""
    machine = cli.start_training(args)
    expert = weights.load_model(args.syncnet_checkpoint_path, SyncNet_color)
    judge = weights.load_model(args.judge_checkpoint_path, SyncNet_color) if args.judge_checkpoint_path else None
    train_list, val_list = (get_image_list(args.data_root, split, args.filelists) for split in ("train", "val"))
    train_data = Wav2LipDataset(train_list, args.seed, hp.negative_distance, hp.mel_lead, hp.twin_reference)
    # the same windows whatever the settings, so that runs compare
    val_data = Wav2LipDataset(val_list, mel_lead=hp.mel_lead)
    plan = training.Plan(
        batch_size=hp.batch_size,
        checkpoint_interval=hp.checkpoint_interval,
        eval_interval=hp.eval_interval,
        eval_steps=getattr(hp, eval_steps),  # --hparams has been applied by now
        evaluate_first=True,
        **cli.training_options(args),
    )
    training.fit(task_type(machine, hp, expert, judge, hp.width), train_data, val_data, plan, cli.TERMINAL)


if __name__ == "__main__":
    sys.exit(main())
