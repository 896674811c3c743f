"""report.html of a corpus: its figures are the manifest's, and nothing in it is interpreted."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codex_ray.config.corpus import Duplicates, Pack, Prepare, Source, Split
from codex_ray.config.corpus import Tokenizer as TokenizerSettings
from codex_ray.corpus.account import Account
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.manifest import Manifest, SourceRows
from codex_ray.corpus.raw import Dropped, Quarantined
from codex_ray.corpus.report import SOURCES_SHOWN, write_corpus_report
from codex_ray.corpus.report_items import REASONS_SHOWN
from codex_ray.corpus.report_rows import row_runs
from codex_ray.corpus.report_sizes import document_lengths
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer
from tests.unit.corpus.corpora import make_corpus
from tests.unit.corpus.packed import pack_corpus
from tests.unit.track.pages import Page

ATTACK = "</pre></p><script>alert(1)</script><img src=x onerror=alert(2)>"
WORDS = np.array(
    [f"{word}{ending}" for word in ("sea", "ship", "sail", "net") for ending in ("", "s", "ing", "ed")]
)
SETTINGS = Prepare(
    duplicates=Duplicates(near=True),
    pack=Pack(sequence_length=64, row_group_rows=4, shard_row_groups=2),
    tokenizer=TokenizerSettings(vocabulary_size=320),
)


def text(number: int, words: int) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, words)) + f" {number}\n"


STORIES = [(f"stories/{n}.txt", text(n, 20 + 11 * n)) for n in range(40)]
STORIES += [(f"copies/{n}.txt", STORIES[n][1]) for n in (3, 5)]
STORIES += [
    ("near/39.txt", STORIES[39][1] + "and one word more\n"),
    (f"{ATTACK}.txt", f"{ATTACK} {text(99, 60)}"),
]
NOTES = [(f"notes/{n}.md", text(1000 + n, 30)) for n in range(25)]


def account(seed: int) -> Account:
    made = Account(changed=Counter({"repair": 3 + seed}))
    for number in range(4 + seed):
        made.drop(f"{ATTACK}{number}", Dropped(f"c4/{ATTACK}", f"saw {ATTACK}"), f"begins {ATTACK}")
        made.drop(f"short/{number}", Dropped("length/too_short", "9 bytes < 16"), "tiny\0")
    for number in range(2):
        made.quarantine(Quarantined(f"bad/{number}", f"not UTF-8: byte 0xff at {ATTACK}"))
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    sources = {
        "stories": Source("s3://stories/all", 0.75, version=f"1.0 {ATTACK}", licence="CC0 <b>"),
        "notes": Source("https://me:pass@host/notes?key=abc", 0.25),
    }
    folder = tmp_path_factory.mktemp("report") / "corpus"
    given = {"stories": STORIES, "notes": NOTES}
    accounts = {"stories": account(0), "notes": account(1)}
    return pack_corpus(folder, given, replace(SETTINGS, sources=sources, split=Split(0.1, 0.05)), accounts)


def test_a_corpus_being_built_is_shown_under_its_name_to_be(corpus: Manifest) -> None:
    assert report(corpus).text.count("corpus · codex_ray") == 1
    path = write_corpus_report(corpus, corpus.folder, {}, "novels <1>")
    assert "novels <1> · codex_ray" in Page(path.read_text()).text


def report(manifest: Manifest, seconds: dict[str, float] | None = None) -> Page:
    path = write_corpus_report(manifest, manifest.folder, seconds or {})
    assert path == manifest.folder / "report.html"
    return Page(path.read_text())


def test_figures_are_the_manifests(corpus: Manifest) -> None:
    loaded = Manifest.load(corpus.folder)
    loaded.verify()
    page = report(loaded, {"read": 75.0, "pack": 2.5})
    total = {"documents": 0, "tokens": 0, "rows": 0}
    for name, weight in (("stories", "75.0%"), ("notes", "25.0%")):
        found = Account.from_plain(loaded.sources[name])
        held = [rows for split in loaded.splits.values() for rows in split.sources if rows.source == name]
        tokens = sum(rows.tokens for rows in held)
        assert found.kept == sum(rows.documents for rows in held)
        assert found.read == found.kept + found.dropped.total() + found.quarantined.total()
        shown = next(row for row in page.rows if row[0] == name)
        counts = [found.read, found.kept, found.dropped.total(), found.quarantined.total()]
        assert [int(cell) for cell in shown[1:5]] == counts
        assert shown[5].split()[0] == f"{found.bytes / 1000:.3g}" and shown[6] == f"{tokens:,}"
        assert shown[7:] == [f"{tokens / found.bytes:.3f}", f"{held[0].rows:,}", weight]
        total["documents"] += found.kept
    for name, split in loaded.splits.items():
        shown = next(row for row in page.rows if row[0] == name)
        assert (shown[1], shown[4], shown[5]) == (
            f"{split.documents:,}",
            f"{split.tokens:,}",
            f"{split.rows:,}",
        )
        total["tokens"] += split.tokens
        total["rows"] += split.rows
    for label, count in total.items():
        assert f"{count:,}{label}" in page.text
    everything = loaded.account()
    said = (
        f"Of {everything.read} items read, {everything.kept} were kept, {everything.dropped.total()} dropped"
    )
    assert said in page.text and "add up" not in page.text
    assert everything.dropped["duplicate"] == 2 and "Equal to an earlier document 2" in page.text
    assert everything.dropped["near_duplicate"] == 1 and "near/39.txt as stories/39.txt" in page.text
    assert ["repair", "7", f"{7 / everything.kept:.2%}"] in page.rows
    assert page.tags.count("svg") == 2
    assert "1 min 18 s in all" in page.text and "1 min 15 s" in page.text
    assert ["near", "true"] in page.rows and ["validation", "0.1"] in page.rows


def test_nothing_from_outside_is_interpreted(corpus: Manifest) -> None:
    page = report(corpus)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert page.handlers == [] and all(reference.startswith("#") for reference in page.references)
    for said in (
        f"stories: {ATTACK}0",
        f"saw {ATTACK}",
        f"begins {ATTACK}",
        f"byte 0xff at {ATTACK}",
        f"1.0 {ATTACK}",
    ):
        assert said in page.text, said
    assert "tiny\u2400" in page.text and "CC0 <b>" in page.text
    assert "https://***@host/notes?key=***" in page.text and "pass@" not in page.text
    written = (corpus.folder / "report.html").read_text()
    assert not re.search(r"@import|url\((?!#)|<script|<link|<img", written)


@pytest.mark.parametrize("method", ["contiguous", "best_fit"])
def test_lengths_and_rows_are_the_documents(tmp_path: Path, method: str) -> None:
    settings = replace(
        SETTINGS, pack=replace(SETTINGS.pack, method=method), duplicates=Duplicates(exact=False)
    )
    manifest = pack_corpus(tmp_path / "corpus", {"stories": STORIES}, settings)
    tokenizer = Tokenizer.load(manifest.folder / "tokenizer")
    tokens = {name: [1, *tokenizer.encode(document), 2] for name, document in STORIES}
    lengths = document_lengths(manifest)
    assert lengths.documents == len(STORIES) and lengths.longest == max(map(len, tokens.values()))
    assert lengths.longer == sum(len(ids) > 64 for ids in tokens.values())
    assert lengths.counts.tolist()[:12] == [
        sum(len(ids).bit_length() == power + 1 for ids in tokens.values()) for power in range(12)
    ]
    source = manifest.splits["train"].sources[0]
    rows = RowReader(manifest, "train", 1).take(np.arange(source.rows))
    padded = 0
    for row, values in enumerate(rows.tolist()):
        at = row * 64
        for run in row_runs(manifest, source, row):
            assert run.start <= at < run.stop
            part = values[at - row * 64 : run.stop - row * 64]
            if run.name:
                assert f",{','.join(map(str, part))}," in f",{','.join(map(str, tokens[run.name]))},"
            else:
                assert set(part) == {tokenizer.pad_id}
                padded += 1
            at = run.stop
        assert at >= (row + 1) * 64
    page = report(manifest)
    assert f"row {source.rows - 1:,}" in page.text and page.tags.count("mark") >= 2
    assert (method == "best_fit") == (padded > 0)
    first = next(iter(row_runs(manifest, source, 0)))
    assert f"{first.name}<s>{tokenizer.decode(tokens[first.name][:64])[:40]}" in page.text


def test_a_corpus_of_one_document(tmp_path: Path) -> None:
    settings = replace(SETTINGS, split=Split(0.0, 0.0), pack=replace(SETTINGS.pack, method="best_fit"))
    manifest = pack_corpus(tmp_path / "corpus", {"text": [("only.txt", text(1, 400))]}, settings)
    page = report(manifest)
    assert "Of 1 items read, 1 were kept, 0 dropped and 0 quarantined." in page.text
    assert page.tags.count("svg") == 2 and "Nearly equal to an earlier document: none." in page.text
    assert "Quarantined" not in page.text and "Time" not in page.text
    assert re.search(r"</s><pad> \u00d7 \d+", page.text)
    assert ["validation", "0", "0.00%", "0 bytes", "0", "0", "0", "0", "0 bytes"] in page.rows


def test_sums_that_do_not_add_up_are_said(corpus: Manifest) -> None:
    sources = {**corpus.sources, "notes": {**corpus.sources["notes"], "read": 5000}}
    page = report(replace(corpus, sources=sources))
    assert re.search(r"do not add up: 4,\d{3} items are missing", page.text)


def test_thousands_of_rules_and_sources_stay_bounded(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", sources={f"source{n}": (2, 0.05) for n in range(20)})
    many, tiny = Account(), Account()
    tiny.keep(9, ())
    for number in range(5000):
        for _ in range(1 + (number < 7)):
            many.drop(f"item {number}", Dropped(f"step{number % 50}/rule{number}", "x" * 10**4), "y" * 10**4)
    sources = {}
    for name, found in manifest.sources.items():
        total = Account.from_plain(found)
        total.add(many)
        sources[name] = {**found, **total.plain()}
    small = {"path": "p", "version": None, "licence": None, **tiny.plain()}
    sources = {f"tiny{n}": small for n in range(20_000)} | sources
    began = time.monotonic()
    page = report(replace(manifest, sources=sources))
    assert time.monotonic() - began < 15
    assert (manifest.folder / "report.html").stat().st_size < 1_000_000
    assert f"and {20_020 - SOURCES_SHOWN:,} more sources" in page.text
    assert f"and {5000 - REASONS_SHOWN:,} more reasons, {20 * (5000 - REASONS_SHOWN):,} items" in page.text
    assert "rule6 40 " in page.text and "and the rows of 8 more sources" in page.text


def test_samples_hide_what_the_corpus_must_not_hold(corpus: Manifest) -> None:
    found = Account()
    found.drop("letter.txt", Dropped("c4/policy", "a rule"), "Write to jane.doe@shipyard.org today")
    sources = {**corpus.sources, "notes": {**corpus.sources["notes"], **found.plain()}}
    shown = report(replace(corpus, sources=sources))
    assert "jane.doe@shipyard.org" in shown.text
    clean = {**corpus.settings["clean"], "redact": {"secrets": "keep", "personal": "drop"}}
    hidden = report(replace(corpus, sources=sources, settings={**corpus.settings, "clean": clean}))
    assert "jane.doe" not in hidden.text and "Write to " in hidden.text


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus")
    source: SourceRows = manifest.splits["train"].sources[0]
    path = manifest.folder / source.index_files[0].path
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CodexRayError, match=r"index-00000\.parquet is damaged"):
        report(manifest)
    path.unlink()
    with pytest.raises(CodexRayError, match=r"index-00000\.parquet cannot be read"):
        report(manifest)
