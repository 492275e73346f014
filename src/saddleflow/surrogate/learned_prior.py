"""A prior learned from finished searches: its file, and the prior mean that it makes of cheap surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saddleflow import __version__
from saddleflow.errors import InputError
from saddleflow.files import get_texts, open_hdf5, put_array, put_texts, write_hdf5
from saddleflow.surrogate.body_ordered import BodyOrdered
from saddleflow.surrogate.prior_mean import DISPLACEMENT, PRODUCT_DISPLACEMENT, PriorMean
from saddleflow.surrogate.prior_process import WeightPrior

SCHEMA = "learned-prior/1"
REMEDY = "learn it again with `saddleflow learn`"
LENGTH_FACTOR = 0.7
"""The residual kernel is for what the learned covariance leaves, and reaches so much less far."""


@dataclass(frozen=True)
class LearnedPrior:
    """Distribution of the weights of cheap surfaces and body-ordered features.

    Parameters
    ----------
    level : str
        Level of theory that it was learned from, as :attr:`saddleflow.settings.Engine.level`.
    surfaces : tuple of str
        Cheap surfaces, k.
    elements : tuple of int
        Atomic numbers that occurred, ascending.
    mean : ndarray, shape (k + F,)
        Mean of the weights.
    factor : ndarray, shape (k + F, r)
        B of their covariance B B^T.
    reactions : tuple of str
        Names of the reactions that it was learned from.
    evaluations : int
        How many evaluations they had.
    sources : str
        SHA-256 of what was learned from.
    """

    level: str
    surfaces: tuple[str, ...]
    elements: tuple[int, ...]
    mean: np.ndarray
    factor: np.ndarray
    reactions: tuple[str, ...]
    evaluations: int
    sources: str

    def misfit(self, level: str | None = None, numbers: set[int] = frozenset(), prior: str = "auto") -> str:
        """Why it can't serve such searches, in one line; ``""`` where it can.

        Parameters
        ----------
        level : str or None
            Level of theory; None: not asked.
        numbers : set of int
            Atomic numbers of the molecules.
        prior : str
            The method's prior.
        """
        from ase.data import chemical_symbols

        if level is not None and level != self.level:
            return f"it was learned from {self.level}, not from {level}"
        if strange := sorted(set(numbers) - set(self.elements)):
            return f"it has seen no {', '.join(chemical_symbols[number] for number in strange)}"
        if prior not in ("auto", "+".join(self.surfaces)):
            return f"it corrects {'+'.join(self.surfaces)}, not {prior}"
        return ""


def write_learned_prior(path: str | Path, learned: LearnedPrior) -> None:
    """Write atomically; the same content makes the same bytes."""

    def fill(file) -> None:
        file.attrs.update(
            saddleflow_version=__version__,
            level=learned.level,
            evaluations=learned.evaluations,
            sources=learned.sources,
        )
        put_texts(file, "surfaces", list(learned.surfaces))
        put_texts(file, "reactions", list(learned.reactions))
        put_array(file, "elements", np.array(learned.elements, np.int64))
        put_array(file, "mean", learned.mean)
        put_array(file, "factor", learned.factor)

    write_hdf5(path, SCHEMA, fill)


def read_learned_prior(path: str | Path) -> LearnedPrior:
    """Read a learned prior.

    Raises
    ------
    RunFileError
        When the file is missing, damaged, or of another schema version.
    """
    with open_hdf5(path, SCHEMA, REMEDY) as file:
        learned = LearnedPrior(
            level=str(file.attrs["level"]),
            surfaces=tuple(get_texts(file, "surfaces")),
            elements=tuple(int(number) for number in file["elements"][...]),
            mean=file["mean"][...],
            factor=file["factor"][...],
            reactions=tuple(get_texts(file, "reactions")),
            evaluations=int(file.attrs["evaluations"]),
            sources=str(file.attrs["sources"]),
        )
        size = len(learned.surfaces) + BodyOrdered(list(learned.elements), np.array(learned.elements)).size
        if learned.mean.shape != (size,) or learned.factor.shape[:1] != (size,):
            raise ValueError(f"its weights are {learned.mean.shape}, not {size}")
    return learned


class LearnedMean(PriorMean):
    """Cheap surfaces and body-ordered features with learned weights.

    Parameters
    ----------
    plain : PriorMean
        The cheap surfaces; those that `learned` has and this lacks are taken to have no weight.
    learned : LearnedPrior
        Distribution of the weights.
    numbers : ndarray, shape (N,)
        Atomic numbers of the molecule.

    Raises
    ------
    InputError
        When the learned prior does not fit the molecule.
    """

    def __init__(self, plain: PriorMean, learned: LearnedPrior, numbers: np.ndarray):
        super().__init__(plain.potentials)
        if reason := learned.misfit(numbers=set(np.asarray(numbers).tolist())):
            raise InputError(f"the learned prior can't be used: {reason}")
        self.plain = plain
        self._weights = WeightPrior(learned.mean, learned.factor)
        for number in reversed(range(len(learned.surfaces))):
            if learned.surfaces[number] not in plain.names:
                self._weights = self._weights.without(number)
        self._features = BodyOrdered(list(learned.elements), numbers)

    def weight_prior(self, sigma: float) -> WeightPrior:
        """Distribution of the weights; `sigma` is that of the plain surfaces and does not count here."""
        return self._weights

    def drop(self, number: int) -> None:
        """Go on without a cheap surface; the weights of what remains are those given that it has none."""
        super().drop(number)
        self.plain.drop(number)
        self._weights = self._weights.without(number)

    def energies_gradients(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (k + F,) and gradients (k + F, D); see :class:`PriorMean`."""
        energies, gradients = super().energies_gradients(position)
        values, jacobian = self._features.values_jacobian(position.reshape(-1, 3))
        return np.concatenate([energies, values]), np.concatenate([gradients, jacobian])

    def parts(self, gradients: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of the cheap surfaces and of all that was learned (k + 1, D), and their weights."""
        k = len(self.potentials)
        return np.vstack([gradients[:k], weights[k:] @ gradients[k:]]), np.append(weights[:k], 1.0)

    def part_hessians(self, position: np.ndarray, gradients: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Hessians of the parts, shape (k + 1, D, D); see :class:`PriorMean`."""
        k = len(self.potentials)
        hessians = super().part_hessians(position, gradients[:k], weights[:k])
        own = self._changes(position, gradients, weights, DISPLACEMENT * np.eye(position.size)) / DISPLACEMENT
        return np.concatenate([hessians, 0.5 * (own + own.T)[None]])

    def part_products(
        self, position: np.ndarray, gradients: np.ndarray, weights: np.ndarray, vectors: np.ndarray
    ) -> np.ndarray:
        """Hessians of the parts times unit vectors, shape (k + 1, D, m); see :class:`PriorMean`."""
        k = len(self.potentials)
        products = super().part_products(position, gradients[:k], weights[:k], vectors)
        changes = self._changes(position, gradients, weights, PRODUCT_DISPLACEMENT * vectors.T)
        return np.concatenate([products, changes.T[None] / PRODUCT_DISPLACEMENT])

    def _changes(
        self, position: np.ndarray, gradients: np.ndarray, weights: np.ndarray, steps: np.ndarray
    ) -> np.ndarray:
        """How the gradient of the learned part changes along steps (shape (m, D)), shape (m, D)."""
        k = len(self.potentials)
        moved = [self._features.gradient((position + step).reshape(-1, 3), weights[k:]) for step in steps]
        return np.array(moved) - weights[k:] @ gradients[k:]
