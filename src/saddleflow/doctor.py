"""What is installed, what is missing, what that means, and how to get it, in plain words."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass

from saddleflow.engines.catalogue import check_engine
from saddleflow.engines.psi4_interpreter import HOW_TO_GET, describe_psi4
from saddleflow.errors import EngineUnavailable
from saddleflow.settings import Engine


@dataclass(frozen=True)
class Finding:
    """What was found about one program.

    Parameters
    ----------
    name : str
        Program or package.
    found : bool
        Whether it is there and works.
    needed : bool
        Whether saddleflow can't run (as configured) without it.
    text : str
        Version and place, or what is wrong.
    remedy : str
        How to get it; empty when found.
    """

    name: str
    found: bool
    needed: bool
    text: str
    remedy: str = ""


PACKAGES = (
    # distribution, what for, remedy, needed by everything
    ("numpy", "arrays", "pip install numpy", True),
    ("scipy", "linear algebra", "pip install scipy", True),
    ("ase", "molecules", "pip install ase", True),
    ("h5py", "run files", "pip install h5py", True),
    ("tblite", "GFN-xTB: engine xtb and the default start direction", "pip install tblite", True),
    (
        "scine-sparrow",
        "PM3, PM6 and DFTB3 in the prior of prior-gp-dimer",
        "pip install scine-sparrow (x86_64 Linux, Python 3.12 at most; else the prior is xTB alone)",
        False,
    ),
    ("pyscf", "engine pyscf: the levels of Psi4 without Psi4", "pip install 'saddleflow[pyscf]'", False),
    ("sella", "methods sella and sella-xtb", "pip install 'saddleflow[sella]'", False),
    ("pymc", "saddleflow compare --bayes", "pip install 'saddleflow[bayes]'", False),
    ("snakemake", "sets of reactions, restarts, clusters", "pip install 'saddleflow[workflow]'", False),
    (
        "snakemake-executor-plugin-slurm",
        "snakemake --profile slurm",
        "pip install 'saddleflow[workflow]'",
        False,
    ),
)
_PROGRAM_PACKAGES = {"pyscf": "pyscf", "xtb": "tblite"}


def examine(engine: Engine | None = None) -> list[Finding]:
    """Look at everything that saddleflow can use.

    Parameters
    ----------
    engine : saddleflow.settings.Engine, optional
        The configured engine: its program counts as needed, and it is checked as configured.

    Returns
    -------
    list of Finding
    """
    program = engine.program if engine else ""
    findings = [_psi4(engine)]
    for distribution, purpose, remedy, needed in PACKAGES:
        needed = needed or _PROGRAM_PACKAGES.get(program) == distribution  # noqa: PLW2901
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(distribution, False, needed, f"not installed ({purpose})", remedy))
        else:
            findings.append(Finding(distribution, True, needed, f"{version} ({purpose})"))
    sbatch = shutil.which("sbatch")
    findings.append(
        Finding("slurm", True, False, f"{sbatch} (cluster)")
        if sbatch
        else Finding(
            "slurm", False, False, "no sbatch on PATH (only for --profile slurm)", "run on a Slurm login node"
        )
    )
    if engine is not None:
        problems = check_engine(engine)
        text = "; ".join(problems) or "usable"
        findings.append(
            Finding(
                f"engine {engine.level}",
                not problems,
                True,
                text,
                "see the lines above, or choose another engine" if problems else "",
            )
        )
    return findings


def report(engine: Engine | None = None) -> str:
    """The findings as text, one line each, with the remedy below what is missing.

    Parameters
    ----------
    engine : saddleflow.settings.Engine, optional
        The configured engine.
    """
    lines = []
    for finding in examine(engine):
        mark = "ok     " if finding.found else ("MISSING" if finding.needed else "absent ")
        lines.append(f"{mark}  {finding.name}: {finding.text}")
        if finding.remedy:
            lines.append(f"         -> {finding.remedy}")
    lines.append(
        "The engine is what the configuration says (engine: psi4, pyscf, xtb or ase); "
        "saddleflow never falls back to another one by itself."
    )
    return "\n".join(lines)


def _psi4(engine: Engine | None) -> Finding:
    needed = engine is not None and engine.program == "psi4"
    try:
        text = describe_psi4(engine.python if engine else "")
    except EngineUnavailable as error:
        return Finding("psi4", False, needed, str(error).split(" What to do:", maxsplit=1)[0], HOW_TO_GET)
    return Finding("psi4", True, needed, text)
