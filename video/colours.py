"""Translate colour tags from what ffmpeg prints to what its options accept."""

from __future__ import annotations

import re

RGB_TAGS = ("bt709", "bt709", "bt709")  # for sources that were never YUV; without tags, players guess by the height
# ISO 23091-2 numbers of the names that ffmpeg prints: its options accept them in every version, unlike the names
UNKNOWN = 2
MATRICES = {
    "bt709": 1, "fcc": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "ycgco": 8, "bt2020nc": 9, "bt2020c": 10,
    "ictcp": 14,
}  # fmt: skip
PRIMARIES = {
    "bt709": 1, "bt470m": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "film": 8, "bt2020": 9, "smpte428": 10,
    "smpte431": 11, "smpte432": 12, "jedec-p22": 22, "ebu3213": 22,
}  # fmt: skip
TRANSFERS = {
    "bt709": 1, "bt470m": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "linear": 8, "log100": 9, "log316": 10,
    "iec61966-2-4": 11, "bt1361e": 12, "iec61966-2-1": 13, "bt2020-10": 14, "bt2020-12": 15, "smpte2084": 16,
    "smpte428": 17, "arib-std-b67": 18,
}  # fmt: skip
# the YUV/RGB matrices that ffmpeg implements (bt2020c: the nearest); it treats others, and untagged video, as bt601
COMPUTED = {
    "bt709": "bt709", "fcc": "fcc", "bt470bg": "bt601", "smpte170m": "bt601", "smpte240m": "smpte240m",
    "bt2020nc": "bt2020", "bt2020c": "bt2020",
}  # fmt: skip
RETAGGED = {"bt2020c": MATRICES["bt2020nc"]}  # because ffmpeg 9 rejects matrices that it does not implement


def tags_of(stream: str) -> tuple[str, str, str] | None:
    """Return the tags in e.g. ``yuv420p(tv, bt470bg/unknown/bt709, progressive)``; None for YUV without tags."""
    if re.match(r"wrapped_avframe, \w*(?:rgb|bgr|gbr|pal8)", stream):
        return RGB_TAGS
    match = re.search(r", \w+\(((?:[^()]|\([^()]*\))*)\), \d+x\d+", stream)
    for part in match[1].split(", ") if match else ():
        names = part.split("/")
        if part in MATRICES:  # one name for all three, if they have the same number
            names = [_named(table, MATRICES[part]) for table in (MATRICES, PRIMARIES, TRANSFERS)]
        if len(names) == 3:
            return names[0], names[1], names[2]
    return None


def _named(table: dict[str, int], number: int) -> str:
    return next((name for name, code in table.items() if code == number), "unknown")


def codes(colour: tuple[str, str, str]) -> tuple[int, int, int]:
    """Return the numbers of tags; UNKNOWN for those without one that every ffmpeg accepts."""
    matrix, primaries, transfer = colour
    return MATRICES.get(matrix, UNKNOWN), PRIMARIES.get(primaries, UNKNOWN), TRANSFERS.get(transfer, UNKNOWN)


def read_as(colour: tuple[str, str, str] | None) -> int | None:
    """Return the matrix that ffmpeg must use to convert this to RGB, or None to use the file's own."""
    if not colour or colour[0] in ("unknown", "reserved"):
        return None
    return RETAGGED.get(colour[0], None if colour[0] in COMPUTED else UNKNOWN)
