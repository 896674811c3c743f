"""``corpus find``: the documents with a name, a content hash, or a text in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codex_ray.config.corpora import FindDocuments
from codex_ray.corpus.index import BEST_FIT, Line, SourceReader, packing_method, readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.verbs.decoding import Decoder, held_out, lines_of
from codex_ray.errors import ConfigError, nearest
from codex_ray.files import unwritable
from codex_ray.track.progress import Progress


@dataclass(frozen=True)
class Found:
    """A document: where it is, and the first of its runs of tokens: from row to row of its source."""

    split: str
    source: str
    name: str
    sha256: str
    bytes: int
    first_row: int
    last_row: int


def find_verb(settings: FindDocuments, progress: Progress | None = None) -> int:
    """Print the documents that match, or write them as JSON lines; returns how many.

    A name or hash is looked for in the index. Text is looked for in the held-out documents as they are kept,
    and in training documents as their tokens decode: one after the other, in bounded memory.

    Raises:
        CodexRayError: the corpus is damaged or the output cannot be written.
        ConfigError: there is no such split or source.
    """
    manifest = Manifest.load(Path(settings.corpus).expanduser())
    for what, name, known in (
        ("split", settings.split, manifest.splits),
        ("source", settings.source, manifest.sources),
    ):
        if name is not None and name not in known:
            raise ConfigError(f"corpus {manifest.folder} has no {what} {name!r}{nearest(name, known)}")
    count = 0
    with ExitStack() as stack:
        shown = progress or stack.enter_context(Progress(settings.progress))
        stream = _open(settings.output, stack)
        for found in islice(find_documents(manifest, settings, shown), settings.limit):
            count += 1
            if stream is not None:
                stream.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")
            else:
                place = f"rows {found.first_row}-{found.last_row}"
                columns = (found.split, found.source, found.name, found.sha256, f"{found.bytes} bytes", place)
                sys.stdout.write("\t".join(columns) + "\n")
        where = f", in {settings.output}" if settings.output is not None else ""
        shown.note(f"{count:,} documents found{where}")
    return count


def find_documents(manifest: Manifest, settings: FindDocuments, progress: Progress) -> Iterator[Found]:
    """Iterate over the documents that match, each once, in the order of the index.

    Memory grows only with the found documents of sources packed by best fit, which are cut into runs.
    """
    for reader in readers(manifest, settings.split, settings.source):
        with progress.stage(f"look in {reader.split}/{reader.info.source}", reader.info.tokens, "tokens"):
            cut = packing_method(manifest, reader.info.source) == BEST_FIT
            seen = set[tuple[str, bytes]]()
            for line in _matching(reader, settings, progress):
                key = (line.name, line.sha256)
                if key not in seen:
                    if cut:
                        seen.add(key)
                    yield _found(reader, line)


def _found(reader: SourceReader, line: Line) -> Found:
    rows = (line.offset // reader.length, (line.offset + line.tokens - 1) // reader.length)
    return Found(reader.split, reader.info.source, line.name, line.sha256.hex(), line.bytes, *rows)


def _matching(reader: SourceReader, settings: FindDocuments, progress: Progress) -> Iterator[Line]:
    if settings.text is None:
        for table in reader.tables():
            flags = _flags(table, settings)
            yield from lines_of(table.filter(pa.array(flags)))
            progress.advance(sum(table.column("tokens").to_pylist()))
    elif reader.manifest.splits[reader.split].document_files:
        yield from _in_texts(reader, settings.text)
    else:
        yield from _in_tokens(reader, settings.text.encode(), progress)


def _flags(table: pa.Table, settings: FindDocuments) -> Any:
    if settings.sha256 is not None:
        wanted = pa.array([bytes.fromhex(settings.sha256)], pa.binary(32))
        return np.array(pc.is_in(table.column("sha256"), wanted))
    name = settings.name or ""
    names = table.column("name")
    exact = np.array(pc.equal(names, name))
    if set(name) & set("*?"):
        return exact | [fnmatchcase(own, name) for own in names.to_pylist()]
    return exact


def _in_texts(reader: SourceReader, text: str) -> Iterator[Line]:
    """Look in the texts that are kept, then yield the first line of each document that has it."""
    names = {
        name
        for source, name, own in held_out(reader.manifest, reader.split)
        if source == reader.info.source and text in own
    }
    if names:
        for table in reader.tables():
            flags = pc.is_in(table.column("name"), pa.array(sorted(names), pa.string()))
            yield from lines_of(table.filter(flags))


def _in_tokens(reader: SourceReader, wanted: bytes, progress: Progress) -> Iterator[Line]:
    """Decode every document; of one that is cut into runs, the end of a run is joined to the next."""
    decoder = Decoder(reader.manifest)
    tails: dict[tuple[str, bytes], bytes] = {}
    for table in reader.tables():
        for line in lines_of(table):
            key, tokens = (line.name, line.sha256), reader.tokens(line)
            text = tails.pop(key, b"") + decoder.encoded(tokens)
            if wanted in text:
                yield line
            if len(tokens) and not decoder.ends(tokens):
                tails[key] = text[max(0, len(text) - len(wanted) + 1) :]
            progress.advance(line.tokens)


def _open(output: str | None, stack: ExitStack) -> IO[str] | None:
    if output is None:
        return None
    path = Path(output).expanduser()
    try:
        return stack.enter_context(path.open("w", encoding="utf-8"))
    except OSError as error:
        raise unwritable(path, error) from error
