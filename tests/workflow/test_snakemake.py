"""The workflow as a user starts it: what runs, what runs again, what is refused, what a failure leaves."""

from __future__ import annotations

import os
import time

import pandas as pd
import pytest
import yaml

from saddleflow.analysis.figure_names import FIGURES
from saddleflow.run_file import read_run_file

RUN = ("--cores", "2", "--configfile", "run.yaml")
AGGREGATION = {"summarise": 1, "figures": 1}
EVERYTHING = {"search": 4, "verify": 4} | AGGREGATION


def table(project):
    return pd.read_csv(project.folder / "results/summary.csv").set_index(["reaction", "method"])


def settings_of(project):
    return yaml.safe_load((project.folder / "run.yaml").read_text())


def test_a_set_ends_in_a_table_with_verified_saddles_and_all_figures(finished):
    frame = table(finished)
    assert list(frame.index) == [(r, m) for r in ("h2co", "hcn") for m in ("gp-dimer", "dimer")]
    assert frame.converged.all() and (frame.verification == "passed").all()
    assert (frame.imaginary_modes == 1).all()
    for reaction in ("hcn", "h2co"):
        energies = frame.loc[reaction, "energy_eV"]
        assert energies.max() - energies.min() < 1e-3, "both methods find the same saddle"
    figures = finished.folder / "results/figures"
    assert {p.name for p in figures.iterdir()} == {f"{n}.{k}" for n in FIGURES for k in ("svg", "png")}
    for rule in ("search", "verify"):
        assert (finished.folder / f"results/benchmarks/{rule}/hcn/dimer.tsv").is_file()
        assert "hcn" in (finished.folder / f"results/logs/{rule}/hcn/dimer.log").read_text()
    assert not list((finished.folder / "results/journals").rglob("*.jsonl")), "run files took their place"


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.jobs("--configfile", "run.yaml") == {}


def test_a_changed_setting_runs_that_method_again_and_changed_back_nothing(done):
    settings = settings_of(done) | {"method_settings": {"gp-dimer": {"noise_variance": 1e-4}}}
    done.configure("changed.yaml", **settings)
    expected = {"search": 2, "verify": 2} | AGGREGATION
    assert done.jobs("--configfile", "changed.yaml") == expected
    planned = done.snakemake("-n", "--configfile", "changed.yaml")
    assert "with gp-dimer" in planned.stdout + planned.stderr
    assert "with dimer" not in planned.stdout + planned.stderr
    assert done.jobs("--configfile", "run.yaml") == {}


def test_changed_verification_settings_run_no_search(done):
    done.configure("changed.yaml", **settings_of(done), verification={"level": "none"})
    assert done.jobs("--configfile", "changed.yaml") == {"verify": 4} | AGGREGATION


def test_another_engine_runs_everything_again(done):
    done.configure("changed.yaml", **settings_of(done) | {"engine": {"program": "xtb", "method": "GFN1-xTB"}})
    assert done.jobs("--configfile", "changed.yaml") == EVERYTHING


def test_more_memory_and_threads_run_nothing_again(done):
    engine = {"program": "xtb", "memory_mb": 700, "threads": 2}
    done.configure("changed.yaml", **settings_of(done) | {"engine": engine})
    assert done.jobs("--configfile", "changed.yaml") == {}


def test_an_edited_plot_script_draws_figures_and_runs_nothing_else(done):
    with (done.folder / "workflow/scripts/draw_figures.py").open("a") as script:
        script.write("# other colours\n")
    assert done.jobs("--configfile", "run.yaml") == {"figures": 1}


def test_an_edited_rule_runs_no_search(done):
    rule = done.folder / "workflow/rules/search.smk"
    rule.write_text(
        rule.read_text().replace('runtime="2h"', 'runtime="3h"').replace(" > {log:q}", "  > {log:q}")
    )
    assert done.jobs("--configfile", "run.yaml") == {}


def test_a_new_reaction_runs_its_own_searches(done):
    text = (done.folder / "reactions/hcn.xyz").read_text()
    (done.folder / "reactions/other.xyz").write_text(text.replace("0.3 1.2", "0.4 1.2"))
    assert done.jobs("--configfile", "run.yaml") == {"search": 2, "verify": 2} | AGGREGATION


def test_a_deleted_run_file_is_made_again(done):
    (done.folder / "results/searches/hcn/dimer.h5").unlink()
    assert done.jobs("--configfile", "run.yaml") == {"search": 1, "verify": 1} | AGGREGATION


def test_one_search_repeated_by_name_starts_afresh_and_leaves_the_others(done):
    searches = done.folder / "results/searches"
    before = {path: path.stat().st_mtime_ns for path in searches.rglob("*.h5")}
    first = read_run_file(searches / "hcn/dimer.h5")
    run = done.snakemake(*RUN, "-R", "results/searches/hcn/dimer.h5")
    assert run.returncode == 0, run.stdout + run.stderr
    changed = [path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp]
    assert changed == [searches / "hcn/dimer.h5"]
    again = read_run_file(searches / "hcn/dimer.h5")
    assert again.created >= first.created
    assert [e.energy for e in again.evaluations] == pytest.approx(
        [e.energy for e in first.evaluations], abs=1e-7
    )
    assert (table(done).verification == "passed").all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["gp-dimr"], "reactions": "nowhere"}, ["run.yaml:", "gp-dimr", "gp-dimer", "nowhere"]),
        ({"convergense": {"threshold": 0.02}}, ["convergense", "convergence"]),
        ({"reactions": "bad"}, ["bad/broken.xyz"]),
    ],
)
def test_bad_input_is_said_in_lines_with_code_2_before_any_job(project, change, words):
    (project.folder / "bad").mkdir()
    (project.folder / "bad/broken.xyz").write_text("2\n\nH 0 0 0\nXx 0 0 1\n")
    base = {"reactions": "reactions", "results": "results", "methods": ["dimer"], "engine": "xtb"}
    project.configure("run.yaml", **base | change)
    for arguments in (RUN, ("-n", "--configfile", "run.yaml")):
        run = project.snakemake(*arguments)
        assert run.returncode == 2, run.stdout + run.stderr
        errors = [line for line in run.stderr.splitlines() if line.startswith("saddleflow: error:")]
        assert errors
        for word in words:
            assert any(word in line for line in errors), (word, errors)
        assert "Traceback" not in run.stdout + run.stderr
    assert not (project.folder / "results").exists()


def test_a_configfile_stands_alone_and_the_default_one_serves_without_it(project):
    (project.folder / "config").mkdir()
    default = {
        "reactions": "absent",
        "results": "elsewhere",
        "methods": ["dimer"],
        "engine": "xtb",
        "start": {"seed": 5},
    }
    project.configure("config/config.yaml", **default)
    project.configure(
        "run.yaml", reactions="reactions", results="results", methods=["gp-dimer"], engine="xtb"
    )
    assert project.jobs("--configfile", "run.yaml") == {"search": 2, "verify": 2} | AGGREGATION
    used = yaml.safe_load((project.folder / "results/inputs/settings.yaml").read_text())
    assert used["start"]["seed"] == 0, "config/config.yaml must not shine through"
    refused = project.snakemake("-n")
    assert refused.returncode == 2 and "absent" in refused.stderr
    assert project.jobs("--config", "reactions=reactions") == {"search": 2, "verify": 2} | AGGREGATION
    assert (project.folder / "elsewhere/inputs/methods/dimer.json").is_file()


def test_a_second_snakemake_does_not_change_what_running_jobs_read(done):
    locks = done.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.input.lock").write_text("results/inputs/plan.json\n")
    (locks / "0.output.lock").write_text("results/summary.csv\n")
    method = done.folder / "results/inputs/methods/dimer.json"
    before = method.read_bytes()
    done.configure("changed.yaml", **settings_of(done) | {"start": {"seed": 7}})
    run = done.snakemake("--cores", "1", "--configfile", "changed.yaml")
    assert run.returncode == 1 and "lock" in (run.stdout + run.stderr).lower()
    assert method.read_bytes() == before
    assert done.snakemake("--unlock", "--configfile", "run.yaml").returncode == 0
    assert done.jobs("--configfile", "run.yaml") == {}


def test_a_killed_snakemake_can_be_unlocked_for_another_configuration(done):
    locks = done.folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.input.lock").write_text("results/inputs/plan.json\n")
    done.configure("other.yaml", **settings_of(done) | {"results": "elsewhere"})
    run = done.snakemake("--cores", "1", "--configfile", "other.yaml")
    assert run.returncode == 2 and "snakemake --unlock" in run.stderr
    unlocked = done.snakemake("--unlock", "--configfile", "other.yaml")
    assert unlocked.returncode == 0, unlocked.stderr
    assert done.jobs("--configfile", "other.yaml")["search"] > 0


MORTAL = '''
"""GFN2-xTB, killed as by a lost node at its fifth call on three atoms, as long as a certain file exists."""

import os
import signal

from tblite.ase import TBLite


class Mortal(TBLite):
    calls = 0

    def calculate(self, atoms=None, *arguments, **options):
        if len(atoms) == 3:
            Mortal.calls += 1
            if Mortal.calls == 5 and os.path.exists(os.environ["SADDLEFLOW_TEST_KILL"]):
                if open(os.environ["SADDLEFLOW_TEST_KILL"]).read() == "once":
                    os.unlink(os.environ["SADDLEFLOW_TEST_KILL"])
                os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, *arguments, **options)
'''


@pytest.fixture
def mortal(project):
    (project.folder / "mortal.py").write_text(MORTAL)
    kill = project.folder / "kill"
    project.environment = {"PYTHONPATH": str(project.folder), "SADDLEFLOW_TEST_KILL": str(kill)}
    engine = {"program": "ase", "calculator": "mortal:Mortal", "arguments": {"verbosity": 0}}
    project.configure("run.yaml", reactions="reactions", results="results", methods=["dimer"], engine=engine)
    return project, kill


def test_a_search_that_always_fails_stops_no_other_and_the_table_comes_all_the_same(mortal):
    project, kill = mortal
    kill.write_text("always")
    run = project.snakemake(*RUN)
    assert run.returncode == 1
    assert "results/summary.csv" in run.stderr
    frame = table(project)
    assert frame.loc[("h2co", "dimer"), "verification"] == "passed"
    assert frame.loc[("hcn", "dimer"), "outcome"] == "missing"
    assert "calls so far" in frame.loc[("hcn", "dimer"), "message"]
    assert len(list((project.folder / "results/figures").iterdir())) == 2 * len(FIGURES)

    kill.unlink()
    assert project.jobs("--configfile", "run.yaml") == {"search": 1, "verify": 1} | AGGREGATION
    run = project.snakemake(*RUN)
    assert run.returncode == 0, run.stdout + run.stderr
    frame = table(project)
    assert (frame.verification == "passed").all()
    assert project.jobs("--configfile", "run.yaml") == {}


def test_a_killed_search_is_tried_again_and_goes_on_where_it_was(mortal, finished):
    project, kill = mortal
    kill.write_text("once")
    started = time.time()
    run = project.snakemake(*RUN)
    assert run.returncode == 0, run.stdout + run.stderr
    assert not kill.exists(), "the calculator was really killed"
    survivor = read_run_file(project.folder / "results/searches/hcn/dimer.h5")
    calm = read_run_file(finished.folder / "results/searches/hcn/dimer.h5")
    assert len(survivor.evaluations) == len(calm.evaluations)
    assert os.path.getmtime(project.folder / "results/summary.csv") > started
