"""The paper's evaluation in one go: list, videos, scores, one table beside the paper's.

    python evaluation/run_all.py --data_root VIDEOS --results_dir OUT --checkpoint_path wav2lip_gan

Everything it makes is kept in the results folder and reused by the next run. ``--takes matched silent`` also lip-syncs
every video to its own sound and to silence, for the figures that need these.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
from evaluation import flags
from evaluation.protocol import TAKES, evaluate, list_takes, open_panel
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser("Draw pairs, lip-sync them, score the videos: sync, pictures, and what leaks from the source.")
    add = parser.add_argument
    flags.add_generator_arguments(parser)
    add("--filelist", type=Path, help="The list of pairs, sound first; without it, they are drawn at random.")
    add("--count", type=cli.positive(int), help="Number of pairs to draw; without it, one for every video.")
    add("--seed", type=cli.seed, default=0, help="Random seed of the pairs.")
    add(
        "--takes",
        nargs="*",
        choices=TAKES,
        default=[],
        help="Also lip-sync every video to its own sound (matched: psnr, ssim, lpips, lmd, discrepancy) and to silence "
        "(silent: motion, leak).",
    )
    add(
        "--lse_checkpoint_path",
        type=cli.file_or_name,
        default="syncnet_v2",
        help="The judge of LSE: a file, or syncnet_v2 to download it.",
    )
    add("--fid_weights", default="fid_inception", help="The judge of FID: a file, or fid_inception to download it.")
    add("--no_fid", action="store_true", help="Leave FID out.")
    flags.add_judge_arguments(parser)
    add("--crop_faces", action="store_true", help="Track and crop faces first, as LSE of real videos needs.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    lips, options = flags.open_generator(args), flags.generator_options(args)
    # errors in the list are reported before anything is downloaded
    takes = list_takes(args.data_root, args.results_dir, args.filelist, args.count, args.seed, args.takes, lips.report)
    fid_weights = None if args.no_fid else args.fid_weights
    panel = open_panel(lips.device, lips.report, args.lse_checkpoint_path, fid_weights, **flags.judge_weights(args))
    found = evaluate(lips, takes, args.results_dir, panel, args.crop_faces, TERMINAL, **options)
    if not found:
        print("other processes are still running; the last one to finish scores the videos")
        return
    print(found)
    found.check()


if __name__ == "__main__":
    sys.exit(main())
