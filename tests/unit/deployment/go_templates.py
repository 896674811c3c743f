"""The part of Helm's template language that the chart uses, for tests without Helm.

Actions with trimming, ``if``/``else``, ``range $key, $value := ...``, ``define``, fields, variables, strings,
parentheses, pipes; and the functions below. Anything else is an error. For the chart it gives
what Go 1.27's text/template gave, to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\$?[\w.]+|\$|[().|]|:=|,')
Node = tuple[str, Any]  # text; value; if, its two branches; range, its names and body


def render(chart: Path, values: Mapping[str, Any], release: str) -> dict[str, Any]:
    """Return the chart's documents by file, as ``helm template RELEASE CHART`` with these values would."""
    templates = {
        path.name: path.read_text(encoding="utf-8") for path in sorted((chart / "templates").glob("*"))
    }
    return {
        name: yaml.safe_load(text) for name, text in texts(templates, values, release).items() if text.strip()
    }


def texts(templates: Mapping[str, str], values: Mapping[str, Any], release: str) -> dict[str, str]:
    """Return the text of each template that is no ``_NAME.tpl``."""
    defined: dict[str, list[Node]] = {}
    parsed = {name: _parse(text, defined) for name, text in templates.items()}
    root = {"Values": values, "Release": {"Name": release}}
    return {
        name: _Renderer(defined, root).run(nodes, root, {})
        for name, nodes in parsed.items()
        if not name.startswith("_")
    }


def _parse(text: str, defined: dict[str, list[Node]]) -> list[Node]:
    tokens = list(_tokens(text))
    nodes, rest = _block(tokens, defined, ends=())
    assert not rest
    return nodes


def _tokens(text: str) -> Iterator[Node]:
    place, trimmed = 0, False
    for match in ACTION.finditer(text):
        before = text[place : match.start()]
        before = before.rstrip() if match[1] else before
        yield "text", before.lstrip() if trimmed else before
        yield "action", WORD.findall(match[2])
        place, trimmed = match.end(), bool(match[3])
    yield "text", text[place:].lstrip() if trimmed else text[place:]


def _block(
    tokens: list[Node], defined: dict[str, list[Node]], ends: tuple[str, ...]
) -> tuple[list[Node], list[Node]]:
    nodes: list[Node] = []
    while tokens:
        (kind, content), tokens = tokens[0], tokens[1:]
        if kind == "text":
            nodes.append((kind, content))
            continue
        first, *rest = content
        if first in ends:
            return nodes, [(kind, content), *tokens]
        if first not in ("if", "range", "define"):
            nodes.append(("value", content))
            continue
        body, tokens = _block(tokens, defined, ("end", "else"))
        other: list[Node] = []
        if tokens[0][1] == ["else"]:
            other, tokens = _block(tokens[1:], defined, ("end",))
        tokens = tokens[1:]
        if first == "define":
            defined[json.loads(rest[0])] = body
        else:
            nodes.append((first, (rest, body, other)))
    assert not ends, f"a block lacks its {ends}"
    return nodes, []


class _Renderer:
    def __init__(self, defined: Mapping[str, list[Node]], root: Any) -> None:
        self.defined, self.root = defined, root
        self.functions: dict[str, Callable[..., Any]] = {
            "include": lambda name, scope: self.run(self.defined[name], scope, {"$": scope}),
            "nindent": lambda width, text: "\n" + "\n".join(" " * width + line for line in text.split("\n")),
            "quote": lambda text: json.dumps(str(text)),
            "toJson": lambda value: json.dumps(_whole(value), sort_keys=True, separators=(",", ":")),
            "dict": lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True)),
            "not": lambda value: not value,
        }

    def run(self, nodes: list[Node], scope: Any, variables: Mapping[str, Any]) -> str:
        variables = {"$": self.root, **variables}
        text = ""
        for kind, content in nodes:
            if kind == "text":
                text += content
            elif kind == "value":
                text += _shown(self.value(content, scope, variables))
            elif kind == "if":
                words, body, other = content
                text += self.run(body if self.value(words, scope, variables) else other, scope, variables)
            else:
                (key, comma, value, assign, *words), body, _ = content
                assert (comma, assign) == (",", ":=")
                for name, one in sorted(self.value(words, scope, variables).items()):
                    text += self.run(body, one, {**variables, key: name, value: one})
        return text

    def value(self, words: list[str], scope: Any, variables: Mapping[str, Any]) -> Any:
        """Return what a pipe of calls gives; each takes what the one before gave as its last argument."""
        given: list[Any] = []
        for call in _split(words):
            function, arguments = call[0], call[1:]
            found = [self.operand(one, scope, variables) for one in _operands(arguments)]
            if function in self.functions:
                given = [self.functions[function](*found, *given)]
            else:
                assert not found and not given, f"{function} is no function"
                given = [self.operand([function], scope, variables)]
        return given[0]

    def operand(self, words: list[str], scope: Any, variables: Mapping[str, Any]) -> Any:
        if words[0] == "(":
            return self.value(words[1:-1], scope, variables)
        (word,) = words
        if word.startswith('"'):
            return json.loads(word)
        if word in ("true", "false"):
            return word == "true"
        if word.isdigit():
            return int(word)
        head, *fields = word.split(".")
        found = variables[head] if head else scope
        for name in filter(None, fields):
            found = found[name]
        return found


def _split(words: list[str]) -> list[list[str]]:
    calls, depth = [[]], 0  # type: ignore[var-annotated]
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "|" and not depth:
            calls.append([])
        else:
            calls[-1].append(word)
    if calls[0][0] == "(":  # a parenthesis alone
        calls[0] = calls[0][1:-1]
    return calls


def _operands(words: list[str]) -> Iterator[list[str]]:
    held: list[str] = []
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        held.append(word)
        if not depth:
            yield held
            held = []


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _whole(value: Any) -> Any:
    """Go writes 1.0 as 1."""
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
