"""Sella as a method: counted, replayable, and one clear line where it is not installed."""

import importlib.util

import numpy as np
import pytest

from saddleflow.engines.analytic import Transfer
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.errors import InputError, ScfError
from saddleflow.evaluation import Outcome, Purpose
from saddleflow.preflight import preflight
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.settings import Engine, Sella, SellaXTB, Settings
from saddleflow.vibrations import internal_modes
from saddleflow.xtb import XTB

HCN = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.19, 0.0, 0.0], [0.45, 1.15, 0.0]]))
FORMALDEHYDE = Reaction(
    "formaldehyde",
    ("C", "O", "H", "H"),
    np.array([[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [-0.9, 0.9, 0.0], [0.25, 1.2, 0.0]]),
)
needs_sella = pytest.mark.skipif(importlib.util.find_spec("sella") is None, reason="sella is not installed")


class Truth:
    """GFN2-xTB that counts by itself what it is asked."""

    name = "truth"

    def __init__(self, reaction, fail_at=()):
        self.engine, self.asked, self.fail_at = create_engine(Engine(program="xtb"), reaction), 0, fail_at

    def evaluate(self, positions):
        self.asked += 1
        if self.asked in self.fail_at:
            raise ScfError("no convergence")
        return self.engine.evaluate(positions)

    def provenance(self):
        return self.engine.provenance()

    def close(self):
        self.engine.close()


def run(reaction, method, journal=None, **kwargs):
    truth = Truth(reaction, **kwargs)
    ledger = Ledger(truth, journal, {}, method.max_calls)
    try:
        return carry_out(ledger, reaction, method.algorithm, method, {"program": "xtb"}), truth
    finally:
        ledger.close()


@needs_sella
@pytest.mark.parametrize("reaction", [HCN, FORMALDEHYDE], ids=lambda r: r.name)
@pytest.mark.parametrize(
    "method", [Sella(), SellaXTB(), Sella(internal=False)], ids=["sella", "xtb", "cartesian"]
)
def test_finds_a_first_order_saddle_and_counts_every_call(reaction, method):
    found, truth = run(reaction, method)
    assert found.result.outcome is Outcome.CONVERGED
    assert len(found.evaluations) == truth.asked
    answer = found.evaluations[found.result.evaluation]
    assert answer.purpose is Purpose.SEARCH and answer.max_atom_force < 0.01
    hessian = XTB(reaction.numbers).hessian(answer.positions)
    modes = internal_modes(hessian, answer.positions.ravel())
    assert modes.index == 1
    assert abs(modes.vectors[:, 0] @ found.result.mode.ravel()) > 0.9
    assert found.result.curvature < 0
    assert found.result.hessian.shape == hessian.shape


@needs_sella
def test_probes_are_told_from_steps_and_xtb_saves_them():
    plain, _ = run(FORMALDEHYDE, Sella())
    helped, _ = run(FORMALDEHYDE, SellaXTB())
    first = [e.purpose for e in plain.evaluations[:3]]
    assert first == [Purpose.SEARCH, Purpose.ROTATION, Purpose.ROTATION]
    for evaluation in plain.evaluations:
        if evaluation.purpose is Purpose.ROTATION:
            before = [e for e in plain.evaluations[: evaluation.index] if e.purpose is Purpose.SEARCH][-1]
            assert np.linalg.norm(evaluation.positions - before.positions) < 1e-3
    assert not any(e.purpose is Purpose.ROTATION for e in helped.evaluations[:3])
    assert [p.evaluation for p in plain.result.trace] == [
        e.index for e in plain.evaluations if e.purpose is Purpose.SEARCH
    ]


@needs_sella
def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    whole, _ = run(FORMALDEHYDE, Sella())
    cut, _ = run(FORMALDEHYDE, Sella(max_calls=7), tmp_path / "journal.jsonl")
    assert cut.result.outcome is Outcome.MAX_CALLS
    resumed, truth = run(FORMALDEHYDE, Sella(), tmp_path / "journal.jsonl")
    assert truth.asked == len(whole.evaluations) - 7
    pairs = zip(whole.evaluations, resumed.evaluations, strict=True)
    assert all(np.array_equal(a.positions, b.positions) for a, b in pairs)


@needs_sella
def test_a_failed_evaluation_ends_the_search_with_its_best_point():
    found, _ = run(FORMALDEHYDE, Sella(), fail_at=(12,))
    assert found.result.outcome is Outcome.SCF_FAILED
    assert found.result.evaluation >= 0 and len(found.evaluations) == 12


@needs_sella
def test_a_start_that_is_stationary_costs_one_call():
    saddle, _ = run(HCN, Sella())
    positions = saddle.evaluations[saddle.result.evaluation].positions
    again, truth = run(Reaction("again", HCN.symbols, positions), Sella())
    assert again.result.outcome is Outcome.CONVERGED and truth.asked == 1


@needs_sella
def test_no_xtb_start_direction_is_asked_for():
    surface = Transfer()
    symbols = ("Xe", "O", "H", "H", "H", "N")
    positions = surface.saddle + 0.02 * np.random.default_rng(0).standard_normal(surface.saddle.shape)
    ledger = Ledger(surface, None, {}, 200)
    found = carry_out(ledger, Reaction("x", symbols, positions), "sella", Sella(internal=False), {})
    assert found.result.outcome is Outcome.CONVERGED


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "sella" else real(name, *a)
    )
    structures = tmp_path / "structures"
    structures.mkdir()
    (structures / "a.xyz").write_text("2\ncharge=0 multiplicity=1\nN 0 0 0\nN 0 0 1.2\n")
    settings = Settings(
        reactions=str(structures),
        results=str(tmp_path / "r"),
        methods=["sella-xtb", "gp-dimer"],
        engine="xtb",
    )
    with pytest.raises(InputError) as error:
        preflight(settings)
    (line,) = error.value.problems
    assert "sella-xtb needs the package sella" in line and "pip install 'saddleflow[sella]'" in line
    with pytest.raises(InputError, match="pip install 'saddleflow"):
        run(HCN, Sella())
