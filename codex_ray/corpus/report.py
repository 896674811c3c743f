"""report.html of a corpus: what went in, what became of it, and what came out.

It is made from the manifest and the files beside it, in memory that does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codex_ray.corpus.account import Account
from codex_ray.corpus.manifest import Manifest, SourceRows
from codex_ray.corpus.report_items import items_sections
from codex_ray.corpus.report_rows import rows_section
from codex_ray.corpus.report_sizes import short, size_text, sizes_section
from codex_ray.files import write_text
from codex_ray.track.environment import masked
from codex_ray.track.page import (
    build_page,
    columns_table,
    escape,
    header,
    section,
    settings_section,
    tiles,
)
from codex_ray.track.progress import duration

SOURCES_SHOWN = 50
ORIGINS_OPEN = 8  # of more sources, paths and licences are folded
NAME = "report.html"


def write_corpus_report(
    manifest: Manifest, folder: Path, seconds: Mapping[str, float], title: str | None = None
) -> Path:
    """Write ``report.html`` into a corpus folder.

    Args:
        manifest: what the folder holds.
        folder: a complete corpus: its rows, index files and tokenizer are read.
        seconds: how long each stage took, in their order; may be empty.
        title: the corpus's name, where the folder does not have it yet; unset: the folder's.

    Returns:
        the path of the report.

    Raises:
        CodexRayError: a file of the corpus is missing or damaged, or the report cannot be written.
    """
    manifest = replace(manifest, folder=folder)
    title = title or folder.absolute().name
    account = manifest.account()
    largest = _largest(manifest)
    body = [
        _header(manifest, title),
        _headlines(manifest, account),
        _sources_section(manifest, account, largest),
        _splits_section(manifest),
        *items_sections(manifest, account),
        sizes_section(manifest, account),
        rows_section(manifest, largest),
        _time_section(seconds),
        settings_section(manifest.settings, "corpus"),
    ]
    path = folder / NAME
    write_text(path, build_page(title, body))
    return path


def _header(manifest: Manifest, title: str) -> str:
    facts = [
        f"rows of {manifest.sequence_length:,} tokens",
        f"{manifest.vocabulary_size:,} pieces in the vocabulary",
        f"fingerprint {manifest.fingerprint[:12]}",
    ]
    return header("corpus", title, facts)


def _headlines(manifest: Manifest, account: Account) -> str:
    splits = manifest.splits.values()
    size, tokens = sum(split.bytes for split in splits), sum(split.tokens for split in splits)
    training = manifest.splits["train"].rows if "train" in manifest.splits else 0
    return tiles(
        [
            (short(account.kept), "documents"),
            (size_text(size), "of text"),
            (short(tokens), "tokens"),
            (f"{size / tokens:.2f}" if tokens else "-", "bytes per token"),
            (short(sum(split.rows for split in splits)), "rows"),
            (short(training), "of them for training"),
        ]
    )


def _largest(manifest: Manifest) -> list[str]:
    """Return the sources to show: all in their order, or those with the most text."""
    names = list(manifest.sources)
    if len(names) > SOURCES_SHOWN:
        names = sorted(names, key=lambda name: -manifest.sources[name]["bytes"])[:SOURCES_SHOWN]
    return names


def _sources_section(manifest: Manifest, account: Account, shown: list[str]) -> str:
    held = _by_source(manifest)
    training = manifest.splits["train"].sources if "train" in manifest.splits else []
    rows_of = {source.source: source for source in training}
    heads = (
        *("source", "read", "kept", "dropped", "quarantined", "text", "tokens", "tokens per byte"),
        *("training rows", "weight"),
    )
    lines = [
        _figures(name, Account.from_plain(manifest.sources[name]), held.get(name, 0), rows_of.get(name))
        for name in shown
    ]
    if len(manifest.sources) > 1:
        total = [*_figures("all", account, sum(held.values()), None)]
        total[-2:] = [f"{sum(source.rows for source in training):,}", "100.0%" if training else "-"]
        lines.append(total)
    more = len(manifest.sources) - len(shown)
    body = (
        _accounted(account)
        + columns_table(heads, lines, total=len(manifest.sources) > 1)
        + (f"<p>and {more:,} more sources, which have less text than these</p>" if more else "")
        + _origins({name: manifest.sources[name] for name in shown})
    )
    return section("Sources", body)


def _origins(sources: Mapping[str, Mapping[str, Any]]) -> str:
    """Return where the sources come from, folded where they are many."""
    lines = []
    for name, source in sources.items():
        path, version = (masked(str(source[key] or "-")) for key in ("path", "version"))
        lines.append([name, path, version, source["licence"] or "-"])
    heads = ("source", "path", "version", "licence")
    opened = " open" if len(lines) <= ORIGINS_OPEN else ""
    table = columns_table(heads, lines, words=heads[1:])
    return f"<details{opened}><summary>Where they come from</summary>{table}</details>"


def _by_source(manifest: Manifest) -> dict[str, int]:
    """Return the tokens of every source, over all splits."""
    held = dict.fromkeys(manifest.sources, 0)
    for split in manifest.splits.values():
        for source in split.sources:
            held[source.source] = held.get(source.source, 0) + source.tokens
    return held


def _figures(name: str, account: Account, tokens: int, rows: SourceRows | None) -> list[str]:
    counts = (account.read, account.kept, account.dropped.total(), account.quarantined.total())
    return [
        name,
        *(f"{count:,}" for count in counts),
        size_text(account.bytes),
        short(tokens),
        f"{tokens / account.bytes:.3f}" if account.bytes else "-",
        f"{rows.rows:,}" if rows else "-",
        f"{rows.weight:.1%}" if rows else "-",
    ]


def _accounted(account: Account) -> str:
    dropped, quarantined = account.dropped.total(), account.quarantined.total()
    sentence = (
        f"Of {account.read:,} items read, {account.kept:,} were kept, {dropped:,} dropped and "
        f"{quarantined:,} quarantined."
    )
    lost = account.read - account.kept - dropped - quarantined
    if lost:
        wrong = f"These do not add up: {abs(lost):,} items are {'missing' if lost > 0 else 'too many'}."
        return f'<p>{escape(sentence)} <b class="wrong">{escape(wrong)}</b></p>'
    return f"<p>{escape(sentence)}</p>"


def _splits_section(manifest: Manifest) -> str:
    documents = sum(split.documents for split in manifest.splits.values())
    heads = ("split", "documents", "share", "text", "tokens", "rows", "tokens in no row", "files", "on disk")

    def lines() -> Iterator[list[str]]:
        for name, split in manifest.splits.items():
            sizes = [shard.bytes for shard in split.shards]
            sizes += [info.bytes for source in split.sources for info in source.index_files]
            sizes += [info.bytes for info in split.document_files]
            yield [
                name,
                f"{split.documents:,}",
                f"{split.documents / documents:.2%}" if documents else "-",
                size_text(split.bytes),
                f"{split.tokens:,}",
                f"{split.rows:,}",
                f"{split.unused_tokens:,}",
                f"{len(sizes):,}",
                size_text(sum(sizes)),
            ]

    note = "A document's split follows from its content alone; equal documents are never in two."
    return section("Splits", columns_table(heads, lines()), note)


def _time_section(seconds: Mapping[str, float]) -> str:
    longest = max(seconds.values(), default=0.0)
    body = "".join(_bar(name, value, longest) for name, value in seconds.items())
    note = f"{duration(sum(seconds.values()))} in all; a stage that was done before takes no time."
    return section("Time", f'<div class="bars">{body}</div>' if body else "", note)


def _bar(name: str, value: float, longest: float) -> str:
    width = 100 * value / longest if longest > 0 else 0.0
    return f'<span>{escape(name)}</span><b>{duration(value)}</b><i style="width:{width:.1f}%"></i>'
