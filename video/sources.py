"""The file that is read: whether it is there, can be read twice, and is whole."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import files
import pictures
from errors import MissingFile, UserError
from video.process import last_words

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)")  # of two letters or more: not a drive; Path drops a slash
OPENED = re.compile("/dev/(stdin|fd/)|/proc/[^/]+/fd/")  # by this process, perhaps, and by no other
START = 4096  # bytes looked at
LISTS = (b"#EXTM3U", b"<", b"ffconcat", b"v=0")  # how HLS, XML, ffmpeg's own lists and SDP begin, and no video
ENDED = "ended prematurely"  # ffmpeg's words for a Matroska file, also one that does not say how long it is
# and for any file that ends before its own table of contents says
CUT_SHORT = ("partial file", "error during demuxing", "truncat", ENDED)
SEGMENT = b"\x18\x53\x80\x67"  # of Matroska and WebM: all that comes after their head
BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}
STREAMED = 0x7FFF0000  # bytes: who does not know yet how long a WAV or AVI will be writes more than that into its head
SLACK = 1024  # bytes by which writers of such heads are mistaken


class CutShort(UserError):
    """A file that ends before its own table of contents says."""


def existing_file(path: str | Path) -> Path:
    path = files.as_path(path)
    files.check_name(path)
    if not path.exists():
        if address := ADDRESS.match(str(path)):
            raise MissingFile(f"{address[1]}//{address[2]} is an address; download it first, and give the file")
        raise MissingFile(f"{path} does not exist")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one file")
    if not path.is_file() or OPENED.match(str(path)):
        raise UserError(f"{path} is a pipe or a device, and what comes from it is needed twice; save it to a file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user; change its permissions")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    if _is_list(path):
        raise UserError(f"{path} is a playlist or a web page, not a video; download what it lists and give that")
    return path


def _is_list(path: Path) -> bool:
    """Whether ffmpeg might read other files that this one names: playlists, and all that is XML, such as DASH.

    Whoever sends such a file would see what only this machine should; and for more of a list ffmpeg waits for minutes.
    """
    with open(path, "rb") as file:
        start = file.read(START).lstrip(b"\xef\xbb\xbf \t\r\n\0")
    return start.startswith(LISTS)


def starts_with(path: Path, mark: bytes, skip: int = 0) -> bool:
    with open(path, "rb") as file:
        return file.read(skip + len(mark))[skip:] == mark


def check_whole(path: Path, words: str) -> None:
    """Raise CutShort if what was read to its end is less than there should be, as ffmpeg or the file's head says."""
    signs = set(CUT_SHORT) - ({ENDED} if ENDED in words.lower() and _is_recording(path) else set())
    if told := [line for line in words.splitlines() if any(sign in line.lower() for sign in signs)]:
        raise CutShort(f"{path} is cut short or damaged ({last_words(0, told[0])}); copy or download it again")
    if missing := _missing_bytes(path):
        raise CutShort(f"{path} is cut short or damaged ({missing} bytes are missing); copy or download it again")
    if starts_with(path, pictures.PNG) and pictures.is_cut_short(path.read_bytes()):
        raise CutShort(f"{path} is cut short or damaged (its end is missing); copy or download it again")


def check_index(path: Path, report: str) -> None:
    """Raise CutShort if ffmpeg has missed the index of an MP4, or its kin, which may be at its end."""
    if "moov atom not found" in report and starts_with(path, b"ftyp", skip=4):
        raise CutShort(f"{path} is cut short (the index at its end is missing); copy or download it again")


def _is_recording(path: Path) -> bool:
    """Whether it is Matroska that does not say how long it is, as browsers record it: it ends where it ends."""
    with open(path, "rb") as file:
        size = file.read(START).partition(SEGMENT)[2][:8]
    length = 9 - size[0].bit_length() if size and size[0] else 0  # bytes of a number; all its bits are 1: unknown
    return bool(length) and int.from_bytes(size[:length], "big") == (1 << 7 * length + 1) - 1


def _missing_bytes(path: Path) -> int:
    """How many bytes a WAV, AVI or AIFF lacks of what its head promises: ffmpeg takes the rest for all of it."""
    with open(path, "rb") as file:
        head = file.read(8)
    order = BYTE_ORDERS.get(head[:4])
    promised = int.from_bytes(head[4:], order) if order else 0
    missing = promised + len(head) - path.stat().st_size
    return missing if promised < STREAMED and missing > SLACK else 0
