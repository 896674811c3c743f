"""The fast path of hyper-connections against the plain one, and the manifold's own properties."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from codex_ray.model import mixing
from codex_ray.model.hyper_connections import ExitMixer, Mixer, mean_streams, write_streams
from codex_ray.model.mixing import Rule, Sinkhorn, WriteStreams, sinkhorn
from tests.unit.model import reference

CONSTRAINED = ("mhc", "mhc_permutation", "identity")
SIZE = 8


def make_mixer(kind: str, streams: int = 4, size: int = SIZE, gate: float = 0.5) -> Mixer:
    """A mixer far from its initial state, so that every term counts."""
    torch.manual_seed(0)
    rule = Rule(kind, streams, iterations=20, eps=1e-6, norm_eps=1e-6)
    mixer = Mixer(rule, hidden_size=size, index=1, gate_init=gate, off_diagonal_init=-2.0)
    nn.init.normal_(mixer.phi, std=0.5)
    nn.init.normal_(mixer.bias, std=0.3)
    nn.init.constant_(mixer.gate, gate)
    mixer.bias_constant.copy_(mixer.initial_bias())
    return mixer


def connect(mixer: Mixer, streams: Tensor, sublayer: nn.Module) -> Tensor:
    read, writing, kept = mixer(streams)
    return write_streams(kept, sublayer(read), writing)


def gradients(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(5)).to(output)
    return list(torch.autograd.grad((output * weights).sum(), leaves))


@pytest.mark.parametrize("streams", [2, 3, 4])
@pytest.mark.parametrize("kind", CONSTRAINED)
@pytest.mark.parametrize("numbers", [2**20, 4 * SIZE * 5])
def test_fast_path_and_its_gradients_equal_the_plain_path(
    kind: str, streams: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "PIECE_NUMBERS", numbers)  # one piece, and several with a remainder
    mixer = make_mixer(kind, streams).double()
    sublayer = nn.Linear(SIZE, SIZE).double()
    x = torch.randn(2, 7, streams, SIZE, dtype=torch.float64, requires_grad=True)
    leaves = [x, *mixer.parameters(), *sublayer.parameters()]
    expected = reference.connect(mixer, x, sublayer, torch.float64)
    got = connect(mixer, x, sublayer)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for left, right in zip(gradients(got, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_gradcheck_of_a_whole_connection(kind: str) -> None:
    mixer = make_mixer(kind, streams=3, size=3).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    names, leaves = zip(*mixer.named_parameters(), strict=True)

    def run(streams: Tensor, *values: Tensor) -> Tensor:
        output = torch.func.functional_call(mixer, dict(zip(names, values, strict=True)), (streams,))
        return write_streams(output[2], output[0].tanh(), output[1])

    assert torch.autograd.gradcheck(run, (x, *leaves))


@pytest.mark.parametrize("std", [0.03, 1.0, 3.0])
def test_gradcheck_of_sinkhorn_and_its_invariance(std: float) -> None:
    torch.manual_seed(1)
    logits = (std * torch.randn(4, 4, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: Sinkhorn.apply(value, 20, 1e-6), (logits,))
    weights = torch.randn(4, 4, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((Sinkhorn.apply(logits, 20, 1e-6) * weights).sum(), logits)
    # The softmax over destinations does not see a constant, so that gradient sums to zero.
    assert gradient.sum(0).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("std", "columns", "norm"),
    [(0.03, 1e-5, 1.00001), (1.0, 4e-3, 1.001), (2.56, 1e-1, 1.01), (5.0, 1e-1, 1.05)],
)
def test_sinkhorn_is_doubly_stochastic_to_the_bounds(std: float, columns: float, norm: float) -> None:
    torch.manual_seed(2)
    matrices = sinkhorn(std * torch.randn(4, 4, 20_000), 20, 1e-6)
    assert matrices.min() >= 0
    assert (matrices.sum(1) - 1).abs().max() < 2e-6
    assert (matrices.sum(0) - 1).abs().max() < columns
    assert torch.linalg.matrix_norm(matrices.permute(2, 0, 1), 2).max() <= norm


def test_sinkhorn_equals_its_plain_form_also_on_hard_logits() -> None:
    torch.manual_seed(3)
    logits = 5 * torch.randn(4, 4, 500)
    expected = reference.sinkhorn(logits.permute(2, 0, 1), 20, 1e-6)
    torch.testing.assert_close(sinkhorn(logits, 20, 1e-6).permute(2, 0, 1), expected, rtol=1e-5, atol=1e-6)


def writing_matrices(kind: str, std: float, tokens: int = 2000) -> Tensor:
    mixer = make_mixer(kind, gate=1.0)
    nn.init.normal_(mixer.phi, std=std / (4 * SIZE) ** 0.5)
    with torch.no_grad():
        return mixer(torch.randn(1, tokens, 4, SIZE))[1][..., :4]


def test_permutation_mixtures_are_doubly_stochastic_exactly() -> None:
    matrices = writing_matrices("mhc_permutation", std=5.0)
    assert matrices.min() >= 0
    for dim in (1, 2):
        assert (matrices.sum(dim) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("std", [0.03, 1.0, 5.0])
def test_products_of_many_mixers_neither_grow_nor_vanish(std: float) -> None:
    torch.manual_seed(4)
    composite = torch.eye(4).expand(500, 4, 4)
    loose = torch.eye(4).expand(500, 4, 4)
    for _ in range(122):
        composite = sinkhorn(std * torch.randn(4, 4, 500), 20, 1e-6).permute(2, 0, 1) @ composite
    for _ in range(60):
        loose = (torch.eye(4) + 0.1 * torch.randn(500, 4, 4)) @ loose
    assert (composite.sum(2) - 1).abs().max() < 2e-4 + 122 * 1e-6
    assert 0.88 < composite.sum(1).min() <= composite.sum(1).max() < 1.13
    assert loose.abs().sum(2).amax() > 10  # what the manifold prevents


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_coefficients_stay_exact_when_parameters_and_streams_are_bf16(kind: str) -> None:
    """An engine in bf16 casts parameters; the matrices must stay on the manifold all the same."""
    mixer = make_mixer(kind, size=64)
    for parameter in mixer.parameters():
        parameter.data = parameter.data.bfloat16()
    x = torch.randn(2, 50, 4, 64).bfloat16()
    read, writing, _ = mixer(x)
    pre, post, matrix = reference.coefficients(mixer, x, torch.float64)
    assert read.dtype == torch.bfloat16
    assert writing.dtype == torch.float32
    torch.testing.assert_close(writing[..., -1].double(), post.flatten(0, 1), rtol=0, atol=2e-4)
    if kind != "identity":
        torch.testing.assert_close(writing[..., :4].double(), matrix.flatten(0, 1), rtol=0, atol=2e-4)
        assert (writing[..., :4].sum(2) - 1).abs().max() < 3e-6
    exact = (pre.unsqueeze(-1) * x.double()).sum(2)
    torch.testing.assert_close(read.double(), exact, rtol=2**-8, atol=1e-3)


def test_bf16_gradients_point_where_fp32_gradients_do() -> None:
    mixer = make_mixer("mhc", size=64)
    for parameter in mixer.parameters():
        parameter.data = parameter.data.bfloat16()
    exact = copy.deepcopy(mixer).float()
    x = torch.randn(2, 50, 4, 64).bfloat16().requires_grad_()
    x32 = x.detach().float().requires_grad_()
    got = gradients(connect(mixer, x, nn.Tanh()), [x, *mixer.parameters()])
    expected = gradients(connect(exact, x32, nn.Tanh()), [x32, *exact.parameters()])
    for left, right in zip(got, expected, strict=True):
        assert left.dtype == torch.bfloat16
        error = (left.float() - right).norm() / right.norm()
        assert error < 0.01, error


def test_large_constants_survive_a_cast_to_bf16() -> None:
    mixer = make_mixer("mhc")
    nn.init.zeros_(mixer.bias)
    nn.init.zeros_(mixer.gate)
    mixer.off_diagonal_init = -7.77
    mixer.bias_constant.copy_(mixer.initial_bias())
    for parameter in mixer.parameters():
        parameter.data = parameter.data.bfloat16()
    _, writing, _ = mixer(torch.randn(1, 3, 4, SIZE))
    logits = torch.full((4, 4), -7.77, dtype=torch.float64).fill_diagonal_(0)
    expected = reference.sinkhorn(logits, 20, 1e-6).float()
    torch.testing.assert_close(writing[0, :, :4], expected, rtol=1e-5, atol=1e-8)


def test_training_goes_on_after_generating() -> None:
    """Memory kept between calls must not belong to inference mode, where autograd may not write."""
    mixer, sublayer = make_mixer("mhc"), nn.Linear(SIZE, SIZE)
    mixing._workspace.buffers.clear()
    x = torch.randn(2, 7, 4, SIZE)
    with torch.inference_mode():
        connect(mixer, x, sublayer)
    connect(mixer, x, sublayer).sum().backward()
    assert mixer.phi.grad is not None


def test_autocast_does_not_reach_the_mixers() -> None:
    mixer = make_mixer("mhc")
    x = torch.randn(2, 5, 4, SIZE)
    expected = connect(mixer, x, nn.Tanh())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = connect(mixer, x, nn.Tanh())
    assert torch.equal(got, expected)


def test_exits_agree_at_the_start() -> None:
    rule = Rule("mhc", 4, iterations=20, eps=0.0, norm_eps=1e-6)
    exit_mixer = ExitMixer(rule, hidden_size=SIZE, gate_init=0.01)
    nn.init.zeros_(exit_mixer.phi)
    nn.init.zeros_(exit_mixer.bias)
    nn.init.constant_(exit_mixer.gate, exit_mixer.gate_init)
    exit_mixer.bias_constant.copy_(exit_mixer.initial_bias())
    x = torch.randn(2, 3, 4, SIZE)
    torch.testing.assert_close(exit_mixer(x), mean_streams(x))


def test_unconstrained_connections_follow_their_paper() -> None:
    """Row i of the paper's [N, N+2] output reads, writes and passes on stream i (2409.19606, eq. 10)."""
    mixer = make_mixer("hc").double()
    x = torch.randn(1, 3, 4, SIZE, dtype=torch.float64)
    read, writing, _ = mixer(x)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    dynamic = (mixer.gate[0] * torch.tanh(normed @ mixer.phi.t()))[0]
    pre, post, mix = (mixer.bias_constant + mixer.bias).split([4, 4, 16])
    torch.testing.assert_close(read[0], ((dynamic[..., 0] + pre).unsqueeze(-1) * x[0]).sum(1))
    torch.testing.assert_close(writing[..., -1], dynamic[..., 1] + post)
    expected = torch.stack([dynamic[:, i, 2:] for i in range(4)], dim=2) + mix.view(4, 4)
    torch.testing.assert_close(writing[..., :4], expected)


def test_writing_keeps_no_more_than_it_was_given() -> None:
    x = torch.randn(1, 3, 4, SIZE, requires_grad=True)
    written = WriteStreams.apply(x, torch.randn(1, 3, SIZE), torch.rand(3, 4, 5))
    kept = sum(value.numel() for value in written.grad_fn.saved_tensors)
    assert kept == x.numel() + 3 * SIZE + 3 * 20
