"""GFN-xTB through tblite's own interface: a cheap potential for start directions and prior means.

No ASE calculator in between, since a Hessian takes 6N gradients of a few milliseconds each.
"""

from __future__ import annotations

import numpy as np
from ase.units import Bohr, Hartree

from saddleflow.errors import GeometryError, InputError, ScfError, one_line

# Electronic temperature in Kelvin and SCF iterations of one attempt after the other.  Stretched bonds of a
# guessed transition state can fail at 300 K, and smearing tames them: of 227 molecules distorted or pulled
# apart at random 50 failed so; 49 of them converged at 1500 K within 172 iterations, the other at 5000 K.
ATTEMPTS = ((300.0, 250), (1500.0, 250), (5000.0, 250))
# Earlier densities that the mixing of an SCF remembers; one of fewer iterations is the same to the last bit.
# The cost of an iteration grows with their square: with tblite's 250 a failure at 300 K took 0.66 s in the
# mean of 33 hard cases and 11 converged, with 60 it takes 0.18 s and 10 converge (one more lost than won).
MEMORY = 60
# Times the accuracy, for gradients whose differences make Hessians: three quarters of the time at 18 atoms,
# and products with unit vectors change by 0.01 eV/Angstrom^2 (root mean square).
NEARBY = 10.0
BOLTZMANN_HARTREE = 3.166808578545117e-6


class XTB:
    """Energies, gradients and Hessians of GFN2-xTB or GFN1-xTB for one molecule.

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers.
    charge : int
        Total charge.
    multiplicity : int
        2S + 1.
    method : str
        ``GFN2-xTB``, ``GFN1-xTB`` or ``IPEA1-xTB``.
    accuracy : float
        tblite's accuracy; 1 is its default, smaller is tighter.  Finite differences want a tight one.
    parameters : dict, optional
        tblite's table of parameters, in place of the published ones.

    References
    ----------
    Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019).
    """

    def __init__(
        self,
        numbers: np.ndarray,
        charge: int = 0,
        multiplicity: int = 1,
        method: str = "GFN2-xTB",
        accuracy: float = 0.01,
        parameters: dict | None = None,
    ):
        self.numbers = np.asarray(numbers)
        self.charge = charge
        self.multiplicity = multiplicity
        self.method = method
        self.accuracy = accuracy
        self._parameters = parameters
        self._calculator = None
        self._converged: tuple | None = None

    def energy_gradient(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy in eV and gradient in eV/Angstrom (shape (N, 3)) at `positions` (Angstrom).

        Raises
        ------
        InputError
            For an element without parameters, or an impossible charge and multiplicity.
        GeometryError
            For positions that are not finite, and coinciding atoms.
        ScfError
            When the SCF does not converge at any electronic temperature tried.
        """
        energies, gradients = self._series([np.asarray(positions, float)])
        return energies[0], gradients[0]

    def gradients(self, points: list[np.ndarray]) -> np.ndarray:
        """Gradients in eV/Angstrom at `points` (each of shape (N, 3)) near the one asked last.

        Shape (points, N, 3).  All start from the density there and have its electronic temperature, so that
        differences are those of one surface; less accurate.  Errors as :meth:`energy_gradient`.
        """
        if self._converged is not None and all(np.isfinite(point).all() for point in points):
            self._converged[0].set("accuracy", NEARBY * self.accuracy)
            try:
                return np.array([_gradient(result) for result in self._started(*self._converged, points)])
            except RuntimeError:
                self._converged = None
        return np.array(self._series(points)[1])

    def hessian(self, positions: np.ndarray, displacement: float = 0.005) -> np.ndarray:
        """Hessian by differences of gradients, shape (3N, 3N), eV/Angstrom^2, symmetric.

        Parameters
        ----------
        positions : ndarray, shape (N, 3)
            Angstrom.
        displacement : float
            Step in Angstrom.

        Raises
        ------
        InputError, GeometryError, ScfError
            As :meth:`energy_gradient`.
        """
        positions = np.asarray(positions, float)
        steps = displacement * np.eye(positions.size).reshape(-1, *positions.shape)
        points = [positions, *(positions + s for s in steps), *(positions - s for s in steps)]
        # All points of one Hessian share one electronic temperature: mixing two would fake curvature.
        _, gradients = self._series(points)
        plus, minus = np.reshape(gradients[1:], (2, positions.size, positions.size))
        hessian = (plus - minus) / (2 * displacement)
        return 0.5 * (hessian + hessian.T)

    def _series(self, points: list[np.ndarray]) -> tuple[list[float], list[np.ndarray]]:
        """Energies and gradients at `points`, each SCF started from the density of the first point."""
        from tblite.exceptions import TBLiteRuntimeError

        if not all(np.isfinite(point).all() for point in points):
            raise GeometryError(f"{self.method}: the geometry has numbers that are not finite")
        reason = ""
        for temperature, iterations in ATTEMPTS:
            calculator = self._at(points[0])
            for key, value in (
                ("verbosity", 0),
                ("accuracy", self.accuracy),
                ("temperature", temperature * BOLTZMANN_HARTREE),
                ("max-iter", iterations),
                ("mixer-memory", MEMORY),
            ):
                calculator.set(key, value)
            try:
                start = calculator.singlepoint()
                self._converged = (calculator, start)
                results = [start, *self._started(calculator, start, points[1:])]
                return (
                    [float(result.get("energy")) * Hartree for result in results],
                    [_gradient(result) for result in results],
                )
            except (TBLiteRuntimeError, RuntimeError) as error:
                reason = one_line(error)
                if "not compatible" in reason:
                    raise InputError(f"{self.method} can't describe this molecule: {reason}") from error
        self._converged = None
        raise ScfError(
            f"{self.method}: no SCF convergence, also not at an electronic temperature of "
            f"{ATTEMPTS[-1][0]:g} K ({reason})"
        )

    def _at(self, positions: np.ndarray):
        """Calculator of tblite there; made once, since a table of parameters takes 1 ms to hand over."""
        from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
        from tblite.interface import Calculator

        try:
            if self._calculator is None:
                self._calculator = Calculator(
                    self._parameters or self.method,
                    self.numbers,
                    positions / Bohr,
                    float(self.charge),
                    self.multiplicity - 1,
                )
            else:
                self._calculator.update(positions=positions / Bohr)
        except (TBLiteRuntimeError, TBLiteValueError, RuntimeError) as error:
            if "Too close" in str(error):
                raise GeometryError(f"{self.method}: {one_line(error)}") from error
            raise InputError(f"{self.method} can't describe this molecule: {one_line(error)}") from error
        return self._calculator

    @staticmethod
    def _started(calculator, start, points: list[np.ndarray]) -> list:
        """Results of tblite at `points`, each SCF from the density of `start`."""
        results = []
        for point in points:
            calculator.update(positions=point / Bohr)
            results.append(calculator.singlepoint(start, copy=True))
        return results


def _gradient(result) -> np.ndarray:
    return result.get("gradient") * (Hartree / Bohr)
