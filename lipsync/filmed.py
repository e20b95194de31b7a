"""Repeat the frames of a video or photo, with the boxes of a face, for as long as the speech lasts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import video
from face_path import Box, FacePath, Reader

FADE = 3  # frames in which a mouth fades in or out next to those that stay as they were filmed


@dataclass(frozen=True)
class FilmedFace:
    """Frames of a video, each with the box of a face, in the order in which they are shown."""

    source: video.VideoInfo
    path: FacePath  # the face in each frame of the video, as far as the search has come; or one box for all of them
    used: int | None  # how many frames of the video are shown, if it has them; None: all of it, with one box
    pingpong: bool = False  # back and forth, instead of from the start again

    def frames(self, count: int = sys.maxsize) -> Iterator[np.ndarray]:
        """Yield the first ``count`` frames as they were filmed; repeated ones are read-only."""
        return video.repeat_frames(self.source, count, self.used, self.pingpong)

    def frame(self, index: int) -> np.ndarray:
        """Return the frame at this index of ``frames``."""
        if self.used is None:  # the number of frames is unknown
            found = next(video.read_frames(self.source, index, 1), None)
            return next(itertools.islice(self.frames(), index, None)) if found is None else found
        return next(video.read_frames(self.source, self.number(index), 1))

    def boxes(self, count: int = sys.maxsize, reader: Reader | None = None) -> Iterator[Box | None]:
        """Yield the box in each of the first ``count`` frames as soon as it and its strength are known.

        The last comes when the search is over. Once ``reader`` is stopped, no more follow.
        """
        for index in range(count):
            known = self.path.known(index + 1 + FADE if index + 1 < count else None, reader)
            if reader and reader.is_set():
                return
            yield known[video.source_index(index, len(known), self.pingpong)]

    def strength(self, index: int) -> float:
        """Return the opacity of the mouth at this index, whose box is known: lower near frames without a box.

        It does not fade where a shot begins or ends, because there the face comes and goes with the picture.
        """
        return self.path.distance_to_gap(self.number(index), FADE + 1) / (FADE + 1)

    def number(self, index: int) -> int:
        """Return which of the searched frames of the video is shown at this index."""
        return video.source_index(index, len(self.path.known(index + 1)), self.pingpong)

    def shows(self, number: int) -> bool:
        """Return whether this frame of the video is shown at all."""
        return self.used is None or number < len(self.path.known(number + 1))

    def box_in(self, number: int) -> Box | None:
        """Return the box in this frame of the video, which must be one that is shown."""
        known = self.path.known(number + 1)
        return known[number % len(known)]
