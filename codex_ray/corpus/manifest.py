"""The manifest of a corpus: what it holds, with hashes; written last, so that its presence means complete.

::

    corpus/manifest.json          this file
    corpus/tokenizer/             the tokenizer every row was made with
    corpus/SPLIT/SOURCE-shard-00000.parquet        rows of tokens
    corpus/SPLIT/SOURCE-index-00000.parquet        which document each run of tokens is of
    corpus/SPLIT/SOURCE-documents-00000.parquet    text of held-out documents
    corpus/quarantine.jsonl       items that could not be read as text, each with its reason
    corpus/report.html            all this for a reader; made from the rest, so the manifest does not name it
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from codex_ray.corpus.account import Account
from codex_ray.corpus.mixture import Mixture, apportion
from codex_ray.corpus.order import Order
from codex_ray.errors import CodexRayError, nearest
from codex_ray.files import read_json, sha256_of, write_json

FORMAT_VERSION = 1
NAME = "manifest.json"
SPLITS = ("train", "validation", "test")
WINDOW_TOKENS = 2**24  # mixed together by the order; also what a reader holds, 32 MiB of uint16


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file of rows; ``tokens`` is rows times the sequence length."""

    path: str
    rows: int
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DocumentsInfo:
    """One Parquet file of held-out documents' text; ``bytes`` is the file's size."""

    path: str
    documents: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SourceRows:
    """What one named source gave to a split; its shards hold no other source's rows.

    ``weight`` is its share of the positions of training; the weights of a split with rows add up to
    one. ``tokens`` counts all tokens of its documents, special ones included; ``unused_tokens`` of
    them are in no row. ``bytes`` is the documents' UTF-8 text.
    """

    source: str
    weight: float
    rows: int
    tokens: int
    unused_tokens: int
    documents: int
    bytes: int
    shards: list[ShardInfo]
    index_files: list[DocumentsInfo] = field(default_factory=list)


@dataclass(frozen=True)
class SplitInfo:
    """One split: the rows of its sources, one source after the other.

    Every shard of a source holds ``rows_per_shard`` rows except its last.
    """

    sources: list[SourceRows]
    row_group_rows: int
    rows_per_shard: int
    document_files: list[DocumentsInfo] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(source.rows for source in self.sources)

    @property
    def tokens(self) -> int:
        """Tokens of all documents, special ones included."""
        return sum(source.tokens for source in self.sources)

    @property
    def unused_tokens(self) -> int:
        """Tokens that are in no row."""
        return sum(source.unused_tokens for source in self.sources)

    @property
    def documents(self) -> int:
        """Documents of all sources."""
        return sum(source.documents for source in self.sources)

    @property
    def bytes(self) -> int:
        """UTF-8 text of all documents."""
        return sum(source.bytes for source in self.sources)

    @property
    def shards(self) -> list[ShardInfo]:
        """Shards of all sources, in the order of their rows."""
        return [shard for source in self.sources for shard in source.shards]

    def row_groups(self) -> Iterator[range]:
        """Iterate over the row ids of each row group, the unit of reading."""
        first = 0
        for source in self.sources:
            stop = first + source.rows
            for start in range(first, stop, self.row_group_rows):
                yield range(start, min(start + self.row_group_rows, stop))
            first = stop

    def check(self) -> None:
        """Raise ``ValueError`` where sources, weights and shards contradict each other."""
        names = [source.source for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have one name")
        if min(self.row_group_rows, self.rows_per_shard) < 1 or self.rows_per_shard % self.row_group_rows:
            raise ValueError("its shards are not made of whole row groups")
        for source in self.sources:
            sizes = [shard.rows for shard in source.shards]
            full = [min(self.rows_per_shard, source.rows - sum(sizes[:n])) for n in range(len(sizes))]
            if source.rows < 0 or sum(sizes) != source.rows or sizes != full:
                raise ValueError(f"the shards of source {source.source!r} do not hold its rows")
            if not 0 <= source.weight <= 1 or (source.weight > 0 and source.rows == 0):
                raise ValueError(f"source {source.source!r} cannot have the weight {source.weight}")
        if self.rows and not math.isclose(sum(source.weight for source in self.sources), 1, abs_tol=1e-6):
            raise ValueError("its weights do not add up to one")


@dataclass(frozen=True)
class Manifest:
    """A complete corpus.

    ``sources`` tells of each source where it was and what became of its items. ``request`` names what
    was asked for: the sources' files as they were, and every setting. ``content`` names what went in
    (text, settings, tokenizer) and is written into every shard, so that a shard of another corpus is
    recognised; ``fingerprint`` names what came out (shard hashes and layout); ``life_id`` is drawn from
    it and follows the corpus into runs and models.
    """

    format_version: int
    sequence_length: int
    vocabulary_size: int
    dtype: str
    tokenizer_digest: str
    content: str
    fingerprint: str
    life_id: str
    settings: dict[str, Any]
    request: str
    sources: dict[str, dict[str, Any]]
    splits: dict[str, SplitInfo]
    folder: Path = field(default=Path(), compare=False)

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Read a corpus folder's manifest and check it against itself and the tokenizer beside it.

        Raises:
            CodexRayError: there is none, it is damaged or of a newer format, or the tokenizer in
                the folder is not the one the rows were made with.
        """
        manifest = cls.read(folder)
        manifest.check_fingerprint()
        manifest.check_tokenizer()
        return manifest

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read a corpus folder's manifest without checking it against what is beside it.

        Raises:
            CodexRayError: there is none, or it is no manifest or of a newer format.
        """
        folder = Path(folder)
        if not (folder / NAME).is_file():
            what = "has no manifest.json, so it is not complete" if folder.is_dir() else "does not exist"
            raise CodexRayError(
                f"corpus folder {folder} {what}; make it with codex-ray prepare output={folder}"
            )
        return cls._parse(read_json(folder / NAME, "corpus manifest"), folder)

    @classmethod
    def _parse(cls, data: Any, folder: Path) -> Manifest:
        version = data.get("format_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CodexRayError(
                f"corpus {folder} has format {version} and this codex_ray reads up to {FORMAT_VERSION}; "
                "upgrade codex_ray or prepare the corpus again"
            )
        try:
            splits = {name: _split(split) for name, split in data["splits"].items()}
            values = {f.name: data[f.name] for f in fields(cls) if f.name not in ("splits", "folder")}
            for split in splits.values():
                split.check()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(folder / NAME, f"{type(error).__name__}: {error}") from error
        return cls(**values, splits=splits, folder=folder)

    def save(self) -> None:
        """Write the manifest into its folder in one step; do this when all else is in place."""
        data = asdict(self)
        del data["folder"]
        write_json(self.folder / NAME, data)

    def split(self, name: str) -> SplitInfo:
        """Return a split that has rows.

        Raises:
            CodexRayError: there is no such split or it has no rows.
        """
        if name not in self.splits:
            raise CodexRayError(f"corpus {self.folder} has no split {name!r}{nearest(name, self.splits)}")
        if self.splits[name].rows == 0:
            raise CodexRayError(
                f"split {name!r} of corpus {self.folder} has no rows; prepare it again with a larger "
                f"split.{name} or more text"
            )
        return self.splits[name]

    def order(self, split: str, seed: int) -> Order | Mixture:
        """Return the seeded global order of a split's rows, drawn from its sources by weight."""
        weights = [source.weight for source in self.split(split).sources]
        orders = self.source_orders(split, seed, weights)
        if len(orders) == 1 and orders[0]:
            return orders[0]
        return Mixture(orders, weights, seed)

    def source_orders(self, split: str, seed: int, weights: Sequence[float]) -> list[Order | None]:
        """Return the order of each source's own rows (None where it has none).

        A single source has the seed itself. Of several, each has a seed drawn from it and the source's
        name, so that adding a source leaves the others' orders as they are. The row groups that are
        mixed together, which a reader holds, are shared out by weight.
        """
        info = self.split(split)
        windows = apportion(weights, max(1, WINDOW_TOKENS // (info.row_group_rows * self.sequence_length)))
        orders: list[Order | None] = []
        for source, window in zip(info.sources, windows, strict=True):
            own = seed
            if len(info.sources) > 1:
                own = int.from_bytes(hashlib.sha256(f"{seed} {source.source}".encode()).digest()[:8], "big")
            order = Order(source.rows, info.row_group_rows, max(1, window), own) if source.rows else None
            orders.append(order)
        return orders

    def verify(self, deep: bool = True) -> None:
        """Check that every file is there and whole; ``deep`` also hashes each one.

        Raises:
            CodexRayError: naming the first file that is missing, cut short or changed.
        """
        for info in self.files():
            path = self.folder / info.path
            check_size(path, info.bytes)
            if deep and sha256_of(path) != info.sha256:
                raise damaged(path, "its SHA-256 is not the manifest's")

    def account(self) -> Account:
        """Return what became of the items of all sources together."""
        total = Account()
        for source in self.sources.values():
            total.add(Account.from_plain(source))
        return total

    def settings_of(self, source: str) -> dict[str, Any]:
        """Return the settings that a source was made with; joined corpora keep those of each."""
        found: dict[str, Any] = self.settings.get("merged", {}).get(source, self.settings)
        return found

    def files(self) -> Iterator[ShardInfo | DocumentsInfo]:
        """Iterate over every file the manifest vouches for."""
        for split in self.splits.values():
            for source in split.sources:
                yield from source.shards
                yield from source.index_files
            yield from split.document_files

    def compute_fingerprint(self) -> str:
        """Hash what came out: layout, tokenizer and the hashes of all files, in order."""
        layout = [self.format_version, self.sequence_length, self.dtype, self.vocabulary_size]
        digest = hashlib.sha256(json.dumps([*layout, self.tokenizer_digest, self.content]).encode())
        for name, split in sorted(self.splits.items()):
            sources = [[source.source, source.weight, source.rows] for source in split.sources]
            digest.update(json.dumps([name, sources, split.row_group_rows, split.rows_per_shard]).encode())
        for info in self.files():
            digest.update(f"{info.path}\0{info.bytes}\0{info.sha256}\n".encode())
        return digest.hexdigest()

    def sealed(self) -> Manifest:
        """Return this manifest with its fingerprint and the life id drawn from it."""
        fingerprint = self.compute_fingerprint()
        life_id = hashlib.sha256(f"life {fingerprint}".encode()).hexdigest()[:32]
        return replace(self, fingerprint=fingerprint, life_id=life_id)

    def check_fingerprint(self) -> None:
        """Refuse a manifest that was changed after it was sealed.

        Raises:
            CodexRayError: its fingerprint is not that of what it lists.
        """
        if self.fingerprint != self.compute_fingerprint():
            raise damaged(self.folder / NAME, "its fingerprint does not match its shards")

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer that is not the one the rows were made with.

        Raises:
            CodexRayError: naming both digests.
        """
        from codex_ray.tokenizer import Tokenizer

        found = Tokenizer.load(self.folder / "tokenizer").digest
        if found != self.tokenizer_digest:
            raise CodexRayError(
                f"the tokenizer in {self.folder / 'tokenizer'} is not the one the corpus was made with "
                f"({found[:12]} instead of {self.tokenizer_digest[:12]}); put that one back or prepare again"
            )


REMEDY = "copy it again or prepare the corpus again"


def check_size(path: Path, size: int) -> None:
    """Refuse a file that is missing or whose size is not the manifest's.

    Raises:
        CodexRayError: naming the file.
    """
    try:
        found = path.stat().st_size
    except OSError as error:
        raise CodexRayError(f"{path} cannot be read ({error.strerror}); {REMEDY}") from error
    if found != size:
        raise damaged(path, f"it has {found} bytes, the manifest says {size}")


def damaged(path: Path, why: str) -> CodexRayError:
    """Say that a file of the corpus is not what the manifest says."""
    return CodexRayError(f"{path} is damaged ({why}); {REMEDY}")


def _split(data: dict[str, Any]) -> SplitInfo:
    sources = [
        SourceRows(
            **{
                **source,
                "shards": [ShardInfo(**shard) for shard in source["shards"]],
                "index_files": [DocumentsInfo(**info) for info in source["index_files"]],
            }
        )
        for source in data["sources"]
    ]
    documents = [DocumentsInfo(**info) for info in data["document_files"]]
    return SplitInfo(**{**data, "sources": sources, "document_files": documents})
