"""CPU seconds of the published surrogate: one step of a fit, conditioning, prediction; how they grow.

    OPENBLAS_NUM_THREADS=1 python benchmarks/surrogate_speed.py [--atoms 10 20 40] [--evaluations 10 30 60]

A random hydrocarbon-like molecule with oxygen is displaced at random on an analytic pair surface.  `fit` is
one objective with its gradient on all observations (gp-dimer), `fit10` the same on the farthest-point subset
of ten (ot-gp-dimer), `condition` the factorisation for predictions, `border` its extension by the newest
observation where hyperparameters stay (fit_every), `gradient` one prediction of an inner step, `sigma` one
uncertainty.  Exponents are those of seconds ~ evaluations^a atoms^b by least squares.
"""

import argparse
import time

import numpy as np
from overhead import growth

from saddleflow.surrogate.gaussian_process import GaussianProcess
from saddleflow.surrogate.hyperparameters import DataScales, Posterior, SignalBarrier, constant_variance
from saddleflow.surrogate.inverse_distances import InverseDistances
from saddleflow.surrogate.kernel import Hyperparameters, TrainingFeatures
from saddleflow.surrogate.transport import TransportDistance, farthest_points

STEPS = ("fit", "fit10", "condition", "border", "gradient", "sigma")


def molecule(atoms: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions (N, 3) of a loose random cluster, no two atoms closer than 1 Angstrom."""
    numbers = np.array([(6, 1, 1, 8)[i % 4] for i in range(atoms)])
    positions = [np.zeros(3)]
    while len(positions) < atoms:
        unit = generator.standard_normal(3)
        candidate = positions[generator.integers(len(positions))] + 1.3 * unit / np.linalg.norm(unit)
        if min(np.linalg.norm(candidate - p) for p in positions) > 1.0:
            positions.append(candidate)
    return numbers, np.array(positions)


def seconds(action) -> float:
    """CPU time of one call: the best of at least three, and of as many as fit into a second."""
    best, total = np.inf, 0.0
    for count in range(50):
        started = time.process_time()
        action()
        spent = time.process_time() - started
        best, total = min(best, spent), total + spent
        if count >= 2 and total > 1.0:
            break
    return best


def measure(atoms: int, evaluations: int) -> dict[str, float]:
    """CPU seconds of each step."""
    generator = np.random.default_rng(1)
    numbers, base = molecule(atoms, generator)
    descriptor, distance = InverseDistances(numbers), TransportDistance(numbers)
    centre = descriptor.features(base)
    training, energies, gradients, observed = TrainingFeatures(descriptor), [], [], []
    for _ in range(evaluations):
        x = base + 0.05 * generator.standard_normal(base.shape)
        pull = descriptor.features(x) - centre
        training.add(x)
        energies.append(2.0 * pull @ pull)
        gradients.append(descriptor.pull_back(x, 4.0 * pull))
        observed.append(x)
    energies, gradients = np.array(energies) - energies[0], np.array(gradients)
    hyperparameters = Hyperparameters(1.0, np.full(len(descriptor.type_labels), 0.7))
    scales, constant = DataScales.of(training, energies), constant_variance(energies)
    distances = np.array([[distance(a, b) for b in observed] for a in observed])
    chosen = farthest_points(distances, 10, 2)

    def objective(indices, barrier):
        data = (training.subset(indices), energies[indices], gradients[indices])
        posterior = Posterior(*data, scales, constant, 1e-5, 28.0, barrier)
        return lambda: posterior.evaluate(hyperparameters.logarithms - 0.1).gradient()

    def condition(previous=None):
        return GaussianProcess(training, energies, gradients, hyperparameters, constant, 1e-5, previous)

    known = slice(evaluations - 1)
    before = training.subset(list(range(evaluations - 1)))
    shorter = GaussianProcess(before, energies[known], gradients[known], hyperparameters, constant, 1e-5)
    process, x = condition(), observed[-1] + 0.01
    actions = (
        objective(list(range(evaluations)), None),
        objective(chosen, SignalBarrier()),
        condition,
        lambda: condition(shorter),
        lambda: process.gradient(x),
        lambda: process.standard_deviations(x),
    )
    return {name: seconds(action) for name, action in zip(STEPS, actions, strict=True)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atoms", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 30, 60])
    options = parser.parse_args()
    print("CPU milliseconds\natoms evaluations " + " ".join(f"{name:>10}" for name in STEPS) + "  fit/fit10")
    rows = []
    for atoms in options.atoms:
        for evaluations in options.evaluations:
            found = measure(atoms, evaluations)
            rows.append((atoms, evaluations, found))
            numbers = " ".join(f"{1e3 * found[name]:10.3f}" for name in STEPS)
            print(f"{atoms:5} {evaluations:11} {numbers} {found['fit'] / found['fit10']:10.1f}", flush=True)
    atoms, evaluations = np.array([row[:2] for row in rows]).T
    for name in STEPS:
        values = np.array([found[name] for _, _, found in rows])
        by_evaluations, by_atoms = growth(values, evaluations, atoms)
        print(f"{name:>10} ~ evaluations^{by_evaluations:.2f} atoms^{by_atoms:.2f}")


if __name__ == "__main__":
    main()
