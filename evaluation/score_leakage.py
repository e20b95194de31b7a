"""Lip-sync videos to silence, and tell how much their mouths move nevertheless: what leaks from the source.

python evaluation/score_leakage.py --face TALK.mp4 --results_dir OUT [--checkpoint_path wav2lip_gan]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cli
import files
from errors import UserError
from evaluation.leakage import silent_take
from evaluation.quality import Quality, score_file
from evaluation.score_quality import add_judge_arguments, open_judges, publish
from evaluation.scores import attempt
from footage import find_videos
from lipsync import REFERENCES, LipSync


def get_parser() -> cli.Parser:
    parser = cli.Parser("Lip-sync videos to silence, and tell how much their mouths move nevertheless.")
    add = parser.add_argument
    add("--face", required=True, nargs="+", type=Path, help="Videos of people who speak, or folders with them.")
    add("--results_dir", required=True, type=Path, help="The folder for the silent videos.")
    add("--checkpoint_path", help="The generator: a file, wav2lip or wav2lip_gan; without it, the one that is here.")
    add("--silence", choices=("free", "closed"), default="free", help="What lips do in pauses, see inference.py.")
    add(
        "--reference",
        choices=REFERENCES,
        help="What the network sees of the face, see inference.py; without it, its own choice.",
    )
    add_judge_arguments(parser)
    add("--json", type=Path, help="Write all figures to this file.")
    add("--csv", type=Path, help="Write all figures to this file, one line a video.")
    cli.add_search_arguments(parser)
    cli.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    videos = find_videos(args.face)
    if len({path.stem for path in videos}) < len(videos):
        raise UserError("two of the videos have one name; give them in two runs, with a --results_dir each")
    files.check_outputs({"--json": args.json, "--csv": args.csv}, videos)
    files.check_folder(args.results_dir)
    asked, search = open_judges(args), cli.face_search(args)
    compute = {"device": args.device, "precision": args.precision}
    lips = LipSync(args.checkpoint_path, search=search, report=cli.TERMINAL, **compute)
    lips.load()  # what would spoil every video fails here, before any work is done
    options = {"silence": args.silence, "reference": args.reference}
    scores: list[Quality] = []
    failed: dict[str, str] = {}

    def score(path: Path) -> Quality:
        made = silent_take(lips, path, args.results_dir, **options)
        return score_file(made, path, search, cli.TERMINAL, asked, lips.generator.pads)

    for path in cli.TERMINAL.track(videos, "Listening to nothing", len(videos), "video"):
        if one := attempt(partial(score, path), path, failed):
            scores.append(one)
    publish(args, scores, failed)


if __name__ == "__main__":
    sys.exit(main())
