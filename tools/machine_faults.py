"""Faults of the machine around a search: read-only folders, clocks, Psi4 that is broken, Snakemake killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy
from hostile_input import ATOMS
from small_search import (
    PATIENCE,
    ROOT,
    Result,
    Search,
    file_limit,
    in_one_line,
    new_folder,
    no_mounts,
    undisturbed,
)

from saddleflow.engines.journal import read_journal
from saddleflow.run_file import read_run_file

DAYS = 86400.0


def read_only() -> Result:
    """Results that can't be written to, from the start, for the end or on return; then they can."""
    if (refused := no_mounts()) is not None:
        return refused
    expected, survived = undisturbed(), 0
    for place in ("journals", "searches", "journals later"):
        search = Search()
        if place == "journals later":
            search.run(file_limit(12000))
        folder = search.folder / place.split()[0]
        folder.mkdir(exist_ok=True)
        code, said = search.run(read_only=folder)
        told = code != 0 and in_one_line(said) and "start again" in said and not search.output.exists()
        held = len(read_journal(search.journal)[1]) if search.journal.exists() else 0
        code, said = search.run()
        made = said.count(" call ")
        survived += told and code == 0 and search.evaluations() == expected and held + made == len(expected)
        survived -= place == "searches" and made > 0
    return 3, survived, "read-only mounts; what was evaluated before is not evaluated again"


def small_disk(sizes_kb: tuple[int, ...] = (16, 32, 64)) -> Result:
    """Journal and results on a file system that is full at some time and is then made larger."""
    if (refused := no_mounts()) is not None:
        return refused
    expected, survived = undisturbed(), 0
    # The mount is seen by these processes alone, so one shell runs both searches and keeps what they made.
    shell = (
        'mount -t tmpfs -o size={}k tmpfs "$0" || exit 9; "$@" > first 2>&1; echo $? > code; '
        'test -e "$0"/s.h5 && echo early >> code; mount -o remount,size=64m "$0"; "$@" > second 2>&1; '
        'echo $? >> code; cp "$0"/s.h5 kept.h5'
    )
    for size in sizes_kb:
        search = Search()
        disk = search.folder / "disk"
        disk.mkdir()
        command = [
            sys.executable,
            "-m",
            "saddleflow.cli",
            "search",
            "--reaction",
            "r.json",
            "--method",
            "m.json",
        ]
        command += ["--output", str(disk / "s.h5"), "--journal", str(disk / "s.jsonl")]
        command = ["unshare", "-rm", "sh", "-c", shell.format(size), str(disk), *command]
        subprocess.run(command, cwd=search.folder, env=_environment(), check=False, timeout=PATIENCE)
        first, second = ((search.folder / name).read_text() for name in ("first", "second"))
        codes = (search.folder / "code").read_text().split()
        told = in_one_line(first) and any(f"{what} is lost" in first for what in ("nothing", "no evaluation"))
        search.output = search.folder / "kept.h5"
        made = first.count(" call ") + second.count(" call ")
        same = len(codes) == 2 and codes[0] != "0" and codes[1] == "0" and search.evaluations() == expected
        # The call whose line found no room is made once more.
        survived += told and same and len(expected) <= made <= len(expected) + 1
    return len(sizes_kb), survived, f"of {', '.join(str(size) for size in sizes_kb)} kB"


def clock(days: tuple[float, ...] = (400.0, 0.1, -400.0)) -> Result:
    """A search begun under a clock that was so many days off is killed and goes on under the right one."""
    expected, survived = undisturbed(), 0
    for shift in days:
        search = Search()
        wrong = f"import time; right = time.time; time.time = lambda: right() + {shift * DAYS}; "
        search.run(wrong + file_limit(12000))
        for path in search.journal.parent.iterdir():
            os.utime(path, (time.time() + shift * DAYS,) * 2)
        held = len(read_journal(search.journal)[1])
        code, said = search.run()
        same = code == 0 and search.evaluations() == expected
        survived += same and held > 0 and held + said.count(" call ") == len(expected)
    return len(days), survived, f"{', '.join(f'{shift:g}' for shift in days)} days ahead"


def psi4_broken() -> Result:
    """Psi4 missing, an interpreter that is none, and one whose NumPy does not fit: one line says what."""
    cases = {"no such file": "/nonexistent/python", "not a Python": "/bin/false"}
    if (trap := _foreign_numpy()) is not None:
        cases["foreign NumPy"] = trap
    survived = 0
    for python in cases.values():
        search = Search({"program": "psi4", "python": python})
        code, said = search.run()
        told = "Psi4 not found or unusable" in said and "What to do: " in said
        survived += code != 0 and told and in_one_line(said) and not search.output.exists()
        survived -= python == trap and "garbles arrays" not in said
    return len(cases), survived, ", ".join(cases)


def _foreign_numpy() -> str | None:
    """Debian's python3 with our NumPy before its own; None where the two do not meet."""
    ours, debian = Path(numpy.__file__).parent, Path("/usr/bin/python3")
    if not debian.is_file() or not shutil.which("psi4") or int(numpy.__version__.split(".")[0]) < 2:
        return None
    asked = [str(debian), "-c", "import sys; print(*sys.version_info[:2])"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        return None
    folder = new_folder()
    for path in (ours, ours.with_name("numpy.libs")):
        if path.exists():
            (folder / path.name).symlink_to(path)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec {debian} "$@"\n')
    script.chmod(0o755)
    return str(script)


def other_schema() -> Result:
    """A run file of another schema version: refused in one line, and left as it is."""
    search = Search()
    search.run()
    with h5py.File(search.output, "r+") as file:
        file.attrs["saddleflow_schema"] = "run/99"
    before = search.output.read_bytes()
    (search.folder / "v.json").write_text("{}")
    survived = 0
    for arguments in (
        [
            "verify",
            "--run-file",
            str(search.output),
            "--settings",
            "v.json",
            "--output",
            "v.h5",
            "--journal",
            "v.jsonl",
        ],
        ["validate", str(search.output)],
    ):
        command = [sys.executable, "-m", "saddleflow.cli", *arguments]
        done = subprocess.run(
            command, cwd=search.folder, env=_environment(), capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        told = "run/99" in said and "Traceback" not in said and len(said.strip().splitlines()) <= 2
        survived += done.returncode != 0 and told and search.output.read_bytes() == before
    return 2, survived, "verify, validate"


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


class Workflow:
    """The workflow on two small reactions, in a copy of its own."""

    RESULTS = "results"

    def __init__(self):
        self.folder = folder = new_folder()
        shutil.copy(ROOT / "Snakefile", folder)
        for name in ("workflow", "profiles", "tools"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "reactions").mkdir()
        for name in ("one", "two"):
            (folder / "reactions" / f"{name}.xyz").write_text(f"3\ncharge=0 multiplicity=1\n{ATOMS}")
        settings = "reactions: reactions\nmethods: [dimer]\nengine: xtb\nverification: {level: index}\n"
        settings += "start: {direction: xtb_softest_mode, random_displacement: 0}\n"
        (folder / "run.yaml").write_text(settings)

    def start(self) -> subprocess.Popen:
        """Start snakemake as a user does."""
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "run.yaml"]
        with (self.folder / "said").open("a") as said:
            return subprocess.Popen(
                command, cwd=self.folder, env=_environment(), stdout=said, stderr=subprocess.STDOUT
            )

    def unlock(self) -> int:
        """As make run does before it starts."""
        command = [sys.executable, "tools/unlock.py", "--configfile", "run.yaml"]
        return subprocess.run(command, check=False, cwd=self.folder, env=_environment()).returncode

    def answers(self) -> list:
        """Evaluations of all searches."""
        runs = [read_run_file(path) for path in sorted(self.folder.glob("results/searches/*/*.h5"))]
        return [[(e.positions.tobytes(), e.energy) for e in run.evaluations] for run in runs]


def snakemake_killed(times: int = 5, seed: int = 0) -> Result:
    """SIGKILL of Snakemake at a random instant of a run, unlocked and started again."""
    whole = Workflow()
    started = time.monotonic()
    assert whole.start().wait(timeout=4 * PATIENCE) == 0, (whole.folder / "said").read_text()
    duration, expected = time.monotonic() - started, whole.answers()
    generator, survived = random.Random(seed), 0
    for _ in range(times):
        workflow = Workflow()
        process = workflow.start()
        time.sleep(generator.uniform(0.3, 0.9) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        unlocked = workflow.unlock() == 0
        code = workflow.start().wait(timeout=4 * PATIENCE)
        left = list(workflow.folder.glob("results/journals/**/*.jsonl"))
        table = workflow.folder / "results" / "summary.csv"
        survived += unlocked and code == 0 and workflow.answers() == expected and not left and table.is_file()
    return times, survived, f"two reactions, an undisturbed run takes {duration:.0f} s"
