"""Rates that follow the width: what a model's activations and weights do as it gets wider."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from codex_ray.config.compose import compose
from codex_ray.config.model import Model, Residual
from codex_ray.config.train import Optimizer
from codex_ray.errors import ConfigError
from codex_ray.model import build_model
from codex_ray.model.parametrisation import follows_width, width_multiplier
from codex_ray.train.optimizer import build_optimizer

BASE, VOCABULARY, HEAD = 32, 64, 16
WIDTHS = (64, 256)
SPECIAL = {"bos": 1, "eos": 2, "pad": 3}


def a_model(width: int, base: int | None, kind: str = "mhc", seed: int = 0) -> Any:
    settings = Model(
        hidden_size=width,
        intermediate_size=2 * width,
        layers=2,
        heads=width // HEAD,
        key_value_heads=width // HEAD,
        head_size=HEAD,
        base_width=base,
        residual=Residual(kind=kind, streams=2, gate_init=0.5),
    )
    return build_model(
        settings, vocabulary_size=VOCABULARY, sequence_length=16, seed=seed, special_ids=SPECIAL
    )


@cache
def changes(width: int, base: int | None, kind: str) -> dict[str, float]:
    """How far a few steps move logits and mixers' logits, as root mean squares over one batch."""
    optimizer = Optimizer(kind=kind, learning_rate=4e-3, matrix_learning_rate=0.02)
    model = a_model(width, base)
    built = build_optimizer(
        optimizer, model.named_parameters(), torch.float32, width=width_multiplier(model.config)
    )
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCABULARY, (8, 16), generator=draw)
    read: list[Tensor] = []

    def projected(module: Any, inputs: Any, output: Any) -> None:
        streams = inputs[0].flatten(0, 1).flatten(1)
        normed = streams / streams.square().mean(-1, keepdim=True).sqrt()
        read.append(normed @ module.phi.t())

    model.model.layers[1].mlp_mixer.register_forward_hook(projected)
    found = []
    for _ in range(4):
        output = model(input_ids=ids, labels=ids)
        found.append((output.logits.detach(), read[-1].detach()))
        built.zero_grad()
        output.loss.backward()
        built.step()
    (first, phi_first), (last, phi_last) = found[0], found[-1]
    return {
        "logits": float((last - first).square().mean().sqrt()),
        "mixers": float((phi_last - phi_first).square().mean().sqrt()),
    }


def growth(base: int | None, kind: str, of: str) -> float:
    """The power of the width with which a change grows."""
    found = [math.log(changes(width, base, kind)[of]) for width in WIDTHS]
    places = [math.log(width) for width in WIDTHS]
    middle, mean = sum(places) / len(places), sum(found) / len(found)
    return sum((x - middle) * (y - mean) for x, y in zip(places, found, strict=True)) / sum(
        (x - middle) ** 2 for x in places
    )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_moves_logits_as_far_at_every_width_only_where_rates_follow_it(kind: str) -> None:
    assert abs(growth(BASE, kind, "logits")) < 0.2
    assert growth(None, kind, "logits") > 0.5
    # In a narrow model's projections chance adds to what a step moves, by one over the root of the width.
    assert -0.5 < growth(BASE, kind, "mixers") < 0.2
    assert growth(None, kind, "mixers") > 0.5


def test_at_the_base_width_nothing_changes_and_elsewhere_weights_shrink_as_fast() -> None:
    same, standard = a_model(BASE, BASE), a_model(BASE, None)
    assert all(
        torch.equal(one, other) for one, other in zip(same.parameters(), standard.parameters(), strict=True)
    )
    wide = a_model(4 * BASE, BASE)
    assert float(wide.model.norm.weight.detach().mean()) == 0.25
    ratio = (
        wide.model.layers[0].mlp.up_proj.weight.std()
        / a_model(4 * BASE, None).model.layers[0].mlp.up_proj.weight.std()
    )
    assert float(ratio.detach()) == pytest.approx(0.5)
    groups = build_optimizer(Optimizer(), wide.named_parameters(), torch.float32, width=4.0).param_groups
    products = {group["lr"] * group["weight_decay"] for group in groups if group["weight_decay"]}
    assert len(groups) == 5 and len(products) == 1
    assert not follows_width("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", (4, 64))


def test_it_is_the_model_s_own_and_goes_with_its_folder(tmp_path: Any) -> None:
    from codex_ray.model import load_model

    a_model(64, BASE).save_pretrained(tmp_path)
    assert width_multiplier(load_model(str(tmp_path)).config) == 2.0


def test_the_depth_dial_has_rates_of_its_own() -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        compose("pretrain", ["corpus", "depth=2", "model.base_width=64"])
