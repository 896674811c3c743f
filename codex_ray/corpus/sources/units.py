"""What a source consists of: its files, and the slices of large ones, in the order of their names."""

from __future__ import annotations

import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codex_ray.config.corpus import Source
from codex_ray.corpus.sources.brought import is_brought, source_of
from codex_ray.corpus.sources.folders import Found, entry_of, walk
from codex_ray.corpus.sources.listing import Entry, list_url
from codex_ray.corpus.sources.names import ARCHIVES, RECORDS, compression_of, kind_of
from codex_ray.corpus.sources.patterns import split_pattern
from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.corpus.sources.storage import is_url, open_file
from codex_ray.corpus.sources.tables import group_sizes
from codex_ray.corpus.sources.text_of import TextOf
from codex_ray.errors import CodexRayError

STDLIB = "stdlib"
NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})
STATE = "state.json"  # in each folder that the datasets library saved
STATE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Unit:
    """A file of a source, or a slice of one, that a task reads without knowing of the others.

    ``start`` and ``stop`` are bytes of JSON Lines that are not compressed, and row groups of Parquet.
    """

    source: str
    path: str  # absolute, or an address
    kind: str  # text, jsonl, json, csv, tsv, parquet, arrow, zip, tar or component
    size: int
    version: str  # modification time in nanoseconds, or what its store calls its version
    start: int = 0
    stop: int | None = None
    problem: str | None = None  # why it cannot be read at all
    name: str = ""  # its path below the source
    suffixes: tuple[str, ...] = ()  # of an archive: the endings of its text files


def find_units(
    name: str,
    source: Source,
    suffixes: Sequence[str],
    *,
    unit_bytes: int,
    skip_folders: Iterable[Path] = (),
) -> list[Unit]:
    """List what a source consists of, sorted by name; the order depends on nothing else.

    JSON Lines and Parquet that are not compressed are cut into slices of about ``unit_bytes``; other
    files are units whole, since only reading them would tell where their records begin.

    Args:
        name: the source's name.
        source: its settings.
        suffixes: endings of the text files of a folder.
        unit_bytes: size beyond which a file is cut.
        skip_folders: local folders that are not visited, such as the one that is written.

    Raises:
        CodexRayError: nothing is there, it holds nothing that the settings ask for, or its store cannot
            be reached; the sentence says what is there instead.
        ConfigError: the settings contradict each other.
    """
    TextOf(source)
    if is_brought(source.path):
        brought = source_of(source.path)
        return [
            Unit(name, source.path, "component", 0, brought.version, name=part) for part in brought.parts()
        ]
    endings = tuple(suffixes)
    remote = is_url(source.path)
    if remote:
        found, named = _list_remote(source, endings)
    else:
        found, named = _list_local(source, endings, skip_folders)
    entries = _saved_datasets(found.entries, source)
    units: list[Unit] = []
    for entry in entries:
        if source.path == STDLIB:
            kind: str | None = "text"
        else:
            kind = kind_of(entry.name, source.format, endings, named=named)
        if kind is None:
            if entry.problem is None:
                found.others[os.path.splitext(entry.name)[1] or entry.name] += 1  # noqa: PTH122
                continue
            kind = "text"  # a folder that cannot be read
        below = endings if kind in ARCHIVES else ()
        units.append(
            Unit(name, entry.path, kind, entry.size, entry.version, 0, None, entry.problem, entry.name, below)
        )
    if not units:
        raise CodexRayError(_nothing_found(name, source, list(suffixes), found.others, named))
    units.sort(key=lambda unit: os.fsencode(unit.name))
    return [part for unit in units for part in _slices(unit, unit_bytes)]


def _list_local(source: Source, endings: tuple[str, ...], skip: Iterable[Path]) -> tuple[Found, bool]:
    """List a local source's files, and say whether it names files rather than a folder of them."""
    if source.path == STDLIB:
        folder = Path(sysconfig.get_paths()["stdlib"])
        return walk(
            folder, lambda file: file.endswith(endings), skip_names=NOT_STDLIB, skip_folders=skip
        ), False
    path = Path(os.path.abspath(Path(source.path).expanduser()))  # noqa: PTH100 -- a link keeps its own name
    if path.is_dir():
        saved = source.format in ("auto", "datasets")

        def wanted(file: str) -> bool:
            kind = kind_of(file, source.format, endings, named=False)
            return kind is not None or (saved and file.rpartition("/")[2] == STATE)

        return walk(path.resolve(), wanted, skip_folders=skip), False
    if os.path.lexists(path):
        return Found([entry_of(path, path.name)]), True
    folder_name, pattern = split_pattern(str(path))
    if pattern is None:
        raise CodexRayError(f"source path {source.path} does not exist; check sources' path or text")
    folder = Path(folder_name)
    if not folder.is_dir():
        raise CodexRayError(f"{folder}, where {source.path} begins, is no folder; check the path")
    found = walk(folder.resolve(), pattern.matches, enter=pattern.may_hold, skip_folders=skip)
    found.others.clear()  # files that the glob does not mean
    return found, True


def _list_remote(source: Source, endings: tuple[str, ...]) -> tuple[Found, bool]:
    entries, named = list_url(source.path)
    return Found(entries), named


def _saved_datasets(entries: list[Entry], source: Source) -> list[Entry]:
    """Keep, of folders that the datasets library saved, just the files that their state lists.

    Beside those may lie caches of transformations, in files of the same kind.
    """
    if source.format not in ("auto", "datasets"):
        return entries
    arrow = {entry.name.rpartition("/")[0] for entry in entries if entry.name.endswith(".arrow")}
    listed: dict[str, set[str]] = {}
    for entry in entries:
        folder, _, file = entry.name.rpartition("/")
        if file == STATE and folder in arrow and entry.problem is None:
            files = _files_of_state(entry)
            if files is not None:
                listed[folder] = files
    kept = []
    for entry in entries:
        folder, _, file = entry.name.rpartition("/")
        if folder in listed:
            if file in listed[folder]:
                kept.append(entry)
        elif source.format == "auto":
            kept.append(entry)
    there = {entry.name for entry in kept}
    for folder, files in listed.items():
        for file in sorted(files):
            name = f"{folder}/{file}" if folder else file
            if name not in there:
                kept.append(Entry(f"{source.path}/{name}", name, problem="cannot be read: No such file"))
    return kept


def _files_of_state(entry: Entry) -> set[str] | None:
    """Return the files that a saved dataset consists of; None when this is no saved dataset."""
    try:
        with open_file(entry.path, anywhere=False) as stream:
            state = json.loads(stream.read(STATE_BYTES))
        files = {str(item["filename"]) for item in state["_data_files"]}
    except (UnreadableError, ValueError, LookupError, TypeError):
        return None
    if state.get("_indices_data_files"):
        raise CodexRayError(
            f"{entry.path} is of a dataset saved with a selection of rows, by datasets 1.x; load and save it "
            "with a newer version of the datasets library"
        )
    return files


def _slices(unit: Unit, unit_bytes: int) -> Iterator[Unit]:
    """Cut a unit where its records can be told apart from any place."""
    sliceable = unit.kind in ("jsonl", "parquet") and not compression_of(unit.name) and not unit.problem
    if not sliceable or unit.size <= unit_bytes or unit.path.startswith(("http://", "https://")):
        yield unit
    elif unit.kind == "jsonl":
        for start in range(0, unit.size, unit_bytes):
            stop = start + unit_bytes
            last = stop >= unit.size
            yield replace(unit, start=start, stop=None if last else stop, size=min(stop, unit.size) - start)
    else:
        yield from _row_group_slices(unit, unit_bytes)


def _row_group_slices(unit: Unit, unit_bytes: int) -> Iterator[Unit]:
    try:
        with open_file(unit.path, anywhere=True) as file:
            sizes = group_sizes(file)
    except UnreadableError:
        sizes = []
    start = held = 0
    for index, size in enumerate(sizes):
        if index > start and held + size > unit_bytes:
            yield replace(unit, start=start, stop=index, size=held)
            start, held = index, 0
        held += size
    yield replace(unit, start=start, size=held) if start else unit


def _nothing_found(name: str, source: Source, suffixes: list[str], others: Counter[str], named: bool) -> str:
    where = f"source {name}: {source.path}"
    if not others:
        what = "matches no file" if named else "is empty"
        return f"{where} {what}; put files there or give another path"
    ending, count = others.most_common(1)[0]
    listed = ", ".join(suffixes)
    if source.format != "auto":
        return (
            f"{where} has {others.total()} files and none is wanted with format={source.format}; the "
            f"commonest ending is {ending} ({count}), give another format, or a glob to read those"
        )
    record = RECORDS.get(ending.lower())
    remedy = f"sources.{name}.format={record}" if record else f"suffixes=[{ending}]"
    if named:
        remedy += f" or sources.{name}.format=text"
    return (
        f"{where} has {others.total()} files and none ends in {listed} or holds records; the commonest "
        f"ending is {ending} ({count}), give {remedy} to read those"
    )
