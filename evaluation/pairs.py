"""Pairs of a sound and a video: lists of them, and a lip-synced video for each.

A list has two names a line, relative to a data folder. Those of LRS2, LRS3 and LRW put the sound first and leave the
``.mp4`` out, those of ReSyncED put the video first. Videos are named after the line's number, from 0.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import files
from errors import MissingFile, OneOfMany, UserError
from evaluation.sizes import Sizes
from footage import SOUND_SUFFIXES, VIDEO_SUFFIXES, find_videos, is_sound, is_video, visible_files
from hparams import read_list
from lipsync import LipSync, Options, Settled
from shares import Share

OPTIONS = "options.json"  # in a folder of results: how its videos are made
MODES = ("random", "dubbed", "tts")  # of ReSyncED: the voice of another, a dubbed film's own, a synthetic one


class Pair(NamedTuple):
    audio: Path  # anything with a voice in it
    video: Path


# --------------------------------------------------------------------------------------------------------------------
# Lists


def random_pairs(sounds: Sequence[str], videos: Sequence[str], count: int | None, seed: int) -> list[tuple[str, str]]:
    """Return ``count`` (None: all) videos in random order as (sound, video), each with the sound of another one.

    Sounds are dealt like cards, so none comes twice before all have come once. Raises UserError if there are fewer
    than ``count`` videos, or no other sound to choose from.
    """
    if count is not None and count > len(videos):
        raise UserError(f"--count {count} is more than the {len(videos)} videos there are")
    spoken = {_whose(name) for name in sounds}
    if not videos or any(not spoken - {_whose(name)} for name in videos):
        raise UserError(f"{len(videos)} videos and {len(sounds)} sounds make no pairs; it takes two different ones")
    draw = random.Random(seed)
    dealt = draw.sample(sorted(sounds), len(sounds))
    chosen = draw.sample(sorted(videos), count or len(videos))
    if {*sounds} == {*videos} and len(spoken) == len(sounds):  # paired among themselves, in a ring
        next_to = dict(zip(dealt, dealt[1:] + dealt[:1]))
        return [(next_to[name], name) for name in chosen]
    pairs, waiting = [], list[str]()
    for name in chosen:
        if all(_whose(sound) == _whose(name) for sound in waiting):
            waiting += dealt
        pairs.append((next(sound for sound in waiting if _whose(sound) != _whose(name)), name))
        waiting.remove(pairs[-1][0])
    return pairs


def _whose(name: str) -> str:
    """The name of a video, and of its sound beside it, without their suffixes."""
    return str(PurePosixPath(name).with_suffix(""))


@dataclass(frozen=True)
class Drawn:
    """Pairs that were drawn from a folder, (sound, video) relative to it, and from how many."""

    pairs: list[tuple[str, str]]
    videos: int
    sounds: int
    left_out: list[str]  # names that a list cannot hold

    @property
    def note(self) -> str:
        """What the user should know of it; empty if nothing."""
        if not self.left_out:
            return ""
        names = ", ".join(map(repr, self.left_out))
        return f"left out, since a list cannot hold names with tabs, line breaks, or spaces around them: {names}"


def draw(
    data_root: Path, count: int | None = None, seed: int = 0, sound_files: bool = False, without: Path | None = None
) -> Drawn:
    """Pair every video (or ``count``) below ``data_root`` with the sound of another, or with a sound file there.

    What is in the folder ``without`` is none of them.
    """
    if not data_root.is_dir():
        raise MissingFile(f"--data_root {data_root} is not a folder")
    videos, left_out = list_names(data_root, is_video, without)
    sounds, more = list_names(data_root, is_sound) if sound_files else (videos, [])
    return Drawn(random_pairs(sounds, videos, count, seed), len(videos), len(sounds), left_out + more)


def write_filelist(path: Path, drawn: Sequence[tuple[str, str]], audio_first: bool = True) -> None:
    """Write (sound, video) pairs, sound first as in lists of LRS2, LRS3 and LRW, or video first as in ReSyncED's."""
    if is_video(path) or is_sound(path):
        raise UserError(f"{path} is the name of a video or a sound; give the list another, such as pairs.txt")
    files.save(path, filelist(drawn, audio_first))


def filelist(drawn: Sequence[tuple[str, str]], audio_first: bool = True) -> str:
    """Return the lines of such a list; between names with spaces stands a tab."""
    order = [(_without_mp4(sound), _without_mp4(name)) if audio_first else (name, sound) for sound, name in drawn]
    return "".join(("\t" if " " in "".join(names) else " ").join(names) + "\n" for names in order)


def _without_mp4(name: str) -> str:
    """The names in lists of LRS2, LRS3 and LRW have no suffix; other kinds of files keep theirs."""
    bare = str(PurePosixPath(name).with_suffix(""))
    return bare if name.endswith(".mp4") and not (is_video(Path(bare)) or is_sound(Path(bare))) else name


def list_names(root: Path, wanted: Callable[[Path], bool], without: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the ``wanted`` files below ``root``, relative to it and sorted: those that a list can hold, and others.

    Those in a folder ``without`` below it are not wanted.
    """
    names = sorted(path.relative_to(root).as_posix() for path in visible_files(root, without) if wanted(path))
    others = [name for name in names if "\t" in name or name.splitlines() != [name.strip()]]
    return [name for name in names if name not in others], others


def read_filelist(path: Path, data_root: Path, audio_first: bool) -> list[Pair]:
    """Read a list; names without a suffix are those of videos. Raises MissingFile or UserError if it is bad."""
    if not path.is_file():
        raise MissingFile(f"--filelist {path} does not exist")
    pairs = []
    for number, line in read_list(path):
        names = line.split("\t") if line.count("\t") == 1 else line.split()
        if len(names) != 2:
            raise UserError(
                f"line {number} of {path} has {len(names)} names instead of two: {line!r}; if a name has spaces, put a "
                "tab between the two"
            )
        first, second = (_with_suffix(data_root, name.strip()) for name in names)
        pairs.append(Pair(first, second) if audio_first else Pair(second, first))
    if not pairs:
        raise UserError(f"{path} is empty; it should have two names a line")
    return pairs


def resynced(mode: str, data_root: Path, filelist: Path | None = None, without: Path | None = None) -> list[Pair]:
    """Return ReSyncED's pairs: those of a list, video first, or of ``dubbed`` films every one with its own sound.

    What is in the folder ``without`` is no film.
    """
    if (filelist is None) != (mode == "dubbed"):
        raise UserError("--mode random and tts need a --filelist, and dubbed takes none")
    if filelist is None:
        return [Pair(path, path) for path in find_videos([data_root], without)]
    return read_filelist(filelist, data_root, audio_first=False)


def _with_suffix(root: Path, name: str) -> Path:
    if Path(name).suffix.lower() in (*VIDEO_SUFFIXES, *SOUND_SUFFIXES):
        return root / name
    choices = [root / (name + suffix) for suffix in (".mp4", *VIDEO_SUFFIXES, "")]
    return next((path for path in choices if path.is_file()), choices[0])


# --------------------------------------------------------------------------------------------------------------------
# Videos


@dataclass(frozen=True)
class Made:
    """The videos of a list that are in a folder, and why others are not."""

    pairs: Sequence[Pair]
    folder: Path

    @cached_property
    def finished(self) -> dict[int, Path]:
        """The finished videos by number; not those that were made of other files, which are kept."""
        made = self._of_pairs(numbered_videos(self.folder))
        return {number: path for number, path in made.items() if number not in self.skipped}

    @cached_property
    def skipped(self) -> dict[int, str]:
        """Why pairs were skipped, by number."""
        notes = self._of_pairs(_called_by_number(self.folder / "skipped", ".txt"))
        return {number: note.read_text(encoding="utf-8").strip() for number, note in notes.items()}

    def _of_pairs(self, paths: Sequence[Path]) -> dict[int, Path]:
        """Return files by the number that is their name, as far as the list has one of that number."""
        by_number = sorted((int(path.stem), path) for path in paths)
        return {number: path for number, path in by_number if number < len(self.pairs)}

    def __str__(self) -> str:
        """In words what there is, and every skipped pair with its reason."""
        lines = [
            f"{len(self.finished)} of {len(self.pairs)} videos in {self.folder}, {len(self.skipped)} pairs skipped"
        ]
        for number, reason in self.skipped.items():
            lines.append(f"  {number}: {self.pairs[number].audio} {self.pairs[number].video}: {reason}")
        return "\n".join(lines)

    def check(self) -> None:
        """Raise RuntimeError if a pair is missing its video."""
        if self.skipped:
            notes = self.folder / "skipped"
            raise RuntimeError(f"{len(self.skipped)} of {len(self.pairs)} pairs were skipped; {notes} says why")


def numbered_videos(folder: Path) -> list[Path]:
    """Return what may be the videos of a list, of whatever length."""
    return _called_by_number(folder, ".mp4")


def _called_by_number(folder: Path, suffix: str) -> list[Path]:
    return [path for path in folder.glob(f"*{suffix}") if path.stem.isdecimal()]


def generate(
    pairs: Sequence[Pair],
    results_dir: Path,
    lips: LipSync,
    sizes: Sizes | None = None,
    **options: Any,
) -> Made | None:
    """Write ``results_dir``/<number>.mp4 for every pair of this process; return what all processes made.

    None: others are still at work, and the last one to finish returns it. Finished videos are kept, if they were made
    of these files. Why a pair was skipped stands in ``results_dir``/skipped/<number>.txt; the next run tries it again.
    With ``sizes``, videos are shrunk first; ``options`` are those of ``LipSync.run``. Raises UserError for what would
    spoil every pair, and if the folder holds videos that were made otherwise.
    """
    lips.load()  # what is missing is missed here, before any work is done
    claim(results_dir, records_of(pairs, lips, sizes, options))
    share = Share.begin(results_dir)
    mine = share.of(list(enumerate(pairs)))
    try:
        make_all(mine, results_dir, lips, sizes, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; what is finished stays in {results_dir}, and the same command goes on from there"
        ) from None
    return Made(pairs, results_dir) if share.finish(len(mine)) is not None else None


def make_all(
    numbered: Sequence[tuple[int, Pair]], results_dir: Path, lips: LipSync, sizes: Sizes | None, **options: Any
) -> None:
    """Write the video of every pair that has none, or had other files, or why it cannot be.

    What is there stays until another takes its place: the files may be on a disk that is not here today.
    """
    for number, pair in lips.report.track(numbered, "Lip-syncing", len(numbered), "video"):
        note = results_dir / "skipped" / f"{number}.txt"
        target = results_dir / f"{number}.mp4"
        record, made_of = results_dir / f".{number}.json", json.dumps(_bytes_of(pair))
        if target.exists() and (not record.exists() or record.read_text(encoding="utf-8") == made_of):
            note.unlink(missing_ok=True)
            continue
        with OneOfMany() as one:
            shrunk = {"resize_factor": sizes.shrink_factor(lips, pair.video)} if sizes else {}
            lips.run(pair.video, pair.audio, target, **options | shrunk)
            files.save(record, made_of)
            note.unlink(missing_ok=True)
        if one.failure:
            files.save(note, f"{one.reason}\n")


def _bytes_of(pair: Pair) -> list[int]:
    """By what another file of the same name is told; its date is another where all were copied."""
    return [path.stat().st_size if path.exists() else 0 for path in pair]


def records_of(
    pairs: Sequence[Pair], lips: LipSync, sizes: Sizes | None, options: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Return what decides how videos come out, by the file that notes it, and how to say that theirs was another."""
    how, usual = (_plain(asdict(one)) for one in (lips.settle(Options.of(options)), Settled()))
    differs = {name: value for name, value in how.items() if value != usual[name]}  # others may be added some day
    if lips.runtime.precision != "auto":  # which differs from machine to machine, by less than anybody sees
        differs["precision"] = lips.runtime.precision
    differs["detector"] = [lips.search.detector, str(lips.search.weights or "")]
    if sizes:
        differs["sizes"] = asdict(sizes)
    names = json.dumps([[str(path.absolute()) for path in pair] for pair in pairs], indent=0)
    return {
        "pairs.json": ("of another list", names),
        "generator.txt": ("of another generator", files.digest(lips.generator.path)),
        OPTIONS: ("made with other flags", json.dumps(differs, indent=0, sort_keys=True)),
    }


def _differing(known: str, text: str) -> str:
    """Return the names of the options that differ."""
    old, new = json.loads(known), json.loads(text)
    return ", ".join(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as a file gives them back."""
    return json.loads(json.dumps(options, default=str))


def claim(results_dir: Path, records: Mapping[str, tuple[str, str]]) -> None:
    """Note how the videos in ``results_dir`` are made; raise UserError if they were begun otherwise."""
    files.check_folder(results_dir)
    with files.locked(results_dir / ".claim.lock", wait=True):  # somebody else may begin now
        begun = bool(numbered_videos(results_dir))
        for name, (which, text) in records.items():
            record = results_dir / name
            known = record.read_text(encoding="utf-8") if record.exists() else None
            if begun and known is None:
                raise UserError(
                    f"{results_dir} holds videos, and no {name} that tells of them; give another --results_dir"
                )
            if known not in (None, text):
                flags = f" ({_differing(known, text)})" if name == OPTIONS else ""
                raise UserError(f"{results_dir} holds videos {which}{flags}; give another --results_dir, or delete it")
        for name, (_, text) in records.items():
            files.save(results_dir / name, text)
