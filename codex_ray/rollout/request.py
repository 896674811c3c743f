"""What a sampler is asked for, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from codex_ray.rollout.lora import Adapter
from codex_ray.rollout.sampling import Sampling
from codex_ray.rollout.stops import StopText

if TYPE_CHECKING:
    from codex_ray.rollout.grammar import Grammar
    from codex_ray.tokenizer import StreamDecoder

UNIFORMS = 32
"""Numbers that a row draws at a time, for a call takes longer than a number."""

Adjust = Callable[[Sequence[int], Tensor], Tensor]
"""Given the tokens drawn so far and the model's logits ``[V]``, returns those to draw from: a grammar sets
what it forbids to minus infinity, a bias adds to some."""


@dataclass(frozen=True)
class Request:
    """One sequence to be continued.

    Attributes:
        prompt: token ids, the beginning-of-text token included where the model wants one.
        max_new_tokens: longest completion; the sampler's longest sequence ends it earlier.
        sampling: how tokens are drawn.
        seed: of this sequence's own generator.
        stop: strings that end it; they are looked for in the decoded text.
        streamed: whether every drawn token's text is wanted at once, and not only the whole at the end.
        adjust: changes the logits before a token is drawn from them.
        stop_ids: tokens that end it, besides the model's end tokens.
        regex: Python's syntax; the text is held to a match of it. Where the match can go no further only the
            end token can be drawn; a completion that ``max_new_tokens`` cuts off is the beginning of a match.
        adapter: what is added to the model for this sequence.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: Sequence[str] = ()
    streamed: bool = False
    adjust: Adjust | None = None
    stop_ids: Sequence[int] = ()
    regex: str | None = None
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Completion:
    """What one request became.

    Attributes:
        ids: sampled tokens, the one that ended the sequence included; never padding.
        text: their text, without the end token and cut before a stop string.
        logprobs: natural log of each token's probability under the model itself, before temperature,
            top-k, top-p, min-p, adjustment and the ban on padding.
        sampling_logprobs: the same under the distribution that the token was drawn from.
        finish_reason: ``"stop"`` (end token, stop token or stop string), ``"length"`` (``max_new_tokens`` or
            the last position) or ``"cancelled"``.
    """

    ids: list[int]
    text: str
    logprobs: list[float]
    sampling_logprobs: list[float]
    finish_reason: str


class Drawn(NamedTuple):
    """One token of one request, by the number that ``submit`` gave; with the last comes the completion.

    ``text`` is what may be shown because of it, where the request is streamed; the log-probabilities are as
    in :class:`Completion`.
    """

    request: int
    token: int
    text: str
    logprob: float
    sampling_logprob: float
    completion: Completion | None


@dataclass(eq=False)
class Row:
    """A request on its way: what it has drawn, and when it ends."""

    number: int
    request: Request
    prompt: list[int]
    room: int
    end_ids: frozenset[int]
    decoder: StreamDecoder
    grammar: Grammar | None = None
    state: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.request.seed)
        self._uniforms: Iterator[float] = iter(())
        self._text = StopText(self.request.stop)
        request = self.request
        self.plain = request.sampling == Sampling() and request.adjust is None and self.grammar is None
        self._incremental = self.request.streamed or bool(self.request.stop)

    def uniform(self) -> float:
        """The row's next number in [0, 1)."""
        if (number := next(self._uniforms, None)) is None:
            self._uniforms = iter(self._generator.random(UNIFORMS).tolist())
            number = next(self._uniforms)
        return number

    def accept(self, token: int, logprob: float, sampling_logprob: float) -> str:
        """Add a drawn token; return the text that may now be shown."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.sampling_logprobs.append(sampling_logprob)
        if self.grammar is not None:
            self.state = self.grammar.next(self.state, token)
        ended = token in self.end_ids
        shown = ""
        if self._incremental and not ended:
            shown = self._text.push(self.decoder.push(token))
        if ended or self._text.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) == self.room:
            self.finish_reason = "length"
        return shown + self._rest() if self.finish_reason else shown

    def cancel(self) -> None:
        """End it where it stands."""
        self.finish_reason = "cancelled"
        self._rest()

    def completion(self) -> Completion:
        """The whole, once it has ended."""
        if self.finish_reason is None:
            raise RuntimeError(f"request {self.number} has not ended")
        return Completion(
            self.ids, self._text.text, self.logprobs, self.sampling_logprobs, self.finish_reason
        )

    def _rest(self) -> str:
        """Decode what is left: the end of a streamed text, or all of another."""
        if self._text.stopped:
            return ""
        shown = ""
        if not self._incremental:  # there is no stop string
            ended = bool(self.ids) and self.ids[-1] in self.end_ids
            shown = self._text.push("".join(map(self.decoder.push, self.ids[: len(self.ids) - ended])))
        return shown + self._text.push(self.decoder.flush()) + self._text.finish()
