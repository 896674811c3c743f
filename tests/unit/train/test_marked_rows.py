"""Packed examples: what each learns is what it learns alone, whatever the model's family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from codex_ray.config.model import Model, Residual
from codex_ray.corpus.marked import fill_rows, mark
from codex_ray.corpus.tokenising import best_fit
from codex_ray.model import build_model
from codex_ray.train.documents import MarkedRows
from codex_ray.train.objectives.next_token import NextToken

VOCABULARY, LENGTH = 61, 24
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


def packed_rows() -> Any:
    """The examples as few rows of whole ones."""
    lengths = [len(example) for example in examples()]
    together = best_fit(lengths, LENGTH)
    return fill_rows(np.concatenate(examples()), np.cumsum(lengths), together, LENGTH, pad_id=3)


def ours(streams: int) -> Any:
    shape = Model(
        hidden_size=32, intermediate_size=48, layers=2, heads=4, key_value_heads=2, head_size=8,
        residual=Residual(kind="mhc" if streams > 1 else "plain", streams=streams),
    )  # fmt: skip
    ids = {"unk": 0, "bos": 1, "eos": 2, "pad": 3}
    return build_model(shape, vocabulary_size=VOCABULARY, sequence_length=64, seed=3, special_ids=ids)


FAMILIES = {
    "mhc": lambda: ours(4),
    "plain": lambda: ours(1),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, **HEADS, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **GPT2)),
}


def examples() -> list[np.ndarray]:
    draw = np.random.default_rng(5)
    found = []
    for length in (9, 7, 14, 24, 3, 2, 11):
        learnt = draw.random(length) < 0.6
        learnt[-1] = True
        found.append(mark(draw.integers(4, VOCABULARY, length), learnt))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_examples_learn_as_each_alone(family: str) -> None:
    torch.manual_seed(0)
    model, objective = FAMILIES[family]().float(), NextToken(MarkedRows())
    packed = torch.from_numpy(packed_rows().astype("int64"))
    assert len(packed) < len(examples())
    alone = [torch.from_numpy(example.astype("int64"))[None] for example in examples()]
    total = sum(objective.weight(row) for row in alone)
    assert objective.weight(packed) == total

    def gradients(batches: list[torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        losses = [objective.loss(model, rows, total) for rows in batches]
        sum(losses).backward()  # type: ignore[union-attr]
        return sum(loss.item() for loss in losses), [p.grad for p in model.parameters() if p.grad is not None]

    together, apart = gradients([packed]), gradients(alone)
    assert together[0] == pytest.approx(apart[0], rel=1e-5)
    for one, other in zip(together[1], apart[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_padding_and_first_tokens_are_no_targets() -> None:
    rows = torch.from_numpy(packed_rows().astype("int64"))
    kinds = MarkedRows()
    labels, positions = kinds.labels(rows), kinds.positions(rows)
    assert bool((labels[positions == 0] == -100).all())
    assert kinds.ids(rows).max() < VOCABULARY
    learnt = {int(token) for example in examples() for token in example if token >> 31}
    assert sorted(labels[labels != -100].tolist()) == sorted(
        int(token) & ((1 << 30) - 1) for example in examples() for token in example[1:] if int(token) >> 31
    )
    assert learnt
