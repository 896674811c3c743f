"""Function headers from held-out Python files, completed and parsed.

A header is a one-line ``def ...:`` whose body begins on a later line. Its prompt is the file up to and
including that line. A completion counts if the header and the body cut from it parse as one function.
"""

from __future__ import annotations

import ast
import random
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from codex_ray.evaluate.ngram import NgramModel
from codex_ray.rollout.choosing import sample
from codex_ray.rollout.generate import generate, prompt_ids
from codex_ray.rollout.sampler import max_positions
from codex_ray.rollout.sampling import Sampling, row_seeds

if TYPE_CHECKING:
    from codex_ray.corpus.documents import Document
    from codex_ray.tokenizer import Tokenizer

MAX_NEW_TOKENS = 96
"""Longest completion of a header: room for a few lines of code, and small beside a context of 256."""

SAMPLING = Sampling(temperature=0.8, top_p=0.95)
"""How model and n-gram draw tokens: the defaults of ``generate``."""


@dataclass(frozen=True)
class Header:
    """A function header in its file.

    Attributes:
        document: name of the file.
        prompt: text of the file up to and including the header's line and its newline.
        line: the header's line alone.
    """

    document: str
    prompt: str
    line: str


@dataclass(frozen=True)
class HeaderResult:
    """A header with the completion a model gave it."""

    header: Header
    completion: str
    parsed: bool


def find_headers(documents: Sequence[Document], count: int, seed: int) -> list[Header]:
    """Choose function headers from the Python files among ``documents``, the same ones for a seed.

    Files that do not parse have none. Fewer than ``count`` are returned where there are fewer.
    """
    found = [
        (document, line)
        for document in documents
        if document.name.endswith(".py")
        for line in header_lines(document.text)
    ]
    chosen = random.Random(seed).sample(range(len(found)), min(count, len(found)))
    headers = []
    for document, line in (found[place] for place in sorted(chosen)):
        lines = document.text.splitlines(keepends=True)[:line]
        headers.append(Header(document.name, "".join(lines), lines[-1]))
    return headers


def header_lines(text: str) -> list[int]:
    """Return the line numbers, from 1, of the one-line function headers in a Python file."""
    tree = _parse(text)
    lines = text.splitlines()
    # ``ast`` counts newlines only, ``splitlines`` other separators too: files that hold those are left out.
    if tree is None or len(lines) != text.count("\n") + (not text.endswith("\n")):
        return []
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and lines[node.lineno - 1].rstrip().endswith(":")
        and node.body[0].lineno > node.lineno
    )


def cut_body(line: str, completion: str) -> str:
    """Return the lines of a completion that belong to the function of header ``line``.

    They end before the first line indented no deeper than the header; where there is none, the last line is
    dropped unless a newline ends it, because the model may not have finished it.
    """
    depth = _indentation(line)
    body: list[str] = []
    for text in completion.splitlines(keepends=True):
        if text.strip() and _indentation(text) <= depth:
            return "".join(body)
        body.append(text)
    if body and not body[-1].endswith(("\n", "\r")):
        body.pop()
    return "".join(body)


def parses(header: Header, completion: str) -> bool:
    """Whether the header and its cut body are one function with at least one statement."""
    tree = _parse(textwrap.dedent(header.line + cut_body(header.line, completion)))
    return (
        tree is not None
        and len(tree.body) == 1
        and isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef)
    )


def _parse(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _indentation(line: str) -> int:
    """Columns before the first character, tabs to multiples of eight as Python counts them."""
    expanded = line.expandtabs(8)
    return len(expanded) - len(expanded.lstrip(" "))


def complete_with_model(
    model: Any, tokenizer: Tokenizer, headers: Sequence[Header], *, seed: int, batch_rows: int = 32
) -> list[HeaderResult]:
    """Complete headers with a language model; long prompts keep the end that leaves room to complete."""
    limit = max_positions(model)
    new_tokens = MAX_NEW_TOKENS if limit is None else min(MAX_NEW_TOKENS, limit // 2)
    room = 0 if limit is None else limit - new_tokens
    prompts = prompt_ids(tokenizer, [header.prompt for header in headers])
    completions = generate(
        model,
        [prompt[-room:] for prompt in prompts],
        max_new_tokens=new_tokens,
        temperature=SAMPLING.temperature,
        top_k=SAMPLING.top_k,
        top_p=SAMPLING.top_p,
        seed=seed,
        tokenizer=tokenizer,
        batch_rows=batch_rows,
    )
    return _results(headers, [completion.text for completion in completions])


def complete_with_ngram(
    ngram: NgramModel, tokenizer: Tokenizer, headers: Sequence[Header], *, seed: int, batch_rows: int = 32
) -> list[HeaderResult]:
    """Complete headers with an n-gram model, drawing as :func:`complete_with_model` does."""
    prompts = prompt_ids(tokenizer, [header.prompt for header in headers])
    generators = [np.random.default_rng(row_seed) for row_seed in row_seeds(seed, len(headers))]
    drawn: list[list[int]] = [[] for _ in headers]
    for start in range(0, len(headers), batch_rows):
        running = list(range(start, min(start + batch_rows, len(headers))))
        for _ in range(MAX_NEW_TOKENS):
            if not running:
                break
            contexts = [[*prompts[row][-ngram.order :], *drawn[row]] for row in running]
            probabilities_BV = np.stack([ngram.distribution(context) for context in contexts])
            uniforms = [generators[row].random() for row in running]
            tokens_B = sample(torch.from_numpy(np.log(probabilities_BV)), uniforms, SAMPLING)[0].tolist()
            for row, token in zip(running, tokens_B, strict=True):
                drawn[row].append(token)
            running = [row for row in running if drawn[row][-1] != tokenizer.eos_id]
    # The end token has no text.
    return _results(headers, [tokenizer.decode(ids) for ids in drawn])


def _results(headers: Sequence[Header], texts: Sequence[str]) -> list[HeaderResult]:
    return [
        HeaderResult(header, text, parses(header, text)) for header, text in zip(headers, texts, strict=True)
    ]


def share_parsed(results: Sequence[HeaderResult]) -> float:
    """Share of completions that parse."""
    return sum(result.parsed for result in results) / len(results)
