"""Whoever has the page open: a folder each that nobody else is told of, and a wish to stop what is running."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from errors import UserError
from reporting import Reporter

KEPT_SECONDS = 3600.0  # of what a session has made


class Stopped(Exception):
    """The user has asked to stop, or is gone."""


@dataclass
class Session:
    """One open page."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    used: float = field(default_factory=time.monotonic)

    def new_file(self, suffix: str) -> Path:
        """Name a file that is not there yet; the page has each result copied before the next is made."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / f"result{suffix}"


class Sessions:
    """All open pages, by what Gradio calls them."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="wav2lip-page-", ignore_cleanup_errors=True)
        self.folder = Path(self._root.name)
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Session:
        """Return the session of this name, and forget those that have not been used for an hour."""
        with self._lock:
            for old in [n for n, s in self._open.items() if time.monotonic() - s.used > KEPT_SECONDS and n != name]:
                self._forget(old)
            if name not in self._open:
                self._open[name] = Session(Path(tempfile.mkdtemp(dir=self.folder)))
            session = self._open[name]
            session.used = time.monotonic()
            return session

    def close(self, name: str) -> None:
        """Stop what a session runs and delete all it has made."""
        with self._lock:
            self._forget(name)

    def stop(self, name: str) -> None:
        with self._lock:
            if session := self._open.get(name):
                session.stop.set()

    def _forget(self, name: str) -> None:
        if session := self._open.pop(name, None):
            session.stop.set()
            shutil.rmtree(session.folder, ignore_errors=True)


class Progress(Reporter):
    """Shows what goes on to one session, with its rate and the time that is left, until that asks to stop.

    ``show`` takes a share from 0 to 1, or None, and words, as Gradio's progress bars do.
    """

    def __init__(self, session: Session, show: object) -> None:
        self.notes: list[str] = []
        self._session, self._show = session, show
        self._stage, self._since, self._shown = "", 0.0, 0.0

    def note(self, text: str) -> None:
        self.notes.append(text.removeprefix("note: "))

    def progress(self, stage: str, done: int, total: int | None) -> None:
        if self._session.stop.is_set():
            raise Stopped
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._since, self._shown = stage, now, 0.0
        if now - self._shown > 0.2 or done == total:
            self._shown = now
            share = done / total if total else None
            self._show(share, describe(stage, done, total, now - self._since))


def describe(stage: str, done: int, total: int | None, seconds: float) -> str:
    """Say how far a stage is, e.g. ``Lip-syncing: 50 of 200, 25 a second, 6 s left``."""
    words = [f"{stage}: {done}" + (f" of {total}" if total else "")]
    if done and seconds > 0:
        rate = done / seconds
        words.append(f"{rate:.0f} a second" if rate >= 1 else f"{1 / rate:.1f} s each")
        if total:
            words.append(f"{(total - done) / rate:.0f} s left")
    return ", ".join(words)


def check_length(seconds: float, most: float) -> None:
    """Raise UserError if something lasts longer than this page allows."""
    if seconds > most:
        raise UserError(f"this lasts {seconds:.0f} s, and the page takes {most:.0f} s at most; cut it first")
