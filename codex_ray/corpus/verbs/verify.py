"""``corpus verify``: is every file what the manifest says, and is the index true of the rows?"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from codex_ray.config.corpora import VerifyCorpus
from codex_ray.corpus.index import SourceReader
from codex_ray.corpus.manifest import (
    REMEDY,
    DocumentsInfo,
    Manifest,
    ShardInfo,
    check_size,
    damaged,
)
from codex_ray.corpus.verbs.check_index import check_index
from codex_ray.errors import CodexRayError
from codex_ray.track.progress import Progress

CHUNK_BYTES = 4 * 2**20
POLL_SECONDS = 0.2
NAMED = 5  # damaged files that the closing sentence names; every one is listed above it


@dataclass
class Verified:
    """What was looked at: files and their bytes, lines of indexes, rows and documents compared with them."""

    files: int = 0
    bytes: int = 0
    lines: int = 0
    rows: int = 0
    documents: int = 0
    damages: list[str] = field(default_factory=list)


def verify_verb(settings: VerifyCorpus, progress: Progress | None = None) -> Verified:
    """Hash every file, and compare the index with the rows.

    The index is read as a whole: every token of every row is of exactly one document, but for padding and
    for what is in no row. Of the rows a sample is read, or with ``deep`` each one: documents begin and end
    where the index says, their text has the SHA-256 that it says (with our own tokenizer), and what is of no
    document is padding.

    Raises:
        CodexRayError: something is damaged; every damage has been printed.
    """
    manifest = Manifest.read(Path(settings.corpus).expanduser())
    result = Verified()
    with Progress(settings.progress) if progress is None else progress as shown:
        for check in (manifest.check_fingerprint, manifest.check_tokenizer):
            try:
                check()
            except CodexRayError as error:
                result.damages.append(str(error))
        sound_tokenizer = not result.damages
        bad = _hash_files(manifest, settings.threads, result, shown)
        if sound_tokenizer:
            _check_indexes(manifest, bad, settings.deep, result, shown)
        state = "is damaged" if result.damages else "is whole"
        rows = [
            ("files", f"{result.files:,}, {result.bytes:,} bytes"),
            ("index", f"{result.lines:,} lines"),
            ("rows compared with it", f"{result.rows:,}{'' if settings.deep else ' (deep=true takes all)'}"),
            ("documents compared with their SHA-256", f"{result.documents:,}"),
            *(("damaged", damage) for damage in result.damages),
        ]
        shown.table(f"corpus {manifest.folder} {state}", rows)
    if result.damages:
        raise CodexRayError(
            f"corpus {manifest.folder} is damaged in {len(result.damages)} place"
            f"{'s' if len(result.damages) > 1 else ''}, listed above "
            f"({'; '.join(sorted(bad)[:NAMED]) or 'no file itself'}); {REMEDY}"
        )
    return result


def _hash_files(manifest: Manifest, threads: int, result: Verified, progress: Progress) -> set[str]:
    """Hash all files, several at a time; returns the paths of those that are not whole."""
    files = list(manifest.files())
    done, lock = 0, Lock()

    def look(info: ShardInfo | DocumentsInfo) -> str | None:
        nonlocal done
        path, digest, size = manifest.folder / info.path, hashlib.sha256(), 0
        try:
            check_size(path, info.bytes)
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    with lock:
                        done += len(chunk)
        except OSError as error:
            return str(damaged(path, error.strerror or str(error)))
        except CodexRayError as error:
            return str(error)
        whole = digest.hexdigest() == info.sha256
        return None if whole else str(damaged(path, "its SHA-256 is not the manifest's"))

    total = sum(info.bytes for info in files)
    with progress.stage("hash", total, "bytes"), ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(look, info) for info in files]
        pending = set(tasks)
        try:
            while pending:
                _, pending = wait(pending, POLL_SECONDS)
                progress.update(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    result.files, result.bytes = len(files), done
    found = [(info.path, task.result()) for info, task in zip(files, tasks, strict=True)]
    result.damages += [damage for _, damage in found if damage is not None]
    return {path for path, damage in found if damage is not None}


def _check_indexes(
    manifest: Manifest, bad: set[str], deep: bool, result: Verified, progress: Progress
) -> None:
    """Compare each source's index with its rows, unless one of its files is known to be damaged."""
    for split, info in manifest.splits.items():
        for number, source in enumerate(info.sources):
            own = [file.path for file in source.shards] + [file.path for file in source.index_files]
            if bad.intersection(own) or not (own or source.tokens):
                continue
            with progress.stage(f"compare {split}/{source.source}", source.tokens, "tokens"):
                try:
                    reader = SourceReader(manifest, split, number)
                    checked = check_index(reader, deep, progress.advance)
                except CodexRayError as error:
                    result.damages.append(str(error))
                    continue
                result.lines += checked.lines
                result.rows += checked.rows
                result.documents += checked.documents
                result.damages += checked.damages
