"""evaluate on a masked language model: every token once, masked alone, with tokens on both sides."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from codex_ray.config.common import Device, Mlflow, Track
from codex_ray.config.evaluate import Evaluate
from codex_ray.errors import CodexRayError
from codex_ray.evaluate.masked import pieces
from codex_ray.evaluate.run import evaluate

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", "and", "slept"]
TEXT = "the cat sat on a mat and slept on the mat and the cat slept"
POSITIONS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=POSITIONS, pad_token_id=0, **shape)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    backend = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]", "unk": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{name}_token": text for name, text in named.items()}
    )
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(4, 64))
def test_every_token_is_scored_once_with_tokens_on_both_sides(length: int, room: int) -> None:
    scored = [0] * length
    for start, stop, first, last in pieces(length, room):
        assert 0 <= start <= first < last <= stop <= length and stop - start <= room
        assert start == 0 or first - start >= room // 4
        assert stop == length or stop - last >= room // 4
        for place in range(first, last):
            scored[place] += 1
    assert scored == [1] * length


def test_pseudo_perplexity_is_its_definition(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    asked = Evaluate(
        model=str(folder),
        files=[str(tmp_path / "text.txt")],
        compute=Device("cpu", "float32"),
        track=Track(progress="off", mlflow=Mlflow(enabled=False)),
    )
    figures = evaluate(asked).figures
    model = BertForMaskedLM.from_pretrained(folder).eval()
    ids = [WORDS.index(word) for word in TEXT.split()]
    total = 0.0
    for start, stop, first, last in pieces(len(ids), POSITIONS - 2):
        for place in range(first, last):
            row = [2, *ids[start:stop], 3]
            row[1 + place - start] = 4
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row])).logits[0, 1 + place - start]
            total -= float(logits.log_softmax(-1)[ids[place]])
    assert figures["pseudo_perplexity"] == pytest.approx(math.exp(total / len(ids)), rel=1e-5)
    assert figures["evaluated_tokens"] == len(ids) and "bits_per_byte" not in figures
    with pytest.raises(CodexRayError, match="is a masked language model, which writes no answers"):
        evaluate(Evaluate(**{**vars(asked), "tasks": ["copy"]}))
