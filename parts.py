"""A part of a video: from --start to --end."""

from __future__ import annotations

import re
from dataclasses import replace

import video
from errors import UserError
from reporting import SILENT, Reporter


def moment(text: str) -> float:
    """Parse a time in a video, ``7.5``, ``MM:SS`` or ``HH:MM:SS.mmm``, to seconds; raise UserError if it is invalid."""
    clock = r"(?:(?:(\d+):(?=[0-5]?\d:))?(\d+):(?=[0-5]?\d(?:\.|$)))?"
    match = re.fullmatch(clock + r"(\d+(?:\.\d*)?|\.\d+)", text.strip(), re.ASCII)
    if not match:
        raise UserError(f"{text!r} is not a time; give seconds, MM:SS or HH:MM:SS.mmm")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def cut_out(
    source: video.VideoInfo, wanted: int, start: float, end: float | None, report: Reporter = SILENT
) -> tuple[video.VideoInfo, int, bool]:
    """Return the video from ``start`` on, the number of frames in the part, and whether more follow.

    The part ends after ``wanted`` frames, the length of the speech, or earlier, at ``end`` or with the video. Both
    times are seconds, rounded to the nearest frame. Raises UserError for a photo, or if they are not in the video.
    """
    if source.is_image:
        raise UserError(f"{source.path} is a photo, which has no parts; leave --start and --end out")
    first = round(start * source.fps)
    longest, count, goes_on = _counted(source, first, end, wanted)
    if not count and first > start * source.fps:  # in the second half of the last frame
        first -= 1
        longest, count, goes_on = _counted(source, first, end, wanted)
    if not count:
        raise UserError(f"--start {start:g} lies beyond the end of {source.path}")
    if longest and count < longest:
        seconds = float((first + count) / source.fps)
        raise UserError(f"--end {end:g} lies beyond the end of {source.path}, which lasts {seconds:.2f} s")
    if wanted < count:
        stop = float((first + wanted) / source.fps)
        report.note(f"note: the speech ends at {stop:.2f} s; from there to --end the video stays as it was filmed")
    elif wanted > count:
        spoken, used = (float(frames / source.fps) for frames in (wanted, count))
        what = "--end comes" if longest else "the video ends"
        report.note(f"note: of {spoken:.2f} s of speech the first {used:.2f} s are used, then {what}")
    return replace(source, start=first), min(count, wanted), goes_on or wanted < count


def _counted(source: video.VideoInfo, first: int, end: float | None, wanted: int) -> tuple[int | None, int, bool]:
    """Return the number of frames up to ``end``, if given, how many of them exist, and whether more follow."""
    longest = None if end is None else max(1, round(end * source.fps) - first)
    return longest, *video.count_frames(replace(source, start=first), longest or wanted)
