"""Settings of ``prepare`` and of the tokenizer it trains."""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.config.common import DEFAULT_SEED, Cluster, Track
from codex_ray.config.fields import setting


@dataclass(frozen=True)
class Tokenizer:
    """SentencePiece training; or a trained tokenizer to use as it is."""

    path: str | None = setting(
        None, help="tokenizer or model folder to use instead of training one; or component:NAME"
    )
    kind: str = setting("bpe", choices=("bpe", "unigram"), help="SentencePiece model type")
    vocabulary_size: int = setting(2048, minimum=300, help="pieces, special tokens and bytes included")
    sample_bytes: int = setting(
        12 * 2**20, minimum=1024, help="text the tokenizer is trained on, drawn evenly from the documents"
    )
    split_digits: bool = setting(True, help="every digit is its own piece")


@dataclass(frozen=True)
class Source:
    """Where documents come from, and which part of a record is the text."""

    path: str = setting(
        help="folder, file, glob, archive or URL (s3://, gs://, hf://, https://); 'stdlib'; component:NAME"
    )
    weight: float | None = setting(
        None, minimum=0.0, help="share of training rows, relative to the other sources'; unset: its size"
    )
    format: str = setting(
        "auto",
        choices=("auto", "text", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "datasets"),
        help="what its files hold; auto goes by their names, of a folder without .json, .csv and .tsv",
    )
    column: str | None = setting(None, help="column or field that is the text; unset: text, content or code")
    template: str | None = setting(None, help="text made of several columns, such as '{title}\\n\\n{body}'")
    messages: str | None = setting(None, help="column of chat messages, each with a role and a content")
    chat_template: str | None = setting(
        None, help="Jinja file that renders messages; unset: ChatML's form, <|im_start|>role"
    )
    version: str | None = setting(None, help="its version or address, for the manifest")
    licence: str | None = setting(None, help="its licence, for the manifest")


@dataclass(frozen=True)
class Limits:
    """How large a thing may be before it is set aside instead of read."""

    line_bytes: int = setting(64 * 2**20, minimum=1024, help="longest line or record")
    file_bytes: int = setting(64 * 2**20, minimum=1024, help="longest file that is one document")
    expansion: float = setting(
        200.0, minimum=1.0, help="most bytes a compressed file may give per byte of its own"
    )


@dataclass(frozen=True)
class Redact:
    """What is done about secrets and personal data: keep, mask in place, or drop the document."""

    secrets: str = setting("keep", choices=("keep", "mask", "drop"), help="keys, tokens and passwords")
    personal: str = setting("keep", choices=("keep", "mask", "drop"), help="e-mail, IP and telephone")


@dataclass(frozen=True)
class Clean:
    """What a document must be to be kept, and what is mended in it. Every step is a switch."""

    encoding: str = setting(
        "utf-8", choices=("utf-8", "detect"), help="files are UTF-8, or their encoding is detected"
    )
    repair: bool = setting(False, help="mend text that was decoded wrongly (ftfy)")
    normalise: str = setting(
        "none", choices=("none", "NFC", "NFKC"), help="Unicode normalisation; NFKC changes characters"
    )
    min_bytes: int = setting(16, minimum=1, help="shorter documents are dropped")
    max_bytes: int = setting(2**20, minimum=1, help="longer documents are dropped")
    gopher_quality: bool = setting(False, help="Gopher's rules on words and symbols")
    gopher_repetition: bool = setting(False, help="Gopher's rules on repeated lines and n-grams")
    c4: bool = setting(False, help="C4's rules on lines and pages")
    fineweb: bool = setting(False, help="FineWeb's rules on punctuation and short or repeated lines")
    generated_code: bool = setting(False, help="drop source files that say they are generated")
    minified_code: bool = setting(False, help="drop source files with over-long or dense lines")
    data_files: bool = setting(False, help="drop source files that are mostly numbers or encoded data")
    licence_headers: bool = setting(False, help="cut licence comments off the top of source files")
    languages: list[str] = setting([], help="keep only these languages, such as [en,de]; empty keeps all")
    language_confidence: float = setting(0.65, minimum=0.0, maximum=1.0, help="lower confidence is dropped")
    redact: Redact = setting(Redact, help="secrets and personal data")
    judges: list[str] = setting([], help="your own steps: classes by dotted path, such as mine.rules.NoLists")
    decontaminate: list[str] = setting(
        [], help="files or folders of evaluation text; documents that share an n-gram are dropped"
    )
    decontaminate_words: int = setting(13, minimum=3, help="words of such an n-gram")


@dataclass(frozen=True)
class Duplicates:
    """Documents that are there more than once; the first of each group stays."""

    exact: bool = setting(True, help="drop documents whose bytes are equal to an earlier one's")
    near: bool = setting(False, help="drop documents nearly equal to an earlier one's (MinHash-LSH)")
    similarity: float = setting(0.8, minimum=0.1, maximum=1.0, help="Jaccard similarity that counts as equal")
    shingle_words: int = setting(5, minimum=1, help="words of a shingle")
    bands: int = setting(14, minimum=1, help="bands of the signature")
    rows: int = setting(8, minimum=1, help="hashes per band")


@dataclass(frozen=True)
class Split:
    """Shares of documents held out, chosen by content hash so that they never depend on order."""

    validation: float = setting(0.03, minimum=0.0, maximum=0.5, help="share of documents for validation")
    test: float = setting(0.02, minimum=0.0, maximum=0.5, help="share of documents for the final test")


@dataclass(frozen=True)
class Pack:
    """Documents become rows of equal length in Parquet shards."""

    method: str = setting(
        "contiguous",
        choices=("contiguous", "best_fit"),
        help="rows cut from one run of documents, or filled so that no short document is cut",
    )
    sequence_length: int = setting(256, minimum=8, help="tokens per row")
    row_group_rows: int = setting(256, minimum=1, help="rows per Parquet row group (one sequential read)")
    shard_row_groups: int = setting(64, minimum=1, help="row groups per shard file")


@dataclass(frozen=True)
class Canaries:
    """Made-up secrets among the training documents, to measure later how many a model gives away."""

    count: int = setting(0, minimum=0, help="made-up secrets to plant; 0 plants none")
    repeats: int = setting(1, minimum=1, help="documents that hold each")


@dataclass(frozen=True)
class Prepare:
    """Turn a folder of text into a corpus: read, clean, split, tokenise, pack."""

    text: str = setting(
        "stdlib",
        help="folder, file, glob, archive or URL; 'stdlib' is this Python's standard library; component:NAME",
    )
    sources: dict[str, Source] = setting(
        {}, help="in place of text: sources.NAME.path=PATH, each with a weight, columns and more"
    )
    suffixes: list[str] = setting(
        [".py", ".txt", ".md", ".rst"], help="text files in folders: their names end in one of these"
    )
    output: str = setting("corpus", help="folder to write")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of sampling and splits; 0 becomes 1234")
    workers: int = setting(2, minimum=1, help="parallel Ray Data tasks")
    on_error: str = setting("skip", choices=("skip", "fail"), help="what an unreadable item does")
    keep_stages: bool = setting(
        True, help="keep stages beside the corpus, so that a changed setting redoes only what it decides"
    )
    tokenizer: Tokenizer = setting(Tokenizer, help="the tokenizer")
    clean: Clean = setting(Clean, help="cleaning")
    duplicates: Duplicates = setting(Duplicates, help="repeated documents")
    limits: Limits = setting(Limits, help="sizes")
    split: Split = setting(Split, help="held-out documents")
    pack: Pack = setting(Pack, help="packing")
    canaries: Canaries = setting(Canaries, help="made-up secrets to be planted")
    cluster: Cluster = setting(Cluster, help="where it runs")
    track: Track = setting(Track, help="progress and records")
