"""Everything that can be known to be wrong is said before the first job, all of it at once.

``prepare_run`` is what the Snakefile calls: it checks a configuration and writes ``results/inputs/**``, whose
modification times tell Snakemake what to run again.  A file there changes only when what it means changes.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from saddleflow.errors import InputError, SaddleflowError
from saddleflow.preflight_checks import (
    direction_problems,
    engine_problems,
    fitted_problems,
    learned_problems,
    message_lines,
    published_problems,
    results_problems,
    sparrow_problems,
    xtb_problems,
)
from saddleflow.run_inputs import Plan, RunPlan, plan_from_inputs, write_inputs
from saddleflow.settings import Method, Settings
from saddleflow.settings_resolution import method_problems, problems_of
from saddleflow.settings_sources import Problem, SettingsFile, located, read_settings_file

if TYPE_CHECKING:
    from saddleflow.reaction import Reaction


NOTE_LENGTH = 400
"""Longer notes are cut on the screen; ``results/logs/preflight.log`` has them whole."""


@dataclass(frozen=True)
class Configuration:
    """Settings as far as they are usable, and what is wrong with the rest.

    Parameters
    ----------
    settings : Settings
        Sections that are wrong have their defaults here.
    broken : frozenset of str
        Top-level keys whose value is wrong; checks that need them are left out.
    problems : list of str
        One line each, with file and line where a file says it.
    given : mapping
        What was validated.
    files : list of SettingsFile
        Files it came from.
    elsewhere : str
        Where a value came from that is in none of the files.
    """

    settings: Settings
    broken: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)
    given: Any = None
    files: Sequence[SettingsFile] = ()
    elsewhere: str = ""

    def line(self, problem: Problem) -> str:
        """One line for the user."""
        return located(problem, self.given, self.files, self.elsewhere)


def read_configuration(
    source: Path | str | Mapping[str, Any], config_files: Sequence[Path | str] = ()
) -> Configuration:
    """Read settings and go on with what is right in them, so that all errors can be said at once.

    Parameters
    ----------
    source : path or mapping
        A YAML file, or settings that were read already (Snakemake's ``config``).
    config_files : sequence of paths
        For a mapping: the YAML files that it came from, for line numbers.  They are read again, which also
        finds doubled keys.

    Raises
    ------
    InputError
        When a file is unreadable, no YAML, or has doubled keys.
    """
    if isinstance(source, Mapping):
        files, faults = [], []
        for path in config_files:
            try:
                files.append(read_settings_file(Path(path)))
            except InputError as error:
                faults += error.problems
        if faults:
            raise InputError(faults)
        given: Mapping[str, Any] = dict(source)
        elsewhere = "--config" if files else ""
    else:
        files = [read_settings_file(Path(source))]
        given, elsewhere = files[0].data, ""
    try:
        return Configuration(Settings.model_validate(given), given=given, files=files, elsewhere=elsewhere)
    except ValidationError as error:
        found = problems_of(error, Settings)
    broken = frozenset(str(problem.path[0]) for problem in found if problem.path)
    usable = {key: value for key, value in given.items() if str(key) not in broken}
    lines = [located(problem, given, files, elsewhere) for problem in found]
    return Configuration(Settings.model_validate(usable), broken, lines, given, files, elsewhere)


def load_settings(source: Path | str | Mapping[str, Any]) -> Settings:
    """Read and check the settings of a YAML file or mapping (not what they refer to).

    Raises
    ------
    InputError
        With one line for each problem: file and line, key, what is wrong, what to write.
    """
    configuration = read_configuration(source)
    if configuration.problems:
        raise InputError(configuration.problems)
    return configuration.settings


def preflight(settings: Settings) -> Plan:
    """Check everything that the settings refer to and read the reactions.

    Raises
    ------
    InputError
        With every problem of reactions, methods, engine and results folder.
    """
    return check(Configuration(settings, given=settings.model_dump()))


def check(configuration: Configuration) -> Plan:
    """Check a configuration and all that it refers to; see :func:`preflight`.

    Raises
    ------
    InputError
        With every problem of everything.
    """
    from saddleflow.reactions import read_reactions

    settings, broken = configuration.settings, configuration.broken
    problems = list(configuration.problems)
    methods: dict[str, Method] = {}
    if not broken & {"methods", "method_settings"}:
        methods, found = method_problems(settings)
        for index, name in enumerate(settings.methods):
            if name in methods and (missing := methods[name].missing_package()):
                found.append(Problem(("methods", index), missing))
        problems += [configuration.line(problem) for problem in found]
    reactions: list[Reaction] = []
    if "reactions" not in broken:
        try:
            reactions = read_reactions(settings.reactions)
        except SaddleflowError as error:
            problems += message_lines(error)
    if not broken & {"start", "method_settings"}:
        problems += direction_problems(reactions, methods)
    if "engine" not in broken:
        found = engine_problems(settings, {symbol for reaction in reactions for symbol in reaction.symbols})
        problems += [configuration.line(problem) for problem in found]
    if "engine" not in broken and settings.engine.program != "xtb":
        problems += xtb_problems(reactions, methods)
    if not broken & {"engine", "methods", "method_settings", "learn_prior"}:
        found = sparrow_problems(reactions, methods) + learned_problems(settings, reactions, methods)
        found += fitted_problems(settings, reactions, methods)
        problems += [configuration.line(problem) for problem in found]
    if not broken & {"results", "reactions"}:
        problems += [configuration.line(problem) for problem in results_problems(settings)]
    if settings.published and "published" not in broken:
        problems += [configuration.line(problem) for problem in published_problems(settings)]
    if problems:
        raise InputError(problems)
    return Plan(reactions, methods)


@contextlib.contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Collect what the package logs, such as the charges and multiplicities that nobody gave."""
    notes: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: notes.append(record.getMessage())
    logger = logging.getLogger("saddleflow")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield notes
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _keep(notes: list[str], path: Path) -> None:
    """Write the notes in full; a log that can't be written stops nothing."""
    from saddleflow.files import write_atomically

    with contextlib.suppress(OSError):
        write_atomically(path, "".join(f"{note}\n" for note in notes))


def describe(plan: Plan, settings: Settings) -> str:
    """What will run, for a person, in a few lines."""
    from ase.data import atomic_numbers

    sizes = sorted(len(reaction.symbols) for reaction in plan.reactions)
    symbols = {symbol for reaction in plan.reactions for symbol in reaction.symbols}
    elements = sorted(symbols, key=lambda symbol: atomic_numbers[symbol])
    states = Counter((reaction.charge, reaction.multiplicity) for reaction in plan.reactions)
    kinds = ", ".join(f"{n} with charge {q} and multiplicity {m}" for (q, m), n in sorted(states.items()))
    size = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    lines = [
        f"reactions  {len(plan.reactions)} from {settings.reactions}: {size} atoms of "
        f"{' '.join(elements)}; {kinds}",
        f"methods    {', '.join(plan.methods)}",
        f"engine     {settings.engine.level}",
        f"verify     {settings.verification.level}",
        f"results    {settings.results}",
        f"All is well: {len(plan.reactions) * len(plan.methods)} searches.",
    ]
    return "\n".join(lines)


def prepare_run(
    config: Mapping[str, Any], main_process: bool, config_files: Sequence[Path | str] = ()
) -> RunPlan:
    """Check a Snakemake configuration and write the inputs of its jobs.

    Parameters
    ----------
    config : mapping
        Snakemake's ``config``.
    main_process : bool
        False in the processes of single jobs, where Snakemake evaluates the Snakefile again: there the names
        are read from what the main process wrote.
    config_files : sequence of paths
        Snakemake's ``workflow.configfiles``, for line numbers in messages.

    Raises
    ------
    SystemExit
        With code 2 after printing every problem, one line each, to standard error.
    """
    try:
        if not main_process:
            return plan_from_inputs(load_settings(config))
        configuration = read_configuration(config, config_files)
        with collected_notes() as notes:
            plan = check(configuration)
        for note in notes:
            print(f"saddleflow: {textwrap.shorten(note, NOTE_LENGTH)}", file=sys.stderr)
        run_plan = write_inputs(plan, configuration.settings)
        _keep(notes, Path(run_plan.results) / "logs" / "preflight.log")
        return run_plan
    except SaddleflowError as error:
        for line in message_lines(error):
            print(f"saddleflow: error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
