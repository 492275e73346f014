"""PySCF as an engine: Hartree-Fock and density functionals in this process, the same levels as Psi4."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io

import numpy as np
from ase.units import Bohr, Hartree

from saddleflow import settings
from saddleflow.engines.checks import check_electrons, check_positions
from saddleflow.errors import EngineUnavailable, InputError, ScfError
from saddleflow.evaluation import EngineResult
from saddleflow.reactions import Reaction

HARTREE_FOCK = ("hf", "rhf", "uhf", "scf")
GUESSES = {True: ("minao", "huckel", "1e"), False: ("minao", "huckel", "1e", "minao+mix", "huckel+mix")}
"""First guesses that compete at the first geometry, for restricted (True) and unrestricted molecules."""
CONVERGENCE = 1e-10
"""Energy threshold in Hartree."""
GRADIENT_CONVERGENCE = 1e-7
"""Norm of the orbital gradient; PySCF's own 1e-5 leaves noise of 1e-5 eV/Angstrom in the forces."""
MAX_CYCLES = 150


class PyscfEngine:
    """Energies, forces and Hessians of one molecule from PySCF.

    Parameters
    ----------
    options : saddleflow.settings.Engine
        Level of theory and limits (``timeout_seconds`` can't be enforced in-process).
    reaction : Reaction
        Elements, charge and multiplicity.

    Raises
    ------
    EngineUnavailable
        PySCF is not installed.
    InputError
        Basis, method, charge or multiplicity are impossible.
    """

    name = "pyscf"

    def __init__(self, options: settings.Engine, reaction: Reaction):
        check_electrons(reaction)
        problems = pyscf_problems(options, set(reaction.symbols))
        if problems:
            raise InputError(problems)
        self._options = options
        self._reaction = reaction
        self._restricted = reaction.multiplicity == 1
        self._orbitals: list[np.ndarray] | None = None

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        """Energy and forces at `positions` (shape (N, 3), Angstrom).

        The first call takes the lowest of several guesses; the next ones follow the state from their
        predecessor's orbitals.

        Raises
        ------
        ScfError, GeometryError
        """
        field, notes, cycles = self._solve(positions)
        gradient = field.nuc_grad_method().kernel()
        self._orbitals = self._orthogonal(field)
        spin_square = float(field.spin_square()[0]) if not self._restricted else 0.0
        return EngineResult(
            energy=float(field.e_tot) * Hartree,
            forces=-np.array(gradient, float) * (Hartree / Bohr),
            scf_iterations=cycles,
            spin_square=spin_square,
            state=_pack(self._orbitals),
            notes=notes,
        )

    def hessian(self, positions: np.ndarray) -> np.ndarray | None:
        """Analytic Hessian (shape (3N, 3N), eV/Angstrom^2).

        Raises
        ------
        ScfError, GeometryError
        """
        field, _, _ = self._solve(positions)
        blocks = np.array(field.Hessian().kernel())
        size = 3 * len(self._reaction.symbols)
        hessian = blocks.transpose(0, 2, 1, 3).reshape(size, size) * (Hartree / Bohr**2)
        return 0.5 * (hessian + hessian.T)

    def restore(self, state: bytes) -> None:
        """Start the next evaluation from the orbitals in `state`; empty: search all guesses again."""
        self._orbitals = _unpack(state) if state else None

    def provenance(self) -> dict:
        """Program, version, level of theory and settings."""
        return {
            "program": "pyscf",
            "version": importlib.metadata.version("pyscf"),
            "level": self._options.level,
            "settings": {
                "e_convergence": CONVERGENCE,
                "gradient_convergence": GRADIENT_CONVERGENCE,
                "threads": self._options.threads,
                "multi_start": self._options.multi_start,
            },
        }

    def close(self) -> None:
        """Nothing to release."""

    def _field(self, positions: np.ndarray):
        """Mean-field object at a geometry, quiet."""
        from pyscf import dft, gto, lib, scf

        array = check_positions(positions, len(self._reaction.symbols))
        lib.num_threads(self._options.threads)
        molecule = gto.M(
            atom=[(s, tuple(x)) for s, x in zip(self._reaction.symbols, array / Bohr, strict=True)],
            unit="Bohr",
            basis=self._options.basis,
            charge=self._reaction.charge,
            spin=self._reaction.multiplicity - 1,
            verbose=0,
            max_memory=self._options.memory_mb,
        )
        if self._options.method.lower() in HARTREE_FOCK:
            field = scf.RHF(molecule) if self._restricted else scf.UHF(molecule)
        else:
            field = dft.RKS(molecule) if self._restricted else dft.UKS(molecule)
            field.xc = self._options.method
        field.conv_tol = CONVERGENCE
        field.conv_tol_grad = GRADIENT_CONVERGENCE
        field.max_cycle = MAX_CYCLES
        field.chkfile = None
        return field

    def _solve(self, positions: np.ndarray):
        """Converged mean field, notes and cycles spent."""
        cycles = 0
        if self._orbitals is not None:
            field = self._field(positions)
            field.kernel(dm0=self._projected(field))
            cycles += field.cycles
            if field.converged:
                return field, {"scf_start": "previous orbitals"}, cycles
        best, winner = None, ""
        guesses = GUESSES[self._restricted] if self._options.multi_start else ("minao",)
        for guess in guesses:
            field = self._field(positions)
            field.kernel(dm0=self._guess(field, guess))
            cycles += field.cycles
            # A later start has to be lower by more than noise to win.
            if field.converged and (best is None or field.e_tot < best.e_tot - 1e-6):
                best, winner = field, guess
        if best is None:
            raise ScfError(f"PySCF: SCF not converged from any of {len(guesses)} starts")
        return best, {"scf_start": winner, "scf_starts": len(guesses)}, cycles

    def _guess(self, field, name: str) -> np.ndarray:
        """Density of a named guess; ``+mix`` turns HOMO and LUMO by 45 degrees, each spin its own way."""
        kind, _, mix = name.partition("+")
        density = field.get_init_guess(key=kind)
        if not mix:
            return density
        energies, orbitals = field.eig(field.get_fock(dm=density), field.get_ovlp())
        occupations = field.get_occ(energies, orbitals)
        for spin, sign in ((0, 1.0), (1, -1.0)):
            order = np.argsort(energies[spin])
            orbitals[spin] = orbitals[spin][:, order]
            occupations[spin] = occupations[spin][order]
            n = int(occupations[spin].sum())
            if 0 < n < orbitals[spin].shape[1]:
                homo, lumo = orbitals[spin][:, n - 1].copy(), orbitals[spin][:, n].copy()
                orbitals[spin][:, n - 1] = (homo + sign * lumo) / np.sqrt(2.0)
        return field.make_rdm1(orbitals, occupations)

    def _orthogonal(self, field) -> list[np.ndarray]:
        """Occupied orbitals in the symmetrically orthogonalised basis, S^1/2 C."""
        root = _power(field.get_ovlp(), 0.5)
        coefficients, occupations = np.atleast_3d(field.mo_coeff), np.atleast_2d(field.mo_occ)
        if self._restricted:
            return [root @ field.mo_coeff[:, field.mo_occ > 0]]
        return [root @ coefficients[spin][:, occupations[spin] > 0] for spin in (0, 1)]

    def _projected(self, field) -> np.ndarray:
        """Density at this geometry from the previous orbitals, C = S^-1/2 (S'^1/2 C')."""
        inverse_root = _power(field.get_ovlp(), -0.5)
        densities = [half @ half.T for half in (inverse_root @ c for c in self._orbitals)]
        return 2.0 * densities[0] if self._restricted else np.array(densities)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-10) ** exponent) @ vectors.T


def _pack(arrays: list[np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def _unpack(state: bytes) -> list[np.ndarray]:
    with np.load(io.BytesIO(state), allow_pickle=False) as archive:
        return [archive[name] for name in archive.files]


def pyscf_problems(options: settings.Engine, symbols: set[str]) -> list[str]:
    """Problems of program pyscf, one line each.

    Raises
    ------
    EngineUnavailable
        PySCF is not installed.
    """
    if importlib.util.find_spec("pyscf") is None:
        raise EngineUnavailable(
            "PySCF is not installed; run: pip install 'saddleflow[pyscf]' (or pip install pyscf)"
        )
    from pyscf import dft, gto

    problems = []
    for symbol in sorted(symbols):
        try:
            gto.basis.load(options.basis, symbol)
        except (KeyError, RuntimeError, ValueError, OSError) as error:
            problems.append(
                f"engine.basis: pyscf has no {options.basis!r} for {symbol} ({type(error).__name__})"
            )
    if options.method.lower() not in HARTREE_FOCK:
        try:
            dft.libxc.parse_xc(options.method)
        except (KeyError, ValueError) as error:
            problems.append(f"engine.method: pyscf knows no {options.method!r}: {error}")
    return problems
