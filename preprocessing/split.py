"""The split: which clips are for training, which for validation and test."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

import files
from errors import UserError
from hparams import names_in, piece_number, read_list, whole_name

from .clips import Kept

SPLITS = ("train", "val", "test")
MAX_SHARE_FACTOR = 4.0  # times its share that a list of whole folders may get; above it, there are too few folders


def write_filelists(kept: Sequence[Kept], shares: Sequence[float], seed: int, folder: str | Path) -> str:
    """Write train.txt, val.txt and test.txt; return a sentence about them.

    No top-level folder is in two of them, unless the ``shares`` cannot be met otherwise: then no sub-folder is, else
    no video. Clips stay in the lists that ``folder`` has already, so that a continued run does not validate on clips
    that it was trained on.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"the shares of {', '.join(SPLITS)} must be three numbers that sum to 1, not {shares}")
    folder = Path(folder)
    places = {clip.clip: _place(clip) for clip in sorted(kept, key=lambda clip: clip.clip)}
    lines = _lines_in(folder)
    anew = _cut_anew(kept, lines)
    before = _lists_in(lines, {clip for clip in places if whole_name(clip) not in anew})
    depth, note = _find_depth(places, shares, seed)
    groups, known = _group_by_depth(places, depth), dict[str, str]()
    if before:
        groups = _group_by_old_lists(places, before, depth)
        listed = {name: {before[clip] for clip in clips if clip in before} for name, clips in groups.items()}
        known = {name: splits.pop() for name, splits in listed.items() if splits}
    elif not anew and any((folder / f"{split}.txt").is_file() for split in SPLITS):
        note += "; the existing lists had other clips, and are replaced"
    lists = split_groups(groups, shares, seed, known)
    if before:
        now = {clip: split for split, clips in lists.items() for clip in clips}
        stay = sum(now[clip] == split for clip, split in before.items())
        moved = f", {len(before) - stay} of them do not, because of the shares" if stay < len(before) else ""
        note += f"; {stay} stay in the lists that they were in{moved}, delete the lists to split all again"
    if anew:
        note += (
            f"; {len(anew)} videos that were in several lists have other pieces now, the first: {min(anew)}. What a "
            "training has seen of them may be in val now: do not continue it"
        )
    written = {name: line for _, line in lines for name in names_in(line)}  # with its note
    for split, clips in lists.items():
        files.save(folder / f"{split}.txt", "".join(f"{written.get(clip, clip)}\n" for clip in sorted(clips)))
    if before and (gone := sum(places.keys().isdisjoint(names_in(line)) for _, line in lines)):
        note += f"; {gone} lines of other clips are gone"
    if empty := [split for split, share in zip(SPLITS, shares) if share and not lists[split]]:
        is_one = len({place[:-1] for place in places.values()}) == 1
        advice = ": --seconds 10 makes more clips of a long video" if is_one else ""
        note += f"; {' and '.join(empty)} got none{advice}"
    counts = ", ".join(f"{split} {len(clips)}" for split, clips in lists.items())
    return f"{counts} clips, in {folder}{note}"


def listed_names(folder: Path) -> set[str]:
    """Return the names of all clips in the lists of a folder."""
    return {name for _, line in _lines_in(folder) for name in names_in(line)}


def _place(clip: Kept) -> tuple[str, ...]:
    """Return the place of a clip: the folders of its video, the video, and the clip."""
    *folders, video = PurePosixPath(clip.source).parts
    return *(folders or ["."]), video, clip.clip


def _group_by_depth(places: Mapping[str, tuple[str, ...]], depth: int) -> dict[str, list[str]]:
    """Group the clips that have the first ``depth`` parts of their place in common."""
    groups: dict[str, list[str]] = {}
    for clip, place in places.items():
        groups.setdefault("/".join(place[:depth]), []).append(clip)
    return groups


def _find_depth(places: Mapping[str, tuple[str, ...]], shares: Sequence[float], seed: int) -> tuple[int, str]:
    """Return the depth of the largest groups that can be split into these shares.

    Also return a note if they are not top-level folders, which have depth 1.
    """
    top, depth = len(_group_by_depth(places, 1)), 1
    deepest = max(map(len, places.values()), default=1)
    while depth < deepest and not _fits(split_groups(_group_by_depth(places, depth), shares, seed), shares):
        depth += 1
    if depth == 1:
        return depth, ""
    below = min(len(place) - depth for place in places.values())
    kind = "clip" if below <= 0 else "video" if below == 1 else "sub-folder"
    few = "there is only one top-level folder" if top == 1 else f"{top} top-level folders do not give these shares"
    who = "may be" if kind == "sub-folder" else "is"
    return depth, f"; {few}, so the split is by {kind} and the same speaker {who} in every list"


def _fits(lists: Mapping[str, Sequence[str]], shares: Sequence[float]) -> bool:
    """Whether every list with a share has clips, and val and test have at most ``MAX_SHARE_FACTOR`` times theirs."""
    total = sum(map(len, lists.values()))
    most = {split: max(1, MAX_SHARE_FACTOR * share * total) for split, share in zip(SPLITS[1:], shares[1:])}
    return all(lists[split] for split, share in zip(SPLITS, shares) if share) and all(
        len(lists[split]) <= count for split, count in most.items()
    )


def _lines_in(folder: Path) -> list[tuple[str, str]]:
    """Return the lines of all lists in a folder, each with its split."""
    paths = {split: folder / f"{split}.txt" for split in SPLITS}
    return [(split, line) for split, path in paths.items() if path.is_file() for _, line in read_list(path)]


def _lists_in(lines: Sequence[tuple[str, str]], clips: Set[str]) -> dict[str, str]:
    """Return the split of those clips that are in a list.

    Pieces of a video belong where the whole of it was, and the other way round, unless it was in several lists.
    """
    listed: dict[str, set[str]] = {}
    for split, line in lines:
        for name in names_in(line):
            listed.setdefault(name, set()).add(split)
            listed.setdefault(whole_name(name), set()).add(split)
    found = {clip: listed.get(clip) or listed.get(whole_name(clip), set()) for clip in clips}
    return {clip: min(splits) for clip, splits in found.items() if len(splits) == 1}


def _cut_anew(kept: Sequence[Kept], lines: Sequence[tuple[str, str]]) -> set[str]:
    """Return the videos in several lists that have other pieces now: a number is other footage than it was then.

    A piece may be missing from the lists, or now, because it was out of sync; only numbers beyond the last tell.
    """
    splits, last = dict[str, set[str]](), dict[str, int]()
    for split, line in lines:
        for name in names_in(line):
            splits.setdefault(whole_name(name), set()).add(split)
            last[whole_name(name)] = max(last.get(whole_name(name), 0), piece_number(name))
    several = [clip for clip in kept if len(splits.get(whole_name(clip.clip), ())) > 1]
    beyond = (clip for clip in several if not piece_number(clip.clip) <= last[whole_name(clip.clip)] <= clip.pieces)
    return {whole_name(clip.clip) for clip in beyond}


def _group_by_old_lists(
    places: Mapping[str, tuple[str, ...]], before: Mapping[str, str], depth: int
) -> dict[str, list[str]]:
    """Return the largest groups, from ``depth`` on, whose clips have been in no more than one list each."""
    groups, rest = {}, dict(places)
    for deeper in range(depth, max(map(len, places.values())) + 1):
        for name, clips in _group_by_depth(rest, deeper).items():
            if len({before[clip] for clip in clips if clip in before}) <= 1:
                groups[name] = clips
        done = {clip for clips in groups.values() for clip in clips}
        rest = {clip: place for clip, place in places.items() if clip not in done}
    return groups


def split_groups(
    groups: Mapping[str, Sequence[str]], shares: Sequence[float], seed: int, known: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Assign whole groups of clips to ``SPLITS`` so that the numbers of clips are as close to ``shares`` as possible.

    Every split with a share gets a group as long as there are enough, with small ones for val and test. Groups whose
    split is ``known`` stay there, if it has a share.
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
