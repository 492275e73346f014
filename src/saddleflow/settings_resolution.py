"""From what the user wrote to checked settings: pydantic's errors in plain words, methods by name.

A method is a built-in algorithm (the models of :data:`saddleflow.settings.AnyMethod`) or a block under
``method_settings``.  Top-level ``convergence`` and ``start`` hold for every method; a block overrides
single keys of them.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from saddleflow.errors import InputError
from saddleflow.settings import AnyMethod, Method, Section, Settings
from saddleflow.settings_sources import KeyPath, Problem

NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]{0,79}")
"""Names of methods, as of reactions: they become parts of file names."""


RESERVED = re.compile(r"\.(verification|state|lock|old)")
"""What a method name may not contain: these are the endings of files beside its journal."""


def algorithms() -> dict[str, type[Method]]:
    """Name of each built-in algorithm and its settings model, in the order of the union."""
    union = typing.get_args(AnyMethod)[0]
    models = typing.get_args(union) or (union,)
    return {typing.get_args(m.model_fields["algorithm"].annotation)[0]: m for m in models}


def suggestion(word: Any, known: Iterable[str]) -> str:
    """``did you mean NAME?`` for the closest known word, else the list of all known words."""
    known = list(known)
    simple = {re.sub(r"[\W_]", "", k).lower(): k for k in reversed(known)}
    asked = re.sub(r"[\W_]", "", str(word)).lower()
    close = difflib.get_close_matches(asked, simple, n=1, cutoff=0.6)
    return f"did you mean {simple[close[0]]}?" if close else f"known: {', '.join(known)}"


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the section that `path` leads to, starting in `model`."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return None
        model = field.annotation
    return model


def _elsewhere(key: str) -> str:
    """Where a key that stands at the top level by mistake belongs, or ``""``."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        is_section = isinstance(section, type) and issubclass(section, Section)
        if is_section and key in section.model_fields:
            return f"{name}.{key}"
    if any(key in model.model_fields for model in algorithms().values()):
        return f"method_settings.METHOD.{key}"
    return ""


def _with_list(close: str, known: Iterable[str]) -> str:
    return close if close.startswith("known") else f"{close} (known: {', '.join(known)})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
}


def _in_words(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """What is wrong and what to write, for one of pydantic's errors in a value of `model`."""
    kind, path, value = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        section = _model_at(model, path[:-1])
        known = list(section.model_fields) if section else []
        if model is Settings and len(path) == 1 and path[0] not in known:
            place = _elsewhere(str(path[0]))
            if place:
                return f"unknown key here; did you mean {place}?"
        return f"unknown key; {suggestion(path[-1], known)}"
    if value is None and kind != "missing":
        return "has no value; write one or delete the line"
    if kind == "literal_error":
        allowed = [part.strip("'") for part in re.split(r", | or ", context["expected"])]
        return f"{_shown(value)} is not possible; {_with_list(suggestion(value, allowed), allowed)}"
    if kind in _LIMITS:
        words, limit = _LIMITS[kind]
        return f"must be {words} {context[limit]:g}, not {_shown(value)}"
    if kind == "too_short":
        return "is empty; name at least one"
    if kind == "string_too_short":
        return "is empty; write a name or delete the line"
    if kind == "finite_number":
        return f"must be a finite number, not {_shown(value)}"
    if kind == "int_from_float":
        return f"must be a whole number, not {_shown(value)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        section = _model_at(model, path)
        keys = f" ({', '.join(section.model_fields)})" if section else ""
        return f"must be a section of `key: value` lines{keys}, not {_shown(value)}"
    if kind == "invalid_key":
        return f"keys must be text; put {_shown(value)} in quotes"
    if kind.rsplit("_", 1)[-1] in ("type", "parsing") and kind.split("_")[0] in _KINDS:
        quotes = "; put it in quotes" if kind.startswith("string") else ""
        return f"must be {_KINDS[kind.split('_')[0]]}, not {_shown(value)}{quotes}"
    return f"{error['msg']}, not {_shown(value)}"


def problems_of(error: ValidationError, model: type[BaseModel], above: KeyPath = ()) -> list[Problem]:
    """Translate pydantic's errors.

    Parameters
    ----------
    error : ValidationError
        From validating a value of `model`.
    model : type of BaseModel
        What was validated.
    above : tuple of str
        Key path of that value inside the settings.
    """
    found = []
    for e in error.errors(include_url=False):
        path = e["loc"]
        if e["type"] == "invalid_key":  # a number as a key is no position in a list
            path = (*path[:-1], str(path[-1]))
        found.append(Problem((*above, *path), _in_words(e, model)))
    return found


def _inherit(settings: Settings, block: Mapping[str, Any], model: type[Method]) -> dict[str, Any]:
    """Return the block with the top-level convergence and start put under its own keys."""
    merged = dict(block)
    for name in ("convergence", "start"):
        own = block.get(name, {})
        if isinstance(own, Mapping):  # anything else is an error for pydantic to name
            # Only what was written at the top level goes before a method's own default.
            written = getattr(settings, name).model_dump(exclude_unset=True)
            merged[name] = {**model.model_fields[name].default.model_dump(), **written, **own}
    return merged


def _resolve_block(settings: Settings, name: str) -> tuple[Method | None, list[Problem]]:
    known = algorithms()
    path: KeyPath = ("method_settings", name) if name in settings.method_settings else ()
    block = settings.method_settings.get(name, {})
    algorithm = block.get("algorithm", name)
    if name in known and algorithm != name:
        return None, [
            Problem(
                (*path, "algorithm"),
                f"a block named like a built-in changes that built-in, so this must be {name}; "
                "for another algorithm choose another name",
            )
        ]
    if "algorithm" not in block and name not in known:
        return None, [Problem(path, f"needs the line `algorithm: NAME`; known: {', '.join(known)}")]
    if not isinstance(algorithm, str) or algorithm not in known:
        close = suggestion(algorithm, known)
        return None, [Problem((*path, "algorithm"), f"unknown algorithm {_shown(algorithm)}; {close}")]
    model = known[algorithm]
    try:
        return model.model_validate(_inherit(settings, {**block, "algorithm": algorithm}, model)), []
    except ValidationError as error:
        return None, problems_of(error, model, path)


def method_problems(settings: Settings) -> tuple[dict[str, Method], list[Problem]]:
    """Resolve all methods, as far as that is possible, and say what is wrong with the others.

    Blocks that no name in ``methods`` uses are checked too.
    """
    known = algorithms()
    blocks: dict[str, Method] = {}
    problems: list[Problem] = []
    for name in settings.method_settings:
        if not NAME.fullmatch(name):
            problems.append(
                Problem(
                    ("method_settings", name),
                    "a method name is made of letters, digits and ._+- only, at most 80, no leading . or -",
                )
            )
            continue
        if taken := RESERVED.search(name):
            problems.append(
                Problem(("method_settings", name), f"a method name may not contain {taken.group()}")
            )
            continue
        method, found = _resolve_block(settings, name)
        problems += found
        if method is not None:
            blocks[name] = method
    methods: dict[str, Method] = {}
    first: dict[str, int] = {}
    for index, name in enumerate(settings.methods):
        path: KeyPath = ("methods", index)
        if name.casefold() in first:
            # Case alone does not keep two folders apart on every file system.
            problems.append(Problem(path, f"{name} stands twice; delete one"))
            continue
        first[name.casefold()] = index
        if name in settings.method_settings:
            if name in blocks:
                methods[name] = blocks[name]
        elif name in known:
            method, found = _resolve_block(settings, name)
            problems += found
            if method is not None:
                methods[name] = method
        else:
            everything = [*known, *(n for n in settings.method_settings if n not in known)]
            close = _with_list(suggestion(name, everything), everything)
            problems.append(Problem(path, f"unknown method {_shown(name)}; {close}"))
    return methods, problems


def resolve_methods(settings: Settings) -> dict[str, Method]:
    """Concrete settings of every method that ``methods`` names, in that order.

    Parameters
    ----------
    settings : Settings
        The run configuration.

    Returns
    -------
    dict of str to Method
        Models of the algorithms, with the top-level ``convergence`` and ``start`` inherited key by key.

    Raises
    ------
    InputError
        With every problem: unknown methods, doubled names, wrong keys and values in blocks.
    """
    methods, problems = method_problems(settings)
    if problems:
        raise InputError([str(problem) for problem in problems])
    return methods
