"""Whether sound and lips of a finished clip match, according to an expert, and correction of the sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import audio
import files
import sync
from dataset import MIN_FRAMES, frame_ids
from errors import UserError
from hparams import hparams as hp
from models import SyncNet_color, weights

from .clips import OUT_OF_SYNC, Dropped, Kept, note_kept
from .sound import write_sound

ACTIONS = ("report", "drop", "correct")
CONFIDENCE_DIGITS = 3
VERDICT_RULES = 3  # increased when ``sync`` decides differently, so that finished clips are checked again


@dataclass(frozen=True)
class SyncCheck:
    """Which expert checks every clip, and what to do with clips whose lips and sound do not match."""

    action: str = "report"  # one of ``ACTIONS``
    expert: str | Path = weights.DEMO  # a file, lipsync_expert or demo

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise UserError(f"--sync {self.action} is not known; give one of {', '.join(ACTIONS)}")

    @property
    def name(self) -> str:
        """The expert's path or name, a digest, which changes if its file is replaced, and the rules of the verdict."""
        digest = files.cached_digest(weights.find(self.expert, SyncNet_color))
        return f"{self.expert} {digest[:16]} rules {VERDICT_RULES}"

    def is_done(self, clips: Sequence[Kept]) -> bool:
        """Whether this expert has checked all these clips, and corrected those that can be if asked to."""
        checked = all(clip.expert == self.name for clip in clips)
        return checked and not (self.action == "correct" and any(map(can_be_corrected, clips)))

    def partition(self, clips: Sequence[Kept]) -> tuple[list[Kept], list[Dropped]]:
        """Return the clips to train on, and those to leave out."""
        bad = [clip for clip in clips if is_out_of_sync(clip) and self.action != "report"]
        dropped = [Dropped(clip.source, OUT_OF_SYNC, _describe(clip)) for clip in bad]
        return [clip for clip in clips if clip not in bad], dropped


def _describe(clip: Kept) -> str:
    return f"{clip.clip} is {clip.verdict} (best offset {clip.offset_frames}, confidence {clip.confidence})"


def is_out_of_sync(clip: Kept) -> bool:
    return clip.verdict is not None and sync.says_out_of_sync(clip.verdict)


def can_be_corrected(clip: Kept) -> bool:
    """Whether its sound is early or late, and has not been shifted before."""
    return is_out_of_sync(clip) and clip.verdict != sync.UNRELATED and not clip.shifted


def open_expert(path_or_name: str | Path, device: torch.device) -> sync.Expert:
    """Return an expert, which stays loaded until its file is replaced."""
    return _opened(path_or_name, device, files.stamp(weights.find(path_or_name, SyncNet_color)))


@lru_cache(maxsize=1)
def _opened(path_or_name: str | Path, device: torch.device, stamp: tuple[int, int]) -> sync.Expert:
    return sync.open_expert(path_or_name, device)


def check_sync(
    folder: Path, kept: Kept, check: SyncCheck, device: torch.device, recording: Recording | None = None
) -> Kept:
    """Note in a clip's folder how well sound and lips match; correct the sound if that is wanted and possible.

    The new sound is cut from the whole ``recording`` that the clip is a piece of, if given. With "correct", the folder
    must not be in use: it is changed file by file.
    """
    expert = open_expert(check.expert, device)
    kept = _with_verdict(folder, kept, expert, check.name)
    late = kept.offset_frames or 0
    if check.action == "correct" and can_be_corrected(kept):
        sound, silent = (recording or Recording.of(folder)).moved(late)
        numbers = frame_ids(folder).tolist()
        heard = [number for number in numbers if silent <= number and _sample(number) < len(sound)]
        if len(heard) >= MIN_FRAMES:
            write_sound(sound, folder)
            for number in numbers:
                if number < silent:  # leaves a gap in their numbers
                    (folder / f"{number}.jpg").unlink()
            kept = replace(_with_verdict(folder, kept, expert, check.name), shifted=late)
            seconds = round(len(sound) / hp.sample_rate, 3)
            kept = replace(kept, frames_with_face=sum(number >= silent for number in numbers), seconds=seconds)
    note_kept(folder, kept)
    return kept


@dataclass(frozen=True)
class Recording:
    """The sound around a clip."""

    sound: np.ndarray  # (samples,) float32 in [-1, 1], all there is
    first: int = 0  # frame of it at which the clip begins
    frames: int | None = None  # of the clip; None: to the end

    @classmethod
    def of(cls, folder: Path) -> Recording:
        """Return only the sound of the clip itself."""
        return cls(audio.load_wav(folder / "audio.wav"))

    def moved(self, late: int) -> tuple[np.ndarray, int]:
        """Return the clip's sound from ``late`` frames later, and how many silent frames it begins with."""
        first = self.first + late
        stop = None if self.frames is None else _sample(max(0, first + self.frames))
        silent = np.zeros(_sample(max(0, -first)), np.float32)
        return np.concatenate((silent, self.sound[_sample(max(0, first)) : stop])), max(0, -first)


def _sample(frame: int) -> int:
    return audio.first_sample(frame, hp.fps)


def _with_verdict(folder: Path, kept: Kept, expert: sync.Expert, name: str) -> Kept:
    result = sync.score_clip(folder, expert)
    confidence = round(result.confidence, CONFIDENCE_DIGITS)
    return replace(kept, expert=name, verdict=result.verdict, offset_frames=result.offset_frames, confidence=confidence)
