"""Run jobs one after the other: skip results that are made already, and report failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import files
from errors import CatchFailure, UserError, describe_error, is_bad_input, is_disk_error
from lipsync import LipSync, Options, ResolvedOptions
from lipsync.options import FILE_OPTIONS
from reporting import PrefixedReporter
from shares import Share

from .listing import SettledJob


@dataclass(frozen=True)
class Failure:
    job: str
    reason: str  # one line
    bad_input: bool  # and not a failure of the program or the machine


@dataclass
class Outcome:
    """The outcome of the jobs of one process, or of all."""

    made: int = 0
    made_before: int = 0
    failed: list[Failure] = field(default_factory=list)

    @classmethod
    def from_json(cls, part: dict) -> Outcome:
        return cls(**{**part, "failed": [Failure(**failure) for failure in part["failed"]]})

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.made + other.made, self.made_before + other.made_before, self.failed + other.failed)

    @property
    def done(self) -> int:
        return self.made + self.made_before

    def __str__(self) -> str:
        before = f" ({self.made_before} of them before)" if self.made_before else ""
        lines = [f"{self.done} of {self.done + len(self.failed)} videos are made{before}, {len(self.failed)} failed"]
        return "\n".join(lines + [f"  {failure.job}: {failure.reason}" for failure in self.failed])

    def check(self) -> None:
        """Raise UserError if jobs failed, all because of bad input; RuntimeError if another try may help."""
        if self.failed:
            kind = UserError if all(failure.bad_input for failure in self.failed) else RuntimeError
            raise kind(
                f"{len(self.failed)} of {self.done + len(self.failed)} videos failed, as reported above; the same "
                "command, without --again, makes only these"
            )


def work_through(jobs: Sequence[SettledJob], lips: LipSync, again: bool = False) -> Outcome | None:
    """Make the videos of settled jobs that are not made yet (``again``: all), and report the outcome.

    Under torchrun every process takes its share, and the last to finish reports and returns the outcome of all; the
    others return None. Raises UserError for errors that would make every job fail.
    """
    if not jobs:
        return Outcome()
    share = Share.begin(jobs[0].outfile.parent)
    mine = share.of(jobs)
    todo = [job for job in mine if again or not is_made(job, lips)]
    outcome = Outcome(made_before=len(mine) - len(todo))
    try:
        if todo:
            lips.load(searching=not all(job.options.get("box") is not None for job in todo))
        for job in todo if again else ():  # or the same command without --again would take the old ones for made
            job.record_path.unlink(missing_ok=True)
        for job in lips.report.track(todo, "Videos", len(todo), "video"):
            attempt(job, lips, outcome)
    except (KeyboardInterrupt, OSError) as end:
        where = f" by {share}" if share.world > 1 else ""
        so_far = f"{outcome.done} of {len(mine)} videos are made{where}"
        go_on = "the same command, without --again, goes on from there"
        if isinstance(end, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped; {so_far}, and {go_on}") from None
        if is_disk_error(end):
            raise OSError(end.errno, f"{describe_error(end)}; {so_far}; make room, and {go_on}") from None
        raise
    parts = share.finish(asdict(outcome))
    if parts is None:
        lips.report.note(f"{share}: {outcome.done} of {len(mine)} videos are made; the last to finish reports on all")
        return None
    total = sum(map(Outcome.from_json, parts), Outcome())
    lips.report.note(str(total))
    return total


def attempt(job: SettledJob, lips: LipSync, outcome: Outcome) -> None:
    """Make one video and record what it was made from; count it, or note why it failed."""
    own = lips.copy_with(lips.search, PrefixedReporter(lips.report, job.outfile.name))
    with CatchFailure() as one:
        made_of = record(job, lips)
        take = own.run(job.face, job.audio, job.outfile, **job.options)
        files.save(job.record_path, json.dumps(made_of | {"bytes": job.outfile.stat().st_size}))
    if one.failure:
        outcome.failed.append(Failure(str(job), one.reason, is_bad_input(one.failure)))
        lips.report.note(f"{job} failed: {one.reason}")
        return
    outcome.made += 1
    lips.report.note(f"{job.outfile}: {take}")


# --------------------------------------------------------------------------------------------------------------------
# What a result was made from


def record(job: SettledJob, lips: LipSync) -> dict[str, object]:
    """Return all that decides what a result looks like: with another network, file or option it is made again.

    Files are identified by size, date and name, networks by their content.
    """
    options = asdict(Options.of(job.options))
    options["occlusion"] = options["occlusion"] or ResolvedOptions.occlusion  # not said is the same
    for name in FILE_OPTIONS:  # compared as files, like the other inputs
        del options[name]
    made_of = {
        "files": {name: files.stamp(path) if path.exists() else None for name, path in job.inputs().items()},
        "names": {name: path.name for name, path in job.inputs().items()},
        "options": options,
        **lips.loaded_digests,
        "face_detector": None if options["box"] is not None else _detector_of(lips),
        "precision": [lips.runtime.name, lips.runtime.precision, lips.dtype],
    }
    if job.options.get("face_like"):
        made_of["identity"] = _content_of(job.options.get("identity", Options.identity))
    if job.options.get("speaker"):
        made_of["expert"] = _content_of(lips.expert_path)
    if lips.credentials:  # only then: else results made before there were any would be made again
        made_of["credentials"] = files.cached_digest(lips.credentials.certificates)
    return json.loads(json.dumps(made_of, default=str))


def _detector_of(lips: LipSync) -> list[str | None]:
    """Return the detector that "auto" stands for here and today, and its weights."""
    search = lips.search.settled(lips.report)
    return [search.detector, _content_of(search.weights)]


def _content_of(path: str | Path | None) -> str | None:
    """Return the digest of a file; the name of a network stands for itself."""
    if not path:
        return None
    return files.cached_digest(Path(path)) if Path(path).is_file() else str(path)


def is_made(job: SettledJob, lips: LipSync) -> bool:
    """Return whether the result exists and was made from the job's present inputs and options."""
    try:
        known = json.loads(job.record_path.read_text(encoding="utf-8"))
        now = record(job, lips) | {"bytes": job.outfile.stat().st_size}
        return {"names": now["names"]} | known == now  # earlier versions did not record names
    except (OSError, ValueError, TypeError, RuntimeError):  # no record; or no detector, which the job will report
        return False
