"""Ray's dashboard and metrics during a run: the run is shown, and what the Grafana board draws is served."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.cluster.session import open_session, private_token_file
from codex_ray.config.train import Schedule, Training
from codex_ray.train.driver import pretrain
from tests.integration.training import GLOBAL_ROWS, LENGTH, TWO_WORKERS, run_settings
from tests.unit.cluster.grafana import metric_names

pytestmark = [pytest.mark.integration, pytest.mark.verify]
WAIT_SECONDS = 150.0


def served(node: dict[str, object]) -> str:
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def shown_runs(address: str) -> list[dict[str, object]]:
    token = private_token_file().read_text().strip()
    request = urllib.request.Request(
        f"http://{address}/api/train/v2/runs/v1", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, object]] = json.load(answer)["train_runs"]
        return found


def test_the_run_is_shown_and_every_metric_of_the_board_is_served(tiny_corpus: Path, tmp_path: Path) -> None:
    import ray
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    of_gpus = {name for name in metric_names() if re.match("ray_node_(gpu|gram)", name)}
    assert {name.removeprefix("ray_") for name in of_gpus} <= set(METRICS_GAUGES)  # there may be no GPU here
    wanted = metric_names() - of_gpus
    cluster = replace(TWO_WORKERS, dashboard=True)
    seen: dict[str, str] = {}
    runs: list[dict[str, object]] = []
    with open_session(cluster) as _:
        context = ray.get_runtime_context()
        dashboard = ray._private.worker.global_worker.node.webui_url
        (node,) = ray.nodes()
        assert context.get_node_id() == node["NodeID"]

        def watch() -> None:
            end = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < end and not (wanted <= seen.keys() and runs):
                time.sleep(1.0)
                with suppress(OSError):  # not there yet
                    for line in served(node).splitlines():
                        if line and not line.startswith("#"):
                            seen[re.split(r"[{ ]", line)[0]] = line
                    runs.extend(shown_runs(dashboard))
            (tmp_path / "shown" / "stop").touch()

        watcher = threading.Thread(target=watch)
        watcher.start()
        result = pretrain(
            run_settings(
                tiny_corpus,
                tmp_path,
                "shown",
                schedule=Schedule(kind="constant"),
                train=Training(seconds=2 * WAIT_SECONDS, batch_tokens=GLOBAL_ROWS * LENGTH),
                cluster=cluster,
            )
        )
        watcher.join()
    assert not result.completed
    assert wanted - seen.keys() == set()
    assert 'run="shown"' in seen["ray_codex_ray_loss"]
    assert any((run["name"], run["status"]) == ("shown", "RUNNING") for run in runs), runs
