"""The verbs, called as the command line calls them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from codex_ray.cli import main
from codex_ray.tokenizer import Tokenizer


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> str:
        assert main(["tokenizer", *words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str]:
        status = main(["tokenizer", *words])
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        return status, err

    return call


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_train(tmp_path: Path, run) -> None:
    (tmp_path / "text").mkdir()
    for number in range(5):
        (tmp_path / f"text/{number}.py").write_text(f"def f{number}(argument):\n    return argument\n" * 9)
    (tmp_path / "text/binary.py").write_bytes(b"\xff\xfe")
    words = (f"output={tmp_path / 'out'}", "tokenizer.vocabulary_size=320", "tokenizer.kind=bpe")
    out = run("train", str(tmp_path / "text"), *words)
    assert "320 bpe pieces from 5 texts (1 unreadable)" in out and out.count("\n") == 1
    trained = Tokenizer.load(tmp_path / "out")
    assert trained.vocabulary_size == 320
    assert trained.bytes_per_token(["def f0(argument):"]) > 2


def test_train_refusals(tmp_path: Path, refused) -> None:
    (tmp_path / "a.py").write_text("import os\n" * 9)
    output = f"output={tmp_path / 'out'}"
    status, sentence = refused("train", str(tmp_path), output, "tokenizer.vocabulary_size=5000")
    assert status == 2 and "too large for this text" in sentence
    status, sentence = refused("train", str(tmp_path), output, "suffixes=[.rs]")
    assert status == 1 and ".py" in sentence
    assert not (tmp_path / "out").exists()


def test_encode_text(folder: Path, tokenizer: Tokenizer, run) -> None:
    ids = tokenizer.encode("import os")
    assert lines(run("encode", str(folder), "text=import os")) == [{"ids": ids, "mask": [1] * len(ids)}]


def test_encode_pads_and_truncates_both_sides(
    tmp_path: Path, folder: Path, tokenizer: Tokenizer, run
) -> None:
    texts = ["def f():\r\n\treturn 1", "\ufeffx", ""]
    names = [str(tmp_path / f"{number}.txt") for number in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        Path(name).write_bytes(text.encode())
    rows = tokenizer.encode_batch(texts)
    base = ("encode", str(folder), f"files={json.dumps(names)}")
    assert [line["ids"] for line in lines(run(*base))] == rows
    longest = max(map(len, rows))
    padded = lines(run(*base, "pad_to=0", "pad_side=left"))
    assert [line["ids"] for line in padded] == [[3] * (longest - len(row)) + row for row in rows]
    assert [line["mask"] for line in padded] == [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    cut = lines(run(*base, "truncate_to=5", "add_special=true", "truncate_side=left", "pad_to=7"))
    kept = [[1, *row[-3:], 2] for row in rows]
    assert [line["ids"] for line in cut] == [row + [3] * (7 - len(row)) for row in kept]
    # Padding never cuts: what is longer stays whole.
    assert lines(run(*base, "pad_to=2"))[0]["ids"] == rows[0]


def test_encode_and_decode_files_give_the_text_back(tmp_path: Path, folder: Path, documents, run) -> None:
    source, middle, result = tmp_path / "a.py", tmp_path / "ids.jsonl", tmp_path / "back.jsonl"
    text = documents[0] + "\u2581\r\n\u2028</s>"
    source.write_bytes(text.encode())
    run("encode", str(folder), f"files=[{source}]", f"output={middle}", "pad_to=0", "add_special=true")
    run("decode", str(folder), f"file={middle}", f"output={result}")
    assert json.loads(result.read_text(encoding="utf-8")) == {"text": text}


def test_encode_reads_standard_input(folder: Path, tokenizer: Tokenizer, run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a</s>\r\n")))
    (line,) = lines(run("encode", str(folder)))
    assert line["ids"] == tokenizer.encode("a</s>\r\n")
    assert lines(run("encode", str(folder), "text=</s>", "parse_special=true"))[0]["ids"] == [2]


def test_decode_ids(folder: Path, tokenizer: Tokenizer, run) -> None:
    ids = [1, *tokenizer.encode("x = 1\n"), 2]
    assert run("decode", str(folder), f"ids={ids}") == "x = 1\n"


def test_export_with_vocabulary(tmp_path: Path, folder: Path, tokenizer: Tokenizer, run) -> None:
    out = run("export", str(folder), f"output={tmp_path / 'out'}", "vocabulary_text=true")
    assert str(tmp_path / "out/tokenizer.json") in out.splitlines()
    text = (tmp_path / "out/vocab.txt").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.split("\n")[:-1]] == tokenizer.vocabulary()
    assert Tokenizer.load(tmp_path / "out").digest == tokenizer.digest


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (
            ("encode", "FOLDER", "text=a", "truncate_to=1", "add_special=true"),
            2,
            "no room for 2 special tokens",
        ),
        (("encode", "FOLDER", "files=[missing.txt]"), 1, "missing.txt cannot be read"),
        (("encode", "FOLDER", "files=[FOLDER/bad.txt]"), 1, "is not UTF-8 (byte 0xff at 1)"),
        (("encode", "FOLDER/missing", "text=a"), 1, "does not exist"),
        (("decode", "FOLDER", "ids=[600]"), 1, "token id 600 is not one"),
        (("decode", "FOLDER", "file=FOLDER/ids.jsonl"), 1, "line 2 of"),
        (("decode", "FOLDER", "file=FOLDER/missing.jsonl"), 1, "cannot be read"),
    ],
)
def test_refusals(
    tmp_path: Path, bpe: Tokenizer, refused, words: tuple[str, ...], status: int, sentence: str
) -> None:
    bpe.save(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"a\xff")
    (tmp_path / "ids.jsonl").write_text('{"ids": [300]}\n{"ids": ["x"]}\n')
    found = refused(*(word.replace("FOLDER", str(tmp_path)) for word in words))
    assert found[0] == status and sentence in found[1]
