"""What a search does outside the engine, from its run files: seconds by size and by number of evaluations.

    python benchmarks/overhead.py FOLDER...

FOLDERs hold run files (*.h5, also in subfolders).  All calls of the search count, those of its proof do not.
The first of a search is by itself: it includes the Hessian of the prior mean at the guess.  Ratios are of
whole searches, outside over engine, in the median; growth is that of seconds ~ atoms^a number^b over single
evaluations (least squares of logarithms), beside the engine's.
"""

import argparse
from pathlib import Path

import numpy as np

from saddleflow.errors import SaddleflowError
from saddleflow.run_file import read_run_file

SIZES = ((1, 9), (10, 13), (14, 17), (18, 99))
NUMBERS = ((2, 5), (6, 10), (11, 20), (21, 999))


def growth(seconds: np.ndarray, *causes: np.ndarray) -> np.ndarray:
    """Exponents of `seconds` by each of `causes`."""
    columns = np.column_stack([np.ones(len(seconds)), *(np.log(cause) for cause in causes)])
    return np.linalg.lstsq(columns, np.log(seconds), rcond=None)[0][1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    searches, steps = [], []
    for path in sorted(p for folder in parser.parse_args().folders for p in folder.rglob("*.h5")):
        try:
            run = read_run_file(path)
        except SaddleflowError:
            continue
        asked = run.evaluations[: run.proved_from]
        atoms = len(run.reaction.symbols)
        rows = [(atoms, i + 1, e.surrogate_seconds, e.engine_seconds) for i, e in enumerate(asked)]
        if engine := sum(row[3] for row in rows):
            searches.append((atoms, sum(row[2] for row in rows) / engine))
        steps.extend(row for row in rows if min(row[2:]) > 0)
    searches, (atoms, number, outside, engine) = np.array(searches), np.array(steps).T
    print(f"{len(searches)} searches, {len(atoms)} evaluations\n")
    header = ["first", *(f"{a} to {b}" for a, b in NUMBERS), "engine"]
    print("| atoms | searches | outside / engine |", " | ".join(header), "|")
    print("|---" * (3 + len(header)) + "|")
    for smallest, largest in SIZES:
        here = (atoms >= smallest) & (atoms <= largest)
        those = (searches[:, 0] >= smallest) & (searches[:, 0] <= largest)
        if not those.any():
            continue
        groups = [number == 1, *((number >= a) & (number <= b) for a, b in NUMBERS)]
        cells = [f"{np.median(outside[here & g]):.2f}" if (here & g).any() else "" for g in groups]
        cells.append(f"{np.median(engine[here]):.2f}")
        ratio = np.median(searches[those, 1])
        print(f"| {smallest} to {largest} | {those.sum()} | {ratio:.2f} |", " | ".join(cells), "|")
    later = number > 1
    exponents = growth(outside[later], atoms[later], number[later])
    print(f"\noutside, evaluations after the first: atoms^{exponents[0]:.2f} number^{exponents[1]:.2f}")
    print(f"outside, first evaluation: atoms^{growth(outside[~later], atoms[~later])[0]:.2f}")
    print(f"engine: atoms^{growth(engine, atoms)[0]:.2f}")


if __name__ == "__main__":
    main()
