"""Local folders: every file once, loops ended, in the order of their names as bytes.

Names are POSIX paths below the folder, whatever the file system's order or the locale; bytes that are
no UTF-8 stay in them as Python's file functions give them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from codex_ray.corpus.sources.listing import Entry


@dataclass
class Found:
    """The files that were wanted, and the endings of those that were not."""

    entries: list[Entry] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def walk(
    folder: Path,
    wanted: Callable[[str], bool],
    *,
    enter: Callable[[str], bool] = lambda _: True,
    skip_names: frozenset[str] = frozenset(),
    skip_folders: Iterable[Path] = (),
) -> Found:
    """List the files below ``folder`` whose names are ``wanted``.

    Each real folder is visited once: links to folders are followed after all real folders, and not
    when their target was visited, so loops end and a file keeps its own name.

    Args:
        folder: an existing folder.
        wanted: says of a path below ``folder`` whether it is listed.
        enter: says of the path of a folder below ``folder`` whether it is visited.
        skip_names: names of folders that are not visited, wherever they are.
        skip_folders: folders that are not visited; they may be missing.
    """
    visited = {_identity(path) for path in skip_folders if path.is_dir()}
    found = Found()
    folders, links = [folder], list[Path]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(here)
            if identity in visited:
                continue
            visited.add(identity)
            entries = sorted(os.scandir(here), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            name = here.relative_to(folder).as_posix()
            found.entries.append(Entry(str(here), name, problem=f"cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            path = here / entry.name
            name = path.relative_to(folder).as_posix()
            if _is_folder(entry):
                if entry.name not in skip_names and enter(name):
                    (links if entry.is_symlink() else folders).append(path)
            elif wanted(name):
                found.entries.append(entry_of(path, name))
            else:
                found.others[path.suffix or path.name] += 1
    return found


def entry_of(path: Path, name: str) -> Entry:
    """Look at a local file: its size, its modification time, or why it cannot be opened."""
    try:
        status = path.stat()
    except OSError as error:
        return Entry(str(path), name, problem=f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return Entry(str(path), name, problem="not a regular file: a pipe, socket or device")
    return Entry(str(path), name, status.st_size, str(status.st_mtime_ns))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; listed as a file, it says so
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
