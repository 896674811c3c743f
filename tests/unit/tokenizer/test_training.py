"""Training: what a vocabulary holds, that it repeats exactly, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codex_ray.config.corpus import Tokenizer as Settings
from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.tokenizer import Tokenizer, train_tokenizer
from codex_ray.tokenizer.training import _sample

FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
SMALL = ["the cat sat on the mat\n", "the dog ate the cat\n"] * 5


def test_ids_and_pieces(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.vocabulary()
    assert len(pieces) == len(set(pieces)) == tokenizer.vocabulary_size == 600
    assert pieces[:4] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert pieces[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    special = (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert special == (0, 1, 2, 3)
    assert tokenizer.special_ids == {"bos": 1, "eos": 2, "pad": 3}


def test_whitespace_is_learned(bpe: Tokenizer) -> None:
    pieces = bpe.vocabulary()
    assert "        " in pieces and "):\n" in pieces and " the" in pieces
    assert not any("\u2581" in piece for piece in pieces)


def test_digits_stand_alone(tmp_path: Path, tokenizer: Tokenizer) -> None:
    together = re.compile(r"\d{2}")
    assert not any(together.search(piece) for piece in tokenizer.vocabulary()[260:])
    numbers = ["in 2024 and 2024 and 2025, then 2026\n"] * 20
    joined = train_tokenizer(numbers, Settings(vocabulary_size=300, split_digits=False), tmp_path, seed=1)
    assert any(together.search(piece) for piece in joined.vocabulary()[260:])


def test_tabs_are_learned(tmp_path: Path) -> None:
    text = ["if value:\n\t\treturn value\n\tpass\n"] * 50
    trained = train_tokenizer(text, Settings(vocabulary_size=300), tmp_path, seed=1)
    assert any(piece.startswith("\n\t\t") for piece in trained.vocabulary())
    assert trained.decode(trained.encode(text[0])) == text[0]


@pytest.mark.parametrize("character", ["\u2581", "\u2585", "\0", "\ue000", "<s>", "<0x41>"])
def test_text_around_reserved_names_is_learned(tmp_path: Path, character: str) -> None:
    text = [f"zebra{character}quagga zebra {character} quagga\n"] * 30
    trained = train_tokenizer(text, Settings(vocabulary_size=290), tmp_path, seed=1)
    assert {"zebra", "quagga"} <= {piece.strip() for piece in trained.vocabulary()}
    assert not any(character in piece for piece in trained.vocabulary()[260:])
    assert trained.decode(trained.encode(text[0])) == text[0]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_two_trainings_give_equal_bytes(tmp_path: Path, documents: list[str], kind: str) -> None:
    chosen = Settings(kind=kind, vocabulary_size=400, sample_bytes=40_000)
    for name, texts in (("one", documents), ("two", documents[::-1])):
        train_tokenizer(iter(texts), chosen, tmp_path / name, seed=7)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    other = train_tokenizer(documents, chosen, tmp_path / "three", seed=8)
    assert other.digest != Tokenizer.load(tmp_path / "one").digest


def test_sample_is_even_bounded_and_exact() -> None:
    texts = [f"{number:06d}\n" * 50 for number in range(2000)]  # 350 bytes each
    kept = _sample(iter(texts), 70_000, seed=1)
    assert 69_650 <= sum(map(len, kept)) <= 70_000
    numbers = sorted(int(text[:6]) for text in kept)
    assert len(numbers) == 200 and set(kept) <= set(texts)
    for quarter in range(4):
        assert 30 <= sum(quarter * 500 <= number < (quarter + 1) * 500 for number in numbers) <= 70
    assert _sample(iter(texts[::-1]), 70_000, seed=1) == kept
    assert sorted(_sample(iter(texts), 10**9, seed=1)) == sorted(texts)


def test_sample_cuts_a_long_document_at_line_ends() -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    kept = _sample([text], 50_000, seed=1)
    assert 30_000 <= sum(map(len, kept)) <= 50_000
    assert all(chunk.endswith("\n") and chunk in text for chunk in kept)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_large_a_vocabulary_names_the_largest(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match="vocabulary_size=5000 is too large for this text") as error:
        train_tokenizer(SMALL, Settings(kind=kind, vocabulary_size=5000), tmp_path, seed=1)
    largest = int(re.findall(r"at most (\d+) pieces", str(error.value))[0])
    assert (
        train_tokenizer(SMALL, Settings(kind=kind, vocabulary_size=largest), tmp_path, 1).vocabulary_size
        == largest
    )


def test_too_small_a_vocabulary_names_the_smallest(tmp_path: Path) -> None:
    text = ["".join(map(chr, range(0x4E00, 0x4E00 + 200)))] * 3
    with pytest.raises(ConfigError, match="no room") as error:
        train_tokenizer(text, Settings(vocabulary_size=300), tmp_path, seed=1)
    smallest = int(re.findall(r"vocabulary_size=(\d+) or more", str(error.value))[0])
    assert (
        train_tokenizer(text, Settings(vocabulary_size=smallest), tmp_path, seed=1).vocabulary_size
        == smallest
    )


@pytest.mark.parametrize("texts", [[], [""], [" \n\n "], ["\0\u2581"]])
def test_no_text_is_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(CodexRayError, match="no text to train"):
        train_tokenizer(texts, Settings(), tmp_path, seed=1)
    assert not list(tmp_path.iterdir())
