"""Parameters of cheap surfaces fitted to a level of theory: their file, and where they serve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from saddleflow.errors import InputError
from saddleflow.files import write_atomically

SCHEMA = "surface-parameters/1"
SHIPPED = ("hf_3-21g",)
"""Names of those that come with the program."""
PROGRAMS = ("psi4:", "pyscf:")
"""Their levels of theory are the same whatever the program."""


@dataclass(frozen=True)
class SurfaceParameters:
    """Parameters of some methods, fitted together to forces of one level of theory.

    Parameters
    ----------
    level : str
        Level of theory without the program, such as ``hf/3-21g``.
    elements : tuple of int
        Atomic numbers that they were fitted for, ascending.
    shares : dict
        Weight of each method in the sum that was fitted.  One without any only tells where states of another
        one cross, which takes three.
    parameters : dict
        All parameters of each method: of GFN2-xTB as tblite's table, of PM6 as Sparrow's file has them; None:
        the published ones.
    reactions : int
        How many reactions they were fitted to.
    pairs : int
        How many pairs of geometries these had.
    error_before, error_after : float
        Geometric mean over pairs of other reactions: largest error of a change of force on an atom over the
        largest change; by `prior: auto` with published parameters, and with these.
    """

    level: str
    elements: tuple[int, ...]
    shares: dict[str, float]
    parameters: dict[str, dict | None]
    reactions: int
    pairs: int
    error_before: float
    error_after: float

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(_text(self).encode()).hexdigest()

    def misfit(self, level: str | None = None, numbers: Iterable[int] = ()) -> str:
        """Why they can't serve such searches, in one line; ``""`` where they can.

        Parameters
        ----------
        level : str or None
            Level of theory as :attr:`saddleflow.settings.Engine.level`; None: not asked.
        numbers : iterable of int
            Atomic numbers of the molecules.
        """
        from ase.data import chemical_symbols

        if level is not None and without_program(level) != self.level:
            return f"they were fitted to {self.level}, not to {without_program(level)}"
        if strange := sorted(set(numbers) - set(self.elements)):
            return f"they have none for {', '.join(chemical_symbols[number] for number in strange)}"
        return ""

    def require(self, numbers: Iterable[int]) -> None:
        """Raise InputError where an element of a molecule (its atomic numbers) has no parameters."""
        if reason := self.misfit(numbers=numbers):
            raise InputError(f"the fitted parameters can't be used: {reason}")


def without_program(level: str) -> str:
    """Level of theory, which is the same in all programs of ab initio methods."""
    for program in PROGRAMS:
        level = level.removeprefix(program)
    return level


def _text(parameters: SurfaceParameters) -> str:
    return json.dumps({"schema": SCHEMA} | asdict(parameters), indent=1, sort_keys=True) + "\n"


def write_surface_parameters(path: str | Path, parameters: SurfaceParameters) -> None:
    """Write atomically; the same content makes the same bytes."""
    write_atomically(path, _text(parameters))


def read_surface_parameters(name: str) -> SurfaceParameters:
    """Read those of a file, or shipped ones by their name.

    Raises
    ------
    InputError
        When the file can't be read or is none of these.
    """
    path = files("saddleflow.surrogate") / "parameters" / f"{name}.json" if name in SHIPPED else Path(name)
    remedy = "see docs/fitted_surfaces.md"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise InputError(f"{name}: its schema is not {SCHEMA}; {remedy}")
        found = SurfaceParameters(**data | {"elements": tuple(data["elements"])})
        if set(found.shares) != set(found.parameters):
            raise InputError(f"{name}: its shares and parameters are of different methods; {remedy}")
    except OSError as error:
        raise InputError(f"{name}: can't be read ({error.strerror}); {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: holds no parameters of surfaces ({error}); {remedy}") from None
    return found


def shipped_for(level: str, numbers: Iterable[int]) -> str:
    """Name of the shipped parameters that fit a level of theory and all elements; ``""`` without any."""
    numbers = set(numbers)
    for name in SHIPPED:
        if not read_surface_parameters(name).misfit(level, numbers):
            return name
    return ""
