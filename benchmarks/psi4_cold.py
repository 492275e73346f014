"""Cold Psi4 as a user would call it, and tight references: the other half of engine_calls.py.

Runs in Psi4's own interpreter: ``psi4_cold.py psi4_worker.py SETTINGS``, JSON lines in and out as the worker.
"""

import importlib.util
import json
import os
import sys

worker_path, settings = sys.argv[1], json.loads(sys.argv[2])
spec = importlib.util.spec_from_file_location("psi4_worker", worker_path)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
requests, answers = worker.private_pipes()
server = worker.Server(settings)
psi4, core = server.psi4, server.core


def cold(request):
    """psi4.gradient with atomic densities, DIIS, exact integrals and Psi4's own screening, at 1e-8."""
    lines = [
        f"{request['charge']} {request['multiplicity']}",
        "units bohr",
        "symmetry c1",
        "no_com",
        "no_reorient",
    ]
    positions = iter(request["positions"])
    lines += [
        f"{symbol} {next(positions)!r} {next(positions)!r} {next(positions)!r}"
        for symbol in request["symbols"]
    ]
    core.clean_options()
    psi4.set_options(
        {
            "basis": request["basis"],
            "scf_type": "pk",
            "reference": "rhf" if request["multiplicity"] == 1 else "uhf",
            "guess": "sad",
            "e_convergence": 1e-8,
            "d_convergence": 1e-8,
            "maxiter": 100,
        }
    )
    molecule = psi4.geometry("\n".join(lines))
    gradient, wavefunction = psi4.gradient("hf", molecule=molecule, return_wfn=True)
    return {"energy": wavefunction.energy(), "gradient": gradient.np.ravel().tolist()}


def tight(request):
    """The worker's own call, started from given orbitals, with everything tight."""
    server.scf.TIGHT = (1e-11, 1e-10)
    core.clean_options()
    server.settings |= {"ints_tolerance": 1e-14, "gradient_ints_tolerance": 1e-14}
    core.set_global_option("SCF_TYPE", "pk")
    return server.call_evaluate(request)


answers.write(json.dumps({"result": server.psi4.__version__}) + "\n")
answers.flush()
for line in requests:
    asked = json.loads(line)
    try:
        answer = {"result": {"cold": cold, "tight": tight}[asked["call"]](asked)}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": worker.first_line(error)}
    core.clean()
    core.clean_variables()
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
os._exit(0)
