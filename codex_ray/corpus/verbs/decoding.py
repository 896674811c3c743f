"""Text of tokens, and of documents whether the corpus keeps their text or their tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.documents import documents
from codex_ray.corpus.index import Line, SourceReader, lines
from codex_ray.corpus.manifest import Manifest
from codex_ray.tokenizer import Tokenizer


class Decoder:
    """Text of runs of tokens, special ones left out."""

    def __init__(self, manifest: Manifest) -> None:
        self.tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
        self.exact = self.tokenizer.byte_pieces is not None

    def encoded(self, tokens: NDArray[Any]) -> bytes:
        """Return the UTF-8 of tokens; with our tokenizer the very bytes that were encoded."""
        pieces = self.tokenizer.byte_pieces
        if pieces is None:
            return self.tokenizer.decode(tokens.tolist()).encode()
        return b"".join(map(pieces.__getitem__, tokens.tolist()))

    def text(self, tokens: NDArray[Any]) -> str:
        """Return the text of tokens; half characters become U+FFFD."""
        return self.tokenizer.decode(tokens.tolist())

    def ends(self, tokens: NDArray[Any]) -> bool:
        """Say whether a document's last token is the last of these."""
        return bool(len(tokens)) and int(tokens[-1]) == self.tokenizer.special_ids["eos"]

    def begins(self, tokens: NDArray[Any]) -> bool:
        """Say whether a document begins here, as far as the tokenizer has a token for it."""
        return bool(len(tokens)) and self.tokenizer.bos_id in (None, int(tokens[0]))


def runs(reader: SourceReader) -> Iterator[tuple[Line, NDArray[Any]]]:
    """Iterate over all lines of a source with their tokens, as far as rows hold them; rows are read once."""
    for table in reader.tables():
        for line in lines_of(table):
            yield line, reader.tokens(line)


def lines_of(table: Any) -> Iterator[Line]:
    """Iterate over the lines of a large table, a thousand turned into Python at a time."""
    for start in range(0, len(table), 1000):
        yield from lines(table.slice(start, 1000))


def joined(reader: SourceReader, found: Sequence[Line]) -> NDArray[Any]:
    """Return the tokens of a document's lines, in the order of its text."""
    parts = [reader.tokens(line) for line in sorted(found, key=lambda line: line.offset)]
    return np.concatenate(parts) if parts else np.empty(0, reader.manifest.dtype)


def held_out(manifest: Manifest, split: str) -> Iterator[tuple[str, str, str]]:
    """Iterate over the documents of a held-out split: source, name there, and text."""
    sources = [source.source for source in manifest.splits[split].sources]
    for document in documents(manifest.folder, split):
        source, name = sources[0], document.name
        if len(sources) > 1:
            source, _, name = name.partition("/")
        yield source, name, document.text
