"""Start and stop the page's server."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from errors import UserError, needs

from .settings import Settings

if TYPE_CHECKING:
    from .layout import Page

VISITORS = 300  # whose state Gradio keeps, 0.2 MB of each, also when they have left; its default is 10000


@contextlib.contextmanager
def serving(
    settings: Settings,
    server_name: str = "127.0.0.1",
    server_port: int = 7860,
    share: bool = False,
    max_megabytes: int = 500,
) -> Iterator[tuple[str, Page]]:
    """Serve the page inside the ``with`` block; yield its address and the page.

    Files of up to ``max_megabytes`` are accepted; ``share`` makes the page public through Gradio's tunnel. Raises
    UserError if Gradio is missing or the port is taken.
    """
    check_address(server_name, server_port)  # before networks are loaded
    with (
        tempfile.TemporaryDirectory(prefix="wav2lip-uploads-", ignore_cleanup_errors=True) as uploads,
        # set before Gradio is imported, so that it contacts no other machine
        environment(GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1"),
    ):
        host = f"[{server_name}]" if ":" in server_name else server_name  # of IPv6
        layout = import_layout()
        page, over, most = layout.Page(settings), threading.Event(), max_megabytes << 20
        blocks = page.build()
        server = page.server(Path(uploads), most)
        launch(blocks, layout, host, server_port, share=share, max_file_size=most, app_kwargs=server)
        page.start(Path(uploads), over)
        try:
            yield f"http://{host}:{server_port}", page
        finally:
            over.set()
            blocks.close()


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Change the environment inside the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ |= changes
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def check_address(server_name: str, server_port: int) -> None:
    """Raise UserError if nothing can be served there."""
    family = socket.AF_INET6 if ":" in server_name else socket.AF_INET
    try:
        socket.create_server((server_name, 0), family=family).close()
    except OSError as error:
        raise UserError(f"--server_name {server_name} is not an address of this machine ({error})") from error
    try:
        socket.create_server((server_name, server_port), family=family).close()
    except OSError as error:
        raise UserError(f"port {server_port} cannot be used ({error.strerror}); give another --server_port") from error


def launch(blocks: Any, layout: ModuleType, server_name: str, server_port: int, **how: Any) -> None:
    try:
        blocks.launch(
            server_name=server_name,
            server_port=server_port,
            theme=layout.theme(),
            css=layout.CSS,
            head=layout.head(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            state_session_capacity=VISITORS,
            quiet=True,
            prevent_thread_lock=True,
            **how,
        )
    except OSError as error:
        raise UserError(f"the page cannot be served at {server_name}:{server_port} ({error})") from error


def import_layout() -> ModuleType:
    """Import the layout, which needs Gradio; the rest of the project does not."""
    try:
        with needs("app"):
            from . import layout
    except ImportError as error:  # Gradio is installed, but with incompatible packages
        raise UserError(f"the page's packages do not fit together ({error}); reinstall them") from error
    return layout
