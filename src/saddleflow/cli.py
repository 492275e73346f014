"""The command line: each command calls one function of the package.

Modules are imported by the command that needs them, so that ``saddleflow --help`` and the jobs of a large set
start at once.  This is the edge where errors become one line each on standard error and an exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from saddleflow import __version__
from saddleflow.errors import InputError, SaddleflowError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

DEFAULT_CONFIG = "config/config.yaml"
INTERRUPTED = 130


def _results(path: Path) -> Path:
    """Return the results folder: the path itself, or what the configuration file at it says."""
    if not path.is_file():
        return path
    from saddleflow.preflight import load_settings

    return Path(load_settings(path).results)


def _check(arguments: argparse.Namespace) -> int:
    from saddleflow.preflight import check, collected_notes, describe, read_configuration

    configuration = read_configuration(Path(arguments.config))
    with collected_notes() as notes:
        plan = check(configuration)
    print("\n".join([*notes, describe(plan, configuration.settings)]))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from saddleflow.doctor import report
    from saddleflow.preflight import load_settings

    config = arguments.config or (Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).is_file() else None)
    print(report(load_settings(config).engine if config else None))
    return 0


def _read_json(path: Path, what: str) -> dict:
    """Content of one of the files that preflight writes."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); it should be {what}") from None
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}); it should be {what}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds no JSON object; it should be {what}")
    return data


def _search(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from saddleflow.progress import live_line
    from saddleflow.reaction import Reaction
    from saddleflow.run import run_search
    from saddleflow.settings import Convergence

    reaction = _read_json(arguments.reaction, "a file of results/inputs/reactions")
    method = _read_json(arguments.method, "a file of results/inputs/methods")
    try:
        Reaction.from_dict(reaction)
        convergence = Convergence.model_validate(method["method"].get("convergence", {}))
        progress = live_line(reaction["name"], method["name"], convergence)
        outcome = run_search(
            arguments.reaction,
            arguments.method,
            arguments.output,
            arguments.journal,
            progress=progress,
            learned_prior=arguments.learned_prior,
        )
    except (KeyError, ValidationError) as error:
        wrong = f"lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(
            f"{arguments.reaction}, {arguments.method}: not as `saddleflow check` writes them ({wrong}); "
            "start snakemake again, it writes them anew"
        ) from None
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{reaction['name']} {method['name']}: {outcome} -> {arguments.output}")
    return 0


def _learn(arguments: argparse.Namespace) -> int:
    from saddleflow.learn import learned_from, run_files
    from saddleflow.surrogate.learned_prior import write_learned_prior

    paths = run_files(arguments.source)
    if not paths:
        raise InputError(f"{arguments.source[0]}: no run files here; name run files or the folder of a run")
    learned = learned_from(paths, arguments.prior, arguments.method)
    write_learned_prior(arguments.output, learned)
    print(
        f"{learned.level}, {'+'.join(learned.surfaces)}: learned from {learned.evaluations} evaluations of "
        f"{len(learned.reactions)} reactions -> {arguments.output}"
    )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from saddleflow.settings import Verification
    from saddleflow.settings_resolution import problems_of
    from saddleflow.verification import verify
    from saddleflow.verification_file import read_verification

    data = _read_json(arguments.settings, "results/inputs/verification.json")
    try:
        settings = Verification.model_validate(data)
    except ValidationError as error:
        found = problems_of(error, Verification)
        raise InputError([f"{arguments.settings}: {problem}" for problem in found]) from None
    verify(arguments.run_file, settings, arguments.output, arguments.journal)
    result = read_verification(arguments.output)
    reason = f" ({result.reason})" if result.reason else ""
    print(f"{arguments.run_file}: verification {result.status}{reason} -> {arguments.output}")
    return 0


def _summarise(arguments: argparse.Namespace) -> int:
    from saddleflow.analysis.table import summarise, write_summary

    results = _results(arguments.results)
    frame = summarise(results)
    if frame.empty:
        raise InputError(f"{results}: no run was started here; name the results folder of a run")
    for path in write_summary(frame, results):
        print(path)
    return 0


def _figures(arguments: argparse.Namespace) -> int:
    from saddleflow.analysis.figures import draw_figures

    results = _results(arguments.results)
    for path in draw_figures(results / "summary.csv", results, arguments.to or results / "figures"):
        print(path)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from saddleflow.analysis.comparison import compare
    from saddleflow.analysis.comparison_text import as_text, write_tables
    from saddleflow.analysis.leaderboard import write_page

    results = _results(arguments.results)
    if arguments.bayes:
        from saddleflow.analysis import bayesian

        bayesian.require_pymc()
    comparison = compare(results, arguments.published, arguments.budget, arguments.seed)
    folder = arguments.to or results / "comparison"
    print(as_text(comparison), end="\n\n")
    written = [*write_tables(comparison, folder), write_page(comparison, folder / "leaderboard.html")]
    if arguments.bayes:
        model = bayesian.calls_model(comparison.costs(), comparison.facts["budget"], arguments.seed)
        print(bayesian.as_text(model), end="\n\n")
        written.append(bayesian.write_model(model, folder / "bayesian.json"))
    for path in written:
        print(path)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from saddleflow import progress

    results = _results(arguments.results)
    if arguments.watch:
        progress.watch(results, arguments.interval, everything=arguments.all)
    else:
        print(progress.status(results, everything=arguments.all))
    return 0


def _where(arguments: argparse.Namespace) -> int:
    results = _results(arguments.results)
    if not results.is_dir():
        raise InputError(f"{results}: no such folder; name the results folder of a run")
    for what, pattern in (
        ("table", "summary.csv"),
        ("table (Parquet)", "summary.parquet"),
        ("figures", "figures/*.svg"),
        ("run files", "searches/*/*.h5"),
        ("saddles", "searches/*/*.xyz"),
        ("verifications", "verifications/*/*.h5"),
        ("logs", "logs/**/*.log"),
    ):
        found = sorted(results.glob(pattern))
        if not found:
            print(f"{what:16} none yet")
        elif len(found) == 1:
            print(f"{what:16} {found[0]}")
        else:
            print(f"{what:16} {results / pattern} ({len(found)} files)")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from saddleflow.analysis.export import export

    for path in export(arguments.run_file, arguments.format, arguments.to):
        print(path)
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from saddleflow.run_file import validate_run_file

    faulty = 0
    for path in arguments.run_file:
        problems = validate_run_file(path)
        faulty += bool(problems)
        for problem in problems:
            text = problem if problem.startswith(str(path)) else f"{path}: {problem}"
            print(f"saddleflow: error: {text}", file=sys.stderr)
        if not problems:
            print(f"{path}: valid")
    return 1 if faulty else 0


def _fetch(arguments: argparse.Namespace) -> int:
    from saddleflow.datasets import fetch

    print(fetch(arguments.dataset))
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from saddleflow.settings_documents import FIX, differences, write_documents

    if arguments.check:
        difference = differences(arguments.to)
        if difference:
            print(difference)
            print(f"saddleflow: error: {arguments.to} is out of date; run `{FIX}`", file=sys.stderr)
        return 1 if difference else 0
    changed = write_documents(arguments.to)
    print("\n".join(str(path) for path in changed) if changed else f"{arguments.to}: up to date")
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="saddleflow",
        description="Transition-state searches for whole reaction sets. Run sets with snakemake.",
    )
    top.add_argument("--version", action="version", version=f"saddleflow {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, call: Callable[[argparse.Namespace], int], text: str
    ) -> tuple[argparse.ArgumentParser, Callable[..., argparse.Action]]:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(call=call)
        return added, added.add_argument

    def results(add: Callable[..., argparse.Action], optional: bool = False) -> None:
        kind = {"nargs": "?", "default": Path("results")} if optional else {}
        add(
            "results",
            metavar="RESULTS",
            type=Path,
            help="results folder, or the configuration file that names it",
            **kind,
        )

    _, add = command(
        "check", _check, "check reactions, settings and engine of a configuration, without running"
    )
    add("config", nargs="?", default=DEFAULT_CONFIG, metavar="CONFIG", help=f"YAML file ({DEFAULT_CONFIG})")
    _, add = command("doctor", _doctor, "say what is installed, what is missing, and how to get it")
    help_config = f"YAML file whose engine is wanted ({DEFAULT_CONFIG} if there is one)"
    add("config", nargs="?", type=Path, metavar="CONFIG", help=help_config)
    _, add = command("status", _status, "how far a run is: calls, forces, outcomes, time left")
    results(add, optional=True)
    add("--watch", action="store_true", help="show it again and again until every search is done")
    add("--interval", type=float, default=5.0, metavar="SECONDS", help="pause between two looks (5)")
    add("--all", action="store_true", help="show every search also of a large set")
    _, add = command("where", _where, "where the table, the figures and the run files are")
    results(add, optional=True)
    _, add = command("summarise", _summarise, "make the table, also of a partly finished set")
    results(add)
    _, add = command("figures", _figures, "draw the figures from the table")
    results(add)
    add("--to", type=Path, metavar="DIR", help="folder of the figures (RESULTS/figures)")
    _, add = command("compare", _compare, "compare the methods, and with published results; writes one page")
    results(add)
    add(
        "--published", type=Path, metavar="CSV", help="table of published results (that of the configuration)"
    )
    add(
        "--budget",
        type=float,
        metavar="CALLS",
        help="more calls than this count as failed (no success is cut)",
    )
    add("--seed", type=int, default=0, help="of the bootstrap intervals and of the sampler (0)")
    add("--bayes", action="store_true", help="also a Bayesian model of the calls (needs the extra bayes)")
    add("--to", type=Path, metavar="DIR", help="folder of the tables and the page (RESULTS/comparison)")
    _, add = command("export", _export, "write a run file in other formats")
    add("run_file", metavar="RUNFILE", type=Path, help="run file (.h5)")
    add("--format", nargs="+", choices=("extxyz", "traj", "csv"), default=["extxyz"], help="formats (extxyz)")
    add("--to", type=Path, default=Path(), metavar="DIR", help="folder of the files (here)")
    _, add = command("validate", _validate, "check run files against their schema and against themselves")
    add("run_file", metavar="RUNFILE", type=Path, nargs="+", help="run file (.h5)")
    _, add = command("fetch", _fetch, "download a data set, with its checksum verified")
    add("dataset", metavar="DATASET", help="name in the table of data sets")
    _, add = command("search", _search, "one search, as a job runs it")
    add("--reaction", type=Path, required=True, metavar="JSON", help="results/inputs/reactions/NAME.json")
    add("--method", type=Path, required=True, metavar="JSON", help="results/inputs/methods/METHOD.json")
    add("--output", type=Path, required=True, metavar="H5", help="run file to write")
    add("--journal", type=Path, required=True, metavar="JSONL", help="journal; an interrupted search goes on")
    add("--learned-prior", type=Path, metavar="H5", help="what finished searches taught, for prior-gp-dimer")
    _, add = command("learn", _learn, "learn a prior for prior-gp-dimer from finished searches")
    add("source", metavar="SOURCE", type=Path, nargs="+", help="run files, or folders with run files")
    add("--output", type=Path, required=True, metavar="H5", help="file to write")
    add("--prior", default="auto", help="cheap surfaces that it corrects, joined by + (auto)")
    add("--method", default="", help="learn from the searches of this method only (all)")
    _, add = command("verify", _verify, "verify the saddle of one run file, as a job runs it")
    add("--run-file", type=Path, required=True, metavar="H5", help="run file of the search")
    add("--settings", type=Path, required=True, metavar="JSON", help="results/inputs/verification.json")
    add("--output", type=Path, required=True, metavar="H5", help="verification file to write")
    add("--journal", type=Path, required=True, metavar="JSONL", help="journal of the verification")
    _, add = command("schema", _schema, "generate the JSON schema and the documented default configuration")
    add("--check", action="store_true", help="only say whether they are in sync with the settings")
    add("--to", type=Path, default=Path("config"), metavar="DIR", help="folder of the files (config)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0, 1 (something failed), 2 (the input has to be changed), 130 (interrupted).
    """
    # One job has one core: threads of the linear algebra would only fight with those of other jobs.  Set
    # before NumPy is imported, which every command does later; a user's own value stays.
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    arguments = parser().parse_args(argv)
    try:
        code = arguments.call(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (such as `head`) has what it wanted; the interpreter must not flush into the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SaddleflowError as error:
        lines = getattr(error, "problems", None) or str(error).splitlines() or [type(error).__name__]
        for line in lines:
            print(f"saddleflow: error: {line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"saddleflow: error: {place}{error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
