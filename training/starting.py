"""How a run begins: what is planned, what it goes on from, and what is said of both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import files
from dataset import WindowDataset, WindowIndex
from distributed import Distributed
from errors import UserError
from hparams import HParams
from models import weights
from reporting import Reporter
from training.checkpoints import Position, checkpoint_name, load_checkpoint, newest_step, read_best, steps_saved
from training.tasks import Task

UNUSABLE = "unusable.txt"  # in the folder for checkpoints: clips that cannot be used, and why


@dataclass
class Plan:
    """What to train with and for how long. Intervals are in steps."""

    checkpoint_dir: Path
    data_root: Path  # below which the clips are
    batch_size: int  # of all processes together
    checkpoint_interval: int
    eval_interval: int
    eval_steps: int  # batches in one evaluation, at most
    evaluate_first: bool = False  # also after step 1
    start_from: dict[str, Path | None] = field(default_factory=dict)  # checkpoint of each part of the task, by prefix
    resume: bool = False  # start from the newest in ``checkpoint_dir`` instead, if there are some
    max_steps: int | None = None
    minutes: float | None = None  # after which the run ends, as it does after max_steps
    keep: int | None = None  # checkpoints; None: all
    saves: bool = True  # or nothing is left of the run but the task
    num_workers: int = 0
    unread: Set[str] = frozenset()  # hparams that this training does nothing with

    def __post_init__(self) -> None:
        for name in ("batch_size", "checkpoint_interval", "eval_interval", "eval_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}; see --hparams")


def made_of_what(task: Task, train: WindowDataset, val: WindowDataset, data_root: Path) -> dict[str, str]:
    """Return digests of the lists of clips, wherever they lie, and of the networks that it learns or is judged by."""
    lists = {"list of training clips": train, "validation clips": val}
    names = {name: [clip.folder for clip in data.index.clips] for name, data in lists.items()}
    return {name: _digest_of(folders, f"{data_root}{os.sep}") for name, folders in names.items()} | task.fingerprints


def _digest_of(folders: Iterable[str], root: str) -> str:
    names = "\n".join(folder.removeprefix(root) for folder in folders)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def restore(task: Task, plan: Plan, report: Reporter) -> Position:
    """Load what the plan starts from and return where that stands, step 0 without any checkpoint."""
    prefixes, folder = [part.prefix for part in task.parts()], plan.checkpoint_dir
    start_from = dict(plan.start_from)
    if plan.resume and "disc_" not in prefixes and steps_saved(folder, "disc_"):
        raise UserError(
            f"{folder} holds a run with a discriminator: go on with hq_wav2lip_train.py, or without it from a "
            "--checkpoint_path in another --checkpoint_dir"
        )
    newest = newest_step(folder, prefixes) if plan.resume else None
    if newest is not None:
        start_from = {prefix: folder / checkpoint_name(prefix, newest) for prefix in prefixes}
    try:
        positions = {prefix: load_checkpoint(task, path, prefix, report) for prefix, path in start_from.items() if path}
    except weights.Unreadable as problem:
        if newest is not None:
            name = checkpoint_name("*" if len(prefixes) > 1 else "", newest)
            raise UserError(f"{problem}, or delete {name}: --resume then goes on from the one before") from None
        raise
    position = positions.get("", Position())
    # a part that was saved before a crash came is made again; and what was best may be newer than what was saved last
    resumed = newest is not None
    saved = [step for prefix in ([""] if resumed else prefixes) for step in steps_saved(folder, prefix)]
    latest = max([*saved, 0 if resumed else read_best(folder).step])
    if newest is not None and latest > newest:  # of which there is half
        lone, missing = checkpoint_name("", latest), checkpoint_name("disc_", latest)
        raise UserError(
            f"{folder} holds a run that has come to step {latest}, but {missing} is not there; delete {lone}, too, and "
            "--resume goes on from the one before"
        )
    if latest > position.step:
        way_on = "which --resume cannot go on with here" if plan.resume else "and --resume goes on with it"
        raise UserError(
            f"{folder} holds a run that has come to step {latest}, {way_on}; this one would write over it: "
            "choose another --checkpoint_dir"
        )
    _check_agreement(task.group, position.step, folder)
    if resumed:
        return replace(position, resumed=True)
    pending = position.evaluation_pending or bool(position.step and task.awaits_evaluation)  # official ones do not tell
    return Position(position.step, pending)  # a run of its own, whatever the other was made of


def _check_agreement(group: Distributed, step: int, folder: Path) -> None:
    """Raise UserError if the processes have come to different steps."""
    steps = sorted(set(group.gather(torch.tensor([step], device=group.device)).tolist()))
    if len(steps) > 1:
        raise UserError(
            f"the processes would continue after different steps, {' and '.join(map(str, steps))}: --checkpoint_dir "
            f"{folder} must be one folder that all machines share"
        )


def introduce(
    train: WindowDataset, val: WindowDataset, plan: Plan, position: Position, hp: HParams, report: Reporter
) -> None:
    """Say what it learns from and is judged by, where it stands, and what is odd about that; list unusable clips."""
    unusable = train.index.unusable | val.index.unusable
    where = plan.checkpoint_dir / UNUSABLE
    if plan.saves and (unusable or where.exists()):
        files.save(where, "".join(f"{folder}: {reason}\n" for folder, reason in unusable.items()))
    for name, data in (("training", train), ("validation", val)):
        _introduce_clips(name, data.index, f"; {where} names all" if plan.saves else "", report)
    if both := {clip.folder for clip in train.index.clips} & {clip.folder for clip in val.index.clips}:
        report.note(
            f"warning: {len(both)} validation clips are training clips as well, the first: {min(both)}: validation "
            "figures will look better than they are; take them out of train.txt or val.txt"
        )
    how = "continuing after" if position.step else "starting from"
    report.note(f"{how} step {position.step}, batches of {plan.batch_size}")
    if not position.resumed and 0 < hp.lr_decay_steps <= position.step:
        report.note(
            f"warning: learning rates are a hundredth of what they are set to: lr_decay_steps {hp.lr_decay_steps} "
            f"counts from step 0, and this goes on from step {position.step}"
        )
    if plan.max_steps is not None and plan.max_steps <= position.step:
        report.note(f"warning: --max_steps {plan.max_steps} has been reached already; there is nothing left to train")


def _introduce_clips(name: str, index: WindowIndex, listed: str, report: Reporter) -> None:
    """Say of a list how much of it is used, and what is odd about it."""
    report.note(f"{name}: {len(index.clips)} clips, {len(index)} windows")
    if index.unusable:
        folder, reason = next(iter(index.unusable.items()))
        count = len(index.unusable)
        report.note(f"warning: {count} {name} clips cannot be used, the first: {folder}: {reason}{listed}")
    if held := [clip.mel.nbytes for clip in index.clips if clip.mel is not None]:
        report.note(
            f"note: the mels of {len(held)} {name} clips are computed anew each time and kept in memory "
            f"({sum(held) / 1e6:.0f} MB): nothing can be written to their folders"
        )
    if index.doubtful:
        folder, lengths = next(iter(index.doubtful.items()))
        report.note(
            f"warning: {len(index.doubtful)} {name} clips have much more sound than pictures, the first: "
            f"{folder}: {lengths}. Unless the face was gone or the voice silent by then, they drift apart"
        )
