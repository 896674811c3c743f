"""Every command of the documentation composes, every Python snippet's names exist, marked ones run."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from codex_ray import cli
from codex_ray.config.compose import compose
from codex_ray.errors import CodexRayError

ROOT = Path(__file__).resolve().parents[3]
GENERATED = ("settings.md", "rules.md", "licences.md")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in GENERATED),
]
MARK = "<!-- executed by a test -->"
FENCE = re.compile(
    r"^(?P<mark>" + re.escape(MARK) + r"\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
ENDS = {";", "&", "&&", "|", "||", "(", ")"}


class Snippet(NamedTuple):
    """One block of code."""

    page: Path
    line: int
    kind: str
    text: str
    marked: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def snippets(*kinds: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["kind"] in kinds:
                line = text.count("\n", 0, match.start("text")) + 1
                found.append(Snippet(page, line, match["kind"], match["text"], bool(match["mark"])))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell script as words; redirections and variables in front are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield words[: words.index(">")] if ">" in words else words
            words = []


def verb_words(command: list[str]) -> list[str] | None:
    """Return the words of a command of ours, by its name, its module or its script; None of any other."""
    if command[0] == "codex-ray":
        return command[1:]
    if command[1:3] == ["-m", "codex_ray"]:
        return command[3:]
    if command[0].startswith("python") and len(command) > 1 and command[1].startswith("jobs/"):
        return [Path(command[1]).stem, *command[2:]]
    return None


@pytest.mark.parametrize("snippet", snippets("sh", "bash"), ids=str)
def test_every_command_composes(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown verbs, options and settings, wrong values and settings that exclude each other are found."""
    monkeypatch.chdir(ROOT)
    for command in commands(snippet.text):
        words = verb_words(command)
        if words is None:
            continue
        request = cli._parse(words)
        if not request.words or request.flags & {"--help", "--version"}:
            continue
        verb, rest = cli._split_verb(request.words)
        file = request.options.get("--config")
        try:
            compose(verb.name, rest, file if file and Path(file).exists() else None)
        except CodexRayError as error:
            pytest.fail(f"{shlex.join(command)}: {error}")


def test_commands_are_found_and_a_wrong_one_is_refused() -> None:
    text = "A=1 codex-ray pretrain corpus train.stepz=3 | tail -n 1 > x  # none such\nls; codex-ray --help\n"
    first, tail, ls, second = list(commands(text))
    assert (tail, ls, second) == (["tail", "-n", "1"], ["ls"], ["codex-ray", "--help"])
    words = verb_words(first)
    assert words == ["pretrain", "corpus", "train.stepz=3"]
    with pytest.raises(CodexRayError, match="did you mean"):
        compose(words[0], words[1:])
    assert (
        sum(verb_words(one) is not None for one in map(list, commands("kubectl get secret codex-ray\n"))) == 0
    )
    found = [one for snippet in snippets("sh", "bash") for one in commands(snippet.text) if verb_words(one)]
    assert len(found) > 70


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_what_python_snippets_import_exists(snippet: Snippet) -> None:
    for node in ast.walk(ast.parse(snippet.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("codex_ray"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "codex_ray"
        ):
            assert hasattr(importlib.import_module("codex_ray"), node.attr), node.attr


@pytest.mark.parametrize("snippet", [one for one in snippets("sh", "bash", "python") if one.marked], ids=str)
def test_marked_snippets_run(snippet: Snippet, tmp_path: Path) -> None:
    interpreter = [sys.executable, "-c"] if snippet.kind == "python" else ["bash", "-euo", "pipefail", "-c"]
    wrapper = tmp_path / "bin" / "codex-ray"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m codex_ray "$@"\n')
    wrapper.chmod(0o755)
    (tmp_path / "work").mkdir()
    variables = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*interpreter, snippet.text],
        cwd=tmp_path / "work",
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in re.findall(r"\bprint\(.*\)  # (.+)$", snippet.text, re.MULTILINE):
        assert expected in done.stdout


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_of_pages_outside_docs_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (ROOT / target).exists(), target
