"""Which version this is."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

PROJECT = Path(__file__).with_name("pyproject.toml")  # not there where it is installed


def version() -> str:
    """Return the version of these files, or of the package that they were installed as."""
    if not PROJECT.is_file():
        return importlib.metadata.version("wav2lip")
    return re.findall(r'^version = "(.+)"', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)[0]
