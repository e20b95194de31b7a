"""The split: which clips are for training, which for validation and test."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

import files
from hparams import read_list

from .clips import Kept

SPLITS = ("train", "val", "test")


def write_filelists(kept: Sequence[Kept], shares: Sequence[float], seed: int, folder: Path) -> str:
    """Write train.txt, val.txt and test.txt, no top-level folder in two of them; return a sentence about them.

    What the lists in ``folder`` have already stays where it is: who goes on with a run does not validate on what it has
    learned from.
    """
    groups: dict[str, list[str]] = {}
    for clip in sorted(kept, key=lambda clip: clip.clip):
        parts = PurePosixPath(clip.source).parts
        groups.setdefault(parts[0] if len(parts) > 1 else ".", []).append(clip.clip)
    note = ""
    if len(groups) == 1:
        note = "; there is only one top-level folder, so the split is by clip and the same speaker is on every side"
        groups = {clip: [clip] for clip in next(iter(groups.values()))}
    before = _lists_in(folder, {clip.clip for clip in kept})
    groups = _as_they_were(groups, before)
    listed = {name: {before[clip] for clip in clips if clip in before} for name, clips in groups.items()}
    known = {name: splits.pop() for name, splits in listed.items() if splits}
    if known:
        stay = sum(len(groups[name]) for name in known)
        note += f"; {stay} stay in the lists that they were in, delete the lists to split all anew"
    elif any((folder / f"{split}.txt").is_file() for split in SPLITS):
        note += "; the lists that were there had other clips, and are replaced"
    lists = split_groups(groups, shares, seed, known)
    for split, clips in lists.items():
        files.save(folder / f"{split}.txt", "".join(f"{clip}\n" for clip in sorted(clips)))
    counts = ", ".join(f"{split} {len(clips)}" for split, clips in lists.items())
    return f"{counts} clips, in {folder}{note}"


def _lists_in(folder: Path, clips: Set[str]) -> dict[str, str]:
    """Return the split of those clips that are in a list; what follows a name in its line is a note."""
    paths = {split: folder / f"{split}.txt" for split in SPLITS}
    lines = ((split, line) for split, path in paths.items() if path.is_file() for _, line in read_list(path))
    meant = ((split, {line, line.split("\t")[0].strip(), line.split()[0]}) for split, line in lines)
    return {name: split for split, names in meant for name in names & clips}


def _as_they_were(groups: Mapping[str, list[str]], before: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the groups; clip by clip those that are in several lists, as a folder is that was the only one once."""
    split_up = {name for name, clips in groups.items() if len({before[clip] for clip in clips if clip in before}) > 1}
    whole = {name: clips for name, clips in groups.items() if name not in split_up}
    return whole | {f"{name}: {clip}": [clip] for name in split_up for clip in groups[name]}


def split_groups(
    groups: Mapping[str, Sequence[str]], shares: Sequence[float], seed: int, known: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Deal whole groups of clips out to ``SPLITS`` so that the number of clips comes as close to ``shares`` as it can.

    Every split with a share gets a group as long as there are enough, small ones going to val and test. Those whose
    split is ``known`` stay there, if that has a share.
    """
    total = sum(map(len, groups.values()))
    wanted = {split: share * total for split, share in zip(SPLITS, shares)}
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    names = []
    for name in sorted(groups):
        if known and wanted.get(known.get(name, ""), 0) > 0:
            lists[known[name]] += groups[name]
        else:
            names.append(name)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -len(groups[name]))  # large groups first: small ones even out what is left
    for split in (split for split in SPLITS[1:] if wanted[split] > 0 and not lists[split]):
        if len(names) > (0 if lists["train"] else 1):
            lists[split] += groups[names.pop()]
    for name in names:
        lists[max(SPLITS, key=lambda split: wanted[split] - len(lists[split]))] += groups[name]
    return lists
