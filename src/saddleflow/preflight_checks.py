"""What of a configuration can be known to be wrong before the first job, one kind of fault a function."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saddleflow.errors import InputError, SaddleflowError
from saddleflow.method_settings import SPARROW_METHODS
from saddleflow.settings import Engine, Method, Settings
from saddleflow.settings_sources import Problem

if TYPE_CHECKING:
    from saddleflow.reaction import Reaction


def message_lines(error: SaddleflowError) -> list[str]:
    """One line for each problem of an error."""
    return error.problems if isinstance(error, InputError) else str(error).splitlines()


def engine_problems(settings: Settings, symbols: set[str]) -> list[Problem]:
    """Why the engine can't be used as it is set, or not for these elements."""
    from saddleflow.engines.catalogue import check_engine

    try:
        messages = check_engine(settings.engine, symbols)
    except SaddleflowError as error:
        messages = message_lines(error)
    found = []
    for message in messages:
        key, colon, rest = message.partition(": ")
        named = (
            bool(colon) and key.startswith("engine.") and key.removeprefix("engine.") in Engine.model_fields
        )
        # Where no key is named, the whole section is meant.
        found.append(Problem(tuple(key.split(".")), rest) if named else Problem(("engine",), message))
    return found


def xtb_problems(reactions: Sequence[Reaction], methods: Mapping[str, Method]) -> list[str]:
    """Why an xTB surface can't be had that a start direction or a method's prior asks for."""
    from saddleflow.engines.catalogue import check_engine

    asking: dict[str, tuple[str, str]] = {}
    for name, method in methods.items():
        direction = method.start.direction
        if method.uses_direction and direction.startswith("xtb_"):
            advice = "write start.direction: random (or file, or difference)"
            asking.setdefault("GFN2-xTB", (f"start.direction: {direction}", advice))
        if getattr(method, "initial_hessian", "") == "xtb":
            asking.setdefault("GFN2-xTB", (f"method {name}: initial_hessian: xtb", "choose another method"))
        prior = getattr(method, "prior", "")
        for surface in () if prior == "auto" else prior.split("+"):
            if "xtb" in surface.lower():
                asking.setdefault(
                    surface, (f"method {name}: prior {surface}", "choose another prior or method")
                )
    symbols = {symbol for reaction in reactions for symbol in reaction.symbols}
    problems: dict[str, str] = {}
    for surface, (what, advice) in asking.items():
        for message in check_engine(Engine(program="xtb", method=surface), symbols):
            problems.setdefault(message, f"{what} can't be used: {message.partition(';')[0]}; {advice}")
    return list(problems.values())


def sparrow_problems(reactions: Sequence[Reaction], methods: Mapping[str, Method]) -> list[Problem]:
    """Surfaces of Sparrow that a prior names and that can't be had."""
    from saddleflow import sparrow

    numbers = {int(number) for reaction in reactions for number in reaction.numbers}
    problems = []
    for name, method in methods.items():
        named = set(getattr(method, "prior", "").split("+")) & set(SPARROW_METHODS)
        reasons = filter(None, (sparrow.why_not(surface, numbers) for surface in sorted(named)))
        problems += [
            Problem(("method_settings", name, "prior"), f"{reason}; name another surface, or write auto")
            for reason in reasons
        ]
    return problems


def learned_problems(
    settings: Settings, reactions: Sequence[Reaction], methods: Mapping[str, Method]
) -> list[Problem]:
    """Learned priors that don't fit what is to be searched."""
    from saddleflow.learn import MOST_ELEMENTS
    from saddleflow.surrogate.learned_prior import read_learned_prior

    numbers = {int(number) for reaction in reactions for number in reaction.numbers}

    def misfit(path: str, method: Method) -> str:
        return read_learned_prior(path).misfit(settings.engine.level, numbers, method.prior)

    problems = _file_problems(methods, "learned_prior", ("",), misfit)
    if settings.learn_prior.pilot and len(numbers) > MOST_ELEMENTS:
        message = (
            f"a prior can be learned for {MOST_ELEMENTS} elements at most, and there are {len(numbers)}; "
            "split the set, or write 0"
        )
        problems.append(Problem(("learn_prior", "pilot"), message))
    return problems


def fitted_problems(
    settings: Settings, reactions: Sequence[Reaction], methods: Mapping[str, Method]
) -> list[Problem]:
    """Fitted parameters of surfaces that don't fit what is to be searched."""
    from saddleflow import sparrow
    from saddleflow.surrogate.surface_parameters import read_surface_parameters

    numbers = {int(number) for reaction in reactions for number in reaction.numbers}

    def misfit(path: str, method: Method) -> str:
        reason = read_surface_parameters(path).misfit(settings.engine.level, numbers)
        if not reason and method.prior != "auto":
            reason = f"prior is {method.prior}, and they need auto"
        elif not reason and (method.learned_prior or settings.learn_prior.pilot):
            reason = "they can't be had together with a learned prior"
        elif not reason and not sparrow.available():
            reason = "they need the package scine-sparrow"
        return reason and f"{reason}; write auto or published"

    return _file_problems(methods, "surface_parameters", ("auto", "published"), misfit)


def _file_problems(
    methods: Mapping[str, Method],
    setting: str,
    no_files: tuple[str, ...],
    misfit: Callable[[str, Method], str],
) -> list[Problem]:
    """Files that a setting of a method names (unless it has one of `no_files`) and that can't be used."""
    problems = []
    for name, method in methods.items():
        path = getattr(method, setting, no_files[0])
        if path in no_files:
            continue
        try:
            reason = misfit(path, method)
            message = f"{path} can't be used: {reason}" if reason else ""
        except SaddleflowError as error:
            message = str(error)
        if message:
            problems.append(Problem(("method_settings", name, setting), message))
    return problems


def direction_problems(reactions: Sequence[Reaction], methods: Mapping[str, Method]) -> list[str]:
    """Reactions without the start direction that a method asks for."""
    problems = []
    for kind, attribute, what in (
        ("file", "start_direction", "start direction"),
        ("difference", "difference", "reactant and product"),
    ):
        asking = [
            name
            for name, method in methods.items()
            if method.uses_direction and method.start.direction == kind
        ]
        if not asking:
            continue
        problems += [
            f"{reaction.source}: reaction {reaction.name} has no {what}, which start.direction {kind} of "
            f"{', '.join(asking)} needs; give it (config/README.md says how) or choose another direction"
            for reaction in reactions
            if getattr(reaction, attribute) is None
        ]
    return problems


def published_problems(settings: Settings) -> list[Problem]:
    """What is wrong with the table of published results."""
    from saddleflow.analysis.published import read_published

    try:
        read_published(settings.published)
    except InputError as error:
        return [Problem(("published",), problem) for problem in error.problems]
    return []


def results_problems(settings: Settings) -> list[Problem]:
    """Whether files can be made in the results folder, found out by making one."""
    path: tuple[str | int, ...] = ("results",)
    results = Path(settings.results)
    if settings.results.startswith("~") or set(settings.results) & set("{}*\n"):
        # Snakemake reads braces as wildcards, and nobody expands a tilde in a file name.
        return [Problem(path, f"{settings.results!r} can't be used; write a path without {{ }} * and ~")]
    reactions = Path(settings.reactions)
    if reactions.is_dir() and results.resolve().is_relative_to(reactions.resolve()):
        advice = "its subfolders are read too; name a folder outside of it"
        return [Problem(path, f"{results} is in the folder of the reactions, {advice}")]
    place = results
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        what = "is no folder" if place.exists() else "is a link that leads nowhere"
        return [Problem(path, f"{place} {what}; name a folder that can be made and written to")]
    parts = (
        "inputs",
        "inputs/reactions",
        "inputs/methods",
        "journals",
        "learned_prior",
        "searches",
        "verifications",
        "figures",
    )
    for folder in (place, *(results / part for part in parts)):
        if folder.exists() and not folder.is_dir():
            return [Problem(path, f"{folder} is in the way (not a folder); move it or name another folder")]
        if not folder.is_dir():
            continue
        problem = f"{folder} can't be written to; change its permissions or name another folder"
        # The superuser passes the permission check everywhere, but a read-only file system still refuses.
        if not os.access(folder, os.W_OK | os.X_OK):
            return [Problem(path, problem)]
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            return [Problem(path, f"{problem} ({error.strerror})")]
    return []
