"""The figures of many files, and the reasons for those without."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import files
from errors import CatchFailure

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row", bound="DataclassInstance")


@dataclass
class Report(Generic[Row]):
    """Rows of figures, each an instance of the dataclass ``KIND``; for files without any, the reason."""

    KIND: ClassVar[type]
    scores: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # reason by file
    tried: int = 0  # files

    def attempt(self, path: Path, work: Callable[[], Iterable[Row]]) -> None:
        """Add the rows that ``work`` returns for a file; if it fails, record why, so that other files go on."""
        self.tried += 1
        with CatchFailure() as one:
            self.scores += work()
        if one.failure:
            self.failed[str(path)] = one.reason.removeprefix(str(path)).strip(": ")

    def skipped(self) -> list[str]:
        """Return one line for each file without figures."""
        return [f"skipped: {path}: {reason}" for path, reason in self.failed.items()]

    def check(self) -> None:
        """Raise RuntimeError if some files have no figures."""
        if self.failed:
            raise RuntimeError(f"{len(self.failed)} of {self.tried} files could not be scored; they are named above")

    def to_json(self) -> dict[str, object]:
        return {"scores": [asdict(score) for score in self.scores], "failed": self.failed}

    def to_csv(self) -> str:
        """Return one line per row, below a header with the names of the figures."""
        return csv_of([field.name for field in fields(self.KIND)], map(asdict, self.scores))

    def save(self, json_path: Path | None = None, csv_path: Path | None = None) -> None:
        """Write all figures to these files, if they are given."""
        if json_path:
            files.save_json(json_path, self.to_json())
        if csv_path:
            files.save(csv_path, self.to_csv())


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one line per row below a header; what is missing or no finite number is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: value for name, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
        )
    return text.getvalue()
