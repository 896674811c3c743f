"""Looking into settings classes: every key, its type, and the nearest one to a misspelt key."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from codex_ray.config.fields import mapping_of, own_first
from codex_ray.errors import ConfigError

Key = tuple[str, ...]

WORD = re.compile(r"\+{0,2}(?P<key>[A-Za-z_][\w.@/-]*)=(?P<value>.*)", re.DOTALL)  # of a command line


def options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union type, or the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def section(hint: Any) -> type[Any] | None:
    """Return the settings class that ``hint`` nests, if it does."""
    return next((option for option in options(hint) if dataclasses.is_dataclass(option)), None)  # type: ignore[return-value]


def is_text(hint: Any, optional: bool = False) -> bool:
    """Tell whether a setting of type ``hint`` holds text (and, with ``optional``, may be unset)."""
    members = options(hint)
    return str in members and (not optional or type(None) in members)


def fields_of(cls: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yield each field of a settings class with its type, its own before those of the class it extends."""
    hints = get_type_hints(cls)
    for field in own_first(cls):
        yield field, hints[field.name]


def sections(cls: type[Any], prefix: Key = ()) -> Iterator[tuple[Key, type[Any]]]:
    """Yield the path and class of the settings and of every section within, outer ones first."""
    yield prefix, cls
    for field, hint in fields_of(cls):
        nested = section(hint)
        if nested is not None:
            yield from sections(nested, (*prefix, field.name))


def settings_keys(cls: type[Any]) -> Iterator[Key]:
    """Yield the path of every single setting."""
    for prefix, owner in sections(cls):
        yield from ((*prefix, field.name) for field, hint in fields_of(owner) if section(hint) is None)


def find_key(cls: type[Any], path: Key) -> Any:
    """Return the type of the setting or section at ``path``, or ``None`` where there is none.

    Any key exists inside a setting that is a mapping.
    """
    hint: Any = cls
    for part in path:
        nested, entries = section(hint), mapping_of(hint)
        if nested is not None:
            hint = next((inner for field, inner in fields_of(nested) if field.name == part), None)
        elif entries is not None:
            hint = entries
        elif any(get_origin(option) is dict for option in options(hint)):
            hint = Any
        elif hint is not Any:
            return None
        if hint is None:
            return None
    return hint


def flatten(cls: type[Any], path: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    """Split a value into single settings: mappings are entered where the class has a section."""
    hint = cls if not path else find_key(cls, path)
    if isinstance(value, Mapping) and (section(hint) or mapping_of(hint)) is not None:
        for key, inner in value.items():
            yield from flatten(cls, (*path, str(key)), inner)
    else:
        yield path, value


def alternatives(cls: type[Any]) -> dict[Key, list[Key]]:
    """Return, for each setting of which only one of several may be given, the others."""
    found: dict[Key, list[Key]] = {}
    for prefix, owner in sections(cls):
        names: tuple[str, ...] = getattr(owner, "ALTERNATIVES", ())
        for name in names:
            found[(*prefix, name)] = [(*prefix, other) for other in names if other != name]
    return found


def unknown_key(cls: type[Any], dotted: str, groups: Iterable[str], where: str) -> ConfigError:
    """Return the error for a key that does not exist, naming the nearest that does."""
    keys = [".".join(path) for path in settings_keys(cls)]
    groupings = [".".join(path) for path, _ in sections(cls) if path]
    leaf = dotted.rpartition(".")[2]
    same_leaf = [key for key in keys if key.rpartition(".")[2] == leaf]
    close = same_leaf or difflib.get_close_matches(dotted, [*keys, *groupings, *groups], n=1, cutoff=0.6)
    if not close:
        leaves = {key.rpartition(".")[2]: key for key in reversed(keys)}
        close = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    hint = (
        f"; did you mean {' or '.join(repr(key) for key in close[:3])}?"
        if close
        else "; --help lists them all"
    )
    source = "" if where in ("setting", "argument") else f" in {where}"
    return ConfigError(f"unknown setting {dotted!r}{source}{hint}")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as nested plain data; the opposite of :func:`dotted`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested plain data by dotted key; empty groups leave nothing."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
