"""Help that teaches: what a verb does, examples, every setting with its default, choices and meaning."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field
from typing import Any

from codex_ray.config.groups import Slot, composed, group_choices, verb_slots
from codex_ray.config.tree import Key, fields_of, section, sections
from codex_ray.config.verbs import VERBS, Verb

WIDEST = 100
# The spaces within brackets never break a line; they are printed as ordinary ones.
_USAGE_TAIL = "[group=choice] [key=value~...] [--config~FILE] [--dry-run] [--submit~ADDRESS]"
_STATUS = "Exit status: 0 done, 1 failed, 2 bad usage or settings, 130 interrupted."


def overview(version: str) -> str:
    """Return the help of ``codex-ray`` itself: the verbs in life order, and what to try next."""
    lines = [
        *_wrapped(f"codex-ray {version}: the whole life of a language model on one Ray cluster."),
        "",
        *_usage("VERB [PATH]"),
        "",
        _bold("Verbs, in the order of a model's life"),
        *_table(((verb.name, verb.summary) for verb in VERBS.values()), column=21),
        "",
        *_options(),
        "",
        *_wrapped(_STATUS),
        *_wrapped("Try next: codex-ray quickstart (every verb explains itself: codex-ray VERB --help)"),
    ]
    return "\n".join(lines)


def verb_group_help(name: str) -> str:
    """Return the help of a word that needs a second one, such as ``tokenizer``."""
    inner = [verb for verb in VERBS.values() if verb.name.startswith(f"{name} ")]
    lines = [
        f"Usage: codex-ray {name} {'|'.join(verb.name.removeprefix(f'{name} ') for verb in inner)} ...",
        "",
        *_table(((verb.name, verb.summary) for verb in inner), column=21),
        "",
        f"Try next: codex-ray {inner[0].name} --help",
    ]
    return "\n".join(lines)


def verb_help(verb: Verb) -> str:
    """Return the help of one verb."""
    slots = verb_slots(verb.name)
    path = "".join(f" [{name.upper()}]" for name in verb.paths) + " ..." * verb.takes_any
    lines = [
        *_wrapped(f"codex-ray {verb.name}: {verb.summary}."),
        "",
        *_usage(f"{verb.name}{path}"),
        "",
        *_wrapped(verb.teaches),
        "",
        _bold("Examples"),
    ]
    for words, meaning in verb.examples:
        lines += [f"  codex-ray {words}", *_wrapped(meaning, indent=6)]
    if slots:
        lines += [
            "",
            _bold("Groups"),
            "  One choice sets a whole section; * is the default.",
            *_groups(slots),
        ]
    lines += ["", _bold("Settings"), "  Given as key=value; what stands here is the default.", ""]
    defaults = composed(verb.name, {})
    for prefix, owner in sections(verb.settings_class):
        lines += _section(prefix, owner, defaults)
    if verb.paths:
        what = "Bare PATHs set" if verb.takes_any else "A bare PATH sets"
        lines += _wrapped(f"{what} {', the next one '.join(verb.paths)}.")
    lines += ["", *_options(), "", *_wrapped(_STATUS)]
    return "\n".join(lines)


def _usage(what: str) -> list[str]:
    return [line.replace("~", " ") for line in _wrapped(f"Usage: codex-ray {what} {_USAGE_TAIL}", hanging=7)]


def _options() -> list[str]:
    return [
        _bold("Options"),
        *_table(
            [
                ("--config FILE", "a saved config.yaml or a file of your own, under the words given here"),
                ("--dry-run", "resolve and check the settings, print them as YAML, do nothing"),
                ("--submit ADDRESS", "run as a Ray job on the cluster at ADDRESS and follow its log"),
                ("--help, --version", "this text; the version"),
            ],
            column=20,
        ),
    ]


def _groups(slots: Iterable[Slot]) -> list[str]:
    shown: dict[str, str] = {}
    for slot in slots:
        choices = (f"{name}*" if name == slot.default else name for name in group_choices(slot.group))
        shown.setdefault(slot.group, "  ".join(choices))
    return _table(shown.items(), column=14)


def _section(prefix: Key, owner: type[Any], defaults: dict[str, Any]) -> list[str]:
    own = [(field, hint) for field, hint in fields_of(owner) if section(hint) is None]
    if not own:
        return []
    title = (
        [_bold(".".join(prefix)), *_wrapped(str(owner.__doc__).splitlines()[0], indent=2)] if prefix else []
    )
    rows = []
    for field, _ in own:
        path = (*prefix, field.name)
        rows.append((f"{'.'.join(path)}={_default(field, path, defaults)}", _meaning(field)))
    return [*title, *_table(rows), ""]


def _default(field: Field[Any], path: Key, defaults: Any) -> str:
    for part in path:
        defaults = defaults.get(part, MISSING) if isinstance(defaults, dict) else MISSING
    value = defaults
    if value is MISSING:
        factory: Any = field.default_factory
        value = field.default if factory is MISSING else factory()
    if value is MISSING:
        return "VALUE"
    return value if isinstance(value, str) else json.dumps(value)


def _meaning(field: Field[Any]) -> str:
    text = str(field.metadata["help"])
    choices, low, high = (field.metadata[name] for name in ("choices", "minimum", "maximum"))
    limits = []
    if choices:
        limits.append(f"one of {', '.join(map(str, choices))}")
    if low is not None and high is not None:
        limits.append(f"{low:g} to {high:g}")
    elif low is not None and low > 1:
        limits.append(f"at least {low:,.10g}")
    if field.default is MISSING and field.default_factory is MISSING:
        limits.append("needed")
    return f"{text} ({'; '.join(limits)})" if limits else text


def _width() -> int:
    return max(60, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def _wrapped(text: str, indent: int = 0, hanging: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        _width(),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(rows: Iterable[tuple[str, str]], column: int = 34) -> list[str]:
    return [line for left, right in rows for line in _row(left, right, column)]


def _row(left: str, right: str, column: int) -> Iterator[str]:
    lines = _wrapped(right, indent=column)
    if len(left) + 4 > column:
        yield f"  {left}"
    else:
        yield f"  {left}".ljust(column) + lines.pop(0).lstrip()
    yield from lines


def _bold(text: str) -> str:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\033[1m{text}\033[0m"
