"""`snakemake --profile slurm` on a real Slurm of one node."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

_PATH = Path(__file__).with_name("slurm_node.py")
_SPECIFICATION = importlib.util.spec_from_file_location("slurm_node", _PATH)
slurm_node = importlib.util.module_from_spec(_SPECIFICATION)
_SPECIFICATION.loader.exec_module(slurm_node)


@pytest.fixture(scope="module")
def node():
    """A running Slurm node, or the reason why there is none."""
    reason = slurm_node.missing()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="saddleflow-slurm-"))
    (folder / slurm_node.OWNER).write_text(str(os.getpid()))
    slurm_node.start(folder)
    yield folder
    subprocess.run(["scancel", "--full", "--state=RUNNING"], check=False)
    subprocess.run(["scancel", "--full", "--state=PENDING"], check=False)
    slurm_node.stop(folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_the_bare_profile_name_runs_a_set_through_slurm(node, project):
    (project.folder / "config").mkdir()
    (project.folder / "reactions/h2co.xyz").unlink()
    project.configure(
        "config/config.yaml", reactions="reactions", methods=["gp-dimer", "dimer"], engine="xtb"
    )
    run = project.snakemake("--profile", "slurm", timeout=400)
    assert run.returncode == 0, run.stdout + run.stderr
    frame = pd.read_csv(project.folder / "results/summary.csv")
    assert len(frame) == 2
    assert (frame.verification == "passed").all()
    completed = subprocess.run(
        ["squeue", "-h", "-t", "COMPLETED", "-o", "%i"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(completed) >= 4, "two searches and two verifications were Slurm jobs"
    assert project.jobs("--profile", "slurm") == {}
    assert project.jobs("--cores", "1") == {}, "local and cluster runs know each other's results"
