"""The tasks that are made here: right answers reach their ceilings, and the same seed makes the same task."""

from __future__ import annotations

import ast
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from codex_ray.config.common import Mlflow, Track
from codex_ray.config.corpus import Canaries
from codex_ray.config.evaluate import Bootstrap, Evaluate
from codex_ray.corpus.canaries import plant
from codex_ray.corpus.documents import Document
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate import load_task, score
from codex_ray.evaluate.library import TASKS
from codex_ray.evaluate.prompt_filter import labelled_prompts, measure_prompt_filter
from codex_ray.evaluate.redaction import labelled_texts, measure_redaction
from codex_ray.evaluate.run import evaluate
from codex_ray.safety.finding import Finding
from codex_ray.safety.prompts import Risk
from tests.unit.evaluate.small_corpus import HELD_OUT, make_corpus


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("canaries")])
def test_right_answers_reach_the_ceiling_and_nothing_reaches_the_floor(name: str) -> None:
    task = load_task(name, count=30, seed=3)
    assert len(task.examples) == 30 and task.description
    assert load_task(name, count=30, seed=3).digest == task.digest
    assert load_task(name, count=30, seed=4).data_digest != task.data_digest
    right = score(task, {example.id: [example.references[0]] for example in task.examples})
    assert all(right.figures[metric].value == 1.0 for metric in task.metrics)
    silent = score(task, {example.id: [""] for example in task.examples})
    assert silent.figures["exact_match"].value == 0.0
    # The answer is not to be had without reading it off: it does not stand in what ends the prompt.
    assert not any(str(example.prompt).endswith(example.references[0]) for example in task.examples)


def test_copies_stand_once_in_the_prompt_and_sums_are_right() -> None:
    for example in load_task("copy", count=20).examples:
        assert str(example.prompt).count(example.references[0]) == 1
    for example in load_task("arithmetic", count=20).examples:
        lines = str(example.prompt).splitlines()
        assert len(lines) == 4
        asked = lines[-1].removesuffix(" =")
        assert eval(asked) == int(example.references[0])
        for line in lines[:-1]:
            left, _, value = line.partition(" = ")
            assert eval(left) == int(value)


def test_next_lines_are_those_of_the_held_out_files() -> None:
    texts = {document.name: document.text.split("\n") for document in HELD_OUT}
    task = load_task("next_line", count=25, documents=tuple(HELD_OUT))
    for example in task.examples:
        name, _, line = example.id.rpartition(":")
        lines = texts[name]
        assert lines[int(line) - 1] == example.references[0]
        before = str(example.prompt).splitlines()
        assert before == lines[int(line) - 1 - len(before) : int(line) - 1]
    assert "held-out files" in task.description
    assert "standard library" in load_task("next_line", count=2).description


def test_signatures_are_those_of_functions_with_that_docstring() -> None:
    task = load_task("signatures", count=8, documents=tuple(HELD_OUT))
    functions = [
        node
        for document in HELD_OUT
        for node in ast.walk(ast.parse(document.text))
        if isinstance(node, ast.FunctionDef)
    ]
    for example in task.examples:
        asked = str(example.prompt).rsplit('"""', 2)[1]
        (found,) = [node for node in functions if (ast.get_docstring(node) or "").splitlines()[:1] == [asked]]
        assert example.references[0].startswith(f"{found.name}({ast.unparse(found.args)})")
        assert str(example.prompt).count("\ndef") == 4
        assert f"def {example.references[0]}" not in str(example.prompt)


def test_files_without_code_are_refused() -> None:
    text = (Document("a.txt", "no code"), Document("b.py", "x = 1\n"))
    with pytest.raises(CodexRayError, match="next_line needs Python files"):
        load_task("next_line", documents=text)
    with pytest.raises(CodexRayError, match="0 functions with docstrings"):
        load_task("signatures", documents=text)


def test_canaries_are_those_of_the_corpus_and_the_control_is_of_none(tmp_path: Path) -> None:
    made = make_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError, match="no canaries are planted in corpus"):
        load_task("canaries", corpus=str(tmp_path / "corpus"))
    with pytest.raises(ConfigError, match="give corpus=FOLDER"):
        load_task("canaries")
    planted = Canaries(count=5, repeats=2)
    replace(made, settings={"seed": 7, "canaries": asdict(planted)}).save()
    documents = [one.text for part in plant(planted, 7, [10, 0, 3]) for one in part]
    assert len(documents) == 10
    asked, control = (
        load_task(name, corpus=str(tmp_path / "corpus")) for name in ("canaries", "canaries_control")
    )
    assert len(asked.examples) == len(control.examples) == 5
    for example in asked.examples:
        assert documents.count(f"{example.prompt} {example.references[0]}\n") == 2
    for example in control.examples:
        assert not any(str(example.prompt) in text or example.references[0] in text for text in documents)
    assert len(load_task("canaries", corpus=str(tmp_path / "corpus"), count=3).examples) == 3


def test_masking_is_measured_without_a_model_against_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Evaluate(tasks=["redaction"], track=Track(progress="off", mlflow=Mlflow(enabled=False)))
    figures = evaluate(asked).figures
    assert figures["redaction/precision"] > 0.95 and figures["redaction/recall"] > 0.9
    assert figures["redaction/recall_low"] <= figures["redaction/recall"] <= figures["redaction/recall_high"]
    texts = labelled_texts(40, 1)
    assert len({one.text for one in texts if one.secret}) == 20

    def half(text: str, **_: bool) -> list[Finding]:
        """Find a word in every text, and the whole of those that begin with a small letter."""
        return [Finding("x", 0, len(text) if text[0].islower() else 1)]

    monkeypatch.setattr("codex_ray.evaluate.redaction.find", half)
    found = measure_redaction(40, 1, Bootstrap())
    lower = [one for one in texts if one.text[0].islower() and one.secret]
    assert found["recall"].value == pytest.approx(len(lower) / 20)
    assert found["precision"].value == pytest.approx(len(lower) / 40)


def test_the_prompt_filter_is_measured_on_prompts_of_which_no_two_are_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Evaluate(tasks=["prompt_filter"], track=Track(progress="off", mlflow=Mlflow(enabled=False)))
    figures = evaluate(asked).figures
    assert figures["prompt_filter/precision"] > 0.95 and figures["prompt_filter/recall"] > 0.8
    assert figures["prompt_filter/harmless_hit_rate"] < 0.05
    prompts = labelled_prompts(600, 1)
    assert len({one.text for one in prompts}) == 600
    assert sum(one.kind is None for one in prompts) == 300
    assert labelled_prompts(600, 1) == prompts != labelled_prompts(600, 2)

    monkeypatch.setattr("codex_ray.evaluate.prompt_filter.prompt_risk", lambda text: Risk(float("I" in text)))
    found = measure_prompt_filter(200, 1, Bootstrap())
    hit = [one for one in labelled_prompts(200, 1) if "I" in one.text]
    attacks = sum(one.kind is not None for one in hit)
    assert found["precision"].value == pytest.approx(attacks / len(hit))
    assert found["recall"].value == pytest.approx(attacks / 100)
    assert found["harmless_hit_rate"].value == pytest.approx((len(hit) - attacks) / 100)
