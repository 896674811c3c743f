"""Tasks made of real Python: the next line of a file, and the signature that a docstring describes.

They are made of a corpus's held-out documents where one is given, and else of this Python's standard library,
which a model may have been trained on.
"""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from codex_ray.config.evaluate import Answering
from codex_ray.corpus.documents import Document
from codex_ray.errors import CodexRayError
from codex_ray.evaluate.metrics import Example
from codex_ray.evaluate.tasks import Task

CONTEXT_LINES = 40  # before the line that is asked for
SHORTEST = 8  # characters of a line that is worth asking for
SHOTS = 3
METRICS = ("exact_match", "edit_similarity", "identifier_f1")
LONGEST_SUMMARY = 120


def next_line_task(count: int, seed: int, documents: Sequence[Document]) -> Task:
    """Lines of code to be written after the lines before them.

    Raises:
        CodexRayError: the documents hold no Python.
    """
    found: list[tuple[str, int, list[str]]] = []
    for document in _python(documents):
        lines = document.text.split("\n")
        found += [
            (document.name, place, lines)
            for place in range(5, len(lines))
            if len(lines[place].strip()) >= SHORTEST and not lines[place].lstrip().startswith("#")
        ]
    examples = []
    for name, place, lines in _chosen(found, count, seed, "next_line"):
        before = "".join(f"{line}\n" for line in lines[max(0, place - CONTEXT_LINES) : place])
        examples.append(Example(f"{name}:{place + 1}", before, (lines[place],)))
    return Task(
        "next_line",
        tuple(examples),
        Answering(max_new_tokens=48, stop=["\n"]),
        METRICS,
        version="2",
        description=f"The next line of {_origin(documents)}, after up to {CONTEXT_LINES} lines.",
    )


def signatures_task(count: int, seed: int, documents: Sequence[Document]) -> Task:
    """Function signatures to be written from their docstrings' first lines, after three that are shown.

    Raises:
        CodexRayError: the documents hold too few functions with docstrings.
    """
    found = [
        (document.name, *function)
        for document in _python(documents)
        for function in _functions(document.text)
    ]
    if len(found) <= SHOTS:
        raise CodexRayError(f"the documents hold {len(found)} functions with docstrings; give others")
    draw = random.Random(seed + 1)
    examples = []
    for place, (name, line, summary, signature) in enumerate(_chosen(found, count, seed, "signatures")):
        others = [one for one in draw.sample(found, SHOTS + 1) if one[:2] != (name, line)][:SHOTS]
        shown = "".join(f'"""{told}"""\ndef {written}\n\n' for *_, told, written in others)
        prompt = f'{shown}"""{summary}"""\ndef'
        examples.append(Example(f"{place}:{name}:{line}", prompt, (signature,)))
    return Task(
        "signatures",
        tuple(examples),
        Answering(max_new_tokens=48, stop=["\n"]),
        METRICS,
        version="2",
        description=f"Signatures of functions in {_origin(documents)} from their docstrings' first lines.",
    )


def _chosen(found: list[tuple], count: int, seed: int, task: str) -> list[tuple]:  # type: ignore[type-arg]
    if not found:
        raise CodexRayError(f"task {task} needs Python files and the documents hold none; give others")
    places = random.Random(seed).sample(range(len(found)), min(count, len(found)))
    return [found[place] for place in places]


def _python(documents: Sequence[Document]) -> Iterator[Document]:
    if documents:
        yield from (document for document in documents if document.name.endswith(".py"))
        return
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.glob("*.py")):
        yield Document(path.name, path.read_text(encoding="utf-8", errors="replace"))


def _origin(documents: Sequence[Document]) -> str:
    return "held-out files" if documents else "this Python's standard library"


def _functions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the docstring's first line and the signature of each function that has one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (told := ast.get_docstring(node)):
            summary = told.splitlines()[0].strip()
            if summary and len(summary) <= LONGEST_SUMMARY and '"""' not in summary:
                returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                yield node.lineno, summary, f"{node.name}({ast.unparse(node.args)}){returns}:"
