"""What a model's figures stand beside: compressors, and an n-gram model of the same training tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codex_ray.corpus.documents import Document
from codex_ray.corpus.manifest import Manifest
from codex_ray.evaluate.compression import XZ_DICTIONARY_BYTES, gzip_each, xz_each, xz_primed
from codex_ray.evaluate.headers import Header, complete_with_ngram, share_parsed
from codex_ray.evaluate.likelihood import DocumentScore, Likelihood
from codex_ray.evaluate.ngram import NgramModel, train_ngram
from codex_ray.evaluate.training import training_sequences, training_texts

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer
    from codex_ray.track import Progress

NGRAM_ORDER = 6


def measure_baselines(
    documents: Sequence[Document],
    *,
    corpus: str | None,
    headers: Sequence[Header],
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Measure the compressors and, against a corpus, what has seen its training text.

    Args:
        documents: the held-out documents.
        corpus: the corpus they are held out of; without one there is no training text.
        headers: function headers for the n-gram model to complete.
        seed: seed of its sampling.
        progress: the display.

    Raises:
        CodexRayError: the corpus is missing or damaged.
    """
    texts = [document.text for document in documents]
    with progress.stage("compress with gzip and xz"):
        figures = {
            "gzip_bits_per_byte": gzip_each(texts).bits_per_byte,
            "xz_bits_per_byte": xz_each(texts).bits_per_byte,
        }
    if corpus is None:
        return figures
    from codex_ray.tokenizer import Tokenizer

    manifest = Manifest.load(corpus)
    tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
    with progress.stage("compress with xz after the training text"):
        # A token is a byte of text or more, so this reaches back at least as far as the compressor.
        training = training_texts(manifest, tokenizer, last_tokens=XZ_DICTIONARY_BYTES)
        figures["xz_primed_bits_per_byte"] = xz_primed(list(training), texts).bits_per_byte
    for name, order in (("unigram", 1), ("ngram", NGRAM_ORDER)):
        with progress.stage(f"count {order}-grams"):
            ngram = train_ngram(
                training_sequences(manifest, tokenizer),
                order=order,
                vocabulary_size=tokenizer.vocabulary_size,
            )
            likelihood = score_with_ngram(ngram, tokenizer, documents)
            figures[f"{name}_bits_per_byte"] = likelihood.bits_per_byte
    if headers:
        with progress.stage(f"complete function headers with {NGRAM_ORDER}-grams"):
            completed = complete_with_ngram(ngram, tokenizer, headers, seed=seed)
            figures["ngram_headers_parsed"] = share_parsed(completed)
    return figures


def score_with_ngram(ngram: NgramModel, tokenizer: Tokenizer, documents: Sequence[Document]) -> Likelihood:
    """Score documents as a language model's are: after one beginning-of-text token, their end unscored."""
    encoded = tokenizer.encode_batch([document.text for document in documents])
    first = tokenizer.special_ids["bos"]
    scores = ngram.log_probabilities([[first, *ids] for ids in encoded])
    return Likelihood(
        [
            DocumentScore(document.name, -float(score.sum()), len(score), len(document.text.encode()))
            for document, score in zip(documents, scores, strict=True)
        ]
    )
