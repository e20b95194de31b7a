"""What a stage says while it works: to a terminal, to a page, or to nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[..., None]  # (steps, figure=…)


class Cancelled(BaseException):
    """Raise it in a Reporter to stop what goes on: nobody takes it for the failure of one of many files."""


class Reporter:
    """Is told what goes on, and keeps it to itself. Override what you want to hear; ``terminal.Terminal`` prints it.

    Threads that work for a call tell it too, so calls may come from several, and overlap.
    """

    def note(self, text: str) -> None:
        """Hear what the user should know, in one line."""

    @property
    def whole(self) -> Reporter:
        """Who hears it in the end."""
        return self

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Hear that ``done`` of ``total`` (None: nobody knows yet) steps of a stage are done."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        """Yield a function that is called with the number of steps (``unit`` each) that have been done since.

        ``done`` are done before; figures of the step, such as a loss, may be told as well.
        """

        def advance(steps: int, **figures: float) -> None:
            nonlocal done
            done += steps
            self.progress(name, done, total)

        advance(0)
        yield advance

    def track(self, items: Iterable[Item], name: str, total: int | None = None, unit: str = "frame") -> Iterator[Item]:
        """Yield ``items``, each a step of the stage ``name``."""
        with self.stage(name, total, unit) as advance:
            for item in items:
                yield item
                advance(1)


class Named(Reporter):
    """Tells another reporter, with every note, which of several it is about."""

    def __init__(self, report: Reporter, name: str) -> None:
        self._report, self._name = report, name

    def note(self, text: str) -> None:
        self._report.note(f"{self._name}: {text}")

    @property
    def whole(self) -> Reporter:
        return self._report.whole

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        with self._report.stage(name, total, unit, done) as advance:
            yield advance


SILENT = Reporter()
