"""What ``evaluate`` measures: a split of a corpus, or files and folders of text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from codex_ray.config.corpus import Prepare
from codex_ray.config.evaluate import Evaluate
from codex_ray.corpus.documents import Document, documents
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.raw import Quarantined
from codex_ray.corpus.reading import read_texts
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.evaluate.training import training_texts


def measured_documents(settings: Evaluate) -> list[Document]:
    """Read the documents to measure, at most ``max_documents`` of them; empty ones are left out.

    Raises:
        ConfigError: neither a corpus nor files are named, or both.
        CodexRayError: nothing can be measured there, or a file is not text.
    """
    if (settings.corpus is None) == (not settings.files):
        raise ConfigError("name one thing to measure: corpus=FOLDER or files=[FILE,...]")
    found = (
        _files(settings.files) if settings.corpus is None else _split(Path(settings.corpus), settings.split)
    )
    kept = list(islice((document for document in found if document.text), settings.max_documents))
    if not kept:
        where = (
            f"split {settings.split!r} of corpus {settings.corpus}" if settings.corpus else "the files given"
        )
        raise CodexRayError(f"{where}: every document is empty, so there is nothing to measure; name others")
    return kept


def _split(corpus: Path, split: str) -> Iterator[Document]:
    if split != "train":
        yield from documents(corpus, split)
        return
    from codex_ray.tokenizer import Tokenizer

    texts = training_texts(Manifest.load(corpus), Tokenizer.load(corpus / "tokenizer"))
    for number, text in enumerate(texts):
        yield Document(f"train/{number}", text)


def _files(names: list[str]) -> Iterator[Document]:
    for name in names:
        for item in read_texts(name, Prepare().suffixes):
            if isinstance(item, Quarantined):
                raise CodexRayError(
                    f"{item.name} of {name} cannot be measured ({item.reason}); leave it out of files=[...]"
                )
            yield Document(f"{name}/{item.name}" if Path(name).is_dir() else name, item.text)
