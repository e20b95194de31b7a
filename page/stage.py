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
ON_THE_WAY = 8  # frames that may be in transit to a visitor who reports those received; further ones are skipped
MAX_SECONDS = 1800.0  # longest time that one visitor may speak
STANDSTILL = 20.0  # seconds without a frame being received, after which the session ends


@dataclass
class Act:
    """A prepared face, and its live session if it is speaking."""

    lips: LipSync
    face: live.Face
    use: Callable[[], object]  # called for every frame
    session: live.Session | None = None  # while it is speaking
    sent: int = 0  # frames of this session
    taken: int | None = None  # frames received, as last reported
    is_on_stage: bool = False  # it is speaking, or about to
    gone: bool = False  # it must not speak any more

    @property
    def is_behind(self) -> bool:
        """Whether the connection is too slow, so that further frames would queue up with a growing delay."""
        return self.taken is not None and self.sent - self.taken >= ON_THE_WAY


class Stage:
    """All prepared faces, of which at most ``room`` speak at the same time."""

    def __init__(self, room: int) -> None:
        self._room, self._speaking = room, 0
        self._acts: dict[str, Act] = {}
        self._lock = threading.Lock()

    def enter(self, lips: LipSync, face: live.Face, use: Callable[[], object] = lambda: None) -> str:
        """Add a face and return its token; ``use`` is called for every frame of it."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._acts[token] = Act(lips, face, use)
        return token

    def leave(self, token: str | None) -> None:
        """Remove a face; if it is speaking, it stops."""
        with self._lock:
            act = self._acts.pop(token or "", None)
            session = act.session if act else None
            if act:
                act.gone = True  # its session may just be opening
        if session:
            session.close()

    def routes(self) -> list[Route]:
        return [
            Route("/live/{token}", self._frames, methods=["GET"]),
            Route("/live/{token}", self._sound, methods=["POST"]),
        ]

    async def _frames(self, request: Request) -> Response:
        act = self._acts.get(request.path_params["token"])
        rate = request.query_params.get("rate", "")
        if act is None or not act.face.source.path.is_file() or number(rate) not in RATES:
            return PlainTextResponse("Prepare a face first.", 404)
        with self._lock:
            if act.is_on_stage or self._speaking >= self._room:
                return PlainTextResponse("Somebody else is speaking now; try again in a while.", 503)
            self._speaking += 1
            act.is_on_stage = True
        try:
            act.session = await anyio.to_thread.run_sync(open_session, act, int(rate))
            if act.gone:
                act.session.close()  # so that it yields no frames
        except BaseException:
            self._end(act)
            raise
        return Show(act, self._end)

    def _end(self, act: Act) -> None:
        with self._lock:
            self._speaking -= 1
        if act.session:
            threading.Thread(target=act.session.close).start()  # close() waits for the current frame
        act.session, act.is_on_stage = None, False

    async def _sound(self, request: Request) -> Response:
        act = self._acts.get(request.path_params["token"])
        if act is None or (session := act.session) is None:
            return PlainTextResponse("No session is open.", 404)
        body, taken = await request.body(), request.query_params.get("taken", "")
        if (count := number(taken)) is not None:
            act.taken = count
        try:
            heard = np.frombuffer(body[: len(body) // 4 * 4], "<f4").astype(np.float32)
            if len(heard):
                await anyio.to_thread.run_sync(session.push, heard)
            else:
                await anyio.to_thread.run_sync(session.end)
        except UserError as problem:
            return PlainTextResponse(str(problem), 400)
        return Response(status_code=204)


class Show(StreamingResponse):
    """Streams the frames of an act as they are due, until the visitor is gone; ``end`` is always called."""

    def __init__(self, act: Act, end: Callable[[Act], None]) -> None:
        super().__init__(self._played(act), media_type="application/octet-stream")
        self._act, self._end, self._moved = act, end, time.monotonic()

    async def __call__(self, *connection: Any) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, tasks.cancel_scope)
                await super().__call__(*connection)
                tasks.cancel_scope.cancel()
        finally:  # not in ``_played``, which never starts if the visitor leaves before the first frame
            self._end(self._act)

    async def _watch(self, show: anyio.CancelScope) -> None:
        """End the stream if the face is removed or no frame is received: sending would block on an open connection."""
        while not self._act.gone and time.monotonic() - self._moved < STANDSTILL:
            await anyio.sleep(1)
        show.cancel()

    async def _played(self, act: Act) -> AsyncIterator[bytes]:
        frames = messages(act)
        while (message := await anyio.to_thread.run_sync(next, frames, None)) is not None:
            if message:
                self._moved = time.monotonic()
                yield message


def number(text: str) -> int | None:
    """Return the whole number that a visitor sent, None if it is not one or has too many digits."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def open_session(act: Act, rate: int) -> live.Session:
    import live

    act.sent, act.taken = 0, None
    return live.Session(act.lips, act.face, rate, BEHIND)


def messages(act: Act) -> Iterator[bytes]:
    """Yield the encoded frames of a session as they are due; b"" for those that are skipped."""
    assert act.session
    for frame in act.session.play():
        if frame.time > MAX_SECONDS:
            return
        act.use()
        if act.is_behind:
            yield b""
            continue
        picture = cv2.imencode(".jpg", frame.picture, QUALITY)[1].tobytes()
        sound = (frame.sound * 32767).astype("<i2").tobytes()
        act.sent += 1
        yield HEAD.pack(frame.time, len(picture), len(sound)) + picture + sound
