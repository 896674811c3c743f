"""The compiled kernels beside PyTorch's operations, and a machine without a compiler."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codex_ray.rollout import native
from codex_ray.rollout.attention import PagedAttention, Span
from codex_ray.rollout.lora import Beside
from codex_ray.rollout.norms import normed
from codex_ray.rollout.packed import PackedGate
from codex_ray.rollout.pages import PagedCache

DTYPES = (torch.float32, torch.bfloat16)


def kernels(dtype: torch.dtype) -> native.Kernels:
    found = native.kernels(dtype)
    assert found is not None, "the tests need a C++ compiler with OpenMP"
    return found


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-2 if found.dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(dtype: torch.dtype) -> None:
    for rows, size in itertools.product((1, 3, 100), (5, 64, 257)):
        x, weight = torch.randn(rows, size).to(dtype), torch.randn(size)
        close(kernels(dtype).norm(x, weight, 1e-6), normed(x, weight, 1e-6))


def multiplying(dtype: torch.dtype) -> native.Kernels:
    found = kernels(dtype)
    if not found.products:
        pytest.skip("this processor has no AVX-512 with bfloat16 products; oneDNN multiplies here")
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
def test_products(biased: bool, dtype: torch.dtype) -> None:
    """Numbers of rows around a tile's, outputs around a panel's, and what is folded in."""
    for rows, size, outputs in ((1, 2, 1), (7, 64, 40), (8, 96, 32), (9, 30, 95), (150, 64, 64)):
        generator = torch.Generator().manual_seed(rows)
        x, weight = (
            torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, size), (outputs, size))
        )
        weight *= size**-0.5
        bias = torch.randn(outputs, generator=generator).to(dtype) if biased else None
        other = torch.randn(rows, outputs, generator=generator).to(dtype)
        expected = x.float() @ weight.float().t() + (bias.float() if bias is not None else 0.0)
        panels = native.Panels(weight, bias)
        close(multiplying(dtype).multiply(x, panels), expected.to(dtype))
        added = multiplying(dtype).multiply(x, panels, native.ADDED, other)
        close(added, (expected + other.float()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 24, 40])
def test_gates_with_adapters_and_without(size: int, dtype: torch.dtype) -> None:
    gate, up = (torch.nn.Linear(64, size).to(dtype) for _ in range(2))
    x = torch.randn(5, 64).to(dtype)
    with torch.no_grad():
        expected = torch.nn.functional.silu(gate(x).float()) * up(x).float()
        packed = PackedGate(gate, up, names=("gate", "up"), beside=Beside(), kernels=multiplying(dtype))
        close(packed(x), expected.to(dtype))
        packed._adapters = [(slice(0, size), torch.zeros(64, 1), torch.zeros(1, size))]
        close(packed(x), expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_products_depend_on_nothing_beside_it(dtype: torch.dtype) -> None:
    """To the last bit: alone, among others, and whoever computes them."""
    x, panels = torch.randn(40, 128).to(dtype), native.Panels(torch.randn(224, 128).to(dtype), None)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        together = [multiplying(dtype).multiply(x, panels, then) for then in (native.PLAIN, native.GATED)]
    finally:
        torch.set_num_threads(threads)
    for count in (1, 3, 8, 13):
        for then, whole in zip((native.PLAIN, native.GATED), together, strict=True):
            alone = multiplying(dtype).multiply(x[:count].contiguous(), panels, then)
            assert torch.equal(alone, whole[:count])


def attended(
    lengths: list[int], prompt: int, heads: int, size: int, dtype: torch.dtype, *, paired: bool, norms: bool
) -> tuple[Tensor, Tensor]:
    """What a pass of rows and a prompt attends to, and the cache behind it."""
    generator = torch.Generator().manual_seed(sum(lengths) + heads)
    cache = PagedCache(1, 2, size, dtype, slots=len(lengths) + 1, capacity=2 * max(lengths))
    for slot, length in enumerate([*lengths, prompt]):
        cache.take(slot, length)
    cache.kept[0].copy_(torch.randn(cache.kept[0].shape, generator=generator))
    attention = PagedAttention(cache, heads, size**-0.5, 1e-6, paired=paired)
    count = len(lengths) + prompt + 2  # two are padding
    qkv = torch.randn(count, heads + 4, size, generator=generator).to(dtype)
    weights = torch.randn(heads + 2, size, generator=generator) if norms else None
    angles = torch.randn(count, size // 2, generator=generator)
    spans = [Span(len(lengths), list(range(prompt)), 0)] if prompt else []
    attend = attention.over([length - 1 for length in lengths], spans, count, (angles.cos(), angles.sin()))
    found = attend(0, qkv, weights)
    places = [
        cache.places(slot, 0, length).ravel() for slot, length in enumerate([*lengths, prompt]) if length
    ]
    lines = torch.cat([torch.from_numpy(one) for one in places])
    kept = cache.kept[0].view(-1, size)
    return found[: count - 2], torch.cat([kept[lines], kept[lines + cache.half]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("heads", "size", "paired"), [(2, 64, True), (6, 10, False), (8, 128, True), (4, 32, False)]
)
def test_attention(
    heads: int, size: int, paired: bool, norms: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that share no length, over several pages, with a prompt beside them and without."""
    kernels(dtype)
    for lengths, prompt in (([1, 70, 33, 32, 64], 0), ([5, 90], 41)):
        shape = (lengths, prompt, heads, size, dtype)
        compiled = attended(*shape, paired=paired, norms=norms)
        with monkeypatch.context() as patch:
            patch.setattr(native, "kernels", lambda _: None)
            plain = attended(*shape, paired=paired, norms=norms)
        for one, other in zip(compiled, plain, strict=True):
            close(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_are_chosen_by_weight(dtype: torch.dtype) -> None:
    """At a number, the token at which the running sum passes it; the banned ones left out."""
    for size, banned in ((5, [1]), (128, []), (1000, [3, *range(990, 1000)])):
        generator = torch.Generator().manual_seed(size)
        logits = torch.randn(1, size, generator=generator).mul_(3).to(dtype)
        numbers = [*torch.rand(300, generator=generator).tolist(), 0.0, 1 - 2**-53]
        rows = logits.expand(len(numbers), -1).contiguous()
        tokens, logprobs, sampled = kernels(dtype).choose(
            rows, numbers, torch.tensor(banned, dtype=torch.int64)
        )
        logits = logits.double()[0]
        close(logprobs.double(), logits.log_softmax(-1)[tokens])
        logits[banned] = -math.inf
        close(sampled.double(), logits.log_softmax(-1)[tokens])
        ends = logits.softmax(-1).cumsum(-1)
        for token, number in zip(tokens.tolist(), numbers, strict=True):
            assert token not in banned
            assert ends[token] > number - 1e-6 and ends[token] - logits.softmax(-1)[token] < number + 1e-6


def test_threads_change_nothing() -> None:
    """Enough rows for several threads: a row's sums do not depend on who adds them up."""
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(attended([150] * 24, 0, 8, 64, torch.float32, paired=True, norms=True))
    finally:
        torch.set_num_threads(threads)
    for one in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(one, found[0], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_places_in_memory_change_nothing(dtype: torch.dtype) -> None:
    """Actors must agree bit for bit, wherever their tensors lie."""
    x, weight = torch.randn(3, 101).to(dtype), torch.randn(101)
    found = []
    for shift in range(17):
        moved = torch.empty(x.numel() + 32, dtype=dtype)[shift : shift + x.numel()].view(x.shape).copy_(x)
        chosen = kernels(dtype).choose(moved, [0.1, 0.5, 0.9], torch.tensor([4]))
        found.append([kernels(dtype).norm(moved, weight, 1e-6), *chosen])
    for one in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(one, found[0], strict=True))


def test_numbers_that_are_none_stay_so() -> None:
    """The sampler tells of logits that are not finite: no kernel may hide them."""
    for bad in (math.nan, math.inf):
        x = torch.randn(2, 32)
        x[1, 3] = bad
        found = kernels(torch.float32).norm(x, torch.ones(32), 1e-6)
        assert found[0].isfinite().all() and found[1].isnan().any()
        _, logprobs, _ = kernels(torch.float32).choose(x, [0.5, 0.5], torch.tensor([0]))
        assert logprobs[0].isfinite() and not logprobs[1].isfinite()


def test_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = native._library()
    written = first.stat().st_mtime_ns
    assert native._library() == first and first.stat().st_mtime_ns == written
    assert list((tmp_path / "codex_ray").iterdir()) == [first]


@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"])
def test_without_a_compiler_there_are_none(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.INFO):
        assert native.kernels.__wrapped__(torch.float32) is None
    assert "does without compiled kernels" in caplog.text
