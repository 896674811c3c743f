"""From files to the list of documents to prepare: scanned, cleaned, told apart and split.

The list is in memory, some 300 bytes a document; the text is not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from codex_ray.config.corpus import Clean, Split
from codex_ray.corpus.clean import DUPLICATE, Scan, duplicates, scan_file
from codex_ray.corpus.read import SourceFile, label
from codex_ray.corpus.split import split_of


@dataclass(frozen=True, slots=True)
class Source:
    """A kept document: where its text is, what it is, and the split it falls into."""

    name: bytes
    sha256: bytes
    bytes: int
    split: str


@dataclass(frozen=True)
class Gathered:
    """Every file found, accounted for: kept, dropped by cleaning, or quarantined with a reason."""

    documents: list[Source]
    dropped: dict[str, int]
    quarantined: list[tuple[str, str]]
    marked: int
    digest: str

    def statistics(self) -> dict[str, Any]:
        """Return the manifest's account of the source; files = kept + dropped + quarantined."""
        kinds = Counter(reason.partition(":")[0] for _, reason in self.quarantined)
        return {
            "files": len(self.documents) + sum(self.dropped.values()) + len(self.quarantined),
            "kept": len(self.documents),
            "dropped": dict(sorted(self.dropped.items())),
            "quarantined": dict(sorted(kinds.items())),
            "byte_order_marks_removed": self.marked,
            "digest": self.digest,
        }

    def quarantine_lines(self) -> str:
        """Return ``quarantine.jsonl``: a line per file that could not be read as text."""
        entries = ({"file": name, "reason": reason} for name, reason in self.quarantined)
        return "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)


@dataclass(frozen=True)
class ScanTask:
    """Files of ``folder`` to scan together."""

    folder: Path
    files: list[SourceFile]
    clean: Clean


def scan(task: ScanTask) -> pa.Table:
    """Scan a task's files: one row per file, in order."""
    found = [scan_file(task.folder, file, task.clean) for file in task.files]
    return pa.table(
        {
            "name": pa.array([file.name for file in task.files], pa.binary()),
            "size": pa.array([scan.size for scan in found], pa.int64()),
            "sha256": pa.array([scan.sha256 for scan in found], pa.binary()),
            "marked": pa.array([scan.marked for scan in found], pa.bool_()),
            "quarantined": pa.array([scan.quarantined for scan in found], pa.string()),
            "dropped": pa.array([scan.dropped for scan in found], pa.string()),
        }
    )


def group_by_bytes(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Cut a sequence into runs of at most ``limit`` bytes each, or of a single longer item."""
    start = held = 0
    for index, size in enumerate(sizes):
        if index > start and held + size > limit:
            yield slice(start, index)
            start, held = index, 0
        held += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def gather(tables: Iterable[pa.Table], exact: bool, split: Split, seed: int) -> Gathered:
    """Decide about every scanned file: exact duplicates of earlier files go, the rest is split."""
    names: list[bytes] = []
    scans: list[Scan] = []
    digest = hashlib.sha256()
    for table in tables:
        for row in table.to_pylist():
            names.append(row.pop("name"))
            scans.append(Scan(**row))
    kept = [index for index, scan in enumerate(scans) if scan.quarantined is None and scan.dropped is None]
    repeated = duplicates([scans[index].sha256 for index in kept])
    documents: list[Source] = []
    dropped = Counter(scan.dropped for scan in scans if scan.dropped)
    for index, again in zip(kept, repeated, strict=True):
        found = scans[index]
        if again and exact:
            dropped[DUPLICATE] += 1
        else:
            place = split_of(found.sha256, split, seed)
            documents.append(Source(names[index], found.sha256, found.size, place))
    quarantined = []
    for name, found in zip(names, scans, strict=True):
        if found.quarantined:
            quarantined.append((label(name), found.quarantined))
        digest.update(name + f"\0{found.quarantined}\0{found.size}\0".encode() + found.sha256 + b"\n")
    marked = sum(scan.marked for scan in scans)
    return Gathered(documents, dict(dropped), quarantined, marked, digest.hexdigest())


def sample(documents: Sequence[Source], budget: int, seed: int) -> list[Source]:
    """Choose documents at random, each with equal chance, until their text reaches ``budget`` bytes."""

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"sample {seed} ".encode() + documents[index].sha256).digest()

    chosen, held = [], 0
    for index in sorted(range(len(documents)), key=draw):
        if held >= budget:
            break
        chosen.append(index)
        held += documents[index].bytes
    return [documents[index] for index in sorted(chosen)]
