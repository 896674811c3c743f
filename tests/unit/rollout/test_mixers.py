"""Hyper-connections of few tokens beside those of training."""

from __future__ import annotations

import pytest
import torch

from codex_ray.model.hyper_connections import Mixer, write_streams
from codex_ray.model.mixing import Rule, sinkhorn
from codex_ray.rollout import native
from codex_ray.rollout.mixers import PackedMixer, settled_sinkhorn
from codex_ray.rollout.norms import normed


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["mhc", "mhc_permutation", "identity"])
@pytest.mark.parametrize("off_diagonal", [-4.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_reads_and_writes_what_training_does(
    kind: str, off_diagonal: float, dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(native, "kernels", lambda _: None)
    torch.manual_seed(3)
    rule = Rule(kind, streams=4, iterations=20, eps=1e-6, norm_eps=1e-6)
    mixer = Mixer(rule, hidden_size=24, index=1, gate_init=0.7, off_diagonal_init=off_diagonal)
    torch.nn.init.normal_(mixer.phi, std=0.3)
    torch.nn.init.normal_(mixer.bias)
    torch.nn.init.constant_(mixer.gate, 0.7)
    streams, output = torch.randn(5, 4, 24).to(dtype), torch.randn(5, 24).to(dtype)
    weight = torch.rand(24)
    tolerance = {"rtol": 0, "atol": 2e-6 if dtype == torch.float32 else 2e-2}
    with torch.no_grad():
        read, writing, _ = mixer(streams[:, None])
        expected = write_streams(streams[:, None], output[:, None], writing)[:, 0]
        packed = PackedMixer(mixer, weight, 1e-6, dtype)
        ours, ours_writing = packed.read(streams)
        torch.testing.assert_close(ours, normed(read[:, 0], weight, 1e-6), **tolerance)
        torch.testing.assert_close(packed.write(streams, output, ours_writing), expected, **tolerance)


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_sinkhorn_ends_where_all_iterations_end(scale: float, iterations: int) -> None:
    logits = scale * torch.randn(4, 4, 50, generator=torch.Generator().manual_seed(1))
    rule = Rule("mhc", streams=4, iterations=iterations, eps=1e-6, norm_eps=1e-6)
    expected = sinkhorn(logits.clone(), iterations, 1e-6)
    found = settled_sinkhorn(logits.view(16, -1), rule).view_as(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
