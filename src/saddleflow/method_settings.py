"""Settings of the search methods, and what all sections share; see :mod:`saddleflow.settings`."""

from __future__ import annotations

import importlib.util
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values can't change, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Convergence(Section):
    """When a search may call a point stationary."""

    criterion: Literal["max_atom_force", "force_norm"] = "max_atom_force"
    """max_atom_force: largest force on an atom; force_norm: 2-norm of all forces (the published one)."""
    threshold: Annotated[float, Field(gt=0)] = 0.01
    """Limit in eV/Angstrom."""


class Start(Section):
    """Where a search starts and along which direction."""

    direction: Literal[
        "xtb_softest_mode",
        "xtb_lowest_vibration",
        "random",
        "random_lowest_coordination",
        "file",
        "difference",
    ] = "xtb_softest_mode"
    """xtb_softest_mode: lowest mode of the GFN2-xTB Hessian; xtb_lowest_vibration: that with masses, as a
    vibrational analysis gives it, rigid motion not projected out; random: Gaussian with seed;
    random_lowest_coordination: Gaussian on the atoms around one of lowest coordination, as published for
    gp-dimer and dimer; file: a direction given with the reaction; difference: product minus reactant."""
    displacement: Annotated[float, Field(ge=0)] = 0.0
    """Displace the guess along the direction by so much before the first evaluation, Angstrom."""
    random_displacement: Annotated[float, Field(ge=0)] = 0.0
    """Displace each coordinate of the guess by Gaussian numbers of this standard deviation, Angstrom, on the
    atoms that a random direction moves (published for gp-dimer and dimer: 0.01)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of random directions and displacements."""


class Method(Section):
    """What all searches share."""

    uses_direction: ClassVar[bool] = True
    """Whether the start direction enters the search."""
    package: ClassVar[str] = ""
    """Optional package that the search needs; its extra has the same name."""

    @property
    def starts_along_direction(self) -> bool:
        """Whether the start direction has to be known before the first evaluation."""
        return self.uses_direction

    def missing_package(self) -> str | None:
        """What to install before this method can run, in one line; None if nothing is missing."""
        if not self.package or importlib.util.find_spec(self.package) is not None:
            return None
        algorithm = getattr(self, "algorithm", self.package)
        remedy = f"install it with: pip install 'saddleflow[{self.package}]'"
        return f"{algorithm} needs the package {self.package}, which is not installed; {remedy}"

    convergence: Convergence = Convergence()
    """When a point counts as stationary."""
    start: Start = Start()
    """Start direction and displacement."""
    max_calls: Annotated[int, Field(ge=1)] = 300
    """Budget of engine calls, rotations and failed calls included."""
    go_on: Annotated[int, Field(ge=0)] = 0
    """Look for a lower electronic state and prove the number of negative modes where the search converges
    (some 7 calls; the verification need not make the proof again), and search on from there so often."""
    dissociation_gap: Annotated[float, Field(gt=0)] | None = None
    """Stop where two parts of the molecule are further apart than this, and than at the start plus half of
    it, Angstrom. null: never, as published."""


AT_RANDOM = Start(direction="random_lowest_coordination", random_displacement=0.01)
"""The published start of gp-dimer and dimer."""


class Dimer(Method):
    """Improved dimer without surrogate (Heyden 2005, Kaestner and Sherwood 2008, Olsen 2004).

    Unless they are set, start.direction is random_lowest_coordination and start.random_displacement 0.01.
    """

    algorithm: Literal["dimer"] = "dimer"
    start: Start = AT_RANDOM
    """Start direction and displacement."""
    max_calls: Annotated[int, Field(ge=1)] = 3000
    """Budget of engine calls, rotations included."""
    separation: Annotated[float, Field(gt=0)] = 0.01
    """Distance between midpoint and image in Angstrom."""
    rotation_tolerance: Annotated[float, Field(gt=0)] = 0.0873
    """Rotation stops below this angle, rad (5 degrees)."""
    max_rotations: Annotated[int, Field(ge=0)] = 10
    """Rotations a translation step at most."""
    max_step: Annotated[float, Field(gt=0)] = 0.05
    """Largest motion of one atom a step, Angstrom."""
    memory: Annotated[int, Field(ge=1)] = 25
    """Pairs kept by the L-BFGS translation."""
    max_steps: Annotated[int, Field(ge=1)] = 1000
    """Translation steps at most."""
    energy_limit: Annotated[float, Field(gt=0)] = 10.0
    """Stop where the energy lies so far above the start, eV."""


class GPDimer(Method):
    """GP-dimer as published (JCTC 2025, arXiv 2505.12519); defaults are the benchmark's values.

    Unless they are set, start.direction is random_lowest_coordination and start.random_displacement 0.01.
    """

    algorithm: Literal["gp-dimer"] = "gp-dimer"
    start: Start = AT_RANDOM
    """Start direction and displacement."""
    separation: Annotated[float, Field(gt=0)] = 0.01
    """Distance between midpoint and image in Angstrom."""
    noise_variance: Annotated[float, Field(gt=0)] = 1e-5
    """Added to every diagonal entry: eV^2 and (eV/Angstrom)^2."""
    prior_degrees_of_freedom: Annotated[float, Field(gt=0)] = 28.0
    """Student-t prior of the signal standard deviation."""
    initial_rotation_angle: Annotated[float, Field(gt=0)] = 0.0873
    """Initial rotations stop below this angle, rad."""
    max_initial_rotations: Annotated[int, Field(ge=0)] = 6
    """Initial rotations on the true surface at most."""
    keep_evaluated_direction: bool = False
    """Where the surrogate wants no turn at all in a later initial rotation, go on along the direction that
    was evaluated last (published: along the start direction again)."""
    rotation_tolerance: Annotated[float, Field(gt=0)] = 0.01
    """Angle at which a rotation on the surrogate stops, rad."""
    max_rotations: Annotated[int, Field(ge=0)] = 10
    """Rotations on the surrogate a step at most."""
    max_outer_iterations: Annotated[int, Field(ge=1)] = 300
    """Relaxation phases at most."""
    max_inner_iterations: Annotated[int, Field(ge=1)] = 200
    """Steps of one relaxation phase on the surrogate at most."""
    continue_unfinished_phases: bool = False
    """After a phase that used up its steps begin the next one where it stopped (published: where the last
    converged phase ended, as after a phase that stopped early)."""
    surrogate_threshold_divisor: Annotated[float, Field(gt=0)] = 10.0
    """A phase converges the surrogate to the last true force (and the final threshold) over this."""
    distance_ratio_limit: Annotated[float, Field(gt=0, lt=1)] = 2.0 / 3.0
    """A phase stops where no observation has all distances within this ratio (or its inverse)."""
    max_step: Annotated[float, Field(gt=0)] = 0.05
    """Length of one inner step at most (2-norm), Angstrom."""
    convex_step: Annotated[float, Field(gt=0)] = 0.1
    """Step along the mode while the curvature is positive, Angstrom."""
    remove_rigid_motion: bool = False
    """Project translations and rotations out of the inner steps (published: off)."""
    memory_after_limited_step: bool = False
    """Go on with L-BFGS after a step that was shortened because atoms are near (published: it has no memory
    until the next phase)."""
    internal_mode: bool = False
    """Keep the mode free of translations and rotations. Published: off; then, where all internal modes are
    convex, the mode becomes a rotation of the whole molecule and a phase spends its steps on turning it."""
    refuse_rising_rotations: bool = False
    """End the rotations on the surrogate before one that raises the curvature (published: accept it)."""
    refuse_repeated_points: bool = False
    """A phase that ends where the surface was evaluated before goes on with a tighter threshold, and if that
    does not help the search has stalled (published: the point is evaluated again)."""
    failure_retries: Annotated[int, Field(ge=0)] = 0
    """Where a point has no SCF solution, try half-way to the nearest observation up to so often (published:
    the search ends)."""
    trust: Literal["distance_ratio", "transport", "none"] = "distance_ratio"
    """When a phase stops early. distance_ratio: see distance_ratio_limit; transport: where the transport
    distance to all observations exceeds the trust radius; none: never."""
    transport_combination: Literal["maximum", "sum"] = "maximum"
    """Over the elements, of the mean displacements that make the transport distance."""
    adaptive_trust_radius: bool = True
    """Grow the trust radius of trust: transport with the number of observations."""
    trust_radius: Annotated[float, Field(gt=0)] = 0.4
    """Where it is not adaptive, Angstrom."""
    trust_radius_start: Annotated[float, Field(gt=0)] = 0.15
    """Adaptive radius without data, Angstrom."""
    trust_radius_growth: Annotated[float, Field(ge=0)] = 0.35
    """What many observations add to it, Angstrom."""
    trust_radius_half: Annotated[float, Field(gt=0)] = 50.0
    """Observations that add half of it."""
    trust_radius_floor: Annotated[float, Field(gt=0)] = 0.25
    """The cap of the adaptive radius is at least this, Angstrom."""
    trust_radius_per_atom: Annotated[float, Field(gt=0)] = 1.3
    """And at least this over the square root of the number of atoms, Angstrom."""
    fit_every: Annotated[int, Field(ge=1)] = 1
    """Phases from one fit of the hyperparameters to the next; between them new observations are added to the
    factorised covariance by bordering."""
    fit_subset: Annotated[int, Field(ge=0)] = 0
    """Observations that the hyperparameters are fitted to, farthest points first; 0: all. It caps the cost of
    a fit, which grows with the third power of their number."""
    fit_subset_latest: Annotated[int, Field(ge=1)] = 2
    """The newest ones always belong to the subset."""
    fit_subset_max: Annotated[int, Field(ge=1)] = 30
    """Oscillation detection lets the subset grow up to this."""
    oscillation_detection: bool = False
    """Let the subset grow by two, and fit again, when the hyperparameters swing from fit to fit."""
    oscillation_window: Annotated[int, Field(ge=3)] = 6
    """Fits that are looked at together."""
    oscillation_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of possible changes of direction above which they swing."""
    signal_barrier: bool = False
    """Logarithmic barrier on the signal variance."""
    signal_variance_limit: Annotated[float, Field(gt=0)] = 2.0
    """Where the barrier is infinite, eV^2."""
    barrier_strength: Annotated[float, Field(ge=0)] = 1e-4
    """Of the barrier without data."""
    barrier_growth: Annotated[float, Field(ge=0)] = 1e-3
    """What each fitted observation adds to it, per atom."""
    barrier_strength_max: Annotated[float, Field(ge=0)] = 0.5
    """It grows no further."""
    barrier_start_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A fit starts at most at this fraction of the limit. 1: where the last one ended, as published."""
    fit_max_iterations: Annotated[int, Field(ge=1)] = 400
    """Scaled-conjugate-gradient iterations of one fit at most."""
    fit_step_tolerance: Annotated[float, Field(gt=0)] = 1e-2
    """A fit ends when no log-parameter moves further."""
    fit_objective_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Or when the objective changes less."""


class OTGPDimer(GPDimer):
    """GP-dimer with optimal transport as published (ChemPhysChem 2025, arXiv 2510.06030).

    Settings are those of gp-dimer with other defaults; unless they are set, start.direction is
    xtb_lowest_vibration and start.displacement 0.01.
    """

    algorithm: Literal["ot-gp-dimer"] = "ot-gp-dimer"
    start: Start = Start(direction="xtb_lowest_vibration", displacement=0.01)
    """Start direction and displacement."""
    prior_degrees_of_freedom: Annotated[float, Field(gt=0)] | None = None
    """Student-t prior of the signal standard deviation; null: max(28, 2 + U (U + 1)) for U elements."""
    rotation_tolerance: Annotated[float, Field(gt=0)] = 0.1
    """Angle at which a rotation on the surrogate stops, rad."""
    remove_rigid_motion: bool = True
    """Project translations and rotations out of the inner steps (published: on)."""
    trust: Literal["distance_ratio", "transport", "none"] = "transport"
    """When a phase stops early. transport: where the transport distance to all observations exceeds the
    trust radius; distance_ratio: see distance_ratio_limit; none: never."""
    fit_subset: Annotated[int, Field(ge=0)] = 10
    """Observations that the hyperparameters are fitted to, farthest points first; 0: all."""
    oscillation_detection: bool = True
    """Let the subset grow by two, and fit again, when the hyperparameters swing from fit to fit."""
    signal_barrier: bool = True
    """Logarithmic barrier on the signal variance."""
    fit_objective_tolerance: Annotated[float, Field(gt=0)] = 1e-2
    """A fit ends when the objective changes less."""


SPARROW_METHODS = ("PM3", "PM6", "DFTB3", "AM1", "RM1", "MNDO")
"""Those of SCINE Sparrow that a prior can name."""
_SURFACE = f"({'|'.join(('GFN1-xTB', 'GFN2-xTB', *SPARROW_METHODS))})"
_PRIOR = rf"^(auto|constant|{_SURFACE}(\+{_SURFACE})*)$"


class PriorGPDimer(Method):
    """Saddle search on a Gaussian process that corrects cheap semiempirical surfaces: the fewest calls."""

    algorithm: Literal["prior-gp-dimer"] = "prior-gp-dimer"
    max_calls: Annotated[int, Field(ge=1)] = 150
    """Budget of engine calls, restarts and the fallback included."""
    go_on: Annotated[int, Field(ge=0)] = 1
    """Look for a lower electronic state and prove the number of negative modes where the search converges
    (some 7 calls, which the verification need not make again), and search on from there so often."""
    prior: Annotated[str, Field(pattern=_PRIOR)] = "auto"
    """Cheap surfaces that the Gaussian process corrects, joined by +: GFN1-xTB, GFN2-xTB, PM3, PM6, DFTB3,
    AM1, RM1, MNDO; or constant; or auto: GFN2-xTB+PM6+DFTB3 (without Sparrow GFN1-xTB+GFN2-xTB), as far
    as they can be had."""
    surface_parameters: str = "auto"
    """published: those of the authors; auto: for closed shells, once forces are below 0.5 eV/Angstrom,
    GFN2-xTB and PM6 with parameters fitted to forces of the level of theory, where saddleflow has some
    (HF/3-21G; H, C, O), else published; or a file of such ones. Only with prior auto, and not with a learned
    prior."""
    learned_prior: str = ""
    """File of what finished searches taught (saddleflow learn); empty: none. It must be of the same level of
    theory and surfaces, and have seen all elements."""
    prior_weight_sigma: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of the weight of each surface about their equal shares."""
    decay_length: Annotated[float, Field(gt=0)] = 1.0
    """a of the kernel's features exp(-(r - b) / a), b the sum of the covalent radii, Angstrom."""
    length_scale: Annotated[float, Field(gt=0)] = 0.6
    """Of the kernel on these features (no unit)."""
    energy_noise: Annotated[float, Field(gt=0)] = 2e-4
    """Standard deviation of energies, eV."""
    gradient_noise: Annotated[float, Field(gt=0)] = 1e-3
    """Standard deviation of gradient components, eV/Angstrom."""
    observations: Annotated[int, Field(ge=1)] = 6
    """Newest evaluations, beside the one where a phase begins, that the surrogate is conditioned on: far ones
    tell little, and mislead where electronic states cross."""
    trusted_error: Annotated[float, Field(gt=0)] = 1.0
    """A phase ends where the expected error of the predicted gradient is more than this times the force
    before."""
    max_trust_radius: Annotated[float, Field(gt=0)] = 0.8
    """Largest motion of an atom from one evaluation to the next, Angstrom."""
    min_trust_radius: Annotated[float, Field(gt=0)] = 0.05
    """So far an atom may move whatever the expected error, Angstrom."""
    max_atom_step: Annotated[float, Field(gt=0)] = 0.12
    """Largest motion of an atom in one step on the surrogate, Angstrom."""
    max_inner_steps: Annotated[int, Field(ge=1)] = 60
    """Steps on the surrogate between two evaluations at most."""
    hessian_rebuild_distance: Annotated[float, Field(gt=0)] = 0.12
    """Where an atom has moved by more than this (Angstrom) the softest modes of the prior's Hessian are
    checked and corrected, or it is made anew.  At 0.3 it said that ridges were there which had ended."""
    relaxation_distance: Annotated[float, Field(ge=0)] = 0.5
    """Before the first evaluation the strain of the guess relaxes on the prior by at most this, Angstrom."""
    relaxation_stiffness: Annotated[float, Field(gt=0)] = 5.0
    """Only modes stiffer than this relax, so that the reaction coordinate stays, eV/Angstrom^2."""
    relaxation_force: Annotated[float, Field(gt=0)] = 0.5
    """Then the guess goes up its ridge on the prior until no atom has a larger force, eV/Angstrom, within the
    same distance. 1000: it does not."""
    patience: Annotated[int, Field(ge=1)] = 15
    """Calls of each of four walks at most; then the published GP-dimer takes over."""
    energy_limit: Annotated[float, Field(gt=0)] = 10.0
    """That one stops where the energy lies so far above its start, eV."""
    dissociation_gap: Annotated[float, Field(gt=0)] | None = 6.0
    """Stop where two parts of the molecule are further apart than this, and than at the start plus half of
    it, Angstrom; null: never. No saddle of the molecule comes after that."""

    @property
    def starts_along_direction(self) -> bool:
        """A direction that takes an xTB Hessian waits until the published search needs it."""
        return not self.start.direction.startswith("xtb_") or self.start.displacement > 0.0


class Sella(Method):
    """Sella's restricted-step P-RFO (package sella, an optional extra), its own defaults."""

    uses_direction: ClassVar[bool] = False
    package: ClassVar[str] = "sella"

    algorithm: Literal["sella"] = "sella"
    internal: bool = True
    """Internal coordinates; false: Cartesian ones."""
    initial_hessian: Literal["model", "xtb"] = "model"
    """model: Sella's guess, improved by probes on the true surface; xtb: GFN2-xTB, without probes."""
    trust_radius: Annotated[float, Field(gt=0)] = 0.1
    """First trust radius, in the units of the coordinates (Angstrom, rad)."""
    probe_step: Annotated[float, Field(gt=0)] = 1e-4
    """Displacement of a probe of the Hessian, Angstrom."""
    eigensolver_tolerance: Annotated[float, Field(gt=0)] = 0.1
    """Relative residual at which the probes end."""
    central_differences: bool = False
    """Two evaluations a probe instead of one."""
    steps_between_probes: Annotated[int, Field(ge=1)] = 3
    """Steps at least before the lowest mode is probed again, once it is lost."""
    max_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps at most."""


class SellaXTB(Sella):
    """Sella started from a GFN2-xTB Hessian."""

    algorithm: Literal["sella-xtb"] = "sella-xtb"
    initial_hessian: Literal["model", "xtb"] = "xtb"
    """model: Sella's guess, improved by probes on the true surface; xtb: GFN2-xTB, without probes."""


AnyMethod = Annotated[
    Dimer | GPDimer | OTGPDimer | PriorGPDimer | Sella | SellaXTB, Field(discriminator="algorithm")
]
"""Any search method, told apart by ``algorithm``; a new search adds its model here."""
