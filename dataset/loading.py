"""Batches of samples in a reproducible order, prefetched by processes."""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from dataset.samples import Sample, WindowDataset
from errors import UserError


class Batches:
    """The endless keys of a run's batches, from batch ``start`` on: a batch sampler for a DataLoader.

    Batch ``start`` of all processes together begins with ``first_key``, by default start * batch_size: the first key
    that no batch before has drawn, even if those had another size. Each of the ``world_size`` processes gets an equal,
    contiguous share, in the order of ``rank``.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        first_key: int | None = None,
    ) -> None:
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be shared equally by {world_size} processes")
        self.dataset = dataset
        self.batch_size = batch_size
        self.start = start
        self.first_key = start * batch_size if first_key is None else first_key
        self.share = batch_size // world_size
        self.rank = rank

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.keys, itertools.count(self.start))

    def key_of(self, batch: int) -> int:
        """Return the first key of a batch of all processes: how many samples were drawn before it."""
        return self.first_key + (batch - self.start) * self.batch_size

    def keys(self, batch: int) -> list[int]:
        """Return this process's keys of a batch."""
        first = self.key_of(batch) + self.rank * self.share
        return list(range(first, first + self.share))

    def clips_of(self, batch: int) -> list[str]:
        """Return the clip folders of this process's samples of a batch, in order."""
        return [self.dataset.clip_of(key) for key in self.keys(batch)]

    def epoch_of(self, batch: int) -> int:
        """Return the epoch, from 0, in which a batch begins."""
        return self.key_of(batch) // len(self.dataset)


def evaluation_windows(count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Return the first ``count`` keys as this process's batches, the same every time; the last batch may be smaller.

    With a data set whose seed and clips stay the same, these are the same windows in every evaluation.
    """
    keys = range(rank, count, world_size)
    return [list(keys[first : first + batch_size]) for first in range(0, len(keys), batch_size)]


class Loader:
    """The samples of ``batches``, stacked, prefetched by ``num_workers`` processes.

    It leaves torch's global random state alone. ``damaged`` has the files that could not be read so far, and why;
    their windows are replaced by others. ``close`` ends the processes, as does the end of the program.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batches: Batches | list[list[int]],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.damaged: dict[str, str] = {}
        # forked in a thread, as of a server, they would keep open what other threads write to and wait to be closed
        forks_safely = not num_workers or threading.current_thread() is threading.main_thread()
        self._sigchld: Any = None  # the handler before ours
        self._loader = DataLoader(
            _LoaderDataset(dataset),
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            multiprocessing_context=None if forks_safely else "spawn",
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else it draws from the global one, which resuming would shift
        )
        _LOADERS.add(self)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        batches = self._start()
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self._loader.num_workers and in_main_thread and hasattr(signal, "SIGCHLD"):
            # when a worker dies, torch would raise in the main thread, even in the middle of a step; the wait for the
            # next batch raises as well
            before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._sigchld = before if self._sigchld is None else self._sigchld
        try:
            for batch, damaged in batches:
                self.damaged |= damaged
                yield batch
        except Exception:  # after Ctrl-C, whoever reads saves before the processes end, which may hang
            # the traceback keeps torch's iterator alive until garbage is collected, maybe in one of its own threads,
            # which would end the processes too late: Python waits for them when it exits
            self.close()
            raise

    def _start(self) -> Iterator[tuple[list[torch.Tensor], dict[str, str]]]:
        before = set(multiprocessing.active_children())
        try:
            return iter(self._loader)
        except BaseException:  # one process could not start, and torch knows nothing of the others any more
            for worker in set(multiprocessing.active_children()) - before:
                worker.kill()
            raise

    def close(self) -> None:
        """End the processes; nothing else does, as they ignore signals, and Python would wait for them."""
        if self._sigchld is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._sigchld)
            self._sigchld = None
        iterator: Any = self._loader._iterator
        self._loader._iterator = None
        if iterator is not None:
            try:
                iterator._shutdown_workers()  # torch calls it when the iterator is deleted; tracebacks keep it alive
            finally:  # also after a second Ctrl-C
                for worker in iterator._workers:
                    worker.kill()  # one that hangs in a read does not react
                for worker in iterator._workers:
                    worker.join(10)


_LOADERS: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register  # registered after multiprocessing's own, so it runs before that waits for the processes
def _close_loaders() -> None:
    for loader in list(_LOADERS):
        loader.close()


class _LoaderDataset(Dataset):
    """A data set for a loader's processes: samples, and with them the damaged files."""

    def __init__(self, dataset: WindowDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: int) -> tuple[Sample, dict[str, str]]:
        return self.dataset.read(key)


def _collate(samples: list[tuple[Sample, dict[str, str]]]) -> tuple[list[torch.Tensor], dict[str, str]]:
    damaged: dict[str, str] = {}
    for _, found in samples:
        damaged |= found
    return default_collate([sample for sample, _ in samples]), damaged


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers themselves are the parallelism
    # signals to the whole job are for the main process: it saves, then ends the workers
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
