"""Saving beside a loop: two gloo processes whose state changes in place while a thread writes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from codex_ray.config.train import Checkpoints
from codex_ray.errors import CodexRayError
from codex_ray.train.checkpoint import CheckpointFolder, Found, damage
from codex_ray.train.loop import State
from codex_ray.train.saver import Saver
from codex_ray.train.store import Store
from tests.integration.processes import in_processes

pytestmark = pytest.mark.integration
SETTINGS = Checkpoints(keep_last=2, keep_best=0, timeout_seconds=30.0)


class Slow:
    """Something that takes long to write: whoever makes it again waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __setstate__(self, state: dict[str, float]) -> None:
        time.sleep(state["seconds"])
        self.__dict__.update(state)


class Numbers:
    """What the saver needs of an engine: a file for each rank, of tensors that steps change in place."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.weights = torch.zeros(1000)
        self.seconds = 0.0
        self.disk_is_full = False

    def step(self) -> None:
        self.weights += 1

    def save(self, folder: Path, state: dict[str, Any], write: Any) -> None:
        path = folder / f"part_{self.rank}.pt"
        if self.rank == 0:
            (folder / "script.py").write_text("never compressed")
        if self.disk_is_full:
            path.symlink_to("/dev/full")
        write({"weights": self.weights, "slow": Slow(self.seconds), "state": state}, path)
        dist.barrier()


def saver_in(folder: Path, **changes: Any) -> Saver:
    settings = replace(SETTINGS, **changes)
    checkpoints = CheckpointFolder(folder / "checkpoints")
    facts = {"commit": "c0ffee"}
    store = Store.of(settings, "run")
    return Saver(checkpoints, store, settings, lambda: facts, torch.device("cpu"), print)


def beside_the_loop(rank: int, folder: Path) -> None:
    engine, checkpoints = Numbers(), CheckpointFolder(folder / "checkpoints")
    engine.seconds = 0.5
    with saver_in(folder) as saver:
        for step in range(1, 4):
            engine.step()
            stall = saver.save(engine, State(step=step), {"loss": 1.0 / step, "bad": float("nan")})  # type: ignore[arg-type]
            assert stall > 0.2 or step == 1  # the one before must be complete
            assert not checkpoints.path(step).exists()
            engine.weights.fill_(-1.0)
            engine.weights.fill_(step)
        saver.wait()
    dist.barrier()
    assert checkpoints.steps() == [2, 3] and not list(checkpoints.folder.glob(".*"))
    found = Found.read(checkpoints.path(3))
    assert damage(found.folder) is None and found.manifest["figures"] == {"loss": 1 / 3, "bad": None}
    assert sorted(found.manifest["files"]) == [
        *("part_0.pt", "part_1.pt", "random_0.pt", "random_1.pt"),
        "script.py",
    ]
    assert found.manifest["commit"] == "c0ffee" and 0.2 < found.manifest["write_seconds"] < 20
    for step in (2, 3):
        part = torch.load(checkpoints.path(step) / f"part_{rank}.pt", weights_only=False)
        assert (
            torch.equal(part["weights"], torch.full((1000,), float(step))) and part["state"]["step"] == step
        )


def in_the_loop(rank: int, folder: Path) -> None:
    engine, checkpoints = Numbers(), CheckpointFolder(folder / "checkpoints")
    saver = saver_in(folder, asynchronous=False, compression="zstd")
    engine.step()
    saver.save(engine, State(step=1), {})  # type: ignore[arg-type]
    found = Found.read(checkpoints.path(1))
    assert found.manifest["asynchronous"] is False and found.compression == "zstd"
    assert found.manifest["plain"] == ["script.py"]
    engine.disk_is_full = rank == 1
    with pytest.raises(CodexRayError, match="the disk is full while writing"):
        saver.save(engine, State(step=2), {})  # type: ignore[arg-type]
    assert checkpoints.steps() == [1]


def full_disk(rank: int, folder: Path) -> None:
    """One rank's thread fails; the loop's vote tells all, and the sentence is the same."""
    engine, checkpoints = Numbers(), CheckpointFolder(folder / "checkpoints")
    saver = saver_in(folder)
    saver.save(engine, State(step=1), {})  # type: ignore[arg-type]
    saver.wait()
    engine.disk_is_full = rank == 1
    saver.save(engine, State(step=2), {})  # type: ignore[arg-type]
    votes = torch.zeros(1)
    for _ in range(1000):
        votes.fill_(float(saver.failed))
        dist.all_reduce(votes)
        if votes:
            break
        time.sleep(0.01)
    with pytest.raises(CodexRayError, match=r"the disk is full while writing .*\.step_00000002\.") as caught:
        saver.wait()
    sentences = [None, None]
    dist.all_gather_object(sentences, str(caught.value))
    assert sentences[0] == sentences[1]
    dist.barrier()
    assert checkpoints.steps() == [1] and not list(checkpoints.folder.glob(".*"))


def late_rank(rank: int, folder: Path) -> None:
    engine = Numbers()
    engine.seconds = 2.5 * rank
    saver = saver_in(folder, timeout_seconds=1.0)
    saver.save(engine, State(step=1), {})  # type: ignore[arg-type]
    with pytest.raises(CodexRayError, match=r"^rank 1 had not written its share of the checkpoint after"):
        saver.wait()
    assert CheckpointFolder(folder / "checkpoints").steps() == []


def second_place(rank: int, folder: Path) -> None:
    """Both ranks copy their files; a place that stops working ends the save and not what is here."""
    engine, checkpoints = Numbers(), CheckpointFolder(folder / "checkpoints")
    changes = {"storage": str(folder / "other"), "keep_last": 1}
    saver = saver_in(folder, **changes)
    for step in (1, 2, 3):
        engine.step()
        saver.save(engine, State(step=step), {"loss": 1.0})  # type: ignore[arg-type]
        saver.wait()
    store = Store.of(replace(SETTINGS, **changes), "run")
    assert store is not None and [entry.step for entry in store.entries()] == [3]
    assert store.fetch(3, folder / f"fetched_{rank}") is None
    part = torch.load(folder / f"fetched_{rank}" / f"part_{rank}.pt", weights_only=False)
    assert torch.equal(part["weights"], torch.full((1000,), 3.0))
    dist.barrier()
    if rank == 0:
        (folder / "other").rename(folder / "aside")
        (folder / "other").write_text("in the way")
    dist.barrier()
    saver.save(engine, State(step=4), {})  # type: ignore[arg-type]
    with pytest.raises(CodexRayError, match=r"other/run cannot be "):
        saver.wait()
    dist.barrier()
    assert checkpoints.steps() == [4] and not list(checkpoints.folder.glob(".*"))


def end_of_the_block(rank: int, folder: Path) -> None:
    """An error that all ranks share lets a save end; after another one the next start cleans up."""
    engine, checkpoints = Numbers(), CheckpointFolder(folder / "checkpoints")
    engine.seconds = 0.5
    with pytest.raises(CodexRayError, match="told"), saver_in(folder) as saver:
        saver.save(engine, State(step=1), {})  # type: ignore[arg-type]
        raise CodexRayError("told")
    dist.barrier()
    assert checkpoints.steps() == [1]
    # One rank's disk is full and another one ends before the vote: it does not wait for what will not come.
    engine.disk_is_full, began = rank == 1, time.monotonic()
    with pytest.raises(CodexRayError, match="told"), saver_in(folder, timeout_seconds=120.0) as saver:
        saver.save(engine, State(step=2), {})  # type: ignore[arg-type]
        raise CodexRayError("told")
    assert time.monotonic() - began < 60
    engine.disk_is_full = False
    with pytest.raises(RuntimeError, match="lost"), saver_in(folder) as saver:
        saver.save(engine, State(step=2), {})  # type: ignore[arg-type]
        raise RuntimeError("lost a peer")
    time.sleep(1.0)
    dist.barrier()
    assert checkpoints.steps() == [1]
    if rank == 0:
        assert list(checkpoints.folder.glob(".step_00000002.*.partial"))
        found = checkpoints.newest_sound(pytest.fail)
        assert found is not None and found.step == 1 and not list(checkpoints.folder.glob(".*"))


def _scenario(rank: int, world: int, scenario: Callable[[int, Path], None], folder: Path) -> None:
    scenario(rank, folder)


@pytest.mark.parametrize(
    "scenario", [beside_the_loop, in_the_loop, full_disk, late_rank, second_place, end_of_the_block]
)
def test_two_ranks_save(scenario: Callable[[int, Path], None], tmp_path: Path) -> None:
    in_processes(2, _scenario, scenario, tmp_path)
