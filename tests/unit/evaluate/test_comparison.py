"""Runs and files of scores in pairs, and scores that are no numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.config.evaluate import CompareEvaluations
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.comparison import compare_verb


def test_runs_and_files_of_scores_are_compared_by_step_or_id(tmp_path: Path) -> None:
    for name, shift in (("a", 0.0), ("b", 0.1)):
        (tmp_path / name).mkdir()
        rows = [{"step": n, "loss": 3.0 - n / 10 - shift, "time": n, "note": "x"} for n in range(20)]
        rows[4]["validation_loss"] = 2.0 - shift
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = CompareEvaluations(str(tmp_path / "a"), str(tmp_path / "b"), progress="off")
    (loss,) = compare_verb(asked)
    assert loss.name == "loss" and loss.difference.difference.value == pytest.approx(-0.1)
    (validation,) = compare_verb(replace(asked, metrics=["validation_loss"]))
    assert validation.difference.difference.examples == 1
    with pytest.raises(ConfigError, match="note of row '0' is \"x\", and only numbers can be resampled"):
        compare_verb(replace(asked, metrics=["note"]))
    with pytest.raises(CodexRayError, match=r"neither an evaluation of tasks \(evaluation\.json\) nor a run"):
        compare_verb(replace(asked, first=str(tmp_path)))
    with pytest.raises(CodexRayError, match="nowhere does not exist"):
        compare_verb(replace(asked, first=str(tmp_path / "nowhere")))
    (tmp_path / "c.jsonl").write_text('{"name": "x", "score": 1}\n')
    with pytest.raises(CodexRayError, match="no id or step to be paired by"):
        compare_verb(replace(asked, first=str(tmp_path / "c.jsonl")))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('"good"', '"good"'),
        ("NaN", "NaN"),
        ("1e999", "Infinity"),
        ("[1]", r"\[1\]"),
        (f"1{'0' * 400}", "1000"),
    ],
)
def test_scores_that_are_no_numbers_are_refused_named_or_not(value: str, shown: str, tmp_path: Path) -> None:
    for name, last in (("a", "0.5"), ("b", value)):
        (tmp_path / name).mkdir()
        lines = [
            '{"step": 1, "score": 1, "passed": true}',
            f'{{"step": 2, "score": {last}, "passed": false}}',
        ]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for second in (tmp_path / "b", tmp_path / "b" / "metrics.jsonl"):
        asked = CompareEvaluations(str(tmp_path / "a"), str(second), progress="off")
        for metrics in ([], ["score"]):
            with pytest.raises(ConfigError, match=f"score of row '2' is {shown}.*, and only numbers can be"):
                compare_verb(replace(asked, metrics=metrics))
        (passed,) = compare_verb(replace(asked, metrics=["passed"]))
        assert passed.difference.first == 0.5
