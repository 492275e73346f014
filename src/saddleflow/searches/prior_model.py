"""Observations of a search and the surrogate on top of a prior mean."""

from __future__ import annotations

from copy import copy

import numpy as np

from saddleflow.errors import GeometryError
from saddleflow.evaluation import Evaluation, Prediction
from saddleflow.geometry import largest_displacement
from saddleflow.reaction import Reaction
from saddleflow.settings import PriorGPDimer
from saddleflow.surrogate.bond_distances import BondDistances
from saddleflow.surrogate.followed_hessian import FollowedHessian
from saddleflow.surrogate.kernel import TrainingFeatures
from saddleflow.surrogate.learned_prior import LENGTH_FACTOR, LearnedMean, read_learned_prior
from saddleflow.surrogate.prior_mean import PriorMean, SurfaceFailed, fitted_mean, prior_mean
from saddleflow.surrogate.prior_process import Observations, PriorProcess
from saddleflow.surrogate.surface_parameters import SurfaceParameters, read_surface_parameters

FITTED_BELOW = 0.5
"""eV/Angstrom: where the largest force is smaller, parameters fitted to the level of theory are taken.  In
the strain of the guess they led searches to other saddles; below, 133 closed shells took 1080 calls for
1161."""


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
        self._plain: PriorProcess | None = None
        self._reaction = reaction
        self._mean, self.notes = _mean(reaction, method)
        self._fitted = _fitted(reaction, method)
        self._base = 0
        self._hessian = FollowedHessian(self._mean, reaction.numbers, method.hessian_rebuild_distance)
        self._training = TrainingFeatures(BondDistances(reaction.numbers, method.decay_length))
        self._prior: list[tuple[np.ndarray, np.ndarray]] = []
        self._cache: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def latest(self) -> np.ndarray:
        """Position of the last observation, shape (D,)."""
        return self.positions[-1]

    def prior(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (k,) and gradients (k, D) of the cheap surfaces; the last position is remembered."""
        while self._cache is None or not np.array_equal(self._cache[0], position):
            try:
                self._cache = (position.copy(), self._mean.energies_gradients(position))
            except SurfaceFailed as failure:
                self._drop(failure.number)
        return self._cache[1]

    def _prior_hessian(self, position: np.ndarray, checked_within: float | None = None) -> np.ndarray:
        """Hessian of the prior mean as weighted now, shape (D, D)."""
        while True:
            try:
                return self._hessian.at(position, self.prior(position)[1], self.weights, checked_within)
            except SurfaceFailed as failure:
                self._drop(failure.number)

    def followed(self) -> FollowedHessian:
        """Hessian of the mean as it is known now, to come back to with :meth:`follow`."""
        return copy(self._hessian)

    def follow(self, hessian: FollowedHessian) -> None:
        """Go on from an earlier Hessian."""
        self._hessian = hessian

    def forget_hessian(self) -> None:
        """Make the Hessian of the mean anew where it is asked for next."""
        self._hessian.replace(self._mean)

    def _drop(self, number: int) -> None:
        """Go on without a surface that has no answer where the search is."""
        self._mean.drop(number)
        self._prior = [tuple(np.delete(values, number, axis=0) for values in pair) for pair in self._prior]
        self._cache = None
        if self.process is not None:
            self.update()

    def _drop_learned(self, reason: str) -> None:
        """Go on without what other reactions taught."""
        if not isinstance(self._mean, LearnedMean):
            return
        count = len(self._mean.potentials)
        self._mean = self._mean.plain
        self._hessian.replace(self._mean)
        self._prior = [(energies[:count], gradients[:count]) for energies, gradients in self._prior]
        self._cache = None
        self.notes = {"learned_prior": f"dropped: {reason}"}

    @property
    def weights(self) -> np.ndarray:
        """Of the cheap surfaces, shape (k,): those of the prior before anything was observed."""
        if self.process is None:
            return self._mean.weight_prior(self.method.prior_weight_sigma).mean
        return self.process.weights

    def prior_gradient_hessian(
        self, position: np.ndarray, checked_within: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (D,) and Hessian (D, D) of the prior mean before anything was observed.

        The Hessian is checked where an atom has moved by `checked_within` (Angstrom) since it last was; by
        default by the method's `hessian_rebuild_distance`.
        """
        hessian = self._prior_hessian(position, checked_within)
        return self.weights @ self.prior(position)[1], hessian

    def add(self, evaluation: Evaluation) -> None:
        """Take up an observation."""
        position = evaluation.positions.ravel()
        self._prior.append(self.prior(position))
        self._training.add(evaluation.positions)
        self.positions.append(position)
        self.evaluations.append(evaluation)

    def update(self, base: int | None = None) -> None:
        """Condition on what was observed last, and on observation number `base` (default: as before).

        Where forces are small, the surfaces get the parameters that were fitted to the level of theory.  Of
        the prior mean, what was learned goes where the data are likelier without it.
        """
        self._base = self._base if base is None else base
        before = self.process
        self.process = self._conditioned(self._mean, self._prior, before)
        if self._fitted and self.evaluations[self._base].max_atom_force < FITTED_BELOW:
            self._take_fitted(before)
        if isinstance(self._mean, LearnedMean) and len(self.evaluations) > 1:
            count = len(self._mean.potentials)
            plain = [(energies[:count], gradients[:count]) for energies, gradients in self._prior]
            self._plain = process = self._conditioned(self._mean.plain, plain, self._plain)
            # The evidence is the product of the densities with which each observation was predicted.
            if process.log_evidence > self.process.log_evidence:
                self._drop_learned("the evaluations are likelier without it")
                self.process = process

    def _take_fitted(self, before: PriorProcess | None) -> None:
        """Go on with the fitted surfaces, if the observations are likelier with them; asked once.

        `before` is the process before the one as conditioned now on the published surfaces.
        """
        fitted, self._fitted = self._fitted, None
        mean = fitted_mean(self._reaction, fitted, self._mean)
        if mean is None:
            return
        try:
            prior = self._answers_of(mean)
            process = self._conditioned(mean, prior, before)
            if process.log_evidence < self.process.log_evidence:
                self.notes = {"surface_parameters": "published: the evaluations are likelier with them"}
                return
            self._hessian.exchange(mean)
        except (SurfaceFailed, GeometryError):
            self._cache = None  # a surface of both may have been asked elsewhere
            return
        self._mean, self._prior, self._cache, self.process = mean, prior, None, process
        self.notes = {"surface_parameters": f"{fitted.level}, fitted ({fitted.digest[:12]})"}

    def _answers_of(self, mean: PriorMean) -> list[tuple[np.ndarray, np.ndarray]]:
        """What a mean of the same methods says at all observations; surfaces that it shares are not asked.

        The base comes first: where a surface is asked first it finds its way to the lowest state.
        """
        new = [n for n, surface in enumerate(mean.potentials) if surface not in self._mean.potentials]
        asked = PriorMean([mean.potentials[n] for n in new])
        answers = [(energies.copy(), gradients.copy()) for energies, gradients in self._prior]
        for number in sorted(range(len(answers)), key=lambda n: n != self._base):
            energies, gradients = answers[number]
            energies[new], gradients[new] = asked.energies_gradients(self.positions[number])
        return answers

    def _conditioned(
        self, mean: PriorMean, prior: list[tuple[np.ndarray, np.ndarray]], before: PriorProcess | None
    ) -> PriorProcess:
        """Process on these observations; the signal variance starts from that of the one before."""
        method, count = self.method, len(self.evaluations)
        chosen = sorted({self._base, *range(max(count - method.observations, 0), count)})
        observations = Observations(
            np.array([self.evaluations[i].energy for i in chosen]),
            np.array([self.evaluations[i].gradient for i in chosen]),
            np.array([prior[i][0] for i in chosen]),
            np.array([prior[i][1] for i in chosen]),
        )
        return PriorProcess(
            self._training.subset(chosen),
            observations,
            method.length_scale * (LENGTH_FACTOR if isinstance(mean, LearnedMean) else 1.0),
            mean.weight_prior(method.prior_weight_sigma),
            method.energy_noise,
            method.gradient_noise,
            None if before is None else before.signal_variance,
        )

    def gradient_hessian(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient (shape (D,)) and Hessian (shape (D, D)) of the surrogate."""
        prior_hessian = self._prior_hessian(position)
        hessian = self.process.hessian(position, prior_hessian)
        return self.process.energy_gradient(position, self.prior(position))[1], hessian

    def predict(self, position: np.ndarray) -> Prediction:
        """What the surrogate says about a point, with its uncertainty."""
        prior = self.prior(position)
        energy, gradient = self.process.energy_gradient(position, prior)
        return Prediction(
            energy, -gradient.reshape(-1, 3), *self.process.standard_deviations(position, prior)
        )

    def gradient_sigma(self, position: np.ndarray) -> float:
        """Root mean square standard deviation of the gradient's components, eV/Angstrom."""
        prior = self.prior(position)  # first: it may replace the process
        return self.process.standard_deviations(position, prior)[1]

    def nearest(self, position: np.ndarray) -> float:
        """Distance to the nearest observation: largest motion of an atom after alignment, Angstrom."""
        return min(largest_displacement(position, other) for other in self.positions)

    def hyperparameters(self) -> dict[str, float]:
        """For run files."""
        if self.process is None:
            return {}
        weights = self.process.weights[: len(self._mean.potentials)]
        return {
            "signal_variance": self.process.signal_variance,
            "length_scale": self.method.length_scale,
        } | {f"weight_{name}": float(w) for name, w in zip(self._mean.names, weights, strict=True)}


def _mean(reaction: Reaction, method: PriorGPDimer) -> tuple[PriorMean, dict[str, str]]:
    """Prior mean of a search, and what to note of it."""
    plain = prior_mean(reaction, method.prior)
    if not method.learned_prior:
        return plain, {}
    learned = read_learned_prior(method.learned_prior)
    reason = learned.misfit(numbers=set(reaction.numbers.tolist()), prior=method.prior)
    if reason:
        return plain, {"learned_prior": f"dropped: {reason}"}
    return LearnedMean(plain, learned, reaction.numbers), {"learned_prior": f"used ({learned.sources[:12]})"}


def _fitted(reaction: Reaction, method: PriorGPDimer) -> SurfaceParameters | None:
    """Parameters for where forces are small; refused here, not in the middle of a search."""
    if method.surface_parameters in ("auto", "published") or method.learned_prior:
        return None
    fitted = read_surface_parameters(method.surface_parameters)
    fitted.require(reaction.numbers.tolist())
    return fitted
