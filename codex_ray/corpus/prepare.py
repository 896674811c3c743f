"""``prepare``: a folder of text becomes a corpus folder, through two Ray Data passes.

Everything is built in a hidden folder beside the output and takes the output's name when it is
complete, so the output is always a whole corpus, the old or the new one. The same text and settings
give byte-identical shards, whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from codex_ray.config.common import DEFAULT_SEED
from codex_ray.config.corpus import Prepare
from codex_ray.config.fields import to_dict
from codex_ray.corpus import manifest as manifests
from codex_ray.corpus.gather import Gathered, ScanTask, Source, gather, group_by_bytes, sample, scan
from codex_ray.corpus.manifest import SPLITS, DocumentsInfo, Manifest, ShardInfo, SourceRows, SplitInfo
from codex_ray.corpus.pack import Layout, dtype_for, identity, pieces
from codex_ray.corpus.read import SourceFile, find_files, text_folder
from codex_ray.corpus.tasks import (
    DocumentsTask,
    PartTask,
    ShardTask,
    read_source,
    tokenise_part,
    write_task,
)
from codex_ray.corpus.workspace import Workspace, check_output
from codex_ray.errors import CodexRayError
from codex_ray.files import write_text
from codex_ray.track.progress import Progress, open_progress

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

SCAN_HERE_BYTES = 256 * 2**20  # less is scanned in a second here, sooner than Ray Data would start
SCAN_TASK_BYTES = 32 * 2**20
PART_BYTES = (2**20, 256 * 2**20)  # text per part: small for balance, large for few files
PARTS_WANTED = 4096
DOCUMENTS_BYTES = 64 * 2**20  # text per file of held-out documents
SAMPLE_SPREAD = 4  # documents read for the tokenizer's sample, which takes pieces of them, per byte of it
SOURCE = "text"  # the name of the single source
STALL_SECONDS = 600.0  # longest wait for any task of a pass to end


@dataclass(frozen=True)
class Prepared:
    """A finished corpus. ``reused`` says that it was there already, made of the same."""

    folder: Path
    manifest: Manifest
    reused: bool
    message: str
    seconds: dict[str, float]


def prepare(settings: Prepare, progress: Progress | None = None) -> Prepared:
    """Make a corpus folder from a folder of text.

    A corpus that is there already, made of the same text with the same settings, is left as it is; one
    made otherwise is replaced when the new one is complete, after saying what changed.

    Args:
        settings: the settings of ``prepare``.
        progress: the caller's display; unset makes one.

    Raises:
        CodexRayError: no usable text, too little for a row, a full disk, an unreadable file with
            on_error=fail, another prepare in the same folder, or Ray's failure.
        ConfigError: the output cannot be a corpus folder.
    """
    from codex_ray.cluster.session import refuse_relative_in_job

    text, skip_names = text_folder(settings.text)
    refuse_relative_in_job(settings.output, "output")
    output = Path(settings.output).expanduser().absolute()
    check_output(output, text)
    workspace = Workspace(output)
    with open_progress(progress, settings.track.progress) as shown, workspace.hold():
        own = [output, workspace.folder]
        files = find_files(text, settings.suffixes, skip_names=skip_names, skip_folders=own)
        prepared = _Preparation(settings, text, workspace, shown).run(files)
        if progress is None:
            shown.table(prepared.message, summary_rows(prepared))
        else:
            shown.note(prepared.message)
    return prepared


def summary_rows(prepared: Prepared) -> list[tuple[str, str]]:
    """Return what a person wants to know of a corpus, and the command that goes on from it."""
    manifest = prepared.manifest
    source = manifest.source
    rows = []
    for name, split in manifest.splits.items():
        counts = ("documents", "bytes", "tokens", "rows")
        rows.append((name, ", ".join(f"{getattr(split, count):,} {count}" for count in counts)))
    size = sum(split.bytes for split in manifest.splits.values())
    rows.append(("bytes per token", f"{size / sum(split.tokens for split in manifest.splits.values()):.2f}"))
    for name in ("dropped", "quarantined"):
        kinds = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in source[name].items()]
        rows.append((name, ", ".join(kinds) or "none"))
    rows.append(("next", f"codex-ray pretrain corpus={shlex.quote(str(prepared.folder))}"))
    return rows


class _Preparation:
    """One run of ``prepare``: its settings, folders, display and clock."""

    def __init__(self, settings: Prepare, text: Path, workspace: Workspace, progress: Progress) -> None:
        self.settings, self.text, self.progress = settings, text, progress
        self.workspace, self.output, self.building = workspace, workspace.output, workspace.new
        self.seed = settings.seed or DEFAULT_SEED
        self.seconds: dict[str, float] = {}
        self._session = ExitStack()

    def run(self, files: list[SourceFile]) -> Prepared:
        with self._session:
            gathered = self._read(files)
            found = self._existing()
            tokenizer_digest = self._given_tokenizer_digest()
            if found and not (changed := self._changes(found, gathered, tokenizer_digest)):
                message = f"corpus {self.output} is already made of the same text with the same settings"
                return Prepared(self.output, found, True, message, self.seconds)
            if found:
                self.progress.note(f"corpus {self.output} is prepared again: {'; '.join(changed)}")
            self._check_documents(gathered)
            tokenizer = self._make_tokenizer(gathered)
            layout = self._layout(tokenizer)
            self._open_ray()
            counts = self._tokenise(gathered, layout)
            manifest = self._pack(gathered, tokenizer, layout, counts)
        return self._finish(manifest, gathered)

    def _read(self, files: list[SourceFile]) -> Gathered:
        settings, sizes = self.settings, [file.size for file in files]
        runs = group_by_bytes(sizes, SCAN_TASK_BYTES)
        tasks = [ScanTask(self.text, files[run], settings.clean) for run in runs]
        scan_here = sum(sizes) <= SCAN_HERE_BYTES
        if not scan_here:
            self._open_ray()
        with self._stage("read", len(files), "files"):
            if scan_here:
                tables: Iterable[pa.Table] = map(scan, tasks)
            else:
                tables = self._run_tasks(scan, tasks, ordered=True)
            gathered = gather(
                self._counted(tables, "rows"), settings.duplicates.exact, settings.split, self.seed
            )
        if gathered.quarantined and settings.on_error == "fail":
            name, reason = gathered.quarantined[0]
            raise CodexRayError(
                f"{name} cannot be used ({reason}), and {len(gathered.quarantined) - 1} other files; "
                "remove or convert them, or set on_error=skip"
            )
        return gathered

    def _check_documents(self, gathered: Gathered) -> None:
        statistics = gathered.statistics()
        if not gathered.documents:
            kinds = statistics["dropped"] | statistics["quarantined"]
            reasons = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())
            raise CodexRayError(
                f"no usable text among the {statistics['files']} files of {self.text} ({reasons}); "
                "see the clean.* settings for limits, and convert what is not UTF-8"
            )
        present = {source.split for source in gathered.documents}
        for split, share in (("train", 1.0), ("validation", self.settings.split.validation)):
            if share > 0 and split not in present:
                raise CodexRayError(
                    f"none of the {len(gathered.documents)} documents fell into the {split} split; add "
                    "documents or change the shares in split.* (split.validation=0 holds none out)"
                )

    def _make_tokenizer(self, gathered: Gathered) -> Tokenizer:
        from codex_ray.tokenizer import Tokenizer, train_tokenizer

        wanted, folder = self.settings.tokenizer, self.building / "tokenizer"
        with self._stage("tokenizer"):
            if wanted.path is not None:
                tokenizer = Tokenizer.load(wanted.path)
                tokenizer.save(folder)
                return Tokenizer.load(folder)
            train = [source for source in gathered.documents if source.split == "train"]
            chosen = sample(train, SAMPLE_SPREAD * wanted.sample_bytes, self.seed)
            texts = (read_source(self.text, source) for source in chosen)
            return train_tokenizer(texts, wanted, folder, self.seed)

    def _layout(self, tokenizer: Tokenizer) -> Layout:
        pack = self.settings.pack
        rows_per_shard = pack.row_group_rows * pack.shard_row_groups
        return Layout(
            pack.sequence_length, pack.row_group_rows, rows_per_shard, dtype_for(tokenizer.vocabulary_size)
        )

    def _tokenise(self, gathered: Gathered, layout: Layout) -> dict[str, list[int]]:
        """Pass 1; returns the tokens of every part, per split."""
        documents, parts = gathered.documents, self.building / "parts"
        parts.mkdir()
        sizes = [source.bytes for source in documents]
        limit = min(max(sum(sizes) // PARTS_WANTED, PART_BYTES[0]), PART_BYTES[1])
        tasks = [
            PartTask(self.text, documents[run], self.building / "tokenizer", parts, number, layout.dtype)
            for number, run in enumerate(group_by_bytes(sizes, limit))
        ]
        counts = {split: [0] * len(tasks) for split in SPLITS}
        with self._stage("tokenise", sum(sizes), "bytes"):
            for table in self._counted(self._run_tasks(tokenise_part, tasks), "bytes"):
                (row,) = table.to_pylist()
                for split in SPLITS:
                    counts[split][row["part"]] = row[split]
        return counts

    def _pack(
        self, gathered: Gathered, tokenizer: Tokenizer, layout: Layout, counts: dict[str, list[int]]
    ) -> Manifest:
        """Pass 2; returns the manifest of what was written, not yet saved."""
        deciding = self._deciding()
        content = _digest([deciding, tokenizer.digest, gathered.digest])
        rows = {split: sum(counts[split]) // layout.sequence_length for split in SPLITS}
        self._check_rows(gathered, counts, rows, layout)
        tasks: list[ShardTask | DocumentsTask] = []
        for split in SPLITS:
            folder = self.building / split
            folder.mkdir()
            tasks += self._shard_tasks(folder, counts[split], rows[split], layout, content)
            if split != "train":
                tasks += self._documents_tasks(folder, gathered)
        written: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        with self._stage("pack", len(tasks), "shards"):
            for table in self._counted(self._run_tasks(write_task, tasks), "rows"):
                (row,) = table.to_pylist()
                written[row["split"]].append(row)
        splits = {
            split: _split_info(gathered, split, sum(counts[split]), rows[split], layout, written[split])
            for split in SPLITS
        }
        source = {"text": self.settings.text, **gathered.statistics()}
        return Manifest(
            format_version=manifests.FORMAT_VERSION,
            sequence_length=layout.sequence_length,
            vocabulary_size=tokenizer.vocabulary_size,
            dtype=layout.dtype,
            tokenizer_digest=tokenizer.digest,
            content=content,
            fingerprint="",
            life_id="",
            settings=deciding,
            source=source,
            splits=splits,
            folder=self.building,
        ).sealed()

    def _shard_tasks(
        self, folder: Path, counts: list[int], rows: int, layout: Layout, content: str
    ) -> Iterator[ShardTask]:
        length, parts = layout.sequence_length, self.building / "parts"
        for number, (first, count) in enumerate(layout.shards(rows)):
            found = pieces(counts, first * length, (first + count) * length)
            path = folder / f"shard-{number:05d}.parquet"
            named = identity(content, folder.name, SOURCE, number)
            yield ShardTask(path, folder.name, parts, found, layout, named)

    def _documents_tasks(self, folder: Path, gathered: Gathered) -> Iterator[DocumentsTask]:
        held = [source for source in gathered.documents if source.split == folder.name]
        for number, run in enumerate(group_by_bytes([source.bytes for source in held], DOCUMENTS_BYTES)):
            yield DocumentsTask(self.text, held[run], folder / f"documents-{number:05d}.parquet")

    def _check_rows(
        self, gathered: Gathered, counts: dict[str, list[int]], rows: dict[str, int], layout: Layout
    ) -> None:
        present = {source.split for source in gathered.documents}
        for split in ("train", "validation"):
            if split in present and rows[split] == 0:
                raise CodexRayError(
                    f"the {split} split has {sum(counts[split])} tokens, fewer than one row of "
                    f"{layout.sequence_length}; add text, lower pack.sequence_length or change the "
                    "shares in split.*"
                )

    def _finish(self, manifest: Manifest, gathered: Gathered) -> Prepared:
        """Write the manifest and give the finished folder its name."""
        shutil.rmtree(self.building / "parts")
        write_text(self.building / "quarantine.jsonl", gathered.quarantine_lines())
        manifest.save()
        self.workspace.finish()
        rows = manifest.splits["train"].rows
        message = f"corpus {self.output} is made: {rows:,} training rows of {manifest.sequence_length} tokens"
        if gathered.quarantined:
            message += f"; {len(gathered.quarantined)} files were not text (quarantine.jsonl says why)"
        return Prepared(self.output, replace(manifest, folder=self.output), False, message, self.seconds)

    def _existing(self) -> Manifest | None:
        """Return the corpus that is there, if it can be read; a damaged one is made again."""
        if not (self.output / manifests.NAME).exists():
            return None
        try:
            found = Manifest.load(self.output)
            found.verify(deep=False)
        except CodexRayError as error:
            self.progress.note(f"the corpus there is made again: {error}")
            return None
        return found

    def _changes(self, found: Manifest, gathered: Gathered, tokenizer_digest: str | None) -> list[str]:
        """Say in words what differs between the corpus that is there and the one asked for."""
        changed = _differences(found.settings, self._deciding())
        if found.source.get("digest") != gathered.digest:
            changed.append("the text changed")
        if tokenizer_digest is not None and tokenizer_digest != found.tokenizer_digest:
            changed.append("the tokenizer changed")
        return changed

    def _given_tokenizer_digest(self) -> str | None:
        if self.settings.tokenizer.path is None:
            return None
        from codex_ray.tokenizer import Tokenizer

        return Tokenizer.load(self.settings.tokenizer.path).digest

    def _deciding(self) -> dict[str, Any]:
        """Return the settings that decide what the corpus holds."""
        names = ("suffixes", "tokenizer", "clean", "duplicates", "split", "pack")
        values = to_dict(self.settings)
        return {"seed": self.seed, **{name: values[name] for name in names}}

    def _open_ray(self) -> None:
        """Start or join Ray until this prepare ends, unless a session is open already."""
        import ray

        from codex_ray.cluster.session import open_session

        if not ray.is_initialized():
            with self._stage("start Ray"):
                self._session.enter_context(open_session(self.settings.cluster))

    def _run_tasks(self, function: Any, tasks: list[Any], ordered: bool = False) -> Iterator[pa.Table]:
        from codex_ray.corpus.ray_data import run_tasks

        return run_tasks(
            function,
            tasks,
            num_cpus=1,
            concurrency=self.settings.workers,
            ordered=ordered,
            stall_seconds=STALL_SECONDS,
        )

    def _counted(self, tables: Iterable[pa.Table], unit: str) -> Iterator[pa.Table]:
        for table in tables:
            yield table
            self.progress.advance(len(table) if unit == "rows" else sum(table.column(unit).to_pylist()))

    @contextmanager
    def _stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[None]:
        started = time.perf_counter()
        with self.progress.stage(name, total, unit):
            yield
        self.seconds[name] = time.perf_counter() - started


def _split_info(
    gathered: Gathered, split: str, tokens: int, rows: int, layout: Layout, written: list[dict[str, Any]]
) -> SplitInfo:
    shards, documents = [], []
    for row in sorted(written, key=lambda row: str(row["name"])):
        path = f"{split}/{row['name']}"
        if row["kind"] == ShardTask.__name__:
            held = row["count"] * layout.sequence_length
            shards.append(ShardInfo(path, row["count"], held, row["bytes"], row["sha256"]))
        else:
            documents.append(DocumentsInfo(path, row["count"], row["bytes"], row["sha256"]))
    texts: list[Source] = [source for source in gathered.documents if source.split == split]
    source = SourceRows(
        source=SOURCE,
        weight=1.0 if rows else 0.0,
        rows=rows,
        tokens=tokens,
        unused_tokens=tokens - rows * layout.sequence_length,
        documents=len(texts),
        bytes=sum(text.bytes for text in texts),
        shards=shards,
    )
    return SplitInfo([source], layout.row_group_rows, layout.rows_per_shard, documents)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {before} and is {after}")
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
