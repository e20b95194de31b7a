"""Insert new frames into a video whose other frames are copied without re-encoding."""

from __future__ import annotations

import contextlib
import re
import subprocess
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from reporting import SILENT, Reporter
from video import h264
from video.probing import Geometry, VideoInfo
from video.process import (
    POPEN_OPTIONS,
    PROGRESS,
    QUIET,
    Process,
    command_line,
    ffmpeg_has,
    input_of,
    report_of,
    url_of,
)
from video.reading import count_frames
from video.sound import Sound
from video.splicing import Splice
from video.writing import Encoding, VideoWriter

# framecrc's line on a packet, with its presentation time; no flags or side data except whether it is a key frame
PACKET = re.compile(r"0, +-?\d+, +(-?\d+), +\d+, +\d+, 0x[0-9a-f]+(?:, F=0x0)?")
TIME_BASE = re.compile(r"#tb 0: (\d+)/(\d+)")
TIMING_TOLERANCE = 0.25  # of a frame's duration, by which its timestamp may be off
TICKS = 10000  # per second, at least
PART, LIST = "part", "list.ffconcat"  # names of the re-encoded piece (others have numbers) and of the list of pieces


@dataclass(frozen=True)
class Copied:
    """The frames, of ``count`` in a video, that are copied around those that are ``replaced``."""

    info: VideoInfo
    replaced: range
    count: int
    sets: h264.Units  # the parameter sets of its frames

    def __str__(self) -> str:
        start, stop = (float(frame / self.info.fps) for frame in (self.replaced.start, self.replaced.stop))
        before = [f"before {start:.2f} s"] if self.replaced.start else []
        after = [f"from {stop:.2f} s on"] if self.replaced.stop < self.count else []
        return f"frames {' and '.join(before + after)} are copied as they are"


def copied_around(info: VideoInfo, start: int, stop: int | None) -> Copied | None:
    """Return what can be copied around frames ``start`` to ``stop`` (None: to the end); None if nothing can.

    Pieces can be joined at an IDR frame, unless a packet before it is shown after it. They must be in the format that
    ``VideoWriter`` makes: H.264, with one packet per frame at a constant rate.
    """
    info = replace(info, start=0)
    plain = not (info.interlaced or info.turned) and info.geometry == Geometry()
    made_alike = info.joinable and info.indexed and plain
    # ffmpeg before 4.4 cannot set timestamps
    if not made_alike or info.width % 2 or info.height % 2 or not ffmpeg_has("-bsfs", "setts"):
        return None
    if not _counts_in_four_bytes(info):
        return None
    shown = _frames(info)
    count = len(shown)
    if not count or set(shown) != set(range(count)):
        return None
    begun = _frames(info, f"filter_units=pass_types={h264.IDR}")
    later = np.minimum.accumulate(shown[::-1])[::-1]  # the earliest frame shown from here on
    joints = np.intersect1d(np.flatnonzero((shown == np.arange(count)) & (later == shown)), begun).tolist()
    first = max((joint for joint in joints if joint <= start), default=0)
    last = min((joint for joint in joints if stop is not None and joint >= stop), default=count)
    if not joints or (first, last) == (0, count):
        return None
    if last == count and count_frames(replace(info, start=count - 1), 1) != (1, False):
        return None  # a last picture that is shown for longer counts as several frames, but is only one packet
    sets = _sets(info)
    if h264.free_number(sets) is None or not h264.profile_of(sets):
        return None
    return Copied(info, range(first, last), count, sets)


def _frames(info: VideoInfo, passed: str = "null") -> np.ndarray:
    """Return the frame number of each packet that a bitstream filter passes; empty if one is not a frame."""
    listed = input_of(info.path)[info.stream].output("-", format="framecrc", **{"c:v": "copy", "bsf:v": passed})
    code, report = report_of(command_line(listed, *QUIET))
    lines = [line for line in report.splitlines() if not line.startswith("#")]
    found, base = list(map(PACKET.fullmatch, lines)), TIME_BASE.search(report)
    if code or not base or not all(found):
        return np.zeros(0, int)
    times = np.array([int(packet[1]) for packet in found if packet]) * (int(base[1]) / int(base[2]) * float(info.fps))
    shown = np.round(times).astype(int)
    return shown if np.abs(times - shown).max(initial=0) <= TIMING_TOLERANCE else shown[:0]


def _counts_in_four_bytes(info: VideoInfo) -> bool:
    """Return whether the lengths of NAL units have four bytes, as ffmpeg writes them: all pieces share them."""
    how = {"c:v": "copy", "frames:v": 1, "movflags": "empty_moov"}
    found = input_of(info.path)[info.stream].output("-", format="mp4", **how)
    head = subprocess.run(command_line(found, *QUIET), capture_output=True, **POPEN_OPTIONS).stdout
    _, described, record = head.partition(b"avcC")
    return bool(described) and record[4] & 3 == 3


def _sets(info: VideoInfo) -> h264.Units:
    """Return all parameter sets of its frames, as often as they occur: before every IDR picture."""
    passed = f"h264_mp4toannexb,filter_units=pass_types={h264.SEQUENCE}-{h264.PICTURE}"
    found = input_of(info.path)[info.stream].output("-", format="h264", **{"c:v": "copy", "bsf:v": passed})
    return h264.units_of(subprocess.run(command_line(found, *QUIET), capture_output=True, **POPEN_OPTIONS).stdout)


def open_writer(
    path: str | Path,
    like: VideoInfo,
    audio: Sound | Splice,
    count: int | None,
    copied: Copied | None,
    encoding: Encoding = Encoding(),
    report: Reporter = SILENT,
) -> VideoWriter:
    """Return a writer that joins new frames with the ``copied`` ones, or a ``VideoWriter`` if none are copied."""
    if copied:
        return PartWriter(path, copied, audio, encoding, report)
    return VideoWriter(path, like, audio, count, encoding)


class PartWriter(VideoWriter):
    """Encode the frames between the ``copied`` ones and join them; other arguments are as for ``VideoWriter``.

    The file is assembled, and all its sound encoded, after the last frame; ``report`` shows the progress. Until then,
    the pieces are in a hidden folder beside it.
    """

    def __init__(
        self,
        path: str | Path,
        copied: Copied,
        audio: Sound | Splice,
        encoding: Encoding = Encoding(),
        report: Reporter = SILENT,
    ) -> None:
        super().__init__(path, copied.info, audio, None, encoding)
        self._copied, self._report = copied, report
        self._pieces = contextlib.ExitStack()
        rate = copied.info.fps.numerator
        self._scale = rate * -(-TICKS // rate)  # ticks per second: a frame is a whole number of them

    def _command(self) -> list[str]:
        self._folder = self._pieces.enter_context(TemporaryDirectory(prefix=".wav2lip-part-", dir=self.path.parent))
        frames, how = self._pictures()
        how |= {"profile:v": h264.profile_of(self._copied.sets), "video_track_timescale": self._scale}
        params = how.get("x264-params"), f"sps-id={h264.free_number(self._copied.sets)}"
        how["x264-params"] = ":".join(filter(None, params))
        return command_line(frames.output(url_of(self._piece(PART)), **how), *QUIET, "-y")

    def _clear(self) -> None:
        self._pieces.close()
        super()._clear()

    def _piece(self, name: str) -> Path:
        return Path(self._folder, f"{name}.mp4")

    def _complete(self) -> None:
        """Copy the frames around into files of their own, and join all pieces."""
        copied = self._copied
        cuts = [cut for cut in (copied.replaced.start, copied.replaced.stop) if 0 < cut < copied.count]
        # run in their folder, because ffmpeg's patterns and lists give some characters in folder names a meaning
        with Process(self._cut(cuts), folder=self._folder) as cutting:
            self._wait_for(cutting)
        parts = enumerate(pairwise((0, *cuts, copied.count)))
        pieces = {
            PART if start == copied.replaced.start else str(number): stop - start for number, (start, stop) in parts
        }
        delay = max(self._delay(name, count) for name, count in pieces.items())
        h264.add_sets(self._piece(next(iter(pieces))), copied.sets + _sets(self._as_video(PART)))
        listed = [f"file {name}.mp4\nduration {float(count / copied.info.fps):.6f}" for name, count in pieces.items()]
        Path(self._folder, LIST).write_text("\n".join(["ffconcat version 1.0", *listed]))
        seconds = round(copied.count / copied.info.fps)
        joining = Process(self._joined(delay), stdout=subprocess.PIPE, folder=self._folder)
        with self._report.stage("Joining", seconds, "s") as advance, joining:
            told = 0
            for done in map(int, joining.seconds_done()):
                advance(done - told)
                told = done
            self._wait_for(joining)

    def _cut(self, cuts: list[int]) -> list[str]:
        """Return the command that cuts the video before these packets; one piece is the re-encoded part."""
        source = input_of(self._copied.info.path)[self._copied.info.stream]
        how = {"c:v": "copy", "map_metadata": -1, "segment_frames": ",".join(map(str, cuts))}
        how["tag:v"] = "avc1"  # with its sets in the description, like the re-encoded piece
        alike = f"video_track_timescale={self._scale}"
        how |= {"format": "segment", "segment_format": "mp4", "segment_format_options": alike}
        return command_line(source.output("%d.mp4", **how), *QUIET, "-y")

    def _delay(self, name: str, count: int) -> int:
        """Return how many frames decoding runs ahead of display; raise RuntimeError if frames are missing."""
        shown = _frames(self._as_video(name))
        if len(shown) != count:
            raise RuntimeError(f"cannot write {self.path}: {len(shown)} frames, but {count} were expected")
        return int(max(np.arange(count) - shown))

    def _as_video(self, name: str) -> VideoInfo:
        return replace(self._copied.info, path=self._piece(name), stream="V:0")

    def _joined(self, delay: int) -> list[str]:
        """Return the command that joins the pieces, with each picture at its time."""
        import ffmpeg

        ticks = int(self._scale / self._copied.info.fps)
        pictures = ffmpeg.input(LIST, format="concat", auto_convert=0)["v:0"]
        times = f"setts=pts=round(PTS/{ticks})*{ticks}:dts=(N-{delay})*{ticks}"
        how = {"c:v": "copy", "bsf:v": times, "video_track_timescale": self._scale}
        program, *rest = self._with_sound(pictures, how)
        return [program, *PROGRESS, *rest]
