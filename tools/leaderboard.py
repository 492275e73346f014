"""Run methods by structures within a time budget and write the leaderboard; start it again to go on.

    python tools/leaderboard.py --reactions FOLDER --methods "prior-gp-dimer gp-dimer" --minutes 60 --cores 2

Run from the project's root with the .venv's python (`make leaderboard` does).  The workflow does the work:
this writes a configuration, starts snakemake, interrupts it when the time is over, and compares the methods.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

GRACE = 120
"""Seconds that an interrupted snakemake has to end (on Slurm: cancel) its jobs before it is killed."""


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--reactions", default="", help="folder, file or table of structures, or dataset:NAME")
    add("--methods", default="", help="names, separated by blanks or commas")
    add("--results", default="results-leaderboard", help="results folder (results-leaderboard)")
    add("--engine", default="", help="psi4, pyscf or xtb (psi4)")
    add("--settings", default="", help="configuration file for everything else, such as variants of methods")
    add("--published", default="", help="table of published results, see docs/comparison.md")
    add("--minutes", type=float, default=60.0, help="time budget (60)")
    add("--cores", type=int, default=1, help="searches side by side (1)")
    add("--profile", default="", help="profile of the workflow in place of --cores, such as slurm")
    add("--jobs", default="", help="with a profile: jobs in the queue at the same time (as the profile says)")
    return parser.parse_args()


def configuration(asked: argparse.Namespace) -> dict:
    """Settings of the run: the file that was named, and what was asked for on top of it."""
    given = {}
    if asked.settings:
        try:
            given = yaml.safe_load(Path(asked.settings).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            print(f"saddleflow: error: {asked.settings}: {error}", file=sys.stderr)
            sys.exit(2)
    # What three of the four published programs converged, so that the calls can stand side by side.
    given.setdefault("convergence", {"criterion": "force_norm"})
    for key in ("reactions", "methods", "engine", "published"):
        if value := getattr(asked, key):
            given[key] = value.replace(",", " ").split() if key == "methods" else value
    given["results"] = asked.results
    return given


def run(command: list[str], seconds: float) -> int | None:
    """Exit code of a command, None when it was stopped because its time was over (or by the user)."""
    # A process group of its own: the signal must reach the searches too, which write their journals and end.
    # The table is made below; that of the workflow would call a run that was stopped in time a failed one.
    process = subprocess.Popen(
        command, start_new_session=True, env=os.environ | {"SADDLEFLOW_TABLE": "later"}
    )
    try:
        return process.wait(timeout=seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        over = isinstance(reason, subprocess.TimeoutExpired)
        print(
            f"saddleflow: {'the time is over' if over else 'interrupted'}; stopping the searches", flush=True
        )
    for number, wait in ((signal.SIGINT, GRACE), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=wait)
            break
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    return None


def main() -> int:
    """Run, stop in time, compare."""
    asked = arguments()
    # A shell starts what runs in its background with SIGINT ignored, and the searches would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = time.monotonic() + 60 * asked.minutes
    results = Path(asked.results)
    config = results / "leaderboard.yaml"
    results.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(configuration(asked), sort_keys=False, allow_unicode=True)
    config.write_text("# Written by tools/leaderboard.py at every start.\n" + text, encoding="utf-8")

    unlock = subprocess.run([sys.executable, "tools/unlock.py", "--configfile", str(config)], check=False)
    if unlock.returncode:
        return unlock.returncode
    where = ["--profile", asked.profile] if asked.profile else ["--cores", str(asked.cores)]
    if asked.profile and asked.jobs:
        where += ["--jobs", asked.jobs]
    command = [sys.executable, "-m", "snakemake", *where, "--configfile", str(config)]
    code = run(command, end - time.monotonic())
    if code == 2:
        return code  # the configuration is wrong; preflight has said how
    if code is None:
        print("saddleflow: the same command goes on where this stopped", flush=True)
    saddleflow = [sys.executable, "-m", "saddleflow.cli"]
    if code != 0 and subprocess.run([*saddleflow, "summarise", str(results)], check=False).returncode:
        return 1
    return subprocess.run([*saddleflow, "compare", str(results)], check=False).returncode or code or 0


if __name__ == "__main__":
    sys.exit(main())
