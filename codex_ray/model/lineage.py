"""Where a model comes from: its life, run and rows, the hashes of its weights, and its parent's record.

The life id that a corpus was given goes with every model made from it. A record holds its parent's whole, so
that it can be told where the parent's folder is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, sha256_of

LINEAGE = "lineage.json"
_WEIGHTS = "*.safetensors"


def lineage(
    life_id: str,
    run: str,
    fingerprint: str,
    *,
    verb: str = "",
    corpus: Path | None = None,
    origin: str | Path | None = None,
) -> dict[str, Any]:
    """Return what a model folder says of where it comes from.

    Args:
        life_id: of the corpus that the first of its ancestors was trained on.
        run: folder, or name, of the run that made it; ``fingerprint``: of the rows that it saw there.
        verb: what made it.
        corpus: where those rows are.
        origin: the model that it was made from; unset where it began anew.
    """
    return {
        "format_version": 1,
        "life_id": life_id,
        "verb": verb,
        "run": run,
        "corpus": None if corpus is None else str(corpus),
        "rows_fingerprint": fingerprint,
        "parent": None if origin is None else {"model": str(origin), "lineage": record_of(origin)},
    }


def derived(source: str | Path, verb: str) -> dict[str, Any] | None:
    """Return the record of what is made from a model without training; None of one not made here."""
    parent = record_of(source)
    if parent is None:
        return None
    model = str(Path(source).expanduser().absolute())
    return {
        "format_version": 1,
        "life_id": parent["life_id"],
        "verb": verb,
        "parent": {"model": model, "lineage": parent},
    }


def weights_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a model folder, by name."""
    files = sorted(folder.glob(_WEIGHTS))
    with ThreadPoolExecutor(4) as threads:  # hashing leaves Python's lock
        return dict(zip((path.name for path in files), threads.map(sha256_of, files), strict=True))


def record_of(model: str | Path) -> dict[str, Any] | None:
    """Return the record of a local model or run folder; None of a model that was not made here.

    Raises:
        CodexRayError: the record is damaged.
    """
    folder = Path(model).expanduser()
    path = next(
        (place / LINEAGE for place in (folder, folder / "model") if (place / LINEAGE).is_file()), None
    )
    if path is None:
        return None
    found = read_json(path, "lineage")
    if not isinstance(found, Mapping) or not isinstance(found.get("life_id"), str):
        raise CodexRayError(f"{path} names no life_id; take it away, or write the model folder again")
    return dict(found)


def life_of(model: str | Path) -> str | None:
    """Return the life id of a local model or run folder; None of a model that was not made here.

    Raises:
        CodexRayError: the folder's record is damaged.
    """
    found = record_of(model)
    return None if found is None else str(found["life_id"])
