"""Preflight: every error of everything at once, and inputs whose file times follow their meaning."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from saddleflow import preflight as module
from saddleflow import sparrow
from saddleflow.errors import InputError
from saddleflow.preflight import (
    describe,
    load_settings,
    plan_from_inputs,
    preflight,
    prepare_run,
    write_inputs,
)
from saddleflow.reaction import Reaction
from saddleflow.run_inputs import Plan
from saddleflow.settings import Settings

HCN = "3\n{comment}\nH 0.0 0.9 0.6\nC 0.0 0.0 0.6\nN 0.0 0.0 -0.6\n"


@pytest.fixture
def reactions(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "hcn.xyz").write_text(HCN.format(comment="charge=0 multiplicity=1"))
    (folder / "anion.xyz").write_text(HCN.format(comment="charge=-1 multiplicity=2"))
    return folder


@pytest.fixture
def config(tmp_path, reactions):
    """Everything is right in it."""
    return {
        "reactions": str(reactions),
        "results": str(tmp_path / "results"),
        "methods": ["dimer", "gp-dimer"],
        "engine": "xtb",
    }


def errors(capsys, config, **options):
    """Lines of standard error of a run that must not start."""
    with pytest.raises(SystemExit) as caught:
        prepare_run(config, main_process=True, **options)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("saddleflow: error: ") for line in lines)
    return [line.removeprefix("saddleflow: error: ") for line in lines]


def test_surfaces_of_a_prior_that_cannot_be_had_are_named_before_the_run(config, capsys, monkeypatch):
    config |= {"methods": ["prior-gp-dimer"], "method_settings": {"prior-gp-dimer": {"prior": "PM6+RM1"}}}
    folder = Path(config["reactions"])
    (folder / "silane.xyz").write_text("2\ncharge=0 multiplicity=2\nSi 0 0 0\nH 0 0 1.5\n")
    if sparrow.available():
        (line,) = errors(capsys, config)
        assert "method_settings.prior-gp-dimer.prior: RM1 can't describe this molecule" in line
        assert line.endswith("name another surface, or write auto")
    monkeypatch.setattr(sparrow, "available", lambda: False)
    lines = errors(capsys, config)
    assert len(lines) == 2 and all("needs the package scine-sparrow" in line for line in lines)
    prepare_run(config | {"method_settings": {"prior-gp-dimer": {"prior": "auto"}}}, main_process=True)


def times(results):
    inputs = Path(results, "inputs")
    return {p.relative_to(results): p.stat().st_mtime_ns for p in inputs.rglob("*") if p.is_file()}


def age(results):
    for path in Path(results).rglob("*"):
        os.utime(path, (1.0, 1.0))


def changed(results, before):
    return {str(path) for path, stamp in times(results).items() if before.get(path) != stamp}


def test_a_right_configuration_becomes_inputs(config):
    plan = prepare_run(config, main_process=True)
    results = Path(config["results"])
    assert sorted(plan.reaction_names) == ["anion", "hcn"]
    assert plan.method_names == ["dimer", "gp-dimer"]
    assert (plan.threads, plan.memory_mb, plan.results) == (1, 1000, config["results"])
    anion = Reaction.from_dict(json.loads((results / "inputs/reactions/anion.json").read_text()))
    assert (anion.charge, anion.multiplicity, anion.symbols) == (-1, 2, ("H", "C", "N"))
    method = json.loads((results / "inputs/methods/gp-dimer.json").read_text())
    assert (method["name"], method["method"]["algorithm"]) == ("gp-dimer", "gp-dimer")
    assert method["engine"]["program"] == "xtb"
    assert json.loads((results / "inputs/verification.json").read_text())["level"] == "auto"
    assert load_settings(results / "inputs/settings.yaml") == load_settings(config)


def test_processes_of_single_jobs_read_names_and_check_nothing(config, monkeypatch, reactions):
    main = prepare_run(config, main_process=True)
    for path in reactions.iterdir():
        path.unlink()

    def never(*_):
        raise AssertionError("the check of a job's process must be cheap")

    monkeypatch.setattr(module, "check", never)
    before = times(config["results"])
    assert prepare_run(config, main_process=False) == main
    assert times(config["results"]) == before


def test_without_inputs_a_job_says_what_to_do(config, capsys):
    with pytest.raises(SystemExit):
        prepare_run(config, main_process=False)
    assert "start snakemake again" in capsys.readouterr().err


def test_file_times_stay_when_nothing_changed(config):
    prepare_run(config, main_process=True)
    age(config["results"])
    before = times(config["results"])
    prepare_run(config, main_process=True)
    assert changed(config["results"], before) == set()


def test_a_method_setting_touches_exactly_that_method(config):
    prepare_run(config, main_process=True)
    age(config["results"])
    before = times(config["results"])
    prepare_run(config | {"method_settings": {"dimer": {"max_step": 0.1}}}, main_process=True)
    assert changed(config["results"], before) == {"inputs/methods/dimer.json", "inputs/settings.yaml"}


def test_one_changed_structure_touches_exactly_that_reaction(config, reactions):
    prepare_run(config, main_process=True)
    age(config["results"])
    before = times(config["results"])
    (reactions / "hcn.xyz").write_text(HCN.format(comment="charge=0 multiplicity=1").replace("0.9", "0.8"))
    prepare_run(config, main_process=True)
    assert changed(config["results"], before) == {"inputs/reactions/hcn.json"}


def test_where_reactions_lie_and_how_the_engine_is_run_makes_nothing_newer(config, reactions, tmp_path):
    prepare_run(config, main_process=True)
    age(config["results"])
    before = times(config["results"])
    hcn = Path(config["results"], "inputs/reactions/hcn.json")
    content = hcn.read_bytes()
    moved = tmp_path / "moved"
    reactions.rename(moved)
    engine = {"program": "xtb", "threads": 2, "timeout_seconds": 7}
    prepare_run(config | {"reactions": str(moved), "engine": engine}, main_process=True)
    assert changed(config["results"], before) == {"inputs/settings.yaml"}
    assert hcn.read_bytes() == content  # journals of interrupted searches are bound to it
    method = json.loads(Path(config["results"], "inputs/methods/dimer.json").read_text())
    assert method["engine"]["timeout_seconds"] == 7  # but searches that still have to run know


def test_another_level_of_theory_touches_all_methods(config):
    prepare_run(config, main_process=True)
    age(config["results"])
    before = times(config["results"])
    prepare_run(config | {"engine": {"program": "xtb", "method": "GFN1-xTB"}}, main_process=True)
    assert {"inputs/methods/dimer.json", "inputs/methods/gp-dimer.json"} < changed(config["results"], before)


def test_stale_inputs_stay_but_are_not_planned(config, reactions):
    prepare_run(config, main_process=True)
    (reactions / "hcn.xyz").unlink()
    plan = prepare_run(config | {"methods": "dimer"}, main_process=True)
    assert (plan.reaction_names, plan.method_names) == (["anion"], ["dimer"])
    assert Path(config["results"], "inputs/reactions/hcn.json").exists()
    assert plan_from_inputs(load_settings(config | {"methods": "dimer"})) == plan


def test_a_damaged_input_is_written_again(config):
    prepare_run(config, main_process=True)
    path = Path(config["results"], "inputs/reactions/hcn.json")
    path.write_text("{")
    prepare_run(config, main_process=True)
    assert Reaction.from_dict(json.loads(path.read_text())).name == "hcn"


def test_every_error_of_everything_is_said_at_once(config, reactions, capsys, tmp_path):
    (reactions / "hcn.xyz").write_text(HCN.format(comment="").replace("C ", "Xq "))
    (tmp_path / "file").write_text("")
    wrong = config | {
        "results": str(tmp_path / "file"),
        "methods": ["gpdimer"],
        "engine": {"program": "ase", "calculator": "no.such:Thing"},
        "engien": 1,
    }
    lines = errors(capsys, wrong)
    assert len(lines) == 5
    text = "\n".join(lines)
    for words in (
        "Xq",
        "is no folder",
        "did you mean gp-dimer?",
        "engine.calculator",
        "did you mean engine?",
    ):
        assert words in text
    assert not Path(config["results"]).exists()


def test_messages_name_the_file_and_line_of_the_value_that_counts(config, capsys, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("engine: xtb\nmethods: [gpdimer]\n")
    second.write_text("\n\nconvergence: {threshold: -1}\nmethods: [dimmer]\n")
    merged = config | {"convergence": {"threshold": -1}, "methods": ["dimmer"], "verification": "none"}
    lines = errors(capsys, merged, config_files=[first, second])
    assert any(line.startswith(f"{second}:3: convergence.threshold") for line in lines)
    assert any(line.startswith(f"{second}:4: methods[0]: unknown method 'dimmer'") for line in lines)
    assert any(line.startswith("--config: verification") for line in lines)


def test_doubled_keys_that_snakemake_swallows_are_found(config, capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("engine: xtb\nengine: psi4\n")
    (line,) = errors(capsys, config, config_files=[path])
    assert line.startswith(f"{path}:2: engine: stands twice")


@pytest.mark.parametrize(
    "kind", ["file", "below a file", "file inside", "dangling link", "the reactions", "below the reactions"]
)
def test_results_folders_that_can_not_be(config, reactions, capsys, tmp_path, kind):
    results = tmp_path / "results"
    if kind == "file":
        results.write_text("")
    elif kind == "below a file":
        results.write_text("")
        results = results / "deep" / "down"
    elif kind == "file inside":
        results.mkdir()
        (results / "inputs").write_text("")
    elif kind == "dangling link":
        results.symlink_to(tmp_path / "nowhere" / "else")
    else:
        results = reactions if kind == "the reactions" else reactions / "deep" / "results"
    (line,) = errors(capsys, config | {"results": str(results)})
    assert line.startswith("results: ")
    assert "name" in line


@pytest.mark.parametrize("name", ["~/results", "res{reaction}", "a*"])
def test_results_names_that_snakemake_or_the_shell_would_change(config, capsys, name):
    (line,) = errors(capsys, config | {"results": name})
    assert line.startswith("results: ")


def test_a_results_folder_without_permission(config, capsys, monkeypatch, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    # Root passes every permission check of the kernel; what others see is asked for here.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and Path(path) != folder)
    (line,) = errors(capsys, config | {"results": str(folder / "results")})
    assert "can't be written to" in line


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that refuses files")
def test_a_file_system_that_refuses_files(config, capsys):
    (line,) = errors(capsys, config | {"results": "/proc/results"})
    assert "/proc can't be written to" in line


def plan_with(directions):
    """Reactions of which only the first has directions, and methods that ask for them."""
    full = np.ones((3, 3))
    symbols, positions = ("H", "C", "N"), np.arange(9.0).reshape(3, 3)
    reactions = [
        Reaction("one", symbols, positions, start_direction=full, difference=full, source="t.tsv:2"),
        Reaction("two", symbols, positions, source="t.tsv:3"),
    ]
    blocks = {f"m{i}": {"algorithm": "dimer", "start": {"direction": d}} for i, d in enumerate(directions)}
    return reactions, Settings.model_validate(
        {"methods": list(blocks), "method_settings": blocks, "engine": "xtb"}
    )


@pytest.mark.parametrize("kind", ["file", "difference"])
def test_reactions_without_the_asked_direction_are_named(monkeypatch, tmp_path, kind):
    reactions, settings = plan_with([kind, "random", kind])
    settings = settings.model_copy(update={"results": str(tmp_path / "r")})
    monkeypatch.setattr("saddleflow.reactions.read_reactions", lambda _: reactions)
    with pytest.raises(InputError) as caught:
        preflight(settings)
    (line,) = caught.value.problems
    assert line.startswith("t.tsv:3: reaction two has no ")
    assert f"start.direction {kind} of m0, m2" in line


def test_the_xtb_direction_needs_elements_that_xtb_knows(monkeypatch, tmp_path):
    uranium = Reaction("u", ("U", "O"), np.array([[0.0, 0, 0], [0, 0, 1.8]]))
    monkeypatch.setattr("saddleflow.reactions.read_reactions", lambda _: [uranium])
    monkeypatch.setattr("saddleflow.preflight.engine_problems", lambda *_: [])
    along = {"direction": "xtb_softest_mode"}
    settings = Settings(results=str(tmp_path / "r"), methods=["dimer"], start=along)
    with pytest.raises(InputError) as caught:
        preflight(settings)
    (line,) = caught.value.problems
    assert line.startswith("start.direction: xtb_softest_mode")
    assert "U" in line
    preflight(
        settings.model_copy(update={"start": settings.start.model_copy(update={"direction": "random"})})
    )


def test_the_description_counts(config):
    settings = load_settings(config)
    text = describe(preflight(settings), settings)
    assert "2 from" in text
    assert "H C N" in text
    assert "1 with charge -1 and multiplicity 2" in text
    assert "4 searches" in text


def test_names_with_spaces_of_folders_survive(config, tmp_path):
    results = tmp_path / "my results é"
    plan = prepare_run(config | {"results": str(results)}, main_process=True)
    assert plan.results == str(results)
    assert (results / "inputs" / "plan.json").exists()


def test_assumed_charges_and_multiplicities_are_said_and_logged(config, reactions, capsys):
    (reactions / "cyanide.xyz").write_text("2\ncharge=0\nC 0 0 0\nN 0 0 1.2\n")
    prepare_run(config, main_process=True)
    said = capsys.readouterr().err.splitlines()
    logged = Path(config["results"], "logs", "preflight.log").read_text().splitlines()
    assert said == [f"saddleflow: {line}" for line in logged]
    (line,) = logged
    assert "multiplicity" in line
    assert "2 assumed" in line
    assert line.endswith("cyanide")


def test_write_inputs_says_when_the_folder_is_taken_away(tmp_path):
    (tmp_path / "inputs").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        write_inputs(Plan([], {}), Settings(results=str(tmp_path)))


def test_a_table_of_published_results_is_read_before_the_first_job(config, capsys, tmp_path):
    (line,) = errors(capsys, config | {"published": str(tmp_path / "nothing.csv")})
    assert line.startswith("published: ") and "can't be read" in line
    (tmp_path / "table.csv").write_text("reaction,atoms,multiplicity\n")
    (line,) = errors(capsys, config | {"published": str(tmp_path / "table.csv")})
    assert "columns PROGRAM_calls and the like are missing" in line
