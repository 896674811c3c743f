from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.corpus.read import NOT_STDLIB, UnreadableError, find_files, label, read_text, text_folder
from codex_ray.errors import CodexRayError

LIMIT = 1000


def names(folder: Path, *suffixes: str) -> list[str]:
    return [label(file.name) for file in find_files(folder, suffixes or (".txt",))]


def put(path: Path, data: bytes = b"some text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_files_are_listed_by_name_whatever_the_folder_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", "a.txt", "ä.txt", "A.txt", "a b.txt", "note.md"):
        put(tmp_path / name)
    assert names(tmp_path) == ["A.txt", "a b.txt", "a.txt", "a/b/c.txt", "a/z.txt", "b.txt", "ä.txt"]
    assert names(tmp_path, ".md", ".txt")[-2:] == ["note.md", "ä.txt"]


def test_link_loops_end_and_files_keep_their_own_names(tmp_path: Path) -> None:
    put(tmp_path / "text" / "real" / "one.txt")
    put(tmp_path / "elsewhere" / "two.txt")
    (tmp_path / "text" / "a_loop").symlink_to(tmp_path / "text")
    (tmp_path / "text" / "again").symlink_to(tmp_path / "text" / "real")
    (tmp_path / "text" / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "text")
    assert names(tmp_path / "text") == ["outside/two.txt", "real/one.txt"]


def test_what_is_no_readable_file_is_listed_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    found = {label(file.name): file.problem for file in find_files(tmp_path, [".txt"])}
    assert found == {
        "broken.txt": "cannot be read: No such file or directory",
        "pipe.txt": "not a regular file: a pipe, socket or device",
    }


def test_names_that_are_not_utf8_can_be_read_and_printed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    (file,) = find_files(tmp_path, [".txt"])
    assert file.name == b"caf\xe9.txt"
    assert label(file.name) == "caf\\xe9.txt"


def test_own_folders_are_skipped(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "old.txt")
    put(tmp_path / "new.txt")
    found = find_files(tmp_path, [".txt"], skip_folders=[tmp_path / "corpus", tmp_path / "not_there"])
    assert [file.name for file in found] == [b"new.txt"]


def test_an_empty_folder_and_one_without_matches_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match="is empty"):
        find_files(tmp_path, [".txt"])
    put(tmp_path / "a.jsonl")
    put(tmp_path / "b.jsonl")
    put(tmp_path / "c.csv")
    with pytest.raises(CodexRayError, match=r"has 3 files and none ends in \.txt; .* suffixes=\[\.jsonl\]"):
        find_files(tmp_path, [".txt"])


def test_missing_folder_and_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match="does not exist"):
        text_folder(str(tmp_path / "no"))
    with pytest.raises(CodexRayError, match="is a file"):
        text_folder(str(put(tmp_path / "one.txt")))


def test_the_standard_library_is_found_without_installed_packages() -> None:
    folder, skipped = text_folder("stdlib")
    assert skipped == NOT_STDLIB
    found = {label(file.name) for file in find_files(folder, [".py"], skip_names=skipped)}
    assert "argparse.py" in found
    assert not any("site-packages" in name or "__pycache__" in name for name in found)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"abc\xff\xfe", "not UTF-8: byte 0xff at 3"),
        (b"\xff\xfea\x00", "binary: a NUL character at 3"),
        (b"one\0two", "binary: a NUL character at 3"),
        (b"\xed\xa0\x80", "not UTF-8: byte 0xed at 0"),
    ],
)
def test_what_is_not_text_is_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text(put(tmp_path / "f", data), LIMIT)
    assert str(caught.value) == reason


def test_a_vanished_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="cannot be read: No such file"):
        read_text(tmp_path / "gone", LIMIT)


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=200))
def test_text_comes_back_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    data = text.encode()
    path = put(tmp_path_factory.getbasetemp() / "round.txt", data)
    read = read_text(path, LIMIT)
    assert read is not None
    assert read[0].encode() == data.removeprefix(b"\xef\xbb\xbf")


def test_line_endings_stay_and_a_byte_order_mark_goes(tmp_path: Path) -> None:
    path = put(tmp_path / "f", b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path, LIMIT) == ("one\r\ntwo\rthree\n", True)


def test_a_longer_file_is_not_read(tmp_path: Path) -> None:
    assert read_text(put(tmp_path / "at", b"x" * LIMIT), LIMIT) == ("x" * LIMIT, False)
    assert read_text(put(tmp_path / "over", b"x" * (LIMIT + 1)), LIMIT) is None
    marked = put(tmp_path / "marked", b"\xef\xbb\xbf" + b"x" * LIMIT)
    assert read_text(marked, LIMIT) == ("x" * LIMIT, True)
