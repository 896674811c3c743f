"""The evaluate verb on a small corpus and on files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codex_ray.config.common import Device, Mlflow, Track
from codex_ray.config.evaluate import Evaluate
from codex_ray.corpus.manifest import Manifest
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.baselines import score_with_ngram
from codex_ray.evaluate.ngram import train_ngram
from codex_ray.evaluate.run import evaluate
from codex_ray.evaluate.training import training_sequences, training_texts
from codex_ray.model import load_model
from codex_ray.tokenizer import Tokenizer
from tests.unit.evaluate.small_corpus import HELD_OUT, LENGTH, TRAINING, make_corpus, make_model

QUIET = Track(mlflow=Mlflow(enabled=False), progress="off")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizer(corpus: Manifest) -> Tokenizer:
    return Tokenizer.load(corpus.folder / "tokenizer")


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    make_model(folder, tokenizer)
    return folder


@pytest.fixture
def settings(corpus: Manifest, model: Path) -> Evaluate:
    compute = Device("cpu", "float32")
    return Evaluate(model=str(model), corpus=str(corpus.folder), compute=compute, track=QUIET)


def test_training_documents_come_back_from_the_rows(corpus: Manifest, tokenizer: Tokenizer) -> None:
    texts = list(training_texts(corpus, tokenizer))
    whole = [document.text for document in TRAINING]
    assert texts[:-1] == whole[:-1]
    assert whole[-1].startswith(texts[-1])  # the last row is full, the rest of the last document unused
    assert len(whole[-1]) - len(texts[-1]) < 8 * LENGTH
    sequences = list(training_sequences(corpus, tokenizer))
    assert [ids[0] for ids in sequences] == [tokenizer.bos_id] * len(whole)
    assert [ids[-1] for ids in sequences[:-1]] == [tokenizer.eos_id] * (len(whole) - 1)


def test_the_last_training_documents_are_whole(corpus: Manifest, tokenizer: Tokenizer) -> None:
    texts = list(training_texts(corpus, tokenizer))
    for last in (1, 500, 3000, 10**9):
        end = list(training_texts(corpus, tokenizer, last_tokens=last))
        assert end == texts[len(texts) - len(end) :]
        assert len(end) == len(texts) or sum(map(len, end)) < sum(map(len, texts))


def test_a_documents_bits_are_those_of_one_pass(
    settings: Evaluate, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = "def f(x):\n    return x\n"
    (tmp_path / "a.py").write_text(text)
    measured = evaluate(replace(settings, corpus=None, files=[str(tmp_path / "a.py")]))
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    with torch.no_grad():
        logits = load_model(settings.model)(torch.tensor([ids])).logits[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
    assert measured.figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    assert measured.figures["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-4)
    assert measured.figures["evaluated_tokens"] == len(ids) - 1


def test_a_corpus_with_baselines_and_headers(
    settings: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    asked = replace(settings, baselines=True, headers=6, output=str(output))
    measured = evaluate(asked)
    figures = measured.figures
    assert figures["evaluated_documents"] == len(HELD_OUT)
    assert figures["evaluated_bytes"] == sum(len(document.text.encode()) for document in HELD_OUT)
    assert figures["context"] == LENGTH
    # A random model knows nothing; what has seen the training text knows more than what has not.
    uniform = math.log2(500) * figures["evaluated_tokens"] / figures["evaluated_bytes"]
    assert figures["bits_per_byte"] == pytest.approx(uniform, rel=0.1)
    assert figures["xz_primed_bits_per_byte"] < figures["xz_bits_per_byte"]
    assert figures["ngram_bits_per_byte"] < figures["bits_per_byte"] - 0.5
    assert figures["headers"] == 6 == len(measured.completed_headers)
    assert 0 <= figures["headers_parsed"] <= 1 and 0 <= figures["ngram_headers_parsed"] <= 1
    assert json.loads((output / "summary.json").read_text()) == figures
    lines = [json.loads(line) for line in (output / "documents.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [document.name for document in HELD_OUT]
    assert sum(line["nats"] for line in lines) == pytest.approx(measured.likelihood.nats)
    headers = [json.loads(line) for line in (output / "headers.jsonl").read_text().splitlines()]
    assert sum(line["parsed"] for line in headers) == 6 * figures["headers_parsed"]
    for name in ("config.yaml", "environment.json", "report.html"):
        assert (output / name).is_file()
    assert "xz -9 after the training text" in capsys.readouterr().out
    assert evaluate(asked).figures == figures


def test_the_train_split_is_measured_from_its_rows(settings: Evaluate) -> None:
    measured = evaluate(replace(settings, split="train", max_documents=2))
    assert measured.figures["evaluated_bytes"] == sum(
        len(document.text.encode()) for document in TRAINING[:2]
    )
    with pytest.raises(ConfigError, match="by heart"):
        evaluate(replace(settings, split="train", baselines=True))


def test_folders_are_read_and_limited(settings: Evaluate, tmp_path: Path) -> None:
    for name, text in (("b.py", "x = 1\n"), ("a.py", "y = 22\n"), ("skipped.bin", "z"), ("c.txt", "")):
        (tmp_path / name).write_text(text)
    chosen = replace(settings, corpus=None, files=[str(tmp_path)])
    assert evaluate(chosen).figures["evaluated_bytes"] == 13
    assert [score.name for score in evaluate(replace(chosen, max_documents=1)).likelihood.documents] == [
        str(tmp_path / "a.py")
    ]


def test_too_few_headers_are_said_and_not_invented(
    settings: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("def f(x):\n    return x\n")
    plain = replace(settings.track, progress="plain")
    measured = evaluate(replace(settings, corpus=None, files=[str(tmp_path)], headers=3, track=plain))
    assert "headers_parsed" not in measured.figures
    assert "0 one-line function headers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"corpus": None}, "name one thing to measure"),
        ({"files": ["a"]}, "name one thing to measure"),
        ({"context": 65}, "context=65 is more than the 64 positions"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all does not exist"),
        ({"corpus": None, "files": ["/nowhere.py"]}, "/nowhere.py does not exist"),
        ({"corpus": "/nowhere"}, "/nowhere does not exist"),
    ],
)
def test_what_cannot_be_measured_is_named(
    settings: Evaluate, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(CodexRayError, match=sentence):
        evaluate(replace(settings, **change))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "every document is empty"), (b"caf\xe9", "not UTF-8"), (b"a\0b", "NUL")],
)
def test_files_without_text_are_named(
    settings: Evaluate, tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CodexRayError, match=sentence):
        evaluate(replace(settings, corpus=None, files=[str(tmp_path / "a.txt")]))


def test_a_tokenizer_larger_than_the_model_is_refused(
    settings: Evaluate, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    make_model(tmp_path / "model", tokenizer)
    model = load_model(tmp_path / "model")
    model.resize_token_embeddings(450)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CodexRayError, match="500 pieces and the model 450"):
        evaluate(replace(settings, model=str(tmp_path / "model")))


def test_the_ngram_is_scored_as_a_model_is(corpus: Manifest, tokenizer: Tokenizer) -> None:
    ngram = train_ngram(
        training_sequences(corpus, tokenizer), order=3, vocabulary_size=tokenizer.vocabulary_size
    )
    scored = score_with_ngram(ngram, tokenizer, HELD_OUT[:1])
    ids = [tokenizer.bos_id, *tokenizer.encode(HELD_OUT[0].text)]
    nats = -sum(math.log(ngram.distribution(ids[:place])[ids[place]]) for place in range(1, len(ids)))
    assert scored.nats == pytest.approx(nats, rel=1e-5)
    assert scored.tokens == len(ids) - 1
