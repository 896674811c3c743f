"""Texts and chats as the ids that a model reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError
from codex_ray.rollout.generate import prompt_ids
from codex_ray.serve.calls import Call
from codex_ray.serve.errors import ApiError
from codex_ray.tokenizer import Tokenizer
from codex_ray.tokenizer.chat import TemplateFailure
from codex_ray.tokenizer.conversation import ChatTemplate


class Prompts:
    """Encodes by a model's tokenizer and the chat template in its folder; never by one from a request."""

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate.of(tokenizer, folder)

    @property
    def digest(self) -> str:
        """Names the tokenizer and the template."""
        return hashlib.sha256(f"{self._tokenizer.digest}{self._template.text}".encode()).hexdigest()[:12]

    def encode(self, call: Call) -> list[list[int]]:
        """Return the ids of each prompt, or of the chat up to where the assistant begins.

        Raises:
            ApiError: the template refuses the chat, or a text is no Unicode.
        """
        try:
            if call.messages is not None:
                return [self._chat(call.messages, call.tools)]
            prompts: list[Any] = list(call.prompts or [])
            if prompts and isinstance(prompts[0], str):
                return prompt_ids(self._tokenizer, prompts)
            return [list(ids) for ids in prompts]
        except CodexRayError as error:
            raise ApiError(400, str(error), param="messages" if call.messages else "prompt") from error

    def _chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> list[int]:
        try:
            return self._template.prompt(messages, tools)
        except TemplateFailure as error:
            raise ApiError(
                400, f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
