"""Find a Python interpreter whose Psi4 works, and start a worker in it.

Psi4 often lives in another interpreter than saddleflow: Debian's package works with Debian's python3 and
its NumPy only.  The worker's own greeting is the proof: it makes an array round trip through Psi4.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from saddleflow.engines.worker_process import WorkerDied, WorkerProcess, WorkerTimeout
from saddleflow.errors import EngineUnavailable

WORKER = Path(__file__).with_name("psi4_worker.py")
START_SECONDS = 120.0
HOW_TO_GET = (
    "install Debian's or Ubuntu's package psi4 (apt install psi4), or conda-forge's psi4 in the same "
    "environment, or name an interpreter with engine: {program: psi4, python: PATH}, or choose engine: pyscf"
)


@dataclass(frozen=True)
class Candidate:
    """An interpreter that may have Psi4.

    Parameters
    ----------
    executable : str
        Python interpreter.
    module_directory : str
        Folder that holds the package ``psi4`` when the interpreter does not look there by itself.
    origin : str
        Why it is a candidate, for messages.
    """

    executable: str
    module_directory: str
    origin: str


def candidates(explicit: str = "") -> list[Candidate]:
    """Interpreters to try, in order: an explicit one alone, else this one, that of ``psi4``, Debian's.

    Parameters
    ----------
    explicit : str
        Interpreter from the settings, or empty.

    Returns
    -------
    list of Candidate
    """
    script = shutil.which("psi4")
    directories = _module_directories(script)
    found: list[Candidate] = []

    def add(executable: str, origin: str) -> None:
        for directory in ["", *directories]:
            candidate = Candidate(executable, directory, origin)
            if all((c.executable, c.module_directory) != (executable, directory) for c in found):
                found.append(candidate)

    if explicit:
        add(explicit, "setting engine.python")
        return found
    found.append(Candidate(sys.executable, "", "saddleflow's own interpreter"))
    shebang = _shebang(script)
    if shebang:
        add(shebang, f"interpreter of {script}")
    if os.access("/usr/bin/python3", os.X_OK):
        add("/usr/bin/python3", "the system's python3")
    return found


def start_worker(explicit: str, memory_mb: int, threads: int) -> tuple[WorkerProcess, Candidate]:
    """Start a worker in the first interpreter whose Psi4 works.

    Parameters
    ----------
    explicit : str
        Interpreter from the settings, or empty.
    memory_mb, threads : int
        Limits of the worker.

    Returns
    -------
    (WorkerProcess, Candidate)
        The worker has greeted with its versions.

    Raises
    ------
    EngineUnavailable
        When no interpreter has a working Psi4; the message lists what was tried.
    """
    tried: dict[str, str] = {}
    for candidate in candidates(explicit):
        try:
            return launch(candidate, memory_mb, threads), candidate
        except (WorkerDied, WorkerTimeout) as error:
            # The same interpreter with and without a module folder: the last attempt says most.
            tried[f"{candidate.executable} ({candidate.origin})"] = str(error)
    attempts = "; ".join(f"{who}: {error}" for who, error in tried.items())
    advice = f"correct engine.python or leave it out; else {HOW_TO_GET}" if explicit else HOW_TO_GET
    raise EngineUnavailable(f"Psi4 not found or unusable; tried {attempts}. What to do: {advice}")


def launch(candidate: Candidate, memory_mb: int, threads: int) -> WorkerProcess:
    """Start a worker in one interpreter and check its greeting.

    Raises
    ------
    WorkerDied, WorkerTimeout
        When Psi4 can't be imported there, or does not work.
    """
    settings = {
        "module_directory": candidate.module_directory,
        "memory_mb": memory_mb,
        "threads": threads,
        "parent": os.getpid(),
    }
    command = [candidate.executable, str(WORKER), json.dumps(settings)]
    worker = WorkerProcess(command, _environment(threads), START_SECONDS)
    if "result" not in worker.greeting:
        worker.close()
        raise WorkerDied(worker.greeting.get("message", "no greeting"))
    return worker


def _environment(threads: int) -> dict[str, str]:
    """Environment of the worker: nothing that points its Python at ours, and so many threads."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") and key not in ("VIRTUAL_ENV", "PSI_SCRATCH")
    }
    for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        kept[key] = str(threads)
    return kept


def _shebang(script: str | None) -> str:
    """Interpreter of a Python script, or empty."""
    if script is None:
        return ""
    try:
        with open(script, "rb") as file:
            first = file.readline(500).decode(errors="replace").strip()
    except OSError:
        return ""
    words = first[2:].split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        return shutil.which(words[-1]) or ""
    return words[0] if words and "python" in Path(words[0]).name else ""


def _module_directories(script: str | None) -> list[str]:
    """Where the installation of the ``psi4`` script keeps its Python package, asked from the script."""
    if script is None:
        return []
    try:
        answer = subprocess.run(
            [script, "--psiapi-path"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=_environment(1),
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    directories = []
    for line in answer.splitlines():
        if line.startswith("export PYTHONPATH="):
            first = line.split("=", 1)[1].split(":")[0]
            if Path(first, "psi4", "__init__.py").is_file():
                directories.append(os.path.normpath(first))
    return directories


def describe_psi4(explicit: str = "") -> str:
    """Version and place of the Psi4 that would be used, proved by starting it.

    Raises
    ------
    EngineUnavailable
        When no interpreter has a working Psi4.
    """
    worker, candidate = start_worker(explicit, memory_mb=256, threads=1)
    worker.close()
    versions = worker.greeting["result"]
    return f"{versions['psi4']} in {candidate.executable} ({candidate.origin}), NumPy {versions['numpy']}"
