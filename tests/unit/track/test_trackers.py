"""TensorBoard and Weights & Biases: present, absent, switched off; several trackers at once."""

from __future__ import annotations

import json
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto import event_pb2

from codex_ray.track.tensorboard import TensorBoardRun
from codex_ray.track.tracker import Status, Tracker, Trackers
from codex_ray.track.wandb import WandbRun


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 8.0 / step, "batch": 77, "lost": None, "time": 1e9 + step}
        for step in range(first, last + 1)
    ]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Read event files: records of a length, its checksum, an event, and its checksum."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack("<Q", data[place : place + 8])
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_every_step_once_over_two_starts(tmp_path: Path) -> None:
    for last in (5, 9):  # a resumed run is given all rows again
        run = TensorBoardRun(tmp_path, enabled=True)
        run.start("mine", parameters={})
        run.log_rows(rows(1, last))
        run.log_system([{"step": last, "time": 1e9, "system/node/cpu_percent": 3.0}])
        run.end()
    found = scalars(tmp_path / "tensorboard")
    losses = [(step, value) for tag, step, value in found if tag == "loss"]
    assert losses == [(step, pytest.approx(8.0 / step)) for step in range(1, 10)]
    assert {tag for tag, _, _ in found} == {"loss", "system/node/cpu_percent"}


@pytest.mark.parametrize(
    ("package", "tracker", "remedy"),
    [
        ("tensorboardX", lambda folder: TensorBoardRun(folder, enabled=True), "pip install tensorboardX"),
        (
            "wandb",
            lambda folder: WandbRun(folder, mode="offline", project="p"),
            "pip install 'codex-ray[wandb]'",
        ),
    ],
)
def test_without_its_package_a_tracker_is_one_warning(
    package: str,
    tracker: Any,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    run = tracker(tmp_path)
    for _ in range(2):
        run.start("mine", parameters={})
        run.log_rows(rows(1, 3))
    run.end()
    (record,) = caplog.records
    assert remedy in record.message and "training goes on" in record.message
    assert list(tmp_path.iterdir()) == []


def test_what_is_off_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trackers = Trackers(
        [TensorBoardRun(tmp_path, enabled=False), WandbRun(tmp_path, mode="off", project="p")]
    )
    trackers.start("mine", parameters={}, life_id=None, commit=None)
    trackers.log_rows(rows(1, 3))
    trackers.end("FINISHED")
    assert list(tmp_path.iterdir()) == [] and caplog.records == []


class Slow(Tracker):
    """A tracker that hangs while it begins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "slow.json", "Slow")
        self.written: list[int] = []
        self.free = threading.Event()

    def start(self, name: str, **_: Any) -> None:
        self._launch(lambda: bool(self.free.wait(60)) or None)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.written += [row["step"] for row in rows]

    def _finish(self, status: Status) -> None:
        pass


def test_one_that_hangs_holds_up_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow, quick = Slow(tmp_path), TensorBoardRun(tmp_path, enabled=True)
    both = Trackers([slow, quick])
    both.start("mine", parameters={}, life_id=None, commit=None)
    both.log_rows(rows(1, 3))
    quick.end()
    assert len(scalars(tmp_path / "tensorboard")) == 3 and slow.written == []
    slow.end(seconds=0.1)
    assert "no answer for 0.1 seconds" in caplog.text
    slow.free.set()


def test_rows_given_late_are_all_written(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    slow.start("mine")
    slow.log_rows(rows(1, 3))
    slow.log_rows(rows(2, 5))
    slow.free.set()
    slow.end(seconds=30)
    assert slow.written == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "slow.json").read_text())["last_step"] == 5
