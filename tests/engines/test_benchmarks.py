"""The scripts of `benchmarks/` that work on stored searches, run as their first lines say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from saddleflow import sparrow
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.run_file import write_run_file
from saddleflow.settings import Engine, PriorGPDimer
from saddleflow.surrogate.surface_parameters import read_surface_parameters

ROOT = Path(__file__).parents[2]
HCN = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.19, 0.0, 0.0], [0.25, 1.4, 0.0]]))


def run_benchmark(script, *arguments):
    """A script, run as a user would."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments]
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([str(p) for p in command], env=environment, capture_output=True, text=True)


def benchmark(script, *arguments):
    """Output of a script that succeeds."""
    done = run_benchmark(script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Folder with the run file of one search on GFN2-xTB, and its calls."""
    folder = tmp_path_factory.mktemp("stored")
    engine, method = Engine(program="xtb"), PriorGPDimer(prior="GFN1-xTB", go_on=0)
    ledger = Ledger(create_engine(engine, HCN), None, key={}, max_calls=60)
    run = carry_out(ledger, HCN, "prior", method, engine.model_dump(mode="json"))
    ledger.close()
    write_run_file(folder / "hcn.h5", run)
    return folder, run.calls()


def test_what_if_with_the_same_settings_asks_nothing_new(stored, tmp_path):
    folder, calls = stored
    assert "1 searches, in none of which it acts" in benchmark("what_if.py", folder, tmp_path / "rows")
    (row,) = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert (row["calls"], row["before"], row["new"]) == (calls, calls, 0)
    assert row["energy"] == row["energy_before"]


def test_what_if_computes_where_the_change_acts_and_leaves_out_what_is_done(stored, tmp_path):
    folder, _ = stored
    arguments = ("what_if.py", folder, tmp_path / "rows", "--settings", '{"max_trust_radius": 0.05}')
    assert "it acts in 1" in benchmark(*arguments)
    first = (tmp_path / "rows").read_text()
    row = json.loads(first)
    assert row["new"] > 0 and row["outcome"] == "converged"
    assert row["energy"] == pytest.approx(row["energy_before"], abs=1e-3)
    benchmark(*arguments)
    assert (tmp_path / "rows").read_text() == first


def test_overhead_counts_the_stored_evaluations(stored):
    folder, calls = stored
    assert f"1 searches, {calls} evaluations" in benchmark("overhead.py", folder)


@pytest.mark.skipif(not sparrow.available(), reason="scine-sparrow is not installed")
def test_fitting_the_surfaces_to_a_level_of_theory(stored, tmp_path):
    folder, _ = stored
    benchmark("fit_surfaces.py", "displace", folder, tmp_path / "displaced")
    document = json.loads((tmp_path / "displaced/hcn.json").read_text())
    assert np.shape(document["gradients"]) == (4, 3, 3)
    assert abs(np.array(document["gradients"][0])).max() < 0.01  # the saddle
    fitted = tmp_path / "fitted.json"
    arguments = ("--displaced", tmp_path / "displaced", "--test", folder, "--iterations", "1")
    benchmark("fit_surfaces.py", "fit", folder, fitted, *arguments)
    parameters = read_surface_parameters(fitted)
    assert parameters.elements == (1, 6, 7) and parameters.reactions == 1
    assert parameters.error_after < parameters.error_before


def test_a_fit_that_nothing_can_judge_is_refused(stored, tmp_path):
    arguments = ("fit_surfaces.py", "fit", stored[0], tmp_path / "fitted.json", "--test", tmp_path)
    done = run_benchmark(*arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{tmp_path}: no run file with two points" in done.stderr
