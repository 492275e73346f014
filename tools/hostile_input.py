"""Malformed reaction files, tables and configurations by the thousand, and what the readers make of them."""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Iterator
from pathlib import Path

from saddleflow.errors import InputError
from saddleflow.preflight import load_settings
from saddleflow.reaction import check_reaction
from saddleflow.reactions import read_reactions

SLOWEST = 1.0  # seconds of CPU a file, which other work on the machine does not lengthen
ATOMS = "C 0.0 0.0 -0.6\nN 0.0 0.0 0.6\nH 0.0 1.1 0.5\n"
GOOD = {
    "xyz": "3\ncharge=0 multiplicity=1\n" + ATOMS,
    "extxyz": '3\nname=hcn charge=0 multiplicity=1 Properties="species:S:1:pos:R:3"\n' + ATOMS,
    "tsv": "file\tname\tcharge\tmultiplicity\ngood.xyz\thcn\t0\t1\n",
    "csv": "file,name,charge,multiplicity\ngood.xyz,hcn,0,1\n",
    "yaml": "reactions: set\nresults: out\nmethods: [gp-dimer]\nengine: {program: xtb, method: GFN2-xTB}\n"
    "verification: {level: hessian, displacement: 0.005}\nmethod_settings: {slow: {algorithm: gp-dimer}}\n",
}
NASTY = (
    *(
        "../x; rm -rf ~",
        "$(reboot)",
        "`id`",
        "nan",
        "inf",
        "-1e400",
        "1e308",
        "999999999999",
        "\x00",
        "\ufeff",
    ),
    *(
        "\u202e",
        "\u0665",
        "Qq",
        "X",
        "{",
        "}",
        "[",
        "&a [*a]",
        "!!python/object/apply:os.system [id]",
        "<<: *x",
    ),
    *("\t", "\r", "''", '"', "charge=", "=", "a" * 5000, "-3", "3.5", "0", "null", "~", "%s", "{0}", "\\"),
    *("/etc/passwd", "file:///dev/zero", "CON", "\ud800"),
)
NAMES = (
    "../x; rm -rf ~",
    "a/../../b",
    "x; reboot",
    "$(id)",
    "`id`",
    "a\nb",
    "-rf",
    ".",
    "..",
    "a\x00b",
    "|x",
    "a" * 400,
)


def malformed(seed: int) -> Iterator[tuple[str, bytes]]:
    """Suffix and content of one broken file after the other, endless and the same for the same seed."""
    generator = random.Random(seed)
    while True:
        suffix = generator.choice(tuple(GOOD))
        content = GOOD[suffix].encode()
        for _ in range(generator.choice((1, 1, 1, 2, 5))):
            content = _broken(content, generator)
        yield suffix, content


def _broken(content: bytes, generator: random.Random) -> bytes:
    at, end = sorted(generator.randrange(len(content) + 1) for _ in range(2))
    nasty = generator.choice(NASTY).encode("utf-8", "surrogatepass")
    lines = content.splitlines(keepends=True) or [b""]
    kind = generator.randrange(8)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + nasty + content[at:]
    if kind == 2:
        return content[:at] + nasty + content[end:]
    if kind == 3:
        return content[:at] + generator.randbytes(generator.randrange(1, 40)) + content[at:]
    if kind == 4:
        words = content.split(b" ")
        words[generator.randrange(len(words))] = nasty
        return b" ".join(words)
    if kind == 5:
        return b"".join(generator.sample(lines, len(lines)))
    if kind == 6:
        return b"".join(lines) + generator.choice(lines) * generator.choice((1, 3, 2000))
    return content[:at] + content[end:]


def read(folder: Path, suffix: str, content: bytes) -> tuple[str, float]:
    """Give one file to its reader; ``refused`` or ``sound``, and the seconds.

    Raises
    ------
    AssertionError
        When something unsound gets through, or a message is empty.
    Exception
        Whatever else the reader lets out: a fault.
    """
    (folder / "good.xyz").write_text(GOOD["xyz"])
    path = folder / f"tried.{suffix}"
    path.write_bytes(content)
    started = time.process_time()
    try:
        if suffix == "yaml":
            load_settings(path)
        else:
            reactions = read_reactions(path)
            assert reactions, "no reaction and no error"
            assert not any(check_reaction(reaction) for reaction in reactions), "an unsound reaction"
    except InputError as error:
        assert error.problems and all(problem.strip() for problem in error.problems), "no message"
        return "refused", time.process_time() - started
    return "sound", time.process_time() - started


def read_many(folder: Path, refused: int, seed: int = 0) -> tuple[collections.Counter, list[str]]:
    """Read broken files until so many were refused; counts, and one line for each fault."""
    counts: collections.Counter = collections.Counter()
    faults = []
    for number, (suffix, content) in enumerate(malformed(seed)):
        if counts["refused"] >= refused:
            return counts, faults
        try:
            verdict, seconds = read(folder, suffix, content)
        except Exception as error:  # whatever gets out is the finding
            verdict, seconds = "fault", 0.0
            faults.append(f"file {number} ({suffix}): {type(error).__name__}: {error}: {content[:80]!r}")
        if seconds > SLOWEST:
            verdict = "fault"
            faults.append(f"file {number} ({suffix}): {seconds:.1f} s: {content[:80]!r}")
        counts[verdict] += 1
    raise AssertionError("unreachable")
