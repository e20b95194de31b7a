"""Adapt a generator to one person: fine-tune it on a video of them speaking.

python adapt.py --face PERSON.mp4 --outfile person.pth --minutes 10
python inference.py --checkpoint_path person.pth --face PERSON.mp4 --audio SPEECH
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import arguments
import cli
from adaptation import SETTINGS, AdaptationOptions, Adapted, adapt
from models import weights
from terminal import TERMINAL

FIGURES = {  # on held-out frames
    "l1": "difference from the real frames (L1)",
    "detail": "difference in fine detail, which blur removes",
    "judge": "sync loss by the judge",
}


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Adapt a generator to one person, from a video of them speaking.")
    add = parser.add_argument
    add(
        "--face",
        required=True,
        type=Path,
        help="A video with sound in which one person speaks for at least five seconds; a minute is better.",
    )
    add(
        "--outfile",
        required=True,
        type=Path,
        help="The checkpoint to write (.pth, .pt or .ckpt); a contact sheet is saved beside it.",
    )
    add("--minutes", type=cli.positive(float), default=10.0, help="Minutes to train.")
    add(
        "--checkpoint_path",
        type=cli.file_or_name,
        default=weights.DEMO,
        help="The generator to start from: a file, wav2lip, wav2lip_gan or demo.",
    )
    add(
        "--syncnet_checkpoint_path",
        type=cli.file_or_name,
        default=weights.DEMO,
        help="The expert to learn from: a file, lipsync_expert or demo.",
    )
    add(
        "--judge_checkpoint_path",
        type=cli.file_or_name,
        default=weights.JUDGE,
        help="Another expert that only scores the result and takes no part in the training.",
    )
    add(
        "--hparams",
        default="",
        metavar="NAME=VALUE,…",
        help=f"Change settings of hparams.py; adapt.py starts from {SETTINGS}.",
    )
    add("--seed", type=cli.seed, default=0, help="Random seed of the data order.")
    arguments.add_detector_arguments(parser)
    arguments.add_compute_arguments(parser, ("fp32", "bf16"))
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    options = AdaptationOptions(
        minutes=args.minutes,
        checkpoint=args.checkpoint_path,
        expert=args.syncnet_checkpoint_path,
        judge=args.judge_checkpoint_path,
        settings=args.hparams,
        seed=args.seed,
        search=arguments.face_search(args),
        device=args.device,
        precision=args.precision,
    )
    adapted = adapt(args.face, args.outfile, options, TERMINAL)
    print_figures(adapted)
    print(f"{adapted.sheet}: as filmed, before, after")
    start = cli.started("inference.py", "wav2lip")
    flags = cli.quoted("--checkpoint_path", args.outfile, "--face", args.face)
    print(f"{args.outfile}: {start} {flags} --audio SPEECH")
    if adapted.stopped:
        raise KeyboardInterrupt(f"stopped early; {args.outfile} has the best weights so far")


def print_figures(adapted: Adapted) -> None:
    before, after = adapted.before.figures, adapted.after.figures
    for name, words in FIGURES.items():
        if name in after:  # settings may switch a loss off
            print(f"held out, {words}: {before[name]:.4f} before, {after[name]:.4f} after")
    print(f"the judge's sync loss on the real frames: {after['judge_of_real']:.4f}")
    if not adapted.is_better and not adapted.stopped:
        print("warning: training did not help, so the original weights were kept; try more footage or --minutes")


if __name__ == "__main__":
    sys.exit(main())
