"""The command itself, as its user runs it: stopped by signals, run twice at once, and out of disk."""

from __future__ import annotations

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
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    assert_same_end,
    corpus_settings,
    make_text,
    run_settings,
)

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
LONG = Training(steps=150, batch_tokens=GLOBAL_ROWS * LENGTH)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    prepare(corpus_settings(make_text(folder / "text"), folder / "corpus"))
    return folder / "corpus"


Popen = Callable[..., subprocess.Popen[str]]


def start(
    popen: Popen, settings: Pretrain, file: Path, *words: str, before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    save(settings, file)
    command = [*before, sys.executable, str(ROOT / "jobs" / "pretrain.py"), "--config", str(file), *words]
    return popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=file.parent)


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
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, alive


SIGNALS = [(signal.SIGTERM, 5), (signal.SIGINT, 60)]


@pytest.mark.parametrize(
    "signals", [SIGNALS[:1], pytest.param(SIGNALS, marks=pytest.mark.verify)], ids=["one", "both"]
)
def test_signals_stop_cleanly_and_the_rerun_ends_alike(
    signals: list[tuple[int, int]], corpus: Path, tmp_path: Path, popen: Popen
) -> None:
    settings = run_settings(corpus, tmp_path, "signals", train=LONG, checkpoints=Checkpoints(every=1000))
    undisturbed = start(popen, replace(settings, name="undisturbed"), tmp_path / "undisturbed.yaml")
    assert undisturbed.wait(timeout=280) == 0, undisturbed.communicate()
    run = tmp_path / "signals"
    for number, step in signals:
        process = start(popen, settings, tmp_path / "signals.yaml")
        wait_for_step(run, step, process)
        family = psutil.Process(process.pid).children(recursive=True)
        if number == signal.SIGTERM:
            second = start(popen, settings, tmp_path / "second.yaml")
            assert second.wait(timeout=60) == 1
            assert f"in use by process {process.pid}" in second.communicate()[1]
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
        assert "resume=must" in process.communicate()[1]
        assert_gone(family)
        stopped_at = int(read_metrics(run / "metrics.jsonl")[-1]["step"] or 0)
        assert (run / "checkpoints" / f"step_{stopped_at:08d}" / "manifest.json").exists()
    last = start(popen, settings, tmp_path / "signals.yaml", "resume=must")
    assert last.wait(timeout=280) == 0, last.communicate()
    assert_same_end(run, tmp_path / "undisturbed")


def test_a_full_disk_in_a_checkpoint_is_one_sentence_and_keeps_the_sound_one(
    corpus: Path, tmp_path: Path, popen: Popen
) -> None:
    """The run's folder is a small file system of its own, in a mount namespace that goes with the command."""
    runs = tmp_path / "small disk"
    runs.mkdir()
    training = replace(LONG, steps=20)
    settings = run_settings(
        corpus, runs, "full", train=training, checkpoints=Checkpoints(every=5, keep_last=9)
    )
    script = f"mount -t tmpfs -o size=1600k tmpfs '{runs}' && \"$@\"; status=$?; "
    script += f"cp -r '{runs}' '{tmp_path}/kept'; exit $status"
    process = start(
        popen, settings, tmp_path / "full.yaml", before=["unshare", "-rm", "sh", "-c", script, "sh"]
    )
    errors = process.communicate(timeout=200)[1]
    assert process.returncode == 1, errors
    sentence = errors.strip().splitlines()[-1]
    assert "the disk is full" in sentence and "Traceback" not in errors
    kept = sorted(path.name for path in (tmp_path / "kept" / "full" / "checkpoints").glob("step_*"))
    assert kept and (tmp_path / "kept/full/checkpoints" / kept[-1] / "manifest.json").exists()
