"""LSE of many files."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.lse import Score, score_file
from evaluation.reports import Report
from faces import FaceSearch
from models import SyncNet_v2
from reporting import SILENT, Reporter

IN_SYNC = 1  # frames
SURE = 3.0  # LSE-C


class Scores(Report[Score]):
    """The scores of all faces in many files."""

    KIND = Score

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
        return "\n".join(lines + self.skipped())

    def to_json(self) -> dict[str, object]:
        mean = {name: self.mean(name) for name in ("lse_d", "lse_c")} if self.scores else None
        return {"mean": mean, **super().to_json()}


def score_files(
    paths: Iterable[Path],
    network: SyncNet_v2,
    search: FaceSearch | None = None,
    report: Reporter = SILENT,
    name: str = "Scoring",
) -> Scores:
    """Score every file as ``lse.score_file`` does; a bad one is noted and does not stop the others."""
    total = Scores()
    listed = list(paths)
    for path in report.track(listed, name, len(listed), "file"):
        total.attempt(path, partial(score_file, path, network, search, report))
    return total
