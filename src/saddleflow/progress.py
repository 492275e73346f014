"""Progress for a person: the table of ``saddleflow status`` and the live line of a running search."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TextIO

import numpy as np

from saddleflow.evaluation import Evaluation
from saddleflow.settings import Convergence
from saddleflow.status import (
    SearchStatus,
    State,
    difference_curvature,
    read_status,
    residual_force,
    seconds_left,
)

LONG_TABLE = 40
"""A longer table shows only the searches that are under way or need attention."""


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}" if unit != "min" else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def _cells(status: SearchStatus) -> list[str]:
    purposes = " ".join(f"{purpose} {count}" for purpose, count in sorted(status.calls.items(), reverse=True))
    return [
        status.reaction,
        status.method,
        str(status.state),
        str(sum(status.calls.values())) if status.calls else "-",
        purposes or "-",
        _number(status.force, 4),
        _number(status.threshold, 4),
        _number(status.curvature, 2),
        "-" if status.age_seconds is None else f"{_duration(status.age_seconds)} ago",
        status.verification or "-",
        status.outcome if status.state is State.FAILED else "",
        status.message if status.state not in (State.CONVERGED, State.WAITING) else "",
    ]


_HEAD = [
    "reaction",
    "method",
    "state",
    "calls",
    "by purpose",
    "force",
    "limit",
    "curvature",
    "last call",
    "verified",
]


def summary_line(searches: Sequence[SearchStatus]) -> str:
    """Counts of the set and the estimate, in one line."""
    count = Counter(s.state for s in searches)
    ended = count[State.CONVERGED] + count[State.FAILED]
    parts = [
        f"{ended} of {len(searches)} searches done "
        f"({count[State.CONVERGED]} converged, {count[State.FAILED]} failed)",
        f"{count[State.RUNNING]} running",
        f"{count[State.WAITING] + count[State.OUTDATED]} waiting",
    ]
    parts += [f"{count[s]} {s}" for s in (State.STALLED, State.UNREADABLE) if count[s]]
    verified = Counter(s.verification for s in searches if s.verification in ("passed", "failed", "not_run"))
    if verified:
        parts.append("verification " + " ".join(f"{n} {what}" for what, n in sorted(verified.items())))
    rest = any(s.state not in (State.CONVERGED, State.FAILED) for s in searches)
    if rest and (estimate := seconds_left(searches)) is not None:
        parts.append(f"about {_duration(estimate)} left at this pace")
    return ", ".join(parts)


def format_status(searches: Sequence[SearchStatus], everything: bool = False) -> str:
    """Return a table and a summary line.

    Parameters
    ----------
    searches : sequence of SearchStatus
        Of the whole set.
    everything : bool
        Show every search also of a long table.
    """
    quiet = (State.CONVERGED, State.WAITING)
    long = len(searches) > LONG_TABLE and not everything
    shown = [s for s in searches if not (long and s.state in quiet)]
    rows = [[*_HEAD, "", ""], *(_cells(s) for s in shown)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {3, 5, 6, 7}
    lines = [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    if not shown:
        lines = []
    if long:
        lines.append(f"(converged and waiting searches are not shown; --all shows all {len(searches)})")
    return "\n".join([*(line.rstrip() for line in lines), summary_line(searches)])


def status(results: str | os.PathLike[str], everything: bool = False) -> str:
    """Table and summary of the run in `results`; see :func:`read_status`."""
    return format_status(read_status(results), everything)


def watch(
    results: str | os.PathLike[str],
    interval: float = 5.0,
    everything: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Show the status again and again until every search is done."""
    stream = stream or sys.stdout
    while True:
        searches = read_status(results)
        clear = "\x1b[H\x1b[2J" if stream.isatty() else ""
        print(clear + format_status(searches, everything), file=stream, flush=True)
        if all(s.state in (State.CONVERGED, State.FAILED) for s in searches):
            return
        time.sleep(interval)


def live_line(
    reaction: str, method: str, convergence: Convergence, stream: TextIO | None = None
) -> Callable[[Evaluation], None]:
    """Return a callback for :func:`saddleflow.run.run_search` that says how the search stands.

    On a terminal one line that is written over, elsewhere (a log) a line for each evaluation.
    """
    stream = stream or sys.stderr
    pair: dict[str, Evaluation] = {}

    def show(evaluation: Evaluation) -> None:
        force = residual_force([evaluation], convergence)
        text = f"{reaction} {method} call {evaluation.index + 1} {evaluation.purpose}"
        if evaluation.error:
            text += f" {evaluation.error}"
        elif force is not None:
            pair["centre"] = evaluation
            text += f" force {force:.4f} eV/A (limit {convergence.threshold:g})"
        elif (
            "centre" in pair and (curvature := difference_curvature([pair["centre"], evaluation])) is not None
        ):
            text += f" curvature {curvature:.2f} eV/A^2"
        over = stream.isatty()
        print(f"\r\x1b[K{text}" if over else text, end="" if over else "\n", file=stream, flush=True)

    return show
