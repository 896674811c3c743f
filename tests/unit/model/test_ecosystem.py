"""The decoder in the hands of the tools around Transformers: each calls it as that tool does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AutoModel, AutoModelForCausalLM, PreTrainedModel

from codex_ray.model import CodexRayForCausalLM, CodexRayModel, mixing
from codex_ray.model.modeling import CodexRayAttention, CodexRayDecoderLayer
from tests.unit.model.small import COMPILED_KINDS, KINDS, VOCABULARY, build, stir, tokens

GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


class EngineAttention:
    """What vLLM keeps for one layer: it alone knows which tokens belong to which request."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.scale = 0.0

    def forward(self, query_TF: Tensor, key_TF: Tensor, value_TF: Tensor, heads: int, groups: int) -> Tensor:
        parts = []
        rows = zip(*(x.split(self.lengths) for x in (query_TF, key_TF, value_TF)), strict=True)
        for query, key, value in rows:
            split = [x.unflatten(1, (n, -1)).transpose(0, 1) for x, n in ((query, heads), (key, groups))]
            values = value.unflatten(1, (groups, -1)).transpose(0, 1)
            attended = functional.scaled_dot_product_attention(
                *split, values, is_causal=True, scale=self.scale, enable_gqa=True
            )
            parts.append(attended.transpose(0, 1).flatten(1))
        return torch.cat(parts)


def engine_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention over flattened tokens, as vLLM's Transformers backend registers it."""
    assert attention_mask is None and query.shape[0] == 1
    layer = kwargs["attention_instances"][module.layer_idx]
    layer.scale = kwargs["scaling"]
    heads, groups, count = query.shape[1], key.shape[1], query.shape[2]
    flat = [x.transpose(1, 2).reshape(count, -1) for x in (query, key, value)]
    return layer.forward(*flat, heads, groups), None


AttentionInterface.register("engine", engine_attention)


@pytest.mark.parametrize("kind", KINDS)
def test_requests_flattened_into_one_row_as_vllm_calls_it(kind: str, tmp_path: Path) -> None:
    model = stir(build(kind))
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path, attn_implementation="engine").eval()
    assert isinstance(base, CodexRayModel) and base._supports_attention_backend
    requests = [tokens(1, length, seed=length)[0] for length in (7, 1, 12)]
    lengths = [len(request) for request in requests]
    with torch.no_grad():
        hidden = base(
            input_ids=torch.cat(requests)[None],
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            use_cache=False,
            attention_instances=[EngineAttention(lengths) for _ in base.layers],
            return_dict=False,
        )[0][0]
    for request, states in zip(requests, hidden.split(lengths), strict=True):
        alone = model.model(request[None]).last_hidden_state[0]
        torch.testing.assert_close(states, alone, rtol=1e-4, atol=1e-5)


def test_norms_can_be_exchanged_by_their_name_as_vllm_does() -> None:
    model, ids = stir(build("mhc")), tokens()
    expected = model(ids).logits
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.numel(), eps=child.eps)
                norm.weight = child.weight
                setattr(parent, name, norm)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-6)


def test_parallel_plans_name_what_is_there() -> None:
    model = build("mhc")
    names = {name for name, _ in model.model.named_modules()}
    for pattern in model.config.base_model_tp_plan:
        assert all(pattern.replace("*", str(layer)) in names for layer in range(3)), pattern
    assert set(model.config.base_model_pp_plan) <= names
    linear = {name for name, part in model.model.named_modules() if isinstance(part, nn.Linear)}
    planned = {pattern.replace("*", str(i)) for pattern in model.config.base_model_tp_plan for i in range(3)}
    assert linear <= planned


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("beams", [1, 3])
def test_every_cache_generates_the_same(cache: str, beams: int) -> None:
    model, ids = stir(build("mhc")), tokens(2, 9)
    without = model.generate(ids, use_cache=False, num_beams=beams, **GREEDY)
    cached = model.generate(ids, cache_implementation=cache, num_beams=beams, **GREEDY)
    assert torch.equal(cached, without)


def test_beams_of_padded_rows_are_those_of_each_row_alone() -> None:
    model = stir(build("mhc"))
    rows = [tokens(1, 9, seed=1)[0], tokens(1, 5, seed=2)[0]]
    ids = torch.stack([functional.pad(row, (9 - len(row), 0), value=3) for row in rows])
    mask = torch.stack([functional.pad(torch.ones_like(row), (9 - len(row), 0)) for row in rows])
    together = model.generate(ids, attention_mask=mask, num_beams=3, **GREEDY)[:, 9:]
    for row, got in zip(rows, together, strict=True):
        assert torch.equal(got, model.generate(row[None], num_beams=3, **GREEDY)[0, len(row) :])


def test_generation_goes_on_from_embeddings_a_cache_and_a_draft_model() -> None:
    model, ids = stir(build("mhc")), tokens(1, 9)
    expected = model.generate(ids, **GREEDY)[:, 9:]
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embedded, **GREEDY), expected)
    first = model.generate(ids, **GREEDY | {"max_new_tokens": 4}, return_dict_in_generate=True)
    rest = model.generate(
        first.sequences, past_key_values=first.past_key_values, **GREEDY | {"max_new_tokens": 4}
    )
    assert torch.equal(rest[:, 9:], expected)
    draft = stir(build("plain", seed=3), seed=12)
    assert torch.equal(model.generate(ids, assistant_model=draft, **GREEDY)[:, 9:], expected)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_grow_and_shrink_with_their_output(tied: bool) -> None:
    model, ids = stir(build("mhc", tie_embeddings=tied)), tokens()
    expected = model(ids).logits
    model.resize_token_embeddings(VOCABULARY + 10)
    assert model.config.vocab_size == model(ids).logits.shape[-1] == VOCABULARY + 10
    torch.testing.assert_close(model(ids).logits[..., :VOCABULARY], expected)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.resize_token_embeddings(VOCABULARY)
    torch.testing.assert_close(model(ids).logits, expected)


class Quantised(nn.Module):
    """A matrix in eight bits without a ``weight`` to touch, as quantising libraries put in place."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.detach().abs().amax() / 127
        self.register_buffer("codes", (linear.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.codes.to(x.dtype) * self.scale)


def test_matrices_can_be_exchanged_for_quantised_ones() -> None:
    model, ids = stir(build("mhc")), tokens()
    expected = model(ids, labels=ids).loss
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Quantised(child))
    loss = model(ids, labels=ids, return_logits=False).loss
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)
    assert model.generate(ids, **GREEDY).shape == (2, 28)


def test_layers_can_live_on_disk(tmp_path: Path) -> None:
    model, ids = stir(build("mhc")), tokens()
    model.save_pretrained(tmp_path / "model")
    device_map = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.norm": "cpu",
        "model.mean_state": "cpu",
        "lm_head": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
    }
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert spread.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    torch.testing.assert_close(spread(ids).logits, model(ids).logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_attention_implementations_agree_on_padded_rows(attention: str) -> None:
    model, ids = stir(build("mhc")), tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    expected = model(ids, attention_mask=mask).logits
    model.set_attn_implementation(attention)
    with torch.no_grad():  # flex attention has no backward pass on a CPU
        got = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[1], expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[0, 5:], expected[0, 5:], rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_stops_at_whole_layers() -> None:
    model = build("mhc").train()
    model.activation_checkpointing_enable()
    layers = [part for part in model.modules() if isinstance(part, CodexRayDecoderLayer)]
    assert layers and all(layer.gradient_checkpointing for layer in layers)
    assert not any(
        getattr(part, "gradient_checkpointing", False)
        for part in model.modules()
        if isinstance(part, CodexRayAttention)
    )


@pytest.mark.parametrize("kind", COMPILED_KINDS)
def test_a_model_is_exported_as_a_graph(kind: str) -> None:
    mixing._kept_permutations.cache_clear()  # as in a process that exports first
    model, ids = stir(build(kind)), tokens(2, 12)

    class Logits(nn.Module):
        def __init__(self, inner: PreTrainedModel) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = self.inner(ids, use_cache=False).logits
            return logits

    graph = torch.export.export(Logits(model.requires_grad_(False)), (ids,)).module()
    torch.testing.assert_close(graph(ids), model(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_class_for_training_is_the_class_for_generating(tmp_path: Path) -> None:
    build("mhc").save_pretrained(tmp_path)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is CodexRayForCausalLM
