"""Our models in lm-evaluation-harness: its scores are ours, and those of its own backend."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from codex_ray.config.common import Device, Mlflow, Track
from codex_ray.config.evaluate import Evaluate, Harness
from codex_ray.corpus.documents import Document
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.harness import CodexRayLM
from codex_ray.evaluate.likelihood import score_documents
from codex_ray.evaluate.run import evaluate
from codex_ray.tokenizer import Tokenizer
from tests.unit.evaluate.small_corpus import HELD_OUT, make_corpus, make_model

PAIRS = [
    ("import ", "os\n"),
    ("def f(x):\n    return", " x + 1"),
    ("for i in ", "range(10)"),
    ("", "while True:"),
    *(("if x:\n    y =", choice) for choice in (" 1", " None", " [x for x in y]\n")),
]
DOCUMENTS = [Document(document.name, document.text[:800]) for document in HELD_OUT]
TEXTS = [document.text for document in DOCUMENTS]


def requests(arguments: list[tuple[Any, ...]]) -> list[Any]:
    return [SimpleNamespace(args=one, task_name=None) for one in arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("harness")
    make_corpus(place / "corpus")
    make_model(place / "model", Tokenizer.load(place / "corpus" / "tokenizer"))
    return place / "model"


@pytest.fixture(scope="module")
def ours(folder: Path) -> CodexRayLM:
    return CodexRayLM(str(folder), batch_size=3, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(folder), device="cpu", dtype="float32", batch_size=2)


def test_scores_are_those_of_the_harness_s_own_backend(folder: Path, ours: CodexRayLM, theirs: Any) -> None:
    plain = CodexRayLM(str(folder), batch_size=3, device="cpu", add_bos_token=False)
    mine = plain.loglikelihood(requests(PAIRS), disable_tqdm=True)
    expected = theirs.loglikelihood(requests(PAIRS), disable_tqdm=True)
    for (score, greedy), (other, also) in zip(mine, expected, strict=True):
        assert score == pytest.approx(other, abs=1e-4) and bool(greedy) == bool(also)
    asked = requests([(text,) for text in TEXTS])
    rolling = ours.loglikelihood_rolling(asked)
    assert rolling == pytest.approx(
        theirs.loglikelihood_rolling(asked, disable_tqdm=True), rel=1e-5, abs=1e-4
    )


def test_perplexity_is_ours_of_the_same_text(ours: CodexRayLM) -> None:
    likelihood = score_documents(
        ours.model, ours._tokenizer, DOCUMENTS, context=ours.max_length, stride_share=1.0
    )
    rolling = ours.loglikelihood_rolling(requests([(text,) for text in TEXTS]))
    assert [-one.nats for one in likelihood.documents] == pytest.approx(rolling, abs=1e-4)


def test_a_continuation_is_scored_by_the_chain_rule_and_is_greedy_where_it_is(ours: CodexRayLM) -> None:
    tokenizer = ours._tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("import")]
    written = []
    for _ in range(3):
        with torch.no_grad():
            written.append(int(ours.model(input_ids=torch.tensor([[*ids, *written]])).logits[0, -1].argmax()))
    with torch.no_grad():
        logs = ours.model(input_ids=torch.tensor([[*ids, *written]])).logits[0].log_softmax(-1)
    expected = sum(float(logs[len(ids) - 1 + place, token]) for place, token in enumerate(written))
    other = [*written[:2], (written[2] + 1) % tokenizer.vocabulary_size]
    found = ours._loglikelihood_tokens([(None, ids, written), (None, ids, other), (None, ids * 40, written)])
    assert found[0] == (pytest.approx(expected, abs=1e-4), True)
    assert found[1][1] is False and found[1][0] < found[0][0]
    assert math.isfinite(found[2][0])  # the end of a context that is too long
    with pytest.raises(CodexRayError, match="a continuation of 65 tokens cannot be scored"):
        ours._loglikelihood_tokens([(None, ids, [5] * 65)])


def test_completions_end_before_their_stops(ours: CodexRayLM) -> None:
    asked = [
        ("import os", {"until": ["\n"], "max_gen_toks": 6}),
        ("x" * 500, {"until": [], "max_gen_toks": 4}),
    ]
    texts = ours.generate_until(requests(asked))
    assert len(texts) == 2 and "\n" not in texts[0]


def test_the_package_names_its_model_as_a_plugin_of_the_harness() -> None:
    from lm_eval.api.registry import Registry

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["lm_eval.models"].items()
    models: Registry[Any] = Registry("model")
    models.register(name, target=EntryPoint(name, value, "lm_eval.models"))
    assert models.get("codex_ray") is CodexRayLM


@pytest.fixture
def local_task(tmp_path: Path) -> Path:
    """Return a folder with a task of the harness."""
    rows = [{"q": f"x{n} = ", "choices": [f"{n}", f"{n + 1}"], "gold": n % 2} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(
        f"task: tiny_choice\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{gold}}'\n"
        "doc_to_choice: '{{choices}}'\n"
    )
    return tmp_path


@pytest.mark.verify
def test_a_local_task_of_the_harness_is_evaluated(folder: Path, local_task: Path) -> None:
    settings = Evaluate(
        model=str(folder),
        tasks=["harness:tiny_choice"],
        harness=Harness(include=str(local_task)),
        compute=Device("cpu", "float32"),
        track=Track(progress="off", mlflow=Mlflow(enabled=False)),
    )
    figures = evaluate(settings).figures
    assert 0 <= figures["harness/tiny_choice/acc"] <= 1
    with pytest.raises(ConfigError, match="no task 'tiny_chioce'; did you mean 'tiny_choice'"):
        evaluate(Evaluate(**{**vars(settings), "tasks": ["harness:tiny_chioce"]}))
    figured = str(figures["harness/tiny_choice/acc"])
    command = [sys.executable, "-m", "codex_ray.evaluate.harness", "run", "--model", "codex_ray"]
    given = ["--model_args", f"pretrained={folder}", "--device", "cpu", "--tasks", "tiny_choice"]
    include = ["--include_path", str(local_task), "--output_path", str(local_task / "out")]
    subprocess.run([*command, *given, *include], check=True, timeout=300)
    (written,) = (local_task / "out").rglob("results_*.json")
    assert str(json.loads(written.read_text())["results"]["tiny_choice"]["acc,none"]) == figured
