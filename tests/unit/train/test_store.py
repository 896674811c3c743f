"""The second place of checkpoints, on a real S3 server of this machine and in a folder."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codex_ray.config.train import Checkpoints, Pretrain
from codex_ray.errors import CodexRayError
from codex_ray.track.run_folder import RunFolder
from codex_ray.train.checkpoint import MANIFEST, CheckpointFolder, Found
from codex_ray.train.driver import with_absolute_storage
from codex_ray.train.resume import refuse_used_storage
from codex_ray.train.shares import GivenUp, Shares
from codex_ray.train.store import Store, newest
from tests.s3 import s3_server
from tests.unit.train.test_checkpoint import commit


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("bucket") as query:
        yield query


@pytest.fixture(params=["s3", "folder"])
def store(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> Store:
    place = f"s3://bucket/{tmp_path.name}{bucket}" if request.param == "s3" else str(tmp_path / "other disk")
    return Store(place, "run", 30.0)


def copied(store: Store, folder: CheckpointFolder, step: int, loss: float | None = None) -> None:
    path = commit(folder, step, loss)
    store.put(step, path, Found.read(path).manifest["files"])
    store.complete(step, path)


def test_a_checkpoint_is_there_with_its_manifest_and_comes_back(store: Store, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert store.entries() == []
    for step in (5, 10):
        copied(store, folder, step, float(step))
    path = commit(folder, 15)
    store.put(15, path, Found.read(path).manifest["files"])  # its manifest never came
    assert [(entry.step, entry.figures["validation_loss"]) for entry in store.entries()] == [
        (5, 5.0),
        (10, 10.0),
    ]
    for step in folder.steps():
        folder.remove(step)
    notes: list[str] = []
    found = newest(folder, store, notes.append)
    assert found is not None and found.step == 10 and folder.steps() == [10]
    assert (folder.folder / "latest").read_text() == "step_00000010\n"
    assert (found.folder / "engine/a.pt").read_bytes() == b"engine/a.pt at 10" * 100
    assert len(notes) == 1 and "step_00000010 was fetched from" in notes[0] and "endpoint" not in notes[0]
    assert newest(folder, store, pytest.fail) == found


def test_one_that_is_damaged_there_is_named_and_an_older_one_taken(store: Store, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (5, 10, 15):
        copied(store, folder, step)
    for step, name in ((10, "gone.pt"), (15, "engine/a.pt")):
        (folder.path(step) / name).write_bytes(b"changed")
        store.put(step, folder.path(step), [name])
    manifest = folder.path(10) / MANIFEST
    manifest.write_text(manifest.read_text().replace("engine/b.pt", "engine/c.pt"))
    store.put(10, folder.path(10), [MANIFEST])
    for step in folder.steps():
        folder.remove(step)
    notes: list[str] = []
    found = newest(folder, store, notes.append)
    assert found is not None and found.step == 5
    assert "engine/a.pt has changed" in notes[0] and "engine/c.pt is missing" in notes[1] and len(notes) == 3
    assert not list(folder.folder.glob(".*fetched.partial"))


def test_going_back_and_removing(store: Store, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (5, 10, 15):
        copied(store, folder, step)
    store.back(5)
    assert [entry.step for entry in store.entries()] == [5]
    store.remove(5)
    store.remove(99)  # what is not there is no fault
    assert store.entries() == []


def test_pruning_takes_halves_away_as_well(store: Store, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (5, 10, 15):
        copied(store, folder, step)
    half = commit(folder, 20)
    store.put(20, half, ["random_0.pt"])
    damaged = commit(folder, 25)
    (damaged / MANIFEST).write_text("{")
    store.put(25, damaged, [MANIFEST])
    store.prune(Checkpoints(keep_last=2, keep_best=0), {})
    assert [entry.step for entry in store.entries()] == [10, 15]
    assert list(store._manifests()) == [10, 15, 25]  # one that is damaged is left for people to look at


def test_a_new_run_does_not_take_up_another_of_its_name(store: Store, tmp_path: Path) -> None:
    copied(store, CheckpointFolder(tmp_path / "checkpoints"), 10)
    settings = Checkpoints(storage=store._url)
    run = RunFolder(tmp_path / "run", 1)
    refuse_used_storage(run, Pretrain(checkpoints=settings, resume="auto"))
    with pytest.raises(
        CodexRayError, match=r"run holds checkpoints up to step 10 of a run of this name; con"
    ):
        refuse_used_storage(run, Pretrain(checkpoints=settings))


def test_a_folder_is_named_as_workers_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for given, meant in (
        ("~/backup", f"{tmp_path}/home/backup"),
        ("backup", f"{tmp_path}/backup"),
        ("s3://bucket/x", "s3://bucket/x"),
        (None, None),
    ):
        assert with_absolute_storage(Checkpoints(storage=given)).storage == meant


def test_a_store_that_does_not_answer_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(20)  # takes connections and says nothing
        port = listener.getsockname()[1]
        address = f"s3://bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        began = time.monotonic()
        with pytest.raises(CodexRayError, match=r"^s3://bucket/x/run did not answer in 1 s; check"):
            Store(address, "run", 1.0).entries()
        assert time.monotonic() - began < 20


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    path = commit(CheckpointFolder(tmp_path / "checkpoints"), 5)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CodexRayError, match=r"file/run cannot be written"):
        Store(str(tmp_path / "file"), "run", 10.0).put(5, path, ["random_0.pt"])


def test_ranks_hear_of_each_other_or_say_who_is_missing(tmp_path: Path) -> None:
    given_up = threading.Event()
    ranks = [Shares(tmp_path, rank, 3, 0.3, given_up) for rank in range(3)]
    ranks[2].say("written", {"c": "2"})
    ranks[0].say("written", {"a": "0"})
    with pytest.raises(CodexRayError, match=r"^rank 1 had not written its share of the checkpoint after"):
        ranks[0].hear("written")
    late = threading.Timer(0.1, lambda: ranks[1].say("written", {"b": "1"}))
    late.start()
    assert ranks[0].hear("written") == [{"a": "0"}, {"b": "1"}, {"c": "2"}]
    late.join()
    ranks[0].say("uploaded")
    with pytest.raises(
        CodexRayError, match=r"^rank 1, 2 had not uploaded its .* whether s3://b/run still ans"
    ):
        ranks[0].hear("uploaded", at="s3://b/run")
    ranks[1].say("failed")
    with pytest.raises(GivenUp):
        ranks[2].hear("uploaded")
    (tmp_path / "failed_1.json").unlink()
    given_up.set()
    with pytest.raises(GivenUp):
        ranks[0].hear("uploaded")
