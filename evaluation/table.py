"""The figures of several takes of the same videos in one table: for people, as JSON, as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import lse, scores
from evaluation.aperture import PHASES, ApertureFit
from evaluation.quality import Quality, finite_mean, mean_figures
from evaluation.reports import csv_of

Row = dict[str, Any]  # figures; in rows of videos also names

GENERATED, MATCHED, SILENT = "generated", "matched", "silent"  # takes: to another voice, its own, and silence

PAPER = {  # LSE-D, LSE-C, FID
    "paper, LRS2, Wav2Lip": (6.386, 7.789, 4.887),
    "paper, LRS2, Wav2Lip + GAN": (6.469, 7.781, 4.446),
}
PHASE_FIGURES = {"seen": "mean opening of the lips", "known": "mean true opening", "error": "RMS error"}  # of ``Phase``
SYNC = ("LSE-D", "LSE-C", "FID", "success", "r", "lag")
COMMON_FIGURES = {  # figures of ``Quality``, with their meaning
    "sharpness": "of the lower face, relative to the source; 1 is as sharp",
    "csim": "cosine of the identities; 1 is the same person",
    "flicker": "grey levels outside the face, beyond the source's; 0 is best",
    "upper_flicker": "the same, in the upper half of the face",
    "seam": "grey levels of the step across the border of the drawn box; 0 is best",
    "jitter": "grey levels by which that step changes between frames; 0 is best",
}
LIKENESS = {
    "psnr": "dB, of the face; larger is better",
    "ssim": "of the face; 1 is the same",
    "lpips": "of the face; 0 is the same",
    "lmd": "distance of the mouth's landmarks, in eye distances; 0 is the same",
}
LEAKAGE = {
    "motion": "of the lower face, relative to the source; smaller leaks less",
    "lip_motion": "of the lips' landmarks, relative to the source; smaller leaks less",
    "leak": "share of frames with open lips; 0 is best",
}
LSE = {"LSE-D": "lse_d", "LSE-C": "lse_c"}
FIGURES = {**LIKENESS, **LEAKAGE, **COMMON_FIGURES}
# figures of each take: with another voice the face is not meant to look as filmed, and only in silence must lips rest
FIGURES_BY_TAKE = {GENERATED: COMMON_FIGURES, MATCHED: LIKENESS | COMMON_FIGURES, SILENT: LEAKAGE | COMMON_FIGURES}


def lse_row(report: scores.Scores, videos: Sequence[str]) -> Row:
    """Return the mean scores of ``videos``, each the mean of its faces; a video named twice counts twice."""
    by_file: dict[str, list[lse.Score]] = {}
    for score in report.scores:
        by_file.setdefault(score.file, []).append(score)
    each = [scores.Scores(by_file[name]) for name in videos]
    means = {name: finite_mean([one.mean(figure) for one in each]) for name, figure in LSE.items()}
    return {**means, "faces": sum(len(one.scores) for one in each)}


def discrepancy(generated: Row, matched: Row) -> Row:
    """Return how much better lips fit if the sound is the video's own; above 0, the source's lip movement leaks.

    After Yaman et al., "Assessing identity leakage in talking face generation", 2025.
    """
    return {
        "LSE-D": generated["LSE-D"] - matched["LSE-D"],
        "LSE-C": matched["LSE-C"] - generated["LSE-C"],
    }


def quality_row(take: str, found: Sequence[Quality]) -> Row:
    """Return the means of the figures of a take that were measured, each over the videos that have one.

    A still source has no movement to compare with, for example, and a face that fills the picture has no border.
    """
    return {"videos": len(found), **mean_figures(found, FIGURES_BY_TAKE[take])} if found else {}


def aperture_row(fits: Sequence[ApertureFit]) -> Row:
    """Return how well lips follow the known ones, over all and in each phase.

    ``r`` is the mean correlation at the ``lag``, in frames, where it is largest. One lag is used for all videos: if
    each had its own, unrelated movements would reach 0.17. In each phase, each has its own.
    """
    if not fits:
        return {}
    by_lag = {lag: float(np.mean([fit.by_lag[lag] for fit in fits])) for lag in fits[0].by_lag}
    best = max(by_lag, key=by_lag.__getitem__)
    return {"r": by_lag[best], "lag": float(best)} | phase_row(fits)


def phase_row(fits: Sequence[ApertureFit]) -> Row:
    """Return the mean seen and known openings and the error, by phase of the speaker's lips."""
    rows = {phase: [fit.phases[phase] for fit in fits if phase in fit.phases] for phase in PHASES}
    return {
        f"{name}_{phase}": float(np.mean([getattr(one, name) for one in some]))
        for phase, some in rows.items()
        for name in PHASE_FIGURES
        if some
    }


def text(rows: Mapping[str, Row]) -> str:
    """Return two tables: sync, beside the paper's figures; then pictures, one line per figure and column per take."""
    lines = [f"{'':28}" + "".join(f"{name:>9}" for name in SYNC)]
    for name, row in {**rows, **{name: dict(zip(SYNC, figures)) for name, figures in PAPER.items()}}.items():
        if row.keys() & set(SYNC):
            lines.append(f"{name:28}" + "".join(_cell(row, column) for column in SYNC))
    for take, row in rows.items():
        if not any(f"known_{phase}" in row for phase in PHASES):
            continue
        lines += ["", f"{take}: true phase", f"{'':14}" + "".join(f"{phase:>11}" for phase in PHASES)]
        for name, meaning in PHASE_FIGURES.items():
            cells = "".join(f"{_cell(row, f'{name}_{phase}'):>11}" for phase in PHASES)
            lines.append(f"{name:14}{cells}  {meaning}")
    takes = [name for name in FIGURES_BY_TAKE if name in rows]
    lines += ["", f"{'':14}" + "".join(f"{name:>11}" for name in takes)]
    lines.append(f"{'videos':14}" + "".join(f"{rows[take].get('videos', 0):11.0f}" for take in takes))
    for figure, meaning in FIGURES.items():
        if any(figure in rows[take] for take in takes):
            lines.append(
                f"{figure:14}" + "".join(f"{_cell(rows[take], figure):>11}" for take in takes) + f"  {meaning}"
            )
    return "\n".join(lines)


def _cell(row: Row, column: str) -> str:
    return f"{row[column]:9.3f}" if column in row else f"{'-':>9}"


def to_csv(rows: Mapping[str, Row], first: str = "row") -> str:
    """Return one line per row, with its name in the ``first`` column; missing figures are empty."""
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    return csv_of([first, *columns], ({first: name, **row} for name, row in rows.items()))
