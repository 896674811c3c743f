"""``prepare`` on a real local Ray: what it writes, what it repeats, what it refuses and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from codex_ray.config.corpus import Clean, Duplicates, Pack, Prepare, Source, Split, Tokenizer
from codex_ray.corpus import build, ray_data
from codex_ray.corpus.direct import RowReader
from codex_ray.corpus.documents import documents
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.prepare import prepare
from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer as AnyTokenizer
from codex_ray.track.progress import Progress
from tests.integration.training import QUIET, TWO_WORKERS

pytestmark = pytest.mark.integration

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "theta", "iota", "kappa", "lambda", "omicron"]


def write_text(folder: Path, files: int = 60) -> Path:
    """Files of words drawn from a fixed seed, some of them odd."""
    generator = np.random.default_rng(5)
    folder.mkdir(parents=True)
    for number in range(files):
        lines = [" ".join(generator.choice(WORDS, 8)) for _ in range(int(generator.integers(1, 40)))]
        (folder / f"{number:03d}.txt").write_text("\n".join(lines) + "\r\n" * (number % 3 == 0))
    (folder / "copy.txt").write_bytes((folder / "000.txt").read_bytes())
    (folder / "latin.txt").write_bytes("café".encode("latin-1") * 9)
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbf" + b"a marked document " * 4)
    (folder / "short.txt").write_text("tiny")
    (folder / "ignored.bin").write_bytes(b"\0\1\2")
    return folder


def settings_of(text: Path, output: Path, **changes: Any) -> Prepare:
    settings = Prepare(
        text=str(text),
        output=str(output),
        suffixes=[".txt"],
        seed=3,
        tokenizer=Tokenizer(vocabulary_size=310),
        split=Split(validation=0.15, test=0.1),
        pack=Pack(sequence_length=16, row_group_rows=8, shard_row_groups=4),
        cluster=TWO_WORKERS,
        track=QUIET,
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("source") / "text")


@pytest.fixture(scope="module")
def corpus(text: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Manifest:
    return prepare(settings_of(text, tmp_path_factory.mktemp("made") / "corpus")).manifest


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_rows_are_the_documents_in_order_each_between_its_marks(corpus: Manifest, text: Path) -> None:
    tokenizer = AnyTokenizer.load(corpus.folder / "tokenizer")
    names = [f"{number:03d}.txt" for number in range(60)] + ["marked.txt"]
    held = {
        d.name: (split, d.text) for split in ("validation", "test") for d in documents(corpus.folder, split)
    }
    for split, info in corpus.splits.items():
        expected: list[int] = []
        kept = [name for name in sorted(names) if held.get(name, ("train", ""))[0] == split]
        for name in kept:
            written = (text / name).read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
            if split != "train":
                assert held[name] == (split, written)
            expected += [tokenizer.bos_id or 0, *tokenizer.encode(written), tokenizer.eos_id or 0]
        assert info.documents == len(kept)
        assert info.tokens == len(expected)
        assert info.rows == len(expected) // 16
        assert info.unused_tokens == len(expected) - info.rows * 16
        tokens = RowReader(corpus, split, cached_groups=100).take(np.arange(info.rows)).reshape(-1)
        assert tokens.tolist() == expected[: info.rows * 16]


def test_the_manifest_accounts_for_every_file(corpus: Manifest) -> None:
    account = corpus.sources["text"]
    assert (account["read"], account["kept"]) == (64, 61)
    assert account["dropped"] == {"duplicate": 1, "length/too_short": 1}
    assert account["quarantined"] == {"not UTF-8": 1}
    assert account["changed"] == {"byte order mark": 1}
    assert account["samples"]["duplicate"][0]["detail"] == "as 000.txt"
    assert sum(account["sizes"].values()) == 61
    lines = [json.loads(line) for line in (corpus.folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["source"], line["name"]) for line in lines] == [("text", "latin.txt")]
    assert sum(split.documents for split in corpus.splits.values()) == 61
    loaded = Manifest.load(corpus.folder)
    assert loaded == corpus
    loaded.verify(deep=True)
    sizes = [shard.rows for shard in loaded.splits["train"].shards]
    assert len(sizes) > 3
    assert set(sizes[:-1]) == {32}


@pytest.mark.usefixtures("ray_session")
def test_parallelism_changes_no_byte(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "PART_BYTES", (3000, 3000))
    for workers in (1, 4):
        prepare(settings_of(text, tmp_path / str(workers), workers=workers, track=QUIET))
    assert len(list((tmp_path / ".4.stages" / "read").iterdir())) > 5
    assert contents(tmp_path / "1") == contents(tmp_path / "4")


@pytest.mark.usefixtures("ray_session")
def test_running_again_does_nothing_unless_something_changed(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_text(tmp_path / "text", files=30)
    settings = settings_of(source, tmp_path / "corpus")
    first = prepare(settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")}
    again = prepare(replace(settings, workers=1, on_error="skip"))
    assert again.reused
    assert not first.reused
    assert "already made of the same text" in again.message
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*")} == before

    progress = Progress("plain")
    longer = replace(settings, pack=replace(settings.pack, sequence_length=24))
    changed = prepare(longer, progress)
    assert not changed.reused
    assert "is prepared again: pack.sequence_length was 16 and is 24" in capsys.readouterr().err
    assert Manifest.load(tmp_path / "corpus").sequence_length == 24
    (source / "004.txt").write_text("something else entirely, in its place")
    assert not prepare(longer, progress).reused
    assert "is prepared again: the text changed" in capsys.readouterr().err
    shard = tmp_path / "corpus" / Manifest.load(tmp_path / "corpus").splits["train"].shards[0].path
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not prepare(longer, progress).reused
    assert "is made again" in capsys.readouterr().err
    Manifest.load(tmp_path / "corpus").verify(deep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".corpus.stages", "corpus", "text"]


@pytest.mark.usefixtures("ray_session")
def test_a_given_tokenizer_is_used_as_it_is(corpus: Manifest, text: Path, tmp_path: Path) -> None:
    given = Tokenizer(path=str(corpus.folder / "tokenizer"))
    made = prepare(settings_of(text, tmp_path / "corpus", tokenizer=given)).manifest
    assert made.tokenizer_digest == corpus.tokenizer_digest
    hashes = [[shard.rows for shard in m.splits["train"].shards] for m in (made, corpus)]
    assert hashes[0] == hashes[1]
    assert prepare(settings_of(text, tmp_path / "corpus", tokenizer=given)).reused


def odd_files(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xff" * 50)
    (folder / "b.txt").write_text("x")


def one_file(folder: Path) -> None:
    (folder / "a.txt").write_text("the only document there is, over and over " * 9)


def short_files(folder: Path) -> None:
    """Forty documents of 30 words: some 2,300 tokens to train on and 650 to validate."""
    generator = np.random.default_rng(2)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(generator.choice(WORDS, 30)))


@pytest.mark.parametrize(
    ("fill", "changes", "words"),
    [
        (lambda folder: None, {}, "is empty; put files there"),
        (odd_files, {}, r"no usable text among the 2 items of .* \(1 length/too short, 1 not UTF-8\)"),
        (odd_files, {"on_error": "fail"}, r"a\.txt cannot be used \(not UTF-8: byte 0xff at 0\)"),
        (one_file, {}, "none of the 1 documents fell into the (train|validation) split; add documents"),
        (
            short_files,
            {"pack": Pack(sequence_length=4096)},
            r"the train split has \d+ tokens, fewer than one row of 4096",
        ),
        (
            short_files,
            {"pack": Pack(sequence_length=1024)},
            r"the validation split has \d+ tokens, fewer than one row of 1024",
        ),
        (short_files, {"tokenizer": Tokenizer(vocabulary_size=9000)}, "vocabulary_size=9000 is too large"),
        (short_files, {"tokenizer": Tokenizer(path="/nowhere")}, "tokenizer folder /nowhere does not exist"),
        (short_files, {"clean": Clean(max_bytes=20)}, r"no usable text .* \(40 length/too long\)"),
    ],
)
@pytest.mark.usefixtures("ray_session")
def test_what_cannot_be_prepared_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, fill: Any, changes: dict[str, Any], words: str
) -> None:
    source = tmp_path / "text"
    source.mkdir()
    fill(source)
    with pytest.raises(CodexRayError, match=words) as caught:
        prepare(settings_of(source, tmp_path / "corpus", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.usefixtures("ray_session")
def test_no_held_out_share_is_fine(text: Path, tmp_path: Path) -> None:
    made = prepare(settings_of(text, tmp_path / "corpus", split=Split(validation=0.0, test=0.0))).manifest
    assert made.splits["validation"].rows == made.splits["test"].rows == 0
    assert made.splits["train"].documents == 61


@pytest.mark.usefixtures("ray_session")
def test_a_changed_setting_redoes_only_what_depends_on_it(text: Path, tmp_path: Path) -> None:
    settings = settings_of(text, tmp_path / "corpus")
    prepare(settings)
    stages = tmp_path / ".corpus.stages"

    def made() -> dict[str, dict[str, int]]:
        return {
            stage: {
                path.parent.name: path.stat().st_mtime_ns for path in (stages / stage).glob("*/done.json")
            }
            for stage in ("read", "duplicates", "tokenizer", "tokens")
        }

    before = made()
    prepare(replace(settings, pack=replace(settings.pack, row_group_rows=4)))
    assert made() == before
    prepare(replace(settings, split=Split(validation=0.3, test=0.1)))
    after = made()
    assert [after[stage] == before[stage] for stage in before] == [True, True, False, False]
    prepare(replace(settings, clean=Clean(min_bytes=400)))
    assert all(made()[stage] != after[stage] for stage in after)
    prepare(replace(settings, keep_stages=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]
    os.utime(next(text.iterdir()))
    assert prepare(replace(settings, keep_stages=False)).reused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


@pytest.mark.verify
@pytest.mark.usefixtures("ray_session")
def test_sources_are_kept_apart_and_weighted(text: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"body": f"{number} " + " ".join(WORDS)}) for number in range(200)]
    (tmp_path / "more.jsonl").write_text("\n".join([*lines, "{broken", '{"body": null}', lines[0]]))
    sources = {
        "files": Source(path=str(text), weight=1.0),
        "lines": Source(path=str(tmp_path / "more.jsonl"), weight=3.0, column="body", licence="CC0"),
    }
    made = prepare(settings_of(text, tmp_path / "corpus", sources=sources)).manifest
    train = made.splits["train"]
    assert [(s.source, s.weight) for s in train.sources] == [("files", 0.25), ("lines", 0.75)]
    account = made.sources["lines"]
    assert (account["read"], account["kept"], account["licence"]) == (203, 200, "CC0")
    assert sum(account["quarantined"].values()) == 2 and account["dropped"] == {"duplicate": 1}
    names = {document.name.partition("/")[0] for document in documents(made.folder, "validation")}
    assert names == {"files", "lines"}
    made.verify(deep=True)


@pytest.mark.verify
@pytest.mark.usefixtures("ray_session")
def test_near_duplicates_go_and_the_first_stays(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    words = ["".join(generator.choice(list("abcdefghijklmnop"), 7)) for _ in range(3000)]
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(40):
        chosen = generator.choice(words, 300).tolist()
        (folder / f"{number:02d}.txt").write_text(" ".join(chosen))
        if number % 4 == 0:
            (folder / f"{number:02d}b.txt").write_text(" ".join([*chosen[:-1], "changed"]))
    near = Duplicates(near=True)
    made = prepare(settings_of(folder, tmp_path / "corpus", duplicates=near)).manifest
    account = made.sources["text"]
    assert (account["kept"], account["dropped"]) == (40, {"near_duplicate": 10})
    assert {sample["detail"] for sample in account["samples"]["near_duplicate"]} <= {
        f"as {number:02d}.txt" for number in range(40)
    }


@pytest.mark.usefixtures("ray_session")
def test_best_fit_rows_hold_whole_documents(text: Path, tmp_path: Path) -> None:
    settings = settings_of(text, tmp_path / "corpus")
    pack = replace(settings.pack, method="best_fit", sequence_length=64)
    made = prepare(replace(settings, pack=pack)).manifest
    tokenizer = AnyTokenizer.load(made.folder / "tokenizer")
    pad, first, last = (tokenizer.special_ids[name] for name in ("pad", "bos", "eos"))
    info = made.splits["train"]
    rows = RowReader(made, "train", cached_groups=100).take(np.arange(info.rows))
    assert info.unused_tokens == 0
    begun = ended = 0
    for row in rows.tolist():
        begun += row.count(first)
        ended += row.count(last)
        held = [token for token in row if token != pad]
        assert row == held + [pad] * (64 - len(held)) and (len(held) == 64 or held[-1] == last)
    assert begun == ended == info.documents
    index = pyarrow.parquet.read_table(made.folder / info.sources[0].index_files[0].path).to_pylist()
    assert sum(line["tokens"] for line in index) == int((rows != pad).sum())
    flat = rows.reshape(-1)
    starts = {line["name"]: flat[line["offset"]] for line in reversed(index)}
    assert len(starts) == info.documents


def process_of(_: int) -> pyarrow.Table:
    return pyarrow.table({"process": [os.getpid()]})


@pytest.mark.verify
@pytest.mark.usefixtures("ray_session")
def test_task_processes_are_recycled() -> None:
    tables = ray_data.run_tasks(
        process_of,
        range(10),
        num_cpus=1,
        concurrency=1,
        ordered=False,
        stall_seconds=120,
        tasks_per_process=4,
    )
    calls = Counter(table.column("process")[0].as_py() for table in tables)
    assert calls.total() == 10
    assert max(calls.values()) <= 4


def crash(starts: str) -> pyarrow.Table:
    with Path(starts).open("a") as stream:
        stream.write("started\n")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.verify
@pytest.mark.usefixtures("ray_session")
def test_a_task_that_kills_its_process_every_time_ends_in_a_sentence(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with pytest.raises(CodexRayError, match="a Ray Data task crashed its process 4 times"):
        list(
            ray_data.run_tasks(
                crash, [str(starts)], num_cpus=1, concurrency=1, ordered=False, stall_seconds=120
            )
        )
    assert len(starts.read_text().splitlines()) == 4


SCRIPT = """
import sys
from pathlib import Path
from tests.integration.test_prepare import settings_of
from codex_ray.corpus.prepare import prepare
prepare(settings_of(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_killed_prepare_leaves_no_corpus_and_the_next_one_goes_on(tmp_path: Path) -> None:
    source = write_text(tmp_path / "text")
    output, stages = tmp_path / "corpus", tmp_path / ".corpus.stages"
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(source), str(output)],
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(stages.glob("read/*/done.json")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(CodexRayError, match=f"is in use by process {child.pid}"):
        prepare(settings_of(source, output))
    os.killpg(child.pid, signal.SIGKILL)
    child.wait(30)
    assert not output.exists()
    made = prepare(settings_of(source, output)).manifest
    made.verify(deep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".corpus.stages", "corpus", "text"]
