"""Replace a part of a video's sound by another sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import files
from errors import UserError
from video.process import input_of
from video.sound import AUDIO_CLOCK, SAMPLE_FORMAT, Sound, changes_format, sound_stream, track_notes
from video.sources import existing_file

AAC_LAYOUTS = "mono|stereo|5.1|7.1"  # channel layouts; others are mixed to the nearest of these
FADE = 0.01  # seconds in which one sound fades out, then the other in: a hard cut would click
RATE = 48000  # Hz, of both: joined sounds must have the same rate
CLOCK = dict(option.split("=") for option in AUDIO_CLOCK.partition("=")[2].split(":"))


def check_joinable(film: Path) -> list[str]:
    """Raise UserError if the film's own sound cannot be joined with another: ffmpeg would hang where it changes.

    All of it may have to be decoded, which takes some seconds per hour. Return sentences about what gets lost.
    """
    if changes_format(existing_file(film), files.stamp(film)):
        raise UserError(
            f"the sound of {film} changes its channels or its rate midway; for --start and --end convert "
            "it first: ffmpeg -i FILM -c:v copy -ac 2 -ar 48000 NEW.mkv"
        )
    return track_notes(film)


@dataclass(frozen=True)
class Splice:
    """The sound of the video ``whole``, if any, replaced by ``part`` for ``seconds`` from ``start`` on.

    ``goes_on``: whether the video continues after that. Sound that is too short is padded with silence.
    """

    whole: Path
    part: Sound  # already read, so that its stream is known
    start: float
    seconds: float
    goes_on: bool

    def joined(self) -> Any:
        """Return it as an ffmpeg-python stream to encode, with as many channels as the video has."""
        import ffmpeg

        new, *old = self._sources(2 if self.goes_on else 1)
        pieces = [_up_to(old[0], self.start), _fade_in(_up_to(new, self.seconds))]
        if self.goes_on:
            rest = old[1].filter("atrim", start=self.start + self.seconds)
            pieces += [_fade_in(rest.filter("asetpts", "PTS-STARTPTS"))]
        return ffmpeg.concat(*pieces, v=0, a=1).filter("aformat", channel_layouts=AAC_LAYOUTS)

    def _sources(self, pieces: int) -> list[Any]:
        """Return the new sound, and the video's own once for each of its ``pieces``."""
        (own, layout), part = sound_stream(self.whole), input_of(self.part.path)[str(self.part.stream)]
        if not isinstance(own, int):
            new, *old = _copies(_clocked(part), 1 + pieces)
            return [new, *(copy.filter("volume", 0) for copy in old)]
        paths = {self.part.path.absolute(), self.whole.absolute()}
        if len(paths) == 1 and str(self.part.stream) == str(own):  # ffmpeg-python treats the two as one
            return _copies(_clocked(part), 1 + pieces)
        few = layout in ("mono", "stereo")
        if self.part.voice and few:  # otherwise the silent channels would make it softer
            part = part.filter("pan", args=f"stereo|c0={self.part.voice}|c1={self.part.voice}")
        elif self.part.layout == "mono" and few:  # otherwise it would be 3 dB softer than stereo
            part = part.filter("pan", args="stereo|c0=c0|c1=c0")
        sounds = [_clocked(part), *_copies(_clocked(input_of(self.whole)[str(own)]), pieces)]
        layout = layout.partition("(")[0]
        if layout not in AAC_LAYOUTS.split("|"):
            return sounds
        # set on each: given a layout that AAC lacks, such as 5.1(side), ffmpeg would make both stereo
        return [sound.filter("aformat", channel_layouts=layout) for sound in sounds]


def _clocked(sound: Any) -> Any:
    return sound.filter("aformat", SAMPLE_FORMAT).filter("aresample", RATE, **CLOCK)


def _copies(sound: Any, count: int) -> list[Any]:
    copies = sound.filter_multi_output("asplit")
    return [copies[number] for number in range(count)]


def _up_to(sound: Any, stop: float) -> Any:
    """Return its first ``stop`` seconds, padded with silence if it is shorter, with a fade-out at the end."""
    fade = {"t": "out", "st": max(0.0, stop - FADE), "d": FADE}
    return sound.filter("apad").filter("atrim", end=stop).filter("afade", **fade)


def _fade_in(sound: Any) -> Any:
    return sound.filter("afade", t="in", d=FADE)
