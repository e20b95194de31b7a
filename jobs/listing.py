"""Pair faces with speeches, and name the results."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import files
import video
from errors import UserError, prefix_errors
from footage import files_in, is_picture, is_sound, is_video
from lipsync import Options
from reporting import SILENT, Reporter

LONGEST_STEM = 200  # bytes of a name made from two: file systems allow 255, including what is put around it


@dataclass(frozen=True)
class Job:
    """A face and the speech for it."""

    face: Path  # all three files may also be given as text
    audio: Path
    outfile: Path | None = None  # None: ``settle`` gives it a name
    options: Mapping[str, Any] = field(default_factory=dict)  # of ``LipSync.run``
    name: str = ""  # for messages, such as "row 3 of jobs.csv"

    def __post_init__(self) -> None:
        for name in ("face", "audio", *(["outfile"] if self.outfile is not None else [])):
            object.__setattr__(self, name, files.as_path(getattr(self, name)))

    def inputs(self) -> dict[str, Path]:
        """Return the files that are read, by what they are."""
        return {"face": self.face, "audio": self.audio, **Options.of(self.options).input_files}

    def __str__(self) -> str:
        return self.name or (self.outfile or self.face).name


@dataclass(frozen=True)
class SettledJob(Job):
    """A job whose result has a name."""

    outfile: Path

    @property
    def record_path(self) -> Path:
        """The file that records what the result was made from."""
        return self.outfile.with_name(f".{self.outfile.name}.json")


# --------------------------------------------------------------------------------------------------------------------
# Pairs


def pair(
    faces: str | Path | Sequence[str | Path],
    sounds: str | Path | Sequence[str | Path],
    options: Mapping[str, Any] = {},
    report: Reporter = SILENT,
) -> list[Job]:
    """Pair faces and sounds, files or folders: one with all, in order, or by name.

    Folders are paired by the names of their files without suffix; files without a partner are reported. Raises
    UserError if there are no pairs.
    """
    who, what = files.as_paths(faces), files.as_paths(sounds)
    if not who or not what:
        raise UserError("give at least one --face and one --audio")
    folders = [path for path in (*who, *what) if files.is_folder(path)]
    shown = [file for path in who for file in (_faces_in(path) if path in folders else [path])]
    heard = [file for path in what for file in (_sounds_in(path) if path in folders else [path])]
    if len(heard) == 1 and what[0] not in folders:
        rows = [(face, heard[0]) for face in shown]
    elif len(shown) == 1 and who[0] not in folders:
        rows = [(shown[0], sound) for sound in heard]
    elif not folders and len(shown) == len(heard):
        rows = list(zip(shown, heard))
    elif any(path in folders for path in what):
        rows = _by_stem(shown, heard, report)
    else:
        raise UserError(
            f"{len(shown)} faces and {len(heard)} files of --audio cannot be paired; give one --audio for all, one for "
            "each --face, or a folder of files named like the faces"
        )
    return [Job(face, sound, None, options) for face, sound in rows]


def _faces_in(folder: Path) -> list[Path]:
    return files_in(folder, lambda path: is_video(path) or is_picture(path)) or _nothing("video or photo", folder)


def _sounds_in(folder: Path) -> list[Path]:
    """Return sound files, and videos for names that no sound file has."""
    sounds = files_in(folder, is_sound)
    named = {_stem(path) for path in sounds}
    sounds += [path for path in files_in(folder, is_video) if _stem(path) not in named]
    return sorted(sounds) or _nothing("file with sound", folder)


def _nothing(kind: str, folder: Path) -> NoReturn:
    raise UserError(f"{folder} has no {kind} directly in it, judging by file names")


def _stem(path: Path) -> str:
    """Return the name without its suffix, in Unicode form NFC: macOS may store é in either of two ways."""
    return unicodedata.normalize("NFC", path.stem)


def _by_stem(faces: Sequence[Path], sounds: Sequence[Path], report: Reporter) -> list[tuple[Path, Path]]:
    by_stem: dict[str, Path] = {}
    wanted = {_stem(face) for face in faces}
    for path in sounds:
        if (other := by_stem.setdefault(_stem(path), path)) is not path and _stem(path) in wanted:
            raise UserError(f"{other} and {path} share a name, so it is unclear which is the face's; rename one")
    pairs = [(face, by_stem[_stem(face)]) for face in faces if _stem(face) in by_stem]
    rows = [(face, sound) for face, sound in pairs if face != sound]  # one folder for both, without this one's speech
    if not rows:
        example = f"{faces[0].stem}.wav for {faces[0].name}"
        raise UserError(f"no --audio file is named like a --face file, such as {example}")
    used = {path for row in rows for path in row}
    for path in (*faces, *sounds):
        if path not in used:
            report.note(f"note: {path} is left out: the other folder has no {path.stem} with a known suffix")
    return rows


# --------------------------------------------------------------------------------------------------------------------
# Results


def settle(listed: Iterable[Job], folder: str | Path) -> list[SettledJob]:
    """Return the jobs, each with a file to write: its own, or one in ``folder`` named after face and speech.

    Raises UserError, before any work is done, for invalid options, and for outfiles that cannot be written, are used
    twice, or are also read.
    """
    listed, folder = list(listed), Path(folder)
    taken, numbers = _own_names(listed), Counter[str]()
    settled = []
    for job in listed:
        outfile = job.outfile or _free_name(job, folder, taken, numbers)
        taken.setdefault(_path_key(outfile), job)
        settled.append(SettledJob(job.face, job.audio, outfile, job.options, job.name))
    read = {_file_id(path) for job in settled for path in _inputs(job)}
    for job in settled:
        with prefix_errors(job.name):
            video.check_writable(job.outfile)
            files.check_name(job.record_path)
            if _file_id(job.outfile) in read:
                raise UserError(f"outfile {job.outfile} is one of the files to read; choose another name")
    return settled


def _own_names(listed: Sequence[Job]) -> dict[str, Job]:
    taken: dict[str, Job] = {}
    for job in listed:
        if job.outfile and (other := taken.setdefault(_path_key(job.outfile), job)) is not job:
            raise UserError(f"{other} and {job} have the same outfile, {job.outfile}; give two names")
    return taken


def _free_name(job: Job, folder: Path, taken: Mapping[str, Job], numbers: Counter[str]) -> Path:
    """Return a name that is not ``taken``; ``numbers`` counts by stem how many have been tried."""
    stem = os.fsencode(f"{job.face.stem}_{job.audio.stem}")[:LONGEST_STEM].decode(errors="ignore")
    while True:
        numbers[stem] += 1
        path = folder / (f"{stem}.mp4" if numbers[stem] == 1 else f"{stem}_{numbers[stem]}.mp4")
        if _path_key(path) not in taken:
            return path


def _inputs(job: Job) -> Iterable[Path]:
    with prefix_errors(job.name):
        for path in job.inputs().values():
            files.check_name(path)
            yield path


def _path_key(path: Path) -> str:
    """Return what two names of a file share where case does not count, as on Windows and macOS."""
    return str(path.resolve()).casefold()


def _file_id(path: Path) -> object:
    """Return what all names of a file share, links included."""
    try:
        status = path.stat()
        return status.st_dev, status.st_ino
    except OSError:
        return path.resolve()
