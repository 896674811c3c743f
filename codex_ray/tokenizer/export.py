"""The same tokenizer as Hugging Face's ``tokenizer.json``, and the files of a tokenizer folder.

Why the ids are equal on every string:

* BPE. Both merge, again and again, the adjacent pair whose joined piece has the best score, the leftmost of
  equals. They could part only where one piece P = xy = yz can be made of two overlapping pairs, which
  ``tokenizers`` ranks and SentencePiece takes from the left. That state does not arise: as nothing was
  merged over their ends, both occurrences of P went through the merges of P alone, whose last but one
  state is one pair.
* Unigram. Both take the leftmost of the best segmentations; sums of scores are exact in both
  (see :mod:`codex_ray.tokenizer.pieces`). ``tokenizers`` also matches the names of bytes and special tokens
  in text, so these cost more here than spelling them out, which is always
  possible: their characters are pieces of every vocabulary.

Special tokens are not listed as added tokens, since these are found in text: in ``tokenizer.json`` they are
pieces that no text leads to, and ``split_special_tokens`` says the same to Transformers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from codex_ray.files import unwritable, write_json, write_text
from codex_ray.tokenizer.tokenizer import MODEL_FILE

NORMAL = 1
"""SentencePiece's type of a piece learned from text."""

BPE = 2
"""SentencePiece's model type; unigram is 1."""

SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
"""Special tokens by Transformers' names, in the order of their ids."""

_NEVER = -1.0e6

_NO_LIMIT = int(1e30)
"""What Transformers takes for "no limit": the length is the model's matter."""


def read_model(data: bytes) -> Any:
    """Parse SentencePiece's model file into its protocol buffer."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(data)


def build_backend(model: Any) -> Tokenizer:
    """Make the same tokenizer in the ``tokenizers`` library from SentencePiece's protocol buffer."""
    if model.trainer_spec.model_type == BPE:
        vocabulary = {piece.piece: token for token, piece in enumerate(model.pieces)}
        inner: Any = models.BPE(
            vocabulary, _merges(model), unk_token=SPECIAL["unk_token"], fuse_unk=True, byte_fallback=True
        )
    else:
        scores = [(piece.piece, piece.score if piece.type == NORMAL else _NEVER) for piece in model.pieces]
        inner = models.Unigram(scores, unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(inner)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def write_folder(folder: Path, data: bytes) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and, last, ``tokenizer.model``.

    Raises:
        CodexRayError: the folder cannot be written.
    """
    write_text(folder / "tokenizer.json", build_backend(read_model(data)).to_str() + "\n")
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **SPECIAL,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _NO_LIMIT,
    }
    write_json(folder / "tokenizer_config.json", configuration)
    path = folder / MODEL_FILE
    temporary = folder / f".{MODEL_FILE}.{os.getpid()}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def _merges(model: Any) -> list[tuple[str, str]]:
    """Return every way to make a piece of two pieces, best score first, as ``tokenizers`` ranks them."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    pairs = [
        (-score, token, piece[:cut], piece[cut:])
        for token, (piece, score) in enumerate(scores.items())
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return [(left, right) for *_, left, right in sorted(pairs)]
