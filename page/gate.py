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
Receive = Callable[[], Awaitable[dict[str, Any]]]
FULL = HTTPStatus.INSUFFICIENT_STORAGE, "The disk is full; try again in an hour."


class NoRoom(Exception):
    """The disk is full."""


class Gate:
    """Middleware that refuses at once what Gradio would refuse late, or not at all."""

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Path, largest: int) -> None:
        self.app, self.uploads, self.largest = app, uploads, largest

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Send) -> None:
        scope.setdefault("state", {})["pressed"] = time.monotonic()  # when it came
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            try:
                await self.app(scope, self._while_there_is_room(receive) if _is_upload(scope) else receive, send)
                return
            except NoRoom:  # before the answer has begun, as that takes all of what is sent
                refusal = FULL
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
        if headers.get(b"sec-fetch-site") == b"cross-site":  # a form on a page of somebody else's
            return HTTPStatus.FORBIDDEN, "Only this page may ask for that."
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:  # which the server would obey, whatever the length
            return HTTPStatus.LENGTH_REQUIRED, "Say how long it is."
        if not path.startswith(UPLOAD):
            too_large = int(length) > MESSAGE_BYTES
        elif self._is_full():
            return FULL
        else:
            too_large = int(length) > self.largest + AROUND_FILES
        return (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This is too large.") if too_large else None

    def _is_full(self) -> bool:
        return shutil.disk_usage(self.uploads).free < 2 * self.largest

    def _while_there_is_room(self, receive: Receive) -> Receive:
        """What has been announced takes no room: only what comes does, from however many at a time."""

        async def received() -> dict[str, Any]:
            message = await receive()
            if self._is_full():
                raise NoRoom
            return message

        return received


def _is_upload(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(UPLOAD)
