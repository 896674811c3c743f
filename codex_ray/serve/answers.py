"""Answers in the types of the ``openai`` package, whole and as chunks of a stream."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from openai.types import (
    Completion,
    CompletionChoice,
    CompletionUsage,
    CreateEmbeddingResponse,
    Embedding,
    Model,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat import chat_completion as whole
from openai.types.chat import chat_completion_chunk as chunks
from openai.types.chat.chat_completion_message_function_tool_call import (
    ChatCompletionMessageFunctionToolCall,
    Function,
)
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel

from codex_ray.serve.events import Entry
from codex_ray.serve.ids import random_hex
from codex_ray.serve.tool_calls import ToolCalled

DONE = b"data: [DONE]\n\n"


def usage_of(prompt_tokens: int, drawn: int) -> CompletionUsage:
    """Count tokens."""
    return CompletionUsage(
        prompt_tokens=prompt_tokens, completion_tokens=drawn, total_tokens=prompt_tokens + drawn
    )


def plain(answer: BaseModel) -> dict[str, Any]:
    """An answer as JSON's values: what was set, null included, and nothing else."""
    return answer.model_dump(mode="json", exclude_unset=True, warnings=False)


def packed(answer: BaseModel) -> bytes:
    """The same as JSON's text."""
    return answer.model_dump_json(exclude_unset=True, warnings=False).encode()


def event(answer: BaseModel) -> bytes:
    """An answer as a server-sent event."""
    return b"data: " + packed(answer) + b"\n\n"


class TextEvents:
    """Events of plain text: those of one choice differ by their text alone, so a first one is the mould."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self._ends = answer, dict[int, list[bytes]]()

    def event(self, index: int, text: str) -> bytes:
        """A choice's text as a server-sent event."""
        ends = self._ends.get(index)
        if ends is None:
            place = random_hex(32)  # nothing else in it
            whole = event(self._answer.piece(index, place, None))
            ends = self._ends[index] = whole.split(place.encode())
        return ends[0] + json.dumps(text, ensure_ascii=False)[1:-1].encode() + ends[1]


Parts = tuple[str, list[Entry] | None, str, list[ToolCalled]]
"""Of one choice: its text, its tokens, the reason of its end, its calls of tools."""


class Answer(Protocol):
    """Makes the parts of one answer."""

    def opening(self, index: int) -> BaseModel | None:
        """The chunk that begins a choice, where there is one."""

    def piece(self, index: int, text: str, entries: Sequence[Entry] | None) -> BaseModel:
        """A chunk of text."""

    def calls(self, index: int, calls: Sequence[ToolCalled]) -> BaseModel:
        """The chunk of a choice's calls of tools."""

    def closing(self, index: int, reason: str) -> BaseModel:
        """The chunk that ends a choice."""

    def usage(self, usage: CompletionUsage) -> BaseModel:
        """The chunk that counts tokens."""

    def whole(self, choices: Mapping[int, Parts], usage: CompletionUsage) -> BaseModel:
        """All of it, by choice."""


class ChatAnswer:
    """Of ``/v1/chat/completions``; ``with_usage`` is for streams that end with their usage."""

    def __init__(self, model: str, fingerprint: str, *, with_usage: bool = False) -> None:
        self._common: dict[str, Any] = {
            "id": f"chatcmpl-{random_hex(32)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._extra: dict[str, Any] = {"usage": None} if with_usage else {}

    def _chunk(
        self, index: int, delta: chunks.ChoiceDelta, entries: Sequence[Entry] | None, reason: Any
    ) -> BaseModel:
        logprobs = None
        if entries is not None:
            logprobs = chunks.ChoiceLogprobs(content=_chat_tokens(entries), refusal=None)
        choice = chunks.Choice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)
        return ChatCompletionChunk(
            object="chat.completion.chunk", choices=[choice], **self._common, **self._extra
        )

    def opening(self, index: int) -> BaseModel | None:
        """The role."""
        return self._chunk(index, chunks.ChoiceDelta(role="assistant", content=""), None, None)

    def piece(self, index: int, text: str, entries: Sequence[Entry] | None) -> BaseModel:
        """See :class:`Answer`."""
        return self._chunk(index, chunks.ChoiceDelta(content=text), entries, None)

    def calls(self, index: int, calls: Sequence[ToolCalled]) -> BaseModel:
        """See :class:`Answer`."""
        found = [
            chunks.ChoiceDeltaToolCall(
                index=place,
                id=one.identity,
                type="function",
                function=chunks.ChoiceDeltaToolCallFunction(name=one.name, arguments=one.arguments),
            )
            for place, one in enumerate(calls)
        ]
        return self._chunk(index, chunks.ChoiceDelta(tool_calls=found), None, None)

    def closing(self, index: int, reason: str) -> BaseModel:
        """See :class:`Answer`."""
        return self._chunk(index, chunks.ChoiceDelta(), None, reason)

    def usage(self, usage: CompletionUsage) -> BaseModel:
        """See :class:`Answer`."""
        return ChatCompletionChunk(object="chat.completion.chunk", choices=[], usage=usage, **self._common)

    def whole(self, choices: Mapping[int, Parts], usage: CompletionUsage) -> BaseModel:
        """See :class:`Answer`."""
        found = [
            whole.Choice(
                index=index,
                message=_message(text, calls),
                finish_reason=reason,  # type: ignore[arg-type]
                logprobs=None
                if entries is None
                else whole.ChoiceLogprobs(content=_chat_tokens(entries), refusal=None),
            )
            for index, (text, entries, reason, calls) in sorted(choices.items())
        ]
        return ChatCompletion(object="chat.completion", choices=found, usage=usage, **self._common)


def _message(text: str, calls: Sequence[ToolCalled]) -> ChatCompletionMessage:
    if not calls:
        return ChatCompletionMessage(role="assistant", content=text, refusal=None)
    found: list[Any] = [
        ChatCompletionMessageFunctionToolCall(
            id=one.identity, type="function", function=Function(name=one.name, arguments=one.arguments)
        )
        for one in calls
    ]
    return ChatCompletionMessage(role="assistant", content=text or None, refusal=None, tool_calls=found)


def _chat_tokens(entries: Sequence[Entry]) -> list[ChatCompletionTokenLogprob]:
    return [
        ChatCompletionTokenLogprob(
            token=entry.text,
            bytes=entry.bytes,
            logprob=0.0 if entry.logprob is None else entry.logprob,
            top_logprobs=[
                TopLogprob(token=one.text, bytes=one.bytes, logprob=one.logprob) for one in entry.top
            ],
        )
        for entry in entries
    ]


class CompletionAnswer:
    """Of ``/v1/completions``; ``with_usage`` is for streams that end with their usage."""

    def __init__(self, model: str, fingerprint: str, *, with_usage: bool = False) -> None:
        self._common: dict[str, Any] = {
            "id": f"cmpl-{random_hex(32)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._extra: dict[str, Any] = {"usage": None} if with_usage else {}
        self._lengths: dict[int, int] = {}  # characters of each choice's tokens so far

    def opening(self, index: int) -> BaseModel | None:
        """None: text begins at once."""
        return None

    def piece(self, index: int, text: str, entries: Sequence[Entry] | None) -> BaseModel:
        """See :class:`Answer`."""
        return self._chunk(self._choice(index, text, entries, None))

    def calls(self, index: int, calls: Sequence[ToolCalled]) -> BaseModel:
        """None: completions have no tools."""
        raise NotImplementedError

    def closing(self, index: int, reason: str) -> BaseModel:
        """See :class:`Answer`."""
        return self._chunk(self._choice(index, "", None, reason))

    def usage(self, usage: CompletionUsage) -> BaseModel:
        """See :class:`Answer`."""
        return Completion(choices=[], usage=usage, **self._common)

    def whole(self, choices: Mapping[int, Parts], usage: CompletionUsage) -> BaseModel:
        """See :class:`Answer`."""
        found = [self._choice(index, *parts[:3]) for index, parts in sorted(choices.items())]
        return Completion(choices=found, usage=usage, **self._common)

    def _chunk(self, choice: CompletionChoice) -> BaseModel:
        # Not validated: the type of a whole answer demands a reason, which a stream has at its end alone.
        return Completion.model_construct(choices=[choice], **self._common, **self._extra)

    def _choice(
        self, index: int, text: str, entries: Sequence[Entry] | None, reason: str | None
    ) -> CompletionChoice:
        logprobs = None if entries is None else self._tokens(index, entries)
        build = CompletionChoice if reason is not None else CompletionChoice.model_construct
        return build(index=index, text=text, logprobs=logprobs, finish_reason=reason)  # type: ignore[arg-type]

    def _tokens(self, index: int, entries: Sequence[Entry]) -> Logprobs:
        place, offsets = self._lengths.get(index, 0), []
        for entry in entries:
            offsets.append(place)
            place += len(entry.text)
        self._lengths[index] = place
        values: dict[str, Any] = {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [_alternatives(entry) for entry in entries],
            "text_offset": offsets,
        }
        # Not validated: OpenAI's own answers have null for a prompt's first token, which its types do not.
        return Logprobs.model_construct(**values)


def _alternatives(entry: Entry) -> dict[str, float] | None:
    """The likeliest tokens by text, and the token itself; of several with one text, the likeliest."""
    if entry.logprob is None:
        return None
    found = {entry.text: entry.logprob}
    for one in entry.top:
        found[one.text] = max(one.logprob, found.get(one.text, one.logprob))
    return found


def embeddings(
    model: str, vectors: Sequence[Sequence[float]], tokens: int, *, packed: bool
) -> dict[str, Any]:
    """The answer of ``/v1/embeddings``; ``packed`` is base64 of little-endian float32."""
    data = [
        Embedding(object="embedding", index=index, embedding=list(vector))
        for index, vector in enumerate(vectors)
    ]
    usage: Any = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = plain(CreateEmbeddingResponse(object="list", data=data, model=model, usage=usage))
    if packed:
        for one in answer["data"]:
            values = one["embedding"]
            one["embedding"] = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return answer


def model_card(name: str, created: int, longest: int, root: str) -> dict[str, Any]:
    """A model of ``/v1/models``, with its longest sequence and its folder as vLLM names them."""
    return {
        **plain(Model(id=name, object="model", created=created, owned_by="codex_ray")),
        "max_model_len": longest,
        "root": root,
    }
