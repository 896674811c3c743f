"""Members of zip and tar archives, in the archive's order. Nothing is written: a name is only a name."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from codex_ray.corpus.sources.decompress import Allowance
from codex_ray.corpus.sources.names import label
from codex_ray.corpus.sources.reasons import UnreadableError, damaged
from codex_ray.corpus.sources.storage import Opened
from codex_ray.corpus.sources.streams import DAMAGE, Pipe, Readable


@dataclass
class Member:
    """A file in an archive: its label, its name as stored, its size, and how to read it in order."""

    label: str
    name: str
    size: int
    allowance: Allowance
    stream: Readable | UnreadableError


class Names:
    """Labels of members, told apart where an archive holds a name more than once."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """Return a label for the next member of this name."""
        text = label(name.encode("utf-8", "surrogateescape"))
        self._seen[text] += 1
        return text if self._seen[text] == 1 else f"{text}#{self._seen[text]}"


def zip_members(file: Opened, allowance: Allowance) -> Iterator[Member]:
    """Yield the files of a zip archive; each may expand as far as its own size allows, within the whole's.

    Raises:
        UnreadableError: its table of contents is damaged.
    """
    names = Names()
    try:
        archive = zipfile.ZipFile(file)
        contents = archive.infolist()
    except DAMAGE as error:
        raise damaged(error) from error
    for info in contents:
        if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
            continue
        own = Allowance(info.compress_size, allowance.expansion, allowance)
        stream: Readable | UnreadableError
        try:
            stream = _Counted(archive.open(info), own)
        except DAMAGE as error:
            encrypted = info.flag_bits & 1
            stream = UnreadableError("cannot be read: encrypted") if encrypted else damaged(error)
        yield Member(names.unique(info.filename), info.filename, info.file_size, own, stream)


def tar_members(pipe: Pipe, allowance: Allowance) -> Iterator[Member]:
    """Yield the files of a tar archive, each to be read before the next.

    Raises:
        UnreadableError: it is damaged from here on.
    """
    names = Names()
    try:
        source: Any = pipe  # it reads, and a stream is asked for no more
        archive: Any = tarfile.open(fileobj=source, mode="r|", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        while (info := archive.next()) is not None:
            archive.members.clear()  # it would remember them all
            if not info.isreg():
                continue
            stream = archive.extractfile(info)
            if stream is None:
                continue
            # Holes cost an archive nothing, so that a small one could hold terabytes of them.
            counted: Readable = _Counted(stream, allowance) if info.issparse() else stream
            own = Allowance(info.size, allowance.expansion, allowance)
            yield Member(names.unique(info.name), info.name, info.size, own, counted)
        if archive.offset + tarfile.BLOCKSIZE > pipe.position:
            raise UnreadableError("damaged: the tar archive ends without its end mark")
    except DAMAGE as error:
        raise damaged(error) from error


def base_name(name: str) -> str:
    """Return the last part of a member's name, with either kind of slash."""
    return os.path.basename(name.replace("\\", "/"))  # noqa: PTH119 -- a name, not a path


class _Counted:
    """A member whose bytes are drawn from an allowance."""

    def __init__(self, stream: Readable, allowance: Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._allowance.charge(len(data))
        return data
