"""Adapters in a folder, as it is now: each is a model by the name of its own folder."""

from __future__ import annotations

import re
import time
from pathlib import Path

from codex_ray.model.adapter import is_adapter

LOOK_SECONDS = 1.0
"""How often the folder is looked at."""

_NAME = re.compile(r"\w[\w.-]{0,127}")


class Shelf:
    """Finds adapters by name; runs that trained one are found, too. None has none."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder).expanduser()
        self._found: dict[str, Path] = {}
        self._looked: float | None = None

    def present(self) -> dict[str, Path]:
        """The adapters' folders by name."""
        now = time.monotonic()
        if self._folder is not None and (self._looked is None or now - self._looked >= LOOK_SECONDS):
            self._looked, self._found = now, _adapters_in(self._folder)
        return self._found


def _adapters_in(folder: Path) -> dict[str, Path]:
    try:
        children = sorted(child for child in folder.iterdir() if _NAME.fullmatch(child.name))
    except OSError:
        return {}
    places = {child.name: [one for one in (child, child / "model") if is_adapter(one)] for child in children}
    return {name: found[0] for name, found in places.items() if found}
