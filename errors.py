"""Errors: bad input from the user, as distinct from faults of this program."""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterator, Sequence

try:
    import cv2
except ImportError as error:  # checked here because nearly everything imports this module and needs OpenCV
    if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
        raise type(error)(
            f"the packages are not installed for {sys.executable}; start .venv/bin/python instead (on Windows "
            r".venv\Scripts\python), or see README.md for how to install them"
        ) from None
    raise type(error)(
        f"OpenCV cannot be loaded ({error}). On a machine without a desktop: apt install libgl1 libglib2.0-0, or "
        "pip uninstall opencv-python and pip install opencv-python-headless"
    ) from None

PYTHON = f'"{sys.executable}"' if " " in sys.executable else sys.executable
PIP = f"{PYTHON} -m pip"  # of this environment; a plain "pip" may belong to another one
OUT_OF_MEMORY = ("MPS backend out of memory", "CUDA error: out of memory")  # as RuntimeError or AcceleratorError
SHARING = (32, 33)  # Windows error codes for a file that another program has open
DISK_ERRORS = {  # as ffmpeg and others say them
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
}
DISK_ERRNOS = tuple(DISK_ERRORS.values())


class UserError(ValueError):
    """Bad input, with one line that says what is wrong and what to do; scripts exit with code 2.

    Any other ValueError, such as one from numpy, is a fault of the program.
    """


class MissingFile(UserError, FileNotFoundError):
    """A file that the user named does not exist."""


@contextlib.contextmanager
def prefix_errors(name: str) -> Iterator[None]:
    """Prefix UserErrors raised in the block with ``name``, if it is not empty."""
    try:
        yield
    except UserError as problem:
        raise UserError(f"{name}: {problem}" if name else problem) from None


class CatchFailure:
    """Context manager for the work on one of many files: stores its error as ``failure``, so that others continue.

    Errors from a full or read-only disk are raised, since the next file would meet them too.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __enter__(self) -> CatchFailure:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, (ValueError, RuntimeError, OSError, cv2.error)) or is_disk_error(error):
            return False
        # the traceback would keep the frames it refers to, tensors included, alive as long as this object
        error.__traceback__ = error.__context__ = error.__cause__ = None
        self.failure = error
        return True

    @property
    def reason(self) -> str:
        """The error in one line; see ``describe_error``."""
        assert self.failure
        return describe_error(self.failure)


def describe_error(error: Exception) -> str:
    """Return an error as one line for the user; a fault of the program is prefixed with its type."""
    text = str(error)
    if "Original Traceback" in text:  # from a data loader's worker: the last line is the error itself
        text = text.strip().splitlines()[-1].partition(": ")[2]
    text = " ".join(text.split())
    if is_out_of_memory(error):
        return f"the device ran out of memory ({text}); try a smaller batch, smaller pictures or --device cpu"
    if isinstance(error, OSError) and getattr(error, "winerror", None) in SHARING:
        name = error.filename2 or error.filename or "a file"  # of two, the second is the existing one
        return f"{name} is open in another program; close it there"
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename} may not be read, or written, by this user; change its permissions"
    if isinstance(error, OSError) and error.strerror:  # leave out the error number
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if is_fault(error) else text


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device ran out of memory, for which torch has an error class that it does not always use."""
    return type(error).__name__ == "OutOfMemoryError" or str(error).startswith(OUT_OF_MEMORY)


def is_fault(error: Exception) -> bool:
    """Return whether an error is probably a fault of the program."""
    return not (isinstance(error, (UserError, RuntimeError, OSError)) and str(error).strip())


def is_bad_input(error: Exception) -> bool:
    """Return whether an error is due to bad input."""
    return isinstance(error, (UserError, PermissionError))


def suggest(name: str, known: Sequence[str], otherwise: str, most: int = 1) -> str:
    """Return a question that suggests the ``known`` names nearest to ``name``, or ``otherwise`` if none is near."""
    near = difflib.get_close_matches(name, known, most)
    return f"is it {' or '.join(near)}?" if near else otherwise


def failure_of_disk(said: str, problem: str) -> OSError | None:
    """Return an error with the text ``problem`` that ``is_disk_error``, if what was said is about a disk; else None."""
    number = next((number for sign, number in DISK_ERRORS.items() if sign in said), None)
    if number is None:
        return None
    error = OSError(problem)
    error.errno = number
    return error


def is_disk_error(error: Exception) -> bool:
    """Return whether the disk is full or read-only, so that the next file would fail too."""
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_ERRNOS or error.errno is None and "written" in str(error)  # numpy's wording


def root_message(error: BaseException) -> str:
    """Return, in one line, the message of the first error in a chain; requests and urllib3 wrap it at length.

    The search stops at an operating system error with a message, since ``mkdir`` meets others on the way.
    """
    while not getattr(error, "strerror", None) and (earlier := error.__cause__ or error.__context__):
        error = earlier
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Wrap imports: if a package is missing, raise a UserError that names the ``extra`` to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed: in the project's folder, {PIP} install -r requirements/{extra}.txt "
            f'(or, if you installed the project with pip, {PIP} install ".[{extra}]")'
        ) from None
