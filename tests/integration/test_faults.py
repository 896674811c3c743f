"""The fault table on one machine: whatever strikes, the run ends as the undisturbed one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from codex_ray.config.common import Device
from codex_ray.config.train import DeepSpeed, Pretrain
from codex_ray.errors import CodexRayError
from codex_ray.train.driver import TrainingResult, pretrain
from codex_ray.train.messages import MessageReader
from tests.faults import EVENTS, Fault, Table, armed, fail_at
from tests.integration.training import TWO_WORKERS, assert_same_end, cut, flip, run_settings

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]
PATIENT = replace(TWO_WORKERS, max_failures=len(EVENTS))
COSTS = ("recoveries", "recovery_seconds", "effective_time_ratio")


@pytest.fixture(scope="module")
def undisturbed(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps that nothing disturbs."""
    return pretrain(run_settings(tiny_corpus, tmp_path_factory.mktemp("runs"), "undisturbed")).run


@pytest.fixture
def disturb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pretrain, Table], TrainingResult]:
    """Run with the faults of a table, and say what they cost."""

    def run(settings: Pretrain, table: Table) -> TrainingResult:
        monkeypatch.setattr("codex_ray.train.trainer.train_worker", armed(table))
        try:
            result = pretrain(settings)
        finally:
            assert_no_worker_left(Path(settings.runs) / str(settings.name))
        assert table.struck() == list(range(len(table.faults)))
        costs = {name: round(result.figures.get(name, 0.0), 3) for name in COSTS}
        print(f"{[(f.rank, f.step, f.event, f.action) for f in table.faults]}: {costs}")
        return result

    return run


Disturb = Callable[[Pretrain, Table], TrainingResult]


def told(run: Path, kind: str) -> list[dict[str, object]]:
    """What the workers and the controller of all starts have told, of one kind."""
    starts = sorted(run.glob("attempts/*"), key=lambda path: int(path.name))
    return [item for start in starts for item in MessageReader(start).new() if item["kind"] == kind]


def assert_no_worker_left(run: Path) -> None:
    """Every process that was a worker of the run is gone."""
    pids = {int(str(item["pid"])) for item in told(run, "worker")}
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive, alive


def test_kills_and_a_clock_that_jumps_cost_seconds_and_change_nothing(
    undisturbed: Path, tiny_corpus: Path, tmp_path: Path, disturb: Disturb
) -> None:
    faults = [Fault(0, 1, "batch", "clock"), Fault(1, 2, "update"), Fault(0, 8, "before rename")]
    result = disturb(run_settings(tiny_corpus, tmp_path, "killed"), fail_at(tmp_path / "table", *faults))
    assert_same_end(result.run, undisturbed)
    failures = told(result.run, "failure")
    assert [(item["ranks"], item["preempted"]) for item in failures] == [([1], False), ([0], False)]
    assert [item["step"] for item in told(result.run, "begin")] == [0, 0, 4]
    assert result.figures["recoveries"] == 2 and 0 < result.figures["recovery_seconds"] < 120
    assert 0 < result.figures["effective_time_ratio"] < 1


def kills(rank: int) -> list[Fault]:
    """Each event once, in the order in which a run of 12 steps meets them."""
    at = {"batch": 1, "backward": 2, "update": 3, "write": 4, "before rename": 4, "validation": 6}
    at |= {"after rename": 8, "export": 12}
    assert at.keys() == set(EVENTS)
    return [Fault(rank, step, event) for event, step in at.items() if rank == 0 or "rename" not in event]


@pytest.mark.verify
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_kill_at_every_event(
    stage: int, dtype: str, rank: int, tiny_corpus: Path, tmp_path: Path, disturb: Disturb
) -> None:
    settings = run_settings(
        tiny_corpus,
        tmp_path,
        "whole",
        compute=Device(device="cpu", dtype=dtype),
        deepspeed=DeepSpeed(stage=stage),
        cluster=PATIENT,
    )
    whole = pretrain(settings).run
    table = fail_at(tmp_path / "table", *kills(rank))
    result = disturb(replace(settings, name="killed"), table)
    assert_same_end(result.run, whole)
    assert result.figures["recoveries"] == len(table.faults) - 1  # after the export no step is left


def test_a_stopped_rank_is_named_and_the_run_goes_on(
    undisturbed: Path, tiny_corpus: Path, tmp_path: Path, disturb: Disturb
) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "hung", cluster=replace(TWO_WORKERS, hang_seconds=6.0))
    result = disturb(settings, fail_at(tmp_path / "table", Fault(1, 7, "backward", "stop")))
    assert_same_end(result.run, undisturbed)
    assert result.figures["recoveries"] == 1 and result.figures["recovery_seconds"] < 120
    first = (result.run / "first_error.txt").read_text()
    assert first.startswith("attempt 1, role worker, rank 1, step ")  # of its last pulse
    assert "has not answered for 6 s" in first
    stacks = (result.run / "attempts" / "1" / "stacks_0.txt").read_text()
    assert "_step" in stacks and not (result.run / "attempts" / "1" / "stacks_1.txt").exists()


@pytest.mark.verify
def test_a_slow_rank_is_named(tiny_corpus: Path, tmp_path: Path, disturb: Disturb) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "slow")
    settings = replace(settings, train=replace(settings.train, steps=24))
    result = disturb(settings, fail_at(tmp_path / "table", Fault(1, 2, "batch", "slow")))
    (slow,) = told(result.run, "slow")
    assert slow["rank"] == 1 and float(str(slow["seconds"])) >= 0.2
    assert result.figures["recoveries"] == 0


@pytest.mark.verify
def test_failures_without_progress_end_the_run_and_a_rerun_completes_it(
    undisturbed: Path, tiny_corpus: Path, tmp_path: Path, disturb: Disturb
) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "failing", cluster=replace(TWO_WORKERS, max_failures=1))
    faults = [Fault(1, 6, "batch"), *(Fault(1, 9, event) for event in ("batch", "backward", "update"))]
    table = fail_at(tmp_path / "table", *faults)
    sentence = (
        r"cluster.max_failures=1 times without a new checkpoint \(rank 1: its process or node is gone\)"
    )
    with pytest.raises(CodexRayError, match=sentence):
        disturb(settings, table)
    assert [item["step"] for item in told(tmp_path / "failing", "begin")][:4] == [0, 4, 8, 8]
    assert_same_end(disturb(settings, table).run, undisturbed)


@pytest.mark.verify
def test_a_loss_that_is_once_not_a_number_stops_the_run_and_a_rerun_completes_it(
    undisturbed: Path, tiny_corpus: Path, tmp_path: Path, disturb: Disturb
) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "nan")
    table = fail_at(tmp_path / "table", Fault(1, 6, "backward", "nan"))
    with pytest.raises(CodexRayError, match="not finite at optimizer step 6"):
        disturb(settings, table)
    assert_same_end(disturb(settings, table).run, undisturbed)


@pytest.mark.verify
def test_a_full_object_store_changes_nothing(
    undisturbed: Path, tiny_corpus: Path, tmp_path: Path, disturb: Disturb
) -> None:
    import ray

    table = fail_at(tmp_path / "table", Fault(0, 2, "update"))
    held = [ray.put(np.zeros(2**26, dtype=np.uint8)) for _ in range(12)]  # three times what it holds
    result = disturb(run_settings(tiny_corpus, tmp_path, "store", stream="ray"), table)
    assert_same_end(result.run, undisturbed)
    del held


def newest(checkpoints: Path, pattern: str) -> Path:
    return next((checkpoints / "step_00000010").rglob(pattern))


DAMAGE = {
    "flipped": lambda checkpoints: flip(newest(checkpoints, "*optim_states.pt")),
    "cut": lambda checkpoints: cut(newest(checkpoints, "*model_states.pt")),
    "missing": lambda checkpoints: newest(checkpoints, "random_1.pt").unlink(),
    "manifest": lambda checkpoints: cut(newest(checkpoints, "manifest.json")),
    "latest": lambda checkpoints: (checkpoints / "latest").unlink(),
}


@pytest.mark.parametrize(
    "what", ["flipped", *(pytest.param(name, marks=pytest.mark.verify) for name in list(DAMAGE)[1:])]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    what: str, undisturbed: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    settings = run_settings(tiny_corpus, tmp_path, "damaged")
    pretrain(replace(settings, train=replace(settings.train, stop_after=10)))
    DAMAGE[what](tmp_path / "damaged" / "checkpoints")
    result = pretrain(settings)
    notes = [str(item["text"]) for item in told(result.run, "note")]
    if what == "latest":  # for people; nothing depends on it
        assert notes == ["resumed from step 10"]
    else:
        assert "step_00000010 is damaged" in notes[0] and "resumed from step 8" in notes[1]
    assert_same_end(result.run, undisturbed)
