"""What the records keep of a trial that failed, from the text that Ray Tune writes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from codex_ray.config.sweep import Searching
from codex_ray.track.progress import open_progress
from codex_ray.tune.records import Records
from codex_ray.tune.watch import Watch

OURS = """Failure # 1 (occurred at 2026-11-29_03-18-10)
ray::TrialRun.train() (pid=5, ip=192.0.2.2, actor_id=1, repr=<codex_ray.tune.trial.TrialRun object at 0x7f>)
  File "codex_ray/tune/trial.py", line 140, in _closing
    raise CodexRayError(reason) from self._error
codex_ray.errors.CodexRayError: train.batch_tokens=100 cannot be divided; give 96 or 128
"""
NEVER = """ray::TrialRun.train() (pid=5, ip=192.0.2.2)
codex_ray.errors.CodexRayError: the run ended and never measured validation_los, which sweep.metrics names
"""
THEIRS = """Failure # 1 (occurred at 2026-11-29_03-18-10)
The actor died unexpectedly before finishing this task.
"""


@dataclass
class Failed:
    """What is asked of a trial of Ray Tune's."""

    error_file: str
    config: dict[str, Any] = field(default_factory=lambda: {"trial": {"number": 0, "values": {"seed": 1}}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (OURS, "train.batch_tokens=100 cannot be divided; give 96 or 128"),
        (THEIRS, "The actor died unexpectedly before finishing this task."),
    ],
)
def test_the_reason_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "error.txt").write_text(text)
    records = Records(tmp_path, Searching(space={"seed": [1, 2]}))
    with open_progress(None, "off") as shown:
        watch, trial = (
            Watch(records, Searching(space={"seed": [1, 2]}), shown),
            Failed(f"{tmp_path}/error.txt"),
        )
        watch.on_trial_start(0, [], trial)
        watch.on_trial_error(0, [], trial)
    (found,) = list(Records(tmp_path, Searching(space={"seed": [1, 2]})))
    assert (found.state, found.reason) == ("failed", reason)


@pytest.mark.parametrize("measured", [False, True])
def test_what_no_trial_ever_measures_ends_the_sweep(tmp_path: Path, measured: bool) -> None:
    (tmp_path / "error.txt").write_text(NEVER)
    search = Searching(space={"seed": [1, 2]})
    records = Records(tmp_path, search)
    if measured:
        records.begin(1, {"seed": 2})
        records.result(1, {"step": 1, "tokens": 1, "validation_loss": 1.0})
    with open_progress(None, "off") as shown:
        watch, trial = Watch(records, search, shown), Failed(f"{tmp_path}/error.txt")
        watch.on_trial_start(0, [], trial)
        watch.on_trial_error(0, [], trial)
    assert watch.over == (not measured)
