"""Hyper-connections of DeepSeek-V4: its module in Transformers computes what ours does with its weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4HyperConnection,
    DeepseekV4HyperHead,
)

from codex_ray.errors import CodexRayError
from codex_ray.model import CodexRayForCausalLM
from codex_ray.model.deepseek import load_deepseek, to_deepseek
from codex_ray.model.hyper_connections import write_streams
from tests.unit.model.small import build, stir

SIZE = 24
EXIT = {"residual": {"exit": "learned"}}


def deepseek(std: float) -> nn.ModuleDict:
    """The hyper-connections of a model of three layers, with drawn weights."""
    torch.manual_seed(6)
    config = DeepseekV4Config(
        hidden_size=SIZE, hc_mult=4, hc_sinkhorn_iters=20, hc_eps=1e-6, rms_norm_eps=1e-6
    )
    layers = nn.ModuleList(
        nn.ModuleDict({name: DeepseekV4HyperConnection(config) for name in ("attn_hc", "ffn_hc")})
        for _ in range(3)
    )
    theirs = nn.ModuleDict({"layers": layers, "hc_head": DeepseekV4HyperHead(config)})
    for name, parameter in theirs.named_parameters():
        if name.endswith("scale"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, std=std if name.endswith("fn") else 0.5)
    return theirs


def updated(theirs: nn.Module, streams: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """What is read, and the update, as DeepseekV4DecoderLayer writes it."""
    post, comb, read = theirs(streams)
    return read, post.unsqueeze(-1) * output.unsqueeze(-2) + comb.transpose(-1, -2) @ streams


@pytest.mark.parametrize("std", [0.02, 0.2])
def test_every_connection_computes_what_theirs_does(std: float) -> None:
    theirs, ours = deepseek(std), build("mhc", **EXIT)
    load_deepseek(ours, {f"model.{name}": value for name, value in theirs.state_dict().items()})
    streams, output = torch.randn(2, 9, 4, SIZE), torch.randn(2, 9, SIZE)
    for layer, their_layer in zip(ours.model.layers, theirs["layers"], strict=True):
        for mixer, name in ((layer.attention_mixer, "attn_hc"), (layer.mlp_mixer, "ffn_hc")):
            expected_read, expected = updated(their_layer[name], streams, output)
            read, writing, kept = mixer(streams)
            torch.testing.assert_close(read, expected_read, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(write_streams(kept, output, writing), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ours.model.exit_mixer(streams), theirs["hc_head"](streams), rtol=1e-5, atol=1e-5
    )


def test_the_orientation_shows_where_streams_differ() -> None:
    theirs, ours = deepseek(0.2), build("mhc", **EXIT)
    weights = theirs.state_dict()
    for name, value in weights.items():
        if name.endswith(("_hc.fn", "_hc.base")):
            value[8:] = value[8:].view(4, 4, -1).transpose(0, 1).reshape(value[8:].shape).clone()
    load_deepseek(ours, weights)
    streams, output = torch.randn(2, 9, 4, SIZE), torch.randn(2, 9, SIZE)
    theirs.load_state_dict(deepseek(0.2).state_dict())
    _, expected = updated(theirs["layers"][0]["attn_hc"], streams, output)
    _, writing, kept = ours.model.layers[0].attention_mixer(streams)
    assert (write_streams(kept, output, writing) - expected).abs().max() > 1e-2


def test_a_trained_model_goes_there_and_back() -> None:
    ours, again = stir(build("mhc", **EXIT)), build("mhc", seed=9, **EXIT)
    weights = to_deepseek(ours)
    theirs = deepseek(0.1)
    theirs.load_state_dict(weights)  # all of them, and no others
    streams, output = torch.randn(1, 5, 4, SIZE), torch.randn(1, 5, SIZE)
    read, expected = updated(theirs["layers"][1]["ffn_hc"], streams, output)
    ours_read, writing, kept = ours.model.layers[1].mlp_mixer(streams)
    torch.testing.assert_close(ours_read, read, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(write_streams(kept, output, writing), expected, rtol=1e-5, atol=1e-5)
    load_deepseek(again, weights)
    for name, value in to_deepseek(again).items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mhc_permutation", "plain"])
def test_other_kinds_have_no_such_weights(kind: str) -> None:
    with pytest.raises(CodexRayError, match=f"kind mhc and the model's are {kind}"):
        to_deepseek(build(kind))


def broken(weights: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    name = "layers.2.ffn_hc.base"
    if how == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:8]
    return weights


@pytest.mark.parametrize(("how", "words"), [("missing", "is missing"), ("short", r"is of shape \[8\]")])
def test_weights_that_do_not_fit_are_refused(how: str, words: str) -> None:
    ours: CodexRayForCausalLM = build("mhc", **EXIT)
    with pytest.raises(CodexRayError, match=rf"layers\.2\.ffn_hc\.base {words} and the model needs \[24\]"):
        load_deepseek(ours, broken(dict(deepseek(0.1).state_dict()), how))
