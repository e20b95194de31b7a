"""Atomic writes, locks, digests and path checks: files are never seen half-written."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from errors import UserError, is_disk_error

LONGEST_NAME = 255  # bytes in a file name on common systems; UTF-16 code units on Windows and macOS
WINDOWS_FORBIDS = frozenset('<>:"|?*')  # in names; with a colon, it would write to a hidden stream of another file
MAX_WHOLE, SAMPLES, SAMPLE_BYTES = 64 << 20, 64, 1 << 20  # bytes; of ``sampled_digest``
RETRY_DELAYS = (0.1, 0.3, 1.0)  # seconds between attempts
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(path: Path, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which replaces ``path`` if the block ends without an error.

    If ``path`` cannot be replaced, the new file is deleted, or with ``keep`` left beside it: see ``publish``. Creates
    the folder; several processes may do this at once. Special files such as /dev/null or a pipe are written to
    directly, since root would otherwise replace them with a regular file for all users.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = resolve_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(6)}{path.suffix}")
    try:
        yield partial
        (publish if keep else replace)(partial, path)
    except OSError as error:
        if not is_disk_error(error) or str(partial) not in (error.filename or str(partial), error.filename2):
            raise
        number = error.errno or errno.ENOSPC  # numpy gives none
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def resolve_link(path: Path) -> Path:
    """Return the file to write for this name: the target of a symbolic link, so that the link is kept.

    A link to a file with another suffix is not followed.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    return target if target.suffix == path.suffix else path


def publish(partial: Path, path: Path) -> None:
    """Rename ``partial`` to ``path``; if that cannot be replaced, keep it under another name and raise UserError."""
    try:
        replace(partial, path)
    except PermissionError as error:  # as on Windows, where another program has it open
        kept = path.with_name(f"{path.stem}-{secrets.token_hex(3)}{path.suffix}")
        replace(partial, kept)
        why = "is it open in another program?" if sys.platform == "win32" else error.strerror
        raise UserError(f"{path} cannot be replaced ({why}); the new one is {kept}") from None


def replace(new: Path, old: Path) -> None:
    """Replace ``old`` with ``new``; retry on Windows, where virus scanners and others may have ``old`` open."""
    for seconds in RETRY_DELAYS if sys.platform == "win32" else ():
        try:
            os.replace(new, old)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(new, old)


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock on the file ``path`` (.NAME.lock), which exists only meanwhile; creates its folder.

    If another process holds it, ``wait`` for that, or raise UserError. A process's locks end with it, however it ends.
    On file systems without locks, this does nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
        while not path.exists():  # its last holder deleted the file opened here; others would lock a new one
            lock.release()
            lock.acquire(timeout=-1 if wait else 0)
    except NotImplementedError:  # a network file system without locks
        pass
    except filelock.Timeout:
        name = path.name.strip(".").removesuffix(".lock")
        raise UserError(f"another process is working on {name}; wait for it to end, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot delete open files
            path.unlink(missing_ok=True)
        lock.release()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            total.update(block)
    return total.hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and modification time in ns; while they stay the same, so does its content."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def cached_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, cached until its stamp changes."""
    return _digest_of(path, stamp(path))


def sampled_digest(path: Path) -> str:
    """Return a digest of a file's content, cached likewise; of a large file, that of its stamp and of samples.

    Films of gigabytes take minutes to read from a slow disk.
    """
    size, _ = seen = stamp(path)
    return _digest_of(path, seen) if size <= MAX_WHOLE else _samples_of(path, seen)


@functools.lru_cache(maxsize=1024)
def _samples_of(path: Path, stamp: tuple[int, int]) -> str:
    size, _ = stamp
    total = hashlib.sha256(repr(stamp).encode())
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            total.update(file.read(SAMPLE_BYTES))
    return total.hexdigest()


@functools.lru_cache(maxsize=1024)
def _digest_of(path: Path, _: tuple[int, int]) -> str:
    return digest(path)


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark, which some editors add.

    Raises UserError, naming the file, if it is not UTF-8.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        kind = " but UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else " text"
        raise UserError(f"{path} is not UTF-8{kind}; open it in an editor and save it with the encoding UTF-8")
    return text


def save(path: Path, content: str | bytes) -> None:
    """Write a file atomically; creates its folder. See ``atomic_write`` and ``publish``.

    Text is written as UTF-8, with escapes for what is none: names of files need not be.
    """
    with atomic_write(path, keep=True) as partial:
        partial.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def remove_leftovers(folder: Path, suffix: str) -> None:
    """Delete temporary files with this suffix that killed writers left; call it only when no other process writes."""
    for path in folder.glob(f".*{suffix}"):
        if re.fullmatch(r"\.[0-9a-f]{12}", path.stem):
            path.unlink(missing_ok=True)


def remove_old(folder: Path, names: re.Pattern[str], seconds: float) -> None:
    """Delete files and folders directly in ``folder`` that match ``names`` and have not changed for ``seconds``."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # already deleted, or owned by another user
            if not names.fullmatch(path.name):
                continue
            if max(part.stat().st_mtime for part in (path, *path.glob("*"))) > time.time() - seconds:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def save_json(path: Path, content: Any) -> None:
    """Write figures as JSON that every reader accepts; see ``to_json``."""
    save(path, to_json(content, indent=1))


def to_json(content: Any, indent: int | None = None) -> str:
    """Return JSON in which NaN and infinities are null, since most readers reject them."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [*map(_finite, content)]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_name(path: Path) -> None:
    """Raise UserError if no file system accepts this name."""
    in_bytes = sys.platform not in ("win32", "darwin")
    for part in path.parts:
        size = len(os.fsencode(part)) if in_bytes else len(part.encode("utf-16-le", "surrogatepass")) // 2
        if size > LONGEST_NAME:
            units = "bytes" if in_bytes else "letters"
            raise UserError(f"{part[:20]}… is a name of more than {LONGEST_NAME} {units}; give a shorter one")
        if sys.platform == "win32" and part != path.anchor and (found := WINDOWS_FORBIDS & set(part)):
            if re.match("[A-Za-z]{2,}:", part):
                raise UserError(f"{path} is an address; download it first, and give the file")
            raise UserError(f"{part} has a {min(found)} in it, which Windows does not allow; give another")


def is_folder(path: Path) -> bool:
    """Return whether ``path`` is a folder; raise UserError for a name that no file system accepts."""
    check_name(path)
    return path.is_dir()


def check_folder(folder: Path) -> None:
    """Create ``folder``; raise UserError, before any work is done, if it cannot be created or written to."""
    check_name(folder)
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable_folder(folder)


def check_writable_folder(folder: Path) -> None:
    """Raise UserError, before any work is done, if ``folder`` cannot be written to or created; does not create it."""
    check_name(folder)
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if there is None:
        raise UserError(f"{folder.anchor or folder} does not exist; give a folder on a disk that does")
    trial = there / f".{secrets.token_hex(6)}"
    with _refused(folder):  # not with tempfile, which retries for hours on Windows
        trial.touch(exist_ok=False)
        trial.unlink()


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Turn OSErrors about ``folder`` into UserErrors."""
    try:
        yield
    except OSError as error:
        if folder.is_file():
            raise UserError(f"{folder} is a file; give the name of a folder") from None
        raise UserError(f"cannot write in {folder}: {error.strerror}") from None


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Raise UserError, before any work is done, if an output (by flag) is also an input, a folder, or not writable."""
    inputs, named = list(inputs), dict[Path, str]()
    for flag, path in outputs.items():
        if path:
            check_not_input(flag, path, inputs)
            if (other := named.setdefault(path.resolve(), flag)) != flag:  # only the last would remain
                raise UserError(f"{other} and {flag} are the same file, {path}; give two names")
            if path.is_dir():
                raise UserError(f"{flag} {path} is a folder; give the name of the file to write")
            check_folder(path.parent)


def as_path(given: Any) -> Path:
    """Convert a caller's argument to a path; raise UserError for other objects, such as samples or a picture."""
    try:
        return Path(os.fsdecode(given))
    except TypeError:
        kind = type(given).__name__
        raise UserError(f"a {kind} is not a file name; save its content to a file first, and give its name") from None


def as_paths(given: Any) -> list[Path]:
    """Convert a caller's argument, one path or several, to a list of paths."""
    return [as_path(given)] if isinstance(given, (str, bytes, os.PathLike)) else [as_path(path) for path in given]


def expanded(given: Iterable[Path]) -> list[Path]:
    """Expand patterns such as ``*.mp4``, which the shell on Windows does not expand, to sorted files."""
    return [match for path in given for match in _matches(path) or [path]]


def _matches(pattern: Path) -> list[Path]:
    if sys.platform != "win32" or os.path.exists(pattern):  # noqa: PTH110  # which takes names that are too long
        return []
    return sorted(map(Path, glob.glob(str(pattern))))


def check_not_input(flag: str, output: Path, inputs: Iterable[Path]) -> None:
    """Raise UserError if an output (by flag) is one of the inputs."""
    check_name(output)
    for path in inputs:
        check_name(path)
        if path.exists() and output.exists() and path.samefile(output):
            raise UserError(f"{flag} {output} is one of the files to read; choose another name")
