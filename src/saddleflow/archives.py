"""Zip archives of guessed transition states, unpacked without trusting names or sizes in them.

Which multiplicity a structure has is read from the folder names (``singlet``, ``doublets``, ...), its number
from its file or folder.  Names inside the archive never become paths on the disk.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from saddleflow.errors import InputError
from saddleflow.reaction_tables import parse_integer
from saddleflow.xyz_files import LARGEST_FILE, Frame, decode, parse_frames

KINDS = {"singlets": ("s", 1), "doublets": ("d", 2)}
"""Kind to first letter of the names, and multiplicity."""
MOST_MEMBERS = 50_000
LARGEST_TOTAL = 200_000_000
"""Bytes after unpacking."""

Member = tuple[PurePosixPath, list[Frame]]


def unpack_reactions(archive: Path, target: Path, contents: dict[str, int]) -> None:
    """Write the structures of `archive` as ``target/singlets/000.xyz`` and so on.

    Each comment line then holds name (``s000``, ``d000``), charge (0 unless the archive says otherwise) and
    multiplicity.

    Parameters
    ----------
    archive : Path
        Zip file.
    target : Path
        Existing folder.
    contents : dict of str to int
        Expected number of structures of each kind.

    Raises
    ------
    InputError
        It is no sound zip file, or what it holds is not what was expected; the message says what was found.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            found = _structures(archive, bundle)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise InputError(
            f"{archive}: is not a sound zip archive ({error}); delete it, fetch it again"
        ) from None
    for kind, count in contents.items():
        chosen = _choose(found.get(kind, {}), count)
        if chosen is None:
            raise InputError(_mismatch(archive, found, contents))
        _write(archive, target, kind, chosen)


def _structures(archive: Path, bundle: zipfile.ZipFile) -> dict[str, dict[str, list[Member]]]:
    """Members with their frames, by kind (``""`` if unknown) and by path with all digits masked."""
    members = [info for info in bundle.infolist() if not info.is_dir()]
    if len(members) > MOST_MEMBERS or sum(info.file_size for info in members) > LARGEST_TOTAL:
        raise InputError(f"{archive}: holds more than {MOST_MEMBERS} files or {LARGEST_TOTAL} bytes; refused")
    found: dict[str, dict[str, list[Member]]] = defaultdict(lambda: defaultdict(list))
    total = 0
    for info in sorted(members, key=lambda info: info.filename):
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", info.filename):
            raise InputError(
                f"{archive}: member {info.filename[:80]!r} points outside of the archive; refused"
            )
        if any(part.startswith((".", "__MACOSX")) for part in path.parts):
            continue
        if path.suffix.lower() not in (".xyz", ".extxyz"):
            continue
        if info.flag_bits & 1:
            raise InputError(f"{archive}: member {info.filename[:80]!r} is encrypted; unpack it by hand")
        with bundle.open(info) as stream:  # the size in the directory may lie
            data = stream.read(LARGEST_FILE + 1)
        total += len(data)
        if total > LARGEST_TOTAL:
            raise InputError(f"{archive}: holds more than {LARGEST_TOTAL} bytes; refused")
        label = Path(f"{archive}:{info.filename}")
        frames = parse_frames(label, decode(label, data))
        found[kind_of(path)][re.sub("[0-9]+", "#", str(path))].append((path, frames))
    return found


def kind_of(path: PurePosixPath) -> str:
    """``singlets`` or ``doublets`` by the innermost folder (else file name) that says so, else ``""``."""
    for part in [*reversed(path.parent.parts), path.stem]:
        words = [word for word in ("singlet", "doublet") if word in part.lower()]
        if len(words) == 1:
            return f"{words[0]}s"
    return ""


def _choose(patterns: dict[str, list[Member]], count: int) -> list[Member] | None:
    """Members of the one family of paths that has the expected number of structures (or all together)."""
    sizes = {pattern: sum(len(frames) for _, frames in members) for pattern, members in patterns.items()}
    fitting = [pattern for pattern, size in sizes.items() if size == count]
    if len(fitting) == 1:
        return patterns[fitting[0]]
    if not fitting and sum(sizes.values()) == count:
        return [member for members in patterns.values() for member in members]
    return None


def _mismatch(archive: Path, found: dict[str, dict[str, list[Member]]], contents: dict[str, int]) -> str:
    wanted = " + ".join(f"{count} {kind}" for kind, count in contents.items())
    seen = [
        f"{pattern} ({sum(len(frames) for _, frames in members)}, {kind or 'neither singlets nor doublets'})"
        for kind, patterns in sorted(found.items())
        for pattern, members in sorted(patterns.items())
    ]
    listed = "; ".join(seen[:8]) + ("; ..." if len(seen) > 8 else "") if seen else "no .xyz file"
    hand = "unpack it by hand into a folder with name=, charge= and multiplicity= in each comment line"
    return f"{archive}: expected one family of {wanted}, found {listed}; {hand} and give reactions: FOLDER"


def _write(archive: Path, target: Path, kind: str, members: list[Member]) -> None:
    letter, multiplicity = KINDS[kind]
    numbered = [
        (_number(path) if len(members) > 1 and len(frames) == 1 else None, path, frame)
        for path, frames in members
        for frame in frames
    ]
    if any(number is None for number, _, _ in numbered):  # many structures in one file: count them
        numbered = [(i, path, frame) for i, (_, path, frame) in enumerate(numbered)]
    twice = [number for number, uses in Counter(number for number, _, _ in numbered).items() if uses > 1]
    if twice:
        same = ", ".join(str(path) for number, path, _ in numbered if number == twice[0])
        raise InputError(f"{archive}: {kind} number {twice[0]} is there more than once ({same[:200]})")
    (target / kind).mkdir()
    for number, path, frame in numbered:
        try:
            charge = parse_integer(frame.comment.get("charge", "0"))
            given = parse_integer(frame.comment.get("multiplicity", str(multiplicity)))
        except ValueError as error:
            raise InputError(f"{archive}: {path}: charge or multiplicity {error}") from None
        if given != multiplicity:
            raise InputError(
                f"{archive}: {path}: lies under {kind}, but its comment says multiplicity={given}"
            )
        lines = [
            str(len(frame.symbols)),
            f"name={letter}{number:03d} charge={charge} multiplicity={multiplicity}",
        ]
        lines += [
            f"{symbol:2s} {x!r} {y!r} {z!r}"
            for symbol, (x, y, z) in zip(frame.symbols, frame.positions.tolist(), strict=True)
        ]
        (target / kind / f"{number:03d}.xyz").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number(path: PurePosixPath) -> int | None:
    """Number of a structure: the last one in its file name, else in the nearest folder that has one."""
    for part in [path.stem, *reversed(path.parent.parts)]:
        digits = re.findall("[0-9]{1,9}", part)
        if digits:
            return int(digits[-1])
    return None
