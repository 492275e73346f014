"""Searches beside the published counts and saddle energies of the same structures.

    python benchmarks/fidelity.py sample STRUCTURES PUBLISHED.csv FOLDER [--largest 12] [--count 60]
    python benchmarks/fidelity.py compare RESULTS PUBLISHED.csv

STRUCTURES holds xyz files with name= in the comment line; the table has columns reaction, atoms and, for each
method, METHOD_converged, METHOD_calls and METHOD_saddle_energy_eV.  `sample` fills FOLDER with links to a
seeded random sample; `compare` prints, for finished searches, counts, success and energies.
"""

import argparse
import random
from pathlib import Path

import pandas as pd

from saddleflow.analysis.published import CONSENSUS_TOLERANCE, read_published
from saddleflow.analysis.table import summarise
from saddleflow.reactions import read_reactions

UNIQUE_POINTS = {"gp-dimer": 1, "ot-gp-dimer": -1, "dimer": -1, "sella": 0}
"""To add to a published count to get different geometries: programs count the first and a final point in
different ways."""
VARIANTS = {"gp-internal": "gp-dimer", "ot-internal": "ot-gp-dimer", "sella-xtb": "sella"}
"""Which published method a variant stands beside."""


def sample(options) -> None:
    """Link a random sample."""
    published = pd.read_csv(options.published, index_col="reaction")
    files = {}
    for path in sorted(Path(options.structures).rglob("*.xyz")):
        files[read_reactions(path)[0].name] = path.resolve()
    names = [n for n in published.index[published.atoms <= options.largest] if n in files]
    chosen = random.Random(options.seed).sample(names, min(options.count, len(names)))
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        (options.folder / f"{name}.xyz").symlink_to(files[name])
    print(f"{len(chosen)} of {len(names)} structures in {options.folder}")


def compare(options) -> None:
    """Print one line a search and one a method."""
    summary = summarise(options.results)
    published = pd.read_csv(options.published, index_col="reaction")
    agreed = read_published(options.published).consensus()
    summary = summary[
        summary.reaction.isin(published.index) & ~summary.outcome.isin(["missing", "unreadable"])
    ]
    for method, rows in summary.groupby("method", sort=False):
        base = VARIANTS.get(method, method)
        key, shift = base.replace("-", "_"), UNIQUE_POINTS[base]
        print(f"\n{method}\nreaction atoms calls published  energy_eV  difference  agreed outcome")
        found, consensus, paired = 0, 0, []
        for row in rows.itertuples():
            theirs = published.loc[row.reaction]
            energy = agreed.get(row.reaction)
            ok = bool(theirs[f"{key}_converged"])
            calls = theirs[f"{key}_calls"] + shift if ok else float("nan")
            difference = row.energy_eV - (energy if energy is not None else theirs[f"{key}_saddle_energy_eV"])
            if energy is not None:
                consensus += 1
                found += bool(row.converged) and abs(difference) <= CONSENSUS_TOLERANCE
            if ok and row.converged:
                paired.append((row.calls, calls))
            print(
                f"{row.reaction:8} {theirs.atoms:5} {row.calls:5} {calls:9.0f} {row.energy_eV:12.4f} "
                f"{difference:9.4f} {'yes' if energy is not None else 'no':>6} {row.outcome}"
            )
        ours, others = (
            (pd.Series(column, dtype=float) for column in zip(*paired, strict=True)) if paired else ([], [])
        )
        print(
            f"{method}: {len(rows)} searches, converged {rows.converged.mean():.3f} "
            f"(published {published.loc[rows.reaction, f'{key}_converged'].mean():.3f})"
        )
        if paired:
            print(
                f"  {len(paired)} solved by both: median calls {ours.median():g} "
                f"(published {others.median():g}), mean {ours.mean():.1f} ({others.mean():.1f}); "
                f"agreed saddles found {found} of {consensus}"
            )
        share = rows.surrogate_s / rows.engine_s
        print(f"  surrogate over engine time: median {share.median():.2f}, largest {share.max():.2f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("sample")
    one.add_argument("structures")
    one.add_argument("published")
    one.add_argument("folder", type=Path)
    one.add_argument("--largest", type=int, default=12)
    one.add_argument("--count", type=int, default=60)
    one.add_argument("--seed", type=int, default=5)
    one.set_defaults(run=sample)
    two = commands.add_parser("compare")
    two.add_argument("results", type=Path)
    two.add_argument("published")
    two.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
