"""Write frames and sound to a video file."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import files
from errors import UserError
from video.colours import COMPUTED, codes
from video.probing import VideoInfo, check_size
from video.process import (
    CLOCK_JUMP,
    QUIET,
    Process,
    command_line,
    failure_reason,
    input_of,
    is_broken_pipe,
    shared_timeline,
    url_of,
)
from video.sound import AUDIO_CLOCK, SAMPLE_FORMAT, Sound, changes_format, sound_stream
from video.splicing import AAC_LAYOUTS, Splice

MAX_ASPECT = 65535  # largest number in a pixel's aspect, that of H.264; ffmpeg would round to numbers of two digits
CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")  # in which every player accepts H.264 with AAC
PICTURES, SOUND = {"c:v": "libx264"}, {"c:a": "aac", "audio_bitrate": "192k"}  # how each is encoded
# ffmpeg's default conversion from BGR is up to three grey levels off, and again with every generation
EXACT_COLOUR = "accurate_rnd+bicubic"
# x264's fastest presets omit the lookahead that saves bits in static areas, although it costs next to nothing and
# halves the file. With it, "superfast" makes files almost as small as "veryfast" does, in half the time.
QUICK_PRESETS = ("ultrafast", "superfast")
PRESETS = (*QUICK_PRESETS, "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
LOOK_AHEAD = {"x264-params": "mbtree=1:rc-lookahead=10"}
LEFTOVERS = re.compile(r"\.wav2lip-[0-9a-f]{12}\.\w+|\.wav2lip-part-\w+")  # by a program that was killed
LEFTOVER_SECONDS = 86400.0  # seconds without a change after which such files are removed
MIN_FREE_BYTES = 1 << 16  # bytes: with less free space, the disk counts as full
UNFINISHED = ("Error writing trailer", "Error closing file")  # ffmpeg's messages, up to version 6 with exit code 0


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded, and what is done to the file."""

    crf: int = 18  # 0 to 51, lower is better
    preset: str = "superfast"  # one of ``PRESETS``
    comment: str = ""  # for the container's field of this name
    finish: Callable[[Path], None] | None = None  # called with the file before it gets its name


class VideoWriter:
    """Encode frames and a sound file into one video, which appears under its name only when it is complete.

    Use as a context manager: leaving it normally finishes the file, leaving it by an exception removes every trace.
    ``like`` gives the size, rate and tags of the frames. The sound ends at the latest with the last of ``count``
    frames; it keeps its own length if their number is not known (None).
    """

    def __init__(
        self,
        path: str | Path,
        like: VideoInfo,
        audio: str | Path | Sound | Splice,
        count: int | None,
        encoding: Encoding = Encoding(),
    ) -> None:
        self.path = files.resolve_link(Path(path))
        self._sound, self._sound_options = _sound_of(audio)
        self._film = f"file:{audio.whole.absolute()}" if isinstance(audio, Splice) else ""
        self._like, self._count, self._encoding = like, count, encoding
        check_size(like)
        self._partial = self.path.with_name(f".wav2lip-{secrets.token_hex(6)}{self.path.suffix}")
        check_writable(self.path)

    def _command(self) -> list[str]:
        return self._with_sound(*self._pictures())

    def _pictures(self) -> tuple[Any, dict[str, Any]]:
        """Return the frames that are written as an ffmpeg-python stream, and their encoding options."""
        import ffmpeg

        like = self._like
        size = {"video_size": (like.width, like.height), "r": str(like.fps)}
        frames = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="bgr24", **size)["v:0"]
        crf, preset = self._encoding.crf, self._encoding.preset
        how = PICTURES | {"crf": crf, "preset": preset, "vf": ",".join(self._filters())}
        return frames, how | self._tags() | (LOOK_AHEAD if preset in QUICK_PRESETS else {})

    def _with_sound(self, pictures: Any, how: dict[str, Any]) -> list[str]:
        """Return the command that writes this video stream and the sound to the file."""
        import ffmpeg

        until = {} if self._count is None else {"t": f"{float(self._count / self._like.fps):.6f}"}
        how = how | SOUND | self._sound_options | until
        how["map_chapters"] = -1  # an audiobook's would become a track of their own
        if self._encoding.comment:
            how["metadata"] = f"comment={self._encoding.comment}"
        output = ffmpeg.output(pictures, self._sound, url_of(self._partial), movflags="+faststart", **how)
        command = command_line(output, *QUIET, *CLOCK_JUMP, "-y")
        # -t applies to the next output: here to those that only keep the clock
        limit = ["-t", until["t"]] if until else []
        inputs = [name for flag, name in zip(command, command[1:]) if flag == "-i"]
        for number in range(1, len(inputs)):
            besides = self._joined_streams(command, number) if inputs[number] == self._film else []
            command += [*limit, *shared_timeline(number, besides)]
        return command

    @staticmethod
    def _joined_streams(command: list[str], number: int) -> list[int]:
        """Return the streams of a film that are joined with others.

        If such a stream is also copied to another output, ffmpeg 9 deadlocks about once in ten times. Sound files may
        have no other stream to copy; with them this was never observed.
        """
        graph = command[command.index("-filter_complex") + 1]
        return sorted({int(stream) for stream in re.findall(rf"\[{number}:(\d+)\]", graph)})

    def _filters(self) -> list[str]:
        like, filters = self._like, [f"scale=flags={EXACT_COLOUR}"]
        if like.tags:  # without tags of its own, it was read as BT.601 and goes back to what it was
            computed = COMPUTED.get(like.colour[0], "bt601") if like.colour else "bt601"
            filters[-1] += f":out_color_matrix={computed}:out_range=tv"
            matrix, primaries, transfer = codes(like.tags)
            filters.append(f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv")
        if like.width % 2 or like.height % 2:  # 4:2:0 needs even sides: the last row or column is repeated
            borders = f"fillborders=right={like.width % 2}:bottom={like.height % 2}:mode=smear"
            filters = ["pad=ceil(iw/2)*2:ceil(ih/2)*2", borders, *filters]
        return [*filters, "format=yuv420p", f"setsar={like.sample_aspect.replace(':', '/')}:max={MAX_ASPECT}"]

    def _tags(self) -> dict[str, str]:
        """Return the filters' colour tags as options, for ffmpeg 4, whose filters do not pass them to the encoder."""
        if not self._like.tags:
            return {}
        names = ("colorspace", "color_primaries", "color_trc")
        return {**dict(zip(names, map(str, codes(self._like.tags)))), "color_range": "tv"}

    def __enter__(self) -> VideoWriter:
        folder = self.path.parent
        self._made = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            files.check_folder(folder)
            files.remove_old(folder, LEFTOVERS, LEFTOVER_SECONDS)
            self._process = Process(self._command(), stdin=subprocess.PIPE)
            self._process.__enter__()
        except BaseException:
            self._clear()
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Encode one frame (height, width, 3) uint8 BGR; raise RuntimeError with ffmpeg's message on failure."""
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data.cast("B"))
        except OSError as error:
            if not is_broken_pipe(error):
                raise
            self._process.finish(RuntimeError, f"cannot write {self.path}")
            raise RuntimeError(f"cannot write {self.path}: ffmpeg stopped early") from None

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            if kind is None:
                self._wait_for(self._process)
                self._complete()
                if self._encoding.finish:
                    self._encoding.finish(self._partial)
                files.publish(self._partial, self.path)
        finally:
            self._process.__exit__(kind, *rest)
            self._clear()

    def _clear(self) -> None:
        """Remove all that was made except the result."""
        self._partial.unlink(missing_ok=True)
        for place in self._made:
            with contextlib.suppress(OSError):  # it contains the result
                place.rmdir()

    def _wait_for(self, process: Process) -> None:
        """Wait for ffmpeg; raise RuntimeError with its message if it could not write the file.

        Raises OSError if the disk is full, which ffmpeg may call an invalid argument.
        """
        try:
            words = process.finish(RuntimeError, f"cannot write {self.path}")
            if any(sign in words for sign in UNFINISHED):
                raise RuntimeError(f"cannot write {self.path}: {failure_reason(0, words)}")
        except RuntimeError:
            if shutil.disk_usage(self.path.parent).free < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, "the disk is full", str(self.path)) from None
            raise

    def _complete(self) -> None:
        """Do what remains to be done when all frames are encoded."""


def _sound_of(audio: str | Path | Sound | Splice) -> tuple[Any, dict[str, str]]:
    """Return the sound as an ffmpeg-python stream, and the output options for it."""
    if isinstance(audio, Splice):
        return audio.joined(), {}
    path, known = (audio.path, audio.stream) if isinstance(audio, Sound) else (Path(audio), None)
    stream = sound_stream(path)[0] if known is None else known
    filters = f"aformat={SAMPLE_FORMAT},{AUDIO_CLOCK},aformat=channel_layouts={AAC_LAYOUTS}"
    lone = audio.voice if isinstance(audio, Sound) and audio.layout != "stereo" else ""
    if lone.startswith("c") and not changes_format(path, files.stamp(path)):
        # one of a recorder's microphones, which would be softer, or elsewhere, in the nearest of these layouts
        filters = f"pan=stereo|c0={lone}|c1={lone},{filters}"
    return input_of(path)[str(stream)], {"af": filters}


def check_writable(path: Path) -> None:
    """Raise UserError, before any work is done, if a video cannot be written there; its folder need not exist."""
    files.check_name(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of the video to write")
    if path.suffix.lower() not in CONTAINERS:
        raise UserError(f"{path} must end in one of {', '.join(CONTAINERS)}")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe; give the name of the video to write")
    files.check_writable_folder(path.parent)
