"""The verification file: whether a converged point is a first-order saddle, and how that was shown.  HDF5."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import h5py
import numpy as np

from saddleflow import __version__
from saddleflow.errors import RunFileError
from saddleflow.files import get_texts, open_hdf5, put_array, put_texts, write_hdf5

SCHEMA = "verification/1"
REMEDY = "delete it and verify again"
DOCUMENTS = ("settings", "provenance", "machine", "versions")


class Status(StrEnum):
    """Three-valued: a check that could not run is neither passed nor failed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"


@dataclass(frozen=True)
class VerificationRecord:
    """What the verification of one search found.

    Parameters
    ----------
    reaction, method : str
        Which search.
    status : Status
        The verdict.
    reason : str
        Why, one line; also what a pass does not prove.
    level : str
        What was done: ``none``, ``curvature``, ``index`` or ``hessian``.
    calls : int
        Gradient evaluations, failed ones included; an analytic Hessian is none.
    seconds, hessian_seconds : float
        Wall time in the engine, and of it in an analytic Hessian.
    hessian_source : str
        ``analytic``, ``central differences`` or empty.
    forces_checked : bool
        Whether the stored forces pass the stored threshold by this module's own arithmetic.
    stored_force : float
        Their residual in the search's criterion, eV/Angstrom.
    energy_difference, force_difference : float
        Repeated evaluation minus the stored one: energy in eV, largest force component in eV/Angstrom; NaN
        where it was not repeated.
    curvature : float
        Lowest of the Cartesian Hessian without rigid motion, eV/Angstrom^2, comparable with the search's own
        (a normal mode is mass-weighted and has another); NaN where unknown.
    asymmetry : float
        Noise of a Hessian by differences, eV/Angstrom^2; NaN for other levels.
    imaginary_modes : int or None
        Number of imaginary frequencies; None where it was not proved.
    linear : bool
        Whether five instead of six external motions were projected out.
    bonds : str
        What the lowest mode does to the bonds.
    symbols : tuple of str
        Elements.
    positions : ndarray, shape (N, 3)
        The verified geometry, Angstrom.
    frequencies_cm1 : ndarray, shape (k,), or None
        Ascending, imaginary ones negative; of level ``index`` the lowest alone, its measured upper bound.
    bounds_cm1 : ndarray, shape (2, 2), or None
        Of level ``index``: lower and upper bound of the two lowest frequencies.
    modes : ndarray, shape (k, N, 3), or None
        Cartesian unit vectors, one a frequency; of levels ``curvature`` and ``index`` the lowest mode alone.
    hessian : ndarray, shape (3N, 3N), or None
        eV/Angstrom^2.
    settings, provenance, machine, versions : dict
        Verification settings, the engine's own words, where and with which packages.
    created : str
        ISO 8601 with zone.
    """

    reaction: str
    method: str
    status: Status
    reason: str
    level: str
    calls: int = 0
    seconds: float = 0.0
    hessian_seconds: float = 0.0
    hessian_source: str = ""
    forces_checked: bool = False
    stored_force: float = float("nan")
    energy_difference: float = float("nan")
    force_difference: float = float("nan")
    curvature: float = float("nan")
    asymmetry: float = float("nan")
    imaginary_modes: int | None = None
    linear: bool = False
    bonds: str = ""
    symbols: tuple[str, ...] = ()
    positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    frequencies_cm1: np.ndarray | None = None
    bounds_cm1: np.ndarray | None = None
    modes: np.ndarray | None = None
    hessian: np.ndarray | None = None
    settings: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    machine: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    created: str = ""

    @property
    def imaginary_frequency_cm1(self) -> float:
        """Lowest frequency if it is imaginary, as a negative number; NaN otherwise."""
        if self.frequencies_cm1 is None or not len(self.frequencies_cm1) or self.frequencies_cm1[0] >= 0:
            return float("nan")
        return float(self.frequencies_cm1[0])


SCALARS = {
    "reaction": str,
    "method": str,
    "reason": str,
    "level": str,
    "calls": int,
    "seconds": float,
    "hessian_seconds": float,
    "hessian_source": str,
    "forces_checked": bool,
    "stored_force": float,
    "energy_difference": float,
    "force_difference": float,
    "curvature": float,
    "asymmetry": float,
    "linear": bool,
    "bonds": str,
    "created": str,
}
UNITS = {
    "positions": "angstrom",
    "frequencies_cm1": "cm^-1",
    "bounds_cm1": "cm^-1",
    "modes": "",
    "hessian": "eV/angstrom^2",
}


def write_verification(path: str | Path, record: VerificationRecord) -> None:
    """Write `record` atomically and durably to `path`.

    Raises
    ------
    RunFileError
        When the record contradicts itself.
    OSError
        When the disk refuses; the target is as it was.
    """
    problem = _problem(record)
    if problem:
        raise RunFileError(f"{path}: not written: {problem}")

    def fill(file: h5py.File) -> None:
        file.attrs["saddleflow_version"] = __version__
        file.attrs["status"] = str(record.status)
        file.attrs["imaginary_modes"] = -1 if record.imaginary_modes is None else record.imaginary_modes
        for name in SCALARS:
            file.attrs[name] = getattr(record, name)
        documents = file.create_group("settings")
        for name in DOCUMENTS:
            put_texts(documents, name, json.dumps(getattr(record, name), sort_keys=True))
        put_texts(file, "symbols", list(record.symbols))
        for name, unit in UNITS.items():
            if getattr(record, name) is not None:
                put_array(file, name, getattr(record, name), unit)

    write_hdf5(path, SCHEMA, fill)


def read_verification(path: str | Path) -> VerificationRecord:
    """Read and check a verification file.

    Raises
    ------
    RunFileError
        When the file is missing, damaged, of another schema version, or contradicts itself.
    """
    with open_hdf5(path, SCHEMA, REMEDY) as file:
        count = int(file.attrs["imaginary_modes"])
        documents = file["settings"]
        record = VerificationRecord(
            status=Status(file.attrs["status"]),
            imaginary_modes=None if count < 0 else count,
            symbols=tuple(get_texts(file, "symbols")),
            **{name: kind(file.attrs[name]) for name, kind in SCALARS.items()},
            **{name: file[name][...] if name in file else None for name in UNITS},
            **{name: json.loads(documents[name].asstr()[()]) for name in DOCUMENTS},
        )
    problem = _problem(record)
    if problem:
        raise RunFileError(f"{path}: {problem}; {REMEDY}")
    return record


def _problem(record: VerificationRecord) -> str:
    """First contradiction within a record, or an empty text."""
    n = len(record.symbols)
    if np.shape(record.positions) != (n, 3):
        return f"positions have shape {np.shape(record.positions)}, not {(n, 3)}"
    if record.hessian is not None and np.shape(record.hessian) != (3 * n, 3 * n):
        return f"the Hessian has shape {np.shape(record.hessian)}, not {(3 * n, 3 * n)}"
    if record.modes is not None and np.shape(record.modes)[1:] != (n, 3):
        return f"modes have shape {np.shape(record.modes)}, not (k, {n}, 3)"
    if record.frequencies_cm1 is not None and (
        record.modes is None or len(record.modes) != len(record.frequencies_cm1)
    ):
        return "frequencies and modes differ in number"
    counted = record.level in ("hessian", "index")
    if record.status is Status.PASSED and counted and record.imaginary_modes != 1:
        return f"passed with {record.imaginary_modes} imaginary modes"
    if record.status is not Status.PASSED and not record.reason:
        return f"{record.status} without a reason"
    return ""
