"""Tasks that are measured while a model is trained: which they are, their answers, and what changed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from codex_ray.config.compose import compose
from codex_ray.config.corpus import Tokenizer as Train
from codex_ray.config.finetune import Examples, Finetune
from codex_ray.config.followed import Evaluation, FollowedTask
from codex_ray.corpus.examples import prepare_examples
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model import build_model
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.tokenizer.conversation import ChatTemplate
from codex_ray.track.evaluations import task_plot, task_rows
from codex_ray.track.metrics import read_metrics, read_run
from codex_ray.track.progress import open_progress
from codex_ray.train.abilities import Abilities, closing_figures, followed_tasks, write_evaluation
from tests.unit.evaluate.small_corpus import LENGTH as POSITIONS
from tests.unit.evaluate.small_corpus import SHAPE, TRAINING

ROWS = [{"prompt": f"old {number} ?", "response": f" was {number} ."} for number in range(40)]


@dataclass
class Alone:
    """A model that no engine has taken, where one is asked for."""

    module: Any
    stage: int = 0


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [row["prompt"] + row["response"] for row in ROWS] + [document.text for document in TRAINING]
    train_tokenizer(texts, Train(vocabulary_size=500), folder, 1)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def settings(rows: Path, held_out: bool | None = None, **tasks: FollowedTask) -> Finetune:
    return Finetune(
        data=Examples(path=str(rows), validation=0.2),
        evaluation=Evaluation(tasks=tasks, held_out=held_out, every_steps=5, max_new_tokens=4),
    )


def manifest(wanted: Finetune, tokenizer: Tokenizer, folder: Path) -> Manifest:
    template = ChatTemplate.of(tokenizer, None)
    with open_progress(None, "off") as progress:
        return prepare_examples(wanted.data, template, folder, length=32, seed=1, progress=progress)


def test_the_rows_held_out_are_the_new_task(rows: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted = settings(rows, old=FollowedTask(path=str(rows), verifier="tests.unit.train.judges.letters"))
    made = manifest(wanted, tokenizer, tmp_path / "examples")
    new, old = followed_tasks(wanted, made)
    assert (new.name, new.metric, old.name, old.metric) == ("new", "exact_match", "old", "verified")
    assert len(new.task.examples) == made.splits["validation"].documents > 0
    known = {(row["prompt"], (row["response"],)) for row in ROWS}
    assert {(one.prompt, one.references) for one in new.task.examples} <= known
    assert len(old.task.examples) == len(ROWS)
    given = settings(rows, new=FollowedTask(path=str(rows)))
    assert [len(one.task.examples) for one in followed_tasks(given, made)] == [len(ROWS)]
    assert followed_tasks(settings(rows), made) == []
    assert [one.name for one in followed_tasks(settings(rows, held_out=True), made)] == ["new"]
    none = replace(wanted, data=replace(wanted.data, validation=0.0))
    without = manifest(none, tokenizer, tmp_path / "all")
    assert [one.name for one in followed_tasks(none, without)] == ["old"]
    with pytest.raises(CodexRayError, match=r"is held out, so evaluation\.held_out=true has nothing to ask"):
        followed_tasks(replace(none, evaluation=replace(none.evaluation, held_out=True)), without)


def test_conversations_and_columns_of_other_names_are_questions_too(
    rows: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    made, both = manifest(settings(rows), tokenizer, tmp_path / "examples"), []
    chat, named = tmp_path / "chat.jsonl", tmp_path / "named.jsonl"
    turns = [{"role": "user", "content": "a ?"}, {"role": "assistant", "content": "b"}]
    chat.write_text(json.dumps({"messages": turns}))
    named.write_text(json.dumps({"asked": "a ?", "told": "b"}))
    for path, columns in ((chat, {}), (named, {"prompt": "asked", "response": "told"})):
        wanted = settings(rows, held_out=False, old=FollowedTask(path=str(path)))
        wanted = replace(wanted, data=replace(wanted.data, **columns))  # type: ignore[arg-type]
        both += followed_tasks(wanted, made)
    assert [one.task.examples[0].prompt for one in both] == [(turns[0],), "a ?"]
    assert [one.task.examples[0].references for one in both] == [("b",), ("b",)]


def test_tasks_that_cannot_be_followed_are_named(rows: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = manifest(settings(rows), tokenizer, tmp_path / "examples")
    for task, sentence in (
        (FollowedTask(path="nowhere.jsonl"), "unknown task 'nowhere.jsonl'"),
        (FollowedTask(path=str(rows), metric="exakt_match"), "metric=exakt_match is none of .*did you mean"),
        (
            FollowedTask(path=str(rows), verifier="nowhere.judge"),
            r"tasks\.old\.verifier=nowhere\.judge cannot",
        ),
        (FollowedTask(path=str(rows), metric="pass@4", verifier="exact"), "needs 4 answers to each prompt"),
    ):
        with pytest.raises((CodexRayError, ConfigError), match=sentence):
            followed_tasks(settings(rows, old=task), made)


def test_answers_are_scored_written_and_compared(rows: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted = settings(
        rows, held_out=False, old=FollowedTask(path=str(rows), verifier="tests.unit.train.judges.letters")
    )
    made = manifest(wanted, tokenizer, tmp_path / "examples")
    model = build_model(
        SHAPE, vocabulary_size=tokenizer.vocabulary_size, sequence_length=POSITIONS, seed=1,
        special_ids=tokenizer.special_ids,
    )  # fmt: skip
    engine: Any = Alone(model.train())
    abilities = Abilities(followed_tasks(wanted, made), ChatTemplate.of(tokenizer, None), every=5)
    assert [step for step in range(12) if abilities.due(step, last=step == 11)] == [0, 5, 10, 11]
    path, notes = tmp_path / "evaluation.jsonl", list[str]()
    before = abilities.measure(engine, 0, path, notes.append)
    assert model.training and list(before) == ["evaluation/old"] and notes[0].startswith("step 0: old ")
    assert (
        abilities.measure(engine, 5, path, notes.append) == before
    )  # the likeliest answers, of equal weights
    model.lm_head.weight.data.roll(1, 0)
    for parameter in model.parameters():
        parameter.data.mul_(-1.0)
    after = abilities.measure(engine, 10, path, notes.append)
    assert abilities.measure(engine, 10, path, notes.append) == after
    lines: list[Any] = read_metrics(path)
    assert [line["step"] for line in lines] == [0, 5, 10]  # a step that is done again has one line
    scores = [line["tasks"]["old"]["statistics"] for line in lines]
    figures = closing_figures(path)
    held = [*model.named_parameters(), *model.named_buffers()]
    weights = {name: value.detach().numpy() for name, value in held}
    tokenizer.save(tmp_path)
    apart = pickle.loads(pickle.dumps(abilities.apart(tmp_path, model.config, "float32", 1)))(weights)
    assert apart == lines[2]["tasks"]
    write_evaluation(path, 15, apart, apart=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 15}\n')
    assert [row["evaluation/old"] for row in read_run(tmp_path)] == [
        before["evaluation/old"],
        after["evaluation/old"],
    ]
    write_evaluation(path, 10, apart)
    assert figures["evaluation/old/before"] == before["evaluation/old"]
    assert figures["evaluation/old/after"] == after["evaluation/old"]
    change = sum(late[0] - early[0] for early, late in zip(scores[0], scores[2], strict=True)) / len(ROWS)
    assert figures["evaluation/old/change"] == pytest.approx(change)
    assert figures["evaluation/old/change_low"] <= change <= figures["evaluation/old/change_high"]
    (row,) = task_rows(figures)
    assert row[0] == "old" and row[3] == f"{change:+.3f}" and " to " in row[4]
    plot = task_plot(tmp_path)
    assert plot is not None and plot.series[0].steps == [0.0, 5.0, 10.0]


def test_other_questions_are_not_compared(tmp_path: Path) -> None:
    one = {
        "metric": "exact_match",
        "data": "a",
        "value": 1.0,
        "low": 0.5,
        "high": 1.0,
        "statistics": [[1.0, 1.0]],
    }
    lines = [
        {"step": 0, "tasks": {"old": one}},
        {"step": 4, "tasks": {"old": one | {"data": "b", "value": 0.0}}},
    ]
    path = tmp_path / "evaluation.jsonl"
    path.write_text(json.dumps(lines[0]) + "\n")
    assert set(closing_figures(path)) == {f"evaluation/old/before{end}" for end in ("", "_low", "_high")}
    assert task_rows(closing_figures(path)) == [] and task_plot(tmp_path) is None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = closing_figures(path)
    assert "evaluation/old/change" not in figures and task_rows(figures)[0][-1] == "other questions"
    assert closing_figures(tmp_path / "none.jsonl") == {}


def test_a_judge_that_fails_is_named(rows: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted = settings(
        rows, held_out=False, old=FollowedTask(path=str(rows), verifier="tests.unit.train.judges.broken")
    )
    made = manifest(wanted, tokenizer, tmp_path / "examples")
    model = build_model(
        SHAPE, vocabulary_size=tokenizer.vocabulary_size, sequence_length=POSITIONS, seed=1,
        special_ids=tokenizer.special_ids,
    )  # fmt: skip
    abilities = Abilities(followed_tasks(wanted, made), ChatTemplate.of(tokenizer, None), every=5)
    with pytest.raises(
        CodexRayError, match=r"broken of task old failed on an answer \(KeyError: 'nothing' .*judges\.py"
    ):
        abilities.measure(Alone(model), 0, tmp_path / "evaluation.jsonl", print)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluation.every_steps=5"], "there is no task; name one, as evaluation.tasks.old.path=FILE"),
        (["evaluation.tasks.a.path=b", "evaluation.asynchronous=true"], "give evaluation.every_steps=N"),
        (
            ["evaluation.tasks.lines.path=b", "checkpoints.best_metric=evaluation/line"],
            "evaluation/line is of no task that is followed; did you mean 'lines'",
        ),
        (["evaluation.held_out=true", "method=reward"], "trains a model that answers nothing"),
        (["replay.path=old.jsonl", "replay.share=0.0"], "leaves no old rows"),
        (["replay.path=old.jsonl", "replay.share=1.0"], "leaves no new rows"),
    ],
)
def test_settings_that_cannot_be_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose("finetune", ["model", "rows.jsonl", *words])


def test_a_task_is_named_on_the_command_line() -> None:
    made = compose("finetune", ["model", "rows.jsonl", "evaluation.tasks.old.path=old.jsonl"])
    assert made.evaluation.tasks == {"old": FollowedTask(path="old.jsonl")}
    with pytest.raises(ConfigError, match="use letters, digits"):
        compose("finetune", values={"evaluation": {"tasks": {"a b": {"path": "x"}}}})
