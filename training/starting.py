"""How a run begins: its plan, the checkpoint it starts from, and what is reported about both."""

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
    data_root: Path  # the folders of the clips are below it
    batch_size: int  # of all processes together
    checkpoint_interval: int
    eval_interval: int
    eval_steps: int  # batches in one evaluation, at most
    evaluate_first: bool = False  # evaluate after step 1, too
    start_from: dict[str, Path | None] = field(default_factory=dict)  # checkpoint of each part of the task, by prefix
    resume: bool = False  # start from the newest one in ``checkpoint_dir`` instead, if any
    max_steps: int | None = None
    minutes: float | None = None  # after which the run ends, as after max_steps
    keep: int | None = None  # how many checkpoints; None: all
    saves: bool = True  # False: nothing is saved, the result is only in the task
    num_workers: int = 0
    unread: Set[str] = frozenset()  # hparams that this training does not read

    def __post_init__(self) -> None:
        for name in ("batch_size", "checkpoint_interval", "eval_interval", "eval_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}; see --hparams")


def digest_inputs(task: Task, train: WindowDataset, val: WindowDataset, data_root: Path) -> dict[str, str]:
    """Return digests of the clip lists, relative to ``data_root``, and of the networks that supervise or judge."""
    lists = {"list of training clips": train, "validation clips": val}
    names = {name: [clip.folder for clip in data.index.clips] for name, data in lists.items()}
    return {name: _digest_of(folders, f"{data_root}{os.sep}") for name, folders in names.items()} | task.fingerprints


def _digest_of(folders: Iterable[str], root: str) -> str:
    names = "\n".join(folder.removeprefix(root) for folder in folders)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def check_same_inputs(group: Distributed, train: WindowDataset, val: WindowDataset, digests: dict[str, str]) -> None:
    """Raise UserError if the processes have other clips or networks: their batches would not fit together."""
    here = {
        **digests,
        "frames of the training clips": str(len(train.index)),
        "of validation clips": str(len(val.index)),
    }
    numbers = [int(hashlib.sha256(value.encode()).hexdigest()[:15], 16) for value in here.values()]
    everywhere = group.gather(torch.tensor([numbers], device=group.device))
    different = [name for name, column in zip(here, everywhere.T) if len(set(column.tolist())) > 1]
    if different:
        unusable = train.index.unusable | val.index.unusable
        folder, reason = next(iter(unusable.items()), ("", ""))
        first = f"; of {len(unusable)} unusable here the first: {folder}: {reason}" if unusable else ""
        raise UserError(
            f"the processes differ in their {', '.join(different)}: all machines need the same clips, lists and "
            f"networks{first}"
        )


def restore(task: Task, plan: Plan, report: Reporter) -> Position:
    """Load the checkpoints that the plan starts from and return their position, step 0 if there are none."""
    prefixes, folder = [part.prefix for part in task.parts()], plan.checkpoint_dir
    start_from = dict(plan.start_from)
    if plan.resume and "disc_" not in prefixes and steps_saved(folder, "disc_"):
        raise UserError(
            f"{folder} holds a run with a discriminator: continue it with hq_wav2lip_train.py, or without one from "
            "a --checkpoint_path in another --checkpoint_dir"
        )
    newest = newest_step(folder, prefixes) if plan.resume else None
    if newest is not None:
        start_from = {prefix: folder / checkpoint_name(prefix, newest) for prefix in prefixes}
    try:
        positions = {prefix: load_checkpoint(task, path, prefix, report) for prefix, path in start_from.items() if path}
    except weights.Unreadable as problem:
        if newest is not None:
            name = checkpoint_name("*" if len(prefixes) > 1 else "", newest)
            raise UserError(f"{problem}, or delete {name}: --resume then continues from the previous one") from None
        raise
    position = positions.get("", Position())
    # resuming, a discriminator saved just before a crash is ignored: it is trained again; else the best counts, too,
    # as it may be newer than the last checkpoint
    resumed = newest is not None
    saved = [step for prefix in ([""] if resumed else prefixes) for step in steps_saved(folder, prefix)]
    latest = max([*saved, 0 if resumed else read_best(folder).step])
    if newest is not None and latest > newest:  # the generator without its discriminator
        lone, missing = checkpoint_name("", latest), checkpoint_name("disc_", latest)
        raise UserError(
            f"{folder} holds a run that has reached step {latest}, but {missing} is missing; delete {lone}, too, and "
            "--resume continues from the previous one"
        )
    given = plan.start_from.get("")
    # checkpoints of other runs may have any step, official ones a very high one
    continues = resumed or given and given.resolve().parent == folder.resolve() and position.step == latest
    if latest and not continues:
        way_on = "which --resume cannot continue here" if plan.resume else "and --resume continues it"
        raise UserError(
            f"{folder} holds a run that has reached step {latest}, {way_on}; this one would overwrite it: "
            "choose another --checkpoint_dir"
        )
    _check_agreement(task.group, position.step, folder)
    if resumed:
        return replace(position, resumed=True)
    pending = position.evaluation_pending or bool(position.step and task.awaits_evaluation)  # official ones do not say
    return Position(position.step, pending)  # a new run, whatever the other was made of


def _check_agreement(group: Distributed, step: int, folder: Path) -> None:
    """Raise UserError if the processes are at different steps."""
    steps = sorted(set(group.gather(torch.tensor([step], device=group.device)).tolist()))
    if len(steps) > 1:
        raise UserError(
            f"the processes would continue after different steps, {' and '.join(map(str, steps))}: --checkpoint_dir "
            f"{folder} must be one folder that all machines share"
        )


def report_start(
    train: WindowDataset, val: WindowDataset, plan: Plan, position: Position, hp: HParams, report: Reporter
) -> None:
    """Report the clips, the position of the run and anything odd about them; write the list of unusable clips."""
    unusable = train.index.unusable | val.index.unusable
    where = plan.checkpoint_dir / UNUSABLE
    if plan.saves and (unusable or where.exists()):
        files.save(where, "".join(f"{folder}: {reason}\n" for folder, reason in unusable.items()))
    for name, data in (("training", train), ("validation", val)):
        _report_clips(name, data.index, f"; {where} names all" if plan.saves else "", report)
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
            f"counts from step 0, and this run starts after step {position.step}"
        )
    if plan.max_steps is not None and plan.max_steps <= position.step:
        report.note(f"warning: --max_steps {plan.max_steps} has been reached already; there is nothing left to train")


def _report_clips(name: str, index: WindowIndex, listed: str, report: Reporter) -> None:
    """Report how much of a clip list is used, and anything odd about it."""
    report.note(f"{name}: {len(index.clips)} clips, {len(index)} windows")
    if index.unusable:
        folder, reason = next(iter(index.unusable.items()))
        count = len(index.unusable)
        report.note(f"warning: {count} {name} clips cannot be used, the first: {folder}: {reason}{listed}")
    if held := [clip.mel.nbytes for clip in index.clips if clip.mel is not None]:
        report.note(
            f"note: the mels of {len(held)} {name} clips are computed in every run and kept in memory "
            f"({sum(held) / 1e6:.0f} MB): their folders cannot be written to"
        )
    if index.length_warnings:
        folder, lengths = next(iter(index.length_warnings.items()))
        report.note(
            f"warning: {len(index.length_warnings)} {name} clips have much more sound than frames, the first: "
            f"{folder}: {lengths}. Unless the face or the voice is missing at the end, they drift apart"
        )
