"""The sequences of a call, as the sampler takes them, and what is told of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codex_ray.rollout.lora import Adapter
from codex_ray.rollout.request import Drawn, Request
from codex_ray.rollout.sampling import Sampling, row_seeds
from codex_ray.serve.adjusting import Adjuster
from codex_ray.serve.calls import Call
from codex_ray.serve.events import Alternative, Entry
from codex_ray.serve.jobs import Track
from codex_ray.serve.json_grammar import JsonGrammar
from codex_ray.tokenizer import Tokenizer

UNLIMITED = 2**31


def tracks_of(
    call: Call,
    prompts: Sequence[Sequence[int]],
    seed: int,
    grammar: JsonGrammar | None,
    adapter: Adapter | None,
    tokenizer: Tokenizer,
    ends: frozenset[int],
) -> list[Track]:
    """Make a sequence of every choice of every prompt, each with a seed of its own."""
    sampling = Sampling(call.temperature, call.top_k, call.top_p, call.min_p)
    length = UNLIMITED if call.max_tokens is None else call.max_tokens
    adjusted = bool(
        call.bias or call.presence_penalty or call.frequency_penalty or grammar is not None or call.top
    )
    told = _teller(tokenizer, ends) if call.top is not None else None
    tracks = []
    for index, row_seed in enumerate(row_seeds(seed, len(prompts) * call.choices)):
        adjuster = None
        if adjusted:
            adjuster = Adjuster(
                bias=call.bias,
                presence=call.presence_penalty,
                frequency=call.frequency_penalty,
                grammar=grammar.copy() if grammar is not None else None,
                top=call.top or 0,
            )
        request = Request(
            prompts[index // call.choices],
            length,
            sampling,
            row_seed,
            tuple(call.stop),
            streamed=call.stream,
            adjust=adjuster,
            adapter=adapter,
        )
        tracks.append(Track(index, request, adjuster, told))
    return tracks


def _teller(tokenizer: Tokenizer, ends: frozenset[int]) -> Callable[[Drawn, Adjuster | None], Entry | None]:
    def tell(drawn: Drawn, adjuster: Adjuster | None) -> Entry | None:
        if drawn.token in ends and drawn.completion is not None:
            return None
        top = adjuster.top(drawn.token, drawn.logprob) if adjuster is not None else []
        return entry_of(tokenizer, drawn.token, drawn.logprob, top)

    return tell


def entry_of(
    tokenizer: Tokenizer, token: int, logprob: float | None, top: Sequence[tuple[int, float]]
) -> Entry:
    """Name a token and its alternatives by their texts."""
    others = [Alternative(*text_of(tokenizer, other), value) for other, value in top]
    return Entry(*text_of(tokenizer, token), logprob, others)


def text_of(tokenizer: Tokenizer, token: int) -> tuple[str, list[int]]:
    """The text of one token and its bytes; half a character is U+FFFD in the text."""
    if tokenizer.byte_pieces is not None:
        piece = tokenizer.byte_pieces[token] if token < len(tokenizer.byte_pieces) else b""
        return piece.decode("utf-8", errors="replace"), list(piece)
    text = tokenizer.decode([token]) if token < tokenizer.vocabulary_size else ""
    return text, list(text.encode())
