"""The version of this program."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from pathlib import Path

PROJECT = Path(__file__).with_name("pyproject.toml")  # does not exist when installed


def version() -> str:
    """Return the version in pyproject.toml, or of the installed package; "unknown" without either."""
    with contextlib.suppress(OSError):
        project = PROJECT.read_text(encoding="utf-8")
        if found := re.search(r'^name = "wav2lip"\nversion = "(.+)"', project, re.MULTILINE):
            return found[1]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("wav2lip")
    return "unknown"
