"""Analytic surfaces with exact gradients and Hessians, for tests and examples: a call costs microseconds.

All have a first-order saddle that is known beforehand (attribute ``saddle``).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from saddleflow import __version__
from saddleflow.engines.checks import check_positions
from saddleflow.evaluation import EngineResult


class AnalyticEngine:
    """Base of the surfaces: a subclass gives energy, gradient and Hessian of flat coordinates.

    Parameters
    ----------
    saddle : ndarray, shape (N, 3)
        A first-order saddle in Angstrom.
    """

    name = "analytic"

    def __init__(self, saddle: np.ndarray):
        self.saddle = np.array(saddle, float)

    def derivatives(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy (eV), gradient (3N,) and Hessian (3N, 3N) at flat coordinates `x` (3N,) in Angstrom."""
        raise NotImplementedError

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        """Energy and forces at `positions` (shape (N, 3), Angstrom).

        Raises
        ------
        GeometryError
            Wrong shape, numbers that are not finite, or atoms that coincide.
        """
        array = check_positions(positions, len(self.saddle))
        energy, gradient, _ = self.derivatives(array.ravel())
        return EngineResult(energy=float(energy), forces=-gradient.reshape(-1, 3))

    def hessian(self, positions: np.ndarray) -> np.ndarray:
        """Exact Hessian, shape (3N, 3N), eV/Angstrom^2."""
        return self.derivatives(check_positions(positions, len(self.saddle)).ravel())[2]

    def restore(self, state: bytes) -> None:
        """Nothing to restore: the surface has no memory."""

    def provenance(self) -> dict:
        """Name of the surface and version of saddleflow."""
        level = f"analytic:{type(self).__name__}"
        return {"program": "analytic", "version": __version__, "level": level, "settings": {}}

    def close(self) -> None:
        """Nothing to release."""


class QuadraticSaddle(AnalyticEngine):
    """Quadratic form with given eigenvalues, turned at random.

    Parameters
    ----------
    saddle : ndarray, shape (N, 3)
        Stationary point in Angstrom.
    eigenvalues : ndarray, shape (3N,)
        Curvatures in eV/Angstrom^2; the point is a first-order saddle when exactly one is negative.
    seed : int
        Of the rotation.
    """

    def __init__(self, saddle: np.ndarray, eigenvalues: np.ndarray, seed: int = 0):
        super().__init__(saddle)
        values = np.asarray(eigenvalues, float)
        self.modes = _random_rotation(values.size, seed)
        self._matrix = (self.modes * values) @ self.modes.T

    def derivatives(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, gradient and Hessian."""
        gradient = self._matrix @ (x - self.saddle.ravel())
        return 0.5 * (x - self.saddle.ravel()) @ gradient, gradient, self._matrix.copy()


class MuellerBrown(AnalyticEngine):
    """Mueller and Brown's surface (1979) along two directions of 3N coordinates, harmonic along the others.

    Parameters
    ----------
    atoms : int
        N.
    scale : float
        eV an energy unit of the published surface.
    stiffness : float
        Curvature of the other 3N - 2 directions in eV/Angstrom^2.
    seed : int
        Of the random rotation that mixes all coordinates.
    """

    SADDLES = ((-0.8220015587, 0.6243128028), (0.2124865820, 0.2929883251))
    """Both first-order saddles in the two directions, energies -40.66484 and -72.24894 before scaling."""
    A = np.array([-200.0, -100.0, -170.0, 15.0])
    QUADRATIC = np.array([[-1.0, 0.0, -10.0], [-1.0, 0.0, -10.0], [-6.5, 11.0, -6.5], [0.7, 0.6, 0.7]])
    CENTRES = np.array([[1.0, 0.0], [0.0, 0.5], [-0.5, 1.5], [-1.0, 1.0]])

    def __init__(self, atoms: int = 2, scale: float = 0.01, stiffness: float = 5.0, seed: int = 0):
        # The other directions hold the atoms apart, about a line with 1.5 Angstrom between neighbours.
        self._origin = np.outer(np.arange(atoms) * 1.5, [1.0, 0.0, 0.0]).ravel() + 3.0
        self._rotation = _random_rotation(3 * atoms, seed)
        self._scale, self._stiffness = scale, stiffness
        super().__init__(self.embed(self.SADDLES[1]))

    def embed(self, point: tuple[float, float]) -> np.ndarray:
        """Positions (N, 3) of a point of the two-dimensional surface."""
        return (self._origin + self._rotation[:, :2] @ np.asarray(point, float)).reshape(-1, 3)

    def derivatives(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, gradient and Hessian."""
        y = self._rotation.T @ (x - self._origin)
        gradient, hessian = self._stiffness * y, self._stiffness * np.eye(y.size)
        energy = 0.5 * self._stiffness * (y[2:] @ y[2:])
        gradient[:2], hessian[:2, :2] = 0.0, 0.0
        for amplitude, (a, b, c), centre in zip(self.A, self.QUADRATIC, self.CENTRES, strict=True):
            matrix = np.array([[2.0 * a, b], [b, 2.0 * c]])
            slope = matrix @ (y[:2] - centre)
            value = self._scale * amplitude * np.exp(0.5 * (y[:2] - centre) @ slope)
            energy += value
            gradient[:2] += value * slope
            hessian[:2, :2] += value * (np.outer(slope, slope) + matrix)
        return energy, self._rotation @ gradient, self._rotation @ hessian @ self._rotation.T


class DistanceSurface(AnalyticEngine):
    """Base of surfaces that depend on interatomic distances only: no rigid motion changes them."""

    def __init__(self, saddle: np.ndarray):
        super().__init__(saddle)
        self._pairs = np.array(list(combinations(range(len(self.saddle)), 2)))

    def distance_derivatives(self, r: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, gradient and Hessian with respect to the distances of all pairs (i < j, in order)."""
        raise NotImplementedError

    def derivatives(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, gradient and Hessian with respect to Cartesian coordinates (chain rule)."""
        positions = x.reshape(-1, 3)
        first, second = self._pairs.T
        difference = positions[first] - positions[second]
        r = np.sqrt((difference**2).sum(axis=1))
        unit = difference / r[:, None]
        energy, slope, curvature = self.distance_derivatives(r)
        wilson = np.zeros((len(r), len(positions), 3))
        rows = np.arange(len(r))
        wilson[rows, first], wilson[rows, second] = unit, -unit
        b = wilson.reshape(len(r), -1)
        hessian = b.T @ curvature @ b
        # d2r/dx2 = (1 - u u^T) / r on the diagonal blocks of the pair, minus that beside them.
        blocks = (slope / r)[:, None, None] * (np.eye(3) - unit[:, :, None] * unit[:, None, :])
        for i, j, block in zip(first, second, blocks, strict=True):
            a, c = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
            hessian[a, a] += block
            hessian[c, c] += block
            hessian[a, c] -= block
            hessian[c, a] -= block
        return energy, b.T @ slope, hessian


class Leps(DistanceSurface):
    """London-Eyring-Polanyi-Sato surface of three equal atoms, A + BC -> AB + C.

    Parameters of hydrogen as in Jonsson, Mills and Jacobsen's chapter on the nudged elastic band (1998),
    with one Sato parameter for all pairs; the saddle is symmetric and linear.

    Parameters
    ----------
    sato : float
        Sato parameter.
    """

    DEPTH, EXPONENT, LENGTH = 4.746, 1.942, 0.742

    def __init__(self, sato: float = 0.05):
        self._sato = sato
        super().__init__(np.outer([-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]))
        from scipy.optimize import brentq

        def slope(bond: float) -> float:
            return self.distance_derivatives(np.array([bond, 2.0 * bond, bond]))[1] @ [1.0, 2.0, 1.0]

        self.saddle *= brentq(slope, 0.75, 1.3, xtol=1e-14)

    def distance_derivatives(self, r: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, gradient and Hessian with respect to the three distances."""
        share = self.DEPTH / (1.0 + self._sato)
        e1 = np.exp(-self.EXPONENT * (r - self.LENGTH))
        e2, a = e1**2, self.EXPONENT
        coulomb = 0.5 * share * np.array([1.5 * e2 - e1, a * (e1 - 3.0 * e2), a**2 * (6.0 * e2 - e1)])
        exchange = (
            0.25 * share * np.array([e2 - 6.0 * e1, a * (6.0 * e1 - 2.0 * e2), a**2 * (4.0 * e2 - 6.0 * e1)])
        )
        j, dj, ddj = exchange
        others = 3.0 * j - j.sum()
        square = 0.5 * ((j[0] - j[1]) ** 2 + (j[1] - j[2]) ** 2 + (j[2] - j[0]) ** 2)
        first = others * dj
        second = -np.outer(dj, dj)
        np.fill_diagonal(second, 2.0 * dj**2 + others * ddj)
        root = np.sqrt(square)
        energy = coulomb[0].sum() - root
        gradient = coulomb[1] - first / (2.0 * root)
        hessian = np.diag(coulomb[2]) - second / (2.0 * root) + np.outer(first, first) / (4.0 * root**3)
        return energy, gradient, hessian


class Transfer(DistanceSurface):
    """A molecule of Morse bonds in which one atom hops from a donor to an acceptor; the saddle is exact.

    Every pair is bound by a Morse potential with its minimum at the saddle's distance, but for donor-atom
    and atom-acceptor; along ``s``, their difference minus that at the saddle, lies a double well
    ``barrier (1 - (s/width)^2)^2``, and their sum is kept by a harmonic term.

    Parameters
    ----------
    saddle : ndarray, shape (N, 3)
        The first-order saddle in Angstrom; a default of six atoms.
    donor, atom, acceptor : int
        Who gives what to whom.
    depth, exponent : float
        Of the Morse bonds, eV and 1/Angstrom; the depth falls off with the bond's length.
    barrier, width : float
        Of the double well, eV and Angstrom.
    """

    DEFAULT = np.array(
        [
            [-1.25, 0.00, 0.10],
            [0.00, 0.15, 0.05],
            [1.30, 0.05, -0.10],
            [-1.85, 1.10, 0.30],
            [1.95, -0.90, 0.55],
            [0.10, -1.60, -0.75],
        ]
    )

    def __init__(
        self,
        saddle: np.ndarray | None = None,
        donor: int = 0,
        atom: int = 1,
        acceptor: int = 2,
        depth: float = 4.0,
        exponent: float = 1.5,
        barrier: float = 0.8,
        width: float = 0.5,
    ):
        super().__init__(self.DEFAULT if saddle is None else saddle)
        first, second = self._pairs.T
        self._at_saddle = np.sqrt(((self.saddle[first] - self.saddle[second]) ** 2).sum(axis=1))
        self._depth = depth * np.exp(-0.5 * (self._at_saddle - self._at_saddle.min()))
        self._exponent = exponent
        names = [frozenset(pair) for pair in self._pairs.tolist()]
        self._broken, self._made = names.index({donor, atom}), names.index({atom, acceptor})
        self._depth[[self._broken, self._made]] = 0.0
        self._barrier, self._width = barrier, width
        self._stiffness = 2.0 * depth * exponent**2

    def distance_derivatives(self, r: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, gradient and Hessian with respect to all distances."""
        decay = np.exp(-self._exponent * (r - self._at_saddle))
        energy = (self._depth * (1.0 - decay) ** 2).sum()
        gradient = 2.0 * self._depth * self._exponent * (1.0 - decay) * decay
        hessian = np.diag(2.0 * self._depth * self._exponent**2 * decay * (2.0 * decay - 1.0))
        change = r - self._at_saddle
        along, across = np.zeros(len(r)), np.zeros(len(r))
        along[self._broken], along[self._made] = 1.0, -1.0
        across[self._broken] = across[self._made] = 1.0
        t = along @ change / self._width
        energy += self._barrier * (1.0 - t**2) ** 2 + 0.5 * self._stiffness * (across @ change) ** 2
        gradient += -4.0 * self._barrier * t * (1.0 - t**2) / self._width * along
        gradient += self._stiffness * (across @ change) * across
        hessian += self._barrier * (12.0 * t**2 - 4.0) / self._width**2 * np.outer(along, along)
        hessian += self._stiffness * np.outer(across, across)
        return energy, gradient, hessian


def _random_rotation(size: int, seed: int) -> np.ndarray:
    """Orthogonal matrix from a seed, uniformly distributed (QR of a Gaussian matrix, signs fixed)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return q * np.sign(np.diag(r))
