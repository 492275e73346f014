"""A strict reader of xyz and extended xyz: every problem of a file in plain words, never a guess.

Own code instead of ``ase.io``: that one accepts a missing atom, drops the line numbers that a person
needs to mend a file, and raises whatever the parsing happened to trip over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from saddleflow.errors import InputError

LARGEST_FILE = 5_000_000
"""Bytes; a set that needs more belongs into several files."""
LARGEST_MOLECULE = 500
"""Atoms; beyond it a search with a dense surrogate makes no sense."""
LARGEST_COORDINATE = 1e4
"""Angstrom; anything beyond is another unit or a damaged file."""
PROBLEMS_SHOWN = 5
"""Problems reported for one file before "and N more"."""

NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})(?:[eEdD][+-]?[0-9]{1,4})?\Z")
_COUNT = re.compile(r"[0-9]{1,9}\Z")
_PAIR = re.compile(r"""([A-Za-z_][\w-]*)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|[^\s"',;]+)""")
_LABEL = re.compile(r"([A-Za-z]{1,2})[0-9_].*\Z")


@dataclass(frozen=True)
class Frame:
    """One structure of a file, syntactically sound but chemically unchecked.

    Parameters
    ----------
    path : Path
        File it came from.
    line : int
        1-based line of its atom count.
    symbols : tuple of str
        Chemical symbols.
    positions : ndarray, shape (N, 3)
        Angstrom.
    comment : dict of str to str
        ``key=value`` pairs of the comment line, keys in lower case.
    atom_lines : tuple of int
        1-based line of each atom.
    """

    path: Path
    line: int
    symbols: tuple[str, ...]
    positions: np.ndarray
    comment: dict[str, str] = field(default_factory=dict)
    atom_lines: tuple[int, ...] = ()


def read_text(path: Path) -> str:
    """Read a small UTF-8 text file, line ends normalised to a single newline.

    Raises
    ------
    InputError
        The file is missing, unreadable, too large, empty, or not UTF-8 text.
    """
    refuse_unprintable(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, not a file")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file (a pipe or device); give a text file")
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; give yourself permission (chmod u+r)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r}: can't be read ({error})") from None
    return decode(path, data)


def refuse_unprintable(path: str | Path) -> None:
    """Raise InputError where a path would spoil messages and result files (line breaks, wrong bytes)."""
    if not str(path).isprintable():
        raise InputError(f"{ascii(str(path))[:200]}: the path holds unprintable characters; rename it")


def decode(path: Path, data: bytes) -> str:
    """Text of a small UTF-8 file's bytes, line ends normalised to a single newline.

    Raises
    ------
    InputError
        Too large, empty, or not UTF-8 text; `path` names the file in the message.
    """
    if len(data) > LARGEST_FILE:
        limit = LARGEST_FILE // 1_000_000
        raise InputError(f"{path}: is larger than {limit} MB; split it into several files in one folder")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise InputError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; an xyz file holds the atom count, a comment and the atoms")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: holds a NUL byte; this is not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_number(text: str) -> float:
    """Finite float from `text` (Fortran exponents too).

    Raises
    ------
    ValueError
        With a few words that say why not.
    """
    if not NUMBER.match(text):
        if text.lstrip("+-").lower() in ("nan", "inf", "infinity"):
            raise ValueError(f"{text!r} is not a finite number")
        raise ValueError(f"{shown(text)} is not a number")
    value = float(text.replace("d", "e").replace("D", "e"))
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is too large for a number")
    return value


def parse_symbol(text: str) -> str:
    """Chemical symbol from a symbol in any case or an atomic number.

    Raises
    ------
    ValueError
        With what is wrong and what to write.
    """
    if _COUNT.match(text):
        number = int(text)
        if 1 <= number < len(chemical_symbols):
            return chemical_symbols[number]
        raise ValueError(f"there is no element with atomic number {text}; write a chemical symbol")
    symbol = text.capitalize()
    if atomic_numbers.get(symbol, 0) > 0:
        return symbol
    label = _LABEL.match(text)
    if label and atomic_numbers.get(label[1].capitalize(), 0) > 0:
        raise ValueError(f"unknown element {shown(text)}; write {label[1].capitalize()!r} without its label")
    if symbol in ("D", "T"):
        raise ValueError(f"unknown element {text!r}; write 'H' (isotopes are not told apart)")
    raise ValueError(f"unknown element {shown(text)}; write a chemical symbol such as C, H or Cl")


def shown(text: str, length: int = 40) -> str:
    """`text` quoted and shortened for a message."""
    return repr(text if len(text) <= length else text[:length] + "...")


def comment_pairs(comment: str) -> dict[str, str]:
    """``key=value`` pairs of a comment line with lower-case keys; free text between them is ignored.

    Raises
    ------
    ValueError
        A key occurs twice with different values.
    """
    pairs: dict[str, str] = {}
    for key, raw in _PAIR.findall(comment):
        value = raw[1:-1] if raw[0] in "\"'{" else raw
        if pairs.setdefault(key.lower(), value) != value:
            raise ValueError(f"the comment says {key}= twice, {shown(pairs[key.lower()])} and {shown(value)}")
    return pairs


def read_frames(path: Path) -> list[Frame]:
    """Read all structures of an xyz or extended xyz file.

    Parameters
    ----------
    path : Path
        The file; plain comments are fine, ``Properties=...`` may place species and pos in any column.

    Returns
    -------
    list of Frame
        At least one.

    Raises
    ------
    InputError
        One line a problem, each with file and line (at most a few for one file).
    """
    return parse_frames(path, read_text(path))


def parse_frames(path: Path, text: str) -> list[Frame]:
    """Like :func:`read_frames` for the text of a file that `path` only names."""
    problems: list[str] = []
    frames: list[Frame] = []
    for item in _frames(path, text.split("\n")):
        if isinstance(item, Frame):
            frames.append(item)
        else:
            problems.append(item)
    if problems:
        raise InputError(shortened(path, problems))
    return frames


def shortened(path: Path, problems: list[str]) -> list[str]:
    """The first few problems of a file, and how many more there are."""
    if len(problems) <= PROBLEMS_SHOWN:
        return problems
    return [
        *problems[:PROBLEMS_SHOWN],
        f"{path}: and {len(problems) - PROBLEMS_SHOWN} more problems like these",
    ]


def _frames(path: Path, lines: list[str]) -> Iterator[Frame | str]:
    """Frames and problems in file order; stops where the file can't be followed any further."""
    at = 0
    while True:
        while at < len(lines) and not lines[at].strip():
            at += 1
        if at >= len(lines):
            return
        head = lines[at].split()
        if len(head) != 1 or not _COUNT.match(head[0]):
            found = f"the number of atoms alone on a line was expected, found {shown(lines[at].strip())}"
            yield f"{path}, line {at + 1}: {found}{_hint(lines, at)}"
            return
        count = int(head[0])
        if not 1 <= count <= LARGEST_MOLECULE:
            limit = f"write the real count (1 to {LARGEST_MOLECULE})"
            yield f"{path}, line {at + 1}: {count} atoms can't be searched; {limit}"
            return
        body = lines[at + 2 : at + 2 + count]
        present = next((i for i, line in enumerate(body) if len(line.split()) < 4), len(body))
        short = present < len(body) and body[present].strip() and not _COUNT.match(body[present].strip())
        if present < count and not short:
            yield f"{path}, line {at + 1}: says {count} atoms, but {present} follow; correct the count"
            return
        yield from _frame(path, at, lines[at + 1], body)
        at += 2 + count


def _hint(lines: list[str], at: int) -> str:
    """Why a line that should start a structure may not."""
    if at > 0 and len(lines[at].split()) >= 4:
        return "; there are more atoms than the count says, or the count is missing"
    return "; an xyz file starts each structure with its atom count and a comment line"


def _frame(path: Path, at: int, comment: str, body: list[str]) -> Iterator[Frame | str]:
    """One structure whose count is on line index `at`, or its problems."""
    try:
        pairs = comment_pairs(comment)
        element, first = _columns(pairs.get("properties", "species:S:1:pos:R:3"))
    except ValueError as error:
        yield f"{path}, line {at + 2}: {error}"
        return
    symbols: list[str] = []
    positions = np.zeros((len(body), 3))
    sound = True
    for i, line in enumerate(body):
        where = f"{path}, line {at + 3 + i}: "
        words = line.split()
        try:
            if len(words) <= max(element, first + 2):
                raise ValueError(f"an atom needs a symbol and three coordinates, found {shown(line.strip())}")
            symbols.append(parse_symbol(words[element]))
            for axis, word in enumerate(words[first : first + 3]):
                positions[i, axis] = parse_number(word)
                if abs(positions[i, axis]) > LARGEST_COORDINATE:
                    raise ValueError(f"coordinate {word} is too far away; write Angstrom")
        except ValueError as error:
            sound = False
            name = words[element] if len(words) > element else "?"
            yield f"{where}{error} (atom {i + 1}, {shown(name, 12)}); correct the line"
    if sound:
        atom_lines = tuple(range(at + 3, at + 3 + len(body)))
        yield Frame(path, at + 1, tuple(symbols), positions, pairs, atom_lines)


def _columns(properties: str) -> tuple[int, int]:
    """Column of the element and first column of the position from an extxyz ``Properties`` value."""
    parts = properties.split(":")
    if len(parts) % 3 or not all(_COUNT.match(width) for width in parts[2::3]):
        raise ValueError(f"Properties={shown(properties)} can't be read; write species:S:1:pos:R:3")
    element = first = None
    column = 0
    for name, _kind, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if name.lower() in ("species", "symbols", "z", "numbers") and width == "1" and element is None:
            element = column
        if name.lower() in ("pos", "positions") and width == "3":
            first = column
        column += int(width)
        if column > 10_000:
            raise ValueError(f"Properties={shown(properties)} names too many columns")
    if element is None or first is None:
        raise ValueError(f"Properties={shown(properties)} lacks species:S:1 or pos:R:3; add them")
    return element, first
