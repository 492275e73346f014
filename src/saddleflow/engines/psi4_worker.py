"""Psi4 as a server on its standard input and output; run by Psi4's own interpreter, imports no saddleflow.

One JSON object a line in, one a line out.  Every call carries all it depends on (geometry, previous
orbitals), so a new process gives the same numbers as an old one.  Atomic units.

    python psi4_worker.py '{"module_directory": "", "memory_mb": 1000, "threads": 1, "parent": 4711}'
"""

# ruff: noqa: B905 - the interpreter may be older than zip(strict=)
from __future__ import annotations

import base64
import ctypes
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import traceback

PR_SET_PDEATHSIG = 1
FAILURES = {
    "SCFConvergenceError": "scf",
    "ValidationError": "input",
    "BasisSetNotFound": "input",
}


class CallError(Exception):
    """A failure with a known kind: ``scf``, ``geometry`` or ``input``."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def die_with_parent(parent):
    """Be killed when the parent dies (Linux); end of input does it elsewhere."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def limit_memory(memory_mb):
    """Let a runaway allocation fail here instead of taking the machine down (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    # Psi4 keeps to memory_mb for its tensors; libraries, threads' stacks and buffers come on top.
    limit = 2 * memory_mb * 10**6 + 4 * 10**9
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def private_pipes():
    """Keep the protocol's two ends for ourselves; what Psi4 prints goes to standard error."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return requests, answers


class Server:
    """The calls of the protocol."""

    def __init__(self, settings):
        # Beside this script lies a module named psi4 as well: never import from its folder.
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != here]
        if settings["module_directory"]:
            sys.path.insert(0, settings["module_directory"])
        import numpy
        import psi4
        from psi4.driver.procrouting import proc

        self.numpy, self.psi4, self.core, self.proc = numpy, psi4, psi4.core, proc
        folder = os.path.join(here, "scf")
        spec = importlib.util.spec_from_file_location(
            "saddleflow_scf", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        self.scf = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.scf)
        remember_basis_sets(getattr(psi4.driver, "qcdb", None))
        self.core.be_quiet()
        self.core.set_num_threads(settings["threads"])
        self.core.set_memory_bytes(settings["memory_mb"] * 10**6, True)
        energy, gradient = self.scf.TIGHT
        self.settings = {
            "scf_type": "pk",
            # Schwarz bounds of what is left out: the errors in docs/engines.md.
            "ints_tolerance": 1e-8,
            "gradient_ints_tolerance": 3e-8,
            "e_convergence": energy,
            "d_convergence": gradient,
            # Non-local correlation in every iteration: the iterations here know no step after them.
            "dft_vv10_postscf": False,
        }
        for name, value in self.settings.items():
            if name != "gradient_ints_tolerance":
                self.core.set_global_option(name.upper(), value)

    def call_probe(self, request):
        """Versions, and proof that arrays survive the way through Psi4 (they don't under a foreign NumPy)."""
        there = self.numpy.arange(12.0).reshape(3, 4)
        back = self.numpy.array(self.core.Matrix.from_array(there))
        if back.shape != there.shape or not (back == there).all():
            raise CallError("input", "psi4 garbles arrays: it was built for another NumPy than it runs with")
        return {
            "psi4": self.psi4.__version__,
            "python": sys.version.split()[0],
            "numpy": self.numpy.__version__,
            "settings": self.settings,
        }

    def call_check(self, request):
        """Whether the method is known and the basis covers the elements: list of problems."""
        problems, without = [], []
        for symbol in request["symbols"]:
            try:
                molecule = self.core.Molecule.from_arrays(geom=[0.0, 0.0, 0.0], elem=[symbol], units="Bohr")
            except Exception as error:
                problems.append(f"program: psi4 does not take the element {symbol}: {first_line(error)}")
                continue
            molecule.update_geometry()
            try:
                self.core.BasisSet.build(molecule, "ORBITAL", request["basis"], quiet=True)
            except Exception as error:
                if type(error).__name__ == "BasisSetNotFound":
                    without.append(symbol)
                else:
                    problems.append(f"basis: {request['basis']!r} for {symbol}: {first_line(error)}")
        if without:
            problems.append(
                f"basis: psi4 has no {request['basis']!r} for {', '.join(without)}; "
                "write another basis set, such as 3-21g or def2-svp"
            )
        try:
            self.proc.dft.build_superfunctional(scf_name(request["method"]), True)
        except Exception as error:
            problems.append(f"method: psi4 knows no {request['method']!r} ({first_line(error)})")
        return {"problems": problems}

    def wavefunction(self, request, guess):
        """Molecule, basis and integrals; `guess` CORE is the cheap one when orbitals are at hand."""
        numpy, core = self.numpy, self.core
        molecule = core.Molecule.from_arrays(
            geom=numpy.array(request["positions"], float).ravel(),
            elem=list(request["symbols"]),
            units="Bohr",
            fix_com=True,
            fix_orientation=True,
            fix_symmetry="c1",
            molecular_charge=request["charge"],
            molecular_multiplicity=request["multiplicity"],
        )
        molecule.update_geometry()
        name = scf_name(request["method"])
        restricted = request["multiplicity"] == 1
        reference = ("R" if restricted else "U") + ("HF" if name == "scf" else "KS")
        core.set_global_option("BASIS", request["basis"])
        core.set_global_option("REFERENCE", reference)
        core.set_global_option("GUESS", guess)
        core.set_global_option("INTS_TOLERANCE", self.settings["ints_tolerance"])
        base = core.Wavefunction.build(molecule, request["basis"])
        wavefunction = self.proc.scf_wavefunction_factory(name, base, reference)
        if hasattr(wavefunction, "_disp_functor"):
            compute = wavefunction._disp_functor.compute_energy
            # Psi4 1.4 and newer hand over the wave function as well.
            more = (wavefunction,) if len(inspect.signature(compute).parameters) > 1 else ()
            wavefunction.set_variable("-D Energy", compute(molecule, *more))
        wavefunction.initialize()
        return wavefunction, restricted

    def solve(self, request):
        """Converged SCF at the geometry of the request."""
        state = request.get("state")
        # The atomic densities have to be made before anything else; without previous orbitals only.
        wavefunction, restricted = self.wavefunction(request, "CORE" if state else "SAD")
        atomic = None if state else self.sad_fock(wavefunction)
        field = psi4_field(self.scf, self.numpy, wavefunction, restricted)
        previous = self.scf.unpack(base64.b64decode(state)) if state else None
        solution, notes = self.scf.solve(field, atomic, previous, request["multi_start"])
        if solution is None and state:
            wavefunction.finalize()
            self.core.clean()
            answer = self.solve({**request, "state": ""})
            answer[-1]["scf_previous_failed"] = True
            return answer
        if solution is None:
            starts = notes.get("scf_starts", 1)
            raise CallError("scf", f"the SCF does not converge from any of {starts} starts")
        return wavefunction, field, solution, notes

    def sad_fock(self, wavefunction):
        """Fock matrices of the superposition of atomic densities, as Psi4 makes them."""
        wavefunction.form_G()
        wavefunction.form_initial_F()
        fock = [self.numpy.array(matrix) for matrix in (wavefunction.Fa(), wavefunction.Fb())]
        # Psi4 stores the atomic densities as too many orbitals; only this restores the electron count.
        wavefunction.form_initial_C()
        wavefunction.reset_occupation()
        wavefunction.find_occupation()
        return fock

    def accept(self, wavefunction, solution):
        """Hand the converged orbitals to Psi4 for the derivatives."""
        numpy = self.numpy
        spins = ((wavefunction.Ca(), wavefunction.epsilon_a()), (wavefunction.Cb(), wavefunction.epsilon_b()))
        for (matrix, vector), (values, coefficients) in zip(spins, solution.orbitals):
            numpy.asarray(matrix)[:] = coefficients
            numpy.asarray(vector)[:] = values
        wavefunction.form_D()
        wavefunction.set_energies("Total Energy", solution.energy)
        wavefunction.finalize()

    def call_evaluate(self, request):
        """Energy and gradient."""
        wavefunction, field, solution, notes = self.solve(request)
        state = base64.b64encode(self.scf.pack(field.to_orthogonal(solution.occupied))).decode("ascii")
        self.accept(wavefunction, solution)
        self.core.set_global_option("INTS_TOLERANCE", self.settings["gradient_ints_tolerance"])
        done = self.proc.run_scf_gradient(scf_name(request["method"]), ref_wfn=wavefunction)
        gradient = self.numpy.array(done.gradient()).ravel()
        if not self.numpy.isfinite(gradient).all():
            raise CallError("scf", "the gradient holds numbers that are not finite")
        return {
            "energy": solution.energy,
            "gradient": gradient.tolist(),
            "iterations": field.builds,
            "spin_square": field.spin_square(solution.occupied),
            "state": state,
            "notes": notes,
        }

    def call_hessian(self, request):
        """Analytic Hessian, or null where this Psi4 has none for the reference."""
        wavefunction, _, solution, _ = self.solve(request)
        self.accept(wavefunction, solution)
        try:
            done = self.proc.run_scf_hessian(scf_name(request["method"]), ref_wfn=wavefunction)
        except self.psi4.ValidationError:
            return {"hessian": None}
        return {"hessian": self.numpy.array(done.hessian()).ravel().tolist()}

    def answer(self, request):
        """Result or error of one call, and Psi4's scratch cleaned whatever happened."""
        try:
            return {"result": getattr(self, "call_" + request["call"])(request)}
        except CallError as error:
            return {"error": error.kind, "message": str(error)}
        except Exception as error:
            kind = FAILURES.get(type(error).__name__, "crash")
            if kind == "input" and "close" in str(error):
                kind = "geometry"
            elif "cannot compute" in str(error):
                # Such as the gradient of non-local correlation: the level has to change.
                kind = "input"
            return {"error": kind, "message": first_line(error), "traceback": traceback.format_exc()}
        finally:
            self.core.clean()
            self.core.clean_variables()


def scf_name(method):
    """Psi4's name of the level: Hartree-Fock is the functional ``scf``."""
    return "scf" if method.lower() in ("hf", "rhf", "uhf", "scf") else method.lower()


def remember_basis_sets(qcdb):
    """Read a molecule's basis set from Psi4's library once, not at every geometry."""
    construct = getattr(getattr(qcdb, "BasisSet", None), "pyconstruct", None)
    if construct is None:
        return
    kept = {}

    def remembered(molecule, *arguments, **options):
        if not isinstance(molecule, dict) or options.get("return_atomlist") or not options.get("return_dict"):
            return construct(molecule, *arguments, **options)
        atoms = [[str(entry) for entry in molecule.get(key, ())] for key in ("elem", "elbl", "real")]
        question = repr((atoms, arguments, sorted(options.items())))
        if question not in kept:
            kept[question] = construct(molecule, *arguments, **options)
        basis, shells = kept[question]
        return basis, dict(shells)

    qcdb.BasisSet.pyconstruct = staticmethod(remembered)


def first_line(error):
    """Type and first telling line of an exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:300]


def psi4_field(scf, numpy, wavefunction, restricted):
    """Field of an initialised Psi4 wave function (scf.Field, which this script loads late)."""

    class Psi4Field(scf.Field):
        def fock(self, occupied):
            for matrix, orbitals in zip((wavefunction.Ca(), wavefunction.Cb()), occupied):
                numpy.asarray(matrix)[:, : orbitals.shape[1]] = orbitals
            wavefunction.form_D()
            wavefunction.form_G()
            wavefunction.form_F()
            energy = wavefunction.compute_E()
            matrices = (wavefunction.Fa(), wavefunction.Fb())[: len(self.spins)]
            return energy, [numpy.array(matrix) for matrix in matrices]

    return Psi4Field(
        numpy.array(wavefunction.S()),
        numpy.array(wavefunction.H()),
        (wavefunction.nalpha(), wavefunction.nbeta()),
        restricted,
        # Psi4 itself decided how many functions are linearly independent.
        numpy.asarray(wavefunction.Ca()).shape[1],
    )


def main():
    """Serve until the input ends."""
    settings = json.loads(sys.argv[1])
    die_with_parent(settings["parent"])
    limit_memory(settings["memory_mb"])
    requests, answers = private_pipes()
    try:
        server = Server(settings)
    except Exception as error:
        server = None
        greeting = {"error": "input", "message": first_line(error)}
    else:
        greeting = server.answer({"call": "probe"})
    answers.write(json.dumps(greeting) + "\n")
    answers.flush()
    if server is not None:
        for line in requests:
            answers.write(json.dumps(server.answer(json.loads(line))) + "\n")
            answers.flush()
    # Psi4 aborts in its destructors after a failed SCF; there is nothing left to tidy up.
    os._exit(0)


if __name__ == "__main__":
    main()
