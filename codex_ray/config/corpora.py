"""Settings of the verbs that look at corpora and make new ones of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.fields import setting
from codex_ray.errors import ConfigError

_CORPUS = "corpus folder"
_SOURCE = "only this source; unset takes all"
_JSON_LINES = "JSONL file to write; unset prints"


def _progress() -> Any:
    return setting(
        "auto", choices=("auto", "live", "plain", "off"), help="progress display; auto is live on a terminal"
    )


@dataclass(frozen=True)
class ShowCorpus:
    """Look at a corpus, at some of its rows, or at a document."""

    corpus: str = setting("corpus", help=_CORPUS)
    split: str | None = setting(None, help="split of the row (unset: train) or the document (unset: any)")
    row: int | None = setting(None, minimum=0, help="first row to decode, counted from 0 over all sources")
    count: int = setting(1, minimum=1, help="rows to decode")
    document: str | None = setting(None, help="name of a document to show")
    number: int | None = setting(
        None, minimum=0, help="line of the split's index whose document is shown, counted from 0"
    )
    source: str | None = setting(None, help="source of the document; unset takes the first that has it")
    samples: int = setting(3, minimum=0, help="examples per reason of what was dropped; 0 shows none")


@dataclass(frozen=True)
class VerifyCorpus:
    """Hash every file of a corpus, and hold its index against its rows."""

    corpus: str = setting("corpus", help=_CORPUS)
    deep: bool = setting(False, help="compare every row with the index; otherwise a sample of the rows")
    threads: int = setting(4, minimum=1, help="files hashed at a time")
    progress: str = _progress()


@dataclass(frozen=True)
class DiffCorpora:
    """Say what differs between two corpora."""

    first: str = setting(help=_CORPUS)
    second: str = setting(help="the corpus it is compared with")
    documents: bool = setting(True, help="also compare which documents they hold, through their indexes")
    names: int = setting(20, minimum=0, help="names shown per list")
    output: str | None = setting(
        None, help="JSONL file for every document that only one has, or has in another split"
    )
    progress: str = _progress()


@dataclass(frozen=True)
class MergeCorpora:
    """Join corpora of one tokenizer, sequence length and token type."""

    corpora: list[str] = setting(help="corpus folders to join, such as [web,code]")
    output: str = setting(help="folder to write")
    weights: dict[str, float] = setting(
        {}, help="weight of each source in training, by its name in the result; unset goes by rows"
    )
    duplicates: str = setting(
        "keep", choices=("keep", "remove"), help="what is done with documents that several corpora hold"
    )
    progress: str = _progress()


@dataclass(frozen=True)
class CorpusRows:
    """Say which rows and documents an optimizer step saw."""

    step: int = setting(help="optimizer step, as in metrics.jsonl: the first is 1", minimum=1)
    run: str | None = setting(None, help="run folder; gives the corpus, the seed and the batch")
    corpus: str | None = setting(None, help="corpus folder, where the run's has moved or none is given")
    seed: int = setting(DEFAULT_SEED, minimum=0, help="seed of the order, without a run; 0 becomes 1234")
    batch_rows: int | None = setting(None, minimum=1, help="rows of a global batch, without a run")
    text: bool = setting(False, help="also show the text of the rows")
    output: str | None = setting(None, help=_JSON_LINES)


@dataclass(frozen=True)
class FindDocuments:
    """Find documents by name, content hash or text."""

    corpus: str = setting("corpus", help=_CORPUS)
    text: str | None = setting(None, help="documents whose text contains this")
    name: str | None = setting(None, help="documents whose name is this, or matches it as a glob ('*.py')")
    sha256: str | None = setting(None, help="documents whose text has this SHA-256, in hexadecimal")
    split: str | None = setting(None, help="only this split; unset takes all")
    source: str | None = setting(None, help=_SOURCE)
    limit: int | None = setting(None, minimum=1, help="stop after so many; unset finds all")
    output: str | None = setting(None, help=_JSON_LINES)
    progress: str = _progress()


@dataclass(frozen=True)
class RemoveDocuments:
    """Write a corpus without some of its documents."""

    corpus: str = setting(help=_CORPUS)
    output: str = setting(help="folder to write")
    names: list[str] = setting([], help="documents with these names, or that match them as globs")
    sha256: list[str] = setting([], help="documents whose text has one of these SHA-256")
    match: str | None = setting(None, help="JSONL file as `corpus find` writes it; goes by its sha256")
    source: str | None = setting(None, help=_SOURCE)
    progress: str = _progress()


def _show(settings: ShowCorpus, prefix: str) -> None:
    asked = [name for name in ("row", "document", "number") if getattr(settings, name) is not None]
    if len(asked) > 1:
        raise ConfigError(f"both {prefix}{asked[0]} and {prefix}{asked[1]} given; give one of them")


def _merge(settings: MergeCorpora, prefix: str) -> None:
    if len(settings.corpora) < 2:
        raise ConfigError(f"{prefix}corpora names {len(settings.corpora)} corpora; give at least two, [A,B]")
    wrong = [name for name, weight in settings.weights.items() if weight < 0]
    if wrong:
        raise ConfigError(f"{prefix}weights.{wrong[0]} is negative; give 0 or more")
    if settings.weights and not any(settings.weights.values()):
        raise ConfigError(f"every one of {prefix}weights is 0; give one of them more")


def _rows(settings: CorpusRows, prefix: str) -> None:
    if settings.run is None and (settings.corpus is None or settings.batch_rows is None):
        raise ConfigError(
            f"neither a run nor a corpus and its batch given; give {prefix}run=FOLDER, or "
            f"{prefix}corpus=FOLDER {prefix}seed=SEED {prefix}batch_rows=ROWS"
        )
    if settings.run is not None and settings.batch_rows is not None:
        raise ConfigError(f"both {prefix}run and {prefix}batch_rows given; the run's own batch counts")


def _find(settings: FindDocuments, prefix: str) -> None:
    asked = [value for value in (settings.text, settings.name, settings.sha256) if value]
    if len(asked) != 1:
        raise ConfigError(f"give one of {prefix}text=, {prefix}name= and {prefix}sha256= to look for")
    _hashes([settings.sha256] if settings.sha256 else [], prefix)


def _remove(settings: RemoveDocuments, prefix: str) -> None:
    if not settings.names and not settings.sha256 and settings.match is None:
        raise ConfigError(f"no document is named; give {prefix}names=, {prefix}sha256= or {prefix}match=")
    _hashes(settings.sha256, prefix)


def _hashes(given: list[str], prefix: str) -> None:
    for value in given:
        if len(value) != 64 or set(value.lower()) - set("0123456789abcdef"):
            raise ConfigError(f"{prefix}sha256={value!r} is not a SHA-256; give its 64 hexadecimal digits")


RULES: dict[type[Any], Callable[[Any, str], None]] = {
    ShowCorpus: _show,
    MergeCorpora: _merge,
    CorpusRows: _rows,
    FindDocuments: _find,
    RemoveDocuments: _remove,
}
