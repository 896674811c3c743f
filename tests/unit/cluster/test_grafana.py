"""The Grafana board as a file: its panels and the metrics it names."""

from __future__ import annotations

import json

from codex_ray.track.gauges import GAUGES
from tests.unit.cluster.grafana import BOARD, metric_names


def test_the_board_is_one_that_grafana_takes() -> None:
    board = json.loads(BOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "run"]


def test_every_gauge_is_drawn() -> None:
    assert {f"ray_{name}" for name in GAUGES} <= metric_names()
