"""Comparing a run with its repetition: what differs is named, what is equal is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codex_ray.errors import CodexRayError
from codex_ray.files import write_json
from codex_ray.runs.reproduce import _decided, _show, compared, differences


def make_run(folder: Path, losses: list[float], weights: bytes = b"one", fingerprint: str = "f") -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(weights)
    write_json(folder / "environment.json", {"corpus_fingerprint": fingerprint})
    rows = [
        {"step": step, "loss": loss, "batch": f"b{step}", "time": step} for step, loss in enumerate(losses, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_equal_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, [3.0, 2.0]) for name in ("a", "b"))
    found = compared(first, second, 0.0, {})
    assert (found.steps, found.differing_steps, found.first, found.weights_equal) == (2, 0, None, True)
    assert found.largest == {"loss": 0.0, "batch": 0.0}
    _show(found, 0.0)


def test_the_first_step_that_differs_is_named(tmp_path: Path) -> None:
    first, second = (
        make_run(tmp_path / "a", [3.0, 2.0, 1.0]),
        make_run(tmp_path / "b", [3.0, 2.1, 1.1], b"two"),
    )
    found = compared(first, second, 0.0, {"packages.torch": ("2.12", "2.13")})
    assert (found.differing_steps, found.first, found.weights_equal) == (2, (2, "loss", 2.0, 2.1), False)
    with pytest.raises(
        CodexRayError, match=r"2 steps differ, step 2 first, where loss was 2.0 and is 2.1 .* 1 dif"
    ):
        _show(found, 0.0)
    near = compared(first, second, 0.1, {})
    assert near.differing_steps == 0
    _show(near, 0.1)
    with pytest.raises(CodexRayError, match="the final weights differ, and no figure"):
        _show(near, 0.0)


def test_a_missing_step_other_rows_and_other_batches_differ(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", [3.0, 2.0])
    short = compared(first, make_run(tmp_path / "b", [3.0], fingerprint="g"), 0.5, {})
    assert short.first == (2, "step", True, False)
    assert short.environment == {"corpus_fingerprint": ("f", "g")}
    other = make_run(tmp_path / "c", [3.0, 2.0])
    (other / "metrics.jsonl").write_text((other / "metrics.jsonl").read_text().replace("b2", "b9"))
    assert compared(first, other, 0.5, {}).first == (2, "batch", "b2", "b9")


def test_environments_are_compared_by_what_matters() -> None:
    then = {
        "time": "1",
        "packages": {"a": "1", "b": "1"},
        "code": "x",
        "python": {"executable": "/a", "version": "3"},
    }
    now = {
        "time": "2",
        "packages": {"a": "2", "c": "1"},
        "code": "x",
        "python": {"executable": "/b", "version": "3"},
    }
    assert differences(then, now) == {
        "packages.a": ("1", "2"),
        "packages.b": ("1", None),
        "packages.c": (None, "1"),
    }


def test_what_a_run_found_out_is_fixed_for_its_repetition(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", [3.0, 2.0])
    write_json(run / "decided.json", {"dtype": "bfloat16", "threads": 3})
    left = {"train": {"seconds": 60.0}, "compute": {"dtype": "auto"}, "cluster": {"threads_per_worker": None}}
    words = ["train.steps=2", "compute.dtype=bfloat16", "cluster.threads_per_worker=3"]
    assert _decided(run, left) == words
    given = {
        "train": {"seconds": None},
        "compute": {"dtype": "float32"},
        "cluster": {"threads_per_worker": 1},
    }
    assert _decided(run, given) == []
