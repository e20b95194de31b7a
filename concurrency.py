"""Streams of items that are worked on ahead of whoever takes them."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
NAME, PATIENCE = "prefetch", 30.0  # of its threads; seconds
_quiet = threading.RLock()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """No warnings meanwhile, in one thread at a time: before Python 3.14 two would turn them off for ever."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prefetch(
    items: Iterable[Item], depth: int = 2, stop: Callable[[], None] | None = None
) -> Generator[Item, None, None]:
    """Yield ``items``, computing up to ``depth`` of them ahead in a thread; errors surface here, in order.

    ``stop`` is called when no more are wanted, to end what the thread may be waiting for.
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
    """A thread that does one thing after another.

    No ``ThreadPoolExecutor``: that takes a lock of the whole process to begin something. If the garbage collector comes
    just then, and ends a stream that somebody has left, that would wait for the lock in its own thread, for ever.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue = queue.SimpleQueue()  # the kind of queue that the collector may use
        self._over, self._ended = False, threading.Event()  # whether the thread takes no more; and is no more
        self._resting = threading.RLock()  # held by whoever does the rest
        self._thread = threading.Thread(target=self._work, name=NAME, daemon=True)
        _working.add(self)
        try:
            self._thread.start()
        except BaseException:  # Ctrl-C, too
            _working.discard(self)
            self.end()
            raise

    def begin(self, work: Callable[..., Result], *given: Any) -> Future:
        """Have some work done, once all before it is; here, if the thread takes no more."""
        future: Future = Future()
        self._orders.put((future, work, given))
        if self._over:
            self._do_the_rest()
        return future

    def finish(self, last: Callable[[], object] | None) -> None:
        """Have this done last, if there is something, and wait for the end.

        Not in its own thread, where the collector may come, too; nor in another's for long: who waits there for whom
        is not known.
        """
        done = self.begin(last or bool)
        self.end()
        current = threading.current_thread()
        if current is self._thread:
            return
        if current.name == NAME:
            wait([done], PATIENCE)
        else:
            self.join()
        if done.done():
            done.result()

    def end(self) -> None:
        """Let the thread end, after all that it was given."""
        self._orders.put(None)

    def lose(self) -> None:
        """Take the thread for ended."""
        self._over = True
        self._ended.set()

    def join(self) -> None:
        """Wait for the end. Not by the thread's own ``join``: interrupted, that takes it for ended (Python 3.11)."""
        self._ended.wait()

    def _work(self) -> None:
        while order := self._orders.get():
            _fulfil(*order)
            del order  # while it waits, it keeps nothing
        self._over = True
        self._do_the_rest()
        _working.discard(self)
        self._ended.set()

    def _do_the_rest(self) -> None:
        """Do what came too late for the thread."""
        with self._resting, contextlib.suppress(queue.Empty):
            while True:
                if order := self._orders.get_nowait():
                    _fulfil(*order)


def _fulfil(future: Future, work: Callable[..., Result], given: tuple) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work(*given))
        except BaseException as error:
            future.set_exception(error)


_working: set[_Worker] = set()  # those whose threads have not ended


def _forget_all() -> None:
    """In a process that was forked: its copies of these threads are not there."""
    for worker in _working:
        worker.lose()
    _working.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


@atexit.register
def _end_all() -> None:
    """Before Python ends: threads that are at work then may crash it."""
    for worker in (working := list(_working)):
        worker.end()
    for worker in working:
        worker.join()


def in_parallel(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    prepare: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Yield ``work(item)`` of all items in order; with several threads, one item more than these is taken ahead.

    ``prepare`` is called first in each of several threads.
    """
    if threads == 1:
        yield from map(work, items)
        return
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(threads, initializer=prepare) as pool:
        try:
            for item in items:
                pending.append(_begin(pool, work, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _begin(pool: ThreadPoolExecutor, work: Callable[..., Result], *given: Any) -> Future:
    """Let ``pool`` do some work; where it no longer takes any, do it here.

    Once the main thread has come to its end, no pool takes work; other threads, which Python waits for, still want it.
    """
    try:
        return pool.submit(work, *given)
    except RuntimeError:
        done: Future = Future()
        _fulfil(done, work, given)
        return done
