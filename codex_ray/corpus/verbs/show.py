"""``corpus show``: an overview of a corpus, rows of it as text, or one of its documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from codex_ray.config.corpora import ShowCorpus
from codex_ray.corpus.account import Account
from codex_ray.corpus.index import Line, SourceReader, packing_method, readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.verbs.decoding import Decoder, held_out, joined, lines_of
from codex_ray.errors import CodexRayError, nearest
from codex_ray.track.progress import Progress

BEGINS = 60  # characters of a sample


def show_verb(settings: ShowCorpus, progress: Progress | None = None) -> None:
    """Print what a corpus is, or the rows or the document that are asked for.

    Raises:
        CodexRayError: the corpus is damaged, or has no such split, row or document.
    """
    manifest = Manifest.load(Path(settings.corpus).expanduser())
    with Progress("off") if progress is None else progress as shown:
        if settings.row is not None:
            split = settings.split or "train"
            manifest.split(split)
            sources = list(readers(manifest, split))
            for row in range(settings.row, settings.row + settings.count):
                show_row(sources, row, Decoder(manifest), shown)
        elif settings.document is not None or settings.number is not None:
            _show_document(manifest, settings, shown)
        else:
            _overview(manifest, settings.samples, shown)


def source_of(sources: Sequence[SourceReader], row: int) -> tuple[SourceReader, int]:
    """Return the source that a row of a split is of, and its number there.

    Raises:
        CodexRayError: the split has no such row.
    """
    for reader in sources:
        if row < reader.first_row + reader.info.rows:
            return reader, row - reader.first_row
    first = sources[0]
    total = first.manifest.split(first.split).rows
    raise CodexRayError(
        f"split {first.split!r} of corpus {first.manifest.folder} has {total} rows, counted from 0, and no "
        f"row {row}; give row= below {total}"
    )


def show_row(
    sources: Sequence[SourceReader], row: int, decoder: Decoder, progress: Progress, title: str = ""
) -> None:
    """Print a row of a split: for each run of tokens its document, and the text."""
    reader, own = source_of(sources, row)
    start, stop = own * reader.length, (own + 1) * reader.length
    cells = []
    end = start
    for line in reader.overlapping(start, stop):
        first, last = max(line.offset, start), min(line.offset + line.tokens, stop)
        tokens = np.concatenate([block for _, block in reader.blocks(first, last)])
        cells.append(
            (f"tokens {first - start} to {last - start - 1}", f"{line.name} ({line.sha256.hex()[:12]})")
        )
        cells += [("", text) for text in decoder.text(tokens).splitlines()]
        end = last
    if end < stop:
        cells.append((f"tokens {end - start} to {reader.length - 1}", "padding"))
    title = title or f"row {row} of {reader.split}: row {own} of source {reader.info.source}"
    progress.table(title, cells)


def _overview(manifest: Manifest, samples: int, progress: Progress) -> None:
    facts = [
        ("fingerprint", manifest.fingerprint),
        ("life", manifest.life_id),
        ("rows", f"{manifest.sequence_length} tokens of {manifest.dtype}"),
        ("tokenizer", f"{manifest.vocabulary_size:,} pieces, {manifest.tokenizer_digest[:16]}"),
    ]
    progress.table(f"corpus {manifest.folder}", facts)
    columns = ("split", "source", "documents", "bytes", "tokens", "rows", "weight", "files")
    rows = []
    for split, info in manifest.splits.items():
        for source in info.sources:
            counts = (f"{getattr(source, name):,}" for name in ("documents", "bytes", "tokens", "rows"))
            files = len(source.shards) + len(source.index_files)
            rows.append((split, source.source, *counts, f"{source.weight:.1%}", f"{files:,}"))
    progress.table("splits", rows, columns)
    for name, described in manifest.sources.items():
        account = Account.from_plain(described)
        rows = [
            ("where", described.get("path") or ""),
            ("version", described.get("version") or ""),
            ("licence", described.get("licence") or ""),
            ("packing", packing_method(manifest, name)),
            ("read", f"{account.read:,} items; {account.kept:,} documents kept, {account.bytes:,} bytes"),
        ]
        for title in ("dropped", "quarantined", "changed"):
            for reason, count in sorted(getattr(account, title).items()):
                rows.append((title, f"{count:,} {reason.replace('_', ' ')}"))
                rows += [("", text) for text in _samples(account, reason, samples)]
        progress.table(f"source {name}", [row for row in rows if row[1]])


def _samples(account: Account, reason: str, count: int) -> Iterator[str]:
    for sample in account.samples.get(reason, [])[:count]:
        begins = " ".join(sample["begins"].split())[:BEGINS]
        shown = f": {begins}" if begins else ""
        detail = f" ({sample['detail']})" if sample["detail"] else ""
        yield f"{sample['name']}{detail}{shown}"


def _show_document(manifest: Manifest, settings: ShowCorpus, progress: Progress) -> None:
    if settings.split:
        manifest.split(settings.split)
    default = list(manifest.splits) if settings.number is None else ["train"]
    for split in [settings.split] if settings.split else default:
        for reader, found in _lines(manifest, split, settings):
            text, note = _text(manifest, reader, found)
            first = found[0]
            facts = [
                ("source", reader.info.source),
                ("sha256", first.sha256.hex()),
                ("size", f"{first.bytes:,} bytes, {sum(line.tokens for line in found):,} tokens"),
                ("rows", ", ".join(_rows(reader, line) for line in found)),
                *note,
            ]
            progress.table(f"document {first.name} of {split}", facts)
            print(text)
            return
    asked = f"number {settings.number}" if settings.number is not None else repr(settings.document)
    where = f"split {settings.split!r} of " if settings.split else ""
    raise CodexRayError(
        f"{where}corpus {manifest.folder} has no document {asked}; "
        "look for it with codex-ray corpus find name='*PART*'"
    )


def _rows(reader: SourceReader, line: Line) -> str:
    first, last = line.offset // reader.length, (line.offset + line.tokens - 1) // reader.length
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _lines(manifest: Manifest, split: str, settings: ShowCorpus) -> Iterator[tuple[SourceReader, list[Line]]]:
    """Yield the lines of the document that is asked for, of the first source that has it."""
    if settings.source is not None and settings.source not in manifest.sources:
        hint = nearest(settings.source, manifest.sources)
        raise CodexRayError(f"corpus {manifest.folder} has no source {settings.source!r}{hint}")
    name, sha256, number = settings.document, None, settings.number
    for reader in readers(manifest, split, settings.source):
        if number is not None:
            chosen, number = _numbered(reader, number)
            if chosen is None:
                continue
            name, sha256 = chosen.name, chosen.sha256
        found = list[Line]()
        for table in reader.tables():
            names = table.column("name").to_numpy(zero_copy_only=False)
            for line in lines_of(table.take(np.flatnonzero(names == name))):
                if sha256 in (None, line.sha256):
                    sha256 = line.sha256
                    found.append(line)
        if found:
            yield reader, found
            return


def _numbered(reader: SourceReader, number: int) -> tuple[Line | None, int]:
    """Return the line of that number, or how many lines are left to go in the next source."""
    for table in reader.tables():
        if number < len(table):
            return next(iter(lines_of(table.slice(number, 1)))), 0
        number -= len(table)
    return None, number


def _text(manifest: Manifest, reader: SourceReader, found: list[Line]) -> tuple[str, list[tuple[str, str]]]:
    """Return a document's text, as it is kept or as its tokens give it, and what is missing of it."""
    if manifest.splits[reader.split].document_files:
        for source, name, text in held_out(manifest, reader.split):
            if (source, name) == (reader.info.source, found[0].name):
                return text, []
    tokens = joined(reader, found)
    missing = sum(line.tokens for line in found) - len(tokens)
    note = [("missing", f"{missing:,} tokens at its end are in no row")] if missing else []
    return Decoder(manifest).text(tokens), note
