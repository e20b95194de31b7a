"""A video and speeches on their way to a result: opened, looked at and listened to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

import audio
import parts
import video
from face_path import Box, Reading
from hparams import hparams as hp
from lipsync.filmed import FADE, FilmedFace
from lipsync.options import Options, Settled
from mouths import MouthSettings
from reporting import SILENT, Reporter
from sync import Result

AROUND_SECONDS = 0.5  # seconds that are looked at beyond a frame that is shown alone
LONG = 250  # frames; of fewer, little is made before somebody notices that the video breaks off
LEFT_OUT = 1.0  # seconds of a video after the speech that somebody might miss
MIX_SHORTER = 0.2  # seconds by which a mix may end before the speech that it is heard instead of


@dataclass(frozen=True, eq=False)
class SpeakingFace:
    """A face of a video, and the speech that moves its lips."""

    filmed: FilmedFace  # known as far as it takes to begin; its video starts where the part does that is made anew
    speech: video.Sound
    windows: audio.MelWindows  # one for each frame of the result
    options: Settled
    # how much of its mouth each frame gets: 0 none, so that it stays as it was filmed; 1, or if None, all of it
    fade: np.ndarray | None = None
    mouth_settings: MouthSettings = MouthSettings()
    match: Result | None = None  # how well the speech matches the face as it was filmed

    def boxes(self, reading: Reading | None = None) -> Iterator[Box | None]:
        """Yield its box in each frame of the result that gets a mouth, see ``FilmedFace.boxes``."""
        boxes = self.filmed.boxes(len(self.windows), reading)
        return boxes if self.fade is None else (box if share else None for box, share in zip(boxes, self.fade))

    def strength(self, index: int) -> float:
        """Return how much of its mouth a frame gets whose box is known, see ``MouthSettings``."""
        filmed = self.filmed.strength(index)
        return filmed if self.fade is None else min(filmed, float(self.fade[index]))


@dataclass(frozen=True, eq=False)  # one take is not another, and can be looked up by itself
class Take:
    """A video and a speech, or several, looked at and listened to: all that is needed to make the frames.

    The search for the faces goes on when the frames are made. Of a part of a video, it is about that part alone.
    """

    source: video.VideoInfo  # starts where the part does
    faces: tuple[SpeakingFace, ...]  # one or more
    heard: video.Sound  # in the result: the speech, the sum of the speeches, or the mix that they are a part of
    options: Settled
    goes_on: bool = False  # the video, after the part

    def __repr__(self) -> str:
        return f"<Take of {self.source.path}: {self}>"

    def __str__(self) -> str:
        words = f"{len(self)} frame{'s' * (len(self) != 1)}, {self.seconds:.2f} s"
        if not self.options.is_part:
            return words
        start = float(self.source.start / self.source.fps)
        return f"{words} from {start:.2f} to {start + self.seconds:.2f} s; the others as they were filmed"

    def __len__(self) -> int:
        return len(self.faces[0].windows)

    @property
    def match(self) -> Result | None:
        """How well the speech of the only face, or the first, matches it as it was filmed, if that was asked for."""
        return self.faces[0].match

    @property
    def input_files(self) -> list[Path]:
        """The files that the result is made of."""
        speeches = (one.speech.path for one in self.faces)
        return [self.source.path, *speeches, self.heard.path, *self.options.input_files.values()]

    def close(self) -> None:
        """End the search and the reading that are under way for frames that nobody wants any more."""
        for one in self.faces:
            one.filmed.path.close()
            one.windows.spectrogram.close()

    def __enter__(self) -> Take:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        return float(len(self) / self.source.fps)

    @property
    def heard_in_all(self) -> video.Sound | video.Splice:
        """The sound of the written video."""
        if not self.options.is_part:
            return self.heard
        start, seconds = float(self.source.start / self.source.fps), self.seconds
        return video.Splice(self.source.path, self.heard, start, seconds, self.goes_on)

    def copied(self) -> video.Copied | None:
        """Return what of the video can be copied as it is, around a part that is made anew."""
        if not self.options.is_part:
            return None
        start = self.source.start
        return video.copied_around(self.source, start, start + len(self) if self.goes_on else None)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames as they were filmed, one for each of the result; read-only where they are shown again."""
        return self.faces[0].filmed.frames(len(self))

    def filmed_at(self, second: float) -> np.ndarray:
        """Return the frame of the whole video at this moment as it was filmed; after its end, the last of the part."""
        index = int(second * self.source.fps + 1e-6)
        around = next(video.read_frames(replace(self.source, start=0), index, 1), None)
        return self.faces[0].filmed.frame(len(self) - 1) if around is None else around


def fading(frames: int, begins: bool, until: int | None) -> np.ndarray | None:
    """Return how much of each mouth is put in, (frames,): less and less beside frames that stay as they were filmed.

    Those are before the first if it ``begins`` a part, and from ``until`` on; None without any.
    """
    if not begins and until is None:
        return None
    number, far = np.arange(frames), np.full(frames, FADE + 1)  # from the nearest of those
    if begins:
        far = np.minimum(far, number + 1)
    if until is not None:
        far = np.clip(until - number, 0, far)
    return far / (FADE + 1)


def open_face(path: Path, options: Options, report: Reporter = SILENT) -> video.VideoInfo:
    """Probe the video or photo and say what is not taken as it is; the rate is that of the options, if there is one."""
    info = video.probe(path, video.Geometry(options.resize_factor, options.rotate, tuple(options.crop)))
    video.check_size(info)
    for note in info.notes:
        report.note(f"note: {note}")
    if options.fps:
        return replace(info, fps=video.rate_of(options.fps))
    if info.fps < video.MIN_FPS:
        report.note(f"note: {path} has {float(info.fps):.3g} frames a second, too few for lips to move: now {hp.fps:g}")
        return replace(info, fps=Fraction(hp.fps))
    return info


class Used(NamedTuple):
    """What of a video is used for a speech."""

    source: video.VideoInfo  # starts where that does
    frames: int  # so many, again and again if the video has fewer
    searched: int  # in so many the face is searched for
    goes_on: bool  # the video, after a part


def used_for(
    source: video.VideoInfo,
    samples: int,
    options: Options,
    report: Reporter = SILENT,
    seconds: float | None = None,
    search_all: bool = False,
) -> Used:
    """Return what is used of a video for a speech of so many samples; if ``seconds`` are given, for its beginning.

    Then the face is searched for there, or with ``search_all`` in as much as all of the speech takes. Raises UserError
    if that is known to break off: else it would be told when nearly all of it is made.
    """
    begun = samples if seconds is None else min(samples, math.ceil(seconds * hp.sample_rate))
    part, frames, goes_on = _part_for(source, begun, options, report if seconds is None else SILENT)
    if options.static:
        return Used(part, frames, 1, goes_on)
    if frames > LONG and not part.is_image:
        video.check_ahead(part, frames)
    searched = frames
    if search_all or isinstance(options.reference, int):
        searched = frames if begun == samples else _part_for(source, samples, options)[1]
    if isinstance(options.reference, int) and not search_all:
        # the frame that all of them refer to may come later, if it is in use at all; its box depends on those around it
        reached = options.reference - part.start + 1 + math.ceil(AROUND_SECONDS * part.fps)
        searched = min(searched, max(frames, reached))
    return Used(part, frames, searched, goes_on)


def _part_for(
    source: video.VideoInfo, samples: int, options: Options, report: Reporter = SILENT
) -> tuple[video.VideoInfo, int, bool]:
    wanted = audio.frame_count(samples, float(source.fps))
    if not options.is_part:
        _tell_what_is_left_out(source, wanted, options, report)
        return source, wanted, False
    return parts.cut_out(source, wanted, options.start or 0, options.end, report)


def _tell_what_is_left_out(source: video.VideoInfo, wanted: int, options: Options, report: Reporter) -> None:
    if report is SILENT or options.static or source.is_image or source.lasts is None:
        return
    later = wanted + round(LEFT_OUT * source.fps)  # the sound alone may last longer, and the file says no more
    if later / source.fps < source.lasts and video.count_frames(replace(source, start=later), 1)[0]:
        report.note(
            f"note: {source.path} goes on after the speech, which the result does not; --start 0 keeps the rest "
            "as it was filmed"
        )


class Searched(NamedTuple):
    """Where a face is searched for."""

    source: video.VideoInfo  # starts where the search does
    frames: int
    wanted: slice  # of these frames, those whose boxes are wanted


def searched_for(source: video.VideoInfo, wanted: int, options: Options) -> Searched:
    """Return where the face in the first ``wanted`` frames is searched for.

    To tell who speaks in a part, some frames before and after are searched as well. Else whoever is not in it anymore
    might be followed.
    """
    around = round(AROUND_SECONDS * source.fps) if options.is_part and options.speaker else 0
    before = min(around, source.start)
    part = slice(before, before + wanted)
    return Searched(replace(source, start=source.start - before), part.stop + around, part)


def open_sound(path: Path, report: Reporter = SILENT) -> tuple[video.Sound, int]:
    """Return the sound of a file and its number of samples; raises UserError if there is none, or it is cut short."""
    sound = video.Sound(path, hp.sample_rate)
    samples = sound.measure()
    next(iter(sound))  # whether it can be decoded, and is loud enough
    for note in sound.notes:
        report.note(f"note: {note}")
    return sound, samples


def open_mix(path: Path, spoken: int, report: Reporter = SILENT) -> video.Sound:
    """Open the sound that is heard instead of a speech of so many samples, and say if it ends before that does."""
    sound, samples = open_sound(path, report)
    if spoken - samples > MIX_SHORTER * hp.sample_rate:
        lasts, wanted = (count / hp.sample_rate for count in (samples, spoken))
        report.note(f"note: --mix {path} lasts {lasts:.1f} s, the speech {wanted:.1f} s: the rest of it is silent")
    return sound


def read_speech(path: Path, fps: Fraction) -> audio.MelWindows:
    """Read any sound and return one mel window for every frame of the result."""
    mel, samples = audio.spectrogram_of(video.Sound(path, hp.sample_rate))
    return audio.MelWindows(mel, float(fps), audio.frame_count(samples, float(fps)))
