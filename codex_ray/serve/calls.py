"""A request as engines take it: checked in form by the front, and plain enough for any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """Texts to be continued.

    Attributes:
        owner: whose it is, for fairness.
        adapter: what is added to the model, by name.
        prompts: texts or token ids; ``None`` where ``messages`` are given.
        messages: a chat, with ``tools`` for its template.
        choices: completions of each prompt.
        max_tokens: longest completion; None is what room there is.
        top: alternatives to be told with each token; None tells no tokens.
        echo: begin with the prompt's own text, and its tokens where tokens are told.
        schema: JSON schema that the text is held to.
        seed: None draws one.
        stream: whether text is wanted as it comes.
        seconds: until its deadline.
    """

    owner: str = ""
    adapter: str | None = None
    prompts: list[str] | list[list[int]] | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    choices: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top: int | None = None
    echo: bool = False
    schema: dict[str, Any] | None = None
    stream: bool = False
    seconds: float = 300.0
