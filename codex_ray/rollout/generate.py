"""Completing a list of prompts with any Transformers causal language model, and what goes with it.

Tensor names end in their shape: B rows, S tokens seen so far, T longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codex_ray.errors import ConfigError
from codex_ray.rollout.request import Completion, Request
from codex_ray.rollout.sampler import Sampler, check_prompt, max_positions
from codex_ray.rollout.sampling import Sampling, row_seeds

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

OnToken = Callable[[int, int, str], None]
"""Called with a prompt's number, the token just drawn for it, and the text that may now be shown."""


@dataclass(frozen=True)
class PaddedCompletions:
    """A completed ragged batch, as tensors.

    Attributes:
        ids_BT: prompt and completion of each row, padded on the right.
        lengths_B: tokens of each row that count; padding begins there.
        prompt_lengths_B: tokens of each row's prompt.
        completions: the rows' completions.
    """

    ids_BT: Tensor
    lengths_B: Tensor
    prompt_lengths_B: Tensor
    completions: list[Completion]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    regex: str | None = None,
    tokenizer: Tokenizer,
    on_token: OnToken | None = None,
    batch_rows: int = 32,
    cache_bytes: int | None = None,
) -> list[Completion]:
    """Complete each prompt; the result has the prompts' order.

    A completion does not depend on the prompts beside it: row ``i`` draws from its own generator, seeded
    with ``row_seeds(seed, rows)[i]``, or with ``seed[i]`` where a seed per row is given.

    Args:
        model: a Transformers causal language model, on the device it shall use.
        prompts: token ids, the beginning-of-text token included where the model wants one.
        max_new_tokens: longest completion; the model's longest sequence ends a row earlier.
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with this probability.
        min_p: drop tokens less likely than this share of the likeliest one.
        seed: one seed, or one per prompt.
        stop: strings that end a completion; they are looked for in the decoded text.
        stop_ids: tokens that end a completion.
        regex: what completions are held to; see :class:`~codex_ray.rollout.request.Request`.
        tokenizer: decodes, and names the end and padding tokens.
        on_token: told of every token as it is drawn.
        batch_rows: rows computed together; it changes speed and memory, and no result.
        cache_bytes: most that keys and values take; see :class:`~codex_ray.rollout.sampler.Sampler`.

    Raises:
        ConfigError: an impossible setting.
        CodexRayError: an empty or too long prompt, an id the model does not have, or logits that are not
            finite.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    sampling, streamed = Sampling(temperature, top_k, top_p, min_p), on_token is not None
    seeds = _seeds(seed, len(prompts))
    check_prompts(model, prompts)
    shared = Request((), max_new_tokens, sampling, 0, tuple(stop), streamed, None, stop_ids, regex)
    requests = [replace(shared, prompt=one, seed=own) for one, own in zip(prompts, seeds, strict=True)]
    return complete(model, tokenizer, requests, slots=batch_rows, cache_bytes=cache_bytes, on_token=on_token)


def complete(
    model: Any,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    slots: int,
    cache_bytes: int | None = None,
    on_token: OnToken | None = None,
) -> list[Completion]:
    """Complete requests with a fresh cache; the result has their order.

    Args:
        model, tokenizer, slots, cache_bytes: of a :class:`~codex_ray.rollout.sampler.Sampler`.
        requests: to be completed, ``slots`` at a time; who ends early makes room for another.
        on_token: told of every token as it is drawn.

    Raises:
        ConfigError, CodexRayError: as the sampler's ``submit`` and ``step``.
    """
    if not requests:
        return []
    longest = max(len(one.prompt) + one.max_new_tokens for one in requests)
    sampler = Sampler(
        model, tokenizer, slots=min(slots, len(requests)), capacity=longest, cache_bytes=cache_bytes
    )
    for request in requests:
        sampler.submit(request)
    completions: dict[int, Completion] = {}
    while sampler.running:
        for drawn in sampler.step():
            if on_token is not None:
                on_token(drawn.request, drawn.token, drawn.text)
            if drawn.completion is not None:
                completions[drawn.request] = drawn.completion
    return [completions[number] for number in sorted(completions)]


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    seeds = row_seeds(seed, count) if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ConfigError(f"there are {len(seeds)} seeds for {count} prompts; give one per prompt")
    return seeds


def generate_padded(
    model: Any,
    input_ids_BS: Tensor,
    attention_mask_BS: Tensor,
    *,
    tokenizer: Tokenizer,
    **settings: Any,
) -> PaddedCompletions:
    """Complete a padded batch, each row from its own last token on.

    Args:
        model: a Transformers causal language model.
        input_ids_BS: prompts, padded on either side.
        attention_mask_BS: 1 at tokens, 0 at padding.
        tokenizer: as for :func:`generate`.
        settings: the other arguments of :func:`generate`.
    """
    prompts = [
        ids_S[mask_S.bool()].tolist() for ids_S, mask_S in zip(input_ids_BS, attention_mask_BS, strict=True)
    ]
    completions = generate(model, prompts, tokenizer=tokenizer, **settings)
    rows = [prompt + done.ids for prompt, done in zip(prompts, completions, strict=True)]
    padding = 0 if tokenizer.pad_id is None else tokenizer.pad_id
    ids_BT = torch.full((len(rows), max(map(len, rows), default=0)), padding, dtype=torch.int64)
    for ids_T, row in zip(ids_BT, rows, strict=True):
        ids_T[: len(row)] = torch.tensor(row)
    return PaddedCompletions(
        ids_BT=ids_BT.to(input_ids_BS.device),
        lengths_B=torch.tensor([len(row) for row in rows]),
        prompt_lengths_B=torch.tensor([len(prompt) for prompt in prompts]),
        completions=completions,
    )


def prompt_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode prompts as beginnings of documents: after the beginning-of-text token, where there is one."""
    beginning = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [[*beginning, *ids] for ids in tokenizer.encode_batch(list(texts))]


def check_prompts(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse prompts that the model cannot continue.

    Raises:
        CodexRayError: the number of the first that is empty, too long, or holds an id the model lacks.
    """
    limit, vocabulary = max_positions(model), model.config.get_text_config().vocab_size
    for number, prompt in enumerate(prompts, start=1):
        check_prompt(prompt, number, limit, vocabulary)
