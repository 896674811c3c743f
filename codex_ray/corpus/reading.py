"""The first stage of ``prepare``: units of a source become a part of cleaned documents and its account."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from codex_ray.config.corpus import Clean, Duplicates, Limits, Source
from codex_ray.config.fields import build
from codex_ray.corpus.account import Account
from codex_ray.corpus.cleaning.chain import Chain, Cleaned
from codex_ray.corpus.duplicates.hashes import write_part
from codex_ray.corpus.duplicates.minhash import MinHash
from codex_ray.corpus.parts import HASHES, PartWriter
from codex_ray.corpus.raw import Dropped, Quarantined, Raw
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.units import Unit, find_units
from codex_ray.corpus.stages import Entry, finish
from codex_ray.errors import CodexRayError

VERSION = 1  # of what this stage writes; part of every key
QUARANTINE = "quarantine.jsonl"
BEGINNING = 4096  # of a dropped document, looked at for secrets before a little of it is shown
MOST_BYTES = 2**31 - 1  # of one document; Arrow's texts end there


@dataclass(frozen=True)
class ReadTask:
    """Units of one source to read and clean together, and where the part goes."""

    name: str
    source: Source
    units: list[Unit]
    limits: Limits
    clean: Clean
    duplicates: Duplicates
    fail: bool
    entry: Entry


def read_key(
    source: Source,
    units: Sequence[Unit],
    limits: Limits,
    clean: Clean,
    duplicates: Duplicates,
    files: dict[str, str],
) -> dict[str, Any]:
    """Return what decides a part: units as they are now, and every setting that reading and cleaning use.

    ``files`` names further files that cleaning reads, with the digest of each.
    """
    decides = asdict(source)
    for name in ("weight", "version", "licence"):
        del decides[name]
    near = asdict(duplicates) if duplicates.near else None
    return {
        "version": VERSION,
        "units": [asdict(unit) for unit in units],
        "source": decides,
        "limits": asdict(limits),
        "clean": asdict(clean),
        "files": files,
        "signatures": {name: near[name] for name in ("shingle_words", "bands", "rows")} if near else None,
    }


def read_documents(task: ReadTask) -> pa.Table:
    """Read, clean and write one part; a row with its bytes, as its units count them, is returned.

    Raises:
        CodexRayError: an item is no text and ``fail`` asks for an end there; the disk is full.
    """
    if task.entry.result() is None:
        _make(task)
    return pa.table({"bytes": [sum(unit.size for unit in task.units)]})


def read_texts(path: str, suffixes: Sequence[str]) -> Iterator[Cleaned | Quarantined]:
    """Iterate over the documents of a folder, file, glob, archive or URL as they are, none left out.

    Raises:
        CodexRayError: nothing is there, or it cannot be reached.
    """
    source, chain = Source(path=path), Chain(Clean(min_bytes=1, max_bytes=MOST_BYTES))
    limits = Limits(line_bytes=MOST_BYTES, file_bytes=MOST_BYTES)
    for unit in find_units("text", source, suffixes, unit_bytes=MOST_BYTES):
        for item in read_unit(unit, source, limits):
            outcome = chain.apply(item) if isinstance(item, Raw) else item
            yield Cleaned(item.name, "", ()) if isinstance(outcome, Dropped) else outcome  # an empty text


def _make(task: ReadTask) -> None:
    account, chain = Account(), _chain(json.dumps(asdict(task.clean)))
    minhash = MinHash(task.duplicates) if task.duplicates.near else None
    signatures: list[Any] = []

    def on_group(texts: list[str]) -> None:
        if minhash is not None:
            signatures.append(minhash.signatures(texts))

    with task.entry.making() as folder, (folder / QUARANTINE).open("w", encoding="utf-8") as quarantine:
        writer = PartWriter(folder, on_group)
        for item in _items(task):
            outcome = chain.apply(item) if isinstance(item, Raw) else item
            if isinstance(outcome, Cleaned):
                account.keep(writer.add(outcome.name, outcome.text), outcome.changed)
            elif isinstance(outcome, Dropped):
                text = _beginning(item, task.clean) if account.wants(outcome.rule) else ""
                account.drop(item.name, outcome, text)
            else:
                if task.fail:
                    raise CodexRayError(
                        f"{outcome.name} cannot be used ({outcome.reason}); remove or convert it, or set "
                        "on_error=skip"
                    )
                account.quarantine(outcome)
                entry = {"source": task.name, "name": outcome.name, "reason": outcome.reason}
                quarantine.write(json.dumps(entry, ensure_ascii=False) + "\n")
        identity = writer.close()
        hashes = np.frombuffer(b"".join(writer.sha256), np.uint8).reshape(-1, 32)
        write_part(folder / HASHES, hashes, _joined(signatures, minhash))
        finish(folder, {"identity": identity, "account": account.plain()})


def _items(task: ReadTask) -> Iterator[Raw | Quarantined]:
    for unit in task.units:
        yield from read_unit(unit, task.source, task.limits)


def _joined(signatures: list[Any], minhash: MinHash | None) -> Any | None:
    if minhash is None:
        return None
    return np.concatenate(signatures) if signatures else minhash.signatures([])


def _beginning(item: Raw | Quarantined, clean: Clean) -> str:
    """Return how a dropped document begins, to be shown; masked where secrets are not to be kept."""
    content = item.content if isinstance(item, Raw) else ""
    text = (
        content[:BEGINNING].decode("utf-8", "replace") if isinstance(content, bytes) else content[:BEGINNING]
    )
    if (clean.redact.secrets, clean.redact.personal) == ("keep", "keep"):
        return text
    from codex_ray.safety import redact

    return redact(text, secrets="mask", personal="mask").text


@lru_cache(maxsize=1)
def _chain(settings: str) -> Chain:
    """Keep a task process's chain, with its models, from one task to the next."""
    return Chain(build(Clean, json.loads(settings)))
