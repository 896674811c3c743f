"""Any tokenizer that Transformers knows, behind the methods of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable
from codex_ray.tokenizer.tokenizer import Tokenizer, out_of_range, surrogate_error


class ForeignTokenizer(Tokenizer):
    """A tokenizer made elsewhere, through ``AutoTokenizer``.

    Whether decoding gives back the text that was encoded, is up to it.
    """

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer of a folder, without network.

        Raises:
            CodexRayError: it cannot be loaded.
        """
        self._tokenizer = _load(folder)
        tokenizer = self._tokenizer
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.vocabulary_size = max(vocabulary.values(), default=-1) + 1
        self.bos_id, self.eos_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pad_id, self.unk_id = tokenizer.pad_token_id, tokenizer.unk_token_id
        self.byte_pieces = None
        backend = getattr(tokenizer, "backend_tokenizer", None)
        definition = backend.to_str() if backend is not None else json.dumps(sorted(vocabulary.items()))
        self.digest = hashlib.sha256(definition.encode()).hexdigest()

    def encode_arrays(
        self, texts: Sequence[str], *, parse_special: bool = False, threads: int = 1
    ) -> list[NDArray[np.uint32]]:
        """See :meth:`Tokenizer.encode_arrays`; how many threads work is up to the ``tokenizers`` library."""
        if not texts:
            return []
        try:
            found = self._tokenizer(
                list(texts),
                add_special_tokens=False,
                split_special_tokens=not parse_special,
                return_attention_mask=False,
                verbose=False,
            )
        except (TypeError, UnicodeEncodeError) as error:
            raise surrogate_error(texts) from error
        return [np.array(ids, dtype=np.uint32) for ids in found["input_ids"]]

    def decode(self, ids: Iterable[int]) -> str:
        """See :meth:`Tokenizer.decode`."""
        tokens = [int(token) for token in ids]
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.vocabulary_size:
            raise out_of_range(self.vocabulary_size, tokens)
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def vocabulary(self) -> list[str]:
        """See :meth:`Tokenizer.vocabulary`; an id that stands for nothing has an empty piece."""
        pieces = self._tokenizer.convert_ids_to_tokens(list(range(self.vocabulary_size)))
        return [piece or "" for piece in pieces]

    @property
    def special_texts(self) -> list[str]:
        """See :attr:`Tokenizer.special_texts`."""
        added = self._tokenizer.added_tokens_decoder.values()
        return sorted({*self._tokenizer.all_special_tokens, *(token.content for token in added)})

    @property
    def special_names(self) -> dict[str, str]:
        """See :attr:`Tokenizer.special_names`."""
        found = self._tokenizer.special_tokens_map
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {name: str(found.get(name) or "") for name in names}

    def save(self, folder: Path | str) -> None:
        """See :meth:`Tokenizer.save`."""
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._tokenizer.save_pretrained(str(folder))
        except OSError as error:
            raise unwritable(Path(folder), error) from error


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        # Left unset, trust_remote_code makes it ask on the terminal, and wait, where a model brings code.
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (
        Exception
    ) as error:  # transformers and tokenizers raise bare Exception for damaged files, among others
        reason = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise CodexRayError(
            f"the tokenizer in {folder} cannot be loaded ({reason.rstrip('.:')}); it is damaged or of a kind "
            "that Transformers does not know, export it again"
        ) from error
