"""Configuration files as text: safe YAML, doubled keys found, and the line that each key stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from saddleflow.errors import InputError

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the settings.

    Parameters
    ----------
    path : tuple of str or int
        Where it is, such as ``("engine", "basis")``; empty when it concerns no single key.
    message : str
        What is wrong and what to write, without the key.
    """

    path: KeyPath
    message: str

    @property
    def key(self) -> str:
        """The path as text, such as ``methods[1]`` or ``engine.basis``."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        return text

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.path else self.message


@dataclass(frozen=True)
class SettingsFile:
    """A YAML file as it was read.

    Parameters
    ----------
    path : Path
        The file.
    data : dict
        Its content.
    lines : dict of key path to int
        1-based line of each key and list item.
    """

    path: Path
    data: dict
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """Line of the key, or of the innermost section around it that the file has."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def value_at(data: Any, path: KeyPath) -> tuple[bool, Any]:
    """Whether `path` exists in nested mappings and lists, and what stands there."""
    for part in path:
        known = (
            range(len(data)) if isinstance(data, list | tuple) else data if isinstance(data, Mapping) else ()
        )
        if part not in known:
            return False, None
        data = data[part]
    return True, data


def located(problem: Problem, effective: Any, files: Sequence[SettingsFile], elsewhere: str) -> str:
    """One line for the user: file and line if a file says it, the key, what is wrong.

    Parameters
    ----------
    problem : Problem
        What is wrong.
    effective : mapping
        The settings that were checked; later `files` and the command line may have changed them.
    files : sequence of SettingsFile
        In the order in which they were applied.
    elsewhere : str
        What to say when no file holds the value, such as ``--config``.
    """
    found, value = value_at(effective, problem.path)
    for file in reversed(files):
        if not problem.path:
            return f"{file.path}: {problem}"
        in_file, file_value = value_at(file.data, problem.path)
        if (in_file, file_value) == (found, value) and (line := file.line(problem.path)) is not None:
            return f"{file.path}:{line}: {problem}"
    return f"{elsewhere}: {problem}" if elsewhere else str(problem)


def _walk(node: yaml.Node, path: KeyPath, lines: dict, doubled: list, above: tuple[int, ...]) -> None:
    """Collect the line of every key below `node`, and keys that a mapping names twice."""
    if id(node) in above:
        raise InputError(f"line {node.start_mark.line + 1}: an alias contains itself; write the value out")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), lines, doubled, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in seen and key.value != "<<":
                name = Problem((*path, key.value), "").key
                doubled.append((line, f"{name}: stands twice, first in line {seen[key.value]}; delete one"))
            seen.setdefault(key.value, line)
            lines[(*path, key.value)] = line
            _walk(value, (*path, key.value), lines, doubled, above)


def read_settings_file(path: Path) -> SettingsFile:
    """Read a YAML configuration file.

    Raises
    ------
    InputError
        When it can't be read, is no YAML, names a key twice or is no mapping; with file and line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a YAML file, such as config/config.yaml") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a YAML file in it") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        doubled: list[tuple[int, str]] = []
        if node is not None:
            _walk(node, (), lines, doubled, ())
        data = None if node is None else loader.construct_document(node)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        what = error.problem or error.context
        raise InputError(
            f"{where}: is not valid YAML ({what}); mind indentation, colons and quotes"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{path}: is not valid YAML ({first})") from None
    finally:
        if loader is not None:
            loader.dispose()
    if doubled:
        raise InputError([f"{path}:{line}: {message}" for line, message in doubled])
    if data is None:
        raise InputError(f"{path}: is empty; write at least `reactions: PATH` (see config/README.md)")
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else f"the {type(data).__name__} {str(data)[:40]!r}"
        raise InputError(f"{path}: holds {kind}, not `key: value` lines; write for example `reactions: PATH`")
    return SettingsFile(Path(path), data, lines)
