"""Media in and out: the only file that knows ffmpeg.

Frames are uint8 arrays (height, width, 3) in BGR, one at a time, so memory does not grow with the length of a video.
Frame ``i`` of a stream is what a player shows at time ``i / fps``: variable rates are made constant by timestamps,
rotation metadata is applied, and a picture that starts late is preceded by its first frame. Sound is float32 mono.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

import files
import pictures
from errors import MissingFile, UserError

LONGEST_SIDE = 16384  # pixels, of H.264
PLAYABLE_SIDE, PLAYABLE_PIXELS = 4096, 4096 * 2304  # what every phone's decoder takes: level 5.1
LONGEST_NAME = 255  # bytes, of a file on any common system
CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")  # those that hold H.264 with AAC on every player
HELD_BYTES = 128 << 20  # frames kept in memory to play a short clip again, or a long one backwards
MIN_FPS = 12.0  # of a source: below it, most frames at 25 fps are copies and show no lip moving
AUDIO_SECONDS = 30  # of decoded sound given at a time
SEEK_MARGIN = 2.0  # seconds decoded before a wanted frame, so that inexact seeking cannot skip it
# Static builds crash where they convert names of .ts programmes by the tables of a system that they do not fit
ENVIRONMENT = {**os.environ, "GCONV_PATH": os.devnull}
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)/+(.*)")  # of two letters or more: not a drive; Path drops a slash
PLAYLIST = b"#EXTM3U"  # how every HLS playlist begins
# ffmpeg's default conversion from BGR is up to three grey levels off, and again with every generation
EXACT_COLOUR = "accurate_rnd+bicubic"
# x264's quickest presets do without the look ahead that lets it spend less on what stays the same: it costs next to
# nothing and halves the file. So "superfast" makes files almost as small as "veryfast" does, in half the time.
QUICK_PRESETS = ("ultrafast", "superfast")
LOOK_AHEAD = ("-x264-params", "mbtree=1:rc-lookahead=10")
# A track that starts late or has holes keeps its time; stereo becomes mono as the mean, not 3 dB louder.
AUDIO_CLOCK = "aresample=async=1:first_pts=0:rematrix_maxval=1"
AAC_LAYOUTS = "aformat=channel_layouts=mono|stereo|5.1|7.1"  # others are mixed to the nearest of these
# Picture and sound are read by different processes. In broadcast files (.ts, .mpg, …) ffmpeg lets time begin with the
# first stream that it reads, and closes gaps between joined recordings; so each process reads all streams.
ONE_CLOCK = ("-map", "0:u", "-map", "-0:s?", "-map", "-0:d?", "-map", "-0:t?", "-c", "copy", "-f", "null", "-")
CLOCK_JUMP = ("-dts_delta_threshold", "60")  # seconds; a shorter hole, of the picture alone, is no other clock
RGB_TAGS = ("bt709", "bt709", "bt709")  # for what was never YUV; without tags, players guess by the height
UNFINISHED = ("Error writing trailer", "Error closing file")  # ffmpeg's words, until version 6 with exit code 0
# ffmpeg's words for a file that ends before its own table of contents says
CUT_SHORT = ("partial file", "error during demuxing", "truncat", "ended prematurely")
EXACT_LENGTHS = ("w64", "aiff", "au", "flac")  # formats whose beginning says how much sound there is
SILENCE = 1e-4  # full scale is 1: -80 dB, what encoders make of nothing at all
DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced,"  # those frames that say that they are
# how ffmpeg describes pictures that may be transparent; the decoder that it prefers for VP9 does not see it
TRANSPARENT = re.compile(r"\b(?:yuva|rgba|bgra|argb|abgr|gbrap|ya8|ya16|pal8|ayuv|vuya)")
VP9_ALPHA = re.compile(r"Video: vp[89]\b[\s\S]*?alpha_mode +: 1")
# Colour tags that every ffmpeg can repeat, and what the encoder's own option calls them
MATRICES = ("bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc")
PRIMARIES = (
    "bt709",
    "bt470m",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "film",
    "bt2020",
    "smpte428",
    "smpte431",
    "smpte432",
)
TRANSFERS = {
    "bt709": "bt709", "bt470m": "gamma22", "bt470bg": "gamma28", "smpte170m": "smpte170m", "smpte240m": "smpte240m",
    "linear": "linear", "log100": "log", "log316": "log_sqrt", "iec61966-2-4": "iec61966_2_4", "bt1361e": "bt1361",
    "iec61966-2-1": "iec61966_2_1", "bt2020-10": "bt2020_10bit", "bt2020-12": "bt2020_12bit",
    "smpte2084": "smpte2084", "smpte428": "smpte428", "arib-std-b67": "arib-std-b67",
}  # fmt: skip
UNKNOWN = "unknown"
NOT_YUV = ("ycgco", "ycgco-re", "ycgco-ro", "ictcp", "ipt-c2")  # matrices that no converter here turns into RGB


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
    track: int = 0  # which of the picture tracks
    filters: str = ""  # of ffmpeg's, through which frames go first
    transparent: bool = False  # some of it may be; it comes on plain ground
    decoder: str | None = None  # of ffmpeg's, if not the one that it prefers
    notes: tuple[str, ...] = ()  # sentences for the user: what is not taken as it is


def probe(path: str | Path, geometry: Geometry = Geometry()) -> VideoInfo:
    """Look at a video or picture, by content and not by name; its frames will come through ``geometry``.

    Raises FileNotFoundError or ValueError with a sentence for the user when there is no picture in it.
    """
    path = _existing(path)
    if pictures.is_picture(path):
        return _probe_picture(path, geometry)
    head, shown = _first_frame(path, 0)
    tracks = [track for track in _tracks_in(head) if track.kind == "Video"]
    if number := _default(tracks):
        head, shown = _first_frame(path, number)
    words = tracks[number].words
    colour = _colour(shown) or _colour(words)  # ffmpeg 4 tells only of the input's
    if colour and colour[0] in NOT_YUV:
        raise UserError(
            f"{path} has colours of the kind {colour[0]}, which cannot be shown; save it with those of bt709"
        )
    size = re.search(r", (\d+)x(\d+)", shown)
    width, height = int(size[1]), int(size[2])
    aspect = re.search(r"\[SAR (\d+):(\d+) ", shown)
    across, down = aspect.groups() if aspect else ("1", "1")
    return VideoInfo(
        path,
        *geometry.size_of(width, height),
        _frame_rate(shown),
        geometry=geometry,
        stored=(width, height),
        colour=colour and _repeatable(colour),
        sample_aspect=f"{down}:{across}" if geometry.rotate else f"{across}:{down}",
        turned="rotation of" in head,
        track=number,
        filters=_filters(words, colour),
        transparent=bool(TRANSPARENT.search(words) or VP9_ALPHA.search(head)),
        decoder=f"libvpx{'-vp9' if 'vp9' in words else ''}" if VP9_ALPHA.search(head) else None,
        notes=_which_of_several(path, "picture", tracks),
    )


def _first_frame(path: Path, track: int) -> tuple[str, str]:
    """Return what ffmpeg says of a file, and of the first frame of one of its picture tracks."""
    command = [ffmpeg_path(), "-hide_banner", "-nostdin", *_input(path), "-map", f"0:V:{track}", "-frames:v", "1"]
    result = subprocess.run([*command, "-f", "null", "-"], capture_output=True, env=ENVIRONMENT)
    report = result.stderr.decode(errors="replace")
    head, _, tail = report.partition("Output #0, null")  # ffmpeg 5 ends no line before it, if rotation is odd
    shown = re.search(r"^ +Stream #0:0.*?: Video: (.*)$", tail, re.MULTILINE)
    if shown and re.search(r", (\d+)x(\d+)", shown[1]):
        return head, shown[1]
    kinds = {track.kind for track in _tracks_in(head)}
    if kinds and "Video" not in kinds:
        raise UserError(f"{path} has sound but no picture; give a video or a photo of a face")
    if pictures.is_webp(path):
        raise UserError(f"{path} is animated WebP, which this ffmpeg cannot read; save it as MP4 or GIF")
    last_words = _last_words(result.returncode, report)
    raise UserError(f"{path} is not a video or picture that ffmpeg can read: {last_words}")


# --------------------------------------------------------------------------------------------------------------------
# Tracks


class Track(NamedTuple):
    """A stream of a file, in ffmpeg's words."""

    kind: str  # Video or Audio
    words: str

    @property
    def is_default(self) -> bool:
        return "(default)" in self.words


class Contents(NamedTuple):
    """What a file says about itself."""

    sounds: tuple[Track, ...]
    seconds: float | None  # None: it does not know, or only guesses


def _tracks_in(report: str) -> list[Track]:
    """The streams that can be seen or heard, in ffmpeg's order, but for covers."""
    found = re.findall(r"^ +Stream #0:\d+.*?: (Video|Audio): (.*)$", report, re.MULTILINE)
    return [Track(*track) for track in found if "(attached pic)" not in track[1]]


def _default(tracks: Sequence[Track]) -> int:
    """Which of ``tracks`` of one kind is marked as the one to play; the first if none is."""
    return next((number for number, track in enumerate(tracks) if track.is_default), 0)


def _which_of_several(path: Path, kind: str, tracks: Sequence[Track]) -> tuple[str, ...]:
    if len(tracks) < 2:
        return ()
    number = _default(tracks)
    why = ", which is marked as default," if tracks[number].is_default else ""
    return (f"{path} has {len(tracks)} {kind} tracks; number {number + 1}{why} is used",)


def sound_notes(path: str | Path) -> tuple[str, ...]:
    """Say which of several sound tracks ``stream_audio`` gives."""
    return _which_of_several(Path(path), "sound", _contents(_existing(path)).sounds)


def _contents(path: Path) -> Contents:
    status = path.stat()
    return _read_contents(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_contents(path: Path, *_: int) -> Contents:
    command = [ffmpeg_path(), "-hide_banner", "-nostdin", *_input(path)]
    report = subprocess.run(command, capture_output=True, env=ENVIRONMENT).stderr.decode(errors="replace")
    sounds = tuple(track for track in _tracks_in(report) if track.kind == "Audio")
    kind = re.search(r"^Input #0, ([\w,]+), from", report, re.MULTILINE)
    length = re.search(r"^ +Duration: (\d+):(\d+):([\d.]+)", report, re.MULTILINE)
    if not (kind and length and kind[1] in EXACT_LENGTHS):
        return Contents(sounds, None)
    return Contents(sounds, 3600 * int(length[1]) + 60 * int(length[2]) + float(length[3]))


def _probe_picture(path: Path, geometry: Geometry) -> VideoInfo:
    height, width = pictures.read(path).shape[:2]
    size = geometry.size_of(width, height)
    # a video has to be played: photos have several times the pixels that phones can
    share = min(1.0, PLAYABLE_SIDE / max(size), math.sqrt(PLAYABLE_PIXELS / (size[0] * size[1])))
    shown = tuple(max(1, math.floor(side * share)) for side in size)
    notes = ()
    if shown != size:
        notes = (f"{path} is shrunk from {size[0]}x{size[1]} to {shown[0]}x{shown[1]} pixels, which players can show",)
    return VideoInfo(path, *shown, Fraction(25), True, geometry, (width, height), RGB_TAGS, notes=notes)


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


def _input(path: Path) -> tuple[str, ...]:
    # "file:" and an absolute path: no name can be taken for an option, a protocol or a pattern, and the whitelist
    # keeps a playlist disguised as a video from reaching the network.
    return ("-protocol_whitelist", "file,pipe", "-i", f"file:{path.absolute()}")


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
    match = re.search(
        r"\([^)]*?\b((?:bt|smpte|ycgco|ictcp|ipt|fcc|unknown|reserved)[\w-]*)(?:/([\w-]+)/([\w-]+))?[,)]", stream
    )
    return (match[1], match[2] or match[1], match[3] or match[1]) if match else None


def _filters(words: str, colour: tuple[str, str, str] | None) -> str:
    deinterlace = DEINTERLACE if re.search(r"\b(?:top|bottom) (?:first|coded first)", words) else ""
    # so near that nobody sees it, and ffmpeg's own conversion is not made for it
    return deinterlace + ("setparams=colorspace=bt2020nc," if colour and colour[0] == "bt2020c" else "")


def _repeatable(tags: tuple[str, str, str]) -> tuple[str, str, str] | None:
    """The tags, each "unknown" where not every ffmpeg can write it; None if none is left."""
    matrix, primaries, transfer = tags
    matrix = {"bt2020c": "bt2020nc"}.get(matrix, matrix)
    pairs = (matrix, MATRICES), (primaries, PRIMARIES), (transfer, TRANSFERS)
    known = tuple(tag if tag in usual else UNKNOWN for tag, usual in pairs)
    return None if set(known) == {UNKNOWN} else known


def _last_words(code: int, report: str) -> str:
    if code < 0:
        return f"{ffmpeg_path()} crashed ({signal.strsignal(-code)}); if it does so again, install another ffmpeg"
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    # less the part of ffmpeg that speaks, and the file's name, which whoever raises an error says anyway
    return re.sub(r"^\[[^\]]*\] |file:/.*: (?=[A-Z])", "", lines[-1]) if lines else "ffmpeg said nothing"


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
    command = [
        ffmpeg_path(), *QUIET, *CLOCK_JUMP, *(("-ss", f"{float(skipped / info.fps):.6f}") if skipped else ()),
        # else a change of size restarts the clock of the filters; but ffmpeg's own for turning know only one size
        *(() if info.turned else ("-reinit_filter", "0")),
        *(("-c:v", info.decoder) if info.decoder else ()), *_input(info.path), "-map", f"0:V:{info.track}",
        "-vf", f"{info.filters}scale={width}:{height},"
        f"fps=fps={info.fps}:start_time={first:.9f},setpts=N",
        "-r", str(info.fps),  # setpts makes ffmpeg 7.0 forget it, and then make it 25
        "-f", "rawvideo", "-pix_fmt", "bgra" if info.transparent else "bgr24", "pipe:1", *ONE_CLOCK,
    ]  # fmt: skip
    channels = 4 if info.transparent else 3
    with _Process(command, stdout=subprocess.PIPE) as process:
        for given in itertools.count():
            if given == count:
                return
            frame = np.empty((height, width, channels), np.uint8)
            if process.stdout.readinto(memoryview(frame).cast("B")) < frame.nbytes:
                break
            yield pictures.on_plain_ground(frame[..., :3], frame[..., 3]) if info.transparent else frame
        words = process.finish(UserError, f"cannot read {info.path}")
    _check_whole(info.path, words)


def _check_whole(path: Path, words: str) -> None:
    if any(sign in words.lower() for sign in CUT_SHORT):
        raise UserError(f"{path} is cut short or damaged ({_last_words(0, words)}); copy or download it again")


def stream_audio(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Decode the sound of any media file, block by block: float32 mono (samples,) at ``sample_rate`` Hz.

    Of several tracks it is the one that is marked to be played. Stereo is mixed, unless its channels cancel out: then
    it is the louder one. Raises UserError, at the first block if not before, when there is no sound to be read.
    """
    path = _existing(path)
    contents = _contents(path)
    number = _default(contents.sounds)
    channels = 2 if contents.sounds and re.search(r"\bstereo\b|\b2 channels", contents.sounds[number].words) else 1
    command = [
        ffmpeg_path(), *QUIET, *CLOCK_JUMP, *_input(path), "-map", f"0:a:{number}", "-af", AUDIO_CLOCK,
        "-ac", str(channels), "-ar", str(sample_rate), "-f", "f32le", "pipe:1", *ONE_CLOCK,
    ]  # fmt: skip
    count = 0
    with _Process(command, stdout=subprocess.PIPE) as process:
        while block := process.stdout.read(int(AUDIO_SECONDS * sample_rate) * channels * np.float32().itemsize):
            samples = mix(np.nan_to_num(np.frombuffer(block, np.float32)).reshape(-1, channels))
            count += len(samples)
            yield np.clip(samples, -1.0, 1.0, out=samples)
        code, words = process.wait()
    _check_sound(path, code, words, count / sample_rate, contents.seconds)


def mix(samples: np.ndarray) -> np.ndarray:
    """Make (samples, channels) mono: their mean, or the loudest if it is silent and they are not."""
    mono = samples.mean(1)
    if samples.shape[1] > 1 and is_silent(mono) and not is_silent(samples):
        mono = samples[:, np.square(samples).sum(0).argmax()].copy()
    return mono


def is_silent(samples: np.ndarray) -> bool:
    """Whether nothing can be heard: what encoders make of nothing counts as nothing."""
    return not samples.size or float(np.abs(samples).max()) < SILENCE


def _check_sound(path: Path, code: int, words: str, heard: float, promised: float | None) -> None:
    """Raise UserError for what kept ffmpeg from decoding all the sound; ``heard`` and ``promised`` in seconds."""
    if "matches no streams" in words:
        raise UserError(f"{path} has no sound track; give a file with speech in it")
    if "Rematrix is needed" in words:
        raise UserError(f"{path} has more channels than this ffmpeg can mix; save it in stereo, or install ffmpeg 7")
    if code != 0:
        raise UserError(f"{path} is not a sound file that ffmpeg can read: {_last_words(code, words)}")
    if not heard:
        raise UserError(f"the sound track of {path} is empty")
    _check_whole(path, words)
    if _is_cut_wav(path):
        raise UserError(f"{path} is cut short: its beginning promises more sound; copy or download it again")
    if promised and heard < 0.99 * promised - 0.1:
        raise UserError(f"{path} is cut short: {heard:.2f} s of {promised:.2f} s are there; copy or download it again")


def _is_cut_wav(path: Path) -> bool:
    """Whether a RIFF WAVE file has less sound than its header says; ffmpeg is silent about that.

    Programs that write into a pipe cannot know, and promise nothing or as much as a number can hold.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return False
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                return 0 < size < 0x7FFFF000 and file.tell() + size > path.stat().st_size
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """Return all that ``stream_audio`` gives, (samples,): 4 MB a minute at 16 kHz."""
    return np.concatenate(list(stream_audio(path, sample_rate)))


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
        self, path: str | Path, like: VideoInfo, audio: str | Path, count: int, crf: int = 18, preset: str = "superfast"
    ) -> None:
        self.path = Path(path)
        self._like, self._audio, self._count, self._crf, self._preset = like, Path(audio), count, crf, preset
        check_size(like)
        self._partial = self.path.with_name(f".wav2lip-{secrets.token_hex(6)}{self.path.suffix}")
        check_writable(self.path)

    def _command(self) -> list[str]:
        like, seconds = self._like, f"{float(self._count / self._like.fps):.6f}"
        sound = _default(_contents(self._audio).sounds)
        filters, tags = [f"scale=flags={EXACT_COLOUR}"], []
        if like.colour:
            matrix, primaries, transfer = like.colour
            filters[-1] += f":out_color_matrix={matrix}:out_range=tv" if matrix != UNKNOWN else ":out_range=tv"
            filters.append(f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv")
            # once more, for ffmpeg 4, whose filters say nothing of it to the encoder
            named = (
                ("colorspace", matrix),
                ("color_primaries", primaries),
                ("color_trc", TRANSFERS.get(transfer, UNKNOWN)),
            )
            tags = [
                part for name, tag in (*named, ("color_range", "tv")) if tag != UNKNOWN for part in (f"-{name}", tag)
            ]
        if like.width % 2 or like.height % 2:  # 4:2:0 wants even sides: an odd one is repeated once
            borders = f"fillborders=right={like.width % 2}:bottom={like.height % 2}:mode=smear"
            filters = ["pad=ceil(iw/2)*2:ceil(ih/2)*2", borders, *filters]
        filters += ["format=yuv420p", f"setsar={like.sample_aspect.replace(':', '/')}"]
        return [
            ffmpeg_path(), *QUIET, *CLOCK_JUMP, "-y",
            "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{like.width}x{like.height}", "-r", str(like.fps),
            "-i", "pipe:0",
            *_input(self._audio), "-map", "0:v:0", "-map", f"1:a:{sound}", "-t", seconds,
            "-vf", ",".join(filters), "-c:v", "libx264", "-crf", str(self._crf), "-preset", self._preset,
            *tags, *(LOOK_AHEAD if self._preset in QUICK_PRESETS else ()),
            "-af", f"{AUDIO_CLOCK},{AAC_LAYOUTS}", "-c:a", "aac", "-b:a", "192k", "-movflags", "+faststart",
            f"file:{self._partial.absolute()}", "-t", seconds, *(part.replace("0:", "1:") for part in ONE_CLOCK),
        ]  # fmt: skip

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
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path.name[:20]}… has a name of more than {LONGEST_NAME} bytes; give a shorter one")
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
