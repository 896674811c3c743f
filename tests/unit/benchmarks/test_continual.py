"""The continual-learning experiment: its facts, its arms and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import continual
from benchmarks.continual import CONFIG, TASKS, arm_settings, report
from benchmarks.continual_data import Sizes, foreign, own, question, value, write
from codex_ray.config import saved
from codex_ray.config.compose import compose

SIZES = Sizes(old=12, new=6, others=5, values=7, demonstrations=40)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_facts_of_a_seed_are_the_same_and_new_ones_are_told_nowhere_before(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        write(tmp_path / name, SIZES, seed)
    for path in (tmp_path / "one").iterdir():
        assert path.read_text() == (tmp_path / "again" / path.name).read_text()
        assert path.read_text() != (tmp_path / "two" / path.name).read_text()
    old, new, shown = (lines(tmp_path / "one" / f"{name}.jsonl") for name in ("old", "new", "foreign"))
    assert (len(old), len(new)) == (12, 6) and not {row["prompt"] for row in old} & {
        row["prompt"] for row in new
    }
    assert [row["prompt"] for row in shown] == [row["prompt"] for row in new]
    told = {line["text"] for line in lines(tmp_path / "one" / "facts.jsonl")}
    assert told == {row["prompt"] + row["response"] for row in old}
    for line in lines(tmp_path / "one" / "context.jsonl"):
        demonstration, asked = line["text"].split("\n")
        word = demonstration.split()[1]
        assert demonstration == foreign(word) and asked.endswith(own(word)) and asked.split()[1] == "?"


def test_a_value_counts_in_whatever_style() -> None:
    row = {"prompt": question("bako"), "response": own("dem")}
    assert value(row, own("dem")) == value(row, foreign("dem")) == 1.0
    assert value(row, own("dek")) == value(row, "dem") == value(row, "") == value(row, " so dem . so") == 0.0


def test_every_arm_is_a_run_of_finetune(tmp_path: Path) -> None:
    wanted = saved.read(CONFIG)
    made = {
        name: compose("finetune", values=arm_settings(wanted, name, tmp_path, 3)) for name in wanted["arms"]
    }
    assert {one.method for one in made.values()} == {"sft", "dft", "sdft"}
    assert all(set(one.evaluation.tasks) == set(TASKS) and one.seed == 3 for one in made.values())
    assert made["sft_replay"].replay.path == str(tmp_path / "data" / "old.jsonl")
    assert made["sft_own"].data.path == str(tmp_path / "data" / "new.jsonl")
    assert made["sft"].data.path == str(tmp_path / "data" / "foreign.jsonl")
    assert compose("pretrain", values=wanted["base"]).train.documents == "separate"


def test_the_table_is_of_the_runs_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, written = saved.read(CONFIG), {}
    monkeypatch.setattr(
        continual, "write_result", lambda name, figures, extra: written.update(figures, **extra)
    )
    monkeypatch.setattr(continual, "PLOT", tmp_path / "plot.svg")
    report(wanted, tmp_path)
    assert not written
    for seed, after in ((1, 0.5), (2, 1.0)):
        run = tmp_path / f"seed_{seed}" / "sft"
        (run / "model").mkdir(parents=True)
        (run / "summary.json").write_text('{"wall_seconds": 60.0}')
        steps = [
            {"step": step, "tasks": {task: {"value": found} for task in TASKS}}
            for step, found in ((0, 0.0), (30, after))
        ]
        (run / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    report(wanted, tmp_path)
    assert written["sft_new"].value == 0.75 and written["minutes_per_seed"].value == 1.0
    assert written["table"][2].startswith("| SFT on the demonstrations | 2 | 0.75 ± 0.35 |")
    assert (
        written["curves"]["sft"]["old"] == [0.0, 0.75]
        and (tmp_path / "plot.svg").read_text().count("<svg") == 1
    )
