from __future__ import annotations

import json
from pathlib import Path

import pytest

from codex_ray import cli
from codex_ray.config.compose import compose
from codex_ray.config.saved import save
from codex_ray.corpus.direct import digest
from codex_ray.corpus.index import readers
from codex_ray.corpus.manifest import Manifest
from codex_ray.corpus.stream import open_stream
from codex_ray.errors import CodexRayError, ConfigError

ROWS, STEPS = 6, 5


@pytest.fixture
def run(packed: Manifest, tmp_path: Path) -> Path:
    """What a run of two workers leaves of its steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    words = [
        str(packed.folder),
        f"train.batch_tokens={ROWS * 64}",
        "seed=5",
        "cluster.workers=2",
        "train.steps=5",
    ]
    save(compose("pretrain", words), folder / "config.yaml")
    (folder / "environment.json").write_text(json.dumps({"corpus_fingerprint": packed.fingerprint}))
    streams = [
        open_stream(
            packed.folder,
            "train",
            kind="direct",
            seed=5,
            first_step=0,
            steps=STEPS,
            batch_rows=ROWS,
            rank=rank,
            world_size=2,
        )
        for rank in range(2)
    ]
    batches = zip(*streams, strict=True)
    lines = [{"step": n, "batch": sum(map(digest, shares))} for n, shares in enumerate(batches, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_step_saw_the_rows_that_it_recorded(verb, packed, run, capsys):
    for step in range(1, STEPS + 1):
        seen = verb("rows", run, f"step={step}")
        assert seen.matches is True
        assert [record["position"] for record in seen.records] == list(range((step - 1) * ROWS, step * ROWS))
        assert [record["row"] for record in seen.records] == packed.order("train", 5).rows(
            (step - 1) * ROWS, step * ROWS
        ).tolist()
    assert "the recorded one" in capsys.readouterr().out


def test_rows_of_batches_that_grow_or_are_left_out(verb, packed, run):
    words = [str(packed.folder), f"train.batch_tokens={ROWS * 64}", "seed=5", "train.steps=5"]
    words += ["train.batch_ramp=[[128,1],[256,2]]", "cluster.workers=2"]
    save(compose("pretrain", words), run / "config.yaml")
    (run / "decided.json").write_text(json.dumps({"skips": [[2, 2]]}))
    (run / "metrics.jsonl").unlink()
    positions = [
        [record["position"] for record in verb("rows", run, f"step={n}").records] for n in range(1, 5)
    ]
    assert positions == [[0, 1], [2, 3, 4, 5], list(range(16, 22)), list(range(22, 28))]


def test_rows_name_their_documents(verb, packed, run, tmp_path, capsys):
    seen = verb("rows", run, "step=2", f"output={tmp_path / 'seen.jsonl'}")
    assert [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()] == seen.records
    by_name = {reader.info.source: reader for reader in readers(packed, "train")}
    for record in seen.records:
        reader, start = by_name[record["source"]], record["source_row"] * 64
        names = [line.name for line in reader.overlapping(start, start + 64)]
        assert [item["name"] for item in record["documents"]] == names
        assert 0 < sum(item["tokens"] for item in record["documents"]) <= 64
        assert record["row"] == reader.first_row + record["source_row"]
    verb("rows", run, "step=2", "text=true")
    assert seen.records[0]["documents"][0]["name"] in capsys.readouterr().out


def test_a_corpus_and_its_batch_do_without_a_run(verb, packed, run):
    direct = verb("rows", "step=3", f"corpus={packed.folder}", "seed=5", f"batch_rows={ROWS}")
    assert direct.matches is None
    assert direct.records == verb("rows", run, "step=3").records


def test_another_checksum_is_an_error_after_the_rows(run, capsys):
    text = (run / "metrics.jsonl").read_text().splitlines()
    text[1] = json.dumps({"step": 2, "batch": 17})
    (run / "metrics.jsonl").write_text("\n".join(text) + "\n")
    assert cli.main(["corpus", "rows", str(run), "step=2"]) == 1
    out, err = capsys.readouterr()
    assert "position 6: row" in out
    assert "not the recorded one" in out
    assert "and the run recorded 17, so it saw others" in err


def test_a_step_without_a_checksum_says_so(verb, run, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[::2]) + "\n")
    assert verb("rows", run, "step=2").matches is None
    assert "not recorded by the run" in capsys.readouterr().out


def test_what_does_not_fit_is_said(verb, packed, run, made, tmp_path):
    other = next(manifest for manifest in made.values() if manifest.fingerprint != packed.fingerprint)
    for words, kind, sentence in (
        ((run, "step=9"), CodexRayError, "recorded 5 steps and no step 9"),
        ((run, "step=1", f"corpus={other.folder}"), CodexRayError, "is not the one that run"),
        ((run, "step=1", "corpus=nowhere"), CodexRayError, "the run's corpus nowhere is not there"),
        ((tmp_path, "step=1"), CodexRayError, r"has no config\.yaml, so it is no run"),
        (("step=1",), ConfigError, "neither a run nor a corpus and its batch given"),
        ((run, "step=1", "batch_rows=4"), ConfigError, "both run and batch_rows given"),
    ):
        with pytest.raises(kind, match=sentence):
            verb("rows", *words)
