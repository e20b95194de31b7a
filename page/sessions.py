"""One session per open page: a private folder, and the times of its last requests to stop."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from errors import UserError
from reporting import Advance, Reporter

LOG = logging.getLogger("wav2lip.page")  # for the server; visitors see one sentence
LIP_SYNC, COMPARE, LEARN, LIVE = "lip-sync", "compare", "learn", "live"  # the tabs, each with its own Cancel
KEPT_SECONDS = 3000.0  # for uploads and results; with the time until the next sweep, less than an hour
SWEEP_SECONDS = 300.0
LEFT_SECONDS = 86400.0  # from which on files of adaptations and speeches count as left by a server that was killed


class Stopped(Exception):
    """The visitor asked to stop, or left."""


@dataclass
class Session:
    """One open page."""

    folder: Path
    closed: threading.Event = field(default_factory=threading.Event)  # the page is closed
    cancelled_at: dict[str, float] = field(default_factory=dict)  # monotonic time of the last Cancel, by tab
    last_used: float = field(default_factory=time.monotonic)
    face: str | None = None  # the video or photo given last; "" if it was removed, None if it is not known
    live_face: str | None = None  # likewise, to be prepared for live speech
    token: str | None = None  # of the face that is ready to speak live
    files: tuple[str, ...] = ()  # uploads used last
    files_in_use: list[tuple[str, ...]] = field(default_factory=list)  # uploads used by running actions

    def new_file(self, suffix: str, name: str = "result") -> Path:
        """Return the path of a new file; Gradio copies each result before the next is made."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / f"{name}{suffix}"

    def delete(self) -> None:
        """Delete all files that the session has made."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def use(self, *files: str | None) -> None:
        """Mark the session and these uploads, or else the last ones, as in use, so that they are kept longer."""
        self.files = tuple(filter(None, files)) or self.files
        self.last_used = time.monotonic()
        for file in {*self.files, *itertools.chain.from_iterable(self.files_in_use)}:
            with contextlib.suppress(OSError):
                os.utime(file)

    @contextlib.contextmanager
    def using(self, *files: str | None) -> Iterator[None]:
        """Keep these uploads until the block ends, whatever other actions run meanwhile."""
        in_use = tuple(filter(None, files))
        self.files_in_use.append(in_use)
        try:
            self.use(*in_use)
            yield
        finally:
            self.files_in_use.remove(in_use)

    def raise_if_stopped(self, requested: float, tab: str = LIP_SYNC) -> None:
        """Mark the session as in use; raise Stopped if the action requested at time ``requested`` should stop.

        A Cancel stops all actions requested before it on the same tab, running or waiting, and none requested later.
        """
        self.use()
        if self.closed.is_set() or self.cancelled_at.get(tab, -math.inf) > requested:
            raise Stopped


class Sessions:
    """All open pages, by Gradio's session hash; ``leave`` is called with the token of each that is closed."""

    def __init__(self, leave: Callable[[str | None], object] = lambda token: None) -> None:
        self._leave = leave
        self._root = tempfile.TemporaryDirectory(prefix="wav2lip-page-", ignore_cleanup_errors=True)
        self.folder = Path(self._root.name)
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, name: str | None) -> Session:
        """Return the session of this name, a new one if there is none; raise UserError if there is no name."""
        if not name:  # all clients without a name would share one session
            raise UserError("only the page in a browser can be used")
        with self._lock:
            if name not in self._open:
                self._open[name] = Session(Path(tempfile.mkdtemp(dir=self.folder)))
            session = self._open[name]
            session.last_used = time.monotonic()
            return session

    def close(self, name: str | None) -> None:
        """Stop all actions of a session and delete all files it has made."""
        with self._lock:
            session = self._open.pop(name or "", None)
        self._discard(session)

    def stop(self, name: str | None, tab: str = LIP_SYNC) -> None:
        """Stop a session's actions on a tab, including those still waiting, before which it may not yet exist."""
        if name:
            self.of(name).cancelled_at[tab] = time.monotonic()

    def sweep(self, uploads: Path) -> None:
        """Close sessions not used for ``KEPT_SECONDS``, and delete uploads and results of that age.

        This includes the files of servers that were killed.
        """
        with self._lock:
            unused = [
                name for name, session in self._open.items() if time.monotonic() - session.last_used > KEPT_SECONDS
            ]
            discarded = [self._open.pop(name) for name in unused]
        for session in discarded:
            self._discard(session)
        for folder in {uploads, *uploads.parent.glob("wav2lip-uploads-*"), *self.folder.parent.glob("wav2lip-page-*")}:
            delete_old(folder, KEPT_SECONDS)
        for pattern in ("wav2lip-adapt-*", "wav2lip-mix-*"):  # in use as long as an action takes
            for folder in self.folder.parent.glob(pattern):
                delete_old(folder, LEFT_SECONDS)

    def sweep_always(self, uploads: Path, over: threading.Event) -> None:
        """Sweep now and every few minutes until it is ``over``, whatever goes wrong in one sweep."""
        while True:
            try:
                self.sweep(uploads)
            except Exception:
                LOG.exception("old files could not be deleted")
            if over.wait(SWEEP_SECONDS):
                return

    def _discard(self, session: Session | None) -> None:
        """End a session; not under the lock, because this waits for the frame that is being drawn."""
        if session:
            session.closed.set()
            self._leave(session.token)
            session.delete()


def delete_old(folder: Path, seconds: float) -> None:
    """Delete files last written more than ``seconds`` ago, including those of aborted uploads.

    Folders of other users, which may be in a shared folder for temporary files, are skipped, and links not followed.
    """
    if not _is_ours(folder):
        return
    for place, _, names in os.walk(folder):  # follows no links, and ignores files deleted meanwhile
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(OSError):  # already gone, or open on Windows: left for the next time
                if time.time() - path.lstat().st_mtime > seconds:
                    path.unlink()
                    if path.parent != folder:
                        path.parent.rmdir()


def _is_ours(folder: Path) -> bool:
    try:
        return not folder.is_symlink() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())
    except OSError:  # it is gone
        return False


Show = Callable[[float | None, str], object]  # a fraction from 0 to 1, or None, and a text


class Progress(Reporter):
    """Shows the progress of an action to its session, with rate and remaining time, until the session asks to stop.

    If several stages run at the same time, the one that began last is shown. ``show`` updates Gradio's progress bar;
    ``requested`` is the time of the request (None: now).
    """

    def __init__(self, session: Session, show: Show, requested: float | None = None, tab: str = LIP_SYNC) -> None:
        self.notes: list[str] = []
        self._session, self._show, self._tab = session, show, tab
        self._requested = time.monotonic() if requested is None else requested
        self._stage, self._since, self._before, self._shown = "", 0.0, 0, 0.0
        self._going_on: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "frame", done: int = 0) -> Iterator[Advance]:
        self._going_on.append(name)
        try:
            with super().stage(name, total, unit, done) as advance:
                yield advance
        finally:
            self._going_on.remove(name)

    def raise_if_stopped(self) -> None:
        """Raise Stopped if the visitor asked to stop."""
        self._session.raise_if_stopped(self._requested, self._tab)

    def note(self, text: str) -> None:
        self.raise_if_stopped()
        self.notes.append(text.removeprefix("note: "))

    def progress(self, stage: str, done: int, total: int | None) -> None:
        self.raise_if_stopped()
        if self._going_on and stage != self._going_on[-1]:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._since, self._before, self._shown = stage, now, done, 0.0
        if now - self._shown > 0.2 or done == total:
            self._shown = now
            share = done / total if total else None
            self._show(share, describe(stage, done, total, now - self._since, self._before))


def describe(stage: str, done: int, total: int | None, seconds: float, before: int = 0) -> str:
    """Return how far a stage is, e.g. ``Lip-syncing: 50 of 200, 25 a second, 6 s left``; ``before``: done at start."""
    words = [f"{stage}: {done}" + (f" of {total}" if total else "")]
    if done > before and seconds > 0:
        rate = (done - before) / seconds
        words.append(f"{rate:.0f} a second" if rate >= 1 else f"{1 / rate:.1f} s each")
        if total:
            words.append(f"{in_words((total - done) / rate)} left")
    return ", ".join(words)


def in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def check_length(seconds: float, most: float) -> None:
    """Raise UserError if something lasts longer than this page allows."""
    if seconds > most:
        raise UserError(f"this lasts longer than the {most:.0f} s that the page takes at most; cut it first")


class Learning(Progress):
    """Shows how much of the time for learning has passed."""

    def __init__(
        self, session: Session, show: Show, requested: float | None = None, tab: str = LEARN, *, minutes: float
    ) -> None:
        super().__init__(session, show, requested, tab)
        self._minutes = minutes

    def progress(self, stage: str, done: int, total: int | None) -> None:
        if stage != "Training":
            return super().progress(stage, done, total)
        self.raise_if_stopped()
        if stage != self._stage:
            self._stage, self._since = stage, time.monotonic()
        left = max(0.0, 60 * self._minutes - (time.monotonic() - self._since))
        self._show(1 - left / (60 * self._minutes), f"Learning: {done} steps, {in_words(left)} left")
        return None
