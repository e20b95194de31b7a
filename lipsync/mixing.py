"""Mix the speeches of several people into one sound."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

import video

RATE = 48000  # Hz


class Mix(video.Sound):
    """The first ``seconds`` of the sum of several sounds, mono; softer as a whole if it would clip.

    Its temporary file exists as long as the object does. Raises RuntimeError if there is no disk space for it.
    """

    def __init__(self, sounds: Sequence[video.Sound], seconds: float) -> None:
        folder = tempfile.mkdtemp(prefix="wav2lip-mix-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder, "mix.w64")
        write_sum(sounds, path, seconds)
        super().__init__(path, RATE)
        self.measure()


def write_sum(sounds: Sequence[video.Sound], path: Path, seconds: float) -> None:
    """Write the first ``seconds`` of the sum of sounds to ``path`` (W64), block by block."""
    import soundfile

    def mixed() -> Iterator[np.ndarray]:
        left = math.ceil(seconds * RATE)
        for block in added([sound.at(RATE) for sound in sounds]):
            yield block[:left]
            left -= len(block)
            if left <= 0:
                return

    peak = max((float(np.abs(block).max()) for block in mixed() if len(block)), default=0.0)
    try:
        with soundfile.SoundFile(path, "w", RATE, 1, "FLOAT", format="W64") as file:  # a WAV is limited to 4 GB
            for block in mixed():
                file.write(block / np.float32(max(1.0, peak)))
    except soundfile.LibsndfileError as error:
        raise RuntimeError(
            f"cannot write the sum of the speeches into {path.parent} ({error}); if that is full, set TMPDIR to "
            "another folder"
        ) from error


def added(sounds: Sequence[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    """Add sounds that come in blocks (samples,) of equal length, except for the last of each."""
    for blocks in itertools.zip_longest(*sounds, fillvalue=np.empty(0, np.float32)):
        total = np.zeros(max(map(len, blocks)), np.float32)
        for block in blocks:
            total[: len(block)] += block
        yield total
