"""Text in columns: what stands in it, to the line, before anything is made of it.

Comma, semicolon and tab separate; the header tells which. Every cell is text at first, so that an
id such as 001 stays as it is; `numbers` makes a column's cells numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.study.errors import UserError
from pipeline.study.values import printable, shown

SEPARATORS = (",", ";", "\t")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
MISSING = {
    *("", "-", "na", "n/a", "#n/a", "<na>", "null", "none"),
    *(sign + word for sign in ("", "+", "-") for word in ("nan", "inf", "infinity")),
}


@dataclass(frozen=True)
class Columns:
    """A file's rows.

    file: its path, as it is printed. cells: of each column, by its printable name; all of one
    length, without blanks around them. lines: where each row ends in the file, from 1.
    """

    file: str
    cells: dict[str, list[str]]
    lines: list[int]

    @property
    def names(self) -> list[str]:
        return list(self.cells)

    def place(self, row: int) -> str:
        """`a.csv, line 3`"""
        return f"{self.file}, line {self.lines[row]}"


def header_of(text: str) -> list[str]:
    """The names in the first line that is not blank; [] where there is none."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return _clean(_split(line, _separator(line))) if line else []


def read_columns(file: str, text: str) -> Columns:
    """Raises UserError for a row with more or fewer cells than the header, a quote without its end,
    two columns of one name, and a table without a row."""
    lines = text.splitlines()
    separator = _separator(next(line for line in lines if line.strip()))
    rows: list[list[str]] = []
    places: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                places.append(reader.line_num)
    except csv.Error as error:
        raise UserError(
            f"{file}, line {reader.line_num}: {error}; write the table anew, each quote with its "
            "end"
        ) from None
    header, *rows = rows
    for row, place in zip(rows, places[1:], strict=True):
        if len(row) != len(header):
            commas = "; a number must have a point, not a comma" if separator == "," else ""
            raise UserError(
                f"{file}, line {place}: {len(row)} cells where the header has {len(header)}{commas}"
            )
    if not rows:
        raise UserError(f"{file} has a header and no row; write a row a case")
    names = _clean(header)
    columns = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    cells: dict[str, list[str]] = {}
    for number, (name, column) in enumerate(zip(names, columns, strict=True), start=1):
        if not name and number > 1:
            if any(column):
                raise UserError(f"{file}: column {number} has no name; give it one")
            continue  # a separator at the end of each line
        if name in cells:
            raise UserError(f"{file} has two columns {shown(name)}; rename or remove one")
        cells[name] = column
    return Columns(file, cells, places[1:])


def _separator(line: str) -> str:
    """That which makes the most cells of a line; of equals the first."""
    return max(SEPARATORS, key=lambda separator: len(_split(line, separator)))


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # a cell of more than 131,072 signs
        return [line]


def _clean(names: Sequence[str]) -> list[str]:
    return [printable(name.strip()) for name in names]


def numbers(columns: Columns, name: str) -> npt.NDArray[np.float64]:
    """A column's numbers; NaN where a cell is empty, or says that it has none, or infinity.

    Raises UserError naming line and column for other text.
    """
    found = np.full(len(columns.lines), np.nan)
    for row, cell in enumerate(columns.cells[name]):
        if NUMBER.fullmatch(cell):
            found[row] = float(cell)
        elif cell.lower() not in MISSING:
            if DECIMAL_COMMA.fullmatch(cell):
                advice = "a decimal comma: write a point"
            else:
                advice = "leave the cell empty if there is no number, or leave out the column"
            raise UserError(
                f"{columns.place(row)}: {shown(name)} must be a number, got {shown(cell)}; {advice}"
            )
    return found


def whole_numbers(columns: Columns, name: str, most: int) -> list[int]:
    """A column of whole numbers from 0 to below `most`; 3.0, as tables with gaps have it, is one.

    Raises UserError naming line and column for any other cell.
    """
    found = []
    for row, cell in enumerate(columns.cells[name]):
        match = re.fullmatch(r"([0-9]{1,19})(\.0*)?", cell)
        if match is None or int(match[1]) >= most:
            raise UserError(
                f"{columns.place(row)}: {shown(name)} must be a whole number from 0 to {most - 1}, "
                f"got {shown(cell)}; number the runs of each variant"
            )
        found.append(int(match[1]))
    return found


def texts(columns: Columns, name: str) -> list[str]:
    """A column of names, on one line each. Raises UserError naming the line of an empty cell."""
    cells = columns.cells[name]
    if "" in cells:
        what = shown(name) if name else "the first column"
        raise UserError(f"{columns.place(cells.index(''))}: {what} is empty; fill it in")
    return [printable(cell) for cell in cells]
