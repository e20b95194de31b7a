"""Clips: which videos there are, their names, and their outcome."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import files
from errors import UserError
from faces import AUTO, AUTO_CHOICES
from footage import VIDEO_SUFFIXES, is_video, visible_files
from hparams import PIECE, piece_name
from hparams import hparams as hp

from .pieces import MAX_SECONDS

NOTE = "clip.json"  # in a finished clip's folder
DROPPED_VERSION = 4  # increased when more videos become usable, so that dropped ones are tried again
LONGEST_NAME = 246  # bytes of a clip's folder: file systems allow 255, and it is written as .NAME.partial


@dataclass(frozen=True)
class Clip:
    """One video and the folder that it becomes, or several with this name and a number: see ``hparams.piece_name``."""

    source: str  # path relative to data_root, with forward slashes
    name: str  # dir/clip relative to preprocessed_root, without white space
    data_root: Path
    preprocessed_root: Path

    @property
    def path(self) -> Path:
        """The video."""
        return self.data_root / self.source

    @property
    def folder(self) -> Path:
        """What it becomes, if that is one clip."""
        return self.preprocessed_root / self.name


@dataclass(frozen=True)
class Kept:
    """A finished clip, a video or a piece of it; also its clip.json, which tells later runs that it is finished."""

    clip: str  # dir/clip
    source: str
    bytes: int  # of the source
    face_detector: str
    fps: float  # of the source
    frames: int  # at 25 fps
    frames_with_face: int
    seconds: float  # of sound
    detector_seconds: float  # for all of the source; 0: unknown
    modified: int | None = None  # date of the source, in ns; None: not noted by an older version
    sha256: str | None = None  # of the source: another file under its name is cut again
    first: int = 0  # frame of the source, at 25 fps, that it begins with
    pieces: int = 1  # how many the source became
    source_frames: int | None = None  # of the source, at 25 fps; None: not noted by an older version
    left_out: dict[str, int] = field(default_factory=dict)  # frames of the source in unusable pieces, by reason
    expert: str | None = None  # that checked it: see ``syncing``
    verdict: str | None = None
    offset_frames: int | None = None
    confidence: float | None = None
    shifted: int = 0  # frames by which the sound was late before its correction

    def is_from(self, source: Path) -> bool:
        """Whether it was cut from ``source``, which is only read if size and date do not decide."""
        status = source.stat()
        if self.bytes != status.st_size:
            return False
        return self.modified in (None, status.st_mtime_ns) or self.sha256 == files.digest(source)


OUT_OF_SYNC = "out of sync"  # a reason to drop a clip


@dataclass(frozen=True)
class Dropped:
    """A clip that cannot be used."""

    source: str
    reason: str  # one of a few, to be counted
    detail: str


class Unusable(ValueError):
    """A clip turns out to be unusable; ``lasting``: it stays so until its video changes."""

    def __init__(self, reason: str, detail: str, lasting: bool = True) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.lasting = reason, detail, lasting


def find_clips(data_root: Path, preprocessed_root: Path) -> list[Clip]:
    """Return every video below ``data_root``, sorted, each with its own name; raise UserError if there is none."""
    if not data_root.is_dir():
        problem = "is a file" if data_root.exists() else "does not exist"
        raise UserError(f"--data_root {data_root} {problem}; give the folder that holds the videos")
    present = list(visible_files(data_root))
    videos = sorted((path.relative_to(data_root) for path in present if is_video(path)), key=_mp4_first)
    if not videos:
        example = f" ({len(present)} other files, e.g. {present[0].name})" if present else ""
        raise UserError(
            f"no video in {data_root}{example}: looked at any depth for {' '.join(VIDEO_SUFFIXES)}, "
            "and for files without a suffix that start like a video"
        )
    taken: dict[str, Clip] = {}
    for path in videos:
        # Files directly in data_root are named after it, as the reference named clips after their folder.
        # Nested folders become one level, because a line of a filelist is dir/clip.
        folder = "__".join(path.parent.parts) or data_root.resolve().name or "clips"
        choices = itertools.chain((path.stem, path.name), (f"{path.name}.{n}" for n in itertools.count(2)))
        names = (_clean(f"{folder}/{choice}") for choice in choices)
        name = next(name for name in names if name.casefold() not in taken)
        # on many disks, a.mp4 and A.mp4 would share a folder
        taken[name.casefold()] = Clip(path.as_posix(), name, data_root, preprocessed_root)
    return sorted(taken.values(), key=lambda clip: clip.source)


def note_kept(folder: Path, kept: Kept) -> None:
    """Note in a clip's folder, as clip.json, that it is finished, and what it is."""
    files.save_json(folder / NOTE, asdict(kept))


def find_finished(clip: Clip, detector: str, seconds: float | None) -> list[Kept]:
    """Return an earlier run's notes of ``clip``, piece by piece, if all are finished and would be cut the same again.

    If ``seconds`` are given, longer clips do not count.
    """
    first = _first_note(clip)
    if not first:
        return []
    others = (_read_note(clip, piece_name(clip.name, n)) for n in range(2, first.pieces + 1))
    kept = [first, *(other for other in others if other)]
    try:
        same = len(kept) == first.pieces and first.is_from(clip.path)
        same = same and all(_is_whole(clip.preprocessed_root / one.clip, one) for one in kept)
    except OSError:
        return []
    same = same and {(one.source, one.sha256) for one in kept} == {(clip.source, first.sha256)}
    same = same and (seconds is None or max(one.frames for one in kept) <= math.ceil(seconds * hp.fps))
    if not same or detector not in (AUTO, first.face_detector):
        return []
    return _with_date(clip, kept)


def _with_date(clip: Clip, kept: list[Kept]) -> list[Kept]:
    """Note the date of a source that was copied since, so that it is not read again in the next run."""
    modified = clip.path.stat().st_mtime_ns
    if kept[0].modified in (None, modified):
        return kept
    kept = [replace(one, modified=modified) for one in kept]
    with contextlib.suppress(OSError):  # the folder may be read-only
        for one in kept:
            note_kept(clip.preprocessed_root / one.clip, one)
    return kept


def _is_whole(folder: Path, kept: Kept) -> bool:
    """Whether the clip's pictures and its sound are still there."""
    names = {path.name for path in folder.iterdir()}
    pictures = sum(name.endswith(".jpg") for name in names)
    return pictures >= kept.frames_with_face and bool(names & {"audio.wav", "mel.npy"})


def is_from_another_video(clip: Clip) -> bool:
    """Whether an earlier run finished a clip of this name from another video."""
    known = _first_note(clip)
    try:
        return known is not None and not known.is_from(clip.path)
    except OSError:
        return False


def is_from_another_program(clip: Clip) -> bool:
    """Whether there is a folder of this name that no run here has finished, such as one of the reference."""
    return (clip.folder / "0.jpg").exists() and not _read_note(clip, clip.name)


def _first_note(clip: Clip) -> Kept | None:
    """Return the clip.json of the whole clip or its first piece, if it is valid."""
    return _read_note(clip, clip.name) or _read_note(clip, piece_name(clip.name, 1))


def _read_note(clip: Clip, name: str) -> Kept | None:
    """Return the clip.json of the clip, or its piece, of this name, if it is valid."""
    try:
        kept = Kept(**json.loads((clip.preprocessed_root / name / NOTE).read_text()))
        return kept if kept.clip == name else None
    except (OSError, ValueError, TypeError):
        return None


def note_dropped(clip: Clip, detector: str, seconds: float | None, dropped: Dropped) -> None:
    """Note that a clip cannot be used, so that a later run need not search all of it again to find out."""
    noted = {
        "seen": DROPPED_VERSION,
        "stamp": files.stamp(clip.path),
        "face_detector": detector,
        "seconds": seconds or MAX_SECONDS,
        "dropped": asdict(dropped),
    }
    files.save_json(_dropped_path(clip), noted)


def find_dropped(clip: Clip, detector: str, seconds: float | None) -> Dropped | None:
    """Return what an earlier run noted of ``clip`` if it was unusable and still is.

    Longer pieces than those of that run may be usable.
    """
    try:
        noted = json.loads(_dropped_path(clip).read_text())
        dropped = Dropped(**noted["dropped"])
        same = noted["seen"] == DROPPED_VERSION and tuple(noted["stamp"]) == files.stamp(clip.path)
        same = same and dropped.source == printable(clip.source) and noted["seconds"] >= (seconds or MAX_SECONDS)
        same = same and noted["face_detector"] in ((*AUTO_CHOICES, AUTO) if detector == AUTO else (detector,))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return dropped if same else None


def forget_dropped(clip: Clip) -> None:
    _dropped_path(clip).unlink(missing_ok=True)


def _dropped_path(clip: Clip) -> Path:
    return clip.folder.with_name(f".{clip.folder.name}.dropped")


def printable(text: str) -> str:
    """Return ``text`` as valid UTF-8, which file names need not be but terminals and JSON require."""
    return text.encode(errors="replace").decode()


def _mp4_first(path: Path) -> tuple[bool, str]:
    """Return a sort key: of videos that differ only in their suffix, the MP4 keeps the reference's name."""
    return path.suffix.lower() != ".mp4", str(path)


def _clean(name: str) -> str:
    """Return a name that is valid on a disk and in a filelist, which is UTF-8 and ends names at the first space."""
    clean = PIECE.sub(r"_\1", printable(re.sub(r"\s", "_", name)).replace("?", "_"))
    return "/".join(map(_short, clean.split("/")))


def _short(name: str) -> str:
    """Return ``name``, or its beginning and a digest of it if .NAME.partial would be too long for a disk."""
    whole = name.encode()
    if len(whole) <= LONGEST_NAME:
        return name
    return f"{whole[: LONGEST_NAME - 20].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"
