"""A folder of texts among which 1 % each are of every kind of file that cannot be read."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scale.records import LINE_BYTES, SEED

TEXTS, EACH = 2000, 20
HUGE_LINE_BYTES = 10**9  # the first of the over-long lines
BOMB_BYTES = 256 * 2**20

Write = Callable[[Path, int], None]


def write_files(folder: Path) -> dict[str, int]:
    """Write the folder; returns how many items are to end under each reason, and ``kept``."""
    random = np.random.default_rng(SEED)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", dtype=np.uint8)
    (folder / "texts").mkdir(parents=True)
    for number in range(TEXTS):
        (folder / "texts" / f"{number:04d}.txt").write_bytes(random.choice(letters, 500).tobytes())
    expected = {"kept": TEXTS}
    for name, (reason, write) in FORMS.items():
        (folder / name).mkdir()
        for number in range(EACH):
            write(folder / name, number)
        items = 2 * EACH if name == "tar" else EACH  # the member that is cut, and what may have followed it
        expected[reason] = expected.get(reason, 0) + items
    return expected


def _plain(suffix: str, content: bytes) -> Write:
    def write(folder: Path, number: int) -> None:
        (folder / f"{number:02d}{suffix}").write_bytes(content)

    return write


def _noise(number: int) -> bytes:
    return np.random.default_rng((SEED, number)).bytes(20_000).hex().encode()


def _cut(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) * 2 // 3])


def _zip(folder: Path, number: int) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("member.txt", _noise(number))
    _cut(folder / f"{number:02d}.zip", held.getvalue())


def _tar(folder: Path, number: int) -> None:
    held, content = io.BytesIO(), _noise(number)
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        member = tarfile.TarInfo("member.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    _cut(folder / f"{number:02d}.tar.gz", held.getvalue())


def _parquet(folder: Path, number: int) -> None:
    held = io.BytesIO()
    pq.write_table(pa.table({"text": [_noise(number).decode()]}), held)
    _cut(folder / f"{number:02d}.parquet", held.getvalue())


def _bomb(folder: Path, number: int) -> None:
    (folder / f"{number:02d}.txt.gz").write_bytes(_packed_bomb())


@lru_cache(maxsize=1)
def _packed_bomb() -> bytes:
    return gzip.compress(b"a" * BOMB_BYTES)


def _long_line(folder: Path, number: int) -> None:
    with (folder / f"{number:02d}.jsonl").open("wb") as stream:
        stream.write(b'{"text": "')
        left = HUGE_LINE_BYTES if number == 0 else 2 * LINE_BYTES
        while left > 0:
            left -= stream.write(b"a" * min(left, 2**20))
        stream.write(b'"}\n')


def _missing(folder: Path, number: int) -> None:
    (folder / f"{number:02d}.txt").symlink_to(folder / "nowhere")


def _loop(folder: Path, number: int) -> None:
    (folder / f"{number:02d}.txt").symlink_to(folder / f"{number:02d}.txt")


def _pipe(folder: Path, number: int) -> None:
    os.mkfifo(folder / f"{number:02d}.txt")


FORMS: dict[str, tuple[str, Write]] = {
    "invalid_utf8": ("not UTF-8", _plain(".txt", b"words \xff\xfe and more words")),
    "utf16": ("binary", _plain(".txt", "words in another encoding, unmarked".encode("utf-16-le"))),
    "nul": ("binary", _plain(".txt", b"words and a \0 among them")),
    "empty": ("length/too_short", _plain(".txt", b"")),
    "missing": ("cannot be read", _missing),
    "loop": ("cannot be read", _loop),
    "pipe": ("not a regular file", _pipe),
    "zip": ("damaged", _zip),
    "tar": ("damaged", _tar),
    "parquet": ("damaged", _parquet),
    "bomb": ("expands too far", _bomb),
    "long_line": ("too large", _long_line),
}
