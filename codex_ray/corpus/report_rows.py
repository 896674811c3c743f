"""What a corpus report shows of the rows: a few of every source as text, document by document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.index import SourceReader
from codex_ray.corpus.manifest import Manifest, SourceRows
from codex_ray.track.page import escape, section

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

SOURCES_SHOWN = 12
TOKENS_SHOWN = 600  # of a row


@dataclass(frozen=True)
class Run:
    """Tokens of one document, ``start`` to ``stop`` among its source's; ``name`` is empty for padding."""

    name: str
    start: int
    stop: int


def rows_section(manifest: Manifest, sources: Sequence[str]) -> str:
    """Return some training rows of the sources, decoded.

    Raises:
        CodexRayError: a shard, an index file or the tokenizer is missing or damaged.
    """
    from codex_ray.tokenizer import Tokenizer

    train = manifest.splits.get("train")
    if train is None or train.rows == 0:
        return ""
    writer = _Writer(Tokenizer.load(manifest.folder / "tokenizer"))
    reader = RowReader(manifest, "train", cached_groups=1)
    first, parts, shown, wanted = 0, list[str](), 0, set(sources)
    for source in train.sources:
        start, first = first, first + source.rows
        if shown == SOURCES_SHOWN or not source.rows or source.source not in wanted:
            continue
        shown += 1
        parts.append(f'<h3 class="named">{escape(source.source)}</h3>')
        rows = sorted({0, source.rows // 2, source.rows - 1})
        tokens = reader.take(np.array(rows, dtype=np.int64) + start)
        for row, values in zip(rows, tokens, strict=True):
            runs = list(row_runs(manifest, source, row))
            parts.append(writer.row(row, values, runs, row * manifest.sequence_length))
    left = sum(1 for source in train.sources if source.rows) - shown
    more = f"<p>and the rows of {left:,} more sources</p>" if left else ""
    note = "What training reads, as text: each document under its name, special tokens in frames."
    return section("Rows", "".join(parts) + more, note)


def row_runs(manifest: Manifest, source: SourceRows, row: int) -> Iterator[Run]:
    """Iterate over the documents, and the padding, that a source's training row is made of.

    Raises:
        CodexRayError: an index file is missing or damaged.
    """
    start, stop = row * manifest.sequence_length, (row + 1) * manifest.sequence_length
    at = start
    names = [other.source for other in manifest.splits["train"].sources]
    reader = SourceReader(manifest, "train", names.index(source.source))
    for line in reader.overlapping(start, stop):
        if line.offset > at:
            yield Run("", at, line.offset)
        at = line.offset + line.tokens
        yield Run(line.name, line.offset, at)
    if at < stop:
        yield Run("", at, stop)


class _Writer:
    """Rows of tokens as HTML."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        pieces = tokenizer.vocabulary()
        ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
        self._special = {token: pieces[token] for token in ids if token is not None}

    def row(self, number: int, tokens: NDArray[Any], runs: Sequence[Run], base: int) -> str:
        """Write one row whose first token is its source's token ``base``."""
        parts, left = [], TOKENS_SHOWN
        for run in runs:
            first, stop = max(run.start - base, 0), min(run.stop - base, len(tokens))
            shown = tokens[first : min(stop, first + left)]
            if len(shown):
                parts.append(f'<span class="piece">{self._title(run, base)}{self._text(shown)}</span>')
            left -= len(shown)
        hidden = len(tokens) - (TOKENS_SHOWN - left)
        more = f'<span class="piece"><small>and {hidden:,} more tokens</small></span>' if hidden else ""
        documents = sum(1 for run in runs if run.name)
        count = f"{documents:,} document{'' if documents == 1 else 's'}" if documents else ""
        return (
            f'<div class="row"><h3>row {number:,} <b>{count}</b></h3><pre>{"".join(parts)}{more}</pre></div>'
        )

    def _title(self, run: Run, base: int) -> str:
        if not run.name:
            return ""
        since = f", from its token {base - run.start:,}" if run.start < base else ""
        return f"<small>{escape(run.name)}{since}</small>"

    def _text(self, tokens: NDArray[Any]) -> str:
        """Decode a run of tokens; special ones stand in frames, many equal ones in one."""
        parts = []
        for special, group in groupby(tokens.tolist(), lambda token: self._special.get(token)):
            found = list(group)
            if special is None:
                parts.append(escape(self._tokenizer.decode(found)))
            else:
                times = f" &times; {len(found):,}" if len(found) > 1 else ""
                parts.append(f"<mark>{escape(special)}{times}</mark>")
        return "".join(parts)
