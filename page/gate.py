"""A gate before Gradio's server: only requests that the page itself needs pass, with bodies of limited size."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.formparsers import MultiPartException

# Gradio would also pass screen recordings to ffmpeg, store a session's values for a link to it, and fetch URLs. A tab
# uses ``app_id`` to reconnect after its connection was lost.
ALLOWED_PATHS = re.compile(
    r"/(?:$|(?:assets|static|svelte|live)/|(?:config|favicon\.ico|theme\.css|manifest\.json|robots\.txt)/?$"
    r"|gradio_api/(?:(?:upload|upload_progress|queue/join|queue/data|cancel|reset|startup-events|info|app_id|theme\.css)/?$"
    r"|(?:file=|heartbeat/)))"
)
FOREIGN_FILE_PATHS = re.compile(r"/gradio_api/file=\w{2,}:")  # a file of another server, or one of ours as a file: URL
UPLOAD = "/gradio_api/upload"
MESSAGE_BYTES = 1 << 20  # largest body of other requests: values of components, and live sound
FORM_OVERHEAD_BYTES = 1 << 16  # bytes of a form besides its files

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
DISK_FULL = HTTPStatus.INSUFFICIENT_STORAGE, "The disk is full; try again in an hour."


class DiskFull(MultiPartException):
    """The disk is full. As a MultiPartException, it makes the form parser delete what it has already written."""


class Gate:
    """Middleware that refuses early what Gradio would refuse late, or not at all."""

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Path, largest: int) -> None:
        self.app, self.uploads, self.largest = app, uploads, largest

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Send) -> None:
        scope.setdefault("state", {})["requested"] = time.monotonic()  # time of arrival
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None and not _is_upload(scope):
            await self.app(scope, receive, send)
        elif refusal is None:
            upload = _Upload(receive, send, self._is_full)
            with contextlib.suppress(DiskFull):
                await self.app(scope, upload.receive, upload.send)
            refusal = DISK_FULL if upload.is_refused else None
        if refusal:
            await _refuse(send, *refusal)

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        path, method = scope["path"], scope["method"]
        if not ALLOWED_PATHS.match(path) or FOREIGN_FILE_PATHS.match(path):
            return HTTPStatus.NOT_FOUND, "There is nothing here."
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        headers = dict(scope["headers"])
        if headers.get(b"sec-fetch-site") == b"cross-site":  # a form on another site
            return HTTPStatus.FORBIDDEN, "Only this page may send this request."
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # which would override the length
            return HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing."
        if not path.startswith(UPLOAD):
            too_large = int(length) > MESSAGE_BYTES
        elif self._is_full():
            return DISK_FULL
        else:
            too_large = int(length) > self.largest + FORM_OVERHEAD_BYTES
        return (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is too large.") if too_large else None

    def _is_full(self) -> bool:
        return shutil.disk_usage(self.uploads).free < 2 * self.largest


class _Upload:
    """Checks the free disk space at every chunk: many uploads may run, and announced sizes reserve no space."""

    def __init__(self, receive: Receive, send: Send, is_full: Callable[[], bool]) -> None:
        self._receive, self._send, self._is_full = receive, send, is_full
        self.is_refused = False

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if self._is_full():
            self.is_refused = True
            raise DiskFull("the disk is full")
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """Send the app's answer, unless the gate sends its own."""
        if not self.is_refused:
            await self._send(message)


async def _refuse(send: Send, status: HTTPStatus, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


def _is_upload(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(UPLOAD)
