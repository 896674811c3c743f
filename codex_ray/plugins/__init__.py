"""Components of other packages by name: entry points, a file of names, or a registration for a while.

A component is an object that a dotted path names. Where settings take one by its path, they take these names
too. Later places win: entry points of installed packages, the YAML file that CODEX_RAY_COMPONENTS names, what
:func:`registered` has for the length of a block in this process::

    [project.entry-points."codex_ray.rewards"]     # pyproject.toml of a package
    vowels = "codex_ray_vowels:share_of_vowels"

    rewards: {vowels: codex_ray_vowels.share_of_vowels}     # the file
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from codex_ray.errors import ConfigError, nearest

KINDS = {
    "rewards": "functions (row, text) to a number: on_policy.reward, verifiers of tasks",
    "environments": "classes that answer turns: on_policy.environment",
    "problems": "classes derived from codex_ray.discover.problem.Problem: discover's problem",
    "judges": "classes with name and apply(text, name): clean.judges",
    "metrics": "objects of codex_ray.evaluate.metrics.Metric: metrics of tasks",
}
VARIABLE = "CODEX_RAY_COMPONENTS"

_registered: dict[tuple[str, str], str] = {}


def path_of(kind: str, name: str) -> str | None:
    """Return the dotted path that a name stands for; None where no package has it.

    Raises:
        ConfigError: the file of names is wrong.
    """
    return names(kind).get(name)


def names(kind: str) -> dict[str, str]:
    """Return the names of a kind that others bring, and the path of each.

    Raises:
        ConfigError: the file of names is wrong.
    """
    found = {point.name: point.value.replace(":", ".") for point in entry_points(group=f"codex_ray.{kind}")}
    found |= _of_file().get(kind, {})
    return found | {name: path for (own, name), path in _registered.items() if own == kind}


@contextmanager
def registered(kind: str, name: str, path: str) -> Iterator[None]:
    """Give a dotted path a name for the length of the block, in this process.

    Raises:
        ConfigError: there is no such kind, or what the path names cannot be loaded.
    """
    _refuse_kind(kind, "registered()")
    load(path, f"{kind} {name}")
    before = _registered.get((kind, name))
    _registered[kind, name] = path
    try:
        yield
    finally:
        if before is None:
            del _registered[kind, name]
        else:
            _registered[kind, name] = before


def load(path: str, what: str) -> Any:
    """Return what a dotted path names.

    Raises:
        ConfigError: it cannot be imported, whatever its module raises.
    """
    module, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(
            f"{what} ({path}) cannot be loaded ({type(error).__name__}: {error}); repair or remove "
            "the package that brings it"
        ) from error


def broken() -> dict[str, str]:
    """Load every component that others bring; returns why some cannot be, by kind and name."""
    found = {}
    for kind in KINDS:
        for name, path in names(kind).items():
            try:
                load(path, f"{kind} {name}")
            except ConfigError as error:
                found[f"{kind} {name}"] = str(error)
    return found


def _of_file() -> dict[str, dict[str, str]]:
    """Return the names of the file that the variable names, by kind."""
    place = os.environ.get(VARIABLE)
    if not place:
        return {}
    from codex_ray.config.saved import read

    found = read(Path(place).expanduser())
    for kind, own in found.items():
        _refuse_kind(kind, place)
        if not isinstance(own, dict) or not all(isinstance(path, str) for path in own.values()):
            raise ConfigError(f"{place}: {kind} must hold `name: dotted.path` lines; write them so")
    return found


def _refuse_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise ConfigError(
            f"{where}: there is no kind {kind!r} of component{nearest(kind, KINDS)}; give {', '.join(KINDS)}"
        )
