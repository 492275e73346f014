"""A search that converged on no first-order saddle goes on from there, and its proof is not made twice."""

import ase
import numpy as np
import pytest
from ase.optimize import BFGS
from tblite.ase import TBLite

from saddleflow.analysis.table import summarise
from saddleflow.engines.catalogue import create_engine
from saddleflow.engines.ledger import Ledger
from saddleflow.evaluation import Outcome, Purpose
from saddleflow.going_on import departure
from saddleflow.reaction import Reaction
from saddleflow.run import carry_out
from saddleflow.run_file import write_run_file
from saddleflow.saddle_index import IndexProof
from saddleflow.settings import Engine, GPDimer, OTGPDimer, PriorGPDimer, Start, Verification
from saddleflow.verification import Status, verify

# A Walden inversion in which this search, so started, first converges with two imaginary modes.
SOFTEST = Start(displacement=0.01)
ONE_HEAVY = Reaction(
    "one_heavy",
    ("C", "H", "H", "H", "H", "H"),
    np.array(
        [[0, 0, 0], [0, 0, 1.3], [0, 0, -1.3], [1.08, 0, 0], [-0.54, 0.94, 0], [-0.54, -0.94, 0]], float
    ),
    charge=-1,
)
AMMONIA = ase.Atoms("NH3", [[0, 0, 0.11], [0, 0.94, -0.26], [0.814, -0.47, -0.26], [-0.814, -0.47, -0.26]])
HCN = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.18, 0.0, 0.0], [0.3, 1.2, 0.0]]))
XTB = Engine(program="xtb")


def searched(reaction, method, journal=None):
    ledger = Ledger(create_engine(XTB, reaction), journal, {"a": 1}, method.max_calls)
    try:
        return carry_out(ledger, reaction, method.algorithm, method, XTB.model_dump(mode="json"))
    finally:
        ledger.close()


def proved(run, folder, level="index"):
    write_run_file(folder / "run.h5", run)
    return verify(folder / "run.h5", Verification(level=level), folder / "v.h5", None)


def test_from_two_imaginary_modes_on_to_one(tmp_path):
    there = proved(searched(ONE_HEAVY, OTGPDimer(start=SOFTEST)), tmp_path)
    assert (there.status, there.imaginary_modes) == (Status.FAILED, 2)
    run = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST, go_on=2))
    assert run.result.outcome is Outcome.CONVERGED
    record = proved(run, tmp_path)
    assert (record.status, record.imaginary_modes) == (Status.PASSED, 1)
    assert record.calls == 1, "the search's own proof is taken up: only the point itself is measured again"
    assert proved(run, tmp_path, "hessian").imaginary_modes == 1


def test_an_interrupted_search_goes_on_the_same_way(tmp_path):
    whole = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST, go_on=1))
    changed = [i for i, e in enumerate(whole.evaluations) if e.purpose is Purpose.VERIFICATION]
    for stop in (changed[1], changed[-1] + 2):
        journal = tmp_path / f"{stop}.jsonl"
        searched(ONE_HEAVY, OTGPDimer(start=SOFTEST, go_on=1, max_calls=stop), journal)
        again = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST, go_on=1), journal)
        assert [e.energy for e in again.evaluations] == [e.energy for e in whole.evaluations]
        assert again.result.evaluation == whole.result.evaluation


def test_from_a_minimum_uphill_along_the_soft_mode(tmp_path):
    atoms = AMMONIA.copy()
    atoms.calc = TBLite(accuracy=0.1, verbosity=0)
    assert BFGS(atoms, logfile=None).run(fmax=0.005, steps=100)
    minimum = Reaction("ammonia", tuple(atoms.get_chemical_symbols()), atoms.get_positions())
    at_rest = searched(minimum, GPDimer(start={"direction": "xtb_softest_mode"}))
    assert at_rest.result.message == "the start is stationary already"
    run = searched(minimum, GPDimer(start={"direction": "xtb_softest_mode"}, go_on=2))
    record = proved(run, tmp_path, "hessian")
    assert (record.status, record.imaginary_modes) == (Status.PASSED, 1)
    bonds = run.answer.positions[1:] - run.answer.positions[0]
    assert abs(np.linalg.det(bonds)) < 0.05, "planar: the inversion"


def test_where_going_on_leads_nowhere_the_point_is_kept(tmp_path):
    first = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST))
    # The proof and two further calls are all that the budget allows.
    run = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST, go_on=1, max_calls=len(first.evaluations) + 6))
    assert run.result.outcome is Outcome.CONVERGED
    assert run.answer.energy == first.answer.energy
    assert len(run.evaluations) == len(first.evaluations) + 6
    assert proved(run, tmp_path).imaginary_modes == 2


@pytest.mark.psi4
def test_a_passed_proof_adds_nothing_to_the_calls_and_is_not_made_again(tmp_path):
    """HCN, where Psi4 has an analytic Hessian: neither it nor the products are paid for a second time."""
    options = Engine(program="psi4")
    rows = {}
    for name, method in (("alone", PriorGPDimer(go_on=0)), ("proved", PriorGPDimer())):
        ledger = Ledger(create_engine(options, HCN), None, {}, method.max_calls)
        run = carry_out(ledger, HCN, name, method, options.model_dump(mode="json"))
        ledger.close()
        (tmp_path / "searches" / "hcn").mkdir(parents=True, exist_ok=True)
        (tmp_path / "verifications" / "hcn").mkdir(parents=True, exist_ok=True)
        write_run_file(tmp_path / "searches" / "hcn" / f"{name}.h5", run)
        record = verify(
            tmp_path / "searches" / "hcn" / f"{name}.h5",
            Verification(),
            tmp_path / "verifications" / "hcn" / f"{name}.h5",
            None,
        )
        rows[name] = summarise(tmp_path, ["hcn"], [name]).iloc[0], run, record
    (alone, before, _), (row, run, record) = rows["alone"], rows["proved"]
    assert alone.verification == row.verification == "passed"
    assert row.calls == alone.calls == len(before.evaluations) == run.proved_from
    made = run.evaluations[run.proved_from :]
    assert {e.purpose for e in made} == {Purpose.VERIFICATION}
    assert "scf_starts" in made[0].notes, "all starts, once more, where it converged"
    assert np.abs(made[0].positions - run.answer.positions).max() == 0.0
    assert (record.level, record.calls) == ("index", 1)
    assert row.calls_verification == len(made) + 1
    assert [e.energy for e in run.evaluations[: run.proved_from]] == [e.energy for e in before.evaluations]


def test_products_of_two_electronic_states_prove_nothing(monkeypatch):
    """In the search as in the verification: the energy at a displaced point would have jumped."""
    first = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST))
    # No molecule of this size changes its state on cue, so the limit is moved instead of the energy.
    monkeypatch.setattr("saddleflow.going_on.largest_jump", lambda settings: 1e-9)
    run = searched(ONE_HEAVY, OTGPDimer(start=SOFTEST, go_on=1))
    assert run.result.evaluation == first.result.evaluation
    assert run.proved_from == len(first.evaluations) < len(run.evaluations)


def proof(index, mode, second, likely=None):
    return IndexProof(
        index, index if likely is None else likely, 4, 4, np.zeros((2, 2)), -500.0, mode, 0.3, "", second
    )


def test_the_way_on_leaves_by_the_mode_that_is_not_the_reaction():
    along, across = np.zeros((2, 3, 3))
    along[0, 0] = across[1, 1] = 1.0
    position = np.zeros((3, 3))
    for mode, second in ((along, across), (across, along)):
        there, climb = departure(proof(2, mode, second), position, position + 0.5 * across, 0.9 * along)
        assert np.abs(climb).argmax() == np.abs(along).argmax()
        assert there[1, 1] == pytest.approx(0.15) and not there[0].any(), "towards where it came from"
    there, climb = departure(proof(0, along, across), position, position - along, across)
    assert there[0, 0] == pytest.approx(-0.3) and (climb == along).all()
    assert departure(proof(1, along, across), position, position, along) is None
    assert departure(proof(3, along, across), position, position, along) is None
    assert departure(proof(2, along, None), position, position, along) is None


def test_a_second_mode_that_is_negative_but_for_its_error_is_followed_down_too():
    along, across = np.zeros((2, 3, 3))
    along[0, 0] = across[1, 1] = 1.0
    position = np.zeros((3, 3))
    there, _ = departure(proof(None, along, across, likely=2), position, position, along)
    assert np.abs(there).max() == pytest.approx(0.15)
    for likely in (0, 1):
        assert departure(proof(None, along, across, likely), position, position, along) is None
