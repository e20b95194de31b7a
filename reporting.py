"""Progress and notes of running work: for a terminal, a page, or nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[..., None]  # (steps, figure=…)


class Cancelled(BaseException):
    """Raise this in a Reporter to cancel the work; it is not treated as the failure of one of many files."""


class Reporter:
    """Receives notes and progress, and ignores them. Override methods as needed; ``terminal.Terminal`` prints them.

    Methods may be called from several threads at once.
    """

    def note(self, text: str) -> None:
        """Receive a note for the user, in one line."""

    def note_once(self, text: str) -> None:
        """Receive a note that would otherwise repeat for every video, or every few seconds."""
        if text not in (noted := vars(self).setdefault("_noted", set())):
            noted.add(text)
            self.note(text)

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Receive that ``done`` of ``total`` (None: not yet known) steps of a stage are done."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        """Yield a function to call with the number of further steps (of one ``unit`` each) that are done.

        ``done`` steps count as done already. The function also accepts figures of the step, such as a loss.
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


class PrefixedReporter(Reporter):
    """Passes everything to another reporter, and prefixes notes with a name."""

    def __init__(self, report: Reporter, name: str) -> None:
        self._report, self._name = report, name

    def note(self, text: str) -> None:
        self._report.note(f"{self._name}: {text}")

    def note_once(self, text: str) -> None:  # without the name: it is not about that alone
        self._report.note_once(text)

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        with self._report.stage(name, total, unit, done) as advance:
            yield advance


SILENT = Reporter()
