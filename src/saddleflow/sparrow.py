"""Semiempirical methods through SCINE Sparrow: PM3, PM6, DFTB3 and others, a few milliseconds a gradient."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from scipy.spatial.distance import pdist

from saddleflow.errors import EngineUnavailable, GeometryError, InputError, ScfError, one_line
from saddleflow.evaluation import SAME_STATE

TOO_CLOSE = 0.3
"""Angstrom: nearer atoms are no molecule, and some methods would go on with nonsense."""
QUICK, SURE = "diis", "ediis"
"""What leads an SCF; the sure one takes two and a half times as long.  At 251 guessed transition states the
quick one ends in a state of PM6 that is up to 2.8 eV too high 27 times, nearly always for open shells, the
sure one never; along the searches of these open shells the quick one does at 44 % of the points, along those
of others at 3 %."""


def available() -> bool:
    """Whether the package is installed."""
    return find_spec("scine_sparrow") is not None


def _library() -> ModuleType:
    """SCINE's bindings, with Sparrow's methods registered.

    The packages' own initialisation imports setuptools only to know what a shared library is called, which
    takes 0.4 s of CPU time: a fifth of all that a search of 14 atoms spends outside the engine.
    """
    scine = sys.modules.get("scine_utilities") or _bindings()
    manager = scine.core.ModuleManager.get_instance()
    if not manager.module_loaded("Sparrow"):
        library = Path(find_spec("scine_sparrow").origin).with_name("sparrow.module.so")
        if library.exists():
            manager.load(str(library))
        else:
            import scine_sparrow  # noqa: F401 - it registers itself, wherever its library lies
    return scine


def _bindings() -> ModuleType:
    """Load ``scine_utilities`` without what its package imports besides, if it is laid out as in 5.2."""
    folder = Path(find_spec("scine_utilities").origin).parent
    candidates = [folder / f"scine_utilities{suffix}" for suffix in EXTENSION_SUFFIXES]
    extension = next((path for path in candidates if path.exists()), None)
    if extension is None:
        return import_module("scine_utilities")
    spec = spec_from_file_location("scine_utilities", extension)
    bindings = module_from_spec(spec)
    spec.loader.exec_module(bindings)
    sys.modules["scine_utilities"] = bindings
    return bindings


def why_not(method: str, numbers: set[int]) -> str:
    """Why a method can't be had here or not for these elements (atomic numbers), in one line; else empty."""
    try:
        for pair in combinations_with_replacement(sorted(numbers), 2):
            # Odd pairs are cations: only whether there are parameters is asked.
            molecule = Sparrow(np.array(pair), sum(pair) % 2, 1, method)
            molecule._set_structure(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    except (EngineUnavailable, InputError) as error:
        return one_line(error)
    return ""


class Sparrow:
    """Energies and gradients of one semiempirical method for one molecule.

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers.
    charge : int
        Total charge.
    multiplicity : int
        2S + 1; above 1 the calculation is unrestricted.
    method : str
        One of `SPARROW_METHODS`.
    parameters : dict, optional
        Content of a parameter file of Sparrow's, in place of the published parameters.

    Raises
    ------
    EngineUnavailable
        When the package scine-sparrow is not installed.

    References
    ----------
    Bosia et al., J. Chem. Phys. 158, 054118 (2023).
    """

    def __init__(
        self,
        numbers: np.ndarray,
        charge: int = 0,
        multiplicity: int = 1,
        method: str = "PM6",
        parameters: dict | None = None,
    ):
        if not available():
            raise EngineUnavailable(f"{method} needs the package scine-sparrow: pip install scine-sparrow")
        scine = _library()
        self.method = method
        self._scine = scine
        self._elements = [getattr(scine.ElementType, chemical_symbols[number]) for number in numbers]
        calculator = scine.core.ModuleManager.get_instance().get("calculator", method)
        calculator.log = scine.core.Log.silent()
        for key, value in {
            "self_consistence_criterion": 1e-7,
            "max_scf_iterations": 300,
            "molecular_charge": int(charge),
            "spin_multiplicity": int(multiplicity),
            "spin_mode": "restricted" if multiplicity == 1 else "unrestricted",
        }.items():
            calculator.settings[key] = value
        if parameters is not None:
            # Sparrow reads the file whenever it is given a structure, so it has to stay as long as this does.
            self._folder = TemporaryDirectory(prefix="saddleflow-")
            path = Path(self._folder.name) / "parameters.json"
            path.write_text(json.dumps(parameters), encoding="utf-8")
            calculator.settings["method_parameters"] = str(path)
        calculator.set_required_properties([scine.Property.Energy, scine.Property.Gradients])
        self._calculator = calculator
        self._has_structure = self._has_mixer = False

    def energy_gradient(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy in eV and gradient in eV/Angstrom (shape (N, 3)) at `positions` (Angstrom).

        The SCF starts anew, so that the answer does not depend on what was asked before; but where the first
        one is asked, it is found out whether the quick way of solving it leads to the lowest state.

        Raises
        ------
        InputError
            For an element without parameters, or an impossible charge and multiplicity.
        GeometryError
            For positions that are not finite, and coinciding atoms.
        ScfError
            When the SCF does not converge.
        """
        if self._has_mixer:
            return self._anew(positions)
        self._has_mixer = True
        return self._lower_state(positions)

    def _anew(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        self._set_structure(positions)
        return self._calculated()

    def _lower_state(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Answer by the quick way, which is gone from now on unless the sure one leads to a lower state."""
        self._calculator.settings["scf_mixer"] = SURE
        try:
            sure = self._anew(positions)
        except ScfError:
            sure = np.inf, None
        self._calculator.settings["scf_mixer"] = QUICK
        try:
            quick = self._anew(positions)
        except ScfError:
            if sure[1] is None:
                raise
            quick = np.inf, None
        if sure[0] > quick[0] - SAME_STATE:
            return quick
        self._calculator.settings["scf_mixer"] = SURE
        return self._anew(positions)  # once more: gradients nearby start from the SCF before

    def gradients(self, points: list[np.ndarray]) -> np.ndarray:
        """Gradients in eV/Angstrom at `points` (each of shape (N, 3)) near the one asked last.

        Shape (points, N, 3).  Each SCF starts from the one before.  Errors as :meth:`energy_gradient`.
        """
        found = []
        for point in points:
            if self._has_structure:
                self._calculator.positions = self._checked(point) / Bohr
            else:
                self._set_structure(point)
            found.append(self._calculated()[1])
        return np.array(found)

    def _set_structure(self, positions: np.ndarray) -> None:
        """Put the molecule there and forget the last SCF."""
        positions = self._checked(positions)
        self._has_structure = True
        try:
            self._calculator.structure = self._scine.AtomCollection(self._elements, positions / Bohr)
        except RuntimeError as error:
            raise InputError(f"{self.method} can't describe this molecule: {one_line(error)}") from error

    def _calculated(self) -> tuple[float, np.ndarray]:
        try:
            results = self._calculator.calculate()
        except RuntimeError as error:
            reason = one_line(error)
            if "parameter" in reason.lower() or "element" in reason.lower():
                raise InputError(f"{self.method} can't describe this molecule: {reason}") from error
            raise ScfError(f"{self.method}: {reason}") from error
        energy, gradient = float(results.energy), np.array(results.gradients)
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            raise ScfError(f"{self.method}: the result is not finite")
        return energy * Hartree, gradient * (Hartree / Bohr)

    def _checked(self, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions, float)
        if not np.isfinite(positions).all():
            raise GeometryError(f"{self.method}: the geometry has numbers that are not finite")
        if len(positions) > 1 and pdist(positions).min() < TOO_CLOSE:
            raise GeometryError(f"{self.method}: two atoms are closer than {TOO_CLOSE} Angstrom")
        return positions
