"""Upcycling: the same function as the model it came from, and a model of ours in every other way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaMLP

from codex_ray.config.model import Residual
from codex_ray.config.use import Upcycle
from codex_ray.errors import CodexRayError
from codex_ray.model import load_model, next_token_loss_sum
from codex_ray.model.upcycle import logit_difference, upcycle, upcycled
from tests.unit.model.families import LLAMA_LIKE, other
from tests.unit.model.small import KINDS, build, tokens

TRAINED = {"original_max_position_embeddings": 32}
SCALED = (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, **TRAINED},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, **TRAINED},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **TRAINED},
)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", LLAMA_LIKE)
def test_logits_are_those_of_the_model_it_came_from(family: str, tied: bool, tmp_path: Path) -> None:
    theirs = other(family, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "theirs")
    written = upcycle(Upcycle(model=str(tmp_path / "theirs"), output=str(tmp_path / "ours")))
    assert written.difference < 2e-5
    ours = load_model(tmp_path / "ours")
    assert ours.config.model_type == "codex_ray"
    assert ours.config.residual_streams == 4
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(ours.generate(tokens(), **options), theirs.generate(tokens(), **options))


def test_in_half_precision_mixers_and_positions_stay_exact(tmp_path: Path) -> None:
    other("qwen3").save_pretrained(tmp_path)
    theirs = load_model(tmp_path, dtype="bfloat16")
    ours = upcycled(theirs, Residual(exit="learned"))
    for name, value in (*ours.named_parameters(), *ours.named_buffers()):
        exact = "mixer" in name or "inv_freq" in name
        assert value.dtype == (torch.float32 if exact else torch.bfloat16), name
    assert logit_difference(theirs, ours) < 0.03


def test_biases_are_taken_over() -> None:
    theirs = other("llama", attention_bias=True, mlp_bias=True)
    ours = upcycled(theirs, Residual())
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaling", SCALED, ids=lambda scaling: str(scaling["rope_type"]))
def test_positions_are_scaled_as_in_llama(scaling: dict[str, Any]) -> None:
    rope = {"rope_theta": 500.0} | scaling
    theirs, ids = other("llama", rope_parameters=rope), tokens(2, 80)  # past the 64 of the model
    ours, fresh = upcycled(theirs, Residual()), build("mhc", rope_theta=500.0, rope_scaling=scaling)
    assert torch.equal(fresh.model.rotary_emb.inv_freq, ours.model.rotary_emb.inv_freq)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-4)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    unscaled = upcycled(other("llama", rope_parameters=rope), Residual())
    assert (unscaled(ids).logits - ours(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_residual_starts_as_the_same_function_and_learns(kind: str) -> None:
    theirs = other("qwen3")
    ours = upcycled(theirs, Residual(kind=kind, exit="learned")).train()
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = next_token_loss_sum(ours, tokens())
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    # The dynamic part has come to life, in reading and in writing.
    named = [(name, value) for name, value in ours.named_parameters() if ".mlp_mixer." in name]
    part = "phi" if kind == "hc" else "gate"
    assert all(value[:2].abs().max() > 0 for name, value in named if name.endswith(part))


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("mistral", {"sliding_window": 16}, "give max_positions=16"),
        ("llama", {"attention_dropout": 0.1}, "attention dropout"),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(family: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(CodexRayError, match=words):
        upcycled(other(family, **changes), Residual())


def test_a_window_is_the_longest_sequence() -> None:
    theirs = other("mistral", sliding_window=16)
    ours = upcycled(theirs, Residual(), max_positions=16)
    assert ours.config.max_position_embeddings == 16
    assert logit_difference(theirs, ours) < 2e-5
    assert logit_difference(theirs, upcycled(other("mistral"), Residual())) > 1e-3  # where it is longer


def test_a_model_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other("llama").save_pretrained(tmp_path / "theirs")
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
    with pytest.raises(
        CodexRayError, match=r"differ by .* more than rounding does in float32; nothing is written"
    ):
        upcycle(Upcycle(model=str(tmp_path / "theirs"), output=str(tmp_path / "ours")))
    assert not (tmp_path / "ours").exists()


def test_other_families_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / "theirs")
    with pytest.raises(CodexRayError, match=r"gpt2 models cannot be upcycled; give one of llama"):
        upcycle(Upcycle(model=str(tmp_path / "theirs"), output=str(tmp_path / "ours")))
    assert not (tmp_path / "ours").exists()
