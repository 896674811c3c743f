"""A run that meets data which it cannot have learnt from goes back, and leaves that data out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codex_ray.config.train import Checkpoints, Optimizer, Training
from codex_ray.corpus.direct import digest
from codex_ray.corpus.prepare import prepare
from codex_ray.corpus.stream import open_stream
from codex_ray.errors import CodexRayError
from codex_ray.train.driver import pretrain
from codex_ray.train.messages import MessageReader
from codex_ray.train.spikes import batch_index
from tests.integration.training import (
    GLOBAL_ROWS,
    LENGTH,
    assert_same_end,
    batches,
    corpus_settings,
    losses,
    run_settings,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session"), pytest.mark.verify]
STEPS = 80


@pytest.fixture(scope="module")
def corpus(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines that are easy to learn, and a few of noise."""
    folder = tmp_path_factory.mktemp("spikes")
    (folder / "text").mkdir()
    draw = random.Random(3)
    for number in range(60):
        lines = [f"value_{line % 10} = {line % 10}" for line in range(number, number + 120)]
        if number % 6 == 5:
            lines[40:50] = ["".join(draw.choices("QWXZKJVYqwxzkjvy#@%&$~^", k=60)) for _ in range(10)]
        (folder / "text" / f"{number:02d}.py").write_text("\n".join(lines))
    prepare(corpus_settings(folder / "text", folder / "corpus"))
    return folder / "corpus"


def test_batches_that_make_the_loss_jump_are_left_out(corpus: Path, tmp_path: Path) -> None:
    settings = run_settings(
        corpus,
        tmp_path,
        "spikes",
        optimizer=Optimizer(kind="adamw", learning_rate=2e-2),
        train=Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, spike_factor=1.5),
        checkpoints=Checkpoints(every=2, keep_last=3),
    )
    run = pretrain(settings).run
    skips = json.loads((run / "decided.json").read_text())["skips"]
    assert skips
    notes = [item["text"] for item in MessageReader(run / "attempts" / "1").new() if item["kind"] == "spike"]
    told = [note for note in notes if "batches are left out" in note]
    assert len(told) == len(skips) and f"back to step {skips[0][0]}, {skips[0][1]} batches" in told[0]
    stream = open_stream(
        corpus, "train", kind="direct", seed=1234, first_step=0, steps=2 * STEPS,
        batch_rows=GLOBAL_ROWS, rank=0, world_size=1,
    )  # fmt: skip
    digests = [digest(rows) for rows in stream]
    assert batches(run) == [(step + 1, digests[batch_index(step, skips)]) for step in range(STEPS)]
    found = losses(run)
    assert all(loss <= 1.5 * np.median(found[max(0, i - 50) : i]) for i, loss in enumerate(found) if i >= 10)
    # Stopped and continued, it leaves out the same and ends alike.
    parts = replace(settings, name="parts")
    for stop_after in (skips[0][0] + 1, None):
        result = pretrain(replace(parts, train=replace(settings.train, stop_after=stop_after)))
    assert_same_end(result.run, run)


def test_a_loss_that_is_not_finite_sends_a_run_back(corpus: Path, tmp_path: Path) -> None:
    """A rate that makes every step overflow: going back cannot help, and says so."""
    settings = run_settings(
        corpus,
        tmp_path,
        "overflow",
        optimizer=Optimizer(kind="adamw", learning_rate=1e30),
        train=Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, on_nonfinite="rollback"),
    )
    with pytest.raises(
        CodexRayError, match=r"was not finite at step \d+, and the run has gone back 10 times"
    ):
        pretrain(settings)


def test_a_run_that_only_goes_back_ends_in_one_sentence(corpus: Path, tmp_path: Path) -> None:
    """Half the usual loss counts as a jump here, which the command line refuses: every one does."""
    settings = run_settings(
        corpus,
        tmp_path,
        "hopeless",
        train=Training(steps=STEPS, batch_tokens=GLOBAL_ROWS * LENGTH, spike_factor=0.5),
        checkpoints=Checkpoints(every=2, keep_last=3),
    )
    with pytest.raises(CodexRayError, match=r"has gone back 10 times already; look at the data and"):
        pretrain(settings)
