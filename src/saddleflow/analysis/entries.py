"""The searches that a comparison is about: ours and the published ones, in one table with one meaning.

Only reactions that every method has finished are compared, so no method is judged on easier ones; the
coverage says what was left out and why.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from saddleflow.analysis.mode_overlap import mode_overlaps
from saddleflow.analysis.published import CONSENSUS_TOLERANCE, Published, comparable
from saddleflow.analysis.statistics import solved
from saddleflow.analysis.table import MISSING, UNREADABLE, UNVERIFIED

HERE, PUBLISHED = "here", "published"
COLUMNS = {
    "reaction": "string",
    "method": "string",
    "source": "string",
    "solved": "bool",
    "verified": "boolean",
    "verification_not_run": "boolean",
    "intended": "boolean",
    "calls": "float64",
    "energy_eV": "float64",
    "engine_s": "float64",
    "surrogate_s": "float64",
    "mode_overlap": "float64",
}


def verifies(summary: pd.DataFrame, results: Path) -> bool:
    """Whether converged searches are verified in this run: some were, or its inputs ask for it."""
    if summary["verification"].isin(["passed", "failed"]).any():
        return True
    try:
        settings = json.loads((results / "inputs" / "verification.json").read_text(encoding="utf-8"))
        return settings["level"] != "none"
    except (OSError, ValueError, KeyError):
        return False


def finished(summary: pd.DataFrame, verified: bool) -> pd.Series:
    """Which rows of the summary are final: the search ended, and what it found was verified if that is due.

    A converged search whose verification is still to come is not final: it would count as unsolved.
    """
    ended = ~summary["outcome"].isin([MISSING, UNREADABLE])
    return ended & ~(waiting(summary) & verified)


def waiting(summary: pd.DataFrame) -> pd.Series:
    """Which rows of the summary converged and have no verification yet."""
    return summary["converged"] & summary["verification_reason"].isin(UNVERIFIED)


def coverage(summary: pd.DataFrame, published: Published | None, verified: bool) -> dict:
    """Count how many reactions every method has finished, some have, and none has; and who lacks what.

    Returns
    -------
    dict
        ``planned, finished_by_all, finished_by_some, finished_by_none`` (reactions), ``interrupted``,
        ``waiting`` (for their verification) and ``unreadable`` (searches), ``finished`` (reactions by
        method), and, with published results, ``not_published`` (reactions finished by all that the table
        lacks, or has as another molecule).
    """
    final = finished(summary, verified)
    done = final.groupby(summary["reaction"], sort=False).agg(["all", "any"])
    journaled = summary["message"].fillna("").str.startswith("running or interrupted")
    counts = {
        "planned": len(done),
        "finished_by_all": int(done["all"].sum()),
        "finished_by_some": int((done["any"] & ~done["all"]).sum()),
        "finished_by_none": int((~done["any"]).sum()),
        "interrupted": int(((summary["outcome"] == MISSING) & journaled).sum()),
        "waiting": int(waiting(summary).sum()) if verified else 0,
        "unreadable": int((summary["outcome"] == UNREADABLE).sum()),
        "finished": {
            str(name): int(count)
            for name, count in final.groupby(summary["method"], sort=False).sum().items()
        },
    }
    if published is not None:
        known = set(_same_molecules(summary, published))
        counts["not_published"] = sum(name not in known for name in done.index[done["all"]])
    return counts


def compared_reactions(summary: pd.DataFrame, published: Published | None, verified: bool) -> list[str]:
    """Reactions that every method has finished and, where some of them were published, only those."""
    done = finished(summary, verified).groupby(summary["reaction"], sort=False).all()
    names = [str(name) for name in done.index[done]]
    if published is None:
        return names
    known = set(_same_molecules(summary, published))
    return [name for name in names if name in known] or names


def _same_molecules(summary: pd.DataFrame, published: Published) -> list[str]:
    """Reactions that the published table has too, with the same number of atoms and multiplicity."""
    ours = summary.drop_duplicates("reaction").set_index("reaction")[["atoms", "multiplicity"]]
    theirs = published.molecules.reindex(ours.index)
    same = (ours == theirs).all(axis=1)
    return [str(name) for name in ours.index[same.fillna(False).astype(bool)]]


def our_entries(
    summary: pd.DataFrame, reactions: list[str], results: Path, published: Published | None
) -> pd.DataFrame:
    """Our searches of `reactions`, one row each; see :data:`COLUMNS`.

    ``intended`` is whether the published consensus saddle was found: not known without a table, for a
    reaction without consensus, and at another level of theory.
    """
    success, _ = solved(summary, verifies(summary, results))
    frame = summary.assign(solved=success, source=HERE)
    frame = frame[frame["reaction"].isin(reactions)].reset_index(drop=True)
    checked = frame["verification"].isin(["passed", "failed"])
    frame["verified"] = (
        (frame["verification"] == "passed").astype("boolean").where(checked | ~frame["converged"])
    )
    frame["verification_not_run"] = frame["converged"] & ~checked
    frame["mode_overlap"] = mode_overlaps(
        results, [None if pd.isna(name) else str(name) for name in frame["run_file"]]
    )
    frame["mode_overlap"] = frame["mode_overlap"].where(frame["solved"])
    same_level = frame["engine"].fillna("").map(comparable)
    frame["intended"] = _intended(frame, published).where(same_level)
    return frame[list(COLUMNS)].astype(COLUMNS)


def published_entries(published: Published, reactions: list[str] | None) -> pd.DataFrame:
    """Published searches of `reactions` (all for None); verified and times are not known."""
    frame = published.searches
    if reactions is not None:
        frame = frame[frame["reaction"].isin(reactions)]
    frame = frame.assign(source=PUBLISHED, solved=frame["converged"], verified=pd.NA)
    frame["intended"] = _intended(frame, published)
    return frame.reindex(columns=list(COLUMNS)).astype(COLUMNS).reset_index(drop=True)


def _intended(frame: pd.DataFrame, published: Published | None) -> pd.Series:
    """Whether each solved row found the consensus saddle of its reaction; NA where there is none."""
    if published is None:
        return pd.Series(pd.NA, index=frame.index, dtype="boolean")
    wanted = frame["reaction"].map(published.consensus()).astype("float64")
    near = (frame["energy_eV"] - wanted).abs() <= CONSENSUS_TOLERANCE
    return (near & frame["solved"]).astype("boolean").where(wanted.notna())
