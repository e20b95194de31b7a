"""A folder of videos -> training data, from end to end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import files
from errors import UserError
from reporting import SILENT, Reporter
from shares import Share

from .clips import (
    Clip,
    Dropped,
    find_clips,
    find_dropped,
    find_finished,
    is_from_another_program,
    is_from_another_video,
)
from .report import Summary, Tally, check_kept, summarize
from .syncing import open_expert
from .workers import PreprocessingOptions, cut_clips, plan_workers


def preprocess(
    data_root: str | Path,
    preprocessed_root: str | Path,
    options: PreprocessingOptions = PreprocessingOptions(),
    report: Reporter = SILENT,
) -> Summary | None:
    """Cut every video below ``data_root`` that is not finished yet; write ``preprocessed_root``/report.json.

    Under torchrun every process takes its share of the clips. The last one to finish writes and returns the summary,
    the others return None. Raises UserError if no video can be used; RuntimeError for other failures.
    """
    data_root, root = Path(data_root), Path(preprocessed_root)
    if data_root.resolve() == root.resolve():
        raise UserError(f"{root} holds the videos; give another folder for the clips")
    files.check_folder(root)
    began = time.monotonic()
    share = Share.begin(root)
    mine = share.of(find_clips(data_root, root))
    tally = cut_unfinished(mine, options, SILENT if share.rank else report)
    tally.seconds = time.monotonic() - began
    parts = share.finish(asdict(tally))
    if parts is None:
        clips = f"{len(tally.kept)} clips kept"
        report.note(f"{share}: {clips}; the last to finish writes report.json")
        return None
    total = sum(map(Tally.from_json, parts), Tally())
    summary = summarize(total, data_root, options.search.detector)
    summary.save(root / "report.json")
    check_kept(summary, data_root, root / "report.json")
    return summary


def cut_unfinished(clips: Sequence[Clip], options: PreprocessingOptions, report: Reporter) -> Tally:
    """Cut the clips that no earlier run has finished, or found unusable; check the sync of the finished ones."""
    tally, todo, finished = Tally(), [], set()
    for clip in clips:
        how = options.search.detector, options.seconds
        kept = find_finished(clip, *how)
        if kept and (not options.sync or options.sync.is_done(kept)):
            tally.add(kept, options.sync, finished_before=True)
        elif not kept and (dropped := find_dropped(clip, *how)):
            tally.dropped.append(dropped)
        else:
            todo.append(clip)
            finished |= {clip.source} if kept else set()
    uncut = [clip for clip in todo if clip.source not in finished]
    if others := [clip.name for clip in uncut if is_from_another_video(clip)]:
        report.note(
            f"note: {len(others)} clips of other videos had these names, and are replaced, the first: {others[0]}; "
            "give another data set another --preprocessed_root"
        )
    if foreign := [clip.name for clip in uncut if is_from_another_program(clip)]:
        report.note(
            f"note: {len(foreign)} clips made by another program (without clip.json) are cut again and replaced, the "
            f"first: {foreign[0]}"
        )
    cutting = bool(uncut)
    jobs = plan_workers(options, len(todo), report, cutting) if todo else []
    if jobs and options.sync:  # if it cannot be loaded, fail now rather than later
        open_expert(options.sync.expert, jobs[0].search.device)
    try:
        with contextlib.closing(cut_clips(todo, jobs)) as outcomes:
            stage = "Cutting faces" if cutting else "Comparing lips and sound"
            for outcome in report.track(outcomes, stage, len(todo), "clip"):
                if isinstance(outcome, Dropped):
                    tally.dropped.append(outcome)
                else:
                    tally.add(outcome, options.sync, outcome[0].source in finished)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; finished clips are kept, and the same command continues from there") from None
    return tally
