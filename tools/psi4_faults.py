"""Faults of Psi4's worker in the middle of a search: killed, stopped, out of memory, scratch disk full."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from small_search import PATIENCE, Result, Search, in_one_line, no_mounts, until_hit

from saddleflow.engines.journal import read_journal

LIMIT_SECONDS = 60.0
"""Time limit of a call where a worker is stopped; ten times what one takes on a busy machine."""


def _search(**engine) -> Search:
    """HCN at HF/3-21G by gp-dimer, some twenty calls."""
    return Search({"program": "psi4", **engine}, "gp-dimer")


def _undisturbed() -> list[tuple]:
    search = _search()
    code, said = search.run()
    assert code == 0, said
    return search.evaluations()


def _started(wait: float, **engine) -> tuple[Search, subprocess.Popen, int | None]:
    """A search under way, its process and the id of its worker so many seconds after the first call."""
    search = _search(**engine)
    process = search.start()
    end = time.monotonic() + PATIENCE
    while process.poll() is None and _held(search) < 1 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(wait)
    return search, process, _worker_of(process.pid)


def _worker_of(parent: int) -> int | None:
    """Process id of the search's Psi4 worker; None where it has none (any more)."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == parent and b"psi4_worker.py" in entry.with_name("cmdline").read_bytes():
                return int(entry.parent.name)
        except OSError:
            continue
    return None


def _held(search: Search) -> int:
    return len(read_journal(search.journal)[1]) if search.journal.exists() else 0


def _disturbed_workers(times: int, wait: Callable[[], float], disturb: Callable[[int], None]) -> Result:
    """Disturb the worker of so many searches: each has to come to the same numbers with another worker."""
    expected = _undisturbed()

    def attempt() -> bool | None:
        search, process, worker = _started(wait())
        if worker is not None:
            disturb(worker)
        process.communicate(timeout=PATIENCE)
        return None if worker is None else process.returncode == 0 and search.evaluations() == expected

    hit, survived, missed = until_hit(times, attempt)
    return hit, survived, f"{missed} more were not counted: the search had ended before"


def worker_killed(times: int = 10, seed: int = 0) -> Result:
    """SIGKILL of the worker: the search starts another one and goes on to the same numbers."""
    generator = random.Random(seed)
    return _disturbed_workers(
        times, lambda: generator.uniform(0.0, 1.0), lambda worker: os.kill(worker, signal.SIGKILL)
    )


def worker_stopped() -> Result:
    """A worker that hangs (SIGSTOP): given up after the time limit, in one line; then the search goes on."""
    expected = _undisturbed()
    search, process, worker = _started(0.0, timeout_seconds=LIMIT_SECONDS)
    os.kill(worker, signal.SIGSTOP)
    out, error = process.communicate(timeout=PATIENCE)
    said = out + error
    told = process.returncode != 0 and in_one_line(said) and "no answer within" in said
    gone, held = not Path(f"/proc/{worker}").exists(), _held(search)
    code, said = search.run()
    same = code == 0 and search.evaluations() == expected and held + said.count(" call ") == len(expected)
    return 1, int(told and gone and held > 0 and same), f"SIGSTOP, time limit {LIMIT_SECONDS:g} s"


def worker_out_of_memory(times: int = 3) -> Result:
    """A worker that may not allocate any more (RLIMIT_AS): another one takes over, with the same numbers."""

    def no_further_byte(worker: int) -> None:
        size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(worker, resource.RLIMIT_AS, (size, size))

    hit, survived, remark = _disturbed_workers(times, lambda: 0.0, no_further_byte)
    return hit, survived, f"no further byte from some instant on; {remark}"


def scratch_full(sizes_kb: tuple[int, ...] = (8, 16, 64)) -> Result:
    """Scratch on a tiny file system: one line that says so, or the same numbers; with space, those anyway."""
    if (refused := no_mounts()) is not None:
        return refused
    expected, survived, failed = _undisturbed(), 0, 0
    for size in sizes_kb:
        search = _search()
        scratch = search.folder / "scratch"
        scratch.mkdir()
        code, said = search.run(temporary=(scratch, size))
        fine = search.evaluations() == expected if code == 0 else in_one_line(said)
        failed += code != 0
        held = _held(search)
        if code != 0:
            code, said = search.run()
            fine = fine and code == 0 and search.evaluations() == expected
            fine = fine and held + said.count(" call ") == len(expected)
        survived += fine
    tried = f"file systems of {', '.join(str(size) for size in sizes_kb)} kB"
    return len(sizes_kb), survived, f"{tried}; {failed} stopped the search in one line until there was space"
