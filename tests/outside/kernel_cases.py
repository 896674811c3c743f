"""The Triton kernels against the plain operations, in Triton's interpreter; run by ``test_beside.py``.

Not named ``test_``: it needs Triton, which a machine without a GPU need not have.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codex_ray.model import kernels, mixing, next_token_loss_sum
from tests.unit.model.small import build, stir, tokens

TOKENS, SIZE = 37, 40  # neither fills a program
STREAMS = (2, 4, 8)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


@pytest.fixture(autouse=True)
def interpreter() -> None:
    assert kernels.triton is not None and kernels.INTERPRETED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", STREAMS)
def test_projection_and_norm(n: int, dtype: torch.dtype) -> None:
    streams, projection = drawn(TOKENS, n, SIZE, dtype=dtype), 0.1 * drawn(n * n + 2 * n, n * SIZE)
    raw, inverse_rms = kernels.project(streams, projection, 1e-6)
    flat = streams.double().flatten(1)
    torch.testing.assert_close(raw.double(), projection.double() @ flat.t(), rtol=1e-5, atol=1e-5)
    expected = (flat.square().mean(1) + 1e-6).rsqrt()
    torch.testing.assert_close(inverse_rms.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", STREAMS)
def test_reading_and_its_gradients(n: int) -> None:
    streams, gates, along = drawn(TOKENS, n, SIZE), drawn(n, TOKENS), drawn(TOKENS)
    read_gradient, gradient = drawn(TOKENS, SIZE), drawn(TOKENS, n, SIZE, seed=1)
    torch.testing.assert_close(kernels.read(streams, gates), (streams * gates.t()[:, :, None]).sum(1))
    torch.testing.assert_close(
        kernels.read_gates_backward(streams, read_gradient), (streams * read_gradient[:, None]).sum(2).t()
    )
    expected = gradient + streams * along[:, None, None] + gates.t()[:, :, None] * read_gradient[:, None]
    got = kernels.read_backward(streams, gradient, read_gradient, gates, along)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("n", STREAMS)
def test_writing_and_its_gradients(n: int, mixed: bool) -> None:
    leaves = [drawn(TOKENS, n, SIZE), drawn(TOKENS, SIZE), drawn(TOKENS, n, n + 1 if mixed else 1)]
    gradient = drawn(TOKENS, n, SIZE, seed=1)
    streams, output, writing = (leaf.double().requires_grad_() for leaf in leaves)
    kept = writing[:, :, :n] @ streams if mixed else streams
    expected = kept + writing[:, :, -1:] * output[:, None]
    torch.testing.assert_close(kernels.write(*leaves).double(), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected, (streams, output, writing), gradient.double())
    for got, want in zip(kernels.write_backward(gradient, *leaves), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("std", [0.1, 2.5])
@pytest.mark.parametrize("n", STREAMS)
def test_sinkhorn_and_its_gradient(n: int, std: float) -> None:
    logits, gradient = std * drawn(n, n, TOKENS), drawn(n, n, TOKENS, seed=1)
    expected = mixing.sinkhorn(logits.double(), 20, 1e-6)
    torch.testing.assert_close(kernels.sinkhorn(logits, 20, 1e-6).double(), expected, rtol=1e-5, atol=1e-6)
    wanted = mixing.sinkhorn_backward(logits.double(), gradient.double(), 20, 1e-6)
    got = kernels.sinkhorn_backward(logits, gradient, 20, 1e-6)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mhc", "mhc_permutation", "identity", "hc"])
def test_a_models_loss_and_gradients(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = stir(build(kind)).train(), []
    assert kernels.usable(drawn(TOKENS, 4, SIZE), 4)
    for usable in (kernels.usable, lambda values, streams: False):
        monkeypatch.setattr(mixing, "fusable", usable)
        model.zero_grad()
        loss = next_token_loss_sum(model, tokens(1, 9))
        loss.backward()
        found.append([loss.detach(), *[value.grad for value in model.parameters() if value.grad is not None]])
    for fused_value, plain_value in zip(*found, strict=True):
        torch.testing.assert_close(fused_value, plain_value, rtol=1e-4, atol=1e-5)
