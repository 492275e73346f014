"""The pilot batch: some searches first, what they teach, and the others with it."""

import pytest

from saddleflow.run_file import read_run_file

HCN = "3\ncharge=0 multiplicity=1\nC 0.0 0.0 0.0\nN 1.18 0.0 0.0\nH 0.3 1.2 0.0\n"
SET = {
    "reactions": "reactions",
    "results": "results",
    "methods": ["prior-gp-dimer", "dimer"],
    "engine": "xtb",
    "method_settings": {"prior-gp-dimer": {"prior": "GFN1-xTB"}},
}
AGGREGATION = {"summarise": 1, "figures": 1}


def _set_of_four(project):
    for path in (project.folder / "reactions").glob("*.xyz"):
        path.unlink()
    for number in range(4):
        text = HCN.replace("0.3 1.2", f"0.{3 + number} 1.{2 - number % 2}")
        (project.folder / f"reactions/r{number}.xyz").write_text(text)


def _notes(project):
    runs = [
        read_run_file(path) for path in sorted(project.folder.glob("results/searches/*/prior-gp-dimer.h5"))
    ]
    return [run.result.trace[0].notes.get("learned_prior", "") for run in runs]


def test_the_others_use_what_the_pilot_batch_taught(project):
    _set_of_four(project)
    project.configure("run.yaml", **SET, learn_prior={"pilot": 3})
    plan = {"search": 8, "verify": 8, "learn_prior": 1} | AGGREGATION
    assert project.jobs("--configfile", "run.yaml") == plan
    run = project.snakemake("--cores", "2", "--configfile", "run.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(note[:4] for note in _notes(project)) == ["", "", "", "used"]
    assert project.jobs("--configfile", "run.yaml") == {}

    # Neither another way to learn nor learning again makes finished searches run again.
    rule = project.folder / "workflow/rules/learn.smk"
    rule.write_text(rule.read_text().replace('runtime="2h"', 'runtime="3h"'))
    assert project.jobs("--configfile", "run.yaml") == {}
    (project.folder / "results/learned_prior/prior-gp-dimer.h5").touch()
    assert project.jobs("--configfile", "run.yaml") == {}

    # The file serves the next set.
    learned = "results/learned_prior/prior-gp-dimer.h5"
    method = {"prior": "GFN1-xTB", "learned_prior": learned}
    project.configure("next.yaml", **SET | {"results": "next", "method_settings": {"prior-gp-dimer": method}})
    assert project.jobs("--configfile", "next.yaml") == {"search": 8, "verify": 8} | AGGREGATION


@pytest.mark.parametrize(
    ("engine", "words"),
    [("xtb", "no such file"), ({"program": "xtb", "method": "GFN1-xTB"}, "no such file")],
)
def test_a_learned_prior_that_is_not_there_is_said_before_any_job(project, engine, words):
    method = {"prior-gp-dimer": {"learned_prior": "nowhere.h5"}}
    project.configure("run.yaml", **SET | {"engine": engine, "method_settings": method})
    run = project.snakemake("-n", "--configfile", "run.yaml")
    lines = [line for line in run.stderr.splitlines() if line.startswith("saddleflow: error:")]
    assert len(lines) == 1 and "learned_prior" in lines[0] and words in lines[0]
