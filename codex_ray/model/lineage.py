"""Which life a model belongs to: the id that its corpus was given goes with every model made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json

LINEAGE = "lineage.json"


def lineage(life_id: str, run: str, fingerprint: str) -> dict[str, Any]:
    """Return what a model folder says of where it comes from.

    Args:
        life_id: of the corpus that the first of its ancestors was trained on.
        run: name of the run that made it; ``fingerprint``: of the rows that it saw there.
    """
    return {"format_version": 1, "life_id": life_id, "run": run, "rows_fingerprint": fingerprint}


def life_of(model: str | Path) -> str | None:
    """Return the life id of a local model or run folder; None of a model that was not made here.

    Raises:
        CodexRayError: the folder's record is damaged.
    """
    folder = Path(model).expanduser()
    path = next(
        (place / LINEAGE for place in (folder, folder / "model") if (place / LINEAGE).is_file()), None
    )
    if path is None:
        return None
    found = read_json(path, "lineage")
    life_id = found.get("life_id") if isinstance(found, dict) else None
    if not isinstance(life_id, str):
        raise CodexRayError(f"{path} names no life_id; take it away, or write the model folder again")
    return life_id
