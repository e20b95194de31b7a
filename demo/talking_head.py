"""Make a corpus of talking heads, with the ground truth of every mouth beside each clip.

    python -m demo.talking_head --out VIDEOS --clips 100 --seed 1

writes VIDEOS/<head>/<clip>.mp4, the layout that preprocess.py expects, and <clip>.json: per frame the ``aperture`` of
the lips (0 closed, about 1 wide open), the ``width`` of the mouth (0 rounded, 1 spread) and the ``boxes`` of all faces
(null while turned away); for the clip ``fps``, ``offset`` (frames by which the sound is late), ``speaker`` (index, from
the left, of the face that is heard), ``cuts`` (frames that start a new shot), ``away`` (first and last + 1 frame
without a face).
The same arguments always make the same clips.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

import cli
import files
import video
from demo.articulation import Movements, silence, speak
from demo.head import Identity
from demo.scene import Actor, Shot, film
from demo.voice import SAMPLE_RATE, Voice, synthesize
from devices import cpu_count
from errors import UserError
from preprocessing.workers import ignore_sigint, start_worker
from terminal import TERMINAL

VARIANTS = ("plain", "silent", "two", "cut", "away")
HEAD, CLIP = range(2)  # first elements of seeds, so that heads and clips never share a random stream
HEAD_RATIO = 1.3  # height of a head over its width, with a margin


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a clip: the same recipe and number always give the same clip."""

    seed: int = 0
    seconds: float = 3.0
    size: tuple[int, int] = (256, 256)  # width, height in pixels
    fps: float = 25.0
    variant: str = "plain"
    offset: int = 0  # frames by which the sound is late
    clips_per_head: int = 2

    @property
    def frames(self) -> int:
        return max(1, round(self.seconds * self.fps))


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Make videos of talking heads, with the ground truth of every mouth.")
    add, usual = parser.add_argument, Recipe()
    add("--out", required=True, type=Path, help="Write <head>/<clip>.mp4 and .json into this folder.")
    add("--clips", type=cli.positive(int), default=10, help="Number of clips to make.")
    add("--seed", type=cli.seed, default=usual.seed, help="Random seed of heads and speech.")
    add("--seconds", type=cli.positive(float), default=usual.seconds, help="Length of a clip in seconds.")
    add(
        "--size",
        type=picture_size,
        default="256x256",
        metavar="WIDTHxHEIGHT",
        help="The size of the picture, in pixels.",
    )
    add("--fps", type=cli.positive(float), default=usual.fps, help="Frames a second.")
    add(
        "--variant",
        choices=VARIANTS,
        default=usual.variant,
        help="Show two people (two), two shots (cut), a head that turns away (away), or a silent head (silent).",
    )
    add("--offset", type=int, default=usual.offset, help="Delay the sound by this many frames; below 0, it is early.")
    add(
        "--clips_per_head",
        type=cli.positive(int),
        default=usual.clips_per_head,
        help="Number of utterances of each head.",
    )
    add("--workers", type=cli.positive(int), default=cpu_count(), help="Number of clips made in parallel.")
    return parser


def picture_size(text: str) -> tuple[int, int]:
    """``640x480`` -> (640, 480)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480, 64 pixels or more each way")
    return int(width), int(height)


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    names = ("seed", "seconds", "size", "fps", "variant", "offset", "clips_per_head")
    recipe = Recipe(**{name: getattr(args, name) for name in names})
    made = make_clips(partial(make_clip, args.out, recipe), args.clips, args.workers)
    paths = list(TERMINAL.track(made, "Filming", args.clips, "clip"))
    print(f"{args.out}: {len(paths)} clips of {recipe.frames} frames")


def make_clips(make: Callable[[int], Path], count: int, workers: int) -> Iterator[Path]:
    """Yield the paths of clips 0 to ``count`` - 1 in order, made by ``workers`` processes."""
    if workers == 1:
        yield from map(make, range(count))
        return
    fresh = multiprocessing.get_context("spawn")  # a fork of a process with threads may deadlock
    with ProcessPoolExecutor(workers, fresh, start_worker, (1,)) as pool:
        try:
            with ignore_sigint():
                futures = [pool.submit(make, number) for number in range(count)]
            yield from (future.result() for future in futures)
        except BaseException:  # Ctrl-C is one
            pool.shutdown(cancel_futures=True)
            raise


# --------------------------------------------------------------------------------------------------------------------
# Clips


def make_clip(folder: Path, recipe: Recipe, number: int) -> Path:
    """Write clip ``number`` of a corpus below ``folder`` unless it exists, and return its path.

    Raises UserError if the existing one was made by another recipe.
    """
    path = folder / f"head{number // recipe.clips_per_head:05d}" / f"clip{number:05d}.mp4"
    if not path.with_suffix(".json").exists():  # written last, when the clip is complete
        write_clip(path, recipe, number)
    elif json.loads(path.with_suffix(".json").read_text())["recipe"] != json.loads(json.dumps(asdict(recipe))):
        raise UserError(f"{path} was made with other settings; give another folder, or delete this one")
    return path


def write_clip(path: Path, recipe: Recipe, number: int = 0) -> dict[str, object]:
    """Write clip ``number`` of ``recipe`` to ``path`` and the ground truth beside it; return the latter."""
    rng = np.random.default_rng((CLIP, recipe.seed, number))
    heads = [_cast(recipe, number, place) for place in range(2 if recipe.variant == "two" else 1)]
    utterances = [_utter(recipe, rng) for _ in heads]
    sounds = [_sound(recipe, utterance, voice, rng) for utterance, (_, voice) in zip(utterances, heads)]
    seen = [_seen(recipe, utterance) for utterance in utterances]
    speaker = int(rng.integers(len(heads)))
    shots, cuts, away = _direct(recipe, [identity for identity, _ in heads], seen, rng)

    path.parent.mkdir(parents=True, exist_ok=True)
    info = video.VideoInfo(path, *recipe.size, fps=Fraction(recipe.fps).limit_denominator(1001))
    boxes = []
    with tempfile.TemporaryDirectory() as temporary:
        voice = Path(temporary, "voice.wav")
        write_sound(voice, sounds[speaker])
        with video.VideoWriter(path, info, voice, recipe.frames) as writer:
            for frame, found in _film_all(shots, recipe, cuts):
                writer.write(frame)
                boxes.append([None if np.isnan(box).any() else box.round(1).tolist() for box in found])
    if recipe.variant == "two":
        for place, sound in enumerate(sounds):
            write_sound(path.with_name(f"{path.stem}_voice{place}.wav"), sound)
    mouth = seen[speaker].at((np.arange(recipe.frames) + 0.5) / recipe.fps)
    truth = {
        "fps": recipe.fps, "offset": recipe.offset, "speaker": speaker, "cuts": cuts, "away": away,
        "aperture": mouth["aperture"].round(4).tolist(), "width": mouth["width"].round(4).tolist(), "boxes": boxes,
        "recipe": asdict(recipe), "number": number,
    }  # fmt: skip
    files.save(path.with_suffix(".json"), json.dumps(truth))
    return truth


def write_speech(path: Path, recipe: Recipe, number: int = 0) -> np.ndarray:
    """Write only the sound of an utterance, and return the aperture (frames,) that belongs to it."""
    rng = np.random.default_rng((CLIP, recipe.seed, number))
    utterance = _utter(recipe, rng)
    write_sound(path, _sound(recipe, utterance, _cast(recipe, number, 0)[1], rng))
    return _seen(recipe, utterance).at((np.arange(recipe.frames) + 0.5) / recipe.fps)["aperture"]


def write_sound(path: Path, sound: np.ndarray) -> None:
    """Write float32 mono as 16-bit wav, at its own loudness."""
    from scipy.io import wavfile

    wavfile.write(path, SAMPLE_RATE, np.round(sound * 32767).astype(np.int16))


def _cast(recipe: Recipe, number: int, place: int) -> tuple[Identity, Voice]:
    """Return the head and voice of a clip: one person speaks ``clips_per_head`` times."""
    rng = np.random.default_rng((HEAD, recipe.seed, number // recipe.clips_per_head, place))
    return Identity.random(rng), Voice.random(rng)


def _margin(recipe: Recipe) -> float:
    """Return the seconds of speech before and after the visible part, so that sound can be shifted without a gap."""
    return abs(recipe.offset) / recipe.fps


def _utter(recipe: Recipe, rng: np.random.Generator) -> Movements:
    seconds = recipe.frames / recipe.fps + 2 * _margin(recipe)
    return silence(seconds) if recipe.variant == "silent" else speak(seconds, rng)


def _seen(recipe: Recipe, utterance: Movements) -> Movements:
    return utterance.part(_margin(recipe), recipe.frames / recipe.fps)


def _sound(recipe: Recipe, utterance: Movements, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    first = round((_margin(recipe) - recipe.offset / recipe.fps) * SAMPLE_RATE)
    return synthesize(utterance, voice, rng)[first : first + round(recipe.frames / recipe.fps * SAMPLE_RATE)]


def _direct(
    recipe: Recipe, heads: list[Identity], seen: list[Movements], rng: np.random.Generator
) -> tuple[list[Shot], list[int], tuple[int, int]]:
    """Return the shots, the frames that start the second and later ones, and when everybody looks away."""
    away = (round(recipe.frames * 0.4), round(recipe.frames * 0.7)) if recipe.variant == "away" else (0, 0)
    cuts = [recipe.frames // 2] if recipe.variant == "cut" else []
    width, height = recipe.size
    largest = min(0.8, HEAD_RATIO * width / len(heads) / height)
    shots = []
    for _ in range(len(cuts) + 1):
        actors = []
        for place, (identity, movements) in enumerate(zip(heads, seen)):
            middle = (place + rng.uniform(0.44, 0.56)) / len(heads)
            size = rng.uniform(0.7, 1.0) * largest
            actors.append(Actor(identity, movements, middle, size, int(rng.integers(1 << 31))))
        shots.append(Shot(tuple(actors), int(rng.integers(1 << 31)), away))
    return shots, cuts, away


def _film_all(shots: list[Shot], recipe: Recipe, cuts: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    edges = [0, *cuts, recipe.frames]
    for shot, first, stop in zip(shots, edges, edges[1:]):
        yield from film(shot, recipe.size, recipe.fps, first, stop)


if __name__ == "__main__":
    sys.exit(main())
