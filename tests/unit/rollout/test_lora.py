"""Adapters beside a model: each row of a batch as if its own were merged, and none sees another's keys."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from codex_ray.errors import CodexRayError
from codex_ray.model.adapter import merged
from codex_ray.rollout.lora import Adapter, load_adapter
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import Sampler
from codex_ray.rollout.sampling import Sampling
from codex_ray.tokenizer import Tokenizer
from tests.unit.rollout.models import gemma3, llama, mhc, train_small_tokenizer

PROMPT = [1, *range(5, 30)]  # long enough to be taken over from another sequence


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def save_adapter(model: Any, folder: Path, seed: int, **settings: Any) -> Path:
    """A LoRA of random weights that changes what is drawn."""
    torch.manual_seed(seed)
    given: dict[str, Any] = {"r": 4, "lora_alpha": 2, "target_modules": "all-linear"} | settings
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(**given, init_lora_weights=False))
    adapted.save_pretrained(folder)
    return folder


def continued(sampler: Sampler, adapters: list[Adapter | None]) -> list[Completion]:
    """Completions of one prompt; a request joins at each step, so that rows, prompts and beginnings meet."""
    done: dict[int, Completion] = {}
    waiting = list(adapters)
    while waiting or sampler.running:
        if waiting:
            sampler.submit(Request(PROMPT, 12, Sampling(), seed=7, adapter=waiting.pop(0)))
        done |= {one.request: one.completion for one in sampler.step() if one.completion is not None}
    return [done[number] for number in sorted(done)]


@pytest.mark.parametrize("make", [llama, mhc, gemma3])
def test_rows_of_a_batch_are_as_if_their_adapters_were_merged(
    make: Callable[[int], Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base = make(tokenizer.vocabulary_size).eval()
    folders = [save_adapter(base, tmp_path / str(seed), seed, use_rslora=seed == 2) for seed in (1, 2)]
    first, second = (load_adapter(folder, base) for folder in folders)
    sampler = Sampler(base, tokenizer, slots=3, capacity=64)
    order = [None, first, second, first, None, second, second]
    found = continued(sampler, order)
    alone = {None: continued(Sampler(base, tokenizer, slots=1, capacity=64), [None])[0]}
    for adapter, folder in ((first, folders[0]), (second, folders[1])):
        whole = merged(copy.deepcopy(base), folder, allow_pickle=False).eval()
        alone[adapter] = continued(Sampler(whole, tokenizer, slots=1, capacity=64), [None])[0]
    assert len({round(one.logprobs[0], 4) for one in alone.values()}) == 3
    for adapter, completion in zip(order, found, strict=True):
        assert completion.ids == alone[adapter].ids
        assert completion.logprobs == pytest.approx(alone[adapter].logprobs, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias=all"),
    ],
)
def test_what_is_more_than_two_matrices_is_refused(
    change: dict[str, Any], said: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base = llama(tokenizer.vocabulary_size)
    with pytest.raises(CodexRayError, match=said):
        load_adapter(save_adapter(base, tmp_path / "adapter", 1, **change), base)


def test_what_does_not_fit_or_is_damaged_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    base, other = llama(tokenizer.vocabulary_size), gemma3(tokenizer.vocabulary_size)
    folder = save_adapter(base, tmp_path / "adapter", 1)
    with pytest.raises(CodexRayError, match="does not fit"):
        load_adapter(folder, other)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": float("nan")}))
    with pytest.raises(CodexRayError, match="not finite"):
        load_adapter(folder, base)
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CodexRayError, match="damaged"):
        load_adapter(folder, base)
