"""Trackers as their own tools read them: Weights & Biases offline, TensorBoard."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_ray.track.tensorboard import TensorBoardRun
from codex_ray.track.wandb import WandbRun

BLOCK, HEADER = 32768, 7  # of the log that W&B keeps a run in


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 8.0 / step, "batch": 77, "lost": None, "time": 1e9 + step}
        for step in range(first, last + 1)
    ]


def records(path: Path) -> Iterator[Any]:
    """Read a run's file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def test_an_offline_run_of_two_starts_is_one_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for first, last in ((1, 5), (1, 9)):  # a resumed run is given all rows again
        run = WandbRun(tmp_path, mode="offline", project="mine")
        run.start("first", parameters={"optimizer": {"kind": "muon"}}, life_id="life", commit="abc")
        run.log_system([{"step": last, "system/node/cpu_percent": 12.5, "time": 1e9}])
        run.log_rows(rows(first, last))  # older than the sample of the node's load
        run.log_system([{"step": last - 2, "validation_loss": 2.5, "time": 1e9}])  # measured beside training
        run.end("FINISHED")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    history: dict[int, dict[str, float]] = {}
    ids, lines = set(), set()
    for record in (record for path in files for record in records(path)):
        if record.WhichOneof("record_type") == "run":
            ids.add(record.run.run_id)
            assert (record.run.display_name, record.run.project) == ("first", "mine")
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            assert config["optimizer.kind"] == "muon" and config["git_commit"] == "abc"
        if record.WhichOneof("record_type") == "history":
            items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
            assert items["_step"] not in lines and "batch" not in items
            lines.add(items["_step"])
            history.setdefault(items["step"], {}).update(items)
    assert ids == {json.loads((tmp_path / "wandb.json").read_text())["id"]}
    assert {step: items["loss"] for step, items in history.items()} == {s: 8.0 / s for s in range(1, 10)}
    assert [history[step]["system/node/cpu_percent"] for step in (5, 9)] == [12.5, 12.5]
    assert [history[step]["validation_loss"] for step in (3, 7)] == [2.5, 2.5]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_tensorboard_reads_what_two_starts_wrote(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for last in (5, 9):
        run = TensorBoardRun(tmp_path, enabled=True)
        run.start("first", parameters={})
        run.log_rows(rows(1, last))
        run.end("FINISHED")
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert read.Tags()["scalars"] == ["loss"]
    found = [(event.step, event.wall_time, event.value) for event in read.Scalars("loss")]
    assert found == [(s, 1e9 + s, pytest.approx(8.0 / s)) for s in range(1, 10)]
