"""LSE of many files: every score, the means, and why some have none."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

import files
from evaluation.lse import Score, score_file
from faces import FaceSearch
from reporting import SILENT, Reporter

Found = TypeVar("Found")
IN_SYNC = 1  # frames
SURE = 3.0  # LSE-C


@dataclass
class Report:
    """The scores of many files, and why some have none."""

    scores: list[Score] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # reason by file

    def mean(self, name: str) -> float:
        """Over all faces; NaN without any."""
        return float(np.mean([getattr(score, name) for score in self.scores])) if self.scores else float("nan")

    def in_sync(self) -> int:
        """How many files have a face in sync: its offset is found, surely, and is a frame at most.

        So sure are all videos that LatentSync (Li et al., 2024) trains on, after its own cleaning.
        """
        found = {s.file for s in self.scores if abs(s.offset) <= IN_SYNC and s.lse_c >= SURE}
        return len(found)

    def __str__(self) -> str:
        lines = [f"{'LSE-D':>8} {'LSE-C':>8} {'offset':>7} {'frames':>7} {'track':>6}  file"]
        lines += [
            f"{s.lse_d:8.3f} {s.lse_c:8.3f} {s.offset:7d} {s.frames:7d} {s.track:6d}  {s.file}" for s in self.scores
        ]
        if self.scores:
            lines.append(f"{self.mean('lse_d'):8.3f} {self.mean('lse_c'):8.3f}   mean of {len(self.scores)}")
        return "\n".join(lines + [f"skipped: {path}: {reason}" for path, reason in self.failed.items()])

    def to_json(self) -> dict[str, object]:
        mean = {name: self.mean(name) for name in ("lse_d", "lse_c")} if self.scores else None
        return {"mean": mean, "scores": [asdict(score) for score in self.scores], "failed": self.failed}

    def to_csv(self) -> str:
        return to_csv(Score, self.scores)


def to_csv(kind: type, rows: Iterable[Any]) -> str:
    """Return instances of the dataclass ``kind`` as a table, one line each, below the names of its fields."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)])
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    return text.getvalue()


def score_files(
    paths: Iterable[Path], network: torch.nn.Module, search: FaceSearch | None = None, report: Reporter = SILENT
) -> Report:
    """Score every file as ``lse.score_file`` does; a bad one is noted and does not stop the others."""
    total = Report()
    for path in paths:
        total.scores += attempt(partial(score_file, path, network, search, report), path, total.failed) or []
    return total


def attempt(work: Callable[[], Found], path: Path, failed: dict[str, str]) -> Found | None:
    """Do ``work`` about a file; if it cannot be done, note in ``failed`` why, so that others go on, and return None."""
    try:
        return work()
    except (ValueError, RuntimeError, OSError) as problem:
        if files.is_disk_error(problem):
            raise
        failed[str(path)] = str(problem).removeprefix(str(path)).strip(": ")
        return None
