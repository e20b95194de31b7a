"""Comparisons of many lip-synced videos, each with its source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from errors import UserError
from evaluation.judges import Judges, missing_judges
from evaluation.leakage import silent_take
from evaluation.quality import Quality, mean_figures, score_file
from evaluation.reports import Report
from faces import FaceSearch
from lipsync import LipSync, Options
from reporting import SILENT, Reporter

FIGURES = [field.name for field in fields(Quality) if field.name not in ("file", "source", "frames")]


@dataclass
class Comparisons(Report[Quality]):
    """How many videos compare with their sources."""

    KIND = Quality
    judges: Judges = Judges()

    def __str__(self) -> str:
        """Return one line per video with the figures that were measured, then those that were not."""
        lines = []
        if self.scores:
            widths = {name: max(8, len(name) + 2) for name in FIGURES if getattr(self.scores[0], name) is not None}
            lines.append("".join(f"{name:>{width}}" for name, width in widths.items()) + "  frames  file")
            for score in self.scores:
                values = "".join(f"{getattr(score, name):{width}.3f}" for name, width in widths.items())
                lines.append(f"{values}{score.frames:8d}  {score.file}")
            if len(self.scores) > 1:
                means = "".join(f"{value:{widths[name]}.3f}" for name, value in self.means().items())
                lines.append(f"{means}          mean of {len(self.scores)}")
        return "\n".join(lines + missing_judges(self.judges) + self.skipped())

    def means(self) -> dict[str, float]:
        return mean_figures(self.scores, FIGURES)

    def to_json(self) -> dict[str, object]:
        return {"mean": self.means(), **super().to_json()}

    def check_some(self) -> Comparisons:
        """Return ``self``; raise UserError with all reasons if no video could be compared."""
        if not self.scores:
            raise UserError("; ".join(f"{path}: {reason}" for path, reason in self.failed.items()))
        return self


def compare_files(
    pairs: Sequence[tuple[Path, Path]],
    search: FaceSearch = FaceSearch(),
    report: Reporter = SILENT,
    judges: Judges = Judges(),
    pads: Sequence[int] = (0, 0, 0, 0),
    name: str = "Comparing",
    face_index: int | None = None,
) -> Comparisons:
    """Compare every (video, source) with ``quality.score_file``; failures are recorded and do not stop the others."""
    found = Comparisons(judges=judges)

    def compare(made: Path, source: Path) -> list[Quality]:
        return [score_file(made, source, search, report, judges, pads, face_index=face_index)]

    for made, source in report.track(pairs, name, len(pairs), "file"):
        found.attempt(made, partial(compare, made, source))
    return found


def folders_below(videos: Sequence[Path]) -> list[Path]:
    """Return the folder of each video, relative to their common one: datasets such as LRS2 reuse file names.

    Raises UserError if they are on several drives, or the results of two videos would have the same name.
    """
    places = [path.resolve().parent for path in videos]
    try:
        root = os.path.commonpath(places)
    except ValueError:
        raise UserError("the videos are on several drives; give those of each drive in a run of their own") from None
    below = [place.relative_to(root) for place in places]
    if len({(place, path.stem) for place, path in zip(below, videos)}) < len(videos):
        raise UserError("two of the videos have the same name; give them in two runs, with a --results_dir each")
    return below


def compare_silent(
    videos: Sequence[Path], folder: Path, lips: LipSync, judges: Judges = Judges(), **options: Any
) -> Comparisons:
    """Lip-sync every video to silence, into ``folder``, and compare it with its source.

    Mouth movement that remains is leakage: ``motion``, and with landmarks ``leak``. ``options`` are those of
    ``LipSync.run``. Raises UserError for two videos with the same name.
    """
    places = [folder / place for place in folders_below(videos)]
    lips.load()  # what would make every video fail fails here, before any work is done
    found, how = Comparisons(judges=judges), lips.resolve(Options.of(options))

    def compare(path: Path, place: Path) -> list[Quality]:
        made = silent_take(lips, path, place, **options)
        return [score_file(made, path, lips.search, lips.report, judges, how.pads, face_index=how.face_index)]

    for path, place in lips.report.track(list(zip(videos, places)), "Lip-syncing to silence", len(videos), "video"):
        found.attempt(path, partial(compare, path, place))
    return found
