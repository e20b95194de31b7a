"""Several faces in one video, each with a speech of its own.

    dialogue.run(LipSync(), "two.mp4", {0: "anna.wav", 1: "ben.wav"}, "out.mp4")

Every frame goes through the generator once for each face; what is heard is the sum of the speeches.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import audio
import files
import video
from errors import UserError, about
from lipsync import CHOICES, LipSync, Options, Settled, Take, open_face, open_sound
from reporting import Advance, Reporter

RATE = 48000  # Hz, of what is heard


class OfFace(Reporter):
    """Says of which face a note is."""

    def __init__(self, number: int, report: Reporter) -> None:
        self.number, self.report = number, report

    def note(self, text: str) -> None:
        self.report.note(f"face {self.number}: {text}")

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        with self.report.stage(name, total, unit, done) as advance:
            yield advance


def run(
    lips: LipSync, face: str | Path, speeches: Mapping[int, str | Path], outfile: str | Path, **options: Any
) -> Take:
    """Write ``outfile``: of the video or photo ``face``, the n-th face from the left speaks ``speeches[n]``.

    ``options``: those of ``lipsync.Options`` that do not say which face. The result is as long as the longest speech; a
    face whose speech is over is left as it was filmed, or with ``silence="closed"`` shut. Raises as ``LipSync.run``.
    """
    if not speeches:
        raise UserError("nobody is given a speech; give each face one, such as {0: 'anna.wav', 1: 'ben.wav'}")
    face, outfile, paths = Path(face), Path(outfile), {index: Path(path) for index, path in speeches.items()}
    chosen = Options(**options)
    check_options(chosen)
    lips.check_writable(outfile)
    files.check_not_read("--outfile", outfile, [face, *paths.values(), *([Path(chosen.mix)] if chosen.mix else [])])
    with tempfile.TemporaryDirectory() as folder:
        take = prepare(lips, face, paths, chosen, Path(folder))
        lips.write(take, outfile)
    return take


def check_options(options: Options) -> None:
    if options.is_part:
        raise UserError("--pair goes through the whole video; leave --start and --end out")
    for name in CHOICES:
        if getattr(options, name) is not None:
            raise UserError(f"--pair says which face speaks what, and so does --{name}; give one of them")


def prepare(lips: LipSync, face: Path, speeches: Mapping[int, Path], chosen: Options, folder: Path) -> Take:
    """Find the faces and listen to the speeches; the mix is written into ``folder``, and has to stay there.

    The others are the ``others`` of the first face's take.
    """
    chosen, _ = lips.settle(chosen), lips.expert  # if networks are not there, nobody should have to wait to hear of it
    source = open_face(face, chosen, lips.report)
    sounds, lengths = zip(*(open_sound(path, lips.report) for path in speeches.values()))
    heard = open_sound(chosen.mix, lips.report)[0] if chosen.mix else write_mix(sounds, folder / "mix.w64")
    # without a memory, the same frames would be searched once for each face
    search = lips.search if lips.search.cache else replace(lips.search, cache=True, folder=folder)
    takes = []
    for (index, path), sound, samples in zip(speeches.items(), sounds, lengths):
        one = lips.serving(search, OfFace(index, lips.report))
        take = take_of(one, source, sound, (samples, max(lengths)), replace(chosen, face_index=index))
        match = one.match(source, take.face, path)
        takes.append(replace(take, heard=heard, match=match))
    return replace(takes[0], others=tuple(takes[1:]))


def take_of(
    lips: LipSync, source: video.VideoInfo, sound: video.Sound, lengths: tuple[int, int], options: Settled
) -> Take:
    """Return the take of one face, whose speech has the first of ``lengths`` (samples) and is followed by silence."""
    fps, (samples, longest) = float(source.fps), lengths
    wanted = audio.frame_count(longest, fps)
    with about(f"--pair {options.face_index}={sound.path}"):
        path, used = lips.find_face(source, wanted, options)
        path.known(None)  # to its end, so that it is remembered for the next face
    mel, _ = audio.spectrogram_of(itertools.chain(sound, [np.zeros(longest - samples, np.float32)]))
    windows = audio.MelWindows(mel, fps, wanted, options.lip_delay / 1000)
    until = wanted if options.silence == "closed" else audio.frame_count(samples, fps)
    take = Take(source, sound, sound, windows, path, used, options, until=until)
    return replace(take, manner=lips.manner(take))


def write_mix(sounds: Sequence[video.Sound], path: Path) -> video.Sound:
    """Write the sum of sounds to ``path``, mono and not clipped, block by block."""
    import soundfile

    with soundfile.SoundFile(path, "w", RATE, 1, "FLOAT", format="W64") as file:  # a WAV ends at 4 GB
        for block in added([video.Sound(sound.path, RATE) for sound in sounds]):
            file.write(block)
    return open_sound(path)[0]


def added(sounds: Sequence[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    """Add sounds that come in blocks (samples,) of equal length but for each one's last."""
    for blocks in itertools.zip_longest(*sounds, fillvalue=np.empty(0, np.float32)):
        total = np.zeros(max(map(len, blocks)), np.float32)
        for block in blocks:
            total[: len(block)] += block
        yield total
