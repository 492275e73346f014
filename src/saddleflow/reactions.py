"""Sets of reactions: read from a folder, a file of many structures, a table or a known dataset."""

from __future__ import annotations

import difflib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from saddleflow.datasets import fetch
from saddleflow.errors import InputError
from saddleflow.geometry import aligned
from saddleflow.reaction import Reaction, check_reaction, lowest_multiplicity, reaction_problems
from saddleflow.reaction_tables import Row, parse_integer, read_direction, read_table
from saddleflow.xyz_files import PROBLEMS_SHOWN, Frame, read_frames, refuse_unprintable, shortened, shown

__all__ = ["Reaction", "check_reaction", "lowest_multiplicity", "read_reactions"]

logger = logging.getLogger("saddleflow")

STRUCTURE_SUFFIXES = (".xyz", ".extxyz")
TABLE_SUFFIXES = (".tsv", ".csv")
COMMENT_KEYS = {
    "charge": ("charge", "total_charge"),
    "multiplicity": ("multiplicity", "mult", "spin_multiplicity"),
}
"""Keys of a comment line that mean charge and multiplicity, in lower case."""


@dataclass(frozen=True)
class Entry:
    """A reaction on its way in: where it stands, and whether its name was given or made from its file."""

    reaction: Reaction
    frame: Frame
    where: str
    named: bool


def read_reactions(path: str | Path) -> list[Reaction]:
    """Read and check a set of reactions.

    Parameters
    ----------
    path : str or Path
        A folder of .xyz and .extxyz files (subfolders included, hidden files and others ignored), one such
        file with one structure or many, a .tsv or .csv table, or ``dataset:NAME``.

    Returns
    -------
    list of Reaction
        In the order of file names, frames or rows; at least one, names unique whatever their case.

    Raises
    ------
    InputError
        Every problem of the whole set: file, line, what is wrong, what to do.
    DownloadError
        A dataset is not there yet and can't be fetched.
    """
    refuse_unprintable(path)
    if not str(path).strip():
        raise InputError("reactions: is empty; write the path of a folder, a file or a table")
    source = fetch(str(path)[len("dataset:") :]) if str(path).startswith("dataset:") else Path(path)
    try:
        source = source.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}; write the whole path") from None
    problems: list[str] = []
    if os.path.isdir(source):
        entries = _read_folder(source, problems)
    elif source.suffix.lower() in STRUCTURE_SUFFIXES:
        entries = _read_file(source, problems)
    elif source.suffix.lower() in TABLE_SUFFIXES:
        entries = _read_rows(source, problems)
    else:
        raise InputError(_unreadable(source))
    for entry in entries:
        problems += _entry_problems(entry)
    problems += _duplicates(entries)
    if problems:
        raise InputError(problems)
    _log_assumptions(entries)
    return [entry.reaction for entry in entries]


def _unreadable(path: Path) -> str:
    """Why `path` is neither folder, structure file nor table."""
    if os.path.lexists(path):
        known = ", ".join((*STRUCTURE_SUFFIXES, *TABLE_SUFFIXES))
        return f"{path}: is neither a folder nor a file that ends in {known}; rename or convert it"
    try:
        siblings = os.listdir(path.parent)
    except (OSError, ValueError):
        siblings = []
    close = difflib.get_close_matches(path.name, siblings, 1)
    advice = f"did you mean {path.parent / close[0]}?" if close else "check the path"
    return f"{str(path)!r}: there is no such folder or file; {advice}"


def _read_folder(folder: Path, problems: list[str]) -> list[Entry]:
    """Entries of all structure files below `folder`; a name found twice gets its subfolder before it."""
    entries: list[Entry] = []
    for path in structure_files(folder, problems):
        try:
            frames = read_frames(path)
        except InputError as error:
            problems += error.problems
            continue
        if len(frames) > 1 and not all("name" in frame.comment for frame in frames):
            advice = "write name= into each comment line, or give this file itself as reactions"
            problems.append(f"{path}: holds {len(frames)} structures without names; {advice}")
            continue
        entries += [_entry(frame, path.stem, {}, problems) for frame in frames]
    if not entries and not problems:
        problems.append(f"{folder}: holds no .xyz or .extxyz file; put one file a reaction into it")
    uses = Counter(entry.reaction.name.casefold() for entry in entries)

    def prefixed(entry: Entry) -> Entry:
        if entry.named or uses[entry.reaction.name.casefold()] == 1:
            return entry
        parts = entry.frame.path.relative_to(folder).parent.parts
        return replace(entry, reaction=replace(entry.reaction, name="_".join([*parts, entry.reaction.name])))

    return [prefixed(entry) for entry in entries]


def structure_files(folder: Path, problems: list[str]) -> list[Path]:
    """Sorted structure files of `folder` and its subfolders; links are followed, hidden names are not."""
    found: list[Path] = []
    visited: set[str] = set()

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: can't be listed ({error.strerror}); check its permissions")

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(parent)
        if real in visited:  # a link back to where we were
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(STRUCTURE_SUFFIXES)
        ]
    return sorted(found)


def _read_file(path: Path, problems: list[str]) -> list[Entry]:
    frames = read_frames(path)
    width = max(3, len(str(len(frames) - 1)))
    names = [path.stem] if len(frames) == 1 else [f"{path.stem}-{i:0{width}d}" for i in range(len(frames))]
    return [_entry(frame, name, {}, problems) for frame, name in zip(frames, names, strict=True)]


def _read_rows(table: Path, problems: list[str]) -> list[Entry]:
    entries = []
    for row in read_table(table):
        try:
            entries.append(_read_row(row, table.parent, problems))
        except InputError as error:
            problems += [f"{row.where}: {problem}" for problem in error.problems]
            problems += [problem for problem in _number_problems(row) if problem not in problems]
    return entries


def _number_problems(row: Row) -> list[str]:
    """What is wrong with the numbers of a row whose structure could not be read."""
    found = []
    for quantity in COMMENT_KEYS:
        try:
            parse_integer(row.cells.get(quantity, "0"))
        except ValueError as error:
            found.append(f"{row.where}: {quantity} {error}; write for example {quantity}=1")
    return found


def _read_row(row: Row, folder: Path, problems: list[str]) -> Entry:
    """Entry of a table row with its start direction and difference."""
    cells = row.cells
    frame = _single_frame(folder / cells["file"])
    entry = _entry(frame, frame.path.stem, cells, problems, row.where)
    reaction = entry.reaction
    if "start_direction" in cells:
        direction = read_direction(folder / cells["start_direction"], reaction.symbols)
        reaction = replace(reaction, start_direction=direction)
    if ("reactant" in cells) != ("product" in cells):
        missing = "product" if "reactant" in cells else "reactant"
        raise InputError(f"the cell under {missing} is empty; reactant and product go together")
    if "reactant" in cells:
        ends = [_end(folder / cells[column], reaction) for column in ("reactant", "product")]
        reaction = replace(reaction, difference=ends[1] - ends[0])
    return replace(entry, reaction=reaction)


def _single_frame(path: Path) -> Frame:
    frames = read_frames(path)
    if len(frames) > 1:
        raise InputError(f"{path}: holds {len(frames)} structures; a row needs a file with one")
    return frames[0]


def _end(path: Path, reaction: Reaction) -> np.ndarray:
    """Reactant or product, shape (N, 3), Angstrom, turned and shifted onto the guess."""
    frame = _single_frame(path)
    if len(frame.symbols) != len(reaction.symbols):
        found = f"holds {len(frame.symbols)} atoms, the guess {len(reaction.symbols)}"
        raise InputError(f"{path}: {found}; all three need the same atoms in the same order")
    for i, (own, other) in enumerate(zip(reaction.symbols, frame.symbols, strict=True)):
        if own != other:
            found = f"atom {i + 1} is {other}, in the guess {own}"
            raise InputError(f"{path}, line {frame.atom_lines[i]}: {found}; order all three files alike")
    return aligned(frame.positions, reaction.positions)


def _entry(frame: Frame, fallback: str, cells: dict[str, str], problems: list[str], row: str = "") -> Entry:
    """Reaction of a frame; what the table says (`cells`) goes before the comment line."""
    where = f"{frame.path}, line {frame.line}"
    comment = f"{frame.path}, line {frame.line + 1}"
    known = ["name", *(key for keys in COMMENT_KEYS.values() for key in keys)]
    for key in frame.comment:
        close = difflib.get_close_matches(key, known, 1, 0.8)
        if close and key not in known and key not in ("charges", "names"):
            problems.append(f"{comment}: comment key {shown(key)} means nothing; did you mean {close[0]}=?")
    values: dict[str, int] = {}
    notes = []
    for quantity, keys in COMMENT_KEYS.items():
        key = next((key for key in keys if key in frame.comment), None)
        place, text = comment, frame.comment.get(key or "")
        origin = "from its comment line"
        if quantity in cells:
            if text is not None and text != cells[quantity]:
                logger.warning("%s: %s %s replaces %s of %s", row, quantity, cells[quantity], text, comment)
            place, text, origin = row, cells[quantity], "from the table"
        if text is None:
            values[quantity] = 0 if quantity == "charge" else lowest_multiplicity_of(frame, values["charge"])
            origin = "assumed"
        else:
            try:
                values[quantity] = parse_integer(text)
            except ValueError as error:
                problems.append(f"{place}: {quantity} {error}; write for example {quantity}=1")
                values[quantity] = (
                    0 if quantity == "charge" else lowest_multiplicity_of(frame, values["charge"])
                )
        notes.append(f"{quantity} {values[quantity]} {origin}")
    name = cells.get("name", frame.comment.get("name"))
    source = f"{row + ': ' if row else ''}{where} ({', '.join(notes)})"
    reaction = Reaction(
        name=fallback if name is None else name,
        symbols=frame.symbols,
        positions=frame.positions,
        charge=values["charge"],
        multiplicity=values["multiplicity"],
        source=source,
    )
    return Entry(reaction, frame, f"{row}: {where}" if row else where, name is not None)


def lowest_multiplicity_of(frame: Frame, charge: int) -> int:
    """Lowest multiplicity that the electron count of a frame allows."""
    return lowest_multiplicity(Reaction("", frame.symbols, frame.positions).numbers, charge)


def _entry_problems(entry: Entry) -> Iterable[str]:
    """Chemical problems of one structure, each at its line."""
    lines = entry.frame.atom_lines
    found = [
        f"{entry.where if atom is None else f'{entry.frame.path}, line {lines[atom]}'}: {text}"
        for atom, text in reaction_problems(entry.reaction)
    ]
    return shortened(entry.frame.path, found) if len(found) > PROBLEMS_SHOWN else found


def _duplicates(entries: list[Entry]) -> Iterable[str]:
    """One line for each name that is used more than once; upper and lower case count as the same."""
    users: dict[str, list[Entry]] = {}
    for entry in entries:
        users.setdefault(entry.reaction.name.casefold(), []).append(entry)
    for same in users.values():
        if len(same) > 1:
            names = " and ".join(sorted({shown(entry.reaction.name) for entry in same}))
            places = ", ".join(entry.where for entry in same[:3]) + (", ..." if len(same) > 3 else "")
            yield f"{places}: name {names} is used {len(same)} times (case does not count); rename"


def _log_assumptions(entries: list[Entry]) -> None:
    """Say which charges and multiplicities nobody gave."""
    for quantity, reason in (("charge", ""), ("multiplicity", ", the lowest that the electron count allows")):
        groups: dict[int, list[str]] = {}
        for entry in entries:
            value = getattr(entry.reaction, quantity)
            if f"{quantity} {value} assumed" in entry.reaction.source:
                groups.setdefault(value, []).append(entry.reaction.name)
        for value, names in sorted(groups.items()):
            logger.info("no %s given, %d assumed%s: %s", quantity, value, reason, ", ".join(names))
