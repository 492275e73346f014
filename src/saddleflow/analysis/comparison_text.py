"""A comparison in words and numbers: cells and sentences for the screen and the page, and the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from saddleflow.analysis.comparison import Comparison
from saddleflow.analysis.entries import HERE, PUBLISHED
from saddleflow.analysis.published import CONSENSUS_TOLERANCE, comparable
from saddleflow.analysis.statistics import VERIFIED
from saddleflow.files import write_atomically

UNKNOWN = "not known"
METHOD_HEADERS = (
    "method",
    "solved",
    "verified",
    "intended saddle",
    "median calls",
    "mean",
    "p90",
    "engine s",
    "surrogate s",
    "surrogate / engine",
    "ratio to best published",
    "mode kept",
)
PAIR_HEADERS = (
    "a / b",
    "both solved",
    "only a",
    "only b",
    "ratio, both solved",
    "median ratio, all",
    "p calls",
    "p solved",
    "p intended",
)

SAID = ", and what the program said of itself in the published rows"
SOLVED_HERE = """
Solved means a saddle {word} here{published}. Calls are energy and force calls, failed ones and rotations
included, verification not; the mean is over solved reactions, everywhere else a failure counts as more than
{budget} calls.
"""
PUBLISHED_COUNTS = """
The published programs count otherwise: as unique geometries GP-dimer has 1 call more than its number and
OT-GP-dimer 1 less. They converge the norm of all forces, Sella the largest force on an atom, below 0.01 eV/A.
The intended saddle is the one that all of them found (energies within {tolerance} meV); so their own rows, in
brackets, are full by construction, and where they disagree it is not known.
"""
OTHER_LEVEL = """
The searches here ran on {levels}, not on the published HF/3-21G: another surface, so there are no ratios to
published programs and the intended saddle is not known.
"""


def method_cells(row: pd.Series, budget: float) -> list[str]:
    """Texts of one method's row under :data:`METHOD_HEADERS`."""
    total = int(row["reactions"])
    here = row["source"] != PUBLISHED
    return [
        str(row["method"]),
        f"{row['solved']}/{total} ({100 * row['solved_low']:.0f}-{100 * row['solved_high']:.0f} %)",
        _verified(row),
        _intended(row),
        _calls(row["calls_median"], budget),
        _calls(row["calls_mean_solved"], budget),
        _calls(row["calls_p90"], budget),
        number(row["engine_s_median"]) if here else UNKNOWN,
        number(row["surrogate_s_median"]) if here else UNKNOWN,
        number(row["surrogate_over_engine_median"]) if here else UNKNOWN,
        interval(row, "ratio_to_best_published") if here else "",
        number(row["mode_overlap_median"]) if here else UNKNOWN,
    ]


def ranked(methods: pd.DataFrame) -> pd.DataFrame:
    """Rows as they are shown: fewest calls in the median first, then in the mean."""
    return methods.sort_values(["calls_median", "calls_mean_solved"], kind="stable")


def _verified(row: pd.Series) -> str:
    if pd.isna(row["verified"]):
        return UNKNOWN
    missing = f", {row['verification_not_run']} not run" if row["verification_not_run"] else ""
    return f"{row['verified']}/{row['reactions']}{missing}"


def _intended(row: pd.Series) -> str:
    if pd.isna(row["intended"]):
        return UNKNOWN
    text = f"{row['intended']}/{row['intended_known']}"
    return f"({text})" if row["source"] == PUBLISHED else text  # full by construction


def pair_cells(row: pd.Series) -> list[str]:
    """Texts of one pair's row under :data:`PAIR_HEADERS`; p-values are the corrected ones."""
    return [
        f"{row['a']} / {row['b']}",
        f"{row['solved_by_both']}/{row['reactions']}",
        str(row["only_a"]),
        str(row["only_b"]),
        interval(row, "ratio_geometric_mean"),
        interval(row, "ratio_median"),
        probability(row["wilcoxon_p_holm"]),
        probability(row["mcnemar_p_holm"]),
        probability(row["mcnemar_intended_p_holm"]),
    ]


def number(value: float) -> str:
    """Three digits, without an exponent."""
    if pd.isna(value):
        return UNKNOWN
    return "∞" if value == np.inf else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _calls(value: float, budget: float) -> str:
    if pd.isna(value):
        return "none solved"
    return number(value) if np.isfinite(value) else f"> {budget:g}"


def interval(row: pd.Series, name: str) -> str:
    """Estimate with its 95 % interval, such as ``0.41 (0.35-0.48)``."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(row[name]):
        return UNKNOWN
    return number(row[name]) + ("" if pd.isna(low) else f" ({number(low)}-{number(high)})")


def probability(value: float) -> str:
    """P-value with two digits."""
    return UNKNOWN if pd.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def coverage_sentences(comparison: Comparison) -> list[str]:
    """Which reactions are compared, and what was left out."""
    counts, facts = comparison.counts, comparison.facts
    ours = {1: "", 2: "that both methods have"}.get(len(counts["finished"]), "that all methods have")
    sentences = [
        f"Compared: {counts['compared']} of {counts['planned']} reactions"
        + f", those {ours or 'that are'} finished"
        + (" and the published table has." if facts["published"] and counts.get("not_published") else "."),
    ]
    if counts["finished_by_some"] or counts["finished_by_none"]:
        each = ", ".join(f"{name} {count}" for name, count in counts["finished"].items())
        sentences.append(
            f"Left out: {counts['finished_by_some']} that only some methods have finished, "
            f"{counts['finished_by_none']} that none has (finished by method: {each})."
        )
    if counts.get("not_published"):
        sentences.append(f"Left out: {counts['not_published']} finished reactions without a published row.")
    if counts["interrupted"]:
        sentences.append(
            f"Searches running or interrupted: {counts['interrupted']}. Long searches are more often among "
            "them than short ones, so the numbers of an unfinished run lean to the better side."
        )
    if counts["waiting"]:
        sentences.append(f"Converged searches that wait for their verification: {counts['waiting']}.")
    if counts["unreadable"]:
        sentences.append(f"Damaged run files, left out: {counts['unreadable']}.")
    return sentences


def caveats(comparison: Comparison) -> str:
    """One paragraph: what the numbers mean and where they can't be compared."""
    facts = comparison.facts
    verified = facts["word"] == VERIFIED
    parts = [
        SOLVED_HERE.format(
            word="verified (one negative mode)" if verified else "converged (verification was switched off)",
            published=SAID if facts["published"] else "",
            budget=f"{facts['budget']:g}",
        )
    ]
    if facts["criteria"]:
        parts.append(f"Convergence here: {', '.join(sorted(set(facts['criteria'].values())))}.")
    if facts["published"]:
        parts.append(PUBLISHED_COUNTS.format(tolerance=f"{1000 * CONSENSUS_TOLERANCE:g}"))
        other = [level for level in facts["engines"] if not comparable(level)]
        if other:
            parts.append(OTHER_LEVEL.format(levels=", ".join(other)))
    else:
        parts.append("Without a table of published results the intended saddle is not known.")
    return " ".join(" ".join(part.split()) for part in parts)


def as_text(comparison: Comparison) -> str:
    """Tables and sentences for the screen."""
    budget = comparison.facts["budget"]
    parts = [*coverage_sentences(comparison), ""]
    ours = comparison.methods["source"] == HERE
    rows = pd.concat([ranked(comparison.methods[ours]), ranked(comparison.methods[~ours])])
    parts += _aligned(METHOD_HEADERS, [method_cells(row, budget) for _, row in rows.iterrows()])
    if len(comparison.whole_table):
        rows = [method_cells(row, budget)[:7] for _, row in ranked(comparison.whole_table).iterrows()]
        parts += ["", "Published programs on the whole table:", *_aligned(METHOD_HEADERS[:7], rows)]
    if len(comparison.pairs):
        rows = [pair_cells(row) for _, row in comparison.pairs.iterrows()]
        parts += ["", *_aligned(PAIR_HEADERS, rows)]
    return "\n".join([*parts, "", caveats(comparison)])


def _aligned(headers: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    table = [list(headers), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``methods.csv``, ``pairs.csv``, ``searches.csv`` and ``comparison.json`` into `folder`.

    The JSON holds everything but the searches; what is not known or infinite is ``null`` there, and an empty
    cell or ``inf`` in the CSV files.
    """
    tables = {"methods": comparison.methods, "pairs": comparison.pairs, "searches": comparison.entries}
    written = []
    for name, frame in tables.items():
        written.append(folder / f"{name}.csv")
        write_atomically(written[-1], frame.to_csv(index=False))
    document = {
        **comparison.facts,
        "counts": comparison.counts,
        "methods": _records(comparison.methods),
        "published_whole_table": _records(comparison.whole_table),
        "pairs": _records(comparison.pairs),
        "notes": [*coverage_sentences(comparison), caveats(comparison)],
    }
    written.append(folder / "comparison.json")
    write_atomically(written[-1], json.dumps(document, indent=1, allow_nan=False) + "\n")
    return written


def _records(frame: pd.DataFrame) -> list[dict]:
    return json.loads(frame.to_json(orient="records", double_precision=15))
