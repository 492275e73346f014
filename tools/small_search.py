"""One small search in a folder of its own, and how it is disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hostile_input import GOOD

from saddleflow.reactions import read_reactions
from saddleflow.run_file import read_run_file

ROOT = Path(__file__).resolve().parents[1]
Result = tuple[int, int, str]
"""Cases tried, cases survived, remark."""
PATIENCE = 900.0
"""Seconds that a search may take on a busy machine; none needs a tenth of it on an idle one."""
MAIN = "import sys; from saddleflow.cli import main; sys.exit(main())"


class Search:
    """One small search (GFN2-xTB, plain dimer, about a hundred calls) in a folder of its own."""

    def __init__(self, engine: dict | None = None, algorithm: str = "dimer"):
        self.folder = folder = new_folder()
        self.output, self.journal = folder / "searches" / "s.h5", folder / "journals" / "s.jsonl"
        (folder / "good.xyz").write_text(GOOD["xyz"])
        (reaction,) = read_reactions(folder / "good.xyz")
        (folder / "r.json").write_text(json.dumps(reaction.to_dict()))
        # From the guess itself: at random, as published, HCN is lost.
        settings = {"algorithm": algorithm, "start": {"direction": "xtb_softest_mode"}}
        method = {"name": "d", "method": settings, "engine": engine or {"program": "xtb"}}
        (folder / "m.json").write_text(json.dumps(method))

    def start(
        self, before: str = "", read_only: Path | None = None, temporary: tuple[Path, int] | None = None
    ) -> subprocess.Popen:
        """Start it, as it is or disturbed.

        Parameters
        ----------
        before : str
            Python code that comes first.
        read_only : Path, optional
            A folder that can't be written to.
        temporary : (Path, int), optional
            Folder of temporary files, and the size in kB of the file system that it is.
        """
        arguments = ["search", "--reaction", "r.json", "--method", "m.json"]
        arguments += ["--output", str(self.output), "--journal", str(self.journal)]
        command = [sys.executable, "-c", before + MAIN, *arguments]
        if read_only:
            # A mount of its own that this process alone sees: permissions would not stop the superuser.
            shell = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
            command = ["unshare", "-rm", "sh", "-c", shell, str(read_only), *command]
        if temporary:
            shell = f'mount -t tmpfs -o size={temporary[1]}k tmpfs "$0" && export TMPDIR="$0" && exec "$@"'
            command = ["unshare", "-rm", "sh", "-c", shell, str(temporary[0]), *command]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, **options) -> tuple[int, str]:
        """Exit code and what it said; arguments as :meth:`start`."""
        process = self.start(*arguments, **options)
        out, error = process.communicate(timeout=PATIENCE)
        return process.returncode, out + error

    def evaluations(self) -> list[tuple]:
        """What the run file holds, to be compared."""
        return [(e.positions.tobytes(), e.energy) for e in read_run_file(self.output).evaluations]


def file_limit(size: int) -> str:
    """Code by which no file grows beyond so many bytes (a disk that is full)."""
    return (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
    )


def new_folder() -> Path:
    """A folder of its own."""
    return Path(tempfile.mkdtemp(prefix="saddleflow-reliability-"))


def undisturbed() -> list[tuple]:
    """Evaluations of a search that nothing happens to."""
    search = Search()
    code, said = search.run()
    assert code == 0, said
    return search.evaluations()


def no_mounts() -> Result | None:
    """The answer of a case that needs mounts of its own where the system refuses them; else None."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        return 0, 0, "not tried: this system refuses a mount of its own (a container or chroot)"
    return None


def until_hit(times: int, attempt: Callable[[], bool | None]) -> tuple[int, int, int]:
    """Disturb searches until so many were hit.

    Parameters
    ----------
    times : int
        Hits wanted; twenty attempts are made for each at most.
    attempt : callable
        Disturbs one search: whether it survived, None where it had ended before.

    Returns
    -------
    (int, int, int)
        Hits, survived, and attempts that missed.

    Raises
    ------
    RuntimeError
        When too many attempts missed.
    """
    hit = survived = missed = 0
    while hit < times:
        if missed == 20 * times:
            raise RuntimeError(f"only {hit} of {hit + missed} attempts hit a search")
        outcome = attempt()
        hit += outcome is not None
        missed += outcome is None
        survived += bool(outcome)
    return hit, survived, missed


def in_one_line(said: str) -> bool:
    """Whether a program that gave up said so in a single line, without a traceback."""
    lines = [line for line in said.splitlines() if line.startswith("saddleflow: error: ")]
    return len(lines) == 1 and "Traceback" not in said
