"""The outcome of the clips: counted in every process, added up, and written as report.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import files
from errors import UserError
from hparams import hparams as hp

from .clips import OUT_OF_SYNC, Dropped, Kept, printable
from .syncing import SyncCheck


@dataclass
class Tally:
    """The outcome of the clips of one process, or of all."""

    kept: list[Kept] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    finished_before: int = 0  # of those kept
    detector_frames: int = 0
    detector_seconds: float = 0.0
    seconds: float = 0.0
    detector: str | None = None  # None: nothing was cut

    def add(self, pieces: Sequence[Kept], sync: SyncCheck | None, finished_before: bool) -> None:
        """Count the pieces of a video, cut now or in an earlier run; ``sync`` may drop those out of sync."""
        good, bad = sync.partition(pieces) if sync else (pieces, [])
        self.kept += good
        self.dropped += bad
        if finished_before:
            self.finished_before += len(good)
        else:
            self.detector = pieces[0].face_detector
            if pieces[0].detector_seconds:
                self.detector_frames += pieces[0].source_frames or pieces[0].frames
                self.detector_seconds += pieces[0].detector_seconds

    @classmethod
    def from_json(cls, part: dict) -> Tally:
        kept, dropped = ([kind(**clip) for clip in part[name]] for name, kind in (("kept", Kept), ("dropped", Dropped)))
        return cls(**{**part, "kept": kept, "dropped": dropped})

    def __add__(self, other: Tally) -> Tally:
        """Add two tallies; processes work in parallel, so ``seconds`` is that of the slower one."""
        return Tally(
            kept=self.kept + other.kept,
            dropped=self.dropped + other.dropped,
            finished_before=self.finished_before + other.finished_before,
            detector_frames=self.detector_frames + other.detector_frames,
            detector_seconds=self.detector_seconds + other.detector_seconds,
            seconds=max(self.seconds, other.seconds),
            detector=self.detector or other.detector,
        )


@dataclass(frozen=True)
class Summary:
    """The content of report.json."""

    data_root: str
    face_detector: str
    finished_before: int  # of those kept
    dropped_by_reason: dict[str, int]
    converted: dict[str, float]  # clips that were not at 25 fps, and the rate they had
    frames: int
    frames_with_face: int
    detector_frames_per_second: float | None  # of one worker; None if nothing was left to do
    seconds: float
    left_out: dict[str, int]  # frames in unusable pieces of videos that were kept, by reason
    verdicts: dict[str, int]  # on the sync of those kept, if it was checked
    kept: list[Kept]
    dropped: list[Dropped]

    @property
    def reasons(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.dropped_by_reason.items())

    def save(self, path: Path) -> None:
        files.save_json(path, asdict(self))


def summarize(total: Tally, data_root: Path, requested_detector: str) -> Summary:
    kept, dropped = total.kept, total.dropped
    speed = total.detector_frames / total.detector_seconds if total.detector_seconds else None
    return Summary(
        data_root=printable(str(data_root)),
        face_detector=total.detector or requested_detector,
        finished_before=total.finished_before,
        dropped_by_reason=dict(Counter(clip.reason for clip in dropped).most_common()),
        converted={clip.clip: clip.fps for clip in kept if clip.fps != hp.fps},
        frames=sum(clip.frames for clip in kept),
        frames_with_face=sum(clip.frames_with_face for clip in kept),
        detector_frames_per_second=speed and round(speed, 1),
        seconds=round(total.seconds, 1),
        left_out=dict(sum(map(Counter, {clip.source: clip.left_out for clip in kept}.values()), Counter())),
        verdicts=dict(Counter(clip.verdict for clip in kept if clip.verdict).most_common()),
        kept=sorted(kept, key=lambda clip: clip.clip),
        dropped=sorted(dropped, key=lambda clip: clip.source),
    )


def check_kept(summary: Summary, data_root: Path, path: Path) -> None:
    """Raise UserError if no clip can be used; ``path`` is the file of the summary."""
    if not summary.kept:
        doubt = "; is the expert a trained one?" if summary.reasons.startswith(OUT_OF_SYNC) else ""
        first, count = summary.dropped[0], len({clip.source for clip in summary.dropped})
        raise UserError(
            f"none of the {count} videos in {data_root} can be used ({summary.reasons}); "
            f"e.g. {first.source}: {first.detail}; {path} lists them all{doubt}"
        )
