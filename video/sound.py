"""Read the sound of any media file."""

from __future__ import annotations

import copy
import math
import re
import subprocess
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import files
from errors import UserError
from video.process import (
    CLOCK_JUMP,
    QUIET,
    VERBOSE,
    Process,
    command_line,
    declared_duration,
    error_lines,
    failure_reason,
    input_of,
    report_of,
    shared_timeline,
    streams_of,
    without_names,
)
from video.sources import Mendable, check_index, check_whole, existing_file

AUDIO_SECONDS = 30  # of decoded sound per block
LINES_BYTES = 1 << 16  # of text about packets, read at a time
SILENCE = 1e-4  # full scale is 1: -80 dB, what encoders make of digital silence
FAINT = 0.01  # -40 dB: the most that is left when channels cancel each other
CANCELLED = 10.0  # one channel is then this many times as loud as the mix
DOMINANT = 10.0  # a channel this many times as loud as the others is the only one with speech
# Layouts with a centre, where films have speech: mixed evenly, it would be 11 dB softer, and the mouth would mumble
CENTRED = re.compile(r"(?!3\.0\(back\))[3-7]\.[01](\((side|back|wide|wide-side|top)\))?|7\.0\(front\)")
VOICE_OF_FILMS = "FC+0.5*FL+0.5*FR"
CENTRE = 2  # its number in these layouts
LFE = re.compile(r"\d+\.[12]")  # layouts with a channel of low-frequency effects, which is the fourth
LFE_THIRD = ("2.1", "6.1(front)")  # or in these the third
CHANGED = "Reconfiguring filter graph because audio"  # ffmpeg's message, from version 5 on
# codecs that declare the format in each packet, and AAC that may become stereo
CHANGING = re.compile(r"mp[123]|e?ac3|dts|aac_latm|aac .*(\[15\]\[0\]| mono)")
NO_STREAM = ("matches no streams", "does not contain any stream")
DURATION_TOLERANCE = 0.2, 0.05  # seconds, and fraction, by which declared lengths may be wrong, as by encoder padding
# A track that starts late or has gaps keeps its timing; stereo becomes mono as the mean, not 3 dB louder. Small gaps,
# as between clips joined without encoding, add up: to a frame at 25 fps at most, not to the default 0.1 s. Smaller
# ones may be rounding by the container, and filling those would click.
AUDIO_CLOCK = "aresample=async=1:min_hard_comp=0.04:first_pts=0:rematrix_maxval=1"
SAMPLE_FORMAT = "s32"  # format of samples to encode: in float, some files contain NaN, which AAC rejects


class Sound:
    """The sound of a media file, readable any number of times; if it has several tracks, the one that players choose.

    Iterating yields blocks of float32 mono (samples,) at ``sample_rate`` Hz, which must not be modified: a sound of a
    single block is decoded only once. Raises MissingFile or UserError, at the first block at the latest, if no sound
    can be read.
    """

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        self.path, self._sample_rate = existing_file(path), sample_rate
        self.stream: int | None = None  # index in the file; known once it has been measured or read
        self.layout = ""  # of its channels, known likewise, in ffmpeg's terms: mono, stereo, 5.1(side), …
        self.notes: list[str] = []  # sentences for the user about what is not used as it is, known likewise
        self.voice = ""  # channels with speech, in the syntax of ffmpeg's pan, known once it has been read; empty: all
        self._is_chosen = False  # whether ``voice`` has been determined
        self._block = int(AUDIO_SECONDS * sample_rate)  # samples
        self._single_block: np.ndarray | None = None  # the block, if there is only one

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._single_block is not None:
            yield self._single_block
            return
        blocks = self._decode()
        first = next(blocks)  # after this, the layout of a short sound is known
        if not self._is_chosen:
            self._find_voice(len(first) < self._block)
            if self.voice:
                blocks = self._decode()
                first = next(blocks)
            if np.abs(first).max() < FAINT and self._cancels([first] if len(first) < self._block else self._decode()):
                blocks = self._decode()
                first = next(blocks)
        self._is_chosen = True
        if len(first) < self._block:
            self._single_block = first
        yield first
        yield from blocks

    def at(self, sample_rate: int) -> Sound:
        """Return the same channels of the same track at another rate."""
        other = copy.copy(self)
        other._sample_rate, other._block, other._single_block = sample_rate, int(AUDIO_SECONDS * sample_rate), None
        return other

    def measure(self, most: float = math.inf) -> int:
        """Return the number of samples by the file's timestamps; packets are read but not decoded.

        An hour takes a second. The milliseconds that decoders drop at the ends are included. If the file lasts longer
        than ``most`` seconds, reading stops as soon as that is known.
        """
        with self._read(format="framecrc", **{"c:a": "copy"}, vn=None, sn=None, dn=None) as process:
            head = end = process.stdout.read(LINES_BYTES)  # a line per packet; only the last one matters
            while block := process.stdout.read(LINES_BYTES):
                end = (end + block)[-LINES_BYTES:]
                if most < math.inf and (seconds := _end_of(head, end)) > most:
                    return round(seconds * self._sample_rate)
            samples = round(_end_of(head, end) * self._sample_rate)
            self._end(process, samples)
        return samples

    def _track(self) -> Any:
        """Return the track as an ffmpeg-python stream; if none is known yet, ffmpeg chooses it.

        ffmpeg prefers the default track, then the one with the most channels, then the first.
        """
        source = input_of(self.path)
        return source if self.stream is None else source[str(self.stream)]

    def _read(self, **options: object) -> Process:
        """Start ffmpeg to output the track with these options."""
        command = command_line(self._track().output("pipe:1", **options), *VERBOSE, *CLOCK_JUMP)
        return Process([*command, *shared_timeline()], stdout=subprocess.PIPE)

    def _end(self, process: Process, samples: int) -> str:
        """Wait for the end, check ffmpeg's report after ``samples`` samples, and return it."""
        code, report = process.wait()
        self._check(code, report, samples)
        if self.stream is None:
            self._read_report(report, samples / self._sample_rate)
        return report

    def _decode(self) -> Iterator[np.ndarray]:
        if not Process.CAN_LISTEN and changes_format(self.path, files.stamp(self.path)):
            yield from self._decode_in_one_format(0)  # ffmpeg says so too late
            return
        only = self.voice and f"pan=mono|c0={self.voice},"
        heard = 0
        with self._read(format="f32le", af=f"{only}{AUDIO_CLOCK}", ac=1, ar=self._sample_rate) as process:
            for samples, last in self._blocks(process):
                # ffmpeg's report is checked before the last block is yielded
                said = self._end(process, heard + len(samples)) if last else process.said()
                if CHANGED in said:
                    break
                heard += len(samples)
                if len(samples):
                    yield samples
            else:
                return
        yield from self._decode_in_one_format(heard)

    def _blocks(self, process: Process) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield every block, and whether it is the last, which is shorter or empty."""
        last = False
        while not last:
            samples = np.frombuffer(process.stdout.read(self._block * np.float32().itemsize), np.float32)
            samples = np.nan_to_num(samples)
            last = len(samples) < self._block
            yield np.clip(samples, -1.0, 1.0, out=samples), last

    def _decode_in_one_format(self, given: int) -> Iterator[np.ndarray]:
        """Yield the blocks after ``given`` samples of a sound that changes its format.

        At a change ffmpeg rebuilds its filters, and ``AUDIO_CLOCK`` would insert as much silence as there was sound
        before. So one ffmpeg decodes, and another keeps the clock.
        """
        import ffmpeg

        voice = f"aformat=channel_layouts={self.layout},pan=mono|c0={self.voice}," if self.voice else ""
        how = {"format": "nut", "avoid_negative_ts": "disabled", "c:a": "pcm_f32le"}
        how["af"] = f"{voice}aresample=rematrix_maxval=1"
        clocked = ffmpeg.input("pipe:0", format="nut").output("pipe:1", format="f32le", af=AUDIO_CLOCK)
        with (
            self._read(**how, ac=1, ar=self._sample_rate) as decoding,
            Process(command_line(clocked, *QUIET, "-copyts"), decoding.stdout, subprocess.PIPE) as process,
        ):
            heard = 0
            for samples, last in self._blocks(process):
                heard += len(samples)
                if last:
                    process.finish(UserError, f"cannot read {self.path}")
                    self._end(decoding, heard)
                if len(samples) and heard > given:
                    yield samples

    def _check(self, code: int, report: str, heard: int) -> None:
        if any(words in report for words in NO_STREAM):
            raise UserError(f"{self.path} has no sound track; give a file with speech in it")
        if "Rematrix is needed" in report:
            raise Mendable(
                f"{self.path} has more channels than this ffmpeg can mix; save it in stereo, or install ffmpeg 7"
            )
        _check_decoder(self.path, report)
        if code != 0:
            check_index(self.path, report)
            words = failure_reason(code, error_lines(report))
            raise UserError(f"{self.path} is not a sound file that ffmpeg can read: {words}")
        check_whole(self.path, without_names(report, self.path))
        if not heard:
            raise UserError(f"the sound track of {self.path} is empty")

    def _read_report(self, report: str, seconds: float) -> None:
        """Set stream, layout and notes from ffmpeg's report on a sound of so many ``seconds``."""
        self.stream = _mapped_stream(report)
        streams = streams_of(report)
        self.layout = _layout_of(report, self.stream)
        promised = _promised_seconds(report) if len(streams) == 1 else 0.0  # with several, it is that of the longest
        if promised - seconds > max(DURATION_TOLERANCE[0], DURATION_TOLERANCE[1] * promised):
            self.notes.append(
                f"{self.path} says that it lasts {promised:.1f} s, but ends after {seconds:.1f} s; "
                "if something is missing, copy or download it again"
            )
        self.notes += _notes_on_tracks(self.path, report)

    def _find_voice(self, is_short: bool) -> None:
        """Set ``voice``: the centre of a film, or the only channel with speech.

        That is found from the beginning of the sound, which is all of it if it ``is_short``.
        """
        if self.layout == "mono":
            return
        layout, alone, is_quiet = self._only_voice(AUDIO_SECONDS)
        if not is_short and (is_quiet or alone is not None):
            whole = self._only_voice()[1]  # speech may begin later, and the other person of an interview speak then
            alone = whole if is_quiet or whole == alone else None
        self.layout = self.layout or layout
        if CENTRED.fullmatch(layout) and alone in (None, CENTRE):
            self.voice = VOICE_OF_FILMS
        elif alone is not None:  # also from recorders with several microphones, whose files rarely name channels
            self.voice = f"c{alone}"

    def _only_voice(self, seconds: float | None = None) -> tuple[str, int | None, bool]:
        """Return the layout, the only channel with speech in the first ``seconds``, and whether all are quiet there."""
        layout, levels = self._channel_levels(seconds)
        boom = 2 if layout in LFE_THIRD else 3
        if LFE.match(layout) and boom < len(levels):
            levels[boom] = 0.0  # it has no speech
        loudest, *others = sorted(levels, reverse=True) or [0.0]
        is_alone = bool(others) and loudest > max(FAINT, DOMINANT * others[0])
        return layout, levels.index(loudest) if is_alone else None, loudest <= FAINT

    def _cancels(self, blocks: Iterable[np.ndarray]) -> bool:
        """Whether all ``blocks`` are faint because channels cancel each other; if so, set ``voice`` to the loudest."""
        squares = peak = 0.0
        heard = 0
        for block in blocks:
            heard, squares = heard + len(block), squares + float(np.square(block, dtype=np.float64).sum())
            if (peak := max(peak, float(np.abs(block).max()))) >= FAINT:
                return False
        channels = [] if self.layout == "mono" else self._channel_levels()[1]  # one alone has nothing to cancel
        loudest = max(channels, default=0.0)
        if loudest > max(SILENCE, CANCELLED * math.sqrt(squares / heard)):
            self.voice = f"c{channels.index(loudest)}"
            number = f"number {channels.index(loudest) + 1} of {len(channels)}"
            self.notes.append(f"the channels of {self.path} cancel each other; {number} is used for the lips")
            return True
        if peak < SILENCE:
            self.notes.append(f"{self.path} is silent from end to end: there is nothing for lips to follow")
        return False

    def _channel_levels(self, seconds: float | None = None) -> tuple[str, list[float]]:
        """Return the layout, and the root mean square of every channel in the first ``seconds``; full scale is 1."""
        limit = {} if seconds is None else {"t": seconds}
        measured = f"aformat={SAMPLE_FORMAT},astats"  # a NaN would make the level of its channel NaN
        output = self._track().output("-", format="null", af=measured, vn=None, sn=None, dn=None, **limit)
        _, report = report_of(command_line(output, *VERBOSE))
        of_channels = report.partition("Overall")[0].split("Channel: ")[1:]
        decibels = (re.search(r"RMS level dB: (\S+)", part) for part in of_channels)
        levels = [10 ** (float(level[1]) / 20) if level else 0.0 for level in decibels]
        return _layout_of(report, _mapped_stream(report)), levels


def sound_stream(path: Path) -> tuple[int | str, str]:
    """Return what ``Sound.stream`` and ``Sound.layout`` will be; raise UserError if the sound cannot be decoded.

    If there is no sound, the stream is a specifier that ffmpeg will reject.
    """
    report = _report_of_beginning(path, files.stamp(existing_file(path)))
    taken = _mapped_stream(report)
    return "a:0" if taken is None else taken, _layout_of(report, taken)


@lru_cache(maxsize=64)
def _report_of_beginning(path: Path, _stamp: tuple[int, int]) -> str:
    """Return ffmpeg's report on the track that players choose; raise UserError if it cannot be decoded."""
    output = input_of(path).output("-", format="null", t=0.1, vn=None, sn=None, dn=None)
    _, report = report_of(command_line(output, *VERBOSE))
    _check_decoder(path, report)
    return report


def _check_decoder(path: Path, report: str) -> None:
    """Raise UserError if ffmpeg's report says that it has no decoder for the sound."""
    if found := re.search(r"no decoder found for: (\S+)|Decoder \(codec (\S+)\) not found", report):
        raise Mendable(
            f"the sound of {path} is encoded as {found[1] or found[2]}, which this ffmpeg cannot decode; convert it"
        )


def track_notes(path: Path) -> list[str]:
    """Return a sentence for the user about sound tracks that are not used, if there are any."""
    return _notes_on_tracks(path, _report_of_beginning(path, files.stamp(path)))


def _notes_on_tracks(path: Path, report: str) -> list[str]:
    tracks = [stream.index for stream in streams_of(report) if stream.kind == "Audio"]
    if len(tracks) < 2 or (used := _mapped_stream(report)) not in tracks:
        return []
    return [f"{path} has {len(tracks)} sound tracks; number {tracks.index(used) + 1} is used"]


@lru_cache(maxsize=64)
def changes_format(path: Path, stamp: tuple[int, int]) -> bool:
    """Return whether the track that players choose changes its channels or its rate midway.

    If its codec allows that, all of it is decoded. Raises UserError if that is not possible.
    """
    report = _report_of_beginning(path, stamp)
    stream = _mapped_stream(report)
    if not any(CHANGING.match(one.text) for one in streams_of(report) if one.index == stream):
        return False
    output = input_of(path)[str(stream)].output("-", format="null")
    return CHANGED in report_of(command_line(output, *VERBOSE))[1]


def _layout_of(report: str, index: int | None) -> str:
    """Return the channel layout of a stream in ffmpeg's report; empty if it is not given."""
    texts = (stream.text for stream in streams_of(report) if stream.index == index)
    found = re.search(r" Hz, ([^,]+),", next(texts, ""))
    return found[1] if found else ""


def _end_of(head: bytes, end: bytes) -> Fraction:
    """Return when the last packet ends, in seconds, from the beginning and end of ffmpeg's framecrc output."""
    unit = re.search(rb"^#tb 0: (\d+)/(\d+)", head, re.MULTILINE)
    packets = re.findall(rb"^0, *-?\d+, *(-?\d+), *(\d+),", end, re.MULTILINE)  # stream, dts, pts, duration, …
    if not unit or not packets:
        return Fraction(0)
    return max(Fraction(0), sum(map(int, packets[-1])) * Fraction(*map(int, unit.groups())))


def _promised_seconds(report: str) -> float:
    """Return the input's declared duration in seconds, less the time before its start; 0 if none is declared."""
    declared = declared_duration(report)
    if not declared or "Estimating duration" in report:
        return 0.0
    seconds, start = declared
    return seconds - (start if "Input #0, matroska" in report else 0.0)  # only Matroska includes it


def _mapped_stream(report: str) -> int | None:
    """Return the input stream that ffmpeg reports to be mapped to the output."""
    match = re.search(r"Stream #0:(\d+)\S* -> #0:0 ", report)
    return int(match[1]) if match else None


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """Return all the sound of a media file, (samples,), see ``Sound``: 4 MB a minute at 16 kHz."""
    return np.concatenate(list(Sound(path, sample_rate)))
