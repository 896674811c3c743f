"""Choosing function headers, cutting bodies from completions, and parsing them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.evaluate.headers import Header, cut_body, find_headers, header_lines, parses

SOURCE = '''"""def not_code(x):"""
import os

def plain(x):
    return x

class Thing:
    async def method(self, y: int = 3) -> int:  
        def inner(): return 1
        return y

def one_line(x): return x

def over(
    lines,
):
    pass

def last(z):
\treturn z
'''


@dataclass(frozen=True)
class Document:
    name: str
    text: str


def header(line: str) -> Header:
    return Header("a.py", f"import os\n\n{line}", line)


def test_headers_are_the_one_line_definitions_with_a_body_below() -> None:
    lines = [SOURCE.splitlines()[line - 1].strip() for line in header_lines(SOURCE)]
    assert lines == ["def plain(x):", "async def method(self, y: int = 3) -> int:", "def last(z):"]


@pytest.mark.parametrize("text", ["", "def broken(:\n    pass\n", "x = 1\n", "def f():\n    '\x0c'\n", "\0"])
def test_files_without_usable_headers_have_none(text: str) -> None:
    assert header_lines(text) == []


def test_a_prompt_is_the_file_up_to_and_including_the_header() -> None:
    headers = find_headers([Document("a.py", SOURCE), Document("b.txt", SOURCE)], 10, seed=1)
    assert [found.line for found in headers] == [
        "def plain(x):\n",
        "    async def method(self, y: int = 3) -> int:  \n",
        "def last(z):\n",
    ]
    for found in headers:
        assert found.document == "a.py"
        assert found.prompt.endswith(found.line)
        assert SOURCE.startswith(found.prompt)


def test_the_choice_follows_the_seed() -> None:
    documents = [Document(f"{name}.py", SOURCE.replace("plain", name)) for name in "abcdefgh"]
    chosen = find_headers(documents, 6, seed=1)
    assert chosen == find_headers(documents, 6, seed=1)
    assert chosen != find_headers(documents, 6, seed=2)
    assert len(chosen) == len(set(chosen)) == 6


@pytest.mark.parametrize(
    ("line", "completion", "body"),
    [
        ("def f():\n", "    return 1\n\nx = 2\n", "    return 1\n\n"),  # a dedented line ends it
        ("def f():\n", "    return 1\n    x = ", "    return 1\n"),  # an unfinished last line is dropped
        ("def f():\n", "    return 1\n    x = 2\n", "    return 1\n    x = 2\n"),
        ("def f():\n", "    return 1", ""),
        ("def f():\n", "return 1\n", ""),
        ("def f():\n", "", ""),
        ("    def f():\n", "        a\n    def g():\n        b\n", "        a\n"),  # as deep as the header
        ("    def f():\n", "        a\n  b\n", "        a\n"),
        ("\tdef f():\n", "\t\ta\n        b\n", "\t\ta\n"),  # a tab is eight columns
        ("def f():\n", "    a\n \n    b\n# c\n", "    a\n \n    b\n"),  # blank lines do not end it
    ],
)
def test_cutting(line: str, completion: str, body: str) -> None:
    assert cut_body(line, completion) == body


@pytest.mark.parametrize(
    ("line", "completion", "expected"),
    [
        ("def f(x):\n", "    return x\n", True),
        ("def f(x):\n", '    """Say."""\n\ny = 1', True),
        ("    async def f(self):\n", "        await self\n        x = (1,\n", False),
        ("    async def f(self):\n", "        await self\n        x = (1,", True),
        ("def f(x):\n", "    if x:\n        return", False),  # nothing is left of the branch
        ("def f(x):\n", "", False),
        ("def f(x):\n", "x = 1\n", False),
        ("def f(x):\n", "    # only a comment\n", False),
        ("def f(x):\n", "    return x)\n", False),
        ("def f(x):\n", "    '\\d'\n    \0\n", False),
        ("def f(x):\n", "    x = " + "(" * 500 + "\n", False),
    ],
)
def test_parsing(line: str, completion: str, expected: bool) -> None:
    assert parses(header(line), completion) is expected


@given(st.text("ab \n\t(:)#'", max_size=40), st.sampled_from(["def f():\n", "    def f():\n"]))
def test_a_body_is_the_beginning_of_the_completion_and_deeper_than_the_header(
    completion: str, line: str
) -> None:
    body = cut_body(line, completion)
    assert completion.startswith(body)
    assert body == "" or body.endswith("\n")
    for text in body.splitlines():
        expanded = text.expandtabs(8)
        assert not expanded.strip() or expanded.startswith(" " * (len(line) - len(line.lstrip()) + 1))
    assert cut_body(line, body) == body
