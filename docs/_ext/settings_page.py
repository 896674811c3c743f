"""Write ``settings.md`` before Sphinx reads its sources: every verb's settings, from the dataclasses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from codex_ray.config.groups import composed, group_choices, verb_slots
from codex_ray.config.tree import fields_of, options, section, sections
from codex_ray.config.verbs import VERBS, Verb

INTRODUCTION = """# Settings

Every verb's settings, generated from the dataclasses in `codex_ray/config/` and the files in `configs/`.
A setting is given on the command line as `key=value` with its dotted name, or in a file with the same
nesting. See [Configuration](configuration.md) for how the layers meet.
"""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", lambda app: write_page(Path(app.srcdir) / "settings.md"))
    return {"parallel_read_safe": True}


def write_page(path: Path) -> None:
    """Write the page where it differs, so that Sphinx reads it again only then."""
    text = "\n".join([INTRODUCTION, *(line for verb in VERBS.values() for line in verb_section(verb))]) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def verb_section(verb: Verb) -> Iterator[str]:
    """Yield the lines about one verb."""
    yield from (f"## `{verb.name}`", "", verb.teaches, "")
    slots = verb_slots(verb.name)
    if slots:
        yield from ("| Group | Choices (default in bold) |", "| --- | --- |")
        groups = {slot.group: slot.default for slot in reversed(slots)}
        for group, default in sorted(groups.items()):
            names = (f"**{name}**" if name == default else name for name in group_choices(group))
            yield f"| `{group}` | {', '.join(names)} |"
        yield ""
    defaults = composed(verb.name, {})
    for prefix, owner in sections(verb.settings_class):
        own = [(field, hint) for field, hint in fields_of(owner) if section(hint) is None]
        if not own:
            continue
        if prefix:
            yield from (
                f"### `{verb.name}`: `{'.'.join(prefix)}`",
                "",
                str(owner.__doc__).splitlines()[0],
                "",
            )
        yield from ("| Setting | Type | Default | Meaning |", "| --- | --- | --- | --- |")
        for field, hint in own:
            path = (*prefix, field.name)
            default = _default(field, path, defaults)
            yield f"| `{'.'.join(path)}` | {_type(hint)} | {default} | {_meaning(field)} |"
        yield ""


def _type(hint: Any) -> str:
    names = [getattr(option, "__name__", str(option)) for option in options(hint)]
    names = ["unset" if name == "NoneType" else name for name in names]
    return " or ".join(str(hint) if "[" in str(hint) and len(names) == 1 else name for name in names)


def _default(field: Field[Any], path: tuple[str, ...], defaults: Any) -> str:
    value = defaults
    for part in path:
        value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
    if value is MISSING:
        value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "needed"
    return "unset" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meaning(field: Field[Any]) -> str:
    choices, low, high = (field.metadata[name] for name in ("choices", "minimum", "maximum"))
    limits = [f"one of {', '.join(f'`{choice}`' for choice in choices)}"] if choices else []
    limits += [f"at least {low:,.10g}"] if low is not None else []
    limits += [f"at most {high:,.10g}"] if high is not None else []
    text = str(field.metadata["help"]).replace("|", "\\|")
    return f"{text} ({'; '.join(limits)})" if limits else text
