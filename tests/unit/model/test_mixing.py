"""The fast path of hyper-connections against the plain one, and the manifold's own properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from codex_ray.model import mixing
from codex_ray.model.hyper_connections import Mixer, write_streams
from codex_ray.model.mixing import Rule, Sinkhorn
from tests.unit.model import reference

CONSTRAINED = ("mhc", "mhc_permutation", "identity")


def make_mixer(kind: str, streams: int = 4, size: int = 8, gate: float = 0.5) -> Mixer:
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
@pytest.mark.parametrize("numbers", [2**20, 4 * 8 * 5])
def test_fast_path_equals_plain_path_in_fp64(
    kind: str, streams: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "PIECE_NUMBERS", numbers)
    mixer = make_mixer(kind, streams).double()
    sublayer = nn.Linear(8, 8).double()
    x = torch.randn(2, 7, streams, 8, dtype=torch.float64, requires_grad=True)
    leaves = [x, *mixer.parameters(), *sublayer.parameters()]
    expected = reference.connect(mixer, x, sublayer, torch.float64)
    got = connect(mixer, x, sublayer)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    for name, left, right in zip(
        range(99), gradients(got, leaves), gradients(expected, leaves), strict=False
    ):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6, msg=str(name))
