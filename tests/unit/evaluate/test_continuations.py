"""Continuations behind one context: the scores that each has by itself, at any batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from codex_ray.evaluate.continuations import Question, score_questions
from codex_ray.evaluate.likelihood import Window, WindowScore, score_windows
from codex_ray.model import build_model
from codex_ray.model.branches import may_branch
from tests.unit.evaluate.small_corpus import SHAPE

VOCABULARY = 97
SIZES: dict[str, int] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 2}
SIZES |= {"num_hidden_layers": 2, "intermediate_size": 48}


def model_of(kind: str) -> Any:
    torch.manual_seed(3)
    if kind == "codex_ray":
        return build_model(
            SHAPE,
            vocabulary_size=VOCABULARY,
            sequence_length=64,
            seed=3,
            special_ids={"bos": 1, "eos": 2, "pad": 0},
        )
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64)
        )
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2))
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=8))
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1, attn_implementation=kind))


def questions() -> list[Question]:
    draw = torch.Generator().manual_seed(5)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()

    return [Question(ids(1 + 7 * n % 23), [ids(1 + (n + m) % 6) for m in range(1 + n % 4)]) for n in range(9)]


@pytest.mark.parametrize("batch_rows", [1, 5, 100])
@pytest.mark.parametrize("kind", ["codex_ray", "sdpa", "eager", "gpt2"])
def test_scores_are_those_that_each_has_by_itself(kind: str, batch_rows: int) -> None:
    model, asked = model_of(kind).eval(), questions()
    assert may_branch(model)
    with torch.no_grad():
        for parameter in model.parameters():  # so that likely and unlikely differ
            parameter *= 3 if parameter.ndim == 2 else 1
    for question, scores in zip(asked, score_questions(model, asked, batch_rows=batch_rows), strict=True):
        for ids, score in zip(question.continuations, scores, strict=True):
            whole = [*question.context, *ids]
            alone: list[WindowScore] = []
            window = Window(0, len(whole) - 1, len(question.context))
            score_windows(
                model, [(whole, window)], batch_rows=1, on_score=lambda _, one, into=alone: into.append(one)
            )
            assert score.nats == pytest.approx(alone[0].nats, abs=1e-4) and score.greedy == alone[0].greedy


def test_what_takes_no_mask_or_positions_is_not_asked() -> None:
    assert not may_branch(model_of("mistral"))  # looks back so far only
    assert not may_branch(model_of("bloom"))  # counts positions by its mask
