from __future__ import annotations

from pathlib import Path

import pytest

from codex_ray.config.sweep import Searching
from codex_ray.errors import CodexRayError
from codex_ray.tune.records import COMPLETED, FAILED, GIVEN_UP, Records

ONE = Searching(space={"seed": [1, 2]})
TWO = Searching(space={"seed": [1, 2]}, metrics=["loss", "speed"], modes=["min", "max"])


def filled(folder: Path, search: Searching, finals: list[tuple[str, dict[str, float]]]) -> Records:
    records = Records(folder, search)
    for number, (state, figures) in enumerate(finals):
        records.begin(number, {"seed": number})
        if figures:
            records.result(number, {"step": 1, "tokens": 100 * (number + 1), **figures})
        records.end(number, state, "it broke" if state == FAILED else None)
    return records


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    records = filled(tmp_path, ONE, [(COMPLETED, {"validation_loss": 2.0}), (FAILED, {})])
    again = Records(tmp_path, ONE)
    assert list(again) == list(records) and again.tokens == 100
    assert [trial.reason for trial in again] == [None, "it broke"]


def test_the_best_completed_comes_before_a_better_one_that_was_given_up(tmp_path: Path) -> None:
    finals = [3.0, 2.5, 1.0, 2.0]
    states = [COMPLETED, COMPLETED, GIVEN_UP, FAILED]
    rows = [(state, {"validation_loss": loss}) for state, loss in zip(states, finals, strict=True)]
    assert [trial.number for trial in filled(tmp_path, ONE, rows).ranked()] == [1, 0, 2]


def test_a_result_that_is_given_again_counts_once(tmp_path: Path) -> None:
    records = filled(tmp_path, ONE, [(COMPLETED, {"validation_loss": 2.0})])
    records.begin(0, {"seed": 0})
    records.result(0, {"step": 1, "tokens": 100, "validation_loss": 2.0})
    records.result(0, {"step": 2, "tokens": 200, "validation_loss": 1.5})
    (trial,) = records
    assert [result["step"] for result in trial.results] == [1, 2] and records.tokens == 200


def test_the_front_holds_what_nothing_beats(tmp_path: Path) -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (2.5, 2.0), (3.0, 4.0), (1.0, 0.5)]
    rows = [(COMPLETED, {"loss": loss, "speed": speed}) for loss, speed in points]
    assert {trial.number for trial in filled(tmp_path, TWO, rows).front()} == {0, 1, 3}


def test_only_the_best_keep_model_and_checkpoints_and_all_keep_figures(tmp_path: Path) -> None:
    rows = [(COMPLETED, {"validation_loss": loss}) for loss in (3.0, 1.0, 2.0)]
    records = filled(tmp_path, ONE, rows)
    for trial in records:
        for part in ("model", "checkpoints"):
            (tmp_path / "trials" / trial.name / part).mkdir(parents=True)
        (tmp_path / "trials" / trial.name / "metrics.jsonl").touch()
    records.prune()
    kept = {path.parent.name for path in (tmp_path / "trials").glob("*/model")}
    assert kept == {"trial_0001"} and len(list((tmp_path / "trials").glob("*/metrics.jsonl"))) == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    unlike = ('[{"number": 0, "colour": 1}]', '[{"number": 0, "values": {}, "state": "halfway"}]')
    for text in ("{", "[1]", *unlike):
        (tmp_path / "trials.json").write_text(text)
        with pytest.raises(CodexRayError, match=r"trials\.json"):
            Records(tmp_path, ONE)
