"""The split: which clips are for training, which for validation and test."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import files

from .clips import Kept

SPLITS = ("train", "val", "test")


def write_filelists(kept: Sequence[Kept], shares: Sequence[float], seed: int, folder: Path) -> str:
    """Write train.txt, val.txt and test.txt, no top-level folder in two of them; return a sentence about them."""
    groups: dict[str, list[str]] = {}
    for clip in sorted(kept, key=lambda clip: clip.clip):
        parts = PurePosixPath(clip.source).parts
        groups.setdefault(parts[0] if len(parts) > 1 else ".", []).append(clip.clip)
    note = ""
    if len(groups) == 1:
        note = "; there is only one top-level folder, so the split is by clip and the same speaker is on every side"
        groups = {clip: [clip] for clip in next(iter(groups.values()))}
    lists = split_groups(groups, shares, seed)
    for split, clips in lists.items():
        files.save(folder / f"{split}.txt", "".join(f"{clip}\n" for clip in sorted(clips)))
    counts = ", ".join(f"{split} {len(clips)}" for split, clips in lists.items())
    return f"{counts} clips, in {folder}{note}"


def split_groups(groups: Mapping[str, Sequence[str]], shares: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Deal whole groups of clips out to ``SPLITS`` so that the number of clips comes as close to ``shares`` as it can.

    Every split with a share gets a group as long as there are enough, small ones going to val and test.
    """
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # large groups first: small ones even out what is left
    total = sum(map(len, groups.values()))
    wanted = {split: share * total for split, share in zip(SPLITS, shares)}
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split in (split for split in SPLITS[1:] if wanted[split] > 0):
        if len(names) > 1:
            lists[split] += groups[names.pop()]
    for name in names:
        lists[max(SPLITS, key=lambda split: wanted[split] - len(lists[split]))] += groups[name]
    return lists
