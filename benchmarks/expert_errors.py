"""Measure where an expert errs, over all pairs of a face and a voice in the held-out clips.

    python -m benchmarks.expert_errors --checkpoint_path EXPERT --data_root PREPROCESSED [--filelists LISTS]

Prints a table and one JSON object per line. Pairs are weighted by how often evaluations of color_syncnet_train.py draw
them: all clips alike, half of the pairs matched, half of them with the voice of another frame of the clip.

``all``          loss, accuracy (cosine above 0.5 or not), mean cosine of matched and of mismatched pairs
``distance_3`` … mismatched pairs by their distance, from this many frames on: share, accuracy, mean cosine
``level_10`` …   pairs by how far their voice is below the clip's loudest, from this many dB on, matched and mismatched
``errors``       the shares of all errors that no expert could avoid: ``near``, mismatched and at most 3 frames apart;
                 ``silent``, other pairs of which both the face's own voice and the paired one are silent; and the
                 accuracy on all other pairs
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import arguments
import cli
from benchmarks import open_machine, report
from dataset import Clip, Draw, SyncNetDataset
from hparams import FILELISTS, get_image_list
from hparams import hparams as hp
from sync import Expert, open_expert
from terminal import TERMINAL
from training.losses import elementwise_loss

NEAR = 3  # frames, 0.12 s: what viewers do not notice (ITU-R BT.1359: sound 45 ms early to 125 ms late)
SILENT = 30.0  # dB below the loudest window
DISTANCES = (1, 2, 3, 4, 6, 11, 21)  # frames, where each row begins
LEVELS = (0.0, 10.0, 20.0, SILENT)  # dB, where each row begins
BATCH = 64


def get_parser() -> cli.Parser:
    parser = cli.Parser("Measure on which pairs of face and voice an expert errs.")
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="The expert: a file, lipsync_expert or demo.")
    add("--data_root", required=True, type=Path, help="The folder that preprocess.py wrote.")
    add("--filelists", type=Path, default=FILELISTS, help="The folder with the list.")
    add("--split", default="val", help="The name of the list.")
    add("--clips", type=cli.positive(int), default=100, help="Number of clips to use, at most.")
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    device, dtype = open_machine(args)
    expert = open_expert(args.checkpoint_path, device, dtype)
    data = SyncNetDataset(get_image_list(args.data_root, args.split, args.filelists)[: args.clips])
    clips = data.index.clips
    pairs = join([pairs_of(data, clip, expert) for clip in TERMINAL.track(clips, "Embedding", len(clips), "clip")])
    report("all", summary(pairs))
    for name, chosen in rows(pairs).items():
        report(name, accuracy(pairs, chosen))
    report("errors", errors(pairs))


# --------------------------------------------------------------------------------------------------------------------
# Pairs


@dataclass(frozen=True)
class Pairs:
    """All pairs of a face and a voice within a clip, of one clip or several, (pairs,) each."""

    cosine: np.ndarray
    distance: np.ndarray  # frames between the two; 0: matched
    face_level: np.ndarray  # dB, 0 or more, by which the face's own voice is below the clip's loudest
    voice_level: np.ndarray  # the same of the voice that it is paired with
    weight: np.ndarray  # how often an evaluation draws the pair; they sum to 1

    @property
    def matched(self) -> np.ndarray:
        return self.distance == 0

    @property
    def right(self) -> np.ndarray:
        return (self.cosine > 0.5) == self.matched


def pairs_of(data: SyncNetDataset, clip: Clip, expert: Expert) -> Pairs:
    faces, voices, level = embed(data, clip, expert)
    count = len(level)
    distance = np.abs(clip.starts[:, None] - clip.starts)
    weight = np.where(distance == 0, 0.5 / count, 0.5 / (count * (count - 1)))
    face_level, voice_level = np.broadcast_arrays(level[:, None], level)
    cosine = np.clip(faces @ voices.T, 0, 1)
    return Pairs(*(table.ravel() for table in (cosine, distance, face_level, voice_level, weight)))


@torch.inference_mode()
def embed(data: SyncNetDataset, clip: Clip, expert: Expert) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return faces and voices (windows, D) of a clip, and how many dB each voice is below the loudest (windows,)."""
    parameter = next(expert.parameters())
    faces, voices, levels = [], [], []
    for first in range(0, len(clip.starts), BATCH):
        draws = [Draw(clip, int(frame), int(frame), True) for frame in clip.starts[first : first + BATCH]]
        x, mel, _ = (torch.stack(part) for part in zip(*map(data.sample, draws)))
        levels.append(mel.mean((1, 2, 3)))
        faces.append(expert.embed_video(x.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)))
        voices.append(expert.embed_audio(mel.to(parameter.device, parameter.dtype)))
    level = torch.cat(levels) * -hp.min_level_db / (2 * hp.max_abs_value)  # mels are linear in dB
    return torch.cat(faces).cpu().numpy(), torch.cat(voices).cpu().numpy(), (level.max() - level).numpy()


def join(parts: list[Pairs]) -> Pairs:
    columns = {name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    return Pairs(**columns | {"weight": columns["weight"] / len(parts)})


# --------------------------------------------------------------------------------------------------------------------
# Figures


def mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float((values * weight).sum() / weight.sum()) if weight.any() else float("nan")


def accuracy(pairs: Pairs, chosen: np.ndarray) -> dict[str, float]:
    weight = pairs.weight * chosen
    return {
        "share": float(weight.sum()),
        "accuracy": mean(pairs.right, weight),
        "cosine": mean(pairs.cosine, weight),
    }


def summary(pairs: Pairs) -> dict[str, float]:
    loss = elementwise_loss(torch.from_numpy(pairs.cosine), torch.from_numpy(pairs.matched.astype(pairs.cosine.dtype)))
    return {
        "loss": mean(loss.numpy(), pairs.weight),
        "accuracy": mean(pairs.right, pairs.weight),
        "matched": mean(pairs.cosine, pairs.weight * pairs.matched),
        "mismatched": mean(pairs.cosine, pairs.weight * ~pairs.matched),
    }


def rows(pairs: Pairs) -> dict[str, np.ndarray]:
    """Return which pairs belong to each row of the table."""
    table = {}
    for low, high in zip(DISTANCES, (*DISTANCES[1:], np.inf)):
        table[f"distance_{low}"] = (pairs.distance >= low) & (pairs.distance < high)
    for low, high in zip(LEVELS, (*LEVELS[1:], np.inf)):
        at_level = (pairs.voice_level >= low) & (pairs.voice_level < high)
        table[f"level_{low:g}_matched"] = at_level & pairs.matched
        table[f"level_{low:g}_mismatched"] = at_level & ~pairs.matched
    return table


def errors(pairs: Pairs) -> dict[str, float]:
    wrong = pairs.weight * ~pairs.right
    near = ~pairs.matched & (pairs.distance <= NEAR)
    silent = ~near & (np.minimum(pairs.voice_level, pairs.face_level) >= SILENT)
    rest = ~near & ~silent
    return {
        "near": mean(near, wrong),
        "silent": mean(silent, wrong),
        "rest": mean(rest, wrong),
        "pairs_in_rest": mean(rest, pairs.weight),
        "accuracy_of_rest": mean(pairs.right, pairs.weight * rest),
    }


if __name__ == "__main__":
    sys.exit(main())
