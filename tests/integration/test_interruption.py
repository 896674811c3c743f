"""The command itself, as its user runs it: stopped by signals, run twice at once, and out of disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from codex_ray.config.saved import save
from codex_ray.config.train import Checkpoints, Pretrain, Training
from codex_ray.corpus.prepare import prepare
from codex_ray.track.metrics import read_metrics
from codex_ray.train.checkpoint import damage
from codex_ray.train.driver import pretrain
from tests.faults import Fault, Table, fail_at, save_table
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    assert_same_end,
    corpus_settings,
    make_text,
    run_settings,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
LONG = Training(steps=150, batch_tokens=GLOBAL_ROWS * LENGTH)
EVERY_TEN = Checkpoints(every=10)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    prepare(corpus_settings(make_text(folder / "text"), folder / "corpus"))
    return folder / "corpus"


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 150 steps that nothing disturbs."""
    runs = tmp_path_factory.mktemp("runs")
    return pretrain(run_settings(corpus, runs, "undisturbed", train=LONG, checkpoints=EVERY_TEN)).run


Popen = Callable[..., subprocess.Popen[str]]


def start(
    popen: Popen,
    settings: Pretrain,
    file: Path,
    *words: str,
    before: Sequence[str] = (),
    table: Table | None = None,
) -> subprocess.Popen[str]:
    """Start the command, with the faults of a table if there is one."""
    save(settings, file)
    program = [str(ROOT / "jobs" / "pretrain.py")]
    if table is not None:
        program = ["-m", "tests.faults", str(save_table(table, file.with_suffix(".json"))), "pretrain"]
    command = [*before, sys.executable, *program, "--config", str(file), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=file.parent, env=environment
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if (run / "metrics.jsonl").exists():
            rows = read_metrics(run / "metrics.jsonl")
            if rows and int(rows[-1]["step"] or 0) >= step:
                return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached in 240 s")


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive, alive


SIGNALS = [(signal.SIGTERM, 5), (signal.SIGINT, 60)]


@pytest.mark.parametrize(
    "signals", [SIGNALS[:1], pytest.param(SIGNALS, marks=pytest.mark.verify)], ids=["one", "both"]
)
def test_signals_stop_cleanly_and_the_rerun_ends_alike(
    signals: list[tuple[int, int]], undisturbed: Path, corpus: Path, tmp_path: Path, popen: Popen
) -> None:
    settings = run_settings(corpus, tmp_path, "signals", train=LONG, checkpoints=Checkpoints(every=1000))
    run = tmp_path / "signals"
    for number, step in signals:
        process = start(popen, settings, tmp_path / "signals.yaml")
        wait_for_step(run, step, process)
        family = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGTERM:
            second = start(popen, settings, tmp_path / "second.yaml")
            assert second.wait(timeout=240) == 1
            assert f"in use by process {process.pid}" in second.communicate()[1]
        process.send_signal(number)
        assert process.wait(timeout=240) == 130
        assert "resume=must" in process.communicate()[1]
        assert_gone(family)
        stopped_at = int(read_metrics(run / "metrics.jsonl")[-1]["step"] or 0)
        assert (run / "checkpoints" / f"step_{stopped_at:08d}" / "manifest.json").exists()
    last = start(popen, settings, tmp_path / "signals.yaml", "resume=must")
    assert last.wait(timeout=400) == 0, last.communicate()
    assert_same_end(run, undisturbed)


@pytest.mark.verify
@pytest.mark.parametrize("event", ["backward", "before rename", "after rename"])
def test_a_killed_driver_is_followed_by_another_at_once(
    event: str, undisturbed: Path, corpus: Path, tmp_path: Path, popen: Popen
) -> None:
    """Its workers live on for a moment, and what they still do is not in the way of the next ones."""
    settings = run_settings(corpus, tmp_path, "driver", train=LONG, checkpoints=EVERY_TEN)
    table = fail_at(tmp_path / "table", Fault(0, 30, event, "wait"))
    driver = start(popen, settings, tmp_path / "driver.yaml", table=table)
    table.wait_for(0)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    table.go()
    again = start(popen, settings, tmp_path / "driver.yaml")
    assert again.wait(timeout=400) == 0, again.communicate()
    assert_gone(family)
    assert_same_end(tmp_path / "driver", undisturbed)


@pytest.mark.verify
def test_a_second_signal_ends_at_once_and_the_rerun_ends_alike(
    undisturbed: Path, corpus: Path, tmp_path: Path, popen: Popen
) -> None:
    settings = run_settings(corpus, tmp_path, "twice", train=LONG, checkpoints=EVERY_TEN)
    table = fail_at(tmp_path / "table", Fault(0, 30, "before rename", "wait"))
    process = start(popen, settings, tmp_path / "twice.yaml", table=table)
    table.wait_for(0)
    family = psutil.Process(process.pid).children(recursive=True)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
    assert process.wait(timeout=240) == 130
    assert "stopped at once; the newest complete checkpoint is kept" in process.communicate()[1]
    assert_gone(family)
    assert (tmp_path / "twice" / "checkpoints" / "latest").read_text() == "step_00000020\n"
    again = start(popen, settings, tmp_path / "twice.yaml")
    assert again.wait(timeout=400) == 0, again.communicate()
    assert_same_end(tmp_path / "twice", undisturbed)


FILE_SYSTEM = {
    "full in a checkpoint": (None, "size=1600k", "the disk is full"),
    "full in a step": (Fault(0, 8, "backward", "fill"), "size=16m", "the disk is full"),
    "read-only in a checkpoint": (
        Fault(0, 10, "before rename", "read-only"),
        "size=16m",
        "cannot be written",
    ),
    "read-only in a step": (Fault(1, 8, "backward", "read-only"), "size=16m", "cannot be written"),
}


@pytest.mark.verify
@pytest.mark.parametrize("what", list(FILE_SYSTEM))
def test_a_file_system_that_fails_is_one_sentence_and_keeps_the_sound_checkpoint(
    what: str, corpus: Path, tmp_path: Path, popen: Popen
) -> None:
    """The run's folder is a small file system of its own, in a mount namespace that goes with the command."""
    fault, size, sentence = FILE_SYSTEM[what]
    runs = tmp_path / "small disk"
    runs.mkdir()
    checkpoints = Checkpoints(every=5, keep_last=9)
    settings = run_settings(corpus, runs, "disk", train=replace(LONG, steps=20), checkpoints=checkpoints)
    script = f"mount -t tmpfs -o {size} tmpfs '{runs}' && \"$@\"; status=$?; "
    script += f"cp -r '{runs}' '{tmp_path}/kept'; exit $status"
    process = start(
        popen,
        settings,
        tmp_path / "disk.yaml",
        before=["unshare", "-rm", "sh", "-c", script, "sh"],
        table=fail_at(tmp_path / "table", fault) if fault else None,
    )
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 1, errors
    assert sentence in errors.strip().splitlines()[-1] and "Traceback" not in errors
    kept = sorted((tmp_path / "kept" / "disk" / "checkpoints").glob("step_*"))
    assert kept and all(damage(folder) is None for folder in kept)
