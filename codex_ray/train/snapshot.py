"""Copies in host memory of what a checkpoint's files are to hold, so that they can be written later.

The next optimizer step changes tensors in place. So everything is taken as it is now: objects are pickled, as
the file itself would have them, and every storage that a tensor refers to is copied once, into memory that
the next snapshot uses again.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import UntypedStorage
from torch.storage import TypedStorage


class HostCopies:
    """Takes copies; the memory of those before :meth:`reuse` serves those after it.

    Fresh memory costs many times what copying into it does, as the kernel has to find it page by page.
    """

    def __init__(self) -> None:
        self._used: list[UntypedStorage] = []
        self._free: dict[int, list[UntypedStorage]] = {}

    def reuse(self) -> None:
        """Say that no copy taken so far is needed any more."""
        for storage in self._used:
            self._free.setdefault(storage.nbytes(), []).append(storage)
        self._used = []

    def take(self, contents: Any) -> Callable[[], Any]:
        """Copy ``contents``, anything that ``torch.save`` takes; returns what makes the copy.

        Copies from a GPU are complete after :meth:`settle`.
        """
        stream, storages = io.BytesIO(), list[UntypedStorage]()
        _Pickler(stream, self._copy, storages).dump(contents)
        return lambda: _Unpickler(io.BytesIO(stream.getvalue()), storages).load()

    def settle(self) -> None:
        """Wait until what has been taken is in host memory."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _copy(self, source: UntypedStorage) -> UntypedStorage:
        size = source.nbytes()
        free = self._free.get(size)
        if free:
            copy = free.pop()
        else:
            pinned = source.device.type == "cuda"
            copy = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
        copy.copy_(source, non_blocking=True)
        self._used.append(copy)
        return copy


class _Pickler(pickle.Pickler):
    """Pickles everything but storages, of which it keeps copies; tensors may share one."""

    def __init__(
        self,
        stream: io.BytesIO,
        copy: Callable[[UntypedStorage], UntypedStorage],
        storages: list[UntypedStorage],
    ) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._copy, self._storages = copy, storages
        self._places: dict[int, int] = {}
        self._sources: list[UntypedStorage] = []  # held, so that no address stands for two of them

    def persistent_id(self, thing: Any) -> tuple[int, torch.dtype] | None:
        if not isinstance(thing, TypedStorage):
            return None
        storage = thing._untyped_storage
        if storage._cdata not in self._places:
            self._places[storage._cdata] = len(self._storages)
            self._sources.append(storage)
            self._storages.append(self._copy(storage))
        return self._places[storage._cdata], thing.dtype


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, storages: list[UntypedStorage]) -> None:
        super().__init__(stream)
        self._storages = storages

    def persistent_load(self, place: tuple[int, torch.dtype]) -> TypedStorage:
        index, dtype = place
        return TypedStorage(wrap_storage=self._storages[index], dtype=dtype, _internal=True)
