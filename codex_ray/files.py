"""Writing files so that nothing half-written counts, and locking folders.

An artefact is complete when its manifest appears, and the manifest is written last.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in bounded memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in one step: a reader sees the old file or the new one.

    Raises:
        CodexRayError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


SMALLEST_FREE_BYTES = 2**20  # less than this left after a failed write means the disk is full


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a path to write a file to, which takes the name of ``path`` when the block ends well.

    Several may do so at a time, as where a task is begun anew: the file at ``path`` is always whole.

    Args:
        path: the file to write or replace.
        folder: where it is until it is whole, on the same file system; unset is beside ``path``. A process
            that is killed leaves its half there.
    """
    temporary = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as indented JSON, in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str, remedy: str = "make it again") -> Any:
    """Read JSON that this project wrote.

    Raises:
        CodexRayError: the file is missing or is not JSON; ``what`` names it in the sentence, ``remedy`` says
            what to do where it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CodexRayError(f"{what} {path} does not exist; check the folder's name") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CodexRayError(f"{what} {path} is damaged ({error}); {remedy}") from error


def _free_bytes(path: Path) -> float:
    """Return what is left where ``path`` is or would be; unlimited where that cannot be said."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return math.inf


def unwritable(path: Path, error: OSError) -> CodexRayError:
    """Say why ``path`` could not be written, and what to do.

    numpy says that fewer bytes were written than it asked for, and not why; the disk itself is asked then.
    """
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (error.errno is None and _free_bytes(path) < SMALLEST_FREE_BYTES):
        return CodexRayError(f"the disk is full while writing {path}; free some space and run it again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return CodexRayError(f"{path} cannot be written ({error.strerror}); choose a folder you may write to")
    return CodexRayError(f"{path} cannot be written ({error.strerror or error})")


LOCK_TRIES, LOCK_PAUSE_SECONDS = 5, 0.05


def _lock(handle: int) -> None:
    """Take a lock; whoever only looks whether it is held has it for an instant."""
    for last in range(LOCK_TRIES - 1, -1, -1):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not last:
                raise
            time.sleep(LOCK_PAUSE_SECONDS)


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold ``folder`` for one process; the lock goes with the process however it ends.

    Raises:
        CodexRayError: another process holds it, named by its process id.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        try:
            _lock(handle)
        except OSError:
            holder = os.pread(handle, 100, 0).decode(errors="replace").strip() or "another process"
            raise CodexRayError(
                f"{what} {folder} is in use by {holder}; wait for it to end or choose another folder"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)
