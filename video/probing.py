"""Probe a video or picture before its frames are read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

import files
import pictures
from errors import UserError
from video.colours import RGB_TAGS, UNKNOWN, read_as, tags_of
from video.process import (
    Stream,
    command_line,
    declared_duration,
    failure_reason,
    ffmpeg_has,
    ffmpeg_path,
    input_of,
    report_of,
    streams_of,
)
from video.sources import Mendable, check_index, existing_file

HD_SIDE = 1280  # pixels, from which players take video without colour tags for BT.709, not BT.601
LONGEST_SIDE = 16384  # pixels, the limit of H.264
PLAYABLE_SIDE, PLAYABLE_PIXELS = 4096, 4096 * 2304  # what every phone decodes: level 5.1
MIN_FPS = 12.0  # of a source: below it, most frames at 25 fps are duplicates without lip movement
# in ffmpeg's description of a stream or, from showinfo, of a frame
INTERLACED = re.compile(r"\b(?:top|bottom) (?:coded )?first\b|\bs:\d+x\d+ i:[TB] ")
TRANSPARENT = re.compile(r"\bfmt:(?:yuva|gbrap|rgba|bgra|argb|abgr|ya8|ya16|yaf|pal8|ayuv|vuya)")
ALPHA_APART = re.compile(r"^ +alpha_mode +: 1$", re.MULTILINE | re.IGNORECASE)  # ffmpeg's own VP8 and VP9 ignore it
TURNED = re.compile(r"display ?matrix: rotation of", re.IGNORECASE)  # not a title with these words
# In others (MPEG-TS, MPEG-PS, raw streams) ffmpeg may start between key frames and conceal missing data until the next
INDEXED = re.compile(r"^Input #0, (?:mov,|matroska,|avi,|flv,|asf,|ogg,)", re.MULTILINE)
AS_WRITTEN = re.compile(r"h264 \((?:Constrained Baseline|Baseline|Main|High)\)[^,]*, yuv420p(?!\(pc\b)")
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


TURNS = {0: None, 90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class Geometry:
    """What is done to a frame before anything else: shrink, then rotate, then crop."""

    resize_factor: float = 1  # both sides are divided by it
    rotate: int = 0  # degrees clockwise, one of ``TURNS``
    # top, bottom, left, right; -1 is the far edge, and below count pixels before it, as in the reference
    crop: tuple[int, ...] = (0, -1, 0, -1)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        if self.resize_factor > 1:
            height, width = frame.shape[:2]
            size = (int(width / self.resize_factor), int(height / self.resize_factor))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        if (turn := TURNS[self.rotate]) is not None:
            frame = cv2.rotate(frame, turn)
        top, bottom, left, right = self.crop
        frame = frame[top : None if bottom == -1 else bottom, left : None if right == -1 else right]
        return np.ascontiguousarray(frame)

    @property
    def swaps_sides(self) -> bool:
        """Whether rows become columns."""
        return self.rotate in (90, 270)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after this geometry; raise UserError when nothing would be left."""
        if self.resize_factor > min(width, height):
            raise UserError(f"--resize_factor {self.resize_factor:g} leaves nothing of the {width}x{height} picture")
        width, height = int(width / self.resize_factor), int(height / self.resize_factor)
        if self.swaps_sides:
            width, height = height, width
        top, bottom, left, right = self.crop
        bottom, right = (
            side if end == -1 else side + end if end < 0 else end for side, end in ((height, bottom), (width, right))
        )
        if not (0 <= top < bottom and 0 <= left < right and top < height and left < width):
            raise UserError(f"--crop {' '.join(map(str, self.crop))} leaves nothing of the {width}x{height} picture")
        return min(right, width) - left, min(bottom, height) - top


@dataclass(frozen=True)
class VideoInfo:
    """What ``probe`` found: the frames that ``read_frames`` will yield and the tags that an encoder should repeat."""

    path: Path
    width: int  # pixels, as displayed and after ``geometry``
    height: int
    fps: Fraction  # constant rate that frames are delivered at
    is_image: bool = False
    geometry: Geometry = Geometry()
    stored: tuple[int, int] = (0, 0)  # width and height before ``geometry``
    colour: tuple[str, str, str] | None = None  # matrix, primaries, transfer
    sample_aspect: str = "1:1"
    turned: bool = False  # rotated by ffmpeg, following the metadata, before anything else
    notes: tuple[str, ...] = ()  # sentences for the user about what is not used as it is
    stream: str = "V:0"  # ffmpeg's specifier of the stream in the file
    interlaced: bool = False  # its frames consist of two fields, unless marked otherwise
    transparent: bool = False  # perhaps only in places
    decoder: str | None = None  # if not ffmpeg's default one
    indexed: bool = True  # ffmpeg can seek in it and reach the intended frame
    joinable: bool = False  # H.264 as we write it: new frames can be joined to its own
    start: int = 0  # frame of the file that counts as the first
    lasts: float | None = None  # seconds, if the file declares it

    @property
    def pixel_aspect(self) -> float:
        """Width of a pixel divided by its height; 1 if the file's value makes no sense."""
        across, down = map(int, self.sample_aspect.split(":"))
        return across / down if down and 0.2 < across / down < 5 else 1.0

    @property
    def tags(self) -> tuple[str, str, str] | None:
        """The colour tags of a result: its own; for HD without any that becomes smaller, those that players assumed."""
        is_hd = not self.is_image and max(self.stored) >= HD_SIDE > max(self.width, self.height)
        return self.colour or (RGB_TAGS if is_hd else None)

    @property
    def unshrunk(self) -> tuple[int, int]:
        """Width and height before a photo is shrunk to what players can show."""
        return self.geometry.size_of(*self.stored) if self.is_image and any(self.stored) else (self.width, self.height)


def probe(path: str | Path, geometry: Geometry = Geometry()) -> VideoInfo:
    """Inspect a video or picture, by content and not by name; ``geometry`` will be applied to its frames.

    Raises MissingFile or UserError with a sentence for the user if it contains no picture.
    """
    path = existing_file(path)
    if pictures.is_picture(path):
        return _probe_picture(path, geometry)
    described = _describe(path, ffmpeg_path(), files.stamp(path))
    width, height = map(int, re.findall(r", (\d+)x(\d+)", described.shown)[0])
    aspect = re.search(r"\[SAR (\d+):(\d+) ", described.shown)
    across, down = aspect.groups() if aspect else ("1", "1")
    colour = tags_of(described.shown) or tags_of(described.listed)  # ffmpeg 4 reports only the input's
    turned = bool(TURNED.search(described.head))
    decoder = ALPHA_DECODERS.get(described.listed[:3]) if ALPHA_APART.search(described.head) else None
    blind = decoder is not None and not ffmpeg_has("-decoders", decoder)
    return VideoInfo(
        path,
        *geometry.size_of(width, height),
        _frame_rate(described.shown),
        geometry=geometry,
        stored=(width, height),
        colour=colour,
        sample_aspect=f"{down}:{across}" if geometry.swaps_sides else f"{across}:{down}",
        turned=turned,
        notes=tuple(_notes(path, described, colour, blind)),
        stream=described.stream,
        # in a rotated picture the fields would be columns
        interlaced=not turned and any(map(INTERLACED.search, (described.listed, described.shown, described.frame))),
        transparent=bool(TRANSPARENT.search(described.frame)) or (decoder is not None and not blind),
        decoder=None if blind else decoder,
        indexed=bool(INDEXED.search(described.head)),
        # and displayed as stored: cropping by the container would be applied twice
        joinable=bool(AS_WRITTEN.match(described.listed)) and f", {width}x{height}" in described.listed,
        lasts=declared[0] if (declared := declared_duration(described.head)) else None,
    )


def _notes(path: Path, described: _Description, colour: tuple[str, str, str] | None, blind: bool) -> Iterator[str]:
    if described.tracks > 1:
        yield f"{path} has {described.tracks} video tracks; number {described.number} is used"
    if colour and read_as(colour) == UNKNOWN:
        yield f"{path} has the colour matrix {colour[0]}, which ffmpeg mistakes for another; save it in BT.709"
    if blind:
        yield f"{path} is transparent in places, which this ffmpeg ignores; what is hidden there is shown"
    elif TRANSPARENT.search(described.frame) and not described.listed.startswith("gif"):  # all GIFs look so
        yield f"{path} may be transparent in places: they become white, as results are opaque"


@dataclass(frozen=True)
class _Description:
    """What ffmpeg reports about the video tracks of a file."""

    stream: str  # ffmpeg's specifier of the chosen one
    tracks: int  # number of video tracks
    number: int  # of the chosen track, from 1
    listed: str  # its line in the description of the input
    shown: str  # and in that of the output
    frame: str  # showinfo's line on the first frame
    head: str  # the report up to the description of the output


@lru_cache(maxsize=256)
def _describe(path: Path, _ffmpeg: str, _stamp: tuple[int, int]) -> _Description:
    """Decode a frame of the default video track, or else of the first; raise UserError if there is none.

    The result is cached while file and ffmpeg stay the same, because previews and jobs ask repeatedly.
    """
    stream = "V:0"
    code, report = _report_of_first_frame(path, stream)
    listed = streams_of(report)
    tracks = [track for track in listed if track.kind == "Video"] or [Stream(0, "Video", "")]
    taken = next((track for track in tracks if track.is_default), tracks[0])
    if taken is not tracks[0]:
        stream = str(taken.index)
        code, report = _report_of_first_frame(path, stream)
    head, _, tail = report.partition("Output #0, null")  # ffmpeg 5 omits the line break before it if rotation is odd
    shown = re.search(r"^ +Stream #0:0.*?: Video: (.*, \d+x\d+.*)$", tail, re.MULTILINE)
    frame = re.search(r" fmt:.*", report)
    if shown:
        number = tracks.index(taken) + 1
        return _Description(stream, len(tracks), number, taken.text, shown[1], frame[0] if frame else "", head)
    if listed and all(track.kind == "Audio" for track in listed):
        raise UserError(f"{path} has sound but no picture; give a video or a photo of a face")
    if pictures.is_webp(path):
        raise Mendable(f"{path} is animated WebP, which this ffmpeg cannot read; save it as MP4 or GIF")
    if "Input #0, " in head:  # it was opened; ffmpeg's last message would be about the output
        raise UserError(f"{path} has neither picture nor sound that ffmpeg can find; it may be cut short")
    check_index(path, report)
    raise UserError(f"{path} is not a video or picture that ffmpeg can read: {failure_reason(code, report)}")


def _report_of_first_frame(path: Path, stream: str) -> tuple[int, str]:
    source = input_of(path, threads=1)[stream]  # each further thread would decode a frame
    output = source.output("-", format="null", vf="showinfo", **{"frames:v": 1})
    return report_of(command_line(output, "-hide_banner", "-nostdin"))


def _probe_picture(path: Path, geometry: Geometry) -> VideoInfo:
    height, width = pictures.read(path, exact=False).shape[:2]
    size = geometry.size_of(width, height)
    # a video must be playable: photos have several times the pixels that phones can decode
    share = min(1.0, PLAYABLE_SIDE / max(size), math.sqrt(PLAYABLE_PIXELS / (size[0] * size[1])))
    shown = max(1, math.floor(size[0] * share)), max(1, math.floor(size[1] * share))
    notes: tuple[str, ...] = ()
    if shown != size:
        notes = (f"{path} is shrunk from {size[0]}x{size[1]} to {shown[0]}x{shown[1]} pixels, which players can show",)
    stored = width, height
    return VideoInfo(path, shown[0], shown[1], Fraction(25), True, geometry, stored, RGB_TAGS, notes=notes)


def check_size(info: VideoInfo) -> None:
    """Raise UserError if frames of this size cannot be written."""
    if max(info.width, info.height) > LONGEST_SIDE:
        least = -(-max(info.stored) // LONGEST_SIDE)
        raise UserError(
            f"{info.path} is {info.width}x{info.height}, but H.264 allows at most {LONGEST_SIDE} pixels; use "
            f"--resize_factor {max(2, least)} or --crop"
        )


def _frame_rate(stream: str) -> Fraction:
    """Return ffmpeg's own choice of a constant rate from its report, which has 23.98 for 24000/1001."""
    match = re.search(r", ([\d.]+) fps", stream)
    return rate_of(float(match[1]) if match else 0.0)


def rate_of(printed: float) -> Fraction:
    """Return the exact rate for one rounded to two or three decimals: 30000/1001 for 29.97."""
    for nominal in (15, 24, 30, 48, 60, 120):
        if abs(nominal * 1000 / 1001 - printed) < 0.006:
            return Fraction(nominal * 1000, 1001)
    # Screen recordings claim up to 90000 frames a second; timestamps place their frames on any sane grid.
    return min(Fraction(printed).limit_denominator(1000), Fraction(240)) if 0 < printed < 1000 else Fraction(30)
