"""Streams of items that are worked on ahead of whoever takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
# Workers of streams that have not ended. If the garbage collector ends one, it takes what belongs to it along in any
# order, and a stream that waits for a worker which is gone would wait for ever.
_working: set[ThreadPoolExecutor] = set()


def prefetch(
    items: Iterable[Item], depth: int = 2, stop: Callable[[], None] | None = None
) -> Generator[Item, None, None]:
    """Yield ``items``, computing up to ``depth`` of them ahead in a thread; errors surface here, in order.

    ``stop`` is called when no more are wanted, to end what the thread may be waiting for.
    """
    iterator = iter(items)
    end = object()
    pending: deque = deque()
    with ThreadPoolExecutor(1) as worker:
        _working.add(worker)
        try:
            pending.extend(worker.submit(next, iterator, end) for _ in range(depth))
            while (item := pending.popleft().result()) is not end:
                pending.append(worker.submit(next, iterator, end))
                yield item
        finally:
            _working.discard(worker)
            if stop:
                stop()
            for future in pending:
                future.cancel()
            if close := getattr(iterator, "close", None):
                _in_thread_of(worker, close)


def _in_thread_of(worker: ThreadPoolExecutor, close: Callable[[], object]) -> None:
    """Close what ``worker`` ran, in its thread, after its last step; here if that thread ended with Python."""
    try:
        closing = worker.submit(close)
    except RuntimeError:
        close()
    else:
        closing.result()


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``work(item)`` of all items in order; with several threads, one item more than these is taken ahead."""
    if threads == 1:
        yield from map(work, items)
        return
    pending: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
