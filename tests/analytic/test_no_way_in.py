"""Nothing in the sources runs text from a file: no shell, no pickle, no unsafe YAML, no evaluated code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = [
    path for folder in ("src", "tools", "workflow", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]
RULES = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch", "code", "pty"}
CALLS = re.compile(
    r"(^|\.)(eval|exec|unsafe_load|full_load|load_all|unsafe_load_all|full_load_all|read_pickle|to_pickle"
    r"|getoutput|getstatusoutput)$|^os\.(system|popen|spawn\w*)$|^yaml\.(load|Loader|UnsafeLoader|FullLoader)$"
    r"|^asyncio\.create_subprocess_shell$"
)


def faults(source: str) -> list[str]:
    """What this Python source does that none of ours may do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            found += [f"imports {name}" for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if CALLS.search(name):
            found.append(f"line {node.lineno} calls {name}")
        if given.get("shell", "False") != "False":
            found.append(f"line {node.lineno} hands a string to a shell")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno} allows pickles")
        if re.fullmatch(r"(np|numpy)\.load", name) and given.get("allow_pickle") != "False":
            found.append(f"line {node.lineno} loads an array without allow_pickle=False")
    return found


def test_the_sources_are_found():
    assert len(PYTHON) > 80 and len(RULES) > 4


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shell_no_pickle_no_unsafe_yaml(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import os\nos.system('rm ' + name)",
        "import subprocess\nsubprocess.run(f'rm {name}', shell=True)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(path)",
        "eval(text)",
    ],
)
def test_each_of_them_would_be_seen(source):
    assert faults(source)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_name_in_a_shell_command_is_quoted(path):
    # The shell commands of the workflow are its rules' own; whatever is put into them goes through :q.
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"\bshell\s*[:(]\s*((?:\s*\"(?:[^\"\\\n]|\\.)*\")+)", text)
    assert len(commands) == len(re.findall(r"\bshell\s*[:(]", text))
    for command in commands:
        names = re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", command)
        assert names and all(name.endswith(":q") for name in names), command
