"""What a tokenizer does, whoever made it: encode, decode, pad, save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codex_ray.errors import CodexRayError
from codex_ray.files import read_json, write_json
from codex_ray.plugins import VARIABLE, brought, find

SCHEME = "component:"
COMPONENT_FILE = "codex_ray_tokenizer.json"
MODEL_FILE = "tokenizer.model"
"""SentencePiece's model: pieces, scores and training settings."""


class Tokenizer(ABC):
    """Text to token ids and back. :meth:`load` makes one from a folder.

    Attributes:
        component: the name that it goes by, where a package brings it.
        vocabulary_size: number of ids; every id is below it.
        unk_id, bos_id, eos_id, pad_id: special tokens, ours 0 to 3; ``None`` where a tokenizer has none.
        digest: SHA-256 that names this tokenizer: of ``tokenizer.model``, or of a foreign one's definition.
        byte_pieces: for ours the UTF-8 bytes of every id (empty for special tokens): decoding is their
            concatenation. ``None`` for a foreign tokenizer, whose decoding may depend on neighbours.
    """

    component: str | None = None
    vocabulary_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    digest: str
    byte_pieces: list[bytes] | None

    @staticmethod
    def load(folder: Path | str) -> Tokenizer:
        """Load ours, or any that Transformers' ``AutoTokenizer`` knows, without network.

        Args:
            folder: tokenizer or model folder; a corpus (its ``tokenizer/``) or a run (its ``model/``); or
                ``component:NAME``, of one that a package brings.

        Raises:
            CodexRayError: there is no tokenizer, or it is damaged.
        """
        from codex_ray.tokenizer.foreign import ForeignTokenizer
        from codex_ray.tokenizer.pieces import PieceTokenizer

        if str(folder).startswith(SCHEME):
            return _brought(str(folder).removeprefix(SCHEME), None)
        found = _find(Path(folder).expanduser())
        marker = found / COMPONENT_FILE
        if marker.is_file():
            return _brought(str(read_json(marker, "name of a tokenizer").get("component")), found)
        model = found / MODEL_FILE
        if model.is_file():
            try:
                data = model.read_bytes()
            except OSError as error:
                raise CodexRayError(f"{model} cannot be read ({error.strerror}); check its rights") from error
            if PieceTokenizer.is_ours(data, model):
                return PieceTokenizer(data)
        return ForeignTokenizer(found)

    @abstractmethod
    def encode_arrays(
        self, texts: Sequence[str], *, parse_special: bool = False, threads: int = 1
    ) -> list[NDArray[np.uint32]]:
        """Encode texts to arrays of ids, without adding special tokens.

        Args:
            texts: any Unicode text. What looks like a special token in it is text.
            parse_special: read special tokens written in the text as themselves. Only for text that this
                program wrote: in a user's text it lets the user end the text.
            threads: threads that encode.

        Raises:
            CodexRayError: a text holds a lone surrogate, which is no Unicode text.
        """

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids: special tokens have none, and bytes that are no UTF-8 become U+FFFD.

        Raises:
            CodexRayError: an id is not of this tokenizer.
        """

    @abstractmethod
    def vocabulary(self) -> list[str]:
        """Return the piece of every id, in order; a byte is written ``<0x41>``."""

    @property
    @abstractmethod
    def special_texts(self) -> list[str]:
        """What special tokens look like in text."""

    @property
    @abstractmethod
    def special_names(self) -> dict[str, str]:
        """The texts that chat templates know by name, such as ``eos_token``; empty where there is none."""

    def save(self, folder: Path | str) -> None:
        """Write the files that make ``folder`` a tokenizer for :meth:`load` and for ``AutoTokenizer``.

        One that a package brings is made with such a folder, or with None, and writes beside this file, which
        names it, what it needs; ``AutoTokenizer`` does not know it.

        Raises:
            CodexRayError: the folder cannot be written.
        """
        write_json(Path(folder) / COMPONENT_FILE, {"component": self.component})

    def encode_batch(
        self, texts: Sequence[str], *, parse_special: bool = False, threads: int = 1
    ) -> list[list[int]]:
        """Encode texts as :meth:`encode_arrays` does, to lists of ids."""
        return [
            ids.tolist() for ids in self.encode_arrays(texts, parse_special=parse_special, threads=threads)
        ]

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Encode one text as :meth:`encode_arrays` does."""
        return self.encode_batch([text], parse_special=parse_special)[0]

    def pad_batch(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        length: int | None = None,
        side: str = "right",
        truncate_side: str = "right",
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Make sequences equally long.

        Args:
            sequences: ids per row.
            length: columns of the result; ``None`` takes the longest sequence's.
            side: where padding goes, ``left`` or ``right``.
            truncate_side: which end of a longer sequence is cut off.

        Returns:
            ids and mask, both [rows, length]; the mask is 1 where a token is. A tokenizer without a padding
            token pads with its end token: the mask alone says what is padding.
        """
        if length is None:
            length = max(map(len, sequences), default=0)
        padding = self.pad_id if self.pad_id is not None else self.eos_id or 0
        ids = np.full((len(sequences), length), padding, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            kept = (
                sequence[max(0, len(sequence) - length) :] if truncate_side == "left" else sequence[:length]
            )
            columns = slice(length - len(kept), length) if side == "left" else slice(0, len(kept))
            ids[row, columns] = kept
            mask[row, columns] = 1
        return ids, mask

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of ``bos``, ``eos`` and ``pad`` for a model's configuration.

        The end token stands in for one that a tokenizer does not have.

        Raises:
            CodexRayError: there is not even an end token.
        """
        if self.eos_id is None:
            raise CodexRayError(
                "the tokenizer has no end-of-text token, which a model needs to end; "
                "name one as eos_token in its tokenizer_config.json"
            )
        bos, pad = (self.eos_id if value is None else value for value in (self.bos_id, self.pad_id))
        return {"bos": bos, "eos": self.eos_id, "pad": pad}

    def bytes_per_token(self, texts: Iterable[str]) -> float:
        """Return how many UTF-8 bytes of ``texts`` a token holds on average; 0 for no text."""
        size = tokens = 0
        for text in texts:
            size += len(text.encode())
            tokens += len(self.encode_arrays([text])[0])
        return size / tokens if tokens else 0.0


def surrogate_error(texts: Sequence[str]) -> CodexRayError:
    """Say which of ``texts`` cannot be encoded as UTF-8, and where."""
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return CodexRayError(
                f"text {number} holds a lone surrogate (U+{ord(text[error.start]):04X} at character "
                f"{error.start}), which is not Unicode text; read it with errors='replace', or remove it"
            )
    raise ValueError("all texts are Unicode text")


def out_of_range(vocabulary_size: int, ids: Sequence[int]) -> CodexRayError:
    """Say which of ``ids`` a tokenizer does not have."""
    wrong = next(token for token in ids if not 0 <= token < vocabulary_size)
    return CodexRayError(
        f"token id {wrong} is not one of this tokenizer's (0 to {vocabulary_size - 1}); "
        "decode with the tokenizer that encoded"
    )


def _brought(name: str, folder: Path | None) -> Tokenizer:
    """Return the tokenizer that a name stands for, which folders hold; a dotted path has to be given one."""
    if name not in brought("tokenizers"):
        raise CodexRayError(
            f"the tokenizer {'component:' if folder is None else f'in {folder} is '}{name!r} is none that "
            f"a package here brings; install the one that does, or give it a name in {VARIABLE}"
        )
    build = find("tokenizers", name, "tokenizer.path")
    try:
        made: Tokenizer = build(folder)
    except Exception as error:
        raise CodexRayError(
            f"the tokenizer {name} cannot be made ({type(error).__name__}: {error}); repair the package that "
            "brings it"
        ) from error
    made.component = name
    return made


def _find(folder: Path) -> Path:
    names = (MODEL_FILE, COMPONENT_FILE, "tokenizer.json", "tokenizer_config.json")
    for candidate in (folder, folder / "tokenizer", folder / "model"):
        if any((candidate / name).is_file() for name in names):
            return candidate
    if not folder.is_dir():
        raise CodexRayError(f"tokenizer folder {folder} does not exist; check the path")
    raise CodexRayError(
        f"{folder} holds no tokenizer (none of {', '.join(names)}); give a tokenizer, corpus or model folder"
    )
