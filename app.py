"""A page in the browser: lip-sync, similarity, learning a person, and live speech, with what is dropped or recorded.

python app.py
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cli
from errors import UserError, needs
from page.settings import Settings


def get_parser() -> cli.Parser:
    parser = cli.Parser(description="Serve a page to lip-sync in.")
    add = parser.add_argument
    add("--server_name", default="127.0.0.1", help="Listen at this address; 0.0.0.0 lets other machines in.")
    add("--server_port", type=cli.positive(int), default=7860, help="Listen at this port.")
    add("--share", action="store_true", help="Let anybody in through a tunnel of Gradio's, which hands files on.")
    add("--checkpoint_path", help="The generator: a file, wav2lip or wav2lip_gan; without it, ours.")
    add("--syncnet_checkpoint_path", default="demo", help="The expert that compares faces and voices.")
    add("--max_seconds", type=cli.positive(float), default=600.0, help="Take speech of so many seconds at most.")
    add("--max_megabytes", type=cli.positive(int), default=500, help="Take files of so many megabytes at most.")
    add("--max_minutes", type=cli.positive(float), default=15.0, help="Learn a person for so many minutes at most.")
    add("--concurrency", type=cli.positive(int), default=1, help="Work for so many visitors at the same time.")
    add("--max_live", type=cli.positive(int), default=1, help="Let so many visitors speak live at the same time.")
    add("--face_detector", choices=cli.faces.NAMES, default="auto", help="Look for faces by this detector.")
    cli.add_compute_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return cli.run(get_parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    with serving(args) as (address, page):
        print(f"{address} is open; Ctrl-C closes it", flush=True)
        page.buttons.actions  # noqa: B018  # what cannot be loaded ends it
        while True:
            time.sleep(1)  # on Windows, Ctrl-C does not end a wait without an end


@contextlib.contextmanager
def serving(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Serve the page inside of the ``with`` block; yield its address and the ``layout.Page``."""
    with tempfile.TemporaryDirectory(prefix="wav2lip-uploads-", ignore_cleanup_errors=True) as uploads:
        # before Gradio is imported; it asks nobody for anything
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        layout = import_layout()
        page, over = layout.Page(settings_of(args)), threading.Event()
        blocks = page.build()
        launch(args, blocks, layout, page.server(Path(uploads), args.max_megabytes << 20))
        page.start(Path(uploads), over)
        try:
            yield f"http://{args.server_name}:{args.server_port}", page
        finally:
            over.set()
            blocks.close()


def launch(args: argparse.Namespace, blocks: Any, layout: ModuleType, server: dict[str, Any]) -> None:
    try:
        blocks.launch(
            server_name=args.server_name,
            server_port=args.server_port,
            share=args.share,
            max_file_size=args.max_megabytes << 20,
            app_kwargs=server,
            theme=layout.theme(),
            css=layout.CSS,
            head=layout.head(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"port {args.server_port} cannot be had; give another --server_port ({error})") from error


def import_layout() -> ModuleType:
    """Import what needs Gradio, which the rest of the project does without."""
    try:
        with needs("app"):
            from page import layout
    except ImportError as error:  # it is there, but beside what does not fit it
        raise UserError(f"the page's packages do not fit together ({error}); install them anew") from error
    return layout


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(
        args.checkpoint_path,
        args.syncnet_checkpoint_path,
        args.face_detector,
        args.device,
        args.precision,
        args.max_seconds,
        args.max_minutes,
        args.concurrency,
        args.max_live,
    )


if __name__ == "__main__":
    sys.exit(main())
