"""Writing a corpus of other corpora's sources, whole or without some of their documents.

Everything is built beside the output, which takes its name when it is complete. Shards are written anew,
because each says which corpus it is of; the same corpora and choices give the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codex_ray.corpus.account import Account
from codex_ray.corpus.documents import Document, write_documents
from codex_ray.corpus.index import SourceReader
from codex_ray.corpus.manifest import NAME, DocumentsInfo, Manifest, SourceRows, SplitInfo
from codex_ray.corpus.pack import Layout
from codex_ray.corpus.packing import DOCUMENTS_BYTES
from codex_ray.corpus.report import write_corpus_report
from codex_ray.corpus.stages import digest
from codex_ray.corpus.verbs.decoding import held_out
from codex_ray.corpus.verbs.repack import Flags, Taken, Target, write_source
from codex_ray.corpus.workspace import Workspace
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import unwritable
from codex_ray.track.progress import Progress

REMOVED = "removed"
QUARANTINE = "quarantine.jsonl"
Selection = Callable[[str, str, pa.Table], Flags]
"""Flags the lines (with name and sha256) of a split and source that are left out."""


@dataclass(frozen=True)
class Origin:
    """A corpus that goes into a new one: new names of its sources, and what is left out."""

    manifest: Manifest
    names: Mapping[str, str]
    removed: Selection


@dataclass(frozen=True)
class Written:
    """A corpus that was written, or was there already, and how many documents were left out."""

    folder: Path
    manifest: Manifest
    reused: bool
    removed: int


def nothing(_split: str, _source: str, table: pa.Table) -> Flags:
    """Leave no line out."""
    return np.zeros(len(table), dtype=bool)


def find_written(output: Path, request: str) -> Written | None:
    """Return the corpus that stands at ``output`` if it was made by the same request.

    Raises:
        ConfigError: something else stands there.
    """
    if not output.exists():
        return None
    if (output / NAME).is_file():
        found = Manifest.load(output)
        if found.request == request:
            return Written(output, found, True, found.account().dropped[REMOVED])
    elif output.is_dir() and not any(output.iterdir()):
        return None
    raise ConfigError(f"output={output} is there already and holds something else; choose another folder")


class Rewriter:
    """Writes one corpus.

    Args:
        output: the folder that it becomes.
        origins: corpora of one tokenizer, sequence length and token type.
        settings: what the manifest says of how it was made.
        request: names the corpora and all choices; also what its shards are identified by.
        weigh: gives the weights of the sources of a split with rows.
    """

    def __init__(
        self,
        output: Path,
        origins: Sequence[Origin],
        settings: dict[str, Any],
        request: str,
        weigh: Callable[[str, Sequence[SourceRows]], Sequence[float]],
    ) -> None:
        self.output, self.origins, self.settings, self.weigh = output, origins, settings, weigh
        self.request = request
        self.content = digest(["rewritten", request])
        self._taken: dict[str, list[Taken]] = {}

    def write(self, progress: Progress) -> Written:
        """Write everything.

        Raises:
            CodexRayError: no training row would be left, a corpus is damaged, or the disk is full.
        """
        workspace = Workspace(self.output)
        with workspace.hold():
            building = workspace.folder / "rewritten"
            shutil.rmtree(building, ignore_errors=True)
            try:
                began = time.monotonic()
                manifest = self._build(building, progress)
                seconds = {"write": time.monotonic() - began}
                manifest.save()
                with progress.stage("report"):
                    write_corpus_report(manifest, building, seconds, self.output.name)
                workspace.finish(building)
            except OSError as error:
                raise unwritable(Path(error.filename or building), error) from error
            finally:
                shutil.rmtree(building, ignore_errors=True)
        removed = sum(len(taken.documents) for found in self._taken.values() for taken in found)
        return Written(self.output, replace(manifest, folder=self.output), False, removed)

    def _build(self, building: Path, progress: Progress) -> Manifest:
        first = self.origins[0].manifest
        shutil.copytree(first.folder / "tokenizer", building / "tokenizer")
        pad_id = _pad_id(first)
        names = list(dict.fromkeys(name for origin in self.origins for name in origin.manifest.splits))
        total = sum(
            origin.manifest.splits[name].tokens for origin in self.origins for name in origin.manifest.splits
        )
        splits = {}
        with progress.stage("write", total, "tokens"):
            for split in names:
                (building / split).mkdir()
                splits[split] = self._split(building, split, pad_id, progress)
        if not splits["train"].rows:
            raise CodexRayError("no training row would be left; nothing was written, remove fewer documents")
        with (building / QUARANTINE).open("wb") as stream:
            for origin in self.origins:
                if (origin.manifest.folder / QUARANTINE).is_file():
                    with (origin.manifest.folder / QUARANTINE).open("rb") as lines:
                        shutil.copyfileobj(lines, stream)
        return replace(
            first,
            content=self.content,
            request=self.request,
            settings=self.settings,
            sources=self._accounts(),
            splits=splits,
            folder=building,
        ).sealed()

    def _split(self, building: Path, split: str, pad_id: int, progress: Progress) -> SplitInfo:
        written, documents = list[SourceRows](), list[DocumentsInfo]()
        first = next(origin.manifest for origin in self.origins if split in origin.manifest.splits)
        info = first.splits[split]
        layout = Layout(first.sequence_length, info.row_group_rows, info.rows_per_shard, first.dtype)
        for origin in self.origins:
            given = origin.manifest.splits.get(split)
            for number, source in enumerate(given.sources if given else ()):
                name = origin.names[source.source]
                target = Target(building / split, name, layout, self.content, pad_id)
                written.append(self._source(origin, split, number, target, progress))
            if given and given.document_files:
                documents += self._documents(origin, split, building / split)
        held = sum(source.rows for source in written)
        weights = self.weigh(split, written) if held else [0.0] * len(written)
        weighed = [replace(source, weight=weight) for source, weight in zip(written, weights, strict=True)]
        return SplitInfo(weighed, layout.row_group_rows, layout.rows_per_shard, documents)

    def _source(
        self, origin: Origin, split: str, number: int, target: Target, progress: Progress
    ) -> SourceRows:
        reader = SourceReader(origin.manifest, split, number)
        old = reader.info.source
        if reader.info.rows and not reader.info.index_files:
            raise CodexRayError(
                f"corpus {origin.manifest.folder} has no index of its documents; prepare it again"
            )
        written, taken = write_source(
            reader, target, lambda table: origin.removed(split, old, table), progress.advance
        )
        self._taken.setdefault(target.source, []).append(taken)
        return written

    def _documents(self, origin: Origin, split: str, folder: Path) -> Iterator[DocumentsInfo]:
        """Write the text of a held-out split's documents, in files of bounded size for each source."""
        several = sum(len(other.names) for other in self.origins) > 1
        for source, number, batch in _batches(_kept(origin, split)):
            name = origin.names[source]
            path = folder / f"{name}-documents-{number:05d}.parquet"
            shown = f"{name}/" if several else ""
            count, sha256 = write_documents(path, (Document(f"{shown}{own}", text) for own, text in batch))
            yield DocumentsInfo(f"{split}/{path.name}", count, path.stat().st_size, sha256)

    def _accounts(self) -> dict[str, dict[str, Any]]:
        accounts = {}
        for origin in self.origins:
            for old, name in origin.names.items():
                described = origin.manifest.sources[old]
                account = Account.from_plain(described)
                for taken in self._taken.get(name, ()):
                    for document, sha256, size in taken.documents:
                        account.repeated(REMOVED, size)
                        account.sample(REMOVED, document, f"sha256 {sha256.hex()}", "")
                accounts[name] = described | account.plain()
        return accounts


def keep_weights(before: Sequence[SourceRows], after: Sequence[SourceRows]) -> list[float]:
    """Return the weights that sources had, or by rows where they were by rows; one without rows has none."""
    rows = sum(source.rows for source in before)
    by_rows = all(math.isclose(s.weight, s.rows / rows, abs_tol=1e-9) for s in before) if rows else True
    parts = [float(new.rows) if by_rows else old.weight for old, new in zip(before, after, strict=True)]
    return shares([part if new.rows else 0.0 for part, new in zip(parts, after, strict=True)], after)


def shares(parts: Sequence[float], sources: Sequence[SourceRows]) -> list[float]:
    """Turn parts into weights whose sum is one; where every part is 0, rows are the parts."""
    found = list(parts) if any(parts) else [float(source.rows) for source in sources]
    return [part / sum(found) for part in found]


def method_settings(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return, of every source, the settings that it was made with."""
    return {name: manifest.settings_of(name) for name in manifest.sources}


def _kept(origin: Origin, split: str) -> Iterator[tuple[str, str, str]]:
    for source, name, text in held_out(origin.manifest, split):
        sha256 = hashlib.sha256(text.encode()).digest()
        line = pa.table({"name": pa.array([name]), "sha256": pa.array([sha256], pa.binary(32))})
        if not origin.removed(split, source, line)[0]:
            yield source, name, text


def _batches(
    found: Iterator[tuple[str, str, str]],
) -> Iterator[tuple[str, int, list[tuple[str, str]]]]:
    """Yield documents of one source, at most a file's worth: source, number of the file, documents."""
    numbers: dict[str, int] = {}
    batch, held, current = list[tuple[str, str]](), 0, ""
    for source, name, text in chain(found, [("", "", "")]):
        if batch and (source != current or held >= DOCUMENTS_BYTES):
            numbers[current] = numbers.get(current, -1) + 1
            yield current, numbers[current], batch
            batch, held = [], 0
        batch.append((name, text))
        held += len(text.encode())
        current = source


def _pad_id(manifest: Manifest) -> int:
    from codex_ray.tokenizer import Tokenizer

    return Tokenizer.load(manifest.folder / "tokenizer").special_ids["pad"]
