"""Streaming: what comes out adds up to the decoding of all ids, and no half character comes early."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import CodexRayError
from codex_ray.tokenizer import StreamDecoder, Tokenizer

TEXT = "\U0001f469\u200d\U0001f467 caf\u00e9 \u2581\u65e5\u672c x\ufffdy\0"


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(token) for token in ids), decoder.flush()]


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40))
def test_text_comes_out_whole(bpe: Tokenizer, text: str) -> None:
    out = streamed(bpe, bpe.encode(text))
    assert "".join(out) == text
    assert sum(part.count("\ufffd") for part in out) == text.count("\ufffd")


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 599), max_size=40))
def test_any_ids_stream_to_their_decoding(bpe: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(bpe, ids)) == bpe.decode(ids)


def test_a_character_appears_with_its_last_byte(bpe: Tokenizer) -> None:
    face = [4 + byte for byte in "\U0001f600".encode()]
    assert streamed(bpe, face) == ["", "", "", "\U0001f600", ""]
    assert streamed(bpe, face[:2]) == ["", "", "\ufffd"]
    assert streamed(bpe, [*face[:2], 4 + ord("a")]) == ["", "", "\ufffda", ""]
    assert streamed(bpe, [1, *bpe.encode("a"), 2]) == ["", "a", "", ""]


def test_ids_out_of_range_are_refused(bpe: Tokenizer) -> None:
    for token in (-1, 600):
        with pytest.raises(CodexRayError, match="is not one of"):
            StreamDecoder(bpe).push(token)


@pytest.fixture(scope="module", params=["byte-level", "metaspace"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Tokenizers whose decoding depends on neighbours: split characters, a first space that is dropped."""
    folder = tmp_path_factory.mktemp("foreign")
    library = tokenizers
    if request.param == "byte-level":
        model = library.Tokenizer(library.models.BPE())
        model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    else:
        model = library.Tokenizer(library.models.BPE(unk_token="<0x00>", byte_fallback=True))
        model.pre_tokenizer = library.pre_tokenizers.Metaspace()
        model.decoder = library.decoders.Sequence(
            [library.decoders.ByteFallback(), library.decoders.Metaspace(), library.decoders.Fuse()]
        )
        alphabet = []
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = library.trainers.BpeTrainer(
        special_tokens=[] if alphabet else names, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(["the cat sat on the mat and the cat"] * 3, trainer)
    definition = model.to_str().replace('"special": true', '"special": false')
    (folder / "tokenizer.json").write_text(definition)
    return Tokenizer.load(folder)


@pytest.mark.parametrize("text", [TEXT, "the cat sat", " the the", "\ufffd\ufffd\ufffd\ufffd\ufffda", ""])
def test_foreign_tokenizers_stream_to_their_decoding(foreign: Tokenizer, text: str) -> None:
    ids = foreign.encode(text)
    out = streamed(foreign, ids)
    assert "".join(out) == foreign.decode(ids)
    assert sum(part.count("\ufffd") for part in out) == foreign.decode(ids).count("\ufffd")
    if text == "the cat sat":
        assert len([part for part in out if part]) == len(ids)
