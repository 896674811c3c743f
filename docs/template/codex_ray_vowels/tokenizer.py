"""A tokenizer of bytes: ids 0 to 255 are bytes, 256 begins and 257 ends a text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codex_ray.tokenizer import Tokenizer


class Bytes(Tokenizer):
    """Every byte of UTF-8 is a token; nothing needs to be kept in its folder."""

    vocabulary_size, bos_id, eos_id, pad_id, unk_id = 258, 256, 257, 257, None
    digest = hashlib.sha256(b"codex_ray_vowels.Bytes 1").hexdigest()
    byte_pieces = None

    def __init__(self, folder: Path | None = None) -> None:
        """Nothing is read."""

    def encode_arrays(
        self, texts: Sequence[str], *, parse_special: bool = False, threads: int = 1
    ) -> list[NDArray[np.uint32]]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(token for token in ids if token < 256).decode("utf-8", "replace")

    def vocabulary(self) -> list[str]:
        return [f"<0x{byte:02X}>" for byte in range(256)] + ["<s>", "</s>"]

    @property
    def special_texts(self) -> list[str]:
        return []

    @property
    def special_names(self) -> dict[str, str]:
        return {}
