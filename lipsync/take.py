"""Open and inspect a video and its speeches, before the result is made."""

from __future__ import annotations

import contextlib
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
from face_path import Box, Reader
from hparams import hparams as hp
from lipsync.filmed import FADE, FilmedFace
from lipsync.options import Options, ResolvedOptions
from mouths import MouthSettings
from reporting import SILENT, Reporter
from sync import Result

SEARCH_MARGIN_SECONDS = 0.5  # seconds that are searched around a part or a single frame
MIN_FRAMES_TO_CHECK = 250  # frames; with fewer, little work is lost if the video ends early
UNUSED_SECONDS = 1.0  # seconds of a video after the speech that the user might miss
MIX_SHORTER = 0.2  # seconds by which a --mix may be shorter than the speech that it replaces


@dataclass(frozen=True, eq=False)
class SpeakingFace:
    """A face of a video, and the speech that moves its lips."""

    filmed: FilmedFace  # searched far enough to begin; its video starts where the part does that is lip-synced
    speech: video.Sound
    windows: audio.MelWindows  # one for each frame of the result
    options: ResolvedOptions
    fade: np.ndarray  # opacity of the mouth in each frame: 0 leaves the frame as it was filmed
    mouth_settings: MouthSettings = MouthSettings()
    match: Result | None = None  # how well the speech matches the face as it was filmed

    def boxes(self, reader: Reader | None = None) -> Iterator[Box | None]:
        """Yield its box in each frame of the result, None if that gets no mouth; see ``FilmedFace.boxes``."""
        boxes = self.filmed.boxes(len(self.windows), reader)
        return (box if share else None for box, share in zip(boxes, self.fade))

    def strength(self, index: int) -> float:
        """Return the opacity of the mouth in a frame whose box is known, see ``MouthSettings``."""
        return min(self.filmed.strength(index), float(self.fade[index]))


@dataclass(frozen=True, eq=False)  # takes are compared and hashed by identity
class Take:
    """A video and its speech, or several, opened and inspected: all that is needed to make the frames.

    The search for the faces goes on while the frames are made. If only a part is lip-synced, a take covers that part.
    """

    source: video.VideoInfo  # starts where the part does
    faces: tuple[SpeakingFace, ...]  # one or more
    sound: video.Sound  # in the result: the speech, the sum of the speeches, or the mix that contains them
    options: ResolvedOptions
    goes_on: bool = False  # whether the video continues after the part

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
        """How well the first face's speech matches it as it was filmed, if that was asked for."""
        return self.faces[0].match

    @property
    def input_files(self) -> list[Path]:
        """The files that the result is made of."""
        speeches = (one.speech.path for one in self.faces)
        return [self.source.path, *speeches, self.sound.path, *self.options.input_files.values()]

    def close(self) -> None:
        """Stop the search and the reading that are still going on for frames."""
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
    def output_sound(self) -> video.Sound | video.Splice:
        """The sound of the written video."""
        if not self.options.is_part:
            return self.sound
        start, seconds = float(self.source.start / self.source.fps), self.seconds
        return video.Splice(self.source.path, self.sound, start, seconds, self.goes_on)

    def copied(self) -> video.Copied | None:
        """Return what of the video can be copied unchanged around the part."""
        if not self.options.is_part:
            return None
        start = self.source.start
        return video.copied_around(self.source, start, start + len(self) if self.goes_on else None)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames as they were filmed, one for each of the result; repeated ones are read-only."""
        return self.faces[0].filmed.frames(len(self))

    def filmed_at(self, second: float) -> np.ndarray:
        """Return the frame of the whole video at this time as it was filmed; after its end, the last of the part."""
        index = int(second * self.source.fps + 1e-6)
        around = next(video.read_frames(replace(self.source, start=0), index, 1), None)
        return self.faces[0].filmed.frame(len(self) - 1) if around is None else around


def fading(frames: int, begins: bool, until: int | None) -> np.ndarray:
    """Return the opacity of each mouth, (frames,): it fades towards frames that stay as they were filmed.

    Those come before the first if it ``begins`` a part, and from ``until`` on.
    """
    number, far = np.arange(frames), np.full(frames, FADE + 1)  # distance to the nearest of those
    if begins:
        far = np.minimum(far, number + 1)
    if until is not None:
        far = np.clip(until - number, 0, far)
    return far / (FADE + 1)


def open_face(path: Path, options: Options, report: Reporter = SILENT) -> video.VideoInfo:
    """Probe the video or photo and report notes about it; the frame rate is that of the options, if given."""
    info = video.probe(path, video.Geometry(options.resize_factor, options.rotate, tuple(options.crop)))
    video.check_size(info)
    for note in info.notes:
        report.note(f"note: {note}")
    if info.turned and options.rotate:
        report.note(
            f"note: {path} says itself how it is turned, and is upright already; with --rotate it is turned further"
        )
    if options.fps:
        wanted = video.rate_of(options.fps)
        if wanted < info.fps and not info.is_image:
            report.note(f"note: {path} has {float(info.fps):.4g} frames a second; as --fps says, the result has fewer")
        return replace(info, fps=wanted)
    if info.fps < video.MIN_FPS:
        report.note(
            f"note: {path} has {float(info.fps):.3g} frames a second, too few for lip movement; using {hp.fps:g}"
        )
        return replace(info, fps=Fraction(hp.fps))
    return info


class Segment(NamedTuple):
    """What is used of a video for a speech."""

    source: video.VideoInfo  # starts where that does
    frames: int  # of the result; the video is repeated if it has fewer
    searched: int  # how many are searched for the face
    goes_on: bool  # whether the video continues after a part


def segment_for(
    source: video.VideoInfo,
    samples: int,
    options: Options,
    report: Reporter = SILENT,
    seconds: float | None = None,
) -> Segment:
    """Return what is used of a video for a speech of ``samples`` samples, or only for its first ``seconds``.

    Which face is followed may be decided long after ``seconds``: it can be searched for in all that the whole speech
    needs. Raises UserError if the video is found to end early: this would otherwise show only when most of it is made.
    """
    begun = samples if seconds is None else min(samples, math.ceil(seconds * hp.sample_rate))
    part, frames, goes_on = _part_for(source, begun, options, report if seconds is None else SILENT)
    if options.static:
        return Segment(part, frames, 1, goes_on)
    if frames > MIN_FRAMES_TO_CHECK and not part.is_image:
        video.check_ahead(part, frames)
    searched = frames if begun == samples else _part_for(source, samples, options)[1]
    return Segment(part, frames, searched, goes_on)


def _part_for(
    source: video.VideoInfo, samples: int, options: Options, report: Reporter = SILENT
) -> tuple[video.VideoInfo, int, bool]:
    wanted = audio.frame_count(samples, float(source.fps))
    if not options.is_part:
        _report_unused_end(source, wanted, options, report)
        return source, wanted, False
    return parts.cut_out(source, wanted, options.start or 0, options.end, report)


def _report_unused_end(source: video.VideoInfo, wanted: int, options: Options, report: Reporter) -> None:
    if report is SILENT or options.static or source.is_image or source.lasts is None:
        return
    later = wanted + round(UNUSED_SECONDS * source.fps)  # counted, as the declared length may be the sound's
    with contextlib.suppress(video.CutShort):  # a file that ends in between has enough for the speech
        # without an index, all before would be decoded
        unused = later / source.fps < source.lasts
        if unused and (not source.indexed or video.count_frames(replace(source, start=later), 1)[0]):
            report.note(
                f"note: {source.path} goes on after the speech, but the result ends with it; --start 0 keeps the "
                "rest as it was filmed"
            )


class SearchRange(NamedTuple):
    """Where a face is searched for."""

    source: video.VideoInfo  # starts where the search does
    frames: int
    wanted: slice  # of these frames, those whose boxes are wanted


def search_range(source: video.VideoInfo, wanted: int, options: Options) -> SearchRange:
    """Return where the face in the first ``wanted`` frames is searched for.

    Some frames before and after a part are searched as well, but only to tell who speaks in it: otherwise, somebody
    who is no longer in the part might be followed.
    """
    around = round(SEARCH_MARGIN_SECONDS * source.fps) if options.is_part and options.speaker else 0
    before = min(around, source.start)
    part = slice(before, before + wanted)
    return SearchRange(replace(source, start=source.start - before), part.stop + around, part)


def open_sound(path: Path, report: Reporter) -> tuple[video.Sound, int]:
    """Return the sound of a file and its number of samples; raise UserError if it has none or is cut short."""
    sound = video.Sound(path, hp.sample_rate)
    samples = sound.measure()
    next(iter(sound))  # raises if it cannot be decoded; also finds the voice, and fills the notes
    for note in sound.notes:
        report.note(f"note: {note}")
    return sound, samples


def open_mix(path: Path, spoken: int, report: Reporter) -> video.Sound:
    """Open the sound that replaces a speech of ``spoken`` samples in the result, and report if it ends earlier."""
    sound, samples = open_sound(path, report)
    sound.voice = ""  # all of it is meant to be heard
    if spoken - samples > MIX_SHORTER * hp.sample_rate:
        lasts, wanted = (count / hp.sample_rate for count in (samples, spoken))
        report.note(f"note: --mix {path} lasts {lasts:.1f} s, the speech {wanted:.1f} s: the rest of it is silent")
    return sound


def read_speech(path: Path, fps: Fraction) -> audio.MelWindows:
    """Read any sound and return one mel window for every frame of the result."""
    mel, samples = audio.spectrogram_of(video.Sound(path, hp.sample_rate))
    return audio.MelWindows(mel, float(fps), audio.frame_count(samples, float(fps)))
