"""From words to settings: Hydra composes the shipped YAML, then files and words are laid over it.

Layers, later ones winning: the dataclass defaults, ``configs/VERB.yaml`` with its groups, the groups and
values of ``--config FILE``, the groups and values on the command line, keyword arguments in Python; what the
depth dial derives lies over all groups and under all values. Hydra picks and merges the group files; values
are laid over its result here, so that a text setting takes the word as it stands and nothing is ever
converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.config import saved
from codex_ray.config.check import check
from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.dial import DEPTH, turned
from codex_ray.config.fields import build
from codex_ray.config.groups import Slot, composed, group_choices, verb_slots
from codex_ray.config.saved import save
from codex_ray.config.tree import (
    WORD,
    Key,
    alternatives,
    find_key,
    flatten,
    is_text,
    settings_keys,
    unknown_key,
)
from codex_ray.config.verbs import Verb, find_verb
from codex_ray.errors import ConfigError, nearest

__all__ = ["compose", "save"]


@dataclass
class _Layer:
    """What one source asks for: group choices and single values, in the order given."""

    choices: dict[Slot, str]
    values: list[tuple[Key, Any]]


def compose(
    verb: str,
    words: Sequence[str] = (),
    config_file: Path | str | None = None,
    values: Mapping[str, Any] | None = None,
) -> Any:
    """Return the checked settings of one run.

    Args:
        verb: name of the verb, such as ``pretrain`` or ``tokenizer train``.
        words: ``[PATH] [group=choice] [key=value ...]`` as on the command line.
        config_file: a saved or hand-written YAML file, under the words; its ``defaults`` list names groups.
        values: nested plain values (or group choices as text), over the words.

    Raises:
        ConfigError: one sentence naming the word, the reason and the nearest valid one.
    """
    found = find_verb(verb)
    cls = found.settings_class
    slots = verb_slots(verb)
    from_file = _file_layer(cls, slots, Path(config_file)) if config_file is not None else _Layer({}, [])
    words, others = found.sort(words)
    from_words = _words_layer(found, cls, slots, words)
    from_words.values.extend(others)
    from_values = _data_layer(cls, slots, values or {}, "argument")
    chosen = from_words.choices | from_values.choices
    data = composed(verb, from_file.choices | chosen)
    layers = [_without_sections(from_file, chosen, config_file), from_words, from_values]
    _refuse_two_depths(layers, config_file)
    _lay(cls, data, turned(cls, data, dict(pair for layer in layers for pair in layer.values)))
    for layer in layers:
        _lay(cls, data, layer.values)
    _fill_seeds(cls, data)
    settings = build(cls, data)
    check(settings)
    return settings


def _words_layer(verb: Verb, cls: type[Any], slots: list[Slot], words: Sequence[str]) -> _Layer:
    layer = _Layer({}, [])
    paths = list(verb.paths)
    listed: list[str] = []
    for word in words:
        match = WORD.fullmatch(word)
        if match is None and verb.takes_any:
            listed.append(word)
            continue
        if match is None:
            if not paths:
                count = {0: "no PATH", 1: "one PATH"}.get(len(verb.paths), f"{len(verb.paths)} PATHs")
                takes = f"takes {count} ({', '.join(verb.paths)})" if verb.paths else f"takes {count}"
                raise ConfigError(
                    f"{word!r} is not understood: {verb.name} {takes}, settings are given as key=value"
                )
            layer.values.append((tuple(paths.pop(0).split(".")), word))
            continue
        key, text = match["key"], match["value"]
        named = [slot for slot in slots if key in slot.names]
        if named:
            layer.choices.update((slot, _choice(slot, text)) for slot in named)
        else:
            path = _key(cls, slots, key)
            layer.values.extend(flatten(cls, path, parse_value(find_key(cls, path), text, word)))
    if listed:
        layer.values.append(((paths[0],), listed))
    return layer


def _data_layer(cls: type[Any], slots: list[Slot], data: Mapping[str, Any], where: str) -> _Layer:
    layer = _Layer({}, [])
    for path, value in flatten(cls, (), data):
        dotted = ".".join(path)
        named = [slot for slot in slots if dotted in slot.names]
        if named and isinstance(value, str):
            layer.choices.update((slot, _choice(slot, value)) for slot in named)
        elif find_key(cls, path) is None:
            raise unknown_key(cls, dotted, _group_names(slots), where)
        else:
            layer.values.append((path, value))
    return layer


def _file_layer(cls: type[Any], slots: list[Slot], path: Path) -> _Layer:
    data = saved.read(path)
    defaults = data.pop("defaults", None) or []
    layer = _data_layer(cls, slots, data, f"{path}")
    if not isinstance(defaults, list):
        raise ConfigError(f"`defaults` in {path} must be a list of `- group: choice` lines")
    for entry in defaults:
        if entry == "_self_":
            continue
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ConfigError(f"`defaults` in {path} holds {entry!r}; each line must be `- group: choice`")
        ((name, choice),) = entry.items()
        named = [slot for slot in slots if name in slot.names]
        if not named:
            hint = nearest(str(name), _group_names(slots))
            raise ConfigError(f"`defaults` in {path} names the unknown group {name!r}{hint}")
        layer.choices.update((slot, _choice(slot, choice)) for slot in named)
    return layer


def _without_sections(layer: _Layer, chosen: Mapping[Slot, str], source: Path | str | None) -> _Layer:
    """Drop a file's values for sections that the command line chooses whole: the later choice wins."""
    if source is None:
        return layer
    for slot, choice in chosen.items():
        if slot.whole:
            raise ConfigError(
                f"{slot.group}={choice} sets several sections, which --config {source} sets too; name "
                f"`- {slot.group}: {choice}` under `defaults` in that file instead"
            )
    sections = [tuple(slot.package.split(".")) for slot in chosen]
    kept = [pair for pair in layer.values if not any(pair[0][: len(name)] == name for name in sections)]
    return _Layer(layer.choices, kept)


def _refuse_two_depths(layers: Sequence[_Layer], source: Path | str | None) -> None:
    """Refuse another depth over a file that has one: the values it was resolved to would all stay."""
    in_file = dict(layers[0].values)
    for path, value in (pair for layer in layers[1:] for pair in layer.values):
        if path[-1] == DEPTH and path in in_file and value != in_file[path]:
            name, before = ".".join(path), "null" if in_file[path] is None else in_file[path]
            raise ConfigError(
                f"{name}={value} cannot be laid over --config {source}, which sets {name}: {before} and the "
                f"values that follow from it; change {name} in that file, or leave the file out"
            )


def _choice(slot: Slot, choice: Any) -> str:
    choices = group_choices(slot.group)
    if choice not in choices:
        listed = ", ".join(choices)
        raise ConfigError(
            f"unknown choice {choice!r} of group {slot.group!r}{nearest(str(choice), choices)} "
            f"(one of {listed})"
        )
    return str(choice)


def _key(cls: type[Any], slots: list[Slot], dotted: str) -> Key:
    path = tuple(dotted.split("."))
    if find_key(cls, path) is None:
        raise unknown_key(cls, dotted, _group_names(slots), "setting")
    return path


def _group_names(slots: Iterable[Slot]) -> list[str]:
    return sorted({slot.group for slot in slots})


def parse_value(hint: Any, text: str, word: str) -> Any:
    """Read the right side of ``key=value`` for a setting of type ``hint``.

    A text setting takes the text as it stands, less quote marks around the whole (``null`` unsets an optional
    one). Anything else is JSON, or a value of Hydra's override grammar.
    """
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_text(hint) and not quoted:
        return None if text == "null" and is_text(hint, optional=True) else text
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # not JSON: Hydra's grammar also knows lists and mappings without quote marks
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"value={text}")
    except HydraException:
        if is_text(hint):
            return text
        raise ConfigError(
            f"{word!r} cannot be read; write numbers as 4 or 4e-3, lists as [a,b] and text with other "
            "signs in quotes"
        ) from None
    if override.is_sweep_override():
        raise ConfigError(f"{word!r} gives several values; a list is written [a,b]")
    return override.value()


def _lay(cls: type[Any], data: dict[str, Any], values: list[tuple[Key, Any]]) -> None:
    """Lay one layer over ``data``: choosing one of several alternatives unsets the others."""
    groups = alternatives(cls)
    for path, value in values:
        if value is not None:
            for other in groups.get(path, ()):
                _put(data, other, None)
    for path, value in values:
        _put(data, path, value)


def _put(data: dict[str, Any], path: Key, value: Any) -> None:
    for part in path[:-1]:
        inner = data.get(part)
        if not isinstance(inner, dict):
            inner = data[part] = {}
        data = inner
    data[path[-1]] = value


def _fill_seeds(cls: type[Any], data: dict[str, Any]) -> None:
    for path in (path for path in settings_keys(cls) if path[-1] == "seed"):
        node: Any = data
        for part in path[:-1]:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        seed = node.get("seed", DEFAULT_SEED) if isinstance(node, dict) else DEFAULT_SEED
        if seed is None or (type(seed) is int and seed == 0):
            node["seed"] = DEFAULT_SEED
