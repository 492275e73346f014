"""Shared by all tests."""

import importlib.util
import os

# As in every job of the workflow, and before NumPy comes: two threads of linear algebra a process make
# small matrices many times slower on a busy machine.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import pytest


@pytest.fixture(scope="session")
def psi4_missing():
    """Why Psi4 can't be used on this machine; empty when it works."""
    from saddleflow.engines.psi4_interpreter import describe_psi4
    from saddleflow.errors import EngineUnavailable

    try:
        describe_psi4()
    except EngineUnavailable as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def _programs_of_the_markers(request):
    """Skip what needs a missing program; in CI a missing program is a failure, not a skip."""
    missing = ""
    if request.node.get_closest_marker("psi4"):
        missing = request.getfixturevalue("psi4_missing")
    if request.node.get_closest_marker("pyscf") and importlib.util.find_spec("pyscf") is None:
        missing = "PySCF is not installed"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
