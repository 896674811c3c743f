"""Our tokenizer: SentencePiece's model as :mod:`codex_ray.tokenizer.training` makes it, and fast encoding.

Text is encoded in parts that do not depend on each other: no piece of ours crosses from anything but a
space to a space, and mostly none crosses between letters and other characters. So

* BPE, whose cost SentencePiece pays anew for every word, looks words up that it has met: two to three times
  the speed on source code;
* unigram sums scores in parts short enough for SentencePiece's 32-bit floats to be exact, as
  ``tokenizer.json`` does in 64 bits: the two never choose differently between near-equal segmentations.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from codex_ray.errors import CodexRayError
from codex_ray.tokenizer.export import BPE, NORMAL, build_backend, read_model, write_folder
from codex_ray.tokenizer.tokenizer import Tokenizer, out_of_range, surrogate_error

_PROBE = "  a \u2581\t\r\n\0 \u00e9<s>"
"""Text that only a tokenizer like ours gives back: spaces, U+2581, controls, bytes, a special name."""

# Words between boundaries that depend on two neighbouring characters alone; the finer one serves better
# where the vocabulary allows it.
_WORDS = (re.compile(r" *[A-Za-z]+| *[^A-Za-z ]+| +"), re.compile(r" +[^ ]*|[^ ]+"))

_GROUP_CHARACTERS = 2**20
_KNOWN_CHARACTERS = 2**22

# Scores are multiples of 1/16 (training.py), so sums below 2**20 are exact in 24 bits of mantissa; a
# character costs at most the unknown character's score, 10 below the lowest piece's: under 64 in all.
_EXACT_CHARACTERS = 2**14
_PARTS = re.compile(rf"(?s).{{1,{_EXACT_CHARACTERS}}}(?:(?<=[^ ])(?= )|\Z)|.+?(?:(?<=[^ ])(?= )|\Z)")

_Encode = Callable[[Sequence[str], int], list[NDArray[np.uint32]]]


class PieceTokenizer(Tokenizer):
    """A SentencePiece tokenizer trained by this project."""

    byte_pieces: list[bytes]

    def __init__(self, data: bytes) -> None:
        """Make one from the content of ``tokenizer.model``."""
        model = read_model(data)
        self._data = data
        self._processor = SentencePieceProcessor(model_proto=data)
        self._pieces: list[str] = [piece.piece for piece in model.pieces]
        self.digest = hashlib.sha256(data).hexdigest()
        self.vocabulary_size = len(self._pieces)
        self.unk_id, self.bos_id, self.eos_id, self.pad_id = range(4)
        self.byte_pieces = [
            piece.piece.encode() if piece.type == NORMAL else _byte(piece.piece) for piece in model.pieces
        ]
        self._is_bpe = model.trainer_spec.model_type == BPE
        self._word = _word_pattern([piece.piece for piece in model.pieces if piece.type == NORMAL])
        self._known: dict[str, bytes] = {}
        self._room = _KNOWN_CHARACTERS

    @staticmethod
    def is_ours(data: bytes, path: Path) -> bool:
        """Tell whether a SentencePiece model is one of ours, by what it does.

        Raises:
            CodexRayError: it is no SentencePiece model.
        """
        try:
            processor = SentencePieceProcessor(model_proto=data)
        except RuntimeError:
            raise CodexRayError(
                f"{path} is not a SentencePiece model; it is damaged, train the tokenizer or export it again"
            ) from None
        ids = [processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id()]
        return ids == [0, 1, 2, 3] and processor.decode(processor.encode(_PROBE)) == _PROBE

    def encode_arrays(
        self, texts: Sequence[str], *, parse_special: bool = False, threads: int = 1
    ) -> list[NDArray[np.uint32]]:
        """See :meth:`Tokenizer.encode_arrays`."""
        encode = self._encode_words if self._is_bpe else self._encode_parts
        try:
            if parse_special:
                return [self._encode_parsed(text, encode) for text in texts]
            return [ids for group in _groups(texts) for ids in encode(group, threads)]
        except (TypeError, UnicodeEncodeError) as error:  # sentencepiece calls a lone surrogate a wrong type
            raise surrogate_error(texts) from error

    def decode(self, ids: Iterable[int]) -> str:
        """See :meth:`Tokenizer.decode`."""
        tokens = list(ids)
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.vocabulary_size:
            raise out_of_range(self.vocabulary_size, tokens)
        return b"".join(map(self.byte_pieces.__getitem__, tokens)).decode("utf-8", "replace")

    def vocabulary(self) -> list[str]:
        """See :meth:`Tokenizer.vocabulary`."""
        return list(self._pieces)

    @property
    def special_texts(self) -> list[str]:
        """See :attr:`Tokenizer.special_texts`."""
        return self._pieces[:4]

    @property
    def special_names(self) -> dict[str, str]:
        """See :attr:`Tokenizer.special_names`."""
        names = ("unk_token", "bos_token", "eos_token", "pad_token")
        return dict(zip(names, self.special_texts, strict=True))

    def save(self, folder: Path | str) -> None:
        """See :meth:`Tokenizer.save`."""
        write_folder(Path(folder), self._data)

    def _encode_words(self, texts: Sequence[str], threads: int) -> list[NDArray[np.uint32]]:
        words = [self._word.findall(text) for text in texts]
        known = self._known  # a name of its own: another thread may start a new table meanwhile
        new = list(set(chain.from_iterable(words)).difference(known))
        self._room -= sum(map(len, new))
        if self._room < 0:
            known = self._known = {}
            new = list(set(chain.from_iterable(words)))
            self._room = _KNOWN_CHARACTERS
        found = self._processor.encode(new, num_threads=threads)
        known.update(zip(new, (array("I", ids).tobytes() for ids in found), strict=True))
        return [np.frombuffer(b"".join(map(known.__getitem__, row)), dtype=np.uint32) for row in words]

    def _encode_parts(self, texts: Sequence[str], threads: int) -> list[NDArray[np.uint32]]:
        parts = [[text] if len(text) <= _EXACT_CHARACTERS else _PARTS.findall(text) for text in texts]
        short = [part for row in parts for part in row if len(part) <= _EXACT_CHARACTERS]
        found = iter(self._processor.encode_as_numpy(short, num_threads=threads))
        encoded = [
            [next(found) if len(part) <= _EXACT_CHARACTERS else self._encode_long(part) for part in row]
            for row in parts
        ]
        return [np.concatenate(row).astype(np.uint32) for row in encoded]

    def _encode_long(self, part: str) -> NDArray[np.int32]:
        return np.array(self._backend.encode(part, add_special_tokens=False).ids, dtype=np.int32)

    def _encode_parsed(self, text: str, encode: _Encode) -> NDArray[np.uint32]:
        special = {self._pieces[token]: token for token in range(4)}
        parts = re.split(f"({'|'.join(map(re.escape, special))})", text)
        found = iter(encode([part for part in parts if part not in special], 1))
        return np.concatenate(
            [np.array([special[part]], dtype=np.uint32) if part in special else next(found) for part in parts]
        )

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        return build_backend(read_model(self._data))


def _byte(piece: str) -> bytes:
    """Return the byte that a piece such as ``<0x41>`` stands for; special tokens stand for none."""
    return bytes.fromhex(piece[3:5]) if piece.startswith("<0x") else b""


def _word_pattern(pieces: Iterable[str]) -> re.Pattern[str]:
    """Return the finest way to cut text into words that cuts no piece."""
    whole = list(pieces)
    for pattern in _WORDS:
        if all(len(pattern.findall(piece)) == 1 for piece in whole):
            return pattern
    return re.compile(r"(?s).+")


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut a batch into runs of about a million characters, to bound the memory in use at a time."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= _GROUP_CHARACTERS:
            yield texts[start : number + 1]
            start, size = number + 1, 0
    if start < len(texts):
        yield texts[start:]
