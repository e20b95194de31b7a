"""Find videos, pictures and sounds in folders, by name; videos also by content."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from errors import MissingFile, UserError

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".amv", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg",
    ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".rm", ".rmvb",
    ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv",
)  # fmt: skip
PICTURE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
SOUND_SUFFIXES = (
    ".3ga", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".eac3", ".flac", ".m4a", ".m4b", ".mka",
    ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav", ".weba", ".wma", ".wv",
)  # fmt: skip
# first bytes of MP4 or MOV, Matroska or WebM, AVI, FLV and MPEG, for files without a suffix
VIDEO_STARTS = re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI |FLV|\x00\x00\x01\xba", re.DOTALL)


def find_videos(roots: Sequence[Path], without: Path | None = None) -> list[Path]:
    """Return the files among ``roots`` and the videos in its folders, at any depth, each once.

    The folder ``without`` is skipped if it is below one of them. Raises MissingFile if a root does not exist, UserError
    if there is no video.
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
    """Yield the files below ``root``, skipping names and folders that start with a dot, and the folder ``without``."""
    seen = {os.path.realpath(without)} - {os.path.realpath(root)} if without else set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # excluded, or already visited: links may form a cycle
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def files_in(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the ``wanted`` files directly in ``folder``, sorted, except those whose names start with a dot."""
    return [path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.is_file() and wanted(path)]


def is_video(path: Path) -> bool:
    """Return whether a file is a video by its suffix, or without one by its first bytes; unreadable ones are not."""
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
