"""Methods beside each other and beside published results: nothing is left out silently."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from saddleflow.analysis.comparison import compare
from saddleflow.analysis.comparison_text import as_text, write_tables
from saddleflow.analysis.leaderboard import page
from saddleflow.analysis.mode_overlap import mode_overlap
from saddleflow.analysis.published import read_published
from saddleflow.cli import main
from saddleflow.errors import InputError
from saddleflow.evaluation import Evaluation, Outcome, Purpose, SearchResult, TracePoint
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, write_run_file
from saddleflow.settings import Engine, GPDimer
from saddleflow.verification_file import Status, VerificationRecord, write_verification

POSITIONS = np.array([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [0.3, 1.2, 0.1]])
HF = Engine(program="psi4").model_dump(mode="json")
HEADER = (
    "reaction,atoms,multiplicity,initial_energy_eV,dimer_converged,dimer_calls,dimer_saddle_energy_eV,"
    "sella_converged,sella_calls,sella_saddle_energy_eV\n"
)
TABLE = HEADER + (
    "a,3,1,-9,True,100,-10.000,True,30,-10.001\n"
    "b,3,1,-9,True,200,-10.000,True,40,-10.500\n"  # they disagree: no consensus
    "c,3,1,-9,False,,,True,50,-10.000\n"
    "z,3,1,-9,True,300,-10.000,True,60,-10.000\n"
)


def run(name, method, calls, energy=-10.0, outcome=Outcome.CONVERGED, engine=HF):
    reaction = Reaction(name, ("C", "N", "H"), POSITIONS)
    rows = []
    for index in range(calls):
        forces = np.zeros((3, 3))
        forces[0, 0] = 0.001 if index == calls - 1 and outcome is Outcome.CONVERGED else 1.0
        rows.append(Evaluation(index, Purpose.SEARCH, POSITIONS, energy, forces, 1.0, 0.25))
    mode = np.zeros((3, 3))
    mode[2] = [1.0, 0.0, 0.0]
    return RunFile(
        reaction=reaction,
        method_name=method,
        method=GPDimer().model_dump(mode="json"),
        engine=engine,
        provenance={},
        evaluations=rows,
        result=SearchResult(outcome, "", calls - 1, mode, -1.0, (TracePoint(0, mode, -1.0),)),
        wall_seconds=1.25 * calls,
        engine_seconds=1.0 * calls,
        surrogate_seconds=0.25 * calls,
    )


def put(results, run_file, status=Status.PASSED):
    name = f"{run_file.reaction.name}/{run_file.method_name}.h5"
    write_run_file(results / "searches" / name, run_file)
    if status is None:
        return
    record = VerificationRecord(
        reaction=run_file.reaction.name,
        method=run_file.method_name,
        status=status,
        reason="as stored",
        level="hessian",
        imaginary_modes=1 if status is Status.PASSED else 2,
        symbols=run_file.reaction.symbols,
        positions=POSITIONS,
        frequencies_cm1=np.array([-1500.0, 100.0, 200.0]),
        modes=np.zeros((3, 3, 3)),
    )
    write_verification(results / "verifications" / name, record)


def plan(results, reactions, methods):
    (results / "inputs" / "methods").mkdir(parents=True, exist_ok=True)
    (results / "inputs" / "plan.json").write_text(json.dumps({"reactions": reactions, "methods": methods}))
    for name in methods:
        document = {"name": name, "method": GPDimer().model_dump(mode="json"), "engine": HF}
        (results / "inputs" / "methods" / f"{name}.json").write_text(json.dumps(document))


@pytest.fixture
def results(tmp_path):
    """Reactions a, b, c with two methods, all finished: gp solves all, new solves a and b."""
    folder = tmp_path / "results"
    plan(folder, ["a", "b", "c"], ["new", "gp"])
    put(folder, run("a", "new", 10))
    put(folder, run("b", "new", 20))
    put(folder, run("c", "new", 25), Status.FAILED)
    put(folder, run("a", "gp", 20, energy=-10.3))
    put(folder, run("b", "gp", 40))
    put(folder, run("c", "gp", 60))
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(TABLE)
    return path


def rows(comparison, name="methods"):
    return getattr(comparison, name).set_index("method")


def test_a_method_is_a_row_with_failures_in_place(results):
    found = rows(compare(results))
    assert found.loc["new", ["reactions", "solved", "verified"]].tolist() == [3, 2, 2]
    assert found.loc["new", "calls_median"] == 20
    assert found.loc["new", "calls_p90"] == np.inf
    assert found.loc["new", "calls_mean_solved"] == 15
    assert found.loc["gp", ["solved", "calls_median"]].tolist() == [3, 40]
    assert found.loc["gp", "engine_s_median"] == 40
    assert found.loc["gp", "surrogate_over_engine_median"] == pytest.approx(0.25)
    assert found["intended"].isna().all(), "without a published table the intended saddle is not known"


def test_a_verification_that_could_not_run_is_said_and_not_counted(results):
    put(results, run("b", "gp", 40), Status.NOT_RUN)
    comparison = compare(results)
    found = rows(comparison).loc["gp"]
    assert (found["solved"], found["verified"], found["verification_not_run"]) == (2, 2, 1)
    assert "2/3, 1 not run" in as_text(comparison)


def test_published_programs_stand_beside_on_the_same_reactions_and_on_the_whole_table(results, table):
    comparison = compare(results, table)
    same, whole = rows(comparison), rows(comparison, "whole_table")
    assert same.loc["dimer (published)", ["reactions", "solved"]].tolist() == [3, 2]
    assert same.loc["Sella (published)", "calls_median"] == 40
    assert whole.loc["dimer (published)", ["reactions", "solved"]].tolist() == [4, 3]
    assert comparison.facts["best_published"] == "Sella (published)"
    assert same.loc["new", "ratio_to_best_published"] == pytest.approx(np.sqrt(10 / 30 * 20 / 40))
    assert pd.isna(same.loc["Sella (published)", "ratio_to_best_published"])


def test_the_intended_saddle_is_the_one_that_all_published_programs_found(results, table):
    found = rows(compare(results, table))
    # Only reaction a has a consensus: b is disputed, on c one program failed.
    assert found["intended_known"].tolist() == [1, 1, 1, 1]
    assert found.loc["new", "intended"] == 1
    assert found.loc["gp", "intended"] == 0, "0.3 eV below is another saddle"
    assert found.loc["Sella (published)", "intended"] == 1


def test_at_another_level_of_theory_the_intended_saddle_is_not_known(results, table):
    xtb = Engine(program="xtb", method="GFN2-xTB").model_dump(mode="json")
    for name, calls in (("a", 10), ("b", 20), ("c", 25)):
        put(results, run(name, "new", calls, engine=xtb))
    comparison = compare(results, table)
    assert len(comparison.pairs) == 1 and comparison.facts["best_published"] is None
    assert list(comparison.costs()) == ["new", "gp"]
    assert pd.isna(rows(comparison).loc["new", "intended"])
    assert "not on the published HF/3-21G" in as_text(comparison)


def test_a_reaction_that_one_method_has_not_finished_is_left_out_and_counted(results, table):
    plan(results, ["a", "b", "c", "d", "e"], ["new", "gp"])
    put(results, run("d", "new", 5))
    comparison = compare(results, table)
    assert rows(comparison)["reactions"].tolist() == [3, 3, 3, 3]
    counts = comparison.counts
    assert (counts["compared"], counts["planned"]) == (3, 5)
    assert (counts["finished_by_some"], counts["finished_by_none"]) == (1, 1)
    assert counts["finished"] == {"new": 4, "gp": 3}
    assert "1 that only some methods have finished, 1 that none has" in as_text(comparison)


def test_a_saddle_that_waits_for_its_verification_is_not_finished(results):
    plan(results, ["a", "b", "c", "d"], ["new", "gp"])
    put(results, run("d", "new", 5), None)
    put(results, run("d", "gp", 9))
    comparison = compare(results)
    assert comparison.counts["finished"] == {"new": 3, "gp": 4}


def test_a_run_without_any_verification_yet_is_not_one_without_verification(tmp_path):
    folder = tmp_path / "results"
    plan(folder, ["a", "b"], ["new", "gp"])
    for method in ("new", "gp"):
        put(folder, run("a", method, 5), None)
        put(folder, run("b", method, 9, outcome=Outcome.MAX_STEPS), None)
    settings = folder / "inputs" / "verification.json"
    settings.write_text('{"level": "auto"}')
    comparison = compare(folder)
    assert (comparison.counts["compared"], comparison.counts["waiting"]) == (1, 2)  # the failures of b
    assert "wait for their verification: 2" in as_text(comparison)
    assert "switched off" not in as_text(comparison)
    settings.write_text('{"level": "none"}')
    comparison = compare(folder)
    assert (comparison.counts["compared"], comparison.counts["waiting"]) == (2, 0)
    assert "switched off" in as_text(comparison)


def test_another_molecule_of_the_same_name_is_not_compared(results, table):
    table.write_text(TABLE.replace("c,3,1", "c,4,1"))
    comparison = compare(results, table)
    assert comparison.counts["not_published"] == 1
    assert rows(comparison)["reactions"].unique().tolist() == [2]


def test_nothing_finished_by_all_is_said(results, tmp_path):
    empty = tmp_path / "new"
    plan(empty, ["a"], ["new", "gp"])
    put(empty, run("a", "new", 3))
    with pytest.raises(InputError, match="no reaction was finished by all methods yet"):
        compare(empty)


def test_calls_above_the_budget_are_failures(results):
    found = rows(compare(results, budget=30))
    assert found["solved"].tolist() == [2, 1]


def test_pairs_are_corrected_for_their_number(results, table):
    pairs = compare(results, table).pairs
    assert len(pairs) == 5, "new and gp, and each of them with each of the two programs"
    assert (pairs["wilcoxon_p_holm"] >= pairs["wilcoxon_p"]).all()
    first = pairs.iloc[0]
    assert (first["a"], first["b"], first["only_b"]) == ("new", "gp", 1)
    assert first["ratio_geometric_mean"] == pytest.approx(0.5)


def test_overlap_of_modes_turns_with_the_molecule():
    whole = run("a", "new", 2)
    turn = Rotation.from_euler("xyz", [0.4, -1.0, 2.0]).as_matrix()
    turned = replace(whole.evaluations[1], positions=POSITIONS @ turn + 3.0)
    moved = replace(whole, evaluations=[whole.evaluations[0], turned])
    assert (
        mode_overlap(replace(moved, result=replace(whole.result, mode=whole.result.mode @ turn))) > 0.999999
    )
    assert (
        mode_overlap(replace(moved, result=replace(whole.result, mode=-whole.result.mode @ turn))) > 0.999999
    )
    assert mode_overlap(moved) < 0.9
    assert np.isnan(mode_overlap(replace(whole, result=replace(whole.result, trace=()))))


class Strict(HTMLParser):
    """Every element is closed, and nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        assert not {"src", "srcset"} & dict(attributes).keys()
        assert tag not in ("link", "script", "img")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def test_the_page_shows_every_row_and_needs_nothing_beside_itself(results, table):
    parser = Strict()
    parser.feed(page(compare(results, table)))
    assert not parser.open
    for text in (
        "new",
        "gp",
        "Sella (published)",
        "Published, all 4 reactions of the table",
        "new / gp",
        "2/3",
    ):
        assert text in parser.text, text


@pytest.mark.parametrize("methods", [["new"], ["new", "gp"]])
def test_a_page_comes_whatever_was_solved(tmp_path, methods):
    folder = tmp_path / "results"
    plan(folder, ["a"], methods)
    for name in methods:
        put(folder, run("a", name, 4, outcome=Outcome.MAX_CALLS), None)
    comparison = compare(folder)
    assert "none solved" in page(comparison)
    assert "none solved" in as_text(comparison)
    for path in write_tables(comparison, tmp_path / "to"):
        assert path.read_text()


def test_the_command_writes_tables_for_programs_and_a_page(results, table, capsys):
    assert main(["compare", str(results), "--published", str(table)]) == 0
    shown = capsys.readouterr().out
    assert "Sella (published)" in shown and "leaderboard.html" in shown
    document = json.loads((results / "comparison" / "comparison.json").read_text())
    assert document["counts"]["compared"] == 3
    assert document["methods"][0]["calls_p90"] is None, "infinite"
    assert [row["method"] for row in document["published_whole_table"]] == [
        "dimer (published)",
        "Sella (published)",
    ]
    assert len(pd.read_csv(results / "comparison" / "searches.csv")) == 12


def test_the_configuration_may_name_the_table(results, table):
    (results / "inputs" / "settings.yaml").write_text(f"published: {table}\n")
    assert compare(results).facts["published"] == str(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reaction,atoms\na,3\n", "columns .* are missing"),
        (TABLE + "a,3,1,-9,True,1,-1,True,1,-1\n", "reaction a has two rows"),
        (TABLE.replace("100", "many"), "could not convert"),
    ],
)
def test_a_table_that_can_not_be_used_is_named_with_its_fault(tmp_path, text, message):
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_published(path)
    with pytest.raises(InputError, match="can't be read"):
        read_published(tmp_path / "nothing.csv")
