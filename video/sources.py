"""Check an input file: it must exist, be readable twice, and be complete."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import files
import pictures
from errors import MissingFile, UserError
from video.process import failure_reason

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)")  # two letters or more: not a drive; Path drops a slash
DESCRIPTOR_PATH = re.compile("/dev/(stdin|fd/)|/proc/[^/]+/fd/")  # file descriptors, which other processes cannot open
START = 4096  # bytes that are examined
LISTS = (b"#EXTM3U", b"<", b"ffconcat", b"v=0")  # how HLS, XML, ffmpeg's lists and SDP begin
NO_XML = re.compile(rb"<[^>]*[\0-\x08\x0b\x0c\x0e-\x1f]")  # XML has no such bytes; some MP4 and MTS begin like this
ENDED = "ended prematurely"  # ffmpeg's message about a Matroska file, even one that declares no length
# and about any file that is shorter than its index or header says
CUT_SHORT = ("partial file", "error during demuxing", "truncat", ENDED)
# of a camera's own data and of the description of the picture in H.264, and of covers: all frames are there
HARMLESS = re.compile(r"SEI type \d+ size \d+ truncated|Truncated VUI|Correcting truncated metadata")
SEGMENT = b"\x18\x53\x80\x67"  # the element of Matroska and WebM that holds all that follows the header
BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}
STREAMED = 0x7FFF0000  # bytes: larger sizes in a WAV or AVI header mean that its length was not known yet
SLACK = 1024  # bytes by which sizes in such headers may be wrong


class Mendable(UserError):
    """Raised for a file that other permissions, or another ffmpeg, would make readable."""


class CutShort(UserError):
    """Raised when a file is shorter than its index or header says."""


def existing_file(path: str | Path) -> Path:
    path = files.as_path(path)
    files.check_name(path)
    if not path.exists():
        if address := ADDRESS.match(str(path)):
            raise MissingFile(f"{address[1]}//{address[2]} is an address; download it first, and give the file")
        raise MissingFile(f"{path} does not exist")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one file")
    if not path.is_file() or DESCRIPTOR_PATH.match(str(path)):
        raise UserError(f"{path} is a pipe or a device, but has to be read twice; save it to a file")
    if not os.access(path, os.R_OK):
        raise Mendable(f"{path} is not readable by this user; change its permissions")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    if _is_list(path):
        raise UserError(f"{path} is a playlist or a web page, not a video; download what it lists and give that")
    return path


def _is_list(path: Path) -> bool:
    """Return whether ffmpeg might read other files that this one names: playlists and any XML, such as DASH.

    Such a file could expose files of this machine to its sender; and ffmpeg waits minutes for a list to continue.
    """
    with open(path, "rb") as file:
        start = file.read(START).lstrip(b"\xef\xbb\xbf \t\r\n\0")
    return start.startswith(LISTS) and not NO_XML.match(start)


def starts_with(path: Path, mark: bytes, skip: int = 0) -> bool:
    with open(path, "rb") as file:
        return file.read(skip + len(mark))[skip:] == mark


def check_whole(path: Path, words: str) -> None:
    """Raise CutShort if a file that was read to its end is incomplete, by ffmpeg's messages or the file's header."""
    signs = set(CUT_SHORT) - ({ENDED} if ENDED in words.lower() and _is_recording(path) else set())
    lines = (line for line in words.splitlines() if not HARMLESS.search(line))
    if told := [line for line in lines if any(sign in line.lower() for sign in signs)]:
        raise CutShort(f"{path} is cut short or damaged ({failure_reason(0, told[0])}); copy or download it again")
    if missing := _missing_bytes(path):
        raise CutShort(f"{path} is cut short or damaged ({missing} bytes are missing); copy or download it again")
    if starts_with(path, pictures.PNG) and pictures.is_cut_short(path.read_bytes()):
        raise CutShort(f"{path} is cut short or damaged (its end is missing); copy or download it again")


def check_index(path: Path, report: str) -> None:
    """Raise CutShort if ffmpeg found no index, which may be at the end, in an MP4 or a related format."""
    if "moov atom not found" in report and starts_with(path, b"ftyp", skip=4):
        raise CutShort(f"{path} is cut short (the index at its end is missing); copy or download it again")


def _is_recording(path: Path) -> bool:
    """Return whether it is Matroska without a declared length, as browsers record it: it may end anywhere."""
    with open(path, "rb") as file:
        size = file.read(START).partition(SEGMENT)[2][:8]
    length = 9 - size[0].bit_length() if size and size[0] else 0  # bytes of the size field; all bits 1: unknown
    return bool(length) and int.from_bytes(size[:length], "big") == (1 << 7 * length + 1) - 1


def _missing_bytes(path: Path) -> int:
    """Return how many bytes of its declared size a WAV, AVI or AIFF lacks: ffmpeg does not report it."""
    with open(path, "rb") as file:
        head = file.read(8)
    order = BYTE_ORDERS.get(head[:4])
    promised = int.from_bytes(head[4:], order) if order else 0
    missing = promised + len(head) - path.stat().st_size
    return missing if promised < STREAMED and missing > SLACK else 0
