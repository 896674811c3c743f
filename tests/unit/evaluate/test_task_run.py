"""Tasks answered by a small model, by an endpoint and from a file, as the verb does it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from codex_ray.config.common import Device, Mlflow, Track
from codex_ray.config.evaluate import Answering, CompareEvaluations, Evaluate, Rows
from codex_ray.config.rollout import Spread
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError, Interrupted
from codex_ray.evaluate.answering import LocalModel, model_digest
from codex_ray.evaluate.comparison import compare_verb
from codex_ray.evaluate.records import MANIFEST, read_tasks
from codex_ray.evaluate.run import Evaluation, evaluate
from codex_ray.model import CodexRayForCausalLM
from codex_ray.plugins import own
from codex_ray.rollout.spread import settled
from codex_ray.tokenizer import Tokenizer
from tests.unit.evaluate.small_corpus import make_corpus, make_model

TRACK = Track(progress="off", mlflow=Mlflow(enabled=False))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def model(corpus: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    make_model(folder, Tokenizer.load(corpus.folder / "tokenizer"))
    return folder


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> Evaluate:
    return Evaluate(
        model=str(model),
        tasks=[str(write_rows(tmp_path / "facts.jsonl"))],
        rows=Rows(
            metrics=["exact_match", "edit_similarity", "distinct_1"],
            answering=Answering(max_new_tokens=8, temperature=1.0, samples=2),
        ),
        answers=str(tmp_path / "answers"),
        compute=Device("cpu", "float32"),
        track=TRACK,
    )


def write_rows(path: Path, count: int = 9) -> Path:
    rows = [{"id": f"n{n}", "prompt": f"def f{n}(x):", "response": f"return {n}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def outputs(measured: Evaluation) -> list[tuple[str, ...]]:
    return [one.texts for one in measured.tasks[0].answers]


def test_answers_are_the_same_at_any_batch_and_for_fewer_examples(settings: Evaluate) -> None:
    whole = evaluate(replace(settings, reuse=False))
    alone = evaluate(replace(settings, reuse=False, batch_rows=1))
    assert outputs(whole) == outputs(alone)
    assert len(set(outputs(whole))) > 1 and all(len(texts) == 2 for texts in outputs(whole))
    assert outputs(evaluate(replace(settings, reuse=False, max_examples=4))) == outputs(whole)[:4]
    assert outputs(evaluate(replace(settings, reuse=False, seed=5))) != outputs(whole)
    assert whole.figures == alone.figures
    assert whole.figures["facts/examples"] == 9 and "facts/exact_match_low" in whole.figures


def test_the_precision_is_not_chosen_by_a_measurement(
    settings: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codex_ray.model.load.choose_dtype", lambda *_: pytest.fail("measured"))
    evaluate(replace(settings, compute=Device("cpu"), output=str(tmp_path / "measured")))
    manifest = json.loads((tmp_path / "measured" / "evaluation.json").read_text())
    assert manifest["model"]["digest"].endswith(" float32")
    spread = Spread(actors=2, gpus_per_actor=0.5)
    assert settled(Device(), spread).dtype == "bfloat16"  # where no GPU is here, too
    assert settled(Device("cpu"), spread).dtype == "float32"
    assert settled(Device(dtype="float16"), Spread()).dtype == "float16"


def test_an_evaluation_that_is_cut_off_goes_on(
    settings: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = outputs(evaluate(replace(settings, answers=str(tmp_path / "others"))))
    asked: list[int] = []
    answer = LocalModel.answers

    def cut_off(self: LocalModel, missing: Any, seed: int, note: Any) -> Iterator[Any]:
        for reply in answer(self, missing, seed, note):
            if len(asked) == 5:
                raise KeyboardInterrupt
            asked.append(reply[1])
            yield reply

    monkeypatch.setattr(LocalModel, "answers", cut_off)
    with pytest.raises(Interrupted, match="run the same command again"):
        evaluate(settings)
    (kept,) = (tmp_path / "answers").glob("*/answers.ndjson")
    kept.write_bytes(kept.read_bytes()[:-3])  # as if it were torn in the last line
    asked.clear()
    monkeypatch.setattr(
        LocalModel, "answers", lambda *given: (asked.append(p[1]) or p for p in answer(*given))
    )
    assert outputs(evaluate(settings)) == expected
    assert len(asked) == 5  # four were kept whole
    asked.clear()
    assert outputs(evaluate(settings)) == expected and not asked
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert sorted(line["place"] for line in lines) == list(range(9))


def test_another_prompt_or_another_model_is_asked_anew(
    settings: Evaluate, tmp_path: Path, corpus: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(settings)
    asked: list[int] = []
    answer = LocalModel.answers
    monkeypatch.setattr(
        LocalModel, "answers", lambda *given: (asked.append(p[1]) or p for p in answer(*given))
    )
    rows = tmp_path / "facts.jsonl"
    rows.write_text(rows.read_text().replace("def f3", "def g3"))
    evaluate(settings)
    assert asked == [3]
    asked.clear()
    make_model(tmp_path / "other", Tokenizer.load(corpus.folder / "tokenizer"))
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"note": "changed"}))
    evaluate(replace(settings, model=str(tmp_path / "other")))
    assert sorted(asked) == list(range(9))


def test_the_folder_holds_masked_examples_and_equal_tables(settings: Evaluate, tmp_path: Path) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLQ"
    rows = [{"prompt": f"aws_key = '{key}'", "response": "jane.doe@firm-mail.com is <b>here</b>"}]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "measured"
    measured = evaluate(replace(settings, output=str(output)))
    text = "".join(
        path.read_text() for path in output.iterdir() if path.suffix in (".ndjson", ".html", ".json")
    )
    assert key not in text and "jane.doe@firm-mail.com" not in text
    assert "<b>here" not in (output / "report.html").read_text()
    table = json.loads((output / "results.json").read_text())
    assert pq.read_table(output / "results.parquet").to_pylist() == table
    header = (output / "results.csv").read_text().splitlines()[0]
    assert header == "task,version,metric,value,low,high,examples,method,best,task_digest"
    assert [row["metric"] for row in table] == ["exact_match", "edit_similarity", "distinct_1", "empty_share"]
    (record,) = read_tasks(output)
    assert record.digest == measured.tasks[0].task.digest
    assert record.examples[0]["scores"]["exact_match"] == 0.0
    assert "Worst first" in (output / "report.html").read_text()
    examples = output / "examples.ndjson"
    examples.write_text(examples.read_text().replace("0.0", "1.0"))
    with pytest.raises(CodexRayError, match="is damaged"):
        read_tasks(output)


def test_prompts_that_leave_no_room_lose_their_beginning_or_are_refused(
    settings: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"id": "long", "prompt": "x = 1\n" * 60, "response": "x"}
    (tmp_path / "facts.jsonl").write_text(json.dumps(long) + "\n")
    evaluate(replace(settings, track=replace(TRACK, progress="plain")))
    assert "1 of 1 prompts lost their beginning" in capsys.readouterr().err
    long_answers = replace(settings.rows, answering=replace(settings.rows.answering, max_new_tokens=99))
    evaluate(replace(settings, rows=long_answers, track=replace(TRACK, progress="plain")))
    said = "facts: answers have up to 32 tokens and not 99, as the model reads 64, prompt and answer"
    assert said in capsys.readouterr().err
    strict = replace(settings.rows, answering=replace(settings.rows.answering, too_long="fail"))
    with pytest.raises(CodexRayError, match=r"example long of task facts has \d+ tokens, and 56 leave room"):
        evaluate(replace(settings, rows=strict, reuse=False))


def test_predictions_are_scored_without_a_model(settings: Evaluate, tmp_path: Path) -> None:
    given = tmp_path / "given.jsonl"
    rows = [{"id": f"n{n}", "prediction": f"return {n % 2}", "response": f"return {n}"} for n in range(9)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    without = replace(settings, model=None, predictions=str(given))
    assert evaluate(without).figures["facts/exact_match"] == pytest.approx(2 / 9)
    assert evaluate(replace(without, tasks=[])).figures["given/exact_match"] == pytest.approx(2 / 9)
    given.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(CodexRayError, match="example 'n0' of task facts has no prediction"):
        evaluate(without)
    given.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[3]]))
    with pytest.raises(CodexRayError, match=r"row 10 of .* has the id 'n3' of an earlier one"):
        evaluate(without)
    given.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[3] | {"id": "n99"}]))
    with pytest.raises(CodexRayError, match="the prediction 'n99' is of no example of task facts"):
        evaluate(without)
    assert evaluate(replace(without, max_examples=4)).figures["facts/examples"] == 4
    given.write_text('{"id": "n0", "answer": "x"}\n')
    with pytest.raises(CodexRayError, match="no text under 'prediction'"):
        evaluate(without)


def test_a_model_that_says_nothing_is_measured(settings: Evaluate, tmp_path: Path) -> None:
    given = tmp_path / "given.jsonl"
    given.write_text(
        '{"id": 1, "prediction": "", "response": "yes"}\n{"id": 2, "prediction": " ", "response": "no"}\n'
    )
    rows = Rows(metrics=["exact_match", "token_f1", "edit_similarity", "distinct_2"])
    found = evaluate(replace(settings, model=None, predictions=str(given), tasks=[], rows=rows)).figures
    assert found["given/empty_share"] == 1 and found["given/token_f1"] == 0 and found["given/distinct_2"] == 0


@pytest.fixture
def silent(model: Path, tmp_path: Path) -> str:
    """Return the folder of a Llama that ends every sequence at once, whatever it reads."""
    tokenizer = Tokenizer.load(model)
    config = LlamaConfig(
        vocab_size=tokenizer.vocabulary_size, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=128, tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    with torch.no_grad():
        made.model.embed_tokens.weight.fill_(1.0)
        made.model.layers[0].self_attn.o_proj.weight.zero_()
        made.model.layers[0].mlp.down_proj.weight.zero_()
        made.lm_head.weight.zero_()
        made.lm_head.weight[tokenizer.eos_id] = 1.0  # a logit of 64, and 0 for all others
    made.save_pretrained(tmp_path / "silent")
    tokenizer.save(tmp_path / "silent")
    return str(tmp_path / "silent")


def test_a_model_that_ends_at_once_is_measured_and_said_to(
    silent: str, settings: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [*(name for name in own("metrics") if name != "verified"), "verified", "pass@1", "pass@2"]
    rows = replace(settings.rows, metrics=judged, verifier="exact")
    shown = replace(TRACK, progress="plain")
    output = tmp_path / "measured"
    found = evaluate(replace(settings, model=silent, rows=rows, output=str(output), track=shown)).figures
    assert found["facts/empty_share"] == 1.0
    assert {found[f"facts/{name.replace('@', '_at_')}"] for name in judged} == {0.0}
    assert all(math.isfinite(value) for value in found.values())
    sentence = "all 18 answers are empty: nothing was written, and no metric says more than that"
    assert f"facts: {sentence}" in capsys.readouterr().err
    assert sentence.capitalize() in (output / "report.html").read_text()
    lines = [json.loads(line) for line in (output / "examples.ndjson").read_text().splitlines()]
    assert len(lines) == 9 and all(line["outputs"] == ["", ""] for line in lines)
    assert all(line["finish_reasons"] == ["stop", "stop"] for line in lines)


def test_two_evaluations_are_compared_in_pairs(settings: Evaluate, tmp_path: Path) -> None:
    folders = []
    for name, right in (("before", 3), ("after", 9)):
        given = tmp_path / f"{name}.jsonl"
        lines = [{"id": f"n{n}", "prediction": f"return {n if n < right else 'x'}"} for n in range(9)]
        given.write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(str(tmp_path / name))
        evaluate(replace(settings, model=None, predictions=str(given), output=folders[-1]))
    asked = CompareEvaluations(*folders, progress="off", output=str(tmp_path / "compared"))
    found = {one.name: one for one in compare_verb(asked)}
    exact = found["facts exact_match"].difference
    assert (exact.first, exact.second) == (pytest.approx(1 / 3), 1.0)
    assert exact.difference.low > 0 and exact.p_value == pytest.approx(2 / 2**6, abs=0.02)
    assert found["facts exact_match"].adjusted >= exact.p_value
    written = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert written[0]["difference"]["value"] == pytest.approx(2 / 3)
    assert "exact_match" in (tmp_path / "compared" / "report.html").read_text()
    with pytest.raises(ConfigError, match=r"'exact_mach' is no metric of .* did you mean 'exact_match'"):
        compare_verb(replace(asked, metrics=["exact_mach"]))
    write_rows(tmp_path / "facts.jsonl", 8)
    shorter = tmp_path / "after.jsonl"
    shorter.write_text("".join(line + "\n" for line in shorter.read_text().splitlines()[:8]))
    evaluate(replace(settings, model=None, predictions=str(shorter), output=folders[1]))
    with pytest.raises(CodexRayError, match="task facts has other examples in"):
        compare_verb(asked)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tasks": []}, "neither of corpus and files given"),
        ({"model": None}, "setting model is needed"),
        ({"predictions": "x.jsonl"}, "are scored without a model"),
        ({"model": None, "predictions": "x.jsonl", "tasks": ["copy", "arithmetic"]}, "are of one task"),
        ({"model": None, "predictions": "x.jsonl", "files": ["a"]}, "scored by a model's probabilities"),
        ({"baselines": True}, "are of held-out documents"),
        ({"tasks": ["copy", "copy"]}, "two tasks are called copy"),
        ({"tasks": ["cpoy"]}, "unknown task 'cpoy'; did you mean 'copy'"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all does not exist"),
    ],
)
def test_what_cannot_be_measured_is_said(settings: Evaluate, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CodexRayError, match=sentence):
        evaluate(replace(settings, **change))


def test_kept_answers_that_are_damaged_are_named(settings: Evaluate, tmp_path: Path) -> None:
    evaluate(settings)
    (kept,) = (tmp_path / "answers").glob("*/answers.ndjson")
    kept.write_text("{}\n")
    with pytest.raises(CodexRayError, match=r"damaged .* reuse=false"):
        evaluate(settings)
    assert not (tmp_path / MANIFEST).exists()
    evaluate(replace(settings, reuse=False))


def test_an_adapter_is_another_model_than_its_base_and_than_one_on_another(
    model: Path, corpus: Manifest, tmp_path: Path
) -> None:
    named = {str(model): model_digest(str(model), None)}
    for number, base in enumerate((model, tmp_path / "other")):
        if number:
            make_model(base, Tokenizer.load(corpus.folder / "tokenizer"))
            (base / "generation_config.json").write_text("{}")
        adapted = get_peft_model(
            CodexRayForCausalLM.from_pretrained(base), LoraConfig(target_modules="all-linear")
        )
        folder = tmp_path / f"adapter-{number}"
        adapted.save_pretrained(folder)  # as PEFT does it, without a tokenizer
        named[str(folder)] = model_digest(str(folder), None)
    assert len(set(named.values())) == 3
    assert model_digest(str(model), None) == named[str(model)]
