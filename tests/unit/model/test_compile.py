"""Compiled sublayers: the same gradients, one graph for all layers, and no mixer in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch.fx import GraphModule

from codex_ray.config.train import Training
from codex_ray.model import CodexRayForCausalLM, next_token_loss_sum
from codex_ray.train.start import ready_for_training
from tests.unit.model.small import COMPILED_KINDS, build, stir, tokens


def losses_and_gradients(model: CodexRayForCausalLM) -> list[torch.Tensor]:
    model.zero_grad()
    loss = next_token_loss_sum(model, tokens(2, 16))
    loss.backward()
    return [loss.detach(), *(value.grad for value in model.parameters() if value.grad is not None)]


@pytest.mark.parametrize("kind", COMPILED_KINDS)
def test_compiled_sublayers_train_as_before(kind: str) -> None:
    trains_as_before(kind, "none")


@pytest.mark.parametrize("recompute", ["streams", pytest.param("layers", marks=pytest.mark.verify)])
def test_compiled_sublayers_train_as_before_where_much_is_computed_anew(recompute: str) -> None:
    trains_as_before("mhc", recompute)


def trains_as_before(kind: str, recompute: str) -> None:
    torch._dynamo.reset()
    model = stir(build(kind)).train()
    expected = losses_and_gradients(model)
    ready_for_training(model, Training(recompute=recompute))
    graphs: list[str] = []

    def record(graph: GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph.print_readable(print_output=False))
        compiled: Callable[..., Any] = aot_eager(graph, inputs)
        return compiled

    model.model.compile_sublayers(record)
    found = losses_and_gradients(model)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 2, "one of attention and one of feed-forward, for all layers"
    assert "mixer" not in "".join(graphs) and "softmax" in "".join(graphs)


def test_compiled_bf16_and_documents() -> None:
    torch._dynamo.reset()
    model = stir(build("mhc")).train().bfloat16()
    ids = tokens(2, 16)
    positions = torch.arange(16).remainder(7).expand(2, -1)

    def loss() -> torch.Tensor:
        outputs = model(input_ids=ids, position_ids=positions, labels=ids)
        return outputs.loss.detach()

    expected = loss()
    model.model.compile_sublayers("aot_eager")
    torch.testing.assert_close(loss(), expected, rtol=2e-2, atol=0)
