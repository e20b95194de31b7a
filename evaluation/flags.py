"""Flags shared by several scripts of the evaluation, and what is made from them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import arguments
import cli
import files
from devices import own_device, pick_device
from errors import MissingFile
from evaluation.judges import NETWORKS, Judges, open_judges
from lipsync import LipSync, Options
from terminal import TERMINAL, terminal_for_rank


def add_generator_arguments(parser: cli.Parser, pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
    """Add the flags of scripts that make videos; ``pads`` is the default of the reference's script."""
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="The folder that the names of the list are relative to.")
    add("--results_dir", required=True, type=Path, help="The folder for the videos; finished ones in it are kept.")
    add(
        "--checkpoint_path",
        type=cli.file_or_name,
        required=True,
        help="The generator: a file, demo (the included one), wav2lip or wav2lip_gan.",
    )
    add(
        "--pads",
        nargs=4,
        type=int,
        default=list(pads),
        help="Pixels added to the box of the face: top bottom left right.",
    )
    arguments.add_batch_argument(parser)
    arguments.add_mouth_arguments(parser.add_argument_group("the mouth"))
    arguments.add_search_arguments(parser)
    arguments.add_compute_arguments(parser)


def open_generator(args: argparse.Namespace) -> LipSync:
    """Return the generator that the flags select, on this process's own device."""
    if not args.data_root.is_dir():
        raise MissingFile(f"--data_root {args.data_root} is not a folder")
    return LipSync(
        args.checkpoint_path,
        search=arguments.face_search(args),
        device=own_device(args.device),
        precision=args.precision,
        batch_size=args.wav2lip_batch_size,
        report=terminal_for_rank(),
    )


def generator_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the flags give, for ``LipSync.run``; raise UserError if they are invalid."""
    options = {"pads": args.pads, **arguments.mouth_options(args)}
    Options.of(options)
    return options


def add_judge_arguments(parser: cli.Parser) -> None:
    for name, kind in NETWORKS.items():
        parser.add_argument(
            f"--{name}",
            type=cli.file_or_name,
            metavar="WEIGHTS",
            help=f"Measure {', '.join(kind.figures)} with {kind.how}.",
        )


def judge_weights(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the values of the flags of ``add_judge_arguments``, by judge."""
    return {name: getattr(args, name) for name in NETWORKS}


def judges_of(args: argparse.Namespace) -> Judges:
    return open_judges(pick_device(args.device), TERMINAL, **judge_weights(args))


def add_table_arguments(parser: cli.Parser) -> None:
    parser.add_argument("--json", type=Path, help="Write all figures to this file.")
    parser.add_argument("--csv", type=Path, help="Write all figures to this file, one line each.")


def check_tables(args: argparse.Namespace, read: list[Path]) -> None:
    """Raise UserError, before any work is done, if a table would overwrite an input or cannot be written.

    The inputs are ``read`` and all other paths on the command line, such as networks.
    """
    others = {name: value for name, value in vars(args).items() if name not in ("json", "csv")}
    read = [*read, *(Path(value) for value in others.values() if value and isinstance(value, (str, Path)))]
    files.check_outputs({"--json": args.json, "--csv": args.csv}, read)
