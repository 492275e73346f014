"""All settings: one pydantic source for the check, the JSON schema and the documented default YAML.

Every model forbids unknown keys and is frozen.  A run configuration is complete with ``reactions``,
``results``, ``methods`` and ``engine``; everything else has a default.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from saddleflow.method_settings import (
    AnyMethod,
    Convergence,
    Dimer,
    GPDimer,
    Method,
    OTGPDimer,
    PriorGPDimer,
    Section,
    Sella,
    SellaXTB,
    Start,
)

__all__ = [
    "AnyMethod",
    "Convergence",
    "Dimer",
    "Engine",
    "GPDimer",
    "LearnPrior",
    "Method",
    "OTGPDimer",
    "PriorGPDimer",
    "Section",
    "Sella",
    "SellaXTB",
    "Settings",
    "Start",
    "Verification",
]


class Engine(Section):
    """Where energies and forces come from."""

    resource_keys: ClassVar[frozenset[str]] = frozenset({"timeout_seconds", "memory_mb", "threads", "python"})
    """Keys that say how an engine runs, not what it answers: changing them makes no result outdated."""

    program: Literal["psi4", "pyscf", "xtb", "ase"] = "psi4"
    """psi4 | pyscf | xtb (tblite) | ase (any ASE calculator by import path). Never chosen silently."""
    method: str = "hf"
    """Level of theory: hf or a density functional that the program knows; for xtb GFN2-xTB or GFN1-xTB."""
    basis: str = "3-21g"
    """Basis set (psi4 and pyscf)."""
    calculator: str = ""
    """For program ase: import path of the calculator class, such as tblite.ase:TBLite."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """For program ase: keyword arguments of the calculator; {charge} and {multiplicity} are filled in."""
    multi_start: bool = True
    """Start the first SCF from several guesses and keep the lowest state (psi4)."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """One evaluation that takes longer is stopped."""
    memory_mb: Annotated[int, Field(ge=256)] = 1000
    """Memory of one engine process in MB."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of one engine process."""
    python: str = ""
    """Python interpreter that can import psi4; empty: found by itself (see saddleflow doctor)."""

    @property
    def level(self) -> str:
        """Level of theory as one word, such as ``psi4:hf/3-21g``."""
        if self.program in ("psi4", "pyscf"):
            return f"{self.program}:{self.method}/{self.basis}".lower()
        if self.program == "xtb":
            return f"xtb:{self.method if 'xtb' in self.method.lower() else 'GFN2-xTB'}"
        return f"ase:{self.calculator}"


class Verification(Section):
    """How a converged point is proved to be a first-order saddle."""

    level: Literal["none", "curvature", "index", "auto", "hessian"] = "auto"
    """none | curvature (lowest mode only) | index (number of imaginary modes by a handful of evaluations, the
    full Hessian where they don't decide) | auto (index where the search has made that proof, else an analytic
    Hessian where the engine has one, else index) | hessian (the full one)."""
    displacement: Annotated[float, Field(gt=0)] = 0.005
    """Step of finite differences, Angstrom."""
    zero_frequency_cm1: Annotated[float, Field(ge=0)] = 0.0
    """An imaginary frequency smaller than this does not count as a negative mode, cm-1."""
    bond_scale: Annotated[float, Field(gt=1)] = 1.3
    """Atoms closer than this times the sum of their covalent radii count as bonded."""


class LearnPrior(Section):
    """A prior for prior-gp-dimer that is learned from the first searches of the set."""

    pilot: Annotated[int, Field(ge=0)] = 0
    """Search so many reactions first, learn from them, then search the others; 0: off."""


class Settings(Section):
    """A run configuration: what to search, with what, and where results go."""

    # A folder named 2024 arrives as a number, from YAML as well as from `snakemake --config`.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    reactions: Annotated[str, Field(min_length=1)] = "data/starter"
    """Folder of .xyz/.extxyz files, one multi-frame .extxyz, a .tsv/.csv table, or dataset:NAME."""
    results: Annotated[str, Field(min_length=1)] = "results"
    """Folder of all results."""
    methods: list[str] = Field(default_factory=lambda: ["prior-gp-dimer", "gp-dimer", "dimer"], min_length=1)
    """Names of built-in methods or of blocks under method_settings."""
    engine: Engine = Engine()
    """Where energies and forces come from: a program's name alone (engine: xtb), or a section."""
    convergence: Convergence = Convergence()
    """When a point counts as stationary; for all methods that do not set their own."""
    start: Start = Start()
    """Start direction; for all methods that do not set their own."""
    verification: Verification = Verification()
    """How a converged point is proved to be a first-order saddle."""
    learn_prior: LearnPrior = LearnPrior()
    """Learn from a pilot batch what makes the other searches cheaper."""
    published: str = ""
    """Table of published results on the same structures (docs/comparison.md), for saddleflow compare."""
    method_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Variants of methods, NAME: {algorithm: gp-dimer, max_step: 0.1}; a block named like a built-in method
    changes that method."""

    @field_validator("engine", mode="before")
    @classmethod
    def _program_alone(cls, value: Any) -> Any:
        return {"program": value} if isinstance(value, str) else value

    @field_validator("methods", mode="before")
    @classmethod
    def _one_method(cls, value: Any) -> Any:
        # `--config methods=gp-dimer` hands over one string; commas separate several.
        return _parts(value) if isinstance(value, str) else value


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
