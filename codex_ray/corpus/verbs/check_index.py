"""Comparing a source's index with its rows: which documents are where, and is their text what it was?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codex_ray.corpus.index import BEST_FIT, Int64, Line, SourceReader, numbers, packing_method
from codex_ray.corpus.verbs.decoding import Decoder, lines_of

SAMPLES = 16  # row groups of each source that are read where not all are
MOST_DAMAGES = 20  # of one source; whatever is wrong with it is then clear


@dataclass
class Checked:
    """What was compared, and what is wrong."""

    lines: int = 0
    rows: int = 0
    documents: int = 0
    damages: list[str] = field(default_factory=list)


def check_index(reader: SourceReader, deep: bool, advance: Callable[[float], None]) -> Checked:
    """Compare the index of one source of a split with its rows.

    Args:
        reader: the source.
        deep: read every row; otherwise a sample of row groups, evenly over the source.
        advance: is told of tokens as they are done.

    Raises:
        CodexRayError: a file cannot be read.
    """
    checker = _Checker(reader, deep)
    end = 0
    for table in reader.tables():
        checker.check_table(table, end)
        offsets, lengths = numbers(table, "offset"), numbers(table, "tokens")
        advance(float(offsets[-1] + lengths[-1] - end))
        end = int(offsets[-1] + lengths[-1])
    checker.check_end(end)
    return checker.result


class _Checker:
    def __init__(self, reader: SourceReader, deep: bool) -> None:
        self.reader, self.result = reader, Checked()
        self._decoder = Decoder(reader.manifest)
        self._pad = self._decoder.tokenizer.special_ids["pad"]
        self._best_fit = packing_method(reader.manifest, reader.info.source) == BEST_FIT
        info = reader.manifest.splits[reader.split]
        group = info.row_group_rows * reader.length
        groups = -(-reader.stored_tokens // group)
        every = 1 if deep else max(1, -(-groups // SAMPLES))
        self._group, self._every = group, every
        self._open: dict[tuple[str, bytes], tuple[Any, int]] = {}  # documents not ended yet: hash, bytes
        self._last_row = -1

    def check_table(self, table: pa.Table, end: int) -> None:
        """Check lines that follow the one that ended at ``end``."""
        offsets, lengths = numbers(table, "offset"), numbers(table, "tokens")
        self.result.lines += len(table)
        ends = np.concatenate([[end], offsets + lengths])
        gaps = offsets - ends[:-1]
        if (gaps < 0).any() or (lengths < 1).any():
            self._damage(table, int(np.argmax((gaps < 0) | (lengths < 1))), "overlaps the one before it")
        if self._best_fit:
            self._check_rows(table, offsets, lengths, gaps)
        elif (gaps > 0).any():
            self._damage(table, int(np.argmax(gaps > 0)), "leaves tokens before it that are of no document")
        self._check_padding(offsets, gaps)
        for first, last in self._sampled(offsets, lengths):
            self._read(table.slice(first, last - first))

    def check_end(self, end: int) -> None:
        """Check that the last line ends where the source does, and every document somewhere."""
        info, name = self.reader.info, self._name()
        for (document, _), _ in self._open.items() if self._every == 1 else ():
            self._say(f"document {document} of {name} has no end")
        if self._best_fit:
            rows = -(-end // self.reader.length)
            if rows != info.rows:
                self._say(f"the index of {name} ends in row {rows}, the rows end at {info.rows}")
            else:
                self._check_padding(np.array([stored := self.reader.stored_tokens]), np.array([stored - end]))
        elif end != info.tokens:
            self._say(f"the index of {name} ends at token {end}, the manifest says {info.tokens}")

    def _check_rows(self, table: pa.Table, offsets: Int64, lengths: Int64, gaps: Int64) -> None:
        length = self.reader.length
        across = offsets // length != (offsets + lengths - 1) // length
        if across.any():
            self._damage(table, int(np.argmax(across)), "crosses from one row into the next")
        wide = (gaps > 0) & ((offsets % length != 0) | (gaps >= length))
        if wide.any():
            self._damage(table, int(np.argmax(wide)), "comes after tokens that are of no document")

    def _check_padding(self, offsets: Int64, gaps: Int64) -> None:
        """Check that what lies between lines is padding, in the row groups that are read."""
        read = (gaps > 0) & ((offsets - gaps) // self._group % self._every == 0)
        for place in np.flatnonzero(read).tolist():
            for first, block in self.reader.blocks(int(offsets[place] - gaps[place]), int(offsets[place])):
                if (block != self._pad).any():
                    row = first // self.reader.length
                    self._say(f"row {row} of {self._name()} does not end in padding")

    def _sampled(self, offsets: Int64, lengths: Int64) -> Iterator[tuple[int, int]]:
        """Yield the runs of lines that touch the row groups that are read."""
        begins, ends = offsets // self._group, (offsets + lengths - 1) // self._group
        # A row group is read where it is a multiple of `every`; a long document may span several.
        chosen = (ends // self._every) * self._every >= begins
        chosen &= offsets < self.reader.stored_tokens
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
        yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)

    def _read(self, table: pa.Table) -> None:
        for line in lines_of(table):
            tokens = self.reader.tokens(line)
            whole = len(tokens) == line.tokens
            row = line.offset // self.reader.length
            last = (line.offset + max(len(tokens), 1) - 1) // self.reader.length
            self.result.rows += last - max(row, self._last_row + 1) + 1
            self._last_row = max(self._last_row, last)
            self._follow(line, tokens, whole)

    def _follow(self, line: Line, tokens: NDArray[Any], whole: bool) -> None:
        """Hash a document's text from run to run until its end token, then compare."""
        key, decoder = (line.name, line.sha256), self._decoder
        begun = self._open.pop(key, None)
        name = f"document {line.name} of {self._name()}"
        if begun is None:
            if not decoder.begins(tokens):
                if not self._best_fit or self._every == 1:
                    self._say(f"{name} does not begin at token {line.offset}, where the index says")
                return  # or it began in rows that were not read
            begun = hashlib.sha256(), 0
        text = decoder.encoded(tokens)
        hashed, size = begun[0], begun[1] + len(text)
        hashed.update(text)
        if not whole:
            return  # its end is in no row
        if not decoder.ends(tokens):
            if self._best_fit:
                self._open[key] = hashed, size
            else:
                self._say(f"{name} does not end at token {line.offset + line.tokens}, where the index says")
            return
        if size != line.bytes and self._best_fit and self._every > 1:
            return  # some of its runs were not read
        self.result.documents += decoder.exact
        if decoder.exact and hashed.digest() != line.sha256:
            self._say(f"{name} is not the text that the index names")

    def _name(self) -> str:
        return f"{self.reader.split}/{self.reader.info.source}"

    def _damage(self, table: pa.Table, place: int, what: str) -> None:
        name = table.column("name")[place].as_py()
        self._say(f"the index of {self._name()} is wrong: the line of document {name} {what}")

    def _say(self, damage: str) -> None:
        if len(self.result.damages) < MOST_DAMAGES:
            self.result.damages.append(damage)
