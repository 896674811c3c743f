"""Checkpoints written beside training: what they cost, what a kill leaves, where else they are kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codex_ray.config.common import Device
from codex_ray.config.train import Checkpoints, DeepSpeed, Training
from codex_ray.errors import CodexRayError
from codex_ray.track.metrics import read_metrics
from codex_ray.train.checkpoint import CheckpointFolder, Found
from codex_ray.train.driver import pretrain
from codex_ray.train.messages import MessageReader
from tests.faults import Fault, armed, fail_at
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    QUIET,
    STEPS,
    TWO_WORKERS,
    assert_same_end,
    losses,
    run_settings,
)
from tests.s3 import s3_server

TRAINING = Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket on an S3 server of this machine."""
    with s3_server("bucket") as query:
        yield f"s3://bucket/runs{query}"


pytestmark = [
    pytest.mark.integration,
    pytest.mark.verify,
    pytest.mark.usefixtures("bucket", "ray_session"),
    pytest.mark.timeout(900),
]


def notes_of(run: Path, attempt: int) -> list[str]:
    messages = MessageReader(run / "attempts" / str(attempt)).new()
    return [item["text"] for item in messages if item["kind"] == "note"]


@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_kill_while_training_goes_on_and_a_checkpoint_is_written(
    stage: int, dtype: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a rank's state of step 8 is written when step 11 is done, and then it dies."""
    changes = {"deepspeed": DeepSpeed(stage=stage), "compute": Device(device="cpu", dtype=dtype)}
    in_the_loop = Checkpoints(every=4, asynchronous=False)
    whole = pretrain(run_settings(tiny_corpus, tmp_path, "whole", checkpoints=in_the_loop, **changes)).run
    table = fail_at(tmp_path / "table", Fault(1, 8, "write", "wait"))
    run = tmp_path / "killed"

    def kill() -> None:
        pid = table.wait_for(0)
        while int(read_metrics(run / "metrics.jsonl")[-1]["step"] or 0) < 11:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    monkeypatch.setattr("codex_ray.train.trainer.train_worker", armed(table))
    result = pretrain(run_settings(tiny_corpus, tmp_path, "killed", **changes))
    assert table.struck() == [0] and result.completed
    assert "resumed from step 4" in notes_of(run, 1)
    assert_same_end(run, whole)
    assert not list((run / "checkpoints").glob(".*"))


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    return pretrain(run_settings(tiny_corpus, tmp_path_factory.mktemp("runs"), "whole")).run


@pytest.mark.parametrize("workers", [2, 1])
def test_compressed_checkpoints_continue_alike(
    workers: int, whole: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Written with and without compression in turn, and by another number of workers."""
    settings = run_settings(tiny_corpus, tmp_path, "packed")
    for stop_after, compression in ((3, "zstd"), (6, "none"), (9, "zstd"), (None, "zstd")):
        result = pretrain(
            replace(
                settings,
                train=replace(TRAINING, stop_after=stop_after),
                checkpoints=Checkpoints(every=100, keep_last=9, compression=compression),
                cluster=replace(TWO_WORKERS, workers=workers if stop_after == 9 else 2),
            )
        )
    folder = CheckpointFolder(result.run / "checkpoints")
    found = [Found.read(folder.path(step)) for step in folder.steps()]
    assert [one.compression for one in found] == ["zstd", "none", "zstd", "zstd"]
    assert found[0].manifest["bytes"] < found[1].manifest["bytes"]
    assert not list(folder.folder.glob(".*"))
    if workers == 2:
        assert_same_end(result.run, whole)
    else:
        assert losses(result.run) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize("kind", ["s3", "folder"])
def test_a_run_goes_on_from_its_storage(
    kind: str, bucket: str, whole: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    storage = bucket if kind == "s3" else str(tmp_path / "other disk")
    checkpoints = Checkpoints(every=2, keep_last=1, keep_best=0, keep_every=4, storage=storage)
    settings = run_settings(tiny_corpus, tmp_path, f"kept in {kind}", checkpoints=checkpoints)
    stopped = pretrain(replace(settings, train=replace(TRAINING, stop_after=7)))
    shutil.rmtree(stopped.run / "checkpoints")
    result = pretrain(settings)
    notes = notes_of(result.run, 2)
    assert notes[0].startswith("checkpoint step_00000007 was fetched from ")
    assert notes[1] == "resumed from step 7"
    assert_same_end(result.run, whole)
    folder = CheckpointFolder(result.run / "checkpoints")
    assert folder.steps() == [8, 12]
    # The whole folder is lost: what the run had decided comes back with the checkpoint.
    decided = (result.run / "decided.json").read_text()
    shutil.rmtree(result.run)
    with pytest.raises(CodexRayError, match=r"holds checkpoints up to step 12 of a run of this name"):
        pretrain(replace(settings, resume="never"))
    shutil.rmtree(result.run)
    again = pretrain(settings)
    assert again.completed and CheckpointFolder(again.run / "checkpoints").steps() == [12]
    assert json.loads((again.run / "decided.json").read_text()) == json.loads(decided)
    assert [row["step"] for row in read_metrics(again.run / "metrics.jsonl")] == [12]


def test_a_storage_that_fails_ends_the_run_in_one_sentence(tiny_corpus: Path, tmp_path: Path) -> None:
    """It turns into a file while the run is on: the upload fails in the thread, and all ranks end."""
    storage = tmp_path / "disk"
    checkpoints = Checkpoints(every=4, keep_last=9, storage=str(storage))
    settings = run_settings(
        tiny_corpus, tmp_path, "lost disk", checkpoints=checkpoints, track=replace(QUIET, mixing_every=1),
        train=replace(TRAINING, steps=300),
    )  # fmt: skip

    def harm() -> None:
        while not (storage / "lost disk" / "step_00000004" / "manifest.json").exists():
            time.sleep(0.005)
        storage.rename(tmp_path / "aside")
        storage.write_text("in the way")

    thread = threading.Thread(target=harm, daemon=True)
    thread.start()
    with pytest.raises(CodexRayError, match=r"disk/lost disk cannot be (written|read)") as caught:
        pretrain(settings)
    assert "\n" not in str(caught.value)
    newest = CheckpointFolder(tmp_path / "lost disk" / "checkpoints").steps()[-1]
    assert 4 <= newest < 300
    storage.unlink()
    (tmp_path / "aside").rename(storage)
    ended = pretrain(replace(settings, train=replace(TRAINING, steps=newest + 2)))
    assert ended.completed and f"resumed from step {newest}" in notes_of(ended.run, 2)
