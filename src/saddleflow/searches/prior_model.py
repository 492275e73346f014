"""Observations of a search and the surrogate on top of a prior mean."""

from __future__ import annotations

import numpy as np

from saddleflow.evaluation import Evaluation, Prediction
from saddleflow.geometry import largest_displacement
from saddleflow.reaction import Reaction
from saddleflow.settings import PriorGPDimer
from saddleflow.surrogate.bond_distances import BondDistances
from saddleflow.surrogate.kernel import TrainingFeatures
from saddleflow.surrogate.prior_mean import ConstantMean, PriorMean, UpdatedHessian, XTBMean
from saddleflow.surrogate.prior_process import Observations, PriorProcess


class PriorModel:
    """What a search knows: evaluated points, the prior mean there, and the process on both.

    Parameters
    ----------
    reaction : Reaction
        Fixes features and prior mean.
    method : PriorGPDimer
        Prior, kernel and noise.
    """

    def __init__(self, reaction: Reaction, method: PriorGPDimer):
        self.method = method
        self.evaluations: list[Evaluation] = []
        self.positions: list[np.ndarray] = []
        self.process: PriorProcess | None = None
        self._mean: PriorMean = (
            ConstantMean() if method.prior == "constant" else XTBMean(reaction, method.prior)
        )
        self._hessian = UpdatedHessian(self._mean, method.hessian_rebuild_distance)
        self._training = TrainingFeatures(BondDistances(reaction.numbers, method.decay_length))
        self._prior: list[tuple[float, np.ndarray]] = []
        self._cache: tuple[np.ndarray, tuple[float, np.ndarray]] | None = None

    @property
    def latest(self) -> np.ndarray:
        """Position of the last observation, shape (D,)."""
        return self.positions[-1]

    def prior(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy and gradient of the prior mean; the last position is remembered."""
        if self._cache is None or not np.array_equal(self._cache[0], position):
            self._cache = (position.copy(), self._mean.energy_gradient(position))
        return self._cache[1]

    def prior_hessian(self, position: np.ndarray) -> np.ndarray:
        """Hessian of the prior mean, exact or updated."""
        return self._hessian.at(position, self.prior(position)[1])

    def add(self, evaluation: Evaluation) -> None:
        """Take up an observation."""
        position = evaluation.positions.ravel()
        self._prior.append(self.prior(position))
        self._training.add(evaluation.positions)
        self.positions.append(position)
        self.evaluations.append(evaluation)

    def update(self) -> None:
        """Condition on all observations; the prior mean goes where the data are likelier without it."""
        observations = Observations(
            np.array([e.energy for e in self.evaluations]),
            np.array([e.gradient for e in self.evaluations]),
            np.array([energy for energy, _ in self._prior]),
            np.array([gradient for _, gradient in self._prior]),
        )
        method = self.method
        self.process = PriorProcess(
            self._training,
            observations,
            method.length_scale,
            0.0 if method.prior == "constant" else method.prior_weight_sigma,
            method.energy_noise,
            method.gradient_noise,
            None if self.process is None else self.process.signal_variance,
        )

    def gradient_hessian(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (shape (D,)) and Hessian (shape (D, D)) of the surrogate."""
        prior = self.prior(position)
        hessian = self.process.hessian(position, self.prior_hessian(position))
        return self.process.energy_gradient(position, prior)[1], hessian

    def predict(self, position: np.ndarray) -> Prediction:
        """What the surrogate says about a point, with its uncertainty."""
        prior = self.prior(position)
        energy, gradient = self.process.energy_gradient(position, prior)
        return Prediction(
            energy, -gradient.reshape(-1, 3), *self.process.standard_deviations(position, prior)
        )

    def nearest(self, position: np.ndarray) -> float:
        """Distance to the nearest observation: largest motion of an atom after alignment, Angstrom."""
        x = position.reshape(-1, 3)
        return min(largest_displacement(x, other.reshape(-1, 3)) for other in self.positions)

    def hyperparameters(self) -> dict[str, float]:
        """For run files."""
        if self.process is None:
            return {}
        return {
            "signal_variance": self.process.signal_variance,
            "length_scale": self.method.length_scale,
            "prior_weight": self.process.weight,
        }
