"""The training loop of all three networks, on one process or many; it can be stopped and resumed at any step."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

import files
from dataset import Batches, Loader, WindowDataset, evaluation_windows
from distributed import STOP_SIGNALS, Batch, active_signals
from reporting import SILENT, Advance, Reporter
from training.checkpoints import (
    Position,
    read_best,
    save_best,
    save_checkpoint,
    save_collage,
)
from training.figures import Averages, Log, evaluate
from training.starting import Plan, check_same_inputs, digest_inputs, report_start, restore
from training.tasks import WATCHED_STEPS, Figures, Task

KILLED = re.compile(r"DataLoader worker .*(exited unexpectedly|killed by signal)")  # torch's words
NO_SHARED_MEMORY = re.compile(r"shared memory.*No space left|No space left.*/dev/shm|Bus error", re.DOTALL)
NAMED_AT_ONCE = 5  # damaged files in one note
MIN_RATE = 0.01  # share of the learning rate that is left at the end of the decay


class Stopped(KeyboardInterrupt):
    """The run was asked to stop and has been saved."""


def fit(task: Task, train: WindowDataset, val: WindowDataset, plan: Plan, report: Reporter = SILENT) -> None:
    """Train ``task`` as planned.

    Raises Stopped after Ctrl-C, SIGTERM or SIGHUP, once all is saved; UserError for a checkpoint that does not fit;
    RuntimeError for a loss that is not finite.
    """
    group, folder = task.group, plan.checkpoint_dir
    files.check_folder(folder)
    # two runs would overwrite each other's files
    lock = files.locked(folder / f".{folder.resolve().name}.lock") if group.is_main else contextlib.nullcontext()
    with contextlib.ExitStack() as leaving, lock:
        _fit(task, train, val, plan, report, leaving)


def _fit(
    task: Task, train: WindowDataset, val: WindowDataset, plan: Plan, report: Reporter, leaving: contextlib.ExitStack
) -> None:
    group, position = task.group, restore(task, plan, report if task.group.is_main else SILENT)
    input_digests = digest_inputs(task, train, val, plan.data_root)
    check_same_inputs(group, train, val, input_digests)
    if group.is_main:
        files.remove_leftovers(plan.checkpoint_dir, ".pth")
        report_start(train, val, plan, position, task.hp, report)
        if waiting := task.awaits_evaluation:
            report.note(f"note: {waiting}")
        if changes := position.changes(task.hp, train.seed, input_digests, plan.unread):
            report.note(f"warning: this run differs from the one it continues: {changes}")
    share_of = group.rank, group.world_size
    batches = Batches(train, plan.batch_size, position.step, *share_of, position.samples)
    windows = max(group.world_size, min(plan.eval_steps * plan.batch_size, len(val.index)))
    share = plan.batch_size // group.world_size
    evaluation = evaluation_windows(windows, share, group.rank, group.world_size)
    pin = group.device.type == "cuda"
    with (
        # memory is pinned on the current device, which may be another than ours, and full
        torch.cuda.device(group.device) if pin else contextlib.nullcontext(),
        contextlib.closing(Loader(train, batches, plan.num_workers, pin)) as train_loader,
        contextlib.closing(Loader(val, evaluation, plan.num_workers, pin)) as val_loader,
    ):
        position = replace(position, input_digests=input_digests)
        _Trainer(task, plan, position, batches, report, leaving).run(train_loader, val_loader)


def decay_at(step: int, steps: int) -> float:
    """Return the share of the learning rate left at a step (Loshchilov and Hutter, 2017); 1 if ``steps`` is 0."""
    if not steps:
        return 1.0
    return max(MIN_RATE, (1 + math.cos(math.pi * min(step / steps, 1))) / 2)


class _Trainer:
    """The loop of ``fit``: state that changes from step to step."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        position: Position,
        batches: Batches,
        report: Reporter,
        leaving: contextlib.ExitStack,
    ) -> None:
        self.task, self.plan, self.batches, self.report = task, plan, batches, report
        self._leaving = leaving  # what is done last, when all is saved and closed
        self.step, self.evaluation_pending = position.step, position.evaluation_pending
        self.group = task.group
        self.recent: deque[Figures] = deque(maxlen=WATCHED_STEPS)
        self.rates = [(group, group["lr"]) for part in task.parts() for group in part.optimizer.param_groups]
        self.input_digests = position.input_digests
        self.best = read_best(plan.checkpoint_dir).score_until(position.step, self.input_digests, task)
        self.log = Log(plan.checkpoint_dir, position, report) if self.group.is_main and plan.saves else None
        self._waited = 0.0  # seconds, for the data of this step
        self._stop = False  # whether this process was asked to
        self._interruptible = False  # whether the run may stop at once
        self._first_step, self._saved = self.step, self._position
        self._step_complete = True  # False while a step has changed some weights, but not yet all that belongs to it
        for part in task.parts():  # running out of memory before that loses nothing
            part.optimizer.register_step_pre_hook(self._mark_step_incomplete)
        self._reported: set[str] = set()  # damaged files that have been reported

    def _mark_step_incomplete(self, *_: object) -> None:
        self._step_complete = False

    @property
    def _position(self) -> Position:
        seed, samples = self.batches.dataset.seed, self.batches.key_of(self.step)
        return Position(self.step, self.evaluation_pending, seed, input_digests=self.input_digests, samples=samples)

    def run(self, train_loader: Loader, val_loader: Loader) -> None:
        plan = self.plan
        self.task.train_mode(True)
        remaining = None if plan.max_steps is None else max(0, plan.max_steps - self.step)
        main_report = self.report if self.group.is_main else SILENT
        log = contextlib.closing(self.log) if self.log else contextlib.nullcontext()
        with (
            log,
            self._signals(),
            self._saving(),
            main_report.stage("Training", plan.max_steps, "step", self.step) as advance,
        ):
            if self.evaluation_pending:
                self._evaluate(val_loader)
            for batch in self._fetch(itertools.islice(train_loader, remaining)):
                self._train(batch, advance)
                due = (
                    self.step == 1 or self.step % plan.checkpoint_interval == 0
                )  # kept from the reference: also at step 1
                if due:
                    self._save(pictures=True)
                if self.evaluation_pending:
                    self._evaluate(val_loader)
                if due:  # once more, with what the evaluation changed
                    self._save()
                self._report_damaged(train_loader.damaged | val_loader.damaged)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Save when the run ends, however it ends, unless in the middle of a step."""
        try:
            yield
        finally:
            if self._step_complete:
                self._save()

    def _fetch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; if one process was asked to stop or has no batch, all stop after the same step."""
        batches = iter(loader)
        end = math.inf if self.plan.minutes is None else time.monotonic() + 60 * self.plan.minutes
        while True:
            begun = time.perf_counter()
            batch, problem = self._next(batches)
            self._waited = time.perf_counter() - begun
            done = self._stop_or_agree(problem, batch is None or time.monotonic() > end)
            if done or batch is None:
                return
            yield batch

    def _next(self, batches: Iterator[Batch]) -> tuple[Batch | None, Exception | None]:
        """Return the next batch, None if there is none, and what went wrong."""
        self._interruptible = self.group.world_size == 1  # others would wait; alone, data may hang for ever
        try:
            return next(batches, None), None
        except Exception as problem:
            return None, problem
        finally:
            self._interruptible = False

    def _stop_or_agree(self, problem: Exception | None, flag: bool) -> bool:
        """Return whether any process has set the flag; if one has a problem or was asked to stop, all stop."""
        stop, agreed = self._any_process(self._stop or problem is not None, flag)
        if not stop:
            return agreed
        self._leaving.callback(self.group.wait)  # torchrun kills the others soon after the first process has ended
        if self._stop or not problem:  # a worker may have died of the same signal
            raise self._stopped()
        self._raise_for_killed(problem)
        raise problem

    def _raise_for_killed(self, problem: Exception) -> None:
        """Raise RuntimeError, in the user's words, if a process of a loader was killed or had no shared memory."""
        if NO_SHARED_MEMORY.search(str(problem)):
            raise RuntimeError(
                f"the shared memory through which data are loaded is full; {self._saved_so_far()} (in Docker, with "
                "--shm-size=4g; or with fewer num_workers)"
            ) from problem
        if KILLED.search(str(problem)) or isinstance(problem, (ConnectionError, EOFError)):
            what = f"a data loader process was killed, perhaps for lack of memory ({problem})"
            guard = 'a program of your own must check if __name__ == "__main__" before it trains'
            raise RuntimeError(f"{what}; {self._saved_so_far()} ({guard})") from problem

    def _report_damaged(self, damaged: dict[str, str]) -> None:
        """Report files found to be damaged, each once; every process reports those it has met."""
        if news := {path: reason for path, reason in damaged.items() if path not in self._reported}:
            self._reported |= {*news}
            words = [f"{path} {reason}" for path, reason in itertools.islice(news.items(), NAMED_AT_ONCE)]
            more = [f"{len(news) - NAMED_AT_ONCE} more"] if len(news) > NAMED_AT_ONCE else []
            self.report.note(
                f"warning: step {self.step}: {'; '.join(words + more)}. Windows with these files are replaced; "
                f"{len(self._reported)} damaged files so far"
            )

    def _stopped(self) -> Stopped:
        if self.step == self._first_step:  # of this run: nothing is saved
            return Stopped("stopped before the first step")
        return Stopped(f"stopped after step {self.step}; {self._saved_so_far()}")

    def _saved_so_far(self) -> str:
        if not self.plan.saves:
            return "the best weights so far are kept"
        where = self.plan.checkpoint_dir
        return f"everything up to step {self.step} is saved in {where}: the same command with --resume continues"

    def _train(self, batch: Batch, advance: Advance) -> None:
        start = time.perf_counter()
        for group, rate in self.rates:
            group["lr"] = rate * decay_at(self.step + 1, self.task.hp.lr_decay_steps)
        averages = Averages()
        averages.add(self.task.train_step(batch), len(batch[0]))
        self._step_complete = False  # in case no hook has set it
        self.step += 1
        if self.task.ema:
            self.task.ema.update_parameters(self.task.main_network)
        figures = averages.means(self.group)
        if not all(map(math.isfinite, figures.values())):
            clips = ", ".join(sorted(set(self.batches.clips_of(self.step - 1))))
            bad = ", ".join(name for name, value in figures.items() if not math.isfinite(value))
            raise RuntimeError(f"step {self.step}: {bad} is not finite; the clips of this batch: {clips}")
        self.evaluation_pending = self.step % self.plan.eval_interval == 0 or (
            self.step == 1 and self.plan.evaluate_first
        )
        self._step_complete = True
        self.recent.append(figures)
        if self.log:
            self.log.figures(self.step, "train", figures, time.perf_counter() - start, self._waited)
        advance(1, **{name: np.mean([f[name] for f in self.recent if name in f]) for name in figures})
        if (text := self.task.warning(self.recent, self.step)) and self.group.is_main:
            self.report.note(f"warning: {text}")

    def _evaluate(self, loader: Iterable[Batch]) -> None:
        start = time.perf_counter()
        with self.task.swap_in_ema():
            figures = evaluate(self.task, self._stoppable(loader))
        news = self.task.after_evaluation(figures)
        self.evaluation_pending = False
        if self.log and (score := self.task.score(figures)) < self.best:
            self.best = score
            save_best(self.task, self.plan.checkpoint_dir, self._position, figures)
        if self.log:
            self.log.figures(self.step, "val", figures, time.perf_counter() - start)
        if self.group.is_main:
            words = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self.report.note(f"step {self.step}, validation: {words}")
            if news:
                self.report.note(news)

    def _stoppable(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an evaluation, of which some processes may have one less; if one stops, all do."""
        batches, going_on = iter(loader), True
        while going_on:
            batch, problem = self._next(batches)
            going_on = self._stop_or_agree(problem, batch is not None)
            if batch is not None:
                yield batch

    def _any_process(self, *flags: bool) -> list[bool]:
        """Return, for each of these flags, whether any process has set it; all processes must call this together."""
        if self.group.world_size == 1:
            return list(flags)
        here = torch.tensor(flags, dtype=torch.float32, device=self.group.device)
        return (self.group.mean(here) > 0).tolist()

    def _save(self, pictures: bool = False) -> None:
        """Save a checkpoint unless there is one of this position; with ``pictures``, also the samples of this step."""
        if not self.log:  # another process saves, or nothing is to be saved
            return
        folder = self.plan.checkpoint_dir
        if self._saved != self._position:
            save_checkpoint(self.task, folder, self._position, self.batches.epoch_of(self.step), self.plan.keep)
            self._saved = self._position
        if pictures and (collage := self.task.collage()) is not None:
            save_collage(folder, self.step, collage)
            self.log.pictures(self.step, collage)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """On Ctrl-C and the like, stop only after the current step: half a step cannot be saved."""

        def ask(*_: object) -> None:
            self._stop = True
            if self._interruptible:
                self._interruptible = False
                raise self._stopped()

        in_main_thread = threading.current_thread() is threading.main_thread()  # only that one may set handlers
        numbers = active_signals({"SIGINT", *STOP_SIGNALS}) if in_main_thread else []
        before = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
