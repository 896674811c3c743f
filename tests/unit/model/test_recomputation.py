"""Streams made again in the backward pass: the same numbers, and fewer of them kept."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import Tensor

from codex_ray.model import CodexRayForCausalLM, next_token_loss_sum
from codex_ray.model.recomputation import StreamState, best_block
from tests.unit.model.small import build, stir, tokens

LAYERS = 3


def gradients(model: CodexRayForCausalLM) -> dict[str, Tensor]:
    model.zero_grad()
    next_token_loss_sum(model, tokens(2, 16)).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 2, 4, 100])
@pytest.mark.parametrize("kind", ["mhc", "mhc_permutation", "identity", "hc"])
def test_gradients_are_the_same_bit_for_bit(kind: str, block: int, dtype: torch.dtype) -> None:
    model = stir(build(kind, layers=LAYERS)).to(dtype).train()
    expected = gradients(model)
    model.model.recompute_streams(block)
    for name, value in gradients(model).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("block", [2, 4])
def test_only_the_first_streams_of_a_block_are_kept(block: int) -> None:
    model = stir(build("mhc", layers=LAYERS)).train()
    saved: list[int] = []

    def pack(value: Tensor) -> Tensor:
        if value.shape[-2:] == (4, 24):
            saved.append(value.data_ptr())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = next_token_loss_sum(model, tokens(2, 16))
        assert len(set(saved)) == 2 * LAYERS  # the streams before every sublayer
        del loss
        saved.clear()
        model.model.recompute_streams(block)
        loss = next_token_loss_sum(model, tokens(2, 16))
    states = [found for found in gc.get_objects() if type(found) is StreamState]
    kept = [state for state in states if state.kept is not None]
    assert not saved
    assert (len(states), len(kept)) == (2 * LAYERS, math.ceil(2 * LAYERS / block))
    loss.backward()
    assert all(state._again is None for state in states)


def test_the_block_is_the_papers() -> None:
    # mHC section 4.3.2 with N = 4: L = 60 and 122 sublayers.
    assert best_block(4, 60) == 6
    assert best_block(4, 122) == 9
    model = build("mhc", layers=LAYERS)
    model.model.recompute_streams()
    assert model.model.stream_block == best_block(4, 2 * LAYERS) == round(math.sqrt(4 * 6 / 6))
