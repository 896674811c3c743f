"""The metrics that the Grafana board names."""

from __future__ import annotations

import json
import re
from pathlib import Path

BOARD = Path(__file__).resolve().parents[3] / "cluster" / "grafana" / "codex_ray.json"


def metric_names() -> set[str]:
    """All metrics in the board's expressions and variables."""
    board = json.loads(BOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    queries += [variable["query"] for variable in board["templating"]["list"]]
    return set(re.findall(r"\bray_\w+", " ".join(queries)))
