"""CPU seconds of energy and forces: calls as a search makes them against plain Psi4, on the same geometries.

    python benchmarks/engine_calls.py FOLDER OUTPUT.jsonl [--atoms 10 10] [--searches 8] [--calls 6]

FOLDER holds run files of Psi4 searches (*.h5), whose geometries are walked along: the first with many starts,
which is not counted; each further one by the worker with the orbitals before, by a cold psi4.gradient (exact
integrals, atomic densities, 1e-8, otherwise Psi4's own settings; psi4_cold.py), and by the worker with
everything tight from the same orbitals, which tells the errors of the forces.  OUTPUT keeps finished
geometries, so an interrupted run goes on.  Prints one line a search and the ratio of all; docs/engines.md
quotes it.
"""

import argparse
import base64
import json
import os
import statistics
from pathlib import Path

import numpy as np
from ase.units import Bohr, Hartree
from scf_starts import worker_cpu_seconds

from saddleflow.engines.psi4 import Psi4Engine
from saddleflow.engines.psi4_interpreter import WORKER, start_worker
from saddleflow.engines.worker_process import WorkerProcess
from saddleflow.run_file import RunFile, read_run_file
from saddleflow.settings import Engine

COLD = Path(__file__).with_name("psi4_cold.py")
SAME_STATE_EV = 1e-3


def start_cold() -> WorkerProcess:
    """Psi4 as a user would call it, in the interpreter that the engine takes."""
    probe, interpreter = start_worker("", 1000, 1)
    probe.close()
    settings = {"module_directory": interpreter.module_directory, "memory_mb": 1000, "threads": 1}
    settings["parent"] = os.getpid()
    command = [interpreter.executable, str(COLD), str(WORKER), json.dumps(settings)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return WorkerProcess(command, environment, 120.0)


def walk(name: str, run: RunFile, calls: int, cold: WorkerProcess, done: dict, output: Path) -> list[dict]:
    """Records of one search, those of `done` not measured again."""
    points = [e.positions for e in run.evaluations if e.forces is not None][: calls + 1]
    missing = [k for k in range(1, len(points)) if (name, k) not in done]
    if missing:
        engine = Psi4Engine(Engine(), run.reaction)
        for number in range(max(missing) + 1):
            before = worker_cpu_seconds(engine._worker)
            ours = engine.evaluate(points[number])
            seconds = worker_cpu_seconds(engine._worker) - before
            if number not in missing:
                continue
            request = {**engine._molecule, "positions": (points[number] / Bohr).ravel().tolist()}
            before = worker_cpu_seconds(cold)
            plain = cold.ask({**request, "call": "cold"}, 600.0)
            plain_seconds = worker_cpu_seconds(cold) - before
            state = base64.b64encode(ours.state).decode("ascii")
            tight = cold.ask({**request, "call": "tight", "state": state}, 600.0)["result"]
            record = {"search": name, "call": number, "atoms": len(points[0])}
            record |= {"multiplicity": run.reaction.multiplicity, "iterations": ours.scf_iterations}
            record |= {
                "warm": seconds,
                "cold": plain_seconds,
                "followed": ours.notes["scf_start"] == "previous",
            }
            forces = -np.reshape(tight["gradient"], (-1, 3)) * Hartree / Bohr
            record["force_error"] = float(abs(ours.forces - forces).max())
            record["energy_error"] = ours.energy - tight["energy"] * Hartree
            if "result" in plain:
                record["cold_above"] = plain["result"]["energy"] * Hartree - ours.energy
            with output.open("a") as file:
                file.write(json.dumps(record) + "\n")
            done[name, number] = record
        engine.close()
    return [done[name, number] for number in range(1, len(points))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--atoms", type=int, nargs=2, default=(10, 10), help="smallest and largest molecule")
    parser.add_argument("--searches", type=int, default=8)
    parser.add_argument("--calls", type=int, default=6)
    arguments = parser.parse_args()
    done = {}
    if arguments.output.exists():
        records = map(json.loads, arguments.output.read_text().splitlines())
        done = {(record["search"], record["call"]): record for record in records}
    runs = {
        str(path.relative_to(arguments.folder)): read_run_file(path)
        for path in sorted(arguments.folder.rglob("*.h5"))
    }
    smallest, largest = arguments.atoms
    chosen = {}
    for path, run in runs.items():
        if run.provenance["program"] == "psi4" and smallest <= len(run.reaction.symbols) <= largest:
            chosen.setdefault(run.reaction.name, (path, run))
    names = sorted(chosen, key=lambda name: (name[1:], name))[: arguments.searches]
    cold, all_of_them = start_cold(), []
    for name in names:
        path, run = chosen[name]
        records = walk(path, run, arguments.calls, cold, done, arguments.output)
        all_of_them += records
        warm, plain = (sum(record[key] for record in records) for key in ("warm", "cold"))
        print(f"{name} {len(run.reaction.symbols):2d} atoms: {warm / plain:.2f}", flush=True)
    cold.close()
    # A cold call that fails or ends on another state is no measure of the work.
    same = [record for record in all_of_them if abs(record.get("cold_above", 1.0)) < SAME_STATE_EV]
    warm, plain = (sum(record[key] for record in same) for key in ("warm", "cold"))
    ratios = [record["warm"] / record["cold"] for record in same]
    print(
        f"{len(same)} calls: CPU warm over cold {warm / plain:.2f}, "
        f"median {statistics.median(ratios):.2f}, 90 % below {np.quantile(ratios, 0.9):.2f}; "
        f"cold {plain / len(ratios):.2f} s a call"
    )
    worst = max(record["force_error"] for record in all_of_them)
    print(f"largest error of a force component {worst:.1e} eV/Angstrom")
    print(f"cold calls on another state or none, not in the ratios: {len(all_of_them) - len(same)}")


if __name__ == "__main__":
    main()
