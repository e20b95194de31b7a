"""Score how well lips and voice match in finished videos: LSE-D, LSE-C and offset of every face in every file.

python evaluation/score_lse.py --data_root VIDEOS [--crop_faces]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file: the modules of the project are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import arguments
import cli
from devices import pick_device
from evaluation import flags
from evaluation.lse import open_judge
from evaluation.scores import score_files
from footage import find_videos
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser("Score videos: LSE-D (smaller is better), LSE-C (larger is better), offset in frames.")
    add = parser.add_argument
    add("--data_root", required=True, nargs="+", type=Path, help="Videos, or folders with videos at any depth.")
    add(
        "--checkpoint_path",
        type=cli.file_or_name,
        default="syncnet_v2",
        help="The judge, SyncNet_v2: a file, or syncnet_v2 to download it.",
    )
    add(
        "--crop_faces",
        action="store_true",
        help="Track and crop faces first, as real videos need. Without it, whole frames are scored as faces.",
    )
    flags.add_table_arguments(parser)
    arguments.add_search_arguments(parser)
    add("--device", default="auto", help="Compute on this device: auto, cpu, cuda, cuda:N or mps.")
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    videos = find_videos(args.data_root)
    flags.check_tables(args, videos)
    network = open_judge(args.checkpoint_path, pick_device(args.device), TERMINAL)
    scores = score_files(videos, network, arguments.face_search(args) if args.crop_faces else None, TERMINAL)
    print(scores)
    scores.save(args.json, args.csv)
    scores.check()


if __name__ == "__main__":
    sys.exit(main())
