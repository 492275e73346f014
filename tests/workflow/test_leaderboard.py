"""A leaderboard that runs out of time, is started again, and ends in one page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from saddleflow.run_file import read_run_file
from saddleflow.run_inputs import RunPlan

ROOT = Path(__file__).parents[2]
PUBLISHED = (
    "reaction,atoms,multiplicity,gp_dimer_converged,gp_dimer_calls,gp_dimer_saddle_energy_eV\n"
    "hcn,3,1,True,9,-1\nelsewhere,5,1,False,,\n"
)


@pytest.mark.slow
def test_out_of_time_it_stops_and_the_same_command_goes_on(project):
    folder = project.folder
    (folder / "tools").mkdir()
    for name in ("leaderboard.py", "unlock.py"):
        shutil.copy(ROOT / "tools" / name, folder / "tools")
    project.write_slow_calculator()
    (folder / "reactions/h2co.xyz").unlink()
    (folder / "published.csv").write_text(PUBLISHED)
    engine = {"program": "ase", "calculator": "slow:Slow", "arguments": {"verbosity": 0}}
    project.configure("base.yaml", engine=engine, verification={"level": "none"})
    environment = os.environ | {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"SADDLEFLOW_TEST_FOLDER": str(folder), "OMP_NUM_THREADS": "1"}

    def leaderboard(minutes):
        options = {
            "reactions": "reactions",
            "methods": "gp-dimer",
            "settings": "base.yaml",
            "minutes": minutes,
        }
        options |= {"published": "published.csv"}
        command = [sys.executable, "tools/leaderboard.py"]
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    first = leaderboard(0.5)
    assert "the time is over" in first.stdout, first.stdout + first.stderr
    assert "no reaction was finished by all methods yet" in first.stderr
    assert "Some jobs failed" not in first.stdout + first.stderr, "nothing failed, the time was over"
    calls = folder / "calls"
    assert calls.stat().st_size == 5, "the search was in its fifth call"

    (folder / "go").touch()
    second = leaderboard(4)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Compared: 1 of 1 reactions" in second.stdout
    results = folder / "results-leaderboard"
    run = read_run_file(results / "searches/hcn/gp-dimer.h5")
    assert calls.stat().st_size == len(run.evaluations) + 1, "only the call in flight was lost"
    assert run.method["convergence"]["criterion"] == "force_norm", "as the published programs"
    page = (results / "comparison/leaderboard.html").read_text()
    assert "GP-dimer (published)" in page and "all 2 reactions of the table" in page
    methods = pd.read_csv(results / "comparison/methods.csv")
    assert methods["method"].tolist() == ["gp-dimer", "GP-dimer (published)"]


def test_reactions_start_in_a_random_order_that_another_reaction_does_not_shuffle():
    names = [f"r{i:03d}" for i in range(200)]
    order = RunPlan(names, ["a"], "results", 1, 1).priorities
    assert sorted(order.values()) == list(range(1, 201))
    place = [order[name] for name in names]
    assert abs(pd.Series(place).corr(pd.Series(range(200)))) < 0.2, "names say nothing about the place"
    more = RunPlan([*names, "new"], ["a"], "results", 1, 1).priorities
    assert sorted(names, key=more.get) == sorted(names, key=order.get)
