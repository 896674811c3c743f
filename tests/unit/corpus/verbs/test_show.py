from __future__ import annotations

import pytest

from codex_ray.corpus.index import readers
from codex_ray.errors import CodexRayError
from tests.unit.corpus.verbs.small import text_of


def test_the_overview_shows_splits_sources_and_samples(verb, own, capsys):
    verb("remove", own, f"output={own.parent / 'less'}", "names=[folder/001.txt]")
    capsys.readouterr()
    verb("show", own.parent / "less")
    out = capsys.readouterr().out
    words = out.split()
    for word in ("train", "validation", "test", "prose", "notes", "/prose", "64"):
        assert word in words
    assert "1 removed" in out
    assert "folder/001.txt (sha256 " in out
    verb("show", own.parent / "less", "samples=0")
    assert "folder/001.txt" not in capsys.readouterr().out


def test_rows_are_decoded_with_their_documents_named(verb, packed, capsys):
    verb("show", packed.folder, "split=train", "row=0", "count=2")
    out = capsys.readouterr().out
    (first, *_), _ = zip(
        *[(line.name, line) for line in next(readers(packed, "train")).overlapping(0, 64)], strict=True
    )
    assert "row 0 of train: row 0 of source prose" in out
    assert "row 1 of train: row 1 of source prose" in out
    assert first in out
    assert text_of(int(first[7:10]))[:20].splitlines()[0] in out
    rows, own = packed.splits["train"].rows, packed.splits["train"].sources[0].rows
    verb("show", packed.folder, f"row={rows - 1}")
    assert f"row {rows - 1} of train: row {rows - 1 - own} of source notes" in capsys.readouterr().out


def test_padding_is_said(verb, made, capsys):
    verb("show", made["best_fit"].folder, "row=0", f"count={made['best_fit'].splits['train'].rows}")
    assert "padding" in capsys.readouterr().out


def test_documents_come_back_as_they_were(verb, packed, capsys):
    for number in (*range(0, 60, 7), 101, 117):
        verb("show", packed.folder, f"document=folder/{number:03d}.txt")
        out = capsys.readouterr().out
        whole = text_of(number)
        if "in no row" in out:
            assert whole.startswith(out.split("\nDocument ")[1].rstrip("\n")) or "Document" in out
        else:
            assert out.endswith(f"\n{whole}\n")


def test_a_document_is_shown_by_its_number(verb, packed, capsys):
    names = [line.name for line in readers(packed, "validation").__next__().overlapping(0, 10**9)]
    verb("show", packed.folder, "split=validation", "number=1")
    assert f"document {names[1]} of validation" in capsys.readouterr().out
    number = sum(info.documents for info in packed.splits["train"].sources[0].index_files)
    verb("show", packed.folder, f"number={number}")
    out = capsys.readouterr().out
    assert "of train" in out
    assert "source  notes" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("row=100000",), "rows, counted from 0, and no row 100000"),
        (("split=trian", "row=1"), "has no split 'trian'; did you mean 'train'"),
        (("document=nothing.txt",), "has no document 'nothing.txt'"),
        (("document=x", "source=prosa"), "has no source 'prosa'; did you mean 'prose'"),
        (("number=100000",), "has no document number 100000"),
        (("row=1", "document=x"), "both row and document given"),
    ],
)
def test_what_is_not_there_is_said(verb, packed, words, sentence):
    with pytest.raises(CodexRayError, match=sentence):
        verb("show", packed.folder, *words)
