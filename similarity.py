"""Measure how well faces and voices match: the expert's cosine similarity, window by window.

python similarity.py --checkpoint_path EXPERT --face VIDEO [--audio SPEECH …]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import arguments
import cli
import files
import video
from devices import pick_device, pick_precision
from errors import UserError, needs
from sync import measure, open_expert
from sync.drawing import draw, write_overlay
from sync.embedding import open_video
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser("Measure how well voices match the faces in a video.")
    add = parser.add_argument
    add(
        "--checkpoint_path",
        "--syncnet_checkpoint_path",
        type=cli.file_or_name,
        required=True,
        help="The expert: a file, lipsync_expert or demo.",
    )
    add("--face", required=True, type=Path, help="The video, with one or more faces.")
    add(
        "--audio",
        nargs="*",
        action="extend",
        type=Path,
        default=[],
        help="Files with voices. Without it, the sound of the video.",
    )
    add("--json", type=Path, help="Write all figures to this JSON file.")
    add("--csv", type=Path, help="Write time, similarity and box of every window to this CSV file.")
    add("--plot", type=Path, help="Plot similarity over time and over offsets to this file (.png, .pdf or .svg).")
    add("--overlay", type=Path, help="Write the video with boxes coloured by similarity to this file.")
    arguments.add_search_arguments(parser)
    arguments.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    args.audio = files.expanded(args.audio)
    check_arguments(args)
    device = pick_device(args.device)
    open_video(args.face)  # fail early, before the expert is loaded or downloaded
    expert = open_expert(args.checkpoint_path, device, pick_precision(args.precision, device), TERMINAL)
    measured = measure(args.face, args.audio, expert, arguments.face_search(args), TERMINAL)
    print(measured.matrix)
    sounds = args.audio or [args.face]
    if args.json:
        files.save_json(args.json, measured.matrix.to_json())
    if args.csv:
        files.save(args.csv, measured.matrix.to_csv())
    if args.plot:
        draw(args.plot, measured.matrix, sounds)
    if args.overlay:
        write_overlay(args.overlay, measured, sounds[0], TERMINAL)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for bad arguments that argparse cannot detect, before anything is read."""
    inputs = (args.face, *args.audio, Path(args.checkpoint_path))
    outputs = {f"--{name}": getattr(args, name) for name in ("json", "csv", "plot", "overlay")}
    files.check_outputs(outputs, inputs)
    if args.overlay:
        video.check_writable(args.overlay)
    if args.plot and args.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {args.plot} must end in .png, .pdf or .svg")
    if args.plot:
        with needs("eval"):  # fail now, not after measuring
            import matplotlib  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
