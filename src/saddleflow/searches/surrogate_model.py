"""Surrogate of the published GP searches: observations, hyperparameter fits, predictions, trust."""

from __future__ import annotations

import numpy as np

from saddleflow.evaluation import Evaluation, Prediction
from saddleflow.reaction import Reaction
from saddleflow.settings import GPDimer
from saddleflow.surrogate.gaussian_process import GaussianProcess
from saddleflow.surrogate.hyperparameters import (
    DataScales,
    Posterior,
    SignalBarrier,
    constant_variance,
    fit,
)
from saddleflow.surrogate.inverse_distances import InverseDistances
from saddleflow.surrogate.kernel import Hyperparameters, TrainingFeatures
from saddleflow.surrogate.oscillation import OscillationDetector
from saddleflow.surrogate.scaled_conjugate_gradient import ScaledConjugateGradient
from saddleflow.surrogate.transport import TransportDistance, farthest_points

SUBSET_GROWTH = 2
"""Observations that the subset gains when the hyperparameters oscillate."""


class SurrogateModel:
    """Observations and the Gaussian process on them.

    Parameters
    ----------
    reaction : Reaction
        Fixes the features.
    method : GPDimer
        Noise, prior, fit and trust.
    """

    def __init__(self, reaction: Reaction, method: GPDimer):
        self.method = method
        self.descriptor = InverseDistances(reaction.numbers)
        self.training = TrainingFeatures(self.descriptor)
        self.positions: list[np.ndarray] = []
        self.hyperparameters: Hyperparameters | None = None
        self.process: GaussianProcess | None = None
        self.fit_evaluations = 0
        self.fit_subset = method.fit_subset
        self._updates_to_fit = 0
        self._constant = 1.0
        self._distance = TransportDistance(reaction.numbers, method.transport_combination)
        self._distances = np.zeros((0, 0))
        self._oscillation = OscillationDetector(method.oscillation_window, method.oscillation_ratio)
        self._minimiser = ScaledConjugateGradient(
            method.fit_max_iterations, method.fit_step_tolerance, method.fit_objective_tolerance
        )
        self._barrier = None
        if method.signal_barrier:
            self._barrier = SignalBarrier(
                method.signal_variance_limit,
                method.barrier_strength,
                method.barrier_growth,
                method.barrier_strength_max,
                method.barrier_start_fraction,
            )
        self._degrees_of_freedom = method.prior_degrees_of_freedom
        if self._degrees_of_freedom is None:
            elements = len(np.unique(reaction.numbers))
            self._degrees_of_freedom = max(28.0, 2.0 + elements * (elements + 1))
        self._energies: list[float] = []
        self._gradients: list[np.ndarray] = []

    @property
    def reference_energy(self) -> float:
        """Energy of the first observation, eV: the zero of the surrogate."""
        return self._energies[0]

    def add(self, evaluation: Evaluation) -> None:
        """Take up an observation."""
        position = evaluation.positions.ravel()
        self.training.add(evaluation.positions)
        if self.method.fit_subset:
            row = [self._distance(position, other) for other in self.positions]
            self._distances = np.block([[self._distances, np.c_[row]], [np.r_[row][None], np.zeros((1, 1))]])
        self.positions.append(position)
        self._energies.append(evaluation.energy)
        self._gradients.append(evaluation.gradient)

    def update(self, from_data_ranges: bool) -> GaussianProcess:
        """Fit hyperparameters (warm, or from the data's ranges) and condition on all data."""
        energies = np.array(self._energies) - self.reference_energy
        gradients = np.array(self._gradients)
        scales = DataScales.of(self.training, energies)
        constant = constant_variance(energies)
        start = self.hyperparameters
        if start is None or from_data_ranges:
            start = scales.initial(len(self.descriptor.type_labels))
        self.fit_evaluations = 0
        self._updates_to_fit -= 1
        if from_data_ranges or self._updates_to_fit <= 0:
            self._updates_to_fit = self.method.fit_every
            self._constant = constant
            self._fit(start, energies, gradients, scales)
            if self.method.oscillation_detection and self._may_grow():
                fitted = self.hyperparameters
                if self._oscillation.oscillates(fitted.logarithms):
                    self.fit_subset = min(self.fit_subset + SUBSET_GROWTH, self.method.fit_subset_max)
                    self._fit(fitted, energies, gradients, scales)
                    self._oscillation.oscillates(self.hyperparameters.logarithms)
        self.process = GaussianProcess(
            self.training,
            energies,
            gradients,
            self.hyperparameters,
            self._constant,
            self.method.noise_variance,
            self.process,
        )
        return self.process

    def _may_grow(self) -> bool:
        return 0 < self.fit_subset < self.method.fit_subset_max

    def _fit(
        self,
        start: Hyperparameters,
        energies: np.ndarray,
        gradients: np.ndarray,
        scales: DataScales,
    ) -> None:
        """Fit to the subset; the scales of the priors and the constant are those of all data."""
        chosen = list(range(len(energies)))
        if self.fit_subset:
            chosen = farthest_points(self._distances, self.fit_subset, self.method.fit_subset_latest)
        if self._barrier is not None:
            start = Hyperparameters(self._barrier.inside(start.signal_variance), start.length_scales)
        posterior = Posterior(
            self.training.subset(chosen),
            energies[chosen],
            gradients[chosen],
            scales,
            self._constant,
            self.method.noise_variance,
            self._degrees_of_freedom,
            self._barrier,
        )
        self.hyperparameters, evaluations = fit(posterior, start, self._minimiser)
        self.fit_evaluations += evaluations

    def predict(self, position: np.ndarray) -> Prediction:
        """What the surrogate says about a point, with its uncertainty."""
        energy, gradient = self.process.energy_gradient(position)
        energy_sigma, force_sigma = self.process.standard_deviations(position)
        return Prediction(energy + self.reference_energy, -gradient.reshape(-1, 3), energy_sigma, force_sigma)

    def nearest(self, position: np.ndarray) -> float:
        """Distance to the nearest observation (2-norm), Angstrom."""
        return min(float(np.linalg.norm(position - x)) for x in self.positions)

    def distance_ratio(self, position: np.ndarray) -> float:
        """Published trust measure: least over observations of the largest |ln(r / r_observed)|."""
        logarithms = np.abs(np.log(self.descriptor.features(position)) - np.log(self.training.phi))
        return float(logarithms.max(axis=1).min())

    def trust_radius(self) -> float:
        """Transport distance from the observations up to which the surrogate is trusted, Angstrom.

        It grows with the number of observations up to a cap that shrinks with the number of atoms
        (arXiv 2510.06030).
        """
        method = self.method
        if not method.adaptive_trust_radius:
            return method.trust_radius
        grown = method.trust_radius_growth * (1.0 - 2.0 ** (-len(self.positions) / method.trust_radius_half))
        cap = max(method.trust_radius_floor, method.trust_radius_per_atom / np.sqrt(self.descriptor.atoms))
        return min(method.trust_radius_start + grown, float(cap))

    def trusts(self, position: np.ndarray) -> bool:
        """Whether the observations cover a position (shape (D,), Angstrom)."""
        if self.method.trust == "transport":
            return self._distance.any_within(position, self.positions, self.trust_radius())
        if self.method.trust == "distance_ratio":
            return self.distance_ratio(position) <= abs(np.log(self.method.distance_ratio_limit))
        return True
