"""Tasks from files and by name, and scoring their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codex_ray.config.evaluate import Answering, Rows
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate import Example, Task, load_task, score
from codex_ray.evaluate.tasks import EMPTY

RECORDS = [
    {"key": "fr", "question": "Capital of France?", "answers": ["Paris"]},
    {"key": "uk", "question": "Capital of the UK?", "answers": ["London", "City of London"]},
]
COLUMNS = Rows(prompt="question", references="answers", id="key", metrics=["exact_match"])


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_rows_of_every_form_are_the_same_task(tmp_path: Path) -> None:
    import datasets

    lines = write_lines(tmp_path / "capitals.jsonl", RECORDS)
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "capitals.parquet")
    datasets.Dataset.from_list(RECORDS).save_to_disk(str(tmp_path / "saved"))
    found = load_task(str(lines), COLUMNS)
    assert [example.id for example in found.examples] == ["fr", "uk"]
    assert found.examples[1].references == ("London", "City of London")
    assert found.name == "capitals"
    for other in (tmp_path / "capitals.parquet", tmp_path / "saved"):
        assert load_task(str(other), COLUMNS).data_digest == found.data_digest
    (tmp_path / "capitals.csv").write_text("key,question,answers\nfr,Capital of France?,Paris\n")
    assert load_task(str(tmp_path / "capitals.csv"), COLUMNS).examples[0].references == ("Paris",)


def test_a_task_file_says_how_rows_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", RECORDS)
    (tmp_path / "capitals.yaml").write_text(
        "data: rows.jsonl\nversion: '2'\ndescription: Capitals.\ntemplate: \"Q: {question}\\nA:\"\n"
        "references: answers\nid: key\nmetrics: [exact_match, bleu]\n"
        'answering: {max_new_tokens: 8, stop: ["\\n"]}\n'
    )
    task = load_task(str(tmp_path / "capitals.yaml"))
    assert task.examples[0].prompt == "Q: Capital of France?\nA:"
    assert (task.name, task.version, task.description) == ("capitals", "2", "Capitals.")
    assert task.answering == Answering(max_new_tokens=8, stop=["\n"])
    assert len(load_task(str(tmp_path / "capitals.yaml"), count=1).examples) == 1


def test_the_digest_changes_with_whatever_decides_the_figures(tmp_path: Path) -> None:
    def of(**changes: Any) -> Task:
        settings: dict[str, Any] = {"metrics": ("exact_match",), "version": "1"} | changes
        references = settings.pop("references", ("b",))
        answering = settings.pop("answering", Answering())
        return Task("t", (Example("1", "a", references),), answering, **settings)

    digests = [
        task.digest
        for task in (
            of(),
            of(references=("c",)),
            of(version="2"),
            of(metrics=("bleu",)),
            of(answering=Answering(temperature=0.5)),
        )
    ]
    assert len(set(digests)) == 5
    assert of().digest == digests[0]
    assert of(version="2").data_digest == of().data_digest


def test_conversations_end_where_the_assistant_answers(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
    task = load_task(str(write_lines(tmp_path / "chats.jsonl", [{"messages": turns}])))
    assert task.examples[0].prompt == (turns[0],)
    assert task.examples[0].references == ("Hi!",)


def test_answers_are_scored_with_intervals() -> None:
    task = load_task("copy", count=20)
    right = {example.id: [example.references[0]] for example in task.examples}
    assert score(task, right).figures["exact_match"].value == 1
    texts = right | {task.examples[0].id: [""], task.examples[1].id: ["wrong"]}
    scored = score(task, texts)
    found = scored.figures["exact_match"]
    assert found.value == 0.9 and found.low < 0.9 < found.high
    assert scored.figures[EMPTY].value == 0.05
    assert scored.values("exact_match").tolist() == [0.0, 0.0] + [1.0] * 18


def test_a_verifier_judges_every_answer() -> None:
    examples = (Example("1", "2 + 2 =", ("4",), {"note": "n"}), Example("2", "1 + 1 =", ("2",)))
    task = Task("sums", examples, Answering(samples=2), ("verified", "pass@2"), verifier="last_number")
    scored = score(task, {"1": ["it is 4", "5"], "2": ["7", "8"]})
    assert scored.figures["verified"].value == 0.25
    assert scored.figures["pass@2"].value == 0.5

    seen: list[Any] = []
    score(task, {"1": ["a", "b"], "2": ["c"] * 2}, verify=lambda row, text: seen.append((row, text)) or 0.0)
    assert seen[0] == ({"note": "n", "prompt": "2 + 2 =", "response": "4"}, "a") and len(seen) == 4


@pytest.mark.parametrize(
    ("records", "settings", "sentence"),
    [
        ([{"promt": "a"}], Rows(), "no column 'prompt' for its prompt; did you mean 'promt'"),
        ([{"prompt": 3}], Rows(), "no text under 'prompt'"),
        ([{"prompt": "a"}], Rows(), "example 0 of task rows has no reference, which exact_match needs"),
        ([{"prompt": "a", "response": " "}], Rows(), "has no reference"),
        ([{"prompt": "a", "references": []}], Rows(), "has no reference"),
        ([{"prompt": "a", "references": [{}]}], Rows(), "references under 'references' that are no text"),
        ([{"prompt": "a"}], Rows(references="answer"), "no column 'answer' for its references"),
        ([{"id": 1, "prompt": "a", "response": "b"}] * 2, Rows(), "two examples of the id '1'"),
        ([{"prompt": "a", "response": "b"}], Rows(metrics=["exact"]), "metric=exact is none of"),
        ([{"prompt": "a", "response": "b"}], Rows(metrics=["pass@3"], verifier="exact"), "needs 3 answers"),
        ([{"prompt": "a", "response": "b"}], Rows(metrics=["verified"]), "needs a verifier"),
        ([{"prompt": "a", "response": "b"}], Rows(metrics=[]), "no metrics"),
        ([{"a": "b"}], Rows(template="{b}"), "no column 'b' for its template"),
        ([{"a": "b"}], Rows(template="b"), "names no column"),
        ([{"messages": [{"role": "user"}]}], Rows(), "message without a role and a content"),
    ],
)
def test_wrong_rows_are_named(
    tmp_path: Path, records: list[dict[str, Any]], settings: Rows, sentence: str
) -> None:
    with pytest.raises(CodexRayError, match=sentence):
        load_task(str(write_lines(tmp_path / "rows.jsonl", records)), settings)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("data: rows.jsonl\nmetric: [bleu]\n", r"unknown setting 't.yaml: metric'; did you mean 'metrics'"),
        ("metrics: [bleu]\n", "'t.yaml: data' is needed"),
        ("data: rows.jsonl\nmetrics: bleu\n", "must be a list of text, not 'bleu'"),
        ("data: nowhere.jsonl\n", "nowhere.jsonl does not exist"),
        ("data: rows.jsonl\nanswering: {max_tokens: 3}\n", "max_new_tokens"),
    ],
)
def test_a_wrong_task_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(CodexRayError, match=sentence):
        load_task(str(tmp_path / "t.yaml"))


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown task 'arithmetics'; did you mean 'arithmetic'"):
        load_task("arithmetics")
    with pytest.raises(CodexRayError, match=r"missing\.yaml does not exist"):
        load_task("missing.yaml")


def test_torn_rows_and_answers_that_fit_no_example_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", "resp')
    with pytest.raises(CodexRayError, match="cannot be read"):
        load_task(str(tmp_path / "rows.jsonl"))
    task = load_task("copy", count=3)
    with pytest.raises(CodexRayError, match="3 of 3 examples of task copy have no answer, such as 'copy-0'"):
        score(task, {})
    with pytest.raises(CodexRayError, match="'x' belongs to no example"):
        score(task, {"x": ["a"]} | {example.id: ["b"] for example in task.examples})
    with pytest.raises(CodexRayError, match="3 of 3"):
        score(task, {example.id: [] for example in task.examples})
