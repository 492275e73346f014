"""Faults that are really made, and what was lost: `make reliability` writes docs/reliability.md.

Finished cases are kept in a JSON file, so that an interrupted run of the same commit goes on where it was.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hostile_input import ATOMS, NAMES, read, read_many
from machine_faults import clock, other_schema, psi4_broken, read_only, small_disk, snakemake_killed
from psi4_faults import scratch_full, worker_killed, worker_out_of_memory, worker_stopped
from small_search import PATIENCE, ROOT, Result, Search, file_limit, new_folder, undisturbed, until_hit

from saddleflow.engines.journal import read_journal
from saddleflow.engines.psi4_interpreter import describe_psi4
from saddleflow.engines.worker_process import WorkerDied, WorkerProcess, WorkerTimeout
from saddleflow.errors import EngineUnavailable
from saddleflow.provenance import now, versions


def killed(times: int = 25, seed: int = 0) -> Result:
    """SIGKILL at random instants, then started again: the same evaluations, none lost or repeated."""
    expected, generator = undisturbed(), random.Random(seed)

    def attempt() -> bool | None:
        search = Search()
        process = search.start()
        end = time.monotonic() + PATIENCE
        while process.poll() is None and not search.journal.exists() and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.25))
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL or not search.journal.exists():
            return None
        held = len(read_journal(search.journal)[1])
        code, said = search.run()
        lost = len(expected) - held - said.count(" call ")
        return code == 0 and search.evaluations() == expected and lost == 0

    hit, survived, missed = until_hit(times, attempt)
    return hit, survived, f"{missed} more were not counted: the search had ended before the signal came"


def full_disk(times: int = 5) -> Result:
    """No file may grow any more: an error in one line, then, with space again, the same evaluations."""
    expected, survived = undisturbed(), 0
    for number in range(times):
        search = Search()
        code, said = search.run(file_limit(3000 + 4000 * number))
        told = code != 0 and "nothing is lost" in said and not search.output.exists()
        held = len(read_journal(search.journal)[1]) if search.journal.exists() else 0
        code, _ = search.run()
        survived += told and held > 0 and code == 0 and search.evaluations() == expected
    return times, survived, "RLIMIT_FSIZE, at other sizes each time"


def journals() -> Result:
    """Torn last line: taken up. Damage in the middle: said, with what to do, and the file is left alone."""
    expected, survived = undisturbed(), 0
    for damage in ("torn", "corrupt"):
        search = Search()
        code, said = search.run(file_limit(12000))
        content = search.journal.read_bytes()
        if damage == "torn":
            search.journal.write_bytes(content[: content.rindex(b"\n", 0, -1) + 40])
            survived += search.run()[0] == 0 and search.evaluations() == expected
        else:
            lines = content.split(b"\n")
            lines[2] = lines[2].replace(b"1", b"2", 1)
            search.journal.write_bytes(b"\n".join(lines))
            code, said = search.run()
            told = (
                code != 0 and "damaged" in said and "move the file away" in said and "Traceback" not in said
            )
            survived += told and search.journal.read_bytes() == b"\n".join(lines)
    return 2, survived, ""


def together(times: int = 2) -> Result:
    """Two processes told to write one search: one does it, the other waits and takes its result."""
    expected, survived = undisturbed(), 0
    for _ in range(times):
        search = Search()
        both = [search.start(), search.start()]
        codes = [(process.communicate(timeout=PATIENCE), process.returncode)[1] for process in both]
        survived += codes == [0, 0] and search.evaluations() == expected
    return times, survived, ""


def crowded(times: int = 4) -> Result:
    """Four searches at once, whatever the number of cores."""
    expected = undisturbed()
    searches = [Search() for _ in range(times)]
    processes = [search.start() for search in searches]
    codes = [(process.communicate(timeout=PATIENCE), process.returncode)[1] for process in processes]
    same = sum(search.evaluations() == expected for search in searches)
    return times, same if codes == [0] * times else 0, f"on {os.cpu_count()} cores"


WORKERS = {
    "hangs": ("print('{}', flush=True); import time; time.sleep(600)", WorkerTimeout, "no answer within"),
    "dies": ("print('{}', flush=True); import os; os.kill(os.getpid(), 9)", WorkerDied, "signal 9"),
    "floods": (
        "print('{}', flush=True)\nimport os\nwhile True: os.write(1, b'x' * 1000000)",
        WorkerDied,
        "without an end",
    ),
    "exhausts memory": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))\n"
        "print('{}', flush=True)\na = []\nwhile True: a.append(bytearray(10 << 20))",
        WorkerDied,
        "MemoryError",
    ),
    "answers nonsense": (
        "print('{}', flush=True); input(); print('Psi4 says hello', flush=True)",
        WorkerDied,
        "nonsense",
    ),
}


def workers() -> Result:
    """A helper process that hangs, dies, floods, runs out of memory or babbles: one clear error."""
    survived, lost = 0, []
    for fault, (code, kind, words) in WORKERS.items():
        worker = WorkerProcess([sys.executable, "-c", code], dict(os.environ), 20)
        try:
            worker.ask({}, 3.0 if fault == "hangs" else 30.0)
        except (WorkerDied, WorkerTimeout) as error:
            good = isinstance(error, kind) and words in str(error)
            good = good and worker.process.poll() is not None and not worker.scratch.exists()
            survived += good
            lost += [] if good else [f"{fault}: {error}"]
    return len(WORKERS), survived, "; ".join(lost) or ", ".join(WORKERS)


def hostile_files(refused: int = 2000) -> Result:
    """Malformed reaction files, tables and configurations."""
    counts, faults = read_many(new_folder(), refused)
    remark = f"{counts['refused']} refused, {counts['sound']} sound after all"
    return sum(counts.values()), counts["refused"] + counts["sound"], "; ".join([remark, *faults[:3]])


def hostile_names() -> Result:
    """Names that are paths or commands."""
    survived = 0
    for name in NAMES:
        frame = f'3\nname="{name}" charge=0 multiplicity=1\n{ATOMS}'.encode()
        row = f'file\tname\tcharge\tmultiplicity\ngood.xyz\t"{name}"\t0\t1\n'.encode()
        verdicts = [read(new_folder(), suffix, text)[0] for suffix, text in (("extxyz", frame), ("tsv", row))]
        survived += verdicts == ["refused", "refused"]
    return len(NAMES), survived, ""


CASES: dict[str, Callable[[], Result]] = {
    "search killed (SIGKILL) at a random instant, started again": killed,
    "disk full, then space again": full_disk,
    "file system of the results full, then enlarged": small_disk,
    "journal with a torn last line; corrupt journal": journals,
    "results read-only, then writable": read_only,
    "clock jumping back (a search begun under another date)": clock,
    "Snakemake killed (SIGKILL) at a random instant, started again": snakemake_killed,
    "Psi4 missing or broken": psi4_broken,
    "run file of another schema version": other_schema,
    "two processes told to write the same search": together,
    "four searches at once": crowded,
    "a helper process misbehaves": workers,
    "Psi4's worker killed (SIGKILL) at a random instant": worker_killed,
    "Psi4's worker hangs": worker_stopped,
    "Psi4's worker out of memory": worker_out_of_memory,
    "scratch disk of Psi4 full, then space again": scratch_full,
    "malformed reaction files, tables and configurations": hostile_files,
    "names that are paths or shell commands": hostile_names,
}


def commit() -> str:
    """Commit of the program; "+changes" where files were changed after it; "none" outside a repository."""
    asked = [
        subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        for words in (
            ("rev-parse", "--short", "HEAD"),
            ("status", "--porcelain", "--", "src", "tools", "workflow"),
        )
    ]
    if asked[0].returncode:
        return "none"
    return asked[0].stdout.strip() + ("+changes" if asked[1].stdout.strip() else "")


def run_cases(state: Path) -> tuple[dict[str, list], dict[str, str]]:
    """Results of all cases, and the last line of what those that broke off said.

    Finished ones are kept in `state` and count as long as the program is of the same commit.
    """
    here, done, broken = commit(), {}, {}
    if state.exists():
        kept = json.loads(state.read_text())
        done = kept["cases"] if kept.get("commit") == here else {}
    for name, case in CASES.items():
        if name in done:
            continue
        with tempfile.TemporaryDirectory(prefix="saddleflow-reliability-") as folder:
            tempfile.tempdir = folder  # whatever a case makes goes with it
            try:
                done[name] = [*case(), now()]
            except Exception as error:  # the others are still worth making
                broken[name] = f"{type(error).__name__}: {error}"
            finally:
                tempfile.tempdir = None
        print(name, done.get(name, broken.get(name)), flush=True)
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(json.dumps({"commit": here, "cases": done}))
    return {name: done[name] for name in CASES if name in done}, broken


def main(state: Path, table: Path) -> int:
    """Run what is not in `state` yet and write `table`; 1 if something was lost or broke off."""
    done, broken = run_cases(state)
    installed = ", ".join(f"{name} {version}" for name, version in sorted(versions().items()))
    rows = [
        f"| {name} | {tried} | {survived} | {tried - survived} | {when[:10]} | {remark.replace('|', '/')} |"
        for name, (tried, survived, remark, when) in done.items()
    ]
    rows += [f"| {name} | not finished | | | {now()[:10]} | start again |" for name in broken]
    try:
        psi4 = "psi4 " + describe_psi4().split()[0]
    except EngineUnavailable:
        psi4 = "no Psi4"
    head = """# Reliability: faults that were really made

Written by `make reliability` (tools/reliability.py). Survived: nothing lost, nothing repeated, and where a
job can't go on, one line that says why and what to do. Searches are plain dimers on GFN2-xTB, those of Psi4's
worker gp-dimer on HCN at HF/3-21G, compared evaluation by evaluation with an undisturbed one.

| case | tried | survived | lost | date | remark |
|---|---|---|---|---|---|
"""
    foot = f"\n\nCommit {commit()}. Versions: {installed}; {psi4}.\n"
    table.write_text(head + "\n".join(rows) + foot, encoding="utf-8")
    return int(bool(broken) or any(tried != survived for tried, survived, *_ in done.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
