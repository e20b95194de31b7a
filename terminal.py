"""Reporters for the terminal: notes, and a progress bar for every stage."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from tqdm import tqdm

from reporting import Advance, Reporter


class Notes(Reporter):
    """Prints notes to stdout."""

    def note(self, text: str) -> None:
        tqdm.write(text)  # above a bar, if there is one


class Terminal(Notes):
    """Prints notes to stdout and a progress bar per stage to stderr; bars of simultaneous stages are stacked."""

    def __init__(self) -> None:
        self._bars: list[tqdm] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        # disable=None: no bar if stderr is not a terminal; notebooks show bars without being one
        how = {"unit": unit, "unit_scale": unit == "B", "initial": done}
        how["disable"] = False if type(sys.stderr).__module__.startswith("ipykernel") else None
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
        """Close a bar, leaving it on screen, and move the others up; tqdm would leave a copy of each where it was."""
        with tqdm.get_lock():
            self._bars.remove(bar)
            for other in self._bars:
                other.clear()
            bar.close()
            for place, other in enumerate(self._bars):
                other.pos = place
                other.refresh()


TERMINAL = Terminal()


def terminal_for_rank() -> Reporter:
    """Return ``TERMINAL`` for torchrun's first process; others print no bars, which would overwrite each other."""
    return Notes() if int(os.environ.get("RANK", 0)) else TERMINAL
