"""A table of published results, read in place: what other programs needed on the same structures.

One row a reaction, with the columns ``reaction``, ``atoms``, ``multiplicity`` and, for each program NAME,
``NAME_converged``, ``NAME_calls`` and ``NAME_saddle_energy_eV``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from saddleflow.errors import InputError

CONSENSUS_TOLERANCE = 0.010
"""eV: saddles whose energies differ by less count as the same."""
LEVEL = "hf/3-21g"
"""Level of theory of the published energies; energies of other levels can't be compared with them."""
SUFFIXES = ("_converged", "_calls", "_saddle_energy_eV")
LABELS = {"dimer": "dimer", "gp_dimer": "GP-dimer", "ot_gp_dimer": "OT-GP-dimer", "sella": "Sella"}


@dataclass(frozen=True)
class Published:
    """Published results by reaction and program.

    Parameters
    ----------
    searches : pandas.DataFrame
        One row a reaction and program: ``reaction, method, converged, calls, energy_eV``; calls and energy
        are NaN where the program failed.
    molecules : pandas.DataFrame
        Index ``reaction``; ``atoms`` and ``multiplicity``.
    """

    searches: pd.DataFrame
    molecules: pd.DataFrame

    @property
    def programs(self) -> list[str]:
        """Labels of the programs, in the order of the table."""
        return list(pd.unique(self.searches["method"]))

    def consensus(self) -> pd.Series:
        """Energy in eV of the saddle that every program found, by reaction; the others are not in it.

        Two programs found the same saddle where their energies differ by at most 10 meV.
        """
        energy = self.searches["energy_eV"].where(self.searches["converged"])
        table = self.searches.assign(energy=energy).pivot(index="reaction", columns="method", values="energy")
        values = table.to_numpy()
        agreed = np.isfinite(values).all(axis=1) & (np.ptp(values, axis=1) <= CONSENSUS_TOLERANCE)
        return table[agreed].median(axis=1)


def read_published(path: str | Path) -> Published:
    """Read a table of published results.

    Raises
    ------
    InputError
        When the table can't be read, lacks columns, or names a reaction twice.
    """
    path = Path(path)
    try:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"reaction": "string"})
    except OSError as error:
        raise InputError(
            f"{path}: can't be read ({error.strerror}); give a table of published results"
        ) from None
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: is no CSV table ({error})") from None
    programs = [str(name)[: -len("_calls")] for name in frame.columns if str(name).endswith("_calls")]
    wanted = ["reaction", "atoms", "multiplicity", *(name + end for name in programs for end in SUFFIXES)]
    absent = [name for name in wanted if name not in frame.columns]
    if absent or not programs:
        missing = ", ".join(absent) or "PROGRAM_calls and the like"
        raise InputError(f"{path}: columns {missing} are missing; docs/comparison.md describes the table")
    doubled = frame["reaction"][frame["reaction"].duplicated()]
    if len(doubled):
        raise InputError(f"{path}: reaction {doubled.iloc[0]} has two rows; the unit is the reaction")
    parts = []
    for name in programs:
        converged = frame[f"{name}_converged"].astype("string").str.strip().str.lower().isin(["true", "1"])
        try:
            calls, energy = (
                frame[name + end].astype("float64").where(converged)
                for end in ("_calls", "_saddle_energy_eV")
            )
        except ValueError as error:
            raise InputError(f"{path}: columns of {name}: {error}") from None
        parts.append(
            pd.DataFrame(
                {
                    "reaction": frame["reaction"],
                    "method": f"{LABELS.get(name, name)} (published)",
                    "converged": converged & calls.notna(),
                    "calls": calls,
                    "energy_eV": energy,
                }
            )
        )
    molecules = frame.set_index("reaction")[["atoms", "multiplicity"]]
    return Published(pd.concat(parts, ignore_index=True), molecules)


def comparable(level: str) -> bool:
    """Whether an engine's level of theory, such as ``psi4:hf/3-21g``, is that of the published energies."""
    return level.partition(":")[2].lower() == LEVEL
