"""``python -m codex_ray.plugins``: load every component, codex_ray's and others', and say which cannot be."""

from __future__ import annotations

import sys

from codex_ray.plugins import broken, names
from codex_ray.plugins.kinds import KINDS


def main() -> int:
    """Load them all; 1 where one is broken."""
    wrong = broken(ours=True)
    for sentence in wrong.values():
        print(f"plugins: {sentence}", file=sys.stderr)
    print(f"{sum(len(names(kind)) for kind in KINDS)} components of {len(KINDS)} kinds, {len(wrong)} broken")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
