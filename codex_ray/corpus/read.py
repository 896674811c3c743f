"""Finding text files and reading them strictly: every file ends as text or with a reason why not.

Names are relative POSIX paths in byte order, whatever the file system's order or the locale. Text is
kept as it stands, line endings included, so that a document's bytes and their count can be compared
with the file's; only a leading byte order mark is removed, and counted.
"""

from __future__ import annotations

import codecs
import os
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codex_ray.errors import CodexRayError

STDLIB = "stdlib"
NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class SourceFile:
    """A file whose name matched. ``name`` is its path below the folder, in the file system's bytes."""

    name: bytes
    size: int
    problem: str | None = None  # why it cannot be opened as a file at all


class UnreadableError(Exception):
    """A file that is not text; the message is the reason: its kind, a colon, and what was found."""


def text_folder(text: str) -> tuple[Path, frozenset[str]]:
    """Resolve the ``text`` setting to a folder and the folder names to leave out of it.

    Raises:
        CodexRayError: it is missing or is a file.
    """
    if text == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"]), NOT_STDLIB
    folder = Path(text).expanduser()
    if not folder.exists():
        raise CodexRayError(f"text folder {folder} does not exist; give text=FOLDER")
    if not folder.is_dir():
        raise CodexRayError(f"text={folder} is a file; give a folder, with one document per file")
    return folder.resolve(), frozenset()


def find_files(
    folder: Path,
    suffixes: Iterable[str],
    *,
    skip_names: frozenset[str] = frozenset(),
    skip_folders: Iterable[Path] = (),
) -> list[SourceFile]:
    """List the files below ``folder`` whose names end in one of ``suffixes``, sorted by name.

    Each real folder is visited once: links to folders are followed after all real folders, and not
    when their target was visited, so loops end and a file keeps its own name.

    Raises:
        CodexRayError: nothing matched; the sentence says what is there instead.
    """
    endings = tuple(suffixes)
    visited = {_identity(path) for path in skip_folders if path.is_dir()}
    found: list[SourceFile] = []
    others: Counter[str] = Counter()
    folders, links = [folder], list[Path]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(here)
            if identity in visited:
                continue
            visited.add(identity)
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            found.append(SourceFile(name_below(folder, here), 0, f"cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            path = here / entry.name
            if entry.is_dir():
                if entry.name not in skip_names:
                    (links if entry.is_symlink() else folders).append(path)
            elif entry.name.endswith(endings):
                found.append(_source_file(path, name_below(folder, path)))
            else:
                others[path.suffix or path.name] += 1
    if not found:
        raise CodexRayError(_nothing_found(folder, list(suffixes), others))
    return sorted(found, key=lambda file: file.name)


def name_below(folder: Path, path: Path) -> bytes:
    """Return a path below ``folder`` as a name: POSIX separators, the file system's own bytes."""
    return os.fsencode(path.relative_to(folder).as_posix())


def path_below(folder: Path, name: bytes) -> Path:
    """Return the path of a name below ``folder``."""
    return folder / os.fsdecode(name)


def label(name: bytes) -> str:
    """Return a name as text that can be printed and stored: bytes that are no UTF-8 are escaped."""
    return name.decode("utf-8", "backslashreplace")


def read_text(path: Path, max_bytes: int) -> tuple[str, bool] | None:
    """Read one file as strict UTF-8.

    Returns:
        The text and whether a byte order mark was removed; None when the file is longer than
        ``max_bytes``, of which no more is read.

    Raises:
        UnreadableError: it cannot be opened, is not UTF-8, or holds NUL characters (binary data).
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + len(codecs.BOM_UTF8) + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    marked = data.startswith(codecs.BOM_UTF8)
    if marked:
        data = data[len(codecs.BOM_UTF8) :]
    if len(data) > max_bytes:
        return None
    if b"\0" in data:
        raise UnreadableError(f"binary: a NUL character at {data.index(0)}")
    try:
        return data.decode("utf-8"), marked
    except UnicodeDecodeError as error:
        raise UnreadableError(f"not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from error


def _source_file(path: Path, name: bytes) -> SourceFile:
    try:
        status = path.stat()
    except OSError as error:
        return SourceFile(name, 0, f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        return SourceFile(name, 0, "not a regular file: a pipe, socket or device")
    return SourceFile(name, status.st_size)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _nothing_found(folder: Path, suffixes: list[str], others: Counter[str]) -> str:
    if not others:
        return f"text folder {folder} is empty; put text files into it or give another text=FOLDER"
    ending, count = others.most_common(1)[0]
    listed = ", ".join(suffixes)
    return (
        f"text folder {folder} has {others.total()} files and none ends in {listed}; the commonest ending is "
        f"{ending} ({count}), give suffixes=[{ending}] to read those"
    )
