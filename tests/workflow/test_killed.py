"""Snakemake itself is killed; what it left running, and the one that is started again, end well together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from saddleflow.run_file import read_run_file

ROOT = Path(__file__).parents[2]


def until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def start(project):
    """Start snakemake in the copy and leave it running."""
    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "2", "--configfile", "run.yaml"]
    environment = os.environ | project.environment
    with open(project.folder / "output", "w") as output:
        return subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def unlock(project):
    """Run tools/unlock.py in the copy."""
    command = [sys.executable, "tools/unlock.py", "--configfile", "run.yaml"]
    return subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)


def test_a_killed_snakemake_is_started_again_while_its_search_still_runs(project):
    folder = project.folder
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools/unlock.py", folder / "tools")
    project.write_slow_calculator()
    project.environment = {"PYTHONPATH": str(folder), "SADDLEFLOW_TEST_FOLDER": str(folder)}
    engine = {"program": "ase", "calculator": "slow:Slow", "arguments": {"verbosity": 0}}
    verification = {"level": "none"}
    settings = {"reactions": "reactions", "results": "results", "methods": ["dimer"]}
    project.configure("run.yaml", **settings, engine=engine, verification=verification)
    calls = folder / "calls"
    first = start(project)
    until(lambda: calls.exists() and calls.stat().st_size == 5)
    refused = unlock(project)
    assert refused.returncode == 1 and "works in this folder" in refused.stderr, refused.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()

    freed = unlock(project)
    assert freed.returncode == 0, freed.stdout + freed.stderr
    second = start(project)
    log = folder / "results/logs/search/hcn/dimer.log"
    until(lambda: log.exists() and "waiting for it" in log.read_text())
    (folder / "go").touch()
    assert second.wait(timeout=180) == 0, (folder / "output").read_text()
    frame = pd.read_csv(folder / "results/summary.csv").set_index("reaction")
    assert frame.converged.all()
    search = read_run_file(folder / "results/searches/hcn/dimer.h5")
    assert calls.stat().st_size == len(search.evaluations), "the search went on and was not done twice"
    assert not list((folder / "results/journals").rglob("*.jsonl"))
    assert unlock(project).stdout == "", "there is nothing to unlock"
