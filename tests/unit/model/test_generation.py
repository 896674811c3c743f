"""Every way of generating that Transformers has, and the shapes of all that it can return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CompileConfig

from codex_ray.model import CodexRayForCausalLM
from tests.unit.model.small import COMPILED_KINDS, KINDS, VOCABULARY, build, stir, tokens

ROWS, PROMPT, NEW = 2, 9, 5
HEADS, GROUPS, SIZE, LAYERS, HIDDEN = 4, 2, 8, 3, 24
LENGTHS = {"max_new_tokens": NEW, "min_new_tokens": NEW}
GREEDY = {**LENGTHS, "do_sample": False}
EVERYTHING = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> CodexRayForCausalLM:
    return stir(build(request.param))


@pytest.fixture(scope="module")
def mhc() -> CodexRayForCausalLM:
    return stir(build("mhc"))


WAYS: dict[str, tuple[dict[str, Any], int]] = {
    "greedy": ({"do_sample": False}, 1),
    "sampled": ({"do_sample": True, "top_k": 10, "top_p": 0.7, "num_return_sequences": 3}, 3),
    "beams": ({"do_sample": False, "num_beams": 2, "num_return_sequences": 2, "length_penalty": 2.0}, 2),
    "sampled beams": ({"do_sample": True, "num_beams": 2, "num_return_sequences": 2, "top_k": 10}, 2),
}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_all_that_generation_returns(model: CodexRayForCausalLM, way: str, use_cache: bool) -> None:
    model.set_attn_implementation("eager")
    options, copies = WAYS[way]
    torch.manual_seed(0)
    out = model.generate(tokens(ROWS, PROMPT), use_cache=use_cache, **LENGTHS, **options, **EVERYTHING)
    rows = ROWS * copies
    assert out.sequences.shape == (rows, PROMPT + NEW)
    for given in (out.scores, out.logits):
        assert [step.shape for step in given] == [(rows, VOCABULARY)] * NEW
    for step in range(NEW):
        keys = PROMPT + step
        queries = 1 if use_cache and step else keys
        assert [layer.shape for layer in out.attentions[step]] == [(rows, HEADS, queries, keys)] * LAYERS
        shapes = [layer.shape for layer in out.hidden_states[step]]
        assert shapes == [(rows, queries, HIDDEN)] * (LAYERS + 1)
    if "beams" in way:
        assert out.sequences_scores.shape == (rows,) and (out.sequences_scores < 0).all()
        scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    else:
        scores = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    assert scores.shape == (rows, NEW) and (scores <= 0).all()
    model.set_attn_implementation("sdpa")


def test_logits_processors_apply(mhc: CodexRayForCausalLM) -> None:
    ids = tokens(ROWS, PROMPT)
    plain = mhc.generate(ids, **GREEDY)
    banned = [[int(plain[0, PROMPT])]]
    processors = {"bad_words_ids": banned, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, **GREEDY}
    out = mhc.generate(ids, **processors)
    assert out[0, PROMPT] != banned[0][0]
    assert torch.equal(out, mhc.generate(ids, use_cache=False, **processors))


def test_generation_from_nothing_begins_with_the_beginning(mhc: CodexRayForCausalLM) -> None:
    out = mhc.generate(**GREEDY)
    assert out.shape == (1, 1 + NEW) and out[0, 0] == mhc.config.bos_token_id


@pytest.mark.parametrize("way", ["itself", "a draft", "prompt lookup"])
def test_assisted_decoding_is_greedy_search(model: CodexRayForCausalLM, way: str) -> None:
    ids = tokens(1, PROMPT)
    helper: dict[str, Any] = {
        "itself": {"assistant_model": model},
        "a draft": {"assistant_model": stir(build("plain", seed=3), seed=12)},
        "prompt lookup": {"prompt_lookup_num_tokens": 2},
    }[way]
    model.set_attn_implementation("eager")  # which alone returns attentions
    expected = model.generate(ids, **GREEDY, **EVERYTHING)
    out = model.generate(ids, **GREEDY, **EVERYTHING, **helper)
    model.set_attn_implementation("sdpa")
    assert torch.equal(out.sequences, expected.sequences)
    for one, other in zip(out.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_prompt_lookup_stops_at_the_end_token(mhc: CodexRayForCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 5, 6]])
    first = int(mhc.generate(ids, max_new_tokens=1, do_sample=False)[0, -1])
    out = mhc.generate(ids, prompt_lookup_num_tokens=2, max_new_tokens=6, eos_token_id=first)
    assert out.shape[1] == ids.shape[1] + 1


@pytest.mark.parametrize("beams", [1, 2])
def test_embeddings_in_place_of_ids(model: CodexRayForCausalLM, beams: int) -> None:
    ids = tokens(ROWS, PROMPT)
    options = {**GREEDY, "num_beams": beams}
    embeddings = model.get_input_embeddings()(ids)
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), expected[:, PROMPT:])
    assert torch.equal(model.generate(ids, inputs_embeds=embeddings, **options), expected)
    noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(model.generate(inputs_embeds=noise, **options), expected[:, PROMPT:])


@pytest.mark.parametrize("embedded", [True, False])
def test_generation_goes_on_with_a_returned_cache(model: CodexRayForCausalLM, embedded: bool) -> None:
    ids = tokens(ROWS, PROMPT)
    start = {"inputs_embeds": model.get_input_embeddings()(ids)} if embedded else {"input_ids": ids}
    short = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    whole = model.generate(**start, max_new_tokens=7, **short).sequences[:, -7:]
    first = model.generate(**start, max_new_tokens=4, **short)
    so_far = torch.cat((ids, first.sequences[:, -4:]), dim=1)
    cache = first.past_key_values
    rest = model.generate(so_far, past_key_values=cache, max_new_tokens=3, **short).sequences
    assert torch.equal(rest[:, -7:], whole)


def test_the_cache_holds_keys_and_values_by_group(model: CodexRayForCausalLM) -> None:
    ids = tokens(ROWS, PROMPT)
    cache = model(ids, use_cache=True).past_key_values
    assert cache.get_seq_length() == PROMPT and len(cache.layers) == LAYERS
    static = model.generate(ids, cache_implementation="static", **GREEDY, return_dict_in_generate=True)
    for layer, fixed in zip(cache.layers, static.past_key_values.layers, strict=True):
        assert layer.keys.shape == layer.values.shape == (ROWS, GROUPS, PROMPT, SIZE)
        assert fixed.keys.shape[:2] == (ROWS, GROUPS) and fixed.keys.shape[2] >= PROMPT + NEW - 1


@pytest.mark.parametrize("model", COMPILED_KINDS, indirect=True)
def test_a_static_cache_generates_with_the_compiled_model(model: CodexRayForCausalLM) -> None:
    torch._dynamo.reset()
    options: dict[str, Any] = {**GREEDY, "cache_implementation": "static"}
    expected = model.generate(tokens(ROWS, PROMPT), **options)
    compiled = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    compiled._compile_all_devices = True  # else Transformers compiles on GPUs alone
    torch._dynamo.utils.counters.clear()
    assert torch.equal(model.generate(tokens(ROWS, PROMPT), compile_config=compiled, **options), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.parametrize("kept", [1, 4, torch.tensor([0, 5, 8])])
def test_only_wanted_logits_are_computed(model: CodexRayForCausalLM, kept: int | Tensor) -> None:
    ids = tokens(ROWS, PROMPT)
    whole = model(ids).logits
    places = torch.arange(PROMPT)[-kept:] if isinstance(kept, int) else kept
    torch.testing.assert_close(model(ids, logits_to_keep=kept).logits, whole[:, places])


def test_a_mask_of_four_dimensions_is_taken_as_it_is(model: CodexRayForCausalLM) -> None:
    """Three endings of one beginning in one row, each seeing the beginning and itself."""
    beginning, endings = tokens(1, 6, seed=1), tokens(3, 1, seed=2)
    row = torch.cat((beginning, endings.view(1, 3)), dim=1)
    allowed = torch.ones(9, 9, dtype=torch.bool).tril()
    allowed[6:, 6:] = torch.eye(3, dtype=torch.bool)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 6, 6]])
    mask = torch.zeros(1, 1, 9, 9).masked_fill(~allowed, torch.finfo(torch.float32).min)
    together = model(row, attention_mask=mask, position_ids=positions).logits[0, 6:]
    alone = model(torch.cat((beginning.expand(3, -1), endings), dim=1)).logits[:, -1]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
