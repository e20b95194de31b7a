"""Whether sound and lips of a finished clip belong together, as an expert finds, and the sound set right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile

import files
import sync
from dataset import MIN_FRAMES
from errors import UserError
from hparams import hparams as hp
from models import SyncNet_color, weights

from .clips import NOTE, Dropped, Kept
from .sound import write_sound

ACTIONS = ("report", "drop", "correct")
CONFIDENCE_DIGITS = 3


@dataclass(frozen=True)
class SyncCheck:
    """Which expert looks at every clip, and what to do with those whose lips and sound do not match."""

    action: str = "report"  # one of ``ACTIONS``
    expert: str | Path = weights.DEMO  # a file, lipsync_expert or demo

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise UserError(f"--sync {self.action} is not known; give one of {', '.join(ACTIONS)}")

    def is_done(self, clips: Sequence[Kept]) -> bool:
        """Whether all these clips have been looked at, by this expert, and set right if they are to be."""
        looked_at = all(clip.expert == name_of(self.expert) for clip in clips)
        return looked_at and not (self.action == "correct" and any(map(can_be_corrected, clips)))

    def sort_out(self, clips: Sequence[Kept]) -> tuple[list[Kept], list[Dropped]]:
        """Return the clips to train on, and those to leave out."""
        bad = [clip for clip in clips if is_out_of_sync(clip) and self.action != "report"]
        dropped = [Dropped(clip.source, "out of sync", _describe(clip)) for clip in bad]
        return [clip for clip in clips if clip not in bad], dropped


def _describe(clip: Kept) -> str:
    return f"{clip.clip} is {clip.verdict} (best offset {clip.offset_frames}, confidence {clip.confidence})"


def is_out_of_sync(clip: Kept) -> bool:
    return clip.verdict is not None and (clip.verdict == "unrelated" or clip.verdict.startswith("off by"))


def can_be_corrected(clip: Kept) -> bool:
    """Whether its sound is early or late, and has not been moved before."""
    return is_out_of_sync(clip) and clip.verdict != "unrelated" and not clip.shifted


def name_of(expert: str | Path) -> str:
    """Return what tells an expert from others, also from another that has come to its place."""
    path = weights.find(expert, SyncNet_color)
    return f"{expert} {_digest_of(path, files.stamp(path))}"


@lru_cache(maxsize=4)
def _digest_of(path: Path, _: object) -> str:
    return files.digest(path)[:16]


@lru_cache(maxsize=1)
def open_expert(path_or_name: str | Path, device: torch.device) -> sync.Expert:
    return sync.open_expert(path_or_name, device)


def check_sync(folder: Path, kept: Kept, check: SyncCheck, device: torch.device) -> Kept:
    """Note in a clip's folder how well sound and lips match, and if that is wanted and can be, set the sound right.

    A folder that is in use must not be given with ``correct``: it is changed file by file.
    """
    expert = open_expert(check.expert, device)
    name = name_of(check.expert)
    kept = _looked_at(folder, kept, expert, name)
    late = kept.offset_frames or 0
    if check.action == "correct" and can_be_corrected(kept) and _pictures_with_sound(folder, late) >= MIN_FRAMES:
        shift_sound(folder, late)
        shown = len(list(folder.glob("*.jpg")))
        seconds = round(kept.seconds - late / hp.fps, 3)
        kept = replace(_looked_at(folder, kept, expert, name), shifted=late)
        kept = replace(kept, frames_with_face=shown, seconds=seconds)
    files.save(folder / NOTE, json.dumps(asdict(kept), indent=1))
    return kept


def _looked_at(folder: Path, kept: Kept, expert: sync.Expert, name: str) -> Kept:
    result = sync.score_clip(folder, expert)
    confidence = round(result.confidence, CONFIDENCE_DIGITS)
    return replace(kept, expert=name, verdict=result.verdict, offset_frames=result.offset_frames, confidence=confidence)


def _pictures_with_sound(folder: Path, late: int) -> int:
    """Return how many pictures have sound once that is moved."""
    seconds = np.load(folder / "mel.npy", mmap_mode="r").shape[0] / hp.mel_frames_per_second
    numbers = [int(path.stem) for path in folder.glob("*.jpg")]
    return sum(max(0, -late) <= number < seconds * hp.fps - late for number in numbers)


def shift_sound(folder: Path, late: int) -> None:
    """Take away the frames by which the sound of a clip is late (below 0: early, then silence comes before it).

    Pictures without any sound, at the beginning, are deleted: a hole in their numbers.
    """
    _, samples = wavfile.read(folder / "audio.wav")
    step = abs(late) * hp.sample_rate // round(hp.fps)
    moved = samples[step:] if late > 0 else np.concatenate((np.zeros(step, samples.dtype), samples))
    write_sound(moved / np.float32(32768), folder)
    for number in range(max(0, -late)):
        (folder / f"{number}.jpg").unlink(missing_ok=True)
