"""The folder ``results/inputs``: what the jobs read; its file times tell Snakemake what to run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from saddleflow import __version__
from saddleflow.errors import InputError
from saddleflow.settings import Engine, Method, Settings

if TYPE_CHECKING:
    from saddleflow.reaction import Reaction

IGNORED_IN_REACTIONS = frozenset({"source"})
"""Where a reaction was read from does not change what is searched: a line added above it reruns nothing."""


@dataclass(frozen=True)
class Plan:
    """What a run will search.

    Parameters
    ----------
    reactions : list of Reaction
        As read.
    methods : dict of str to Method
        Concrete settings by name.
    """

    reactions: list[Reaction]
    methods: dict[str, Method]


@dataclass(frozen=True)
class RunPlan:
    """What the Snakefile needs to know: names and resources, no science.

    Parameters
    ----------
    reaction_names, method_names : list of str
        Every pair of them is one search.
    results : str
        Folder of all results.
    threads, memory_mb : int
        Of one engine process.
    pilot : int
        Reactions that are searched before a prior is learned from them; 0: none is learned.
    learning : mapping of str to str
        Methods that use it, and the cheap surfaces that it corrects.
    """

    reaction_names: list[str]
    method_names: list[str]
    results: str
    threads: int
    memory_mb: int
    pilot: int = 0
    learning: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def pilot_names(self) -> list[str]:
        """Reactions of the pilot batch: the first ones in the order of the priorities."""
        return sorted(self.reaction_names, key=self.priorities.__getitem__, reverse=True)[: self.pilot]

    def learns(self, reaction: str, method: str) -> bool:
        """Whether a search uses what the pilot batch taught."""
        return self.pilot > 0 and method in self.learning and reaction not in self.pilot_names

    @cached_property
    def priorities(self) -> dict[str, int]:
        """Priority of the jobs of each reaction: they start in a random order that is always the same.

        A run that is stopped early has then searched a sample of its set that leans to nothing, each
        reaction with all methods.  The order is that of hashes of the names, so another reaction in the set
        does not shuffle the others.
        """
        names = sorted(self.reaction_names, key=lambda name: hashlib.sha256(name.encode()).digest())
        return {name: len(names) - place for place, name in enumerate(names)}


def write_inputs(plan: Plan, settings: Settings) -> RunPlan:
    """Write ``results/inputs/**``; files whose meaning did not change keep their modification time.

    Files of reactions and methods that the plan no longer has are left alone.

    Returns
    -------
    RunPlan
        Names and resources, as ``results/inputs/plan.json`` now holds them.

    Raises
    ------
    InputError
        When the folder can't be written after all (such as a full disk).
    """
    inputs = Path(settings.results) / "inputs"
    engine = settings.engine.model_dump(mode="json")
    try:
        for reaction in plan.reactions:
            path = inputs / "reactions" / f"{reaction.name}.json"
            # Kept to the byte: the journal of an interrupted search is bound to what the file says.
            if not _means(path, reaction.to_dict(), _of_reaction):
                _write_json(path, reaction.to_dict())
        for name, method in plan.methods.items():
            document = {"name": name, "method": method.model_dump(mode="json"), "engine": engine}
            path = inputs / "methods" / f"{name}.json"
            # A longer time limit is for the searches that still have to run, so it is written, but under
            # the old time.
            _write_json(path, document, keep_time=_means(path, document, _of_method))
        _write_json(inputs / "verification.json", settings.verification.model_dump(mode="json"))
        names = {"reactions": [reaction.name for reaction in plan.reactions], "methods": list(plan.methods)}
        _write_json(inputs / "plan.json", names)
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        header = (
            f"# All settings of this run as saddleflow {__version__} resolved them; changed by every run.\n"
        )
        _write(inputs / "settings.yaml", header + text)
    except OSError as error:
        raise InputError(
            f"results: {error.filename or inputs}: can't be written ({error.strerror})"
        ) from None
    return _run_plan(names, settings)


def _run_plan(names: Mapping[str, list[str]], settings: Settings) -> RunPlan:
    engine = settings.engine
    learning = {}
    if settings.learn_prior.pilot:
        for name in names["methods"]:
            path = Path(settings.results) / "inputs" / "methods" / f"{name}.json"
            method = json.loads(path.read_text(encoding="utf-8"))["method"]
            if method.get("learned_prior") == "" and method["prior"] != "constant":
                learning[name] = method["prior"]
    return RunPlan(
        names["reactions"],
        names["methods"],
        settings.results,
        engine.threads,
        engine.memory_mb,
        settings.learn_prior.pilot,
        learning,
    )


def _write(path: Path, text: str, keep_time: bool = False) -> None:
    """Write `text` if it differs from what is there; with `keep_time` under the old modification time."""
    from saddleflow.files import write_atomically

    old = path.stat().st_mtime_ns if path.exists() else None
    if old is not None and path.read_bytes() == text.encode():
        return
    write_atomically(path, text)
    if keep_time and old is not None:
        os.utime(path, ns=(old, old))


def _write_json(path: Path, document: dict, keep_time: bool = False) -> None:
    _write(path, json.dumps(document, indent=1) + "\n", keep_time)


def _means(path: Path, document: dict, meaning: Callable[[dict], dict]) -> bool:
    """Whether the file at `path` says what `document` says, as far as `meaning` keeps it."""
    try:
        return meaning(json.loads(path.read_text(encoding="utf-8"))) == meaning(
            json.loads(json.dumps(document))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _of_reaction(document: dict) -> dict:
    return {key: value for key, value in document.items() if key not in IGNORED_IN_REACTIONS}


def _of_method(document: dict) -> dict:
    engine = {key: value for key, value in document["engine"].items() if key not in Engine.resource_keys}
    return document | {"engine": engine}


def planned(results: str | Path) -> tuple[list[str], list[str]]:
    """Names of the reactions and methods of the last run, in its order.

    Without ``plan.json``, all inputs that there are, sorted; empty where there are none.
    """
    inputs = Path(results) / "inputs"
    try:
        plan = json.loads((inputs / "plan.json").read_text(encoding="utf-8"))
        return [str(name) for name in plan["reactions"]], [str(name) for name in plan["methods"]]
    except (OSError, ValueError, KeyError, TypeError):
        reactions, methods = (
            sorted(path.stem for path in (inputs / kind).glob("*.json")) for kind in ("reactions", "methods")
        )
        return reactions, methods


def plan_from_inputs(settings: Settings) -> RunPlan:
    """Names that an earlier :func:`write_inputs` settled; nothing is checked and no structure is read.

    Raises
    ------
    InputError
        When the inputs are not there.
    """
    reactions, methods = planned(settings.results)
    if not reactions or not methods:
        folder = Path(settings.results) / "inputs"
        raise InputError(
            f"{folder}: missing or damaged; start snakemake again, it writes this folder "
            "(another one may run here: wait for it; or one was killed here: snakemake --unlock first)"
        )
    return _run_plan({"reactions": reactions, "methods": methods}, settings)
