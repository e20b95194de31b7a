"""Live speech: sound comes in from the page's microphone, and frames go out, over plain HTTP.

    GET  /live/TOKEN?rate=48000   endless frames, each a header (``HEAD``), the picture as JPEG, and the sound
    POST /live/TOKEN?taken=25     sound: float32 little-endian, one channel, at that rate; taken: frames received so far

Only the visitor who has prepared a face gets its token.
"""

from __future__ import annotations

import secrets
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import cv2
import numpy as np
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from errors import UserError

if TYPE_CHECKING:  # these import torch
    import live
    from lipsync import LipSync

HEAD = struct.Struct("<dII")  # seconds from the start, bytes of the picture, of the sound (int16 at 16 kHz)
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 85]
BEHIND = 0.45  # seconds of sound that may wait; older sound is dropped
RATES = range(8000, 192001)  # Hz
MAX_DIGITS = 12
MAX_IN_FLIGHT = 8  # frames that may be in transit to a visitor who reports those received; further ones are skipped
MAX_SECONDS = 1800.0  # longest time that one visitor may speak
IDLE_SECONDS = 20.0  # seconds without a frame being received, after which the session ends


@dataclass
class LiveFace:
    """A prepared face, and its live session if it is speaking."""

    lips: LipSync
    face: live.Face
    on_frame: Callable[[], object]  # called for every frame
    session: live.Session | None = None  # while it is speaking
    sent: int = 0  # frames of this session
    received: int | None = None  # frames received, as last reported
    is_live: bool = False  # it is speaking, or about to
    removed: bool = False  # it must not speak any more

    @property
    def is_behind(self) -> bool:
        """Whether the connection is too slow, so that further frames would queue up with a growing delay."""
        return self.received is not None and self.sent - self.received >= MAX_IN_FLIGHT


class LiveFaces:
    """All prepared faces, of which at most ``limit`` speak at the same time."""

    def __init__(self, limit: int) -> None:
        self._limit, self._speaking = limit, 0
        self._faces: dict[str, LiveFace] = {}
        self._lock = threading.Lock()

    def add(self, lips: LipSync, face: live.Face, on_frame: Callable[[], object] = lambda: None) -> str:
        """Add a face and return its token; ``on_frame`` is called for every frame of it."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._faces[token] = LiveFace(lips, face, on_frame)
        return token

    def remove(self, token: str | None) -> None:
        """Remove a face; if it is speaking, it stops."""
        with self._lock:
            live_face = self._faces.pop(token or "", None)
            session = live_face.session if live_face else None
            if live_face:
                live_face.removed = True  # its session may just be opening
        if session:
            session.close()

    def routes(self) -> list[Route]:
        return [
            Route("/live/{token}", self._frames, methods=["GET"]),
            Route("/live/{token}", self._sound, methods=["POST"]),
        ]

    async def _frames(self, request: Request) -> Response:
        live_face = self._faces.get(request.path_params["token"])
        rate = request.query_params.get("rate", "")
        if live_face is None or not live_face.face.source.path.is_file() or number(rate) not in RATES:
            return PlainTextResponse("Prepare a face first.", 404)
        with self._lock:
            if live_face.is_live:
                return PlainTextResponse("Your last talk is still ending; press Talk again.", 503)
            if self._speaking >= self._limit:
                return PlainTextResponse("Somebody else is speaking now; try again in a while.", 503)
            self._speaking += 1
            live_face.is_live = True
        try:
            live_face.session = await anyio.to_thread.run_sync(open_session, live_face, int(rate))
            if live_face.removed:
                live_face.session.close()  # so that it yields no frames
        except BaseException:
            self._end(live_face)
            raise
        return FrameStream(live_face, self._end)

    def _end(self, live_face: LiveFace) -> None:
        with self._lock:
            self._speaking -= 1
        if live_face.session:
            threading.Thread(target=live_face.session.close).start()  # close() waits for the current frame
        live_face.session, live_face.is_live = None, False

    async def _sound(self, request: Request) -> Response:
        live_face = self._faces.get(request.path_params["token"])
        if live_face is None or (session := live_face.session) is None:
            return PlainTextResponse("No session is open.", 404)
        body, taken = await request.body(), request.query_params.get("taken", "")
        if (count := number(taken)) is not None:
            live_face.received = count
        try:
            heard = np.frombuffer(body[: len(body) // 4 * 4], "<f4").astype(np.float32)
            if len(heard):
                await anyio.to_thread.run_sync(session.push, heard)
            else:
                await anyio.to_thread.run_sync(session.end)
        except UserError as problem:
            return PlainTextResponse(str(problem), 400)
        return Response(status_code=204)


class FrameStream(StreamingResponse):
    """Streams the frames of a face as they are due, until the visitor is gone; ``end`` is always called."""

    def __init__(self, live_face: LiveFace, end: Callable[[LiveFace], None]) -> None:
        super().__init__(self._played(live_face), media_type="application/octet-stream")
        self._face, self._end, self._last_sent = live_face, end, time.monotonic()

    async def __call__(self, *connection: Any) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, tasks.cancel_scope)
                await super().__call__(*connection)
                tasks.cancel_scope.cancel()
        finally:  # not in ``_played``, which never starts if the visitor leaves before the first frame
            self._end(self._face)

    async def _watch(self, stream: anyio.CancelScope) -> None:
        """End the stream if the face is removed or no frame is received: sending would block on an open connection."""
        while not self._face.removed and time.monotonic() - self._last_sent < IDLE_SECONDS:
            await anyio.sleep(1)
        stream.cancel()

    async def _played(self, live_face: LiveFace) -> AsyncIterator[bytes]:
        frames = messages(live_face)
        while (message := await anyio.to_thread.run_sync(next, frames, None)) is not None:
            if message:
                self._last_sent = time.monotonic()
                yield message


def number(text: str) -> int | None:
    """Return the whole number that a visitor sent, None if it is not one or has too many digits."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def open_session(live_face: LiveFace, rate: int) -> live.Session:
    import live

    live_face.sent, live_face.received = 0, None
    return live.Session(live_face.lips, live_face.face, rate, BEHIND)


def messages(live_face: LiveFace) -> Iterator[bytes]:
    """Yield the encoded frames of a session as they are due; b"" for those that are skipped."""
    assert live_face.session
    for frame in live_face.session.play():
        if frame.time > MAX_SECONDS:
            return
        live_face.on_frame()
        if live_face.is_behind:
            yield b""
            continue
        picture = cv2.imencode(".jpg", frame.picture, QUALITY)[1].tobytes()
        sound = (frame.sound * 32767).astype("<i2").tobytes()
        live_face.sent += 1
        yield HEAD.pack(frame.time, len(picture), len(sound)) + picture + sound
