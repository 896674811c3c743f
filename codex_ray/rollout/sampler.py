"""Continuous batching: requests join and leave a decoding batch at every step.

Each step reads the prompts of requests that have just come, draws their first token, and draws one more of
every request already there. Prompts are read one after the other in a single row, so that different lengths
waste nothing; a prompt that begins as another sequence did, that is still in a slot, is read from there on
only, and equal prompts are read once. Of a long prompt each step reads a part into a free slot, while others
go on; its request waits until the rest is short enough.

A request's tokens depend on its prompt and seed alone, as far as the precision goes: a batch's matrix
products may round otherwise than a row's, which in float32 shows in the last digits of log-probabilities and
in bfloat16 can now and then turn a draw.

Tensor names end in their shape: R rows, Q new tokens of a row, T positions looked at, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.model.load import positions_of
from codex_ray.rollout import cached, native
from codex_ray.rollout.attention import Span
from codex_ray.rollout.cached import CachedModel, inference
from codex_ray.rollout.choosing import sample
from codex_ray.rollout.grammar import Grammar, Vocabulary
from codex_ray.rollout.request import Drawn, Request, Row
from codex_ray.rollout.sampling import Sampling

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

GRAMMARS = 64  # whose masks are kept
SHARED_TOKENS = 16  # fewest that are worth taking over from another sequence


class Sampler:
    """A model, its slots and the requests in them; one thread uses it.

    Args:
        model: a Transformers causal language model, on the device it shall use.
        tokenizer: decodes, and names the end and padding tokens.
        slots: requests decoded together.
        capacity: longest sequence, prompt and completion, in tokens; at most what the model takes.
        cache_bytes: most that keys and values may take; requests beyond it wait, and no sequence gets longer
            than all of it holds. None is ``slots`` sequences of ``capacity`` tokens. Beside it stands one
            tensor of one layer while slots grow, and what a forward pass needs.
        beside_tokens: most tokens of prompts read in a step in which others decode: with fewer they wait less
            for their next one, and long prompts longer. None is as many as in any step.
        graphs: decode by CUDA graphs; all slots then have their full length from the start, and weights must
            stay where they are in memory.

    Raises:
        ConfigError: an impossible size, or a model whose layers keep something else than keys and values.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        slots: int,
        capacity: int,
        cache_bytes: int | None = None,
        beside_tokens: int | None = None,
        graphs: bool = False,
    ) -> None:
        if slots < 1 or capacity < 2:
            raise ConfigError(f"slots={slots} and capacity={capacity} must be at least 1 and 2")
        if graphs and (cache_bytes is not None or not next(model.parameters()).is_cuda):
            raise ConfigError("graphs=True is for models on CUDA, and without cache_bytes; leave it out here")
        limit = max_positions(model)
        self.capacity = capacity if limit is None else min(capacity, limit)
        self.slots = slots
        self._beside = beside_tokens
        self._tokenizer = tokenizer
        self._model = CachedModel(model, slots, self.capacity, graphs=graphs)
        self._cache_bytes = cache_bytes
        self._bound: int | None = None  # positions that the budget holds
        if cache_bytes is not None:
            budget = cache_bytes // self._model.position_bytes()
            if budget < slots * self.capacity:
                self._bound = self._model.cache.bound(budget)
                self.capacity = min(self.capacity, self._bound)
            if self.capacity < 2:
                raise ConfigError(
                    f"cache_bytes={cache_bytes} holds keys and values of {self.capacity} tokens; one takes "
                    f"{self._model.position_bytes()} bytes, so give room for a prompt and its completion"
                )
        self._end_ids = end_ids(model, tokenizer)
        self._words: Vocabulary | None = None
        self._grammars: dict[str, Grammar] = {}
        banned = banned_ids(model, tokenizer, self._end_ids)
        self._banned = torch.tensor(banned, dtype=torch.int64, device=self._model.device)
        self._rows: list[Row] = []  # row i is in slot i
        self._waiting: deque[Row] = deque()
        self._held: list[list[int]] = [[] for _ in range(slots)]  # tokens whose keys a slot holds
        self._whose = [0] * slots  # adapter that these were computed with; 0: none
        self._begun: int | None = None  # slot with a part of the first waiting request's prompt
        self._used = [0] * slots  # when, in steps
        self._steps = self._submitted = 0

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return len(self._rows) + len(self._waiting)

    def submit(self, request: Request) -> int:
        """Take a request and return its number; :meth:`step` does the work.

        Raises:
            ConfigError: ``max_new_tokens`` is not positive, a stop string is empty, a stop token is none, or
                ``regex`` cannot be held to.
            CodexRayError: an empty or too long prompt, or an id the model does not have.
        """
        from codex_ray.tokenizer import StreamDecoder

        if request.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {request.max_new_tokens}")
        number = self._submitted
        self._check(request, number)
        prompt = list(request.prompt)
        room = min(request.max_new_tokens, self.capacity - len(prompt))
        ends = self._end_ids.union(request.stop_ids)
        grammar = None if request.regex is None else self._grammar(request.regex)
        row = Row(number, request, prompt, room, ends, StreamDecoder(self._tokenizer), grammar)
        self._waiting.append(row)
        self._submitted += 1
        return number

    def _check(self, request: Request, number: int) -> None:
        if len(request.prompt) >= self.capacity == self._bound:
            raise CodexRayError(
                f"prompt {number + 1} has {len(request.prompt)} tokens and cache_bytes={self._cache_bytes} "
                f"holds {self.capacity}, the completion included; shorten the prompt or give more"
            )
        check_prompt(request.prompt, number + 1, self.capacity, self._model.vocabulary)
        for token in request.stop_ids:
            if not 0 <= token < self._model.vocabulary:
                raise ConfigError(
                    f"stop token {token} is none of the model's {self._model.vocabulary}; correct it"
                )

    def _grammar(self, pattern: str) -> Grammar:
        if self._words is None:
            self._words = Vocabulary(self._tokenizer, self._model.vocabulary, self._end_ids)
        if pattern not in self._grammars:
            if len(self._grammars) == GRAMMARS:
                del self._grammars[next(iter(self._grammars))]
            self._grammars[pattern] = Grammar(pattern, self._words)
        return self._grammars[pattern]

    def cancel(self, number: int) -> None:
        """End a request; nothing more is drawn for it. One that has ended already is left alone."""
        for row in [*self._rows, *self._waiting]:
            if row.number == number:
                row.cancel()
        if self._waiting and self._waiting[0].finish_reason is not None:
            self._begun = None
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
        self._held, self._begun = [[] for _ in range(self.slots)], None
        self._model.refresh()

    def step(self) -> list[Drawn]:
        """Draw a token for every request that has a slot; those without one wait.

        Raises:
            CodexRayError: the model's logits are not finite.
        """
        self._steps += 1
        older, joining = len(self._rows), self._fit()
        with inference(self._model.model):
            spans, leaders = self._join(joining)
            logits_RV = self._run(older, spans, leaders) if older or spans else None
            drawn = self._draw(logits_RV) if logits_RV is not None and len(logits_RV) else []
        self._leave()
        return drawn

    def _fit(self) -> int:
        """Make room for what this step adds; how many waiting requests there is memory for."""
        rows, cache = len(self._rows), self._model.cache
        if cache.ample:
            return min(len(self._waiting), self.slots - rows)
        final = [len(row.prompt) + row.room for row in self._rows]
        lengths = [len(held) + 1 for held in self._held[:rows]]
        for row in itertools.islice(self._waiting, self.slots - rows):
            final.append(len(row.prompt) + row.room)
            if not cache.holds(final):  # with all that those there may still draw
                break
            lengths.append(len(row.prompt) + 1)
        begun = self._begun if len(lengths) > rows else None
        for slot, length in cache.prepare(lengths, rows, self._used, begun).items():
            del self._held[slot][length:]
        return len(lengths) - rows

    def _join(self, joining: int) -> tuple[list[Span], dict[int, int]]:
        """Give so many waiting requests slots, or fewer where their prompts are too long to be read at once.

        Returns:
            what is to be read of their prompts, and slots of prompts equal to one of these, with its slot.
        """
        spans: list[Span] = []
        slots: dict[tuple[int, tuple[int, ...]], int] = {}
        leaders: dict[int, int] = {}
        read, most = 0, cached.PREFILL_TOKENS
        if self._rows and self._beside is not None:
            most = min(most, self._beside)
        for _ in range(joining):
            prompt, slot = self._waiting[0].prompt, len(self._rows)
            adapter = self._waiting[0].request.adapter
            whose = adapter.number if adapter is not None else 0
            if (leader := slots.get((whose, tuple(prompt)))) is not None:
                leaders[slot] = leader
                self._make_room(slot, [], whose)
            else:
                shared = self._make_room(slot, prompt, whose)
                if read and read + len(prompt) - shared > most:
                    break
                end = min(len(prompt), shared + most)
                spans.append(Span(slot, prompt[shared:end], shared, adapter))
                if end < len(prompt):
                    self._held[slot], self._begun = prompt[:end], slot
                    break
                read += end - shared
                slots[whose, tuple(prompt)] = slot
            self._rows.append(self._waiting.popleft())
        return spans, leaders

    def _run(self, older: int, spans: list[Span], leaders: dict[int, int]) -> Tensor:
        """Give the older rows their last tokens and read prompts; the logits after each row, [R, V]."""
        cache, tokens, positions = self._model.cache, [], []
        for slot in range(older):
            held = self._held[slot]
            tokens.append(self._rows[slot].ids[-1])
            positions.append(len(held))
            held.append(tokens[-1])
        cache.take_next(positions)
        adapters = [self._rows[slot].request.adapter for slot in range(older)]
        logits_RV = self._model.run(tokens, positions, spans, adapters)
        for slot, leader in leaders.items():
            cache.copy(leader, slot, len(self._rows[slot].prompt))
        for slot in range(older, len(self._rows)):
            self._held[slot] = list(self._rows[slot].prompt)
        if not leaders:
            return logits_RV[: len(self._rows)]
        places = {span.slot: older + place for place, span in enumerate(spans)}
        wanted = [*range(older), *(places[leaders.get(slot, slot)] for slot in range(older, len(self._rows)))]
        return logits_RV[wanted]

    def _make_room(self, slot: int, prompt: list[int], whose: int) -> int:
        """Free a slot, and fill it with what another holds of the prompt's beginning; how many tokens."""
        most, begun = len(prompt) - 1, self._begun
        shared, source = max(
            (min(_common(prompt, held), most) if self._whose[place] == whose else 0, place)
            for place, held in enumerate(self._held)
            if begun in (None, place)
        )
        self._begun = None
        shared = shared if shared >= SHARED_TOKENS else 0
        if shared and source >= slot:
            self._swap(slot, source)
        else:
            oldest = min(range(slot, self._model.cache.lines), key=self._used.__getitem__)
            self._swap(slot, oldest)
            if shared:
                self._model.cache.copy(source, slot, shared)
        self._held[slot], self._used[slot] = prompt[:shared], self._steps
        self._whose[slot] = whose
        self._model.cache.take(slot, len(prompt))
        return shared

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        held = self._held
        self._model.cache.swap(one, other, max(len(held[one]), len(held[other])))
        held[one], held[other] = held[other], held[one]
        self._used[one], self._used[other] = self._used[other], self._used[one]
        self._whose[one], self._whose[other] = self._whose[other], self._whose[one]

    def _draw(self, logits_RV: Tensor) -> list[Drawn]:
        uniforms = [row.uniform() for row in self._rows]
        kernels = native.kernels(logits_RV.dtype) if logits_RV.device.type == "cpu" else None
        if kernels is not None and all(row.plain for row in self._rows):
            tokens_R, logprobs_R, sampled_R = kernels.choose(logits_RV, uniforms, self._banned)
            _check_finite(logprobs_R)
        else:
            plain_RV = logits_RV.softmax(dim=-1, dtype=torch.float32)
            normaliser_R = logits_RV.amax(dim=-1).float() - plain_RV.amax(dim=-1).log()
            _check_finite(normaliser_R)
            tokens_R, sampled_R = self._sample(self._allowed(logits_RV.float()), uniforms)
            logprobs_R = logits_RV.gather(-1, tokens_R[:, None]).squeeze(-1).float() - normaliser_R
        drawn = []
        figures = zip(self._rows, tokens_R.tolist(), logprobs_R.tolist(), sampled_R.tolist(), strict=True)
        for row, token, logprob, sampled in figures:
            text = row.accept(token, logprob, sampled)
            whole = row.completion() if row.finish_reason else None
            drawn.append(Drawn(row.number, token, text, logprob, sampled, whole))
        return drawn

    def _allowed(self, logits_RV: Tensor) -> Tensor:
        """The logits to draw from: what padding, grammars and adjustments leave."""
        allowed_RV = logits_RV.index_fill(-1, self._banned, -torch.inf)
        for place, row in enumerate(self._rows):
            if row.grammar is not None:
                allowed_RV[place].masked_fill_(
                    row.grammar.forbidden(row.state).to(self._model.device), -torch.inf
                )
            if row.request.adjust is not None:
                allowed_RV[place] = row.request.adjust(row.ids, allowed_RV[place])
        return allowed_RV

    def _sample(self, allowed_RV: Tensor, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Draw for rows of equal settings together."""
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


def max_positions(model: Any) -> int | None:
    """Return the longest sequence a model was made for, in tokens; None where it names none."""
    return positions_of(model.config)


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


def _check_finite(figures_R: Tensor) -> None:
    if not bool(figures_R.isfinite().all()):
        raise CodexRayError(
            "the model's logits are not finite; try compute.dtype=float32 or a model from an earlier step"
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


def end_ids(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a row: the tokenizer's, and those of the model's generation settings."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(token for token in [tokenizer.eos_id, *listed] if token is not None)


def banned_ids(model: Any, tokenizer: Tokenizer, end_ids: frozenset[int]) -> list[int]:
    """Tokens never drawn: padding, and rows of the embedding that the tokenizer has no piece for."""
    padding = [tokenizer.pad_id] if tokenizer.pad_id is not None and tokenizer.pad_id not in end_ids else []
    return [*padding, *range(tokenizer.vocabulary_size, model.config.get_text_config().vocab_size)]
