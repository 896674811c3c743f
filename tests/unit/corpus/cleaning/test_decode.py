from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codex_ray.corpus.cleaning.decode import decode, no_text
from codex_ray.corpus.cleaning.mend import Normalise, Repair
from codex_ray.corpus.raw import Quarantined, Raw

FRENCH = "Ceci est un été très long, où l'on était à l'école naïve. " * 5
RUSSIAN = "Привет, как дела? Это простой текст для проверки. " * 6
JAPANESE = "日本語のテキストです。これは長い文章です。" * 8


def strict(data: bytes | str) -> tuple[str, tuple[str, ...]] | str:
    decoded = decode(Raw("a.txt", data), detect=False)
    return decoded.reason if isinstance(decoded, Quarantined) else decoded


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"some \xff", "not UTF-8: byte 0xff at 5"),
        (b"a\0b", "binary: a NUL character at 1"),
        ("a\0b", "binary: a NUL character at 1"),
        ("bad \ud800 end", "lone surrogate: U+D800 at 4"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0xed at 0"),
        ("mark".encode("utf-16"), "not UTF-8: it begins with the byte order mark of UTF-16"),
    ],
)
def test_what_is_no_text_is_set_aside_with_its_reason(data: bytes | str, reason: str) -> None:
    assert strict(data) == reason


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_strict_decoding_keeps_text_exactly(text: str) -> None:
    assert strict(text) == (text, ())
    assert strict(b"\xef\xbb\xbf" + text.encode()) == (text, ("byte order mark",))
    if not text.startswith("\ufeff"):
        assert strict(text.encode()) == (text, ())


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (FRENCH, "cp1252", "cp1252"),
        (RUSSIAN, "cp1251", "cp1251"),
        (JAPANESE, "shift_jis", "cp932"),
        (JAPANESE, "utf-16", "utf-16-le"),
        (FRENCH, "utf-32", "utf-32-le"),
        ("Hello world", "utf-16-le", "utf-16-le"),
        ("Hello wörld", "utf-16-be", "utf-16-be"),
    ],
)
def test_encodings_are_detected(text: str, encoding: str, named: str) -> None:
    assert decode(Raw("a", text.encode(encoding)), detect=True) == (text, (f"decoded as {named}",))


@settings(deadline=None)
@given(st.binary(max_size=400))
@example(b"\xff\xfe\0\0")
@example(b"\xff\xfe\x00\xd8")
@example(b"\x7fELF\x02\x01\x01" + bytes(60))
def test_detection_gives_text_or_a_reason_for_any_bytes(data: bytes) -> None:
    decoded = decode(Raw("a", data), detect=True)
    if isinstance(decoded, Quarantined):
        assert decoded.reason.partition(":")[0] in ("not UTF-8", "binary")
    else:
        assert no_text(decoded[0]) is None


def test_binary_files_are_not_taken_for_utf16() -> None:
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\x06\0\0\0"
    assert decode(Raw("a", picture), detect=True) == Quarantined("a", "binary: a NUL character at 8")


MOJIBAKE = st.text("aé€ß“”œ中Ã©â", max_size=20).map(lambda text: text.encode().decode("cp1252", "replace"))


def test_repair_undoes_wrong_decoding_and_nothing_else() -> None:
    repair = Repair()
    assert repair.apply("schÃ¶n, donâ€™t", "a") == "schön, don’t"
    kept = "“curled” ﬁ &amp; ｆｕｌｌ \x1b[0m\r\nline\x85"
    assert repair.apply(kept.replace("\x85", ""), "a") == kept.replace("\x85", "")


@settings(deadline=None)
@given(st.one_of(st.text(), MOJIBAKE))
@example("À\x80")
def test_repairing_twice_is_repairing_once(text: str) -> None:
    if no_text(text):
        return
    repair = Repair()
    once = repair.apply(text, "a")
    assert isinstance(once, str)
    assert repair.apply(once, "a") == once
    assert no_text(once) is None


@settings(deadline=None)
@given(st.text())
@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_normalising_twice_is_normalising_once(form: str, text: str) -> None:
    step = Normalise(form)
    once = step.apply(text, "a")
    assert isinstance(once, str)
    assert step.apply(once, "a") == once
    assert unicodedata.is_normalized(form, once)  # type: ignore[arg-type]
