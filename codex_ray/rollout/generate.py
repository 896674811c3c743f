"""Sampling from any Transformers causal language model with a key/value cache.

Rows of a batch may differ in length: prompts are padded on the left for the first pass, each row counts its
own positions, and a finished row leaves the batch. A row's completion is the one it would have alone, as far
as the precision goes: a batch's matrix products may round otherwise than a row's, which in float32 shows in
the last digits of log-probabilities and in bfloat16 can now and then turn a draw.

Tensor names end in their shape: B rows, S tokens seen so far, T longest row, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.sampling import Sampling, row_seeds, sample
from codex_ray.rollout.stops import StopText

if TYPE_CHECKING:
    from codex_ray.tokenizer import StreamDecoder, Tokenizer

OnToken = Callable[[int, int, str], None]
"""Called with a row's number, the token it has just drawn, and the text that may be shown because of it."""


@dataclass(frozen=True)
class Completion:
    """What one row became.

    Attributes:
        ids: sampled tokens, the one that ended the row included; never padding.
        text: their text, without the end token and cut before a stop string.
        logprobs: natural log of each token's probability under the model itself, before temperature,
            top-k, top-p and the ban on padding.
        finish_reason: ``"stop"`` (end token or stop string) or ``"length"`` (``max_new_tokens`` or the
            model's last position).
    """

    ids: list[int]
    text: str
    logprobs: list[float]
    finish_reason: str


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
    seed: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    tokenizer: Tokenizer,
    on_token: OnToken | None = None,
    batch_rows: int = 32,
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
        seed: one seed, or one per prompt.
        stop: strings that end a completion; they are looked for in the decoded text.
        tokenizer: decodes, and names the end and padding tokens.
        on_token: told of every token as it is drawn.
        batch_rows: rows computed together; it changes speed and memory, and no result.

    Raises:
        ConfigError: an impossible setting.
        CodexRayError: an empty or too long prompt, an id the model does not have, or logits that are not
            finite.
    """
    sampling = Sampling(temperature, top_k, top_p)
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    seeds = row_seeds(seed, len(prompts)) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise ConfigError(f"there are {len(seeds)} seeds for {len(prompts)} prompts; give one per prompt")
    from codex_ray.tokenizer import StreamDecoder

    check_prompts(model, prompts)
    limit = max_positions(model)
    end_ids = _end_ids(model, tokenizer)
    banned_ids = _banned_ids(model, tokenizer, end_ids)
    rows = []
    for number, (prompt, row_seed) in enumerate(zip(prompts, seeds, strict=True)):
        room = max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt))
        draw, decoder = np.random.default_rng(row_seed), StreamDecoder(tokenizer)
        rows.append(_Row(number, list(prompt), room, draw, end_ids, StopText(stop), decoder))
    by_length = sorted(rows, key=lambda row: len(row.prompt))
    with _inference(model):
        for start in range(0, len(rows), batch_rows):
            _complete(model, by_length[start : start + batch_rows], sampling, banned_ids, on_token)
    return [row.completion() for row in rows]


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


def max_positions(model: Any) -> int | None:
    """Return the longest sequence a model was made for, in tokens; None where it names none."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def prompt_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode prompts as beginnings of documents: after the beginning-of-text token, where there is one."""
    beginning = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [[*beginning, *ids] for ids in tokenizer.encode_batch(list(texts))]


def check_prompts(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Refuse prompts that the model cannot continue.

    Raises:
        CodexRayError: the number of the first that is empty, too long, or holds an id the model lacks.
    """
    limit = max_positions(model)
    vocabulary = model.config.get_text_config().vocab_size
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise CodexRayError(f"prompt {number} has no tokens; give some text to continue")
        if limit is not None and len(prompt) >= limit:
            raise CodexRayError(
                f"prompt {number} has {len(prompt)} tokens and the model takes {limit}, the completion "
                f"included; shorten the prompt to {limit - 1} tokens or fewer"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise CodexRayError(
                f"prompt {number} holds token {max(prompt)} and the model has {vocabulary}; "
                "use the tokenizer in the model's own folder"
            )


@dataclass
class _Row:
    """One row on its way: what it has drawn, and when it ends."""

    number: int
    prompt: list[int]
    room: int
    generator: np.random.Generator
    end_ids: frozenset[int]
    text: StopText
    decoder: StreamDecoder
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def accept(self, token: int, logprob: float) -> str:
        """Add a drawn token; return the text that may now be shown."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in self.end_ids:
            self.finish_reason = "stop"
            return self.text.push(self.decoder.flush()) + self.text.finish()
        shown = self.text.push(self.decoder.push(token))
        if self.text.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) == self.room:
            self.finish_reason = "length"
            shown += self.text.push(self.decoder.flush()) + self.text.finish()
        return shown

    def completion(self) -> Completion:
        if self.finish_reason is None:
            raise RuntimeError(f"row {self.number} has not ended")
        return Completion(self.ids, self.text.text, self.logprobs, self.finish_reason)


class _CachedModel:
    """A model, the cache of the rows still running, and where each of them stands."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        accepted = inspect.signature(model.forward).parameters
        any_keyword = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
        self._takes_positions = any_keyword or "position_ids" in accepted
        self._cache: Any = None
        self._mask_BS = torch.empty(0)

    def start(self, prompts: list[list[int]]) -> Tensor:
        """Read the prompts; return the logits ``[B, V]`` after each."""
        longest = max(map(len, prompts))
        ids_BS = torch.tensor([[0] * (longest - len(row)) + row for row in prompts], device=self._device)
        self._mask_BS = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=self._device
        )
        return self._forward(ids_BS, (self._mask_BS.cumsum(dim=-1) - 1).clamp(min=0))

    def advance(self, tokens_B: Tensor, running: list[int]) -> Tensor:
        """Give each row of ``running`` its token and forget the others; return the next logits."""
        if len(running) < len(tokens_B):
            kept = torch.tensor(running, device=self._device)
            self._cache.reorder_cache(kept)
            self._mask_BS = self._mask_BS[kept]
            tokens_B = tokens_B[kept]
        self._mask_BS = torch.cat([self._mask_BS, self._mask_BS.new_ones(len(tokens_B), 1)], dim=-1)
        return self._forward(tokens_B[:, None], self._mask_BS.sum(dim=-1, keepdim=True) - 1)

    def _forward(self, ids_BS: Tensor, positions_BS: Tensor) -> Tensor:
        positions = {"position_ids": positions_BS} if self._takes_positions else {}
        output = self._model(
            input_ids=ids_BS,
            attention_mask=self._mask_BS,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **positions,
        )
        self._cache = output.past_key_values
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV


def _complete(
    model: Any, rows: list[_Row], sampling: Sampling, banned_ids: list[int], on_token: OnToken | None
) -> None:
    """Draw tokens for a batch until each of its rows has ended."""
    cached = _CachedModel(model)
    logits_BV = cached.start([row.prompt for row in rows])
    banned = torch.tensor(banned_ids, dtype=torch.int64, device=logits_BV.device)
    while True:
        logits_BV = logits_BV.float()
        normaliser_B = logits_BV.logsumexp(dim=-1)
        if not bool(normaliser_B.isfinite().all()):
            raise CodexRayError(
                "the model's logits are not finite; try compute.dtype=float32 or a model from an earlier step"
            )
        uniforms = [row.generator.random() for row in rows]
        tokens_B = sample(logits_BV.index_fill(-1, banned, -torch.inf), uniforms, sampling)
        logprobs_B = logits_BV.gather(-1, tokens_B[:, None]).squeeze(-1) - normaliser_B
        for row, token, logprob in zip(rows, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
            shown = row.accept(token, logprob)
            if on_token is not None:
                on_token(row.number, token, shown)
        running = [place for place, row in enumerate(rows) if row.finish_reason is None]
        if not running:
            return
        rows = [rows[place] for place in running]
        logits_BV = cached.advance(tokens_B, running)


def _end_ids(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a row: the tokenizer's, and those of the model's generation settings."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(token for token in [tokenizer.eos_id, *listed] if token is not None)


def _banned_ids(model: Any, tokenizer: Tokenizer, end_ids: frozenset[int]) -> list[int]:
    """Tokens never drawn: padding, and rows of the embedding that the tokenizer has no piece for."""
    padding = [tokenizer.pad_id] if tokenizer.pad_id is not None and tokenizer.pad_id not in end_ids else []
    return [*padding, *range(tokenizer.vocabulary_size, model.config.get_text_config().vocab_size)]


@contextmanager
def _inference(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients, and the mode it was in afterwards."""
    training = model.training
    model.eval()
    try:
        # Not inference mode: a model may keep buffers made here, and train with them later.
        with torch.no_grad():
            yield
    finally:
        model.train(training)
