"""Measure how many training samples per second one core reads from disk, against the reference's way in turn.

    python -m benchmarks.dataset [--seconds 60] [--data_root PREPROCESSED]

For every sample the reference lists the folder, opens the wav, resamples it if it is not at 16 kHz (the synthetic ones
are), computes the whole mel, and reads five (expert) or ten (generator) frames. Both make the same samples. Prints a
table and one JSON object per line: ``expert_samples`` and ``generator_samples``; ``ratio`` is the median of the rounds.
"""

from __future__ import annotations

import argparse
import glob
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import librosa
import numpy as np
import torch
from scipy import signal
from threadpoolctl import threadpool_limits

import cli
from benchmarks import report
from dataset import Draw, SyncNetDataset, Wav2LipDataset, WindowDataset
from demo.talking_head import Recipe, write_speech
from errors import UserError
from hparams import hparams as hp

ROUNDS = 5
ROUND_SECONDS = 1.0  # for each way in each round
CLIPS = 4
FACE = (130, 160)  # pixels, width and height of the synthetic crops


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure how fast training samples are read, on one core.")
    parser.add_argument(
        "--data_root", type=Path, help="The folder with preprocessed clips, at any depth; without it, synthetic ones."
    )
    parser.add_argument(
        "--seconds", type=cli.positive(float), default=3.0, help="Length of the synthetic clips in seconds."
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        if args.data_root:
            clips = sorted(path.parent for path in args.data_root.rglob("0.jpg"))
            if not clips:
                raise UserError(f"no preprocessed clips (folders with 0.jpg, 1.jpg, ...) below {args.data_root}")
        else:
            clips = [write_clip(Path(folder, str(i)), args.seconds, seed=i) for i in range(CLIPS)]
        report("expert_samples", measure(SyncNetDataset(clips), expert_sample_plainly))
        report("generator_samples", measure(Wav2LipDataset(clips), generator_sample_plainly))


def write_clip(folder: Path, seconds: float, seed: int) -> Path:
    """Write ``seconds`` of a moving colour gradient and of babble, as preprocessing would leave them."""
    folder.mkdir()
    write_speech(folder / "audio.wav", Recipe(seed=seed, seconds=seconds))
    across, down = np.meshgrid(np.linspace(0, 255, FACE[0]), np.linspace(0, 255, FACE[1]))
    for i in range(round(seconds * hp.fps)):
        channels = [across, down, (across + down) / 2 + 20 * np.sin(i / 5)]
        cv2.imwrite(str(folder / f"{i}.jpg"), np.clip(np.dstack(channels), 0, 255).astype(np.uint8))
    return folder


def measure(dataset: WindowDataset, plainly: Callable[[Draw], tuple[torch.Tensor, ...]]) -> dict[str, float]:
    """Return median samples per second of ``dataset`` and of ``plainly`` for the same draws, in turn."""
    pairs = zip(dataset[0], plainly(dataset.draw(0)))
    difference = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    rounds = [(rate(dataset.__getitem__), rate(lambda key: plainly(dataset.draw(key)))) for _ in range(ROUNDS)]
    ours, theirs = zip(*rounds)
    return {
        "ratio": statistics.median(fast / slow for fast, slow in rounds),
        "samples_per_second": statistics.median(ours),
        "plain_samples_per_second": statistics.median(theirs),
        "clips": len(dataset),
        "seconds_per_clip": statistics.mean(len(clip.windows) for clip in dataset.index.clips) / hp.fps,
        "largest_difference": difference,
    }


def rate(make_sample: Callable[[int], object]) -> float:
    """Return the samples per second over ROUND_SECONDS."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() < start + ROUND_SECONDS:
        make_sample(count)
        count += 1
    return count / (time.perf_counter() - start)


# --------------------------------------------------------------------------------------------------------------------
# The reference's way, without its random choices and retries


def expert_sample_plainly(draw: Draw) -> tuple[torch.Tensor, ...]:
    list_frames(draw.clip.folder)
    window = read_window(draw.clip.folder, draw.frame if draw.positive else draw.wrong)
    mel = read_mel(draw.clip.folder)
    x = (np.concatenate(window, axis=2) / 255.0).transpose(2, 0, 1)
    x = x[:, x.shape[1] // 2 :]
    y = torch.full((1,), float(draw.positive))
    return torch.FloatTensor(x), torch.FloatTensor(crop_mel(mel, draw.frame).T).unsqueeze(0), y


def generator_sample_plainly(draw: Draw) -> tuple[torch.Tensor, ...]:
    list_frames(draw.clip.folder)
    window = read_window(draw.clip.folder, draw.frame)
    wrong_window = read_window(draw.clip.folder, draw.wrong)
    mel = read_mel(draw.clip.folder)
    first = draw.frame - hp.mel_lead
    indiv_mels = np.asarray([crop_mel(mel, i).T for i in range(first, first + hp.syncnet_T)])
    masked = (np.asarray(window) / 255.0).transpose(3, 0, 1, 2)
    y = masked.copy()
    masked[:, :, masked.shape[2] // 2 :] = 0.0
    x = np.concatenate([masked, (np.asarray(wrong_window) / 255.0).transpose(3, 0, 1, 2)], axis=0)
    mels = torch.FloatTensor(indiv_mels).unsqueeze(1), torch.FloatTensor(crop_mel(mel, draw.frame).T).unsqueeze(0)
    return torch.FloatTensor(x), *mels, torch.FloatTensor(y)


def list_frames(folder: str) -> list[str]:
    """List the frames, as the reference does for its random choice (here the draw has made it)."""
    return glob.glob(f"{folder}/*.jpg")


def read_window(folder: str, frame: int) -> list[np.ndarray]:
    size = (hp.img_size, hp.img_size)
    pictures: Iterator[Any] = (cv2.imread(f"{folder}/{i}.jpg") for i in range(frame, frame + hp.syncnet_T))
    return [cv2.resize(picture, size) for picture in pictures]


def read_mel(folder: str) -> np.ndarray:
    """Compute the whole mel (mel frames, num_mels) from audio.wav."""
    wav = librosa.load(f"{folder}/audio.wav", sr=hp.sample_rate)[0]
    wav = signal.lfilter([1, -hp.preemphasis], [1], wav)
    spectrum = librosa.stft(y=wav, n_fft=hp.n_fft, hop_length=hp.hop_size, win_length=hp.win_size, pad_mode="reflect")
    amplitude = np.dot(MEL_BASIS, np.abs(spectrum))
    decibels = 20 * np.log10(np.maximum(np.exp(hp.min_level_db / 20 * np.log(10)), amplitude)) - hp.ref_level_db
    scaled = 2 * hp.max_abs_value * ((decibels - hp.min_level_db) / -hp.min_level_db) - hp.max_abs_value
    return np.clip(scaled, -hp.max_abs_value, hp.max_abs_value).T


# the reference computes it once, too
MEL_BASIS = librosa.filters.mel(sr=hp.sample_rate, n_fft=hp.n_fft, n_mels=hp.num_mels, fmin=hp.fmin, fmax=hp.fmax)


def crop_mel(mel: np.ndarray, frame: int) -> np.ndarray:
    start = int(hp.mel_frames_per_second * (frame / hp.fps))
    return mel[start : start + hp.mel_step_size]


if __name__ == "__main__":
    sys.exit(main())
