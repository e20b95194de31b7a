"""The paper's evaluation as one call: list, videos, scores, one table beside the paper's.

Every video is lip-synced to the voice of another (``generated``). If requested, it is also lip-synced to its own voice
(``matched``) and to silence (``silent``), for the figures that need these takes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import files
import reporting
from errors import CatchFailure, UserError
from evaluation import aperture, fid, lse, pairs, table
from evaluation.comparisons import Comparisons, compare_files
from evaluation.judges import Judges, missing_judges, open_judges
from evaluation.leakage import write_silence
from evaluation.pairs import Made, Pair, numbered_videos
from evaluation.scores import score_files
from evaluation.table import GENERATED, MATCHED, SILENT
from faces import FaceSearch
from lipsync import LipSync, Options, ResolvedOptions
from models import SyncNet_v2
from reporting import Reporter

TAKES = (MATCHED, SILENT)  # the optional ones
REAL = "real videos"
NO_FVD = "not measured: FVD; no package for it is maintained (docs/measuring.md)"


@dataclass(frozen=True)
class Panel:
    """All networks that score the videos."""

    lse: SyncNet_v2
    fid: fid.Embed | None = None  # None: FID is left out
    others: Judges = Judges()


def open_panel(
    device: torch.device = torch.device("cpu"),
    report: Reporter = reporting.SILENT,
    lse_weights: str | Path = "syncnet_v2",
    fid_weights: str | Path | None = "fid_inception",
    **others: str | Path | None,
) -> Panel:
    """Return the judges whose weights are given: files, or names to download; ``others`` are those of ``Judges``."""
    judge = lse.open_judge(lse_weights, device, report)
    embed = fid.open_inception(fid_weights, device, report) if fid_weights else None
    return Panel(judge, embed, open_judges(device, report, **others))


@dataclass
class Evaluation:
    """The videos made and their figures; ``str`` is the table, followed by what is missing from it."""

    folder: Path
    made: dict[str, Made]  # by take
    judges: Judges = Judges()
    rows: dict[str, table.Row] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # what could not be scored, and why
    likeness: dict[str, Comparisons] = field(default_factory=dict)  # by take
    notes: list[str] = field(default_factory=list)  # about the figures

    def __str__(self) -> str:
        lines = []
        if self.rows:
            lines += [table.text(self.rows), *self.notes, *missing_judges(self.judges), NO_FVD]
            for take in sorted(set(TAKES) - self.made.keys()):
                figures = ", ".join(name for name in table.FIGURES_BY_TAKE[take] if name not in table.COMMON_FIGURES)
                lines.append(f"not measured: {figures}; --takes {take}")
            lines += [f"not scored: {path}: {reason}" for path, reason in self.failed.items()]
        return "\n".join(lines + [str(made) for made in self.made.values()])

    def save(self) -> None:
        """Write scores.json, scores.csv (one line per row) and videos.csv (one line per video)."""
        if self.rows:
            skipped = {take: made.skipped for take, made in self.made.items() if made.skipped}
            scores = {**self.rows, "not scored": self.failed, "skipped": skipped}
            files.save_json(self.folder / "scores.json", scores)
            files.save(self.folder / "scores.csv", table.to_csv(self.rows))
            if self.likeness:
                files.save(self.folder / "videos.csv", table.to_csv(self.videos(), "file"))

    def videos(self) -> dict[str, table.Row]:
        """Return the figures of each video by its file, as far as its take determines them."""
        rows = {}
        for take, likeness in self.likeness.items():
            speeches = {str(path): str(self.made[take].pairs[n].audio) for n, path in self.made[take].finished.items()}
            for one in likeness.scores:
                told = {
                    name: getattr(one, name) for name in table.FIGURES_BY_TAKE[take] if getattr(one, name) is not None
                }
                rows[one.file] = {"take": take, "source": one.source, "speech": speeches[one.file], **told}
        return rows

    def check(self) -> None:
        """Raise RuntimeError if a pair is missing its video, or a video its score."""
        for made in self.made.values():
            made.check()
        if self.failed:
            raise RuntimeError(
                f"{len(self.failed)} videos or figures could not be scored, and are left out; they are named above"
            )


def evaluate(
    lips: LipSync,
    takes: dict[str, list[Pair]],
    results_dir: Path,
    panel: Panel,
    crop_faces: bool = False,
    report: Reporter | None = None,
    **options: Any,
) -> Evaluation | None:
    """Lip-sync the pairs of all takes (see ``list_takes``) into ``results_dir``, and measure everything.

    Existing videos are reused; the figures are saved in ``results_dir``. With ``crop_faces``, LSE tracks and crops
    faces first, as real videos need. ``options`` are those of ``LipSync.run``, except that ``pads`` are 0 by default,
    as in the reference's evaluation.
    If there are several processes, the last to finish measures, with its progress in ``report`` (None: that of
    ``lips``); the others return None.
    """
    options.setdefault("pads", (0, 0, 0, 0))
    made = None
    for take, listed in takes.items():  # in the same order everywhere: the last take to end is the end of all
        made = pairs.generate(listed, folder_of(results_dir, take), lips, **options)
    if not made:
        return None
    all_made = {take: Made(listed, folder_of(results_dir, take)) for take, listed in takes.items()}
    found = Evaluation(results_dir, all_made, panel.others)
    if all_made[GENERATED].finished:
        report = report or lips.report
        try:  # what took hours is not lost with what takes more
            compare_sync(found, panel, lips.search if crop_faces else None, report)
            compare_pictures(found, lips.search, lips.resolve(Options.of(options)), report)
            compare_heads(found)
        except BaseException:
            found.failed["the other figures"] = "stopped before they were measured"
            raise
        finally:
            found.save()
    return found


def list_takes(
    data_root: Path,
    results_dir: Path,
    filelist: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    takes: Collection[str] = (),
    report: Reporter = reporting.SILENT,
) -> dict[str, list[Pair]]:
    """Return the pairs to lip-sync, by take: those of the list, and each of its videos with its own sound and silence.

    Without a list, ``count`` pairs (None: one per video) are drawn and written into ``results_dir``. Raises UserError
    if that holds videos of another list.
    """
    if results_dir.resolve() == data_root.resolve():
        raise UserError("--results_dir is the same folder as --data_root, so videos would mix; give another")
    if not filelist:
        filelist = results_dir / "filelist.txt"
        _write_drawn(filelist, pairs.draw(data_root, count, seed, without=results_dir), report)
    crossed = pairs.read_filelist(filelist, data_root, audio_first=True)
    videos = list(dict.fromkeys(pair.video for pair in crossed))
    listed = {GENERATED: crossed}
    if MATCHED in takes:
        listed[MATCHED] = [Pair(path, path) for path in videos]
    if SILENT in takes:
        silence = folder_of(results_dir, SILENT) / "sound"
        listed[SILENT] = [Pair(silence / f"{number}.wav", path) for number, path in enumerate(videos)]
        for pair in listed[SILENT]:
            with contextlib.suppress(UserError):  # unreadable videos are reported when they are lip-synced
                write_silence(pair.video, pair.audio)
    return listed


def _write_drawn(path: Path, drawn: pairs.Drawn, report: Reporter) -> None:
    """Write the list, but not over another one whose videos are in the folder."""
    if drawn.note:
        report.note(drawn.note)
    text = pairs.filelist(drawn.pairs)
    if numbered_videos(path.parent) and path.is_file() and files.read_text(path) != text:
        raise UserError(
            f"{path.parent} holds videos of another list, {path.name}; go on with --filelist {path}, or give another "
            "--results_dir"
        )
    files.save(path, text)


def folder_of(results_dir: Path, take: str) -> Path:
    return results_dir if take == GENERATED else results_dir / take


# --------------------------------------------------------------------------------------------------------------------
# Figures


def compare_sync(found: Evaluation, panel: Panel, search: FaceSearch | None, report: Reporter) -> None:
    """Add LSE, success rates, discrepancy and, last, FID, whose failure loses none of the others.

    For LSE, a pair counts only if all its videos can be scored: the real one (not without sound), the one lip-synced to
    another voice and, if requested, the one lip-synced to its own.
    """
    generated = found.made[GENERATED]
    sides = {REAL: {n: generated.pairs[n].video for n in generated.finished}, GENERATED: generated.finished}
    if MATCHED in found.made and (matched := found.made[MATCHED]).finished:
        own = {matched.pairs[n].video: path for n, path in matched.finished.items()}
        if both := {n: own[video] for n, video in sides[REAL].items() if video in own}:
            sides[MATCHED] = both
    scored = {}
    for name, side in sides.items():
        made = found.made[name].finished.values() if name in found.made else ()
        every = dict.fromkeys([*side.values(), *made])  # one video may be in several pairs
        scored[name] = score_files(every, panel.lse, search, report, f"Scoring {name}")
    for scores in scored.values():
        found.failed |= scores.failed
    usable = [n for n in sides[REAL] if all(n in side and str(side[n]) not in found.failed for side in sides.values())]
    chosen = {name: [side[n] for n in usable] for name, side in sides.items()}
    for name, side in sides.items():
        count = len(found.made[name].pairs) if name in found.made else len(set(side.values()))
        success = {"success": scored[name].in_sync() / count}
        found.rows[name] = table.lse_row(scored[name], [str(path) for path in chosen[name]]) | success
    if MATCHED in found.rows:
        found.rows["discrepancy"] = table.discrepancy(found.rows[GENERATED], found.rows[MATCHED])
    if panel.fid:
        with CatchFailure() as caught:
            apart = fid.compare([*sides[REAL].values()], [*sides[GENERATED].values()], panel.fid)
            found.rows[GENERATED]["FID"] = apart.fid
            found.failed |= apart.failed
            found.notes.append(apart.summary)
        if caught.failure:
            found.failed["FID"] = caught.reason


def compare_pictures(found: Evaluation, search: FaceSearch, options: ResolvedOptions, report: Reporter) -> None:
    """Compare every video of every take with its source, by the judges whose figures the take has.

    The means are over the sources that could be compared in all takes, if there are any, so that takes are comparable:
    other sources may be sharper. Each counts as often as in the list of pairs.
    """
    for take, made in found.made.items():
        listed = [(path, made.pairs[n].video) for n, path in made.finished.items()]
        judges, name = found.judges.for_figures(table.FIGURES_BY_TAKE[take]), f"Comparing {take}"
        likeness = compare_files(listed, search, report, judges, options.pads, name, options.face_index)
        found.likeness[take] = likeness
        sources = {str(path): str(source) for path, source in listed}
        for path, why in likeness.failed.items():
            known = found.failed.get(sources[path])
            if not (known and why.endswith(known)):  # a source that cannot be read is named once
                found.failed.setdefault(path, why)
    sources = [{one.source for one in likeness.scores} for likeness in found.likeness.values()]
    common = set.intersection(*sources)
    often = Counter(one.source for take in {GENERATED} & found.likeness.keys() for one in found.likeness[take].scores)
    for take, likeness in found.likeness.items():
        some = [one for one in likeness.scores if one.source in common] or likeness.scores
        if take != GENERATED:
            some = [one for one in some for _ in range(often[one.source] or 1)]
        found.rows.setdefault(take, {}).update(table.quality_row(take, some))


def compare_heads(found: Evaluation) -> None:
    """Add how well lips follow the known ones, over the videos whose apertures and speaker's apertures are known."""
    made, fits = found.made[GENERATED], []
    for n, path in made.finished.items():
        try:
            fits.append(aperture.compare_head(path, made.pairs[n].video, made.pairs[n].audio))
        except UserError as problem:
            found.failed.setdefault(str(path), str(problem))
    found.rows[GENERATED] |= table.aperture_row([fit for fit in fits if fit])
