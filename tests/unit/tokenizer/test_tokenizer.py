"""Encoding in batches, special tokens, padding, saving and loading, and what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import Tokenizer, pieces

ROWS = [[5, 6, 7], [], [8], [9, 10, 11, 12]]


def test_batch_equals_one_by_one(tokenizer: Tokenizer, documents: list[str]) -> None:
    texts = [*documents[:3], "", " ", "x"]
    expected = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == expected
    assert tokenizer.encode_batch(texts, threads=2) == expected
    assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == expected
    assert tokenizer.encode_batch([]) == []


def test_known_words_are_forgotten_when_they_are_many(
    folder: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Tokenizer.load(folder).encode_batch(documents)
    monkeypatch.setattr(pieces, "_KNOWN_CHARACTERS", 1000)
    monkeypatch.setattr(pieces, "_GROUP_CHARACTERS", 5000)
    tokenizer = Tokenizer.load(folder)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(tokenizer.encode_batch, [documents] * 4):
            assert found == expected


def test_special_tokens_in_text_are_text_unless_asked_for(tokenizer: Tokenizer) -> None:
    text = "a</s>b <pad><s>"
    ids = tokenizer.encode(text)
    assert not {0, 1, 2, 3} & set(ids) and tokenizer.decode(ids) == text
    parsed = tokenizer.encode(text, parse_special=True)
    assert parsed == [*tokenizer.encode("a"), 2, *tokenizer.encode("b "), 3, 1]
    assert tokenizer.decode(parsed) == "ab "
    assert tokenizer.encode("<0x41>", parse_special=True) == tokenizer.encode("<0x41>")


@pytest.mark.parametrize("text", ["\ud800", "fine \udfff", "\ud83d\ude00"[:1] + "x"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    for parse in (False, True):
        with pytest.raises(CodexRayError, match=r"text 1 holds a lone surrogate \(U\+D"):
            tokenizer.encode_batch(["fine", text], parse_special=parse)


@pytest.mark.parametrize("token", [-1, 600, 10**9])
def test_foreign_ids_are_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(CodexRayError, match=f"token id {token} is not one"):
        tokenizer.decode([300, token])


def test_decoding_takes_any_integers(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("import os\n")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(iter(ids)) == "import os\n"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([4 + 0xC3]) == tokenizer.decode([4 + 0xC3, 2]) == "\ufffd"


def test_padding_and_truncation(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.pad_batch(ROWS)
    assert ids.tolist() == [[5, 6, 7, 3], [3, 3, 3, 3], [8, 3, 3, 3], [9, 10, 11, 12]]
    assert mask.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    ids, mask = tokenizer.pad_batch(ROWS, length=2, side="left", truncate_side="left")
    assert ids.tolist() == [[6, 7], [3, 3], [3, 8], [11, 12]]
    assert mask.tolist() == [[1, 1], [0, 0], [0, 1], [1, 1]]
    assert tokenizer.pad_batch([])[0].shape == (0, 0)


@settings(max_examples=100)
@given(
    rows=st.lists(st.lists(st.integers(4, 599), max_size=9), max_size=5),
    length=st.one_of(st.none(), st.integers(0, 12)),
    side=st.sampled_from(["left", "right"]),
    truncate_side=st.sampled_from(["left", "right"]),
)
def test_masked_tokens_are_the_kept_ones(
    bpe: Tokenizer, rows: list[list[int]], length: int | None, side: str, truncate_side: str
) -> None:
    ids, mask = bpe.pad_batch(rows, length=length, side=side, truncate_side=truncate_side)
    width = max(map(len, rows), default=0) if length is None else length
    assert ids.shape == mask.shape == (len(rows), width)
    for row, row_ids, row_mask in zip(rows, ids, mask, strict=True):
        kept = row[len(row) - min(len(row), width) :] if truncate_side == "left" else row[:width]
        assert row_ids[row_mask == 1].tolist() == kept
        assert set(row_ids[row_mask == 0].tolist()) <= {3}
        padding = np.flatnonzero(row_mask == 0)
        start = 0 if side == "left" else len(kept)
        assert padding.tolist() == list(range(start, start + width - len(kept)))


def test_bytes_per_token(bpe: Tokenizer) -> None:
    assert bpe.bytes_per_token(["\u00e9\u00e9"]) == pytest.approx(4 / len(bpe.encode("\u00e9\u00e9")))
    assert bpe.bytes_per_token([]) == bpe.bytes_per_token([""]) == 0


def test_saving_copies_every_file(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "model")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "model").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    # A run's model/ and a corpus's tokenizer/ are found from the folder above.
    assert Tokenizer.load(tmp_path).digest == tokenizer.digest


def test_auto_tokenizer_has_the_special_tokens(folder: Path) -> None:
    auto = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    assert [auto.unk_token_id, auto.bos_token_id, auto.eos_token_id, auto.pad_token_id] == [0, 1, 2, 3]
    assert len(auto) == auto.vocab_size == 600
    assert auto.model_max_length > 10**12 and not auto.clean_up_tokenization_spaces
    assert auto("x y").input_ids == auto("x y", add_special_tokens=False).input_ids
    padded = auto(["x y z", "x"], padding=True, return_tensors="np")
    assert padded["attention_mask"].sum() == sum(map(len, auto(["x y z", "x"]).input_ids))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A byte-level BPE tokenizer as GPT-2's: no padding token, special tokens matched in text."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(["the cat sat on the mat"] * 3, trainer)
    model.save(str(tmp_path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    return tmp_path


def test_foreign_tokenizer_has_the_same_methods(tmp_path: Path, foreign: Path) -> None:
    tokenizer = Tokenizer.load(foreign)
    texts = ["the cat\u2581 \U0001f600", "<|end|>", ""]
    rows = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(row) for row in rows] == texts
    assert tokenizer.encode("<|end|>", parse_special=True) == [tokenizer.eos_id] == [0]
    assert tokenizer.encode_batch([]) == []
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.unk_id) == (None, None, None)
    assert tokenizer.special_ids == {"bos": 0, "eos": 0, "pad": 0}
    assert tokenizer.pad_batch([[5], [6, 7]])[0].tolist() == [[5, 0], [6, 7]]
    assert len(tokenizer.vocabulary()) == tokenizer.vocabulary_size
    tokenizer.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    assert again.digest == tokenizer.digest and again.encode_batch(texts) == rows
    with pytest.raises(CodexRayError, match="text 0 holds a lone surrogate"):
        tokenizer.encode("\ud800")
    with pytest.raises(CodexRayError, match="token id 9999 is not one"):
        tokenizer.decode([9999])


def test_only_tokenizer_json_is_enough(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text(
        '{"model_type": "unknown", "auto_map": {"AutoConfig": "code.Config"}}'
    )
    loaded = Tokenizer.load(tmp_path)
    text = "def f(a):\n    return a</s>\u2581\0"
    assert loaded.encode(text) == tokenizer.encode(text) and loaded.decode(loaded.encode(text)) == text
    with pytest.raises(CodexRayError, match="no end-of-text token"):
        _ = loaded.special_ids


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "holds no tokenizer"),
        ("tokenizer.model", b"version https://git-lfs\n", "is not a SentencePiece model"),
        ("tokenizer.model", b"", "cannot be loaded"),
        ("tokenizer.json", b"{", "cannot be loaded"),
        ("tokenizer_config.json", b"[]", "cannot be loaded"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, name: str | None, content: bytes, message: str) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CodexRayError, match=message):
        Tokenizer.load(tmp_path)
    with pytest.raises(CodexRayError, match="does not exist"):
        Tokenizer.load(tmp_path / "missing")


def test_unwritable_folders_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CodexRayError, match="cannot be written"):
        tokenizer.save(tmp_path / "file")
