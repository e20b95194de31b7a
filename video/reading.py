"""Read the frames of a video or picture, once or repeatedly."""

from __future__ import annotations

import itertools
import math
import subprocess
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np

import pictures
from errors import UserError
from video.colours import read_as
from video.probing import VideoInfo
from video.process import CLOCK_JUMP, QUIET, Process, command_line, input_of, report_of, shared_timeline
from video.sources import check_whole

HELD_BYTES = 128 << 20  # frames kept in memory to play a short clip again
TURNED_BYTES = 512 << 20  # or to play a long one backwards in pieces: each is decoded from the key frame before it
FEW = 50  # frames that are counted one by one
# seconds decoded before a wanted frame, so that inexact seeking cannot skip it; enough if there is an index
SEEK_MARGIN = 2.0
# without these flags, frames become a level darker, and again with every generation
EXACT = "bicubic+accurate_rnd+full_chroma_int"
DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"  # only frames marked as interlaced, one for one


def read_frames(info: VideoInfo, start: int = 0, count: int | None = None, every: int = 1) -> Iterator[np.ndarray]:
    """Yield frames ``start``, ``start + every``, … (``count`` of them, or all), with ``info.geometry`` applied.

    Raises UserError if the file ends early or cannot be decoded. Closing the generator stops ffmpeg.
    """
    if info.is_image:
        yield from [_photo(info)][start:count]
    else:
        yield from map(info.geometry, _decode(info, start, count, every))


def _photo(info: VideoInfo) -> np.ndarray:
    frame = info.geometry(pictures.read(info.path))
    if frame.shape[:2] == (info.height, info.width):
        return frame
    return cv2.resize(frame, (info.width, info.height), interpolation=cv2.INTER_AREA)


def _decode(info: VideoInfo, start: int, count: int | None, every: int) -> Iterator[np.ndarray]:
    if count is not None and count <= 0:
        return
    start += info.start
    width, height = info.stored
    skipped = max(0, start - math.ceil(SEEK_MARGIN * info.fps)) if info.indexed else 0
    # Time 0 is then a time that every container can express, so that nothing is rounded: at another rate than the
    # file's, some of its frames are half-way between two numbers, and rounding would decide.
    skipped -= skipped % _frames_between_whole_times(info.fps)
    filters = [f"fps=fps={info.fps}:start_time=0"]
    if start > skipped:  # early, so that dropped frames cost no more
        filters.append(f"trim=start_frame={start - skipped}")
    if every > 1:
        filters.append(f"select=not(mod(n\\,{every}))")
    # if the size changes (a recorded window, a phone that is turned), all frames get the first size
    filters.append(f"scale={width}:{height}:flags={EXACT}:force_original_aspect_ratio=decrease")
    filters += [f"pad={width}:{height}:(ow-iw)/2:(oh-ih)/2:eval=frame", "setpts=N"]
    if info.interlaced:
        filters.insert(0, DEINTERLACE)
    if (matrix := read_as(info.colour)) is not None:
        filters.insert(0, f"setparams=colorspace={matrix}")
    options: dict[str, object] = {}
    if skipped:  # not accurate: a frame displayed for longer than the margin would be dropped as too old
        options = {"ss": f"{float(skipped / info.fps):.6f}", "noaccurate_seek": None}
    if not (info.turned or info.interlaced):  # whose filters allow only one size
        options["reinit_filter"] = 0  # otherwise a change of size restarts the filters' clock
    if info.decoder:
        options["c:v"] = info.decoder
    # planar: exact conversion to packed pixels takes three times as long
    raw: dict[str, object] = {"format": "rawvideo", "vf": ",".join(filters)}
    raw["pix_fmt"] = "gbrap" if info.transparent else "gbrp"
    if count is not None:
        raw["frames:v"] = count  # or ffmpeg decodes ahead until it is stopped
    # setpts makes ffmpeg 7.0 forget the rate and assume 25
    output = input_of(info.path, **options)[info.stream].output("pipe:1", r=str(info.fps), **raw)
    command = [*command_line(output, *QUIET, *CLOCK_JUMP), *shared_timeline()]
    with Process(command, stdout=subprocess.PIPE) as process:
        for given in itertools.count():
            if given == count:
                return
            planes = np.empty((4 if info.transparent else 3, height, width), np.uint8)
            if process.stdout.readinto(planes.data.cast("B")) < planes.nbytes:
                break
            green, blue, red, *alpha = planes
            frame = cv2.merge((blue, green, red))
            yield pictures.on_background(frame, alpha[0]) if alpha else frame
        words = process.finish(UserError, f"cannot read {info.path}")
    check_whole(info.path, words)


def _frames_between_whole_times(fps: Fraction) -> int:
    """Return after how many frames a whole number of seconds has passed, or of 1.001 s at rates such as 30000/1001."""
    if fps.denominator == 1001:
        return max(1, fps.numerator // 1000)
    return fps.numerator if fps.denominator < 10 else 1


def check_ahead(info: VideoInfo, count: int | None = None) -> None:
    """Raise CutShort if the file ends within the first ``count`` frames, or too early at all, before any work is done.

    Packets are read, but not decoded: an hour takes a second.
    """
    copied: dict[str, object] = {"format": "null", "c:v": "copy"}
    if count is not None:
        copied["t"] = float((info.start + count) / info.fps)
    _, words = report_of(command_line(input_of(info.path)[info.stream].output("-", **copied), *QUIET))
    check_whole(info.path, words)


def count_frames(info: VideoInfo, most: int) -> tuple[int, bool]:
    """Return how many frames there are, up to ``most`` (1 or more), and whether more follow."""
    if last := sum(1 for _ in read_frames(info, most - 1, 2)):
        return most, last == 2
    if not info.indexed or most < FEW:
        return sum(1 for _ in read_frames(info, 0, most)), False
    there, gone = 0, most - 1  # frames are filled in where some are missing, so the last one can be searched for
    while gone - there > FEW:
        middle = (there + gone) // 2
        there, gone = (middle, gone) if any(True for _ in read_frames(info, middle, 1)) else (there, middle)
    return there + sum(1 for _ in read_frames(info, there, gone - there)), False


def source_index(index: int, count: int, pingpong: bool) -> int:
    """Return which of ``count`` source frames is shown at output frame ``index`` of an endlessly repeated clip."""
    period = max(1, 2 * count - 2) if pingpong else count
    position = index % period
    return position if position < count else period - position


def repeat_frames(
    info: VideoInfo, wanted: int, count: int | None = None, pingpong: bool = False
) -> Iterator[np.ndarray]:
    """Yield ``wanted`` frames: the first ``count`` (or all) of the video, repeated as ``source_index`` orders them.

    The caller may modify the frames of the first pass; later ones are read-only if they are kept in memory.
    """
    yield from itertools.islice(_endless(info, count, pingpong), wanted)


def _endless(info: VideoInfo, count: int | None, pingpong: bool) -> Iterator[np.ndarray]:
    seen = 0
    for frame in read_frames(info, 0, count):
        seen += 1
        yield frame
    if not seen:
        raise UserError(f"{info.path} has no frame that can be decoded")
    if seen <= _frames_in(HELD_BYTES, info):  # decoded again: the caller may have modified the first ones
        kept = list(read_frames(info, 0, seen))
        for frame in kept:
            frame.flags.writeable = False
        yield from (kept[source_index(i, seen, pingpong)] for i in itertools.count(seen))
    while True:
        if pingpong:
            yield from _read_backwards(info, seen)
        yield from read_frames(info, 0, seen)


def _read_backwards(info: VideoInfo, count: int) -> Iterator[np.ndarray]:
    """Yield frames ``count - 2``, …, 1, in pieces that fit in memory: each is read forwards and yielded backwards."""
    step = _frames_in(TURNED_BYTES, info)
    for stop in range(count - 1, 1, -step):
        start = max(1, stop - step)
        yield from reversed(list(read_frames(info, start, stop - start)))


def _frames_in(size: int, info: VideoInfo) -> int:
    return max(1, size // (info.width * info.height * 3))
