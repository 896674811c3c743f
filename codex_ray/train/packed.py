"""A checkpoint's files on disk: written, hashed and compressed in one go, and unpacked again."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from codex_ray.files import unwritable


def write_packed(contents: Any, path: Path, compression: str) -> str:
    """Write ``contents`` as ``torch.save`` does, compressed with ``compression`` (``none`` or ``zstd``).

    Returns:
        The SHA-256 of the file.

    Raises:
        OSError: as the file system says; what is written of the file is taken away.
    """
    try:
        with path.open("wb", buffering=0) as file:
            hashed = _Hashed(file)
            with _compressed(hashed, compression) as stream:
                torch.save(contents, stream)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return hashed.digest()


def unpack(folder: Path, target: Path, names: Sequence[str], compression: str) -> None:
    """Write the files ``names`` of a checkpoint's folder into ``target`` as they were before compression.

    With ``none`` they are copied.

    Raises:
        CodexRayError: the disk is full or the folder cannot be written.
    """
    for name in names:
        try:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with _plain(folder / name, compression) as source, (target / name).open("wb") as plain:
                shutil.copyfileobj(source, plain, 2**20)
        except OSError as error:
            raise unwritable(target / name, error) from error


def _plain(path: Path, compression: str) -> Any:
    if compression == "none":
        return path.open("rb")
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(path)), compression)


class _Hashed:
    """A file being written, and the hash of what goes into it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Take no more; the file itself is closed by who opened it."""
        self.closed = True

    def writable(self) -> bool:
        return True

    def digest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def _compressed(file: _Hashed, compression: str) -> Iterator[Any]:
    if compression == "none":
        yield file
        return
    import pyarrow as pa

    with pa.PythonFile(file, mode="w") as raw, pa.CompressedOutputStream(raw, compression) as stream:
        yield stream
