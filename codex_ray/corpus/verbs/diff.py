"""``corpus diff``: what differs between two corpora."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from codex_ray.config.corpora import DiffCorpora
from codex_ray.config.fields import differences
from codex_ray.corpus.account import Account
from codex_ray.corpus.manifest import SPLITS, Manifest, SourceRows
from codex_ray.corpus.verbs.shared import Bucket, buckets
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable
from codex_ray.track.progress import Progress

LAYOUT = ("sequence_length", "vocabulary_size", "dtype", "tokenizer_digest")
FILES_SHOWN = 10
ONLY_FIRST, ONLY_SECOND, MOVED = "only in the first", "only in the second", "in another split"


@dataclass
class Differences:
    """What differs between two corpora; ``documents`` counts them by kind, with a few names of each."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    documents: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)


def diff_verb(settings: DiffCorpora, progress: Progress | None = None) -> Differences:
    """Print what differs between two corpora.

    Two corpora are equal when their fingerprints are: layout, tokenizer, what went in, and the hash of every
    file. As of ``diff``, the exit status is 0 for equal corpora and 1 for different ones.

    Raises:
        CodexRayError: they differ, or one of them cannot be read.
    """
    first, second = (Manifest.load(Path(name).expanduser()) for name in (settings.first, settings.second))
    found = Differences()
    with Progress(settings.progress) if progress is None else progress as shown:
        if first.fingerprint == second.fingerprint:
            shown.table("the corpora are equal", [("fingerprint", first.fingerprint)])
            return found
        found.lines += _settings(first, second)
        found.lines += _splits(first, second)
        found.lines += _files(first, second)
        if settings.documents:
            _documents(first, second, settings, found, shown)
            for kind, count in found.documents.items():
                found.lines.append((f"documents {kind}", f"{count:,}"))
                found.lines += [("", name) for name in found.names.get(kind, ())]
            if not any(found.documents.values()):
                found.lines.append(("documents", "the same in every split"))
        shown.table(f"{first.folder} and {second.folder} differ", found.lines)
    raise CodexRayError(f"corpora {first.folder} and {second.folder} differ; what differs is printed above")


def _settings(first: Manifest, second: Manifest) -> Iterator[tuple[str, str]]:
    for name in LAYOUT:
        before, after = getattr(first, name), getattr(second, name)
        if before != after:
            yield name.replace("_", " "), f"was {before} and is {after}"
    for line in _two_sides(first.settings, second.settings):
        yield "settings", line
    accounts = ({name: _account(s) for name, s in manifest.sources.items()} for manifest in (first, second))
    for line in _two_sides(*accounts):
        yield "source", line


def _two_sides(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Say what differs; of what only one side has, that alone."""
    for key in sorted(before.keys() | after.keys()):
        if key in before and key in after:
            yield from differences({key: before[key]}, {key: after[key]})
        else:
            yield f"{key} is only in the {'first' if key in before else 'second'}"


def _account(source: dict[str, Any]) -> dict[str, Any]:
    """Return what is counted of a source, without samples and sizes, which would be pages."""
    counted = Account.from_plain(source).plain()
    return {key: value for key, value in {**source, **counted}.items() if key not in ("samples", "sizes")}


def _splits(first: Manifest, second: Manifest) -> Iterator[tuple[str, str]]:
    for split in sorted(first.splits.keys() | second.splits.keys()):
        before, after = [
            {source.source: _counts(source) for source in manifest.splits[split].sources}
            if split in manifest.splits
            else {}
            for manifest in (first, second)
        ]
        for line in _two_sides(before, after):
            yield f"split {split}", line


def _counts(source: SourceRows) -> dict[str, Any]:
    names = ("rows", "tokens", "documents", "bytes")
    return {"weight": f"{source.weight:.2%}", **{name: getattr(source, name) for name in names}}


def _files(first: Manifest, second: Manifest) -> Iterator[tuple[str, str]]:
    before, after = ({info.path: info.sha256 for info in manifest.files()} for manifest in (first, second))
    changed = [path for path in before if before[path] != after.get(path, before[path])]
    for kind, paths in (
        ("files only in the first", [path for path in before if path not in after]),
        ("files only in the second", [path for path in after if path not in before]),
        ("files that differ", changed),
    ):
        if paths:
            more = f" and {len(paths) - FILES_SHOWN} more" if len(paths) > FILES_SHOWN else ""
            yield kind, f"{len(paths)}: {', '.join(paths[:FILES_SHOWN])}{more}"
    if first.content != second.content and changed:
        yield "", "(a shard says which corpus it is of, so shards of equal rows differ in that)"


def _documents(
    first: Manifest, second: Manifest, settings: DiffCorpora, found: Differences, progress: Progress
) -> None:
    with ExitStack() as stack:
        stream = None
        if settings.output is not None:
            path = Path(settings.output).expanduser()
            try:
                stream = stack.enter_context(path.open("w", encoding="utf-8"))
            except OSError as error:
                raise unwritable(path, error) from error
        for bucket in buckets([first, second], progress):
            for kind, chosen in _kinds(bucket):
                found.documents[kind] = found.documents.get(kind, 0) + int(chosen.sum())
                _report(bucket, kind, chosen, settings.names, found, stream)


def _kinds(bucket: Bucket) -> Iterator[tuple[str, Any]]:
    before, after = bucket.splits[:, 0], bucket.splits[:, 1]
    yield ONLY_FIRST, (before > 0) & (after == 0)
    yield ONLY_SECOND, (before == 0) & (after > 0)
    yield MOVED, (before > 0) & (after > 0) & (before != after)


def _report(
    bucket: Bucket, kind: str, chosen: Any, limit: int, found: Differences, stream: IO[str] | None
) -> None:
    """Name the documents of one kind; every one of them where they go to a file."""
    names = found.names.setdefault(kind, [])
    lines = np.flatnonzero(chosen[bucket.document])
    _, firsts = np.unique(bucket.document[lines], return_index=True)
    lines = lines[firsts] if kind != MOVED else lines
    if stream is None:
        lines = lines[: max(0, limit - len(names))]
    for row in bucket.table.take(pa.array(lines)).to_pylist():
        split = SPLITS[row["split"]]
        if len(names) < limit:
            side = f" (corpus {row['corpus'] + 1})" if kind == MOVED else ""
            names.append(f"{split}: {row['source']}/{row['name']}{side}")
        if stream is not None:
            record = {"kind": kind, "corpus": row["corpus"] + 1, "split": split, "source": row["source"]}
            record |= {"name": row["name"], "sha256": row["sha256"].hex()}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
