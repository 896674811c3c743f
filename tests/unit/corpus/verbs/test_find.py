from __future__ import annotations

import hashlib
import json

import pytest

from codex_ray.corpus.index import readers
from codex_ray.errors import CodexRayError, ConfigError
from tests.unit.corpus.verbs.small import text_of


def found(capsys) -> list[list[str]]:
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_names_are_found_exactly_or_by_glob(verb, packed, capsys):
    assert verb("find", packed.folder, "name=folder/007.txt") == 1
    assert [words[2] for words in found(capsys)] == ["folder/007.txt"]
    assert verb("find", packed.folder, "name=*/01?.txt") == 10
    assert {words[2] for words in found(capsys)} == {f"folder/01{digit}.txt" for digit in range(10)}
    assert (
        verb("find", packed.folder, "name=*", "source=notes", "split=train")
        == packed.splits["train"].sources[1].documents
    )
    assert verb("find", packed.folder, "name=*", "limit=4") == 4


def test_a_hash_is_found_with_its_place(verb, packed, capsys):
    value = hashlib.sha256(text_of(18).encode()).hexdigest()
    assert verb("find", packed.folder, f"sha256={value.upper()}") == 1
    ((split, source, name, sha256, size, rows),) = found(capsys)
    assert (source, name, sha256, size) == (
        "prose",
        "folder/018.txt",
        value,
        f"{len(text_of(18).encode())} bytes",
    )
    assert split in packed.splits
    assert rows.startswith("rows ")


def test_text_is_found_in_every_split_though_it_crosses_rows(verb, packed, capsys):
    for number in (0, 9, 27, 45, 117):
        text = text_of(number)[:-120] if number % 9 else text_of(number)[: 64 * 8]
        assert (
            verb("find", packed.folder, f"text={json.dumps(text, ensure_ascii=False)[1:-1]}") == 0
            or "\n" not in text
        )
    expected = {
        (reader.split, line.name)
        for reader in readers(packed)
        for line in reader.overlapping(0, 10**9)
        if "place back to whoever asked for it in the end the loop" in text_of(int(line.name[7:10]))
    }
    assert len({split for split, _ in expected}) == 3
    capsys.readouterr()
    verb("find", packed.folder, "text=place back to whoever asked for it in the end the loop")
    assert {(words[0], words[2]) for words in found(capsys)} == expected
    assert verb("find", packed.folder, "text=nowhere to be found") == 0


def test_json_lines_are_written_for_remove(verb, packed, tmp_path, capsys):
    assert verb("find", packed.folder, "text=Document 3", f"output={tmp_path / 'found.jsonl'}") == 11
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == {"folder/003.txt", *(f"folder/03{d}.txt" for d in range(10))}
    assert capsys.readouterr().out == ""
    written = verb(
        "remove", packed.folder, f"output={tmp_path / 'less'}", f"match={tmp_path / 'found.jsonl'}"
    )
    assert written.removed == 11
    assert verb("find", tmp_path / "less", "text=Document 3") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("split=trian", "name=a"), "has no split 'trian'; did you mean 'train'"),
        (("source=note", "name=a"), "has no source 'note'; did you mean 'notes'"),
        ((), "give one of text=, name= and sha256= to look for"),
        (("name=a", "text=b"), "give one of text=, name= and sha256= to look for"),
        (("sha256=abc",), "is not a SHA-256"),
    ],
)
def test_impossible_requests_are_said(verb, packed, words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        verb("find", packed.folder, *words)


def test_an_output_that_cannot_be_written_is_said(verb, packed, tmp_path):
    with pytest.raises(CodexRayError, match=r"none/found\.jsonl cannot be written"):
        verb("find", packed.folder, "name=*", f"output={tmp_path / 'none' / 'found.jsonl'}")
