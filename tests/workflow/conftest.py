"""A copy of the workflow in a folder of its own, two small reactions, and snakemake as a user starts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SLOW = '''
"""GFN2-xTB that counts its calls on three atoms and waits at the fifth until a certain file is there."""

import os
import time
from pathlib import Path

from tblite.ase import TBLite


class Slow(TBLite):
    def calculate(self, atoms=None, *arguments, **options):
        if len(atoms) == 3:
            folder = Path(os.environ["SADDLEFLOW_TEST_FOLDER"])
            with open(folder / "calls", "a") as file:
                file.write(".")
            while (folder / "calls").stat().st_size >= 5 and not (folder / "go").exists():
                time.sleep(0.05)
        super().calculate(atoms, *arguments, **options)
'''
HCN = "3\ncharge=0 multiplicity=1\nC 0.0 0.0 0.0\nN 1.18 0.0 0.0\nH 0.3 1.2 0.0\n"
H2CO = "4\ncharge=0 multiplicity=1\nC 0.0 0.0 0.0\nO 1.25 0.0 0.0\nH -0.6 0.95 0.0\nH 0.6 1.2 0.0\n"


@dataclass
class Project:
    """A copy of the workflow; the package is the installed one."""

    folder: Path
    environment: dict = field(default_factory=dict)

    def snakemake(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
        """Run snakemake in the copy; standard output and error as text."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | self.environment
        command = [str(Path(sys.executable).parent / "snakemake"), *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def jobs(self, *arguments: str) -> dict[str, int]:
        """Number of jobs of each rule that a dry-run plans."""
        run = self.snakemake("-n", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        counts = re.findall(r"^(\w+) +(\d+)$", (run.stdout + run.stderr).rpartition("Job stats:")[2], re.M)
        return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}

    def write_slow_calculator(self) -> None:
        """Put the module ``slow`` with the calculator ``Slow`` into the copy."""
        (self.folder / "slow.py").write_text(SLOW)

    def configure(self, name: str = "run.yaml", **settings) -> str:
        """Write a configuration file; returns its name.

        Unless it says otherwise gp-dimer and dimer start along a mode: at random, as published, HCN is lost.
        """
        settings = {"start": {"direction": "xtb_softest_mode", "random_displacement": 0.0}} | settings
        (self.folder / name).write_text(yaml.safe_dump(settings, sort_keys=False))
        return name


def copy_project(folder: Path) -> Project:
    """Copy what a run needs from the project's root."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "Snakefile", folder)
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "slurm").symlink_to("profiles/slurm")
    reactions = folder / "reactions"
    reactions.mkdir()
    (reactions / "hcn.xyz").write_text(HCN)
    (reactions / "h2co.xyz").write_text(H2CO)
    return Project(folder)


SET = {"reactions": "reactions", "results": "results", "methods": ["gp-dimer", "dimer"], "engine": "xtb"}


@pytest.fixture
def project(tmp_path):
    """A fresh copy for one test."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A copy in which two reactions and two methods have run to the end (run.yaml); not to be changed."""
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    project.configure("run.yaml", **SET)
    run = project.snakemake("--cores", "2", "--configfile", "run.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    return project


@pytest.fixture
def done(finished, tmp_path):
    """A copy of the finished project for one test to change; modification times are kept."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")
