"""Hand-written norms, rotation, attention and loss against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from codex_ray.model import operations
from codex_ray.model.operations import CausalAttention, NormAndRotate, RMSNorm, TokenLoss


def check_against(function: object, expected: object, *leaves: Tensor, tolerance: float = 1e-5) -> None:
    got, wanted = function(*leaves), expected(*leaves)  # type: ignore[operator]
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    weights = torch.randn_like(wanted)
    left = torch.autograd.grad((got * weights).sum(), leaves)
    right = torch.autograd.grad((wanted * weights).sum(), leaves)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    check_against(
        lambda x, weight: RMSNorm.apply(x, weight, 1e-6),
        lambda x, weight: functional.rms_norm(x.float(), (16,), weight.float(), 1e-6).to(x.dtype),
        leaf(2, 5, 16, dtype=dtype),
        leaf(16, dtype=dtype),
        tolerance=1e-5 if dtype == torch.float32 else 0.05,
    )


def turns(length: int, size: int) -> Tensor:
    angles = torch.rand(1, length, size // 2, dtype=torch.float64) * 6
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def test_gradcheck_of_norm_and_rotation() -> None:
    torch.manual_seed(0)
    x, weight = leaf(2, 3, 2, 6, dtype=torch.float64), leaf(6, dtype=torch.float64)
    turn = turns(3, 6)
    assert torch.autograd.gradcheck(lambda a, b: NormAndRotate.apply(a, b, turn, 1e-6), (x, weight))
    assert torch.autograd.gradcheck(lambda a: NormAndRotate.apply(a, None, turn, 0.0), (x,))


def test_rotation_makes_products_depend_on_distance_only() -> None:
    torch.manual_seed(0)
    position = torch.arange(6, dtype=torch.float64)[None, :, None]
    angles = position * torch.tensor([1.0, 0.3, 0.01])
    turn = torch.stack((angles.cos(), angles.sin()), dim=-1)
    query, key = (torch.randn(6, dtype=torch.float64).expand(1, 6, 1, 6) for _ in range(2))
    query, key = (NormAndRotate.apply(x, None, turn, 0.0)[0, 0] for x in (query, key))
    products = query @ key.t()
    for distance in range(5):
        assert products.diagonal(-distance).std(correction=0) < 1e-12
    assert products[:, 0].std() > 0.1


@pytest.mark.parametrize("length", [1, 5, 128, 200])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_causal_attention(length: int, heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    query, key, value = (leaf(2, count, length, 8) for count in (heads[0], heads[1], heads[1]))
    check_against(
        lambda q, k, v: CausalAttention.apply(q, k, v, 0.3),
        lambda q, k, v: functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=0.3, enable_gqa=True
        ).transpose(1, 2),
        query,
        key,
        value,
    )


def test_causal_attention_in_bf16_is_as_close_as_the_library() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, count, 200, 32) for count in (4, 2, 2))
    exact = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    low = [x.bfloat16() for x in (query, key, value)]
    library = functional.scaled_dot_product_attention(*low, is_causal=True, enable_gqa=True)
    ours = CausalAttention.apply(*low, 32**-0.5).transpose(1, 2)
    assert (ours - exact).norm() < 2 * (library - exact).norm() + 1e-3


def loss_of(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum", ignore_index=-100)


@pytest.mark.parametrize("pieces", [(2**21, 512), (1, 3)])
def test_token_loss(pieces: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "LOSS_LOGITS", pieces[0])
    monkeypatch.setattr(operations, "LOSS_TOKENS", pieces[1])
    torch.manual_seed(0)
    targets = torch.randint(0, 11, (10,))
    targets[[2, 9]] = -100
    check_against(
        lambda hidden, weight: 0.3 * TokenLoss.apply(hidden, weight, targets),
        lambda hidden, weight: 0.3 * loss_of(hidden, weight, targets),
        leaf(10, 4, dtype=torch.float64),
        leaf(11, 4, dtype=torch.float64),
        tolerance=1e-9,
    )


def test_token_loss_of_an_impossible_token_is_finite_and_exact() -> None:
    hidden, weight = torch.tensor([[200.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    targets = torch.tensor([2])
    got = TokenLoss.apply(hidden, weight, targets)
    torch.testing.assert_close(got, loss_of(hidden, weight, targets))
    assert got == pytest.approx(400.0)


def test_token_loss_without_gradients_prepares_none() -> None:
    hidden, weight = torch.randn(4, 3), torch.randn(5, 3)
    loss = TokenLoss.apply(hidden, weight, torch.arange(4))
    assert not loss.requires_grad
    torch.testing.assert_close(loss, loss_of(hidden, weight, torch.arange(4)))
