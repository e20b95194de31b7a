"""Settings of the page for all visitors, chosen by its operator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reporting import SILENT, Reporter


@dataclass(frozen=True)
class Settings:
    """Networks, where they are computed, and limits."""

    checkpoint: str | None = None  # generator; None: the included one
    expert: str = "demo"
    detector: str = "auto"
    identity: str = "sface"
    restorer: Path | None = None  # sharpens mouths for visitors who choose it
    credentials: tuple[Path, Path] | None = None  # certificates and key that sign every result
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "torch"
    batch_size: int = 128
    max_seconds: float = 600.0  # of speech, or of a video that is measured or learned from
    max_minutes: float = 15.0  # of learning
    runs: int = 1  # concurrent ones
    live: int = 1  # visitors who speak live at the same time
    report: Reporter = SILENT  # for the work before there are visitors
