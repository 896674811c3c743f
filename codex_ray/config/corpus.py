"""Settings of ``prepare`` and of the tokenizer it trains."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED, Cluster, Track
from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Tokenizer:
    """SentencePiece training; or a trained tokenizer to use as it is."""

    path: str | None = setting(None, help="tokenizer or model folder to use instead of training one")
    kind: str = setting("bpe", choices=("bpe", "unigram"), help="SentencePiece model type")
    vocabulary_size: int = setting(2048, minimum=300, help="pieces, special tokens and bytes included")
    sample_bytes: int = setting(
        12 * 2**20, minimum=1024, help="text the tokenizer is trained on, drawn evenly from the documents"
    )
    split_digits: bool = setting(True, help="every digit is its own piece")


@dataclass(frozen=True)
class Clean:
    """What a document must be to be kept."""

    min_bytes: int = setting(16, minimum=1, help="shorter documents are dropped")
    max_bytes: int = setting(2**20, minimum=1, help="longer documents are dropped")
    exact_duplicates: bool = setting(True, help="drop documents whose bytes are equal to an earlier one's")


@dataclass(frozen=True)
class Split:
    """Shares of documents held out, chosen by content hash so that they never depend on order."""

    validation: float = setting(0.03, minimum=0.0, maximum=0.5, help="share of documents for validation")
    test: float = setting(0.02, minimum=0.0, maximum=0.5, help="share of documents for the final test")


@dataclass(frozen=True)
class Pack:
    """Documents become rows of equal length in Parquet shards."""

    sequence_length: int = setting(256, minimum=8, help="tokens per row")
    row_group_rows: int = setting(256, minimum=1, help="rows per Parquet row group (one sequential read)")
    shard_row_groups: int = setting(64, minimum=1, help="row groups per shard file")


@dataclass(frozen=True)
class Prepare:
    """Turn a folder of text into a corpus: read, clean, split, tokenise, pack."""

    text: str = setting("stdlib", help="folder of text; 'stdlib' is this Python's standard library")
    suffixes: list[str] = setting(
        [".py", ".txt", ".md", ".rst"], help="file names to read end in one of these"
    )
    output: str = setting("corpus", help="folder to write")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of sampling and splits; 0 becomes 1234")
    workers: int = setting(2, minimum=1, help="parallel Ray Data tasks")
    on_error: str = setting("skip", choices=("skip", "fail"), help="what an unreadable file does")
    tokenizer: Tokenizer = setting(Tokenizer, help="the tokenizer")
    clean: Clean = setting(Clean, help="cleaning")
    split: Split = setting(Split, help="held-out documents")
    pack: Pack = setting(Pack, help="packing")
    cluster: Cluster = setting(Cluster, help="where it runs")
    track: Track = setting(Track, help="progress and records")
