"""Train the expert, which tells whether lips and voice are in sync.

    python color_syncnet_train.py --data_root PREPROCESSED --checkpoint_dir CHECKPOINTS

Several GPUs, or machines: torchrun --nproc_per_node=N color_syncnet_train.py … (the global batch stays the same).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import cli
import training
from dataset import Augmentation, MatchedWindows, SyncNetDataset
from hparams import get_image_list
from hparams import hparams as hp
from tasks import AllPairsExpertTask, ExpertTask


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Train the lip-sync expert (SyncNet).")
    cli.add_training_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    machine = cli.start_training(args)
    names = [field.name for field in dataclasses.fields(Augmentation)]
    augmentation = Augmentation(**{name: getattr(hp, f"augment_{name}") for name in names})
    varied = augmentation if augmentation != Augmentation() else None
    train_list, val_list = (get_image_list(args.data_root, split, args.filelists) for split in ("train", "val"))
    if hp.windows_per_clip:
        task_type: type[ExpertTask] = AllPairsExpertTask
        train: SyncNetDataset = MatchedWindows(train_list, args.seed, hp.windows_per_clip, varied)
    else:
        task_type = ExpertTask
        train = SyncNetDataset(train_list, args.seed, hp.negative_distance, augmentation=varied)
    val = SyncNetDataset(val_list)  # the same windows whatever the settings, so that runs compare
    plan = training.Plan(
        batch_size=hp.syncnet_batch_size,
        checkpoint_interval=hp.syncnet_checkpoint_interval,
        eval_interval=hp.syncnet_eval_interval,
        eval_steps=hp.syncnet_eval_steps,
        **cli.training_options(args),
    )
    training.fit(task_type(machine, hp, hp.width), train, val, plan, cli.TERMINAL)


if __name__ == "__main__":
    sys.exit(main())
