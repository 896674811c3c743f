"""What passes weights and episodes on starts without PyTorch, in a second instead of ten."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "code",
    [
        "import codex_ray.rollout.coordinator",
        "from codex_ray.discover.grader import Grading; Grading('erdos_min_overlap', None)()",
        "from codex_ray.discover.grader import Start; import codex_ray.rollout.scorer",
    ],
)
def test_coordinators_and_scorers_do_not_import_pytorch(code: str) -> None:
    ask = f"{code}; import sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], timeout=60).returncode == 0
