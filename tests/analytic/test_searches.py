"""Searches on analytic surfaces whose saddles are known exactly."""

import contextlib

import numpy as np
import pytest

from saddleflow.engines.analytic import QuadraticSaddle, Transfer
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import ScfError
from saddleflow.evaluation import Outcome, SearchStopped
from saddleflow.geometry import largest_displacement, project_out, rigid_motion_basis
from saddleflow.reaction import Reaction
from saddleflow.searches import dimer, gp_dimer
from saddleflow.searches.base import guard_dissociation, interrupted
from saddleflow.searches.dimer import interpolated_gradient
from saddleflow.searches.lbfgs import LimitedMemoryBFGS
from saddleflow.searches.surrogate_dimer import Translator, rotate
from saddleflow.searches.surrogate_model import SurrogateModel
from saddleflow.settings import Convergence, Dimer, GPDimer, OTGPDimer, PriorGPDimer, Start
from saddleflow.surrogate.inverse_distances import InverseDistances

SYMBOLS = ("C", "O", "H", "H", "H", "N")
ALONG = Start(direction="file")
"""From the guess itself, along the direction that a test gives."""


@pytest.fixture
def surface():
    return Transfer()


def displaced(surface, size=0.08, seed=0):
    """Reaction whose guess lies off the saddle, and the softest mode there."""
    generator = np.random.default_rng(seed)
    positions = surface.saddle + size * generator.standard_normal(surface.saddle.shape) / np.sqrt(3)
    _, modes = np.linalg.eigh(surface.hessian(positions))
    reaction = Reaction("transfer", SYMBOLS[: len(positions)], positions)
    return reaction, modes[:, 0].reshape(-1, 3)


def run(module, method, surface, seed=0):
    reaction, direction = displaced(surface, seed=seed)
    ledger = Ledger(surface, None, {}, method.max_calls)
    return module.search(ledger.evaluate, reaction, method, direction, []), ledger


@pytest.mark.parametrize(
    ("module", "method"),
    [(dimer, Dimer(start=ALONG)), (gp_dimer, GPDimer(start=ALONG)), (gp_dimer, OTGPDimer())],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_the_known_saddle(module, method, surface, seed):
    result, ledger = run(module, method, surface, seed)
    answer = ledger.evaluations[result.evaluation]
    assert result.outcome is Outcome.CONVERGED
    assert answer.max_atom_force < 0.01
    assert largest_displacement(answer.positions, surface.saddle) < 0.03
    values, modes = np.linalg.eigh(surface.hessian(answer.positions))
    assert result.curvature < 0
    assert abs(result.mode.ravel() @ modes[:, 0]) > 0.9
    assert (values < -0.1).sum() == 1


def test_the_surrogate_saves_calls(surface):
    plain = [len(run(dimer, Dimer(start=ALONG), surface, seed)[1].evaluations) for seed in range(4)]
    accelerated = [
        len(run(gp_dimer, GPDimer(start=ALONG), surface, seed)[1].evaluations) for seed in range(4)
    ]
    assert np.median(accelerated) < np.median(plain)


@pytest.mark.parametrize(
    ("module", "method"),
    [(dimer, Dimer(start=ALONG)), (gp_dimer, GPDimer(start=ALONG)), (gp_dimer, OTGPDimer())],
)
def test_same_input_same_geometries(module, method, surface):
    first, second = (run(module, method, surface)[1].evaluations for _ in range(2))
    assert len(first) == len(second)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, second, strict=True))


def test_published_criterion_is_the_norm_of_all_forces(surface):
    method = GPDimer(start=ALONG, convergence=Convergence(criterion="force_norm"))
    result, ledger = run(gp_dimer, method, surface)
    assert ledger.evaluations[result.evaluation].force_norm < 0.01


def test_gp_dimer_counts_start_rotations_and_phases(surface):
    result, ledger = run(gp_dimer, GPDimer(start=ALONG), surface)
    phases = len(result.trace) - 1
    assert ledger.calls["search"] == 1 + phases
    assert 1 <= ledger.calls["rotation"] <= 7


def test_predictions_come_with_every_phase(surface):
    _, ledger = run(gp_dimer, GPDimer(start=ALONG), surface)
    searched = [e for e in ledger.evaluations if e.purpose == "search"][1:]
    assert all(e.prediction is not None and e.prediction.energy_sigma >= 0 for e in searched)
    last = ledger.evaluations[-1]
    assert last.prediction.energy == pytest.approx(last.energy, abs=5e-3)


def test_budget_ends_a_search_with_its_best_point(surface):
    method = Dimer(start=ALONG, max_calls=12)
    reaction, direction = displaced(surface)
    ledger, trace = Ledger(surface, None, {}, method.max_calls), []
    with pytest.raises(SearchStopped) as stopped:
        dimer.search(ledger.evaluate, reaction, method, direction, trace)
    assert stopped.value.outcome is Outcome.MAX_CALLS
    assert len(ledger.evaluations) == 12
    result = interrupted(Outcome.MAX_CALLS, "", ledger.evaluations, trace, direction)
    forces = [ledger.evaluations[p.evaluation].max_atom_force for p in trace]
    assert ledger.evaluations[result.evaluation].max_atom_force == min(forces)


def test_energy_limit_ends_the_plain_dimer(surface):
    reaction, direction = displaced(surface)
    method = Dimer(start=ALONG, energy_limit=1e-6)
    ledger = Ledger(surface, None, {}, 500)
    flipped = -surface.hessian(surface.saddle)
    assert flipped.shape == (18, 18)
    with pytest.raises(SearchStopped) as stopped:
        dimer.search(ledger.evaluate, reaction_below(surface), method, direction, [])
    assert stopped.value.outcome is Outcome.ENERGY_LIMIT
    assert reaction.name == "transfer"


def test_a_molecule_that_falls_apart_ends_a_search_where_the_method_says_so():
    start = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [5.0, 0.0, 0.0]])  # a gap of 3.5 Angstrom
    apart = start + np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.2, 0.0, 0.0]])  # 6.7
    guard_dissociation(start, start, 3.0)  # half of the limit comes on top of the guess's own gap
    guard_dissociation(apart, start, None)
    with pytest.raises(SearchStopped) as stopped:
        guard_dissociation(apart, start, 6.0)
    assert stopped.value.outcome is Outcome.DISSOCIATED
    # As published, the others go on: the next phase starts where the molecule was still whole.
    assert PriorGPDimer().dissociation_gap == 6.0
    assert GPDimer().dissociation_gap is OTGPDimer().dissociation_gap is Dimer().dissociation_gap is None


def reaction_below(surface):
    """A start downhill of the saddle, so that the search has to climb."""
    _, modes = np.linalg.eigh(surface.hessian(surface.saddle))
    positions = surface.saddle + 0.1 * modes[:, 0].reshape(-1, 3)
    return Reaction("transfer", SYMBOLS[: len(positions)], positions)


def test_rotation_reaches_the_lowest_eigenvector_of_a_quadratic():
    eigenvalues = np.array([-2.0, 0.5, 1.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0])
    surface = QuadraticSaddle(np.arange(9.0).reshape(3, 3), eigenvalues, seed=4)
    hessian = surface.hessian(surface.saddle)
    x = surface.saddle.ravel()
    mode = np.random.default_rng(0).standard_normal(9)
    mode /= np.linalg.norm(mode)

    def gradient(y):
        return hessian @ (y - x)

    turned = rotate(gradient, x, gradient(x), mode, 0.01, 1e-4, 100)
    assert turned.curvature == pytest.approx(-2.0, abs=1e-3)
    assert abs(turned.mode @ np.linalg.eigh(hessian)[1][:, 0]) == pytest.approx(1.0, abs=1e-4)


def test_interpolated_image_gradient_is_exact_on_a_quadratic():
    generator = np.random.default_rng(2)
    hessian = generator.standard_normal((6, 6))
    hessian += hessian.T
    g0 = generator.standard_normal(6)
    mode, theta = np.linalg.qr(generator.standard_normal((6, 2)))[0].T
    trial, angle, separation = 0.3, -0.7, 0.01

    def image(turn):
        return g0 + separation * hessian @ (mode * np.cos(turn) + theta * np.sin(turn))

    found = interpolated_gradient(g0, image(0.0), image(trial), trial, angle)
    assert found == pytest.approx(image(angle), abs=1e-12)


def test_lbfgs_solves_a_quadratic_once_it_knows_the_curvatures():
    hessian = np.diag([1.0, 2.0, 5.0])
    memory = LimitedMemoryBFGS(10)
    for s in np.eye(3):
        memory.add(s, hessian @ s)
    force = np.array([1.0, -2.0, 3.0])
    assert memory.apply(force) == pytest.approx(np.linalg.solve(hessian, force))


@pytest.mark.parametrize("memory", [False, True])
def test_a_step_shortened_by_near_atoms_ends_the_memory_of_the_phase_unless_told_otherwise(memory):
    translator = Translator(0.05, 0.1, 2.0 / 3.0, False, memory)
    hessian = np.diag([-1.0, 2.0, 5.0, 2.0, 3.0, 4.0])
    mode = np.eye(6)[0]
    near = np.array([0.0, 0.0, 0.0, 0.2, 0.0, 0.0])  # no atom may move further than 0.033 Angstrom
    limited = translator.step(near, np.full(6, 10.0), mode, -1.0)
    assert np.linalg.norm(limited.reshape(-1, 3), axis=1).max() < 0.034

    position = np.array([0.0, 0.0, 0.0, 1.5, 0.0, 0.0])
    for _ in range(4):
        gradient = 0.1 * hessian @ (position - 1.0)
        step = translator.step(position, gradient, mode, -1.0)
        position = position + step
    along_force = 0.01 * (2.0 * (gradient @ mode) * mode - gradient)
    assert np.allclose(step, along_force, rtol=1e-12) is not memory


def test_an_internal_mode_never_becomes_a_rotation_of_the_molecule():
    # All internal modes are convex here, so the lowest mode in all coordinates is a rigid rotation.
    x = np.array([[0.0, 0.0, 0.3], [1.2, 0.0, 0.0], [-0.6, 1.0, 0.0], [-0.6, -1.0, 0.0], [0.0, 0.0, 1.6]])
    descriptor = InverseDistances(np.array([6, 8, 1, 1, 1]))
    reference = descriptor.features(x) * 0.999

    def gradient(y):
        return descriptor.pull_back(y, 8.0 * (descriptor.features(y) - reference))

    flat, rigid = x.ravel(), rigid_motion_basis(x)
    mode = project_out(rigid, np.random.default_rng(0).standard_normal(15))
    mode /= np.linalg.norm(mode)
    free = rotate(gradient, flat, gradient(flat), mode + 0.1 * rigid[:, 4], 0.01, 1e-3, 100)
    kept = rotate(gradient, flat, gradient(flat), mode + 0.1 * rigid[:, 4], 0.01, 1e-3, 100, rigid)
    assert np.linalg.norm(rigid.T @ free.mode) > 0.9
    assert np.linalg.norm(rigid.T @ kept.mode) < 1e-10
    assert kept.curvature > 0.1


class Patchy(Transfer):
    """The surface with calls that have no solution."""

    def __init__(self, failing):
        super().__init__()
        self.failing, self.asked = failing, 0

    def evaluate(self, positions):
        self.asked += 1
        if self.asked in self.failing:
            raise ScfError("no convergence")
        return super().evaluate(positions)


def test_a_failed_point_is_tried_half_way_back_only_when_asked_to():
    surface = Patchy({7, 8})
    result, ledger = run(gp_dimer, OTGPDimer(failure_retries=2), surface)
    assert result.outcome is Outcome.CONVERGED
    assert [e.index for e in ledger.evaluations if e.error] == [6, 7]
    failed, again, solved = (e.positions for e in ledger.evaluations[6:9])
    observed = [e.positions for e in ledger.evaluations[:6]]
    for before, after in ((failed, again), (again, solved)):
        nearest = min(observed, key=lambda x: np.linalg.norm(x - before))
        assert after == pytest.approx(0.5 * (before + nearest))
    with pytest.raises(ScfError):
        run(gp_dimer, OTGPDimer(), Patchy({7}))
    with pytest.raises(ScfError):
        run(gp_dimer, OTGPDimer(failure_retries=1), Patchy({7, 8}))


def test_a_rotation_that_raises_the_curvature_ends_the_rotations_only_when_asked_to():
    surface = QuadraticSaddle(np.arange(6.0).reshape(2, 3), np.array([-2.0, 0.5, 1.0, 3.0, 4.0, 6.0]), seed=4)
    hessian = surface.hessian(surface.saddle)
    differ = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        mode = generator.standard_normal(6)
        mode /= np.linalg.norm(mode)
        phase = generator.standard_normal(6)

        def gradient(y, phase=phase):  # rough on the scale of the dimer, as a surrogate with noise
            return hessian @ y + 0.02 * np.sin(1e3 * y + phase)

        x = np.zeros(6)
        start = (gradient(0.01 * mode) - gradient(x)) @ mode / 0.01
        kept = rotate(gradient, x, gradient(x), mode, 0.01, 1e-3, 10, refuse_rising=True)
        free = rotate(gradient, x, gradient(x), mode, 0.01, 1e-3, 10)
        assert kept.curvature <= start + 1e-9
        differ += not np.allclose(kept.mode, free.mode)
    assert differ


def test_a_point_is_evaluated_again_as_published_and_refused_when_asked_to(surface):
    def nearest(refuse):
        # So much noise that the surrogate believes to be stationary where the surface is not.
        method = GPDimer(start=ALONG, noise_variance=0.3, max_calls=40, refuse_repeated_points=refuse)
        reaction, direction = displaced(surface)
        ledger = Ledger(surface, None, {}, method.max_calls)
        with contextlib.suppress(SearchStopped):
            gp_dimer.search(ledger.evaluate, reaction, method, direction, [])
        points = np.array([e.positions.ravel() for e in ledger.evaluations])
        return min(np.linalg.norm(points[:k] - points[k], axis=1).min() for k in range(1, len(points)))

    assert nearest(False) == 0.0
    assert nearest(True) > 1e-4


class FirmSurrogate(SurrogateModel):
    """Surrogate that turns the dimer at its first fit, and for the second the start direction is a mode.

    With fits to real data the second needs more noise than the forces differ by.
    """

    def __init__(self, reaction, method, start):
        super().__init__(reaction, method)
        self.start, self.fits = start, 0

    def update(self, from_data_ranges):
        self.fits += 1
        skewed = np.roll(self.start, 1) if self.fits == 1 else self.start
        hessian = 5.0 * np.eye(len(self.start)) - 7.0 * np.outer(skewed, skewed)
        center = self.positions[0]
        self.process = QuadraticProcess(center, hessian)
        return self.process

    def predict(self, position):
        return None


class QuadraticProcess:
    def __init__(self, center, hessian):
        self.center, self.stiffness = center, hessian

    def gradient(self, position):
        return self.stiffness @ (position - self.center)


@pytest.mark.parametrize("keep", [False, True])
def test_no_turn_in_a_later_initial_rotation_leads_back_to_the_start_direction(surface, keep):
    reaction, _ = displaced(surface)
    direction = np.random.default_rng(3).standard_normal(reaction.positions.size)
    direction /= np.linalg.norm(direction)
    method = GPDimer(start=ALONG, keep_evaluated_direction=keep)
    model = FirmSurrogate(reaction, method, direction)
    ledger = Ledger(surface, None, {}, 20)
    start = gp_dimer.Dimer(reaction.positions.ravel(), direction)
    midpoint = ledger.evaluate(reaction.positions)
    model.add(midpoint)
    turned = gp_dimer._initial_rotations(ledger.evaluate, model, start, midpoint, method)
    image = ledger.evaluations[-1].positions.ravel()
    evaluated = (image - start.position) / method.separation
    assert model.fits == 2
    assert ledger.calls["rotation"] == 2
    assert abs(evaluated @ direction) < 0.9
    assert turned.mode == pytest.approx(evaluated if keep else direction, abs=1e-9)


def test_short_phases_reach_the_saddle_only_where_each_goes_on_from_the_last(surface):
    def farthest(go_on):
        method = GPDimer(
            start=ALONG, max_inner_iterations=3, max_step=0.01, max_calls=14, continue_unfinished_phases=go_on
        )
        reaction, direction = displaced(surface)
        ledger = Ledger(surface, None, {}, method.max_calls)
        with contextlib.suppress(SearchStopped):
            gp_dimer.search(ledger.evaluate, reaction, method, direction, [])
        first, *phases = (e.positions for e in ledger.evaluations if e.purpose == "search")
        return max(np.linalg.norm(x - first) for x in phases)

    # Two steps of 0.01 Angstrom a phase.
    assert farthest(False) <= 0.02 + 1e-9
    assert farthest(True) > 0.04
