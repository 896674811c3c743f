"""What is kept of a part of documents for finding duplicates: its content hashes and its signatures.

A file is a line of JSON (type, shape and place of each array) and the arrays, little-endian and each at a
multiple of 64 bytes, so that a reader maps them and touches only what it needs. (The headers of .npy files
take a millisecond to parse, too long for a file per part and bucket.) Content hashes are sorted when they
are written, equal ones only once: the hashes of one bucket (a range of their leading 64 bits) are then
one run in every part, and a part gives a bucket at most one row per content.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.corpus.duplicates.words import UInt64
from codex_ray.errors import CodexRayError
from codex_ray.files import unwritable

ALIGNMENT, HEADER = 64, 512
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """The hashes of one part, mapped and not read.

    Attributes:
        leading: first 64 bits of each different content hash, as big-endian numbers, ascending.
        rest: the other 24 bytes of each, in the same order.
        places: the first document of the part with that content.
        repeats: a pair (document, first document with the same content) for each of the others.
        signatures: MinHash signatures of all documents of the part; ``None`` where there are none.
        documents: documents in the part.
    """

    leading: UInt64
    rest: NDArray[np.uint8]
    places: NDArray[np.uint32]
    repeats: NDArray[np.uint32]
    signatures: NDArray[np.uint32] | None
    documents: int


def write_part(path: Path, sha256: NDArray[np.uint8], signatures: NDArray[np.uint32] | None) -> None:
    """Write the hashes of a part of documents in one step.

    Args:
        path: the file to write.
        sha256: SHA-256 of each document's text: [documents, 32].
        signatures: MinHash signatures: [documents, places]; ``None`` where near-duplicates are kept.

    Raises:
        CodexRayError: the file cannot be written.
    """
    digests = np.ascontiguousarray(sha256, dtype=np.uint8).reshape(-1, 32)
    numbers = digests.view(">u8").astype("<u8")
    order = np.lexsort(numbers.T[::-1])  # stable: equal contents stay in the part's order
    numbers = numbers[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (numbers[1:] != numbers[:-1]).any(axis=1)
    firsts = order[first]
    repeats = np.stack([order, firsts[np.cumsum(first) - 1]], axis=1)[~first]
    arrays = [
        np.ascontiguousarray(numbers[first, 0]),
        digests[firsts, 8:],
        firsts.astype("<u4"),
        repeats.astype("<u4"),
    ]
    write_arrays(path, arrays if signatures is None else [*arrays, signatures.astype("<u4", copy=False)])


def open_part(path: Path) -> Part:
    """Map the hashes that ``write_part`` wrote.

    Raises:
        CodexRayError: the file is missing, cut short or something else.
    """
    arrays = open_arrays(path)
    if len(arrays) not in (4, 5):
        raise CodexRayError(
            f"hashes of documents {path} are damaged (not 4 or 5 arrays); remove the file and prepare again"
        )
    leading, rest, places, repeats, *signatures = arrays
    documents = len(places) + len(repeats)
    return Part(leading, rest, places, repeats, signatures[0] if signatures else None, documents)


def write_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Replace ``path`` with ``arrays`` in one step.

    Raises:
        CodexRayError: the file cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            for block in (_header(arrays), *map(np.ascontiguousarray, arrays)):
                stream.write(bytes(-stream.tell() % ALIGNMENT))
                stream.write(block.data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def open_arrays(path: Path) -> list[Array]:
    """Map the arrays of a file of ``write_arrays``.

    Raises:
        CodexRayError: the file is missing, cut short or something else.
    """
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
        header, _, _ = data[:HEADER].tobytes().partition(b"\n")
        arrays: list[Array] = []
        stop = 0
        for kind, shape, start in json.loads(header):
            dtype = np.dtype(kind)
            stop = start + dtype.itemsize * math.prod(shape)
            arrays.append(np.asarray(data[start:stop]).view(dtype).reshape(shape))
        if stop != len(data):
            raise ValueError(f"{len(data)} bytes, not {stop}")
    except FileNotFoundError:
        raise CodexRayError(f"hashes of documents {path} do not exist; run prepare again") from None
    except (OSError, ValueError, TypeError) as error:
        raise CodexRayError(
            f"hashes of documents {path} are damaged ({error}); remove the file and run prepare again"
        ) from error
    return arrays


def _header(arrays: Sequence[Array]) -> Array:
    """Return the first ``HEADER`` bytes of a file: the types, shapes and places of its arrays."""
    entries, place = [], HEADER
    for array in arrays:
        place += -place % ALIGNMENT
        entries.append([array.dtype.newbyteorder("<").str, array.shape, place])
        place += array.nbytes
    return np.frombuffer(json.dumps(entries).encode().ljust(HEADER - 1) + b"\n", dtype=np.uint8)
