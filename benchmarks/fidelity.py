"""Searches beside the published ones of the same structures, one by one, and whether they agree.

    python benchmarks/fidelity.py sample STRUCTURES PUBLISHED.csv FOLDER [--largest 16] [--count 60]
    python benchmarks/fidelity.py compare RESULTS PUBLISHED.csv [--methods ot-gp-dimer gp-dimer]

STRUCTURES holds xyz files with name= in the comment line; docs/comparison.md describes the table.  `sample`
fills FOLDER with links to a seeded random sample.  `compare` puts each method beside the program that it
follows and says whether median calls agree within 15 %, success within 3 %, and agreed saddles by 90 %;
`saddleflow compare` has the statistics.
A search that has begun and not ended counts as failed, so let running ones end first.
"""

import argparse
import random
from pathlib import Path

import pandas as pd

from saddleflow.analysis.entries import our_entries, published_entries
from saddleflow.analysis.published import LABELS, Published, read_published
from saddleflow.analysis.table import MISSING, summarise
from saddleflow.reactions import read_reactions

UNIQUE_POINTS = {"gp_dimer": 1, "ot_gp_dimer": -1, "dimer": -1, "sella": 0}
"""To add to a published count to get different geometries: programs count the first and a final point in
different ways."""


def sample(options: argparse.Namespace) -> None:
    """Link a random sample."""
    atoms = read_published(options.published).molecules["atoms"]
    files = {}
    for path in sorted(Path(options.structures).rglob("*.xyz")):
        files[read_reactions(path)[0].name] = path.resolve()
    names = [str(n) for n in atoms.index[atoms <= options.largest] if n in files]
    chosen = random.Random(options.seed).sample(names, min(options.count, len(names)))
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        (options.folder / f"{name}.xyz").symlink_to(files[name])
    print(f"{len(chosen)} of {len(names)} structures in {options.folder}")


def followed(method: str) -> str:
    """Which published program a method or a variant stands beside, by its first word: gp-internal, ot-sum."""
    first = method.partition("-")[0]
    return {"gp": "gp_dimer", "ot": "ot_gp_dimer"}.get(first, first)


def compare(options: argparse.Namespace) -> None:
    """Print one line a search and the verdict on each method."""
    table = read_published(options.published)
    summary = summarise(options.results)
    if options.methods:
        summary = summary[summary["method"].isin(options.methods)]
    # A search that was stopped is no success; one that never started says nothing.
    stopped = summary["message"].fillna("").str.startswith("running or interrupted")
    begun = (summary["outcome"] != MISSING) | stopped
    complete = begun.groupby(summary["reaction"], sort=False).all()
    known = set(table.molecules.index)
    reactions = [str(n) for n in complete.index[complete] if n in known]
    if not reactions:
        raise SystemExit(f"{options.results}: no search of a reaction of {options.published}; run snakemake")
    summary = summary[summary["reaction"].isin(reactions)]
    ours = our_entries(summary, reactions, options.results, table).assign(outcome=list(summary["outcome"]))
    for method, rows in ours.groupby("method", sort=False):
        _judge(str(method), rows.set_index("reaction"), table)


def _judge(method: str, ours: pd.DataFrame, table: Published) -> None:
    program = followed(method)
    theirs = published_entries(table, list(ours.index))
    theirs = (
        theirs[theirs["method"] == f"{LABELS[program]} (published)"].set_index("reaction").loc[ours.index]
    )
    calls = theirs["calls"] + UNIQUE_POINTS[program]
    energies = table.consensus().reindex(ours.index)
    print(f"\n{method}\nreaction atoms calls published    energy_eV  difference agreed outcome")
    for name, row in ours.iterrows():
        agreed = pd.notna(energies[name])
        difference = row["energy_eV"] - (energies[name] if agreed else theirs["energy_eV"][name])
        print(
            f"{name:8} {table.molecules['atoms'][name]:5} {row['calls']:5.0f} {calls[name]:9.0f} "
            f"{row['energy_eV']:12.4f} {difference:11.4f} {'yes' if agreed else 'no':>6} {row['outcome']}"
        )
    both = ours["solved"] & theirs["solved"]
    medians = ours["calls"][both].median(), calls[both].median()
    means = ours["calls"][both].mean(), calls[both].mean()
    solved, published = int(ours["solved"].sum()), int(theirs["solved"].sum())
    found, wanted = int(ours["intended"].sum()), int(ours["intended"].notna().sum())
    share = (ours["surrogate_s"] / ours["engine_s"]).median()
    print(f"{method}, {len(ours)} structures (published in brackets)")
    print(f"  mean calls where both solved, {both.sum()}: {means[0]:.1f} ({means[1]:.1f})")
    near = abs(medians[0] / medians[1] - 1) <= 0.15
    print(f"  median calls: {medians[0]:g} ({medians[1]:g}): {_verdict(near)}")
    print(f"  solved {solved} ({published}): {_verdict(abs(solved - published) <= 0.03 * len(ours))}")
    print(f"  agreed saddles {found} of {wanted}: {_verdict(found >= 0.9 * wanted)}")
    print(f"  surrogate over engine time, median: {share:.2f}")


def _verdict(agrees: bool) -> str:
    return "agrees" if agrees else "DIFFERS"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("sample")
    one.add_argument("structures")
    one.add_argument("published")
    one.add_argument("folder", type=Path)
    one.add_argument("--largest", type=int, default=16)
    one.add_argument("--count", type=int, default=60)
    one.add_argument("--seed", type=int, default=5)
    one.set_defaults(run=sample)
    two = commands.add_parser("compare")
    two.add_argument("results", type=Path)
    two.add_argument("published")
    two.add_argument("--methods", nargs="+", help="only these")
    two.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
