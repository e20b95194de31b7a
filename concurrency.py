"""Streams of items that are worked on ahead of whoever takes them."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
# Workers of streams that have not ended. If the garbage collector ends one, it takes what belongs to it along in any
# order, and a stream that waits for a worker which is gone would wait for ever.
_working: set[ThreadPoolExecutor] = set()
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
    with ThreadPoolExecutor(1) as worker:
        _working.add(worker)
        try:
            pending.extend(_begin(worker, pending, next, iterator, end) for _ in range(depth))
            while (item := pending.popleft().result()) is not end:
                pending.append(_begin(worker, pending, next, iterator, end))
                yield item
        finally:
            _working.discard(worker)
            if stop:
                stop()
            for future in pending:
                future.cancel()
            if close := getattr(iterator, "close", None):
                _begin(worker, pending, close).result()  # in its thread, after its last step


def _begin(pool: ThreadPoolExecutor, pending: Iterable[Future], work: Callable[..., Result], *given: Any) -> Future:
    """Let ``pool`` do some work; where it no longer takes any, do it here, after what is ``pending``.

    Once the main thread has come to its end, no pool takes work; other threads, which Python waits for, still want it.
    """
    try:
        return pool.submit(work, *given)
    except RuntimeError:
        wait([future for future in pending if not future.cancelled()])
        done: Future = Future()
        try:
            done.set_result(work(*given))
        except BaseException as error:
            done.set_exception(error)
        return done


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
                pending.append(_begin(pool, (), work, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
