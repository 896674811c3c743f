"""The Grafana board of serving as a file: its panels, and that the metrics it names are those served."""

from __future__ import annotations

import json
import re

from codex_ray.serve.answering import Account
from codex_ray.serve.metrics import Metrics
from tests.unit.cluster.grafana import BOARD


def test_the_board_draws_what_is_served_and_all_of_it() -> None:
    board = json.loads(BOARD.with_name("codex_ray_serving.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 and panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
    metrics, account = Metrics(), Account(first=0.1, gaps=[0.1], masked=True)
    metrics.count("tiny", account, 0.5)
    text = metrics.text({"tiny": {"running": 1, "waiting": 0}}).decode()
    served = set(re.findall(r"^(codex_ray:\w+)\{", text, re.MULTILINE))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in board["templating"]["list"]]
    drawn = set(re.findall(r"codex_ray:\w+", " ".join(queries)))
    assert drawn <= served
    # Of a histogram the buckets are drawn; when a counter was made is no figure.
    plain = {name for name in served if not re.search("_(sum|count|created)$", name)}
    assert plain <= drawn
