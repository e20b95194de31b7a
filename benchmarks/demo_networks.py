"""Measure the networks in demo/checkpoints on drawn heads and utterances that they were not trained on.

    python -m benchmarks.demo_networks

Makes clips of talking heads, lip-syncs each to another utterance, and prints, as a table and as JSON lines:

expert, judge   mean similarity per clip of each network (the judge is an expert with another seed, from which no
                generator learned): of a video with its own sound, with another, lip-synced to the other; AUCs
aperture        how closely the mouth's opening in generated frames follows the articulation of the driving speech: r by
                lag, and the error by phase, see evaluation/aperture.py
offsets         share of clips made off-sync by -5 … 5 frames whose offset is found
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

import cli
import video
from benchmarks import auc, print_machine, report
from demo.talking_head import Recipe, make_clip
from errors import UserError
from evaluation.aperture import compare_head
from evaluation.table import phase_row
from faces import FaceSearch
from lipsync import LipSync
from models import weights
from sync import Expert, Face, Voice, measure, open_expert, score
from sync import compare as compare_pair
from sync.embedding import MAX_OFFSET

CLIPS = Recipe(seed=100, seconds=4.0)
OFFSETS = range(-5, 6)
SEARCH = FaceSearch("centerface")
COLUMNS, HEIGHT = 10, 150  # of the contact sheet: moments, pixels of a frame


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Measure the included networks on drawn heads.")
    add = parser.add_argument
    add("--checkpoint_path", default=weights.DEMO, help="The generator to measure.")
    add("--syncnet_checkpoint_path", default=weights.DEMO, help="The expert that compares faces and voices.")
    add("--judge", default=weights.JUDGE, help="An expert that no generator learned from.")
    add("--clips", type=int, default=50, help="Number of clips of talking heads, two of each head.")
    add("--offset_clips", type=cli.positive(int), default=5, help="Number of clips at each offset.")
    add("--folder", type=Path, default=Path("results/demo_networks"), help="Put the clips into this folder.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if args.clips < 2:
        raise UserError(f"--clips must be 2 or more, not {args.clips}: each head's two clips exchange their speech")
    print_machine(torch.device("cpu"), torch.float32)
    names = {"expert": args.syncnet_checkpoint_path, "judge": args.judge}
    networks = {name: open_expert(path) for name, path in names.items()}
    measure_heads(args, networks)


def measure_heads(args: argparse.Namespace, networks: dict[str, Expert]) -> None:
    """Measure similarities, apertures and offsets on drawn heads, whose true values are known."""
    originals = [make_clip(args.folder / "original", CLIPS, i) for i in range(args.clips // 2 * 2)]
    partners = [i ^ 1 for i in range(len(originals))]  # the same head's other utterance
    generated = [lip_sync(args, f"generated/{i}", originals[i], originals[j]) for i, j in enumerate(partners)]
    for name, network in networks.items():
        report(name, compare(network, originals, generated, partners))
    report("aperture", follow_aperture(originals, generated, partners))
    for name, network in networks.items():
        report(f"offsets_{name}", find_offsets(args, network))
    cv2.imwrite(str(args.folder / "heads.png"), contact_sheet(originals[:6], generated[:6]))


def lip_sync(args: argparse.Namespace, name: str, face: Path, speech: Path) -> Path:
    """Lip-sync ``face`` to the sound of ``speech``; return the file, whose name begins with ``name``.

    ``name`` must be unique: videos of two people may have the same file name, as in LRS2, where names are numbers.
    """
    outfile = args.folder / f"{name}_{face.stem}_{speech.stem}.mp4"
    _generator(args.checkpoint_path).run(face, speech, outfile)
    return outfile


@lru_cache(maxsize=1)
def _generator(path: str) -> LipSync:
    return LipSync(path, search=SEARCH, device="cpu", precision="fp32")


# --------------------------------------------------------------------------------------------------------------------
# Similarity


@dataclass(frozen=True)
class Embedded:
    """The face of a video that is seen longest, and its sound."""

    face: Face
    voice: Voice


def embed(network: Expert, clip: Path) -> Embedded:
    matrix = measure(clip, [], network, SEARCH).matrix
    return Embedded(max(matrix.faces, key=lambda face: len(face.starts)), matrix.voices[0])


def compare(
    network: Expert, originals: Sequence[Path], generated: Sequence[Path], partners: Sequence[int]
) -> dict[str, float]:
    """Return mean similarities of matched, mismatched and generated pairs, and the AUCs between them."""
    clips = [embed(network, clip) for clip in originals]
    made = [embed(network, clip).face for clip in generated]
    own = [compare_pair(clip.face, clip.voice) for clip in clips]
    other = [compare_pair(clips[i].face, clips[j].voice) for i, j in enumerate(partners)]
    synced = [compare_pair(face, clips[j].voice) for face, j in zip(made, partners)]
    means = [np.array([result.mean for result in results]) for results in (own, other, synced)]
    return {
        **dict(zip(("matched", "mismatched", "lip_synced"), (float(m.mean()) for m in means))),
        # where a generator trained as in the reference scores best: its lips are a frame early at inference
        "lip_synced_sound_1_late": float(np.mean([result.curve[MAX_OFFSET + 1] for result in synced])),
        "auc": auc(means[0], means[1]),
        "auc_lip_synced": auc(means[2], means[1]),
        "own_offset_right": float(np.mean([abs(result.offset_frames) <= 1 for result in own])),
        "lip_synced_offset": float(np.median([result.offset_frames for result in synced])),
        "clips": len(clips),
    }


def find_offsets(args: argparse.Namespace, network: Expert) -> dict[str, float]:
    """Return the share of off-sync clips whose offset is found exactly, and within one frame."""
    errors = []
    for offset in OFFSETS:
        recipe = replace(CLIPS, seed=200 + offset, offset=offset, clips_per_head=1)
        paths = map(partial(make_clip, args.folder / f"offset{offset:+d}", recipe), range(args.offset_clips))
        errors += [score(path, network, search=SEARCH).offset_frames - offset for path in paths]
    distance = np.abs(errors)
    return {"exact": float((distance == 0).mean()), "within_1": float((distance <= 1).mean()), "clips": len(errors)}


# --------------------------------------------------------------------------------------------------------------------
# Aperture


def follow_aperture(originals: Sequence[Path], generated: Sequence[Path], partners: Sequence[int]) -> dict[str, float]:
    """Return the correlation of the aperture in generated frames with the true one of the driving speech."""
    rows = zip(generated, originals, partners)
    fits = [compare_head(made, clip, originals[partner]) for made, clip, partner in rows]
    fits = [fit for fit in fits if fit]
    mean = {lag: float(np.mean([fit.by_lag[lag] for fit in fits])) for lag in fits[0].by_lag}
    best = max(mean, key=mean.__getitem__)
    worst = min(fit.by_lag[best] for fit in fits)
    by_lag = {f"r_lag_{lag:+d}": value for lag, value in mean.items()}
    return {"r": mean[best], "best_lag": best, "r_worst_clip": worst, **by_lag, **phase_row(fits), "clips": len(fits)}


# --------------------------------------------------------------------------------------------------------------------
# Pictures


def contact_sheet(before: Sequence[Path], after: Sequence[Path]) -> np.ndarray:
    """Return frames of each video above the same frames of its lip-synced copy."""
    rows = []
    for clip in (path for pair in zip(before, after) for path in pair):
        frames = list(video.read_frames(video.probe(clip)))
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, COLUMNS).astype(int)]
        scale = HEIGHT / chosen[0].shape[0]
        rows.append(np.hstack([cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for f in chosen]))
    width = min(row.shape[1] for row in rows)
    return np.vstack([row[:, :width] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
