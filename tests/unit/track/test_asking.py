"""Each recorded error comes with what may help and a question, and without secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codex_ray.errors import CodexRayError
from codex_ray.track.asking import remedy_of
from codex_ray.track.run_folder import RunFolder


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (CodexRayError("shard 3 is truncated; prepare the corpus again"), "prepare the corpus again"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "lower train.micro_batch_rows"),
        (OSError(28, "No space left on device"), "free some space"),
        (RuntimeError("[gloo] Connection closed by peer [10.0.0.2]"), "codex-ray doctor"),
        (ModuleNotFoundError("No module named 'mine'"), "equal packages"),
        (ZeroDivisionError("division by zero"), "look at the traceback"),
    ],
)
def test_a_remedy_is_named(error: BaseException, remedy: str) -> None:
    assert remedy in remedy_of(error)


def test_a_record_holds_a_question_and_no_secret(tmp_path: Path) -> None:
    token = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0bC3d"
    with RunFolder.open(tmp_path, "first", "pretrain") as run:
        try:
            raise RuntimeError(f"401 for https://me:hunter2@host/x?token={token} with {token}")
        except RuntimeError as error:
            run.record_error("worker", 1, 7, "forward", error)
        (line,) = run.errors.read_text().splitlines()
        record = json.loads(line)
        for text in (line, run.first_error.read_text()):
            assert token not in text and "hunter2" not in text
    assert record["message"].startswith("401 for https://***@host/x?token=")
    question = record["question"]
    assert "failed (role worker, rank 1, step 7, phase forward)" in question
    assert record["remedy"] in question and "RuntimeError: 401" in question and "torch " in question
