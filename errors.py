"""What users did wrong, told apart from what this program does wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


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


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports: where a package is missing, raise UserError that says which ``extra`` of ours brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed: in the project's folder, pip install -r requirements/{extra}.txt "
            f"(or, if you installed the project with pip, pip install '.[{extra}]')"
        ) from None
