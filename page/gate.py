"""What of Gradio's server anybody may ask for: what the page itself needs, and no bodies without an end."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

# Gradio would also take screen recordings to ffmpeg, keep the values of a session for a link to it, and fetch URLs
OPEN = re.compile(
    r"/(?:$|(?:assets|static|svelte|live)/|(?:config|favicon\.ico|theme\.css|manifest\.json|robots\.txt)/?$"
    r"|gradio_api/(?:(?:upload|upload_progress|queue/join|queue/data|cancel|reset|startup-events|info|theme\.css)/?$"
    r"|(?:file=|heartbeat/)))"
)
ELSEWHERE = re.compile(r"/gradio_api/file=\w{2,}:")  # another server's file, or ours as a file:
UPLOAD = "/gradio_api/upload"
MESSAGE_BYTES = 1 << 20  # of what is no upload: choices, and sound of somebody who speaks live
AROUND_FILES = 1 << 16  # bytes of a form around its files

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Gate:
    """Middleware that refuses at once what Gradio would refuse late, or not at all."""

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Path, largest: int) -> None:
        self.app, self.uploads, self.largest = app, uploads, largest
        self._incoming = 0  # bytes of the uploads that are on their way

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Send) -> None:
        scope.setdefault("state", {})["pressed"] = time.monotonic()  # when it came
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            length = _upload_bytes(scope)
            self._incoming += length
            try:
                await self.app(scope, receive, send)
            finally:
                self._incoming -= length
            return
        status, words = refusal
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": words.encode()})

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        path, method = scope["path"], scope["method"]
        if not OPEN.match(path) or ELSEWHERE.match(path):
            return HTTPStatus.NOT_FOUND, "There is nothing here."
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # which the server would obey, whatever the length
            return HTTPStatus.LENGTH_REQUIRED, "Say how long it is."
        if not path.startswith(UPLOAD):
            too_large = int(length) > MESSAGE_BYTES
        elif shutil.disk_usage(self.uploads).free - self._incoming < 2 * self.largest:
            return HTTPStatus.INSUFFICIENT_STORAGE, "The disk is full; try again in an hour."
        else:
            too_large = int(length) > self.largest + AROUND_FILES
        return (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is too large.") if too_large else None


def _upload_bytes(scope: Scope) -> int:
    """Return how many bytes a request that was let in will put on the disk."""
    is_upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(UPLOAD)
    return int(dict(scope["headers"])[b"content-length"]) if is_upload else 0
