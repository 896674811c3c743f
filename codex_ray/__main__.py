"""``python -m codex_ray`` is ``codex-ray``."""

from __future__ import annotations

from codex_ray.cli import entry

if __name__ == "__main__":
    entry()
