"""A page in the browser: lip-sync, similarity, learning a person, and live speech, with what is dropped or recorded.

python app.py
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

import arguments
import cli
import faces
from page.serving import serving
from page.settings import Settings
from terminal import TERMINAL


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Serve a page to lip-sync in.")
    add = parser.add_argument
    add("--server_name", default="127.0.0.1", help="Listen at this address; 0.0.0.0 lets other machines in.")
    add("--server_port", type=cli.positive(int), default=7860, help="Listen at this port.")
    add("--share", action="store_true", help="Let anybody in through a tunnel of Gradio's, which hands files on.")
    add("--checkpoint_path", help=arguments.GENERATOR)
    add("--syncnet_checkpoint_path", default="demo", help="The expert that compares faces and voices.")
    add("--max_seconds", type=cli.positive(float), default=600.0, help="Take speech of so many seconds at most.")
    add("--max_megabytes", type=cli.positive(int), default=500, help="Take files of so many megabytes at most.")
    add("--max_minutes", type=cli.positive(float), default=15.0, help="Learn a person for so many minutes at most.")
    add("--concurrency", type=cli.positive(int), default=1, help="Work for so many visitors at the same time.")
    add("--max_live", type=cli.positive(int), default=1, help="Let so many visitors speak live at the same time.")
    add("--face_detector", choices=faces.NAMES, default="auto", help="Look for faces by this detector.")
    arguments.add_identity_argument(parser)
    arguments.add_generation_arguments(parser)
    arguments.add_credentials_argument(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    door = (args.server_name, args.server_port, args.share, args.max_megabytes)
    with serving(settings_of(args), *door) as (address, page):
        print(f"{address} is open; Ctrl-C closes it", flush=True)
        page.buttons.actions  # noqa: B018  # what cannot be loaded ends it
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)  # on Windows, Ctrl-C does not end a wait without an end


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
