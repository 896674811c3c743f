"""Whether a corpus is what the truth says, to the item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.records import BAD, Truth
from codex_ray.corpus.account import DUPLICATE, NEAR_DUPLICATE, Account
from codex_ray.corpus.index import readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError

Int64 = NDArray[np.int64]


def scores(stages: Path, truth: Truth) -> dict[str, float]:
    """Return recall and precision of exact and near-duplicates among the records' documents.

    The labels of all documents lie among the stages' results; those of the records come first.

    Raises:
        CodexRayError: documents are missing.
    """
    (folder,) = (stages / "duplicates").iterdir()
    documents = np.flatnonzero(truth.documents)
    numbers = np.cumsum(truth.documents) - 1
    found = {}
    for kind in ("exact", "near"):
        labels = np.load(folder / f"first_{kind}.npy")
        if len(labels) < len(documents):
            raise CodexRayError(f"{len(labels)} documents were compared, {len(documents)} records are text")
        found[kind] = labels[: len(documents)]
    exact = numbers[truth.first("exact")[documents]]
    near = numbers[truth.first("exact", "near")[documents]]
    return _score("exact", found["exact"], exact, np.ones(len(documents), dtype=bool)) | _score(
        "near", found["near"], near, exact == np.arange(len(documents))
    )


def _score(kind: str, found: Int64, expected: Int64, among: NDArray[np.bool_]) -> dict[str, float]:
    """A document counts as found where its group is the one it belongs to."""
    own = np.arange(len(found))
    real, said = among & (expected != own), among & (found != own)
    right = int((real & (found == expected)).sum())
    return {f"{kind}_recall": right / int(real.sum()), f"{kind}_precision": right / max(1, int(said.sum()))}


def unaccounted(manifest: Manifest, truth: Truth, files: dict[str, int]) -> list[str]:
    """Return a line for every count that is not what it must be."""
    records = {"read": len(truth.kinds)}
    for kind, reason in BAD.items():
        records[reason] = records.get(reason, 0) + int(truth.of(kind).sum())
    expected = {"records": records, "files": {"read": sum(files.values()), **files}}
    wrong = []
    for source, wanted in expected.items():
        account = Account.from_plain(manifest.sources[source])
        counts = {"read": account.read, "kept": account.kept, **account.dropped, **account.quarantined}
        repeated = counts.pop(DUPLICATE, 0) + counts.pop(NEAR_DUPLICATE, 0)
        if account.read != account.kept + account.dropped.total() + account.quarantined.total():
            wrong.append(f"{source}: {account.read} read are not kept + dropped + quarantined")
        if source == "records":
            wanted = wanted | {"kept": int(truth.documents.sum()) - repeated}
        names = wanted.keys() | counts.keys()
        wrong += [
            f"{source}: {name} is {counts.get(name, 0)} and must be {wanted.get(name, 0)}"
            for name in sorted(names)
            if counts.get(name, 0) != wanted.get(name, 0)
        ]
    quarantined = sum(1 for _ in (manifest.folder / "quarantine.jsonl").open("rb"))
    if quarantined != manifest.account().quarantined.total():
        wrong.append(f"quarantine.jsonl has {quarantined} lines")
    indexed = sum(
        len(table) for split in manifest.splits for r in readers(manifest, split) for table in r.tables()
    )
    if indexed != manifest.account().kept:
        wrong.append(f"the index has {indexed} documents, {manifest.account().kept} were kept")
    return wrong
