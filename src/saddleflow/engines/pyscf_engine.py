"""PySCF as an engine: Hartree-Fock and density functionals in this process, the same levels as Psi4."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import numpy as np
from ase.units import Bohr, Hartree

from saddleflow import settings
from saddleflow.engines.checks import check_electrons, check_positions
from saddleflow.engines.scf import TIGHT, Field, pack, solve, unpack
from saddleflow.errors import EngineUnavailable, InputError, ScfError
from saddleflow.evaluation import EngineResult
from saddleflow.reaction import Reaction

HARTREE_FOCK = ("hf", "rhf", "uhf", "scf")


class PyscfField(Field):
    """Fock matrices from a PySCF mean-field object."""

    def __init__(self, mean_field, restricted: bool):
        self.mean_field = mean_field
        super().__init__(
            mean_field.get_ovlp(), mean_field.get_hcore(), tuple(mean_field.mol.nelec), restricted
        )

    def fock(self, occupied):
        """Energy and Fock matrices of the determinant with these occupied orbitals."""
        densities = [orbitals @ orbitals.T for orbitals in occupied]
        return self.fock_of_density(2.0 * densities[0] if self.restricted else np.array(densities))

    def fock_of_density(self, density: np.ndarray):
        """Energy and Fock matrices of a density (two of them, shape (2, n, n), unless restricted)."""
        potential = self.mean_field.get_veff(dm=density)
        energy = float(self.mean_field.energy_tot(density, self.core_hamiltonian, potential))
        fock = self.core_hamiltonian + np.asarray(potential)
        return energy, [fock] if self.restricted else list(fock)

    def accept(self, solution):
        """The mean-field object as if it had converged to the solution by itself."""
        energies, coefficients, occupations = [], [], []
        for (values, orbitals), n in zip(solution.orbitals, self.spins, strict=True):
            energies.append(values)
            coefficients.append(orbitals)
            occupations.append((np.arange(len(values)) < n) * (2.0 if self.restricted else 1.0))
        field = self.mean_field
        field.mo_energy, field.mo_coeff, field.mo_occ = (
            (energies[0], coefficients[0], occupations[0])
            if self.restricted
            else (np.array(energies), np.array(coefficients), np.array(occupations))
        )
        field.e_tot, field.converged = solution.energy, True
        return field


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
        self._state = b""

    def evaluate(self, positions: np.ndarray) -> EngineResult:
        """Energy and forces at `positions` (shape (N, 3), Angstrom).

        The first call takes the lowest of several guesses; the next ones follow the state from their
        predecessor's orbitals.

        Raises
        ------
        ScfError, GeometryError
        """
        field, solution, notes = self._solve(positions)
        gradient = field.accept(solution).nuc_grad_method().kernel()
        self._state = pack(field.to_orthogonal(solution.occupied))
        return EngineResult(
            energy=solution.energy * Hartree,
            forces=-np.array(gradient, float) * (Hartree / Bohr),
            scf_iterations=field.builds,
            spin_square=field.spin_square(solution.occupied),
            state=self._state,
            notes=notes,
        )

    def hessian(self, positions: np.ndarray) -> np.ndarray | None:
        """Analytic Hessian (shape (3N, 3N), eV/Angstrom^2).

        Raises
        ------
        ScfError, GeometryError
        """
        field, solution, _ = self._solve(positions)
        blocks = np.array(field.accept(solution).Hessian().kernel())
        size = 3 * len(self._reaction.symbols)
        hessian = blocks.transpose(0, 2, 1, 3).reshape(size, size) * (Hartree / Bohr**2)
        return 0.5 * (hessian + hessian.T)

    def restore(self, state: bytes) -> None:
        """Start the next evaluation from the orbitals in `state`; empty: search all guesses again."""
        self._state = state

    def provenance(self) -> dict:
        """Program, version, level of theory and settings."""
        return {
            "program": "pyscf",
            "version": importlib.metadata.version("pyscf"),
            "level": self._options.level,
            "settings": {
                "e_convergence": TIGHT[0],
                "d_convergence": TIGHT[1],
                "threads": self._options.threads,
                "multi_start": self._options.multi_start,
            },
        }

    def close(self) -> None:
        """Nothing to release."""

    def _mean_field(self, positions: np.ndarray):
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
        field.chkfile = None
        return field

    def _solve(self, positions: np.ndarray):
        """Field, converged solution and notes at a geometry."""
        mean_field = self._mean_field(positions)
        field = PyscfField(mean_field, self._restricted)
        notes: dict = {}
        if self._state:
            solution, notes = solve(field, None, unpack(self._state), self._options.multi_start)
            if solution is not None:
                return field, solution, notes
            notes = {"scf_previous_failed": True}
        atomic = field.fock_of_density(mean_field.get_init_guess(key="minao"))[1]
        solution, found = solve(field, atomic, None, self._options.multi_start)
        if solution is None:
            raise ScfError(
                f"PySCF: the SCF does not converge from any of {found.get('scf_starts', 1)} starts"
            )
        return field, solution, {**found, **notes}


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

    problems, without = [], []
    for symbol in sorted(symbols):
        try:
            gto.basis.load(options.basis, symbol)
        except (KeyError, RuntimeError, ValueError, OSError):
            without.append(symbol)
    if without:
        problems.append(
            f"engine.basis: pyscf has no {options.basis!r} for {', '.join(without)}; "
            "write another basis set, such as 3-21g or def2-svp"
        )
    if options.method.lower() not in HARTREE_FOCK:
        try:
            dft.libxc.parse_xc(options.method)
        except (KeyError, ValueError) as error:
            problems.append(f"engine.method: pyscf knows no {options.method!r}: {error}")
    return problems
