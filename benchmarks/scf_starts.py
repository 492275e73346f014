"""Many SCF starts against one: energies against published ones, and CPU seconds.

    python benchmarks/scf_starts.py FOLDER PUBLISHED.csv [--program psi4] [--largest 15] [--every 2]

FOLDER holds xyz files (reaction names as in the table); the table has columns reaction and
initial_energy_eV.  Prints one line a structure and a summary; docs/engines.md quotes it.
"""

import argparse
import csv
import os
import statistics
import time
from pathlib import Path

from saddleflow.engines.catalogue import create_engine
from saddleflow.errors import ScfError
from saddleflow.reactions import read_reactions
from saddleflow.settings import Engine

TOLERANCE_EV = 1e-3


def cpu_seconds(engine) -> float:
    """CPU time so far of this process, or of the engine's worker (Linux)."""
    worker = getattr(engine, "_worker", None)
    if worker is None:
        return time.process_time()
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(reaction, program: str, multi_start: bool) -> tuple[float | None, float, dict]:
    """Energy in eV (None: not converged), CPU seconds and notes of the first evaluation."""
    engine = create_engine(Engine(program=program, multi_start=multi_start), reaction)
    started = cpu_seconds(engine)
    try:
        result = engine.evaluate(reaction.positions)
        return result.energy, cpu_seconds(engine) - started, result.notes
    except ScfError:
        return None, cpu_seconds(engine) - started, {}
    finally:
        engine.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("published", type=Path)
    parser.add_argument("--program", default="psi4", choices=("psi4", "pyscf"))
    parser.add_argument("--largest", type=int, default=15, help="atoms")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    with arguments.published.open() as file:
        published = {row["reaction"]: float(row["initial_energy_eV"]) for row in csv.DictReader(file)}
    small = [r for r in read_reactions(arguments.folder) if len(r.symbols) <= arguments.largest]
    right = {False: 0, True: 0}
    ratios = []
    chosen = small[:: arguments.every]
    for reaction in chosen:
        line, seconds = f"{reaction.name} {len(reaction.symbols):2d}", {}
        for multi_start in (False, True):
            energy, seconds[multi_start], notes = measure(reaction, arguments.program, multi_start)
            above = float("inf") if energy is None else energy - published[reaction.name]
            right[multi_start] += above < TOLERANCE_EV
            line += (
                f"  {'many' if multi_start else 'one'}: {1e3 * above:+9.2f} meV {seconds[multi_start]:5.2f} s"
            )
        ratios.append(seconds[True] / seconds[False])
        print(line, notes, flush=True)
    print(
        f"{len(chosen)} structures; right: one start {right[False]}, many {right[True]}; CPU many over one: "
        f"median {statistics.median(ratios):.2f}, largest {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
