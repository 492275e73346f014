"""Fitted parameters of cheap surfaces: their file, and for which searches they serve."""

import json
from dataclasses import replace

import numpy as np
import pytest

from saddleflow import sparrow
from saddleflow.errors import InputError
from saddleflow.preflight_checks import fitted_problems
from saddleflow.reaction import Reaction
from saddleflow.run import _key, fitted_parameters
from saddleflow.settings import Engine, PriorGPDimer, Settings
from saddleflow.surrogate.surface_parameters import (
    SHIPPED,
    read_surface_parameters,
    shipped_for,
    write_surface_parameters,
)

WATER = Reaction("water", ("O", "H", "H"), np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]))
HCN = Reaction("hcn", ("C", "N", "H"), np.array([[0.0, 0.0, 0.0], [1.19, 0.0, 0.0], [0.45, 1.15, 0.0]]))
needs_sparrow = pytest.mark.skipif(not sparrow.available(), reason="scine-sparrow is not installed")


def chosen(reaction=WATER, basis="3-21g", **settings):
    method, engine = PriorGPDimer(**settings), Engine(basis=basis)
    specification = {"method": method.model_dump(mode="json"), "engine": engine.model_dump(mode="json")}
    return fitted_parameters(specification, reaction)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_holds_what_was_written(tmp_path, name):
    shipped = read_surface_parameters(name)
    for path in (tmp_path / "one.json", tmp_path / "two.json"):
        write_surface_parameters(path, shipped)
    assert read_surface_parameters(str(tmp_path / "one.json")) == shipped
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert shipped.error_after < shipped.error_before


def test_the_program_does_not_count_for_a_level_of_theory_but_the_basis_does():
    assert shipped_for("psi4:hf/3-21g", [1, 6]) == shipped_for("pyscf:hf/3-21g", [8]) == "hf_3-21g"
    assert shipped_for("psi4:hf/sto-3g", [1, 6]) == shipped_for("xtb:GFN2-xTB", [1]) == ""
    assert shipped_for("psi4:hf/3-21g", [1, 7]) == ""


@needs_sparrow
def test_auto_takes_them_only_where_they_fit():
    assert chosen(surface_parameters="auto") == "hf_3-21g"
    assert chosen() == "hf_3-21g" and chosen(surface_parameters="published") == ""
    assert chosen(replace(WATER, charge=1, multiplicity=2)) == ""
    assert chosen(HCN, surface_parameters="auto") == ""
    assert chosen(basis="sto-3g", surface_parameters="auto") == ""
    assert chosen(surface_parameters="auto", prior="GFN1-xTB") == ""
    assert chosen(surface_parameters="auto", learned_prior="learned.h5") == ""
    assert chosen(surface_parameters="mine.json") == "mine.json"


def test_another_content_under_the_same_name_makes_another_search(tmp_path):
    path = tmp_path / "mine.json"
    method = PriorGPDimer(surface_parameters=str(path)).model_dump(mode="json")
    specification = {"method": method, "engine": Engine().model_dump(mode="json")}
    keys = []
    for pairs in (1, 2):
        write_surface_parameters(path, replace(read_surface_parameters("hf_3-21g"), pairs=pairs))
        keys.append(_key(WATER, specification))
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read"),
        ("no json", "holds no parameters"),
        ("[]", "holds no parameters"),
        ('{"schema": "surface-parameters/1"}', "holds no parameters"),
        ('{"schema": "run/1"}', "its schema is not"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as refused:
        read_surface_parameters(str(path))
    assert words in str(refused.value) and str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_shares_and_parameters_of_different_methods_are_refused(tmp_path):
    path = tmp_path / "mine.json"
    write_surface_parameters(path, read_surface_parameters("hf_3-21g"))
    data = json.loads(path.read_text())
    del data["parameters"]["PM6"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="different methods"):
        read_surface_parameters(str(path))


@pytest.mark.parametrize(
    ("reaction", "engine", "method", "words"),
    [
        (HCN, {}, {}, "none for N"),
        (WATER, {"basis": "sto-3g"}, {}, "fitted to hf/3-21g, not to hf/sto-3g"),
        (WATER, {}, {"prior": "PM6"}, "they need auto"),
        (WATER, {}, {"surface_parameters": "nowhere.json"}, "can't be read"),
    ],
)
def test_what_does_not_fit_is_said_before_any_job(reaction, engine, method, words):
    settings = Settings(engine=Engine(**engine))
    method = PriorGPDimer(**{"surface_parameters": "hf_3-21g"} | method)
    (problem,) = fitted_problems(settings, [reaction], {"mine": method})
    assert problem.path == ("method_settings", "mine", "surface_parameters")
    assert words in problem.message
    assert not fitted_problems(settings, [reaction], {"mine": PriorGPDimer(surface_parameters="auto")})


@needs_sparrow
def test_a_prior_that_the_run_learns_and_fitted_surfaces_exclude_each_other():
    settings, method = Settings(), PriorGPDimer(surface_parameters="hf_3-21g")
    assert not fitted_problems(settings, [WATER], {"mine": method})
    settings = Settings(learn_prior={"pilot": 3})
    (problem,) = fitted_problems(settings, [WATER], {"mine": method})
    assert "together with a learned prior" in problem.message
