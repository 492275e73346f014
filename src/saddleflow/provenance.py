"""Where and with what something was computed, for the record in every result."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("saddleflow", "numpy", "scipy", "ase", "h5py", "tblite", "scine-sparrow", "pyscf", "sella", "jax")


def machine() -> dict:
    """Node, system, processor and number of CPUs."""
    return {
        "node": platform.node(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose numbers enter a result, as far as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Time in ISO 8601 with zone, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
