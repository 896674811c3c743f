"""Holding completions to a regular expression: which tokens may come next.

Tokens are bytes, and an automaton over bytes says after each whether there is still a way to a match. What
may come next in a state of the automaton is found once, by going through all tokens, beginnings that they
share once, and kept.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.rollout.regular import DEAD, Automaton
from codex_ray.tokenizer import Tokenizer

MASK_BYTES = 2**28
"""Of masks that are kept, one byte for every token of the vocabulary each; the oldest are made again."""


@dataclass
class _Node:
    """Tokens that begin alike: those that end here, and where another byte leads."""

    tokens: list[int] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)


class Vocabulary:
    """The tokens of a model by their bytes.

    Args:
        tokenizer: names them.
        size: rows of the model's output, those without a token included.
        end_ids: tokens that end a completion.

    Raises:
        ConfigError: the tokens are not bytes of their own, or none ends a completion.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: frozenset[int]) -> None:
        if not end_ids:
            raise ConfigError("regex needs a token that ends a completion and this model names none")
        self.size, self.end_ids = size, sorted(end_ids)
        self.pieces = token_bytes(tokenizer)
        self.root = _Node()
        for token, piece in enumerate(self.pieces):
            node = self.root
            for byte in piece:
                node = node.children.setdefault(byte, _Node())
            if piece and token not in end_ids:
                node.tokens.append(token)


class Grammar:
    """A pattern over the tokens of one vocabulary; states are the automaton's.

    Args:
        pattern: see :class:`~codex_ray.rollout.regular.Automaton`.
        vocabulary: the tokens.
    """

    def __init__(self, pattern: str, vocabulary: Vocabulary) -> None:
        self._pattern, self._vocabulary = pattern, vocabulary
        self._automaton = Automaton(pattern)
        self._masks: OrderedDict[int, Tensor] = OrderedDict()

    def next(self, state: int, token: int) -> int:
        """The state after a token that :meth:`forbidden` allows; the end tokens change nothing."""
        if token in self._vocabulary.end_ids:
            return state
        for byte in self._vocabulary.pieces[token]:
            state = self._automaton.next(state, byte)
        return state

    def forbidden(self, state: int) -> Tensor:
        """Which tokens may not come next, bool ``[V]``; the end token may where there is a whole match.

        Raises:
            CodexRayError: no token may.
        """
        found = self._masks.get(state)
        if found is None:
            found = self._masks[state] = self._find(state)
            if len(self._masks) * self._vocabulary.size > MASK_BYTES and len(self._masks) > 1:
                self._masks.popitem(last=False)
        return found

    def _find(self, state: int) -> Tensor:
        allowed = list(self._vocabulary.end_ids) if self._automaton.ends(state) else []
        left = [(self._vocabulary.root, state)]
        while left:
            node, reached = left.pop()
            allowed += node.tokens
            for byte, child in node.children.items():
                after = self._automaton.next(reached, byte)
                if after != DEAD:
                    left.append((child, after))
        if not allowed:
            raise CodexRayError(
                f"no token of this model goes on with a match of regex {self._pattern!r}; "
                "use characters that its tokenizer has"
            )
        forbidden_V = torch.ones(self._vocabulary.size, dtype=torch.bool)
        forbidden_V[torch.tensor(allowed)] = False
        return forbidden_V


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token, none for special tokens.

    Raises:
        ConfigError: a foreign tokenizer whose tokens are not bytes of their own (byte-level BPE's are).
    """
    if tokenizer.byte_pieces is not None:
        return tokenizer.byte_pieces
    backend = getattr(getattr(tokenizer, "_tokenizer", None), "backend_tokenizer", None)
    definition = json.loads(backend.to_str()) if backend is not None else {}
    if "ByteLevel" not in json.dumps(definition.get("decoder")):
        raise ConfigError(
            "regex needs tokens that are bytes of their own, as ours and byte-level BPE's are, and here "
            "a token's text depends on its neighbours; use a callable for `adjust` instead"
        )
    added = {entry["id"] for entry in definition.get("added_tokens", [])}
    special = {entry["id"] for entry in definition.get("added_tokens", []) if entry["special"]}
    byte_of = _byte_level()
    pieces = []
    for token, piece in enumerate(tokenizer.vocabulary()):
        if token in added:
            pieces.append(b"" if token in special else piece.encode())
        else:
            pieces.append(bytes(byte_of[character] for character in piece))
    return pieces


def _byte_level() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others follow at 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
