"""What users did wrong, told apart from what this program does wrong."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input, with one line that says what is wrong and what to do; scripts end with exit code 2.

    Any other ValueError, of numpy's for example, is a fault of the program.
    """


class MissingFile(UserError, FileNotFoundError):
    """Something that was asked for by name is not there."""
