"""The command line: one line an error, exit codes, and the way from a configuration to results, with xTB."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from saddleflow import cli
from saddleflow.errors import EngineCrashed, InputError
from saddleflow.preflight import prepare_run
from saddleflow.verification_file import read_verification

GOOD = "3\ncharge=0 multiplicity=1\nH 0.0 1.1 0.1\nC 0.0 0.0 0.6\nN 0.0 0.0 -0.6\n"


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def project(tmp_path):
    """A folder with one good reaction and a right configuration."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "hcn.xyz").write_text(GOOD)
    write_config(tmp_path)
    return tmp_path


def write_config(folder, **changes):
    config = {
        "reactions": str(folder / "set"),
        "results": str(folder / "results"),
        "methods": ["gp-dimer"],
        "engine": "xtb",
        "start": {"direction": "xtb_softest_mode", "random_displacement": 0.0},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def refused(capsys, path):
    """Lines of a check that ends with exit code 2 and without a traceback."""
    assert run("check", path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines
    assert all(line.startswith("saddleflow: error: ") for line in lines)
    return lines


STRUCTURES = {
    "unreadable": ("no numbers at all\n", "hcn.xyz"),
    "empty": ("", "hcn.xyz"),
    "truncated": ("3\n\nH 0 0 0\n", "hcn.xyz"),
    "unknown element": (GOOD.replace("C ", "Qq "), "Qq"),
    "atoms too close": (GOOD.replace("0.0 0.0 -0.6", "0.0 0.0 0.55"), "0.05"),
    "not a number": (GOOD.replace("1.1", "nan"), "hcn.xyz"),
    "infinite": (GOOD.replace("1.1", "inf"), "hcn.xyz"),
    "impossible multiplicity": (GOOD.replace("multiplicity=1", "multiplicity=2"), "multiplicity"),
    "charge that is no number": (GOOD.replace("charge=0", "charge=plus"), "plus"),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_malformed_structure_is_one_line_and_exit_code_2(project, capsys, kind):
    text, words = STRUCTURES[kind]
    (project / "set" / "hcn.xyz").write_text(text)
    (line,) = refused(capsys, project / "config.yaml")
    assert words in line
    assert "hcn.xyz" in line


def test_doubled_names_of_reactions(project, capsys):
    (project / "set" / "hcn.extxyz").write_text(GOOD)
    (line,) = refused(capsys, project / "config.yaml")
    assert "hcn" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reactions": "no/such/folder"}, "no/such/folder"),
        ({"methods": ["gp-dimmer"]}, "methods[0]: unknown method 'gp-dimmer'; did you mean gp-dimer?"),
        ({"metods": ["dimer"]}, "metods: unknown key; did you mean methods?"),
        ({"engine": {"program": "ase", "calculator": "no.such:Thing"}}, "engine.calculator"),
        ({"results": "/dev/null/results"}, "/dev/null is no folder"),
        ({"start": {"direction": "file"}}, "reaction hcn has no start direction"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(project, capsys, changes, words):
    (line,) = refused(capsys, write_config(project, **changes))
    assert words in line
    assert not (project / "results").exists()


@pytest.mark.pyscf
def test_a_basis_that_does_not_exist(project, capsys):
    (line, *_) = refused(capsys, write_config(project, engine={"program": "pyscf", "basis": "3-21gee"}))
    assert f"{project}/config.yaml:2: engine.basis:" in line
    assert "3-21gee" in line


def test_psi4_that_is_not_there(project, capsys):
    (line,) = refused(
        capsys, write_config(project, engine={"program": "psi4", "python": sys.executable + "-no"})
    )
    assert "engine" in line
    assert "-no" in line


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "reactions: a\nreactions: b\n"])
def test_a_configuration_that_is_none(project, capsys, text):
    (project / "config.yaml").write_text(text)
    (line,) = refused(capsys, project / "config.yaml")
    assert str(project / "config.yaml") in line


def test_a_right_configuration_is_summarised(project, capsys):
    assert run("check", project / "config.yaml") == 0
    assert "All is well: 1 searches" in capsys.readouterr().out
    assert not (project / "results").exists()


def test_from_inputs_to_verified_saddle_table_and_exports(project, capsys):
    prepare_run(yaml.safe_load((project / "config.yaml").read_text()), main_process=True)
    results = project / "results"
    assert run("status", results) == 0
    assert "1 waiting" in capsys.readouterr().out

    run_file = results / "searches" / "hcn" / "gp-dimer.h5"
    journals = results / "journals" / "hcn"
    search = ["search", "--reaction", results / "inputs/reactions/hcn.json"]
    search += ["--method", results / "inputs/methods/gp-dimer.json"]
    assert run(*search, "--output", run_file, "--journal", journals / "gp-dimer.jsonl") == 0
    captured = capsys.readouterr()
    assert "hcn gp-dimer: converged" in captured.out
    assert "hcn gp-dimer call 1 search force" in captured.err  # the log tells how the search went

    verified = results / "verifications" / "hcn" / "gp-dimer.h5"
    verify = ["verify", "--run-file", run_file, "--settings", results / "inputs/verification.json"]
    assert run(*verify, "--output", verified, "--journal", journals / "v.jsonl") == 0
    assert "verification passed" in capsys.readouterr().out
    assert read_verification(verified).status == "passed"

    assert run("status", project / "config.yaml") == 0  # the configuration names its results
    assert "1 of 1 searches done (1 converged, 0 failed)" in capsys.readouterr().out
    assert run("summarise", results) == 0
    assert run("validate", run_file) == 0
    assert run("export", run_file, "--format", "extxyz", "csv", "--to", project / "out") == 0
    assert len(list((project / "out").iterdir())) == 2
    capsys.readouterr()
    assert run("where", results) == 0
    text = capsys.readouterr().out
    assert str(results / "summary.csv") in text
    assert str(run_file) in text

    run_file.write_bytes(run_file.read_bytes()[:-200])
    assert run("validate", run_file) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"saddleflow: error: {run_file}: ")


def test_inputs_that_are_none_are_one_line(project, capsys):
    reaction, method = project / "r.json", project / "m.json"
    search = ["search", "--reaction", reaction, "--method", method]
    search += ["--output", project / "x.h5", "--journal", project / "x.jsonl"]
    for content in (None, "{", "[]", "{}", '{"name": "a", "symbols": ["H"], "positions": [[0, 0, 0]]}'):
        if content is not None:
            reaction.write_text(content)
        method.write_text(json.dumps({"name": "m", "method": {"algorithm": "dimer"}, "engine": {}}))
        assert run(*search) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(reaction) in line


@pytest.mark.parametrize("command", ["status", "where", "summarise", "figures"])
def test_folders_without_a_run(tmp_path, capsys, command):
    code = run(command, tmp_path / "nothing")
    captured = capsys.readouterr()
    assert code in (1, 2)
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("saddleflow: error: ")


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (InputError(["one", "two"]), 2, ["one", "two"]),
        (EngineCrashed("the engine died"), 1, ["the engine died"]),
        (OSError(28, "No space left on device", "x.h5"), 1, ["x.h5: No space left on device"]),
        (KeyboardInterrupt(), 130, []),
    ],
)
def test_errors_become_lines_and_exit_codes(monkeypatch, capsys, tmp_path, error, code, lines):
    def fails(_):
        raise error

    monkeypatch.setattr(cli, "_results", fails)
    assert run("where", tmp_path) == code
    found = [line for line in capsys.readouterr().err.splitlines() if line]
    assert found == [f"saddleflow: error: {line}" for line in lines]


def test_a_reader_that_leaves_early_is_no_error(project):
    # What `saddleflow where | true` does: the pipe is closed before anything is printed.
    reading, writing = os.pipe()
    os.close(reading)
    (project / "results").mkdir()
    code = "import sys; from saddleflow.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "where", str(project / "results")],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""


def test_schema_says_when_it_is_out_of_date(tmp_path, capsys):
    assert run("schema", "--to", tmp_path) == 0
    assert run("schema", "--check", "--to", tmp_path) == 0
    (tmp_path / "schema.json").write_text("{}")
    capsys.readouterr()
    assert run("schema", "--check", "--to", tmp_path) == 1
    assert "run `saddleflow schema`" in capsys.readouterr().err
    assert run("schema", "--to", tmp_path / "none") == 2


def test_help_starts_without_the_science():
    code = "import sys, saddleflow.cli; saddleflow.cli.parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "ase", "pydantic", "h5py", "pandas"} & set(done.stdout.split())


COMMANDS = "check doctor search verify summarise figures status export validate fetch schema where"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_of_the_documentation_exists(capsys, command):
    with pytest.raises(SystemExit) as caught:
        run(command, "--help")
    assert caught.value.code == 0
    assert command in capsys.readouterr().out
