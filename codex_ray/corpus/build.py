"""The stages of ``prepare`` one after the other, each on the results of those before it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codex_ray.config.corpus import Prepare, Source
from codex_ray.corpus import manifest as manifests
from codex_ray.corpus.account import Account
from codex_ray.corpus.canaries import Planted, plant
from codex_ray.corpus.grouping import group_by_bytes
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.pack import Layout, dtype_for
from codex_ray.corpus.packing import Packing, TokenPart
from codex_ray.corpus.parts import pack_flags, read_part
from codex_ray.corpus.reading import QUARANTINE, ReadTask, read_documents, read_key
from codex_ray.corpus.repeated import Part, keep_first
from codex_ray.corpus.sources.units import Unit
from codex_ray.corpus.split import share_of, split_of
from codex_ray.corpus.stages import Stages, digest, finish
from codex_ray.corpus.tokenising import TokenTask, token_key, tokenise_part
from codex_ray.errors import CodexRayError
from codex_ray.track.progress import Progress

if TYPE_CHECKING:
    from codex_ray.tokenizer import Tokenizer

PART_BYTES = (8 * 2**20, 256 * 2**20)  # read together: small for balance, large for few parts
PARTS_WANTED = 4096
SAMPLE_SPREAD = 4  # text read for the tokenizer's sample, which takes pieces of it, per byte of the sample
# What a library leaks, or keeps of its largest task, goes with the process after so many; starting one takes
# about 2 s of a core, a task often longer.
TASKS_PER_PROCESS = 64
STALL_SECONDS = 600.0  # longest wait for any task of a stage to end


class Builder:
    """One run of ``prepare`` over listed units."""

    def __init__(
        self, settings: Prepare, sources: Mapping[str, Source], stages: Stages, progress: Progress, seed: int
    ) -> None:
        self.settings, self.sources, self.stages, self.progress = settings, sources, stages, progress
        self.seed = seed
        self.seconds: dict[str, float] = {}  # each stage's, in their order

    def build(
        self,
        units: Mapping[str, list[Unit]],
        decides: dict[str, Any],
        files: dict[str, str],
        request: str,
        found: Manifest | None,
    ) -> Manifest:
        """Return the manifest of a corpus that is whole but for it, or ``found`` if that is the same."""
        parts = self._read(units, files)
        with self._stage("duplicates"):
            kept = keep_first(parts, self.settings.duplicates, self.stages, self._run)
        accounts = self._accounts(parts)
        self._check_documents(accounts)
        tokenizer, folder = self._tokenizer(parts, kept)
        identity = digest([[part.source, part.identity] for part in parts])
        content = digest([decides, tokenizer.digest, identity])
        if found and found.content == content:
            return replace(found, request=request)
        layout = self._layout(tokenizer)
        tokens = self._tokenise(parts, kept, tokenizer, folder, layout)
        building = self.stages.entry("packed", content).folder
        packing = Packing(self.settings, self.sources, layout, building, content, self.seed)
        with self._stage("pack"):
            splits = packing.write(tokens, kept, self._run)
        _copy(folder, building / "tokenizer")
        with (building / "quarantine.jsonl").open("wb") as stream:
            for part in parts:
                with (part.folder / QUARANTINE).open("rb") as lines:
                    shutil.copyfileobj(lines, stream)
        described = {
            name: {"path": source.path, "version": source.version, "licence": source.licence}
            | accounts[name].plain()
            for name, source in self.sources.items()
        }
        return Manifest(
            format_version=manifests.FORMAT_VERSION,
            sequence_length=layout.sequence_length,
            vocabulary_size=tokenizer.vocabulary_size,
            dtype=layout.dtype,
            tokenizer_digest=tokenizer.digest,
            content=content,
            request=request,
            fingerprint="",
            life_id="",
            settings=decides,
            sources=described,
            splits=splits,
            folder=building,
        ).sealed()

    def _read(self, units: Mapping[str, list[Unit]], files: dict[str, str]) -> list[Part]:
        settings, tasks = self.settings, list[ReadTask]()
        total = sum(unit.size for found in units.values() for unit in found)
        limit = part_bytes(total)
        for name, found in units.items():
            source = self.sources[name]
            for run in group_by_bytes([unit.size for unit in found], limit):
                key = read_key(
                    source, found[run], settings.limits, settings.clean, settings.duplicates, files
                )
                entry = self.stages.entry("read", key)
                fail = settings.on_error == "fail"
                tasks.append(
                    ReadTask(
                        name,
                        source,
                        found[run],
                        settings.limits,
                        settings.clean,
                        settings.duplicates,
                        fail,
                        entry,
                    )
                )
        with self._stage("read", total, "bytes"):
            self._counted(self._run(read_documents, tasks, False))
        parts = []
        for task in tasks:
            result = task.entry.result() or {}
            account = Account.from_plain(result["account"])
            parts.append(Part(task.name, task.entry.folder, result["identity"], account.kept, account))
        return parts

    def _accounts(self, parts: Sequence[Part]) -> dict[str, Account]:
        accounts = {name: Account() for name in self.sources}
        for part in parts:
            accounts[part.source].add(part.account)
        return accounts

    def _check_documents(self, accounts: Mapping[str, Account]) -> None:
        for name, account in accounts.items():
            if account.quarantined and self.settings.on_error == "fail":
                kind, count = account.quarantined.most_common(1)[0]
                sample = account.samples[kind][0]
                raise CodexRayError(
                    f"{sample['name']} of source {name!r} cannot be used ({kind}: {sample['detail']}; "
                    f"{count} like it); remove or convert them, or set on_error=skip"
                )
            if account.kept == 0:
                kinds = account.dropped + account.quarantined
                reasons = ", ".join(
                    f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(kinds.items())
                )
                raise CodexRayError(
                    f"no usable text among the {account.read} items of {self.sources[name].path} "
                    f"({reasons}); see the clean.* settings for limits, and set clean.encoding=detect for "
                    "what is not UTF-8"
                )

    def _tokenizer(self, parts: Sequence[Part], kept: Sequence[NDArray[np.bool_]]) -> tuple[Tokenizer, Path]:
        from codex_ray.tokenizer import Tokenizer, train_tokenizer

        wanted = self.settings.tokenizer
        given = Tokenizer.load(wanted.path) if wanted.path is not None else None
        key = {
            "settings": vars(wanted),
            "seed": self.seed,
            "given": given.digest if given else None,
            "split": None if given else vars(self.settings.split),
            "parts": None if given else _identities(parts, kept),
        }
        entry = self.stages.entry("tokenizer", key)
        folder = entry.folder / "tokenizer"
        with self._stage("tokenizer"):
            if entry.result() is None:
                with entry.making() as making:
                    if given is not None:
                        given.save(making / "tokenizer")
                    else:
                        train_tokenizer(self._sample(parts, kept), wanted, making / "tokenizer", self.seed)
                    finish(making, {})
            return Tokenizer.load(folder), folder

    def _sample(self, parts: Sequence[Part], kept: Sequence[NDArray[np.bool_]]) -> Iterator[str]:
        """Yield training documents at random, each with equal chance, whatever part they are in."""
        total = sum(part.account.bytes for part in parts)
        share = min(1.0, SAMPLE_SPREAD * self.settings.tokenizer.sample_bytes / max(total, 1))
        for part, flags in zip(parts, kept, strict=True):

            def wanted(place: int, sha256: bytes, flags: NDArray[np.bool_] = flags) -> bool:
                if not flags[place] or split_of(sha256, self.settings.split, self.seed) != "train":
                    return False
                return share == 1.0 or share_of(sha256[::-1], self.seed) < share

            yield from (document.text for document in read_part(part.folder, wanted))

    def _layout(self, tokenizer: Tokenizer) -> Layout:
        pack = self.settings.pack
        rows_per_shard = pack.row_group_rows * pack.shard_row_groups
        dtype = dtype_for(tokenizer.vocabulary_size)
        return Layout(pack.sequence_length, pack.row_group_rows, rows_per_shard, dtype)

    def _tokenise(
        self,
        parts: Sequence[Part],
        kept: Sequence[NDArray[np.bool_]],
        tokenizer: Tokenizer,
        folder: Path,
        layout: Layout,
    ) -> list[TokenPart]:
        tasks = []
        for part, flags, planted in zip(parts, kept, self._planted(parts), strict=True):
            packed = pack_flags(flags)
            common: dict[str, Any] = {
                "split": self.settings.split,
                "seed": self.seed,
                "dtype": layout.dtype,
                "packing": self.settings.pack.method,
                "sequence_length": layout.sequence_length,
            }
            key = token_key(part.identity, packed.hex(), tokenizer.digest, common)
            if planted:
                key["planted"] = [asdict(one) for one in planted]
            tasks.append(
                TokenTask(
                    part=part.folder,
                    documents=part.documents,
                    kept=packed,
                    tokenizer=folder,
                    size=part.account.bytes,
                    entry=self.stages.entry("tokens", key),
                    planted=planted,
                    **common,
                )
            )
        with self._stage("tokenise", sum(task.size for task in tasks), "bytes"):
            self._counted(self._run(tokenise_part, tasks, False))
        return [
            TokenPart(part, task.entry.folder, task.entry.result() or {})
            for part, task in zip(parts, tasks, strict=True)
        ]

    def _planted(self, parts: Sequence[Part]) -> list[tuple[Planted, ...]]:
        """Return what is planted in each part; sources that are not trained on get nothing."""
        wanted = self.settings.canaries
        trained = [part.documents if self.sources[part.source].weight != 0 else 0 for part in parts]
        return plant(wanted, self.seed, trained) if wanted.count else [()] * len(parts)

    def _run(self, function: Any, tasks: Sequence[Any], ordered: bool) -> Iterator[pa.Table]:
        from codex_ray.corpus.ray_data import run_tasks

        return run_tasks(
            function,
            tasks,
            num_cpus=1,
            concurrency=self.settings.workers,
            ordered=ordered,
            stall_seconds=STALL_SECONDS,
            tasks_per_process=TASKS_PER_PROCESS,
        )

    def _counted(self, tables: Iterator[pa.Table]) -> None:
        for table in tables:
            self.progress.advance(sum(table.column("bytes").to_pylist()))

    @contextmanager
    def _stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[None]:
        began = time.monotonic()
        with self.progress.stage(name, total, unit):
            yield
        self.seconds[name] = time.monotonic() - began


def part_bytes(total: int) -> int:
    """Return how much text makes a part: a power of two, so that it rarely changes as a corpus grows."""
    wanted: int = 1 << max(total // PARTS_WANTED, 1).bit_length()
    return min(max(wanted, PART_BYTES[0]), PART_BYTES[1])


def _identities(parts: Sequence[Part], kept: Sequence[NDArray[np.bool_]]) -> str:
    return digest([[p.identity, pack_flags(flags).hex()] for p, flags in zip(parts, kept, strict=True)])


def _copy(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
