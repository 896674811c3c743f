"""``corpus remove``: a corpus without some of its documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codex_ray.config.corpora import RemoveDocuments
from codex_ray.corpus.index import readers
from codex_ray.corpus.manifest import Manifest, SourceRows
from codex_ray.corpus.stages import digest
from codex_ray.corpus.verbs.repack import Flags
from codex_ray.corpus.verbs.rewrite import Origin, Rewriter, Written, find_written, keep_weights
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.track.progress import Progress


class Wanted:
    """The documents that are to go, by name or by the SHA-256 of their text."""

    def __init__(self, names: Sequence[str], hashes: Sequence[bytes], source: str | None) -> None:
        self._names = pa.array(list(dict.fromkeys(names)), pa.string())
        self._patterns = [name for name in dict.fromkeys(names) if set(name) & set("*?")]
        self._hashes = pa.array(list(dict.fromkeys(hashes)), pa.binary(32))
        self._source = source

    def __call__(self, _split: str, source: str, table: pa.Table) -> Flags:
        """Flag the lines of a table of the index that are to go."""
        if self._source not in (None, source):
            return np.zeros(len(table), dtype=bool)
        names = table.column("name")
        flags = (
            pc.is_in(names, self._names).to_numpy()
            | pc.is_in(table.column("sha256"), self._hashes).to_numpy()
        )
        flags = np.array(flags)
        if self._patterns:
            flags |= [any(fnmatchcase(name, glob) for glob in self._patterns) for name in names.to_pylist()]
        return flags

    def missing(self, names: set[str], hashes: set[bytes]) -> list[str]:
        """Return what was asked for and is not among the names and hashes that were found."""
        asked = self._names.to_pylist()
        absent = [
            name
            for name in asked
            if name not in names
            and not (name in self._patterns and any(fnmatchcase(found, name) for found in names))
        ]
        return absent + [value.hex() for value in self._hashes.to_pylist() if value not in hashes]


def remove_verb(settings: RemoveDocuments, progress: Progress | None = None) -> Written:
    """Write a corpus without the documents that are named.

    The documents go from every split, with their text, tokens and lines of the index; the account of their
    source counts them as dropped, ``removed``. Rows packed contiguously are those of the old run of tokens
    without theirs; see :mod:`codex_ray.corpus.verbs.repack`.

    Memory grows with the number of removed documents alone.

    Raises:
        CodexRayError: a named document is not in the corpus, nothing would be left, or the corpus is damaged.
        ConfigError: the output is taken.
    """
    manifest = Manifest.load(Path(settings.corpus).expanduser())
    if settings.source is not None and settings.source not in manifest.sources:
        raise ConfigError(f"corpus {manifest.folder} has no source {settings.source!r}")
    given = [bytes.fromhex(value) for value in settings.sha256]
    hashes = [*given, *_read_match(settings.match)]
    wanted = Wanted(settings.names, hashes, settings.source)
    output = Path(settings.output).expanduser().absolute()
    with Progress(settings.progress) if progress is None else progress as shown:
        removed = _select(manifest, wanted, shown)
        request = digest(["remove", manifest.fingerprint, removed])
        written = find_written(output, request)
        if written is None:
            origin = Origin(manifest, {name: name for name in manifest.sources}, wanted)

            def weigh(split: str, after: Sequence[SourceRows]) -> list[float]:
                return keep_weights(manifest.splits[split].sources, after)

            chosen = {**manifest.settings, "removed": [*manifest.settings.get("removed", []), removed]}
            written = Rewriter(output, [origin], chosen, request, weigh).write(shown)
        rows = [
            (split, f"{info.documents:,} documents", f"{info.rows:,} rows", f"before: {old.rows:,} rows")
            for (split, info), old in zip(
                written.manifest.splits.items(), manifest.splits.values(), strict=True
            )
        ]
        made = "is already made" if written.reused else "is made"
        shown.table(f"corpus {output} {made}: without {written.removed:,} documents", rows)
    return written


def _select(manifest: Manifest, wanted: Wanted, progress: Progress) -> str:
    """Look for the documents; returns a digest of the lines that go.

    Raises:
        CodexRayError: something was asked for that is not there.
    """
    found, names, hashes = hashlib.sha256(), set[str](), set[bytes]()
    total = sum(
        f.documents for s in manifest.splits.values() for source in s.sources for f in source.index_files
    )
    with progress.stage("look", total, "lines"):
        for reader in readers(manifest):
            found.update(f"{reader.split}\0{reader.info.source}\n".encode())
            for table in reader.tables(("name", "sha256", "offset")):
                gone = table.filter(pa.array(wanted(reader.split, reader.info.source, table)))
                for name, sha256, offset in zip(
                    *(gone.column(c).to_pylist() for c in gone.column_names), strict=True
                ):
                    found.update(f"{offset} {name}\n".encode())
                    names.add(name)
                    hashes.add(sha256)
                progress.advance(len(table))
    missing = wanted.missing(names, hashes)
    if missing:
        more = f" and {len(missing) - 1:,} more are" if len(missing) > 1 else " is"
        raise CodexRayError(
            f"{missing[0]}{more} not in corpus {manifest.folder}, so nothing was written; "
            "look for documents with codex-ray corpus find"
        )
    return found.hexdigest()


def _read_match(path: str | None) -> Iterator[bytes]:
    """Iterate over the SHA-256 of a file of JSON lines.

    Raises:
        CodexRayError: the file cannot be read, or a line has no SHA-256.
    """
    if path is None:
        return
    try:
        with Path(path).expanduser().open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _sha256(line, number, path)
    except (OSError, UnicodeDecodeError) as error:
        raise CodexRayError(f"{path} cannot be read ({error}); give match=FILE of JSON lines") from error


def _sha256(line: str, number: int, path: str) -> bytes:
    try:
        value = bytes.fromhex(json.loads(line)["sha256"])
    except (ValueError, TypeError, KeyError):
        value = b""
    if len(value) != 32:
        raise CodexRayError(
            f'line {number} of {path} has no SHA-256; every line must be like {{"sha256": "9f86..."}}, '
            "as corpus find output=FILE writes"
        )
    return value
