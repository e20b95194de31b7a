"""LSE of many files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

import video
from errors import UserError
from evaluation.lse import Score, score_file
from evaluation.reports import Report
from faces import FaceSearch
from models import SyncNet_v2
from reporting import SILENT, Reporter

IN_SYNC = 1  # frames
SURE = 3.0  # LSE-C
LARGEST_FACE, WIDEST_FACE = 320, 1.3  # largest side in pixels, and aspect ratio, of videos of cropped faces


class Scores(Report[Score]):
    """The scores of all faces in many files."""

    KIND = Score

    def mean(self, name: str) -> float:
        """Return the mean of a score over all faces; NaN if there are none."""
        return float(np.mean([getattr(score, name) for score in self.scores])) if self.scores else float("nan")

    def in_sync(self) -> int:
        """Return how many files have a face in sync: a confident offset of at most one frame.

        LatentSync (Li et al., 2024) requires the same confidence of its training videos.
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


def warn_of_whole_frames(paths: Iterable[Path], report: Reporter) -> None:
    """Warn if the first readable video seems to show more than a face, since its whole frames are scored as faces."""
    for path in paths:
        with contextlib.suppress(UserError):  # reported when the video is scored
            info = video.probe(path)
            if max(info.width, info.height) > LARGEST_FACE or info.width > WIDEST_FACE * info.height:
                report.note(
                    f"warning: {path} is {info.width}x{info.height}, and its whole frames are scored as faces, as in "
                    "LRS2; if they show more than a face, these sync scores mean nothing: add --crop_faces"
                )
            return


def score_files(
    paths: Iterable[Path],
    network: SyncNet_v2,
    search: FaceSearch | None = None,
    report: Reporter = SILENT,
    name: str = "Scoring",
) -> Scores:
    """Score every file with ``lse.score_file``; failures are recorded and do not stop the others."""
    total = Scores()
    listed = list(paths)
    if not search:
        warn_of_whole_frames(listed, report)
    for path in report.track(listed, name, len(listed), "file"):
        total.attempt(path, partial(score_file, path, network, search, report))
    return total
