"""Several faces in one video, each with a speech of its own.

    dialogue.run(LipSync(), "two.mp4", {0: "anna.wav", 1: "ben.wav"}, "out.mp4")

Every frame goes through the generator once for each face; what is heard is the sum of the speeches.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import audio
import files
import video
from errors import UserError, about
from hparams import hparams as hp
from lipsync import AROUND, CHOICES, LipSync, Options, Settled, Take, Used, open_face, open_mix, open_sound, used_for
from reporting import Named

RATE = 48000  # Hz, of what is heard
BLOCK = 1 << 18  # samples of silence at a time


def run(
    lips: LipSync, face: str | Path, speeches: Mapping[int, str | Path], outfile: str | Path, **options: Any
) -> Take:
    """Write ``outfile``: of the video or photo ``face``, the n-th face from the left speaks ``speeches[n]``.

    ``options``: those of ``lipsync.Options`` that do not say which face. The result is as long as the longest speech; a
    face whose speech is over is left as it was filmed, or with ``silence="closed"`` shut. Raises as ``LipSync.run``.

    The take that is returned tells what was made; its sum of the speeches is gone, so it cannot be written again.
    """
    face, outfile, paths, chosen = Path(face), Path(outfile), _paths(speeches), _options(options)
    lips.check_writable(outfile)
    files.check_not_read("--outfile", outfile, [face, *paths.values(), *chosen.read.values()])
    with tempfile.TemporaryDirectory() as folder:
        take = prepare(lips, face, paths, chosen, Path(folder))
        lips.write(take, outfile)
    return take


def preview(
    lips: LipSync, face: str | Path, speeches: Mapping[int, str | Path], second: float, **options: Any
) -> np.ndarray:
    """Return the frame (height, width, 3) uint8 BGR of the result at this moment, without making those before."""
    second, chosen = max(0.0, second), _options(options)
    with tempfile.TemporaryDirectory() as folder:
        return lips.frame_at(_open_take(lips, Path(face), _paths(speeches), chosen, Path(folder), second), second)


def _paths(speeches: Mapping[int, str | Path]) -> dict[int, Path]:
    if not speeches:
        raise UserError("nobody is given a speech; give each face one, such as {0: 'anna.wav', 1: 'ben.wav'}")
    return {index: Path(path) for index, path in speeches.items()}


def _options(given: Mapping[str, Any]) -> Options:
    options = Options.of(given)
    if options.is_part:
        raise UserError("--pair goes through the whole video; leave --start and --end out")
    for name in CHOICES:
        if getattr(options, name) is not None:
            raise UserError(f"--pair says which face speaks what, and so does --{name}; give one of them")
    return options


def prepare(lips: LipSync, face: Path, speeches: Mapping[int, Path], chosen: Options, folder: Path) -> Take:
    """Find the faces and listen to the speeches; the mix is written into ``folder``, and has to stay there.

    The others are the ``others`` of the first face's take.
    """
    _ = lips.expert  # if it is not there, nobody should have to wait to hear of it
    take = _open_take(lips, face, speeches, chosen, folder)
    _ = lips.model  # one for all of them
    takes = take, *take.others
    sounds = [one.speech for one in takes]
    if chosen.mix:
        heard = open_mix(Path(chosen.mix), round(take.seconds * hp.sample_rate), lips.report)
    else:
        heard = write_mix(sounds, folder / "mix.w64")
    own = [lips.serving(lips.search, Named(lips.report, f"face {index}")) for index in speeches]
    first, *others = (
        replace(one, heard=heard, mouth_settings=its.mouth_settings(one), match=its.match(one.face, path))
        for one, its, path in zip(takes, own, speeches.values())
    )
    return replace(first, others=tuple(others))


def _open_take(
    lips: LipSync, face: Path, speeches: Mapping[int, Path], chosen: Options, folder: Path, second: float | None = None
) -> Take:
    """Return a take whose mouth settings, and its others', are open; of the result only until after this second."""
    _ = lips.restore  # one for all of them; if it is missing, nobody should have to wait to hear of it
    for note in chosen.without_effect():
        lips.report.note(f"note: {note}")
    chosen = lips.settle(chosen)
    source = open_face(face, chosen, lips.report)
    sounds, lengths = zip(*(open_sound(path, lips.report) for path in speeches.values()))
    used = used_for(source, max(lengths), chosen, seconds=None if second is None else second + AROUND)
    # without a memory, the same frames would be searched once for each face
    search = lips.search if lips.search.cache else replace(lips.search, cache=True, folder=folder)
    first, *others = (
        _take_of(
            lips.serving(search, Named(lips.report, f"face {index}")),
            source,
            Spoken(sound, samples, max(lengths) - samples),
            used,
            replace(chosen, face_index=index),
        )
        for index, sound, samples in zip(speeches, sounds, lengths)
    )
    return replace(first, others=tuple(others))


class Spoken(NamedTuple):
    """What one of them says."""

    sound: video.Sound
    samples: int
    after: int  # samples of silence that follow, until the last of them has finished


def _take_of(lips: LipSync, source: video.VideoInfo, spoken: Spoken, used: Used, options: Settled) -> Take:
    """Return what is made of one face."""
    fps = float(source.fps)
    with about(f"--pair {options.face_index}={spoken.sound.path}"):
        face = lips.find_face(source, used.searched, options)
        face.path.known(None)  # to its end, so that it is remembered for the next face
    mel, _ = audio.spectrogram_of(itertools.chain(spoken.sound, _silence(spoken.after)))
    windows = audio.MelWindows(mel, fps, used.frames, options.lip_delay / 1000)
    until = used.frames if options.silence == "closed" else audio.frame_count(spoken.samples, fps)
    return Take(face, spoken.sound, spoken.sound, windows, options, until=until)


def _silence(samples: int) -> Iterator[np.ndarray]:
    """Yield it in blocks: of two who speak for an hour and for a minute, it may be long."""
    for start in range(0, samples, BLOCK):
        yield np.zeros(min(BLOCK, samples - start), np.float32)


def write_mix(sounds: Sequence[video.Sound], path: Path) -> video.Sound:
    """Write the sum of sounds to ``path``, mono, block by block; all of it softer where it would be clipped."""
    import soundfile

    def mixed() -> Iterator[np.ndarray]:
        return added([video.Sound(sound.path, RATE) for sound in sounds])

    peak = max((float(np.abs(block).max()) for block in mixed() if len(block)), default=0.0)
    try:
        with soundfile.SoundFile(path, "w", RATE, 1, "FLOAT", format="W64") as file:  # a WAV ends at 4 GB
            for block in mixed():
                file.write(block / np.float32(max(1.0, peak)))
    except soundfile.LibsndfileError as error:
        raise RuntimeError(
            f"cannot write the sum of the speeches into {path.parent} ({error}); if that is full, have TMPDIR name "
            "another folder"
        ) from error
    return open_sound(path)[0]


def added(sounds: Sequence[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    """Add sounds that come in blocks (samples,) of equal length but for each one's last."""
    for blocks in itertools.zip_longest(*sounds, fillvalue=np.empty(0, np.float32)):
        total = np.zeros(max(map(len, blocks)), np.float32)
        for block in blocks:
            total[: len(block)] += block
        yield total
