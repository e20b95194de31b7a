"""Pairs of a sound and a video: lists of them, and a lip-synced video for each.

A list has two names per line, relative to a data folder. Lists of LRS2, LRS3 and LRW put the sound first and omit
``.mp4``; lists of ReSyncED put the video first. The videos made are named after the line's number, from 0.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import files
from errors import CatchFailure, MissingFile, UserError
from evaluation.sizes import Sizes
from footage import SOUND_SUFFIXES, VIDEO_SUFFIXES, find_videos, is_sound, is_video, visible_files
from hparams import read_list
from lipsync import LipSync, Options, ResolvedOptions
from shares import Share

PAIRS = "pairs.json"  # in a folder of results: which files its videos are made of
OPTIONS = "options.json"  # in a folder of results: how its videos are made
MODES = ("random", "dubbed", "tts")  # of ReSyncED: another speaker's voice, a dubbed film's own, a synthetic one


class Pair(NamedTuple):
    audio: Path  # anything with a voice in it
    video: Path


# --------------------------------------------------------------------------------------------------------------------
# Lists


def random_pairs(sounds: Sequence[str], videos: Sequence[str], count: int | None, seed: int) -> list[tuple[str, str]]:
    """Return ``count`` (None: all) videos in random order as (sound, video), each with the sound of another one.

    Sounds are drawn without replacement; all of them are added again whenever none but a video's own is left. Raises
    UserError if there are fewer than ``count`` videos, or no other sound to choose from.
    """
    if count is not None and count > len(videos):
        raise UserError(f"--count {count} is more than the {len(videos)} videos there are")
    spoken = {_stem(name) for name in sounds}
    if not videos or any(spoken <= {_stem(name)} for name in videos):
        raise UserError(f"{len(videos)} videos and {len(sounds)} sounds make no pairs; two different ones are needed")
    draw = random.Random(seed)
    dealt = draw.sample(sorted(sounds), len(sounds))
    chosen = draw.sample(sorted(videos), count or len(videos))
    if {*sounds} == {*videos} and len(spoken) == len(sounds):  # paired among themselves, in a ring
        next_to = dict(zip(dealt, dealt[1:] + dealt[:1]))
        return [(next_to[name], name) for name in chosen]
    pairs, waiting = [], list[str]()
    for name in chosen:
        if all(_stem(sound) == _stem(name) for sound in waiting):
            waiting += dealt
        pairs.append((next(sound for sound in waiting if _stem(sound) != _stem(name)), name))
        waiting.remove(pairs[-1][0])
    return pairs


def _stem(name: str) -> str:
    """Return a name without its suffix, the same for a video and for its sound beside it."""
    return str(PurePosixPath(name).with_suffix(""))


@dataclass(frozen=True)
class Drawn:
    """Pairs drawn from a folder, (sound, video) relative to it, and the numbers of files they were drawn from."""

    pairs: list[tuple[str, str]]
    videos: int
    sounds: int
    left_out: list[str]  # names that a list cannot hold

    @property
    def note(self) -> str:
        """A note for the user, or an empty string."""
        if not self.left_out:
            return ""
        names = ", ".join(map(repr, self.left_out))
        kinds = "tabs, line breaks, spaces around them, or bytes that are no text"
        return f"left out, since a list cannot hold names with {kinds}: {names}"


def draw(
    data_root: Path, count: int | None = None, seed: int = 0, sound_files: bool = False, without: Path | None = None
) -> Drawn:
    """Pair every video (or ``count``) below ``data_root`` with the sound of another, or with a sound file there.

    Videos in the folder ``without`` are ignored.
    """
    if not data_root.is_dir():
        raise MissingFile(f"--data_root {data_root} is not a folder")
    videos, left_out = list_names(data_root, is_video, without)
    sounds, more = list_names(data_root, is_sound) if sound_files else (videos, [])
    return Drawn(random_pairs(sounds, videos, count, seed), len(videos), len(sounds), left_out + more)


def write_filelist(path: Path, drawn: Sequence[tuple[str, str]], audio_first: bool = True) -> None:
    """Write (sound, video) pairs, sound first as in lists of LRS2, LRS3 and LRW, or video first as in ReSyncED's."""
    if is_video(path) or is_sound(path):
        raise UserError(f"{path} is the name of a video or a sound; give the list another name, such as pairs.txt")
    files.save(path, filelist(drawn, audio_first))


def filelist(drawn: Sequence[tuple[str, str]], audio_first: bool = True) -> str:
    """Return the text of such a list; names with white space, of any kind, are separated by a tab."""
    order = [(_without_mp4(sound), _without_mp4(name)) if audio_first else (name, sound) for sound, name in drawn]
    return "".join(("\t" if len("".join(names).split()) > 1 else " ").join(names) + "\n" for names in order)


def _without_mp4(name: str) -> str:
    """Remove ``.mp4``, as in the lists of LRS2, LRS3 and LRW; other kinds of files keep their suffix."""
    bare = str(PurePosixPath(name).with_suffix(""))
    return bare if name.endswith(".mp4") and not (is_video(Path(bare)) or is_sound(Path(bare))) else name


def list_names(root: Path, wanted: Callable[[Path], bool], without: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the ``wanted`` files below ``root``, relative to it and sorted: those that a list can hold, and others.

    Files in the folder ``without`` below it are ignored.
    """
    names = sorted(path.relative_to(root).as_posix() for path in visible_files(root, without) if wanted(path))
    others = [name for name in names if not _fits_into_a_list(name)]
    return [name for name in names if name not in others], others


def _fits_into_a_list(name: str) -> bool:
    is_text = name.isascii() or name == name.encode(errors="replace").decode()  # names of old archives are not
    return is_text and "\t" not in name and name.splitlines() == [name.strip()]


def read_filelist(path: Path, data_root: Path, audio_first: bool) -> list[Pair]:
    """Read a list; names without a suffix are videos. Raises MissingFile or UserError if the list is unusable."""
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
        raise UserError(f"{path} is empty; it should have two names per line")
    return pairs


def resynced(mode: str, data_root: Path, filelist: Path | None = None, without: Path | None = None) -> list[Pair]:
    """Return ReSyncED's pairs: those of a list, video first, or for ``dubbed`` every film with its own sound.

    Films in the folder ``without`` are ignored.
    """
    if (filelist is None) != (mode == "dubbed"):
        raise UserError("--mode random and tts need a --filelist, and dubbed does not accept one")
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
    """The finished videos of a list in a folder, and why other pairs were skipped."""

    pairs: Sequence[Pair]
    folder: Path

    @cached_property
    def finished(self) -> dict[int, Path]:
        """The finished videos by number, without those of skipped pairs, which may be left from other inputs."""
        made = self._of_pairs(numbered_videos(self.folder))
        return {number: path for number, path in made.items() if number not in self.skipped}

    @cached_property
    def skipped(self) -> dict[int, str]:
        """Why pairs were skipped, by number."""
        notes = self._of_pairs(_numbered_files(self.folder / "skipped", ".txt"))
        return {number: note.read_text(encoding="utf-8").strip() for number, note in notes.items()}

    def _of_pairs(self, paths: Sequence[Path]) -> dict[int, Path]:
        """Return files by the number in their name, ignoring numbers that the list does not have."""
        by_number = sorted((int(path.stem), path) for path in paths)
        return {number: path for number, path in by_number if number < len(self.pairs)}

    def __str__(self) -> str:
        """Return how many videos there are, and every skipped pair with its reason."""
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
    """Return the files named like videos of a list, whatever its length."""
    return _numbered_files(folder, ".mp4")


def _numbered_files(folder: Path, suffix: str) -> list[Path]:
    return [path for path in folder.glob(f"*{suffix}") if path.stem.isdecimal()]


def generate(
    pairs: Sequence[Pair],
    results_dir: Path,
    lips: LipSync,
    sizes: Sizes | None = None,
    **options: Any,
) -> Made | None:
    """Write ``results_dir``/<number>.mp4 for every pair of this process; return what all processes made.

    Returns None while other processes are still running; the last one to finish returns the result. Finished videos
    are kept if they were made from the same files. ``results_dir``/skipped/<number>.txt says why a pair was skipped;
    the next run tries it again. With ``sizes``, videos are shrunk first; ``options`` are those of ``LipSync.run``.
    Raises UserError if every pair would fail, or if the folder holds videos made with other inputs or options.
    """
    lips.load()  # fails here, before any work is done, if a file is missing
    claim(results_dir, records_of(pairs, lips, sizes, options))
    share = Share.begin(results_dir)
    mine = share.of(list(enumerate(pairs)))
    try:
        make_all(mine, results_dir, lips, sizes, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; finished videos stay in {results_dir}, and the same command goes on from there"
        ) from None
    return Made(pairs, results_dir) if share.finish(len(mine)) is not None else None


def make_all(
    numbered: Sequence[tuple[int, Pair]], results_dir: Path, lips: LipSync, sizes: Sizes | None, **options: Any
) -> None:
    """Write the video of every pair that has none or whose files changed, or the reason why it cannot be made.

    An old video stays until a new one replaces it: its input files may be on a disk that is not mounted now.
    """
    for number, pair in lips.report.track(numbered, "Lip-syncing", len(numbered), "video"):
        note = results_dir / "skipped" / f"{number}.txt"
        target = results_dir / f"{number}.mp4"
        record, made_of = results_dir / f".{number}.json", json.dumps(_bytes_of(pair))
        if target.exists() and (not record.exists() or record.read_text(encoding="utf-8") == made_of):
            note.unlink(missing_ok=True)
            continue
        with CatchFailure() as one:
            shrunk = {"resize_factor": sizes.shrink_factor(lips, pair.video)} if sizes else {}
            lips.run(pair.video, pair.audio, target, **options | shrunk)
            files.save(record, made_of)
            note.unlink(missing_ok=True)
        if one.failure:
            files.save(note, f"{one.reason}\n")


def _bytes_of(pair: Pair) -> list[int]:
    """Return the sizes by which changed files are recognised; dates would change when all files are copied."""
    return [path.stat().st_size if path.exists() else 0 for path in pair]


def records_of(
    pairs: Sequence[Pair], lips: LipSync, sizes: Sizes | None, options: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Return what determines the videos, as {record file: (words for a message if it differs, text)}."""
    how, usual = (_plain(asdict(one)) for one in (lips.resolve(Options.of(options)), ResolvedOptions()))
    differs = {name: value for name, value in how.items() if value != usual[name]}  # options may be added later
    if lips.runtime.precision != "auto":  # auto differs between machines, with no visible effect
        differs["precision"] = lips.runtime.precision
    differs["detector"] = [lips.search.detector, str(lips.search.weights or "")]
    if sizes:
        differs["sizes"] = asdict(sizes)
    return {
        PAIRS: ("of another list", _names_of(pairs)),
        "generator.txt": ("of another generator", files.digest(lips.generator.path)),
        OPTIONS: ("made with other flags", json.dumps(differs, indent=0, sort_keys=True)),
    }


def _differing(known: str, text: str) -> str:
    """Return the names of the options that differ."""
    old, new = json.loads(known), json.loads(text)
    return ", ".join(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as they are after a round trip through JSON."""
    return json.loads(json.dumps(options, default=str))


def _names_of(pairs: Iterable[Iterable[str | Path]]) -> str:
    """Return the names of the pairs' files as JSON, the same through links and from any working folder."""
    return json.dumps([[str(Path(path).resolve()) for path in pair] for pair in pairs], indent=0)


def claim(results_dir: Path, records: Mapping[str, tuple[str, str]]) -> None:
    """Record how the videos in ``results_dir`` are made; raise UserError if existing ones were made differently."""
    files.check_folder(results_dir)
    with files.locked(results_dir / ".claim.lock", wait=True):  # another process may start at the same time
        begun = bool(numbered_videos(results_dir))
        for name, (which, text) in records.items():
            record = results_dir / name
            known = record.read_text(encoding="utf-8") if record.exists() else None
            if name == PAIRS and known:
                with contextlib.suppress(ValueError, TypeError):  # it is damaged
                    known = _names_of(json.loads(known))
            if begun and known is None:
                raise UserError(
                    f"{results_dir} holds videos, but no {name} that describes them; give another --results_dir"
                )
            if known not in (None, text):
                flags = f" ({_differing(known, text)})" if name == OPTIONS else ""
                raise UserError(f"{results_dir} holds videos {which}{flags}; give another --results_dir, or delete it")
        for name, (_, text) in records.items():
            files.save(results_dir / name, text)
