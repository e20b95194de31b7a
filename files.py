"""Writing files that nobody ever sees half of."""

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

LONGEST_NAME = 255  # bytes, of a file on any common system; Windows and macOS count UTF-16's units
WINDOWS_FORBIDS = frozenset('<>:"|?*')  # in names; after a colon it would write into a stream that nobody sees
PATIENCE = (0.1, 0.3, 1.0)  # seconds between tries
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_write(path: Path, keep: bool = False) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, which replaces ``path`` when the block ends without an error.

    Where that cannot be replaced, the new one is gone, or if it is to be kept, beside it: see ``appear``. Several
    processes may do this at a time; makes the folder. What is no file, such as /dev/null or a pipe, is written
    to as it is: root would replace it by a file, for everybody.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = linked(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(6)}{path.suffix}")
    try:
        yield partial
        (appear if keep else replace)(partial, path)
    except OSError as error:
        if not is_disk_error(error) or str(partial) not in (error.filename or str(partial), error.filename2):
            raise
        number = error.errno or errno.ENOSPC  # numpy gives none
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def linked(path: Path) -> Path:
    """Return the file that is written under this name: where it is a link, perhaps to a larger disk, that stays one.

    Unless it leads to another kind of file, by its suffix.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    return target if target.suffix == path.suffix else path


def appear(partial: Path, path: Path) -> None:
    """Give ``partial`` its name; raise UserError, and keep it beside, where what has that name cannot be replaced."""
    try:
        replace(partial, path)
    except PermissionError as error:  # as on Windows, where another program has it open
        kept = path.with_name(f"{path.stem}-{secrets.token_hex(3)}{path.suffix}")
        replace(partial, kept)
        why = "is it open in another program?" if sys.platform == "win32" else error.strerror
        raise UserError(f"{path} cannot be replaced ({why}); the new one is {kept}") from None


def replace(new: Path, old: Path) -> None:
    """Put ``new`` in the place of ``old``; Windows refuses while others, such as virus scanners, have that open."""
    for seconds in PATIENCE if sys.platform == "win32" else ():
        try:
            os.replace(new, old)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(new, old)


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file ``path`` (.NAME.lock), which appears for as long; make its folder.

    If another process holds it, ``wait`` for that, or raise UserError. However a process ends, its locks end with it.
    File systems that have none do without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
        while not path.exists():  # its last holder deleted what was opened here, and others would lock a new one
            lock.release()
            lock.acquire(timeout=-1 if wait else 0)
    except NotImplementedError:  # a network file system without locks
        pass
    except filelock.Timeout:
        name = path.name.strip(".").removesuffix(".lock")
        raise UserError(f"another process is at work on {name}; wait for its end, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes nothing that is open
            path.unlink(missing_ok=True)
        lock.release()


def digest(path: Path) -> str:
    """Return the SHA-256 of what is in a file."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            total.update(block)
    return total.hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Return the size and the date, in ns, of a file: while they stay, so does what is in it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def known_digest(path: Path) -> str:
    """Return the SHA-256 of what is in a file, which is read once while its stamp stays."""
    return _digest_of(path, stamp(path))


@functools.lru_cache(maxsize=1024)
def _digest_of(path: Path, _: tuple[int, int]) -> str:
    return digest(path)


def read_text(path: Path) -> str:
    """Return what people wrote in an editor of any kind: a byte-order mark is no part of it.

    Raises UserError, which names the file, for one that is not UTF-8.
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
    """Write a file that appears, or is replaced, only when it is complete; make its folder. See ``appear``."""
    with atomic_write(path, keep=True) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def sweep(folder: Path, suffix: str) -> None:
    """Delete what writers that were killed have left of files with this suffix, if nobody else is at work there."""
    for path in folder.glob(f".*{suffix}"):
        if re.fullmatch(r"\.[0-9a-f]{12}", path.stem):
            path.unlink(missing_ok=True)


def sweep_old(folder: Path, names: re.Pattern[str], seconds: float) -> None:
    """Delete files and folders right in ``folder`` that are called so and have not changed for so long."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # somebody else has deleted it, or may alone
            if not names.fullmatch(path.name):
                continue
            if max(part.stat().st_mtime for part in (path, *path.glob("*"))) > time.time() - seconds:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def save_json(path: Path, content: Any) -> None:
    """Write figures as JSON that every reader takes, see ``to_json``."""
    save(path, to_json(content, indent=1))


def to_json(content: Any, indent: int | None = None) -> str:
    """Return JSON in which figures that are no number, or not finite, are null: most readers refuse NaN."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [*map(_finite, content)]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_name(path: Path) -> None:
    """Raise UserError if no disk would take a file of this name."""
    in_bytes = sys.platform not in ("win32", "darwin")
    for part in path.parts:
        size = len(os.fsencode(part)) if in_bytes else len(part.encode("utf-16-le", "surrogatepass")) // 2
        if size > LONGEST_NAME:
            units = "bytes" if in_bytes else "letters"
            raise UserError(f"{part[:20]}… is a name of more than {LONGEST_NAME} {units}; give a shorter one")
        if sys.platform == "win32" and part != path.anchor and (found := WINDOWS_FORBIDS & set(part)):
            if re.match("[A-Za-z]{2,}:", part):
                raise UserError(f"{path} is an address; download it first, and give the file")
            raise UserError(f"{part} has a {min(found)} in it, which Windows takes in no name; give another")


def is_folder(path: Path) -> bool:
    """Whether it is one; raise UserError for a name that no disk would take."""
    check_name(path)
    return path.is_dir()


def check_folder(folder: Path) -> None:
    """Make ``folder``; raise UserError, before any work is done, if it cannot be made or written to."""
    check_name(folder)
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_room(folder)


def check_room(folder: Path) -> None:
    """Raise UserError, before any work is done, if ``folder`` cannot be written to, or made; nothing is made."""
    check_name(folder)
    there = next((place for place in (folder, *folder.parents) if place.exists()), None)
    if there is None:
        raise UserError(f"{folder.anchor or folder} is not there; give a folder on a disk that is")
    trial = there / f".{secrets.token_hex(6)}"
    with _refused(folder):  # not by tempfile, which tries again for hours on Windows
        trial.touch(exist_ok=False)
        trial.unlink()


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    """Say what the disk says of ``folder`` in one sentence."""
    try:
        yield
    except OSError as error:
        if folder.is_file():
            raise UserError(f"{folder} is a file; give the name of a folder") from None
        raise UserError(f"cannot write in {folder}: {error.strerror}") from None


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Raise UserError, before any work is done, for an output, by the flag that names it, that must not be written."""
    inputs = list(inputs)
    for flag, path in outputs.items():
        if path:
            check_not_read(flag, path, inputs)
            if path.is_dir():
                raise UserError(f"{flag} {path} is a folder; give the name of the file to write")
            check_folder(path.parent)
    check_different(outputs)


def check_different(outputs: Mapping[str, Path | None]) -> None:
    """Raise UserError if two of the files to write, by the flags that name them, are one: the last would be left."""
    named: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path and (other := named.setdefault(path.resolve(), flag)) != flag:
            raise UserError(f"{other} and {flag} are the same file, {path}; give two names")


def as_path(given: Any) -> Path:
    """Return the path that a caller means; raise UserError for what is none, such as samples or a picture."""
    try:
        return Path(os.fsdecode(given))
    except TypeError:
        kind = type(given).__name__
        raise UserError(f"a {kind} is no file's name; save what is in it to a file first, and give its name") from None


def as_paths(given: Any) -> list[Path]:
    """Return the paths that a caller means: one, or several."""
    return [as_path(given)] if isinstance(given, (str, bytes, os.PathLike)) else [as_path(path) for path in given]


def expanded(given: Iterable[Path]) -> list[Path]:
    """Return the files of patterns such as ``*.mp4``, which the shell of Windows leaves to programs, sorted."""
    return [match for path in given for match in _matches(path) or [path]]


def _matches(pattern: Path) -> list[Path]:
    if sys.platform != "win32" or os.path.exists(pattern):  # noqa: PTH110  # which takes names that are too long
        return []
    return sorted(map(Path, glob.glob(str(pattern))))


def check_not_read(flag: str, output: Path, inputs: Iterable[Path]) -> None:
    """Raise UserError if the file to write, by the flag that names it, is one of those to read."""
    check_name(output)
    for path in inputs:
        check_name(path)
        if path.exists() and output.exists() and path.samefile(output):
            raise UserError(f"{flag} {output} is one of the files to read; choose another name")
