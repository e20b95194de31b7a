"""Media in and out: the only file that knows ffmpeg.

Frames are uint8 arrays (height, width, 3) in BGR, one at a time, so memory does not grow with the length of a video.
Frame ``i`` of a stream is what a player shows at time ``i / fps``: variable rates are made constant by timestamps,
rotation metadata is applied, interlaced frames are deinterlaced, what is transparent becomes white, and a picture that
starts late is preceded by its first frame. Sound is float32 mono.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

import files
import pictures
from errors import MissingFile, UserError

LONGEST_SIDE = 16384  # pixels, of H.264
PLAYABLE_SIDE, PLAYABLE_PIXELS = 4096, 4096 * 2304  # what every phone's decoder takes: level 5.1
CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")  # those that hold H.264 with AAC on every player
HELD_BYTES = 128 << 20  # frames kept in memory to play a short clip again, or a long one backwards
MIN_FPS = 12.0  # of a source: below it, most frames at 25 fps are copies and show no lip moving
AUDIO_SECONDS = 30  # of decoded sound given at a time
SILENCE = 1e-4  # full scale is 1: -80 dB, what encoders make of nothing at all
FAINT = 0.01  # -40 dB: no more than is left where channels cancel each other
CANCELLED = 10.0  # times as loud as all together is one channel, when they do
SEEK_MARGIN = 2.0  # seconds decoded before a wanted frame, so that inexact seeking cannot skip it
# Static builds crash where they convert names of .ts programmes by the tables of a system that they do not fit
ENVIRONMENT = {**os.environ, "GCONV_PATH": os.devnull}
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
TALKATIVE = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info")  # tells also what it has taken
NO_STREAM = ("matches no streams", "does not contain any stream")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)")  # of two letters or more: not a drive; Path drops a slash
PLAYLIST = b"#EXTM3U"  # how every HLS playlist begins
# ffmpeg's default conversion from BGR is up to three grey levels off, and again with every generation
EXACT_COLOUR = "accurate_rnd+bicubic"
# x264's quickest presets do without the look ahead that lets it spend less on what stays the same: it costs next to
# nothing and halves the file. So "superfast" makes files almost as small as "veryfast" does, in half the time.
QUICK_PRESETS = ("ultrafast", "superfast")
LOOK_AHEAD = {"x264-params": "mbtree=1:rc-lookahead=10"}
# A track that starts late or has holes keeps its time; stereo becomes mono as the mean, not 3 dB louder.
AUDIO_CLOCK = "aresample=async=1:first_pts=0:rematrix_maxval=1"
AAC_LAYOUTS = "aformat=channel_layouts=mono|stereo|5.1|7.1"  # others are mixed to the nearest of these
# Picture and sound are read by different processes. In broadcast files (.ts, .mpg, …) ffmpeg lets time begin with the
# first stream that it reads, and closes gaps between joined recordings; so each process reads all streams.
SHARED_TIMELINE = ("-map", "0:u", "-map", "-0:s?", "-map", "-0:d?", "-map", "-0:t?", "-c", "copy", "-f", "null", "-")
CLOCK_JUMP = ("-dts_delta_threshold", "60")  # seconds; a shorter hole, of the picture alone, is no other clock
RGB_TAGS = ("bt709", "bt709", "bt709")  # for what was never YUV; without tags, players guess by the height
# The numbers in ISO 23091-2 of what ffmpeg prints by name: its options take them in every version, unlike the names
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
# the matrices between YUV and RGB that ffmpeg computes with; others it takes for bt601, as it takes what has no tag
COMPUTED = {
    "bt709": "bt709", "fcc": "fcc", "bt470bg": "bt601", "smpte170m": "bt601", "smpte240m": "smpte240m",
    "bt2020nc": "bt2020", "bt2020c": "bt2020",
}  # fmt: skip
RETAGGED = {"bt2020c": MATRICES["bt2020nc"]}  # the nearest to it; ffmpeg 9 reads no matrix that it cannot compute with
UNFINISHED = ("Error writing trailer", "Error closing file")  # ffmpeg's words, until version 6 with exit code 0
# what ffmpeg says of a stream or, in showinfo, of a frame of it
INTERLACED = re.compile(r"\b(?:top|bottom) (?:coded )?first\b|\bs:\d+x\d+ i:[TB] ")
TRANSPARENT = re.compile(r"\bfmt:(?:yuva|gbrap|rgba|bgra|argb|abgr|ya8|ya16|yaf|pal8|ayuv|vuya)")
ALPHA_APART = re.compile(r"^ +alpha_mode +: 1$", re.MULTILINE | re.IGNORECASE)  # ffmpeg's own VP8 and VP9 pass it by
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"  # frames that say so, one for one
# ffmpeg's words for a file that ends before its own table of contents says
CUT_SHORT = ("partial file", "error during demuxing", "truncat", "ended prematurely")
STREAMED = 0x7FFF0000  # bytes: who does not know yet how long a WAV or AVI will be writes more than that into its head
SLACK = 1024  # bytes by which writers of such heads are mistaken
ROUNDED = 0.2, 0.05  # seconds, and share, by which lengths in heads are mistaken; some count what encoders add


class CutShort(UserError):
    """A file that ends before its own table of contents says."""


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """Return the system's ffmpeg if it can make H.264, as conda's often cannot, else the one of imageio-ffmpeg."""
    if found := shutil.which("ffmpeg"):
        result = subprocess.run([found, "-hide_banner", "-encoders"], capture_output=True, env=ENVIRONMENT)
        if b" libx264 " in result.stdout:
            return found
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


# --------------------------------------------------------------------------------------------------------------------
# Geometry


@dataclass(frozen=True)
class Geometry:
    """What happens to a frame before anything looks at it: shrink, then turn, then cut out."""

    resize_factor: int = 1  # both sides are divided by it
    rotate: bool = False  # 90 degrees clockwise
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)  # top, bottom, left, right; -1 is the far edge

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        if self.resize_factor > 1:
            height, width = frame.shape[:2]
            frame = cv2.resize(frame, (width // self.resize_factor, height // self.resize_factor))
        if self.rotate:
            frame = cv2.rotate(frame, cv2.ROTATE_90_CLOCKWISE)
        top, bottom, left, right = self.crop
        frame = frame[top : None if bottom == -1 else bottom, left : None if right == -1 else right]
        return np.ascontiguousarray(frame)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) after this geometry; raise ValueError when nothing would be left."""
        if self.resize_factor > min(width, height):
            raise UserError(f"--resize_factor {self.resize_factor} leaves nothing of the {width}x{height} picture")
        width, height = width // self.resize_factor, height // self.resize_factor
        if self.rotate:
            width, height = height, width
        top, bottom, left, right = self.crop
        bottom, right = height if bottom == -1 else bottom, width if right == -1 else right
        if not (0 <= top < bottom and 0 <= left < right and top < height and left < width):
            raise UserError(f"--crop {' '.join(map(str, self.crop))} leaves nothing of the {width}x{height} picture")
        return min(right, width) - left, min(bottom, height) - top


# --------------------------------------------------------------------------------------------------------------------
# Looking at a file


@dataclass(frozen=True)
class VideoInfo:
    """What ``probe`` found: the frames that ``read_frames`` will give and the tags that an encoder should repeat."""

    path: Path
    width: int  # pixels, as displayed and after ``geometry``
    height: int
    fps: Fraction  # constant rate that frames are delivered at
    is_image: bool = False
    geometry: Geometry = Geometry()
    stored: tuple[int, int] = (0, 0)  # width and height before ``geometry``
    colour: tuple[str, str, str] | None = None  # matrix, primaries, transfer
    sample_aspect: str = "1:1"
    turned: bool = False  # by ffmpeg, as metadata say, before anything else
    notes: tuple[str, ...] = ()  # sentences for the user: what is not taken as it is
    stream: str = "V:0"  # of the file, in ffmpeg's words
    interlaced: bool = False  # its frames are made of two moments, unless they say otherwise
    transparent: bool = False  # in places, perhaps
    decoder: str | None = None  # if not ffmpeg's usual one


def probe(path: str | Path, geometry: Geometry = Geometry()) -> VideoInfo:
    """Look at a video or picture, by content and not by name; its frames will come through ``geometry``.

    Raises FileNotFoundError or ValueError with a sentence for the user when there is no picture in it.
    """
    path = _existing(path)
    if pictures.is_picture(path):
        return _probe_picture(path, geometry)
    described = _describe(path)
    width, height = map(int, re.search(r", (\d+)x(\d+)", described.shown).groups())
    aspect = re.search(r"\[SAR (\d+):(\d+) ", described.shown)
    across, down = aspect.groups() if aspect else ("1", "1")
    colour = _colour(described.shown) or _colour(described.listed)  # ffmpeg 4 tells only of the input's
    turned = "rotation of" in described.head
    decoder = ALPHA_DECODERS.get(described.listed[:3]) if ALPHA_APART.search(described.head) else None
    blind = decoder is not None and not _has_decoder(decoder)
    return VideoInfo(
        path,
        *geometry.size_of(width, height),
        _frame_rate(described.shown),
        geometry=geometry,
        stored=(width, height),
        colour=colour,
        sample_aspect=f"{down}:{across}" if geometry.rotate else f"{across}:{down}",
        turned=turned,
        notes=tuple(_notes(path, described, colour, blind)),
        stream=described.stream,
        interlaced=not turned
        and any(map(INTERLACED.search, (described.listed, described.shown, described.frame))),  # else columns
        transparent=bool(TRANSPARENT.search(described.frame)) or decoder is not None and not blind,
        decoder=None if blind else decoder,
    )


def _notes(path: Path, described: _Description, colour: tuple[str, str, str] | None, blind: bool) -> Iterator[str]:
    if described.tracks > 1:
        yield f"{path} has {described.tracks} tracks of pictures; number {described.number} is taken"
    if colour and _read_as(colour) == UNKNOWN:
        yield f"{path} has colours of the kind {colour[0]}, which ffmpeg takes for others; save it in BT.709"
    if blind:
        yield f"{path} is transparent in places, which this ffmpeg does not see; what is hidden there is shown"


@dataclass(frozen=True)
class _Description:
    """What ffmpeg says of the pictures in a file."""

    stream: str  # which of all, in ffmpeg's words
    tracks: int  # that have pictures
    number: int  # of the one that is taken, from 1
    listed: str  # its line in the description of the file
    shown: str  # and in that of the output
    frame: str  # showinfo's line on the first frame
    head: str  # what comes before the output


def _describe(path: Path) -> _Description:
    """Decode a frame of the track that is marked as default, or of the first; raise ValueError if there is none."""
    stream = "V:0"
    code, report = _report_of_first_frame(path, stream)
    listed = _streams(report)
    tracks = [track for track in listed if track.kind == "Video"] or [_Stream(0, "Video", "")]
    taken = next((track for track in tracks if track.is_default), tracks[0])
    if taken is not tracks[0]:
        stream = str(taken.index)
        code, report = _report_of_first_frame(path, stream)
    head, _, tail = report.partition("Output #0, null")  # ffmpeg 5 ends no line before it, if rotation is odd
    shown = re.search(r"^ +Stream #0:0.*?: Video: (.*, \d+x\d+.*)$", tail, re.MULTILINE)
    frame = re.search(r" fmt:.*", report)
    if shown:
        number = tracks.index(taken) + 1
        return _Description(stream, len(tracks), number, taken.text, shown[1], frame[0] if frame else "", head)
    if listed and all(track.kind == "Audio" for track in listed):
        raise UserError(f"{path} has sound but no picture; give a video or a photo of a face")
    if pictures.is_webp(path):
        raise UserError(f"{path} is animated WebP, which this ffmpeg cannot read; save it as MP4 or GIF")
    raise UserError(f"{path} is not a video or picture that ffmpeg can read: {_last_words(code, report)}")


def _has_decoder(name: str) -> bool:
    return f" {name} " in _report([ffmpeg_path(), "-hide_banner", "-decoders"])[1]


def _report_of_first_frame(path: Path, stream: str) -> tuple[int, str]:
    output = _input(path)[stream].output("-", format="null", vf="showinfo", **{"frames:v": 1})
    return _report(_compile(output, "-hide_banner", "-nostdin"))


@dataclass(frozen=True)
class _Stream:
    index: int
    kind: str  # Video or Audio
    text: str

    @property
    def is_default(self) -> bool:
        return "(default)" in self.text


def _streams(report: str) -> list[_Stream]:
    """The pictures, but for covers, and sounds that ffmpeg's report lists of its input, by their place in the file."""
    of_input = re.split(r"Output #|Stream mapping:", report)[0]
    lines = re.findall(r"^(?:\[info\])? +Stream #0:(\d+).*?: (Video|Audio): (.*)$", of_input, re.MULTILINE)
    streams = (_Stream(int(index), *rest) for index, *rest in lines)
    shown = (stream for stream in streams if not re.search(r"\((attached pic|timed thumbnails)\)", stream.text))
    return sorted(shown, key=lambda stream: stream.index)  # those of broadcasts are listed by programme


def _probe_picture(path: Path, geometry: Geometry) -> VideoInfo:
    height, width = pictures.read(path).shape[:2]
    size = geometry.size_of(width, height)
    # a video has to be played: photos have several times the pixels that phones can
    share = min(1.0, PLAYABLE_SIDE / max(size), math.sqrt(PLAYABLE_PIXELS / (size[0] * size[1])))
    shown = max(1, math.floor(size[0] * share)), max(1, math.floor(size[1] * share))
    notes: tuple[str, ...] = ()
    if shown != size:
        notes = (f"{path} is shrunk from {size[0]}x{size[1]} to {shown[0]}x{shown[1]} pixels, which players can show",)
    stored = width, height
    return VideoInfo(path, shown[0], shown[1], Fraction(25), True, geometry, stored, RGB_TAGS, notes=notes)


def check_size(info: VideoInfo) -> None:
    """Raise ValueError if frames of this size cannot be written."""
    if max(info.width, info.height) > LONGEST_SIDE:
        least = -(-max(info.stored) // LONGEST_SIDE)
        raise UserError(
            f"{info.path} is {info.width}x{info.height}, and H.264 ends at {LONGEST_SIDE} pixels; use --resize_factor "
            f"{max(2, least)} or --crop"
        )


def _existing(path: str | Path) -> Path:
    path = Path(path)
    files.check_name(path)
    if not path.exists():
        if address := ADDRESS.match(str(path)):
            raise MissingFile(f"{address[1]}//{address[2]} is an address; download it first, and give the file")
        raise MissingFile(f"{path} does not exist")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give one file")
    if not path.is_file():
        raise UserError(f"{path} is a pipe or a device, and what comes from it is needed twice; save it to a file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes)")
    if _starts_with(path, PLAYLIST):  # ffmpeg would wait for more of it for minutes
        raise UserError(f"{path} is a playlist, not a video; download what it lists and give that")
    return path


def _starts_with(path: Path, mark: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(mark)) == mark


def _input(path: Path, **options: object) -> Any:
    """Return ffmpeg-python's input of a file; ``input["V:0"]`` is one of its streams."""
    import ffmpeg  # here: machines that only train have none

    # the whitelist keeps a playlist disguised as a video from reaching the network
    return ffmpeg.input(_url(path), protocol_whitelist="file,pipe", **options)


def _url(path: Path) -> str:
    """Name a file so that it cannot be taken for an option, another protocol or a pattern.

    ffmpeg-python wants text that is UTF-8, which names need not be: these are bytes, dressed up until ``_compile``.
    """
    return os.fsencode(f"file:{path.absolute()}").decode("latin-1")


def _compile(output: Any, *flags: str) -> list[str]:
    """Return the command line of an output of ffmpeg-python; ``flags`` are for all of ffmpeg, and come first."""
    parts = output.compile(cmd=[ffmpeg_path(), *flags])
    return [os.fsdecode(part.encode("latin-1")) if part.startswith("file:") else part for part in parts]


def _report(command: Sequence[str]) -> tuple[int, str]:
    """Run ffmpeg, and return its exit code and all that it says."""
    result = subprocess.run(command, capture_output=True, env=ENVIRONMENT)
    return result.returncode, (result.stdout + result.stderr).decode(errors="replace")


def _frame_rate(stream: str) -> Fraction:
    """ffmpeg's own choice of a constant rate, from its report; it prints 23.98 for 24000/1001."""
    match = re.search(r", ([\d.]+) fps", stream)
    printed = float(match[1]) if match else 0.0
    for nominal in (24, 30, 48, 60, 120):
        if f"{nominal * 1000 / 1001:.2f}" == f"{printed:.2f}":
            return Fraction(nominal * 1000, 1001)
    # Screen recordings claim up to 90000 frames a second; timestamps place their frames on any sane grid.
    return Fraction(printed).limit_denominator(1000) if 0 < printed <= 240 else Fraction(30)


def _colour(stream: str) -> tuple[str, str, str] | None:
    """The tags in e.g. ``yuv420p(tv, bt470bg/unknown/bt709, progressive)``; None when the file has none and is YUV."""
    if re.match(r"wrapped_avframe, \w*(?:rgb|bgr|gbr|pal8)", stream):
        return RGB_TAGS
    match = re.search(r", \w+\(((?:[^()]|\([^()]*\))*)\), \d+x\d+", stream)
    for part in match[1].split(", ") if match else ():
        names = part.split("/")
        if part in MATRICES:  # one name for all three, where they have the same number
            names = [_named(table, MATRICES[part]) for table in (MATRICES, PRIMARIES, TRANSFERS)]
        if len(names) == 3:
            return names[0], names[1], names[2]
    return None


def _named(table: dict[str, int], number: int) -> str:
    return next((name for name, code in table.items() if code == number), "unknown")


def _codes(colour: tuple[str, str, str]) -> tuple[int, int, int]:
    """The numbers of tags; of what has none, or not with every ffmpeg, the one that says so."""
    matrix, primaries, transfer = colour
    return MATRICES.get(matrix, UNKNOWN), PRIMARIES.get(primaries, UNKNOWN), TRANSFERS.get(transfer, UNKNOWN)


def _read_as(colour: tuple[str, str, str] | None) -> int | None:
    """Return the matrix by which ffmpeg is to make RGB of this, where it would not take the file's own."""
    if not colour or colour[0] in ("unknown", "reserved"):
        return None
    return RETAGGED.get(colour[0], None if colour[0] in COMPUTED else UNKNOWN)


def _last_words(code: int, report: str) -> str:
    if code < 0:
        return f"{ffmpeg_path()} crashed ({signal.strsignal(-code)}); if it does so again, install another ffmpeg"
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    # less the part of ffmpeg that speaks, and the file's name, which whoever raises an error says anyway
    return re.sub(r"^(\[[^\]]*\] )+|file:/.*: (?=[A-Z])", "", lines[-1]) if lines else "ffmpeg said nothing"


def _without_names(report: str, path: Path) -> str:
    """A report without what others wrote: the file's name and its metadata. What is said of errors may be anywhere in
    it, even within a line, since ffmpeg 7 speaks with several threads.
    """
    return re.sub(r"^\[info\] +[\w-]+ *: .*$", "", report.replace(str(path.absolute()), ""), flags=re.MULTILINE)


def _complaints(report: str) -> str:
    """The errors in a report that is ``TALKATIVE``."""
    return "\n".join(line for line in report.splitlines() if re.match(r"(\[[^\]]*\] )*\[(error|fatal|panic)\] ", line))


# --------------------------------------------------------------------------------------------------------------------
# Reading


def read_frames(info: VideoInfo, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
    """Yield frames ``start``, ``start + 1``, … (``count`` of them, or all), each through ``info.geometry``.

    Raises ValueError if the file breaks off or cannot be decoded. Closing the generator stops ffmpeg.
    """
    if info.is_image:
        yield from [_photo(info)][start:count]
    else:
        yield from map(info.geometry, _decode(info, start, count))


def _photo(info: VideoInfo) -> np.ndarray:
    frame = info.geometry(pictures.read(info.path))
    if frame.shape[:2] == (info.height, info.width):
        return frame
    return cv2.resize(frame, (info.width, info.height), interpolation=cv2.INTER_AREA)


def _decode(info: VideoInfo, start: int, count: int | None) -> Iterator[np.ndarray]:
    if count is not None and count <= 0:
        return
    width, height = info.stored
    # Time 0 is then a whole number of frames into the file, so a frame's number never depends on seeking.
    skipped = max(0, start - math.ceil(SEEK_MARGIN * info.fps))
    first = float((start - skipped) / info.fps)
    filters = [f"scale={width}:{height}", f"fps=fps={info.fps}:start_time={first:.9f}", "setpts=N"]
    if info.interlaced:
        filters.insert(0, DEINTERLACE)
    if (matrix := _read_as(info.colour)) is not None:
        filters.insert(0, f"setparams=colorspace={matrix}")
    options: dict[str, object] = {"ss": f"{float(skipped / info.fps):.6f}"} if skipped else {}
    if not (info.turned or info.interlaced):  # whose filters know only one size
        options["reinit_filter"] = 0  # else a change of size restarts the clock of the filters
    if info.decoder:
        options["c:v"] = info.decoder
    raw = {"format": "rawvideo", "pix_fmt": "bgra" if info.transparent else "bgr24", "vf": ",".join(filters)}
    # setpts makes ffmpeg 7.0 forget the rate, and then make it 25
    output = _input(info.path, **options)[info.stream].output("pipe:1", r=str(info.fps), **raw)
    command = [*_compile(output, *QUIET, *CLOCK_JUMP), *SHARED_TIMELINE]
    with _Process(command, stdout=subprocess.PIPE) as process:
        for given in itertools.count():
            if given == count:
                return
            frame = np.empty((height, width, 4 if info.transparent else 3), np.uint8)
            if process.stdout.readinto(memoryview(frame).cast("B")) < frame.nbytes:
                break
            yield pictures.on_plain_ground(frame[..., :3], frame[..., 3]) if info.transparent else frame
        words = process.finish(UserError, f"cannot read {info.path}")
    _check_whole(info.path, words)


def _check_whole(path: Path, words: str) -> None:
    """Raise CutShort if what was read to its end is less than there should be, as ffmpeg or the file's head says."""
    if told := [line for line in words.splitlines() if any(sign in line.lower() for sign in CUT_SHORT)]:
        raise CutShort(f"{path} is cut short or damaged ({_last_words(0, told[0])}); copy or download it again")
    if missing := _missing_bytes(path):
        raise CutShort(f"{path} is cut short or damaged ({missing} bytes are missing); copy or download it again")
    if _starts_with(path, pictures.PNG) and pictures.is_cut_short(path.read_bytes()):
        raise CutShort(f"{path} is cut short or damaged (its end is missing); copy or download it again")


def _missing_bytes(path: Path) -> int:
    """How many bytes a WAV, AVI or AIFF lacks of what its head promises: ffmpeg takes the rest for all of it."""
    with open(path, "rb") as file:
        head = file.read(8)
    order = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}.get(head[:4])
    promised = int.from_bytes(head[4:], order) if order else 0
    missing = promised + len(head) - path.stat().st_size
    return missing if promised < STREAMED and missing > SLACK else 0


class Sound:
    """The sound of any media file, to be read any number of times: of several tracks the one that players take.

    Iterating gives it block by block: float32 mono (samples,) at ``sample_rate`` Hz. Raises FileNotFoundError or
    ValueError, at the first block if not before, when there is none to be read.
    """

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        self.path, self._sample_rate = _existing(path), sample_rate
        self.stream: int | None = None  # of all in the file; known once it has been read
        self.notes: list[str] = []  # sentences for the user, likewise: what is not taken as it is
        self._channel: int | None = None  # the only one to be heard

    def __iter__(self) -> Iterator[np.ndarray]:
        known, blocks, held = self.stream is not None, self._decode(), []
        for block in blocks:
            held.append(block)
            if known or np.abs(block).max() >= FAINT:
                break
        else:
            held = self._listen_closer(held)
        yield from held
        yield from blocks

    def _decode(self) -> Iterator[np.ndarray]:
        # without -map, ffmpeg takes what is marked as default, then what has the most channels, then the first
        source = _input(self.path) if self.stream is None else _input(self.path)[str(self.stream)]
        only = "" if self._channel is None else f"pan=mono|c0=c{self._channel},"
        output = source.output("pipe:1", format="f32le", af=f"{only}{AUDIO_CLOCK}", ac=1, ar=self._sample_rate)
        command = [*_compile(output, *TALKATIVE, *CLOCK_JUMP), *SHARED_TIMELINE]
        heard = 0
        with _Process(command, stdout=subprocess.PIPE) as process:
            while block := process.stdout.read(int(AUDIO_SECONDS * self._sample_rate) * np.float32().itemsize):
                heard += len(block) // np.float32().itemsize
                samples = np.nan_to_num(np.frombuffer(block, np.float32))
                yield np.clip(samples, -1.0, 1.0, out=samples)
            code, report = process.wait()
        self._check(code, report, heard)
        if self.stream is None:
            self._look_at(report, heard / self._sample_rate)

    def _check(self, code: int, report: str, heard: int) -> None:
        if any(words in report for words in NO_STREAM):
            raise UserError(f"{self.path} has no sound track; give a file with speech in it")
        if "Rematrix is needed" in report:
            raise UserError(
                f"{self.path} has more channels than this ffmpeg can mix; save it in stereo, or install ffmpeg 7"
            )
        if code != 0:
            words = _last_words(code, _complaints(report))
            raise UserError(f"{self.path} is not a sound file that ffmpeg can read: {words}")
        _check_whole(self.path, _without_names(report, self.path))
        if not heard:
            raise UserError(f"the sound track of {self.path} is empty")

    def _look_at(self, report: str, seconds: float) -> None:
        """Learn from ffmpeg's report what it took, and how long it should have been."""
        self.stream = _taken(report)
        streams = _streams(report)
        promised = _promised_seconds(report) if len(streams) == 1 else 0.0  # of several, that of the longest
        if promised - seconds > max(ROUNDED[0], ROUNDED[1] * promised):
            self.notes.append(
                f"{self.path} says that it lasts {promised:.1f} s, and ends after {seconds:.1f} s; "
                "if that is not all, copy or download it again"
            )
        tracks = [stream.index for stream in streams if stream.kind == "Audio"]
        if len(tracks) > 1 and self.stream in tracks:
            number = tracks.index(self.stream) + 1
            self.notes.append(f"{self.path} has {len(tracks)} sound tracks; number {number} is taken")

    def _listen_closer(self, heard: list[np.ndarray]) -> Iterable[np.ndarray]:
        """Return ``heard``, which is faint, or if that is because channels cancel each other, the loudest of them."""
        mean_square = sum(float(np.square(block, dtype=np.float64).sum()) for block in heard) / sum(map(len, heard))
        channels = self._channel_levels()
        loudest = max(channels, default=0.0)
        if loudest > max(SILENCE, CANCELLED * math.sqrt(mean_square)):
            self._channel = channels.index(loudest)
            number = f"number {self._channel + 1} of {len(channels)}"
            self.notes.append(f"the channels of {self.path} cancel each other; {number} is taken for the lips")
            return self._decode()
        if max(float(np.abs(block).max()) for block in heard) < SILENCE:
            self.notes.append(f"{self.path} is silent from end to end: there is nothing for lips to follow")
        return heard

    def _channel_levels(self) -> list[float]:
        """The root mean square of every channel; full scale is 1."""
        output = _input(self.path)[str(self.stream)].output("-", format="null", af="astats")
        _, report = _report(_compile(output, *TALKATIVE))
        of_channels = report.partition("Overall")[0].split("Channel: ")[1:]
        decibels = (re.search(r"RMS level dB: (\S+)", part) for part in of_channels)
        return [10 ** (float(level[1]) / 20) if level else 0.0 for level in decibels]


def _sound_stream(path: Path) -> int | str:
    """What ``Sound.stream`` will be; where there is none, the name of a stream that ffmpeg will complain of."""
    output = _input(path).output("-", format="null", t=0.1, vn=None, sn=None, dn=None)
    taken = _taken(_report(_compile(output, *TALKATIVE))[1])
    return "a:0" if taken is None else taken


def _promised_seconds(report: str) -> float:
    """How long the input lasts by what is written in it; 0 if nothing is."""
    match = re.search(r"Duration: (\d+):(\d+):([\d.]+)", report)
    if not match or "Estimating duration" in report:
        return 0.0
    hours, minutes, seconds = map(float, match.groups())
    return 3600 * hours + 60 * minutes + seconds


def _taken(report: str) -> int | None:
    """The stream of the input that ffmpeg says it gives to the output."""
    match = re.search(r"Stream #0:(\d+)\S* -> #0:0 ", report)
    return int(match[1]) if match else None


def stream_audio(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Decode the sound track of any media file, block by block: see ``Sound``."""
    return iter(Sound(path, sample_rate))


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """Return all that ``stream_audio`` gives, (samples,): 4 MB a minute at 16 kHz."""
    return np.concatenate(list(Sound(path, sample_rate)))


def source_index(index: int, count: int, pingpong: bool) -> int:
    """Return which of ``count`` source frames is shown at output frame ``index`` of an endlessly repeated clip."""
    period = max(1, 2 * count - 2) if pingpong else count
    position = index % period
    return position if position < count else period - position


def repeat_frames(
    info: VideoInfo, wanted: int, count: int | None = None, pingpong: bool = False
) -> Iterator[np.ndarray]:
    """Yield ``wanted`` frames: the first ``count`` (or all) of the video, repeated as ``source_index`` orders them.

    If ``count`` is enough for all, none is kept, and the receiver may change them.
    """
    if count is not None and wanted <= count:
        yield from read_frames(info, 0, wanted)
    else:
        yield from itertools.islice(_endless(info, count, pingpong), wanted)


def _endless(info: VideoInfo, count: int | None, pingpong: bool) -> Iterator[np.ndarray]:
    kept: list[np.ndarray] = []
    seen = 0
    for frame in read_frames(info, 0, count):
        seen += 1
        if seen <= _frames_held(info):
            kept.append(frame)
        else:
            kept.clear()
        yield frame
    if not seen:
        raise UserError(f"{info.path} has no frame that can be decoded")
    if kept:
        yield from (kept[source_index(i, seen, pingpong)] for i in itertools.count(seen))
    while True:
        if pingpong:
            yield from _read_backwards(info, seen)
        yield from read_frames(info, 0, seen)


def _read_backwards(info: VideoInfo, count: int) -> Iterator[np.ndarray]:
    """Yield frames ``count - 2``, …, 1: a piece that fits in memory is read forwards and given backwards."""
    step = _frames_held(info)
    for stop in range(count - 1, 1, -step):
        start = max(1, stop - step)
        yield from reversed(list(read_frames(info, start, stop - start)))


def _frames_held(info: VideoInfo) -> int:
    return max(1, HELD_BYTES // (info.width * info.height * 3))


# --------------------------------------------------------------------------------------------------------------------
# Writing


class VideoWriter:
    """Encode frames and a sound file into one video, which appears under its name only when it is complete.

    Use as a context manager: leaving it normally finishes the file, leaving it by an exception removes every trace.
    ``like`` gives the size, rate and tags of the frames. The sound is cut or ends with the last of ``count`` frames.
    """

    def __init__(
        self,
        path: str | Path,
        like: VideoInfo,
        audio: str | Path | Sound,
        count: int,
        crf: int = 18,
        preset: str = "superfast",
    ) -> None:
        self.path = Path(path)
        self._audio, known = (audio.path, audio.stream) if isinstance(audio, Sound) else (Path(audio), None)
        self._stream = _sound_stream(self._audio) if known is None else known
        self._like, self._count, self._crf, self._preset = like, count, crf, preset
        check_size(like)
        self._partial = self.path.with_name(f".wav2lip-{secrets.token_hex(6)}{self.path.suffix}")
        check_writable(self.path)

    def _command(self) -> list[str]:
        import ffmpeg

        like, seconds = self._like, f"{float(self._count / self._like.fps):.6f}"
        size = {"video_size": (like.width, like.height), "r": str(like.fps)}
        frames = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="bgr24", **size)["v:0"]
        sound = _input(self._audio)[str(self._stream)]
        how = {"c:v": "libx264", "crf": self._crf, "preset": self._preset, "vf": ",".join(self._filters())}
        how |= {"c:a": "aac", "audio_bitrate": "192k", "af": f"{AUDIO_CLOCK},{AAC_LAYOUTS}"}
        how |= {**self._tags(), **(LOOK_AHEAD if self._preset in QUICK_PRESETS else {})}
        output = ffmpeg.output(frames, sound, _url(self._partial), t=seconds, movflags="+faststart", **how)
        # -t counts for the output that follows it: here for what only keeps the clock
        clock = ("-t", seconds, *(part.replace("0:", "1:") for part in SHARED_TIMELINE))
        return [*_compile(output, *QUIET, *CLOCK_JUMP, "-y"), *clock]

    def _filters(self) -> list[str]:
        like, filters = self._like, [f"scale=flags={EXACT_COLOUR}"]
        if like.colour:
            filters[-1] += f":out_color_matrix={COMPUTED.get(like.colour[0], 'bt601')}:out_range=tv"
            matrix, primaries, transfer = _codes(like.colour)
            filters.append(f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv")
        if like.width % 2 or like.height % 2:  # 4:2:0 wants even sides: an odd one is repeated once
            borders = f"fillborders=right={like.width % 2}:bottom={like.height % 2}:mode=smear"
            filters = ["pad=ceil(iw/2)*2:ceil(ih/2)*2", borders, *filters]
        return [*filters, "format=yuv420p", f"setsar={like.sample_aspect.replace(':', '/')}"]

    def _tags(self) -> dict[str, str]:
        """What the filters say of colours once more, for ffmpeg 4, whose filters say nothing of it to the encoder."""
        if not self._like.colour:
            return {}
        names = ("colorspace", "color_primaries", "color_trc")
        return {**dict(zip(names, map(str, _codes(self._like.colour)))), "color_range": "tv"}

    def __enter__(self) -> VideoWriter:
        self._process = _Process(self._command(), stdin=subprocess.PIPE)
        self._process.__enter__()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Encode one frame (height, width, 3) uint8 BGR; raise RuntimeError in ffmpeg's words if it cannot go on."""
        try:
            self._process.stdin.write(memoryview(np.ascontiguousarray(frame)).cast("B"))
        except BrokenPipeError:
            self._process.finish(RuntimeError, f"cannot write {self.path}")
            raise RuntimeError(f"cannot write {self.path}: ffmpeg stopped early") from None

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            if kind is None:
                words = self._process.finish(RuntimeError, f"cannot write {self.path}")
                if any(sign in words for sign in UNFINISHED):
                    raise RuntimeError(f"cannot write {self.path}: {_last_words(0, words)}")
                os.replace(self._partial, self.path)
        finally:
            self._process.__exit__(kind, *rest)
            self._partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make the folder of ``path``; raise ValueError, before any work is done, if a video cannot be written there."""
    if path.suffix.lower() not in CONTAINERS:
        raise UserError(f"{path} must end in one of {', '.join(CONTAINERS)}")
    files.check_name(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of the video to write")
    files.check_folder(path.parent)


class _Process:
    """An ffmpeg process whose messages are kept, and that never outlives the ``with`` block around it."""

    def __init__(self, command: list[str], stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> None:
        self._command, self._stdin, self._stdout = command, stdin, stdout

    def __enter__(self) -> _Process:
        self._messages = tempfile.TemporaryFile()  # a pipe could fill up and block ffmpeg
        pipes = {"stdin": self._stdin, "stdout": self._stdout, "stderr": self._messages}
        self._popen = subprocess.Popen(self._command, **pipes, env=ENVIRONMENT)
        self.stdin: IO[bytes] | None = self._popen.stdin
        self.stdout: IO[bytes] | None = self._popen.stdout
        return self

    def wait(self) -> tuple[int, str]:
        """Wait for the end and return ffmpeg's exit code and messages."""
        self._close_stdin()
        code = self._popen.wait()
        self._messages.seek(0)
        return code, self._messages.read().decode(errors="replace")

    def finish(self, error: type[Exception], what: str) -> str:
        """Wait for the end and return ffmpeg's messages; raise ``error`` with them if it failed."""
        code, words = self.wait()
        if code != 0:
            raise error(f"{what}: {_last_words(code, words)}")
        return words

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        for stream in (self.stdout, self._messages):
            if stream:
                stream.close()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self.stdin:
            with contextlib.suppress(BrokenPipeError):  # ffmpeg is gone already; its exit code says if that matters
                self.stdin.close()
