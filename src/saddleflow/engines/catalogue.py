"""From engine settings to an engine, and whether the settings can work on this machine."""

from __future__ import annotations

from collections.abc import Set

from saddleflow import settings
from saddleflow.engines.ase_calculator import AseEngine, calculator_problems, xtb_problems
from saddleflow.engines.psi4 import Psi4Engine, psi4_problems
from saddleflow.engines.pyscf_engine import PyscfEngine, pyscf_problems
from saddleflow.errors import EngineUnavailable
from saddleflow.evaluation import Engine
from saddleflow.reaction import Reaction


def create_engine(options: settings.Engine, reaction: Reaction) -> Engine:
    """Make the engine of one molecule; close it after use.

    Parameters
    ----------
    options : saddleflow.settings.Engine
        Program, level of theory and limits.
    reaction : Reaction
        Elements, charge and multiplicity.

    Returns
    -------
    Engine

    Raises
    ------
    EngineUnavailable
        When the program is missing on this machine.
    InputError
        When charge and multiplicity don't fit the elements, or the program refuses its arguments.
    """
    engines = {"psi4": Psi4Engine, "pyscf": PyscfEngine, "xtb": AseEngine.xtb, "ase": AseEngine.imported}
    return engines[options.program](options, reaction)


def check_engine(options: settings.Engine, symbols: Set[str] = frozenset()) -> list[str]:
    """Whether the program is here and knows the level of theory; no energy is computed.

    Parameters
    ----------
    options : saddleflow.settings.Engine
        Program and level of theory.
    symbols : set of str
        Elements that basis or method have to cover.

    Returns
    -------
    list of str
        One line a problem; empty when the engine can be used.
    """
    checks = {
        "psi4": psi4_problems,
        "pyscf": pyscf_problems,
        "xtb": xtb_problems,
        "ase": calculator_problems,
    }
    try:
        return checks[options.program](options, set(symbols))
    except EngineUnavailable as error:
        return [str(error)]
