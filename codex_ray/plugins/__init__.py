"""Components by name: codex_ray's own, other packages', and a user's by dotted path.

A component is an object that a dotted path names. Places are asked in this order: what :func:`registered`
has for the length of a block in this process; the YAML file (or the text) in CODEX_RAY_COMPONENTS; our own
names, ``configs/components.yaml``; entry points of installed packages, which so take no name of ours::

    [project.entry-points."codex_ray.rewards"]     # pyproject.toml of a package
    vowels = "codex_ray_vowels:share_of_vowels"

    rewards: {vowels: codex_ray_vowels.share_of_vowels}     # the file
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from codex_ray.errors import ConfigError, nearest
from codex_ray.plugins.kinds import KINDS

__all__ = [
    "KINDS",
    "VARIABLE",
    "broken",
    "brought",
    "carried",
    "find",
    "is_own",
    "load",
    "names",
    "own",
    "path_of",
    "registered",
    "shared",
]

VARIABLE = "CODEX_RAY_COMPONENTS"

_registered: dict[tuple[str, str], str] = {}


def find(kind: str, name: str, key: str, *, or_else: str = "") -> Any:
    """Return the component that a setting names, by its name or its dotted path.

    Args:
        kind: one of ``KINDS``.
        name: the setting's value; ``key``: the setting, for errors.
        or_else: what else it may be, for errors.

    Raises:
        ConfigError: there is none of that name, it cannot be loaded, or is of another kind.
    """
    path = path_of(kind, name)
    if path is None:
        known = [*names(kind), *([or_else] if or_else else [])]
        raise ConfigError(
            f"{key}={name} is none of {', '.join(known) or 'the names that are known'}, and no "
            f"dotted path such as mine.{name or 'name'}{nearest(name, known) or '; give one of these'}"
        )
    return load(kind, path, f"{key}={name}" + (f" ({path})" if path != name else ""))


def path_of(kind: str, name: str) -> str | None:
    """Return the dotted path that a name stands for, or that it is; None where it is neither.

    Raises:
        ConfigError: the file of names is wrong.
    """
    if found := given(kind).get(name):
        return found
    if name in own(kind):
        return _first(own(kind)[name])
    if found := _points(kind).get(name):
        return found
    module, _, attribute = _dotted(name).rpartition(".")
    return _dotted(name) if module and attribute and "/" not in name else None


def own(kind: str) -> Mapping[str, Any]:
    """Return codex_ray's names of a kind, each with its path, or with a path per language (problems)."""
    return _defaults()[kind]


def is_own(kind: str, name: str) -> bool:
    """Whether a name stands for what codex_ray brings, and the user has not given it another meaning."""
    return name in own(kind) and name not in given(kind)


def given(kind: str) -> dict[str, str]:
    """Return what the user has named: the variable's names, and over them those registered here.

    Raises:
        ConfigError: the file of names is wrong.
    """
    return _of_variable().get(kind, {}) | {
        name: path for (one, name), path in _registered.items() if one == kind
    }


def brought(kind: str) -> dict[str, str]:
    """Return what is not codex_ray's own: names of packages and of the user, each with its path."""
    return {name: path for name, path in _points(kind).items() if name not in own(kind)} | given(kind)


def names(kind: str) -> dict[str, str]:
    """Return every name of a kind and the path that it stands for."""
    return {name: _first(path) for name, path in own(kind).items()} | brought(kind)


@contextmanager
def registered(kind: str, name: str, path: str) -> Iterator[None]:
    """Give a dotted path a name for the length of the block, in this process and in Ray started within.

    Raises:
        ConfigError: there is no such kind, or what the path names cannot be loaded.
    """
    _refuse_kind(kind, "registered()")
    load(kind, path, f"{kind} {name} ({path})")
    before = _registered.get((kind, name))
    _registered[kind, name] = path
    try:
        yield
    finally:
        if before is None:
            del _registered[kind, name]
        else:
            _registered[kind, name] = before


def load(kind: str, path: str, what: str) -> Any:
    """Return what a dotted path names, whole or not at all.

    Raises:
        ConfigError: it cannot be imported, whatever its module raises, or is no component of the kind.
    """
    module, _, attribute = _dotted(path).rpartition(".")
    before = set(sys.modules)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        package = module.partition(".")[0]
        for half in set(sys.modules) - before:  # of its own modules, those that came in before the fault
            if half == package or half.startswith(f"{package}."):
                del sys.modules[half]
        raise ConfigError(
            f"{what} cannot be loaded ({type(error).__name__}: {error}); repair or remove the package that "
            "brings it, or put its module on PYTHONPATH"
        ) from error
    if wrong := KINDS[kind].wrong(found):
        raise ConfigError(f"{what} is {wrong}; see docs/extending.md")
    return found


def broken(*, ours: bool = False) -> dict[str, str]:
    """Load every component that others bring, and codex_ray's ``ours`` too; returns why some cannot be."""
    wrong = {}
    for kind in KINDS:
        found = [*brought(kind).items()]
        for name, path in own(kind).items() if ours else ():
            found += [(name, one) for one in (path.values() if isinstance(path, Mapping) else [path])]
        for name, path in found:
            try:
                load(kind, path, f"{kind} {name} ({path})")
            except ConfigError as error:
                wrong[f"{kind} {name}"] = str(error)
        for name in _points(kind).keys() & own(kind).keys():
            wrong[f"{kind} {name}"] = (
                f"{kind} {name} ({_points(kind)[name]}) takes a name that is codex_ray's own; give it another"
            )
    return wrong


def carried() -> dict[str, str]:
    """Return the variable for other processes, with all that the user has named in it; nothing if nothing.

    Raises:
        ConfigError: the file of names is wrong.
    """
    found = {kind: paths for kind in KINDS if (paths := given(kind))}
    return {VARIABLE: json.dumps(found)} if found else {}


@contextmanager
def shared() -> Iterator[None]:
    """Let processes that are started within the block know what the user has named.

    Raises:
        ConfigError: the file of names is wrong.
    """
    before = os.environ.get(VARIABLE)
    os.environ.update(carried())
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before
        else:
            os.environ.pop(VARIABLE, None)


def _points(kind: str) -> dict[str, str]:
    return _all_points(tuple(sys.path)).get(kind, {})


@cache
def _all_points(path: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return the entry points of all kinds, by kind and name; looking takes a tenth of a second."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    every = entry_points()
    for kind, paths in found.items():
        paths |= {point.name: _dotted(point.value) for point in every.select(group=f"codex_ray.{kind}")}
    return found


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    from codex_ray.config.groups import configs_folder
    from codex_ray.config.saved import read

    return read(configs_folder() / "components.yaml")


def _of_variable() -> dict[str, dict[str, str]]:
    """Return the names of the file or text that the variable holds, by kind."""
    place = os.environ.get(VARIABLE)
    if not place:
        return {}
    from codex_ray.config.saved import read

    found = json.loads(place) if place.startswith("{") else read(Path(place).expanduser())
    for kind, paths in found.items():
        _refuse_kind(kind, place)
        if not isinstance(paths, dict) or not all(isinstance(path, str) for path in paths.values()):
            raise ConfigError(f"{place}: {kind} must hold `name: dotted.path` lines; write them so")
    return found


def _first(path: str | Mapping[str, str]) -> str:
    return next(iter(path.values())) if isinstance(path, Mapping) else path


def _dotted(path: str) -> str:
    return path.replace(":", ".")


def _refuse_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise ConfigError(
            f"{where}: there is no kind {kind!r} of component{nearest(kind, KINDS)}; give {', '.join(KINDS)}"
        )
