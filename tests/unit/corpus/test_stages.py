from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.corpus.account import DUPLICATE, Account
from codex_ray.corpus.raw import Dropped, Quarantined
from codex_ray.corpus.stages import Stages, finish
from codex_ray.errors import CodexRayError


def test_a_result_is_there_only_when_it_is_finished(tmp_path: Path) -> None:
    entry = Stages(tmp_path).entry("read", {"key": 1})
    with pytest.raises(KeyError), entry.making() as folder:
        (folder / "half").write_text("half")
        raise KeyError("stop")
    assert entry.result() is None
    with entry.making() as folder:
        assert list(folder.iterdir()) == []
        finish(folder, {"count": 3})
    assert entry.result() == {"count": 3}
    (entry.folder / "done.json").write_text("{")
    assert entry.result() is None


def test_of_two_that_make_the_same_the_first_whole_one_stays(tmp_path: Path) -> None:
    entry = Stages(tmp_path).entry("read", 1)
    with entry.making() as slow:
        (slow / "data").write_text("slow")
        with entry.making() as quick:
            (quick / "data").write_text("quick")
            finish(quick, {})
        finish(slow, {})
    assert (entry.folder / "data").read_text() == "quick"
    assert list(entry.folder.parent.iterdir()) == [entry.folder]


def test_what_was_being_made_when_it_was_killed_is_cleared(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    entry = stages.entry("read", 1)
    made = entry.making()
    half = made.__enter__()
    (half / "data").write_text("half")
    assert half.exists()
    stages.clear()
    assert not half.exists()
    assert entry.result() is None


def test_what_was_not_asked_for_is_swept(tmp_path: Path) -> None:
    before = Stages(tmp_path)
    for key in (1, 2):
        with before.entry("read", key).making() as folder:
            finish(folder, {})
    (tmp_path / ".lock").touch()
    after = Stages(tmp_path)
    kept = after.entry("read", 2)
    after.sweep()
    assert [path.name for path in (tmp_path / "read").iterdir()] == [kept.folder.name]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    entry = Stages(tmp_path).entry("read", 1)
    with (
        pytest.raises(CodexRayError, match="the disk is full while writing"),
        entry.making() as folder,
        Path("/dev/full").open("w") as stream,
    ):
        stream.write(str(folder))


# numpy says of this only how many numbers it wrote.
FILL = """
import sys
from pathlib import Path
import numpy as np
from codex_ray.corpus.stages import Entry
with Entry(Path(sys.argv[1]) / "read" / "1").making() as folder:
    np.save(folder / "sizes.npy", np.zeros(1_000_000))
"""


def test_a_full_disk_that_numpy_does_not_name_is_the_same_sentence(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=300k tmpfs "$1" && "$2" -c "$3" "$1"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FILL]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert f"the disk is full while writing {tmp_path}/read/1; free some space" in last


items = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.integers(0, 10**6), st.sampled_from(["repaired", "masked"])),
        st.tuples(st.just("drop"), st.sampled_from(["too_short", "c4/lines"]), st.text(max_size=9)),
        st.tuples(st.just("quarantine"), st.sampled_from(["binary", "not UTF-8"]), st.text(max_size=9)),
    ),
    max_size=30,
)


def account_of(found: list[tuple[str, object, str]]) -> Account:
    account = Account()
    for number, (what, value, text) in enumerate(found):
        if what == "keep":
            account.keep(int(str(value)), (text,))
        elif what == "drop":
            account.drop(f"{number}", Dropped(str(value), text), text)
        else:
            account.quarantine(Quarantined(f"{number}", f"{value}: {text}"))
    return account


@given(found=items, cut=st.integers(0, 30))
def test_accounts_add_up_and_survive_the_disk(found: list[tuple[str, object, str]], cut: int) -> None:
    whole, first, second = account_of(found), account_of(found[:cut]), account_of(found[cut:])
    first.add(second)
    counts = ("read", "kept", "bytes", "dropped", "quarantined", "changed", "sizes")
    assert [getattr(first, name) for name in counts] == [getattr(whole, name) for name in counts]
    assert whole.read == whole.kept + whole.dropped.total() + whole.quarantined.total()
    assert all(1 <= len(samples) <= 3 for samples in whole.samples.values())
    assert set(whole.samples) == set(whole.dropped) | set(whole.quarantined)
    again = Account.from_plain(whole.plain())
    assert again == whole and again.plain() == whole.plain()


def test_a_repeated_document_is_dropped_after_all() -> None:
    account = account_of([("keep", 100, "masked"), ("keep", 5, "masked")])
    account.repeated(DUPLICATE, 100)
    assert (account.read, account.kept, account.bytes, account.dropped) == (2, 1, 5, {"duplicate": 1})
    assert account.plain()["sizes"] == {"2": 1}
