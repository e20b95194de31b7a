"""Serve a page for the browser: lip-sync, similarity, adapting to a person and live speech, from uploads or recordings.

python app.py
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

import arguments
import cli
from page.serving import serving
from page.settings import Settings
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Serve a page for lip-syncing in the browser.")
    add = parser.add_argument
    add("--server_name", default="127.0.0.1", help="Listen on this address; 0.0.0.0 lets other machines in.")
    add("--server_port", type=cli.port, default=7860, help="Listen on this port.")
    add(
        "--share", action="store_true", help="Publish the page through Gradio's tunnel; all traffic passes its servers."
    )
    add("--checkpoint_path", type=cli.file_or_name, help=arguments.GENERATOR)
    add(
        "--syncnet_checkpoint_path",
        type=cli.file_or_name,
        default="demo",
        help="The expert that compares faces and voices in the tab for that.",
    )
    amount, count = cli.positive(float), cli.positive(int)
    add(
        "--max_seconds",
        type=amount,
        default=Settings.max_seconds,
        help="Longest speech, and longest video that is compared, learned from or redone in part, in seconds.",
    )
    add("--max_megabytes", type=count, default=500, help="Largest accepted upload, in megabytes.")
    add("--max_minutes", type=amount, default=Settings.max_minutes, help="Longest training on a person, in minutes.")
    add("--concurrency", type=count, default=Settings.runs, help="Number of visitors whose jobs may run at once.")
    add("--max_live", type=count, default=Settings.live, help="Number of visitors who may use live speech at once.")
    arguments.add_detector_argument(parser)
    arguments.add_identity_argument(parser)
    arguments.add_generation_arguments(parser)
    arguments.add_credentials_argument(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    where = (args.server_name, args.server_port, args.share, args.max_megabytes)
    with serving(settings_of(args), *where) as (address, page):
        print(f"serving at {address}; Ctrl-C stops it", flush=True)
        page.buttons.wait_until_loaded()  # raises if a network cannot be loaded
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)  # on Windows, Ctrl-C does not interrupt an unlimited wait


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(
        checkpoint=args.checkpoint_path,
        expert=args.syncnet_checkpoint_path,
        detector=args.face_detector,
        identity=args.identity,
        restorer=args.restorer,
        credentials=args.credentials,
        device=args.device,
        precision=args.precision,
        runtime=args.runtime,
        batch_size=args.wav2lip_batch_size,
        max_seconds=args.max_seconds,
        max_minutes=args.max_minutes,
        runs=args.concurrency,
        live=args.max_live,
        report=TERMINAL,
    )


if __name__ == "__main__":
    sys.exit(main())
