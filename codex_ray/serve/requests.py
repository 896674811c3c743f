"""Requests as OpenAI's clients send them, checked strictly: no conversion, no unknown field passed over.

Fields that change nothing here (``user``, ``metadata``, ...) are taken; those that would change the answer
and are not supported are refused by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2**20)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Prompt = Annotated[list[Token], Field(max_length=2**20)]

STOPS, STOP_LENGTH, BIASES, TOP = 16, 256, 1024, 20
"""Most stop strings, characters of one, biased tokens, and alternatives of a token."""

DEEPEST = 64
"""Levels of values within values: schemas and tools are handed on by recursion."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    user: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _shallow(cls, request: Any) -> Any:
        level = [request]
        for _ in range(DEEPEST):
            inner = [
                one.values() if isinstance(one, dict) else one
                for one in level
                if isinstance(one, dict | list)
            ]
            level = [value for values in inner for value in values]
            if not level:
                return request
        raise ValueError(f"values lie more than {DEEPEST} deep in one another")


class StreamOptions(BaseModel):
    """What a stream has besides text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampled(_Request):
    """What completions and chats have in common."""

    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**20)] | None = None
    min_p: Annotated[Number, Field(ge=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=BIASES)] | None
    ) = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > STOPS or any(not 0 < len(word) <= STOP_LENGTH for word in stops):
            raise ValueError(f"at most {STOPS} strings of 1 to {STOP_LENGTH} characters")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for token in bias or {}:
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise ValueError(f"keys are token ids as text, not {token[:32]!r}")
        return bias

    @model_validator(mode="after")
    def _options_of_streams(self) -> Sampled:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream=true")
        return self

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampled(self) -> dict[str, Any]:
        """The settings that a call takes as they are."""
        return {
            "choices": self.n or 1,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": self.top_k or 0,
            "min_p": self.min_p or 0.0,
            "seed": self.seed,
            "stop": self.stops,
            "bias": {int(token): value for token, value in (self.logit_bias or {}).items()},
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "stream": bool(self.stream),
        }


class CompletionRequest(Sampled):
    """Of ``/v1/completions``."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Prompt
        | Annotated[list[Prompt], Field(min_length=1)]
    )
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> CompletionRequest:
        if self.suffix:
            raise ValueError("suffix is not supported: models here continue text, and fill none in")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is supported only where it equals n")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens=0 makes sense with echo=true only")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or more, as a list."""
        return _listed(self.prompt)


def _listed(given: Any) -> list[str] | list[list[int]]:
    """One text or row of ids, or several, as several."""
    one = isinstance(given, str) or not given or isinstance(given[0], int)
    return [given] if one else list(given)


class Part(BaseModel):
    """A part of a message's content: text."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text


class Function(BaseModel):
    """A function by its name, with whatever describes it."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Annotated[str, Field(min_length=1, max_length=256)]


class Tool(BaseModel):
    """A function that the model is told of."""

    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: Function


class ToolCall(BaseModel):
    """A call of a function, by the assistant."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: Annotated[str, Field(max_length=256)] | None = None
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as templates take it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        found: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": text,
        }
        found |= {key: value for key in ("name", "tool_call_id") if (value := getattr(self, key))}
        if self.tool_calls:
            found["tool_calls"] = [_with_arguments(call.model_dump()) for call in self.tool_calls]
        return found


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as values, which templates write themselves."""
    arguments = call["function"].get("arguments")
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**call["function"], "arguments": read}}


class ResponseFormat(BaseModel):
    """What an answer is to look like."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and not isinstance((self.json_schema or {}).get("schema"), dict):
            raise ValueError("json_schema needs an object under `schema`")
        return self

    @property
    def schema_of_text(self) -> dict[str, Any] | None:
        """The JSON schema of the text, where there is one."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema["schema"]


class ChatRequest(Sampled):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        return self


class EmbeddingRequest(_Request):
    """Of ``/v1/embeddings``."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[Prompt, Field(min_length=1)]
        | Annotated[list[Prompt], Field(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """One or more, as a list."""
        return _listed(self.input)


class TokenizeRequest(_Request):
    """Of ``/tokenize``: a prompt, or messages."""

    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        return self


class DetokenizeRequest(_Request):
    """Of ``/detokenize``."""

    tokens: Prompt


class Preference(_Request):
    """Of ``/v1/feedback``: of two answers, the one that is preferred, and how its user said so."""

    messages: Annotated[list[Message], Field(min_length=1)]
    chosen: Annotated[str, Field(min_length=1, max_length=2**18)]
    rejected: Annotated[str, Field(min_length=1, max_length=2**18)]
    how: Literal["rated", "edited", "regenerated"]
    consent: Literal[True]

    @model_validator(mode="after")
    def _differs(self) -> Preference:
        if self.chosen.strip() == self.rejected.strip():
            raise ValueError("chosen and rejected are the same")
        if not self.chosen.strip() or not self.rejected.strip():
            raise ValueError("chosen and rejected must hold text")
        if self.messages[-1].role != "user":
            raise ValueError("messages must end with the user's")
        return self
