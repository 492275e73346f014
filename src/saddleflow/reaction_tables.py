"""Tables of reactions (TSV, CSV): rows with everything still text, and number files beside them."""

from __future__ import annotations

import csv
import difflib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saddleflow.errors import InputError
from saddleflow.xyz_files import parse_number, parse_symbol, read_text, shortened, shown

COLUMNS = ("name", "file", "charge", "multiplicity", "start_direction", "reactant", "product")
"""What a table may hold; only ``file`` must be there."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,6}(?:\.0{0,6})?\Z")


@dataclass(frozen=True)
class Row:
    """One row: where it stands (``table.tsv, line 3``) and its non-empty cells by column."""

    where: str
    cells: dict[str, str]


def parse_integer(text: str) -> int:
    """Whole number from `text` (``+1`` and ``1.0`` too).

    Raises
    ------
    ValueError
        With a few words that say why not.
    """
    if not _INTEGER.match(text):
        raise ValueError(f"{shown(text)} is not a whole number")
    return int(text.split(".", maxsplit=1)[0])


def read_table(path: Path) -> list[Row]:
    """Read a table of reactions; the delimiter is a tab for .tsv, else a comma or a semicolon.

    Lines that start with ``#`` and blank lines are skipped.

    Parameters
    ----------
    path : Path
        The table.

    Returns
    -------
    list of Row
        At least one; every row has ``file``.

    Raises
    ------
    InputError
        All problems of the table's form at once.
    """
    text = read_text(path)
    numbered = [(i, line) for i, line in enumerate(text.split("\n"), 1) if _counts(line)]
    if not numbered:
        raise InputError(f"{path}: holds no rows; write a header line and one row a reaction")
    start, header_line = numbered[0]
    delimiter = "\t"
    if path.suffix.lower() == ".csv":
        delimiter = ";" if "," not in header_line and ";" in header_line else ","
    header = [cell.strip() for cell in _cells(path, start, header_line, delimiter)]
    problems = _header_problems(f"{path}, line {start}", header, delimiter)
    if problems:
        raise InputError(shortened(path, problems))
    rows = []
    for i, line in numbered[1:]:
        where = f"{path}, line {i}"
        try:
            cells = [cell.strip() for cell in _cells(path, i, line, delimiter)]
        except InputError as error:
            problems += error.problems
            continue
        if len(cells) > len(header) and any(cells[len(header) :]):
            problems.append(
                f"{where}: {len(cells)} cells under {len(header)} columns; remove what is too much"
            )
            continue
        given = {column: cell for column, cell in zip(header, cells, strict=False) if cell}
        if "file" not in given:
            problems.append(f"{where}: the cell under file is empty; write the path of an xyz file")
            continue
        rows.append(Row(where, given))
    if problems:
        raise InputError(shortened(path, problems))
    if not rows:
        raise InputError(f"{path}: holds a header but no rows; write one row a reaction")
    return rows


def _counts(line: str) -> bool:
    """Whether a line is more than blank, delimiters and comment."""
    return bool(line.strip(" \t,;")) and not line.lstrip().startswith("#")


def _cells(path: Path, number: int, line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InputError(f"{path}, line {number}: {error}; quotes must enclose a whole cell") from None


def _header_problems(where: str, header: list[str], delimiter: str) -> list[str]:
    problems = []
    if len(header) == 1 and header[0] not in COLUMNS:
        said = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}[delimiter]
        return [
            f"{where}: one column {shown(header[0])}; separate the columns by {said}: {', '.join(COLUMNS)}"
        ]
    for column in header:
        if column not in COLUMNS:
            close = difflib.get_close_matches(column.lower(), COLUMNS, 1, 0.5)
            advice = f"did you mean {close[0]!r}?" if close else f"known columns: {', '.join(COLUMNS)}"
            problems.append(f"{where}: unknown column {shown(column)}; {advice}")
    problems += [
        f"{where}: column {column!r} stands there twice; remove one"
        for column in COLUMNS
        if header.count(column) > 1
    ]
    if not problems and "file" not in header:
        problems.append(f"{where}: column 'file' is missing; add it with the path of each xyz file")
    if not problems and ("reactant" in header) != ("product" in header):
        problems.append(f"{where}: reactant and product go together; add the missing column")
    return problems


def read_direction(path: Path, symbols: tuple[str, ...]) -> np.ndarray:
    """Read a start direction: N lines of three numbers, alone or as an xyz file of vectors.

    Parameters
    ----------
    path : Path
        The file.
    symbols : tuple of str
        Elements of the N atoms; symbols in the file must agree with them.

    Returns
    -------
    ndarray, shape (N, 3)
        As given, not normalised, not zero.

    Raises
    ------
    InputError
        The file can't be read, has another shape, or is zero.
    """
    lines = [(i, line.split()) for i, line in enumerate(read_text(path).split("\n"), 1)]
    first = next(k for k, (_, words) in enumerate(lines) if words)
    if len(lines[first][1]) == 1:  # the count of an xyz file; its comment line may be blank
        first += 2
    rows = [(i, words) for i, words in lines[first:] if words]
    wanted = f"{len(symbols)} lines of three numbers, one an atom"
    if len(rows) != len(symbols):
        raise InputError(f"{path}: holds {len(rows)} vectors for {len(symbols)} atoms; write {wanted}")
    direction = np.zeros((len(symbols), 3))
    problems = []
    for k, (i, words) in enumerate(rows):
        where = f"{path}, line {i}"
        try:
            if len(words) == 4 and parse_symbol(words[0]) != symbols[k]:
                raise ValueError(f"is for {words[0]}, but atom {k + 1} of the structure is {symbols[k]}")
            if len(words) not in (3, 4):
                raise ValueError(f"found {len(words)} columns")
            direction[k] = [parse_number(word) for word in words[-3:]]
        except ValueError as error:
            problems.append(f"{where}: {error}; write {wanted}")
    if problems:
        raise InputError(shortened(path, problems))
    norm = float(np.abs(direction).max())
    if not 1e-12 < norm < 1e12:
        raise InputError(
            f"{path}: the direction is {'zero' if norm <= 1e-12 else 'huge'}; write a unit vector"
        )
    return direction
