"""Training a SentencePiece tokenizer whose decoding gives back every text.

SentencePiece writes a space as U+2581 in its pieces and so cannot tell the two apart. It learns so here, too,
but the finished model is rewritten to hold spaces themselves and to replace nothing: U+2581 is then a
character like others, spelled by its three bytes. A tab, which SentencePiece keeps for itself, is learned
under another character's name in the same way.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from codex_ray.config.corpus import Tokenizer as Settings
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.tokenizer.export import BPE, NORMAL, SPECIAL, read_model, write_folder
from codex_ray.tokenizer.pieces import PieceTokenizer
from codex_ray.tokenizer.tokenizer import Tokenizer

_CHUNK_CHARACTERS = 2**14
_THREADS = 4  # a fixed number: unigram's sums depend on it in their last bits
_TAB = "\ue000"

# What SentencePiece would skip a whole sentence for, or take for its own: U+2581, U+2585, NUL, the tab's
# stand-in, and the names of special tokens and bytes.
_NEVER_LEARNED = re.compile(f"[\0\u2581\u2585{_TAB}]|<0x[0-9A-F]{{2}}>|" + "|".join(SPECIAL.values()))

_REQUIRED = "".join(sorted(set("<0x0123456789ABCDEF>" + "".join(SPECIAL.values()))))
"""Characters that every unigram vocabulary has: `tokenizers` must be able to spell the names of bytes and
special tokens (see :mod:`codex_ray.tokenizer.export`)."""

_SCORE_STEPS = 16
"""Unigram's scores (in nats) are multiples of 1/16: their sums are exact in floating point."""


def train_tokenizer(documents: Iterable[str], settings: Settings, folder: Path | str, seed: int) -> Tokenizer:
    """Train a tokenizer and write its folder; the same documents, settings and seed give the same bytes.

    The order of documents does not matter. Special tokens are ``<unk>`` 0, ``<s>`` 1, ``</s>`` 2 and
    ``<pad>`` 3, then come 256 bytes, then learned pieces (BPE: Sennrich et al. 2016; unigram: Kudo 2018).

    Args:
        documents: texts, read once; memory is bounded by ``settings.sample_bytes``.
        settings: kind, size and sample.
        folder: where to write ``tokenizer.model``, ``tokenizer.json`` and ``tokenizer_config.json``.
        seed: of the sample, where there are more than ``sample_bytes``.

    Raises:
        CodexRayError: there is no text, or the folder cannot be written.
        ConfigError: the vocabulary is too large or too small for the text; it names a size that fits.
    """
    sample = _sample(documents, settings.sample_bytes, seed)
    sentences = [
        sentence.replace("\t", _TAB)
        for chunk in sample
        for sentence in _NEVER_LEARNED.split(chunk)
        if sentence
    ]
    if not any(sentence.strip() for sentence in sentences):
        raise CodexRayError(
            "the tokenizer was given no text to train on; check the text folder and its suffixes"
        )
    data = _rewrite(_train(sentences, settings))
    write_folder(Path(folder), data)
    return PieceTokenizer(data)


def _sample(documents: Iterable[str], sample_bytes: int, seed: int) -> list[str]:
    """Choose chunks of text at random, up to ``sample_bytes``, in memory of that size.

    Each chunk draws a number from its content and the seed, and the lowest numbers win: an even
    choice from the whole text that does not depend on the order of documents.
    """
    kept: list[tuple[int, str, int]] = []  # a heap, highest number first
    limit, total = 2**64, 0
    for chunk in _chunks(documents, min(_CHUNK_CHARACTERS, sample_bytes // 16)):
        data = chunk.encode("utf-8", "replace")
        drawn = int.from_bytes(hashlib.blake2b(data, digest_size=8, key=b"%d" % seed).digest(), "big")
        if drawn >= limit:
            continue
        heapq.heappush(kept, (-drawn, chunk, len(data)))
        total += len(data)
        while total > sample_bytes:
            drawn, _, size = heapq.heappop(kept)
            limit, total = min(limit, -drawn), total - size
    return [chunk for _, chunk, _ in sorted(kept, reverse=True)]


def _chunks(documents: Iterable[str], characters: int) -> Iterator[str]:
    """Cut documents at line ends into chunks of at most so many characters."""
    for text in documents:
        start = 0
        while start < len(text):
            stop = start + characters
            if stop < len(text):
                stop = text.rfind("\n", start, stop) + 1 or stop
            yield text[start:stop]
            start = stop


def _train(sentences: list[str], settings: Settings) -> bytes:
    from sentencepiece import SentencePieceTrainer

    required = _REQUIRED if settings.kind == "unigram" else ""
    model = BytesIO()
    try:
        SentencePieceTrainer.train(
            # Only a required character that also occurs in the text becomes a piece.
            sentence_iterator=iter([*sentences, " ".join(required)]),
            model_writer=model,
            model_type=settings.kind,
            vocab_size=settings.vocabulary_size,
            byte_fallback=True,
            split_digits=settings.split_digits,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            required_chars=required,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_surface=SPECIAL["unk_token"],
            max_sentence_length=8 * _CHUNK_CHARACTERS,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _misfit(settings.vocabulary_size, str(error)) from error
    return model.getvalue()


def _misfit(size: int, reason: str) -> CodexRayError:
    """Turn SentencePiece's complaint into a sentence with the size that fits."""
    if largest := re.search(r"too high .*<= (\d+)", reason):
        return ConfigError(
            f"tokenizer.vocabulary_size={size} is too large for this text, which gives at most "
            f"{largest[1]} pieces; give tokenizer.vocabulary_size={largest[1]} or less, or more text"
        )
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason):
        return ConfigError(
            f"tokenizer.vocabulary_size={size} has no room for the special tokens, 256 bytes and the "
            f"characters of this text; give tokenizer.vocabulary_size={smallest[1]} or more"
        )
    return CodexRayError(f"SentencePiece could not train on this text ({reason.strip()})")


def _rewrite(data: bytes) -> bytes:
    """Give pieces their real spaces and tabs, and unigram's scores their steps."""
    model = read_model(data)
    for piece in model.pieces:
        if piece.type == NORMAL:
            piece.piece = piece.piece.replace("\u2581", " ").replace(_TAB, "\t")
            if model.trainer_spec.model_type != BPE:
                piece.score = round(piece.score * _SCORE_STEPS) / _SCORE_STEPS
    model.normalizer_spec.escape_whitespaces = False
    rewritten: bytes = model.SerializeToString(deterministic=True)
    return rewritten
