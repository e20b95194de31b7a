"""What a run saves and resumes from: checkpoints, and the sample pictures beside them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

import files
from errors import UserError, is_out_of_memory
from hparams import HParams
from models import Wav2Lip, weights
from reporting import SILENT, Reporter
from training.tasks import Figures, Task

STEP_DIGITS = 9  # in the names of checkpoints (reference)
BEST = "checkpoint_best.pth"
# hparams that do not affect what a resumed run learns
IGNORED_HPARAMS = {
    "num_workers", "checkpoint_interval", "syncnet_checkpoint_interval", "plateau_warn_steps", "audio_from_expert",
}  # fmt: skip


@dataclass(frozen=True)
class Position:
    """The state of a run, or of one of its checkpoints."""

    step: int = 0
    evaluation_pending: bool = False  # this step's evaluation is still to come; it may switch on the sync loss
    seed: int | None = None  # of the data order; None: not in the file
    hparams: dict[str, Any] = field(default_factory=dict)  # of the run that wrote it, if the file has them
    input_digests: dict[str, str] = field(default_factory=dict)  # of its clips and networks, likewise
    resumed: bool = False  # the run of this folder is continued
    samples: int | None = None  # drawn up to this step; None: not in the file, as many as of today's batches

    def changes(self, hp: HParams, seed: int, input_digests: dict[str, str], unread: Set[str] = frozenset()) -> str:
        """Return in words what these change about training and evaluation; "" if nothing.

        ``unread`` are hparams that this training does not read.
        """
        kept = set() if hp.syncnet_wt else {"syncnet_wt"}  # not set: the checkpoint's weight is kept
        left_out = IGNORED_HPARAMS | unread | kept
        now = {name: value for name, value in dataclasses.asdict(hp).items() if name not in left_out}
        then = dict(self.hparams)
        if self.seed is not None:
            now["seed"], then["seed"] = seed, self.seed
        words = [f"{n} {v} -> {now[n]}" for n, v in then.items() if n in now and now[n] != v]
        return ", ".join(words + [f"different {name}" for name in changed_names(self.input_digests, input_digests)])


def changed_names(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names whose digests differ; none if ``then`` is empty, as in files of older versions."""
    return [name for name in now if then and then.get(name) != now[name]]


def save_checkpoint(task: Task, folder: Path, position: Position, epoch: int, keep: int | None = None) -> None:
    """Write ``checkpoint_step%09d.pth`` (and ``disc_…``) in ``folder``; keep the last ``keep`` of each up to it."""
    step = position.step
    for part in task.parts():
        content = {
            **_base_content(task, part.network, step),
            "optimizer": part.optimizer.state_dict() if task.hp.save_optimizer_state else None,
            "global_epoch": epoch,
            "evaluation_pending": position.evaluation_pending,
            "seed": position.seed,
            "samples": position.samples,
            "made_of": position.input_digests,
            "random_state": torch.get_rng_state(),
        }
        if not part.prefix and task.ema:
            content |= {
                "state_dict": task.ema.module.state_dict(),
                "training_state_dict": part.network.state_dict(),
                "steps_in_mean": int(task.ema.n_averaged),
            }
        weights.write(content, folder / checkpoint_name(part.prefix, step))
    if keep:  # only now, so that every step on disk has all its parts
        for part in task.parts():
            for old in [s for s in steps_saved(folder, part.prefix) if s <= step][:-keep]:
                (folder / checkpoint_name(part.prefix, old)).unlink()


def _base_content(task: Task, network: nn.Module, step: int) -> dict[str, Any]:
    """Return the weights of a network and what is needed to use them."""
    return {
        "state_dict": network.state_dict(),
        "global_step": step,
        "width": network.width,
        "hparams": dataclasses.asdict(task.hp),
        **task.extra_state(),
    }


def save_best(task: Task, folder: Path, position: Position, figures: Figures) -> None:
    """Write the network that was evaluated as ``checkpoint_best.pth``."""
    evaluated = {"figures": figures, "made_of": position.input_digests}
    weights.write({**_base_content(task, task.result, position.step), **evaluated}, folder / BEST)


class Best(NamedTuple):
    """The best evaluation recorded in a folder."""

    step: int = 0
    figures: Figures = {}
    input_digests: dict[str, str] = {}

    def score_until(self, step: int, input_digests: dict[str, str], task: Task) -> float:
        """Return its score as ``task`` computes it now, or infinity if it is not comparable.

        Comparable are figures up to ``step``, on the same validation clips, judged by the same network.
        """
        judged_by = "judge" if "judge" in input_digests else "expert"
        measured = {name: value for name, value in input_digests.items() if name in ("validation clips", judged_by)}
        comparable = self.figures and self.step <= step and not changed_names(self.input_digests, measured)
        return task.score(self.figures) if comparable else math.inf


def read_best(folder: Path) -> Best:
    """Read the figures in ``checkpoint_best.pth``; without that file, return an empty ``Best``."""
    if not (folder / BEST).exists():
        return Best()
    try:
        content = weights.read_state(folder / BEST)
    except weights.Unreadable as problem:
        raise UserError(f"{problem}, or delete it: the run continues without it") from None
    # it may be a copy of another checkpoint, which has no figures
    return Best(int(content.get("global_step") or 0), content.get("figures", {}), content.get("made_of", {}))


def checkpoint_name(prefix: str, step: int) -> str:
    return f"{prefix}checkpoint_step{step:0{STEP_DIGITS}d}.pth"


def newest_step(folder: Path, prefixes: Sequence[str]) -> int | None:
    """Return the highest step for which ``folder`` has a checkpoint of every part, or None."""
    return max(set.intersection(*(set(steps_saved(folder, prefix)) for prefix in prefixes)), default=None)


def steps_saved(folder: Path, prefix: str) -> list[int]:
    """Return the steps for which ``folder`` has a checkpoint of one part, ascending."""
    names = (
        path.stem.removeprefix(f"{prefix}checkpoint_step") for path in folder.glob(f"{prefix}checkpoint_step*.pth")
    )
    return sorted(int(name) for name in names if name.isdecimal() and len(name) >= STEP_DIGITS)


def load_checkpoint(task: Task, path: Path, prefix: str = "", report: Reporter = SILENT) -> Position:
    """Restore one part of ``task`` from the checkpoint ``path``, ours or an official one.

    Raises UserError if the file does not fit.
    """
    _, network, optimizer = next(part for part in task.parts() if part.prefix == prefix)
    checkpoint = weights.read_checkpoint(path, type(network), report)
    if checkpoint.width != network.width:
        theirs = checkpoint.width
        raise UserError(
            f"{path} has width {theirs:g}, this run {network.width:g}; pass --hparams {prefix}width={theirs:g}"
        )
    for name in ("mask_top", "mel_lead") if isinstance(network, Wav2Lip) else ():
        theirs, ours = getattr(checkpoint, name), getattr(task.hp, name)
        if theirs not in (ours, None):
            raise UserError(
                f"{path} was trained with {name}={theirs:g}, this run has {ours:g}; pass --hparams {name}={theirs:g}"
            )
    extra = checkpoint.extra
    # without ema_decay, the run continues from the mean weights, which are those that were evaluated
    network.load_state_dict(extra.get("training_state_dict", checkpoint.state) if task.ema else checkpoint.state)
    if not prefix and task.ema:
        task.ema.module.load_state_dict(checkpoint.state)
        task.ema.n_averaged.fill_(extra.get("steps_in_mean", 1))
    if saved := extra.get("optimizer"):
        try:
            load_optimizer(optimizer, saved)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            advice = "save only its state_dict, and start from that"
            raise UserError(f"{path}: its optimizer belongs to another network; {advice}") from None
    else:
        report.note(f"note: {path} has no optimizer state: Adam's moments start from zero")
    if not prefix:
        task.load_extra_state(extra)
        if (state := extra.get("random_state")) is not None:
            torch.set_rng_state(state)
    pending = bool(extra.get("evaluation_pending", extra.get("owes_evaluation")))  # its name until 2026-11
    step, before = max(0, int(extra.get("global_step") or 0)), extra.get("hparams", {})
    return Position(step, pending, extra.get("seed"), before, extra.get("made_of", {}), samples=extra.get("samples"))


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state, moments included, but keep this run's learning rate, betas and fused."""
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**theirs, **{name: ours[name] for name in ("lr", "betas", "fused")}} for theirs, ours in pairs]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, moments in optimizer.state.items():  # the reference's have another memory format
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameter.shape:
                raise ValueError(f"moments of {tuple(moments[name].shape)} for {tuple(parameter.shape)}")
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def save_collage(folder: Path, step: int, pictures: np.ndarray) -> None:
    """Write ``samples_step%09d/<window>_<frame>.jpg`` as in the reference."""
    target = folder / f"samples_step{step:09d}"
    target.mkdir(exist_ok=True)
    for n, window in enumerate(pictures):
        for t, picture in enumerate(window):
            files.save(target / f"{n}_{t}.jpg", cv2.imencode(".jpg", picture)[1].tobytes())
