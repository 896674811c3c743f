"""Declaring settings and building them strictly from plain data.

A settings class is a frozen dataclass whose fields are made by :func:`setting`. Building one from
a mapping never converts: a string where a number belongs is an error, not a number.
The one widening allowed is an integer for a float, which loses nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from codex_ray.errors import ConfigError, nearest
from codex_ray.plugins import path_of

Settings = TypeVar("Settings")
MASK = "***"  # stands for a secret that was given


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
    component: str | None = None,
) -> Any:
    """Declare one setting: its default, what it means, and which values can be right.

    ``default`` may be a settings class, which nests it, or a list or dict, which is copied. A secret is
    masked wherever settings are printed or written. Beside its choices a setting may name a ``component`` of
    this kind, by its name or dotted path.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "secret": secret,
        "component": component,
    }
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def build(cls: type[Settings], data: Mapping[str, Any], path: str = "") -> Settings:
    """Build ``cls`` from ``data``, refusing unknown keys, wrong types and impossible values.

    Args:
        cls: a settings dataclass.
        data: nested mapping of plain values; missing keys take their defaults.
        path: dotted prefix used in errors.

    Raises:
        ConfigError: naming the key, what it holds, and what it may hold.
    """
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        dotted = f"{path}{key}"
        if key not in fields:
            raise ConfigError(f"unknown setting {dotted!r}{nearest(key, fields)}")
        values[key] = _checked(fields[key], hints[key], value, dotted)
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING
        if name not in values and not has_default and field.default_factory is dataclasses.MISSING:
            help_text = field.metadata["help"]
            raise ConfigError(f"setting {path + name!r} is needed ({help_text}); give {name}=VALUE")
    return cls(**values)


def to_dict(settings: Any) -> dict[str, Any]:
    """Return settings as nested plain data, ready for YAML or JSON; secrets are masked."""
    data = dataclasses.asdict(settings)
    _mask(settings, data)
    return {field.name: data[field.name] for field in own_first(type(settings))}


def own_first(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """Return the fields of a settings class, its own before those of the class that it extends."""
    own = inspect.get_annotations(cls)
    return sorted(dataclasses.fields(cls), key=lambda field: field.name not in own)


def _mask(settings: Any, data: dict[str, Any]) -> None:
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            _mask(value, data[field.name])
        elif field.metadata.get("secret") and value is not None:
            data[field.name] = MASK


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say in words which settings of two plain mappings differ."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {before} and is {after}")
    return found


def _checked(field: dataclasses.Field[Any], hint: Any, value: Any, path: str) -> Any:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    nested = [option for option in options if dataclasses.is_dataclass(option)]
    if nested and isinstance(value, Mapping):
        return build(nested[0], value, f"{path}.")  # type: ignore[arg-type]
    if nested and dataclasses.is_dataclass(value):
        return value
    entries = mapping_of(hint)
    if entries and isinstance(value, Mapping) and not all(isinstance(v, entries) for v in value.values()):
        return {
            str(key): build(entries, inner, f"{path}.{key}.")
            if isinstance(inner, Mapping)
            else _refused(f"{path}.{key}", (entries,), inner)
            for key, inner in value.items()
        }
    if not any(_fits(value, option) for option in options):
        _refused(path, options, value)
    if float in options and isinstance(value, int) and not isinstance(value, bool) and int not in options:
        value = float(value)
    _check_range(field, value, path)
    return value


def mapping_of(hint: Any) -> type[Any] | None:
    """Return the settings class whose instances a mapping setting holds by name, if it does."""
    entries = get_args(hint)[1] if get_origin(hint) is dict else None
    return entries if dataclasses.is_dataclass(entries) else None  # type: ignore[return-value]


def _refused(path: str, options: tuple[Any, ...], value: Any) -> NoReturn:
    wanted = " or ".join(_name(option) for option in options)
    raise ConfigError(
        f"setting {path!r} must be {wanted}, not {value!r} ({_name(type(value))}); values are never converted"
    )


def _check_range(field: dataclasses.Field[Any], value: Any, path: str) -> None:
    choices = field.metadata.get("choices") or ()
    for item in value if isinstance(value, list) else [value]:
        if choices and item is not None and item not in choices:
            kind = field.metadata.get("component")
            if kind is not None and isinstance(item, str) and path_of(kind, item) is not None:
                continue
            listed = ", ".join(str(choice) for choice in choices)
            raise ConfigError(f"setting {path!r} must be one of {listed}, not {item!r}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = field.metadata.get("minimum"), field.metadata.get("maximum")
        if not math.isfinite(value):
            raise ConfigError(f"setting {path!r} must be finite, not {value!r}")
        if low is not None and value < low:
            raise ConfigError(f"setting {path!r} must be at least {low}, not {value}")
        if high is not None and value > high:
            raise ConfigError(f"setting {path!r} must be at most {high}, not {value}")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin = get_origin(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(_fits(key, get_args(hint)[0]) for key in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    origin = get_origin(hint)
    if origin is list:
        return f"a list of {_name(get_args(hint)[0]).removeprefix('a ')}"
    if origin is dict or hint is dict:
        return "a mapping"
    if dataclasses.is_dataclass(hint):
        return "a group of settings"
    return names.get(hint, getattr(hint, "__name__", str(hint)))
