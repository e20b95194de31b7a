"""Training, once for all three networks: the loop, evaluation, checkpoints and logs.

``fit`` runs any task of tasks.py, on one process or many, and can be stopped and continued at any step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import files
from dataset import Batches, Loader, WindowDataset, evaluation_windows
from distributed import Batch, Distributed
from errors import UserError
from hparams import HParams
from models import weights
from reporting import SILENT, Advance, Reporter
from tasks import WATCHED_STEPS, Figures, Task

STEP_DIGITS = 9  # in the names of checkpoints (reference)
NAMED_AT_ONCE = 5  # damaged files
# hparams that change nothing about what a continued run learns
NOT_LEARNED_FROM = {
    "num_workers", "checkpoint_interval", "syncnet_checkpoint_interval", "plateau_warn_steps", "audio_from_expert",
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# Figures


class Averages:
    """Exact means of figures over batches; a figure given as (sum, count) is averaged over its own count."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, figures: dict[str, torch.Tensor], count: int) -> None:
        for name, value in figures.items():
            value = value.detach().to(torch.float32 if value.device.type == "mps" else torch.float64)  # mps has no more
            pair = value if value.dim() else torch.stack((value * count, torch.full_like(value, count)))
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self, group: Distributed) -> Figures:
        """Over all processes. Figures without a single value are left out."""
        if not self._sums:
            return {}
        table = group.mean(torch.stack(list(self._sums.values())))
        return {name: float(total / count) for name, (total, count) in zip(self._sums, table.cpu()) if count > 0}


@torch.no_grad()
def evaluate(task: Task, loader: Iterable[Batch]) -> Figures:
    """Return the mean figures of ``task`` over ``loader``, an equal share on every process."""
    task.train_mode(False)
    averages = Averages()
    for batch in loader:
        averages.add(task.evaluate_batch(batch), len(batch[0]))
    task.train_mode(True)
    return averages.means(task.group)


class Log:
    """metrics.jsonl, one object a line, and TensorBoard scalars and pictures where that package is installed."""

    def __init__(self, folder: Path, position: Position) -> None:
        self._path = folder / "metrics.jsonl"
        self._forget_after(position)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=position.step + 1)
        except ImportError:
            warnings.warn(
                "tensorboard is not installed (pip install 'wav2lip[train]'): no curves, only metrics.jsonl",
                stacklevel=1,
            )

    def _forget_after(self, position: Position) -> None:
        """Drop what a killed run wrote after the checkpoint that we continue from."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that was cut off by the kill
                record = json.loads(line)
                again = record["step"] == position.step and record["split"] == "val" and position.evaluation_pending
                kept += [line] if record["step"] <= position.step and not again else []
        files.save(self._path, "".join(f"{line}\n" for line in kept))

    def figures(self, step: int, split: str, figures: Figures, seconds: float) -> None:
        record = {
            "step": step,
            "split": split,
            **{k: round(v, 6) for k, v in figures.items()},
            "seconds": round(seconds, 3),
        }
        self._file.write(f"{json.dumps(record)}\n")
        self._file.flush()
        if self._board:
            for name, value in figures.items():
                self._board.add_scalar(f"{name}/{split}", value, step)

    def pictures(self, step: int, pictures: np.ndarray) -> None:
        """Show the first frame of up to eight windows (N, T, H, W, 3) BGR, one below the other."""
        if self._board:
            grid = np.concatenate(pictures[:8, 0])[..., ::-1]
            self._board.add_image("samples", grid, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


# --------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(task: Task, folder: Path, position: Position, epoch: int, keep: int | None = None) -> Path:
    """Write ``checkpoint_step%09d.pth`` (and ``disc_…``) in ``folder``; keep ``keep`` of each, up to this step."""
    step = position.step
    for prefix, network, optimizer in task.parts():
        content = {
            "state_dict": network.state_dict(),
            "optimizer": optimizer.state_dict() if task.hp.save_optimizer_state else None,
            "global_step": step,
            "global_epoch": epoch,
            "evaluation_pending": position.evaluation_pending,
            "seed": position.seed,
            "width": network.width,
            "hparams": dataclasses.asdict(task.hp),
            "random_state": torch.get_rng_state(),
            **task.extra_state(),
        }
        if not prefix and task.mean:
            content |= {
                "state_dict": task.mean.module.state_dict(),
                "training_state_dict": network.state_dict(),
                "steps_in_mean": int(task.mean.n_averaged),
            }
        path = folder / checkpoint_name(prefix, step)
        weights.write(content, path)
    if keep:  # only now: every step that is left has all its parts
        for prefix, _, _ in task.parts():
            for old in [s for s in steps_saved(folder, prefix) if s <= step][:-keep]:
                (folder / checkpoint_name(prefix, old)).unlink()
    return path


def checkpoint_name(prefix: str, step: int) -> str:
    return f"{prefix}checkpoint_step{step:0{STEP_DIGITS}d}.pth"


def newest_step(folder: Path, prefixes: Sequence[str]) -> int | None:
    """Return the highest step for which ``folder`` has a checkpoint of every part, None if there is none."""
    return max(set.intersection(*(set(steps_saved(folder, prefix)) for prefix in prefixes)), default=None)


def steps_saved(folder: Path, prefix: str) -> list[int]:
    """Return the steps for which ``folder`` has a checkpoint of one part, ascending."""
    names = (
        path.stem.removeprefix(f"{prefix}checkpoint_step") for path in folder.glob(f"{prefix}checkpoint_step*.pth")
    )
    return sorted(int(name) for name in names if name.isdecimal() and len(name) >= STEP_DIGITS)


@dataclass(frozen=True)
class Position:
    """Where a run, or a checkpoint of it, stands."""

    step: int = 0
    evaluation_pending: bool = False  # of this step, still to come; it may switch on the sync loss
    seed: int | None = None  # of the order of the data; None: the file does not say
    hparams: dict[str, Any] = field(default_factory=dict)  # of the run that wrote it, as far as the file says

    def changes(self, hp: HParams, seed: int) -> str:
        """Say in words what ``hp`` and ``seed`` change about what is learned, nothing if nothing."""
        now = {name: value for name, value in dataclasses.asdict(hp).items() if name not in NOT_LEARNED_FROM}
        if not now["syncnet_wt"]:  # no wish: the weight that there was is taken on
            del now["syncnet_wt"]
        then = dict(self.hparams)
        if self.seed is not None:
            now["seed"], then["seed"] = seed, self.seed
        return ", ".join(f"{n} {v} -> {now[n]}" for n, v in then.items() if n in now and now[n] != v)


def load_checkpoint(task: Task, path: Path, prefix: str = "") -> Position:
    """Continue one part of ``task`` from ``path``, ours or an official one.

    Raises UserError if the file does not fit.
    """
    network, optimizer = next((n, o) for p, n, o in task.parts() if p == prefix)
    checkpoint = weights.read_checkpoint(path, type(network))
    if checkpoint.width != network.width:
        ours = checkpoint.width
        raise UserError(f"{path} has width {ours:g}, this run {network.width:g}; say --hparams width={ours:g}")
    network.load_state_dict(checkpoint.extra.get("training_state_dict", checkpoint.state))
    if not prefix and task.mean:
        task.mean.module.load_state_dict(checkpoint.state)
        task.mean.n_averaged.fill_(checkpoint.extra.get("steps_in_mean", 1))
    if saved := checkpoint.extra.get("optimizer"):
        try:
            load_optimizer(optimizer, saved)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            advice = "save its state_dict alone, and start from that"
            raise UserError(f"{path}: its optimizer is of another network; {advice}") from None
    if not prefix:
        task.load_extra_state(checkpoint.extra)
        if (state := checkpoint.extra.get("random_state")) is not None:
            torch.set_rng_state(state)
    extra = checkpoint.extra
    pending = bool(extra.get("evaluation_pending", extra.get("owes_evaluation")))  # its name until 2026-11
    return Position(int(extra.get("global_step", 0)), pending, extra.get("seed"), extra.get("hparams", {}))


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take over a saved state; rate and kind are those of this run, the rest and the moments those that were saved."""
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**theirs, **{name: ours[name] for name in ("lr", "betas", "fused")}} for theirs, ours in pairs]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, moments in optimizer.state.items():  # those of the reference lie in memory in another order
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


# --------------------------------------------------------------------------------------------------------------------
# The loop


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has saved itself."""


@dataclass
class Plan:
    """What to train with and for how long. Intervals are in steps."""

    checkpoint_dir: Path
    batch_size: int  # of all processes together
    checkpoint_interval: int
    eval_interval: int
    eval_steps: int  # batches in one evaluation, at most
    evaluate_first: bool = False  # also after step 1
    start_from: dict[str, Path | None] = field(default_factory=dict)  # checkpoint of each part of the task, by prefix
    resume: bool = False  # start from the newest in ``checkpoint_dir``
    max_steps: int | None = None
    minutes: float | None = None  # after which the run ends, as it does after max_steps
    keep: int | None = None  # checkpoints; None: all
    saves: bool = True  # or nothing is left of the run but the task
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "checkpoint_interval", "eval_interval", "eval_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, not {getattr(self, name)}; see --hparams")


def fit(task: Task, train: WindowDataset, val: WindowDataset, plan: Plan, report: Reporter = SILENT) -> None:
    """Train ``task`` as planned.

    Raises Stopped after Ctrl-C or SIGTERM, when all is saved; UserError for a checkpoint that does not fit;
    RuntimeError for a loss that is not finite.
    """
    group, folder = task.group, plan.checkpoint_dir
    files.check_folder(folder)
    # two runs would write over each other
    with files.locked(folder / f".{folder.resolve().name}.lock") if group.is_main else contextlib.nullcontext():
        _fit(task, train, val, plan, report)


def _fit(task: Task, train: WindowDataset, val: WindowDataset, plan: Plan, report: Reporter) -> None:
    group, position = task.group, _restore(task, plan)
    if group.is_main:
        files.sweep(plan.checkpoint_dir, ".pth")
        _introduce(train, val, plan, position, report)
        if plan.resume and (changes := position.changes(task.hp, train.seed)):
            report.note(f"warning: this is not the run as it was: {changes}")
    batches = Batches(train, plan.batch_size, position.step, group.rank, group.world_size)
    windows = max(group.world_size, min(plan.eval_steps * plan.batch_size, len(val.index)))
    share = plan.batch_size // group.world_size
    evaluation = evaluation_windows(windows, share, group.rank, group.world_size)
    common = len(evaluation_windows(windows, share, group.world_size - 1, group.world_size))  # no process has fewer
    pin = group.device.type == "cuda"
    with (
        # memory is pinned on the current device, which need not be ours, and may be full
        torch.cuda.device(group.device) if pin else contextlib.nullcontext(),
        contextlib.closing(Loader(train, batches, plan.num_workers, pin)) as train_loader,
        contextlib.closing(Loader(val, evaluation, plan.num_workers, pin)) as val_loader,
    ):
        _Trainer(task, plan, position, batches, report, common).run(train_loader, val_loader)


def _restore(task: Task, plan: Plan) -> Position:
    """Load what the plan starts from and return where that stands, step 0 without any checkpoint."""
    prefixes, folder = [prefix for prefix, _, _ in task.parts()], plan.checkpoint_dir
    start_from = dict(plan.start_from)
    if plan.resume and (newest := newest_step(folder, prefixes)) is not None:
        start_from = {prefix: folder / checkpoint_name(prefix, newest) for prefix in prefixes}
    positions = {prefix: load_checkpoint(task, path, prefix) for prefix, path in start_from.items() if path}
    position = positions.get("", Position())
    latest = max((step for prefix in prefixes for step in steps_saved(folder, prefix)), default=0)
    if latest > position.step and not (plan.resume and position.step):
        way_on = "which --resume cannot go on with here" if plan.resume else "and --resume goes on with it"
        raise UserError(
            f"{folder} holds a run that has come to step {latest}, {way_on}; this one would write over it: "
            "choose another --checkpoint_dir"
        )
    _check_agreement(task.group, position.step, folder)
    return position


def _check_agreement(group: Distributed, step: int, folder: Path) -> None:
    """Raise UserError if the processes have come to different steps."""
    steps = sorted(set(group.gather(torch.tensor([step], device=group.device)).tolist()))
    if len(steps) > 1:
        raise UserError(
            f"the processes would continue after different steps, {' and '.join(map(str, steps))}: --checkpoint_dir "
            f"{folder} must be one folder that all machines share"
        )


def _introduce(train: WindowDataset, val: WindowDataset, plan: Plan, position: Position, report: Reporter) -> None:
    for name, data in (("training", train), ("validation", val)):
        report.note(f"{name}: {len(data.index.clips)} clips, {len(data.index)} windows")
        if data.index.unusable:
            folder, reason = next(iter(data.index.unusable.items()))
            report.note(
                f"warning: {len(data.index.unusable)} {name} clips cannot be used, the first: {folder}: {reason}"
            )
        if data.index.doubtful:
            folder, lengths = next(iter(data.index.doubtful.items()))
            report.note(
                f"warning: {len(data.index.doubtful)} {name} clips have much more sound than pictures, the first: "
                f"{folder}: {lengths}. Unless the face was gone or the voice silent by then, they drift apart"
            )
    how = "continuing after" if position.step else "starting from"
    report.note(f"{how} step {position.step}, batches of {plan.batch_size}")
    if plan.max_steps is not None and plan.max_steps <= position.step:
        report.note(f"warning: --max_steps {plan.max_steps} has been reached already; there is nothing left to train")


class _Trainer:
    """The loop of ``fit``: state that changes from step to step."""

    def __init__(
        self, task: Task, plan: Plan, position: Position, batches: Batches, report: Reporter, common: int
    ) -> None:
        self.task, self.plan, self.batches, self.report = task, plan, batches, report
        self.common = common  # batches of an evaluation that all processes have
        self.step, self.evaluation_pending = position.step, position.evaluation_pending
        self.group = task.group
        self.recent: deque[Figures] = deque(maxlen=WATCHED_STEPS)
        self.log = Log(plan.checkpoint_dir, position) if self.group.is_main else None
        self._stop = False
        self._saved = self._position
        self._whole = True  # between steps; in the middle of one there is nothing worth saving
        self._told: set[str] = set()  # damaged files that the user has heard of

    @property
    def _position(self) -> Position:
        return Position(self.step, self.evaluation_pending, self.batches.dataset.seed)

    def run(self, train_loader: Loader, val_loader: Loader) -> None:
        plan = self.plan
        self.task.train_mode(True)
        remaining = None if plan.max_steps is None else max(0, plan.max_steps - self.step)
        told = self.report if self.group.is_main else SILENT
        with self._signals(), self._saving(), told.stage("Training", plan.max_steps, "step", self.step) as advance:
            if self.evaluation_pending:
                self._evaluate(val_loader)
            for batch in self._fetch(itertools.islice(train_loader, remaining)):
                self._train(batch, advance)
                self.evaluation_pending = self.step % plan.eval_interval == 0 or (
                    self.step == 1 and plan.evaluate_first
                )
                due = (
                    self.step == 1 or self.step % plan.checkpoint_interval == 0
                )  # kept from the reference: also at step 1
                if due:
                    self._save(pictures=True)
                if self.evaluation_pending:
                    self._evaluate(val_loader)
                if due:  # once more: what an evaluation changes is part of it
                    self._save()
                self._tell(train_loader.damaged | val_loader.damaged)
        if self.log:
            self.log.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Save when the run ends, however it ends, unless in the middle of a step."""
        try:
            yield
        finally:
            if self._whole:
                self._save()

    def _fetch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; stop, all processes after the same step, if one was asked to or has got none."""
        batches = iter(loader)
        end = math.inf if self.plan.minutes is None else time.monotonic() + 60 * self.plan.minutes
        while True:
            batch = problem = None
            try:
                batch = next(batches, None)
            except Exception as error:
                problem = error
            stop, done = self._any(self._stop or problem is not None, batch is None or time.monotonic() > end)
            if stop:
                # asked to: then a worker may have died of the same signal
                raise self._stopped() if self._stop or not problem else problem
            if done or batch is None:
                return
            yield batch

    def _tell(self, damaged: dict[str, str]) -> None:
        """Name the files that turned out to be damaged, each once; every process speaks of those that it met."""
        if news := {path: reason for path, reason in damaged.items() if path not in self._told}:
            self._told |= {*news}
            words = [f"{path} {reason}" for path, reason in itertools.islice(news.items(), NAMED_AT_ONCE)]
            more = [f"{len(news) - NAMED_AT_ONCE} more"] if len(news) > NAMED_AT_ONCE else []
            self.report.note(
                f"warning: step {self.step}: {'; '.join(words + more)}. Other windows take the place of those with it; "
                f"{len(self._told)} damaged files so far"
            )

    def _stopped(self) -> Stopped:
        if not self.step:
            return Stopped("stopped before the first step")
        return Stopped(f"stopped after step {self.step}, which is saved in {self.plan.checkpoint_dir}; add --resume")

    def _train(self, batch: Batch, advance: Advance) -> None:
        start = time.perf_counter()
        self._whole = False
        self.step += 1
        averages = Averages()
        averages.add(self.task.train_step(batch), len(batch[0]))
        if self.task.mean:
            self.task.mean.update_parameters(self.task.main_network)
        figures = averages.means(self.group)
        if not all(map(math.isfinite, figures.values())):
            clips = ", ".join(sorted(set(self.batches.clips_of(self.step - 1))))
            bad = ", ".join(name for name, value in figures.items() if not math.isfinite(value))
            raise RuntimeError(f"step {self.step}: {bad} is not finite; the clips of this batch: {clips}")
        self.recent.append(figures)
        if self.log:
            self.log.figures(self.step, "train", figures, time.perf_counter() - start)
        advance(1, **{name: np.mean([f[name] for f in self.recent if name in f]) for name in figures})
        if (text := self.task.warning(self.recent, self.step)) and self.group.is_main:
            self.report.note(f"warning: {text}")
        self._whole = True

    def _evaluate(self, loader: Iterable[Batch]) -> None:
        start = time.perf_counter()
        with self.task.mean_in_place():
            figures = evaluate(self.task, self._until_asked(loader))
        news = self.task.after_evaluation(figures)
        self.evaluation_pending = False
        if self.log:
            self.log.figures(self.step, "val", figures, time.perf_counter() - start)
            words = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self.report.note(f"step {self.step}, validation: {words}")
            if news:
                self.report.note(news)

    def _until_asked(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation, and do not wait for its end to stop; all processes stop at the same."""
        for number, batch in enumerate(loader):
            if number < self.common and self._any(self._stop)[0]:
                raise self._stopped()
            yield batch

    def _any(self, *wishes: bool) -> list[bool]:
        """Whether at least one of the processes has each of these wishes; all have to ask at the same time."""
        here = torch.tensor(wishes, dtype=torch.float32, device=self.group.device)
        return (self.group.mean(here) > 0).tolist()

    def _save(self, pictures: bool = False) -> None:
        """Save what is not saved yet, and show the pictures of this step."""
        if not self.log:  # another process does
            return
        folder = self.plan.checkpoint_dir
        if self.plan.saves and self._saved != self._position:
            save_checkpoint(self.task, folder, self._position, self.batches.epoch_of(self.step), self.plan.keep)
            self._saved = self._position
        if pictures and (collage := self.task.collage()) is not None:
            save_collage(folder, self.step, collage)
            self.log.pictures(self.step, collage)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Note Ctrl-C and SIGTERM and finish the step first: half a step cannot be saved."""

        def ask(*_: object) -> None:
            self._stop = True

        heard = threading.current_thread() is threading.main_thread()  # others hear none, and may not say so
        numbers = (signal.SIGINT, signal.SIGTERM) if heard else ()
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
