from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from codex_ray.corpus.raw import Quarantined
from codex_ray.corpus.sources.names import label
from codex_ray.corpus.sources.patterns import split_pattern
from codex_ray.corpus.sources.read import read_unit
from codex_ray.corpus.sources.units import find_units
from codex_ray.errors import CodexRayError, ConfigError
from tests.unit.corpus.sources.forms import (
    SUFFIXES,
    account,
    as_arrow_stream,
    as_parquet,
    as_tar,
    as_zip,
    items,
    limits,
    put,
    source,
    units_of,
)


def names(path: Path | str, **settings: str) -> list[str]:
    return [unit.name for unit in units_of(source(path, **settings))]


def test_files_are_listed_by_name_whatever_the_folder_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", "a.txt", "ä.txt", "A.txt", "a b.txt", "note.md"):
        put(tmp_path / name)
    assert names(tmp_path) == ["A.txt", "a b.txt", "a.txt", "a/b/c.txt", "a/z.txt", "b.txt", "ä.txt"]
    (first, *_) = units_of(source(tmp_path))
    status = (tmp_path / "A.txt").stat()
    assert (first.path, first.size, first.version) == (str(tmp_path / "A.txt"), 9, str(status.st_mtime_ns))
    assert (first.source, first.kind) == ("s", "text")


def test_link_loops_end_and_files_keep_their_own_names(tmp_path: Path) -> None:
    put(tmp_path / "text" / "real" / "one.txt")
    put(tmp_path / "elsewhere" / "two.txt")
    (tmp_path / "text" / "a_loop").symlink_to(tmp_path / "text")
    (tmp_path / "text" / "again").symlink_to(tmp_path / "text" / "real")
    (tmp_path / "text" / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "text")
    assert names(tmp_path / "text") == ["outside/two.txt", "real/one.txt"]
    assert names(f"{tmp_path}/text/**/*.txt") == ["outside/two.txt", "real/one.txt"]


def test_what_is_no_readable_file_is_one_item_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.txt").symlink_to(tmp_path / "itself.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert account(items(source(tmp_path))) == {
        "broken.txt": "cannot be read: No such file or directory",
        "itself.txt": "cannot be read: Too many levels of symbolic links",
        "pipe.txt": "not a regular file: a pipe, socket or device",
    }


def test_a_file_that_vanishes_after_listing_is_an_item(tmp_path: Path) -> None:
    put(tmp_path / "gone.txt")
    units = units_of(source(tmp_path))
    (tmp_path / "gone.txt").unlink()
    found = [item for unit in units for item in read_unit(unit, source(tmp_path), limits())]
    assert account(found) == {"gone.txt": "cannot be read: No such file or directory"}


def test_names_that_are_not_utf8_can_be_read_and_printed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    (tmp_path / "caf\\xe9.txt").write_text("other")
    assert account(items(source(tmp_path))) == {"caf\\xe9.txt": "text", "caf\\\\xe9.txt": "other"}
    assert label(b"a\\b") != label(b"a\\\\b")


def test_own_folders_are_skipped(tmp_path: Path) -> None:
    put(tmp_path / "corpus" / "old.txt")
    put(tmp_path / "new.txt")
    skipped = [tmp_path / "corpus", tmp_path / "not_there"]
    units = find_units("s", source(tmp_path), SUFFIXES, unit_bytes=100, skip_folders=skipped)
    assert [unit.name for unit in units] == ["new.txt"]


def test_nothing_to_read_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CodexRayError, match=r"source s: .* is empty; put files there"):
        names(tmp_path)
    for name in ("a.c", "b.c", "c.png"):
        put(tmp_path / name)
    with pytest.raises(CodexRayError, match=r"has 3 files and none ends in \.txt, \.py .* suffixes=\[\.c\]"):
        names(tmp_path)
    with pytest.raises(CodexRayError, match=r"none is wanted with format=csv; .* is \.c \(2\)"):
        names(tmp_path, format="csv")
    with pytest.raises(CodexRayError, match=r"is \.png \(1\), .* or sources\.s\.format=text"):
        names(tmp_path / "c.png")
    with pytest.raises(CodexRayError, match="does not exist"):
        names(tmp_path / "no.txt")
    with pytest.raises(CodexRayError, match="is no folder"):
        names(f"{tmp_path}/no/*.txt")
    with pytest.raises(CodexRayError, match="matches no file"):
        names(f"{tmp_path}/*.txt")
    with pytest.raises(ConfigError, match="ftp://"):
        names("ftp://host/x.txt")
    put(tmp_path / "only" / "x.json", b"{}")
    with pytest.raises(CodexRayError, match=r"give sources\.s\.format=json"):
        names(tmp_path / "only")


def test_a_folder_gives_text_and_records_but_not_settings(tmp_path: Path) -> None:
    listed = ["a.txt", "b.jsonl.gz", "c.PARQUET", "d.arrow", "g.zip", "h.tgz", "i.txt.zst"]
    for name in (*listed, "e.csv", "f.tsv", "package.json", "picture.png", "state.json", "x.gz"):
        put(tmp_path / name)
    assert names(tmp_path) == listed
    asked = {unit.name: unit.kind for unit in units_of(source(tmp_path), suffixes=[".csv", "package.json"])}
    assert asked.items() >= {"e.csv": "csv", "package.json": "json"}.items() and "a.txt" not in asked
    assert names(tmp_path, format="text") == ["a.txt", "g.zip", "h.tgz", "i.txt.zst"]
    assert names(tmp_path, format="jsonl") == ["b.jsonl.gz", "g.zip", "h.tgz", "package.json", "state.json"]
    assert names(tmp_path, format="csv") == ["e.csv", "g.zip", "h.tgz"]
    kinds = {unit.name: unit.kind for unit in units_of(source(tmp_path))}
    assert kinds["b.jsonl.gz"] == "jsonl" and kinds["c.PARQUET"] == "parquet" and kinds["h.tgz"] == "tar"


def test_a_file_may_be_said_to_hold_something_else(tmp_path: Path) -> None:
    put(tmp_path / "rows.dat", b'{"text": "a"}\n')
    assert account(items(source(tmp_path / "rows.dat", format="jsonl"))) == {"rows.dat@0": "a"}
    assert account(items(source(tmp_path / "rows.dat", format="text"))) == {"rows.dat": '{"text": "a"}\n'}
    assert account(items(source(f"{tmp_path}/*.dat", format="jsonl"))) == {"rows.dat@0": "a"}


def test_globs(tmp_path: Path) -> None:
    for name in ("a/one.txt", "a/b/two.txt", "c/three.txt", "c/x.json", "four.txt", ".hidden/five.txt"):
        put(tmp_path / name)
    assert names(f"{tmp_path}/*.txt") == ["four.txt"]
    assert names(f"{tmp_path}/*/*.txt") == ["a/one.txt", "c/three.txt"]
    assert names(f"{tmp_path}/**/*.txt") == ["a/b/two.txt", "a/one.txt", "c/three.txt", "four.txt"]
    assert names(f"{tmp_path}/[ab]/**") == ["a/b/two.txt", "a/one.txt"]
    assert names(f"{tmp_path}/c/*") == ["three.txt", "x.json"]
    put(tmp_path / "odd[1].txt")
    assert names(tmp_path / "odd[1].txt") == ["odd[1].txt"]
    assert split_pattern("*.txt")[0] == "."


def test_members_of_archives_are_the_files_of_a_folder(tmp_path: Path) -> None:
    members = [
        ("../../etc/evil.txt", b"only a name"),
        ("/absolute.py", b"x = 1"),
        ("twice.txt", b"first"),
        ("twice.txt", b"second"),
        ("rows.jsonl.gz", b"not gzip"),
        ("settings.json", b"{}"),
        ("picture.png", b"x"),
        ("inner.zip", as_zip("a.txt", b"x")),
    ]
    found = account(items(source(put(tmp_path / "a.tar", as_tar(*members)))))
    assert found.pop("a.tar/rows.jsonl.gz:1").startswith("damaged: ")
    assert found == {
        "a.tar/../../etc/evil.txt": "only a name",
        "a.tar//absolute.py": "x = 1",
        "a.tar/twice.txt": "first",
        "a.tar/twice.txt#2": "second",
        "a.tar/inner.zip": "cannot be read: an archive inside an archive",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


def save_dataset(folder: Path, shards: int = 2) -> None:
    listed = [{"filename": f"data-{number:05d}-of-{shards:05d}.arrow"} for number in range(shards)]
    for number, item in enumerate(listed):
        put(folder / item["filename"], as_arrow_stream([{"text": f"{folder.name} {number}"}]))
    put(folder / "state.json", json.dumps({"_data_files": listed, "_split": None}).encode())
    put(folder / "dataset_info.json", b"{}")
    put(folder / "cache-0123.arrow", as_arrow_stream([{"text": "left over"}]))


@pytest.mark.parametrize("format", ["auto", "datasets"])
def test_saved_datasets_are_the_files_that_their_state_lists(tmp_path: Path, format: str) -> None:
    save_dataset(tmp_path / "one")
    assert list(account(items(source(tmp_path / "one", format=format))).values()) == ["one 0", "one 1"]
    put(tmp_path / "both" / "dataset_dict.json", b'{"splits": ["train", "test"]}')
    save_dataset(tmp_path / "both" / "train")
    save_dataset(tmp_path / "both" / "test", shards=1)
    found = account(items(source(tmp_path / "both", format=format)))
    assert found == {
        "test/data-00000-of-00001.arrow:1": "test 0",
        "train/data-00000-of-00002.arrow:1": "train 0",
        "train/data-00001-of-00002.arrow:1": "train 1",
    }
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    (_, missing) = items(source(tmp_path / "one", format=format))
    assert missing == Quarantined("data-00001-of-00002.arrow", "cannot be read: No such file")
    state = {"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}
    put(tmp_path / "one" / "state.json", json.dumps(state).encode())
    with pytest.raises(CodexRayError, match="load and save it with a newer version"):
        names(tmp_path / "one", format=format)


def test_folders_saved_by_the_datasets_library_itself(tmp_path: Path) -> None:
    import datasets

    whole = datasets.Dataset.from_list([{"text": f"row {number}"} for number in range(10)])
    chosen = whole.filter(lambda row: row["text"] != "row 3")
    datasets.DatasetDict({"train": chosen}).save_to_disk(str(tmp_path / "d"), num_shards={"train": 2})
    found = account(items(source(tmp_path / "d")))
    assert list(found.values()) == [f"row {number}" for number in range(10) if number != 3]


def test_large_files_are_cut_and_others_are_not(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", b"x" * 1000)
    put(tmp_path / "b.jsonl.gz", b"x" * 1000)
    put(tmp_path / "c.csv", b"x" * 1000)
    put(tmp_path / "d.parquet", as_parquet([{"text": f"{n}" * 300} for n in range(10)], row_group_size=5))
    put(tmp_path / "e.parquet", b"x" * 1000)
    slices = [
        (unit.name, unit.start, unit.stop) for unit in units_of(source(f"{tmp_path}/*"), unit_bytes=300)
    ]
    assert slices == [
        ("a.jsonl", 0, 300),
        ("a.jsonl", 300, 600),
        ("a.jsonl", 600, 900),
        ("a.jsonl", 900, None),
        ("b.jsonl.gz", 0, None),
        ("c.csv", 0, None),
        ("d.parquet", 0, 1),
        ("d.parquet", 1, None),
        ("e.parquet", 0, None),
    ]
    assert sum(unit.size for unit in units_of(source(tmp_path / "a.jsonl"), unit_bytes=300)) == 1000


def test_the_standard_library_is_found_without_installed_packages() -> None:
    units = find_units("text", source("stdlib"), [".py"], unit_bytes=100)
    assert {"argparse.py", "json/decoder.py"} <= {unit.name for unit in units}
    assert {unit.kind for unit in units} == {"text"}
    assert not any("site-packages" in unit.name or "__pycache__" in unit.name for unit in units)


def test_a_folder_that_was_moved_has_the_same_names(tmp_path: Path) -> None:
    put(tmp_path / "a" / "x" / "one.txt")
    before = [item.name for item in items(source(tmp_path / "a"))]
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert [item.name for item in items(source(tmp_path / "b"))] == before


def test_a_file_that_changes_while_it_is_read_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    (unit,) = units_of(source(path))
    reading = read_unit(unit, source(path), limits())
    assert next(reading).name == "rows.jsonl@0"
    with path.open("a") as stream:
        stream.write('{"text": "three"}\n')
    with pytest.raises(CodexRayError, match=r"rows.jsonl changed while it was read; run prepare again"):
        list(reading)
