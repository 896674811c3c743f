"""Compressors beside their command-line definitions."""

from __future__ import annotations

import gzip
import lzma
import random

import pytest

from codex_ray.evaluate import compression
from codex_ray.evaluate.compression import gzip_each, xz_each, xz_primed

TEXTS = ["def f(x):\n    return x\n" * 40, "ü" * 300, "import os\n"]


def noise(seed: int, words: int) -> str:
    return "".join(random.Random(seed).choices("abcdefgh \n", k=words))


def test_each_document_is_compressed_by_itself() -> None:
    data = [text.encode() for text in TEXTS]
    size = sum(map(len, data))
    assert gzip_each(TEXTS).bits_per_byte == pytest.approx(
        8 * sum(len(gzip.compress(d, 9)) for d in data) / size
    )
    assert xz_each(TEXTS).bits_per_byte == pytest.approx(
        8 * sum(len(lzma.compress(d, preset=9)) for d in data) / size
    )


def test_primed_xz_is_the_difference_of_two_sizes() -> None:
    training = [noise(1, 5000), noise(2, 3000)]
    before = "".join(training).encode()
    after = before + "".join(TEXTS).encode()
    expected = len(lzma.compress(after, preset=9)) - len(lzma.compress(before, preset=9))
    measured = xz_primed(training, TEXTS)
    assert measured.compressed_bytes == expected
    assert measured.bytes == sum(len(text.encode()) for text in TEXTS)


def test_training_text_that_holds_the_documents_makes_them_nearly_free() -> None:
    text = noise(3, 20_000)
    assert xz_primed([text], [text]).bits_per_byte < 0.05 < xz_each([text]).bits_per_byte


def test_training_text_out_of_the_compressors_reach_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "XZ_DICTIONARY_BYTES", 8192)
    near, far = noise(4, 9000), noise(5, 8000)
    assert xz_primed([far, near], [far]) == xz_primed([near], [far])
    assert xz_primed([near, far], [far]).bits_per_byte < 1
