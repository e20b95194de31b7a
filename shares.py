"""One run in several processes: each does its share of the work, and the last to finish gets all results.

    share = Share.begin(folder)
    mine = share.of(everything)
    ...
    results = share.finish(result)  # of all processes, or None: another process will get them

Uses files in a folder, not a process group: nobody waits for the slowest, and machines only have to share the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import files

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The share of one of ``world`` processes, numbered by torchrun; each has a file with its state."""

    folder: Path
    rank: int
    world: int
    run: str = ""  # see ``_run_id``

    @classmethod
    def begin(cls, folder: Path) -> Share:
        """Begin this process's share of a run; all processes must have access to ``folder``."""
        world = int(os.environ.get("WORLD_SIZE", 1))
        share = cls(folder, int(os.environ.get("RANK", 0)), world, _run_id(world))
        if share.world > 1:
            with files.locked(share._lock, wait=True):
                if share._entry(share.rank):  # left by an interrupted run of the same name: discard it
                    share._clear()
                share._save(None)
        return share

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world}"

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        return items[self.rank :: self.world]

    def finish(self, result: Any) -> list[Any] | None:
        """Store ``result`` (JSON-serialisable, not None); return all results, by rank, if this was the last process."""
        if self.world == 1:
            return [result]
        with files.locked(self._lock, wait=True):
            self._save(result)
            entries = [self._entry(rank) for rank in range(self.world)]
            results = [entry["result"] if entry else None for entry in entries]
            if any(result is None for result in results):
                return None
            self._clear()
        return results

    @property
    def _lock(self) -> Path:
        return self.folder / f".processes of {self.world}.lock"

    def _path(self, rank: int) -> Path:
        return self.folder / f".process {rank} of {self.world}.json"

    def _save(self, result: Any) -> None:
        files.save(self._path(self.rank), json.dumps({"run": self.run, "result": result}))

    def _entry(self, rank: int) -> dict[str, Any] | None:
        """Return what a process of this run has stored; None if there is nothing, or it is from another run."""
        try:
            entry = json.loads(self._path(rank).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return entry if isinstance(entry, dict) and entry.get("run") == self.run else None

    def _clear(self) -> None:
        for rank in range(self.world):
            self._path(rank).unlink(missing_ok=True)


def _run_id(world: int) -> str:
    """Return an identifier of this run, to tell it from others in the same folder, as far as torchrun allows.

    Without --standalone and --rdzv_id, torchrun names every run "none". If all processes are on one machine, its log
    folder identifies the run; that folder has a subfolder for each attempt, with one for each process.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    errors, is_here = os.environ.get("TORCHELASTIC_ERROR_FILE"), os.environ.get("LOCAL_WORLD_SIZE") == str(world)
    return f"{name} {Path(errors).parent.parent}" if errors and is_here else name
