"""Small decoders for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from codex_ray.config.model import Model, Residual
from codex_ray.model import CodexRayForCausalLM, build_model

SPECIAL_IDS = {"bos": 1, "eos": 2, "pad": 3}
VOCABULARY = 61
KINDS = ("mhc", "mhc_permutation", "identity", "hc", "plain")
COMPILED_KINDS = ("mhc", *(pytest.param(kind, marks=pytest.mark.verify) for kind in KINDS[1:]))
"""For tests that compile, which take long: `make test` has one kind of them."""


def settings(kind: str = "mhc", streams: int = 4, **changes: Any) -> Model:
    residual = Residual(kind=kind, streams=streams, **changes.pop("residual", {}))
    shape = Model(
        hidden_size=24,
        intermediate_size=40,
        layers=3,
        heads=4,
        key_value_heads=2,
        head_size=8,
        residual=residual,
    )
    return dataclasses.replace(shape, **changes)


def build(kind: str = "mhc", streams: int = 4, seed: int = 7, **changes: Any) -> CodexRayForCausalLM:
    return build_model(
        settings(kind, streams, **changes),
        vocabulary_size=VOCABULARY,
        sequence_length=64,
        seed=seed,
        special_ids=SPECIAL_IDS,
    ).eval()


def stir(model: CodexRayForCausalLM, seed: int = 11) -> CodexRayForCausalLM:
    """Move every parameter away from its initial value, so that streams and gates really differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if "mixer" in name else 0.1
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def tokens(rows: int = 2, length: int = 20, seed: int = 3) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
