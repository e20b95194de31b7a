"""Read tables of jobs: CSV as people and spreadsheets write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import files
from errors import MissingFile, UserError, suggest

SEPARATORS = ",;\t"  # Excel writes that of the user's country; cells copied from it have tabs
EXCEL_SEPARATOR = re.compile(r"\Asep=.\r?\n", re.IGNORECASE)  # a first line that is not part of the table
# in numbers and times, in countries whose tables have semicolons between cells
DECIMAL_COMMA = re.compile(r"^([+-]?(?:\d+:){0,2}\d+),(\d+)$")
LARGEST_CELL = 1 << 16  # characters


class Row(NamedTuple):
    name: str  # for messages: "row 3 of jobs.csv", counted as spreadsheets do
    cells: dict[str, str]  # those that are not empty, by the names of their columns


def read_table(path: Path, known: Collection[str], needed: Collection[str], shared: Collection[str]) -> list[Row]:
    """Read a table with columns from ``known``, among them all that are ``needed``; raise UserError if it is invalid.

    ``shared`` are flags that cannot differ from row to row, and get an error message of their own.
    """
    if not path.exists():
        raise MissingFile(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a table (CSV) with the columns {', '.join(needed)}")
    lines = [(number, line) for number, line in enumerate(_cells(path), 1) if any(line)]
    if not lines:
        raise UserError(f"{path} is empty; it should have a first line {','.join(needed)} and a line for every video")
    columns = [name.removeprefix("--").lower() for name in lines[0][1]]
    _check_columns(path, columns, known, needed, shared)
    if not lines[1:]:
        raise UserError(f"{path} has a first line, but no line for a video")
    return [_row(f"row {number} of {path}", columns, line, needed) for number, line in lines[1:]]


def _cells(path: Path) -> list[list[str]]:
    """Return the cells of all lines; the separator is the one that the first line has most of."""
    text = EXCEL_SEPARATOR.sub("\n", files.read_text(path), count=1)  # keeps line numbers right
    first = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=first.count)
    limit = csv.field_size_limit(LARGEST_CELL)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        cells = [[cell.strip() for cell in line] for line in lines]
    except csv.Error as problem:
        raise UserError(f"{path} is not a table ({problem}); save it as CSV") from None
    finally:
        csv.field_size_limit(limit)  # it holds for the whole process
    if separator == ",":
        return cells
    return [[DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in line] for line in cells]


def _check_columns(
    path: Path, columns: list[str], known: Collection[str], needed: Collection[str], shared: Collection[str]
) -> None:
    named = [name for name in columns if name]
    for name in named:
        if name == "pair":
            raise UserError(f"{path}: --pair does not work with tables; run it for each such video")
        if name in shared:
            raise UserError(f"{path}: all rows share --{name}; give it on the command line and not as a column")
        if name not in known:
            hint = suggest(name, [*known], f"columns are {', '.join(needed)}, and flags of --help")
            raise UserError(f"{path} has a column {name[:40]!r}, which is not a flag; {hint}")
        if named.count(name) > 1:
            raise UserError(f"{path} has two columns {name!r}; remove one")
    if missing := [name for name in needed if name not in named]:
        raise UserError(f"{path} has no column {missing[0]!r}; its first line should name them, such as face,audio")


def _row(name: str, columns: list[str], line: list[str], needed: Collection[str]) -> Row:
    columns = columns + [""] * (len(line) - len(columns))
    cells = {column: cell for column, cell in zip(columns, line) if cell}
    if "" in cells:
        raise UserError(f"{name} has {cells[''][:40]!r} in a column without a name; are cells with a comma in quotes?")
    if missing := [column for column in needed if column not in cells]:
        raise UserError(f"{name} has no {missing[0]}")
    return Row(name, cells)
