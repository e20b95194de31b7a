"""Read and add H.264 parameter sets, which decoders need, and which MP4 and Matroska store apart from the pictures.

A set is a few bytes with a number, by which pictures refer to it. So the output of two encoders can share one track if
its description has the sets of both, under different numbers (ISO/IEC 14496-15, 5.3.3).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

SEQUENCE, PICTURE, IDR = 7, 8, 5  # types of NAL units (ITU-T H.264, table 7-1): SPS, PPS, IDR slice
START_CODE = re.compile(rb"\x00\x00\x00?\x01")
NUMBERS = 32  # that an SPS can have; x264 gives the same one to its PPS
PROFILES = {66: "baseline", 77: "main", 100: "high"}  # 8-bit 4:2:0 profiles, in x264's terms
# boxes from the top of an MP4 to the description of its only track, and the bytes in each before its inner boxes
BOX_PATH = (
    (b"moov", 0),
    (b"trak", 0),
    (b"mdia", 0),
    (b"minf", 0),
    (b"stbl", 0),
    (b"stsd", 8),
    (b"avc1", 78),
    (b"avcC", 0),
)
LEVEL = 3  # byte with the level, in a description and in an SPS

Units = tuple[bytes, ...]


def units_of(stream: bytes) -> Units:
    """Return the NAL units of a byte stream (Annex B)."""
    return tuple(START_CODE.split(stream)[1:])


def of_kind(units: Iterable[bytes], kind: int) -> Units:
    return tuple(unit for unit in units if unit[:1] and unit[0] & 31 == kind)


def profile_of(units: Units) -> str | None:
    """Return x264's name for the profile in these units; None if it cannot encode that profile."""
    sequences = of_kind(units, SEQUENCE)
    return PROFILES.get(sequences[0][1]) if sequences else None


def free_number(units: Units) -> int | None:
    """Return a number that no set among the units has; None if all are used, or one is used twice."""
    sequences = [_read_exp_golomb(unit[4:]) for unit in set(of_kind(units, SEQUENCE))]
    pictures = [_read_exp_golomb(unit[1:]) for unit in set(of_kind(units, PICTURE))]
    if len({*sequences}) < len(sequences) or len({*pictures}) < len(pictures):
        return None
    return max(set(range(NUMBERS)) - {*sequences, *pictures}, default=None)


def _read_exp_golomb(data: bytes) -> int:
    """Return the unsigned Exp-Golomb code at the start (ITU-T H.264, 9.1)."""
    bits = f"{int.from_bytes(data[:8].ljust(8, bytes(1)), 'big'):064b}"
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1


def add_sets(path: Path, units: Units) -> None:
    """Add the sets among the units to an MP4's description of its only track; the index must be at its end.

    Raises ValueError for any other kind of file.
    """
    with open(path, "r+b") as file:
        at = _offset_of_index(file)
        file.seek(at)
        index = bytearray(file.read())
        file.seek(at)
        file.write(_with_sets(index, units))


def _offset_of_index(file: BinaryIO) -> int:
    """Return the offset of the index, going from box to box: their contents may be larger than memory."""
    at, end = 0, file.seek(0, 2)
    while at < end:
        file.seek(at)
        size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        size = large if size == 1 else size
        if kind == b"moov" and at + size == end:
            return at
        at += max(size, 8)
    raise ValueError("not an MP4 with its index at the end")


def _with_sets(index: bytearray, units: Units) -> bytearray:
    passed, start, stop = [], 0, len(index)
    for kind, skipped in BOX_PATH:
        at, stop = next(((at, end) for name, at, end in _boxes(index, start, stop) if name == kind), (None, 0))
        if at is None:
            raise ValueError(f"no {kind.decode()} in the index")
        passed.append(at)
        start = at + 8 + skipped
    described = _description(bytes(index[start:stop]), units)
    grown = len(described) - (stop - start)
    index[start:stop] = described
    for at in passed:
        struct.pack_into(">I", index, at, struct.unpack_from(">I", index, at)[0] + grown)
    return index


def _boxes(data: bytearray, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each box in a row."""
    while start + 8 <= stop:
        size, name = struct.unpack_from(">I4s", data, start)
        yield name, start, start + size
        start += max(size, 8)


def _description(old: bytes, units: Units) -> bytes:
    """Return an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1.2) with more sets, and the highest level."""
    sequences, rest = _split_units(old[6:], old[5] & 31)
    pictures, rest = _split_units(rest[1:], rest[0])
    sequences = tuple(dict.fromkeys((*sequences, *of_kind(units, SEQUENCE))))
    pictures = tuple(dict.fromkeys((*pictures, *of_kind(units, PICTURE))))
    head = bytearray(old[:6])
    head[LEVEL] = max(unit[LEVEL] for unit in sequences)
    head[5] = head[5] & ~31 | len(sequences)
    return bytes(head) + _join_units(sequences) + bytes([len(pictures)]) + _join_units(pictures) + rest


def _split_units(data: bytes, count: int) -> tuple[Units, bytes]:
    """Split off ``count`` units, each preceded by its length; return them and what follows."""
    units = []
    for _ in range(count):
        length = int.from_bytes(data[:2], "big")
        units.append(data[2 : 2 + length])
        data = data[2 + length :]
    return tuple(units), data


def _join_units(units: Units) -> bytes:
    return b"".join(struct.pack(">H", len(unit)) + unit for unit in units)
