"""Which windows of which clip folders can be used, and why others cannot."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.mels import mel_starts, open_mel
from errors import MissingFile, UserError
from hparams import hparams as hp

# of a clip (reference): in a shorter one, wrong windows would overlap the right ones
MIN_FRAMES = 3 * hp.syncnet_T + 1
TWIN = "twin.txt"
MAX_LENGTH_RATIO = 1.05  # of the lengths of frames and sound
FRAMES_SLACK, SOUND_SLACK = 0.12, 0.5  # seconds by which frames, and sound, may exceed this ratio
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Clip:
    """A usable clip folder."""

    folder: str  # as given; also the clip's name
    number: int  # index of its folder among those given, the first if it is given twice
    windows: np.ndarray  # ids of the frames that begin a window of consecutive frames, ascending
    starts: np.ndarray  # those that a sample may use: they have all their sound, and there is a wrong window
    mel_offset: int  # bytes before the first number in mel.npy
    mel: np.ndarray | None = None  # (mel frames, num_mels), only if the folder could not be written to
    length_warning: str | None = None  # why its pictures may not belong to its sound
    twin: str | None = None  # folder of the same head with the same movement, frame by frame, but other speech


@dataclass(frozen=True)
class WindowRules:
    """What makes a window usable. Mel spans and distances are in video frames."""

    first_mel: int = 0  # start of a sample's earliest mel window, counted from its first frame
    last_mel: int = 0  # and of its latest
    nearest_negative: int = 1

    def __post_init__(self) -> None:
        if self.nearest_negative < 1:
            raise UserError(f"negatives must be 1 or more frames away, not {self.nearest_negative}")


class WindowIndex:
    """The usable clips among ``folders``, each with its usable windows; built once, nothing is retried later.

    ``clips`` are in the order given; ``unusable`` has the reasons of the others. Raises UserError if there is no
    usable window at all.
    """

    def __init__(self, folders: Iterable[str | Path], rules: WindowRules = WindowRules()) -> None:
        self.clips: list[Clip] = []
        self.unusable: dict[str, str] = {}
        numbers: dict[str, int] = {}
        for place, folder in enumerate(map(str, folders)):
            try:
                self.clips.append(_read_clip(folder, numbers.setdefault(folder, place), rules))
            except (OSError, ValueError) as problem:
                self.unusable[folder] = str(problem)
        if not self.clips:
            raise UserError(self._nothing_usable())

    def __len__(self) -> int:
        """The number of usable windows."""
        return sum(len(clip.starts) for clip in self.clips)

    @property
    def length_warnings(self) -> dict[str, str]:
        """What is odd about clips that are used anyway, by folder."""
        return {clip.folder: clip.length_warning for clip in self.clips if clip.length_warning}

    def _nothing_usable(self) -> str:
        looked_for = f"clip folders with 0.jpg, 1.jpg, ... and audio.wav or mel.npy, {hp.syncnet_T} frames in a row"
        if not self.unusable:
            return f"no clips to learn from: the list of clips is empty (looked for {looked_for})"
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in itertools.islice(self.unusable.items(), 3))
        return f"none of {len(self.unusable)} clips is usable (looked for {looked_for}). The first: {reasons}"


def _read_clip(folder: str, number: int, rules: WindowRules) -> Clip:
    if not Path(folder).is_dir():
        raise MissingFile("no such folder")
    ids = frame_ids(folder)
    if len(ids) < MIN_FRAMES:
        others = _pictures_of_other_names(folder)
        hint = f"; frames are named 0.jpg, 1.jpg, …, not {others[0]} and the like" if others else ""
        raise UserError(f"{len(ids)} frames, at least {MIN_FRAMES} are needed{hint}")
    last = hp.syncnet_T - 1
    windows = ids[: len(ids) - last][ids[last:] - ids[: len(ids) - last] == last]
    if not len(windows):
        raise UserError(f"no {hp.syncnet_T} consecutive frames")
    mel, offset = open_mel(folder)
    ends = mel_starts(windows + rules.last_mel, hp) + hp.mel_step_size
    starts = windows[(windows + rules.first_mel >= 0) & (ends <= len(mel))]
    if not len(starts):
        raise UserError(f"no {hp.syncnet_T} consecutive frames with their sound ({len(mel)} mel frames)")
    before, after = find_negatives(windows, starts, rules)
    starts = starts[before + len(windows) - after > 0]
    if not len(starts):
        raise UserError(f"no two windows at least {rules.nearest_negative} frames apart")
    length_warning, twin = _compare_lengths(folder, ids, len(mel)), _find_twin(folder, ids)
    return Clip(folder, number, windows, starts, offset or 0, mel if offset is None else None, length_warning, twin)


def _compare_lengths(folder: str, ids: np.ndarray, mel_frames: int) -> str | None:
    """Return what is odd if the sound is much longer than the frames; raise UserError if the frames are longer.

    Frames at another rate than ``hparams.fps`` drift away from the sound, and nothing else shows it. Frames without a
    face leave gaps, also at the end, so longer sound may mean just that, or silence.
    """
    if Path(folder, "clip.json").exists():  # preprocess.py has taken care of the rate
        return None
    pictures, sound = (ids[-1] + 1) / hp.fps, mel_frames / hp.mel_frames_per_second
    lengths = f"{pictures:.1f} s of frames, at {hp.fps:g} fps, and {sound:.1f} s of sound"
    if pictures > sound * MAX_LENGTH_RATIO + FRAMES_SLACK:
        raise UserError(f"{lengths}; its frames have another rate, or its sound is cut off: preprocess it again")
    return lengths if sound > pictures * MAX_LENGTH_RATIO + SOUND_SLACK else None


def _find_twin(folder: str, ids: np.ndarray) -> str | None:
    """Return the folder beside this one that its twin.txt names, if it has all the same frames."""
    try:
        twin = Path(folder).with_name(Path(folder, TWIN).read_text(encoding="utf-8").strip())
        return str(twin) if np.isin(ids, frame_ids(twin)).all() else None
    except (OSError, ValueError):
        return None


def frame_ids(folder: str | Path) -> np.ndarray:
    """Return the frame numbers of a folder, ascending, without empty files (left by a full disk or a killed run)."""
    with os.scandir(folder) as entries:
        names = [entry.name[:-4] for entry in entries if entry.name.endswith(".jpg") and entry.stat().st_size]
    return np.array(sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name), np.int64)


def _pictures_of_other_names(folder: str) -> list[str]:
    """Return the pictures that ``frame_ids`` ignores: 00000.jpg, 0.JPG, 0.png, frame_0.jpg."""
    pictures = [path.name for path in Path(folder).iterdir() if path.name.lower().endswith(PICTURES)]
    return sorted(name for name in pictures if not re.fullmatch(r"(0|[1-9]\d*)\.jpg", name))


def find_negatives(windows: np.ndarray, frame: int | np.ndarray, rules: WindowRules) -> np.ndarray:
    """Return (2, ...) positions: the wrong windows for ``frame`` are those before the first and from the second on."""
    near = rules.nearest_negative
    return np.searchsorted(windows, np.add.outer((1 - near, near), frame))
