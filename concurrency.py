"""Streams whose items are computed ahead of their consumer, in threads."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
NAME, TIMEOUT = "prefetch", 30.0  # name of the threads; seconds to wait for one another
_warnings_lock = threading.RLock()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress warnings, in one thread at a time: before Python 3.14, two would turn them off permanently."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prefetch(
    items: Iterable[Item], depth: int = 2, stop: Callable[[], None] | None = None
) -> Generator[Item, None, None]:
    """Yield ``items``, computing up to ``depth`` of them ahead in a thread; errors surface here, in order.

    ``stop`` is called when the consumer wants no more, to interrupt what the thread may be waiting for.
    """
    iterator = iter(items)
    end = object()
    pending: deque[Future] = deque()
    worker = None
    try:
        worker = _Worker()
        pending.extend(worker.begin(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(worker.begin(next, iterator, end))
            yield item
    finally:
        try:
            if stop:
                stop()
        finally:
            for future in pending:
                future.cancel()
            close = getattr(iterator, "close", None)
            if worker:
                worker.finish(close)
            elif close:
                close()


class _Worker:
    """A thread that runs one task after another.

    Not a ``ThreadPoolExecutor``, which takes a process-wide lock on every submit. If the garbage collector ran during
    that and closed an abandoned stream, closing would wait for the lock in the thread that holds it: a deadlock.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()  # reentrant, so safe to use during garbage collection
        self._over, self._ended = False, threading.Event()  # the thread takes no more tasks; the thread has ended
        self._last: Future | None = None  # the task that is not cancelled
        self._draining = threading.RLock()  # held while the remaining tasks are run
        self._thread = threading.Thread(target=self._work, name=NAME, daemon=True)
        _working.add(self)
        try:
            self._thread.start()
        except BaseException:  # including Ctrl-C
            _working.discard(self)
            self.end()
            raise

    def begin(self, work: Callable[..., Result], *given: Any) -> Future:
        """Queue a task; run it in the calling thread if the worker's takes no more."""
        return self._put(Future(), work, given)

    def _put(self, future: Future, work: Callable[..., Result], given: tuple = ()) -> Future:
        self._tasks.put((future, work, given))
        if self._over:
            self._drain()
        return future

    def finish(self, last: Callable[[], object] | None) -> None:
        """Queue ``last``, if given, as the last task, and wait for the end.

        Does not wait in the worker's own thread, where the garbage collector may call this, and in another worker's
        only for a limited time, since that one may itself be waited for.
        """
        done: Future = Future()
        self._last = done
        self._put(done, last or bool)
        self.end()
        current = threading.current_thread()
        if current is self._thread:
            return
        if current.name == NAME:
            wait([done], TIMEOUT)
        else:
            self.join()
        if done.done():
            done.result()

    def end(self) -> None:
        """Let the thread end after its queued tasks."""
        self._tasks.put(None)

    def cancel(self) -> None:
        """Cancel the tasks that wait, but for the last one of ``finish``."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (task := self._tasks.get_nowait()) and task[0] is self._last:
                    self._tasks.put(task)
                    return
                if task:
                    task[0].cancel()

    def mark_ended(self) -> None:
        """Mark the thread as ended."""
        self._over = True
        self._ended.set()

    def join(self) -> None:
        """Wait for the end; an interrupted ``Thread.join`` would mark the thread as ended (Python 3.11)."""
        self._ended.wait()

    def _work(self) -> None:
        while task := self._tasks.get():
            _fulfil(*task)
            del task  # keep no references while waiting
        self._over = True
        self._drain()
        _working.discard(self)
        self._ended.set()

    def _drain(self) -> None:
        """Run the tasks that came too late for the thread."""
        with self._draining, contextlib.suppress(queue.Empty):
            while True:
                if task := self._tasks.get_nowait():
                    _fulfil(*task)


def _fulfil(future: Future, work: Callable[..., Result], given: tuple) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work(*given))
        except BaseException as error:
            future.set_exception(error)


_working: set[_Worker] = set()  # whose threads have not ended


def _reset_after_fork() -> None:
    """In a forked process, mark all workers as ended, since their threads do not exist there."""
    for worker in _working:
        worker.mark_ended()
    _working.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


@atexit.register
def _end_all() -> None:
    """End all threads before the interpreter exits; running ones may crash it."""
    for worker in (working := list(_working)):
        worker.cancel()
        worker.end()
    for worker in working:
        worker.join()


def in_parallel(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    prepare: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Yield ``work(item)`` for all items in order; with several threads, up to one item more than these is read ahead.

    ``prepare`` is called once in each thread, if there are several.
    """
    if threads == 1:
        yield from map(work, items)
        return
    pending: deque[Future] = deque()
    workers: list[_Worker] = []

    def first_work(item: Item) -> Result:
        if prepare:
            prepare()
        return work(item)

    try:
        for number, item in enumerate(items):
            if is_new := len(workers) < threads:
                workers.append(_Worker())
            pending.append(workers[number % threads].begin(first_work if is_new else work, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.finish(None)
