"""Metrics: torn lines, truncation, equal rows in all formats, following a growing file."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import CodexRayError
from codex_ray.track import MetricsFollower, MetricsWriter, read_metrics
from codex_ray.track.metrics import Row, append_row, drop_after, read_run

FORMATS = ["jsonl", "csv", "parquet"]
VALUES = st.one_of(
    st.integers(-(2**53), 2**53), st.floats(), st.text(alphabet=st.characters(codec="utf-8"), min_size=1)
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["loss", "rate", "note", "mixing/gain"]), VALUES), max_size=12
)


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 1 / (1 + step), **more}


def filled(rows: list[Row]) -> list[Row]:
    """The rows with every column, None where one has no value."""
    names = list(dict.fromkeys(name for one in rows for name in one))
    return [{name: one.get(name) for name in names} for one in rows]


def csv_rows(folder: Path) -> tuple[list[str], list[list[str]]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        lines = list(csv.reader(stream))
    return (lines[0], lines[1:]) if lines else ([], [])


def as_csv(rows: list[Row]) -> list[list[str]]:
    return [["" if value is None else str(value) for value in one.values()] for one in filled(rows)]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, cut=st.integers(-1, 13))
def test_all_formats_hold_equal_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    with MetricsWriter(folder, FORMATS) as writer:
        for step, values in enumerate(rows):
            writer.write({"step": step, **values})
        writer.truncate_after(cut)
        for step in range(cut + 1, cut + 3):
            writer.write({"step": step, "late": step / 3})
    lines = read_metrics(folder / "metrics.jsonl")
    kept = [
        {"step": step}
        | {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        for step, values in enumerate(rows[: cut + 1])
    ]
    assert lines == [
        *kept,
        {"step": cut + 1, "late": (cut + 1) / 3},
        {"step": cut + 2, "late": (cut + 2) / 3},
    ]
    header, cells = csv_rows(folder)
    assert header == list(filled(lines)[0]) and cells == as_csv(lines)
    table = pq.read_table(folder / "metrics.parquet")
    assert table.column_names == header
    for name in header:
        expected = [one[name] for one in filled(lines)]
        if any(isinstance(value, str) for value in expected):
            expected = [None if value is None else str(value) for value in expected]
        assert table.column(name).to_pylist() == expected


def test_whole_numbers_of_64_bits_are_exact_in_all_formats(tmp_path: Path) -> None:
    digests = [2**63 - 1, -(2**63), 9007199254740993]
    with MetricsWriter(tmp_path, FORMATS) as writer:
        for step, digest in enumerate(digests):
            writer.write({"step": step, "batch": digest})
    assert [one["batch"] for one in read_metrics(writer.path)] == digests
    assert [int(cells[1]) for cells in csv_rows(tmp_path)[1]] == digests
    assert pq.read_table(tmp_path / "metrics.parquet").column("batch").to_pylist() == digests


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": 1, "loss": float("nan"), "norm": float("inf"), "rate": np.float32("-inf")})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name)) == {
        "step": 1,
        "loss": None,
        "norm": None,
        "rate": None,
    }


def test_numpy_scalars_are_numbers_and_other_things_are_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write({"step": np.int64(3), "loss": np.float64(0.5), "ok": True})
        with pytest.raises(TypeError, match="metric 'loss' must be a number or text, not list"):
            writer.write({"loss": [1.0]})
        with pytest.raises(ValueError, match="metric 'batch' must fit 64 bits"):
            writer.write({"batch": 2**63})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5, "ok": 1}]


def test_each_row_is_on_disk_when_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, FORMATS)
    for step in range(3):
        writer.write(row(step))
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == step + 1
        assert len(csv_rows(tmp_path)[1]) == step + 1
    writer.close()
    with pytest.raises(CodexRayError, match="is closed"):
        writer.write(row(4))


@pytest.mark.parametrize("kept_bytes", range(1, 24))
def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path: Path, kept_bytes: int) -> None:
    with MetricsWriter(tmp_path, FORMATS) as writer:
        writer.write(row(1))
        writer.write(row(2))
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    assert kept_bytes < len(second)
    path.write_bytes(first + second[:kept_bytes])
    assert read_metrics(path) == [row(1)]
    with MetricsWriter(tmp_path, FORMATS) as writer:
        writer.write(row(2, note="again"))
    assert read_metrics(path) == [row(1), row(2, note="again")]
    assert csv_rows(tmp_path)[1] == as_csv([row(1), row(2, note="again")])


def test_a_file_of_one_torn_line_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "lo' + b"x" * 200_000)
    MetricsWriter(tmp_path).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_truncation_keeps_the_bytes_of_what_stays(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 11):
            writer.write(row(step, time=step * 1e9 / 7))
        before = writer.path.read_bytes()
        writer.truncate_after(4)
        assert before.startswith(writer.path.read_bytes())
        assert [one["step"] for one in read_metrics(writer.path)] == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]  # no temporary file stays


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(CodexRayError, match=r"line 2 of .*metrics.jsonl is not a JSON object"):
        read_metrics(path)


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    assert MetricsFollower(tmp_path / "metrics.jsonl").new_rows() == []


def test_following_gives_each_row_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = MetricsFollower(path)
    text = "".join(json.dumps(row(step)) + "\n" for step in range(5)).encode()
    given: list[Row] = []
    for position in range(len(text)):
        with path.open("ab") as stream:
            stream.write(text[position : position + 1])
        new = follower.new_rows()
        assert len(new) == (text[position : position + 1] == b"\n")
        given += new
    assert given == [row(step) for step in range(5)]


@settings(max_examples=40, deadline=None)
@given(
    attempts=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8), st.booleans()), min_size=1, max_size=6)
)
def test_following_across_truncations(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int, bool]]
) -> None:
    """Each (cut, rows, look) is a restart: cut back, write on, and perhaps look in between."""
    folder = tmp_path_factory.mktemp("metrics")
    follower = MetricsFollower(folder / "metrics.jsonl")
    seen: list[int] = []
    present: list[int] = []
    serial = 0
    for cut, count, look in attempts:
        with MetricsWriter(folder) as writer:
            writer.truncate_after(cut)
            present = present[: cut + 1]
            for step in range(len(present), len(present) + count):
                writer.write({"step": step, "serial": serial})
                present.append(serial)
                serial += 1
            if look:
                seen += [int(one["serial"] or 0) for one in follower.new_rows()]
    seen += [int(one["serial"] or 0) for one in follower.new_rows()]
    assert len(seen) == len(set(seen)), "a row was given twice"
    assert set(present) <= set(seen), "a row was missed"
    assert follower.new_rows() == []


def test_following_reads_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path) as writer:
        for step in range(1000):
            writer.write(row(step))
        follower = MetricsFollower(path)
        assert len(follower.new_rows()) == 1000
        writer.write(row(1000))
        # Damage far behind the last line is not seen, since it is not read again.
        with path.open("r+b") as stream:
            stream.write(b"#")
        assert follower.new_rows() == [row(1000)]


def test_validations_that_came_late_join_their_steps(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write({"step": step, "loss": 1.0, "time": 10.0 + step})
    later = tmp_path / "validation.jsonl"
    append_row(later, {"step": 1, "time": 99.0, "validation_loss": 3.0})
    with later.open("a") as stream:
        stream.write('{"step": 2, "valid')  # killed here
    append_row(later, {"step": 2, "time": 99.0, "validation_loss": math.nan})
    append_row(later, {"step": 1, "time": 99.5, "validation_loss": 2.0})  # done again
    rows = read_run(tmp_path)
    assert [row.get("validation_loss") for row in rows] == [2.0, None, None]
    assert [row["time"] for row in rows] == [11.0, 12.0, 13.0]
    drop_after(later, 1)  # the run goes back
    assert [row["validation_loss"] for row in read_metrics(later)] == [3.0, 2.0]
    drop_after(tmp_path / "gone" / "validation.jsonl", 1)
    with pytest.raises(CodexRayError, match="cannot be written"):
        append_row(tmp_path / "gone" / "validation.jsonl", {"step": 1})
