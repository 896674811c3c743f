"""Continuous batching: requests join and leave a decoding batch at every step.

Each step reads the prompts of requests that have just come, draws their first token, and draws one more of
every request already there. Prompts are read one after the other in a single row, so that different lengths
waste nothing; a prompt that begins as another sequence did, that is still in a slot, is read from there on
only, and equal prompts are read once.

A request's tokens depend on its prompt and seed alone, as far as the precision goes: a batch's matrix
products may round otherwise than a row's, which in float32 shows in the last digits of log-probabilities and
in bfloat16 can now and then turn a draw.

Tensor names end in their shape: R rows, Q new tokens of a row, T positions looked at, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.request import Drawn, Request, Row
from codex_ray.rollout.sampling import Sampling, sample
from codex_ray.rollout.slots import Extension, Placement, Prompts, SlotCache, Step, attending_slots, visible

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

PREFILL_TOKENS = 512  # of prompts read at a time
SHARED_TOKENS = 16  # fewest that are worth taking over from another sequence


class Sampler:
    """A model, its slots and the requests in them; one thread uses it.

    Args:
        model: a Transformers causal language model, on the device it shall use.
        tokenizer: decodes, and names the end and padding tokens.
        slots: requests decoded together.
        capacity: longest sequence, prompt and completion, in tokens; at most what the model takes.

    Raises:
        ConfigError: an impossible size, or a model whose layers keep something else than keys and values.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, *, slots: int, capacity: int) -> None:
        if slots < 1 or capacity < 2:
            raise ConfigError(f"slots={slots} and capacity={capacity} must be at least 1 and 2")
        limit = max_positions(model)
        self.capacity = capacity if limit is None else min(capacity, limit)
        self.slots = slots
        self._tokenizer = tokenizer
        self._model = _CachedModel(model, slots, self.capacity)
        self._end_ids = _end_ids(model, tokenizer)
        self._banned = torch.tensor(_banned_ids(model, tokenizer, self._end_ids), device=self._model.device)
        self._rows: list[Row] = []  # row i is in slot i
        self._waiting: deque[Row] = deque()
        self._held: list[list[int]] = [[] for _ in range(slots)]  # tokens whose keys a slot holds
        self._used = [0] * slots  # when, in steps
        self._steps = self._submitted = 0

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return len(self._rows) + len(self._waiting)

    def submit(self, request: Request) -> int:
        """Take a request and return its number; :meth:`step` does the work.

        Raises:
            ConfigError: ``max_new_tokens`` is not positive, or a stop string is empty.
            CodexRayError: an empty or too long prompt, or an id the model does not have.
        """
        from codex_ray.tokenizer import StreamDecoder

        if request.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {request.max_new_tokens}")
        number = self._submitted
        check_prompt(request.prompt, number + 1, self.capacity, self._model.vocabulary)
        prompt = list(request.prompt)
        room = min(request.max_new_tokens, self.capacity - len(prompt))
        row = Row(number, request, prompt, room, self._end_ids, StreamDecoder(self._tokenizer))
        self._waiting.append(row)
        self._submitted += 1
        return number

    def cancel(self, number: int) -> None:
        """End a request; nothing more is drawn for it. One that has ended already is left alone."""
        for row in [*self._rows, *self._waiting]:
            if row.number == number:
                row.cancel()
        self._waiting = deque(row for row in self._waiting if row.finish_reason is None)
        self._leave()

    def forget(self) -> None:
        """Take nothing over from earlier sequences: for when the model's weights have changed.

        Raises:
            RuntimeError: requests are on their way.
        """
        if self._rows:
            raise RuntimeError(
                f"{len(self._rows)} requests are on their way; weights change between requests"
            )
        self._held = [[] for _ in range(self.slots)]

    def step(self) -> list[Drawn]:
        """Draw a token for every request that has a slot; those without one wait.

        Raises:
            CodexRayError: the model's logits are not finite.
        """
        self._steps += 1
        with _inference(self._model.model), attending_slots(self._model.model):
            older = self._advance()
            newer = self._admit()
            logits_RV = torch.cat([*older, *newer]) if older or newer else None
            drawn = [] if logits_RV is None else self._draw(logits_RV.float())
        self._leave()
        return drawn

    def _advance(self) -> list[Tensor]:
        """Give every row its last token; the logits after it."""
        if not self._rows:
            return []
        for row, held in zip(self._rows, self._held, strict=False):
            held.append(row.ids[-1])
        positions = [len(held) - 1 for held in self._held[: len(self._rows)]]
        return [self._model.step([row.ids[-1] for row in self._rows], positions)]

    def _admit(self) -> list[Tensor]:
        """Give waiting requests the free slots and read their prompts; the logits after each."""
        slots: dict[tuple[int, ...], int] = {}  # of prompts read now
        fresh: list[tuple[int, list[int]]] = []
        logits: dict[int, Tensor] = {}
        read, followers = 0, []
        while self._waiting and len(self._rows) < self.slots:
            prompt = self._waiting[0].prompt
            leader = slots.get(tuple(prompt))
            slot = len(self._rows)
            shared = 0 if leader is not None else self._make_room(slot, prompt)
            left = 0 if leader is not None else len(prompt) - shared
            if read and read + left > PREFILL_TOKENS:
                break
            read += left
            self._rows.append(self._waiting.popleft())
            if leader is not None:
                self._make_room(slot, [])
                followers.append((slot, leader))
                continue
            slots[tuple(prompt)] = slot
            if shared or left > PREFILL_TOKENS:
                logits[slot] = self._model.extend(slot, prompt, shared)
            else:
                fresh.append((slot, prompt))
        if fresh:
            after = self._model.read(fresh)
            logits |= {slot: after[place : place + 1] for place, (slot, _) in enumerate(fresh)}
        for slot, leader in followers:
            self._model.cache.copy(leader, slot, len(self._rows[slot].prompt))
            logits[slot] = logits[leader]
        for slot in logits:
            self._held[slot] = list(self._rows[slot].prompt)
        return [logits[slot] for slot in sorted(logits)]

    def _make_room(self, slot: int, prompt: list[int]) -> int:
        """Free a slot, and fill it with what another holds of the prompt's beginning; how many tokens."""
        most = len(prompt) - 1
        shared, source = max(
            (min(_common(prompt, held), most), place) for place, held in enumerate(self._held)
        )
        shared = shared if shared >= SHARED_TOKENS else 0
        if shared and source >= slot:
            self._swap(slot, source)
        else:
            oldest = min(range(slot, self.slots), key=self._used.__getitem__)
            self._swap(slot, oldest)
            if shared:
                self._model.cache.copy(source, slot, shared)
        self._held[slot], self._used[slot] = prompt[:shared], self._steps
        return shared

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        held = self._held
        self._model.cache.swap(one, other, max(len(held[one]), len(held[other])))
        held[one], held[other] = held[other], held[one]
        self._used[one], self._used[other] = self._used[other], self._used[one]

    def _draw(self, logits_RV: Tensor) -> list[Drawn]:
        normaliser_R = logits_RV.logsumexp(dim=-1)
        if not bool(normaliser_R.isfinite().all()):
            raise CodexRayError(
                "the model's logits are not finite; try compute.dtype=float32 or a model from an earlier step"
            )
        allowed_RV = logits_RV.index_fill(-1, self._banned, -torch.inf)
        for place, row in enumerate(self._rows):
            if row.request.adjust is not None:
                allowed_RV[place] = row.request.adjust(row.ids, allowed_RV[place])
        tokens_R, sampled_R = self._sample(allowed_RV)
        logprobs_R = logits_RV.gather(-1, tokens_R[:, None]).squeeze(-1) - normaliser_R
        drawn = []
        figures = zip(self._rows, tokens_R.tolist(), logprobs_R.tolist(), sampled_R.tolist(), strict=True)
        for row, token, logprob, sampled in figures:
            text = row.accept(token, logprob, sampled)
            whole = row.completion() if row.finish_reason else None
            drawn.append(Drawn(row.number, token, text, logprob, sampled, whole))
        return drawn

    def _sample(self, allowed_RV: Tensor) -> tuple[Tensor, Tensor]:
        """Draw for rows of equal settings together."""
        uniforms = [row.uniform() for row in self._rows]
        groups: dict[Sampling, list[int]] = {}
        for place, row in enumerate(self._rows):
            groups.setdefault(row.request.sampling, []).append(place)
        if len(groups) == 1:
            return sample(allowed_RV, uniforms, next(iter(groups)))
        tokens_R = torch.empty(len(uniforms), dtype=torch.int64, device=allowed_RV.device)
        logprobs_R = torch.empty(len(uniforms), device=allowed_RV.device)
        for sampling, places in groups.items():
            chosen = torch.tensor(places, device=allowed_RV.device)
            some = [uniforms[place] for place in places]
            tokens_R[chosen], logprobs_R[chosen] = sample(allowed_RV[chosen], some, sampling)
        return tokens_R, logprobs_R

    def _leave(self) -> None:
        """Let ended requests go; the last ones take their slots."""
        for slot in range(len(self._rows) - 1, -1, -1):
            if self._rows[slot].finish_reason is not None:
                last = len(self._rows) - 1
                self._swap(slot, last)
                self._used[last] = self._steps
                self._rows[slot] = self._rows[last]
                self._rows.pop()


class _CachedModel:
    """The model with its slots: whole prompts, the rest of one, or one token more of each row."""

    def __init__(self, model: Any, slots: int, capacity: int) -> None:
        self.model, self.device = model, next(model.parameters()).device
        configuration = model.config.get_text_config()
        self.vocabulary: int = configuration.vocab_size
        layers = DynamicCache(config=model.config).layers
        if not layers or any(type(one) not in (DynamicLayer, DynamicSlidingWindowLayer) for one in layers):
            raise ConfigError(
                f"layers of a {configuration.model_type} model keep something else than keys and values of "
                "single tokens, which sampling here needs; use another model"
            )
        self.cache = SlotCache(len(layers), slots, capacity)
        self._windows = {getattr(one, "sliding_window", None) for one in layers}
        self._dtype = model.get_input_embeddings().weight.dtype
        accepted = inspect.signature(model.forward).parameters
        any_keyword = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in accepted.values())
        self._takes_positions = any_keyword or "position_ids" in accepted

    def read(self, prompts: Sequence[tuple[int, list[int]]]) -> Tensor:
        """Read whole prompts into their slots; the logits after each, [R, V]."""
        spans, end = [], 0
        for slot, prompt in prompts:
            spans.append((slot, end, end + len(prompt)))
            end += len(prompt)
        lengths = torch.tensor([len(prompt) for _, prompt in prompts], device=self.device)
        document_T = torch.arange(len(prompts), device=self.device).repeat_interleave(lengths)
        place_T = torch.arange(end, device=self.device)
        positions_T = place_T - (lengths.cumsum(0) - lengths)[document_T]
        same = document_T[:, None] == document_T
        ids = [token for _, prompt in prompts for token in prompt]
        return self._forward(
            Prompts(spans), [ids], positions_T[None], place_T[None], place_T, lengths.cumsum(0) - 1, same
        )

    def extend(self, slot: int, prompt: list[int], past: int) -> Tensor:
        """Read a prompt after the ``past`` tokens that its slot holds; the logits after it, [1, V]."""
        last = torch.tensor([0], device=self.device)
        logits_1V = torch.empty(0)
        for start in range(past, len(prompt), PREFILL_TOKENS):
            end = min(start + PREFILL_TOKENS, len(prompt))
            queries_1Q = torch.arange(start, end, device=self.device)[None]
            keys_T = torch.arange(end, device=self.device)
            place = Extension(slot, start)
            ids = [prompt[start:end]]
            logits_1V = self._forward(place, ids, queries_1Q, queries_1Q, keys_T, last + end - start - 1)
        return logits_1V

    def step(self, tokens: list[int], positions: list[int]) -> Tensor:
        """Give each row of the first slots one token at its position; the logits after them, [R, V]."""
        positions_R = torch.tensor(positions, device=self.device)
        rows_R = torch.arange(len(tokens), device=self.device)
        place = Step(rows_R, positions_R, max(positions))
        keys_T = torch.arange(place.past + 1, device=self.device)
        queries_RQ = positions_R[:, None]
        return self._forward(place, [[token] for token in tokens], queries_RQ, queries_RQ, keys_T, rows_R[:1])

    def _forward(
        self,
        place: Placement,
        ids: list[list[int]],
        positions_RQ: Tensor,
        queries_RQ: Tensor,
        keys_T: Tensor,
        kept: Tensor,
        same: Tensor | None = None,
    ) -> Tensor:
        """Run the model; the logits at the places ``kept`` of each row, rows and places flattened."""
        self.cache.place = place
        masks = {}
        for window in self._windows:
            seen = visible(queries_RQ, keys_T, window)
            seen = seen if same is None else seen & same
            kind = "full_attention" if window is None else "sliding_attention"
            masks[kind] = torch.zeros(seen.shape, dtype=self._dtype, device=self.device).masked_fill(
                ~seen, torch.finfo(self._dtype).min
            )
        positions = {"position_ids": positions_RQ} if self._takes_positions else {}
        output = self.model(
            input_ids=torch.tensor(ids, device=self.device),
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=kept,
            **positions,
        )
        logits_RV: Tensor = output.logits.flatten(0, 1)
        return logits_RV


def max_positions(model: Any) -> int | None:
    """Return the longest sequence a model was made for, in tokens; None where it names none."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def check_prompt(prompt: Sequence[int], number: int, limit: int | None, vocabulary: int) -> None:
    """Refuse a prompt that cannot be continued.

    Raises:
        CodexRayError: it is empty, leaves no room in ``limit`` tokens, or holds an id the model lacks.
    """
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


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the beginning that two sequences share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


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
