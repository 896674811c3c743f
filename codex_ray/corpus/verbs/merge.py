"""``corpus merge``: one corpus of several, of one tokenizer, sequence length and token type.

A document never ends up in training and held out. Where corpora hold the same text in different splits, it
stays in the one that matters most to keep apart (test, then validation) and goes from the others, in whatever
corpus they are. Texts that are nearly the same are not looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codex_ray.config.corpora import MergeCorpora
from codex_ray.corpus.manifest import SPLITS, Manifest, SourceRows
from codex_ray.corpus.stages import digest
from codex_ray.corpus.verbs.repack import Flags
from codex_ray.corpus.verbs.rewrite import (
    Origin,
    Rewriter,
    Selection,
    Written,
    find_written,
    method_settings,
    shares,
)
from codex_ray.corpus.verbs.shared import Bucket, buckets, hashes
from codex_ray.errors import CodexRayError, ConfigError, nearest
from codex_ray.track.progress import Progress

SAMPLES = 5
MUST_AGREE = (
    ("tokenizer_digest", "tokenizers", "prepare one of them with tokenizer.path=OTHER/tokenizer"),
    ("sequence_length", "sequence lengths", "prepare one of them with the other's pack.sequence_length"),
    ("dtype", "token types", "prepare one of them with the other's tokenizer"),
)


@dataclass
class Shared:
    """Texts that several corpora hold.

    Attributes:
        equal: texts that several hold in the same split; ``leaks``: in different ones.
        samples: a few names of the latter.
        removed: of each corpus and split, the hashes that go.
    """

    equal: int = 0
    leaks: int = 0
    samples: list[str] = field(default_factory=list)
    removed: dict[tuple[int, str], list[Any]] = field(default_factory=dict)


def merge_verb(settings: MergeCorpora, progress: Progress | None = None) -> Written:
    """Write one corpus of several.

    Sources keep their names; one that an earlier corpus has too gets ``-2``, ``-3`` and so on. Unless
    ``weights`` are given, each corpus has its rows' share of training, and each source its share of that.

    Memory grows with the number of documents that are removed alone; all are compared on disk.

    Raises:
        ConfigError: the corpora cannot be joined, a weight names no source, or the output is taken.
        CodexRayError: a corpus cannot be read or is damaged, or the disk is full.
    """
    corpora = [Manifest.load(Path(name).expanduser()) for name in settings.corpora]
    _check_alike(corpora)
    names = new_names(corpora)
    _check_weights(settings.weights, names)
    output = Path(settings.output).expanduser().absolute()
    request = digest(
        ["merge", [manifest.fingerprint for manifest in corpora], settings.weights, settings.duplicates]
    )
    with Progress(settings.progress) if progress is None else progress as shown:
        written = find_written(output, request)
        if written is None:
            shared = find_shared(corpora, settings.duplicates == "remove", shown)
            origins = [
                Origin(manifest, own, _selection(number, shared))
                for number, (manifest, own) in enumerate(zip(corpora, names, strict=True))
            ]
            given = [method_settings(manifest) for manifest in corpora]
            merged = {own[old]: found[old] for own, found in zip(names, given, strict=True) for old in own}
            chosen = {"merged": merged, "weights": dict(settings.weights), "duplicates": settings.duplicates}

            def weigh(split: str, sources: Sequence[SourceRows]) -> list[float]:
                return _weights(split, sources, names, settings.weights)

            written = Rewriter(output, origins, chosen, request, weigh).write(shown)
            _note(shared, names, settings.duplicates, shown)
        made = "is already made of the same" if written.reused else f"is made of {len(corpora)} corpora"
        rows = [
            (source.source, f"{source.weight:.1%} of training", f"{source.rows:,} rows")
            for source in written.manifest.splits["train"].sources
        ]
        shown.table(f"corpus {output} {made}, without {written.removed:,} documents", rows)
    return written


def new_names(corpora: Sequence[Manifest]) -> list[dict[str, str]]:
    """Return the new name of every source of every corpus."""
    taken: set[str] = set()
    names: list[dict[str, str]] = []
    all_names = {name for manifest in corpora for name in manifest.sources}
    for manifest in corpora:
        own = {}
        for name in manifest.sources:
            new, number = name, 1
            while new in taken or (new != name and new in all_names):
                number += 1
                new = f"{name}-{number}"
            taken.add(new)
            own[name] = new
        names.append(own)
    return names


def find_shared(corpora: Sequence[Manifest], remove_equal: bool, progress: Progress) -> Shared:
    """Find the texts that several corpora hold, and say which copies go."""
    shared = Shared()
    for bucket in buckets(corpora, progress):
        several = (bucket.splits > 0).sum(axis=1) > 1
        every = np.bitwise_or.reduce(bucket.splits, axis=1)
        highest = np.floor(np.log2(every)).astype(np.int64)  # test is above validation, that above train
        leaking = several & (every != (1 << highest))
        shared.leaks += int(leaking.sum())
        shared.equal += int((several & ~leaking).sum())
        split, corpus = bucket.column("split"), bucket.column("corpus")
        gone = leaking[bucket.document] & (split < highest[bucket.document])
        _sample(bucket, gone, shared)
        if remove_equal:
            first = np.argmax(bucket.splits >= (1 << highest)[:, None], axis=1)
            later = corpus > first[bucket.document]
            gone |= several[bucket.document] & later
        values = hashes(bucket.table)
        for number in range(len(corpora)):
            for place, name in enumerate(SPLITS):
                chosen = gone & (corpus == number) & (split == place)
                if chosen.any():
                    shared.removed.setdefault((number, name), []).append(np.unique(values[chosen]))
    return shared


def _sample(bucket: Bucket, gone: Flags, shared: Shared) -> None:
    chosen = np.flatnonzero(gone)[: SAMPLES - len(shared.samples)]
    for row in bucket.table.take(pa.array(chosen)).to_pylist():
        shared.samples.append(f"{row['source']}/{row['name']} of {SPLITS[row['split']]}")


def _selection(number: int, shared: Shared) -> Selection:
    sets = {
        split: pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), sum(map(len, parts)), [None, pa.py_buffer(b"".join(p.tobytes() for p in parts))]
        )
        for (corpus, split), parts in shared.removed.items()
        if corpus == number
    }

    def removed(split: str, _: str, table: pa.Table) -> Flags:
        if split not in sets:
            return np.zeros(len(table), dtype=bool)
        return np.array(pc.is_in(table.column("sha256"), sets[split]))

    return removed


def _weights(
    split: str,
    sources: Sequence[SourceRows],
    names: Sequence[Mapping[str, str]],
    given: Mapping[str, float],
) -> list[float]:
    if split != "train":
        return shares([float(source.rows) for source in sources], sources)
    if given:
        parts = [float(given.get(source.source, 0.0)) if source.rows else 0.0 for source in sources]
        return shares(parts, sources)
    parts = list[float]()
    for own in names:
        mine = [source for source in sources if source.source in own.values()]
        rows = sum(source.rows for source in mine)
        weights = [source.weight if source.rows else 0.0 for source in mine]
        total = sum(weights)
        parts += [
            rows * weight / total if total else float(s.rows) for weight, s in zip(weights, mine, strict=True)
        ]
    return shares(parts, sources)


def _check_alike(corpora: Sequence[Manifest]) -> None:
    first = corpora[0]
    for other in corpora[1:]:
        for name, what, remedy in MUST_AGREE:
            before, after = getattr(first, name), getattr(other, name)
            if before != after:
                raise CodexRayError(
                    f"corpora {first.folder} and {other.folder} have different {what} "
                    f"({str(before)[:12]} and {str(after)[:12]}); {remedy}"
                )
    folders = [manifest.folder.resolve() for manifest in corpora]
    if len(set(folders)) < len(folders):
        raise ConfigError("corpora names one folder twice; give sources more weight with weights instead")


def _check_weights(given: Mapping[str, float], names: Sequence[Mapping[str, str]]) -> None:
    known = [new for own in names for new in own.values()]
    for name in given:
        if name not in known:
            hint = nearest(name, known) or f"; the sources are {', '.join(known)}"
            raise ConfigError(f"weights.{name} is no source of the corpora{hint}")
    missing = [name for name in known if given and name not in given]
    if missing:
        raise ConfigError(
            f"weights.{missing[0]} is not given and others are; give every source a weight, or none"
        )


def _note(shared: Shared, names: Sequence[Mapping[str, str]], duplicates: str, progress: Progress) -> None:
    for own in names:
        for old, new in own.items():
            if old != new:
                progress.note(f"source {old} of a later corpus is called {new}: an earlier one has that name")
    if shared.equal:
        what = "the first is kept" if duplicates == "remove" else "kept; duplicates=remove keeps the first"
        progress.note(f"{shared.equal:,} texts are in several corpora, in one split ({what})")
    if shared.leaks:
        progress.note(
            f"{shared.leaks:,} texts were held out in one corpus and not in another; they stay held out and "
            f"are removed elsewhere, such as {', '.join(shared.samples)}"
        )
