"""What users did wrong, told apart from what this program does wrong."""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterator, Sequence

try:
    import cv2
except ImportError as error:  # nearly everything stands on it, and on this module
    raise type(error)(
        f"OpenCV cannot be loaded ({error}). On a machine without a desktop: apt install libgl1 libglib2.0-0, or "
        "pip uninstall opencv-python and pip install opencv-python-headless"
    ) from None

PIP = f"{sys.executable} -m pip"  # of this environment, whatever the one of that name would install into
SHARING = (32, 33)  # Windows' numbers of what another program keeps to itself
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class UserError(ValueError):
    """Bad input, with one line that says what is wrong and what to do; scripts end with exit code 2.

    Any other ValueError, of numpy's for example, is a fault of the program.
    """


class MissingFile(UserError, FileNotFoundError):
    """Something that was asked for by name is not there."""


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Around what is done for one of many: put its ``name``, if it has one, before what the user did wrong."""
    try:
        yield
    except UserError as problem:
        raise UserError(f"{name}: {problem}" if name else problem) from None


class OneOfMany:
    """Around what is done for one of many files: what goes wrong with it is ``failure``, and the others go on.

    A disk that is full or read-only is raised: the next file would meet it too.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __enter__(self) -> OneOfMany:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, (ValueError, RuntimeError, OSError, cv2.error)) or is_disk_error(error):
            return False
        # what it happened in, tensors and all, would stay as long as this
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self.failure = error
        return True

    @property
    def reason(self) -> str:
        """What went wrong, in a line; see ``told``."""
        assert self.failure
        return told(self.failure)


def told(error: Exception) -> str:
    """Return what went wrong in a line for the user; what only says where the program is at fault, with its kind."""
    text = str(error)
    if "Original Traceback" in text:  # from a loader's worker process, whose last line is the error itself
        text = text.strip().splitlines()[-1].partition(": ")[2]
    text = " ".join(text.split())
    if is_out_of_memory(error):
        return f"the device ran out of memory ({text}); try a smaller batch, smaller pictures or --device cpu"
    if isinstance(error, OSError) and getattr(error, "winerror", None) in SHARING:
        name = error.filename2 or error.filename or "a file"  # the second of two is the one that was there
        return f"{name} is open in another program; close it there"
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be read, or written, by this user; change its permissions"
    if isinstance(error, OSError) and error.strerror:  # without its number
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if is_fault(error) else text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device lacks memory: torch has an error for that, which it does not raise of MPS."""
    return type(error).__name__ == "OutOfMemoryError" or str(error).startswith("MPS backend out of memory")


def is_fault(error: Exception) -> bool:
    """Whether it is the program that is at fault, as far as one can know."""
    return not (isinstance(error, (UserError, RuntimeError, OSError)) and str(error).strip())


def is_bad_input(error: Exception) -> bool:
    """Whether it is what the user gave that is at fault."""
    return isinstance(error, (UserError, PermissionError))


def hint_at(name: str, known: Sequence[str], otherwise: str, most: int = 1) -> str:
    """Ask whether the ``known`` names nearest to one that is not known were meant; ``otherwise`` where none is near."""
    near = difflib.get_close_matches(name, known, most)
    return f"is it {' or '.join(near)}?" if near else otherwise


def is_disk_error(error: Exception) -> bool:
    """Whether the disk is full or read-only, which the next file would meet too."""
    if not isinstance(error, OSError):
        return False
    return error.errno in OF_DISKS or error.errno is None and "written" in str(error)  # how numpy puts it


def reason_of(error: BaseException) -> str:
    """Return, in one line, what the first error said: those of requests and urllib3 repeat it with all they know.

    One of the system's, with words of its own, is what matters: ``mkdir`` meets others on the way.
    """
    while not getattr(error, "strerror", None) and (earlier := error.__cause__ or error.__context__):
        error = earlier
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports: where a package is missing, raise UserError that says which ``extra`` of ours brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed: in the project's folder, {PIP} install -r requirements/{extra}.txt "
            f"(or, if you installed the project with pip, {PIP} install '.[{extra}]')"
        ) from None
