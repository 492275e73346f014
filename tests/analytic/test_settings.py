"""Settings: errors in plain words with their lines, methods by name, generated documents in sync."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from saddleflow import settings_documents
from saddleflow.errors import InputError
from saddleflow.preflight import load_settings
from saddleflow.settings import Settings
from saddleflow.settings_resolution import algorithms, resolve_methods

CONFIG = Path(__file__).parents[2] / "config"


def problems(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_four_keys_are_a_complete_configuration(tmp_path):
    text = "reactions: here\nresults: there\nmethods: [dimer]\nengine: psi4\n"
    settings = load_settings(write(tmp_path, text))
    assert (settings.engine.program, settings.engine.basis) == ("psi4", "3-21g")
    assert list(resolve_methods(settings)) == ["dimer"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("engien: psi4", 1, ["engien", "did you mean engine?"]),
        ("engine:\n  program: psi4\n  bassis: sto-3g", 3, ["engine.bassis", "did you mean basis?"]),
        ("engine: qchem", 1, ["engine.program", "'qchem'", "known: psi4, pyscf, xtb, ase"]),
        ("# first\nbasis: sto-3g", 2, ["basis", "did you mean engine.basis?"]),
        ("noise_variance: 1", 1, ["did you mean method_settings.METHOD.noise_variance?"]),
        ("convergence:\n  threshold: -0.1", 2, ["convergence.threshold", "greater than 0", "-0.1"]),
        ("convergence:\n  threshold: .inf", 2, ["convergence.threshold", "finite"]),
        ("engine: {memory_mb: lots}", 1, ["engine.memory_mb", "a whole number", "'lots'"]),
        ("start: xtb", 1, ["start", "section", "direction, displacement, random_displacement, seed"]),
        ("start:\n", 1, ["start", "no value"]),
        ("methods: []", 1, ["methods", "is empty"]),
        ("methods: [2024-01-01]", 1, ["methods[0]", "text", "quotes"]),
        ("reactions: ''", 1, ["reactions", "is empty"]),
        ("results: true", 1, ["results", "text"]),
        ("1: 2", 1, ["must be text"]),
        ("results: a\nresults: b", 2, ["results", "twice", "line 1"]),
        ("engine:\n  program: xtb\n  program: psi4", 3, ["engine.program", "twice", "line 2"]),
        ("engine: [psi4\nresults: x", 2, ["not valid YAML"]),
        ("engine:\n\tprogram: psi4", 2, ["not valid YAML"]),
        ("a: &a\n  b: *a", 1, ["alias"]),
        ("x: !!python/object/apply:os.system ['true']", 1, ["not valid YAML"]),
    ],
)
def test_a_mistake_is_one_line_with_file_line_key_and_remedy(tmp_path, text, line, words):
    path = write(tmp_path, text)
    (message,) = problems(load_settings, path)
    assert message.startswith(str(path))
    assert f":{line}:" in message or f"line {line}:" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"# only\n", "empty"), (b"- a\n", "a list"), (b"word", "word"), (b"a: \xff", "UTF-8")],
)
def test_files_that_are_no_configuration(tmp_path, content, words):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    (message,) = problems(load_settings, path)
    assert str(path) in message
    assert words in message


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in problems(load_settings, tmp_path / "none.yaml")[0]
    assert "is a folder" in problems(load_settings, tmp_path)[0]


def test_every_mistake_is_named_at_once(tmp_path):
    text = "engien: psi4\nstart: {seed: -1}\nconvergence: {criterion: norm}\nverification: {level: all}\n"
    lines = problems(load_settings, write(tmp_path, text))
    assert len(lines) == 4


def test_values_of_the_command_line_are_understood():
    # What `snakemake --config` hands over: everything nested is text, folders may look like numbers.
    settings = load_settings(
        {
            "reactions": 2024,
            "methods": "gp-dimer, dimer",
            "engine": "xtb",
            "convergence": {"threshold": "1e-3"},
        }
    )
    assert settings.reactions == "2024"
    assert settings.methods == ["gp-dimer", "dimer"]
    assert settings.convergence.threshold == 1e-3


def test_yaml_numbers_with_an_exponent_are_numbers(tmp_path):
    assert load_settings(write(tmp_path, "convergence: {threshold: 1e-3}")).convergence.threshold == 1e-3


def test_a_block_overrides_single_keys_of_the_top_level():
    settings = Settings.model_validate(
        {
            "convergence": {"criterion": "force_norm", "threshold": 0.02},
            "start": {"direction": "random", "seed": 3},
            "methods": ["tight", "dimer", "gp-dimer"],
            "method_settings": {
                "tight": {"algorithm": "gp-dimer", "convergence": {"threshold": 0.001}, "start": {"seed": 7}},
                "dimer": {"max_calls": 17},
            },
        }
    )
    methods = resolve_methods(settings)
    tight = methods["tight"]
    assert list(methods) == ["tight", "dimer", "gp-dimer"]
    assert (tight.algorithm, tight.convergence.criterion, tight.convergence.threshold) == (
        "gp-dimer",
        "force_norm",
        0.001,
    )
    assert (tight.start.direction, tight.start.seed) == ("random", 7)
    assert (methods["dimer"].algorithm, methods["dimer"].max_calls) == ("dimer", 17)
    assert methods["gp-dimer"].convergence.threshold == 0.02


@pytest.mark.parametrize(
    ("methods", "blocks", "key", "words"),
    [
        (["gpdimer"], {}, "methods[0]", "did you mean gp-dimer? (known: dimer"),
        (["nudged"], {}, "methods[0]", "unknown method 'nudged'"),
        (["dimer", "dimer"], {}, "methods[1]", "twice"),
        (["dimer"], {"a b": {"algorithm": "dimer"}}, "method_settings.a b", "letters, digits"),
        (["dimer"], {"-a": {"algorithm": "dimer"}}, "method_settings.-a", "letters, digits"),
        (["v"], {"v": {}}, "method_settings.v", "algorithm: NAME"),
        (["v"], {"v": {"algorithm": "gp_dimer"}}, "method_settings.v.algorithm", "did you mean gp-dimer?"),
        (["v"], {"v": {"algorithm": ["dimer"]}}, "method_settings.v.algorithm", "unknown algorithm"),
        (["dimer"], {"dimer": {"algorithm": "gp-dimer"}}, "method_settings.dimer.algorithm", "another name"),
        (
            ["my-variant"],
            {"my-variant": {"algorithm": "gp-dimer", "noise_varience": 1}},
            "method_settings.my-variant.noise_varience",
            "unknown key; did you mean noise_variance?",
        ),
        (
            ["dimer"],  # a block that no search uses is checked as well
            {"v": {"algorithm": "dimer", "start": {"seed": -1}}},
            "method_settings.v.start.seed",
            "at least 0",
        ),
        (["v"], {"v": {"algorithm": "dimer", "start": 3}}, "method_settings.v.start", "section"),
    ],
)
def test_wrong_methods(methods, blocks, key, words):
    settings = Settings.model_validate({"methods": methods, "method_settings": blocks})
    (message,) = problems(resolve_methods, settings)
    assert message.startswith(f"{key}: ")
    assert words in message


def test_each_algorithm_is_a_method_by_its_own_name():
    names = list(algorithms())
    assert {"dimer", "gp-dimer"} <= set(names)
    resolved = resolve_methods(Settings.model_validate({"methods": names}))
    assert [method.algorithm for method in resolved.values()] == names


def test_generated_files_are_in_sync():
    difference = settings_documents.differences(CONFIG)
    assert not difference, f"run `{settings_documents.FIX}` in the project's root to update:\n{difference}"


def test_default_yaml_is_the_default_settings_and_fits_the_schema():
    path = CONFIG / settings_documents.DEFAULT_FILE
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert load_settings(path) == Settings()
    jsonschema.validate(yaml.safe_load(path.read_text()), settings_documents.json_schema())


def test_commented_method_blocks_of_the_default_yaml_are_the_defaults():
    text = settings_documents.default_yaml().split("method_settings: {}\n")[1]
    lines = [line[2:] for line in text.splitlines() if line.startswith("#   ")]
    blocks = yaml.safe_load("\n".join(["method_settings:", *lines]))["method_settings"]
    assert list(blocks) == list(algorithms())
    assert resolve_methods(Settings.model_validate({"methods": list(blocks), "method_settings": blocks})) == (
        resolve_methods(Settings.model_validate({"methods": list(blocks)}))
    )


def test_schema_knows_what_the_models_know():
    validator = jsonschema.Draft202012Validator(settings_documents.json_schema())
    good = {
        "engine": "psi4",
        "methods": "dimer",
        "method_settings": {"dimer": {"max_step": 0.1}, "v": {"algorithm": "gp-dimer", "max_step": 0.1}},
    }
    assert validator.is_valid(good)
    for bad in (
        {"engien": "psi4"},
        {"engine": "qchem"},
        {"method_settings": {"dimer": {"maxstep": 0.1}}},
        {"method_settings": {"v": {"max_step": 0.1}}},
    ):
        assert not validator.is_valid(bad), bad


def test_outdated_documents_are_written_and_reported(tmp_path):
    assert len(settings_documents.write_documents(tmp_path)) == 2
    assert settings_documents.differences(tmp_path) == ""
    assert settings_documents.write_documents(tmp_path) == []
    (tmp_path / settings_documents.DEFAULT_FILE).write_text("reactions: mine\n")
    assert "-reactions: mine" in settings_documents.differences(tmp_path)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.name)
def test_the_configurations_of_the_project_are_right(path):
    assert resolve_methods(load_settings(path))


def test_the_examples_of_the_manual_are_right(tmp_path):
    blocks = (CONFIG / "README.md").read_text().split("```yaml\n")[1:]
    assert len(blocks) >= 5
    for block in blocks:
        assert resolve_methods(load_settings(write(tmp_path, block.split("```")[0])))
