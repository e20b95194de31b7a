"""The videos, pictures and sounds in a folder, by name; videos by content too."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from errors import MissingFile, UserError

VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
PICTURE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
SOUND_SUFFIXES = (
    ".aac", ".ac3", ".aif", ".aiff", ".amr", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".oga", ".ogg",
    ".opus", ".w64", ".wav", ".wma",
)  # fmt: skip
# what files without a suffix start with when they are MP4 or MOV, Matroska or WebM, AVI, FLV, MPEG
VIDEO_STARTS = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI |FLV|\x00\x00\x01\xba", re.DOTALL)


def find_videos(roots: Sequence[Path], without: Path | None = None) -> list[Path]:
    """Return the files among ``roots`` and the videos below its folders, each once.

    Of folders, none that is in a folder ``without`` below them. Raises MissingFile if one of them does not exist,
    UserError if there is no video.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        if not root.exists():
            raise MissingFile(f"{root} does not exist")
        kept = [root] if root.is_file() else filter(is_video, visible_files(root, without))
        found |= {path.absolute(): path for path in kept}
    videos = [*found.values()]
    if not videos:
        raise UserError(f"no video in {', '.join(map(str, roots))}, at any depth")
    return videos


def visible_files(root: Path, without: Path | None = None) -> Iterator[Path]:
    """Yield the files below ``root`` whose names, and those of their folders, do not start with a dot.

    And none that is in a folder ``without`` below it.
    """
    seen = {os.path.realpath(without)} - {os.path.realpath(root)} if without else set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # left out; or a link back to a folder above, without an end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def files_in(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the ``wanted`` files right in ``folder``, sorted, but those whose names start with a dot."""
    return [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.is_file() and wanted(path)]


def is_video(path: Path) -> bool:
    """Whether the name, or for want of a suffix the first bytes, are those of a video. Unreadable ones are not."""
    if path.suffix or not path.is_file():
        return path.suffix.lower() in VIDEO_SUFFIXES
    try:
        with open(path, "rb") as file:
            return bool(VIDEO_STARTS.match(file.read(12)))
    except OSError:
        return False


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def is_sound(path: Path) -> bool:
    return path.suffix.lower() in SOUND_SUFFIXES
