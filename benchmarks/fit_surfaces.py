"""Fit the parameters of GFN2-xTB and PM6, together, to changes of force of one level of theory.

    python benchmarks/fit_surfaces.py displace FOLDER DISPLACED
    python benchmarks/fit_surfaces.py fit FOLDER OUTPUT.json --displaced DISPLACED --test TEST

FOLDER and TEST hold run files (*.h5, also in subfolders) of one level of theory.  `displace` asks that level
at three random displacements of each answer, 0.03 eV for each mode of GFN2-xTB, and keeps one file for each
reaction, so that an interrupted run goes on.  `fit` takes pairs of geometries, a displaced one with its
answer and each point of a search with the nearest before, and makes what both methods say in the shares 0.6
and 0.4 of the change of the gradient like the truth's, by Gauss and Newton with each pair's error bounded in
its weight.  It writes OUTPUT after each iteration and can be begun from one with --start.  The shipped
parameters were made by a trial form of this, in which an iteration on 55 reactions took 6 minutes of one
core (docs/fitted_surfaces.md); this form was run on two reactions.
"""

import argparse
import copy
import ctypes
import json
import tempfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from tblite import library

from saddleflow import sparrow
from saddleflow.engines.catalogue import create_engine
from saddleflow.errors import GeometryError, InputError, ScfError
from saddleflow.geometry import largest_displacement, largest_motion
from saddleflow.learn import level_of, run_files
from saddleflow.reaction import Reaction
from saddleflow.run_file import RunFile, read_run_file
from saddleflow.settings import Engine
from saddleflow.surrogate.prior_mean import PriorMean, fitted_mean, prior_mean
from saddleflow.surrogate.surface_parameters import (
    SurfaceParameters,
    read_surface_parameters,
    without_program,
    write_surface_parameters,
)
from saddleflow.vibrations import internal_modes
from saddleflow.xtb import XTB

SHARES = {"GFN2-xTB": 0.6, "PM6": 0.4, "DFTB3": 0.0}  # without a share: to tell crossings of states
FITTED = 2  # of these
MODE_ENERGY, LARGEST = 0.03, 0.25  # eV, Angstrom
SOFTEST = 3.0  # eV/Angstrom^2; softer modes are displaced as if they had this
POINTS = 7  # of a search
NEAREST, FARTHEST = 0.02, 0.8  # Angstrom, of a pair
FLOOR = 0.2  # eV/Angstrom, added to what an error is measured by
RIDGE, DAMPING = 2.0, 0.02  # of relative changes of parameters, and of steps
RELATIVE_STEP = 1e-3
FLOORS = {"shpoly": 0.1, "kcn": 0.1, "gam3": 0.1, "dkernel": 0.05, "qkernel": 0.005}
JUMP = 50.0  # of a residual by a parameter: states have changed

Data = list[tuple[Reaction, np.ndarray, np.ndarray, list[tuple[int, int]]]]
Place = tuple[str | int, ...]


def displace(folder: Path, output: Path) -> None:
    """Ask the level of theory around the answers."""
    output.mkdir(parents=True, exist_ok=True)
    for path in run_files([folder]):
        run, target = read_run_file(path), output / f"{path.stem}.json"
        if run.answer is None or target.exists():
            continue
        reaction, base = run.reaction, run.answer.positions
        random = np.random.default_rng(zlib.crc32(path.stem.encode()))
        hessian = XTB(reaction.numbers, reaction.charge, reaction.multiplicity, accuracy=0.1).hessian(base)
        modes = internal_modes(hessian, base.ravel())
        widths, points = np.sqrt(2 * MODE_ENERGY / np.maximum(abs(modes.values), SOFTEST)), [base]
        for _ in range(3):
            step = modes.vectors @ (widths * random.normal(size=len(widths)))
            points.append(base + min(1.0, LARGEST / largest_motion(step)) * step.reshape(-1, 3))
        engine = create_engine(Engine.model_validate(run.engine), reaction)
        gradients = [(-engine.evaluate(point).forces).tolist() for point in points]
        engine.close()
        document = {"reaction": reaction.to_dict(), "points": [p.tolist() for p in points]}
        target.write_text(json.dumps(document | {"gradients": gradients}))
        print(path.stem, flush=True)


def searched(runs: list[RunFile]) -> Iterator[tuple]:
    """Points of searches, and each with the nearest before."""
    for run in runs:
        rows = [row for row in run.evaluations[run.first_on_state : run.proved_from] if not row.error]
        rows = [
            rows[k] for k in sorted(set(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).astype(int)))
        ]
        pairs = []
        for j in range(1, len(rows)):
            far = [largest_displacement(rows[i].positions, rows[j].positions) for i in range(j)]
            i = int(np.argmin([d if d > NEAREST else np.inf for d in far]))
            if NEAREST < far[i] < FARTHEST:
                pairs.append((i, j))
        if pairs:
            positions, gradients = (
                np.array([getattr(row, k) for row in rows]) for k in ("positions", "gradient")
            )
            yield run.reaction, positions, gradients.reshape(positions.shape), pairs


def displaced(folder: Path) -> Iterator[tuple]:
    """What `displace` has left."""
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        points, gradients = (np.array(document[k]) for k in ("points", "gradients"))
        yield (
            Reaction.from_dict(document["reaction"]),
            points,
            gradients,
            [(0, k) for k in range(1, len(points))],
        )


def published(numbers: list[int]) -> dict[str, dict]:
    """Published parameters of both methods for these elements; those of PM6 from Sparrow's own library."""
    record, table = library.new_param(), library.new_table()
    library.export_gfn2_param(record)
    library.dump_param(record, table)
    gfn2, symbols = library.table_to_dict(table), [chemical_symbols[n] for n in numbers]
    gfn2["element"] = {symbol: gfn2["element"][symbol] for symbol in symbols}
    gfn2["hamiltonian"]["xtb"]["kpair"] = {
        f"{a}-{b}": 1.0 for k, a in enumerate(symbols) for b in symbols[k:]
    }
    sparrow.Sparrow(np.array([1, 1]))
    code = ctypes.CDLL(str(Path(find_spec("scine_sparrow").origin).with_name("sparrow.module.so")))
    content = ctypes.create_string_buffer(1024)
    code["_ZN5Scine7Sparrow4nddo3pm6Ev"](ctypes.c_void_p(ctypes.addressof(content)))
    with tempfile.TemporaryDirectory() as folder:
        name = f"{folder}/pm6.json".encode()
        text = ctypes.create_string_buffer(name)
        string = (ctypes.c_uint64 * 4)(ctypes.addressof(text), len(name), len(name), 0)  # a std::string
        write = code[
            "_ZNK5Scine7Sparrow4nddo10Parameters5writeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
        ]
        write(ctypes.c_void_p(ctypes.addressof(content)), ctypes.c_void_p(ctypes.addressof(string)))
        pm6 = json.loads(Path(name.decode()).read_text())
    pm6["atomic"] = [atom for atom in pm6["atomic"] if atom["key"] in numbers]
    pm6["diatomic"] = [pair for pair in pm6["diatomic"] if set(pair["key"].values()) <= set(numbers)]
    return {"GFN2-xTB": gfn2, "PM6": pm6, "DFTB3": None}


def adjustable(parameters: dict[str, dict]) -> list[tuple[Place, float]]:
    """Places of all numbers that are fitted, and the size that a relative change is of."""
    gfn2, found = parameters["GFN2-xTB"], []
    for symbol, element in gfn2["element"].items():
        for key in ("levels", "slater", "shpoly", "kcn"):
            found += [
                (("GFN2-xTB", "element", symbol, key, k), FLOORS.get(key, 0.0))
                for k in range(len(element[key]))
            ]
        found += [(("GFN2-xTB", "element", symbol, "lgam", 1), 0.0)] if len(element["lgam"]) > 1 else []
        keys = ("gam", "gam3", "zeff", "arep", "dkernel", "qkernel", "en")
        found += [(("GFN2-xTB", "element", symbol, key), FLOORS.get(key, 0.0)) for key in keys]
    hamiltonian = ("GFN2-xTB", "hamiltonian", "xtb")
    found += [((*hamiltonian, "kpair", pair), 0.0) for pair in gfn2["hamiltonian"]["xtb"]["kpair"]]
    found += [
        ((*hamiltonian, *rest), 0.0) for rest in (("wexp",), ("kpol",), ("shell", "ss"), ("shell", "pp"))
    ]
    found.append((("GFN2-xTB", "repulsion", "effective", "kexp"), 0.0))
    for k, atom in enumerate(parameters["PM6"]["atomic"]):
        start, pack = ("PM6", "atomic", k, "value"), atom["value"]["pack"]
        for key in ("oneCenterEnergy", "beta", "orbitalExponent"):
            found += [((*start, "pack", key, o), 0.0) for o in "sp" if pack[key][o]]
        found += [
            ((*start, "pack", key), 0.0) for key in ("gss", "gpp", "gsp", "gp2", "hsp", "pcore") if pack[key]
        ]
        repulsion = range(len(atom["value"]["gaussianRepulsion"]))
        found += [((*start, "gaussianRepulsion", g, key), 0.0) for g in repulsion for key in "abc"]
    pairs = range(len(parameters["PM6"]["diatomic"]))
    return found + [
        (("PM6", "diatomic", k, "value", key), 0.0) for k in pairs for key in ("exponent", "factor")
    ]


def value(tree, place: Place) -> float:
    """Number at a place."""
    for key in place:
        tree = tree[key]
    return float(tree)


def changed(parameters: dict, places: list[Place], values: np.ndarray) -> dict:
    """Copy with other numbers."""
    parameters = copy.deepcopy(parameters)
    for place, number in zip(places, values, strict=True):
        tree = parameters
        for key in place[:-1]:
            tree = tree[key]
        tree[place[-1]] = float(number)
    return parameters


def gradients(mean: PriorMean, number: int | None, points: np.ndarray) -> np.ndarray:
    """Of one surface or (None) in shares, NaN where there is no answer; shape of `points`."""
    found = np.full(points.shape, np.nan)
    for k, point in enumerate(points):
        try:
            if number is None:
                shares = mean.weight_prior(1.0).mean
                found[k] = (shares @ mean.energies_gradients(point.ravel())[1]).reshape(point.shape)
            else:
                found[k] = mean.potentials[number].energy_gradient(point)[1]
        except (ScfError, GeometryError, InputError):
            continue
    return found


class Fit:
    """Parameters, data, and what the surfaces say at them."""

    def __init__(self, data: Data, template: SurfaceParameters):
        self.data, self.template = data, template
        self.base = published(list(template.elements))
        places = adjustable(self.base)
        self.places = [place for place, _ in places]
        self.origin = np.array([value(self.base, place) for place in self.places])
        self.scale = np.maximum(abs(self.origin), [floor for _, floor in places])

    def surfaces(self, x: np.ndarray) -> SurfaceParameters:
        """Parameters at relative changes `x`."""
        new = changed(self.base, self.places, self.origin + self.scale * x)
        return SurfaceParameters(**vars(self.template) | {"parameters": new})

    def answers(self, x: np.ndarray, number: int) -> list[np.ndarray]:
        """What one method says at all geometries."""
        fitted = self.surfaces(x)
        return [gradients(fitted_mean(r, fitted), number, points) for r, points, _, _ in self.data]

    def residuals(self, answers: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Errors of the changes over the largest component of each."""
        found = []
        shares = list(SHARES.values())[:FITTED]
        for (_, _, true, pairs), *said in zip(self.data, *answers, strict=True):
            mixed = sum(share * part for share, part in zip(shares, said, strict=True))
            for i, j in pairs:
                change = true[j] - true[i]
                found.append(((mixed[j] - mixed[i] - change) / (abs(change).max() + FLOOR)).ravel())
        return found

    def cost(self, x: np.ndarray, residuals: list[np.ndarray]) -> float:
        """What is minimised."""
        bounded = sum(np.sqrt(1 + r @ r) - 1 for r in residuals if np.isfinite(r).all())
        return float(bounded + 0.5 * RIDGE * x @ x)

    def step(self, x: np.ndarray) -> np.ndarray:
        """Better relative changes."""
        said = [self.answers(x, number) for number in range(FITTED)]
        now, rows = self.residuals(said), []
        for k, place in enumerate(self.places):
            moved, number = x + RELATIVE_STEP * np.eye(len(x))[k], list(SHARES).index(place[0])
            other = list(said)
            other[number] = self.answers(moved, number)
            rows.append([(a - b) / RELATIVE_STEP for a, b in zip(self.residuals(other), now, strict=True)])
        matrix, right = RIDGE * np.eye(len(x)), -RIDGE * x
        for number, residual in enumerate(now):
            jacobian = np.array([row[number] for row in rows])
            if np.isfinite(residual).all() and np.isfinite(jacobian).all() and abs(jacobian).max() < JUMP:
                weight = 1 / np.sqrt(1 + residual @ residual)
                matrix += weight * jacobian @ jacobian.T
                right -= weight * jacobian @ residual
        step = np.linalg.solve(matrix + DAMPING * np.diag(np.diag(matrix)), right)
        before = self.cost(x, now)
        for part in (1.0, 0.5, 0.25, 0.1):
            after = self.cost(
                x + part * step, self.residuals([self.answers(x + part * step, n) for n in range(FITTED)])
            )
            print(f"cost {before:.2f} -> {after:.2f}", flush=True)
            if after < before:
                return x + part * step
        return x


def error(data: Data, fitted: SurfaceParameters | None) -> float:
    """Geometric mean over the pairs: largest error on an atom over the largest change."""
    found = []
    for reaction, points, true, pairs in data:
        mean = prior_mean(reaction, "auto") if fitted is None else fitted_mean(reaction, fitted)
        said = gradients(mean, None, points)
        for i, j in pairs:
            change = true[j] - true[i]
            wrong = largest_motion((said[j] - said[i] - change).ravel())
            if np.isfinite(wrong):
                found.append(wrong / (largest_motion(change.ravel()) + 0.05))
    return float(np.exp(np.log(found).mean()))


def fit(options: argparse.Namespace) -> None:
    """Fit and write."""
    runs = [read_run_file(path) for path in run_files([options.folder])]
    levels = {without_program(level_of(run)) for run in runs}
    if len(levels) > 1:
        raise SystemExit(f"{options.folder}: run files of {', '.join(sorted(levels))}; give one level's")
    extra = list(displaced(options.displaced)) if options.displaced else []
    data, test = (
        list(searched(runs)) + extra,
        list(searched([read_run_file(p) for p in run_files([options.test])])),
    )
    for source, pairs in ((options.folder, data), (options.test, test)):
        if not pairs:
            raise SystemExit(f"{source}: no run file with two points of a search {NEAREST} Angstrom apart")
    elements = tuple(sorted({int(n) for reaction, *_ in data for n in reaction.numbers}))
    names = {reaction.name for reaction, *_ in data}
    pairs = sum(len(pairs) for *_, pairs in data)
    before = error(test, None)
    work = Fit(data, SurfaceParameters(*levels, elements, SHARES, {}, len(names), pairs, before, before))
    x = np.zeros(len(work.places))
    if options.start:
        start = read_surface_parameters(options.start).parameters
        x = (np.array([value(start, place) for place in work.places]) - work.origin) / work.scale
    for _ in range(options.iterations):
        x = work.step(x)
        fitted = work.surfaces(x)
        fitted = SurfaceParameters(**vars(fitted) | {"error_after": error(test, fitted)})
        write_surface_parameters(options.output, fitted)
        print(
            f"{len(names)} reactions, {pairs} pairs; of others {before:.3f} -> {fitted.error_after:.3f}",
            flush=True,
        )


def main() -> None:
    """Displace or fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("displace")
    one.add_argument("folder", type=Path)
    one.add_argument("output", type=Path)
    one.set_defaults(work=lambda options: displace(options.folder, options.output))
    two = commands.add_parser("fit")
    two.add_argument("folder", type=Path)
    two.add_argument("output", type=Path)
    two.add_argument("--test", type=Path, required=True, help="run files of other reactions")
    two.add_argument("--displaced", type=Path)
    two.add_argument("--start", default="", help="shipped parameters or a file of some, to begin with")
    two.add_argument("--iterations", type=int, default=8)
    two.set_defaults(work=fit)
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    main()
