"""Measure how well an expert recognizes a face's own voice, who is speaking, and how far the sound is off.

    python -m benchmarks.sync --checkpoint_path EXPERT --data_root VIDEOS --filelist val.txt --others OTHER_SPEAKERS

Prints a table and one JSON object per line:

``voices``     mean similarity of faces with their own voice, another sentence (the next clip's), silence, another
               speaker; and the AUC of own against each, with one sample per clip
``speaking``   two clips side by side, each voice in turn: the share of voices assigned to the right face
``offset``     the sound shifted by -10 … 10 frames: the share of offsets found exactly and within one frame
``verdict``    the confidence that best separates own voices, shifted or not, from all others, and how well it does
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import arguments
import cli
import video
from benchmarks import auc, open_machine, report
from errors import UserError
from footage import find_videos
from hparams import hparams as hp
from hparams import read_list
from sync import (
    Expert,
    Face,
    Result,
    SimilarityMatrix,
    Voice,
    compare,
    embed_faces,
    embed_speech,
    find_tracks,
    open_expert,
)
from sync.embedding import embed_sound, open_video
from sync.matching import MIN_CONFIDENCE
from terminal import TERMINAL

SHIFTS = range(-10, 11)  # frames


def get_parser() -> cli.Parser:
    parser = cli.Parser("Measure how well an expert recognizes voices, speakers and offsets, on videos in true sync.")
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="The expert: a file, lipsync_expert or demo.")
    add("--data_root", required=True, type=Path, help="The folder with videos, in sync.")
    add("--filelist", type=Path, help="Use only those in this list, one dir/clip or dir per line; without it, all.")
    add("--others", required=True, type=Path, help="The folder with videos of other speakers.")
    add("--clips", type=cli.positive(int), default=40, help="Number of clips to use, at most.")
    arguments.add_search_arguments(parser)
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device, dtype = open_machine(args)
    expert = open_expert(args.checkpoint_path, device, dtype)
    start = time.perf_counter()
    paths = find_clips(args)
    here = {path.resolve() for path in paths}
    others = [embed_speech(path, expert) for path in find_videos([args.others]) if path.resolve() not in here]
    if not others:
        raise UserError(f"--others {args.others} holds no video but the clips themselves; give other speakers")
    clips = [open_clip(path, args, expert) for path in TERMINAL.track(paths, "Embedding", len(paths), "clip")]
    shifted = [[embed_sound([shift(clip.wav, n)], expert) for n in SHIFTS] for clip in clips]

    report("voices", measure_voices(clips, others, expert))
    report("speaking", measure_speaking(clips))
    offsets = [[compare(clip.face, voice) for voice in row] for clip, row in zip(clips, shifted)]
    report("offset", measure_offsets(offsets))
    strangers = [compare(clip.face, voice) for clip in clips for voice in others]
    strangers += [compare(clip.face, other.voice) for clip, other in neighbours(clips)]
    report("verdict", measure_verdict([result for row in offsets for result in row], strangers))
    report("time", {"clips": len(clips), "seconds": time.perf_counter() - start})


# --------------------------------------------------------------------------------------------------------------------
# Clips


@dataclass(frozen=True)
class Clip:
    wav: np.ndarray
    face: Face
    voice: Voice


def find_clips(args: argparse.Namespace) -> list[Path]:
    """Return the listed videos, or all; raise UserError if there are fewer than two."""
    paths = find_videos([args.data_root])
    if args.filelist:
        root = args.data_root.resolve().parent  # data_root's own name may be the speaker's
        listed = [f"/{line.split()[0]}/" for _, line in read_list(args.filelist)]
        places = {path: f"/{path.resolve().relative_to(root).with_suffix('').as_posix()}/" for path in paths}
        paths = [path for path in paths if any(name in places[path] for name in listed)]
    if len(paths) < 2:
        raise UserError(f"{len(paths)} of the listed videos are in {args.data_root}; at least two are needed")
    return paths[: args.clips]


def open_clip(path: Path, args: argparse.Namespace, expert: Expert) -> Clip:
    source, wav = open_video(path), video.read_audio(path, hp.sample_rate)
    voice = embed_sound([wav], expert)
    tracks = find_tracks(source, voice.frames, expert, arguments.face_search(args))
    longest = max(tracks, key=lambda boxes: (~np.isnan(boxes[:, 0])).sum())
    (face,) = embed_faces(source, [longest], expert)
    return Clip(wav, face, voice)


def shift(wav: np.ndarray, frames: int) -> np.ndarray:
    """Delay the sound by ``frames`` video frames (below 0: advance it), padded with silence to the same length."""
    samples = round(frames * hp.sample_rate / hp.fps)
    padding = (samples, 0) if samples > 0 else (0, -samples)
    padded = np.pad(wav, padding)
    return padded[: len(wav)] if samples > 0 else padded[-len(wav) :]


def neighbours(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """Return each clip with the next one."""
    return list(zip(clips, (*clips[1:], clips[0])))


# --------------------------------------------------------------------------------------------------------------------
# Tables


def measure_voices(clips: Sequence[Clip], others: Sequence[Voice], expert: Expert) -> dict[str, float]:
    silent = [embed_sound([np.zeros_like(clip.wav)], expert) for clip in clips]
    voices = {
        "own": [clip.voice for clip in clips],
        "another_sentence": [other.voice for _, other in neighbours(clips)],
        "silence": silent,
        "another_speaker": [others[i % len(others)] for i in range(len(clips))],
    }
    results = {name: [compare(clip.face, voice) for clip, voice in zip(clips, row)] for name, row in voices.items()}
    means = {name: np.array([result.mean for result in row]) for name, row in results.items()}
    figures = {name: float(values.mean()) for name, values in means.items()}
    return figures | {f"auc_{name}": auc(means["own"], means[name]) for name in list(means)[1:]}


def measure_speaking(clips: Sequence[Clip]) -> dict[str, float]:
    """Measure two clips side by side; each is embedded alone, as a neighbour does not change a face's embedding."""
    right = []
    for left, other in neighbours(clips):
        table = SimilarityMatrix(["left", "right"], [left.face, other.face], [left.voice, other.voice])
        right.append([table.best_face(voice) == voice for voice in range(2)])
    return {
        "right_voices": float(np.mean(right)),
        "right_videos": float(np.mean(np.all(right, 1))),
        "videos": len(right),
    }


def measure_offsets(offsets: Sequence[Sequence[Result]]) -> dict[str, float]:
    error = np.abs([[result.offset_frames - n for result, n in zip(row, SHIFTS)] for row in offsets])
    return {
        "exact": float((error == 0).mean()),
        "within_one": float((error <= 1).mean()),
        "clips_within_one": float((error <= 1).all(1).mean()),
        "unshifted_within_one": float((error[:, SHIFTS.index(0)] <= 1).mean()),
        "unshifted_in_sync": float(np.mean([row[SHIFTS.index(0)].verdict == "in sync" for row in offsets])),
    }


def measure_verdict(related: Sequence[Result], strangers: Sequence[Result]) -> dict[str, float]:
    own, other = (np.array([result.confidence for result in row]) for row in (related, strangers))
    candidates = np.unique(np.concatenate((own, other)))
    right = [((own >= c).mean() + (other < c).mean()) / 2 for c in candidates]
    best = int(np.argmax(right))
    return {
        "own_confidence": float(np.median(own)),
        "other_confidence": float(np.median(other)),
        "auc": auc(own, other),
        "best_threshold": float(candidates[best]),
        "right_at_best": float(right[best]),
        "threshold": MIN_CONFIDENCE,
        "own_related": float(np.mean([result.related for result in related])),
        "other_unrelated": float(np.mean([not result.related for result in strangers])),
    }


if __name__ == "__main__":
    sys.exit(main())
