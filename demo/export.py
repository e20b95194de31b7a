"""Turn training checkpoints into one for inference: their mean in half precision, without the optimizer.

python -m demo.export generator GENERATOR/checkpoint_step00000[89]*.pth demo/checkpoints/generator.pth
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

import audio
import cli
import mouths
import runtimes
from errors import UserError
from lipsync import OPTION_CHOICES, read_speech
from models import SyncNet_color, Wav2Lip, weights

FACES, EVERY = 4, 2  # number of faces with shut mouths; stride through the 25 mel windows a second
NETWORKS = {"expert": SyncNet_color, "generator": Wav2Lip}


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Write a small checkpoint: the mean of others, float16, without the optimizer.")
    parser.add_argument("network", choices=NETWORKS, help="What the checkpoints hold.")
    parser.add_argument("sources", nargs="+", type=Path, help="The last checkpoints of a training run, or only one.")
    parser.add_argument("target", type=Path, help="The file to write.")
    parser.add_argument("--pads", nargs=4, type=int, help="The default of inference.py's --pads with this checkpoint.")
    parser.add_argument("--blend", choices=OPTION_CHOICES["blend"], help="The default of --blend.")
    parser.add_argument("--reference", choices=weights.REFERENCES, help="The default of --reference.")
    parser.add_argument(
        "--gain",
        type=cli.positive(float),
        help="Scale the movement of its mouths by this factor, in addition to --mouth_gain.",
    )
    parser.add_argument(
        "--speech",
        nargs="+",
        type=Path,
        help="Fit from these sounds how far it opens mouths, for --reference matching, and note how loud they are.",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    check_target(args.target)
    checkpoint = average([weights.read_checkpoint(path, NETWORKS[args.network]) for path in args.sources])
    settings = {name: value for name in weights.INFERENCE_SETTINGS if (value := getattr(args, name, None)) is not None}
    if args.speech:
        heard = [read_speech(path, Fraction(25)) for path in args.speech]
        settings["opening"] = learn_opening(checkpoint, heard, args.gain or checkpoint.gain)
        levels = [audio.loudness_of(one.spectrogram.up_to(len(one.spectrogram))) for one in heard]
        settings["loudness"] = float(np.median([level for level in levels if level is not None]))
    weights.export(checkpoint, args.target, **settings)
    print(f"{args.target}: width {checkpoint.width:g}, {args.target.stat().st_size / 1e6:.1f} MB")


def average(checkpoints: Sequence[weights.Checkpoint]) -> weights.Checkpoint:
    """Return the mean of several stages of one training run, steadier than each (Izmailov et al., UAI 2018).

    Raises UserError if they differ in width, ``mask_top`` or ``mel_lead``.
    """
    if len({checkpoint.width for checkpoint in checkpoints}) > 1:
        raise UserError("only checkpoints of the same width can be averaged: stages of one training run")
    for name in ("mask_top", "mel_lead"):
        if len({getattr(checkpoint, name) for checkpoint in checkpoints}) > 1:
            raise UserError(f"only checkpoints with the same {name} can be averaged: stages of one training run")
    first, *rest = checkpoints
    state = {name: sum((c.state[name].double() for c in rest), value.double()) for name, value in first.state.items()}
    state = {name: (value / len(checkpoints)).to(first.state[name].dtype) for name, value in state.items()}
    return replace(first, state=state)


def check_target(path: Path) -> None:
    """Raise UserError if a training checkpoint would be overwritten, as when no target is given after ``*.pth``."""
    if path.exists() and "global_step" in weights.read_state(path):
        raise UserError(f"{path} is a training checkpoint and would be overwritten; give another target, last")


def learn_opening(checkpoint: weights.Checkpoint, heard: list[audio.MelWindows], gain: float) -> list[float]:
    """Fit how far the generator opens shut mouths as a function of the speech: see ``Wav2Lip.opening``."""
    model = weights.build(checkpoint, Wav2Lip)
    faces = runtimes.calibration_faces()
    faces = faces[mouths.open_lips(model, faces).argsort()[:FACES]]
    mels = np.stack([windows[i] for windows in heard for i in range(0, len(windows), EVERY)])
    return mouths.fit_opening(model, mels, faces, gain)


if __name__ == "__main__":
    sys.exit(main())
