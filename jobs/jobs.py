"""`codex-ray jobs` as a script, for `ray job submit` and for checkouts that are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

# In place of jobs/, whose file names would hide modules of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from codex_ray.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["jobs", *sys.argv[1:]]))
