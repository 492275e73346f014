"""The leaderboard: one page of HTML that needs nothing beside itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from saddleflow.analysis.comparison import Comparison
from saddleflow.analysis.comparison_text import (
    METHOD_HEADERS,
    PAIR_HEADERS,
    UNKNOWN,
    caveats,
    coverage_sentences,
    method_cells,
    pair_cells,
    ranked,
)
from saddleflow.analysis.entries import HERE, PUBLISHED
from saddleflow.analysis.figure_style import style
from saddleflow.analysis.figures_comparison import comparison_profiles, paired_ratios
from saddleflow.files import write_atomically
from saddleflow.provenance import now

CSS = """
body { font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #222; margin: 2em auto; max-width: 1240px;
  padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: .2em } h2 { font-size: 1.1em; margin: 1.6em 0 .4em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 12.5px }
th { text-align: right; font-weight: 600; vertical-align: bottom; border-bottom: 1.5px solid #222 }
th, td { padding: .25em .5em }
td { text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.group td { text-align: left; color: #555;
  border-bottom: 1px solid #999; padding-top: .9em; font-style: italic } tr.here td { background: #eef5fb }
p.small, figcaption { color: #444; font-size: 12.5px; max-width: 100ch } figure { margin: 1em 0 }
figure svg { max-width: 100%; height: auto } td.unknown { color: #999 } .wide { overflow-x: auto }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>saddleflow leaderboard</title>
<style>{css}</style></head><body>
<h1>Leaderboard</h1>
<p>{coverage}</p>
{methods}
{best}
<p class="small">{caveats}</p>
<figure>{profiles}<figcaption>Fraction of the compared reactions solved within a number of calls (left) and
within a multiple of the calls of the best one for the same reaction (right). Failures stay in the
denominator: the right end of each curve is its success rate. Further up and left is better.
</figcaption></figure>
{pairs}
<p class="small">{origin}</p>
</body></html>
"""
PAIRS = """<h2>Pairs</h2>
{table}
<p class="small">The unit is the reaction. p-values are corrected for the number of pairs (Holm): calls by
Wilcoxon's signed-rank test with failures ranked last, success by McNemar's exact test.</p>
<figure>{figure}<figcaption>Points: reactions that both solved; diamond and bar: geometric mean with its 95 %
bootstrap interval.</figcaption></figure>
"""
BEST = (
    "Best published: {best}, lowest median on the same reactions; ratio below 1: fewer calls than it, "
    "geometric mean over reactions that both solved, 95 % bootstrap interval."
)
TITLES = {
    "solved": "any saddle; with the 95 % interval of the success rate",
    "engine s": "median time in the engine of a search, seconds, solved or not",
    "surrogate s": "median time outside the engine of a search, seconds",
    "surrogate / engine": "median over searches of time outside the engine over time in it",
    "mode kept": "median overlap of the final mode with the mode at the start, 1 is the same motion",
    "ratio, both solved": "geometric mean of the ratio of calls, 95 % bootstrap interval",
    "median ratio, all": "median ratio of calls with failures in place, 95 % bootstrap interval",
    "p calls": "Wilcoxon signed-rank test of log ratios, failures ranked last; Holm-corrected",
    "p solved": "exact McNemar test; Holm-corrected",
    "p intended": "exact McNemar test of finding the intended saddle; Holm-corrected",
}


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the page atomically; figures are SVG inside it."""
    write_atomically(path, page(comparison))
    return path


def page(comparison: Comparison) -> str:
    """HTML text of the page."""
    facts = comparison.facts
    with style():
        profiles, ratios = _svg(comparison_profiles(comparison)), _svg(paired_ratios(comparison))
    best = facts["best_published"]
    pairs = [_row(pair_cells(row)) for _, row in comparison.pairs.iterrows()]
    return PAGE.format(
        css=CSS,
        coverage=escape(" ".join(coverage_sentences(comparison))),
        methods=_table(METHOD_HEADERS, _method_rows(comparison)),
        best=f'<p class="small">{escape(BEST.format(best=best))}</p>' if best else "",
        caveats=escape(caveats(comparison)),
        profiles=profiles,
        pairs=PAIRS.format(table=_table(PAIR_HEADERS, pairs), figure=ratios) if pairs else "",
        origin=escape(
            f"saddleflow {facts['version']}, {', '.join(facts['engines'])}, {now()}; "
            f"seed of the bootstrap {facts['seed']}."
        ),
    )


def _method_rows(comparison: Comparison) -> list[str]:
    """Ours, then the published ones on the same reactions and on their whole table."""
    methods, whole = comparison.methods, comparison.whole_table
    count, budget = comparison.counts["compared"], comparison.facts["budget"]
    groups = [(f"Here, {count} reactions", methods[methods["source"] == HERE], "here")]
    if len(whole):
        same = methods[methods["source"] == PUBLISHED]
        if len(same):
            groups.append((f"Published, the same {count} reactions", same, ""))
        groups.append((f"Published, all {whole['reactions'].max()} reactions of the table", whole, ""))
    rows = []
    for title, frame, kind in groups:
        rows.append(f'<tr class="group"><td colspan="{len(METHOD_HEADERS)}">{escape(title)}</td></tr>')
        rows += [_row(method_cells(row, budget), kind) for _, row in ranked(frame).iterrows()]
    return rows


def _table(headers: Sequence[str], rows: list[str]) -> str:
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead>{_head(headers)}</thead><tbody>\n{body}\n</tbody></table></div>'


def _head(headers: Sequence[str]) -> str:
    cells = (
        f'<th title="{escape(TITLES.get(name, name))}">{escape(_unit_kept(name))}</th>' for name in headers
    )
    return f"<tr>{''.join(cells)}</tr>"


def _unit_kept(header: str) -> str:
    """A unit stays in the line of the word before it."""
    return f"{header[:-2]}\N{NO-BREAK SPACE}s" if header.endswith(" s") else header


def _row(cells: Sequence[str], kind: str = "") -> str:
    unknown = ' class="unknown"'
    texts = (f"<td{unknown if cell == UNKNOWN else ''}>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}">{"".join(texts)}</tr>'


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "saddleflow"})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
