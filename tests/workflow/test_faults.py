"""Faults that are really made, a sample of what `make reliability` does by the dozen."""

import importlib.util
import sys
import tempfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def faults():
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location("reliability", TOOLS / "reliability.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("killed", (3, 1)),
        ("full_disk", (2,)),
        ("small_disk", ((32,),)),
        ("journals", ()),
        ("read_only", ()),
        ("clock", ((400.0,),)),
        ("psi4_broken", ()),
        ("other_schema", ()),
        ("together", (1,)),
        ("workers", ()),
        pytest.param("worker_killed", (1,), marks=pytest.mark.psi4),
        pytest.param("worker_out_of_memory", (1,), marks=pytest.mark.psi4),
        pytest.param("scratch_full", ((8,),), marks=pytest.mark.psi4),
        ("hostile_files", (150,)),
        ("hostile_names", ()),
    ],
)
def test_everything_survives(faults, case, arguments):
    tried, survived, remark = getattr(faults, case)(*arguments)
    if remark.startswith("not tried"):
        pytest.skip(remark)
    assert survived == tried > 0, remark
