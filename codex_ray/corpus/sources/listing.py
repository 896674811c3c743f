"""What is at an address of a store: listed within a deadline, so that no run waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from codex_ray.corpus.sources.patterns import MAGIC_IN_URL, split_pattern
from codex_ray.corpus.sources.storage import key_of, parts_of, shown, store_of, unreachable
from codex_ray.errors import CodexRayError

Result = TypeVar("Result")

DEADLINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that a source lists: its address, its name below the source, and its state."""

    path: str
    name: str
    size: int = 0
    version: str = ""
    problem: str | None = None  # why it cannot be opened as a file at all


def list_url(url: str) -> tuple[list[Entry], bool]:
    """List what is at an address: a file, everything below a folder, or what a glob matches.

    Returns:
        The entries in no particular order, and whether the address or glob names files themselves.

    Raises:
        CodexRayError: nothing is there, or its store cannot be reached within ``DEADLINE_SECONDS``.
    """
    scheme, _, _ = parts_of(url)
    folder, pattern = split_pattern(shown(url), MAGIC_IN_URL)
    query = url[len(shown(url)) :]
    if scheme in ("http", "https"):
        return [within_deadline(lambda: _http_entry(url), url)], True
    lister = _list_arrow if scheme in ("s3", "gs") else _list_hub
    entries, is_file = lister(folder.rstrip("/") + query)
    if pattern is not None:
        entries = [entry for entry in entries if pattern.matches(entry.name)]
    return entries, is_file or pattern is not None


def within_deadline(
    action: Callable[[], Result], path: str, *, seconds: float | None = None, verb: str = "read"
) -> Result:
    """Wait for an answer of a store, but not longer than ``seconds``, or else ``DEADLINE_SECONDS``.

    Raises:
        CodexRayError: there was none, or it was an error.
    """
    answer: list[Result] = []
    failure: list[Exception] = []

    def ask() -> None:
        try:
            answer.append(action())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # a library may wait for longer than we do
    thread.start()
    seconds = DEADLINE_SECONDS if seconds is None else seconds
    thread.join(seconds)
    if answer:
        return answer[0]
    if not failure:
        raise CodexRayError(
            f"{shown(path)} did not answer in {seconds:g} s; check the address and the network"
        )
    error = failure[0]
    if isinstance(error, CodexRayError):
        raise error
    if isinstance(error, FileNotFoundError):
        raise CodexRayError(f"{shown(path)} does not exist; check the address") from error
    raise unreachable(path, error, verb) from error


def _list_arrow(url: str) -> tuple[list[Entry], bool]:
    from pyarrow import fs

    scheme, _, query = parts_of(url)
    root = key_of(url)

    def probe() -> tuple[Any, Any]:
        store = store_of(url)
        return store, store.get_file_info(root)

    store, info = within_deadline(probe, url)
    if info.type == fs.FileType.NotFound:
        raise CodexRayError(f"{shown(url)} does not exist; check the address")
    if info.type == fs.FileType.File:
        found = [info]
    else:
        try:
            found = store.get_file_info(fs.FileSelector(root, recursive=True))
        except OSError as error:
            raise unreachable(url, error) from error
    single = info.type == fs.FileType.File
    tail = f"?{query}" if query else ""
    return [
        Entry(
            f"{scheme}://{quote(item.path)}{tail}",
            item.base_name if single else item.path[len(root) :].lstrip("/"),
            item.size,
            str(item.mtime_ns),
        )
        for item in found
        if item.type == fs.FileType.File
    ], single


def _list_hub(url: str) -> tuple[list[Entry], bool]:
    root = key_of(url)

    def probe() -> tuple[Any, Any]:
        store = store_of(url)
        return store, store.info(root)

    store, info = within_deadline(probe, url)
    single = info["type"] == "file"
    try:
        found = {root: info} if single else store.find(root, detail=True)
    except Exception as error:  # of several libraries
        raise unreachable(url, error) from error
    return [
        Entry(
            f"hf://{quote(path, safe='/@')}",
            path.rpartition("/")[2] if single else path[len(root) :].lstrip("/"),
            int(info.get("size") or 0),
            str(info.get("blob_id") or info.get("xet_hash") or ""),
        )
        for path, info in found.items()
    ], single


def _http_entry(url: str) -> Entry:
    info = store_of(url).info(url)
    version = info.get("ETag") or info.get("Content-MD5") or ""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return Entry(url, name or urlsplit(url).netloc, int(info.get("size") or 0), str(version))
