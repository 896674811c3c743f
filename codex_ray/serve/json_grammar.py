"""Holding a text to a JSON schema, by llguidance: after each token it says which may come next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codex_ray.serve.errors import ApiError
from codex_ray.tokenizer import Tokenizer

LONGEST_SCHEMA = 65_536
"""Characters of a schema as JSON; checked before it is compiled."""

LARGEST_GRAMMAR, LEXER_STATES = 50_000, 50_000
"""Symbols of a grammar, and states of its lexer, of 1 to 2 kB each."""


class JsonGrammars:
    """Grammars over the tokens of one model.

    Args:
        tokenizer: names the tokens.
        size: rows of the model's output.
        end_ids: tokens that end a completion.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: frozenset[int]) -> None:
        self._tokenizer, self._size, self._end_ids = tokenizer, size, sorted(end_ids)

    @cached_property
    def _tokens(self) -> Any:
        from llguidance import LLTokenizer

        backend = getattr(getattr(self._tokenizer, "_tokenizer", None), "backend_tokenizer", None)
        if self._tokenizer.byte_pieces is None and backend is None:
            raise ApiError(400, "this model's tokenizer cannot be held to a schema", param="response_format")
        source = backend.to_str() if backend is not None else _Pieces(self._tokenizer).wrapped()
        return LLTokenizer(source, n_vocab=self._size, eos_token=self._end_ids)

    def compile(self, schema: dict[str, Any]) -> JsonGrammar:
        """Make the grammar of a schema.

        Raises:
            ApiError: the schema is too large, wrong, or asks for what cannot be held to.
        """
        from llguidance import LLMatcher, LLParserLimits

        text = json.dumps(schema)
        if len(text) > LONGEST_SCHEMA:
            raise ApiError(
                400,
                f"the schema has {len(text)} characters and at most {LONGEST_SCHEMA} are taken",
                param="response_format",
            )
        limits = LLParserLimits(max_grammar_size=LARGEST_GRAMMAR, max_lexer_states=LEXER_STATES)
        try:
            matcher = LLMatcher(
                self._tokens,
                LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": False}),
                log_level=0,
                limits=limits,
            )
            refusal = matcher.get_error() if matcher.is_error() else ""
        except ValueError as error:
            refusal = str(error)
        if refusal:
            reason = " ".join(refusal.split())[:300]
            raise ApiError(
                400, f"the schema cannot be held to: {reason}", param="response_format", code="invalid_schema"
            )
        return JsonGrammar(matcher, self._size)


class JsonGrammar:
    """Where one text is in a grammar."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher, self._size = matcher, size

    def copy(self) -> JsonGrammar:
        """The same grammar for another text, at the same place."""
        return JsonGrammar(self._matcher.deep_copy(), self._size)

    def forbidden(self, new: Sequence[int]) -> Tensor:
        """Which tokens may not come after the new ones, bool ``[V]``.

        Raises:
            RuntimeError: the matcher gave up, as with a schema whose texts it cannot follow any further.
        """
        if new and not self._matcher.consume_tokens(list(new)):
            raise RuntimeError(f"the schema cannot be followed further: {self._matcher.get_error()}")
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise RuntimeError(f"the schema cannot be followed further: {self._matcher.get_error()}")
        allowed = np.unpackbits(bits, bitorder="little")[: self._size]
        return torch.from_numpy(allowed == 0)


class _Pieces:
    """Our tokenizer as llguidance wants one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.byte_pieces is not None and tokenizer.eos_id is not None
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self.tokens = list(tokenizer.byte_pieces)
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", errors="replace"))

    def wrapped(self) -> Any:
        from llguidance import TokenizerWrapper

        return TokenizerWrapper(self)
