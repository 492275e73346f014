"""Many SCF starts against one: energies against published ones, and CPU seconds.

    python benchmarks/scf_starts.py FOLDER PUBLISHED.csv OUTPUT.jsonl [--program psi4] [--many-only]

FOLDER holds xyz files (reaction names as in the table); the table has columns reaction and
initial_energy_eV.  All structures with many starts, then with one (`--many-only`: not).  OUTPUT keeps what
is finished, so an interrupted run goes on.  Prints one line a call and a summary; docs/engines.md quotes it.
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path

import numpy as np

from saddleflow.engines.catalogue import create_engine
from saddleflow.errors import ScfError
from saddleflow.reactions import read_reactions
from saddleflow.settings import Engine

TOLERANCE_MEV = 1.0


def worker_cpu_seconds(worker) -> float:
    """CPU time of an engine's worker process so far (Linux)."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(engine) -> float:
    """CPU time so far of this process, or of the engine's worker."""
    worker = getattr(engine, "_worker", None)
    return time.process_time() if worker is None else worker_cpu_seconds(worker)


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
    parser.add_argument("output", type=Path)
    parser.add_argument("--program", default="psi4", choices=("psi4", "pyscf"))
    parser.add_argument("--largest", type=int, default=1000, help="atoms")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--many-only", action="store_true")
    arguments = parser.parse_args()
    with arguments.published.open() as file:
        published = {row["reaction"]: float(row["initial_energy_eV"]) for row in csv.DictReader(file)}
    small = [r for r in read_reactions(arguments.folder) if len(r.symbols) <= arguments.largest]
    chosen = small[:: arguments.every]
    done = {}
    if arguments.output.exists():
        records = map(json.loads, arguments.output.read_text().splitlines())
        done = {(record["name"], record["many"]): record for record in records}
    for many in (True,) if arguments.many_only else (True, False):
        for reaction in chosen:
            name = reaction.name
            if (name, many) not in done:
                energy, seconds, notes = measure(reaction, arguments.program, many)
                above = None if energy is None else 1e3 * (energy - published[name])
                record = {"name": name, "many": many, "atoms": len(reaction.symbols), "above_mev": above}
                done[name, many] = record | {"seconds": seconds, "notes": notes}
                with arguments.output.open("a") as file:
                    file.write(json.dumps(done[name, many]) + "\n")
                print(done[name, many], flush=True)
    for many, words in ((True, "many starts"), (False, "one start")):
        records = [done[r.name, many] for r in chosen if (r.name, many) in done]
        wrong = [r for r in records if r["above_mev"] is None or r["above_mev"] > TOLERANCE_MEV]
        lower = [r for r in records if r not in wrong and r["above_mev"] < -TOLERANCE_MEV]
        print(f"{words}: {len(records)} structures, right {len(records) - len(wrong)}")
        for kind, those in (("too high or not converged", wrong), ("below the published energy", lower)):
            print(f"  {kind}:", ", ".join(f"{r['name']} ({r['above_mev']} meV)" for r in those) or "none")
    both = [r.name for r in chosen if (r.name, True) in done and (r.name, False) in done]
    if both:
        ratios = [done[name, True]["seconds"] / done[name, False]["seconds"] for name in both]
        quantiles = np.quantile(ratios, (0.5, 0.9, 1.0))
        print("CPU many over one: median {:.2f}, 90 % below {:.2f}, largest {:.2f}".format(*quantiles))


if __name__ == "__main__":
    main()
