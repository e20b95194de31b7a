"""Run ffmpeg: find it, build its command lines, read its messages, and stop it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from errors import failure_of_disk

# Static builds crash when they convert names of .ts programmes with a system's incompatible gconv tables
ENVIRONMENT = {**os.environ, "GCONV_PATH": os.devnull}
# on Windows, open no console window if the program has none itself
POPEN_OPTIONS: dict[str, Any] = {"env": ENVIRONMENT, "creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error")
VERBOSE = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info")  # also reports what was chosen
PROGRESS = ("-progress", "pipe:1")  # reports progress, see ``Process.seconds_done``
# Video and sound are read by different processes. In broadcast files (.ts, .mpg, …) ffmpeg starts its clock with the
# first stream that it reads, and closes gaps between joined recordings. So each process reads all streams, and copies
# video and sound to a null output.
NULL_OUTPUT = ("-c", "copy", "-f", "null", "-")
# Crash codes of Windows; elsewhere, a crash is a signal, below 0. ffmpeg's own errors are as large, but not in these.
WINDOWS_CRASHES = range(0x80000000, 0x80010000), range(0xC0000000, 0xC1000000)
INTERRUPTED = 255  # ffmpeg's exit code when it is stopped from outside, or when something is not permitted
SIGNALS = ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM")  # that stop it from outside; others mean a crash
CLOCK_JUMP = ("-dts_delta_threshold", "60")  # seconds; a shorter gap, in the video only, is no change of clock


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """Return the system's ffmpeg if it can encode H.264 (conda's often cannot), else that of imageio-ffmpeg."""
    if found := shutil.which("ffmpeg"):
        result = subprocess.run([found, "-hide_banner", "-encoders"], capture_output=True, **POPEN_OPTIONS)
        if b" libx264 " in result.stdout:
            return str(Path(found).absolute())  # PATH may be relative, and the working folder may change
    import imageio_ffmpeg

    found = imageio_ffmpeg.get_ffmpeg_exe()
    return str(Path(found).absolute()) if Path(found).name != found else found


def ffmpeg_has(kind: str, name: str) -> bool:
    """Return whether ffmpeg lists this name for a flag such as ``-decoders``."""
    return name in report_of([ffmpeg_path(), "-hide_banner", kind])[1].split()


def input_of(path: Path, **options: object) -> Any:
    """Return an ffmpeg-python input for a file; ``input["V:0"]`` is one of its streams."""
    import ffmpeg  # imported here: machines that only train lack it

    # the whitelist keeps a playlist disguised as a video from reaching the network
    return ffmpeg.input(url_of(path), protocol_whitelist="file,pipe", **options)


def url_of(path: Path) -> str:
    """Return a file's name in a form that cannot be mistaken for an option, another protocol or a pattern.

    ffmpeg-python needs UTF-8, which file names need not be: their bytes pass as Latin-1 until ``command_line``.
    """
    return os.fsencode(f"file:{path.absolute()}").decode("latin-1")


def shared_timeline(number: int = 0, besides: Iterable[int] = ()) -> list[str]:
    """Return a null output for which ffmpeg reads all video and sound of an input, except the streams ``besides``."""
    left_out = ["s?", "d?", "t?", *map(str, besides)]
    maps = [f"{number}:u", *(f"-{number}:{stream}" for stream in left_out)]
    return [part for stream in maps for part in ("-map", stream)] + [*NULL_OUTPUT]


def command_line(output: Any, *flags: str) -> list[str]:
    """Return the command line of an ffmpeg-python output; ``flags`` are global options, which come first."""
    parts = output.compile(cmd=[ffmpeg_path(), *flags])
    return [os.fsdecode(part.encode("latin-1")) if part.startswith("file:") else part for part in parts]


def report_of(command: Sequence[str]) -> tuple[int, str]:
    """Run ffmpeg and return its exit code and all its messages."""
    result = subprocess.run(command, capture_output=True, **POPEN_OPTIONS)
    words = _text(result.stdout + result.stderr)
    _check_not_stopped(result.returncode, words)
    return result.returncode, words


def _text(said: bytes) -> str:
    return said.decode(errors="replace").replace("\r\n", "\n")  # as ffmpeg ends lines on Windows


def declared_duration(report: str) -> tuple[float, float] | None:
    """Return a file's duration and start in seconds from ffmpeg's report; None if it has no duration."""
    match = re.search(r"Duration: (\d+):(\d+):([\d.]+)(?:, start: ([\d.]+))?", report)
    if not match:
        return None
    hours, minutes, seconds, start = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds, start


def failure_reason(code: int, report: str) -> str:
    if code < 0 or any(code in crashes for crashes in WINDOWS_CRASHES):
        reason = signal.strsignal(-code) if code < 0 else f"0x{code:X}"
        return f"{ffmpeg_path()} crashed ({reason}); if it does so again, install another ffmpeg"
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    # without the reporting component of ffmpeg, and the file's name, which error messages name anyway
    return re.sub(r"^(\[[^\]]*\] )+|file:(/|[A-Z]:).*: (?=[A-Z])", "", lines[-1]) if lines else "ffmpeg said nothing"


def without_names(report: str, path: Path) -> str:
    """Return a report without text from outside: the file's name and its metadata.

    Error messages may be anywhere in it, even within a line, since ffmpeg 7 writes from several threads.
    """
    return re.sub(r"^(\[info\])? +[^:\n]*: .*$", "", report.replace(str(path.absolute()), ""), flags=re.MULTILINE)


def error_lines(report: str) -> str:
    """Return the errors in a report made with ``VERBOSE``."""
    return "\n".join(line for line in report.splitlines() if re.match(r"(\[[^\]]*\] )*\[(error|fatal|panic)\] ", line))


@dataclass(frozen=True)
class Stream:
    index: int
    kind: str  # Video or Audio
    text: str

    @property
    def is_default(self) -> bool:
        return "(default)" in self.text


def streams_of(report: str) -> list[Stream]:
    """Return the video (except cover art) and audio streams that ffmpeg lists for its input, in file order."""
    of_input = re.split(r"Output #|Stream mapping:", report)[0]
    lines = re.findall(r"^(?:\[info\])? +Stream #0:(\d+).*?: (Video|Audio): (.*)$", of_input, re.MULTILINE)
    streams = (Stream(int(index), *rest) for index, *rest in lines)
    shown = (stream for stream in streams if not re.search(r"\((attached pic|timed thumbnails)\)", stream.text))
    return sorted(shown, key=lambda stream: stream.index)  # broadcast streams are listed by programme


class Process:
    """An ffmpeg process whose messages are kept, and that never outlives the ``with`` block around it.

    It runs in the ``folder``, if one is given.
    """

    CAN_LISTEN = hasattr(os, "pread")  # to what ffmpeg says while it runs; Windows has no such function

    def __init__(
        self,
        command: list[str],
        stdin: Any = subprocess.DEVNULL,  # or a file to read
        stdout: int = subprocess.DEVNULL,
        folder: str | None = None,
    ) -> None:
        self._command, self._stdin, self._stdout, self._folder = command, stdin, stdout, folder

    def __enter__(self) -> Process:
        self._messages = tempfile.TemporaryFile()  # a pipe could fill up and block ffmpeg
        self._popen = subprocess.Popen(
            self._command,
            stdin=self._stdin,
            stdout=self._stdout,
            stderr=self._messages,
            cwd=self._folder,
            **POPEN_OPTIONS,
        )
        self.stdin: Any = self._popen.stdin  # a binary pipe if one was requested, else None
        self.stdout: Any = self._popen.stdout  # likewise
        return self

    def seconds_done(self) -> Iterator[float]:
        """Yield the seconds of output written so far, as ffmpeg reports them; the command must include ``PROGRESS``."""
        for line in self.stdout:
            if found := re.fullmatch(rb"out_time_us=(\d+)\s*", line):
                yield int(found[1]) / 1e6

    def said(self) -> str:
        """Return ffmpeg's messages so far; empty unless it ``CAN_LISTEN``."""
        number = self._messages.fileno()
        return _text(os.pread(number, os.fstat(number).st_size, 0)) if self.CAN_LISTEN else ""

    def wait(self) -> tuple[int, str]:
        """Wait for the end, return exit code and messages; raise RuntimeError if ffmpeg was stopped from outside."""
        self._close_stdin()
        code = self._popen.wait()
        self._messages.seek(0)
        words = _text(self._messages.read())
        _check_not_stopped(code, words)
        return code, words

    def finish(self, error: type[Exception], what: str) -> str:
        """Wait for the end and return ffmpeg's messages; raise ``error`` with them if it failed."""
        code, words = self.wait()
        if code != 0:
            problem = f"{what}: {failure_reason(code, words)}"
            raise error(problem) if error is not RuntimeError else failure_of_disk(words, problem) or error(problem)
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
            try:
                self.stdin.close()
            except OSError as error:  # ffmpeg may be gone already; its exit code says if that matters
                if not is_broken_pipe(error):
                    raise


def _check_not_stopped(code: int, words: str) -> None:
    """Raise RuntimeError if exit code and messages show that ffmpeg was stopped from outside."""
    by_signal = -code in {getattr(signal, name, None) for name in SIGNALS}
    if by_signal or code == INTERRUPTED and "not permitted" not in words:
        raise RuntimeError("ffmpeg was stopped from outside; run it again")


def is_broken_pipe(error: OSError) -> bool:
    """Return whether the reader of a pipe has gone, which Windows reports as EINVAL."""
    return isinstance(error, BrokenPipeError) or error.errno == errno.EINVAL
