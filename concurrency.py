"""Streams of items that are worked on ahead of whoever takes them."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
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
    worker = _Worker()
    try:
        pending.extend(worker.begin(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(worker.begin(next, iterator, end))
            yield item
    finally:
        if stop:
            stop()
        for future in pending:
            future.cancel()
        closed = worker.begin(getattr(iterator, "close", bool))  # in its thread, after its last step
        worker.end()
        closed.result()


class _Worker:
    """A thread that does one thing after another.

    No ``ThreadPoolExecutor``: that takes a lock of the whole process to begin something. If the garbage collector comes
    just then, and ends a stream that somebody has left, that would wait for the lock in its own thread, for ever.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue = queue.SimpleQueue()  # the kind of queue that the collector may use
        self._thread = threading.Thread(target=_work_off, args=(self._orders,), daemon=True)
        self._over = False
        _working.add(self)
        self._thread.start()

    def begin(self, work: Callable[..., Result], *given: Any) -> Future:
        """Have some work done, once all before it is; here, if the thread has come to its end."""
        future: Future = Future()
        if self._over:
            _fulfil(future, work, given)
        else:
            self._orders.put((future, work, given))
        return future

    def end(self) -> None:
        """Let the thread end, after all that it was given."""
        _working.discard(self)
        self._orders.put(None)

    def join(self) -> None:
        self._thread.join()
        self._over = True


def _work_off(orders: queue.SimpleQueue) -> None:
    while order := orders.get():
        _fulfil(*order)
        del order  # while it waits, it keeps nothing


def _fulfil(future: Future, work: Callable[..., Result], given: tuple) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work(*given))
        except BaseException as error:
            future.set_exception(error)


# Of streams that have not ended: the collector takes what belongs together in any order, and they need theirs.
_working: set[_Worker] = set()


@atexit.register
def _end_all() -> None:
    """Before Python ends: threads that are at work then may crash it."""
    for worker in list(_working):
        worker.end()
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
