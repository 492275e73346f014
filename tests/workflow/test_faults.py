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


def test_a_case_that_breaks_off_costs_no_other_and_is_made_again(faults, tmp_path, monkeypatch):
    state, table, made = tmp_path / "state.json", tmp_path / "table.md", []

    def sound():
        made.append("sound")
        return 2, 2, "fine"

    def breaks():
        made.append("breaks")
        if made.count("breaks") == 1:
            raise TimeoutError("too slow today")
        return 1, 1, ""

    monkeypatch.setattr(faults, "CASES", {"breaks": breaks, "sound": sound})
    monkeypatch.setattr(faults, "commit", lambda: "0123abc")
    assert faults.main(state, table) == 1
    assert "| breaks | not finished |" in table.read_text() and "| sound | 2 | 2 | 0 |" in table.read_text()
    assert faults.main(state, table) == 0
    assert made == ["breaks", "sound", "breaks"]
    assert "not finished" not in table.read_text() and "Commit 0123abc." in table.read_text()
    # Another commit: what was made with this one proves nothing.
    monkeypatch.setattr(faults, "commit", lambda: "4567def")
    assert faults.main(state, table) == 0
    assert made.count("sound") == 2


def test_a_search_that_is_never_hit_is_no_success(faults):
    outcomes = iter([None, True, None, False, True])
    assert faults.until_hit(3, lambda: next(outcomes)) == (3, 2, 2)
    with pytest.raises(RuntimeError, match="only 0 of 20"):
        faults.until_hit(1, lambda: None)
