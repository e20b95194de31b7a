"""What a terminal shows of what goes on: notes, and a bar for every stage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tqdm import tqdm

from reporting import Advance, Reporter


class Notes(Reporter):
    """Notes on stdout."""

    def note(self, text: str) -> None:
        tqdm.write(text)  # above a bar, if there is one


class Terminal(Notes):
    """Notes on stdout, a bar for every stage on stderr; stages that go on at a time have theirs one below the other."""

    def __init__(self) -> None:
        self._bars: list[tqdm] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        # None: quiet when not a terminal
        how = {"unit": unit, "unit_scale": unit == "B", "initial": done, "disable": None}
        bar = tqdm(desc=name, total=total, **how)
        self._bars.append(bar)

        def advance(steps: int, **figures: float) -> None:
            bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()}, refresh=False)
            bar.update(steps)

        try:
            yield advance
        finally:
            self._end(bar)

    def _end(self, bar: tqdm) -> None:
        """Leave a bar as it is and move the others up to it; tqdm would leave a copy of each where it was."""
        with tqdm.get_lock():
            self._bars.remove(bar)
            for other in self._bars:
                other.clear()
            bar.close()
            for place, other in enumerate(self._bars):
                other.pos = place
                other.refresh()


TERMINAL = Terminal()


def terminal_of_one() -> Reporter:
    """Of several processes that torchrun started, the first shows bars: two would be drawn over each other."""
    return Notes() if int(os.environ.get("RANK", 0)) else TERMINAL
