"""Pairs of a sound and a video: lists of them, and a lip-synced video for each.

A list has two names a line, relative to a data folder. Those of LRS2, LRS3 and LRW put the sound first and leave the
``.mp4`` out, those of ReSyncED put the video first. Videos are named after the line's number, from 0, as in 2020.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import cli
import faces
import files
import inference
import preprocess
from errors import MissingFile, UserError
from hparams import read_list
from models import Wav2Lip, optimize_for_inference, weights

SOUND_SUFFIXES = (".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav")


class Pair(NamedTuple):
    audio: Path  # anything with a voice in it
    video: Path


# --------------------------------------------------------------------------------------------------------------------
# Lists


def random_pairs(sounds: Sequence[str], videos: Sequence[str], count: int | None, seed: int) -> list[tuple[str, str]]:
    """Return ``count`` (None: all) videos in random order as (sound, video), each with the sound of another one.

    Sounds are dealt like cards, so none comes twice before all have come once. Raises ValueError if there are fewer
    than ``count`` videos, or no other sound to choose from.
    """
    if count is not None and count > len(videos):
        raise UserError(f"--count {count} is more than the {len(videos)} videos there are")
    if not videos or len(set(sounds) | set(videos)) < 2 or not sounds:
        raise UserError(f"{len(videos)} videos and {len(sounds)} sounds make no pairs; it takes two different ones")
    draw = random.Random(seed)
    dealt = draw.sample(sorted(sounds), len(sounds))
    next_to = dict(zip(dealt, dealt[1:] + dealt[:1]))  # where videos are paired among themselves: never with itself
    chosen = draw.sample(sorted(videos), count or len(videos))
    return [(next_to.get(name, dealt[i % len(dealt)]), name) for i, name in enumerate(chosen)]


def list_names(root: Path, wanted: Callable[[Path], bool]) -> tuple[list[str], list[str]]:
    """Return the ``wanted`` files below ``root``, relative to it and sorted: those that a list can hold, and others.

    A list cannot hold names with spaces.
    """
    names = sorted(path.relative_to(root).as_posix() for path in preprocess.visible_files(root) if wanted(path))
    spaced = [name for name in names if any(map(str.isspace, name))]
    return [name for name in names if name not in spaced], spaced


def is_sound(path: Path) -> bool:
    return path.suffix.lower() in SOUND_SUFFIXES


def read_filelist(path: Path, data_root: Path, audio_first: bool) -> list[Pair]:
    """Read a list; names without a suffix are those of videos. Raises FileNotFoundError or ValueError if it is bad."""
    if not path.is_file():
        raise MissingFile(f"--filelist {path} does not exist")
    pairs = []
    for number, line in read_list(path):
        names = line.split("\t") if line.count("\t") == 1 else line.split()
        if len(names) != 2:
            raise UserError(
                f"line {number} of {path} has {len(names)} names instead of two: {line!r}; if a name has spaces, put a "
                "tab between the two"
            )
        first, second = (_with_suffix(data_root, name.strip()) for name in names)
        pairs.append(Pair(first, second) if audio_first else Pair(second, first))
    if not pairs:
        raise UserError(f"{path} is empty; it should have two names a line")
    return pairs


def _with_suffix(root: Path, name: str) -> Path:
    if Path(name).suffix.lower() in (*preprocess.VIDEO_SUFFIXES, *SOUND_SUFFIXES):
        return root / name
    choices = [root / (name + suffix) for suffix in (".mp4", *preprocess.VIDEO_SUFFIXES, "")]
    return next((path for path in choices if path.is_file()), choices[0])


# --------------------------------------------------------------------------------------------------------------------
# Videos


def add_generator_arguments(parser: cli.Parser) -> None:
    """What every script takes that makes videos, with the defaults of the 2020 evaluation."""
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="folder that the names of the list are relative to")
    add("--results_dir", required=True, type=Path, help="folder for the videos; finished ones in it are kept")
    add("--checkpoint_path", required=True, help="generator: a file, or wav2lip or wav2lip_gan")
    add("--pads", nargs=4, type=int, default=[0, 0, 0, 0], help="pixels added to the box: top bottom left right")
    add("--wav2lip_batch_size", type=cli.positive(int), default=128, help="at most so many faces per network call")
    faces.add_search_arguments(parser)
    cli.add_compute_arguments(parser)


def open_generator(args: argparse.Namespace) -> torch.nn.Module:
    """Return the generator for all pairs; raise, before any work is done, for what would spoil every pair."""
    if not args.data_root.is_dir():
        raise MissingFile(f"--data_root {args.data_root} is not a folder")
    faces.detector_weights(args)
    device = cli.pick_device(own_device(args.device))
    generator = weights.load_model(args.checkpoint_path, Wav2Lip)
    return optimize_for_inference(generator, device, cli.pick_precision(args.precision, device))


def generate(pairs: Sequence[Pair], args: argparse.Namespace, resize: Callable[[Path], int] = lambda _: 1) -> bool:
    """Write ``results_dir``/<number>.mp4 for every pair of this process; say whether those of all processes are done.

    Finished videos are kept. Why a pair was skipped stands in ``results_dir``/skipped/<number>.txt; the next run tries
    it again. ``resize`` gives the factor by which a video is shrunk first. ``args`` as ``add_generator_arguments``.
    """
    model = open_generator(args)
    claim(args.results_dir, pairs)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = list(enumerate(pairs))[rank::world]
    for number, pair in cli.progress(mine, "Lip-syncing", len(mine), "video"):
        note = args.results_dir / "skipped" / f"{number}.txt"
        target = args.results_dir / f"{number}.mp4"
        if target.exists():
            continue
        try:
            inference.run(inference_arguments(pair, target, args, resize(pair.video)), model)
            note.unlink(missing_ok=True)
        except (ValueError, RuntimeError, OSError) as problem:
            if files.is_disk_error(problem):
                raise
            files.save(note, " ".join(str(problem).split()) + "\n")
    return {*range(len(pairs))} <= {*finished(args.results_dir), *skipped(args.results_dir)}


def inference_arguments(pair: Pair, target: Path, args: argparse.Namespace, factor: int) -> argparse.Namespace:
    """Return the arguments of ``inference.run`` for one pair."""
    command = ["--checkpoint_path", args.checkpoint_path, "--face", pair.video, "--audio", pair.audio]
    defaults = inference.get_parser().parse_args([*map(str, command), "--outfile", str(target)])
    shared = {name: value for name, value in vars(args).items() if hasattr(defaults, name)}
    shared |= {"device": own_device(args.device), "resize_factor": factor}
    return argparse.Namespace(**{**vars(defaults), **shared})


def own_device(name: str) -> str:
    """Under torchrun every process of a machine takes its own GPU."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    return f"cuda:{local}" if local and name in ("auto", "cuda") and torch.cuda.is_available() else name


def claim(results_dir: Path, pairs: Sequence[Pair]) -> None:
    """Note whose videos ``results_dir`` holds; raise ValueError if they are another list's, since numbers are names."""
    record = results_dir / "pairs.json"
    text = json.dumps([[str(path.absolute()) for path in pair] for pair in pairs], indent=0)
    if record.exists() and record.read_text(encoding="utf-8") != text:
        raise UserError(f"{results_dir} holds the videos of another list; give another --results_dir")
    files.save(record, text)


def finished(results_dir: Path) -> dict[int, Path]:
    """Return the finished videos by number."""
    return {int(path.stem): path for path in results_dir.glob("*.mp4") if path.stem.isdecimal()}


def skipped(results_dir: Path) -> dict[int, str]:
    """Return why pairs were skipped, by number."""
    notes = {int(path.stem): path.read_text(encoding="utf-8").strip() for path in results_dir.glob("skipped/*.txt")}
    return dict(sorted(notes.items()))


def report(pairs: Sequence[Pair], results_dir: Path) -> str:
    """Say in words what there is, and list every skipped pair with its reason."""
    notes = skipped(results_dir)
    lines = [f"{len(finished(results_dir))} of {len(pairs)} videos in {results_dir}, {len(notes)} pairs skipped"]
    return "\n".join(lines + [f"  {n}: {pairs[n].audio} {pairs[n].video}: {reason}" for n, reason in notes.items()])


def print_report(pairs: Sequence[Pair], results_dir: Path) -> None:
    """Print it; raise RuntimeError if there is no video or a pair is missing one."""
    print(report(pairs, results_dir))
    if notes := skipped(results_dir):
        raise RuntimeError(f"{len(notes)} of {len(pairs)} pairs were skipped; {results_dir / 'skipped'} says why")
