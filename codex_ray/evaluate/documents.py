"""What ``evaluate`` measures: a split of a corpus, or files and folders of text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from codex_ray.config.corpus import Prepare
from codex_ray.config.use import Evaluate
from codex_ray.corpus.documents import Document, documents
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.read import UnreadableError, find_files, path_below, read_text
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
        path = Path(name).expanduser()
        if not path.exists():
            raise CodexRayError(f"{path} does not exist; check the names in files=[...]")
        if path.is_dir():
            for file in find_files(path, Prepare().suffixes):
                yield _read(path_below(path, file.name), file.problem)
        else:
            yield _read(path, None if path.is_file() else "not a regular file")


def _read(path: Path, problem: str | None) -> Document:
    try:
        if problem is not None:
            raise UnreadableError(problem)
        read = read_text(path, path.stat().st_size)
    except UnreadableError as error:
        raise CodexRayError(f"{path} cannot be measured ({error}); leave it out of files=[...]") from None
    if read is None:
        raise CodexRayError(f"{path} grew while it was read; try again")
    return Document(str(path), read[0])
