"""A prior learned from GFN2-xTB searches on top of GFN1-xTB: its searches, and when it is dropped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import InputError, ScfError
from saddleflow.evaluation import Outcome
from saddleflow.learn import learned_from, run_files
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.run_file import write_run_file
from saddleflow.searches.prior_model import PriorModel
from saddleflow.settings import Engine, PriorGPDimer
from saddleflow.surrogate.learned_prior import LearnedMean, write_learned_prior
from saddleflow.surrogate.prior_mean import prior_mean

FORMALDEHYDE = np.array([[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [-0.9, 0.9, 0.0], [0.25, 1.2, 0.0]])
ENGINE = Engine(program="xtb")


TAUGHT = (0, 2, 4, 11, 17)
"""Seeds of guesses from which searches converge at once; others dissociate first, each in its own way."""


def guess(seed):
    shift = 0.05 * np.random.default_rng(seed).standard_normal((4, 3))
    return Reaction(f"r{seed}", ("C", "O", "H", "H"), FORMALDEHYDE + shift)


def searched(reaction, **settings):
    # The calls up to convergence are what is learned and compared here; the proof comes after them.
    method = PriorGPDimer(prior="GFN1-xTB", go_on=0, **settings)
    ledger = Ledger(create_engine(ENGINE, reaction), None, {}, method.max_calls)
    try:
        return carry_out(ledger, reaction, "p", method, ENGINE.model_dump(mode="json"))
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run files of five searches, and what they teach."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "searches").mkdir()
    for seed in TAUGHT:
        write_run_file(folder / "searches" / f"{seed}.h5", searched(guess(seed)))
    write_learned_prior(folder / "learned.h5", learned_from(run_files([folder]), "GFN1-xTB"))
    return folder


def test_learning_again_makes_the_same_bytes_in_any_order_of_the_files(folder):
    paths = run_files([folder])
    learned = learned_from(paths[::-1], "GFN1-xTB")
    write_learned_prior(folder / "again.h5", learned)
    assert (folder / "again.h5").read_bytes() == (folder / "learned.h5").read_bytes()
    assert learned.reactions == tuple(sorted(f"r{seed}" for seed in TAUGHT))
    assert learned.level == "xtb:GFN2-xTB"
    assert learned.elements == (1, 6, 8)


def test_searches_that_follow_need_fewer_calls(folder):
    seeds = (9, 10, 13, 15, 22)  # from the others both go on to one saddle or another
    before = [searched(guess(seed)) for seed in seeds]
    after = [searched(guess(seed), learned_prior=str(folder / "learned.h5")) for seed in seeds]
    assert all(run.result.outcome is Outcome.CONVERGED for run in before + after)
    assert sum(len(run.evaluations) for run in after) < sum(len(run.evaluations) for run in before)
    assert all(run.result.trace[-1].notes["learned_prior"].startswith("used") for run in after)
    for one, other in zip(before, after, strict=True):
        assert other.answer.energy == pytest.approx(one.answer.energy, abs=1e-3)


def test_a_search_with_it_is_the_same_again(folder):
    first, second = (searched(guess(10), learned_prior=str(folder / "learned.h5")) for _ in range(2))
    positions = [[row.positions for row in run.evaluations] for run in (first, second)]
    assert np.array_equal(*positions)


def test_a_wrong_one_is_dropped_and_the_search_converges(folder):
    right = learned_from(run_files([folder]), "GFN1-xTB")
    wrong = replace(right, mean=right.mean * np.where(np.arange(len(right.mean)) == 0, 0.5, -8.0))
    wrong = replace(wrong, factor=0.01 * right.factor)
    write_learned_prior(folder / "wrong.h5", wrong)
    run = searched(guess(10), learned_prior=str(folder / "wrong.h5"))
    assert run.result.outcome is Outcome.CONVERGED
    assert "likelier without it" in run.result.trace[-1].notes["learned_prior"]


def test_a_molecule_that_it_does_not_fit_is_searched_without_it(folder):
    hcn = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.19, 0.0, 0.0], [0.45, 1.15, 0.0]]))
    run = searched(hcn, learned_prior=str(folder / "learned.h5"))
    assert run.result.outcome is Outcome.CONVERGED
    assert run.result.trace[0].notes["learned_prior"] == "dropped: it has seen no N"
    assert len(run.evaluations) == len(searched(hcn).evaluations)


def test_hessian_of_the_learned_mean(folder):
    reaction = guess(20)
    learned = learned_from(run_files([folder]), "GFN1-xTB")
    mean = LearnedMean(prior_mean(reaction, "GFN1-xTB"), learned, reaction.numbers)
    x, weights = reaction.positions.ravel(), mean.weight_prior(0.1).mean
    slope = lambda y: weights @ mean.energies_gradients(y)[1]  # noqa: E731
    numerical = np.array([(slope(x + e) - slope(x - e)) / 0.01 for e in 0.005 * np.eye(x.size)])
    gradients = mean.energies_gradients(x)[1]
    shares = mean.parts(gradients, weights)[1]
    hessian = np.tensordot(shares, mean.part_hessians(x, gradients, weights), 1)
    assert hessian == pytest.approx(0.5 * (numerical + numerical.T), rel=0.02, abs=0.8)


def test_searches_of_two_levels_of_theory_are_refused(folder, tmp_path):
    run = replace(searched(guess(0)), engine=Engine(program="xtb", method="GFN1-xTB").model_dump(mode="json"))
    write_run_file(tmp_path / "other.h5", run)
    with pytest.raises(InputError, match="different levels of theory"):
        learned_from([*run_files([folder]), tmp_path / "other.h5"], "GFN1-xTB")
    with pytest.raises(InputError, match="to learn from"):
        learned_from([], "GFN1-xTB")
    assert run_files([Path(tmp_path)]) == [tmp_path / "other.h5"]


def test_what_was_learned_stays_where_a_surface_fails(folder, monkeypatch):
    paths = run_files([folder])
    write_learned_prior(folder / "two.h5", learned_from(paths, "GFN1-xTB+GFN2-xTB"))
    reaction, method = (
        guess(11),
        PriorGPDimer(prior="GFN1-xTB+GFN2-xTB", learned_prior=str(folder / "two.h5")),
    )
    model = PriorModel(reaction, method)
    before = len(model.weights)
    second = model._mean.potentials[1]

    def fails(positions):
        raise ScfError("no convergence")

    monkeypatch.setattr(second, "energy_gradient", fails)
    energies, gradients = model.prior(reaction.positions.ravel())
    assert len(model.weights) == before - 1 == len(energies) == len(gradients)
    assert model.notes["learned_prior"].startswith("used")
    gradient, hessian = model.prior_gradient_hessian(reaction.positions.ravel())
    assert np.isfinite(gradient).all() and np.isfinite(hessian).all()
