"""Spans: what is measured and written, what a reader makes of torn files, and what they cost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from codex_ray.track import write_report
from codex_ray.track.spans import Spans, read_spans
from tests.unit.track.pages import Page
from tests.unit.track.test_report import write_run


def do_step(spans: Spans, step: int, micro_batches: int = 2, pause: float = 0.0) -> dict[str, float]:
    spans.enter("data")
    for _ in range(micro_batches):
        spans.enter("forward")
        if pause:
            time.sleep(pause)
        spans.enter("backward")
    spans.enter("optimizer step")
    return spans.settle(step)


def test_a_step_leaves_a_line_per_phase_that_adds_up(tmp_path: Path) -> None:
    spans = Spans(tmp_path / "spans_0.jsonl")
    began = time.time()
    seconds = do_step(spans, 7, micro_batches=3, pause=0.02)
    with spans.measure("checkpoint", 7):
        time.sleep(0.03)
    spans.add("start: model", 0, began, 1.5)
    spans.close()
    lines = list(read_spans([tmp_path / "spans_0.jsonl"]))
    assert [line["phase"] for line in lines] == [
        *("data", "forward", "backward", "optimizer step", "checkpoint", "start: model"),
    ]
    by_phase = {line["phase"]: line for line in lines}
    assert by_phase["forward"]["times"] == 3 and "times" not in by_phase["data"]
    assert 0.06 <= by_phase["forward"]["seconds"] == pytest.approx(seconds["forward"], abs=1e-6)
    assert by_phase["checkpoint"]["seconds"] >= 0.03 and by_phase["checkpoint"]["step"] == 7
    assert began <= by_phase["data"]["start"] <= by_phase["forward"]["start"] <= time.time()
    assert by_phase["checkpoint"]["start"] >= by_phase["forward"]["start"] + 0.06
    assert spans.last == seconds


def test_lines_are_there_within_seconds_and_torn_ones_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "spans_0.jsonl"
    spans = Spans(path)
    do_step(spans, 1)
    deadline = time.monotonic() + 30
    while not path.exists() or len(path.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    spans.close()
    with path.open("a") as stream:
        stream.write('{"phase": "forward", "step": 2, "sta')  # killed here
    again = Spans(path)  # a new worker goes on in the same file
    do_step(again, 2)
    again.close()
    steps = [span["step"] for span in read_spans([path])]
    assert steps.count(1) == 4 and steps.count(2) == 3


def test_nothing_is_written_where_nothing_is_asked_for(tmp_path: Path) -> None:
    spans = Spans(None)
    assert do_step(spans, 1).keys() == {"data", "forward", "backward", "optimizer step"}
    spans.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans(tmp_path / "gone" / "spans_0.jsonl")
    for step in range(100):
        do_step(spans, step)
    spans.close()
    assert [record.message.split(" (")[0] for record in caplog.records] == ["spans are no longer recorded"]


def test_spans_cost_less_than_half_a_percent_of_a_short_step(tmp_path: Path) -> None:
    spans = Spans(tmp_path / "spans_0.jsonl")
    best = float("inf")
    for attempt in range(20):
        began = time.perf_counter()
        for step in range(50):
            do_step(spans, 50 * attempt + step, micro_batches=4)
        best = min(best, (time.perf_counter() - began) / 50)
    spans.close()
    assert best < 0.005 * 0.050


def test_the_report_shows_where_time_went(tmp_path: Path) -> None:
    write_run(tmp_path, 100)
    for attempt, steps in ((1, range(1, 61)), (2, range(51, 101))):
        folder = tmp_path / "attempts" / str(attempt)
        folder.mkdir(parents=True)
        spans = [{"phase": "start: model", "step": 0, "start": 1e9, "seconds": 20.0}]
        for step in steps:
            spans += [
                {"phase": "forward", "step": step, "start": 1e9 + step, "seconds": 0.5},
                {"phase": "backward", "step": step, "start": 1e9 + step, "seconds": 1.0},
            ]
        (folder / "spans_0.jsonl").write_text("".join(json.dumps(span) + "\n" for span in spans))
    page = Page(write_report(tmp_path).read_text())
    assert "Where time went" in page.text and page.tags.count("svg") == 8
    assert "1 min 50 s" in page.text and "53.7%" in page.text  # 110 steps were done, of 1 s backward each
    assert "start: model" in page.text
