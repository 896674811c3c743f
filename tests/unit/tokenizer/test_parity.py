"""The same ids from SentencePiece, our encoder, tokenizer.json and AutoTokenizer, and the same text back."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from codex_ray.config.corpus import Tokenizer as Settings
from codex_ray.errors import ConfigError
from codex_ray.tokenizer import Tokenizer, train_tokenizer

HARD = [
    "",
    " ",
    "\u2581",
    " \u2581\u2581 a\u2581b c \u2581",
    "\0",
    "a\0\0b",
    "\t\tif x:\n\t\treturn\t",
    "\r\n\n\r \r\n",
    "\ufeffcoding",
    "\ue000\uf8ff\U0010ffff\ufffe",
    "\ufffd\u2047 \u2585",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 e\u0301 \u0f40\u0f72",
    "<s></s><pad><unk> <s> </s>",
    "<0x41><0xFF> <0x0A>",
    "".join(map(chr, range(160))),
    "    " * 20 + "\n" * 20,
    "=" * 77 + "-" * 33,
]

# Few characters make repetitive text, where merges overlap and scores tie; the rest is any Unicode.
REPETITIVE = st.text(st.sampled_from("a =\n\t(\u2581e<s>/0x41"), max_size=80)
ANY = st.one_of(st.text(max_size=60), REPETITIVE)


class Paths:
    """Four ways from text to ids, for one tokenizer folder."""

    def __init__(self, folder: Path) -> None:
        self.ours = Tokenizer.load(folder)
        self.sentencepiece = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.json = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.auto: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)

    def check(self, text: str) -> None:
        ids = self.ours.encode(text)
        assert self.sentencepiece.encode(text) == ids
        assert self.json.encode(text).ids == ids
        assert self.auto(text).input_ids == ids
        assert not {0, 1, 2, 3} & set(ids)
        decoded = (
            self.ours.decode(ids),
            self.sentencepiece.decode(ids),
            self.json.decode(ids),
            self.auto.decode(ids),
            self.auto.decode([1, *ids, 2, 3], skip_special_tokens=True),
            self.ours.decode([1, *ids, 2, 3]),
        )
        assert decoded == (text,) * len(decoded)


@pytest.fixture(scope="module")
def paths(folder: Path) -> Paths:
    return Paths(folder)


@pytest.mark.parametrize("text", HARD)
def test_hard_strings(paths: Paths, text: str) -> None:
    paths.check(text)


@settings(max_examples=150, deadline=None)
@given(text=ANY)
def test_any_text(paths: Paths, text: str) -> None:
    paths.check(text)


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, 599), max_size=30))
def test_text_made_of_pieces(paths: Paths, numbers: list[int]) -> None:
    # The names of bytes and special tokens, and pieces in orders that no text has.
    paths.check("".join(paths.ours.vocabulary()[number] for number in numbers))


def test_source_files(paths: Paths, documents: list[str]) -> None:
    for text in documents[-3:]:
        paths.check(text)


def test_long_text_with_and_without_spaces(paths: Paths, documents: list[str]) -> None:
    # Longer than the parts in which unigram's sums are exact.
    paths.check("".join(documents[:3])[:40_000])
    paths.check("".join(documents[:3]).replace(" ", "")[:40_000])
    paths.check("x" * 30_000 + " " * 30_000 + "y")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("alphabet", ["ab", "a ", "a=\n", " \n\t", "<0x41>", "\u65e5\u672c"])
def test_vocabularies_of_repetitive_text(tmp_path: Path, kind: str, alphabet: str) -> None:
    """Pieces that are powers of each other and overlap themselves in every way."""
    draw = random.Random(f"{kind}{alphabet}")
    texts = ["".join(draw.choice(alphabet) * draw.randint(1, 9) for _ in range(30)) for _ in range(40)]
    largest = Settings(kind=kind, vocabulary_size=4000)
    with pytest.raises(ConfigError, match="too large") as error:
        train_tokenizer(texts, largest, tmp_path, seed=1)
    most = int(re.findall(r"vocabulary_size=(\d+) or less", str(error.value))[0])
    tokenizer = train_tokenizer(texts, Settings(kind=kind, vocabulary_size=most), tmp_path, seed=1)
    json = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pieces = tokenizer.vocabulary()
    probes = ["".join(draw.choices(alphabet, k=draw.randint(1, 100))) for _ in range(300)]
    probes += ["".join(draw.choices(pieces, k=draw.randint(1, 12))) for _ in range(300)]
    probes += [piece * count for piece in pieces[260:] for count in (2, 3, 5, 8)]
    expected = [found.ids for found in json.encode_batch(probes)]
    assert tokenizer.encode_batch(probes) == expected
    assert SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).encode(probes) == expected
    assert [tokenizer.decode(ids) for ids in expected] == probes
