"""Measure how well lips can be predicted from the generator's mel window, on speakers not trained on.

    python -m benchmarks.lips_from_sound --speakers SPEAKERS

SPEAKERS is that of demo/train_checkpoints.sh: <speaker>/<clip>.mp4 with their landmarks.npz. A small network learns by
least squares to predict the distance of the lips from the generator's mel window, of 0.2 s, and from one three times as
long. It is trained on the speakers of the included networks and tested on held-out ones, to show what a generator with
such a window can reach. Prints Pearson's r with the landmarks: mean and median over clips, for all and each speaker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import audio
import cli
from benchmarks import print_machine, report
from dataset.mels import mel_starts
from demo.portrait import lip_distance
from demo.talking_portrait import Corpus, Sentence, list_sentences, open_speaker, read_sound
from errors import UserError
from hparams import hparams as hp
from hparams import read_list

SPLITS = Path(__file__).resolve().parent.parent / "demo" / "splits"
EXTRA_FRAMES = (0, hp.mel_step_size)  # mel frames added before the generator's window, and after it
EPOCHS, BATCH, RATE = 12, 256, 1e-3
CHANNELS, DROPPED = 64, 0.6
MAX_CLIPS = 60  # clips per speaker, so that no voice dominates


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(description="Measure how well lips can be predicted from the sound.")
    parser.add_argument(
        "--speakers", type=Path, required=True, help="The folder with <speaker>/<clip>.mp4 and a landmarks.npz."
    )
    parser.add_argument("--seed", type=cli.seed, default=0, help="The seed of the network.")
    return cli.run(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    print_machine(torch.device("cpu"), torch.float32)
    training_clips = limit_per_speaker(sentences_of(args.speakers, "expert.txt", "judge.txt"))
    training_speakers = {one.who for one in training_clips}
    test_clips = [one for one in sentences_of(args.speakers, "held_out.txt") if one.who not in training_speakers]
    if not test_clips:
        raise UserError(f"{args.speakers} has no speaker who was not trained on; add some of demo/splits/held_out.txt")
    lips = {one.name: lips_of(one) for one in (*training_clips, *test_clips)}
    for extra in EXTRA_FRAMES:
        torch.manual_seed(args.seed)
        heard = {one.name: windows_of(one, len(lips[one.name]), extra) for one in (*training_clips, *test_clips)}
        network = learn(*(np.concatenate([table[one.name] for one in training_clips]) for table in (heard, lips)))
        found = {one.name: correlation(network, heard[one.name], lips[one.name]) for one in test_clips}
        report(f"{(hp.mel_step_size + 2 * extra) / hp.mel_frames_per_second:.1f} s", by_speaker(found))


def sentences_of(speakers: Path, *splits: str) -> list[Sentence]:
    only = [line.split()[0] for split in splits for _, line in read_list(SPLITS / split)]
    return list_sentences(Corpus(None, (speakers,), Path(), only=tuple(only)))


def limit_per_speaker(sentences: Sequence[Sentence]) -> list[Sentence]:
    groups = {one.who: [other for other in sentences if other.who == one.who] for one in sentences}
    return [one for group in groups.values() for one in group[:: -(-len(group) // MAX_CLIPS)]]


def lips_of(sentence: Sentence) -> np.ndarray:
    """Return the distance of the lips in each frame (frames,) float32, standardized within the clip."""
    apart = lip_distance(open_speaker(sentence).landmarks)
    return ((apart - apart.mean()) / apart.std()).astype(np.float32)


def windows_of(sentence: Sentence, frames: int, extra: int) -> np.ndarray:
    """Return the mel window of each frame, (frames, 80, 16 + 2 extra) float32."""
    mel = audio.melspectrogram(read_sound(sentence))
    mel = np.pad(mel, ((0, 0), (extra, extra + hp.mel_step_size)), mode="edge").astype(np.float32)
    starts = np.minimum(mel_starts(np.arange(frames), hp), mel.shape[1] - hp.mel_step_size - 2 * extra)
    return np.stack([mel[:, start : start + hp.mel_step_size + 2 * extra] for start in starts])


def learn(heard: np.ndarray, lips: np.ndarray) -> nn.Module:
    """Train a network from windows (N, 80, T) to distances (N,)."""
    network = nn.Sequential(
        nn.Conv1d(hp.num_mels, CHANNELS, 3), nn.ReLU(), nn.Conv1d(CHANNELS, CHANNELS, 3), nn.ReLU(), nn.Flatten(),
        nn.Dropout(DROPPED), nn.Linear(CHANNELS * (heard.shape[2] - 4), CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 1),
        nn.Flatten(0),
    )  # fmt: skip
    x, y = torch.from_numpy(heard), torch.from_numpy(lips)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def correlation(network: nn.Module, heard: np.ndarray, lips: np.ndarray) -> float:
    return float(np.corrcoef(network(torch.from_numpy(heard)).numpy(), lips)[0, 1])


def by_speaker(found: dict[str, float]) -> dict[str, float]:
    def figures(name: str, values: Sequence[float]) -> dict[str, float]:
        return {f"{name}_mean": float(np.mean(values)), f"{name}_median": float(np.median(values))}

    speakers = {name.partition("/")[0] for name in found}
    table = figures("all", [*found.values()])
    for who in sorted(speakers):
        table |= figures(who, [r for name, r in found.items() if name.startswith(f"{who}/")])
    return table


if __name__ == "__main__":
    sys.exit(main())
