"""The sound of a video, a part of it replaced by another sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import files
from errors import UserError
from video.process import input_of
from video.sound import AUDIO_CLOCK, NUMBERS, Sound, changes_format, sound_stream
from video.sources import existing_file

AAC_LAYOUTS = "mono|stereo|5.1|7.1"  # of channels; others are mixed to the nearest of these
FADE = 0.01  # seconds in which one sound falls, and then the other rises: a bare joint is heard as a click
RATE = 48000  # Hz, of both: what is joined has to be alike
CLOCK = dict(option.split("=") for option in AUDIO_CLOCK.partition("=")[2].split(":"))


def check_joinable(film: Path) -> None:
    """Raise UserError if the film's own sound cannot be joined with another: ffmpeg would wait for ever at a change.

    All of it may have to be decoded, which takes some seconds an hour.
    """
    if changes_format(existing_file(film), files.stamp(film)):
        raise UserError(
            f"the sound of {film} changes its channels or its rate on the way; for --start and --end convert "
            "it first: ffmpeg -i FILM -c:v copy -ac 2 -ar 48000 NEW.mkv"
        )


@dataclass(frozen=True)
class Splice:
    """The sound of ``whole``, a video that may have none, with ``part`` in its place for ``seconds`` from ``start`` on.

    ``goes_on``: whether there is anything of the video after that. Sound that is too short is followed by silence.
    """

    whole: Path
    part: Sound  # listened to, so that its stream is known
    start: float
    seconds: float
    goes_on: bool

    def joined(self) -> Any:
        """Return it as a stream of ffmpeg-python, to be encoded, in as many channels as the video has."""
        import ffmpeg

        new, *old = self._sources(2 if self.goes_on else 1)
        pieces = [_up_to(old[0], self.start), _rising(_up_to(new, self.seconds))]
        if self.goes_on:
            rest = old[1].filter("atrim", start=self.start + self.seconds)
            pieces += [_rising(rest.filter("asetpts", "PTS-STARTPTS"))]
        return ffmpeg.concat(*pieces, v=0, a=1).filter("aformat", channel_layouts=AAC_LAYOUTS)

    def _sources(self, pieces: int) -> list[Any]:
        """Return the new sound, and the video's own for each of its ``pieces``."""
        (own, layout), part = sound_stream(self.whole), input_of(self.part.path)[str(self.part.stream)]
        if not isinstance(own, int):
            new, *old = _copies(_clocked(part), 1 + pieces)
            return [new, *(copy.filter("volume", 0) for copy in old)]
        files = {self.part.path.absolute(), self.whole.absolute()}
        if len(files) == 1 and str(self.part.stream) == str(own):  # to ffmpeg-python the two are one
            return _copies(_clocked(part), 1 + pieces)
        few = layout in ("mono", "stereo")
        if self.part.voice and few:  # else it would be softer by what the other channels do not say
            part = part.filter("pan", args=f"stereo|c0={self.part.voice}|c1={self.part.voice}")
        elif self.part.layout == "mono" and few:  # else beside stereo it would be 3 dB lower
            part = part.filter("pan", args="stereo|c0=c0|c1=c0")
        sounds = [_clocked(part), *_copies(_clocked(input_of(self.whole)[str(own)]), pieces)]
        layout = layout.partition("(")[0]
        if layout not in AAC_LAYOUTS.split("|"):
            return sounds
        # told to each: of one that AAC has not, such as 5.1(side), ffmpeg would make stereo for both
        return [sound.filter("aformat", channel_layouts=layout) for sound in sounds]


def _clocked(sound: Any) -> Any:
    return sound.filter("aformat", NUMBERS).filter("aresample", RATE, **CLOCK)


def _copies(sound: Any, count: int) -> list[Any]:
    copies = sound.filter_multi_output("asplit")
    return [copies[number] for number in range(count)]


def _up_to(sound: Any, stop: float) -> Any:
    """Return its first ``stop`` seconds, followed by silence if there are not so many; it falls at the end."""
    fade = {"t": "out", "st": max(0.0, stop - FADE), "d": FADE}
    return sound.filter("apad").filter("atrim", end=stop).filter("afade", **fade)


def _rising(sound: Any) -> Any:
    return sound.filter("afade", t="in", d=FADE)
