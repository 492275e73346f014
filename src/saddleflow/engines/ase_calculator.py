"""Any ASE calculator as an engine, named by import path; GFN-xTB through tblite is one of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, CalculatorSetupError, SCFError

from saddleflow import settings
from saddleflow.engines.checks import check_electrons, check_positions
from saddleflow.errors import EngineCrashed, EngineUnavailable, InputError, ScfError
from saddleflow.evaluation import EngineResult
from saddleflow.reaction import Reaction

XTB_METHODS = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}
XTB_ACCURACY = 0.1
"""Of tblite's SCF: ten times its default, so that small dimers see no noise (costs about a tenth)."""


class AseEngine:
    """Energies and forces from an ASE calculator in this process.

    Parameters
    ----------
    reaction : Reaction
        Elements, charge and multiplicity.
    make : callable
        Makes a calculator.
    name, level : str
        For messages and provenance.
    version : str
        Of the calculator's package.
    fresh : bool
        Make a new calculator for every evaluation.  For calculators that are cheap to make and start from
        the previous wave function: otherwise a restarted search would see other last digits.
    details : dict
        Arguments, for provenance.

    Notes
    -----
    ``atoms.info`` carries ``charge`` and ``spin`` (the multiplicity), which several machine-learned
    potentials read.  The settings ``timeout_seconds`` and ``memory_mb`` can't be enforced in-process.
    """

    def __init__(
        self,
        reaction: Reaction,
        make: Callable[[], Calculator],
        name: str,
        level: str,
        version: str,
        fresh: bool,
        details: dict[str, Any],
    ):
        self.name = name
        self._reaction = reaction
        self._make = make
        self._fresh = fresh
        self._calculator = _refusals_as_input_errors(make, name)
        self._provenance = {"program": name, "version": version, "level": level, "settings": details}

    @classmethod
    def xtb(cls, options: settings.Engine, reaction: Reaction) -> AseEngine:
        """GFN1-xTB or GFN2-xTB through tblite.

        Raises
        ------
        EngineUnavailable
            tblite is not installed.
        InputError
            Unknown method, impossible charge and multiplicity.
        """
        check_electrons(reaction)
        problems = xtb_problems(options, set(reaction.symbols))
        if problems:
            raise InputError(problems)
        from tblite.ase import TBLite

        arguments = {
            "method": xtb_method(options),
            "charge": reaction.charge,
            "multiplicity": reaction.multiplicity,
            "accuracy": XTB_ACCURACY,
        }
        version = importlib.metadata.version("tblite")
        return cls(
            reaction, lambda: TBLite(**arguments, verbosity=0), "xtb", options.level, version, True, arguments
        )

    @classmethod
    def imported(cls, options: settings.Engine, reaction: Reaction) -> AseEngine:
        """Calculator class of ``engine.calculator`` with ``engine.arguments``.

        Raises
        ------
        InputError
            The import path is malformed, or the calculator refuses its arguments.
        EngineUnavailable
            The module or class is missing.
        """
        check_electrons(reaction)
        kind = import_calculator(options.calculator)
        arguments = fill_in(options.arguments, charge=reaction.charge, multiplicity=reaction.multiplicity)
        return cls(
            reaction,
            lambda: kind(**arguments),
            "ase",
            options.level,
            _version(options.calculator),
            False,
            {"calculator": options.calculator, "arguments": arguments},
        )

    @classmethod
    def around(cls, calculator: Calculator, reaction: Reaction) -> AseEngine:
        """A calculator that was made elsewhere, with its own charge and multiplicity."""
        kind = type(calculator)
        path = f"{kind.__module__}:{kind.__qualname__}"
        return cls(
            reaction, lambda: calculator, "ase", f"ase:{path}", _version(path), False, {"calculator": path}
        )

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        """Energy and forces at `positions` (shape (N, 3), Angstrom).

        Raises
        ------
        ScfError, GeometryError, EngineCrashed
        """
        array = check_positions(positions, len(self._reaction.symbols))
        atoms = Atoms(list(self._reaction.symbols), positions=array)
        atoms.info.update(charge=self._reaction.charge, spin=self._reaction.multiplicity)
        if self._fresh:
            self._calculator = self._make()
        else:
            self._calculator.reset()
        atoms.calc = self._calculator
        try:
            energy = float(atoms.get_potential_energy())
            forces = np.array(atoms.get_forces(), float)
        except SCFError as error:
            raise ScfError(f"{self.name}: {error}") from error
        except CalculationFailed as error:
            kind = ScfError if "converge" in str(error).lower() else EngineCrashed
            raise kind(f"{self.name}: {error}") from error
        except (CalculatorSetupError, TypeError, ValueError, KeyError, NotImplementedError) as error:
            # The same call would be refused again: the settings have to change.
            message = f"engine {self.name}: the calculator refuses: {type(error).__name__}: {error}"
            raise InputError(f"{message}; change engine.arguments or the molecule") from error
        except Exception as error:
            # Calculators of other projects raise what they like; the edge is here.
            raise EngineCrashed(f"{self.name}: {type(error).__name__}: {error}") from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise ScfError(f"{self.name}: energy or forces are not finite")
        return EngineResult(energy=energy, forces=forces)

    def hessian(self, positions: np.ndarray) -> None:
        """Nothing: ASE calculators offer no analytic Hessian."""
        return None

    def restore(self, state: bytes) -> None:
        """Nothing to restore: every evaluation starts afresh."""

    def provenance(self) -> dict:
        """Program, version, level of theory and arguments."""
        return dict(self._provenance)

    def close(self) -> None:
        """Nothing to release."""


def _refusals_as_input_errors(make: Callable[[], Calculator], name: str) -> Calculator:
    try:
        return make()
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"engine {name}: the calculator refuses its arguments: {error}; change engine.arguments"
        ) from error


def xtb_method(options: settings.Engine) -> str:
    """Tblite's name of the xTB method; the level of other programs (the default ``hf``) means GFN2-xTB."""
    return XTB_METHODS.get(options.method.lower(), "GFN2-xTB")


def xtb_problems(options: settings.Engine, symbols: set[str]) -> list[str]:
    """Problems of program xtb, one line each.

    Raises
    ------
    EngineUnavailable
        tblite is not installed.
    """
    from ase.data import atomic_numbers

    if importlib.util.find_spec("tblite") is None:
        raise EngineUnavailable(
            "tblite is not installed; run: pip install tblite (or conda-forge's tblite-python)"
        )
    problems = []
    if "xtb" in options.method.lower() and options.method.lower() not in XTB_METHODS:
        known = ", ".join(XTB_METHODS.values())
        problems.append(f"engine.method: xtb knows no {options.method!r}; write one of {known}")
    heavy = sorted(symbol for symbol in symbols if atomic_numbers[symbol] > 86)
    if heavy:
        problems.append(f"engine xtb: no parameters for {', '.join(heavy)}; choose another engine")
    return problems


def import_calculator(path: str) -> type[Calculator]:
    """Class at an import path such as ``tblite.ase:TBLite``.

    Raises
    ------
    InputError
        Not of the form ``package.module:Class``.
    EngineUnavailable
        Module or class are missing.
    """
    module_name, colon, class_name = path.partition(":")
    if not (colon and module_name and class_name):
        raise InputError(f"engine.calculator: {path!r} is no import path; write package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        package = module_name.split(".")[0]
        raise EngineUnavailable(
            f"engine.calculator: can't import {module_name} ({error}); install the package that has {package}"
        ) from error
    try:
        return getattr(module, class_name)
    except AttributeError as error:
        raise EngineUnavailable(
            f"engine.calculator: module {module_name} has no class {class_name}"
        ) from error


def calculator_problems(options: settings.Engine, symbols: set[str]) -> list[str]:
    """Problems of program ase, one line each.

    Raises
    ------
    EngineUnavailable
        Module or class are missing.
    """
    try:
        import_calculator(options.calculator)
        fill_in(options.arguments, charge=0, multiplicity=1)
    except InputError as error:
        return error.problems
    return []


def fill_in(value: Any, charge: int, multiplicity: int) -> Any:
    """Replace ``{charge}`` and ``{multiplicity}`` in strings, also inside lists and mappings.

    A string that is nothing but the placeholder becomes a number.
    """
    if isinstance(value, dict):
        return {key: fill_in(item, charge, multiplicity) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_in(item, charge, multiplicity) for item in value]
    if value == "{charge}":
        return charge
    if value == "{multiplicity}":
        return multiplicity
    if isinstance(value, str):
        return value.replace("{charge}", str(charge)).replace("{multiplicity}", str(multiplicity))
    return value


def _version(path: str) -> str:
    """Version of the distribution that holds the calculator's package, as far as it says."""
    package = path.split(":", maxsplit=1)[0].split(".", maxsplit=1)[0]
    names = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
